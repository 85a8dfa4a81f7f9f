//! Dimension tables that change, or cannot be read, while events come.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tagloom::dimension::Lookups;
use tagloom::serve::readers::Readers;
use tagloom::store::{Store, Uid};

use crate::group::Group;
use crate::rig::kafka::Record;
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
    let store: Arc<dyn Store> = Arc::new(group.store());
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

/// Key and values of a table's rows, with the names of the columns.
fn rows_of(file: &Path) -> (String, Vec<(String, String)>) {
    let text = std::fs::read_to_string(file).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let row = |line: &str| line.split_once(',').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
    (header.to_owned(), rows.lines().map(row).collect())
}

/// A row as its topic says it.
fn said(header: &str, values: &str) -> String {
    let cells = header.split(',').skip(1).zip(values.split(','));
    let object: serde_json::Map<_, _> = cells.map(|(n, v)| (n.to_owned(), v.into())).collect();
    serde_json::Value::Object(object).to_string()
}

/// Tells a topic of rows; without values they are gone.
fn tell(group: &Group, table: &str, header: &str, rows: &[(&String, Option<&String>)]) {
    let value = |values: Option<&String>| values.map_or_else(String::new, |v| said(header, v));
    let texts: Vec<_> = rows.iter().map(|(key, values)| (key.as_bytes(), value(*values))).collect();
    let at_ms = AS_OF_MS;
    let records = texts.iter().map(|(key, v)| Record { key, value: v.as_bytes(), at_ms });
    group.kafka.send(&group.portrait.topic(table), records);
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn stored_tables_that_topics_keep_reach_the_users_of_two_processes() {
    const TABLES: [&str; 2] = ["user_dim", "city_dim"];
    let mut group = Group::start("upserts");
    let file = |group: &Group, folder: &str, table: &str| {
        group.portrait.path(&format!("{folder}/{table}.csv"))
    };
    // Of a table that is loaded anew the topic changes a quarter behind that, deletes another one, and
    // says of a third what the load says.
    for table in TABLES {
        let file = |folder: &str| file(&group, folder, table);
        rotated(&file("data"), &file("new"));
        rotated(&file("new"), &file("other"));
        let ((header, new), (_, other)) = (rows_of(&file("new")), rows_of(&file("other")));
        let rows = new.iter().zip(&other).enumerate().filter(|(at, _)| at % 4 != 2);
        let row = |(at, (new, other))| if at % 4 == 1 { other } else { new };
        let rows =
            rows.map(row).map(|(key, values): &(String, String)| format!("{key},{values}\n"));
        std::fs::create_dir_all(file("final").parent().unwrap()).unwrap();
        std::fs::write(file("final"), format!("{header}\n") + &rows.collect::<String>()).unwrap();
    }
    group.portrait.expect_dimensions_of("final");
    group.portrait.keep_tables_by_topics();
    for (table, partitions) in TABLES.into_iter().zip([3, 1]) {
        group.kafka.create(&group.portrait.topic(table), partitions);
    }
    let (first, second) = (group.process("first"), group.process("second"));
    group.send(0, 50);
    for table in TABLES {
        let (header, rows) = rows_of(&file(&group, "data", table));
        let told = rows.iter().zip(rows.iter().skip(3)).enumerate().filter(|(at, _)| at % 4 > 0);
        let told = told.map(|(at, (row, next))| (&row.0, (at % 4 != 3).then_some(&next.1)));
        tell(&group, table, &header, &told.collect::<Vec<_>>());
    }
    group.wait_committed();
    group.portrait.load_dimensions_of("new", &group.settings());
    for table in TABLES {
        let (header, new) = rows_of(&file(&group, "new", table));
        let (_, other) = rows_of(&file(&group, "other", table));
        let told = new.iter().zip(&other).enumerate().filter(|(at, _)| at % 4 > 0);
        let told = told.map(|(at, (new, other))| match at % 4 {
            1 => (&new.0, Some(&other.1)),
            2 => (&new.0, None),
            _ => (&new.0, Some(&new.1)),
        });
        tell(&group, table, &header, &told.collect::<Vec<_>>());
    }
    second.kill();
    group.send(50, 100);
    let third = group.process("third");
    group.wait_committed();
    let store: Arc<dyn Store> = Arc::new(group.store());
    wait_until("users of changed rows are reached", 2 * REACHED, || {
        group.portrait.is_equal(&group.settings()) && behind(&store) == 0
    });
    Portrait::stop(first);
    Portrait::stop(third);
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
