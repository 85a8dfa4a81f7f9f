//! Times as `cases` write them.
//!
//! In: `-20d`, `-3h`, `2026-03-01T12:00`. Out: instants in the business timezone.
//! Invariant: no clock; everything is relative to the case's `as_of`.

use jiff::civil::{Date, DateTime};
use jiff::{Span, Timestamp, Zoned};

use super::scalar::{Fault, fault};
use crate::clock::Zone;

const REMEDY: &str = "write `-20d`, `-3h`, `-15m`, or a local time like `2026-03-01T12:00`";

/// What a case's `as_of` is where it has none: noon of a fixed day.
pub(super) fn default_as_of(zone: &Zone) -> Zoned {
    let noon = jiff::civil::date(2026, 1, 15).at(12, 0, 0, 0);
    let at = noon.to_zoned(zone.tz().clone());
    at.unwrap_or_else(|_| Timestamp::UNIX_EPOCH.to_zoned(zone.tz().clone()))
}

/// A time of its own: a local date and time, a date (its noon), or an instant with an offset.
pub(super) fn absolute(text: &str, zone: &Zone) -> Result<Zoned, Fault> {
    let instant = text.parse::<Timestamp>().ok().map(|at| at.to_zoned(zone.tz().clone()));
    let local = || text.parse::<DateTime>().ok().filter(|_| text.contains([':', 'T']));
    let noon = || text.parse::<Date>().ok().map(|date| date.at(12, 0, 0, 0));
    let civil = || local().or_else(noon).and_then(|at| at.to_zoned(zone.tz().clone()).ok());
    match instant.or_else(civil) {
        Some(at) => Ok(at),
        None => fault(format!("`{text}` is not a time"), REMEDY),
    }
}

/// A time relative to `as_of` (days are calendar days and keep the time of day), or one of its own.
pub(super) fn relative(text: &str, as_of: &Zoned, zone: &Zone) -> Result<Zoned, Fault> {
    let (negative, body) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(body), _) => (true, body),
        (_, Some(body)) => (false, body),
        _ => return absolute(text, zone),
    };
    let Some(span) = span(body) else {
        return fault(format!("`{text}` is not a time"), REMEDY);
    };
    let span = if negative { span.negate() } else { span };
    match as_of.checked_add(span) {
        Ok(at) => Ok(at),
        Err(_) => fault(format!("`{text}` is beyond the calendar"), "choose a nearer time"),
    }
}

/// How long after `as_of` an `after` check is, in milliseconds: days are calendar days.
pub(super) fn after_ms(text: &str, as_of: &Zoned) -> Result<i64, Fault> {
    let at = span(text).and_then(|span| as_of.checked_add(span).ok());
    let ms = at.map(|at| at.timestamp().as_millisecond() - as_of.timestamp().as_millisecond());
    match ms {
        Some(ms) if ms > 0 => Ok(ms),
        _ => fault(format!("`{text}` is not a time after"), "write `60d`, `3h` or `15m`"),
    }
}

/// `20d`, `3h`, `1d12h`.
fn span(text: &str) -> Option<Span> {
    let mut span = Span::new();
    let mut rest = text;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..split].parse().ok()?;
        let unit = rest[split..].chars().next()?;
        span = match unit {
            'd' => span.try_days(number),
            'h' => span.try_hours(number),
            'm' => span.try_minutes(number),
            's' => span.try_seconds(number),
            _ => return None,
        }
        .ok()?;
        rest = &rest[split + unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(span)
}
