//! Time: the one place that reads the machine's clock, and the calendar of the business timezone.
//!
//! In: nothing, or an instant. Out: instants in epoch milliseconds, days since 1970-01-01.
//! Invariant: nothing else in tagloom reads a clock.

use std::sync::LazyLock;

use jiff::{Timestamp, tz::TimeZone};

/// A day of the business calendar: days since 1970-01-01 by local date.
pub type Day = i32;

/// Five minutes of epoch time, in which rolling spans move: epoch milliseconds by [`HOP_MS`].
pub type Hop = i64;

/// Milliseconds of a hop.
pub const HOP_MS: i64 = 300_000;

/// The hop of an instant.
pub fn hop_of(instant_ms: i64) -> Hop {
    instant_ms.div_euclid(HOP_MS)
}

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

    /// UTC, for instants that are written in it without saying so.
    pub fn utc() -> &'static Self {
        static UTC: LazyLock<Zone> =
            LazyLock::new(|| Zone { name: "UTC".to_owned(), zone: TimeZone::UTC });
        &UTC
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

    /// An instant as local time with its offset, for people.
    pub fn show(&self, instant_ms: i64) -> String {
        Timestamp::from_millisecond(instant_ms).map_or_else(
            |_| show_instant(instant_ms),
            |at| at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
        )
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
#[expect(clippy::disallowed_methods, reason = "the one clock module")]
pub fn wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Milliseconds since the machine started, time that it slept included: what is measured by it goes on
/// while this process is stopped or its machine suspended.
pub fn boot_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// The earlier of two instants, where there are any.
pub fn earlier(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

/// An instant as ISO 8601 in UTC, for messages.
pub fn show_instant(instant_ms: i64) -> String {
    Timestamp::from_millisecond(instant_ms)
        .map_or_else(|_| format!("{instant_ms} ms"), |t| t.to_string())
}

/// Measures how long stages take: for metrics only, no result depends on it.
#[derive(Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "the one clock module")]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start or the last lap.
    pub fn lap(&mut self) -> std::time::Duration {
        let now = Self::start();
        let took = now.0 - self.0;
        *self = now;
        took
    }

    /// Time since the start or the last lap, which goes on.
    pub fn elapsed(&self) -> std::time::Duration {
        self.0.elapsed()
    }
}

/// Until when something may take, by a clock that only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(std::time::Instant);

impl Deadline {
    /// So long from now. Beyond what the clock can say (centuries): a day from now.
    #[expect(clippy::disallowed_methods, reason = "the one clock module")]
    pub fn after(time: std::time::Duration) -> Self {
        let now = std::time::Instant::now();
        let day = std::time::Duration::from_secs(86_400);
        Self(now.checked_add(time).unwrap_or(now + day))
    }

    /// The time left; zero when it is over.
    #[expect(clippy::disallowed_methods, reason = "the one clock module")]
    pub fn left(self) -> std::time::Duration {
        self.0.saturating_duration_since(std::time::Instant::now())
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

/// Local dates of instants, by a table: what a batch of events asks for again and again.
#[derive(Debug, Clone)]
pub struct DayTable {
    zone: Zone,
    slots: Vec<DaySlot>,
}

/// Where days begin within one UTC day: at most two begin in it.
#[derive(Debug, Clone, Copy)]
struct DaySlot {
    utc_day: i64,
    first: Day,
    starts: [i64; 2],
}

const DAY_SLOTS: usize = 1024;

impl DayTable {
    /// An empty table for a zone.
    pub fn new(zone: &Zone) -> Self {
        let empty = DaySlot { utc_day: i64::MIN, first: 0, starts: [0; 2] };
        Self { zone: zone.clone(), slots: vec![empty; DAY_SLOTS] }
    }

    /// The same as [`Zone::day_of`].
    #[inline]
    pub fn day_of(&mut self, instant_ms: i64) -> Day {
        let utc_day = instant_ms.div_euclid(86_400_000);
        let at = usize::try_from(utc_day.rem_euclid(DAY_SLOTS as i64)).unwrap_or(0);
        if self.slots[at].utc_day != utc_day {
            let first = self.zone.day_of(utc_day.saturating_mul(86_400_000));
            let starts = [1, 2].map(|n| self.zone.day_start_ms(first.saturating_add(n)));
            self.slots[at] = DaySlot { utc_day, first, starts };
        }
        let slot = &self.slots[at];
        slot.first
            + Day::from(instant_ms >= slot.starts[0])
            + Day::from(instant_ms >= slot.starts[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_calendar_across_clock_changes() {
        for name in ["Europe/London", "Asia/Shanghai", "America/Sao_Paulo", "Asia/Kathmandu"] {
            let zone = Zone::new(name).expect("in the bundled database");
            let mut table = DayTable::new(&zone);
            let start = 1_500_000_000_000;
            for hour in 0..24 * 800 {
                let at = start + hour * 3_600_000 + 1_234;
                assert_eq!(table.day_of(at), zone.day_of(at), "{name} {at}");
            }
        }
    }

    #[test]
    fn a_day_begins_at_its_first_instant() {
        // In 2018 midnight of November 4th did not exist in Sao Paulo.
        let zone = Zone::new("America/Sao_Paulo").expect("in the bundled database");
        let day = days_from_civil(2018, 11, 4);
        let start = zone.day_start_ms(day);
        assert_eq!(zone.day_of(start), day);
        assert_eq!(zone.day_of(start - 1), day - 1);
    }

    #[test]
    fn unknown_zones_are_named() {
        let error = Zone::new("Mars/Olympus").expect_err("no such zone").to_string();
        assert!(error.contains("Mars/Olympus") && error.contains("Europe/London"), "{error}");
    }
}
