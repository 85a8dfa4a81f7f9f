//! What a shard counts: events of a block, users and tags of a window.
//!
//! In: what became of each. Out: sums. Invariant: what two shards, or two windows, counted adds up.

use serde::{Deserialize, Serialize};

use crate::user::state::Folded;

/// What became of a block's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FoldCounts {
    /// Counted.
    pub new: u64,
    /// Dropped: seen before.
    pub repeats: u64,
    /// Dropped: seen before with other content.
    pub changed: u64,
    /// Rows of a table that took the place of an older version.
    pub replaced: u64,
    /// Rows of a table that are gone.
    pub deleted: u64,
    /// Dropped: a newer version was there.
    pub older: u64,
    /// Dropped: the profile had applied them before this process read them again.
    pub fenced: u64,
    /// Rows that are not kept: their user has too many.
    pub left_out: u64,
    /// Users and streams of which since then only a part of the rows is kept.
    pub partly: u64,
}

/// What a shard did for a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Users with events.
    pub dirty_users: u64,
    /// Users that were due.
    pub due_users: u64,
    /// Users that a job asked for.
    pub examined_users: u64,
    /// Due entries that were stale.
    pub stale_due: u64,
    /// Tags whose value changed.
    pub tags_changed: u64,
    /// By catalogue tag index.
    pub tags: Vec<TagStats>,
    /// What became of the events since the last window.
    pub folded: FoldCounts,
    /// Profiles that changed: packed, or to be packed when their users leave memory.
    pub profiles: u64,
    /// Users that got their first profile.
    pub new_users: u64,
    /// Resident users.
    pub resident_users: u64,
    /// Memory of their states, codes and tables.
    pub resident_bytes: u64,
    /// Users that were read from the store since the last window.
    pub activated_users: u64,
    /// Users that left memory since the last window.
    pub passivated_users: u64,
    /// Bytes of the profiles that were packed since the last window.
    pub packed_bytes: u64,
    /// Integer sums that do not fit 64 bits: NULL for that user.
    pub feature_overflows: u64,
    /// Rows whose dimension values were stale or missing because the store could not be read.
    pub dimension_missing: u64,
    /// Users quarantined in this window.
    pub quarantined: u64,
    /// Users whose account became closed.
    pub closed_users: u64,
    /// Users whose account is open again.
    pub reopened_users: u64,
    /// Nanoseconds by stage: features, dimensions, tags, packing.
    pub stage_ns: [u64; 4],
}

/// What happened to one tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagStats {
    /// Users whose value changed.
    pub flips: u64,
    /// Users for whom it could not be computed.
    pub failed: u64,
}

impl WindowStats {
    /// Nothing done yet, for a catalogue with this many tags.
    pub fn new(tags: usize) -> Self {
        Self { tags: vec![TagStats::default(); tags], ..Self::default() }
    }

    /// Adds another shard's (or window's) work.
    pub fn add(&mut self, other: &Self) {
        self.dirty_users += other.dirty_users;
        self.due_users += other.due_users;
        self.examined_users += other.examined_users;
        self.stale_due += other.stale_due;
        self.tags_changed += other.tags_changed;
        self.dimension_missing += other.dimension_missing;
        self.feature_overflows += other.feature_overflows;
        self.quarantined += other.quarantined;
        self.profiles += other.profiles;
        self.new_users += other.new_users;
        self.activated_users += other.activated_users;
        self.passivated_users += other.passivated_users;
        self.closed_users += other.closed_users;
        self.reopened_users += other.reopened_users;
        self.resident_users += other.resident_users;
        self.resident_bytes += other.resident_bytes;
        self.packed_bytes += other.packed_bytes;
        self.folded.add(other.folded);
        self.tags.resize(self.tags.len().max(other.tags.len()), TagStats::default());
        for (mine, theirs) in self.tags.iter_mut().zip(&other.tags) {
            mine.flips += theirs.flips;
            mine.failed += theirs.failed;
        }
        for (mine, theirs) in self.stage_ns.iter_mut().zip(other.stage_ns) {
            *mine += theirs;
        }
    }
}

impl FoldCounts {
    /// Adds another block's counts.
    pub fn add(&mut self, other: Self) {
        self.new += other.new;
        self.repeats += other.repeats;
        self.changed += other.changed;
        self.replaced += other.replaced;
        self.deleted += other.deleted;
        self.older += other.older;
        self.fenced += other.fenced;
        self.left_out += other.left_out;
        self.partly += other.partly;
    }

    /// Counts what became of a row.
    #[inline]
    pub(super) fn note(&mut self, folded: Folded) {
        match folded {
            Folded::New => self.new += 1,
            Folded::Repeat => self.repeats += 1,
            Folded::Changed => self.changed += 1,
            Folded::Replaced => self.replaced += 1,
            Folded::Deleted => self.deleted += 1,
            Folded::Older => self.older += 1,
            Folded::LeftOut => self.left_out += 1,
            Folded::Crowded { first } => {
                self.left_out += 1;
                self.partly += u64::from(first);
            }
        }
    }
}
