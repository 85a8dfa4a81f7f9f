//! A shard: hosts users, folds their events, and at a window's close computes the tags of those
//! that changed.
//!
//! In: rows of events, window closes. Out: counts, and for a window the profiles to write.
//! Invariant: one thread at a time; no clock (a window brings its as-of); reads the store only to
//! activate users that are not resident.

pub mod actor;
pub(crate) mod compute;
mod results;
#[cfg(test)]
mod tests;
pub mod users;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use self::compute::{Computer, Work};
use self::results::Results;
use self::users::{Slot, UserTable};
use crate::catalog::model::UidType;
use crate::clock::Day;
use crate::dimension::Pinned;
use crate::engine::ruleset::Ruleset;
use crate::event::block::{ShardRows, Uids, shard_of, uid_hash};
use crate::event::quarantine::Quarantine;
use crate::store::{Bytes, DuePack, Store, Uid, UidKey};
use crate::user::layout::hash64;
use crate::user::snapshot::decode_tags;
use crate::user::state::Folded;
use crate::user::texts::Texts;
use crate::write::profile::{ProfileError, Schemas};

/// Rows whose users' memory is asked for before the first of them is folded.
const AHEAD_ROWS: usize = 64;

/// What shards of one engine share.
#[derive(Clone)]
pub struct Shared {
    /// The compiled catalogue.
    pub ruleset: Arc<Ruleset>,
    /// Texts of all states.
    pub texts: Arc<Texts>,
    /// Where profiles are.
    pub store: Arc<dyn Store>,
    /// Schemas of stored profiles.
    pub schemas: Arc<Schemas>,
    /// Users to be left alone.
    pub quarantine: Arc<Quarantine>,
    /// Whether the store held profiles when it was opened: if not, unknown users are new.
    pub store_had_profiles: bool,
    /// `user.state_bytes_max`.
    pub state_bytes_max: usize,
    /// Users computed at once.
    pub batch_users_max: usize,
}

/// What became of a block's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoldCounts {
    /// Counted.
    pub new: u64,
    /// Dropped: seen before.
    pub repeats: u64,
    /// Dropped: seen before with other content.
    pub changed: u64,
}

/// A window to close.
#[derive(Clone)]
pub struct WindowClose {
    /// Its number.
    pub window: u64,
    /// The instant its results are about, epoch ms.
    pub as_of_ms: i64,
    /// The local date of that instant.
    pub as_of_day: Day,
    /// Users that may be due; those that are not are dropped.
    pub due: Vec<UidKey>,
    /// Users to recompute in any case, as they are stored. Those that are not resident are not made
    /// so.
    pub also: Vec<(UidKey, Bytes)>,
    /// Whether old days may roll up now (not while a file is being read).
    pub roll_up: bool,
    /// One epoch of each dimension table.
    pub dimensions: Pinned,
}

/// What a shard computed for a window.
#[derive(Debug, Default)]
pub struct ShardWindow {
    /// The window.
    pub window: u64,
    /// The shard.
    pub shard: u16,
    /// Packed profiles.
    pub profiles: Vec<(UidKey, Bytes)>,
    /// Due entries.
    pub due: Vec<DuePack>,
    /// What was done.
    pub stats: WindowStats,
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
    /// Resident users.
    pub resident_users: u64,
    /// Memory of their states, codes and tables.
    pub resident_bytes: u64,
    /// Bytes of the packed profiles.
    pub packed_bytes: u64,
    /// Integer sums that do not fit 64 bits: NULL for that user.
    pub feature_overflows: u64,
    /// Rows whose dimension values were stale or missing because the store could not be read.
    pub dimension_missing: u64,
    /// Users quarantined in this window.
    pub quarantined: u64,
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
    }
}

/// A shard of users.
pub struct Shard {
    index: u16,
    shared: Shared,
    users: UserTable,
    dirty: Vec<Slot>,
    computer: Computer,
    slots: Vec<Slot>,
    folded: FoldCounts,
}

impl Shard {
    /// An empty shard.
    pub fn new(index: u16, shared: Shared) -> Self {
        let computer = Computer::new(&shared);
        let users = UserTable::new(shared.ruleset.plan.packing().bytes());
        let (dirty, slots) = (Vec::new(), Vec::new());
        let folded = FoldCounts::default();
        Self { index, shared, users, dirty, computer, slots, folded }
    }

    /// Its users.
    pub fn users(&self) -> &UserTable {
        &self.users
    }

    /// Number of users with events that no window has covered.
    pub fn dirty_users(&self) -> usize {
        self.dirty.len()
    }

    /// Folds a block's events into their users.
    pub fn fold(&mut self, stream: u8, part: &ShardRows) -> Result<FoldCounts, ProfileError> {
        self.find_users(part)?;
        let mut counts = FoldCounts::default();
        let mut at = 0;
        while at < self.slots.len() {
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.fold_from(stream, part, &mut at, &mut counts)
            }));
            if done.is_err() {
                self.quarantine(self.slots[at]);
                at += 1;
            }
        }
        self.folded.add(counts);
        Ok(counts)
    }

    fn fold_from(&mut self, stream: u8, part: &ShardRows, at: &mut usize, counts: &mut FoldCounts) {
        let layout = &self.shared.ruleset.layout;
        let stream = &layout.streams[usize::from(stream)];
        let rows = part.rows.chunks_exact(stream.width).skip(*at);
        for row in rows {
            if at.is_multiple_of(AHEAD_ROWS) {
                self.users.touch_ends(&self.slots[*at..self.slots.len().min(*at + AHEAD_ROWS)]);
            }
            let slot = self.slots[*at];
            let user = self.users.get_mut(slot);
            match user.state.fold(row, stream, layout) {
                Folded::New => {
                    counts.new += 1;
                    user.unsaved = true;
                    if !user.dirty {
                        user.dirty = true;
                        self.dirty.push(slot);
                    }
                }
                Folded::Repeat => counts.repeats += 1,
                Folded::Changed => counts.changed += 1,
            }
            *at += 1;
        }
    }

    /// Fills `slots`, one a row; activates users that are not resident.
    fn find_users(&mut self, part: &ShardRows) -> Result<(), ProfileError> {
        self.slots.clear();
        let mut new = Vec::new();
        for at in 0..part.hashes.len() {
            let hash = part.hashes[at];
            let found = match &part.uids {
                Uids::Numbers(uids) => self.users.find_number(hash, uids[at]),
                Uids::Texts(uids) => self.users.find(hash, &Uid::Str(uids[at].clone())),
            };
            self.slots.push(found.unwrap_or_else(|| {
                let uid = match &part.uids {
                    Uids::Numbers(uids) => Uid::U64(uids[at]),
                    Uids::Texts(uids) => Uid::Str(uids[at].clone()),
                };
                let slot = self.users.insert(hash, uid);
                new.push(slot);
                slot
            }));
        }
        self.activate(&new)
    }

    /// Loads users from the store, as far as it knows them.
    fn activate(&mut self, slots: &[Slot]) -> Result<(), ProfileError> {
        if slots.is_empty() || !self.shared.store_had_profiles {
            return Ok(());
        }
        let keys: Vec<UidKey> = slots.iter().map(|s| self.users.key(*s)).collect();
        let stored = self.shared.store.profiles(&keys)?;
        for (slot, bytes) in slots.iter().zip(stored) {
            if let Some(bytes) = bytes {
                self.load(*slot, &bytes)?;
            }
        }
        Ok(())
    }

    /// Fills a user from its stored profile.
    fn load(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), ProfileError> {
        let Shared { ruleset, texts, store, schemas, .. } = &self.shared;
        let tags = decode_tags(bytes)?;
        let schema = schemas.get(tags.head.schema, ruleset, store.as_ref())?;
        let state = tags.state(&schema.layout, &ruleset.layout, texts)?;
        let user = self.users.get_mut(slot);
        user.state = state;
        user.open = Some(schema.open_bytes(&tags)).filter(|open| !open.is_empty());
        user.due_ms = tags.head.due_ms;
        user.version = tags.head.version;
        // One that was quarantined by an earlier process is tried again: a fix may have come.
        user.unsaved = tags.head.schema != ruleset.schema_id || tags.head.quarantined;
        let codes = schema.packed_codes(&tags, ruleset.plan.packing());
        self.users.set_codes(slot, &codes);
        Ok(())
    }

    fn quarantine(&mut self, slot: Slot) {
        let user = self.users.get_mut(slot);
        user.quarantined = true;
        self.shared.quarantine.add(user.hash);
        if !user.dirty {
            user.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Computes the tags of dirty and due users.
    pub fn close(&mut self, window: &WindowClose) -> Result<ShardWindow, ProfileError> {
        let mut stats = WindowStats::new(self.shared.ruleset.catalog.tags.len());
        stats.dirty_users = self.dirty.len() as u64;
        stats.folded = std::mem::take(&mut self.folded);
        let mut slots = std::mem::take(&mut self.dirty);
        self.add_due(window, &mut slots, &mut stats)?;
        let guests = self.add_stored(&window.also, &mut slots)?;
        stats.examined_users = window.also.len() as u64;
        let mut work = Work {
            users: &mut self.users,
            window,
            shared: &self.shared,
            stats: &mut stats,
            results: Results::default(),
        };
        self.computer.run(&mut work, &slots);
        let Results { profiles, due, .. } = work.results;
        let packs = due.into_iter().map(|(due_ms, keys)| DuePack {
            cursor: crate::store::DueCursor { due_ms, window: window.window, shard: self.index },
            keys,
        });
        for slot in slots {
            self.users.get_mut(slot).dirty = false;
        }
        guests.into_iter().for_each(|slot| self.users.remove(slot));
        let due = packs.collect();
        stats.resident_users = self.users.len() as u64;
        // Looks at every user: once the sources have ended, not in every window.
        if window.roll_up {
            stats.resident_bytes = self.users.bytes() as u64;
        }
        stats.packed_bytes = profiles.iter().map(|p| p.1.len() as u64).sum();
        Ok(ShardWindow { window: window.window, shard: self.index, profiles, due, stats })
    }

    /// Adds users that are due.
    fn add_due(
        &mut self,
        window: &WindowClose,
        slots: &mut Vec<Slot>,
        stats: &mut WindowStats,
    ) -> Result<(), ProfileError> {
        let kind = self.shared.ruleset.catalog.uid;
        let (mut wanted, mut new) = (Vec::with_capacity(window.due.len()), Vec::new());
        for key in &window.due {
            // A key that is no uid was written by nobody: the store's identity guards its type.
            let Ok(uid) = Uid::from_key(kind, key) else { continue };
            let hash = hash_of(&uid);
            let slot = self.users.find(hash, &uid).unwrap_or_else(|| {
                let slot = self.users.insert(hash, uid);
                new.push(slot);
                slot
            });
            wanted.push(slot);
        }
        self.activate(&new)?;
        for slot in wanted {
            let user = self.users.get_mut(slot);
            if user.dirty {
                continue;
            }
            if user.due_ms.is_none_or(|due| due > window.as_of_ms) {
                stats.stale_due += 1;
                continue;
            }
            stats.due_users += 1;
            user.dirty = true;
            slots.push(slot);
        }
        Ok(())
    }

    /// Adds users as they are stored. Returns those that are resident for this window only.
    fn add_stored(
        &mut self,
        stored: &[(UidKey, Bytes)],
        slots: &mut Vec<Slot>,
    ) -> Result<Vec<Slot>, ProfileError> {
        let kind = self.shared.ruleset.catalog.uid;
        let mut guests = Vec::new();
        for (key, bytes) in stored {
            let Ok(uid) = Uid::from_key(kind, key) else { continue };
            let hash = hash_of(&uid);
            let slot = match self.users.find(hash, &uid) {
                Some(slot) => slot,
                None => {
                    let slot = self.users.insert(hash, uid);
                    guests.push(slot);
                    self.load(slot, bytes)?;
                    slot
                }
            };
            let user = self.users.get_mut(slot);
            if !user.dirty {
                user.dirty = true;
                slots.push(slot);
            }
        }
        Ok(guests)
    }
}

/// Splits what belongs to users by their shards, keeping the order. A key that is no uid was written
/// by nobody, and is left out.
pub fn split_by_shard<T>(
    kind: UidType,
    shards: usize,
    items: Vec<T>,
    key: impl Fn(&T) -> &UidKey,
) -> Vec<Vec<T>> {
    let mut split: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for item in items {
        if let Ok(uid) = Uid::from_key(kind, key(&item)) {
            split[shard_of(hash_of(&uid), shards)].push(item);
        }
    }
    split
}

/// The hash that routes a uid and finds its user.
pub fn hash_of(uid: &Uid) -> u64 {
    match uid {
        Uid::U64(number) => uid_hash(*number),
        Uid::Str(text) => hash64(text.as_bytes()),
    }
}
