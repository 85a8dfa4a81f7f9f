//! From sources to shards.
//!
//! In: decoded batches from source threads. Out: rows in the shards' mailboxes.
//! Invariant: a batch reaches all its shards, and the intake, as one step; a window's cut falls
//! between batches.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Addr;

use super::EngineError;
use super::credits::Credits;
use super::intake::Intake;
use super::status::Status;
use crate::event::Decoded;
use crate::shard::actor::{Rows, ShardActor};
use crate::source::position::Position;

/// Hands batches to shards.
#[derive(Clone)]
pub struct Router {
    intake: Arc<Mutex<Intake>>,
    shards: Vec<Addr<ShardActor>>,
    credits: Credits,
    status: Arc<Status>,
    rejects_waiting_max: usize,
}

impl Router {
    /// `rejects_waiting_max`: rejects kept in memory between two windows; beyond it sources wait.
    pub fn new(
        intake: Intake,
        shards: Vec<Addr<ShardActor>>,
        credits: Credits,
        status: Arc<Status>,
        rejects_waiting_max: usize,
    ) -> Self {
        let intake = Arc::new(Mutex::new(intake));
        Self { intake, shards, credits, status, rejects_waiting_max }
    }

    /// The intake; nothing is routed while the guard lives.
    pub fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards, in order.
    pub fn shards(&self) -> &[Addr<ShardActor>] {
        &self.shards
    }

    /// Counts, and whether to stop.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Whether so many rejects wait for a window that one should close.
    pub fn is_full_of_rejects(&self) -> bool {
        self.intake().rejects_waiting() >= self.rejects_waiting_max
    }

    /// Routes a batch; waits while too much is under way. False: the engine is stopping.
    pub fn route(&self, sources: &[String], position: Option<Position>, decoded: Decoded) -> bool {
        const PATIENCE: Duration = Duration::from_millis(100);
        let credit = loop {
            if self.status.stopping() {
                return false;
            }
            if self.is_full_of_rejects() {
                // No condition to wait on: the next cut empties it, within a window's time.
                std::thread::park_timeout(PATIENCE);
                continue;
            }
            if let Some(credit) = self.credits.take(PATIENCE) {
                break credit;
            }
        };
        self.status.rows.fetch_add(decoded.rows, Ordering::Relaxed);
        self.status.rejected_rows.fetch_add(decoded.rejected_rows, Ordering::Relaxed);
        let mut intake = self.intake();
        for (stream, parts) in intake.absorb(sources, position, decoded) {
            for (shard, part) in self.shards.iter().zip(parts) {
                if part.hashes.is_empty() {
                    continue;
                }
                self.status.events.fetch_add(part.hashes.len() as u64, Ordering::Relaxed);
                let rows = Rows { stream, part, credit: Arc::clone(&credit) };
                // The mailbox has room for every credit: it is full only if the shard is gone.
                if shard.try_send(rows).is_err() {
                    self.status.fail(EngineError::ActorGone("shard"));
                    return false;
                }
            }
        }
        true
    }
}
