//! How fast the stores take and give profiles, and how fast dimensions are loaded and gathered.
//!
//! `cargo bench --bench store`: windows of 20,000 and 200,000 profiles of 800 B in no order, reads
//! by key and in uid order; a dimension table of 40 columns loaded, preloaded and looked up. The
//! latency of single reads over a million profiles is printed as percentiles.
//! `cargo bench --bench store -- --test` runs each once over fewer rows.

#![expect(clippy::unwrap_used, reason = "a bench is no interface")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::RngExt;
use rand::seq::SliceRandom;
use tagloom::catalog::model::{ColumnType, UidType};
use tagloom::clock::{Stopwatch, Zone};
use tagloom::dimension::{KeyColumn, LoadOptions, PreloadedTable, TableSpec, load};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{Bytes, ClockMode, Identity, Store, UidKey, WindowWrite};

const USERS: u64 = 200_000;
const WINDOW_USERS: u64 = 20_000;
const BATCH_USERS: usize = 8192;
const PROFILE_BYTES: usize = 800;

fn identity() -> Identity {
    Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Event }
}

/// Whether everything is run once only, to see that it runs.
fn smoke() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

fn users(rows: u64) -> u64 {
    if smoke() { rows.min(WINDOW_USERS) } else { rows }
}

fn window(first: u64, users: u64) -> WindowWrite {
    let mut rng = rand::rng();
    let profiles = (first..first + users).map(|uid| {
        // Half of a packed profile is like its neighbours', half is not.
        let bytes = Bytes::build(PROFILE_BYTES, |bytes| rng.fill(&mut bytes[..PROFILE_BYTES / 2]));
        (UidKey::from_u64(uid), bytes)
    });
    let mut profiles: Vec<_> = profiles.collect();
    // Shards hand over users in the order their events came.
    profiles.shuffle(&mut rand::rng());
    WindowWrite { profiles, ..WindowWrite::default() }
}

fn fjall(dir: &tempfile::TempDir) -> FjallStore {
    FjallStore::open(dir.path(), &identity(), &FjallOptions::default()).unwrap()
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write");
    group.sample_size(10);
    let users = users(USERS);
    let dir = tempfile::tempdir().unwrap();
    let stores: [(&str, Arc<dyn Store>); 2] =
        [("fjall", Arc::new(fjall(&dir))), ("memory", Arc::new(MemoryStore::new(identity(), 0)))];
    for (name, store) in stores {
        group.throughput(Throughput::Elements(WINDOW_USERS));
        let mut first = 0;
        group.bench_function(format!("a window of 20,000 into {name}"), |bencher| {
            bencher.iter_batched(
                || {
                    first = (first + WINDOW_USERS) % users;
                    window(first, WINDOW_USERS)
                },
                |window| store.write_window(window).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.throughput(Throughput::Elements(users));
    group.bench_function("a first window of 200,000 into fjall", |bencher| {
        bencher.iter_batched(
            || {
                let dir = tempfile::tempdir().unwrap();
                (fjall(&dir), dir, window(0, users))
            },
            |(store, dir, window)| {
                store.write_window(window).unwrap();
                (store, dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("a first window of 200,000 into memory", |bencher| {
        bencher.iter_batched(
            || (MemoryStore::new(identity(), 0), window(0, users)),
            |(store, window)| {
                store.write_window(window).unwrap();
                store
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let users = users(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    let store = fjall(&dir);
    for first in (0..users).step_by(20_000) {
        store.write_window(window(first, WINDOW_USERS)).unwrap();
    }
    let mut rng = rand::rng();
    let mut group = criterion.benchmark_group("read of 1,000,000 profiles in fjall");
    group.sample_size(10).throughput(Throughput::Elements(BATCH_USERS as u64));
    group.bench_function("8,192 by key", |bencher| {
        bencher.iter_batched(
            || -> Vec<UidKey> {
                (0..BATCH_USERS).map(|_| UidKey::from_u64(rng.random_range(0..users))).collect()
            },
            |keys| black_box(store.profiles(&keys).unwrap()),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(users));
    group.bench_function("all in uid order", |bencher| {
        bencher.iter(|| {
            let mut after = None;
            loop {
                let page = store.scan_profiles(after.as_ref(), BATCH_USERS).unwrap();
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
            }
        });
    });
    group.finish();
    let mut took: Vec<u64> = (0..users.min(200_000))
        .map(|_| {
            let key = [UidKey::from_u64(rng.random_range(0..users))];
            let watch = Stopwatch::start();
            black_box(store.profiles(&key).unwrap());
            u64::try_from(watch.elapsed().as_nanos()).unwrap()
        })
        .collect();
    took.sort_unstable();
    let at = |permille: usize| took[took.len() * permille / 1000] / 1000;
    let (p50, p99, p999) = (at(500), at(990), at(999));
    eprintln!("one of {users} profiles by key: p50 {p50} us, p99 {p99} us, p99.9 {p999} us");
}

/// A table of 25 columns of numbers and 15 of few words, as text.
fn table(rows: u64) -> (TableSpec, String) {
    let columns: Vec<(String, ColumnType)> = (0..40)
        .map(|n| {
            let kind = if n < 25 { ColumnType::Int } else { ColumnType::String };
            (format!("c{n}"), kind)
        })
        .collect();
    let spec = TableSpec {
        table: "user".to_owned(),
        key: ColumnType::U64,
        key_names: vec!["uid".to_owned()],
        columns,
    };
    let mut rng = rand::rng();
    let mut text = "uid".to_owned();
    for (name, _) in &spec.columns {
        text.push(',');
        text.push_str(name);
    }
    for uid in 0..rows {
        text.push_str(&format!("\n{uid}"));
        for column in 0..40 {
            let value: u32 = rng.random_range(0..if column < 25 { 1000 } else { 20 });
            text.push_str(&format!(",{}{value}", if column < 25 { "" } else { "word" }));
        }
    }
    (spec, text)
}

fn dimensions(criterion: &mut Criterion) {
    let rows = users(190_000);
    let (spec, text) = table(rows);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user.csv");
    std::fs::write(&path, &text).unwrap();
    let zone = Zone::new("UTC").unwrap();
    let stores: [(&str, Arc<dyn Store>); 2] =
        [("fjall", Arc::new(fjall(&dir))), ("memory", Arc::new(MemoryStore::new(identity(), 0)))];
    let mut group = criterion.benchmark_group("dimension of 190,000 rows and 40 columns");
    group.sample_size(10);
    for (name, store) in &stores {
        group.bench_function(format!("load a CSV into {name}"), |bencher| {
            bencher.iter(|| {
                let epochs = store.dim_epochs("user").unwrap();
                for meta in epochs {
                    store.dim_drop("user", meta.epoch).unwrap();
                }
                let options = LoadOptions::default();
                load(&**store, &spec, &zone, &path, &options, 0, &mut |_| ()).unwrap();
            });
        });
        group.bench_function(format!("preload from {name}"), |bencher| {
            bencher.iter(|| PreloadedTable::read(&**store, &spec, &zone).unwrap());
        });
    }
    let table = PreloadedTable::read(&*stores[1].1, &spec, &zone).unwrap().unwrap();
    let mut rng = rand::rng();
    for batch in [1, 1024, BATCH_USERS] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("look up {batch} users"), |bencher| {
            bencher.iter_batched(
                || -> Vec<u64> { (0..batch).map(|_| rng.random_range(0..USERS)).collect() },
                |uids| black_box(table.columns(KeyColumn::Numbers(&uids)).unwrap()),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, writes, reads, dimensions);
criterion_main!(benches);
