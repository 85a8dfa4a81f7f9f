//! `tagloom run`: read sources, keep profiles up to date.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar};

use super::desk::{Desk, read_failure};
use super::owner::Owner;
use super::{Failure, Outcome, open, progress, summary, topics};
use crate::catalog::model::{Catalog, Format, From};
use crate::clock::{Stopwatch, Zone};
use crate::config::Config;
use crate::engine::checkpoint::WindowLimits;
use crate::engine::job::Job;
use crate::engine::ruleset::Ruleset;
use crate::engine::slices::SliceLimits;
use crate::engine::swap::Swaps;
use crate::engine::topics::Topics;
use crate::engine::watch::{Watch, Watched};
use crate::engine::{Clock, EngineError, Observed, Options, Prepare, Reads};
use crate::serve::http::Server;
use crate::serve::readers::Readers;
use crate::source::file::{FileSpec, ReadLimits};
use crate::source::input::STDIN;
use crate::source::parquet::is_parquet;
use crate::store::metered::Metered;
use crate::store::patient::{Patience, PatientStore};
use crate::store::{ClockMode, Store};
use crate::telemetry::Exporter;
use crate::telemetry::facts::number;
use crate::telemetry::names;
use crate::telemetry::ready::Conditions;
use crate::write::profile::ProfileError;
use crate::write::publish::Publish;

/// Arguments of `tagloom run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom run                                   the example shop: real orders, about 550 tags
  tagloom run --catalog my/tags --source orders=orders.jsonl.gz
  zcat orders.gz | tagloom run --source orders=-
  tagloom run --serve                           and curl http://127.0.0.1:8321/v1/users/17850
  tagloom run --as-of 2026-03-31T20:00          results as of one instant")]
pub(super) struct RunArgs {
    /// A file for a stream instead of the catalogue's; `-` is standard input (may be repeated)
    #[arg(long = "source", value_name = "STREAM=PATH")]
    sources: Vec<String>,
    /// A CSV or Parquet file to load into a dimension table first (may be repeated)
    #[arg(long = "dims", value_name = "TABLE=PATH")]
    dims: Vec<String>,
    /// Compute as of this instant (clock.mode = fixed): ISO 8601 or epoch milliseconds
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
    /// When the input has ended, move the clock here and recompute those whose tags change by it
    #[arg(long, value_name = "INSTANT")]
    then_as_of: Option<String>,
    /// Go on when the input has ended: rules may change, time moves tags. SIGTERM ends it
    #[arg(long)]
    stay: bool,
    /// Answer over HTTP meanwhile (serve.listen), and go on when the input has ended, as --stay does
    #[arg(long)]
    serve: bool,
    /// Keep nothing on disk (store.kind = memory)
    #[arg(long)]
    memory: bool,
    /// Write all profiles to this .parquet or .csv file at the end
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: RunArgs, config: &Config, json: bool) -> Outcome {
    let watch = Stopwatch::start();
    // From now on a signal ends this well, wherever it is.
    crate::engine::stop_signals();
    let mut config = config.clone();
    if args.memory {
        config.store.kind = crate::config::StoreKind::Memory;
    }
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let zone = &loaded.catalog.zone;
    let has_topics = !topics::named(&loaded.catalog).is_empty();
    let reads_topics = args.sources.is_empty() && has_topics;
    let (clock, mode) = clock(args.as_of.as_deref(), &config, zone, reads_topics)?;
    let then_as_of_ms = args.then_as_of.as_ref().map(|t| open::instant(t, zone)).transpose()?;
    let sources = sources(&loaded.catalog, &config, &args.sources)?;
    let stay = args.stay || args.serve;
    let live = stay || reads_topics || sources.iter().any(|s| s.path.as_os_str() == STDIN);
    open::check_topic_tables(&config, &loaded.catalog)?;
    let opened = open::store(&config, &loaded.catalog, mode)?;
    let Stores { asked, store, patience } = Stores::new(opened, args.serve);
    check_history(store.as_ref(), has_topics)?;
    let texts = loaded.texts.clone();
    let active = open::begin(store.as_ref(), loaded, &config, clock)?;
    let ruleset = Arc::clone(&active.ruleset);
    let swaps = Swaps::default().beginning_with(active.clone());
    let (prepare, unprepared) = dimensions(&store, &ruleset, &config, args.dims);
    let mut options = options(&config, &ruleset, Arc::clone(&store), clock);
    options.sources = sources;
    options.patience = patience;
    join(&mut options, &ruleset.catalog, &config, reads_topics)?;
    options.publish = super::publish::open(&config)?;
    options.prepare = prepare;
    options.then_as_of_ms = then_as_of_ms;
    options.jobs = VecDeque::from([Job::Due]);
    options.reads = reads(args.serve, args.export.is_some(), &ruleset);
    (options.stay, options.live) = (stay, live);
    options.swaps = swaps.clone();
    let follows = reads_topics && !store.is_atomic();
    let watching = (live && config.catalog.watch || follows)
        .then(|| watch_catalog(&config, &store, &swaps, texts, clock));
    let watching = watching.transpose()?;
    let readers = Readers::beside(active, swaps.clone(), asked, options.lookups.clone());
    let readers = Arc::new(readers.map_err(read_failure)?);
    let topics = options.topics.clone();
    let http = args.serve.then(|| http(&config, &readers, topics)).transpose()?;
    let server = Desk::new(readers, swaps.clone(), config.clone()).serve(&config);
    let mut bars = Bars::default();
    let report = crate::engine::run(options, &mut |seen| {
        bars.show(seen);
        if let Some(http) = &http {
            http.health().see(seen);
        }
    });
    bars.clear();
    drop(watching);
    // Requests under way are answered; then nobody asks any more.
    drop(http);
    let report = report.map_err(|error| {
        let why = unprepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        why.filter(|_| matches!(error, EngineError::NotPrepared)).unwrap_or(engine_failure(error))
    })?;
    let ruleset = swaps.active().map_or(ruleset, |active| active.ruleset);
    let seconds = watch.elapsed().as_secs_f64();
    let shadow = summary::shadow(&report, &ruleset, store.as_ref())?;
    summary::show(&report, &ruleset, &shadow, seconds, json);
    if let Some(path) = &args.export {
        super::export::write(store.as_ref(), &ruleset, path)?;
    }
    drop(server);
    if config.store.kind == crate::config::StoreKind::Memory {
        // The process ends: its memory is freed as a whole, not profile by profile.
        std::mem::forget(store);
    }
    Ok(())
}

/// One store, as those who work with it see it. One on other machines may be away for a while.
struct Stores {
    /// Whoever asks for a user is told that it is away.
    asked: Arc<dyn Store>,
    /// The engine waits.
    store: Arc<dyn Store>,
    /// For how long.
    patience: Patience,
}

impl Stores {
    /// `metered`: calls are counted.
    fn new(opened: Arc<dyn Store>, metered: bool) -> Self {
        let mut asked = opened;
        if metered {
            // Before anything that counts is made.
            Exporter::install();
            asked = Arc::new(Metered::new(asked));
            if !asked.is_atomic() {
                // There from the start: what opened the store did so before anything was counted.
                let is_there = u64::from(asked.health().is_ok());
                names::STORE_AVAILABLE.gauge(&[]).set(number(is_there));
                names::STORE_QUEUE_CALLS.gauge(&[]).set(0.0);
            }
        }
        let patience = Patience::default();
        let mut store = Arc::clone(&asked);
        if !store.is_atomic() {
            crate::engine::wait_for_store(&patience);
            store = Arc::new(PatientStore::new(store, patience.clone()));
        }
        Self { asked, store, patience }
    }
}

/// Joins the group that reads topics. Files instead of topics hold events of any user: into a store that
/// processes share they are read by who owns everybody.
fn join(options: &mut Options, catalog: &Catalog, config: &Config, reads_topics: bool) -> Outcome {
    if reads_topics {
        options.topics = topics::join(catalog, config, &options.store, true)?;
        return Ok(());
    }
    if options.store.is_atomic() || topics::named(catalog).is_empty() {
        return Ok(());
    }
    if options.sources.iter().any(|source| source.path.as_os_str() == STDIN) {
        return Err(Failure::Input(
            "--source STREAM=-: into a store that processes share files are read while none of them runs, \
             and again if one is started meanwhile; standard input cannot be: give a file"
                .to_owned(),
        ));
    }
    let owner = Owner::of(&options.store, catalog, config, "run --source")?;
    let (store, patience) = (Arc::clone(&options.store), options.patience.clone());
    owner.lend(options);
    // It is waited for already.
    (options.store, options.patience) = (store, patience);
    Ok(())
}

/// When the store is read beside the engine.
fn reads(serves: bool, exports: bool, ruleset: &Ruleset) -> Reads {
    let counts_shadow = ruleset.catalog.tags.iter().any(|tag| tag.terms.shadow);
    match serves {
        true => Reads::Meanwhile,
        false if exports || counts_shadow => Reads::AtTheEnd,
        false => Reads::Never,
    }
}

/// Before the group is joined, which would take users from whoever merges a history.
fn check_history(store: &dyn Store, has_topics: bool) -> Outcome {
    if !has_topics || store.is_atomic() {
        return Ok(());
    }
    crate::engine::history::none_pending(store).map_err(engine_failure)
}

/// Where as-of comes from, and what the store is to be.
fn clock(
    as_of: Option<&str>,
    config: &Config,
    zone: &Zone,
    reads_topics: bool,
) -> Result<(Clock, ClockMode), Failure> {
    match (as_of, config.clock.mode_for(reads_topics)) {
        (Some(text), _) => Ok((Clock::Fixed(open::instant(text, zone)?), ClockMode::Fixed)),
        (None, ClockMode::Wall) => Ok((Clock::Wall, ClockMode::Wall)),
        (None, ClockMode::Event) => Ok((Clock::Event, ClockMode::Event)),
        (None, ClockMode::Fixed) => {
            let message = "clock.mode = fixed needs an instant: add --as-of INSTANT";
            Err(Failure::Input(message.to_owned()))
        }
    }
}

/// Answers over HTTP while the engine runs.
fn http(
    config: &Config,
    readers: &Arc<Readers>,
    topics: Option<Topics>,
) -> Result<Server, Failure> {
    let conditions = Conditions::default();
    if let Some(topics) = topics {
        conditions.register("topics", move || topics.condition());
    }
    // Until the service knows the engine.
    conditions.register("engine", || Err("it is starting".to_owned()));
    let server = Server::start(&config.serve, Arc::clone(readers), conditions);
    let server = server.map_err(super::serve::failure)?;
    server.health().expect_engine();
    names::MEMORY_AVAILABLE.gauge(&[]).set(number(config.memory_available_bytes()));
    names::RESIDENT_BYTES_MAX.gauge(&[]).set(number(config.resident_bytes_max() as u64));
    names::REJECTS_WAITING_MAX.gauge(&[]).set(number(config.rejects.waiting_max as u64));
    names::DIRTY_USERS_MAX.gauge(&[]).set(number(config.window.users_max as u64));
    Ok(server)
}

/// Takes changes of the rule directory over while the engine runs, and what other processes have made
/// active in a store that they share.
fn watch_catalog(
    config: &Config,
    store: &Arc<dyn Store>,
    swaps: &Swaps,
    running: Vec<(String, String)>,
    clock: Clock,
) -> Result<Watch, Failure> {
    let moment = open::moment(store.as_ref(), config, Some(clock))?;
    let watched = Watched {
        dir: config.catalog.path.clone(),
        watches_dir: config.catalog.watch,
        follows_store: !store.is_atomic(),
        every: Duration::from_millis(config.catalog.watch_ms),
        swaps: swaps.clone(),
        store: Arc::clone(store),
        lookups: open::lookups(config),
        retire_after_ms: moment.retire_after_ms,
        clock,
        running,
    };
    Watch::start(watched).map_err(Failure::failed)
}

/// Loading of dimension tables beside the reading of sources, and where its failure will be.
fn dimensions(
    store: &Arc<dyn Store>,
    ruleset: &Arc<Ruleset>,
    config: &Config,
    given: Vec<String>,
) -> (Prepare, Arc<Mutex<Option<Failure>>>) {
    let failure = Arc::new(Mutex::new(None));
    let (slot, config) = (Arc::clone(&failure), config.clone());
    let (store, ruleset) = (Arc::clone(store), Arc::clone(ruleset));
    let load = move || {
        load_dimensions(store.as_ref(), &ruleset, &config, &given).map_err(|failure| {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            EngineError::NotPrepared
        })
    };
    (Prepare::new(load), failure)
}

/// Loads the tables named on the command line, then those whose files have changed.
fn load_dimensions(
    store: &dyn Store,
    ruleset: &Ruleset,
    config: &Config,
    given: &[String],
) -> Outcome {
    let mut loaded = Vec::new();
    for pair in given {
        let Some((table, path)) = pair.split_once('=') else {
            return Err(Failure::Input(format!("--dims {pair}: expected TABLE=PATH")));
        };
        super::dims::load_table(store, ruleset, table, path.as_ref(), None)?;
        loaded.push(table);
    }
    super::dims::load_changed(store, ruleset, &config.catalog.path, &loaded)
}

/// Engine options as configured, without sources and jobs.
pub(super) fn options(
    config: &Config,
    ruleset: &Arc<Ruleset>,
    store: Arc<dyn Store>,
    clock: Clock,
) -> Options {
    Options {
        ruleset: Arc::clone(ruleset),
        store,
        reads: Reads::Meanwhile,
        sources: Vec::new(),
        topics: None,
        clock,
        limits: WindowLimits {
            close_ms: config.window.close_ms,
            users_max: config.window.users_max,
            due_users_max: config.due.users_per_window_max,
        },
        read: ReadLimits {
            block_bytes: config.source.block_bytes,
            batch_rows_max: config.source.batch_rows_max,
            line_bytes_max: config.source.line_bytes_max,
        },
        shards: config.shards(),
        batches_under_way_max: config.source.batches_under_way_max,
        rejects_waiting_max: config.rejects.waiting_max,
        state_bytes_max: config.user.state_bytes_max,
        resident_bytes_max: config.resident_bytes_max(),
        batch_users_max: config.window.batch_users_max,
        lookups: open::lookups(config),
        changed_users_per_s_max: config.dimensions.changed_users_per_s_max,
        jobs: VecDeque::new(),
        then_as_of_ms: None,
        dry: false,
        stay: false,
        live: false,
        swaps: Swaps::default(),
        recompute_users_per_s_max: Some(config.catalog.recompute_users_per_s_max),
        prepare: Prepare::default(),
        patience: Patience::default(),
        publish: Publish::default(),
        slices: slices(config),
        errand: None,
    }
}

/// Beside the store there is room for what it is going to hold. A store in memory is one that keeps
/// nothing on disk.
fn slices(config: &Config) -> Option<SliceLimits> {
    let bytes_max = config.memory.spill_bytes_max;
    let on_disk = config.store.kind == crate::config::StoreKind::Fjall;
    (on_disk && bytes_max > 0).then(|| SliceLimits { dir: config.store.path.clone(), bytes_max })
}

/// An engine's error with the right exit code.
pub(super) fn engine_failure(error: EngineError) -> Failure {
    match error {
        EngineError::Store(error) => open::store_failure(error),
        EngineError::Kafka(error) => topics::failure(error),
        EngineError::Profile(
            error @ (ProfileError::OtherPartition { .. } | ProfileError::OtherHome { .. }),
        ) => Failure::input(error),
        EngineError::Source(_)
        | EngineError::AsOfBack { .. }
        | EngineError::Dimension(_)
        | EngineError::RoundSources(_)
        | EngineError::RoundShorter { .. } => Failure::input(error),
        other => Failure::failed(other),
    }
}

/// The files to read: each once, for all streams it feeds. With files given only those are read; a
/// stream may have several.
pub(super) fn sources(
    catalog: &Catalog,
    config: &Config,
    given: &[String],
) -> Result<Vec<FileSpec>, Failure> {
    let mut files: Vec<(usize, PathBuf, Format)> = Vec::new();
    for pair in given {
        let Some((name, path)) = pair.split_once('=') else {
            return Err(Failure::Input(format!("{pair}: expected STREAM=PATH")));
        };
        let Some(at) = catalog.streams.iter().position(|s| s.name == name) else {
            let known: Vec<&str> = catalog.streams.iter().map(|s| s.name.as_str()).collect();
            let known = known.join(", ");
            return Err(Failure::Input(format!(
                "{pair}: the catalogue has no stream `{name}`; it has {known}"
            )));
        };
        let format = match &catalog.streams[at].from {
            From::File { format, .. } | From::Kafka { format, .. } => *format,
        };
        let path = PathBuf::from(path);
        // No other format can be taken for it.
        let format = if is_parquet(&path) { Format::Parquet } else { format };
        files.push((at, path, format));
    }
    if given.is_empty() {
        for (at, stream) in catalog.streams.iter().enumerate() {
            if let From::File { path, format } = &stream.from {
                files.push((at, config.catalog.path.join(path), *format));
            }
        }
    }
    let mut specs: Vec<FileSpec> = Vec::new();
    for (at, path, format) in files {
        match specs.iter_mut().find(|s| s.path == path && s.format == format) {
            Some(spec) if spec.streams.contains(&at) => {}
            Some(spec) => spec.streams.push(at),
            None => {
                let name = path.display().to_string();
                specs.push(FileSpec { path, format, streams: vec![at], name });
            }
        }
    }
    if let Some(missing) = specs.iter().find(|s| s.path.as_os_str() != STDIN && !s.path.exists()) {
        return Err(Failure::Input(format!(
            "{}: no such file; the catalogue's stream `{}` reads it: put it there, or name \
             another with --source {}=PATH",
            missing.name,
            catalog.streams[missing.streams[0]].name,
            catalog.streams[missing.streams[0]].name
        )));
    }
    Ok(specs)
}

/// One bar a source, and a line about users.
#[derive(Default)]
pub(super) struct Bars {
    multi: Option<MultiProgress>,
    bars: Vec<ProgressBar>,
    slices: Option<ProgressBar>,
}

impl Bars {
    pub(super) fn show(&mut self, seen: &Observed<'_>) {
        let multi = self.multi.get_or_insert_with(MultiProgress::new);
        for (at, source) in seen.sources.iter().enumerate() {
            if self.bars.len() <= at {
                let name = source.name.rsplit('/').next().unwrap_or(&source.name);
                self.bars.push(multi.add(progress::bytes_bar(name)));
            }
            self.bars[at].set_length(source.bytes_total.unwrap_or(0));
            self.bars[at].set_position(source.bytes_read.load(Ordering::Relaxed));
        }
        let status = seen.status;
        let slices = status.slices.load(Ordering::Relaxed);
        if slices > 0 {
            let new = || multi.add(progress::slices_bar());
            let bar = self.slices.get_or_insert_with(new);
            bar.set_length(slices as u64);
            bar.set_position(status.slices_folded.load(Ordering::Relaxed) as u64);
        }
        if let Some(last) = self.bars.last() {
            let aside_mb = status.aside_bytes.load(Ordering::Relaxed) >> 20;
            let aside = if aside_mb > 0 { format!(", {aside_mb} MB aside") } else { String::new() };
            last.set_message(format!(
                "{} events{aside}, {} users waiting, {} profiles stored",
                status.events.load(Ordering::Relaxed),
                status.dirty_users(),
                status.profiles.load(Ordering::Relaxed),
            ));
        }
    }

    pub(super) fn clear(&self) {
        for bar in self.bars.iter().chain(&self.slices) {
            bar.finish_and_clear();
        }
    }
}
