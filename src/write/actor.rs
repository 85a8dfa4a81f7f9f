//! The writer as an actor: collects a window's parts and stores it.
//!
//! In: window beginnings and parts. Out: one atomic write a window, then word to the checkpoint.
//! Invariant: one window at a time; a store that fails for good stops the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, Context, Handler, Message, Recipient};

use super::publish::Publish;
use super::publish::windows::Windows;
use super::window::Assembly;
use crate::clock::Stopwatch;
use crate::engine::EngineError;
use crate::engine::intake::FoldTotals;
use crate::engine::ruleset::Ruleset;
use crate::engine::status::Status;
use crate::shard::WindowStats;
use crate::shard::actor::Part;
use crate::source::kafka::Lease;
use crate::source::position::{POSITION_PREFIX, Position};
use crate::store::{ClockMode, Store, WindowWrite};
use crate::telemetry::facts::WindowWritten;

/// A window has begun: its parts will come. They are computed by these rules.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Begin(pub Assembly, pub Arc<Ruleset>);

/// A window is stored.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stored {
    /// Its number.
    pub window: u64,
    /// What the shards did.
    pub stats: WindowStats,
}

/// Writes windows.
pub struct WriterActor {
    store: Arc<dyn Store>,
    checkpoint: Recipient<Stored>,
    status: Arc<Status>,
    pending: Option<(Assembly, Arc<Ruleset>)>,
    publish: Windows,
    folds: FoldTotals,
    lease: Option<Lease>,
}

impl WriterActor {
    /// A writer into a store. `lease`: the right to write what partitions of topics hold.
    pub fn new(
        store: Arc<dyn Store>,
        checkpoint: Recipient<Stored>,
        status: Arc<Status>,
        folds: FoldTotals,
        lease: Option<Lease>,
        publish: Publish,
    ) -> Self {
        let publish = Windows::new(publish, Arc::clone(&store), Arc::clone(&status));
        Self { store, checkpoint, status, pending: None, publish, folds, lease }
    }

    /// Writes a window, publishes what it changed, then tells the group that its offsets are done with.
    fn write(
        &mut self,
        mut write: WindowWrite,
        positions: &BTreeMap<String, Position>,
        (window, ruleset): (u64, &Arc<Ruleset>),
    ) -> Result<(), EngineError> {
        if let Some(lease) = self.lease.as_ref().filter(|_| !self.store.is_atomic()) {
            // The group's offsets are the positions: another owner reads them there.
            write.meta.retain(|(key, _)| {
                let name = key.strip_prefix(POSITION_PREFIX);
                !name.is_some_and(|name| lease.remembers(name))
            });
        }
        self.check_lease()?;
        let changed = self.publish.list(window, &mut write)?;
        self.store.write_window(write)?;
        if !changed.is_empty() {
            // What was sent to the store without the right to it may have lost: nobody is to be told.
            self.check_lease()?;
        }
        self.publish.publish(changed, ruleset)?;
        self.lease.as_ref().map_or(Ok(()), |lease| Ok(lease.stored(positions)?))
    }

    fn check_lease(&self) -> Result<(), EngineError> {
        self.lease.as_ref().map_or(Ok(()), |lease| Ok(lease.check()?))
    }
}

impl Actor for WriterActor {
    type Context = Context<Self>;
}

impl Handler<Begin> for WriterActor {
    type Result = ();

    fn handle(&mut self, begin: Begin, _: &mut Self::Context) {
        self.pending = Some((begin.0, begin.1));
    }
}

impl Handler<Part> for WriterActor {
    type Result = ();

    fn handle(&mut self, part: Part, _: &mut Self::Context) {
        let Some((mut assembly, ruleset)) = self.pending.take() else { return };
        if !assembly.add(part.0) {
            self.pending = Some((assembly, ruleset));
            return;
        }
        let (window, dry) = (assembly.window, assembly.dry);
        let fresh = std::mem::take(&mut assembly.cut.fresh);
        let positions = match self.lease {
            Some(_) => assembly.cut.positions.clone(),
            None => BTreeMap::new(),
        };
        if !dry && let Err(error) = self.publish.rejects(&assembly.cut.rejects) {
            self.status.fail(error);
            return;
        }
        let (write, stats) = assembly.finish(&mut self.folds);
        let profiles = stats.profiles;
        let watch = Stopwatch::start();
        if !dry && let Err(error) = self.write(write, &positions, (window, &ruleset)) {
            self.status.fail(error);
            return;
        }
        let by_wall_clock = self.store.identity().clock == ClockMode::Wall;
        let (took, now_ms) = (watch.elapsed(), crate::clock::wall_ms());
        let fact =
            WindowWritten { stats: &stats, profiles, took, fresh: &fresh, now_ms, by_wall_clock };
        fact.tell();
        self.status.windows.fetch_add(1, Ordering::Relaxed);
        self.status.profiles.fetch_add(profiles, Ordering::Relaxed);
        self.status.due_users.fetch_add(stats.due_users, Ordering::Relaxed);
        self.status.examined_users.fetch_add(stats.examined_users, Ordering::Relaxed);
        if self.checkpoint.try_send(Stored { window, stats }).is_err() {
            self.status.fail(EngineError::ActorGone("checkpoint"));
        }
    }
}
