//! Changes and rejects that are published: whatever call a process dies at, those who follow the topic
//! learn what they would have learned without.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tagloom::dimension::{LoadOptions, TableSpec};
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, EngineError, Options};
use tagloom::store::intercepted::{Call, Intercepted};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store, StoreError, WindowWrite};
use tagloom::write::publish::{GoesOn, MemorySink, Publish, PublishError, Record, Sink};

const CATALOG: [(&str, &str); 5] = [
    ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy
doc: Bought.
from: {file: buy.jsonl, format: json}
columns:
  user: {type: u64}
  at: {type: timestamp(ms)}
  cents: {type: int}
uid: user
time: at
mode: append
",
    ),
    (
        "features/spent.yaml",
        "feature: spent\ndoc: Spent.\nstream: buy\nvalue: sum(cents)\nwindow: lifetime\n---
feature: spent_3d\ndoc: Spent lately.\nstream: buy\nvalue: sum(cents)\nwindow: 3d\n",
    ),
    (
        "dimensions/person.yaml",
        "dimension: person\ndoc: About the user.\ntable: person\nkey: uid
columns: {level: string}\nstrategy: preload\n",
    ),
    (
        "rules/rules.yaml",
        "tag: spent_cents\ndoc: Spent.\nowner: o\ngroup: g\nexpr: spent
---
tag: lately\ndoc: Spent lately.\nowner: o\ngroup: g
bands: {of: spent_3d, cuts: [1, 50], labels: [none, some, much]}
---
tag: hidden\ndoc: In the shadow.\nowner: o\ngroup: g\nshadow: true\nexpr: spent + 1
---
tag: level\ndoc: Level.\nowner: o\ngroup: g\nexpr: person_level
",
    ),
];

const DAY_MS: i64 = 86_400_000;
const USERS: u64 = 23;
const PARTS: u64 = 5;

/// Everything dies at a call: nothing passes after it.
struct Life(AtomicI64);

impl Life {
    fn of(calls: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(calls)))
    }

    fn passes(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) > 0
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }
}

/// A topic of a process that may die: what is not acknowledged is there, or is not.
struct DyingSink {
    life: Arc<Life>,
    topic: Arc<MemorySink>,
    sent: Mutex<Vec<Record>>,
    /// Of what was not acknowledged, one record in so many is there; 0: none.
    arrives_one_in: usize,
}

impl DyingSink {
    fn deliver(&self, one_in: usize, goes_on: GoesOn<'_>) {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        for record in sent.into_iter().step_by(one_in.max(1)).filter(|_| one_in > 0) {
            self.topic.send(record, goes_on).unwrap();
        }
    }
}

impl Sink for DyingSink {
    fn send(&self, record: Record, goes_on: GoesOn<'_>) -> Result<(), PublishError> {
        if !self.life.passes() {
            self.deliver(self.arrives_one_in, goes_on);
            return Err(PublishError::NotAcknowledged { topic: "t".to_owned() });
        }
        self.sent.lock().unwrap().push(record);
        Ok(())
    }

    fn flush(&self, goes_on: GoesOn<'_>) -> Result<(), PublishError> {
        if !self.life.passes() {
            self.deliver(self.arrives_one_in, goes_on);
            return Err(PublishError::NotAcknowledged { topic: "t".to_owned() });
        }
        self.deliver(1, goes_on);
        Ok(())
    }
}

/// Files of events, a store, and the topics that processes publish to.
struct World {
    dir: tempfile::TempDir,
    ruleset: Arc<Ruleset>,
    store: Arc<dyn Store>,
    changes: Arc<MemorySink>,
    rejects: Arc<MemorySink>,
    in_pieces: bool,
}

impl World {
    fn new(in_pieces: bool) -> Self {
        let ruleset = support::ruleset(&CATALOG);
        let store = MemoryStore::new(support::identity(&ruleset, ClockMode::Event), 1_000);
        Self {
            dir: tempfile::tempdir().unwrap(),
            ruleset,
            store: Arc::new(store),
            changes: Arc::default(),
            rejects: Arc::default(),
            in_pieces,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("buy.jsonl")
    }

    /// More events: a day later than those before, some users only (one in five never comes again), and
    /// one line that cannot be used.
    fn write(&self, part: u64) {
        let mut text = std::fs::read_to_string(self.path()).unwrap_or_default();
        let comes = |user: &u64| !(user + part).is_multiple_of(3) && (part == 0 || user % 5 < 4);
        for user in (0..USERS).filter(comes) {
            let at = i64::try_from(part).unwrap() * DAY_MS + 1_000;
            let cents = 10 * part + user;
            writeln!(text, "{{\"user\":{user},\"at\":{at},\"cents\":{cents}}}").unwrap();
        }
        writeln!(text, "{{\"user\":{part},\"at\":\"never\",\"cents\":1}}").unwrap();
        std::fs::write(self.path(), text).unwrap();
    }

    fn options(&self, life: &Arc<Life>, arrives_one_in: usize) -> Options {
        let gate_life = Arc::clone(life);
        let gate = move |_| gate_life.passes();
        let mut options = self.options_behind(&self.store, gate);
        // One window a part: what is published does not depend on how fast this machine is.
        options.limits.close_ms = 60_000;
        options.limits.users_max = usize::MAX;
        let sink = |topic: &Arc<MemorySink>| -> Option<Arc<dyn Sink>> {
            let (life, topic) = (Arc::clone(life), Arc::clone(topic));
            Some(Arc::new(DyingSink { life, topic, sent: Mutex::default(), arrives_one_in }))
        };
        options.publish = Publish { changes: sink(&self.changes), rejects: sink(&self.rejects) };
        options
    }

    /// A process that publishes nothing, over a store whose calls are made as long as the gate says.
    fn options_behind(
        &self,
        store: &Arc<dyn Store>,
        passes: impl Fn(Call) -> bool + Send + Sync + 'static,
    ) -> Options {
        let gate = move |call| match passes(call) {
            true => Ok(()),
            false => Err(StoreError::Stopped { path: "store".into() }),
        };
        let behind = Intercepted::new(Arc::clone(store), gate);
        let behind = if self.in_pieces { behind.in_pieces(4) } else { behind };
        let store: Arc<dyn Store> = Arc::new(behind);
        let source = support::json_file(&self.path(), &[0]);
        support::options(&self.ruleset, &store, Clock::Event, vec![source])
    }

    fn run(&self, life: &Arc<Life>, arrives_one_in: usize) -> Result<(), EngineError> {
        tagloom::engine::run(self.options(life, arrives_one_in), &mut |_| {}).map(|_| ())
    }

    /// All parts, in one go each; in the part `dies_in` a process dies at this call first. False: it
    /// lived.
    fn live(&self, dies_in: u64, at_call: i64) -> bool {
        let mut died = false;
        for part in 0..PARTS {
            self.write(part);
            if part == dies_in {
                let life = Life::of(at_call);
                let one_in = usize::try_from(at_call % 3).unwrap();
                died = self.run(&life, one_in).is_err();
                assert!(died || !life.is_over(), "call {at_call}: a dead process ended well");
            }
            self.run(&Life::of(i64::MAX), 1).unwrap();
        }
        died
    }

    fn published(&self) -> Followed {
        followed(&self.changes.records())
    }

    fn rejected(&self) -> BTreeMap<String, Record> {
        let mut seen: BTreeMap<String, Record> = BTreeMap::new();
        for record in self.rejects.records() {
            let key = String::from_utf8(record.key.clone()).unwrap();
            if let Some(before) = seen.insert(key, record.clone()) {
                assert_eq!(before, record, "one key, two rows");
            }
        }
        seen
    }

    /// Whoever follows the topic knows what the store says.
    #[track_caller]
    fn assert_told(&self) {
        let mut labels = support::all_labels(&self.ruleset, self.store.as_ref());
        labels.values_mut().for_each(|tags| drop(tags.remove("hidden")));
        let mut told: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
        for ((uid, _), change) in self.published() {
            let tags = told.entry(uid).or_default();
            for tag in change["changes"].as_array().unwrap() {
                let name = tag["tag"].as_str().unwrap().to_owned();
                let before = tags.remove(&name);
                assert_eq!(tag["from"].as_str(), before.as_deref(), "user {uid}: {change}");
                assert_ne!(tag["from"], tag["to"], "user {uid}: {change}");
                tags.extend(tag["to"].as_str().map(|to| (name, to.to_owned())));
            }
        }
        assert_eq!(told, labels);
    }
}

/// Records by user and version.
type Followed = BTreeMap<(u64, u64), Value>;

/// What somebody knows who drops repeats; all versions of a user are there.
#[track_caller]
fn followed(records: &[Record]) -> Followed {
    let mut known: Followed = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        let change: Value = serde_json::from_slice(&record.value).unwrap();
        let uid: u64 = change["uid"].as_str().unwrap().parse().unwrap();
        assert_eq!(record.key, uid.to_string().as_bytes());
        let version = change["version"].as_u64().unwrap();
        let newest = last.entry(uid).or_default();
        // In order, but for those that are sent again.
        assert!(version <= *newest + 1, "user {uid}: {newest}, then {version}");
        *newest = version.max(*newest);
        if let Some(before) = known.insert((uid, version), change.clone()) {
            assert_eq!(before, change, "one uid and version, two contents");
        }
    }
    known
}

#[track_caller]
fn assert_same(got: &Followed, expect: &Followed, context: &str) {
    let all: BTreeSet<_> = got.keys().chain(expect.keys()).collect();
    let differs = all.into_iter().find(|key| got.get(key) != expect.get(key));
    if let Some(key) = differs {
        panic!("{context}: {key:?}: got {:?}, expected {:?}", got.get(key), expect.get(key));
    }
}

fn dies_at_each_call(in_pieces: bool) {
    let whole = World::new(in_pieces);
    assert!(!whole.live(PARTS, 0));
    whole.assert_told();
    let causes: BTreeSet<String> =
        whole.published().values().map(|c| c["cause"].to_string()).collect();
    assert_eq!(causes, BTreeSet::from(["\"event\"".to_owned(), "\"time\"".to_owned()]));
    assert_eq!(whole.rejected().len(), 5);
    let mut deaths = 0;
    for dies_in in [0, 2, 4] {
        let mut at_call = 0;
        loop {
            let world = World::new(in_pieces);
            let died = world.live(dies_in, at_call);
            world.assert_told();
            let context = format!("dead in part {dies_in} at call {at_call}");
            assert_same(&world.published(), &whole.published(), &context);
            let (rejected, expect) = (world.rejected(), whole.rejected());
            assert!(rejected.keys().eq(expect.keys()), "{context}");
            if !died {
                break;
            }
            deaths += 1;
            at_call += 1;
        }
    }
    assert!(deaths > 60, "{deaths}");
}

#[test]
fn a_process_that_dies_at_any_call_tells_what_one_tells_that_lives() {
    dies_at_each_call(false);
}

#[test]
fn the_same_where_a_window_is_not_written_as_a_whole() {
    dies_at_each_call(true);
}

#[test]
fn processes_that_die_again_and_again_tell_everything_in_the_end() {
    for in_pieces in [false, true] {
        let world = World::new(in_pieces);
        for part in 0..PARTS {
            world.write(part);
            for at_call in 0.. {
                let one_in = usize::try_from(at_call % 3).unwrap();
                if world.run(&Life::of(at_call), one_in).is_ok() {
                    break;
                }
            }
        }
        world.assert_told();
    }
}

/// All of a store but its counter of terms.
fn twin(world: &World) -> Arc<dyn Store> {
    let identity = support::identity(&world.ruleset, ClockMode::Event);
    let twin = MemoryStore::new(identity, 1_000);
    let profiles = world.store.scan_profiles(None, usize::MAX).unwrap();
    let meta = world.store.scan_meta("").unwrap();
    let meta = meta.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
    twin.write_window(WindowWrite { profiles, meta, ..WindowWrite::default() }).unwrap();
    Arc::new(twin)
}

/// What an owner before still had under way lands after the next one has begun.
#[test]
fn a_profile_that_lands_late_has_its_change_published_all_the_same() {
    let world = World::new(true);
    world.write(0);
    world.run(&Life::of(i64::MAX), 1).unwrap();
    world.write(1);
    // What the owner before writes, seen in a store where it lives.
    let lived = twin(&world);
    lived.take_term().unwrap();
    let mut options = world.options_behind(&lived, |_| true);
    options.publish.changes = Some(Arc::new(MemorySink::default()));
    tagloom::engine::run(options, &mut |_| {}).unwrap();
    let late = lived.scan_profiles(None, usize::MAX).unwrap();
    // It comes no further than the list of its users.
    let pieces = AtomicI64::new(1);
    let passes = move |call| call != Call::Piece || pieces.fetch_sub(1, Ordering::SeqCst) > 0;
    let mut options = world.options_behind(&world.store, passes);
    options.publish.changes = Some(Arc::new(MemorySink::default()));
    tagloom::engine::run(options, &mut |_| {}).unwrap_err();
    // The next one has looked for what is to be published again when the profiles come.
    let (reads, store) = (AtomicI64::new(0), Arc::clone(&world.store));
    let passes = move |call| {
        if call == Call::Profiles && reads.fetch_add(1, Ordering::SeqCst) == 1 {
            let window = WindowWrite { profiles: late.clone(), ..WindowWrite::default() };
            store.write_window(window).unwrap();
        }
        true
    };
    let mut options = world.options_behind(&world.store, passes);
    options.publish.changes = Some(Arc::<MemorySink>::clone(&world.changes) as Arc<dyn Sink>);
    tagloom::engine::run(options, &mut |_| {}).unwrap();
    world.assert_told();
    assert!(world.published().contains_key(&(1, 2)), "user 1 has changed in the second part");
}

#[test]
fn a_change_says_that_a_dimension_row_made_it() {
    let world = World::new(false);
    world.write(0);
    let all = || Life::of(i64::MAX);
    world.run(&all(), 1).unwrap();
    load(&world, "1,gold\n2,silver\n");
    world.run(&all(), 1).unwrap();
    world.assert_told();
    let published = world.published();
    let level = |to: &str| serde_json::json!([{"tag": "level", "from": null, "to": to}]);
    assert_eq!(published[&(1, 2)]["changes"], level("gold"));
    assert_eq!(published[&(2, 2)]["changes"], level("silver"));
    assert_eq!(published[&(2, 2)]["cause"], "dimension");
    assert!(!published.contains_key(&(4, 2)), "nothing changed for user 4");
}

fn load(world: &World, rows: &str) {
    let csv: &Path = &world.dir.path().join("person.csv");
    std::fs::write(csv, format!("uid,level\n{rows}")).unwrap();
    let spec = TableSpec::of(&world.ruleset.catalog, "person").unwrap();
    let (zone, options) = (&world.ruleset.catalog.zone, LoadOptions::default());
    let store = world.store.as_ref();
    tagloom::dimension::load(store, &spec, zone, csv, &options, 0, &mut |_| {}).unwrap();
}

#[test]
fn what_is_not_published_costs_nothing_and_its_numbers_stay() {
    let world = World::new(false);
    world.write(0);
    let quiet = || {
        let mut options = world.options(&Life::of(i64::MAX), 1);
        options.publish = Publish::default();
        tagloom::engine::run(options, &mut |_| {}).unwrap();
    };
    let bytes = || -> usize {
        world.store.scan_profiles(None, usize::MAX).unwrap().iter().map(|(_, p)| p.len()).sum()
    };
    quiet();
    let before = bytes();
    assert!(world.changes.records().is_empty());
    let loud = World::new(false);
    loud.write(0);
    loud.run(&Life::of(i64::MAX), 1).unwrap();
    let rows = loud.store.scan_profiles(None, usize::MAX).unwrap();
    let with: usize = rows.iter().map(|(_, p)| p.len()).sum();
    let each = (with - before) / rows.len();
    assert!((1..=10).contains(&each), "{each} bytes a new user");

    // Published, then not, then again: numbers go on, and what happened meanwhile is in nobody's `from`.
    loud.write(1);
    let mut options = loud.options(&Life::of(i64::MAX), 1);
    options.publish = Publish::default();
    tagloom::engine::run(options, &mut |_| {}).unwrap();
    let told = loud.published().len();
    for part in 2..4 {
        loud.write(part);
        loud.run(&Life::of(i64::MAX), 1).unwrap();
    }
    let published = loud.published();
    assert!(published.len() > told);
    assert_eq!(published[&(1, 2)]["changes"][0]["from"], "12", "{}", published[&(1, 2)]);
}
