//! What a window's computation leaves behind: codes of users, packed profiles, due instants.
//!
//! In: the tags of a batch of users. Out: records for the store, and users by due instant.
//! Invariant: a user's codes in memory are those of its last record.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::Shared;
use super::cells::Values;
use super::changes::Public;
use super::compute::{AHEAD_USERS, Computed, Work, lap};
use super::users::{Slot, User, UserTable};
use crate::clock::{Day, Stopwatch, earlier};
use crate::engine::ruleset::Ruleset;
use crate::store::{Bytes, FILES, ProfileCells, UidKey};
use crate::user::features::Due;
use crate::user::snapshot::{Applied, Head, Packer, Profile};
use crate::user::texts::TextsView;
use crate::write::open;

/// A user whose dimension values could not be read is computed again after this.
const RETRY_DIMENSIONS_MS: i64 = 1_000;

/// Days whose first instant is remembered.
const DAYS_MAX: usize = 4096;

/// Grows batch by batch.
#[derive(Default)]
pub(super) struct Results {
    /// Profiles to write.
    pub(super) profiles: Vec<(UidKey, Bytes)>,
    /// Their tag cells, one entry a profile, where the store wants them.
    pub(super) cells: Vec<ProfileCells>,
    /// Users by due instant and, in a store that processes share, partition.
    pub(super) due: BTreeMap<(i64, u32), Vec<UidKey>>,
}

impl Results {
    /// Nothing yet, with room for the profiles of so many users.
    pub(super) fn with_room(users: usize) -> Self {
        Self { profiles: Vec::with_capacity(users), ..Self::default() }
    }
}

/// What is reused from window to window.
#[derive(Default)]
pub(super) struct Kept {
    packer: Packer,
    pub(super) before: Values,
    applied: Applied,
    pub(super) public: Public,
    pub(super) outbox: Vec<u8>,
    open: Vec<u8>,
    /// First instant of days.
    starts_ms: HashMap<Day, i64>,
}

impl Work<'_> {
    /// Keeps a batch's results and packs the profiles that are not as stored.
    pub(super) fn store(&mut self, slots: &[Slot], computed: &Computed, kept: &mut Kept) {
        let mut watch = Stopwatch::start();
        let texts = self.shared.texts.view();
        let edge_ms = self.shared.ruleset.plan.next_edge_ms(self.window.as_of_ms);
        for (row, slot) in slots.iter().enumerate() {
            if row.is_multiple_of(AHEAD_USERS) && !self.shared.packs_late {
                // Since their features were computed, others have been.
                self.users.touch(&slots[row..slots.len().min(row + AHEAD_USERS)]);
            }
            self.remember(*slot, kept);
            let mut changed = self.keep_codes(*slot, computed.tags.codes_of(row));
            // To compare nothing with nothing takes 100 ns: glibc's masked loads from no address.
            if !computed.tags.open.is_empty() {
                open::pack(&computed.tags.open, row, &mut kept.open);
                changed |= self.keep_open(*slot, &kept.open);
            }
            let of_tags = Due { day: computed.tags.due_days[row], hop: computed.tags.due_hop };
            let due = computed.due[row].min(of_tags);
            let due_ms = due.at_ms(|day| kept.start_of_day_ms(day, self.shared));
            let mut due_ms = earlier(due_ms, edge_ms);
            if u32::try_from(row).is_ok_and(|row| computed.incomplete.binary_search(&row).is_ok()) {
                due_ms = Some(self.window.as_of_ms.saturating_add(RETRY_DIMENSIONS_MS));
            }
            changed |= self.keep_due(*slot, due_ms);
            changed |= self.keep_closed(*slot, computed, row);
            let user = self.users.get(*slot);
            if changed || user.unsaved || user.version == 0 {
                self.write_profile(*slot, &texts, kept);
            }
        }
        lap(&mut watch, &mut self.stats.stage_ns[3]);
    }

    /// Packs profiles of users whose tags stay as they are.
    pub(super) fn write_unchanged(&mut self, slots: &[Slot], kept: &mut Kept) {
        let texts = self.shared.texts.view();
        for slot in slots {
            self.remember(*slot, kept);
            self.write_profile(*slot, &texts, kept);
        }
    }

    /// What the store has, for those who want to know what changes.
    fn remember(&self, slot: Slot, kept: &mut Kept) {
        if self.wants_values() {
            kept.before.remember(self.users.codes(slot), self.users.get(slot).open.as_deref());
        }
    }

    fn wants_values(&self) -> bool {
        self.wants_cells || self.shared.publishing.is_some()
    }

    fn keep_codes(&mut self, slot: Slot, codes: &[u8]) -> bool {
        // What a new user has is counted by column, and there is nothing to compare it with.
        if self.users.get(slot).version > 0 {
            let old = self.users.codes(slot);
            if old == codes {
                return false;
            }
            let plan = &self.shared.ruleset.plan;
            let stats = &mut *self.stats;
            plan.packing().for_each_change(old, codes, |tag| {
                stats.tags[plan.closed_tags()[tag]].flips += 1;
                stats.tags_changed += 1;
            });
        }
        self.users.set_codes(slot, codes);
        true
    }

    fn keep_open(&mut self, slot: Slot, new: &[u8]) -> bool {
        let user = self.users.get_mut(slot);
        let old = user.open.as_deref().unwrap_or_default();
        if old == new {
            return false;
        }
        let (before, now) = (open::unpack(old), open::unpack(new));
        for (at, tag) in self.shared.ruleset.plan.open_tags().iter().enumerate() {
            if before.get(at).cloned().flatten() != now.get(at).cloned().flatten() {
                self.stats.tags[*tag].flips += 1;
                self.stats.tags_changed += 1;
            }
        }
        user.open = Some(new.into());
        true
    }

    fn keep_closed(&mut self, slot: Slot, computed: &Computed, row: usize) -> bool {
        let rule = self.shared.ruleset.closed.as_ref();
        let closed = rule.is_some_and(|rule| rule.holds(&computed.closed, row));
        let user = self.users.get_mut(slot);
        if user.closed == closed {
            return false;
        }
        user.closed = closed;
        self.stats.closed_users += u64::from(closed);
        self.stats.reopened_users += u64::from(!closed);
        true
    }

    fn keep_due(&mut self, slot: Slot, due_ms: Option<i64>) -> bool {
        let user = self.users.get_mut(slot);
        // A due entry lives until its instant: one is enough for as long as it does not move.
        if user.due_ms() == due_ms {
            return false;
        }
        if let Some(due_ms) = due_ms {
            let key = user.uid.to_key();
            let partition = match self.is_shared {
                true => self.shared.partition_of(user.partition(), &key).unwrap_or(FILES),
                false => 0,
            };
            self.results.due.entry((due_ms, partition)).or_default().push(key);
        }
        user.set_due_ms(due_ms);
        true
    }

    fn write_profile(&mut self, slot: Slot, texts: &TextsView<'_>, kept: &mut Kept) {
        let user = self.users.get(slot);
        let now = match self.wants_values() {
            true => Values::new(self.users.codes(slot), user.open.as_deref()),
            false => Values::default(),
        };
        if self.wants_cells {
            let mut cells = kept.before.cells(&now, user.rewrite, &self.shared.ruleset);
            let left = self.leftover.take(slot);
            if !cells.all {
                cells.tags.extend(left);
            }
            self.results.cells.push(cells);
        }
        self.fill_outbox(slot, &now, kept);
        let user = self.users.get_mut(slot);
        self.stats.profiles += 1;
        self.stats.new_users += u64::from(user.version == 0);
        user.version += 1;
        user.unsaved = false;
        user.rewrite = false;
        if self.shared.packs_late {
            (user.unpacked, user.as_of_ms) = (true, self.window.as_of_ms);
            return;
        }
        let user = self.users.get(slot);
        kept.applied.partition = user.partition();
        let fence = &mut kept.applied.fence;
        self.fenced.write(slot, user.partition(), &self.window.fences, fence);
        let head = head(user, self.window.as_of_ms, self.schema_id);
        let profile = profile(self.users, slot, head, &kept.applied, &kept.outbox);
        let record = kept.packer.pack(&profile, &self.shared.ruleset.layout, texts);
        self.results.profiles.push((user.uid.to_key(), record.into()));
    }
}

impl Kept {
    pub(super) fn new(ruleset: &Ruleset) -> Self {
        Self { public: Public::new(ruleset), ..Self::default() }
    }

    fn start_of_day_ms(&mut self, day: Day, shared: &Shared) -> i64 {
        if self.starts_ms.len() >= DAYS_MAX {
            self.starts_ms.clear();
        }
        let zone = &shared.ruleset.catalog.zone;
        *self.starts_ms.entry(day).or_insert_with(|| zone.day_start_ms(day))
    }
}

/// What a user's record is packed from.
pub(super) fn profile<'a>(
    users: &'a UserTable,
    slot: Slot,
    head: Head,
    applied: &'a Applied,
    outbox: &'a [u8],
) -> Profile<'a> {
    let user = users.get(slot);
    let open = user.open.as_deref().unwrap_or_default();
    Profile { head, codes: users.codes(slot), open, state: &user.state, applied, outbox }
}

pub(super) fn head(user: &User, as_of_ms: i64, schema: u64) -> Head {
    Head {
        schema,
        as_of_ms,
        due_ms: user.due_ms(),
        version: user.version,
        quarantined: user.quarantined,
        closed: user.closed,
    }
}
