//! Where reading a partition begins, and when it must not.
//!
//! In: what the store and the group remember of a partition, and what the log holds. Out: the first
//! offset to read, or an error that names the remedy.
//! Invariant: no I/O; a gap or a log that is not the one that was read is never passed over.

use super::TopicMeta;

/// Where a partition begins of which nothing is remembered: `source.start`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first record there is.
    #[default]
    Earliest,
    /// Behind the last one there is.
    Latest,
    /// With the first record that arrived at this instant or later, epoch ms.
    At(i64),
}

/// Who remembers how far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// The store, which writes positions together with profiles.
    Store,
    /// The group's committed offsets.
    Group,
}

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// The next offset, as remembered.
    pub(crate) next: Option<u64>,
    /// Offset of the first record that is still there, and the one behind the last.
    pub(crate) log: (u64, u64),
    /// What `source.start` means for it.
    pub(crate) start: u64,
}

/// Why a partition cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    /// More was read than is there.
    #[error(
        "topic `{topic}`, partition {partition}: the next record to read is {next}, but the log ends \
         at {end}: the topic was made again or cut. If that is meant, `tagloom source reset {topic}` \
         forgets how far it was read"
    )]
    BeyondEnd {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// As remembered.
        next: u64,
        /// Behind the last record.
        end: u64,
    },
    /// Records were deleted before they were read.
    #[error(
        "topic `{topic}`, partition {partition}: records {next} to {first} were deleted before they \
         were read (retention). `tagloom source reset {topic}` goes on with what is left"
    )]
    Gone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// As remembered.
        next: u64,
        /// The first record that is there.
        first: u64,
    },
    /// Another topic of the same name.
    #[error(
        "topic `{topic}` is not the one that was read before: it was deleted and made again. If that \
         is meant, `tagloom source reset {topic}` forgets how far the old one was read"
    )]
    OtherTopic {
        /// The topic.
        topic: String,
    },
    /// The brokers overwrite when records arrived.
    #[error(
        "topic `{topic}` has message.timestamp.type=LogAppendTime, so that it is not known when the \
         records that relay wrote into it had arrived: set CreateTime, and relay them again into a new \
         topic"
    )]
    AppendTime {
        /// The topic.
        topic: String,
    },
    /// Partitions were added.
    #[error(
        "topic `{topic}` has {now} partitions, and had {before}: users would be in other partitions \
         than their profiles. Make a topic with the new number, let `tagloom relay` fill it, and \
         read that one"
    )]
    PartitionsChanged {
        /// The topic.
        topic: String,
        /// When it was read first.
        before: u32,
        /// Now.
        now: u32,
    },
}

/// The first offset to read.
pub(crate) fn first_offset(topic: &str, partition: u32, known: Known) -> Result<u64, StartError> {
    let (first, end) = known.log;
    let Some(next) = known.next else { return Ok(known.start) };
    let topic = topic.to_owned();
    if next > end {
        return Err(StartError::BeyondEnd { topic, partition, next, end });
    }
    if next < first {
        return Err(StartError::Gone { topic, partition, next, first });
    }
    Ok(next)
}

/// Compares a topic with what the store read under its name.
pub(super) fn check_topic(before: &TopicMeta, now: &TopicMeta) -> Result<(), StartError> {
    let topic = now.topic.clone();
    if before.id != now.id {
        return Err(StartError::OtherTopic { topic });
    }
    if before.partitions != now.partitions {
        let (before, now) = (before.partitions, now.partitions);
        return Err(StartError::PartitionsChanged { topic, before, now });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(next: Option<u64>, expect: Result<u64, &str>) {
        let known = Known { next, log: (10, 20), start: 12 };
        match (first_offset("t", 3, known), expect) {
            (Ok(offset), expect) => assert_eq!(Ok(offset), expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }

    #[test]
    fn reading_goes_on_where_it_was_or_says_why_it_cannot() {
        check(None, Ok(12));
        check(Some(10), Ok(10));
        check(Some(20), Ok(20));
        check(Some(21), Err("the log ends at 20"));
        check(Some(9), Err("records 9 to 10 were deleted"));
    }

    #[test]
    fn another_topic_or_another_number_of_partitions_is_refused() {
        let topic = |id: &str, partitions| TopicMeta {
            topic: "t".to_owned(),
            id: id.to_owned(),
            partitions,
        };
        assert_eq!(check_topic(&topic("a", 8), &topic("a", 8)), Ok(()));
        let text = |result: Result<(), StartError>| result.expect_err("it differs").to_string();
        assert!(text(check_topic(&topic("a", 8), &topic("b", 8))).contains("source reset t"));
        assert!(text(check_topic(&topic("a", 8), &topic("a", 9))).contains("tagloom relay"));
    }
}
