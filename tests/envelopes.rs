//! Records of change data capture tools: what is refused and why, what is counted, what is an event.
//! What becomes of real records is in `src/event/envelope/tests.rs`.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;

use std::sync::Arc;

use driven::{Driver, Files};
use tagloom::event::block::Skipped;
use tagloom::event::reject::Reason;
use tagloom::event::{Decoded, Decoder};

/// 2026-03-31 12:00 UTC.
const AT: &str = "1774958400000";
const AS_OF_MS: i64 = 1_774_958_400_000;

fn files(format: &str, keys: &str) -> Files {
    let stream = format!(
        "stream: orders
from: {{file: orders.jsonl, format: {format}, table: shop.orders}}
columns:
  id: u64
  user: u64
  at: timestamp(ms)
  amount: decimal(9,2)
  note: string?
  phone: {{type: string?, mask: true}}
uid: user
time: at
{keys}"
    );
    let features = "feature: total
stream: orders
value: sum(amount)
window: lifetime
---
feature: noted
stream: orders
value: last(note)
window: lifetime
";
    let rules = "tag: total_is\nexpr: total\n---\ntag: noted_is\nexpr: noted\n";
    let of = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    vec![
        of("catalog.yaml", "name: test\nuid: u64\ntimezone: UTC\n"),
        of("streams/orders.yaml", &stream),
        of("features/all.yaml", features),
        of("rules/all.yaml", rules),
    ]
}

const TABLE: &str = "mode: changelog\nprimary_key: id\n";

fn decoded(format: &str, keys: &str, lines: &str) -> Decoded {
    let ruleset = driven::ruleset(files(format, keys));
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "orders", Arc::default(), 1).unwrap();
    decoder.lines(lines.as_bytes(), 1, 0, None)
}

fn row(id: u64, user: u64, amount: &str) -> String {
    format!(
        r#"{{"id":{id},"user":{user},"at":{AT},"amount":"{amount}","note":null,"phone":"555-1"}}"#
    )
}

fn debezium(op: &str, before: &str, after: &str) -> String {
    let source =
        r#"{"db":"shop","table":"orders","file":"b.000001","pos":7,"row":0,"query":"555-1"}"#;
    format!("{{\"before\":{before},\"after\":{after},\"source\":{source},\"op\":\"{op}\"}}\n")
}

fn maxwell(word: &str, data: &str, old: &str) -> String {
    let old = if old.is_empty() { String::new() } else { format!(",\"old\":{old}") };
    format!(
        "{{\"database\":\"shop\",\"table\":\"orders\",\"type\":\"{word}\",\"data\":{data}{old}}}\n"
    )
}

fn canal(word: &str, data: &[&str], old: &[&str]) -> String {
    let old = if old.is_empty() { "null".to_owned() } else { format!("[{}]", old.join(",")) };
    let data = data.join(",");
    format!(
        "{{\"data\":[{data}],\"database\":\"shop\",\"old\":{old},\"table\":\"orders\",\"type\":\"{word}\"}}\n"
    )
}

fn refused(format: &str, keys: &str, line: &str, reason: Reason, detail: &str) {
    let decoded = decoded(format, keys, line);
    let [reject] = &decoded.rejects[..] else { panic!("{line}: {:?}", decoded.rejects) };
    assert_eq!((reject.reason, decoded.rejected_rows), (reason, 1), "{line}: {}", reject.detail);
    assert!(reject.detail.contains(detail), "{line}: {}", reject.detail);
    assert!(!reject.row.contains("555-1"), "{line}: masked: {}", reject.row);
    let block = &decoded.blocks[0];
    assert_eq!(block.accepted + block.gone, 0, "{line}");
}

#[test]
fn what_cannot_be_used_is_refused_with_a_remedy() {
    let full = row(1, 7, "5.00");
    let lacks = |column: &str| {
        let mut row: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&full).unwrap();
        row.remove(column);
        serde_json::Value::Object(row).to_string()
    };
    let (changes, json) = (TABLE, "format: json");
    let full_row = "binlog_row_image=FULL";
    let is =
        |line: String, reason, detail: &str| refused("debezium", changes, &line, reason, detail);
    is(debezium("u", "null", &full), Reason::BeforeMissing, full_row);
    is(debezium("u", &lacks("user"), &full), Reason::BeforeMissing, "`before` lacks `user`");
    is(debezium("u", &lacks("amount"), &full), Reason::BeforeMissing, "lacks `amount`");
    is(debezium("d", "null", "null"), Reason::BeforeMissing, full_row);
    is(debezium("c", "null", &lacks("user")), Reason::Missing, "user");
    is(debezium("t", "null", "null"), Reason::Truncated, "DELETE");
    is(debezium("x", "null", &full), Reason::Operation, "none of c, r, u, d");
    is(debezium("c", "null", "5"), Reason::Malformed, "no object");
    is(debezium("c", "null", &row(1, 7, "5.001")), Reason::Scale, "amount");
    is(debezium("c", "null", &row(1, 7, "ThY=")), Reason::Type, "decimal.handling.mode=string");
    let unavailable = full.replace(":null", ":\"__debezium_unavailable_value\"");
    is(debezium("c", "null", &unavailable), Reason::BeforeMissing, "REPLICA IDENTITY FULL");
    is(format!("{full}\n"), Reason::Malformed, json);
    is("{\"before\":\n".to_owned(), Reason::Malformed, "EOF");
    is("[]\n".to_owned(), Reason::Malformed, "one JSON object");

    let is =
        |line: String, reason, detail: &str| refused("maxwell", changes, &line, reason, detail);
    is(maxwell("update", &full, ""), Reason::BeforeMissing, full_row);
    is(maxwell("update", &lacks("amount"), "{\"user\":3}"), Reason::BeforeMissing, "`old` lacks");
    is(maxwell("delete", &lacks("user"), ""), Reason::BeforeMissing, "lacks `user`");
    is(maxwell("replace", &full, ""), Reason::Operation, "`replace`");
    is(maxwell("insert", "null", ""), Reason::Malformed, "`data`");
    is(format!("{full}\n"), Reason::Malformed, "no record of Maxwell");

    let is = |line: String, reason, detail: &str| refused("canal", changes, &line, reason, detail);
    is(canal("UPDATE", &[&full], &[]), Reason::BeforeMissing, full_row);
    is(canal("UPDATE", &[&lacks("user")], &["{}"]), Reason::BeforeMissing, "`old` lacks `user`");
    is(canal("UPDATE", &[&full], &["{}", "{}"]), Reason::Malformed, "as many rows");
    is(canal("INSERT", &[&full, "5"], &[]), Reason::Malformed, "no object");
    is(canal("TRUNCATE", &[], &[]), Reason::Truncated, "DELETE");
    let types = "\"old\":null,\"mysqlType\":{\"note\":\"varchar(9)\"},\"sqlType\":{\"note\":93}";
    let shifted = canal("INSERT", &[&full], &[]).replace("\"old\":null", types);
    is(shifted, Reason::Schema, "`note` is varchar(9), its value of type 93");
}

#[test]
fn a_row_of_a_message_of_many_is_refused_alone() {
    let rows = [row(1, 7, "5.00"), row(2, 7, "x"), row(3, 8, "6.00"), row(4, 8, "y")];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let line = canal("INSERT", &rows, &[]);
    let both = decoded("canal", TABLE, &format!("{line}{line}"));
    assert_eq!((both.rows, both.rejected_rows, both.blocks[0].accepted), (8, 4, 4));
    let places: Vec<_> = both.rejects.iter().map(|r| (r.line, r.offset, r.index)).collect();
    let second = line.len() as u64;
    assert_eq!(places, [(1, 0, 1), (1, 0, 3), (2, second, 1), (2, second, 3)]);
    for (reject, id) in both.rejects.iter().zip([2, 4, 2, 4]) {
        let record: serde_json::Value = serde_json::from_str(&reject.row).unwrap();
        let rows = record["data"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["id"], &rows[0]["phone"]), (1, &id.into(), &"***".into()));
        // What was refused can be given again, as it is.
        let again = decoded("canal", TABLE, &format!("{}\n", reject.row.replace("***", "555-1")));
        assert_eq!(again.rejects.len(), 1, "{}", reject.row);
    }
}

#[test]
fn masked_columns_are_hidden_in_both_images_and_where_they_are_repeated() {
    let (before, after) = (row(1, 7, "5.00"), row(1, 7, "x"));
    let decoded = decoded("debezium", TABLE, &debezium("u", &before, &after));
    let shown = &decoded.rejects[0].row;
    assert_eq!(shown.matches("***").count(), 3, "before, after and the statement: {shown}");
    assert!(shown.contains("\"amount\":\"x\""), "what is not masked is there: {shown}");
    let schema = debezium("u", &before, &after);
    let schema = format!("{{\"schema\":null,\"payload\":{}}}\n", schema.trim());
    let decoded = self::decoded("debezium", TABLE, &schema);
    assert!(!decoded.rejects[0].row.contains("555-1"), "{:?}", decoded.rejects);
}

#[test]
fn events_are_the_rows_that_are_inserted_and_the_rest_is_counted() {
    let (one, two) = (row(1, 7, "5.00"), row(1, 7, "6.00"));
    let lines = [
        debezium("c", "null", &one),
        debezium("r", "null", &two),
        debezium("u", &one, &two),
        debezium("d", &two, "null"),
        "null\n".to_owned(),
        debezium("t", "null", "null"),
        debezium("m", "null", "null"),
        debezium("c", "null", &one).replace("orders", "carts"),
        "{\"status\":\"BEGIN\",\"id\":\"0-1-18\"}\n{\"ts_ms\":1}\n".to_owned(),
        "{\"source\":{},\"ddl\":\"ALTER\"}\n\n".to_owned(),
        "{\"schema\":null,\"payload\":null}\n".to_owned(),
    ];
    let events = decoded("debezium", "", &lines.concat());
    assert_eq!((events.rows, events.rejects.len()), (12, 0), "{:?}", events.rejects);
    let skipped = Skipped {
        updates: 1,
        deletes: 1,
        truncates: 1,
        other_tables: 1,
        ddl: 1,
        tombstones: 2,
        marks: 3,
    };
    let block = &events.blocks[0];
    assert_eq!((block.accepted, block.gone, block.skipped), (2, 0, skipped));
    let table = decoded("debezium", TABLE, &lines.concat());
    let block = &table.blocks[0];
    assert_eq!((block.accepted, block.gone), (3, 1));
    assert_eq!((block.skipped.updates, block.skipped.deletes, block.skipped.truncates), (0, 0, 0));
    assert_eq!(table.rejects.len(), 1, "the truncation");
}

#[test]
fn repeats_are_known_by_their_place_in_the_log() {
    let keys = "dedupe: {by: log_position}";
    let ruleset = driven::ruleset(files("debezium", keys));
    let total = |lines: &[String]| {
        let store = driven::memory(&ruleset);
        let mut driver = Driver::open(&ruleset, &store, 2, usize::MAX);
        assert_eq!(driver.feed(0, &lines.concat(), None), 0);
        driver.engine.close(AS_OF_MS, false).unwrap();
        driven::stored(store.as_ref(), &ruleset)["7"].labels["total_is"].clone()
    };
    let at = |line: &str, place: u64, row: u64| {
        line.replace("\"pos\":7,\"row\":0", &format!("\"pos\":{place},\"row\":{row}"))
    };
    let insert = debezium("c", "null", &row(1, 7, "5.00"));
    let read = debezium("r", "null", &row(2, 7, "0.01"));
    assert_eq!(total(&[insert.clone(), insert.clone()]), "5.00", "sent again");
    assert_eq!(total(&[insert.clone(), at(&insert, 9, 0), at(&insert, 9, 1)]), "15.00");
    // Rows of a snapshot all have one place.
    let other = read.replace("0.01", "0.02");
    assert_eq!(total(&[read.clone(), other.clone(), at(&read, 9, 0), other]), "0.03");
}

#[test]
fn a_change_without_place_is_not_taken_for_the_one_before() {
    let mut files = files("debezium", "dedupe: {by: log_position}");
    files[1].1 = files[1].1.replace(", table: shop.orders", "");
    let ruleset = driven::ruleset(files);
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "orders", Arc::default(), 1).unwrap();
    let insert = debezium("c", "null", &row(1, 7, "5.00"));
    let placeless = insert.replace("source", "origin");
    let decoded = decoder.lines(format!("{insert}{placeless}").as_bytes(), 1, 0, None);
    assert_eq!(decoded.blocks[0].accepted, 1);
    let [reject] = &decoded.rejects[..] else { panic!("{:?}", decoded.rejects) };
    assert_eq!((reject.reason, reject.detail.as_str()), (Reason::Missing, "log_position"));
}

#[test]
fn columns_that_nobody_reads_are_named_once() {
    let new = row(1, 7, "5.00").replace('}', ",\"coupon\":\"X\",\"tags\":[1,{\"a\":2}]}");
    let ruleset = driven::ruleset(files("debezium", TABLE));
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "orders", Arc::default(), 1).unwrap();
    let mut unread = |row: &str| {
        let line = debezium("c", "null", row);
        let decoded = decoder.lines(line.as_bytes(), 1, 0, None);
        assert_eq!((decoded.rejects.len(), decoded.blocks[0].accepted), (0, 1));
        decoded.blocks[0].unread.clone()
    };
    assert_eq!(unread(&row(1, 7, "5.00")), [""; 0]);
    assert_eq!(unread(&new), ["coupon", "tags"]);
    assert_eq!(unread(&new), [""; 0], "they are known");
    assert_eq!(unread(&new.replace("coupon", "voucher")), ["voucher"]);
}

#[test]
fn values_are_read_by_their_text() {
    let row = row(1, 7, "5.00");
    for (from, to) in [
        ("\"id\":1", "\"id\":\"1\""),
        ("\"user\":7", "\"user\": \"7\""),
        ("\"amount\":\"5.00\"", "\"amount\":5.00"),
        ("\"amount\":\"5.00\"", "\"amount\":\"5\""),
        ("\"amount\":\"5.00\"", "\"amount\":500e-2"),
        (AT, "\"1774958400000\""),
        ("\"note\":null", "\"note\":12.50"),
        ("\"note\":null", "\"note\":\"a\\\"\\u00e9\""),
        ("\"note\":null", "\"note\":true"),
    ] {
        let changed = row.replace(from, to);
        assert_ne!(changed, row);
        for line in [debezium("c", "null", &changed), maxwell("insert", &changed, "")] {
            let format = if line.contains("\"op\"") { "debezium" } else { "maxwell" };
            let decoded = decoded(format, TABLE, &line);
            assert_eq!(decoded.rejects, [], "{to}");
            assert_eq!(decoded.blocks[0].accepted, 1, "{to}");
        }
    }
}
