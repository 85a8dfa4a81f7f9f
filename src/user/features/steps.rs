//! Steps over the rows of a group: each row's value into the cell of its user and bucket.
//!
//! In: rows, cells. Out: cells. What a step does is decided once for all rows, outside of its loop.
//! Invariant: 64-bit arithmetic: users whose numbers may not fit are computed apart.

use super::distinct::DistinctSet;
use super::group::{Row, StreamRows};
use super::lanes::LANES;
use super::ranking::Entry;
use crate::rule::kernels::wide::wide;
use crate::user::layout::{ValueKind, row_time};
use crate::user::program::{NO_CELL, Op, PartialProgram, Step, StreamProgram};
use crate::user::texts::TextsView;

/// One partial's step.
pub(super) struct Run<'a> {
    pub(super) program: &'a StreamProgram,
    pub(super) partial: &'a PartialProgram,
    pub(super) rows: &'a StreamRows,
    pub(super) texts: &'a TextsView<'a>,
}

impl Run<'_> {
    /// Runs it.
    pub(super) fn fill(&self, cells: &mut [i64]) {
        let texts = self.texts;
        match self.partial.step.op {
            Op::Count => self.each(cells, |have, _, _| have + 1),
            Op::Sum { .. } => {
                self.each(cells, |have, word, _| have.wrapping_add(word.cast_signed()));
            }
            Op::FirstTime => self.each(cells, |have, _, time| have.min(time)),
            Op::LastTime => self.each(cells, |have, _, time| have.max(time)),
            Op::Min(ValueKind::Text) => self.each(cells, |have, word, _| {
                earlier_text(have, word.cast_signed(), i64::MAX, texts)
            }),
            Op::Max(ValueKind::Text) => self
                .each(cells, |have, word, _| later_text(have, word.cast_signed(), i64::MIN, texts)),
            Op::Min(kind) => self.each(cells, |have, word, _| have.min(kind.signed_key(word))),
            Op::Max(kind) => self.each(cells, |have, word, _| have.max(kind.signed_key(word))),
            Op::First(kind) | Op::Last(kind) => {
                for row in self.rows.of(self.partial.filter) {
                    if let Some((cell, word, time)) = self.value(row) {
                        let at = cell as usize * LANES + usize::from(row.lane);
                        let key = kind.signed_key(word);
                        merge_timed(cells, at, &self.partial.step, time, key, texts);
                    }
                }
            }
            // Needs a user's values together: see [`count_distinct`] and [`super::ranking`].
            Op::Distinct(_) | Op::Ranked(_) => {}
        }
    }

    /// Merges the value of each row into its cell.
    #[inline(always)]
    fn each(&self, cells: &mut [i64], merge: impl Fn(i64, u64, i64) -> i64) {
        for row in self.rows.of(self.partial.filter) {
            if let Some((cell, word, time)) = self.value(row) {
                let have = &mut cells[cell as usize * LANES + usize::from(row.lane)];
                *have = merge(*have, word, time);
            }
        }
    }

    /// Cell, value and time of a row; `None` where there is no value or nobody looks.
    #[inline(always)]
    fn value(&self, row: &Row) -> Option<(u32, u64, i64)> {
        let (program, step) = (self.program, &self.partial.step);
        let access = &step.value;
        let words = &self.rows.words[row.at as usize..row.at as usize + program.width];
        let cell = program.cell_of[step.table + usize::from(row.bucket)];
        if cell == NO_CELL || words[access.null_word] & access.null_bit != 0 {
            return None;
        }
        Some((cell, words[access.word] >> access.shift & access.mask, row_time(words[0])))
    }
}

impl Run<'_> {
    /// A row's value with its weight or time; `None` where one is NULL or nobody looks.
    pub(super) fn entry(&self, row: &Row, by_time: bool) -> Option<Entry> {
        let (_, word, time) = self.value(row)?;
        let number = match self.partial.step.weight {
            _ if by_time => i128::from(time),
            None => 1,
            Some((access, unsigned)) => {
                let words = &self.rows.words[row.at as usize..row.at as usize + self.program.width];
                if words[access.null_word] & access.null_bit != 0 {
                    return None;
                }
                let word = words[access.word] >> access.shift & access.mask;
                if unsigned { i128::from(word) } else { i128::from(word.cast_signed()) }
            }
        };
        Some(Entry { lane: row.lane, bucket: row.bucket, word, number })
    }
}

wide! {
    /// Counts distinct values, user by user; `tiles` has those of settled tiles: lane, value, bucket.
    pub(super) fn count_distinct(
        run: &Run<'_>,
        cells: &mut [i64],
        users: usize,
        set: &mut DistinctSet,
        tiles: &[(u8, u64, u8)],
    ) {
        let nested = run.partial.nested;
        let mut rest = run.rows.of(run.partial.filter);
        for lane in 0..users {
            while let Some((row, tail)) = rest.split_first()
                && usize::from(row.lane) == lane
            {
                if let Some((_, word, _)) = run.value(row) {
                    set.add(word, row.bucket, nested);
                }
                rest = tail;
            }
            for (_, value, bucket) in tiles.iter().filter(|t| usize::from(t.0) == lane) {
                set.add(*value, *bucket, nested);
            }
            if !set.is_empty() {
                set.count(run, |cell, n| cells[cell * LANES + lane] += n);
            }
        }
    }
}

/// Merges a number that is not a time's value.
pub(super) fn merge_number(have: i64, op: Op, number: i64, texts: &TextsView<'_>) -> i64 {
    match op {
        Op::Count | Op::Sum { .. } => have.wrapping_add(number),
        Op::Min(ValueKind::Text) => earlier_text(have, number, i64::MAX, texts),
        Op::Max(ValueKind::Text) => later_text(have, number, i64::MIN, texts),
        Op::Min(_) | Op::FirstTime => have.min(number),
        Op::Max(_) | Op::LastTime => have.max(number),
        Op::First(_) | Op::Last(_) | Op::Distinct(_) | Op::Ranked(_) => have,
    }
}

/// Merges a value at a time into the pair of cells whose time stands at `at`.
#[inline]
pub(super) fn merge_timed(
    cells: &mut [i64],
    at: usize,
    step: &Step,
    time: i64,
    key: i64,
    texts: &TextsView<'_>,
) {
    let at_key = at + step.key_cells * LANES;
    let (have_time, have_key) = (cells[at], cells[at_key]);
    let better = match step.op {
        _ if time == have_time => match step.op {
            Op::First(ValueKind::Text) => text_before(key, have_key, texts),
            Op::Last(ValueKind::Text) => text_before(have_key, key, texts),
            Op::First(_) => key < have_key,
            _ => key > have_key,
        },
        Op::First(_) => time < have_time,
        _ => time > have_time,
    };
    if better {
        cells[at] = time;
        cells[at_key] = key;
    }
}

fn text<'a>(code: i64, texts: &'a TextsView<'_>) -> Option<&'a [u8]> {
    u32::try_from(code).ok().map(|code| texts.get(code).as_bytes())
}

fn text_before(a: i64, b: i64, texts: &TextsView<'_>) -> bool {
    a != b && text(a, texts) < text(b, texts)
}

pub(super) fn earlier_text(a: i64, b: i64, none: i64, texts: &TextsView<'_>) -> i64 {
    if b == none || (a != none && !text_before(b, a, texts)) { a } else { b }
}

pub(super) fn later_text(a: i64, b: i64, none: i64, texts: &TextsView<'_>) -> i64 {
    if b == none || (a != none && !text_before(a, b, texts)) { a } else { b }
}
