//! What becomes of records that real tools wrote: `tests/envelopes/`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use jiff::Timestamp;

use crate::catalog::load_from;
use crate::catalog::model::{Catalog, ColumnType};
use crate::engine::ruleset::Ruleset;
use crate::event::column::{Column, Values};
use crate::event::{Decoded, Decoder};
use crate::user::texts::Texts;

/// A table that changes, and one whose rows are events.
const STREAMS: &str = "stream: orders
from: {file: x.jsonl, format: $format, table: shop.orders}
columns:
  order_id: string
  uid: u64
  amount: decimal(12,2)?
  category: string?
  status: {type: string, mask: true}
  paid_at: $paid_at?
  updated_at: $updated_at
  logged: {type: $logged_type, envelope: $logged}
uid: uid
time: updated_at
mode: changelog
primary_key: order_id
$version
---
stream: users
from: {file: x.jsonl, format: $format, table: users}
columns: {uid: u64, city: string?, created_at: \"$paid_at\"}
uid: uid
time: created_at
$dedupe
---
stream: carts
from: {file: x.jsonl, format: $format, table: [shop.carts, tick*]}
columns: {uid: u64, n: int?, at: \"$paid_at?\", logged: {type: $logged_type, envelope: $logged}}
uid: uid
time: logged
mode: changelog
primary_key: uid
";

/// So that texts are kept as texts.
const FEATURES: &str = "feature: last_{of}
stream: orders
value: last({of})
matrix: {of: [order_id, category, status, amount, paid_at, logged]}
window: lifetime
---
feature: city
stream: users
value: last(city)
window: lifetime
---
feature: items
stream: carts
value: sum(n)
window: lifetime
";

/// How a format writes what the table has.
struct Written {
    format: &'static str,
    /// A DATETIME, and a TIMESTAMP.
    paid_at: &'static str,
    updated_at: &'static str,
    /// Something of the envelope.
    logged: (&'static str, &'static str),
}

const DEBEZIUM: Written = Written {
    format: "debezium",
    paid_at: "timestamp(ms, local)",
    updated_at: "timestamp(iso)",
    logged: ("timestamp(ms)", "source.ts_ms"),
};
const MAXWELL: Written = Written {
    format: "maxwell",
    paid_at: "timestamp(iso)",
    updated_at: "timestamp(iso, utc)",
    logged: ("timestamp(s)", "ts"),
};
const CANAL: Written = Written {
    format: "canal",
    paid_at: "timestamp(iso)",
    updated_at: "timestamp(iso, utc)",
    logged: ("timestamp(ms)", "es"),
};

fn catalog(of: &Written) -> Catalog {
    let has_position = of.format != "canal";
    let streams = STREAMS
        .replace("$version", if has_position { "version: log_position" } else { "version: logged" })
        .replace("$dedupe", if has_position { "dedupe: {by: log_position}" } else { "" })
        .replace("$logged_type", &format!("\"{}\"", of.logged.0))
        .replace("$logged", of.logged.1)
        .replace("\"$paid_at", &format!("\"{}", of.paid_at))
        .replace("$paid_at?", &format!("\"{}?\"", of.paid_at))
        .replace("$updated_at", &format!("\"{}\"", of.updated_at))
        .replace("$format", of.format);
    let mut files = vec![
        ("catalog.yaml".to_owned(), "name: t\nuid: u64\ntimezone: Asia/Shanghai\n".to_owned()),
        ("streams/all.yaml".to_owned(), streams),
        ("features/all.yaml".to_owned(), FEATURES.to_owned()),
        ("rules/all.yaml".to_owned(), "tag: city_is\nexpr: city\n".to_owned()),
    ];
    let loaded = load_from("tags", files.clone()).unwrap_or_else(|e| panic!("{e}"));
    files.push(("ids.lock".to_owned(), loaded.lock.updated(&loaded.catalog).to_text()));
    load_from("tags", files).unwrap_or_else(|e| panic!("{e}")).catalog
}

/// The record as it was sent, digit by digit.
fn value_of(line: &str) -> &str {
    let at = line.find("\"value\": ").map_or(0, |at| at + "\"value\": ".len());
    line[at..].trim_end().strip_suffix('}').unwrap_or(line)
}

fn case_of(line: &str) -> String {
    let case = line.split("\"case\": \"").nth(1).and_then(|rest| rest.split("\", \"sql\"").next());
    case.unwrap_or_default().to_owned()
}

/// A cell as people read it.
fn shown(column: &Column, row: usize) -> String {
    if !column.valid.holds(row) {
        let error = column.errors.iter().find(|error| error.0 as usize == row);
        return error.map_or("NULL".to_owned(), |(_, reason)| format!("({})", reason.name()));
    }
    match (&column.values, &column.kind) {
        (Values::U64(v), _) => v[row].to_string(),
        (Values::Hash(v), _) => format!("#{:x}", v[row]),
        (Values::I64(v), ColumnType::Decimal { scale, .. }) => {
            crate::write::open::decimal_text(v[row].into(), *scale)
        }
        (Values::I64(v), ColumnType::Timestamp(_)) => {
            Timestamp::from_millisecond(v[row]).map_or("?".to_owned(), |at| at.to_string())
        }
        (Values::I64(v), _) => v[row].to_string(),
        (Values::F64(v), _) => v[row].to_string(),
        (Values::Bool(v), _) => v[row].to_string(),
        (Values::Date(v), _) => v[row].to_string(),
        (Values::Text(v, texts), _) => texts.text(v[row] as usize).unwrap_or("?").to_owned(),
        (Values::Plain(v), _) => v[row].to_string(),
        (Values::Unread, _) => "(unread)".to_owned(),
    }
}

/// Cells of one image that the record mentions.
fn image(decoder: &Decoder, row: usize, before: bool) -> String {
    let at = u32::try_from(row).unwrap_or(u32::MAX);
    let columns = decoder.columns.iter().filter(|c| c.member.is_some() == before);
    let there = columns.filter(|c| c.valid.holds(row) || !c.absent.contains(&at));
    let there = there.filter(|c| before || c.valid.holds(row) || !c.errors.is_empty());
    let cells: Vec<String> = there.map(|c| format!("{}={}", c.from, shown(c, row))).collect();
    cells.join(" ")
}

fn describe(decoder: &Decoder, decoded: &Decoded, out: &mut String) -> std::fmt::Result {
    let envelopes = decoder.envelopes.as_ref();
    for (row, kind) in envelopes.into_iter().flat_map(|e| e.kinds()).enumerate() {
        writeln!(out, "  {kind:?} {}", image(decoder, row, false))?;
        let before = image(decoder, row, true);
        if !before.is_empty() {
            writeln!(out, "    was {before}")?;
        }
    }
    for (block, name) in decoded.blocks.iter().zip(&decoder.names) {
        let counts = [("events", block.accepted), ("gone", block.gone), ("moved", block.moved)];
        let counts = counts.into_iter().chain(block.skipped.counts());
        let counts: Vec<String> = counts
            .filter(|(name, n)| *n > 0 && *name != "other_tables")
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        if !counts.is_empty() {
            writeln!(out, "  {name}: {}", counts.join(", "))?;
        }
        if !block.unread.is_empty() {
            writeln!(out, "  {name}: unread {}", block.unread.join(", "))?;
        }
    }
    for reject in &decoded.rejects {
        let (reason, detail) = (reject.reason.name(), &reject.detail);
        writeln!(
            out,
            "  REJECT {} {}+{} {reason}: {detail}",
            reject.stream, reject.offset, reject.index
        )?;
        writeln!(out, "    {}", reject.row)?;
    }
    Ok(())
}

fn check(file: &str, of: &Written) {
    check_as(file, file, of);
}

fn check_as(file: &str, golden: &str, of: &Written) {
    let ruleset = Ruleset::new(catalog(of)).unwrap_or_else(|e| panic!("{e}"));
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let texts: Arc<Texts> = Arc::default();
    let decoder = Decoder::new(catalog, layout, &[0, 1, 2], file, texts, 1);
    let mut decoder = decoder.unwrap_or_else(|e| panic!("{e}"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envelopes");
    let samples =
        std::fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut out = String::new();
    let (mut alone, mut offset) = (Vec::new(), 0);
    for (at, line) in samples.lines().enumerate() {
        writeln!(out, "{}", case_of(line)).unwrap_or_default();
        let record = format!("{}\n", value_of(line));
        let decoded = decoder.lines(record.as_bytes(), at as u64 + 1, offset, None);
        describe(&decoder, &decoded, &mut out).unwrap_or_default();
        offset += record.len() as u64;
        alone.push(decoded);
    }
    all_at_once(&samples, &mut decoder, &alone);
    let golden = folder.join("golden").join(Path::new(golden).with_extension("txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &out).unwrap_or_else(|e| panic!("{e}"));
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(out, expected, "{file}");
}

/// All records in one block give what they give one by one.
fn all_at_once(samples: &str, decoder: &mut Decoder, alone: &[Decoded]) {
    let lines: String = samples.lines().map(|line| format!("{}\n", value_of(line))).collect();
    let together = decoder.lines(lines.as_bytes(), 1, 0, None);
    for (stream, block) in together.blocks.iter().enumerate() {
        let of = |d: &Decoded| d.blocks[stream].shards[0].rows.clone();
        let events: u64 = alone.iter().map(|d| d.blocks[stream].accepted).sum();
        assert_eq!(block.accepted, events);
        let mut rows: Vec<u64> = alone.iter().flat_map(of).collect();
        let mut have = block.shards[0].rows.clone();
        rows.sort_unstable();
        have.sort_unstable();
        assert_eq!(have, rows, "stream {stream}");
    }
    let rejects: Vec<_> = alone.iter().flat_map(|d| &d.rejects).collect();
    for reject in &rejects {
        assert!(together.rejects.contains(reject), "{reject:?}");
    }
    assert_eq!(together.rejects.len(), rejects.len());
    assert_eq!(together.rows, alone.iter().map(|d| d.rows).sum::<u64>());
}

#[test]
fn debezium_without_schemas() {
    check("debezium-plain.jsonl", &DEBEZIUM);
}

#[test]
fn debezium_with_schemas() {
    check("debezium-schemas.jsonl", &DEBEZIUM);
}

#[test]
fn debezium_in_all_modes() {
    let file = "debezium-types.jsonl";
    for (golden, paid_at) in [
        ("debezium-types-ms", "timestamp(ms, local)"),
        ("debezium-types-us", "timestamp(us, local)"),
        ("debezium-types-iso", "timestamp(iso, local)"),
    ] {
        check_as(file, golden, &Written { paid_at, ..DEBEZIUM });
    }
}

#[test]
fn debezium_keyed_by_uid() {
    check("debezium-keyed-by-uid.jsonl", &DEBEZIUM);
}

#[test]
fn debezium_after_a_restart() {
    check("debezium-restart.jsonl", &DEBEZIUM);
}

#[test]
fn maxwell_rows() {
    check("maxwell-rows.jsonl", &MAXWELL);
}

#[test]
fn maxwell_as_it_comes() {
    check("maxwell-default-version.jsonl", &MAXWELL);
}

#[test]
fn maxwell_after_a_restart() {
    check("maxwell-restart.jsonl", &MAXWELL);
}

#[test]
fn canal_messages() {
    check("canal-flat.jsonl", &CANAL);
}

/// An archive of such a table holds its rows, one after the other, and nobody says what happened.
#[test]
fn rows_of_an_archive_in_columns_need_no_envelope() {
    let catalog = catalog(&DEBEZIUM);
    let ruleset = Ruleset::new(catalog).unwrap();
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let carts = catalog.streams.iter().position(|s| s.name == "carts").unwrap();
    let decoder =
        || Decoder::new(catalog, layout, &[carts], "carts", Arc::new(Texts::default()), 1).unwrap();
    let row = |uid: &str, logged: &str| csv::ByteRecord::from(vec![uid, "3", logged]);
    let rows = [(row("7", "1772755199999"), 2, 20), (row("8", "1772755199998"), 3, 40)];
    let header = ["uid", "n", "source.ts_ms"].map(str::to_owned);
    let check = |decoded: &Decoded| {
        assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
        let block = &decoded.blocks[0];
        assert_eq!((decoded.rows, block.accepted, block.gone), (2, 2, 0));
    };
    let mut of_csv = decoder();
    of_csv.header(&header, &[]).unwrap();
    check(&of_csv.records(&rows, None));

    let number = |values: Vec<u64>| Arc::new(UInt64Array::from(values)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([
        ("uid", number(vec![7, 8])),
        ("n", number(vec![3, 3])),
        ("source.ts_ms", number(vec![1_772_755_199_999, 1_772_755_199_998])),
    ]);
    let batch = batch.unwrap();
    let mut of_parquet = decoder();
    of_parquet.schema(&batch.schema(), &[]).unwrap();
    check(&of_parquet.batch(&batch, 0, None));
}
