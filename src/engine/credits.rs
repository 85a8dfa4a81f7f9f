//! Bounds what is under way between sources and shards.
//!
//! In: requests of source threads. Out: credits, as many at once as the limit says; a source without
//! one waits, which is how a slow engine slows its sources.
//! Invariant: a credit that is dropped is free again.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct Pool {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A bounded number of batches under way.
#[derive(Debug, Clone)]
pub struct Credits {
    pool: Arc<Pool>,
    batches_max: usize,
}

/// The right to have one batch under way.
#[derive(Debug)]
pub struct Credit(Arc<Pool>);

impl Credits {
    /// At most this many batches at once.
    pub fn new(batches_max: usize) -> Self {
        let pool = Pool { free: Mutex::new(batches_max), freed: Condvar::new() };
        Self { pool: Arc::new(pool), batches_max }
    }

    /// Waits for a credit; `None` when there was none within `patience`.
    pub fn take(&self, patience: Duration) -> Option<Arc<Credit>> {
        let free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut free, waited) = self
            .pool
            .freed
            .wait_timeout_while(free, patience, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && *free == 0 {
            return None;
        }
        *free -= 1;
        Some(Arc::new(Credit(Arc::clone(&self.pool))))
    }

    /// Batches under way, and the limit.
    pub fn fullness(&self) -> (usize, usize) {
        let free = *self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        (self.batches_max - free, self.batches_max)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
