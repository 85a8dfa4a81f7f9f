//! Rows of a table that changes: one row a key, the greatest version of it.
//!
//! In: rows of streams of `mode: changelog`: a row as it is now, or that it is gone. Out: what became
//! of it. A row that is gone leaves a tombstone, so that an older version that comes later is known
//! to be old. Features are computed from the rows that are there, so that a change retracts what was
//! before exactly, whatever the aggregate.
//!
//! A tombstone has the layout of its stream: a day and a time that never come, so that no feature
//! looks at it, every value NULL, and in its time the day from which it is kept for the horizon.
//! Invariant: no clock, no I/O; which rows are kept does not depend on the order in which they came.

use super::layout::{
    ChangelogLayout, StateLayout, StreamLayout, pack_day, pack_time, row_day, row_stream, row_time,
    set_flag,
};
use super::state::{Folded, UserState};
use crate::clock::Day;

/// The day of a tombstone: the last one that a row can hold, in the year 24936.
pub const NEVER_DAY: Day = (1 << 23) - 1;

/// The time of a tombstone no window has seen yet, beyond all instants. Days kept are added to it.
const NEVER_MS: i64 = 1 << 53;

/// Where the first day that can be added stands.
const STAMPED_MS: i64 = NEVER_MS + (1 << 24);

/// Streams of which a user has more rows than are kept: for each the least key that was left out.
/// Keys from there on stay out, so that those kept are the least of all that were ever seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partly(Vec<(u8, u64)>);

impl Partly {
    /// Of (stream index, least key that was left out).
    pub fn of(streams: Vec<(u8, u64)>) -> Option<Self> {
        (!streams.is_empty()).then_some(Self(streams))
    }

    /// (stream index, least key that was left out), for each stream.
    pub fn streams(&self) -> &[(u8, u64)] {
        &self.0
    }

    /// Memory behind this, without the struct itself.
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<(u8, u64)>()
    }

    fn bound(&self, stream: u8) -> Option<u64> {
        self.0.iter().find(|(of, _)| *of == stream).map(|(_, key)| *key)
    }

    /// Leaves a key out. True: it is the stream's first.
    fn leave_out(&mut self, stream: u8, key: u64) -> bool {
        match self.0.iter_mut().find(|(of, _)| *of == stream) {
            Some((_, bound)) => {
                *bound = key.min(*bound);
                false
            }
            None => {
                self.0.push((stream, key));
                self.0.sort_unstable();
                true
            }
        }
    }
}

/// Makes a row that says that its key is gone.
pub fn write_tombstone(row: &mut [u64], stream: &StreamLayout, key: u64, version: u64) {
    row.fill(0);
    row[0] = pack_time(NEVER_MS, stream.stream);
    row[1] = pack_day(NEVER_DAY);
    stream.values.iter().for_each(|value| set_flag(row, value.null_flag));
    if let Some(changelog) = &stream.changelog {
        row[changelog.key_word] = key;
        row[changelog.version_word] = version;
    }
}

/// Whether a row says that its key is gone.
#[inline]
pub fn is_tombstone(row: &[u64]) -> bool {
    row_day(row[1]) == NEVER_DAY
}

/// The day from which a tombstone is kept for the horizon, if a window has seen it.
fn kept_from(row: &[u64]) -> Option<Day> {
    let stamp = row_time(row[0]);
    (stamp != NEVER_MS).then(|| Day::try_from(stamp - STAMPED_MS).unwrap_or(Day::MAX))
}

impl UserState {
    /// Takes a change of a table's row.
    pub(super) fn fold_change(
        &mut self,
        row: &[u64],
        stream: &StreamLayout,
        changelog: &ChangelogLayout,
        layout: &StateLayout,
    ) -> Folded {
        if let Some(offset) = self.offset_of(row, changelog.key_word, layout) {
            return self.fold_version(row, offset, changelog);
        }
        let key = row[changelog.key_word];
        let bound = self.partly().and_then(|p| p.bound(stream.stream));
        if bound.is_some_and(|bound| key >= bound) {
            return Folded::LeftOut;
        }
        // So few words cannot be as many rows.
        if self.rows.len() < changelog.rows_max * stream.width
            || self.rows_of(stream.stream, layout) < changelog.rows_max
        {
            self.append(row, Some(changelog.key_word), layout);
            return Folded::New;
        }
        self.make_room(row, stream, changelog, layout)
    }

    /// Puts a row in the place of its key's older version.
    fn fold_version(&mut self, row: &[u64], offset: usize, changelog: &ChangelogLayout) -> Folded {
        let have = &mut self.rows[offset..offset + row.len()];
        let version = |row: &[u64]| row[changelog.version_word];
        let (gone, was_gone) = (is_tombstone(row), is_tombstone(have));
        match version(row).cmp(&version(have)) {
            std::cmp::Ordering::Less => Folded::Older,
            // A deletion may carry the version of the row that it deletes: of one version it wins.
            std::cmp::Ordering::Equal if gone == was_gone => {
                if gone || row == have {
                    Folded::Repeat
                } else {
                    Folded::Changed
                }
            }
            std::cmp::Ordering::Equal if was_gone => Folded::Older,
            _ => {
                have.copy_from_slice(row);
                if gone { Folded::Deleted } else { Folded::Replaced }
            }
        }
    }

    /// The user has as many rows of the stream as are kept: that with the greatest key goes.
    fn make_room(
        &mut self,
        row: &[u64],
        stream: &StreamLayout,
        changelog: &ChangelogLayout,
        layout: &StateLayout,
    ) -> Folded {
        let key = row[changelog.key_word];
        let mut greatest = (key, None);
        let mut offset = 0;
        for have in self.rows(layout) {
            if row_stream(have[0]) == usize::from(stream.stream) {
                greatest = greatest.max((have[changelog.key_word], Some(offset)));
            }
            offset += have.len();
        }
        let first = self.partly_mut().leave_out(stream.stream, greatest.0);
        let (old, Some(offset)) = greatest else { return Folded::Crowded { first } };
        self.forget_id(old, offset);
        self.rows[offset..offset + row.len()].copy_from_slice(row);
        self.learn_id(row[changelog.key_word], offset, layout);
        Folded::Crowded { first }
    }

    fn rows_of(&self, stream: u8, layout: &StateLayout) -> usize {
        self.rows(layout).filter(|row| row_stream(row[0]) == usize::from(stream)).count()
    }

    /// Notes from when on tombstones are kept, and drops those of which the horizon has passed.
    /// Returns whether it did anything.
    pub(super) fn expire_tombstones(&mut self, as_of_day: Day, layout: &StateLayout) -> bool {
        let mut expired = false;
        let mut stamped = false;
        let mut offset = 0;
        while offset < self.rows.len() {
            let stream = &layout.streams[row_stream(self.rows[offset])];
            let row = &mut self.rows[offset..offset + stream.width];
            offset += stream.width;
            if !is_tombstone(row) {
                continue;
            }
            match kept_from(row) {
                None => {
                    row[0] = pack_time(STAMPED_MS + i64::from(as_of_day), stream.stream);
                    stamped = true;
                }
                Some(day) => {
                    let age = i64::from(as_of_day) - i64::from(day);
                    expired |= age > i64::from(layout.horizon_days);
                }
            }
        }
        if expired {
            let is_expired = |row: &[u64]| {
                let day = kept_from(row).unwrap_or(Day::MAX);
                let age = i64::from(as_of_day) - i64::from(day);
                is_tombstone(row) && age > i64::from(layout.horizon_days)
            };
            let kept: Vec<u64> =
                self.rows(layout).filter(|row| !is_expired(row)).flatten().copied().collect();
            self.replace_rows(kept, layout);
        }
        expired || stamped
    }
}
