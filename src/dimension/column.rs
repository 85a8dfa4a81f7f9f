//! Columns of a table in memory, as narrow as their values allow.
//!
//! In: cells row by row. Out: Arrow arrays gathered by row number. Row 0 is nobody's: all NULL.
//! Narrow columns stay in the CPU's caches, which is what makes gathering fast.
//! Invariant: what is gathered is what was pushed, whatever the width.

#![expect(
    clippy::cast_possible_truncation,
    reason = "values are narrowed only after a range check, and widened back by their type"
)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{DataType, Int32Type};
use hashbrown::HashTable;
use twox_hash::XxHash3_64;

use super::cell::Cell;
use crate::catalog::model::ColumnType;
use crate::clock::Zone;

/// 64-bit values kept in the least width that holds them all. NULL is the width's least value,
/// which is why it counts as not fitting.
#[derive(Debug)]
enum Bits {
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    /// Some value is `i64::MIN` itself.
    Wide(Vec<Option<i64>>),
}

impl Bits {
    fn push(&mut self, value: Option<i64>) {
        loop {
            let pushed = match self {
                Self::I8(data) => push_narrow(data, value, i8::MIN, |v| v as i8),
                Self::I16(data) => push_narrow(data, value, i16::MIN, |v| v as i16),
                Self::I32(data) => push_narrow(data, value, i32::MIN, |v| v as i32),
                Self::I64(data) => push_narrow(data, value, i64::MIN, |v| v),
                Self::Wide(data) => {
                    data.push(value);
                    true
                }
            };
            if pushed {
                return;
            }
            self.widen();
        }
    }

    fn widen(&mut self) {
        *self = match self {
            Self::I8(data) => Self::I16(
                data.iter().map(|v| if *v == i8::MIN { i16::MIN } else { i16::from(*v) }).collect(),
            ),
            Self::I16(data) => Self::I32(
                data.iter()
                    .map(|v| if *v == i16::MIN { i32::MIN } else { i32::from(*v) })
                    .collect(),
            ),
            Self::I32(data) => Self::I64(
                data.iter()
                    .map(|v| if *v == i32::MIN { i64::MIN } else { i64::from(*v) })
                    .collect(),
            ),
            Self::I64(data) => {
                Self::Wide(data.iter().map(|v| (*v != i64::MIN).then_some(*v)).collect())
            }
            Self::Wide(data) => Self::Wide(std::mem::take(data)),
        };
    }

    /// Makes row 0 a plain 0: in a column without other NULLs it is told by its number alone.
    fn zero_first(&mut self) {
        match self {
            Self::I8(data) => data[0] = 0,
            Self::I16(data) => data[0] = 0,
            Self::I32(data) => data[0] = 0,
            Self::I64(data) => data[0] = 0,
            Self::Wide(data) => data[0] = None,
        }
    }

    fn shrink(&mut self) {
        match self {
            Self::I8(data) => data.shrink_to_fit(),
            Self::I16(data) => data.shrink_to_fit(),
            Self::I32(data) => data.shrink_to_fit(),
            Self::I64(data) => data.shrink_to_fit(),
            Self::Wide(data) => data.shrink_to_fit(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::I8(data) => data.len(),
            Self::I16(data) => 2 * data.len(),
            Self::I32(data) => 4 * data.len(),
            Self::I64(data) => 8 * data.len(),
            Self::Wide(data) => 16 * data.len(),
        }
    }

    fn gather<O: Default>(
        &self,
        rows: &[u32],
        nulls: bool,
        to: impl Fn(i64) -> O,
    ) -> (Vec<O>, Option<NullBuffer>) {
        match self {
            Self::I8(data) => gather(data, i8::MIN, rows, nulls, to),
            Self::I16(data) => gather(data, i16::MIN, rows, nulls, to),
            Self::I32(data) => gather(data, i32::MIN, rows, nulls, to),
            Self::I64(data) => gather(data, i64::MIN, rows, nulls, to),
            Self::Wide(data) => {
                let at = |row: &u32| data[*row as usize];
                let values = rows.iter().map(|r| at(r).map_or_else(O::default, &to)).collect();
                let valid = BooleanBuffer::collect_bool(rows.len(), |i| at(&rows[i]).is_some());
                (values, Some(NullBuffer::new(valid)))
            }
        }
    }
}

fn push_narrow<T: Copy + PartialEq>(
    data: &mut Vec<T>,
    value: Option<i64>,
    null: T,
    narrow: impl Fn(i64) -> T,
) -> bool
where
    i64: From<T>,
{
    let Some(value) = value else {
        data.push(null);
        return true;
    };
    let narrowed = narrow(value);
    let fits = i64::from(narrowed) == value && narrowed != null;
    if fits {
        data.push(narrowed);
    }
    fits
}

fn gather<T: Copy + PartialEq, O: Default>(
    data: &[T],
    null: T,
    rows: &[u32],
    nulls: bool,
    to: impl Fn(i64) -> O,
) -> (Vec<O>, Option<NullBuffer>)
where
    i64: From<T>,
{
    if !nulls {
        return (rows.iter().map(|row| to(i64::from(data[*row as usize]))).collect(), None);
    }
    let mut values = Vec::with_capacity(rows.len());
    let mut words = Vec::with_capacity(rows.len().div_ceil(64));
    for chunk in rows.chunks(64) {
        let mut word = 0u64;
        values.extend(chunk.iter().enumerate().map(|(bit, row)| {
            let value = data[*row as usize];
            let valid = value != null;
            word |= u64::from(valid) << bit;
            // Not the null's own value: who reads a NULL's slot by mistake reads a plain 0.
            to(if valid { i64::from(value) } else { 0 })
        }));
        // Arrow's bitmaps are little-endian everywhere.
        words.push(word.to_le());
    }
    let valid = BooleanBuffer::new(Buffer::from_vec(words), 0, rows.len());
    (values, Some(NullBuffer::new(valid)))
}

/// Distinct texts in order of appearance.
#[derive(Debug, Default)]
struct Texts {
    values: Vec<Box<str>>,
    table: HashTable<u32>,
}

impl Texts {
    fn code(&mut self, text: &str) -> u32 {
        let hash = XxHash3_64::oneshot(text.as_bytes());
        let values = &mut self.values;
        let entry = self.table.entry(
            hash,
            |code| *values[*code as usize] == *text,
            |code| XxHash3_64::oneshot(values[*code as usize].as_bytes()),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                // A table has fewer than 2^32 rows, so it has fewer distinct texts.
                let code = self.values.len() as u32;
                entry.insert(code);
                self.values.push(text.into());
                code
            }
        }
    }
}

/// A column that is being filled.
#[derive(Debug)]
pub(super) struct ColumnBuilder {
    bits: Bits,
    texts: Option<Texts>,
    nulls: usize,
}

impl ColumnBuilder {
    /// A column of this type that holds row 0: NULL.
    pub(super) fn new(kind: &ColumnType) -> Self {
        let texts = (*kind == ColumnType::String).then(Texts::default);
        Self { bits: Bits::I8(vec![i8::MIN]), texts, nulls: 0 }
    }

    /// Adds the next row's cell.
    pub(super) fn push(&mut self, cell: Cell<'_>) {
        let bits = match (cell, &mut self.texts) {
            (Cell::Null, _) => None,
            (Cell::Bits(bits), _) => Some(bits),
            (Cell::Text(text), Some(texts)) => Some(i64::from(texts.code(text))),
            // A text in a column of numbers cannot come out of the row codec.
            (Cell::Text(_), None) => None,
        };
        self.nulls += usize::from(bits.is_none());
        self.bits.push(bits);
    }

    pub(super) fn finish(mut self, kind: &ColumnType, zone: &Zone) -> Column {
        if self.nulls == 0 {
            self.bits.zero_first();
        }
        self.bits.shrink();
        let values = self.texts.map(|texts| {
            // Never empty: the slot of a NULL then still names an entry.
            let filler = texts.values.is_empty().then_some("");
            let values = texts.values.iter().map(AsRef::as_ref).chain(filler);
            Arc::new(StringArray::from_iter_values(values)) as ArrayRef
        });
        Column {
            kind: kind.clone(),
            zone: zone.name().into(),
            bits: self.bits,
            values,
            nulls: self.nulls > 0,
        }
    }
}

/// Row numbers to gather: 0 is NULL in every column.
pub(super) struct RowNumbers {
    rows: Vec<u32>,
    /// Where the row is not 0; `None`: nowhere is it 0.
    present: Option<NullBuffer>,
    pub(super) zeros: usize,
}

impl RowNumbers {
    pub(super) fn new(rows: Vec<u32>) -> Self {
        let zeros = rows.iter().filter(|row| **row == 0).count();
        let present = (zeros > 0)
            .then(|| NullBuffer::new(BooleanBuffer::collect_bool(rows.len(), |i| rows[i] != 0)));
        Self { rows, present, zeros }
    }
}

/// A column in memory.
#[derive(Debug)]
pub(super) struct Column {
    kind: ColumnType,
    zone: Arc<str>,
    bits: Bits,
    values: Option<ArrayRef>,
    nulls: bool,
}

impl Column {
    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        let values = self.values.as_ref().map_or(0, |v| v.get_array_memory_size());
        self.bits.bytes() + values
    }

    /// The values at these rows.
    pub(super) fn gather(&self, at: &RowNumbers) -> ArrayRef {
        let rows = &at.rows;
        let nulls = self.nulls;
        // A column without NULLs of its own shares one bitmap with all others.
        let bits = |nulls: Option<NullBuffer>| nulls.or_else(|| at.present.clone());
        match &self.kind {
            ColumnType::U64 => {
                let (values, nulls) = self.bits.gather(rows, nulls, i64::cast_unsigned);
                Arc::new(UInt64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Int => {
                let (values, nulls) = self.bits.gather(rows, nulls, |v| v);
                Arc::new(Int64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Float => {
                let to = |v: i64| f64::from_bits(v.cast_unsigned());
                let (values, nulls) = self.bits.gather(rows, nulls, to);
                Arc::new(Float64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Decimal { precision, scale } => {
                let (values, nulls) = self.bits.gather(rows, nulls, i128::from);
                let data_type = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(values.into(), bits(nulls)).with_data_type(data_type))
            }
            ColumnType::Bool => {
                let (values, nulls) = self.bits.gather(rows, nulls, |v| v != 0);
                Arc::new(BooleanArray::new(values.into(), bits(nulls)))
            }
            ColumnType::Date => {
                let (values, nulls) = self.bits.gather(rows, nulls, |v| v as i32);
                Arc::new(Date32Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Timestamp(_) => {
                let (values, nulls) = self.bits.gather(rows, nulls, |v| v);
                let array = TimestampMillisecondArray::new(values.into(), bits(nulls));
                Arc::new(array.with_timezone(Arc::clone(&self.zone)))
            }
            ColumnType::String => {
                let (codes, nulls) = self.bits.gather(rows, nulls, |v| v as i32);
                let codes = Int32Array::new(codes.into(), bits(nulls));
                let values = self.values.as_ref().expect("`new` gives text columns values");
                let array = DictionaryArray::<Int32Type>::try_new(codes, Arc::clone(values));
                Arc::new(array.expect("codes are positions in the values"))
            }
        }
    }
}

/// The Arrow type of a gathered column.
pub(super) fn array_type(kind: &ColumnType, zone: &Zone) -> DataType {
    match kind {
        ColumnType::String => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        }
        other => other.data_type(zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;

    #[track_caller]
    fn check(values: &[Option<i64>]) {
        let zone = Zone::new("UTC").unwrap();
        let mut builder = ColumnBuilder::new(&ColumnType::Int);
        for value in values {
            builder.push(value.map_or(Cell::Null, Cell::Bits));
        }
        let column = builder.finish(&ColumnType::Int, &zone);
        let rows: Vec<u32> = (0..=values.len() as u32).collect();
        let present = column.gather(&RowNumbers::new(rows[1..].to_vec()));
        let got = column.gather(&RowNumbers::new(rows));
        let got: Vec<Option<i64>> = got.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(got[0], None);
        assert_eq!(&got[1..], values);
        assert_eq!(present.null_count(), values.iter().filter(|v| v.is_none()).count());
    }

    #[test]
    fn every_width_gives_back_what_was_pushed() {
        for edge in [i64::from(i8::MIN), i64::from(i16::MIN), i64::from(i32::MIN), i64::MIN] {
            check(&[Some(1), None, Some(edge), Some(-1)]);
            check(&[None, Some(edge.wrapping_sub(1)), Some(edge + 1), None]);
        }
        check(&[Some(3), Some(4)]);
        check(&[]);
    }
}
