//! One suite of behaviours over both stores, and what only the embedded one can show.

use std::path::Path;

use super::fjall::{FjallOptions, FjallStore};
use super::memory::MemoryStore;
use super::*;
use crate::catalog::model::UidType;

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

fn key(uid: u64) -> UidKey {
    UidKey::from_u64(uid)
}

fn profiles(rows: &[(u64, &str)]) -> WindowWrite {
    let profiles = rows.iter().map(|(uid, text)| (key(*uid), text.as_bytes().into())).collect();
    WindowWrite { profiles, ..WindowWrite::default() }
}

fn texts(values: Vec<Option<Bytes>>) -> Vec<String> {
    let text = |v: Option<Bytes>| v.map_or("-".into(), |v| String::from_utf8_lossy(&v).into());
    values.into_iter().map(text).collect()
}

fn pack(due_ms: i64, window: u64, shard: u16, uids: &[u64]) -> DuePack {
    let keys = uids.iter().map(|uid| key(*uid)).collect();
    DuePack { cursor: DueCursor { due_ms, window, shard, partition: 0 }, keys }
}

fn dim_meta(epoch: Epoch) -> DimMeta {
    DimMeta {
        epoch,
        loaded_at_ms: 7,
        source: "city.csv".to_owned(),
        key: "string".to_owned(),
        columns: vec![DimColumnMeta { name: "tier".to_owned(), kind: "int".to_owned() }],
        rows: 2,
        rejected: 0,
        changed: 2,
        removed: 0,
        all_changed: true,
    }
}

fn row(key: &str, row: &str) -> DimRow {
    (key.as_bytes().into(), row.as_bytes().into())
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

#[test]
fn profiles_are_read_in_the_order_asked() {
    check_reopened(
        |s| {
            s.write_window(profiles(&[(3, "c"), (1, "a"), (2, "b")])).unwrap();
            s.write_window(profiles(&[(2, "b2")])).unwrap();
        },
        |s| {
            let got = s.profiles(&[key(2), key(9), key(1), key(2)]).unwrap();
            assert_eq!(texts(got), ["b2", "-", "a", "b2"]);
            assert_eq!(s.identity(), &identity());
        },
    );
}

#[test]
fn within_a_window_the_last_write_wins_and_removal_comes_after() {
    check_reopened(
        |s| {
            let mut window = profiles(&[(1, "a"), (2, "b"), (1, "a2"), (3, "c")]);
            window.removed = vec![key(2), key(8)];
            s.write_window(window).unwrap();
        },
        |s| {
            let got = s.profiles(&[key(1), key(2), key(3), key(8)]).unwrap();
            assert_eq!(texts(got), ["a2", "-", "c", "-"]);
        },
    );
}

#[test]
fn profiles_scan_in_uid_order_page_by_page() {
    check(|s| {
        s.write_window(profiles(&[(300, "c"), (2, "a"), (255, "b"), (u64::MAX, "d")])).unwrap();
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = s.scan_profiles(after.as_ref(), 3).unwrap();
            assert!(page.len() <= 3);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.iter().filter_map(|(key, _)| key.as_u64()));
        }
        assert_eq!(seen, [2, 255, 300, u64::MAX]);
    });
}

#[test]
fn due_packs_come_by_instant_and_go_with_the_window_that_drained_them() {
    check(|s| {
        let due = vec![
            pack(2000, 1, 0, &[7, 5, 7]),
            pack(-10, 9, 1, &[1]),
            pack(1000, 2, 1, &[3]),
            pack(1000, 2, 0, &[2]),
        ];
        s.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
        let all = s.due_until(i64::MAX, None, 9).unwrap();
        let expect = [
            pack(-10, 9, 1, &[1]),
            pack(1000, 2, 0, &[2]),
            pack(1000, 2, 1, &[3]),
            pack(2000, 1, 0, &[5, 7]),
        ];
        assert_eq!(all, expect);
        assert_eq!(s.due_until(1000, None, 9).unwrap(), expect[..3]);
        assert_eq!(s.due_until(999, None, 9).unwrap(), expect[..1]);
        assert_eq!(s.due_until(i64::MAX, None, 2).unwrap(), expect[..2]);
        assert_eq!(s.due_until(1000, Some(expect[1].cursor), 9).unwrap(), expect[2..3]);
        assert_eq!(s.due_until(1000, Some(expect[3].cursor), 9).unwrap(), []);

        // One instant, window and shard, two partitions.
        let mut other = pack(1000, 2, 0, &[9]);
        other.cursor.partition = 7;
        let due = vec![other.clone()];
        s.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
        assert_eq!(s.due_until(1000, Some(expect[1].cursor), 1).unwrap(), [other.clone()]);
        let due_done = vec![other.cursor];
        s.write_window(WindowWrite { due_done, ..WindowWrite::default() }).unwrap();

        // Drained and due again in the same window: the new pack stays.
        let due_done = vec![expect[0].cursor, expect[1].cursor];
        let due = vec![pack(1000, 2, 0, &[8])];
        s.write_window(WindowWrite { due, due_done, ..WindowWrite::default() }).unwrap();
        let left = s.due_until(1500, None, 9).unwrap();
        assert_eq!(left, [pack(1000, 2, 0, &[8]), pack(1000, 2, 1, &[3])]);
    });
}

#[test]
fn each_term_is_greater_than_all_before() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [&dyn Fn() -> Box<dyn Store>; 2] =
        [&|| Box::new(open(dir.path())), &|| Box::new(MemoryStore::new(identity(), REJECTS_MAX))];
    for store in stores {
        let s = store();
        let terms = [(); 3].map(|()| s.take_term().unwrap());
        assert!(terms.is_sorted_by(|a, b| a < b) && terms[0] > Term::default(), "{terms:?}");
        s.own(Ownership { term: terms[2], partitions: vec![0] }).unwrap();
        assert!(terms[1].first_window() + 1_000_000 < terms[2].first_window());
    }
    assert_eq!(open(dir.path()).take_term().unwrap().number(), 4, "opened again");
}

#[test]
fn small_values_are_kept_apart_from_the_stores_own() {
    check_reopened(
        |s| {
            s.put_meta("position/consume", b"1".to_vec()).unwrap();
            s.put_meta("position/cancel", b"2".to_vec()).unwrap();
            let meta = vec![("position/consume".to_owned(), b"3".to_vec())];
            let rejects = vec![b"bad".to_vec()];
            s.write_window(WindowWrite { meta, rejects, ..WindowWrite::default() }).unwrap();
        },
        |s| {
            assert_eq!(s.meta("position/consume").unwrap().as_deref(), Some(&b"3"[..]));
            assert_eq!(s.meta("position/none").unwrap(), None);
            let keys: Vec<_> = s.scan_meta("pos").unwrap().into_iter().map(|(k, _)| k).collect();
            assert_eq!(keys, ["position/cancel", "position/consume"]);
            assert_eq!(s.scan_meta("").unwrap().len(), 2);
        },
    );
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
fn a_dimension_epoch_counts_once_it_is_committed() {
    check_reopened(
        |s| {
            let epoch = s.dim_begin("city").unwrap();
            s.dim_put("city", epoch, vec![row("b", "2"), row("a", "1"), row("b", "3")]).unwrap();
            s.dim_put("city", epoch, vec![row("a", "4"), row("c", "5")]).unwrap();
            assert_eq!(s.dim_current("city").unwrap(), None);
            assert_eq!(s.dim_tables().unwrap(), [""; 0]);
            s.dim_commit("city", dim_meta(epoch)).unwrap();
            s.dim_begin("unfinished").unwrap();
        },
        |s| {
            assert_eq!(s.dim_tables().unwrap(), ["city"]);
            let meta = s.dim_current("city").unwrap();
            assert_eq!(meta, Some(dim_meta(1)));
            let got = s.dim_get("city", 1, &[b"b", b"nope", b"a"]).unwrap();
            assert_eq!(texts(got), ["3", "-", "4"]);
            let page = s.dim_scan("city", 1, Some(b"a"), 2).unwrap();
            assert_eq!(page.iter().map(|(k, _)| k[0]).collect::<Vec<_>>(), [b'b', b'c']);
        },
    );
}

#[test]
fn two_epochs_are_kept_and_numbers_are_never_used_twice() {
    check(|s| {
        for text in ["1", "2", "3"] {
            let epoch = s.dim_begin("city").unwrap();
            s.dim_put("city", epoch, vec![row("a", text)]).unwrap();
            s.dim_commit("city", dim_meta(epoch)).unwrap();
        }
        let epochs: Vec<_> = s.dim_epochs("city").unwrap().iter().map(|m| m.epoch).collect();
        assert_eq!(epochs, [2, 3]);
        assert!(matches!(s.dim_get("city", 1, &[b"a"]), Err(StoreError::NoEpoch { .. })));
        assert_eq!(texts(s.dim_get("city", 2, &[b"a"]).unwrap()), ["2"]);

        // A load that was given up, and one that was never finished.
        let failed = s.dim_begin("city").unwrap();
        s.dim_drop("city", failed).unwrap();
        let unfinished = s.dim_begin("city").unwrap();
        s.dim_put("city", unfinished, vec![row("z", "9")]).unwrap();
        assert_eq!(s.dim_begin("city").unwrap(), 6);
        let stale = s.dim_commit("city", dim_meta(unfinished));
        assert!(matches!(stale, Err(StoreError::NoEpoch { epoch: 5, .. })));
        assert!(s.dim_scan("city", unfinished, None, 9).is_err());
        assert_eq!(s.dim_scan("city", 6, None, 9).unwrap(), []);
    });
}

#[test]
fn names_that_are_refused_are_refused_by_both_stores() {
    check(|s| {
        for key in ["", "\0header", &"k".repeat(1025)] {
            assert!(matches!(s.meta(key), Err(StoreError::TooLarge { .. })), "{key:?}");
            assert!(matches!(s.put_meta(key, vec![1]), Err(StoreError::TooLarge { .. })));
            let mut window = profiles(&[(1, "a")]);
            window.meta = vec![(key.to_owned(), vec![1])];
            assert!(matches!(s.write_window(window), Err(StoreError::TooLarge { .. })));
        }
        assert_eq!(texts(s.profiles(&[key(1)]).unwrap()), ["-"], "all of a window or nothing");
        for table in ["", &"t".repeat(201)] {
            assert!(matches!(s.dim_begin(table), Err(StoreError::TooLarge { .. })), "{table:?}");
        }
    });
}

#[test]
fn a_window_over_many_profiles_changes_its_own_only() {
    check_reopened(
        |s| {
            let rows = |range: std::ops::Range<u64>, text: &str| {
                let rows: Vec<(u64, &str)> = range.rev().map(|uid| (uid, text)).collect();
                profiles(&rows)
            };
            s.write_window(rows(0..1000, "old")).unwrap();
            s.write_window(rows(500..510, "few")).unwrap();
            s.write_window(rows(900..2000, "many")).unwrap();
        },
        |s| {
            let rows = s.scan_profiles(None, 9999).unwrap();
            let text = |uid: usize| match uid {
                500..510 => &b"few"[..],
                900.. => b"many",
                _ => b"old",
            };
            assert_eq!(rows.len(), 2000);
            for (at, (uid, value)) in rows.iter().enumerate() {
                assert_eq!((uid, &value[..]), (&key(at as u64), text(at)));
            }
            let cached = s.stats().unwrap().cached_bytes;
            assert!(s.stats().unwrap().disk_bytes > 0 || cached == 900 * 3 + 1100 * 4);
        },
    );
}

#[test]
fn changed_keys_are_kept_with_their_epoch() {
    check(|s| {
        let epoch = s.dim_begin("city").unwrap();
        let changes = [(b"b", ChangeKind::Removed), (b"a", ChangeKind::Added)];
        let changes = changes.map(|(key, kind)| (key.to_vec(), kind)).to_vec();
        s.dim_put_changes("city", epoch, changes).unwrap();
        s.dim_commit("city", dim_meta(epoch)).unwrap();
        let first = s.dim_changes("city", epoch, None, 1).unwrap();
        assert_eq!(first, [(b"a"[..].into(), ChangeKind::Added)]);
        let rest = s.dim_changes("city", epoch, Some(b"a"), 9).unwrap();
        assert_eq!(rest, [(b"b"[..].into(), ChangeKind::Removed)]);
    });
}

#[test]
fn a_huge_window_is_one_write() {
    check_reopened(
        |s| {
            let rows = (0..20_000u64).map(|uid| (key(uid), vec![b'x'; 600].into()));
            s.write_window(WindowWrite { profiles: rows.collect(), ..WindowWrite::default() })
                .unwrap();
        },
        |s| {
            let got = s.scan_profiles(None, 30_000).unwrap();
            assert_eq!(got.len(), 20_000);
            assert!(got.iter().all(|(_, value)| value.len() == 600));
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
