//! One value of a dimension's file, as text and as 64 bits.
//!
//! In: text and the type it should be. Out: a [`Cell`], or why it is none. Invariant: no I/O, no
//! clock; text is taken as it stands, nothing is rounded.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::fmt::strtime;

use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::clock::{Zone, days_from_civil};
use crate::event::scan;

/// A value. Numbers, days (since 1970-01-01), instants (epoch milliseconds), decimals (their
/// mantissa) and booleans (0, 1) are 64 bits; floats are their IEEE 754 bits with -0 as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    /// No value.
    Null,
    /// Anything but text.
    Bits(i64),
    /// Text.
    Text(&'a str),
}

/// The bits of a float; -0 and 0 are the same value.
pub(super) fn float_bits(value: f64) -> i64 {
    let value = if value == 0.0 { 0.0 } else { value };
    value.to_bits().cast_signed()
}

/// Reads a cell. An empty one is NULL. The error says what the text is not.
pub(super) fn parse<'a>(kind: &ColumnType, zone: &Zone, text: &'a str) -> Result<Cell<'a>, String> {
    if text.is_empty() {
        return Ok(Cell::Null);
    }
    match kind {
        ColumnType::String => Ok(Cell::Text(text)),
        _ => parse_bits(kind, zone, text).map(Cell::Bits),
    }
}

/// The whole number at `at`, as most cells of large tables are written, and where it ends; `None`: the
/// column is of something else, or [`parse`] has to look.
#[inline]
pub(super) fn whole(kind: &ColumnType, bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    if !matches!(kind, ColumnType::Int | ColumnType::U64) {
        return None;
    }
    let (number, end) = scan::whole(bytes, at)?;
    Some((i64::try_from(number).ok()?, end))
}

fn parse_bits(kind: &ColumnType, zone: &Zone, text: &str) -> Result<i64, String> {
    Ok(match kind {
        ColumnType::String => return Err("is text".to_owned()),
        ColumnType::U64 => {
            let number: u64 = text.parse().map_err(|_| "is no whole number from 0 to 2^64 - 1")?;
            number.cast_signed()
        }
        ColumnType::Int => text.parse().map_err(|_| "is no whole number of 64 bits")?,
        ColumnType::Float => {
            let number: f64 = text.parse().map_err(|_| "is no number")?;
            if !number.is_finite() {
                return Err("is no finite number".to_owned());
            }
            float_bits(number)
        }
        ColumnType::Decimal { precision, scale } => decimal(text, *precision, *scale)?,
        ColumnType::Bool => match text {
            "true" | "TRUE" | "True" | "1" => 1,
            "false" | "FALSE" | "False" | "0" => 0,
            _ => return Err("is neither true nor false".to_owned()),
        },
        ColumnType::Date => {
            let date: Date = text.parse().map_err(|_| "is no day YYYY-MM-DD")?;
            i64::from(days_from_civil(i32::from(date.year()), date.month(), date.day()))
        }
        ColumnType::Timestamp(format) => instant(text, format, zone)?,
    })
}

/// Digits with an optional sign and point, exactly: more decimals than the scale are an error.
fn decimal(text: &str, precision: u8, scale: i8) -> Result<i64, String> {
    let no_decimal = || "is no decimal number".to_owned();
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(no_decimal());
    }
    let scale = usize::try_from(scale).map_err(|_| no_decimal())?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale {
        return Err(format!("has more than {scale} decimals"));
    }
    let mut mantissa: i64 = 0;
    let padding = std::iter::repeat_n(b'0', scale - fraction.len());
    for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
        mantissa = mantissa
            .checked_mul(10)
            .and_then(|m| m.checked_add(i64::from(digit - b'0')))
            .filter(|m| u32::from(precision) > 18 || *m < 10i64.pow(u32::from(precision)))
            .ok_or_else(|| format!("has more than {precision} digits"))?;
    }
    Ok(if negative { -mantissa } else { mantissa })
}

fn instant(text: &str, format: &TimestampFormat, zone: &Zone) -> Result<i64, String> {
    let number = || text.parse::<i64>().map_err(|_| "is no whole number".to_owned());
    let local = |at: DateTime| {
        // A local time twice or never there (a DST change) is read as jiff's "compatible" does.
        let instant = zone.tz().to_ambiguous_timestamp(at).compatible();
        instant.map(|t| t.as_millisecond()).map_err(|_| "lies beyond the years -9999 to 9999")
    };
    match format {
        TimestampFormat::Seconds => {
            Ok(number()?.checked_mul(1000).ok_or("lies beyond 64 bits of milliseconds")?)
        }
        TimestampFormat::Millis => number(),
        TimestampFormat::Micros => Ok(number()?.div_euclid(1000)),
        TimestampFormat::Iso => {
            if let Ok(instant) = text.parse::<Timestamp>() {
                return Ok(instant.as_millisecond());
            }
            let at: DateTime = text.parse().map_err(|_| "is no ISO 8601 date and time")?;
            Ok(local(at)?)
        }
        TimestampFormat::Utc(format) => instant(text, format, Zone::utc()),
        TimestampFormat::WallClock(format) => {
            let at = Timestamp::from_millisecond(instant(text, format, Zone::utc())?);
            let at = at.map_err(|_| "lies beyond the years -9999 to 9999")?;
            Ok(local(jiff::tz::TimeZone::UTC.to_datetime(at))?)
        }
        TimestampFormat::Pattern(pattern) => {
            let mismatch = |_| format!("does not match `{pattern}`");
            let parsed = strtime::parse(pattern, text).map_err(mismatch)?;
            if parsed.offset().is_some() || parsed.timestamp().is_some() {
                return parsed.to_timestamp().map(|t| t.as_millisecond()).map_err(mismatch);
            }
            let at = parsed.to_datetime().or_else(|_| parsed.to_date().map(DateTime::from));
            Ok(local(at.map_err(mismatch)?)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &ColumnType, text: &str, expect: Result<i64, &str>) {
        let zone = Zone::new("Europe/London").unwrap();
        let got = parse(kind, &zone, text);
        assert_eq!(got, expect.map(Cell::Bits).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn cells_are_read_exactly() {
        let decimal = ColumnType::Decimal { precision: 5, scale: 2 };
        check(&ColumnType::Int, "-12", Ok(-12));
        check(&ColumnType::U64, "18446744073709551615", Ok(-1));
        check(&ColumnType::Float, "-0.0", Ok(0));
        check(&ColumnType::Float, "1.5", Ok(float_bits(1.5)));
        check(&decimal, "-1.5", Ok(-150));
        check(&decimal, "999.990", Ok(99999));
        check(&decimal, ".5", Ok(50));
        check(&ColumnType::Bool, "true", Ok(1));
        check(&ColumnType::Date, "1970-01-31", Ok(30));
        let at = |format| ColumnType::Timestamp(format);
        check(&at(TimestampFormat::Seconds), "-1", Ok(-1000));
        check(&at(TimestampFormat::Micros), "-1", Ok(-1));
        check(&at(TimestampFormat::Iso), "2026-07-01T12:00:00Z", Ok(1_782_907_200_000));
        let utc = TimestampFormat::Utc(Box::new(TimestampFormat::Iso));
        check(&at(utc), "2026-07-01T12:00:00", Ok(1_782_907_200_000));
        let local = TimestampFormat::WallClock(Box::new(TimestampFormat::Iso));
        check(&at(local), "2026-07-01T13:00:00Z", Ok(1_782_907_200_000));
        check(&at(TimestampFormat::Iso), "2026-07-01T13:00:00", Ok(1_782_907_200_000));
        let pattern = |p: &str| at(TimestampFormat::Pattern(p.to_owned()));
        check(&pattern("%Y-%m-%d %H:%M:%S"), "2026-07-01 13:00:00", Ok(1_782_907_200_000));
        check(&pattern("%Y-%m-%d %H:%M %z"), "2026-07-01 12:00 +0000", Ok(1_782_907_200_000));
        check(&pattern("%d.%m.%Y"), "02.07.2026", Ok(1_782_946_800_000));
    }

    #[test]
    fn what_cannot_be_read_says_what_it_is_not() {
        let decimal = ColumnType::Decimal { precision: 5, scale: 2 };
        check(&ColumnType::Int, "1.0", Err("is no whole number of 64 bits"));
        check(&ColumnType::U64, "-1", Err("is no whole number from 0 to 2^64 - 1"));
        check(&ColumnType::Float, "NaN", Err("is no finite number"));
        check(&decimal, "1.234", Err("has more than 2 decimals"));
        check(&decimal, "1000", Err("has more than 5 digits"));
        check(&decimal, "-", Err("is no decimal number"));
        check(&decimal, "1e3", Err("is no decimal number"));
        check(&ColumnType::Bool, "y", Err("is neither true nor false"));
        check(&ColumnType::Date, "31.01.2026", Err("is no day YYYY-MM-DD"));
        let iso = ColumnType::Timestamp(TimestampFormat::Iso);
        check(&iso, "yesterday", Err("is no ISO 8601 date and time"));
    }
}
