use std::collections::BTreeMap;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::Field;

use super::*;
use crate::catalog::place::{Diagnostics, Place};
use crate::catalog::sql_text::SqlText;
use crate::clock::Zone;
use crate::rule::sql::{Scope, ScopeKind, compile};

const MAX: i64 = i64::MAX;

/// Evaluates over five rows and expects these values ("-" = NULL) and this many failures.
fn check(sql: &str, expect: [&str; 5], failed_rows: u64) {
    let columns = [("a", DataType::Int64), ("b", DataType::Int64), ("s", DataType::Utf8)]
        .map(|(n, t)| (n.to_owned(), t));
    let zone = Zone::new("UTC").unwrap();
    let params = BTreeMap::new();
    let scope = Scope { columns: &columns, params: &params, zone: &zone, kind: ScopeKind::Row };
    let mut out = Diagnostics::default();
    let expr = compile(&SqlText::opaque(sql, Place::default()), &scope, &mut out).unwrap();
    let fields: Vec<Field> = columns.iter().map(|(n, t)| Field::new(n, t.clone(), true)).collect();
    let batch = RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), Some(MAX), Some(i64::MIN), None, Some(6)])),
            Arc::new(Int64Array::from(vec![Some(0), Some(2), Some(-1), Some(0), Some(3)])),
            Arc::new(StringArray::from(vec![Some("7"), Some("x"), Some(""), Some("9"), None])),
        ],
    )
    .unwrap();
    let safe = SafeExpr::new(&expr, &batch.schema()).unwrap();
    let got = safe.evaluate(&batch);
    assert_eq!(got.array.data_type(), &expr.data_type);
    let text = cast(&got.array, &DataType::Utf8).unwrap();
    let text = text.as_any().downcast_ref::<StringArray>().unwrap();
    let text: Vec<&str> = text.iter().map(|v| v.unwrap_or("-")).collect();
    assert_eq!((text.as_slice(), got.failed_rows), (expect.as_slice(), failed_rows), "{sql}");
}

#[test]
fn only_the_guilty_rows_are_null() {
    check("a / b", ["-", "4611686018427387903", "-", "-", "2"], 2);
    check("a % b", ["-", "1", "0", "-", "0"], 1);
    check("CAST(s AS int) + 1", ["8", "-", "-", "10", "-"], 2);
}

#[test]
fn whole_numbers_do_not_wrap() {
    check("a + b", ["1", "-", "-", "-", "9"], 2);
    check("a * b", ["0", "-", "-", "-", "18"], 2);
    check("a - b", ["1", "9223372036854775805", "-9223372036854775807", "-", "3"], 0);
    check("-a", ["-1", "-9223372036854775807", "-", "-", "-6"], 1);
}

#[test]
fn a_guarded_row_does_not_fail() {
    check("CASE WHEN b <> 0 THEN a / b ELSE 0 END", ["0", "4611686018427387903", "-", "0", "2"], 1);
    check("b <> 0 AND a / b > 1", ["false", "true", "-", "false", "true"], 1);
}

#[test]
fn constants_fill_the_batch() {
    check("'x'", ["x"; 5], 0);
    check("coalesce(s, 'none')", ["7", "x", "", "9", "none"], 0);
}

#[test]
fn a_guarded_part_is_null_where_it_fails_and_the_rest_goes_on() {
    use crate::rule::guard::guarded;
    use datafusion_expr::{col, lit};

    let guarded = guarded(col("a") + lit(1_i64));
    let data_type = DataType::Boolean;
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let values = Int64Array::from(vec![Some(1), Some(MAX), None, Some(MAX), Some(-5)]);
    let batch = RecordBatch::try_new(schema, vec![Arc::new(values)]).unwrap();
    let check = |expr: Expr, expect: [Option<bool>; 5]| {
        let (columns, sql, place) = (vec!["a".to_owned()], expr.to_string(), Place::default());
        let typed = TypedExpr { expr, data_type: data_type.clone(), columns, sql, place };
        let got = SafeExpr::new(&typed, &batch.schema()).unwrap().evaluate(&batch);
        let expect: arrow::array::BooleanArray = expect.into_iter().collect();
        let array = got.array.as_any().downcast_ref::<arrow::array::BooleanArray>().unwrap();
        assert_eq!((array, got.failed_rows), (&expect, 2), "{}", typed.sql);
    };
    let (yes, no) = (Some(true), Some(false));
    check(guarded.clone().is_null(), [no, yes, yes, yes, no]);
    check(guarded.clone().gt(lit(0_i64)), [yes, None, None, None, no]);
    check(guarded.gt(lit(0_i64)).or(col("a").gt(lit(5_i64))), [yes, yes, None, yes, no]);
}
