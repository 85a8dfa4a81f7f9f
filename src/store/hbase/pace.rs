//! Limits on what is written a second.
//!
//! In: rows and bytes about to be sent. Out: a wait. Invariant: a batch larger than a second's worth
//! is charged as a second's worth, so that it passes at all.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rows: Option<Limit>,
    bytes: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    limiter: DefaultDirectRateLimiter,
    per_s: NonZeroU32,
}

impl Limit {
    fn new(per_s: u32) -> Option<Self> {
        let per_s = NonZeroU32::new(per_s)?;
        Some(Self { limiter: RateLimiter::direct(Quota::per_second(per_s)), per_s })
    }

    /// Zero: charged. Else how long to wait before asking again.
    fn charge(&self, amount: usize) -> Duration {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX).min(self.per_s.get());
        let Some(amount) = NonZeroU32::new(amount) else { return Duration::ZERO };
        match self.limiter.check_n(amount) {
            Ok(Ok(())) => Duration::ZERO,
            Ok(Err(not_until)) => not_until.wait_time_from(DefaultClock::default().now()),
            // More than a second's worth at once: `amount` is at most that.
            Err(_) => Duration::ZERO,
        }
    }

    fn wait(&self, amount: usize) {
        loop {
            let wait = self.charge(amount);
            if wait.is_zero() {
                return;
            }
            // May wake early: then it asks again.
            std::thread::park_timeout(wait);
        }
    }
}

impl Pace {
    /// Limits a second; 0: none.
    pub(super) fn new(rows_per_s_max: u32, bytes_per_s_max: u32) -> Self {
        Self { rows: Limit::new(rows_per_s_max), bytes: Limit::new(bytes_per_s_max) }
    }

    /// Waits until so much may be sent.
    pub(super) fn wait(&self, rows: usize, bytes: usize) {
        if let Some(limit) = &self.rows {
            limit.wait(rows);
        }
        if let Some(limit) = &self.bytes {
            limit.wait(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_waits() {
        let limit = Limit::new(100).expect("not zero");
        assert_eq!(limit.charge(1_000), Duration::ZERO);
        let wait = limit.charge(50);
        assert!(
            wait > Duration::from_millis(300) && wait <= Duration::from_millis(500),
            "{wait:?}"
        );
        assert!(Limit::new(0).is_none());
        Pace::new(0, 0).wait(usize::MAX, usize::MAX);
    }
}
