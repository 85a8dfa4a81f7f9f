//! tagloom keeps a profile of every user up to date within seconds: events are folded into one
//! virtual actor per user, and every few seconds the tags of the users that changed, and only
//! theirs, are recomputed and written.
//!
//! Modules in the order data meets them.

pub mod buffer_pool;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dimension;
pub mod engine;
pub mod event;
mod interner;
pub mod pace;
pub mod relay;
pub mod rule;
pub mod serve;
pub mod shard;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod user;
pub mod write;
