//! What an engine is to run, and what has to be done before its first window.
//!
//! In: settings and parts from a command. Out: the same, for the engine.
//! Invariant: nothing in here runs but the preparation, on a thread of its own.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::checkpoint::WindowLimits;
use super::job::Job;
use super::ruleset::Ruleset;
use super::slices::SliceLimits;
use super::status::Status;
use super::swap::Swaps;
use super::topics::Topics;
use super::{Clock, EngineError};
use crate::dimension::Lookups;
use crate::source::file::{FileSpec, ReadLimits};
use crate::store::Store;
use crate::store::patient::Patience;
use crate::write::publish::Publish;

/// What to run.
pub struct Options {
    /// The compiled catalogue.
    pub ruleset: Arc<Ruleset>,
    /// Where profiles go.
    pub store: Arc<dyn Store>,
    /// When somebody reads profiles there.
    pub reads: Reads,
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
    /// Topics are owned only for this, and not read: the engine leaves the group when it is done.
    pub errand: Option<Errand>,
}

/// When profiles are read in the store by others than the engine itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reads {
    /// At any time.
    #[default]
    Meanwhile,
    /// When the engine has ended.
    AtTheEnd,
    /// Never: one in memory need not hold any but those of users who left.
    Never,
}

/// What a process joins the group for that reads no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// Carries a command out for the partitions that it is given.
    Command(u64),
    /// What files and jobs do to users whoever they are: nothing happens while it does not own all
    /// partitions.
    Everybody,
}

impl Options {
    /// Whether profiles are packed when their users leave memory, or when the engine ends: nobody reads
    /// them before, and there is nothing to be lost by a crash that the store would not lose. Not where
    /// other rules or other rows of tables may come meanwhile, whose users are looked for in the store.
    pub(super) fn packs_late(&self) -> bool {
        let goes_on = self.live || self.stay || self.topics.is_some();
        let tables_change = self.ruleset.catalog.dimensions.iter().any(|d| d.topic.is_some());
        let is_read = self.reads == Reads::Meanwhile || self.publish.changes.is_some();
        self.store.is_volatile() && !(goes_on || tables_change || is_read)
    }

    /// Batches between sources and shards: so few that their users do not take much more memory
    /// than there is. A block of events may bring users of some eight times its size.
    pub(super) fn batches_max(&self) -> usize {
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
    pub(super) fn start(
        &self,
        status: &Arc<Status>,
    ) -> Result<Option<JoinHandle<()>>, EngineError> {
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
