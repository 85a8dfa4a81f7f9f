//! A Kafka broker, as a process that can be killed, frozen and started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use tagloom::clock::Deadline;

use super::maven::{MISSING, libraries};
use super::process::{Process, READY_MAX, run};
use super::{free_ports, wait_until};

/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// See the module. It ends when it is dropped.
pub struct Kafka {
    broker: Option<Process>,
    port: u16,
    dir: tempfile::TempDir,
    libraries: PathBuf,
}

/// A record for a topic.
pub struct Record<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// When it arrived, epoch ms.
    pub at_ms: i64,
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub at_ms: Option<i64>,
    /// Headers by name.
    pub headers: BTreeMap<String, String>,
}

impl Found {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            headers.iter().map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default()))).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().unwrap_or_default().to_vec(),
            at_ms: message.timestamp().to_millis(),
            headers: headers.unwrap_or_default(),
        }
    }
}

impl Kafka {
    /// Starts a broker and waits until it answers.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("tagloom-live-kafka-").tempdir().unwrap();
        let [port, controller] = free_ports();
        let properties = properties(dir.path(), port, controller);
        std::fs::write(dir.path().join("server.properties"), properties).unwrap();
        let mut kafka = Self { broker: None, port, dir, libraries: libraries("kafka") };
        let id = kafka.tool("kafka.tools.StorageTool", &["random-uuid"]);
        let id = id.trim().lines().last().unwrap().to_owned();
        let file = kafka.path("server.properties");
        let format = ["format", "--standalone", "-t", &id, "-c", &file];
        kafka.tool("kafka.tools.StorageTool", &format);
        kafka.start_broker();
        kafka
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        command.arg("-Xmx512m").arg("-cp").arg(self.libraries.join("*"));
        command
    }

    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        run(self.java().arg(class).args(arguments), MISSING)
    }

    /// Starts the broker where it stood, and waits until it answers.
    pub fn start_broker(&mut self) {
        let file = self.path("server.properties");
        let mut command = self.java();
        command.arg("kafka.Kafka").arg(file);
        let mut broker = Process::start("kafka", self.dir.path(), &mut command);
        wait_until("Kafka answers", READY_MAX, || {
            broker.must_run();
            let second = Duration::from_secs(1);
            self.consumer("ready").fetch_metadata(None, second).is_ok()
        });
        self.broker = Some(broker);
    }

    /// kill -9 of the broker.
    pub fn kill_broker(&mut self) {
        self.broker.take().expect("it runs").kill();
    }

    /// What clients name it.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.servers());
        config
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        self.config().set("group.id", group).create().unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    fn wait<T>(&self, done: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(done)
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]);
    }

    /// The same, with settings of its own.
    pub fn create_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        new.config.extend(settings);
        let made = self.wait(self.admin().create_topics([&new], &AdminOptions::new())).unwrap();
        made.into_iter().for_each(|topic| drop(topic.unwrap()));
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete(&self, topic: &str) {
        let gone = self.wait(self.admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
        gone.into_iter().for_each(|topic| drop(topic.unwrap()));
        wait_until("the topic is gone", ANSWER, || {
            let metadata = self.consumer("gone").fetch_metadata(None, ANSWER).unwrap();
            metadata.topics().iter().all(|t| t.name() != topic)
        });
    }

    /// Adds partitions to a topic.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let grown = self.wait(self.admin().create_partitions([&new], &AdminOptions::new()));
        grown.unwrap().into_iter().for_each(|topic| drop(topic.unwrap()));
    }

    /// Sends records, by the partitioner that Java's clients use.
    pub fn send<'a>(&self, topic: &str, records: impl IntoIterator<Item = Record<'a>>) {
        let producer: ThreadedProducer<_> = self
            .config()
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .unwrap();
        for record in records {
            let new = BaseRecord::to(topic).key(record.key).payload(record.value);
            producer.send(new.timestamp(record.at_ms)).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(ANSWER).unwrap();
    }

    /// Sends lines as they come, keyed by the number behind `"uid":`.
    pub fn stream(&self, topic: &str, lines: impl Iterator<Item = String>) {
        let producer: ThreadedProducer<_> = self
            .config()
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .unwrap();
        for line in lines {
            let key = super::portrait::uid(line.as_bytes());
            let record = BaseRecord::to(topic).key(key).payload(&line);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(ANSWER).unwrap();
    }

    /// Reads topics from their beginnings to their ends, as fast as the client does; how many records.
    /// `backoff_ms`: before it asks for more of what it has enough of (its default is 1,000).
    pub fn drain(&self, topics: &[String], backoff_ms: u32) -> u64 {
        let mut config = self.config();
        config.set("fetch.queue.backoff.ms", backoff_ms.to_string());
        config.set("group.id", "bare").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let (mut list, mut left) = (TopicPartitionList::new(), 0);
        for topic in topics {
            let metadata = consumer.fetch_metadata(Some(topic), ANSWER).unwrap();
            for partition in metadata.topics()[0].partitions() {
                let (first, end) =
                    consumer.fetch_watermarks(topic, partition.id(), ANSWER).unwrap();
                left += end - first;
                list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            }
        }
        consumer.assign(&list).unwrap();
        let all = left;
        while left > 0 {
            left -= i64::from(consumer.poll(ANSWER).expect("records come").is_ok());
        }
        all.unsigned_abs()
    }

    /// Waits until a group has committed everything that is in some topics.
    #[track_caller]
    pub fn wait_committed(&self, group: &str, topics: &[String], at_most: Duration) {
        self.wait_committed_but(group, topics, 0, at_most);
    }

    /// The same where so many partitions of each topic end with the mark of a transaction, which is no
    /// record.
    #[track_caller]
    pub fn wait_committed_but(
        &self,
        group: &str,
        topics: &[String],
        marks: i64,
        at_most: Duration,
    ) {
        let consumer = self.consumer(group);
        let deadline = Deadline::after(at_most);
        loop {
            let lags: Vec<_> = topics.iter().map(|topic| self.lags(&consumer, topic)).collect();
            let is_done = |lags: &Option<Vec<i64>>| {
                lags.as_ref().is_some_and(|l| l.iter().sum::<i64>() == marks)
            };
            if lags.iter().all(is_done) {
                return;
            }
            assert!(
                !deadline.is_over(),
                "not all is committed; by topic, then partition: {lags:?}"
            );
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Records of topics that a group has not committed; none while the cluster does not answer.
    pub fn lag(&self, group: &str, topics: &[String]) -> Option<i64> {
        let consumer = self.consumer(group);
        let of = |topic: &String| Some(self.lags(&consumer, topic)?.iter().sum::<i64>());
        topics.iter().map(of).sum()
    }

    /// All records of a topic whose transactions are committed, by partition, then offset.
    pub fn read_all(&self, topic: &str) -> Vec<Found> {
        let mut config = self.config();
        config.set("group.id", "reads-all").set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut found, mut open) = (Vec::new(), list.count());
        while open > 0 {
            match consumer.poll(ANSWER).expect("the topic has an end") {
                Ok(message) => found.push(Found::of(&message)),
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => panic!("{topic}: {error}"),
            }
        }
        found.sort_by_key(|record| (record.partition, record.offset));
        found
    }

    /// Waits until no transaction is open in a topic: behind one that is, nothing can be read.
    #[track_caller]
    fn wait_stable(&self, topic: &str, at_most: Duration) {
        let readers = ["read_committed", "read_uncommitted"].map(|isolation| {
            let mut config = self.config();
            config.set("group.id", "ends").set("isolation.level", isolation);
            config.create::<BaseConsumer>().unwrap()
        });
        wait_until("no transaction is open", at_most, || {
            let Ok(metadata) = readers[0].fetch_metadata(Some(topic), ANSWER) else { return false };
            metadata.topics()[0].partitions().iter().all(|partition| {
                let [stable, last] = readers.each_ref().map(|reader| {
                    reader.fetch_watermarks(topic, partition.id(), ANSWER).map(|(_, end)| end).ok()
                });
                stable.is_some() && stable == last
            })
        });
    }

    /// Waits until a group has committed the last record of each partition: behind it there may be
    /// marks of transactions.
    #[track_caller]
    pub fn wait_read(&self, group: &str, topic: &str, at_most: Duration) {
        self.wait_stable(topic, at_most);
        let ends: BTreeMap<i32, i64> =
            self.read_all(topic).into_iter().map(|r| (r.partition, r.offset + 1)).collect();
        let consumer = self.consumer(group);
        wait_until("the last record is committed", at_most, || {
            let mut list = TopicPartitionList::new();
            for partition in ends.keys() {
                list.add_partition(topic, *partition);
            }
            let Ok(committed) = consumer.committed_offsets(list, ANSWER) else { return false };
            ends.iter().all(|(partition, end)| {
                let at = committed.find_partition(topic, *partition);
                at.is_some_and(|at| at.offset().to_raw().is_some_and(|next| next >= *end))
            })
        });
    }

    /// Records of each partition that a group has not committed; none while the cluster does not
    /// answer.
    fn lags(&self, consumer: &BaseConsumer, topic: &str) -> Option<Vec<i64>> {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).ok()?;
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics().first()?.partitions() {
            list.add_partition(topic, partition.id());
        }
        let committed = consumer.committed_offsets(list, ANSWER).ok()?;
        let mut lags = Vec::new();
        for element in committed.elements() {
            let (_, end) = consumer.fetch_watermarks(topic, element.partition(), ANSWER).ok()?;
            lags.push(match element.offset() {
                Offset::Offset(next) => end - next,
                _ => end,
            });
        }
        Some(lags)
    }
}

fn properties(dir: &Path, port: u16, controller: u16) -> String {
    let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    let quorum = format!("127.0.0.1:{controller}");
    let data = dir.join("data").display().to_string();
    let settings = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.bootstrap.servers", &quorum),
        ("listeners", &listeners),
        ("advertised.listeners", &listeners),
        ("controller.listener.names", "CONTROLLER"),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("log.dirs", &data),
        ("auto.create.topics.enable", "false"),
        ("offsets.topic.replication.factor", "1"),
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "1000"),
        ("log.retention.hours", "-1"),
    ];
    settings.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}
