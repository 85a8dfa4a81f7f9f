//! Files as people have them: compressed, grown, changed, with odd lines.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use tagloom::catalog::model::Format;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, EngineError, Report};
use tagloom::event::reject::{Reason, Reject};
use tagloom::source::file::FileSpec;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Store};

const COLUMNS: &str = "\
columns:
  id: {type: string}
  user: {type: u64, mask: true}
  at: {type: timestamp(ms)}
  price: {type: \"decimal(9,2)\"}
  note: {type: \"string?\"}
uid: user
time: at
dedupe: {by: id}
mode: append
";

fn shop(format: &str, streams: &[&str]) -> Arc<Ruleset> {
    let mut files = vec![
        ("catalog.yaml".to_owned(), "name: t\nuid: u64\ntimezone: UTC\n".to_owned()),
        (
            "rules/spent.yaml".to_owned(),
            "tag: spent_ever\ndoc: d\nowner: o\ngroup: g\nexpr: spent\n---\n\
             tag: spent_now\ndoc: d\nowner: o\ngroup: g\nexpr: spent_7d\n"
                .to_owned(),
        ),
        (
            "features/spent.yaml".to_owned(),
            "feature: spent\ndoc: d\nstream: buy\nvalue: sum(price)\nwindow: lifetime\n---\n\
             feature: spent_7d\ndoc: d\nstream: buy\nvalue: sum(price)\nwindow: 7d\n---\n\
             feature: notes_7d\ndoc: d\nstream: buy\nvalue: count(distinct note)\nwindow: 7d\n"
                .to_owned(),
        ),
    ];
    for stream in streams {
        let text =
            format!("stream: {stream}\ndoc: d\nfrom: {{file: x, format: {format}}}\n{COLUMNS}");
        files.push((format!("streams/{stream}.yaml"), text));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    support::ruleset(&files)
}

fn store_for(ruleset: &Ruleset) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(support::identity(ruleset, ClockMode::Event), 1_000))
}

fn read(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    path: &Path,
    format: Format,
) -> Result<Report, EngineError> {
    let streams = (0..ruleset.catalog.streams.len()).collect();
    let name = path.display().to_string();
    let spec = FileSpec { path: path.to_owned(), format, streams, name };
    let options = support::options(ruleset, store, Clock::Event, vec![spec]);
    tagloom::engine::run(options, &mut |_| {})
}

fn rejects(store: &dyn Store) -> Vec<Reject> {
    let rows = store.scan_rejects(None, usize::MAX).unwrap();
    rows.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
}

fn json_lines(ids: std::ops::Range<u32>) -> String {
    let mut text = String::new();
    for id in ids {
        let at = 1_700_000_000_000u64 + u64::from(id) * 1_000;
        let user = id % 97;
        writeln!(text, r#"{{"id":"e{id}","user":{user},"at":{at},"price":{}.25}}"#, id % 50)
            .unwrap();
    }
    text
}

#[test]
fn compression_does_not_matter() {
    let ruleset = shop("json", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let text = json_lines(0..5_000);
    let plain = dir.path().join("a.jsonl");
    std::fs::write(&plain, &text).unwrap();
    // Two members, as `cat a.gz b.gz` makes them; and a name that does not say it is compressed.
    let gzip = dir.path().join("b.jsonl");
    let mut file = std::fs::File::create(&gzip).unwrap();
    let (first, second) = text.split_at(text.len() / 3);
    for part in [first, second] {
        let mut encoder = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    let zst = dir.path().join("c.zst");
    std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    let labels = [plain, gzip, zst].map(|path| {
        let store = store_for(&ruleset);
        let report = read(&ruleset, &store, &path, Format::Json).unwrap();
        assert_eq!((report.rows, report.rejected_rows), (5_000, 0));
        support::all_labels(&ruleset, store.as_ref())
    });
    assert_eq!(labels[0].len(), 97);
    assert_eq!(labels[0], labels[1]);
    assert_eq!(labels[0], labels[2]);
}

#[test]
fn a_file_that_grew_is_read_on_and_one_that_changed_is_refused() {
    let ruleset = shop("json", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let store = store_for(&ruleset);
    std::fs::write(&path, json_lines(0..1_000)).unwrap();
    assert_eq!(read(&ruleset, &store, &path, Format::Json).unwrap().rows, 1_000);
    assert_eq!(read(&ruleset, &store, &path, Format::Json).unwrap().rows, 0);
    std::fs::write(&path, json_lines(0..1_500)).unwrap();
    assert_eq!(read(&ruleset, &store, &path, Format::Json).unwrap().rows, 500);

    let whole = store_for(&ruleset);
    let other = dir.path().join("b.jsonl");
    std::fs::write(&other, json_lines(0..1_500)).unwrap();
    read(&ruleset, &whole, &other, Format::Json).unwrap();
    let labels = |store: &Arc<dyn Store>| support::all_labels(&ruleset, store.as_ref());
    assert_eq!(labels(&store), labels(&whole));

    std::fs::write(&path, json_lines(7..2_000)).unwrap();
    let error = read(&ruleset, &store, &path, Format::Json).unwrap_err().to_string();
    assert!(error.contains("not the file that was read before"), "{error}");
    std::fs::write(&path, json_lines(0..1_200)).unwrap();
    let error = read(&ruleset, &store, &path, Format::Json).unwrap_err().to_string();
    assert!(error.contains("the file was cut"), "{error}");
}

#[test]
fn a_stream_that_is_added_to_a_file_reads_it_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, json_lines(0..300)).unwrap();
    let before = shop("json", &["buy"]);
    let store = store_for(&before);
    read(&before, &store, &path, Format::Json).unwrap();
    let after = shop("json", &["buy", "again"]);
    let report = read(&after, &store, &path, Format::Json).unwrap();
    assert_eq!(report.totals.streams["buy"].events, 300, "not a second time");
    assert_eq!(report.totals.streams["again"].events, 300);
    let spent = &support::all_labels(&after, store.as_ref())[&3]["spent_ever"];
    let expected: u32 = (0..300).filter(|id| id % 97 == 3).map(|id| id % 50 * 100 + 25).sum();
    assert_eq!(*spent, format!("{}.{:02}", expected / 100, expected % 100));
}

#[test]
fn broken_lines_become_rejects_with_reason_and_place_and_without_masked_values() {
    let ruleset = shop("json", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let lines = [
        r#"{"id":"a","user":4711,"at":1700000000000,"price":1.50}"#,
        r#"{"id":"b","user":4711,"at":17000000"#,
        "",
        r#"{"id":"c","user":"4711","at":1700000000000,"price":1.50}"#,
        r#"{"id":"d","user":4711,"at":1700000000000}"#,
        r#"{"id":"e","user":4711,"at":1700000000000,"price":1.505}"#,
        r#"{"id":"f","user":4711,"at":1700000000000,"price":99999999}"#,
        r#"{"id":"g","user":4711,"at":1700000000000.5,"price":1}"#,
        r#"[1,2,3]"#,
        r#"{"id":"h","user":4711,"at":1700000000000,"price":2,"note":null,"more":{"x":[1]}}"#,
    ];
    // No line break behind the last line.
    std::fs::write(&path, lines.join("\n")).unwrap();
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Json).unwrap();
    assert_eq!((report.rows, report.rejected_rows, report.events), (9, 7, 2));
    let rejects = rejects(store.as_ref());
    let said: Vec<(u64, Reason, &str)> =
        rejects.iter().map(|r| (r.line, r.reason, r.detail.as_str())).collect();
    let mut plain: Vec<(u64, Reason)> = said.iter().map(|s| (s.0, s.1)).collect();
    plain.sort();
    assert_eq!(
        plain,
        [
            (2, Reason::Malformed),
            (4, Reason::Type),
            (5, Reason::Missing),
            (6, Reason::Scale),
            (7, Reason::Range),
            (8, Reason::Type),
            (9, Reason::Malformed),
        ],
        "{said:?}"
    );
    assert!(rejects.iter().all(|r| !r.row.contains("4711")), "the uid is masked: {rejects:?}");
    assert!(rejects.iter().any(|r| r.reason == Reason::Scale && r.row.contains("1.505")));
    let spent = &support::all_labels(&ruleset, store.as_ref())[&4711]["spent_ever"];
    assert_eq!(spent, "3.50");
}

#[test]
fn csv_is_read_as_the_standard_says() {
    let ruleset = shop("csv", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let text = "\u{feff}at,price,user,id,note,unused\r\n\
                1700000000000,1.5,5,a,\"two\r\nlines, \"\"quoted\"\"\",x\r\n\
                1700000000000,2,5,b,,x\r\n\
                1700000000000,2,5,c\r\n\
                1700000000000,,5,d,n,x\r\n\
                1700000000000,2.5,5,a,same id,x\r\n";
    std::fs::write(&path, text).unwrap();
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Csv).unwrap();
    assert_eq!((report.rows, report.events, report.rejected_rows), (5, 3, 2));
    assert_eq!(
        (report.folds.counts.repeats, report.folds.counts.changed),
        (0, 1),
        "id a with other content"
    );
    let rejects = rejects(store.as_ref());
    let places: Vec<(u64, Reason)> = rejects.iter().map(|r| (r.line, r.reason)).collect();
    assert_eq!(places.len(), 2);
    assert!(places.contains(&(5, Reason::Malformed)), "a quoted line break counts: {places:?}");
    assert!(places.contains(&(6, Reason::Missing)), "{places:?}");
    assert_eq!(support::all_labels(&ruleset, store.as_ref())[&5]["spent_ever"], "3.50");

    let wrong = dir.path().join("b.csv");
    std::fs::write(&wrong, "at,prize,user,id\n").unwrap();
    let error = read(&ruleset, &store, &wrong, Format::Csv).unwrap_err().to_string();
    assert!(
        error.contains("no column `price`") && error.contains("did you mean `prize`"),
        "{error}"
    );
}

#[test]
fn a_user_beyond_its_memory_keeps_the_same_tags() {
    let ruleset = shop("json", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let mut text = String::new();
    for id in 0..4_000u64 {
        let at = 1_700_000_000_000 + id * 1_200_000;
        writeln!(text, r#"{{"id":"e{id}","user":{},"at":{at},"price":{}}}"#, id % 3, id % 7)
            .unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let labels = [usize::MAX, 4_000].map(|state_bytes_max| {
        let store = store_for(&ruleset);
        let spec = support::json_file(&path, &[0]);
        let mut options = support::options(&ruleset, &store, Clock::Event, vec![spec]);
        options.state_bytes_max = state_bytes_max;
        let report = tagloom::engine::run(options, &mut |_| {}).unwrap();
        (support::all_labels(&ruleset, store.as_ref()), report.resident_bytes)
    });
    assert_eq!(labels[0].0, labels[1].0);
    assert!(labels[1].1 * 3 < labels[0].1, "{} bytes against {}", labels[1].1, labels[0].1);
}

#[test]
fn rejects_come_in_the_order_of_their_lines_however_many_threads_decode() {
    let ruleset = shop("json", &["buy"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    // Blocks of very different cost: every eighth of them takes the strict reader's way.
    let mut text = String::new();
    let mut broken = Vec::new();
    for id in 0..30_000u32 {
        let at = 1_700_000_000_000u64 + u64::from(id) * 1_000;
        let user = id % 97;
        if id % 41 == 0 {
            broken.push(u64::from(id) + 1);
            writeln!(text, r#"{{"id":"e{id}","user":{user},"at":"#).unwrap();
        } else if id / 250 % 8 == 0 {
            let line =
                format!(r#"{{"note":"\u00e9 {id}","more":[[[{id}]]],"user":{user},"price":1"#);
            writeln!(text, r#"{line},"id":"e{id}","at":{at}}}"#).unwrap();
        } else {
            writeln!(text, r#"{{"id":"e{id}","user":{user},"at":{at},"price":1}}"#).unwrap();
        }
    }
    std::fs::write(&path, text).unwrap();
    let store = store_for(&ruleset);
    let report = read(&ruleset, &store, &path, Format::Json).unwrap();
    assert_eq!((report.rows, report.rejected_rows), (30_000, broken.len() as u64));
    let lines: Vec<u64> = rejects(store.as_ref()).iter().map(|r| r.line).collect();
    let kept = &broken[broken.len() - lines.len()..];
    assert_eq!(lines, kept, "each where it stands in the file");
    let spent: u64 = support::all_labels(&ruleset, store.as_ref())
        .values()
        .map(|tags| tags["spent_ever"].split('.').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(spent, 30_000 - broken.len() as u64);
}
