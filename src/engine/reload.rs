//! Users to compute again because a dimension table was loaded anew.
//!
//! In: the store's epochs, and the epochs that profiles were last computed with. Out: jobs.
//! Invariant: an epoch counts as applied only when its users are stored.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::EngineError;
use super::job::{Job, Limit};
use super::owned::group_mark;
use super::ruleset::Ruleset;
use super::start::read_meta;
use crate::catalog::model::{Catalog, DimensionKey, Strategy};
use crate::dimension::{ChangedKeys, Dimensions, Positions, TopicTable, changed_keys};
use crate::store::{Bytes, Epoch, Store, UidKey};

/// Keys of changed rows read at once.
const KEYS_MAX: usize = 16_384;

/// Keys of the epochs that profiles were computed with begin so.
pub(super) const APPLIED_PREFIX: &str = "dims/applied/";

/// Keys of how far topics are known to all users begin so.
pub(super) const TOPIC_APPLIED_PREFIX: &str = "dims/applied/topic/";

fn applied_key(table: &str) -> String {
    format!("{APPLIED_PREFIX}{table}")
}

/// The same of tables that topics keep.
fn topic_key(table: &str) -> String {
    format!("{TOPIC_APPLIED_PREFIX}{table}")
}

/// Whether a small value says that users were computed with rows of a table; with a name: with what a
/// topic has said of it.
pub(super) fn is_mark(key: &str, table: Option<&str>) -> bool {
    match table {
        Some(table) => key == topic_key(table),
        None => key.starts_with(APPLIED_PREFIX),
    }
}

/// Whether a table is looked up by uid alone. By a feature or another dimension: only a pass finds
/// its users.
fn is_by_uid(catalog: &Catalog, table: &str) -> bool {
    let mut dimensions = catalog.dimensions.iter().filter(|d| d.table == table);
    dimensions.all(|d| d.key == DimensionKey::Uid)
}

/// A job for these users, or for all.
fn job(
    keys: Option<VecDeque<UidKey>>,
    done: Vec<(String, Vec<u8>)>,
    users_per_s: NonZeroU32,
) -> Job {
    let limit = Some(Limit::new(users_per_s));
    match keys {
        Some(keys) => Job::Users { keys, done, limit },
        None => Job::All {
            after: None,
            name: 0,
            limit,
            ended: false,
            ahead: None,
            progress: Arc::default(),
            progress_key: None,
            done,
        },
    }
}

/// Whether what is computed from now on is computed with an epoch. `in_use`: none when nothing is
/// computed yet.
fn is_in_use(in_use: Option<&Dimensions>, table: &str, epoch: Epoch) -> bool {
    in_use.is_none_or(|dimensions| dimensions.epoch_of(table) == Some(epoch))
}

/// Jobs for all tables whose current epoch is not the one profiles were computed with, where it is in
/// use.
pub(super) fn jobs(
    store: &dyn Store,
    ruleset: &Ruleset,
    users_per_s: NonZeroU32,
    in_use: Option<&Dimensions>,
) -> Result<VecDeque<Job>, EngineError> {
    let mut jobs = VecDeque::new();
    let has_profiles = store.has_profiles()?;
    let stored = ruleset.catalog.dimensions.iter().filter(|d| d.strategy != Strategy::Broadcast);
    let mut tables: Vec<&str> = stored.map(|d| d.table.as_str()).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        let Some(current) = store.dim_current(table)? else { continue };
        let applied: Option<Epoch> = read_meta(store, &applied_key(table))?;
        if applied == Some(current.epoch) || !is_in_use(in_use, table, current.epoch) {
            continue;
        }
        let epoch = serde_json::to_vec(&Some(current.epoch)).unwrap_or_default();
        let done = vec![(applied_key(table), epoch)];
        if !has_profiles {
            jobs.push_back(Job::Users { keys: VecDeque::new(), done, limit: None });
            continue;
        }
        let one_behind = store
            .dim_epochs(table)?
            .iter()
            .rev()
            .nth(1)
            .is_some_and(|before| applied == Some(before.epoch));
        let keys = match is_by_uid(&ruleset.catalog, table) && one_behind {
            true => changed_users(store, table, current.epoch)?,
            false => None,
        };
        jobs.push_back(job(keys, done, users_per_s));
    }
    Ok(jobs)
}

/// How far topics that keep stored tables are known to all users.
pub(super) fn known(
    store: &dyn Store,
    catalog: &Catalog,
) -> Result<BTreeMap<String, Positions>, EngineError> {
    let mut known = BTreeMap::new();
    for dimension in catalog.dimensions.iter().filter(|d| d.topic.is_some()) {
        let at: Option<Positions> = read_meta(store, &topic_key(&dimension.table))?;
        known.extend(at.map(|at| (dimension.table.clone(), at)));
    }
    Ok(known)
}

/// Jobs for tables that topics keep, where they have moved on since profiles were computed.
pub(super) fn topic_jobs(
    store: &dyn Store,
    ruleset: &Ruleset,
    tables: &[TopicTable],
    users_per_s: NonZeroU32,
) -> Result<VecDeque<Job>, EngineError> {
    let mut jobs = VecDeque::new();
    for table in tables {
        let key = topic_key(table.table());
        let applied: Option<Positions> = read_meta(store, &key)?;
        if applied.as_ref() == Some(&table.at) {
            continue;
        }
        let at = serde_json::to_vec(&Some(&table.at)).unwrap_or_default();
        let done = vec![(key, at)];
        if !store.has_profiles()? {
            jobs.push_back(Job::Users { keys: VecDeque::new(), done, limit: None });
            continue;
        }
        let changed = applied.and_then(|before| table.changed_behind(&before));
        let keys = match changed {
            // Records that say what was known.
            Some(keys) if keys.is_empty() => Some(VecDeque::new()),
            Some(keys) if is_by_uid(&ruleset.catalog, table.table()) => {
                let mut users = VecDeque::new();
                for keys in keys.chunks(KEYS_MAX) {
                    users.extend(known_users(store, keys.iter().map(|key| &**key))?);
                }
                Some(users)
            }
            _ => None,
        };
        jobs.push_back(job(keys, done, users_per_s));
    }
    Ok(jobs)
}

/// Whether everybody was computed with the current epochs of all tables.
pub(crate) fn is_applied(store: &dyn Store, catalog: &Catalog) -> Result<bool, EngineError> {
    for dimension in &catalog.dimensions {
        if dimension.topic.is_some() {
            // The topic may have moved on.
            return Ok(false);
        }
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
    in_use: Option<&Dimensions>,
) -> Result<Vec<(String, Vec<u8>)>, EngineError> {
    let mut applied = Vec::new();
    for dimension in &ruleset.catalog.dimensions {
        let current = store.dim_current(&dimension.table)?;
        let current = current.filter(|c| is_in_use(in_use, &dimension.table, c.epoch));
        if let Some(current) = current {
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
        users.extend(known_users(store, keys.iter().map(|(bytes, _)| &**bytes))?);
    }
}

/// Those among the keys that are users of this owner.
fn known_users<'a>(
    store: &dyn Store,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<UidKey>, EngineError> {
    let uids: Vec<UidKey> = keys.filter_map(UidKey::from_bytes).collect();
    let stored = store.profiles(&uids)?;
    let is_own = |key: &UidKey, found: &Option<Bytes>| {
        found.as_ref().is_some_and(|bytes| store.owns(key, bytes))
    };
    Ok(uids.into_iter().zip(stored).filter(|(key, p)| is_own(key, p)).map(|(key, _)| key).collect())
}
