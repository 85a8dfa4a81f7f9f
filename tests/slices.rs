//! Files whose users do not fit in memory are folded by slices of users: the store is the same as when
//! they do, wherever a run is interrupted, and however it goes on.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use tagloom::catalog::load_from;
use tagloom::catalog::model::Format;
use tagloom::engine::intake::Totals;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::slices::SliceLimits;
use tagloom::engine::version::{Moment, next};
use tagloom::engine::{Clock, EngineError, Options, Report};
use tagloom::source::file::FileSpec;
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::intercepted::{Call, Intercepted};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store, StoreError};
use tagloom::write::canonical;
use tagloom::write::window::TOTALS_KEY;

const START_MS: u64 = 1_700_000_000_000;
const USERS: u64 = 900;

/// A stream with ids, one whose events would count twice, and a table that changes.
fn files(uid: &str, more: &str) -> Vec<(String, String)> {
    let stream = |name: &str, format: &str, columns: &str, mode: &str| {
        let text = format!(
            "stream: {name}\ndoc: d\nfrom: {{file: {name}, format: {format}}}\ncolumns:\n  \
             user: {{type: {uid}}}\n  at: {{type: timestamp(ms)}}\n{columns}uid: user\ntime: at\n{mode}"
        );
        (format!("streams/{name}.yaml"), text)
    };
    let feature = |name: &str, stream: &str, value: &str, window: &str| {
        format!(
            "feature: {name}\ndoc: d\nstream: {stream}\nvalue: {value}\nwindow: {window}\n---\n"
        )
    };
    let features = [
        feature("spent", "buy", "sum(price)", "lifetime"),
        feature("spent_7d", "buy", "sum(price)", "7d"),
        feature("last_note", "buy", "last(note)", "lifetime"),
        feature("visits", "visit", "count(*)", "lifetime"),
        feature("pages", "visit", "count(distinct page)", "30d"),
        feature("debt", "account", "sum(debt)", "lifetime"),
    ];
    let more = more.to_owned();
    let tag =
        |name: &str| format!("tag: has_{name}\ndoc: d\nowner: o\ngroup: g\nexpr: {name}\n---\n");
    let names = ["spent", "spent_7d", "last_note", "visits", "pages", "debt"];
    let mut files = vec![
        ("catalog.yaml".to_owned(), format!("name: t\nuid: {uid}\ntimezone: Europe/Berlin\n")),
        ("features/f.yaml".to_owned(), features.concat() + &more),
        ("rules/r.yaml".to_owned(), names.map(tag).concat().trim_end_matches("---\n").to_owned()),
        stream(
            "buy",
            "json",
            "  id: {type: string}\n  price: {type: \"decimal(9,2)\"}\n  note: {type: \"string?\"}\n",
            "dedupe: {by: id}\nmode: append\n",
        ),
        stream("visit", "csv", "  page: {type: \"int?\"}\n", "mode: append\n"),
        stream(
            "account",
            "json",
            "  key: {type: int}\n  v: {type: int}\n  op: {type: string}\n  debt: {type: \"int?\"}\n",
            "mode: changelog\nprimary_key: key\nversion: v\noperation: {column: op, insert: [c], \
             update: [u], delete: [d]}\nbefore: old\n",
        ),
    ];
    let loaded = load_from("t", files.clone()).unwrap_or_else(|e| panic!("{e}"));
    files.push(("ids.lock".into(), loaded.lock.updated(&loaded.catalog).to_text()));
    files
}

fn ruleset(uid: &str) -> Arc<Ruleset> {
    let loaded = load_from("t", files(uid, "")).unwrap();
    Arc::new(Ruleset::new(loaded.catalog).unwrap())
}

fn user(at: u64) -> u64 {
    // The golden ratio spreads what follows each other.
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % USERS
}

/// Three files of events of users all over the place, with repeats and rows that cannot be used.
fn write_files(dir: &Path, uid: &str, events: u64) {
    let name = |quote: &str, user: u64| match uid {
        "u64" => user.to_string(),
        _ => format!("{quote}user number {user}{quote}"),
    };
    let (quoted, plain) = (|user| name("\"", user), |user| name("", user));
    let (mut buy, mut visit, mut account) =
        (String::new(), "user,at,page\n".to_owned(), String::new());
    for n in 0..events {
        let id = if n % 9 == 0 { n / 2 } else { n };
        let (u, at_ms) = (quoted(user(id)), START_MS + id * 60_000);
        let (price, note) = (id % 50, id % 7);
        writeln!(
            buy,
            r#"{{"id":"e{id}","user":{u},"at":{at_ms},"price":{price}.25,"note":"n{note}"}}"#
        )
        .unwrap();
        if n % 50 == 3 {
            buy.push_str("{\"id\":\"broken\n");
            visit.push_str("5,no time,\n");
        }
        writeln!(visit, "{},{},{}", plain(user(n * 7)), START_MS + n * 90_000, n % 30).unwrap();
        if n % 4 == 0 {
            let (key, debt) = (n % 300, n % 11);
            // A row moves to another user with every version of it.
            let was = n.saturating_sub(300);
            let (old, new) = (quoted(user(key * 31 + was)), quoted(user(key * 31 + n)));
            let op = if n < 300 { "c" } else { "u" };
            writeln!(
                account,
                r#"{{"key":{key},"v":{n},"op":"{op}","user":{new},"at":{START_MS},"debt":{debt},"old":{{"key":{key},"v":{n},"op":"c","user":{old},"at":{START_MS},"debt":1}}}}"#
            )
            .unwrap();
        }
    }
    std::fs::write(dir.join("buy.jsonl"), buy).unwrap();
    std::fs::write(dir.join("visit.csv"), visit).unwrap();
    std::fs::write(dir.join("account.jsonl"), account).unwrap();
}

fn specs(ruleset: &Ruleset, dir: &Path) -> Vec<FileSpec> {
    let spec = |name: &str, stream: &str, format| {
        let at = ruleset.catalog.streams.iter().position(|s| s.name == stream).unwrap();
        FileSpec { format, ..support::json_file(&dir.join(name), &[at]) }
    };
    vec![
        spec("buy.jsonl", "buy", Format::Json),
        spec("visit.csv", "visit", Format::Csv),
        spec("account.jsonl", "account", Format::Json),
    ]
}

/// Within so little memory that users have to leave it.
fn tight(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>, dir: &Path) -> Options {
    let mut options = support::options(ruleset, store, Clock::Event, specs(ruleset, dir));
    // Windows close on memory alone.
    options.limits.users_max = usize::MAX;
    options.limits.close_ms = 60_000;
    options.resident_bytes_max = 40_000;
    // Small ones: a file of few blocks may be read before anybody knows that memory is short.
    options.read.block_bytes = 1 << 12;
    options.slices = Some(SliceLimits { dir: dir.to_owned(), bytes_max: 1 << 30 });
    options
}

fn roomy(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>, dir: &Path) -> Options {
    Options { resident_bytes_max: usize::MAX, ..tight(ruleset, store, dir) }
}

fn go(options: Options) -> Result<Report, EngineError> {
    tagloom::engine::run(options, &mut |_| {})
}

fn in_memory(ruleset: &Ruleset) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(support::identity(ruleset, ClockMode::Event), 10_000))
}

/// Everything that a store says of users and rows.
fn told(ruleset: &Ruleset, store: &dyn Store) -> (Vec<String>, Vec<String>, Totals, String) {
    let as_of_ms = tagloom::engine::stored_as_of(store).unwrap().unwrap();
    let rejects = store.scan_rejects(None, usize::MAX).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut rejects: Vec<String> = rejects.iter().map(|(_, bytes)| text(bytes)).collect();
    rejects.sort_unstable();
    let totals = store.meta(TOTALS_KEY).unwrap().unwrap();
    let totals: Totals = serde_json::from_slice(&totals).unwrap();
    let folds = text(&store.meta(tagloom::write::window::FOLDS_KEY).unwrap().unwrap());
    let dump = canonical::dump(store, ruleset, as_of_ms).unwrap();
    (dump, rejects, Totals { windows: 0, ..totals }, folds)
}

#[track_caller]
fn check(ruleset: &Ruleset, store: &dyn Store, roomy: &dyn Store, how: &str) {
    let (have, want) = (told(ruleset, store), told(ruleset, roomy));
    let differs = have.0.iter().zip(&want.0).find(|(a, b)| a != b);
    assert!(have.0 == want.0, "{how}: the stores differ: {differs:?}");
    assert!(have.1 == want.1, "{how}: {} rejects, not {}", have.1.len(), want.1.len());
    assert_eq!((have.2, have.3), (want.2, want.3), "{how}");
}

struct Case {
    ruleset: Arc<Ruleset>,
    dir: tempfile::TempDir,
    roomy: Arc<dyn Store>,
}

impl Case {
    fn new(uid: &str, events: u64) -> Self {
        let (ruleset, dir) = (ruleset(uid), tempfile::tempdir().unwrap());
        write_files(dir.path(), uid, events);
        let roomy = in_memory(&ruleset);
        let report = go(self::roomy(&ruleset, &roomy, dir.path())).unwrap();
        assert_eq!((report.rounds, report.folds.users), (0, USERS));
        let counts = report.folds.counts;
        assert!(counts.repeats > 0 && counts.deleted > 0, "{counts:?}");
        Self { ruleset, dir, roomy }
    }

    fn tight(&self, store: &Arc<dyn Store>) -> Options {
        tight(&self.ruleset, store, self.dir.path())
    }

    #[track_caller]
    fn check(&self, store: &Arc<dyn Store>, how: &str) {
        check(&self.ruleset, store.as_ref(), self.roomy.as_ref(), how);
    }
}

#[test]
fn a_run_by_slices_gives_an_equal_store_and_reads_each_user_once_or_twice() {
    for uid in ["u64", "string"] {
        let case = Case::new(uid, 6_000);
        let identity = support::identity(&case.ruleset, ClockMode::Event);
        let path = case.dir.path().join("store");
        let durable = FjallStore::open(&path, &identity, &FjallOptions::default()).unwrap();
        for store in [in_memory(&case.ruleset), Arc::new(durable)] {
            let report = go(case.tight(&store)).unwrap();
            assert_eq!(report.rounds, 1, "{report:?}");
            let computed = report.stats.dirty_users;
            assert!(computed < 3 * USERS, "{computed} users computed, of {USERS}");
            case.check(&store, uid);
        }
    }
}

#[test]
fn rounds_are_as_small_as_they_have_to_be() {
    let case = Case::new("u64", 4_000);
    let store = in_memory(&case.ruleset);
    let mut options = case.tight(&store);
    options.slices = Some(SliceLimits { dir: case.dir.path().to_owned(), bytes_max: 30_000 });
    let report = go(options).unwrap();
    assert!(report.rounds > 3, "{} rounds", report.rounds);
    case.check(&store, "little room on disk");

    let store = in_memory(&case.ruleset);
    let report = go(Options { rejects_waiting_max: 5, ..case.tight(&store) }).unwrap();
    assert!(report.rounds > 3, "{} rounds", report.rounds);
    case.check(&store, "few rejects may wait");
}

/// A store that answers so many calls, and then none: as if the process had died.
fn dying(store: &Arc<dyn Store>, calls: u64) -> Arc<dyn Store> {
    let left = AtomicU64::new(calls);
    let gate = move |call| {
        if call != Call::Other {
            return Ok(());
        }
        let more =
            left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let gone = || std::io::Error::other("the process died");
        more.map(drop).map_err(|_| StoreError::io(Path::new("x"), gone()))
    };
    Arc::new(Intercepted::new(Arc::clone(store), gate))
}

/// What goes on differently after an interruption.
type Changed = fn(&mut Options);

#[test]
fn wherever_a_run_is_interrupted_the_next_ends_like_one_that_is_not() {
    let case = Case::new("u64", 2_500);
    let changes: [(&str, Changed); 5] = [
        ("as before", |_| ()),
        ("with other blocks", |o| o.read.block_bytes = 3_000),
        ("with other shards", |o| o.shards = 3),
        ("with room for all", |o| o.resident_bytes_max = usize::MAX),
        ("without slices", |o| o.slices = None),
    ];
    let mut interrupted_twice = 0;
    for calls in 0.. {
        let store = in_memory(&case.ruleset);
        let limits = SliceLimits { dir: case.dir.path().to_owned(), bytes_max: 150_000 };
        let first = Options { slices: Some(limits.clone()), ..case.tight(&dying(&store, calls)) };
        if go(first).is_ok() {
            assert!(calls > 30, "{calls} calls: not many places to die at");
            assert!(interrupted_twice > 10, "{interrupted_twice}");
            break;
        }
        let (how, change) = changes[usize::try_from(calls).unwrap() % changes.len()];
        // A second time, a little later.
        let mut second =
            Options { slices: Some(limits), ..case.tight(&dying(&store, 9 + calls % 5)) };
        change(&mut second);
        interrupted_twice += u32::from(go(second).is_err());
        let mut third = case.tight(&store);
        change(&mut third);
        go(third).unwrap_or_else(|e| panic!("after {calls} calls, {how}: {e}"));
        case.check(&store, &format!("after {calls} calls, {how}"));
    }
}

/// A store after a run that was interrupted in the middle of its round's slices.
fn interrupted(case: &Case, new_store: impl Fn() -> Arc<dyn Store>) -> Arc<dyn Store> {
    // How much is read before the round begins depends on threads: each source has to be part of it.
    let is_far = |round: &serde_json::Value| {
        let sources = round["until"].as_object().map_or(0, serde_json::Map::len);
        sources == 3 && round["folded"].as_u64() > Some(20)
    };
    std::iter::repeat_with(new_store)
        .take(100)
        .find(|store| interrupted_when(store, |store| case.tight(store), is_far))
        .expect("no run was interrupted in a round over all sources")
}

/// Interrupts runs until the store says this of a round. False: one has ended before.
fn interrupted_when(
    store: &Arc<dyn Store>,
    options: impl Fn(&Arc<dyn Store>) -> Options,
    found: impl Fn(&serde_json::Value) -> bool,
) -> bool {
    // Each goes on with what the one before has left.
    for calls in 0.. {
        if go(options(&dying(store, calls))).is_ok() {
            return false;
        }
        let round = store.meta("slices").unwrap();
        if round.is_some_and(|bytes| found(&serde_json::from_slice(&bytes).unwrap())) {
            return true;
        }
    }
    false
}

/// Users with so many rows that most windows close within a slice.
const BUSY_USERS: u64 = 30;

fn write_parquet(path: &Path, rows: u64) {
    let users = UInt64Array::from_iter_values((0..rows).map(|n| n * 7 % BUSY_USERS));
    let at = UInt64Array::from_iter_values((0..rows).map(|n| START_MS + n * 90_000));
    let pages = UInt64Array::from_iter_values((0..rows).map(|n| n % 30));
    let words = StringArray::from_iter_values((0..rows).map(|n| format!("{n:0>90}")));
    let columns: [(&str, ArrayRef); 4] = [
        ("user", Arc::new(users)),
        ("at", Arc::new(at)),
        ("page", Arc::new(pages)),
        ("words", Arc::new(words)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// How many rows of Parquet are a block depends on how much is read of each.
#[test]
fn a_round_over_parquet_goes_on_when_other_columns_are_read() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("visit.parquet"), 3_000);
    let few = ruleset("u64");
    let mut texts = files("u64", "");
    let (_, text) = texts.iter_mut().find(|(name, _)| name == "streams/visit.yaml").unwrap();
    *text = text.replace("columns:\n", "columns:\n  words: {type: \"string?\"}\n");
    let many = Arc::new(Ruleset::new(load_from("t", texts).unwrap().catalog).unwrap());
    let options = |rules: &Arc<Ruleset>, store: &Arc<dyn Store>| {
        let at = rules.catalog.streams.iter().position(|s| s.name == "visit").unwrap();
        let path = dir.path().join("visit.parquet");
        let spec = FileSpec { format: Format::Parquet, ..support::json_file(&path, &[at]) };
        let mut options = Options { sources: vec![spec], ..tight(rules, store, dir.path()) };
        options.read.block_bytes = 250;
        options
    };
    let all = in_memory(&few);
    go(Options { resident_bytes_max: usize::MAX, ..options(&few, &all) }).unwrap();
    // Blocks of few rows often end where one of many rows does.
    for (first, then) in [(&many, &few), (&few, &many), (&many, &few), (&many, &few)] {
        let within = |round: &serde_json::Value| {
            let of_slice = round["within"].as_object();
            of_slice.is_some_and(|within| within.values().any(|offset| offset.as_u64() > Some(100)))
        };
        // Where windows close within a slice depends on threads.
        let mut tries = std::iter::repeat_with(|| in_memory(&few)).take(100);
        let store = tries
            .find(|store| interrupted_when(store, |store| options(first, store), within))
            .expect("no window closed within a slice");
        let report = go(options(then, &store)).unwrap();
        assert!(report.rows < 3_000, "{} rows were read again", report.rows);
        check(&few, store.as_ref(), all.as_ref(), "other columns");
    }
}

#[test]
fn a_file_that_has_grown_is_read_on_behind_the_round() {
    let case = Case::new("u64", 2_500);
    let store = interrupted(&case, || in_memory(&case.ruleset));
    write_files(case.dir.path(), "u64", 4_000);
    let all = in_memory(&case.ruleset);
    go(roomy(&case.ruleset, &all, case.dir.path())).unwrap();
    go(case.tight(&store)).unwrap();
    check(&case.ruleset, store.as_ref(), all.as_ref(), "grown");
}

#[test]
fn a_round_needs_its_sources() {
    let case = Case::new("u64", 2_500);
    let store = interrupted(&case, || in_memory(&case.ruleset));
    let mut options = case.tight(&store);
    options.sources.remove(1);
    let error = go(options).unwrap_err().to_string();
    assert!(error.contains("visit.csv") && error.contains("run over these sources"), "{error}");

    let path = case.dir.path().join("visit.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 5_000]).unwrap();
    let error = go(case.tight(&store)).unwrap_err().to_string();
    assert!(error.contains("visit.csv") && error.contains("put the file back"), "{error}");
    std::fs::write(&path, text).unwrap();
    go(case.tight(&store)).unwrap();
    case.check(&store, "put back");
}

/// Another catalogue, with one more feature of each stream.
fn with_more() -> Vec<(String, String)> {
    files(
        "u64",
        "feature: times\ndoc: d\nstream: buy\nvalue: count(*)\nwindow: lifetime\n---\n\
         feature: home\ndoc: d\nstream: visit\nvalue: count(*)\nwhere: page = 1\nwindow: 30d\n",
    )
}

fn active(store: &dyn Store, files: Vec<(String, String)>) -> Arc<Ruleset> {
    let as_of_ms = tagloom::engine::stored_as_of(store).unwrap();
    let moment = Moment { as_of_ms, retire_after_ms: i64::MAX, running: false };
    let next = next(store, load_from("t", files).unwrap(), moment).unwrap();
    assert_eq!(next.save(store).unwrap(), tagloom::engine::version::Saved::Done);
    Arc::new(next.ruleset)
}

#[test]
fn a_feature_that_came_after_the_round_began_counts_for_nobody_what_the_round_read() {
    let case = Case::new("u64", 2_500);
    let mut told = Vec::new();
    let mut since = Vec::new();
    for is_interrupted in [false, true] {
        let new_store = || {
            let store = in_memory(&case.ruleset);
            active(store.as_ref(), files("u64", ""));
            store
        };
        let case = Case {
            ruleset: active(new_store().as_ref(), files("u64", "")),
            dir: tempfile::tempdir().unwrap(),
            roomy: in_memory(&case.ruleset),
        };
        write_files(case.dir.path(), "u64", 2_500);
        let store = if is_interrupted {
            interrupted(&case, new_store)
        } else {
            let store = new_store();
            go(case.tight(&store)).unwrap();
            store
        };
        let rules = active(store.as_ref(), with_more());
        let version = tagloom::engine::version::active(store.as_ref()).unwrap().unwrap();
        since.push(version.positions.values().map(|p| p.offset).collect::<Vec<_>>());
        go(tight(&rules, &store, case.dir.path())).unwrap();
        // What follows counts for it.
        write_files(case.dir.path(), "u64", 3_000);
        go(tight(&rules, &store, case.dir.path())).unwrap();
        let as_of_ms = tagloom::engine::stored_as_of(store.as_ref()).unwrap().unwrap();
        told.push(canonical::dump(store.as_ref(), &rules, as_of_ms).unwrap());
    }
    assert!(since[0] == since[1], "{since:?}");
    let differs = told[0].iter().zip(&told[1]).find(|(a, b)| a != b);
    assert!(told[0] == told[1], "the stores differ: {differs:?}");
}

#[test]
fn nothing_is_left_on_disk() {
    let case = Case::new("u64", 2_500);
    let store = in_memory(&case.ruleset);
    let mut options = case.tight(&store);
    let room = tempfile::tempdir().unwrap();
    options.slices = Some(SliceLimits { dir: room.path().to_owned(), bytes_max: 1 << 30 });
    assert_eq!(go(options).unwrap().rounds, 1);
    let left: Vec<PathBuf> =
        std::fs::read_dir(room.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");

    let store = in_memory(&case.ruleset);
    let mut options = case.tight(&store);
    let dir = room.path().join("not there");
    options.slices = Some(SliceLimits { dir, bytes_max: 1 << 30 });
    let error = go(options).unwrap_err().to_string();
    assert!(error.contains("not there") && error.contains("memory.spill_bytes_max"), "{error}");
}
