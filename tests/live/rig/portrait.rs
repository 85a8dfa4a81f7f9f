//! The portrait workload in topics: 550 tags, compared with a run over the same events in files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::kafka::{Kafka, Record};
use super::process::Process;

/// The workload's streams.
pub const STREAMS: [&str; 3] = ["register", "consume", "cancel"];

/// What [`Portrait::change_catalog`] changes.
pub const MOVED_TAG: &str = "buy_cnt_all_band";

/// What [`Portrait::change_catalog`] removes.
pub const REMOVED_TAG: &str = "buy_cnt_3d_band";

/// No sound event of the workload is later: 2026-03-31T20:00 in Asia/Shanghai.
pub const AS_OF_MS: i64 = 1_774_958_400_000;

/// How long a process may take to end.
const END_MAX: Duration = Duration::from_secs(60);

/// A generated workload, its catalogue, and where everything is.
pub struct Portrait {
    dir: tempfile::TempDir,
    prefix: String,
    expected: String,
}

impl Portrait {
    /// Generates events of so many users, and computes from the files what every tag must be.
    /// `prefix`: of the topics.
    pub fn new(prefix: &str, users: u32, events: u32) -> Self {
        let mut dir = tempfile::Builder::new().prefix("tagloom-live-portrait-").tempdir().unwrap();
        // The processes' logs are in there.
        dir.disable_cleanup(std::env::var_os("LIVE_KEEP").is_some());
        let mut portrait = Self { dir, prefix: prefix.to_owned(), expected: String::new() };
        let (users, events) = (users.to_string(), events.to_string());
        portrait.ok(&["gen", "--out", "data", "--users", &users, "--events", &events]);
        portrait.write_catalog();
        portrait.expected = portrait.computed_from_files("data");
        portrait
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names of the topics.
    pub fn topics(&self) -> Vec<String> {
        STREAMS.iter().map(|stream| self.topic(stream)).collect()
    }

    pub fn topic(&self, stream: &str) -> String {
        format!("{}-{stream}", self.prefix)
    }

    /// The workload's catalogue, reading topics. Its lines have no arrival time but the one the
    /// test gives them, so lateness is not bounded.
    fn write_catalog(&self) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portrait/catalog");
        for entry in walk(&from) {
            let path = self.path("tags").join(entry.strip_prefix(&from).unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut text = std::fs::read_to_string(&entry).unwrap();
            text = text.replace("allowed_lateness: 40d", "allowed_lateness: 130d");
            for stream in STREAMS {
                let file = format!("{{file: {stream}.jsonl, format: json}}");
                let topic = format!("{{kafka: {}, format: json}}", self.topic(stream));
                text = text.replace(&file, &topic);
            }
            std::fs::write(path, text).unwrap();
        }
    }

    /// Changes the rules in the directory that processes watch: [`MOVED_TAG`] has another cut, and
    /// [`REMOVED_TAG`] is gone. Computes from the files what every tag must be from now on.
    pub fn change_catalog(&mut self) {
        // Beside it first: files and lock belong together.
        for path in walk(&self.path("tags")) {
            let to = self.path("next").join(path.strip_prefix(self.path("tags")).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(path, to).unwrap();
        }
        let rules = self.path("next/rules/00_tags.yaml");
        let text = std::fs::read_to_string(&rules).unwrap();
        let tag = |name: &str| format!("tag: {name}\n");
        let mut tags: Vec<String> = text.split("---\n").map(str::to_owned).collect();
        tags.retain(|text| !text.contains(&tag(REMOVED_TAG)));
        let moved = tags.iter_mut().find(|text| text.contains(&tag(MOVED_TAG))).unwrap();
        let other = moved.replace("cuts: [1, 3, 10, 30, 100]", "cuts: [1, 2, 10, 30, 100]");
        assert!(other != *moved, "{moved}");
        *moved = other;
        std::fs::write(&rules, tags.join("---\n")).unwrap();
        self.ok(&["check", "--write", "--catalog", "next"]);
        for name in ["rules/00_tags.yaml", "ids.lock"] {
            std::fs::copy(self.path("next").join(name), self.path("tags").join(name)).unwrap();
        }
        let before = std::mem::take(&mut self.expected);
        self.expected = self.computed_from_files("data");
        assert!(before != self.expected);
    }

    /// The short id of a tag, or of one that was removed.
    pub fn id_of(&self, tag: &str) -> String {
        let lock = std::fs::read_to_string(self.path("tags/ids.lock")).unwrap();
        let line = lock.lines().find_map(|line| line.strip_prefix(&format!("{tag} = "))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    }

    /// Makes the topics and sends all events, as if they had all arrived at the as-of.
    pub fn send(&self, kafka: &Kafka, partitions: i32) {
        for stream in STREAMS {
            kafka.create(&self.topic(stream), partitions);
        }
        STREAMS.iter().for_each(|stream| self.send_part(kafka, stream, 0, usize::MAX));
    }

    /// Sends some lines of a stream.
    pub fn send_part(&self, kafka: &Kafka, stream: &str, skip: usize, take: usize) {
        let lines = std::fs::read(self.path("data").join(format!("{stream}.jsonl"))).unwrap();
        let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let records = lines.skip(skip).take(take);
        let records = records.map(|value| Record { key: uid(value), value, at_ms: AS_OF_MS });
        kafka.send(&self.topic(stream), records);
    }

    /// Sends all lines of a stream, keyed by one of their members instead of the uid.
    pub fn send_keyed_by(&self, kafka: &Kafka, stream: &str, member: &str) {
        let lines = std::fs::read(self.path("data").join(format!("{stream}.jsonl"))).unwrap();
        let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let key = |line: &[u8]| {
            let text = String::from_utf8_lossy(line).into_owned();
            let found = text.split(&format!("\"{member}\":\"")).nth(1);
            found.and_then(|rest| rest.split('"').next()).unwrap_or("none").to_owned().into_bytes()
        };
        let keyed: Vec<(Vec<u8>, &[u8])> = lines.map(|line| (key(line), line)).collect();
        let record = |(key, value)| Record { key, value, at_ms: AS_OF_MS };
        let records = keyed.iter().map(|(key, value)| record((key.as_slice(), *value)));
        kafka.send(&self.topic(stream), records);
    }

    /// A command in this workload's directory, with the settings every one needs.
    pub fn command(&self, arguments: &[&str], settings: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.current_dir(self.dir.path()).args(arguments);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, &[])
    }

    /// What a command prints that must succeed.
    pub fn ok_with(&self, arguments: &[&str], settings: &[String]) -> String {
        let output = self.command(arguments, settings).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", shown(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// From now on other dimension tables are expected, from another folder.
    pub fn expect_dimensions_of(&mut self, folder: &str) {
        let other = self.computed_from_files(folder);
        assert_ne!(other, self.expected, "tables with other values change tags");
        self.expected = other;
    }

    /// What the same events give as files, with dimension tables of a folder.
    fn computed_from_files(&self, folder: &str) -> String {
        let as_of = AS_OF_MS.to_string();
        let mut arguments = vec!["run", "--memory", "--as-of", &as_of, "--export", "files.csv"];
        let sources = STREAMS.map(|stream| format!("{stream}=data/{stream}.jsonl"));
        let dims = ["user_dim", "city_dim"].map(|table| format!("{table}={folder}/{table}.csv"));
        arguments.extend(sources.iter().flat_map(|source| ["--source", source]));
        arguments.extend(dims.iter().flat_map(|table| ["--dims", table]));
        self.ok(&arguments);
        std::fs::read_to_string(self.path("files.csv")).unwrap()
    }

    /// Settings of a process of a group.
    pub fn settings(kafka: &Kafka, group: &str) -> Vec<String> {
        vec![
            format!("kafka.bootstrap.servers={}", kafka.servers()),
            format!("kafka.group.id={group}"),
            "kafka.session.timeout.ms=6000".to_owned(),
            "kafka.heartbeat.interval.ms=1000".to_owned(),
            "window.close_ms=500".to_owned(),
            "clock.mode=fixed".to_owned(),
            "source.commit_ahead_rows_max=300".to_owned(),
        ]
    }

    /// Loads the dimension tables.
    pub fn load_dimensions(&self, settings: &[String]) {
        self.load_dimensions_of("data", settings);
    }

    /// Loads the dimension tables of a folder.
    pub fn load_dimensions_of(&self, folder: &str, settings: &[String]) {
        for table in ["user_dim", "city_dim"] {
            let file = format!("{folder}/{table}.csv");
            self.ok_with(&["dims", "load", table, &file], settings);
        }
    }

    /// Starts a process of the group.
    pub fn start(&self, name: &str, settings: &[String]) -> Process {
        let as_of = AS_OF_MS.to_string();
        self.start_with(name, &["--as-of", &as_of], settings)
    }

    /// Starts `run` with these arguments.
    pub fn start_with(&self, name: &str, arguments: &[&str], settings: &[String]) -> Process {
        let arguments: Vec<&str> =
            std::iter::once("run").chain(arguments.iter().copied()).collect();
        Process::start(name, self.dir.path(), &mut self.command(&arguments, settings))
    }

    /// Ends a process as an operator would; it must end well.
    pub fn stop(process: Process) {
        process.stop(END_MAX);
    }

    fn export(&self, settings: &[String]) -> String {
        let as_of = AS_OF_MS.to_string();
        self.ok_with(&["export", "--out", "store.csv", "--as-of", &as_of], settings);
        std::fs::read_to_string(self.path("store.csv")).unwrap()
    }

    /// Whether every tag of every user is what is expected, as the store is now.
    pub fn is_equal(&self, settings: &[String]) -> bool {
        self.export(settings) == self.expected
    }

    /// From now on topics of the tables' names keep the dimension tables; the one that is looked up by
    /// uid is cached.
    pub fn keep_tables_by_topics(&self) {
        for file in walk(&self.path("tags/dimensions")) {
            let text = std::fs::read_to_string(&file).unwrap();
            let documents = text.split("---\n").map(|document| {
                let table = document.lines().find_map(|line| line.strip_prefix("table: "));
                let name = document.lines().find_map(|line| line.strip_prefix("dimension: "));
                let topic = self.topic(table.or(name).unwrap());
                let strategy = if document.contains("key: uid") { "cached" } else { "preload" };
                let document =
                    document.replace("strategy: preload", &format!("strategy: {strategy}"));
                format!("{}\ntopic: {topic}\n", document.trim_end())
            });
            std::fs::write(&file, documents.collect::<Vec<_>>().join("---\n")).unwrap();
        }
    }

    /// Compares every tag of every user of a store with the run over files.
    #[track_caller]
    pub fn assert_equal(&self, settings: &[String]) {
        let got = self.export(settings);
        if got != self.expected {
            panic!("the stores differ: {}", differences(&got, &self.expected));
        }
    }
}

/// Of how many users tags differ, and which of the first ones.
fn differences(got: &str, expected: &str) -> String {
    const SHOWN: usize = 5;
    let header: Vec<&str> = expected.lines().next().unwrap_or_default().split(',').collect();
    let by_uid = |text: &str| -> BTreeMap<String, String> {
        let rows = text.lines().skip(1).filter_map(|line| line.split_once(','));
        rows.map(|(uid, tags)| (uid.to_owned(), tags.to_owned())).collect()
    };
    let (got, expected) = (by_uid(got), by_uid(expected));
    let uids: BTreeSet<&String> = got.keys().chain(expected.keys()).collect();
    let differ: Vec<&String> =
        uids.into_iter().filter(|u| got.get(*u) != expected.get(*u)).collect();
    let shown = differ.iter().take(SHOWN).map(|uid| {
        let (Some(got), Some(expected)) = (got.get(*uid), expected.get(*uid)) else {
            return format!("\nuser {uid}: there {}", got.contains_key(*uid));
        };
        let tags = got.split(',').zip(expected.split(',')).zip(header.iter().skip(1));
        let tags = tags.filter(|((got, expected), _)| got != expected).take(4 * SHOWN);
        let tags = tags.map(|((got, expected), tag)| format!(" {tag} {got} not {expected}"));
        format!("\nuser {uid}:{}", tags.collect::<String>())
    });
    format!("{} users{}", differ.len(), shown.collect::<String>())
}

/// The uid of a line, as its producer knows it; damaged lines have none.
pub fn uid(line: &[u8]) -> &[u8] {
    let text = br#""uid":"#;
    let Some(at) = line.windows(text.len()).position(|w| w == text) else { return b"none" };
    let rest = line[at + text.len()..].trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 { b"none" } else { &rest[..digits] }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn shown(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
