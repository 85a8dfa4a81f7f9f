//! A store in memory: for tests, for cases and for measuring without a disk.
//!
//! In and out: as [`Store`] says. Invariant: nothing survives the process; everything else behaves
//! as the embedded store does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::argument::{check_meta_key, check_table};
use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimState, DimUpsert, DueCursor, DuePack, Epoch, Identity,
    META_PREFIX_DIMS, Ownership, Result, Store, StoreError, StoreStats, TagShortId, Term, UidKey,
    WindowWrite, behind,
};

/// See the module.
pub struct MemoryStore {
    identity: Identity,
    rejects_max: usize,
    is_shared: bool,
    leaves_out_cells: AtomicBool,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    profiles: BTreeMap<UidKey, Bytes>,
    profile_bytes: u64,
    cells: BTreeMap<UidKey, BTreeMap<TagShortId, String>>,
    due: BTreeMap<DueCursor, DuePack>,
    meta: BTreeMap<String, Bytes>,
    rejects: BTreeMap<u64, Bytes>,
    rejects_next: u64,
    rejects_dropped: u64,
    last_term: u64,
    dims: BTreeMap<(String, Epoch), Table>,
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<Bytes, Bytes>,
    changes: BTreeMap<Bytes, ChangeKind>,
    /// Of keys that were put or taken away since the load.
    versions: BTreeMap<Bytes, u64>,
}

impl MemoryStore {
    /// An empty store that keeps at most `rejects_max` rejects.
    pub fn new(identity: Identity, rejects_max: usize) -> Self {
        let leaves_out_cells = AtomicBool::new(false);
        Self { identity, rejects_max, is_shared: false, leaves_out_cells, inner: RwLock::default() }
    }

    /// The same as a store that processes share: with tag cells, and without the promise that a window
    /// is written as a whole. For tests of what rests on that.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// From now on tag cells of a shared store are left out, as `store.hbase.tag_cells = false` does; or
    /// not any more.
    pub fn leave_out_cells(&self, left_out: bool) {
        self.leaves_out_cells.store(left_out, Ordering::Relaxed);
    }

    /// A user's tag cells, of a shared store.
    pub fn cells_of(&self, key: &UidKey) -> BTreeMap<TagShortId, String> {
        self.read().cells.get(key).cloned().unwrap_or_default()
    }

    // A panic while the lock was held cannot have left a half-applied window: nothing that is done
    // under the write lock can fail.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn dim_state(&self, table: &str) -> Result<DimState> {
        match self.meta.get(&format!("{META_PREFIX_DIMS}{table}")) {
            Some(value) => DimState::decode(table, value),
            None => Ok(DimState::default()),
        }
    }

    fn put_cells(&mut self, window: &WindowWrite) {
        for ((key, _), cells) in window.profiles.iter().zip(&window.cells) {
            let row = self.cells.entry(key.clone()).or_default();
            for (tag, value) in &cells.tags {
                row.insert(tag.clone(), value.as_deref().unwrap_or_default().to_owned());
            }
        }
    }

    fn put_dim_state(&mut self, table: &str, state: &DimState) {
        self.meta.insert(format!("{META_PREFIX_DIMS}{table}"), state.encode().into());
    }

    fn table(&self, table: &str, epoch: Epoch) -> Result<&Table> {
        self.dims.get(&(table.to_owned(), epoch)).ok_or_else(|| no_epoch(table, epoch))
    }

    fn table_mut(&mut self, table: &str, epoch: Epoch) -> Result<&mut Table> {
        self.dims.get_mut(&(table.to_owned(), epoch)).ok_or_else(|| no_epoch(table, epoch))
    }

    fn put_profiles(&mut self, mut rows: Vec<(UidKey, Bytes)>) {
        if is_bulk(rows.len(), self.profiles.len()) {
            self.profiles.append(&mut rows.into_iter().collect());
            self.profile_bytes = self.profiles.values().map(|value| value.len() as u64).sum();
            return;
        }
        // Neighbours find each other's nodes in the cache. Stable: the last one of a key wins.
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in rows {
            self.profile_bytes += value.len() as u64;
            let old = self.profiles.insert(key, value);
            self.profile_bytes -= old.map_or(0, |old| old.len() as u64);
        }
    }

    fn remove_profile(&mut self, key: &UidKey) {
        if let Some(old) = self.profiles.remove(key) {
            self.profile_bytes -= old.len() as u64;
        }
    }

    fn append_rejects(&mut self, rejects: Vec<Vec<u8>>, rejects_max: usize) {
        for reject in rejects {
            self.rejects.insert(self.rejects_next, reject.into());
            self.rejects_next += 1;
        }
        while self.rejects.len() > rejects_max {
            self.rejects.pop_first();
            self.rejects_dropped += 1;
        }
    }
}

/// Whether so many new rows are merged with those there faster than they are inserted one by one.
fn is_bulk(new: usize, there: usize) -> bool {
    new >= there / 4
}

fn no_epoch(table: &str, epoch: Epoch) -> StoreError {
    StoreError::NoEpoch { table: table.to_owned(), epoch }
}

impl Store for MemoryStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_atomic(&self) -> bool {
        !self.is_shared
    }

    fn is_volatile(&self) -> bool {
        // A shared one stands for a store on other machines.
        !self.is_shared
    }

    fn wants_cells(&self) -> bool {
        self.is_shared && !self.leaves_out_cells.load(Ordering::Relaxed)
    }

    fn take_term(&self) -> Result<Term> {
        let mut inner = self.write();
        inner.last_term += 1;
        Term::new(inner.last_term)
    }

    fn own(&self, _: Ownership) -> Result<()> {
        Ok(())
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        let inner = self.read();
        Ok(keys.iter().map(|key| inner.profiles.get(key).cloned()).collect())
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        window.meta.iter().try_for_each(|(key, _)| check_meta_key(key))?;
        let mut guard = self.write();
        let inner = &mut *guard;
        if self.is_shared {
            inner.put_cells(&window);
        }
        inner.put_profiles(window.profiles);
        for key in &window.removed {
            inner.remove_profile(key);
        }
        for cursor in &window.due_done {
            inner.due.remove(cursor);
        }
        for mut pack in window.due {
            pack.keys.sort_unstable();
            pack.keys.dedup();
            inner.due.insert(pack.cursor, pack);
        }
        for (key, value) in window.meta {
            inner.meta.insert(key, value.into());
        }
        for sequence in &window.rejects_done {
            inner.rejects.remove(sequence);
        }
        inner.append_rejects(window.rejects, self.rejects_max);
        Ok(())
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        let inner = self.read();
        let rows = inner.profiles.range::<[u8], _>(behind(after.map(UidKey::as_bytes)));
        let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
        Ok(rows.take(rows_max).collect())
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        let inner = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let packs = inner.due.range((from, Bound::Unbounded)).map(|(_, pack)| pack);
        let packs = packs.take_while(|pack| pack.cursor.due_ms <= instant_ms);
        Ok(packs.take(packs_max).cloned().collect())
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        check_meta_key(key)?;
        Ok(self.read().meta.get(key).cloned())
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        check_meta_key(key)?;
        self.write().meta.insert(key.to_owned(), value.into());
        Ok(())
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        check_meta_key(key)?;
        let mut inner = self.write();
        if inner.meta.get(key).map(|there| &**there) != expected {
            return Ok(false);
        }
        inner.meta.insert(key.to_owned(), value.into());
        Ok(true)
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let inner = self.read();
        let rows = inner.meta.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix));
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.read();
        let rows = inner.rejects.range((from, Bound::Unbounded));
        Ok(rows.take(rows_max).map(|(sequence, value)| (*sequence, value.clone())).collect())
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        check_table(table)?;
        let mut inner = self.write();
        let mut state = inner.dim_state(table)?;
        let (epoch, unfinished) = state.begin();
        if let Some(unfinished) = unfinished {
            inner.dims.remove(&(table.to_owned(), unfinished));
        }
        inner.dims.insert((table.to_owned(), epoch), Table::default());
        inner.put_dim_state(table, &state);
        Ok(epoch)
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        let mut inner = self.write();
        let stored = &mut inner.table_mut(table, epoch)?.rows;
        if is_bulk(rows.len(), stored.len()) {
            stored.append(&mut rows.into_iter().collect());
        } else {
            stored.extend(rows);
        }
        Ok(())
    }

    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        self.write()
            .table_mut(table, epoch)?
            .changes
            .extend(keys.into_iter().map(|(key, kind)| (key.into(), kind)));
        Ok(())
    }

    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        let mut inner = self.write();
        let mut state = inner.dim_state(table)?;
        for epoch in state.commit(table, meta)? {
            inner.dims.remove(&(table.to_owned(), epoch));
        }
        inner.put_dim_state(table, &state);
        Ok(())
    }

    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        let mut inner = self.write();
        let stored = inner.table_mut(table, epoch)?;
        for (key, row) in rows {
            if stored.versions.get(&key).is_some_and(|there| *there > version) {
                continue;
            }
            stored.versions.insert(key.clone(), version);
            match row {
                Some(row) => stored.rows.insert(key, row),
                None => stored.rows.remove(&key),
            };
        }
        Ok(())
    }

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        Ok(self.read().dim_state(table)?.epochs)
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        super::dims::tables(self)
    }

    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        let inner = self.read();
        let rows = &inner.table(table, epoch)?.rows;
        Ok(keys.iter().map(|key| rows.get(*key).cloned()).collect())
    }

    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let inner = self.read();
        let rows = inner.table(table, epoch)?.rows.range::<[u8], _>(behind(after));
        let rows = rows.map(|(key, row)| (key.clone(), row.clone()));
        Ok(rows.take(rows_max).collect())
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        let inner = self.read();
        let rows = inner.table(table, epoch)?.changes.range::<[u8], _>(behind(after));
        Ok(rows.take(rows_max).map(|(key, kind)| (key.clone(), *kind)).collect())
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        let mut inner = self.write();
        let mut state = inner.dim_state(table)?;
        state.drop_epoch(epoch);
        inner.dims.remove(&(table.to_owned(), epoch));
        inner.put_dim_state(table, &state);
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats> {
        let inner = self.read();
        Ok(StoreStats {
            disk_bytes: 0,
            journal_bytes: 0,
            cached_bytes: inner.profile_bytes,
            profiles_approximate: inner.profiles.len() as u64,
            rejects: inner.rejects.len() as u64,
            rejects_dropped: inner.rejects_dropped,
        })
    }
}
