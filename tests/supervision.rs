//! What happens around the stream of events: a thread that dies, a dimension table loaded anew.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tagloom::dimension::{LoadOptions, TableSpec};
use tagloom::engine::Clock;
use tagloom::store::memory::MemoryStore;
use tagloom::store::*;

const CATALOG: [(&str, &str); 5] = [
    ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy
doc: Bought.
from: {file: buy.jsonl, format: json}
columns:
  user: {type: u64}
  at: {type: timestamp(ms)}
  cents: {type: int}
uid: user
time: at
mode: append
",
    ),
    (
        "features/spent.yaml",
        "feature: spent\ndoc: Spent.\nstream: buy\nvalue: sum(cents)\nwindow: lifetime\n",
    ),
    (
        "dimensions/person.yaml",
        "dimension: person
doc: About the user.
table: person
key: uid
columns: {level: string}
strategy: preload
",
    ),
    (
        "rules/rules.yaml",
        "tag: spent_cents
doc: Spent.
owner: o
group: g
expr: spent
---
tag: level
doc: Level.
owner: o
group: g
expr: person_level
",
    ),
];

fn write_lines(path: &Path, users: std::ops::Range<u64>, cents: u64) {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    for user in users {
        writeln!(text, "{{\"user\":{user},\"at\":1000,\"cents\":{cents}}}").unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// A store whose first multi-get panics.
struct Panicking {
    inner: MemoryStore,
    panicked: AtomicBool,
}

impl Store for Panicking {
    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        assert!(self.panicked.swap(true, Ordering::SeqCst), "a panic made by a test");
        self.inner.profiles(keys)
    }
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }
    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.inner.write_window(window)
    }
    fn scan_profiles(&self, after: Option<&UidKey>, max: usize) -> Result<Vec<(UidKey, Bytes)>> {
        self.inner.scan_profiles(after, max)
    }
    fn due_until(&self, ms: i64, after: Option<DueCursor>, max: usize) -> Result<Vec<DuePack>> {
        self.inner.due_until(ms, after, max)
    }
    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.inner.meta(key)
    }
    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.inner.put_meta(key, value)
    }
    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.inner.scan_meta(prefix)
    }
    fn scan_rejects(&self, after: Option<u64>, max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.inner.scan_rejects(after, max)
    }
    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.inner.dim_begin(table)
    }
    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.inner.dim_put(table, epoch, rows)
    }
    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        self.inner.dim_put_changes(table, epoch, keys)
    }
    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.inner.dim_commit(table, meta)
    }
    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.inner.dim_epochs(table)
    }
    fn dim_tables(&self) -> Result<Vec<String>> {
        self.inner.dim_tables()
    }
    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.inner.dim_get(table, epoch, keys)
    }
    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.inner.dim_scan(table, epoch, after, max)
    }
    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.inner.dim_changes(table, epoch, after, max)
    }
    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.inner.dim_drop(table, epoch)
    }
    fn stats(&self) -> Result<StoreStats> {
        self.inner.stats()
    }
}

#[test]
fn a_shard_that_dies_is_started_again_and_nothing_counts_twice() {
    let ruleset = support::ruleset(&CATALOG);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buy.jsonl");
    let identity = support::identity(&ruleset, ClockMode::Event);
    let inner = MemoryStore::new(identity, 100);
    let panicking = Arc::new(Panicking { inner, panicked: AtomicBool::new(false) });
    let store: Arc<dyn Store> = Arc::clone(&panicking) as Arc<dyn Store>;
    let run = || {
        let source = support::json_file(&path, &[0]);
        let options = support::options(&ruleset, &store, Clock::Event, vec![source]);
        tagloom::engine::run(options, &mut |_| {}).unwrap()
    };
    write_lines(&path, 1..500, 10);
    run();
    // The second run activates users that the store knows: its first multi-get panics.
    write_lines(&path, 1..500, 7);
    run();
    assert!(panicking.panicked.load(Ordering::SeqCst), "the test did what it says");
    let labels = support::all_labels(&ruleset, store.as_ref());
    assert_eq!(labels.len(), 499);
    for (uid, tags) in labels {
        assert_eq!(tags["spent_cents"], "17", "user {uid}");
    }
}

#[test]
fn users_of_changed_dimension_rows_are_computed_again_and_only_they() {
    let ruleset = support::ruleset(&CATALOG);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buy.jsonl");
    let identity = support::identity(&ruleset, ClockMode::Event);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 100));
    let load = |rows: &str| {
        let csv = dir.path().join("person.csv");
        std::fs::write(&csv, format!("uid,level\n{rows}")).unwrap();
        let spec = TableSpec::of(&ruleset.catalog, "person").unwrap();
        let (zone, options) = (&ruleset.catalog.zone, LoadOptions::default());
        tagloom::dimension::load(store.as_ref(), &spec, zone, &csv, &options, 0, &mut |_| {})
            .unwrap();
    };
    let run = || {
        let source = support::json_file(&path, &[0]);
        let options = support::options(&ruleset, &store, Clock::Event, vec![source]);
        tagloom::engine::run(options, &mut |_| {}).unwrap()
    };
    write_lines(&path, 1..100, 10);
    load("1,gold\n2,silver\n3,none\n");
    run();
    let level =
        |uid: u64| support::all_labels(&ruleset, store.as_ref())[&uid].get("level").cloned();
    assert_eq!(level(2).as_deref(), Some("silver"));

    // One row changed, one is new, one went; a row for somebody who has no profile changes nothing.
    load("1,gold\n2,black\n50,new\n7000,nobody\n");
    let report = run();
    assert_eq!(report.profiles, 3, "users 2, 3 and 50");
    assert_eq!(level(1).as_deref(), Some("gold"));
    assert_eq!(level(2).as_deref(), Some("black"));
    assert_eq!(level(3), None);
    assert_eq!(level(50).as_deref(), Some("new"));
    assert_eq!(run().profiles, 0, "the epoch counts as applied");
}
