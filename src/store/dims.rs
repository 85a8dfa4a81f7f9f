//! What a store knows about dimension tables: their epochs.
//!
//! In: what a load found. Out: the records kept beside the rows. Invariant: an epoch's number is
//! never used twice; what a load found stays, and rows of a committed epoch change only as the topic
//! says that keeps the table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bytes, Result, Store, StoreError};

/// Number of one complete load of a table, counting from 1.
pub type Epoch = u64;

/// Committed epochs kept per table: the current one, and the one before for windows that pinned it.
pub const EPOCHS_KEPT: usize = 2;

/// Meta keys that begin so hold a [`DimState`] each, by table.
pub const META_PREFIX_DIMS: &str = "dim/";

/// Key and encoded row.
pub type DimRow = (Bytes, Bytes);

/// Key and encoded row of a committed epoch; none: the row is gone.
pub type DimUpsert = (Bytes, Option<Bytes>);

/// How far a topic was read that keeps a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The id that the cluster gave the topic: another one of the same name is another table.
    pub topic_id: String,
    /// The next offset of each partition.
    pub next: BTreeMap<u32, u64>,
}

impl Positions {
    /// The next offset of a partition.
    pub fn of(&self, partition: u32) -> u64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// Whether these come behind others of the same topic, or are the same.
    pub fn is_behind(&self, before: &Self) -> bool {
        self.topic_id == before.topic_id
            && before.next.iter().all(|(partition, offset)| self.of(*partition) >= *offset)
    }

    /// The lesser offset of each partition; `None`: they are of different topics.
    #[must_use]
    pub fn least(&self, other: &Self) -> Option<Self> {
        if self.topic_id != other.topic_id {
            return None;
        }
        let both = self.next.iter().filter_map(|(partition, offset)| {
            let least = other.of(*partition).min(*offset);
            (least > 0).then_some((*partition, least))
        });
        Some(Self { topic_id: self.topic_id.clone(), next: both.collect() })
    }
}

/// How a row differs from the epoch before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// Only the new epoch has it.
    Added,
    /// Both have it, with other values.
    Changed,
    /// Only the epoch before had it.
    Removed,
}

impl ChangeKind {
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Added => b'a',
            Self::Changed => b'c',
            Self::Removed => b'r',
        }
    }

    pub(super) fn from_value(table: &str, value: &[u8]) -> Result<Self> {
        match value {
            [b'a'] => Ok(Self::Added),
            [b'c'] => Ok(Self::Changed),
            [b'r'] => Ok(Self::Removed),
            _ => Err(damaged(table)),
        }
    }
}

/// A column as an epoch holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimColumnMeta {
    /// Its name in the table.
    pub name: String,
    /// Its type as the catalogue writes it, instants as `timestamp`.
    pub kind: String,
}

/// What is known of a committed epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimMeta {
    /// Its number.
    pub epoch: Epoch,
    /// When it was loaded, epoch milliseconds.
    pub loaded_at_ms: i64,
    /// The file it was loaded from.
    pub source: String,
    /// The type of its key, as [`DimColumnMeta::kind`].
    pub key: String,
    /// Columns in the order of the rows' values.
    pub columns: Vec<DimColumnMeta>,
    /// Rows it holds.
    pub rows: u64,
    /// Rows of the file that were left out because a cell could not be read.
    pub rejected: u64,
    /// Rows that are new or have other values than in the epoch before.
    pub changed: u64,
    /// Rows that are gone since the epoch before.
    pub removed: u64,
    /// There was no comparable epoch before: every row counts as changed, and no keys are listed.
    pub all_changed: bool,
    /// How far the topic that keeps the table had been applied when the load began: what comes from
    /// there on belongs on top of it. None: nobody had applied anything.
    #[serde(default)]
    pub topic: Option<Positions>,
}

/// The epochs of one table, as stored in one meta value so that a commit is one atomic write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimState {
    /// The last number given out.
    pub last_epoch: Epoch,
    /// A load that has begun and is not committed.
    pub loading: Option<Epoch>,
    /// Committed epochs, oldest first.
    pub epochs: Vec<DimMeta>,
}

impl DimState {
    pub(super) fn decode(table: &str, value: &[u8]) -> Result<Self> {
        serde_json::from_slice(value).map_err(|_| damaged(table))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are always JSON")
    }

    /// A new load begins. Gives its epoch, and the one of an unfinished load to drop.
    pub(super) fn begin(&mut self) -> (Epoch, Option<Epoch>) {
        self.last_epoch += 1;
        (self.last_epoch, self.loading.replace(self.last_epoch))
    }

    /// The load is complete. Gives the epochs to drop.
    pub(super) fn commit(&mut self, table: &str, meta: DimMeta) -> Result<Vec<Epoch>> {
        if self.loading != Some(meta.epoch) {
            return Err(StoreError::NoEpoch { table: table.to_owned(), epoch: meta.epoch });
        }
        self.loading = None;
        self.epochs.push(meta);
        let surplus = self.epochs.len().saturating_sub(EPOCHS_KEPT);
        Ok(self.epochs.drain(..surplus).map(|m| m.epoch).collect())
    }

    /// Forgets an epoch.
    pub(super) fn drop_epoch(&mut self, epoch: Epoch) {
        self.loading = self.loading.filter(|e| *e != epoch);
        self.epochs.retain(|m| m.epoch != epoch);
    }
}

/// Names of all tables with a committed epoch, from their meta values.
pub(super) fn tables(store: &dyn Store) -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for (key, value) in store.scan_meta(META_PREFIX_DIMS)? {
        let table = key.strip_prefix(META_PREFIX_DIMS).unwrap_or(&key);
        if !DimState::decode(table, &value)?.epochs.is_empty() {
            tables.push(table.to_owned());
        }
    }
    Ok(tables)
}

fn damaged(table: &str) -> StoreError {
    StoreError::Corrupt {
        what: format!("the dimension table `{table}`"),
        remedy: "load it again with `tagloom dims load`".to_owned(),
    }
}
