//! Time: the one place that reads the machine's clock, and the calendar of the business timezone.
//!
//! In: nothing, or an instant. Out: instants in epoch milliseconds, days since 1970-01-01.
//! Invariant: nothing else in tagloom reads a clock.

use jiff::{Timestamp, tz::TimeZone};

/// A day of the business calendar: days since 1970-01-01 by local date.
pub type Day = i32;

/// The business timezone.
#[derive(Debug, Clone)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

/// A timezone that the bundled database does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown timezone `{0}`; use an IANA name like `Europe/London` or `UTC`")]
pub struct UnknownZone(pub String);

impl Zone {
    /// Looks an IANA name up in the bundled timezone database.
    pub fn new(name: &str) -> Result<Self, UnknownZone> {
        let zone = TimeZone::get(name).map_err(|_| UnknownZone(name.to_owned()))?;
        Ok(Self { name: name.to_owned(), zone })
    }

    /// The IANA name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For calendar arithmetic.
    pub fn tz(&self) -> &TimeZone {
        &self.zone
    }

    /// The local date of an instant. Instants beyond jiff's range (year -9999 to 9999) clamp.
    pub fn day_of(&self, instant_ms: i64) -> Day {
        let at = Timestamp::from_millisecond(instant_ms).unwrap_or(if instant_ms < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        let date = self.zone.to_datetime(at).date();
        days_from_civil(i32::from(date.year()), date.month(), date.day())
    }

    /// The first instant with that local date, epoch milliseconds.
    pub fn day_start_ms(&self, day: Day) -> i64 {
        let (year, month, dom) = civil_from_days(day);
        let date = jiff::civil::date(year, month, dom);
        match self.zone.to_ambiguous_zoned(date.at(0, 0, 0, 0)).later() {
            // A gap over midnight: `later` is the offset before it, so the first instant with this
            // date is the transition itself; `start_of_day` knows that rule.
            Ok(zoned) => match date.to_zoned(self.zone.clone()).and_then(|z| z.start_of_day()) {
                Ok(start) => start.timestamp().as_millisecond(),
                Err(_) => zoned.timestamp().as_millisecond(),
            },
            Err(_) => i64::from(day) * 86_400_000,
        }
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date
/// (<https://howardhinnant.github.io/date_algorithms.html>).
pub fn days_from_civil(year: i32, month: i8, day: i8) -> Day {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let m = i32::from(month);
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + i32::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

fn civil_from_days(day: Day) -> (i16, i8, i8) {
    let date = jiff::civil::date(1970, 1, 1)
        .checked_add(jiff::Span::new().days(i64::from(day)))
        .unwrap_or(if day < 0 { jiff::civil::Date::MIN } else { jiff::civil::Date::MAX });
    (date.year(), date.month(), date.day())
}

/// Milliseconds since the epoch by the machine's clock.
pub fn wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
