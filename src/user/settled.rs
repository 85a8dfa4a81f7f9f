//! Settled tiles: partial aggregates of days whose rows are gone.
//!
//! In: rows, or other tiles. Out: cells, one for each partial that saw an event. Merging is exact
//! and does not depend on order.
//! Invariant: no clock, no I/O.

use serde::{Deserialize, Serialize};

use super::history::HistoryId;
use super::layout::{
    Partial, PartialKind, StateLayout, StreamLayout, Value, ValueKind, flag_set, low32, row_time,
    value_word,
};
use super::ranked::newest_first;
use super::sample::{self, hash_of};
use super::texts::TextsView;
use crate::clock::{Day, Hop, hop_of};
use crate::rule::AsOf;

/// One partial's aggregate over one tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Events, a sum, or a key whose order is the value's: see [`Cell::of`].
    Number(i128),
    /// Distinct values, sorted.
    Set(Vec<u64>),
    /// Distinct values with their weights, sorted.
    Tally(Vec<(u64, i128)>),
    /// Event times and values, newest first.
    Recent(Vec<(i64, u64)>),
}

/// The time that a tile is about. The order is that of tiles within a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Period {
    /// Everything before the horizon.
    Lifetime,
    /// A calendar day.
    Day(Day),
    /// A hop, of a stream with rolling features; where a day begins within a hop, the part of it
    /// that lies in this day.
    Hop(Day, Hop),
}

impl Period {
    /// The day; `None` before the horizon.
    pub fn day(self) -> Option<Day> {
        match self {
            Self::Lifetime => None,
            Self::Day(day) | Self::Hop(day, _) => Some(day),
        }
    }
}

/// One stream's partials over one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Stream index.
    pub stream: u8,
    /// What it is about.
    pub period: Period,
    /// (partial index, aggregate), sorted by index; partials without an event are absent.
    pub cells: Vec<(u16, Cell)>,
}

/// All settled tiles of a user, sorted by stream and period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Sorted by (stream, period).
    pub tiles: Vec<Tile>,
    /// Days up to this one have lost their event ids before the horizon did it.
    pub ids_forgotten_until: Option<Day>,
    /// Ids of events that history brought, sorted: seen again live, they do not count where history
    /// has counted them.
    pub history_ids: Vec<HistoryId>,
}

impl Cell {
    /// What one row gives a partial; `None` where the filter is not true or the value is NULL.
    ///
    /// Count: 1. Sum: the value. Min, max: the order key. First, last: time in the upper, order key
    /// in the lower 64 bits. First and last time: the time. Others: the value as rows hold it.
    pub fn of(row: &[u64], stream: &StreamLayout, partial: &Partial) -> Option<Self> {
        if partial.filter.is_some_and(|f| !flag_set(row, stream.filters[f].flag)) {
            return None;
        }
        let time = i128::from(row_time(row[0]));
        let Some(value) = partial.value.map(|v| &stream.values[v]) else {
            return Some(Self::Number(match partial.kind {
                PartialKind::Count => 1,
                _ => time,
            }));
        };
        let weight = partial.weight.map(|w| &stream.values[w]);
        if flag_set(row, value.null_flag) || weight.is_some_and(|w| flag_set(row, w.null_flag)) {
            return None;
        }
        let word = value_word(row, value);
        let key = i128::from(value.kind.order_key(word));
        Some(match partial.kind {
            PartialKind::Sum => Self::Number(number(row, value)),
            PartialKind::First | PartialKind::Last => Self::Number(time << 64 | key),
            PartialKind::CountDistinct => Self::Set(vec![word]),
            PartialKind::Tally => Self::Tally(vec![(word, weight.map_or(1, |w| number(row, w)))]),
            PartialKind::Recent(_) => Self::Recent(vec![(row_time(row[0]), word)]),
            _ => Self::Number(key),
        })
    }

    /// Merges another aggregate of the same partial into this one.
    pub fn merge(
        &mut self,
        other: Self,
        partial: &Partial,
        stream: &StreamLayout,
        texts: &TextsView<'_>,
    ) {
        match (&mut *self, other) {
            (Self::Number(have), Self::Number(new)) => {
                let text = partial.value.is_some_and(|v| stream.values[v].kind == ValueKind::Text);
                *have = merge_numbers(partial.kind, text, *have, new, texts);
            }
            (Self::Set(have), Self::Set(new)) => {
                union(have, new, |word| *word, |_, _| {});
                self.trim(2 * partial.values_max, partial, stream, texts);
            }
            (Self::Tally(have), Self::Tally(new)) => {
                union(have, new, |(word, _)| *word, |have, new| have.1 += new.1);
                self.trim(2 * partial.values_max, partial, stream, texts);
            }
            (Self::Recent(have), Self::Recent(new)) => {
                let kind = kind_of(partial, stream);
                have.extend(new);
                have.sort_by(|a, b| newest_first(kind, *a, *b, texts));
                if let PartialKind::Recent(n) = partial.kind {
                    have.truncate(usize::from(n));
                }
            }
            // One partial has one kind of cell.
            (Self::Number(_) | Self::Set(_) | Self::Tally(_) | Self::Recent(_), _) => {}
        }
    }

    /// Where there are more than `over` distinct values, leaves a sample: see [`crate::user::sample`].
    pub fn trim(
        &mut self,
        over: usize,
        partial: &Partial,
        stream: &StreamLayout,
        texts: &TextsView<'_>,
    ) {
        let kind = kind_of(partial, stream);
        let keep = partial.values_max + 1;
        match self {
            Self::Set(words) if words.len() > over.max(keep) => {
                sample::trim(words, keep, |word| hash_of(kind, *word, texts));
                words.sort_unstable();
            }
            Self::Tally(totals) if totals.len() > over.max(keep) => {
                sample::trim(totals, keep, |(word, _)| hash_of(kind, *word, texts));
                totals.sort_unstable_by_key(|(word, _)| *word);
            }
            _ => {}
        }
    }
}

/// What a partial's values are.
fn kind_of(partial: &Partial, stream: &StreamLayout) -> ValueKind {
    partial.value.map_or(ValueKind::Int, |v| stream.values[v].kind)
}

/// A row's value of a number.
fn number(row: &[u64], value: &Value) -> i128 {
    let word = value_word(row, value);
    if value.kind == ValueKind::U64 { i128::from(word) } else { i128::from(word.cast_signed()) }
}

/// Merges entries into others, both sorted by `key` without repeats.
fn union<T>(have: &mut Vec<T>, mut new: Vec<T>, key: impl Fn(&T) -> u64, add: impl Fn(&mut T, &T)) {
    // A row that is settled brings one: sorting all for each made a hot user's window take seconds.
    if new.len() == 1
        && let Some(entry) = new.pop()
    {
        match have.binary_search_by_key(&key(&entry), &key) {
            Ok(at) => add(&mut have[at], &entry),
            Err(at) => have.insert(at, entry),
        }
        return;
    }
    have.extend(new);
    // A stable sort finds the two runs and merges them.
    have.sort_by_key(&key);
    have.dedup_by(|later, first| {
        let same = key(later) == key(first);
        if same {
            add(first, later);
        }
        same
    });
}

/// Merges two numbers of a partial.
pub fn merge_numbers(
    kind: PartialKind,
    text: bool,
    a: i128,
    b: i128,
    texts: &TextsView<'_>,
) -> i128 {
    match kind {
        PartialKind::Count | PartialKind::Sum => a + b,
        PartialKind::Min | PartialKind::First if text => earlier_text(a, b, texts),
        PartialKind::Max | PartialKind::Last if text => {
            if earlier_text(a, b, texts) == a {
                b
            } else {
                a
            }
        }
        PartialKind::Min | PartialKind::First | PartialKind::FirstTime => a.min(b),
        _ => a.max(b),
    }
}

/// The lesser by (time, text).
fn earlier_text(a: i128, b: i128, texts: &TextsView<'_>) -> i128 {
    match (a >> 64).cmp(&(b >> 64)) {
        std::cmp::Ordering::Less => a,
        std::cmp::Ordering::Greater => b,
        std::cmp::Ordering::Equal => {
            if texts.get(text_code(a)).as_bytes() <= texts.get(text_code(b)).as_bytes() {
                a
            } else {
                b
            }
        }
    }
}

/// The code in a text partial's number.
#[expect(clippy::cast_possible_truncation, reason = "the mask before the cast keeps 64 bits")]
pub fn text_code(number: i128) -> u32 {
    low32((number & i128::from(u64::MAX)) as u64)
}

/// The [`ValueKind::signed_key`] in a value partial's number: its lower half is the order key, or the
/// code of a text.
#[expect(clippy::cast_possible_truncation, reason = "the mask before the cast keeps 64 bits")]
pub fn settled_key(kind: ValueKind, number: i128) -> i64 {
    if kind == ValueKind::Text {
        return i64::from(text_code(number));
    }
    kind.signed_key(kind.from_order_key((number & i128::from(u64::MAX)) as u64))
}

impl Settled {
    /// Adds a row to a tile.
    pub fn add(
        &mut self,
        period: Period,
        row: &[u64],
        stream: &StreamLayout,
        texts: &TextsView<'_>,
    ) {
        let tile = self.tile(stream.stream, period);
        for (at, partial) in stream.partials.iter().enumerate() {
            if period == Period::Lifetime && !partial.lifetime {
                continue;
            }
            if let Some(cell) = Cell::of(row, stream, partial) {
                tile.add(at, cell, stream, texts);
            }
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tiles.is_empty() && self.ids_forgotten_until.is_none() && self.history_ids.is_empty()
    }

    pub(super) fn tile(&mut self, stream: u8, period: Period) -> &mut Tile {
        let at = self.tiles.binary_search_by_key(&(stream, period), |t| (t.stream, t.period));
        let at = at.unwrap_or_else(|at| {
            self.tiles.insert(at, Tile { stream, period, cells: Vec::new() });
            at
        });
        &mut self.tiles[at]
    }

    /// Merges tiles of days that lie more than the horizon before `as_of` into lifetime, and hops
    /// that no rolling span reaches into their days. Returns whether there were any.
    pub fn roll_up(&mut self, as_of: AsOf, layout: &StateLayout, texts: &TextsView<'_>) -> bool {
        let oldest = as_of.day.saturating_sub_unsigned(layout.horizon_days);
        let now = hop_of(as_of.ms);
        let ids = self.history_ids.len();
        self.history_ids.retain(|id| id.day >= oldest);
        let forgotten = self.history_ids.len() < ids;
        let target = |t: &Tile| match t.period {
            Period::Day(day) | Period::Hop(day, _) if day < oldest => Some(Period::Lifetime),
            Period::Hop(day, hop) => {
                let rolling_hops = layout.streams[usize::from(t.stream)].rolling_hops;
                (now - hop >= i64::from(rolling_hops)).then_some(Period::Day(day))
            }
            Period::Day(_) | Period::Lifetime => None,
        };
        if !self.tiles.iter().any(|t| target(t).is_some()) {
            return forgotten;
        }
        let (old, kept): (Vec<Tile>, Vec<Tile>) =
            std::mem::take(&mut self.tiles).into_iter().partition(|t| target(t).is_some());
        self.tiles = kept;
        for tile in old {
            let stream = &layout.streams[usize::from(tile.stream)];
            let Some(period) = target(&tile) else { continue };
            let into = self.tile(tile.stream, period);
            for (at, cell) in tile.cells {
                if period != Period::Lifetime || stream.partials[usize::from(at)].lifetime {
                    into.add(usize::from(at), cell, stream, texts);
                }
            }
        }
        self.trim(layout, texts);
        true
    }

    /// Leaves samples where tiles have too many distinct values. To be called after additions.
    pub fn trim(&mut self, layout: &StateLayout, texts: &TextsView<'_>) {
        for tile in &mut self.tiles {
            let stream = &layout.streams[usize::from(tile.stream)];
            for (at, cell) in &mut tile.cells {
                cell.trim(0, &stream.partials[usize::from(*at)], stream, texts);
            }
        }
    }

    /// Notes that ids of days up to `day` are gone.
    pub fn ids_forgotten_until(&mut self, day: Day) {
        self.ids_forgotten_until = self.ids_forgotten_until.max(Some(day));
    }

    /// Memory behind this, without the struct itself.
    pub fn heap_bytes(&self) -> usize {
        let cells = self.tiles.iter().flat_map(|t| &t.cells).map(|(_, cell)| {
            let behind = match cell {
                Cell::Number(_) => 0,
                Cell::Set(values) => values.capacity() * size_of::<u64>(),
                Cell::Tally(totals) => totals.capacity() * size_of::<(u64, i128)>(),
                Cell::Recent(values) => values.capacity() * size_of::<(i64, u64)>(),
            };
            size_of::<(u16, Cell)>() + behind
        });
        self.tiles.capacity() * size_of::<Tile>()
            + cells.sum::<usize>()
            + self.history_ids.capacity() * size_of::<HistoryId>()
    }
}

impl Tile {
    pub(super) fn add(
        &mut self,
        partial: usize,
        cell: Cell,
        stream: &StreamLayout,
        texts: &TextsView<'_>,
    ) {
        let index = u16::try_from(partial).unwrap_or(u16::MAX);
        match self.cells.binary_search_by_key(&index, |c| c.0) {
            Ok(at) => self.cells[at].1.merge(cell, &stream.partials[partial], stream, texts),
            Err(at) => self.cells.insert(at, (index, cell)),
        }
    }
}
