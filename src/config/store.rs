//! `store.*`: where profiles are.
//!
//! In: settings. Out: [`StoreConfig`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::hbase::HbaseOptions;

/// `store.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `fjall` (embedded), `hbase` (shared by many processes) or `memory` (nothing outlives the
    /// process).
    pub kind: StoreKind,
    /// Directory of the embedded store.
    pub path: PathBuf,
    /// Bytes of blocks kept in memory for reading.
    pub cache_bytes_max: u64,
    /// Where HBase is, for `kind = "hbase"`.
    pub hbase: HbaseOptions,
}

/// Kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Embedded, durable.
    Fjall,
    /// In HBase, through its Thrift gateway.
    Hbase,
    /// In memory.
    Memory,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Fjall,
            path: ".tagloom".into(),
            cache_bytes_max: 256 << 20,
            hbase: HbaseOptions::default(),
        }
    }
}
