//! Reads a topic that keeps a stored table.
//!
//! In: where to begin. Out: records, a batch at a time, and how many are left.
//! Invariant: no group is joined and nothing is committed; what is left of the log's beginning is read
//! where a position is no longer in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::context::is_final;
use super::table::{ANSWER_WITHIN, LOOK_EVERY, POLL, failed, look_at, value_of};
use super::{KafkaError, TopicMeta};
use crate::clock::Stopwatch;
use crate::dimension::{TopicReader, TopicRecord};
use crate::store::Positions;

/// See the module.
pub(super) struct KafkaReader {
    consumer: BaseConsumer,
    meta: TopicMeta,
    /// The next offset of each partition; none: its first.
    next: BTreeMap<u32, u64>,
    /// Partitions that were read to their ends.
    ended: BTreeSet<u32>,
    looked: Stopwatch,
}

impl KafkaReader {
    pub(super) fn open(topic: &str, client: &ClientConfig) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer = client.create().map_err(failed("a consumer"))?;
        let meta = look_at(&consumer, topic)?;
        let (next, ended, looked) = (BTreeMap::new(), BTreeSet::new(), Stopwatch::start());
        Ok(Self { consumer, meta, next, ended, looked })
    }

    fn assign(&mut self, from: &Positions) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.meta.partitions {
            let next = from.next.get(&partition).copied();
            let offset = next.and_then(|next| i64::try_from(next).ok());
            let offset = offset.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(&self.meta.topic, number(partition), offset)
                .map_err(failed("first offsets"))?;
            if let Some(next) = next {
                self.warn_of_gap(partition, next)?;
                self.next.insert(partition, next);
            }
        }
        self.consumer.assign(&list).map_err(failed("assignment"))
    }

    /// Of a topic that is not compacted, what has left it is lost to the table.
    fn warn_of_gap(&self, partition: u32, next: u64) -> Result<(), KafkaError> {
        let topic = &self.meta.topic;
        let ends = self.consumer.fetch_watermarks(topic, number(partition), ANSWER_WITHIN);
        let first = ends.map_err(failed("a table's topic"))?.0.max(0).cast_unsigned();
        if next < first {
            tracing::warn!(
                topic,
                partition,
                next,
                first,
                "records have left the log before they were read: load the table if it is not whole"
            );
        }
        Ok(())
    }

    fn take(
        &mut self,
        record: Result<impl Message, ClientError>,
    ) -> Result<Option<TopicRecord>, KafkaError> {
        match record {
            Ok(record) => {
                let partition = record.partition().max(0).cast_unsigned();
                let offset = record.offset().max(0).cast_unsigned();
                self.next.insert(partition, offset + 1);
                self.ended.remove(&partition);
                let key = record.key().unwrap_or_default().to_vec();
                let value = value_of(&record).map(<[u8]>::to_vec);
                Ok(Some(TopicRecord { partition, offset, key, value }))
            }
            Err(ClientError::PartitionEOF(partition)) => {
                self.ended.insert(partition.max(0).cast_unsigned());
                Ok(None)
            }
            Err(error) => Err(failed("a table's topic")(error)),
        }
    }

    fn records(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<TopicRecord>, KafkaError> {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Stopwatch::start();
            if look_at(&self.consumer, &self.meta.topic)? != self.meta {
                let (topic, reason) =
                    (self.meta.topic.clone(), "made again, or changed".to_owned());
                return Err(KafkaError::NoTopic { topic, reason });
            }
        }
        let (mut records, mut bytes, mut wait) = (Vec::new(), 0, POLL);
        while records.len() < rows_max && bytes < bytes_max {
            let Some(polled) = self.consumer.poll(wait) else { break };
            // The borrow of the consumer ends here.
            let polled = polled.map(|record| record.detach());
            if let Err(error) = &polled
                && !matches!(error, ClientError::PartitionEOF(_))
                && !is_final(error)
            {
                // librdkafka tries again by itself.
                tracing::warn!(topic = self.meta.topic, %error, "a table's topic");
                break;
            }
            let taken = self.take(polled)?;
            let Some(record) = taken else { continue };
            bytes += record.key.len() + record.value.as_ref().map_or(0, Vec::len);
            records.push(record);
            wait = Duration::ZERO;
        }
        Ok(records)
    }

    fn left(&self) -> Result<u64, KafkaError> {
        let mut left = 0;
        for partition in (0..self.meta.partitions).filter(|p| !self.ended.contains(p)) {
            let ends =
                self.consumer.fetch_watermarks(&self.meta.topic, number(partition), ANSWER_WITHIN);
            let (first, end) = ends.map_err(failed("a table's topic"))?;
            let next = self.next.get(&partition).copied();
            let next = next.unwrap_or(first.max(0).cast_unsigned());
            left += end.max(0).cast_unsigned().saturating_sub(next);
        }
        // A partition is at its end when the broker has said so.
        Ok(if self.ended.len() < self.meta.partitions as usize { left.max(1) } else { 0 })
    }
}

fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

impl TopicReader for KafkaReader {
    fn topic_id(&self) -> &str {
        &self.meta.id
    }

    fn partitions(&self) -> u32 {
        self.meta.partitions
    }

    fn seek(&mut self, from: &Positions) -> Result<(), String> {
        (self.next, self.ended) = (BTreeMap::new(), BTreeSet::new());
        self.assign(from).map_err(|e| e.to_string())
    }

    fn read(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<TopicRecord>, String> {
        self.records(rows_max, bytes_max).map_err(|e| e.to_string())
    }

    fn lag(&mut self) -> Result<u64, String> {
        self.left().map_err(|e| e.to_string())
    }
}
