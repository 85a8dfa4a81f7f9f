//! Which rows of a stored table its topic has changed, for those who compute users.
//!
//! In: the keys of records that are written. Out: the keys that changed behind positions.
//! Invariant: what is told is in the store; bounded in bytes: beyond it, all rows may have changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Bytes, Epoch, Positions};

/// Stands for a partition: how often records were written once more that were told before, because
/// another epoch lacked them. Users may have been computed with that epoch meanwhile.
pub(super) const AGAIN: u32 = u32::MAX;

/// What is kept beside each key: map slot, position, allocation.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// See the module.
#[derive(Debug)]
pub(super) struct ChangeLog {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Keys by the partition and offset of their last record.
    keys: BTreeMap<Bytes, (u32, u64)>,
    bytes: usize,
    /// Nothing is known of records before these.
    floor: Positions,
    /// Some keys are told once more.
    is_again: bool,
    standing: Standing,
}

/// How a table stands that is being followed.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The epoch that records are written to; none: nobody follows the topic, or not yet.
    pub(super) epoch: Option<Epoch>,
    /// That epoch has what `at` says.
    pub(super) is_ready: bool,
    /// Records before these are written, and their keys told.
    pub(super) at: Positions,
    /// The topic was read to its end since it is followed.
    pub(super) is_whole: bool,
    /// Why it cannot be followed just now.
    pub(super) failure: Option<String>,
}

impl ChangeLog {
    pub(super) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { bytes_max, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        self.state().standing.clone()
    }

    /// Begins anew: what comes before `at` is known to everybody.
    pub(super) fn begin(&self, at: Positions) {
        let standing = Standing { at: at.clone(), ..Standing::default() };
        *self.state() = State { floor: at, standing, ..State::default() };
    }

    /// From now on records are written to this epoch, which does not have what is told yet.
    pub(super) fn writes_to(&self, epoch: Epoch) {
        let standing = &mut self.state().standing;
        (standing.epoch, standing.is_ready) = (Some(epoch), false);
    }

    /// The epoch has what is told.
    pub(super) fn is_ready(&self) {
        let mut state = self.state();
        state.standing.is_ready = true;
        if std::mem::take(&mut state.is_again) {
            *state.standing.at.next.entry(AGAIN).or_default() += 1;
        }
    }

    /// The topic was read to its end.
    pub(super) fn is_whole(&self) {
        self.state().standing.is_whole = true;
    }

    /// It can be followed, or why it cannot. True: that is news.
    pub(super) fn note(&self, failure: Option<String>) -> bool {
        let standing = &mut self.state().standing;
        let is_news = standing.failure != failure;
        standing.failure = failure;
        is_news
    }

    /// Records of a partition up to `next` are written. Those that were told already are told once more
    /// when the epoch is ready.
    pub(super) fn put(&self, partition: u32, next: u64, keys: impl Iterator<Item = (Bytes, u64)>) {
        let mut state = self.state();
        let State { keys: known, bytes, floor, is_again, standing } = &mut *state;
        let (told, again) = (standing.at.of(partition), standing.at.of(AGAIN));
        for (key, offset) in keys {
            let size = ENTRY_OVERHEAD_BYTES + key.len();
            let is_new = offset >= told;
            *is_again |= !is_new;
            let at = if is_new { (partition, offset) } else { (AGAIN, again) };
            if known.insert(key, at).is_none() {
                *bytes += size;
            }
        }
        if next > told {
            standing.at.next.insert(partition, next);
        }
        if *bytes > self.bytes_max {
            known.clear();
            *bytes = 0;
            floor.clone_from(&standing.at);
            if *is_again {
                floor.next.insert(AGAIN, again + 1);
            }
        }
    }

    /// Keys whose rows changed behind positions; `None`: all may have. Positions only grow: what lies
    /// before these is forgotten.
    pub(super) fn changed_behind(&self, before: &Positions) -> Option<Vec<Bytes>> {
        let mut state = self.state();
        if !before.is_behind(&state.floor) || !state.standing.at.is_behind(before) {
            return None;
        }
        let State { keys, bytes, .. } = &mut *state;
        keys.retain(|key, (partition, offset)| {
            let stays = *offset >= before.of(*partition);
            *bytes -= if stays { 0 } else { ENTRY_OVERHEAD_BYTES + key.len() };
            stays
        });
        let changed = keys.keys().cloned().collect();
        state.floor.clone_from(before);
        Some(changed)
    }

    /// The same, and nothing is forgotten.
    pub(super) fn since(&self, before: &Positions) -> Option<Vec<Bytes>> {
        let state = self.state();
        if !before.is_behind(&state.floor) || !state.standing.at.is_behind(before) {
            return None;
        }
        let newer = state.keys.iter().filter(|(_, (p, offset))| *offset >= before.of(*p));
        Some(newer.map(|(key, _)| key.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic_id: &str, next: &[(u32, u64)]) -> Positions {
        Positions { topic_id: topic_id.to_owned(), next: next.iter().copied().collect() }
    }

    fn put(log: &ChangeLog, partition: u32, offset: u64, key: &str) {
        log.put(partition, offset + 1, std::iter::once((key.as_bytes().into(), offset)));
    }

    #[track_caller]
    fn check(log: &ChangeLog, before: &Positions, expect: Option<&[&str]>) {
        let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let keys = |keys: Vec<Bytes>| keys.iter().map(text).collect::<Vec<_>>();
        let expect = expect.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
        assert_eq!(log.since(before).map(keys), expect);
        assert_eq!(log.changed_behind(before).map(keys), expect);
    }

    #[test]
    fn keys_are_told_behind_positions_and_forgotten_before_them() {
        let log = ChangeLog::new(10_000);
        log.begin(at("one", &[(0, 5)]));
        put(&log, 0, 5, "a");
        put(&log, 1, 0, "b");
        check(&log, &at("one", &[(0, 5)]), Some(&["a", "b"]));
        check(&log, &at("one", &[(0, 6)]), Some(&["b"]));
        check(&log, &at("one", &[(0, 5)]), None);
        check(&log, &at("one", &[(0, 9)]), None);
        check(&log, &at("two", &[(0, 6)]), None);
        assert_eq!(log.standing().at, at("one", &[(0, 6), (1, 1)]));
    }

    #[test]
    fn what_another_epoch_lacked_is_told_once_more() {
        let log = ChangeLog::new(10_000);
        log.begin(at("one", &[(0, 5), (AGAIN, 2)]));
        log.writes_to(2);
        put(&log, 0, 3, "a");
        put(&log, 0, 4, "b");
        put(&log, 0, 5, "c");
        log.is_ready();
        assert_eq!(log.standing().at, at("one", &[(0, 6), (AGAIN, 3)]));
        check(&log, &at("one", &[(0, 5), (AGAIN, 2)]), Some(&["a", "b", "c"]));
        check(&log, &at("one", &[(0, 6), (AGAIN, 2)]), Some(&["a", "b"]));
        check(&log, &at("one", &[(0, 6), (AGAIN, 3)]), Some(&[]));
        // More than is kept.
        let log = ChangeLog::new(ENTRY_OVERHEAD_BYTES as u64);
        log.begin(at("one", &[(0, 5)]));
        put(&log, 0, 3, "a");
        log.is_ready();
        check(&log, &at("one", &[(0, 5)]), None);
        check(&log, &log.standing().at, Some(&[]));
    }

    #[test]
    fn beyond_its_bytes_all_may_have_changed() {
        let log = ChangeLog::new(2 * ENTRY_OVERHEAD_BYTES as u64 + 2);
        log.begin(at("one", &[]));
        ["a", "b", "b"].iter().enumerate().for_each(|(n, key)| put(&log, 0, n as u64, key));
        check(&log, &at("one", &[]), Some(&["a", "b"]));
        put(&log, 0, 3, "c");
        check(&log, &at("one", &[]), None);
        put(&log, 0, 4, "d");
        check(&log, &at("one", &[(0, 4)]), Some(&["d"]));
    }
}
