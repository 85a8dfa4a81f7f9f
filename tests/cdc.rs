//! A table under change data capture: 100,000 inserts, updates, deletions and rows that change their
//! key or their customer, shuffled and repeated, against what DuckDB computed from the final table
//! alone (`cdc/expected.sql`).
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use driven::{Driver, Labels};
use tagloom::engine::Clock;
use tagloom::engine::ruleset::Ruleset;
use tagloom::store::Store;
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::write::canonical;

const CHANGES: usize = 100_000;
const CUSTOMERS: u64 = 1_500;
/// 2026-06-30 12:00 in London.
const AS_OF_MS: i64 = 1_782_817_200_000;
const HOUR_MS: u64 = 3_600_000;

const CATALOG: &[(&str, &str)] = &[
    ("catalog.yaml", "name: cdc\nuid: u64\ntimezone: Europe/London\n"),
    (
        "streams/orders.yaml",
        "stream: orders
from: {file: orders.jsonl}
columns:
  op: string
  seq: int
  shop: string
  number: u64
  customer: u64
  at: timestamp(ms)
  amount: decimal(12,2)
  category: string?
  paid: bool
  status: string
where: status <> 'draft'
uid: customer
time: at
mode: changelog
primary_key: [shop, number]
version: seq
operation: {column: op, insert: [c, r], update: u, delete: d}
before: before
",
    ),
    (
        "features/all.yaml",
        "feature: orders_{span}
stream: orders
value: count()
matrix: {span: [7d, 90d, lifetime]}
window: '{span}'
---
feature: spend_{span}
stream: orders
value: sum(amount)
matrix: {span: [30d, lifetime]}
window: '{span}'
---
feature: spend_30d_before
stream: orders
value: sum(amount)
where: paid
window: 30d
offset: 30d
---
feature: least
stream: orders
value: min(amount)
window: lifetime
---
feature: most_90d
stream: orders
value: max(amount)
window: 90d
---
feature: categories
stream: orders
value: count(distinct category)
window: lifetime
---
feature: first_category
stream: orders
value: first(category)
window: lifetime
---
feature: last_category
stream: orders
value: last(category)
window: lifetime
---
feature: favourite
stream: orders
value: mode(category)
window: lifetime
---
feature: top_2
stream: orders
value: top_k(category, 2, by => amount)
where: category IS NOT NULL
window: 90d
---
feature: last_paid
stream: orders
value: last_time()
where: paid AND amount >= 20
window: lifetime
",
    ),
    (
        "rules/all.yaml",
        "tag: t_{of}
matrix: {of: [orders_7d, orders_90d, orders_lifetime, spend_30d, spend_lifetime, spend_30d_before,
  least, most_90d, categories, first_category, last_category, favourite, top_2]}
expr: '{of}'
---
tag: t_last_paid
expr: CAST(last_paid AS date)
",
    ),
];

/// A row of the table.
#[derive(Debug, Clone)]
struct Order {
    shop: u64,
    number: u64,
    customer: u64,
    at_ms: u64,
    cents: u64,
    category: u64,
    paid: bool,
    draft: bool,
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): the same numbers whatever crates there are.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }

    fn order(&mut self, number: u64) -> Order {
        Order {
            shop: self.below(3),
            number,
            customer: 1 + self.below(CUSTOMERS),
            at_ms: AS_OF_MS.unsigned_abs() - self.below(200 * 24) * HOUR_MS,
            cents: 1 + self.below(20_000),
            category: self.below(6),
            paid: self.below(3) > 0,
            draft: self.below(10) == 0,
        }
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.index(at + 1));
        }
    }
}

impl Order {
    fn category(&self) -> Option<&'static str> {
        [None, Some("shoes"), Some("hats"), Some("手机"), Some("Zelte"), Some("bags")]
            [usize::try_from(self.category).unwrap()]
    }

    /// As a row of canal has it: every value is a text.
    fn texts(&self) -> String {
        let row: serde_json::Value = serde_json::from_str(&format!("{{{}}}", self.json())).unwrap();
        let amount = format!("{}.{:02}", self.cents / 100, self.cents % 100);
        let text = |(name, value): (&String, &serde_json::Value)| {
            let value = match value {
                _ if name == "amount" => amount.clone().into(),
                // The database has a tinyint.
                serde_json::Value::Bool(paid) => u8::from(*paid).to_string().into(),
                serde_json::Value::Number(number) => number.to_string().into(),
                other => other.clone(),
            };
            (name.clone(), value)
        };
        let cells = row.as_object().unwrap().iter().map(text);
        serde_json::Value::Object(cells.collect()).to_string()
    }

    fn json(&self) -> String {
        let category = serde_json::to_string(&self.category()).unwrap();
        format!(
            r#""shop":"s{}","number":{},"customer":{},"at":{},"amount":{}.{:02},"category":{category},"paid":{},"status":"{}""#,
            self.shop,
            self.number,
            self.customer,
            self.at_ms,
            self.cents / 100,
            self.cents % 100,
            self.paid,
            if self.draft { "draft" } else { "placed" },
        )
    }
}

/// One change of the table.
struct Change {
    op: char,
    seq: u64,
    before: Option<Order>,
    after: Option<Order>,
    /// In JSON lines: a deletion has the row in its own columns.
    in_own_columns: bool,
}

impl Change {
    fn json(&self) -> String {
        let (op, seq) = (self.op, self.seq);
        let row = |order: &Option<Order>| order.as_ref().map_or(String::new(), Order::json);
        let (after, before) = (row(&self.after), row(&self.before));
        match op {
            'd' if self.in_own_columns => format!("{{\"op\":\"d\",\"seq\":{seq},{before}}}\n"),
            'd' => format!("{{\"op\":\"d\",\"seq\":{seq},\"before\":{{{before}}}}}\n"),
            'u' => {
                format!("{{\"op\":\"u\",\"seq\":{seq},{after},\"before\":{{{before}}}}}\n")
            }
            _ => format!("{{\"op\":\"{op}\",\"seq\":{seq},{after}}}\n"),
        }
    }

    /// As Debezium writes it, with its schema or without; a deletion is followed by a tombstone.
    fn debezium(&self) -> String {
        let row = |order: &Option<Order>| match order {
            // Decimals as texts, or as bytes beside their schema.
            Some(order) => {
                let text = format!("\"amount\":{}.{:02}", order.cents / 100, order.cents % 100);
                let amount = match self.seq % 2 {
                    0 => format!("{}.{:02}", order.cents / 100, order.cents % 100),
                    _ => base64(&u32::try_from(order.cents).unwrap().to_be_bytes()),
                };
                format!("{{{}}}", order.json().replace(&text, &format!("\"amount\":\"{amount}\"")))
            }
            None => "null".to_owned(),
        };
        let payload = format!(
            r#"{{"before":{},"after":{},"source":{{"db":"shop","table":"orders","pos":{}}},"op":"{}","ts_ms":1}}"#,
            row(&self.before),
            row(&self.after),
            self.seq,
            self.op,
        );
        let tombstone = if self.op == 'd' { "null\n" } else { "" };
        match self.seq % 2 {
            0 => format!("{payload}\n{tombstone}"),
            _ => format!("{{\"schema\":{SCHEMA},\"payload\":{payload}}}\n{tombstone}"),
        }
    }

    /// Only what was other before.
    fn old(&self, row: fn(&Order) -> String) -> Option<String> {
        let object = |order: &Order| -> serde_json::Map<String, serde_json::Value> {
            serde_json::from_str(&row(order)).unwrap()
        };
        let (mut old, new) = (object(self.before.as_ref()?), object(self.after.as_ref()?));
        old.retain(|name, value| new[name] != *value);
        Some(serde_json::Value::Object(old).to_string())
    }

    fn row(&self) -> &Order {
        self.after.as_ref().or(self.before.as_ref()).unwrap()
    }

    fn maxwell(&self) -> String {
        let word = match self.op {
            'r' => "bootstrap-insert",
            'c' => "insert",
            'u' => "update",
            _ => "delete",
        };
        let old = self.old(|order| format!("{{{}}}", order.json()));
        let old = old.map_or(String::new(), |old| format!(",\"old\":{old}"));
        format!(
            r#"{{"database":"shop","table":"orders","type":"{word}","ts":1,"xid":{},"data":{{{}}}{old}}}"#,
            self.seq,
            self.row().json(),
        ) + "\n"
    }

    fn canal(&self) -> String {
        let word = match self.op {
            'r' | 'c' => "INSERT",
            'u' => "UPDATE",
            _ => "DELETE",
        };
        let old = self.old(Order::texts).map_or("null".to_owned(), |old| format!("[{old}]"));
        format!(
            r#"{{"data":[{}],"database":"shop","es":1,"id":{},"isDdl":false,"old":{old},"table":"orders","type":"{word}"}}"#,
            self.row().texts(),
            self.seq,
        ) + "\n"
    }
}

const SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"},"field":"amount"}],"optional":true,"field":"after"}]}"#;

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for at in 0..4usize {
            let digit = usize::try_from(word >> (18 - 6 * at) & 63).unwrap();
            text.push(if at > chunk.len() { '=' } else { char::from(DIGITS[digit]) });
        }
    }
    text
}

/// The log as JSON lines, and the table as it is in the end.
fn history() -> (Vec<String>, Vec<Order>) {
    let (log, table) = changes();
    (log.iter().map(Change::json).collect(), table)
}

/// The log, and the table as it is in the end.
fn changes() -> (Vec<Change>, Vec<Order>) {
    let mut numbers = Numbers(2026);
    let (mut log, mut table): (Vec<Change>, Vec<Order>) = (Vec::new(), Vec::new());
    for seq in 1..=CHANGES as u64 {
        let fresh = numbers.order(seq);
        let what = if table.len() < 100 { 0 } else { numbers.below(100) };
        if what < 45 {
            let op = if numbers.below(20) == 0 { 'r' } else { 'c' };
            let after = Some(fresh.clone());
            log.push(Change { op, seq, before: None, after, in_own_columns: false });
            table.push(fresh);
            continue;
        }
        let at = numbers.index(table.len());
        let old = table[at].clone();
        if what < 60 {
            table.swap_remove(at);
            let in_own_columns = numbers.below(2) == 0;
            log.push(Change { op: 'd', seq, before: Some(old), after: None, in_own_columns });
            continue;
        }
        let mut new = old.clone();
        match numbers.below(10) {
            0 | 1 => new.customer = fresh.customer,
            // The key itself changes, now and then with the customer.
            2 => new.number = fresh.number,
            3 => (new.number, new.customer) = (fresh.number, fresh.customer),
            4 => new.draft = !old.draft,
            5 => new.at_ms = fresh.at_ms,
            6 => new.category = fresh.category,
            _ => (new.cents, new.paid) = (fresh.cents, fresh.paid),
        }
        let (before, after) = (Some(old), Some(new.clone()));
        log.push(Change { op: 'u', seq, before, after, in_own_columns: false });
        table[at] = new;
    }
    (log, table)
}

fn ruleset() -> Arc<Ruleset> {
    let files = CATALOG.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned()));
    driven::ruleset(files.collect())
}

/// What DuckDB says of each customer with an order.
fn expected() -> BTreeMap<String, Labels> {
    let file = std::fs::File::open("tests/cdc/expected.csv.gz").unwrap();
    let mut rows = csv::Reader::from_reader(flate2::read::GzDecoder::new(file));
    let header: Vec<String> = rows.headers().unwrap().iter().map(str::to_owned).collect();
    let labels = |row: &csv::StringRecord| {
        let cells = header.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty());
        cells.map(|(tag, cell)| (tag.clone(), cell.to_owned())).collect()
    };
    rows.records().map(|row| row.unwrap()).map(|r| (r[0].to_owned(), labels(&r))).collect()
}

/// Feeds the log in small windows; one in `restart_in` windows the engine stops and goes on.
fn feed(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    lines: &[String],
    numbers: &mut Numbers,
    bytes_max: usize,
) {
    let shards = 1 + numbers.index(4);
    let mut driver = Driver::open(ruleset, store, shards, bytes_max);
    let (mut at, mut covered) = (0, 0);
    while at < lines.len() {
        let to = lines.len().min(at + 1 + numbers.index(4_000));
        assert_eq!(driver.feed(0, &lines[at..to].concat(), None), 0, "rows refused");
        at = to;
        if numbers.below(3) == 0 {
            driver.engine.close(AS_OF_MS, false).unwrap();
            covered = at;
        }
        if numbers.below(12) == 0 {
            drop(driver);
            driver = Driver::open(ruleset, store, shards, bytes_max);
            // The source may go back further than the store needs.
            at = covered - numbers.index(covered.min(2_000) + 1);
        }
    }
    driver.engine.close(AS_OF_MS, false).unwrap();
    driver.engine.drain(AS_OF_MS).unwrap();
}

fn check(ruleset: &Ruleset, store: &dyn Store) {
    let expected = expected();
    let stored = driven::stored(store, ruleset);
    let nobody: Labels = [
        ("t_orders_7d", "0"),
        ("t_orders_90d", "0"),
        ("t_orders_lifetime", "0"),
        ("t_spend_30d", "0.00"),
        ("t_spend_lifetime", "0.00"),
        ("t_spend_30d_before", "0.00"),
        ("t_categories", "0"),
    ]
    .map(|(tag, value)| (tag.to_owned(), value.to_owned()))
    .into();
    for (uid, want) in &expected {
        assert_eq!(&stored[uid].labels, want, "customer {uid} (left: tagloom, right: DuckDB)");
    }
    for (uid, have) in stored.iter().filter(|(uid, _)| !expected.contains_key(*uid)) {
        assert_eq!(have.labels, nobody, "customer {uid} has no order");
    }
    assert!(expected.len() > 1_000, "{} customers", expected.len());
}

#[test]
fn every_customer_is_what_duckdb_says_of_the_final_table() {
    let ruleset = ruleset();
    let (log, _) = history();
    let mut first: Option<Vec<String>> = None;
    for seed in 0..4 {
        let mut numbers = Numbers(seed);
        let mut lines = log.clone();
        if seed > 0 {
            lines.extend(log.iter().filter(|_| numbers.below(5) == 0).cloned());
            numbers.shuffle(&mut lines);
        }
        let dir = tempfile::tempdir().unwrap();
        let (identity, options) = (driven::identity(&ruleset), FjallOptions::default());
        let store = FjallStore::open(&dir.path().join("store"), &identity, &options).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        // Half of them with so little memory that customers leave it after each window.
        let bytes_max = if seed % 2 == 0 { usize::MAX } else { 100_000 };
        feed(&ruleset, &store, &lines, &mut numbers, bytes_max);
        check(&ruleset, store.as_ref());
        let dump = canonical::dump(store.as_ref(), &ruleset, AS_OF_MS).unwrap();
        let first = first.get_or_insert_with(|| dump.clone());
        let differs = first.iter().zip(&dump).find(|(a, b)| a != b);
        assert_eq!(differs, None, "shuffle {seed}");
        assert_eq!(first.len(), dump.len(), "shuffle {seed}");
    }
}

/// The catalogue with the table's changes in a format of a change data capture tool; `seq`: where
/// the envelope holds the version.
fn enveloped(format: &str, seq: &str) -> Arc<Ruleset> {
    let stream = |text: &str| {
        text.replace(
            "orders.jsonl}",
            &format!("orders.jsonl, format: {format}, table: shop.orders}}"),
        )
        .replace("  op: string\n", "")
        .replace("seq: int", &format!("seq: {{type: int, envelope: {seq}}}"))
        .replace("operation: {column: op, insert: [c, r], update: u, delete: d}\n", "")
        .replace("before: before\n", "")
    };
    let files = CATALOG.iter().map(|(path, text)| match *path {
        "streams/orders.yaml" => ((*path).to_owned(), stream(text)),
        _ => ((*path).to_owned(), (*text).to_owned()),
    });
    driven::ruleset(files.collect())
}

#[test]
fn envelopes_of_every_tool_give_what_json_lines_give() {
    let (log, _) = changes();
    let json = ruleset();
    let as_json: Vec<String> = log.iter().map(Change::json).collect();
    let dump = |ruleset: &Arc<Ruleset>, mut lines: Vec<String>, seed: u64| {
        let mut numbers = Numbers(seed);
        lines.extend(lines.iter().filter(|_| numbers.below(5) == 0).cloned().collect::<Vec<_>>());
        numbers.shuffle(&mut lines);
        let store = driven::memory(ruleset);
        feed(ruleset, &store, &lines, &mut numbers, usize::MAX);
        check(ruleset, store.as_ref());
        canonical::dump(store.as_ref(), ruleset, AS_OF_MS).unwrap()
    };
    let expected = dump(&json, as_json, 1);
    let log = &log;
    let lines = |written: fn(&Change) -> String| log.iter().map(written).collect::<Vec<_>>();
    for (format, seq, lines) in [
        ("debezium", "source.pos", lines(Change::debezium)),
        ("maxwell", "xid", lines(Change::maxwell)),
        ("canal", "id", lines(Change::canal)),
    ] {
        let ruleset = enveloped(format, seq);
        let have = dump(&ruleset, lines, 2);
        let differs = expected.iter().zip(&have).find(|(a, b)| a != b);
        assert_eq!(differs, None, "{format}");
        assert_eq!(expected.len(), have.len(), "{format}");
    }
}

#[test]
fn the_running_engine_says_the_same() {
    let ruleset = ruleset();
    let (mut lines, _) = history();
    Numbers(7).shuffle(&mut lines);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.jsonl");
    std::fs::write(&path, lines.concat()).unwrap();
    let store = driven::memory(&ruleset);
    let source = support::json_file(&path, &[0]);
    let mut options = support::options(&ruleset, &store, Clock::Fixed(AS_OF_MS), vec![source]);
    options.limits.close_ms = 20;
    let report = tagloom::engine::run(options, &mut |_| {}).unwrap();
    assert_eq!((report.rows, report.rejected_rows), (CHANGES as u64, 0));
    assert!(report.windows > 3, "{} windows", report.windows);
    let counts = &report.folds.counts;
    let totals = &report.totals.streams["orders"];
    assert_eq!((counts.changed, counts.left_out), (0, 0));
    assert!(totals.moved > 5_000 && counts.older > 1_000, "{totals:?} {counts:?}");
    check(&ruleset, store.as_ref());
}

#[test]
#[ignore = "writes the table that cdc/expected.sql reads"]
fn write_the_final_table() {
    let (log, table) = history();
    assert_eq!(log.len(), CHANGES);
    let mut csv = String::from("shop,number,customer,at_ms,amount,category,paid,status\n");
    for row in table {
        let (amount, cents) = (row.cents / 100, row.cents % 100);
        let category = row.category().unwrap_or("");
        let status = if row.draft { "draft" } else { "placed" };
        writeln!(
            csv,
            "s{},{},{},{},{amount}.{cents:02},{category},{},{status}",
            row.shop, row.number, row.customer, row.at_ms, row.paid
        )
        .unwrap();
    }
    std::fs::create_dir_all("target").unwrap();
    std::fs::write("target/cdc_table.csv", csv).unwrap();
}
