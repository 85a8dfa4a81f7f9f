//! When windows close, and what each covers.
//!
//! In: ticks, and word that a window is stored. Out: window closes to the shards, and the end.
//! Invariant: one window is under way at a time; while the store is slow the dirty set grows and a
//! user is still computed once. Nothing here computes or writes.

mod commands;
mod swapping;
mod tables;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};
use tokio::sync::oneshot;

use super::job::{Chunk, Job, Users};
use super::route::Router;
use super::ruleset::Ruleset;
use super::slices::Turn;
use super::status::Status;
use super::swap::{Proposal, Swaps};
use super::{Clock, EngineError};
use crate::clock::Stopwatch;
use crate::dimension::Dimensions;
use crate::event::quarantine::Quarantine;
use crate::rule::AsOf;
use crate::shard::actor::{Close, WindowStored};
use crate::shard::{WindowClose, WindowStats, split_by_shard};
use crate::source::kafka::Lease;
use crate::store::Store;
use crate::write::actor::{Begin, Stored};
use crate::write::window::Assembly;

/// When a window closes.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// This long after the last one.
    pub close_ms: u64,
    /// Or at this many dirty users.
    pub users_max: usize,
    /// Due users recomputed in one window.
    pub due_users_max: usize,
}

/// Of another partition a record may arrive so much before the latest of all.
const ARRIVAL_SLACK_MS: i64 = 86_400_000;

/// How often the checkpoint looks around.
const TICK: Duration = Duration::from_millis(10);

/// Due users of one window, however little memory there is.
const DUE_USERS_MIN: usize = 256;

/// How often the store is asked whether a dimension table has a new epoch.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// What the checkpoint needs to do its work.
pub struct CheckpointParts {
    /// For due packs.
    pub store: Arc<dyn Store>,
    /// Pinned for each window.
    pub dimensions: Arc<Dimensions>,
    /// Stops and failures.
    pub status: Arc<Status>,
    /// The compiled catalogue.
    pub ruleset: Arc<Ruleset>,
    /// Users of changed dimension rows computed again, a second.
    pub changed_users_per_s_max: std::num::NonZeroU32,
    /// When windows close.
    pub limits: WindowLimits,
    /// `memory.resident_bytes_max`.
    pub resident_bytes_max: usize,
    /// Where as-of comes from, and the last one of the store.
    pub clock: Clock,
    /// The last as-of of the store.
    pub last_as_of_ms: Option<i64>,
    /// The number of the first window.
    pub first_window: u64,
    /// What to do when all sources have ended.
    pub jobs: VecDeque<Job>,
    /// Then move the clock here and drain again.
    pub then_as_of_ms: Option<i64>,
    /// Compute, but write nothing.
    pub dry: bool,
    /// Goes on until it is stopped, though all sources have ended.
    pub stay: bool,
    /// Sources do not end for a long time: jobs and due users get their windows meanwhile.
    pub live: bool,
    /// The right to write what partitions of topics hold; none: no topics are read.
    pub lease: Option<Lease>,
    /// Where other catalogues come from.
    pub swaps: Swaps,
    /// Users that another catalogue makes to be computed again, a second; none: no limit.
    pub recompute_users_per_s_max: Option<std::num::NonZeroU32>,
    /// Whose users it owns, of a store that processes share: commands to owners are carried out for them.
    pub partitions: Option<Vec<u32>>,
    /// Users to be tried again by other rules.
    pub quarantine: Arc<Quarantine>,
}

/// What an engine did, when it has ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// All windows' work.
    pub stats: WindowStats,
    /// The last as-of.
    pub as_of_ms: Option<i64>,
    /// Users resident at the last window.
    pub resident_users: u64,
    /// Memory of their states, codes and tables.
    pub resident_bytes: u64,
    /// The most it was at any window.
    pub resident_bytes_peak: u64,
    /// It was told to stop before it had done everything.
    pub is_interrupted: bool,
}

/// Closes windows.
pub struct CheckpointActor {
    parts: CheckpointParts,
    wire: Option<Wire>,
    window: u64,
    since_close: Stopwatch,
    since_refresh: Stopwatch,
    since_commands: Option<Stopwatch>,
    /// All commands up to this one are done for the partitions that are owned.
    commands_done: u64,
    under_way: bool,
    prepared: bool,
    /// Topics are written into stored tables since.
    followed: Option<Stopwatch>,
    swept: bool,
    chunk: Option<Chunk>,
    /// Work that needs no events rests for so long.
    rest: Option<(Stopwatch, Duration)>,
    /// A window has closed since due users were looked for.
    look_for_due: bool,
    /// Becomes active when the window under way is stored.
    proposal: Option<Proposal>,
    ended: Ended,
    done: Option<oneshot::Sender<Ended>>,
}

impl CheckpointActor {
    /// `done` gets word when all is done or the engine is stopping.
    pub fn new(parts: CheckpointParts, done: oneshot::Sender<Ended>) -> Self {
        let window = parts.first_window;
        let ended = Ended { as_of_ms: parts.last_as_of_ms, ..Ended::default() };
        Self {
            parts,
            wire: None,
            window,
            since_close: Stopwatch::start(),
            since_refresh: Stopwatch::start(),
            since_commands: None,
            commands_done: 0,
            under_way: false,
            prepared: false,
            followed: None,
            swept: false,
            chunk: None,
            rest: None,
            look_for_due: false,
            proposal: None,
            ended,
            done: Some(done),
        }
    }

    fn end(&mut self) {
        self.parts.dimensions.stop_following();
        if let Some(done) = self.done.take() {
            // The engine may have gone on without us after a failure: nobody is left to tell.
            drop(done.send(std::mem::take(&mut self.ended)));
        }
    }

    fn look(&mut self) {
        let Some(router) = self.wire.as_ref().map(|w| w.router.clone()) else { return };
        if self.done.is_none() {
            // The end was told: the others are stopping.
            return;
        }
        let status = Arc::clone(&self.parts.status);
        if status.failed() {
            self.end();
            return;
        }
        if self.under_way || status.preparing.load(Ordering::Acquire) {
            return;
        }
        self.follow_commands();
        if !self.prepared && !self.prepare_tables() {
            return;
        }
        // What is set aside was decoded for the catalogue that is active.
        if !router.slices().is_open()
            && let Some(proposal) = self.parts.swaps.take()
        {
            self.begin_swap(&router, proposal);
            return;
        }
        let turn = router.slices().turn(&status, router.is_full_of_rejects());
        if matches!(turn, Turn::Reading | Turn::RoundEnds) {
            if turn == Turn::RoundEnds
                && let Err(error) = self.end_round(&router)
            {
                status.fail(error);
            }
            return;
        }
        if self.is_reading(&router) {
            let limits = self.parts.limits;
            let time = self.since_close.elapsed().as_millis() >= u128::from(limits.close_ms);
            let wants_commit = self.parts.lease.as_ref().is_some_and(Lease::wants_commit);
            let full = status.dirty_users() >= limits.users_max || status.wants_window();
            let full = full || wants_commit || turn == Turn::RoundIsOver;
            if time || full || router.is_full_of_rejects() {
                self.look_for_due = true;
                self.close(&router, None);
            } else if self.parts.live
                && !self.is_resting()
                && let Err(error) = self.next_beside_sources(&router)
            {
                status.fail(error);
            }
        } else if !self.swept {
            self.swept = true;
            self.close(&router, None);
        } else if !self.is_resting()
            && let Err(error) = self.next_job(&router)
        {
            status.fail(error);
        }
    }

    /// Whether events are still to come.
    fn is_reading(&self, router: &Router) -> bool {
        self.parts.status.sources_open.load(Ordering::Acquire) > 0 || router.slices().is_open()
    }

    /// A window writes what was read for the first time, all but the events; these are folded from
    /// now on. When the engine is to stop, nothing was read.
    fn end_round(&mut self, router: &Router) -> Result<(), EngineError> {
        if self.parts.status.stopping() {
            router.slices().abandon(&mut router.intake());
            return Ok(());
        }
        if router.slices().is_new() {
            self.close(router, None);
        }
        router.slices().fold(router)
    }

    fn is_resting(&self) -> bool {
        self.rest.as_ref().is_some_and(|(since, pause)| since.elapsed() < *pause)
    }

    /// Closes a window for work that needs no events, while sources are read: due users first, then
    /// what another catalogue, other tables or a command made necessary.
    fn next_beside_sources(&mut self, router: &Router) -> Result<(), EngineError> {
        if self.look_for_due && self.parts.clock == Clock::Wall {
            let (store, as_of_ms) = (Arc::clone(&self.parts.store), self.as_of(None));
            match Job::Due.next(store.as_ref(), as_of_ms, self.due_users_max())? {
                Some(chunk) => {
                    self.parts.jobs.iter_mut().for_each(Job::forget_ahead);
                    self.close(router, Some(chunk));
                    return Ok(());
                }
                None => self.look_for_due = false,
            }
        }
        if self.parts.jobs.front().is_some_and(|job| !job.waits_for_sources()) {
            self.next_chunk(router)?;
        }
        Ok(())
    }

    /// Closes a window for the next chunk of the first job that has one. False: none has.
    fn next_chunk(&mut self, router: &Router) -> Result<bool, EngineError> {
        let as_of_ms = self.as_of(None);
        let due_users_max = self.due_users_max();
        while let Some(job) = self.parts.jobs.front_mut() {
            let store = self.parts.store.as_ref();
            match job.next(store, as_of_ms, due_users_max)? {
                Some(chunk) => {
                    self.close(router, Some(chunk));
                    let store = self.parts.store.as_ref();
                    self.parts.jobs.front_mut().map_or(Ok(()), |job| job.read_ahead(store))?;
                    return Ok(true);
                }
                None => {
                    self.parts.jobs.pop_front();
                }
            }
        }
        Ok(false)
    }

    /// Closes a window for the next chunk of work that needs no events, when sources have ended.
    fn next_job(&mut self, router: &Router) -> Result<(), EngineError> {
        if self.parts.status.stopping() {
            self.end();
            return Ok(());
        }
        if self.next_chunk(router)? {
            return Ok(());
        }
        if let Some(then_ms) = self.parts.then_as_of_ms.take() {
            self.parts.clock = Clock::Fixed(then_ms);
            self.parts.jobs.push_back(Job::Due);
            return Ok(());
        }
        if !self.parts.stay || self.parts.status.stopping() {
            self.end();
        } else if self.since_close.elapsed().as_millis() >= u128::from(self.parts.limits.close_ms) {
            self.swept = false;
            self.parts.jobs.push_back(Job::Due);
        }
        Ok(())
    }

    /// Due users of one window: as many as half of the memory has room for, as users are now.
    fn due_users_max(&self) -> usize {
        let mean = self.ended.resident_bytes.checked_div(self.ended.resident_users);
        let mean = mean.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        let room = (self.parts.resident_bytes_max / 2).checked_div(mean).unwrap_or(usize::MAX);
        self.parts.limits.due_users_max.min(room.max(DUE_USERS_MIN))
    }

    fn as_of(&self, greatest_ms: Option<i64>) -> Option<i64> {
        let now = match self.parts.clock {
            Clock::Wall => Some(crate::clock::wall_ms()),
            Clock::Fixed(instant_ms) => Some(instant_ms),
            Clock::Event => greatest_ms,
        };
        // Stored as-of never goes back.
        now.max(self.ended.as_of_ms)
    }

    fn close(&mut self, router: &Router, mut chunk: Option<Chunk>) {
        self.since_close = Stopwatch::start();
        // No batch is routed while the guard lives: the closes stand behind all that the cut covers,
        // and before all that it does not.
        if self.since_refresh.elapsed() >= REFRESH_EVERY {
            self.since_refresh = Stopwatch::start();
            self.follow_epochs();
        }
        let mut intake = router.intake();
        if chunk.is_none() && !intake.has_moved() && self.parts.status.dirty_users() == 0 {
            return;
        }
        if chunk.is_none() {
            // Events may change users that were read ahead, and these may leave memory before they
            // are worked on.
            self.parts.jobs.iter_mut().for_each(Job::forget_ahead);
        }
        let mut cut = intake.cut();
        self.parts.status.rejects_waiting.store(0, Ordering::Relaxed);
        let meta = router.slices().cover(&mut cut, &self.parts.quarantine);
        if !meta.is_empty() && !router.slices().is_open() {
            // The decoders of a round that went on know nothing of what came to be after it began.
            intake.outdate();
        }
        if let Err(error) = router.slices().begin(&intake, &self.parts.status) {
            self.parts.status.fail(error);
            return;
        }
        if let Some(as_of_ms) = self.as_of(cut.greatest_ms) {
            self.ended.as_of_ms = Some(as_of_ms);
        }
        // Without one event there is no instant yet; what was read (rejects) is stored all the same.
        let as_of_ms = self.ended.as_of_ms.unwrap_or(0);
        let closes = self.closes(router, as_of_ms, &cut, chunk.as_mut());
        self.send(router, cut, meta, chunk, closes);
    }

    fn closes(
        &self,
        router: &Router,
        as_of_ms: i64,
        cut: &super::intake::Cut,
        chunk: Option<&mut Chunk>,
    ) -> Vec<WindowClose> {
        let shards = router.shards().len();
        let catalog = &self.parts.ruleset.catalog;
        let dimensions = self.parts.dimensions.pin();
        let roll_up = self.roll_up(router, as_of_ms, cut);
        let side = chunk.as_ref().and_then(|c| c.side.clone());
        let also_cause = chunk.as_ref().map(|c| c.cause).unwrap_or_default();
        let Users { due, also, history } = chunk.map(Chunk::take_users).unwrap_or_default();
        let due = split_by_shard(catalog.uid, shards, due, |key| key);
        let also = split_by_shard(catalog.uid, shards, also, |stored| &stored.0);
        let history = split_by_shard(catalog.uid, shards, history, |stored| &stored.0);
        let close = |((due, also), history)| WindowClose {
            window: self.window,
            as_of_ms,
            as_of_day: catalog.zone.day_of(as_of_ms),
            due,
            also,
            also_cause,
            history,
            side: side.clone(),
            roll_up,
            fences: Arc::clone(&cut.fences),
            dimensions: dimensions.clone(),
        };
        due.into_iter().zip(also).zip(history).map(close).collect()
    }

    /// The instant by which old days roll up. Rows of topics have an arrival time: nothing that may
    /// still come in time finds its day gone. Rows of files have none: they are read to their end.
    fn roll_up(&self, router: &Router, as_of_ms: i64, cut: &super::intake::Cut) -> Option<AsOf> {
        let arrived_ms = cut.totals.greatest_arrival_ms;
        let until_ms = match self.parts.lease.is_some() {
            true => arrived_ms.map(|ms| as_of_ms.min(ms.saturating_add(ARRIVAL_SLACK_MS))),
            false if self.is_reading(router) => None,
            false => Some(as_of_ms),
        };
        until_ms.map(|ms| AsOf { ms, day: self.parts.ruleset.catalog.zone.day_of(ms) })
    }

    fn send(
        &mut self,
        router: &Router,
        mut cut: super::intake::Cut,
        meta: Vec<(String, Vec<u8>)>,
        chunk: Option<Chunk>,
        closes: Vec<WindowClose>,
    ) {
        cut.totals.windows = self.window;
        let mut assembly = Assembly::new(self.window, self.ended.as_of_ms, cut, closes.len());
        (assembly.dry, assembly.meta) = (self.parts.dry, meta);
        if let Some(chunk) = &chunk {
            assembly.due_done.clone_from(&chunk.due_done);
            assembly.meta.extend_from_slice(&chunk.meta);
        }
        self.chunk = chunk;
        self.under_way = true;
        self.window += 1;
        let begun = self.wire.as_ref().is_some_and(|w| {
            let ruleset = Arc::clone(&self.parts.ruleset);
            w.writer.try_send(Begin(assembly, ruleset)).is_ok()
        });
        if !begun {
            self.parts.status.fail(EngineError::ActorGone("writer"));
            return;
        }
        for (shard, close) in router.shards().iter().zip(closes) {
            if shard.try_send(Close(close)).is_err() {
                self.parts.status.fail(EngineError::ActorGone("shard"));
            }
        }
    }

    /// Users of the window may leave now: before the next one closes.
    fn tell_shards(&self) {
        let shards = self.wire.iter().flat_map(|w| w.router.shards());
        if shards.map(|shard| shard.try_send(WindowStored)).any(|sent| sent.is_err()) {
            self.parts.status.fail(EngineError::ActorGone("shard"));
        }
    }

    fn watch(&self) {
        if self.done.is_none() {
            // All is done, and the shards are being stopped: that they are gone is no failure.
            return;
        }
        let gone = |w: &Wire| w.router.shards().iter().any(|s| !s.connected());
        if self.wire.as_ref().is_some_and(gone) {
            self.parts.status.fail(EngineError::ActorGone("shard"));
        }
    }
}

impl Actor for CheckpointActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |actor, _| {
            actor.parts.status.looks.fetch_add(1, Ordering::Relaxed);
            actor.watch();
            actor.look();
        });
    }
}

/// Tells the checkpoint whom it works with: they are started with its address, so they come later.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Wire {
    /// Gives cuts, and reaches the shards.
    pub router: Router,
    /// Writes windows.
    pub writer: Recipient<Begin>,
}

impl Handler<Wire> for CheckpointActor {
    type Result = ();

    fn handle(&mut self, wire: Wire, _: &mut Self::Context) {
        self.wire = Some(wire);
    }
}

impl Handler<Stored> for CheckpointActor {
    type Result = ();

    fn handle(&mut self, stored: Stored, _: &mut Self::Context) {
        self.under_way = false;
        self.tell_shards();
        let lag = self.since_close.elapsed();
        crate::telemetry::facts::window_stored(lag);
        let (window, users) = (stored.window, stored.stats.dirty_users + stored.stats.due_users);
        tracing::debug!(
            window,
            users,
            lag_ms = lag.as_secs_f64() * 1000.0,
            resident_users = stored.stats.resident_users,
            resident_bytes = stored.stats.resident_bytes,
            packed_bytes = stored.stats.packed_bytes,
            activated_users = stored.stats.activated_users,
            passivated_users = stored.stats.passivated_users,
            "window stored"
        );
        self.ended.stats.add(&stored.stats);
        let ended = &mut self.ended;
        ended.resident_users = stored.stats.resident_users;
        ended.resident_bytes = stored.stats.resident_bytes;
        ended.resident_bytes_peak = ended.resident_bytes_peak.max(ended.resident_bytes);
        let pause = match (self.chunk.take(), self.parts.jobs.front_mut()) {
            (Some(chunk), Some(job)) => job.pause_after(&chunk),
            _ => Duration::ZERO,
        };
        // Rate limit: the next chunk waits, windows with events do not.
        self.rest = (!pause.is_zero()).then(|| (Stopwatch::start(), pause));
        if let Some(proposal) = self.proposal.take()
            && let Err(error) = self.finish_swap(proposal)
        {
            self.parts.status.fail(error);
            return;
        }
        self.look();
    }
}
