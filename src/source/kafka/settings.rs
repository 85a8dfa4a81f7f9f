//! `kafka.*`: what librdkafka is told.
//!
//! In: settings as written. Out: a client's configuration, secrets read from where they are kept.
//! Invariant: a secret's value is in no message, log or listing.

use std::collections::BTreeMap;
use std::path::Path;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// The group that processes join when none is named.
pub const GROUP_DEFAULT: &str = "tagloom";

/// How long a member may be silent before its partitions go to others, when nothing is said.
pub(super) const SESSION_TIMEOUT_MS_DEFAULT: u64 = 45_000;

/// How long librdkafka waits before it asks for more when what it holds of a partition was enough, unless
/// something is said. Its default is a second, in which a process that catches up waits for nothing: 2 M
/// records of 24 partitions took 9.4 s, and 3.1 s with this.
const FETCH_AGAIN_AFTER: (&str, &str) = ("fetch.queue.backoff.ms", "10");

/// Parts of keys whose values are secrets.
const SECRET: [&str; 4] = ["password", "secret", ".pem", "sasl.oauthbearer.config"];

/// Settings that this program decides, and why.
const DECIDED: [(&str, &str); 12] = [
    ("enable.auto.commit", "offsets are committed when what they cover is stored"),
    ("enable.auto.offset.store", "offsets are committed when what they cover is stored"),
    ("auto.offset.reset", "set source.start; records that are gone are an error, not a jump"),
    ("partition.assignment.strategy", "partitions of one number have to come together: `range`"),
    ("group.protocol", "terms of ownership need the classic protocol"),
    ("isolation.level", "records of transactions that were not committed do not count"),
    ("enable.idempotence", "what is published has to arrive, in its order"),
    ("acks", "what is published has to arrive: all brokers in sync acknowledge it"),
    (
        "request.required.acks",
        "what is published has to arrive: all brokers in sync acknowledge it",
    ),
    ("message.timeout.ms", "a broker that is away is waited for"),
    ("delivery.timeout.ms", "a broker that is away is waited for"),
    ("transactional.id", "each command has one of its own"),
];

/// Settings of members of a group, by how they begin: producers have none of them.
const OF_CONSUMERS: [&str; 9] = [
    "group.",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "coordinator.query.interval.ms",
    "fetch.",
    "queued.",
    "check.crcs",
    "offset.store.",
];

/// `kafka.*`, by librdkafka's own
/// [names](https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md), like
/// `kafka.bootstrap.servers`. A value `file:PATH` or `env:NAME` is read from there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KafkaConfig(pub BTreeMap<String, serde_json::Value>);

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No broker is named.
    #[error(
        "the catalogue reads from Kafka, but no broker is named: set kafka.bootstrap.servers, for \
         example --set kafka.bootstrap.servers=kafka-1:9092,kafka-2:9092"
    )]
    NoBrokers,
    /// Something that is decided already.
    #[error("kafka.{key} cannot be set: {why}")]
    Decided {
        /// The setting.
        key: String,
        /// Why.
        why: &'static str,
    },
    /// A secret cannot be read.
    #[error("kafka.{key}: {reason}")]
    Secret {
        /// The setting.
        key: String,
        /// Why.
        reason: String,
    },
    /// librdkafka refuses it.
    #[error("kafka.*: {0}; see librdkafka's CONFIGURATION.md for names and values")]
    Refused(String),
}

/// Whether the value of `kafka.KEY` is a secret.
pub fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|part| key.contains(part))
}

impl KafkaConfig {
    /// By dotted name, as text; references to secrets as they are written.
    pub fn flat(&self) -> BTreeMap<String, String> {
        let nested = serde_json::Value::Object(self.0.clone().into_iter().collect());
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        crate::config::flat(&nested).into_iter().map(|(key, value)| (key, text(value))).collect()
    }

    /// The group that this process joins.
    pub fn group(&self) -> String {
        self.flat().remove("group.id").unwrap_or_else(|| GROUP_DEFAULT.to_owned())
    }

    /// Joins another group instead.
    pub fn set_group(&mut self, group: String) {
        // It may be written nested, as in the settings file, or dotted.
        self.0.remove("group.id");
        let nested = self.0.get_mut("group").and_then(serde_json::Value::as_object_mut);
        if let Some(nested) = nested {
            nested.remove("id");
        }
        self.0.insert("group.id".to_owned(), group.into());
    }

    /// How long a member may be silent before its partitions go to others.
    pub fn session_timeout_ms(&self) -> u64 {
        let set = self.flat().remove("session.timeout.ms").and_then(|text| text.parse().ok());
        set.unwrap_or(SESSION_TIMEOUT_MS_DEFAULT)
    }

    /// For a client of any kind.
    pub fn client(&self) -> Result<ClientConfig, SettingsError> {
        let mut client = ClientConfig::new();
        for (key, value) in self.flat() {
            if let Some((_, why)) = DECIDED.iter().find(|(decided, _)| *decided == key) {
                return Err(SettingsError::Decided { key, why });
            }
            let value = resolved(&key, value)?;
            client.set(key, value);
        }
        if client.get("bootstrap.servers").is_none_or(str::is_empty) {
            return Err(SettingsError::NoBrokers);
        }
        if client.get("client.id").is_none() {
            client.set("client.id", "tagloom");
        }
        Ok(client)
    }

    /// For a member of the group.
    pub fn consumer(&self) -> Result<ClientConfig, SettingsError> {
        let mut client = self.client()?;
        client
            .set("group.id", self.group())
            .set("session.timeout.ms", self.session_timeout_ms().to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "range")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "false")
            .set("allow.auto.create.topics", "false");
        if client.get(FETCH_AGAIN_AFTER.0).is_none() {
            client.set(FETCH_AGAIN_AFTER.0, FETCH_AGAIN_AFTER.1);
        }
        Ok(client)
    }
}

impl KafkaConfig {
    /// For those who publish, each with a queue of so many records and kilobytes.
    pub fn producer(
        &self,
        records_max: u32,
        kbytes_max: u32,
    ) -> Result<ClientConfig, SettingsError> {
        let mut client = self.client()?;
        let of_consumers = |key: &String| OF_CONSUMERS.iter().any(|part| key.starts_with(part));
        for key in self.flat().into_keys().filter(of_consumers) {
            client.remove(&key);
        }
        for (key, value) in [
            // As Java's clients do: the records of a user stand in partitions of one number.
            ("partitioner", "murmur2_random"),
            ("compression.type", "zstd"),
            ("linger.ms", "5"),
        ] {
            if client.get(key).is_none() {
                client.set(key, value);
            }
        }
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("queue.buffering.max.messages", records_max.to_string())
            .set("queue.buffering.max.kbytes", kbytes_max.to_string());
        Ok(client)
    }
}

/// Reads a value from where it is kept.
fn resolved(key: &str, value: String) -> Result<String, SettingsError> {
    let failed = |reason| SettingsError::Secret { key: key.to_owned(), reason };
    if let Some(path) = value.strip_prefix("file:") {
        let text = std::fs::read_to_string(Path::new(path))
            .map_err(|e| failed(format!("{path}: {e}; check the path and its permissions")))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Some(name) = value.strip_prefix("env:") {
        return std::env::var(name)
            .map_err(|_| failed(format!("the environment has no variable {name}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> KafkaConfig {
        let value = |v: &str| serde_json::Value::String(v.to_owned());
        KafkaConfig(pairs.iter().map(|(k, v)| ((*k).to_owned(), value(v))).collect())
    }

    #[track_caller]
    fn check(pairs: &[(&str, &str)], expect: &str) {
        let error = config(pairs).consumer().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(expect), "{error:?} has no {expect:?}");
    }

    #[test]
    fn what_is_decided_or_missing_is_refused_with_the_reason() {
        check(&[], "set kafka.bootstrap.servers");
        check(&[("enable.auto.commit", "true")], "kafka.enable.auto.commit cannot be set: offsets");
        check(&[("auto.offset.reset", "latest")], "set source.start");
        check(&[("sasl.password", "file:/no/such/file")], "kafka.sasl.password: /no/such/file");
        check(&[("sasl.password", "env:NO_SUCH_NAME")], "no variable NO_SUCH_NAME");
    }

    #[test]
    fn who_publishes_is_told_nothing_of_groups() {
        let pairs = [("bootstrap.servers", "h:1"), ("group.id", "g"), ("linger.ms", "50")];
        let client = config(&pairs).producer(7, 9).expect("all is right");
        assert_eq!((client.get("group.id"), client.get("linger.ms")), (None, Some("50")));
        assert_eq!(client.get("enable.idempotence"), Some("true"));
        assert_eq!(client.get("queue.buffering.max.messages"), Some("7"));
        check(&[("acks", "1")], "kafka.acks cannot be set: what is published");
    }

    #[test]
    fn a_secret_comes_from_its_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret\n").expect("the folder is there");
        let reference = format!("file:{}", path.display());
        let config = config(&[("bootstrap.servers", "h:1"), ("sasl.password", &reference)]);
        let client = config.client().expect("all is right");
        assert_eq!(client.get("sasl.password"), Some("s3cret"));
        assert_eq!(config.flat()["sasl.password"], reference);
        assert!(is_secret("sasl.password") && !is_secret("sasl.username"));
    }
}
