//! The same rows as JSON lines, CSV and Parquet.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, ListArray, RecordBatch,
    StringArray, StringDictionaryBuilder, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, Int64Type};
use jiff::Timestamp;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DAY_MS: i64 = 86_400_000;

#[derive(Clone)]
pub struct Row {
    pub id: u32,
    pub user: u64,
    pub at_ms: i64,
    pub cents: i64,
    pub score: Option<f64>,
    pub sku: Option<u32>,
    pub gift: Option<bool>,
    pub day: Option<i32>,
}

pub fn rows(seed: u64, rows: u32, before_ms: i64) -> Vec<Row> {
    let mut rng = StdRng::seed_from_u64(seed);
    let row = |id: u32| Row {
        id,
        user: rng.random_range(0..60),
        at_ms: before_ms - 1 - rng.random_range(0..400 * DAY_MS),
        cents: rng.random_range(-500..90_000),
        // Few of these have less than 16 digits.
        score: rng.random_ratio(4, 5).then(|| rng.random_range(-1.0..1000.0)),
        sku: rng.random_ratio(4, 5).then(|| rng.random_range(0..40)),
        gift: rng.random_ratio(4, 5).then(|| rng.random_ratio(1, 2)),
        day: rng.random_ratio(4, 5).then(|| rng.random_range(19_000..20_500)),
    };
    (0..rows).map(row).collect()
}

fn instant(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap().to_string()
}

fn date(day: i32) -> String {
    instant(i64::from(day) * DAY_MS)[..10].to_owned()
}

fn price(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

pub fn json(rows: &[Row]) -> String {
    let mut text = String::new();
    for r in rows {
        let (id, user, at, price) = (r.id, r.user, instant(r.at_ms), price(r.cents));
        let score = r.score.map_or("null".to_owned(), |s| s.to_string());
        let sku = r.sku.map_or("null".to_owned(), |s| format!("\"s{s}\""));
        let gift = r.gift.map_or("null".to_owned(), |g| g.to_string());
        let day = r.day.map_or("null".to_owned(), |d| format!("\"{}\"", date(d)));
        writeln!(
            text,
            r#"{{"EventId":"e{id}","CustomerID":{user},"at":"{at}","price":{price},"score":{score},"sku":{sku},"gift":{gift},"day":{day}}}"#
        )
        .unwrap();
    }
    text
}

pub fn csv(rows: &[Row]) -> String {
    let mut text = "EventId,CustomerID,at,price,score,sku,gift,day\n".to_owned();
    for r in rows {
        let (id, user, at, price) = (r.id, r.user, instant(r.at_ms), price(r.cents));
        let score = r.score.map_or(String::new(), |s| s.to_string());
        let sku = r.sku.map_or(String::new(), |s| format!("s{s}"));
        let gift = r.gift.map_or(String::new(), |g| g.to_string());
        let day = r.day.map_or(String::new(), date);
        writeln!(text, "e{id},{user},{at},{price},{score},{sku},{gift},{day}").unwrap();
    }
    text
}

/// The columns in another order than the catalogue has them, among others that nobody reads.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let mut skus = StringDictionaryBuilder::<Int32Type>::new();
    rows.iter().for_each(|r| skus.append_option(r.sku.map(|s| format!("s{s}"))));
    let cents = Decimal128Array::from_iter_values(rows.iter().map(|r| i128::from(r.cents)));
    let at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.at_ms * 1_000));
    let lists = rows.iter().map(|r| Some(vec![Some(i64::from(r.id))]));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let columns: [(&str, ArrayRef); 9] = [
        ("unread", Arc::new(lists)),
        ("sku", Arc::new(skus.finish())),
        ("at", Arc::new(at.with_timezone("UTC"))),
        ("CustomerID", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.user)))),
        ("price", Arc::new(cents.with_precision_and_scale(12, 2).unwrap())),
        ("score", Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.score)))),
        ("gift", Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.gift)))),
        ("day", Arc::new(Date32Array::from_iter(rows.iter().map(|r| r.day)))),
        (
            "EventId",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("e{}", r.id)))),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true))).unwrap()
}

pub fn write_parquet(path: &Path, batch: &RecordBatch, group_rows: usize) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(group_rows / 3 + 1)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}
