//! Dimension tables that topics keep: users of changed rows are computed again, whether the rows
//! changed while the engine ran or while nobody did.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tagloom::clock::Deadline;
use tagloom::dimension::{Feed, FeedRecord, Feeds, Lookups, OpenFeed, TopicReader};
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Report};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};

const CATALOG: &str = "name: t\nuid: u64\ntimezone: UTC\n";
const STREAM: &str = "stream: buy\ndoc: d\nfrom: {file: buy, format: json}\ncolumns:\n  \
                      user: {type: u64}\n  at: {type: timestamp(ms)}\n  country: {type: string}\n\
                      uid: user\ntime: at\nmode: append\n";
const FEATURE: &str =
    "feature: country\ndoc: d\nstream: buy\nvalue: last(country)\nwindow: lifetime\n";
const DIMENSIONS: &str = "dimension: place\ntopic: places\nkey: country\ncolumns: {region: string}\n\
                          strategy: broadcast\n---\ndimension: person\ntopic: people\nkey: uid\n\
                          columns: {arm: string}\nstrategy: broadcast\n";
const TAGS: &str = "tag: region\ndoc: d\nowner: o\ngroup: g\nexpr: place_region\n---\n\
                    tag: arm\ndoc: d\nowner: o\ngroup: g\nexpr: person_arm\n";

/// Topics that the test writes.
#[derive(Clone)]
struct Topics(Arc<BTreeMap<String, Arc<Feed>>>, Arc<AtomicU64>);

impl Topics {
    fn new() -> Self {
        let feed = |topic: &str| (topic.to_owned(), Arc::new(Feed::new(topic, 1 << 20)));
        let topics = Self(Arc::new(["places", "people"].map(feed).into()), Arc::default());
        topics.0.values().for_each(|feed| {
            feed.begin("one");
            feed.completed();
        });
        topics
    }

    fn put(&self, topic: &str, key: &str, value: &str) {
        let (offset, key) = (self.1.fetch_add(1, Ordering::Relaxed), key.as_bytes());
        self.0[topic].put(FeedRecord { partition: 0, offset, key, value: Some(value.as_bytes()) });
    }
}

impl OpenFeed for Topics {
    fn open(&self, topic: &str) -> Result<Arc<Feed>, String> {
        self.0.get(topic).cloned().ok_or_else(|| format!("no topic {topic}"))
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn TopicReader>, String> {
        Err(format!("{topic} keeps no stored table"))
    }
}

struct Case {
    rules: Arc<Ruleset>,
    store: Arc<dyn Store>,
    topics: Topics,
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let rules = support::ruleset(&[
            ("catalog.yaml", CATALOG),
            ("streams/buy.yaml", STREAM),
            ("features/f.yaml", FEATURE),
            ("dimensions/d.yaml", DIMENSIONS),
            ("rules/r.yaml", TAGS),
        ]);
        let identity = support::identity(&rules, ClockMode::Event);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 10));
        let dir = tempfile::tempdir().unwrap();
        let line = |n: u64| {
            let country = ["GB", "FR"][usize::try_from(n % 2).unwrap()];
            format!("{{\"user\":{n},\"at\":{},\"country\":\"{country}\"}}\n", 1_700_000_000_000 + n)
        };
        let text: String = (1..=6).map(line).collect();
        std::fs::write(dir.path().join("buy.jsonl"), text).unwrap();
        Self { rules, store, topics: Topics::new(), dir }
    }

    fn options(&self) -> tagloom::engine::Options {
        let source = support::json_file(&self.dir.path().join("buy.jsonl"), &[0]);
        let mut options = support::options(&self.rules, &self.store, Clock::Event, vec![source]);
        let feeds = Feeds::by(Arc::new(self.topics.clone()));
        options.lookups = Lookups { feeds, ..Lookups::default() };
        options
    }

    fn run(&self) -> Report {
        tagloom::engine::run(self.options(), &mut |_| {}).unwrap()
    }

    /// Region and arm of all users.
    #[track_caller]
    fn check(&self, expect: [(&str, &str); 6]) {
        let labels = support::all_labels(&self.rules, self.store.as_ref());
        let of = |tags: &BTreeMap<String, String>, tag: &str| {
            tags.get(tag).cloned().unwrap_or_else(|| "-".to_owned())
        };
        let have: Vec<_> = labels.values().map(|t| (of(t, "region"), of(t, "arm"))).collect();
        let want: Vec<_> = expect.iter().map(|(r, a)| ((*r).to_owned(), (*a).to_owned())).collect();
        assert_eq!(have, want);
    }
}

#[test]
fn rows_that_change_between_two_runs_reach_their_users() {
    let case = Case::new();
    case.topics.put("places", "GB", r#"{"region":"north"}"#);
    case.topics.put("people", "1", r#"{"arm":"a"}"#);
    case.run();
    let (n, no) = ("north", "-");
    case.check([(no, "a"), (n, no), (no, no), (n, no), (no, no), (n, no)]);
    let again = case.run();
    assert_eq!(again.stats.examined_users, 0, "nothing has changed: {again:?}");

    case.topics.put("people", "2", r#"{"arm":"b"}"#);
    case.topics.put("people", "99", r#"{"arm":"nobody"}"#);
    let report = case.run();
    assert_eq!(report.stats.examined_users, 1, "users of changed rows, who are known: {report:?}");
    case.check([(no, "a"), (n, "b"), (no, no), (n, no), (no, no), (n, no)]);

    case.topics.put("places", "FR", r#"{"region":"south"}"#);
    case.topics.put("places", "GB", r#"{"region":"isles"}"#);
    case.run();
    let (i, s) = ("isles", "south");
    case.check([(s, "a"), (i, "b"), (s, no), (i, no), (s, no), (i, no)]);
}

#[test]
fn rows_that_change_while_the_engine_runs_reach_their_users() {
    let case = Case::new();
    let mut options = case.options();
    options.stay = true;
    let region = |want: &str| {
        let labels = support::all_labels(&case.rules, case.store.as_ref());
        labels.len() == 6 && labels[&2].get("region").is_some_and(|r| r == want)
    };
    let mut step = 0;
    let deadline = Deadline::after(Duration::from_secs(60));
    tagloom::engine::run(options, &mut |seen| {
        match step {
            0 => case.topics.put("places", "GB", r#"{"region":"r1"}"#),
            // The table is asked every five seconds.
            1 if region("r1") => case.topics.put("places", "GB", r#"{"region":"r2"}"#),
            2 if region("r2") => seen.status.stop(),
            _ if deadline.is_over() => return seen.status.stop(),
            _ => return,
        }
        step += 1;
    })
    .unwrap();
    case.check([("-", "-"), ("r2", "-"), ("-", "-"), ("r2", "-"), ("-", "-"), ("r2", "-")]);
}
