//! Columns of a table in memory.
//!
//! In: packed values. Out: Arrow arrays gathered by row number. Row 0 is nobody's: all NULL.
//! Invariant: what is gathered is what was pushed, whatever the width.

#![expect(clippy::cast_possible_truncation, reason = "values come back as the type they had")]

use std::sync::Arc;

use super::packed::{Packed, RowNumbers};
use crate::buffer_pool::BufferPool;
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::interner::Interner;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Int32Type};

/// What is known of a column beside its packed values.
#[derive(Debug)]
pub(super) struct Column {
    kind: ColumnType,
    zone: Arc<str>,
    values: Option<ArrayRef>,
    nulls: bool,
}

impl Column {
    /// A column of this type; one of text comes with its texts.
    pub(super) fn new(
        kind: &ColumnType,
        zone: &Zone,
        texts: Option<&Interner>,
        nulls: bool,
    ) -> Self {
        let values = texts.map(|texts| {
            // Never empty: the slot of a NULL then still names an entry.
            let filler = texts.values().is_empty().then_some("");
            let values = texts.values().iter().map(AsRef::as_ref).chain(filler);
            Arc::new(StringArray::from_iter_values(values)) as ArrayRef
        });
        Self { kind: kind.clone(), zone: zone.name().into(), values, nulls }
    }

    /// Bytes held beside the packed values, about.
    pub(super) fn bytes(&self) -> usize {
        self.values.as_ref().map_or(0, |v| v.get_array_memory_size())
    }

    /// The values at these rows; `column` is its place among the packed ones.
    pub(super) fn gather(
        &self,
        packed: &Packed,
        column: usize,
        at: &RowNumbers,
        pool: &mut BufferPool,
    ) -> ArrayRef {
        let nulls = self.nulls;
        // A column without NULLs of its own shares one bitmap with all others.
        let bits = |nulls: Option<NullBuffer>| nulls.or_else(|| at.present.clone());
        match &self.kind {
            ColumnType::U64 => {
                let (values, nulls) =
                    packed.gather(column, at, nulls, pool.vec(), i64::cast_unsigned);
                Arc::new(UInt64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Int => {
                let (values, nulls) = packed.gather(column, at, nulls, pool.vec(), |v| v);
                Arc::new(Int64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Float => {
                let to = |v: i64| f64::from_bits(v.cast_unsigned());
                let (values, nulls) = packed.gather(column, at, nulls, pool.vec(), to);
                Arc::new(Float64Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Decimal { precision, scale } => {
                let (values, nulls) = packed.gather(column, at, nulls, pool.vec(), i128::from);
                let data_type = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(values.into(), bits(nulls)).with_data_type(data_type))
            }
            ColumnType::Bool => {
                let (values, nulls) = packed.gather(column, at, nulls, Vec::new(), |v| v != 0);
                Arc::new(BooleanArray::new(values.into(), bits(nulls)))
            }
            ColumnType::Date => {
                let (values, nulls) = packed.gather(column, at, nulls, pool.vec(), |v| v as i32);
                Arc::new(Date32Array::new(values.into(), bits(nulls)))
            }
            ColumnType::Timestamp(_) => {
                let (values, nulls) = packed.gather(column, at, nulls, pool.vec(), |v| v);
                let array = TimestampMillisecondArray::new(values.into(), bits(nulls));
                Arc::new(array.with_timezone(Arc::clone(&self.zone)))
            }
            ColumnType::String => {
                let (codes, nulls) = packed.gather(column, at, nulls, pool.vec(), |v| v as i32);
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
    use super::super::packed::PackedBuilder;
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;

    #[track_caller]
    fn check(values: &[Option<i64>]) {
        let zone = Zone::new("UTC").unwrap();
        // Beside others of its width and of another.
        let mut packed = PackedBuilder::new(4, 0);
        for value in values {
            packed.put(0, 300);
            for column in [1, 2] {
                value.iter().for_each(|value| packed.put(column, *value));
            }
            packed.put(3, -1);
            packed.end_row();
        }
        let (packed, nulls) = packed.finish();
        assert_eq!(nulls[1..], [nulls[1], nulls[1], false]);
        let column = Column::new(&ColumnType::Int, &zone, None, nulls[1]);
        let rows: Vec<u32> = (0..=values.len() as u32).collect();
        let present =
            column.gather(&packed, 1, &packed.at(rows[1..].to_vec()), &mut BufferPool::default());
        let got = column.gather(&packed, 2, &packed.at(rows), &mut BufferPool::default());
        let got: Vec<Option<i64>> = got.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(got[0], None);
        assert_eq!(&got[1..], values);
        let beside = Column::new(&ColumnType::Int, &zone, None, false);
        for (column, value) in [(0, 300), (3, -1)] {
            let got =
                beside.gather(&packed, column, &packed.at(vec![0; 1]), &mut BufferPool::default());
            assert!(got.is_null(0));
            let last = values.len() as u32;
            let got =
                beside.gather(&packed, column, &packed.at(vec![last]), &mut BufferPool::default());
            assert!(values.is_empty() || got.as_primitive::<Int64Type>().value(0) == value);
        }
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
