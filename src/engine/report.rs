//! What an engine shows while it runs, and what it did when it has ended.
//!
//! In: counts of the parts, totals of the store. Out: the same, for commands.
//! Invariant: nothing is decided here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::EngineError;
use super::checkpoint::Ended;
use super::intake::{FoldTotals, Totals};
use super::start::read_meta;
use super::status::Status;
use crate::clock::Day;
use crate::shard::WindowStats;
use crate::source::file::FileSource;
use crate::store::Store;
use crate::write::window::{FOLDS_KEY, TOTALS_KEY};

/// A look at a running engine.
pub struct Observed<'a> {
    /// Counts.
    pub status: &'a Arc<Status>,
    /// Each source.
    pub sources: &'a [SourceProgress],
}

/// How far a source is.
#[derive(Debug, Clone)]
pub struct SourceProgress {
    /// Its name.
    pub name: String,
    /// Bytes on disk; `None` for standard input.
    pub bytes_total: Option<u64>,
    /// Bytes read.
    pub bytes_read: Arc<AtomicU64>,
}

impl SourceProgress {
    pub(super) fn of(source: &FileSource) -> Self {
        Self {
            name: source.name().to_owned(),
            bytes_total: source.bytes_total,
            bytes_read: Arc::clone(&source.bytes_read),
        }
    }
}

/// What an engine did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Source rows read in this run.
    pub rows: u64,
    /// Events in this run, repeats included.
    pub events: u64,
    /// Source rows refused in this run.
    pub rejected_rows: u64,
    /// Everything the store has seen.
    pub totals: Totals,
    /// Dropped events since the store was made.
    pub folds: FoldTotals,
    /// What shards did in this run.
    pub stats: WindowStats,
    /// The last as-of, epoch ms.
    pub as_of_ms: Option<i64>,
    /// Users that are resident at the end.
    pub resident_users: u64,
    /// Memory of their states, codes and tables.
    pub resident_bytes: u64,
    /// The most it was at any window.
    pub resident_bytes_peak: u64,
    /// Bytes of the packed profiles written.
    pub packed_bytes: u64,
    /// Profiles written in this run.
    pub profiles: u64,
    /// Windows stored in this run.
    pub windows: u64,
    /// Rounds in which events were folded by slices of users.
    pub rounds: u64,
    /// The last day of all events but a few strays, and how many strays.
    pub stray_future: Option<(Day, u64)>,
    /// Dimension tables that were never loaded.
    pub missing_tables: Vec<String>,
    /// Users that are quarantined.
    pub quarantined: usize,
    /// It was told to stop before it had done everything.
    pub is_interrupted: bool,
}

impl Report {
    /// Adds what a later engine of the same process did.
    pub(super) fn add(&mut self, later: Self) {
        let stats = std::mem::take(&mut self.stats);
        let sum = Self {
            rows: self.rows + later.rows,
            events: self.events + later.events,
            rejected_rows: self.rejected_rows + later.rejected_rows,
            packed_bytes: self.packed_bytes + later.packed_bytes,
            profiles: self.profiles + later.profiles,
            windows: self.windows + later.windows,
            resident_bytes_peak: self.resident_bytes_peak.max(later.resident_bytes_peak),
            ..later
        };
        *self = sum;
        self.stats.add(&stats);
    }
}

/// Of an engine that has ended.
pub(super) fn report(
    store: &dyn Store,
    status: &Status,
    ended: Ended,
    stray_future: Option<(Day, u64)>,
    missing_tables: Vec<String>,
    quarantined: usize,
) -> Result<Report, EngineError> {
    Ok(Report {
        rows: status.rows.load(Ordering::Relaxed),
        events: status.events.load(Ordering::Relaxed),
        rejected_rows: status.rejected_rows.load(Ordering::Relaxed),
        totals: read_meta(store, TOTALS_KEY)?,
        folds: read_meta(store, FOLDS_KEY)?,
        as_of_ms: ended.as_of_ms,
        resident_users: ended.resident_users,
        resident_bytes: ended.resident_bytes,
        resident_bytes_peak: ended.resident_bytes_peak,
        is_interrupted: ended.is_interrupted,
        packed_bytes: ended.stats.packed_bytes,
        stats: ended.stats,
        profiles: status.profiles.load(Ordering::Relaxed),
        windows: status.windows.load(Ordering::Relaxed),
        rounds: status.rounds.load(Ordering::Relaxed),
        stray_future,
        missing_tables,
        quarantined,
    })
}
