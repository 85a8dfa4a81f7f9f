//! Change data capture for real: a table in MariaDB, Debezium, Kafka, relay, tags. In the end the tags are
//! what SQL says of the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::rig::debezium::Connector;
use crate::rig::kafka::Kafka;
use crate::rig::mariadb::MariaDb;
use crate::rig::portrait::Portrait;
use crate::rig::process::Process;
use crate::rig::{wait_until, write_files};

const CAUGHT_UP: Duration = Duration::from_secs(120);
const END_MAX: Duration = Duration::from_secs(60);
const TOPIC: &str = "cdc.shop.orders";
const PARTITIONS: i32 = 3;

const TABLE: &str = "CREATE DATABASE shop; USE shop; CREATE TABLE orders (order_id VARCHAR(32) PRIMARY KEY, \
uid BIGINT NOT NULL, amount DECIMAL(12,2), category VARCHAR(32), status VARCHAR(16) NOT NULL, \
paid_at DATETIME(3) NOT NULL, KEY (uid));\n";

/// What the tags are to be, by user.
const QUERY: &str = "SELECT uid, COUNT(*), IFNULL(SUM(amount), '0.00'), IFNULL(MAX(amount), ''), \
COUNT(DISTINCT category) FROM shop.orders WHERE status = 'paid' GROUP BY uid";

const STREAM: &str = "stream: orders
from: {kafka: cdc.shop.orders, format: debezium, table: shop.orders}
columns:
  order_id: string
  uid: u64
  amount: decimal(12,2)?
  category: string?
  status: string
  paid_at: timestamp(ms, local)
where: status = 'paid'
uid: uid
time: paid_at
mode: changelog
primary_key: order_id
version: log_position
";

const FEATURES: &str = "feature: orders
stream: orders
value: count(*)
window: lifetime
---
feature: spend
stream: orders
value: sum(amount)
window: lifetime
---
feature: most
stream: orders
value: max(amount)
window: lifetime
---
feature: kinds
stream: orders
value: count(distinct category)
window: lifetime
";

const RULES: &str =
    "tag: \"{of}_is\"\nmatrix: {of: [orders, spend, most, kinds]}\nexpr: \"{of}\"\n";

/// The whole way, and a generator of what happens to the table.
struct Way {
    dir: tempfile::TempDir,
    database: MariaDb,
    kafka: Kafka,
    state: u64,
    orders: u64,
}

impl Way {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("tagloom-live-capture-").tempdir().unwrap();
        let catalog = "name: shop\nuid: u64\ntimezone: Asia/Shanghai\n";
        let files = [
            ("catalog.yaml", catalog),
            ("streams/all.yaml", STREAM),
            ("features/all.yaml", FEATURES),
            ("rules/all.yaml", RULES),
        ];
        write_files(&dir.path().join("tags"), &files);
        let (database, kafka) = (MariaDb::start("+08:00"), Kafka::start());
        database.sql(TABLE);
        for (topic, partitions) in [(TOPIC, PARTITIONS), ("cdc", 1), ("shop.relay", 4)] {
            kafka.create(topic, partitions);
        }
        let way = Self { dir, database, kafka, state: 11, orders: 0 };
        way.ok(&["check", "--write"]);
        way
    }

    fn settings(&self) -> Vec<String> {
        let mut settings = Portrait::settings(&self.kafka, "cdc");
        settings.retain(|setting| !setting.starts_with("clock.mode"));
        settings.extend([
            "store.path=store".to_owned(),
            format!("relay.topics={TOPIC}"),
            "relay.topic=shop.relay".to_owned(),
            "relay.batch_ms=50".to_owned(),
        ]);
        settings
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.current_dir(self.dir.path()).args(arguments);
        command.args(self.settings().iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn ok(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{text}", output.status);
    }

    fn process(&self, name: &str) -> Process {
        Process::start(name, self.dir.path(), &mut self.command(&[name]))
    }

    fn connector(&self) -> Connector<'_> {
        let Self { kafka, database, .. } = self;
        Connector { kafka, database, prefix: "cdc", schema: "shop", dir: self.dir.path() }
    }

    /// A number below this (Knuth's MMIX).
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn insert(&mut self, sql: &mut String) {
        let (id, uid, amount) = (self.orders, self.below(200) + 1, self.below(90_000));
        let amount = match self.below(9) {
            0 => "NULL".to_owned(),
            _ => format!("{}.{:02}", amount / 100, amount % 100),
        };
        let category = ["'鞋'", "'hat'", "'coat'", "NULL"][usize::try_from(self.below(4)).unwrap()];
        let status = ["paid", "paid", "created"][usize::try_from(self.below(3)).unwrap()];
        let days = self.below(20);
        writeln!(
            sql,
            "INSERT INTO orders VALUES ('A-{id}', {uid}, {amount}, {category}, '{status}', \
             NOW(3) - INTERVAL {days} DAY);"
        )
        .unwrap();
        self.orders += 1;
    }

    /// Things that happen to the table, in transactions of some statements.
    fn change(&mut self, statements: u32) {
        let mut sql = "USE shop; SET autocommit=0;\n".to_owned();
        for statement in 0..statements {
            let (id, uid) = (self.below(self.orders.max(1)), self.below(200) + 1);
            match self.below(10) {
                0..=3 => self.insert(&mut sql),
                4 => writeln!(
                    sql,
                    "UPDATE orders SET amount = amount + 1.25 WHERE order_id = 'A-{id}';"
                )
                .unwrap(),
                5 => writeln!(
                    sql,
                    "UPDATE orders SET status = 'refunded' WHERE order_id = 'A-{id}';"
                )
                .unwrap(),
                6 | 7 => writeln!(
                    sql,
                    "UPDATE orders SET uid = {uid}, status = 'paid' WHERE order_id = 'A-{id}';"
                )
                .unwrap(),
                8 => writeln!(sql, "DELETE FROM orders WHERE order_id = 'A-{id}';").unwrap(),
                // Many rows in one event of the log, each to another user.
                _ => writeln!(
                    sql,
                    "UPDATE orders SET uid = uid % 200 + 1 WHERE uid BETWEEN {uid} AND {uid} + 3;"
                )
                .unwrap(),
            }
            if statement % 7 == 6 {
                let ends = if self.below(12) == 0 { "ROLLBACK" } else { "COMMIT" };
                writeln!(sql, "{ends};").unwrap();
            }
        }
        sql.push_str("COMMIT;\n");
        self.database.sql(&sql);
    }

    /// Waits until everything that happened so far stands in the topic: orders of nobody, behind it, have
    /// come in each partition.
    fn wait_captured(&self) {
        let names: Vec<String> = (0..12).map(|n| format!("end-{n}")).collect();
        for name in &names {
            self.database.sql(&format!(
                "INSERT INTO shop.orders VALUES ('{name}', 9999, 0.50, 'end', 'paid', NOW(3));"
            ));
        }
        wait_until("everything is captured", CAUGHT_UP, || {
            let found = self.kafka.read_all(TOPIC);
            let of = |name: &String| {
                let text = format!("\"{name}\"");
                found.iter().find(|r| String::from_utf8_lossy(&r.value).contains(&text))
            };
            let ends: Vec<_> = names.iter().filter_map(of).collect();
            let partitions: std::collections::BTreeSet<i32> =
                ends.iter().map(|record| record.partition).collect();
            ends.len() == names.len() && partitions.len() == usize::try_from(PARTITIONS).unwrap()
        });
    }

    /// Tags by user, as SQL says they are.
    fn expected(&self) -> BTreeMap<String, String> {
        let text = self.database.sql(QUERY);
        let line = |line: &str| {
            let (uid, tags) = line.split_once('\t').unwrap_or((line, ""));
            (uid.to_owned(), tags.replace('\t', ","))
        };
        text.lines().map(line).collect()
    }

    /// Tags by user, as the store has them.
    fn stored(&self) -> BTreeMap<String, String> {
        self.ok(&["export", "--out", "all.csv"]);
        let text = std::fs::read_to_string(self.dir.path().join("all.csv")).unwrap();
        assert!(text.starts_with("uid,orders_is,spend_is,most_is,kinds_is\n"), "{text:.200}");
        let line = |line: &str| {
            let (uid, tags) = line.split_once(',').unwrap();
            (uid.to_owned(), tags.to_owned())
        };
        text.lines().skip(1).map(line).collect()
    }
}

#[test]
#[ignore = "starts MariaDB, Kafka and Debezium: tests/live/run.sh"]
fn tags_of_a_captured_table_are_what_sql_says_of_it() {
    let mut way = Way::start();
    let mut rows = "USE shop;\n".to_owned();
    (0..400).for_each(|_| way.insert(&mut rows));
    way.database.sql(&rows);
    // What is there is read first, then the log is followed.
    let capture = way.connector().start("debezium-1");
    let (relay, run) = (way.process("relay"), way.process("run"));
    way.change(20);
    // Else it would read the whole table again, which does not say what has gone meanwhile.
    wait_until("Debezium has written down where it is", CAUGHT_UP, || {
        let offsets = std::fs::read(way.dir.path().join("offsets")).unwrap_or_default();
        let offsets = String::from_utf8_lossy(&offsets);
        offsets.contains("\"pos\"") && !offsets.contains("\"snapshot")
    });
    way.change(1_500);
    // Without a word to anybody: it repeats what it had sent since it last wrote down how far it was.
    capture.kill();
    way.change(700);
    let capture = way.connector().start("debezium-2");
    way.change(700);
    way.wait_captured();
    way.kafka.wait_committed("cdc-relay", &[TOPIC.to_owned()], CAUGHT_UP);
    way.kafka.wait_read("cdc", "shop.relay", CAUGHT_UP);
    run.stop(END_MAX);
    relay.stop(END_MAX);
    let (expected, stored) = (way.expected(), way.stored());
    assert!(expected.len() > 150, "{}", expected.len());
    for (uid, tags) in &expected {
        assert_eq!(stored.get(uid), Some(tags), "user {uid}");
    }
    // Whoever has no order left has none here either.
    let gone: Vec<_> = stored.iter().filter(|(uid, _)| !expected.contains_key(*uid)).collect();
    assert!(gone.iter().all(|(_, tags)| tags.as_str() == "0,0.00,,0"), "{gone:?}");
    let values = way.kafka.read_all(TOPIC);
    let has = |op: &str| {
        let text = format!("\"op\":\"{op}\"");
        values.iter().filter(|r| String::from_utf8_lossy(&r.value).contains(&text)).count()
    };
    let [read, created, updated, deleted] = ["r", "c", "u", "d"].map(has);
    assert!(
        read == 400 && created > 500 && updated > 500 && deleted > 50,
        "{read} {created} {updated} {deleted}"
    );
    drop(capture);
}
