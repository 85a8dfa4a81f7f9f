//! What a window does with its users, stage by stage, on the portrait workload: fold, features,
//! tags, packing, the whole close of a window with 10,000 dirty users, and reading users back.
//!
//! `cargo bench --bench window`: the data come from `tagloom gen`, seed 1, 20,000 users.

#![expect(clippy::unwrap_used, reason = "a bench is no interface")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tagloom::buffer_pool::BufferPool;
use tagloom::catalog::model::{Catalog, Format};
use tagloom::clock::Day;
use tagloom::dimension::{Dimensions, KeyColumn, LoadOptions, Lookups, TableSpec, load};
use tagloom::engine::ruleset::Ruleset;
use tagloom::event::block::ShardRows;
use tagloom::event::quarantine::Quarantine;
use tagloom::rule::safe::SafeExpr;
use tagloom::rule::{AsOf, Scratch, TagBatch};
use tagloom::shard::users::User;
use tagloom::shard::{Shard, Shared, WindowClose};
use tagloom::source::file::{FileSource, FileSpec, ReadLimits};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Identity, Store, Uid, WindowWrite};
use tagloom::user::features::FeatureBatch;
use tagloom::user::snapshot::{Applied, Head, Packer, Profile};
use tagloom::user::texts::Texts;
use tagloom::write::profile::{Schemas, schema_key};

/// As the service has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: usize = 20_000;
const DIRTY_USERS: usize = 10_000;
const AS_OF_MS: i64 = 1_774_958_400_000;

fn identity(catalog: &Catalog) -> Identity {
    let timezone = catalog.zone.name().to_owned();
    Identity { uid: catalog.uid, timezone, clock: ClockMode::Fixed }
}

/// The workload, read into blocks for one shard.
struct Workload {
    shared: Shared,
    dimensions: Dimensions,
    blocks: Vec<(u8, ShardRows)>,
    as_of_day: Day,
    _data: tempfile::TempDir,
}

impl Workload {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_tagloom"))
            .args(["gen", "--users", &USERS.to_string(), "--events", "200000", "--out"])
            .arg(data.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portrait/catalog");
        let loaded = tagloom::catalog::load(&catalog).unwrap_or_else(|e| panic!("{e}"));
        let ruleset = Arc::new(Ruleset::new(loaded.catalog).unwrap());
        let catalog = Arc::clone(&ruleset.catalog);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity(&catalog), 1_000));
        for table in ["user_dim", "city_dim"] {
            let spec = TableSpec::of(&catalog, table).unwrap();
            let file = data.path().join(format!("{table}.csv"));
            let (zone, options) = (&catalog.zone, LoadOptions::default());
            load(store.as_ref(), &spec, zone, &file, &options, 0, &mut |_| {}).unwrap();
        }
        let now: tagloom::dimension::Now = Arc::new(|| AS_OF_MS);
        let lookups = Lookups::default();
        let dimensions = Dimensions::open(&catalog, Arc::clone(&store), now, &lookups).unwrap();
        let shared = Shared {
            texts: Arc::new(Texts::default()),
            store,
            schemas: Arc::new(Schemas::default()),
            quarantine: Arc::new(Quarantine::default()),
            store_had_profiles: false,
            state_bytes_max: 1 << 20,
            resident_bytes_max: usize::MAX,
            batch_users_max: 1024,
            replay: Arc::default(),
            publishing: None,
            packs_late: false,
            ruleset,
        };
        let mut blocks = Vec::new();
        for (at, stream) in catalog.streams.iter().enumerate() {
            let path = data.path().join(format!("{}.jsonl", stream.name));
            blocks.extend(read(&shared, &catalog, at, &path));
        }
        let as_of_day = catalog.zone.day_of(AS_OF_MS);
        Self { shared, dimensions, blocks, as_of_day, _data: data }
    }

    fn identity(&self) -> Identity {
        identity(&self.shared.ruleset.catalog)
    }

    fn shard(&self) -> Shard {
        Shard::new(0, self.shared.clone())
    }

    fn folded(&self) -> Shard {
        let mut shard = self.shard();
        for (stream, rows) in &self.blocks {
            shard.fold(*stream, rows, None).unwrap();
        }
        shard
    }

    fn close(&self) -> WindowClose {
        WindowClose {
            window: 1,
            as_of_ms: AS_OF_MS,
            as_of_day: self.as_of_day,
            due: Vec::new(),
            also: Vec::new(),
            also_cause: tagloom::write::publish::outbox::Cause::Rule,
            history: Vec::new(),
            side: None,
            roll_up: None,
            fences: Arc::default(),
            dimensions: self.dimensions.pin(),
        }
    }

    fn as_of(&self) -> AsOf {
        AsOf { ms: AS_OF_MS, day: self.as_of_day }
    }

    /// The plan's input columns for some users.
    fn inputs(&self, users: &[&User]) -> Vec<ArrayRef> {
        let ruleset = &self.shared.ruleset;
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        let texts = self.shared.texts.view();
        for user in users {
            features.push(&user.state, self.as_of(), &texts);
        }
        let mut columns = features.take(&texts);
        let uids: Vec<u64> = users.iter().map(|u| number(&u.uid)).collect();
        let pinned = self.dimensions.pin();
        for (at, dimension) in ruleset.catalog.dimensions.iter().enumerate() {
            let key = match dimension.key {
                tagloom::catalog::model::DimensionKey::Uid => KeyColumn::Numbers(&uids),
                tagloom::catalog::model::DimensionKey::Feature(f) => KeyColumn::Array(&columns[f]),
                tagloom::catalog::model::DimensionKey::Column { dimension, column } => {
                    KeyColumn::Array(&columns[ruleset.dimension_inputs[dimension] + column])
                }
            };
            let enriched = pinned.enrich(at, key).unwrap();
            columns.extend(enriched.columns);
        }
        columns
    }
}

fn number(uid: &Uid) -> u64 {
    match uid {
        Uid::U64(number) => *number,
        Uid::Str(_) => panic!("the workload's uids are numbers"),
    }
}

fn read(shared: &Shared, catalog: &Catalog, stream: usize, path: &Path) -> Vec<(u8, ShardRows)> {
    let spec = FileSpec {
        path: path.to_owned(),
        format: Format::Json,
        streams: vec![stream],
        name: path.display().to_string(),
    };
    let texts = Arc::clone(&shared.texts);
    let layout = &shared.ruleset.layout;
    let limits = ReadLimits::default();
    let mut source = FileSource::open(spec, catalog, layout, texts, 1, limits, None).unwrap();
    let mut blocks = Vec::new();
    while let Some((decoded, _)) = source.next(Some(AS_OF_MS + 86_400_000)).unwrap() {
        for block in decoded.blocks {
            blocks.extend(block.shards.into_iter().map(|rows| (block.stream, rows)));
        }
    }
    blocks
}

fn fold(criterion: &mut Criterion, workload: &Workload) {
    let events: usize = workload.blocks.iter().map(|b| b.1.hashes.len()).sum();
    let mut group = criterion.benchmark_group("fold");
    group.sample_size(10).throughput(Throughput::Elements(events as u64));
    group.bench_function("events into users", |bencher| {
        bencher.iter_batched(
            || workload.shard(),
            |mut shard| {
                for (stream, rows) in &workload.blocks {
                    shard.fold(*stream, rows, None).unwrap();
                }
                shard
            },
            BatchSize::PerIteration,
        );
    });
}

fn features(criterion: &mut Criterion, workload: &Workload, users: &[&User]) {
    let ruleset = &workload.shared.ruleset;
    let texts = workload.shared.texts.view();
    let mut batch = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
    let mut pool = BufferPool::default();
    let users = &users[..8192];
    let mut group = criterion.benchmark_group("features");
    group.throughput(Throughput::Elements(users.len() as u64));
    group.bench_function("120 features", |bencher| {
        bencher.iter(|| {
            for chunk in users.chunks(1024) {
                for user in chunk {
                    black_box(batch.push(&user.state, workload.as_of(), &texts));
                }
                let columns = batch.take_with(&texts, &mut pool);
                pool.give_back(black_box(columns));
            }
        });
    });
}

fn tags(criterion: &mut Criterion, workload: &Workload, users: &[&User]) {
    let plan = &workload.shared.ruleset.plan;
    let (mut scratch, mut out) = (Scratch::default(), TagBatch::default());
    let mut group = criterion.benchmark_group("550 tags");
    for rows in [8192, 1024, 100, 1] {
        let inputs = workload.inputs(&users[..rows]);
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("batch of {rows}"), |bencher| {
            bencher.iter(|| {
                let as_of = workload.as_of();
                plan.evaluate_into(black_box(&inputs), rows, as_of, &[], &mut scratch, &mut out);
                black_box(&out.codes);
            });
        });
        let datafusion = DataFusion::new(workload, &inputs, rows);
        group.sample_size(10);
        group.bench_function(format!("batch of {rows}, DataFusion"), |bencher| {
            bencher.iter(|| black_box(datafusion.evaluate()));
        });
    }
}

/// All tags as DataFusion's physical expressions, over plain columns.
struct DataFusion {
    batch: RecordBatch,
    tags: Vec<(String, SafeExpr)>,
}

impl DataFusion {
    fn new(workload: &Workload, inputs: &[ArrayRef], rows: usize) -> Self {
        let (catalog, plan) = (&workload.shared.ruleset.catalog, &workload.shared.ruleset.plan);
        let plain = |array: &ArrayRef| match array.data_type() {
            DataType::Dictionary(_, values) => cast(array, values).unwrap(),
            _ => Arc::clone(array),
        };
        let mut columns: Vec<(String, ArrayRef)> =
            plan.inputs().iter().zip(inputs).map(|(f, a)| (f.name.clone(), plain(a))).collect();
        let day = arrow::array::Date32Array::from_value(workload.as_of_day, rows);
        columns.push(("as_of_date".to_owned(), Arc::new(day)));
        let now = arrow::array::TimestampMillisecondArray::from_value(AS_OF_MS, rows)
            .with_timezone(catalog.zone.name());
        columns.push(("as_of".to_owned(), Arc::new(now)));
        let mut tags = Vec::new();
        for at in &catalog.tag_order {
            let tag = &catalog.tags[*at];
            let batch = batch_of(&columns, rows);
            let expr = SafeExpr::new(&tag.expr, &batch.schema()).unwrap();
            // Tags over tags find them as columns.
            columns.push((tag.name.clone(), expr.evaluate(&batch).array));
            tags.push((tag.name.clone(), expr));
        }
        Self { batch: batch_of(&columns, rows), tags }
    }

    fn evaluate(&self) -> BTreeMap<&str, ArrayRef> {
        let tags = self.tags.iter();
        tags.map(|(name, expr)| (name.as_str(), expr.evaluate(&self.batch).array)).collect()
    }
}

fn batch_of(columns: &[(String, ArrayRef)], rows: usize) -> RecordBatch {
    let field = |(name, a): &(String, ArrayRef)| Field::new(name, a.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.iter().map(|c| Arc::clone(&c.1)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options).unwrap()
}

fn packing(criterion: &mut Criterion, workload: &Workload, users: &[&User]) {
    let ruleset = &workload.shared.ruleset;
    let texts = workload.shared.texts.view();
    let users = &users[..8192];
    let tags = ruleset.plan.evaluate(&workload.inputs(users), users.len(), workload.as_of());
    let mut packer = Packer::default();
    let mut group = criterion.benchmark_group("packing");
    group.throughput(Throughput::Elements(users.len() as u64));
    group.bench_function("profiles", |bencher| {
        bencher.iter(|| {
            for (row, user) in users.iter().enumerate() {
                let (codes, state) = (tags.codes_of(row), &user.state);
                let applied = Applied::default();
                let head = Head::default();
                let profile =
                    Profile { head, codes, open: &[], state, applied: &applied, outbox: &[] };
                black_box(packer.pack(&profile, &ruleset.layout, &texts));
            }
        });
    });
}

/// The close of a window in which 10,000 users are dirty and all are resident; also its slowest of
/// a hundred.
fn close(criterion: &mut Criterion, workload: &Workload) {
    let mut took: Vec<Duration> = Vec::new();
    let mut group = criterion.benchmark_group("window");
    group.sample_size(10).throughput(Throughput::Elements(DIRTY_USERS as u64));
    group.bench_function("close with 10,000 dirty users", |bencher| {
        bencher.iter_custom(|times| {
            let mut sum = Duration::ZERO;
            for _ in 0..times {
                let mut shard = workload.folded();
                shard.close(&workload.close()).unwrap();
                let uids: Vec<u64> = shard.users().iter().map(|u| number(&u.uid)).collect();
                for (stream, rows) in &new_events(workload, &uids[..DIRTY_USERS]) {
                    shard.fold(*stream, rows, None).unwrap();
                }
                assert_eq!(shard.dirty_users(), DIRTY_USERS);
                let begun = now();
                let closed = shard.close(&workload.close()).unwrap();
                let lasted = begun.elapsed();
                black_box(closed);
                took.push(lasted);
                sum += lasted;
            }
            sum
        });
    });
    took.sort_unstable();
    // None when another bench was asked for.
    if let Some(p99) = took.get((took.len() * 99 / 100).min(took.len().saturating_sub(1))) {
        eprintln!("close with 10,000 dirty users: p99 {p99:?} of {} windows", took.len());
    }
}

/// One event each for 10,000 users who have to be read from the store, beside the same for users who
/// are there.
fn activation(criterion: &mut Criterion, workload: &Workload) {
    let mut shard = workload.folded();
    let closed = shard.close(&workload.close()).unwrap();
    let uids: Vec<u64> = shard.users().iter().map(|u| number(&u.uid)).collect();
    let events = new_events(workload, &uids[..DIRTY_USERS]);
    let (ruleset, dir) = (&workload.shared.ruleset, tempfile::tempdir().unwrap());
    let fjall = FjallStore::open(dir.path(), &workload.identity(), &FjallOptions::default());
    let stores: [(&str, Arc<dyn Store>); 2] = [
        ("memory", Arc::new(MemoryStore::new(workload.identity(), 1_000))),
        ("fjall", Arc::new(fjall.unwrap())),
    ];
    let mut group = criterion.benchmark_group("activation");
    group.throughput(Throughput::Elements(DIRTY_USERS as u64));
    let fold = |mut shard: Shard| {
        for (stream, rows) in &events {
            shard.fold(*stream, rows, None).unwrap();
        }
        shard
    };
    let resident = || {
        let mut shard = workload.folded();
        shard.close(&workload.close()).unwrap();
        shard
    };
    group.sample_size(10).bench_function("event of a resident user", |bencher| {
        bencher.iter_batched(resident, fold, BatchSize::PerIteration);
    });
    for (name, store) in stores {
        let schema = serde_json::to_vec(&ruleset.schema).unwrap();
        store.put_meta(&schema_key(ruleset.schema_id), schema).unwrap();
        let profiles = closed.profiles.clone();
        store.write_window(WindowWrite { profiles, ..WindowWrite::default() }).unwrap();
        let shared = Shared { store, store_had_profiles: true, ..workload.shared.clone() };
        let cold = || Shard::new(0, shared.clone());
        group.bench_function(format!("event of a user in the store, {name}"), |bencher| {
            bencher.iter_batched(cold, fold, BatchSize::PerIteration);
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

/// One new event for each of these users: an event of the workload under another id.
fn new_events(workload: &Workload, uids: &[u64]) -> Vec<(u8, ShardRows)> {
    let streams = &workload.shared.ruleset.layout.streams;
    let (stream, from) = workload.blocks.iter().max_by_key(|b| b.1.hashes.len()).unwrap();
    let layout = &streams[usize::from(*stream)];
    let row = &from.rows[..layout.width];
    let mut rows = Vec::with_capacity(uids.len() * layout.width);
    for uid in uids {
        let start = rows.len();
        rows.extend_from_slice(row);
        rows[start + layout.id_word.unwrap()] = 1 << 63 | uid;
    }
    let hashes = uids.iter().map(|uid| tagloom::event::block::uid_hash(*uid)).collect();
    let uids = tagloom::event::block::Uids::Numbers(uids.to_vec());
    vec![(*stream, ShardRows { uids, hashes, rows, offsets: Vec::new() })]
}

fn benches(criterion: &mut Criterion) {
    let workload = Workload::new();
    fold(criterion, &workload);
    let shard = workload.folded();
    let users: Vec<&User> = shard.users().iter().collect();
    features(criterion, &workload, &users);
    tags(criterion, &workload, &users);
    packing(criterion, &workload, &users);
    close(criterion, &workload);
    activation(criterion, &workload);
}

criterion_group!(window, benches);
criterion_main!(window);
