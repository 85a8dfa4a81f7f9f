//! One user's state: rows of events, settled tiles, and the features computed from them.
//!
//! In: rows as `layout` describes them. Out: feature columns for a batch of users, snapshots.
//! Invariant: no clock, no I/O, no async; a result never depends on the order of events.

pub mod changelog;
pub mod features;
pub mod history;
pub mod layout;
pub mod lineage;
mod program;
pub mod ranked;
pub mod sample;
pub mod schema;
pub mod settled;
pub mod snapshot;
pub mod state;
pub mod stored;
mod stored_rows;
pub mod texts;
mod wanted;
