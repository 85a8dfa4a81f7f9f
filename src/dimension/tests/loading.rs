//! What loads take, leave out and report.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt64Array,
};
use proptest::prelude::{prop, prop_assert_eq, proptest};

use super::*;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::{Bytes, ChangeKind, UidKey};

#[test]
fn rows_that_cannot_be_read_are_left_out_with_place_and_remedy() {
    let world = World::new(Strategy::Preload);
    let text = "city,tier,region\nleeds,two,north\n,1,x\nyork,3\n\"bad\nline\",9.5,y\nbath,4,z\n";
    let report = world.load("city", text);
    assert_eq!((report.rows, report.rejected, report.changed), (1, 4, 1));
    let errors: Vec<String> = report
        .errors
        .iter()
        .map(|e| e.to_string().rsplit_once("table.csv:").unwrap().1.to_owned())
        .collect();
    assert_eq!(
        errors,
        [
            "2: column `tier`: `two` is no whole number of 64 bits; fix the cell or leave it empty",
            "3: column `city`: the key is empty; fill it in",
            "4: the row has 2 cells, the header 3; fix the row (is a quote missing?)",
            "5: column `tier`: `9.5` is no whole number of 64 bits; fix the cell or leave it empty",
        ]
    );
}

#[test]
fn a_load_that_fails_leaves_the_epoch_before() {
    let (world, dimensions) = World::loaded(Strategy::Preload);
    let options = LoadOptions { rejected_rows_max: 1, ..LoadOptions::default() };
    let cases = [
        ("city,tier,region\na,x,\nb,x,\nc,x,\n", "2 rows could not be read, more than 1"),
        ("city,tier\na,1\n", "no column `region` in the file, which has `city`, `tier`"),
        ("", "no column `tier`, `region`"),
    ];
    for (text, expect) in cases {
        let path = world.file("bad.csv", text.as_bytes());
        let error = world.load_with("city", &path, &options).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
    let path = world.dir.path().join("nowhere.csv");
    let error = world.load_with("city", &path, &options).unwrap_err();
    assert!(error.to_string().contains("nowhere.csv"), "{error}");
    assert_eq!(dimensions.refresh(), []);
    let epochs = world.store.dim_epochs("city").unwrap();
    assert_eq!(epochs.iter().map(|m| m.epoch).collect::<Vec<_>>(), [1]);
}

#[test]
fn of_rows_with_one_key_the_last_stays() {
    for chunk_bytes_max in [1, 1 << 20] {
        let world = World::new(Strategy::Preload);
        let path = world.file("c.csv", b"tier,region,city\n1,a,x\n2,b,y\n3,c,x\n");
        let options = LoadOptions {
            chunk_bytes_max,
            key_column: Some("city".to_owned()),
            ..LoadOptions::default()
        };
        let report = world.load_with("city", &path, &options).unwrap();
        assert_eq!((report.rows, report.replaced, report.all_changed), (2, 1, true));
        let key: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        check(&world.open(), 1, KeyColumn::Array(&key), &["3 c", "2 b"]);
    }
}

#[test]
fn a_second_load_tells_whose_rows_changed() {
    let (world, dimensions) = World::loaded(Strategy::Preload);
    assert_eq!(changed_keys(&*world.store, "city", 1, None, 9).unwrap(), ChangedKeys::All);
    let pinned = dimensions.pin();
    let report = world.load("city", "city,tier,region\nleeds,2,east\nlondon,1,south\nbath,9,\n");
    assert_eq!((report.epoch, report.rows, report.changed, report.removed), (2, 3, 2, 1));
    let changed = changed_keys(&*world.store, "city", 2, None, 9).unwrap();
    let key = |text: &str| Bytes::from(text.as_bytes());
    let expect = vec![
        (key("bath"), ChangeKind::Added),
        (key("leeds"), ChangeKind::Changed),
        (key("york"), ChangeKind::Removed),
    ];
    assert_eq!(changed, ChangedKeys::Keys(expect));

    // A window that began before keeps its epoch; the next one has the new rows.
    let refreshed = dimensions.refresh();
    assert_eq!(refreshed.iter().map(|r| (&*r.table, r.epoch)).collect::<Vec<_>>(), [("city", 2)]);
    let key: ArrayRef = Arc::new(StringArray::from(vec!["leeds", "york"]));
    let old = pinned.enrich(1, KeyColumn::Array(&key)).unwrap();
    assert_eq!(
        (shown(&old.columns[1]), pinned.epoch(1)),
        (vec!["north".into(), "-".into()], Some(1))
    );
    check(&dimensions, 1, KeyColumn::Array(&key), &["2 east", "- -"]);
    assert_eq!(dimensions.pin().epoch(1), Some(2));

    let report = world.load("city", "city,tier,region\nleeds,2,east\nlondon,1,south\nbath,9,\n");
    assert_eq!((report.changed, report.removed, report.all_changed), (0, 0, false));
}

#[test]
fn keys_of_changed_users_are_their_uids() {
    let (world, _) = World::loaded(Strategy::Preload);
    world.load("user", &USERS.replace("7,10,", "7,11,"));
    let changed = changed_keys(&*world.store, "user", 2, None, 9).unwrap();
    let key = Bytes::from(UidKey::from_u64(7).as_bytes());
    assert_eq!(changed, ChangedKeys::Keys(vec![(key, ChangeKind::Changed)]));
}

#[test]
fn compressed_files_and_parquet_load_like_csv() {
    let world = World::new(Strategy::Preload);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(CITIES.as_bytes()).unwrap();
    let cities = world.file("city.csv.gz", &gzip.finish().unwrap());
    world.load_with("city", &cities, &LoadOptions::default()).unwrap();
    let users = world.file("user.csv.zst", &zstd::encode_all(USERS.as_bytes(), 1).unwrap());
    world.load_with("user", &users, &LoadOptions::default()).unwrap();

    let batch = RecordBatch::try_from_iter([
        ("region", Arc::new(StringArray::from(vec!["north", "south", ""])) as ArrayRef),
        ("tier", Arc::new(StringArray::from(vec!["2", "1", "3"])) as ArrayRef),
        ("city", Arc::new(StringArray::from(vec!["leeds", "london", "york"])) as ArrayRef),
    ]);
    let options = LoadOptions { key_column: Some("city".to_owned()), ..LoadOptions::default() };
    let path = parquet_file(&world, &batch.unwrap());
    let report = world.load_with("city", &path, &options).unwrap();
    assert_eq!((report.rows, report.changed, report.removed), (3, 0, 0));
}

fn parquet_file(world: &World, batch: &RecordBatch) -> PathBuf {
    let mut bytes = Vec::new();
    let writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None);
    let mut writer = writer.unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    world.file("t.parquet", &bytes)
}

#[test]
fn parquet_values_are_taken_exactly_or_rejected() {
    let world = World::new(Strategy::Preload);
    let n = 3;
    let credit = Decimal128Array::from(vec![1_2500, 1_2345, 7_0000]);
    let credit = credit.with_precision_and_scale(20, 4).unwrap();
    let since = TimestampMillisecondArray::from(vec![0, 1, 1_782_910_800_000]);
    let batch = RecordBatch::try_from_iter([
        ("uid", Arc::new(Int64Array::from(vec![7, 8, 9])) as ArrayRef),
        ("nps", Arc::new(arrow::array::Int16Array::from(vec![None, Some(2), Some(3)]))),
        ("home_city", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("credit", Arc::new(credit)),
        ("since", Arc::new(since)),
        ("vip", Arc::new(arrow::array::BooleanArray::from(vec![true; n]))),
        ("score", Arc::new(arrow::array::Float32Array::from(vec![0.5; n]))),
        ("born", Arc::new(arrow::array::Date32Array::from(vec![1; n]))),
        ("card", Arc::new(UInt64Array::from(vec![u64::MAX; n]))),
    ]);
    let path = parquet_file(&world, &batch.unwrap());
    let report = world.load_with("user", &path, &LoadOptions::default()).unwrap();
    assert_eq!((report.rows, report.rejected), (2, 1));
    assert!(
        report.errors[0].to_string().ends_with(
            "t.parquet:2: column `credit`: `12345e-4` does not fit decimal(9,2); fix the cell or \
             leave it empty"
        ),
        "{}",
        report.errors[0]
    );
    let tail = "true 0.5 1970-01-02 18446744073709551615";
    // Instants without a zone are local: London was an hour ahead on both days.
    let seven = format!("- a 1.25 1970-01-01T00:00:00+01:00 {tail}");
    let nine = format!("3 c 7.00 2026-07-01T13:00:00+01:00 {tail}");
    check(&world.open(), 0, KeyColumn::Numbers(&[7, 9]), &[&seven, &nine]);
}

#[test]
fn progress_reaches_the_end_of_the_file() {
    let world = World::new(Strategy::Preload);
    let rows: String = (0..10_000).map(|n| format!("c{n},{n},r{}\n", n % 7)).collect();
    let path = world.file("big.csv", format!("city,tier,region\n{rows}").as_bytes());
    let spec = TableSpec::of(&world.catalog, "city").unwrap();
    let mut seen = Vec::new();
    let options = LoadOptions { chunk_bytes_max: 50_000, ..LoadOptions::default() };
    let zone = &world.catalog.zone;
    load(&*world.store, &spec, zone, &path, &options, 0, &mut |p| seen.push(p)).unwrap();
    assert!(seen.len() >= 3 && seen.is_sorted_by_key(|p| (p.rows, p.bytes)));
    let last = seen.last().unwrap();
    assert_eq!((last.bytes, last.rows), (last.bytes_total, 10_000));
}

#[test]
fn the_embedded_store_gives_what_the_memory_store_gives() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..20_000).map(|n| format!("c{n},{n},r{}\n", n % 300)).collect();
    let open = || FjallStore::open(dir.path(), &identity(), &FjallOptions::default()).unwrap();
    for epoch in [1, 2, 3] {
        let world = World::over(Strategy::Preload, Arc::new(open()));
        let text = format!("city,tier,region\n{rows}").replace("c77,77,", &format!("c77,{epoch},"));
        let path = world.file("big.csv", text.as_bytes());
        let options = LoadOptions { chunk_bytes_max: 300_000, ..LoadOptions::default() };
        let report = world.load_with("city", &path, &options).unwrap();
        let changed = if epoch == 1 { 20_000 } else { 1 };
        assert_eq!((report.epoch, report.rows, report.changed), (epoch, 20_000, changed));
    }
    let world = World::over(Strategy::Preload, Arc::new(open()));
    let key: ArrayRef = Arc::new(StringArray::from(vec!["c19999", "c77", "c20000"]));
    check(&world.open(), 1, KeyColumn::Array(&key), &["19999 r199", "3 r77", "- -"]);
}

/// A report without what differs between two files, and the rows that are stored.
fn outcome(text: &str) -> (Vec<String>, u64, Vec<(Bytes, Bytes)>) {
    let world = World::new(Strategy::Preload);
    let options =
        LoadOptions { rejected_rows_max: u64::MAX, errors_max: 999, ..LoadOptions::default() };
    let path = world.file("c.csv", text.as_bytes());
    let report = world.load_with("city", &path, &options).unwrap();
    let place = |e: &RowError| e.to_string().rsplit_once("c.csv:").unwrap().1.to_owned();
    let rows = world.store.dim_scan("city", report.epoch, None, 9999).unwrap();
    (report.errors.iter().map(place).collect(), report.replaced, rows)
}

proptest! {
    /// A quote in the header sends the whole file through the csv crate; one further down sends the
    /// rest. Pieces are small in tests: their ends fall on every kind of line.
    #[test]
    fn text_in_pieces_loads_as_text_row_by_row(
        rows in prop::collection::vec("|[a-c],[0-9]?,[xé]{0,9}|a,b|,1,z|a,x,[yz]{0,30}", 0..60),
        quoted in 0..200usize,
        end in "\n?",
    ) {
        let mut rows = rows;
        if let Some(row) = rows.get_mut(quoted) {
            *row = "\"a\",1,\"b\nc\"".to_owned();
        }
        let rows = rows.join("\n") + &end;
        let plain = outcome(&format!("city,tier,region\n{rows}"));
        prop_assert_eq!(plain, outcome(&format!("\"city\",tier,region\n{rows}")));
    }
}

#[test]
fn a_header_is_found_behind_a_mark_and_empty_lines() {
    for text in
        ["\u{feff}city,tier,region\n", "\n\n city , tier,region\nx,1,y\n", "city,tier,region"]
    {
        assert_eq!(outcome(text), outcome(&text.replace("region", "\"region\"")), "{text:?}");
    }
}

#[test]
fn text_that_is_not_utf_8_costs_its_row() {
    let world = World::new(Strategy::Preload);
    let path = world.file("c.csv", b"city,tier,region\na,1,x\nb,2,\xff\nc,3,z\n");
    let report = world.load_with("city", &path, &LoadOptions::default()).unwrap();
    assert_eq!((report.rows, report.errors[0].line), (2, 3));
    let reason = &report.errors[0].reason;
    assert_eq!(reason, "is not UTF-8; convert the file to UTF-8");
}
