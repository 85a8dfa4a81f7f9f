//! A store behind a gate: for tests in which calls are counted, fail or panic.
//!
//! In: calls. Out: what the gate says, else what the store behind it says. If asked for, a window is not
//! written as a whole: piece by piece, as stores do that several processes share.
//! Invariant: every call that reads or writes passes the gate first.

use std::path::Path;
use std::sync::Arc;

use super::fjall::{Manifest, Progress};
use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, Identity, Ownership,
    Result, Store, StoreStats, Term, UidKey, WindowWrite,
};

/// Calls that a gate may want to tell from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Store::profiles`].
    Profiles,
    /// [`Store::dim_get`].
    DimGet,
    /// A part of [`Store::write_window`], of a store that writes it piece by piece.
    Piece,
    /// Any other.
    Other,
}

type Gate = Box<dyn Fn(Call) -> Result<()> + Send + Sync>;

/// See the module.
pub struct Intercepted {
    store: Arc<dyn Store>,
    gate: Gate,
    users_a_piece: Option<usize>,
}

impl Intercepted {
    /// Puts a gate before a store. An error of the gate is the call's.
    pub fn new(
        store: Arc<dyn Store>,
        gate: impl Fn(Call) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { store, gate: Box::new(gate), users_a_piece: None }
    }

    /// From now on windows are written piece by piece, so many profiles at once, each piece past the
    /// gate.
    #[must_use]
    pub fn in_pieces(mut self, users_a_piece: usize) -> Self {
        self.users_a_piece = Some(users_a_piece.max(1));
        self
    }

    fn pass(&self, call: Call) -> Result<&dyn Store> {
        (self.gate)(call).map(|()| self.store.as_ref())
    }
}

impl Store for Intercepted {
    fn identity(&self) -> &Identity {
        self.store.identity()
    }

    fn is_volatile(&self) -> bool {
        self.is_atomic() && self.store.is_volatile()
    }

    fn is_atomic(&self) -> bool {
        self.users_a_piece.is_none() && self.store.is_atomic()
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
        let Some(users) = self.users_a_piece else {
            return self.pass(Call::Other)?.write_window(window);
        };
        pieces(window, users)
            .into_iter()
            .try_for_each(|piece| self.pass(Call::Piece)?.write_window(piece))
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

    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        self.pass(Call::Other)?.dim_upsert(table, epoch, version, rows)
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

    fn snapshot(&self, dir: &Path, progress: Progress<'_>) -> Result<Manifest> {
        self.pass(Call::Other)?.snapshot(dir, progress)
    }

    fn stats(&self) -> Result<StoreStats> {
        self.pass(Call::Other)?.stats()
    }
}

/// A window in the order that [`Store::is_atomic`] names.
fn pieces(window: WindowWrite, users: usize) -> Vec<WindowWrite> {
    let mut pieces = Vec::new();
    let mut add = |is_empty: bool, piece: WindowWrite| {
        if !is_empty {
            pieces.push(piece);
        }
    };
    let none = WindowWrite::default;
    add(window.due.is_empty(), WindowWrite { due: window.due, ..none() });
    for profiles in window.profiles.chunks(users) {
        add(false, WindowWrite { profiles: profiles.to_vec(), ..none() });
    }
    add(window.removed.is_empty(), WindowWrite { removed: window.removed, ..none() });
    let (rejects, reject_ids) = (window.rejects, window.reject_ids);
    add(rejects.is_empty(), WindowWrite { rejects, reject_ids, ..none() });
    let done = window.rejects_done;
    add(done.is_empty(), WindowWrite { rejects_done: done, ..none() });
    add(window.due_done.is_empty(), WindowWrite { due_done: window.due_done, ..none() });
    add(window.meta.is_empty(), WindowWrite { meta: window.meta, ..none() });
    pieces
}
