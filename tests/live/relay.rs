//! Topics that are not keyed by uid, through `tagloom relay`: whatever is killed, the store is the one
//! that the same events give as files, and the topic between holds each record once for each of its users.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tagloom::event::partitioner::partition_of;
use tagloom::source::kafka::relayed::{ORIGIN, PARTITIONS};

use crate::rig::hbase::Hbase;
use crate::rig::kafka::{Found, Kafka, Record};
use crate::rig::portrait::{AS_OF_MS, Portrait};
use crate::rig::process::Process;
use crate::rig::{wait_until, write_files};

const CAUGHT_UP: Duration = Duration::from_secs(240);
const END_MAX: Duration = Duration::from_secs(60);

/// Small transactions, so that many are under way when something is killed.
fn small_transactions(settings: &mut Vec<String>, topic: &str, topics: &[&str]) {
    settings.extend([
        format!("relay.topics={}", topics.join(",")),
        format!("relay.topic={topic}"),
        "relay.batch_rows_max=150".to_owned(),
        "relay.batch_ms=50".to_owned(),
    ]);
}

/// It has got partitions: transactions are under way.
fn wait_relaying(relay: &Process) {
    wait_until("relay has partitions", CAUGHT_UP, || relay.has_said("partitions are relayed"));
}

/// Each record stands once in each partition that it names, and where its key belongs. Returns how many
/// stand in several.
#[track_caller]
fn assert_each_once(kafka: &Kafka, topic: &str, partitions: u32) -> usize {
    let found = kafka.read_all(topic);
    let mut seen = BTreeSet::new();
    let mut several = 0;
    for Found { partition, key, headers, .. } in &found {
        let origin = headers.get(ORIGIN).unwrap();
        assert!(seen.insert((origin.clone(), *partition)), "{origin} stands twice in {partition}");
        if let Some(key) = key {
            let belongs = partition_of(key, partitions);
            assert_eq!(i64::from(belongs), i64::from(*partition), "{origin}");
        }
        several += usize::from(headers.contains_key(PARTITIONS));
    }
    several
}

/// A process of relay; `nth`: which one of the name.
fn named_relay(portrait: &Portrait, settings: &[String], id: &str, nth: u64) -> Process {
    let mut settings = settings.to_vec();
    settings.extend([
        format!("relay.id={id}"),
        "kafka.session.timeout.ms=1500".to_owned(),
        "kafka.heartbeat.interval.ms=300".to_owned(),
    ]);
    let name = format!("{id}-{nth}");
    Process::start(&name, &portrait.path(""), &mut portrait.command(&["relay"], &settings))
}

/// A command refuses to work, and names the remedy.
#[track_caller]
fn refuses(portrait: &Portrait, settings: &[String], command: &[&str], remedy: &str) {
    let output = portrait.command(command, settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(remedy), "{text}");
}

/// Processes of one name that are killed while transactions are under way, and one that is frozen.
fn kill_and_freeze(relay: &dyn Fn(&str, u64) -> Process, run: &dyn Fn() -> Process) {
    for kill in 1..=8_u64 {
        let process = relay("a", kill);
        let run = (kill % 3 == 0).then(run);
        wait_relaying(&process);
        std::thread::park_timeout(Duration::from_millis(60 + (kill * 97) % 330));
        process.kill();
        if let Some(run) = run {
            run.kill();
        }
    }
    // Beyond its session: the other one gets its partitions. Then it goes on as if nothing had been.
    let frozen = relay("a", 9);
    wait_relaying(&frozen);
    std::thread::park_timeout(Duration::from_millis(150));
    frozen.signal("STOP");
    std::thread::park_timeout(Duration::from_secs(4));
    frozen.signal("CONT");
    std::thread::park_timeout(Duration::from_secs(2));
    frozen.kill();
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn two_relays_that_are_killed_lose_nothing_and_write_nothing_twice() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("rel", 4_000, 60_000);
    let mut settings = Portrait::settings(&kafka, "rel");
    settings.push(format!("store.path={}", portrait.path("store").display()));
    settings.push("source.commit_ahead_rows_max=3000".to_owned());
    small_transactions(&mut settings, "rel.relay", &["rel-consume", "rel-cancel"]);
    portrait.load_dimensions(&settings);
    let relay = |id: &str, nth: u64| named_relay(&portrait, &settings, id, nth);
    let refused = |command: &[&str], remedy: &str| refuses(&portrait, &settings, command, remedy);
    let origins = ["rel-consume".to_owned(), "rel-cancel".to_owned()];
    for (topic, partitions) in [("rel-register", 8), ("rel-consume", 3), ("rel-cancel", 8)] {
        kafka.create(topic, partitions);
    }
    refused(&["relay"], "kafka-topics.sh --create --topic rel.relay --partitions 8");
    kafka.create("rel.relay", 6);
    refused(&["relay"], "Make relay.topic with 8 partitions");
    kafka.grow("rel.relay", 8);

    portrait.send_part(&kafka, "register", 0, usize::MAX);
    portrait.send_keyed_by(&kafka, "consume", "event_id");
    portrait.send_keyed_by(&kafka, "cancel", "order_id");
    let other = relay("b", 0);
    kill_and_freeze(&relay, &|| portrait.start("killed", &settings));
    // Nobody takes its name: the brokers end its transaction.
    other.kill();
    let left = kafka.lag("rel-relay", &origins);
    assert!(
        left.is_none_or(|records| records > 2_000),
        "all was done before the last kill: {left:?}"
    );
    let (first, second) = (relay("a", 10), relay("c", 0));
    let run = portrait.start("last", &settings);
    kafka.wait_committed("rel-relay", &origins, CAUGHT_UP);
    kafka.wait_read("rel", "rel.relay", CAUGHT_UP);
    kafka.wait_read("rel", "rel-register", CAUGHT_UP);
    first.stop(END_MAX);
    second.stop(END_MAX);
    Portrait::stop(run);
    assert_eq!(assert_each_once(&kafka, "rel.relay", 8), 0);
    portrait.assert_equal(&settings);
    // Refused rows say where they were written, not where they were read.
    let rejects = portrait.ok_with(&["rejects", "--json", "--limit", "1000000"], &settings);
    assert!(
        rejects.contains("\"rel-consume/2\"") && !rejects.contains("rel.relay"),
        "{rejects:.2000}"
    );

    // What was relayed is not relayed again into another topic.
    kafka.create("rel.other", 8);
    let mut moved = settings.clone();
    moved.push("relay.topic=rel.other".to_owned());
    refuses(&portrait, &moved, &["relay", "--until-end"], "were relayed into another topic");
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn what_was_relayed_counts_once_in_hbase_too_where_profiles_know_what_they_have_read() {
    let (kafka, hbase) = (Kafka::start(), Hbase::start());
    let portrait = Portrait::new("relhb", 1_000, 10_000);
    let mut settings = Portrait::settings(&kafka, "relhb");
    let options = hbase.options("relhb");
    settings.extend([
        "store.kind=hbase".to_owned(),
        format!("store.hbase.gateways={}", options.gateways),
        format!("store.hbase.prefix={}", options.prefix),
    ]);
    small_transactions(&mut settings, "relhb.relay", &["relhb-consume", "relhb-cancel"]);
    portrait.ok_with(&["store", "init"], &settings);
    portrait.load_dimensions(&settings);
    let topics =
        [("relhb-register", 4), ("relhb-consume", 3), ("relhb-cancel", 5), ("relhb.relay", 4)];
    topics.into_iter().for_each(|(topic, partitions)| kafka.create(topic, partitions));
    portrait.send_part(&kafka, "register", 0, usize::MAX);
    portrait.send_keyed_by(&kafka, "consume", "event_id");
    portrait.send_keyed_by(&kafka, "cancel", "order_id");
    let mut command = portrait.command(&["relay"], &settings);
    let relay = Process::start("relay", &portrait.path(""), &mut command);
    for kill in 0..3_u64 {
        let process = portrait.start("killed", &settings);
        // Its predecessor's session has to end before it is given partitions.
        std::thread::park_timeout(Duration::from_millis(7_000 + (kill * 7_919) % 2_500));
        process.kill();
    }
    let (first, second) = (portrait.start("first", &settings), portrait.start("second", &settings));
    let origins = ["relhb-consume".to_owned(), "relhb-cancel".to_owned()];
    kafka.wait_committed("relhb-relay", &origins, CAUGHT_UP);
    kafka.wait_read("relhb", "relhb.relay", CAUGHT_UP);
    kafka.wait_read("relhb", "relhb-register", CAUGHT_UP);
    relay.stop(END_MAX);
    Portrait::stop(first);
    Portrait::stop(second);
    portrait.assert_equal(&settings);
    portrait.ok_with(&["store", "check"], &settings);
}

/// A table of orders that change hands, and clicks; users are named by texts.
struct Shop {
    dir: tempfile::TempDir,
}

const ORDERS: &str = "stream: orders
from: $orders
columns: {op: string, id: u64, user: string, at: timestamp(ms), amount: int, kind: string}
uid: user
time: at
where: kind <> 'draft'
mode: changelog
primary_key: id
operation: {column: op, insert: c, update: u, delete: d}
before: before
---
stream: clicks
from: $clicks
columns: {id: string, user: string, at: timestamp(ms), page: string}
uid: user
time: at
dedupe: {by: id}
mode: append
";

const FEATURES: &str = "feature: total
stream: orders
value: sum(amount)
window: lifetime
---
feature: orders
stream: orders
value: count(*)
window: 30d
---
feature: most
stream: orders
value: max(amount)
window: lifetime
---
feature: kinds
stream: orders
value: count(distinct kind)
window: lifetime
---
feature: pages
stream: clicks
value: count(distinct page)
window: lifetime
";

const RULES: &str =
    "tag: \"{of}_is\"\nmatrix: {of: [total, orders, most, kinds, pages]}\nexpr: \"{of}\"\n";

/// A small generator of numbers (Knuth's MMIX), the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

impl Shop {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("tagloom-live-shop-").tempdir().unwrap();
        for (name, from) in
            [("files", "{file: $.jsonl}"), ("topics", "{kafka: shop.$, format: json}")]
        {
            let of = |stream: &str| from.replace('$', stream);
            let streams =
                ORDERS.replace("$orders", &of("orders")).replace("$clicks", &of("clicks"));
            let catalog = "name: shop\nuid: string\ntimezone: UTC\nallowed_lateness: 40d\n";
            let files = [
                ("catalog.yaml", catalog),
                ("streams/all.yaml", &streams),
                ("features/all.yaml", FEATURES),
                ("rules/all.yaml", RULES),
            ];
            write_files(&dir.path().join(name), &files);
        }
        let shop = Self { dir };
        for name in ["files", "topics"] {
            shop.ok(&["check", "--write", "--catalog", name], &[]);
        }
        shop
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, arguments: &[&str], settings: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.current_dir(self.path()).args(arguments);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn ok(&self, arguments: &[&str], settings: &[String]) {
        let output = self.command(arguments, settings).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{text}", output.status);
    }

    /// Writes changes of orders and clicks as files, and returns their lines, each with its key.
    fn generate(&self) -> [Vec<(String, String)>; 2] {
        let (mut numbers, mut rows) = (Numbers(7), std::collections::BTreeMap::new());
        let mut orders = Vec::new();
        let kinds = ["new", "gift", "draft", "again"];
        for step in 0..9_000_u64 {
            let id = numbers.below(600);
            let user = format!("用户-{}", numbers.below(150));
            let at = AS_OF_MS.cast_unsigned() - numbers.below(40 * 86_400_000);
            let row = format!(
                "\"id\":{id},\"user\":\"{user}\",\"at\":{at},\"amount\":{},\"kind\":\"{}\"",
                numbers.below(10_000),
                kinds[usize::try_from(numbers.below(4)).unwrap()]
            );
            let before = rows.remove(&id);
            let line = match before {
                None => format!("{{\"op\":\"c\",{row}}}"),
                Some(before) if numbers.below(5) == 0 => {
                    let before: String = before;
                    orders.push((
                        id.to_string(),
                        format!("{{\"op\":\"d\",\"before\":{{{before}}}}}"),
                    ));
                    continue;
                }
                Some(before) => format!("{{\"op\":\"u\",{row},\"before\":{{{before}}}}}"),
            };
            rows.insert(id, row);
            orders.push((id.to_string(), line));
            if step % 1_000 == 999 {
                orders.push((id.to_string(), format!("{{\"op\":\"?\",\"id\":{id}}}")));
            }
        }
        let click = |at: u64| {
            let (user, page) = (numbers.below(150), numbers.below(40));
            let id = format!("k{}", at % 5_500);
            let line = format!(
                "{{\"id\":\"{id}\",\"user\":\"用户-{user}\",\"at\":{},\"page\":\"p{page}\"}}",
                AS_OF_MS - 5
            );
            (id, line)
        };
        let mut clicks: Vec<(String, String)> = (0..5_500).map(click).collect();
        // Twice each, as a producer that tries again does.
        clicks.extend(clicks.clone());
        for (name, lines) in [("orders", &orders), ("clicks", &clicks)] {
            let text = lines.iter().fold(String::new(), |mut text, (_, line)| {
                writeln!(text, "{line}").unwrap();
                text
            });
            std::fs::write(self.path().join(format!("{name}.jsonl")), text).unwrap();
        }
        [orders, clicks]
    }

    fn export(&self, name: &str, settings: &[String]) -> String {
        let as_of = AS_OF_MS.to_string();
        let file = format!("{name}.csv");
        self.ok(&["export", "--catalog", name, "--out", &file, "--as-of", &as_of], settings);
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }
}

fn send(kafka: &Kafka, topic: &str, lines: &[(String, String)]) {
    let record = |(key, line): &(String, String)| (key.clone(), line.clone());
    let lines: Vec<(String, String)> = lines.iter().map(record).collect();
    kafka.send(
        topic,
        lines.iter().map(|(key, line)| Record {
            key: key.as_bytes(),
            value: line.as_bytes(),
            at_ms: AS_OF_MS,
        }),
    );
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn rows_that_move_between_users_leave_one_and_come_to_the_other_once() {
    let kafka = Kafka::start();
    let shop = Shop::new();
    let [orders, clicks] = shop.generate();
    let as_of = AS_OF_MS.to_string();
    let by_files = ["store.path=files.store".to_owned(), "clock.mode=fixed".to_owned()];
    let files = ["orders=orders.jsonl", "clicks=clicks.jsonl"].into_iter();
    let mut arguments = vec!["run", "--catalog", "files", "--as-of", &as_of];
    arguments.extend(files.flat_map(|file| ["--source", file]));
    shop.ok(&arguments, &by_files);
    let expected = shop.export("files", &by_files);

    let mut settings = Portrait::settings(&kafka, "shop");
    settings.push("store.path=topics.store".to_owned());
    small_transactions(&mut settings, "shop.relay", &["shop.orders", "shop.clicks"]);
    kafka.create("shop.orders", 3);
    kafka.create("shop.clicks", 8);
    kafka.create("shop.relay", 4);
    send(&kafka, "shop.orders", &orders[..orders.len() / 2]);
    send(&kafka, "shop.clicks", &clicks);
    let start = |name: &str, arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--catalog", "topics"]);
        let mut settings = settings.clone();
        settings.extend([
            "relay.id=a".to_owned(),
            "kafka.session.timeout.ms=1500".to_owned(),
            "kafka.heartbeat.interval.ms=300".to_owned(),
        ]);
        Process::start(name, shop.path(), &mut shop.command(&arguments, &settings))
    };
    for kill in 0..5_u64 {
        let relay = start(&format!("relay-{kill}"), &["relay"]);
        let run = start("run", &["run", "--as-of", &as_of]);
        wait_relaying(&relay);
        std::thread::park_timeout(Duration::from_millis(90 + 110 * kill));
        relay.kill();
        run.kill();
    }
    send(&kafka, "shop.orders", &orders[orders.len() / 2..]);
    let run = start("run", &["run", "--as-of", &as_of]);
    shop.ok(&["relay", "--catalog", "topics", "--until-end"], &settings);
    let origins = ["shop.orders".to_owned(), "shop.clicks".to_owned()];
    kafka.wait_committed("shop-relay", &origins, CAUGHT_UP);
    kafka.wait_read("shop", "shop.relay", CAUGHT_UP);
    run.stop(END_MAX);
    let several = assert_each_once(&kafka, "shop.relay", 4);
    assert!(several > 2_000, "rows that move stand in two partitions: {several}");
    let got = shop.export("topics", &settings);
    let differs = got.lines().zip(expected.lines()).find(|(got, expected)| got != expected);
    assert_eq!(differs, None);
    assert_eq!(got.lines().count(), expected.lines().count());
    assert!(got.lines().count() > 140, "{got:.500}");
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn a_record_that_the_broker_refuses_for_good_ends_relay_with_the_reason() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("small", 100, 1_000);
    let mut settings = Portrait::settings(&kafka, "small");
    small_transactions(&mut settings, "small.relay", &["small-consume"]);
    for stream in ["small-register", "small-consume", "small-cancel"] {
        kafka.create(stream, 2);
    }
    kafka.create_with("small.relay", 2, &[("max.message.bytes", "100")]);
    portrait.send_part(&kafka, "consume", 0, usize::MAX);
    let output = portrait.command(&["relay", "--until-end"], &settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("writing into relay.topic"), "{text}");
}
