//! From new codes to stored profiles: diff, pack, publish, commit.
//!
//! In: what shards computed for a window. Out: one write to the store, and what is published.
//! Invariant: a position is committed with, never before, the profiles it covers.

pub mod actor;
pub mod canonical;
pub mod open;
pub mod profile;
pub mod publish;
pub mod window;
