//! Names that no store takes.
//!
//! In: a meta key or a table's name as a caller gives it. Out: nothing, or the error that both
//! stores answer with. Invariant: what passes here passes in every store.

use super::{Result, StoreError};

/// Meta keys that begin so are a store's own and not seen by `meta`, `scan_meta`, `put_meta`.
pub(super) const OWN_PREFIX: &str = "\0";

const META_KEY_BYTES_MAX: usize = 1024;

/// Longest table name: fjall takes keyspace names of up to 255 bytes, ours carry the epoch.
const TABLE_BYTES_MAX: usize = 200;

/// fjall refuses empty keys by panicking, and the store's own keys are nobody else's.
pub(super) fn check_meta_key(key: &str) -> Result<()> {
    if key.is_empty() || key.starts_with(OWN_PREFIX) || key.len() > META_KEY_BYTES_MAX {
        return Err(StoreError::TooLarge {
            what: format!(
                "the meta key {key:?} (1 to {META_KEY_BYTES_MAX} bytes, the first not zero)"
            ),
            bytes: key.len(),
            bytes_max: META_KEY_BYTES_MAX,
        });
    }
    Ok(())
}

/// Names of dimension tables.
pub(super) fn check_table(table: &str) -> Result<()> {
    if table.is_empty() || table.len() > TABLE_BYTES_MAX {
        return Err(StoreError::TooLarge {
            what: format!("the table name `{table}`"),
            bytes: table.len(),
            bytes_max: TABLE_BYTES_MAX,
        });
    }
    Ok(())
}
