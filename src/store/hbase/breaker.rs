//! The circuit breaker: whether a call is worth a try.
//!
//! In: calls that succeed, and calls whose deadline passed. Out: leave to call, or why not.
//! Invariant: while it is open nobody waits; what closes it is one call's success.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Deadline, Stopwatch};
use crate::telemetry::names;

/// How long it stays open first, and at most: twice as long after each probe that fails.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// All is well.
    #[default]
    Closed,
    /// No calls until the pause is over.
    Open { outage: Outage, until: Deadline, pause: Duration },
    /// One call is under way to see whether it works again; the others wait for it.
    Probing { outage: Outage, pause: Duration },
}

/// What is wrong, and since when.
#[derive(Debug, Clone)]
struct Outage {
    reason: String,
    since: std::sync::Arc<Stopwatch>,
}

impl Outage {
    fn text(&self) -> String {
        format!("{} (for {} s)", self.reason, self.since.elapsed().as_secs())
    }
}

/// Leave to make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// As any other.
    Normal,
    /// The store was unavailable: this call finds out whether it still is.
    Probe,
}

impl Breaker {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for leave; waits, until `deadline`, for the outcome of a probe under way.
    pub(super) fn admit(&self, deadline: Deadline) -> Result<Leave, String> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::Closed => return Ok(Leave::Normal),
                State::Open { outage, until, pause } => {
                    if !until.is_over() {
                        return Err(outage.text());
                    }
                    *state = State::Probing { outage: outage.clone(), pause: *pause };
                    return Ok(Leave::Probe);
                }
                State::Probing { outage, .. } => {
                    let left = deadline.left();
                    if left.is_zero() {
                        return Err(outage.text());
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// A call succeeded.
    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        if let State::Open { outage, .. } | State::Probing { outage, .. } = &*state {
            tracing::info!(
                seconds = outage.since.elapsed().as_secs(),
                reason = outage.reason,
                "HBase can be reached again"
            );
            names::STORE_AVAILABLE.gauge(&[]).set(1.0);
            *state = State::Closed;
            self.changed.notify_all();
        }
    }

    /// A call was given up.
    pub(super) fn gave_up(&self, leave: Leave, reason: &str) {
        let mut state = self.lock();
        let reason = reason.to_owned();
        let (outage, pause) = match &*state {
            State::Closed => {
                tracing::warn!(reason, "HBase cannot be reached");
                names::STORE_AVAILABLE.gauge(&[]).set(0.0);
                (Outage { reason, since: std::sync::Arc::new(Stopwatch::start()) }, PAUSE_MIN)
            }
            State::Probing { outage, pause } if leave == Leave::Probe => {
                let since = std::sync::Arc::clone(&outage.since);
                (Outage { reason, since }, (*pause * 2).min(PAUSE_MAX))
            }
            // Calls that began before the circuit opened say nothing new.
            State::Open { .. } | State::Probing { .. } => return,
        };
        *state = State::Open { outage, until: Deadline::after(pause), pause };
        self.changed.notify_all();
    }

    /// Why calls are refused just now; none: they are not.
    pub(super) fn outage(&self) -> Option<String> {
        match &*self.lock() {
            State::Closed => None,
            State::Open { outage, .. } | State::Probing { outage, .. } => Some(outage.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn it_opens_lets_one_probe_through_and_closes() {
        let breaker = Breaker::default();
        assert_eq!(breaker.admit(soon()), Ok(Leave::Normal));
        breaker.gave_up(Leave::Normal, "refused");
        let error = breaker.admit(soon()).expect_err("it is open");
        assert_eq!(
            (error.as_str(), breaker.outage().as_deref()),
            ("refused (for 0 s)", Some(&*error))
        );

        let opened = Stopwatch::start();
        while breaker.admit(soon()) != Ok(Leave::Probe) {
            assert!(opened.elapsed() < Duration::from_secs(10), "it never tries again");
            std::thread::yield_now();
        }
        assert!(opened.elapsed() > PAUSE_MIN / 2);
        // A late failure of a call from before changes nothing; a second caller waits for the probe.
        breaker.gave_up(Leave::Normal, "late");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| breaker.admit(soon()));
            breaker.succeeded();
            assert_eq!(second.join().expect("no panic"), Ok(Leave::Normal));
        });
        assert_eq!(breaker.outage(), None);
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_those_who_wait_too() {
        let breaker = Breaker::default();
        *breaker.lock() = State::Probing {
            outage: Outage { reason: "first".to_owned(), since: Stopwatch::start().into() },
            pause: PAUSE_MAX,
        };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| breaker.admit(soon()));
            breaker.gave_up(Leave::Probe, "second");
            let error = second.join().expect("no panic").expect_err("the probe failed");
            assert_eq!(error, "second (for 0 s)");
        });
        let over = Deadline::after(Duration::ZERO);
        assert!(breaker.admit(over).is_err());
    }
}
