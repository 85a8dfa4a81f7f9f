//! `mode: changelog` of a stream: its rows are changes of a table's rows.
//!
//! In: the stream's keys. Out: a [`Changelog`], and an error for each key that does not fit.
//! Invariant: without `mode: changelog` none of its keys is accepted.

use super::fields::{Fields, suggest, texts_of};
use super::model::{Changelog, ColumnType, Format, OperationColumn, OperationKind};
use super::place::Diagnostics;
use super::scalar::type_text;
use super::stream::{StreamColumns, must_be_required};
use super::yaml::{Node, Text};

/// Rows of a table kept for a user, where nothing is said.
const ROWS_DEFAULT: u32 = 10_000;
const ROWS_MAX: u32 = 1_000_000;

/// A mode, as far as it is known.
pub(super) enum Mode<'a> {
    /// Each row is an event.
    Append,
    /// Each row is a change; the place of the word.
    Changelog(&'a Text),
    /// An unknown word, reported: nothing is said of keys that depend on it.
    Unknown,
}

/// The keys of a changelog, as written.
pub(super) struct Written<'a> {
    primary_key: Option<&'a Node>,
    pub(super) version: Option<&'a Text>,
    operation: Option<&'a Node>,
    before: Option<&'a Text>,
    rows_max: Option<&'a Text>,
}

/// Reads `mode`.
pub(super) fn read_mode<'a>(fields: &mut Fields<'a>, out: &mut Diagnostics) -> Mode<'a> {
    match fields.text("mode", out) {
        None => Mode::Append,
        Some(mode) => match mode.text.as_str() {
            "append" => Mode::Append,
            "changelog" => Mode::Changelog(mode),
            other => {
                let message = format!("unknown mode `{other}`");
                out.error(mode.place, message, suggest(other, ["append", "changelog"], "modes"));
                Mode::Unknown
            }
        },
    }
}

impl<'a> Written<'a> {
    /// Takes the keys.
    pub(super) fn take(fields: &mut Fields<'a>, out: &mut Diagnostics) -> Self {
        Self {
            primary_key: fields.take("primary_key"),
            version: fields.text("version", out),
            operation: fields.take("operation"),
            before: fields.text("before", out),
            rows_max: fields.text("rows_max", out),
        }
    }

    /// Of a stream whose rows are events: none of the keys may be there.
    pub(super) fn refuse(&self, out: &mut Diagnostics) {
        let texts =
            [("version", self.version), ("before", self.before), ("rows_max", self.rows_max)];
        let places = [("primary_key", self.primary_key), ("operation", self.operation)]
            .into_iter()
            .filter_map(|(key, node)| Some((key, node?.place)))
            .chain(texts.into_iter().filter_map(|(key, text)| Some((key, text?.place))));
        for (key, place) in places {
            let message = format!("`{key}` is for the changes of a table's rows");
            out.error(place, message, "add `mode: changelog`, or leave it out");
        }
    }

    /// Reads the keys. `dedupe`: where the stream says it, which it must not.
    pub(super) fn read(
        &self,
        mode: &Text,
        columns: &StreamColumns<'_>,
        dedupe: Option<&Node>,
        format: Option<Format>,
        out: &mut Diagnostics,
    ) -> Option<Changelog> {
        if let Some(dedupe) = dedupe {
            let remedy =
                "drop it: of a row's versions the greatest counts, and repeats change nothing";
            out.error(dedupe.place, "a changelog cannot have `dedupe`", remedy);
        }
        let primary_key = match self.primary_key {
            Some(node) => key_columns(node, columns, out),
            None => {
                let remedy = "add `primary_key: COLUMN`, what tells the table's rows apart";
                out.error(mode.place, "a changelog needs `primary_key`", remedy);
                None
            }
        };
        let version = match self.version {
            Some(text) => Some(version_column(text, columns, out)?),
            None => None,
        };
        let rows_max = self.rows_max.map_or(Some(ROWS_DEFAULT), |text| read_rows_max(text, out));
        let (operation, before) = match format.and_then(Format::before) {
            Some(before) => {
                self.refuse_what_envelopes_say(format.map_or("", Format::name), out);
                (None, Some(before.to_owned()))
            }
            None => {
                let operation = self.read_operation(mode, columns, out);
                self.check_before(operation.as_ref(), columns, out);
                (Some(operation?), self.before.map(|text| text.text.clone()))
            }
        };
        let (primary_key, rows_max) = (primary_key?, rows_max?);
        Some(Changelog { primary_key, version, operation, before, rows_max })
    }

    fn read_operation(
        &self,
        mode: &Text,
        columns: &StreamColumns<'_>,
        out: &mut Diagnostics,
    ) -> Option<OperationColumn> {
        let Some(node) = self.operation else {
            let remedy = "add `operation: {column: op, insert: [c], update: [u], delete: [d]}`";
            out.error(mode.place, "a changelog needs `operation`", remedy);
            return None;
        };
        operation_column(node, columns, out)
    }

    /// An envelope says what happened, and holds the row as it was.
    fn refuse_what_envelopes_say(&self, format: &str, out: &mut Diagnostics) {
        let keys = [
            ("operation", self.operation.map(|node| node.place)),
            ("before", self.before.map(|text| text.place)),
        ];
        for (key, place) in keys.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            let message = format!("`{key}` is not for the format `{format}`");
            out.error(place, message, "leave it out: the envelope says it");
        }
    }

    fn check_before(
        &self,
        operation: Option<&OperationColumn>,
        columns: &StreamColumns<'_>,
        out: &mut Diagnostics,
    ) {
        let Some(before) = self.before else {
            let updates =
                |o: &OperationColumn| o.words.iter().any(|w| w.1 == OperationKind::Update);
            if operation.is_some_and(updates)
                && let Some(node) = self.operation
            {
                let remedy = "add `before: NAME`, the member that holds the row as it was: it says \
                              whom the row leaves";
                out.error(node.place, "updates need `before`", remedy);
            }
            return;
        };
        if let Some(column) = columns.all.iter().find(|c| c.from == before.text) {
            let message = format!("`{}` is also read as the column `{}`", before.text, column.name);
            out.error(before.place, message, "the row as it was has a member of its own");
        }
    }
}

fn key_columns(
    node: &Node,
    columns: &StreamColumns<'_>,
    out: &mut Diagnostics,
) -> Option<Vec<usize>> {
    let texts = texts_of(node, "primary_key", out);
    if texts.is_empty() {
        out.error(node.place, "`primary_key` names no column", "write a column, or `[a, b]`");
        return None;
    }
    let mut key: Vec<usize> = Vec::new();
    for text in &texts {
        let at = columns.find(text, "primary_key", out)?;
        let column = columns.all.get(at)?;
        if column.kind == ColumnType::Float {
            let remedy = "make the column `string`, `u64` or `int`";
            out.error(text.place, "a key cannot be a float", remedy);
        }
        must_be_required(text, column, "primary_key", out);
        if key.contains(&at) {
            out.error(text.place, format!("`{}` is there twice", text.text), "drop one");
        }
        key.push(at);
    }
    Some(key)
}

fn version_column(
    text: &Text,
    columns: &StreamColumns<'_>,
    out: &mut Diagnostics,
) -> Option<usize> {
    let at = columns.find(text, "version", out)?;
    let column = columns.all.get(at)?;
    let is_ordered =
        matches!(column.kind, ColumnType::Int | ColumnType::U64 | ColumnType::Timestamp(_));
    if !is_ordered {
        let message = format!(
            "`version` must be a whole number or a timestamp, `{}` is {}",
            column.name,
            type_text(&column.kind)
        );
        out.error(text.place, message, "name a column that grows with every change of a row");
        return None;
    }
    must_be_required(text, column, "version", out);
    Some(at)
}

fn operation_column(
    node: &Node,
    columns: &StreamColumns<'_>,
    out: &mut Diagnostics,
) -> Option<OperationColumn> {
    let mut fields = Fields::open(node, "`operation`", out)?;
    let column = fields.need_text("column", out);
    let mut words: Vec<(String, OperationKind)> = Vec::new();
    for (key, kind) in [
        ("insert", OperationKind::Insert),
        ("update", OperationKind::Update),
        ("delete", OperationKind::Delete),
    ] {
        for text in fields.take(key).map(|n| texts_of(n, key, out)).unwrap_or_default() {
            if words.iter().any(|(word, _)| *word == text.text) {
                let message = format!("`{}` means two operations", text.text);
                out.error(text.place, message, "an operation's words are its own");
            }
            words.push((text.text.clone(), kind));
        }
    }
    let place = fields.place;
    fields.finish(out);
    if words.is_empty() {
        let remedy = "add `insert: [c]`, `update: [u]` or `delete: [d]`";
        out.error(place, "`operation` knows no operation", remedy);
    }
    let column = column?;
    let at = columns.find(column, "operation", out)?;
    let found = columns.all.get(at)?;
    if found.kind != ColumnType::String {
        let message = format!("`{}` is {}", found.name, type_text(&found.kind));
        out.error(column.place, message, "the operation is a column of type `string`");
        return None;
    }
    must_be_required(column, found, "operation", out);
    Some(OperationColumn { column: at, words })
}

fn read_rows_max(text: &Text, out: &mut Diagnostics) -> Option<u32> {
    let rows = text.text.parse::<u32>().ok().filter(|n| (1..=ROWS_MAX).contains(n));
    if rows.is_none() {
        let message = format!("rows_max cannot be `{}`", text.text);
        out.error(text.place, message, format!("write a whole number from 1 to {ROWS_MAX}"));
    }
    rows
}
