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

/// Writes one row; `out` is memory to work in.
pub(super) fn encode(codings: &[Coding], cells: &[Cell<'_>], out: &mut Vec<u8>) -> Bytes {
    out.clear();
    out.resize(codings.len().div_ceil(8), 0);
    for (column, (coding, cell)) in codings.iter().zip(cells).enumerate() {
        match cell {
            Cell::Null => continue,
            Cell::Text(text) => varint::put_bytes(out, text.as_bytes()),
            Cell::Bits(bits) => match coding {
                Coding::Float => out.extend_from_slice(&bits.to_le_bytes()),
                Coding::Unsigned => varint::put_u64(out, bits.cast_unsigned()),
                Coding::Text | Coding::Signed => varint::put_i64(out, *bits),
            },
        }
        out[column / 8] |= 1 << (column % 8);
    }
    out[..].into()
}

/// Reads one row, giving each column's cell in order. `None`: bytes that `encode` did not write.
pub(super) fn decode<'a>(
    codings: &[Coding],
    row: &'a [u8],
    mut each: impl FnMut(usize, Cell<'a>),
) -> Option<()> {
    let (bitmap, mut rest) = row.split_at_checked(codings.len().div_ceil(8))?;
    for (column, coding) in codings.iter().enumerate() {
        if bitmap[column / 8] & (1 << (column % 8)) == 0 {
            each(column, Cell::Null);
            continue;
        }
        let cell = match coding {
            Coding::Text => Cell::Text(std::str::from_utf8(varint::take_bytes(&mut rest)?).ok()?),
            Coding::Float => {
                let (bits, behind) = rest.split_first_chunk::<8>()?;
                rest = behind;
                Cell::Bits(i64::from_le_bytes(*bits))
            }
            Coding::Unsigned => Cell::Bits(varint::take_u64(&mut rest)?.cast_signed()),
            Coding::Signed => Cell::Bits(varint::take_i64(&mut rest)?),
        };
        each(column, cell);
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
        let row = encode(&CODINGS, &cells, &mut vec![9]);
        let mut back = Vec::new();
        assert_eq!(decode(&CODINGS, &row, |_, cell| back.push(cell)), Some(()));
        assert_eq!(back, cells);
        for len in 0..row.len() {
            assert_eq!(decode(&CODINGS, &row[..len], |_, _| ()), None, "{len} bytes");
        }
        assert_eq!(decode(&CODINGS, &[&row[..], &[0]].concat(), |_, _| ()), None);
    }
}
