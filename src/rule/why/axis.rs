//! An input's values as whole numbers in order, so that they can be searched.
//!
//! In: a type and the present value. Out: ordinals, and values back from them. A step of one is the
//! smallest difference of the type; for instants it is a day, by which rules count.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;

use crate::clock::Zone;
use crate::rule::AsOf;

/// Numbers beyond this, either way, are not tried: rules overflow there rather than say something.
const NUMBER_MAX: i128 = 1_000_000_000_000_000;

const DAY_MS: i64 = 86_400_000;

/// Days around the as-of day that are tried.
const DAYS_MAX: i64 = 36_600;

/// One input's values.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    data_type: DataType,
    /// Ordinal of the present value.
    pub(super) present: Option<i128>,
    /// For instants: the present value, and its age in days.
    base_ms: i64,
    age: i64,
    as_of: AsOf,
}

impl Axis {
    /// `None`: values of this type have no steps.
    pub(super) fn new(
        data_type: DataType,
        present: &ScalarValue,
        as_of: AsOf,
        zone: &Zone,
    ) -> Option<Self> {
        let known = matches!(
            data_type,
            DataType::Int64
                | DataType::UInt64
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Millisecond, _)
        );
        if !known {
            return None;
        }
        let mut axis = Self { data_type, present: None, base_ms: as_of.ms, age: 0, as_of };
        axis.present = match present {
            ScalarValue::Int64(Some(v)) => Some(i128::from(*v)),
            ScalarValue::UInt64(Some(v)) => Some(i128::from(*v)),
            ScalarValue::Float64(Some(v)) => Some(ordinal_of(*v)),
            ScalarValue::Decimal128(Some(v), ..) => Some(*v),
            ScalarValue::Date32(Some(v)) => Some(i128::from(*v)),
            ScalarValue::TimestampMillisecond(Some(v), _) => {
                axis.base_ms = *v;
                axis.age = i64::from(as_of.day) - i64::from(zone.day_of(*v));
                Some(0)
            }
            _ => None,
        };
        Some(axis)
    }

    /// Least and greatest ordinal to look at.
    pub(super) fn range(&self, lowest: Option<i64>, past: bool) -> (i128, i128) {
        let (low, high) = match &self.data_type {
            DataType::UInt64 => (0, NUMBER_MAX),
            DataType::Float64 => (ordinal_of(-1e15), ordinal_of(1e15)),
            DataType::Decimal128(precision, scale) => {
                let fits = 10i128.pow(u32::from(*precision).min(38)) - 1;
                let most = rescale(NUMBER_MAX, 0, *scale).unwrap_or(fits).min(fits);
                (-most, most)
            }
            DataType::Date32 => {
                let day = i128::from(self.as_of.day);
                let ahead = if past { 0 } else { i128::from(DAYS_MAX) };
                (day - i128::from(DAYS_MAX), day + ahead)
            }
            DataType::Timestamp(..) => {
                let ahead = if past { 0 } else { DAYS_MAX };
                (i128::from(self.age - DAYS_MAX), i128::from((self.age + ahead).max(0)))
            }
            _ => (-NUMBER_MAX, NUMBER_MAX),
        };
        let low = lowest.map_or(low, |lowest| low.max(i128::from(lowest)));
        let present = self.present.unwrap_or(low);
        (low.min(present), high.max(present))
    }

    /// Ordinals worth a try: what the rules name and its neighbours, and steps of doubling width.
    pub(super) fn points(&self, literals: &[ScalarValue]) -> Vec<i128> {
        let mut points: Vec<i128> = Vec::new();
        for literal in literals {
            points.extend(self.near(literal).into_iter().flat_map(|p| [p - 1, p, p + 1]));
        }
        let from = self.present.unwrap_or(0);
        match &self.data_type {
            DataType::Float64 => {
                let present = value_of(from);
                for power in -20..60 {
                    let by = 2f64.powi(power);
                    points.extend([present + by, present - by].map(ordinal_of));
                }
                points.push(ordinal_of(0.0));
            }
            _ => {
                points.push(0);
                for power in 0..100 {
                    let by = 1i128 << power;
                    points
                        .extend([from.checked_add(by), from.checked_sub(by)].into_iter().flatten());
                }
            }
        }
        points
    }

    /// The ordinals that a literal of a rule stands for on this axis.
    fn near(&self, literal: &ScalarValue) -> Vec<i128> {
        if let (DataType::Date32, ScalarValue::Date32(Some(day))) = (&self.data_type, literal) {
            return vec![i128::from(*day)];
        }
        let Some((mantissa, scale)) = decimal(literal) else { return Vec::new() };
        match &self.data_type {
            DataType::Int64 | DataType::UInt64 => rescale(mantissa, scale, 0).into_iter().collect(),
            DataType::Decimal128(_, to) => rescale(mantissa, scale, *to).into_iter().collect(),
            DataType::Float64 => vec![ordinal_of(float(mantissa, scale))],
            // A number beside an instant or a day is an age.
            DataType::Date32 => {
                let age = rescale(mantissa, scale, 0);
                age.map(|age| i128::from(self.as_of.day) - age).into_iter().collect()
            }
            _ => {
                let age = rescale(mantissa, scale, 0);
                age.map(|age| i128::from(self.age) - age).into_iter().collect()
            }
        }
    }

    /// The value of an ordinal within [`Self::range`].
    pub(super) fn value(&self, ordinal: i128) -> ScalarValue {
        let whole = i64::try_from(ordinal).ok();
        match &self.data_type {
            DataType::UInt64 => ScalarValue::UInt64(u64::try_from(ordinal).ok()),
            DataType::Float64 => ScalarValue::Float64(Some(value_of(ordinal))),
            DataType::Decimal128(precision, scale) => {
                ScalarValue::Decimal128(Some(ordinal), *precision, *scale)
            }
            DataType::Date32 => ScalarValue::Date32(i32::try_from(ordinal).ok()),
            DataType::Timestamp(_, zone) => {
                let days =
                    whole.map(|days| self.base_ms.saturating_add(days.saturating_mul(DAY_MS)));
                ScalarValue::TimestampMillisecond(days, zone.clone())
            }
            _ => ScalarValue::Int64(whole),
        }
    }
}

/// Floats as whole numbers in the same order.
fn ordinal_of(value: f64) -> i128 {
    let bits = (value + 0.0).to_bits().cast_signed();
    i128::from(if bits < 0 { !bits ^ i64::MIN } else { bits })
}

fn value_of(ordinal: i128) -> f64 {
    let bits = i64::try_from(ordinal).unwrap_or(0);
    f64::from_bits(if bits < 0 { !(bits ^ i64::MIN) } else { bits }.cast_unsigned())
}

/// A numeric literal as mantissa and scale.
fn decimal(literal: &ScalarValue) -> Option<(i128, i8)> {
    match literal {
        ScalarValue::Int64(Some(v)) => Some((i128::from(*v), 0)),
        ScalarValue::Int32(Some(v)) => Some((i128::from(*v), 0)),
        ScalarValue::UInt64(Some(v)) => Some((i128::from(*v), 0)),
        ScalarValue::Decimal128(Some(v), _, scale) => Some((*v, *scale)),
        #[expect(clippy::cast_possible_truncation, reason = "a place to look, not a result")]
        ScalarValue::Float64(Some(v)) if v.abs() < 1e15 => Some(((v * 1000.0) as i128, 3)),
        _ => None,
    }
}

/// A decimal's mantissa at another scale, rounded down; `None` when it does not fit.
fn rescale(mantissa: i128, from: i8, to: i8) -> Option<i128> {
    let by = i32::from(to) - i32::from(from);
    let factor = 10i128.checked_pow(by.unsigned_abs())?;
    if by >= 0 { mantissa.checked_mul(factor) } else { Some(mantissa.div_euclid(factor)) }
}

#[expect(clippy::cast_precision_loss, reason = "a place to look, not a result")]
fn float(mantissa: i128, scale: i8) -> f64 {
    mantissa as f64 / 10f64.powi(i32::from(scale))
}
