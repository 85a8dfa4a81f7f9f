//! Owners of an HBase store: what an old one still sends loses.

use std::collections::BTreeMap;

use tagloom::store::hbase::{CheckedRow, HbaseStore, init};
use tagloom::store::{
    DueCursor, DuePack, Ownership, ProfileCells, Store, StoreError, UidKey, WindowWrite,
};

use crate::hbase_contract::identity;
use crate::rig::hbase::Hbase;

fn key(uid: u64) -> UidKey {
    UidKey::from_u64(uid)
}

fn open(hbase: &Hbase, prefix: &str) -> HbaseStore {
    let options = hbase.options(prefix);
    init(&options).unwrap();
    HbaseStore::open(&options, &identity()).unwrap()
}

fn owner(hbase: &Hbase, prefix: &str, partitions: &[u32]) -> HbaseStore {
    let store = open(hbase, prefix);
    let term = store.take_term().unwrap();
    store.own(Ownership { term, partitions: partitions.to_vec() }).unwrap();
    store
}

fn cells(all: bool, tags: &[(&str, Option<&str>)]) -> ProfileCells {
    let tag = |(id, value): &(&str, Option<&str>)| ((*id).into(), value.map(Into::into));
    ProfileCells { all, tags: tags.iter().map(tag).collect() }
}

fn window(uid: u64, profile: &str, cells: ProfileCells) -> WindowWrite {
    WindowWrite {
        profiles: vec![(key(uid), profile.as_bytes().into())],
        cells: vec![cells],
        meta: vec![("position/0".to_owned(), profile.as_bytes().to_vec())],
        ..WindowWrite::default()
    }
}

/// A user's profile and those tag cells that are not empty.
fn seen(store: &HbaseStore, uid: u64) -> (String, BTreeMap<String, String>) {
    let rows = store.scan_checked(None, 99).unwrap();
    let row: &CheckedRow = rows.iter().find(|row| row.key == key(uid)).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tags = row.cells.iter().filter(|(_, cell)| !cell.value.is_empty());
    (text(&row.profile), tags.map(|(id, cell)| (id.clone(), text(&cell.value))).collect())
}

fn tags(expect: &[(&str, &str)]) -> BTreeMap<String, String> {
    expect.iter().map(|(id, value)| ((*id).to_owned(), (*value).to_owned())).collect()
}

fn an_older_term_loses(hbase: &Hbase) {
    let old = owner(hbase, "terms_", &[0]);
    old.write_window(window(1, "a", cells(false, &[("0", Some("low")), ("1", Some("y"))])))
        .unwrap();
    assert_eq!(seen(&old, 1), ("a".to_owned(), tags(&[("0", "low"), ("1", "y")])));

    // The new owner writes every cell of a row, absent ones empty.
    let new = owner(hbase, "terms_", &[0]);
    let all = cells(true, &[("0", Some("top")), ("1", None), ("2", None)]);
    new.write_window(window(1, "b", all)).unwrap();
    let expect = ("b".to_owned(), tags(&[("0", "top")]));
    assert_eq!(seen(&new, 1), expect);

    // Acknowledged, and without effect.
    for _ in 0..3 {
        let late = cells(false, &[("0", Some("mid")), ("1", Some("z")), ("2", Some("n"))]);
        old.write_window(window(1, "late", late)).unwrap();
    }
    let removed = vec![key(1)];
    old.write_window(WindowWrite { removed, ..WindowWrite::default() }).unwrap();
    assert_eq!(seen(&new, 1), expect);
    assert_eq!(new.meta("position/0").unwrap().as_deref(), Some(&b"b"[..]));

    // What belongs to the whole group: the last write wins, whoever makes it.
    old.put_meta("active", b"3".to_vec()).unwrap();
    assert_eq!(new.meta("active").unwrap().as_deref(), Some(&b"3"[..]));
    new.put_meta("active", b"4".to_vec()).unwrap();
    old.put_meta("active", b"5".to_vec()).unwrap();
    assert_eq!(new.meta("active").unwrap().as_deref(), Some(&b"5"[..]));
    old.put_meta("position/0", b"reset".to_vec()).unwrap();
    assert_eq!(new.meta("position/0").unwrap().as_deref(), Some(&b"reset"[..]));

    // Who owns nothing takes a term before it writes.
    let third = open(hbase, "terms_");
    third.write_window(window(1, "c", ProfileCells::default())).unwrap();
    assert_eq!(seen(&new, 1), ("c".to_owned(), tags(&[("0", "top")])));
}

fn owners_see_their_partitions_only(hbase: &Hbase) {
    let first = owner(hbase, "parts_", &[0, 2]);
    let second = owner(hbase, "parts_", &[1, 300]);
    let pack = |due_ms, partition, uid| DuePack {
        cursor: DueCursor { due_ms, window: 9, shard: 0, partition },
        keys: vec![key(uid)],
    };
    let due = vec![pack(7, 2, 1), pack(5, 0, 2), pack(6, 2, 3)];
    first.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
    let due = vec![pack(1, 300, 4), pack(2, 1, 5)];
    second.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
    let uids = |store: &HbaseStore| -> Vec<Option<u64>> {
        let packs = store.due_until(100, None, 9).unwrap();
        packs.iter().flat_map(|pack| pack.keys.iter().map(UidKey::as_u64)).collect()
    };
    assert_eq!(uids(&first), [2, 3, 1].map(Some));
    assert_eq!(uids(&second), [4, 5].map(Some));
    let term = second.take_term().unwrap();
    second.own(Ownership { term, partitions: vec![0, 1, 2, 300] }).unwrap();
    assert_eq!(uids(&second), [4, 5, 2, 3, 1].map(Some));
    let after = Some(pack(6, 2, 0).cursor);
    assert_eq!(second.due_until(100, after, 9).unwrap().len(), 1);
}

/// A row that HBase refuses does not keep others from being written, and is named.
fn a_row_that_is_refused_is_named(hbase: &Hbase) {
    let store = owner(hbase, "refused_", &[0]);
    let huge = "x".repeat(11 << 20);
    let mut write = WindowWrite::default();
    for uid in 1..=7 {
        let value = if uid == 5 { huge.as_str() } else { "fine" };
        write.profiles.push((key(uid), b"p"[..].into()));
        write.cells.push(cells(false, &[("0", Some(value))]));
    }
    write.profiles.push((key(8), huge.as_bytes().into()));
    write.cells.push(ProfileCells::default());
    write.meta = vec![("position/0".to_owned(), b"1".to_vec())];
    let error = store.write_window(write).unwrap_err();
    let StoreError::Refused { keys, .. } = &error else { panic!("{error}") };
    let mut refused: Vec<_> = keys.iter().filter_map(UidKey::as_u64).collect();
    refused.sort_unstable();
    assert_eq!(refused, [5, 8], "{error}");
    assert!(!error.retry() && error.to_string().contains("profile of user"), "{error}");
    let keys: Vec<UidKey> = (1..=8).map(key).collect();
    let there = store.profiles(&keys).unwrap();
    let there: Vec<bool> = there.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, true, true, true, false, true, true, false]);
    // What stands behind profiles in the order is not written.
    assert_eq!(store.meta("position/0").unwrap(), None);
}

fn another_identity_is_refused(hbase: &Hbase) {
    open(hbase, "identity_");
    let options = hbase.options("identity_");
    let other = tagloom::store::Identity { timezone: "UTC".to_owned(), ..identity() };
    let error = HbaseStore::open(&options, &other).err().unwrap();
    assert!(error.to_string().contains("timezone `Europe/London`, not `UTC`"), "{error}");
    assert_eq!(HbaseStore::open_existing(&options).unwrap().identity(), &identity());
    let missing = HbaseStore::open(&hbase.options("nobody_"), &identity()).err().unwrap();
    let text = missing.to_string();
    assert!(text.contains("nobody_profile") && text.contains("tagloom store init"), "{text}");
    init(&hbase.options("nobody_")).unwrap();
    let missing = HbaseStore::open_existing(&hbase.options("nobody_")).err().unwrap();
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn what_an_old_owner_sends_loses() {
    let hbase = Hbase::start();
    an_older_term_loses(&hbase);
    owners_see_their_partitions_only(&hbase);
    a_row_that_is_refused_is_named(&hbase);
    another_identity_is_refused(&hbase);
}
