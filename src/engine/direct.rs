//! The engine on one thread, without actors: for cases, models and simulation.
//!
//! In: decoded batches and window closes, in the caller's order. Out: the same profiles that the
//! running engine writes: it drives the same intake, shards and window assembly.
//! Invariant: no threads, no clock but the caller's.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::EngineError;
use super::intake::{FoldTotals, Intake, Totals};
use super::job::{Chunk, Job};
use super::ruleset::Ruleset;
use crate::dimension::{Dimensions, Lookups};
use crate::event::Decoded;
use crate::event::quarantine::Quarantine;
use crate::rule::AsOf;
use crate::shard::{Shard, Shared, WindowClose, WindowStats, split_by_shard};
use crate::source::position::Position;
use crate::store::Store;
use crate::user::texts::Texts;
use crate::write::profile::Schemas;
use crate::write::window::{AS_OF_KEY, Assembly, FOLDS_KEY, TOTALS_KEY};

/// Due users drained in one window.
const DUE_USERS_MAX: usize = 100_000;

/// An engine that does what it is told, when it is told.
pub struct Direct {
    shared: Shared,
    shards: Vec<Shard>,
    intake: Intake,
    folds: FoldTotals,
    dimensions: Dimensions,
    window: u64,
    as_of_ms: Option<i64>,
}

impl Direct {
    /// Opens an engine over a store, going on where that store ends. `now_ms`: the clock by which
    /// cached dimension rows age.
    pub fn open(
        ruleset: Arc<Ruleset>,
        store: Arc<dyn Store>,
        shards: usize,
        now_ms: crate::dimension::Now,
    ) -> Result<Self, EngineError> {
        Self::open_with(ruleset, store, shards, now_ms, Arc::new(Texts::default()))
    }

    /// The same with texts that outlive this engine, so that decoders can serve several.
    pub fn open_with(
        ruleset: Arc<Ruleset>,
        store: Arc<dyn Store>,
        shards: usize,
        now_ms: crate::dimension::Now,
        texts: Arc<Texts>,
    ) -> Result<Self, EngineError> {
        ruleset.save_schema(store.as_ref())?;
        let totals: Totals = super::start::read_meta(store.as_ref(), TOTALS_KEY)?;
        let folds = super::start::read_meta(store.as_ref(), FOLDS_KEY)?;
        let as_of_ms = super::start::read_meta(store.as_ref(), AS_OF_KEY)?;
        let catalog = &ruleset.catalog;
        let lookups = Lookups::default();
        let dimensions = Dimensions::open(catalog, Arc::clone(&store), now_ms, &lookups)?;
        let names = catalog.streams.iter().map(|s| s.name.clone()).collect();
        let shared = Shared {
            store_had_profiles: store.has_profiles()?,
            ruleset,
            texts,
            store,
            schemas: Arc::new(Schemas::default()),
            quarantine: Arc::new(Quarantine::default()),
            state_bytes_max: 1 << 20,
            resident_bytes_max: usize::MAX,
            batch_users_max: 1024,
            replay: Arc::default(),
            publishing: None,
            packs_late: false,
        };
        let number = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        Ok(Self {
            shards: (0..shards.max(1)).map(|at| Shard::new(number(at), shared.clone())).collect(),
            window: totals.windows + 1,
            intake: Intake::new(names, totals),
            folds,
            dimensions,
            as_of_ms,
            shared,
        })
    }

    /// The same engine with a limit to the memory of its users: before it is fed.
    pub fn within(mut self, resident_bytes_max: usize) -> Self {
        self.shared.resident_bytes_max = resident_bytes_max / self.shards.len();
        self.opened_again()
    }

    /// The same engine with a limit to the events that each user keeps apart: before it is fed.
    pub fn keeping(mut self, state_bytes_max: usize) -> Self {
        self.shared.state_bytes_max = state_bytes_max;
        self.opened_again()
    }

    fn opened_again(mut self) -> Self {
        let number = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let shard = |at| Shard::new(number(at), self.shared.clone());
        self.shards = (0..self.shards.len()).map(shard).collect();
        self
    }

    /// Texts of all states: decoders need them.
    pub fn texts(&self) -> Arc<Texts> {
        Arc::clone(&self.shared.texts)
    }

    /// The compiled catalogue.
    pub fn ruleset(&self) -> &Arc<Ruleset> {
        &self.shared.ruleset
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Number of shards: decoders split their blocks by it.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Takes a decoded batch in and folds it.
    pub fn feed(
        &mut self,
        source: &str,
        position: Option<Position>,
        decoded: Decoded,
    ) -> Result<(), EngineError> {
        for (stream, parts) in self.intake.absorb(&[source.to_owned()], position, decoded) {
            for (shard, part) in self.shards.iter_mut().zip(&parts) {
                shard.fold(stream, part, None)?;
            }
        }
        Ok(())
    }

    /// Greatest event time accepted so far.
    pub fn greatest_ms(&mut self) -> Option<i64> {
        self.intake.greatest_ms()
    }

    /// Closes a window for the dirty users. As-of never goes back: an earlier one is the last one.
    pub fn close(&mut self, as_of_ms: i64, roll_up: bool) -> Result<WindowStats, EngineError> {
        self.close_for(as_of_ms, roll_up, Chunk::default())
    }

    /// Drains all users that are due at an instant. Returns what was done.
    pub fn drain(&mut self, as_of_ms: i64) -> Result<WindowStats, EngineError> {
        let mut stats = WindowStats::default();
        let store = Arc::clone(&self.shared.store);
        while let Some(chunk) = Job::Due.next(store.as_ref(), Some(as_of_ms), DUE_USERS_MAX)? {
            stats.add(&self.close_for(as_of_ms, true, chunk)?);
        }
        Ok(stats)
    }

    /// Computes everybody by the rules that have become active.
    pub fn recompute(&mut self, as_of_ms: i64) -> Result<WindowStats, EngineError> {
        let mut stats = WindowStats::default();
        let store = Arc::clone(&self.shared.store);
        let mut job = Job::recompute(store.as_ref(), &self.shared.ruleset, None, None)?;
        while let Some(chunk) = job.next(store.as_ref(), Some(as_of_ms), DUE_USERS_MAX)? {
            stats.add(&self.close_for(as_of_ms, true, chunk)?);
        }
        Ok(stats)
    }

    /// Takes new epochs of dimension tables over. Gives the jobs that compute users of changed rows
    /// again, `users_per_s` of them in one window; they are the caller's to do.
    pub fn follow_epochs(&self, users_per_s: NonZeroU32) -> Result<VecDeque<Job>, EngineError> {
        self.dimensions.refresh();
        super::reload::jobs(self.shared.store.as_ref(), &self.shared.ruleset, users_per_s, None)
    }

    /// Closes a window that also computes a chunk's users.
    pub fn close_for(
        &mut self,
        as_of_ms: i64,
        roll_up: bool,
        chunk: Chunk,
    ) -> Result<WindowStats, EngineError> {
        let as_of_ms = self.as_of_ms.map_or(as_of_ms, |last| last.max(as_of_ms));
        self.as_of_ms = Some(as_of_ms);
        let catalog = Arc::clone(&self.shared.ruleset.catalog);
        let mut cut = self.intake.cut();
        cut.totals.windows = self.window;
        let mut assembly = Assembly::new(self.window, Some(as_of_ms), cut, self.shards.len());
        assembly.due_done = chunk.due_done;
        assembly.meta = chunk.meta;
        let shards = self.shards.len();
        let mut due = split_by_shard(catalog.uid, shards, chunk.due, |key| key);
        let mut also = split_by_shard(catalog.uid, shards, chunk.also, |stored| &stored.0);
        let mut history = split_by_shard(catalog.uid, shards, chunk.history, |h| &h.0);
        for (at, shard) in self.shards.iter_mut().enumerate() {
            assembly.add(shard.close(&WindowClose {
                window: self.window,
                as_of_ms,
                as_of_day: catalog.zone.day_of(as_of_ms),
                due: std::mem::take(&mut due[at]),
                also: std::mem::take(&mut also[at]),
                also_cause: chunk.cause,
                history: std::mem::take(&mut history[at]),
                side: chunk.side.clone(),
                roll_up: roll_up.then(|| AsOf { ms: as_of_ms, day: catalog.zone.day_of(as_of_ms) }),
                fences: Arc::default(),
                dimensions: self.dimensions.pin(),
            })?);
        }
        self.window += 1;
        let (write, stats) = assembly.finish(&mut self.folds);
        self.shared.store.write_window(write)?;
        self.shards.iter_mut().try_for_each(Shard::stored)?;
        Ok(stats)
    }
}
