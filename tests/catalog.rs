//! What a right catalogue becomes: sugar as SQL, matrices, order, domains, ids and cases.

use tagloom::catalog::model::{Aggregate, Catalog, DimensionKey, Domain, From, Span, Strategy};
use tagloom::catalog::place::Files;
use tagloom::catalog::{Loaded, Lock, load_from};

const SETTINGS: &str = "name: shop\nuid: u64\ntimezone: Europe/London\nparams: {big: 250}\n";
const STREAM: &str = "
stream: consume
from: {file: consume.jsonl.gz}
columns:
  sku: string
  quantity: int
  price: {type: 'decimal(12,2)', from: UnitPrice}
  at: timestamp(iso)
  customer: {type: u64, mask: true}
derive:
  amount: CAST(price * quantity AS decimal(18,2))
where: quantity > 0
uid: customer
time: at
";
const FEATURES: &str = "
feature: spend_{span}
doc: Spent in {span}.
stream: consume
value: sum(amount)
window: '{span}'
matrix: {span: [7d, 30d]}
---
feature: spend_before
stream: consume
value: sum(amount)
window: 30d
offset: 30d
---
feature: buys
stream: consume
value: count()
where: price > 1
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
feature: skus
stream: consume
value: count(distinct sku)
window: 7d
";
const DIMENSIONS: &str = "
dimension: shelf
table: shelves
key: product_shelf
columns: {floor: int}
strategy: cached
ttl: 30m
---
dimension: product
key: last_sku
columns: {shelf: string, rank: {type: int, from: ranking}}
strategy: preload
";

fn loaded(rules: &str, lock: &str) -> Loaded {
    let files = [
        ("catalog.yaml", SETTINGS),
        ("streams/consume.yaml", STREAM),
        ("features/all.yaml", FEATURES),
        ("dimensions/all.yaml", DIMENSIONS),
        ("rules/all.yaml", rules),
        ("ids.lock", lock),
    ];
    let files = files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
    load_from("tags", files).unwrap_or_else(|e| panic!("{e}"))
}

fn catalog(rules: &str) -> Catalog {
    loaded(rules, "").catalog
}

/// The SQL of the only tag, and its labels where it has some.
fn check(rule: &str, sql: &str, labels: &[&str]) {
    let catalog = catalog(&format!("tag: a\n{rule}\n"));
    assert_eq!(catalog.tags[0].expr.sql, sql);
    match &catalog.tags[0].domain {
        Domain::Closed { labels: found, .. } => assert_eq!(found, labels),
        Domain::Open(_) => assert!(labels.is_empty()),
    }
}

#[test]
fn bands_are_a_case_over_cuts() {
    check(
        "bands: {of: spend_7d, cuts: [50, 99.50, 200], labels: [low, no, y, 01]}",
        "CASE WHEN spend_7d IS NULL THEN NULL WHEN spend_7d < 50 THEN 'low' WHEN spend_7d < 99.50 \
         THEN 'no' WHEN spend_7d < 200 THEN 'y' ELSE '01' END",
        &["low", "no", "y", "01"],
    );
    check(
        "bands: {of: spend_7d - 1, cuts: [0.10], labels: [it's, high], missing: none}",
        "CASE WHEN (spend_7d - 1) IS NULL THEN 'none' WHEN (spend_7d - 1) < 0.10 THEN 'it''s' ELSE \
         'high' END",
        &["none", "it's", "high"],
    );
}

#[test]
fn ratio_compares_without_dividing() {
    check(
        "ratio: {num: spend_7d, den: spend_30d, cuts: [0.25], labels: [less, more], default: none}",
        "CASE WHEN spend_7d IS NULL OR spend_30d IS NULL OR spend_30d <= 0 THEN 'none' WHEN \
         spend_7d < 0.25 * spend_30d THEN 'less' ELSE 'more' END",
        &["none", "less", "more"],
    );
}

#[test]
fn recency_is_bands_of_days_since() {
    check(
        "recency: {of: last_bought, cuts: [7], labels: [new, old], missing: never}",
        "CASE WHEN days_since(last_bought) IS NULL THEN 'never' WHEN days_since(last_bought) < 7 \
         THEN 'new' ELSE 'old' END",
        &["never", "new", "old"],
    );
}

#[test]
fn map_groups_keys_by_label_in_order_of_appearance() {
    check(
        "map: {of: last_sku, to: {a: x, b: y, c: x}, default: z}",
        "CASE WHEN last_sku IN ('a', 'c') THEN 'x' WHEN last_sku IN ('b') THEN 'y' ELSE 'z' END",
        &["x", "y", "z"],
    );
    check(
        "map: {of: product_rank, to: {01: x, -2: y}}",
        "CASE WHEN product_rank IN (1) THEN 'x' WHEN product_rank IN (-2) THEN 'y' END",
        &["x", "y"],
    );
}

#[test]
fn parameters_and_flags_are_bool_tags() {
    check("expr: spend_7d > $big", "spend_7d > 250", &["false", "true"]);
    check("expr: upper(last_sku)", "upper(last_sku)", &[]);
}

#[test]
fn a_matrix_makes_every_combination_but_the_excluded() {
    let rules = "
tag: level_{span}_{at}
doc: Over {at} in {span}.
expr: spend_{span} > {at}
matrix: {span: [7d, 30d], at: [1, 2]}
exclude: [{span: 30d, at: 2}]
";
    let catalog = catalog(rules);
    let names: Vec<&str> = catalog.tags.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["level_7d_1", "level_7d_2", "level_30d_1"]);
    assert_eq!(catalog.tags[1].doc, "Over 2 in 7d.");
    assert_eq!(catalog.tags[2].expr.sql, "spend_30d > 1");
}

#[test]
fn tags_keep_catalogue_order_and_are_computed_after_those_they_read() {
    let rules = "
tag: a
expr: NOT c
---
tag: b
expr: buys > 1
---
tag: c
expr: b OR d = 'x'
---
tag: d
expr: CASE WHEN b THEN 'x' END
";
    let catalog = catalog(rules);
    let names: Vec<&str> = catalog.tags.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(catalog.tag_order, [1, 3, 2, 0]);
}

#[test]
fn streams_features_and_dimensions_are_resolved() {
    let catalog = catalog("tag: a\nexpr: shelf_floor > 1\n");
    let stream = &catalog.streams[0];
    assert!(matches!(&stream.from, From::File { path, .. } if path == "consume.jsonl.gz"));
    assert_eq!((stream.uid, stream.time), (4, 3));
    assert_eq!(stream.columns[2].from, "UnitPrice");
    assert!(stream.columns[4].mask);

    let feature = |name: &str| catalog.features.iter().find(|f| f.name == name).unwrap();
    assert_eq!(feature("spend_30d").span, Span::Days { days: 30, offset: 0 });
    assert_eq!(feature("spend_before").span, Span::Days { days: 30, offset: 30 });
    assert!(matches!(feature("buys").aggregate, Aggregate::Count));
    assert!(feature("buys").filter.is_some());
    assert!(matches!(feature("skus").aggregate, Aggregate::CountDistinct(..)));
    assert_eq!(feature("spend_7d").doc, "Spent in 7d.");

    let [product, shelf] = catalog.dimensions.as_slice() else { panic!("two dimensions") };
    assert_eq!((product.name.as_str(), product.table.as_str()), ("product", "product"));
    assert_eq!(product.strategy, Strategy::Preload);
    assert_eq!(product.columns[1].name, "product_rank");
    assert_eq!(product.columns[1].from, "ranking");
    assert_eq!(shelf.table, "shelves");
    assert_eq!(shelf.ttl_ms, 1_800_000);
    assert_eq!(shelf.key, DimensionKey::Column { dimension: 0, column: 0 });
}

const TWO: &str = "
tag: level
bands: {of: buys, cuts: [1, 5], labels: [low, mid, very high]}
---
tag: buyer
expr: buys > 0
";

fn lock_of(loaded: &Loaded) -> String {
    loaded.lock.updated(&loaded.catalog).to_text()
}

#[test]
fn the_lock_gives_ids_and_survives_being_written_and_read() {
    let first = loaded(TWO, "");
    assert_eq!(first.catalog.tags[0].id, "");
    assert_eq!(first.lock_behind, ["tag `level` has no id", "tag `buyer` has no id"]);
    let text = lock_of(&first);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines, ["next 2", "buyer = 1 bool", "level = 0 text low mid \"very high\""]);

    let second = loaded(TWO, &text);
    assert_eq!(second.lock_behind, Vec::<String>::new());
    assert_eq!(second.catalog.tags[0].id, "0");
    assert_eq!(lock_of(&second), text);
}

#[test]
fn labels_keep_their_codes_when_the_rule_changes() {
    let text = lock_of(&loaded(TWO, ""));
    let changed = TWO.replace("[1, 5]", "[1]").replace("low, mid, very high", "new, low");
    let second = loaded(&changed, &text);
    assert_eq!(second.lock_behind, ["label `new` of tag `level` has no code"]);
    let Domain::Closed { labels, bool: false } = &second.catalog.tags[0].domain else { panic!() };
    assert_eq!(labels, &["low", "mid", "very high", "new"]);
    assert!(lock_of(&second).contains("level = 0 text low mid \"very high\" new\n"));
}

#[test]
fn a_renamed_tag_keeps_its_id_and_a_removed_one_leaves_a_tombstone() {
    let text = lock_of(&loaded(TWO, ""));
    let renamed =
        "tag: amount_level\nwas: level\nbands: {of: buys, cuts: [1], labels: [low, mid]}\n";
    let second = loaded(renamed, &text);
    assert_eq!(second.catalog.tags[0].id, "0");
    assert_eq!(second.lock_behind, ["tag `amount_level` was `level`", "tag `buyer` is gone"]);
    let text = lock_of(&second);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        ["next 2", "amount_level = 0 text low mid \"very high\"", "buyer = 1 removed bool"]
    );

    let third = loaded(&format!("{renamed}---\ntag: newcomer\nexpr: buys = 1\n"), &text);
    assert!(lock_of(&third).contains("newcomer = 2 bool\n"), "an id is never given again");
    let back = loaded(&format!("{renamed}---\ntag: buyer\nexpr: buys = 1\n"), &text);
    assert_eq!(back.catalog.tags[1].id, "1");
}

#[test]
fn a_tag_of_another_kind_gets_a_new_id() {
    let text = lock_of(&loaded(TWO, ""));
    let changed = TWO.replace("expr: buys > 0", "expr: CASE WHEN buys > 0 THEN 'y' ELSE 'n' END");
    let second = loaded(&changed, &text);
    assert_eq!(second.catalog.tags[1].id, "");
    assert_eq!(second.lock_behind, ["tag `buyer` was bool and is text now: it gets a new id"]);
    let text = lock_of(&second);
    assert!(text.contains("buyer = 2 text y n\nbuyer = 1 removed bool\n"), "{text}");
    assert_eq!(loaded(&changed, &text).catalog.tags[1].id, "2");
}

#[test]
fn any_label_survives_the_lock() {
    let odd =
        "tag: a\nmap: {of: last_sku, to: {x: 'a \"b\" \\ c', y: '#1', z: 'größer = x', w: '-'}}\n";
    let first = loaded(odd, "");
    let text = lock_of(&first);
    let mut files = Files::default();
    let id = files.add("ids.lock", text.clone());
    let mut out = tagloom::catalog::place::Diagnostics::default();
    let lock = Lock::parse(id, &text, &mut out);
    assert!(!out.has_errors());
    assert_eq!(lock.entries()[0].labels, ["a \"b\" \\ c", "#1", "größer = x", "-"]);
}

#[test]
fn the_fingerprint_is_of_the_meaning() {
    let one = catalog(TWO).fingerprint;
    assert_eq!(one, catalog(&TWO.replace("tag: buyer", "tag: buyer\ndoc: Bought.")).fingerprint);
    assert_ne!(one, catalog(&TWO.replace("buys > 0", "buys > 1")).fingerprint);
    assert_ne!(one, catalog(&TWO.replace("[1, 5]", "[1, 6]")).fingerprint);
}

#[test]
fn a_case_has_absolute_times_and_typed_values() {
    let rule = "
tag: big
expr: spend_30d > $big
cases:
  - as_of: 2026-04-10T12:00
    given:
      consume:
        - {customer: 7, at: '-20d', quantity: 3, price: 100.5}
        - {at: '-3h', quantity: 1, price: 2}
    dimensions: {product: [{key: a, ranking: 3}]}
    expect: {big: true}
    after: {60d: {big: false}, 2h: {big: true}}
";
    let catalog = catalog(rule);
    let case = &catalog.cases[0];
    // Clocks went forward on 29 March: 2026-04-10T12:00 is 11:00 UTC, and 21 March is noon UTC.
    assert_eq!(case.as_of_ms, 1_775_818_800_000);
    let (stream, row) = &case.given[0];
    assert_eq!(*stream, 0);
    let text = serde_json::to_string(row).unwrap();
    assert_eq!(text, r#"{"at":1774094400000,"customer":7,"price":"100.5","quantity":3}"#);
    let (_, row) = &case.given[1];
    assert_eq!(row["customer"], 7, "all rows are of one user");
    assert_eq!(row["at"], 1_775_818_800_000_i64 - 3 * 3_600_000);
    assert_eq!(case.dimensions["product"][0]["key"], "a");
    assert_eq!(case.expect, [(0, Some("true".to_owned()))]);
    assert_eq!(case.after[0], (2 * 3_600_000, vec![(0, Some("true".to_owned()))]));
    assert_eq!(case.after[1].0, 60 * 86_400_000);
}
