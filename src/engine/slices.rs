//! Files whose users do not fit in memory are folded by slices of users.
//!
//! In: decoded batches, in any order of users. Out: the same events, all of a user's together: once
//! users have had to leave memory, batches are set aside on disk by slice of users
//! (`spill.rs`); when the input has ended, or there is no more room for them, one slice after
//! the other is folded. So each user is read, computed and written once or twice, where it would be
//! once for nearly each of its events.
//!
//! That is a *round*. While it sets events aside, the store does not change. Then one window writes
//! its rejects and totals and how far each source was read (`until`), and from then on each
//! window says how many slices are folded. The last one makes these the sources' positions. A
//! process that finds a round in the store reads the same blocks again up to where it ended, counts
//! nothing of them, leaves out what was folded, and goes on.
//! Invariant: an event is folded once, whenever the process dies; what is on disk by slices need not
//! outlive it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::EngineError;
use super::intake::{Cut, Intake};
use super::options::Options;
use super::route::Router;
use super::spill::{Shape, Spill};
use super::start::read_meta;
use super::status::Status;
use crate::event::block::ShardRows;
use crate::event::quarantine::Quarantine;
use crate::source::file::{FileSpec, ReadLimits};
use crate::source::position::{Position, source_name};
use crate::telemetry::facts::Fresh;
use crate::user::layout::StateLayout;

/// Key of a round that is not over.
pub const ROUND_KEY: &str = "slices";

/// Slices of a round: a window within a tenth of the memory that all users take covers a dozen of
/// them, so that few users are in two windows.
const SLICES: usize = 256;

/// Where events may wait for their users' turn.
#[derive(Debug, Clone)]
pub struct SliceLimits {
    /// A directory with room.
    pub dir: PathBuf,
    /// `memory.spill_bytes_max`: beyond it a round ends, and the next one begins behind it.
    pub bytes_max: u64,
}

/// What the store knows of a round whose events are being folded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Round {
    /// The catalogue version it was decoded for: what is newer has not seen it.
    pub(super) version: u32,
    /// How it was cut into blocks.
    pub(super) read: ReadLimits,
    /// Events later than this were rejects.
    pub(super) latest_ms: Option<i64>,
    /// How far each source was read.
    pub(super) until: BTreeMap<String, Position>,
    /// Slices in all.
    slices: usize,
    /// Slices that are folded.
    folded: usize,
    /// Of the slice behind them: up to which offset of each source.
    within: BTreeMap<String, u64>,
    /// Users whose events were refused.
    pub(super) quarantined: Vec<u64>,
}

impl Round {
    /// The round that another process has begun, if its sources are among those that are read.
    /// Without any source it may wait.
    pub(super) fn pending(options: &Options) -> Result<Option<Self>, EngineError> {
        let round: Option<Self> = read_meta(options.store.as_ref(), ROUND_KEY)?;
        let Some(mut round) = round.filter(|_| !options.sources.is_empty() && !options.dry) else {
            return Ok(None);
        };
        let streams = &options.ruleset.catalog.streams;
        let names = |spec: &FileSpec| {
            let name = |at: &usize| source_name(&streams[*at].name, &spec.path);
            spec.streams.iter().map(name).collect::<Vec<_>>()
        };
        let given: BTreeSet<String> = options.sources.iter().flat_map(names).collect();
        // Of a stream that the catalogue does not have any more nobody keeps events.
        let is_known =
            |name: &str| streams.iter().any(|s| name.starts_with(&format!("{}/", s.name)));
        let is_missing = |name: &&String| is_known(name) && !given.contains(*name);
        let missing: Vec<&str> =
            round.until.keys().filter(is_missing).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(EngineError::RoundSources(missing.join(", ")));
        }
        round.until.retain(|name, _| given.contains(name));
        Ok(Some(round))
    }

    /// Offsets of a source at which blocks have to end: where what was folded ends, and the round.
    /// Where others end depends on more than on how it is read: those of Parquet hold more rows when
    /// fewer columns are read.
    pub(super) fn borders(&self, name: &str) -> Vec<u64> {
        let until = self.until.get(name).map(|until| until.offset);
        self.within.get(name).copied().into_iter().chain(until).collect()
    }
}

/// What is the same for all rounds of an engine.
#[derive(Debug)]
pub(super) struct Settings {
    /// None: users who do not fit in memory are read and written as events come.
    pub(super) limits: Option<SliceLimits>,
    pub(super) version: u32,
    pub(super) read: ReadLimits,
    pub(super) latest_ms: Option<i64>,
    pub(super) shards: usize,
    pub(super) is_text: bool,
    pub(super) resident_bytes_max: usize,
    pub(super) layout: Arc<StateLayout>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To its users.
    Shards,
    /// Aside.
    Aside,
    /// Aside, but it was counted before.
    Again,
    /// It comes behind a round that is not over.
    Later,
}

/// What there is to do for the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Windows as always.
    Windows,
    /// None: what is read is set aside.
    Reading,
    /// The round has all it will get.
    RoundEnds,
    /// All slices are folded: a window ends the round.
    RoundIsOver,
}

#[derive(Debug, Default)]
enum Phase {
    /// Events go to their users.
    #[default]
    Direct,
    /// Events are set aside.
    Reading {
        spill: Box<Spill>,
        sources: Vec<Vec<String>>,
        at: BTreeMap<String, Position>,
        /// The round that another process began.
        again: Option<Round>,
        /// What had been read when it began.
        before: Box<Intake>,
        /// How fresh its events are: told when they are stored.
        fresh: Vec<Fresh>,
    },
    /// Slices are folded.
    Folding {
        round: Round,
        sources: Vec<Vec<String>>,
        fresh: Vec<Fresh>,
        is_over: bool,
        is_stopped: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Slices {
    settings: Settings,
    phase: Mutex<Phase>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Slices {
    /// `again`: the round that another process began.
    pub(super) fn new(
        settings: Settings,
        again: Option<Round>,
        intake: &Intake,
    ) -> Result<Self, EngineError> {
        let slices = Self { settings, phase: Mutex::default(), thread: Mutex::default() };
        if let Some(round) = again {
            let spill = Box::new(slices.spill(round.slices)?);
            let (sources, at, before) = (Vec::new(), BTreeMap::new(), Box::new(intake.clone()));
            let (again, fresh) = (Some(round), Vec::new());
            *slices.phase() = Phase::Reading { spill, sources, at, again, before, fresh };
        }
        Ok(slices)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill(&self, slices: usize) -> Result<Spill, EngineError> {
        let Settings { shards, is_text, resident_bytes_max, ref layout, .. } = self.settings;
        let dir = self.settings.limits.as_ref().map_or_else(std::env::temp_dir, |l| l.dir.clone());
        let shape = Shape { slices, shards, is_text, layout, resident_bytes_max };
        Spill::new(&dir, &shape).map_err(|source| EngineError::Spill { dir, source })
    }

    /// Whether a round is under way. When the engine stops it is left for another process.
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.phase(), Phase::Direct | Phase::Folding { is_stopped: true, .. })
    }

    /// Begins a round, if users had to leave memory: what comes from now on is set aside. All that
    /// came before has been cut off.
    pub(super) fn begin(&self, intake: &Intake, status: &Status) -> Result<(), EngineError> {
        let is_reading = status.sources_open.load(Ordering::Acquire) > 0 && !status.stopping();
        let mut phase = self.phase();
        if self.settings.limits.is_none()
            || !is_reading
            || !status.has_passivated()
            || !matches!(*phase, Phase::Direct)
        {
            return Ok(());
        }
        tracing::info!("users do not fit in memory: what follows is folded by slices of them");
        status.rounds.fetch_add(1, Ordering::Relaxed);
        *phase = Phase::Reading {
            spill: Box::new(self.spill(SLICES)?),
            sources: Vec::new(),
            at: BTreeMap::new(),
            again: None,
            before: Box::new(intake.clone()),
            fresh: Vec::new(),
        };
        Ok(())
    }

    /// Which way a batch goes. `position`: behind it.
    pub(super) fn way(&self, sources: &[String], position: Option<Position>) -> Way {
        match &*self.phase() {
            Phase::Direct => Way::Shards,
            // What is over the bound is one batch: the next ones come behind the round.
            Phase::Reading { again: None, spill, sources: read, .. } => {
                match self.full(spill, read) {
                    true => Way::Later,
                    false => Way::Aside,
                }
            }
            Phase::Reading { again: Some(round), .. } => {
                let until = sources.first().and_then(|name| round.until.get(name));
                let is_part = until.zip(position).is_some_and(|(u, p)| p.offset <= u.offset);
                if is_part { Way::Again } else { Way::Later }
            }
            Phase::Folding { .. } => Way::Later,
        }
    }

    /// Whether a round can hold no more.
    fn full(&self, spill: &Spill, sources: &[Vec<String>]) -> bool {
        let bytes_max = self.settings.limits.as_ref().map_or(u64::MAX, |l| l.bytes_max);
        spill.bytes() >= bytes_max || sources.len() >= SOURCES_MAX
    }

    /// Sets a batch aside.
    pub(super) fn set_aside(
        &self,
        names: &[String],
        position: Option<Position>,
        parts: &[(u8, Vec<ShardRows>)],
        status: &Status,
    ) -> Result<(), EngineError> {
        let mut phase = self.phase();
        let Phase::Reading { spill, sources, at, again, .. } = &mut *phase else { return Ok(()) };
        // Without a position a source does not take part.
        let (Some(name), Some(position)) = (names.first(), position) else { return Ok(()) };
        let known = sources.iter().position(|source| source == names);
        let source = known.unwrap_or_else(|| {
            sources.push(names.to_vec());
            sources.len() - 1
        });
        let before = again.as_ref().map(|r| (r.folded, r.within.get(name).copied()));
        let wanted = |slice: usize| match before {
            None => true,
            Some((folded, within)) => {
                slice > folded || (slice == folded && within.is_none_or(|w| position.offset > w))
            }
        };
        let number = u16::try_from(source).unwrap_or(u16::MAX);
        let added = spill.add(number, position.offset, parts, wanted);
        added.map_err(|source| failed(spill, source))?;
        for name in names {
            at.insert(name.clone(), position);
        }
        status.aside_bytes.store(spill.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// What the checkpoint is to do. `is_full`: no more rejects can wait for a window.
    pub(super) fn turn(&self, status: &Status, is_full: bool) -> Turn {
        match &*self.phase() {
            Phase::Direct | Phase::Folding { is_over: false, .. } => Turn::Windows,
            Phase::Folding { .. } => Turn::RoundIsOver,
            Phase::Reading { spill, again, at, sources, .. } => {
                let ended = status.sources_open.load(Ordering::Acquire) == 0 || status.stopping();
                let all = again.as_ref().is_some_and(|round| is_read(&round.until, at));
                let full = again.is_none() && (is_full || self.full(spill, sources));
                if ended || all || full { Turn::RoundEnds } else { Turn::Reading }
            }
        }
    }

    /// Whether the round that is being read is worth a window: events of it were set aside by this
    /// process for the first time.
    pub(super) fn is_new(&self) -> bool {
        matches!(&*self.phase(), Phase::Reading { again: None, at, .. } if !at.is_empty())
    }

    /// What a window has to say of the round, which takes its positions back until it is over.
    pub(super) fn cover(&self, cut: &mut Cut, quarantine: &Quarantine) -> Vec<(String, Vec<u8>)> {
        let mut phase = self.phase();
        let value = match &mut *phase {
            Phase::Direct => return Vec::new(),
            Phase::Reading { again, fresh, .. } => {
                *fresh = std::mem::take(&mut cut.fresh);
                let Settings { version, read, latest_ms, .. } = self.settings;
                let round = again.get_or_insert_with(|| Round {
                    version,
                    read,
                    latest_ms,
                    until: std::mem::take(&mut cut.positions),
                    slices: SLICES,
                    folded: 0,
                    within: BTreeMap::new(),
                    quarantined: quarantine.hashes(),
                });
                json(round)
            }
            Phase::Folding { round, fresh, is_over: true, .. } => {
                cut.positions.clone_from(&round.until);
                cut.fresh.append(fresh);
                *phase = Phase::Direct;
                json(&())
            }
            Phase::Folding { round, .. } => json(round),
        };
        vec![(ROUND_KEY.to_owned(), value)]
    }

    /// Leaves a round that is being read: what was set aside is forgotten, and was never read.
    pub(super) fn abandon(&self, intake: &mut Intake) {
        let mut phase = self.phase();
        if let Phase::Reading { before, .. } = std::mem::take(&mut *phase) {
            *intake = *before;
        }
    }

    /// Folds all slices, on a thread of its own. What another process has set aside must be complete.
    pub(super) fn fold(&self, router: &Router) -> Result<(), EngineError> {
        let mut phase = self.phase();
        let Phase::Reading { mut spill, sources, at, again, fresh, .. } =
            std::mem::take(&mut *phase)
        else {
            return Ok(());
        };
        let Some(round) = again else { return Ok(()) };
        if let Some((name, until)) = round.until.iter().find(|(n, u)| !is_behind(at.get(*n), u)) {
            let (name, read) = (name.clone(), until.offset);
            let have = at.get(&name).map_or(0, |position| position.offset);
            return Err(EngineError::RoundShorter { name, have, read });
        }
        spill.finish().map_err(|source| failed(&spill, source))?;
        let status = router.status();
        status.aside_bytes.store(spill.bytes(), Ordering::Relaxed);
        status.slices_folded.store(round.folded, Ordering::Relaxed);
        status.slices.store(round.slices, Ordering::Relaxed);
        let (folded, slices) = (round.folded, round.slices);
        *phase = Phase::Folding { round, sources, fresh, is_over: false, is_stopped: false };
        drop(phase);
        let (router, piece_bytes) = (router.clone(), self.settings.read.block_bytes.max(1));
        let run = move || {
            let _ended = Ended(router.clone());
            for slice in folded..slices {
                let read = spill.read(slice, piece_bytes, |piece| router.fold(piece));
                match read {
                    Ok(true) => router.folded(slice + 1),
                    Ok(false) => return,
                    Err(source) => return router.status().fail(failed(&spill, source)),
                }
            }
        };
        let thread = std::thread::Builder::new().name("slices".to_owned()).spawn(run);
        let thread = thread.map_err(EngineError::Thread)?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Events up to here are with the shards.
    pub(super) fn passed(&self, ends: &[(u16, u64)]) {
        if let Phase::Folding { round, sources, .. } = &mut *self.phase() {
            for (source, offset) in ends {
                for name in sources.get(usize::from(*source)).into_iter().flatten() {
                    round.within.insert(name.clone(), *offset);
                }
            }
        }
    }

    /// So many slices are with the shards.
    pub(super) fn passed_slices(&self, slices: usize) {
        if let Phase::Folding { round, is_over, .. } = &mut *self.phase() {
            round.folded = slices;
            round.within.clear();
            *is_over = slices == round.slices;
        }
    }

    /// Waits for the thread that folds slices.
    pub(super) fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of it has been told through the status.
        drop(thread.map(JoinHandle::join));
    }
}

/// Sources of one round: spilled rows know theirs by a number of 16 bits.
const SOURCES_MAX: usize = u16::MAX as usize;

fn is_behind(at: Option<&Position>, until: &Position) -> bool {
    at.is_some_and(|at| at.offset >= until.offset)
}

fn is_read(until: &BTreeMap<String, Position>, at: &BTreeMap<String, Position>) -> bool {
    until.iter().all(|(name, until)| is_behind(at.get(name), until))
}

fn failed(spill: &Spill, source: io::Error) -> EngineError {
    EngineError::Spill { dir: spill.dir().to_owned(), source }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys and plain values are JSON")
}

/// Tells how the thread that folds slices has ended.
struct Ended(Router);

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.status().fail(EngineError::ActorGone("reader of slices"));
        }
        if let Phase::Folding { is_stopped, is_over, .. } = &mut *self.0.slices().phase() {
            *is_stopped = !*is_over;
        }
    }
}
