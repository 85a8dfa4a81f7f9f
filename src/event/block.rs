//! Decoded events on their way to shards.
//!
//! In: rows of a stream's layout. Out: the same, one part a shard, with uids and their hashes (one
//! hash an event: it picks the shard and finds the user). Invariant: plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Day;
use crate::user::layout::{StreamLayout, hash64};

/// Users of a part, one a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uids {
    /// Numeric uids.
    Numbers(Vec<u64>),
    /// Text uids.
    Texts(Vec<Box<str>>),
}

impl Uids {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(v) => v.len(),
            Self::Texts(v) => v.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One shard's events of one block.
#[derive(Debug, Clone)]
pub struct ShardRows {
    /// Whose events.
    pub uids: Uids,
    /// [`uid_hash`] of each (texts: the 64-bit hash).
    pub hashes: Vec<u64>,
    /// Rows of the layout, one after the other.
    pub rows: Vec<u64>,
    /// Offset of each row's record in its partition; empty for rows of files.
    pub offsets: Vec<u64>,
}

/// Records of change data capture that are no rows of a stream, by what they are. A record of another
/// table counts once, however many rows it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Skipped {
    /// Updates, where rows are events (`mode: append`).
    pub updates: u64,
    /// Deletions, where rows are events.
    pub deletes: u64,
    /// Truncations, where rows are events.
    pub truncates: u64,
    /// Of tables that the stream does not read.
    pub other_tables: u64,
    /// Changes of tables' columns.
    pub ddl: u64,
    /// Records without value, which follow deletions.
    pub tombstones: u64,
    /// Heartbeats, borders of transactions and of first loads, texts of statements.
    pub marks: u64,
}

impl Skipped {
    /// Counts with their names, in the order of the fields.
    pub fn counts(&self) -> [(&'static str, u64); 7] {
        [
            ("updates", self.updates),
            ("deletes", self.deletes),
            ("truncates", self.truncates),
            ("other_tables", self.other_tables),
            ("ddl", self.ddl),
            ("tombstones", self.tombstones),
            ("marks", self.marks),
        ]
    }
}

impl std::ops::AddAssign for Skipped {
    fn add_assign(&mut self, other: Self) {
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
        self.other_tables += other.other_tables;
        self.ddl += other.ddl;
        self.tombstones += other.tombstones;
        self.marks += other.marks;
    }
}

/// Events of one stream from one batch of source rows.
#[derive(Debug, Clone)]
pub struct EventBlock {
    /// Stream index.
    pub stream: u8,
    /// One part a shard.
    pub shards: Vec<ShardRows>,
    /// Events.
    pub accepted: u64,
    /// Rows of a table that left their user.
    pub gone: u64,
    /// Of them: rows that came to another user.
    pub moved: u64,
    /// Rows for which the stream's `where` is not true.
    pub filtered: u64,
    /// Row expressions that could not be computed (and are NULL).
    pub failed: u64,
    /// Records that are no rows of the stream.
    pub skipped: Skipped,
    /// Columns of its rows that no stream reads, told once.
    pub unread: Vec<String>,
    /// Events that arrived later than the horizon: only features over everything count them.
    pub late: u64,
    /// Greatest arrival time of a row, epoch ms; `i64::MIN` where rows have none.
    pub greatest_arrival_ms: i64,
    /// Greatest event time, epoch ms; `i64::MIN` without events.
    pub greatest_ms: i64,
    /// Events by day.
    pub days: BTreeMap<Day, u64>,
    last_day: (Day, u64),
    with_offsets: bool,
}

impl EventBlock {
    /// An empty block, with room for this many events.
    pub(super) fn new(
        layout: &StreamLayout,
        shards: usize,
        events: usize,
        is_text: bool,
        with_offsets: bool,
    ) -> Self {
        // Uids are spread evenly, give or take.
        let mean = events / shards.max(1);
        let room = events.min(mean + 4 * mean.isqrt() + 4);
        let part = || ShardRows {
            uids: if is_text {
                Uids::Texts(Vec::with_capacity(room))
            } else {
                Uids::Numbers(Vec::with_capacity(room))
            },
            hashes: Vec::with_capacity(room),
            rows: Vec::with_capacity(room * layout.width),
            offsets: Vec::with_capacity(if with_offsets { room } else { 0 }),
        };
        Self {
            stream: layout.stream,
            shards: (0..shards).map(|_| part()).collect(),
            accepted: 0,
            gone: 0,
            moved: 0,
            filtered: 0,
            failed: 0,
            skipped: Skipped::default(),
            unread: Vec::new(),
            late: 0,
            greatest_arrival_ms: i64::MIN,
            greatest_ms: i64::MIN,
            days: BTreeMap::new(),
            last_day: (0, 0),
            with_offsets,
        }
    }

    /// Appends an event of a user with a numeric uid.
    #[inline]
    pub(super) fn push_number(&mut self, uid: u64, row: &[u64], offset: u64) {
        self.accepted += 1;
        self.put_number(uid, row, offset);
    }

    /// Appends a row of a user with a numeric uid that is no event.
    #[inline]
    pub(super) fn put_number(&mut self, uid: u64, row: &[u64], offset: u64) {
        let part = self.part(uid_hash(uid), row, offset);
        if let Uids::Numbers(uids) = &mut part.uids {
            uids.push(uid);
        }
    }

    /// Appends an event of a user with a text uid.
    #[inline]
    pub(super) fn push_text(&mut self, uid: &str, row: &[u64], offset: u64) {
        self.accepted += 1;
        self.put_text(uid, row, offset);
    }

    /// Appends a row of a user with a text uid that is no event.
    #[inline]
    pub(super) fn put_text(&mut self, uid: &str, row: &[u64], offset: u64) {
        let part = self.part(hash64(uid.as_bytes()), row, offset);
        if let Uids::Texts(uids) = &mut part.uids {
            uids.push(uid.into());
        }
    }

    #[inline]
    fn part(&mut self, hash: u64, row: &[u64], offset: u64) -> &mut ShardRows {
        let shard = shard_of(hash, self.shards.len());
        let part = &mut self.shards[shard];
        part.hashes.push(hash);
        part.rows.extend_from_slice(row);
        if self.with_offsets {
            part.offsets.push(offset);
        }
        part
    }

    /// Counts an event's time and day.
    #[inline]
    pub(super) fn note(&mut self, time_ms: i64, day: Day) {
        self.greatest_ms = self.greatest_ms.max(time_ms);
        if self.last_day.0 == day {
            self.last_day.1 += 1;
        } else {
            self.flush_days();
            self.last_day = (day, 1);
        }
    }

    /// Brings `days` up to date.
    pub(super) fn flush_days(&mut self) {
        if self.last_day.1 > 0 {
            *self.days.entry(self.last_day.0).or_default() += self.last_day.1;
            self.last_day.1 = 0;
        }
    }
}

/// Hash of a numeric uid (the finaliser of MurmurHash3, <https://github.com/aappleby/smhasher>).
#[inline]
pub fn uid_hash(uid: u64) -> u64 {
    let mut x = uid ^ (uid >> 33);
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The shard of a uid's hash. The upper bits: the lower ones find the user within the shard.
#[inline]
pub fn shard_of(hash: u64, shards: usize) -> usize {
    usize::try_from((u128::from(hash) * shards as u128) >> 64).unwrap_or(0)
}
