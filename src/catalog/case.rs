//! `cases` of tags: events in, labels out, under a virtual clock.
//!
//! In: the `cases` of each tag and the whole catalogue. Out: [`Case`]s with absolute times, typed
//! values and resolved indices.
//! Invariant: a row lacks no required column that a tested tag depends on; other columns may be
//! missing even where the stream requires them.
//!
//! Values of rows are JSON by the column's type: `u64`, `int` and `float` are numbers; `decimal`,
//! `string` and `date` are texts; `bool` is a bool; every timestamp is a number, epoch
//! milliseconds, whatever the stream's format is.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use jiff::Zoned;
use serde_json::{Map, Value as Json};

use super::case_time;
use super::expression::words;
use super::fields::{Fields, list_of, listed, map_of, suggest};
use super::model::{
    Case, Catalog, Column, ColumnType, DimensionKey, Domain, OperationKind, Stream, UidType,
};
use super::place::{Diagnostics, Place};
use super::report::Reports;
use super::scalar;
use super::settings::check;
use super::tag::Draft;
use super::yaml::{Node, Text, Value};

/// Reads the cases of all tags; `drafts` and the catalogue's tags stand in the same order.
pub(super) fn read_all(
    drafts: &[Draft<'_>],
    catalog: &Catalog,
    reports: &mut Reports,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (tag, draft) in drafts.iter().enumerate() {
        for node in draft.cases {
            let case =
                reports.on(&draft.origin, |out| Reader { catalog, draft, out }.case(tag, node));
            cases.extend(case);
        }
    }
    cases
}

struct Reader<'a, 'd> {
    catalog: &'a Catalog,
    draft: &'a Draft<'d>,
    out: &'a mut Diagnostics,
}

type Row = Map<String, Json>;
type Expect = Vec<(usize, Option<String>)>;

impl Reader<'_, '_> {
    fn case(mut self, tag: usize, node: &Node) -> Option<Case> {
        let mut fields = Fields::open(node, "a case", self.out)?;
        fields.take("doc");
        let zone = &self.catalog.zone;
        let as_of = match fields.text("as_of", self.out) {
            Some(text) => {
                let written = self.put(text);
                check(case_time::absolute(&written, zone), text.place, self.out)?
            }
            None => case_time::default_as_of(zone),
        };
        let given = fields.take("given");
        let tables = fields.take("dimensions");
        let expect = fields.take("expect");
        let after = fields.take("after");
        if expect.is_none() && after.is_none() {
            let remedy = format!("add `expect: {{{}: ...}}`", self.draft.name);
            self.out.error(fields.place, "a case that expects nothing", remedy);
        }
        fields.finish(self.out);
        let expect = expect.map(|node| self.expect(node, "expect")).unwrap_or_default();
        let after = after.map(|node| self.after(node, &as_of)).unwrap_or_default();
        let tested: BTreeSet<usize> =
            expect.iter().chain(after.iter().flat_map(|(_, e)| e)).map(|(t, _)| *t).collect();
        let given = given.map(|node| self.given(node, &as_of, &tested)).unwrap_or_default();
        let dimensions = tables.map(|node| self.tables(node, &as_of)).unwrap_or_default();
        let as_of_ms = as_of.timestamp().as_millisecond();
        Some(Case { tag, as_of_ms, given, dimensions, expect, after, place: node.place })
    }

    /// A text with the matrix put in.
    fn put(&mut self, text: &Text) -> String {
        self.draft.binding.string(text, self.out)
    }

    fn expect(&mut self, node: &Node, what: &str) -> Expect {
        let mut expect = Vec::new();
        for (name, value) in map_of(node, what, self.out).unwrap_or(&[]) {
            let full = self.put(name);
            let tags = &self.catalog.tags;
            let Some(tag) = tags.iter().position(|t| t.name == full) else {
                let remedy = suggest(&full, tags.iter().map(|t| t.name.as_str()), "tags");
                self.out.error(name.place, format!("unknown tag `{full}`"), remedy);
                continue;
            };
            if let (Value::List(items), Domain::Open(DataType::List(of))) =
                (&value.value, &tags[tag].domain)
            {
                let list = self.list(items, of.data_type(), &full, value.place);
                expect.extend(list.map(|list| (tag, Some(list))));
                continue;
            }
            let Value::Text(text) = &value.value else {
                let message = format!("the value of `{full}` must be a text");
                self.out.error(value.place, message, "write a label, true, false or null");
                continue;
            };
            if text.is_null() {
                expect.push((tag, None));
                continue;
            }
            let wanted = self.put(text);
            if self.possible(tag, &wanted, text.place) {
                expect.push((tag, Some(wanted)));
            }
        }
        expect
    }

    /// A list's label: its values as JSON.
    fn list(&mut self, items: &[Node], of: &DataType, tag: &str, place: Place) -> Option<String> {
        let quoted = !matches!(of, DataType::Boolean) && !of.is_numeric();
        let mut values = Vec::new();
        for item in items {
            let Value::Text(text) = &item.value else {
                let message = format!("the values of `{tag}` must be texts");
                self.out.error(place, message, "write a list of values, like [a, b]");
                return None;
            };
            let value = self.put(text);
            if text.is_null() {
                values.push("null".to_owned());
            } else if !fits(of, &value) {
                let message = format!("`{tag}` never has the value `{value}`");
                let remedy = format!("it lists values of which each is {}", words(of));
                self.out.error(text.place, message, remedy);
                return None;
            } else {
                values.push(if quoted { Json::String(value).to_string() } else { value });
            }
        }
        Some(format!("[{}]", values.join(",")))
    }

    /// Whether a tag can have this value.
    fn possible(&mut self, tag: usize, wanted: &str, place: Place) -> bool {
        let Some(tag) = self.catalog.tags.get(tag) else { return false };
        let remedy = match &tag.domain {
            Domain::Closed { labels, .. } => {
                if labels.iter().any(|l| l == wanted) {
                    return true;
                }
                suggest(wanted, labels.iter().map(String::as_str), "its values")
            }
            Domain::Open(t) => {
                if fits(t, wanted) {
                    return true;
                }
                match t {
                    DataType::List(_) => "it gives a list: write `[a, b]`".to_owned(),
                    t => format!("it gives {}", words(t)),
                }
            }
        };
        let message = format!("`{}` never has the value `{wanted}`", tag.name);
        self.out.error(place, message, remedy);
        false
    }

    fn after(&mut self, node: &Node, as_of: &Zoned) -> Vec<(i64, Expect)> {
        let mut after = Vec::new();
        for (when, then) in map_of(node, "after", self.out).unwrap_or(&[]) {
            let written = self.put(when);
            let ms = check(case_time::after_ms(&written, as_of), when.place, self.out);
            let expect = self.expect(then, "after");
            after.extend(ms.map(|ms| (ms, expect)));
        }
        after.sort_by_key(|(ms, _)| *ms);
        after
    }

    fn given(&mut self, node: &Node, as_of: &Zoned, tested: &BTreeSet<usize>) -> Vec<(usize, Row)> {
        let needed = needed_columns(self.catalog, tested);
        let mut rows: Vec<(usize, Row, Place)> = Vec::new();
        for (name, list) in map_of(node, "given", self.out).unwrap_or(&[]) {
            let full = self.put(name);
            let streams = &self.catalog.streams;
            let Some(at) = streams.iter().position(|s| s.name == full) else {
                let remedy = suggest(&full, streams.iter().map(|s| s.name.as_str()), "streams");
                self.out.error(name.place, format!("unknown stream `{full}`"), remedy);
                continue;
            };
            for row in list_of(list, &name.text, self.out).unwrap_or(&[]) {
                let before = self.out.items.len();
                let read = self.row(row, &streams[at], as_of);
                let whole = self.out.items.len() == before;
                rows.extend(read.filter(|_| whole).map(|r| (at, r, row.place)));
            }
        }
        self.one_user(&mut rows);
        for (i, (at, row, place)) in rows.iter_mut().enumerate() {
            let stream = &self.catalog.streams[*at];
            give_id(row, stream, i + 1);
            give_change(row, stream, i + 1);
            let missing: Vec<&str> = stream
                .columns
                .iter()
                .enumerate()
                .filter(|(c, column)| {
                    let read = *c == stream.time || needed.contains(&(*at, column.name.as_str()));
                    column.required && read && !row.contains_key(&column.name)
                })
                .map(|(_, column)| column.name.as_str())
                .collect();
            if !missing.is_empty() {
                let message = format!("this row of `{}` lacks {}", stream.name, listed(&missing));
                self.out.error(
                    *place,
                    message,
                    "the stream requires it, and the tag depends on it",
                );
            }
        }
        rows.into_iter().map(|(at, row, _)| (at, row)).collect()
    }

    fn row(&mut self, node: &Node, stream: &Stream, as_of: &Zoned) -> Option<Row> {
        let mut row = Row::new();
        for (name, value) in map_of(node, "a row", self.out)? {
            let Some(column) = stream.columns.iter().find(|c| c.name == name.text) else {
                let remedy = if stream.derive.iter().any(|d| d.name == name.text) {
                    "it is derived: give the columns it is made of".to_owned()
                } else {
                    suggest(
                        &name.text,
                        stream.columns.iter().map(|c| c.name.as_str()),
                        "its columns",
                    )
                };
                let message = format!("unknown column `{}` of stream `{}`", name.text, stream.name);
                self.out.error(name.place, message, remedy);
                continue;
            };
            if let Some(json) = self.value(&column.name, &column.kind, value, as_of) {
                row.insert(column.name.clone(), json);
            }
        }
        row.retain(|_, json| !json.is_null());
        Some(row)
    }

    fn value(&mut self, name: &str, kind: &ColumnType, node: &Node, as_of: &Zoned) -> Option<Json> {
        let Value::Text(text) = &node.value else {
            self.out.error(node.place, format!("`{name}` must be one value"), "write a text");
            return None;
        };
        if text.is_null() {
            return Some(Json::Null);
        }
        let written = self.put(text);
        let zone = &self.catalog.zone;
        let time = |out: &mut Diagnostics| {
            check(case_time::relative(&written, as_of, zone), text.place, out)
        };
        let json = match kind {
            ColumnType::U64 => written.parse::<u64>().ok().map(Json::from),
            ColumnType::Int => written.parse::<i64>().ok().map(Json::from),
            ColumnType::Float => written.parse::<f64>().ok().map(Json::from),
            ColumnType::Decimal { scale, .. } => scalar::decimal(&written)
                .filter(|(_, s)| s <= scale)
                .map(|_| Json::from(written.as_str())),
            ColumnType::String => Some(Json::from(written.as_str())),
            ColumnType::Bool => written.parse::<bool>().ok().map(Json::from),
            ColumnType::Date => return Some(Json::from(time(self.out)?.date().to_string())),
            ColumnType::Timestamp(_) => {
                return Some(Json::from(time(self.out)?.timestamp().as_millisecond()));
            }
        };
        if json.is_none() {
            let message = format!("`{written}` is not {}", article(&scalar::type_text(kind)));
            self.out.error(text.place, message, format!("`{name}` has that type"));
        }
        json
    }

    /// All rows are about one user; rows that do not name it get it.
    fn one_user(&mut self, rows: &mut [(usize, Row, Place)]) {
        let mut uid: Option<Json> = None;
        for (at, row, place) in rows.iter() {
            let Some(column) = uid_column(&self.catalog.streams[*at]) else { continue };
            match (&uid, row.get(&column.name)) {
                (Some(first), Some(other)) if first != other => {
                    let message = format!("a second user: {other}, after {first}");
                    self.out.error(*place, message, "a case is about one user: write two cases");
                }
                (None, Some(first)) => uid = Some(first.clone()),
                _ => {}
            }
        }
        let uid = uid.unwrap_or(match self.catalog.uid {
            UidType::U64 => Json::from(1),
            UidType::String => Json::from("user"),
        });
        for (at, row, _) in rows {
            if let Some(column) = uid_column(&self.catalog.streams[*at]) {
                row.entry(column.name.clone()).or_insert_with(|| uid.clone());
            }
        }
    }

    /// `dimensions: {table: [{key: ..., column: ...}]}`
    fn tables(&mut self, node: &Node, as_of: &Zoned) -> BTreeMap<String, Vec<Row>> {
        let mut tables = BTreeMap::new();
        for (name, list) in map_of(node, "dimensions", self.out).unwrap_or(&[]) {
            let all = &self.catalog.dimensions;
            let sharing: Vec<_> = all.iter().filter(|d| d.table == name.text).collect();
            if sharing.is_empty() {
                let remedy = suggest(&name.text, all.iter().map(|d| d.table.as_str()), "tables");
                self.out.error(name.place, format!("unknown table `{}`", name.text), remedy);
                continue;
            }
            let mut columns: BTreeMap<&str, ColumnType> = BTreeMap::new();
            columns.insert("key", key_type(self.catalog, &sharing[0].key));
            for column in sharing.iter().flat_map(|d| &d.columns) {
                columns.insert(&column.from, column.kind.clone());
            }
            let mut rows = Vec::new();
            for row in list_of(list, &name.text, self.out).unwrap_or(&[]) {
                rows.extend(self.table_row(row, &columns, as_of));
            }
            tables.insert(name.text.clone(), rows);
        }
        tables
    }

    fn table_row(
        &mut self,
        node: &Node,
        columns: &BTreeMap<&str, ColumnType>,
        as_of: &Zoned,
    ) -> Option<Row> {
        let mut row = Row::new();
        for (name, value) in map_of(node, "a row", self.out)? {
            let Some(kind) = columns.get(name.text.as_str()) else {
                let remedy = suggest(&name.text, columns.keys().copied(), "its columns");
                self.out.error(name.place, format!("unknown column `{}`", name.text), remedy);
                continue;
            };
            if let Some(json) = self.value(&name.text, kind, value, as_of) {
                row.insert(name.text.clone(), json);
            }
        }
        if !row.contains_key("key") {
            self.out.error(
                node.place,
                "this row has no `key`",
                "add `key:`, what it is looked up by",
            );
        }
        Some(row)
    }
}

fn article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}

fn uid_column(stream: &Stream) -> Option<&Column> {
    stream.columns.get(stream.uid)
}

/// Ids are generated where a row has none.
fn give_id(row: &mut Row, stream: &Stream, number: usize) {
    let Some(column) = stream.dedupe.as_ref().and_then(|d| stream.columns.get(d.by)) else {
        return;
    };
    let id = match column.kind {
        ColumnType::String => Json::from(format!("case-{number}")),
        ColumnType::U64 | ColumnType::Int => Json::from(number),
        _ => return,
    };
    row.entry(column.name.clone()).or_insert(id);
}

/// Key, version and operation are generated where a row of a table has none: each row is one of its
/// own, inserted in the order of the case.
fn give_change(row: &mut Row, stream: &Stream, number: usize) {
    let Some(changelog) = &stream.changelog else { return };
    let operation = changelog.operation.as_ref();
    let words = operation.map_or(&[][..], |operation| operation.words.as_slice());
    let inserts = words.iter().find(|w| w.1 == OperationKind::Insert);
    let first = inserts.or(words.first()).map(|(word, _)| word.as_str());
    for (at, column) in stream.columns.iter().enumerate().filter(|(at, _)| changelog.needs(*at)) {
        let value = match column.kind {
            _ if operation.is_some_and(|o| o.column == at) => Json::from(first),
            ColumnType::String => Json::from(format!("case-{number}")),
            ColumnType::U64 | ColumnType::Int | ColumnType::Timestamp(_) => Json::from(number),
            _ => continue,
        };
        row.entry(column.name.clone()).or_insert(value);
    }
}

fn key_type(catalog: &Catalog, key: &DimensionKey) -> ColumnType {
    let data_type = match *key {
        DimensionKey::Uid => match catalog.uid {
            UidType::U64 => return ColumnType::U64,
            UidType::String => return ColumnType::String,
        },
        DimensionKey::Feature(at) => catalog.features[at].data_type.clone(),
        DimensionKey::Column { dimension, column } => {
            return catalog.dimensions[dimension].columns[column].kind.clone();
        }
    };
    match data_type {
        DataType::UInt64 => ColumnType::U64,
        DataType::Boolean => ColumnType::Bool,
        DataType::Date32 => ColumnType::Date,
        DataType::Utf8 => ColumnType::String,
        _ => ColumnType::Int,
    }
}

/// Source columns, by stream, that the tags depend on: through tags, dimension keys, features,
/// filters and derived columns.
/// Whether a text is a value of a type.
fn fits(data_type: &DataType, wanted: &str) -> bool {
    match data_type {
        t if t.is_integer() => wanted.parse::<i128>().is_ok(),
        DataType::Float64 => wanted.parse::<f64>().is_ok(),
        DataType::Decimal128(..) => scalar::decimal(wanted).is_some(),
        DataType::Date32 => wanted.parse::<jiff::civil::Date>().is_ok(),
        DataType::List(_) => false,
        _ => true,
    }
}

fn needed_columns<'a>(catalog: &'a Catalog, tags: &BTreeSet<usize>) -> BTreeSet<(usize, &'a str)> {
    let mut names: Vec<&str> = Vec::new();
    for tag in tags.iter().filter_map(|t| catalog.tags.get(*t)) {
        names.push(&tag.name);
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut columns: Vec<(usize, &str)> = Vec::new();
    while let Some(name) = names.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some(tag) = catalog.tags.iter().find(|t| t.name == name) {
            names.extend(tag.expr.columns.iter().map(String::as_str));
        } else if let Some(feature) = catalog.features.iter().find(|f| f.name == name) {
            let stream = &catalog.streams[feature.stream];
            let aggregate = &feature.aggregate;
            let parts = [
                aggregate.value(),
                aggregate.weight(),
                feature.filter.as_ref(),
                stream.filter.as_ref(),
            ];
            let read = parts.into_iter().flatten().flat_map(|e| &e.columns);
            columns.extend(read.map(|c| (feature.stream, c.as_str())));
        } else if let Some(dimension) =
            catalog.dimensions.iter().find(|d| d.columns.iter().any(|c| c.name == name))
        {
            match dimension.key {
                DimensionKey::Uid => {}
                DimensionKey::Feature(at) => names.push(&catalog.features[at].name),
                DimensionKey::Column { dimension, column } => {
                    names.push(&catalog.dimensions[dimension].columns[column].name);
                }
            }
        }
    }
    let mut needed = BTreeSet::new();
    while let Some((at, name)) = columns.pop() {
        if !needed.insert((at, name)) {
            continue;
        }
        if let Some(derived) = catalog.streams[at].derive.iter().find(|d| d.name == name) {
            columns.extend(derived.expr.columns.iter().map(|c| (at, c.as_str())));
        }
    }
    needed
}
