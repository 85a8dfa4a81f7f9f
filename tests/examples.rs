//! The catalogues in `examples/` are right, their cases hold, and they show what they say.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tagloom::catalog::load;
use tagloom::engine::cases::CaseRunner;
use tagloom::engine::direct::Direct;
use tagloom::event::Decoder;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A command over an example; what it prints is JSON.
fn tagloom(example: &str, store: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
    command.args(args).arg("--json").arg("--catalog").arg(folder().join(example));
    command.arg("--set").arg(format!("store.path={}", store.display()));
    let done = command.output().unwrap();
    let shown = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {shown}");
    serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
}

#[test]
fn every_example_is_right_and_its_cases_hold() {
    let mut examples = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        examples += 1;
        let name = path.display();
        let loaded = load(&path).unwrap_or_else(|e| panic!("{e}"));
        let warnings = tagloom::catalog::render(&loaded.warnings, &loaded.files, false);
        assert_eq!(warnings, "", "{name}");
        assert!(loaded.lock_behind.is_empty(), "{name}: `tagloom check --write` is due");
        assert!(!loaded.catalog.cases.is_empty(), "{name} has no cases");
        let mut runner = CaseRunner::new(&loaded.catalog).unwrap();
        for case in &loaded.catalog.cases {
            let report = runner.run(case).unwrap();
            assert!(report.holds(), "{name}: {report:#?}");
        }
    }
    assert!(examples > 0, "no example");
}

#[test]
fn an_account_is_closed_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, input) = (dir.path().join("store"), dir.path().join("account.jsonl"));
    let all = std::fs::read_to_string(folder().join("closing/data/account.jsonl")).unwrap();
    // What is known at the end of each month: who is closed, who was closed, who is open again.
    let months = [
        ("2026-01", [false, false, false], 0, 0),
        ("2026-02", [false, false, true], 1, 0),
        ("2026-03", [false, true, true], 1, 0),
        ("2026-04", [false, true, false], 0, 1),
    ];
    let month_of = |line: &str| {
        let at = serde_json::from_str::<Value>(line).unwrap()["at"].as_str().unwrap().to_owned();
        at[..7].to_owned()
    };
    for (month, closed, newly, again) in months {
        let known = all.lines().filter(|line| *month_of(line) <= *month);
        let lines: String = known.map(|line| format!("{line}\n")).collect();
        std::fs::write(&input, lines).unwrap();
        let source = format!("account={}", input.display());
        let ran = tagloom("closing", &store, &["run", "--source", &source]);
        assert_eq!((&ran["closed_users"], &ran["reopened_users"]), (&newly.into(), &again.into()));
        for (user, closed) in ["1", "2", "3"].iter().zip(closed) {
            let got = tagloom("closing", &store, &["get", user]);
            assert_eq!(got["closed"], closed, "user {user} in {month}");
            assert!(got["tags"]["spend_level"].is_string(), "its tags stay");
        }
    }
    let why = tagloom("closing", &store, &["why", "2", "came_back"]);
    assert_eq!(why["closed"], "account_status = 'closed'");
    for (which, users) in [("include", "123"), ("only", "2"), ("leave-out", "13")] {
        let out = dir.path().join(format!("{which}.csv"));
        let file = out.display().to_string();
        tagloom("closing", &store, &["export", "--out", &file, "--closed", which]);
        let text = std::fs::read_to_string(&out).unwrap();
        assert!(text.starts_with("uid,spend_level,came_back\n"), "{text}");
        let uids: String = text.lines().skip(1).filter_map(|row| row.chars().next()).collect();
        assert_eq!(uids, users, "{which}");
        let later = ["export", "--out", &file, "--closed", which, "--as-of", "2026-06-01T00:00"];
        tagloom("closing", &store, &later);
        assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), users.len() + 1);
    }
}

/// All orders of a few things.
fn orders(things: usize) -> Vec<Vec<usize>> {
    if things == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(things - 1) {
        for at in 0..things {
            let mut longer = shorter.clone();
            longer.insert(at, things - 1);
            all.push(longer);
        }
    }
    all
}

#[test]
fn a_table_that_changes_gives_the_same_tags_in_any_order() {
    let path = folder().join("changelog");
    let loaded = load(&path).unwrap_or_else(|e| panic!("{e}"));
    let files = support::yaml_files(&path);
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let ruleset = support::ruleset(&files);
    let text = std::fs::read_to_string(path.join("data/orders.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let catalog = &loaded.catalog;
    let as_of_ms = catalog.zone.day_start_ms(20_600);
    for order in orders(lines.len()) {
        let identity = support::identity(&ruleset, ClockMode::Fixed);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 10));
        let mut engine =
            Direct::open(Arc::clone(&ruleset), Arc::clone(&store), 2, Arc::new(|| 0)).unwrap();
        let texts = engine.texts();
        let mut decoder = Decoder::new(catalog, &ruleset.layout, &[0], "o", texts, 2).unwrap();
        // All of them, the first half again.
        for at in order.iter().chain(&order[..3]) {
            let decoded = decoder.lines(format!("{}\n", lines[*at]).as_bytes(), 1, 0, None);
            assert_eq!(decoded.rejects, []);
            engine.feed("orders", None, decoded).unwrap();
            engine.close(as_of_ms, false).unwrap();
        }
        let labels = support::all_labels(&ruleset, store.as_ref());
        let of = |uid: u64, tag: &str| labels[&uid].get(tag).map_or("", String::as_str);
        assert_eq!((of(1, "order_count"), of(1, "largest_order")), ("1", "60.00"), "{order:?}");
        assert_eq!((of(2, "order_count"), of(2, "largest_order")), ("1", "80.00"), "{order:?}");
    }
}

#[test]
fn a_run_over_a_table_says_what_became_of_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let ran = tagloom("changelog", &store, &["run"]);
    let counts = ["events", "replaced", "deleted", "moved", "older", "repeats", "partly_users"];
    let counts = counts.map(|name| ran[name].as_u64().unwrap());
    // Two rows leave their customer: one comes to another, one is deleted.
    assert_eq!(counts, [7, 1, 2, 1, 0, 0, 0], "{ran}");
    for (user, largest) in [("1", "60.00"), ("2", "80.00")] {
        let got = tagloom("changelog", &store, &["get", user]);
        assert_eq!(got["tags"]["order_count"], "1", "user {user}");
        assert_eq!(got["tags"]["largest_order"], largest, "user {user}");
        assert_eq!(got["partly"], serde_json::json!([]));
    }
}

#[test]
fn a_run_over_debezium_s_records_gives_what_the_database_holds() {
    let dir = tempfile::tempdir().unwrap();
    let records = std::fs::read_to_string(folder().join("debezium/data/orders.jsonl")).unwrap();
    let all: Vec<&str> = records.lines().collect();
    let backwards = all.iter().rev().copied().collect();
    let thirds = (0..all.len()).map(|at| all[at * 5 % all.len()]).collect();
    // Records of one key keep their order in a topic, but nothing depends on it.
    for (nth, lines) in [all.clone(), backwards, thirds].into_iter().enumerate() {
        let lines: Vec<&str> = lines;
        let (store, input) = (dir.path().join(format!("store{nth}")), dir.path().join("orders"));
        std::fs::write(&input, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
        let source = format!("orders={}", input.display());
        let ran = tagloom("debezium", &store, &["run", "--source", &source]);
        assert_eq!((&ran["rows"], &ran["rejected_rows"]), (&22.into(), &0.into()), "{ran}");
        let skipped = &ran["skipped"]["orders"];
        assert_eq!((&skipped["other_tables"], &skipped["tombstones"]), (&5.into(), &2.into()));
        let unread = serde_json::json!(["category", "coupon", "updated_at"]);
        assert_eq!(ran["unread_columns"]["orders"], unread);
        for (user, orders, spend) in [("1001", "1", "0.01"), ("1002", "3", "2.00")] {
            let got = tagloom("debezium", &store, &["get", user]);
            let tags = (&got["tags"]["order_count"], &got["tags"]["spend"]);
            assert_eq!(tags, (&orders.into(), &spend.into()), "user {user}, order {nth}");
        }
    }
}
