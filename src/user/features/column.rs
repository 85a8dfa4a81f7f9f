//! One feature's values for a batch of users, on their way to an Arrow array.
//!
//! In: numbers, which are [`ValueKind::signed_key`]s where a value itself is the feature. Out: the
//! array of the feature's type. Invariant: a row is appended once and keeps its place.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, ListArray, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Field};

use super::exact::Exact;
use crate::buffer_pool::BufferPool;
use crate::user::layout::{PartialKind, ValueKind};
use crate::user::settled::settled_key;
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
    list: Option<List>,
}

/// What makes a column one of lists: `numbers` are then the items of all lists.
#[derive(Debug)]
struct List {
    most: usize,
    /// By row where its items are; `None`: NULL.
    rows: Vec<Option<Range<usize>>>,
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
    /// `partial` and `value`: what the feature aggregates; `listed`: how many values its list has.
    pub(super) fn new(
        data_type: &DataType,
        partial: PartialKind,
        value: Option<ValueKind>,
        listed: Option<u8>,
    ) -> Self {
        let is_value = matches!(
            partial,
            PartialKind::Min
                | PartialKind::Max
                | PartialKind::First
                | PartialKind::Last
                | PartialKind::Tally
                | PartialKind::Recent(_)
        );
        let item_type = match data_type {
            DataType::List(item) => item.data_type(),
            other => other,
        };
        Self {
            data_type: item_type.clone(),
            list: listed.map(|most| List { most: usize::from(most), rows: Vec::new() }),
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
        self.list.as_ref().map_or(self.numbers.len(), |list| list.rows.len())
    }

    /// How many values a row takes.
    pub(super) fn most(&self) -> usize {
        self.list.as_ref().map_or(1, |list| list.most)
    }

    /// Appends a row of values, words as rows hold them; NULL if there are none.
    pub(super) fn push_values(&mut self, words: &[u64]) {
        let Some(kind) = self.key else { return };
        let first = words.first().map(|word| kind.signed_key(*word));
        let Some(list) = &mut self.list else {
            match first {
                Some(number) => self.extend_numbers(&[number]),
                None => self.extend(&[0], &[0], 0),
            }
            return;
        };
        let from = self.numbers.len();
        self.numbers.extend(words.iter().map(|word| kind.signed_key(*word)));
        list.rows.push(first.map(|_| from..self.numbers.len()));
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
    pub(super) fn set(&mut self, row: usize, value: Option<Exact>) -> bool {
        if self.list.is_some() {
            self.set_list(row, value);
            return true;
        }
        let is_decimal = matches!(self.data_type, DataType::Decimal128(..));
        let (number, fits) = match (value, self.key) {
            (None, _) => (self.counts.then_some(0), true),
            (Some(Exact::Values(words)), kind) => {
                let word = words.first().zip(kind);
                (word.map(|(word, kind)| kind.signed_key(*word)), true)
            }
            (Some(Exact::Number(n)), Some(kind)) => (Some(settled_key(kind, n)), true),
            (Some(Exact::Number(n)), None) => match i64::try_from(n) {
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

    fn set_list(&mut self, row: usize, value: Option<Exact>) {
        let words = match value {
            Some(Exact::Values(words)) => words,
            _ => Vec::new(),
        };
        self.push_values(&words);
        if let Some(list) = &mut self.list {
            let last = list.rows.pop().flatten();
            list.rows[row] = last;
        }
    }

    /// Takes the rows as an array.
    pub(super) fn take(&mut self, texts: &TextsView<'_>, pool: &mut BufferPool) -> ArrayRef {
        let Some(list) = &mut self.list else { return self.take_items(texts, pool) };
        let rows = std::mem::take(&mut list.rows);
        let items = self.numbers.split_off(0);
        let in_rows = rows.iter().flatten().flat_map(|row| &items[row.clone()]);
        self.numbers.extend(in_rows);
        let mut items = self.take_items(texts, pool);
        if let DataType::Dictionary(_, plain) = items.data_type() {
            // A dictionary's own values always cast.
            items = cast(&items, plain).unwrap_or(items);
        }
        let field = Field::new_list_field(items.data_type().clone(), true);
        let lengths = rows.iter().map(|row| row.as_ref().map_or(0, ExactSizeIterator::len));
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        let nulls = Some(nulls).filter(|n| n.null_count() > 0);
        Arc::new(ListArray::new(Arc::new(field), OffsetBuffer::from_lengths(lengths), items, nulls))
    }

    fn take_items(&mut self, texts: &TextsView<'_>, pool: &mut BufferPool) -> ArrayRef {
        let valid = &self.valid;
        let nulls = valid
            .contains(&false)
            .then(|| NullBuffer::new(BooleanBuffer::collect_bool(valid.len(), |i| valid[i])));
        self.valid.clear();
        let array = self.array(nulls, texts, pool);
        self.numbers.clear();
        array
    }

    fn array(
        &mut self,
        nulls: Option<NullBuffer>,
        texts: &TextsView<'_>,
        pool: &mut BufferPool,
    ) -> ArrayRef {
        let numbers = &mut self.numbers;
        let word = |n: &i64| self.key.map_or(n.cast_unsigned(), |k| k.from_signed_key(*n));
        match &self.data_type {
            DataType::Int64 => {
                let numbers = std::mem::replace(numbers, pool.vec());
                Arc::new(Int64Array::new(numbers.into(), nulls))
            }
            DataType::UInt64 => {
                let words = filled(pool, numbers.iter().map(word));
                Arc::new(UInt64Array::new(words.into(), nulls))
            }
            DataType::Float64 => {
                let floats = filled(pool, numbers.iter().map(|n| f64::from_bits(word(n))));
                Arc::new(Float64Array::new(floats.into(), nulls))
            }
            DataType::Decimal128(precision, scale) => {
                let mut wide = filled(pool, numbers.iter().map(|n| i128::from(*n)));
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
                Arc::new(Date32Array::new(filled(pool, numbers.iter().map(day)).into(), nulls))
            }
            DataType::Timestamp(_, zone) => {
                let numbers = std::mem::replace(numbers, pool.vec());
                let array = TimestampMillisecondArray::new(numbers.into(), nulls);
                Arc::new(array.with_timezone_opt(zone.clone()))
            }
            _ => self.dictionary.array_of(numbers, nulls, texts, pool.vec()),
        }
    }
}

/// Values in memory that serves again.
fn filled<T: ArrowNativeType>(pool: &mut BufferPool, values: impl Iterator<Item = T>) -> Vec<T> {
    let mut vec = pool.vec();
    vec.extend(values);
    vec
}

impl Dictionary {
    /// Codes as a dictionary; `keys`: room for it. Who reads many batches finds the same array of texts again and need
    /// not look at it twice.
    fn array_of(
        &mut self,
        codes: &[i64],
        nulls: Option<NullBuffer>,
        texts: &TextsView<'_>,
        mut keys: Vec<i32>,
    ) -> ArrayRef {
        if self.codes.len() > TEXTS_MAX {
            *self = Self::default();
        }
        let known = self.codes.len();
        keys.reserve_exact(codes.len());
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
