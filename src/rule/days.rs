//! Local dates of instants, fast, and `days_since` as a DataFusion function.
//!
//! In: instants in epoch milliseconds. Out: days since 1970-01-01 by local date; ages in calendar
//! days. Invariant: equal to [`Zone::day_of`] for every instant; reads no clock.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder};
use arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMillisecondType};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::clock::{Day, Zone};

/// The name of the function in rules.
pub const NAME: &str = "days_since";

const DAY_MS: i64 = 86_400_000;

/// The offsets of a timezone between 1970 and 2100, so that a local date costs a few instructions.
#[derive(Debug, Clone)]
pub struct DayIndex {
    zone: Zone,
    /// First instant of each stretch of constant offset, ascending.
    starts_ms: Vec<i64>,
    offsets_ms: Vec<i64>,
    end_ms: i64,
}

impl DayIndex {
    /// Reads the zone's transitions.
    pub fn new(zone: &Zone) -> Self {
        let end_ms = 4_102_444_800_000; // 2100-01-01
        let start = jiff::Timestamp::UNIX_EPOCH;
        let offset = |at: jiff::Timestamp| i64::from(zone.tz().to_offset(at).seconds()) * 1000;
        let (mut starts_ms, mut offsets_ms) = (vec![0], vec![offset(start)]);
        for transition in zone.tz().following(start) {
            let at = transition.timestamp();
            if at.as_millisecond() >= end_ms {
                break;
            }
            starts_ms.push(at.as_millisecond());
            offsets_ms.push(offset(at));
        }
        Self { zone: zone.clone(), starts_ms, offsets_ms, end_ms }
    }

    /// The local date of an instant.
    pub fn day_of(&self, instant_ms: i64) -> Day {
        self.day_with(instant_ms, &mut Stretch::default())
    }

    /// As [`Self::day_of`], remembering the stretch of constant offset of the last instant.
    #[inline]
    pub fn day_with(&self, instant_ms: i64, last: &mut Stretch) -> Day {
        if instant_ms < last.start_ms || instant_ms >= last.end_ms {
            if !(0..self.end_ms).contains(&instant_ms) {
                return self.zone.day_of(instant_ms);
            }
            let at = self.starts_ms.partition_point(|s| *s <= instant_ms) - 1;
            last.start_ms = self.starts_ms[at];
            last.end_ms = self.starts_ms.get(at + 1).copied().unwrap_or(self.end_ms);
            last.offset_ms = self.offsets_ms[at];
        }
        let day = (instant_ms + last.offset_ms).div_euclid(DAY_MS);
        Day::try_from(day).unwrap_or(Day::MAX)
    }
}

/// A stretch of constant offset.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stretch {
    start_ms: i64,
    end_ms: i64,
    offset_ms: i64,
}

/// `days_since(instant or date, as_of_date)`: calendar days from the local date of the first to the
/// second; negative when the first is later. In rules it is written with its first argument only;
/// [`super::sql::compile`] adds the second.
pub fn days_since(zone: &Zone) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(DaysSince {
        zone: zone.name().to_owned(),
        days: Arc::new(DayIndex::new(zone)),
        signature: Signature::variadic_any(Volatility::Immutable),
    }))
}

#[derive(Debug)]
struct DaysSince {
    zone: String,
    days: Arc<DayIndex>,
    signature: Signature,
}

impl PartialEq for DaysSince {
    fn eq(&self, other: &Self) -> bool {
        self.zone == other.zone
    }
}

impl Eq for DaysSince {}

impl std::hash::Hash for DaysSince {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.zone.hash(state);
    }
}

impl ScalarUDFImpl for DaysSince {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date32]
            | [
                DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date32,
                DataType::Date32,
            ] => Ok(DataType::Int64),
            [DataType::Timestamp(_, _)] => Ok(DataType::Int64),
            [other] => plan_err!("days_since needs a timestamp or a date, not {other}"),
            _ => plan_err!("days_since takes one timestamp"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [since, as_of] = args.args.as_slice() else {
            return exec_err!("days_since without as_of_date");
        };
        let all_scalar =
            matches!((since, as_of), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let (since, as_of) = (since.to_array(rows)?, as_of.to_array(rows)?);
        let ages: ArrayRef = Arc::new(self.ages(&since, &as_of)?);
        if all_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&ages, 0)?));
        }
        Ok(ColumnarValue::Array(ages))
    }
}

impl DaysSince {
    fn ages(&self, since: &ArrayRef, as_of: &ArrayRef) -> Result<Int64Array> {
        let as_of = as_of.as_primitive::<Date32Type>();
        let mut ages = Int64Builder::with_capacity(since.len());
        let mut last = Stretch::default();
        let instants = since.as_primitive_opt::<TimestampMillisecondType>();
        let dates = since.as_primitive_opt::<Date32Type>();
        for row in 0..since.len() {
            if since.is_null(row) || as_of.is_null(row) {
                ages.append_null();
                continue;
            }
            let day = match (instants, dates) {
                (Some(instants), _) => self.days.day_with(instants.value(row), &mut last),
                (None, Some(dates)) => dates.value(row),
                (None, None) => return exec_err!("days_since over {}", since.data_type()),
            };
            ages.append_value(i64::from(as_of.value(row)) - i64::from(day));
        }
        Ok(ages.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_local_date_is_the_zones(ms in prop_oneof![any::<i64>(), 0..4_200_000_000_000_i64]) {
            // Gaps and overlaps at midnight, half hours, a skipped day, and none of it.
            for zone in ["Europe/London", "America/Havana", "Asia/Kolkata", "Pacific/Apia", "UTC"] {
                let zone = Zone::new(zone).unwrap();
                let days = DayIndex::new(&zone);
                let mut last = Stretch::default();
                for at in [ms, ms.saturating_add(DAY_MS / 3), ms.saturating_sub(DAY_MS * 200)] {
                    prop_assert_eq!(days.day_with(at, &mut last), zone.day_of(at));
                }
            }
        }

        #[test]
        fn days_change_where_the_zone_changes(nth in 0..200_usize, by in -2..3_i64) {
            let zone = Zone::new("America/Havana").unwrap();
            let days = DayIndex::new(&zone);
            let at = days.starts_ms[nth % days.starts_ms.len()] + by;
            prop_assert_eq!(days.day_of(at), zone.day_of(at));
        }
    }
}
