//! The example shop over the real Online Retail data, against what DuckDB computed from the CSV
//! alone (`retail/expected.sql`).

#![expect(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tagloom::catalog::model::{Format, UidType};
use tagloom::engine::checkpoint::WindowLimits;
use tagloom::engine::job::Job;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Options, Report};
use tagloom::event::reject::Reason;
use tagloom::source::file::{FileSpec, ReadLimits};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Identity, Store, Uid};
use tagloom::user::snapshot::decode_tags;
use tagloom::write::profile::{Schemas, labels};

/// Features that no tag shows as they are.
const MORE_TAGS: &str = "\
tag: test_spend
doc: Spend.
owner: test
group: test
expr: spend_lifetime
---
tag: test_orders
doc: Orders.
owner: test
group: test
expr: orders_lifetime
---
tag: test_cancels
doc: Cancelled orders.
owner: test
group: test
expr: cancels_lifetime
";

fn files_below(dir: &Path, root: &Path, out: &mut Vec<(String, String)>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, root, out);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            out.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn ruleset() -> Arc<Ruleset> {
    let root = Path::new("tags");
    let mut files = Vec::new();
    files_below(root, root, &mut files);
    files.push(("rules/zz_test.yaml".into(), MORE_TAGS.into()));
    let loaded = tagloom::catalog::load_from("tags", files.clone()).unwrap();
    files.push(("ids.lock".into(), loaded.lock.updated(&loaded.catalog).to_text()));
    let loaded = tagloom::catalog::load_from("tags", files).unwrap();
    Arc::new(Ruleset::new(loaded.catalog).unwrap())
}

fn run(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>) -> Report {
    let options = Options {
        ruleset: Arc::clone(ruleset),
        store: Arc::clone(store),
        sources: vec![FileSpec {
            path: "tags/data/online_retail.csv.gz".into(),
            format: Format::Csv,
            streams: (0..ruleset.catalog.streams.len()).collect(),
            name: "online_retail.csv.gz".into(),
        }],
        clock: Clock::Event,
        limits: WindowLimits { close_ms: 1_000, users_max: 2_000, due_users_max: 10_000 },
        read: ReadLimits::default(),
        shards: 2,
        batches_under_way_max: 8,
        rejects_waiting_max: 200_000,
        state_bytes_max: 1 << 20,
        batch_users_max: 1_024,
        dimension_cache: tagloom::dimension::CacheOptions::default(),
        changed_users_per_s_max: std::num::NonZeroU32::MAX,
        jobs: VecDeque::from([Job::Due]),
        then_as_of_ms: None,
        dry: false,
        stay: false,
    };
    tagloom::engine::run(options, &mut |_| {}).unwrap()
}

fn profiles(ruleset: &Ruleset, store: &dyn Store) -> BTreeMap<u64, BTreeMap<String, String>> {
    let schemas = Schemas::default();
    let rows = store.scan_profiles(None, usize::MAX).unwrap();
    let profile = |bytes: &[u8]| {
        let tags = decode_tags(bytes).unwrap();
        let schema = schemas.get(tags.head.schema, ruleset, store).unwrap();
        labels(&ruleset.catalog, ruleset, &schema.codes(&tags), &schema.open_values(&tags))
    };
    rows.iter()
        .map(|(key, bytes)| match Uid::from_key(UidType::U64, key).unwrap() {
            Uid::U64(uid) => (uid, profile(bytes)),
            Uid::Str(_) => panic!("uids are numbers"),
        })
        .collect()
}

#[test]
fn every_customer_is_what_duckdb_says() {
    let ruleset = ruleset();
    let identity = Identity {
        uid: UidType::U64,
        timezone: ruleset.catalog.zone.name().to_owned(),
        clock: ClockMode::Event,
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 1_000_000));
    let report = run(&ruleset, &store);
    assert_eq!(report.rows, 541_909);
    assert_eq!(report.rejected_rows, 135_080, "lines without a customer");
    let rejects: u64 = report
        .totals
        .streams
        .values()
        .flat_map(|s| &s.rejects)
        .inspect(|(reason, _)| assert_eq!(**reason, Reason::Missing))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(rejects, 135_080, "each of them once");

    let profiles = profiles(&ruleset, store.as_ref());
    assert_eq!(profiles.len(), 4_372);
    let file = std::fs::File::open("tests/retail/expected.csv.gz").unwrap();
    let mut expected = csv::Reader::from_reader(flate2::read::GzDecoder::new(file));
    let header: Vec<String> = expected.headers().unwrap().iter().map(str::to_owned).collect();
    let mut customers = 0;
    for row in expected.records() {
        let row = row.unwrap();
        let uid: u64 = row[0].parse().unwrap();
        let tags = &profiles[&uid];
        for (tag, want) in header.iter().zip(&row).skip(1) {
            let got = tags.get(tag).map_or("", String::as_str);
            assert_eq!(got, want, "customer {uid}, {tag}");
        }
        customers += 1;
    }
    assert_eq!(customers, 4_372);
    assert!(header.len() >= 14, "spend, orders, cancellations and at least ten tags");
}
