//! Rows of a table in memory, each as few bytes as its columns' values allow.
//!
//! In: 64-bit values column by column. Out: those at given rows. Invariant: row 0 is all NULL.
//!
//! A row's cells lie side by side: the batch's first column brings the rows into the CPU's caches
//! for all others. Column by column each cell of a large table would be a cache miss of its own.

#![expect(
    clippy::cast_possible_truncation,
    reason = "values are narrowed only after a range check, and widened back by their type"
)]

use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};

/// Rows packed at a time: they and a piece of each column stay in the CPU's caches.
const BLOCK_ROWS: usize = 256;

/// 64-bit values kept in the least width that holds them all. NULL is the width's least value,
/// which is why it counts as not fitting.
#[derive(Debug, Clone)]
pub(super) enum Bits {
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    /// Some value is `i64::MIN` itself.
    Wide(Vec<Option<i64>>),
}

impl Bits {
    /// Row 0: NULL.
    pub(super) fn new() -> Self {
        Self::I8(vec![i8::MIN])
    }

    pub(super) fn push(&mut self, value: Option<i64>) {
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
    pub(super) fn zero_first(&mut self) {
        match self {
            Self::I8(data) => data[0] = 0,
            Self::I16(data) => data[0] = 0,
            Self::I32(data) => data[0] = 0,
            Self::I64(data) => data[0] = 0,
            Self::Wide(data) => data[0] = None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::I8(data) => data.len(),
            Self::I16(data) => data.len(),
            Self::I32(data) => data.len(),
            Self::I64(data) => data.len(),
            Self::Wide(data) => data.len(),
        }
    }

    /// Bytes of one value in a packed row.
    fn width(&self) -> usize {
        match self {
            Self::I8(_) => 1,
            Self::I16(_) => 2,
            Self::I32(_) => 4,
            Self::I64(_) => 8,
            Self::Wide(_) => 0,
        }
    }

    /// Copies the values of some rows into their packed rows.
    fn lay(&self, first: usize, rows: &mut [u8], stride: usize, offset: usize) {
        match self {
            Self::I8(data) => lay(&data[first..], rows, stride, offset, |v| v.to_le_bytes()),
            Self::I16(data) => lay(&data[first..], rows, stride, offset, |v| v.to_le_bytes()),
            Self::I32(data) => lay(&data[first..], rows, stride, offset, |v| v.to_le_bytes()),
            Self::I64(data) => lay(&data[first..], rows, stride, offset, |v| v.to_le_bytes()),
            Self::Wide(_) => {}
        }
    }
}

fn lay<T: Copy, const N: usize>(
    data: &[T],
    rows: &mut [u8],
    stride: usize,
    offset: usize,
    bytes: impl Fn(T) -> [u8; N],
) {
    for (row, value) in rows.chunks_exact_mut(stride).zip(data) {
        row[offset..offset + N].copy_from_slice(&bytes(*value));
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

/// Where a column's values stand.
#[derive(Debug)]
enum Slot {
    I8(usize),
    I16(usize),
    I32(usize),
    I64(usize),
    Wide(Vec<Option<i64>>),
}

/// All rows.
#[derive(Debug)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    stride: usize,
    slots: Vec<Slot>,
}

/// Row numbers to gather: 0 is NULL in every column.
pub(super) struct RowNumbers {
    rows: Vec<u32>,
    /// Where each row begins.
    starts: Vec<usize>,
    /// Where the row is not 0; `None`: nowhere is it 0.
    pub(super) present: Option<NullBuffer>,
    pub(super) zeros: usize,
}

impl Packed {
    /// Packs columns of equal length.
    pub(super) fn new(columns: &[Bits]) -> Self {
        let len = columns.first().map_or(0, Bits::len);
        // A stride of 0 has no rows to cut.
        let stride = columns.iter().map(Bits::width).sum::<usize>().max(1);
        let mut bytes = vec![0; len * stride];
        for (block, rows) in bytes.chunks_mut(BLOCK_ROWS * stride).enumerate() {
            let mut offset = 0;
            for column in columns {
                column.lay(block * BLOCK_ROWS, rows, stride, offset);
                offset += column.width();
            }
        }
        let mut offset = 0;
        let slot = |column: &Bits| {
            let at = offset;
            offset += column.width();
            match column {
                Bits::I8(_) => Slot::I8(at),
                Bits::I16(_) => Slot::I16(at),
                Bits::I32(_) => Slot::I32(at),
                Bits::I64(_) => Slot::I64(at),
                Bits::Wide(data) => Slot::Wide(data.clone()),
            }
        };
        Self { bytes, stride, slots: columns.iter().map(slot).collect() }
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        let wide =
            |slot: &Slot| if let Slot::Wide(data) = slot { size_of_val(&data[..]) } else { 0 };
        self.bytes.len() + self.slots.iter().map(wide).sum::<usize>()
    }

    /// Prepares to gather rows.
    pub(super) fn at(&self, rows: Vec<u32>) -> RowNumbers {
        let zeros = rows.iter().filter(|row| **row == 0).count();
        let present = (zeros > 0)
            .then(|| NullBuffer::new(BooleanBuffer::collect_bool(rows.len(), |i| rows[i] != 0)));
        let starts = rows.iter().map(|row| *row as usize * self.stride).collect();
        RowNumbers { rows, starts, present, zeros }
    }

    /// A column's values at these rows. `nulls`: it has NULLs beside row 0.
    pub(super) fn gather<O: Default>(
        &self,
        column: usize,
        at: &RowNumbers,
        nulls: bool,
        to: impl Fn(i64) -> O,
    ) -> (Vec<O>, Option<NullBuffer>) {
        let read = Cells { bytes: &self.bytes, starts: &at.starts, nulls };
        match &self.slots[column] {
            Slot::I8(offset) => read.gather(*offset, |b| i8::from_le_bytes(b).into(), i8::MIN, to),
            Slot::I16(offset) => {
                read.gather(*offset, |b| i16::from_le_bytes(b).into(), i16::MIN, to)
            }
            Slot::I32(offset) => {
                read.gather(*offset, |b| i32::from_le_bytes(b).into(), i32::MIN, to)
            }
            Slot::I64(offset) => read.gather(*offset, i64::from_le_bytes, i64::MIN, to),
            Slot::Wide(data) => {
                let value = |row: &u32| data[*row as usize];
                let values = at.rows.iter().map(|r| value(r).map_or_else(O::default, &to));
                let valid = |i: usize| value(&at.rows[i]).is_some();
                let valid = BooleanBuffer::collect_bool(at.rows.len(), valid);
                (values.collect(), Some(NullBuffer::new(valid)))
            }
        }
    }
}

/// Packed rows to read a column of.
struct Cells<'a> {
    bytes: &'a [u8],
    starts: &'a [usize],
    nulls: bool,
}

impl Cells<'_> {
    fn gather<const N: usize, O>(
        &self,
        offset: usize,
        read: impl Fn([u8; N]) -> i64,
        null: impl Into<i64>,
        to: impl Fn(i64) -> O,
    ) -> (Vec<O>, Option<NullBuffer>) {
        let cell = |start: &usize| {
            let at = start + offset;
            read(self.bytes[at..at + N].try_into().expect("N bytes were cut"))
        };
        if !self.nulls {
            return (self.starts.iter().map(|start| to(cell(start))).collect(), None);
        }
        let null: i64 = null.into();
        let mut values = Vec::with_capacity(self.starts.len());
        let mut words = Vec::with_capacity(self.starts.len().div_ceil(64));
        for chunk in self.starts.chunks(64) {
            let mut word = 0u64;
            values.extend(chunk.iter().enumerate().map(|(bit, start)| {
                let value = cell(start);
                let valid = value != null;
                word |= u64::from(valid) << bit;
                // Not the null's own value: who reads a NULL's slot by mistake reads a plain 0.
                to(if valid { value } else { 0 })
            }));
            // Arrow's bitmaps are little-endian everywhere.
            words.push(word.to_le());
        }
        let valid = BooleanBuffer::new(Buffer::from_vec(words), 0, self.starts.len());
        (values, Some(NullBuffer::new(valid)))
    }
}
