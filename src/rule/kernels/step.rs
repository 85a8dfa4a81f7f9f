//! Bands and everything else that is a step function of one lane.
//!
//! In: a lane's numbers, ascending cuts, a code per step. Out: a code per row, which is
//! `codes[number of cuts <= value]`, or the code for NULL.

use super::wide::wide;

/// A step function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rule) struct Step<T> {
    /// Ascending, without repeats.
    pub(in crate::rule) cuts: Vec<T>,
    /// One more than cuts.
    pub(in crate::rule) codes: Vec<u8>,
    pub(in crate::rule) null_code: u8,
}

/// Beyond this many cuts a binary search per row is faster.
const LINEAR_MAX: usize = 32;

wide! {
    /// Codes for the rows of a chunk.
    pub(in crate::rule) fn run_i32(step: &Step<i32>, values: &[i32], valid: &[u8], out: &mut [u8]) {
        step.run(values, valid, out);
    }
}

wide! {
    /// Codes for the rows of a chunk, of a wide lane.
    pub(in crate::rule) fn run_i64(step: &Step<i64>, values: &[i64], valid: &[u8], out: &mut [u8]) {
        step.run(values, valid, out);
    }
}

impl<T: Copy + Ord> Step<T> {
    #[inline(always)]
    fn run(&self, values: &[T], valid: &[u8], out: &mut [u8]) {
        match self.cuts.len() {
            0 => out.fill(self.codes[0]),
            1 => self.unrolled::<1>(values, out),
            2 => self.unrolled::<2>(values, out),
            3 => self.unrolled::<3>(values, out),
            4 => self.unrolled::<4>(values, out),
            5 => self.unrolled::<5>(values, out),
            6 => self.unrolled::<6>(values, out),
            7 => self.unrolled::<7>(values, out),
            8 => self.unrolled::<8>(values, out),
            n if n <= LINEAR_MAX => self.linear(values, out),
            _ => self.search(values, out),
        }
        let null = self.null_code;
        for (code, valid) in out.iter_mut().zip(valid) {
            // 1 -> all ones, 0 -> none: a select without a branch.
            let keep = valid.wrapping_neg();
            *code = (*code & keep) | (null & !keep);
        }
    }

    /// What the code changes by at each cut; sums of bytes that wrap give the code itself.
    fn change(&self, at: usize) -> u8 {
        self.codes[at + 1].wrapping_sub(self.codes[at])
    }

    #[inline(always)]
    fn unrolled<const N: usize>(&self, values: &[T], out: &mut [u8]) {
        let cuts: [T; N] = std::array::from_fn(|i| self.cuts[i]);
        let changes: [u8; N] = std::array::from_fn(|i| self.change(i));
        let first = self.codes[0];
        for (code, value) in out.iter_mut().zip(values) {
            let mut sum = first;
            for i in 0..N {
                sum = sum.wrapping_add(u8::from(*value >= cuts[i]).wrapping_neg() & changes[i]);
            }
            *code = sum;
        }
    }

    #[inline(always)]
    fn linear(&self, values: &[T], out: &mut [u8]) {
        out.fill(self.codes[0]);
        for (i, cut) in self.cuts.iter().enumerate() {
            let change = self.change(i);
            for (code, value) in out.iter_mut().zip(values) {
                *code = code.wrapping_add(u8::from(value >= cut).wrapping_neg() & change);
            }
        }
    }

    #[inline(always)]
    fn search(&self, values: &[T], out: &mut [u8]) {
        for (code, value) in out.iter_mut().zip(values) {
            *code = self.codes[self.cuts.partition_point(|c| c <= value)];
        }
    }
}
