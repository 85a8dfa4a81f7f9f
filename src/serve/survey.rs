//! Tags of all users of a store, or of a sample of them, by one catalogue or several.
//!
//! In: readers over one store, which users, an instant. Out: batch by batch what each reader
//! computes for the same users.
//! Invariant: reads only; what is held at once is a batch and, for a sample, one number a user.

use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::read::{ReadError, Reader, UserRow};
use crate::store::{Bytes, Store, UidKey};
use crate::user::layout::hash64;

/// Users computed at once.
const BATCH_USERS: usize = 4_096;

/// Which users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sample {
    /// All of them.
    All,
    /// This many, the same ones each time: those with the least hashes of their uids.
    Users(u32),
}

/// Who was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// Users computed.
    pub users: u64,
    /// Users in the store.
    pub stored_users: u64,
    /// The instant of the last batch, epoch ms: a live store's clock goes on meanwhile.
    pub as_of_ms: i64,
}

/// A survey about to be made.
pub struct Survey<'a> {
    /// Where the users are.
    pub store: &'a dyn Store,
    /// Which of them.
    pub sample: Sample,
    /// The instant; none: as the store says.
    pub as_of_ms: Option<i64>,
}

impl Survey<'_> {
    /// Computes the users with each reader and hands them on, a batch at a time, one list a reader.
    /// `progress` is told the users seen, of about how many.
    pub fn run(
        &self,
        readers: &[&Reader],
        progress: &mut dyn FnMut(u64, u64),
        mut each: impl FnMut(&[Vec<UserRow>]),
    ) -> Result<Surveyed, ReadError> {
        self.rows(readers, progress, |rows, as_of_ms| {
            let batches = readers.iter().map(|reader| reader.read_rows(rows, as_of_ms));
            each(&batches.collect::<Result<Vec<_>, _>>()?);
            Ok(())
        })
    }

    /// The stored rows of the users, a batch at a time, and the instant to compute them for.
    pub(super) fn rows(
        &self,
        readers: &[&Reader],
        progress: &mut dyn FnMut(u64, u64),
        mut each: impl FnMut(&[(UidKey, Bytes)], i64) -> Result<(), ReadError>,
    ) -> Result<Surveyed, ReadError> {
        let [reader, ..] = readers else { return Ok(Surveyed::default()) };
        let mut surveyed = Surveyed::default();
        let total = self.store.stats()?.profiles_approximate;
        let limit = self.greatest_hash(&mut || progress(0, total))?;
        let mut waiting: Vec<(UidKey, Bytes)> = Vec::new();
        let mut compute = |waiting: &mut Vec<(UidKey, Bytes)>, surveyed: &mut Surveyed| {
            // After the scan: no profile of it was computed for a later instant.
            surveyed.as_of_ms = self.as_of_ms.map_or_else(|| reader.present_ms(), Ok)?;
            surveyed.users += waiting.len() as u64;
            each(waiting, surveyed.as_of_ms)?;
            waiting.clear();
            Ok::<(), ReadError>(())
        };
        let mut after: Option<UidKey> = None;
        loop {
            let rows = self.store.scan_profiles(after.as_ref(), BATCH_USERS)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            surveyed.stored_users += rows.len() as u64;
            let chosen =
                |(key, _): &(UidKey, Bytes)| limit.is_none_or(|l| hash64(key.as_bytes()) <= l);
            waiting.extend(rows.into_iter().filter(chosen));
            if waiting.len() >= BATCH_USERS {
                compute(&mut waiting, &mut surveyed)?;
            }
            progress(surveyed.stored_users, total.max(surveyed.stored_users));
        }
        if !waiting.is_empty() {
            compute(&mut waiting, &mut surveyed)?;
        }
        Ok(surveyed)
    }

    /// The greatest hash of a user in the sample; none: all are in.
    fn greatest_hash(&self, alive: &mut dyn FnMut()) -> Result<Option<u64>, ReadError> {
        let Sample::Users(wanted) = self.sample else { return Ok(None) };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut least: BinaryHeap<u64> = BinaryHeap::new();
        let mut users = 0_usize;
        let mut after: Option<UidKey> = None;
        loop {
            let rows = self.store.scan_profiles(after.as_ref(), BATCH_USERS)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            users += rows.len();
            alive();
            for (key, _) in &rows {
                least.push(hash64(key.as_bytes()));
                if least.len() > wanted {
                    least.pop();
                }
            }
        }
        let all = users <= wanted;
        Ok((!all).then(|| least.peek().copied().unwrap_or(0)))
    }
}
