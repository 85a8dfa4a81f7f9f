//! Cells to values.
//!
//! In: a JSON value (strict: a number in quotes is text) or CSV text (parsed). Out: the value, or
//! the reason why the row is refused. Invariant: no I/O; nothing wraps or rounds silently.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::column::timestamp_is_text;
use super::reject::Reason;
use super::scan;
use crate::catalog::model::TimestampFormat;
use crate::clock::{Day, Zone, days_from_civil};

/// One cell as its source has it.
#[derive(Debug, Clone, Copy)]
pub enum Cell<'a> {
    /// JSON null, an absent key, an empty CSV cell.
    Null,
    /// A JSON string.
    Text(&'a str),
    /// A JSON number, as written.
    Number(&'a str),
    /// A JSON whole number from 0 up, already read.
    Unsigned(u64),
    /// A JSON whole number below 0, already read.
    Signed(i64),
    /// A JSON number with fraction or exponent, already read.
    Float(f64),
    /// A JSON boolean.
    Bool(bool),
    /// A JSON array or object.
    Nested,
    /// A CSV cell, not empty.
    Csv(&'a str),
}

type Parsed<T> = Result<T, Reason>;

fn whole<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Reason::Type);
    }
    text.parse().map_err(|_| Reason::Range)
}

pub(super) fn u64(cell: Cell<'_>) -> Parsed<u64> {
    match cell {
        Cell::Unsigned(x) => Ok(x),
        Cell::Signed(_) => Err(Reason::Range),
        Cell::Csv(t) | Cell::Number(t) => match scan::whole(t.as_bytes(), 0) {
            Some((x, end)) if end == t.len() => Ok(x),
            _ => whole(t.trim()),
        },
        _ => Err(Reason::Type),
    }
}

pub(super) fn i64(cell: Cell<'_>) -> Parsed<i64> {
    match cell {
        Cell::Unsigned(x) => i64::try_from(x).map_err(|_| Reason::Range),
        Cell::Signed(x) => Ok(x),
        Cell::Csv(t) | Cell::Number(t) => match scan::signed(t.as_bytes(), 0) {
            Some((x, end)) if end == t.len() => Ok(x),
            _ => whole(t.trim()),
        },
        _ => Err(Reason::Type),
    }
}

pub(super) fn f64(cell: Cell<'_>) -> Parsed<f64> {
    let value = match cell {
        #[expect(clippy::cast_precision_loss, reason = "a JSON whole number in a float column")]
        Cell::Unsigned(x) => x as f64,
        #[expect(clippy::cast_precision_loss, reason = "a JSON whole number in a float column")]
        Cell::Signed(x) => x as f64,
        Cell::Float(x) => x,
        Cell::Csv(t) | Cell::Number(t) => t.trim().parse().map_err(|_| Reason::Type)?,
        _ => return Err(Reason::Type),
    };
    Ok(canonical(value))
}

/// One zero and one NaN, so that equal values have equal bits.
pub(super) fn canonical(value: f64) -> f64 {
    if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    }
}

pub(super) fn bool(cell: Cell<'_>) -> Parsed<bool> {
    match cell {
        Cell::Bool(x) => Ok(x),
        Cell::Csv(t) => match t.trim() {
            "true" | "TRUE" | "True" | "1" => Ok(true),
            "false" | "FALSE" | "False" | "0" => Ok(false),
            _ => Err(Reason::Type),
        },
        _ => Err(Reason::Type),
    }
}

/// The mantissa at `scale`. More decimals than the scale (zeros aside) are refused.
pub(super) fn decimal(cell: Cell<'_>, precision: u8, scale: i8) -> Parsed<i64> {
    let text = match cell {
        Cell::Csv(t) | Cell::Number(t) => t.trim(),
        _ => return Err(Reason::Type),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().map_err(|_| Reason::Type)?),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if int.len() + fraction.len() == 0 || exponent.unsigned_abs() > 400 {
        return Err(Reason::Type);
    }
    let mut value: i128 = 0;
    for byte in int.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(Reason::Type);
        }
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(byte - b'0')))
            .ok_or(Reason::Range)?;
    }
    let fraction_digits = i32::try_from(fraction.len()).map_err(|_| Reason::Range)?;
    let mut shift = i32::from(scale) - fraction_digits + exponent;
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(Reason::Range)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(Reason::Scale);
        }
        value /= 10;
        shift += 1;
    }
    if value >= 10i128.pow(u32::from(precision)) {
        return Err(Reason::Range);
    }
    let value = i64::try_from(value).map_err(|_| Reason::Range)?;
    Ok(if negative { -value } else { value })
}

pub(super) fn date(cell: Cell<'_>) -> Parsed<Day> {
    match cell {
        // Debezium's days since 1970.
        Cell::Number(_) => Day::try_from(i64(cell)?).map_err(|_| Reason::Range),
        Cell::Text(t) | Cell::Csv(t) => {
            let date: Date = t.trim().parse().map_err(|_| Reason::Type)?;
            Ok(days_from_civil(i32::from(date.year()), date.month(), date.day()))
        }
        _ => Err(Reason::Type),
    }
}

/// Epoch milliseconds. Instants beyond year 9999 either way are out of range.
pub(super) fn timestamp(cell: Cell<'_>, format: &TimestampFormat, zone: &Zone) -> Parsed<i64> {
    match format {
        TimestampFormat::Utc(format) => return timestamp(cell, format, Zone::utc()),
        TimestampFormat::WallClock(format) => {
            let at = Timestamp::from_millisecond(timestamp(cell, format, Zone::utc())?);
            return in_zone(TimeZone::UTC.to_datetime(at.map_err(|_| Reason::Range)?), zone);
        }
        _ => {}
    }
    if timestamp_is_text(format) {
        let (Cell::Text(text) | Cell::Csv(text)) = cell else { return Err(Reason::Type) };
        return match format {
            TimestampFormat::Pattern(pattern) => by_pattern(text.trim(), pattern, zone),
            _ => iso(text.trim(), zone),
        };
    }
    instant_ms(i64(cell)?, format)
}

/// Epoch milliseconds of a number in one of the formats that are numbers.
pub(super) fn instant_ms(number: i64, format: &TimestampFormat) -> Parsed<i64> {
    // 1970 to 9900: no need to ask the calendar.
    const SURELY_IN_RANGE: std::ops::Range<i64> = 0..250_000_000_000_000;
    let ms = match format {
        TimestampFormat::Seconds => number.checked_mul(1000).ok_or(Reason::Range)?,
        TimestampFormat::Micros => number.div_euclid(1000),
        _ => number,
    };
    if !SURELY_IN_RANGE.contains(&ms) && Timestamp::from_millisecond(ms).is_err() {
        return Err(Reason::Range);
    }
    Ok(ms)
}

/// ISO 8601; without offset it is local time in `zone`.
pub fn iso(text: &str, zone: &Zone) -> Result<i64, Reason> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let local: DateTime = text.parse().map_err(|_| Reason::Type)?;
    in_zone(local, zone)
}

fn by_pattern(text: &str, pattern: &str, zone: &Zone) -> Parsed<i64> {
    let parsed = jiff::fmt::strtime::parse(pattern, text).map_err(|_| Reason::Type)?;
    if let Ok(at) = parsed.to_timestamp() {
        return Ok(at.as_millisecond());
    }
    let local = parsed.to_datetime().or_else(|_| parsed.to_date().map(|d| d.at(0, 0, 0, 0)));
    in_zone(local.map_err(|_| Reason::Type)?, zone)
}

/// A local time that a change of clocks skips is read with the offset before it, one that occurs
/// twice is its first occurrence (RFC 5545's rule).
pub(super) fn in_zone(local: DateTime, zone: &Zone) -> Parsed<i64> {
    let zoned: Result<Zoned, _> = local.to_zoned(zone.tz().clone());
    zoned.map(|z| z.timestamp().as_millisecond()).map_err(|_| Reason::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        let check = |text: &str, expect: Parsed<i64>| {
            assert_eq!(decimal(Cell::Csv(text), 12, 3), expect, "{text}");
        };
        check("2.55", Ok(2550));
        check("-2.5", Ok(-2500));
        check("7", Ok(7000));
        check("1.2500", Ok(1250));
        check("1.2505", Err(Reason::Scale));
        check("1e3", Ok(1_000_000));
        check("15e-4", Err(Reason::Scale));
        check("1000000000", Err(Reason::Range));
        check("", Err(Reason::Type));
        check("1,5", Err(Reason::Type));
        check("99999999999999999999999999999999999999999999", Err(Reason::Range));
    }

    #[test]
    fn json_numbers_are_not_text_and_text_is_no_number() {
        assert_eq!(i64(Cell::Text("5")), Err(Reason::Type));
        assert_eq!(i64(Cell::Float(5.0)), Err(Reason::Type));
        assert_eq!(u64(Cell::Signed(-5)), Err(Reason::Range));
        assert_eq!(i64(Cell::Csv("-5")), Ok(-5));
        assert_eq!(i64(Cell::Csv("5.0")), Err(Reason::Type));
        assert_eq!(i64(Cell::Csv(" -007 ")), Ok(-7));
        assert_eq!(i64(Cell::Csv("-0")), Ok(0));
        assert_eq!(u64(Cell::Csv("007")), Ok(7));
        assert_eq!(u64(Cell::Csv("-7")), Err(Reason::Range));
        assert_eq!(u64(Cell::Csv("18446744073709551615")), Ok(u64::MAX));
        assert_eq!(u64(Cell::Csv("18446744073709551616")), Err(Reason::Range));
        assert_eq!(f64(Cell::Csv("-0.0")).map(f64::to_bits), Ok(0));
    }

    #[test]
    fn what_has_no_zone_is_read_as_its_column_says() {
        let shanghai = Zone::new("Asia/Shanghai").expect("in the bundled database");
        let check = |format: TimestampFormat, cell: Cell<'_>, expect: i64| {
            assert_eq!(timestamp(cell, &format, &shanghai), Ok(expect), "{format:?} {cell:?}");
        };
        let local = |format| TimestampFormat::WallClock(Box::new(format));
        let utc = |format| TimestampFormat::Utc(Box::new(format));
        // 2026-03-05 23:59:59.999 in Shanghai.
        let at = 1_772_726_399_999;
        check(local(TimestampFormat::Millis), Cell::Unsigned(1_772_755_199_999), at);
        check(local(TimestampFormat::Micros), Cell::Csv("1772755199999000"), at);
        check(local(TimestampFormat::Iso), Cell::Csv("2026-03-05T23:59:59.999Z"), at);
        check(TimestampFormat::Iso, Cell::Csv("2026-03-05 23:59:59.999"), at);
        check(utc(TimestampFormat::Iso), Cell::Csv("2026-03-05 15:59:59.999"), at);
        check(utc(TimestampFormat::Iso), Cell::Csv("2026-03-05T15:59:59.999Z"), at);
        let pattern = TimestampFormat::Pattern("%d.%m.%Y %H:%M".into());
        check(utc(pattern), Cell::Csv("05.03.2026 16:00"), at + 1);
        check(local(TimestampFormat::Millis), Cell::Signed(-1000), -28_801_000);
    }

    #[test]
    fn instants_without_offset_are_local() {
        let london = Zone::new("Europe/London").expect("in the bundled database");
        let pattern = TimestampFormat::Pattern("%Y-%m-%d %H:%M:%S".into());
        let winter = timestamp(Cell::Csv("2010-12-01 08:26:00"), &pattern, &london);
        let summer = timestamp(Cell::Csv("2011-07-01 08:26:00"), &pattern, &london);
        assert_eq!(winter, Ok(1_291_191_960_000));
        assert_eq!(summer, Ok(1_309_505_160_000));
        let iso =
            timestamp(Cell::Text("2011-07-01T08:26:00+00:00"), &TimestampFormat::Iso, &london);
        assert_eq!(iso, Ok(1_309_508_760_000));
        let seconds = timestamp(Cell::Unsigned(u64::MAX), &TimestampFormat::Seconds, &london);
        assert_eq!(seconds, Err(Reason::Range));
    }
}
