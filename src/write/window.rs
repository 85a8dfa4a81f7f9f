//! One window's parts become one write.
//!
//! In: the cut a window covers, and each shard's part. Out: what the store is to write, atomically.
//! Invariant: nothing is written before all parts are there.

use crate::engine::intake::{Cut, FoldTotals};
use crate::event::reject::Reject;
use crate::shard::{ShardWindow, WindowStats};
use crate::source::position::meta_key;
use crate::store::{DueCursor, WindowWrite};

/// Key of the totals in the store.
pub const TOTALS_KEY: &str = "totals";
/// Key of the fold totals in the store.
pub const FOLDS_KEY: &str = "folds";
/// Key of the last as-of in the store.
pub const AS_OF_KEY: &str = "as_of_ms";

/// A window being put together.
#[derive(Debug)]
pub struct Assembly {
    /// Its number.
    pub window: u64,
    /// The instant its results are about; none before the first event.
    pub as_of_ms: Option<i64>,
    /// What it covers.
    pub cut: Cut,
    /// Due packs it drains.
    pub due_done: Vec<DueCursor>,
    /// More small values to write with it.
    pub meta: Vec<(String, Vec<u8>)>,
    /// Computed, but not to be written.
    pub dry: bool,
    parts_missing: usize,
    write: WindowWrite,
    stats: WindowStats,
}

impl Assembly {
    /// A window that waits for `parts` parts.
    pub fn new(window: u64, as_of_ms: Option<i64>, cut: Cut, parts: usize) -> Self {
        Self {
            window,
            as_of_ms,
            cut,
            due_done: Vec::new(),
            meta: Vec::new(),
            dry: false,
            parts_missing: parts,
            write: WindowWrite::default(),
            stats: WindowStats::default(),
        }
    }

    /// Adds a shard's part. True when it was the last.
    pub fn add(&mut self, part: ShardWindow) -> bool {
        debug_assert_eq!(part.window, self.window);
        if self.write.profiles.is_empty() {
            self.write.profiles = part.profiles;
        } else {
            self.write.profiles.extend(part.profiles);
        }
        self.write.cells.extend(part.cells);
        self.write.due.extend(part.due);
        self.stats.add(&part.stats);
        self.parts_missing = self.parts_missing.saturating_sub(1);
        self.parts_missing == 0
    }

    /// The write, and what the shards did. `folds` grows by this window's counts.
    pub fn finish(mut self, folds: &mut FoldTotals) -> (WindowWrite, WindowStats) {
        folds.add(self.stats.folded);
        folds.users += self.stats.new_users;
        let write = &mut self.write;
        write.due_done = self.due_done;
        write.meta = self.meta;
        for (source, position) in &self.cut.positions {
            write.meta.push((meta_key(source), json(position)));
        }
        write.meta.push((TOTALS_KEY.to_owned(), json(&self.cut.totals)));
        write.meta.push((FOLDS_KEY.to_owned(), json(folds)));
        write.meta.push((AS_OF_KEY.to_owned(), json(&self.as_of_ms)));
        write.rejects = self.cut.rejects.iter().map(json).collect();
        write.reject_ids = self.cut.rejects.iter().map(Reject::id).collect();
        (self.write, self.stats)
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys and plain values are JSON")
}
