//! What has been read since the last window, and what it adds up to.
//!
//! In: decoded batches with their positions. Out: parts for the shards, and at a window's cut the
//! positions, rejects and totals that belong to it.
//! Invariant: no I/O, no clock; everything handed to shards before a cut is covered by it, nothing
//! after it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Day;
use crate::event::Decoded;
use crate::event::block::{ShardRows, Skipped};
use crate::event::reject::{Reason, Reject};
use crate::shard::FoldCounts;
use crate::shard::fence::{At, Fences};
use crate::source::position::Position;
use crate::telemetry::facts::Fresh;

/// Everything the store has seen, since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Source rows read.
    pub rows: u64,
    /// Source rows that at least one stream refused.
    pub rejected_rows: u64,
    /// By stream.
    pub streams: BTreeMap<String, StreamTotals>,
    /// Windows stored.
    pub windows: u64,
    /// Greatest arrival time of a record, epoch ms; none without topics.
    #[serde(default)]
    pub greatest_arrival_ms: Option<i64>,
}

impl Totals {
    /// Adds what others have seen.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.rejected_rows += other.rejected_rows;
        self.windows += other.windows;
        self.greatest_arrival_ms = self.greatest_arrival_ms.max(other.greatest_arrival_ms);
        for (name, theirs) in &other.streams {
            self.streams.entry(name.clone()).or_default().add(theirs);
        }
    }
}

/// One stream's share of [`Totals`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTotals {
    /// Rows accepted as events, repeats included.
    pub events: u64,
    /// Rows for which `where` is not true.
    pub filtered: u64,
    /// Row expressions that could not be computed.
    pub failed: u64,
    /// Rejects by reason.
    pub rejects: BTreeMap<Reason, u64>,
    /// Rows of a table that left their user.
    #[serde(default)]
    pub gone: u64,
    /// Of them: rows that came to another user.
    #[serde(default)]
    pub moved: u64,
    /// Records of change data capture that are no rows of it.
    #[serde(default)]
    pub skipped: Skipped,
    /// Columns of its rows that no stream reads, at most [`UNREAD_COLUMNS_MAX`].
    #[serde(default)]
    pub unread_columns: BTreeSet<String>,
    /// Events that arrived later than the horizon: only features over everything count them.
    #[serde(default)]
    pub late: u64,
}

/// Names of unread columns that are kept for a stream.
pub const UNREAD_COLUMNS_MAX: usize = 64;

impl StreamTotals {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.filtered += other.filtered;
        self.failed += other.failed;
        self.gone += other.gone;
        self.moved += other.moved;
        self.skipped += other.skipped;
        self.late += other.late;
        for (reason, rows) in &other.rejects {
            *self.rejects.entry(*reason).or_default() += rows;
        }
        for name in &other.unread_columns {
            if self.unread_columns.len() < UNREAD_COLUMNS_MAX {
                self.unread_columns.insert(name.clone());
            }
        }
    }
}

/// What became of events, since the store was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FoldTotals {
    /// Users that have a profile.
    pub users: u64,
    /// By what became of them.
    pub counts: FoldCounts,
}

impl FoldTotals {
    /// Adds a window's counts.
    pub fn add(&mut self, counts: FoldCounts) {
        self.counts.add(counts);
    }
}

/// What a window covers.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// Sources that moved.
    pub positions: BTreeMap<String, Position>,
    /// Rejects since the last cut.
    pub rejects: Vec<Reject>,
    /// Everything up to this cut.
    pub totals: Totals,
    /// Greatest event time accepted so far.
    pub greatest_ms: Option<i64>,
    /// How fresh the events since the last cut are.
    pub fresh: Vec<Fresh>,
    /// How far the partitions of topics were read, as profiles remember it.
    pub fences: Arc<Fences>,
}

/// Batches whose freshness is kept apart until a cut; those beyond it are taken for as old as the
/// oldest of them.
const FRESH_MAX: usize = 1_024;

/// Collects what sources read.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    streams: Vec<String>,
    positions: BTreeMap<String, Position>,
    rejects: Vec<Reject>,
    rejects_weight: usize,
    totals: Totals,
    greatest_ms: Option<i64>,
    days: BTreeMap<Day, u64>,
    fresh: Vec<Fresh>,
    moved: bool,
    /// Catalogues that became active since the start.
    swaps: u64,
    /// Nothing may be taken in: a catalogue is about to become active.
    held: bool,
    /// Of stores that do not write a window as a whole.
    fences: Option<Fences>,
    /// Rejects go to a topic with all of their bytes.
    publishes_rejects: bool,
}

/// Days beyond all others after which few events look like a mistake.
const STRAY_GAP_DAYS: i32 = 366;

/// One event in this many, at most, is a stray.
const STRAY_ONE_IN: u64 = 1000;

impl Intake {
    /// `streams`: names by index. `totals`: what the store says.
    pub fn new(streams: Vec<String>, totals: Totals) -> Self {
        Self { streams, totals, ..Self::default() }
    }

    /// Profiles are to remember which rows they have applied: `starts` says where reading begins.
    #[must_use]
    pub fn with_fences(mut self, starts: Fences) -> Self {
        self.fences = Some(starts);
        self
    }

    /// Rejects keep all of their bytes until their window: they are published.
    #[must_use]
    pub fn with_whole_rejects(mut self, publishes: bool) -> Self {
        self.publishes_rejects = publishes;
        self
    }

    /// A partition was read up to this offset.
    pub fn note_offset(&mut self, at: At, next: u64) {
        if let Some(fences) = &mut self.fences {
            fences.note(at, next);
        }
    }

    /// Catalogues that became active since the start: only batches decoded for the present one may
    /// be taken in.
    pub fn swaps(&self) -> u64 {
        self.swaps
    }

    /// Whether nothing may be taken in at present.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Until [`Intake::swapped`] nothing may be taken in.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// No other catalogue becomes active after all.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Another catalogue is active, with these streams.
    pub fn swapped(&mut self, streams: Vec<String>) {
        self.streams = streams;
        self.swaps += 1;
        self.held = false;
    }

    /// Takes a batch in. Returns the parts for each shard, by stream. `sources`: the names under
    /// which its position is kept.
    pub fn absorb(
        &mut self,
        sources: &[String],
        position: Option<Position>,
        mut decoded: Decoded,
    ) -> Vec<(u8, Vec<ShardRows>)> {
        self.moved = true;
        self.totals.rows += decoded.rows;
        self.totals.rejected_rows += decoded.rejected_rows;
        for reject in &decoded.rejects {
            let stream = self.totals.streams.entry(reject.stream.clone()).or_default();
            *stream.rejects.entry(reject.reason).or_default() += 1;
        }
        if !self.publishes_rejects {
            // The store keeps their beginnings only.
            decoded.rejects.iter_mut().for_each(|reject| reject.whole = None);
        }
        self.rejects_weight += decoded.rejects.iter().map(Reject::weight).sum::<usize>();
        self.rejects.extend(decoded.rejects);
        for source in sources {
            let Some(position) = position else { break };
            match self.positions.get_mut(source) {
                Some(have) => *have = position,
                None => {
                    self.positions.insert(source.clone(), position);
                }
            }
        }
        let mut parts = Vec::with_capacity(decoded.blocks.len());
        for block in decoded.blocks {
            let name = self.streams[usize::from(block.stream)].as_str();
            if !self.totals.streams.contains_key(name) {
                self.totals.streams.insert(name.to_owned(), StreamTotals::default());
            }
            if let Some(stream) = self.totals.streams.get_mut(name) {
                stream.events += block.accepted;
                stream.filtered += block.filtered;
                stream.failed += block.failed;
                stream.gone += block.gone;
                stream.moved += block.moved;
                stream.skipped += block.skipped;
                for name in block.unread {
                    if stream.unread_columns.len() == UNREAD_COLUMNS_MAX {
                        break;
                    }
                    stream.unread_columns.insert(name);
                }
                stream.late += block.late;
            }
            if block.greatest_arrival_ms > i64::MIN {
                let greatest_ms = &mut self.totals.greatest_arrival_ms;
                *greatest_ms = (*greatest_ms).max(Some(block.greatest_arrival_ms));
            }
            if block.accepted > 0 {
                self.greatest_ms = self.greatest_ms.max(Some(block.greatest_ms));
            }
            for (day, events) in block.days {
                *self.days.entry(day).or_default() += events;
            }
            parts.push((block.stream, block.shards));
        }
        parts
    }

    /// Takes a batch in that was counted before, by another process. Returns the parts for each shard,
    /// by stream.
    pub(super) fn absorb_again(&mut self, decoded: Decoded) -> Vec<(u8, Vec<ShardRows>)> {
        for block in decoded.blocks.iter().filter(|block| block.accepted > 0) {
            self.greatest_ms = self.greatest_ms.max(Some(block.greatest_ms));
        }
        decoded.blocks.into_iter().map(|block| (block.stream, block.shards)).collect()
    }

    /// Something goes to shards that was taken in before.
    pub(super) fn touch(&mut self) {
        self.moved = true;
    }

    /// Batches that were decoded before now have to be decoded again.
    pub(super) fn outdate(&mut self) {
        self.swaps += 1;
    }

    /// Notes how fresh the events of a batch are that is about to be taken in.
    pub fn note_fresh(&mut self, decoded: &Decoded, received_ms: i64) {
        for block in decoded.blocks.iter().filter(|b| b.accepted > 0) {
            let fresh = Fresh { event_ms: block.greatest_ms, received_ms, events: block.accepted };
            let is_full = self.fresh.len() >= FRESH_MAX;
            match self.fresh.last_mut().filter(|_| is_full) {
                Some(last) => {
                    last.event_ms = last.event_ms.min(fresh.event_ms);
                    last.events += fresh.events;
                }
                None => self.fresh.push(fresh),
            }
        }
    }

    /// Takes what a window is to cover.
    pub fn cut(&mut self) -> Cut {
        self.moved = false;
        self.rejects_weight = 0;
        Cut {
            positions: std::mem::take(&mut self.positions),
            rejects: std::mem::take(&mut self.rejects),
            totals: self.totals.clone(),
            greatest_ms: self.greatest_ms,
            fresh: std::mem::take(&mut self.fresh),
            fences: Arc::new(self.fences.clone().unwrap_or_default()),
        }
    }

    /// Whether anything was read since the last cut.
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// Greatest event time accepted so far.
    pub fn greatest_ms(&self) -> Option<i64> {
        self.greatest_ms
    }

    /// Rejects waiting for the next cut; a long one counts as several.
    pub fn rejects_waiting(&self) -> usize {
        self.rejects_weight
    }

    /// The last day of all events but a few, when those few (fewer than 0.1 %) lie more than 366
    /// days beyond it: with `clock.mode = event` they have moved the as-of.
    pub fn stray_future(&self) -> Option<(Day, u64)> {
        let total: u64 = self.days.values().sum();
        let mut beyond = 0;
        let mut later: Option<Day> = None;
        for (day, events) in self.days.iter().rev() {
            if let Some(later) = later
                && later - day > STRAY_GAP_DAYS
                && beyond * STRAY_ONE_IN < total
            {
                return Some((*day, beyond));
            }
            beyond += events;
            later = Some(*day);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(days: &[(Day, u64)], expect: Option<(Day, u64)>) {
        let mut intake = Intake::new(Vec::new(), Totals::default());
        intake.days = days.iter().copied().collect();
        assert_eq!(intake.stray_future(), expect);
    }

    #[test]
    fn a_few_events_far_ahead_are_strays_and_many_are_not() {
        check(&[(20_000, 9_000), (20_001, 1_000)], None);
        check(&[(20_000, 9_000), (22_000, 3)], Some((20_000, 3)));
        check(&[(20_000, 9_000), (20_366, 3)], None);
        check(&[(20_000, 9_000), (22_000, 90)], None);
    }
}
