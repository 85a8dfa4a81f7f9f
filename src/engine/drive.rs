//! One engine's actors and threads, from their start to their end.
//!
//! In: parts that are ready, flows of events. Out: what the checkpoint says at the end.
//! Invariant: whatever fails, everything that was started is stopped and waited for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Arbiter, System};
use tokio::sync::oneshot;

use super::checkpoint::{CheckpointActor, CheckpointParts, Ended, Wire};
use super::credits::Credits;
use super::feed::{Flow, Latest, start_source};
use super::intake::{FoldTotals, Intake};
use super::job::Job;
use super::options::{Options, Reads};
use super::report::{Observed, SourceProgress};
use super::route::Router;
use super::signals::stop_signals;
use super::slices::{Round, Settings, Slices};
use super::status::Status;
use super::swap::Swaps;
use super::{Clock, EngineError};
use crate::catalog::model::UidType;
use crate::clock::Stopwatch;
use crate::dimension::Dimensions;
use crate::shard::actor::{PackEverybody, ShardActor};
use crate::shard::{Shard, Shared};
use crate::source::kafka::Lease;
use crate::write::actor::WriterActor;

/// How long the last window may take when the engine stops.
const STOP_MAX: Duration = Duration::from_secs(25);

/// How often progress is shown.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);

/// What an engine is made of.
pub(super) struct Parts<'a> {
    pub(super) options: &'a Options,
    pub(super) shared: Shared,
    pub(super) status: Arc<Status>,
    pub(super) dimensions: Arc<Dimensions>,
    pub(super) intake: Intake,
    /// What another process has begun.
    pub(super) round: Option<Round>,
    pub(super) lease: Option<Lease>,
    /// Whose users it owns, of a store that processes share.
    pub(super) partitions: Option<Vec<u32>>,
    pub(super) folds: FoldTotals,
    pub(super) first_window: u64,
    pub(super) last_as_of_ms: Option<i64>,
    pub(super) jobs: VecDeque<Job>,
}

impl Parts<'_> {
    /// Starts all actors and source threads and waits for the end.
    pub(super) fn drive(
        self,
        flows: Vec<Flow>,
        progress: &[SourceProgress],
        observe: &mut dyn FnMut(&Observed<'_>),
    ) -> Result<(Ended, Router), EngineError> {
        let (status, swaps) = (Arc::clone(&self.status), self.options.swaps.clone());
        let lease = self.lease.clone();
        let max_ahead_ms = self.options.ruleset.catalog.max_ahead_ms;
        let of_round = self.round.as_ref().map(|round| round.latest_ms);
        let latest = Latest { clock: self.options.clock, max_ahead_ms, of_round };
        let packs_at_the_end = self.shared.packs_late && self.options.reads == Reads::AtTheEnd;
        let system = System::new();
        let result = system.block_on(async {
            let (done, ended) = oneshot::channel();
            let slices = self.slices(latest, &flows)?;
            let (router, arbiters) = self.start_actors(slices, done);
            let mut threads = Vec::new();
            for flow in flows {
                threads.extend(start_source(flow, router.clone(), latest)?);
            }
            let mut ended = wait(ended, &status, (&swaps, lease.as_ref()), progress, observe).await;
            ended.is_interrupted = status.stopping();
            status.stop();
            for thread in threads {
                // A source that panicked has been reported through `status`.
                drop(thread.join());
            }
            router.slices().join();
            if packs_at_the_end && !status.failed() {
                ended.stats.packed_bytes += pack_everybody(&router).await;
            }
            // What could not be stored in time is not waited for when the process ends.
            let ends = status.failed() && stop_signals().load(Ordering::Relaxed);
            for arbiter in arbiters {
                arbiter.stop();
                if !ends {
                    // A shard that panicked has been reported by the checkpoint's watch.
                    drop(arbiter.join());
                }
            }
            Ok::<_, EngineError>((ended, router))
        });
        if let Some(error) = status.take_failure() {
            return Err(error);
        }
        result
    }

    /// Rounds by slices of users: where all sources end, and can be read again.
    fn slices(&self, latest: Latest, flows: &[Flow]) -> Result<Slices, EngineError> {
        let options = self.options;
        let ends = options.topics.is_none() && flows.iter().all(Flow::is_replayable);
        let apart = options.live || options.stay || options.dry || options.clock == Clock::Wall;
        // The end of a round moves all positions and its record at once.
        let possible = ends && !apart && options.store.is_atomic();
        let settings = Settings {
            limits: options.slices.clone().filter(|_| possible),
            version: options.ruleset.version,
            read: options.read,
            latest_ms: Latest { of_round: None, ..latest }.ms(),
            shards: options.shards,
            is_text: options.ruleset.catalog.uid == UidType::String,
            resident_bytes_max: options.resident_bytes_max,
            layout: Arc::clone(&options.ruleset.layout),
        };
        Slices::new(settings, self.round.clone(), &self.intake)
    }

    fn start_actors(self, slices: Slices, done: oneshot::Sender<Ended>) -> (Router, Vec<Arbiter>) {
        let options = self.options;
        let batches_max = options.batches_max();
        let credits = Credits::new(batches_max);
        // Of one engine there is one status: nobody was before us.
        self.status.credits.get_or_init(|| credits.clone());
        let mailbox = batches_max * self.shared.ruleset.catalog.streams.len() + 16;
        let mut arbiters = vec![Arbiter::new()];
        let writer_arbiter = arbiters[0].handle();
        let checkpoint_arbiter = Arbiter::new();
        let parts = CheckpointParts {
            store: Arc::clone(&options.store),
            dimensions: self.dimensions,
            status: Arc::clone(&self.status),
            ruleset: Arc::clone(&options.ruleset),
            changed_users_per_s_max: options.changed_users_per_s_max,
            limits: options.limits,
            resident_bytes_max: options.resident_bytes_max,
            clock: options.clock,
            last_as_of_ms: self.last_as_of_ms,
            first_window: self.first_window,
            jobs: self.jobs,
            then_as_of_ms: options.then_as_of_ms,
            dry: options.dry,
            stay: options.stay,
            live: options.live,
            lease: self.lease.clone(),
            partitions: self.partitions,
            swaps: options.swaps.clone(),
            recompute_users_per_s_max: options.recompute_users_per_s_max,
            quarantine: Arc::clone(&self.shared.quarantine),
        };
        let checkpoint = CheckpointActor::start_in_arbiter(&checkpoint_arbiter.handle(), |_| {
            CheckpointActor::new(parts, done)
        });
        let (store, status) = (Arc::clone(&options.store), Arc::clone(&self.status));
        let (stored, folds, lease) = (checkpoint.clone().recipient(), self.folds, self.lease);
        let publish = options.publish.clone();
        let writer = WriterActor::start_in_arbiter(&writer_arbiter, move |_| {
            WriterActor::new(store, stored, status, folds, lease, publish)
        });
        let shards: Vec<_> = (0..options.shards)
            .map(|index| {
                let arbiter = Arbiter::new();
                let handle = arbiter.handle();
                arbiters.push(arbiter);
                let shared = self.shared.clone();
                let (part, status) = (writer.clone().recipient(), Arc::clone(&self.status));
                ShardActor::start_in_arbiter(&handle, move |_| {
                    let number = u16::try_from(index).unwrap_or(u16::MAX);
                    ShardActor::new(index, Shard::new(number, shared), part, status, mailbox)
                })
            })
            .collect();
        let rejects_max = options.rejects_waiting_max;
        let ruleset = Arc::clone(&options.ruleset);
        let (intake, status, slices) = (self.intake, self.status, Arc::new(slices));
        let router = Router::new(intake, shards, credits, status, rejects_max, ruleset, slices);
        let wire = Wire { router: router.clone(), writer: writer.recipient() };
        if checkpoint.try_send(wire).is_err() {
            router.status().fail(EngineError::ActorGone("checkpoint"));
        }
        arbiters.push(checkpoint_arbiter);
        (router, arbiters)
    }
}

/// Has all profiles stored that are not yet. Gives their bytes.
async fn pack_everybody(router: &Router) -> u64 {
    // Side by side: a message is on its way before it is waited for.
    let sent: Vec<_> = router.shards().iter().map(|shard| shard.send(PackEverybody)).collect();
    let mut bytes = 0;
    for packed in sent {
        match packed.await {
            Ok(packed) => bytes += packed,
            Err(_) => router.status().fail(EngineError::ActorGone("shard")),
        }
    }
    bytes
}

/// Waits for the checkpoint's word, showing progress; a signal asks it to finish early.
async fn wait(
    mut ended: oneshot::Receiver<Ended>,
    status: &Arc<Status>,
    (swaps, lease): (&Swaps, Option<&Lease>),
    progress: &[SourceProgress],
    observe: &mut dyn FnMut(&Observed<'_>),
) -> Ended {
    let mut ticks = tokio::time::interval(OBSERVE_EVERY);
    let stop = stop_signals();
    let mut stopping = None;
    loop {
        tokio::select! {
            // An engine that failed drops its end without word.
            done = &mut ended => {
                observe(&Observed { status, sources: progress });
                return done.unwrap_or_default();
            }
            _ = ticks.tick() => {
                observe(&Observed { status, sources: progress });
                if stop.load(Ordering::Relaxed) && !status.stopping() {
                    tracing::info!("stopping: sources end, what was read is stored");
                    status.stop();
                }
                if !status.stopping() && let Some(why) = swaps.blocked() {
                    tracing::warn!("stopping at a window's end: {why}");
                    status.stop();
                }
                if status.stopping() && !status.failed() {
                    let since = stopping.get_or_insert_with(Stopwatch::start);
                    if since.elapsed() >= STOP_MAX {
                        let (seconds, commits) = (STOP_MAX.as_secs(), Lease::is_committing);
                        status.fail(match lease.is_some_and(commits) {
                            true => EngineError::NotCommitted { seconds },
                            false => EngineError::NotStored { seconds },
                        });
                    }
                }
            }
        }
    }
}
