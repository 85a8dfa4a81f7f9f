//! A command that may write whoever it wants to.
//!
//! In: a store. Out: the right to write all of its users, for an engine of this command's own. Of an
//! embedded store it is had with the store. Of one that processes share it is had by joining their group
//! when none of them runs, and owning all partitions; topics are not read. Where the catalogue reads no
//! topics there is no group, and nobody else.
//! Invariant: while another process of the group owns a partition, nothing is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Failure, Outcome, topics};
use crate::catalog::model::Catalog;
use crate::clock::Deadline;
use crate::config::Config;
use crate::engine::topics::Topics;
use crate::engine::{Errand, Options, stop_signals, wait_for_store};
use crate::source::kafka::members;
use crate::store::Store;
use crate::store::patient::{Patience, PatientStore};

/// How often the group is asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the coordinator may take to notice that a session is over.
const SESSION_SLACK: Duration = Duration::from_secs(10);

/// How long a first member may wait for its partitions.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Owner {
    store: Arc<dyn Store>,
    patience: Patience,
    topics: Option<Topics>,
}

impl Owner {
    /// Becomes the owner of everybody. `what`: needs that, as people name it.
    pub(super) fn of(
        store: &Arc<dyn Store>,
        catalog: &Catalog,
        config: &Config,
        what: &str,
    ) -> Result<Self, Failure> {
        let (mut store, patience) = (Arc::clone(store), Patience::default());
        if store.is_atomic() {
            return Ok(Self { store, patience, topics: None });
        }
        wait_for_store(&patience);
        store = Arc::new(PatientStore::new(store, patience.clone()));
        let topics = own_all(catalog, config, &store, what)?;
        Ok(Self { store, patience, topics })
    }

    /// The store, which is waited for while it is away.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// An engine works by this right.
    pub(super) fn lend(&self, options: &mut Options) {
        options.store = Arc::clone(&self.store);
        options.patience = self.patience.clone();
        options.topics.clone_from(&self.topics);
        options.errand = self.topics.as_ref().map(|_| Errand::Everybody);
    }
}

/// Fails when a signal has come while it waited.
fn check_stop(what: &str) -> Outcome {
    if stop_signals().load(Ordering::Relaxed) {
        return Err(Failure::Failed(format!(
            "{what} was stopped before it had all users to itself: nothing was written"
        )));
    }
    Ok(())
}

/// Waits until no process of the group is left: one that was killed counts until its session is over.
/// `what`: needs all users to itself.
pub(super) fn wait_for_nobody(config: &Config, what: &str) -> Outcome {
    let deadline = Deadline::after(patience(config));
    let mut told = false;
    loop {
        let members = members(&config.kafka).map_err(topics::failure)?;
        if members == 0 {
            return Ok(());
        }
        check_stop(what)?;
        if deadline.is_over() {
            return Err(Failure::Input(format!(
                "{what} has all users to itself, and group `{}` has {members} members: stop these \
                 processes, run this, and start them again; records wait in their topics meanwhile",
                config.kafka.group()
            )));
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!(
                "group `{}` has {members} members: waiting whether their sessions end",
                config.kafka.group()
            );
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Joins the group, reads nothing, and waits until it owns all partitions: the one process that may
/// write whoever it wants to. `what`: see [`wait_for_nobody`].
fn own_all(
    catalog: &Catalog,
    config: &Config,
    store: &Arc<dyn Store>,
    what: &str,
) -> Result<Option<Topics>, Failure> {
    if topics::named(catalog).is_empty() {
        return Ok(None);
    }
    wait_for_nobody(config, what)?;
    let Some(topics) = topics::join(catalog, config, store, false)? else { return Ok(None) };
    let all = topics.group.topics().iter().map(|topic| topic.partitions).max().unwrap_or(0);
    let deadline = Deadline::after(patience(config) + JOIN_MAX);
    loop {
        let assignment = topics.group.next(LOOK_EVERY).map_err(topics::failure)?;
        if let Some(assignment) = assignment {
            // The engine asks for it again.
            topics.group.release(false);
            if assignment.partitions.len() >= all as usize {
                return Ok(Some(topics));
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        check_stop(what)?;
        if deadline.is_over() {
            let why = topics.group.idle().unwrap_or_else(|| {
                let mine = topics.group.partitions();
                format!(
                    "it gave {mine} of {all} partitions to this process: another one has joined"
                )
            });
            return Err(Failure::Failed(format!(
                "{what} has all users to itself, and group `{}` does not give them: {why}; run this \
                 again when no other process of the group runs",
                config.kafka.group()
            )));
        }
    }
}

/// How long a member may be dead before the group knows it.
fn patience(config: &Config) -> Duration {
    Duration::from_millis(config.kafka.session_timeout_ms()) + SESSION_SLACK
}
