//! Which of a file's types become which of a catalogue's, and what is refused.

use std::sync::Arc;

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, LargeStringArray, NullArray,
    StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{Field, Int32Type};

use super::*;
use crate::event::column::TextUse;

fn decimal(precision: u8, scale: i8) -> ColumnType {
    ColumnType::Decimal { precision, scale }
}

fn pattern(text: &str) -> ColumnType {
    ColumnType::Timestamp(TimestampFormat::Pattern(text.to_owned()))
}

const MILLIS: ColumnType = ColumnType::Timestamp(TimestampFormat::Millis);
const ISO: ColumnType = ColumnType::Timestamp(TimestampFormat::Iso);

/// What each row of a column gives, in the catalogue's timezone Europe/London: its value, `NULL`, or
/// why the row is refused.
fn given(array: ArrayRef, kind: &ColumnType) -> Vec<String> {
    let zone = Zone::new("Europe/London").unwrap();
    let batch = RecordBatch::try_from_iter([("c", Arc::clone(&array))]).unwrap();
    let mut column = Column::new("c", kind, TextUse::Dictionary);
    assert!(way(array.data_type(), kind).is_some(), "{} for {kind:?}", array.data_type());
    read(&mut column, &batch, &zone);
    assert_eq!(column.len(), array.len());
    let array = column.array(&zone);
    let options = FormatOptions::default().with_null("NULL");
    let shown = ArrayFormatter::try_new(&array, &options).unwrap();
    let error = |row: usize| column.errors.iter().find(|e| e.0 as usize == row);
    let cell = |row| {
        error(row).map_or_else(|| shown.value(row).to_string(), |e| format!("!{}", e.1.name()))
    };
    (0..array.len()).map(cell).collect()
}

fn check(array: impl Array + 'static, kind: &ColumnType, expect: &[&str]) {
    let from = array.data_type().clone();
    assert_eq!(given(Arc::new(array), kind), expect, "{from} as {kind:?}");
}

#[test]
fn whole_numbers_are_exact_or_refused() {
    use ColumnType::{Float, Int, U64};
    let some = || Int64Array::from(vec![Some(7), None, Some(-7), Some(i64::MIN)]);
    check(some(), &U64, &["7", "NULL", "!range", "!range"]);
    check(some(), &Int, &["7", "NULL", "-7", "-9223372036854775808"]);
    check(some(), &Float, &["7.0", "NULL", "-7.0", "-9.223372036854776e18"]);
    check(some(), &decimal(9, 2), &["7.00", "NULL", "-7.00", "!range"]);
    check(UInt64Array::from(vec![u64::MAX]), &U64, &["18446744073709551615"]);
    check(UInt64Array::from(vec![u64::MAX]), &Int, &["!range"]);
    check(Int8Array::from(vec![-3, 3]), &Int, &["-3", "3"]);
    check(Int32Array::from(vec![3]), &U64, &["3"]);
}

#[test]
fn decimals_keep_every_digit() {
    use ColumnType::{Float, Int};
    let some = |values: Vec<i128>, scale| {
        Decimal128Array::from(values).with_precision_and_scale(38, scale).unwrap()
    };
    check(some(vec![1_500, 1_501, -20], 3), &decimal(6, 2), &["1.50", "!scale", "-0.02"]);
    check(some(vec![15, 100_000], 1), &decimal(6, 3), &["1.500", "!range"]);
    check(some(vec![17_850_000, 17_850_001], 3), &Int, &["17850", "!scale"]);
    check(some(vec![i128::MAX], 0), &Int, &["!range"]);
    check(some(vec![11_428_571_428_571_429], 14), &Float, &["114.28571428571429"]);
}

#[test]
fn a_float_for_a_decimal_is_what_a_csv_of_it_says() {
    let some = || Float64Array::from(vec![2.55, 0.1 + 0.2, 1e3, f64::NAN, 1e300]);
    check(some(), &decimal(9, 2), &["2.55", "!scale", "1000.00", "!type", "!range"]);
    check(Float32Array::from(vec![2.55, -0.0]), &decimal(9, 2), &["2.55", "0.00"]);
    check(Float32Array::from(vec![0.1]), &ColumnType::Float, &["0.10000000149011612"]);
    check(Float64Array::from(vec![-0.0, 0.1]), &ColumnType::Float, &["0.0", "0.1"]);
}

#[test]
fn texts_are_read_as_the_cells_of_a_csv() {
    use ColumnType::{Bool, Date, String, U64};
    let some = || StringArray::from(vec![Some("a"), Some(""), None, Some("ä")]);
    check(some(), &String, &["a", "", "NULL", "ä"]);
    check(LargeStringArray::from(vec!["a"]), &String, &["a"]);
    check(
        StringViewArray::from(vec!["a long text that is no inline view"]),
        &String,
        &["a long text that is no inline view"],
    );
    let coded: DictionaryArray<Int32Type> =
        vec![Some("x"), None, Some("y"), Some("x")].into_iter().collect();
    check(coded, &String, &["x", "NULL", "y", "x"]);
    check(
        BinaryArray::from_vec(vec![b"a", b"\xff", "ä".as_bytes()]),
        &String,
        &["a", "!type", "ä"],
    );
    check(StringArray::from(vec!["17850", "", "17850.0"]), &U64, &["17850", "NULL", "!type"]);
    check(StringArray::from(vec!["1.50", "1.505"]), &decimal(9, 2), &["1.50", "!scale"]);
    check(StringArray::from(vec!["true", "0", "yes"]), &Bool, &["true", "false", "!type"]);
    check(StringArray::from(vec!["2011-12-09", "9.12.2011"]), &Date, &["2011-12-09", "!type"]);
    let when = StringArray::from(vec!["2011-12-09 12:50:00", "soon"]);
    check(when, &pattern("%Y-%m-%d %H:%M:%S"), &["2011-12-09T12:50:00Z", "!type"]);
    check(NullArray::new(2), &String, &["NULL", "NULL"]);
    check(BooleanArray::from(vec![true, false]), &Bool, &["true", "false"]);
}

#[test]
fn instants_of_any_unit_are_the_same_and_those_without_zone_are_local() {
    // 2011-07-01T08:26:00Z.
    let at = 1_309_508_760;
    let (utc, summer) = (&["2011-07-01T09:26:00+01:00"], &["2011-07-01T08:26:00+01:00"]);
    for kind in [&MILLIS, &ISO, &pattern("%Y-%m-%d %H:%M:%S")] {
        check(TimestampSecondArray::from(vec![at]).with_timezone("UTC"), kind, utc);
        check(TimestampMillisecondArray::from(vec![at * 1_000]).with_timezone("+02:00"), kind, utc);
        check(TimestampMicrosecondArray::from(vec![at * 1_000_000]), kind, summer);
        check(TimestampNanosecondArray::from(vec![at * 1_000_000_000]), kind, summer);
    }
    check(Int64Array::from(vec![at * 1_000]), &MILLIS, utc);
    // What a catalogue says of instants without zone, or of those that only look like UTC.
    let in_utc = ColumnType::Timestamp(TimestampFormat::Utc(Box::new(TimestampFormat::Iso)));
    check(TimestampMicrosecondArray::from(vec![at * 1_000_000]), &in_utc, utc);
    check(TimestampSecondArray::from(vec![at]).with_timezone("UTC"), &in_utc, utc);
    let wall = TimestampFormat::WallClock(Box::new(TimestampFormat::Millis));
    let wall = ColumnType::Timestamp(wall);
    check(TimestampSecondArray::from(vec![at]).with_timezone("UTC"), &wall, summer);
    check(TimestampMicrosecondArray::from(vec![at * 1_000_000]), &wall, summer);
    check(Int64Array::from(vec![at * 1_000]), &wall, summer);
    check(
        Int64Array::from(vec![at, i64::MAX]),
        &ColumnType::Timestamp(TimestampFormat::Seconds),
        &["2011-07-01T09:26:00+01:00", "!range"],
    );
    check(TimestampSecondArray::from(vec![i64::MAX]), &MILLIS, &["!range"]);
    check(TimestampMillisecondArray::from(vec![i64::MAX]), &MILLIS, &["!range"]);
}

#[test]
fn a_date_for_an_instant_is_its_local_midnight() {
    // 2011-07-01.
    check(Date32Array::from(vec![15_156]), &ISO, &["2011-07-01T00:00:00+01:00"]);
    let in_utc = ColumnType::Timestamp(TimestampFormat::Utc(Box::new(TimestampFormat::Iso)));
    check(Date32Array::from(vec![15_156]), &in_utc, &["2011-07-01T01:00:00+01:00"]);
    check(Date32Array::from(vec![15_156]), &ColumnType::Date, &["2011-07-01"]);
    check(Date64Array::from(vec![15_156 * DAY_MS]), &ColumnType::Date, &["2011-07-01"]);
    check(Date32Array::from(vec![i32::MAX]), &ColumnType::Date, &["!range"]);
}

#[test]
fn a_type_that_cannot_be_read_is_known_before_a_row_is() {
    use ColumnType::{Bool, Date, Int, String, U64};
    let check = |from: DataType, kind: &ColumnType| {
        assert_eq!(way(&from, kind), None, "{from} as {kind:?}");
    };
    // Numbers that a tool turned into floats may have lost digits.
    check(DataType::Float64, &U64);
    check(DataType::Float64, &Int);
    check(DataType::Int64, &String);
    check(DataType::Int64, &Bool);
    check(DataType::Int64, &Date);
    check(DataType::Int64, &ISO);
    check(DataType::Timestamp(TimeUnit::Millisecond, None), &Date);
    check(DataType::Timestamp(TimeUnit::Millisecond, None), &Int);
    check(DataType::Boolean, &Int);
    check(DataType::Decimal256(60, 2), &decimal(18, 2));
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    check(DataType::List(item), &String);
    check(DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int64)), &String);
}

/// A table's rows as they were stand in a struct, or, as in a CSV, in columns of their own.
#[test]
fn members_stand_in_a_struct_or_in_columns_with_a_point() {
    let zone = Zone::new("UTC").unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let field = Arc::new(Field::new("id", DataType::Int64, false));
    let nulls = NullBuffer::from(vec![true, false, true]);
    let before = StructArray::new(vec![field].into(), vec![Arc::clone(&ids)], Some(nulls));
    let nested = RecordBatch::try_from_iter([("before", Arc::new(before) as ArrayRef)]).unwrap();
    let flat = RecordBatch::try_from_iter([("before.id", ids)]).unwrap();
    let check = |from: &str, batch: &RecordBatch, expect: (&[&str], usize)| {
        let mut column =
            Column::new(from, &ColumnType::U64, TextUse::Dictionary).within(Some("before"));
        read(&mut column, batch, &zone);
        let array = column.array(&zone);
        let options = FormatOptions::default().with_null("NULL");
        let shown = ArrayFormatter::try_new(&array, &options).unwrap();
        let rows: Vec<String> = (0..3).map(|row| shown.value(row).to_string()).collect();
        assert_eq!(
            (rows, column.absent.len()),
            (expect.0.iter().map(|t| (*t).to_owned()).collect(), expect.1)
        );
    };
    check("id", &nested, (&["1", "NULL", "3"], 0));
    check("id", &flat, (&["1", "2", "3"], 0));
    check("sku", &nested, (&["NULL", "NULL", "NULL"], 3));
}
