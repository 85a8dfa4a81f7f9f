//! The transactional producer: copies and offsets, together or not at all.
//!
//! In: a batch and its copies. Out: whether they are committed. Two things keep a process that is not a
//! member of the group any more from committing: its name, where it has one (`transactional.id`), and
//! the group's generation, which goes with the offsets.
//! Invariant: when a call returns, no transaction is open, unless the process is to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::batch::{Batch, Copies, Copy, Key};
use super::member::Member;
use super::{RelayError, RelayOptions, group_of};
use crate::clock::Stopwatch;
use crate::source::kafka::{SettingsError, TopicMeta, relayed};

/// How long a call may take before it is looked whether to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long is waited for room in the producer's queue.
const ROOM: Duration = Duration::from_millis(50);

/// How often it is looked whether everything is delivered.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Committed,
    /// Nothing of it counts: its records have to be read again.
    Aborted,
    /// The process is to end.
    Stopped,
}

/// What a failure means.
enum Trouble {
    /// The same call again.
    Again,
    /// The transaction cannot be committed.
    Abort,
    /// The process is to end.
    Stopped,
    Fatal(RelayError),
}

/// Gets librdkafka's calls.
#[derive(Default)]
struct Context {
    /// Why the brokers refuse a record, which they would refuse again.
    refused: Mutex<Option<String>>,
}

impl Context {
    fn take_refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    /// A record that was not delivered fails its transaction: the commit says so, but not whether
    /// another try can help.
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, _)) = result else { return };
        let is_final = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::TopicAuthorizationFailed
            )
        );
        if is_final {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert_with(|| error.to_string());
        }
    }
}

/// See the module.
pub(super) struct Writer {
    producer: BaseProducer<Context>,
    target: TopicMeta,
    /// `relay.id`.
    id: String,
}

impl Writer {
    /// Ends what a process of the same name has left, and waits for it.
    pub(super) fn start(
        options: &RelayOptions,
        target: &TopicMeta,
        stop: &AtomicBool,
    ) -> Result<Self, RelayError> {
        let relay = &options.relay;
        let name = match relay.id.as_str() {
            "" => format!("{:016x}", rand::random::<u64>()),
            id => id.to_owned(),
        };
        let group = group_of(relay, &options.kafka);
        let mut config = options.kafka.client()?;
        // A producer joins no group.
        for key in
            ["group.id", "session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"]
        {
            config.remove(key);
        }
        config
            .set("transactional.id", format!("{group}-{name}"))
            .set("transaction.timeout.ms", relay.transaction_timeout_ms.to_string());
        let producer = config
            .create_with_context(Context::default())
            .map_err(|e| SettingsError::Refused(e.to_string()))?;
        let writer = Self { producer, target: target.clone(), id: relay.id.clone() };
        match writer.repeat("init of transactions", stop, |p| p.init_transactions(PATIENCE)) {
            Ok(()) | Err(Trouble::Stopped) => Ok(writer),
            Err(Trouble::Fatal(error)) => Err(error),
            Err(Trouble::Again | Trouble::Abort) => Err(RelayError::Failed {
                what: "init of transactions",
                reason: "an earlier transaction could not be ended".to_owned(),
            }),
        }
    }

    /// Writes copies and offsets in one transaction.
    pub(super) fn write(
        &self,
        batch: &Batch,
        copies: &Copies,
        topics: &[(String, Vec<usize>)],
        (member, offsets): (&Member, &TopicPartitionList),
        stop: &AtomicBool,
    ) -> Result<Sent, RelayError> {
        let begun = self.repeat("begin of a transaction", stop, Producer::begin_transaction);
        let done = begun
            .and_then(|()| self.send_all(batch, copies, topics, stop))
            .and_then(|()| self.send_offsets(member, offsets, stop))
            .and_then(|()| {
                self.drain();
                self.repeat("commit of a transaction", stop, |p| p.commit_transaction(PATIENCE))
            });
        match done {
            Ok(()) => Ok(Sent::Committed),
            Err(Trouble::Stopped) => Ok(Sent::Stopped),
            Err(Trouble::Fatal(error)) => Err(error),
            Err(Trouble::Abort | Trouble::Again) => {
                match self.repeat("end of a transaction", stop, |p| p.abort_transaction(PATIENCE)) {
                    Err(Trouble::Fatal(error)) => Err(error),
                    Err(Trouble::Stopped) => Ok(Sent::Stopped),
                    _ => match self.producer.context().take_refused() {
                        Some(reason) => {
                            Err(RelayError::Failed { what: "writing into relay.topic", reason })
                        }
                        None => Ok(Sent::Aborted),
                    },
                }
            }
        }
    }

    /// Waits for what is on its way to the brokers: the flush of a commit looks after 100 ms only. What
    /// is not there in time is left to that.
    fn drain(&self) {
        let since = Stopwatch::start();
        while self.producer.in_flight_count() > 0 && since.elapsed() < PATIENCE {
            self.producer.poll(LOOK_EVERY);
        }
    }

    fn send_offsets(
        &self,
        member: &Member,
        offsets: &TopicPartitionList,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        // Not a member any more: somebody else reads these records.
        let Some(metadata) = member.metadata() else { return Err(Trouble::Abort) };
        self.repeat("offsets of a transaction", stop, |p| {
            p.send_offsets_to_transaction(offsets, &metadata, PATIENCE)
        })
    }

    fn send_all(
        &self,
        batch: &Batch,
        copies: &Copies,
        topics: &[(String, Vec<usize>)],
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        let (mut rest, mut partitions) = (copies.copies.as_slice(), Vec::new());
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|copy| copy.record == first.record).count();
            let (of_record, others) = rest.split_at(count);
            partitions.clear();
            partitions.extend(of_record.iter().map(|copy| copy.partition));
            let origin = batch.origin(first.record, topics);
            for copy in of_record {
                self.send(batch, copy, origin, &partitions, stop)?;
            }
            rest = others;
        }
        Ok(())
    }

    fn send(
        &self,
        batch: &Batch,
        copy: &Copy,
        origin: relayed::Origin<'_>,
        partitions: &[u32],
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        let digits;
        let key = match &copy.key {
            Key::Number(uid) => {
                digits = uid.to_string();
                Some(digits.as_bytes())
            }
            Key::Text(uid) => Some(uid.as_bytes()),
            Key::Nobody => None,
        };
        let value = batch.value(copy.record);
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.target.topic)
            .partition(i32::try_from(copy.partition).unwrap_or(i32::MAX))
            .timestamp(batch.record(copy.record).arrival_ms)
            .headers(relayed::headers(origin, partitions))
            .payload(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.producer.poll(ROOM);
                    if stop.load(Ordering::Relaxed) {
                        return Err(Trouble::Stopped);
                    }
                    record = back;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    return Err(Trouble::Fatal(RelayError::TooLarge {
                        topic: origin.topic.to_owned(),
                        partition: origin.partition,
                        offset: origin.offset,
                        bytes: value.len(),
                    }));
                }
                _ => {
                    // Why says the producer when the transaction is to be ended.
                    tracing::warn!(%error, "a record was not taken: the transaction is done again");
                    return Err(Trouble::Abort);
                }
            }
        }
    }

    /// Calls until it succeeds or cannot.
    fn repeat(
        &self,
        what: &'static str,
        stop: &AtomicBool,
        call: impl Fn(&BaseProducer<Context>) -> Result<(), ClientError>,
    ) -> Result<(), Trouble> {
        loop {
            let Err(error) = call(&self.producer) else { return Ok(()) };
            match self.judge(what, &error) {
                Trouble::Again if stop.load(Ordering::Relaxed) => return Err(Trouble::Stopped),
                Trouble::Again => tracing::warn!(%error, "{what}: again"),
                Trouble::Abort => {
                    tracing::warn!(%error, "{what}: the transaction is done again");
                    return Err(Trouble::Abort);
                }
                other => return Err(other),
            }
        }
    }

    fn judge(&self, what: &'static str, error: &ClientError) -> Trouble {
        let fatal = |fenced: bool| {
            Trouble::Fatal(if fenced {
                RelayError::Fenced { id: self.id.clone() }
            } else {
                RelayError::Failed { what, reason: error.to_string() }
            })
        };
        match error {
            ClientError::Transaction(error) if error.txn_requires_abort() => Trouble::Abort,
            ClientError::Transaction(error) if error.is_retriable() => Trouble::Again,
            ClientError::Transaction(error) => fatal(matches!(
                error.code(),
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
                    | RDKafkaErrorCode::ProducerFenced
            )),
            ClientError::Flush(
                RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::MessageTimedOut,
            ) => Trouble::Again,
            _ => fatal(false),
        }
    }
}
