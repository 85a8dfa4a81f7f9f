use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{DictionaryArray, Int32Array, Int64Array};
use arrow::datatypes::{Field, Int32Type, Schema};
use proptest::prelude::*;

use arrow::array::{
    AsArray, BooleanArray, Date32Array, Float64Array, StringArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::columns::plain;
use super::*;
use crate::catalog::model::{Catalog, Domain, Tag, UidType, timestamp_type};
use crate::catalog::place::{Diagnostics, Place as FilePlace};
use crate::catalog::sql_text::SqlText;
use crate::catalog::terms::{Terms, Validity};
use crate::clock::Zone;
use crate::rule::plan::InputField;
use crate::rule::safe::SafeExpr;
use crate::rule::sql::{AS_OF, AS_OF_DATE, Scope, ScopeKind, compile, labels};

const DAY_MS: i64 = 86_400_000;
const TODAY: Day = 20_000;
const ZONE: &str = "America/New_York";

fn text_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn inputs(zone: &Zone) -> Vec<InputField> {
    [
        ("i", DataType::Int64),
        ("j", DataType::Int64),
        ("u", DataType::UInt64),
        ("f", DataType::Float64),
        ("d", DataType::Decimal128(38, 3)),
        ("e", DataType::Decimal128(38, 3)),
        ("b", DataType::Boolean),
        ("s", text_type()),
        ("t", text_type()),
        ("at", timestamp_type(zone)),
        ("day", DataType::Date32),
    ]
    .map(|(name, data_type)| InputField { name: name.to_owned(), data_type, rolling: name == "j" })
    .to_vec()
}

/// A catalogue of tags `t0`, `t1`, ... with these expressions; each may read those before it.
fn catalog(sql: &[&str]) -> Catalog {
    let zone = Zone::new(ZONE).unwrap();
    let params = BTreeMap::new();
    let plain = |t: &DataType| if *t == text_type() { DataType::Utf8 } else { t.clone() };
    let mut columns: Vec<(String, DataType)> =
        inputs(&zone).iter().map(|i| (i.name.clone(), plain(&i.data_type))).collect();
    let mut tags = Vec::new();
    for (at, sql) in sql.iter().enumerate() {
        let scope = Scope { columns: &columns, params: &params, zone: &zone, kind: ScopeKind::Tag };
        let mut out = Diagnostics::default();
        let text = SqlText::opaque(*sql, FilePlace::default());
        let expr = compile(&text, &scope, &mut out).unwrap_or_else(|| panic!("{sql}: {out:?}"));
        let domain = match (&expr.data_type, labels(&expr)) {
            (DataType::Boolean, _) => {
                Domain::Closed { labels: vec!["false".into(), "true".into()], bool: true }
            }
            (_, Some(labels)) => Domain::Closed { labels, bool: false },
            (data_type, None) => Domain::Open(data_type.clone()),
        };
        let name = format!("t{at}");
        columns.push((name.clone(), expr.data_type.clone()));
        tags.push(Tag {
            name,
            doc: String::new(),
            owner: String::new(),
            group: String::new(),
            meta: BTreeMap::new(),
            expr,
            domain,
            id: String::new(),
            was: Vec::new(),
            terms: Terms::default(),
            place: FilePlace::default(),
        });
    }
    Catalog {
        name: "test".to_owned(),
        uid: UidType::U64,
        zone,
        allowed_lateness_ms: 0,
        max_ahead_ms: 0,
        exact_values_max: 1,
        params,
        streams: Vec::new(),
        dimensions: Vec::new(),
        features: Vec::new(),
        tag_order: (0..tags.len()).collect(),
        tags,
        closed: None,
        cases: Vec::new(),
        removed: Vec::new(),
        fingerprint: 0,
    }
}

/// Every tag as text, by tag and row, from the engine.
fn shown(plan: &Plan, catalog: &Catalog, batch: &TagBatch) -> Vec<Vec<Option<String>>> {
    let mut shown = vec![Vec::new(); catalog.tags.len()];
    for (at, tag) in plan.closed_tags().iter().enumerate() {
        let Domain::Closed { labels, .. } = &catalog.tags[*tag].domain else { unreachable!() };
        shown[*tag] = (0..batch.rows)
            .map(|row| plan.packing().get(batch.codes_of(row), at))
            .map(|code| usize::from(code).checked_sub(1).map(|at| labels[at].clone()))
            .collect();
    }
    for (at, tag) in plan.open_tags().iter().enumerate() {
        shown[*tag] = texts(&batch.open[at]);
    }
    shown
}

fn texts(array: &ArrayRef) -> Vec<Option<String>> {
    let is_instant = matches!(array.data_type(), DataType::Timestamp(..));
    // Instants beyond the calendar have no text.
    let array = if is_instant { cast(array, &DataType::Int64).unwrap() } else { array.clone() };
    let array = cast(&array, &DataType::Utf8).unwrap();
    array.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect()
}

/// The same from DataFusion alone, a tag after the other over plain columns.
fn expected(catalog: &Catalog, columns: &[ArrayRef], rows: usize) -> Vec<Vec<Option<String>>> {
    let zone = &catalog.zone;
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (input, array) in inputs(zone).iter().zip(columns) {
        let array = plain(array);
        fields.push(Field::new(&input.name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let as_of = as_of(zone);
    fields.push(Field::new(AS_OF, timestamp_type(zone), true));
    let instants = TimestampMillisecondArray::from_value(as_of.ms, rows);
    arrays.push(Arc::new(instants.with_data_type(timestamp_type(zone))));
    fields.push(Field::new(AS_OF_DATE, DataType::Date32, true));
    arrays.push(Arc::new(Date32Array::from_value(as_of.day, rows)));
    let mut all = Vec::new();
    for tag in &catalog.tags {
        let schema = Arc::new(Schema::new(fields.clone()));
        let batch = RecordBatch::try_new(schema.clone(), arrays.clone()).unwrap();
        let value = SafeExpr::new(&tag.expr, &schema).unwrap().evaluate(&batch).array;
        all.push(texts(&value));
        fields.push(Field::new(&tag.name, value.data_type().clone(), true));
        arrays.push(value);
    }
    all
}

fn as_of(zone: &Zone) -> AsOf {
    AsOf { ms: zone.day_start_ms(TODAY) + DAY_MS / 2, day: TODAY }
}

fn dictionary(keys: Vec<Option<i32>>) -> ArrayRef {
    let values: StringArray =
        [Some("a"), Some(""), None, Some("B"), Some("k3"), Some("A")].into_iter().collect();
    Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from(keys), Arc::new(values)))
}

const SHAPES: &[&str] = &[
    // bands
    "CASE WHEN i IS NULL THEN 'none' WHEN i < 1 THEN 'low' WHEN i < 3 THEN 'mid' ELSE 'top' END",
    "CASE WHEN i < 0 THEN 'a' WHEN i < 1 THEN 'b' WHEN i < 2 THEN 'c' WHEN i < 3 THEN 'd' WHEN i < 10 THEN 'e' WHEN i < 100 THEN 'f' WHEN i < 1000 THEN 'g' WHEN i < 10000 THEN 'h' WHEN i < 100000 THEN 'i' ELSE 'j' END",
    "CASE WHEN i >= 5 THEN 'a' WHEN i > 2 THEN 'b' WHEN i = 1 THEN 'one' ELSE 'c' END",
    "CASE WHEN u < 3 THEN 'a' WHEN u < 9223372036854775808 THEN 'b' ELSE 'c' END",
    "CASE WHEN u > -1 THEN 'a' WHEN u IS NULL THEN 'none' ELSE 'b' END",
    "CASE WHEN f IS NULL THEN 'none' WHEN f < 0 THEN 'neg' WHEN f <= 0 THEN 'zero' WHEN f < 2.5 THEN 'some' ELSE 'lots' END",
    "CASE WHEN d < 0.0005 THEN 'a' WHEN d < 50 THEN 'b' WHEN d < 200.125 THEN 'c' ELSE 'd' END",
    "CASE WHEN i < 0.5 THEN 'a' WHEN i <= 2.5 THEN 'b' ELSE 'c' END",
    "CASE WHEN at < TIMESTAMP '2024-10-01 00:00:00' THEN 'old' ELSE 'new' END",
    "CASE WHEN day < DATE '2024-10-01' THEN 'old' ELSE 'new' END",
    // recency
    "CASE WHEN at IS NULL THEN 'none' WHEN days_since(at) < 1 THEN 'today' WHEN days_since(at) < 7 THEN 'week' ELSE 'old' END",
    "CASE WHEN days_since(at) IS NULL THEN 'none' WHEN days_since(at) < 1 THEN 'today' WHEN days_since(at) < 7 THEN 'week' ELSE 'old' END",
    "CASE WHEN days_since(day) < 1.5 THEN 'today' WHEN days_since(day) < 30 THEN 'month' END",
    "days_since(at) BETWEEN 14 AND 60",
    "i > 2 AND NOT days_since(at) BETWEEN -3 AND 2",
    // ratios
    "CASE WHEN i IS NULL OR COALESCE(j, 0) <= 0 THEN 'none' WHEN i * 1000 < 1 * j THEN 'zero' WHEN i * 1000 < 100 * j THEN 'low' WHEN i * 1000 < 600 * j THEN 'main' ELSE 'all' END",
    "CASE WHEN i IS NULL OR j IS NULL OR j <= 0 THEN 'none' WHEN i < 0.1 * j THEN 'a' WHEN i < 2 * j THEN 'b' ELSE 'c' END",
    "CASE WHEN d IS NULL OR j IS NULL OR j <= 0 THEN 'none' WHEN d < 0.1 * j THEN 'a' WHEN d < 2.55 * j THEN 'b' ELSE 'c' END",
    "CASE WHEN d IS NULL OR e IS NULL OR e <= 0 THEN 'none' WHEN d < 0.1 * e THEN 'a' WHEN d < 0.12345 * e THEN 'b' ELSE 'c' END",
    // flags
    "i = 0 AND j >= 1",
    "CASE WHEN i = 0 AND j >= 1 THEN 'y' ELSE 'n' END",
    "NOT (i = 0 OR j < 2 OR b)",
    "i IN (1, 2) OR j NOT IN (0, 1, 2, 3) OR i IS NULL",
    "CASE WHEN s IN ('a', 'k3') AND NOT b OR i BETWEEN 1 AND 2 THEN 'y' ELSE 'n' END",
    "b IS NOT TRUE AND i > 1",
    "(i > 1) IS NOT DISTINCT FROM b AND j < 3",
    "i < j",
    "i >= j AND d <> e",
    "u > i OR i > d",
    "f < f OR f = 0 OR f >= 0.5",
    "s IS DISTINCT FROM 'a' AND i IS DISTINCT FROM 1",
    "i NOT BETWEEN 1 AND 2 AND j > 0",
    "coalesce(i, 5) > 2 AND coalesce(j, 0) < 2",
    "CASE WHEN i > 1 THEN b WHEN j > 1 THEN true END",
    "CASE WHEN i > 1 THEN CASE WHEN j > 1 THEN 'a' END WHEN b THEN 'c' ELSE 'd' END",
    "i > 0 AND NULL",
    "s = t AND i > 0",
    // maps
    "CASE WHEN s IN ('a', 'B') THEN 'x' WHEN s = 'k3' THEN 'y' ELSE 'other' END",
    "CASE s WHEN 'a' THEN 'x' WHEN '' THEN 'empty' END",
    "CASE WHEN upper(s) = 'A' THEN 'x' WHEN s LIKE 'k%' THEN 'k' ELSE coalesce(CASE WHEN t = 'a' THEN 'ta' END, 'z') END",
    "CASE i WHEN 1 THEN 'one' WHEN 2 THEN 'two' WHEN 7 THEN 'seven' ELSE 'x' END",
    "s IS NULL OR upper(s) = 'A'",
    // tags over tags
    "t0 = 'mid' AND i > 0",
    "CASE WHEN t19 AND t0 IN ('low', 'mid') THEN 'yes' WHEN NOT t19 THEN 'no' END",
    "t42 AND t43 = 'yes'",
    // no kernel
    "i + j > 3",
    "i / j",
    "upper(s)",
    "CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END",
    "t47 = 'A' OR t46 > 1",
    "CAST(s AS int) > 3 OR i > 2",
    "d * 2",
    "at",
    "at > as_of - INTERVAL '30 days'",
];

/// Shapes that the plan may leave to DataFusion.
const WITHOUT_KERNEL: &[&str] = &[
    "(i > 1) IS NOT DISTINCT FROM b AND j < 3",
    "s = t AND i > 0",
    "i + j > 3",
    "i / j",
    "upper(s)",
    "CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END",
    "t47 = 'A' OR t46 > 1",
    "CAST(s AS int) > 3 OR i > 2",
    "d * 2",
    "at",
    "at > as_of - INTERVAL '30 days'",
];

#[test]
fn common_shapes_have_kernels() {
    let catalog = catalog(SHAPES);
    let plan = Plan::compile(&catalog, &inputs(&catalog.zone)).unwrap();
    let without: Vec<&str> = plan.without_kernel().iter().map(|t| SHAPES[*t]).collect();
    assert_eq!(without, WITHOUT_KERNEL);
    let unbounded: Vec<&str> = plan.unbounded_in_time().iter().map(|t| SHAPES[*t]).collect();
    assert_eq!(unbounded, ["at > as_of - INTERVAL '30 days'"]);
}

fn nullable<T: std::fmt::Debug + Clone>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![1 => Just(None), 5 => of.prop_map(Some)]
}

fn ints(extreme: bool) -> BoxedStrategy<i64> {
    let edges =
        prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(1 << 53), Just(i64::from(i32::MAX))];
    if extreme {
        prop_oneof![4 => -3..12_i64, 1 => edges].boxed()
    } else {
        prop_oneof![4 => -3..12_i64, 1 => -2_000_000..2_000_000_i64].boxed()
    }
}

fn floats() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f64::NAN),
        Just(-f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(2.5),
        Just(0.5),
        -3.0..3.0_f64
    ]
}

fn decimals(extreme: bool) -> BoxedStrategy<i128> {
    let usual = prop_oneof![-10..300_000_i128, Just(200_125), Just(50_000)];
    if extreme {
        prop_oneof![5 => usual, 1 => Just(10_i128.pow(37)), 1 => Just(-(10_i128.pow(25)))].boxed()
    } else {
        usual.boxed()
    }
}

fn instants() -> impl Strategy<Value = i64> {
    let noon = i64::from(TODAY) * DAY_MS;
    prop_oneof![
        8 => noon - 100 * DAY_MS..noon + 10 * DAY_MS,
        1 => Just(i64::MAX),
        1 => Just(i64::MIN),
        1 => -DAY_MS..DAY_MS
    ]
}

fn column<T: std::fmt::Debug + Clone + 'static>(
    rows: usize,
    of: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Vec<Option<T>>> {
    prop_oneof![
        4 => proptest::collection::vec(nullable(of), rows),
        1 => Just(vec![None; rows])
    ]
    .boxed()
}

fn batches() -> impl Strategy<Value = Vec<ArrayRef>> {
    (0..40_usize, any::<bool>()).prop_flat_map(|(rows, extreme)| {
        let numbers = (
            column(rows, ints(extreme)),
            column(rows, ints(extreme)),
            column(rows, prop_oneof![0..5_u64, Just(u64::MAX), Just(1 << 63)]),
            column(rows, floats()),
            column(rows, decimals(extreme)),
            column(rows, decimals(extreme)),
        );
        let others = (
            column(rows, any::<bool>()),
            column(rows, 0..6_i32),
            column(rows, 0..6_i32),
            column(rows, instants()),
            column(rows, TODAY - 50..TODAY + 5),
        );
        (numbers, others).prop_map(|((i, j, u, f, d, e), (b, s, t, at, day))| {
            let decimal = |v: Vec<Option<i128>>| -> ArrayRef {
                let array = arrow::array::Decimal128Array::from(v);
                Arc::new(array.with_precision_and_scale(38, 3).unwrap())
            };
            let zone = Zone::new(ZONE).unwrap();
            let at = TimestampMillisecondArray::from(at).with_data_type(timestamp_type(&zone));
            let arrays: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(i)),
                Arc::new(Int64Array::from(j)),
                Arc::new(arrow::array::UInt64Array::from(u)),
                Arc::new(Float64Array::from(f)),
                decimal(d),
                decimal(e),
                Arc::new(BooleanArray::from(b)),
                dictionary(s),
                dictionary(t),
                Arc::new(at),
                Arc::new(Date32Array::from(day)),
            ];
            arrays
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_gives_what_datafusion_gives(batches in proptest::collection::vec(batches(), 1..3)) {
        let catalog = catalog(SHAPES);
        let plan = Plan::compile(&catalog, &inputs(&catalog.zone)).unwrap();
        let (mut scratch, mut out) = (Scratch::default(), TagBatch::default());
        for columns in batches {
            let rows = columns[0].len();
            plan.evaluate_into(&columns, rows, as_of(&catalog.zone), &[], &mut scratch, &mut out);
            let got = shown(&plan, &catalog, &out);
            let expected = expected(&catalog, &columns, rows);
            for (tag, (got, expected)) in got.iter().zip(&expected).enumerate() {
                prop_assert_eq!(got, expected, "t{}: {}", tag, SHAPES[tag]);
            }
        }
    }
}

/// Due days (relative to today; "-" = never) of one tag over days since `at`, `day` and a row
/// without either.
fn check_due(sql: &str, since: &[i64], expect: &[&str]) {
    let catalog = catalog(&[sql]);
    let zone = &catalog.zone;
    let plan = Plan::compile(&catalog, &inputs(zone)).unwrap();
    let noon = |ago: i64| zone.day_start_ms(TODAY - Day::try_from(ago).unwrap()) + DAY_MS / 2;
    let rows = since.len() + 1;
    let at = since.iter().map(|ago| Some(noon(*ago))).chain([None]);
    let at = TimestampMillisecondArray::from_iter(at).with_data_type(timestamp_type(zone));
    let columns: Vec<ArrayRef> = plan
        .inputs()
        .iter()
        .map(|i| match i.name.as_str() {
            "at" => Arc::new(at.clone()),
            _ => new_null_array(&i.data_type, rows),
        })
        .collect();
    let out = plan.evaluate(&columns, rows, as_of(zone));
    let got: Vec<String> = out
        .due_days
        .iter()
        .map(|d| if *d == NEVER { "-".to_owned() } else { (d - TODAY).to_string() })
        .collect();
    assert_eq!(got, expect, "{sql}");
    // What is due is right: nothing changes before, and (with one tag) something does on the day.
    for (row, due) in out.due_days.iter().enumerate().filter(|(_, d)| **d != NEVER) {
        let label = |day: Day| {
            let as_of = AsOf { ms: zone.day_start_ms(day), day };
            plan.packing().get(plan.evaluate(&columns, rows, as_of).codes_of(row), 0)
        };
        assert!((TODAY..*due).all(|day| label(day) == label(TODAY)), "{sql} row {row}");
    }
}

#[test]
fn due_days_are_the_next_cut_of_an_age() {
    let bands = "CASE WHEN days_since(at) < 1 THEN 'today' WHEN days_since(at) < 7 THEN 'week' ELSE 'old' END";
    check_due(bands, &[0, 1, 6, 7, -3, 100], &["1", "6", "1", "-", "4", "-", "-"]);
    check_due(
        "days_since(at) BETWEEN 14 AND 60",
        &[0, 13, 14, 60, 61],
        &["14", "1", "47", "1", "-", "-"],
    );
    check_due("NOT days_since(at) > 3 AND i > 1", &[0, 3, 4], &["4", "1", "-", "-"]);
    check_due("days_since(at) = 5 OR i > 1", &[0, 4, 5, 6], &["5", "1", "1", "-", "-"]);
    check_due("i > 1", &[0], &["-", "-"]);
}

#[test]
fn what_cannot_be_bounded_is_due_tomorrow() {
    check_due("days_since(at) * 2 > 7", &[0, 9], &["1", "1", "1"]);
    check_due("days_since(at) > i", &[0], &["1", "1"]);
    check_due("CAST(at AS date) = as_of_date", &[0, 1], &["1", "1", "1"]);
}

#[test]
fn the_instant_beside_a_rolling_feature_is_due_in_the_next_hop() {
    // Here `j` is rolling.
    let check = |shapes: &[&str], soon: bool| {
        let catalog = catalog(shapes);
        let plan = Plan::compile(&catalog, &inputs(&catalog.zone)).unwrap();
        let columns: Vec<ArrayRef> =
            plan.inputs().iter().map(|i| new_null_array(&i.data_type, 1)).collect();
        let as_of = as_of(&catalog.zone);
        let due = plan.evaluate(&columns, 1, as_of).due_hop;
        let next = crate::clock::hop_of(as_of.ms) + 1;
        assert_eq!(due, if soon { next } else { crate::clock::Hop::MAX }, "{shapes:?}");
    };
    check(&["at < as_of AND j > 1"], true);
    check(&["at < as_of", "t0 AND j > 1"], true);
    check(&["at < as_of", "j > 1"], false);
    check(&["at < as_of AND i > 1"], false);
    check(&["CAST(at AS date) = as_of_date AND j > 1"], false);
}

#[test]
fn failures_are_counted_per_tag() {
    let catalog = catalog(&["i > 1", "i / j > 0", "CAST(s AS int) = 3"]);
    let plan = Plan::compile(&catalog, &inputs(&catalog.zone)).unwrap();
    let rows = 2000; // more than a chunk
    let columns: Vec<ArrayRef> = plan
        .inputs()
        .iter()
        .map(|input| -> ArrayRef {
            match input.name.as_str() {
                "i" => Arc::new(Int64Array::from_iter_values(0..2000)),
                "j" => Arc::new(Int64Array::from_iter_values((0..2000).map(|v| v % 500))),
                _ => new_null_array(&input.data_type, rows),
            }
        })
        .collect();
    let out = plan.evaluate(&columns, rows, as_of(&catalog.zone));
    assert_eq!(out.failed, [(1, 4)]);
    let code = |row: usize, tag: usize| plan.packing().get(out.codes_of(row), tag);
    assert_eq!([code(0, 0), code(1, 0), code(2, 0), code(1999, 0)], [1, 1, 2, 2]);
    assert_eq!([code(500, 1), code(1, 1), code(1999, 1), code(7, 2)], [0, 2, 2, 0]);
}

/// Tags of all kinds, one after the other by one scratch: what it holds from another instant does
/// not show.
#[test]
fn a_tag_has_no_value_outside_of_its_validity() {
    let mut catalog = catalog(&[
        "CASE WHEN i IS NULL THEN 'none' WHEN i < 1 THEN 'low' ELSE 'top' END",
        "i + 1",
        "CASE WHEN upper(s) = 'A' THEN 'a' WHEN i > 0 THEN 'b' ELSE 'c' END",
        "CASE WHEN t0 IS NULL THEN 'gone' ELSE t0 END",
        "t1 IS NULL",
    ]);
    let as_of = as_of(&catalog.zone);
    let valid = |from: i64, until: i64| Validity {
        from_ms: Some(as_of.ms + from),
        until_ms: Some(as_of.ms + until),
    };
    for tag in 0..3 {
        catalog.tags[tag].terms.valid = valid(0, 60_000);
    }
    let plan = Plan::compile(&catalog, &inputs(&catalog.zone)).unwrap();
    let rows = 3;
    let i: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(5), None]));
    let columns: Vec<ArrayRef> = inputs(&catalog.zone)
        .iter()
        .map(|input| match input.name.as_str() {
            "i" => Arc::clone(&i),
            "s" | "t" => dictionary(vec![Some(0), Some(3), None]),
            _ => new_null_array(&input.data_type, rows),
        })
        .collect();
    let mut scratch = Scratch::default();
    let mut batch = TagBatch::default();
    for (after_ms, holds, next) in [
        (0, true, Some(60_000)),
        (-1, false, Some(0)),
        (59_999, true, Some(60_000)),
        (60_000, false, None),
    ] {
        let at = AsOf { ms: as_of.ms + after_ms, day: as_of.day };
        plan.evaluate_into(&columns, rows, at, &[], &mut scratch, &mut batch);
        let shown = shown(&plan, &catalog, &batch);
        let [t0, t1, t2, t3, t4] = [0, 1, 2, 3, 4].map(|t| shown[t][1].as_deref());
        let of = |value: &'static str| holds.then_some(value);
        assert_eq!([t0, t1, t2], [of("top"), of("6"), of("b")], "{after_ms} ms after");
        assert_eq!(
            [t3, t4],
            if holds { [Some("top"), Some("false")] } else { [Some("gone"), Some("true")] }
        );
        assert_eq!(plan.next_edge_ms(at.ms), next.map(|next| as_of.ms + next));
    }
}
