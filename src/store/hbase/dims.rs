//! Dimension tables in HBase: one HBase table for each, rows by epoch and key.
//!
//! In: rows in any order. Out: rows by key. Each epoch has a row that marks it, read together with
//! the rows asked for, so that a dropped epoch is an error and not a table without rows.
//! Invariant: rows count only once the commit's small value is written; an epoch's number is never
//! used twice, so what deletes it can delete for good. A row that was taken away from a committed
//! epoch stays as a cell that says so: a deletion of HBase's own is forgotten at a compaction, and what
//! an older version still puts afterwards would be back.

use super::gateway::{Cell, Range, delete, put};
use super::keys::{DimPart, behind_prefix, dim_key, dim_row, dim_table, next};
use super::window::{check_bytes, none_refused};
use super::{HbaseStore, only_value, schema};
use crate::store::argument::check_table;
use crate::store::{
    Bytes, ChangeKind, DimMeta, DimRow, DimState, DimUpsert, Epoch, META_PREFIX_DIMS, Result,
    Store, StoreError,
};

const CELL: &str = "d:v";

/// Later than all that anybody writes, earlier than "now" to HBase.
const DROP_STAMP: i64 = i64::MAX - 1;

/// Stamps of rows that were put after the load: later than those of a load, which are milliseconds.
const UPSERT_STAMP: i64 = 1 << 60;

/// The value of a row that is gone. No row is encoded so: of a row's one byte of flags all eight say
/// that a value follows.
const GONE: &[u8] = &[0xff];

/// Rows deleted at once.
const DROP_ROWS: usize = 8_000;

fn meta_key(table: &str) -> String {
    format!("{META_PREFIX_DIMS}{table}")
}

fn name(store: &HbaseStore, table: &str) -> String {
    dim_table(&store.gateway.options.prefix, table)
}

fn no_epoch(table: &str, epoch: Epoch) -> StoreError {
    StoreError::NoEpoch { table: table.to_owned(), epoch }
}

/// A table that was never loaded has no epoch.
fn known<T>(answer: Result<T>, table: &str, epoch: Epoch) -> Result<T> {
    match answer {
        Err(StoreError::NoTable { .. }) => Err(no_epoch(table, epoch)),
        answer => answer,
    }
}

pub(super) fn state(store: &HbaseStore, table: &str) -> Result<DimState> {
    match store.meta(&meta_key(table))? {
        Some(value) => DimState::decode(table, &value),
        None => Ok(DimState::default()),
    }
}

fn put_state(store: &HbaseStore, table: &str, state: &DimState) -> Result<()> {
    store.put_small(&meta_key(table), state.encode())
}

pub(super) fn begin(store: &HbaseStore, table: &str) -> Result<Epoch> {
    check_table(table)?;
    let mut state = state(store, table)?;
    let (epoch, unfinished) = state.begin();
    // The number is taken before anything is written under it.
    put_state(store, table, &state)?;
    let name = name(store, table);
    store.gateway.create(&name, schema::dim_families())?;
    if let Some(unfinished) = unfinished {
        remove(store, table, unfinished)?;
    }
    let cell = (CELL.as_bytes().to_vec(), b"1".to_vec());
    let mark = put(dim_row(epoch, DimPart::Mark, b""), [cell]);
    let stamp = Some(store.stamps.without_term());
    none_refused("an epoch's mark", store.gateway.write(&name, std::iter::once(mark), stamp)?)?;
    Ok(epoch)
}

/// Rows of an epoch with their epoch's mark asked for in the same call.
fn rows_of(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    mut rows: Vec<Vec<u8>>,
) -> Result<Vec<Option<Bytes>>> {
    rows.push(dim_row(epoch, DimPart::Mark, b""));
    let cells = store.gateway.get(&name(store, table), &rows, CELL);
    let mut cells = known(cells, table, epoch)?;
    match cells.pop().flatten() {
        Some(_) => {
            let there = |cell: Option<Cell>| cell.filter(|cell| cell.value != GONE);
            let value = |cell| there(cell).map(|cell| cell.value.into());
            Ok(cells.into_iter().map(value).collect())
        }
        None => Err(no_epoch(table, epoch)),
    }
}

fn write(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    part: DimPart,
    stamp: i64,
    rows: impl Iterator<Item = (Bytes, Vec<u8>)>,
) -> Result<()> {
    rows_of(store, table, epoch, Vec::new())?;
    // Of equal keys the last one stays: batches of one timestamp are under way at once.
    let mut last = std::collections::BTreeMap::new();
    for (key, value) in rows {
        check_bytes("a dimension's row", value.len())?;
        last.insert(key, value);
    }
    let rows = last
        .into_iter()
        .map(|(key, value)| put(dim_row(epoch, part, &key), [(CELL.as_bytes().to_vec(), value)]));
    none_refused("a dimension's row", store.gateway.write(&name(store, table), rows, Some(stamp))?)
}

pub(super) fn put_rows(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    rows: Vec<DimRow>,
) -> Result<()> {
    let rows = rows.into_iter().map(|(key, row)| (key, row.to_vec()));
    write(store, table, epoch, DimPart::Row, store.stamps.without_term(), rows)
}

pub(super) fn upsert(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    version: u64,
    rows: Vec<DimUpsert>,
) -> Result<()> {
    let value = |row: Option<Bytes>| row.map_or_else(|| GONE.to_vec(), |row| row.to_vec());
    let rows = rows.into_iter().map(|(key, row)| (key, value(row)));
    let stamp = UPSERT_STAMP | version.cast_signed();
    write(store, table, epoch, DimPart::Row, stamp, rows)
}

pub(super) fn put_changes(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    keys: Vec<(Vec<u8>, ChangeKind)>,
) -> Result<()> {
    let rows = keys.into_iter().map(|(key, kind)| (key.into(), vec![kind.to_byte()]));
    write(store, table, epoch, DimPart::Change, store.stamps.without_term(), rows)
}

pub(super) fn commit(store: &HbaseStore, table: &str, meta: DimMeta) -> Result<()> {
    let mut state = state(store, table)?;
    let surplus = state.commit(table, meta)?;
    put_state(store, table, &state)?;
    surplus.into_iter().try_for_each(|epoch| remove(store, table, epoch))
}

pub(super) fn drop_epoch(store: &HbaseStore, table: &str, epoch: Epoch) -> Result<()> {
    let mut state = state(store, table)?;
    state.drop_epoch(epoch);
    put_state(store, table, &state)?;
    match remove(store, table, epoch) {
        Err(StoreError::NoTable { .. }) => Ok(()),
        removed => removed,
    }
}

/// Deletes an epoch's rows, its mark first: whoever reads meanwhile sees that it is gone.
fn remove(store: &HbaseStore, table: &str, epoch: Epoch) -> Result<()> {
    let name = name(store, table);
    let mark = dim_row(epoch, DimPart::Mark, b"");
    let gone = std::iter::once(delete(mark.clone(), &["d"]));
    none_refused("a deletion", store.gateway.write(&name, gone, Some(DROP_STAMP))?)?;
    let mut range = Range {
        stop: behind_prefix(&mark[..16]),
        start: mark,
        columns: vec![CELL.as_bytes().to_vec()],
        keys_only: true,
    };
    loop {
        let rows = store.gateway.scan(&name, &range, DROP_ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        range.start = next(last);
        let gone = rows.into_iter().map(|(row, _)| delete(row, &["d"]));
        none_refused("a deletion", store.gateway.write(&name, gone, Some(DROP_STAMP))?)?;
    }
}

pub(super) fn get(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    keys: &[&[u8]],
) -> Result<Vec<Option<Bytes>>> {
    let rows = keys.iter().map(|key| dim_row(epoch, DimPart::Row, key)).collect();
    rows_of(store, table, epoch, rows)
}

fn part(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    part: DimPart,
    after: Option<&[u8]>,
    rows_max: usize,
) -> Result<Vec<(Bytes, Vec<u8>)>> {
    rows_of(store, table, epoch, Vec::new())?;
    let prefix = dim_row(epoch, part, b"");
    let range = Range {
        start: after.map_or_else(|| prefix.clone(), |key| next(&dim_row(epoch, part, key))),
        stop: behind_prefix(&prefix),
        columns: vec![CELL.as_bytes().to_vec()],
        keys_only: false,
    };
    let rows = store.gateway.scan(&name(store, table), &range, rows_max)?;
    Ok(rows.into_iter().map(|(row, cells)| (dim_key(&row).into(), only_value(cells))).collect())
}

pub(super) fn scan(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    after: Option<&[u8]>,
    rows_max: usize,
) -> Result<Vec<(Bytes, Bytes)>> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    let mut after = after.map(Bytes::from);
    // A page that is not full is the last one to whoever reads on: those that are gone do not count.
    while found.len() < rows_max {
        let wanted = rows_max - found.len();
        let rows = part(store, table, epoch, DimPart::Row, after.as_deref(), wanted)?;
        let ended = rows.len() < wanted;
        after = rows.last().map(|(key, _)| key.clone());
        let there = rows.into_iter().filter(|(_, value)| value != GONE);
        found.extend(there.map(|(key, value)| (key, value.into())));
        if ended {
            break;
        }
    }
    Ok(found)
}

pub(super) fn changes(
    store: &HbaseStore,
    table: &str,
    epoch: Epoch,
    after: Option<&[u8]>,
    rows_max: usize,
) -> Result<Vec<(Bytes, ChangeKind)>> {
    let rows = part(store, table, epoch, DimPart::Change, after, rows_max)?;
    let kind = |(key, value): (Bytes, Vec<u8>)| Ok((key, ChangeKind::from_value(table, &value)?));
    rows.into_iter().map(kind).collect()
}
