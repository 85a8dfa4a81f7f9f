//! Forgetting how far a topic was read.
//!
//! In: a topic, and where to go on. Out: the offset with which each partition goes on.
//! Invariant: nothing is committed for a group that has members.

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use super::context::{Context, offset_at};
use super::group::add;
use super::topics::{ANSWER_WITHIN, describe};
use super::{KafkaConfig, KafkaError, Start, TopicMeta};

/// A topic as it is, and where reading it is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The topic.
    pub meta: TopicMeta,
    /// By partition.
    pub next: Vec<u64>,
}

/// Looks up where a topic is to go on.
pub fn look_up(config: &KafkaConfig, topic: &str, to: Start) -> Result<Reset, KafkaError> {
    let consumer = client(config)?;
    let meta = describe(consumer.client(), &[topic.to_owned()])?.remove(0);
    let mut next = Vec::new();
    for partition in 0..meta.partitions {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let (first, end) = consumer
            .fetch_watermarks(topic, number, ANSWER_WITHIN)
            .map_err(|e| failed("first and last offsets", &e.to_string()))?;
        let at = match to {
            Start::Earliest => first.max(0).cast_unsigned(),
            Start::Latest => end.max(0).cast_unsigned(),
            Start::At(instant_ms) => offset_at(&consumer, topic, number, instant_ms)?
                .unwrap_or_else(|| end.max(0).cast_unsigned()),
        };
        next.push(at);
    }
    Ok(Reset { meta, next })
}

/// Commits where a topic is to go on for the group. It must have no members: a member would go on where
/// it is, and commit that.
pub fn commit(config: &KafkaConfig, reset: &Reset) -> Result<(), KafkaError> {
    let members = members(config)?;
    if members > 0 {
        return Err(KafkaError::Busy { group: config.group(), members });
    }
    let consumer = client(config)?;
    let mut list = TopicPartitionList::new();
    for (partition, next) in (0..).zip(&reset.next) {
        add(&mut list, &reset.meta.topic, partition, *next)?;
    }
    consumer
        .commit(&list, CommitMode::Sync)
        .map_err(|e| failed("commit of offsets", &e.to_string()))
}

/// How many members the group has.
pub fn members(config: &KafkaConfig) -> Result<usize, KafkaError> {
    let groups = client(config)?
        .fetch_group_list(Some(&config.group()), ANSWER_WITHIN)
        .map_err(|e| failed("the group's members", &e.to_string()))?;
    Ok(groups.groups().iter().map(|group| group.members().len()).sum())
}

fn client(config: &KafkaConfig) -> Result<BaseConsumer<Context>, KafkaError> {
    let refused = |e: rdkafka::error::KafkaError| super::SettingsError::Refused(e.to_string());
    Ok(config.consumer()?.create_with_context(Context::new()).map_err(refused)?)
}

fn failed(what: &str, reason: &str) -> KafkaError {
    KafkaError::Cluster { what: what.to_owned(), reason: reason.to_owned() }
}
