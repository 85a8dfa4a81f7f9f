//! HBase or its gateways are killed, frozen, and come back: nothing acknowledged is lost, nobody waits
//! for ever, and it goes on without a hand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tagloom::clock::Stopwatch;
use tagloom::store::hbase::{HbaseOptions, HbaseStore, init};
use tagloom::store::{DueCursor, DuePack, Store, StoreError, UidKey, WindowWrite};

use crate::hbase_contract::identity;
use crate::rig::hbase::Hbase;
use crate::rig::wait_until;

const WINDOW_USERS: u64 = 300;

fn open(options: &HbaseOptions) -> HbaseStore {
    init(options).unwrap();
    HbaseStore::open(options, &identity()).unwrap()
}

fn keys(window: u64) -> Vec<UidKey> {
    (window * WINDOW_USERS..(window + 1) * WINDOW_USERS).map(UidKey::from_u64).collect()
}

fn write(window: u64) -> WindowWrite {
    let keys = keys(window);
    let cursor = DueCursor { due_ms: 5, window, shard: 0, partition: 0 };
    let profile = format!("{window:0600}").into_bytes();
    WindowWrite {
        profiles: keys.iter().map(|key| (key.clone(), profile[..].into())).collect(),
        due: vec![DuePack { cursor, keys }],
        meta: vec![("position/0".to_owned(), window.to_string().into_bytes())],
        ..WindowWrite::default()
    }
}

/// Writes windows one after the other until told to end, each until it is acknowledged; counts them.
fn write_on(store: &HbaseStore, acknowledged: &AtomicU64, end: &AtomicBool) {
    while !end.load(Ordering::SeqCst) {
        let window = acknowledged.load(Ordering::SeqCst);
        match store.write_window(write(window)) {
            Ok(()) => acknowledged.store(window + 1, Ordering::SeqCst),
            Err(error) if error.retry() => std::thread::park_timeout(Duration::from_millis(100)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn everything_acknowledged_is_there_after_hbase_was_killed() {
    let mut hbase = Hbase::start();
    let options = HbaseOptions { batch_rows_max: 50, ..hbase.options("kill_") };
    let store = open(&options);
    let (acknowledged, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let so_far = || acknowledged.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&store, &acknowledged, &end));
        for _ in 0..2 {
            let before = so_far();
            wait_until("40 windows", Duration::from_secs(120), || so_far() > before + 40);
            hbase.kill_server();
            hbase.start_server();
            hbase.wait_ready();
        }
        let before = so_far();
        wait_until("40 windows", Duration::from_secs(120), || so_far() > before + 40);
        end.store(true, Ordering::SeqCst);
        writer.join().unwrap();
    });
    let windows = so_far();
    eprintln!("{windows} windows of {WINDOW_USERS} users acknowledged");
    for window in 0..windows {
        let profile = format!("{window:0600}");
        for (at, found) in store.profiles(&keys(window)).unwrap().into_iter().enumerate() {
            let found = found.unwrap_or_else(|| panic!("lost: window {window}, user {at}"));
            assert_eq!(&found[..], profile.as_bytes());
        }
    }
    let packs = store.due_until(9, None, usize::MAX).unwrap();
    assert!(packs.len() as u64 >= windows.min(8_000), "{} of {windows} packs", packs.len());
    let position = store.meta("position/0").unwrap().unwrap();
    assert_eq!(&position[..], (windows - 1).to_string().as_bytes());
}

/// Bytes of this process in memory.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// While nothing answers: calls end in time and say why, memory stays. Gives the first error.
fn refuses_for(store: &HbaseStore, time: Duration, call_max: Duration) -> StoreError {
    let before = resident_bytes();
    let down = Stopwatch::start();
    let (mut calls, mut longest, mut first) = (0, Duration::ZERO, None);
    while down.elapsed() < time {
        let call = Stopwatch::start();
        let error = store.write_window(write(0)).unwrap_err();
        longest = longest.max(call.elapsed());
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.retry(), "{error}");
        assert!(store.health().is_err());
        first.get_or_insert(error);
        calls += 1;
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let grown = resident_bytes().saturating_sub(before) >> 20;
    eprintln!("{calls} calls refused, the longest took {longest:?}; {grown} MiB more");
    assert!(longest < call_max, "{longest:?}");
    assert!(calls > 50, "an open circuit refuses at once: {calls} calls");
    assert!(grown < 64, "{grown} MiB");
    first.unwrap()
}

fn works_again(store: &HbaseStore) {
    wait_until("it works again", Duration::from_secs(60), || store.write_window(write(1)).is_ok());
    store.health().unwrap();
    assert!(store.profiles(&keys(1)).unwrap().iter().all(Option::is_some));
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn a_gateway_that_is_stopped_or_frozen_is_survived() {
    let mut hbase = Hbase::start();
    let options = HbaseOptions {
        call_timeout_ms: 2_000,
        deadline_ms: 4_000,
        queue_max: 4,
        ..hbase.options("gateway_")
    };
    let store = open(&options);
    store.write_window(write(0)).unwrap();

    hbase.kill_gateway(0);
    let error = refuses_for(&store, Duration::from_secs(30), Duration::from_secs(7));
    assert!(error.to_string().contains("127.0.0.1:"), "{error}");
    hbase.start_gateway(0);
    works_again(&store);

    // Its port is open and nothing answers: only the socket's timeout ends a call.
    hbase.signal_gateway(0, "STOP");
    let error = refuses_for(&store, Duration::from_secs(30), Duration::from_secs(7));
    assert!(error.to_string().contains("no answer from the gateway in time"), "{error}");
    hbase.signal_gateway(0, "CONT");
    works_again(&store);
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn one_of_two_gateways_is_enough() {
    let mut hbase = Hbase::start_with(2);
    let store = open(&hbase.options("failover_"));
    for stopped in [0, 1] {
        store.write_window(write(0)).unwrap();
        hbase.kill_gateway(stopped);
        for window in 1..20 {
            store.write_window(write(window)).unwrap();
        }
        store.health().unwrap();
        hbase.start_gateway(stopped);
        hbase.wait_ready();
    }
}
