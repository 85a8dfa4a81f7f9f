//! A shared store as one owner of some partitions sees it.
//!
//! In: the store that processes share, the partitions that this one owns. Out: scans of its own users
//! only; small values about work on all of them, kept for each partition.
//!
//! Of a *mark* (what was done for all users) each partition has its own: it holds for an owner when it
//! holds for all of its partitions, and for the group when it holds for all there are; a partition
//! without one has that of the store, which who had everybody to itself has left. Of a *sum* the
//! least partition of an owner has what that owner has counted, with what was counted before; its other
//! partitions have nothing. So what all partitions have adds up to what the group has counted, whoever
//! owns them later.
//! Invariant: what is said to be done for some partitions is not taken for done for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::home::Homes;
use super::intake::{FoldTotals, Totals};
use super::job::RECOMPUTE_KEY;
use super::reload::{APPLIED_PREFIX, TOPIC_APPLIED_PREFIX};
use super::version::RECOMPUTED_KEY;
use crate::source::kafka::{TOPIC_PREFIX, TopicMeta};
use crate::store::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, Identity, Ownership,
    Positions, Result, Store, StoreError, StoreStats, Term, UidKey, WindowWrite,
};
use crate::user::snapshot::decode_tags;
use crate::write::window::{FOLDS_KEY, TOTALS_KEY};

/// Rows of a page of a scan, at least.
const PAGE_ROWS_MIN: usize = 256;

/// See the module.
pub(crate) struct OwnedStore {
    store: Arc<dyn Store>,
    partitions: BTreeSet<u32>,
    homes: Homes,
    /// The sums of all partitions but the least one say nothing any more.
    gathered: AtomicBool,
}

/// What a small value is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The whole group.
    Group,
    /// See the module.
    Mark,
    /// A mark that says how far: for an owner it holds as far as for each of its partitions.
    Reach,
    /// See the module.
    Sum,
}

fn about(key: &str) -> About {
    match key {
        TOTALS_KEY | FOLDS_KEY => About::Sum,
        RECOMPUTED_KEY | RECOMPUTE_KEY => About::Mark,
        _ if key.starts_with(TOPIC_APPLIED_PREFIX) => About::Reach,
        _ if key.starts_with(APPLIED_PREFIX) => About::Mark,
        _ => About::Group,
    }
}

/// The key under which a partition has its value.
fn key_of(key: &str, partition: u32) -> String {
    format!("{key}@{partition:05}")
}

/// The values of all partitions that have one.
fn by_partition(store: &dyn Store, key: &str) -> Result<Vec<(u32, Bytes)>> {
    let prefix = format!("{key}@");
    let found = store.scan_meta(&prefix)?;
    let numbered = |(key, value): (String, Bytes)| Some((key[prefix.len()..].parse().ok()?, value));
    Ok(found.into_iter().filter_map(numbered).collect())
}

/// The number of partitions of the topics that a store has read; 0: it has read none.
pub(super) fn partitions_of(store: &dyn Store) -> Result<u32> {
    let topics = store.scan_meta(TOPIC_PREFIX)?;
    let count = |(_, bytes): &(String, Bytes)| serde_json::from_slice::<TopicMeta>(bytes).ok();
    Ok(topics.iter().filter_map(count).map(|topic| topic.partitions).max().unwrap_or(0))
}

/// A mark that holds for all partitions there are; of a store that no processes share its only one.
pub(super) fn group_mark(store: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let partitions = if store.is_atomic() { 0 } else { partitions_of(store)? };
    if partitions == 0 {
        return store.meta(key);
    }
    mark_of(store, key, 0..partitions)
}

/// A mark that holds for some partitions. One of which nobody has said anything has the mark of the
/// whole store, which is there when files were read into it by a process that owned everybody: since
/// then no owner of that partition has done anything for all of its users.
fn mark_of(
    store: &dyn Store,
    key: &str,
    partitions: impl Iterator<Item = u32>,
) -> Result<Option<Bytes>> {
    let found: BTreeMap<u32, Bytes> = by_partition(store, key)?.into_iter().collect();
    let everybody = store.meta(key)?;
    let mut marks = partitions.map(|p| found.get(&p).or(everybody.as_ref()));
    let first = marks.next().flatten();
    Ok(first.filter(|first| marks.all(|mark| mark == Some(first))).cloned())
}

/// Whether an owner of some partition has said anything of all of its users.
pub(super) fn has_marks(store: &dyn Store) -> Result<bool> {
    Ok(!by_partition(store, RECOMPUTED_KEY)?.is_empty())
}

/// Writes a mark of everybody, whoever owns them.
pub(super) fn put_for_everybody(store: &dyn Store, key: &str, value: &[u8]) -> Result<()> {
    store.put_meta(key, value.to_vec())?;
    if store.is_atomic() {
        return Ok(());
    }
    for (partition, _) in by_partition(store, key)? {
        store.put_meta(&key_of(key, partition), value.to_vec())?;
    }
    Ok(())
}

/// Everything that the processes of a store have counted.
pub fn totals(store: &dyn Store) -> Result<Totals> {
    let mut sum: Totals = read(TOTALS_KEY, store.meta(TOTALS_KEY)?.as_deref())?;
    if !store.is_atomic() {
        for (_, value) in by_partition(store, TOTALS_KEY)? {
            sum.add(&read(TOTALS_KEY, Some(&value))?);
        }
    }
    Ok(sum)
}

fn read<T: DeserializeOwned + Default>(key: &str, value: Option<&[u8]>) -> Result<T> {
    let Some(value) = value else { return Ok(T::default()) };
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt {
        what: format!("the small value `{key}` ({error})"),
        remedy: "restore the store from a snapshot".to_owned(),
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys and plain values are JSON")
}

impl OwnedStore {
    pub(crate) fn new(store: Arc<dyn Store>, partitions: &[u32]) -> Result<Self> {
        let partitions = partitions.iter().copied().collect();
        let homes = Homes::open(store.as_ref(), &partitions)?;
        Ok(Self { store, partitions, homes, gathered: AtomicBool::new(false) })
    }

    /// Whose due entries this owner drains.
    pub(super) fn drained(&self) -> Vec<u32> {
        self.homes.drained(&self.partitions)
    }

    /// A value of the group as the values of this owner's partitions.
    fn spread(&self, key: String, value: Vec<u8>, out: &mut Vec<(String, Vec<u8>)>) {
        match about(&key) {
            About::Group => out.push((key, value)),
            About::Mark | About::Reach => {
                out.extend(self.partitions.iter().map(|p| (key_of(&key, *p), value.clone())));
            }
            About::Sum => {
                let mut partitions = self.partitions.iter();
                out.extend(partitions.next().map(|least| (key_of(&key, *least), value)));
                if !self.gathered.load(Ordering::Relaxed) {
                    let nothing = match key.as_str() {
                        TOTALS_KEY => json(&Totals::default()),
                        _ => json(&FoldTotals::default()),
                    };
                    out.extend(partitions.map(|p| (key_of(&key, *p), nothing.clone())));
                }
            }
        }
    }

    /// The values of this owner's partitions.
    fn own_values(&self, key: &str) -> Result<Vec<(u32, Bytes)>> {
        let mut found = by_partition(self.store.as_ref(), key)?;
        found.retain(|(partition, _)| self.partitions.contains(partition));
        Ok(found)
    }

    /// None: of some partition nothing is known, or of another topic.
    fn reach(&self, key: &str) -> Result<Option<Bytes>> {
        let values = self.own_values(key)?;
        let mut least: Option<Positions> = None;
        for (_, value) in &values {
            let Some(at): Option<Positions> = read(key, Some(value))? else { return Ok(None) };
            least = match least {
                None => Some(at),
                Some(before) => match before.least(&at) {
                    None => return Ok(None),
                    least => least,
                },
            };
        }
        let is_of_all = values.len() == self.partitions.len();
        Ok(least.filter(|_| is_of_all).map(|at| json(&Some(at)).into()))
    }

    fn sum(&self, key: &str) -> Result<Option<Bytes>> {
        let values = self.own_values(key)?;
        if values.is_empty() {
            return Ok(None);
        }
        let sum = if key == TOTALS_KEY {
            let mut sum = Totals::default();
            for (_, value) in &values {
                sum.add(&read(key, Some(value))?);
            }
            json(&sum)
        } else {
            let mut sum = FoldTotals::default();
            for (_, value) in &values {
                let of_one: FoldTotals = read(key, Some(value))?;
                sum.users += of_one.users;
                sum.add(of_one.counts);
            }
            json(&sum)
        };
        Ok(Some(sum.into()))
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

    /// A profile that cannot be read is given on, so that it is told.
    fn owns(&self, user: &UidKey, profile: &[u8]) -> bool {
        if self.homes.is_everybody() {
            return true;
        }
        let applied = decode_tags(profile).and_then(|tags| tags.applied());
        applied.map_or(true, |(applied, _)| self.owns_user(user, applied.partition))
    }

    fn owns_user(&self, user: &UidKey, partition: Option<u32>) -> bool {
        let is_own = |partition| self.partitions.contains(&partition);
        self.homes.is_everybody() || partition.or_else(|| self.home(user)).is_some_and(is_own)
    }

    fn home(&self, user: &UidKey) -> Option<u32> {
        self.homes.of(user)
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.store.profiles(keys)
    }

    fn write_window(&self, mut window: WindowWrite) -> Result<()> {
        let has_sums = window.meta.iter().any(|(key, _)| about(key) == About::Sum);
        let mut meta = Vec::with_capacity(window.meta.len());
        for (key, value) in std::mem::take(&mut window.meta) {
            self.spread(key, value, &mut meta);
        }
        window.meta = meta;
        self.store.write_window(window)?;
        if has_sums {
            self.gathered.store(true, Ordering::Relaxed);
        }
        Ok(())
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
            rows.retain(|(key, profile)| self.owns(key, profile));
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
        let (drained, mut after) = (self.drained(), after);
        loop {
            let mut packs = self.store.due_until(instant_ms, after, packs_max)?;
            let Some(last) = packs.last() else { return Ok(packs) };
            after = Some(last.cursor);
            packs.retain(|pack| drained.contains(&pack.cursor.partition));
            if !packs.is_empty() {
                return Ok(packs);
            }
        }
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        match about(key) {
            About::Group => self.store.meta(key),
            About::Mark => mark_of(self.store.as_ref(), key, self.partitions.iter().copied()),
            About::Reach => self.reach(key),
            About::Sum => self.sum(key),
        }
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        let mut values = Vec::new();
        self.spread(key.to_owned(), value, &mut values);
        values.into_iter().try_for_each(|(key, value)| self.store.put_meta(&key, value))
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        self.store.replace_meta(key, expected, value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::model::UidType;
    use crate::store::ClockMode;
    use crate::store::memory::MemoryStore;

    /// A store whose topics have four partitions.
    fn shared() -> Arc<dyn Store> {
        let identity =
            Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Wall };
        let store = MemoryStore::new(identity, 9).shared();
        let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 4 };
        store.put_meta(&format!("{TOPIC_PREFIX}t"), json(&topic)).unwrap();
        Arc::new(store)
    }

    fn owner(store: &Arc<dyn Store>, partitions: &[u32]) -> OwnedStore {
        OwnedStore::new(Arc::clone(store), partitions).unwrap()
    }

    fn window(key: &str, value: Vec<u8>) -> WindowWrite {
        WindowWrite { meta: vec![(key.to_owned(), value)], ..WindowWrite::default() }
    }

    #[test]
    fn a_mark_holds_for_an_owner_when_it_holds_for_all_of_its_partitions() {
        let store = shared();
        let mark = |owner: &OwnedStore| owner.meta(RECOMPUTED_KEY).unwrap();
        let two = Bytes::from(b"2".to_vec());
        owner(&store, &[0, 1]).write_window(window(RECOMPUTED_KEY, b"2".to_vec())).unwrap();
        assert_eq!(mark(&owner(&store, &[0, 1])), Some(two.clone()));
        assert_eq!(mark(&owner(&store, &[1])), Some(two.clone()));
        assert_eq!(mark(&owner(&store, &[1, 2])), None);
        assert_eq!(group_mark(store.as_ref(), RECOMPUTED_KEY).unwrap(), None);
        owner(&store, &[2, 3]).put_meta(RECOMPUTED_KEY, b"1".to_vec()).unwrap();
        assert_eq!(mark(&owner(&store, &[1, 2])), None, "of another version");
        assert_eq!(group_mark(store.as_ref(), RECOMPUTED_KEY).unwrap(), None);
        owner(&store, &[2, 3]).put_meta(RECOMPUTED_KEY, b"2".to_vec()).unwrap();
        assert_eq!(mark(&owner(&store, &[0, 1, 2, 3])), Some(two.clone()));
        assert_eq!(group_mark(store.as_ref(), RECOMPUTED_KEY).unwrap(), Some(two));
        assert!(crate::engine::version::is_recomputed(store.as_ref(), 2).unwrap());
    }

    #[test]
    fn what_a_topic_has_said_is_known_as_far_as_to_each_partition() {
        let store = shared();
        let key = format!("{TOPIC_APPLIED_PREFIX}t");
        let at = |topic_id: &str, next: &[(u32, u64)]| {
            let topic_id = topic_id.to_owned();
            Some(Positions { topic_id, next: next.iter().copied().collect() })
        };
        let mark = |partitions: &[u32], at: &Option<Positions>| {
            owner(&store, partitions).write_window(window(&key, json(at))).unwrap();
        };
        let known = |partitions: &[u32]| -> Option<Positions> {
            read(&key, owner(&store, partitions).meta(&key).unwrap().as_deref()).unwrap()
        };
        mark(&[0, 1], &at("i", &[(0, 9), (1, 4), (7, 1)]));
        mark(&[2], &at("i", &[(0, 5), (1, 6)]));
        assert_eq!(known(&[1]), at("i", &[(0, 9), (1, 4), (7, 1)]));
        assert_eq!(known(&[1, 2]), at("i", &[(0, 5), (1, 4)]));
        assert_eq!(known(&[2, 3]), None, "of a partition nothing is known");
        mark(&[3], &at("another", &[(0, 9)]));
        assert_eq!(known(&[2, 3]), None);
    }

    #[test]
    fn what_was_counted_adds_up_whoever_owns_the_partitions_later() {
        let store = shared();
        let count = |partitions: &[u32], more: u64| {
            let owner = owner(&store, partitions);
            let before: Totals =
                read(TOTALS_KEY, owner.meta(TOTALS_KEY).unwrap().as_deref()).unwrap();
            // What is published of a window is listed before it: nothing is gathered by that.
            owner.write_window(window("outbox/1", b"x".to_vec())).unwrap();
            // Two windows: the second must not undo what the first has gathered.
            for rows in [before.rows + more - 1, before.rows + more] {
                let counted = Totals { rows, greatest_arrival_ms: Some(5), ..Totals::default() };
                owner.write_window(window(TOTALS_KEY, json(&counted))).unwrap();
            }
            before.rows
        };
        let total = || totals(store.as_ref()).unwrap().rows;
        assert_eq!(count(&[0, 1, 2, 3], 100), 0);
        assert_eq!(total(), 100);
        assert_eq!(count(&[2, 3], 10), 0);
        assert_eq!(count(&[0, 1], 1), 100);
        assert_eq!(total(), 111);
        assert_eq!(count(&[1, 2], 5), 10, "of the partition that had it");
        assert_eq!(count(&[0, 1, 2, 3], 1), 116);
        assert_eq!((total(), totals(store.as_ref()).unwrap().greatest_arrival_ms), (117, Some(5)));
    }

    #[test]
    fn what_the_group_has_is_not_kept_by_partition() {
        let store = shared();
        owner(&store, &[1]).write_window(window("as_of_ms", b"7".to_vec())).unwrap();
        assert_eq!(owner(&store, &[0]).meta("as_of_ms").unwrap().as_deref(), Some(&b"7"[..]));
    }
}
