//! A topic of Kafka to publish to.
//!
//! In: records. Out: the same, acknowledged by all brokers in sync, each once as long as the process
//! lives (an idempotent producer), those of a key in their order.
//! Invariant: no more records and bytes wait than `publish.*` allows; a broker that is away is waited
//! for.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::{GoesOn, PublishError, Record, Sink};
use crate::source::kafka::KafkaError;
use crate::telemetry::facts::number;
use crate::telemetry::names;

/// Between two looks at whether to go on waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks between two lines of the log.
const TELL_EVERY: u32 = 100;

/// How long the cluster may take to describe the topic.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What is on its way.
#[derive(Debug, Default)]
struct UnderWay {
    records: usize,
    /// Why a record was refused since somebody asked last.
    failure: Option<String>,
}

/// Gets librdkafka's calls.
#[derive(Clone)]
struct Context(Arc<Standing>);

struct Standing {
    what: &'static str,
    under_way: Mutex<UnderWay>,
    moved: Condvar,
}

impl Standing {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::source::kafka::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        tracing::warn!(%error, "librdkafka: {reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut under_way = self.0.lock();
        under_way.records = under_way.records.saturating_sub(1);
        if let Err((error, _)) = result {
            under_way.failure.get_or_insert_with(|| error.to_string());
        }
        if under_way.records == 0 || under_way.failure.is_some() {
            self.0.moved.notify_all();
        }
    }
}

/// See the module.
pub struct KafkaSink {
    topic: String,
    producer: ThreadedProducer<Context>,
    standing: Arc<Standing>,
}

impl KafkaSink {
    /// A producer for a topic, which must be there. `what` is published: `changes` or `rejects`.
    pub fn open(
        config: &ClientConfig,
        topic: &str,
        what: &'static str,
    ) -> Result<Self, KafkaError> {
        let standing =
            Arc::new(Standing { what, under_way: Mutex::default(), moved: Condvar::new() });
        let producer: ThreadedProducer<Context> = config
            .create_with_context(Context(Arc::clone(&standing)))
            .map_err(|e| crate::source::kafka::SettingsError::Refused(e.to_string()))?;
        let metadata = producer.client().fetch_metadata(Some(topic), ANSWER_WITHIN);
        let metadata = metadata.map_err(|e| KafkaError::Cluster {
            what: format!("metadata of `{topic}`, to which {what} are published"),
            reason: e.to_string(),
        })?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        let reason = match found {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => None,
            Some(found) => Some(found.error().map_or_else(
                || "it has no partitions".to_owned(),
                |code| RDKafkaErrorCode::from(code).to_string(),
            )),
            None => Some("the cluster did not answer for it".to_owned()),
        };
        match reason {
            None => Ok(Self { topic: topic.to_owned(), producer, standing }),
            Some(reason) => {
                let setting = format!("publish.{what}.topic");
                Err(KafkaError::NoPublishTopic { topic: topic.to_owned(), setting, reason })
            }
        }
    }

    /// Waits a while for something to move. Fails when a record was refused, or nobody waits any more.
    fn wait(
        &self,
        under_way: MutexGuard<'_, UnderWay>,
        tries: &mut u32,
        goes_on: GoesOn<'_>,
    ) -> Result<(), PublishError> {
        names::PUBLISH_WAITING.gauge(&[self.standing.what]).set(number(under_way.records as u64));
        let topic = || self.topic.clone();
        let waited = self.standing.moved.wait_timeout(under_way, LOOK_EVERY);
        let (mut under_way, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = under_way.failure.take() {
            return Err(PublishError::Refused { topic: topic(), reason });
        }
        if !goes_on() {
            return Err(PublishError::NotAcknowledged { topic: topic() });
        }
        *tries += 1;
        if tries.is_multiple_of(TELL_EVERY) {
            let records = under_way.records;
            tracing::warn!(topic = self.topic, records, "waiting for the topic to acknowledge");
        }
        Ok(())
    }
}

impl Sink for KafkaSink {
    fn send(&self, record: Record, goes_on: GoesOn<'_>) -> Result<(), PublishError> {
        let Record { key, value, headers } = record;
        let mut new = BaseRecord::to(&self.topic).key(&key).payload(&value);
        if !headers.is_empty() {
            let none = OwnedHeaders::new_with_capacity(headers.len());
            let all = headers.iter().fold(none, |all, (key, value)| {
                all.insert(Header { key, value: Some(value.as_bytes()) })
            });
            new = new.headers(all);
        }
        let mut tries = 0;
        self.standing.lock().records += 1;
        loop {
            let error = match self.producer.send(new) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    new = back;
                    error
                }
            };
            let mut under_way = self.standing.lock();
            let result = match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => self.wait(under_way, &mut tries, goes_on),
                _ => {
                    let reason = error.to_string();
                    under_way.records = under_way.records.saturating_sub(1);
                    return Err(PublishError::Refused { topic: self.topic.clone(), reason });
                }
            };
            if let Err(error) = result {
                let mut under_way = self.standing.lock();
                under_way.records = under_way.records.saturating_sub(1);
                return Err(error);
            }
        }
    }

    fn flush(&self, goes_on: GoesOn<'_>) -> Result<(), PublishError> {
        let mut tries = 0;
        loop {
            let mut under_way = self.standing.lock();
            if let Some(reason) = under_way.failure.take() {
                return Err(PublishError::Refused { topic: self.topic.clone(), reason });
            }
            if under_way.records == 0 {
                names::PUBLISH_WAITING.gauge(&[self.standing.what]).set(0.0);
                return Ok(());
            }
            self.wait(under_way, &mut tries, goes_on)?;
        }
    }
}
