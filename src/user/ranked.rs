//! Values in the order of their weight, or of their time.
//!
//! In: values with weights or event times. Out: the first few. Ties go by value, so that the order of
//! arrival never matters. Invariant: no clock, no I/O.

use std::cmp::Ordering;

use super::layout::{ValueKind, low32};
use super::sample;
use super::texts::TextsView;

/// Which of two values is less; texts by their bytes.
pub fn by_value(kind: ValueKind, a: u64, b: u64, texts: &TextsView<'_>) -> Ordering {
    match kind {
        _ if a == b => Ordering::Equal,
        ValueKind::Text => {
            let bytes = |word: u64| texts.get(low32(word)).as_bytes();
            bytes(a).cmp(bytes(b))
        }
        _ => kind.order_key(a).cmp(&kind.order_key(b)),
    }
}

/// The order of `recent`: the greatest (event time, value) first.
pub fn newest_first<T: Ord>(
    kind: ValueKind,
    (a_time, a): (T, u64),
    (b_time, b): (T, u64),
    texts: &TextsView<'_>,
) -> Ordering {
    b_time.cmp(&a_time).then_with(|| by_value(kind, b, a, texts))
}

/// Appends the `take` values of the greatest weights, of equal ones the least values first. Of more
/// than `values_max` values only the sample counts. `totals` has each value once, and is used up.
pub fn heaviest(
    totals: &mut Vec<(u64, i128)>,
    take: usize,
    values_max: usize,
    kind: ValueKind,
    texts: &TextsView<'_>,
    out: &mut Vec<u64>,
) {
    sample::trim(totals, values_max, |(word, _)| sample::hash_of(kind, *word, texts));
    let order = |a: &(u64, i128), b: &(u64, i128)| {
        b.1.cmp(&a.1).then_with(|| by_value(kind, a.0, b.0, texts))
    };
    if take == 1 {
        out.extend(totals.iter().min_by(|a, b| order(a, b)).map(|(word, _)| *word));
    } else {
        totals.sort_unstable_by(order);
        out.extend(totals.iter().take(take).map(|(word, _)| *word));
    }
    totals.clear();
}
