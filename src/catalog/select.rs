//! A part of a catalogue: `--select owner:growth`, `group:value`, `+tag`, `tag`, `spend_*`.
//!
//! In: terms as people write them, and the catalogue. Out: which tags are meant, and all that they
//! depend on. Terms separated by commas must all hold; of several `--select` one must.
//! Invariant: a term that selects nothing is an error with a suggestion.

use std::collections::BTreeSet;

use super::lineage::{Item, Lineage};
use super::model::Catalog;

/// How `--select` is written, for the help of commands that take it.
pub const SELECT_HELP: &str = "Only these tags: owner:NAME, group:NAME, TAG, PREFIX*, or +TAG with \
     the tags it reads; `a,b` means both hold, a second --select adds";

/// Tags of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    tags: BTreeSet<usize>,
    everything: bool,
}

/// What tags depend on, by index in the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The tags themselves, and those they read.
    pub tags: BTreeSet<usize>,
    /// Features, those that dimensions are looked up by included.
    pub features: BTreeSet<usize>,
    /// Dimensions.
    pub dimensions: BTreeSet<usize>,
    /// Streams of the features.
    pub streams: BTreeSet<usize>,
}

/// A term that selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--select {term}: {reason}")]
pub struct SelectError {
    /// As written.
    pub term: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Selection {
    /// All tags.
    pub fn all(catalog: &Catalog) -> Self {
        Self { tags: (0..catalog.tags.len()).collect(), everything: true }
    }

    /// The tags that `terms` mean; all of them when there are no terms.
    pub fn parse(terms: &[String], catalog: &Catalog) -> Result<Self, SelectError> {
        if terms.is_empty() {
            return Ok(Self::all(catalog));
        }
        let mut tags = BTreeSet::new();
        for term in terms {
            let mut both: Option<BTreeSet<usize>> = None;
            for part in term.split(',').map(str::trim) {
                let found = one(part, catalog)?;
                both = Some(match both {
                    Some(have) => have.intersection(&found).copied().collect(),
                    None => found,
                });
            }
            let both = both.unwrap_or_default();
            if both.is_empty() {
                let reason = "no tag is all of these; give --select twice for either".to_owned();
                return Err(SelectError { term: term.clone(), reason });
            }
            tags.extend(both);
        }
        Ok(Self { tags, everything: false })
    }

    /// Without shadow tags. An error when nothing else was asked for.
    pub fn published(mut self, catalog: &Catalog) -> Result<Self, String> {
        let shadow = self.tags.extract_if(.., |at| catalog.tags[*at].terms.shadow).last();
        match shadow {
            Some(at) if self.tags.is_empty() => Err(format!(
                "`{}` is a shadow tag: it is not published (`tagloom get --shadow` shows it)",
                catalog.tags[at].name
            )),
            _ => Ok(self),
        }
    }

    /// Whether a tag (by catalogue index) is meant.
    pub fn contains(&self, tag: usize) -> bool {
        self.tags.contains(&tag)
    }

    /// Whether nothing was left out by asking for a part.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// The tags, in catalogue order.
    pub fn tags(&self) -> impl Iterator<Item = usize> + '_ {
        self.tags.iter().copied()
    }

    /// How many tags are meant.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether no tag is meant (a catalogue without tags).
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// All that the tags depend on. Of everything it is everything, used or not.
    pub fn reach(&self, catalog: &Catalog) -> Reach {
        if self.everything {
            return Reach {
                tags: self.tags.clone(),
                features: (0..catalog.features.len()).collect(),
                dimensions: (0..catalog.dimensions.len()).collect(),
                streams: (0..catalog.streams.len()).collect(),
            };
        }
        reach(self.tags.iter().copied(), catalog)
    }
}

/// What tags depend on, directly or through other tags and dimensions' keys.
pub fn reach(tags: impl IntoIterator<Item = usize>, catalog: &Catalog) -> Reach {
    reach_of(tags.into_iter().map(Item::Tag).collect(), &Lineage::new(catalog))
}

/// What decides whether an account is closed depends on, directly or through tags.
pub fn reach_of_closed(catalog: &Catalog) -> Reach {
    let lineage = Lineage::new(catalog);
    let reads = catalog.closed.as_ref().map(|expr| lineage.names_read(expr)).unwrap_or_default();
    reach_of(reads.into_iter().map(|read| read.item).collect(), &lineage)
}

fn reach_of(mut waiting: Vec<Item>, lineage: &Lineage<'_>) -> Reach {
    let mut found = Reach::default();
    while let Some(item) = waiting.pop() {
        let new = match item {
            Item::Stream(at) => found.streams.insert(at),
            Item::Feature(at) => found.features.insert(at),
            Item::Dimension(at) => found.dimensions.insert(at),
            Item::Tag(at) => found.tags.insert(at),
        };
        if new {
            waiting.extend(lineage.reads(item).into_iter().map(|read| read.item));
        }
    }
    found
}

/// The dimension that has a column of this name.
pub fn dimension_of(column: &str, catalog: &Catalog) -> Option<usize> {
    catalog.dimensions.iter().position(|d| d.columns.iter().any(|c| c.name == column))
}

/// The tag of this name, or an error that suggests one.
pub fn tag_of(name: &str, catalog: &Catalog) -> Result<usize, String> {
    let names = || catalog.tags.iter().map(|t| t.name.as_str());
    if let Some(at) = names().position(|n| n == name) {
        return Ok(at);
    }
    if let Some(tag) = catalog.tags.iter().find(|t| t.was.iter().any(|w| w == name)) {
        return Err(format!("unknown tag `{name}`; it is now named `{}`", tag.name));
    }
    let remedy = match crate::rule::sql::nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`tagloom check --list` shows all tags".to_owned(),
    };
    Err(format!("unknown tag `{name}`; {remedy}"))
}

fn one(term: &str, catalog: &Catalog) -> Result<BTreeSet<usize>, SelectError> {
    let fail = |reason: String| SelectError { term: term.to_owned(), reason };
    if let Some((key, value)) = term.split_once(':') {
        let of: fn(&super::model::Tag) -> &str = match key {
            "owner" => |t| &t.owner,
            "group" => |t| &t.group,
            _ => {
                return Err(fail(format!(
                    "`{key}:` is nothing to select by; use owner: or group:"
                )));
            }
        };
        let matching = |at: &usize| of(&catalog.tags[*at]) == value;
        let found: BTreeSet<usize> = (0..catalog.tags.len()).filter(matching).collect();
        if found.is_empty() {
            let known: BTreeSet<&str> = catalog.tags.iter().map(of).collect();
            let near = crate::rule::sql::nearest(value, known.iter().copied());
            return Err(fail(match near {
                Some(near) => format!("no tag has this {key}; did you mean `{key}:{near}`?"),
                None => {
                    let known: Vec<&str> = known.into_iter().collect();
                    format!("no tag has this {key}; there are {}", super::fields::listed(&known))
                }
            }));
        }
        return Ok(found);
    }
    if let Some(name) = term.strip_prefix('+') {
        let tag = tag_of(name, catalog).map_err(fail)?;
        return Ok(reach([tag], catalog).tags);
    }
    if let Some(prefix) = term.strip_suffix('*') {
        let matching = |at: &usize| catalog.tags[*at].name.starts_with(prefix);
        let found: BTreeSet<usize> = (0..catalog.tags.len()).filter(matching).collect();
        if found.is_empty() {
            return Err(fail(format!("no tag's name begins with `{prefix}`")));
        }
        return Ok(found);
    }
    Ok(BTreeSet::from([tag_of(term, catalog).map_err(fail)?]))
}
