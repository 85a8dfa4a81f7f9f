//! A shard: hosts users, folds their events, and at a window's close computes the tags of those
//! that changed.
//!
//! In: rows of events, window closes. Out: counts, and for a window the profiles to write.
//! Invariant: one thread at a time; no clock (a window brings its as-of); reads the store only to
//! activate users that are not resident.

mod activation;
pub mod actor;
mod cells;
mod changes;
pub(crate) mod compute;
pub mod fence;
mod late;
mod residency;
mod results;
mod stats;
#[cfg(test)]
mod tests;
pub mod users;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use self::cells::Leftover;
use self::compute::{Computer, Work};
use self::fence::{At, Fenced, Fences, Replay};
use self::late::Late;
use self::residency::Residency;
use self::results::Results;
pub use self::stats::{FoldCounts, TagStats, WindowStats};
use self::users::{Slot, UserTable};
use crate::catalog::model::UidType;
use crate::clock::Day;
use crate::dimension::Pinned;
use crate::engine::history::Side;
use crate::engine::ruleset::Ruleset;
use crate::event::block::{ShardRows, shard_of, uid_hash};
use crate::event::quarantine::Quarantine;
use crate::rule::AsOf;
use crate::store::{Bytes, DueCursor, DuePack, ProfileCells, Store, Uid, UidKey};
use crate::user::layout::hash64;
use crate::user::state::Folded;
use crate::user::texts::Texts;
use crate::write::profile::{ProfileError, Schemas};
use crate::write::publish::outbox::Cause;
use crate::write::publish::pending::Published;

/// Rows whose users' memory is asked for before the first of them is folded.
const AHEAD_ROWS: usize = 64;

/// Of the memory of users: what is left free for users of the batches under way.
const UNDER_WAY_SHARE: usize = 8;

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
    /// Whether the store held profiles when it was opened: if not, users that are not resident are
    /// new as long as none has left.
    pub store_had_profiles: bool,
    /// `user.state_bytes_max`.
    pub state_bytes_max: usize,
    /// This shard's share of `memory.resident_bytes_max`.
    pub resident_bytes_max: usize,
    /// Users computed at once.
    pub batch_users_max: usize,
    /// What another owner may have read already.
    pub replay: Arc<Replay>,
    /// Changes of tags are published: which of those in profiles are, at the engine's start.
    pub publishing: Option<Arc<Published>>,
    /// Profiles are packed when their users leave memory, not with each window.
    pub packs_late: bool,
}

impl Shared {
    /// The partition that a user belongs to: that of its events, or, where they all came from files, its
    /// home, as far as it is known.
    fn partition_of(&self, partition: Option<u32>, user: &UidKey) -> Option<u32> {
        partition.or_else(|| self.store.home(user))
    }

    /// The first record of a user whose events all came from files: whoever has worked for it so far must
    /// not be another process. True: the record stands where it was not expected, but nobody else has it.
    fn check_home(&self, uid: &Uid, now: u32, is_told: bool) -> Result<bool, ProfileError> {
        let key = uid.to_key();
        let Some(home) = self.store.home(&key).filter(|home| *home != now) else {
            return Ok(false);
        };
        if !self.store.owns_user(&key, None) {
            return Err(ProfileError::OtherHome { uid: uid.to_string(), home, now });
        }
        if !is_told {
            tracing::warn!(
                %uid, home, now,
                "source.partitioner is not what producers use: records of a user that came from files were \
                 expected in another partition. With more processes this will end the run"
            );
        }
        Ok(true)
    }
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
    /// Users to recompute in any case, as they were stored when the window before this one closed or
    /// later. Those that are not resident are so until this window is stored.
    pub also: Vec<(UidKey, Bytes)>,
    /// Why those have to be computed.
    pub also_cause: Cause,
    /// Users that get a history, as it is stored.
    pub history: Vec<(UidKey, Bytes)>,
    /// The history they get.
    pub side: Option<Arc<Side>>,
    /// The instant by which old days roll up; none: they may not (while a file is being read).
    pub roll_up: Option<AsOf>,
    /// How far sources were read; empty where a window is stored as a whole.
    pub fences: Arc<Fences>,
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
    /// Their tag cells, one entry a profile, where the store wants them.
    pub cells: Vec<ProfileCells>,
    /// Due entries.
    pub due: Vec<DuePack>,
    /// What was done.
    pub stats: WindowStats,
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
    residency: Residency,
    fenced: Fenced,
    leftover: Leftover,
    late: Late,
    activated: u64,
    /// Users that were read with changes that are not known to be published.
    owing: Vec<Slot>,
    /// Due users of others, by instant and their partition: their owners get them.
    others_due: BTreeMap<(i64, u32), Vec<UidKey>>,
    /// It was told that the partitioner is not the one that was said.
    is_told: bool,
    /// Users that had left when the last window closed.
    left_before: u64,
}

impl Shard {
    /// An empty shard.
    pub fn new(index: u16, shared: Shared) -> Self {
        let computer = Computer::new(&shared);
        let users = UserTable::new(shared.ruleset.plan.packing().bytes());
        let (dirty, slots) = (Vec::new(), Vec::new());
        let room = shared.resident_bytes_max / UNDER_WAY_SHARE;
        let residency = Residency::new(shared.resident_bytes_max - room);
        Self {
            index,
            users,
            dirty,
            computer,
            slots,
            folded: FoldCounts::default(),
            residency,
            fenced: Fenced::new(&shared.replay),
            leftover: Leftover::default(),
            late: Late::default(),
            activated: 0,
            owing: Vec::new(),
            others_due: BTreeMap::new(),
            is_told: false,
            left_before: 0,
            shared,
        }
    }

    /// Goes on with another catalogue. Everybody must have been stored: users are read again when
    /// they are needed. Returns those it had, whose memory may take a while to be freed.
    pub fn swap(&mut self, ruleset: Arc<Ruleset>, schemas: Arc<Schemas>) -> UserTable {
        debug_assert!(self.dirty.is_empty(), "a window stored everybody");
        let shared = Shared { ruleset, schemas, store_had_profiles: true, ..self.shared.clone() };
        std::mem::replace(self, Self::new(self.index, shared)).users
    }

    /// Its users.
    pub fn users(&self) -> &UserTable {
        &self.users
    }

    /// Number of users with events that no window has covered.
    pub fn dirty_users(&self) -> usize {
        self.dirty.len()
    }

    fn counted_bytes(&self) -> usize {
        self.residency.counted_bytes(self.users.used_bytes(), self.users.empty_bytes())
    }

    /// Whether a window should close, for users that changed take their share of the memory.
    pub fn wants_window(&self) -> bool {
        self.residency.wants_window(self.counted_bytes())
    }

    /// Whether users have had to leave memory.
    pub fn has_passivated(&self) -> bool {
        self.residency.left() > 0
    }

    /// Whether there is no room for more users before a window is stored.
    pub fn is_full(&self) -> bool {
        self.residency.is_full(self.counted_bytes())
    }

    /// The windows that were closed are stored: their users may leave from now on.
    pub fn stored(&mut self) -> Result<(), ProfileError> {
        for guest in self.residency.stored() {
            self.leave(guest);
            self.residency.free(guest);
        }
        self.make_room();
        self.give_back();
        self.put_away()
    }

    /// A user moves out.
    fn leave(&mut self, slot: Slot) {
        if self.shared.packs_late {
            self.pack(&[slot]);
        }
        self.fenced.forget(slot);
        self.leftover.forget(slot);
        self.users.remove(slot);
    }

    /// Gives memory back of which much more is free than is needed.
    fn give_back(&mut self) {
        while let Some(piece) = self.users.closing() {
            for slot in piece {
                if self.residency.leave(slot) {
                    self.leave(slot);
                }
            }
            if !self.users.release() {
                // Users of a later window are there: they may leave when it is stored.
                return;
            }
        }
    }

    /// Lets users leave until the others are within the budget, as far as that can be.
    fn make_room(&mut self) {
        let mut wanted = self.residency.room_wanted(self.counted_bytes());
        while wanted > 0
            && let Some(slot) = self.residency.next_to_leave()
        {
            // Its slot stays and still counts.
            wanted = wanted.saturating_sub(self.users.heap_bytes_of(slot));
            self.leave(slot);
        }
    }

    /// Folds a block's events into their users. `at`: the partition of the topic, where they were
    /// read from one.
    pub fn fold(
        &mut self,
        stream: u8,
        part: &ShardRows,
        at: Option<At>,
    ) -> Result<FoldCounts, ProfileError> {
        self.find_users(part)?;
        self.pay();
        if let Some(at) = at {
            self.find_partitions(at)?;
        }
        let mut counts = FoldCounts::default();
        let mut row = 0;
        while row < self.slots.len() {
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.fold_from(stream, part, at, &mut row, &mut counts);
            }));
            if done.is_err() {
                self.quarantine(self.slots[row]);
                row += 1;
            }
        }
        self.folded.add(counts);
        // Not before: the block's users would have to be kept out of it.
        self.make_room();
        self.put_away()?;
        Ok(counts)
    }

    /// All events of a user have to come in partitions of one number: whoever owns that number owns
    /// the user.
    fn find_partitions(&mut self, at: At) -> Result<(), ProfileError> {
        if at.partition == At::FILES {
            return Ok(());
        }
        for slot in &self.slots {
            let user = self.users.get(*slot);
            if user.partition().is_none() && user.version > 0 {
                self.is_told |= self.shared.check_home(&user.uid, at.partition, self.is_told)?;
            }
            let user = self.users.get_mut(*slot);
            if user.partition().is_none() {
                user.set_partition(Some(at.partition));
            } else if let Some(had) = user.partition().filter(|had| *had != at.partition) {
                let (uid, now) = (user.uid.to_string(), at.partition);
                return Err(ProfileError::OtherPartition { uid, had, now });
            }
        }
        Ok(())
    }

    fn fold_from(
        &mut self,
        stream: u8,
        part: &ShardRows,
        at: Option<At>,
        row_at: &mut usize,
        counts: &mut FoldCounts,
    ) {
        let layout = &Arc::clone(&self.shared.ruleset.layout);
        let stream = &layout.streams[usize::from(stream)];
        let rows = part.rows.chunks_exact(stream.width).skip(*row_at);
        for row in rows {
            if row_at.is_multiple_of(AHEAD_ROWS) {
                let ahead = self.slots.len().min(*row_at + AHEAD_ROWS);
                self.users.touch_ends(&self.slots[*row_at..ahead]);
            }
            let slot = self.slots[*row_at];
            if let Some(at) = at
                && self.is_applied(slot, at, part.offsets[*row_at])
            {
                counts.fenced += 1;
                *row_at += 1;
                continue;
            }
            let user = self.users.get_mut(slot);
            let bytes = user.state.rows_bytes();
            let folded = user.state.fold(row, stream, layout);
            counts.note(folded);
            match folded {
                Folded::New | Folded::Replaced | Folded::Deleted | Folded::Crowded { .. } => {
                    user.unsaved = true;
                    let (grown, was_dirty) = (user.state.rows_bytes() - bytes, user.dirty);
                    if grown > 0 {
                        self.users.count_growth(slot, grown);
                    }
                    if was_dirty {
                        self.residency.grown(grown);
                    } else {
                        self.mark_dirty(slot);
                    }
                }
                Folded::Repeat | Folded::Changed | Folded::Older | Folded::LeftOut => {}
            }
            *row_at += 1;
        }
    }

    /// Whether a row was applied before this process read it. Of a row that another owner may have
    /// read the user is written whole: what that owner still sends has older timestamps, and loses.
    fn is_applied(&mut self, slot: Slot, at: At, offset: u64) -> bool {
        if self.fenced.is_replay(at.source, offset) {
            let user = self.users.get_mut(slot);
            (user.unsaved, user.rewrite) = (true, true);
            if !user.dirty {
                self.mark_dirty(slot);
            }
        }
        self.fenced.has_applied(slot, at.source, offset)
    }

    fn quarantine(&mut self, slot: Slot) {
        let user = self.users.get_mut(slot);
        user.quarantined = true;
        self.shared.quarantine.add(hash_of(&user.uid));
        if !user.dirty {
            self.mark_dirty(slot);
        }
    }

    fn mark_dirty(&mut self, slot: Slot) {
        let user = self.users.get_mut(slot);
        (user.dirty, user.cause) = (true, Cause::Event);
        self.dirty.push(slot);
        self.residency.dirtied(slot, self.users.user_bytes(slot));
    }

    /// Computes the tags of dirty and due users.
    pub fn close(&mut self, window: &WindowClose) -> Result<ShardWindow, ProfileError> {
        let mut stats = WindowStats::new(self.shared.ruleset.catalog.tags.len());
        stats.dirty_users = self.dirty.len() as u64;
        stats.folded = std::mem::take(&mut self.folded);
        let mut slots = std::mem::take(&mut self.dirty);
        self.add_due(window, &mut slots, &mut stats)?;
        self.add_stored(window, &mut slots)?;
        self.add_history(window, &mut slots)?;
        // Whoever was read for this window is written by it.
        self.owing.clear();
        stats.examined_users = (window.also.len() + window.history.len()) as u64;
        let mut work = Work {
            users: &mut self.users,
            fenced: &self.fenced,
            leftover: &mut self.leftover,
            window,
            shared: &self.shared,
            stats: &mut stats,
            results: Results::with_room(slots.len()),
            is_shared: !self.shared.store.is_atomic(),
            wants_cells: self.shared.store.wants_cells(),
            schema_id: self.shared.ruleset.schema_in(self.shared.store.as_ref()).0,
        };
        self.computer.run(&mut work, &slots);
        let Results { mut profiles, cells, mut due } = work.results;
        if cells.is_empty() {
            // A store that wants them in order has to join the shards' parts only, which sort theirs
            // side by side. Stable: the last one of a key wins.
            profiles.sort_by(|a, b| a.0.cmp(&b.0));
        }
        for (at, keys) in std::mem::take(&mut self.others_due) {
            due.entry(at).or_default().extend(keys);
        }
        let packs = due.into_iter().map(|((due_ms, partition), mut keys)| {
            let (window, shard) = (window.window, self.index);
            // As the store has them: side by side with the other shards.
            keys.sort_unstable();
            DuePack { cursor: DueCursor { due_ms, window, shard, partition }, keys }
        });
        for slot in &slots {
            self.users.get_mut(*slot).dirty = false;
            self.users.count(*slot);
        }
        self.residency.closed(&slots);
        self.fenced.cut(&window.fences);
        let due = packs.collect();
        stats.resident_users = self.users.len() as u64;
        stats.resident_bytes = self.users.bytes() as u64;
        stats.activated_users = std::mem::take(&mut self.activated);
        stats.passivated_users = self.residency.left() - self.left_before;
        self.left_before = self.residency.left();
        stats.packed_bytes = profiles.iter().map(|p| p.1.len() as u64).sum();
        stats.packed_bytes += self.late.take_bytes();
        Ok(ShardWindow { window: window.window, shard: self.index, profiles, cells, due, stats })
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
