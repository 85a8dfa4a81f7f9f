//! Evaluation of rules: SQL, plan, kernels.
//!
//! In: expressions of the catalogue, then columns of users. Out: codes and values per user and tag.
//! Invariant: no actors, no stores, no clock.

pub mod closed;
pub mod days;
pub mod eval;
pub mod guard;
pub(crate) mod kernels;
pub mod packed;
pub mod plan;
pub mod safe;
pub mod sql;
pub mod why;

pub use self::eval::{AsOf, Scratch, TagBatch};
pub use self::plan::{InputField, Plan, PlanError};
