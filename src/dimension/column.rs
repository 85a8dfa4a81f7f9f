//! Columns of a table in memory.
//!
//! In: cells row by row. Out: Arrow arrays gathered by row number. Row 0 is nobody's: all NULL.
//! Invariant: what is gathered is what was pushed, whatever the width.

#![expect(clippy::cast_possible_truncation, reason = "values come back as the type they had")]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int32Type};
use hashbrown::HashTable;
use twox_hash::XxHash3_64;

use super::cell::Cell;
use super::packed::{Bits, Packed, RowNumbers};
use crate::catalog::model::ColumnType;
use crate::clock::Zone;

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
        Self { bits: Bits::new(), texts, nulls: 0 }
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

    /// The column, and its values to be packed.
    pub(super) fn finish(mut self, kind: &ColumnType, zone: &Zone) -> (Column, Bits) {
        if self.nulls == 0 {
            self.bits.zero_first();
        }
        let values = self.texts.map(|texts| {
            // Never empty: the slot of a NULL then still names an entry.
            let filler = texts.values.is_empty().then_some("");
            let values = texts.values.iter().map(AsRef::as_ref).chain(filler);
            Arc::new(StringArray::from_iter_values(values)) as ArrayRef
        });
        let nulls = self.nulls > 0;
        (Column { kind: kind.clone(), zone: zone.name().into(), values, nulls }, self.bits)
    }
}

/// What is known of a column beside its packed values.
#[derive(Debug)]
pub(super) struct Column {
    kind: ColumnType,
    zone: Arc<str>,
    values: Option<ArrayRef>,
    nulls: bool,
}

impl Column {
    /// Bytes held beside the packed values, about.
    pub(super) fn bytes(&self) -> usize {
        self.values.as_ref().map_or(0, |v| v.get_array_memory_size())
    }

    /// The values at these rows; `column` is its place among the packed ones.
    pub(super) fn gather(&self, packed: &Packed, column: usize, at: &RowNumbers) -> ArrayRef {
        let nulls = self.nulls;
        // A column without NULLs of its own shares one bitmap with all others.
        let bits = |nulls: Option<NullBuffer>| nulls.or_else(|| at.present.clone());
        match &self.kind {
            ColumnType::U64 => {
                let (values, nulls) = packed.gather(column, at, nulls, i64::cast_unsigned);
                Arc::new(UInt64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Int => {
                let (values, nulls) = packed.gather(column, at, nulls, |v| v);
                Arc::new(Int64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Float => {
                let to = |v: i64| f64::from_bits(v.cast_unsigned());
                let (values, nulls) = packed.gather(column, at, nulls, to);
                Arc::new(Float64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Decimal { precision, scale } => {
                let (values, nulls) = packed.gather(column, at, nulls, i128::from);
                let data_type = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(values.into(), bits(nulls)).with_data_type(data_type))
            }
            ColumnType::Bool => {
                let (values, nulls) = packed.gather(column, at, nulls, |v| v != 0);
                Arc::new(BooleanArray::new(values.into(), bits(nulls)))
            }
            ColumnType::Date => {
                let (values, nulls) = packed.gather(column, at, nulls, |v| v as i32);
                Arc::new(Date32Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Timestamp(_) => {
                let (values, nulls) = packed.gather(column, at, nulls, |v| v);
                let array = TimestampMillisecondArray::new(values.into(), bits(nulls));
                Arc::new(array.with_timezone(Arc::clone(&self.zone)))
            }
            ColumnType::String => {
                let (codes, nulls) = packed.gather(column, at, nulls, |v| v as i32);
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
        let (column, bits) = builder.finish(&ColumnType::Int, &zone);
        // Beside others of its width and of another.
        let mut other = Bits::new();
        (0..values.len()).for_each(|_| other.push(Some(300)));
        let packed = Packed::new(&[other.clone(), bits.clone(), bits, other]);
        let rows: Vec<u32> = (0..=values.len() as u32).collect();
        let present = column.gather(&packed, 1, &packed.at(rows[1..].to_vec()));
        let got = column.gather(&packed, 2, &packed.at(rows));
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
