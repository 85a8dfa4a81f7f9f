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
use super::ruleset::Ruleset;
use super::status::Status;
use crate::event::Decoded;
use crate::shard::actor::{Rows, ShardActor};
use crate::shard::fence::At;
use crate::source::position::Position;
use crate::telemetry::facts::BatchReceived;

/// Hands batches to shards.
#[derive(Clone)]
pub struct Router {
    intake: Arc<Mutex<Intake>>,
    shards: Vec<Addr<ShardActor>>,
    credits: Credits,
    status: Arc<Status>,
    rejects_waiting_max: usize,
    ruleset: Arc<Mutex<Arc<Ruleset>>>,
}

/// Where a batch was read.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// The names under which its position is kept.
    pub names: &'a [String],
    /// The position behind it; none: it cannot be read again.
    pub position: Option<Position>,
    /// Where, as fences name it.
    pub at: Option<At>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// It is with the shards.
    Done,
    /// Another catalogue is active than the one it was decoded for: it has to be decoded again.
    Stale,
    /// The engine is stopping.
    Stopping,
}

impl Router {
    /// `rejects_waiting_max`: rejects kept in memory between two windows; beyond it sources wait.
    pub fn new(
        intake: Intake,
        shards: Vec<Addr<ShardActor>>,
        credits: Credits,
        status: Arc<Status>,
        rejects_waiting_max: usize,
        ruleset: Arc<Ruleset>,
    ) -> Self {
        let intake = Arc::new(Mutex::new(intake));
        let ruleset = Arc::new(Mutex::new(ruleset));
        Self { intake, shards, credits, status, rejects_waiting_max, ruleset }
    }

    /// The active ruleset, and how many became active before it.
    pub fn ruleset(&self) -> (Arc<Ruleset>, u64) {
        let intake = self.intake();
        let ruleset = self.ruleset.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&ruleset), intake.swaps())
    }

    /// Another ruleset is active: batches decoded for it may come.
    pub fn swap(&self, ruleset: Arc<Ruleset>) {
        let mut intake = self.intake();
        intake.swapped(ruleset.catalog.streams.iter().map(|s| s.name.clone()).collect());
        *self.ruleset.lock().unwrap_or_else(PoisonError::into_inner) = ruleset;
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

    /// Routes a batch that was decoded for the catalogue that became active after `swaps` others;
    /// waits while too much is under way.
    pub fn route(&self, read: Read<'_>, decoded: Decoded, swaps: u64) -> Routed {
        const PATIENCE: Duration = Duration::from_millis(100);
        const HELD: Duration = Duration::from_millis(2);
        let (credit, mut intake) = loop {
            if self.status.stopping() {
                return Routed::Stopping;
            }
            if self.is_full_of_rejects() {
                // No condition to wait on: the next cut empties it, within a window's time.
                std::thread::park_timeout(PATIENCE);
                continue;
            }
            let Some(credit) = self.credits.take(PATIENCE) else { continue };
            let intake = self.intake();
            if !intake.is_held() {
                break (credit, intake);
            }
            // For as long as a window takes to be stored, now and then.
            drop((intake, credit));
            std::thread::park_timeout(HELD);
        };
        if intake.swaps() != swaps {
            return Routed::Stale;
        }
        let ruleset = Arc::clone(&self.ruleset.lock().unwrap_or_else(PoisonError::into_inner));
        BatchReceived { catalog: &ruleset.catalog, decoded: &decoded }.tell();
        intake.note_fresh(&decoded, crate::clock::wall_ms());
        self.status.rows.fetch_add(decoded.rows, Ordering::Relaxed);
        self.status.rejected_rows.fetch_add(decoded.rejected_rows, Ordering::Relaxed);
        let at = read.at;
        if let (Some(at), Some(position)) = (at, read.position) {
            intake.note_offset(at, position.offset);
        }
        let parts = intake.absorb(read.names, read.position, decoded);
        self.status.rejects_waiting.store(intake.rejects_waiting(), Ordering::Relaxed);
        for (stream, parts) in parts {
            for (shard, part) in self.shards.iter().zip(parts) {
                if part.hashes.is_empty() {
                    continue;
                }
                self.status.events.fetch_add(part.hashes.len() as u64, Ordering::Relaxed);
                let rows = Rows { stream, part, at, credit: Arc::clone(&credit) };
                // The mailbox has room for every credit: it is full only if the shard is gone.
                if shard.try_send(rows).is_err() {
                    self.status.fail(EngineError::ActorGone("shard"));
                    return Routed::Stopping;
                }
            }
        }
        Routed::Done
    }
}
