//! A first load into HBase: what came before a day from files, by a command that is killed again and
//! again, and the rest from topics. The store is the one that a run over all events gives.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tagloom::store::Store;
use tagloom::store::hbase::HbaseStore;

use crate::group::Group;
use crate::rig::kafka::Record;
use crate::rig::portrait::{AS_OF_MS, Portrait, REMOVED_TAG, STREAMS, uid};
use crate::rig::process::Process;
use crate::rig::wait_until;

/// The first instant of the cut, 2026-02-15 in Asia/Shanghai.
const CUT_MS: i64 = 1_771_084_800_000;

/// How long a command may take to get somewhere.
const SOON: Duration = Duration::from_secs(120);

/// When a line happened; damaged ones do not say.
fn at_ms(line: &[u8]) -> Option<i64> {
    serde_json::from_slice::<Value>(line).ok()?["ts"].as_i64()
}

/// Lines of a stream: those of the history, and those that come live. Some come both ways.
fn split(group: &Group, stream: &str) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let text = std::fs::read(group.portrait.path("data").join(format!("{stream}.jsonl"))).unwrap();
    let (mut history, mut live) = (Vec::new(), Vec::new());
    for (number, line) in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate() {
        let is_old = at_ms(line).is_some_and(|at_ms| at_ms < CUT_MS);
        if is_old {
            history.push(line.to_vec());
        }
        if !is_old || number % 20 == 0 {
            live.push(line.to_vec());
        }
    }
    (history, live)
}

/// The command that merges the history.
fn arguments(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> =
        ["backfill", "--json", "--cut", "2026-02-15"].map(String::from).into();
    for stream in STREAMS {
        all.extend(["--history".to_owned(), format!("{stream}=history-{stream}.jsonl")]);
    }
    all.extend(more.iter().map(|text| (*text).to_owned()));
    all
}

fn start(group: &Group, name: &str) -> Process {
    let arguments = arguments(&["--users-per-s", "250"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = group.portrait.command(&arguments, &group.settings());
    Process::start(name, &group.portrait.path(""), &mut command)
}

/// What the command says, which must end well.
fn done(group: &Group) -> Value {
    let arguments = arguments(&[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = group.portrait.ok_with(&arguments, &group.settings());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What a command says that must be refused.
fn refused(group: &Group, arguments: &[&str]) -> String {
    let output = group.portrait.command(arguments, &group.settings()).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How far the merge is: users, and whether that is all.
fn merged(store: &HbaseStore) -> Option<(u64, bool)> {
    let said = store.meta("job/history").unwrap()?;
    let said: Value = serde_json::from_slice(&said).unwrap();
    Some((said["users"].as_u64().unwrap(), said["ended"].as_bool().unwrap()))
}

/// Rows of files into a store of a group.
const REFUSED: u64 = 50;

fn redriven(group: &Group) -> Value {
    let arguments = ["rejects", "redrive", "--json", "--stream", "consume"];
    let text = group.portrait.ok_with(&arguments, &group.settings());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Files are read into the store, and rows that were refused once more, while no process runs.
fn refused_rows_of_files(group: &Group) {
    let line =
        |row: u64| format!("{{\"event_id\":\"refused{row}\",\"uid\":{row},\"ts\":\"soon\"}}\n");
    let path = group.portrait.path("refused.jsonl");
    std::fs::write(path, (0..REFUSED).map(line).collect::<String>()).unwrap();
    let as_of = AS_OF_MS.to_string();
    let run = ["run", "--source", "consume=refused.jsonl", "--as-of", &as_of];
    group.portrait.ok_with(&run, &group.settings());
    let said = redriven(group);
    assert_eq!(
        (&said["rows"], &said["refused_again"]),
        (&REFUSED.into(), &REFUSED.into()),
        "{said}"
    );
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn a_first_load_of_history_that_is_killed_at_any_instant_and_live_events_equal_one_run() {
    let group = Group::start("history");
    let mut live: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
    for stream in STREAMS {
        let (history, rest) = split(&group, stream);
        let path = group.portrait.path(&format!("history-{stream}.jsonl"));
        let mut file = std::fs::File::create(path).unwrap();
        history.iter().for_each(|line| file.write_all(&[line, &b"\n"[..]].concat()).unwrap());
        live.push((stream, rest));
    }
    let store = HbaseStore::open_existing(&group.hbase.options("history")).unwrap();
    let reached: [(&str, &dyn Fn() -> bool); 4] = [
        ("it has begun", &|| store.meta("catalog/active").unwrap().is_some()),
        ("some users have it", &|| merged(&store).is_some_and(|(users, _)| users > 0)),
        ("more have it", &|| merged(&store).is_some_and(|(users, _)| users > 900)),
        ("all have it", &|| merged(&store).is_some_and(|(_, ended)| ended)),
    ];
    for (number, (what, is_reached)) in reached.iter().enumerate() {
        let mut command = start(&group, &format!("history-{number}"));
        wait_until(what, SOON, || {
            let is_reached = is_reached();
            // It may end when all have it.
            if !is_reached {
                command.must_run();
            }
            is_reached
        });
        command.kill();
        if number == 1 {
            let as_of = AS_OF_MS.to_string();
            let said = refused(&group, &["run", "--as-of", &as_of]);
            assert!(said.contains("a history is merged into this store"), "{said}");
        }
    }
    done(&group);
    let users = store.scan_profiles(None, usize::MAX).unwrap().len();
    assert!(users > 1_500, "{users}");
    assert_eq!(group.catalog()["recomputed"], true);

    refused_rows_of_files(&group);
    let process = group.process("live");
    for (stream, lines) in &live {
        let records =
            lines.iter().map(|line| Record { key: uid(line), value: line, at_ms: AS_OF_MS });
        group.kafka.send(&group.portrait.topic(stream), records);
    }
    group.wait_committed();
    let arguments = arguments(&[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = refused(&group, &arguments);
    assert!(said.contains("has 1 members: stop these processes"), "{said}");
    let said = redriven(&group);
    assert_eq!((&said["rows"], &said["owned"]), (&0.into(), &REFUSED.into()), "others own users");
    Portrait::stop(process);
    group.assert_equal();
    // Twice changes nothing.
    assert_eq!(done(&group)["users"], 0);
    group.assert_equal();
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn users_of_files_follow_rules_and_commands_of_two_processes_before_their_first_record() {
    let mut group = Group::start("offline");
    let as_of = AS_OF_MS.to_string();
    let sources = STREAMS.map(|stream| format!("{stream}=data/{stream}.jsonl"));
    let mut arguments = vec!["run", "--as-of", &as_of];
    arguments.extend(sources.iter().flat_map(|source| ["--source", source]));
    group.portrait.ok_with(&arguments, &group.settings());
    assert_eq!(group.catalog()["recomputed"], true);
    group.assert_equal();
    let users = group.users();
    let (first, second) = (group.process("first"), group.process("second"));
    wait_until("both own users", SOON, || {
        let half = |process: &&Process| {
            process.has_said("[0, 1, 2, 3]") || process.has_said("[4, 5, 6, 7]")
        };
        [&first, &second].iter().all(half)
    });
    group.portrait.change_catalog();
    group.wait_recomputed(2);
    let said = group.backfill();
    assert_eq!((&said["done"], &said["users"]), (&8.into(), &users.into()), "{said}");
    // Files are not read beside owners.
    let said = refused(&group, &arguments);
    assert!(said.contains("run --source has all users to itself"), "{said}");
    // Their first records come to who has them already; what they say is known.
    group.send(0, 30);
    group.wait_committed();
    Portrait::stop(first);
    Portrait::stop(second);
    group.assert_equal();
    assert_eq!(group.filled_cells(REMOVED_TAG), 0);
}
