//! A panic costs one user; a user leaves memory only when its last profile is stored.

use std::sync::Arc;

use super::*;
use crate::catalog::load_from;
use crate::dimension::{Dimensions, Lookups};
use crate::event::Decoder;
use crate::event::reject::Reason;
use crate::rule::AsOf;
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity, WindowWrite};
use crate::user::snapshot::decode_tags;
use crate::write::profile::label_of;

const CATALOG: &str = "name: t\nuid: u64\ntimezone: UTC\n";
const STREAM: &str = "\
stream: buy
doc: Bought.
from: {file: buy.jsonl, format: json}
columns:
  id: {type: string}
  user: {type: u64}
  at: {type: timestamp(ms)}
  cents: {type: int}
uid: user
time: at
dedupe: {by: id}
mode: append
";
const FEATURE: &str =
    "feature: spent\ndoc: Spent.\nstream: buy\nvalue: sum(cents)\nwindow: lifetime\n";
const TAG: &str = "\
tag: spender
doc: Spends.
owner: o
group: g
bands: {of: spent, cuts: [100], labels: [low, high]}
";

fn shard(resident_bytes_max: usize) -> Shard {
    let identity =
        Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Event };
    shard_over(Arc::new(MemoryStore::new(identity, 100)), resident_bytes_max)
}

fn shard_over(store: Arc<dyn Store>, resident_bytes_max: usize) -> Shard {
    let mut files: Vec<(String, String)> = [
        ("catalog.yaml", CATALOG),
        ("streams/buy.yaml", STREAM),
        ("features/spent.yaml", FEATURE),
        ("rules/spender.yaml", TAG),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into();
    let loaded = load_from("t", files.clone()).expect("a sound catalogue");
    files.push(("ids.lock".to_owned(), loaded.lock.updated(&loaded.catalog).to_text()));
    let loaded = load_from("t", files).expect("a sound catalogue");
    let ruleset = Arc::new(Ruleset::new(loaded.catalog).expect("it compiles"));
    Shard::new(
        0,
        Shared {
            ruleset,
            texts: Arc::default(),
            store_had_profiles: store.has_profiles().expect("it is in memory"),
            store,
            schemas: Arc::default(),
            quarantine: Arc::default(),
            state_bytes_max: 1 << 20,
            resident_bytes_max,
            batch_users_max: 64,
            replay: Arc::default(),
            publishing: None,
            packs_late: false,
        },
    )
}

fn decoder(shard: &Shard) -> Decoder {
    let shared = &shard.shared;
    let (catalog, layout) = (&shared.ruleset.catalog, &shared.ruleset.layout);
    Decoder::new(catalog, layout, &[0], "buy.jsonl", Arc::clone(&shared.texts), 1)
        .expect("row expressions are plain columns")
        .with_quarantine(Arc::clone(&shared.quarantine))
}

fn lines(users: std::ops::Range<u64>, cents: u64) -> String {
    let line = |user| {
        format!("{{\"id\":\"{user}-{cents}\",\"user\":{user},\"at\":0,\"cents\":{cents}}}\n")
    };
    users.map(line).collect()
}

fn feed(shard: &mut Shard, decoder: &mut Decoder, users: std::ops::Range<u64>, cents: u64) {
    let decoded = decoder.lines(lines(users, cents).as_bytes(), 1, 0, None);
    assert_eq!(decoded.rejects, []);
    for block in &decoded.blocks {
        shard.fold(block.stream, &block.shards[0], None).expect("a memory store does not fail");
    }
}

fn close(shard: &mut Shard) -> ShardWindow {
    let shared = shard.shared.clone();
    let now: crate::dimension::Now = Arc::new(|| 0);
    let options = Lookups::default();
    let dimensions = Dimensions::open(&shared.ruleset.catalog, shared.store, now, &options);
    let window = WindowClose {
        window: 1,
        as_of_ms: 0,
        as_of_day: 0,
        due: Vec::new(),
        also: Vec::new(),
        also_cause: crate::write::publish::outbox::Cause::Rule,
        history: Vec::new(),
        side: None,
        roll_up: Some(AsOf { ms: 0, day: 0 }),
        fences: Arc::default(),
        dimensions: dimensions.expect("there are none").pin(),
    };
    shard.close(&window).expect("a memory store does not fail")
}

#[test]
fn a_user_who_panics_is_quarantined_and_the_others_are_computed() {
    let mut shard = shard(usize::MAX);
    let mut decoder = decoder(&shard);
    feed(&mut shard, &mut decoder, 1..200, 150);
    shard.computer.poison = Some(Uid::U64(77));
    let window = close(&mut shard);
    assert_eq!(window.stats.quarantined, 1);
    assert_eq!(window.profiles.len(), 199, "the quarantined user's profile says so");
    let domain = shard.shared.ruleset.catalog.tags[0].domain.clone();
    for (key, bytes) in &window.profiles {
        let tags = decode_tags(bytes).expect("just written");
        let ill = key.as_u64() == Some(77);
        assert_eq!(tags.head.quarantined, ill);
        let code = shard.shared.ruleset.plan.packing().get(tags.codes, 0);
        let label = label_of(&domain, code);
        assert_eq!(label, (!ill).then_some("high"), "{key:?}");
    }

    let decoded = decoder.lines(lines(76..79, 5).as_bytes(), 200, 0, None);
    let reasons: Vec<Reason> = decoded.rejects.iter().map(|r| r.reason).collect();
    assert_eq!(reasons, [Reason::Quarantined], "later events of that user, and only of it");
    assert_eq!(decoded.blocks[0].accepted, 2);
}

#[test]
fn users_of_a_window_stay_until_it_is_stored_and_come_back_as_they_were() {
    let mut shard = shard(4_000);
    let mut decoder = decoder(&shard);
    feed(&mut shard, &mut decoder, 1..50, 60);
    assert!(shard.wants_window(), "49 users take more than half of 4,000 bytes");
    let first = close(&mut shard);
    assert!(!shard.wants_window());
    feed(&mut shard, &mut decoder, 50..51, 60);
    assert_eq!(shard.users().len(), 50, "nobody could leave: the window is not stored");
    assert!(shard.is_full() && shard.wants_window());

    let write = WindowWrite { profiles: first.profiles, due: first.due, ..WindowWrite::default() };
    shard.shared.store.write_window(write).expect("a memory store does not fail");
    shard.stored().expect("a memory store does not fail");
    assert!(!shard.is_full() && shard.users().len() < 25, "{} stay", shard.users().len());
    assert!(shard.users().used_bytes() <= 4_000, "{} bytes", shard.users().used_bytes());

    assert!(shard.users().is_counted());
    feed(&mut shard, &mut decoder, 1..50, 61);
    assert!(shard.users().is_counted());
    let second = close(&mut shard);
    assert!(shard.users().is_counted());
    assert!(second.stats.activated_users > 25, "{}", second.stats.activated_users);
    assert_eq!(second.stats.new_users, 1, "the others were known");
    let high = |(_, bytes): &&(UidKey, Bytes)| {
        let tags = decode_tags(bytes).expect("just written");
        tags.head.version == 2 && shard.shared.ruleset.plan.packing().get(tags.codes, 0) == 2
    };
    assert_eq!(second.profiles.iter().filter(high).count(), 49, "both events of each count");
}

#[test]
fn a_user_of_files_whose_record_comes_where_it_was_not_expected_is_not_written_by_two() {
    use crate::engine::{OwnedStore, home};
    use crate::event::partitioner::Partitioner;
    use crate::source::kafka::{SourceId, TopicMeta, topic_key};

    let identity =
        Identity { uid: UidType::U64, timezone: "UTC".to_owned(), clock: ClockMode::Event };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(identity, 100).shared());
    let mut files = shard_over(Arc::clone(&store), usize::MAX);
    let mut decoder = decoder(&files);
    feed(&mut files, &mut decoder, 0..100, 5);
    let profiles = close(&mut files).profiles;
    store.write_window(WindowWrite { profiles, ..WindowWrite::default() }).expect("it is written");
    let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 4 };
    let topic = serde_json::to_vec(&topic).expect("it is JSON");
    store.put_meta(&topic_key("t"), topic).expect("it is written");
    home::agree(store.as_ref(), Partitioner::Murmur2).expect("it is written");
    let owned = OwnedStore::new(Arc::clone(&store), &[0, 1]).expect("it is read");
    let owned: Arc<dyn Store> = Arc::new(owned);
    let mut shard = shard_over(Arc::clone(&owned), usize::MAX);
    let mut decoder = self::decoder(&shard);
    let mut come = |user: u64, partition: u32| {
        let decoded = decoder.lines(lines(user..user + 1, 7).as_bytes(), 1, 0, None);
        let at = Some(At { partition, source: SourceId(1) });
        shard.fold(0, &decoded.blocks[0].shards[0], at).map(|_| ())
    };
    let homed = |home: u32| {
        let is_there = |uid: &u64| Partitioner::Murmur2.of(&Uid::U64(*uid), 4) == Some(home);
        (0..100).find(is_there).expect("of a hundred some are there")
    };
    come(homed(1), 1).expect("it is expected there");
    come(homed(0), 1).expect("nobody else has it");
    come(1_000, 1).expect("nobody has anything of it");
    let foreign = homed(2);
    let refused = come(foreign, 1).expect_err("another process may be writing it");
    let said = refused.to_string();
    assert!(matches!(refused, ProfileError::OtherHome { home: 2, now: 1, .. }), "{said}");
    assert!(said.contains("source.partitioner") && said.contains("partition 2"), "{said}");
}
