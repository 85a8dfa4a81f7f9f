//! What happens around the stream of events: a thread that dies, a dimension table loaded anew.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tagloom::dimension::{LoadOptions, TableSpec};
use tagloom::engine::{Clock, EngineError, Options, Reads};
use tagloom::store::intercepted::{Call, Intercepted};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};

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

#[test]
fn a_shard_that_dies_is_started_again_and_nothing_counts_twice() {
    let ruleset = support::ruleset(&CATALOG);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buy.jsonl");
    let identity = support::identity(&ruleset, ClockMode::Event);
    let panicked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&panicked);
    // The first multi-get panics.
    let gate = move |call| {
        assert!(
            call != Call::Profiles || seen.swap(true, Ordering::SeqCst),
            "a panic made by a test"
        );
        Ok(())
    };
    let inner = Arc::new(MemoryStore::new(identity, 100));
    let store: Arc<dyn Store> = Arc::new(Intercepted::new(inner, gate));
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
    assert!(panicked.load(Ordering::SeqCst), "the test did what it says");
    let labels = support::all_labels(&ruleset, store.as_ref());
    assert_eq!(labels.len(), 499);
    for (uid, tags) in labels {
        assert_eq!(tags["spent_cents"], "17", "user {uid}");
    }
}

#[test]
fn a_shard_that_dies_with_profiles_that_are_nowhere_else_ends_the_run() {
    let ruleset = support::ruleset(&CATALOG);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buy.jsonl");
    let identity = support::identity(&ruleset, ClockMode::Event);
    let reads = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&reads);
    let gate = move |call| {
        assert!(
            call != Call::Profiles || seen.fetch_add(1, Ordering::SeqCst) > 0,
            "a panic made by a test"
        );
        Ok(())
    };
    let inner = Arc::new(MemoryStore::new(identity, 100));
    let store: Arc<dyn Store> = Arc::new(Intercepted::new(inner, gate));
    let run = |reads| {
        let source = support::json_file(&path, &[0]);
        let options = support::options(&ruleset, &store, Clock::Event, vec![source]);
        tagloom::engine::run(Options { reads, shards: 1, ..options }, &mut |_| {})
    };
    write_lines(&path, 1..500, 10);
    run(Reads::Meanwhile).unwrap();
    write_lines(&path, 1..500, 7);
    // Started again it would go on without what was in memory.
    let ended = run(Reads::AtTheEnd);
    assert!(matches!(ended, Err(EngineError::ActorGone("shard"))), "{ended:?}");
    assert_eq!(reads.load(Ordering::SeqCst), 1, "nobody tried again");
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
