//! Tables that compacted topics keep in memory (`strategy: broadcast`).
//!
//! In: a topic, all of its partitions from their beginnings on. Out: a [`Feed`] with the last record of
//! each key. One thread and consumer a topic and process, for as long as somebody holds the feed.
//! Invariant: no group is joined and nothing is committed; while the cluster is away, what was read
//! stays, and the feed says why nothing new comes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::table_reader::KafkaReader;
use super::topics::describe;
use super::{KafkaConfig, KafkaError, TopicMeta};
use crate::clock::Stopwatch;
use crate::dimension::{Feed, FeedRecord, OpenFeed, TopicReader};
use crate::telemetry::{facts, names};

/// How long whoever opens a feed waits for it to be whole; it goes on filling behind that.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// How long librdkafka may wait for a record.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// How often the cluster is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long it may take to answer that.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often the topic is looked at: it may have been made again.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);

/// After a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Reads topics that keep tables.
#[derive(Debug, Clone)]
pub struct TopicTables {
    config: KafkaConfig,
    bytes_max: u64,
}

impl TopicTables {
    /// `bytes_max`: of one table.
    pub fn new(config: KafkaConfig, bytes_max: u64) -> Self {
        Self { config, bytes_max }
    }

    /// The feed of a topic, which may have begun just now.
    fn feed(&self, topic: &str) -> Result<Arc<Feed>, String> {
        let mut feeds = FEEDS.lock().unwrap_or_else(PoisonError::into_inner);
        let feeds = feeds.get_or_insert_default();
        if let Some(feed) = feeds.get(topic).and_then(Weak::upgrade) {
            return Ok(feed);
        }
        let feed = Arc::new(Feed::new(topic, self.bytes_max));
        let client = self.client().map_err(|e| e.to_string())?;
        let (follower, name) = (Arc::downgrade(&feed), topic.to_owned());
        std::thread::Builder::new()
            .name("table".to_owned())
            .spawn(move || follow(&follower, &name, &client))
            .map_err(|e| KafkaError::Thread(e).to_string())?;
        feeds.insert(topic.to_owned(), Arc::downgrade(&feed));
        Ok(feed)
    }

    fn client(&self) -> Result<ClientConfig, KafkaError> {
        let mut client = self.config.consumer()?;
        client.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        Ok(client)
    }
}

/// Feeds of this process by topic: engine and readers look at the same one.
static FEEDS: Mutex<Option<HashMap<String, Weak<Feed>>>> = Mutex::new(None);

impl OpenFeed for TopicTables {
    fn open(&self, topic: &str) -> Result<Arc<Feed>, String> {
        let feed = self.feed(topic)?;
        feed.wait(WHOLE_WITHIN);
        Ok(feed)
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn TopicReader>, String> {
        let open = || KafkaReader::open(topic, &self.client()?);
        open().map(|reader| Box::new(reader) as Box<dyn TopicReader>).map_err(|e| e.to_string())
    }
}

/// What reading has come to.
enum Ended {
    /// Nobody holds the feed, or it is larger than it may be.
    Done,
    /// The topic has to be looked at anew.
    Again,
}

fn follow(feed: &Weak<Feed>, topic: &str, client: &ClientConfig) {
    loop {
        match read(feed, topic, client) {
            Ok(Ended::Done) => return,
            Ok(Ended::Again) => {}
            Err(error) => {
                let Some(feed) = feed.upgrade() else { return };
                feed.note(Some(error.to_string()));
                drop(feed);
                std::thread::park_timeout(AGAIN_AFTER);
            }
        }
    }
}

pub(super) fn failed(what: &str) -> impl Fn(ClientError) -> KafkaError {
    let what = what.to_owned();
    move |error| KafkaError::Cluster { what: what.clone(), reason: error.to_string() }
}

/// The topic as the cluster describes it.
pub(super) fn look_at(consumer: &BaseConsumer, topic: &str) -> Result<TopicMeta, KafkaError> {
    let found = describe(consumer.client(), &[topic.to_owned()])?;
    let gone = || KafkaError::NoTopic { topic: topic.to_owned(), reason: "gone".to_owned() };
    found.into_iter().next().ok_or_else(gone)
}

fn read(feed: &Weak<Feed>, topic: &str, client: &ClientConfig) -> Result<Ended, KafkaError> {
    let consumer: BaseConsumer = client.create().map_err(failed("a consumer"))?;
    let meta = look_at(&consumer, topic)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..meta.partitions {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(failed("first offsets"))?;
    }
    match feed.upgrade() {
        Some(feed) => feed.begin(&meta.id),
        None => return Ok(Ended::Done),
    }
    consumer.assign(&list).map_err(failed("assignment"))?;
    let (mut asked, mut looked) = (Stopwatch::start(), Stopwatch::start());
    let mut ended = BTreeSet::new();
    loop {
        let record = consumer.poll(POLL);
        let Some(feed) = feed.upgrade() else { return Ok(Ended::Done) };
        match record {
            Some(Ok(record)) => {
                let fits = feed.put(shown(&record));
                if !fits {
                    tell(&feed);
                    return Ok(Ended::Done);
                }
            }
            Some(Err(ClientError::PartitionEOF(partition))) => {
                ended.insert(partition);
                if ended.len() == list.count() {
                    feed.completed();
                }
                tell(&feed);
            }
            Some(Err(error)) => tracing::warn!(topic, %error, "a table's topic"),
            None => {}
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Stopwatch::start();
            let answer = consumer.fetch_watermarks(topic, 0, ANSWER_WITHIN);
            feed.note(answer.err().map(|e| failed("a table's topic")(e).to_string()));
            tell(&feed);
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked = Stopwatch::start();
            // While the cluster is away nothing is known of the topic.
            if look_at(&consumer, topic).is_ok_and(|now| now != meta) {
                return Ok(Ended::Again);
            }
        }
    }
}

/// A record as the feed takes it. One without a key is told by whoever reads the key.
fn shown<'a>(record: &'a impl Message) -> FeedRecord<'a> {
    FeedRecord {
        partition: record.partition().max(0).cast_unsigned(),
        offset: record.offset().max(0).cast_unsigned(),
        key: record.key().unwrap_or_default(),
        value: value_of(record),
    }
}

/// A record's value; none deletes the row.
pub(super) fn value_of(record: &impl Message) -> Option<&[u8]> {
    record.payload().filter(|value| !value.is_empty() && *value != b"null")
}

fn tell(feed: &Feed) {
    names::DIMENSION_TOPIC_BYTES.gauge(&[feed.topic()]).set(facts::number(feed.bytes()));
}
