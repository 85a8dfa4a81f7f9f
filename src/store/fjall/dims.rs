//! Dimension tables of the embedded store: a keyspace for each epoch's rows, one for its changes if
//! there are any.
//!
//! In: rows in any order. Out: rows by key. Invariant: rows of a load go as sorted tables past the
//! journal; they count only once the commit's meta value is on disk.

use fjall::config::BlockSizePolicy;
use fjall::{Keyspace, KeyspaceCreateOptions};

use super::FjallStore;
use crate::store::argument::check_table;
use crate::store::{
    Bytes, ChangeKind, DimMeta, DimRow, DimState, DimUpsert, Epoch, META_PREFIX_DIMS, Result,
    Store, StoreError, behind,
};

pub(super) fn rows_name(table: &str, epoch: Epoch) -> String {
    format!("dim.{table}.{epoch}")
}

fn changes_name(table: &str, epoch: Epoch) -> String {
    format!("dimchange.{table}.{epoch}")
}

pub(super) fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Written once, read whole or by key. The levels a load writes are not compressed: that took
        // about 40 of 120 ms of CPU to store 200,000 rows of 40 columns. Deeper ones are.
        .data_block_size_policy(BlockSizePolicy::all(16 << 10))
        .manual_journal_persist(true)
}

pub(super) fn state(store: &FjallStore, table: &str) -> Result<DimState> {
    match store.meta(&format!("{META_PREFIX_DIMS}{table}"))? {
        Some(value) => DimState::decode(table, &value),
        None => Ok(DimState::default()),
    }
}

fn put_state(store: &FjallStore, table: &str, state: &DimState) -> Result<()> {
    store.put_meta(&format!("{META_PREFIX_DIMS}{table}"), state.encode())
}

fn existing(store: &FjallStore, table: &str, epoch: Epoch, name: &str) -> Result<Keyspace> {
    // Asked first: `keyspace` would make what is not there.
    if !store.db.keyspace_exists(name) {
        return Err(StoreError::NoEpoch { table: table.to_owned(), epoch });
    }
    store.db.keyspace(name, options).map_err(|e| store.error(e))
}

pub(super) fn rows(store: &FjallStore, table: &str, epoch: Epoch) -> Result<Keyspace> {
    existing(store, table, epoch, &rows_name(table, epoch))
}

pub(super) fn begin(store: &FjallStore, table: &str) -> Result<Epoch> {
    check_table(table)?;
    let mut state = state(store, table)?;
    let (epoch, unfinished) = state.begin();
    // The number is taken before anything is written under it.
    put_state(store, table, &state)?;
    if let Some(unfinished) = unfinished {
        remove_keyspaces(store, table, unfinished)?;
    }
    let name = rows_name(table, epoch);
    store.db.keyspace(&name, options).map_err(|e| store.error(e))?;
    Ok(epoch)
}

pub(super) fn put(store: &FjallStore, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
    let keyspace = self::rows(store, table, epoch)?;
    ingest(store, &keyspace, rows)
}

pub(super) fn put_changes(
    store: &FjallStore,
    table: &str,
    epoch: Epoch,
    keys: Vec<(Vec<u8>, ChangeKind)>,
) -> Result<()> {
    rows(store, table, epoch)?;
    if keys.is_empty() {
        return Ok(());
    }
    // Made when there is something to keep: a keyspace costs some twenty fsyncs.
    let name = changes_name(table, epoch);
    let keyspace = store.db.keyspace(&name, options).map_err(|e| store.error(e))?;
    let row = |(key, kind): (Vec<u8>, ChangeKind)| (key.into(), [kind.to_byte()][..].into());
    let rows = keys.into_iter().map(row).collect();
    ingest(store, &keyspace, rows)
}

/// Writes rows as sorted tables. Of equal keys the last one stays.
fn ingest(store: &FjallStore, keyspace: &Keyspace, mut rows: Vec<DimRow>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    // Stable: rows with equal keys keep their order, so that the last one can be told.
    if !rows.is_sorted_by(|a, b| a.0[..] < b.0[..]) {
        rows.sort_by(|a, b| a.0[..].cmp(&b.0[..]));
    }
    let error = |e| store.error(e);
    let mut ingestion = keyspace.start_ingestion().map_err(error)?;
    let mut rows = rows.into_iter().peekable();
    while let Some((key, row)) = rows.next() {
        if rows.peek().is_some_and(|next| next.0 == key) {
            continue;
        }
        ingestion.write(key.0, row.0).map_err(error)?;
    }
    ingestion.finish().map_err(error)
}

/// Rows of a committed epoch: they go through the journal, a batch at once.
pub(super) fn upsert(
    store: &FjallStore,
    table: &str,
    epoch: Epoch,
    rows: Vec<DimUpsert>,
) -> Result<()> {
    let keyspace = self::rows(store, table, epoch)?;
    let mut batch = store.batch(rows.len());
    for (key, row) in rows {
        match row {
            Some(row) => batch.insert(&keyspace, key.0, row.0),
            None => batch.remove(&keyspace, key.0),
        }
    }
    batch.commit().map_err(|e| store.error(e))
}

pub(super) fn commit(store: &FjallStore, table: &str, meta: DimMeta) -> Result<()> {
    let mut state = state(store, table)?;
    let surplus = state.commit(table, meta)?;
    put_state(store, table, &state)?;
    for epoch in surplus {
        remove_keyspaces(store, table, epoch)?;
    }
    Ok(())
}

pub(super) fn drop_epoch(store: &FjallStore, table: &str, epoch: Epoch) -> Result<()> {
    let mut state = state(store, table)?;
    state.drop_epoch(epoch);
    put_state(store, table, &state)?;
    remove_keyspaces(store, table, epoch)
}

fn remove_keyspaces(store: &FjallStore, table: &str, epoch: Epoch) -> Result<()> {
    for name in [rows_name(table, epoch), changes_name(table, epoch)] {
        if store.db.keyspace_exists(&name) {
            let keyspace = store.db.keyspace(&name, options).map_err(|e| store.error(e))?;
            store.db.delete_keyspace(keyspace).map_err(|e| store.error(e))?;
        }
    }
    Ok(())
}

pub(super) fn get(
    store: &FjallStore,
    table: &str,
    epoch: Epoch,
    keys: &[&[u8]],
) -> Result<Vec<Option<Bytes>>> {
    let rows = rows(store, table, epoch)?;
    keys.iter()
        .map(|key| match rows.get(key) {
            Ok(row) => Ok(row.map(Bytes)),
            Err(error) => Err(store.error(error)),
        })
        .collect()
}

pub(super) fn changes(
    store: &FjallStore,
    table: &str,
    epoch: Epoch,
    after: Option<&[u8]>,
    rows_max: usize,
) -> Result<Vec<(Bytes, ChangeKind)>> {
    let name = changes_name(table, epoch);
    if !store.db.keyspace_exists(&name) {
        return rows(store, table, epoch).map(|_| Vec::new());
    }
    let keyspace = existing(store, table, epoch, &name)?;
    store.collect(keyspace.range::<&[u8], _>(behind(after)), rows_max, |key, value| {
        Ok((Bytes(key), ChangeKind::from_value(table, &value)?))
    })
}
