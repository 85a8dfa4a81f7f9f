//! From new codes to stored profiles: diff, pack, commit.
//!
//! In: what shards computed for a window. Out: one atomic write to the store.
//! Invariant: a position is committed with, never before, the profiles it covers.

pub mod actor;
pub mod canonical;
pub mod open;
pub mod profile;
pub mod window;
