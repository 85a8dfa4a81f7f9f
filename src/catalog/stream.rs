//! `streams/*.yaml`: sources of events.
//!
//! In: documents. Out: [`Stream`]s with typed row expressions, and what features of each may read.
//! Invariant: a stream is given out only when every part of it is right.

use super::changelog::{Mode, Written, read_mode};
use super::envelope;
use super::expression::{Reach, Typer, names, words};
use super::fields::{Fields, bool_of, map_of, suggest, text_of};
use super::model::{Column, ColumnType, Dedupe, Derived, Format, From, Stream, TypedExpr, UidType};
use super::place::{Diagnostics, Place};
use super::scalar;
use super::settings::{Settings, check, duration};
use super::sql_text::SqlText;
use super::yaml::{Node, Text, Value};
use crate::rule::sql::ScopeKind;

/// What features need to know of a stream, right or wrong.
#[derive(Debug)]
pub(super) struct StreamScope {
    pub(super) name: String,
    /// Where the name stands.
    pub(super) place: Place,
    /// Row expressions may read this.
    pub(super) reach: Reach,
    /// Index into the catalogue's streams; `None` when it has errors.
    pub(super) index: Option<usize>,
}

/// Reads one document. The scope comes even when the stream is wrong, if it has a name.
pub(super) fn read(
    node: &Node,
    settings: &Settings,
    out: &mut Diagnostics,
) -> (Option<StreamScope>, Option<Stream>) {
    let before = error_count(out);
    let Some(mut fields) = Fields::open(node, "a stream", out) else { return (None, None) };
    let name = fields.need_text("stream", out);
    if let Some(name) = name {
        check(scalar::name(&name.text, "a stream"), name.place, out);
    }
    let doc = fields.text("doc", out).map_or(String::new(), |t| t.text.clone());
    let from = fields.need("from", out).and_then(|node| read_from(node, out));
    let (from, tables) = from.unzip();
    let format = from.as_ref().map(From::format);
    let mut reach = Reach::default();
    let mut columns = match fields.need("columns", out) {
        Some(node) => columns(node, format, settings, &mut reach, out),
        None => {
            reach.incomplete = true;
            Vec::new()
        }
    };
    let dedupe = fields.take("dedupe");
    let (mode, written) = (read_mode(&mut fields, out), Written::take(&mut fields, out));
    let implied = format.and_then(|f| envelope::implied(f, dedupe, written.version, &columns, out));
    if let Some(column) = implied {
        reach.add(&column.name, column.kind.data_type(&settings.zone));
        columns.push(column);
    }
    let typer = Typer { params: &settings.params, zone: &settings.zone, kind: ScopeKind::Row };
    let derive =
        fields.take("derive").map(|n| derived(n, &typer, &mut reach, out)).unwrap_or_default();
    let filter = fields
        .text("where", out)
        .and_then(|text| typer.condition(&text.sql(), "`where`", &reach, out));
    let uid = fields.need_text("uid", out);
    let uid = uid.and_then(|text| uid_column(text, &columns, &reach, settings.uid, out));
    let time = fields.need_text("time", out);
    let time = time.and_then(|text| time_column(text, &columns, &reach, out));
    let found = StreamColumns { all: &columns, reach: &reach };
    let changelog = match mode {
        Mode::Changelog(word) => written.read(word, &found, dedupe, format, out),
        Mode::Append => {
            written.refuse(out);
            None
        }
        Mode::Unknown => None,
    };
    let dedupe = dedupe.and_then(|node| read_dedupe(node, &found, out));
    fields.finish(out);

    let Some(name) = name else { return (None, None) };
    let scope = StreamScope { name: name.text.clone(), place: name.place, reach, index: None };
    let parts = (from, tables, uid, time);
    let stream = match parts {
        (Some(from), Some(tables), Some(uid), Some(time)) if error_count(out) == before => {
            Some(Stream {
                name: name.text.clone(),
                doc,
                from,
                tables,
                columns,
                derive,
                filter,
                uid,
                time,
                dedupe,
                changelog,
                place: name.place,
            })
        }
        _ => None,
    };
    (Some(scope), stream)
}

fn error_count(out: &Diagnostics) -> usize {
    out.items.iter().filter(|d| d.severity == super::place::Severity::Error).count()
}

/// The source, and the tables whose rows are read.
fn read_from(node: &Node, out: &mut Diagnostics) -> Option<(From, Vec<String>)> {
    let mut fields = Fields::open(node, "`from`", out)?;
    let file = fields.text("file", out);
    let topic = fields.text("kafka", out);
    let written = fields.text("format", out);
    let tables = fields.take("table");
    let place = fields.place;
    fields.finish(out);
    let format = match written {
        Some(text) => read_format(text, out),
        None => match file.and_then(|f| implied_format(&f.text)) {
            Some(format) => Some(format),
            None => {
                out.error(place, "`from` needs `format`", "add `format: json`, `csv` or `parquet`");
                None
            }
        },
    };
    let tables = match tables {
        Some(node) => envelope::tables(node, format, out)?,
        None => Vec::new(),
    };
    let from = match (file, topic) {
        (Some(file), None) => Some(From::File { path: file.text.clone(), format: format? }),
        (None, Some(topic)) => {
            let format = format?;
            let file_only = match format {
                Format::Csv => Some("CSV"),
                Format::Parquet => Some("Parquet"),
                Format::Json | Format::Debezium | Format::Maxwell | Format::Canal => None,
            };
            if let Some(words) = file_only {
                let message = format!("a Kafka topic of {words} is not supported");
                out.error(place, message, "use `format: json`");
                return None;
            }
            Some(From::Kafka { topic: topic.text.clone(), format })
        }
        (Some(_), Some(_)) => {
            out.error(place, "`from` has both `file` and `kafka`", "keep one");
            None
        }
        (None, None) => {
            let remedy =
                "write `{file: events.jsonl, format: json}` or `{kafka: topic, format: json}`";
            out.error(place, "`from` names no source", remedy);
            None
        }
    };
    from.map(|from| (from, tables))
}

fn read_format(text: &Text, out: &mut Diagnostics) -> Option<Format> {
    const FORMATS: [Format; 6] = [
        Format::Json,
        Format::Csv,
        Format::Parquet,
        Format::Debezium,
        Format::Maxwell,
        Format::Canal,
    ];
    let found = FORMATS.into_iter().find(|format| format.name() == text.text);
    if found.is_none() {
        let message = format!("unknown format `{}`", text.text);
        let remedy = suggest(&text.text, FORMATS.map(Format::name), "formats");
        out.error(text.place, message, remedy);
    }
    found
}

fn implied_format(path: &str) -> Option<Format> {
    let path = path.strip_suffix(".gz").or(path.strip_suffix(".zst")).unwrap_or(path);
    match path.rsplit('.').next() {
        Some("csv") => Some(Format::Csv),
        Some("parquet") => Some(Format::Parquet),
        Some("json" | "jsonl" | "ndjson") => Some(Format::Json),
        _ => None,
    }
}

fn columns(
    node: &Node,
    format: Option<Format>,
    settings: &Settings,
    reach: &mut Reach,
    out: &mut Diagnostics,
) -> Vec<Column> {
    let mut columns = Vec::new();
    let entries = map_of(node, "columns", out).unwrap_or(&[]);
    if entries.is_empty() {
        out.error(node.place, "a stream needs columns", "write `name: type` lines");
        reach.incomplete = true;
    }
    for (name, value) in entries {
        check(scalar::name(&name.text, "a column"), name.place, out);
        match column(name, value, format, out) {
            Some(column) => {
                reach.add(&name.text, column.kind.data_type(&settings.zone));
                columns.push(column);
            }
            None => reach.add_broken(&name.text),
        }
    }
    columns
}

fn column(
    name: &Text,
    node: &Node,
    format: Option<Format>,
    out: &mut Diagnostics,
) -> Option<Column> {
    let (kind, from, member, mask) = match &node.value {
        Value::Map(_) => {
            let mut fields = Fields::open(node, "a column", out)?;
            let kind = fields.need_text("type", out);
            let from = fields.text("from", out);
            let member = fields.text("envelope", out);
            let mask = fields.take("mask").and_then(|n| bool_of(n, "mask", out)).unwrap_or(false);
            fields.finish(out);
            (kind?, from, member, mask)
        }
        _ => (text_of(node, &name.text, out)?, None, None, false),
    };
    let (kind, optional) = check(scalar::column_type(&kind.text), kind.place, out)?;
    if let Some(member) = member {
        envelope::check_member(member, from, &kind, format, out)?;
    }
    let (envelope, required) = (member.is_some(), !optional);
    let from = member.or(from).map_or_else(|| name.text.clone(), |text| text.text.clone());
    Some(Column { name: name.text.clone(), from, envelope, kind, required, mask })
}

fn derived(
    node: &Node,
    typer: &Typer<'_>,
    reach: &mut Reach,
    out: &mut Diagnostics,
) -> Vec<Derived> {
    let mut derived = Vec::new();
    let entries = map_of(node, "derive", out).unwrap_or(&[]);
    for (i, (name, value)) in entries.iter().enumerate() {
        check(scalar::name(&name.text, "a derived column"), name.place, out);
        if reach.data_type(&name.text).is_some() {
            let message = format!("`{}` is already a column", name.text);
            out.error(name.place, message, "choose another name");
            continue;
        }
        let text = text_of(value, &name.text, out).map(Text::sql);
        let typed = text
            .filter(|text| !reads_later(text, &entries[i..], reach, out))
            .and_then(|text| typer.any(&text, reach, out));
        match typed {
            Some(expr) => {
                reach.add(&name.text, expr.data_type.clone());
                derived.push(Derived { name: name.text.clone(), expr });
            }
            None => reach.add_broken(&name.text),
        }
    }
    derived
}

/// Whether a derived column reads itself or one below it, which is an error.
fn reads_later(
    text: &SqlText,
    from_here: &[(Text, Node)],
    reach: &Reach,
    out: &mut Diagnostics,
) -> bool {
    let names = names(text, &mut Diagnostics::default()).unwrap_or_default();
    let is_later = |name: &str| {
        reach.data_type(name).is_none() && from_here.iter().any(|(later, _)| later.text == name)
    };
    let later = names.iter().find(|(name, _)| is_later(name));
    if let Some((name, place)) = later {
        let message = format!("`{name}` is not derived yet");
        out.error(*place, message, "a derived column reads those above it: change the order");
    }
    later.is_some()
}

/// Source columns, for keys that name one of them.
pub(super) struct StreamColumns<'a> {
    pub(super) all: &'a [Column],
    reach: &'a Reach,
}

impl StreamColumns<'_> {
    /// Index of a source column. `None` without an error: the column itself is wrong.
    pub(super) fn find(&self, text: &Text, what: &str, out: &mut Diagnostics) -> Option<usize> {
        find_column(text, what, self.all, self.reach, out)
    }
}

fn find_column(
    text: &Text,
    what: &str,
    columns: &[Column],
    reach: &Reach,
    out: &mut Diagnostics,
) -> Option<usize> {
    let found = columns.iter().position(|c| c.name == text.text);
    if found.is_none() && !reach.is_broken(&text.text) {
        let (message, remedy) = if reach.data_type(&text.text).is_some() {
            (
                format!("`{what}` must be a source column"),
                "derived columns cannot be used here".into(),
            )
        } else {
            let names = columns.iter().map(|c| c.name.as_str());
            (format!("unknown column `{}`", text.text), suggest(&text.text, names, "columns"))
        };
        out.error(text.place, message, remedy);
    }
    found
}

/// Reports a column that may be missing where it must not.
pub(super) fn must_be_required(text: &Text, column: &Column, what: &str, out: &mut Diagnostics) {
    if !column.required {
        let message = format!("`{what}` cannot be a column that may be missing");
        out.error(text.place, message, format!("drop the `?` of `{}`", column.name));
    }
}

fn uid_column(
    text: &Text,
    columns: &[Column],
    reach: &Reach,
    uid: UidType,
    out: &mut Diagnostics,
) -> Option<usize> {
    let at = find_column(text, "uid", columns, reach, out)?;
    let column = columns.get(at)?;
    let (wanted, word) = match uid {
        UidType::U64 => (ColumnType::U64, "u64"),
        UidType::String => (ColumnType::String, "string"),
    };
    if column.kind != wanted {
        let message = format!(
            "the uid is {word} in catalog.yaml and `{}` is {}",
            column.name,
            scalar::type_text(&column.kind)
        );
        out.error(text.place, message, format!("make the column `{word}`"));
        return None;
    }
    must_be_required(text, column, "uid", out);
    Some(at)
}

fn time_column(
    text: &Text,
    columns: &[Column],
    reach: &Reach,
    out: &mut Diagnostics,
) -> Option<usize> {
    let at = find_column(text, "time", columns, reach, out)?;
    let column = columns.get(at)?;
    if !matches!(column.kind, ColumnType::Timestamp(_)) {
        let message = format!(
            "`time` must be a timestamp, `{}` is {}",
            column.name,
            scalar::type_text(&column.kind)
        );
        out.error(
            text.place,
            message,
            "give the column a type like `timestamp(ms)` or `timestamp(iso)`",
        );
        return None;
    }
    must_be_required(text, column, "time", out);
    Some(at)
}

fn read_dedupe(node: &Node, columns: &StreamColumns<'_>, out: &mut Diagnostics) -> Option<Dedupe> {
    let mut fields = Fields::open(node, "`dedupe`", out)?;
    let by = fields.need_text("by", out);
    let within_ms = duration(&mut fields, "within", out);
    fields.finish(out);
    let by = by?;
    let at = columns.find(by, "by", out)?;
    let column = columns.all.get(at)?;
    if column.kind == ColumnType::Float {
        out.error(by.place, "an id cannot be a float", "make the column `string`, `u64` or `int`");
    }
    must_be_required(by, column, "by", out);
    Some(Dedupe { by: at, within_ms })
}

/// The type of an aggregated value as tagloom keeps it: decimals have at most 18 digits.
pub(super) fn fits_a_row(
    value: &TypedExpr,
    sql: &str,
    place: Place,
    out: &mut Diagnostics,
) -> bool {
    match value.data_type {
        arrow::datatypes::DataType::Decimal128(p, s) if p > 18 => {
            let message = format!("{} is too wide to aggregate", words(&value.data_type));
            out.error(place, message, format!("write CAST({sql} AS decimal(18,{s}))"));
            false
        }
        _ => true,
    }
}

/// Streams that share a file must read it alike.
pub(super) fn agree(stream: &Stream, others: &[Stream], out: &mut Diagnostics) {
    let From::File { path, format } = &stream.from else { return };
    let differs = others.iter().find(|o| match &o.from {
        From::File { path: p, format: f } => p == path && f != format,
        From::Kafka { .. } => false,
    });
    if let Some(other) = differs {
        let message = format!("`{path}` has another format in stream `{}`", other.name);
        out.error(stream.place, message, "a file has one format");
    }
}
