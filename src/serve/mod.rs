//! Answering questions about users: what their tags are, and why.
//!
//! In: the store, the compiled catalogue, a uid. Out: tags as of an instant, their reasons; a local
//! socket by which commands ask, and an HTTP service. Invariant: nothing here changes a profile.

pub mod answer;
pub mod cells;
pub mod diff;
pub mod expect;
pub mod http;
pub mod local;
pub mod notes;
pub mod published;
pub mod read;
pub mod readers;
pub mod seen;
pub mod stats;
pub mod survey;
pub mod tally;
pub mod why;
