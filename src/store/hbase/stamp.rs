//! Timestamps of cells: which write wins.
//!
//! In: this process's ownership and the machine's clock. Out: `term << 42 | milliseconds`, growing.
//! Invariant: a greater term wins whatever the clocks say; within a term a later write wins.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Ownership, Result, Term};

/// Bits below the term: milliseconds until the year 2109.
const MS_BITS: u32 = 42;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stamps(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ownership: Option<Ownership>,
    last_ms: i64,
}

impl Inner {
    fn next_ms(&mut self) -> i64 {
        self.last_ms = crate::clock::wall_ms().max(self.last_ms + 1);
        self.last_ms
    }
}

impl Stamps {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is owned.
    pub(super) fn own(&self, ownership: Ownership) {
        self.lock().ownership = Some(ownership);
    }

    /// The partitions owned; those of files before anything is.
    pub(super) fn partitions(&self) -> Vec<u32> {
        self.lock().ownership.as_ref().map_or_else(
            || Ownership::of_files(Term::default()).partitions,
            |own| own.partitions.clone(),
        )
    }

    /// The next timestamp of this process's term. Who owns nothing takes a term: it would lose
    /// against all that was written before otherwise.
    pub(super) fn next(&self, take_term: impl FnOnce() -> Result<Term>) -> Result<i64> {
        let term = self.lock().ownership.as_ref().map(|own| own.term);
        let term = match term {
            Some(term) => term,
            None => {
                let term = take_term()?;
                let mut inner = self.lock();
                inner.ownership.get_or_insert_with(|| Ownership::of_files(term)).term
            }
        };
        let ms = self.lock().next_ms();
        Ok(term.number().cast_signed() << MS_BITS | ms)
    }

    /// A timestamp that loses against any owner's.
    pub(super) fn without_term(&self) -> i64 {
        self.lock().next_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FILES;

    fn term(number: u64) -> Term {
        Term::new(number).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn stamps_grow_and_a_greater_term_wins() {
        let (old, new) = (Stamps::default(), Stamps::default());
        old.own(Ownership { term: term(4), partitions: vec![1, 2] });
        let mut took = 0;
        let first = new.next(|| {
            took += 1;
            Ok(term(5))
        });
        let first = first.unwrap_or_else(|e| panic!("{e}"));
        let second = new.next(|| panic!("it has one")).unwrap_or_else(|e| panic!("{e}"));
        assert!((took, new.partitions()) == (1, vec![0, FILES]) && first < second);
        // The old owner's clock is an hour ahead, and it still loses.
        old.lock().last_ms = crate::clock::wall_ms() + 3_600_000;
        let late = old.next(|| panic!("it has one")).unwrap_or_else(|e| panic!("{e}"));
        assert!(late < first && new.without_term() < late);
        assert_eq!((late >> MS_BITS, first >> MS_BITS), (4, 5));
        assert!(
            term(2_097_151).number().cast_signed() << MS_BITS > 0 && Term::new(2_097_152).is_err()
        );
    }
}
