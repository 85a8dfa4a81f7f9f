//! Answering questions about users: what their tags are, and why.
//!
//! In: the store, the compiled catalogue, a uid. Out: tags as of an instant, their reasons, and a
//! local socket by which other processes ask. Invariant: nothing here changes a profile.

pub mod diff;
pub mod expect;
pub mod local;
mod notes;
pub mod read;
pub mod stats;
pub mod survey;
pub mod tally;
pub mod why;
