//! The author's commands, as people type them: output, exit codes, remedies.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

mod shop;

use std::fs;

use shop::Shop;

#[test]
fn test_runs_cases_before_tags_have_ids_and_says_what_fails() {
    let shop = Shop::new();
    shop.check(&["test"], 0, &["1 cases, 2 checks: all pass"]);
    shop.check(&["test", "--select", "group:place"], 0, &["no cases"]);
    shop.edit("tags/rules/r.yaml", "cuts: [50]", "cuts: [51]");
    shop.check(
        &["test"],
        1,
        &[
            "tags/rules/r.yaml:7: case of `level`",
            "level: expected high, got low",
            "spend_30d",
            "50",
        ],
    );
    let said = shop.run(&["test", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(json["failed"][0]["wrong"][0]["reads"]["spend_30d"], "50");
    shop.edit("tags/rules/r.yaml", "price: 50", "price: lots");
    shop.check(&["test"], 2, &["`lots` is not an int"]);
}

#[test]
fn check_outlines_the_catalogue_and_selects() {
    let shop = Shop::new();
    shop.check(&["check"], 2, &["3 tags over 3 features", "run `tagloom check --write`"]);
    shop.check(&["check", "--write"], 0, &["1 cases with 2 checks", "without kernel: 1 tags"]);
    let said =
        shop.check(&["check", "--select", "+big"], 0, &["level", "sum(price) of consume, 7d"]);
    assert!(!said.contains("product"), "{said}");
    shop.check(&["check", "--select", "owner:grwth"], 2, &["did you mean `owner:growth`?"]);
    let rule =
        "---\ntag: today\ndoc: d\nowner: o\ngroup: g\nexpr: EXTRACT(dow FROM as_of_date) = 1\n";
    fs::write(shop.0.path().join("tags/rules/z.yaml"), rule.trim_start_matches("---\n")).unwrap();
    shop.check(&["check", "--write"], 0, &["by time alone: 1 tags may change on any day", "today"]);
}

#[test]
fn sql_shows_what_sugar_stands_for_and_what_it_reads() {
    let shop = Shop::new();
    let texts =
        ["tags/rules/r.yaml:1", "\n  WHEN ", "spend_30d  feature: sum(price) of consume, 30d"];
    shop.check(&["sql", "level"], 0, &texts);
    shop.check(&["sql", "big"], 0, &["spend_7d >= 100 AND level = 'high'", "level     tag: "]);
    shop.check(&["sql", "levl"], 2, &["unknown tag `levl`; did you mean `level`?"]);
}

#[test]
fn config_says_where_each_setting_comes_from() {
    let shop = Shop::new();
    fs::write(shop.0.path().join("tagloom.toml"), "[window]\nclose_ms = 2000\n").unwrap();
    let said = shop.check(
        &["config", "--set", "store.path=/data", "--catalog", "rules"],
        0,
        &["path = \"/data\"", "# command line", "# tagloom.toml", "# Threads that host users"],
    );
    fs::write(shop.0.path().join("tagloom.toml"), said.replace("/data", "/other")).unwrap();
    shop.check(&["config"], 0, &["path = \"/other\"", "path = \"rules\""]);
    shop.check(&["config", "--set", "store.pth=x"], 2, &["did you mean `path`?"]);
}

#[test]
fn run_loads_a_dimensions_file_when_it_has_changed() {
    let shop = Shop::new();
    shop.check(&["check", "--write"], 0, &[]);
    shop.check(&["run"], 0, &["product: 2 rows loaded from tags/products.csv"]);
    let said = shop.check(&["run"], 0, &[]);
    assert!(!said.contains("rows loaded"), "{said}");
    shop.edit("tags/products.csv", "B,low", "B,low\nC,low");
    shop.check(&["run"], 0, &["product: 3 rows loaded"]);
    // By hand, once: the file itself has not changed.
    fs::write(shop.0.path().join("other.csv"), "key,shelf\nA,other\n").unwrap();
    let said = shop.check(&["run", "--dims", "product=other.csv"], 0, &[]);
    assert!(!said.contains("rows loaded"), "{said}");
    let said = shop.check(&["run"], 0, &[]);
    assert!(!said.contains("rows loaded"), "{said}");
    // Another column is asked of the same file.
    shop.edit("tags/dimensions/d.yaml", "{shelf: string}", "{shelf: string, key: string}");
    shop.check(&["run"], 0, &["product: 3 rows loaded"]);
    fs::remove_file(shop.0.path().join("tags/products.csv")).unwrap();
    shop.check(&["run"], 2, &["tags/products.csv", "put it there, or drop `file:`"]);
}
