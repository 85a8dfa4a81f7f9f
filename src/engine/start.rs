//! Starting and stopping an engine.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::{Actor, Arbiter, System};
use tokio::sync::oneshot;

use super::checkpoint::{CheckpointActor, CheckpointParts, Ended, WindowLimits, Wire};
use super::credits::Credits;
use super::feed::{Flow, Latest, decoders, start_source};
use super::intake::{FoldTotals, Intake, Totals};
use super::job::{Job, Limit};
use super::owned::OwnedStore;
use super::publish;
use super::route::Router;
use super::ruleset::Ruleset;
use super::slices::{Round, Settings, SliceLimits, Slices};
use super::status::Status;
use super::swap::Swaps;
use super::topics::{Around, Topics};
use super::{Clock, EngineError};
use crate::catalog::model::UidType;
use crate::clock::{Day, Stopwatch};
use crate::dimension::{Dimensions, Lookups};
use crate::event::Decoder;
use crate::event::quarantine::Quarantine;
use crate::shard::actor::ShardActor;
use crate::shard::fence::Replay;
use crate::shard::{Shard, Shared, WindowStats};
use crate::source::file::{FileSource, FileSpec, ReadLimits, SourceError};
use crate::source::kafka::{Assignment, KafkaError, Lease};
use crate::source::position::{Position, meta_key, source_name};
use crate::store::patient::Patience;
use crate::store::{Ownership, Store, Term};
use crate::user::texts::Texts;
use crate::write::actor::WriterActor;
use crate::write::profile::{Schemas, schema_key};
use crate::write::publish::{Publish, PublishError};
use crate::write::window::{AS_OF_KEY, FOLDS_KEY, TOTALS_KEY};

/// How often a dead shard is started again before the engine gives up.
const RESTARTS_MAX: u32 = 3;

/// How long the last window may take when the engine stops.
const STOP_MAX: Duration = Duration::from_secs(25);

/// How often progress is shown.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);

/// What to run.
pub struct Options {
    /// The compiled catalogue.
    pub ruleset: Arc<Ruleset>,
    /// Where profiles go.
    pub store: Arc<dyn Store>,
    /// Files to read.
    pub sources: Vec<FileSpec>,
    /// Topics to read.
    pub topics: Option<Topics>,
    /// Where as-of comes from.
    pub clock: Clock,
    /// When windows close.
    pub limits: WindowLimits,
    /// Limits of reading.
    pub read: ReadLimits,
    /// Threads that host users.
    pub shards: usize,
    /// Batches between sources and shards.
    pub batches_under_way_max: usize,
    /// Rejects kept in memory between windows.
    pub rejects_waiting_max: usize,
    /// `user.state_bytes_max`.
    pub state_bytes_max: usize,
    /// `memory.resident_bytes_max`.
    pub resident_bytes_max: usize,
    /// Users computed at once.
    pub batch_users_max: usize,
    /// How rows of dimension tables are looked up.
    pub lookups: Lookups,
    /// Users of changed dimension rows computed again, a second.
    pub changed_users_per_s_max: NonZeroU32,
    /// Work after the sources' end, before due users are drained.
    pub jobs: VecDeque<Job>,
    /// Then move the clock here and drain again.
    pub then_as_of_ms: Option<i64>,
    /// Compute, but write nothing.
    pub dry: bool,
    /// Go on when the sources have ended.
    pub stay: bool,
    /// Sources do not end for a long time: jobs and due users get their windows meanwhile.
    pub live: bool,
    /// Where other catalogues come from while this one runs.
    pub swaps: Swaps,
    /// Users that another catalogue makes to be computed again, a second; none: no limit.
    pub recompute_users_per_s_max: Option<NonZeroU32>,
    /// Work that has to be done before the first window closes.
    pub prepare: Prepare,
    /// How long the store is waited for.
    pub patience: Patience,
    /// What is told to others.
    pub publish: Publish,
    /// Where events of files may wait for their users' turn, when not all users fit in memory; none:
    /// users are read and written as events come. Not for topics, nor for stores that do not write a
    /// window as a whole.
    pub slices: Option<SliceLimits>,
}

impl Options {
    /// Batches between sources and shards: so few that their users do not take much more memory
    /// than there is. A block of events may bring users of some eight times its size.
    fn batches_max(&self) -> usize {
        let room = self.resident_bytes_max / (32 * self.read.block_bytes.max(1));
        self.batches_under_way_max.min(room.max(2))
    }
}

/// What is done while sources are read already: loading dimension tables. No window closes before
/// it is done; when it fails, the engine does.
#[derive(Default)]
pub struct Prepare(Mutex<Option<Preparation>>);

type Preparation = Box<dyn FnOnce() -> Result<(), EngineError> + Send>;

impl Prepare {
    /// Does this, once.
    pub fn new(work: impl FnOnce() -> Result<(), EngineError> + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(work))))
    }

    /// Starts it on a thread of its own; nothing to do the second time.
    fn start(&self, status: &Arc<Status>) -> Result<Option<JoinHandle<()>>, EngineError> {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(work) = work else { return Ok(None) };
        status.preparing.store(true, Ordering::Release);
        let guard = Preparing(Arc::clone(status));
        let run = move || {
            if let Err(error) = work() {
                guard.0.fail(error);
            }
        };
        let thread = std::thread::Builder::new().name("prepare".to_owned()).spawn(run);
        thread.map(Some).map_err(EngineError::Thread)
    }
}

/// Ends the preparation, however its thread ends.
struct Preparing(Arc<Status>);

impl Drop for Preparing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(EngineError::ActorGone("loader of dimension tables"));
        }
        self.0.preparing.store(false, Ordering::Release);
    }
}

/// A look at a running engine.
pub struct Observed<'a> {
    /// Counts.
    pub status: &'a Arc<Status>,
    /// Each source.
    pub sources: &'a [SourceProgress],
}

/// How far a source is.
#[derive(Debug, Clone)]
pub struct SourceProgress {
    /// Its name.
    pub name: String,
    /// Bytes on disk; `None` for standard input.
    pub bytes_total: Option<u64>,
    /// Bytes read.
    pub bytes_read: Arc<AtomicU64>,
}

/// What an engine did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Source rows read in this run.
    pub rows: u64,
    /// Events in this run, repeats included.
    pub events: u64,
    /// Source rows refused in this run.
    pub rejected_rows: u64,
    /// Everything the store has seen.
    pub totals: Totals,
    /// Dropped events since the store was made.
    pub folds: FoldTotals,
    /// What shards did in this run.
    pub stats: WindowStats,
    /// The last as-of, epoch ms.
    pub as_of_ms: Option<i64>,
    /// Users that are resident at the end.
    pub resident_users: u64,
    /// Memory of their states, codes and tables.
    pub resident_bytes: u64,
    /// The most it was at any window.
    pub resident_bytes_peak: u64,
    /// Bytes of the packed profiles written.
    pub packed_bytes: u64,
    /// Profiles written in this run.
    pub profiles: u64,
    /// Windows stored in this run.
    pub windows: u64,
    /// Rounds in which events were folded by slices of users.
    pub rounds: u64,
    /// The last day of all events but a few strays, and how many strays.
    pub stray_future: Option<(Day, u64)>,
    /// Dimension tables that were never loaded.
    pub missing_tables: Vec<String>,
    /// Users that are quarantined.
    pub quarantined: usize,
}

impl Report {
    /// Adds what a later engine of the same process did.
    fn add(&mut self, later: Self) {
        let stats = std::mem::take(&mut self.stats);
        let sum = Self {
            rows: self.rows + later.rows,
            events: self.events + later.events,
            rejected_rows: self.rejected_rows + later.rejected_rows,
            packed_bytes: self.packed_bytes + later.packed_bytes,
            profiles: self.profiles + later.profiles,
            windows: self.windows + later.windows,
            resident_bytes_peak: self.resident_bytes_peak.max(later.resident_bytes_peak),
            ..later
        };
        *self = sum;
        self.stats.add(&stats);
    }
}

/// What other owners may have read before this engine.
fn replay(options: &Options, assignment: Option<&Assignment>) -> Replay {
    match (&options.topics, assignment) {
        (Some(topics), Some(assignment)) if !options.store.is_atomic() => topics.replay(assignment),
        _ => Replay::default(),
    }
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
        let ruleset = &options.ruleset;
        let schema = serde_json::to_vec(&ruleset.schema).unwrap_or_default();
        options.store.put_meta(&schema_key(ruleset.schema_id), schema)?;
    }
    if let Some(topics) = options.topics.clone() {
        return run_assignments(&mut options, &topics, observe);
    }
    first_jobs(&mut options)?;
    let mut restarts = 0;
    loop {
        let jobs = std::mem::take(&mut options.jobs);
        // A job that was under way is not known to be done: its command says so and is run again.
        let repeatable = jobs.iter().all(Job::is_found_again);
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
fn first_jobs(options: &mut Options) -> Result<(), EngineError> {
    if options.dry {
        return Ok(());
    }
    let users_per_s = options.changed_users_per_s_max;
    let changed = super::reload::jobs(options.store.as_ref(), &options.ruleset, users_per_s)?;
    for job in changed.into_iter().rev() {
        options.jobs.push_front(job);
    }
    background_jobs(options)
}

/// While no engine runs, the store is waited for until a signal comes.
pub fn wait_for_store(patience: &Patience) {
    let stop = stop_signals();
    patience.while_holds(move || !stop.load(Ordering::Relaxed));
}

/// Works on one assignment after the other until a signal comes.
fn run_assignments(
    options: &mut Options,
    topics: &Topics,
    observe: &mut dyn FnMut(&Observed<'_>),
) -> Result<Report, EngineError> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let stop = stop_signals();
    let idle = Arc::new(Status::new(options.shards));
    let (mut all, mut restarts) = (Report::default(), 0);
    let shared = Arc::clone(&options.store);
    loop {
        observe(&Observed { status: &idle, sources: &[] });
        if stop.load(Ordering::Relaxed) {
            return Ok(all);
        }
        let Some(assignment) = topics.group.next(PATIENCE)? else { continue };
        wait_for_store(&options.patience);
        let (term, partitions) = (Term::new(assignment.term)?, assignment.partitions.clone());
        if !shared.is_atomic() {
            options.store = Arc::new(OwnedStore::new(Arc::clone(&shared), &partitions));
        }
        options.store.own(Ownership { term, partitions })?;
        follow_swaps(options);
        first_jobs(options)?;
        let mut jobs = std::mem::take(&mut options.jobs);
        jobs.push_back(Job::Due);
        let result = attempt(options, Some(&assignment), jobs, observe);
        topics.group.release(result.is_err());
        match result {
            Ok(report) => all.add(report),
            // Partitions may be taken away while the store is down: their next owner reads again.
            Err(
                EngineError::Kafka(KafkaError::Lost)
                | EngineError::NotStored { .. }
                | EngineError::Publish(PublishError::NotAcknowledged { .. }),
            ) if !stop.load(Ordering::Relaxed) => {
                tracing::warn!("partitions were lost: what was not stored is read by their owner");
            }
            Err(EngineError::ActorGone(what)) if restarts < RESTARTS_MAX => {
                restarts += 1;
                tracing::error!(what, restarts, "an actor died; reloading from the store");
            }
            Err(error) => return Err(error),
        }
    }
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
    options.jobs.push_front(Job::recompute(store, ruleset, limit)?);
    Ok(())
}

/// Another start goes on with the catalogue that has become active meanwhile.
fn follow_swaps(options: &mut Options) {
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

fn attempt(
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
    let progress: Vec<SourceProgress> = sources
        .iter()
        .map(|(s, _)| SourceProgress {
            name: s.name().to_owned(),
            bytes_total: s.bytes_total,
            bytes_read: Arc::clone(&s.bytes_read),
        })
        .collect();
    let mut flows: Vec<Flow> =
        sources.into_iter().map(|(s, others)| Flow::of_file(s.into_parts(), others)).collect();
    let mut lease = None;
    if let (Some(topics), Some(assignment)) = (&options.topics, assignment) {
        let (ruleset, texts, shards) = (&options.ruleset, &shared.texts, options.shards);
        let (quarantine, status) = (&quarantine, &status);
        let around = Around { ruleset, texts, quarantine, status, shards };
        flows.push(topics.flow(assignment, &around)?);
        lease = Some(topics.group.lease(assignment));
    }
    options.swaps.set_recipes(flows.iter().flat_map(Flow::recipes).cloned().collect());
    status.sources_open.store(flows.len(), Ordering::Release);
    let names = catalog.streams.iter().map(|s| s.name.clone()).collect();
    let mut intake = Intake::new(names, totals);
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
        folds,
        first_window,
        last_as_of_ms: first_as_of(options)?,
        jobs,
    };
    let preparing = options.prepare.start(&status)?;
    let driven = parts.drive(flows, &progress, observe);
    // A panic of it has been told through the status.
    drop(preparing.map(JoinHandle::join));
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
        replay: Arc::new(replay(options, assignment)),
        publishing: None,
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

fn report(
    store: &dyn Store,
    status: &Status,
    ended: Ended,
    stray_future: Option<(Day, u64)>,
    missing_tables: Vec<String>,
    quarantined: usize,
) -> Result<Report, EngineError> {
    Ok(Report {
        rows: status.rows.load(Ordering::Relaxed),
        events: status.events.load(Ordering::Relaxed),
        rejected_rows: status.rejected_rows.load(Ordering::Relaxed),
        totals: read_meta(store, TOTALS_KEY)?,
        folds: read_meta(store, FOLDS_KEY)?,
        as_of_ms: ended.as_of_ms,
        resident_users: ended.resident_users,
        resident_bytes: ended.resident_bytes,
        resident_bytes_peak: ended.resident_bytes_peak,
        packed_bytes: ended.stats.packed_bytes,
        stats: ended.stats,
        profiles: status.profiles.load(Ordering::Relaxed),
        windows: status.windows.load(Ordering::Relaxed),
        rounds: status.rounds.load(Ordering::Relaxed),
        stray_future,
        missing_tables,
        quarantined,
    })
}

/// All sources, each with the decoders it has besides its own.
fn open_sources(
    options: &Options,
    round: Option<&Round>,
    texts: &Arc<Texts>,
    quarantine: &Arc<Quarantine>,
) -> Result<Vec<(FileSource, Vec<Decoder>)>, EngineError> {
    let ruleset = &options.ruleset;
    let catalog = &ruleset.catalog;
    let (shards, limits) = (options.shards, round.map_or(options.read, |round| round.read));
    let specs = by_position(options, round)?;
    // What became active since the round began has not seen it, of no user.
    let of_round = round.map(|round| Arc::new(ruleset.layout.known_in(round.version)));
    let layout = of_round.as_ref().unwrap_or(&ruleset.layout);
    let decoders = decoders(specs.len());
    let open = |(spec, resume, borders)| {
        let mine = || Arc::clone(texts);
        let source = FileSource::open(spec, catalog, layout, mine(), shards, limits, resume)?;
        let source = source.with_quarantine(Arc::clone(quarantine));
        let source = source.with_offsets(!options.store.is_atomic()).with_borders(borders);
        let another = |_| source.recipe().decoder(catalog, layout);
        let others = (1..decoders).map(another).collect::<Result<_, SourceError>>()?;
        Ok((source, others))
    };
    specs.into_iter().map(open).collect()
}

/// A file, where it is gone on with, and where blocks of a round end that is not over.
type Resumed = (FileSpec, Option<Position>, Vec<u64>);

/// The files to read, each split by how far its streams are: a stream that was added to a file later
/// reads it from its start.
fn by_position(options: &Options, round: Option<&Round>) -> Result<Vec<Resumed>, EngineError> {
    let mut specs: Vec<Resumed> = Vec::new();
    for spec in &options.sources {
        let first = specs.len();
        for stream in &spec.streams {
            let name = source_name(&options.ruleset.catalog.streams[*stream].name, &spec.path);
            let position = read_meta(options.store.as_ref(), &meta_key(&name))?;
            let borders = round.map(|round| round.borders(&name)).unwrap_or_default();
            match specs[first..].iter_mut().find(|s| s.1 == position && s.2 == borders) {
                Some((same, ..)) => same.streams.push(*stream),
                None => {
                    let spec = FileSpec { streams: vec![*stream], ..spec.clone() };
                    specs.push((spec, position, borders));
                }
            }
        }
    }
    Ok(specs)
}

struct Parts<'a> {
    options: &'a Options,
    shared: Shared,
    status: Arc<Status>,
    dimensions: Arc<Dimensions>,
    intake: Intake,
    /// What another process has begun.
    round: Option<Round>,
    lease: Option<Lease>,
    folds: FoldTotals,
    first_window: u64,
    last_as_of_ms: Option<i64>,
    jobs: VecDeque<Job>,
}

impl Parts<'_> {
    /// Starts all actors and source threads and waits for the end.
    fn drive(
        self,
        flows: Vec<Flow>,
        progress: &[SourceProgress],
        observe: &mut dyn FnMut(&Observed<'_>),
    ) -> Result<(Ended, Router), EngineError> {
        let status = Arc::clone(&self.status);
        let max_ahead_ms = self.options.ruleset.catalog.max_ahead_ms;
        let of_round = self.round.as_ref().map(|round| round.latest_ms);
        let latest = Latest { clock: self.options.clock, max_ahead_ms, of_round };
        let system = System::new();
        let result = system.block_on(async {
            let (done, ended) = oneshot::channel();
            let slices = self.slices(latest, &flows)?;
            let (router, arbiters) = self.start_actors(slices, done);
            let mut threads = Vec::new();
            for flow in flows {
                threads.extend(start_source(flow, router.clone(), latest)?);
            }
            let ended = wait(ended, &status, progress, observe).await;
            status.stop();
            for thread in threads {
                // A source that panicked has been reported through `status`.
                drop(thread.join());
            }
            router.slices().join();
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

/// Waits for the checkpoint's word, showing progress; a signal asks it to finish early.
async fn wait(
    mut ended: oneshot::Receiver<Ended>,
    status: &Arc<Status>,
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
                if status.stopping() && !status.failed() {
                    let since = stopping.get_or_insert_with(Stopwatch::start);
                    if since.elapsed() >= STOP_MAX {
                        status.fail(EngineError::NotStored { seconds: STOP_MAX.as_secs() });
                    }
                }
            }
        }
    }
}

/// Set by SIGINT and SIGTERM; a second one ends the process at once. One flag for the process: a
/// signal between two engines is not lost.
pub fn stop_signals() -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(STOP.get_or_init(listen))
}

fn listen() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let second = signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop));
        let first = signal_hook::flag::register(signal, Arc::clone(&stop));
        if let Err(error) = second.and(first) {
            tracing::warn!(signal, %error, "cannot listen for this signal; it ends the process");
        }
    }
    stop
}
