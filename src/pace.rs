//! Limits on how much is done a second.
//!
//! In: amounts. Out: a wait. Invariant: an amount larger than a second's worth is charged as a
//! second's worth, so that it passes at all.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// So much a second, and a second's worth at once.
#[derive(Debug)]
pub struct Limit {
    limiter: DefaultDirectRateLimiter,
    per_s: NonZeroU32,
}

impl Limit {
    /// At most this much a second.
    pub fn new(per_s: NonZeroU32) -> Self {
        Self { limiter: RateLimiter::direct(Quota::per_second(per_s)), per_s }
    }

    /// What may be spent at once.
    pub fn at_once(&self) -> usize {
        usize::try_from(self.per_s.get()).unwrap_or(usize::MAX)
    }

    /// Zero: charged. Else how long to wait before asking again.
    pub fn charge(&self, amount: usize) -> Duration {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX).min(self.per_s.get());
        let Some(amount) = NonZeroU32::new(amount) else { return Duration::ZERO };
        match self.limiter.check_n(amount) {
            Ok(Ok(())) => Duration::ZERO,
            Ok(Err(not_until)) => not_until.wait_time_from(DefaultClock::default().now()),
            // More than a second's worth at once: `amount` is at most that.
            Err(_) => Duration::ZERO,
        }
    }

    /// Waits until so much may be done.
    pub fn wait(&self, amount: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_waits() {
        let limit = Limit::new(NonZeroU32::new(100).expect("not zero"));
        assert_eq!(limit.charge(1_000), Duration::ZERO);
        let wait = limit.charge(50);
        assert!(
            wait > Duration::from_millis(300) && wait <= Duration::from_millis(500),
            "{wait:?}"
        );
    }
}
