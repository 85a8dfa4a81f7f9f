//! Order does not matter: the same events shuffled, split into other batches and windows, sent
//! twice, hosted by other numbers of shards, stopped and replayed from an earlier position, with memory
//! for hardly any user at a time, give equal stores. Equal is what SEMANTICS section 7 says: state and labels, byte by byte.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

#[path = "model/dimensions.rs"]
mod dimensions;
mod driven;
#[path = "model/generate.rs"]
mod generate;
#[path = "model/lines.rs"]
mod lines;
#[path = "model/meaning.rs"]
mod meaning;
#[path = "model/spec.rs"]
mod spec;
#[path = "model/told.rs"]
mod told;
#[path = "model/versions.rs"]
mod versions;

use std::sync::Arc;

use driven::Driver;
use generate::{DAY_MS, EPOCH_MS, Random};
use lines::line;
use meaning::Event;
use rand::RngExt;
use spec::{Body, Source, Spec};
use tagloom::engine::ruleset::Ruleset;
use tagloom::write::canonical;

const AS_OF_MS: i64 = EPOCH_MS + 150 * DAY_MS;
const SEEDS: u64 = 25;

/// What happens to the events on their way.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    shuffled: bool,
    cut: bool,
    twice: bool,
    replayed: bool,
    /// Users leave memory and come back from the store all the time.
    tight: bool,
}

fn events(random: &mut Random, spec: &Spec) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut tables = vec![Vec::new(); spec.streams.len()];
    for id in 0..random.rng.random_range(20..150) {
        // Few users and times, so that events meet.
        let tie = if random.one_in(3) { events.last() } else { None };
        let event = Event {
            stream: random.below(spec.streams.len()),
            user: random.below(3),
            id,
            at_ms: match tie {
                Some(before) => before.at_ms,
                None => random.time(spec, &events, AS_OF_MS),
            },
            cells: random.cells(),
            broken: random.one_in(30),
            change: None,
            sent_day: 0,
        };
        let event = match spec.streams[event.stream].table {
            true => random.change(&mut tables[event.stream], event, i64::from(id)),
            false => event,
        };
        events.push(event);
    }
    events
}

/// Runs the events to the same instant. Gives the store's canonical form, and how many users left
/// memory.
fn store(
    ruleset: &Arc<Ruleset>,
    spec: &Spec,
    events: &[Event],
    way: Way,
    random: &mut Random,
) -> (Vec<String>, u64) {
    let store = driven::memory(ruleset);
    let mut events = events.to_vec();
    if way.twice {
        let again: Vec<Event> = events.iter().filter(|_| random.one_in(3)).cloned().collect();
        events.extend(again);
    }
    if way.shuffled || way.twice {
        random.shuffle(&mut events);
    }
    let shards = if way.cut { random.rng.random_range(1..=4) } else { 1 };
    // A user takes some hundred bytes.
    let bytes_max = if way.tight { random.below(2_000) } else { usize::MAX };
    let mut driver = Driver::open(ruleset, &store, shards, bytes_max);
    let (mut covered, mut at, mut passivated) = (0, 0, 0);
    while at < events.len() {
        let rows = if way.cut { random.rng.random_range(1..=20) } else { events.len() };
        let batch = &events[at..events.len().min(at + rows)];
        for stream in 0..spec.streams.len() {
            let of_stream = batch.iter().filter(|e| e.stream == stream);
            driver.feed(stream, &of_stream.map(|e| line(spec, e)).collect::<String>(), None);
        }
        at += batch.len();
        if way.cut && random.one_in(3) {
            let as_of_ms = AS_OF_MS - random.upto(40 * DAY_MS);
            passivated += driver.engine.close(as_of_ms, false).unwrap().passivated_users;
            covered = at;
        }
        if way.replayed && random.one_in(6) {
            drop(driver);
            driver = Driver::open(ruleset, &store, shards, bytes_max);
            at = covered - random.below(covered + 1);
        }
    }
    driver.engine.close(AS_OF_MS, false).unwrap();
    driver.engine.drain(AS_OF_MS).unwrap();
    (canonical::dump(store.as_ref(), ruleset, AS_OF_MS).unwrap(), passivated)
}

/// Every way gives the store that one window over the events as they are gives. `ids`: all streams
/// dedupe. `tables`: all streams are tables that change.
fn check(ids: bool, tables: bool, ways: &[Way]) {
    let (mut passivated, mut compared) = (0, 0);
    for seed in 1..=SEEDS {
        let mut random = Random::new(seed);
        let mut spec = random.spec();
        spec.streams.iter_mut().for_each(|s| (s.dedupe, s.table) = (ids, tables));
        // Every feature shows.
        let features = spec.features.iter().enumerate();
        spec.tags.extend(features.map(|(at, f)| (Body::Plain(Source::Feature(at)), f.kind)));
        spec.valid.resize(spec.tags.len(), (None, None));
        let ruleset = driven::ruleset(spec.files());
        let events = events(&mut random, &spec);
        let (want, _) = store(&ruleset, &spec, &events, Way::default(), &mut random);
        compared += u64::from(want.iter().any(|l| l.contains("event ")));
        for way in ways {
            let (found, left) = store(&ruleset, &spec, &events, *way, &mut random);
            passivated += left;
            let differs = want.iter().zip(&found).find(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}, {way:?}");
            assert_eq!(want.len(), found.len(), "seed {seed}, {way:?}");
        }
    }
    assert_eq!(passivated > 0, ways.iter().any(|way| way.tight), "{passivated} left memory");
    // A stream's `where` may leave nothing, now and then.
    assert!(compared * 10 >= SEEDS * 9, "only {compared} seeds have events");
}

#[test]
fn shuffled_events_in_other_windows_give_an_equal_store() {
    let shuffled = Way { shuffled: true, ..Way::default() };
    let cut = Way { cut: true, ..Way::default() };
    check(false, false, &[shuffled, cut, Way { shuffled: true, cut: true, ..Way::default() }]);
}

#[test]
fn repeated_and_replayed_events_give_an_equal_store() {
    let twice = Way { twice: true, ..Way::default() };
    let replayed = Way { cut: true, replayed: true, ..Way::default() };
    let all = Way { shuffled: true, cut: true, twice: true, replayed: true, tight: false };
    check(true, false, &[twice, replayed, all]);
}

#[test]
fn changes_of_tables_in_any_order_give_an_equal_store() {
    let shuffled = Way { shuffled: true, ..Way::default() };
    let replayed = Way { cut: true, replayed: true, ..Way::default() };
    let all = Way { shuffled: true, cut: true, twice: true, replayed: true, ..Way::default() };
    check(false, true, &[shuffled, replayed, all, Way { tight: true, ..all }]);
}

#[test]
fn memory_for_hardly_any_user_gives_an_equal_store() {
    let tight = Way { cut: true, tight: true, ..Way::default() };
    check(false, false, &[tight, Way { shuffled: true, ..tight }]);
    check(true, false, &[Way { shuffled: true, twice: true, replayed: true, ..tight }]);
}
