//! The rule-authoring directory: parse, expand, check.
//!
//! In: a directory of YAML files and `ids.lock`. Out: a [`model::Catalog`], or every error with its
//! place and remedy. Invariant: no I/O but reading files.

mod aggregate;
mod build;
mod case;
mod case_time;
mod changelog;
pub mod diff;
mod dimension;
mod envelope;
mod expression;
mod feature;
mod fields;
mod fingerprint;
mod keys;
pub mod lineage;
mod load;
mod lock;
mod matrix;
pub mod meaning;
pub mod model;
pub mod place;
pub mod pretty;
mod render;
mod report;
mod scalar;
pub mod select;
mod settings;
pub mod sql_text;
mod stream;
mod sugar;
mod tag;
pub mod terms;
mod yaml;

pub use self::expression::words;
pub use self::keys::schema;
pub use self::load::{LoadError, Loaded, load, load_from, read};
pub use self::lock::{LOCK_FILE, Lock, LockEntry, LockKind};
pub use self::render::render;
pub use self::scalar::type_text;
