//! Events that arrive late, too late and too early, with true arrival times: against a plain model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::rig::kafka::Record;
use crate::rig::portrait::Portrait;
use crate::rig::shop::Shop;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// 2026-03-31T20:00 in Asia/Shanghai, which has no change of clocks: as of here, and the last arrival.
const AS_OF_MS: i64 = 1_774_958_400_000;

/// The longest span and `allowed_lateness`, in days.
const HORIZON_DAYS: i64 = 7 + 2;

const CATALOG: [(&str, &str); 4] = [
    (
        "catalog.yaml",
        "name: late\nuid: u64\ntimezone: Asia/Shanghai\nallowed_lateness: 2d\nmax_ahead: 1d\n",
    ),
    (
        "streams/s.yaml",
        "stream: buy\nfrom: {kafka: buy, format: json}\ncolumns: {id: string, user: u64, at: \
         timestamp(ms), amount: int}\nuid: user\ntime: at\ndedupe: {by: id}\n---\n\
         stream: visit\nfrom: {kafka: visit, format: json}\ncolumns: {user: u64, at: \
         timestamp(ms)}\nuid: user\ntime: at\n",
    ),
    (
        "features/f.yaml",
        "feature: spent_{span}\nstream: buy\nvalue: sum(amount)\nwindow: \"{span}\"\nmatrix: {span: \
         [7d, lifetime]}\n---\nfeature: visits_{span}\nstream: visit\nvalue: count()\nwindow: \
         \"{span}\"\nmatrix: {span: [7d, lifetime]}\n",
    ),
    (
        "rules/r.yaml",
        "tag: bought_{span}\ndoc: d\nowner: o\ngroup: g\nexpr: spent_{span}\nmatrix: {span: [7d, \
         lifetime]}\n---\ntag: visited_{span}\ndoc: d\nowner: o\ngroup: g\nexpr: visits_{span}\n\
         matrix: {span: [7d, lifetime]}\n",
    ),
];

/// Day in Asia/Shanghai.
fn day(at_ms: i64) -> i64 {
    (at_ms + 8 * HOUR_MS).div_euclid(DAY_MS)
}

#[derive(Debug, Clone)]
struct Event {
    stream: &'static str,
    id: u32,
    user: u64,
    at_ms: i64,
    amount: i64,
    arrival_ms: i64,
}

impl Event {
    fn json(&self) -> String {
        let Self { id, user, at_ms, amount, .. } = self;
        match self.stream {
            "buy" => {
                format!(r#"{{"id":"e{id}","user":{user},"at":{at_ms},"amount":{amount}}}"#)
            }
            _ => format!(r#"{{"user":{user},"at":{at_ms}}}"#),
        }
    }
}

/// Events in the order in which they arrive, over two months; some come twice.
fn generate(rng: &mut StdRng, events: u32) -> Vec<Event> {
    let mut all = Vec::new();
    for id in 0..events {
        let arrival_ms = AS_OF_MS - rng.random_range(0..60 * DAY_MS);
        let delay_ms = match rng.random_range(0..20) {
            0..10 => rng.random_range(0..HOUR_MS),
            10..14 => rng.random_range(0..HORIZON_DAYS * DAY_MS),
            14..17 => rng.random_range((HORIZON_DAYS - 2) * DAY_MS..(HORIZON_DAYS + 2) * DAY_MS),
            17..19 => rng.random_range(0..40 * DAY_MS),
            // Ahead of its time.
            _ => -rng.random_range(0..2 * DAY_MS),
        };
        let event = Event {
            stream: if rng.random_range(0..3) == 0 { "visit" } else { "buy" },
            id,
            user: rng.random_range(1..200),
            at_ms: arrival_ms - delay_ms,
            amount: rng.random_range(1..100),
            arrival_ms,
        };
        if event.stream == "buy" && rng.random_range(0..4) == 0 {
            let again_ms = arrival_ms + rng.random_range(0..15 * DAY_MS);
            all.push(Event { arrival_ms: again_ms.min(AS_OF_MS), ..event.clone() });
        }
        all.push(event);
    }
    all.sort_by_key(|event| event.arrival_ms);
    all
}

/// What a user's tags are: bought and visited, each within 7 days and ever.
type Tags = [i64; 4];

/// Tags by user, and rejects by stream and reason.
type Expected = (BTreeMap<u64, Tags>, BTreeMap<(String, String), u64>);

fn expected(events: &[Event]) -> Expected {
    let (mut users, mut rejects) = (BTreeMap::<u64, Tags>::new(), BTreeMap::new());
    let mut seen = BTreeSet::new();
    for event in events {
        let mut refuse = |reason: &str| {
            *rejects.entry((event.stream.to_owned(), reason.to_owned())).or_insert(0) += 1;
        };
        if event.at_ms > event.arrival_ms + DAY_MS {
            refuse("too-early");
            continue;
        }
        let is_buy = event.stream == "buy";
        if is_buy && day(event.at_ms) < day(event.arrival_ms) - HORIZON_DAYS {
            refuse("too-late");
            continue;
        }
        let tags = users.entry(event.user).or_default();
        if (is_buy && !seen.insert((event.user, event.id))) || day(event.at_ms) > day(AS_OF_MS) {
            continue;
        }
        let (at, amount) = if is_buy { (0, event.amount) } else { (2, 1) };
        tags[at + 1] += amount;
        if day(event.at_ms) > day(AS_OF_MS) - 7 {
            tags[at] += amount;
        }
    }
    (users, rejects)
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn arrival_times_decide_what_counts_and_how() {
    let events = generate(&mut StdRng::seed_from_u64(7), 8_000);
    let (users, rejects) = expected(&events);
    assert_eq!(rejects.len(), 3, "each kind occurs: {rejects:?}");
    let shop = Shop::start(&CATALOG, &[("buy", 4), ("visit", 4)]);
    let as_of = AS_OF_MS.to_string();
    let lines: Vec<(String, String)> =
        events.iter().map(|event| (event.user.to_string(), event.json())).collect();
    for stream in ["buy", "visit"] {
        let of_stream = events.iter().zip(&lines).filter(|(event, _)| event.stream == stream);
        let record = |(event, (key, value)): (&Event, &'_ (String, String))| {
            (event.arrival_ms, key.clone(), value.clone())
        };
        let records: Vec<(i64, String, String)> = of_stream.map(record).collect();
        shop.kafka.send(
            stream,
            records.iter().map(|(at_ms, key, value)| Record {
                key: key.as_bytes(),
                value: value.as_bytes(),
                at_ms: *at_ms,
            }),
        );
    }
    for _ in 0..2 {
        let process = shop.run("killed", &["--as-of", &as_of]);
        std::thread::park_timeout(Duration::from_millis(700));
        process.kill();
    }
    let process = shop.run("last", &["--as-of", &as_of]);
    let topics = ["buy".to_owned(), "visit".to_owned()];
    shop.kafka.wait_committed("shop", &topics, Duration::from_secs(120));
    Portrait::stop(process);

    shop.ok(&["export", "--out", "tags.csv", "--as-of", &as_of]);
    let rows: BTreeMap<u64, Tags> = shop.read("tags.csv").lines().skip(1).map(row).collect();
    assert_eq!(rows, users);
    let told: serde_json::Value =
        serde_json::from_str(&shop.ok(&["rejects", "--json", "--limit", "0"])).unwrap();
    let mut counts = BTreeMap::new();
    for (stream, reasons) in told["counts"].as_object().unwrap() {
        for (reason, rows) in reasons.as_object().unwrap() {
            counts.insert((stream.clone(), reason.clone()), rows.as_u64().unwrap());
        }
    }
    assert_eq!(counts, rejects);
}

fn row(line: &str) -> (u64, Tags) {
    let mut cells = line.split(',').map(|cell| cell.parse::<i64>().unwrap());
    let uid = cells.next().unwrap();
    let tags: Vec<i64> = cells.collect();
    (uid.try_into().unwrap(), tags.try_into().unwrap())
}
