use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use super::*;
use crate::catalog::place::FileId;
use crate::catalog::place::Severity;

fn zone() -> Zone {
    Zone::new("Europe/London").unwrap()
}

fn columns() -> Vec<(String, DataType)> {
    [
        ("orders_30d", DataType::Int64),
        ("orders_90d", DataType::Int64),
        ("spend_30d", DataType::Decimal128(38, 3)),
        ("country", DataType::Utf8),
        ("member", DataType::Boolean),
        ("score", DataType::Float64),
        ("customer", DataType::UInt64),
        ("last_bought", timestamp_type(&zone())),
    ]
    .map(|(n, t)| (n.to_owned(), t))
    .to_vec()
}

fn params() -> BTreeMap<String, Param> {
    [
        ("big_basket", Param::Int(250)),
        ("debt", Param::Int(-5)),
        ("share", Param::Decimal(-25, 2)),
        ("home", Param::Text("it's".to_owned())),
        ("on", Param::Bool(true)),
    ]
    .map(|(n, p)| (n.to_owned(), p))
    .into()
}

fn text(sql: &str) -> SqlText {
    let end = u32::try_from(sql.len()).unwrap();
    let place = Place { file: FileId(0), start: 0, end };
    let mut text = SqlText::new(place);
    text.push_verbatim(sql, place);
    text
}

fn compile_as(kind: ScopeKind, sql: &str) -> (Option<TypedExpr>, Vec<String>) {
    let (columns, params, zone) = (columns(), params(), zone());
    let scope = Scope { columns: &columns, params: &params, zone: &zone, kind };
    let mut out = Diagnostics::default();
    let expr = compile(&text(sql), &scope, &mut out);
    let said = out.items.iter().map(|d| {
        let part = &sql[d.place.start as usize..d.place.end as usize];
        let severity = if d.severity == Severity::Error { "" } else { "warning: " };
        format!("{severity}`{part}`: {} | {}", d.message, d.remedy)
    });
    (expr, said.collect())
}

/// What is said about a tag expression.
fn check_said(sql: &str, expect: &[&str]) {
    let (expr, said) = compile_as(ScopeKind::Tag, sql);
    assert_eq!(said, expect, "{sql}");
    assert_eq!(expr.is_some(), said.iter().all(|s| s.starts_with("warning")), "{sql}");
}

fn check_row_said(sql: &str, expect: &[&str]) {
    assert_eq!(compile_as(ScopeKind::Row, sql).1, expect, "{sql}");
}

/// The simplified expression and its type.
fn check(sql: &str, expect: &str) {
    let (expr, said) = compile_as(ScopeKind::Tag, sql);
    assert!(said.is_empty(), "{sql}: {said:?}");
    let expr = expr.unwrap();
    assert_eq!(format!("{} : {}", expr.expr, expr.data_type), expect, "{sql}");
}

#[test]
fn unknown_names_and_functions_are_shown_where_they_stand() {
    check_said(
        "spend_30 > 200 AND orders_30 > 0",
        &[
            "`spend_30`: unknown name `spend_30` | did you mean `spend_30d`?",
            "`orders_30`: unknown name `orders_30` | did you mean `orders_30d`?",
        ],
    );
    check_said("Country = 'x'", &["`Country`: unknown name `Country` | did you mean `country`?"]);
    check_said(
        "country = \"UK\"",
        &["`\"UK\"`: unknown name `UK` | for text use single quotes: 'UK'"],
    );
    check_said("uppr(country)", &["`uppr`: unknown function `uppr` | did you mean `upper`?"]);
    check_said("zzzzqq > 1", &["`zzzzqq`: unknown name `zzzzqq` | "]);
    check_said(
        "city.tier = 1",
        &["`city.tier`: unknown name `city.tier` | names here have no `.` in them"],
    );
}

#[test]
fn clocks_queries_and_aggregates_are_refused() {
    check_said(
        "last_bought < now()",
        &[
            "`now`: `now` reads the machine's clock | use `as_of` (or `as_of_date`), the instant the result is about",
        ],
    );
    check_said(
        "CURRENT_DATE > DATE '2026-01-01'",
        &[
            "`CURRENT_DATE`: `current_date` reads the machine's clock | use `as_of_date`, the day the result is about",
        ],
    );
    check_said(
        "random() > 0.5",
        &[
            "`random`: `random` gives another value every time it is asked | a rule must give the same answer again; hash the uid upstream instead",
        ],
    );
    check_said(
        "sum(orders_30d) > 3",
        &[
            "`sum`: `sum` is an aggregate and cannot stand here | name it as a feature under `tags/features/` and use that here",
        ],
    );
    check_said(
        "rank() OVER (ORDER BY score) < 3",
        &[
            "`rank`: `rank` is a window function here | a rule reads one user; ranks across users come from `tagloom export`",
        ],
    );
    let (_, said) = compile_as(ScopeKind::Tag, "orders_30d > (SELECT 1)");
    assert!(said[0].contains("a query cannot stand here"), "{said:?}");
}

#[test]
fn a_row_expression_has_no_as_of() {
    let remedy = "an event is decoded once and for good; compare with `as_of` in a tag";
    for name in ["as_of", "as_of_date"] {
        let expect = format!("`{name}`: `{name}` has no meaning in a row expression | {remedy}");
        check_row_said(&format!("{name} IS NULL"), &[&expect]);
    }
    let expect =
        format!("`days_since`: `days_since` has no meaning in a row expression | {remedy}");
    check_row_said("days_since(last_bought) > 3", &[&expect]);
    check_row_said(
        "sum(spend_30d)",
        &[
            "`sum`: `sum` is an aggregate and cannot stand here | a row expression sees one event; aggregate in `value:` of a feature",
        ],
    );
}

#[test]
fn syntax_errors_name_their_place() {
    check_said(
        "country = 'uk",
        &["`'uk`: this text never ends | close it with `'`; write a quote inside it as `''`"],
    );
    check_said("orders_30d >", &["`>`: the expression ends where an expression is expected | "]);
    check_said(
        "orders_30d > 1 orders_90d",
        &[
            "`orders_90d`: `orders_90d` cannot stand here: the expression is already complete | is an operator or a comma missing?",
        ],
    );
    check_said("  ", &["`  `: there is no expression here | "]);
    let (_, said) = compile_as(ScopeKind::Tag, "CASE WHEN member THEN 'a' 'b' END");
    assert!(said[0].starts_with("`'b'`: expected"), "{said:?}");
    let (_, said) = compile_as(ScopeKind::Tag, &format!("{}1{}", "(".repeat(500), ")".repeat(500)));
    assert!(said[0].contains("nested too deep"), "{said:?}");
}

#[test]
fn kinds_of_value_are_not_mixed() {
    check_said(
        "country > 5",
        &["`country > 5`: text against a number cannot be compared | `CAST(country AS int)`"],
    );
    check_said(
        "orders_30d = '5'",
        &[
            "`orders_30d = '5'`: text against a number cannot be compared | write the number without quotes, or `CAST(orders_30d AS string)`",
        ],
    );
    check_said(
        "country IN ('a', 3)",
        &[
            "`country IN ('a', 3`: text against a number cannot be compared | `CAST(country AS int)`",
        ],
    );
    check_said(
        "country BETWEEN 1 AND 2",
        &[
            "`country BETWEEN 1`: text against a number cannot be compared | `CAST(country AS int)`",
            "`country BETWEEN 1 AND 2`: text against a number cannot be compared | `CAST(country AS int)`",
        ],
    );
    check_said(
        "country + 1 > 2",
        &[
            "`country`: `+` needs numbers, this is text | `CAST(country AS int)` or `AS decimal(18,2)`",
        ],
    );
    check_said(
        "member = 1",
        &[
            "`member = 1`: a bool against a number cannot be compared | `member` is true or false: use it as it is, or with NOT",
        ],
    );
    check_said(
        "member AND orders_30d",
        &["`orders_30d`: AND needs true or false, this is a number | `orders_30d <> 0`?"],
    );
    check_said(
        "CASE WHEN member THEN 'a' ELSE 1 END",
        &["`1`: the branches of CASE cannot mix text and a number | `CAST(1 AS string)`"],
    );
    check_said(
        "coalesce(country, 0)",
        &["`0`: coalesce cannot mix text and a number | `CAST(0 AS string)`"],
    );
    check_said(
        "last_bought > 30",
        &[
            "`last_bought > 30`: a time against a number cannot be compared | for an age in days: days_since(last_bought)",
        ],
    );
    check_said("CAST(country AS int) > 5", &[]);
}

#[test]
fn whole_division_warns_and_overflow_of_constants_is_an_error() {
    check_said(
        "orders_30d / orders_90d > 1",
        &[
            "warning: `orders_30d / orders_90d`: `/` of whole numbers drops what is behind the point | for a fraction: `CAST(orders_30d AS double) / orders_90d`",
        ],
    );
    check_said("CAST(orders_30d AS double) / orders_90d > 0.5", &[]);
    let (_, said) = compile_as(ScopeKind::Tag, "orders_30d > 9223372036854775807 + 1");
    assert!(
        said[0].contains("9223372036854775807 + 1`: ") && said[0].contains("verflow"),
        "{said:?}"
    );
}

#[test]
fn params_become_literals() {
    check("orders_30d > $big_basket", "orders_30d > Int64(250) : Boolean");
    check("orders_30d > $debt", "orders_30d > Int64(-5) : Boolean");
    check("country = $home", "country = Utf8(\"it's\") : Boolean");
    check("member = $on", "member : Boolean");
    check("$share", "Decimal128(-0.25,2,2) : Decimal128(2, 2)");
    check_said(
        "orders_30d > $big_baskt",
        &["`$big_baskt`: unknown parameter `$big_baskt` | did you mean `$big_basket`?"],
    );
    let (expr, _) = compile_as(ScopeKind::Tag, "orders_30d > $debt AND country = $home");
    assert_eq!(expr.unwrap().sql, "orders_30d > (-5) AND country = 'it''s'");
}

#[test]
fn types_are_those_of_the_catalogue() {
    check("CAST(country AS int)", "CAST(country AS Int64) : Int64");
    check("CAST(country AS u64)", "CAST(country AS UInt64) : UInt64");
    check("upper(country)", "upper(country) : Utf8");
    check("CAST(country AS float)", "CAST(country AS Float64) : Float64");
    check(
        "date_part('year', last_bought)",
        "CAST(date_part(Utf8(\"year\"), last_bought) AS Int64) : Int64",
    );
    check(
        "country IS DISTINCT FROM 'x' AND member",
        "country IS DISTINCT FROM Utf8(\"x\") AND member : Boolean",
    );
    check("score < 0.5", "score < Float64(0.5) : Boolean");
    check(
        "date_part('year', last_bought) = 2026",
        "last_bought >= TimestampMillisecond(1767225600000, Some(\"Europe/London\")) AND last_bought < TimestampMillisecond(1798761600000, Some(\"Europe/London\")) : Boolean",
    );
    check("0.5", "Decimal128(0.5,1,1) : Decimal128(1, 1)");
    check("days_since(last_bought)", "days_since(last_bought, as_of_date) : Int64");
}

#[test]
fn labels_are_the_texts_a_case_can_give() {
    let labels_of = |sql: &str| labels(&compile_as(ScopeKind::Tag, sql).0.unwrap());
    let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let bands =
        "CASE WHEN orders_30d IS NULL THEN 'none' WHEN orders_30d < 3 THEN 'low' ELSE 'top' END";
    assert_eq!(labels_of(bands), list(&["none", "low", "top"]));
    assert_eq!(labels_of("coalesce(CASE WHEN member THEN 'a' END, 'b')"), list(&["a", "b"]));
    assert_eq!(labels_of("CASE WHEN member THEN country ELSE 'x' END"), None);
    assert_eq!(labels_of("country"), None);
    assert_eq!(labels_of("orders_30d"), None);
}

#[test]
fn names_are_found_before_typing() {
    let mut out = Diagnostics::default();
    let found = names(&text("a > 3 AND days_since(b) < $c OR as_of > d"), &mut out).unwrap();
    let found: Vec<_> = found.iter().map(|(n, p)| (n.as_str(), p.start)).collect();
    assert_eq!(found, [("a", 0), ("b", 21), ("d", 40)]);
    assert!(names(&text("a >"), &mut out).is_none() && out.has_errors());
}

#[test]
fn an_aggregate_is_taken_apart_with_its_places() {
    let call = |sql: &str| aggregate_call(&text(sql), &mut Diagnostics::default());
    let sum = call("sum( CAST(a * b AS decimal(18,3)) )").unwrap();
    assert_eq!((sum.name.as_str(), sum.distinct, sum.args.len()), ("sum", false, 1));
    assert_eq!(sum.args[0].sql(), "CAST(a * b AS decimal(18,3))");
    assert_eq!(sum.args[0].place(5..6).start, 10);
    let distinct = call("COUNT(DISTINCT sku)").unwrap();
    assert_eq!((distinct.name.as_str(), distinct.distinct), ("count", true));
    assert_eq!(distinct.args[0].sql(), "sku");
    assert_eq!(call("count(*)").unwrap().args.len(), 0);
    assert_eq!(call("last_time()").unwrap().args.len(), 0);
    let mode = call("mode(a, BY => b + 1)").unwrap();
    assert_eq!((mode.args.len(), mode.named[0].name.as_str()), (1, "by"));
    assert_eq!((mode.named[0].value.sql(), mode.named[0].place.start), ("b + 1", 8));
    assert!(call("sum(a) + 1").is_none() && call("amount").is_none() && call("sum(a").is_none());
}

#[test]
fn lists_without_a_common_item_leave_null_null() {
    let null = "Boolean(NULL)";
    let nothing = format!("country IS NULL AND {null} : Boolean");
    check("country IN ('a', 'b', 'c', 'd') AND country IN ('e', 'f', 'g', 'h')", &nothing);
    check("country = 'a' AND country = 'b'", &nothing);
    check("country IN ('a', 'b') AND country NOT IN ('b', 'a', 'c')", &nothing);
    check("(country = 'a' OR country = 'b') AND NOT country IN ('a', 'b', 'c', 'd')", &nothing);
    let all = format!("country IS NOT NULL OR {null} : Boolean");
    check("country NOT IN ('a', 'b') OR country NOT IN ('c', 'd')", &all);
    check(
        "country IN ('a', 'b', 'c', 'd', 'e') AND country NOT IN ('a', 'x')",
        "country IN ([Utf8(\"b\"), Utf8(\"c\"), Utf8(\"d\"), Utf8(\"e\")]) : Boolean",
    );
}
