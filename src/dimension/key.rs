//! Keys of dimension rows.
//!
//! In: cells of a file, or a batch's key column. Out: the bytes a store finds rows by. Invariant:
//! the same value gives the same bytes, whichever Arrow type carries it.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, PrimitiveArray, StringArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType, UInt64Type,
};

use super::cell::Cell;
use crate::catalog::model::ColumnType;
use crate::store::Bytes;

/// What kind of values a table is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// Numbers from 0 to 2^64 - 1.
    Unsigned,
    /// Numbers that fit 64 bits signed: integers, days, instants, booleans.
    Signed,
    /// Decimals with this many digits behind the point.
    Decimal(i8),
    /// Text.
    Text,
}

impl KeyKind {
    /// The kind of a type's values; `None`: no key (floats).
    pub fn of(kind: &ColumnType) -> Option<Self> {
        match kind {
            ColumnType::U64 => Some(Self::Unsigned),
            ColumnType::Int | ColumnType::Date | ColumnType::Timestamp(_) | ColumnType::Bool => {
                Some(Self::Signed)
            }
            ColumnType::Decimal { scale, .. } => Some(Self::Decimal(*scale)),
            ColumnType::String => Some(Self::Text),
            ColumnType::Float => None,
        }
    }
}

/// Bytes of an unsigned key. These are also the bytes of a numeric uid.
pub(super) fn unsigned_bytes(value: u64) -> Bytes {
    value.to_be_bytes()[..].into()
}

/// Bytes of a signed key: like an unsigned one, with a zero byte before it when negative.
pub(super) fn signed_bytes(value: i64) -> Bytes {
    if value >= 0 {
        return unsigned_bytes(value.cast_unsigned());
    }
    let mut bytes = [0; 9];
    bytes[1..].copy_from_slice(&value.to_be_bytes());
    bytes[..].into()
}

/// Bytes of a decimal key: its mantissa at the key's scale.
pub(super) fn decimal_bytes(mantissa: i128) -> Bytes {
    mantissa.to_be_bytes()[..].into()
}

/// The key of a file's cell. `None`: NULL or empty text, which is nobody's key.
pub(super) fn key_of_cell(kind: KeyKind, cell: &Cell<'_>) -> Option<Bytes> {
    Some(match (kind, cell) {
        (_, Cell::Null) => return None,
        (_, Cell::Text(text)) => {
            return (!text.is_empty()).then(|| text.as_bytes().into());
        }
        (KeyKind::Unsigned, Cell::Bits(bits)) => unsigned_bytes(bits.cast_unsigned()),
        (KeyKind::Decimal(_), Cell::Bits(bits)) => decimal_bytes(i128::from(*bits)),
        (_, Cell::Bits(bits)) => signed_bytes(*bits),
    })
}

/// A number key as preloaded tables index it: its 64 bits.
pub(super) fn number_of_bytes(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        8 => bytes.try_into().ok().map(u64::from_be_bytes),
        9 => bytes[1..].try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// The keys of a batch.
#[derive(Debug, Clone, Copy)]
pub enum KeyColumn<'a> {
    /// Numeric uids.
    Numbers(&'a [u64]),
    /// String uids (`Utf8`), a feature or a dimension's column.
    Array(&'a ArrayRef),
}

/// A batch's keys, ready to be looked up: each row's key as one of few shapes.
pub(super) enum Keys<'a> {
    /// 64-bit keys; in a `Signed` table their two's complement.
    Numbers(Box<dyn Fn(usize) -> Option<u64> + 'a>),
    /// Decimal mantissas.
    Decimals(&'a PrimitiveArray<Decimal128Type>),
    /// Plain text.
    Texts(&'a StringArray),
    /// Text by dictionary.
    Dictionary(&'a DictionaryArray<Int32Type>, &'a StringArray),
}

impl<'a> KeyColumn<'a> {
    /// The number of keys.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Array(array) => array.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its type, for messages.
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Numbers(_) => DataType::UInt64,
            Self::Array(array) => array.data_type().clone(),
        }
    }

    /// Reads the column as keys of this kind; `None`: its type cannot be one.
    pub(super) fn keys(self, kind: KeyKind) -> Option<Keys<'a>> {
        let array = match self {
            Self::Numbers(numbers) => return numbers_for(kind, move |row| Some(numbers[row])),
            Self::Array(array) => array,
        };
        match (array.data_type(), kind) {
            (DataType::UInt64, _) => {
                let array = array.as_primitive::<UInt64Type>();
                numbers_for(kind, move |row| array.is_valid(row).then(|| array.value(row)))
            }
            (DataType::Int64, _) => signed::<Int64Type>(kind, array),
            (DataType::Date32, _) => signed::<Date32Type>(kind, array),
            (DataType::Timestamp(TimeUnit::Millisecond, _), _) => {
                signed::<TimestampMillisecondType>(kind, array)
            }
            (DataType::Boolean, KeyKind::Signed) => {
                let array: &BooleanArray = array.as_boolean();
                Some(Keys::Numbers(Box::new(move |row| {
                    array.is_valid(row).then(|| u64::from(array.value(row)))
                })))
            }
            (DataType::Decimal128(_, scale), KeyKind::Decimal(of)) if *scale == of => {
                Some(Keys::Decimals(array.as_primitive()))
            }
            (DataType::Utf8, KeyKind::Text) => Some(Keys::Texts(array.as_string())),
            (DataType::Dictionary(..), KeyKind::Text) => {
                let array = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>()?;
                let values = array.values().as_any().downcast_ref::<StringArray>()?;
                Some(Keys::Dictionary(array, values))
            }
            _ => None,
        }
    }
}

/// Unsigned numbers as keys. In a signed table those beyond its range are in no row.
fn numbers_for<'a>(kind: KeyKind, at: impl Fn(usize) -> Option<u64> + 'a) -> Option<Keys<'a>> {
    match kind {
        KeyKind::Unsigned => Some(Keys::Numbers(Box::new(at))),
        KeyKind::Signed => Some(Keys::Numbers(Box::new(move |row| {
            at(row).filter(|number| i64::try_from(*number).is_ok())
        }))),
        KeyKind::Decimal(_) | KeyKind::Text => None,
    }
}

/// Signed numbers as keys. In an unsigned table negative ones are in no row.
fn signed<'a, T: ArrowPrimitiveType>(kind: KeyKind, array: &'a ArrayRef) -> Option<Keys<'a>>
where
    T::Native: Into<i64>,
{
    let array = array.as_primitive::<T>();
    let at =
        move |row: usize| -> Option<i64> { array.is_valid(row).then(|| array.value(row).into()) };
    match kind {
        KeyKind::Signed => {
            Some(Keys::Numbers(Box::new(move |row| at(row).map(i64::cast_unsigned))))
        }
        KeyKind::Unsigned => {
            Some(Keys::Numbers(Box::new(move |row| at(row).and_then(|v| u64::try_from(v).ok()))))
        }
        KeyKind::Decimal(_) | KeyKind::Text => None,
    }
}
