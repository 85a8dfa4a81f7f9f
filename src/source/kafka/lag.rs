//! How far behind its topics this process is.
//!
//! In: what librdkafka says of the partitions that it fetches, every few seconds; what is committed. Out:
//! metrics by topic and partition; one number for readiness.
//! Invariant: no call to the cluster; a partition that was given up is 0, since another process has it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::statistics::{Partition, Statistics};

use super::group::Shared;
use crate::telemetry::facts::number;
use crate::telemetry::names;

/// Nothing is known yet.
const UNKNOWN: u64 = u64::MAX;

/// See the module.
pub(super) struct Lag {
    /// Records behind the last commits of all partitions.
    records: AtomicU64,
    /// Partitions that metrics were told of.
    told: Mutex<BTreeSet<(usize, u32)>>,
}

impl Default for Lag {
    fn default() -> Self {
        Self { records: AtomicU64::new(UNKNOWN), told: Mutex::default() }
    }
}

/// Where a log ends for a reader of committed records, and what was read of it; none: it was not
/// fetched yet.
fn ends(partition: &Partition) -> Option<(u64, Option<u64>)> {
    let end = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
    let read = u64::try_from(partition.app_offset).ok();
    Some((u64::try_from(end).ok()?, read))
}

impl Lag {
    /// Records between the last commits and the ends of the logs; none: nothing is known yet.
    pub(super) fn records(&self) -> Option<u64> {
        Some(self.records.load(Ordering::Acquire)).filter(|records| *records != UNKNOWN)
    }

    /// Another assignment: what was known is of partitions that may be another's.
    pub(super) fn forget(&self) {
        self.records.store(UNKNOWN, Ordering::Release);
    }

    /// Takes in what librdkafka says.
    pub(super) fn see(&self, shared: &Shared, statistics: &Statistics) {
        let owned: BTreeSet<(usize, u32)> = match &shared.standing().assignment {
            Some(assignment) => assignment.starts.keys().copied().collect(),
            None => BTreeSet::new(),
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, partition) in told.iter().filter(|at| !owned.contains(at)) {
            tell(&shared.topics[*topic].topic, *partition, 0, 0);
        }
        told.retain(|at| owned.contains(at));
        let mut all = None;
        for (topic, partition) in owned {
            let name = &shared.topics[topic].topic;
            let found = statistics.topics.get(name).and_then(|of_topic| {
                of_topic.partitions.get(&i32::try_from(partition).ok()?).and_then(ends)
            });
            let Some((end, read)) = found else { continue };
            let committed = shared.committed_of(topic, partition);
            let behind = end.saturating_sub(committed);
            tell(name, partition, behind, end.saturating_sub(read.unwrap_or(committed)));
            told.insert((topic, partition));
            all = Some(all.unwrap_or(0) + behind);
        }
        self.records.store(all.unwrap_or(UNKNOWN), Ordering::Release);
    }
}

fn tell(topic: &str, partition: u32, behind_commit: u64, unread: u64) {
    let at = [topic, &partition.to_string()];
    names::KAFKA_LAG.gauge(&at).set(number(behind_commit));
    names::KAFKA_UNREAD.gauge(&at).set(number(unread));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_that_of_committed_records_where_it_is_known() {
        let partition = |hi_offset, ls_offset, app_offset| Partition {
            hi_offset,
            ls_offset,
            app_offset,
            ..Partition::default()
        };
        assert_eq!(ends(&partition(20, 15, 10)), Some((15, Some(10))));
        assert_eq!(ends(&partition(20, -1001, -1001)), Some((20, None)));
        assert_eq!(ends(&partition(-1001, -1001, -1001)), None);
    }
}
