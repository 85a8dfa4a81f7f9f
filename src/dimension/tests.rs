//! Behaviour of loads and lookups through the module's door.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, Decimal128Array, DictionaryArray, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::*;
use crate::catalog::model::{
    Aggregate, Catalog, ColumnType, Dimension, DimensionColumn, DimensionKey, Feature, Span,
    Strategy, TimestampFormat, UidType,
};
use crate::catalog::place::Place;
use crate::clock::Zone;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::memory::MemoryStore;
use crate::store::{
    Bytes, ChangeKind, ClockMode, DimMeta, DimRow, DueCursor, DuePack, Epoch, Identity, Result,
    Store, StoreError, StoreStats, UidKey, WindowWrite,
};

fn identity() -> Identity {
    Identity { uid: UidType::U64, timezone: "Europe/London".to_owned(), clock: ClockMode::Fixed }
}

fn decimal() -> ColumnType {
    ColumnType::Decimal { precision: 9, scale: 2 }
}

fn column(name: &str, from: &str, kind: ColumnType) -> DimensionColumn {
    DimensionColumn { name: name.to_owned(), from: from.to_owned(), kind }
}

fn dimension(
    name: &str,
    table: &str,
    key: DimensionKey,
    columns: Vec<DimensionColumn>,
) -> Dimension {
    Dimension {
        name: name.to_owned(),
        doc: String::new(),
        table: table.to_owned(),
        key,
        columns,
        strategy: Strategy::Preload,
        ttl_ms: 1000,
        max_stale_ms: 5000,
        file: None,
        place: Place::default(),
    }
}

/// `user` by uid, `city` by a feature, `home` by a column of `user`; the last two share a table.
fn catalog(strategy: Strategy) -> Catalog {
    let user = vec![
        column("nps", "nps", ColumnType::Int),
        column("home_city", "home_city", ColumnType::String),
        column("credit", "credit", decimal()),
        column("since", "since", ColumnType::Timestamp(TimestampFormat::Iso)),
        column("vip", "vip", ColumnType::Bool),
        column("score", "score", ColumnType::Float),
        column("born", "born", ColumnType::Date),
        column("card", "card", ColumnType::U64),
    ];
    let city = |prefix: &str| {
        vec![
            column(&format!("{prefix}_tier"), "tier", ColumnType::Int),
            column(&format!("{prefix}_region"), "region", ColumnType::String),
        ]
    };
    let home = DimensionKey::Column { dimension: 0, column: 1 };
    let mut dimensions = vec![
        dimension("user", "user", DimensionKey::Uid, user),
        dimension("city", "city", DimensionKey::Feature(0), city("city")),
        dimension("home", "city", home, city("home")),
    ];
    for dimension in &mut dimensions {
        dimension.strategy = strategy;
    }
    let feature = Feature {
        name: "register_city".to_owned(),
        doc: String::new(),
        stream: 0,
        aggregate: Aggregate::LastTime,
        filter: None,
        span: Span::Lifetime,
        data_type: arrow::datatypes::DataType::Utf8,
        place: Place::default(),
    };
    Catalog {
        name: "test".to_owned(),
        uid: UidType::U64,
        zone: Zone::new("Europe/London").unwrap(),
        allowed_lateness_ms: 0,
        max_ahead_ms: 0,
        exact_values_max: 16,
        params: std::collections::BTreeMap::new(),
        streams: Vec::new(),
        dimensions,
        features: vec![feature],
        tags: Vec::new(),
        tag_order: Vec::new(),
        cases: Vec::new(),
        fingerprint: 0,
    }
}

const USERS: &str = "\
uid,nps,home_city,credit,since,vip,score,born,card,unused
7,10,leeds,12.5,2026-03-01T12:00:00Z,true,0.5,1990-02-03,18446744073709551615,x
9,,,,,,,,,
8,-3,york,-0.01,2026-07-01T12:00:00,false,-2,1960-01-01,1,x
";
const CITIES: &str = "city,tier,region\nleeds,2,north\nlondon,1,south\nyork,3,\n";

struct World {
    dir: tempfile::TempDir,
    catalog: Catalog,
    store: Arc<Flaky>,
    now_ms: Arc<AtomicI64>,
}

impl World {
    fn new(strategy: Strategy) -> Self {
        Self::over(strategy, Box::new(MemoryStore::new(identity(), 10)))
    }

    fn over(strategy: Strategy, store: Box<dyn Store>) -> Self {
        let store = Flaky { store, down: AtomicBool::default(), gets: AtomicUsize::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            catalog: catalog(strategy),
            store: Arc::new(store),
            now_ms: Arc::new(AtomicI64::new(100)),
        }
    }

    fn file(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load_with(
        &self,
        table: &str,
        path: &Path,
        options: &LoadOptions,
    ) -> std::result::Result<LoadReport, LoadError> {
        let spec = TableSpec::of(&self.catalog, table).unwrap();
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        load(&*self.store, &spec, &self.catalog.zone, path, options, now_ms, &mut |_| ())
    }

    fn load(&self, table: &str, text: &str) -> LoadReport {
        let path = self.file("table.csv", text.as_bytes());
        self.load_with(table, &path, &LoadOptions::default()).unwrap()
    }

    fn open(&self) -> Dimensions {
        let now = Arc::clone(&self.now_ms);
        let now: Now = Arc::new(move || now.load(Ordering::Relaxed));
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        Dimensions::open(&self.catalog, store, now, &CacheOptions::default()).unwrap()
    }

    fn loaded(strategy: Strategy) -> (Self, Dimensions) {
        let world = Self::new(strategy);
        world.load("user", USERS);
        world.load("city", CITIES);
        let dimensions = world.open();
        (world, dimensions)
    }

    fn wait_ms(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn down(&self, down: bool) {
        self.store.down.store(down, Ordering::Relaxed);
    }

    fn gets(&self) -> usize {
        self.store.gets.load(Ordering::Relaxed)
    }
}

fn shown(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let format = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| format.value(row).to_string()).collect()
}

/// Looks up and compares, row by row, the columns' values as text.
#[track_caller]
fn check(
    dimensions: &Dimensions,
    dimension: usize,
    key: KeyColumn<'_>,
    expect: &[&str],
) -> Enriched {
    let got = dimensions.pin().enrich(dimension, key).unwrap();
    let columns: Vec<Vec<String>> = got.columns.iter().map(shown).collect();
    let rows: Vec<String> = (0..key.len())
        .map(|row| columns.iter().map(|c| c[row].as_str()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rows, expect);
    got
}

const STRATEGIES: [Strategy; 2] = [Strategy::Preload, Strategy::Cached];

#[test]
fn users_are_looked_up_with_every_type() {
    let seven = "10 leeds 12.50 2026-03-01T12:00:00Z true 0.5 1990-02-03 18446744073709551615";
    let eight = "-3 york -0.01 2026-07-01T12:00:00+01:00 false -2.0 1960-01-01 1";
    let none = "- - - - - - - -";
    for strategy in STRATEGIES {
        let (world, dimensions) = World::loaded(strategy);
        let uids = [8, 7, 1, 9, 7];
        let got =
            check(&dimensions, 0, KeyColumn::Numbers(&uids), &[eight, seven, none, none, seven]);
        assert_eq!((got.absent_rows, got.missing.len(), got.stale), (1, 0, false));
        for (column, array) in world.catalog.dimensions[0].columns.iter().zip(&got.columns) {
            let expect = match &column.kind {
                ColumnType::String => "Dictionary(Int32, Utf8)".to_owned(),
                kind => kind.data_type(&world.catalog.zone).to_string(),
            };
            assert_eq!(array.data_type().to_string(), expect);
        }
        check(&dimensions, 0, KeyColumn::Numbers(&[]), &[]);
    }
}

#[test]
fn keys_may_be_features_or_columns_of_another_dimension() {
    for strategy in STRATEGIES {
        let (_world, dimensions) = World::loaded(strategy);
        let plain: ArrayRef =
            Arc::new(StringArray::from(vec![Some("york"), None, Some("paris"), Some("")]));
        check(&dimensions, 1, KeyColumn::Array(&plain), &["3 -", "- -", "- -", "- -"]);
        let words = vec![Some("leeds"), None, Some("leeds"), Some("london")];
        let dictionary: DictionaryArray<Int32Type> = words.into_iter().collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        let expect = ["2 north", "- -", "2 north", "1 south"];
        check(&dimensions, 1, KeyColumn::Array(&dictionary), &expect);
        // Fewer rows than dictionary values.
        let one = dictionary.slice(3, 1);
        check(&dimensions, 1, KeyColumn::Array(&one), &["1 south"]);
        let users = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7, 9, 8])).unwrap();
        let home = &users.columns[1];
        check(&dimensions, 2, KeyColumn::Array(home), &["2 north", "- -", "3 -"]);
    }
}

#[test]
fn integers_find_each_other_whatever_their_width_and_sign() {
    for strategy in STRATEGIES {
        let (_world, dimensions) = World::loaded(strategy);
        let signed: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(-7), None]));
        let got = dimensions.pin().enrich(0, KeyColumn::Array(&signed)).unwrap();
        assert_eq!(shown(&got.columns[0]), ["10", "-", "-"]);
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![8, u64::MAX]));
        let got = dimensions.pin().enrich(0, KeyColumn::Array(&unsigned)).unwrap();
        assert_eq!(shown(&got.columns[0]), ["-3", "-"]);
        let wrong: ArrayRef = Arc::new(StringArray::from(vec!["7"]));
        let error = dimensions.pin().enrich(0, KeyColumn::Array(&wrong)).unwrap_err();
        assert_eq!(error.to_string(), "dimension `user` cannot be looked up by a column of Utf8");
    }
}

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
fn tables_that_were_never_loaded_are_null_and_named() {
    for strategy in STRATEGIES {
        let world = World::new(strategy);
        world.load("city", CITIES);
        let dimensions = world.open();
        assert_eq!(dimensions.missing_tables(), ["user"]);
        let got = check(&dimensions, 0, KeyColumn::Numbers(&[7]), &["- - - - - - - -"]);
        assert_eq!((got.missing.len(), got.absent_rows), (0, 1));
    }
}

#[test]
fn columns_the_epoch_lacks_are_null_and_named() {
    for strategy in STRATEGIES {
        let (mut world, _) = World::loaded(strategy);
        let city = &mut world.catalog.dimensions[1].columns;
        city[0].kind = ColumnType::Float;
        city.push(column("city_coast", "coast", ColumnType::String));
        world.catalog.dimensions[2].columns.remove(0);
        let dimensions = world.open();
        assert_eq!(
            dimensions.missing_columns(),
            [
                "city.tier was loaded as int, the catalogue says float: load the table again",
                "city.coast was not asked for when the table was loaded: load it again"
            ]
        );
        let key: ArrayRef = Arc::new(StringArray::from(vec!["leeds"]));
        check(&dimensions, 1, KeyColumn::Array(&key), &["- north -"]);
    }
}

#[test]
fn cached_rows_are_read_once_until_they_are_old() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let look = || dimensions.pin().enrich(0, KeyColumn::Numbers(&[7, 7, 1, 8])).unwrap();
    look();
    assert_eq!(world.gets(), 1, "one multi-get for the misses of a batch");
    look();
    world.wait_ms(999);
    look();
    assert_eq!(world.gets(), 1, "absent keys are remembered too");
    world.wait_ms(1);
    look();
    assert_eq!(world.gets(), 2);
}

#[test]
fn while_the_store_is_down_old_rows_serve_and_then_are_missing() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let uids = [7, 1];
    let pinned = dimensions.pin();
    pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    world.down(true);
    let fresh = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((fresh.stale, fresh.failure), (false, None));
    world.wait_ms(6000);
    let stale = pinned.enrich(0, KeyColumn::Numbers(&[7, 1, 8])).unwrap();
    assert_eq!((stale.stale, &stale.missing[..], stale.absent_rows), (true, &[2][..], 1));
    assert_eq!(shown(&stale.columns[0]), ["10", "-", "-"]);
    assert_eq!(stale.failure.as_deref(), Some("the store cannot be reached: pulled plug"));
    world.wait_ms(1);
    let gone = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((gone.stale, &gone.missing[..]), (false, &[0, 1][..]));
    assert_eq!(shown(&gone.columns[0]), ["-", "-"]);
    world.down(false);
    let back = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((back.stale, back.missing.len()), (false, 0));
    assert_eq!(shown(&back.columns[0]), ["10", "-"]);
}

#[test]
fn a_preloaded_table_serves_while_the_store_is_down_up_to_max_stale() {
    let (world, dimensions) = World::loaded(Strategy::Preload);
    world.down(true);
    world.wait_ms(5000);
    dimensions.refresh();
    let stale = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((stale.stale, shown(&stale.columns[0])), (true, vec!["10".to_owned()]));
    world.wait_ms(1);
    let gone = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((&gone.missing[..], shown(&gone.columns[0])), (&[0][..], vec!["-".to_owned()]));
    world.down(false);
    dimensions.refresh();
    let back = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((back.stale, shown(&back.columns[0])), (false, vec!["10".to_owned()]));
}

#[test]
fn threads_that_miss_the_same_keys_read_them_once() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let (pinned, barrier) = (dimensions.pin(), std::sync::Barrier::new(4));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                let got = pinned.enrich(0, KeyColumn::Numbers(&[7, 8, 9, 1])).unwrap();
                assert_eq!(shown(&got.columns[0]), ["10", "-3", "-", "-"]);
            });
        }
    });
    assert_eq!(world.gets(), 1);
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
fn dimensions_that_cannot_share_a_table_are_refused() {
    let mut keys = catalog(Strategy::Preload);
    keys.dimensions[2].key = DimensionKey::Uid;
    let error = TableSpec::of(&keys, "city").unwrap_err().to_string();
    assert!(error.contains("looked up by string in one dimension and by u64 in `home`"), "{error}");
    let mut types = catalog(Strategy::Preload);
    types.dimensions[2].columns[0].kind = ColumnType::Float;
    let error = TableSpec::of(&types, "city").unwrap_err().to_string();
    assert!(error.contains("column `tier` of table `city` is int in one dimension"), "{error}");
    let error = TableSpec::of(&types, "town").unwrap_err().to_string();
    assert!(
        error.contains("no dimension reads a table `town`; the catalogue's tables are city, user")
    );
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
        let world = World::over(Strategy::Preload, Box::new(open()));
        let text = format!("city,tier,region\n{rows}").replace("c77,77,", &format!("c77,{epoch},"));
        let path = world.file("big.csv", text.as_bytes());
        let options = LoadOptions { chunk_bytes_max: 300_000, ..LoadOptions::default() };
        let report = world.load_with("city", &path, &options).unwrap();
        let changed = if epoch == 1 { 20_000 } else { 1 };
        assert_eq!((report.epoch, report.rows, report.changed), (epoch, 20_000, changed));
    }
    let world = World::over(Strategy::Preload, Box::new(open()));
    let key: ArrayRef = Arc::new(StringArray::from(vec!["c19999", "c77", "c20000"]));
    check(&world.open(), 1, KeyColumn::Array(&key), &["19999 r199", "3 r77", "- -"]);
}

/// A store whose plug can be pulled, and that counts multi-gets.
struct Flaky {
    store: Box<dyn Store>,
    down: AtomicBool,
    gets: AtomicUsize,
}

impl Flaky {
    fn up(&self) -> Result<&dyn Store> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "pulled plug".to_owned() });
        }
        Ok(&*self.store)
    }
}

impl Store for Flaky {
    fn identity(&self) -> &Identity {
        self.store.identity()
    }
    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        self.up()?.profiles(keys)
    }
    fn write_window(&self, window: WindowWrite) -> Result<()> {
        self.up()?.write_window(window)
    }
    fn scan_profiles(&self, after: Option<&UidKey>, max: usize) -> Result<Vec<(UidKey, Bytes)>> {
        self.up()?.scan_profiles(after, max)
    }
    fn due_until(&self, ms: i64, after: Option<DueCursor>, max: usize) -> Result<Vec<DuePack>> {
        self.up()?.due_until(ms, after, max)
    }
    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        self.up()?.meta(key)
    }
    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.up()?.put_meta(key, value)
    }
    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.up()?.scan_meta(prefix)
    }
    fn scan_rejects(&self, after: Option<u64>, max: usize) -> Result<Vec<(u64, Bytes)>> {
        self.up()?.scan_rejects(after, max)
    }
    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        self.up()?.dim_begin(table)
    }
    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        self.up()?.dim_put(table, epoch, rows)
    }
    fn dim_put_changes(&self, t: &str, e: Epoch, keys: Vec<(Vec<u8>, ChangeKind)>) -> Result<()> {
        self.up()?.dim_put_changes(t, e, keys)
    }
    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        self.up()?.dim_commit(table, meta)
    }
    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        self.up()?.dim_epochs(table)
    }
    fn dim_tables(&self) -> Result<Vec<String>> {
        self.up()?.dim_tables()
    }
    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.up()?.dim_get(table, epoch, keys)
    }
    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.up()?.dim_scan(table, epoch, after, max)
    }
    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        self.up()?.dim_changes(table, epoch, after, max)
    }
    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        self.up()?.dim_drop(table, epoch)
    }
    fn stats(&self) -> Result<StoreStats> {
        self.up()?.stats()
    }
}
