//! One user's state: the rows of recent events, and tiles that were settled.
//!
//! In: rows as `layout` describes them. Out: whether a row was new. The order in which rows come
//! does not matter to anything computed from a state.
//! Invariant: no clock, no I/O.

use hashbrown::HashTable;

use super::changelog::Partly;
use super::history::leave_to_history;
use super::layout::{StateLayout, StreamLayout, row_day, row_stream, row_time};
use super::settled::{Period, Settled};
use super::texts::TextsView;
use crate::clock::{Day, hop_of};
use crate::rule::AsOf;

/// From this many words of rows on (of some 48 events), event ids are found by hash instead of by
/// looking at each row.
const INDEX_FROM_WORDS: usize = 288;

/// Rows for which there is room at least, when a user's rows move.
const ROWS_MORE: usize = 4;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// It counts.
    New,
    /// An event with this id and content was there.
    Repeat,
    /// An event with this id but other content was there; the first sight stays.
    Changed,
    /// It took the place of an older version.
    Replaced,
    /// Its key is gone.
    Deleted,
    /// A newer version was there.
    Older,
    /// The user has more rows than are kept, and it is not among them.
    LeftOut,
    /// The user has more rows than are kept: from now on keys are left out that were kept before.
    Crowded {
        /// Until now all rows of the stream were kept.
        first: bool,
    },
}

/// One user's state.
#[derive(Debug, Clone, Default)]
pub struct UserState {
    pub(super) rows: Vec<u64>,
    /// Bits of all event ids: an id of which one is missing is new, and no row need be looked at.
    id_bits: IdBits,
    /// What most users do not have.
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Clone, Default)]
struct Rest {
    /// Offsets of rows with an id, by id.
    index: Option<HashTable<u32>>,
    settled: Option<Settled>,
    /// Streams of which not all rows are kept.
    partly: Option<Partly>,
}

impl UserState {
    /// A state read from a snapshot: whole rows of the layout.
    pub fn from_parts(rows: Vec<u64>, settled: Option<Settled>, layout: &StateLayout) -> Self {
        let mut id_bits = IdBits::default();
        let mut rest = rows.as_slice();
        while let Some(first) = rest.first() {
            let stream = &layout.streams[row_stream(*first)];
            if let Some(word) = stream.found_by() {
                id_bits.add(rest[word]);
            }
            rest = &rest[stream.width..];
        }
        let rest = settled.map(|s| Box::new(Rest { settled: Some(s), ..Rest::default() }));
        Self { rows, id_bits, rest }
    }

    /// The same, with streams of which not all rows are kept.
    #[must_use]
    pub fn with_partly(mut self, partly: Option<Partly>) -> Self {
        if partly.is_some() {
            self.rest.get_or_insert_default().partly = partly;
        }
        self
    }

    /// Streams of which not all rows are kept, if there are any.
    pub fn partly(&self) -> Option<&Partly> {
        self.rest.as_ref().and_then(|rest| rest.partly.as_ref())
    }

    /// The same, to note another one.
    pub(super) fn partly_mut(&mut self) -> &mut Partly {
        self.rest.get_or_insert_default().partly.get_or_insert_default()
    }

    /// Adds an event, unless one with its id is there.
    pub fn fold(&mut self, row: &[u64], stream: &StreamLayout, layout: &StateLayout) -> Folded {
        debug_assert_eq!(row.len(), stream.width);
        if let Some(changelog) = &stream.changelog {
            return self.fold_change(row, stream, changelog, layout);
        }
        if let Some(id_word) = stream.id_word
            && self.id_bits.may_have(row[id_word])
            && let Some(seen) = self.find(row, id_word, layout)
        {
            let same = seen == row;
            return if same { Folded::Repeat } else { Folded::Changed };
        }
        self.append(row, stream.id_word, layout);
        let settled = self.rest.as_ref().and_then(|rest| rest.settled.as_ref());
        if let Some(settled) = settled.filter(|settled| !settled.history_ids.is_empty()) {
            let last = self.rows.len() - row.len();
            leave_to_history(&settled.history_ids, &mut self.rows[last..], stream);
        }
        Folded::New
    }

    /// Adds a row behind all others. `id_word`: by which it can be found again.
    #[inline]
    pub(super) fn append(&mut self, row: &[u64], id_word: Option<usize>, layout: &StateLayout) {
        let (offset, room) = (self.rows.len(), self.rows.capacity());
        if room - offset < row.len() {
            // On the workload (10 rows a user in the mean, 5 in the median) growing by half would take
            // 3 % more memory and move 18 % less.
            let wanted = offset + (offset / 4).max(row.len() * ROWS_MORE);
            self.rows.reserve_exact(allocated_words(wanted) - offset);
        }
        self.rows.extend_from_slice(row);
        if let Some(id_word) = id_word {
            self.id_bits.add(row[id_word]);
        }
        if self.rows.len() <= INDEX_FROM_WORDS {
            return;
        }
        match id_word {
            _ if self.index().is_none() => self.build_index(layout),
            Some(id_word) => self.learn_id(row[id_word], offset, layout),
            None => {}
        }
    }

    fn index(&self) -> Option<&HashTable<u32>> {
        self.rest.as_ref().and_then(|rest| rest.index.as_ref())
    }

    fn index_mut(&mut self) -> Option<&mut HashTable<u32>> {
        self.rest.as_mut().and_then(|rest| rest.index.as_mut())
    }

    /// From now on the row at an offset is found by this id.
    pub(super) fn learn_id(&mut self, id: u64, offset: usize, layout: &StateLayout) {
        self.id_bits.add(id);
        let rows = &self.rows;
        if let Some(index) = self.rest.as_mut().and_then(|rest| rest.index.as_mut()) {
            let at = u32::try_from(offset).unwrap_or(u32::MAX);
            index.insert_unique(id, at, |o| id_at(rows, *o, layout));
        }
    }

    /// The row at an offset is no longer found by this id.
    pub(super) fn forget_id(&mut self, id: u64, offset: usize) {
        let at = u32::try_from(offset).unwrap_or(u32::MAX);
        if let Some(index) = self.index_mut()
            && let Ok(entry) = index.find_entry(id, |o| *o == at)
        {
            entry.remove();
        }
    }

    /// Where the row with the same id stands among the words.
    pub(super) fn offset_of(
        &self,
        row: &[u64],
        id_word: usize,
        layout: &StateLayout,
    ) -> Option<usize> {
        if !self.id_bits.may_have(row[id_word]) {
            return None;
        }
        let found = self.find(row, id_word, layout)?;
        // Both slices are of the same words.
        let before = found.as_ptr().addr() - self.rows.as_ptr().addr();
        Some(before / size_of::<u64>())
    }

    fn find<'a>(
        &'a self,
        row: &[u64],
        id_word: usize,
        layout: &'a StateLayout,
    ) -> Option<&'a [u64]> {
        let same = |have: &[u64]| {
            row_stream(have[0]) == row_stream(row[0]) && have[id_word] == row[id_word]
        };
        if let Some(index) = self.index() {
            let hit = index.find(row[id_word], |o| {
                let have = &self.rows[*o as usize..];
                row_stream(have[0]) == row_stream(row[0]) && have[id_word] == row[id_word]
            });
            return hit.map(|o| &self.rows[*o as usize..*o as usize + row.len()]);
        }
        self.rows(layout).find(|have| same(have))
    }

    fn build_index(&mut self, layout: &StateLayout) {
        let mut index = HashTable::with_capacity(self.rows(layout).count() * 2);
        let mut offset = 0;
        for row in self.rows(layout) {
            let at = u32::try_from(offset).unwrap_or(u32::MAX);
            if layout.streams[row_stream(row[0])].found_by().is_some() {
                let rows = &self.rows;
                index.insert_unique(id_at(rows, at, layout), at, |o| id_at(rows, *o, layout));
            }
            offset += row.len();
        }
        self.rest.get_or_insert_default().index = Some(index);
    }

    /// Adds what a history says of this user, for the partials that `job` gave one. `history`: its
    /// rows and tiles in this layout.
    pub fn add_history(
        &mut self,
        history: &Self,
        job: u16,
        layout: &StateLayout,
        texts: &TextsView<'_>,
    ) {
        let mut settled = self.take_settled();
        settled.add_history(history.rows(layout), history.settled(), job, layout, texts);
        let mut rest = self.rows.as_mut_slice();
        while let Some(first) = rest.first() {
            let stream = &layout.streams[row_stream(*first)];
            let (row, tail) = rest.split_at_mut(stream.width);
            leave_to_history(&settled.history_ids, row, stream);
            rest = tail;
        }
        self.set_settled(settled);
    }

    /// All rows, in the order they came.
    pub fn rows<'a>(&'a self, layout: &'a StateLayout) -> impl Iterator<Item = &'a [u64]> {
        let mut rest = self.rows.as_slice();
        std::iter::from_fn(move || {
            let first = rest.first()?;
            let (row, tail) = rest.split_at(layout.streams[row_stream(*first)].width);
            rest = tail;
            Some(row)
        })
    }

    /// The words of all rows.
    pub fn words(&self) -> &[u64] {
        &self.rows
    }

    /// Settled tiles, if there are any.
    pub fn settled(&self) -> Option<&Settled> {
        self.rest.as_ref().and_then(|rest| rest.settled.as_ref())
    }

    fn settled_mut(&mut self) -> Option<&mut Settled> {
        self.rest.as_mut().and_then(|rest| rest.settled.as_mut())
    }

    fn take_settled(&mut self) -> Settled {
        self.rest.as_mut().and_then(|rest| rest.settled.take()).unwrap_or_default()
    }

    fn set_settled(&mut self, settled: Settled) {
        if !settled.is_empty() {
            self.rest.get_or_insert_default().settled = Some(settled);
        }
    }

    /// Memory behind this state, without the struct itself. Looks at each settled cell.
    pub fn heap_bytes(&self) -> usize {
        let settled = self.settled().map_or(0, Settled::heap_bytes);
        let partly = self.partly().map_or(0, Partly::bytes);
        self.rows_bytes() + settled + partly
    }

    /// The part of it that grows with an event.
    #[inline]
    pub fn rows_bytes(&self) -> usize {
        let index = self.index().map_or(0, |index| index.capacity() * 5);
        let rest = self.rest.as_ref().map_or(0, |_| size_of::<Rest>());
        self.rows.capacity() * 8 + index + rest
    }

    /// Rolls days that lie more than the horizon before `as_of` up into lifetime. Their event ids are
    /// forgotten. Returns whether anything was rolled up.
    pub fn roll_up(&mut self, as_of: AsOf, layout: &StateLayout, texts: &TextsView<'_>) -> bool {
        let oldest = as_of.day.saturating_sub_unsigned(layout.horizon_days);
        let expired = layout.has_changelog && self.expire_tombstones(as_of.day, layout);
        let moved = self.settle_rows(layout, texts, |row| {
            (row_day(row[1]) < oldest && is_event(row, layout)).then_some(Period::Lifetime)
        });
        let merged = self.settled_mut().is_some_and(|s| s.roll_up(as_of, layout, texts));
        moved || merged || expired
    }

    /// Makes room: the oldest days become tiles without event ids until the rows take at most
    /// `bytes_max`. What a rolling feature may look at becomes a tile for each hop. The state then
    /// says since when dedupe holds. Returns whether it did anything.
    pub fn shrink(
        &mut self,
        bytes_max: usize,
        as_of: AsOf,
        layout: &StateLayout,
        texts: &TextsView<'_>,
    ) -> bool {
        if self.rows.len() * 8 <= bytes_max {
            return false;
        }
        let events = self.rows(layout).filter(|row| is_event(row, layout));
        let mut days: Vec<(Day, usize)> = events.map(|r| (row_day(r[1]), r.len() * 8)).collect();
        let bytes: usize = days.iter().map(|(_, bytes)| bytes).sum();
        // Rows of a table that changes have a bound of their own.
        if bytes <= bytes_max {
            return false;
        }
        days.sort_unstable();
        let mut over = bytes - bytes_max / 2;
        let mut until = Day::MIN;
        for (day, bytes) in days {
            if over == 0 && day > until {
                break;
            }
            until = day;
            over = over.saturating_sub(bytes);
        }
        let now = hop_of(as_of.ms);
        let moved = self.settle_rows(layout, texts, |row| {
            let (day, hop) = (row_day(row[1]), hop_of(row_time(row[0])));
            let rolling_hops = i64::from(layout.streams[row_stream(row[0])].rolling_hops);
            let rolling = rolling_hops > 0 && now - hop < rolling_hops;
            let period = if rolling { Period::Hop(day, hop) } else { Period::Day(day) };
            (day <= until && is_event(row, layout)).then_some(period)
        });
        if let Some(settled) = self.settled_mut() {
            settled.ids_forgotten_until(until);
            settled.roll_up(as_of, layout, texts);
        }
        moved
    }

    fn settle_rows(
        &mut self,
        layout: &StateLayout,
        texts: &TextsView<'_>,
        tile_of: impl Fn(&[u64]) -> Option<Period>,
    ) -> bool {
        if !self.rows(layout).any(|row| tile_of(row).is_some()) {
            return false;
        }
        let mut kept = Vec::with_capacity(self.rows.len());
        let mut settled = self.take_settled();
        for row in self.rows(layout) {
            match tile_of(row) {
                Some(tile) => settled.add(tile, row, &layout.streams[row_stream(row[0])], texts),
                None => kept.extend_from_slice(row),
            }
        }
        settled.trim(layout, texts);
        self.set_settled(settled);
        self.replace_rows(kept, layout);
        true
    }

    /// Keeps these rows in place of all.
    pub(super) fn replace_rows(&mut self, mut rows: Vec<u64>, layout: &StateLayout) {
        rows.shrink_to_fit();
        let rest = self.rest.take().map(|rest| Box::new(Rest { index: None, ..*rest }));
        *self = Self { rest, ..Self::from_parts(rows, None, layout) };
    }
}

/// Words that an allocator gives when it is asked for so many: it has four sizes for each doubling.
fn allocated_words(words: usize) -> usize {
    words.next_multiple_of((words.next_power_of_two() / 8).max(2))
}

/// Two bits of 64 for each event id, in one of two words (a blocked Bloom filter): with ten events in
/// it 2 of 100 new ids look like old ones, with 40 events 22.
#[derive(Debug, Clone, Copy, Default)]
struct IdBits([u64; 2]);

impl IdBits {
    fn of(id: u64) -> (usize, u64) {
        (usize::from(id >> 12 & 1 == 1), 1 << (id & 63) | 1 << (id >> 6 & 63))
    }

    fn add(&mut self, id: u64) {
        let (word, bits) = Self::of(id);
        self.0[word] |= bits;
    }

    /// False: it was surely never added.
    fn may_have(self, id: u64) -> bool {
        let (word, bits) = Self::of(id);
        self.0[word] & bits == bits
    }
}

/// Whether a row is an event, and not the row of a table.
fn is_event(row: &[u64], layout: &StateLayout) -> bool {
    layout.streams[row_stream(row[0])].changelog.is_none()
}

fn id_at(rows: &[u64], offset: u32, layout: &StateLayout) -> u64 {
    let row = &rows[offset as usize..];
    layout.streams[row_stream(row[0])].found_by().map_or(0, |w| row[w])
}
