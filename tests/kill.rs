//! kill -9 at random instants of a run, restarted each time: equal to an uninterrupted run, with all
//! users in memory and with so little of it that they are folded by slices.
//!
//! `KILL_SEED=n` repeats one sequence of instants.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which waits by the machine's clock"
)]

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Kills that must have hit a running process.
const KILLS: u32 = 20;
const SIGTERM: i32 = 15;
const AS_OF_MS: i64 = 1_774_958_400_000;

fn write_streams(dir: &Path, rng: &mut StdRng) {
    let mut consume = String::new();
    let mut cancel = String::new();
    let mut register = String::new();
    for n in 0..60_000u32 {
        let uid = rng.random_range(1..3_000u32);
        let ts = AS_OF_MS - rng.random_range(0..100 * 86_400_000i64);
        // One id in twenty is sent again later, with the same content.
        let id = if n % 20 == 0 { n / 2 } else { n };
        let mut again = StdRng::seed_from_u64(u64::from(id));
        let uid = if n % 20 == 0 { again.random_range(1..3_000u32) } else { uid };
        let ts = if n % 20 == 0 { AS_OF_MS - again.random_range(0..8_640_000_000i64) } else { ts };
        let amount = again.random_range(1..90_000u32);
        let category = again.random_range(0..20u32);
        writeln!(
            consume,
            r#"{{"event_id":"c{n}","uid":{uid},"ts":{ts},"order_id":"o{n}","amount_cents":{amount},"category":"k{category:02}","pay":"card","coupon":{},"sku":{}}}"#,
            n % 3 == 0,
            n % 5_000
        )
        .unwrap();
        if n % 8 == 0 {
            writeln!(
                cancel,
                r#"{{"event_id":"x{n}","uid":{uid},"ts":{ts},"order_id":"o{n}","amount_cents":{amount},"reason":"late"}}"#
            )
            .unwrap();
        }
        if n % 40 == 0 {
            // A broken line: rejects are counted exactly once too.
            consume.push_str("{\"event_id\":\"broken\n");
        }
    }
    for uid in 1..3_000u32 {
        let ts = AS_OF_MS - rng.random_range(0..100 * 86_400_000i64);
        writeln!(
            register,
            r#"{{"event_id":"r{uid}","uid":{uid},"ts":{ts},"channel":"ios","city":"c{:03}","birth_year":1990,"gender":"f","invited_by":null}}"#,
            uid % 200
        )
        .unwrap();
    }
    std::fs::write(dir.join("consume.jsonl"), consume).unwrap();
    std::fs::write(dir.join("cancel.jsonl"), cancel).unwrap();
    std::fs::write(dir.join("register.jsonl"), register).unwrap();
}

fn tagloom(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
    command
        .args(["--catalog", "benches/portrait/catalog", "--set", "window.close_ms=100"])
        .args(["--set", "window.users_max=400", "--set", "source.block_bytes=65536"])
        .args(["--set", "source.batches_under_way_max=4", "--set", "engine.shards=2"])
        .arg("--set")
        .arg(format!("store.path={}", store.display()))
        .env("TAGLOOM_LOG", "error")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What the runs of a test are given beside their sources.
type More<'a> = &'a [&'a str];

fn start(data: &Path, store: &Path, more: More<'_>) -> Child {
    let mut command = tagloom(store);
    command.args(more);
    command.args(["run", "--json", "--as-of", &AS_OF_MS.to_string()]);
    for stream in ["register", "consume", "cancel"] {
        let path = data.join(format!("{stream}.jsonl"));
        command.arg("--source").arg(format!("{stream}={}", path.display()));
    }
    command.spawn().unwrap()
}

fn export(store: &Path, to: &Path) -> String {
    let done = tagloom(store).args(["export", "--out"]).arg(to).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read_to_string(to).unwrap()
}

/// Totals over all runs of the store, from a run that finds nothing new.
fn totals(data: &Path, store: &Path) -> serde_json::Value {
    let done = start(data, store, &[]).wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let value: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    serde_json::json!({ "rejects": value["rejects"], "repeats": value["repeats"] })
}

/// Waits for the end for at most `patience`, then kills, or asks to stop. True: it was killed.
fn kill_after(mut child: Child, patience: Duration, asks: bool) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            let said = child.wait_with_output().unwrap().stderr;
            let said = String::from_utf8_lossy(&said);
            assert!(status.success(), "a restarted run failed: {status}: {said}");
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    if asks {
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        // It may have ended by itself meanwhile.
        // Before it listens, it is ended by the signal.
        let is_ended = ended.status.success() || ended.status.signal() == Some(SIGTERM);
        assert!(!asked.success() || is_ended, "asked to stop: {said}");
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_like_one_that_is_not() {
    check(&[], KILLS);
}

#[test]
fn neither_does_it_matter_while_users_are_folded_by_slices() {
    // A sixth of what they take.
    let more = ["--set", "memory.resident_bytes_max=1000000", "--set", "window.users_max=100000"];
    let said = check(&more, KILLS / 2);
    assert!(said.iter().any(|said| said["slice_rounds"].as_u64() > Some(0)), "{said:?}");
}

/// Kills so many runs that are given more, and gives what those said that ended.
fn check(more: More<'_>, kills_min: u32) -> Vec<serde_json::Value> {
    let seed = std::env::var("KILL_SEED").map_or(7, |s| s.parse().unwrap());
    eprintln!("KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    write_streams(dir.path(), &mut rng);

    let calm = dir.path().join("calm");
    let ended = |store: &Path, more| {
        let done = start(dir.path(), store, more).wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let _: serde_json::Value = ended(&calm, &[]);
    let began = Instant::now();
    let mut said = vec![ended(&dir.path().join("calm too"), more)];
    let took = began.elapsed();
    let expected = export(&calm, &dir.path().join("calm.csv"));
    let expected_totals = totals(dir.path(), &calm);
    assert_eq!(expected.lines().count(), 3_000, "2,999 users and a header");
    assert!(export(&dir.path().join("calm too"), &dir.path().join("too.csv")) == expected);

    let mut kills = 0;
    let mut stores = 0;
    while kills < kills_min {
        let store = dir.path().join(format!("stormy{stores}"));
        stores += 1;
        assert!(stores < 50, "runs end before they can be killed: make the data larger");
        let mut interrupted = 0;
        loop {
            // A killed run stores less than it had time for: leave it some.
            let patience = took.mul_f64(rng.random_range(0.02..0.9));
            // One in four is asked instead.
            let asks = rng.random_range(0..4u8) == 0;
            let began = Instant::now();
            let killed = kill_after(start(dir.path(), &store, more), patience, asks);
            kills += u32::from(killed);
            interrupted += 1;
            if !killed && began.elapsed() < patience {
                break;
            }
            if interrupted >= KILLS {
                said.push(ended(&store, more));
                break;
            }
        }
        let got = export(&store, &dir.path().join("stormy.csv"));
        assert!(got == expected, "store {stores} differs, {interrupted} runs (seed {seed})");
        assert_eq!(totals(dir.path(), &store), expected_totals, "store {stores} (seed {seed})");
    }
    eprintln!("{kills} kills over {stores} stores");
    said
}
