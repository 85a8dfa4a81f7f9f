//! One feature's values for a batch of users, on their way to an Arrow array.
//!
//! In: numbers, which are [`ValueKind::signed_key`]s where a value itself is the feature. Out: the
//! array of the feature's type. Invariant: a row is appended once and keeps its place.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::DataType;

use crate::user::layout::{PartialKind, ValueKind};
use crate::user::settled::{Cell, settled_key};
use crate::user::texts::TextsView;

/// Texts a column keeps for the batches to come, before it starts over.
const TEXTS_MAX: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Column {
    data_type: DataType,
    /// What the numbers are keys of; `None`: they are numbers.
    key: Option<ValueKind>,
    /// Counts and sums are 0 without events, not NULL.
    counts: bool,
    numbers: Vec<i64>,
    /// Empty as long as there is no NULL.
    valid: Vec<bool>,
    /// Sums beyond 64 bits, by row.
    wide: Vec<(usize, i128)>,
    dictionary: Dictionary,
}

/// The texts of a column, the same array from batch to batch while no new one comes.
#[derive(Debug, Default)]
struct Dictionary {
    /// Place of each code among `codes`, from 1; 0: not there.
    places: Vec<i32>,
    codes: Vec<u32>,
    array: Option<ArrayRef>,
}

impl Column {
    /// `partial` and `value`: what the feature aggregates.
    pub(super) fn new(
        data_type: &DataType,
        partial: PartialKind,
        value: Option<ValueKind>,
    ) -> Self {
        let is_value = matches!(
            partial,
            PartialKind::Min | PartialKind::Max | PartialKind::First | PartialKind::Last
        );
        Self {
            data_type: data_type.clone(),
            key: value.filter(|_| is_value),
            counts: matches!(
                partial,
                PartialKind::Count | PartialKind::Sum | PartialKind::CountDistinct
            ),
            numbers: Vec::new(),
            valid: Vec::new(),
            wide: Vec::new(),
            dictionary: Dictionary::default(),
        }
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.numbers.len()
    }

    /// Appends rows of which none is NULL.
    pub(super) fn extend_numbers(&mut self, numbers: &[i64]) {
        self.numbers.extend_from_slice(numbers);
        if !self.valid.is_empty() {
            self.valid.resize(self.numbers.len(), true);
        }
    }

    /// Appends rows; NULL where `marks` is `none`.
    pub(super) fn extend(&mut self, numbers: &[i64], marks: &[i64], none: i64) {
        let from = self.numbers.len();
        let value = |(n, mark): (&i64, &i64)| if *mark == none { 0 } else { *n };
        self.numbers.extend(numbers.iter().zip(marks).map(value));
        if self.valid.is_empty() {
            if !marks.contains(&none) {
                return;
            }
            self.valid.resize(from, true);
        }
        self.valid.extend(marks.iter().map(|mark| *mark != none));
    }

    /// Replaces a row. False: it does not fit the type, and is NULL.
    pub(super) fn set(&mut self, row: usize, value: Option<Cell>) -> bool {
        let is_decimal = matches!(self.data_type, DataType::Decimal128(..));
        let (number, fits) = match (value, self.key) {
            (None, _) => (self.counts.then_some(0), true),
            (Some(Cell::Set(values)), _) => (i64::try_from(values.len()).ok(), true),
            (Some(Cell::Number(n)), Some(kind)) => (Some(settled_key(kind, n)), true),
            (Some(Cell::Number(n)), None) => match i64::try_from(n) {
                Ok(number) => (Some(number), true),
                Err(_) if is_decimal => {
                    self.wide.push((row, n));
                    (Some(0), true)
                }
                Err(_) => (None, false),
            },
        };
        self.numbers[row] = number.unwrap_or(0);
        if self.valid.is_empty() && number.is_none() {
            self.valid.resize(self.numbers.len(), true);
        }
        if let Some(valid) = self.valid.get_mut(row) {
            *valid = number.is_some();
        }
        fits
    }

    /// Takes the rows as an array.
    pub(super) fn take(&mut self, texts: &TextsView<'_>) -> ArrayRef {
        // The next batch is likely as long.
        let next = Vec::with_capacity(self.numbers.len());
        let numbers = std::mem::replace(&mut self.numbers, next);
        let valid = std::mem::take(&mut self.valid);
        let nulls = valid
            .contains(&false)
            .then(|| NullBuffer::new(BooleanBuffer::collect_bool(valid.len(), |i| valid[i])));
        let word = |n: &i64| self.key.map_or(n.cast_unsigned(), |k| k.from_signed_key(*n));
        match &self.data_type {
            DataType::Int64 => Arc::new(Int64Array::new(numbers.into(), nulls)),
            DataType::UInt64 => {
                Arc::new(UInt64Array::new(numbers.iter().map(word).collect(), nulls))
            }
            DataType::Float64 => {
                let floats = numbers.iter().map(|n| f64::from_bits(word(n)));
                Arc::new(Float64Array::new(floats.collect(), nulls))
            }
            DataType::Decimal128(precision, scale) => {
                let mut wide: Vec<i128> = numbers.iter().map(|n| i128::from(*n)).collect();
                self.wide.drain(..).for_each(|(row, sum)| wide[row] = sum);
                let array = Decimal128Array::new(wide.into(), nulls);
                Arc::new(array.with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            DataType::Boolean => {
                let bits = BooleanBuffer::collect_bool(numbers.len(), |i| numbers[i] != 0);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            DataType::Date32 => {
                // A date's key is a number of days.
                let day = |n: &i64| i32::try_from(*n).unwrap_or(0);
                Arc::new(Date32Array::new(numbers.iter().map(day).collect(), nulls))
            }
            DataType::Timestamp(_, zone) => {
                let array = TimestampMillisecondArray::new(numbers.into(), nulls);
                Arc::new(array.with_timezone_opt(zone.clone()))
            }
            _ => self.dictionary.array_of(&numbers, nulls, texts),
        }
    }
}

impl Dictionary {
    /// Codes as a dictionary. Who reads many batches finds the same array of texts again and need
    /// not look at it twice.
    fn array_of(
        &mut self,
        codes: &[i64],
        nulls: Option<NullBuffer>,
        texts: &TextsView<'_>,
    ) -> ArrayRef {
        if self.codes.len() > TEXTS_MAX {
            *self = Self::default();
        }
        let known = self.codes.len();
        let mut keys = Vec::with_capacity(codes.len());
        for (row, code) in codes.iter().enumerate() {
            if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
                keys.push(0);
                continue;
            }
            let code = u32::try_from(*code).unwrap_or(0);
            keys.push(self.place(code) - 1);
        }
        let array = match &self.array {
            Some(array) if known == self.codes.len() => Arc::clone(array),
            _ => {
                let values = self.codes.iter().map(|c| texts.get(*c));
                Arc::new(StringArray::from_iter_values(values)) as ArrayRef
            }
        };
        self.array = Some(Arc::clone(&array));
        let keys = Int32Array::new(keys.into(), nulls);
        Arc::new(DictionaryArray::new(keys, array))
    }

    fn place(&mut self, code: u32) -> i32 {
        let at = code as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, 0);
        }
        if self.places[at] == 0 {
            self.codes.push(code);
            self.places[at] = i32::try_from(self.codes.len()).unwrap_or(i32::MAX);
        }
        self.places[at]
    }
}
