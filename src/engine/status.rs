//! What the parts of a running engine tell each other and the outside.
//!
//! In: counts and failures from all threads. Out: the same, for progress, metrics and the decision
//! to stop. Invariant: plain atomics and one slot for the first failure.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::EngineError;
use super::credits::Credits;

/// Counts of a running engine.
#[derive(Debug, Default)]
pub struct Status {
    /// Source rows read.
    pub rows: AtomicU64,
    /// Events handed to shards.
    pub events: AtomicU64,
    /// Source rows refused.
    pub rejected_rows: AtomicU64,
    /// What each shard says of itself.
    pub shards: Vec<ShardStatus>,
    /// Sources that have not ended.
    pub sources_open: AtomicUsize,
    /// Windows stored.
    pub windows: AtomicU64,
    /// Profiles stored.
    pub profiles: AtomicU64,
    /// Users that were recomputed because they were due.
    pub due_users: AtomicU64,
    /// Users that jobs asked for.
    pub examined_users: AtomicU64,
    /// Bytes of events that were set aside on disk in the last round, to be folded by slices of users.
    pub aside_bytes: AtomicU64,
    /// Slices of that round, as soon as they are folded.
    pub slices: AtomicUsize,
    /// Of them: folded.
    pub slices_folded: AtomicUsize,
    /// Such rounds.
    pub rounds: AtomicU64,
    /// What has to be done before the first window is not done yet.
    pub preparing: AtomicBool,
    /// Rejects in memory until the next window.
    pub rejects_waiting: AtomicUsize,
    /// Batches under way between sources and shards, once there are shards.
    pub credits: OnceLock<Credits>,
    /// How often the checkpoint has looked around: it stands still when the engine hangs.
    pub looks: AtomicU64,
    /// The engine is to stop.
    stop: AtomicBool,
    failure: Mutex<Option<EngineError>>,
}

/// What a shard says of itself.
#[derive(Debug, Default)]
pub struct ShardStatus {
    /// Users waiting for a window.
    pub dirty_users: AtomicUsize,
    /// Those take its share of the memory: a window should close.
    pub wants_window: AtomicBool,
    /// Users have had to leave memory.
    pub has_passivated: AtomicBool,
}

impl Status {
    /// For an engine with this many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| ShardStatus::default()).collect(), ..Self::default() }
    }

    /// Users waiting for a window.
    pub fn dirty_users(&self) -> usize {
        self.shards.iter().map(|s| s.dirty_users.load(Ordering::Relaxed)).sum()
    }

    /// Whether a shard needs a window to close to have memory again.
    pub fn wants_window(&self) -> bool {
        self.shards.iter().any(|s| s.wants_window.load(Ordering::Relaxed))
    }

    /// Whether users have had to leave memory.
    pub fn has_passivated(&self) -> bool {
        self.shards.iter().any(|s| s.has_passivated.load(Ordering::Relaxed))
    }

    /// Stops the engine with a reason. The first reason stays.
    pub fn fail(&self, error: EngineError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.stop.store(true, Ordering::Release);
    }

    /// Asks sources to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether sources are to stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The failure, if there was one.
    pub fn take_failure(&self) -> Option<EngineError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether something failed.
    pub fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}
