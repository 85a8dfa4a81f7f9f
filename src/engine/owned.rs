//! A shared store as one owner of some partitions sees it.
//!
//! In: the store that processes share, the partitions that this one owns. Out: scans of its own users
//! only; small values about work on all of them under a name of the partitions they are about.
//! Invariant: what is said to be done for some partitions is not taken for done for others: whoever
//! owns other ones does it again, which changes nothing where it was done.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::job::RECOMPUTE_KEY;
use super::reload::APPLIED_PREFIX;
use super::version::RECOMPUTED_KEY;
use crate::store::{
    Bytes, ChangeKind, DimMeta, DimRow, DueCursor, DuePack, Epoch, Identity, Ownership, Result,
    Store, StoreStats, Term, UidKey, WindowWrite,
};
use crate::user::snapshot::decode_tags;
use crate::write::window::{FOLDS_KEY, TOTALS_KEY};

/// Rows of a page of a scan, at least.
const PAGE_ROWS_MIN: usize = 256;

/// See the module.
pub(super) struct OwnedStore {
    store: Arc<dyn Store>,
    partitions: BTreeSet<u32>,
    name: String,
}

impl OwnedStore {
    pub(super) fn new(store: Arc<dyn Store>, partitions: &[u32]) -> Self {
        let partitions: BTreeSet<u32> = partitions.iter().copied().collect();
        let name = partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        Self { store, partitions, name }
    }

    /// The key under which a small value is kept.
    fn key(&self, key: &str) -> String {
        let is_own = [RECOMPUTED_KEY, RECOMPUTE_KEY, TOTALS_KEY, FOLDS_KEY].contains(&key)
            || key.starts_with(APPLIED_PREFIX);
        if is_own { format!("{key}@{}", self.name) } else { key.to_owned() }
    }

    /// Whether a user is this owner's. One whose events came from files belongs to nobody, and a
    /// profile that cannot be read is given on, so that it is told.
    fn owns(&self, profile: &[u8]) -> bool {
        let applied = decode_tags(profile).and_then(|tags| tags.applied());
        applied.map_or(true, |a| a.partition.is_some_and(|p| self.partitions.contains(&p)))
    }
}

impl Store for OwnedStore {
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
        self.store.take_term()
    }

    fn own(&self, ownership: Ownership) -> Result<()> {
        self.store.own(ownership)
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.store.profiles(keys)
    }

    fn own_profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        let mut found = self.store.profiles(keys)?;
        for profile in &mut found {
            profile.take_if(|profile| !self.owns(profile));
        }
        Ok(found)
    }

    fn write_window(&self, mut window: WindowWrite) -> Result<()> {
        for (key, _) in &mut window.meta {
            *key = self.key(key);
        }
        self.store.write_window(window)
    }

    fn has_profiles(&self) -> Result<bool> {
        self.store.has_profiles()
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        let mut after = after.cloned();
        loop {
            // Most rows may be others': a page is worth its call.
            let page = rows_max.max(PAGE_ROWS_MIN);
            let mut rows = self.store.scan_profiles(after.as_ref(), page)?;
            let Some((last, _)) = rows.last() else { return Ok(rows) };
            after = Some(last.clone());
            rows.retain(|(_, profile)| self.owns(profile));
            rows.truncate(rows_max);
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    fn scans_in_uid_order(&self) -> bool {
        self.store.scans_in_uid_order()
    }

    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        self.store.scan_uids(after, rows_max)
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        self.store.due_until(instant_ms, after, packs_max)
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.store.meta(&self.key(key))
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.store.put_meta(&self.key(key), value)
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.store.scan_meta(prefix)
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.store.scan_rejects(after, rows_max)
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

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.store.dim_epochs(table)
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        self.store.dim_tables()
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
        self.store.dim_scan(table, epoch, after, rows_max)
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.store.dim_changes(table, epoch, after, rows_max)
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.store.dim_drop(table, epoch)
    }

    fn stats(&self) -> Result<StoreStats> {
        self.store.stats()
    }
}
