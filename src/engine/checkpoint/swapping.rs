//! Another catalogue becomes active between two windows.
//!
//! In: a proposal. Out: shards, decoders and jobs that go on by it.
//! Invariant: nothing is under way when it becomes active, and everybody is stored.

use std::sync::Arc;

use super::CheckpointActor;
use crate::engine::job::{Job, Limit};
use crate::engine::route::Router;
use crate::engine::ruleset::Ruleset;
use crate::engine::swap::{Active, Proposal};
use crate::engine::version::is_recomputed;
use crate::engine::{Clock, EngineError};
use crate::shard::TagStats;
use crate::shard::actor::Swap;
use crate::write::profile::Schemas;

impl CheckpointActor {
    /// Holds sources and stores what they have read; when that is done, the proposal is active.
    pub(super) fn begin_swap(&mut self, router: &Router, proposal: Proposal) {
        router.intake().hold();
        self.close(router, None);
        if self.under_way {
            self.proposal = Some(proposal);
        } else if let Err(error) = self.finish_swap(proposal) {
            self.parts.status.fail(error);
        }
    }

    /// Makes a proposal active. Everybody is stored, and nothing is under way.
    pub(super) fn finish_swap(&mut self, mut proposal: Proposal) -> Result<(), EngineError> {
        let Some(router) = self.wire.as_ref().map(|w| w.router.clone()) else { return Ok(()) };
        let store = Arc::clone(&self.parts.store);
        if !proposal.save(store.as_ref(), self.ended.as_of_ms)? {
            router.intake().release();
            self.parts.swaps.was_late();
            return Ok(());
        }
        let Proposal { next, files, dimensions, follows } = proposal;
        let number = next.version.number;
        let recomputes = next.is_new || next.begins_history;
        let recomputes = recomputes || follows && !is_recomputed(store.as_ref(), number)?;
        if self.parts.clock == Clock::Event {
            let history = next.version.history.as_ref().and_then(|h| h.as_of_ms);
            self.ended.as_of_ms = self.ended.as_of_ms.max(history);
        }
        let ruleset = Arc::new(next.ruleset);
        let swap = Swap { ruleset: Arc::clone(&ruleset), schemas: Arc::new(Schemas::default()) };
        for shard in router.shards() {
            if shard.try_send(swap.clone()).is_err() {
                return Err(EngineError::ActorGone("shard"));
            }
        }
        self.parts.quarantine.clear();
        let before = std::mem::replace(&mut self.parts.ruleset, Arc::clone(&ruleset));
        std::mem::replace(&mut self.parts.dimensions, dimensions).stop_following();
        self.ended.stats.tags = moved_stats(&self.ended.stats.tags, &before, &ruleset);
        router.swap(Arc::clone(&ruleset));
        let jobs = &mut self.parts.jobs;
        // A command is found again.
        jobs.retain(|job| !job.is_of_catalogue() && !job.is_command());
        jobs.iter_mut().for_each(Job::forget_ahead);
        let limit = self.parts.recompute_users_per_s_max.map(Limit::new);
        if recomputes {
            jobs.push_front(Job::recompute(
                store.as_ref(),
                &ruleset,
                limit,
                Some(&self.parts.dimensions),
            )?);
        }
        if self.parts.partitions.is_some() {
            // It began when this process had its users already: whoever merges it waits for them.
            crate::engine::history::none_pending(store.as_ref())?;
        }
        if let Some(job) = crate::engine::history::resume(store.as_ref(), &ruleset)? {
            jobs.push_front(job);
        }
        let held_ms = self.since_close.elapsed().as_millis();
        tracing::info!(version = ruleset.version, held_ms, "another catalogue is active");
        self.follow_topics()?;
        self.parts.swaps.activated(Active { ruleset, files: Arc::new(files) });
        Ok(())
    }
}

/// What was counted for tags, in the order of another catalogue's.
fn moved_stats(stats: &[TagStats], before: &Ruleset, now: &Ruleset) -> Vec<TagStats> {
    let had = |id: &str| before.catalog.tags.iter().position(|t| t.id == id);
    let moved = |id: &str| had(id).and_then(|at| stats.get(at).copied()).unwrap_or_default();
    now.catalog.tags.iter().map(|t| moved(&t.id)).collect()
}
