//! The inner loops: columns in, codes out, a chunk of rows at a time.
//!
//! In: slices of one column's numbers. Out: bytes, one per row. Invariant: no allocation, no
//! dispatch per row, no failure; what a kernel cannot do exactly is not given to it.

pub(super) mod coded;
pub(super) mod lane;
pub(super) mod mask;
pub(super) mod step;
pub(super) mod transpose;
pub(crate) mod wide;

/// Rows handled at once: their masks and codes stay in the second-level cache.
pub(super) const CHUNK_ROWS: usize = 1024;
