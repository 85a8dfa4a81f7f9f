//! Distinct values of one partial of one user.
//!
//! In: values with their buckets. Out: how many are distinct, bucket by bucket or span by span.

use super::steps::Run;
use crate::user::layout::ValueKind;
use crate::user::sample::{self, hash_of};

/// Values looked at all at once, without a branch for each; more are sorted.
const SMALL_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DistinctSet {
    small: [u64; SMALL_MAX],
    buckets: [u8; SMALL_MAX],
    len: usize,
    /// What did not fit, repeats included.
    more: Vec<(u64, u8)>,
}

impl DistinctSet {
    /// Adds a value. `nested`: only its youngest bucket counts.
    #[inline(always)]
    pub(super) fn add(&mut self, value: u64, bucket: u8, nested: bool) {
        if !nested {
            self.more.push((value, bucket));
            return;
        }
        let mut found = 0_u32;
        for (at, have) in self.small.iter().enumerate() {
            found |= u32::from(*have == value) << at;
        }
        found &= (1 << self.len) - 1;
        let at = if found == 0 { self.len } else { found.trailing_zeros() as usize };
        match self.buckets.get_mut(at) {
            Some(have) => {
                *have = if found == 0 { bucket } else { (*have).min(bucket) };
                self.small[at] = value;
                self.len += usize::from(found == 0);
            }
            None => self.more.push((value, bucket)),
        }
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
                self.buckets[..self.len].iter().for_each(|bucket| add(cell(*bucket), 1));
            } else {
                let small = self.small.iter().copied().zip(self.buckets).take(self.len);
                self.more.extend(small);
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
    }

    /// [`Self::count`] where spans may have more values than are counted exactly.
    #[cold]
    fn count_many(&mut self, run: &Run<'_>, mut add: impl FnMut(usize, i64)) {
        let partial = run.partial;
        self.more.extend(self.small.iter().copied().zip(self.buckets).take(self.len));
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
