//! `publish.*`: what is told to others.
//!
//! In: settings. Out: [`PublishConfig`].

use serde::{Deserialize, Serialize};

/// `publish.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishConfig {
    /// Changes of tags.
    pub changes: PublishTopic,
    /// Rows that were refused.
    pub rejects: PublishTopic,
    /// Records that may be on their way to each topic.
    pub queue_records_max: u32,
    /// Kilobytes that may be on their way to each topic.
    pub queue_kbytes_max: u32,
}

/// `publish.changes.*` and `publish.rejects.*`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishTopic {
    /// The topic, which must be there; empty: nothing is published.
    pub topic: String,
}

impl Default for PublishConfig {
    fn default() -> Self {
        let (changes, rejects) = (PublishTopic::default(), PublishTopic::default());
        Self { changes, rejects, queue_records_max: 100_000, queue_kbytes_max: 64 << 10 }
    }
}

impl PublishConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let topics = [&self.changes.topic, &self.rejects.topic];
        if topics[0] == topics[1] && !topics[0].is_empty() {
            return Err(format!(
                "publish.changes.topic and publish.rejects.topic are both `{}`: their records have \
                 nothing in common; name two topics",
                topics[0]
            ));
        }
        for (key, value) in [
            ("publish.queue_records_max", self.queue_records_max),
            ("publish.queue_kbytes_max", self.queue_kbytes_max),
        ] {
            // Bounds of librdkafka's.
            if !(1..=2_000_000).contains(&value) {
                return Err(format!("{key} = {value}: expected 1 to 2000000"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(changes: &str, rejects: &str, records: u32, expect: Option<&str>) {
        let topic = |name: &str| PublishTopic { topic: name.to_owned() };
        let config = PublishConfig {
            changes: topic(changes),
            rejects: topic(rejects),
            queue_records_max: records,
            ..PublishConfig::default()
        };
        match (config.check(), expect) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.contains(part), "{error}"),
            (result, _) => panic!("{result:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn topics_differ_and_queues_have_limits() {
        check("", "", 1, None);
        check("a", "", 1, None);
        check("a", "b", 2_000_000, None);
        check("a", "a", 1, Some("are both `a`"));
        check("a", "b", 0, Some("publish.queue_records_max = 0: expected 1 to 2000000"));
    }
}
