//! Conditions as masks: a byte per row, 1 where the condition is true (not where it is NULL).
//!
//! In: lanes of a chunk. Out: masks, and codes chosen by masks. Each loop exists for the processors
//! that have wider registers, too; which one runs is decided at run time.

use super::wide::wide;

wide! {
    /// `lo <= value <= hi`, or its opposite, where there is a value.
    pub(in crate::rule) fn range_i32(
        values: &[i32],
        valid: &[u8],
        bounds: (Option<i32>, Option<i32>),
        negated: bool,
        out: &mut [u8],
    ) {
        range(values, valid, bounds, negated, out);
    }
}

wide! {
    /// The same for wide lanes.
    pub(in crate::rule) fn range_i64(
        values: &[i64],
        valid: &[u8],
        bounds: (Option<i64>, Option<i64>),
        negated: bool,
        out: &mut [u8],
    ) {
        range(values, valid, bounds, negated, out);
    }
}

#[inline(always)]
fn range<T: Copy + Ord>(
    values: &[T],
    valid: &[u8],
    (lo, hi): (Option<T>, Option<T>),
    negated: bool,
    out: &mut [u8],
) {
    let flip = u8::from(negated);
    let rows = out.iter_mut().zip(values).zip(valid);
    match (lo, hi) {
        (Some(lo), Some(hi)) => {
            for ((out, value), valid) in rows {
                *out = (u8::from((*value >= lo) & (*value <= hi)) ^ flip) & valid;
            }
        }
        (Some(lo), None) => {
            for ((out, value), valid) in rows {
                *out = (u8::from(*value >= lo) ^ flip) & valid;
            }
        }
        (None, Some(hi)) => {
            for ((out, value), valid) in rows {
                *out = (u8::from(*value <= hi) ^ flip) & valid;
            }
        }
        (None, None) => {
            for (out, valid) in out.iter_mut().zip(valid) {
                *out = (1 ^ flip) & valid;
            }
        }
    }
}

/// How two values are compared; the other four are these with sides swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::rule) enum Compare {
    Lt,
    LtEq,
    Eq,
    NotEq,
}

/// One side of a comparison: numbers times a factor.
#[derive(Debug, Clone, Copy)]
pub(in crate::rule) struct Side<'a, T> {
    pub(in crate::rule) values: &'a [T],
    pub(in crate::rule) valid: &'a [u8],
    pub(in crate::rule) factor: T,
}

wide! {
    /// `x * a <op> y * b` where both have values. The caller has made sure that no product overflows.
    pub(in crate::rule) fn compare_i64(
        x: Side<'_, i64>,
        op: Compare,
        y: Side<'_, i64>,
        out: &mut [u8],
    ) {
        compare(x, op, y, out);
    }
}

wide! {
    /// The same for floats. The caller has made sure that no product is rounded.
    pub(in crate::rule) fn compare_f64(
        x: Side<'_, f64>,
        op: Compare,
        y: Side<'_, f64>,
        out: &mut [u8],
    ) {
        compare(x, op, y, out);
    }
}

#[inline(always)]
fn compare<T>(x: Side<'_, T>, op: Compare, y: Side<'_, T>, out: &mut [u8])
where
    T: Copy + PartialOrd + std::ops::Mul<Output = T>,
{
    match op {
        Compare::Lt => compare_with(x, y, out, |a, b| a < b),
        Compare::LtEq => compare_with(x, y, out, |a, b| a <= b),
        Compare::Eq => compare_with(x, y, out, |a, b| a == b),
        Compare::NotEq => compare_with(x, y, out, |a, b| a != b),
    }
}

#[inline(always)]
fn compare_with<T>(x: Side<'_, T>, y: Side<'_, T>, out: &mut [u8], op: impl Fn(T, T) -> bool)
where
    T: Copy + std::ops::Mul<Output = T>,
{
    let values = x.values.iter().zip(y.values);
    let valid = x.valid.iter().zip(y.valid);
    for ((out, (a, b)), (v, w)) in out.iter_mut().zip(values).zip(valid) {
        *out = u8::from(op(*a * x.factor, *b * y.factor)) & v & w;
    }
}

wide! {
    /// `out &= other`
    pub(in crate::rule) fn and(out: &mut [u8], other: &[u8]) {
        for (out, other) in out.iter_mut().zip(other) {
            *out &= other;
        }
    }
}

wide! {
    /// `out |= other`
    pub(in crate::rule) fn or(out: &mut [u8], other: &[u8]) {
        for (out, other) in out.iter_mut().zip(other) {
            *out |= other;
        }
    }
}

wide! {
    /// True becomes not true and the other way round.
    pub(in crate::rule) fn not(out: &mut [u8]) {
        for out in out {
            *out ^= 1;
        }
    }
}

wide! {
    /// `code` where the mask is true; the rest stays.
    pub(in crate::rule) fn choose(mask: &[u8], code: u8, out: &mut [u8]) {
        for (out, mask) in out.iter_mut().zip(mask) {
            let take = mask.wrapping_neg();
            *out = (code & take) | (*out & !take);
        }
    }
}

wide! {
    /// Rows that are marked (1, else 0) and have a code other than 0.
    pub(in crate::rule) fn count_present(codes: &[u8], marks: &[u8]) -> u64 {
        let mut present = 0;
        // A sum of 128 fits a byte: bytes are added many at a time.
        for (codes, marks) in codes.chunks(128).zip(marks.chunks(128)) {
            let each = codes.iter().zip(marks).map(|(code, mark)| u8::from(*code != 0) & mark);
            present += u64::from(each.fold(0_u8, u8::wrapping_add));
        }
        present
    }
}
