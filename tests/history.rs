//! History beside live events: live from a cut and history before it equal one run over everything,
//! whichever comes first, however often, and whatever is killed on the way.
//!
//! `HISTORY_SEED=n` repeats one set of events and kills.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which kills another process by the machine's clock"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const DAY_MS: i64 = 86_400_000;
/// 2026-03-01T00:00Z.
const CUT_MS: i64 = 1_772_323_200_000;
/// 40 days later, in the afternoon.
const AS_OF_MS: i64 = CUT_MS + 40 * DAY_MS + 50_000_000;
const USERS: u32 = 400;
const KILLS: u32 = 10;

const STREAM: &str = "\
stream: buy
from: {file: buy.jsonl, format: json}
columns:
  id: string
  user: u64
  at: timestamp(ms)
  cents: 'int?'
  sku: 'string?'
uid: user
time: at
";

/// Everything that merges in its own way, over days, back days, and ever.
const FEATURES: &str = "\
feature: count_{span}
stream: STREAM
value: count()
window: '{span}'
matrix: {span: [1d, 7d, 30d, 60d, lifetime]}
---
feature: spent_{span}
stream: STREAM
value: sum(cents)
where: sku <> 's1'
window: '{span}'
matrix: {span: [7d, 60d, lifetime]}
---
feature: skus_{span}
stream: STREAM
value: count(distinct sku)
window: '{span}'
matrix: {span: [30d, lifetime]}
---
feature: last_sku
stream: STREAM
value: last(sku)
window: lifetime
---
feature: first_sku_60d
stream: STREAM
value: first(sku)
window: 60d
---
feature: most_30d_before
stream: STREAM
value: max(cents)
window: 30d
offset: 30d
---
feature: first_bought
stream: STREAM
value: first_time()
window: lifetime
";

/// One event; the two kinds of streams get the same ones.
#[derive(Clone)]
struct Event {
    id: u32,
    user: u32,
    at_ms: i64,
    cents: Option<u32>,
    sku: u32,
}

fn lines<'e>(events: impl IntoIterator<Item = &'e Event>) -> String {
    let mut text = String::new();
    for e in events {
        let cents = e.cents.map_or("null".to_owned(), |c| c.to_string());
        let (id, user, at, sku) = (e.id, e.user, e.at_ms, e.sku);
        writeln!(
            text,
            r#"{{"id":"e{id}","user":{user},"at":{at},"cents":{cents},"sku":"s{sku}"}}"#
        )
        .unwrap();
    }
    text
}

/// Events of half a year up to the as-of; history may be of years.
fn events(rng: &mut StdRng) -> Vec<Event> {
    let event = |id: u32, rng: &mut StdRng| Event {
        id,
        user: rng.random_range(0..USERS),
        at_ms: if rng.random_ratio(1, 4) {
            // Near the cut, often at its very instant.
            CUT_MS + rng.random_range(-2..=2) * rng.random_range(0..DAY_MS)
        } else {
            AS_OF_MS - rng.random_range(0..400 * DAY_MS)
        },
        cents: rng.random_ratio(4, 5).then(|| rng.random_range(1..9_000)),
        sku: rng.random_range(0..12),
    };
    (0..12_000).map(|id| event(id, rng)).collect()
}

/// What is written where.
struct Parts {
    everything: String,
    history: String,
    live: String,
}

/// `dedupe`: the stream knows ids, so live may repeat what history has, and bring what it has not.
fn parts(rng: &mut StdRng, dedupe: bool) -> Parts {
    let all = events(rng);
    let (mut history, mut live): (Vec<Event>, Vec<Event>) =
        all.iter().cloned().partition(|e| e.at_ms < CUT_MS);
    // Late ones: within the horizon, so that their ids are known.
    let late = |e: &Event| e.at_ms >= AS_OF_MS - 60 * DAY_MS && e.id.is_multiple_of(5);
    let again: Vec<Event> = history.iter().filter(|e| late(e)).cloned().collect();
    assert!(again.len() > 50, "events that history and live both have");
    live.extend(again);
    if dedupe {
        // Of these, some come live only.
        history.retain(|e| !(late(e) && e.id.is_multiple_of(2)));
    }
    live.sort_by_key(|e| e.id.wrapping_mul(2_654_435_761));
    Parts { everything: lines(&all), history: lines(&history), live: lines(&live) }
}

struct Shop {
    dir: tempfile::TempDir,
}

impl Shop {
    fn new(dedupe: bool, parts: &Parts) -> Self {
        let shop = Self { dir: tempfile::tempdir().unwrap() };
        let ids = if dedupe { "dedupe: {by: id}\n" } else { "" };
        shop.write("tags/catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\n");
        shop.write("tags/streams/buy.yaml", &(STREAM.to_owned() + ids));
        shop.features(&FEATURES.replace("STREAM", "buy"));
        for (name, text) in
            [("all", &parts.everything), ("history", &parts.history), ("live", &parts.live)]
        {
            shop.write(&format!("{name}.jsonl"), text);
        }
        let lines: Vec<&str> = parts.history.split_inclusive('\n').collect();
        let (older, old) = lines.split_at(lines.len() / 3);
        shop.write("older.jsonl", &older.concat());
        shop.write("old.jsonl", &old.concat());
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Features, and a tag for each.
    fn features(&self, features: &str) {
        self.write("tags/features/all.yaml", features);
        let mut rules = String::new();
        for document in features.split("---\n") {
            let name = document.lines().next().unwrap().trim_start_matches("feature: ");
            let matrix = document.lines().find(|l| l.starts_with("matrix")).unwrap_or_default();
            write!(rules, "---\ntag: tag_{name}\nexpr: {name}\n{matrix}\n").unwrap();
        }
        self.write(
            "tags/rules/all.yaml",
            &rules.replace("expr: count_{span}", "expr: 'count_{span}'"),
        );
        self.done("any", &["check", "--write"]);
    }

    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        let store = format!("store.path={}", self.path(store).display());
        command.arg("--catalog").arg(self.path("tags")).args(["--set", &store]);
        command.args(["--set", "window.close_ms=100", "--set", "engine.shards=2"]);
        command.args(["--set", "source.block_bytes=16384", "--set", "window.users_max=100"]);
        command.args(args).env("TAGLOOM_LOG", "error");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn done(&self, store: &str, args: &[&str]) -> String {
        let done = self.command(store, args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn run(&self, store: &str, events: &str) {
        let source = format!("buy={}", self.path(events).display());
        self.done(store, &["run", "--source", &source, "--as-of", &AS_OF_MS.to_string()]);
    }

    fn history_args(&self) -> Vec<String> {
        let source = |name| format!("buy={}", self.path(name).display());
        let (old, older) = (source("old.jsonl"), source("older.jsonl"));
        let fixed = ["--set", "clock.mode=fixed", "backfill", "--json"];
        let history = ["--history", &older, "--history", &old, "--cut", "2026-03-01"];
        let args = [&fixed[..], &history].concat();
        args.into_iter().map(str::to_owned).collect()
    }

    fn history(&self, store: &str) -> Value {
        let args = self.history_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        serde_json::from_str(&self.done(store, &args)).unwrap()
    }

    fn export(&self, store: &str) -> String {
        let out = self.path(&format!("{store}.csv"));
        self.done(store, &["export", "--out", out.to_str().unwrap()]);
        std::fs::read_to_string(out).unwrap()
    }

    fn expect(&self, store: &str, as_one: &str) {
        let (have, want) = (self.export(store), self.export(as_one));
        let differs = have.lines().zip(want.lines()).find(|(a, b)| a != b);
        let head = have.lines().next().unwrap();
        assert!(
            differs.is_none(),
            "{head}\nhave {}\nwant {}",
            differs.unwrap().0,
            differs.unwrap().1
        );
        assert_eq!(have.lines().count(), want.lines().count());
        assert!(have.lines().count() > 300, "users");
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HISTORY_SEED").map_or(11, |s| s.parse().unwrap());
    eprintln!("HISTORY_SEED={seed}");
    seed
}

/// Whatever the order, and twice.
fn check(dedupe: bool) {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(dedupe, &parts(&mut rng, dedupe));
    shop.run("one", "all.jsonl");

    shop.run("live_first", "live.jsonl");
    assert!(shop.history("live_first")["users"].as_u64().unwrap() > 300);
    shop.expect("live_first", "one");
    assert_eq!(shop.history("live_first")["users"], 0, "the second time there is nothing to do");
    shop.expect("live_first", "one");

    shop.history("history_first");
    shop.run("history_first", "live.jsonl");
    shop.expect("history_first", "one");
}

#[test]
fn history_and_live_events_equal_one_run_over_everything() {
    check(false);
}

#[test]
fn those_whom_history_does_not_know_count_from_the_cut_on() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut parts = parts(&mut rng, false);
    let is_known = |line: &&str| !line.contains("\"user\":7,");
    parts.history = parts.history.lines().filter(is_known).fold(String::new(), join);
    let counts = |line: &&str| is_known(line) || at(line) >= CUT_MS;
    parts.everything = parts.everything.lines().filter(counts).fold(String::new(), join);
    let shop = Shop::new(false, &parts);
    shop.run("one", "all.jsonl");
    shop.run("live", "live.jsonl");
    shop.history("live");
    shop.expect("live", "one");
}

#[test]
fn where_events_have_ids_late_ones_count_unless_history_has_them() {
    check(true);
}

#[test]
fn a_feature_that_came_later_gets_what_came_before_and_the_others_stay() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut parts = parts(&mut rng, false);
    // Without late ones: what only lives cannot be had from history.
    parts.live = parts.everything.lines().filter(|l| at(l) >= CUT_MS).fold(String::new(), join);
    let shop = Shop::new(false, &parts);
    shop.run("one", "all.jsonl");
    let features = FEATURES.replace("STREAM", "buy");
    let few = features.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    shop.features(&few);
    // Live began long before the feature did.
    shop.write("before.jsonl", &parts.history);
    shop.run("later", "before.jsonl");
    shop.features(&features);
    shop.run("later", "live.jsonl");
    shop.history("later");
    shop.expect("later", "one");
    says_what_it_has_seen(&shop);
}

/// What features count is said of all of them, and beside a user's value.
fn says_what_it_has_seen(shop: &Shop) {
    let cut = "2026-03-01T00:00:00Z";
    let shown: Value =
        serde_json::from_str(&shop.done("later", &["catalog", "show", "--json"])).unwrap();
    assert_eq!(shown["merged_users"], Value::Null, "no history is being merged");
    let partials = shown["versions"][0]["partials"].as_array().unwrap();
    assert!(partials.len() > 5 && partials.iter().all(|p| p["history_until"] == cut), "{shown}");
    let text = shop.done("later", &["catalog", "show"]);
    assert!(text.contains("history until") && text.contains(cut), "{text}");
    assert!(text.contains("0 features have seen every event of this store"), "{text}");
    let seen = |tag: &str| {
        let why = shop.done("later", &["why", "7", tag, "--json"]);
        serde_json::from_str::<Value>(&why).unwrap()["inputs"][0]["seen"].clone()
    };
    let (old, new) = (seen("tag_count_lifetime"), seen("tag_skus_lifetime"));
    assert_eq!((&old["since_version"], &new["since_version"]), (&Value::Null, &2.into()));
    for seen in [old, new] {
        assert_eq!(seen["history_until_ms"], CUT_MS, "{seen}");
        assert_eq!(seen["history_is_merging"], false);
    }
    let text = shop.done("later", &["why", "7", "tag_skus_lifetime"]);
    for line in [
        "counts events that came since version 2 of the catalogue, 2026-04-10",
        "what happened before 2026-03-01 00:00:00+00:00 is counted from a history",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

fn at(line: &str) -> i64 {
    serde_json::from_str::<Value>(line).unwrap()["at"].as_i64().unwrap()
}

fn join(text: String, line: &str) -> String {
    text + line + "\n"
}

/// Waits for the end for at most `patience`, then kills. True: it was killed.
fn kill_after(mut child: Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            let said = child.wait_with_output().unwrap().stderr;
            assert!(status.success(), "{}", String::from_utf8_lossy(&said));
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn a_history_that_is_killed_again_and_again_goes_on_where_it_was() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(true, &parts(&mut rng, true));
    shop.run("one", "all.jsonl");
    let mut args = shop.history_args();
    args.extend(["--users-per-s", "150"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (mut kills, mut stores) = (0, 0);
    while kills < KILLS {
        let store = format!("stormy{stores}");
        stores += 1;
        assert!(stores < 30, "histories end before they can be killed: make the data larger");
        shop.run(&store, "live.jsonl");
        let mut patience = Duration::from_millis(rng.random_range(20..300));
        while kill_after(shop.command(&store, &args).spawn().unwrap(), patience) {
            kills += 1;
            patience += Duration::from_millis(rng.random_range(0..500));
        }
        shop.expect(&store, "one");
        let left = std::fs::read_dir(shop.dir.path()).unwrap();
        let left = left
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("-history-"));
        assert_eq!(left.count(), 0, "what is merged is removed");
    }
    eprintln!("{kills} kills over {stores} stores");
}

#[test]
fn a_history_that_is_stopped_says_so_and_goes_on() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(false, &parts(&mut rng, false));
    shop.run("one", "all.jsonl");
    let mut args = shop.history_args();
    args.extend(["--users-per-s", "50"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let child = shop.command("stopped", &args).spawn().unwrap();
    // Some have it, which the first load of an empty store can tell by nobody else.
    std::thread::park_timeout(Duration::from_millis(2_500));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(said.contains("run this again, it goes on"), "{said}");
    assert!(shop.history("stopped")["users"].as_u64().unwrap() > 300);
    shop.run("stopped", "live.jsonl");
    shop.expect("stopped", "one");
}

#[test]
fn a_history_whose_folded_files_are_lost_is_folded_again() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(true, &parts(&mut rng, true));
    shop.run("one", "all.jsonl");
    let mut args = shop.history_args();
    args.extend(["--users-per-s", "100"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    shop.run("lost", "live.jsonl");
    let merged = || {
        let shown = shop.done("lost", &["catalog", "show", "--json"]);
        serde_json::from_str::<Value>(&shown).unwrap()["merged_users"].as_u64()
    };
    let mut patience = Duration::from_millis(400);
    while merged().is_none_or(|users| users == 0) {
        assert!(kill_after(shop.command("lost", &args).spawn().unwrap(), patience), "too late");
        patience += Duration::from_millis(200);
    }
    let is_folded = |name: &str| name.contains("-history-");
    let dirs = std::fs::read_dir(shop.dir.path()).unwrap().map(|e| e.unwrap().path());
    let dirs: Vec<PathBuf> = dirs.filter(|p| is_folded(&p.to_string_lossy())).collect();
    assert_eq!(dirs.len(), 1);
    std::fs::remove_dir_all(&dirs[0]).unwrap();
    let other: Vec<&str> =
        args.iter().map(|a| if *a == "2026-03-01" { "2026-03-02" } else { a }).collect();
    let refused = shop.command("lost", &other).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("the same files of buy") && said.contains("--cut 2026-03-01"), "{said}");
    assert!(shop.history("lost")["users"].as_u64().unwrap() > 300);
    shop.expect("lost", "one");
    assert!(!dirs[0].exists());
}

#[test]
fn live_events_go_on_while_history_is_merged() {
    let mut rng = StdRng::seed_from_u64(seed());
    let parts = parts(&mut rng, false);
    let shop = Shop::new(false, &parts);
    shop.run("one", "all.jsonl");
    let as_of = AS_OF_MS.to_string();
    let args = ["run", "--source", "buy=-", "--as-of", &as_of];
    let mut child = shop.command("live", &args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    while !shop.path("live/tagloom.sock").exists() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let live: Vec<&str> = parts.live.lines().collect();
    let (before, after) = live.split_at(live.len() / 2);
    let send = |stdin: &mut std::process::ChildStdin, lines: &[&str]| {
        for piece in lines.chunks(200) {
            stdin.write_all((piece.join("\n") + "\n").as_bytes()).unwrap();
            std::thread::park_timeout(Duration::from_millis(2));
        }
    };
    send(&mut stdin, before);
    let merging = shop.history_args();
    let merging: Vec<&str> = merging.iter().map(String::as_str).collect();
    let mut history = shop.command("live", &merging).spawn().unwrap();
    for piece in after.chunks(after.len().div_ceil(20)) {
        send(&mut stdin, piece);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let done = history.wait().unwrap();
    assert!(
        done.success(),
        "{}",
        String::from_utf8_lossy(&history.wait_with_output().unwrap().stderr)
    );
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    shop.expect("live", "one");
}

#[test]
fn a_cut_within_a_day_is_refused_with_the_instant_that_is_meant() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(false, &parts(&mut rng, false));
    let source = format!("buy={}", shop.path("history.jsonl").display());
    let args = ["backfill", "--history", &source, "--cut", "2026-03-01T12:00"];
    let refused = shop.command("live", &args).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("first instant of a day") && said.contains("2026-03-01"), "{said}");
}

/// Rows of the table, as insertions with a version.
fn rows(version: u32, rows: impl Iterator<Item = u32>) -> String {
    let mut text = String::new();
    for n in rows {
        let (user, at, cents) = (n % 10, AS_OF_MS - i64::from(n) * DAY_MS, n * n % 1000);
        writeln!(
            text,
            r#"{{"op":"c","v":{version},"id":"r{n}","user":{user},"at":{at},"cents":{cents},"sku":"s{n}"}}"#
        )
        .unwrap();
    }
    text
}

#[test]
fn the_history_of_a_table_is_refused_and_its_rows_are_an_ordinary_source() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(false, &parts(&mut rng, false));
    let stream = STREAM.replace("columns:\n", "columns:\n  op: string\n  v: int\n");
    let table = "mode: changelog\nprimary_key: id\nversion: v\nbefore: before\noperation: {column: \
                 op, insert: c, update: u, delete: d}\n";
    shop.write("tags/streams/buy.yaml", &(stream + table));
    shop.write("half.jsonl", &rows(1, 0..200));
    shop.write("rows.jsonl", &rows(2, 0..300));
    let features = FEATURES.replace("STREAM", "buy");
    let few = features.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    shop.features(&few);
    shop.run("later", "half.jsonl");
    shop.features(&features);
    let source = format!("buy={}", shop.path("rows.jsonl").display());
    let args = ["backfill", "--history", &source, "--cut", "2026-03-01"];
    let refused = shop.command("later", &args).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for text in
        ["--history buy", "insertions to `tagloom run --source buy=FILE`", "a version above"]
    {
        assert!(said.contains(text), "{said}");
    }
    // What it says gives every feature, old and new, all rows.
    shop.run("later", "rows.jsonl");
    shop.run("one", "rows.jsonl");
    assert_eq!(shop.export("later"), shop.export("one"));
    assert!(shop.export("one").contains(",s"), "favourites and firsts have values");
}

#[test]
fn a_cut_beyond_what_is_kept_by_day_is_refused_with_the_first_one_that_can_be() {
    let mut rng = StdRng::seed_from_u64(seed());
    let shop = Shop::new(false, &parts(&mut rng, false));
    shop.run("any", "live.jsonl");
    let source = format!("buy={}", shop.path("history.jsonl").display());
    let args = ["backfill", "--history", &source, "--cut", "2025-12-01"];
    let refused = shop.command("any", &args).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    // 60 days and 7 of lateness before the last day.
    assert!(said.contains("67 days") && said.contains("2026-02-02"), "{said}");
}
