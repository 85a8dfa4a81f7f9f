//! Memory stays bounded: users who were not needed lately leave it and come back from the store, a
//! window closes before its users take too much, a user with very many events is bounded by itself, and
//! nothing of it shows in what is stored.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use tagloom::catalog::place::Files;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Options, Reads, Report};
use tagloom::serve::read::Reader;
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store, Uid, UidKey};
use tagloom::user::snapshot::decode_tags;
use tagloom::write::canonical;

const USERS: u64 = 3_000;
const START_MS: u64 = 1_700_000_000_000;

fn shop() -> Arc<Ruleset> {
    support::ruleset(&[
        ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n"),
        (
            "streams/buy.yaml",
            "stream: buy\ndoc: d\nfrom: {file: x, format: json}\ncolumns:\n  id: {type: string}\n  \
             user: {type: u64}\n  at: {type: timestamp(ms)}\n  price: {type: \"decimal(9,2)\"}\n  \
             note: {type: \"string?\"}\nuid: user\ntime: at\ndedupe: {by: id}\nmode: append\n",
        ),
        (
            "features/spent.yaml",
            "feature: spent\ndoc: d\nstream: buy\nvalue: sum(price)\nwindow: lifetime\n---\n\
             feature: spent_7d\ndoc: d\nstream: buy\nvalue: sum(price)\nwindow: 7d\n---\n\
             feature: last_note\ndoc: d\nstream: buy\nvalue: last(note)\nwindow: lifetime\n",
        ),
        (
            "rules/spent.yaml",
            "tag: spent_ever\ndoc: d\nowner: o\ngroup: g\nexpr: spent\n---\n\
             tag: spent_now\ndoc: d\nowner: o\ngroup: g\nexpr: spent_7d\n---\n\
             tag: said\ndoc: d\nowner: o\ngroup: g\nexpr: last_note\n",
        ),
    ])
}

/// Events of users all over the place, one in nine of them twice.
fn lines(events: u64) -> String {
    let mut text = String::new();
    for at in 0..events {
        let id = if at % 9 == 0 { at / 2 } else { at };
        // The golden ratio spreads what follows each other.
        let user = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % USERS;
        let at_ms = START_MS + id * 60_000;
        let (price, note) = (id % 50, id % 7);
        writeln!(
            text,
            r#"{{"id":"e{id}","user":{user},"at":{at_ms},"price":{price}.25,"note":"n{note}"}}"#
        )
        .unwrap();
    }
    text
}

fn in_memory(ruleset: &Ruleset) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(support::identity(ruleset, ClockMode::Event), 1_000))
}

/// Reads a file into a store, within so much memory.
fn run(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    path: &Path,
    resident_bytes_max: usize,
) -> Report {
    let options = options(ruleset, store, path, resident_bytes_max);
    tagloom::engine::run(options, &mut |_| {}).unwrap()
}

fn options(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    path: &Path,
    resident_bytes_max: usize,
) -> Options {
    let spec = support::json_file(path, &[0]);
    let mut options = support::options(ruleset, store, Clock::Event, vec![spec]);
    // Windows close on memory alone.
    options.limits.users_max = usize::MAX;
    options.limits.close_ms = 60_000;
    options.resident_bytes_max = resident_bytes_max;
    options
}

fn dump(ruleset: &Ruleset, store: &Arc<dyn Store>, report: &Report) -> Vec<String> {
    canonical::dump(store.as_ref(), ruleset, report.as_of_ms.unwrap()).unwrap()
}

#[test]
fn a_tenth_of_the_memory_gives_an_equal_store() {
    let ruleset = shop();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, lines(30_000)).unwrap();
    let roomy = in_memory(&ruleset);
    let all = run(&ruleset, &roomy, &path, usize::MAX);
    assert_eq!((all.folds.users, all.resident_users), (USERS, USERS));
    let want = dump(&ruleset, &roomy, &all);

    let budget = usize::try_from(all.resident_bytes).unwrap() / 10;
    let options = FjallOptions::default();
    let identity = support::identity(&ruleset, ClockMode::Event);
    let durable = FjallStore::open(dir.path(), &identity, &options).unwrap();
    for store in [in_memory(&ruleset), Arc::new(durable)] {
        let tight = run(&ruleset, &store, &path, budget);
        assert!(dump(&ruleset, &store, &tight) == want, "the stores differ");
        assert_eq!(tight.folds.users, USERS);
        assert_eq!(tight.folds.counts.repeats, all.folds.counts.repeats);
        assert!(tight.stats.passivated_users > USERS, "{}", tight.stats.passivated_users);
        assert!(tight.windows > 2 * all.windows, "{} windows", tight.windows);
        // Batches under way may come on top of the budget.
        assert!(
            tight.resident_bytes_peak < all.resident_bytes / 2,
            "{}",
            tight.resident_bytes_peak
        );
    }
}

#[test]
fn profiles_that_are_packed_late_are_those_that_windows_pack() {
    let ruleset = shop();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, lines(30_000)).unwrap();
    let late = |store: &Arc<dyn Store>, reads, resident_bytes_max| {
        let mut options = options(&ruleset, store, &path, resident_bytes_max);
        options.reads = reads;
        // The last window's users, and then those whose tags time moves.
        options.then_as_of_ms = Some(i64::try_from(START_MS).unwrap() + 40 * 86_400_000);
        options.limits.users_max = 700;
        tagloom::engine::run(options, &mut |_| {}).unwrap()
    };
    let eager = in_memory(&ruleset);
    let all = late(&eager, Reads::Meanwhile, usize::MAX);
    assert!(all.windows > 5 && all.stats.due_users > 0, "{} windows", all.windows);
    let want = dump(&ruleset, &eager, &all);
    let as_of_day = |store: &Arc<dyn Store>| {
        let rows = store.scan_profiles(None, usize::MAX).unwrap();
        rows.iter().map(|(_, row)| decode_tags(row).unwrap().head.as_of_ms / 86_400_000).max()
    };

    let budget = usize::try_from(all.resident_bytes).unwrap() / 10;
    for resident_bytes_max in [usize::MAX, budget] {
        let store = in_memory(&ruleset);
        let end = late(&store, Reads::AtTheEnd, resident_bytes_max);
        assert!(dump(&ruleset, &store, &end) == want, "the stores differ");
        assert_eq!(as_of_day(&store), as_of_day(&eager));
        assert_eq!(end.folds.users, USERS);
        assert_eq!(end.stats.passivated_users > USERS, resident_bytes_max == budget);
        // Each is packed when it leaves, and once more at the end.
        let packed = store.stats().unwrap().cached_bytes;
        assert_eq!(end.packed_bytes == packed, resident_bytes_max == usize::MAX);
        assert!(end.packed_bytes >= packed && all.packed_bytes > 2 * packed);

        let store = in_memory(&ruleset);
        let never = late(&store, Reads::Never, resident_bytes_max);
        assert!(never.profiles > USERS, "{} of all windows", never.profiles);
        let there = store.stats().unwrap().profiles_approximate;
        assert_eq!(there > 0, resident_bytes_max == budget, "only of those who left: {there}");
    }
}

#[test]
fn a_run_that_goes_on_finds_the_users_that_left() {
    let ruleset = shop();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let text = lines(12_000);
    std::fs::write(&path, &text).unwrap();
    let whole = in_memory(&ruleset);
    let all = run(&ruleset, &whole, &path, usize::MAX);
    let want = dump(&ruleset, &whole, &all);

    let store = in_memory(&ruleset);
    let half = text.lines().take(6_000).map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(&path, half).unwrap();
    run(&ruleset, &store, &path, 100_000);
    std::fs::write(&path, text).unwrap();
    let rest = run(&ruleset, &store, &path, 100_000);
    assert!(rest.stats.activated_users > 0);
    assert!(dump(&ruleset, &store, &rest) == want, "the stores differ");
}

/// One user's events: two hundred each day, with times and prices of their own.
fn hot_lines(events: u64) -> String {
    let mut text = String::new();
    for id in 0..events {
        let at_ms = START_MS + id * 432_000;
        let (price, note) = (id % 50, id % 7);
        writeln!(
            text,
            r#"{{"id":"e{id}","user":7,"at":{at_ms},"price":{price}.25,"note":"n{note}"}}"#
        )
        .unwrap();
    }
    text
}

#[test]
fn a_hot_user_stays_within_its_memory_and_says_since_when_dedupe_holds() {
    const STATE_BYTES_MAX: usize = 64 << 10;
    let ruleset = shop();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let mut labels = Vec::new();
    for state_bytes_max in [usize::MAX, STATE_BYTES_MAX] {
        let store = in_memory(&ruleset);
        // A file that grows: the user is changed by each of many windows.
        for part in 1..=8 {
            std::fs::write(&path, hot_lines(part * 2_000)).unwrap();
            let spec = support::json_file(&path, &[0]);
            let mut options = support::options(&ruleset, &store, Clock::Event, vec![spec]);
            options.state_bytes_max = state_bytes_max;
            tagloom::engine::run(options, &mut |_| {}).unwrap();
            let stored = store.profiles(&[UidKey::from_u64(7)]).unwrap().remove(0).unwrap();
            // Tiles of days come on top of rows: some 200 bytes each.
            let bytes_max = STATE_BYTES_MAX + 100 * 200;
            assert!(state_bytes_max == usize::MAX || stored.len() < bytes_max, "{}", stored.len());
        }
        let (rules, now) = (Arc::clone(&ruleset), Arc::new(|| 0));
        let reader =
            Reader::open(rules, Arc::clone(&store), now, &tagloom::dimension::Lookups::default())
                .unwrap();
        let uid = Uid::U64(7);
        let read = reader.read(&uid, None).unwrap();
        let why = reader.why(&uid, "spent_now", None, &Files::default()).unwrap();
        for notes in [read.notes, why.notes] {
            let says =
                notes.iter().any(|note| note.starts_with("repeats are recognised only behind"));
            assert_eq!(says, state_bytes_max == STATE_BYTES_MAX, "{notes:?}");
        }
        labels.push(support::all_labels(&ruleset, store.as_ref()));
    }
    assert_eq!(labels[0], labels[1]);
}
