//! What is published around an engine: before its first window, and after its last.
//!
//! In: what the engine is to do, and under which assignment. Out: what shards share, the number of the
//! first window, changes that an engine before it left unpublished.
//! Invariant: no window closes before those are acknowledged.

use std::sync::Arc;

use super::intake::Totals;
use super::status::Status;
use super::{EngineError, Options};
use crate::shard::Shared;
use crate::source::kafka::Assignment;
use crate::store::{FILES, Ownership, Term};
use crate::write::publish::windows;
use crate::write::window::TOTALS_KEY;

/// What shards share, and the number of the first window. What an engine before this one may not have
/// published is published first.
pub(super) fn begin(
    options: &Options,
    assignment: Option<&Assignment>,
    status: &Arc<Status>,
) -> Result<(Shared, u64), EngineError> {
    if let (Some(topics), Some(assignment)) = (&options.topics, assignment) {
        topics.group.attach(assignment, status);
    }
    let first_window = first_window(options, assignment)?;
    let mut shared = super::start::shared(options, assignment)?;
    if !options.dry {
        let owned = owned(assignment);
        let at = (owned.as_deref(), first_window);
        let store = options.store.as_ref();
        let known = windows::recover(&options.publish, store, &options.ruleset, at, status)?;
        shared.publishing = known.map(Arc::new);
    }
    Ok((shared, first_window))
}

/// All windows before this one are published. Should the store not take that, the next engine
/// publishes the last one again.
pub(super) fn settle(options: &Options, assignment: Option<&Assignment>, next_window: u64) {
    if options.dry {
        return;
    }
    // The engine has ended: nothing is waited for.
    options.patience.while_holds(|| false);
    let owned = owned(assignment);
    let (publish, store) = (&options.publish, options.store.as_ref());
    if let Err(error) = windows::settle(publish, store, owned.as_deref(), next_window) {
        tracing::warn!(%error, "the next start will publish the last window again");
    }
}

/// Whose lists of changes an engine has. That of files goes with partition 0.
fn owned(assignment: Option<&Assignment>) -> Option<Vec<u32>> {
    let mut owned = assignment?.partitions.clone();
    if owned.contains(&0) {
        owned.push(FILES);
    }
    Some(owned)
}

/// The number of the first window that an engine writes. Of a window that was not written as a whole
/// there may be due entries, which are named by it: that number must not come again.
fn first_window(options: &Options, assignment: Option<&Assignment>) -> Result<u64, EngineError> {
    let store = options.store.as_ref();
    if store.is_atomic() || options.dry {
        return Ok(super::start::read_meta::<Totals>(store, TOTALS_KEY)?.windows + 1);
    }
    let term = match assignment {
        Some(assignment) => Term::new(assignment.term)?,
        None => {
            let term = store.take_term()?;
            store.own(Ownership::of_files(term))?;
            term
        }
    };
    Ok(term.first_window() + 1)
}
