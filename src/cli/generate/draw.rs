//! Random draws.
//!
//! In: a seeded generator. Out: values of the distributions that the workload is made of.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "draws are rounded down on purpose, and all bounds are far below 2^52"
)]

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// A generator for one part of the workload: parts do not disturb each other.
pub(super) struct Draw(Xoshiro256PlusPlus);

impl Draw {
    pub(super) fn new(seed: u64, part: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.random()
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Uniform in `from..to`; `from` when that is empty.
    pub(super) fn range(&mut self, from: i64, to: i64) -> i64 {
        if to <= from { from } else { self.0.random_range(from..to) }
    }

    /// Uniform in `0..to`.
    pub(super) fn below(&mut self, to: usize) -> usize {
        self.0.random_range(0..to.max(1))
    }

    /// A share of a length, rounded down.
    pub(super) fn share_of(&mut self, length: i64, power: f64) -> i64 {
        (self.unit().powf(power) * length as f64) as i64
    }

    /// Exponential with this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> i64 {
        (self.exponential_unit() * mean) as i64
    }

    fn exponential_unit(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Beta(1, b) by its inverse, as a share of `length`.
    pub(super) fn beta(&mut self, b: f64, length: f64) -> i64 {
        ((1.0 - (1.0 - self.unit()).powf(1.0 / b)) * length) as i64
    }

    /// Gamma(4, scale): the sum of four exponentials.
    pub(super) fn gamma4(&mut self, scale: f64) -> i64 {
        ((0..4).map(|_| self.exponential_unit()).sum::<f64>() * scale) as i64
    }

    /// Failures before the first success.
    pub(super) fn geometric(&mut self, share: f64) -> usize {
        ((1.0 - self.unit()).ln() / (1.0 - share).ln()) as usize
    }

    /// `exp(normal(mean, 1))`, clipped.
    pub(super) fn log_normal(&mut self, mean: f64, low: f64, high: f64) -> u32 {
        let radius = (2.0 * self.exponential_unit()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        (mean + normal).exp().clamp(low, high) as u32
    }

    /// An index by weights that sum to 1.
    pub(super) fn choice(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit();
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// An index by cumulated weights.
    pub(super) fn cumulated(&mut self, sums: &[f64]) -> usize {
        let at = self.unit() * sums.last().copied().unwrap_or(0.0);
        sums.partition_point(|sum| *sum <= at).min(sums.len().saturating_sub(1))
    }

    /// `count` of `0..of`, ascending, each at most once.
    pub(super) fn sample(&mut self, of: usize, count: usize) -> Vec<usize> {
        let mut sample = rand::seq::index::sample(&mut self.0, of, count.min(of)).into_vec();
        sample.sort_unstable();
        sample
    }

    /// Numbers `0..count` in any order.
    pub(super) fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            let other = self.below(at + 1);
            numbers.swap(at, other);
        }
        numbers
    }
}
