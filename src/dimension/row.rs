//! How a row of a dimension table is stored.
//!
//! In: cells in column order. Out: bytes, and the cells back. First one bit a column, lowest first,
//! set where there is a value; then the values: text as length and UTF-8, floats as 8 bytes
//! little-endian, unsigned numbers as varints, all else as zigzag varints.
//! Invariant: equal rows have equal bytes, which is how a load finds what changed.

use super::cell::Cell;
use crate::catalog::model::ColumnType;
use crate::store::{Bytes, varint};

/// How a column's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Text,
    Float,
    Unsigned,
    Signed,
}

impl Coding {
    pub(super) fn of(kind: &ColumnType) -> Self {
        match kind {
            ColumnType::String => Self::Text,
            ColumnType::Float => Self::Float,
            ColumnType::U64 => Self::Unsigned,
            ColumnType::Int
            | ColumnType::Decimal { .. }
            | ColumnType::Bool
            | ColumnType::Date
            | ColumnType::Timestamp(_) => Self::Signed,
        }
    }

    /// The coding behind a stored type name.
    pub(super) fn of_name(name: &str) -> Self {
        match name {
            "string" => Self::Text,
            "float" => Self::Float,
            "u64" => Self::Unsigned,
            _ => Self::Signed,
        }
    }
}

/// A row that is being written, in memory that serves the next one too.
#[derive(Default)]
pub(super) struct RowWriter {
    out: Vec<u8>,
}

impl RowWriter {
    /// Begins a row of so many columns, all NULL.
    pub(super) fn begin(&mut self, columns: usize) {
        self.out.clear();
        self.out.resize(columns.div_ceil(8), 0);
    }

    /// Writes the next cell; columns ascend.
    #[inline]
    pub(super) fn put(&mut self, column: usize, coding: Coding, cell: &Cell<'_>) {
        match cell {
            Cell::Null => {}
            Cell::Text(text) => self.put_text(column, text.as_bytes()),
            Cell::Bits(bits) => self.put_bits(column, coding, *bits),
        }
    }

    /// Writes the next cell, which is no text, as [`RowWriter::put`] does.
    #[inline]
    pub(super) fn put_bits(&mut self, column: usize, coding: Coding, bits: i64) {
        let out = &mut self.out;
        match coding {
            Coding::Float => out.extend_from_slice(&bits.to_le_bytes()),
            Coding::Unsigned => varint::put_u64(out, bits.cast_unsigned()),
            Coding::Text | Coding::Signed => varint::put_i64(out, bits),
        }
        out[column / 8] |= 1 << (column % 8);
    }

    /// Writes the next cell, which is text.
    #[inline]
    pub(super) fn put_text(&mut self, column: usize, text: &[u8]) {
        varint::put_bytes(&mut self.out, text);
        self.out[column / 8] |= 1 << (column % 8);
    }

    /// The row as it is stored.
    pub(super) fn row(&self) -> Bytes {
        self.out[..].into()
    }
}

/// Writes one row.
pub(super) fn encode(codings: &[Coding], cells: &[Cell<'_>], out: &mut RowWriter) -> Bytes {
    out.begin(codings.len());
    for (column, (coding, cell)) in codings.iter().zip(cells).enumerate() {
        out.put(column, *coding, cell);
    }
    out.row()
}

/// A cell as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    Null,
    Bits(i64),
    /// Text, not yet known to be UTF-8.
    Text(&'a [u8]),
}

/// Reads one row, giving each column's cell in order. `None`: bytes that `encode` did not write, or
/// a cell that `each` refused.
#[inline]
pub(super) fn decode<'a>(
    codings: &[Coding],
    row: &'a [u8],
    mut each: impl FnMut(usize, Stored<'a>) -> Option<()>,
) -> Option<()> {
    let (bitmap, mut rest) = row.split_at_checked(codings.len().div_ceil(8))?;
    for (column, coding) in codings.iter().enumerate() {
        if bitmap[column / 8] & (1 << (column % 8)) == 0 {
            each(column, Stored::Null)?;
            continue;
        }
        let cell = match coding {
            Coding::Text => Stored::Text(varint::take_bytes(&mut rest)?),
            Coding::Float => {
                let (bits, behind) = rest.split_first_chunk::<8>()?;
                rest = behind;
                Stored::Bits(i64::from_le_bytes(*bits))
            }
            Coding::Unsigned => Stored::Bits(varint::take_u64(&mut rest)?.cast_signed()),
            Coding::Signed => Stored::Bits(varint::take_i64(&mut rest)?),
        };
        each(column, cell)?;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODINGS: [Coding; 9] = [
        Coding::Text,
        Coding::Float,
        Coding::Unsigned,
        Coding::Signed,
        Coding::Signed,
        Coding::Text,
        Coding::Signed,
        Coding::Text,
        Coding::Signed,
    ];

    #[test]
    fn rows_come_back_and_damaged_ones_are_refused() {
        let cells = [
            Cell::Text("south"),
            Cell::Bits(super::super::cell::float_bits(-2.5)),
            Cell::Bits(-1),
            Cell::Null,
            Cell::Bits(i64::MIN),
            Cell::Text(""),
            Cell::Bits(7),
            Cell::Null,
            Cell::Bits(-7),
        ];
        let row = encode(&CODINGS, &cells, &mut RowWriter { out: vec![9] });
        let mut back = Vec::new();
        let read = decode(&CODINGS, &row, |_, cell| {
            back.push(match cell {
                Stored::Null => Cell::Null,
                Stored::Bits(bits) => Cell::Bits(bits),
                Stored::Text(text) => Cell::Text(std::str::from_utf8(text).ok()?),
            });
            Some(())
        });
        assert_eq!(read, Some(()));
        assert_eq!(back, cells);
        for len in 0..row.len() {
            assert_eq!(decode(&CODINGS, &row[..len], |_, _| Some(())), None, "{len} bytes");
        }
        assert_eq!(decode(&CODINGS, &[&row[..], &[0]].concat(), |_, _| Some(())), None);
    }
}
