//! Rejects that are put back while processes of a group run: each counts once, whoever owns its user.

use std::time::Duration;

use serde_json::Value;

use crate::group::Group;
use crate::rig::portrait::Portrait;
use crate::rig::process::Process;

/// Of the command that puts them back, and of the list.
const ONLY: [&str; 4] = ["--stream", "consume", "--reason", "missing"];

/// How many of them are kept.
fn kept(group: &Group) -> u64 {
    let arguments = [&["rejects", "--json", "--limit", "0"][..], &ONLY].concat();
    let shown = group.portrait.ok_with(&arguments, &group.settings());
    serde_json::from_str::<Value>(&shown).unwrap()["kept"].as_u64().unwrap()
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn what_was_refused_is_put_back_while_two_processes_run() {
    let group = Group::start("redrive");
    let path = group.portrait.path("tags/streams/consume.yaml");
    let mended = std::fs::read_to_string(&path).unwrap();
    let wrong = mended.replace("  sku: int\n", "  sku: int\n  shop: string\n");
    assert_ne!(wrong, mended);
    std::fs::write(&path, wrong).unwrap();
    let (first, second) = (group.process("first"), group.process("second"));
    group.send(0, 50);
    group.wait_committed();
    let refused = kept(&group);
    assert!(refused > 5_000, "{refused}");

    // Both watch the directory.
    std::fs::write(&path, &mended).unwrap();
    group.wait_recomputed(2);
    group.send(50, 100);
    let redrive = [&["rejects", "redrive", "--json"][..], &ONLY].concat();
    for kill in 0..3_u64 {
        let mut command = group.portrait.command(&redrive, &group.settings());
        let process = Process::start("redriving", &group.portrait.path(""), &mut command);
        std::thread::park_timeout(Duration::from_millis(1_100 + 430 * kill));
        process.kill();
    }
    let done = group.portrait.ok_with(&redrive, &group.settings());
    eprintln!("{refused} rejects; the last of four commands: {done}");
    group.wait_read("consume");
    group.wait_read("register");
    group.wait_read("cancel");
    Portrait::stop(first);
    Portrait::stop(second);
    group.assert_equal();
    // What is wrong in itself was refused once more, and is kept once.
    let manifest = std::fs::read(group.portrait.path("data/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(kept(&group), manifest["streams"]["consume"]["malformed"]["missing_uid"]);
}
