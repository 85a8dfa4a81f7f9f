//! Rejects of the embedded store: a bounded queue by sequence number.
//!
//! In: encoded rejects. Out: the newest `rejects_max` of them. Invariant: a sequence number is
//! never used twice, and the counters change in the same batch as the rows.

use std::collections::BTreeSet;
use std::ops::Bound;

use fjall::{Keyspace, OwnedWriteBatch};
use serde::{Deserialize, Serialize};

use super::FjallStore;
use crate::store::{Bytes, Result, StoreError};

const COUNTERS_KEY: &str = "\0rejects";

/// Where the queue stands.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Rejects {
    /// The next sequence number.
    next: u64,
    /// No reject below this is kept.
    first: u64,
    /// Rejects kept.
    kept: u64,
    /// Rejects dropped for the bound.
    dropped: u64,
}

impl Rejects {
    pub(super) fn recover(meta: &Keyspace, reject: &Keyspace) -> fjall::Result<Self> {
        let Some(value) = meta.get(COUNTERS_KEY)? else { return Ok(Self::default()) };
        if let Ok(counters) = serde_json::from_slice(&value) {
            return Ok(counters);
        }
        // Damaged counters lose counts, not rejects.
        let mut counters = Self::default();
        for guard in reject.iter() {
            let sequence = sequence_of(&guard.key()?);
            if counters.kept == 0 {
                counters.first = sequence;
            }
            counters.kept += 1;
            counters.next = sequence + 1;
        }
        Ok(counters)
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds to `batch` what the new rejects and the re-driven ones mean, and gives the counters
    /// that hold once the batch is committed.
    pub(super) fn plan(
        &self,
        batch: &mut OwnedWriteBatch,
        store: &FjallStore,
        rejects: Vec<Vec<u8>>,
        done: Vec<u64>,
    ) -> Result<Self> {
        let mut after = *self;
        if rejects.is_empty() && done.is_empty() {
            return Ok(after);
        }
        let mut removed = BTreeSet::new();
        for sequence in done {
            let known = store.reject.contains_key(sequence.to_be_bytes());
            if known.map_err(|e| store.error(e))? && removed.insert(sequence) {
                batch.remove(&store.reject, sequence.to_be_bytes());
                after.kept -= 1;
            }
        }
        let bound = store.rejects_max as u64;
        let new = rejects.len() as u64;
        // Of more than the bound at once only the last ones are written at all.
        let unwritten = new.saturating_sub(bound);
        after.next += unwritten;
        after.dropped += unwritten;
        let surplus = (after.kept + new - unwritten).saturating_sub(bound);
        after.drop_oldest(batch, store, surplus, &removed)?;
        for reject in rejects.into_iter().skip(usize::try_from(unwritten).unwrap_or(usize::MAX)) {
            batch.insert(&store.reject, after.next.to_be_bytes(), reject);
            after.next += 1;
            after.kept += 1;
        }
        if after.kept == 0 {
            after.first = after.next;
        }
        let counters = serde_json::to_vec(&after).expect("numbers are always JSON");
        batch.insert(&store.meta, COUNTERS_KEY, counters);
        Ok(after)
    }

    fn drop_oldest(
        &mut self,
        batch: &mut OwnedWriteBatch,
        store: &FjallStore,
        surplus: u64,
        removed: &BTreeSet<u64>,
    ) -> Result<()> {
        if surplus == 0 {
            return Ok(());
        }
        let mut left = surplus;
        for guard in store.reject.range(self.first.to_be_bytes()..) {
            let sequence = sequence_of(&guard.key().map_err(|e| store.error(e))?);
            self.first = sequence;
            if left == 0 {
                break;
            }
            if !removed.contains(&sequence) {
                batch.remove(&store.reject, sequence.to_be_bytes());
                left -= 1;
                self.kept -= 1;
                self.dropped += 1;
            }
        }
        Ok(())
    }
}

pub(super) fn scan(
    store: &FjallStore,
    after: Option<u64>,
    rows_max: usize,
) -> Result<Vec<(u64, Bytes)>> {
    let first = match after {
        None => 0,
        Some(u64::MAX) => return Ok(Vec::new()),
        Some(after) => after + 1,
    };
    let from = Bound::Included(first.to_be_bytes());
    let rows = store.reject.range((from, Bound::Unbounded));
    store.collect(rows, rows_max, |key, value| {
        let key: [u8; 8] = key.as_ref().try_into().map_err(|_| StoreError::Corrupt {
            what: format!("the reject key {key:02x?}"),
            remedy: "restore the store from a snapshot".to_owned(),
        })?;
        Ok((u64::from_be_bytes(key), Bytes(value)))
    })
}

/// A key of another length sorts somewhere, but is nobody's: 0.
fn sequence_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}
