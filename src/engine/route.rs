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
use super::credits::{Credit, Credits};
use super::intake::Intake;
use super::ruleset::Ruleset;
use super::slices::{Slices, Way};
use super::spill::Piece;
use super::status::Status;
use crate::event::Decoded;
use crate::event::block::ShardRows;
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
    slices: Arc<Slices>,
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

/// How long a batch waits before it looks whether it may go on.
const PATIENCE: Duration = Duration::from_millis(100);

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
        slices: Arc<Slices>,
    ) -> Self {
        let intake = Arc::new(Mutex::new(intake));
        let ruleset = Arc::new(Mutex::new(ruleset));
        Self { intake, shards, credits, status, rejects_waiting_max, ruleset, slices }
    }

    /// Rounds in which events are folded by slices of users.
    pub(super) fn slices(&self) -> &Slices {
        &self.slices
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
        const HELD: Duration = Duration::from_millis(2);
        let (credit, mut intake, way) = loop {
            if self.status.stopping() {
                return Routed::Stopping;
            }
            if self.is_full_of_rejects() || self.slices.way(read.names, read.position) == Way::Later
            {
                // No condition to wait on: windows empty it, and end a round.
                std::thread::park_timeout(PATIENCE);
                continue;
            }
            let Some(credit) = self.credits.take(PATIENCE) else { continue };
            let intake = self.intake();
            let way = self.slices.way(read.names, read.position);
            if !intake.is_held() && way != Way::Later {
                break (credit, intake, way);
            }
            // For as long as a window takes to be stored, now and then.
            drop((intake, credit));
            std::thread::park_timeout(HELD);
        };
        if self.status.stopping() {
            // What is set aside is left behind then: nothing that follows it may be taken in.
            return Routed::Stopping;
        }
        if intake.swaps() != swaps {
            return Routed::Stale;
        }
        if way == Way::Again {
            let parts = intake.absorb_again(decoded);
            return self.set_aside(read, &parts);
        }
        let ruleset = Arc::clone(&self.ruleset.lock().unwrap_or_else(PoisonError::into_inner));
        BatchReceived { catalog: &ruleset.catalog, decoded: &decoded }.tell();
        intake.note_fresh(&decoded, crate::clock::wall_ms());
        self.status.rows.fetch_add(decoded.rows, Ordering::Relaxed);
        self.status.rejected_rows.fetch_add(decoded.rejected_rows, Ordering::Relaxed);
        if let (Some(at), Some(position)) = (read.at, read.position) {
            intake.note_offset(at, position.offset);
        }
        let parts = intake.absorb(read.names, read.position, decoded);
        self.status.rejects_waiting.store(intake.rejects_waiting(), Ordering::Relaxed);
        let events = parts.iter().flat_map(|(_, shards)| shards).map(|part| part.hashes.len());
        self.status.events.fetch_add(events.sum::<usize>() as u64, Ordering::Relaxed);
        match way {
            Way::Aside => self.set_aside(read, &parts),
            _ if self.hand_out(parts, read.at, &credit) => Routed::Done,
            _ => Routed::Stopping,
        }
    }

    /// Sends rows to their shards; false: one is gone.
    fn hand_out(
        &self,
        parts: Vec<(u8, Vec<ShardRows>)>,
        at: Option<At>,
        credit: &Arc<Credit>,
    ) -> bool {
        for (stream, parts) in parts {
            for (shard, part) in self.shards.iter().zip(parts) {
                if part.hashes.is_empty() {
                    continue;
                }
                let rows = Rows { stream, part, at, credit: Arc::clone(credit) };
                // The mailbox has room for every credit: it is full only if the shard is gone.
                if shard.try_send(rows).is_err() {
                    self.status.fail(EngineError::ActorGone("shard"));
                    return false;
                }
            }
        }
        true
    }

    fn set_aside(&self, read: Read<'_>, parts: &[(u8, Vec<ShardRows>)]) -> Routed {
        match self.slices.set_aside(read.names, read.position, parts, &self.status) {
            Ok(()) => Routed::Done,
            Err(error) => {
                self.status.fail(error);
                Routed::Stopping
            }
        }
    }

    /// Hands rows of a slice to the shards; waits while too much is under way. False: the engine is
    /// stopping.
    pub(super) fn fold(&self, piece: Piece) -> bool {
        let credit = loop {
            if self.status.stopping() {
                return false;
            }
            if let Some(credit) = self.credits.take(PATIENCE) {
                break credit;
            }
        };
        // A window's cut falls before all of it or behind.
        let mut intake = self.intake();
        intake.touch();
        self.slices.passed(&piece.ends);
        // A store that takes slices writes windows as a whole, and needs no fences.
        self.hand_out(piece.parts, None, &credit)
    }

    /// So many slices have been handed to the shards.
    pub(super) fn folded(&self, slices: usize) {
        self.intake().touch();
        self.slices.passed_slices(slices);
        self.status.slices_folded.store(slices, Ordering::Relaxed);
    }
}
