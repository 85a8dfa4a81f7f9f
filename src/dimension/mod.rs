//! Tables of attributes: load, epochs, lookup.
//!
//! In: CSV and Parquet files, topics, and the keys of a batch of users. Out: epochs in the store, and
//! Arrow columns with one value a user. A table is one or more [`crate::catalog::model::Dimension`]s
//! that look it up by different keys.
//! Invariant: time comes from the closure given at construction; a window sees one epoch a table.

mod broadcast;
mod cached;
mod cell;
mod changes;
mod chunk;
mod column;
mod csv;
mod diff;
mod feed;
mod follow;
pub mod given;
mod index;
mod key;
mod load;
mod lookup;
mod options;
mod packed;
mod parquet;
mod row;
mod spec;
mod table;
#[cfg(test)]
mod tests;
mod text_rows;
mod written;

pub use crate::store::Positions;
pub use broadcast::TopicTable;
pub use diff::{ChangedKeys, changed_keys};
pub use feed::{Feed, FeedRecord};
pub use follow::{TopicReader, TopicRecord};
pub use key::{KeyColumn, KeyKind};
pub use load::{LoadError, LoadOptions, LoadReport, Progress, RowError, load};
pub use lookup::{Dimensions, EnrichError, Enriched, Now, Pinned, Refreshed};
pub use options::{Feeds, Lookups, OpenFeed};
pub use spec::{SpecError, TableSpec};
pub use table::PreloadedTable;
