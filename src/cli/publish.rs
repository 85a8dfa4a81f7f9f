//! Opening the topics that are published to.
//!
//! In: settings. Out: producers, one a topic.

use std::sync::Arc;

use super::{Failure, topics};
use crate::config::Config;
use crate::telemetry::facts::number;
use crate::telemetry::names;
use crate::write::publish::kafka::KafkaSink;
use crate::write::publish::{Publish, Sink};

/// Producers for the topics that are named.
pub(super) fn open(config: &Config) -> Result<Publish, Failure> {
    let publish = &config.publish;
    let sink = |what: &'static str, topic: &str| -> Result<Option<Arc<dyn Sink>>, Failure> {
        if topic.is_empty() {
            return Ok(None);
        }
        let client = config.kafka.producer(publish.queue_records_max, publish.queue_kbytes_max);
        let client = client.map_err(|e| topics::failure(e.into()))?;
        let sink = KafkaSink::open(&client, topic, what).map_err(topics::failure)?;
        let records_max = u64::from(publish.queue_records_max);
        names::PUBLISH_WAITING_MAX.gauge(&[what]).set(number(records_max));
        Ok(Some(Arc::new(sink)))
    };
    Ok(Publish {
        changes: sink("changes", &publish.changes.topic)?,
        rejects: sink("rejects", &publish.rejects.topic)?,
    })
}
