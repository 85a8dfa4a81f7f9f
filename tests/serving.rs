//! `tagloom run --serve` and `tagloom serve` as processes: from the first event to SIGTERM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/http.rs"]
mod client;
mod shop;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use client::get;
use serde_json::json;
use shop::Shop;

/// Nothing that is waited for takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// A process that serves; killed when a test fails.
struct Serving {
    child: Child,
    at: SocketAddr,
    log: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Serving {
    fn start(shop: &Shop, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.args(args).args(["--set", "serve.listen=127.0.0.1:0"]);
        command.args(["--set", "window.close_ms=100", "--set", "log.format=json"]);
        command.current_dir(shop.0.path()).env_clear();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let at = loop {
            let Some(line) = lines.next() else {
                panic!("it ended: {}", log.lock().unwrap());
            };
            let message: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let said = message["message"].as_str().unwrap_or_default().to_owned();
            *log.lock().unwrap() += &format!("{line}\n");
            if let Some((_, at)) = said.split_once("serving at http://") {
                break at.parse().unwrap();
            }
        };
        let rest = std::sync::Arc::clone(&log);
        std::thread::spawn(move || {
            lines.for_each(|line| *rest.lock().unwrap() += &format!("{line}\n"));
        });
        Self { child, at, log }
    }

    #[track_caller]
    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let watch = tagloom::clock::Stopwatch::start();
        while !is_so() {
            let log = self.log.lock().unwrap().clone();
            assert!(watch.elapsed() < DEADLINE, "not so within a minute: {what}\n{log}");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn user(&self, expect: &serde_json::Value) {
        self.wait_until(&format!("user 7 has {expect}"), || {
            let response = get(self.at, "/v1/users/7");
            response.status == 200 && response.json()["tags"] == *expect
        });
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let watch = tagloom::clock::Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(watch.elapsed() < Duration::from_secs(30), "{}", self.log.lock().unwrap());
            std::thread::yield_now();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_run_answers_follows_the_rules_and_stops_and_a_store_answers_alone() {
    let shop = Shop::new();
    shop.check(&["check", "--write"], 0, &[]);
    let mut run = Serving::start(&shop, &["run", "--serve", "--source", "consume=-"]);
    let event =
        "{\"sku\":\"A\",\"price\":120,\"at\":\"2026-03-01T12:00:00Z\",\"user\":7}\n".repeat(1_000);
    let mut stdin = run.child.stdin.take().unwrap();
    stdin.write_all(event.as_bytes()).unwrap();
    // A block is handed on when it is full or the input ends.
    drop(stdin);
    run.user(&json!({"level": "high", "shelf": "top", "big": true}));
    run.wait_until("it is ready", || get(run.at, "/readyz").status == 200);
    let ready = get(run.at, "/readyz").json();
    let names: Vec<_> =
        ready["conditions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["store", "catalogue", "dimensions", "engine"], "{ready}");
    run.wait_until("the events are counted", || {
        let body = get(run.at, "/metrics").body;
        body.contains("tagloom_events_total{stream=\"consume\"} 1000\n")
            && body.contains("tagloom_source_rows_total 1000\n")
            && body.contains("tagloom_resident_users 1\n")
            && body.contains("tagloom_store_calls_total{call=\"write_window\",outcome=\"ok\"}")
            && body.contains("tagloom_received_to_stored_seconds_count 1000\n")
            && body.contains("tagloom_window_stage_seconds_count{stage=\"tags\"}")
            && body.contains("tagloom_users_computed_total{cause=\"events\"}")
    });
    shop.edit("tags/rules/r.yaml", "cuts: [50]", "cuts: [500000]");
    run.user(&json!({"level": "low", "shelf": "top", "big": false}));
    let version = get(run.at, "/v1/tags").json()["catalog_version"].clone();
    assert_eq!(version, 2);
    assert!(run.terminate().success());

    let alone = Serving::start(&shop, &["serve"]);
    alone.user(&json!({"level": "low", "shelf": "top", "big": false}));
    assert_eq!(get(alone.at, "/v1/tags").json()["catalog_version"], version, "the store's own");
    let why = get(alone.at, "/v1/users/7/tags/level/why").json();
    assert!(why["rule"]["source"].as_str().unwrap().contains("500000"), "{why}");
    let ready = get(alone.at, "/readyz");
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(alone.terminate().success());
}

#[test]
fn what_cannot_be_served_says_why() {
    let shop = Shop::new();
    shop.check(&["serve"], 2, &["there is no store", "tagloom run"]);
    shop.check(&["check", "--write"], 0, &[]);
    shop.check(&["run"], 0, &[]);
    let anywhere = ["serve", "--set", "serve.listen=0.0.0.0:0"];
    shop.check(&anywhere, 2, &["api_keys_file", "allow_anonymous"]);
    let no_keys = ["serve", "--set", "serve.api_keys_file=none"];
    shop.check(&no_keys, 2, &["serve.api_keys_file none"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("serve.listen={}", taken.local_addr().unwrap());
    shop.check(&["serve", "--set", &listen], 1, &["cannot listen", "another port"]);
    shop.check(&["check", "--set", "log.level=tagloom=loud"], 2, &["log.level", "debug"]);
}
