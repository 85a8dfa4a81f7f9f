//! Topics as the engine reads them: one group, many assignments, an engine for each.
//!
//! In: a member of a consumer group, the streams that read each topic. Out: the flow of an
//! assignment's records.
//! Invariant: each assignment is worked on by an engine of its own, which begins with what is stored.

use std::sync::Arc;

use super::EngineError;
use super::feed::{Flow, Lane, decoders};
use super::ruleset::Ruleset;
use super::status::Status;
use crate::event::quarantine::Quarantine;
use crate::shard::fence::{At, Replay};
use crate::source::cut::Cutter;
use crate::source::file::SourceError;
use crate::source::kafka::{Assignment, Group};
use crate::source::recipe::Recipe;
use crate::user::texts::Texts;

/// Topics to read.
#[derive(Clone)]
pub struct Topics {
    /// The member of the group.
    pub group: Arc<Group>,
    /// For each of its topics the names of the streams that read it; then the same for each topic that
    /// comes by way of `relay`.
    pub streams: Vec<Vec<String>>,
    /// Records of a partition that an owner may have read beyond its last commit.
    pub commit_ahead_rows_max: u64,
}

/// What a flow needs of its engine.
pub(super) struct Around<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) texts: &'a Arc<Texts>,
    pub(super) quarantine: &'a Arc<Quarantine>,
    pub(super) status: &'a Arc<Status>,
    pub(super) shards: usize,
}

impl Topics {
    /// Whether this process reads: how many partitions and how far behind it is, or why none.
    pub fn condition(&self) -> Result<String, String> {
        if let Some(why) = self.group.idle() {
            return Err(why);
        }
        let (mine, topics) = (self.group.partitions(), self.group.topics());
        let all = topics.first().map_or(0, |topic| topic.partitions);
        let lag = match self.group.lag_records() {
            Some(records) => format!("{records} records behind the ends of the logs"),
            None => "how far behind is not known yet".to_owned(),
        };
        Ok(format!("{mine} of {all} partitions of {} topics are read, {lag}", topics.len()))
    }

    /// The records of an assignment.
    pub(super) fn flow(
        &self,
        assignment: &Assignment,
        around: &Around<'_>,
    ) -> Result<Flow, EngineError> {
        let (catalog, layout) = (&around.ruleset.catalog, &around.ruleset.layout);
        let lane = |(topic, streams): (&String, &Vec<String>)| Lane {
            recipe: Recipe {
                source: topic.clone(),
                streams: streams.clone(),
                header: None,
                parquet: None,
                texts: Arc::clone(around.texts),
                shards: around.shards,
                quarantine: Arc::clone(around.quarantine),
                with_offsets: true,
            },
            names: Vec::new(),
            at: None,
        };
        let topics = self.group.topics().iter().map(|meta| &meta.topic);
        let topics = topics.chain(self.group.origins());
        let lanes: Vec<Lane> = topics.zip(&self.streams).map(lane).collect();
        let set = |_| lanes.iter().map(|lane| lane.recipe.decoder(catalog, layout)).collect();
        let decoders = (0..decoders(1)).map(set).collect::<Result<_, SourceError>>()?;
        let status = Arc::clone(around.status);
        let stopping = Box::new(move || status.stopping());
        let blocks = self.group.blocks(assignment);
        let cutter = Cutter::kafka(blocks, self.group.topics().to_vec(), stopping);
        let direct = self.group.topics().len();
        Ok(Flow { name: "kafka".to_owned(), cutter, file: None, lanes, decoders, direct })
    }

    /// Where reading begins, and what another owner may have read beyond.
    pub(super) fn replay(&self, assignment: &Assignment) -> Replay {
        let mut replay = Replay::default();
        for (partition, source, start, end) in assignment.sources(self.group.topics()) {
            replay.starts.note(At { partition, source }, start);
            let until = end.min(start.saturating_add(self.commit_ahead_rows_max));
            // Before the first owner there was none.
            if assignment.term > 1 && until > start {
                replay.until.insert(source, until);
            }
        }
        replay
    }
}
