//! Dimension tables that change, or cannot be read, while events come.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tagloom::dimension::Lookups;
use tagloom::serve::readers::Readers;
use tagloom::store::{Store, Uid};

use crate::group::Group;
use crate::rig::portrait::{AS_OF_MS, Portrait};
use crate::rig::shop::Shop;
use crate::rig::wait_until;

const REACHED: Duration = Duration::from_secs(60);

/// The same keys, with the values of the next row.
fn rotated(file: &Path, into: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let header = lines.next().unwrap();
    let rows: Vec<(&str, &str)> = lines.map(|line| line.split_once(',').unwrap()).collect();
    let values = rows.iter().cycle().skip(1).map(|(_, values)| values);
    let rows = rows.iter().zip(values).map(|((key, _), values)| format!("{key},{values}\n"));
    std::fs::create_dir_all(into.parent().unwrap()).unwrap();
    std::fs::write(into, format!("{header}\n") + &rows.collect::<String>()).unwrap();
}

/// Users whose stored tags are not those of the present tables.
fn behind(store: &Arc<dyn Store>) -> usize {
    let readers = Readers::over(Arc::clone(store), Lookups::default()).unwrap();
    let reading = readers.reading().unwrap();
    let users = store.scan_uids(None, usize::MAX).unwrap();
    let differs = |key| {
        let uid = Uid::from_key(reading.active.ruleset.catalog.uid, key).unwrap();
        !reading.reader.read(&uid, Some(AS_OF_MS)).unwrap().differs.is_empty()
    };
    users.iter().filter(|key| differs(key)).count()
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn tables_that_are_loaded_anew_reach_the_users_of_two_processes() {
    let mut group = Group::start("epochs");
    let (first, second) = (group.process("first"), group.process("second"));
    group.send(0, 50);
    group.wait_committed();
    for table in ["user_dim", "city_dim"] {
        let file = |folder: &str| group.portrait.path(&format!("{folder}/{table}.csv"));
        rotated(&file("data"), &file("new"));
    }
    let store = group.store();
    assert_eq!(behind(&store), 0);
    group.portrait.load_dimensions_of("new", &group.settings());
    group.send(50, 100);
    group.wait_committed();
    wait_until("users of changed rows are reached", REACHED, || behind(&store) == 0);
    Portrait::stop(first);
    Portrait::stop(second);
    group.portrait.expect_dimensions_of("new");
    group.assert_equal();
}

/// A shop whose customers are in the arms of campaigns, as a topic says.
const CATALOG: [(&str, &str); 5] = [
    ("catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy\nfrom: {kafka: buy, format: json}\ncolumns: {customer: u64, at: \
         timestamp(ms), amount: int}\nuid: customer\ntime: at\n",
    ),
    ("features/f.yaml", "feature: spend\nstream: buy\nvalue: sum(amount)\nwindow: lifetime\n"),
    (
        "dimensions/d.yaml",
        "dimension: campaign\nkey: uid\ntopic: campaigns\ncolumns: {arm: string}\n\
         strategy: broadcast\nmax_stale: 1h\n",
    ),
    (
        "rules/r.yaml",
        "tag: arm\ndoc: d\nowner: o\ngroup: g\nexpr: campaign_arm\n---\ntag: spent\ndoc: d\n\
         owner: o\ngroup: g\nexpr: spend\n",
    ),
];

/// A user's tags as they are, and how many of them are stored otherwise.
fn tags(shop: &Shop, customer: u64) -> Option<(String, String, usize)> {
    let output = shop.command(&["get", &customer.to_string(), "--json"]).output().unwrap();
    let user: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let tag = |name: &str| match &user["tags"][name] {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some((tag("arm"), tag("spent"), user["differs"].as_array().map_or(0, Vec::len)))
}

/// Waits until a user's tags are these, stored too.
#[track_caller]
fn wait(shop: &Shop, customer: u64, arm: &str, spent: &str) {
    let expect = (arm.to_owned(), spent.to_owned(), 0);
    let mut have = None;
    let deadline = tagloom::clock::Deadline::after(REACHED);
    while have.as_ref() != Some(&expect) {
        assert!(!deadline.is_over(), "user {customer}: {have:?}, not {expect:?}");
        std::thread::park_timeout(Duration::from_millis(100));
        have = tags(shop, customer);
    }
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn a_table_that_a_topic_keeps_is_followed() {
    let mut shop = Shop::start(&CATALOG, &[("buy", 4), ("campaigns", 3)]);
    shop.put("campaigns", "7", r#"{"arm":"old"}"#);
    shop.put("campaigns", "7", r#"{"arm":"a"}"#);
    shop.put("campaigns", "\"8\"", r#"{"arm":"b"}"#);
    let process = shop.run("first", &[]);
    [7, 8, 9].into_iter().for_each(|customer| shop.buy(customer, 10));
    wait(&shop, 7, "a", "10");
    wait(&shop, 8, "b", "10");
    wait(&shop, 9, "-", "10");
    // Nobody buys, and yet rows reach their users.
    shop.put("campaigns", "9", r#"{"arm":"c"}"#);
    shop.put("campaigns", "8", "");
    shop.put("campaigns", "7", "no JSON");
    wait(&shop, 9, "c", "10");
    wait(&shop, 8, "-", "10");
    wait(&shop, 7, "a", "10");
    // While the broker is away, what was read serves.
    shop.kafka.kill_broker();
    std::thread::park_timeout(Duration::from_secs(3));
    wait(&shop, 9, "c", "10");
    shop.kafka.start_broker();
    shop.put("campaigns", "8", r#"{"arm":"back"}"#);
    shop.buy(8, 5);
    wait(&shop, 8, "back", "15");
    Portrait::stop(process);
    // Nor does what changes while nobody runs stay unknown.
    shop.put("campaigns", "9", r#"{"arm":"late"}"#);
    let process = shop.run("second", &[]);
    wait(&shop, 9, "late", "10");
    Portrait::stop(process);
}
