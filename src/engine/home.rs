//! Whose a user is whose events all came from files.
//!
//! A user of a store that processes share belongs to the owner of the partition in which its events come.
//! Who came from files (a first load, a history) has none until its first record, and still has to be
//! computed when rules, tables or time change, by one process. That one is the owner of its *home*: the
//! partition in which its records will stand, which the producers' partitioner says of a uid
//! (`source.partitioner`).
//!
//! Why exactly one process writes such a user:
//! - Processes agree on the partitioner through the store: each takes it from there at each assignment, and
//!   it changes only while the group has no members.
//! - So a home has one owner, and an owner begins, and ends, with the group's assignment, under a lease, as
//!   it does with users of its partitions.
//! - The first record makes its own partition the user's for good. Where that is its home, its owner is the
//!   one who had it before. Where it is not (the partitioner is another one than was said), and somebody
//!   else owns the home, the record is not folded: the run ends before anything is written, and says which
//!   partitioner would fit. So the two never write it both.
//! - Who owns all partitions owns everybody, whatever the partitioner: nobody else may write.
//! - Due entries stand at the home, or, where it is not known (a load before any topic was read), at
//!   `FILES`, which the owner of partition 0 drains. Whoever drains an entry of a user that is not its own
//!   hands it on to the user's partition, with the window that removes it.
//!
//! With `source.partitioner = none` nobody but who owns all partitions works for these users.
//! Invariant: no process writes a user that another one may take for its own.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::EngineError;
use super::owned::{has_marks, partitions_of, put_for_everybody};
use super::version::recomputed;
use crate::catalog::model::UidType;
use crate::event::partitioner::Partitioner;
use crate::store::{FILES, Result, Store, Uid, UidKey};

/// Key of the partitioner that processes have agreed on.
const PARTITIONER_KEY: &str = "source/partitioner";

/// See the module. As one owner knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Homes {
    partitioner: Partitioner,
    partitions: u32,
    uid: UidType,
    is_everybody: bool,
}

impl Homes {
    /// For the owner of some partitions.
    pub(super) fn open(store: &dyn Store, owned: &BTreeSet<u32>) -> Result<Self> {
        let partitions = partitions_of(store)?;
        Ok(Self {
            partitioner: agreed(store)?.unwrap_or(Partitioner::None),
            partitions,
            uid: store.identity().uid,
            is_everybody: partitions > 0 && owned.len() >= partitions as usize,
        })
    }

    /// The partition in which records of a user will stand; none: it is not known.
    pub(super) fn of(&self, user: &UidKey) -> Option<u32> {
        if self.partitions == 0 || self.partitioner == Partitioner::None {
            return None;
        }
        let uid = Uid::from_key(self.uid, user).ok()?;
        self.partitioner.of(&uid, self.partitions)
    }

    /// Whether all partitions are owned.
    pub(super) fn is_everybody(&self) -> bool {
        self.is_everybody
    }

    /// Whose due entries the owner of some partitions drains.
    pub(super) fn drained(&self, owned: &BTreeSet<u32>) -> Vec<u32> {
        // Of somebody whose home is not known it could only put them back.
        let knows = self.partitions > 0 && self.partitioner != Partitioner::None;
        let files = self.is_everybody || knows && owned.contains(&0);
        owned.iter().copied().chain(files.then_some(FILES)).collect()
    }
}

/// The partitioner that the processes of a store have agreed on; none: they have not yet.
pub fn agreed(store: &dyn Store) -> Result<Option<Partitioner>> {
    let found = store.meta(PARTITIONER_KEY)?;
    // One of a newer tagloom is none that this one knows.
    Ok(found.map(|bytes| serde_json::from_slice(&bytes).unwrap_or(Partitioner::None)))
}

/// From now on this is the partitioner. Others must have one that is the same, or must not run.
pub fn agree(store: &dyn Store, partitioner: Partitioner) -> std::result::Result<(), EngineError> {
    // Users are others' from now on, and what partitions have done does not hold for these.
    if has_marks(store)? {
        let (key, none) = recomputed(0);
        put_for_everybody(store, &key, &none)?;
    }
    let value = serde_json::to_vec(&partitioner).unwrap_or_default();
    Ok(store.put_meta(PARTITIONER_KEY, value)?)
}
