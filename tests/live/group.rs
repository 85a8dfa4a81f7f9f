//! Topics into HBase by processes of one group: whatever happens to them, the store is the one that an
//! uninterrupted run over the same events gives, cell for cell.

use std::time::Duration;

use serde_json::Value;
use tagloom::store::Store;
use tagloom::store::hbase::{HbaseStore, TagCell};

use crate::rig::hbase::Hbase;
use crate::rig::kafka::Kafka;
use crate::rig::portrait::{AS_OF_MS, MOVED_TAG, Portrait, REMOVED_TAG, STREAMS};
use crate::rig::process::Process;
use crate::rig::served::Served;
use crate::rig::{free_ports, wait_until};

const USERS: u32 = 2_000;
const EVENTS: u32 = 20_000;
const PARTITIONS: i32 = 8;
const CAUGHT_UP: Duration = Duration::from_secs(240);

/// What a process may take while it waits for servers: nothing piles up.
const PEAK_MB_MAX: u64 = 400;

/// Both servers, a workload, and a store that is made.
pub struct Group {
    pub kafka: Kafka,
    pub hbase: Hbase,
    pub portrait: Portrait,
    name: &'static str,
}

impl Group {
    pub fn start(name: &'static str) -> Self {
        Self::of(name, USERS, EVENTS)
    }

    /// The same with so many users and events.
    fn of(name: &'static str, users: u32, events: u32) -> Self {
        let (kafka, hbase) = (Kafka::start(), Hbase::start());
        let portrait = Portrait::new(name, users, events);
        let group = Self { kafka, hbase, portrait, name };
        group.portrait.ok_with(&["store", "init"], &group.settings());
        for stream in STREAMS {
            group.kafka.create(&group.portrait.topic(stream), PARTITIONS);
        }
        group.portrait.load_dimensions(&group.settings());
        group
    }

    pub fn settings(&self) -> Vec<String> {
        let options = self.hbase.options(self.name);
        let mut settings = Portrait::settings(&self.kafka, self.name);
        settings.push("store.kind=hbase".to_owned());
        settings.push(format!("store.hbase.gateways={}", options.gateways));
        settings.push(format!("store.hbase.prefix={}", options.prefix));
        settings
    }

    /// One that answers over HTTP, with settings of its own.
    pub fn serving(&self, name: &str, settings: &[&str]) -> Served {
        let [port] = free_ports();
        let mut all = self.settings();
        all.push(format!("serve.listen=127.0.0.1:{port}"));
        all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let as_of = AS_OF_MS.to_string();
        let process = self.portrait.start_with(name, &["--serve", "--as-of", &as_of], &all);
        Served::new(process, port)
    }

    pub fn process(&self, name: &str) -> Process {
        self.portrait.start(name, &self.settings())
    }

    /// Sends a part of every stream: from this share of its lines on, up to that one, in percent.
    pub fn send(&self, from: usize, to: usize) {
        for stream in STREAMS {
            let text = std::fs::read(self.portrait.path("data").join(format!("{stream}.jsonl")));
            let lines = text.unwrap().iter().filter(|b| **b == b'\n').count();
            let (skip, end) = (lines * from / 100, lines * to / 100);
            self.portrait.send_part(&self.kafka, stream, skip, end - skip);
        }
    }

    /// The store, read as any other process may.
    pub fn store(&self) -> HbaseStore {
        HbaseStore::open_existing(&self.hbase.options(self.name)).unwrap()
    }

    /// What `tagloom catalog` says.
    pub fn catalog(&self) -> Value {
        let text = self.portrait.ok_with(&["catalog", "--json"], &self.settings());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub fn wait_recomputed(&self, version: u64) {
        wait_until("everybody is computed by the active rules", CAUGHT_UP, || {
            let said = self.catalog();
            said["active"] == version && said["recomputed"] == true
        });
    }

    /// Waits until the last record of a stream is committed, in a topic that is also written in transactions.
    pub fn wait_read(&self, stream: &str) {
        self.kafka.wait_read(self.name, &self.portrait.topic(stream), CAUGHT_UP);
    }

    pub fn wait_committed(&self) {
        self.kafka.wait_committed(self.name, &self.portrait.topics(), CAUGHT_UP);
    }

    /// How many users have a value in a tag's cell.
    pub fn filled_cells(&self, tag: &str) -> usize {
        let id = self.portrait.id_of(tag);
        let rows = self.store().scan_checked(None, usize::MAX).unwrap();
        let is_filled = |cell: &TagCell| !cell.value.is_empty();
        rows.iter().filter(|row| row.cells.get(&id).is_some_and(is_filled)).count()
    }

    /// What `tagloom backfill` says; it must end well.
    pub fn backfill(&self) -> Value {
        let text = self.portrait.ok_with(&["backfill", "--json"], &self.settings());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Users in the store.
    pub fn users(&self) -> usize {
        self.store().scan_profiles(None, usize::MAX).unwrap().len()
    }

    /// Every tag of every user is what the files give, and every cell says what the profile does.
    #[track_caller]
    pub fn assert_equal(&self) {
        self.portrait.assert_equal(&self.settings());
        self.portrait.ok_with(&["store", "check"], &self.settings());
    }
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn a_process_that_is_killed_ten_times_leaves_the_store_of_one_that_was_not() {
    let group = Group::of("kill", 20_000, 200_000);
    group.send(0, 100);
    for kill in 0..10_u64 {
        let process = group.process("killed");
        // Its predecessor's session has to end before it is given partitions.
        std::thread::park_timeout(Duration::from_millis(6_500 + (kill * 7_919) % 2_500));
        process.kill();
    }
    let process = group.process("last");
    group.wait_committed();
    Portrait::stop(process);
    group.assert_equal();
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn processes_that_join_leave_and_freeze_give_one_store() {
    let group = Group::start("join");
    let first = group.process("first");
    group.send(0, 30);
    let second = group.process("second");
    group.send(30, 50);
    // Both read what they have, the one that had to give some of it up as well.
    group.wait_committed();
    // Beyond its session: others take its partitions over. Then it goes on as if nothing had been.
    second.signal("STOP");
    group.send(50, 70);
    std::thread::park_timeout(Duration::from_secs(9));
    second.signal("CONT");
    group.send(70, 85);
    std::thread::park_timeout(Duration::from_secs(3));
    Portrait::stop(first);
    group.send(85, 100);
    group.wait_committed();
    Portrait::stop(second);
    group.assert_equal();
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn servers_that_go_and_come_back_cost_nothing_but_time() {
    let mut group = Group::start("away");
    let process = group.process("patient");
    group.send(0, 30);
    group.hbase.kill_server();
    group.send(30, 50);
    std::thread::park_timeout(Duration::from_secs(5));
    group.hbase.start_server();
    group.hbase.wait_ready();
    group.wait_committed();
    group.hbase.kill_gateway(0);
    group.send(50, 70);
    std::thread::park_timeout(Duration::from_secs(60));
    group.hbase.start_gateway(0);
    group.hbase.wait_ready();
    group.kafka.kill_broker();
    std::thread::park_timeout(Duration::from_secs(3));
    group.kafka.start_broker();
    group.send(70, 100);
    group.wait_committed();
    let peak_mb = Process::peak_mb_of(process.pid()).unwrap();
    assert!(peak_mb < PEAK_MB_MAX, "{peak_mb} MB");
    Portrait::stop(process);
    group.assert_equal();
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn a_catalogue_that_changes_while_two_processes_run_is_numbered_once_and_reaches_everybody() {
    let mut group = Group::start("rules");
    let (first, second) = (group.process("first"), group.process("second"));
    group.send(0, 60);
    group.wait_committed();
    assert!(group.filled_cells(REMOVED_TAG) > 0);
    // Both watch the directory.
    group.portrait.change_catalog();
    group.send(60, 80);
    group.wait_recomputed(2);
    group.send(80, 100);
    group.wait_committed();
    assert_eq!(group.catalog()["versions"].as_array().unwrap().len(), 2);
    Portrait::stop(first);
    Portrait::stop(second);
    group.assert_equal();
    assert!(group.filled_cells(MOVED_TAG) > 0);
    assert_eq!(group.filled_cells(REMOVED_TAG), 0);
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn a_backfill_is_carried_out_by_the_owners_while_events_come_and_without_owners_by_itself() {
    let mut group = Group::start("back");
    let (first, second) = (group.process("first"), group.process("second"));
    group.send(0, 50);
    group.wait_committed();
    let before = group.users();
    group.send(50, 100);
    let said = group.backfill();
    assert_eq!(
        (&said["command"], &said["done"], &said["partitions"]),
        (&1.into(), &8.into(), &8.into())
    );
    group.wait_committed();
    let after = group.users();
    let computed = usize::try_from(said["users"].as_u64().unwrap()).unwrap();
    assert!((before..=after).contains(&computed), "{said}: {before} to {after} users");
    Portrait::stop(first);
    Portrait::stop(second);
    group.assert_equal();

    // Nobody runs: other rules become active, and everybody is computed by them.
    group.portrait.change_catalog();
    let said = group.backfill();
    assert_eq!((&said["command"], &said["users"]), (&2.into(), &after.into()), "{said}");
    assert_eq!(group.catalog()["recomputed"], true);
    group.assert_equal();
    assert_eq!(group.filled_cells(REMOVED_TAG), 0);
}
