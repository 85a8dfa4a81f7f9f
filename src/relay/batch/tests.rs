//! Where copies go, and that the engine makes of all of them what it makes of the records themselves.

use std::sync::Arc;

use super::*;
use crate::catalog::load_from;
use crate::engine::ruleset::Ruleset;
use crate::event::{PartitionOf, Whose};
use crate::user::texts::Texts;

const PARTITIONS: u32 = 5;

const STREAMS: &str = "stream: orders
from: {kafka: shop.orders, format: debezium}
columns: {order_id: string, uid: u64, amount: int?, at: timestamp(ms)}
uid: uid
time: at
where: amount is null or amount <> 13
mode: changelog
primary_key: order_id
---
stream: carts
from: {kafka: shop.carts, format: canal, table: carts}
columns: {cart_id: string, uid: u64, n: int?, at: timestamp(iso), version: {type: u64, from: v}}
uid: uid
time: at
mode: changelog
primary_key: cart_id
version: version
";

const FEATURES: &str = "feature: spend
stream: orders
value: sum(amount)
window: lifetime
---
feature: items
stream: carts
value: sum(n)
window: lifetime
";

fn ruleset() -> Ruleset {
    let mut files = vec![
        ("catalog.yaml".to_owned(), "name: t\nuid: u64\ntimezone: UTC\n".to_owned()),
        ("streams/all.yaml".to_owned(), STREAMS.to_owned()),
        ("features/all.yaml".to_owned(), FEATURES.to_owned()),
        ("rules/all.yaml".to_owned(), "tag: spends\nexpr: spend\n".to_owned()),
    ];
    let loaded = load_from("tags", files.clone()).unwrap_or_else(|e| panic!("{e}"));
    files.push(("ids.lock".to_owned(), loaded.lock.updated(&loaded.catalog).to_text()));
    let catalog = load_from("tags", files).unwrap_or_else(|e| panic!("{e}")).catalog;
    Ruleset::new(catalog).unwrap_or_else(|e| panic!("{e}"))
}

fn decoders(ruleset: &Ruleset) -> Vec<Decoder> {
    let make = |(topic, stream): (&str, usize)| {
        let texts: Arc<Texts> = Arc::default();
        let decoder = Decoder::new(&ruleset.catalog, &ruleset.layout, &[stream], topic, texts, 1);
        decoder.unwrap_or_else(|e| panic!("{e}")).with_offsets(true)
    };
    [("shop.orders", 0), ("shop.carts", 1)].map(make).into()
}

/// The row of an order, as JSON.
fn order(id: u32, uid: u64, amount: i64) -> String {
    format!("{{\"order_id\":\"o{id}\",\"uid\":{uid},\"amount\":{amount},\"at\":1770000000000}}")
}

fn change(op: &str, before: &str, after: &str) -> String {
    format!(
        "{{\"op\":\"{op}\",\"before\":{before},\"after\":{after},\"source\":{{\"db\":\"shop\",\"table\":\"orders\"}}}}"
    )
}

fn carts(rows: &[(u32, &str)]) -> String {
    let row = |(id, uid): &(u32, &str)| {
        format!(
            "{{\"cart_id\":\"c{id}\",\"uid\":\"{uid}\",\"n\":\"2\",\"at\":\"2026-02-02 02:40:00\",\"v\":\"7\"}}"
        )
    };
    let rows: Vec<String> = rows.iter().map(row).collect();
    format!(
        "{{\"type\":\"INSERT\",\"database\":\"shop\",\"table\":\"carts\",\"data\":[{}],\"old\":null}}",
        rows.join(",")
    )
}

/// Two users of different partitions, and a third one of the second's.
fn users() -> (u64, u64, u64) {
    let of = |uid: &u64| partition_of_number(*uid, PARTITIONS);
    let second = (2..).find(|uid| of(uid) != of(&1)).unwrap_or_default();
    let third = (second + 1..).find(|uid| of(uid) == of(&second)).unwrap_or_default();
    (1, second, third)
}

/// Records of topic 0 and 1, in partition 3 at offsets from 100 on.
fn batch(records: &[(usize, Option<String>)]) -> Batch {
    let mut batch = Batch::new(2);
    for (at, (topic, value)) in (100..).zip(records) {
        batch.push(*topic, (3, at), 1_770_000_000_500, value.as_ref().map(String::as_bytes));
    }
    batch
}

fn all_kinds() -> Vec<(usize, Option<String>)> {
    let (a, b, c) = users();
    let (a_text, b_text) = (a.to_string(), b.to_string());
    let value = |topic: usize, text: String| (topic, Some(text));
    vec![
        value(0, change("c", "null", &order(1, a, 10))),
        // To another partition.
        value(0, change("u", &order(1, a, 10), &order(1, b, 11))),
        // To another user of the same partition.
        value(0, change("u", &order(1, b, 11), &order(1, c, 12))),
        // Into what `where` leaves out, and by another user.
        value(0, change("u", &order(1, c, 12), &order(1, a, 13))),
        value(0, change("d", &order(2, b, 5), "null")),
        (0, None),
        value(0, "no envelope".to_owned()),
        value(0, change("c", "null", &order(3, a, 13))),
        value(1, carts(&[(1, &a_text), (2, &b_text), (3, "x"), (4, &a_text)])),
        value(1, carts(&[(5, "y")])),
        value(
            1,
            "{\"type\":\"ALTER\",\"database\":\"shop\",\"table\":\"carts\",\"isDdl\":true}".into(),
        ),
    ]
}

#[test]
fn a_record_stands_in_the_partition_of_each_user_who_gets_something_of_it() {
    let (a, b, c) = users();
    let of = |uid: u64| partition_of_number(uid, PARTITIONS);
    let records = all_kinds();
    let copies = batch(&records).copies(&mut decoders(&ruleset()), PARTITIONS);
    let refused_at = |topic: &str| partition_of(format!("{topic}/3").as_bytes(), PARTITIONS);
    let two = |record| {
        let mut two = [(record, of(a), Key::Number(a)), (record, of(b), Key::Number(b))];
        two.sort_unstable();
        two
    };
    let mut expect = vec![(0, of(a), Key::Number(a))];
    expect.extend(two(1));
    expect.push((2, of(b), Key::Number(b.min(c))));
    expect.push((3, of(c), Key::Number(c)));
    expect.push((4, of(b), Key::Number(b)));
    expect.push((6, refused_at("shop.orders"), Key::Nobody));
    expect.extend(two(8));
    expect.push((9, refused_at("shop.carts"), Key::Nobody));
    let found: Vec<_> = copies.copies.into_iter().map(|c| (c.record, c.partition, c.key)).collect();
    assert_eq!(found, expect);
    let [orders, carts] = copies.counts.try_into().unwrap_or_else(|c| panic!("{c:?}"));
    assert_eq!((orders.records, orders.relayed, orders.copies), (8, 6, 7));
    assert_eq!((carts.records, carts.relayed, carts.copies), (3, 2, 3));
    let reasons: Vec<_> = orders.reasons().filter(|(_, rows)| *rows > 0).collect();
    assert_eq!(reasons, [("tombstones", 1), ("filtered", 2)]);
    let reasons: Vec<_> = carts.reasons().filter(|(_, rows)| *rows > 0).collect();
    assert_eq!(reasons, [("ddl", 1)]);
}

/// Rows by stream and user, and rejects.
type Made = (Vec<(u8, u64, Vec<u64>)>, Vec<crate::event::reject::Reject>);

fn add(decoded: Decoded, (rows, rejects): &mut Made) {
    for block in decoded.blocks {
        for part in block.shards {
            let Uids::Numbers(uids) = part.uids else { panic!("uids are numbers") };
            let width = part.rows.len() / uids.len().max(1);
            let of = part.rows.chunks(width.max(1)).map(<[u64]>::to_vec);
            rows.extend(uids.into_iter().zip(of).map(|(uid, row)| (block.stream, uid, row)));
        }
    }
    rejects.extend(decoded.rejects);
}

fn sorted((mut rows, mut rejects): Made) -> Made {
    rows.sort_unstable();
    rejects.sort_by_key(crate::event::reject::Reject::id);
    (rows, rejects)
}

#[test]
fn copies_make_the_same_rows_and_rejects_as_the_records_each_once() {
    let ruleset = ruleset();
    let records = all_kinds();
    let batch = batch(&records);
    let (mut direct, mut rows) = (Made::default(), 0);
    for (lines, decoder) in batch.lines.iter().zip(&mut decoders(&ruleset)) {
        let decoded = decoder.messages(&lines.text, &lines.records, None);
        rows += decoded.rows;
        add(decoded, &mut direct);
    }
    let copies = batch.copies(&mut decoders(&ruleset), PARTITIONS).copies;
    let (mut relayed, mut rows_relayed) = (Made::default(), 0);
    let mut engine = decoders(&ruleset);
    for partition in 0..PARTITIONS {
        // In the order in which the engine reads them, with offsets of their own.
        for (topic, engine) in engine.iter_mut().enumerate() {
            let mut lines = RecordLines::default();
            let here = copies.iter().filter(|copy| copy.partition == partition);
            for (offset, copy) in (0..).zip(here) {
                let read = batch.record(copy.record);
                if read.topic != topic {
                    continue;
                }
                let of_record: Vec<&Copy> =
                    copies.iter().filter(|c| c.record == copy.record).collect();
                let whose = match of_record.as_slice() {
                    [_] => Whose::Everybody,
                    [first, ..] if first.partition == partition => Whose::First,
                    _ => Whose::Others,
                };
                let place = RecordPlace {
                    offset,
                    origin: (read.partition, read.offset),
                    whose,
                    arrival_ms: read.arrival_ms,
                };
                lines.push(place, batch.value(copy.record));
            }
            let here = Some(PartitionOf { number: partition, of: PARTITIONS });
            let decoded = engine.messages(&lines.text, &lines.records, here);
            rows_relayed += decoded.rows;
            add(decoded, &mut relayed);
        }
    }
    assert!(direct.0.len() >= 8 && direct.1.len() == 3, "{direct:?}");
    assert_eq!(sorted(relayed), sorted(direct));
    // The filtered one and the DDL are not relayed.
    assert_eq!(rows_relayed, rows - 2);
}
