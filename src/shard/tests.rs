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
    let identity =
        Identity { uid: ruleset.catalog.uid, timezone: "UTC".to_owned(), clock: ClockMode::Event };
    Shard::new(
        0,
        Shared {
            ruleset,
            texts: Arc::default(),
            store: Arc::new(MemoryStore::new(identity, 100)),
            schemas: Arc::default(),
            quarantine: Arc::default(),
            store_had_profiles: false,
            state_bytes_max: 1 << 20,
            resident_bytes_max,
            batch_users_max: 64,
            replay: Arc::default(),
            publishing: None,
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
    shard.stored();
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
