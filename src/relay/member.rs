//! A member of the group that relays: which partitions it reads, and from where on.
//!
//! In: topics. Out: records in a batch; offsets for the transaction. Beside each offset stands of which
//! topics it is: those of other topics of the same names are refused.
//! Invariant: reading goes on with what is committed, and with nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::batch::Batch;
use super::{ByPartition, RelayError, RelayOptions, group_of, mark};
use crate::clock::Stopwatch;
use crate::source::kafka::{
    ANSWER_WITHIN, KafkaError, Known, SettingsError, Start, StartError, TopicMeta, arrival_ms,
    first_offset, is_final, look_up_topics, offset_at,
};

/// How often an assignment is tried that the cluster does not answer for: as long as a transaction of
/// a process that was killed may be open, committed offsets are not told.
const TRIES: u32 = 24;

/// Between two tries.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long leaving the group may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What the rebalance and the member share.
struct Shared {
    topics: Vec<TopicMeta>,
    target: TopicMeta,
    start: Start,
    /// Counts changes of what is assigned.
    changes: AtomicU64,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// The next record of each partition that is assigned.
    next: ByPartition<u64>,
    failure: Option<RelayError>,
}

impl Shared {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, topic: &str) -> Option<usize> {
        self.topics.iter().position(|meta| meta.topic == topic)
    }
}

/// Gets librdkafka's calls.
struct Context(Arc<Mutex<Option<Arc<Shared>>>>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::source::kafka::log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        tracing::warn!(%error, "librdkafka: {reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(shared) = shared else { return };
        shared.changes.fetch_add(1, Ordering::AcqRel);
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            take(&shared, consumer, partitions);
            return;
        }
        *shared.standing() = Standing::default();
        if let Err(error) = consumer.unassign() {
            tracing::warn!(%error, "partitions were not given up");
        }
    }
}

/// Begins to read partitions where their records are relayed up to.
fn take(shared: &Shared, consumer: &BaseConsumer<Context>, partitions: &TopicPartitionList) {
    let mut tries = 0;
    loop {
        match try_take(shared, consumer, partitions) {
            Ok(standing) => {
                let partitions = standing.next.len();
                tracing::info!(partitions, "partitions are relayed");
                *shared.standing() = standing;
                return;
            }
            Err(RelayError::Kafka(error @ KafkaError::Cluster { .. })) if tries < TRIES => {
                tries += 1;
                tracing::warn!(%error, tries, "partitions cannot be taken over yet");
                std::thread::park_timeout(AGAIN_AFTER);
            }
            Err(error) => {
                shared.standing().failure = Some(error);
                return;
            }
        }
    }
}

fn try_take(
    shared: &Shared,
    consumer: &BaseConsumer<Context>,
    partitions: &TopicPartitionList,
) -> Result<Standing, RelayError> {
    let mut list = TopicPartitionList::new();
    for element in partitions.elements() {
        list.add_partition(element.topic(), element.partition());
    }
    let committed = consumer.committed_offsets(list, ANSWER_WITHIN);
    let committed = committed.map_err(failed("committed offsets"))?;
    let mut standing = Standing::default();
    let mut assigned = TopicPartitionList::new();
    for element in committed.elements() {
        element.error().map_err(failed("committed offsets"))?;
        let (name, number) = (element.topic(), element.partition());
        let (Some(topic), Ok(partition)) = (shared.index(name), u32::try_from(number)) else {
            continue;
        };
        let next = match element.offset() {
            Offset::Offset(next) => u64::try_from(next).ok(),
            _ => None,
        };
        if let Some(next) = next {
            check_mark(shared, (topic, partition), next, element.metadata())?;
        }
        let log = log_of(consumer, name, number)?;
        let start = if next.is_some() {
            log.0
        } else {
            begin_of(consumer, shared.start, name, number, log)?
        };
        let first =
            first_offset(name, partition, Known { next, log, start }).map_err(KafkaError::Start)?;
        crate::source::kafka::add(&mut assigned, name, partition, first)?;
        standing.next.insert((topic, partition), first);
    }
    consumer.assign(&assigned).map_err(failed("assignment"))?;
    Ok(standing)
}

/// The first offset of a partition's log, and the one behind the last.
fn log_of(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partition: i32,
) -> Result<(u64, u64), KafkaError> {
    let log = consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN);
    let (first, end) = log.map_err(failed("first and last offsets"))?;
    Ok((first.max(0).cast_unsigned(), end.max(0).cast_unsigned()))
}

/// Where a partition begins that was never relayed.
fn begin_of(
    consumer: &BaseConsumer<Context>,
    start: Start,
    topic: &str,
    partition: i32,
    (first, end): (u64, u64),
) -> Result<u64, KafkaError> {
    match start {
        Start::Earliest => Ok(first),
        Start::Latest => Ok(end),
        Start::At(at_ms) => Ok(offset_at(consumer, topic, partition, at_ms)?.unwrap_or(end)),
    }
}

/// Compares what stands beside an offset with the topics as they are.
fn check_mark(
    shared: &Shared,
    (topic, partition): (usize, u32),
    next: u64,
    found: &str,
) -> Result<(), RelayError> {
    let (origin, target) = (&shared.topics[topic], &shared.target);
    // `tagloom source reset` leaves nothing.
    if found.is_empty() || found == mark(origin, target) {
        return Ok(());
    }
    let topic = origin.topic.clone();
    if found.split(' ').next() != Some(&origin.id) {
        return Err(KafkaError::Start(StartError::OtherTopic { topic }).into());
    }
    let target = target.topic.clone();
    Err(RelayError::OtherTarget { topic, partition, next, target })
}

fn failed(what: &'static str) -> impl Fn(ClientError) -> KafkaError {
    move |error| KafkaError::Cluster { what: what.to_owned(), reason: error.to_string() }
}

/// See the module.
pub(super) struct Member {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Context>,
    /// Where every partition of the topics was to begin, and its end when this process began; only
    /// where it is to go so far.
    goal: ByPartition<(u64, u64)>,
}

/// Records before the ends that logs had when this process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// In partitions of this process.
    pub(super) own: u64,
    /// In those of others, or of nobody yet.
    pub(super) others: u64,
}

impl Member {
    /// Looks the topics up, and joins the group.
    pub(super) fn join(options: &RelayOptions) -> Result<Self, RelayError> {
        let mut config = options.kafka.consumer()?;
        config.set("group.id", group_of(&options.relay, &options.kafka));
        let slot = Arc::new(Mutex::new(None));
        let consumer: BaseConsumer<Context> = config
            .create_with_context(Context(Arc::clone(&slot)))
            .map_err(|e| SettingsError::Refused(e.to_string()))?;
        let names: Vec<String> = options.topics.iter().map(|(topic, _)| topic.clone()).collect();
        let topics = look_up_topics(consumer.client(), &names)?;
        let target = target(&consumer, options)?;
        let shared = Arc::new(Shared {
            topics,
            target,
            start: options.start,
            changes: AtomicU64::new(0),
            standing: Mutex::default(),
        });
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&shared));
        let goal = if options.until_end { goal(&consumer, &shared)? } else { ByPartition::new() };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(failed("subscription"))?;
        Ok(Self { shared, consumer, goal })
    }

    /// `relay.topic`.
    pub(super) fn target(&self) -> &TopicMeta {
        &self.shared.target
    }

    /// Changes of what is assigned, so far.
    pub(super) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Acquire)
    }

    /// Polls once; a record that comes is appended. False: none came. After a rebalance the batch is
    /// empty: what it held is read again, by whoever owns it now.
    pub(super) fn poll(&self, patience: Duration, batch: &mut Batch) -> Result<bool, RelayError> {
        let changes = self.shared.changes.load(Ordering::Acquire);
        let polled = self.consumer.poll(patience);
        if self.shared.changes.load(Ordering::Acquire) != changes {
            batch.clear();
        }
        if let Some(failure) = self.shared.standing().failure.take() {
            return Err(failure);
        }
        let message = match polled {
            None => return Ok(false),
            Some(Err(error)) => {
                Self::mind(&error)?;
                return Ok(false);
            }
            Some(Ok(message)) => message,
        };
        let topic = self.shared.index(message.topic());
        let partition = u32::try_from(message.partition()).ok();
        let (Some(topic), Some(partition)) = (topic, partition) else { return Ok(false) };
        let offset = message.offset().max(0).cast_unsigned();
        let arrival_ms = arrival_ms(message.timestamp());
        batch.push(topic, (partition, offset), arrival_ms, message.payload());
        Ok(true)
    }

    /// librdkafka tries again by itself unless nothing can help.
    fn mind(error: &ClientError) -> Result<(), RelayError> {
        if is_final(error) {
            return Err(KafkaError::Read(error.to_string()).into());
        }
        tracing::warn!(%error, "Kafka");
        Ok(())
    }

    /// Offsets for a transaction.
    pub(super) fn offsets(
        &self,
        next: &ByPartition<u64>,
    ) -> Result<TopicPartitionList, RelayError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in next {
            let meta = &self.shared.topics[*topic];
            crate::source::kafka::add(&mut list, &meta.topic, *partition, *next)?;
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            if let Some(mut element) = list.find_partition(&meta.topic, number) {
                element.set_metadata(mark(meta, &self.shared.target));
            }
        }
        let mut standing = self.shared.standing();
        standing.next.extend(next.iter().map(|(at, next)| (*at, *next)));
        Ok(list)
    }

    /// Who this member is, so that the offsets of one that is none any more are refused.
    pub(super) fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// Reads on from what is committed.
    pub(super) fn go_back(&self) -> Result<(), RelayError> {
        let assigned = self.consumer.assignment().map_err(failed("assignment"))?;
        if assigned.count() > 0 {
            take(&self.shared, &self.consumer, &assigned);
        }
        Ok(())
    }

    /// Partitions that are assigned.
    pub(super) fn partitions(&self) -> usize {
        self.shared.standing().next.len()
    }

    /// What is left before the ends that logs had when this process began, whoever relays it; none:
    /// the brokers do not say at present.
    pub(super) fn left(&self) -> Option<Left> {
        let own = self.shared.standing().next.clone();
        let mut list = TopicPartitionList::new();
        for (topic, partition) in self.goal.keys() {
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            list.add_partition(&self.shared.topics[*topic].topic, number);
        }
        let committed = self.consumer.committed_offsets(list, Duration::from_secs(5)).ok()?;
        let mut left = Left::default();
        for (at, (begin, end)) in &self.goal {
            if let Some(next) = own.get(at) {
                left.own += end.saturating_sub(*next);
                continue;
            }
            let number = i32::try_from(at.1).unwrap_or(i32::MAX);
            let found = committed.find_partition(&self.shared.topics[at.0].topic, number);
            let next = match found.map(|element| element.offset()) {
                Some(Offset::Offset(next)) => next.max(0).cast_unsigned(),
                _ => *begin,
            };
            left.others += end.saturating_sub(next);
        }
        Some(left)
    }

    /// Offsets before the ends of logs as they are now, if the brokers answer.
    pub(super) fn lag(&self) -> Option<u64> {
        let next = self.shared.standing().next.clone();
        let (mut lag, second) = (0, Duration::from_secs(1));
        for ((topic, partition), next) in next {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            let name = &self.shared.topics[topic].topic;
            let (_, end) = self.consumer.fetch_watermarks(name, number, second).ok()?;
            lag += end.max(0).cast_unsigned().saturating_sub(next);
        }
        Some(lag)
    }

    /// Leaves the group: others get its partitions at once.
    pub(super) fn leave(&self) {
        self.consumer.unsubscribe();
        let since = Stopwatch::start();
        while self.partitions() > 0 && since.elapsed() < LEAVE_WITHIN {
            // What still comes is not relayed here.
            drop(self.consumer.poll(Duration::from_millis(20)));
        }
    }
}

/// Where all partitions begin and end.
fn goal(
    consumer: &BaseConsumer<Context>,
    shared: &Shared,
) -> Result<ByPartition<(u64, u64)>, KafkaError> {
    let mut goal = ByPartition::new();
    for (topic, meta) in shared.topics.iter().enumerate() {
        for partition in 0..meta.partitions {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            let log = log_of(consumer, &meta.topic, number)?;
            let begin = begin_of(consumer, shared.start, &meta.topic, number, log)?;
            goal.insert((topic, partition), (begin, log.1));
        }
    }
    Ok(goal)
}

/// Looks up what is written into.
fn target(
    consumer: &BaseConsumer<Context>,
    options: &RelayOptions,
) -> Result<TopicMeta, RelayError> {
    let beside = look_up_topics(consumer.client(), &options.beside)?;
    let topic = &options.relay.topic;
    let found = look_up_topics(consumer.client(), std::slice::from_ref(topic));
    let target = match found {
        Ok(mut found) => found.remove(0),
        Err(KafkaError::NoTopic { topic, reason }) => {
            let like =
                beside.first().map(|t| format!(", which `{}` has {} of", t.topic, t.partitions));
            let partitions = beside.first().map_or(16, |t| t.partitions);
            return Err(RelayError::NoTarget {
                topic,
                reason,
                like: like.unwrap_or_default(),
                partitions,
            });
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(other) = beside.iter().find(|other| other.partitions != target.partitions) {
        return Err(RelayError::Partitions {
            topic: target.topic,
            partitions: target.partitions,
            other: other.topic.clone(),
            others: other.partitions,
        });
    }
    Ok(target)
}
