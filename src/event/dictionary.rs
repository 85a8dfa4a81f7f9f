//! The texts of a column by small code.
//!
//! In: texts. Out: codes, kept from batch to batch. Invariant: no I/O; memory is bounded, since the
//! dictionary starts over when it is full.

use crate::interner::Interner;

/// Texts a decoder keeps for one column before it starts over.
pub(super) const DICTIONARY_TEXTS_MAX: usize = 65_536;

/// Texts by small code; code 0 is NULL.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    texts: Interner,
    /// Grows when the dictionary starts over: caches by code are void.
    pub(super) generation: u64,
}

impl Dictionary {
    /// The code of a text, given as UTF-8.
    #[inline]
    pub(super) fn code(&mut self, text: &[u8]) -> u32 {
        match self.texts.code(text) {
            Some(code) => code + 1,
            None => self.code_of_other(text),
        }
    }

    /// Of something that is no UTF-8 after all.
    #[cold]
    fn code_of_other(&mut self, text: &[u8]) -> u32 {
        let text = String::from_utf8_lossy(text);
        self.texts.code(text.as_bytes()).map_or(0, |code| code + 1)
    }

    /// Number of codes, NULL's included.
    pub(super) fn len(&self) -> usize {
        self.texts.values().len() + 1
    }

    /// The text of a code; `None` for NULL.
    pub(super) fn text(&self, code: usize) -> Option<&str> {
        code.checked_sub(1).map(|at| &*self.texts.values()[at])
    }

    /// Forgets everything when there is too much of it.
    pub(super) fn start_over_if_full(&mut self) {
        if self.texts.values().len() > DICTIONARY_TEXTS_MAX {
            self.texts.clear();
            self.generation += 1;
        }
    }
}
