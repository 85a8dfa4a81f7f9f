//! Profiles with their tag cells side by side: what `tagloom store check` compares.
//!
//! In: a place to begin behind. Out: rows with state, mark and tag cells; and tag cells written anew.
//! Invariant: what is written here never wins over what the profile's owner writes later.

use std::collections::BTreeMap;

use super::gateway::put;
use super::window::none_refused;
use super::{HbaseStore, STATE_CELL, State};
use crate::store::{Bytes, Result, UidKey};

/// A tag's cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagCell {
    /// Its value; empty: the tag has none.
    pub value: Vec<u8>,
    /// Its timestamp.
    pub stamp: i64,
}

/// A profile as it stands in HBase.
#[derive(Debug, Clone)]
pub struct CheckedRow {
    /// Whose.
    pub key: UidKey,
    /// Packed.
    pub profile: Bytes,
    /// The timestamp it was written with.
    pub stamp: i64,
    /// Its tag cells were left out on purpose.
    pub cells_left_out: bool,
    /// Tag cells by short id.
    pub cells: BTreeMap<String, TagCell>,
}

impl HbaseStore {
    /// Up to `rows_max` profiles with their tag cells, in the order of `scan_profiles`.
    pub fn scan_checked(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<CheckedRow>> {
        let range = self.profiles_behind(after, &["s", "t"], false);
        let rows = self.gateway.scan(&self.tables.profile, &range, rows_max)?;
        let mut checked = Vec::with_capacity(rows.len());
        for (row, mut cells) in rows {
            let key = self.uid(&row)?;
            let state = cells.remove(STATE_CELL.as_bytes());
            let stamp = state.as_ref().and_then(|cell| cell.timestamp).unwrap_or(0);
            let state = state.and_then(|cell| cell.value);
            // Cells without a state: somebody else's, or what is left of a deletion.
            let state = state.unwrap_or_else(|| vec![0]);
            let State { cells_left_out, profile } = State::decode(&state)?;
            let tag = |(column, cell): (Vec<u8>, hbase_thrift::hbase::TCell)| {
                let id = column.strip_prefix(b"t:")?;
                let id = String::from_utf8_lossy(id).into_owned();
                let value = cell.value.unwrap_or_default();
                Some((id, TagCell { value, stamp: cell.timestamp.unwrap_or(0) }))
            };
            let cells = cells.into_iter().filter_map(tag).collect();
            checked.push(CheckedRow { key, profile: profile.into(), stamp, cells_left_out, cells });
        }
        Ok(checked)
    }

    /// Writes tag cells of a row anew: short ids and values, `None` for "no value". They get the
    /// greatest timestamp that the row has already, so that whatever its owner writes later wins.
    pub fn mend_cells(&self, row: &CheckedRow, tags: &[(String, Option<String>)]) -> Result<()> {
        let stamps = tags.iter().filter_map(|(tag, _)| row.cells.get(tag)).map(|cell| cell.stamp);
        let stamp = stamps.fold(row.stamp, i64::max);
        let cells = tags.iter().map(|(tag, value)| {
            let value = value.as_deref().unwrap_or("").as_bytes().to_vec();
            (format!("t:{tag}").into_bytes(), value)
        });
        let rows = std::iter::once(put(self.row(&row.key), cells));
        let refused = self.gateway.write(&self.tables.profile, rows, Some(stamp))?;
        none_refused("a tag cell", refused)
    }
}
