//! `mode`, `top_k` and `recent` of a group of users.
//!
//! In: rows and entries of settled tiles. Out: the values of each output, straight into its column,
//! user by user. Invariant: weights add up in 128 bits and cannot overflow.

use super::column::Column;
use super::steps::Run;
use crate::user::layout::{PartialKind, ValueKind};
use crate::user::program::Output;
use crate::user::ranked::{heaviest, newest_first};

/// A value with its weight, or its event time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) lane: u8,
    pub(super) bucket: u8,
    pub(super) word: u64,
    pub(super) number: i128,
}

/// What is reused from user to user.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    entries: Vec<Entry>,
    totals: Vec<(u64, i128)>,
    values: Vec<u64>,
}

impl Ranking {
    /// Appends a partial's features, for each user of the group a row.
    pub(super) fn run(
        &mut self,
        run: &Run<'_>,
        users: usize,
        tiles: &[Entry],
        columns: &mut [Column],
    ) {
        let partial = run.partial;
        let (kind, texts) = (partial.value.unwrap_or(ValueKind::Int), run.texts);
        let by_time = matches!(partial.kind, PartialKind::Recent(_));
        let mut rest = run.rows.of(partial.filter);
        for lane in 0..users {
            self.entries.clear();
            while let Some((row, tail)) = rest.split_first()
                && usize::from(row.lane) == lane
            {
                self.entries.extend(run.entry(row, by_time));
                rest = tail;
            }
            self.entries.extend(tiles.iter().filter(|e| usize::from(e.lane) == lane));
            if by_time {
                self.entries.sort_unstable_by(|a, b| {
                    newest_first(kind, (a.number, a.word), (b.number, b.word), texts)
                });
            } else {
                self.entries.sort_unstable_by_key(|e| e.word);
            }
            for output in &partial.outputs {
                let column = &mut columns[output.feature];
                self.values.clear();
                if by_time {
                    let inside = self.entries.iter().filter(|e| holds(output, e));
                    self.values.extend(inside.take(column.most()).map(|e| e.word));
                } else {
                    self.add_up(output);
                    let (totals, most) = (&mut self.totals, column.most());
                    heaviest(totals, most, partial.values_max, kind, texts, &mut self.values);
                }
                column.push_values(&self.values);
            }
        }
    }

    /// Each value's weight within an output.
    fn add_up(&mut self, output: &Output) {
        for entry in self.entries.iter().filter(|e| holds(output, e)) {
            match self.totals.last_mut() {
                Some((word, weight)) if *word == entry.word => *weight += entry.number,
                _ => self.totals.push((entry.word, entry.number)),
            }
        }
    }
}

fn holds(output: &Output, entry: &Entry) -> bool {
    output.buckets.contains(&usize::from(entry.bucket))
}
