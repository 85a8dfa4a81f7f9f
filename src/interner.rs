//! The distinct texts of a column.
//!
//! In: texts. Out: a number for each distinct one, in order of appearance. Invariant: all are UTF-8.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::{BuildHasher, RandomState};
use twox_hash::XxHash3_64;

/// A multiplicative hash of one number (Fibonacci hashing, folded): uids need no more.
pub(crate) fn hash_number(value: u64) -> u64 {
    let product = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    #[expect(clippy::cast_possible_truncation, reason = "both halves are folded into one")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

/// A text of up to 8 bytes as a number ([`word_of`]), its length and its code.
type Short = (u64, usize, u32);

/// See the module.
#[derive(Debug)]
pub(crate) struct Interner {
    values: Vec<Box<str>>,
    /// Most words of most tables, found without looking elsewhere.
    short: HashTable<Short>,
    long: HashTable<u32>,
    /// Texts come from outside: nobody is to know which ones meet in a table.
    seed: u64,
}

impl Default for Interner {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(0);
        Self { values: Vec::new(), short: HashTable::new(), long: HashTable::new(), seed }
    }
}

impl Interner {
    /// In order of their codes.
    pub(crate) fn values(&self) -> &[Box<str>] {
        &self.values
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.short.clear();
        self.long.clear();
    }

    /// The text's code; `None`: it is not UTF-8.
    #[inline]
    pub(crate) fn code(&mut self, text: &[u8]) -> Option<u32> {
        let len = text.len();
        let Some(word) = word_of(text) else { return self.long_code(text) };
        let seed = self.seed;
        let hash = |word: u64, len: usize| hash_number(word.wrapping_add(len as u64) ^ seed);
        let known = |entry: &Short| entry.0 == word && entry.1 == len;
        match self.short.entry(hash(word, len), known, |entry| hash(entry.0, entry.1)) {
            Entry::Occupied(entry) => Some(entry.get().2),
            Entry::Vacant(entry) => {
                let code = add(&mut self.values, text)?;
                entry.insert((word, len, code));
                Some(code)
            }
        }
    }

    fn long_code(&mut self, text: &[u8]) -> Option<u32> {
        let (values, seed) = (&mut self.values, self.seed);
        let hash = |text: &[u8]| XxHash3_64::oneshot_with_seed(seed, text);
        let entry = self.long.entry(
            hash(text),
            |code| values[*code as usize].as_bytes() == text,
            |code| hash(values[*code as usize].as_bytes()),
        );
        match entry {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                let code = add(values, text)?;
                entry.insert(code);
                Some(code)
            }
        }
    }
}

/// Up to 8 bytes as a number that differs for any two texts of one length, without a copy whose length
/// is not known; `None`: there are more.
#[inline]
fn word_of(text: &[u8]) -> Option<u64> {
    let four = |at: usize| Some(u64::from(u32::from_le_bytes(*text.get(at..)?.first_chunk()?)));
    match text.len() {
        0 => Some(0),
        len @ 1..4 => {
            let byte = |at: usize| u64::from(text[at]);
            Some(byte(0) | byte(len / 2) << 8 | byte(len - 1) << 16)
        }
        len @ 4..=8 => Some(four(0)? | four(len - 4)? << 32),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 rows")]
fn add(values: &mut Vec<Box<str>>, text: &[u8]) -> Option<u32> {
    values.push(std::str::from_utf8(text).ok()?.into());
    Some(values.len() as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_told_apart() {
        let texts = [
            "",
            "\0",
            "\0\0",
            "a",
            "a\0",
            "ab",
            "ba",
            "abc",
            "acb",
            "bac",
            "abcd",
            "abdc",
            "abcde",
            "abcdX",
            "1234567",
            "1235467",
            "12345678",
            "12345687",
            "123456789",
            "é",
        ];
        let mut known = Interner::default();
        for _ in 0..2 {
            for (code, text) in (0..).zip(texts) {
                assert_eq!(known.code(text.as_bytes()), Some(code), "{text:?}");
            }
        }
        assert!(known.values().iter().map(AsRef::as_ref).eq(texts));
        for bad in [&b"\xff"[..], b"123456789\xff"] {
            assert_eq!(known.code(bad), None);
        }
    }
}
