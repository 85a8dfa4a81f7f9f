//! The terms of tags, as commands keep them: shadow, validity, deprecation, expectations.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

mod shop;

use std::fs;

use serde_json::json;
use shop::Shop;

const RULES: &str = "
tag: next_level
doc: What `level` may become.
owner: growth
group: value
shadow: true
bands: {of: spend_30d, cuts: [60], labels: [low, high], missing: none}
expect: {accepted: [low], null_share_max: 0}
---
tag: spring
doc: For the spring letter.
owner: growth
group: value
deprecated: use level
valid_until: 2026-03-31
expr: level
expect: {null_share_max: 0.1}
";

/// Users 7 (120 spent on 1 March) and 8 (45 spent on 10 March), as of that noon.
fn shop() -> Shop {
    let shop = Shop::new();
    shop.write("tags/rules/terms.yaml", RULES);
    let events = fs::read_to_string(shop.0.path().join("tags/consume.jsonl")).unwrap();
    let more = r#"{"sku":"B","price":45,"at":"2026-03-10T12:00:00Z","user":8}"#;
    shop.write("tags/consume.jsonl", &format!("{events}{more}\n"));
    shop.check(&["check", "--write"], 0, &[]);
    shop
}

#[test]
fn a_shadow_tag_is_counted_and_not_published() {
    let shop = shop();
    let ran = shop.json(&["run"]);
    let next = &ran["shadow"]["next_level"];
    assert_eq!(next["users"]["values"], json!({"high": 1, "low": 1}), "{ran}");
    assert_eq!((&next["changes"], &next["users"]["without"]), (&json!(2), &json!(0)));
    shop.check(&["run"], 0, &["next_level", "0 changes; users: high 1, low 1, no value 0"]);

    let tags = |args: &[&str]| shop.json(&[&["get", "7"], args].concat())["tags"].clone();
    assert_eq!(tags(&[])["next_level"], json!(null));
    assert_eq!(tags(&[])["level"], "high");
    assert_eq!(tags(&["--shadow"])["next_level"], "high");
    let refused = ["`next_level` is a shadow tag", "--shadow"];
    shop.check(&["get", "7", "--select", "next_level"], 2, &refused);
    shop.check(&["why", "7", "next_level"], 0, &["shadow: computed and counted, not published"]);

    shop.check(&["export", "--out", "all.csv"], 0, &[]);
    let csv = fs::read_to_string(shop.0.path().join("all.csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("uid,level,shelf,big,spring"));
    shop.check(&["export", "--out", "b.csv", "--select", "next_level"], 2, &refused);
}

#[test]
fn what_is_expected_is_checked_over_all_users() {
    let shop = shop();
    shop.check(&["test", "--store"], 2, &["tagloom run"]);
    shop.check(&["run"], 0, &[]);
    let broken = [
        "1 cases, 2 checks: all pass",
        "tags/rules/terms.yaml:2: `next_level` is not as expected",
        "`high` is not accepted: 1 users, such as 7",
        "expect: 2 tags over 2 users, as of 2026-03-10T12:00:00: 1 are not as expected",
    ];
    shop.check(&["test", "--store"], 1, &broken);
    let running = shop.running();
    shop.check(&["test", "--store"], 1, &broken);
    drop(running);
    shop.check(&["test", "--store", "--select", "spring"], 0, &["1 tags over 2 users"]);
    // On the last day both still have a value; then nothing is expected any more.
    for as_of in ["2026-03-31T23:59:59Z", "2026-04-01T00:00:00Z"] {
        let at = ["test", "--store", "--select", "spring", "--as-of", as_of];
        shop.check(&at, 0, &["all as expected"]);
    }
    // By rules that are not written to the lock yet, and were not run.
    shop.edit("tags/rules/terms.yaml", "expr: level", "expr: NULLIF(level, 'high')");
    let some = ["50.0 % of users have no value, at most 0.1 may: such as 7"];
    shop.check(&["test", "--store"], 1, &some);
    let json = shop.json(&["test", "--store"]);
    assert_eq!(json["expect"]["broken"][1]["without"]["users"], 1, "{json}");
    // Another zone's days are other days.
    shop.edit("tags/catalog.yaml", "UTC", "Asia/Tokyo");
    shop.check(&["test", "--store"], 2, &["uid or timezone are not those of the store"]);
}

#[test]
fn a_tag_ends_by_itself_and_says_so() {
    let shop = shop();
    shop.check(&["run"], 0, &[]);
    let ends = ["deprecated: use level", "has no value from 2026-04-01 00:00:00", "2026-04-01"];
    shop.check(&["why", "7", "spring"], 0, &ends);
    let at = |as_of: &str| shop.json(&["get", "8", "--as-of", as_of])["tags"]["spring"].clone();
    assert_eq!([at("2026-03-31T23:59:59Z"), at("2026-04-01")], [json!("low"), json!(null)]);
    let lines = [
        "deprecated: spring (use level)",
        "not published: next_level",
        "limited in time, every user is recomputed when one begins or ends: spring",
        "of 2 tags something is expected over all users",
    ];
    shop.check(&["check"], 0, &lines);
    let stats =
        ["next_level *", "next_level: shadow: ", "spring: deprecated: use level; has no value"];
    shop.check(&["catalog", "stats"], 0, &stats);
    let tags = shop.json(&["check"])["tags"].clone();
    let spring = tags.as_array().unwrap().iter().find(|t| t["name"] == "spring").unwrap();
    assert_eq!(spring["terms"]["valid_until_ms"], 1_775_001_600_000_i64);
    assert_eq!(spring["terms"]["expect"]["null_share_max"], "0.1");
}
