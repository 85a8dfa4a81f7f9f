//! The users of a shard: virtual actors as plain structs in one table.
//!
//! In: uids with their hashes. Out: slots. A user's struct is created when the first message for it
//! arrives. Invariant: a uid has one slot for as long as it is resident.

use hashbrown::HashTable;

use super::hash_of;
use crate::store::{FILES, Uid, UidKey};
use crate::user::state::UserState;
use crate::write::publish::outbox::{Cause, Numbered};

/// Users in one piece of memory: pieces never move, so that a table of millions grows without being
/// copied.
const PIECE_USERS: usize = 1 << 12;

/// Slots that may be free without the last piece being given back: so many pieces of them, and this
/// share of all slots.
const SPARE_PIECES: usize = 2;
const SPARE_SHARE: usize = 8;

/// What a user takes in the index, at most of the time.
const INDEX_BYTES: usize = 8;

/// In the place of an instant: time alone changes nothing.
const NEVER_DUE: i64 = i64::MAX;

/// One resident user: what folding an event needs stands in the first of two cache lines, but for its
/// flags.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct User {
    /// Whose.
    pub uid: Uid,
    /// Events and settled tiles.
    pub state: UserState,
    /// Packed values of the open tags as last computed; none where the catalogue has no open tag.
    pub open: Option<Box<[u8]>>,
    /// From when on the codes may be wrong without an event.
    due_ms: i64,
    /// The instant that its profile is about, where that is not packed yet.
    pub as_of_ms: i64,
    /// Writes of this user so far.
    pub version: u64,
    /// What is published of its changes; none where nothing ever was.
    pub published: Option<Box<Numbered>>,
    /// The partition number of its events; [`FILES`]: there is none.
    partition: u32,
    /// What [`UserTable::used_bytes`] has counted for the memory behind this struct.
    counted_bytes: u32,
    /// Why it is computed next.
    pub cause: Cause,
    /// In the dirty set.
    pub dirty: bool,
    /// The state is not that of the stored record: events came, or old days were rolled up.
    pub unsaved: bool,
    /// Its profile is to be packed when it leaves memory.
    pub unpacked: bool,
    /// Its state or a rule panicked.
    pub quarantined: bool,
    /// Everything that stands for it in the store is to be written anew, tag cells included.
    pub rewrite: bool,
    /// The account was closed when it was last computed.
    pub closed: bool,
}

const _: () = assert!(size_of::<User>() == 128, "two cache lines");

/// Slot of a user in its shard.
pub type Slot = u32;

/// All resident users of a shard.
#[derive(Debug)]
pub struct UserTable {
    users: Vec<Vec<User>>,
    /// Packed codes of the closed tags as last computed, `code_bytes` a user.
    codes: Vec<Box<[u8]>>,
    code_bytes: usize,
    /// Slots ever given out, and those that are free again.
    slots: usize,
    free: Vec<Slot>,
    /// While the last piece is being emptied: its slots that are free already.
    closing: Option<Vec<Slot>>,
    by_uid: HashTable<Slot>,
    /// Memory behind the structs, as counted last for each user.
    heap_bytes: usize,
}

fn place(slot: Slot) -> (usize, usize) {
    let slot = slot as usize;
    (slot / PIECE_USERS, slot % PIECE_USERS)
}

impl UserTable {
    /// An empty table. `code_bytes`: what one user's codes take.
    pub fn new(code_bytes: usize) -> Self {
        let (users, codes, free) = (Vec::new(), Vec::new(), Vec::new());
        let (by_uid, closing) = (HashTable::new(), None);
        Self { users, codes, code_bytes, slots: 0, free, closing, by_uid, heap_bytes: 0 }
    }

    /// The slot of a numeric uid.
    #[inline]
    pub fn find_number(&self, hash: u64, uid: u64) -> Option<Slot> {
        self.by_uid.find(hash, |slot| self.get(*slot).uid == Uid::U64(uid)).copied()
    }

    /// The slot of a uid.
    pub fn find(&self, hash: u64, uid: &Uid) -> Option<Slot> {
        self.by_uid.find(hash, |slot| self.get(*slot).uid == *uid).copied()
    }

    /// Adds a user that is not there.
    pub fn insert(&mut self, hash: u64, uid: Uid) -> Slot {
        let user = User {
            uid,
            state: UserState::default(),
            open: None,
            due_ms: NEVER_DUE,
            as_of_ms: 0,
            version: 0,
            published: None,
            cause: Cause::Event,
            dirty: false,
            unsaved: false,
            unpacked: false,
            quarantined: false,
            rewrite: false,
            partition: FILES,
            counted_bytes: 0,
            closed: false,
        };
        if self.free.is_empty() {
            // So many new users that the last piece is needed after all.
            self.free = self.closing.take().unwrap_or_default();
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.get_mut(slot) = user;
                slot
            }
            None => self.append(user),
        };
        let users = &self.users;
        let hash_of = |slot: &Slot| {
            let (piece, at) = place(*slot);
            hash_of(&users[piece][at].uid)
        };
        self.by_uid.insert_unique(hash, slot, hash_of);
        self.count(slot);
        slot
    }

    fn append(&mut self, user: User) -> Slot {
        let slot = Slot::try_from(self.slots).unwrap_or(Slot::MAX);
        if self.slots.is_multiple_of(PIECE_USERS) {
            self.users.push(Vec::with_capacity(PIECE_USERS));
            self.codes.push(vec![0; PIECE_USERS * self.code_bytes].into());
        }
        self.users[self.slots / PIECE_USERS].push(user);
        self.slots += 1;
        slot
    }

    /// Forgets a user; its slot will be another's.
    pub fn remove(&mut self, slot: Slot) {
        let hash = hash_of(&self.get(slot).uid);
        if let Ok(entry) = self.by_uid.find_entry(hash, |found| *found == slot) {
            entry.remove();
            let user = self.get_mut(slot);
            user.state = UserState::default();
            user.open = None;
            user.uid = Uid::U64(0);
            self.count(slot);
            let (piece, at) = place(slot);
            self.codes[piece][at * self.code_bytes..(at + 1) * self.code_bytes].fill(0);
            match &mut self.closing {
                Some(closing) if piece + 1 == self.users.len() => closing.push(slot),
                _ => self.free.push(slot),
            }
        }
    }

    /// The slots of the last piece, when so many are free elsewhere that it should be emptied. Until
    /// then nobody moves in there.
    pub fn closing(&mut self) -> Option<std::ops::Range<Slot>> {
        let last = self.users.len().checked_sub(1)?;
        if self.closing.is_none() {
            if self.free.len() < SPARE_PIECES * PIECE_USERS + self.slots / SPARE_SHARE {
                return None;
            }
            let (there, free) = self.free.iter().partition(|slot| place(**slot).0 == last);
            self.free = free;
            self.closing = Some(there);
        }
        let first = last * PIECE_USERS;
        Slot::try_from(first).ok().zip(Slot::try_from(self.slots).ok()).map(|(a, b)| a..b)
    }

    /// Gives the memory of the last piece back, if nobody lives there any more.
    pub fn release(&mut self) -> bool {
        let there = self.users.last().map(Vec::len);
        if there.is_none() || self.closing.as_ref().map(Vec::len) != there {
            return false;
        }
        self.closing = None;
        self.slots -= self.users.pop().map_or(0, |piece| piece.len());
        self.codes.pop();
        true
    }

    /// A user by slot.
    #[inline]
    pub fn get(&self, slot: Slot) -> &User {
        let (piece, at) = place(slot);
        &self.users[piece][at]
    }

    /// A user by slot, to change.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> &mut User {
        let (piece, at) = place(slot);
        &mut self.users[piece][at]
    }

    /// Asks for the memory of users that are about to be needed. Reads that do not depend on each
    /// other are under way together, where reading user after user would wait for each.
    #[inline]
    pub fn touch(&self, slots: &[Slot]) {
        let users = slots.iter().map(|slot| self.get(*slot));
        let lines = users.map(|user| user.state.words().len() ^ user.counted_bytes as usize);
        std::hint::black_box(lines.fold(0, |sum, of_user| sum ^ of_user));
        // A word of each cache line.
        let lines = slots.iter().flat_map(|slot| self.get(*slot).state.words().iter().step_by(8));
        std::hint::black_box(lines.fold(0, |sum: u64, word| sum ^ word));
    }

    /// The same for users who are about to get an event: where it will stand.
    #[inline]
    pub fn touch_ends(&self, slots: &[Slot]) {
        let users = slots.iter().map(|slot| self.get(*slot));
        let end = |user: &User| user.state.words().last().copied().unwrap_or_default();
        let ends = users.map(|user| end(user) ^ u64::from(user.counted_bytes));
        std::hint::black_box(ends.fold(0, |sum: u64, word| sum ^ word));
    }

    /// A user's packed codes; all 0 before the first time they are computed.
    #[inline]
    pub fn codes(&self, slot: Slot) -> &[u8] {
        let (piece, at) = place(slot);
        &self.codes[piece][at * self.code_bytes..(at + 1) * self.code_bytes]
    }

    /// Sets a user's packed codes.
    #[inline]
    pub fn set_codes(&mut self, slot: Slot, codes: &[u8]) {
        let (piece, at) = place(slot);
        let to = &mut self.codes[piece][at * self.code_bytes..(at + 1) * self.code_bytes];
        to.copy_from_slice(codes);
    }

    /// Number of resident users.
    pub fn len(&self) -> usize {
        self.slots - self.free.len() - self.closing.as_ref().map_or(0, Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All users.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.by_uid.iter().map(|slot| self.get(*slot))
    }

    /// Where they are.
    pub fn slots(&self) -> Vec<Slot> {
        self.by_uid.iter().copied().collect()
    }

    /// The store's key of a user.
    pub fn key(&self, slot: Slot) -> UidKey {
        self.get(slot).uid.to_key()
    }

    /// Counts the memory of a user that was loaded, computed or forgotten.
    pub fn count(&mut self, slot: Slot) {
        let user = self.get_mut(slot);
        let bytes = user.heap_bytes();
        let before = std::mem::replace(&mut user.counted_bytes, saturated(bytes)) as usize;
        self.heap_bytes = self.heap_bytes + bytes.min(saturated(bytes) as usize) - before;
    }

    /// Counts what a user's rows have grown by.
    #[inline]
    pub fn count_growth(&mut self, slot: Slot, bytes: usize) {
        let user = self.get_mut(slot);
        let before = user.counted_bytes;
        user.counted_bytes = before.saturating_add(saturated(bytes));
        self.heap_bytes += (self.get(slot).counted_bytes - before) as usize;
    }

    /// What a user takes, as counted last: its struct, its codes, its place in the index, and the
    /// memory behind it.
    pub fn user_bytes(&self, slot: Slot) -> usize {
        self.slot_bytes() + self.heap_bytes_of(slot)
    }

    /// Memory of a user beside its slot, as counted last.
    pub fn heap_bytes_of(&self, slot: Slot) -> usize {
        self.get(slot).counted_bytes as usize
    }

    /// Whether what was counted is what there is.
    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        self.iter().map(User::heap_bytes).sum::<usize>() == self.heap_bytes
    }

    fn slot_bytes(&self) -> usize {
        size_of::<User>() + self.code_bytes + INDEX_BYTES
    }

    /// Memory of the users that are resident, as counted last.
    pub fn used_bytes(&self) -> usize {
        self.len() * self.slot_bytes() + self.heap_bytes
    }

    /// Memory of slots in which nobody lives.
    pub fn empty_bytes(&self) -> usize {
        (self.slots - self.len()) * self.slot_bytes()
    }

    /// Memory of all users, the table and its free slots included.
    pub fn bytes(&self) -> usize {
        // What lies behind the last slot of a piece has never been touched.
        self.heap_bytes
            + self.slots * (size_of::<User>() + self.code_bytes)
            + self.by_uid.allocation_size()
    }
}

impl User {
    /// From when on the codes may be wrong without an event.
    pub fn due_ms(&self) -> Option<i64> {
        (self.due_ms != NEVER_DUE).then_some(self.due_ms)
    }

    /// The partition number of its events; none: they came from files.
    pub fn partition(&self) -> Option<u32> {
        (self.partition != FILES).then_some(self.partition)
    }

    /// Its events come in another partition from now on.
    pub fn set_partition(&mut self, partition: Option<u32>) {
        self.partition = partition.unwrap_or(FILES);
    }

    /// Changes that instant.
    pub fn set_due_ms(&mut self, due_ms: Option<i64>) {
        self.due_ms = due_ms.unwrap_or(NEVER_DUE);
    }

    /// Memory behind this struct.
    fn heap_bytes(&self) -> usize {
        let uid = if let Uid::Str(text) = &self.uid { text.len() } else { 0 };
        let published = self.published.as_ref().map_or(0, |p| p.heap_bytes());
        self.state.heap_bytes() + self.open.as_ref().map_or(0, |o| o.len()) + uid + published
    }
}

fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::block::uid_hash;

    #[test]
    fn memory_of_users_that_left_is_given_back() {
        let users = 20 * PIECE_USERS as u64;
        let mut table = UserTable::new(8);
        let slots: Vec<Slot> = (0..users).map(|u| table.insert(uid_hash(u), Uid::U64(u))).collect();
        let (full, last) = (table.bytes(), slots.len() - 1);
        assert_eq!(table.closing(), None, "nothing is free");
        slots[PIECE_USERS..last].iter().for_each(|slot| table.remove(*slot));
        while table.closing().is_some() {
            if !table.release() {
                assert_eq!(table.len(), PIECE_USERS + 1, "one of the last piece is still there");
                table.remove(slots[last]);
            }
        }
        assert_eq!(table.len(), PIECE_USERS);
        assert!(table.bytes() < full / 4, "{} of {full} bytes", table.bytes());
        let again: Vec<Slot> =
            (0..users).map(|u| table.insert(uid_hash(!u), Uid::U64(!u))).collect();
        assert_eq!(table.len(), PIECE_USERS + again.len());
        assert!(again.iter().all(|slot| slots[..PIECE_USERS].binary_search(slot).is_err()));
    }

    #[test]
    fn a_piece_that_is_being_emptied_is_used_when_there_is_no_other_room() {
        let users = 8 * PIECE_USERS as u64;
        let mut table = UserTable::new(8);
        let slots: Vec<Slot> = (0..users).map(|u| table.insert(uid_hash(u), Uid::U64(u))).collect();
        slots[..slots.len() / 2].iter().for_each(|slot| table.remove(*slot));
        assert!(table.closing().is_some() && !table.release());
        table.remove(slots[slots.len() - 2]);
        let bytes = table.bytes();
        for u in 0..=users / 2 {
            table.insert(uid_hash(!u), Uid::U64(!u));
        }
        assert_eq!((table.len(), table.bytes()), (slots.len(), bytes), "all places are taken");
        assert_eq!(table.closing(), None);
    }
}
