//! A dimension table from rows at hand, as cases give them.
//!
//! In: rows of JSON values by column name; instants are epoch milliseconds. Out: a committed epoch.
//! Invariant: cells are read as those of a file are, so that an empty text is NULL.

use serde_json::{Map, Value as Json};

use super::cell::{Cell, parse};
use super::key::{KeyKind, key_of_cell};
use super::load::LoadError;
use super::row::{Coding, RowWriter, encode};
use super::spec::{TableSpec, type_name};
use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::clock::Zone;
use crate::store::{DimColumnMeta, DimMeta, DimRow, Epoch, Store};

/// The name under which a row holds what it is looked up by.
pub const KEY: &str = "key";

/// Makes the rows the table's new epoch. Columns that a row lacks are NULL.
pub fn put_rows(
    store: &dyn Store,
    spec: &TableSpec,
    zone: &Zone,
    rows: &[Map<String, Json>],
    loaded_at_ms: i64,
) -> Result<Epoch, LoadError> {
    let bad_type = || LoadError::KeyType { table: spec.table.clone(), kind: type_name(&spec.key) };
    let kind = KeyKind::of(&spec.key).ok_or_else(bad_type)?;
    let codings: Vec<Coding> = spec.columns.iter().map(|(_, kind)| Coding::of(kind)).collect();
    let mut encoded: Vec<DimRow> = Vec::with_capacity(rows.len());
    let mut writer = RowWriter::default();
    for row in rows {
        let key = text_of(row.get(KEY));
        let key = key_of_cell(kind, &cell(spec, KEY, &spec.key, zone, &key)?);
        let Some(key) = key else {
            return Err(bad(spec, KEY, "a row has no key"));
        };
        let texts: Vec<String> =
            spec.columns.iter().map(|(name, _)| text_of(row.get(name))).collect();
        let cells = spec.columns.iter().zip(&texts);
        let cells = cells.map(|((name, kind), text)| cell(spec, name, kind, zone, text));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        encoded.push((key, encode(&codings, &cells, &mut writer)));
    }
    let epoch = store.dim_begin(&spec.table)?;
    store.dim_put(&spec.table, epoch, encoded)?;
    let columns = spec.columns.iter();
    let rows = rows.len() as u64;
    let meta = DimMeta {
        epoch,
        loaded_at_ms,
        source: "rows at hand".to_owned(),
        key: type_name(&spec.key),
        columns: columns
            .map(|(name, kind)| DimColumnMeta { name: name.clone(), kind: type_name(kind) })
            .collect(),
        rows,
        rejected: 0,
        changed: rows,
        removed: 0,
        all_changed: true,
        topic: None,
    };
    store.dim_commit(&spec.table, meta)?;
    Ok(epoch)
}

/// A JSON value as a file would write it; NULL is empty.
pub(super) fn text_of(value: Option<&Json>) -> String {
    match value {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn cell<'a>(
    spec: &TableSpec,
    name: &str,
    kind: &ColumnType,
    zone: &Zone,
    text: &'a str,
) -> Result<Cell<'a>, LoadError> {
    let millis = ColumnType::Timestamp(TimestampFormat::Millis);
    let kind = if matches!(kind, ColumnType::Timestamp(_)) { &millis } else { kind };
    parse(kind, zone, text).map_err(|what| bad(spec, name, &format!("`{text}` {what}")))
}

fn bad(spec: &TableSpec, column: &str, what: &str) -> LoadError {
    LoadError::Format {
        path: spec.table.clone().into(),
        reason: format!("column `{column}`: {what}; correct the row"),
    }
}
