//! Who may write which profiles of a store that several processes share.
//!
//! In: partitions as a consumer group assigns them. Out: [`Term`], a number that tells an owner
//! from those before it, and [`Ownership`], what a process holds.
//! Invariant: of two owners of a partition the later one has the greater term.

use super::{Result, StoreError};

/// The last term whose windows and cell timestamps have room: see [`Term::first_window`].
const TERM_MAX: u64 = (1 << 21) - 1;

/// A number from one counter in the store, taken at each assignment of partitions: greater wins.
/// 0 is nobody's: what was written without ownership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u64);

impl Term {
    /// A term as the counter gave it.
    ///
    /// # Errors
    /// When so many were taken that timestamps have no room for it (2,097,151).
    pub fn new(number: u64) -> Result<Self> {
        if number > TERM_MAX {
            return Err(StoreError::Corrupt {
                what: format!("the counter of terms ({number}, at most {TERM_MAX})"),
                remedy: "export the profiles and begin a new store".to_owned(),
            });
        }
        Ok(Self(number))
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The number from which an owner counts its windows. Due entries are named by their window:
    /// those of two owners of a partition must never have the same name, or the later one's would
    /// take the place of the earlier one's, and users would be forgotten.
    pub fn first_window(self) -> u64 {
        self.0 << 32
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that stands for files, which have no partitions, and hold events of any user.
pub const FILES: u32 = u32::MAX;

/// What a process holds of a shared store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Since when.
    pub term: Term,
    /// Whose users it may write, and whose due entries it drains.
    pub partitions: Vec<u32>,
}

impl Ownership {
    /// Of who reads files into a store that nobody reads topics into. Its entries stood at partition 0 in
    /// stores of earlier times.
    pub fn of_files(term: Term) -> Self {
        Self { term, partitions: vec![0, FILES] }
    }
}
