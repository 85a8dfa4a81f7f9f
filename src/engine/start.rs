//! Starting an engine, and starting it again.
//!
//! In: options. Out: what it did. Invariant: an engine begins with what is stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::drive::Parts;
use super::feed::Flow;
use super::intake::{FoldTotals, Intake, Totals};
use super::job::{Job, Limit};
use super::open::open_sources;
use super::options::Options;
use super::publish;
use super::report::{Observed, Report, SourceProgress, report};
use super::slices::Round;
use super::status::Status;
use super::topics::Around;
use super::{Clock, EngineError};
use crate::dimension::Dimensions;
use crate::event::quarantine::Quarantine;
use crate::shard::Shared;
use crate::shard::fence::Replay;
use crate::source::kafka::Assignment;
use crate::store::Store;
use crate::user::texts::Texts;
use crate::write::profile::Schemas;
use crate::write::window::{AS_OF_KEY, FOLDS_KEY, TOTALS_KEY};

/// How often a dead shard is started again before the engine gives up.
pub(super) const RESTARTS_MAX: u32 = 3;

/// What other owners may have read before this engine.
fn replay(options: &Options, assignment: Option<&Assignment>) -> Result<Replay, EngineError> {
    let store = options.store.as_ref();
    if store.is_atomic() {
        return Ok(Replay::default());
    }
    let mut replay = match (&options.topics, assignment) {
        (Some(topics), Some(assignment)) => topics.replay(assignment),
        _ => Replay::default(),
    };
    replay.forgotten = super::history::merged_before(store)?;
    Ok(replay)
}

/// Reads a small JSON value of the store.
pub(super) fn read_meta<T: serde::de::DeserializeOwned + Default>(
    store: &dyn Store,
    key: &str,
) -> Result<T, EngineError> {
    let Some(bytes) = store.meta(key)? else { return Ok(T::default()) };
    serde_json::from_slice(&bytes)
        .map_err(|e| EngineError::Meta { key: key.to_owned(), reason: e.to_string() })
}

/// The last as-of of a store; none before the first event.
pub fn stored_as_of(store: &dyn Store) -> Result<Option<i64>, EngineError> {
    read_meta(store, AS_OF_KEY)
}

/// Runs an engine to its end. `observe` is called several times a second.
pub fn run(
    mut options: Options,
    observe: &mut dyn FnMut(&Observed<'_>),
) -> Result<Report, EngineError> {
    let stored = stored_as_of(options.store.as_ref())?;
    if let (Clock::Fixed(wanted), Some(stored)) = (options.clock, stored)
        && wanted < stored
    {
        let show = crate::clock::show_instant;
        return Err(EngineError::AsOfBack { wanted: show(wanted), stored: show(stored) });
    }
    if !options.dry {
        options.ruleset.save_schema(options.store.as_ref())?;
    }
    if let Some(topics) = options.topics.clone() {
        return super::assignments::run_assignments(&mut options, &topics, observe);
    }
    first_jobs(&mut options)?;
    let mut restarts = 0;
    loop {
        let jobs = std::mem::take(&mut options.jobs);
        // A job that was under way is not known to be done: its command says so and is run again.
        let repeatable = jobs.iter().all(Job::is_found_again) && !options.packs_late();
        match attempt(&options, None, jobs, observe) {
            Err(EngineError::ActorGone(what)) if repeatable && restarts < RESTARTS_MAX => {
                restarts += 1;
                tracing::error!(what, restarts, "an actor died; reloading from the store");
                begin_again(&mut options)?;
            }
            other => return other,
        }
    }
}

/// Work that other tables and another catalogue have made necessary.
pub(super) fn first_jobs(options: &mut Options) -> Result<(), EngineError> {
    if options.dry {
        return Ok(());
    }
    let users_per_s = options.changed_users_per_s_max;
    let changed = super::reload::jobs(options.store.as_ref(), &options.ruleset, users_per_s, None)?;
    for job in changed.into_iter().rev() {
        options.jobs.push_front(job);
    }
    background_jobs(options)
}

/// Another start over the same store.
fn begin_again(options: &mut Options) -> Result<(), EngineError> {
    follow_swaps(options);
    first_jobs(options)?;
    options.jobs.push_back(Job::Due);
    Ok(())
}

/// What has to be done beside reading sources: everybody is computed by the rules of a catalogue that
/// has become active, and gets a history that is not merged yet.
fn background_jobs(options: &mut Options) -> Result<(), EngineError> {
    recompute_if_new(options)?;
    if let Some(job) = super::history::resume(options.store.as_ref(), &options.ruleset)? {
        options.jobs.push_front(job);
    }
    Ok(())
}

fn recompute_if_new(options: &mut Options) -> Result<(), EngineError> {
    let (store, ruleset) = (options.store.as_ref(), &options.ruleset);
    if ruleset.version == 0 || super::version::is_recomputed(store, ruleset.version)? {
        return Ok(());
    }
    if !store.has_profiles()? {
        let (key, value) = super::version::recomputed(ruleset.version);
        options.store.put_meta(&key, value)?;
        return Ok(());
    }
    let limit = options.recompute_users_per_s_max.filter(|_| options.live).map(Limit::new);
    let recompute = Job::recompute(store, ruleset, limit, None)?;
    match options.jobs.iter_mut().find(|job| job.is_whole_backfill()) {
        // It computes everybody by these rules, once.
        Some(backfill) => backfill.stands_for(recompute),
        None => options.jobs.push_front(recompute),
    }
    Ok(())
}

/// Another start goes on with the catalogue that has become active meanwhile.
pub(super) fn follow_swaps(options: &mut Options) {
    let Some(active) = options.swaps.active() else { return };
    let before = std::mem::replace(&mut options.ruleset, active.ruleset);
    let streams = &options.ruleset.catalog.streams;
    let now = |at: &usize| {
        let name = &before.catalog.streams[*at].name;
        streams.iter().position(|s| s.name == *name)
    };
    for source in &mut options.sources {
        source.streams = source.streams.iter().filter_map(now).collect();
    }
}

/// Runs one engine to its end.
pub(super) fn attempt(
    options: &Options,
    assignment: Option<&Assignment>,
    jobs: VecDeque<Job>,
    observe: &mut dyn FnMut(&Observed<'_>),
) -> Result<Report, EngineError> {
    let store = options.store.as_ref();
    let catalog = &options.ruleset.catalog;
    let status = Arc::new(Status::new(options.shards));
    let watched = Arc::downgrade(&status);
    // An engine that has failed, or is gone, waits for nothing.
    options.patience.while_holds(move || watched.upgrade().is_some_and(|s| !s.failed()));
    let (shared, first_window) = publish::begin(options, assignment, &status)?;
    let quarantine = Arc::clone(&shared.quarantine);
    let now: crate::dimension::Now = Arc::new(crate::clock::wall_ms);
    let lookups = &options.lookups;
    let dimensions = Dimensions::open(catalog, Arc::clone(&options.store), now, lookups)?;
    let dimensions = Arc::new(dimensions);
    let round = Round::pending(options)?;
    for hash in round.iter().flat_map(|round| &round.quarantined) {
        quarantine.add(*hash);
    }
    let sources = open_sources(options, round.as_ref(), &shared.texts, &quarantine)?;
    let totals: Totals = read_meta(store, TOTALS_KEY)?;
    let folds: FoldTotals = read_meta(store, FOLDS_KEY)?;
    let progress: Vec<SourceProgress> =
        sources.iter().map(|(s, _)| SourceProgress::of(s)).collect();
    let mut flows: Vec<Flow> =
        sources.into_iter().map(|(s, others)| Flow::of_file(s.into_parts(), others)).collect();
    let mut lease = None;
    if let (Some(topics), Some(assignment)) = (&options.topics, assignment) {
        let (ruleset, texts, shards) = (&options.ruleset, &shared.texts, options.shards);
        let (quarantine, status) = (&quarantine, &status);
        let around = Around { ruleset, texts, quarantine, status, shards };
        if options.errand.is_none() {
            flows.push(topics.flow(assignment, &around)?);
        }
        lease = Some(topics.group.lease(assignment));
    }
    options.swaps.set_recipes(flows.iter().flat_map(Flow::recipes).cloned().collect());
    status.sources_open.store(flows.len(), Ordering::Release);
    let names = catalog.streams.iter().map(|s| s.name.clone()).collect();
    let publishes_rejects = options.publish.rejects.is_some();
    let mut intake = Intake::new(names, totals).with_whole_rejects(publishes_rejects);
    if !store.is_atomic() {
        intake = intake.with_fences(shared.replay.starts.clone());
    }
    let parts = Parts {
        options,
        shared,
        status: Arc::clone(&status),
        dimensions: Arc::clone(&dimensions),
        intake,
        round,
        lease,
        partitions: assignment.filter(|_| !store.is_atomic()).map(|a| a.partitions.clone()),
        folds,
        first_window,
        last_as_of_ms: first_as_of(options)?,
        jobs,
    };
    let preparing = options.prepare.start(&status)?;
    let driven = parts.drive(flows, &progress, observe);
    // A panic of it has been told through the status.
    drop(preparing.map(JoinHandle::join));
    dimensions.stop_following();
    let (ended, router) = driven?;
    publish::settle(options, assignment, first_window + status.windows.load(Ordering::Relaxed));
    let stray_future = router.intake().stray_future().filter(|_| options.clock == Clock::Event);
    let (missing_tables, quarantined) = (dimensions.missing_tables(), quarantine.len());
    report(store, &status, ended, stray_future, missing_tables, quarantined)
}

/// What all shards use.
pub(super) fn shared(
    options: &Options,
    assignment: Option<&Assignment>,
) -> Result<Shared, EngineError> {
    Ok(Shared {
        ruleset: Arc::clone(&options.ruleset),
        texts: Arc::new(Texts::default()),
        store: Arc::clone(&options.store),
        schemas: Arc::new(Schemas::default()),
        quarantine: Arc::new(Quarantine::default()),
        store_had_profiles: options.store.has_profiles()?,
        state_bytes_max: options.state_bytes_max,
        resident_bytes_max: options.resident_bytes_max / options.shards,
        batch_users_max: options.batch_users_max,
        replay: Arc::new(replay(options, assignment)?),
        publishing: None,
        packs_late: options.packs_late(),
    })
}

/// The last as-of. By the clock of events, those of a history that is being merged count.
fn first_as_of(options: &Options) -> Result<Option<i64>, EngineError> {
    let store = options.store.as_ref();
    let stored = stored_as_of(store)?;
    if options.clock != Clock::Event {
        return Ok(stored);
    }
    let history = super::version::active(store)?.and_then(|v| v.history);
    Ok(stored.max(history.and_then(|h| h.as_of_ms)))
}
