//! Behaviour of loads and lookups through the module's door.

mod loading;
mod lookups;
mod outage;
mod topics;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::*;
use crate::catalog::model::{
    Aggregate, Catalog, ColumnType, Dimension, DimensionColumn, DimensionKey, Feature, Span,
    Strategy, TimestampFormat, UidType,
};
use crate::catalog::place::Place;
use crate::clock::Zone;
use crate::store::intercepted::{Call, Intercepted};
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity, Store, StoreError};

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
        topic: None,
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
        closed: None,
        cases: Vec::new(),
        removed: Vec::new(),
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

/// The store's plug can be pulled, and its multi-gets are counted.
#[derive(Default)]
struct Plug {
    down: AtomicBool,
    gets: AtomicUsize,
}

impl Plug {
    fn pass(&self, call: Call) -> crate::store::Result<()> {
        self.gets.fetch_add(usize::from(call == Call::DimGet), Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "pulled plug".to_owned() });
        }
        Ok(())
    }
}

struct World {
    dir: tempfile::TempDir,
    catalog: Catalog,
    store: Arc<dyn Store>,
    plug: Arc<Plug>,
    now_ms: Arc<AtomicI64>,
}

impl World {
    fn new(strategy: Strategy) -> Self {
        Self::over(strategy, Arc::new(MemoryStore::new(identity(), 10)))
    }

    fn over(strategy: Strategy, store: Arc<dyn Store>) -> Self {
        let plug = Arc::new(Plug::default());
        let gate = Arc::clone(&plug);
        let store = Intercepted::new(store, move |call| gate.pass(call));
        Self {
            dir: tempfile::tempdir().unwrap(),
            catalog: catalog(strategy),
            store: Arc::new(store),
            plug,
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
        self.open_with(&Lookups::default())
    }

    fn open_with(&self, lookups: &Lookups) -> Dimensions {
        let now = Arc::clone(&self.now_ms);
        let now: Now = Arc::new(move || now.load(Ordering::Relaxed));
        Dimensions::open(&self.catalog, Arc::clone(&self.store), now, lookups).unwrap()
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
        self.plug.down.store(down, Ordering::Relaxed);
    }

    fn gets(&self) -> usize {
        self.plug.gets.load(Ordering::Relaxed)
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

const STRATEGIES: [Strategy; 3] = [Strategy::Preload, Strategy::Cached, Strategy::Direct];
