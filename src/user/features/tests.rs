//! Features merged side by side equal those computed one by one, for numbers of any size.

use arrow::array::Array;
use proptest::prelude::*;

use super::*;
use crate::catalog::load_from;
use crate::catalog::model::Catalog;
use crate::clock::Zone;
use crate::user::layout::{ValueKind, flag_at, pack_day, pack_time};
use crate::user::lineage::Lineage;
use crate::user::texts::Texts;

const STREAM: &str = "\
stream: buy
doc: Bought.
from: {file: buy.jsonl, format: json}
columns:
  id: {type: string}
  user: {type: u64}
  at: {type: timestamp(ms)}
  n: \"int?\"
  big: \"u64?\"
  f: \"float?\"
  d: \"decimal(18,2)?\"
  s: \"string?\"
  b: \"bool?\"
  day: \"date?\"
uid: user
time: at
dedupe: {by: id}
mode: append
";

const VALUES: [&str; 37] = [
    "count()",
    "sum(n)",
    "sum(big)",
    "sum(d)",
    "min(n)",
    "max(n)",
    "min(big)",
    "max(big)",
    "min(f)",
    "max(f)",
    "min(d)",
    "max(day)",
    "min(day)",
    "min(s)",
    "max(s)",
    "first(s)",
    "last(s)",
    "first(n)",
    "last(n)",
    "last(f)",
    "first(big)",
    "last(b)",
    "first_time()",
    "last_time()",
    "count(distinct s)",
    "count(distinct n)",
    "mode(s)",
    "mode(b)",
    "mode(day)",
    "mode(n, by => d)",
    "mode(s, by => big)",
    "top_k(s, 2)",
    "top_k(f, 3, by => n)",
    "top_k(n, 100)",
    "recent(s, 3)",
    "recent(big, 1)",
    "recent(d, 7)",
];

const WINDOWS: [&str; 9] =
    ["lifetime", "7d", "30d", "7d\noffset: 7d", "1d", "5m", "6h", "24h", "168h"];

fn catalog(exact_values_max: u32) -> Catalog {
    let mut features = String::new();
    let mut name = 0;
    for value in VALUES {
        for window in WINDOWS {
            for filter in ["", "where: n > 0\n", "where: s = 'a'\n"] {
                // What is new in a third of the combinations is enough.
                name += 1;
                if name % 3 == 1 && !filter.is_empty() {
                    continue;
                }
                features.push_str(&format!(
                    "---\nfeature: f{name}\ndoc: A feature.\nstream: buy\nvalue: {value}\nwindow: {window}\n{filter}"
                ));
            }
        }
    }
    let files = [
        (
            "catalog.yaml",
            format!(
                "name: t\nuid: u64\ntimezone: UTC\nallowed_lateness: 5d\n\
                 exact_values_max: {exact_values_max}\n"
            ),
        ),
        ("streams/buy.yaml", STREAM.to_owned()),
        ("features/all.yaml", features.trim_start_matches("---\n").to_owned()),
    ];
    let files = files.map(|(path, text)| (path.to_owned(), text)).to_vec();
    load_from("t", files).unwrap_or_else(|e| panic!("{e}")).catalog
}

/// A row of the layout from random bits. `tame`: numbers of which sums fit.
fn row(layout: &StateLayout, bits: &[u64], tame: bool) -> Vec<u64> {
    let stream = &layout.streams[0];
    let mut row = vec![0; stream.width];
    let day = i32::try_from(bits[0] % 60).unwrap_or(0);
    // Few instants a day, so that times are equal now and then.
    let hop = i64::try_from(bits[1] / 3 % 6 * 57).unwrap_or(0);
    let time = i64::from(day) * 86_400_000 + hop * HOP_MS + i64::try_from(bits[1] % 3).unwrap_or(0);
    row[0] = pack_time(time, 0);
    row[1] = pack_day(day);
    if let Some(id) = stream.id_word {
        row[id] = bits[2];
    }
    for (at, value) in stream.values.iter().enumerate() {
        let random = bits[3 + at % (bits.len() - 3)].rotate_left(u32::try_from(at).unwrap_or(0));
        if random.is_multiple_of(5) {
            let (word, bit) = flag_at(value.null_flag);
            row[word] |= 1 << bit;
            continue;
        }
        let word = match value.kind {
            ValueKind::Text => random % 4,
            ValueKind::Hash => random % 9,
            ValueKind::Bool => random % 2,
            ValueKind::Date => random % 40_000,
            ValueKind::Float => f64::from(u32::try_from(random % 1000).unwrap_or(0)).to_bits(),
            ValueKind::Decimal(..) => random % 1_000_000_000_000_000_000,
            _ if tame => random % 1000,
            _ => random,
        };
        row[value.word] |= word << if value.upper { 32 } else { 0 };
    }
    for filter in &stream.filters {
        let (word, bit) = flag_at(filter.flag);
        row[word] |= (bits[4] >> (filter.flag % 64) & 1) << bit;
    }
    row
}

/// Often the first or last hop in which a row of [`row`] is within a rolling span.
fn instants() -> impl Strategy<Value = i64> {
    let since = prop_oneof![Just(1_i64), Just(72), Just(288), Just(2016)];
    let hop = (20_i64..70, 0_i64..6, since, -1_i64..=0)
        .prop_map(|(day, slot, since, off)| day * 288 + slot * 57 + since + off);
    (hop, 0..HOP_MS).prop_map(|(hop, rest)| hop * HOP_MS + rest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn lanes_equal_exact_arithmetic(
        users in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(proptest::collection::vec(any::<u64>(), 9), 0..70)),
            1..70,
        ),
        as_of_ms in instants(),
        earlier_ms in prop_oneof![Just(0), 0..2 * 86_400_000_i64],
        roll_up in any::<bool>(),
        exact_values_max in prop_oneof![Just(8_u32), Just(11), Just(16_384)],
        bytes_max in proptest::option::of(0_usize..4096),
    ) {
        let catalog = catalog(exact_values_max);
        let layout = Arc::new(StateLayout::new(&catalog, &Lineage::default()).unwrap_or_else(|e| panic!("{e}")));
        let types: Vec<DataType> = catalog.features.iter().map(|f| f.data_type.clone()).collect();
        let texts = Texts::default();
        ["d", "a", "c", "b"].iter().for_each(|t| { texts.intern(t); });
        let view = texts.view();
        let utc = Zone::new("UTC").unwrap();
        let [earlier, as_of] = [as_of_ms - earlier_ms, as_of_ms]
            .map(|ms| AsOf { ms, day: utc.day_of(ms) });
        let mut batch = FeatureBatch::new(&layout, &types);
        let mut exactly = FeatureBatch::new(&layout, &types);
        for (tame, rows) in users {
            let mut state = UserState::default();
            for bits in rows {
                state.fold(&row(&layout, &bits, tame), &layout.streams[0], &layout);
            }
            let rows = state.clone();
            if let Some(bytes_max) = bytes_max {
                state.shrink(bytes_max, earlier, &layout, &view);
            }
            if roll_up {
                state.roll_up(as_of, &layout, &view);
            }
            // A tile says what its rows said.
            prop_assert_eq!(
                exact::features(&state, &layout, as_of, &view),
                exact::features(&rows, &layout, as_of, &view)
            );
            batch.push(&state, as_of, &view);
            let features = exact::features(&state, &layout, as_of, &view);
            exactly.exact.push((exactly.rows, features));
            exactly.lanes.end_user(0);
            exactly.rows += 1;
            if exactly.lanes.is_full() {
                exactly.finish_group(&view);
            }
        }
        let (columns, expect) = (batch.take(&view), exactly.take(&view));
        prop_assert_eq!(batch.overflows, exactly.overflows);
        for (at, (column, expect)) in columns.iter().zip(&expect).enumerate() {
            let feature = &catalog.features[at];
            let plain = |a: &ArrayRef| match a.data_type() {
                DataType::Dictionary(_, values) => {
                    arrow::compute::cast(a, values).unwrap_or_else(|e| panic!("{e}"))
                }
                _ => Arc::clone(a),
            };
            prop_assert_eq!(column.len(), expect.len());
            prop_assert_eq!(&plain(column), &plain(expect), "{:?}", feature);
        }
    }
}
