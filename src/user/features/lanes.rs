//! Cells of a group of users, side by side: each cell holds one number for each of [`LANES`] users.
//!
//! In: rows and settled tiles, user after user. Out: for each feature the numbers of all users of
//! the group. What is merged is merged for all users at once, in registers.
//! Invariant: 64-bit arithmetic that cannot overflow: a user whose numbers might is reported, and
//! computed by [`super::exact`].

use crate::rule::kernels::wide::wide;

use super::column::Column;
use crate::user::layout::{PartialKind, ValueKind, flag_at, row_time};
use crate::user::program::{NO_CELL, Op, PartialProgram, Sizes, Step, StreamProgram};
use crate::user::settled::{Cell, Tile, text_code};
use crate::user::texts::TextsView;

/// Users whose cells stand side by side: with the cells of some hundred features they stay in the
/// first two caches.
pub(super) const LANES: usize = 16;

/// Bits that a sum may have: one is the sign, one is spare.
const SUM_BITS: u32 = 62;

/// Distinct values are looked for one by one up to this many, then by sorting.
const LINEAR_MAX: usize = 32;

/// Distinct values of one partial of the present user, each with its youngest bucket.
#[derive(Debug, Default, Clone)]
struct DistinctSet {
    values: Vec<u64>,
    buckets: Vec<u8>,
    /// Only the youngest bucket of a value counts.
    nested: bool,
    /// Values may be in there more than once.
    loose: bool,
}

/// A row that is not of a day to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picked {
    /// Where it begins among the words.
    pub(super) at: u32,
    pub(super) bucket: u8,
}

/// Rows of the present user by the filters that are true for them.
#[derive(Debug, Default)]
struct ByFilter {
    rows: Vec<Vec<Picked>>,
    /// Filters with rows.
    touched: Vec<usize>,
}

impl ByFilter {
    #[inline]
    fn add(&mut self, filter: usize, picked: Picked) {
        if filter >= self.rows.len() {
            self.rows.resize_with(filter + 1, Vec::new);
        }
        if self.rows[filter].is_empty() {
            self.touched.push(filter);
        }
        self.rows[filter].push(picked);
    }

    fn drain(&mut self, mut each: impl FnMut(usize, &[Picked])) {
        for filter in self.touched.drain(..) {
            each(filter, &self.rows[filter]);
            self.rows[filter].clear();
        }
    }
}

/// Rows of one stream of a user.
pub(super) struct Rows<'a> {
    pub(super) words: &'a [u64],
    pub(super) picked: &'a [Picked],
    pub(super) texts: &'a TextsView<'a>,
}

impl Rows<'_> {
    #[inline]
    fn row(&self, program: &StreamProgram, picked: Picked) -> &[u64] {
        &self.words[picked.at as usize..picked.at as usize + program.width]
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    cells: Vec<i64>,
    initial: Vec<i64>,
    sets: Vec<DistinctSet>,
    by_filter: ByFilter,
    /// Users in the group so far.
    users: usize,
    /// All bits of any summand's magnitude, and whether a key is one that means "none".
    magnitude: u64,
    beyond: bool,
}

/// The number of a cell that saw no event.
pub(super) fn none_of(kind: PartialKind) -> i64 {
    match kind {
        PartialKind::Count | PartialKind::Sum | PartialKind::CountDistinct => 0,
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
        let mut sets = vec![DistinctSet::default(); sizes.sets];
        for partial in programs.iter().flat_map(|p| &p.partials) {
            if let Op::Distinct(set) = partial.step.op {
                sets[set].nested = partial.nested;
            }
        }
        Self {
            cells: initial.clone(),
            initial,
            sets,
            by_filter: ByFilter::default(),
            users: 0,
            magnitude: 0,
            beyond: false,
        }
    }

    /// Users in the group.
    pub(super) fn users(&self) -> usize {
        self.users
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.cells.copy_from_slice(&self.initial);
        self.users = 0;
    }

    /// Adds rows of one stream of the present user.
    pub(super) fn add_rows(&mut self, program: &StreamProgram, rows: &Rows<'_>) {
        // Step by step over all rows: what a step does is decided once, and its loop is short.
        for step in &program.plain {
            self.run(program, step, rows, rows.picked);
        }
        if program.filtered.is_empty() {
            return;
        }
        let (first_word, first_bit) = flag_at(program.first_filter_flag);
        let last_word = flag_at(program.first_filter_flag + program.filtered.len() - 1).0;
        for picked in rows.picked {
            let row = rows.row(program, *picked);
            let mut flag = 0;
            for (word, bits) in row.iter().enumerate().take(last_word + 1).skip(first_word) {
                let skip = if word == first_word { first_bit } else { 0 };
                let mut bits = bits >> skip;
                while bits != 0 {
                    let at = flag + bits.trailing_zeros() as usize;
                    // Behind the last filter's flag there are none.
                    if at < program.filtered.len() {
                        self.by_filter.add(at, *picked);
                    }
                    bits &= bits - 1;
                }
                flag += (u64::BITS - skip) as usize;
            }
        }
        let mut by_filter = std::mem::take(&mut self.by_filter);
        by_filter.drain(|filter, picked| {
            for step in &program.filtered[filter] {
                self.run(program, step, rows, picked);
            }
        });
        self.by_filter = by_filter;
    }

    /// Runs a step over some of the rows. What a step does is decided here, outside of its loop.
    fn run(&mut self, program: &StreamProgram, step: &Step, rows: &Rows<'_>, picked: &[Picked]) {
        let texts = rows.texts;
        let at = (program, step, rows, picked);
        let mut beyond = 0;
        match step.op {
            Op::Count => self.each(at, &mut beyond, |have, _, _, _| have + 1),
            Op::Sum { unsigned } => {
                let mut magnitude = 0;
                self.each(at, &mut magnitude, |have, word, _, magnitude| {
                    // Beyond the sign bit the magnitude says so, and the user is computed exactly.
                    let number = word.cast_signed();
                    *magnitude |= if unsigned { word } else { number.unsigned_abs() };
                    have.wrapping_add(number)
                });
                self.magnitude |= magnitude;
            }
            Op::FirstTime => self.each(at, &mut beyond, |have, _, time, _| have.min(time)),
            Op::LastTime => self.each(at, &mut beyond, |have, _, time, _| have.max(time)),
            Op::Min(ValueKind::Text) => self.each(at, &mut beyond, |have, word, _, _| {
                earlier_text(have, word.cast_signed(), i64::MAX, texts)
            }),
            Op::Max(ValueKind::Text) => self.each(at, &mut beyond, |have, word, _, _| {
                later_text(have, word.cast_signed(), i64::MIN, texts)
            }),
            Op::Min(kind) => self.each(at, &mut beyond, |have, word, _, beyond| {
                let key = kind.signed_key(word);
                *beyond |= u64::from(key == i64::MAX);
                have.min(key)
            }),
            Op::Max(kind) => self.each(at, &mut beyond, |have, word, _, beyond| {
                let key = kind.signed_key(word);
                *beyond |= u64::from(key == i64::MIN);
                have.max(key)
            }),
            Op::First(kind) | Op::Last(kind) => {
                for picked in picked {
                    if let Some((cell, word, time)) = value_of(program, step, rows, *picked) {
                        let cell = cell as usize * LANES + self.users;
                        self.timed(cell, step, time, kind.signed_key(word), texts);
                    }
                }
            }
            Op::Distinct(set) => {
                for picked in picked {
                    if let Some((_, word, _)) = value_of(program, step, rows, *picked) {
                        self.sets[set].add(word, picked.bucket);
                    }
                }
            }
        }
        self.beyond |= beyond != 0;
    }

    /// Merges the value of each row into its cell: `merge` has the cell's number, the value's word,
    /// the time, and something to leave a mark in.
    #[inline(always)]
    fn each(
        &mut self,
        (program, step, rows, picked): (&StreamProgram, &Step, &Rows<'_>, &[Picked]),
        mark: &mut u64,
        merge: impl Fn(i64, u64, i64, &mut u64) -> i64,
    ) {
        if let Some(cell) = step.only {
            let have = &mut self.cells[cell as usize * LANES + self.users];
            let mut number = *have;
            for picked in picked {
                if let Some((_, word, time)) = value_of(program, step, rows, *picked) {
                    number = merge(number, word, time, mark);
                }
            }
            *have = number;
            return;
        }
        for picked in picked {
            if let Some((cell, word, time)) = value_of(program, step, rows, *picked) {
                let have = &mut self.cells[cell as usize * LANES + self.users];
                *have = merge(*have, word, time, mark);
            }
        }
    }

    /// Merges a number into a cell of the present user.
    #[inline]
    fn number(&mut self, cell: usize, step: &Step, number: i64, texts: &TextsView<'_>) {
        let have = &mut self.cells[cell];
        match step.op {
            Op::Count | Op::Sum { .. } => {
                self.magnitude |= number.unsigned_abs();
                *have = have.wrapping_add(number);
            }
            Op::Min(ValueKind::Text) => *have = earlier_text(*have, number, i64::MAX, texts),
            Op::Max(ValueKind::Text) => *have = later_text(*have, number, i64::MIN, texts),
            Op::Min(_) | Op::FirstTime => {
                self.beyond |= number == i64::MAX;
                *have = (*have).min(number);
            }
            Op::Max(_) | Op::LastTime => {
                self.beyond |= number == i64::MIN;
                *have = (*have).max(number);
            }
            Op::First(_) | Op::Last(_) | Op::Distinct(_) => {}
        }
    }

    /// Merges a value at a time into a pair of cells of the present user.
    #[inline]
    fn timed(&mut self, cell: usize, step: &Step, time: i64, key: i64, texts: &TextsView<'_>) {
        let key_cell = cell + step.key_cells * LANES;
        let (have_time, have_key) = (self.cells[cell], self.cells[key_cell]);
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
            self.cells[cell] = time;
            self.cells[key_cell] = key;
        }
    }

    /// Adds a settled tile of the present user.
    pub(super) fn add_tile(
        &mut self,
        program: &StreamProgram,
        tile: &Tile,
        bucket: usize,
        texts: &TextsView<'_>,
    ) {
        for (at, cell) in &tile.cells {
            let partial = &program.partials[usize::from(*at)];
            let step = &partial.step;
            let to = program.cell_of[step.table + bucket];
            if to == NO_CELL {
                continue;
            }
            let to = to as usize * LANES + self.users;
            match (cell, step.op) {
                (Cell::Set(values), Op::Distinct(set)) => {
                    let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
                    values.iter().for_each(|v| self.sets[set].add(*v, bucket));
                }
                (Cell::Number(n), Op::First(kind) | Op::Last(kind)) => {
                    let time = i64::try_from(n >> 64).unwrap_or(i64::MAX);
                    self.timed(to, step, time, signed_key(kind, *n), texts);
                }
                (Cell::Number(n), Op::Min(kind) | Op::Max(kind)) => {
                    self.number(to, step, signed_key(kind, *n), texts);
                }
                (Cell::Number(n), _) => {
                    let number = i64::try_from(*n);
                    self.beyond |= number.is_err();
                    self.number(to, step, number.unwrap_or(0), texts);
                }
                (Cell::Set(_), _) => {}
            }
        }
    }

    /// Ends the present user, who had this many rows and tiles. False: its numbers may not fit.
    pub(super) fn end_user(&mut self, programs: &[StreamProgram], summands: usize) -> bool {
        for program in programs {
            for partial in &program.partials {
                if let Op::Distinct(set) = partial.step.op {
                    self.count_distinct(program, partial, set);
                }
            }
        }
        self.users += 1;
        let bits = |n: u64| u64::BITS - n.leading_zeros();
        let fits = bits(self.magnitude) + bits(summands as u64) <= SUM_BITS && !self.beyond;
        (self.magnitude, self.beyond) = (0, false);
        fits
    }

    fn count_distinct(&mut self, program: &StreamProgram, partial: &PartialProgram, set: usize) {
        let set = &mut self.sets[set];
        if set.values.is_empty() {
            return;
        }
        let first = partial.first_cell;
        let mut add = |cell: usize, n: i64| self.cells[cell * LANES + self.users] += n;
        if partial.nested {
            set.unite();
            for bucket in &set.buckets {
                let cell = program.cell_of[partial.step.table + usize::from(*bucket)];
                add(cell as usize, 1);
            }
        } else {
            let mut pairs: Vec<(u64, u8)> =
                set.values.iter().copied().zip(set.buckets.iter().copied()).collect();
            pairs.sort_unstable();
            for (at, output) in partial.outputs.iter().enumerate() {
                let inside = pairs.iter().filter(|p| output.buckets.contains(&usize::from(p.1)));
                let (mut distinct, mut last) = (0, None);
                for (value, _) in inside {
                    distinct += i64::from(last != Some(*value));
                    last = Some(*value);
                }
                add(first + at, distinct);
            }
        }
        set.values.clear();
        set.buckets.clear();
        set.loose = false;
    }

    /// Appends the group's features to their columns.
    pub(super) fn finish(
        &self,
        programs: &[StreamProgram],
        columns: &mut [Column],
        texts: &TextsView<'_>,
    ) {
        for partial in programs.iter().flat_map(|p| &p.partials) {
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
    /// an instant lies in one day.
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
        }
    }
}

impl DistinctSet {
    #[inline]
    fn add(&mut self, value: u64, bucket: u8) {
        if self.values.len() < LINEAR_MAX {
            if let Some(at) = self.values.iter().position(|v| *v == value) {
                if self.nested {
                    self.buckets[at] = self.buckets[at].min(bucket);
                    return;
                }
                if self.buckets[at] == bucket {
                    return;
                }
            }
        } else {
            self.loose = true;
        }
        self.values.push(value);
        self.buckets.push(bucket);
    }

    /// Keeps each value once, in its youngest bucket.
    fn unite(&mut self) {
        if !self.loose {
            return;
        }
        let mut pairs: Vec<(u64, u8)> =
            self.values.iter().copied().zip(self.buckets.iter().copied()).collect();
        pairs.sort_unstable();
        pairs.dedup_by_key(|p| p.0);
        self.values.clear();
        self.buckets.clear();
        self.buckets.extend(pairs.into_iter().map(|p| p.1));
    }
}

/// Cell, value and time of a row for a step; `None` where there is no value or nobody looks.
#[inline(always)]
fn value_of(
    program: &StreamProgram,
    step: &Step,
    rows: &Rows<'_>,
    picked: Picked,
) -> Option<(u32, u64, i64)> {
    let access = &step.value;
    let row = rows.row(program, picked);
    let cell = match step.only {
        Some(cell) => cell,
        None => program.cell_of[step.table + usize::from(picked.bucket)],
    };
    if cell == NO_CELL || row[access.null_word] & access.null_bit != 0 {
        return None;
    }
    Some((cell, row[access.word] >> access.shift & access.mask, row_time(row[0])))
}

/// The signed key in a settled number: its lower half is the order key.
#[expect(clippy::cast_possible_truncation, reason = "the mask before the cast keeps 64 bits")]
fn signed_key(kind: ValueKind, number: i128) -> i64 {
    if kind == ValueKind::Text {
        return i64::from(text_code(number));
    }
    kind.signed_key(kind.from_order_key((number & i128::from(u64::MAX)) as u64))
}

fn text<'a>(code: i64, texts: &'a TextsView<'_>) -> Option<&'a [u8]> {
    u32::try_from(code).ok().map(|code| texts.get(code).as_bytes())
}

fn text_before(a: i64, b: i64, texts: &TextsView<'_>) -> bool {
    a != b && text(a, texts) < text(b, texts)
}

fn earlier_text(a: i64, b: i64, none: i64, texts: &TextsView<'_>) -> i64 {
    if b == none || (a != none && !text_before(b, a, texts)) { a } else { b }
}

fn later_text(a: i64, b: i64, none: i64, texts: &TextsView<'_>) -> i64 {
    if b == none || (a != none && !text_before(a, b, texts)) { a } else { b }
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
