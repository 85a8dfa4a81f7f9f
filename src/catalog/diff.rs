//! What a change of rules means: which tags are other ones, new, gone, renamed.
//!
//! In: two catalogues. Out: the tags that differ, and why.
//! Invariant: a change that does not change what is computed is no change.

use super::lineage::{Item, Lineage};
use super::meaning::{Meaning, rule};
use super::model::{Catalog, TypedExpr};
use super::terms::Terms;

/// A tag that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The new catalogue has it.
    Added {
        /// Its index there.
        new: usize,
        /// A tag that is gone and meant the same: it may have been renamed without `was`.
        like: Option<usize>,
    },
    /// The old catalogue had it.
    Removed {
        /// Its index there.
        old: usize,
    },
    /// Both have it.
    Kept {
        /// Its index in the old catalogue.
        old: usize,
        /// And in the new one.
        new: usize,
        /// Its value is computed otherwise.
        meaning: Option<Because>,
        /// What else is said of it now, or is no longer.
        terms: Vec<String>,
    },
}

/// Why a tag means something else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Because {
    /// Its own rule is another one, or it has values at other times.
    pub rule: bool,
    /// What it reads is another one: names of tags, features and dimensions.
    pub through: Vec<String>,
}

impl Change {
    /// The tag's index in the new catalogue; none: it is gone.
    pub fn in_new(&self) -> Option<usize> {
        match self {
            Self::Added { new, .. } | Self::Kept { new, .. } => Some(*new),
            Self::Removed { .. } => None,
        }
    }
}

/// The tags that differ, in the order of the new catalogue; those that are gone come last.
pub fn changes(old: &Catalog, new: &Catalog) -> Vec<Change> {
    let compared = Compared::of(old, new);
    let former: Vec<Option<usize>> = (0..new.tags.len()).map(|at| compared.former(at)).collect();
    let gone: Vec<usize> = (0..old.tags.len()).filter(|at| !former.contains(&Some(*at))).collect();
    let mut changes = Vec::new();
    for (at, former) in former.iter().enumerate() {
        match former {
            Some(old) => changes.extend(compared.kept(*old, at)),
            None => {
                let means = |old: &&usize| compared.old.1.tags[**old] == compared.new.1.tags[at];
                let like = gone.iter().find(means).copied();
                changes.push(Change::Added { new: at, like });
            }
        }
    }
    changes.extend(gone.into_iter().map(|old| Change::Removed { old }));
    changes
}

/// Why accounts are closed on another condition; none: they are not. A catalogue without condition
/// closes none.
pub fn closed(old: &Catalog, new: &Catalog) -> Option<Because> {
    let compared = Compared::of(old, new);
    (compared.old.1.closed != compared.new.1.closed).then(|| Because {
        rule: old.closed.as_ref().map(rule) != new.closed.as_ref().map(rule),
        through: new.closed.as_ref().map(|expr| compared.through(expr)).unwrap_or_default(),
    })
}

/// A catalogue, what it means, and who reads whom.
type Side<'a> = (&'a Catalog, Meaning, Lineage<'a>);

struct Compared<'a> {
    old: Side<'a>,
    new: Side<'a>,
}

impl<'a> Compared<'a> {
    fn of(old: &'a Catalog, new: &'a Catalog) -> Self {
        let side = |catalog| (catalog, Meaning::of(catalog), Lineage::new(catalog));
        Self { old: side(old), new: side(new) }
    }

    /// What a tag of the new catalogue was in the old one.
    fn former(&self, new: usize) -> Option<usize> {
        let (tag, old) = (&self.new.0.tags[new], &self.old.0.tags);
        let named = |name: &str| old.iter().position(|t| t.name == name);
        named(&tag.name).or_else(|| tag.was.iter().find_map(|was| named(was)))
    }

    fn kept(&self, old: usize, new: usize) -> Option<Change> {
        let (was, is) = (&self.old.0.tags[old], &self.new.0.tags[new]);
        let meaning = (self.old.1.tags[old] != self.new.1.tags[new]).then(|| Because {
            rule: rule(&was.expr) != rule(&is.expr) || was.terms.valid != is.terms.valid,
            through: self.through(&is.expr),
        });
        let terms = terms(&was.terms, &is.terms);
        let same = meaning.is_none() && terms.is_empty() && was.name == is.name;
        (!same).then_some(Change::Kept { old, new, meaning, terms })
    }

    /// What an expression of the new catalogue reads under a name that means something else than
    /// before.
    fn through(&self, expr: &TypedExpr) -> Vec<String> {
        let reads = self.new.2.names_read(expr).into_iter();
        let differs = |item: Item| {
            let before = self.old.2.of_name(self.new.2.name(item));
            match (item, before) {
                (Item::Tag(at), Some(Item::Tag(of))) => self.new.1.tags[at] != self.old.1.tags[of],
                (Item::Feature(at), Some(Item::Feature(of))) => {
                    self.new.1.features[at] != self.old.1.features[of]
                }
                (Item::Dimension(at), _) => {
                    let name = self.new.2.name(item);
                    let of = self.old.0.dimensions.iter().position(|d| d.name == name);
                    of.is_none_or(|of| self.new.1.columns[at] != self.old.1.columns[of])
                }
                _ => false,
            }
        };
        let items = reads.map(|read| read.item).filter(|item| differs(*item));
        items.map(|item| self.new.2.name(item).to_owned()).collect()
    }
}

/// What is said otherwise of a tag whose value may be the same.
fn terms(old: &Terms, new: &Terms) -> Vec<String> {
    let mut said = Vec::new();
    match (old.shadow, new.shadow) {
        (true, false) => said.push("published from now on (was a shadow tag)".to_owned()),
        (false, true) => said.push("no longer published (a shadow tag now)".to_owned()),
        _ => {}
    }
    match (&old.deprecated, &new.deprecated) {
        (None, Some(instead)) if instead.is_empty() => said.push("deprecated now".to_owned()),
        (None, Some(instead)) => said.push(format!("deprecated now: {instead}")),
        (Some(_), None) => said.push("no longer deprecated".to_owned()),
        _ => {}
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "stream: buy\nfrom: {file: a.jsonl}\ncolumns: {sku: string, price: int, \
         at: timestamp(ms), user: u64}\nderive: {dear: price > 100}\nwhere: price > 0\nuid: user\n\
         time: at\n";
    const FEATURES: &str = "feature: buys\nstream: buy\nvalue: count()\nwindow: 7d\n---\nfeature: \
         dear\nstream: buy\nvalue: count()\nwhere: dear\nwindow: 7d\n";
    const RULES: &str = "tag: busy\nexpr: buys > 3\n---\ntag: rich\nexpr: dear > 1 AND busy\n---\n\
         tag: level\nbands: {of: buys, cuts: [2], labels: [low, high]}\n";

    fn catalog(edits: &[(&str, &str)]) -> Catalog {
        let put = |text: &str| edits.iter().fold(text.to_owned(), |t, (a, b)| t.replace(a, b));
        let files = [
            ("catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\nparams: {many: 3}\n".to_owned()),
            ("streams/s.yaml", put(STREAM)),
            ("features/f.yaml", put(FEATURES)),
            ("rules/r.yaml", put(RULES)),
        ];
        let files = files.map(|(p, t)| (p.to_owned(), t)).to_vec();
        crate::catalog::load_from("tags", files).unwrap_or_else(|e| panic!("{e}")).catalog
    }

    /// What comes of edits, a line a tag.
    fn check(edits: &[(&str, &str)], expected: &[&str]) {
        let (old, new) = (catalog(&[]), catalog(edits));
        let line = |change: &Change| match change {
            Change::Added { new: at, like } => {
                let like = like.map(|l| format!(" like {}", old.tags[l].name)).unwrap_or_default();
                format!("+ {}{like}", new.tags[*at].name)
            }
            Change::Removed { old: at } => format!("- {}", old.tags[*at].name),
            Change::Kept { old: was, new: at, meaning, terms } => {
                let (was, is) = (&old.tags[*was].name, &new.tags[*at].name);
                let name = if was == is { is.clone() } else { format!("{was} -> {is}") };
                let because = meaning.as_ref().map(|m| {
                    let rule = if m.rule { " rule" } else { "" };
                    format!(" ={rule} [{}]", m.through.join(" "))
                });
                format!("{name}{}{}", because.unwrap_or_default(), terms.join(", "))
            }
        };
        let found: Vec<String> = changes(&old, &new).iter().map(line).collect();
        assert_eq!(found, expected, "{edits:?}");
    }

    #[test]
    fn what_is_written_otherwise_and_means_the_same_is_no_change() {
        check(&[], &[]);
        check(
            &[("expr: buys > 3", "expr: |\n  buys   >\n  3"), ("value: count()", "value: COUNT()")],
            &[],
        );
        check(&[("expr: buys > 3", "doc: Busy.\nowner: o\nexpr: buys > $many")], &[]);
        check(&[("buys", "purchases"), ("dear", "costly")], &[]);
        let case =
            "expr: CASE WHEN buys IS NULL THEN NULL WHEN buys < 2 THEN 'low' ELSE 'high' END";
        check(&[("bands: {of: buys, cuts: [2], labels: [low, high]}", case)], &[]);
    }

    #[test]
    fn a_change_is_seen_in_all_that_read_it() {
        check(&[("buys > 3", "buys > 4")], &["busy = rule []", "rich = [busy]"]);
        check(&[("price > 100", "price > 90")], &["rich = [dear]"]);
        let all = ["busy = [buys]", "rich = [dear busy]", "level = [buys]"];
        check(
            &[("price > 0", "price > 1")],
            &all.map(|l| l.replace("dear busy", "busy dear")).each_ref().map(String::as_str),
        );
        let table = "mode: changelog\nprimary_key: sku\nversion: price\n\
             operation: {column: op, insert: [c], delete: [d]}\ncolumns: {op: string, ";
        check(&[("columns: {", table)], &["busy = [buys]", "rich = [busy dear]", "level = [buys]"]);
        check(
            &[("expr: buys > 3", "expr: buys > 3\nvalid_until: 2026-01-01")],
            &["busy = rule []", "rich = [busy]"],
        );
    }

    #[test]
    fn tags_come_go_and_are_renamed() {
        check(
            &[("tag: busy", "tag: keen\nwas: busy"), ("AND busy", "AND keen")],
            &["busy -> keen"],
        );
        check(&[("tag: level", "tag: step")], &["+ step like level", "- level"]);
        check(
            &[("tag: level", "tag: level\nshadow: true")],
            &["levelno longer published (a shadow tag now)"],
        );
    }
}
