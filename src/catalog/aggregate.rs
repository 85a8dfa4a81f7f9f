//! A feature's `value`: which aggregate over which row expressions.
//!
//! In: its text and the stream's columns. Out: an [`Aggregate`] with typed arguments.
//! Invariant: whatever is wrong is said at the argument that is wrong.

use arrow::datatypes::DataType;

use super::expression::{Typer, words};
use super::fields::suggest;
use super::model::{Aggregate, Param, TypedExpr};
use super::place::Diagnostics;
use super::sql_text::SqlText;
use super::stream::{StreamScope, fits_a_row};
use crate::rule::sql::{AggregateCall, aggregate_call};

const AGGREGATES: [&str; 11] = [
    "count",
    "sum",
    "min",
    "max",
    "first",
    "last",
    "first_time",
    "last_time",
    "mode",
    "top_k",
    "recent",
];

/// Values that `top_k` and `recent` may list.
const LISTED_MAX: u8 = 100;

/// Types what a feature aggregates; `values_max`: distinct values that are kept.
pub(super) fn aggregate(
    text: &SqlText,
    typer: &Typer<'_>,
    stream: &StreamScope,
    values_max: u32,
    out: &mut Diagnostics,
) -> Option<Aggregate> {
    let call = aggregate_call(text, out)?;
    let name = call.name.as_str();
    if !AGGREGATES.contains(&name) {
        let remedy = match name {
            "avg" | "mean" => "make features of sum(e) and count(), and divide in a tag".to_owned(),
            "count_distinct" => "write `count(distinct e)`".to_owned(),
            _ => suggest(name, AGGREGATES, "aggregates"),
        };
        out.error(call.place, format!("unknown aggregate `{name}`"), remedy);
        return None;
    }
    if call.distinct && name != "count" {
        let message = format!("`{name}` does not take `distinct`");
        out.error(call.place, message, "only `count(distinct e)` does");
        return None;
    }
    if !named_arguments_fit(&call, out) || !arguments_fit(&call, out) {
        return None;
    }
    let Some(argument) = call.args.first() else {
        return match name {
            "count" => Some(Aggregate::Count),
            "first_time" => Some(Aggregate::FirstTime),
            _ => Some(Aggregate::LastTime),
        };
    };
    let listed = call.args.get(1).map(|text| listed(text, typer, name, out));
    let by = call.named.first().map(|by| {
        let what = format!("weights of `{name}`");
        row_value(&by.value, typer, stream, out)
            .and_then(|value| summable(value, &by.value, &what, "by => ", out))
    });
    let value = row_value(argument, typer, stream, out)?;
    Some(match name {
        "count" => Aggregate::CountDistinct(value, values_max),
        "min" => Aggregate::Min(value),
        "max" => Aggregate::Max(value),
        "first" => Aggregate::First(value),
        "last" => Aggregate::Last(value),
        "mode" => Aggregate::Mode { of: value, by: optional(by)?, values_max },
        "top_k" => Aggregate::TopK { of: value, by: optional(by)?, k: listed??, values_max },
        "recent" => Aggregate::Recent { of: value, n: listed?? },
        _ => Aggregate::Sum(summable(value, argument, "sum", "", out)?),
    })
}

/// What was not written is no mistake.
#[expect(clippy::option_option, reason = "written or not, and right or not")]
fn optional<T>(written: Option<Option<T>>) -> Option<Option<T>> {
    written.map_or(Some(None), |right| right.map(Some))
}

fn row_value(
    text: &SqlText,
    typer: &Typer<'_>,
    stream: &StreamScope,
    out: &mut Diagnostics,
) -> Option<TypedExpr> {
    let value = typer.any(text, &stream.reach, out)?;
    fits_a_row(&value, text.sql(), text.whole(), out).then_some(value)
}

/// A value that adds up exactly. `shown`: what stands before it where it is written.
fn summable(
    value: TypedExpr,
    text: &SqlText,
    what: &str,
    shown: &str,
    out: &mut Diagnostics,
) -> Option<TypedExpr> {
    match &value.data_type {
        DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..) => return Some(value),
        DataType::Float64 => {
            let cast = format!("CAST({} AS decimal(18,2))", text.sql());
            let right =
                if shown.is_empty() { format!("sum({cast})") } else { shown.to_owned() + &cast };
            let remedy = format!("a float's sum depends on the order of events: write {right}");
            out.error(text.whole(), format!("{what} over a float"), remedy);
        }
        other => {
            let need = if shown.is_empty() { "sum needs a number" } else { "a weight is a number" };
            let message = format!("{need}, this is {}", words(other));
            out.error(text.whole(), message, "CAST it to int or decimal(18,2)");
        }
    }
    None
}

/// How many values a list has.
fn listed(text: &SqlText, typer: &Typer<'_>, name: &str, out: &mut Diagnostics) -> Option<u8> {
    let written = text.sql().trim();
    let number = match written.strip_prefix('$') {
        Some(param) => match typer.params.get(param) {
            Some(Param::Int(number)) => u8::try_from(*number).ok(),
            _ => None,
        },
        None => written.parse().ok(),
    };
    let number = number.filter(|n| (1..=LISTED_MAX).contains(n));
    if number.is_none() {
        let message = format!("`{name}` lists 1 to {LISTED_MAX} values, not `{written}`");
        out.error(text.whole(), message, format!("write a whole number, like `{name}(e, 3)`"));
    }
    number
}

fn named_arguments_fit(call: &AggregateCall, out: &mut Diagnostics) -> bool {
    let name = call.name.as_str();
    let weighed = matches!(name, "mode" | "top_k");
    let form = if name == "mode" { "mode(e, by => w)" } else { "top_k(e, 3, by => w)" };
    for (at, named) in call.named.iter().enumerate() {
        let (message, remedy) = if !weighed {
            (format!("`{name}` takes no named argument"), format!("drop `{} => ...`", named.name))
        } else if named.name != "by" {
            (format!("`{name}` has no argument `{}`", named.name), format!("write `{form}`"))
        } else if at > 0 {
            ("`by` is there twice".to_owned(), format!("write `{form}`"))
        } else {
            continue;
        };
        out.error(named.place, message, remedy);
        return false;
    }
    true
}

fn arguments_fit(call: &AggregateCall, out: &mut Diagnostics) -> bool {
    let name = call.name.as_str();
    let wanted = match name {
        "top_k" | "recent" => 2,
        "count" | "first_time" | "last_time" => usize::from(call.distinct),
        _ => 1,
    };
    if call.args.len() == wanted {
        return true;
    }
    let remedy = match (name, wanted) {
        ("count", 0) => {
            "write `count()` and `where: e IS NOT NULL`, or `count(distinct e)`".to_owned()
        }
        (_, 0) => format!("write `{name}()`"),
        ("mode", _) => "write `mode(e)`, or `mode(e, by => w)` to weigh values".to_owned(),
        ("top_k", _) => "write `top_k(e, 3)`, or `top_k(e, 3, by => w)` to weigh values".to_owned(),
        ("recent", _) => "write `recent(e, 5)` for the last five values".to_owned(),
        _ if call.distinct => "write `count(distinct e)`".to_owned(),
        _ => format!("write `{name}(e)`"),
    };
    let takes = ["no argument", "one argument", "a value and a number"][wanted];
    out.error(call.place, format!("`{name}` takes {takes} here"), remedy);
    false
}
