//! What is published of each window, in which order.
//!
//! In: windows that are about to be written, and that were. Out: lists for the store, records for the
//! topics.
//! Invariant: a window's changes are published when the store has acknowledged all of it; nothing of the
//! next one is written before they are acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::outbox::Outbox;
use super::pending::{self, Published};
use super::{Publish, Reader, record};
use crate::clock::Stopwatch;
use crate::engine::EngineError;
use crate::engine::ruleset::Ruleset;
use crate::engine::status::Status;
use crate::event::reject::Reject;
use crate::shard::fence::At;
use crate::store::{Bytes, Store, UidKey, WindowWrite};
use crate::telemetry::facts;
use crate::user::snapshot::decode_tags;
use crate::write::profile::{ProfileError, Schemas};

/// How long a stop waits for what an engine before this one left: a broker acknowledges at once, or is away.
const STOPPING_MAX: Duration = Duration::from_secs(10);

/// Publishes the windows of one engine.
pub struct Windows {
    publish: Publish,
    store: Arc<dyn Store>,
    /// Nobody waits for an engine that has failed.
    status: Arc<Status>,
    /// How profiles were read so far, by the rules that are active.
    active: Option<(Arc<Ruleset>, Schemas)>,
}

/// A window's changes, to be published when it is stored.
#[must_use = "changes that are not published are lost to those who follow the topic"]
pub struct Changed {
    window: u64,
    profiles: Vec<(UidKey, Bytes)>,
}

impl Changed {
    /// Whether nothing that others may see has changed.
    pub fn is_empty(&self) -> bool {
        self.profiles.is_empty()
    }
}

impl Windows {
    /// Publishes to these topics what goes to this store.
    pub fn new(publish: Publish, store: Arc<dyn Store>, status: Arc<Status>) -> Self {
        Self { publish, store, status, active: None }
    }

    /// Publishes rejects: before the window that covers them is written, since afterwards nobody reads
    /// them again. One that is read again has the same key.
    pub fn rejects(&self, rejects: &[Reject]) -> Result<(), EngineError> {
        let Some(sink) = self.publish.rejects.as_ref().filter(|_| !rejects.is_empty()) else {
            return Ok(());
        };
        let (status, watch) = (&self.status, Stopwatch::start());
        let goes_on = || !status.failed();
        for reject in rejects {
            sink.send(record::of_reject(reject), &goes_on)?;
        }
        sink.flush(&goes_on)?;
        facts::published("rejects", rejects.len() as u64, watch.elapsed());
        Ok(())
    }

    /// Lets the store know whose changes a window holds: with the window, or, where that is not written
    /// as a whole, before it.
    pub fn list(&self, window: u64, write: &mut WindowWrite) -> Result<Changed, EngineError> {
        let mut changed = Changed { window, profiles: Vec::new() };
        let (is_atomic, mut whose) = (self.store.is_atomic(), Vec::new());
        if self.publish.changes.is_none() {
            return Ok(changed);
        }
        for (key, profile) in &write.profiles {
            let tags = decode_tags(profile).map_err(ProfileError::from)?;
            let (applied, outbox) = tags.applied().map_err(ProfileError::from)?;
            let outbox = Outbox::decode(outbox).map_err(ProfileError::from)?;
            if outbox.is_some_and(|outbox| outbox.window == window) {
                changed.profiles.push((key.clone(), profile.clone()));
                let home = || self.store.home(key);
                let partition = applied.partition.or_else(home).unwrap_or(At::FILES);
                whose.push((!is_atomic).then_some(partition));
            }
        }
        let keys = changed.profiles.iter().map(|(key, _)| key.as_bytes());
        let lists = pending::lists(window, whose.into_iter().zip(keys));
        if is_atomic {
            write.meta.extend(lists);
        } else if !lists.is_empty() {
            self.store.write_window(WindowWrite { meta: lists, ..WindowWrite::default() })?;
        }
        Ok(changed)
    }

    /// Publishes the changes of a window that is stored.
    pub fn publish(&mut self, changed: Changed, ruleset: &Arc<Ruleset>) -> Result<(), EngineError> {
        let Some(sink) = self.publish.changes.as_ref().filter(|_| !changed.is_empty()) else {
            return Ok(());
        };
        let watch = Stopwatch::start();
        let active = self.active.take().filter(|(active, _)| Arc::ptr_eq(active, ruleset));
        let (_, schemas) =
            self.active.insert(active.unwrap_or_else(|| (Arc::clone(ruleset), Schemas::default())));
        let reader = Reader { ruleset, schemas, store: self.store.as_ref() };
        let status = &self.status;
        let goes_on = || !status.failed();
        let mut records = 0;
        for (key, profile) in &changed.profiles {
            records += reader.send(changed.window, key, profile, sink.as_ref(), &goes_on)?;
        }
        sink.flush(&goes_on)?;
        facts::published("changes", records, watch.elapsed());
        Ok(())
    }
}

/// Publishes what an engine before this one may not have published; none where nothing is published.
pub(crate) fn recover(
    publish: &Publish,
    store: &dyn Store,
    ruleset: &Ruleset,
    (partitions, first_window): (Option<&[u32]>, u64),
    status: &Status,
) -> Result<Option<Published>, EngineError> {
    if publish.changes.is_none() {
        return Ok(None);
    }
    let schemas = Schemas::default();
    let reader = Reader { ruleset, schemas: &schemas, store };
    let stop = crate::engine::stop_signals();
    let stopping = std::cell::OnceCell::new();
    let goes_on = || {
        let is_stopping = status.stopping() || stop.load(Ordering::Relaxed);
        let waits = || stopping.get_or_init(Stopwatch::start).elapsed() < STOPPING_MAX;
        !status.failed() && (!is_stopping || waits())
    };
    pending::recover(publish, &reader, partitions, first_window, &goes_on).map(Some)
}

/// An engine has ended, and all its windows are published: nobody has to send them again.
pub(crate) fn settle(
    publish: &Publish,
    store: &dyn Store,
    partitions: Option<&[u32]>,
    next_window: u64,
) -> Result<(), EngineError> {
    if publish.changes.is_none() {
        return Ok(());
    }
    let meta = pending::nothing(next_window, &pending::owners(store, partitions));
    Ok(store.write_window(WindowWrite { meta, ..WindowWrite::default() })?)
}
