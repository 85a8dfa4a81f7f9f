//! Rows looked up on demand and kept for a while.
//!
//! In: the distinct keys of a batch. Out: their stored rows. Misses of a batch are one multi-get; a
//! key that another thread is already reading is waited for. Absent keys are remembered too.
//! Invariant: bounded in bytes; ages are measured by the caller's clock, not the machine's; what was
//! read before a row is forgotten is not kept behind that.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use moka::sync::Cache;

use crate::pace::Limit;
use crate::store::{Bytes, Epoch, Store};
use crate::telemetry::names;

/// What is kept beside each key and row: map slots, counters, allocations.
const ENTRY_OVERHEAD_BYTES: usize = 120;

type Key = (Epoch, Arc<[u8]>);

#[derive(Debug, Clone)]
struct Entry {
    read_at_ms: i64,
    /// The window that read it.
    window: u64,
    row: Option<Bytes>,
}

/// How long rows serve.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    pub(super) now_ms: i64,
    /// None: for the window that read them.
    pub(super) ttl_ms: Option<u64>,
    pub(super) max_stale_ms: u64,
    /// The window that asks.
    pub(super) window: u64,
}

impl Ages {
    fn age_ms(&self, entry: &Entry) -> u64 {
        // A clock that was set back makes nothing older.
        u64::try_from(self.now_ms.saturating_sub(entry.read_at_ms)).unwrap_or(0)
    }

    fn entry(&self, row: Option<Bytes>) -> Entry {
        Entry { read_at_ms: self.now_ms, window: self.window, row }
    }

    fn fresh(&self, entry: &Entry) -> bool {
        match self.ttl_ms {
            Some(ttl_ms) => self.age_ms(entry) < ttl_ms.max(1),
            None => entry.window == self.window,
        }
    }

    fn serves(&self, entry: &Entry) -> bool {
        let ttl_ms = self.ttl_ms.unwrap_or(0);
        self.age_ms(entry) <= ttl_ms.saturating_add(self.max_stale_ms)
    }
}

/// Where rows are read, and how long they serve.
pub(super) struct From<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) table: &'a str,
    pub(super) epoch: Epoch,
    pub(super) ages: Ages,
    /// Rows read a second.
    pub(super) limit: Option<&'a Limit>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Row(Bytes),
    /// The table has no such row.
    Absent,
    /// The store could not be read, and this is what it had last (none: no such row).
    Stale(Option<Bytes>),
    /// The store could not be read and nothing that may serve is kept.
    Unknown,
}

pub(super) struct Fetched {
    pub(super) found: Vec<Found>,
    pub(super) failure: Option<String>,
}

/// The cached rows of one table.
pub(super) struct CachedRows {
    rows: Cache<Key, Entry>,
    /// Keys that are being read; true: forgotten meanwhile.
    flights: Mutex<HashMap<Key, bool>>,
    landed: Condvar,
    hits: metrics::Counter,
    misses: metrics::Counter,
}

/// Takes keys out of the flights, whatever happens to the reading.
struct Landing<'a>(&'a CachedRows, Vec<Key>);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.0.flights();
        for key in &self.1 {
            flights.remove(key);
        }
        drop(flights);
        self.0.landed.notify_all();
    }
}

impl CachedRows {
    pub(super) fn new(bytes_max: u64, table: &str) -> Self {
        let weigh = |key: &Key, entry: &Entry| {
            let row = entry.row.as_ref().map_or(0, |row| row.len());
            u32::try_from(ENTRY_OVERHEAD_BYTES + key.1.len() + row).unwrap_or(u32::MAX)
        };
        let rows = Cache::builder().max_capacity(bytes_max).weigher(weigh).build();
        let hits = names::DIMENSION_HITS.counter(&[table]);
        let misses = names::DIMENSION_MISSES.counter(&[table]);
        Self { rows, flights: Mutex::default(), landed: Condvar::new(), hits, misses }
    }

    /// These rows are other ones now: whoever asks from now on reads them.
    pub(super) fn forget<'a>(&self, epoch: Epoch, keys: impl Iterator<Item = &'a [u8]>) {
        let mut flights = self.flights();
        for key in keys {
            let key = (epoch, key.into());
            if let Some(is_forgotten) = flights.get_mut(&key) {
                *is_forgotten = true;
            }
            self.rows.invalidate(&key);
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, bool>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the rows of distinct keys.
    pub(super) fn fetch(&self, from: &From<'_>, keys: Vec<Bytes>) -> Fetched {
        let ages = from.ages;
        let keys: Vec<Key> = keys.into_iter().map(|key| (from.epoch, key[..].into())).collect();
        let mut found: Vec<Option<Found>> = vec![None; keys.len()];
        let mut fetched = Fetched { found: Vec::new(), failure: None };
        let mut read = 0;
        loop {
            for (key, slot) in keys.iter().zip(&mut found).filter(|(_, slot)| slot.is_none()) {
                let entry = self.rows.get(key).filter(|entry| ages.fresh(entry));
                *slot = entry.map(|entry| known(entry.row));
            }
            let (mine, theirs) = self.take_off(&keys, &found);
            if mine.is_empty() && theirs.is_empty() {
                break;
            }
            // First the own ones, then waiting: two batches cannot wait for each other.
            read += mine.len();
            self.read(from, &keys, mine, &mut found, &mut fetched);
            let mut flights = self.flights();
            while theirs.iter().any(|at| flights.contains_key(&keys[*at])) {
                flights = self.landed.wait(flights).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.hits.increment((keys.len() - read) as u64);
        self.misses.increment(read as u64);
        fetched.found = found.into_iter().map(|slot| slot.unwrap_or(Found::Unknown)).collect();
        fetched
    }

    /// Which of the unknown keys this call reads, and which others are reading.
    fn take_off(&self, keys: &[Key], found: &[Option<Found>]) -> (Vec<usize>, Vec<usize>) {
        let unknown = (0..keys.len()).filter(|at| found[*at].is_none());
        let mut flights = self.flights();
        unknown.partition(|at| flights.try_insert(keys[*at].clone(), false).is_ok())
    }

    fn read(
        &self,
        from: &From<'_>,
        keys: &[Key],
        mine: Vec<usize>,
        found: &mut [Option<Found>],
        fetched: &mut Fetched,
    ) {
        let ages = from.ages;
        let landing = Landing(self, mine.iter().map(|at| keys[*at].clone()).collect());
        // Between the look at the cache and the take-off another flight may have landed.
        let mut missing = mine;
        missing.retain(|at| {
            let entry = self.rows.get(&keys[*at]).filter(|entry| ages.fresh(entry));
            found[*at] = entry.map(|entry| known(entry.row));
            found[*at].is_none()
        });
        if missing.is_empty() {
            return;
        }
        let at_once = from.limit.map_or(usize::MAX, Limit::at_once);
        for part in missing.chunks(at_once) {
            if let Some(limit) = from.limit {
                limit.wait(part.len());
            }
            self.read_part(from, keys, part, found, fetched);
        }
        drop(landing);
    }

    /// One multi-get.
    fn read_part(
        &self,
        from: &From<'_>,
        keys: &[Key],
        part: &[usize],
        found: &mut [Option<Found>],
        fetched: &mut Fetched,
    ) {
        let wanted: Vec<&[u8]> = part.iter().map(|at| &*keys[*at].1).collect();
        match from.store.dim_get(from.table, from.epoch, &wanted) {
            Ok(rows) => {
                // Held until they are kept: what is forgotten meanwhile is forgotten behind that.
                let flights = self.flights();
                for (at, row) in part.iter().zip(rows) {
                    found[*at] = Some(known(row.clone()));
                    if flights.get(&keys[*at]) == Some(&false) {
                        self.rows.insert(keys[*at].clone(), from.ages.entry(row));
                    }
                }
            }
            Err(error) => {
                fetched.failure = Some(error.to_string());
                for at in part {
                    let entry = self.rows.get(&keys[*at]).filter(|entry| from.ages.serves(entry));
                    found[*at] =
                        Some(entry.map_or(Found::Unknown, |entry| Found::Stale(entry.row)));
                }
            }
        }
    }
}

fn known(row: Option<Bytes>) -> Found {
    row.map_or(Found::Absent, Found::Row)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::OnceLock;

    use super::*;
    use crate::catalog::model::UidType;
    use crate::store::intercepted::{Call, Intercepted};
    use crate::store::memory::MemoryStore;
    use crate::store::{ClockMode, DimMeta, Identity};

    fn meta() -> DimMeta {
        DimMeta {
            epoch: 1,
            loaded_at_ms: 0,
            source: String::new(),
            key: String::new(),
            columns: Vec::new(),
            rows: 1,
            rejected: 0,
            changed: 0,
            removed: 0,
            all_changed: true,
            topic: None,
        }
    }

    #[test]
    fn what_was_under_way_when_a_row_was_forgotten_is_not_kept() {
        let identity =
            Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Wall };
        let stored: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 1));
        let put =
            |text: &str| [b"k", b"o"].map(|k| (k[..].into(), text.as_bytes().into())).to_vec();
        let epoch = stored.dim_begin("t").unwrap();
        stored.dim_put("t", epoch, put("old")).unwrap();
        stored.dim_commit("t", meta()).unwrap();
        let rows: Arc<OnceLock<CachedRows>> = Arc::default();
        let (cache, forgets) = (Arc::clone(&rows), Mutex::new(true));
        // While rows are read for the first time, one becomes another one.
        let store = Intercepted::new(Arc::clone(&stored), move |call| {
            let is_first = call == Call::DimGet && std::mem::take(&mut *forgets.lock().unwrap());
            if let Some(cache) = cache.get().filter(|_| is_first) {
                cache.forget(1, std::iter::once(&b"k"[..]));
            }
            Ok(())
        });
        let rows = rows.get_or_init(|| CachedRows::new(1 << 20, "t"));
        let limit = Limit::new(NonZeroU32::MAX);
        let ages = Ages { now_ms: 0, ttl_ms: Some(1_000), max_stale_ms: 0, window: 0 };
        let from = From { store: &store, table: "t", epoch: 1, ages, limit: Some(&limit) };
        let look = || rows.fetch(&from, vec![b"k"[..].into()]).found;
        let row = |text: &str| [Found::Row(text.as_bytes().into())];
        let both = rows.fetch(&from, vec![b"k"[..].into(), b"o"[..].into()]).found;
        assert_eq!(both, [row("old"), row("old")].concat());
        stored.dim_upsert("t", 1, 1, vec![(b"o"[..].into(), Some(b"new"[..].into()))]).unwrap();
        assert_eq!(rows.fetch(&from, vec![b"o"[..].into()]).found, row("old"), "the other is kept");
        stored.dim_upsert("t", 1, 1, vec![(b"k"[..].into(), Some(b"new"[..].into()))]).unwrap();
        assert_eq!(look(), row("new"));
        stored.dim_upsert("t", 1, 2, vec![(b"k"[..].into(), None)]).unwrap();
        assert_eq!(look(), row("new"), "what nobody forgot is kept");
        rows.forget(1, std::iter::once(&b"k"[..]));
        assert_eq!(look(), [Found::Absent]);
    }
}
