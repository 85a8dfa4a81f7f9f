//! tagloom keeps a profile of every user up to date within seconds: events are folded into one
//! virtual actor per user, and every few seconds the tags of the users that changed, and only
//! theirs, are recomputed and written.
//!
//! Modules in the order data meets them.

pub mod catalog;
pub mod clock;
pub mod source;
pub mod event;
pub mod user;
pub mod shard;
pub mod dimension;
pub mod rule;
pub mod store;
pub mod write;
pub mod engine;
pub mod serve;
pub mod config;
pub mod cli;
