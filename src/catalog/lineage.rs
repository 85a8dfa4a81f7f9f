//! Who reads whom: tags, features, dimensions, streams.
//!
//! In: a checked catalogue. Out: what an item reads directly, and the graph of all that it stands on
//! or that stands on it. Invariant: the graph has no circles, because the catalogue has none.

use std::collections::HashMap;

use super::fields::listed;
use super::model::{Catalog, DimensionKey, TypedExpr};
use crate::rule::sql::nearest;

/// Something that reads or is read, by its index in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// A stream.
    Stream(usize),
    /// A feature.
    Feature(usize),
    /// A dimension.
    Dimension(usize),
    /// A tag.
    Tag(usize),
}

/// One item reads another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What is read.
    pub item: Item,
    /// Of a dimension: which of its columns.
    pub columns: Vec<String>,
}

/// All items that one stands on (or that stand on one), and who reads whom among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The one asked for comes first.
    pub items: Vec<Item>,
    /// (reader, read): indices into `items`.
    pub edges: Vec<(usize, usize)>,
}

/// The names of a catalogue, ready to be followed.
#[derive(Debug)]
pub struct Lineage<'a> {
    catalog: &'a Catalog,
    /// Features, tags, and dimensions by the names of their columns.
    names: HashMap<&'a str, Item>,
}

impl<'a> Lineage<'a> {
    /// Indexes a catalogue.
    pub fn new(catalog: &'a Catalog) -> Self {
        let mut names = HashMap::new();
        for (at, feature) in catalog.features.iter().enumerate() {
            names.insert(feature.name.as_str(), Item::Feature(at));
        }
        for (at, dimension) in catalog.dimensions.iter().enumerate() {
            names.extend(dimension.columns.iter().map(|c| (c.name.as_str(), Item::Dimension(at))));
        }
        for (at, tag) in catalog.tags.iter().enumerate() {
            names.insert(tag.name.as_str(), Item::Tag(at));
        }
        Self { catalog, names }
    }

    /// What an expression's name stands for: a feature, a tag, or the dimension with this column.
    pub fn of_name(&self, name: &str) -> Option<Item> {
        self.names.get(name).copied()
    }

    /// What an item is called.
    pub fn name(&self, item: Item) -> &'a str {
        let catalog = self.catalog;
        match item {
            Item::Stream(at) => &catalog.streams[at].name,
            Item::Feature(at) => &catalog.features[at].name,
            Item::Dimension(at) => &catalog.dimensions[at].name,
            Item::Tag(at) => &catalog.tags[at].name,
        }
    }

    /// What an item reads directly, in the order of names.
    pub fn reads(&self, item: Item) -> Vec<Read> {
        let catalog = self.catalog;
        let plain = |item| vec![Read { item, columns: Vec::new() }];
        match item {
            Item::Stream(_) => Vec::new(),
            Item::Feature(at) => plain(Item::Stream(catalog.features[at].stream)),
            Item::Dimension(at) => match catalog.dimensions[at].key {
                DimensionKey::Uid => Vec::new(),
                DimensionKey::Feature(feature) => plain(Item::Feature(feature)),
                DimensionKey::Column { dimension, column } => {
                    let columns = vec![catalog.dimensions[dimension].columns[column].name.clone()];
                    vec![Read { item: Item::Dimension(dimension), columns }]
                }
            },
            Item::Tag(at) => self.names_read(&catalog.tags[at].expr),
        }
    }

    /// What an expression over features, dimension columns and tags reads, in the order of names.
    pub fn names_read(&self, expr: &TypedExpr) -> Vec<Read> {
        let mut reads: Vec<Read> = Vec::new();
        for name in &expr.columns {
            let Some(item) = self.of_name(name) else { continue };
            let known = reads.iter().position(|r| r.item == item);
            let at = known.unwrap_or_else(|| {
                reads.push(Read { item, columns: Vec::new() });
                reads.len() - 1
            });
            if matches!(item, Item::Dimension(_)) {
                reads[at].columns.push(name.clone());
            }
        }
        reads
    }

    /// All that an item stands on.
    pub fn upstream(&self, item: Item) -> Graph {
        let next = |item| self.reads(item).into_iter().map(|r| r.item).collect();
        walk(item, next)
    }

    /// All that stands on an item.
    pub fn downstream(&self, item: Item) -> Graph {
        let mut readers: HashMap<Item, Vec<Item>> = HashMap::new();
        for reader in self.all() {
            for read in self.reads(reader) {
                readers.entry(read.item).or_default().push(reader);
            }
        }
        let next = |item| readers.get(&item).cloned().unwrap_or_default();
        let Graph { items, edges } = walk(item, next);
        Graph { items, edges: edges.into_iter().map(|(read, reader)| (reader, read)).collect() }
    }

    /// Everything, in the order of the catalogue.
    fn all(&self) -> impl Iterator<Item = Item> + use<> {
        let catalog = self.catalog;
        let (streams, features) = (catalog.streams.len(), catalog.features.len());
        let (dimensions, tags) = (catalog.dimensions.len(), catalog.tags.len());
        (0..streams)
            .map(Item::Stream)
            .chain((0..features).map(Item::Feature))
            .chain((0..dimensions).map(Item::Dimension))
            .chain((0..tags).map(Item::Tag))
    }

    /// The item that a person means by `spend_30d`, `country_region`, or, where a stream or dimension
    /// is called like something else, `stream:NAME`.
    pub fn find(&self, text: &str) -> Result<Item, String> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (Some(kind), name),
            None => (None, text),
        };
        if let Some(unknown) = kind.filter(|k| !KINDS.contains(k)) {
            let kinds = listed(&KINDS);
            return Err(format!("`{unknown}:` is no kind of item; write one of {kinds}"));
        }
        let mut found: Vec<Item> = self
            .all()
            .filter(|i| self.name(*i) == name && kind.is_none_or(|k| k == i.kind()))
            .collect();
        if found.is_empty() && kind.is_none() {
            // A dimension's column is no item of its own.
            found.extend(self.of_name(name));
        }
        match found.as_slice() {
            [] => Err(self.unknown(kind, name)),
            [item] => Ok(*item),
            several => {
                let ways: Vec<String> =
                    several.iter().map(|i| format!("{}:{name}", i.kind())).collect();
                let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
                Err(format!("`{name}` is several things; write one of {}", listed(&ways)))
            }
        }
    }

    fn unknown(&self, kind: Option<&str>, name: &str) -> String {
        if let Some(tag) = self.catalog.tags.iter().find(|t| t.was.iter().any(|w| w == name)) {
            return format!("unknown `{name}`; it is now named `{}`", tag.name);
        }
        let alike = self.all().filter(|i| kind.is_none_or(|k| k == i.kind()));
        match nearest(name, alike.map(|i| self.name(i))) {
            Some(near) => format!("unknown `{name}`; did you mean `{near}`?"),
            None => format!("unknown `{name}`; `tagloom check --list` shows all names"),
        }
    }
}

const KINDS: [&str; 4] = ["stream", "feature", "dimension", "tag"];

impl Item {
    /// What it is, in a word.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Stream(_) => KINDS[0],
            Self::Feature(_) => KINDS[1],
            Self::Dimension(_) => KINDS[2],
            Self::Tag(_) => KINDS[3],
        }
    }
}

/// Everything that can be reached, with each step taken.
fn walk(from: Item, next: impl Fn(Item) -> Vec<Item>) -> Graph {
    let mut items = vec![from];
    let mut index = HashMap::from([(from, 0)]);
    let mut edges = Vec::new();
    let mut at = 0;
    while at < items.len() {
        for to in next(items[at]) {
            let known = *index.entry(to).or_insert_with(|| {
                items.push(to);
                items.len() - 1
            });
            edges.push((at, known));
        }
        at += 1;
    }
    Graph { items, edges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let files = [
            ("catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\n"),
            (
                "streams/s.yaml",
                "stream: buy\nfrom: {file: a.jsonl}\ncolumns: {sku: string, city: string, \
                 at: timestamp(ms), user: u64}\nuid: user\ntime: at\n",
            ),
            (
                "features/f.yaml",
                "feature: buys\nstream: buy\nvalue: count()\nwindow: 7d\n---\n\
                 feature: city\nstream: buy\nvalue: last(city)\nwindow: lifetime\n",
            ),
            (
                "dimensions/d.yaml",
                "dimension: city\nkey: city\ncolumns: {tier: int, region: string}\n---\n\
                 dimension: region\nkey: city_region\ncolumns: {rich: bool}\n",
            ),
            (
                "rules/r.yaml",
                "tag: busy\ndoc: d\nexpr: buys > 3\n---\n\
                 tag: best\ndoc: d\nwas: finest\nexpr: busy AND region_rich AND city_tier = 1\n",
            ),
        ];
        let files = files.map(|(p, t)| (p.to_owned(), t.to_owned())).to_vec();
        crate::catalog::load_from("tags", files).unwrap_or_else(|e| panic!("{e}")).catalog
    }

    fn check(upstream: bool, of: &str, expected: &[&str]) {
        let catalog = catalog();
        let lineage = Lineage::new(&catalog);
        let item = lineage.find(of).unwrap_or_else(|e| panic!("{e}"));
        let graph = if upstream { lineage.upstream(item) } else { lineage.downstream(item) };
        let name = |at: usize| {
            let item = graph.items[at];
            format!("{} {}", item.kind(), lineage.name(item))
        };
        let mut edges: Vec<String> =
            graph.edges.iter().map(|(a, b)| format!("{} <- {}", name(*a), name(*b))).collect();
        edges.sort_unstable();
        assert_eq!(edges, expected);
    }

    #[test]
    fn a_tag_stands_on_tags_features_dimensions_and_streams() {
        check(
            true,
            "best",
            &[
                "dimension city <- feature city",
                "dimension region <- dimension city",
                "feature buys <- stream buy",
                "feature city <- stream buy",
                "tag best <- dimension city",
                "tag best <- dimension region",
                "tag best <- tag busy",
                "tag busy <- feature buys",
            ],
        );
    }

    #[test]
    fn what_stands_on_a_column_stands_on_its_dimension() {
        let on_region = ["tag best <- dimension region"];
        check(false, "region_rich", &on_region);
        check(false, "region", &on_region);
        check(false, "buys", &["tag best <- tag busy", "tag busy <- feature buys"]);
        check(false, "best", &[]);
    }

    #[test]
    fn a_name_that_means_nothing_or_two_things_says_what_to_write() {
        let catalog = catalog();
        let lineage = Lineage::new(&catalog);
        let said = |text: &str| lineage.find(text).expect_err("no item");
        assert_eq!(
            said("city"),
            "`city` is several things; write one of `feature:city` and `dimension:city`"
        );
        assert_eq!(said("finest"), "unknown `finest`; it is now named `best`");
        assert_eq!(said("bussy"), "unknown `bussy`; did you mean `busy`?");
        assert_eq!(
            said("table:city"),
            "`table:` is no kind of item; write one of `stream`, `feature`, `dimension` and `tag`"
        );
        assert_eq!(lineage.find("dimension:city"), Ok(Item::Dimension(0)));
    }
}
