//! How far a source has been read.
//!
//! In: what was read. Out: a small record in the store, one a source, written with the window that
//! covers it. Invariant: no I/O.

use serde::{Deserialize, Serialize};

use crate::user::layout::hash64;

/// Bytes of a file that tell whether it is the one that was read before.
pub const HEAD_BYTES: usize = 4096;

/// Which file (or topic) the position belongs to: a file by its first bytes, as it lies on disk; a
/// Parquet file by its footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// How many bytes were hashed: of a text at most [`HEAD_BYTES`].
    pub head_bytes: u64,
    /// Their 64-bit hash.
    pub head_hash: u64,
}

impl Incarnation {
    /// Of a file that begins with these bytes.
    pub fn of(head: &[u8]) -> Self {
        let head = &head[..head.len().min(HEAD_BYTES)];
        Self { head_bytes: head.len() as u64, head_hash: hash64(head) }
    }

    /// Whether a file that now begins with `head` is the same one, perhaps grown.
    pub fn is_of(&self, head: &[u8]) -> bool {
        usize::try_from(self.head_bytes)
            .ok()
            .and_then(|n| head.get(..n))
            .is_some_and(|h| hash64(h) == self.head_hash)
    }
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which file.
    pub incarnation: Incarnation,
    /// Bytes of decompressed text that were read; of Parquet: rows.
    pub offset: u64,
    /// Lines, or rows of Parquet, that were read.
    pub lines: u64,
}

/// The name under which the position of a file is kept for one stream: a stream that is added to a
/// file later reads it from its start. The path is absolute, so that it does not matter where the
/// command was run.
pub fn source_name(stream: &str, path: &std::path::Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!("{stream}/{}", path.display())
}

/// Keys of positions in the store begin with this.
pub const POSITION_PREFIX: &str = "position/";

/// Key of a source's position in the store.
pub fn meta_key(source: &str) -> String {
    format!("{POSITION_PREFIX}{source}")
}
