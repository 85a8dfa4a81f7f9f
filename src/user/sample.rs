//! Distinct values beyond a limit: a sample of those with the least hashes.
//!
//! In: distinct values, and how many may be kept. Out: the sample, or an estimate of their number.
//!
//! A value's hash has a fixed seed and depends on the value alone. So which values a sample has is a
//! function of the set: a value among the least of a whole is among the least of each part that has
//! it, and merging the samples of parts, in any order, gives the sample of the whole, with complete
//! weights. A sample of `values_max` is kept with one value more: that one says that there are more,
//! and nothing else is made of it.
//!
//! The estimate is that of Beyer et al., "On Synopses for Distinct-Value Estimation Under Multiset
//! Operations" (SIGMOD 2007): with the k-th least of hashes spread evenly over 0..1 at `u`, there are
//! about `(k - 1) / u` values; its relative standard error is about `1 / sqrt(k - 2)`.
//! Invariant: no clock, no I/O; whole numbers only, so that every machine gives the same.

use super::layout::{ValueKind, hash64, low32};
use super::texts::TextsView;

/// A value's hash, the same in every process.
pub fn hash_of(kind: ValueKind, word: u64, texts: &TextsView<'_>) -> u64 {
    match kind {
        ValueKind::Text => hash64(texts.get(low32(word)).as_bytes()),
        // Is the hash of its text.
        ValueKind::Hash => word,
        _ => mixed(word),
    }
}

/// MurmurHash3's 64-bit finaliser: different words have different hashes.
fn mixed(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// Leaves the `keep` entries with the least hashes, in the order of hashes. Returns whether there
/// were more.
pub fn trim<T>(entries: &mut Vec<T>, keep: usize, hash: impl Fn(&T) -> u64) -> bool {
    let more = entries.len() > keep;
    if more {
        entries.sort_by_cached_key(hash);
        entries.truncate(keep);
    }
    more
}

/// How many values a set has: exact up to `values_max`, else an estimate from the least hashes.
/// `words`: all values, or at least one more than `values_max` of those with the least hashes.
pub fn count(words: &[u64], values_max: usize, hash: impl Fn(u64) -> u64) -> i64 {
    let exact = i64::try_from(words.len()).unwrap_or(i64::MAX);
    if words.len() <= values_max {
        return exact;
    }
    let mut hashes: Vec<u64> = words.iter().map(|word| hash(*word)).collect();
    let at = values_max.saturating_sub(1);
    let (_, kth, _) = hashes.select_nth_unstable(at);
    let estimate = ((at as u128) << 64) / (u128::from(*kth) + 1);
    let least = i64::try_from(values_max).unwrap_or(i64::MAX).saturating_add(1);
    i64::try_from(estimate).unwrap_or(i64::MAX).max(least)
}

/// The relative standard error of an estimate from a sample.
#[expect(clippy::cast_precision_loss, reason = "a sample has at most a million values")]
pub fn relative_error(values_max: usize) -> f64 {
    1.0 / (values_max.saturating_sub(2).max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_lie_within_a_few_standard_errors() {
        for (values, values_max) in [(1_000_u64, 64_usize), (50_000, 1024), (300_000, 16_384)] {
            let words: Vec<u64> = (0..values).map(|n| n * 7 + 3).collect();
            let found = count(&words, values_max, mixed);
            let off = (found as f64 / values as f64 - 1.0).abs();
            assert!(off < 3.0 * relative_error(values_max), "{values}: {found}, off by {off}");
        }
    }

    #[test]
    fn few_values_are_counted_exactly() {
        assert_eq!(count(&[], 8, mixed), 0);
        assert_eq!(count(&[1, 2, 3, 4, 5, 6, 7, 8], 8, mixed), 8);
    }
}
