//! Rows of a table in memory, each as few bytes as its columns' values allow.
//!
//! In: 64-bit values row by row. Out: those at given rows. Invariant: row 0 is all NULL.
//!
//! A row's cells lie side by side: the batch's first column brings the rows into the CPU's caches
//! for all others. Column by column each cell of a large table would be a cache miss of its own.

#![expect(
    clippy::cast_possible_truncation,
    reason = "values are narrowed only after a range check, and widened back by their type"
)]

use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};

/// Where a column's cells stand in a row.
#[derive(Debug)]
struct Slot {
    offset: usize,
    width: Width,
    /// Rows with a value.
    values: usize,
}

/// Bytes of a cell, the fewest that hold all of a column. NULL is the width's least value, which
/// is why that counts as not fitting.
#[derive(Debug, Clone)]
enum Width {
    I8,
    I16,
    I32,
    I64,
    /// Some value is `i64::MIN` itself: all of them stand here, and none in the rows.
    Wide(Vec<Option<i64>>),
}

impl Width {
    fn bytes(&self) -> usize {
        match self {
            Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
            Self::Wide(_) => 0,
        }
    }

    fn next(&self) -> Self {
        match self {
            Self::I8 => Self::I16,
            Self::I16 => Self::I32,
            Self::I32 => Self::I64,
            Self::I64 | Self::Wide(_) => Self::Wide(Vec::new()),
        }
    }

    /// Writes a value. False: it does not fit, and what stands there now is no value.
    #[inline]
    fn write(&self, value: i64, cell: &mut [u8]) -> bool {
        match self {
            Self::I8 => {
                let narrow = value as i8;
                cell[..1].copy_from_slice(&narrow.to_le_bytes());
                i64::from(narrow) == value && narrow != i8::MIN
            }
            Self::I16 => {
                let narrow = value as i16;
                cell[..2].copy_from_slice(&narrow.to_le_bytes());
                i64::from(narrow) == value && narrow != i16::MIN
            }
            Self::I32 => {
                let narrow = value as i32;
                cell[..4].copy_from_slice(&narrow.to_le_bytes());
                i64::from(narrow) == value && narrow != i32::MIN
            }
            Self::I64 => {
                cell[..8].copy_from_slice(&value.to_le_bytes());
                value != i64::MIN
            }
            Self::Wide(_) => false,
        }
    }

    fn write_null(&self, cell: &mut [u8]) {
        match self {
            Self::I8 => cell[..1].copy_from_slice(&i8::MIN.to_le_bytes()),
            Self::I16 => cell[..2].copy_from_slice(&i16::MIN.to_le_bytes()),
            Self::I32 => cell[..4].copy_from_slice(&i32::MIN.to_le_bytes()),
            Self::I64 => cell[..8].copy_from_slice(&i64::MIN.to_le_bytes()),
            Self::Wide(_) => {}
        }
    }

    fn read(&self, cell: &[u8]) -> Option<i64> {
        let value = match self {
            Self::I8 => i64::from(cell[0] as i8),
            Self::I16 => i64::from(i16::from_le_bytes(*cell.first_chunk()?)),
            Self::I32 => i64::from(i32::from_le_bytes(*cell.first_chunk()?)),
            Self::I64 => i64::from_le_bytes(*cell.first_chunk()?),
            Self::Wide(_) => return None,
        };
        let null = match self {
            Self::I8 => i8::MIN.into(),
            Self::I16 => i16::MIN.into(),
            Self::I32 => i32::MIN.into(),
            Self::I64 | Self::Wide(_) => i64::MIN,
        };
        (value != null).then_some(value)
    }
}

/// Rows that are being collected.
#[derive(Debug)]
pub(super) struct PackedBuilder {
    /// Whole rows, then the one that is being filled: always one, all NULL at first.
    bytes: Vec<u8>,
    /// A row of NULLs.
    nulls: Vec<u8>,
    slots: Vec<Slot>,
    /// Whole rows.
    len: usize,
    rows_expected: usize,
}

impl PackedBuilder {
    /// Row 0 is there, all NULL.
    pub(super) fn new(columns: usize, rows_expected: usize) -> Self {
        let slot = |offset| Slot { offset, width: Width::I8, values: 0 };
        let nulls = vec![i8::MIN as u8; columns];
        let slots = (0..columns).map(slot).collect();
        let mut new = Self { bytes: nulls.clone(), nulls, slots, len: 0, rows_expected };
        new.end_row();
        new
    }

    /// Rows there are, row 0 included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives a column of the row that is being filled a value.
    #[inline]
    pub(super) fn put(&mut self, column: usize, value: i64) {
        let slot = &mut self.slots[column];
        slot.values += 1;
        let cell = &mut self.bytes[self.len * self.nulls.len() + slot.offset..];
        if !slot.width.write(value, cell) {
            self.put_wider(column, value);
        }
    }

    #[cold]
    fn put_wider(&mut self, column: usize, value: i64) {
        loop {
            let (len, stride) = (self.len, self.nulls.len());
            let slot = &mut self.slots[column];
            if let Width::Wide(data) = &mut slot.width {
                data.resize(len, None);
                data.push(Some(value));
                return;
            }
            // What was written over in this row is no value of the old width any more.
            slot.width.write_null(&mut self.bytes[len * stride + slot.offset..]);
            self.widen(column);
            let slot = &self.slots[column];
            let cell = &mut self.bytes[len * self.nulls.len() + slot.offset..];
            if slot.width.write(value, cell) {
                return;
            }
        }
    }

    /// Gives a column's cells the next width, in all rows.
    fn widen(&mut self, column: usize) {
        let stride = self.nulls.len();
        let (offset, old) = (self.slots[column].offset, self.slots[column].width.clone());
        let mut new = old.next();
        let (before, after) = (old.bytes(), new.bytes());
        let rows = self.rows_expected.max(2 * self.len) + 1;
        let mut bytes = Vec::with_capacity(rows * (stride - before + after));
        let mut cell = [0; 8];
        for row in self.bytes.chunks_exact(stride) {
            let value = old.read(&row[offset..]);
            if let Width::Wide(data) = &mut new {
                data.push(value);
            }
            new.write_null(&mut cell);
            if let Some(value) = value {
                new.write(value, &mut cell);
            }
            bytes.extend_from_slice(&row[..offset]);
            bytes.extend_from_slice(&cell[..after]);
            bytes.extend_from_slice(&row[offset + before..]);
        }
        if let Width::Wide(data) = &mut new {
            // The row that is being filled comes with its value.
            data.truncate(self.len);
        }
        self.bytes = bytes;
        new.write_null(&mut cell);
        self.nulls.splice(offset..offset + before, cell[..after].iter().copied());
        self.slots[column].width = new;
        for slot in &mut self.slots[column + 1..] {
            slot.offset = slot.offset + after - before;
        }
    }

    /// The row that is being filled is whole; the next one is all NULL. Gives its number.
    pub(super) fn end_row(&mut self) -> Option<u32> {
        let number = u32::try_from(self.len).ok()?;
        self.len += 1;
        self.bytes.extend_from_slice(&self.nulls);
        Some(number)
    }

    /// The rows, and for each column whether it has NULLs beside row 0.
    pub(super) fn finish(mut self) -> (Packed, Vec<bool>) {
        let (len, stride) = (self.len, self.nulls.len());
        self.bytes.truncate(len * stride);
        let mut has_nulls = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            if let Width::Wide(data) = &mut slot.width {
                data.resize(len, None);
            }
            has_nulls.push(slot.values + 1 < len);
            // In a column without other NULLs row 0 is told by its number alone.
            if slot.values + 1 == len {
                slot.width.write(0, &mut self.bytes[slot.offset..]);
            }
        }
        (Packed { bytes: self.bytes, stride, slots: self.slots }, has_nulls)
    }
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
    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        let wide = |slot: &Slot| match &slot.width {
            Width::Wide(data) => size_of_val(&data[..]),
            _ => 0,
        };
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

    /// A column's values at these rows. `nulls`: it has NULLs beside row 0. `values`: room for them.
    pub(super) fn gather<O: Default>(
        &self,
        column: usize,
        at: &RowNumbers,
        nulls: bool,
        mut values: Vec<O>,
        to: impl Fn(i64) -> O,
    ) -> (Vec<O>, Option<NullBuffer>) {
        let read = Cells { bytes: &self.bytes, starts: &at.starts, nulls };
        let offset = self.slots[column].offset;
        match &self.slots[column].width {
            Width::I8 => read.gather(offset, |b| i8::from_le_bytes(b).into(), i8::MIN, values, to),
            Width::I16 => {
                read.gather(offset, |b| i16::from_le_bytes(b).into(), i16::MIN, values, to)
            }
            Width::I32 => {
                read.gather(offset, |b| i32::from_le_bytes(b).into(), i32::MIN, values, to)
            }
            Width::I64 => read.gather(offset, i64::from_le_bytes, i64::MIN, values, to),
            Width::Wide(data) => {
                let value = |row: &u32| data[*row as usize];
                values.extend(at.rows.iter().map(|r| value(r).map_or_else(O::default, &to)));
                let valid = |i: usize| value(&at.rows[i]).is_some();
                let valid = BooleanBuffer::collect_bool(at.rows.len(), valid);
                (values, Some(NullBuffer::new(valid)))
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
        mut values: Vec<O>,
        to: impl Fn(i64) -> O,
    ) -> (Vec<O>, Option<NullBuffer>) {
        let cell = |start: &usize| {
            let at = start + offset;
            read(self.bytes[at..at + N].try_into().expect("N bytes were cut"))
        };
        if !self.nulls {
            values.extend(self.starts.iter().map(|start| to(cell(start))));
            return (values, None);
        }
        let null: i64 = null.into();
        values.reserve_exact(self.starts.len());
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
