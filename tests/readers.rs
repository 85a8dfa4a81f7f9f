//! Reading users: right just past a due instant, reasons that are true, and answers beside a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tagloom::catalog::place::Files;
use tagloom::catalog::{LOCK_FILE, load};
use tagloom::clock::Stopwatch;
use tagloom::dimension::{LoadOptions, Lookups, TableSpec};
use tagloom::engine::checkpoint::WindowLimits;
use tagloom::engine::job::Job;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Options};
use tagloom::serve::read::{ReadError, Reader};
use tagloom::serve::why::{Input, MASKED, Next, Why};
use tagloom::source::file::{FileSpec, ReadLimits};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Identity, Store, Uid};

const DAY_MS: i64 = 86_400_000;
/// 2026-03-31 12:00 UTC.
const AS_OF_MS: i64 = 1_774_958_400_000;
/// Nothing that is waited for takes this long.
const DEADLINE_S: u64 = 60;

const CATALOG: &[(&str, &str)] = &[
    ("catalog.yaml", "name: test\nuid: u64\ntimezone: Europe/London\n"),
    (
        "streams/consume.yaml",
        "stream: consume
from: {file: consume.jsonl}
columns:
  user: u64
  at: timestamp(ms)
  amount: 'decimal(12,2)'
  city: 'string?'
  phone: {type: 'string?', mask: true}
uid: user
time: at
",
    ),
    (
        "features/all.yaml",
        "feature: spend_{span}
stream: consume
value: sum(amount)
window: '{span}'
matrix: {span: [7d, 30d]}
---
feature: last_bought
stream: consume
value: last_time()
window: lifetime
---
feature: city
stream: consume
value: last(city)
window: lifetime
---
feature: phone
stream: consume
value: last(phone)
window: lifetime
",
    ),
    (
        "dimensions/city.yaml",
        "dimension: city
table: city
key: city
columns: {tier: int}
strategy: preload
",
    ),
    (
        "rules/all.yaml",
        "tag: level_{span}
doc: How much was spent in {span}.
owner: growth
group: value
matrix: {span: [7d, 30d]}
bands: {of: 'spend_{span}', cuts: [50, 200], labels: [low, mid, high]}
---
tag: seen
recency: {of: last_bought, cuts: [3, 20], labels: [hot, warm, cold]}
---
tag: big_town
expr: level_30d = 'high' AND city_tier = 1
---
tag: reachable
expr: phone IS NOT NULL
---
tag: last_day
expr: CAST(last_bought AS date)
",
    ),
];

/// A catalogue directory with its lock.
fn catalog_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in CATALOG {
        let path = dir.path().join("tags").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let tags = dir.path().join("tags");
    let loaded = load(&tags).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(tags.join(LOCK_FILE), loaded.lock.updated(&loaded.catalog).to_text()).unwrap();
    std::fs::write(dir.path().join("city.csv"), "city,tier\nYork,1\nBath,2\n").unwrap();
    dir
}

/// (user, hours before the as-of instant, amount, city, phone).
type Event = (u64, i64, &'static str, &'static str, Option<&'static str>);

const EVENTS: &[Event] = &[
    (1, 30, "120.50", "York", Some("555-1")),
    (1, 24 * 5, "100.00", "Bath", None),
    (1, 24 * 29, "30.00", "York", None),
    (2, 24 * 2 + 13, "49.99", "Bath", None),
    (2, 24 * 6, "0.01", "Bath", None),
    (3, 24 * 100, "900", "York", None),
];

fn lines(events: &[Event]) -> String {
    let mut text = String::new();
    for (user, hours, amount, city, phone) in events {
        let at = AS_OF_MS - hours * 3_600_000;
        let phone = serde_json::to_string(phone).unwrap();
        writeln!(
            text,
            r#"{{"user":{user},"at":{at},"amount":{amount},"city":"{city}","phone":{phone}}}"#
        )
        .unwrap();
    }
    text
}

struct Shop {
    _dir: tempfile::TempDir,
    ruleset: Arc<Ruleset>,
    files: Files,
    store: Arc<dyn Store>,
}

impl Shop {
    /// Everything computed as of one instant.
    fn at(as_of_ms: i64) -> Self {
        let dir = catalog_dir();
        let loaded = load(&dir.path().join("tags")).unwrap_or_else(|e| panic!("{e}"));
        let ruleset = Arc::new(Ruleset::new(loaded.catalog).unwrap());
        let catalog = &ruleset.catalog;
        let identity = Identity {
            uid: catalog.uid,
            timezone: catalog.zone.name().to_owned(),
            clock: ClockMode::Fixed,
        };
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 1000));
        let spec = TableSpec::of(catalog, "city").unwrap();
        let (csv, options) = (dir.path().join("city.csv"), LoadOptions::default());
        let load = tagloom::dimension::load;
        load(store.as_ref(), &spec, &catalog.zone, &csv, &options, 0, &mut |_| {}).unwrap();
        let path = dir.path().join("consume.jsonl");
        std::fs::write(&path, lines(EVENTS)).unwrap();
        let format = tagloom::catalog::model::Format::Json;
        let source = FileSpec { path, format, streams: vec![0], name: "consume".to_owned() };
        tagloom::engine::run(options_of(&ruleset, &store, source, as_of_ms), &mut |_| {}).unwrap();
        Self { _dir: dir, ruleset, files: loaded.files, store }
    }

    fn reader(&self) -> Reader {
        let now: tagloom::dimension::Now = Arc::new(|| 0);
        Reader::open(Arc::clone(&self.ruleset), Arc::clone(&self.store), now, &Lookups::default())
            .unwrap()
    }

    fn values(&self, user: u64, as_of_ms: Option<i64>) -> Vec<(String, Option<String>)> {
        let tags = self.reader().read(&Uid::U64(user), as_of_ms).unwrap().tags;
        tags.into_iter().map(|t| (t.name, t.value)).collect()
    }

    fn why(&self, user: u64, tag: &str) -> Why {
        self.reader().why(&Uid::U64(user), tag, None, &self.files).unwrap()
    }
}

fn options_of(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    source: FileSpec,
    as_of_ms: i64,
) -> Options {
    Options {
        ruleset: Arc::clone(ruleset),
        store: Arc::clone(store),
        sources: vec![source],
        topics: None,
        clock: Clock::Fixed(as_of_ms),
        limits: WindowLimits { close_ms: 100, users_max: 100, due_users_max: 100 },
        read: ReadLimits { block_bytes: 1 << 16, batch_rows_max: 100, line_bytes_max: 1 << 16 },
        shards: 1,
        batches_under_way_max: 4,
        rejects_waiting_max: 100,
        state_bytes_max: 1 << 20,
        resident_bytes_max: usize::MAX,
        batch_users_max: 100,
        lookups: Lookups::default(),
        jobs: VecDeque::from([Job::Due]),
        changed_users_per_s_max: std::num::NonZeroU32::MAX,
        then_as_of_ms: None,
        dry: false,
        stay: false,
        live: false,
        swaps: Default::default(),
        errand: None,
        recompute_users_per_s_max: None,
        prepare: Default::default(),
        patience: Default::default(),
        publish: Default::default(),
        reads: Default::default(),
        slices: None,
    }
}

#[test]
fn a_read_is_right_at_every_instant_without_the_drain() {
    let shop = Shop::at(AS_OF_MS);
    for days in [0, 1, 2, 3, 7, 24, 29, 40] {
        let later = AS_OF_MS + days * DAY_MS;
        let recomputed = Shop::at(later);
        for user in 1..=3 {
            assert_eq!(
                shop.values(user, Some(later)),
                recomputed.values(user, None),
                "user {user}, {days} days later"
            );
        }
    }
}

#[test]
fn reading_everyone_at_once_is_reading_each() {
    let shop = Shop::at(AS_OF_MS);
    let later = AS_OF_MS + 8 * DAY_MS;
    let rows = shop.store.scan_profiles(None, 100).unwrap();
    let users = shop.reader().read_rows(&rows, later).unwrap();
    assert_eq!(users.len(), 3);
    for user in users {
        let Uid::U64(number) = user.uid else { panic!() };
        let values = shop.values(number, Some(later));
        for (code, tag) in user.codes.iter().zip(shop.ruleset.plan.closed_tags()) {
            let domain = &shop.ruleset.catalog.tags[*tag].domain;
            let label = tagloom::write::profile::label_of(domain, *code);
            assert_eq!(label, values[*tag].1.as_deref(), "{}", values[*tag].0);
        }
        let day = user.open[0].as_ref().map(tagloom::write::open::OpenValue::label);
        assert_eq!(Some(&day), values.iter().find(|v| v.0 == "last_day").map(|v| &v.1));
    }
    let back = shop.reader().read_rows(&rows, AS_OF_MS - 1);
    assert!(matches!(back, Err(ReadError::AsOfBack { .. })), "{back:?}");
}

#[test]
fn a_tag_turns_at_its_due_instant_and_not_before() {
    let shop = Shop::at(AS_OF_MS);
    let reader = shop.reader();
    let stored = reader.read(&Uid::U64(2), None).unwrap();
    let due = stored.due_ms.unwrap();
    let before = reader.read(&Uid::U64(2), Some(due - 1)).unwrap();
    assert_eq!(before.tags, stored.tags);
    assert!(!before.was_due && before.differs.is_empty());
    let after = reader.read(&Uid::U64(2), Some(due)).unwrap();
    assert!(after.was_due);
    assert_eq!(after.differs, ["level_7d"]);
}

#[test]
fn what_cannot_be_read_says_so() {
    let shop = Shop::at(AS_OF_MS);
    let reader = shop.reader();
    let back = reader.read(&Uid::U64(1), Some(AS_OF_MS - 1));
    assert!(matches!(back, Err(ReadError::AsOfBack { .. })), "{back:?}");
    let unknown = reader.read(&Uid::U64(9), None).unwrap_err();
    assert!(unknown.is_input() && unknown.to_string().contains("no user `9`"), "{unknown}");
    let tag = reader.why(&Uid::U64(1), "level_7", None, &shop.files).unwrap_err();
    assert!(tag.to_string().contains("did you mean `level_7d`"), "{tag}");
}

fn input<'a>(inputs: &'a [Input], name: &str) -> &'a Input {
    inputs.iter().find(|i| i.name == name).unwrap_or_else(|| panic!("{name} in {inputs:#?}"))
}

#[test]
fn a_reason_names_rule_inputs_and_what_would_change_it() {
    let shop = Shop::at(AS_OF_MS);
    let why = shop.why(1, "big_town");
    assert_eq!(why.value.as_deref(), Some("true"));
    assert!(why.rule.place.ends_with("rules/all.yaml:11"), "{}", why.rule.place);
    assert!(why.rule.source.starts_with("tag: big_town"), "{}", why.rule.source);
    let tier = input(&why.inputs, "city_tier");
    assert_eq!(tier.value.as_deref(), Some("1"));
    assert_eq!(tier.definition, "city.tier of city York, epoch 1");
    let level = input(&why.inputs, "level_30d");
    assert_eq!(level.value.as_deref(), Some("high"));
    let spend = input(&level.inputs, "spend_30d");
    assert_eq!(spend.value.as_deref(), Some("250.50"));
    assert_eq!(spend.definition, "sum(amount) of consume, in the last 30 days");
    let events: Vec<_> = spend.events.iter().map(|e| e.value.as_deref().unwrap()).collect();
    assert_eq!(events, ["120.50", "100.00", "30.00"]);
    let [fall] = &spend.flips[..] else { panic!("{:?}", spend.flips) };
    assert_eq!((fall.last.as_deref(), fall.value.as_deref()), (Some("200.00"), Some("199.99")));
    assert_eq!(fall.becomes.as_deref(), Some("false"));
    // At the start of the day on which the first purchase is 30 days old 220.50 are left; then
    // those of 5 days ago go.
    let Next::At { at_ms, becomes } = &why.next else { panic!("{:?}", why.next) };
    assert_eq!(becomes.as_deref(), Some("false"));
    let of_shop = |at| shop.values(1, Some(at)).into_iter().find(|t| t.0 == "big_town").unwrap().1;
    assert_eq!(of_shop(at_ms - 1).as_deref(), Some("true"));
    assert_eq!(of_shop(*at_ms).as_deref(), Some("false"));
}

#[test]
fn masked_columns_stay_hidden() {
    let shop = Shop::at(AS_OF_MS);
    let why = shop.why(1, "reachable");
    assert_eq!(why.value.as_deref(), Some("true"));
    assert_eq!(input(&why.inputs, "phone").value.as_deref(), Some(MASKED));
    assert!(!serde_json::to_string(&why).unwrap().contains("555"));
    assert_eq!(why.next, Next::Never);
}

/// A command that is stopped when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, as it should.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn tagloom(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
    let store = format!("store.path={}", dir.join("store").display());
    command.current_dir(dir).args(args).args(["--set", &store, "--set", "window.close_ms=100"]);
    command
}

fn answer(dir: &Path, args: &[&str]) -> Output {
    tagloom(dir, args).output().unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let output = answer(dir, &[args, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn commands_are_answered_beside_a_run() {
    let dir = catalog_dir();
    let (at, socket) = (dir.path(), dir.path().join("store/tagloom.sock"));
    let mut run = tagloom(at, &["run", "--source", "consume=-"]);
    let mut run = Running(run.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut input = run.0.stdin.take().unwrap();
    input.write_all(lines(EVENTS).as_bytes()).unwrap();
    input.write_all(b"{\"user\":1}\n").unwrap();
    input.flush().unwrap();
    let watch = Stopwatch::start();
    while !answer(at, &["get", "3"]).status.success() {
        assert!(watch.elapsed().as_secs() < DEADLINE_S, "no window was stored");
    }
    assert!(socket.exists());
    let beside = json(at, &["get", "1"]);
    assert_eq!(beside["tags"]["level_7d"], "high");
    assert_eq!(beside["tags"]["big_town"], Value::Null, "the table is not loaded yet");
    let loaded = json(at, &["dims", "load", "city", "city.csv"]);
    assert_eq!(loaded["rows"], 2);
    assert_eq!(json(at, &["dims", "list"])[0]["epoch"], 1);
    assert_eq!(json(at, &["get", "1"])["tags"]["big_town"], "true");
    assert_eq!(json(at, &["why", "1", "big_town"])["value"], "true");
    let rejects = json(at, &["rejects"]);
    assert_eq!(rejects["counts"]["consume"]["missing"], 1);
    assert_eq!(rejects["rejects"][0]["line"], EVENTS.len() + 1);
    assert!(answer(at, &["export", "--out", "all.csv"]).status.success());
    assert_eq!(std::fs::read_to_string(at.join("all.csv")).unwrap().lines().count(), 4);
    assert!(answer(at, &["export", "--out", "b.csv", "--select", "group:value"]).status.success());
    let part = std::fs::read_to_string(at.join("b.csv")).unwrap();
    assert_eq!(part.lines().next(), Some("uid,level_7d,level_30d"));
    let one = json(at, &["get", "1", "--select", "level_7d"]);
    assert_eq!(one["tags"], serde_json::json!({"level_7d": "high"}));
    let unknown = answer(at, &["get", "77"]);
    assert_eq!(unknown.status.code(), Some(2));
    drop(input);
    assert!(run.0.wait().unwrap().success());
    assert!(!socket.exists());
    let after = json(at, &["get", "1"]);
    assert_eq!(after["tags"]["level_7d"], "high");
}

#[test]
fn generated_data_is_the_same_for_the_same_seed() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, seed: &str| -> PathBuf {
        let out = dir.path().join(name);
        let args = ["gen", "--users", "300", "--events", "3000", "--seed", seed, "--out", name];
        let output = answer(dir.path(), &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    };
    let (a, b, c) = (make("a", "5"), make("b", "5"), make("c", "6"));
    let read = |at: &Path, name: &str| std::fs::read_to_string(at.join(name)).unwrap();
    for name in ["register.jsonl", "consume.jsonl", "cancel.jsonl", "user_dim.csv", "city_dim.csv"]
    {
        assert_eq!(read(&a, name), read(&b, name));
        assert_ne!(read(&a, name), read(&c, name));
    }
    let manifest: Value = serde_json::from_str(&read(&a, "manifest.json")).unwrap();
    let events: u64 = ["register", "consume", "cancel"]
        .iter()
        .map(|s| manifest["streams"][s]["events"].as_u64().unwrap())
        .sum();
    assert_eq!(events, 3000);
    let consume = read(&a, "consume.jsonl");
    let stream = &manifest["streams"]["consume"];
    assert_eq!(consume.lines().count() as u64, stream["lines"].as_u64().unwrap());
    let sound = consume.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).count() as u64;
    let truncated = stream["malformed"]["truncated"].as_u64().unwrap();
    assert_eq!(sound + truncated, stream["lines"].as_u64().unwrap());
}

/// Streams of which more comes than is kept, and tags that read one, the other or none of them.
const CROWDED: &[(&str, &str)] = &[
    ("catalog.yaml", "name: test\nuid: u64\ntimezone: UTC\nexact_values_max: 64\n"),
    (
        "streams/all.yaml",
        "stream: view
from: {file: view.jsonl}
columns: {id: string, user: u64, at: timestamp(ms), page: string}
uid: user
time: at
dedupe: {by: id}
---
stream: pay
from: {file: pay.jsonl}
columns: {user: u64, at: timestamp(ms), amount: int}
uid: user
time: at
---
stream: orders
from: {file: orders.jsonl}
columns: {op: string, v: int, id: u64, user: u64, at: timestamp(ms), amount: int}
uid: user
time: at
mode: changelog
primary_key: id
version: v
operation: {column: op, insert: c, update: u, delete: d}
before: before
rows_max: 3
",
    ),
    (
        "features/all.yaml",
        "feature: pages
stream: view
value: count(distinct page)
window: lifetime
---
feature: top_pages
stream: view
value: top_k(page, 3)
window: lifetime
---
feature: paid
stream: pay
value: sum(amount)
window: lifetime
---
feature: ordered
stream: orders
value: count()
window: lifetime
",
    ),
    (
        "rules/all.yaml",
        "tag: pages_seen\nexpr: pages\n---\ntag: curious\nexpr: pages_seen > 100\n---\n\
         tag: favourites\nexpr: top_pages\n---\ntag: total\nexpr: paid\n---\n\
         tag: orders_seen\nexpr: ordered\n",
    ),
];

/// User 1: 601 pages, a payment, five orders. User 2: a little of each.
fn crowded_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    CROWDED.iter().for_each(|(path, text)| write(&format!("tags/{path}"), text));
    let pages = (0..1000).map(|n| (1, if n < 400 { 0 } else { n }));
    let mut views = String::new();
    for (n, (user, page)) in pages.chain([(2, 7), (2, 8), (2, 8)]).enumerate() {
        let at = AS_OF_MS - i64::try_from(n).unwrap() * 600_000;
        writeln!(views, r#"{{"id":"v{n}","user":{user},"at":{at},"page":"p{page}, \"{page}\""}}"#)
            .unwrap();
    }
    write("tags/view.jsonl", &views);
    let pay = |user: u64| format!("{{\"user\":{user},\"at\":{AS_OF_MS},\"amount\":5}}\n");
    write("tags/pay.jsonl", &(pay(1) + &pay(2)));
    let order = |(id, user): (u64, u64)| {
        format!(
            "{{\"op\":\"c\",\"v\":1,\"id\":{id},\"user\":{user},\"at\":{AS_OF_MS},\"amount\":1}}\n"
        )
    };
    let orders = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2)];
    write("tags/orders.jsonl", &orders.map(order).concat());
    let run = ["run", "--set", "user.state_bytes_max=8000", "--as-of", "2026-03-31T12:00:00Z"];
    for args in [&["check", "--write"][..], &run] {
        let output = answer(dir.path(), args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    dir
}

fn texts(of: &Value) -> Vec<&str> {
    of.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn what_is_estimated_partly_seen_or_forgotten_is_said_of_the_tags_that_read_it() {
    let dir = crowded_dir();
    let at = dir.path();
    let [count, top] = [
        "pages: estimated: more than 64 distinct values; relative standard error 12.7 %",
        "top_pages: estimated: more than 64 distinct values, of which a sample of 64 is ranked; a \
         value outside of it may weigh more",
    ];
    let partly = "stream orders: partly: features see 3 of more rows (rows_max)";
    let user = json(at, &["get", "1"]);
    assert_eq!(texts(&user["partly"]), ["orders"]);
    let notes = texts(&user["notes"]);
    assert_eq!(notes[..3], [partly, count, top], "{notes:?}");
    let since = notes[3];
    assert!(since.starts_with("repeats are recognised only behind 2026-03-"), "{since}");
    assert_eq!(notes.len(), 4);
    // 601 pages: three standard errors either way.
    let pages: f64 = user["tags"]["pages_seen"].as_str().unwrap().parse().unwrap();
    assert!((pages - 601.0).abs() < 3.0 * 0.127 * 601.0, "{pages}");
    assert_eq!(user["tags"]["orders_seen"], "3");
    let of_tag = |tag: &str| {
        let why = json(at, &["why", "1", tag]);
        texts(&why["notes"]).iter().map(|note| (*note).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of_tag("pages_seen"), [count, since]);
    assert_eq!(of_tag("curious"), [count, since], "through another tag");
    assert_eq!(of_tag("favourites"), [top, since]);
    assert_eq!(of_tag("orders_seen"), [partly]);
    assert_eq!(of_tag("total"), [""; 0], "nothing of what it does not read");
    let little = json(at, &["get", "2"]);
    assert_eq!((texts(&little["partly"]).len(), texts(&little["notes"]).len()), (0, 0));
    assert_eq!(little["tags"]["orders_seen"], "3");
}

#[test]
fn a_list_is_exported_as_a_list_and_as_json() {
    let dir = crowded_dir();
    let export = |name: &str| {
        let output = answer(dir.path(), &["export", "--out", name, "--select", "favourites"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir.path().join(name)
    };
    let mut rows = csv::Reader::from_path(export("all.csv")).unwrap();
    assert_eq!(rows.headers().unwrap(), vec!["uid", "favourites"]);
    let of_csv: Vec<(u64, Vec<String>)> = rows
        .records()
        .map(|row| {
            let row = row.unwrap();
            (row[0].parse().unwrap(), serde_json::from_str(&row[1]).unwrap())
        })
        .collect();
    assert_eq!((of_csv[0].0, of_csv[0].1.len()), (1, 3));
    assert_eq!(of_csv[1], (2, vec!["p8, \"8\"".to_owned(), "p7, \"7\"".to_owned()]));
    let file = std::fs::File::open(export("all.parquet")).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut of_parquet = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let uids = batch.column(0).as_primitive::<UInt64Type>();
        let lists = batch.column(1).as_list::<i32>();
        for row in 0..batch.num_rows() {
            let list = lists.value(row);
            let values = list.as_string::<i32>().iter().map(|v| v.unwrap().to_owned());
            of_parquet.push((uids.value(row), values.collect::<Vec<_>>()));
        }
    }
    assert_eq!(of_parquet, of_csv);
}
