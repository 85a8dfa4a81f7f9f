//! Who stays resident: a shard's users against its share of `memory.resident_bytes_max`.
//!
//! In: which users are admitted, change, are on their way to the store and have arrived there. Out:
//! users that may leave, those that were not needed lately first (the clock algorithm: one byte a
//! user, looked at only when room is needed).
//! Invariant: a user leaves only when the store has acknowledged its last profile; so whoever is
//! read from the store is as it was left.

use super::users::Slot;

/// Nobody lives there.
const FREE: u8 = 1 << 7;
/// Needed since the hand passed it last: it gets a second chance.
const WARM: u8 = 1;
/// Changed since the last window closed.
const DIRTY: u8 = 1 << 1;
/// In the window that is on its way to the store.
const UNSTORED: u8 = 1 << 2;
/// Resident for that window only.
const GUEST: u8 = 1 << 3;

/// Of the budget: dirty users beyond it close the window. The other half is for the window that is
/// on its way to the store meanwhile.
const DIRTY_SHARE: usize = 2;

/// Of the budget: made free at once, so that the hand does not move for each user.
const ROOM_SHARE: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Residency {
    bytes_max: usize,
    marks: Vec<u8>,
    hand: usize,
    /// Users of the windows that are not stored yet.
    unstored: Vec<Slot>,
    /// Memory of dirty users when they became dirty, and what they have grown since.
    dirty_bytes: usize,
    /// Nobody can leave until a window is stored.
    exhausted: bool,
    /// Users that left: in all, and since the last window and the one before closed.
    left: u64,
    left_lately: [u64; 2],
}

impl Residency {
    /// Nobody is there. `bytes_max`: what all users together may take.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            marks: Vec::new(),
            hand: 0,
            unstored: Vec::new(),
            dirty_bytes: 0,
            exhausted: false,
            left: 0,
            left_lately: [0; 2],
        }
    }

    /// A user has moved in.
    pub(super) fn admit(&mut self, slot: Slot) {
        let at = slot as usize;
        if at >= self.marks.len() {
            self.marks.resize(at + 1, FREE);
        }
        self.marks[at] = 0;
    }

    /// A user has moved in for one window.
    pub(super) fn admit_guest(&mut self, slot: Slot) {
        self.admit(slot);
        self.marks[slot as usize] = GUEST;
    }

    /// An event has changed a user that takes this much memory.
    #[inline]
    pub(super) fn dirtied(&mut self, slot: Slot, bytes: usize) {
        let mark = &mut self.marks[slot as usize];
        *mark = (*mark & !GUEST) | DIRTY | WARM;
        self.dirty_bytes += bytes;
    }

    /// A dirty user takes more memory than before.
    #[inline]
    pub(super) fn grown(&mut self, bytes: usize) {
        self.dirty_bytes += bytes;
    }

    /// A window has closed over these users.
    pub(super) fn closed(&mut self, slots: &[Slot]) {
        for slot in slots {
            let mark = &mut self.marks[*slot as usize];
            *mark = (*mark & !DIRTY) | UNSTORED;
        }
        self.unstored.extend_from_slice(slots);
        self.dirty_bytes = 0;
        self.left_lately = [0, self.left_lately[0]];
    }

    /// All closed windows are stored. Gives the guests that are to leave.
    pub(super) fn stored(&mut self) -> Vec<Slot> {
        self.exhausted = false;
        let mut guests = Vec::new();
        for slot in self.unstored.drain(..) {
            let mark = &mut self.marks[slot as usize];
            *mark &= !UNSTORED;
            if *mark == GUEST {
                guests.push(slot);
            }
        }
        guests
    }

    /// A user has left.
    pub(super) fn free(&mut self, slot: Slot) {
        self.marks[slot as usize] = FREE;
    }

    /// What counts against the budget: users, and the slots of those that left. Of these at most
    /// half the budget: however many there were once, users have the other half.
    pub(super) fn counted_bytes(&self, used_bytes: usize, empty_bytes: usize) -> usize {
        used_bytes.saturating_add(empty_bytes.min(self.bytes_max / 2))
    }

    /// Bytes to make free, when users take this much.
    pub(super) fn room_wanted(&self, used_bytes: usize) -> usize {
        if used_bytes <= self.bytes_max || self.exhausted {
            return 0;
        }
        used_bytes - (self.bytes_max - self.bytes_max / ROOM_SHARE)
    }

    /// The next user that leaves, if any can: it is free from now on.
    pub(super) fn next_to_leave(&mut self) -> Option<Slot> {
        // The first round may only take second chances away.
        for _ in 0..2 * self.marks.len() {
            let at = self.hand;
            self.hand = if at + 1 < self.marks.len() { at + 1 } else { 0 };
            match self.marks[at] {
                0 => {
                    let slot = Slot::try_from(at).ok()?;
                    return self.leave(slot).then_some(slot);
                }
                WARM => self.marks[at] = 0,
                _ => {}
            }
        }
        self.exhausted = true;
        None
    }

    /// Lets a user leave whose place is to be given up, if it may: it is free from now on.
    pub(super) fn leave(&mut self, slot: Slot) -> bool {
        let mark = &mut self.marks[slot as usize];
        let may_leave = *mark & !WARM == 0;
        if may_leave {
            *mark = FREE;
            self.left += 1;
            self.left_lately[0] += 1;
        }
        may_leave
    }

    /// Whether the window should close: dirty users take their share of the budget, or the users
    /// are beyond it and only a window can make room.
    pub(super) fn wants_window(&self, used_bytes: usize) -> bool {
        let share = self.bytes_max / DIRTY_SHARE;
        self.dirty_bytes > share || (self.dirty_bytes > 0 && self.is_full(used_bytes))
    }

    /// Whether there is no room until a window is stored.
    pub(super) fn is_full(&self, used_bytes: usize) -> bool {
        self.exhausted && used_bytes > self.bytes_max
    }

    /// Users that left since the shard was made.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether users left since the window before the last one closed: what was read from the
    /// store at that time may be older than what they left behind.
    pub(super) fn left_lately(&self) -> bool {
        self.left_lately != [0; 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(residency: &mut Residency) -> Vec<Slot> {
        std::iter::from_fn(|| residency.next_to_leave()).collect()
    }

    #[test]
    fn who_was_needed_lately_leaves_last() {
        let mut residency = Residency::new(0);
        (0..4).for_each(|slot| residency.admit(slot));
        residency.dirtied(1, 1);
        residency.closed(&[1]);
        assert!(residency.stored().is_empty());
        assert_eq!(leaving(&mut residency), [0, 2, 3, 1]);
        assert_eq!(residency.left(), 4);
    }

    #[test]
    fn nobody_leaves_whose_last_profile_is_not_stored() {
        let mut residency = Residency::new(0);
        (0..3).for_each(|slot| residency.admit(slot));
        residency.dirtied(0, 1);
        residency.dirtied(1, 1);
        assert_eq!(leaving(&mut residency), [2]);
        residency.closed(&[0, 1]);
        assert!(leaving(&mut residency).is_empty(), "the window is on its way");
        residency.dirtied(1, 1);
        residency.stored();
        assert_eq!(leaving(&mut residency), [0], "the other has changed again meanwhile");
        residency.closed(&[1]);
        residency.stored();
        assert_eq!(leaving(&mut residency), [1]);
    }

    #[test]
    fn guests_leave_with_their_window_unless_events_came() {
        let mut residency = Residency::new(0);
        (0..2).for_each(|slot| residency.admit_guest(slot));
        residency.closed(&[0, 1]);
        residency.dirtied(1, 1);
        assert_eq!(residency.stored(), [0]);
    }

    #[test]
    fn slots_of_users_that_left_count_but_never_push_everybody_out() {
        let residency = Residency::new(100);
        assert_eq!(residency.counted_bytes(60, 0), 60);
        let counted = residency.counted_bytes(60, 45);
        assert!(residency.room_wanted(counted) > 0);
        let counted = residency.counted_bytes(10, 10_000);
        assert_eq!(residency.room_wanted(counted), 0, "half of it is for users");
    }

    #[test]
    fn a_window_is_wanted_at_half_the_budget_or_when_nobody_can_leave() {
        let mut residency = Residency::new(100);
        (0..2).for_each(|slot| residency.admit(slot));
        residency.dirtied(0, 50);
        assert!(!residency.wants_window(90));
        residency.grown(1);
        assert!(residency.wants_window(90));
        residency.closed(&[0]);
        residency.dirtied(1, 10);
        assert_eq!(residency.room_wanted(100), 0);
        assert_eq!(residency.room_wanted(106), 12);
        assert!(!residency.is_full(106), "it was not tried yet");
        assert!(leaving(&mut residency).is_empty());
        assert!(residency.is_full(106) && residency.wants_window(106));
        assert_eq!(residency.room_wanted(106), 0, "not tried again before a window is stored");
    }
}
