//! The query service over real HTTP: answers, errors, limits, keys.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/http.rs"]
mod client;
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use tagloom::catalog::place::Files;
use tagloom::config::ServeConfig;
use tagloom::dimension::Lookups;
use tagloom::engine::Clock;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::swap::{Active, Swaps};
use tagloom::serve::http::Server;
use tagloom::serve::published::UserBody;
use tagloom::serve::readers::Readers;
use tagloom::serve::why::Why;
use tagloom::store::intercepted::{Call, Intercepted};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store, StoreError};
use tagloom::telemetry::ready::Conditions;

use client::{Response, get, post, send};

/// 2026-03-31 12:00 UTC.
const AS_OF_MS: i64 = 1_774_958_400_000;
const DAY_MS: i64 = 86_400_000;

const RULES: &str = "tag: level
doc: How much was spent in 30 days.
owner: growth
group: value
meta: {team: a}
bands: {of: spend_30d, cuts: [50, 200], labels: [low, mid, high]}
---
tag: big
doc: Spent more than 100 at any time.
expr: spend_lifetime > 100
---
tag: spent
doc: All that was spent.
expr: spend_lifetime
---
tag: orders
doc: Number of orders.
deprecated: use spent
expr: order_count
---
tag: cities
doc: The last cities.
expr: last_cities
---
tag: last_day
doc: The last day.
expr: CAST(last_bought AS date)
---
tag: hidden
doc: Not yet for others.
shadow: true
expr: order_count > 1
";

fn catalogue(uid: &str, rules: &str) -> Arc<Ruleset> {
    support::ruleset(&[
        ("catalog.yaml", &format!("name: test\nuid: {uid}\ntimezone: UTC\n")),
        (
            "streams/s.yaml",
            &format!(
                "stream: consume\nfrom: {{file: consume.jsonl}}\ncolumns: {{user: {uid}, at: \
                 timestamp(ms), amount: 'decimal(12,2)', city: string}}\nuid: user\ntime: at\n"
            ),
        ),
        (
            "features/f.yaml",
            "feature: spend_{span}\nstream: consume\nvalue: sum(amount)\nwindow: '{span}'\nmatrix: \
             {span: [30d, lifetime]}\n---\nfeature: order_count\nstream: consume\nvalue: count()\nwindow: \
             lifetime\n---\nfeature: last_cities\nstream: consume\nvalue: recent(city, 2)\nwindow: \
             lifetime\n---\nfeature: last_bought\nstream: consume\nvalue: last_time()\nwindow: \
             lifetime\n",
        ),
        ("rules/r.yaml", rules),
    ])
}

/// (user as JSON, days before the instant, amount, city).
type Event = (&'static str, i64, &'static str, &'static str);

const NUMBERS: &[Event] = &[
    ("1", 1, "120.50", "York"),
    ("1", 29, "100.00", "Bath"),
    ("2", 2, "49.99", "Bath"),
    ("18446744073709551615", 3, "1", "Hull"),
];

/// A store in which events are computed as of the instant.
fn store(ruleset: &Arc<Ruleset>, clock: ClockMode, events: &[Event]) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(support::identity(ruleset, clock), 1000));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("consume.jsonl");
    let line = |(user, days, amount, city): &Event| {
        let at = AS_OF_MS - days * DAY_MS;
        format!("{{\"user\":{user},\"at\":{at},\"amount\":{amount},\"city\":\"{city}\"}}\n")
    };
    std::fs::write(&path, events.iter().map(line).collect::<String>()).unwrap();
    let sources = vec![support::json_file(&path, &[0])];
    let options = support::options(ruleset, &store, Clock::Fixed(AS_OF_MS), sources);
    tagloom::engine::run(options, &mut |_| {}).unwrap();
    store
}

struct Service {
    server: Server,
    swaps: Swaps,
}

impl Service {
    fn at(&self) -> SocketAddr {
        self.server.address()
    }

    #[track_caller]
    fn get(&self, path: &str) -> Response {
        get(self.at(), path)
    }
}

fn config() -> ServeConfig {
    ServeConfig { listen: "127.0.0.1:0".to_owned(), workers: 1, ..ServeConfig::default() }
}

fn serve(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>, config: &ServeConfig) -> Service {
    serve_with(ruleset, store, config, Conditions::default())
}

fn serve_with(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    config: &ServeConfig,
    conditions: Conditions,
) -> Service {
    let active = Active { ruleset: Arc::clone(ruleset), files: Arc::new(Files::default()) };
    let swaps = Swaps::default().beginning_with(active.clone());
    let readers =
        Readers::beside(active, swaps.clone(), Arc::clone(store), Lookups::default()).unwrap();
    let server = Server::start(config, Arc::new(readers), conditions).unwrap();
    Service { server, swaps }
}

/// A service over numbered users, computed as of the instant.
fn shop() -> Service {
    let ruleset = catalogue("u64", RULES);
    serve(&ruleset, &store(&ruleset, ClockMode::Fixed, NUMBERS), &config())
}

#[track_caller]
fn check_problem(response: &Response, status: u16, kind: &str, detail: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), "application/problem+json", "{response:?}");
    let problem = response.json();
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["title"].as_str().is_some_and(|t| !t.is_empty()), "{problem}");
    let said = problem["detail"].as_str().unwrap();
    assert!(said.contains(detail), "{said} does not say {detail}");
}

#[test]
fn a_user_s_tags_are_typed_and_shadow_tags_are_not_there() {
    let response = shop().get("/v1/users/1");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), "application/json");
    let user = response.json();
    assert_eq!(
        user["tags"],
        json!({
            "level": "high", "big": true, "spent": 220.50, "orders": 2,
            "cities": ["York", "Bath"], "last_day": "2026-03-30",
        })
    );
    assert!(response.body.contains("\"spent\":220.50"), "all digits: {}", response.body);
    let body: UserBody = serde_json::from_str(&response.body).unwrap();
    assert_eq!((body.as_of_ms, body.evaluated), (AS_OF_MS, false));
    assert_eq!((body.marks.len(), body.notes.len(), body.version), (0, 0, 1));
    assert_eq!(body.due_ms, Some(AS_OF_MS - AS_OF_MS % DAY_MS + DAY_MS), "29 days become 30");
}

#[test]
fn some_tags_and_the_greatest_uid() {
    let shop = shop();
    let user = shop.get("/v1/users/18446744073709551615?tags=level,big,level").json();
    assert_eq!(user["tags"], json!({"level": "low", "big": false}));
    assert_eq!(user["uid"], "18446744073709551615");
    let head = send(shop.at(), "HEAD", "/v1/users/1", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn a_due_user_is_evaluated_as_of_the_read() {
    let shop = shop();
    let later = AS_OF_MS + 2 * DAY_MS;
    let user = shop.get(&format!("/v1/users/1?as_of={later}&tags=level,spent")).json();
    assert_eq!(user["tags"], json!({"level": "mid", "spent": 220.50}), "100.00 has left the span");
    assert_eq!((&user["evaluated"], &user["as_of_ms"]), (&json!(true), &json!(later)));
    assert_eq!(user["stored_as_of_ms"], AS_OF_MS);
    let iso = shop.get("/v1/users/1?as_of=2026-04-02T12:00:00Z&tags=level,spent").json();
    assert_eq!(iso["tags"], user["tags"]);
    // Nobody is due an instant later: as stored.
    let soon = AS_OF_MS + 1;
    let user = shop.get(&format!("/v1/users/1?as_of={soon}")).json();
    assert_eq!((&user["evaluated"], &user["as_of_ms"]), (&json!(false), &json!(soon)));
    let back = shop.get(&format!("/v1/users/1?as_of={}", AS_OF_MS - 1));
    check_problem(&back, 409, "as-of-back", "as-of never goes back");
}

#[test]
fn by_the_wall_clock_a_user_whose_instant_has_passed_is_evaluated() {
    let ruleset = catalogue("u64", RULES);
    let store = store(&ruleset, ClockMode::Wall, NUMBERS);
    let service = serve(&ruleset, &store, &config());
    let user = service.get("/v1/users/1?tags=level,spent").json();
    let is_due = tagloom::clock::wall_ms() >= AS_OF_MS - AS_OF_MS % DAY_MS + DAY_MS;
    assert_eq!(user["evaluated"], is_due, "{user}");
    let batch = post(service.at(), "/v1/users:batchGet", r#"{"uids":[1,2]}"#).json();
    assert_eq!(batch["users"][0]["user"]["evaluated"], is_due, "{batch}");
    assert_eq!(batch["users"][0]["user"]["tags"]["level"], user["tags"]["level"]);
}

#[test]
fn an_etag_names_an_answer() {
    let shop = shop();
    let first = shop.get("/v1/users/1");
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let known = |etag: &str, path: &str| {
        let response = send(shop.at(), "GET", path, &[("If-None-Match", etag)], "");
        if response.status == 304 {
            assert_eq!((response.header("etag"), response.body.as_str()), (etag_of(etag), ""));
        }
        response.status
    };
    assert_eq!(known(&etag, "/v1/users/1"), 304);
    assert_eq!(known(&format!("W/{etag}"), "/v1/users/1"), 304);
    assert_eq!(known("\"other\"", "/v1/users/1"), 200);
    assert_eq!(known(&etag, "/v1/users/1?tags=level"), 200, "other tags");
    assert_eq!(known(&etag, "/v1/users/2"), 200, "another user");
    let later = format!("/v1/users/1?as_of={}", AS_OF_MS + 1);
    assert_eq!(known(&etag, &later), 200, "another instant");
}

fn etag_of(known: &str) -> &str {
    known.strip_prefix("W/").unwrap_or(known)
}

#[test]
fn a_batch_keeps_the_order_and_marks_the_unknown() {
    let shop = shop();
    let body = r#"{"uids": [2, "77", "1", 2], "tags": ["level"]}"#;
    let response = post(shop.at(), "/v1/users:batchGet", body);
    assert_eq!(response.status, 200, "{response:?}");
    let batch: tagloom::serve::http::BatchAnswer = serde_json::from_str(&response.body).unwrap();
    let seen: Vec<(&str, bool, Option<&Value>)> = batch
        .users
        .iter()
        .map(|u| (u.uid.as_str(), u.found, u.user.as_ref().map(|u| &u.tags["level"])))
        .collect();
    let (low, high) = (json!("low"), json!("high"));
    let expect = [
        ("2", true, Some(&low)),
        ("77", false, None),
        ("1", true, Some(&high)),
        ("2", true, Some(&low)),
    ];
    assert_eq!(seen, expect);
    assert_eq!(
        post(shop.at(), "/v1/users:batchGet", r#"{"uids":[]}"#).json(),
        json!({"users": []})
    );
}

#[test]
fn why_says_what_get_says() {
    let shop = shop();
    let response = shop.get("/v1/users/1/tags/level/why");
    assert_eq!(response.status, 200, "{response:?}");
    let why: Why = serde_json::from_str(&response.body).unwrap();
    assert_eq!((why.tag.as_str(), why.value.as_deref()), ("level", Some("high")));
    assert_eq!(why.inputs[0].name, "spend_30d");
    check_problem(&shop.get("/v1/users/9/tags/level/why"), 404, "unknown-user", "no user `9`");
    check_problem(
        &shop.get("/v1/users/1/tags/levl/why"),
        404,
        "unknown-tag",
        "did you mean `level`",
    );
    check_problem(&shop.get("/v1/users/1/tags/hidden/why"), 404, "unknown-tag", "shadow tag");
}

#[test]
fn the_catalogue_is_listed() {
    let tags = shop().get("/v1/tags").json();
    let names: Vec<_> = tags["tags"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert_eq!(names, ["level", "big", "spent", "orders", "cities", "last_day"]);
    let level = &tags["tags"][0];
    assert_eq!(level["labels"], json!(["low", "mid", "high"]));
    assert_eq!((&level["owner"], &level["meta"]["team"]), (&json!("growth"), &json!("a")));
    let kinds: Vec<_> = tags["tags"].as_array().unwrap().iter().map(|t| &t["type"]).collect();
    assert_eq!(kinds, ["label", "bool", "decimal", "int", "list", "date"]);
    assert_eq!(tags["tags"][3]["deprecated"], "use spent");
}

#[test]
fn what_cannot_be_answered_is_a_problem_that_teaches() {
    let shop = shop();
    let check =
        |path: &str, status, kind, detail| check_problem(&shop.get(path), status, kind, detail);
    check("/v1/users/9", 404, "unknown-user", "no event of this uid was accepted");
    check("/v1/users/18446744073709551616", 400, "bad-uid", "from 0 to 18446744073709551615");
    check("/v1/users/-1", 400, "bad-uid", "whole numbers");
    check("/v1/users/%ff", 400, "bad-request", "percent-encoded");
    check("/v1/users/1?tags=levl", 400, "unknown-tag", "did you mean `level`");
    check("/v1/users/1?tags=hidden", 400, "unknown-tag", "not published");
    check("/v1/users/1?tags=", 400, "bad-request", "name is empty");
    check("/v1/users/1?tag=level", 400, "bad-request", "tags");
    check("/v1/users/1?as_of=soon", 400, "bad-request", "epoch milliseconds");
    check("/v1/users/", 404, "not-found", "/openapi.json");
    check("/nowhere", 404, "not-found", "/openapi.json");
    let wrong = send(shop.at(), "DELETE", "/v1/users/1", &[], "");
    check_problem(&wrong, 405, "method-not-allowed", "GET, HEAD");
    assert_eq!(wrong.header("allow"), "GET, HEAD");
    check_problem(&shop.get("/v1/users:batchGet"), 405, "method-not-allowed", "POST");
}

#[test]
fn bodies_are_read_strictly_and_bounded() {
    let ruleset = catalogue("u64", RULES);
    let store = store(&ruleset, ClockMode::Fixed, NUMBERS);
    let config = ServeConfig { body_bytes_max: 200, batch_users_max: 3, ..config() };
    let service = serve(&ruleset, &store, &config);
    let check = |body: &str, status, kind, detail| {
        check_problem(&post(service.at(), "/v1/users:batchGet", body), status, kind, detail);
    };
    check("{", 400, "bad-request", "a body is like");
    check(r#"{"uids":["1"],"tag":["level"]}"#, 400, "bad-request", "tag");
    check(r#"{"uids":[18446744073709551616]}"#, 400, "bad-request", "a body is like");
    check(r#"{"uids":[1.5]}"#, 400, "bad-request", "a body is like");
    check(r#"{"uids":["1","x"]}"#, 400, "bad-uid", "uids[1]");
    check(r#"{"uids":["1"],"tags":["nope"]}"#, 400, "unknown-tag", "nope");
    check(r#"{"uids":[1,2,3,4]}"#, 400, "bad-request", "at most 3");
    let long = format!(r#"{{"uids":["{}"]}}"#, "1".repeat(300));
    check(&long, 413, "too-large", "200 bytes");
    let headers = [("Content-Type", "text/plain")];
    let plain = send(service.at(), "POST", "/v1/users:batchGet", &headers, r#"{"uids":[1]}"#);
    check_problem(&plain, 415, "unsupported-media-type", "application/json");
}

#[test]
fn text_uids_may_hold_anything() {
    let ruleset = catalogue("string", RULES);
    let events: &[Event] = &[
        ("\"a/b\"", 1, "300", "York"),
        ("\"zürich 7%\"", 1, "3", "York"),
        ("\"..\"", 1, "60", "York"),
    ];
    let store = store(&ruleset, ClockMode::Fixed, events);
    let service = serve(&ruleset, &store, &config());
    let check = |path: &str, uid: &str, level: &str| {
        let user = service.get(&format!("/v1/users/{path}?tags=level")).json();
        assert_eq!((&user["uid"], &user["tags"]["level"]), (&json!(uid), &json!(level)), "{user}");
    };
    check("a%2Fb", "a/b", "high");
    check("z%C3%BCrich%207%25", "zürich 7%", "low");
    check("%2e%2e", "..", "mid");
    let why = service.get("/v1/users/a%2Fb/tags/level/why").json();
    assert_eq!(why["uid"], "a/b");
    check_problem(&service.get("/v1/users/a/b"), 404, "not-found", "%2F");
    let long = "x".repeat(1025);
    check_problem(&service.get(&format!("/v1/users/{long}")), 400, "bad-uid", "too long");
}

#[test]
fn keys_are_asked_for_and_read_again_when_their_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let (first, second) = ("0123456789abcdef", "fedcba9876543210");
    std::fs::write(&file, format!("{first}\n")).unwrap();
    let ruleset = catalogue("u64", RULES);
    let store = store(&ruleset, ClockMode::Fixed, NUMBERS);
    let config = ServeConfig { api_keys_file: file.clone(), ..config() };
    let service = serve(&ruleset, &store, &config);
    let with = |key: &str| {
        let bearer = format!("Bearer {key}");
        send(service.at(), "GET", "/v1/users/1", &[("Authorization", &bearer)], "")
    };
    let without = service.get("/v1/users/1");
    check_problem(&without, 401, "unauthorized", "X-API-Key");
    assert!(without.header("www-authenticate").starts_with("Bearer"));
    check_problem(&service.get("/nowhere"), 401, "unauthorized", "no API key");
    let wrong = with("0123456789abcdeF");
    check_problem(&wrong, 401, "unauthorized", "not known");
    assert!(!wrong.body.contains("0123456789abcdeF"), "a key is never shown");
    assert_eq!(with(first).status, 200);
    let own = send(service.at(), "GET", "/v1/tags", &[("X-API-Key", first)], "");
    assert_eq!(own.status, 200);
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(service.get(open).status, 200, "{open}");
    }
    std::fs::write(&file, format!("{second}\n")).unwrap();
    wait_until("the new key is let in", || with(second).status == 200);
    assert_eq!(with(first).status, 401);
}

/// Waits for a condition, for a minute at most.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let watch = tagloom::clock::Stopwatch::start();
    while !is_so() {
        assert!(watch.elapsed().as_secs() < 60, "not so within a minute: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn more_requests_than_allowed_are_told_when_to_come_again() {
    let ruleset = catalogue("u64", RULES);
    let store = store(&ruleset, ClockMode::Fixed, NUMBERS);
    let config = ServeConfig { requests_per_s_max: 1, ..config() };
    let service = serve(&ruleset, &store, &config);
    let responses: Vec<Response> = (0..5).map(|_| service.get("/v1/tags")).collect();
    assert_eq!(responses[0].status, 200);
    let refused = responses.iter().find(|r| r.status != 200).expect("one of five within a second");
    check_problem(refused, 429, "rate-limited", "serve.requests_per_s_max");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1));
    assert_eq!(service.get("/healthz").status, 200, "whoever watches is never refused");
}

/// A store whose profiles wait until they are let go.
#[derive(Default)]
struct Barrier {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Barrier {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, waiting: usize) {
        let mut state = self.state.lock().unwrap();
        while state.1 < waiting {
            state = self.changed.wait(state).unwrap();
        }
    }
}

fn slow(store: Arc<dyn Store>, barrier: &Arc<Barrier>) -> Arc<dyn Store> {
    let barrier = Arc::clone(barrier);
    Arc::new(Intercepted::new(store, move |call| {
        if call == Call::Profiles {
            barrier.pass();
        }
        Ok(())
    }))
}

#[test]
fn a_slow_store_costs_waiting_requests_and_no_others() {
    let ruleset = catalogue("u64", RULES);
    let barrier = Arc::new(Barrier::default());
    let store = slow(store(&ruleset, ClockMode::Fixed, NUMBERS), &barrier);
    let config =
        ServeConfig { read_threads: 1, reads_waiting_max: 1, timeout_ms: 20_000, ..config() };
    let service = serve(&ruleset, &store, &config);
    let at = service.at();
    // Refused while the service's own first look has the place in the queue.
    let first = std::thread::spawn(move || {
        std::iter::repeat_with(|| get(at, "/v1/users/1")).find(|answer| answer.status != 503)
    });
    barrier.wait_for(1);
    // One of them finds room in the queue, or none, while the service itself looks around.
    let (told, answers) = std::sync::mpsc::sync_channel(4);
    for _ in 0..4 {
        let told = told.clone();
        std::thread::spawn(move || told.send(get(at, "/v1/users/2")).unwrap());
    }
    for _ in 0..3 {
        let full = answers.recv().unwrap();
        check_problem(&full, 503, "overloaded", "POST /v1/users:batchGet");
        assert!(full.body.contains("serve.reads_waiting_max"), "{full:?}");
        assert_eq!(full.header("retry-after"), "1");
    }
    assert_eq!(service.get("/healthz").status, 200);
    assert!(service.get("/metrics").body.contains("tagloom_reads_waiting_max 1"));
    barrier.open();
    assert_eq!(first.join().unwrap().unwrap().status, 200);
    let last = answers.recv().unwrap().status;
    assert!(last == 200 || last == 503, "{last}");
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let ruleset = catalogue("u64", RULES);
    let barrier = Arc::new(Barrier::default());
    let store = slow(store(&ruleset, ClockMode::Fixed, NUMBERS), &barrier);
    let config = ServeConfig { timeout_ms: 50, ..config() };
    let service = serve(&ruleset, &store, &config);
    check_problem(&service.get("/v1/users/1"), 503, "overloaded", "within 50 ms");
    barrier.open();
}

#[test]
fn a_store_that_fails_is_told_and_readiness_says_so() {
    let ruleset = catalogue("u64", RULES);
    let is_down = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_down);
    let gate = move |_: Call| {
        if seen.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable { reason: "cable pulled".into() });
        }
        Ok(())
    };
    let inner = store(&ruleset, ClockMode::Fixed, NUMBERS);
    let store: Arc<dyn Store> = Arc::new(Intercepted::new(inner, gate));
    let service = serve(&ruleset, &store, &config());
    let ready = service.get("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)), "{ready:?}");
    is_down.store(true, Ordering::Release);
    check_problem(&service.get("/v1/users/1"), 503, "store-unavailable", "cable pulled");
    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503);
    let conditions = ready.json()["conditions"].as_array().unwrap().clone();
    let store = conditions.iter().find(|c| c["name"] == "store").unwrap().clone();
    assert_eq!(store["ready"], false);
    assert!(store["detail"].as_str().unwrap().contains("cable pulled"), "{store}");
    assert_eq!(service.get("/healthz").status, 200, "nothing that a restart would mend");
    is_down.store(false, Ordering::Release);
    assert_eq!(service.get("/readyz").status, 200, "by itself");
}

#[test]
fn a_store_that_hangs_is_told_in_time_and_so_is_what_needs_no_store() {
    let ruleset = catalogue("u64", RULES);
    let inner = store(&ruleset, ClockMode::Fixed, NUMBERS);
    let (go_on, hangs) = std::sync::mpsc::sync_channel::<()>(1);
    let (hangs, is_hanging) = (std::sync::Mutex::new(hangs), Arc::new(AtomicBool::new(false)));
    let asked = Arc::clone(&is_hanging);
    let gate = move |call| {
        if call == Call::Other && asked.load(Ordering::Acquire) {
            // Until the test lets it go on.
            hangs.lock().unwrap().recv().unwrap_err();
        }
        Ok(())
    };
    let store: Arc<dyn Store> = Arc::new(Intercepted::new(inner, gate));
    let config = ServeConfig { timeout_ms: 3_000, ..config() };
    let conditions = Conditions::default();
    conditions.register("topics", || Ok("8 of 8 partitions".to_owned()));
    let service = serve_with(&ruleset, &store, &config, conditions);
    is_hanging.store(true, Ordering::Release);
    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503);
    let expect = json!([
        {"name": "topics", "ready": true, "detail": "8 of 8 partitions"},
        {"name": "store", "ready": false, "detail": "it does not answer in time"},
    ]);
    assert_eq!(ready.json()["conditions"], expect);
    assert_eq!(service.get("/metrics").status, 200);
    is_hanging.store(false, Ordering::Release);
    drop(go_on);
    wait_until("it is ready again", || service.get("/readyz").status == 200);
}

#[test]
fn another_catalogue_is_served_once_it_is_active() {
    let service = shop();
    assert_eq!(service.get("/v1/users/1?tags=level").json()["tags"]["level"], "high");
    let other = catalogue("u64", &RULES.replace("cuts: [50, 200]", "cuts: [50, 500]"));
    let other = Ruleset { version: 2, ..Arc::into_inner(other).unwrap() };
    service.swaps.begin(Active { ruleset: Arc::new(other), files: Arc::new(Files::default()) });
    let user = service.get("/v1/users/1?tags=level").json();
    assert_eq!(user["tags"]["level"], "mid", "the store has the old value, the rules are new");
    assert_eq!((&user["catalog_version"], &user["evaluated"]), (&json!(2), &json!(true)));
}

#[test]
fn metrics_count_by_route_and_say_what_they_are() {
    let shop = shop();
    shop.get("/v1/users/1");
    shop.get("/v1/users/9");
    shop.get("/nowhere/at/all");
    let response = shop.get("/metrics");
    assert!(response.header("content-type").starts_with("text/plain; version=0.0.4"));
    let body = response.body;
    for line in [
        "# TYPE tagloom_http_requests_total counter",
        "tagloom_http_requests_total{method=\"GET\",route=\"/v1/users/{uid}\",status=\"200\"}",
        "tagloom_http_requests_total{method=\"GET\",route=\"/v1/users/{uid}\",status=\"404\"}",
        "tagloom_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}",
        "tagloom_http_request_seconds_bucket{method=\"GET\",route=\"/v1/users/{uid}\",le=\"0.001\"}",
        "tagloom_users_read_total{how=\"stored\"}",
        "tagloom_users_read_total{how=\"unknown\"}",
        "tagloom_due_backlog_users 0",
        "tagloom_build_info{version=",
    ] {
        assert!(body.contains(line), "no {line} in\n{body}");
    }
    assert!(!body.contains("/nowhere"), "a path is no label");
}

#[test]
fn requests_under_way_are_answered_when_the_service_stops() {
    let ruleset = catalogue("u64", RULES);
    let barrier = Arc::new(Barrier::default());
    let store = slow(store(&ruleset, ClockMode::Fixed, NUMBERS), &barrier);
    let service = serve(&ruleset, &store, &config());
    let at = service.at();
    let under_way = std::thread::spawn(move || get(at, "/v1/users/1"));
    barrier.wait_for(1);
    let stopping = std::thread::spawn(move || drop(service));
    wait_until("nobody is let in any more", || std::net::TcpStream::connect(at).is_err());
    assert!(!stopping.is_finished());
    barrier.open();
    assert_eq!(under_way.join().unwrap().status, 200);
    stopping.join().unwrap();
}

#[test]
fn the_description_names_every_schema_it_uses() {
    let document = shop().get("/openapi.json").json();
    let text = document.to_string();
    for used in text.split("\"#/components/schemas/").skip(1) {
        let name = used.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["security"].is_null(), "no key is asked for");
    assert!(!text.contains("\"parameters\":null"), "what has none says nothing");
    let uid = &document["paths"]["/v1/users/{uid}"]["get"]["parameters"][0]["schema"];
    assert!(uid["pattern"].as_str().is_some_and(|p| p.starts_with("^([0-9]{1,19}|")), "{uid}");
}
