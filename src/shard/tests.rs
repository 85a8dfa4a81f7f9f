//! A panic costs one user.

use std::sync::Arc;

use super::*;
use crate::catalog::load_from;
use crate::dimension::{CacheOptions, Dimensions};
use crate::event::Decoder;
use crate::event::reject::Reason;
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity};
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

fn shard() -> Shard {
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
            batch_users_max: 64,
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

fn close(shard: &mut Shard) -> ShardWindow {
    let shared = shard.shared.clone();
    let now: crate::dimension::Now = Arc::new(|| 0);
    let options = CacheOptions::default();
    let dimensions = Dimensions::open(&shared.ruleset.catalog, shared.store, now, &options);
    let window = WindowClose {
        window: 1,
        as_of_ms: 0,
        as_of_day: 0,
        due: Vec::new(),
        also: Vec::new(),
        roll_up: true,
        dimensions: dimensions.expect("there are none").pin(),
    };
    shard.close(&window).expect("a memory store does not fail")
}

#[test]
fn a_user_who_panics_is_quarantined_and_the_others_are_computed() {
    let mut shard = shard();
    let mut decoder = decoder(&shard);
    let decoded = decoder.lines(lines(1..200, 150).as_bytes(), 1, 0, None);
    assert_eq!(decoded.rejects, []);
    for block in &decoded.blocks {
        shard.fold(block.stream, &block.shards[0]).expect("no store to fail");
    }
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
