//! Kafka topics as a source.
//!
//! In: the topics of a catalogue's streams, read as one member of a consumer group. Out: blocks of
//! records of one partition each, in offset order; word of who owns what.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | `kafka.*`, secrets |
//! | `topics.rs`, `topic_ids.rs` | what the cluster says of topics: ids, partitions, ends |
//! | `start.rs` | where reading begins, and when it must not |
//! | `group.rs` | the member: its thread, assignments, commits |
//! | `context.rs` | what librdkafka calls: rebalances |
//! | `lag.rs` | how far behind the topics are |
//! | `gather.rs` | records become blocks |
//! | `table.rs` | dimension tables that topics keep |
//! | `relayed.rs` | what `relay` writes beside a record |
//! | `redrive.rs` | records back into their topics |
//! | `reset.rs` | forgetting how far a topic was read |
//!
//! Invariant: an offset is committed only when everything before it is stored; nothing is read that
//! this process does not own.

mod context;
mod gather;
mod group;
mod lag;
mod reach;
mod redrive;
pub mod relayed;
mod reset;
mod settings;
mod start;
mod table;
mod table_reader;
mod topic_ids;
mod topics;

pub(crate) use context::{arrival_ms, is_final, offset_at};
pub use gather::{RecordBlock, RecordBlocks, RecordLines};
pub(crate) use group::add;
pub use group::{Assignment, Group, GroupOptions, Lease, RelayedTopics, Remembered};
pub use redrive::{RecordAt, Redriven, Redriver};
pub use reset::{Reset, commit, look_up, members};
pub use settings::{GROUP_DEFAULT, KafkaConfig, SettingsError, is_secret};
pub(crate) use start::{Known, first_offset};
pub use start::{Start, StartError, Starts};
pub use table::TopicTables;
pub(crate) use topics::{ANSWER_WITHIN, look_up as look_up_topics};
pub use topics::{TOPIC_PREFIX, TopicMeta, topic_key};

use rdkafka::config::RDKafkaLogLevel;

use crate::user::layout::hash64;

/// One partition of one incarnation of a topic, as fences name it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SourceId(pub u64);

impl SourceId {
    /// Of a partition. `topic_id`: as the cluster gave it.
    pub fn new(topic_id: &str, partition: u32) -> Self {
        Self(hash64(format!("{topic_id}/{partition}").as_bytes()))
    }
}

/// The name under which the position of a partition is kept.
pub fn position_name(topic: &str, partition: u32) -> String {
    format!("kafka/{topic}/{partition}")
}

/// The topic of such a name.
pub(crate) fn topic_of_position(name: &str) -> Option<&str> {
    name.strip_prefix("kafka/")?.rsplit_once('/').map(|(topic, _)| topic)
}

/// Logs what librdkafka says.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        _ => tracing::debug!(facility, "librdkafka: {message}"),
    }
}

/// Why Kafka cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Where to begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The cluster does not answer, or refuses.
    #[error(
        "Kafka: {what}: {reason}; check kafka.bootstrap.servers, the network and the credentials"
    )]
    Cluster {
        /// What was asked.
        what: String,
        /// The cluster's or librdkafka's words.
        reason: String,
    },
    /// A topic is not there.
    #[error("Kafka has no topic `{topic}` ({reason}); create it, or correct `from:` of the stream")]
    NoTopic {
        /// The topic.
        topic: String,
        /// The cluster's words.
        reason: String,
    },
    /// A topic to publish to is not there.
    #[error("Kafka has no topic `{topic}` ({reason}); create it, or correct {setting}")]
    NoPublishTopic {
        /// The topic.
        topic: String,
        /// What names it.
        setting: String,
        /// The cluster's words.
        reason: String,
    },
    /// Topics of one catalogue have different numbers of partitions.
    #[error(
        "topics have different numbers of partitions ({counts}): the events of a user have to stand \
         in partitions of one number; give all topics the same number and key them by uid, or let \
         `tagloom relay` rewrite them into one topic"
    )]
    Partitions {
        /// Each topic with its number.
        counts: String,
    },
    /// Reading failed for good.
    #[error("Kafka: reading stopped: {0}")]
    Read(String),
    /// A group that is to be changed has members.
    #[error(
        "group `{group}` has {members} members: stop them first, they would go on where they are"
    )]
    Busy {
        /// The group.
        group: String,
        /// How many.
        members: usize,
    },
    /// Partitions went to another process before all was stored.
    #[error(
        "partitions were given to another member of the group before everything was stored; it \
         reads them again"
    )]
    Lost,
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
}

impl KafkaError {
    /// Whether settings, topics or catalogue have to change before it can work.
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::Settings(_)
                | Self::Start(_)
                | Self::NoTopic { .. }
                | Self::NoPublishTopic { .. }
                | Self::Partitions { .. }
                | Self::Busy { .. }
        )
    }
}
