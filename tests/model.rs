//! The plain model: SEMANTICS sections 1-4 and 6, and of section 8 catalogue versions, histories and the
//! epochs of dimension tables, computed slowly and obviously, agrees with the engine on generated
//! catalogues and streams, whatever the windows, shards, restarts, changes of rules, loads of tables,
//! merges of history and steps of the clock. At the end it says what the runs went through.
#![expect(unreachable_pub, clippy::unwrap_used, reason = "a test")]

#[path = "model/dimensions.rs"]
mod dimensions;
mod driven;
#[path = "model/epochs.rs"]
mod epochs;
#[path = "model/generate.rs"]
mod generate;
#[path = "model/history.rs"]
mod history;
#[path = "model/lines.rs"]
mod lines;
#[path = "model/meaning.rs"]
mod meaning;
#[path = "model/seen.rs"]
mod seen;
#[path = "model/spec.rs"]
mod spec;
#[path = "model/told.rs"]
mod told;
#[path = "model/versions.rs"]
mod versions;

use std::io::Write as _;
use std::sync::Arc;

use dimensions::Key;
use driven::{Driver, Files, Stored};
use epochs::Epochs;
use generate::{DAY_MS, EPOCH_MS, HOP_MS, HOUR_MS, Random, day_start};
use lines::{line, uid_text};
use meaning::{At, Event, Model, day_of};
use rand::RngExt;
use seen::Seen;
use spec::{Span, Spec};
use tagloom::engine::job::Chunk;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::version::Moment;
use tagloom::serve::read::Reader;
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::{Store, Uid};
use versions::{Chosen, RETIRE_AFTER_MS};

/// How many runs there are, if not told otherwise.
const SEEDS: u64 = 120;

/// One run of the engine beside the model.
struct Run<'a> {
    random: Random,
    spec: &'a Spec,
    ruleset: Arc<Ruleset>,
    /// What of the catalogue is there, and its files with ids.
    chosen: Chosen,
    files: Files,
    dir: Option<tempfile::TempDir>,
    store: Option<Arc<dyn Store>>,
    driver: Option<Driver>,
    model: Model<'a>,
    /// Everything that was sent, in order.
    sent: Vec<Event>,
    /// How much of it a window has covered.
    covered: usize,
    as_of_ms: i64,
    latest_ms: Option<i64>,
    roll_up: bool,
    /// `user.state_bytes_max`: the oldest days beyond it become tiles.
    state_bytes_max: usize,
    next_id: u32,
    /// The rows of each stream that is a table.
    tables: Vec<Vec<Event>>,
    /// Few users have many values each.
    users: usize,
    epochs: Epochs,
    seen: Seen,
    /// Tags that read dimensions, themselves or through other tags.
    of_dimensions: Vec<bool>,
}

impl<'a> Run<'a> {
    fn new(spec: &'a Spec, mut random: Random) -> Self {
        let chosen = if random.one_in(2) { spec.all() } else { spec.some(&mut random) };
        let files = driven::locked(spec.files_of(&chosen), None);
        let ruleset = driven::ruleset(files.clone());
        let durable = random.one_in(6);
        let dir = durable.then(|| tempfile::tempdir().unwrap());
        let as_of_ms = EPOCH_MS + random.upto(150 * DAY_MS);
        let latest_ms = random.one_in(2).then(|| as_of_ms + random.upto(30 * DAY_MS));
        let roll_up = random.one_in(2);
        // Ids are forgotten with the days they are of: repeats would count again.
        let has_ids = spec.streams.iter().any(|s| s.dedupe && !s.table);
        let little = !has_ids && !random.one_in(3);
        let state_bytes_max = if little { random.rng.random_range(100..2_000) } else { usize::MAX };
        let users = random.pick(&[1, 1, 5, 5]);
        let mut run = Self {
            users,
            epochs: Epochs::new(spec.tables.len()),
            seen: Seen::default(),
            of_dimensions: spec.tags_of_dimensions(),
            store: None,
            driver: None,
            model: Model::new(spec),
            sent: Vec::new(),
            covered: 0,
            next_id: 0,
            tables: vec![Vec::new(); spec.streams.len()],
            random,
            spec,
            ruleset,
            chosen,
            files,
            dir,
            as_of_ms,
            latest_ms,
            roll_up,
            state_bytes_max,
        };
        run.look();
        run.model.open(&run.chosen, as_of_ms);
        run.open();
        run
    }

    fn open(&mut self) {
        self.driver = None;
        if let Some(dir) = &self.dir {
            self.store = None;
            let identity = driven::identity(&self.ruleset);
            let options = FjallOptions::default();
            let store = FjallStore::open(&dir.path().join("store"), &identity, &options).unwrap();
            self.store = Some(Arc::new(store));
        }
        let store = self.store.get_or_insert_with(|| driven::memory(&self.ruleset));
        let moment = Moment {
            as_of_ms: Some(self.as_of_ms),
            retire_after_ms: RETIRE_AFTER_MS,
            running: false,
        };
        self.ruleset = driven::active(store.as_ref(), self.files.clone(), moment);
        let shards = self.random.rng.random_range(1..=3);
        // Half the time so little that users leave memory after each window.
        let bytes_max = if self.random.one_in(2) { self.random.below(4_000) } else { usize::MAX };
        let mut driver = Driver::open(&self.ruleset, store, shards, bytes_max);
        driver.engine = driver.engine.keeping(self.state_bytes_max);
        self.driver = Some(driver);
        self.reopened();
    }

    /// What kind of run this is.
    fn look(&mut self) {
        let (spec, on_disk) = (self.spec, self.dir.is_some());
        let by = |is: fn(&Key) -> bool| spec.dimensions.iter().any(|d| is(&d.key));
        let kinds = [
            ("runs", true),
            ("  on disk", on_disk),
            ("  with ids that are known again", spec.streams.iter().any(|s| s.dedupe && !s.table)),
            ("  with users who may keep little", self.state_bytes_max < usize::MAX),
            ("  with tables that change", spec.streams.iter().any(|s| s.table)),
            ("  with closed accounts", spec.closed.is_some()),
            ("  with dimensions", by(|_| true)),
            ("    keyed by a feature", by(|key| matches!(key, Key::Feature(_)))),
            ("    keyed by a column", by(|key| matches!(key, Key::Column(..)))),
        ];
        kinds.into_iter().for_each(|(what, is)| self.seen.add(what, usize::from(is)));
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().unwrap()
    }

    /// Sends events, in batches.
    fn send(&mut self, events: &[Event]) {
        let mut rest = events;
        while !rest.is_empty() {
            let (batch, more) = rest.split_at(rest.len().min(self.random.rng.random_range(1..=40)));
            rest = more;
            for stream in 0..self.spec.streams.len() {
                let of_stream = batch.iter().filter(|e| e.stream == stream);
                let lines: String = of_stream.map(|e| line(self.spec, e)).collect();
                let latest_ms = self.latest_ms;
                self.driver().feed(stream, &lines, latest_ms);
            }
        }
        for event in events {
            self.model.arrive(event, self.latest_ms);
        }
    }

    /// New events, and second sights of old ones whose ids must still be known.
    fn send_new(&mut self) {
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..self.random.rng.random_range(1..=25) {
            let again = self.random.below(self.sent.len().max(1));
            match self.sent.get(again) {
                Some(event) if self.random.one_in(5) && self.id_is_known(event) => {
                    events.push(event.clone());
                }
                _ => {
                    self.next_id += 1;
                    let event = Event {
                        stream: self.random.below(self.spec.streams.len()),
                        user: self.random.below(self.users),
                        id: self.next_id,
                        at_ms: self.random.time(self.spec, &self.sent, self.as_of_ms),
                        cells: self.random.cells(),
                        broken: self.random.one_in(30),
                        change: None,
                        sent_day: day_of(self.as_of_ms, self.ruleset.catalog.zone.tz()),
                    };
                    if self.spec.streams[event.stream].table {
                        let (rows, version) = (&mut self.tables[event.stream], self.next_id);
                        let change = self.random.change(rows, event, i64::from(version));
                        events.push(change);
                        continue;
                    }
                    events.push(event);
                    // Ids are per user and stream.
                    if self.random.one_in(4) {
                        let mut twin = events.last().unwrap().clone();
                        twin.user = (twin.user + 1) % 5;
                        events.push(twin);
                    }
                }
            }
        }
        // Changes of a table come in any order; what else there is has none.
        if self.random.one_in(2) {
            self.random.shuffle(&mut events);
        }
        self.send(&events);
        self.seen.add("events", events.len());
        self.sent.extend(events);
    }

    /// Ids are known for as long as a span of days looks at their events.
    fn id_is_known(&self, event: &Event) -> bool {
        let zone = self.ruleset.catalog.zone.tz();
        let age = day_of(self.as_of_ms, zone) - day_of(event.at_ms, zone);
        let stream = &self.spec.streams[event.stream];
        if stream.table {
            // That a row is gone is known for the horizon, which may be no day at all.
            return event.sent_day == day_of(self.as_of_ms, zone);
        }
        stream.dedupe && age < self.spec.longest_days()
    }

    /// Stops without a word and goes on where the store ends, or a little before.
    fn restart(&mut self) {
        self.seen.add("restarts", 1);
        self.model.open(&self.chosen, self.as_of_ms);
        self.open();
        let mut from = self.covered;
        while from > 0 && self.id_is_known(&self.sent[from - 1]) && !self.random.one_in(8) {
            from -= 1;
        }
        let again = self.sent[from..].to_vec();
        // What the model has seen it knows: uncovered events without id would count twice.
        let model = std::mem::replace(&mut self.model, Model::new(self.spec));
        self.send(&again);
        self.model = model;
    }

    /// Other rules, between two windows.
    fn swap(&mut self) {
        self.drain();
        self.chosen =
            if self.random.one_in(4) { self.spec.all() } else { self.spec.some(&mut self.random) };
        let lock = self.files.iter().find(|f| f.0 == "ids.lock").map(|f| f.1.clone());
        self.files = driven::locked(self.spec.files_of(&self.chosen), lock.as_deref());
        self.model.open(&self.chosen, self.as_of_ms);
        self.open();
        let as_of_ms = self.as_of_ms;
        self.driver().engine.recompute(as_of_ms).unwrap();
        self.all_computed();
        self.seen.add("rules swapped", 1);
        self.compare(true);
        if self.random.one_in(3) {
            self.history(false);
        }
    }

    fn close(&mut self) {
        self.close_for(Chunk::default());
        self.compare(false);
    }

    /// A window that also computes a chunk's users.
    fn close_for(&mut self, chunk: Chunk) {
        let (as_of_ms, roll_up) = (self.as_of_ms, self.roll_up);
        self.driver().engine.close_for(as_of_ms, roll_up, chunk).unwrap();
        self.covered = self.sent.len();
        self.seen.add("windows", 1);
    }

    fn drain(&mut self) {
        self.close();
        // Due users first, or those of changed rows.
        let tables_first = self.random.one_in(2);
        if tables_first {
            self.drain_tables();
        }
        let as_of_ms = self.as_of_ms;
        self.driver().engine.drain(as_of_ms).unwrap();
        if !tables_first {
            self.drain_tables();
        }
        self.seen.add("drains", 1);
        self.compare(true);
    }

    fn step(&mut self) {
        self.as_of_ms += match self.random.below(8) {
            0 => self.random.upto(HOUR_MS),
            // To a hop's last instant, or the first of the next.
            5 => HOP_MS - 1 - self.as_of_ms % HOP_MS + self.random.upto(1),
            6 => self.random.upto(30 * HOUR_MS),
            1 => DAY_MS,
            2 => self.random.upto(100 * DAY_MS),
            3 => 0,
            _ => self.random.upto(5 * DAY_MS),
        };
        if self.random.one_in(2)
            && let Some(leaves_ms) = self.leaves_ms()
        {
            self.as_of_ms = leaves_ms - self.random.upto(1);
        }
        if self.random.one_in(4) {
            let start = day_start(self.as_of_ms + DAY_MS, self.spec.zone);
            // A day may have 25 hours: its start is not later then, and as-of never goes back.
            self.as_of_ms = self.as_of_ms.max(start - self.random.pick(&[0, 0, 1]));
        }
    }

    /// The instant at which an event leaves a rolling span, soon.
    fn leaves_ms(&mut self) -> Option<i64> {
        let hops = self.spec.features.iter().filter_map(|f| match f.span {
            Span::Hops(hops) => Some(i64::from(hops)),
            _ => None,
        });
        let hops: Vec<i64> = hops.collect();
        let leaves = self.sent.iter().flat_map(|event| {
            hops.iter().map(|hops| (event.at_ms.div_euclid(HOP_MS) + hops) * HOP_MS)
        });
        let soon = leaves.filter(|ms| (1..3 * DAY_MS).contains(&(ms - self.as_of_ms)));
        let soon: Vec<i64> = soon.collect();
        (!soon.is_empty()).then(|| self.random.pick(&soon))
    }

    /// Whether features see a part of a user's rows only: never of a user who had no more than are
    /// kept.
    fn is_partly(&self, user: usize) -> bool {
        if self.spec.streams.iter().all(|s| !s.table || s.rows_max.is_none()) {
            return false;
        }
        let store = Arc::clone(self.store.as_ref().unwrap());
        let reader = Reader::open(
            Arc::clone(&self.ruleset),
            store,
            Arc::new(|| 0),
            &tagloom::dimension::Lookups::default(),
        )
        .unwrap();
        let uid = Uid::parse(self.ruleset.catalog.uid, &uid_text(self.spec, user)).unwrap();
        let partly = reader.read(&uid, None).unwrap().partly;
        for (at, stream) in self.spec.streams.iter().enumerate() {
            if partly.contains(&format!("s{at}")) {
                let (had, rows_max) = (self.model.rows_ever(user, at), stream.rows_max.unwrap());
                assert!(had > rows_max, "user {user} is partly with {had} of {rows_max} rows");
            }
        }
        !partly.is_empty()
    }

    /// Every stored user is what the model says, but those whose due instant has passed unless
    /// they have been drained. Until users of changed rows are computed again, they show what they
    /// found before.
    fn compare(&mut self, drained: bool) {
        let stored = driven::stored(self.store.as_ref().unwrap().as_ref(), &self.ruleset);
        let users = self.model.users();
        assert_eq!(stored.len(), users.len(), "users");
        assert!(!drained || self.epochs.earlier.is_empty(), "users of changed rows were drained");
        for user in users {
            let have = &stored[&uid_text(self.spec, user)];
            if self.is_partly(user) {
                self.seen.add("users with a part of their rows", 1);
                continue;
            }
            if have.due_ms.is_some_and(|due| due <= self.as_of_ms) {
                assert!(!drained, "user {user} is due and was not drained");
                continue;
            }
            self.seen.add("users compared", 1);
            let Some(wrong) = self.differs(user, have) else { continue };
            assert!(self.is_as_before(user, have), "{wrong}");
            self.seen.add("  that still show an epoch of before", 1);
        }
    }

    /// Whether a user is what the model said while windows saw one of the epochs before.
    fn is_as_before(&mut self, user: usize, have: &Stored) -> bool {
        let earlier = std::mem::take(&mut self.epochs.earlier);
        let now = std::mem::take(&mut self.model.rows_of_tables);
        let found = earlier.iter().any(|rows| {
            self.model.rows_of_tables.clone_from(rows);
            self.differs(user, have).is_none()
        });
        (self.epochs.earlier, self.model.rows_of_tables) = (earlier, now);
        found
    }

    /// What the engine and the model say differently of a user.
    fn differs(&mut self, user: usize, have: &Stored) -> Option<String> {
        let now = At { ms: self.as_of_ms, day: self.model.day_of(self.as_of_ms) };
        let closed = self.model.is_closed(user, now);
        if have.closed != closed {
            return Some(format!("user {user} closed as of {}: model says {closed}", now.ms));
        }
        for tag in (0..self.spec.tags.len()).filter(|tag| self.chosen.tags[*tag]) {
            let want = self.model.label(user, tag, now);
            let found = have.labels.get(&format!("tag{tag}"));
            if found != want.as_ref() {
                return Some(format!(
                    "user {user} tag{tag} as of {} (day {}): engine {found:?}, model {want:?}\n{:?}",
                    now.ms, now.day, self.spec.tags[tag],
                ));
            }
            self.seen.add("labels compared", 1);
            if self.of_dimensions[tag] {
                self.seen.add("  of tags that read a dimension", 1);
                self.seen.add("    with a value", usize::from(want.is_some()));
            }
        }
        None
    }
}

fn check(seed: u64, show: bool) -> Seen {
    let mut random = Random::new(seed);
    let spec = random.spec();
    if show {
        // The standard error of a test that passes is not shown.
        spec.files().iter().for_each(|(path, text)| eprintln!("# {path}\n{text}"));
    }
    let mut run = Run::new(&spec, random);
    if run.random.one_in(4) {
        run.history(true);
    }
    for _ in 0..run.random.rng.random_range(3..=12) {
        run.send_new();
        run.tables_change();
        match run.random.below(8) {
            0 => run.restart(),
            6 => run.swap(),
            7 => run.history(false),
            1 => run.drain(),
            2 | 3 => run.close(),
            _ => {}
        }
        if run.random.one_in(2) {
            run.step();
        }
    }
    run.drain();
    for _ in 0..8 {
        run.step();
        run.tables_change();
        run.drain();
    }
    run.seen
}

/// Says how to repeat a seed that fails.
struct OnFailure(u64);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            let command = "cargo test --release --test model";
            eprintln!("seed {seed} again: MODEL_SEED_FROM={seed} MODEL_SEEDS=1 {command}");
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn the_engine_agrees_with_the_plain_model() {
    let (from, seeds) = (number("MODEL_SEED_FROM", 1), number("MODEL_SEEDS", SEEDS));
    let mut seen = Seen::default();
    for seed in from..from + seeds {
        let on_failure = OnFailure(seed);
        seen.merge(&check(seed, seeds == 1));
        drop(on_failure);
    }
    // Past the test harness, which hides what a test that passes prints.
    writeln!(std::io::stderr(), "model: {seeds} seeds ran, from {from}\n{seen}").unwrap();
    let missing = seen.missing();
    assert!(seeds < SEEDS || missing.is_empty(), "no run went through this: {missing:?}");
}
