//! How users become resident: rows of a block find theirs, windows and jobs bring theirs.
//!
//! In: uids, and what the store says of those that are not resident. Out: slots.
//! Invariant: reads the store in batches, in the order of keys; nothing is written.

use super::fence::At;
use super::users::Slot;
use super::{Shard, Shared, WindowClose, WindowStats, hash_of};
use crate::event::block::{ShardRows, Uids};
use crate::store::{FILES, Uid, UidKey};
use crate::user::snapshot::{Applied, decode_tags};
use crate::write::profile::ProfileError;
use crate::write::publish::outbox::{Cause, Outbox};

impl Shard {
    /// Fills `slots`, one a row; activates users that are not resident.
    pub(super) fn find_users(&mut self, part: &ShardRows) -> Result<(), ProfileError> {
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
                self.residency.admit(slot);
                new.push(slot);
                slot
            }));
        }
        self.activate(new)
    }

    /// Loads users from the store, as far as it knows them.
    fn activate(&mut self, slots: Vec<Slot>) -> Result<(), ProfileError> {
        let known = self.shared.store_had_profiles || self.residency.left() > 0;
        if slots.is_empty() || !known {
            return Ok(());
        }
        // Neighbours share blocks of the store, and its index is walked once.
        let mut keys: Vec<(UidKey, Slot)> =
            slots.into_iter().map(|slot| (self.users.key(slot), slot)).collect();
        keys.sort_unstable();
        let (keys, slots): (Vec<UidKey>, Vec<Slot>) = keys.into_iter().unzip();
        let stored = self.shared.store.profiles(&keys)?;
        for (slot, bytes) in slots.into_iter().zip(stored) {
            if let Some(bytes) = bytes {
                self.load(slot, &bytes)?;
                self.activated += 1;
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
        let (Applied { partition, fence }, outbox) = tags.applied()?;
        let published = Outbox::decode(outbox)?
            .map(|outbox| self.numbered(slot, &tags, outbox, &schema, partition));
        let owes = published.as_ref().is_some_and(|p| !p.owed.is_empty());
        self.fenced.admit(slot, fence);
        let (mut has_leftover, mut lacks_cells) = (false, false);
        if store.wants_cells() {
            let left = schema.leftover_cells(&tags);
            (has_leftover, lacks_cells) = (!left.is_empty(), schema.lacks_cells());
            self.leftover.admit(slot, left);
        }
        let user = self.users.get_mut(slot);
        user.state = state;
        user.open = Some(schema.open_bytes(&tags)).filter(|open| !open.is_empty());
        user.set_due_ms(tags.head.due_ms);
        user.version = tags.head.version;
        user.closed = tags.head.closed;
        user.set_partition(partition);
        // One that was quarantined by an earlier process is tried again: a fix may have come.
        // Rows of an older schema are read as they are, as often as needed: no reason to write, but for
        // cells that others read.
        user.unsaved = tags.head.quarantined || owes || has_leftover || lacks_cells;
        user.published = published;
        user.rewrite = lacks_cells;
        let codes = schema.packed_codes(&tags, ruleset.plan.packing());
        self.users.set_codes(slot, &codes);
        self.users.count(slot);
        if owes {
            self.owing.push(slot);
        }
        Ok(())
    }

    /// Adds users that are due.
    pub(super) fn add_due(
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
                self.residency.admit(slot);
                new.push(slot);
                slot
            });
            wanted.push(slot);
        }
        self.activate(new)?;
        for slot in wanted {
            let user = self.users.get_mut(slot);
            if user.dirty {
                continue;
            }
            let Some(due_ms) = user.due_ms().filter(|due_ms| *due_ms <= window.as_of_ms) else {
                stats.stale_due += 1;
                continue;
            };
            let (key, partition) = (user.uid.to_key(), user.partition());
            if !self.shared.store.owns_user(&key, partition) {
                // Its entry was made before its partition was known.
                let partition = self.shared.partition_of(partition, &key).unwrap_or(FILES);
                self.others_due.entry((due_ms, partition)).or_default().push(key);
                continue;
            }
            let user = self.users.get_mut(slot);
            stats.due_users += 1;
            (user.dirty, user.cause) = (true, Cause::Time);
            slots.push(slot);
        }
        Ok(())
    }

    /// Gives users their history. Those that are not resident are so for this window only; one who
    /// is in the history alone is a user from now on.
    pub(super) fn add_history(
        &mut self,
        window: &WindowClose,
        slots: &mut Vec<Slot>,
    ) -> Result<(), ProfileError> {
        let Some(side) = &window.side else { return Ok(()) };
        let kind = self.shared.ruleset.catalog.uid;
        let (mut found, mut new) = (Vec::with_capacity(window.history.len()), Vec::new());
        for (key, bytes) in &window.history {
            let Ok(uid) = Uid::from_key(kind, key) else { continue };
            let hash = hash_of(&uid);
            let slot = self.users.find(hash, &uid).unwrap_or_else(|| {
                let slot = self.users.insert(hash, uid);
                self.residency.admit_guest(slot);
                new.push(slot);
                slot
            });
            found.push((slot, bytes));
        }
        self.activate(new)?;
        // They leave with this window: from now on the store has users who are not resident.
        self.shared.store_had_profiles = true;
        let Shared { ruleset, texts, store, .. } = &self.shared;
        let (at, is_atomic) = (At::history(side.job()), store.is_atomic());
        for (slot, bytes) in found {
            if !is_atomic {
                if self.fenced.has_applied(slot, at.source, 0) {
                    continue;
                }
                self.fenced.apply(slot, at.source, 0);
            }
            let history = side.state(bytes, &ruleset.layout, texts)?;
            let user = self.users.get_mut(slot);
            user.state.add_history(&history, side.job(), &ruleset.layout, &texts.view());
            user.unsaved = true;
            if !user.dirty {
                (user.dirty, user.cause) = (true, Cause::Event);
                slots.push(slot);
            }
        }
        Ok(())
    }

    /// Adds users as they are stored. Those that are not resident are so for this window only.
    pub(super) fn add_stored(
        &mut self,
        window: &WindowClose,
        slots: &mut Vec<Slot>,
    ) -> Result<(), ProfileError> {
        let kind = self.shared.ruleset.catalog.uid;
        // Read while the window before this one was under way: who left since then was changed by
        // that window, or by one that closed meanwhile.
        let outdated = self.residency.left_lately();
        let mut guests = Vec::new();
        for (key, bytes) in &window.also {
            let Ok(uid) = Uid::from_key(kind, key) else { continue };
            let hash = hash_of(&uid);
            let slot = match self.users.find(hash, &uid) {
                Some(slot) => slot,
                None => {
                    let slot = self.users.insert(hash, uid);
                    self.residency.admit_guest(slot);
                    if outdated {
                        guests.push(slot);
                    } else {
                        self.load(slot, bytes)?;
                    }
                    slot
                }
            };
            let user = self.users.get_mut(slot);
            if !user.dirty {
                (user.dirty, user.cause) = (true, window.also_cause);
                slots.push(slot);
            }
        }
        self.activate(guests)
    }
}
