//! The example catalogue's cases hold, and a case that does not hold says so.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

use std::path::Path;

use tagloom::catalog::{Loaded, load, load_from};
use tagloom::engine::cases::{CaseReport, CaseRunner};

const SETTINGS: &str = "name: shop\nuid: u64\ntimezone: Europe/London\n";
const STREAM: &str = "
stream: consume
from: {file: consume.csv, format: csv}
columns:
  sku: {type: string, from: StockCode}
  price: {type: 'decimal(12,2)', from: UnitPrice}
  weight: 'float?'
  day: 'date?'
  at: {type: timestamp('%d.%m.%Y'), from: When}
  delivered: 'timestamp(s)?'
  customer: u64
derive:
  dear: price >= 100
where: sku <> 'POST'
uid: customer
time: at
";
const FEATURES: &str = "
feature: spend_{span}
stream: consume
value: sum(price)
window: '{span}'
matrix: {span: [1d, 30d]}
---
feature: dear_ones
stream: consume
value: count()
where: dear
window: lifetime
---
feature: last_sku
stream: consume
value: last(sku)
window: lifetime
---
feature: last_bought
stream: consume
value: last_time()
window: lifetime
---
feature: heaviest
stream: consume
value: max(weight)
window: lifetime
---
feature: delivered
stream: consume
value: last(delivered)
window: lifetime
";
const DIMENSIONS: &str = "
dimension: product
key: last_sku
columns: {shelf: string, since: 'timestamp(iso)', rank: int}
strategy: cached
";

/// A tag `t` with this expression and one case.
fn rule(expr: &str, case: &str) -> String {
    format!("tag: t\ndoc: A tag.\nowner: me\ngroup: g\nexpr: {expr}\ncases:\n  - {case}\n")
}

fn loaded(rules: &str) -> Loaded {
    let files = [
        ("catalog.yaml", SETTINGS),
        ("streams/consume.yaml", STREAM),
        ("features/all.yaml", FEATURES),
        ("dimensions/all.yaml", DIMENSIONS),
        ("rules/all.yaml", rules),
    ];
    load_from("tags", files.map(|(p, t)| (p.to_owned(), t.to_owned())).to_vec())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn report(expr: &str, case: &str) -> CaseReport {
    let loaded = loaded(&rule(expr, case));
    let mut runner = CaseRunner::new(&loaded.catalog).unwrap();
    runner.run(&loaded.catalog.cases[0]).unwrap()
}

/// The case holds; with `expect` as its last word changed it must not.
#[track_caller]
fn check(expr: &str, case: &str, expect: &str, other: &str) {
    let right = report(expr, &case.replace("EXPECT", expect));
    assert!(right.holds(), "{expr}: {right:#?}");
    let wrong = report(expr, &case.replace("EXPECT", other));
    assert_eq!(wrong.wrong.len(), 1, "{expr}: {wrong:#?}");
    assert_eq!(wrong.wrong[0].expected.as_deref(), Some(other).filter(|o| *o != "null"));
}

#[test]
fn the_example_catalogue_does_what_its_cases_say() {
    let loaded = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tags")).unwrap();
    let mut runner = CaseRunner::new(&loaded.catalog).unwrap();
    let mut failing = Vec::new();
    for case in &loaded.catalog.cases {
        let report = runner.run(case).unwrap();
        if !report.holds() {
            let (line, _) = loaded.files.line_column(case.place.file, case.place.start);
            failing.push(format!("{}:{line} {report:#?}", loaded.files.path(case.place.file)));
        }
    }
    assert!(loaded.catalog.cases.len() >= 140, "{} cases", loaded.catalog.cases.len());
    assert!(failing.is_empty(), "{} cases fail:\n{}", failing.len(), failing.join("\n"));
}

#[test]
fn values_of_all_types_reach_the_rule() {
    let given = |row: &str| format!("{{given: {{consume: [{{{row}}}]}}, expect: {{t: EXPECT}}}}");
    check("spend_30d", &given("sku: A, at: -1d, price: 007.50"), "7.5", "7.51");
    check("heaviest", &given("sku: A, at: -1d, weight: 2"), "2.0", "2.5");
    check("dear_ones > 0", &given("sku: A, at: -1d, price: 100"), "true", "false");
    check("delivered", &given("sku: A, at: -1d, delivered: -1h"), "2026-01-15T11:00", "null");
    check("last_sku", &given("sku: 'A \"b\"', at: -1d"), "'A \"b\"'", "null");
}

#[test]
fn rows_that_are_no_events_do_not_count_and_who_has_none_has_no_tags() {
    let some = "{given: {consume: [{sku: POST, at: -1d, price: 5}, {sku: A, at: -1d, price: 2}]}, \
                expect: {t: EXPECT}}";
    check("spend_30d", some, "2", "7");
    assert_eq!(report("spend_30d", &some.replace("EXPECT", "2")).filtered_rows, 1);
    let none = "{given: {consume: [{sku: POST, at: -1d, price: 5}]}, expect: {t: EXPECT}, \
                after: {2d: {t: null}}}";
    check("spend_30d", none, "null", "0");
    assert!(report("spend_30d", &none.replace("EXPECT", "null")).no_profile);
}

#[test]
fn dimension_rows_are_looked_up_and_what_is_not_given_is_null() {
    let case = "{given: {consume: [{sku: A, at: -1d}]}, dimensions: {product: [{key: A, rank: 4, \
                since: '2026-01-10T00:00'}]}, expect: {t: EXPECT}}";
    check("product_rank + days_since(product_since)", case, "9", "8");
    check("product_shelf", case, "null", "top");
}

#[test]
fn later_instants_are_reached_by_time_alone() {
    let case = "{given: {consume: [{sku: A, at: -0d, price: 3}]}, after: {30d: {t: EXPECT}}}";
    check("spend_30d > 0", case, "false", "true");
    check("days_since(last_bought) < 31", case, "true", "false");
    let case = case.replace("30d:", "29d:");
    check("spend_30d > 0", &case, "true", "false");
}

#[test]
fn a_failing_check_shows_what_the_rule_read() {
    let rules = format!(
        "{}---\ntag: u\ndoc: Another.\nowner: me\ngroup: g\nexpr: spend_30d > 5\n",
        rule(
            "u AND dear_ones = 0",
            "{given: {consume: [{sku: A, at: -1d, price: 3}]}, expect: {t: true}}"
        )
    );
    let loaded = loaded(&rules);
    let mut runner = CaseRunner::new(&loaded.catalog).unwrap();
    let report = runner.run(&loaded.catalog.cases[0]).unwrap();
    let reads: Vec<String> = report.wrong[0]
        .reads
        .iter()
        .map(|r| format!("{}={}", r.name, r.value.as_deref().unwrap_or("NULL")))
        .collect();
    assert_eq!(reads, ["dear_ones=0", "u=false", "spend_30d=3.00"]);
    assert_eq!(report.wrong[0].got.as_deref(), Some("false"));
    assert_eq!(report.wrong[0].recomputed, None);
}
