//! The users of a shard: virtual actors as plain structs in one table.
//!
//! In: uids with their hashes. Out: slots. A user's struct is created when the first message for it
//! arrives. Invariant: a uid has one slot for as long as it is resident.

use hashbrown::HashTable;

use crate::store::{Uid, UidKey};
use crate::user::state::UserState;

/// One resident user.
#[derive(Debug, Clone)]
pub struct User {
    /// Whose.
    pub uid: Uid,
    /// Hash of the uid.
    pub hash: u64,
    /// Events and settled tiles.
    pub state: UserState,
    /// Codes of the closed tags as last computed; empty before the first time.
    pub codes: Box<[u8]>,
    /// Packed values of the open tags as last computed.
    pub open: Box<[u8]>,
    /// From when on the codes may be wrong without an event.
    pub due_ms: Option<i64>,
    /// The instant the codes are true at.
    pub as_of_ms: i64,
    /// Writes of this user so far.
    pub version: u64,
    /// In the dirty set.
    pub dirty: bool,
    /// Its state or a rule panicked.
    pub quarantined: bool,
}

/// Slot of a user in its shard.
pub type Slot = u32;

/// All resident users of a shard.
#[derive(Debug, Default)]
pub struct UserTable {
    users: Vec<User>,
    by_uid: HashTable<Slot>,
}

impl UserTable {
    /// The slot of a numeric uid.
    #[inline]
    pub fn find_number(&self, hash: u64, uid: u64) -> Option<Slot> {
        let found = self.by_uid.find(hash, |s| {
            let user = &self.users[*s as usize];
            user.hash == hash && user.uid == Uid::U64(uid)
        });
        found.copied()
    }

    /// The slot of a uid.
    pub fn find(&self, hash: u64, uid: &Uid) -> Option<Slot> {
        self.by_uid.find(hash, |s| self.users[*s as usize].uid == *uid).copied()
    }

    /// Adds a user that is not there.
    pub fn insert(&mut self, hash: u64, uid: Uid) -> Slot {
        let slot = Slot::try_from(self.users.len()).unwrap_or(Slot::MAX);
        self.users.push(User {
            uid,
            hash,
            state: UserState::default(),
            codes: Box::default(),
            open: Box::default(),
            due_ms: None,
            as_of_ms: i64::MIN,
            version: 0,
            dirty: false,
            quarantined: false,
        });
        let users = &self.users;
        self.by_uid.insert_unique(hash, slot, |s| users[*s as usize].hash);
        slot
    }

    /// A user by slot.
    pub fn get(&self, slot: Slot) -> &User {
        &self.users[slot as usize]
    }

    /// A user by slot, to change.
    pub fn get_mut(&mut self, slot: Slot) -> &mut User {
        &mut self.users[slot as usize]
    }

    /// Number of resident users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// All users.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.iter()
    }

    /// The store's key of a user.
    pub fn key(&self, slot: Slot) -> UidKey {
        self.users[slot as usize].uid.to_key()
    }

    /// Memory of all users, the table included.
    pub fn bytes(&self) -> usize {
        let each = |u: &User| u.state.heap_bytes() + u.codes.len() + u.open.len();
        self.users.iter().map(each).sum::<usize>()
            + self.users.capacity() * size_of::<User>()
            + self.by_uid.capacity() * 5
    }
}
