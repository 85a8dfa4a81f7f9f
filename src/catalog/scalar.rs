//! Small texts of the rule language: names, durations, spans, column types, numbers.
//!
//! In: the text as written. Out: its value, or what is wrong and what would be right.
//! Invariant: knows nothing of YAML and of places.

use super::model::{ColumnType, Param, Span, TimestampFormat};

/// What is wrong with a text, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) remedy: String,
}

pub(super) fn fault<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { message: message.into(), remedy: remedy.into() })
}

/// Names longer than this are refused; they become column names in every output.
const NAME_BYTES_MAX: usize = 128;

/// A span or offset of more days than this is refused.
const DAYS_MAX: u32 = 36_500;

/// A rolling window of more hops than this (7 days) is refused.
const HOPS_MAX: u32 = 2_016;

/// Words that an SQL expression cannot read as a name.
const SQL_WORDS: &[&str] = &[
    "all", "and", "any", "array", "as", "between", "by", "case", "cast", "distinct", "else", "end",
    "exists", "extract", "false", "from", "group", "having", "ilike", "in", "interval", "is",
    "like", "not", "null", "or", "order", "select", "then", "true", "union", "when", "where",
];

/// Names that mean something else wherever a feature or tag could stand.
const OWN_WORDS: &[&str] = &["as_of", "as_of_date", "days_since", "uid"];

/// Checks a name of a stream, column, feature, dimension, tag or parameter.
pub(super) fn name(text: &str, what: &str) -> Result<(), Fault> {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return fault(
            format!("`{text}` is not a name for {what}"),
            "use letters, digits and `_`, and begin with a letter",
        );
    }
    if text.len() > NAME_BYTES_MAX {
        return fault(
            format!("the name of {what} is longer than {NAME_BYTES_MAX} characters"),
            "shorten it",
        );
    }
    if SQL_WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return fault(
            format!("`{text}` is a word of SQL and cannot name {what}"),
            format!("choose another name, for example `{text}_`"),
        );
    }
    Ok(())
}

/// Checks a name that stands in tag expressions.
pub(super) fn wide_name(text: &str, what: &str) -> Result<(), Fault> {
    if OWN_WORDS.contains(&text) {
        return fault(
            format!("`{text}` has a meaning of its own and cannot name {what}"),
            "choose another name",
        );
    }
    name(text, what)
}

/// A duration in milliseconds: `500ms`, `30s`, `15m`, `24h`, `7d`.
pub(super) fn duration_ms(text: &str) -> Result<i64, Fault> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let per = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match digits.parse::<i64>() {
        Ok(n) if per > 0 => match n.checked_mul(per).filter(|ms| *ms <= 100 * 366 * 86_400_000) {
            Some(ms) => Ok(ms),
            None => fault(format!("`{text}` is too long a time"), "at most 100 years"),
        },
        _ => fault(
            format!("`{text}` is not a duration"),
            "write a whole number and a unit: `30s`, `15m`, `24h`, `7d`",
        ),
    }
}

/// Whole days: `30d`.
fn days(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('d')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A feature's `window` and `offset`. The first text of the fault's pair says which is wrong.
pub(super) fn span(window: &str) -> Result<Span, Fault> {
    if window == "lifetime" {
        return Ok(Span::Lifetime);
    }
    match days(window) {
        Some(0) => fault("a window of no days", "`1d` is today"),
        Some(n) if n > DAYS_MAX => {
            fault(format!("`{window}` is too long a window"), "write `lifetime`")
        }
        Some(n) => Ok(Span::Days { days: n, offset: 0 }),
        None => rolling(window),
    }
}

/// Minutes or hours: `30m`, `6h`.
fn rolling(window: &str) -> Result<Span, Fault> {
    let per_unit = [("m", 1_u64), ("h", 60)];
    let minutes = per_unit.iter().find_map(|(unit, minutes)| {
        let digits = window.strip_suffix(unit)?;
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        whole.then(|| digits.parse().unwrap_or(u64::MAX).saturating_mul(*minutes))
    });
    let Some(minutes) = minutes else {
        return fault(
            format!("`{window}` is not a window"),
            "write whole days, like `30d`, minutes or hours, like `30m` or `6h`, or `lifetime`",
        );
    };
    match u32::try_from(minutes / 5) {
        _ if minutes < 5 => {
            fault(format!("`{window}` is shorter than 5 minutes"), "`5m` is the shortest window")
        }
        _ if minutes % 5 != 0 => fault(
            format!("`{window}` is not a multiple of 5 minutes"),
            format!(
                "rolling windows move in steps of 5 minutes: `{}m` or `{}m`",
                minutes / 5 * 5,
                (minutes / 5 + 1) * 5
            ),
        ),
        Ok(hops) if hops <= HOPS_MAX => Ok(Span::Rolling { hops }),
        _ => fault(
            format!("`{window}` is too long a rolling window"),
            format!("at most `{}h`; longer ones count whole days, like `30d`", HOPS_MAX / 12),
        ),
    }
}

/// Moves a span back by `offset`.
pub(super) fn offset(span: Span, offset: &str) -> Result<Span, Fault> {
    let Some(back) = days(offset) else {
        return fault(format!("`{offset}` is not an offset"), "write whole days, like `30d`");
    };
    match span {
        Span::Lifetime => fault(
            "a lifetime has no offset",
            "give a window of days, like `window: 30d`, or drop `offset`",
        ),
        Span::Rolling { .. } => fault(
            "a window of minutes or hours has no offset",
            "give a window of days, like `window: 1d`, or drop `offset`",
        ),
        Span::Days { days, .. } if days.saturating_add(back) > DAYS_MAX => {
            fault(format!("`{offset}` is too far back"), format!("at most {DAYS_MAX} days in all"))
        }
        Span::Days { .. } if back == 0 => fault("an offset of no days", "drop `offset`"),
        Span::Days { days, .. } => Ok(Span::Days { days, offset: back }),
    }
}

/// A column type and whether it ends in `?`.
pub(super) fn column_type(text: &str) -> Result<(ColumnType, bool), Fault> {
    let (body, optional) = match text.trim().strip_suffix('?') {
        Some(body) => (body.trim_end(), true),
        None => (text.trim(), false),
    };
    let (word, argument) = match body.split_once('(') {
        None => (body, None),
        Some((word, rest)) => match rest.strip_suffix(')') {
            Some(argument) => (word, Some(argument.trim())),
            None => return fault(format!("`{text}` has no closing `)`"), "close it"),
        },
    };
    let kind = match (word, argument) {
        ("u64", None) => ColumnType::U64,
        ("int", None) => ColumnType::Int,
        ("float", None) => ColumnType::Float,
        ("string", None) => ColumnType::String,
        ("bool", None) => ColumnType::Bool,
        ("date", None) => ColumnType::Date,
        ("decimal", Some(argument)) => decimal_type(argument)?,
        ("decimal", None) => {
            return fault("decimal needs precision and scale", "write `decimal(12,2)`");
        }
        ("timestamp", Some(argument)) => ColumnType::Timestamp(timestamp_format(argument)?),
        ("timestamp", None) => {
            return fault(
                "timestamp needs its format",
                "write timestamp(s), (ms), (us), (iso) or ('%Y-%m-%d %H:%M:%S')",
            );
        }
        (_, Some(_)) if TYPE_WORDS.contains(&word) => {
            return fault(format!("{word} takes no argument"), format!("write `{word}`"));
        }
        _ => return fault(format!("unknown type `{word}`"), type_remedy(word)),
    };
    Ok((kind, optional))
}

const TYPE_WORDS: &[&str] =
    &["u64", "int", "float", "decimal", "string", "bool", "date", "timestamp"];

fn type_remedy(word: &str) -> String {
    let usual = match word.to_ascii_lowercase().as_str() {
        "str" | "text" | "varchar" | "char" | "enum" => Some("string"),
        "integer" | "i64" | "bigint" | "int64" | "long" | "i32" | "number" => Some("int"),
        "double" | "real" | "f64" | "f32" => Some("float"),
        "boolean" => Some("bool"),
        "uint" | "uint64" | "unsigned" => Some("u64"),
        "numeric" | "money" => Some("decimal(12,2)"),
        "datetime" | "time" => Some("timestamp(iso)"),
        other => super::fields::nearest(other, TYPE_WORDS.iter().copied()),
    };
    match usual {
        Some(word) => format!("did you mean `{word}`?"),
        None => {
            "types are u64, int, float, decimal(p,s), string, bool, date and timestamp(...)".into()
        }
    }
}

fn decimal_type(argument: &str) -> Result<ColumnType, Fault> {
    let parsed = argument
        .split_once(',')
        .and_then(|(p, s)| Some((p.trim().parse::<u8>().ok()?, s.trim().parse::<i8>().ok()?)));
    match parsed {
        None => fault(
            format!("decimal({argument}) is not a type"),
            "write `decimal(12,2)`: digits in all, digits behind the point",
        ),
        Some((p, _)) if p == 0 || p > 18 => {
            fault(format!("a decimal of {p} digits"), "1 to 18 digits are kept exactly")
        }
        Some((p, s)) if s < 0 || i16::from(s) > i16::from(p) => fault(
            format!("a decimal of {p} digits cannot have {s} behind the point"),
            "the second number is 0 up to the first",
        ),
        Some((precision, scale)) => Ok(ColumnType::Decimal { precision, scale }),
    }
}

/// `iso`, or `iso, utc` and `ms, local`, which say what instants without a zone mean.
fn timestamp_format(argument: &str) -> Result<TimestampFormat, Fault> {
    // A pattern may hold commas.
    let last = argument.rsplit_once(',').map(|(format, zone)| (format.trim(), zone.trim()));
    match last {
        Some((format, zone @ ("utc" | "local"))) => {
            let format = plain_timestamp_format(format)?;
            let is_text = matches!(format, TimestampFormat::Iso | TimestampFormat::Pattern(_));
            match zone {
                "local" => Ok(TimestampFormat::WallClock(Box::new(format))),
                _ if is_text => Ok(TimestampFormat::Utc(Box::new(format))),
                _ => fault(
                    format!("timestamp({argument}): numbers are UTC"),
                    "leave `utc` out; `local` is for local times that are written as if in UTC",
                ),
            }
        }
        _ => plain_timestamp_format(argument),
    }
}

fn plain_timestamp_format(argument: &str) -> Result<TimestampFormat, Fault> {
    let quoted = argument.strip_prefix(['\'', '"']).and_then(|rest| rest.strip_suffix(['\'', '"']));
    match (argument, quoted) {
        ("s", _) => Ok(TimestampFormat::Seconds),
        ("ms", _) => Ok(TimestampFormat::Millis),
        ("us", _) => Ok(TimestampFormat::Micros),
        ("iso", _) => Ok(TimestampFormat::Iso),
        (_, Some(pattern)) if tells_an_instant(pattern) => {
            Ok(TimestampFormat::Pattern(pattern.to_owned()))
        }
        (_, Some(pattern)) => fault(
            format!("`{pattern}` does not tell a day and time"),
            "use strftime's letters, like `%Y-%m-%d %H:%M:%S`",
        ),
        _ => fault(
            format!("timestamp({argument}) is not a type"),
            "write timestamp(s), (ms), (us), (iso) or ('%Y-%m-%d %H:%M:%S'); `, utc` or `, local` behind \
             it says what has no zone",
        ),
    }
}

/// Whether what a pattern writes can be read back as a date (and time) or an instant.
fn tells_an_instant(pattern: &str) -> bool {
    use jiff::fmt::strtime;
    let probe = jiff::civil::date(2026, 3, 4).at(5, 6, 7, 8).in_tz("UTC").ok();
    let written = probe.and_then(|z| strtime::format(pattern, &z).ok());
    let read = written.as_ref().and_then(|text| strtime::parse(pattern, text).ok());
    read.is_some_and(|t| t.to_datetime().is_ok() || t.to_timestamp().is_ok())
}

/// How a column type is written.
pub fn type_text(kind: &ColumnType) -> String {
    match kind {
        ColumnType::U64 => "u64".into(),
        ColumnType::Int => "int".into(),
        ColumnType::Float => "float".into(),
        ColumnType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        ColumnType::String => "string".into(),
        ColumnType::Bool => "bool".into(),
        ColumnType::Date => "date".into(),
        ColumnType::Timestamp(format) => format!("timestamp({})", timestamp_text(format)),
    }
}

fn timestamp_text(format: &TimestampFormat) -> String {
    match format {
        TimestampFormat::Seconds => "s".into(),
        TimestampFormat::Millis => "ms".into(),
        TimestampFormat::Micros => "us".into(),
        TimestampFormat::Iso => "iso".into(),
        TimestampFormat::Pattern(pattern) => format!("'{pattern}'"),
        TimestampFormat::Utc(format) => format!("{}, utc", timestamp_text(format)),
        TimestampFormat::WallClock(format) => format!("{}, local", timestamp_text(format)),
    }
}

/// An exact number as mantissa and scale: `0.10` is 10 and 2.
pub(super) fn decimal(text: &str) -> Option<(i128, i8)> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || body.ends_with('.') {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i8::try_from(fraction.len()).ok().filter(|s| *s <= 30)?;
    (mantissa < 10_i128.pow(37)).then_some((if negative { -mantissa } else { mantissa }, scale))
}

/// Compares two exact numbers.
pub(super) fn decimal_less(a: (i128, i8), b: (i128, i8)) -> bool {
    let scale = a.1.max(b.1);
    let at = |(m, s): (i128, i8)| {
        u32::try_from(scale - s).ok().and_then(|up| m.checked_mul(10_i128.checked_pow(up)?))
    };
    match (at(a), at(b)) {
        (Some(a), Some(b)) => a < b,
        // Beyond i128 at the common scale: the magnitudes differ by far more than a float's error.
        _ => approximate(a) < approximate(b),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an approximation is asked for")]
fn approximate((mantissa, scale): (i128, i8)) -> f64 {
    mantissa as f64 / 10_f64.powi(i32::from(scale))
}

/// A parameter's value: quoted is text; a plain whole number, decimal, `true` or `false` is that.
/// Numbers with leading zeros are text.
pub(super) fn param(text: &str, plain: bool) -> Param {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let leading_zero =
        unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
    match text {
        _ if !plain || leading_zero => Param::Text(text.to_owned()),
        "true" => Param::Bool(true),
        "false" => Param::Bool(false),
        _ => match (text.parse::<i64>(), decimal(text)) {
            (Ok(n), Some(_)) => Param::Int(n),
            (_, Some((mantissa, scale))) => Param::Decimal(mantissa, scale),
            _ => Param::Text(text.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_digits() {
        assert_eq!(decimal("0.10"), Some((10, 2)));
        assert_eq!(decimal("-3"), Some((-3, 0)));
        for wrong in ["", ".5", "1.", "1e3", "1_000", "--1", "a"] {
            assert_eq!(decimal(wrong), None, "{wrong}");
        }
        assert!(decimal_less((99, 2), (1, 0)) && !decimal_less((100, 2), (1, 0)));
    }

    #[test]
    fn a_parameter_is_what_it_looks_like() {
        assert_eq!(param("250", true), Param::Int(250));
        assert_eq!(param("2.50", true), Param::Decimal(250, 2));
        assert_eq!(param("250", false), Param::Text("250".into()));
        assert_eq!(param("01", true), Param::Text("01".into()));
        assert_eq!(param("no", true), Param::Text("no".into()));
    }
}
