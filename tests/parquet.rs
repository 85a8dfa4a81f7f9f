//! Parquet as a source: the same rows give the same as from CSV and JSON lines, as a history and as
//! an ordinary source, interrupted wherever it may be; what cannot be read says where and what to do.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which kills another process by the machine's clock"
)]

#[path = "parquet/rows.rs"]
mod rows;
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field};
use jiff::Timestamp;
use parquet::data_type::{Int64Type, Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rows::{Row, batch, csv, json, rows, write_parquet};
use tagloom::catalog::model::Format;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, EngineError, Report};
use tagloom::event::Decoded;
use tagloom::event::reject::{Reason, Reject};
use tagloom::source::cut::Block;
use tagloom::source::file::{FileSource, FileSpec, ReadLimits, decode};
use tagloom::source::position::Position;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};
use tagloom::user::texts::Texts;

const DAY_MS: i64 = 86_400_000;
/// 2026-03-01T00:00Z.
const CUT_MS: i64 = 1_772_323_200_000;
const AS_OF_MS: i64 = CUT_MS + 20 * DAY_MS + 50_000_000;

const COLUMNS: &str = "\
columns:
  id: {type: string, from: EventId}
  user: {type: u64, from: CustomerID, mask: true}
  at: timestamp(iso)
  price: decimal(9,2)
  score: 'float?'
  sku: 'string?'
  gift: 'bool?'
  day: 'date?'
uid: user
time: at
";

const FEATURES: &str = "\
feature: bought_{span}
stream: buy
value: count()
window: '{span}'
matrix: {span: [30d, lifetime]}
---
feature: spent_{span}
stream: buy
value: sum(price)
window: '{span}'
matrix: {span: [7d, lifetime]}
---
feature: score
stream: buy
value: max(score)
window: 60d
---
feature: skus
stream: buy
value: count(distinct sku)
window: lifetime
---
feature: last_sku
stream: buy
value: last(sku)
window: lifetime
---
feature: gifts
stream: buy
value: count()
where: gift
window: lifetime
---
feature: last_day
stream: buy
value: max(day)
window: lifetime
";

fn stream(from: &str) -> String {
    format!("stream: buy\nfrom: {from}\n{COLUMNS}")
}

fn rules() -> String {
    let mut rules = String::new();
    for document in FEATURES.split("---\n") {
        let name = document.lines().next().unwrap().trim_start_matches("feature: ");
        let matrix = document.lines().find(|l| l.starts_with("matrix")).unwrap_or_default();
        write!(rules, "---\ntag: tag_{name}\nexpr: '{name}'\n{matrix}\n").unwrap();
    }
    rules
}

const SETTINGS: &str = "name: shop\nuid: u64\ntimezone: Europe/London\n";

/// A rule directory and files, and the command line over them.
struct Shop(tempfile::TempDir);

impl Shop {
    fn new(from: &str) -> Self {
        let shop = Self(tempfile::tempdir().unwrap());
        shop.write("tags/catalog.yaml", SETTINGS);
        shop.write("tags/streams/buy.yaml", &stream(from));
        shop.write("tags/features/all.yaml", FEATURES);
        shop.write("tags/rules/all.yaml", &rules());
        shop.done("any", &["check", "--write"]);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        let store = format!("store.path={}", self.path(store).display());
        command.arg("--catalog").arg(self.path("tags")).args(["--set", &store]);
        command.args(["--set", "window.close_ms=100", "--set", "engine.shards=2"]);
        command.args(["--set", "source.block_bytes=16384", "--set", "window.users_max=20"]);
        command.args(["--set", "clock.mode=fixed"]);
        command.args(args).env("TAGLOOM_LOG", "error");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn asked(&self, store: &str, args: &[&str]) -> (Output, String) {
        let done = self.command(store, args).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done, said)
    }

    fn done(&self, store: &str, args: &[&str]) -> String {
        let (done, said) = self.asked(store, args);
        assert!(done.status.success(), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn source(&self, file: &str) -> String {
        format!("buy={}", self.path(file).display())
    }

    fn run(&self, store: &str, file: &str) {
        let (source, as_of) = (self.source(file), AS_OF_MS.to_string());
        self.done(store, &["run", "--source", &source, "--as-of", &as_of]);
    }

    fn history(&self, store: &str, files: &[&str]) -> serde_json::Value {
        let sources: Vec<String> = files.iter().map(|file| self.source(file)).collect();
        let mut args = vec!["backfill", "--json", "--cut", "2026-03-01"];
        sources.iter().for_each(|source| args.extend(["--history", source]));
        serde_json::from_str(&self.done(store, &args)).unwrap()
    }

    fn export(&self, store: &str) -> String {
        let out = self.path(&format!("{store}.csv"));
        self.done(store, &["export", "--out", out.to_str().unwrap()]);
        std::fs::read_to_string(out).unwrap()
    }
}

/// History in each form, and live events behind it.
fn shop_with_history() -> Shop {
    let shop = Shop::new("{file: buy.jsonl, format: json}");
    let before = rows(1, 5_000, CUT_MS);
    shop.write("history.jsonl", &json(&before));
    shop.write("history.csv", &csv(&before));
    let (older, old) = before.split_at(1_700);
    write_parquet(&shop.path("older.parquet"), &batch(older), 500);
    write_parquet(&shop.path("old.parquet"), &batch(old), 1_000_000);
    let live: Vec<Row> = rows(2, 500, AS_OF_MS).into_iter().filter(|r| r.at_ms >= CUT_MS).collect();
    assert!(live.len() > 10);
    shop.write("live.jsonl", &json(&live));
    shop
}

#[test]
fn a_history_in_parquet_equals_the_same_rows_in_csv_and_json_lines() {
    let shop = shop_with_history();
    let files: [(&str, &[&str]); 3] = [
        ("json", &["history.jsonl"]),
        ("csv", &["history.csv"]),
        ("parquet", &["older.parquet", "old.parquet"]),
    ];
    for (store, files) in files {
        shop.run(store, "live.jsonl");
        let done = shop.history(store, files);
        assert_eq!((&done["rows"], &done["rejected_rows"]), (&5_000.into(), &0.into()), "{store}");
    }
    let want = shop.export("json");
    assert_eq!(want.lines().count(), 61, "everybody");
    assert_eq!(shop.export("csv"), want);
    assert_eq!(shop.export("parquet"), want);
}

#[test]
fn a_history_in_parquet_that_is_killed_goes_on_where_it_was() {
    let shop = shop_with_history();
    shop.run("one", "live.jsonl");
    shop.history("one", &["history.jsonl"]);
    let (older, old) = (shop.source("older.parquet"), shop.source("old.parquet"));
    let args = ["backfill", "--cut", "2026-03-01", "--history", &older, "--history", &old];
    shop.run("stormy", "live.jsonl");
    let mut patience = Duration::from_millis(15);
    let mut kills = 0;
    loop {
        let mut child = shop.command("stormy", &args).spawn().unwrap();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if let Some(status) = child.try_wait().unwrap() {
            let said = child.wait_with_output().unwrap().stderr;
            assert!(status.success(), "{}", String::from_utf8_lossy(&said));
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        (kills, patience) = (kills + 1, patience + Duration::from_millis(40));
    }
    assert!(kills > 1, "it ended before it could be killed");
    assert_eq!(shop.export("stormy"), shop.export("one"));
}

#[test]
fn a_catalogue_may_name_a_parquet_file_and_a_run_may_be_given_one() {
    let all = rows(3, 900, AS_OF_MS);
    let shop = Shop::new("{file: buy.parquet}");
    write_parquet(&shop.path("tags/buy.parquet"), &batch(&all), 200);
    shop.done("named", &["run", "--as-of", &AS_OF_MS.to_string()]);

    let given = Shop::new("{file: buy.jsonl, format: json}");
    given.write("all.jsonl", &json(&all));
    given.run("json", "all.jsonl");
    // Told by its first bytes.
    write_parquet(&given.path("part-00000"), &batch(&all), 200);
    given.run("given", "part-00000");
    let want = given.export("json");
    assert_eq!(given.export("given"), want);
    assert_eq!(shop.export("named"), want);
}

#[test]
fn what_cannot_be_read_says_file_column_and_what_to_do() {
    let shop = Shop::new("{file: buy.jsonl, format: json}");
    let rows = rows(4, 10, CUT_MS);
    let check = |name: &str, batch: &RecordBatch, texts: &[&str]| {
        write_parquet(&shop.path(name), batch, 100);
        let source = shop.source(name);
        let args = ["backfill", "--history", &source, "--cut", "2026-03-01"];
        let (done, said) = shop.asked("store", &args);
        assert_eq!(done.status.code(), Some(2), "{said}");
        for text in texts {
            assert!(said.contains(text), "`{text}` is not in: {said}");
        }
    };
    let with = |name: &str, array: ArrayRef| {
        let all = batch(&rows);
        let schema = all.schema();
        let columns = schema.fields().iter().zip(all.columns()).map(|(field, column)| {
            let column = if field.name() == name { &array } else { column };
            (field.name().as_str(), Arc::clone(column), true)
        });
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    let floats: ArrayRef =
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.user as f64)));
    let texts = ["a.parquet", "`CustomerID` is Float64", "says u64", "write it as u64"];
    check("a.parquet", &with("CustomerID", floats), &texts);
    let ints: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let texts = ["b.parquet", "`sku` is Int64", "says string", "declare it as `int`"];
    check("b.parquet", &with("sku", ints), &texts);
    let lists = batch(&rows).column_by_name("unread").unwrap().clone();
    check("c.parquet", &with("at", lists), &["`at` is List", "says timestamp(iso)"]);
    let some = batch(&rows).project(&[1, 2, 3, 5, 6, 7, 8]).unwrap();
    check("d.parquet", &some, &["d.parquet", "no column `price`", "the file has: sku, at"]);

    shop.write("e.parquet", "not at all");
    let (done, said) =
        shop.asked("e", &["run", "--source", &shop.source("e.parquet"), "--as-of", "0"]);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("e.parquet") && said.contains("whole Parquet file"), "{said}");
    let (done, said) =
        shop.asked("f", &["run", "--source", &shop.source("a.parquet"), "--as-of", "0"]);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("Float64"), "{said}");
}

fn ruleset(from: &str, columns: &str) -> Arc<Ruleset> {
    let stream = format!("stream: buy\nfrom: {from}\n{columns}");
    support::ruleset(&[
        ("catalog.yaml", SETTINGS),
        ("streams/buy.yaml", &stream),
        ("features/all.yaml", FEATURES),
        ("rules/all.yaml", &rules()),
    ])
}

fn spec(path: &Path) -> FileSpec {
    let name = path.display().to_string();
    FileSpec { path: path.to_owned(), format: Format::Parquet, streams: vec![0], name }
}

fn open(ruleset: &Ruleset, path: &Path, at: Option<Position>, rows: usize) -> FileSource {
    let limits = ReadLimits { batch_rows_max: rows, ..ReadLimits::default() };
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let texts = Arc::new(Texts::default());
    FileSource::open(spec(path), catalog, layout, texts, 1, limits, at).unwrap()
}

/// What was decoded of one stream: whose events, and rejected rows.
type Part = (Vec<u64>, Vec<u64>);

fn seen(decoded: Decoded) -> Part {
    let lines = decoded.rejects.iter().map(|r| r.line).collect();
    (decoded.blocks[0].shards[0].hashes.clone(), lines)
}

#[test]
fn a_position_within_a_row_group_is_where_a_restart_goes_on() {
    let ruleset = ruleset("{file: x, format: parquet}", COLUMNS);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_parquet(&path, &batch(&rows(5, 1_000, CUT_MS)), 300);
    let read = |source: &mut FileSource| {
        let mut parts = Vec::new();
        while let Some((decoded, position)) = source.next(Some(CUT_MS - 40 * DAY_MS)).unwrap() {
            assert_eq!(position.offset, position.lines);
            parts.push((seen(decoded), position));
        }
        parts
    };
    let whole = read(&mut open(&ruleset, &path, None, 70));
    assert_eq!(whole.last().unwrap().1.offset, 1_000);
    assert!(whole.iter().any(|part| !part.0.1.is_empty()), "some are too early");
    let joined = |parts: &[(Part, Position)]| {
        let (events, lines): (Vec<_>, Vec<_>) = parts.iter().map(|part| part.0.clone()).unzip();
        (events.concat(), lines.concat())
    };
    assert!(whole.len() > 10, "{} batches", whole.len());
    for at in 0..whole.len() {
        let rest = read(&mut open(&ruleset, &path, Some(whole[at].1), 110));
        assert_eq!(joined(&rest), joined(&whole[at + 1..]), "behind row {}", whole[at].1.offset);
    }
}

#[test]
fn a_column_that_another_catalogue_wants_is_there_for_rows_that_were_read_already() {
    let few = "columns:\n  user: {type: u64, from: CustomerID}\n  at: timestamp(iso)\n  price: \
               decimal(9,2)\n  gift: 'bool?'\nuid: user\ntime: at\n";
    let with_filter = few.replace("uid:", "  sku: 'string?'\nwhere: sku = 's7'\nuid:");
    let features = "feature: bought\nstream: buy\nvalue: count()\nwindow: 7d\n";
    let rules = "tag: t\nexpr: bought\n";
    let made = |columns: &str| {
        let stream = format!("stream: buy\nfrom: {{file: x, format: parquet}}\n{columns}");
        support::ruleset(&[
            ("catalog.yaml", SETTINGS),
            ("streams/buy.yaml", &stream),
            ("features/all.yaml", features),
            ("rules/all.yaml", rules),
        ])
    };
    let (before, after) = (made(few), made(&with_filter));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let rows = rows(6, 500, CUT_MS);
    write_parquet(&path, &batch(&rows), 120);
    let mut parts = open(&before, &path, None, 50).into_parts();
    let mut blocks: Vec<Block> = (0..3).map(|_| Block::default()).collect();
    for block in &mut blocks {
        assert!(parts.cutter.cut(block).unwrap());
    }
    let mut decoder = parts.recipe.decoder(&after.catalog, &after.layout).unwrap();
    let mut last = Block::default();
    while parts.cutter.cut(&mut last).unwrap() {
        blocks.push(std::mem::take(&mut last));
    }
    let events = blocks.iter().map(|b| decode(&mut decoder, b, None).unwrap().blocks[0].accepted);
    let wanted = rows.iter().filter(|r| r.sku == Some(7)).count();
    assert!(wanted > 3);
    assert_eq!(events.sum::<u64>(), wanted as u64);
}

fn read(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    path: &Path,
    format: Format,
) -> Result<Report, EngineError> {
    let spec = FileSpec { format, ..spec(path) };
    let options = support::options(ruleset, store, Clock::Event, vec![spec]);
    tagloom::engine::run(options, &mut |_| {})
}

fn store_for(ruleset: &Ruleset) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(support::identity(ruleset, ClockMode::Event), 1_000))
}

#[test]
fn rows_that_cannot_be_used_are_rejects_with_their_number_and_without_masked_values() {
    let ruleset = ruleset("{file: x, format: parquet}", COLUMNS);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let users: ArrayRef = Arc::new(Int64Array::from(vec![4711, -4711, 4711, 4712]));
    let at = vec![Some(CUT_MS * 1_000), Some(CUT_MS * 1_000), None, Some(CUT_MS * 1_000)];
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC"));
    let prices: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.0, 3.0, 4.125]));
    let columns = [("EventId", ids), ("CustomerID", users), ("at", at), ("price", prices)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_parquet(&path, &RecordBatch::try_from_iter(columns).unwrap(), 3);
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Parquet).unwrap();
    assert_eq!((report.rows, report.rejected_rows, report.events), (4, 3, 1));
    let found = store.scan_rejects(None, usize::MAX).unwrap();
    let mut found: Vec<Reject> =
        found.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
    found.sort_by_key(|r| r.line);
    let said: Vec<(u64, Reason, &str)> =
        found.iter().map(|r| (r.line, r.reason, r.detail.as_str())).collect();
    let expected =
        [(2, Reason::Range, "user"), (3, Reason::Missing, "at"), (4, Reason::Scale, "price")];
    assert_eq!(said, expected);
    assert!(found.iter().all(|r| r.row.contains(r#""CustomerID":"***""#)), "{found:?}");
    assert!(found[2].row.contains("4.125") && found[2].row.contains("2026-03-01"), "{found:?}");
}

#[test]
fn a_file_that_was_written_anew_is_refused() {
    let ruleset = ruleset("{file: x, format: parquet}", COLUMNS);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let rows = rows(7, 400, CUT_MS);
    write_parquet(&path, &batch(&rows[..300]), 100);
    let store = store_for(&ruleset);
    assert_eq!(read(&ruleset, &store, &path, Format::Parquet).unwrap().rows, 300);
    assert_eq!(read(&ruleset, &store, &path, Format::Parquet).unwrap().rows, 0);
    write_parquet(&path, &batch(&rows), 100);
    let error = read(&ruleset, &store, &path, Format::Parquet).unwrap_err().to_string();
    assert!(error.contains("written anew") && error.contains("another file name"), "{error}");
}

/// A Parquet file's columns are cut off where a writer was killed, or are not what they say.
#[test]
fn a_damaged_file_is_an_error_that_names_it() {
    let ruleset = ruleset("{file: x, format: parquet}", COLUMNS);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_parquet(&path, &batch(&rows(8, 300, CUT_MS)), 100);
    let whole = std::fs::read(&path).unwrap();
    for bytes in [whole.len() - 1, whole.len() / 2, 11, 3] {
        std::fs::write(&path, &whole[..bytes]).unwrap();
        let error = read(&ruleset, &store_for(&ruleset), &path, Format::Parquet).unwrap_err();
        assert!(error.to_string().contains("whole Parquet file"), "{bytes} bytes: {error}");
    }
    let mut wrong = whole;
    wrong[4..1_000].fill(0x5a);
    std::fs::write(&path, wrong).unwrap();
    let error = read(&ruleset, &store_for(&ruleset), &path, Format::Parquet).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("a.parquet") && error.contains("damaged"), "{error}");
}

#[test]
fn the_same_number_is_the_same_float_in_every_format() {
    let columns = "columns:\n  user: u64\n  at: timestamp(ms)\n  f: float\nuid: user\ntime: at\n";
    let made = |format: &str| {
        let stream = format!("stream: buy\nfrom: {{file: x, format: {format}}}\n{columns}");
        let features = "feature: most\nstream: buy\nvalue: max(f)\nwindow: lifetime\n";
        support::ruleset(&[
            ("catalog.yaml", SETTINGS),
            ("streams/buy.yaml", &stream),
            ("features/all.yaml", features),
            ("rules/all.yaml", "tag: most_ever\nexpr: most\n"),
        ])
    };
    // Digits whose nearest float a quick reader misses by one bit, the first one seen in a run.
    let mut rng = StdRng::seed_from_u64(9);
    let mut texts = vec!["114.28571428571429".to_owned(), "0.1".to_owned(), "1e23".to_owned()];
    texts.extend((0..500).map(|_| f64::from_bits(rng.random_range(1 << 61..3 << 61)).to_string()));
    texts.extend((0..500).map(|_| rng.random_range(-1e6..1e6_f64).to_string()));
    let floats: Vec<f64> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let (mut lines, mut cells) = (String::new(), "user,at,f\n".to_owned());
    for (user, text) in texts.iter().enumerate() {
        writeln!(lines, r#"{{"user":{user},"at":1700000000000,"f":{text}}}"#).unwrap();
        writeln!(cells, "{user},1700000000000,{text}").unwrap();
    }
    let users: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..floats.len() as u64));
    let at: ArrayRef = Arc::new(Int64Array::from(vec![1_700_000_000_000; floats.len()]));
    let values: ArrayRef = Arc::new(Float64Array::from(floats.clone()));
    let columns = RecordBatch::try_from_iter([("user", users), ("at", at), ("f", values)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.jsonl", "a.csv", "a.parquet"].map(|name| dir.path().join(name));
    std::fs::write(&paths[0], lines).unwrap();
    std::fs::write(&paths[1], cells).unwrap();
    write_parquet(&paths[2], &columns, 1_000);
    for (path, format) in paths.iter().zip([Format::Json, Format::Csv, Format::Parquet]) {
        let ruleset = made(&format!("{format:?}").to_lowercase());
        let store = store_for(&ruleset);
        assert_eq!(read(&ruleset, &store, path, format).unwrap().rejected_rows, 0);
        let labels = support::all_labels(&ruleset, store.as_ref());
        for (user, want) in floats.iter().enumerate() {
            let label = &labels[&(user as u64)]["most_ever"];
            let have: f64 = label.parse().unwrap();
            assert_eq!(have.to_bits(), want.to_bits(), "{label} of {} in {format:?}", texts[user]);
        }
    }
}

/// Spark wrote instants in 96 bits for years: nanoseconds of a day, and the day by Julian's count.
#[test]
fn instants_of_96_bits_are_in_utc() {
    let ruleset = ruleset(
        "{file: x, format: parquet}",
        "columns: {user: u64, at: timestamp(iso), price: 'decimal(9,2)?', score: 'float?', sku: \
         'string?', gift: 'bool?', day: 'date?'}\nuid: user\ntime: at\n",
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let schema = parse_message_type("message m { required int64 user; required int96 at; }");
    let file = std::fs::File::create(&path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema.unwrap()), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[1], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    // 2025-07-01 is day 2,460,858; 10:30 of it.
    let nanos: u64 = 10 * 3_600_000_000_000 + 1_800_000_000_000;
    let mut at = Int96::new();
    at.set_data((nanos & 0xffff_ffff) as u32, (nanos >> 32) as u32, 2_460_858);
    column.typed::<Int96Type>().write_batch(&[at], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Parquet).unwrap();
    assert_eq!((report.events, report.rejected_rows), (1, 0));
    let expected: Timestamp = "2025-07-01T10:30:00Z".parse().unwrap();
    assert_eq!(report.as_of_ms, Some(expected.as_millisecond()));
}

/// Changes of a table, with the row as it was in a struct.
#[test]
fn a_table_that_changes_is_read_from_parquet_too() {
    let columns = "columns: {op: string, v: int, id: string, user: u64, at: timestamp(ms), price: \
                   'decimal(9,2)', score: 'float?', sku: 'string?', gift: 'bool?', day: 'date?'}\n\
                   uid: user\ntime: at\nmode: changelog\nprimary_key: id\nversion: v\nbefore: \
                   before\noperation: {column: op, insert: c, update: u, delete: d}\n";
    let ruleset = ruleset("{file: x, format: parquet}", columns);
    let image = |ids: Vec<&str>, users: Vec<u64>, cents: Vec<i128>| {
        let at: ArrayRef = Arc::new(Int64Array::from(vec![CUT_MS; ids.len()]));
        let cents = Decimal128Array::from(cents).with_precision_and_scale(9, 2).unwrap();
        let none = |kind: &DataType| arrow::array::new_null_array(kind, ids.len());
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(StringArray::from(ids.clone()))),
            ("user", Arc::new(UInt64Array::from(users))),
            ("at", at),
            ("price", Arc::new(cents)),
            ("score", none(&DataType::Float64)),
            ("sku", none(&DataType::Utf8)),
            ("gift", none(&DataType::Boolean)),
            ("day", none(&DataType::Date32)),
        ];
        columns
    };
    let mut all = image(vec!["a", "b", "a", "b"], vec![1, 1, 2, 1], vec![100, 250, 100, 250]);
    let before = image(vec!["", "", "a", "b"], vec![0, 0, 1, 1], vec![0, 0, 100, 250]);
    let fields = before
        .iter()
        .map(|(name, array)| Arc::new(Field::new(*name, array.data_type().clone(), true)));
    let there = arrow::buffer::NullBuffer::from(vec![false, false, true, true]);
    let before = StructArray::new(
        fields.collect(),
        before.iter().map(|(_, array)| Arc::clone(array)).collect(),
        Some(there),
    );
    all.push(("before", Arc::new(before)));
    all.push(("op", Arc::new(StringArray::from(vec!["c", "c", "u", "d"]))));
    all.push(("v", Arc::new(Int64Array::from(vec![1, 1, 2, 2]))));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let all = all.into_iter().map(|(name, array)| (name, array, true));
    write_parquet(&path, &RecordBatch::try_from_iter_with_nullable(all).unwrap(), 3);
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Parquet).unwrap();
    assert_eq!((report.rows, report.rejected_rows), (4, 0));
    let labels = support::all_labels(&ruleset, store.as_ref());
    assert_eq!(labels[&1]["tag_bought_lifetime"], "0", "one row moved, one is gone");
    assert_eq!(labels[&2]["tag_spent_lifetime"], "1.00");
}
