//! Cells of a group of users, side by side: each cell holds one number for each of [`LANES`] users.
//!
//! In: rows and settled tiles, user after user. Out: for each feature the numbers of all users of
//! the group. What is merged is merged for all users at once, in registers.
//! Invariant: 64-bit arithmetic that cannot overflow: a user whose numbers might is reported, and
//! computed by [`super::exact`].

use super::column::Column;
use super::distinct::DistinctSet;
use super::group::StreamRows;
use super::ranking::{Entry, Ranking};
use super::steps::{Run, count_distinct, earlier_text, later_text, merge_number, merge_timed};
use crate::rule::kernels::wide::wide;
use crate::user::layout::{PartialKind, ValueKind};
use crate::user::program::{Access, NO_CELL, Op, PartialProgram, Sizes, StreamProgram};
use crate::user::settled::{Cell, Tile, settled_key};
use crate::user::texts::TextsView;

/// Users whose cells stand side by side: with their rows and the cells of some hundred features they
/// stay in the first cache.
pub(super) const LANES: usize = 16;

/// Words of rows from which on a group has enough, however few its users are.
const GROUP_WORDS: usize = 1 << 14;

/// Bits that a sum may have: one is the sign, one is spare.
const SUM_BITS: u32 = 62;

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    cells: Vec<i64>,
    initial: Vec<i64>,
    /// By program.
    rows: Vec<StreamRows>,
    /// Distinct values of settled tiles, by set: lane, value, bucket.
    tile_values: Vec<Vec<(u8, u64, u8)>>,
    set: DistinctSet,
    /// Values of settled tiles that are ranked, by [`Op::Ranked`].
    tile_entries: Vec<Vec<Entry>>,
    ranking: Ranking,
    /// Users in the group so far.
    users: usize,
    /// All bits of any summand's magnitude of the present user, and whether a key of it is one that
    /// means "none".
    magnitude: u64,
    beyond: bool,
}

/// The number of a cell that saw no event.
pub(super) fn none_of(kind: PartialKind) -> i64 {
    match kind {
        PartialKind::Count
        | PartialKind::Sum
        | PartialKind::CountDistinct
        | PartialKind::Tally
        | PartialKind::Recent(_) => 0,
        PartialKind::Min | PartialKind::First | PartialKind::FirstTime => i64::MAX,
        PartialKind::Max | PartialKind::Last | PartialKind::LastTime => i64::MIN,
    }
}

impl Lanes {
    pub(super) fn new(programs: &[StreamProgram], sizes: &Sizes) -> Self {
        let mut initial = vec![0; sizes.cells * LANES];
        for partial in programs.iter().flat_map(|p| &p.partials) {
            let first = partial.first_cell * LANES;
            initial[first..first + partial.cells * LANES].fill(none_of(partial.kind));
        }
        Self {
            cells: initial.clone(),
            initial,
            rows: programs.iter().map(StreamRows::new).collect(),
            tile_values: vec![Vec::new(); sizes.sets],
            set: DistinctSet::default(),
            tile_entries: vec![Vec::new(); sizes.ranked],
            ranking: Ranking::default(),
            users: 0,
            magnitude: 0,
            beyond: false,
        }
    }

    /// Whether the group has enough users or rows.
    pub(super) fn is_full(&self) -> bool {
        self.users == LANES || self.rows.iter().any(|rows| rows.words.len() >= GROUP_WORDS)
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.cells.copy_from_slice(&self.initial);
        self.rows.iter_mut().for_each(StreamRows::clear);
        self.tile_values.iter_mut().for_each(Vec::clear);
        self.tile_entries.iter_mut().for_each(Vec::clear);
        self.users = 0;
    }

    fn lane(&self) -> u8 {
        u8::try_from(self.users).unwrap_or(u8::MAX)
    }

    /// Adds a row of the present user; `at`: which program.
    #[inline]
    pub(super) fn add_row(&mut self, program: &StreamProgram, at: usize, row: &[u64], bucket: u8) {
        let lane = self.lane();
        self.rows[at].add(program, row, bucket, lane);
        let word = |a: &Access| row[a.word] >> a.shift & a.mask;
        for (access, unsigned) in &program.summed {
            let word = word(access);
            self.magnitude |= if *unsigned { word } else { word.cast_signed().unsigned_abs() };
        }
        for (access, kind) in &program.compared {
            let key = kind.signed_key(word(access));
            self.beyond |= key == i64::MIN || key == i64::MAX;
        }
    }

    /// Adds a settled tile of the present user.
    pub(super) fn add_tile(
        &mut self,
        program: &StreamProgram,
        tile: &Tile,
        bucket: u8,
        texts: &TextsView<'_>,
    ) {
        for (at, cell) in &tile.cells {
            let step = &program.partials[usize::from(*at)].step;
            let to = program.cell_of[step.table + usize::from(bucket)];
            if to == NO_CELL {
                continue;
            }
            let to = to as usize * LANES + self.users;
            match (cell, step.op) {
                (Cell::Set(values), Op::Distinct(set)) => {
                    let lane = self.lane();
                    self.tile_values[set].extend(values.iter().map(|v| (lane, *v, bucket)));
                }
                (Cell::Number(n), Op::First(kind) | Op::Last(kind)) => {
                    let time = i64::try_from(n >> 64).unwrap_or(i64::MAX);
                    merge_timed(&mut self.cells, to, step, time, settled_key(kind, *n), texts);
                }
                (Cell::Number(n), Op::Min(kind) | Op::Max(kind)) => {
                    let key = settled_key(kind, *n);
                    self.beyond |= key == i64::MIN || key == i64::MAX;
                    self.cells[to] = merge_number(self.cells[to], step.op, key, texts);
                }
                (Cell::Number(n), _) => {
                    let number = i64::try_from(*n);
                    self.beyond |= number.is_err();
                    let number = number.unwrap_or(0);
                    if matches!(step.op, Op::Count | Op::Sum { .. }) {
                        self.magnitude |= number.unsigned_abs();
                    }
                    self.cells[to] = merge_number(self.cells[to], step.op, number, texts);
                }
                (Cell::Tally(values), Op::Ranked(list)) => {
                    let lane = self.lane();
                    self.tile_entries[list].extend(values.iter().map(|(word, number)| Entry {
                        lane,
                        bucket,
                        word: *word,
                        number: *number,
                    }));
                }
                (Cell::Recent(values), Op::Ranked(list)) => {
                    let lane = self.lane();
                    self.tile_entries[list].extend(values.iter().map(|(time, word)| Entry {
                        lane,
                        bucket,
                        word: *word,
                        number: i128::from(*time),
                    }));
                }
                (Cell::Set(_) | Cell::Tally(_) | Cell::Recent(_), _) => {}
            }
        }
    }

    /// Ends the present user, who had this many rows and tiles. False: its numbers may not fit.
    pub(super) fn end_user(&mut self, summands: usize) -> bool {
        self.users += 1;
        let bits = |n: u64| u64::BITS - n.leading_zeros();
        let fits = bits(self.magnitude) + bits(summands as u64) <= SUM_BITS && !self.beyond;
        (self.magnitude, self.beyond) = (0, false);
        fits
    }

    /// Runs all steps over the group's rows, and appends its features to their columns.
    pub(super) fn finish(
        &mut self,
        programs: &[StreamProgram],
        columns: &mut [Column],
        texts: &TextsView<'_>,
    ) {
        for (program, rows) in programs.iter().zip(&self.rows) {
            for partial in program.partials.iter().filter(|p| !p.outputs.is_empty()) {
                let run = Run { program, partial, rows, texts };
                if let Op::Distinct(set) = partial.step.op {
                    let tiles = &self.tile_values[set];
                    count_distinct(&run, &mut self.cells, self.users, &mut self.set, tiles);
                } else if let Op::Ranked(list) = partial.step.op {
                    self.ranking.run(&run, self.users, &self.tile_entries[list], columns);
                } else {
                    run.fill(&mut self.cells);
                }
            }
        }
        self.merge_all(programs, columns, texts);
    }

    fn merge_all(&self, programs: &[StreamProgram], columns: &mut [Column], texts: &TextsView<'_>) {
        let ranked = |p: &&PartialProgram| matches!(p.step.op, Op::Ranked(_));
        for partial in programs.iter().flat_map(|p| &p.partials).filter(|p| !ranked(p)) {
            let none = none_of(partial.kind);
            let (mut merged, mut keys) = ([none; LANES], [0; LANES]);
            // Outputs are sorted: those with the same start share one running merge.
            let (mut from, mut done) = (0, 0);
            let apart = partial.kind == PartialKind::CountDistinct && !partial.nested;
            for (at, output) in partial.outputs.iter().enumerate() {
                let column = &mut columns[output.feature];
                if apart {
                    column.extend_numbers(&self.cell(partial.first_cell + at)[..self.users]);
                    continue;
                }
                if output.lo != from || done < output.lo {
                    (from, done, merged) = (output.lo, output.lo, [none; LANES]);
                }
                for cell in done..output.hi {
                    self.merge(partial, cell, &mut merged, &mut keys, texts);
                }
                done = done.max(output.hi);
                let (merged, keys) = (&merged[..self.users], &keys[..self.users]);
                match partial.kind {
                    PartialKind::Count | PartialKind::Sum | PartialKind::CountDistinct => {
                        column.extend_numbers(merged);
                    }
                    PartialKind::First | PartialKind::Last => column.extend(keys, merged, none),
                    _ => column.extend(merged, merged, none),
                }
            }
        }
    }

    fn cell(&self, cell: usize) -> &[i64; LANES] {
        let at = cell * LANES;
        self.cells[at..at + LANES].try_into().expect("a slice of as many")
    }

    /// Merges the cells of a bucket. First and last values of two buckets never have the same time:
    /// an instant lies in one day and hop.
    fn merge(
        &self,
        partial: &PartialProgram,
        cell: usize,
        merged: &mut [i64; LANES],
        keys: &mut [i64; LANES],
        texts: &TextsView<'_>,
    ) {
        let new = self.cell(partial.first_cell + cell);
        let new_keys = || self.cell(partial.first_cell + partial.cells + cell);
        let text = partial.value == Some(ValueKind::Text);
        match partial.kind {
            PartialKind::Count | PartialKind::Sum | PartialKind::CountDistinct => add(merged, new),
            PartialKind::Min if text => {
                for (have, new) in merged.iter_mut().zip(new) {
                    *have = earlier_text(*have, *new, i64::MAX, texts);
                }
            }
            PartialKind::Max if text => {
                for (have, new) in merged.iter_mut().zip(new) {
                    *have = later_text(*have, *new, i64::MIN, texts);
                }
            }
            PartialKind::Min | PartialKind::FirstTime => least(merged, new),
            PartialKind::Max | PartialKind::LastTime => greatest(merged, new),
            PartialKind::First => earliest(merged, keys, new, new_keys()),
            PartialKind::Last => latest(merged, keys, new, new_keys()),
            // Have no cells.
            PartialKind::Tally | PartialKind::Recent(_) => {}
        }
    }
}

wide! {
    fn add(have: &mut [i64; LANES], new: &[i64; LANES]) {
        for (have, new) in have.iter_mut().zip(new) {
            *have = have.wrapping_add(*new);
        }
    }
}

wide! {
    fn least(have: &mut [i64; LANES], new: &[i64; LANES]) {
        for (have, new) in have.iter_mut().zip(new) {
            *have = (*have).min(*new);
        }
    }
}

wide! {
    fn greatest(have: &mut [i64; LANES], new: &[i64; LANES]) {
        for (have, new) in have.iter_mut().zip(new) {
            *have = (*have).max(*new);
        }
    }
}

wide! {
    fn earliest(
        have: &mut [i64; LANES],
        keys: &mut [i64; LANES],
        new: &[i64; LANES],
        new_keys: &[i64; LANES],
    ) {
        for at in 0..LANES {
            keys[at] = if new[at] < have[at] { new_keys[at] } else { keys[at] };
            have[at] = have[at].min(new[at]);
        }
    }
}

wide! {
    fn latest(
        have: &mut [i64; LANES],
        keys: &mut [i64; LANES],
        new: &[i64; LANES],
        new_keys: &[i64; LANES],
    ) {
        for at in 0..LANES {
            keys[at] = if new[at] > have[at] { new_keys[at] } else { keys[at] };
            have[at] = have[at].max(new[at]);
        }
    }
}
