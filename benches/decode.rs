//! How fast the bytes of a source become rows for shards: consume events of the portrait workload
//! with its catalogue's columns, filters and values, and beside it what reading alone costs.
//!
//! `cargo bench --bench decode`: events a second of one core.

#![expect(clippy::unwrap_used, reason = "a bench is no interface")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use tagloom::catalog::model::Format;
use tagloom::engine::ruleset::Ruleset;
use tagloom::event::Decoder;
use tagloom::source::file::{FileSource, FileSpec, ReadLimits};
use tagloom::user::texts::Texts;

const EVENTS: usize = 40_000;
const USERS: u32 = 200_000;
const SHARDS: usize = 2;
const PAYS: [&str; 4] = ["card", "wallet", "cash", "credit"];

/// A consume event as the workload draws it: few categories are most of it, times rise but for
/// stragglers, ids have seven digits.
struct Consume {
    number: usize,
    uid: u32,
    ts: i64,
    amount_cents: u32,
    category: u32,
    pay: &'static str,
    coupon: bool,
    sku: u32,
}

fn events() -> Vec<Consume> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut ts = 1_764_590_400_000;
    let event = |at| {
        ts += rng.random_range(0..12_000);
        let late = rng.random_range(0..100);
        let category = rng.random_range(0..20u32).min(rng.random_range(0..20));
        let digits = rng.random_range(2..=4);
        Consume {
            number: 1_000_000 + at,
            uid: rng.random_range(1..=USERS).min(rng.random_range(1..=2 * USERS)),
            ts: if late == 0 { ts - 172_800_000 } else { ts },
            amount_cents: rng.random_range(10u32.pow(digits)..10u32.pow(digits + 1)),
            category,
            pay: PAYS[rng.random_range(0..3usize) + usize::from(rng.random_bool(0.2))],
            coupon: rng.random_bool(0.25),
            sku: category * 2500 + rng.random_range(1..=2500),
        }
    };
    (0..EVENTS).map(event).collect()
}

/// `space`: what stands behind colons and commas.
fn json(events: &[Consume], space: &str) -> String {
    let mut text = String::new();
    for e in events {
        let Consume { number, uid, ts, amount_cents, category, pay, coupon, sku } = e;
        let line = format!(
            r#"{{"event_id":"c{number}","uid":{uid},"ts":{ts},"order_id":"o{number}","amount_cents":{amount_cents},"category":"k{category:02}","pay":"{pay}","coupon":{coupon},"sku":{sku}}}"#
        );
        let line = line.replace(':', &format!(":{space}")).replace(',', &format!(",{space}"));
        writeln!(text, "{line}").unwrap();
    }
    text
}

/// The same events as insertions, as a change data capture tool writes them.
fn enveloped(events: &[Consume], format: Format) -> String {
    let mut text = String::new();
    for (e, line) in events.iter().zip(json(events, "").lines()) {
        let (number, ts) = (e.number, e.ts);
        let line = match format {
            Format::Debezium => format!(
                r#"{{"before":null,"after":{line},"source":{{"version":"3.5.0.Final","connector":"mariadb","name":"plain","ts_ms":{ts},"snapshot":"false","db":"shop","sequence":null,"ts_us":{ts}000,"ts_ns":{ts}000000,"table":"consume","server_id":1,"gtid":"0-1-{number}","file":"binlog.000001","pos":{number},"row":0,"thread":null,"query":null}},"transaction":null,"op":"c","ts_ms":{ts},"ts_us":{ts}000,"ts_ns":{ts}000000}}"#
            ),
            Format::Maxwell => format!(
                r#"{{"database":"shop","table":"consume","type":"insert","ts":{},"xid":{number},"commit":true,"position":"binlog.000001:{number}","server_id":1,"thread_id":0,"primary_key":["c{number}"],"primary_key_columns":["event_id"],"data":{line}}}"#,
                ts / 1000,
            ),
            _ => {
                let Consume { uid, amount_cents, category, pay, coupon, sku, .. } = e;
                format!(
                    r#"{{"data":[{{"event_id":"c{number}","uid":"{uid}","ts":"{ts}","order_id":"o{number}","amount_cents":"{amount_cents}","category":"k{category:02}","pay":"{pay}","coupon":"{}","sku":"{sku}"}}],"database":"shop","es":{ts},"gtid":"","id":{number},"isDdl":false,"mysqlType":{{"event_id":"varchar(32)","uid":"bigint(20)","ts":"bigint(20)","order_id":"varchar(32)","amount_cents":"int(11)","category":"varchar(8)","pay":"varchar(8)","coupon":"tinyint(1)","sku":"int(11)"}},"old":null,"pkNames":["event_id"],"sql":"","sqlType":{{"event_id":12,"uid":-5,"ts":-5,"order_id":12,"amount_cents":4,"category":12,"pay":12,"coupon":-6,"sku":4}},"table":"consume","ts":{ts},"type":"INSERT"}}"#,
                    u8::from(*coupon),
                )
            }
        };
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn csv(events: &[Consume]) -> String {
    let header = "event_id,uid,ts,order_id,amount_cents,category,pay,coupon,sku";
    let mut text = format!("{header}\n");
    for e in events {
        let Consume { number, uid, ts, amount_cents, category, pay, coupon, sku } = e;
        writeln!(
            text,
            "c{number},{uid},{ts},o{number},{amount_cents},k{category:02},{pay},{coupon},{sku}"
        )
        .unwrap();
    }
    text
}

/// The text in pieces of whole lines, as a source cuts it.
fn blocks(text: &str, bytes: usize) -> Vec<&[u8]> {
    let mut rest = text.as_bytes();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let cut = memchr::memrchr(b'\n', &rest[..bytes.min(rest.len())]).unwrap() + 1;
        let (block, left) = rest.split_at(cut);
        blocks.push(block);
        rest = left;
    }
    blocks
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "what is read is what is measured")]
struct Borrowed<'a> {
    event_id: &'a str,
    uid: u64,
    ts: i64,
    order_id: &'a str,
    amount_cents: i64,
    category: &'a str,
    pay: &'a str,
    coupon: bool,
    sku: i64,
}

/// Envelopes of each tool, with and without a look at whose they are.
fn envelopes(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portrait/catalog");
    let events = events();
    let mut group = criterion.benchmark_group("decode envelopes");
    group.sample_size(20).throughput(Throughput::Elements(EVENTS as u64));
    for format in [Format::Debezium, Format::Maxwell, Format::Canal] {
        for (of, tables) in [("", vec![]), (" of one table", vec!["shop.consume".to_owned()])] {
            let mut catalog =
                tagloom::catalog::load(&folder).unwrap_or_else(|e| panic!("{e}")).catalog;
            let at = catalog.streams.iter().position(|s| s.name == "consume").unwrap();
            let path = "consume.jsonl".to_owned();
            catalog.streams[at].from = tagloom::catalog::model::From::File { path, format };
            catalog.streams[at].tables = tables;
            let ruleset = Ruleset::new(catalog).unwrap();
            let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
            let text = enveloped(&events, format);
            let blocks = blocks(&text, ReadLimits::default().block_bytes);
            let mut decoder =
                Decoder::new(catalog, layout, &[at], "bench", Arc::default(), SHARDS).unwrap();
            group.bench_function(format!("{}{of}", format.name()), |bencher| {
                bencher.iter(|| {
                    let mut accepted = 0;
                    for block in &blocks {
                        let decoded = decoder.lines(black_box(block), 1, 0, None);
                        assert_eq!(decoded.rejected_rows, 0);
                        accepted += black_box(decoded).blocks[0].accepted;
                    }
                    assert_eq!(accepted, EVENTS as u64);
                });
            });
        }
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portrait/catalog");
    let loaded = tagloom::catalog::load(&catalog).unwrap_or_else(|e| panic!("{e}"));
    let ruleset = Ruleset::new(loaded.catalog).unwrap();
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let stream = catalog.streams.iter().position(|s| s.name == "consume").unwrap();
    let texts: Arc<Texts> = Arc::default();
    let events = events();
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(20).throughput(Throughput::Elements(EVENTS as u64));
    for (name, space) in [("JSON lines", ""), ("JSON lines with blanks", " ")] {
        let text = json(&events, space);
        let blocks = blocks(&text, ReadLimits::default().block_bytes);
        let texts = Arc::clone(&texts);
        let mut decoder = Decoder::new(catalog, layout, &[stream], "bench", texts, SHARDS).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for block in &blocks {
                    let decoded = decoder.lines(black_box(block), 1, 0, None);
                    assert_eq!(decoded.rejected_rows, 0);
                    black_box(decoded);
                }
            });
        });
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in [("CSV file", Format::Csv), ("JSON lines file", Format::Json)] {
        let path = dir.path().join(name);
        let text = if format == Format::Csv { csv(&events) } else { json(&events, "") };
        std::fs::write(&path, text).unwrap();
        let spec = FileSpec { path, format, streams: vec![stream], name: name.to_owned() };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (spec, texts, limits) =
                    (spec.clone(), Arc::clone(&texts), ReadLimits::default());
                let mut source =
                    FileSource::open(spec, catalog, layout, texts, SHARDS, limits, None).unwrap();
                while let Some(batch) = source.next(None).unwrap() {
                    black_box(batch);
                }
            });
        });
    }
    group.finish();
}

/// What the same bytes cost when nothing is made of them.
fn limits(criterion: &mut Criterion) {
    let text = json(&events(), "");
    let mut group = criterion.benchmark_group("limit");
    group.sample_size(20).throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("serde_json into a borrowed struct", |bencher| {
        bencher.iter(|| {
            for line in black_box(&text).lines() {
                black_box(serde_json::from_str::<Borrowed<'_>>(line).unwrap());
            }
        });
    });
    group.bench_function("looking for quotes", |bencher| {
        bencher.iter(|| {
            memchr::memchr_iter(b'"', black_box(text.as_bytes())).fold(0, |sum, at| sum ^ at)
        });
    });
    group.finish();
}

criterion_group!(benches, decode, envelopes, limits);
criterion_main!(benches);
