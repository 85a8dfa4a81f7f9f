//! A member of a consumer group: what it owns, what it reads, what it has committed.
//!
//! In: topics, who remembers positions. Out: assignments, one after the other; blocks of the current
//! one; commits of what was stored. One thread polls librdkafka, and rebalances happen on it.
//! Invariant: between the end of one assignment and the beginning of the next nothing is read; each
//! has a term of its own, taken before offsets are looked up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::context::{Context, Poller};
use super::gather::{BlockLimits, Queue, RecordBlocks};
use super::lag::Lag;
use super::reach::Reach;
use super::start::{Start, Starts};
use super::topics::describe;
use super::{KafkaConfig, KafkaError, SourceId, TopicMeta, position_name, topic_of_position};
use crate::clock::boot_ms;
use crate::engine::status::Status;
use crate::source::position::Position;
use crate::telemetry::facts::number;
use crate::telemetry::names;

/// Between two tries of a commit, while the group's coordinator moves or no broker answers.
const COMMIT_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How often librdkafka says how far it is.
const STATISTICS_EVERY_MS: u64 = 5_000;

/// How long leaving the group may take when this process ends: with the last window within 30 s.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// Tries between two lines of the log.
const TELL_EVERY: u32 = 40;

/// Says which position is remembered under a name.
pub type Remembered = Box<dyn Fn(&str) -> Result<Option<Position>, String> + Send + Sync>;

/// How a group is joined, and how much is read at once.
pub struct GroupOptions {
    /// `kafka.*`.
    pub config: KafkaConfig,
    /// Topics to read, each once.
    pub topics: Vec<String>,
    /// The one among them that `relay` fills.
    pub relayed: Option<RelayedTopics>,
    /// Where partitions begin of which nothing is remembered.
    pub start: Start,
    /// Who remembers positions. With [`Starts::Store`] all partitions are read by this process, which
    /// joins no group.
    pub starts: Starts,
    /// The position that the store remembers, by name.
    pub remembered: Remembered,
    /// Takes the next term of ownership.
    pub take_term: Box<dyn Fn() -> Result<u64, String> + Send + Sync>,
    /// Bytes and rows of a block.
    pub block_bytes: usize,
    /// Rows of a block.
    pub block_rows_max: usize,
    /// Blocks that may wait for decoders.
    pub blocks_max: usize,
    /// Records of a partition that may be read beyond its last commit.
    pub commit_ahead_rows_max: u64,
    /// Whether records are read. A member that is there for a command owns partitions and reads nothing.
    pub reads: bool,
    /// How long the window may take that is stored before partitions are given up, ms.
    pub flush_max_ms: u64,
}

/// What `relay` fills, and from which topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedTopics {
    /// The topic that is read.
    pub topic: String,
    /// Those whose records stand in it.
    pub origins: Vec<String>,
}

/// What this process owns for a while.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Counts assignments of this process.
    pub generation: u64,
    /// The term of ownership.
    pub term: u64,
    /// Numbers of the partitions, of each topic.
    pub partitions: Vec<u32>,
    /// The first offset to read, by topic and partition.
    pub starts: BTreeMap<(usize, u32), u64>,
    /// The offset behind the last record that there was, by topic and partition: owners before this
    /// one have not sent anything that rests on later ones.
    pub ends: BTreeMap<(usize, u32), u64>,
}

impl Assignment {
    /// Partitions as fences name them, with the first offset to read and the end of the log.
    pub fn sources<'a>(
        &'a self,
        topics: &'a [TopicMeta],
    ) -> impl Iterator<Item = (u32, SourceId, u64, u64)> + 'a {
        self.starts.iter().map(|(at, start)| {
            let (topic, partition) = at;
            let source = SourceId::new(&topics[*topic].id, *partition);
            (*partition, source, *start, self.ends.get(at).copied().unwrap_or(u64::MAX))
        })
    }
}

/// Where the current assignment stands.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) assignment: Option<Assignment>,
    /// The engine works under it.
    in_use: bool,
    /// It is being given up: nobody is to begin work under it.
    giving_up: bool,
    /// Told to finish when partitions are to be given up.
    engine: Weak<Status>,
    failure: Option<KafkaError>,
    /// Why nothing is read though there is an assignment.
    pub(super) paused: Option<String>,
}

/// What the poll thread and the engine share.
pub(super) struct Shared {
    pub(super) options: GroupOptions,
    pub(super) topics: Vec<TopicMeta>,
    /// Index of the topic that `relay` fills.
    pub(super) relayed: Option<usize>,
    pub(super) queue: Arc<Queue>,
    pub(super) stop: AtomicBool,
    /// The present assignment's offsets are to be looked up again.
    pub(super) again: AtomicBool,
    /// Of the assignment that is read; 0: none.
    pub(super) generation: AtomicU64,
    /// Assignments so far.
    pub(super) generations: AtomicU64,
    /// A partition is not read on before more of it is committed.
    pub(super) wants_commit: AtomicBool,
    /// A window is stored, and its offsets are not committed yet.
    pub(super) is_committing: AtomicBool,
    /// By topic, then partition: what is committed.
    pub(super) committed: Vec<Vec<AtomicU64>>,
    /// How far behind they are.
    pub(super) lag: Lag,
    /// Whether the cluster answers.
    pub(super) reach: Reach,
    /// When the group last confirmed that this process is a member, boot time in ms.
    pub(super) confirmed_ms: AtomicI64,
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset up to which a partition is committed.
    pub(super) fn committed_of(&self, topic: usize, partition: u32) -> u64 {
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        let of_topic = self.committed.get(topic).and_then(|of_topic| of_topic.get(at));
        of_topic.map_or(0, |committed| committed.load(Ordering::Acquire))
    }

    /// Reading cannot go on.
    pub(super) fn fail(&self, error: KafkaError) {
        let mut standing = self.standing();
        tracing::error!(%error, "Kafka");
        if let Some(engine) = standing.engine.upgrade() {
            engine.stop();
        }
        standing.failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Another assignment is there, or none.
    pub(super) fn assigned(&self, assignment: Option<Assignment>, paused: Option<String>) {
        let mut standing = self.standing();
        let generation = assignment.as_ref().map_or(0, |a| a.generation);
        self.queue.clear();
        self.lag.forget();
        let partitions = assignment.as_ref().map_or(0, |a| a.partitions.len());
        names::KAFKA_PARTITIONS.gauge(&[]).set(number(partitions as u64));
        if let Some(assignment) = &assignment {
            names::TERM.gauge(&[]).set(number(assignment.term));
        }
        self.generation.store(generation, Ordering::Release);
        (standing.assignment, standing.paused) = (assignment, paused);
        standing.giving_up = false;
        self.changed.notify_all();
    }

    /// Partitions are to be given up: the engine stores what it has read, within a limit of time.
    /// `lost`: others may own them already.
    pub(super) fn give_up(&self, lost: bool) {
        let mut standing = self.standing();
        standing.giving_up = true;
        if let Some(engine) = standing.engine.upgrade() {
            if lost {
                self.generation.store(0, Ordering::Release);
                engine.fail(KafkaError::Lost.into());
            } else {
                engine.stop();
            }
        }
        let patience = Duration::from_millis(self.options.flush_max_ms);
        let waited = self.changed.wait_timeout_while(standing, patience, |s| s.in_use && !lost);
        standing = waited.unwrap_or_else(PoisonError::into_inner).0;
        if standing.in_use && !lost {
            tracing::warn!("the last window was not stored in time: the next owner reads it again");
            // It would wait for blocks of an assignment that is gone.
            if let Some(engine) = standing.engine.upgrade() {
                engine.fail(KafkaError::Lost.into());
            }
        }
        drop(standing);
        self.assigned(None, None);
    }
}

/// A member of a group, or the only reader.
pub struct Group {
    shared: Arc<Shared>,
    /// There until it is dropped.
    consumer: Option<Arc<BaseConsumer<Context>>>,
    thread: Option<JoinHandle<()>>,
}

/// The right to write what the partitions of one assignment hold.
#[derive(Clone)]
pub struct Lease {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Context>>,
    generation: u64,
}

impl Group {
    /// Looks the topics up, and joins. `before`: what the store knows of a topic; it is compared.
    pub fn join(
        options: GroupOptions,
        before: &dyn Fn(&str) -> Result<Option<TopicMeta>, String>,
    ) -> Result<Self, KafkaError> {
        let mut config = options.config.consumer()?;
        if config.get("statistics.interval.ms").is_none() {
            // By these the lag is known.
            config.set("statistics.interval.ms", STATISTICS_EVERY_MS.to_string());
        }
        names::KAFKA_QUEUE_BLOCKS_MAX.gauge(&[]).set(number(options.blocks_max.max(1) as u64));
        let context = Context::new();
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context.clone())
            .map_err(|e| super::SettingsError::Refused(e.to_string()))?;
        let topics = describe(consumer.client(), &options.topics)?;
        for topic in &topics {
            let known = before(&topic.topic).map_err(|reason| KafkaError::Cluster {
                what: "topics that the store knows".to_owned(),
                reason,
            })?;
            if let Some(known) = known {
                super::start::check_topic(&known, topic)?;
            }
        }
        let column = |t: &TopicMeta| (0..t.partitions).map(|_| AtomicU64::new(0)).collect();
        let relayed = options.relayed.as_ref();
        let relayed = relayed.and_then(|r| topics.iter().position(|t| t.topic == r.topic));
        let shared = Arc::new(Shared {
            relayed,
            queue: Arc::new(Queue::new(options.blocks_max)),
            committed: topics.iter().map(column).collect(),
            lag: Lag::default(),
            reach: Reach::default(),
            topics,
            options,
            stop: AtomicBool::new(false),
            again: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            wants_commit: AtomicBool::new(false),
            is_committing: AtomicBool::new(false),
            confirmed_ms: AtomicI64::new(boot_ms()),
            standing: Mutex::new(Standing::default()),
            changed: Condvar::new(),
        });
        context.serve(&shared);
        let consumer = Arc::new(consumer);
        let (mine, poller) = (Arc::clone(&shared), Arc::clone(&consumer));
        let thread = std::thread::Builder::new().name("kafka".to_owned()).spawn(move || {
            Poller::new(mine, poller).run();
        });
        let thread = Some(thread.map_err(KafkaError::Thread)?);
        Ok(Self { shared, consumer: Some(consumer), thread })
    }

    /// The topics that are read, in the order in which they were named.
    pub fn topics(&self) -> &[TopicMeta] {
        &self.shared.topics
    }

    /// Topics whose records `relay` has written into one that is read.
    pub fn origins(&self) -> &[String] {
        self.shared.options.relayed.as_ref().map_or(&[], |relayed| &relayed.origins)
    }

    /// The next assignment to work under; waits at most so long.
    pub fn next(&self, patience: Duration) -> Result<Option<Assignment>, KafkaError> {
        let standing = self.shared.standing();
        let none = |s: &mut Standing| {
            s.failure.is_none() && (s.assignment.is_none() || s.paused.is_some() || s.giving_up)
        };
        let waited = self.shared.changed.wait_timeout_while(standing, patience, none);
        let mut standing = waited.unwrap_or_else(PoisonError::into_inner).0;
        if let Some(failure) = standing.failure.take() {
            return Err(failure);
        }
        if standing.paused.is_some() || standing.giving_up {
            return Ok(None);
        }
        standing.in_use = standing.assignment.is_some();
        Ok(standing.assignment.clone())
    }

    /// The failure that ended reading, if one did.
    pub fn take_failure(&self) -> Option<KafkaError> {
        self.shared.standing().failure.take()
    }

    /// Why nothing is read at present, if so.
    pub fn idle(&self) -> Option<String> {
        if let Some(trouble) = self.shared.reach.trouble() {
            return Some(trouble);
        }
        let standing = self.shared.standing();
        match (&standing.assignment, &standing.paused) {
            (None, _) => Some("no partitions are assigned to this process".to_owned()),
            (Some(_), paused) => paused.clone(),
        }
    }

    /// Numbers of partitions that are assigned to this process.
    pub fn partitions(&self) -> usize {
        self.shared.standing().assignment.as_ref().map_or(0, |a| a.partitions.len())
    }

    /// Records between the last commits and the ends of the logs; none: it is not known yet.
    pub fn lag_records(&self) -> Option<u64> {
        self.shared.lag.records()
    }

    /// An engine works under the present assignment: it is told when it has to finish.
    pub fn attach(&self, assignment: &Assignment, engine: &Arc<Status>) {
        let mut standing = self.shared.standing();
        standing.engine = Arc::downgrade(engine);
        let present = standing.assignment.as_ref().map(|a| a.generation);
        if present != Some(assignment.generation) || standing.giving_up {
            engine.stop();
        }
    }

    /// The engine has ended its work. `again`: the assignment is to be worked on by another one, from
    /// what is stored.
    pub fn release(&self, again: bool) {
        let mut standing = self.shared.standing();
        standing.in_use = false;
        standing.engine = Weak::new();
        if again && standing.assignment.is_some() {
            standing.assignment = None;
            self.shared.again.store(true, Ordering::Release);
        }
        self.shared.changed.notify_all();
    }

    /// Blocks of an assignment.
    pub fn blocks(&self, assignment: &Assignment) -> RecordBlocks {
        RecordBlocks { queue: Arc::clone(&self.shared.queue), generation: assignment.generation }
    }

    /// The right to write under an assignment.
    pub fn lease(&self, assignment: &Assignment) -> Lease {
        Lease {
            shared: Arc::clone(&self.shared),
            consumer: Arc::clone(self.consumer.as_ref().expect("it is there until it is dropped")),
            generation: assignment.generation,
        }
    }

    /// Blocks that wait for decoders.
    pub fn blocks_waiting(&self) -> usize {
        self.shared.queue.len()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.queue.clear();
        let (thread, consumer) = (self.thread.take(), self.consumer.take());
        let (ended, has_ended) = std::sync::mpsc::sync_channel::<()>(1);
        let close = move || {
            // A panic of it was reported by the panic hook.
            drop(thread.map(JoinHandle::join));
            drop(consumer);
            drop(ended);
        };
        // librdkafka waits for a commit that is under way until a coordinator answers for it.
        let closing = std::thread::Builder::new().name("kafka close".to_owned()).spawn(close);
        let waited = closing.map(|_| has_ended.recv_timeout(CLOSE_MAX));
        if matches!(waited, Ok(Err(RecvTimeoutError::Timeout))) {
            tracing::warn!(
                "Kafka does not answer: this member is not signed off, its session ends"
            );
        }
    }
}

impl Lease {
    /// Fails when the partitions may belong to another process: nothing may be sent then.
    pub fn check(&self) -> Result<(), KafkaError> {
        if self.shared.generation.load(Ordering::Acquire) != self.generation {
            return Err(KafkaError::Lost);
        }
        if self.shared.options.starts == Starts::Store {
            return Ok(());
        }
        let half_ms = self.shared.options.config.session_timeout_ms() / 2;
        let silent_ms = boot_ms() - self.shared.confirmed_ms.load(Ordering::Acquire);
        if silent_ms < i64::try_from(half_ms).unwrap_or(i64::MAX) {
            return Ok(());
        }
        // The coordinator answers for members of the present generation only.
        self.commit(&self.committed())
    }

    /// Whether a position is one of its topics', which the group remembers.
    pub fn remembers(&self, name: &str) -> bool {
        let topic = topic_of_position(name);
        topic.is_some_and(|topic| self.shared.topics.iter().any(|read| read.topic == topic))
    }

    /// Whether a partition waits for a commit before it is read on: a window should close.
    pub fn wants_commit(&self) -> bool {
        self.shared.wants_commit.load(Ordering::Acquire)
    }

    /// Commits what a window has stored.
    pub fn stored(&self, positions: &BTreeMap<String, Position>) -> Result<(), KafkaError> {
        let mut moved = TopicPartitionList::new();
        for (topic, meta) in self.shared.topics.iter().enumerate() {
            for (partition, committed) in (0..).zip(&self.shared.committed[topic]) {
                let Some(at) = positions.get(&position_name(&meta.topic, partition)) else {
                    continue;
                };
                committed.store(at.offset, Ordering::Release);
                add(&mut moved, &meta.topic, partition, at.offset)?;
            }
        }
        if moved.count() == 0 {
            return Ok(());
        }
        if self.shared.options.starts == Starts::Store {
            // For those who watch the lag: the store remembers.
            if let Err(error) = self.consumer.commit(&moved, CommitMode::Async) {
                tracing::debug!(%error, "offsets were not committed");
            }
            return Ok(());
        }
        self.shared.is_committing.store(true, Ordering::Release);
        let result = self.commit(&moved);
        self.shared.is_committing.store(false, Ordering::Release);
        result
    }

    /// Whether a window is stored, and its offsets are not committed yet.
    pub fn is_committing(&self) -> bool {
        self.shared.is_committing.load(Ordering::Acquire)
    }

    /// Everything that is committed of this assignment.
    fn committed(&self) -> TopicPartitionList {
        let mut all = TopicPartitionList::new();
        let standing = self.shared.standing();
        for (topic, partition) in standing.assignment.iter().flat_map(|a| a.starts.keys()) {
            let next = usize::try_from(*partition)
                .ok()
                .and_then(|at| self.shared.committed[*topic].get(at))
                .map_or(0, |c| c.load(Ordering::Acquire));
            // The list was made of these.
            drop(add(&mut all, &self.shared.topics[*topic].topic, *partition, next));
        }
        all
    }

    fn commit(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        let mut tries: u32 = 0;
        loop {
            if self.shared.generation.load(Ordering::Acquire) != self.generation {
                return Err(KafkaError::Lost);
            }
            let sent_ms = boot_ms();
            let error = match self.consumer.commit(offsets, CommitMode::Sync) {
                Ok(()) => {
                    names::KAFKA_COMMITS.counter(&[]).increment(1);
                    self.shared.confirmed_ms.fetch_max(sent_ms, Ordering::AcqRel);
                    return Ok(());
                }
                Err(error) => error,
            };
            names::KAFKA_COMMIT_FAILURES.counter(&[]).increment(1);
            match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::RebalanceInProgress
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::AssignmentLost
                    | RDKafkaErrorCode::NoOffset,
                ) => {
                    tracing::warn!(%error, "offsets were not committed: partitions are lost");
                    return Err(KafkaError::Lost);
                }
                // Until the brokers are back, or the group says that the partitions are another's.
                _ => {
                    if tries.is_multiple_of(TELL_EVERY) {
                        tracing::warn!(%error, tries, "offsets are not committed yet");
                    }
                    tries += 1;
                    std::thread::park_timeout(COMMIT_AGAIN_AFTER);
                }
            }
        }
    }
}

/// Adds an offset to a list.
pub(crate) fn add(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: u32,
    next: u64,
) -> Result<(), KafkaError> {
    let (Ok(number), Ok(offset)) = (i32::try_from(partition), i64::try_from(next)) else {
        return Err(KafkaError::Read(format!("{topic}/{partition}: offset {next} is too large")));
    };
    list.add_partition_offset(topic, number, Offset::Offset(offset))
        .map_err(|e| KafkaError::Read(format!("{topic}/{partition}: {e}")))
}

impl GroupOptions {
    pub(super) fn limits(&self) -> BlockLimits {
        BlockLimits { block_bytes: self.block_bytes, block_rows_max: self.block_rows_max }
    }
}
