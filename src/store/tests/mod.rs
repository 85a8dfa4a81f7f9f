//! The suite of behaviours over the stores that need no server, and what only those can show.

mod contract;

use std::path::Path;

use contract::{key, pack, profiles, texts};

use super::fjall::{FjallOptions, FjallStore};
use super::memory::MemoryStore;
use super::*;
use crate::catalog::model::UidType;
use crate::store;

const REJECTS_MAX: usize = 5;

fn identity() -> Identity {
    Identity { uid: UidType::U64, timezone: "Europe/London".to_owned(), clock: ClockMode::Event }
}

fn options() -> FjallOptions {
    FjallOptions { rejects_max: REJECTS_MAX, ..FjallOptions::default() }
}

fn open(path: &Path) -> FjallStore {
    FjallStore::open(path, &identity(), &options()).unwrap()
}

/// Runs a behaviour over each store.
#[track_caller]
fn check(behaviour: impl Fn(&dyn Store)) {
    behaviour(&MemoryStore::new(identity(), REJECTS_MAX));
    let dir = tempfile::tempdir().unwrap();
    behaviour(&open(dir.path()));
}

/// Runs a write over each store, then looks at it: at once, and (embedded) after opening again.
#[track_caller]
fn check_reopened(write: impl Fn(&dyn Store), look: impl Fn(&dyn Store)) {
    check(|store| {
        write(store);
        look(store);
    });
    let dir = tempfile::tempdir().unwrap();
    write(&open(dir.path()));
    look(&open(dir.path()));
}

/// Makes a test of each behaviour of the contract.
macro_rules! over_each_store {
    ($($behaviour:ident)*) => {
        $(#[test]
        fn $behaviour() {
            contract::$behaviour(&|write, look| check_reopened(write, look));
        })*
    };
}

contract::behaviours!(over_each_store);

#[test]
fn a_store_says_how_full_it_is() {
    check(|s| {
        s.write_window(profiles(&[(1, "abc"), (2, "d")])).unwrap();
        s.write_window(profiles(&[(1, "ab")])).unwrap();
        let stats = s.stats().unwrap();
        assert!(stats.disk_bytes > 0 || stats.cached_bytes == 3);
    });
}

#[test]
fn a_value_is_filled_in_place() {
    for len in [0, 1, 20, 21, 700] {
        let filled = Bytes::build(len, |bytes| {
            assert!(bytes.len() == len && bytes.iter().all(|b| *b == 0));
            bytes.fill(7);
        });
        assert_eq!(filled, vec![7; len].into());
        assert_eq!(*Bytes::build(len, |_| ()), vec![0; len]);
    }
}

fn reject_texts(s: &dyn Store) -> Vec<(u64, String)> {
    let rows = s.scan_rejects(None, 99).unwrap();
    rows.into_iter().map(|(n, v)| (n, String::from_utf8_lossy(&v).into_owned())).collect()
}

fn write_rejects(s: &dyn Store, texts: &[&str], done: &[u64]) {
    let rejects = texts.iter().map(|t| t.as_bytes().to_vec()).collect();
    let rejects_done = done.to_vec();
    s.write_window(WindowWrite { rejects, rejects_done, ..WindowWrite::default() }).unwrap();
}

#[test]
fn rejects_are_numbered_bounded_and_counted() {
    check_reopened(
        |s| {
            write_rejects(s, &["a", "b", "c"], &[]);
            write_rejects(s, &["d"], &[1, 1, 77]);
            write_rejects(s, &["e", "f", "g"], &[]);
        },
        |s| {
            let expect = [(2, "c"), (3, "d"), (4, "e"), (5, "f"), (6, "g")];
            assert_eq!(reject_texts(s), expect.map(|(n, t)| (n, t.to_owned())));
            let stats = s.stats().unwrap();
            assert_eq!((stats.rejects, stats.rejects_dropped), (5, 1));
            let page = s.scan_rejects(Some(2), 2).unwrap();
            assert_eq!(page.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3, 4]);
        },
    );
}

#[test]
fn more_rejects_than_the_bound_at_once_keep_the_last_ones() {
    check_reopened(
        |s| {
            write_rejects(s, &["x"], &[]);
            write_rejects(s, &["a", "b", "c", "d", "e", "f", "g"], &[]);
            write_rejects(s, &[], &[3, 4, 5, 6, 7]);
            assert_eq!(reject_texts(s), []);
            write_rejects(s, &["y"], &[]);
        },
        |s| {
            assert_eq!(reject_texts(s), [(8, "y".to_owned())]);
            assert_eq!(s.stats().unwrap().rejects_dropped, 3);
        },
    );
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = FjallStore::open(dir.path(), &identity(), &options());
    let error = second.err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.retry() && error.to_string().contains(dir.path().to_str().unwrap()));
    drop(first);
    open(dir.path());
}

#[test]
fn another_identity_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let cases = [
        (Identity { uid: UidType::String, ..identity() }, "uid type `u64`, not `string`; set"),
        (Identity { timezone: "UTC".to_owned(), ..identity() }, "timezone `Europe/London`, not"),
        (Identity { clock: ClockMode::Wall, ..identity() }, "clock.mode `event`, not `wall`"),
    ];
    for (given, text) in cases {
        let error = FjallStore::open(dir.path(), &given, &options()).err().unwrap();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!((error.fault(), error.retry()), (Fault::User, false));
    }
    let store = FjallStore::open_existing(dir.path(), &options()).unwrap();
    assert_eq!(store.identity(), &identity());
}

#[test]
fn a_newer_format_and_a_damaged_header_are_refused() {
    for (header, text) in [
        (&br#"{"format": 99, "uid": "uuid"}"#[..], "has format 99, this tagloom knows"),
        (b"{}", "is damaged"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let db = ::fjall::Database::builder(dir.path().join("fjall")).open().unwrap();
        let meta = db.keyspace("meta", ::fjall::KeyspaceCreateOptions::default).unwrap();
        meta.insert("\0header", header).unwrap();
        drop((meta, db));
        let error = FjallStore::open(dir.path(), &identity(), &options()).err().unwrap();
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_store_that_is_not_there_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = FjallStore::open_existing(dir.path(), &options()).err().unwrap();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = FjallStore::open(&file, &identity(), &options()).err().unwrap();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains("set store.path"), "{error}");
}

/// Copies what a kill -9 would leave: the files as they are while the store is open.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn newest_journal(dir: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir.join("fjall")).unwrap().map(|e| e.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "jnl")).max().unwrap()
}

#[test]
fn a_window_cut_off_at_any_byte_is_not_there_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut window = profiles(&[(1, "old"), (2, "old")]);
    window.meta = vec![("position".to_owned(), b"old".to_vec())];
    store.write_window(window).unwrap();
    let journal = newest_journal(dir.path());
    let before = journal_end(&journal);
    let mut window = profiles(&[(1, "new"), (3, "new")]);
    window.meta = vec![("position".to_owned(), b"new".to_vec())];
    window.due = vec![pack(5, 1, 0, &[1, 3])];
    window.rejects = vec![b"bad".to_vec()];
    store.write_window(window).unwrap();
    let after = journal_end(&journal);
    assert!(before < after);

    for cut in (before..=after).step_by(29).chain([after]) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let file = std::fs::OpenOptions::new().write(true).open(newest_journal(copy.path()));
        file.unwrap().set_len(cut).unwrap();
        let store = open(copy.path());
        let got = texts(store.profiles(&[key(1), key(2), key(3)]).unwrap());
        let whole = cut == after;
        assert_eq!(got, if whole { ["new", "old", "new"] } else { ["old", "old", "-"] }, "{cut}");
        let position = store.meta("position").unwrap();
        assert_eq!(position.as_deref(), Some(if whole { &b"new"[..] } else { b"old" }));
        assert_eq!(store.due_until(9, None, 9).unwrap().len(), usize::from(whole));
        assert_eq!(store.scan_rejects(None, 9).unwrap().len(), usize::from(whole));
    }
}

/// The length of what was written: fjall makes journals longer ahead of time, with zeros.
fn journal_end(journal: &Path) -> u64 {
    let bytes = std::fs::read(journal).unwrap();
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_anew() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let half = dir.path().join("fjall.new");
    std::fs::create_dir_all(&half).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(half.join("0.jnl"), b"").unwrap_or_else(|e| panic!("{e}"));
    let identity =
        Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Event };
    let options = FjallOptions::default();
    for _ in 0..2 {
        let store = FjallStore::open(dir.path(), &identity, &options);
        assert_eq!(*store.unwrap_or_else(|e| panic!("{e}")).identity(), identity);
        assert!(!half.exists());
    }
}
