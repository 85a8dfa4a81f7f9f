//! A store behind a gate: for tests in which calls are counted, fail or panic.
//!
//! In: calls. Out: what the gate says, else what the store behind it says.
//! Invariant: every call that reads or writes passes the gate first.

use std::sync::Arc;

use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DueCursor, DuePack, Epoch, Identity, Ownership, Result,
    Store, StoreStats, Term, UidKey, WindowWrite,
};

/// Calls that a gate may want to tell from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Store::profiles`].
    Profiles,
    /// [`Store::dim_get`].
    DimGet,
    /// Any other.
    Other,
}

type Gate = Box<dyn Fn(Call) -> Result<()> + Send + Sync>;

/// See the module.
pub struct Intercepted {
    store: Arc<dyn Store>,
    gate: Gate,
}

impl Intercepted {
    /// Puts a gate before a store. An error of the gate is the call's.
    pub fn new(
        store: Arc<dyn Store>,
        gate: impl Fn(Call) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { store, gate: Box::new(gate) }
    }

    fn pass(&self, call: Call) -> Result<&dyn Store> {
        (self.gate)(call).map(|()| self.store.as_ref())
    }
}

impl Store for Intercepted {
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
        self.pass(Call::Other)?.take_term()
    }

    fn own(&self, ownership: Ownership) -> Result<()> {
        self.pass(Call::Other)?.own(ownership)
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.pass(Call::Profiles)?.profiles(keys)
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.pass(Call::Other)?.write_window(window)
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        self.pass(Call::Other)?.scan_profiles(after, rows_max)
    }

    fn scans_in_uid_order(&self) -> bool {
        self.store.scans_in_uid_order()
    }

    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        self.pass(Call::Other)?.scan_uids(after, rows_max)
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        self.pass(Call::Other)?.due_until(instant_ms, after, packs_max)
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.pass(Call::Other)?.meta(key)
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.pass(Call::Other)?.put_meta(key, value)
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        self.pass(Call::Other)?.replace_meta(key, expected, value)
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.pass(Call::Other)?.scan_meta(prefix)
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.pass(Call::Other)?.scan_rejects(after, rows_max)
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.pass(Call::Other)?.dim_begin(table)
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.pass(Call::Other)?.dim_put(table, epoch, rows)
    }

    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        self.pass(Call::Other)?.dim_put_changes(table, epoch, keys)
    }

    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.pass(Call::Other)?.dim_commit(table, meta)
    }

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.pass(Call::Other)?.dim_epochs(table)
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        self.pass(Call::Other)?.dim_tables()
    }

    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.pass(Call::DimGet)?.dim_get(table, epoch, keys)
    }

    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.pass(Call::Other)?.dim_scan(table, epoch, after, rows_max)
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.pass(Call::Other)?.dim_changes(table, epoch, after, rows_max)
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.pass(Call::Other)?.dim_drop(table, epoch)
    }

    fn stats(&self) -> Result<StoreStats> {
        self.pass(Call::Other)?.stats()
    }
}
