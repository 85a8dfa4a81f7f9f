//! How fast the store writes and reads, beside the bare client on the same gateway. Shown, not asserted:
//! `tests/live/run.sh hbase_rate --nocapture`.

use std::collections::BTreeMap;

use hbase_thrift::hbase::{BatchMutation, Mutation, THbaseSyncClient};
use tagloom::clock::Stopwatch;
use tagloom::store::hbase::{HbaseOptions, HbaseStore, init};
use tagloom::store::{ProfileCells, Store, UidKey, WindowWrite};

use crate::hbase_contract::identity;
use crate::rig::hbase::{Hbase, client};

const USERS: u64 = 20_000;
const WINDOWS: u64 = 4;
const STATE_BYTES: usize = 600;
const TAG_BYTES: usize = 10;

/// Rows that the bare client writes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Different ones.
    pub rows: u64,
    /// How often each is written.
    pub times: u64,
    /// Bytes of the cell with the state.
    pub state_bytes: usize,
    /// Tag cells, and bytes of the value of each.
    pub tags: usize,
    pub tag_bytes: usize,
}

#[expect(clippy::cast_precision_loss, reason = "rows of a test")]
fn show(name: &str, rows: u64, took: std::time::Duration) {
    eprintln!("{name:<44} {:>9.0} rows/s", rows as f64 / took.as_secs_f64());
}

/// The ceiling: as many connections, batches made before, nothing looked at.
#[expect(clippy::cast_precision_loss, reason = "rows of a test")]
pub fn bare_rows_per_s(options: &HbaseOptions, shape: Shape) -> f64 {
    let port: u16 = options.gateways.rsplit(':').next().unwrap().parse().unwrap();
    let cell = |column: String, bytes: usize| {
        Mutation::new(false, column.into_bytes(), vec![b'x'; bytes], true)
    };
    let row = |uid: u64| {
        let row: Vec<u8> = uid.to_string().into_bytes().into_iter().rev().collect();
        let tags = (0..shape.tags).map(|tag| cell(format!("t:{tag}"), shape.tag_bytes));
        let cells = std::iter::once(cell("s:p".to_owned(), shape.state_bytes)).chain(tags);
        BatchMutation::new(row, cells.collect::<Vec<_>>())
    };
    let users: Vec<u64> = (0..shape.rows).collect();
    let batches: Vec<Vec<BatchMutation>> = users
        .chunks(options.batch_rows_max)
        .map(|uids| uids.iter().map(|uid| row(*uid)).collect())
        .collect();
    let took = Stopwatch::start();
    std::thread::scope(|scope| {
        for thread in 0..options.connections {
            let batches = &batches;
            scope.spawn(move || {
                let mut client = client(port).unwrap();
                let table = || format!("{}profile", options.prefix).into_bytes();
                for stamp in 1..=shape.times {
                    for batch in batches.iter().skip(thread).step_by(options.connections) {
                        let stamp = stamp.cast_signed();
                        let batch = batch.clone();
                        client.mutate_rows_ts(table(), batch, stamp, BTreeMap::new()).unwrap();
                    }
                }
            });
        }
    });
    (shape.rows * shape.times) as f64 / took.elapsed().as_secs_f64()
}

fn through_the_store(store: &HbaseStore, tags: usize) {
    let mut took = std::time::Duration::ZERO;
    for _ in 0..WINDOWS {
        let cells = || {
            let tag = |tag: usize| (tag.to_string().into(), Some("x".repeat(TAG_BYTES).into()));
            ProfileCells { all: false, tags: (0..tags).map(tag).collect() }
        };
        let state = vec![b'x'; STATE_BYTES];
        let window = WindowWrite {
            profiles: (0..USERS).map(|uid| (UidKey::from_u64(uid), state[..].into())).collect(),
            cells: (0..USERS).map(|_| cells()).collect(),
            ..WindowWrite::default()
        };
        let watch = Stopwatch::start();
        store.write_window(window).unwrap();
        took += watch.elapsed();
    }
    show(&format!("the store: state and {tags} tag cells"), USERS * WINDOWS, took);
}

fn reading(store: &HbaseStore) {
    let keys: Vec<UidKey> = (0..USERS).map(UidKey::from_u64).collect();
    let watch = Stopwatch::start();
    for _ in 0..WINDOWS {
        assert!(store.profiles(&keys).unwrap().iter().all(Option::is_some));
    }
    show("the store: multi-get", USERS * WINDOWS, watch.elapsed());
    let watch = Stopwatch::start();
    assert_eq!(store.scan_profiles(None, usize::MAX).unwrap().len() as u64, USERS);
    show("the store: scan", USERS, watch.elapsed());
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn rates_of_hbase() {
    let hbase = Hbase::start();
    for tags in [0, 5] {
        let options = hbase.options(&format!("rate{tags}_"));
        init(&options).unwrap();
        let store = HbaseStore::open(&options, &identity()).unwrap();
        // Twice: the first one warms the servers up.
        for _ in 0..2 {
            let (rows, times) = (USERS, WINDOWS);
            let shape = Shape { rows, times, state_bytes: STATE_BYTES, tags, tag_bytes: TAG_BYTES };
            let rate = bare_rows_per_s(&options, shape);
            eprintln!(
                "{:<44} {rate:>9.0} rows/s",
                format!("bare client: state and {tags} tag cells")
            );
            through_the_store(&store, tags);
        }
        reading(&store);
    }
}
