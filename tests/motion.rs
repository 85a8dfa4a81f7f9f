//! A catalogue that changes under a running engine, and from one start to the next: no event is lost,
//! what is unchanged stays, what is new counts from then on, what is broken changes nothing.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which waits for another process by the machine's clock"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// Users that events are about.
const USERS: u64 = 40;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SETTINGS: &str = "name: shop\nuid: u64\ntimezone: UTC\n";

const STREAM: &str = "\
stream: buy
from: {file: buy.jsonl, format: json}
columns:
  user: u64
  at: timestamp(ms)
  cents: int
  sku: 'string?'
derive:
  euros: CAST(cents AS decimal(12,2)) / 100
uid: user
time: at
";

const BASE: &str = "\
feature: bought
stream: buy
value: count()
window: lifetime
---
feature: skus
stream: buy
value: count(distinct sku)
window: 30d
";

const BASE_RULES: &str = "\
tag: bought_count
expr: bought
---
tag: sku_count
expr: skus
---
tag: buyer
bands: {of: bought, cuts: [1, 10], labels: [none, some, many]}
";

/// Needs a sum that nobody has kept before.
const SPENT: &str = "---\nfeature: spent\nstream: buy\nvalue: sum(cents)\nwindow: lifetime\n";
const SPENT_RULES: &str = "---\ntag: spent_cents\nexpr: spent\n";

/// A rule directory, a store, and the command line over both.
struct Shop {
    dir: tempfile::TempDir,
    sent: u64,
}

impl Shop {
    fn new() -> Self {
        let shop = Self { dir: tempfile::tempdir().unwrap(), sent: 0 };
        for (path, text) in [("catalog.yaml", SETTINGS), ("streams/buy.yaml", STREAM)] {
            shop.write(path, text);
        }
        shop.rules(BASE, BASE_RULES);
        shop
    }

    fn tags(&self) -> PathBuf {
        self.dir.path().join("tags")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tags().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Other features and rules, ids given.
    fn rules(&self, features: &str, rules: &str) {
        self.write("features/all.yaml", features);
        self.write("rules/all.yaml", rules);
        self.done(&["check", "--write"]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        let store = format!("store.path={}", self.dir.path().join("store").display());
        command.arg("--catalog").arg(self.tags()).args(["--set", &store]);
        command.args(["--set", "clock.mode=wall", "--set", "window.close_ms=100"]);
        command.args(["--set", "catalog.watch_ms=20", "--set", "engine.shards=2"]).args(args);
        command.env("TAGLOOM_LOG", "error").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn done(&self, args: &[&str]) -> String {
        let done = self.command(args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat())).unwrap()
    }

    fn catalog(&self) -> Value {
        self.json(&["catalog"])
    }

    fn run(&self) -> (Child, ChildStdin) {
        let mut command = self.command(&["run", "--json", "--source", "buy=-"]);
        // Room for a few users: they leave memory and come back all the time.
        command.env("TAGLOOM_MEMORY__RESIDENT_BYTES_MAX", "4000");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        // Whoever asks before would open the store for himself.
        let (socket, deadline) =
            (self.dir.path().join("store/tagloom.sock"), Instant::now() + PATIENCE);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "waited for the run's socket");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        (child, stdin)
    }

    /// Events that happen now, in a few pieces: some lines stand in two of them.
    fn send(&mut self, to: &mut ChildStdin, events: u64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let mut lines = String::new();
        for n in self.sent..self.sent + events {
            let user = n % USERS;
            let sku = n % 7;
            writeln!(lines, r#"{{"user":{user},"at":{now},"cents":{},"sku":"s{sku}"}}"#, n + 1)
                .unwrap();
        }
        self.sent += events;
        for piece in lines.as_bytes().chunks(1_001) {
            to.write_all(piece).unwrap();
        }
        to.flush().unwrap();
    }

    /// Waits until the running process says so of its catalogue.
    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.catalog();
            if is(&seen) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {what}; the last word was {seen}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn wait_for_version(&self, number: u32) {
        self.wait(&format!("version {number}"), |seen| seen["active"] == number);
    }

    fn finish(child: Child) -> Value {
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// All tags by user.
    fn export(&self) -> BTreeMap<u64, BTreeMap<String, String>> {
        let path = self.dir.path().join("out.csv");
        self.done(&["export", "--out", path.to_str().unwrap()]);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let header = reader.headers().unwrap().clone();
        let row = |row: csv::StringRecord| {
            let tags = header.iter().zip(&row).skip(1).filter(|c| !c.1.is_empty());
            let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned()));
            (row[0].parse().unwrap(), tags.collect())
        };
        reader.records().map(|r| row(r.unwrap())).collect()
    }
}

/// The sum over users of a tag that is a number.
fn total(users: &BTreeMap<u64, BTreeMap<String, String>>, tag: &str) -> u64 {
    users.values().filter_map(|tags| tags.get(tag)).map(|v| v.parse::<u64>().unwrap()).sum()
}

/// What events with these numbers were worth.
fn cents(events: std::ops::Range<u64>) -> u64 {
    events.map(|n| n + 1).sum()
}

#[test]
fn a_rule_that_comes_while_events_stream_in_counts_from_then_on_and_none_is_lost() {
    let mut shop = Shop::new();
    let (child, mut events) = shop.run();
    shop.send(&mut events, 3_000);
    shop.rules(&(BASE.to_owned() + SPENT), &(BASE_RULES.to_owned() + SPENT_RULES));
    // Some are decoded for the old catalogue and routed for the new one.
    let mut before = shop.sent;
    while shop.catalog()["active"] == 1 {
        before = shop.sent;
        shop.send(&mut events, 500);
    }
    let between = shop.sent;
    shop.send(&mut events, 3_000);
    drop(events);
    let report = Shop::finish(child);
    assert_eq!(report["rows"], shop.sent);

    let users = shop.export();
    assert_eq!(users.len() as u64, USERS);
    assert_eq!(total(&users, "bought_count"), shop.sent, "no event is lost or counted twice");
    assert!(users.values().all(|t| t["buyer"] == "many" && t["sku_count"] == "7"), "{users:?}");
    let spent = total(&users, "spent_cents");
    let (least, most) = (cents(between..shop.sent), cents(0..shop.sent) - cents(0..1_000));
    assert!(least <= spent && spent <= most, "{least} <= {spent} <= {most} ({before})");
    let shown = shop.json(&["catalog", "show"]);
    let partials = shown["versions"][0]["partials"].as_array().unwrap();
    let since = |feature: &str| {
        let holds = |p: &&Value| p["features"].as_array().unwrap().contains(&feature.into());
        partials.iter().find(holds).unwrap()["since"].clone()
    };
    assert_eq!((since("spent"), since("bought")), (2.into(), 1.into()));
}

#[test]
fn a_broken_catalogue_changes_nothing_and_says_why() {
    let mut shop = Shop::new();
    let (child, mut events) = shop.run();
    shop.send(&mut events, 200);
    shop.write("rules/all.yaml", "tag: broken\nexpr: no_such_feature > 1\n");
    shop.wait("the error", |seen| {
        seen["trouble"].as_str().is_some_and(|t| t.contains("rules/all.yaml:2:7"))
    });
    shop.send(&mut events, 200);
    // A tag without an id, then one that has it.
    shop.write("rules/all.yaml", &(BASE_RULES.to_owned() + "---\ntag: big\nexpr: bought > 5\n"));
    shop.wait("the lock", |seen| {
        seen["trouble"].as_str().is_some_and(|t| t.contains("tag `big` has no id"))
    });
    shop.write("streams/new.yaml", &STREAM.replace("buy", "sell"));
    shop.done(&["check", "--write"]);
    shop.wait("the restart", |seen| {
        seen["trouble"].as_str().is_some_and(|t| t.contains("stream `sell` is new"))
    });
    assert_eq!(shop.catalog()["active"], 1);
    std::fs::remove_file(shop.tags().join("streams/new.yaml")).unwrap();
    shop.wait_for_version(2);
    shop.wait("peace", |seen| seen["trouble"].is_null() && seen["recomputed"] == true);
    shop.send(&mut events, 200);
    drop(events);
    Shop::finish(child);
    let users = shop.export();
    assert_eq!(total(&users, "bought_count"), 600);
    assert!(users.values().all(|t| t["big"] == "true"));
}

#[test]
fn rules_that_go_and_come_back_have_lost_nothing() {
    let mut shop = Shop::new();
    let (with, with_rules) = (BASE.to_owned() + SPENT, BASE_RULES.to_owned() + SPENT_RULES);
    shop.rules(&with, &with_rules);
    let (child, mut events) = shop.run();
    shop.send(&mut events, 500);
    for back in [2, 4, 6] {
        shop.rules(BASE, BASE_RULES);
        shop.wait_for_version(back);
        shop.send(&mut events, 500);
        shop.rules(&with, &with_rules);
        shop.wait_for_version(back + 1);
        shop.send(&mut events, 500);
    }
    drop(events);
    Shop::finish(child);
    let users = shop.export();
    assert_eq!(total(&users, "bought_count"), shop.sent);
    assert_eq!(total(&users, "spent_cents"), cents(0..shop.sent));
}

#[test]
fn labels_keep_their_codes_and_renamed_tags_their_values_over_a_swap() {
    let mut shop = Shop::new();
    let (child, mut events) = shop.run();
    shop.send(&mut events, 400);
    let rules = "\
tag: bought_count
expr: bought
---
tag: customer
was: [buyer]
bands: {of: bought, cuts: [1, 5, 10], labels: [none, new, some, many]}
";
    shop.rules(BASE, rules);
    shop.wait_for_version(2);
    shop.wait("everybody", |seen| seen["recomputed"] == true);
    drop(events);
    Shop::finish(child);
    let lock = std::fs::read_to_string(shop.tags().join("ids.lock")).unwrap();
    assert!(lock.contains("customer = 2 text none some many new"), "{lock}");
    assert!(lock.contains("sku_count = 1 removed open"), "{lock}");
    let users = shop.export();
    assert!(users.values().all(|t| t["customer"] == "many" && t.len() == 2), "{users:?}");
}

/// Users whose tags stay are not written again: only the version of their records would tell.
#[test]
fn unchanged_tags_are_left_alone() {
    let mut shop = Shop::new();
    let (child, mut events) = shop.run();
    shop.send(&mut events, 400);
    drop(events);
    let stored = Shop::finish(child)["profiles"].clone();
    assert_eq!(stored, USERS);
    // A rule of which nobody has a value.
    let rules =
        BASE_RULES.to_owned() + "---\ntag: nobody\nexpr: CASE WHEN bought < 0 THEN 'x' END\n";
    shop.rules(BASE, &rules);
    let (child, events) = shop.run();
    shop.wait("everybody", |seen| seen["active"] == 2 && seen["recomputed"] == true);
    drop(events);
    assert_eq!(Shop::finish(child)["profiles"], 0);
}

#[test]
fn a_derived_column_with_another_meaning_is_another_sum() {
    let mut shop = Shop::new();
    let features = BASE.to_owned()
        + "---\nfeature: euros_spent\nstream: buy\nvalue: sum(euros)\nwindow: lifetime\n";
    let rules = BASE_RULES.to_owned() + "---\ntag: euros\nexpr: euros_spent\n";
    shop.rules(&features, &rules);
    let (child, mut events) = shop.run();
    shop.send(&mut events, 80);
    shop.write("streams/buy.yaml", &STREAM.replace("/ 100", "/ 50"));
    shop.wait_for_version(2);
    shop.wait("everybody", |seen| seen["recomputed"] == true);
    drop(events);
    Shop::finish(child);
    let users = shop.export();
    assert!(
        users.values().all(|t| t["euros"] == "0.000000" && t["bought_count"] == "2"),
        "{users:?}"
    );
}

#[test]
fn a_start_with_other_rules_makes_the_next_version() {
    let mut shop = Shop::new();
    let path = shop.dir.path().join("buy.jsonl");
    let lines = |from: u64| {
        let line = |n| format!("{{\"user\":{n},\"at\":1700000000000,\"cents\":100}}\n");
        (from..from + 5).map(line).collect::<String>()
    };
    std::fs::write(&path, lines(0)).unwrap();
    let source = format!("buy={}", path.display());
    shop.done(&["run", "--source", &source]);
    shop.rules(&(BASE.to_owned() + SPENT), &(BASE_RULES.to_owned() + SPENT_RULES));
    std::fs::write(&path, lines(0) + &lines(0)).unwrap();
    shop.done(&["run", "--source", &source]);
    let users = shop.export();
    assert_eq!(total(&users, "bought_count"), 10);
    assert_eq!(total(&users, "spent_cents"), 500, "what came since");
    let versions = shop.catalog()["versions"].clone();
    assert_eq!(versions.as_array().unwrap().len(), 2);
    let seen = |tag: &str| shop.json(&["why", "1", tag])["inputs"][0]["seen"].clone();
    assert_eq!(seen("bought_count"), Value::Null, "it has seen everything");
    let spent = seen("spent_cents");
    assert_eq!((&spent["since_version"], &spent["history_until_ms"]), (&2.into(), &Value::Null));
    let since_ms = jiff::Timestamp::from_millisecond(spent["since_ms"].as_i64().unwrap()).unwrap();
    assert_eq!(versions[1]["made"], since_ms.to_string());
    let said = shop.done(&["why", "1", "spent_cents"]);
    assert!(
        said.contains("counts events that came since version 2 of the catalogue, 20"),
        "{said}"
    );
    assert!(!said.contains("history"), "{said}");
    shop.sent = 0;
}

/// What a sum has after it came back, days later. `stops`: the store was opened meanwhile.
fn spent_after(days: i64, stops: &[i64]) -> u64 {
    let mut shop = Shop::new();
    let (with, with_rules) = (BASE.to_owned() + SPENT, BASE_RULES.to_owned() + SPENT_RULES);
    let path = shop.dir.path().join("buy.jsonl");
    let source = format!("buy={}", path.display());
    let line = "{\"user\":1,\"at\":1700000000000,\"cents\":100}\n";
    let run = |lines: usize, day: i64| {
        std::fs::write(&path, line.repeat(lines)).unwrap();
        let as_of = (1_700_000_000_000 + day * 86_400_000).to_string();
        shop.done(&["run", "--source", &source, "--as-of", &as_of]);
    };
    shop.rules(&with, &with_rules);
    run(1, 0);
    shop.rules(BASE, BASE_RULES);
    run(3, 1);
    stops.iter().for_each(|day| run(3, *day));
    shop.rules(&with, &with_rules);
    run(7, 1 + days);
    let spent = total(&shop.export(), "spent_cents");
    shop.sent = 0;
    spent
}

#[test]
fn a_rule_that_comes_back_too_late_begins_anew_whether_or_not_there_was_a_restart() {
    assert_eq!(spent_after(6, &[]), 700);
    assert_eq!(spent_after(6, &[4]), 700);
    assert_eq!(spent_after(7, &[]), 400);
    assert_eq!(spent_after(90, &[]), 400);
    assert_eq!(spent_after(90, &[4]), 400);
    assert_eq!(spent_after(90, &[30]), 400);
}

/// Paths that do not exist are said so.
#[test]
fn a_version_that_never_was_is_said_so() {
    let mut shop = Shop::new();
    let (child, mut events) = shop.run();
    shop.send(&mut events, 40);
    let asked = shop.command(&["catalog", "show", "7"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("there is no version 7"));
    drop(events);
    Shop::finish(child);
    assert!(Path::new(&shop.dir.path().join("store")).is_dir());
}
