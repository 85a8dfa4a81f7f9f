//! How fast the embedded store takes and gives profiles, and how fast dimensions are gathered.
//!
//! `cargo bench --bench store`: a window of 20,000 profiles of 600 B, written again and again over
//! 200,000 users; reads of 8,192 random users; 40 dimension columns for 8,192 random users.

#![expect(clippy::unwrap_used, reason = "a bench is no interface")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::RngExt;
use tagloom::catalog::model::{ColumnType, UidType};
use tagloom::clock::Zone;
use tagloom::dimension::{KeyColumn, LoadOptions, PreloadedTable, TableSpec, load};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Identity, Store, UidKey, WindowWrite};

const USERS: u64 = 200_000;
const WINDOW_USERS: u64 = 20_000;
const BATCH_USERS: usize = 8192;
const PROFILE_BYTES: usize = 600;

fn identity() -> Identity {
    Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Event }
}

fn window(first: u64, users: u64) -> WindowWrite {
    let mut rng = rand::rng();
    let profiles = (first..first + users).map(|uid| {
        // Half of a packed profile is like its neighbours', half is not.
        let mut bytes = vec![7; PROFILE_BYTES];
        rng.fill(&mut bytes[..PROFILE_BYTES / 2]);
        (UidKey::from_u64(uid), bytes.into())
    });
    WindowWrite { profiles: profiles.collect(), ..WindowWrite::default() }
}

fn profiles(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = FjallStore::open(dir.path(), &identity(), &FjallOptions::default()).unwrap();
    let mut group = criterion.benchmark_group("fjall");
    group.sample_size(10).throughput(Throughput::Elements(WINDOW_USERS));
    let mut first = 0;
    group.bench_function("write a window", |bencher| {
        bencher.iter_batched(
            || {
                first = (first + WINDOW_USERS) % USERS;
                window(first, WINDOW_USERS)
            },
            |window| store.write_window(window).unwrap(),
            BatchSize::PerIteration,
        );
    });
    store.write_window(window(0, USERS)).unwrap();
    group.throughput(Throughput::Elements(BATCH_USERS as u64));
    group.bench_function("read random profiles", |bencher| {
        let mut rng = rand::rng();
        bencher.iter_batched(
            || -> Vec<UidKey> {
                (0..BATCH_USERS).map(|_| UidKey::from_u64(rng.random_range(0..USERS))).collect()
            },
            |keys| black_box(store.profiles(&keys).unwrap()),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(USERS));
    group.bench_function("scan all profiles", |bencher| {
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
}

fn dimensions(criterion: &mut Criterion) {
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
    for uid in 0..190_000 {
        text.push_str(&format!("\n{uid}"));
        for column in 0..40 {
            let value: u32 = rng.random_range(0..if column < 25 { 1000 } else { 20 });
            text.push_str(&format!(",{}{value}", if column < 25 { "" } else { "word" }));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user.csv");
    std::fs::write(&path, &text).unwrap();
    let zone = Zone::new("UTC").unwrap();
    let fjall = FjallStore::open(dir.path(), &identity(), &FjallOptions::default()).unwrap();
    let stores: [(&str, Arc<dyn Store>); 2] =
        [("fjall", Arc::new(fjall)), ("memory", Arc::new(MemoryStore::new(identity(), 0)))];
    let mut group = criterion.benchmark_group("dimension of 190,000 rows and 40 columns");
    group.sample_size(10);
    for (name, store) in stores {
        group.bench_function(format!("load a CSV into {name}"), |bencher| {
            bencher.iter(|| {
                let epochs = store.dim_epochs("user").unwrap();
                for meta in epochs {
                    store.dim_drop("user", meta.epoch).unwrap();
                }
                let options = LoadOptions::default();
                load(&*store, &spec, &zone, &path, &options, 0, &mut |_| ()).unwrap();
            });
        });
        group.bench_function(format!("preload from {name}"), |bencher| {
            bencher.iter(|| PreloadedTable::read(&*store, &spec, &zone).unwrap());
        });
        let table = PreloadedTable::read(&*store, &spec, &zone).unwrap().unwrap();
        group.bench_function(format!("look up 8,192 users ({name})"), |bencher| {
            bencher.iter_batched(
                || -> Vec<u64> { (0..BATCH_USERS).map(|_| rng.random_range(0..USERS)).collect() },
                |uids| black_box(table.columns(KeyColumn::Numbers(&uids)).unwrap()),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, profiles, dimensions);
criterion_main!(benches);
