//! Topics that tagloom publishes to: whoever follows them knows what the store says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::rig::hbase::Hbase;
use crate::rig::kafka::{Found, Kafka};
use crate::rig::portrait::{Portrait, STREAMS};
use crate::rig::process::Process;

const CAUGHT_UP: Duration = Duration::from_secs(240);
const PARTITIONS: i32 = 4;

/// A topic of changes and one of rejects, beside the workload's.
struct Told {
    kafka: Kafka,
    portrait: Portrait,
    settings: Vec<String>,
    name: &'static str,
}

impl Told {
    fn start(name: &'static str, users: u32, events: u32, hbase: Option<&Hbase>) -> Self {
        let kafka = Kafka::start();
        let portrait = Portrait::new(name, users, events);
        let mut settings = Portrait::settings(&kafka, name);
        match hbase {
            None => settings.push(format!("store.path={}", portrait.path("store").display())),
            Some(hbase) => {
                let options = hbase.options(name);
                settings.push("store.kind=hbase".to_owned());
                settings.push(format!("store.hbase.gateways={}", options.gateways));
                settings.push(format!("store.hbase.prefix={}", options.prefix));
                portrait.ok_with(&["store", "init"], &settings);
            }
        }
        for what in ["changes", "rejects"] {
            let topic = format!("{name}-{what}");
            kafka.create(&topic, 3);
            settings.push(format!("publish.{what}.topic={topic}"));
        }
        // Less than a window changes: windows wait for room.
        settings.push("publish.queue_records_max=500".to_owned());
        portrait.load_dimensions(&settings);
        Self { kafka, portrait, settings, name }
    }

    fn taken(&self, what: &str) -> Vec<Found> {
        self.kafka.read_all(&format!("{}-{what}", self.name))
    }

    /// The labels that somebody knows who drops repeats, and how many repeats there were.
    #[track_caller]
    fn followed(&self) -> (BTreeMap<String, BTreeMap<String, String>>, usize) {
        let mut known: BTreeMap<String, (u64, BTreeMap<String, String>)> = BTreeMap::new();
        let mut repeats = 0;
        for record in self.taken("changes") {
            let change: Value = serde_json::from_slice(&record.value).unwrap();
            let uid = change["uid"].as_str().unwrap();
            assert_eq!(uid.as_bytes(), record.key.as_deref().unwrap());
            let (last, tags) = known.entry(uid.to_owned()).or_default();
            let version = change["version"].as_u64().unwrap();
            if version <= *last {
                repeats += 1;
                continue;
            }
            assert_eq!(version, *last + 1, "user {uid}");
            *last = version;
            for tag in change["changes"].as_array().unwrap() {
                let name = tag["tag"].as_str().unwrap();
                let before = tags.remove(name);
                assert_eq!(tag["from"].as_str(), before.as_deref(), "user {uid}: {change}");
                tags.extend(tag["to"].as_str().map(|to| (name.to_owned(), to.to_owned())));
            }
        }
        (known.into_iter().map(|(uid, (_, tags))| (uid, tags)).collect(), repeats)
    }

    /// Every tag of the export is what the topic said last.
    #[track_caller]
    fn assert_told(&self) {
        self.portrait.assert_equal(&self.settings);
        let mut exported = csv::Reader::from_path(self.portrait.path("store.csv")).unwrap();
        let header = exported.headers().unwrap().clone();
        let (mut told, repeats) = self.followed();
        for row in exported.records() {
            let row = row.unwrap();
            let tags: BTreeMap<String, String> = header
                .iter()
                .zip(&row)
                .skip(1)
                .filter(|(_, value)| !value.is_empty())
                .map(|(tag, value)| (tag.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(told.remove(&row[0]).unwrap_or_default(), tags, "user {}", &row[0]);
        }
        assert!(told.is_empty(), "nobody knows {:?}", told.keys());
        eprintln!("{}: {repeats} records came again", self.name);
    }

    /// Refused rows are in the topic with their reasons: as many of each as were made, each once if
    /// one key is one row.
    #[track_caller]
    fn assert_rejects(&self) {
        let manifest = std::fs::read(self.portrait.path("data/manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut rejects: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
        for record in self.taken("rejects") {
            rejects.insert(record.key.clone().unwrap(), record);
        }
        for stream in STREAMS {
            let lines = std::fs::read(self.portrait.path(&format!("data/{stream}.jsonl"))).unwrap();
            let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
            let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
            for reject in rejects.values().filter(|r| r.headers["stream"] == stream) {
                *counts.entry(&reject.headers["reason"]).or_default() += 1;
                assert!(lines.contains(&reject.value.as_slice()), "{:?}", reject.headers);
                assert_eq!(reject.headers["topic"], self.portrait.topic(stream));
                assert!(!reject.headers["message"].is_empty());
            }
            let made = &manifest["streams"][stream]["malformed"];
            for (kind, reason) in [
                ("truncated", "malformed"),
                ("missing_uid", "missing"),
                ("string_number", "type"),
                ("far_future", "too-early"),
            ] {
                let expect = made[kind].as_u64().unwrap();
                let got = counts.remove(reason).unwrap_or(0);
                assert_eq!(got, expect, "{stream}: {kind}, as {reason}");
            }
            assert!(counts.is_empty(), "{stream}: {counts:?}");
        }
        assert!(rejects.len() > 20, "{}", rejects.len());
    }

    fn wait_committed(&self) {
        self.kafka.wait_committed(self.name, &self.portrait.topics(), CAUGHT_UP);
    }
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn a_process_that_is_killed_publishes_all_that_changed_and_all_that_was_refused() {
    let told = Told::start("tell", 4_000, 40_000, None);
    told.portrait.send(&told.kafka, PARTITIONS);
    for kill in 0..5_u64 {
        let process = told.portrait.start("killed", &told.settings);
        std::thread::park_timeout(Duration::from_millis(1_300 + 410 * kill));
        process.kill();
    }
    let process = told.portrait.start("last", &told.settings);
    told.wait_committed();
    Portrait::stop(process);
    told.assert_told();
    told.assert_rejects();
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn processes_of_a_group_publish_whatever_happens_to_them() {
    let hbase = Hbase::start();
    let mut told = Told::start("tellg", 2_000, 20_000, Some(&hbase));
    told.portrait.send(&told.kafka, PARTITIONS);
    for kill in 0..4_u64 {
        let process = told.portrait.start("killed", &told.settings);
        // Its predecessor's session has to end before it is given partitions.
        std::thread::park_timeout(Duration::from_millis(7_000 + (kill * 7_919) % 1_500));
        process.kill();
    }
    let first = told.portrait.start("first", &told.settings);
    let second = told.portrait.start("second", &told.settings);
    std::thread::park_timeout(Duration::from_secs(9));
    told.kafka.kill_broker();
    std::thread::park_timeout(Duration::from_secs(3));
    told.kafka.start_broker();
    std::thread::park_timeout(Duration::from_secs(3));
    Portrait::stop(second);
    told.wait_committed();
    Portrait::stop(first);
    told.assert_told();
    told.assert_rejects();
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn topics_that_are_not_there_are_refused_before_anything_is_read() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("none", 50, 500);
    let mut settings = Portrait::settings(&kafka, "none");
    settings.push(format!("store.path={}", portrait.path("store").display()));
    settings.push("publish.changes.topic=nowhere".to_owned());
    for stream in STREAMS {
        kafka.create(&portrait.topic(stream), 1);
    }
    let arguments = ["run", "--as-of", "2026-03-31T20:00"];
    let output = portrait.command(&arguments, &settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("no topic `nowhere`") && text.contains("publish.changes.topic"),
        "{text}"
    );
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn rows_that_a_wrong_catalogue_refused_count_once_it_is_mended() {
    let told = Told::start("again", 2_000, 20_000, None);
    let path = told.portrait.path("tags/streams/consume.yaml");
    let mended = std::fs::read_to_string(&path).unwrap();
    let wrong = mended.replace("  sku: int\n", "  sku: int\n  shop: string\n");
    assert_ne!(wrong, mended);
    std::fs::write(&path, wrong).unwrap();
    told.portrait.send(&told.kafka, PARTITIONS);
    let process = told.portrait.start("wrong", &told.settings);
    told.wait_committed();
    Portrait::stop(process);
    let only = ["--stream", "consume", "--reason", "missing"];
    let kept = || {
        let arguments = [&["rejects", "--json", "--limit", "0"][..], &only].concat();
        let shown = told.portrait.ok_with(&arguments, &told.settings);
        serde_json::from_str::<Value>(&shown).unwrap()["kept"].as_u64().unwrap()
    };
    let refused = kept();
    let topic = told.portrait.topic("consume");
    let lines = told.kafka.read_all(&topic);
    assert!(refused > 10_000, "{refused}");

    std::fs::write(&path, &mended).unwrap();
    let redrive = [&["rejects", "redrive", "--json"][..], &only].concat();
    for kill in 0..4_u64 {
        let mut command = told.portrait.command(&redrive, &told.settings);
        let process = Process::start("redrive", &told.portrait.path("."), &mut command);
        std::thread::park_timeout(Duration::from_millis(900 + 310 * kill));
        process.kill();
    }
    let left = kept();
    assert!(left < refused, "one of them has done something");
    let done = told.portrait.ok_with(&redrive, &told.settings);
    eprintln!("{refused} rejects, {left} after four kills: {done}");
    assert_eq!(kept(), 0);
    let again = told.kafka.read_all(&topic);
    assert_eq!(again.len() as u64, lines.len() as u64 + refused, "each once");
    for record in &again[..] {
        let twin = |other: &&Found| other.key == record.key && other.value == record.value;
        // Spot checks: a comparison of all with all takes minutes.
        if record.offset % 997 == 0 {
            let twins = again.iter().filter(twin);
            assert!(twins.clone().all(|twin| twin.partition == record.partition));
            assert!(twins.count() >= 2, "{record:?}");
        }
    }

    let process = told.portrait.start("mended", &told.settings);
    let (with_marks, without): (Vec<_>, Vec<_>) =
        told.portrait.topics().into_iter().partition(|name| *name == topic);
    let marks = i64::from(PARTITIONS);
    told.kafka.wait_committed_but(told.name, &with_marks, marks, CAUGHT_UP);
    told.kafka.wait_committed(told.name, &without, CAUGHT_UP);
    Portrait::stop(process);
    told.assert_told();
}
