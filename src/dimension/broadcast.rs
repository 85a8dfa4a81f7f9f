//! A table in memory that a topic keeps.
//!
//! In: what the topic's [`Feed`] says. Out: the table as it is now, and whose keys changed.
//! Invariant: a row that cannot be read leaves its key as it was, and is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value as Json};

use super::cell::{Cell, parse};
use super::feed::{Changes, Feed};
use super::given::text_of;
use super::key::{KeyKind, key_of_cell};
use super::row::{Coding, RowWriter, encode};
use super::spec::{TableSpec, type_name};
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::store::{Bytes, DimColumnMeta, DimMeta, Positions};
use crate::telemetry::names;

/// See the module.
pub(super) struct Broadcast {
    pub(super) feed: Arc<Feed>,
    rows: Mutex<Encoded>,
}

#[derive(Default)]
struct Encoded {
    rows: BTreeMap<Bytes, Bytes>,
    rejected: u64,
}

impl Broadcast {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self { feed, rows: Mutex::default() }
    }

    /// Takes changes over and gives all rows to `each`. `changes.number` is the table's epoch.
    pub(super) fn take<T>(
        &self,
        spec: &TableSpec,
        kind: KeyKind,
        zone: &Zone,
        changes: Changes,
        each: impl FnOnce(&DimMeta, &BTreeMap<Bytes, Bytes>) -> T,
    ) -> T {
        let mut encoded = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let codings: Vec<Coding> = spec.columns.iter().map(|(_, kind)| Coding::of(kind)).collect();
        let columns: Vec<RecordColumn> =
            spec.columns.iter().map(|(name, kind)| (name.clone(), Some(kind.clone()))).collect();
        let mut writer = RowWriter::default();
        for (key, value) in changes.rows {
            let read = key_of(spec, kind, zone, &key).and_then(|key| {
                let row = value.map(|value| row(&columns, zone, &codings, &value, &mut writer));
                Ok((key, row.transpose()?))
            });
            match read {
                Ok((key, Some(row))) => {
                    encoded.rows.insert(key, row);
                }
                Ok((key, None)) => {
                    encoded.rows.remove(&key);
                }
                Err(reason) => {
                    encoded.rejected += 1;
                    names::DIMENSION_REJECTED.counter(&[&spec.table]).increment(1);
                    let (topic, key) = (self.feed.topic(), String::from_utf8_lossy(&key));
                    tracing::warn!(topic, %key, reason, "a row is left out: correct the record");
                }
            }
        }
        let column = |(name, kind): &(String, _)| DimColumnMeta {
            name: name.clone(),
            kind: type_name(kind),
        };
        let meta = DimMeta {
            epoch: changes.number,
            loaded_at_ms: 0,
            source: format!("topic {}", self.feed.topic()),
            key: type_name(&spec.key),
            columns: spec.columns.iter().map(column).collect(),
            rows: encoded.rows.len() as u64,
            rejected: encoded.rejected,
            changed: 0,
            removed: 0,
            all_changed: false,
            topic: None,
        };
        each(&meta, &encoded.rows)
    }

    /// The table as windows see it that began behind these positions.
    pub(super) fn table(
        &self,
        at: Positions,
        spec: &TableSpec,
        kind: KeyKind,
        zone: &Zone,
    ) -> TopicTable {
        let (spec, zone, feed) = (spec.clone(), zone.clone(), Arc::clone(&self.feed));
        TopicTable::new(at, &spec.table.clone(), move |before| {
            let keys = feed.changed_behind(before)?;
            let key = |text: Box<[u8]>| key_of(&spec, kind, &zone, &text).ok();
            Some(keys.into_iter().filter_map(key).collect())
        })
    }
}

type ChangedBehind = dyn Fn(&Positions) -> Option<Vec<Bytes>> + Send + Sync;

/// A table that a topic keeps.
pub struct TopicTable {
    /// How far the topic was read.
    pub at: Positions,
    table: String,
    changed: Box<ChangedBehind>,
}

impl TopicTable {
    pub(super) fn new(
        at: Positions,
        table: &str,
        changed: impl Fn(&Positions) -> Option<Vec<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self { at, table: table.to_owned(), changed: Box::new(changed) }
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Keys whose rows changed behind positions; `None`: all may have.
    pub fn changed_behind(&self, before: &Positions) -> Option<Vec<Bytes>> {
        (self.changed)(before)
    }
}

/// A record's key as tables keep it: text as it stands, or a JSON string.
pub(super) fn key_of(
    spec: &TableSpec,
    kind: KeyKind,
    zone: &Zone,
    key: &[u8],
) -> Result<Bytes, String> {
    let text = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8".to_owned())?;
    let unquoted = match text.starts_with('"') {
        true => serde_json::from_str::<String>(text).ok(),
        false => None,
    };
    let text = unquoted.as_deref().unwrap_or(text);
    let cell = parse(&spec.key, zone, text).map_err(|what| format!("key `{text}` {what}"))?;
    key_of_cell(kind, &cell).ok_or_else(|| "the key is empty".to_owned())
}

/// A column that rows are written with: its type in the catalogue, none for one that nobody reads.
pub(super) type RecordColumn = (String, Option<ColumnType>);

/// A record's value as a row of a table with these columns.
pub(super) fn row(
    columns: &[RecordColumn],
    zone: &Zone,
    codings: &[Coding],
    value: &[u8],
    writer: &mut RowWriter,
) -> Result<Bytes, String> {
    let object: Map<String, Json> =
        serde_json::from_slice(value).map_err(|e| format!("not a JSON object: {e}"))?;
    let texts: Vec<String> = columns.iter().map(|(name, _)| text_of(object.get(name))).collect();
    let cells = columns.iter().zip(&texts).map(|((name, kind), text)| {
        let Some(kind) = kind else { return Ok(Cell::Null) };
        parse(kind, zone, text).map_err(|what| format!("column `{name}`: `{text}` {what}"))
    });
    let cells: Vec<Cell<'_>> = cells.collect::<Result<_, _>>()?;
    Ok(encode(codings, &cells, writer))
}
