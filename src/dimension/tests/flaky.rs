//! A store whose plug can be pulled, and that counts multi-gets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::store::{
    Bytes, ChangeKind, DimMeta, DimRow, DueCursor, DuePack, Epoch, Identity, Result, Store,
    StoreError, StoreStats, UidKey, WindowWrite,
};

/// See the module.
pub(super) struct Flaky {
    pub(super) store: Box<dyn Store>,
    pub(super) down: AtomicBool,
    pub(super) gets: AtomicUsize,
}

impl Flaky {
    fn up(&self) -> Result<&dyn Store> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "pulled plug".to_owned() });
        }
        Ok(&*self.store)
    }
}

impl Store for Flaky {
    fn identity(&self) -> &Identity {
        self.store.identity()
    }
    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.up()?.profiles(keys)
    }
    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.up()?.write_window(window)
    }
    fn scan_profiles(&self, after: Option<&UidKey>, max: usize) -> Result<Vec<(UidKey, Bytes)>> {
        self.up()?.scan_profiles(after, max)
    }
    fn due_until(&self, ms: i64, after: Option<DueCursor>, max: usize) -> Result<Vec<DuePack>> {
        self.up()?.due_until(ms, after, max)
    }
    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.up()?.meta(key)
    }
    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.up()?.put_meta(key, value)
    }
    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.up()?.scan_meta(prefix)
    }
    fn scan_rejects(&self, after: Option<u64>, max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.up()?.scan_rejects(after, max)
    }
    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.up()?.dim_begin(table)
    }
    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.up()?.dim_put(table, epoch, rows)
    }
    fn dim_put_changes(&self, t: &str, e: Epoch, keys: Vec<(Vec<u8>, ChangeKind)>) -> Result<()> {
        self.up()?.dim_put_changes(t, e, keys)
    }
    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.up()?.dim_commit(table, meta)
    }
    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.up()?.dim_epochs(table)
    }
    fn dim_tables(&self) -> Result<Vec<String>> {
        self.up()?.dim_tables()
    }
    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.up()?.dim_get(table, epoch, keys)
    }
    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.up()?.dim_scan(table, epoch, after, max)
    }
    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.up()?.dim_changes(table, epoch, after, max)
    }
    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.up()?.dim_drop(table, epoch)
    }
    fn stats(&self) -> Result<StoreStats> {
        self.up()?.stats()
    }
}
