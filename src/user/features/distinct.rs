//! Distinct values of one partial of one user.
//!
//! In: values with their buckets. Out: how many are distinct, bucket by bucket or span by span.

use super::steps::Run;
use crate::user::layout::ValueKind;
use crate::user::sample::{self, hash_of};

/// Places of a table of values: 1 KB, of which half is used at most. More values are sorted.
const PLACES: usize = 64;
const TABLE_MAX: usize = PLACES / 2;

/// A value with its youngest bucket; of an earlier user, where the turn is another one.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    value: u64,
    turn: u32,
    bucket: u8,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DistinctSet {
    table: [Known; PLACES],
    turn: u32,
    /// Where the values stand.
    taken: [usize; TABLE_MAX],
    len: usize,
    /// What did not fit, repeats included.
    more: Vec<(u64, u8)>,
}

impl Default for DistinctSet {
    fn default() -> Self {
        let table = [Known::default(); PLACES];
        Self { table, turn: 1, taken: [0; TABLE_MAX], len: 0, more: Vec::new() }
    }
}

impl DistinctSet {
    /// Adds a value. `nested`: only its youngest bucket counts.
    #[inline(always)]
    pub(super) fn add(&mut self, value: u64, bucket: u8, nested: bool) {
        if !nested {
            self.more.push((value, bucket));
            return;
        }
        // Fibonacci hashing: neighbours are spread.
        let hash = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut at = (hash >> 58) as usize % PLACES;
        loop {
            let known = &mut self.table[at];
            if known.turn != self.turn {
                break;
            }
            if known.value == value {
                known.bucket = known.bucket.min(bucket);
                return;
            }
            at = (at + 1) % PLACES;
        }
        match self.taken.get_mut(self.len) {
            Some(taken) => {
                *taken = at;
                self.table[at] = Known { value, turn: self.turn, bucket };
                self.len += 1;
            }
            None => self.more.push((value, bucket)),
        }
    }

    /// The values of the table, with their buckets.
    fn known(&self) -> impl Iterator<Item = (u64, u8)> {
        let known = self.taken[..self.len].iter().map(|at| self.table[*at]);
        known.map(|known| (known.value, known.bucket))
    }

    /// Puts them with the others.
    fn join(&mut self) {
        let mut more = std::mem::take(&mut self.more);
        more.extend(self.known());
        self.more = more;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.more.is_empty()
    }

    /// Calls `add` with each cell of the partial and how many values it has, and empties the set.
    pub(super) fn count(&mut self, run: &Run<'_>, mut add: impl FnMut(usize, i64)) {
        let (program, partial) = (run.program, run.partial);
        if self.len + self.more.len() > partial.values_max {
            self.count_many(run, add);
        } else if partial.nested {
            let cell =
                |bucket: u8| program.cell_of[partial.step.table + usize::from(bucket)] as usize;
            if self.more.is_empty() {
                self.known().for_each(|(_, bucket)| add(cell(bucket), 1));
            } else {
                self.join();
                self.more.sort_unstable();
                self.more.dedup_by_key(|pair| pair.0);
                self.more.iter().for_each(|pair| add(cell(pair.1), 1));
            }
        } else {
            self.more.sort_unstable();
            for (at, output) in partial.outputs.iter().enumerate() {
                let inside = |pair: &&(u64, u8)| output.buckets.contains(&usize::from(pair.1));
                let (mut distinct, mut last) = (0, None);
                for (value, _) in self.more.iter().filter(inside) {
                    distinct += i64::from(last != Some(*value));
                    last = Some(*value);
                }
                add(partial.first_cell + at, distinct);
            }
        }
        self.more.clear();
        self.len = 0;
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            *self = Self { more: std::mem::take(&mut self.more), ..Self::default() };
        }
    }

    /// [`Self::count`] where spans may have more values than are counted exactly.
    #[cold]
    fn count_many(&mut self, run: &Run<'_>, mut add: impl FnMut(usize, i64)) {
        let partial = run.partial;
        self.join();
        self.more.sort_unstable();
        let kind = partial.value.unwrap_or(ValueKind::Hash);
        let (mut words, mut counted, mut before) = (Vec::new(), 0, 0);
        for (at, output) in partial.outputs.iter().enumerate() {
            if partial.nested && output.hi == counted {
                continue;
            }
            let inside = |pair: &&(u64, u8)| output.buckets.contains(&usize::from(pair.1));
            words.clear();
            words.extend(self.more.iter().filter(inside).map(|pair| pair.0));
            words.dedup();
            let count = sample::count(&words, partial.values_max, |w| hash_of(kind, w, run.texts));
            if partial.nested {
                // Cells add up: the one of this span's oldest bucket gets what the others lack.
                add(partial.first_cell + output.hi - 1, count - before);
                (counted, before) = (output.hi, count);
            } else {
                add(partial.first_cell + at, count);
            }
        }
    }
}
