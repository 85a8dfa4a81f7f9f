//! The rule-authoring directory: parse, expand, check.
//!
//! In: a directory of YAML files and `ids.lock`. Out: a [`model::Catalog`], or every error with its
//! place and remedy. Invariant: no I/O but reading files.

pub mod model;
pub mod place;
pub mod sql_text;
