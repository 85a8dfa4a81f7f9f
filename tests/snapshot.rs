//! Snapshots of the embedded store: whole, as of one instant, beside a run that goes on; and back.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which waits by the machine's clock"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const AS_OF_MS: i64 = 1_774_958_400_000;

/// A rule directory, and stores beside it.
struct Shop {
    dir: tempfile::TempDir,
}

const FILES: [(&str, &str); 5] = [
    ("catalog.yaml", "name: shop\nuid: u64\ntimezone: Asia/Shanghai\n"),
    (
        "streams/all.yaml",
        "stream: orders
from: {file: orders.jsonl}
columns: {id: string, uid: u64, at: timestamp(ms), amount: int, city: string}
uid: uid
time: at
dedupe: {by: id}
mode: append
",
    ),
    (
        "features/all.yaml",
        "feature: spend
stream: orders
value: sum(amount)
window: lifetime
---
feature: orders
stream: orders
value: count(*)
window: 30d
---
feature: city
stream: orders
value: last(city)
window: lifetime
",
    ),
    (
        "dimensions/all.yaml",
        "dimension: place
key: city
columns: {name: string}
",
    ),
    (
        "rules/all.yaml",
        "tag: \"{of}_is\"
matrix: {of: [spend, orders, city, place_name]}
expr: \"{of}\"
",
    ),
];

impl Shop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in FILES {
            let path = dir.path().join("tags").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let shop = Self { dir };
        shop.ok("none", &["check", "--write"]);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, store: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.current_dir(self.dir.path()).args(arguments);
        command.args(["--set", &format!("store.path={store}"), "--set", "window.close_ms=100"]);
        command.env("TAGLOOM_LOG", "error").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ok(&self, store: &str, arguments: &[&str]) -> String {
        let output = self.command(store, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", shown(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn refused(&self, store: &str, arguments: &[&str], remedy: &str) {
        let output = self.command(store, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        assert!(shown(&output).contains(remedy), "{}", shown(&output));
    }

    /// Orders, numbered; some of the lines are broken.
    fn write_orders(&self, numbers: std::ops::Range<u64>) {
        std::fs::write(self.path("orders.jsonl"), orders(numbers)).unwrap();
    }

    fn run(&self, store: &str) {
        let as_of = AS_OF_MS.to_string();
        self.ok(store, &["run", "--source", "orders=orders.jsonl", "--as-of", &as_of]);
    }

    /// All that a store says of its users, its rejects and how far it has read.
    fn contents(&self, store: &str) -> [String; 3] {
        let as_of = AS_OF_MS.to_string();
        self.ok(store, &["export", "--out", "all.csv", "--as-of", &as_of]);
        let users = std::fs::read_to_string(self.path("all.csv")).unwrap();
        let rejects = self.ok(store, &["rejects", "--json", "--limit", "100000"]);
        [users, rejects, self.ok(store, &["source", "--json"])]
    }
}

fn shown(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn orders(numbers: std::ops::Range<u64>) -> String {
    numbers.fold(String::new(), |mut lines, n| {
        let (uid, at) = (n * 7_919 % 5_000, AS_OF_MS - i64::try_from(n % 5_000_000).unwrap());
        writeln!(
            lines,
            "{{\"id\":\"o{n}\",\"uid\":{uid},\"at\":{at},\"amount\":{},\"city\":\"c{}\"}}",
            n % 1_000,
            n % 90
        )
        .unwrap();
        if n % 400 == 0 {
            lines.push_str("{\"id\":\"broken\n");
        }
        lines
    })
}

#[test]
fn a_restored_store_is_the_one_that_was_and_goes_on_where_it_was() {
    let shop = Shop::new();
    shop.write_orders(0..40_000);
    shop.run("first");
    std::fs::write(shop.path("cities.csv"), "city,name\nc1,One\n").unwrap();
    shop.ok("first", &["dims", "load", "place", "cities.csv"]);
    let out = shop.ok("first", &["store", "snapshot", "--out", "copy"]);
    assert!(out.contains("5000 profiles"), "{out}");
    let before = shop.contents("first");
    assert!(before[0].contains(",One"), "the table is read");
    shop.ok("second", &["store", "restore", "--from", "copy"]);
    assert_eq!(shop.contents("second"), before);

    // Both go on with the rest of the file, and with nothing of what they have counted.
    shop.write_orders(0..60_000);
    for store in ["first", "second"] {
        shop.run(store);
    }
    let after = shop.contents("first");
    assert_ne!(after, before);
    assert_eq!(shop.contents("second"), after);

    // Nothing that is there is overwritten.
    shop.refused("first", &["store", "snapshot", "--out", "copy"], "is there already");
    shop.refused("second", &["store", "restore", "--from", "copy"], "is there already");
    shop.refused("third", &["store", "restore", "--from", "tags"], "it has no manifest.json");
    shop.refused("none", &["store", "snapshot", "--out", "other"], "there is no store");
    assert!(!shop.path("other").exists() && !shop.path("other.new").exists());
    // Nor is a store made for a catalogue of other users.
    let catalog = shop.path("tags/catalog.yaml");
    std::fs::write(&catalog, FILES[0].1.replace("Asia/Shanghai", "UTC")).unwrap();
    shop.refused("third", &["store", "restore", "--from", "copy"], "days would begin elsewhere");
    assert!(!shop.path("third/fjall").exists());
}

#[test]
fn what_is_damaged_is_not_restored() {
    let shop = Shop::new();
    shop.write_orders(0..4_000);
    shop.run("first");
    shop.ok("first", &["store", "snapshot", "--out", "copy"]);
    let manifest = std::fs::read_to_string(shop.path("copy/manifest.json")).unwrap();
    let files = std::fs::read_dir(shop.path("copy")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.extension().unwrap() == "zst").collect();
    files.sort();
    let largest = files.iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap().clone();
    let whole = std::fs::read(&largest).unwrap();
    let refused = |how: &str| {
        let output = shop.command(how, &["store", "restore", "--from", "copy"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{how}: {}", shown(&output));
        let text = shown(&output);
        assert!(text.contains("cannot be restored from"), "{how}: {text}");
        assert!(!shop.path(how).join("fjall").exists(), "{how}");
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    std::fs::write(&largest, flipped).unwrap();
    refused("flipped");
    std::fs::write(&largest, &whole[..whole.len() - 9]).unwrap();
    refused("cut");
    std::fs::remove_file(&largest).unwrap();
    refused("missing");
    std::fs::write(&largest, &whole).unwrap();
    let at = manifest.find("\"checksum\": \"").unwrap() + "\"checksum\": \"".len();
    let mut other = manifest.clone();
    other.replace_range(at..=at, if manifest[at..].starts_with('0') { "1" } else { "0" });
    std::fs::write(shop.path("copy/manifest.json"), other).unwrap();
    refused("other");
    std::fs::write(shop.path("copy/manifest.json"), &manifest[..manifest.len() / 2]).unwrap();
    refused("half");
    let newer = manifest.replace("\"version\": 1", "\"version\": 99");
    std::fs::write(shop.path("copy/manifest.json"), newer).unwrap();
    shop.refused("newer", &["store", "restore", "--from", "copy"], "snapshot 99");
    std::fs::write(shop.path("copy/manifest.json"), manifest).unwrap();
    shop.ok("whole", &["store", "restore", "--from", "copy"]);
    assert_eq!(shop.contents("whole"), shop.contents("first"));
}

/// Orders that a store has counted.
fn counted(shop: &Shop, store: &str) -> u64 {
    let as_of = AS_OF_MS.to_string();
    shop.ok(store, &["export", "--out", "count.csv", "--as-of", &as_of]);
    let text = std::fs::read_to_string(shop.path("count.csv")).unwrap();
    let orders = |line: &str| line.split(',').nth(2).unwrap().parse::<u64>().unwrap();
    text.lines().skip(1).map(orders).sum()
}

#[test]
fn a_snapshot_beside_a_run_is_of_one_instant_and_the_run_goes_on() {
    // So many that snapshots are taken while they are read.
    const ORDERS: u64 = if cfg!(debug_assertions) { 250_000 } else { 1_500_000 };
    let shop = Shop::new();
    shop.write_orders(0..ORDERS);
    let as_of = AS_OF_MS.to_string();
    let arguments = ["run", "--source", "orders=orders.jsonl", "--as-of", &as_of];
    let mut command = shop.command("first", &arguments);
    // Many small windows.
    command.args(["--set", "source.block_bytes=65536", "--set", "source.batches_under_way_max=2"]);
    let mut run = command.args(["--set", "window.users_max=300"]).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !shop.path("first/tagloom.sock").exists() {
        assert!(Instant::now() < until, "the run answers");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut taken = 0;
    while run.try_wait().unwrap().is_none() && taken < 4 {
        let out = format!("copy-{taken}");
        let arguments = ["store", "snapshot", "--out", &out];
        let output = shop.command("first", &arguments).output().unwrap();
        if !output.status.success() {
            // The run ends meanwhile: it says so.
            assert!(shown(&output).contains("broke off"), "{}", shown(&output));
            assert!(!shop.path(&out).exists(), "half a snapshot is none");
            break;
        }
        taken += 1;
    }
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let whole = shop.contents("first");
    let mut parts = Vec::new();
    for copy in 0..taken {
        let store = format!("store-{copy}");
        shop.ok(&store, &["store", "restore", "--from", &format!("copy-{copy}")]);
        parts.push(counted(&shop, &store));
        // What it has counted fits how far it had read: with the rest it is the other one.
        shop.run(&store);
        assert_eq!(shop.contents(&store), whole, "{parts:?}");
    }
    assert!(parts.is_sorted() && parts.first().is_some_and(|first| *first < ORDERS), "{parts:?}");
}

#[test]
fn one_that_was_killed_is_none_and_the_next_one_is_whole() {
    let shop = Shop::new();
    shop.write_orders(0..40_000);
    shop.run("first");
    let before = shop.contents("first");
    let (mut cut_short, mut restores_cut_short) = (0, 0);
    for kill in 0..12_u64 {
        // Some way into it: what is under way is there to be seen.
        let killed = |store: &str, arguments: &[&str], under_way: &str| {
            let mut child = shop.command(store, arguments).spawn().unwrap();
            let under_way = shop.path(under_way);
            while !under_way.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_millis(2 * kill));
            child.kill().unwrap();
            child.wait().unwrap();
        };
        killed("first", &["store", "snapshot", "--out", "copy"], "copy.new");
        let copy = shop.path("copy");
        if copy.exists() {
            // It was done before.
            std::fs::remove_dir_all(&copy).unwrap();
        } else {
            cut_short += usize::from(half_is_no_snapshot(&shop));
        }
        shop.ok("first", &["store", "snapshot", "--out", "copy"]);
        killed("second", &["store", "restore", "--from", "copy"], "second/fjall.restoring");
        if !shop.path("second/fjall").exists() {
            restores_cut_short += 1;
            shop.refused("second", &["export", "--out", "x.csv"], "there is no store");
            shop.ok("second", &["store", "restore", "--from", "copy"]);
        }
        assert_eq!(shop.contents("second"), before);
        std::fs::remove_dir_all(shop.path("second")).unwrap();
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(cut_short > 0 && restores_cut_short > 0, "no kill hit what was under way");
}

/// Whether there is a half one, which must not be taken for a whole one.
fn half_is_no_snapshot(shop: &Shop) -> bool {
    let half: &Path = &shop.path("copy.new");
    if !half.exists() {
        return false;
    }
    if !half.join("manifest.json").exists() {
        shop.refused("half", &["store", "restore", "--from", "copy.new"], "was not finished");
    }
    true
}
