//! `tagloom rejects redrive` over rows of files, killed and run again.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const STREAM: &str = "stream: buy
doc: Bought.
from: {file: buy.jsonl, format: json}
columns:
  user: {type: u64}
  at: {type: timestamp(ms)}
  cents: {type: int}
uid: user
time: at
mode: append
";

/// Good rows, rows of which `cents` is text, and broken ones.
fn write(dir: &Path, rows: u32) {
    std::fs::create_dir_all(dir.join("tags/streams")).unwrap();
    let mut text = String::new();
    for row in 0..rows {
        let user = row % 97;
        let cents = if row % 3 == 0 { format!("\"{row}\"") } else { row.to_string() };
        writeln!(text, "{{\"user\":{user},\"at\":{},\"cents\":{cents}}}", 1_000 + row).unwrap();
        if row % 100 == 0 {
            text.push_str("{\"user\":\n");
        }
    }
    std::fs::write(dir.join("tags/buy.jsonl"), text).unwrap();
    let put = |path: &str, text: &str| std::fs::write(dir.join("tags").join(path), text).unwrap();
    put("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n");
    put("streams/buy.yaml", STREAM);
    for folder in ["features", "rules"] {
        std::fs::create_dir_all(dir.join("tags").join(folder)).unwrap();
    }
    put(
        "features/f.yaml",
        "feature: bought\ndoc: How often.\nstream: buy\nvalue: count()\nwindow: lifetime\n",
    );
    put("rules/r.yaml", "tag: times\ndoc: How often.\nowner: o\ngroup: g\nexpr: bought\n");
    ok(dir, &["check", "--write"]);
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
    command.current_dir(dir).args(arguments).stdin(Stdio::null());
    command
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn ok(dir: &Path, arguments: &[&str]) -> String {
    let output = command(dir, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", shown(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn kept(dir: &Path, reason: &str) -> u64 {
    let shown = ok(dir, &["rejects", "list", "--json", "--reason", reason, "--limit", "0"]);
    serde_json::from_str::<Value>(&shown).unwrap()["kept"].as_u64().unwrap()
}

/// Events of all users.
fn counted(dir: &Path) -> u64 {
    ok(dir, &["export", "--out", "tags.csv"]);
    let mut reader = csv::Reader::from_path(dir.join("tags.csv")).unwrap();
    reader.records().map(|row| row.unwrap()[1].parse::<u64>().unwrap()).sum()
}

#[test]
fn rows_of_files_count_once_after_the_catalogue_is_mended_whenever_it_is_killed() {
    const ROWS: u32 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, ROWS);
    ok(dir, &["run"]);
    assert_eq!((kept(dir, "type"), kept(dir, "malformed")), (10_000, 300));
    assert_eq!(counted(dir), 20_000);

    // Text is what it is to be.
    let mended = STREAM.replace("cents: {type: int}", "cents: {type: string}");
    std::fs::write(dir.join("tags/streams/buy.yaml"), &mended).unwrap();
    let dry = ok(dir, &["rejects", "redrive", "--dry-run", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&dry).unwrap()["rows"], 10_300);
    assert_eq!((kept(dir, "type"), counted(dir)), (10_000, 20_000));
    for after_ms in [5, 60, 120, 200, 300] {
        let mut child =
            command(dir, &["rejects", "redrive"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(Duration::from_millis(after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    ok(dir, &["rejects", "redrive"]);
    assert_eq!(counted(dir), 30_000, "each row once");
    assert_eq!(kept(dir, "type"), 0);
    assert_eq!(kept(dir, "malformed"), 300, "no catalogue makes rows of them");
    let left = std::fs::read_dir(dir.join(".tagloom/redrive")).unwrap().count();
    assert_eq!(left, 0, "files that were read are gone");
}
