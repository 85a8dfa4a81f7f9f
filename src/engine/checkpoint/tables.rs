//! Dimension tables while an engine runs.
//!
//! In: what the store and topics say. Out: tables for the next windows, and jobs for the users of rows
//! that changed.
//! Invariant: users are told of a row when windows see it.

use std::collections::VecDeque;
use std::time::Duration;

use super::CheckpointActor;
use crate::clock::Stopwatch;
use crate::engine::EngineError;
use crate::engine::job::Job;

/// How long the first window waits for topics that keep stored tables.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(60);

impl CheckpointActor {
    /// Tables are as they are to be for the first window. False: not yet.
    pub(super) fn prepare_tables(&mut self) -> bool {
        if self.followed.is_none()
            && let Err(error) = self.follow_topics()
        {
            self.parts.status.fail(error);
            return false;
        }
        let since = self.followed.get_or_insert_with(Stopwatch::start);
        // What ends has to have read all there was; what goes on, what is known already.
        let is_done = self.parts.dry || self.parts.dimensions.are_followed(!self.parts.live);
        let stops = self.parts.status.stopping();
        if !is_done && !stops {
            if since.elapsed() < FOLLOWED_WITHIN {
                return false;
            }
            tracing::warn!(
                seconds = FOLLOWED_WITHIN.as_secs(),
                "topics of stored dimension tables cannot be read to their ends: users are computed with \
                 what is known"
            );
        }
        self.follow_epochs();
        self.prepared = true;
        true
    }

    /// From now on topics are written into the tables that they keep.
    pub(super) fn follow_topics(&mut self) -> Result<(), EngineError> {
        if self.parts.dry {
            return Ok(());
        }
        let known =
            crate::engine::reload::known(self.parts.store.as_ref(), &self.parts.ruleset.catalog)?;
        self.followed = Some(Stopwatch::start());
        self.parts.dimensions.follow(known).map_err(EngineError::Thread)
    }

    /// Takes new epochs of dimension tables over; users of changed rows are computed again by jobs.
    pub(super) fn follow_epochs(&mut self) {
        // A table that a topic keeps changes again when everybody knows its last change.
        let jobs = &self.parts.jobs;
        let held = |table: &str| jobs.iter().any(|job| job.is_of_dimension(Some(table)));
        let switched = self.parts.dimensions.refresh_but(held);
        for table in &switched {
            if self.prepared && !table.is_same {
                tracing::info!(table = table.table, epoch = ?table.epoch, "dimension table switched");
            }
        }
        if (switched.is_empty() && self.prepared) || self.parts.dry {
            return;
        }
        match self.changed_jobs() {
            Ok(jobs) => {
                self.parts.jobs.iter_mut().for_each(Job::forget_ahead);
                jobs.into_iter().rev().for_each(|job| self.parts.jobs.push_front(job));
            }
            Err(error) => self.parts.status.fail(error),
        }
    }

    /// What new rows of dimension tables make necessary, and is not about to be done.
    fn changed_jobs(&self) -> Result<VecDeque<Job>, EngineError> {
        let (store, limit) = (self.parts.store.as_ref(), self.parts.changed_users_per_s_max);
        let (ruleset, dimensions) = (&self.parts.ruleset, self.parts.dimensions.as_ref());
        let topics = dimensions.of_topics();
        let mut jobs = crate::engine::reload::topic_jobs(store, ruleset, &topics, limit)?;
        jobs.extend(crate::engine::reload::jobs(store, ruleset, limit, Some(dimensions))?);
        jobs.retain(|job| !self.parts.jobs.iter().any(|queued| queued.ends_like(job)));
        Ok(jobs)
    }
}
