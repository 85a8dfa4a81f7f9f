//! Users of files among owners: each has one, at any time, and time reaches everybody.

use std::sync::Arc;

use super::*;
use crate::catalog::load_from;
use crate::engine::OwnedStore;
use crate::engine::direct::Direct;
use crate::engine::ruleset::Ruleset;
use crate::engine::version::RECOMPUTED_KEY;
use crate::event::Decoder;
use crate::source::kafka::{TopicMeta, topic_key};
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity};
use crate::user::snapshot::decode_tags;

const USERS: u64 = 40;
const DAY_MS: i64 = 86_400_000;
const FILES_OF_CATALOGUE: [(&str, &str); 4] = [
    ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy\nfrom: {file: b.jsonl}\nuid: u\ntime: at\ncolumns: {u: u64, at: timestamp(ms)}\n",
    ),
    ("features/all.yaml", "feature: today\nstream: buy\nvalue: count()\nwindow: 1d\n"),
    ("rules/all.yaml", "tag: bought\ndoc: d\nowner: o\ngroup: g\nexpr: today\n"),
];

fn ruleset() -> Arc<Ruleset> {
    let text = |(path, text): (&str, &str)| (path.to_owned(), text.to_owned());
    let mut files: Vec<(String, String)> = FILES_OF_CATALOGUE.map(text).into();
    let loaded = load_from("t", files.clone()).unwrap_or_else(|e| panic!("{e}"));
    files.push(("ids.lock".to_owned(), loaded.lock.updated(&loaded.catalog).to_text()));
    let loaded = load_from("t", files).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(Ruleset::new(loaded.catalog).unwrap())
}

/// A shared store into which users were read from a file, each with one event of the first day.
fn loaded(ruleset: &Arc<Ruleset>) -> Arc<dyn Store> {
    let identity =
        Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Wall };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 9).shared());
    let mut engine = open(ruleset, &store);
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "b", engine.texts(), 1).unwrap();
    let lines: String = (0..USERS).map(|u| format!("{{\"u\":{u},\"at\":5}}\n")).collect();
    let decoded = decoder.lines(lines.as_bytes(), 1, 0, None);
    engine.feed("b", None, decoded).unwrap();
    engine.close(10, true).unwrap();
    store
}

fn open(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>) -> Direct {
    Direct::open(Arc::clone(ruleset), Arc::clone(store), 1, Arc::new(|| 0)).unwrap()
}

/// Topics of four partitions are read from now on.
fn read_topics(store: &Arc<dyn Store>, partitioner: Partitioner) {
    let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 4 };
    store.put_meta(&topic_key("t"), serde_json::to_vec(&topic).unwrap()).unwrap();
    agree(store.as_ref(), partitioner).unwrap();
}

fn owner(store: &Arc<dyn Store>, partitions: &[u32]) -> Arc<dyn Store> {
    Arc::new(OwnedStore::new(Arc::clone(store), partitions).unwrap())
}

fn users(store: &Arc<dyn Store>) -> BTreeSet<UidKey> {
    store.scan_profiles(None, 1_000).unwrap().into_iter().map(|(key, _)| key).collect()
}

/// How often each user was written.
fn versions(store: &Arc<dyn Store>) -> BTreeSet<u64> {
    let rows = store.scan_profiles(None, 1_000).unwrap();
    assert_eq!(rows.len(), 40);
    rows.iter().map(|(_, profile)| decode_tags(profile).unwrap().head.version).collect()
}

#[test]
fn a_user_of_files_has_one_owner() {
    let store = loaded(&ruleset());
    for partitioner in [Partitioner::Murmur2, Partitioner::Crc32] {
        read_topics(&store, partitioner);
        let (one, other) = (owner(&store, &[0, 3]), owner(&store, &[1, 2]));
        let (mine, others) = (users(&one), users(&other));
        assert!(mine.is_disjoint(&others) && mine.len() > 5 && others.len() > 5);
        assert_eq!(mine.len() + others.len(), 40);
        for user in &mine {
            let home = partitioner.of(&Uid::from_key(UidType::U64, user).unwrap(), 4);
            assert_eq!((one.home(user), other.home(user)), (home, home));
            assert!(one.owns_user(user, None) && one.owns_user(user, Some(3)));
            assert!(!one.owns_user(user, Some(1)), "its records say more than its home");
        }
        assert_eq!(users(&owner(&store, &[0, 1, 2, 3])).len(), 40);
    }
    // It cannot be known where their records will come.
    read_topics(&store, Partitioner::None);
    assert_eq!(users(&owner(&store, &[0, 1, 2])).len(), 0);
    assert_eq!(users(&owner(&store, &[0, 1, 2, 3])).len(), 40, "nobody else can have them");
}

#[test]
fn time_reaches_users_of_files_by_their_owners_each_once() {
    let ruleset = ruleset();
    let store = loaded(&ruleset);
    read_topics(&store, Partitioner::Murmur2);
    let (one, other) = (owner(&store, &[0, 3]), owner(&store, &[1, 2]));
    let late_ms = 2 * DAY_MS;
    // Their entries stand at no partition: whoever has the first one hands the others' on.
    assert_eq!(open(&ruleset, &other).drain(late_ms).unwrap().due_users, 0);
    let first = open(&ruleset, &one).drain(late_ms).unwrap().due_users;
    assert_eq!(first, users(&one).len() as u64);
    assert_eq!(versions(&store), BTreeSet::from([1, 2]));
    let second = open(&ruleset, &other).drain(late_ms).unwrap().due_users;
    assert_eq!(first + second, 40);
    assert_eq!(versions(&store), BTreeSet::from([2]));
    assert!(store.due_until(late_ms, None, 9).unwrap().is_empty(), "none is left");
}

#[test]
fn where_no_home_is_known_due_users_wait_for_whoever_owns_everybody() {
    let ruleset = ruleset();
    let store = loaded(&ruleset);
    read_topics(&store, Partitioner::None);
    for partitions in [&[0, 1][..], &[2, 3]] {
        let engine = &mut open(&ruleset, &owner(&store, partitions));
        assert_eq!(engine.drain(2 * DAY_MS).unwrap().due_users, 0);
    }
    let everybody = owner(&store, &[0, 1, 2, 3]);
    assert_eq!(open(&ruleset, &everybody).drain(2 * DAY_MS).unwrap().due_users, 40);
}

#[test]
fn another_partitioner_makes_everybody_to_be_computed_again() {
    let store = loaded(&ruleset());
    store.put_meta(RECOMPUTED_KEY, b"1".to_vec()).unwrap();
    read_topics(&store, Partitioner::Murmur2);
    let mark = |partitions: &[u32]| owner(&store, partitions).meta(RECOMPUTED_KEY).unwrap();
    // The load has computed everybody, and no owner has done anything since.
    assert_eq!(mark(&[0, 1]).as_deref(), Some(&b"1"[..]));
    owner(&store, &[0, 1]).put_meta(RECOMPUTED_KEY, b"2".to_vec()).unwrap();
    assert_eq!(mark(&[0]).as_deref(), Some(&b"2"[..]));
    assert_eq!(mark(&[1, 2]), None);
    read_topics(&store, Partitioner::Crc32);
    assert_eq!(mark(&[0, 1, 2, 3]).as_deref(), Some(&b"0"[..]));
}
