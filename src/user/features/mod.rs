//! Feature values of users, as columns.
//!
//! In: states, the as-of day. Out: one column a feature, a row a user, and for each user the next
//! day on which a span alone changes a feature.
//! Invariant: no clock, no I/O; the result does not depend on the order of rows.

mod column;
mod distinct;
mod exact;
mod group;
mod lanes;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use self::column::Column;
use self::lanes::Lanes;
use super::layout::{PartialKind, StateLayout, row_day, row_stream};
use super::program::{StreamProgram, compile};
use super::settled::{Cell, Settled};
use super::state::UserState;
use super::texts::TextsView;
use crate::clock::Day;

/// A day that never comes.
pub const NEVER: Day = Day::MAX;

/// Computes features of users, one after the other, into columns.
#[derive(Debug)]
pub struct FeatureBatch {
    layout: Arc<StateLayout>,
    programs: Vec<StreamProgram>,
    lanes: Lanes,
    columns: Vec<Column>,
    /// Rows whose numbers may not fit 64 bits, with each feature's exact aggregate.
    exact: Vec<(usize, Vec<Option<Cell>>)>,
    rows: usize,
    /// Sums that do not fit their column's type: NULL, and counted here.
    pub overflows: u64,
}

impl FeatureBatch {
    /// `types`: the features' column types, by feature index.
    pub fn new(layout: &Arc<StateLayout>, types: &[DataType]) -> Self {
        let (programs, sizes) = compile(layout);
        let column = |(feature, data_type): (usize, &DataType)| {
            let of = |p: &&super::layout::Partial| p.features.iter().any(|f| f.0 == feature);
            let found = layout.streams.iter().find_map(|s| {
                let partial = s.partials.iter().find(of)?;
                Some((partial.kind, partial.value.map(|v| s.values[v].kind)))
            });
            let (kind, value) = found.unwrap_or((PartialKind::Count, None));
            Column::new(data_type, kind, value)
        };
        Self {
            lanes: Lanes::new(&programs, &sizes),
            columns: types.iter().enumerate().map(column).collect(),
            layout: Arc::clone(layout),
            programs,
            exact: Vec::new(),
            rows: 0,
            overflows: 0,
        }
    }

    /// Adds a user's row. Returns the next day on which a feature may change with time alone
    /// ([`NEVER`] if none).
    pub fn push(&mut self, state: &UserState, as_of: Day, texts: &TextsView<'_>) -> Day {
        if self.lanes.is_full() {
            self.finish_group(texts);
        }
        let mut due = NEVER;
        let mut rest = state.words();
        while let Some(first) = rest.first() {
            let stream = row_stream(*first);
            let program = &self.programs[stream];
            let (row, tail) = rest.split_at(program.width);
            rest = tail;
            if let Some(bucket) = bucket_of(program, row_day(row[1]), as_of, &mut due) {
                self.lanes.add_row(program, stream, row, bucket);
            }
        }
        let tiles = state.settled().map_or(&[][..], |s| &s.tiles);
        for tile in tiles {
            let program = &self.programs[usize::from(tile.stream)];
            let bucket = if tile.day == Settled::LIFETIME {
                u8::try_from(program.buckets - 1).ok()
            } else {
                bucket_of(program, tile.day, as_of, &mut due)
            };
            if let Some(bucket) = bucket {
                self.lanes.add_tile(program, tile, bucket, texts);
            }
        }
        if !self.lanes.end_user(state.rows_count() + tiles.len()) {
            let features = exact::features(state, &self.layout, as_of, texts);
            self.exact.push((self.rows, features));
        }
        self.rows += 1;
        due
    }

    fn finish_group(&mut self, texts: &TextsView<'_>) {
        self.lanes.finish(&self.programs, &mut self.columns, texts);
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
        self.finish_group(texts);
        debug_assert!(self.columns.iter().all(|c| c.rows() == self.rows));
        self.rows = 0;
        self.columns.iter_mut().map(|c| c.take(texts)).collect()
    }
}

/// The bucket of a day, noting when it will change; `None` while the day has not begun.
fn bucket_of(program: &StreamProgram, day: Day, as_of: Day, due: &mut Day) -> Option<u8> {
    let Ok(age) = usize::try_from(as_of.saturating_sub(day)) else {
        *due = (*due).min(day);
        return None;
    };
    if let Some(border) = program.next_border.get(age) {
        *due = (*due).min(day.saturating_add_unsigned(*border));
    }
    let age = age.min(program.bucket_of_age.len() - 1);
    Some(program.bucket_of_age[age])
}
