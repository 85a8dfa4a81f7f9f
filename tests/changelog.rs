//! Streams of changes: what is refused and why, rows that disappear, deletions and versions, and what
//! happens beyond `rows_max`.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;

use std::sync::Arc;

use driven::{Driver, Files};
use tagloom::catalog::model::Format;
use tagloom::engine::ruleset::Ruleset;
use tagloom::event::Decoder;
use tagloom::event::reject::{Reason, Reject};
use tagloom::source::file::{FileSource, FileSpec, ReadLimits};
use tagloom::source::input::STDIN;
use tagloom::store::Store;
use tagloom::user::texts::Texts;
use tagloom::write::canonical;

const DAY_MS: i64 = 86_400_000;
/// 2026-03-31 12:00 UTC.
const AS_OF_MS: i64 = 1_774_958_400_000;

fn catalog(keys: &str) -> Files {
    let stream = format!(
        "stream: orders
from: {{file: orders.jsonl}}
columns:
  op: string
  v: int
  id: u64
  user: u64
  at: timestamp(ms)
  amount: int
  note: string?
  phone: {{type: string?, mask: true}}
uid: user
time: at
where: note IS NULL OR note <> 'draft'
mode: changelog
primary_key: id
operation: {{column: op, insert: [c, r], update: u, delete: d}}
before: before
{keys}"
    );
    let features = "feature: total
stream: orders
value: sum(amount)
window: lifetime
---
feature: most
stream: orders
value: max(amount)
window: 30d
";
    let rules = "tag: total_is\nexpr: total\n---\ntag: most_is\nexpr: most\n";
    let catalog = "name: test\nuid: u64\ntimezone: UTC\nallowed_lateness: 2d\n";
    let of = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    vec![
        of("catalog.yaml", catalog),
        of("streams/orders.yaml", &stream),
        of("features/all.yaml", features),
        of("rules/all.yaml", rules),
    ]
}

/// A row's columns.
fn row(id: u64, user: u64, amount: i64) -> String {
    format!(r#""id":{id},"user":{user},"at":{AS_OF_MS},"amount":{amount},"note":null"#)
}

fn insert(version: i64, row: &str) -> String {
    format!("{{\"op\":\"c\",\"v\":{version},{row}}}\n")
}

fn update(version: i64, before: &str, row: &str) -> String {
    format!("{{\"op\":\"u\",\"v\":{version},{row},\"before\":{{{before}}}}}\n")
}

fn delete(version: i64, before: &str) -> String {
    format!("{{\"op\":\"d\",\"v\":{version},\"before\":{{{before}}}}}\n")
}

/// An engine over a store, and its labels.
struct Table {
    ruleset: Arc<Ruleset>,
    store: Arc<dyn Store>,
    driver: Driver,
}

impl Table {
    fn new(keys: &str) -> Self {
        let ruleset = driven::ruleset(catalog(keys));
        let store = driven::memory(&ruleset);
        let driver = Driver::open(&ruleset, &store, 2, usize::MAX);
        Self { ruleset, store, driver }
    }

    /// Feeds lines in a window of their own. Returns how many were refused.
    fn window(&mut self, lines: &[String]) -> u64 {
        let refused = self.driver.feed(0, &lines.concat(), None);
        self.driver.engine.close(AS_OF_MS, false).unwrap();
        refused
    }

    /// `(total, most)` of a user, `-` for no value; nothing for a user without profile.
    fn of(&self, user: u64) -> String {
        let users = driven::stored(self.store.as_ref(), &self.ruleset);
        let Some(have) = users.get(&user.to_string()) else { return String::new() };
        let label = |tag: &str| have.labels.get(tag).map_or("-", String::as_str);
        format!("{} {}", label("total_is"), label("most_is"))
    }

    fn dump(&self, as_of_ms: i64) -> Vec<String> {
        canonical::dump(self.store.as_ref(), &self.ruleset, as_of_ms).unwrap()
    }
}

#[test]
fn a_change_retracts_what_was_before() {
    let mut table = Table::new("version: v");
    table.window(&[insert(1, &row(1, 7, 90)), insert(2, &row(2, 7, 20))]);
    assert_eq!(table.of(7), "110 90");
    table.window(&[update(3, &row(1, 7, 90), &row(1, 7, 5))]);
    assert_eq!(table.of(7), "25 20", "less than before");
    table.window(&[update(4, &row(2, 7, 20), &row(2, 8, 20))]);
    assert_eq!((table.of(7), table.of(8)), ("5 5".into(), "20 20".into()), "handed over");
    table.window(&[update(5, &row(1, 7, 5), &row(3, 7, 5)), insert(1, &row(1, 7, 90))]);
    assert_eq!(table.of(7), "5 5", "another key, and the old row again");
    table.window(&[delete(6, &row(3, 7, 5)), delete(7, &row(2, 8, 20))]);
    assert_eq!((table.of(7), table.of(8)), ("0 -".into(), "0 -".into()));
    table.window(&[insert(8, &row(3, 7, 6))]);
    assert_eq!(table.of(7), "6 6", "the key is used again");
}

#[test]
fn a_deletion_wins_over_the_version_that_it_deletes() {
    // The row that is deleted lends its version to the deletion, which has none of its own.
    let gone = format!("{{\"op\":\"d\",\"before\":{{\"v\":4,{}}}}}\n", row(1, 7, 90));
    let there = insert(4, &row(1, 7, 90));
    for lines in [[&there, &gone], [&gone, &there]] {
        let mut table = Table::new("version: v");
        lines.iter().for_each(|line| assert_eq!(table.window(&[(*line).clone()]), 0));
        assert_eq!(table.of(7), "0 -");
    }
}

#[test]
fn a_row_that_is_no_longer_wanted_or_complete_disappears() {
    let mut table = Table::new("version: v");
    let draft = |id| row(id, 7, 50).replace("null", "\"draft\"");
    table.window(&[insert(1, &row(1, 7, 50)), insert(2, &row(2, 7, 60)), insert(3, &row(3, 7, 1))]);
    assert_eq!(table.window(&[update(4, &row(1, 7, 50), &draft(1))]), 0, "`where` is no reject");
    assert_eq!(table.of(7), "61 60");
    let incomplete = row(2, 7, 60).replace("\"amount\":60", "\"amount\":null");
    assert_eq!(table.window(&[update(5, &row(2, 7, 60), &incomplete)]), 1, "a reject all the same");
    assert_eq!(table.of(7), "1 1");
    table.window(&[update(6, &draft(1), &row(1, 7, 40))]);
    assert_eq!(table.of(7), "41 40", "it is wanted again");
    table.window(&[update(7, &draft(9), &row(9, 8, 2)), insert(8, &draft(10).replace('7', "5"))]);
    assert_eq!(table.of(5), "", "what was never wanted makes no profile");
    assert_eq!(table.of(8), "2 2");
}

#[test]
fn without_version_the_place_in_the_log_counts() {
    let mut table = Table::new("");
    let changes = [
        insert(0, &row(1, 7, 90)),
        update(0, &row(1, 7, 90), &row(1, 7, 5)),
        update(0, &row(1, 7, 5), &row(1, 8, 6)),
    ];
    table.window(&changes);
    assert_eq!((table.of(7), table.of(8)), ("0 -".into(), "6 6".into()));
    // The same places again, as after a restart.
    table.window(&changes);
    assert_eq!((table.of(7), table.of(8)), ("0 -".into(), "6 6".into()));
}

#[test]
fn standard_input_cannot_tell_versions_by_place() {
    let open = |keys: &str| {
        let ruleset = driven::ruleset(catalog(keys));
        let spec = FileSpec {
            path: STDIN.into(),
            format: Format::Json,
            streams: vec![0],
            name: STDIN.into(),
        };
        let (catalog, layout, limits) = (&ruleset.catalog, &ruleset.layout, ReadLimits::default());
        FileSource::open(spec, catalog, layout, Arc::default(), 1, limits, None).err()
    };
    let refused = open("").map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("add `version:` to the stream"), "{refused}");
    assert!(open("version: v").is_none());
}

#[test]
fn rows_outlive_a_change_of_the_rules_but_not_of_the_key() {
    let check = |from: &str, to: &str, total: &str| {
        let mut table = Table::new("version: v");
        table.window(&[insert(1, &row(1, 7, 90)), insert(2, &row(2, 7, 20))]);
        table.window(&[delete(3, &row(2, 7, 20))]);
        let mut files = catalog("version: v");
        for (path, text) in &mut files {
            match path.as_str() {
                "streams/orders.yaml" => *text = text.replace(from, to),
                // Rows are laid out anew: values and filters that were not there before.
                "features/all.yaml" => {
                    text.push_str(
                        "---\nfeature: noted\nstream: orders\nvalue: last(note)\nwhere: amount > \
                         3\nwindow: lifetime\n",
                    );
                }
                "rules/all.yaml" => text.push_str("---\ntag: noted_is\nexpr: noted\n"),
                _ => {}
            }
        }
        let (ruleset, store) = (driven::ruleset(files), Arc::clone(&table.store));
        let driver = Driver::open(&ruleset, &store, 3, usize::MAX);
        let mut table = Table { ruleset, store, driver };
        table.window(&[update(4, &row(1, 7, 90), &row(1, 7, 5)), insert(2, &row(2, 7, 20))]);
        assert_eq!(table.of(7), total, "{to}");
    };
    check("phone:", "phone:", "5 5");
    // What is known of other keys says nothing of these: the table has to be read again.
    check("primary_key: id", "primary_key: [id, user]", "25 20");
}

fn rejects(lines: &str) -> Vec<Reject> {
    let ruleset = driven::ruleset(catalog("version: v"));
    let texts = Arc::new(Texts::default());
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "orders", texts, 1).unwrap();
    let decoded = decoder.lines(lines.as_bytes(), 1, 0, None);
    assert_eq!(decoded.blocks[0].accepted + decoded.blocks[0].gone, 0, "{lines}");
    decoded.rejects
}

#[test]
fn what_cannot_be_used_is_refused_with_a_remedy() {
    let full = row(1, 7, 90);
    let without = |column: &str| {
        let cells = full.split(',').filter(|cell| !cell.starts_with(&format!("\"{column}\"")));
        cells.collect::<Vec<_>>().join(",")
    };
    let lacks = "binlog_row_image=FULL";
    let cases: &[(String, Reason, &str)] = &[
        (update(1, "", &full), Reason::BeforeMissing, lacks),
        (update(1, &without("user"), &full), Reason::BeforeMissing, "`before` lacks `user`"),
        (update(1, &without("amount"), &full), Reason::BeforeMissing, "`before` lacks `amount`"),
        (update(1, &without("note"), &full), Reason::BeforeMissing, "`before` lacks `note`"),
        (insert(1, &full).replace("\"c\"", "\"u\""), Reason::BeforeMissing, lacks),
        (delete(1, &without("id")), Reason::BeforeMissing, "`before` lacks `id`"),
        ("{\"op\":\"d\",\"v\":1}\n".into(), Reason::BeforeMissing, "lacks `user`"),
        (delete(1, &full.replace("\"user\":7", "\"user\":\"7\"")), Reason::Type, "before.user"),
        (
            insert(1, &full).replace("\"c\"", "\"truncate\""),
            Reason::Operation,
            "none of c, r, u, d",
        ),
        (insert(1, &full).replace("\"c\"", "null"), Reason::Missing, "op"),
        (insert(1, &full).replace("\"v\":1,", ""), Reason::Missing, "v"),
        (delete(1, &full).replace("\"v\":1,", ""), Reason::Missing, "v"),
        (insert(1, &full).replace("\"v\":1", "\"v\":\"1\""), Reason::Type, "v"),
    ];
    for (line, reason, detail) in cases {
        let rejects = rejects(line);
        let [reject] = &rejects[..] else { panic!("{line}: {rejects:?}") };
        assert_eq!(reject.reason, *reason, "{line}: {}", reject.detail);
        assert!(reject.detail.contains(detail), "{line}: {}", reject.detail);
    }
}

#[test]
fn masked_columns_are_hidden_in_both_images() {
    let full = format!("{},\"phone\":\"555-1\"", row(1, 7, 90));
    let rejects = rejects(&update(1, &full.replace("\"user\":7,", ""), &full));
    assert_eq!(rejects.len(), 1);
    assert!(!rejects[0].row.contains("555"), "{}", rejects[0].row);
}

#[test]
fn a_csv_has_the_row_as_it_was_in_columns_of_its_own() {
    let ruleset = driven::ruleset(catalog("version: v"));
    let texts = Arc::new(Texts::default());
    let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
    let mut decoder = Decoder::new(catalog, layout, &[0], "orders", texts, 1).unwrap();
    let header = "op,v,id,user,at,amount,note,before.id,before.user,before.amount,before.note";
    let header: Vec<String> = header.split(',').map(str::to_owned).collect();
    decoder.header(&header, &["id".to_owned()]).unwrap();
    let record = |text: &str| (csv::ByteRecord::from(text.split(',').collect::<Vec<_>>()), 1, 0);
    let at = AS_OF_MS;
    let decoded = decoder.records(
        &[
            record(&format!("c,1,1,7,{at},90,,,,,")),
            record(&format!("u,2,1,8,{at},90,,1,7,90,")),
            record("d,3,,,,,,1,8,90,"),
            record(&format!("u,4,1,8,{at},90,,,,,")),
        ],
        None,
    );
    let block = &decoded.blocks[0];
    assert_eq!((block.accepted, block.gone, block.moved), (2, 2, 1));
    let [reject] = &decoded.rejects[..] else { panic!("{:?}", decoded.rejects) };
    assert_eq!(reject.reason, Reason::BeforeMissing);
}

#[test]
fn beyond_rows_max_the_same_rows_are_kept_in_any_order() {
    let changes: Vec<String> = (0..40)
        .map(|id| insert(1, &row(id, 7, 1)))
        .chain((0..10).map(|id| delete(2, &row(id * 3, 7, 1))))
        .chain((0..10).map(|id| update(3, &row(id * 3 + 1, 7, 1), &row(id * 3 + 1, 7, 100))))
        .collect();
    let mut first = Table::new("version: v\nrows_max: 12");
    first.window(&changes);
    let dump = first.dump(AS_OF_MS);
    assert!(dump.iter().any(|line| line.contains("without keys from")), "{dump:#?}");
    let kept = dump.iter().filter(|line| line.contains(" row ")).count();
    assert_eq!(kept, 12, "{dump:#?}");
    for step in [7, 11, 19, 37, 59] {
        // None divides 60: each change once, in another order, a window after each.
        let mut table = Table::new("version: v\nrows_max: 12");
        for at in 0..changes.len() {
            table.window(&[changes[at * step % changes.len()].clone()]);
        }
        assert_eq!(table.dump(AS_OF_MS), dump, "step {step}");
    }
    let mut table = Table::new("version: v\nrows_max: 12");
    table.window(&changes[..12]);
    assert!(!table.dump(AS_OF_MS).iter().any(|line| line.contains("without keys")), "all are kept");
}

#[test]
fn a_tombstone_is_kept_for_the_horizon() {
    let mut table = Table::new("version: v");
    table.window(&[insert(1, &row(1, 7, 90)), insert(1, &row(2, 7, 3)), delete(2, &row(1, 7, 90))]);
    let gone = |table: &Table| table.dump(AS_OF_MS).iter().any(|line| line.contains("is gone"));
    // The horizon is 30 + 2 days from the first window that may roll up.
    let at = |table: &mut Table, days: i64| {
        let as_of_ms = AS_OF_MS + days * DAY_MS;
        let version = 10 + days;
        let change = update(version, &row(2, 7, 3), &row(2, 7, 3 + days));
        table.driver.feed(0, &change, None);
        table.driver.engine.close(as_of_ms, true).unwrap();
    };
    at(&mut table, 0);
    assert!(gone(&table));
    at(&mut table, 32);
    assert!(gone(&table));
    table.driver.feed(0, &insert(1, &row(1, 7, 90)), None);
    at(&mut table, 33);
    assert!(!gone(&table));
    assert_eq!(table.of(7), "36 -", "the old version came while it was known to be old");
}
