//! What streams of change data capture say beyond others: tables, and members of the envelope.
//!
//! In: keys of a stream whose format is an envelope. Out: tables, columns that stand in the envelope,
//! and an error for each key that does not fit the format.
//! Invariant: no I/O; other formats have none of these keys.

use super::fields::texts_of;
use super::model::{Column, ColumnType, Format};
use super::place::Diagnostics;
use super::scalar::type_text;
use super::yaml::{Node, Text, Value};
use crate::event::LOG_POSITION;

/// Members that hold rows, not something about them.
const ROWS: [&str; 6] = ["before", "after", "data", "old", "schema", "payload"];

const ENVELOPES: &str = "envelopes are of the formats debezium, maxwell and canal";

/// Reads `table`.
pub(super) fn tables(
    node: &Node,
    format: Option<Format>,
    out: &mut Diagnostics,
) -> Option<Vec<String>> {
    if format.is_some_and(|format| !format.is_envelope()) {
        out.error(node.place, "`table` without envelopes", format!("leave it out: {ENVELOPES}"));
        return None;
    }
    let texts = texts_of(node, "table", out);
    if texts.is_empty() {
        out.error(node.place, "`table` names no table", "write `shop.orders`, or `[a, b]`");
        return None;
    }
    Some(texts.into_iter().map(|text| text.text.clone()).collect())
}

/// Checks `envelope` of a column. `from`: what it must not have beside it.
pub(super) fn check_member(
    member: &Text,
    from: Option<&Text>,
    kind: &ColumnType,
    format: Option<Format>,
    out: &mut Diagnostics,
) -> Option<()> {
    let format = match format {
        Some(format) if format.is_envelope() => format,
        Some(_) => {
            let message = "`envelope` without envelopes";
            out.error(member.place, message, format!("write `from`: {ENVELOPES}"));
            return None;
        }
        // `from` is wrong, which is said there.
        None => return None,
    };
    if let Some(from) = from {
        let remedy =
            "keep one: `from` is a column of the row, `envelope` something about the change";
        out.error(from.place, "a column has both `from` and `envelope`", remedy);
        return None;
    }
    let path: Vec<&str> = member.text.split('.').collect();
    if let Some(name) = ROWS.iter().find(|name| path[0] == **name) {
        let remedy = match *name {
            "payload" => "leave `payload.` out",
            _ => "columns of the row are named with `from`, without what they stand in",
        };
        let message = format!("`{name}` is not about the change");
        out.error(member.place, message, remedy);
        return None;
    }
    if path.len() > 2 || path.contains(&"") {
        let message = format!("`{}` is no member of an envelope", member.text);
        out.error(member.place, message, "write one like `ts_ms` or `source.ts_ms`");
        return None;
    }
    if member.text == LOG_POSITION {
        can_tell(format, member, out)?;
        if !matches!(kind, ColumnType::String | ColumnType::U64) {
            let message = format!("`{LOG_POSITION}` cannot be {}", type_text(kind));
            let remedy = "make it `string`, which tells changes apart, or `u64`, which orders them";
            out.error(member.place, message, remedy);
            return None;
        }
    }
    Some(())
}

/// The column that `dedupe: {by: log_position}` and `version: log_position` stand for.
pub(super) fn implied(
    format: Format,
    dedupe: Option<&Node>,
    version: Option<&Text>,
    columns: &[Column],
    out: &mut Diagnostics,
) -> Option<Column> {
    let by = dedupe.and_then(|node| match &node.value {
        Value::Map(entries) => entries.iter().find(|(key, _)| key.text == "by"),
        _ => None,
    });
    let by = by.and_then(|(_, node)| match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    });
    let named = [(by, ColumnType::String), (version, ColumnType::U64)];
    let is_position = |text: &&Text| text.text == LOG_POSITION;
    let (text, kind) =
        named.into_iter().find_map(|(text, kind)| Some((text.filter(is_position)?, kind)))?;
    if !format.is_envelope() || columns.iter().any(|column| column.name == LOG_POSITION) {
        return None;
    }
    can_tell(format, text, out);
    let name = LOG_POSITION.to_owned();
    Some(Column { from: name.clone(), name, envelope: true, kind, required: true, mask: false })
}

/// Whether a format says where in the database's log a change stands.
fn can_tell(format: Format, text: &Text, out: &mut Diagnostics) -> Option<()> {
    if format == Format::Canal {
        let message = "canal does not say where in the log a change stands";
        let remedy = "name a column of the table; without `version` the place in the topic counts";
        out.error(text.place, message, remedy);
        return None;
    }
    Some(())
}
