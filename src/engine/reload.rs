//! Users to compute again because a dimension table was loaded anew.
//!
//! In: the store's epochs, and the epochs that profiles were last computed with. Out: jobs.
//! Invariant: an epoch counts as applied only when its users are stored.

use std::collections::VecDeque;
use std::sync::Arc;

use super::EngineError;
use super::job::{Job, Limit};
use super::owned::group_mark;
use super::ruleset::Ruleset;
use super::start::read_meta;
use crate::catalog::model::{Catalog, DimensionKey};
use crate::dimension::{ChangedKeys, changed_keys};
use crate::store::{Epoch, Store, UidKey};

/// Keys of changed rows read at once.
const KEYS_MAX: usize = 16_384;

/// Keys of the epochs that profiles were computed with begin so.
pub(super) const APPLIED_PREFIX: &str = "dims/applied/";

fn applied_key(table: &str) -> String {
    format!("{APPLIED_PREFIX}{table}")
}

/// Jobs for all tables whose current epoch is not the one profiles were computed with.
pub(super) fn jobs(
    store: &dyn Store,
    ruleset: &Ruleset,
    users_per_s: std::num::NonZeroU32,
) -> Result<VecDeque<Job>, EngineError> {
    let mut jobs = VecDeque::new();
    let has_profiles = !store.scan_profiles(None, 1)?.is_empty();
    let mut tables: Vec<&str> =
        ruleset.catalog.dimensions.iter().map(|d| d.table.as_str()).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        let Some(current) = store.dim_current(table)? else { continue };
        let applied: Option<Epoch> = read_meta(store, &applied_key(table))?;
        if applied == Some(current.epoch) {
            continue;
        }
        let epoch = serde_json::to_vec(&Some(current.epoch)).unwrap_or_default();
        let done = vec![(applied_key(table), epoch)];
        let limit = Some(Limit::new(users_per_s));
        if !has_profiles {
            jobs.push_back(Job::Users { keys: VecDeque::new(), done, limit: None });
            continue;
        }
        let by_uid = ruleset
            .catalog
            .dimensions
            .iter()
            .filter(|d| d.table == table)
            .all(|d| d.key == DimensionKey::Uid);
        let one_behind = store
            .dim_epochs(table)?
            .iter()
            .rev()
            .nth(1)
            .is_some_and(|before| applied == Some(before.epoch));
        match changed_users(store, table, current.epoch)? {
            Some(keys) if by_uid && one_behind => jobs.push_back(Job::Users { keys, done, limit }),
            // Looked up by a feature or another dimension: only a pass finds its users.
            _ => jobs.push_back(Job::All {
                after: None,
                name: 0,
                limit,
                ended: false,
                ahead: None,
                progress: Arc::default(),
                progress_key: None,
                done,
            }),
        }
    }
    Ok(jobs)
}

/// Whether everybody was computed with the current epochs of all tables.
pub(crate) fn is_applied(store: &dyn Store, catalog: &Catalog) -> Result<bool, EngineError> {
    for dimension in &catalog.dimensions {
        let current = store.dim_current(&dimension.table)?.map(|meta| meta.epoch);
        let key = applied_key(&dimension.table);
        let applied = group_mark(store, &key)?.map(|bytes| {
            serde_json::from_slice::<Option<Epoch>>(&bytes)
                .map_err(|e| EngineError::Meta { key: key.clone(), reason: e.to_string() })
        });
        if applied.transpose()?.flatten() != current {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Marks that everybody was computed with the current epochs of all tables.
pub(super) fn all_applied(
    store: &dyn Store,
    ruleset: &Ruleset,
) -> Result<Vec<(String, Vec<u8>)>, EngineError> {
    let mut applied = Vec::new();
    for dimension in &ruleset.catalog.dimensions {
        if let Some(current) = store.dim_current(&dimension.table)? {
            let epoch = serde_json::to_vec(&Some(current.epoch)).unwrap_or_default();
            applied.push((applied_key(&dimension.table), epoch));
        }
    }
    applied.dedup();
    Ok(applied)
}

/// Known users among the changed keys; `None` when all rows count as changed.
fn changed_users(
    store: &dyn Store,
    table: &str,
    epoch: Epoch,
) -> Result<Option<VecDeque<UidKey>>, EngineError> {
    let mut users = VecDeque::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let keys = match changed_keys(store, table, epoch, after.as_deref(), KEYS_MAX)? {
            ChangedKeys::All => return Ok(None),
            ChangedKeys::Keys(keys) => keys,
        };
        let Some((last, _)) = keys.last() else { return Ok(Some(users)) };
        after = Some(last.to_vec());
        let uids: Vec<UidKey> =
            keys.iter().filter_map(|(bytes, _)| UidKey::from_bytes(bytes)).collect();
        let stored = store.profiles(&uids)?;
        users.extend(uids.into_iter().zip(stored).filter(|(_, p)| p.is_some()).map(|(k, _)| k));
    }
}
