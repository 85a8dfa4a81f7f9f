//! A column of any numeric type as whole numbers whose order is the column's order.
//!
//! In: an Arrow array. Out: `i32` or `i64` per row and a byte per row that says whether there is a
//! value. Invariant: `a < b` in the lane exactly when `a < b` in the column (Arrow's total order for
//! floats, with -0 = 0); what does not fit is reported, not wrapped.
#![expect(clippy::cast_possible_truncation, reason = "values are clamped or tested just before")]

use super::wide::wide;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit,
    TimestampMillisecondType, UInt64Type,
};

use crate::clock::Day;
use crate::rule::days::{DayIndex, Stretch};

/// What a lane's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::rule) enum LaneKind {
    Int,
    UInt,
    Float,
    /// Mantissa at this scale.
    Decimal(i8),
    Date,
    Instant,
    Bool,
    /// Whole days from the local date of an instant or date to the as-of day.
    Age,
}

impl LaneKind {
    /// The kind of lane a column becomes; `None`: it has no kernel.
    pub(in crate::rule) fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int64 => Self::Int,
            DataType::UInt64 => Self::UInt,
            DataType::Float64 => Self::Float,
            DataType::Decimal128(_, scale) if *scale >= 0 => Self::Decimal(*scale),
            DataType::Date32 => Self::Date,
            DataType::Timestamp(TimeUnit::Millisecond, _) => Self::Instant,
            DataType::Boolean => Self::Bool,
            _ => return None,
        })
    }

    /// Decimal places of the lane's numbers.
    pub(in crate::rule) fn scale(self) -> u32 {
        if let Self::Decimal(scale) = self { u32::from(scale.unsigned_abs()) } else { 0 }
    }

    /// The lane number of a whole number, clamped to what the column can hold.
    pub(in crate::rule) fn number(self, value: i128) -> i64 {
        match self {
            Self::UInt => {
                let value = value.clamp(0, i128::from(u64::MAX)) as u64;
                unsigned_key(value)
            }
            _ => value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64,
        }
    }

    /// Least and greatest whole number of the column.
    pub(in crate::rule) fn domain(self) -> (i128, i128) {
        match self {
            Self::UInt => (0, i128::from(u64::MAX)),
            _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
        }
    }
}

/// Order-preserving map of all `u64` to all `i64`.
fn unsigned_key(value: u64) -> i64 {
    (value ^ (1 << 63)) as i64
}

/// Order-preserving map of floats to integers: IEEE 754's total order, -0 taken as 0.
pub(in crate::rule) fn float_key(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ ((((bits >> 63) as u64) >> 1) as i64)
}

/// Which forms of a lane the plan needs.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::rule) struct Forms {
    /// `i32`, when every constant it is compared with is well inside `i32`.
    pub(in crate::rule) narrow: bool,
    /// `i64`.
    pub(in crate::rule) wide: bool,
    /// `f64`, for products.
    pub(in crate::rule) float: bool,
}

/// The numbers of a batch.
#[derive(Debug, Default)]
pub(in crate::rule) struct Lane {
    pub(in crate::rule) narrow: Vec<i32>,
    pub(in crate::rule) wide: Vec<i64>,
    pub(in crate::rule) float: Vec<f64>,
    /// At least the greatest distance from 0; only with `float`.
    pub(in crate::rule) abs_max: u64,
    /// False: some value has no exact number here and the lane must not be read.
    pub(in crate::rule) exact: bool,
}

impl Lane {
    /// Reads a column. `age`: the as-of day and the calendar, for [`LaneKind::Age`].
    pub(in crate::rule) fn fill(
        &mut self,
        array: &ArrayRef,
        kind: LaneKind,
        forms: Forms,
        age: (Day, &DayIndex),
    ) {
        self.narrow.clear();
        self.wide.clear();
        self.float.clear();
        self.exact = true;
        let rows = array.len();
        match (kind, array.data_type()) {
            (LaneKind::Age, DataType::Date32) => {
                let days = array.as_primitive::<Date32Type>().values();
                self.narrow.extend(days.iter().map(|d| age.0.saturating_sub(*d)));
                self.put_ages(forms);
            }
            (LaneKind::Age, _) => {
                let mut last = Stretch::default();
                let instants = array.as_primitive::<TimestampMillisecondType>().values();
                let days = instants.iter().map(|ms| age.1.day_with(*ms, &mut last));
                self.narrow.extend(days.map(|d| age.0.saturating_sub(d)));
                self.put_ages(forms);
            }
            (LaneKind::Int, _) => {
                put_i64(self, forms, array.as_primitive::<Int64Type>().values());
            }
            (LaneKind::Instant, _) => {
                put_i64(self, forms, array.as_primitive::<TimestampMillisecondType>().values());
            }
            (LaneKind::UInt, _) => {
                let values = array.as_primitive::<UInt64Type>().values();
                // Only as a factor is the number itself needed, and then it must fit.
                self.put(Forms { float: false, ..forms }, values.iter().map(|v| unsigned_key(*v)));
                if forms.float {
                    self.float.extend(values.iter().map(|v| *v as f64));
                    self.abs_max = values.iter().copied().max().unwrap_or(0);
                }
            }
            (LaneKind::Float, _) => {
                let values = array.as_primitive::<Float64Type>().values();
                self.put(forms, values.iter().map(|v| float_key(*v)));
            }
            (LaneKind::Date, _) => {
                let values = array.as_primitive::<Date32Type>().values();
                self.put(forms, values.iter().map(|d| i64::from(*d)));
            }
            (LaneKind::Bool, _) => {
                let values = array.as_boolean().values();
                self.put(forms, values.iter().map(i64::from));
            }
            (LaneKind::Decimal(_), _) => {
                let values = array.as_primitive::<Decimal128Type>().values();
                // A value behind a NULL may be anything; it only costs the fast way.
                self.exact = values.iter().all(|v| i64::try_from(*v).is_ok());
                self.put(forms, values.iter().map(|v| *v as i64));
            }
        }
        debug_assert!(!forms.wide || self.wide.len() == rows);
    }

    /// Ages are always small; `narrow` has them already.
    fn put_ages(&mut self, forms: Forms) {
        if forms.wide {
            self.wide.extend(self.narrow.iter().map(|v| i64::from(*v)));
        }
    }

    #[inline(always)]
    fn put(&mut self, forms: Forms, values: impl Iterator<Item = i64> + Clone) {
        // Bits above the 32nd of any value, without a compare: these loops run four at a time
        // even where the processor cannot compare 64-bit numbers.
        let high = |v: i64| (v.wrapping_add(1 << 31) as u64) >> 32;
        let small =
            (forms.narrow || forms.float) && values.clone().fold(0, |seen, v| seen | high(v)) == 0;
        if forms.narrow && small {
            self.narrow.extend(values.clone().map(|v| v as i32));
        } else if forms.narrow {
            let clamp = |v: i64| v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
            self.narrow.extend(values.clone().map(clamp));
        }
        if forms.float && small {
            // The magnitude to the next power of two: enough to know that products are exact.
            let bits = values.clone().fold(0, |seen, v| seen | (v as i32 ^ (v as i32 >> 31)));
            self.abs_max = u64::from(bits.unsigned_abs()) + 1;
            self.abs_max = self.abs_max.next_power_of_two();
            self.float.extend(values.clone().map(|v| f64::from(v as i32)));
        } else if forms.float {
            self.abs_max = values.clone().map(i64::unsigned_abs).max().unwrap_or(0);
            self.float.extend(values.clone().map(|v| v as f64));
        }
        if forms.wide {
            self.wide.extend(values);
        }
    }
}

wide! {
    /// [`Lane::put`] for the processors that have wider registers, too.
    fn put_i64(lane: &mut Lane, forms: Forms, values: &[i64]) {
        lane.put(forms, values.iter().copied());
    }
}

/// 1 for a value, 0 for NULL; `rows` bytes.
pub(in crate::rule) fn fill_validity(nulls: Option<&NullBuffer>, rows: usize, valid: &mut Vec<u8>) {
    valid.clear();
    let Some(nulls) = nulls.filter(|n| n.null_count() > 0) else {
        valid.resize(rows, 1);
        return;
    };
    valid.reserve(rows + 64);
    let chunks = nulls.inner().bit_chunks();
    for word in chunks.iter().chain(std::iter::once(chunks.remainder_bits())) {
        for byte in word.to_le_bytes() {
            valid.extend_from_slice(&spread(byte));
        }
    }
    valid.truncate(rows);
}

/// The bits of a byte, least first, as bytes.
fn spread(byte: u8) -> [u8; 8] {
    // Each copy of the byte keeps one of its bits; adding 0x7f.. carries it to the top.
    let kept = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    (((kept + 0x7f7f_7f7f_7f7f_7f7f) | kept) >> 7 & 0x0101_0101_0101_0101).to_le_bytes()
}
