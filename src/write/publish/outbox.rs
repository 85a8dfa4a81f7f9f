//! What a user's profile says of its changes.
//!
//! In: a user's values as stored and as computed. Out: a few bytes of its profile, and from them the
//! changes with the names of tags and labels. A profile holds its values already, so its outbox holds
//! those before only; of a new user, that there were none.
//! Invariant: pure; nothing stands in a profile whose user never had a change published.

use serde::{Deserialize, Serialize};

use crate::engine::ruleset::{Ruleset, TagPlace};
use crate::user::snapshot::{SnapshotError, TagsOnly};
use crate::write::open::OpenValue;
use crate::write::profile::{StoredSchema, label_of};

/// Why tags changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Events of the user came, or history did.
    #[default]
    Event,
    /// Time went on.
    Time,
    /// A row of a dimension table changed.
    Dimension,
    /// Other rules became active.
    Rule,
}

/// Values of tags that others may see, before a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    /// None has changed.
    #[default]
    Same,
    /// The user is new: no tag had a value.
    Nothing,
    /// Of the tags that changed, by their places in the profile's schema, ascending.
    Values {
        /// Codes of closed tags.
        closed: Vec<(u16, u8)>,
        /// Values of open tags.
        open: Vec<(u16, Option<OpenValue>)>,
    },
}

/// What stands in a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// The user's last change: they are numbered from 1.
    pub version: u64,
    /// The window that wrote this; 0 when it changed nothing.
    pub window: u64,
    /// Why it changed something.
    pub cause: Cause,
    /// What stood there before.
    pub before: Before,
    /// Changes of windows before it that are not known to be published.
    pub earlier: Vec<Change>,
}

/// One change of one user, as it is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number among the user's changes.
    pub version: u64,
    /// The instant at which the new values are true, epoch ms.
    pub as_of_ms: i64,
    /// Why.
    pub cause: Cause,
    /// Tags with another value than before, in the catalogue's order.
    pub tags: Vec<TagChange>,
}

/// A tag that changed; no label: no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChange {
    /// Its name.
    pub tag: String,
    /// The label before.
    pub from: Option<String>,
    /// The label now.
    pub to: Option<String>,
}

/// What a resident user knows of its changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbered {
    /// The number of the last one.
    pub version: u64,
    /// Those that are not known to be published.
    pub owed: Vec<Change>,
}

impl Numbered {
    /// Memory that it takes, about.
    pub fn heap_bytes(&self) -> usize {
        let tag = |t: &TagChange| {
            let label = |label: &Option<String>| label.as_ref().map_or(0, String::len);
            size_of::<TagChange>() + t.tag.len() + label(&t.from) + label(&t.to)
        };
        let tags = self.owed.iter().flat_map(|change| &change.tags).map(tag).sum::<usize>();
        size_of::<Self>() + self.owed.len() * size_of::<Change>() + tags
    }
}

impl Outbox {
    /// What stands in a profile ([`TagsOnly::applied`]), if anything does.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, SnapshotError> {
        match bytes {
            [] => Ok(None),
            bytes => Ok(Some(postcard::from_bytes(bytes)?)),
        }
    }

    /// As it stands in a profile.
    pub fn encode(&self, out: &mut Vec<u8>) {
        *out = postcard::to_extend(self, std::mem::take(out))
            .expect("plain data into a growing buffer always fits");
    }
}

impl Before {
    /// Whether nothing changed.
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }

    fn code(&self, at: usize) -> Option<u8> {
        match self {
            Self::Same => None,
            Self::Nothing => Some(0),
            Self::Values { closed, .. } => find(closed, at).copied(),
        }
    }

    fn open(&self, at: usize) -> Option<Option<&OpenValue>> {
        match self {
            Self::Same => None,
            Self::Nothing => Some(None),
            Self::Values { open, .. } => find(open, at).map(Option::as_ref),
        }
    }
}

fn find<T>(places: &[(u16, T)], at: usize) -> Option<&T> {
    let found = places.binary_search_by_key(&at, |(place, _)| usize::from(*place));
    found.ok().map(|found| &places[found].1)
}

/// The changes that a profile carries, oldest first. Tags that are in the shadow now, or gone, are
/// left out.
pub fn changes(
    tags: &TagsOnly<'_>,
    outbox: Outbox,
    schema: &StoredSchema,
    ruleset: &Ruleset,
) -> Vec<Change> {
    let Outbox { version, cause, before, earlier, .. } = outbox;
    let mut changes = earlier;
    if before.is_same() {
        return changes;
    }
    let (codes, open) = (schema.codes(tags), schema.open_values(tags));
    let catalog = &ruleset.catalog;
    let changed = ruleset.published.iter().filter_map(|published| {
        let tag = &catalog.tags[published.tag];
        let label = |code: u8| label_of(&tag.domain, code).map(str::to_owned);
        let (from, to) = match published.place {
            TagPlace::Closed(at) => {
                let from = schema.closed_place(at).and_then(|stored| before.code(stored))?;
                (label(from), label(codes.get(at).copied().unwrap_or(0)))
            }
            TagPlace::Open(at) => {
                let from = schema.open_place(at).and_then(|stored| before.open(stored))?;
                let now = open.get(at).and_then(Option::as_ref);
                (from.map(OpenValue::label), now.map(OpenValue::label))
            }
        };
        (from != to).then(|| TagChange { tag: tag.name.clone(), from, to })
    });
    let tags_changed = changed.collect();
    let as_of_ms = tags.head.as_of_ms;
    changes.push(Change { version, as_of_ms, cause, tags: tags_changed });
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_comes_back_and_knows_what_was_before() {
        let open = vec![(1, None), (4, Some(OpenValue::Int(7)))];
        let before = Before::Values { closed: vec![(2, 1), (9, 0)], open };
        assert_eq!((before.code(2), before.code(9), before.code(3)), (Some(1), Some(0), None));
        assert_eq!(before.open(1), Some(None));
        assert_eq!(before.open(4), Some(Some(&OpenValue::Int(7))));
        assert_eq!(before.open(0), None);
        assert_eq!((Before::Nothing.code(5), Before::Nothing.open(5)), (Some(0), Some(None)));
        let tag = TagChange { tag: "t".to_owned(), from: None, to: Some("y".to_owned()) };
        let change = Change { version: 2, as_of_ms: 5, cause: Cause::Rule, tags: vec![tag] };
        let outbox = Outbox {
            version: 3,
            window: 1 << 40,
            cause: Cause::Time,
            before,
            earlier: vec![change],
        };
        let mut bytes = Vec::new();
        outbox.encode(&mut bytes);
        assert_eq!(postcard::from_bytes(&bytes), Ok(outbox));
        let mut quiet = Vec::new();
        Outbox { version: 3, ..Outbox::default() }.encode(&mut quiet);
        assert!(quiet.len() <= 5, "{} bytes for a user without changes", quiet.len());
    }
}
