//! What a load changed, so that the users concerned can be made dirty.
//!
//! In: two epochs of a table. Out: the keys of rows that are new, different or gone. Invariant: an
//! epoch's changes are complete before it is committed.

use crate::store::{Bytes, ChangeKind, DimMeta, Epoch, Result, Store, StoreError};

const PAGE_ROWS: usize = 4096;
const CHANGES_MAX: usize = 100_000;

/// How many rows differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Diff {
    pub(super) rows: u64,
    pub(super) changed: u64,
    pub(super) removed: u64,
}

/// Reads an epoch in key order, a page at a time.
struct Scan<'a> {
    store: &'a dyn Store,
    table: &'a str,
    epoch: Epoch,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
    after: Option<Bytes>,
    ended: bool,
}

impl<'a> Scan<'a> {
    fn new(store: &'a dyn Store, table: &'a str, epoch: Epoch) -> Self {
        Self { store, table, epoch, page: Vec::new().into_iter(), after: None, ended: false }
    }

    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if let Some(row) = self.page.next() {
            return Ok(Some(row));
        }
        if self.ended {
            return Ok(None);
        }
        let page = self.store.dim_scan(self.table, self.epoch, self.after.as_deref(), PAGE_ROWS)?;
        self.ended = page.len() < PAGE_ROWS;
        self.after = page.last().map(|(key, _)| key.clone());
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// Counts the rows of an epoch.
pub(super) fn count(store: &dyn Store, table: &str, epoch: Epoch) -> Result<u64> {
    let mut scan = Scan::new(store, table, epoch);
    let mut rows = 0;
    while scan.next()?.is_some() {
        rows += 1;
    }
    Ok(rows)
}

/// Compares a loaded epoch with the one before, row by row, and stores the keys that differ.
pub(super) fn compare(
    store: &dyn Store,
    table: &str,
    before: Epoch,
    loaded: Epoch,
) -> Result<Diff> {
    let (mut old, mut new) = (Scan::new(store, table, before), Scan::new(store, table, loaded));
    let (mut left, mut right) = (old.next()?, new.next()?);
    let mut diff = Diff::default();
    let mut changes: Vec<(Vec<u8>, ChangeKind)> = Vec::new();
    loop {
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a[..].cmp(&b[..]),
        };
        let change = match (order, &left, &right) {
            (std::cmp::Ordering::Less, Some((key, _)), _) => {
                diff.removed += 1;
                Some((key.to_vec(), ChangeKind::Removed))
            }
            (std::cmp::Ordering::Greater, _, Some((key, _))) => {
                diff.changed += 1;
                Some((key.to_vec(), ChangeKind::Added))
            }
            (_, Some((key, a)), Some((_, b))) if a != b => {
                diff.changed += 1;
                Some((key.to_vec(), ChangeKind::Changed))
            }
            _ => None,
        };
        changes.extend(change);
        if changes.len() >= CHANGES_MAX {
            store.dim_put_changes(table, loaded, std::mem::take(&mut changes))?;
        }
        if order.is_ge() {
            diff.rows += 1;
            right = new.next()?;
        }
        if order.is_le() {
            left = old.next()?;
        }
    }
    store.dim_put_changes(table, loaded, changes)?;
    Ok(diff)
}

/// Keys whose users (or the users with that feature value) may have other tags since an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedKeys {
    /// There was nothing to compare with: every user.
    All,
    /// These, in key order. In a table looked up by uid they are the users' [`UidKey`] bytes.
    ///
    /// [`UidKey`]: crate::store::UidKey
    Keys(Vec<(Bytes, ChangeKind)>),
}

/// Up to `keys_max` keys that differ between a committed epoch and the one before, beginning behind
/// `after`.
pub fn changed_keys(
    store: &dyn Store,
    table: &str,
    epoch: Epoch,
    after: Option<&[u8]>,
    keys_max: usize,
) -> Result<ChangedKeys> {
    let metas: Vec<DimMeta> = store.dim_epochs(table)?;
    let Some(meta) = metas.iter().find(|meta| meta.epoch == epoch) else {
        return Err(StoreError::NoEpoch { table: table.to_owned(), epoch });
    };
    if meta.all_changed {
        return Ok(ChangedKeys::All);
    }
    Ok(ChangedKeys::Keys(store.dim_changes(table, epoch, after, keys_max)?))
}
