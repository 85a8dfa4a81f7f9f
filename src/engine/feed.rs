//! A source on its way to the shards.
//!
//! In: a cutter of blocks and decoders for them. Out: batches, routed in the order in which they
//! stand in the source. Several threads do the same: one at a time cuts a block off, all decode,
//! and each routes when those before it have.
//! Invariant: positions only go forward; a thread that fails, dies or is told to stop leaves no
//! other waiting.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::route::{Read, Routed, Router};
use super::ruleset::Ruleset;
use super::status::Status;
use super::{Clock, EngineError};
use crate::event::{Decoded, Decoder};
use crate::shard::fence::At;
use crate::source::cut::{Block, Cutter};
use crate::source::file::{FileSpec, Parts, SourceError, decode, decode_relayed};
use crate::source::recipe::Recipe;

/// Threads that decode one source.
const DECODERS_MAX: usize = 8;

/// Threads that decode, of all sources together, as long as there are not more sources.
const DECODERS_TOTAL_MAX: usize = 64;

/// How long a thread waits before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many threads decode each of so many sources.
pub(super) fn decoders(sources: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(DECODERS_MAX).min(DECODERS_TOTAL_MAX / sources.max(1)).max(1)
}

/// Which instants are too early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latest {
    pub(super) clock: Clock,
    pub(super) max_ahead_ms: i64,
    /// What it was when a round began that is not over: it holds for all of the round.
    pub(super) of_round: Option<Option<i64>>,
}

impl Latest {
    pub(super) fn ms(self) -> Option<i64> {
        if let Some(of_round) = self.of_round {
            return of_round;
        }
        match self.clock {
            Clock::Fixed(instant_ms) => Some(instant_ms.saturating_add(self.max_ahead_ms)),
            Clock::Wall => Some(crate::clock::wall_ms().saturating_add(self.max_ahead_ms)),
            Clock::Event => None,
        }
    }
}

/// What is read and how it is decoded, by one thread after the other.
pub(super) struct Flow {
    /// Its name in logs.
    pub(super) name: String,
    /// Cuts blocks off.
    pub(super) cutter: Cutter,
    /// What was read, when that is a file.
    pub(super) file: Option<FileSpec>,
    /// A file has one, a group of topics one a topic, and one more for each that is relayed.
    pub(super) lanes: Vec<Lane>,
    /// For each thread the decoders of all lanes.
    pub(super) decoders: Vec<Vec<Decoder>>,
    /// Lanes of blocks; those behind them are of what was relayed.
    pub(super) direct: usize,
}

/// Rows of one kind within a source.
pub(super) struct Lane {
    /// Makes decoders for other catalogues.
    pub(super) recipe: Recipe,
    /// The names under which positions are kept, where blocks do not bring their own; none: what was
    /// read cannot be read again.
    pub(super) names: Vec<String>,
    /// A file as fences name it, where a store needs them.
    pub(super) at: Option<At>,
}

impl Flow {
    /// Makes decoders for other catalogues.
    pub(super) fn recipes(&self) -> impl Iterator<Item = &Recipe> {
        self.lanes.iter().map(|lane| &lane.recipe)
    }

    /// Whether what was read can be read again, from its positions on.
    pub(super) fn is_replayable(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.names.is_empty())
    }

    /// Of a file, with the decoders it has besides its own.
    pub(super) fn of_file(parts: Parts, others: Vec<Decoder>) -> Self {
        let Parts { cutter, decoder, recipe, spec, names, is_replayable } = parts;
        let names = if is_replayable { names } else { Vec::new() };
        let decoders = std::iter::once(decoder).chain(others).map(|d| vec![d]).collect();
        let at = recipe.with_offsets.then(|| At::file(&names));
        let lanes = vec![Lane { recipe, names, at }];
        Self { name: spec.name.clone(), cutter, file: Some(spec), lanes, decoders, direct: 1 }
    }
}

/// Starts the threads of one source: one for each set of decoders.
pub(super) fn start_source(
    flow: Flow,
    router: Router,
    latest: Latest,
) -> Result<Vec<JoinHandle<()>>, EngineError> {
    let Flow { name, cutter, file, lanes, decoders, direct } = flow;
    let open = OpenSource(Arc::clone(router.status()));
    let feed = Arc::new(Feed {
        cut: Mutex::new(Cut { cutter, blocks: 0, ended: false }),
        turn: Mutex::new(0),
        turned: Condvar::new(),
        router,
        file,
        lanes,
        direct,
        latest,
        _open: open,
    });
    let mut threads = Vec::new();
    for decoders in decoders {
        let thread = std::thread::Builder::new().name(format!("source {name}"));
        let mine = Arc::clone(&feed);
        match thread.spawn(move || mine.run(decoders)) {
            Ok(thread) => threads.push(thread),
            Err(error) if threads.is_empty() => return Err(EngineError::Thread(error)),
            Err(error) => tracing::warn!(%error, "a source is decoded by fewer threads"),
        }
    }
    Ok(threads)
}

/// What the threads of one source share.
struct Feed {
    cut: Mutex<Cut>,
    /// Number of the block that is to be routed next.
    turn: Mutex<u64>,
    turned: Condvar,
    router: Router,
    file: Option<FileSpec>,
    lanes: Vec<Lane>,
    direct: usize,
    latest: Latest,
    _open: OpenSource,
}

struct Cut {
    cutter: Cutter,
    /// Blocks cut off so far.
    blocks: u64,
    ended: bool,
}

impl Feed {
    fn run(&self, mut decoders: Vec<Decoder>) {
        let _dying = Dying(Arc::clone(self.router.status()));
        let mut block = Block::default();
        let (mut latest, mut swaps) = (self.latest, 0);
        while let Some((number, cut)) = self.cut(&mut block) {
            let lane = block.origin().map_or(0, |origin| origin.topic);
            let mut decoded = cut.and_then(|()| self.decode(&mut decoders, lane, &block, latest));
            if !self.wait_for_turn(number) {
                return;
            }
            let origin = block.origin();
            let own = origin.map(|origin| std::slice::from_ref(&origin.name));
            let names = own.unwrap_or(&self.lanes[lane].names);
            let position = block.position().filter(|_| !names.is_empty());
            loop {
                let rows = match decoded {
                    Ok(rows) => rows,
                    Err(error) => return self.router.status().fail(error.into()),
                };
                let topic = origin.map(|o| At { partition: o.partition.number, source: o.source });
                let read = Read { names, position, at: topic.or(self.lanes[lane].at) };
                match self.router.route(read, rows, swaps) {
                    Routed::Done => break,
                    Routed::Stopping => return,
                    Routed::Stale => {
                        let (ruleset, now) = self.router.ruleset();
                        swaps = now;
                        latest.max_ahead_ms = ruleset.catalog.max_ahead_ms;
                        latest.of_round = None;
                        decoded = self.decoders(&ruleset).and_then(|made| {
                            decoders = made;
                            self.decode(&mut decoders, lane, &block, latest)
                        });
                    }
                }
            }
            self.pass_turn();
        }
    }

    /// Decoders of all lanes for another catalogue.
    fn decoders(&self, ruleset: &Ruleset) -> Result<Vec<Decoder>, SourceError> {
        let make = |lane: &Lane| lane.recipe.decoder(&ruleset.catalog, &ruleset.layout);
        self.lanes.iter().map(make).collect()
    }

    fn decode(
        &self,
        decoders: &mut [Decoder],
        lane: usize,
        block: &Block,
        latest: Latest,
    ) -> Result<Decoded, SourceError> {
        let (direct, relayed) = decoders.split_at_mut(self.direct);
        let decoded = decode(&mut direct[lane], block, latest.ms());
        let mut decoded = decoded.map_err(|error| self.failed(error))?;
        decode_relayed(relayed, block, &mut decoded);
        Ok(decoded)
    }

    /// The next block's number, or the failure in its place; `None` at the end or when the engine
    /// stops.
    fn cut(&self, block: &mut Block) -> Option<(u64, Result<(), SourceError>)> {
        // Of a live source the holder may wait for its next line; so do the others, here.
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if cut.ended || self.router.status().stopping() {
            return None;
        }
        let done = cut.cutter.cut(block);
        cut.ended = !matches!(done, Ok(true));
        let number = cut.blocks;
        cut.blocks += 1;
        match done {
            Ok(true) => Some((number, Ok(()))),
            Ok(false) => None,
            Err(error) => Some((number, Err(self.failed(error)))),
        }
    }

    fn failed(&self, error: std::io::Error) -> SourceError {
        match &self.file {
            Some(file) => file.failed(error).into(),
            None => SourceError::Topic(error.to_string()),
        }
    }

    /// Waits until all blocks before this one were routed. False: the engine is stopping.
    fn wait_for_turn(&self, number: u64) -> bool {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while *turn != number {
            if self.router.status().stopping() {
                return false;
            }
            let waited = self.turned.wait_timeout(turn, PATIENCE);
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn pass_turn(&self) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.turned.notify_all();
    }
}

/// Reports a thread that ends by a panic.
struct Dying(Arc<Status>);

impl Drop for Dying {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(EngineError::ActorGone("source"));
        }
    }
}

/// Counts a source as ended when the last of its threads ends, however it does.
struct OpenSource(Arc<Status>);

impl Drop for OpenSource {
    fn drop(&mut self) {
        self.0.sources_open.fetch_sub(1, Ordering::AcqRel);
    }
}
