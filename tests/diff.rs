//! `tagloom diff` and `tagloom catalog stats`, as people type them.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

mod shop;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use shop::Shop;

/// Users 1 to 60 who spent their number times 5 on a day of their own, and a copy of the rules.
fn shop() -> Shop {
    let shop = Shop::new();
    let mut events = String::new();
    for user in 1..=60 {
        let (price, day) = (user * 5, 1 + user % 9);
        let sku = if user % 2 == 0 { "A" } else { "B" };
        writeln!(
            events,
            r#"{{"sku":"{sku}","price":{price},"at":"2026-03-0{day}T12:00:00Z","user":{user}}}"#
        )
        .unwrap();
    }
    shop.write("tags/consume.jsonl", &events);
    shop.check(&["check", "--write"], 0, &[]);
    shop.check(&["run"], 0, &[]);
    copy(shop.0.path(), "tags", "new");
    shop
}

fn copy(root: &Path, from: &str, to: &str) {
    for entry in fs::read_dir(root.join(from)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
        if entry.path().is_dir() {
            copy(root, &from, &to);
        } else {
            fs::create_dir_all(root.join(&to).parent().unwrap()).unwrap();
            fs::copy(root.join(from), root.join(to)).unwrap();
        }
    }
}

/// (from, to, users) of one tag, most users first.
fn flips(report: &Value, tag: &str) -> Vec<(Value, Value, u64)> {
    let changes = report["changes"].as_array().unwrap();
    let change = changes.iter().find(|c| c["new"] == tag).unwrap_or_else(|| panic!("{report}"));
    assert_eq!(change["lacks"], json!([]), "{change}");
    let flip = |f: &Value| {
        (f["from"].clone(), f["to"]["value"].clone(), f["to"]["users"].as_u64().unwrap())
    };
    change["flips"].as_array().unwrap().iter().map(flip).collect()
}

#[test]
fn a_changed_rule_says_who_flips() {
    let shop = shop();
    shop.check(&["diff", "tags", "new"], 0, &["3 tags before, 3 after: 0 mean something else"]);
    // 50 <= spend: users 10 to 60 were high; 60 of them from 100 on are users 20 to 60.
    shop.edit("new/rules/r.yaml", "cuts: [50]", "cuts: [100]");
    let ways = ["~ level  its rule is another one", "~ big  by what it reads: level"];
    shop.check(&["diff", "tags", "new"], 0, &[&ways[..], &["--store counts"]].concat());
    let all = ["diff", "tags", "new", "--store"];
    let seen = ["10 of 60 users flip (16.7 %)", "high -> low", "such as 10, 11, 12, 13, 14"];
    shop.check(&all, 0, &[&ways[..], &seen].concat());
    let report = shop.json(&all);
    assert_eq!(flips(&report, "level"), [(json!("high"), json!("low"), 10)]);
    assert_eq!(flips(&report, "big"), []);
    assert_eq!(report["surveyed"]["users"], 60);
    // Beside a run, by the process that has the store open.
    let running = shop.running();
    assert_eq!(shop.json(&all)["changes"], report["changes"]);
    drop(running);
    // What diff says is what comes of it.
    let before = exported(&shop, "tags");
    fs::copy(shop.0.path().join("new/rules/r.yaml"), shop.0.path().join("tags/rules/r.yaml"))
        .unwrap();
    // Everybody is computed once, though other rules would have it done anyway.
    shop.check(&["backfill"], 0, &["\n60 users examined, 1 tags moved"]);
    assert_eq!(shop.json(&["catalog"])["recomputed"], true);
    shop.check(&["backfill"], 0, &["60 users examined, no tag moves"]);
    let after = exported(&shop, "tags");
    assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 10);
}

fn exported(shop: &Shop, catalog: &str) -> Vec<String> {
    shop.check(&["export", "--out", "all.csv", "--catalog", catalog], 0, &[]);
    let text = fs::read_to_string(shop.0.path().join("all.csv")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_sample_is_of_the_size_asked_for_and_the_same_each_time() {
    let shop = shop();
    shop.edit("new/rules/r.yaml", "cuts: [50]", "cuts: [150]");
    let report = |sample: &str| shop.json(&["diff", "tags", "new", "--sample", sample]);
    let some = report("20");
    assert_eq!(some["surveyed"], report("20")["surveyed"]);
    assert_eq!(
        (&some["surveyed"]["users"], &some["surveyed"]["stored_users"]),
        (&json!(20), &json!(60))
    );
    assert_eq!(some, report("20"));
    let users = |report: &Value| flips(report, "level").iter().map(|f| f.2).sum::<u64>();
    assert_eq!(users(&report("all")), 20);
    assert!((1..20).contains(&users(&some)), "{some}");
    shop.check(&["diff", "tags", "new", "--sample", "some"], 2, &["a number of users, or `all`"]);
}

#[test]
fn tags_come_go_and_are_renamed() {
    let shop = shop();
    shop.edit("new/rules/r.yaml", "tag: shelf", "tag: place");
    shop.edit("new/rules/r.yaml", "tag: big\n", "tag: dear\nwas: big\nshadow: true\n");
    let rule = "tag: dearest\nexpr: CASE WHEN spend_30d > 250 THEN 'top' END\n";
    shop.write("new/rules/z.yaml", rule);
    let texts = [
        "+ place  means what `shelf` meant: renamed? then add `was: shelf`",
        "- shelf",
        "~ big -> dear  no longer published (a shadow tag now)",
        "+ dearest",
        "users: top 10, no value 50",
        "0 mean something else, 2 are new, 1 are gone, 1 are renamed",
    ];
    shop.check(&["diff", "tags", "new", "--store"], 0, &texts);
}

#[test]
fn what_the_store_does_not_hold_is_said_and_not_guessed() {
    let shop = shop();
    let lacks = |why: &str| {
        let texts = ["cannot be computed from the store: ", why];
        let said = shop.check(&["diff", "tags", "new", "--store"], 0, &texts);
        assert!(!said.contains("users flip"), "{said}");
        fs::remove_dir_all(shop.0.path().join("new")).unwrap();
        copy(shop.0.path(), "tags", "new");
    };
    let rules = "new/rules/r.yaml";
    let feature = |value: &str, window: &str| {
        let text = format!("feature: extra\nstream: consume\nvalue: {value}\nwindow: {window}\n");
        shop.write("new/features/z.yaml", &text);
        shop.edit(rules, "spend_7d >= $big", "extra >= $big");
    };
    feature("max(length(sku))", "7d");
    lacks("`extra` has no history: it would count from now on");
    feature("sum(price)", "300d");
    lacks("`extra`: days are kept apart for 37 days only");
    feature("max(price)", "lifetime");
    lacks("`extra` has no history");
    shop.edit("new/streams/s.yaml", "uid: user", "where: price > 10\nuid: user");
    shop.edit(rules, "cuts: [50]", "cuts: [60]");
    lacks("`spend_30d` has no history");
    shop.edit("new/dimensions/d.yaml", "shelf: string", "shelf: string, row: int");
    shop.edit(rules, "expr: product_shelf", "expr: product_row");
    lacks("`product`: table `product` was loaded without these columns");
    // What is kept by a column's name begins anew under another one.
    shop.edit("new/streams/s.yaml", "price: int", "paid: {type: int, from: price}");
    shop.edit("new/features/f.yaml", "sum(price)", "sum(paid)");
    shop.edit(rules, "price: 50", "paid: 50");
    lacks("~ level");
    // Another span of what is kept can be computed.
    feature("sum(price)", "14d");
    let report = shop.json(&["diff", "tags", "new", "--store"]);
    assert_eq!(flips(&report, "big"), [(json!("false"), json!("true"), 8)]);
}

#[test]
fn another_condition_for_closed_accounts_says_which_would_close_and_which_reopen() {
    let shop = shop();
    let closes = |dir: &str, when: &str| {
        let text = fs::read_to_string(shop.0.path().join(dir).join("catalog.yaml")).unwrap();
        let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with("closed:")).collect();
        shop.write(&format!("{dir}/catalog.yaml"), &format!("{}\n{when}\n", kept.join("\n")));
    };
    let all = ["diff", "tags", "new", "--store"];
    // Users spent 5 times their number.
    closes("new", "closed: spend_30d < 25");
    shop.check(&["diff", "tags", "new"], 0, &["no account was closed before", "--store counts"]);
    let close = "4 of 60 accounts would close (6.7 %)  such as 1, 2, 3, 4";
    shop.check(
        &all,
        0,
        &["~ closed accounts  no account was", close, "0 of 60 accounts would reopen"],
    );
    closes("tags", "closed: spend_30d < 25");
    shop.check(&["backfill"], 0, &[]);
    assert_eq!(shop.json(&all)["closed"], Value::Null);
    closes("new", "closed: spend_30d < 15 OR spend_30d > 290");
    let texts = ["on another condition", "2 of 60 accounts would close (3.3 %)  such as 59, 60"];
    shop.check(
        &all,
        0,
        &[&texts[..], &["2 of 60 accounts would reopen (3.3 %)  such as 3, 4"]].concat(),
    );
    closes("new", "");
    shop.check(&all, 0, &["no account is closed any more", "4 of 60 accounts would reopen"]);
    // Through a tag, and beside a run.
    closes("tags", "closed: level = 'low'");
    shop.check(&["backfill"], 0, &[]);
    closes("new", "closed: level = 'low'");
    shop.edit("new/rules/r.yaml", "cuts: [50]", "cuts: [60]");
    let texts = ["~ closed accounts  by what it reads: level", "2 of 60 accounts would close"];
    let running = shop.running();
    shop.check(&all, 0, &texts);
    drop(running);
    // What the store does not hold is said of this, too.
    let feature = "feature: extra\nstream: consume\nvalue: max(price)\nwindow: lifetime\n";
    shop.write("new/features/z.yaml", feature);
    closes("new", "closed: extra > 3");
    let said = shop.check(&all, 0, &["~ closed accounts", "`extra` has no history"]);
    assert!(!said.contains("would close"), "{said}");
}

#[test]
fn stats_count_users_and_costs() {
    let shop = shop();
    let report = shop.json(&["catalog", "stats"]);
    let tags = report["tags"].as_array().unwrap();
    let names: Vec<&Value> = tags.iter().map(|t| &t["tag"]).collect();
    assert_eq!(names, ["level", "shelf", "big"]);
    assert_eq!(tags[0]["users"]["values"], json!({"low": 9, "high": 51}));
    assert_eq!(tags[1]["users"]["values"], json!({"top": 30, "low": 30}));
    assert_eq!(tags[0]["bytes_per_user"], 0.25);
    assert!(tags[1]["bytes_per_user"].as_f64().unwrap() > 3.0, "{report}");
    assert!(tags.iter().all(|t| t["ns_per_user"].as_f64().unwrap() > 0.0), "{report}");
    let running = shop.running();
    let texts = ["1 tags over 20 of 60 users", "level", "yes", "0.25", "0.0 %"];
    let said = shop.check(&["catalog", "stats", "--select", "level", "--sample", "20"], 0, &texts);
    assert!(!said.contains("shelf"), "{said}");
    drop(running);
}
