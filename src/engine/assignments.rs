//! Working on what a consumer group assigns: one engine for each assignment.
//!
//! In: assignments, one after the other. Out: what all their engines did.
//! Invariant: each engine begins with what is stored; between two of them nothing is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::EngineError;
use super::job::Job;
use super::options::Options;
use super::owned::OwnedStore;
use super::report::{Observed, Report};
use super::signals::stop_signals;
use super::start::{RESTARTS_MAX, attempt, first_jobs, follow_swaps};
use super::status::Status;
use super::topics::Topics;
use crate::source::kafka::KafkaError;
use crate::store::patient::Patience;
use crate::store::{Ownership, Term};

/// While no engine runs, the store is waited for until a signal comes.
pub fn wait_for_store(patience: &Patience) {
    let stop = stop_signals();
    patience.while_holds(move || !stop.load(Ordering::Relaxed));
}

/// Works on one assignment after the other until a signal comes.
pub(super) fn run_assignments(
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
            Err(EngineError::Kafka(KafkaError::Lost) | EngineError::NotStored { .. })
                if !stop.load(Ordering::Relaxed) =>
            {
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
