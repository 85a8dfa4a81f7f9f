//! Single reads over HTTP beside a bare actix-web handler in the same run.
//!
//! `cargo bench --bench http [-- SECONDS]`. Clients hold connections open and ask one question after
//! the other. The bare handler answers the same bytes without looking at anything: what is between the
//! two is tagloom's gate, pool, store, evaluation and writing.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/support/load.rs"]
mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tagloom::catalog::place::Files;
use tagloom::clock::Stopwatch;
use tagloom::config::ServeConfig;
use tagloom::dimension::Lookups;
use tagloom::engine::Clock;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::swap::{Active, Swaps};
use tagloom::serve::http::Server;
use tagloom::serve::readers::Readers;
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::{ClockMode, Store, Uid};
use tagloom::telemetry::ready::Conditions;

const USERS: u64 = 20_000;
/// 2026-03-31 12:00 UTC.
const AS_OF_MS: i64 = 1_774_958_400_000;
const DAY_MS: i64 = 86_400_000;

fn ruleset() -> Arc<Ruleset> {
    let mut rules = String::new();
    for tag in 0..550 {
        let (span, cut) = (["7d", "30d", "90d"][tag % 3], 10 + tag);
        write!(
            rules,
            "tag: level_{tag}\ndoc: d\nbands: {{of: spend_{span}, cuts: [{cut}, {}], labels: [low, \
             mid, high]}}\n---\n",
            cut * 7
        )
        .unwrap();
    }
    rules += "tag: spent\ndoc: d\nexpr: spend_90d\n";
    support::ruleset(&[
        ("catalog.yaml", "name: bench\nuid: u64\ntimezone: UTC\n"),
        (
            "streams/s.yaml",
            "stream: consume\nfrom: {file: c.jsonl}\ncolumns: {user: u64, at: timestamp(ms), \
             amount: 'decimal(12,2)'}\nuid: user\ntime: at\n",
        ),
        (
            "features/f.yaml",
            "feature: spend_{span}\nstream: consume\nvalue: sum(amount)\nwindow: '{span}'\nmatrix: \
             {span: [7d, 30d, 90d]}\n",
        ),
        ("rules/r.yaml", &rules),
    ])
}

fn fill(ruleset: &Arc<Ruleset>, dir: &Path) -> Arc<dyn Store> {
    let identity = support::identity(ruleset, ClockMode::Fixed);
    let options = FjallOptions::default();
    let store = FjallStore::open(&dir.join("store"), &identity, &options).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let path = dir.join("c.jsonl");
    let mut text = String::new();
    for user in 0..USERS {
        for order in 0..10 {
            let at = AS_OF_MS - i64::try_from((user * 7 + order * 13) % 120).unwrap() * DAY_MS;
            let amount = (user * 31 + order * 17) % 500;
            writeln!(text, "{{\"user\":{user},\"at\":{at},\"amount\":{amount}.50}}").unwrap();
        }
    }
    std::fs::write(&path, text).unwrap();
    let sources = vec![support::json_file(&path, &[0])];
    let mut options = support::options(ruleset, &store, Clock::Fixed(AS_OF_MS), sources);
    options.limits.users_max = 100_000;
    tagloom::engine::run(options, &mut |_| {}).unwrap();
    store
}

fn main() {
    let seconds = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(1);
    let lasts = Duration::from_secs(seconds);
    let dir = tempfile::tempdir().unwrap();
    let ruleset = ruleset();
    let store = fill(&ruleset, dir.path());
    let active = Active { ruleset: Arc::clone(&ruleset), files: Arc::new(Files::default()) };
    let swaps = Swaps::default().beginning_with(active.clone());
    let readers = Arc::new(Readers::beside(active, swaps, store, Lookups::default()).unwrap());
    let config = ServeConfig {
        listen: "127.0.0.1:0".to_owned(),
        requests_per_s_max: 0,
        read_threads: 2,
        ..ServeConfig::default()
    };
    let server = Server::start(&config, Arc::clone(&readers), Conditions::default()).unwrap();
    let at = server.address();
    let get = |user: u64, query: &str| {
        format!("GET /v1/users/{user}{query} HTTP/1.1\r\nHost: bench\r\n\r\n")
    };
    let mut body = Vec::new();
    let bytes = load::ask(&mut load::connect(at), &get(1, ""), &mut body);
    let bare = load::bare(String::from_utf8(body).unwrap());
    println!("{USERS} users, 551 tags, {bytes} bytes an answer, {} connections", load::CLIENTS);
    let measure = |name: &str, at, request: &(dyn Fn(u64) -> String + Sync)| {
        println!("{name:<34} {}", load::measure(at, USERS, lasts, request));
    };
    measure("bare actix-web handler", bare, &|user| get(user, ""));
    measure("all tags, as stored", at, &|user| get(user, ""));
    measure("5 tags, as stored", at, &|user| {
        get(user, "?tags=level_1,level_2,level_3,level_4,spent")
    });
    let later = AS_OF_MS + 100 * DAY_MS;
    measure("all tags, evaluated", at, &|user| get(user, &format!("?as_of={later}")));
    measure("batch of 100 users, 5 tags", at, &|user| {
        let uids: Vec<String> = (0..100).map(|n| ((user + n * 97) % USERS).to_string()).collect();
        let body = format!(
            "{{\"uids\":[{}],\"tags\":[\"level_1\",\"level_2\",\"level_3\",\"level_4\",\"spent\"]}}",
            uids.join(",")
        );
        format!(
            "POST /v1/users:batchGet HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    });
    in_process(&readers, lasts);
}

/// What a read costs without HTTP.
fn in_process(readers: &Readers, lasts: Duration) {
    let reading = readers.reading().unwrap();
    let (watch, mut reads, mut out) = (Stopwatch::start(), 0u32, Vec::new());
    while watch.elapsed() < lasts {
        let uid = Uid::U64(u64::from(reads) * 4_001 % USERS);
        let answer = reading.reader.answers(&[uid], None, None).unwrap().pop().unwrap().unwrap();
        assert!(!answer.evaluated);
        out.clear();
        reading.published.write(&answer, None, &mut out);
        reads += 1;
    }
    let each = watch.elapsed().as_secs_f64() * 1e6 / f64::from(reads);
    println!("{:<34} {each:>9.1} us each, one thread", "a read without HTTP");
}
