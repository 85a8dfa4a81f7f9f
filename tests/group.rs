//! A store that processes share, without the processes: numbers of catalogues, and what becomes of the
//! cells of tags that go.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use driven::{Driver, Files, identity, locked};
use tagloom::catalog::load_from;
use tagloom::clock::Deadline;
use tagloom::dimension::Lookups;
use tagloom::engine::Clock;
use tagloom::engine::history::{Merge, cuts, lacking, resume, ruleset};
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::swap::{Active, Swaps};
use tagloom::engine::version::{
    self, Moment, Next, Saved, active, active_number, is_recomputed, load_active, next, next_with,
    replaced_by,
};
use tagloom::engine::watch::{Watch, Watched};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::intercepted::Intercepted;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{Store, StoreError, UidKey};

const MOMENT: Moment = Moment { as_of_ms: None, retire_after_ms: i64::MAX, running: false };

fn files(rules: &str, lock: Option<&str>) -> Files {
    let files = [
        ("catalog.yaml", "name: c\nuid: u64\ntimezone: UTC\n"),
        (
            "streams/buy.yaml",
            "stream: buy\nfrom: {file: b.jsonl}\nuid: u\ntime: at\ncolumns: {u: u64, at: \
             timestamp(ms), euros: int}\n",
        ),
        (
            "features/all.yaml",
            "feature: spend\nstream: buy\nvalue: sum(euros)\nwindow: lifetime\n---\nfeature: most\n\
             stream: buy\nvalue: max(euros)\nwindow: lifetime\n",
        ),
        ("rules/all.yaml", rules),
    ];
    locked(files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect(), lock)
}

fn lock_of(files: &Files) -> &str {
    &files.iter().find(|(path, _)| path == "ids.lock").unwrap().1
}

fn tag(name: &str, rule: &str) -> String {
    format!("tag: {name}\ndoc: d\nowner: o\ngroup: g\n{rule}\n")
}

const LEVEL: &str = "bands: {of: spend, cuts: [10], labels: [low, high]}";
const OTHER_LEVEL: &str = "bands: {of: spend, cuts: [99], labels: [low, high]}";

fn rules(tags: &[(&str, &str)]) -> String {
    tags.iter().map(|(name, rule)| tag(name, rule)).collect::<Vec<_>>().join("---\n")
}

fn compiled(store: &dyn Store, files: &Files) -> Next {
    next(store, load_from("t", files.clone()).unwrap(), MOMENT).unwrap()
}

fn shared(ruleset: &Ruleset) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(identity(ruleset), 9).shared())
}

#[test]
fn of_processes_that_give_out_a_number_at_once_one_does() {
    let first = files(&rules(&[("level", LEVEL)]), None);
    let store = shared(&driven::ruleset(first.clone()));
    let store: &dyn Store = store.as_ref();
    assert_eq!(compiled(store, &first).save(store).unwrap(), Saved::Done);
    let other = files(&rules(&[("level", OTHER_LEVEL)]), Some(lock_of(&first)));
    let third = files(&rules(&[("level", LEVEL), ("more", "expr: spend")]), Some(lock_of(&first)));
    let (one, same, another) =
        (compiled(store, &other), compiled(store, &other), compiled(store, &third));
    assert_eq!(one.save(store).unwrap(), Saved::Done);
    // Another process with the same rules, and one with other ones, which are the next version.
    assert!(!compiled(store, &other).is_new);
    assert_eq!(another.save(store).unwrap(), Saved::Taken);
    assert_eq!(load_active(store).unwrap().unwrap().catalog.fingerprint, one.version.fingerprint);
    assert_eq!(same.save(store).unwrap(), Saved::Taken);
    assert_eq!(compiled(store, &third).save(store).unwrap(), Saved::Done);
    assert_eq!(active_number(store).unwrap(), 3);
    let fingerprints: Vec<u64> =
        version::versions(store).unwrap().iter().map(|v| v.fingerprint).collect();
    let of = |files: &Files| load_from("t", files.clone()).unwrap().catalog.fingerprint;
    assert_eq!(fingerprints, [of(&first), of(&other), of(&third)]);
    for (files, by) in [(&first, Some(2)), (&other, Some(3)), (&third, None)] {
        assert_eq!(replaced_by(store, of(files)).unwrap(), by);
    }
}

#[test]
fn a_version_is_active_though_the_process_that_wrote_it_ended_in_between() {
    let first = files(&rules(&[("level", LEVEL)]), None);
    let store = shared(&driven::ruleset(first.clone()));
    let store: &dyn Store = store.as_ref();
    assert_eq!(compiled(store, &first).save(store).unwrap(), Saved::Done);
    let other = files(&rules(&[("level", OTHER_LEVEL)]), Some(lock_of(&first)));
    assert_eq!(compiled(store, &other).save(store).unwrap(), Saved::Done);
    // The last of its writes was not made.
    store.put_meta("catalog/active", b"1".to_vec()).unwrap();
    assert_eq!(active_number(store).unwrap(), 2);
    assert_eq!(version::active(store).unwrap().unwrap().number, 2);
    assert!(!compiled(store, &other).is_new);
}

/// Cells of user 1 by tag, empty ones as `-`.
fn cells(store: &MemoryStore, lock: &str) -> BTreeMap<String, String> {
    let name = |id: &str| {
        let line = lock.lines().find(|line| line.contains(&format!(" = {id} "))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let cells = store.cells_of(&UidKey::from_u64(1)).into_iter();
    let shown = |value: String| if value.is_empty() { "-".to_owned() } else { value };
    cells.map(|(id, value)| (name(&id), shown(value))).collect()
}

fn expect(cells: &[(&str, &str)]) -> BTreeMap<String, String> {
    cells.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect()
}

/// Makes rules active, and computes everybody by them.
fn go_on_with(store: &Arc<MemoryStore>, files: &Files) {
    let shared: Arc<dyn Store> = store.clone();
    let next = compiled(shared.as_ref(), files);
    assert_eq!(next.save(shared.as_ref()).unwrap(), Saved::Done);
    let mut driver = Driver::open(&Arc::new(next.ruleset), &shared, 1, usize::MAX);
    driver.engine.recompute(86_400_000).unwrap();
}

#[test]
fn the_cells_of_a_tag_that_goes_are_emptied_and_those_of_one_that_comes_are_filled() {
    let all = [("level", LEVEL), ("peak", "expr: most"), ("ever", "expr: spend > 1000")];
    let first = files(&rules(&all), None);
    let ruleset = driven::ruleset(first.clone());
    let store = shared(&ruleset);
    let shared: Arc<dyn Store> = store.clone();
    let saved = compiled(shared.as_ref(), &first);
    assert_eq!(saved.save(shared.as_ref()).unwrap(), Saved::Done);
    let mut driver = Driver::open(&Arc::new(saved.ruleset), &shared, 1, usize::MAX);
    driver.feed(0, "{\"u\":1,\"at\":1000,\"euros\":20}\n", None);
    driver.engine.close(86_400_000, true).unwrap();
    let lock = lock_of(&first).to_owned();
    assert_eq!(
        cells(&store, &lock),
        expect(&[("level", "high"), ("peak", "20"), ("ever", "false")])
    );

    // One is removed, one goes into the shadow: nothing that is left has another value.
    let fewer = [("level", LEVEL), ("ever", "shadow: true\nexpr: spend > 1000")];
    let fewer = files(&rules(&fewer), Some(&lock));
    go_on_with(&store, &fewer);
    assert_eq!(cells(&store, &lock), expect(&[("level", "high"), ("peak", "-"), ("ever", "-")]));

    // It comes out of the shadow with the value that it had all the time.
    let more = [("level", LEVEL), ("ever", "expr: spend > 1000")];
    go_on_with(&store, &files(&rules(&more), Some(lock_of(&fewer))));
    assert_eq!(
        cells(&store, &lock),
        expect(&[("level", "high"), ("peak", "-"), ("ever", "false")])
    );
}

#[test]
fn what_was_written_without_cells_has_all_of_them_when_it_is_written_next() {
    let all = [("level", LEVEL), ("peak", "expr: most"), ("ever", "expr: spend > 1000")];
    let first = files(&rules(&all), None);
    let lock = lock_of(&first).to_owned();
    let store = shared(&driven::ruleset(first.clone()));
    let shared: Arc<dyn Store> = store.clone();
    let saved = compiled(shared.as_ref(), &first);
    assert_eq!(saved.save(shared.as_ref()).unwrap(), Saved::Done);
    let ruleset = Arc::new(saved.ruleset);
    let begin = || Driver::open(&ruleset, &shared, 1, usize::MAX);
    let buy = |driver: &mut Driver, euros: u32| {
        driver.feed(0, &format!("{{\"u\":1,\"at\":1000,\"euros\":{euros}}}\n"), None);
        driver.engine.close(86_400_000, true).unwrap();
    };
    let written = |level, peak, ever| expect(&[("level", level), ("peak", peak), ("ever", ever)]);

    store.leave_out_cells(true);
    buy(&mut begin(), 20);
    assert_eq!(cells(&store, &lock), expect(&[]));
    // Another process, which has cells again: the event changes one tag only.
    store.leave_out_cells(false);
    let mut driver = begin();
    buy(&mut driver, 30);
    assert_eq!(cells(&store, &lock), written("high", "30", "false"));

    // Now they are there, and get stale: what is left of them is written over.
    store.leave_out_cells(true);
    buy(&mut begin(), 2_000);
    assert_eq!(cells(&store, &lock), written("high", "30", "false"));
    store.leave_out_cells(false);
    // Nothing changes: a recompute is enough.
    begin().engine.recompute(86_400_000).unwrap();
    assert_eq!(cells(&store, &lock), written("high", "2000", "true"));

    // A tag that is removed while cells are left out has none afterwards.
    store.leave_out_cells(true);
    let fewer = files(&rules(&[("level", LEVEL), ("peak", "expr: most")]), Some(&lock));
    go_on_with(&store, &fewer);
    assert_eq!(cells(&store, &lock), written("high", "2000", "true"));
    store.leave_out_cells(false);
    let ruleset = Arc::new(compiled(shared.as_ref(), &fewer).ruleset);
    let mut driver = Driver::open(&ruleset, &shared, 1, usize::MAX);
    driver.engine.recompute(86_400_000).unwrap();
    assert_eq!(cells(&store, &lock), written("high", "2000", "-"));
}

/// A process that runs by the rules that are active in a store.
fn running(store: &Arc<dyn Store>, files: &Files) -> Swaps {
    let next = compiled(store.as_ref(), files);
    assert_eq!(next.save(store.as_ref()).unwrap(), Saved::Done);
    let files = Arc::new(load_from("t", files.clone()).unwrap().files);
    Swaps::default().beginning_with(Active { ruleset: Arc::new(next.ruleset), files })
}

/// The same files with a stream that nobody reads yet.
fn with_stream(files: &Files) -> Files {
    let stream = &files.iter().find(|(path, _)| path == "streams/buy.yaml").unwrap().1;
    let stream = stream.replace("stream: buy", "stream: visit");
    let more = [("streams/visit.yaml".to_owned(), stream)];
    files.iter().cloned().chain(more).collect()
}

#[test]
fn what_another_process_makes_active_is_followed_and_an_old_directory_takes_nothing_back() {
    let first = files(&rules(&[("level", LEVEL)]), None);
    let store: Arc<dyn Store> = shared(&driven::ruleset(first.clone()));
    let (swaps, cache) = (running(&store, &first), Lookups::default());
    let other = files(&rules(&[("level", OTHER_LEVEL)]), Some(lock_of(&first)));
    // What is compiled is left for the engine, as a version that is there.
    assert_eq!(compiled(store.as_ref(), &other).save(store.as_ref()).unwrap(), Saved::Done);
    let again = |files: &Files| {
        let loaded = load_from("t", files.clone()).unwrap();
        swaps.propose(&store, loaded, MOMENT, &cache)
    };
    // A directory that has it too, a moment later, does not make it run here.
    assert!(!again(&other).unwrap(), "it is active");
    assert_eq!(swaps.active().unwrap().ruleset.version, 1);
    assert!(swaps.follow(&store, &cache).unwrap() && swaps.is_busy());
    assert_eq!(version::versions(store.as_ref()).unwrap().len(), 2);
    assert!(!again(&other).unwrap(), "it is active");
    let refused = again(&first).unwrap_err().to_string();
    assert!(refused.contains("version 2") && refused.contains("catalog activate"), "{refused}");
}

#[test]
fn a_process_that_cannot_follow_is_told_to_stop_until_it_can() {
    let first = files(&rules(&[("level", LEVEL)]), None);
    let store: Arc<dyn Store> = shared(&driven::ruleset(first.clone()));
    let swaps = running(&store, &first);
    let watch = Watch::start(Watched {
        dir: "/no/such/directory".into(),
        watches_dir: false,
        follows_store: true,
        every: Duration::from_millis(5),
        swaps: swaps.clone(),
        store: Arc::clone(&store),
        lookups: Lookups::default(),
        retire_after_ms: 0,
        clock: Clock::Fixed(0),
        running: first.clone(),
    });
    let save = |files: &Files| {
        assert_eq!(compiled(store.as_ref(), files).save(store.as_ref()).unwrap(), Saved::Done);
    };
    save(&with_stream(&first));
    let deadline = Deadline::after(Duration::from_secs(20));
    let why = loop {
        if let Some(why) = swaps.blocked() {
            break why;
        }
        assert!(!deadline.is_over(), "it goes on");
        std::thread::park_timeout(Duration::from_millis(5));
    };
    assert!(why.contains("version 2") && why.contains("stream `visit` is new"), "{why}");
    assert!(why.contains("start this process again") && !why.contains("stays"), "{why}");
    assert!(!swaps.is_busy());
    // Rules come that it can follow: they are left for the engine.
    save(&files(&rules(&[("level", OTHER_LEVEL)]), Some(lock_of(&first))));
    while !swaps.is_busy() {
        assert!(!deadline.is_over(), "it does not follow");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    drop(watch.unwrap());
}

#[test]
fn a_directory_that_changes_while_the_store_cannot_be_read_is_proposed_once_it_can() {
    let first = files(&rules(&[("level", LEVEL)]), None);
    let memory: Arc<dyn Store> = shared(&driven::ruleset(first.clone()));
    let swaps = running(&memory, &first);
    let (is_away, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (away, calls) = (Arc::clone(&is_away), Arc::clone(&asked));
    let store: Arc<dyn Store> = Arc::new(Intercepted::new(memory, move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        match away.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable { reason: "pulled plug".to_owned() }),
            false => Ok(()),
        }
    }));
    let dir = tempfile::tempdir().unwrap();
    let other = files(&rules(&[("level", OTHER_LEVEL)]), Some(lock_of(&first)));
    for (path, text) in &other {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let watch = Watch::start(Watched {
        dir: dir.path().to_owned(),
        watches_dir: true,
        follows_store: false,
        every: Duration::from_millis(5),
        swaps: swaps.clone(),
        store,
        lookups: Lookups::default(),
        retire_after_ms: 0,
        clock: Clock::Fixed(0),
        running: first,
    });
    let deadline = Deadline::after(Duration::from_secs(20));
    while asked.load(Ordering::Relaxed) < 3 {
        assert!(!deadline.is_over(), "it was proposed once only");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(!swaps.is_busy());
    is_away.store(false, Ordering::Relaxed);
    while !swaps.is_busy() {
        assert!(!deadline.is_over(), "it is not proposed");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    drop(watch.unwrap());
}

const DAY_MS: i64 = 86_400_000;

/// Spends of users, by JSON lines.
fn spends(spends: &[(u64, i64, i64)]) -> String {
    let line = |(u, day, euros): &(u64, i64, i64)| {
        format!("{{\"u\":{u},\"at\":{},\"euros\":{euros}}}\n", day * DAY_MS + 1)
    };
    spends.iter().map(line).collect()
}

/// Folds a history up to a cut beside a store, as the command does, and gives its partials their cut.
fn begin_history(store: &Arc<dyn Store>, files: &Files, dir: &std::path::Path, lines: &str) {
    let (version, days) = (active(store.as_ref()).unwrap().unwrap(), 7);
    let loaded = load_from("t", files.clone()).unwrap();
    let lacks = lacking(&loaded.catalog, &version, &[0]);
    let origins = lacks.keys().copied().collect();
    let rules = ruleset(loaded.catalog.clone(), &version, &origins, 100 * DAY_MS, days).unwrap();
    let rules = Arc::new(rules);
    let side = FjallStore::open(dir, &identity(&rules), &FjallOptions::default()).unwrap();
    let side: Arc<dyn Store> = Arc::new(side);
    let mut driver = Driver::open(&rules, &side, 1, usize::MAX);
    driver.feed(0, lines, None);
    driver.engine.close(100 * DAY_MS, true).unwrap();
    let cuts = cuts(&loaded.catalog, &lacks, 1, 100 * DAY_MS, 101 * DAY_MS, days);
    let merge = Merge { job: 1, dir: dir.to_owned(), users_per_s: None, as_of_ms: None };
    let next = next_with(store.as_ref(), loaded, MOMENT, Some((merge, cuts))).unwrap();
    assert_eq!(next.save(store.as_ref()).unwrap(), Saved::Done);
}

#[test]
fn a_history_reaches_each_user_once_though_its_window_was_written_in_part() {
    let files = files(&rules(&[("spent", "expr: spend"), ("peak", "expr: most")]), None);
    let store = shared(&driven::ruleset(files.clone()));
    let memory: Arc<dyn Store> = store.clone();
    let saved = compiled(memory.as_ref(), &files);
    assert_eq!(saved.save(memory.as_ref()).unwrap(), Saved::Done);
    let mut driver = Driver::open(&Arc::new(saved.ruleset), &memory, 1, usize::MAX);
    // What is before the cut counts from history only.
    driver.feed(0, &spends(&[(1, 99, 1_000), (1, 101, 5), (2, 101, 7)]), None);
    driver.engine.close(101 * DAY_MS, true).unwrap();
    store.put_meta("catalog/recomputed@00001", b"1".to_vec()).unwrap();
    let side = tempfile::tempdir().unwrap();
    begin_history(&memory, &files, side.path(), &spends(&[(1, 50, 10), (3, 60, 4), (1, 99, 20)]));
    assert!(!is_recomputed(memory.as_ref(), 1).unwrap());
    let mark = store.meta("catalog/recomputed@00001").unwrap();
    assert_eq!(mark.as_deref(), Some(&b"0"[..]), "of no partition everybody is computed");
    for _ in 0..2 {
        let ruleset = Arc::new(compiled(memory.as_ref(), &files).ruleset);
        let mut driver = Driver::open(&ruleset, &memory, 1, usize::MAX);
        let mut job = resume(memory.as_ref(), &ruleset).unwrap().unwrap();
        let chunk = job.next(memory.as_ref(), None, 100).unwrap().unwrap();
        driver.engine.close_for(101 * DAY_MS, true, chunk).unwrap();
        drop(job);
        let said = store.meta("job/history").unwrap().unwrap();
        assert!(said.ends_with(b"\"ended\":true}"), "{}", String::from_utf8_lossy(&said));
        // The process ended before it had written that: the next one goes on before this window.
        let none = br#"{"job":1,"after":null,"users":0,"ended":false}"#;
        store.put_meta("job/history", none.to_vec()).unwrap();
        driver.engine.recompute(101 * DAY_MS).unwrap();
    }
    let ruleset = compiled(memory.as_ref(), &files).ruleset;
    let users = driven::stored(memory.as_ref(), &ruleset);
    let spent: BTreeMap<&str, &str> =
        users.iter().map(|(uid, user)| (uid.as_str(), user.labels["spent"].as_str())).collect();
    assert_eq!(spent, BTreeMap::from([("1", "35"), ("2", "7"), ("3", "4")]));
}
