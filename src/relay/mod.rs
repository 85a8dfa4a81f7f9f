//! Topics that are keyed otherwise, rewritten into one that is keyed by uid.
//!
//! In: records of topics keyed by a table's key, or by another partitioner, or with another number of
//! partitions. Out: each record as it is, in the partition of every user who gets something of it, with
//! headers that say where it comes from ([`relayed`](crate::source::kafka::relayed)); `tagloom run` reads
//! those as if it had read the origin. A record that moves a row from one user to another stands in the
//! partitions of both, and in each only the rows of that partition's users count.
//!
//! ```text
//! poll ─► batch ─────────────► decode ─► copies ─► transaction: copies and offsets together
//!         (relay.batch_rows_max,
//!          relay.batch_ms)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `batch.rs` | records of a transaction, and where their copies go: pure |
//! | `member.rs` | a member of the group: partitions, and where reading them goes on |
//! | `transaction.rs` | the transactional producer |
//!
//! Who gets a record is what the decoders say that the engine itself uses: there is no second parser. A
//! record that some stream refuses is relayed too, so that the engine makes the reject.
//!
//! Invariant: between two polls no transaction is open, and a rebalance happens within a poll only; an
//! offset is committed in the transaction that holds all copies of the records before it.

mod batch;
mod member;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::batch::{Batch, Copies};
use self::member::{Left, Member};
use self::transaction::{Sent, Writer};
use crate::catalog::model::Catalog;
use crate::clock::Stopwatch;
use crate::config::RelayConfig;
use crate::event::{Decoder, DecoderError};
use crate::source::kafka::{KafkaConfig, KafkaError, SettingsError, Start, TopicMeta};
use crate::telemetry::{facts, names};
use crate::user::layout::StateLayout;
use crate::user::texts::Texts;

/// How long librdkafka may wait for a record.
const POLL: Duration = Duration::from_millis(20);

/// Bytes of texts that decoders may know; beyond it they begin anew.
const TEXTS_BYTES_MAX: usize = 64 << 20;

/// How often the lag is looked up.
const LAG_EVERY: Duration = Duration::from_secs(10);

/// Without a record for so long, what is left before the ends of partitions are no records.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// What to relay.
pub struct RelayOptions {
    /// `kafka.*`.
    pub kafka: KafkaConfig,
    /// `relay.*`.
    pub relay: RelayConfig,
    /// The catalogue whose streams say who gets a record.
    pub catalog: Arc<Catalog>,
    /// How its states are kept.
    pub layout: Arc<StateLayout>,
    /// Topics to read, each with the streams that read it (indices).
    pub topics: Vec<(String, Vec<usize>)>,
    /// Topics that `tagloom run` reads beside `relay.topic`.
    pub beside: Vec<String>,
    /// Where partitions begin of which nothing is committed.
    pub start: Start,
    /// End when everything is relayed that was there at the start.
    pub until_end: bool,
}

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Relayed {
    /// Records read.
    pub records: u64,
    /// Records written.
    pub copies: u64,
    /// Records read that are about no user.
    pub left_out: u64,
    /// Transactions committed.
    pub transactions: u64,
    /// Transactions that had to be done again.
    pub aborted: u64,
    /// Partitions that are read.
    pub partitions: u64,
    /// Records that are not relayed yet, at the last look.
    pub lag: u64,
}

/// Why relaying cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Topics, settings, where to begin.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// `relay.topic` is not there.
    #[error(
        "Kafka has no topic `{topic}` ({reason}), which relay.topic names: create it with as many \
         partitions as `tagloom run` is to be shared by{like}, as in: kafka-topics.sh --create --topic \
         {topic} --partitions {partitions} --config retention.ms=-1"
    )]
    NoTarget {
        /// The topic.
        topic: String,
        /// The cluster's words.
        reason: String,
        /// Topics that it has to be like, or nothing.
        like: String,
        /// Partitions that it may have.
        partitions: u32,
    },
    /// `relay.topic` has other partitions than topics that are read beside it.
    #[error(
        "relay.topic `{topic}` has {partitions} partitions, and `{other}`, which is read beside it, has \
         {others}: a user's events would stand in partitions of two numbers. Make relay.topic with \
         {others} partitions, or add `{other}` to relay.topics"
    )]
    Partitions {
        /// `relay.topic`.
        topic: String,
        /// How many it has.
        partitions: u32,
        /// A topic beside it.
        other: String,
        /// How many that one has.
        others: u32,
    },
    /// Everything up to here was written into another topic.
    #[error(
        "topic `{topic}`, partition {partition}: its records up to {next} were relayed into another \
         topic than `{target}` is now, or it had another number of partitions then. To relay them again \
         into this one: `tagloom source reset {topic}`, and a new store for what reads it"
    )]
    OtherTarget {
        /// The topic of origin.
        topic: String,
        /// Its partition.
        partition: u32,
        /// The next record.
        next: u64,
        /// `relay.topic`.
        target: String,
    },
    /// The streams cannot be decoded.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// A record does not fit.
    #[error(
        "{topic}/{partition}, offset {offset}: the record ({bytes} bytes) is larger than relay.topic \
         takes: raise kafka.message.max.bytes here, and max.message.bytes of relay.topic"
    )]
    TooLarge {
        /// The topic of origin.
        topic: String,
        /// Its partition.
        partition: u32,
        /// The offset there.
        offset: u64,
        /// Bytes of its value.
        bytes: usize,
    },
    /// Another process works under the same name.
    #[error(
        "another `tagloom relay` has begun under the name relay.id = `{id}`: what was under way here is \
         its to do. Give each process a name of its own, or none"
    )]
    Fenced {
        /// The name.
        id: String,
    },
    /// The producer cannot go on.
    #[error(
        "Kafka: {what}: {reason}; started again, relay goes on with what is committed, and writes \
         nothing twice"
    )]
    Failed {
        /// What was done.
        what: &'static str,
        /// librdkafka's words.
        reason: String,
    },
}

impl From<SettingsError> for RelayError {
    fn from(error: SettingsError) -> Self {
        Self::Kafka(error.into())
    }
}

impl RelayError {
    /// Whether settings, topics or catalogue have to change before it can work.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Kafka(error) => error.is_input(),
            Self::Decoder(_)
            | Self::NoTarget { .. }
            | Self::Partitions { .. }
            | Self::OtherTarget { .. }
            | Self::TooLarge { .. } => true,
            Self::Fenced { .. } | Self::Failed { .. } => false,
        }
    }
}

/// The group of the processes that relay.
pub fn group_of(relay: &RelayConfig, kafka: &KafkaConfig) -> String {
    if relay.group.is_empty() { format!("{}-relay", kafka.group()) } else { relay.group.clone() }
}

/// Relays until `stop` is set, or to the end. `observe` is called several times a second.
pub fn run(
    options: &RelayOptions,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Relayed),
) -> Result<Relayed, RelayError> {
    let member = Member::join(options)?;
    let writer = Writer::start(options, member.target(), stop)?;
    let mut relay = Relay {
        options,
        batch: Batch::new(options.topics.len()),
        decoders: Vec::new(),
        texts: Arc::default(),
        member,
        writer,
        done: Relayed::default(),
        lag_at: None,
        idle: Stopwatch::start(),
        changes: 0,
    };
    relay.begin_anew()?;
    let ended = relay.work(stop, observe);
    let done = std::mem::take(&mut relay.done);
    // Others get the partitions at once.
    relay.member.leave();
    ended.map(|()| done)
}

struct Relay<'a> {
    options: &'a RelayOptions,
    member: Member,
    writer: Writer,
    batch: Batch,
    /// By topic.
    decoders: Vec<Decoder>,
    texts: Arc<Texts>,
    done: Relayed,
    lag_at: Option<Stopwatch>,
    /// Since the last record, or since partitions were assigned.
    idle: Stopwatch,
    /// Changes of what is assigned that were seen.
    changes: u64,
}

impl Relay<'_> {
    /// Makes decoders, which know no text yet.
    fn begin_anew(&mut self) -> Result<(), DecoderError> {
        let RelayOptions { catalog, layout, topics, .. } = self.options;
        self.texts = Arc::default();
        let make = |(topic, streams): &(String, Vec<usize>)| {
            let decoder =
                Decoder::new(catalog, layout, streams, topic, Arc::clone(&self.texts), 1)?;
            Ok(decoder.with_offsets(true))
        };
        self.decoders = topics.iter().map(make).collect::<Result<_, DecoderError>>()?;
        Ok(())
    }

    fn work(
        &mut self,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Relayed),
    ) -> Result<(), RelayError> {
        while !stop.load(Ordering::Relaxed) {
            self.gather(stop)?;
            let is_idle = self.batch.is_empty();
            let changes = self.member.changes();
            if !self.batch.is_empty() || self.changes != changes {
                (self.idle, self.changes) = (Stopwatch::start(), changes);
            }
            if !self.batch.is_empty() {
                self.relay(stop)?;
            }
            self.look_around();
            observe(&self.done);
            if self.options.until_end && is_idle && self.is_at_end() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Polls records, for a while.
    fn gather(&mut self, stop: &AtomicBool) -> Result<(), RelayError> {
        let limits = &self.options.relay;
        let (since, patience) = (Stopwatch::start(), Duration::from_millis(limits.batch_ms));
        self.batch.clear();
        while since.elapsed() < patience && !stop.load(Ordering::Relaxed) {
            if !self.member.poll(POLL, &mut self.batch)? && !self.batch.is_empty() {
                break;
            }
            if self.batch.rows() >= limits.batch_rows_max
                || self.batch.bytes() >= limits.batch_bytes_max
            {
                break;
            }
        }
        Ok(())
    }

    /// Writes copies of the batch and its offsets, in one transaction.
    fn relay(&mut self, stop: &AtomicBool) -> Result<(), RelayError> {
        if self.texts.view().size().1 > TEXTS_BYTES_MAX {
            self.begin_anew()?;
        }
        let copies = self.batch.copies(&mut self.decoders, self.member.target().partitions);
        let took = Stopwatch::start();
        let offsets = self.member.offsets(&self.batch.next)?;
        match self.writer.write(
            &self.batch,
            &copies,
            &self.options.topics,
            (&self.member, &offsets),
            stop,
        )? {
            Sent::Committed => {
                names::RELAY_TRANSACTIONS.counter(&["committed"]).increment(1);
                names::RELAY_TRANSACTION_SECONDS.histogram(&[]).record(took.elapsed());
                self.tell(&copies);
                self.done.transactions += 1;
            }
            Sent::Aborted => {
                names::RELAY_TRANSACTIONS.counter(&["aborted"]).increment(1);
                self.done.aborted += 1;
                self.member.go_back()?;
            }
            // The brokers end the transaction; its records are read again by whoever comes next.
            Sent::Stopped => {}
        }
        self.batch.clear();
        Ok(())
    }

    fn tell(&mut self, copies: &Copies) {
        for (at, (topic, _)) in self.options.topics.iter().enumerate() {
            let counts = &copies.counts[at];
            let outcomes =
                [("relayed", counts.relayed), ("left_out", counts.records - counts.relayed)];
            for (outcome, records) in outcomes.into_iter().filter(|(_, records)| *records > 0) {
                names::RELAY_RECORDS.counter(&[topic, outcome]).increment(records);
            }
            names::RELAY_COPIES.counter(&[topic]).increment(counts.copies);
            for (reason, rows) in counts.reasons().filter(|(_, rows)| *rows > 0) {
                names::RELAY_LEFT_OUT.counter(&[topic, reason]).increment(rows);
            }
            self.done.records += counts.records;
            self.done.copies += counts.copies;
            self.done.left_out += counts.records - counts.relayed;
        }
    }

    /// Looks up what is not told.
    fn look_around(&mut self) {
        self.done.partitions = self.member.partitions() as u64;
        if self.lag_at.as_ref().is_some_and(|at| at.elapsed() < LAG_EVERY) {
            return;
        }
        if let Some(lag) = self.member.lag() {
            self.lag_at = Some(Stopwatch::start());
            self.done.lag = lag;
            names::RELAY_LAG.gauge(&[]).set(facts::number(lag));
        }
    }

    /// Whether everything is relayed that was there at the start, be it by others.
    fn is_at_end(&self) -> bool {
        let Some(Left { own, others: 0 }) = self.member.left() else { return false };
        // Behind the last record there may be marks of transactions, which are no records.
        let waited = own > 0 && self.idle.elapsed() > IDLE_MAX;
        if waited {
            tracing::warn!(own, "no record came: what is left are marks of transactions");
        }
        own == 0 || waited
    }
}

/// By topic and partition.
type ByPartition<T> = BTreeMap<(usize, u32), T>;

/// What the offsets say beside the number: of which topics they are.
fn mark(origin: &TopicMeta, target: &TopicMeta) -> String {
    format!("{} {} {}", origin.id, target.id, target.partitions)
}
