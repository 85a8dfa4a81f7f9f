//! Texts that states hold as small integers.
//!
//! In: texts. Out: codes, equal for equal texts for as long as the process lives; snapshots write
//! the texts themselves. Invariant: a code, once given, keeps its text.

use std::hash::BuildHasher;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use hashbrown::{DefaultHashBuilder, HashTable};

/// No text has this code: fewer fit in memory.
const UNKNOWN: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Interned {
    texts: Vec<Arc<str>>,
    by_text: HashTable<u32>,
    bytes: usize,
}

/// All texts of one process.
#[derive(Debug, Default)]
pub struct Texts {
    interned: RwLock<Interned>,
    hasher: DefaultHashBuilder,
}

/// A look at the texts, for as long as it is held.
#[derive(Debug)]
pub struct TextsView<'a>(RwLockReadGuard<'a, Interned>);

impl Texts {
    /// The code of a text.
    pub fn intern(&self, text: &str) -> u32 {
        let hash = self.hasher.hash_one(text);
        {
            let interned = self.interned.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(code) = interned.find(hash, text) {
                return code;
            }
        }
        let mut interned = self.interned.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(code) = interned.find(hash, text) {
            return code;
        }
        let code =
            u32::try_from(interned.texts.len()).expect("fewer than 2^32 texts fit in memory");
        interned.bytes += text.len();
        interned.texts.push(text.into());
        let Interned { texts, by_text, .. } = &mut *interned;
        by_text.insert_unique(hash, code, |c| self.hasher.hash_one(&*texts[*c as usize]));
        code
    }

    /// The codes of several texts: they are mostly known, and then looked for at once.
    pub fn intern_all(&self, texts: &[&str]) -> Vec<u32> {
        let mut codes: Vec<u32> = {
            let interned = self.interned.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let find = |text: &&str| interned.find(self.hasher.hash_one(*text), text);
            texts.iter().map(|text| find(text).unwrap_or(UNKNOWN)).collect()
        };
        for (code, text) in codes.iter_mut().zip(texts).filter(|(code, _)| **code == UNKNOWN) {
            *code = self.intern(text);
        }
        codes
    }

    /// A view to read texts by code.
    pub fn view(&self) -> TextsView<'_> {
        TextsView(self.interned.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Interned {
    fn find(&self, hash: u64, text: &str) -> Option<u32> {
        self.by_text.find(hash, |c| &*self.texts[*c as usize] == text).copied()
    }
}

impl TextsView<'_> {
    /// The text of a code that [`Texts::intern`] gave.
    pub fn get(&self, code: u32) -> &str {
        &self.0.texts[code as usize]
    }

    /// Number of texts and their bytes, for the metric.
    pub fn size(&self) -> (usize, usize) {
        (self.0.texts.len(), self.0.bytes)
    }
}
