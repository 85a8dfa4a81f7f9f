//! What happens on the thread that polls librdkafka: records are gathered, and rebalances happen.
//!
//! In: records, assignments and revocations. Out: blocks in the queue; the shared standing.
//! Invariant: polling never stops for longer than a window may take to be stored, so that the group
//! keeps this member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::gather::{Gather, Record, RecordBlock};
use super::group::{Assignment, Shared, add};
use super::start::{Known, Start, Starts, first_offset};
use super::topics::ANSWER_WITHIN;
use super::{KafkaError, position_name, relayed};
use crate::clock::Stopwatch;
use crate::event::{RecordPlace, Whose};
use crate::telemetry::names;

/// How long librdkafka may wait for a record: what is gathered goes on then.
const POLL: Duration = Duration::from_millis(20);

/// How long a block may be gathered while records keep coming.
const GATHER_FOR: Duration = Duration::from_millis(100);

/// Records between two looks at the clock.
const LOOK_EVERY_ROWS: u32 = 512;

/// How long decoders may be behind before librdkafka is told to pause: shorter waits are cheaper than
/// fetching again what it holds.
const FULL_FOR: Duration = Duration::from_millis(500);

/// How often an assignment is tried that the cluster or the store does not answer for.
const ASSIGN_TRIES: u32 = 24;

/// Between two tries.
const ASSIGN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Gets librdkafka's calls.
#[derive(Clone, Default)]
pub(super) struct Context(Arc<Mutex<Weak<Shared>>>);

impl Context {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// From now on rebalances change this.
    pub(super) fn serve(&self, shared: &Arc<Shared>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(shared);
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(shared) = self.shared() {
            shared.lag.see(&shared, &statistics);
            shared.reach.see(&statistics, shared.options.starts);
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        tracing::warn!(%error, "librdkafka: {reason}");
        // That all are down says less than what was said of the last of them.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown)
            && let Some(shared) = self.shared()
        {
            shared.reach.said(reason);
        }
    }
}

impl ConsumerContext for Context {
    /// Of a commit that nobody waited for.
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) => names::KAFKA_COMMITS.counter(&[]).increment(1),
            Err(error) => tracing::debug!(%error, "offsets were not committed"),
        }
    }

    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let Some(shared) = self.shared() else { return };
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // This process may have been stopped since the group answered: before anything is sent, the
            // coordinator is asked.
            shared.confirmed_ms.store(i64::MIN / 2, Ordering::Release);
            names::KAFKA_REBALANCES.counter(&[]).increment(1);
            take(&shared, consumer, &numbered(&shared, partitions));
        } else {
            shared.give_up(consumer.assignment_lost());
            resume_all(consumer);
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "partitions were not given up");
            }
        }
    }
}

/// Partitions by the index of their topic.
fn numbered(shared: &Shared, partitions: &TopicPartitionList) -> Vec<(usize, u32)> {
    let number = |e: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let topic = shared.topics.iter().position(|t| t.topic == e.topic())?;
        Some((topic, u32::try_from(e.partition()).ok()?))
    };
    partitions.elements().into_iter().filter_map(number).collect()
}

/// librdkafka keeps what was paused over the end of an assignment: a partition that was paused to wait
/// for a commit and comes back with the next assignment would never be read.
fn resume_all(consumer: &BaseConsumer<Context>) {
    let resumed = consumer.assignment().and_then(|all| consumer.resume(&all));
    if let Err(error) = resumed {
        tracing::warn!(%error, "partitions that waited for a commit were not resumed");
    }
}

/// Begins an assignment: a term first, then offsets.
fn take(shared: &Shared, consumer: &BaseConsumer<Context>, partitions: &[(usize, u32)]) {
    resume_all(consumer);
    let mut tries = 0;
    loop {
        match try_take(shared, consumer, partitions) {
            Ok(()) => return shared.reach.not_taken(None),
            Err(error @ KafkaError::Cluster { .. })
                if tries < ASSIGN_TRIES && !shared.stop.load(Ordering::Acquire) =>
            {
                tries += 1;
                tracing::warn!(%error, tries, "partitions cannot be taken over yet");
                shared.reach.not_taken(Some(error.to_string()));
                std::thread::park_timeout(ASSIGN_AGAIN_AFTER);
            }
            Err(error) => return shared.fail(error),
        }
    }
}

fn try_take(
    shared: &Shared,
    consumer: &BaseConsumer<Context>,
    partitions: &[(usize, u32)],
) -> Result<(), KafkaError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |reason| KafkaError::Cluster { what, reason }
    };
    let owned: BTreeSet<u32> = partitions.iter().map(|(_, partition)| *partition).collect();
    let paused = unequal(shared, partitions, &owned);
    let term = (shared.options.take_term)().map_err(failed("a term of ownership"))?;
    let (mut starts, mut ends) = (BTreeMap::new(), BTreeMap::new());
    let mut list = TopicPartitionList::new();
    let remembered = remembered(shared, consumer, partitions)?;
    for (at, next) in remembered {
        let (topic, partition) = at;
        let name = &shared.topics[topic].topic;
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let log = consumer
            .fetch_watermarks(name, number, ANSWER_WITHIN)
            .map_err(|e| failed("first and last offsets")(e.to_string()))?;
        let log = (log.0.max(0).cast_unsigned(), log.1.max(0).cast_unsigned());
        let start = match (next, shared.options.start) {
            (Some(_), _) | (None, Start::Earliest) => log.0,
            (None, Start::Latest) => log.1,
            (None, Start::At(instant_ms)) => {
                offset_at(consumer, name, number, instant_ms)?.unwrap_or(log.1)
            }
        };
        let first = first_offset(name, partition, Known { next, log, start })?;
        add(&mut list, name, partition, first)?;
        starts.insert(at, first);
        ends.insert(at, log.1);
        if let Some(committed) =
            usize::try_from(partition).ok().and_then(|at| shared.committed[topic].get(at))
        {
            committed.store(first, Ordering::Release);
        }
    }
    consumer.assign(&list).map_err(|e| failed("assignment")(e.to_string()))?;
    if shared.options.starts == Starts::Store
        && list.count() > 0
        && let Err(error) = consumer.commit(&list, CommitMode::Async)
    {
        // For those who watch the lag: the store remembers.
        tracing::debug!(%error, "offsets were not committed");
    }
    if paused.is_some() || !shared.options.reads {
        consumer.pause(&list).map_err(|e| failed("pause")(e.to_string()))?;
    }
    let generation = shared.generations.fetch_add(1, Ordering::AcqRel) + 1;
    let partitions: Vec<u32> = owned.into_iter().collect();
    tracing::info!(?partitions, term, generation, paused, "partitions are assigned");
    let assignment = Assignment { generation, term, partitions, starts, ends };
    let is_empty = assignment.partitions.is_empty();
    shared.assigned((!is_empty).then_some(assignment), paused);
    Ok(())
}

/// Why partitions cannot be read: of some topic other numbers came than of another.
fn unequal(shared: &Shared, partitions: &[(usize, u32)], owned: &BTreeSet<u32>) -> Option<String> {
    let of = |topic: usize| {
        let mine = partitions.iter().filter(|(t, _)| *t == topic);
        mine.map(|(_, partition)| *partition).collect::<BTreeSet<u32>>()
    };
    let other = (0..shared.topics.len()).find(|topic| of(*topic) != *owned)?;
    Some(format!(
        "of topic `{}` this process has partitions {:?}, of all topics {owned:?}: a user's events \
         would come to several processes; nothing is read until the group assigns the same numbers \
         of each",
        shared.topics[other].topic,
        of(other),
    ))
}

type Remembered = Vec<((usize, u32), Option<u64>)>;

/// How far partitions were read.
fn remembered(
    shared: &Shared,
    consumer: &BaseConsumer<Context>,
    partitions: &[(usize, u32)],
) -> Result<Remembered, KafkaError> {
    let failed = |reason| KafkaError::Cluster { what: "positions".to_owned(), reason };
    match shared.options.starts {
        Starts::Store => {
            let position = |(topic, partition): &(usize, u32)| {
                let name = position_name(&shared.topics[*topic].topic, *partition);
                let position = (shared.options.remembered)(&name).map_err(failed)?;
                Ok(((*topic, *partition), position.map(|p| p.offset)))
            };
            partitions.iter().map(position).collect()
        }
        Starts::Group => {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in partitions {
                let number = i32::try_from(*partition).unwrap_or(i32::MAX);
                list.add_partition(&shared.topics[*topic].topic, number);
            }
            let committed = consumer.committed_offsets(list, ANSWER_WITHIN);
            let committed = committed.map_err(|e| failed(e.to_string()))?;
            let mut found = Vec::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                let number = i32::try_from(*partition).unwrap_or(i32::MAX);
                let element = committed.find_partition(&shared.topics[*topic].topic, number);
                let offset = match element {
                    Some(element) => {
                        element.error().map_err(|e| failed(e.to_string()))?;
                        element.offset()
                    }
                    None => Offset::Invalid,
                };
                let next = match offset {
                    Offset::Offset(next) => u64::try_from(next).ok(),
                    _ => None,
                };
                found.push(((*topic, *partition), next));
            }
            Ok(found)
        }
    }
}

/// The first offset of a record that arrived at an instant or later.
pub(crate) fn offset_at<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    instant_ms: i64,
) -> Result<Option<u64>, KafkaError> {
    let failed = |e: ClientError| KafkaError::Cluster {
        what: "offsets of an instant".to_owned(),
        reason: e.to_string(),
    };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(instant_ms)).map_err(failed)?;
    let found = consumer.offsets_for_times(list, ANSWER_WITHIN).map_err(failed)?;
    Ok(found.find_partition(topic, partition).and_then(|e| match e.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }))
}

/// The thread.
pub(super) struct Poller {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Context>>,
    gather: Gather,
    generation: u64,
    since_look: Stopwatch,
    rows: u32,
    /// Partitions that are read too far beyond their last commit.
    ahead: BTreeSet<(usize, u32)>,
}

impl Poller {
    pub(super) fn new(shared: Arc<Shared>, consumer: Arc<BaseConsumer<Context>>) -> Self {
        let gather = Gather::new(shared.options.limits(), &shared.topics);
        let (since_look, ahead) = (Stopwatch::start(), BTreeSet::new());
        Self { shared, consumer, gather, generation: 0, since_look, rows: 0, ahead }
    }

    pub(super) fn run(mut self) {
        if let Err(error) = self.begin() {
            self.shared.fail(error);
            return;
        }
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.shared.again.swap(false, Ordering::AcqRel) {
                self.take_again();
            }
            let consumer = Arc::clone(&self.consumer);
            let polled = consumer.poll(POLL);
            self.follow();
            match polled {
                Some(Ok(message)) => self.gather(&message),
                Some(Err(error)) => self.failed(&error),
                None => self.flush(),
            }
        }
        // Leaving tells the group at once; the revocation that this brings is answered within.
        self.consumer.unsubscribe();
        let until = Stopwatch::start();
        while self.shared.generation.load(Ordering::Acquire) != 0
            && self.shared.options.starts == Starts::Group
            && until.elapsed() < Duration::from_secs(5)
        {
            drop(self.consumer.poll(POLL));
        }
    }

    fn begin(&mut self) -> Result<(), KafkaError> {
        let shared = &self.shared;
        if shared.options.starts == Starts::Group {
            let names: Vec<&str> = shared.topics.iter().map(|t| t.topic.as_str()).collect();
            return self.consumer.subscribe(&names).map_err(|e| KafkaError::Cluster {
                what: "subscription".to_owned(),
                reason: e.to_string(),
            });
        }
        take(shared, &self.consumer, &all(shared));
        Ok(())
    }

    /// The same partitions once more, from what is stored.
    fn take_again(&mut self) {
        let partitions = match self.shared.options.starts {
            Starts::Store => all(&self.shared),
            Starts::Group => match self.consumer.assignment() {
                Ok(partitions) => numbered(&self.shared, &partitions),
                Err(error) => return self.failed(&error),
            },
        };
        take(&self.shared, &self.consumer, &partitions);
    }

    /// Forgets what was gathered under another assignment.
    fn follow(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.gather.clear();
            self.ahead.clear();
            self.shared.wants_commit.store(false, Ordering::Release);
        }
    }

    fn gather(&mut self, message: &BorrowedMessage<'_>) {
        let Some((topic, partition)) = self.place(message) else { return };
        let arrival_ms = arrival_ms(message.timestamp());
        let offset = message.offset().max(0).cast_unsigned();
        let origin = (partition, offset);
        let place = RecordPlace { offset, origin, arrival_ms, whose: Whose::Everybody };
        let mut record = Record { place, value: message.payload(), relayed: None };
        if self.shared.relayed == Some(topic) {
            relayed::trace_back(&self.shared, message, &mut record);
        }
        if let Some(block) = self.gather.push(topic, partition, record, self.generation) {
            self.send(block);
        }
        self.rows += 1;
        if self.rows >= LOOK_EVERY_ROWS {
            self.rows = 0;
            if self.since_look.elapsed() >= GATHER_FOR {
                self.flush();
            }
        }
    }

    fn place(&self, message: &BorrowedMessage<'_>) -> Option<(usize, u32)> {
        let topic = self.shared.topics.iter().position(|t| t.topic == message.topic())?;
        Some((topic, u32::try_from(message.partition()).ok()?))
    }

    /// Sends all that is gathered.
    fn flush(&mut self) {
        self.since_look = Stopwatch::start();
        while let Some(block) = self.gather.take() {
            self.send(block);
        }
        self.catch_up();
    }

    /// Hands a block on. While there is no room, librdkafka is still polled: it must not take this
    /// member for dead.
    fn send(&mut self, block: RecordBlock) {
        let (topic, partition, next) = (block.topic, block.partition, block.next);
        let Err(mut block) = self.shared.queue.push(Box::new(block), FULL_FOR) else {
            return self.mind_commit(topic, partition, next);
        };
        let assigned = self.consumer.assignment().unwrap_or_default();
        self.change("pause", &assigned, BaseConsumer::pause);
        loop {
            let consumer = Arc::clone(&self.consumer);
            let polled = consumer.poll(POLL);
            self.follow();
            if block.generation != self.generation || self.shared.stop.load(Ordering::Acquire) {
                return;
            }
            match polled {
                Some(Ok(message)) => {
                    // It was on its way when reading paused; its block cannot be full before.
                    if let Some((topic, partition)) = self.place(&message) {
                        self.put_back(&message, topic, partition);
                    }
                }
                Some(Err(error)) => self.failed(&error),
                None => {}
            }
            match self.shared.queue.push(block, POLL) {
                Ok(()) => break,
                Err(same) => block = same,
            }
        }
        let mut resumed = self.consumer.assignment().unwrap_or_default();
        if !self.ahead.is_empty() {
            let keep = numbered(&self.shared, &resumed);
            let keep = keep.into_iter().filter(|at| !self.ahead.contains(at));
            resumed = self.list(keep);
        }
        self.change("resume", &resumed, BaseConsumer::resume);
        self.mind_commit(topic, partition, next);
    }

    /// A record that came while reading was paused is read again later.
    fn put_back(&self, message: &BorrowedMessage<'_>, topic: usize, partition: u32) {
        let name = &self.shared.topics[topic].topic;
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let offset = Offset::Offset(message.offset());
        if let Err(error) = self.consumer.seek(name, number, offset, ANSWER_WITHIN) {
            self.shared.fail(KafkaError::Read(format!("{name}/{partition}: {error}")));
        }
    }

    /// A partition that was read too far beyond its last commit waits for the next one.
    fn mind_commit(&mut self, topic: usize, partition: u32, next: u64) {
        if next.saturating_sub(self.committed(topic, partition))
            > self.shared.options.commit_ahead_rows_max
            && self.ahead.insert((topic, partition))
        {
            let list = self.list(std::iter::once((topic, partition)));
            self.change("pause", &list, BaseConsumer::pause);
            self.shared.wants_commit.store(true, Ordering::Release);
        }
    }

    /// Partitions whose commits have come after them are read on.
    fn catch_up(&mut self) {
        if self.ahead.is_empty() {
            return;
        }
        let positions = self.consumer.position().unwrap_or_default();
        let half = self.shared.options.commit_ahead_rows_max / 2;
        let ready: Vec<(usize, u32)> = self
            .ahead
            .iter()
            .copied()
            .filter(|(topic, partition)| {
                let number = i32::try_from(*partition).unwrap_or(i32::MAX);
                let at = positions.find_partition(&self.shared.topics[*topic].topic, number);
                let next = at.and_then(|e| e.offset().to_raw()).unwrap_or(0).max(0).cast_unsigned();
                next.saturating_sub(self.committed(*topic, *partition)) <= half
            })
            .collect();
        if !ready.is_empty() {
            let list = self.list(ready.iter().copied());
            self.change("resume", &list, BaseConsumer::resume);
            self.ahead.retain(|at| !ready.contains(at));
            self.shared.wants_commit.store(!self.ahead.is_empty(), Ordering::Release);
        }
    }

    fn committed(&self, topic: usize, partition: u32) -> u64 {
        self.shared.committed_of(topic, partition)
    }

    fn list(&self, partitions: impl Iterator<Item = (usize, u32)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            list.add_partition(&self.shared.topics[topic].topic, number);
        }
        list
    }

    fn change(
        &self,
        what: &'static str,
        list: &TopicPartitionList,
        change: impl Fn(&BaseConsumer<Context>, &TopicPartitionList) -> Result<(), ClientError>,
    ) {
        if let Err(error) = change(&self.consumer, list) {
            self.shared.fail(KafkaError::Read(format!("{what}: {error}")));
        }
    }

    /// librdkafka tries again by itself unless nothing can help.
    fn failed(&self, error: &ClientError) {
        if is_final(error) {
            self.shared.fail(KafkaError::Read(error.to_string()));
        } else {
            tracing::warn!(%error, "Kafka");
        }
    }
}

/// Whether a consumer cannot help itself.
pub(crate) fn is_final(error: &ClientError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::Authentication,
        )
    )
}

/// When a record arrived, epoch ms.
pub(crate) fn arrival_ms(timestamp: Timestamp) -> i64 {
    match timestamp {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
        Timestamp::NotAvailable => crate::clock::wall_ms(),
    }
}

/// Every partition of every topic.
fn all(shared: &Shared) -> Vec<(usize, u32)> {
    let of = |(topic, meta): (usize, &super::TopicMeta)| {
        (0..meta.partitions).map(move |partition| (topic, partition)).collect::<Vec<_>>()
    };
    shared.topics.iter().enumerate().flat_map(of).collect()
}
