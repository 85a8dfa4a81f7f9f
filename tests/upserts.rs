//! Stored dimension tables that topics keep: rows reach the store, caches and users, whatever else
//! happens to the table meanwhile.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagloom::clock::Deadline;
use tagloom::dimension::{
    Dimensions, Feed, Feeds, KeyColumn, LoadOptions, Lookups, OpenFeed, Positions, TableSpec,
    TopicReader, TopicRecord, load,
};
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Report};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, DimMeta, Store};

const CATALOG: &str = "name: t\nuid: u64\ntimezone: UTC\n";
const STREAM: &str = "stream: buy\ndoc: d\nfrom: {file: buy, format: json}\ncolumns:\n  \
                      user: {type: u64}\n  at: {type: timestamp(ms)}\n  country: {type: string}\n\
                      uid: user\ntime: at\nmode: append\n";
const FEATURE: &str =
    "feature: country\ndoc: d\nstream: buy\nvalue: last(country)\nwindow: lifetime\n";
const TAGS: &str = "tag: region\ndoc: d\nowner: o\ngroup: g\nexpr: place_region\n---\n\
                    tag: arm\ndoc: d\nowner: o\ngroup: g\nexpr: person_arm\n";
const STRATEGIES: [&str; 3] = ["preload", "cached", "direct"];
const PARTITIONS: u64 = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// Topics that the test writes. A key is always in the same partition.
#[derive(Clone, Default)]
struct Topics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    records: Mutex<BTreeMap<String, Vec<TopicRecord>>>,
    /// Records given to readers.
    read: AtomicU64,
    /// Readers say that the topic was made so often.
    made: AtomicU64,
    /// Readers give nothing from here on: (partition, offset).
    ends: Mutex<Option<(u32, u64)>>,
}

impl Topics {
    fn put(&self, topic: &str, key: &str, value: &str) {
        let partition = u32::try_from(u64::from(key.as_bytes()[0]) % PARTITIONS).unwrap();
        let mut records = self.0.records.lock().unwrap();
        let records = records.entry(topic.to_owned()).or_default();
        let offset = records.iter().filter(|record| record.partition == partition).count() as u64;
        let value = (!value.is_empty()).then(|| value.as_bytes().to_vec());
        records.push(TopicRecord { partition, offset, key: key.as_bytes().to_vec(), value });
    }

    /// The topics are made anew, empty.
    fn make_again(&self) {
        self.0.records.lock().unwrap().clear();
        self.0.made.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }
}

struct Reader {
    topics: Topics,
    topic: String,
    id: String,
    next: Positions,
}

impl Reader {
    fn left(&self) -> Vec<TopicRecord> {
        let records = self.topics.0.records.lock().unwrap();
        let records = records.get(&self.topic).into_iter().flatten();
        let end = *self.topics.0.ends.lock().unwrap();
        let is_there = |r: &&TopicRecord| {
            end.is_none_or(|(partition, end)| r.partition != partition || r.offset < end)
        };
        let left = records.filter(|r| r.offset >= self.next.of(r.partition));
        left.filter(is_there).cloned().collect()
    }
}

impl TopicReader for Reader {
    fn topic_id(&self) -> &str {
        &self.id
    }

    fn partitions(&self) -> u32 {
        u32::try_from(PARTITIONS).unwrap()
    }

    fn seek(&mut self, from: &Positions) -> Result<(), String> {
        self.next = from.clone();
        Ok(())
    }

    fn read(&mut self, rows_max: usize, _: usize) -> Result<Vec<TopicRecord>, String> {
        if self.topics.0.made.load(Ordering::Relaxed).to_string() != self.id {
            return Err("made again".to_owned());
        }
        let mut records = self.left();
        // Small, so that there are many batches.
        records.truncate(rows_max.min(2));
        for record in &records {
            self.next.next.insert(record.partition, record.offset + 1);
        }
        self.topics.0.read.fetch_add(records.len() as u64, Ordering::Relaxed);
        if records.is_empty() {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(records)
    }

    fn lag(&mut self) -> Result<u64, String> {
        // What is held back is there all the same.
        let records = self.topics.0.records.lock().unwrap();
        let records = records.get(&self.topic).into_iter().flatten();
        Ok(records.filter(|r| r.offset >= self.next.of(r.partition)).count() as u64)
    }
}

impl OpenFeed for Topics {
    fn open(&self, topic: &str) -> Result<Arc<Feed>, String> {
        Err(format!("{topic} is not kept in memory"))
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn TopicReader>, String> {
        let id = self.0.made.load(Ordering::Relaxed).to_string();
        let (topics, topic, next) = (self.clone(), topic.to_owned(), Positions::default());
        Ok(Box::new(Reader { topics, topic, id, next }))
    }
}

struct Case {
    rules: Arc<Ruleset>,
    store: Arc<dyn Store>,
    topics: Topics,
    dir: tempfile::TempDir,
}

impl Case {
    fn new(strategy: &str) -> Self {
        Self::over(strategy, |rules, _| {
            Arc::new(MemoryStore::new(support::identity(rules, ClockMode::Event), 10))
        })
    }

    fn embedded(strategy: &str) -> Self {
        Self::over(strategy, |rules, dir| {
            let identity = support::identity(rules, ClockMode::Event);
            let path = dir.join("store");
            Arc::new(FjallStore::open(&path, &identity, &FjallOptions::default()).unwrap())
        })
    }

    fn over(strategy: &str, store: impl Fn(&Ruleset, &Path) -> Arc<dyn Store>) -> Self {
        let dimensions = format!(
            "dimension: place\ntopic: places\nkey: country\ncolumns: {{region: string}}\n\
             strategy: {strategy}\n---\ndimension: person\ntopic: people\nkey: uid\n\
             columns: {{arm: string}}\nstrategy: {strategy}\n"
        );
        let rules = support::ruleset(&[
            ("catalog.yaml", CATALOG),
            ("streams/buy.yaml", STREAM),
            ("features/f.yaml", FEATURE),
            ("dimensions/d.yaml", &dimensions),
            ("rules/r.yaml", TAGS),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let line = |n: u64| {
            let country = ["GB", "FR"][usize::try_from(n % 2).unwrap()];
            format!("{{\"user\":{n},\"at\":{},\"country\":\"{country}\"}}\n", 1_700_000_000_000 + n)
        };
        let text: String = (1..=4).map(line).collect();
        std::fs::write(dir.path().join("buy.jsonl"), text).unwrap();
        let store = store(&rules, dir.path());
        Self { rules, store, topics: Topics::default(), dir }
    }

    fn lookups(&self) -> Lookups {
        Lookups { feeds: Feeds::by(Arc::new(self.topics.clone())), ..Lookups::default() }
    }

    fn options(&self) -> tagloom::engine::Options {
        let source = support::json_file(&self.dir.path().join("buy.jsonl"), &[0]);
        let mut options = support::options(&self.rules, &self.store, Clock::Event, vec![source]);
        options.lookups = self.lookups();
        options
    }

    fn run(&self) -> Report {
        tagloom::engine::run(self.options(), &mut |_| {}).unwrap()
    }

    /// What `tagloom dims load` does.
    fn load(&self, table: &str, text: &str) {
        let path = self.dir.path().join("table.csv");
        std::fs::write(&path, text).unwrap();
        let spec = TableSpec::of(&self.rules.catalog, table).unwrap();
        let zone = &self.rules.catalog.zone;
        load(&*self.store, &spec, zone, &path, &LoadOptions::default(), 1, &mut |_| ()).unwrap();
    }

    /// Region and arm of all users.
    fn tags(&self) -> Vec<(String, String)> {
        let labels = support::all_labels(&self.rules, self.store.as_ref());
        let of = |tags: &BTreeMap<String, String>, tag: &str| {
            tags.get(tag).cloned().unwrap_or_else(|| "-".to_owned())
        };
        labels.values().map(|t| (of(t, "region"), of(t, "arm"))).collect()
    }

    #[track_caller]
    fn check(&self, expect: [(&str, &str); 4]) {
        assert_eq!(self.tags(), owned(expect));
    }
}

fn owned(expect: [(&str, &str); 4]) -> Vec<(String, String)> {
    expect.iter().map(|(r, a)| ((*r).to_owned(), (*a).to_owned())).collect()
}

fn region(name: &str) -> String {
    format!("{{\"region\":\"{name}\"}}")
}

fn arm(name: &str) -> String {
    format!("{{\"arm\":\"{name}\"}}")
}

/// Rows change between runs.
fn between_runs(case: &Case) {
    let (no, n) = ("-", "north");
    case.topics.put("places", "GB", &region("old"));
    case.topics.put("places", "GB", &region(n));
    case.topics.put("people", "1", &arm("a"));
    case.topics.put("people", "2", &arm("b"));
    case.run();
    case.check([(no, "a"), (n, "b"), (no, no), (n, no)]);
    let again = case.run();
    assert_eq!(again.stats.examined_users, 0, "nothing has changed: {again:?}");
    assert_eq!(case.topics.read(), 4, "what is known is not read again");

    case.topics.put("people", "3", &arm("c"));
    case.topics.put("people", "2", "");
    case.topics.put("people", "1", "no JSON");
    case.topics.put("people", "99", &arm("nobody"));
    let report = case.run();
    assert_eq!(report.stats.examined_users, 2, "users of changed rows, who are known: {report:?}");
    case.check([(no, "a"), (n, no), (no, "c"), (n, no)]);

    case.topics.put("places", "FR", &region("south"));
    case.topics.put("places", "GB", "");
    case.run();
    case.check([("south", "a"), (no, no), ("south", "c"), (no, no)]);
}

#[test]
fn rows_that_change_between_two_runs_reach_their_users() {
    for strategy in STRATEGIES {
        between_runs(&Case::new(strategy));
        between_runs(&Case::embedded(strategy));
    }
}

/// The same over each strategy, at once.
fn over_each(check: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        let each = STRATEGIES.map(|strategy| scope.spawn(|| check(strategy)));
        each.into_iter().for_each(|done| done.join().unwrap());
    });
}

/// What is done, and the users that come of it.
type Step<'a> = (&'a dyn Fn(), [(&'a str, &'a str); 4]);

/// Takes a step whenever users are as expected.
fn step_by_step(case: &Case, steps: &[Step<'_>]) {
    let mut options = case.options();
    options.stay = true;
    let (mut step, mut is_taken) = (0, false);
    let deadline = Deadline::after(WITHIN);
    tagloom::engine::run(options, &mut |seen| {
        let Some((act, expect)) = steps.get(step) else { return seen.status.stop() };
        if !is_taken {
            act();
            is_taken = true;
        } else if case.tags() == owned(*expect) {
            (step, is_taken) = (step + 1, false);
        } else if deadline.is_over() {
            seen.status.stop();
        }
    })
    .unwrap();
    assert_eq!(step, steps.len(), "{:?}", case.tags());
}

#[test]
fn rows_that_change_while_the_engine_runs_reach_their_users() {
    over_each(|strategy| {
        let case = Case::new(strategy);
        let (no, topics) = ("-", &case.topics);
        step_by_step(
            &case,
            &[
                (
                    &|| {
                        topics.put("places", "GB", &region("r1"));
                        topics.put("people", "1", &arm("a1"));
                    },
                    [(no, "a1"), ("r1", no), (no, no), ("r1", no)],
                ),
                (
                    &|| {
                        topics.put("places", "GB", &region("r2"));
                        topics.put("people", "1", "");
                        topics.put("people", "2", &arm("a2"));
                    },
                    [(no, no), ("r2", "a2"), (no, no), ("r2", no)],
                ),
            ],
        );
    });
}

#[test]
fn a_load_lies_under_what_the_topic_says_behind_it() {
    for strategy in STRATEGIES {
        for case in [Case::new(strategy), Case::embedded(strategy)] {
            let no = "-";
            case.load("person", "uid,arm\n1,x\n2,x\n3,x\n");
            case.load("place", "country,region\nGB,x\n");
            case.topics.put("people", "2", &arm("topic"));
            case.run();
            case.check([(no, "x"), ("x", "topic"), (no, "x"), ("x", no)]);
            // The load is newer than what was read before it began, and older than all behind that.
            case.topics.put("people", "3", &arm("unread"));
            case.load("person", "uid,arm\n1,y\n2,y\n3,y\n4,y\n");
            case.topics.put("people", "4", "");
            case.run();
            case.check([(no, "y"), ("x", "y"), (no, "unread"), ("x", no)]);
            let again = case.run();
            assert_eq!(again.stats.examined_users, 0, "{again:?}");
        }
    }
}

#[test]
fn a_load_while_the_topic_goes_on_is_taken_over_with_all_it_says() {
    over_each(|strategy| {
        let case = Case::new(strategy);
        let (no, topics) = ("-", &case.topics);
        case.load("person", "uid,arm\n1,x\n2,x\n3,x\n");
        step_by_step(
            &case,
            &[
                (&|| topics.put("people", "1", &arm("a1")), {
                    [(no, "a1"), (no, "x"), (no, "x"), (no, no)]
                }),
                (
                    &|| {
                        // Read by the topic's follower before, while and after the table is loaded.
                        topics.put("people", "2", &arm("a2"));
                        case.load("person", "uid,arm\n1,y\n2,y\n3,y\n4,y\n");
                        topics.put("people", "3", &arm("a3"));
                    },
                    [(no, "y"), (no, "a2"), (no, "a3"), (no, "y")],
                ),
                (&|| topics.put("people", "1", &arm("a4")), {
                    [(no, "a4"), (no, "a2"), (no, "a3"), (no, "y")]
                }),
            ],
        );
    });
}

#[test]
fn another_topic_of_the_same_name_goes_on_top() {
    for strategy in STRATEGIES {
        let case = Case::new(strategy);
        let no = "-";
        for value in ["a", "b", "c"] {
            case.topics.put("people", "1", &arm(value));
            case.topics.put("people", "2", &arm(value));
        }
        case.run();
        case.check([(no, "c"), (no, "c"), (no, no), (no, no)]);
        case.topics.make_again();
        case.topics.put("people", "1", &arm("new"));
        case.run();
        case.check([(no, "new"), (no, "c"), (no, no), (no, no)]);
    }
}

/// Arms of users 1 to 4 as one process looks them up.
fn arms(dimensions: &Dimensions) -> Vec<String> {
    let found = dimensions.pin().enrich(0, KeyColumn::Numbers(&[1, 2, 3, 4])).unwrap();
    let shown = arrow::util::display::array_value_to_string;
    (0..4).map(|row| shown(&found.columns[0], row).unwrap()).collect()
}

fn follow(case: &Case) -> Dimensions {
    let mut catalog = (*case.rules.catalog).clone();
    catalog.dimensions.retain(|dimension| dimension.name == "person");
    let now = Arc::new(|| 0);
    let dimensions = Dimensions::open(&catalog, Arc::clone(&case.store), now, &case.lookups());
    let dimensions = dimensions.unwrap();
    dimensions.follow(BTreeMap::new()).unwrap();
    dimensions
}

#[track_caller]
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Deadline::after(WITHIN);
    while !is_so() {
        assert!(!deadline.is_over(), "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_process_that_is_late_takes_nothing_back() {
    for strategy in ["cached", "direct"] {
        let case = Case::over(strategy, |rules, _| {
            let identity = support::identity(rules, ClockMode::Event);
            Arc::new(MemoryStore::new(identity, 10).shared())
        });
        case.load("person", "uid,arm\n4,x\n");
        case.topics.put("people", "1", &arm("a"));
        // This one stops before the second record of the partition, and keeps what it has looked up.
        *case.topics.0.ends.lock().unwrap() = Some((u32::from(b'1') % 3, 1));
        let late = follow(&case);
        wait("one row", || arms(&late)[0] == "a");
        case.topics.put("people", "1", &arm("b"));
        case.topics.put("people", "4", &arm("c"));
        case.topics.put("people", "4", "");
        let late_topics = case.topics.clone();
        let case = Case { topics: Topics::default(), ..case };
        case.topics.0.records.lock().unwrap().clone_from(&late_topics.0.records.lock().unwrap());
        let first = follow(&case);
        wait("all rows", || first.are_followed(true) && arms(&first) == ["b", "", "", ""]);
        // Now the late one reads on: each of the records that the first has written already.
        *late_topics.0.ends.lock().unwrap() = Some((u32::from(b'1') % 3, 3));
        // What was loaded is right until the topic says otherwise.
        let has_read_on = |arms: &[String]| arms[0] == "b" && arms[3] != "x";
        wait("what was looked up is forgotten", || has_read_on(&arms(&late)));
        assert_eq!(arms(&late), ["b", "", "", ""], "nothing that was taken away is back");
        assert_eq!(arms(&first), ["b", "", "", ""]);
    }
}

#[test]
fn windows_turn_to_a_load_when_it_has_what_the_topic_said() {
    for strategy in STRATEGIES {
        let case = Case::new(strategy);
        case.load("person", "uid,arm\n1,x\n2,x\n");
        case.topics.put("people", "1", &arm("a"));
        let dimensions = follow(&case);
        wait("one row", || {
            dimensions.refresh();
            arms(&dimensions)[0] == "a"
        });
        // A load that began before the record was written, and now the record cannot be read.
        *case.topics.0.ends.lock().unwrap() = Some((u32::from(b'1') % 3, 0));
        let before = case.store.dim_current("person").unwrap().unwrap();
        let old =
            case.store.dim_scan("person", before.epoch, Some(&1u64.to_be_bytes()), 9).unwrap();
        let row = |uid: u64| (uid.to_be_bytes()[..].into(), old[0].1.clone());
        // Nor does one that comes while that is waited for know more.
        let mut epoch = before.epoch;
        for loads in ["one", "two"] {
            epoch = case.store.dim_begin("person").unwrap();
            case.store.dim_put("person", epoch, vec![row(1), row(3)]).unwrap();
            case.store.dim_commit("person", DimMeta { epoch, ..before.clone() }).unwrap();
            std::thread::park_timeout(Duration::from_millis(1_500));
            dimensions.refresh();
            // Two epochs are kept: without the one before both loads windows have the last one.
            let row = if loads == "one" { ["a", "x", "", ""] } else { ["x", "", "x", ""] };
            assert_eq!(arms(&dimensions), row, "{strategy}, {loads}");
        }
        *case.topics.0.ends.lock().unwrap() = None;
        wait("the load is taken over", || {
            dimensions.refresh();
            arms(&dimensions) == ["a", "", "x", ""]
        });
        assert_eq!(dimensions.epoch_of("person"), Some(epoch));
    }
}

#[test]
fn a_table_that_somebody_died_making_is_made() {
    let (case, no) = (Case::new("cached"), "-");
    case.store.put_meta("dims/made/person", vec![1]).unwrap();
    case.store.dim_begin("person").unwrap();
    // One that is being loaded is left alone.
    case.store.dim_begin("place").unwrap();
    case.topics.put("people", "2", &arm("a"));
    case.topics.put("places", "GB", &region("r"));
    let mut options = case.options();
    options.stay = true;
    let deadline = Deadline::after(WITHIN);
    tagloom::engine::run(options, &mut |seen| {
        if case.store.dim_tables().unwrap() == ["person"] || deadline.is_over() {
            seen.status.stop();
        }
    })
    .unwrap();
    case.run();
    case.check([(no, no), (no, "a"), (no, no), (no, no)]);
}

#[test]
fn users_are_told_of_what_a_load_covers_already() {
    for strategy in STRATEGIES {
        let (case, no) = (Case::new(strategy), "-");
        case.load("person", "uid,arm\n1,x\n2,x\n3,x\n");
        case.run();
        case.check([(no, "x"), (no, "x"), (no, "x"), (no, no)]);
        // Another process writes these, and tells its own users only.
        case.topics.put("people", "1", &arm("a"));
        case.topics.put("people", "2", &arm("a"));
        let written = || case.store.meta("dims/topic/person").unwrap();
        let other = follow(&case);
        wait("it is written how far", || {
            written().is_some_and(|at| String::from_utf8_lossy(&at).matches(":1").count() > 2)
        });
        drop(other);
        // As it was before for user 1, and other rows for 2 and 4.
        case.load("person", "uid,arm\n1,a\n2,y\n3,x\n4,y\n");
        case.run();
        case.check([(no, "a"), (no, "y"), (no, "x"), (no, "y")]);
    }
}
