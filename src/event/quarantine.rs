//! Users whose state or rules panicked.
//!
//! In: hashes of uids. Out: whether events of a uid are to be refused. Shared by shards (which add)
//! and decoders (which ask). Invariant: asking costs one load while nobody is quarantined.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use hashbrown::HashSet;

/// All quarantined users of a process, by uid hash.
#[derive(Debug, Default)]
pub struct Quarantine {
    count: AtomicUsize,
    hashes: RwLock<HashSet<u64>>,
}

impl Quarantine {
    /// From now on events of this user are rejects.
    pub fn add(&self, hash: u64) {
        let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        hashes.insert(hash);
        self.count.store(hashes.len(), Ordering::Release);
    }

    /// Whether events of this user are to be refused.
    #[inline]
    pub fn holds(&self, hash: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.hashes.read().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// Everybody is tried again: other rules have come.
    pub fn clear(&self) {
        let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        hashes.clear();
        self.count.store(0, Ordering::Release);
    }

    /// Number of quarantined users.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Hashes of all of them, in no order.
    pub fn hashes(&self) -> Vec<u64> {
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.iter().copied().collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
