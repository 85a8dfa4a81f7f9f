//! `relay.*`: topics that are not keyed by uid, and the one that they are rewritten into.
//!
//! In: settings. Out: [`RelayConfig`], checked.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `relay.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Topics of the catalogue that are not keyed by uid, several with commas: `tagloom relay` rewrites
    /// them into `relay.topic`, and `tagloom run` reads that one in their place.
    pub topics: String,
    /// The topic that they are rewritten into. Nobody else may write into it.
    pub topic: String,
    /// The group in which processes of `tagloom relay` share the work; empty: that of `kafka.group.id`
    /// with `-relay` behind.
    pub group: String,
    /// A name of this process among those of `tagloom relay`: a process that is started again under its
    /// name ends at once what it had under way when it was killed. Empty: a new name each time; then
    /// readers wait for `relay.transaction_timeout_ms`.
    pub id: String,
    /// Records in one transaction.
    pub batch_rows_max: usize,
    /// Bytes of their values.
    pub batch_bytes_max: usize,
    /// Milliseconds that records are gathered for a transaction.
    pub batch_ms: u64,
    /// Milliseconds after which the brokers end a transaction of a process that is gone.
    pub transaction_timeout_ms: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            topics: String::new(),
            topic: String::new(),
            group: String::new(),
            id: String::new(),
            batch_rows_max: 20_000,
            batch_bytes_max: 16 << 20,
            batch_ms: 200,
            transaction_timeout_ms: 10_000,
        }
    }
}

impl RelayConfig {
    /// The topics that are rewritten.
    pub fn topic_list(&self) -> Vec<String> {
        let names = self.topics.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let positive =
            [("batch_rows_max", self.batch_rows_max), ("batch_bytes_max", self.batch_bytes_max)];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError(format!("relay.{key} = 0: expected at least 1")));
        }
        if !(1..=10_000).contains(&self.batch_ms) {
            return Err(ConfigError(format!(
                "relay.batch_ms = {}: expected 1 to 10000 milliseconds",
                self.batch_ms
            )));
        }
        if !(1_000..=900_000).contains(&self.transaction_timeout_ms) {
            return Err(ConfigError(format!(
                "relay.transaction_timeout_ms = {}: expected 1000 to 900000 milliseconds",
                self.transaction_timeout_ms
            )));
        }
        let topics = self.topic_list();
        if topics.is_empty() {
            return Ok(());
        }
        if self.topic.is_empty() {
            return Err(ConfigError(format!(
                "relay.topics = {}, but relay.topic, which they are rewritten into, is not set: for \
                 example --set relay.topic=tagloom.relay",
                self.topics
            )));
        }
        if topics.contains(&self.topic) {
            return Err(ConfigError(format!(
                "relay.topic = {} is also among relay.topics: it would be rewritten into itself; name a \
                 topic that nobody else writes into",
                self.topic
            )));
        }
        Ok(())
    }
}
