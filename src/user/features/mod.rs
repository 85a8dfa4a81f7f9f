//! Feature values of users, as columns.
//!
//! In: states, the as-of instant. Out: one column a feature, a row a user, and for each user the
//! next day and hop in which a span alone changes a feature.
//! Invariant: no clock, no I/O; the result does not depend on the order of rows.

mod column;
mod distinct;
mod exact;
mod group;
mod lanes;
mod ranking;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use self::column::Column;
use self::exact::Exact;
use self::lanes::Lanes;
use super::changelog::{NEVER_DAY, is_tombstone};
use super::layout::{PartialKind, StateLayout, row_day, row_stream, row_time};
use super::program::{Programs, StreamProgram, compile};
use super::settled::Period;
use super::state::UserState;
use super::texts::TextsView;
use crate::buffer_pool::BufferPool;
use crate::clock::{Day, HOP_MS, Hop, hop_of};
use crate::rule::AsOf;

/// When something may change with time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// At the start of this day at the latest.
    pub day: Day,
    /// At the start of this hop at the latest.
    pub hop: Hop,
}

impl Due {
    /// A day and a hop that never come.
    pub const NEVER: Self = Self { day: Day::MAX, hop: Hop::MAX };

    /// The earlier of both.
    pub fn min(self, other: Self) -> Self {
        Self { day: self.day.min(other.day), hop: self.hop.min(other.hop) }
    }

    /// The instant, epoch ms; `None`: never. `day_start_ms`: when a day begins.
    pub fn at_ms(self, day_start_ms: impl FnOnce(Day) -> i64) -> Option<i64> {
        let day = (self.day != Day::MAX).then(|| day_start_ms(self.day));
        let hop = (self.hop != Hop::MAX).then(|| self.hop.saturating_mul(HOP_MS));
        day.into_iter().chain(hop).min()
    }
}

/// Computes features of users, one after the other, into columns.
#[derive(Debug)]
pub struct FeatureBatch {
    layout: Arc<StateLayout>,
    programs: Programs,
    lanes: Lanes,
    columns: Vec<Column>,
    /// Rows whose numbers may not fit 64 bits, with each feature's exact aggregate.
    exact: Vec<(usize, Vec<Option<Exact>>)>,
    rows: usize,
    /// Sums that do not fit their column's type: NULL, and counted here.
    pub overflows: u64,
}

impl FeatureBatch {
    /// `types`: the features' column types, by feature index.
    pub fn new(layout: &Arc<StateLayout>, types: &[DataType]) -> Self {
        let programs = compile(layout);
        let column = |(feature, data_type): (usize, &DataType)| {
            let of = |p: &&super::layout::Partial| p.features.iter().any(|f| f.0 == feature);
            let found = layout.streams.iter().find_map(|s| {
                let partial = s.partials.iter().find(of)?;
                Some((partial.kind, partial.value.map(|v| s.values[v].kind)))
            });
            let (kind, value) = found.unwrap_or((PartialKind::Count, None));
            Column::new(data_type, kind, value, layout.listed.get(feature).copied().flatten())
        };
        Self {
            lanes: Lanes::new(&programs.all, &programs.sizes),
            columns: types.iter().enumerate().map(column).collect(),
            layout: Arc::clone(layout),
            programs,
            exact: Vec::new(),
            rows: 0,
            overflows: 0,
        }
    }

    /// Adds a user's row. Returns when a feature may change with time alone.
    pub fn push(&mut self, state: &UserState, as_of: AsOf, texts: &TextsView<'_>) -> Due {
        if self.lanes.is_full() {
            self.finish_group(texts);
        }
        let mut due = Due::NEVER;
        let (mut rest, mut summands) = (state.words(), 0);
        while let Some(first) = rest.first() {
            let stream = row_stream(*first);
            let program = &self.programs.all[stream];
            let (row, tail) = rest.split_at(program.width);
            rest = tail;
            summands += 1;
            if let Some(bucket) = bucket_of(program, row_day(row[1]), as_of.day, &mut due.day) {
                self.lanes.add_row(program, stream, row, bucket);
            }
        }
        let tiles = state.settled().map_or(&[][..], |s| &s.tiles);
        for tile in tiles {
            let program = &self.programs.all[usize::from(tile.stream)];
            let bucket = match tile.period.day() {
                None => u8::try_from(program.buckets - 1).ok(),
                Some(day) => bucket_of(program, day, as_of.day, &mut due.day),
            };
            if let Some(bucket) = bucket {
                self.lanes.add_tile(program, tile, bucket, texts);
            }
        }
        if !self.programs.rolling.is_empty() {
            self.push_rolling(state, hop_of(as_of.ms), &mut due.hop, texts);
        }
        if !self.lanes.end_user(summands + tiles.len()) {
            let features = exact::features(state, &self.layout, as_of, texts);
            self.exact.push((self.rows, features));
        }
        self.rows += 1;
        due
    }

    /// Adds what rolling spans look at, or will.
    fn push_rolling(&mut self, state: &UserState, now: Hop, due: &mut Hop, texts: &TextsView<'_>) {
        let Programs { all, rolling, .. } = &self.programs;
        for row in state.rows(&self.layout) {
            let Some(at) = rolling[row_stream(row[0])].filter(|_| !is_tombstone(row)) else {
                continue;
            };
            if let Some(bucket) = rolling_bucket(&all[at], hop_of(row_time(row[0])), now, due) {
                self.lanes.add_row(&all[at], at, row, bucket);
            }
        }
        for tile in state.settled().map_or(&[][..], |s| &s.tiles) {
            let Some(at) = rolling[usize::from(tile.stream)] else { continue };
            let Period::Hop(_, hop) = tile.period else { continue };
            if let Some(bucket) = rolling_bucket(&all[at], hop, now, due) {
                self.lanes.add_tile(&all[at], tile, bucket, texts);
            }
        }
    }

    fn finish_group(&mut self, texts: &TextsView<'_>) {
        self.lanes.finish(&self.programs.all, &mut self.columns, texts);
        self.lanes.clear();
        for (row, features) in self.exact.drain(..) {
            for (column, value) in self.columns.iter_mut().zip(features) {
                self.overflows += u64::from(!column.set(row, value));
            }
        }
    }

    /// Number of users added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the columns, in feature order, and starts anew. Texts become dictionaries of this batch.
    pub fn take(&mut self, texts: &TextsView<'_>) -> Vec<ArrayRef> {
        self.take_with(texts, &mut BufferPool::default())
    }

    /// The same, with memory for them.
    pub fn take_with(&mut self, texts: &TextsView<'_>, pool: &mut BufferPool) -> Vec<ArrayRef> {
        self.finish_group(texts);
        debug_assert!(self.columns.iter().all(|c| c.rows() == self.rows));
        self.rows = 0;
        self.columns.iter_mut().map(|c| c.take(texts, pool)).collect()
    }
}

/// Features that are estimates as of an instant: they saw more distinct values than are kept. Each
/// with how many are kept.
pub fn estimated(
    state: &UserState,
    layout: &StateLayout,
    as_of: AsOf,
    texts: &TextsView<'_>,
) -> Vec<(usize, usize)> {
    exact::estimated(state, layout, as_of, texts)
}

/// The bucket of a day, noting when it will change; `None` while the day has not begun.
fn bucket_of(program: &StreamProgram, day: Day, as_of: Day, due: &mut Day) -> Option<u8> {
    let Ok(age) = usize::try_from(as_of.saturating_sub(day)) else {
        if day != NEVER_DAY {
            *due = (*due).min(day);
        }
        return None;
    };
    if let Some(border) = program.next_border.get(age) {
        *due = (*due).min(day.saturating_add_unsigned(*border));
    }
    let age = age.min(program.bucket_of_age.len() - 1);
    Some(program.bucket_of_age[age])
}

/// The bucket of a hop, noting when it will change; `None` while the hop has not begun, and when no
/// rolling span reaches it any more.
fn rolling_bucket(program: &StreamProgram, hop: Hop, now: Hop, due: &mut Hop) -> Option<u8> {
    let Ok(age) = usize::try_from(now - hop) else {
        *due = (*due).min(hop);
        return None;
    };
    let border = program.next_border.get(age)?;
    *due = (*due).min(hop + i64::from(*border));
    Some(program.bucket_of_age[age])
}
