//! What the store knows of a topic that keeps a stored table: which it is, and how far it is written.
//!
//! In and out: small values. Invariant: all processes find the same number for a topic.

use serde::{Deserialize, Serialize};

use super::spec::{TableSpec, type_name};
use crate::store::{self, DimColumnMeta, DimMeta, Epoch, Positions, Store, StoreError};

/// Bits of a version that hold an offset; those above say which of the topics of this name it is.
const OFFSET_BITS: u32 = 48;

/// Topics of one name that a table may have had.
const TOPICS_MAX: usize = 1 << 12;

/// The version of what a record of one of the topics has said.
pub(super) fn version(incarnation: u64, offset: u64) -> u64 {
    incarnation << OFFSET_BITS | offset
}

/// A small value that is there from when somebody begins to make a table because of its topic.
pub(super) fn making_key(table: &str) -> String {
    format!("dims/made/{table}")
}

/// How far a topic is written into an epoch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) epoch: Epoch,
    pub(super) at: Positions,
}

pub(super) fn written_key(table: &str) -> String {
    format!("dims/topic/{table}")
}

pub(super) fn written(store: &dyn Store, table: &str) -> store::Result<Option<Written>> {
    let found = store.meta(&written_key(table))?;
    // What cannot be read says nothing: the topic is written again from the load on.
    Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// How far the topic is written into the current epoch, if there is one and anybody has followed.
pub(super) fn applied_position(store: &dyn Store, table: &str) -> store::Result<Option<Positions>> {
    let Some(current) = store.dim_current(table)? else { return Ok(None) };
    let written = written(store, table)?.filter(|written| written.epoch == current.epoch);
    Ok(written.map(|written| written.at).or(current.topic))
}

/// Which of the topics of this name, and numbers of partitions, that a table has had this is. All
/// processes find the same.
pub(super) fn incarnation(store: &dyn Store, table: &str, id: &str) -> Result<u64, String> {
    let key = format!("dims/topics/{table}");
    loop {
        let before = store.meta(&key).map_err(said)?;
        let mut ids: Vec<String> = match &before {
            None => Vec::new(),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| format!("{key}: {e}"))?,
        };
        if let Some(at) = ids.iter().rposition(|known| known == id) {
            return Ok(at as u64);
        }
        if ids.len() >= TOPICS_MAX {
            return Err(format!("the table has had {TOPICS_MAX} topics: give it another name"));
        }
        ids.push(id.to_owned());
        let value = serde_json::to_vec(&ids).map_err(|e| e.to_string())?;
        store.replace_meta(&key, before.as_deref(), value).map_err(said)?;
    }
}

pub(super) fn said(error: StoreError) -> String {
    error.to_string()
}

/// The table's first epoch, without rows: all of them come from the topic.
pub(super) fn make(store: &dyn Store, spec: &TableSpec, topic: &str) -> Result<(), String> {
    store.put_meta(&making_key(&spec.table), vec![1]).map_err(said)?;
    let epoch = store.dim_begin(&spec.table).map_err(said)?;
    let column =
        |(name, kind): &(String, _)| DimColumnMeta { name: name.clone(), kind: type_name(kind) };
    let meta = DimMeta {
        epoch,
        loaded_at_ms: crate::clock::wall_ms(),
        source: format!("topic {topic}"),
        key: type_name(&spec.key),
        columns: spec.columns.iter().map(column).collect(),
        rows: 0,
        rejected: 0,
        changed: 0,
        removed: 0,
        all_changed: true,
        topic: None,
    };
    store.dim_commit(&spec.table, meta).map_err(said)
}
