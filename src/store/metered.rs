//! A store whose calls are counted and timed.
//!
//! In: calls. Out: what the store behind it says; metrics by call and outcome.
//! Invariant: changes nothing of calls and answers; costs two clock readings and a few additions.

use std::path::Path;
use std::sync::Arc;

use metrics::{Counter, Histogram};

use super::fjall::{Manifest, Progress};
use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, Identity, Ownership,
    Result, Store, StoreStats, Term, UidKey, WindowWrite,
};
use crate::clock::Stopwatch;
use crate::telemetry::names;

/// One call's metrics.
struct Meter {
    ok: Counter,
    error: Counter,
    seconds: Histogram,
}

impl Meter {
    fn new(call: &str) -> Self {
        Self {
            ok: names::STORE_CALLS.counter(&[call, "ok"]),
            error: names::STORE_CALLS.counter(&[call, "error"]),
            seconds: names::STORE_SECONDS.histogram(&[call]),
        }
    }

    fn time<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let watch = Stopwatch::start();
        let answer = call();
        self.seconds.record(watch.elapsed());
        if answer.is_ok() { &self.ok } else { &self.error }.increment(1);
        answer
    }
}

/// See the module.
pub struct Metered {
    store: Arc<dyn Store>,
    profiles: Meter,
    write_window: Meter,
    scan_profiles: Meter,
    due: Meter,
    meta: Meter,
    put_meta: Meter,
    rejects: Meter,
    dim_get: Meter,
    dim_scan: Meter,
    dim_meta: Meter,
    dim_write: Meter,
    stats: Meter,
}

impl Metered {
    /// Counts the calls of a store from now on. Metrics must have been installed before.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            profiles: Meter::new("profiles"),
            write_window: Meter::new("write_window"),
            scan_profiles: Meter::new("scan_profiles"),
            due: Meter::new("due"),
            meta: Meter::new("meta"),
            put_meta: Meter::new("put_meta"),
            rejects: Meter::new("rejects"),
            dim_get: Meter::new("dim_get"),
            dim_scan: Meter::new("dim_scan"),
            dim_meta: Meter::new("dim_meta"),
            dim_write: Meter::new("dim_write"),
            stats: Meter::new("stats"),
        }
    }
}

impl Store for Metered {
    fn identity(&self) -> &Identity {
        self.store.identity()
    }

    fn is_atomic(&self) -> bool {
        self.store.is_atomic()
    }

    fn wants_cells(&self) -> bool {
        self.store.wants_cells()
    }

    fn health(&self) -> Result<()> {
        self.store.health()
    }

    fn take_term(&self) -> Result<Term> {
        self.put_meta.time(|| self.store.take_term())
    }

    fn own(&self, ownership: Ownership) -> Result<()> {
        self.store.own(ownership)
    }

    fn scans_in_uid_order(&self) -> bool {
        self.store.scans_in_uid_order()
    }

    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        self.scan_profiles.time(|| self.store.scan_uids(after, rows_max))
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.profiles.time(|| self.store.profiles(keys))
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.write_window.time(|| self.store.write_window(window))
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        self.scan_profiles.time(|| self.store.scan_profiles(after, rows_max))
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        self.due.time(|| self.store.due_until(instant_ms, after, packs_max))
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.meta.time(|| self.store.meta(key))
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.put_meta.time(|| self.store.put_meta(key, value))
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        self.put_meta.time(|| self.store.replace_meta(key, expected, value))
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.meta.time(|| self.store.scan_meta(prefix))
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.rejects.time(|| self.store.scan_rejects(after, rows_max))
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.dim_write.time(|| self.store.dim_begin(table))
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.dim_write.time(|| self.store.dim_put(table, epoch, rows))
    }

    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        self.dim_write.time(|| self.store.dim_put_changes(table, epoch, keys))
    }

    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.dim_write.time(|| self.store.dim_commit(table, meta))
    }

    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        self.dim_write.time(|| self.store.dim_upsert(table, epoch, version, rows))
    }

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.dim_meta.time(|| self.store.dim_epochs(table))
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        self.dim_meta.time(|| self.store.dim_tables())
    }

    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.dim_get.time(|| self.store.dim_get(table, epoch, keys))
    }

    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.dim_scan.time(|| self.store.dim_scan(table, epoch, after, rows_max))
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.dim_scan.time(|| self.store.dim_changes(table, epoch, after, rows_max))
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.dim_write.time(|| self.store.dim_drop(table, epoch))
    }

    fn snapshot(&self, dir: &Path, progress: Progress<'_>) -> Result<Manifest> {
        self.store.snapshot(dir, progress)
    }

    fn stats(&self) -> Result<StoreStats> {
        self.stats.time(|| self.store.stats())
    }

    fn dim_current(&self, table: &str) -> Result<Option<DimMeta>> {
        self.dim_meta.time(|| self.store.dim_current(table))
    }
}
