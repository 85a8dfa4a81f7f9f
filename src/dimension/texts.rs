//! The distinct texts of a column.
//!
//! In: stored texts. Out: a number for each distinct one, in order of appearance. Invariant: all
//! are UTF-8.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use twox_hash::XxHash3_64;

use super::index::hash_number;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Texts {
    values: Vec<Box<str>>,
    /// Texts of up to 8 bytes as a number, and their length: most words of most tables, found
    /// without looking elsewhere.
    short: HashTable<(u64, usize, u32)>,
    long: HashTable<u32>,
}

impl Texts {
    /// In order of their codes.
    pub(super) fn values(&self) -> &[Box<str>] {
        &self.values
    }

    /// The text's code; `None`: it is not UTF-8.
    #[inline]
    pub(super) fn code(&mut self, text: &[u8]) -> Option<u32> {
        let len = text.len();
        let mut word = [0; 8];
        let Some(front) = word.get_mut(..len) else { return self.long_code(text) };
        front.copy_from_slice(text);
        let word = u64::from_le_bytes(word);
        let hash = |word: u64, len: usize| hash_number(word.wrapping_add(len as u64));
        let known = |entry: &(u64, usize, u32)| entry.0 == word && entry.1 == len;
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
        let values = &mut self.values;
        let entry = self.long.entry(
            XxHash3_64::oneshot(text),
            |code| values[*code as usize].as_bytes() == text,
            |code| XxHash3_64::oneshot(values[*code as usize].as_bytes()),
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

#[expect(clippy::cast_possible_truncation, reason = "a table has fewer than 2^32 rows")]
fn add(values: &mut Vec<Box<str>>, text: &[u8]) -> Option<u32> {
    values.push(std::str::from_utf8(text).ok()?.into());
    Some(values.len() as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_told_apart() {
        let texts = ["", "\0", "\0\0", "a", "a\0", "12345678", "123456789", "é"];
        let mut known = Texts::default();
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
