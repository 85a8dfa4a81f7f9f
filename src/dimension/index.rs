//! From keys to row numbers of a table in memory.
//!
//! In: the keys of all rows, then those of a batch. Out: row numbers, 0 where no row has the key.
//! Invariant: a key finds the row it was added with.

use hashbrown::HashTable;
use twox_hash::XxHash3_64;

use arrow::array::{Array, DictionaryArray, StringArray};
use arrow::datatypes::Int32Type;

use super::key::{KeyKind, Keys, number_of_bytes};
use crate::interner::hash_number;

/// Beyond this many slots a row, numbers are hashed instead of used as positions.
const DENSE_SLOTS_PER_ROW_MAX: u64 = 4;

/// Finds rows.
#[derive(Debug)]
pub(super) enum Index {
    /// Position = key: the keys lie close together.
    Dense(Vec<u32>),
    /// By 64 bits.
    Numbers(HashTable<(u64, u32)>),
    /// By decimal mantissa.
    Decimals(HashTable<(i128, u32)>),
    /// By text.
    Texts(HashTable<(Box<str>, u32)>),
}

fn hash_decimal(value: i128) -> u64 {
    XxHash3_64::oneshot(&value.to_le_bytes())
}

fn hash_text(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes())
}

/// An index that is being filled.
pub(super) enum IndexBuilder {
    /// Numbers wait until it is known how close together they lie.
    Numbers(Vec<(u64, u32)>),
    Decimals(HashTable<(i128, u32)>),
    Texts(HashTable<(Box<str>, u32)>),
}

impl IndexBuilder {
    pub(super) fn new(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Unsigned | KeyKind::Signed => Self::Numbers(Vec::new()),
            KeyKind::Decimal(_) => Self::Decimals(HashTable::new()),
            KeyKind::Text => Self::Texts(HashTable::new()),
        }
    }

    /// Adds a stored key, which must be new. `None`: bytes that are no key of this kind.
    pub(super) fn add(&mut self, key: &[u8], row: u32) -> Option<()> {
        match self {
            Self::Numbers(numbers) => numbers.push((number_of_bytes(key)?, row)),
            Self::Decimals(table) => {
                let number = i128::from_be_bytes(key.try_into().ok()?);
                table.insert_unique(hash_decimal(number), (number, row), |e| hash_decimal(e.0));
            }
            Self::Texts(table) => {
                let text = std::str::from_utf8(key).ok()?;
                table.insert_unique(hash_text(text), (text.into(), row), |e| hash_text(&e.0));
            }
        }
        Some(())
    }

    /// All keys are in.
    pub(super) fn finish(self) -> Index {
        let numbers = match self {
            Self::Numbers(numbers) => numbers,
            Self::Decimals(table) => return Index::Decimals(table),
            Self::Texts(table) => return Index::Texts(table),
        };
        let greatest = numbers.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let slots_max = (numbers.len() as u64).saturating_mul(DENSE_SLOTS_PER_ROW_MAX);
        let Some(slots) = usize::try_from(greatest).ok().filter(|_| greatest < slots_max) else {
            let mut table = HashTable::with_capacity(numbers.len());
            for (number, row) in numbers {
                table.insert_unique(hash_number(number), (number, row), |e| hash_number(e.0));
            }
            return Index::Numbers(table);
        };
        let mut dense = vec![0; slots + 1];
        for (number, row) in numbers {
            if let Some(slot) = usize::try_from(number).ok().and_then(|n| dense.get_mut(n)) {
                *slot = row;
            }
        }
        Index::Dense(dense)
    }
}

impl Index {
    fn number(&self, number: u64) -> u32 {
        match self {
            Self::Dense(rows) => {
                usize::try_from(number).ok().and_then(|n| rows.get(n)).copied().unwrap_or(0)
            }
            Self::Numbers(table) => {
                table.find(hash_number(number), |e| e.0 == number).map_or(0, |e| e.1)
            }
            Self::Decimals(_) | Self::Texts(_) => 0,
        }
    }

    fn text(&self, text: &str) -> u32 {
        match self {
            Self::Texts(table) => table.find(hash_text(text), |e| *e.0 == *text).map_or(0, |e| e.1),
            _ => 0,
        }
    }

    fn decimal(&self, mantissa: i128) -> u32 {
        match self {
            Self::Decimals(table) => {
                table.find(hash_decimal(mantissa), |e| e.0 == mantissa).map_or(0, |e| e.1)
            }
            _ => 0,
        }
    }

    /// The row of each key of a batch.
    pub(super) fn rows(&self, keys: &Keys<'_>, len: usize) -> Vec<u32> {
        match keys {
            Keys::Numbers(at) => {
                (0..len).map(|row| at(row).map_or(0, |number| self.number(number))).collect()
            }
            Keys::Decimals(array) => {
                array.iter().map(|value| value.map_or(0, |m| self.decimal(m))).collect()
            }
            Keys::Texts(array) => {
                array.iter().map(|value| value.map_or(0, |text| self.text(text))).collect()
            }
            Keys::Dictionary(array, values) => by_dictionary(array, values, |text| self.text(text)),
        }
    }
}

/// Looks up each dictionary value once, or each row where that is less.
pub(super) fn by_dictionary(
    array: &DictionaryArray<Int32Type>,
    values: &StringArray,
    mut look_up: impl FnMut(&str) -> u32,
) -> Vec<u32> {
    let positions = array.keys_iter();
    if values.len() > array.len() {
        return positions
            .map(|position| match position {
                Some(at) if values.is_valid(at) => look_up(values.value(at)),
                _ => 0,
            })
            .collect();
    }
    let found: Vec<u32> = values.iter().map(|v| v.map_or(0, &mut look_up)).collect();
    positions.map(|position| position.map_or(0, |at| found[at])).collect()
}
