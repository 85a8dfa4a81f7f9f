//! Working on what a consumer group assigns: one engine for each assignment.
//!
//! In: assignments, one after the other. Out: what all their engines did.
//! Invariant: each engine begins with what is stored; between two of them nothing is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::EngineError;
use super::command::OwnCommands;
use super::history;
use super::job::Job;
use super::options::{Errand, Options};
use super::owned::OwnedStore;
use super::report::{Observed, Report};
use super::signals::stop_signals;
use super::start::{RESTARTS_MAX, attempt, first_jobs, follow_swaps};
use super::status::Status;
use super::swap::{Active, Proposal};
use super::topics::Topics;
use crate::source::kafka::{Assignment, KafkaError};
use crate::store::patient::Patience;
use crate::store::{Ownership, Store, Term};
use crate::write::publish::PublishError;

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
    let (mut all, mut restarts, mut is_told) = (Report::default(), 0, false);
    let shared = Arc::clone(&options.store);
    loop {
        observe(&Observed { status: &idle, sources: &[] });
        if stop.load(Ordering::Relaxed) {
            // An errand that was done has returned: this one is not known to be.
            return Ok(Report { is_interrupted: true, ..all });
        }
        swap_while_idle(options)?;
        if options.swaps.blocked().is_some() {
            if let Some(failure) = topics.group.take_failure() {
                return Err(failure.into());
            }
            // No condition to wait on: the watch tries again, or the process is stopped.
            std::thread::park_timeout(PATIENCE);
            continue;
        }
        let Some(assignment) = topics.group.next(PATIENCE)? else { continue };
        let is_alone = is_alone(topics, &assignment);
        if options.errand == Some(Errand::Everybody) && !is_alone {
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    "another process of the group owns users: this goes on when it has ended; stop it"
                );
            }
            topics.group.release(false);
            std::thread::park_timeout(PATIENCE);
            continue;
        }
        wait_for_store(&options.patience);
        let jobs = take_over(options, &shared, &assignment)?;
        let result = attempt(options, Some(&assignment), jobs, observe);
        // An engine that stopped for it cannot follow leaves its partitions to the next one; and windows
        // of a command's next engine are to have numbers of their own.
        let is_errand = options.errand == Some(Errand::Everybody);
        topics.group.release(result.is_err() || options.swaps.blocked().is_some() || is_errand);
        match result {
            Ok(report) => {
                let is_interrupted = report.is_interrupted;
                all.add(report);
                let is_done = match options.errand {
                    None => false,
                    Some(Errand::Everybody) => !is_interrupted,
                    Some(Errand::Command(command)) => {
                        let own = OwnCommands::open(shared.as_ref(), &assignment.partitions)?;
                        own.done() >= command
                    }
                };
                if is_done {
                    return Ok(all);
                }
            }
            // Partitions may be taken away while the store is down: their next owner reads again.
            Err(
                EngineError::Kafka(KafkaError::Lost)
                | EngineError::NotStored { .. }
                | EngineError::NotCommitted { .. }
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

/// Begins an assignment: the store as its owner sees it, and what has to be done first.
fn take_over(
    options: &mut Options,
    shared: &Arc<dyn Store>,
    assignment: &Assignment,
) -> Result<VecDeque<Job>, EngineError> {
    if options.errand != Some(Errand::Everybody) && !shared.is_atomic() {
        // Before anything is written: whoever merges it waits for these partitions.
        history::none_pending(shared.as_ref())?;
    }
    let (term, partitions) = (Term::new(assignment.term)?, assignment.partitions.clone());
    if shared.is_atomic() {
        shared.own(Ownership { term, partitions })?;
    } else {
        let owned = OwnedStore::new(Arc::clone(shared), &partitions)?;
        shared.own(Ownership { term, partitions: owned.drained() })?;
        options.store = Arc::new(owned);
    }
    follow_swaps(options);
    first_jobs(options)?;
    let mut jobs = std::mem::take(&mut options.jobs);
    jobs.push_back(Job::Due);
    Ok(jobs)
}

/// Whether an assignment has all partitions that there are.
fn is_alone(topics: &Topics, assignment: &Assignment) -> bool {
    let all = topics.group.topics().iter().map(|topic| topic.partitions).max().unwrap_or(0);
    assignment.partitions.len() >= all as usize
}

/// A catalogue that becomes active while this process owns nothing.
fn swap_while_idle(options: &Options) -> Result<(), EngineError> {
    let Some(mut proposal) = options.swaps.take() else { return Ok(()) };
    let store = options.store.as_ref();
    if !proposal.save(store, super::stored_as_of(store)?)? {
        options.swaps.was_late();
        return Ok(());
    }
    let Proposal { next, files, .. } = proposal;
    tracing::info!(version = next.version.number, "another catalogue is active");
    let active = Active { ruleset: Arc::new(next.ruleset), files: Arc::new(files) };
    options.swaps.activated(active);
    Ok(())
}
