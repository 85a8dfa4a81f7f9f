//! A store that waits for the one behind it to come back.
//!
//! In: calls. Out: what the store behind says; while it says that it cannot be reached, the call is
//! made again, for as long as whoever runs the engine allows. Lookups in dimension tables are not
//! waited for: their callers have rows of earlier, and say that these are stale.
//! Invariant: an error that a later try would not mend is given on at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, Identity, Ownership,
    Result, Store, StoreStats, Term, UidKey, WindowWrite,
};

/// Between two tries.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tries between two lines of the log.
const TELL_EVERY: u32 = 30;

type GoesOn = Box<dyn Fn() -> bool + Send>;

/// Whether to go on waiting: set by whoever runs an engine over the store.
#[derive(Clone, Default)]
pub struct Patience(Arc<Mutex<Option<GoesOn>>>);

impl Patience {
    /// From now on calls are tried again as long as this holds.
    pub fn while_holds(&self, goes_on: impl Fn() -> bool + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(goes_on));
    }

    fn holds(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|holds| holds())
    }
}

/// See the module.
pub struct PatientStore {
    store: Arc<dyn Store>,
    patience: Patience,
}

impl PatientStore {
    /// Waits for a store. Before anybody has set the patience there is none.
    pub fn new(store: Arc<dyn Store>, patience: Patience) -> Self {
        Self { store, patience }
    }

    fn call<T>(&self, what: &str, mut call: impl FnMut(&dyn Store) -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let error = match call(self.store.as_ref()) {
                Err(error) if error.retry() && self.patience.holds() => error,
                other => {
                    if tries > 0 && other.is_ok() {
                        tracing::info!(what, tries, "the store is back");
                    }
                    return other;
                }
            };
            if tries % TELL_EVERY == 0 {
                tracing::warn!(what, tries, %error, "waiting for the store");
            }
            tries += 1;
            // No condition to wait on: the store's own circuit says when a try is worth it.
            std::thread::park_timeout(AGAIN_AFTER);
        }
    }
}

impl Store for PatientStore {
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
        self.call("take_term", |store| store.take_term())
    }

    fn own(&self, ownership: Ownership) -> Result<()> {
        self.call("own", |store| store.own(ownership.clone()))
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.call("profiles", |store| store.profiles(keys))
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.call("write_window", |store| store.write_window(window.clone()))
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        self.call("scan_profiles", |store| store.scan_profiles(after, rows_max))
    }

    fn scans_in_uid_order(&self) -> bool {
        self.store.scans_in_uid_order()
    }

    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        self.call("scan_uids", |store| store.scan_uids(after, rows_max))
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        self.call("due_until", |store| store.due_until(instant_ms, after, packs_max))
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.call("meta", |store| store.meta(key))
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.call("put_meta", |store| store.put_meta(key, value.clone()))
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        self.call("replace_meta", |store| store.replace_meta(key, expected, value.clone()))
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.call("scan_meta", |store| store.scan_meta(prefix))
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.call("scan_rejects", |store| store.scan_rejects(after, rows_max))
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.store.dim_begin(table)
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.store.dim_put(table, epoch, rows)
    }

    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        self.store.dim_put_changes(table, epoch, keys)
    }

    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.store.dim_commit(table, meta)
    }

    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        self.store.dim_upsert(table, epoch, version, rows)
    }

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.call("dim_epochs", |store| store.dim_epochs(table))
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        self.call("dim_tables", |store| store.dim_tables())
    }

    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.store.dim_get(table, epoch, keys)
    }

    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.call("dim_scan", |store| store.dim_scan(table, epoch, after, rows_max))
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.call("dim_changes", |store| store.dim_changes(table, epoch, after, rows_max))
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.store.dim_drop(table, epoch)
    }

    fn stats(&self) -> Result<StoreStats> {
        self.store.stats()
    }
}
