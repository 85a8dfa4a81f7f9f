//! Whose changes may not be published yet.
//!
//! Before a window's profiles are written, or with them, the store gets the names of the users whose
//! published tags it changes: one list for the store, or, where processes share it, one for each
//! partition. The next window's list takes its place, and says thereby that this one is published. A
//! process that starts, or takes partitions over, reads the lists, then those profiles, and publishes
//! what they carry of that window.
//!
//! In: profiles of a window. Out: small values; after a start, changes sent again, and what is known to
//! be published.
//! Invariant: of a list that is there, everything of earlier windows is published.

use std::collections::{BTreeMap, HashSet};

use super::{GoesOn, Publish, Reader};
use crate::engine::EngineError;
use crate::shard::fence::At;
use crate::store::{Result as StoreResult, Store, StoreError, UidKey};

/// Keys of lists begin with this.
const PREFIX: &str = "outbox/";

/// The list of a store that one process has.
const ALL: &str = "all";

/// Bytes of names in one small value.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Profiles read at once.
const BATCH_USERS: usize = 512;

/// What is known to be published when an engine starts.
#[derive(Debug, Default)]
pub struct Published {
    /// This engine's own windows, which it publishes one after the other.
    first_window: u64,
    /// By partition, of the last list: its window, and whose changes were sent again.
    partitions: BTreeMap<u32, (u64, HashSet<UidKey>)>,
}

impl Published {
    /// Whether a profile's change is not known to be published. An owner before, whom nobody waited for,
    /// may write a profile after its list was read.
    pub fn owes(&self, partition: Option<u32>, key: &UidKey, window: u64) -> bool {
        if window == 0 || window >= self.first_window {
            return false;
        }
        let list = self.partitions.get(&partition.unwrap_or(At::FILES));
        list.is_some_and(|(last, sent)| window > *last || (window == *last && !sent.contains(key)))
    }
}

/// The lists of a window: of the keys of users whose tags it changes, in a shared store by partition.
pub fn lists<'a>(
    window: u64,
    changed: impl Iterator<Item = (Option<u32>, &'a [u8])>,
) -> Vec<(String, Vec<u8>)> {
    let mut names: BTreeMap<Option<u32>, Vec<&[u8]>> = BTreeMap::new();
    for (partition, key) in changed {
        names.entry(partition).or_default().push(key);
    }
    let mut lists = Vec::new();
    for (partition, keys) in names {
        let owner = partition.map_or_else(|| ALL.to_owned(), |p| p.to_string());
        lists.extend(chunks(&owner, window, &keys));
    }
    lists
}

/// Lists that say that everything before a window is published.
pub fn nothing(window: u64, owners: &[String]) -> Vec<(String, Vec<u8>)> {
    owners.iter().flat_map(|owner| chunks(owner, window, &[])).collect()
}

/// Whose lists a process has: those of its partitions, or the one of its store.
pub fn owners(store: &dyn Store, partitions: Option<&[u32]>) -> Vec<String> {
    match (store.is_atomic(), partitions) {
        (true, _) => vec![ALL.to_owned()],
        (false, None) => vec![At::FILES.to_string()],
        (false, Some(partitions)) => partitions.iter().map(u32::to_string).collect(),
    }
}

fn chunks(owner: &str, window: u64, keys: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let mut chunks: Vec<Vec<&[u8]>> = vec![Vec::new()];
    let mut bytes = 0;
    for key in keys {
        if bytes + key.len() > CHUNK_BYTES_MAX {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += key.len();
        if let Some(last) = chunks.last_mut() {
            last.push(key);
        }
    }
    let encode = |(at, chunk): (usize, &Vec<&[u8]>)| {
        let value = postcard::to_stdvec(&(window, chunk));
        let value = value.expect("plain data into a growing buffer always fits");
        (format!("{PREFIX}{owner}/{at}"), value)
    };
    chunks.iter().enumerate().map(encode).collect()
}

/// The last list of an owner: its window, and the users. None: nothing was ever published.
fn read(store: &dyn Store, owner: &str) -> StoreResult<Option<(u64, Vec<UidKey>)>> {
    let mut last: Option<(u64, Vec<UidKey>)> = None;
    for (key, value) in store.scan_meta(&format!("{PREFIX}{owner}/"))? {
        let (window, keys): (u64, Vec<&[u8]>) =
            postcard::from_bytes(&value).map_err(|e| StoreError::Corrupt {
                what: format!("the store's `{key}` ({e})"),
                remedy: "restore the store from a snapshot".to_owned(),
            })?;
        let keys = keys.into_iter().filter_map(UidKey::from_bytes);
        match &mut last {
            // What is left of a longer list of an earlier window.
            Some((newest, _)) if *newest > window => {}
            Some((newest, all)) if *newest == window => all.extend(keys),
            _ => last = Some((window, keys.collect())),
        }
    }
    Ok(last)
}

/// Publishes what an engine before this one may not have published. `first_window`: the first that this
/// one will write.
pub fn recover(
    publish: &Publish,
    reader: &Reader<'_>,
    partitions: Option<&[u32]>,
    first_window: u64,
    goes_on: GoesOn<'_>,
) -> Result<Published, EngineError> {
    let mut published = Published { first_window, ..Published::default() };
    let Some(sink) = &publish.changes else { return Ok(published) };
    let mut again = 0;
    for owner in owners(reader.store, partitions) {
        let list = read(reader.store, &owner)?;
        let Some((window, keys)) = list else { continue };
        let mut sent = HashSet::new();
        for keys in keys.chunks(BATCH_USERS) {
            let profiles = reader.store.profiles(keys)?;
            for (key, profile) in keys.iter().zip(profiles) {
                let Some(profile) = profile else { continue };
                if reader.send(window, key, &profile, sink.as_ref(), goes_on)? > 0 {
                    sent.insert(key.clone());
                }
            }
        }
        again += sent.len();
        // Without partitions nobody else writes.
        if let Ok(partition) = owner.parse() {
            published.partitions.insert(partition, (window, sent));
        }
    }
    sink.flush(goes_on)?;
    if again > 0 {
        tracing::info!(users = again, "changes of the last window were published again");
    }
    Ok(published)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uid: u64) -> UidKey {
        UidKey::from_u64(uid)
    }

    #[test]
    fn a_change_is_owed_unless_it_is_known_to_be_published() {
        let sent = HashSet::from([key(1)]);
        let published =
            Published { first_window: 100, partitions: BTreeMap::from([(3, (50, sent))]) };
        for (partition, uid, window, expect) in [
            (Some(3), 1, 0, false),
            (Some(3), 2, 49, false),
            (Some(3), 1, 50, false),
            (Some(3), 2, 50, true),
            (Some(3), 1, 51, true),
            (Some(3), 2, 100, false),
            (Some(4), 2, 50, false),
            (None, 2, 50, false),
        ] {
            let owes = published.owes(partition, &key(uid), window);
            assert_eq!(owes, expect, "{partition:?} {uid} {window}");
        }
    }

    #[test]
    fn long_lists_are_cut_and_old_ends_of_them_are_nothing() {
        let store = crate::store::memory::MemoryStore::new(
            crate::store::Identity {
                uid: crate::catalog::model::UidType::String,
                timezone: "UTC".to_owned(),
                clock: crate::store::ClockMode::Event,
            },
            1,
        );
        assert!(read(&store, ALL).expect("it reads").is_none());
        let put = |lists: Vec<(String, Vec<u8>)>| {
            for (key, value) in lists {
                store.put_meta(&key, value).expect("it writes");
            }
        };
        let keys: Vec<Vec<u8>> = (0..5_000).map(|at| format!("{at:0>255}").into_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let long = chunks(ALL, 7, &keys);
        assert_eq!(long.len(), 2);
        put(long);
        let (window, users) = read(&store, ALL).expect("it reads").expect("it is there");
        assert_eq!((window, users.len()), (7, 5_000));
        put(chunks(ALL, 8, &keys[..1]));
        let (window, users) = read(&store, ALL).expect("it reads").expect("it is there");
        assert_eq!((window, users.len()), (8, 1));
        put(nothing(9, &[ALL.to_owned()]));
        let (window, users) = read(&store, ALL).expect("it reads").expect("it is there");
        assert_eq!((window, users.len()), (9, 0));
    }
}
