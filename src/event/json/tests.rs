//! The quick reader gives what the strict one gives, and reads what it is there for.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::event::column::{TextUse, Values};

/// Columns of every type; `both` feeds three, as it does when several streams read a file.
fn columns() -> Vec<Column> {
    let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
    let of = |from: &str, kind: ColumnType| Column::new(from, &kind, TextUse::Dictionary);
    let text = |from: &str, text_use| Column::new(from, &ColumnType::String, text_use);
    vec![
        text("id", TextUse::Hash),
        of("uid", ColumnType::U64),
        of("ts", ColumnType::Timestamp(TimestampFormat::Millis)),
        text("unread", TextUse::Unread),
        of("count", ColumnType::Int),
        of("price", decimal(9, 2)),
        of("exact", decimal(18, 6)),
        of("ratio", ColumnType::Float),
        of("flag", ColumnType::Bool),
        of("day", ColumnType::Date),
        of("iso", ColumnType::Timestamp(TimestampFormat::Iso)),
        of("seconds", ColumnType::Timestamp(TimestampFormat::Seconds)),
        of("micros", ColumnType::Timestamp(TimestampFormat::Micros)),
        text("kind", TextUse::Dictionary),
        text("user", TextUse::Plain),
        of("both", ColumnType::U64),
        of("both", ColumnType::Float),
        text("both", TextUse::Dictionary),
        text("naïve", TextUse::Dictionary),
        of("uid", ColumnType::U64).within(Some("before")),
        of("count", ColumnType::Int).within(Some("before")),
        text("kind", TextUse::Dictionary).within(Some("before")),
    ]
}

const NAMES: &[&str] = &[
    "id",
    "uid",
    "ts",
    "unread",
    "count",
    "price",
    "exact",
    "ratio",
    "flag",
    "day",
    "iso",
    "seconds",
    "micros",
    "kind",
    "user",
    "both",
    "naïve",
    "before",
    "more",
    "other key",
    "",
];

/// All that a column says of its rows.
fn cells(column: &Column) -> Vec<String> {
    let shown = |at: usize| match &column.values {
        Values::U64(v) | Values::Hash(v) => v[at].to_string(),
        Values::I64(v) => v[at].to_string(),
        Values::F64(v) => format!("{:x}", v[at].to_bits()),
        Values::Bool(v) => v[at].to_string(),
        Values::Date(v) => v[at].to_string(),
        Values::Text(v, dictionary) => format!("{:?}", dictionary.text(v[at] as usize)),
        Values::Plain(v) => v[at].to_string(),
        Values::Unread => String::new(),
    };
    let row = |at| format!("{} {}", column.valid.holds(at), shown(at));
    (0..column.len()).map(row).chain([format!("{:?} {:?}", column.errors, column.absent)]).collect()
}

fn all_cells(columns: &[Column]) -> Vec<Vec<String>> {
    columns.iter().map(cells).collect()
}

/// Reads a block's lines as the decoder does, and by the strict reader alone. Returns how many lines
/// the quick one read.
fn check(block: &[u8]) -> usize {
    let zone = Zone::new("Europe/London").unwrap();
    let (mut quick, mut strict) = (columns(), columns());
    let (mut keys, mut strict_keys) = (Keys::new(&quick), Keys::new(&strict));
    let (mut start, mut plain) = (0, 0);
    while start < block.len() {
        let end = memchr::memchr(b'\n', &block[start..]).map_or(block.len(), |at| start + at);
        let line = &block[start..end];
        let shown = String::from_utf8_lossy(line);
        let expected = read_line(line, &mut strict, &mut strict_keys, &zone);
        let got = read_plain_line(block, start, &mut quick, &mut keys, &zone);
        match got {
            Some(read_to) => {
                assert_eq!(expected, Ok(()), "read, though it is refused: {shown}");
                assert_eq!(read_to, end, "{shown}");
                plain += 1;
            }
            None => assert_eq!(read_line(line, &mut quick, &mut keys, &zone), expected, "{shown}"),
        }
        assert_eq!(all_cells(&quick), all_cells(&strict), "{shown}");
        start = end + 1;
    }
    plain
}

/// Values at the borders of what is plain, of what a type holds, and of JSON.
const ODD: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "007",
    "1.",
    ".5",
    "-",
    "+1",
    "1e3",
    "1E-2",
    "0.0",
    "-0.0",
    "12345678",
    "123456789",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "99999999999999999999",
    "1764593208575",
    "253402207200000",
    "-377705116800001",
    "0.1",
    "2.50",
    "2.505",
    "1234567.89",
    "12345678.9",
    "0.30000000000000004",
    "123456789012345.678901",
    "999999999999.999999",
    "1e400",
    "nul",
    "tru",
    "nullx",
    "\"\"",
    "\"k12\"",
    "\"a\\\"b\"",
    "\"\\u00e9\"",
    "\"é\"",
    "\"2011-12-09\"",
    "\"2011-02-30\"",
    "\"2011-07-01T08:26:00\"",
    "\"2011-07-01T08:26:00Z\"",
    "\"tab\t\"",
    "\"seven77\"",
    "\"eight888\"",
    "\"nine99999\"",
    "\"sixteen 16161616\"",
    "{}",
    "[]",
    "{\"a\":[1,{}]}",
    "{\"uid\":7}",
    "{ \"count\" : -2,\"kind\":\"k12\", \"uid\":null }",
    "{\"kind\":\"é\",\"more\":[1],\"kind\":\"b\"}",
    "{\"uid\":-1,\"kind\":5}",
    "[[[[[[]]]]]]",
    "\"",
    "",
    "NaN",
    "\u{7f}",
    "\"\u{7f}\"",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(ODD).prop_map(str::to_owned),
        1 => any::<u64>().prop_map(|x| x.to_string()),
        1 => any::<i64>().prop_map(|x| x.to_string()),
        1 => any::<f64>().prop_map(|x| x.to_string()),
        1 => (-100_000i64..100_000, 0u32..8).prop_map(|(x, n)| format!("{x}.{:0n$}", 7, n = n as usize)),
        1 => "[0-9]{1,25}",
        1 => "-?[0-9]{1,17}\\.[0-9]{1,17}",
        1 => "\"[ -~]{0,20}\"",
        1 => "\"\\PC{0,9}\"",
    ]
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![19 => Just(""), 1 => select(&[" ", "\t", "\r", "  ", "\u{c}"][..])]
}

/// A value that the key's column takes.
fn fitting(name: &str, seed: u64) -> String {
    let texts = ["", "k12", "é", "seven77", "eight888", "sixteen 16161616", "nine \u{10348} 9"];
    let text = texts[usize::from(seed.to_le_bytes()[0]) % texts.len()];
    match name {
        "id" | "unread" | "kind" | "user" | "naïve" => format!("\"{text}\""),
        "uid" => (seed >> (seed % 64)).to_string(),
        "count" => (seed.cast_signed() >> (seed % 64)).to_string(),
        "ts" | "micros" => (seed % 2_000_000_000_000_000).to_string(),
        "seconds" => (seed % 300_000_000_000).to_string(),
        "price" => format!("{}.{:02}", seed % 12_000_000, seed % 100),
        "exact" => format!("-{}.{}", seed % 1_000_000, seed % 1_100_000),
        "ratio" => format!("{}.{}", seed % 1_000_000, seed % 100_000_007),
        "flag" => seed.is_multiple_of(2).to_string(),
        "day" => format!("\"20{:02}-{:02}-{:02}\"", seed % 100, seed % 12 + 1, seed % 29 + 1),
        "iso" => format!("\"2011-07-01T{:02}:26:00.5Z\"", seed % 24),
        "both" => "null".to_owned(),
        _ => format!("{}.5", seed % 1_000),
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![1 => value().prop_map(Some), 5 => Just(None)];
    let cell = (select(NAMES), value, any::<u64>(), blank(), blank(), blank());
    let cells = proptest::collection::vec(cell, 0..7);
    // Cut, one byte changed, inserted or removed; mostly none of it.
    let byte = prop_oneof![
        3 => select(&b"0123456789-.eE\"\\,:{}[] \r\0\x1f\x7f\x80\xc3"[..]),
        1 => any::<u8>(),
    ];
    let damage = (0..8u8, any::<Index>(), byte);
    (cells, blank(), damage).prop_map(|(cells, end, (damage, at, byte))| {
        let cells = cells.into_iter().map(|(name, value, seed, a, b, c)| {
            let value = value.unwrap_or_else(|| fitting(name, seed));
            format!("{a}\"{name}\"{b}:{c}{value}{a}")
        });
        let cells: Vec<String> = cells.collect();
        let mut line = format!("{end}{{{}}}{end}", cells.join(",")).into_bytes();
        let at = at.index(line.len());
        match damage {
            0 => line.truncate(at),
            1 => line[at] = byte,
            2 => line.insert(at, byte),
            3 => drop(line.remove(at)),
            _ => {}
        }
        line.retain(|b| *b != b'\n');
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_quick_reader_gives_what_the_strict_one_gives(
        lines in proptest::collection::vec(line(), 1..8),
        ends in any::<bool>(),
    ) {
        let mut block = lines.join(&b'\n');
        if ends {
            block.push(b'\n');
        }
        check(&block);
    }

    #[test]
    fn every_value_is_the_same_in_every_column(value in value()) {
        let lines = NAMES.iter().map(|name| format!("{{\"{name}\":{value}}}\n"));
        check(lines.collect::<String>().as_bytes());
    }
}

#[test]
fn plain_lines_are_read_quickly() {
    let event = r#"{"id":"c1","uid":144486,"ts":1764593208575,"unread":"o1","price":22.18,"kind":"k12","flag":true,"count":-3}"#;
    let cases = [
        (event.to_owned(), 1),
        (event.replace(',', ", ").replace(':', ": "), 1),
        (event.replace("22.18", "null"), 1),
        (event.replace("k12", "é"), 1),
        (event.replace("\"uid\":144486,", ""), 1),
        (event.replace("uid", "both"), 0),
        ("{\"flag\":false,\"new\":[]}".to_owned(), 0),
        ("{\"flag\":false,\"new\":-1.5,\"uid\":1}\r".to_owned(), 1),
        ("{\"day\":\"2011-12-09\",\"iso\":\"2011-07-01T08:26:00\",\"ratio\":0.25}".to_owned(), 1),
        ("{\"exact\":123456789012.123456,\"user\":\"u\"}".to_owned(), 1),
        ("{\"kind\":\"a\\nb\"}".to_owned(), 0),
        ("{\"uid\":1,\"uid\":2}".to_owned(), 0),
        ("{}".to_owned(), 0),
        (String::new(), 0),
    ];
    let mut block = String::new();
    for (line, plain) in &cases {
        assert_eq!(check(format!("{line}\n").as_bytes()), *plain, "{line}");
        block.push_str(line);
        block.push('\n');
    }
    assert_eq!(check(block.as_bytes()), cases.iter().map(|(_, plain)| plain).sum::<usize>());
}
