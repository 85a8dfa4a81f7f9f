//! Putting records back into the topics that they came from.
//!
//! In: places of records. Out: the same records at their partitions' ends, a batch in one transaction
//! that also commits the batch's number as an offset of a group of its own. So whoever was killed can ask
//! whether a batch is there.
//! Invariant: of a batch all records are readable, or none; a second process that does the same ends the
//! first one's transaction.

use std::time::Duration;

use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::group::add;
use super::start::check_topic;
use super::topics::{ANSWER_WITHIN, describe};
use super::{KafkaConfig, KafkaError, SettingsError, TopicMeta};

/// Records of a batch on their way.
const QUEUE_RECORDS_MAX: u32 = 10_000;

/// Their kilobytes.
const QUEUE_KBYTES_MAX: u32 = 64 << 10;

/// Records that are read over rather than sought past.
const READ_OVER_MAX: u64 = 1_000;

/// How long a transaction may take to end.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordAt {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

/// A record to be put back.
#[derive(Debug, Clone)]
pub struct Redriven {
    /// Where it stood, and where it goes.
    pub at: RecordAt,
    /// As it was; none: the topic has deleted it.
    pub record: Option<OwnedMessage>,
    /// What is put there instead then.
    pub value: Vec<u8>,
    /// It arrives anew; else when it did.
    pub arrives_now: bool,
}

/// See the module.
pub struct Redriver {
    producer: ThreadedProducer<DefaultProducerContext>,
    reader: BaseConsumer,
    marks: BaseConsumer,
    /// The next record that the reader gives.
    next: Option<RecordAt>,
}

fn failed(what: &str) -> impl FnOnce(ClientError) -> KafkaError + '_ {
    move |error| {
        let fenced = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced)
        );
        let reason =
            if fenced { "another process re-drives".to_owned() } else { error.to_string() };
        KafkaError::Cluster { what: what.to_owned(), reason }
    }
}

impl Redriver {
    /// Ends what another process left unfinished. `known`: topics as the store has read them.
    pub fn open(config: &KafkaConfig, known: &[TopicMeta]) -> Result<Self, KafkaError> {
        let refused = |e: ClientError| SettingsError::Refused(e.to_string());
        let mut reading = config.consumer()?;
        reading.set("enable.partition.eof", "true");
        let reader = BaseConsumer::from_config(&reading).map_err(refused)?;
        let names: Vec<String> = known.iter().map(|meta| meta.topic.clone()).collect();
        let now = describe(reader.client(), &names)?;
        known.iter().zip(&now).try_for_each(|(before, now)| check_topic(before, now))?;
        let group = format!("{}-redrive", config.group());
        let marks = reading.set("group.id", &group);
        let marks = BaseConsumer::from_config(marks).map_err(refused)?;
        let mut producing = config.producer(QUEUE_RECORDS_MAX, QUEUE_KBYTES_MAX)?;
        producing.set("transactional.id", &group).remove("message.timeout.ms");
        let producer: ThreadedProducer<_> = producing.create().map_err(refused)?;
        producer.init_transactions(ANSWER_WITHIN).map_err(failed("transactions"))?;
        Ok(Self { producer, reader, marks, next: None })
    }

    /// Whether the transaction of a batch was committed, which marked this topic.
    pub fn is_committed(&self, topic: &str, batch: u64) -> Result<bool, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        let marks = self.marks.committed_offsets(list, ANSWER_WITHIN);
        let marks = marks.map_err(failed("the mark of the last batch"))?;
        let mark = marks
            .elements()
            .first()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::offset);
        Ok(mark == i64::try_from(batch).ok().map(Offset::Offset))
    }

    /// Reads a record; none: the topic has deleted it. Cheap for records of a partition in order.
    pub fn read(&mut self, at: &RecordAt) -> Result<Option<OwnedMessage>, KafkaError> {
        let near = |next: &RecordAt| {
            next.topic == at.topic
                && next.partition == at.partition
                && (next.offset..=next.offset + READ_OVER_MAX).contains(&at.offset)
        };
        if !self.next.as_ref().is_some_and(near) {
            let mut list = TopicPartitionList::new();
            add(&mut list, &at.topic, at.partition, at.offset)?;
            self.reader.assign(&list).map_err(failed("reading records again"))?;
        }
        loop {
            let message = match self.reader.poll(ANSWER_WITHIN) {
                Some(Ok(message)) => message,
                Some(Err(ClientError::PartitionEOF(_))) => return Ok(self.gone()),
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                    ) => {
                        return Ok(self.gone());
                    }
                    _ => return Err(failed("reading records again")(error)),
                },
                None => {
                    return Err(KafkaError::Cluster {
                        what: "reading records again".to_owned(),
                        reason: "no answer".to_owned(),
                    });
                }
            };
            let offset = message.offset().max(0).cast_unsigned();
            // What a former assignment has left behind.
            let is_other = message.topic() != at.topic
                || u32::try_from(message.partition()) != Ok(at.partition);
            if is_other || offset < at.offset {
                continue;
            }
            if offset > at.offset {
                drop(message);
                return Ok(self.gone());
            }
            self.next = Some(RecordAt { offset: offset + 1, ..at.clone() });
            return Ok(Some(message.detach()));
        }
    }

    /// The reader stands somewhere.
    fn gone(&mut self) -> Option<OwnedMessage> {
        self.next = None;
        None
    }

    /// Puts a batch of records back, all or none. `topic` is marked with the batch's number.
    pub fn put(&self, topic: &str, batch: u64, records: &[Redriven]) -> Result<(), KafkaError> {
        self.producer.begin_transaction().map_err(failed("a transaction"))?;
        let done = self.put_all(topic, batch, records);
        if done.is_err() {
            // Whether that succeeds or not, nobody reads what was not committed.
            drop(self.producer.abort_transaction(ANSWER_WITHIN));
        }
        done
    }

    fn put_all(&self, topic: &str, batch: u64, records: &[Redriven]) -> Result<(), KafkaError> {
        for redriven in records {
            self.send(redriven)?;
        }
        let mut mark = TopicPartitionList::new();
        add(&mut mark, topic, 0, batch)?;
        let member = self.marks.group_metadata().ok_or_else(|| KafkaError::Cluster {
            what: "the group of marks".to_owned(),
            reason: "librdkafka knows none".to_owned(),
        })?;
        self.producer.flush(TRANSACTION_MAX).map_err(failed("records"))?;
        self.producer
            .send_offsets_to_transaction(&mark, &member, ANSWER_WITHIN)
            .map_err(failed("the mark of a batch"))?;
        self.producer.commit_transaction(TRANSACTION_MAX).map_err(failed("a transaction"))
    }

    fn send(&self, redriven: &Redriven) -> Result<(), KafkaError> {
        let Redriven { at, record, value, arrives_now } = redriven;
        let partition = i32::try_from(at.partition).unwrap_or(i32::MAX);
        let mut new: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&at.topic).partition(partition);
        new.payload = Some(value);
        if let Some(record) = record {
            (new.key, new.payload) = (record.key(), record.payload());
            new.headers = record.headers().cloned();
            new.timestamp = record.timestamp().to_millis().filter(|_| !arrives_now);
        }
        loop {
            let error = match self.producer.send(new) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    new = back;
                    error
                }
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed("a record")(error));
            }
            self.producer.flush(TRANSACTION_MAX).map_err(failed("records"))?;
        }
    }
}
