//! The example shop over the real Online Retail data, against what DuckDB computed from the CSV
//! alone (`retail/expected.sql`, `retail/favourites.sql`).

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tagloom::catalog::model::Format;
use tagloom::engine::Clock;
use tagloom::engine::ruleset::Ruleset;
use tagloom::event::reject::Reason;
use tagloom::source::file::FileSpec;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};

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
---
tag: test_top_ever
doc: Products by money.
owner: test
group: test
expr: top_products_lifetime
---
tag: test_top_before
doc: Products by pieces, before.
owner: test
group: test
expr: top_products_before
---
tag: test_{span}
doc: Lines.
owner: test
group: test
matrix: {span: [6h, 24h, 168h]}
expr: lines_in_last_{span}
---
tag: test_spend_24h
doc: Spend.
owner: test
group: test
expr: spend_in_last_24h
";

fn shop() -> Arc<Ruleset> {
    let mut files = support::yaml_files(Path::new("tags"));
    files.push(("rules/zz_test.yaml".into(), MORE_TAGS.into()));
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    support::ruleset(&files)
}

#[test]
fn every_customer_is_what_duckdb_says() {
    let ruleset = shop();
    let identity = support::identity(&ruleset, ClockMode::Event);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 1_000_000));
    let source = FileSpec {
        path: "tags/data/online_retail.csv.gz".into(),
        format: Format::Csv,
        streams: (0..ruleset.catalog.streams.len()).collect(),
        name: "online_retail.csv.gz".into(),
    };
    let options = support::options(&ruleset, &store, Clock::Event, vec![source]);
    let report = tagloom::engine::run(options, &mut |_| {}).unwrap();
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

    let profiles = support::all_labels(&ruleset, store.as_ref());
    assert_eq!(profiles.len(), 4_372);
    let tags = ["expected", "favourites"].map(|name| compare(name, &profiles));
    assert!(tags[0] >= 13, "spend, orders, cancellations and at least ten tags");
    assert_eq!(tags[1], 10, "favourites, lists and rolling hours");
}

/// Compares every customer with what an SQL file gave; says how many tags that were.
fn compare(name: &str, profiles: &BTreeMap<u64, BTreeMap<String, String>>) -> usize {
    let file = std::fs::File::open(format!("tests/retail/{name}.csv.gz")).unwrap();
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
    header.len() - 1
}
