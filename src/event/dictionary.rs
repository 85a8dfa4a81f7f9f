//! The texts of a column by small code.
//!
//! In: texts. Out: codes, kept from batch to batch. Invariant: no I/O; memory is bounded, since the
//! dictionary starts over when it is full.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Texts a decoder keeps for one column before it starts over.
pub(super) const DICTIONARY_TEXTS_MAX: usize = 65_536;

/// Texts by small code; code 0 is NULL.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    texts: Vec<Box<str>>,
    by_text: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Grows when the dictionary starts over: caches by code are void.
    pub(super) generation: u64,
}

impl Dictionary {
    /// The code of a text, given as UTF-8.
    #[inline]
    pub(super) fn code(&mut self, text: &[u8]) -> u32 {
        let hash = hash(&self.hasher, text);
        let found = self.by_text.find(hash, |c| self.texts[*c as usize - 1].as_bytes() == text);
        match found {
            Some(code) => *code,
            None => self.learn(hash, text),
        }
    }

    #[cold]
    fn learn(&mut self, text_hash: u64, text: &[u8]) -> u32 {
        self.texts.push(String::from_utf8_lossy(text).into());
        let code = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let (texts, hasher) = (&self.texts, &self.hasher);
        let rehash = |c: &u32| hash(hasher, texts[*c as usize - 1].as_bytes());
        self.by_text.insert_unique(text_hash, code, rehash);
        code
    }

    /// Number of codes, NULL's included.
    pub(super) fn len(&self) -> usize {
        self.texts.len() + 1
    }

    /// The text of a code; `None` for NULL.
    pub(super) fn text(&self, code: usize) -> Option<&str> {
        code.checked_sub(1).map(|at| &*self.texts[at])
    }

    /// Forgets everything when there is too much of it.
    pub(super) fn start_over_if_full(&mut self) {
        if self.texts.len() > DICTIONARY_TEXTS_MAX {
            self.texts.clear();
            self.by_text.clear();
            self.generation += 1;
        }
    }
}

#[inline]
fn hash(hasher: &DefaultHashBuilder, text: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(text);
    state.finish()
}
