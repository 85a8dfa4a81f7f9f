//! Which rows a profile has applied already.
//!
//! Where a window is not stored as a whole (see [`Store::is_atomic`](crate::store::Store::is_atomic))
//! some of its profiles may be stored and others not when a process ends. The next owner reads the
//! window's rows again; a profile's *fence*, the next offset of each source that it has not applied,
//! tells which of them it has.
//!
//! In: how far sources were read at each window's cut, fences of profiles that are loaded. Out:
//! whether a row is to be folded; the fence of a profile that is written.
//! Invariant: pure; a fence never goes back.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::users::Slot;
use crate::source::kafka::SourceId;
use crate::user::layout::hash64;

/// Where rows were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The partition of a topic; [`At::FILES`]: a file, which may hold events of any user.
    pub partition: u32,
    /// The partition of this topic, or the file, as fences name it.
    pub source: SourceId,
}

impl At {
    /// The number that stands for files, which have no partitions.
    pub const FILES: u32 = crate::store::FILES;

    /// Of a history, whose users are its one row each: a profile that has it has applied row 0.
    pub fn history(job: u16) -> Self {
        Self {
            partition: Self::FILES,
            source: SourceId(hash64(format!("history/{job}").as_bytes())),
        }
    }

    /// Of a file, by the names under which its position is kept.
    pub fn file(names: &[String]) -> Self {
        Self { partition: Self::FILES, source: SourceId(hash64(names.join("\n").as_bytes())) }
    }
}

/// The next offset of each source that a profile has not applied.
pub type Fence = Vec<(SourceId, u64)>;

/// How far the sources of each partition were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences(BTreeMap<u32, BTreeMap<SourceId, u64>>);

impl Fences {
    /// A source was read up to this offset.
    pub fn note(&mut self, at: At, next: u64) {
        let known = self.0.entry(at.partition).or_default().entry(at.source).or_default();
        *known = (*known).max(next);
    }

    /// All sources.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, u64)> + '_ {
        self.0.values().flatten().map(|(source, next)| (*source, *next))
    }

    fn of(&self, partition: u32) -> impl Iterator<Item = (SourceId, u64)> + '_ {
        self.0.get(&partition).into_iter().flatten().map(|(source, next)| (*source, *next))
    }
}

/// What a process that has taken partitions over has to read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Where it begins.
    pub starts: Fences,
    /// Rows before these offsets may have been read by an owner before.
    pub until: BTreeMap<SourceId, u64>,
    /// Sources that nobody reads again: fences need not know them any more.
    pub forgotten: BTreeSet<SourceId>,
}

/// The fences of one shard's resident users.
#[derive(Debug, Default)]
pub(super) struct Fenced {
    /// Users whose fence is beyond what was read, or who know sources that are not read.
    users: HashMap<Slot, Fence>,
    /// How far each source was read.
    next: HashMap<SourceId, u64>,
    /// Rows before these offsets may have been read by another owner.
    replay_until: HashMap<SourceId, u64>,
    forgotten: BTreeSet<SourceId>,
}

impl Fenced {
    /// Nobody is resident.
    pub(super) fn new(replay: &Replay) -> Self {
        let next = replay.starts.sources().collect();
        let replay_until = replay.until.iter().map(|(source, until)| (*source, *until)).collect();
        let forgotten = replay.forgotten.clone();
        Self { users: HashMap::new(), next, replay_until, forgotten }
    }

    /// A user was loaded that has this fence.
    pub(super) fn admit(&mut self, slot: Slot, mut fence: Fence) {
        if !self.forgotten.is_empty() {
            fence.retain(|(source, _)| !self.forgotten.contains(source));
        }
        let is_beyond =
            |(source, next): &(SourceId, u64)| self.next.get(source).is_none_or(|read| read < next);
        if fence.iter().any(is_beyond) {
            self.users.insert(slot, fence);
        }
    }

    /// A user has applied a row that came by no source: it is written with the window that closes.
    pub(super) fn apply(&mut self, slot: Slot, source: SourceId, offset: u64) {
        let fence = self.users.entry(slot).or_default();
        fence.retain(|(known, _)| *known != source);
        fence.push((source, offset + 1));
    }

    /// A user has left.
    pub(super) fn forget(&mut self, slot: Slot) {
        if !self.users.is_empty() {
            self.users.remove(&slot);
        }
    }

    /// Whether the user has applied a row already.
    #[inline]
    pub(super) fn has_applied(&self, slot: Slot, source: SourceId, offset: u64) -> bool {
        if self.users.is_empty() {
            return false;
        }
        let fence = self.users.get(&slot).and_then(|f| f.iter().find(|(s, _)| *s == source));
        fence.is_some_and(|(_, next)| offset < *next)
    }

    /// Whether another owner may have read a row.
    #[inline]
    pub(super) fn is_replay(&self, source: SourceId, offset: u64) -> bool {
        self.replay_until.get(&source).is_some_and(|until| offset < *until)
    }

    /// A window was cut: everything before this was folded.
    pub(super) fn cut(&mut self, fences: &Fences) {
        for (source, next) in fences.sources() {
            let known = self.next.entry(source).or_default();
            *known = (*known).max(next);
        }
        let next = &self.next;
        self.replay_until.retain(|source, until| next.get(source).is_none_or(|n| n < until));
        self.users.retain(|_, fence| {
            fence.iter().any(|(source, offset)| next.get(source).is_none_or(|n| n < offset))
        });
    }

    /// The fence of a user's profile that a window writes.
    pub(super) fn write(
        &self,
        slot: Slot,
        partition: Option<u32>,
        fences: &Fences,
        out: &mut Fence,
    ) {
        out.clear();
        let partitions = partition.into_iter().chain([At::FILES]);
        out.extend(partitions.flat_map(|p| fences.of(p)));
        let Some(own) = self.users.get(&slot) else { return };
        for (source, next) in own {
            match out.iter_mut().find(|(known, _)| known == source) {
                Some((_, known)) => *known = (*known).max(*next),
                None => out.push((*source, *next)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: At = At { partition: 3, source: SourceId(1) };
    const B: At = At { partition: 3, source: SourceId(2) };

    fn fences(a: u64, b: u64) -> Fences {
        let mut fences = Fences::default();
        fences.note(A, a);
        fences.note(B, b);
        fences
    }

    #[test]
    fn what_a_profile_has_applied_is_dropped_until_its_fence_is_reached() {
        let until = BTreeMap::from([(A.source, 140), (B.source, 60)]);
        let replay = Replay { starts: fences(100, 50), until, ..Replay::default() };
        let mut fenced = Fenced::new(&replay);
        fenced.admit(7, vec![(A.source, 120), (B.source, 50)]);
        fenced.admit(8, vec![(A.source, 100), (B.source, 50)]);
        assert!(fenced.has_applied(7, A.source, 119) && !fenced.has_applied(7, A.source, 120));
        assert!(!fenced.has_applied(7, B.source, 50) && !fenced.has_applied(8, A.source, 100));
        assert!(fenced.is_replay(A.source, 139) && !fenced.is_replay(A.source, 140));
        let mut out = Fence::new();
        fenced.write(7, Some(3), &fences(110, 60), &mut out);
        assert_eq!(out, [(A.source, 120), (B.source, 60)], "it never goes back");
        fenced.cut(&fences(120, 60));
        assert!(fenced.users.is_empty(), "nothing is left to be dropped");
        fenced.cut(&fences(140, 60));
        assert!(!fenced.is_replay(A.source, 100));
    }

    #[test]
    fn a_history_is_applied_once_and_forgotten_when_everybody_has_it() {
        let (first, second) = (At::history(1).source, At::history(2).source);
        let forgotten = BTreeSet::from([first]);
        let mut fenced = Fenced::new(&Replay { forgotten, ..Replay::default() });
        fenced.admit(7, vec![(first, 1)]);
        assert!(!fenced.has_applied(7, second, 0));
        fenced.apply(7, second, 0);
        assert!(fenced.has_applied(7, second, 0) && !fenced.has_applied(8, second, 0));
        fenced.cut(&Fences::default());
        let mut out = Fence::new();
        fenced.write(7, None, &Fences::default(), &mut out);
        assert_eq!(out, [(second, 1)]);
    }

    #[test]
    fn a_source_that_is_not_read_keeps_its_fence() {
        let mut fenced = Fenced::new(&Replay { starts: fences(0, 0), ..Replay::default() });
        let other = SourceId(9);
        fenced.admit(7, vec![(other, 5)]);
        fenced.cut(&fences(10, 10));
        let mut out = Fence::new();
        fenced.write(7, Some(3), &fences(10, 10), &mut out);
        assert_eq!(out, [(A.source, 10), (B.source, 10), (other, 5)]);
        fenced.forget(7);
        fenced.write(7, None, &fences(10, 10), &mut out);
        assert!(out.is_empty());
    }
}
