//! What the cluster says of the topics that a catalogue reads.
//!
//! In: names. Out: ids, numbers of partitions, first and last offsets.
//! Invariant: reads only.

use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use serde::{Deserialize, Serialize};

use super::KafkaError;
use super::topic_ids::topic_ids;

/// How long the cluster may take to answer.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A topic, as it was when a store read it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMeta {
    /// Its name.
    pub topic: String,
    /// The id that the cluster gave it when it was made.
    pub id: String,
    /// Its number of partitions.
    pub partitions: u32,
}

/// Keys of a [`TopicMeta`] in the store begin with this.
pub const TOPIC_PREFIX: &str = "kafka/topic/";

/// Key of a [`TopicMeta`] in the store.
pub fn topic_key(topic: &str) -> String {
    format!("{TOPIC_PREFIX}{topic}")
}

/// Looks topics up that are read together.
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
) -> Result<Vec<TopicMeta>, KafkaError> {
    let found = look_up(client, topics)?;
    check_same_count(&found)?;
    Ok(found)
}

/// Looks topics up.
pub(crate) fn look_up<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
) -> Result<Vec<TopicMeta>, KafkaError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |reason| KafkaError::Cluster { what, reason }
    };
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let ids = topic_ids(client, &names, ANSWER_WITHIN).map_err(failed("ids of topics"))?;
    let mut found = Vec::with_capacity(topics.len());
    for topic in topics {
        let id = ids.iter().find(|t| t.topic == *topic).map(|t| t.id.clone());
        let id = id.unwrap_or_else(|| Err("the cluster did not answer for it".to_owned()));
        let id = id.map_err(|reason| KafkaError::NoTopic { topic: topic.clone(), reason })?;
        let metadata = client
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .map_err(|e| failed("metadata of topics")(e.to_string()))?;
        let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        found.push(TopicMeta { topic: topic.clone(), id, partitions });
    }
    Ok(found)
}

/// All topics need partitions of the same numbers: a process that owns number 3 owns it in each.
fn check_same_count(topics: &[TopicMeta]) -> Result<(), KafkaError> {
    if topics.windows(2).all(|two| two[0].partitions == two[1].partitions) {
        return Ok(());
    }
    let count = |t: &TopicMeta| format!("{}: {}", t.topic, t.partitions);
    let counts = topics.iter().map(count).collect::<Vec<_>>().join(", ");
    Err(KafkaError::Partitions { counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_other_numbers_of_partitions_are_refused() {
        let topic = |topic: &str, partitions| TopicMeta {
            topic: topic.to_owned(),
            id: String::new(),
            partitions,
        };
        assert!(check_same_count(&[topic("a", 8), topic("b", 8)]).is_ok());
        let error = check_same_count(&[topic("a", 8), topic("b", 4)]).expect_err("they differ");
        assert!(error.to_string().contains("a: 8, b: 4"), "{error}");
    }
}
