//! Tags of many users: features, dimensions, rules, diff, packing.
//!
//! In: slots of users and a window. Out: packed profiles and due instants.
//! Invariant: a panic costs one user, not the window.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, StringArray};

use super::users::{Slot, UserTable};
use super::{Shared, WindowClose, WindowStats};
use crate::catalog::model::DimensionKey;
use crate::clock::{Day, Stopwatch};
use crate::dimension::{Enriched, KeyColumn, Pinned};
use crate::engine::ruleset::Ruleset;
use crate::rule::{AsOf, Scratch, TagBatch};
use crate::store::{Bytes, Uid, UidKey};
use crate::user::features::{FeatureBatch, NEVER};
use crate::user::snapshot::{Head, encode};
use crate::write::open;

/// A user whose dimension values could not be read is computed again after this.
const RETRY_DIMENSIONS_MS: i64 = 1_000;

/// Computes users in batches, reusing its memory.
pub(super) struct Computer {
    features: FeatureBatch,
    scratch: Scratch,
    tags: TagBatch,
    due_days: Vec<Day>,
    /// Rows whose dimension values could not be read: to be computed again soon.
    incomplete: Vec<u32>,
    /// Tests make a user's computation panic.
    #[cfg(test)]
    pub(super) poison: Option<Uid>,
}

/// Profiles to write, and users by due instant.
type Computed = (Vec<(UidKey, Bytes)>, BTreeMap<i64, Vec<UidKey>>);

impl Computer {
    pub(super) fn new(shared: &Shared) -> Self {
        let ruleset = &shared.ruleset;
        Self {
            features: FeatureBatch::new(&ruleset.layout, &ruleset.feature_types),
            scratch: Scratch::default(),
            tags: TagBatch::default(),
            due_days: Vec::new(),
            incomplete: Vec::new(),
            #[cfg(test)]
            poison: None,
        }
    }

    pub(super) fn run(
        &mut self,
        users: &mut UserTable,
        slots: &[Slot],
        window: &WindowClose,
        shared: &Shared,
        stats: &mut WindowStats,
    ) -> Computed {
        let mut out = (Vec::with_capacity(slots.len()), BTreeMap::new());
        for batch in slots.chunks(shared.batch_users_max.max(1)) {
            self.batch(users, batch, window, shared, stats, &mut out);
        }
        out
    }

    /// One batch; on a panic its halves, down to the user who causes it.
    fn batch(
        &mut self,
        users: &mut UserTable,
        slots: &[Slot],
        window: &WindowClose,
        shared: &Shared,
        stats: &mut WindowStats,
        out: &mut Computed,
    ) {
        let (ill, healthy): (Vec<Slot>, Vec<Slot>) =
            slots.iter().partition(|s| users.get(**s).quarantined);
        for slot in ill {
            write_profile(users, slot, window, shared, out);
        }
        if healthy.is_empty() {
            return;
        }
        let computed = catch_unwind(AssertUnwindSafe(|| {
            self.compute(users, &healthy, window, shared, stats);
        }));
        match computed {
            Ok(()) => self.store_results(users, &healthy, window, shared, stats, out),
            Err(_) => {
                *self = Self::fresh(self, shared);
                if let [slot] = healthy[..] {
                    stats.quarantined += 1;
                    let user = users.get_mut(slot);
                    user.quarantined = true;
                    shared.quarantine.add(user.hash);
                    write_profile(users, slot, window, shared, out);
                    return;
                }
                let (left, right) = healthy.split_at(healthy.len() / 2);
                self.batch(users, left, window, shared, stats, out);
                self.batch(users, right, window, shared, stats, out);
            }
        }
    }

    /// A panic may have left half a row behind: everything that is reused is made anew.
    #[cfg_attr(not(test), expect(unused_variables, reason = "tests keep their poison"))]
    fn fresh(old: &Self, shared: &Shared) -> Self {
        Self {
            #[cfg(test)]
            poison: old.poison.clone(),
            ..Self::new(shared)
        }
    }

    fn compute(
        &mut self,
        users: &mut UserTable,
        slots: &[Slot],
        window: &WindowClose,
        shared: &Shared,
        stats: &mut WindowStats,
    ) {
        let layout = &shared.ruleset.layout;
        let mut watch = Stopwatch::start();
        self.due_days.clear();
        let mut columns = {
            let texts = shared.texts.view();
            for slot in slots {
                let user = users.get_mut(*slot);
                #[cfg(test)]
                assert!(self.poison.as_ref() != Some(&user.uid), "poisoned by a test");
                if window.roll_up {
                    user.state.roll_up(window.as_of_day, layout, &texts);
                }
                user.state.shrink(shared.state_bytes_max, layout, &texts);
                self.due_days.push(self.features.push(&user.state, window.as_of_day, &texts));
            }
            stats.feature_overflows += std::mem::take(&mut self.features.overflows);
            self.features.take(&texts)
        };
        lap(&mut watch, &mut stats.stage_ns[0]);
        self.enrich(users, slots, window, shared, &mut columns, stats);
        lap(&mut watch, &mut stats.stage_ns[1]);
        let as_of = AsOf { ms: window.as_of_ms, day: window.as_of_day };
        shared.ruleset.plan.evaluate_into(
            &columns,
            slots.len(),
            as_of,
            &mut self.scratch,
            &mut self.tags,
        );
        for (tag, rows) in &self.tags.failed {
            stats.tags[*tag].failed += rows;
        }
        lap(&mut watch, &mut stats.stage_ns[2]);
    }

    /// Appends the columns of all dimensions.
    fn enrich(
        &mut self,
        users: &UserTable,
        slots: &[Slot],
        window: &WindowClose,
        shared: &Shared,
        columns: &mut Vec<ArrayRef>,
        stats: &mut WindowStats,
    ) {
        let uids: Vec<&Uid> = slots.iter().map(|s| &users.get(*s).uid).collect();
        let incomplete = &mut self.incomplete;
        incomplete.clear();
        add_dimension_columns(
            &shared.ruleset,
            &window.dimensions,
            &uids,
            columns,
            |_, enriched| {
                stats.dimension_missing += enriched.missing.len() as u64;
                incomplete.extend(&enriched.missing);
            },
        );
    }

    fn store_results(
        &mut self,
        users: &mut UserTable,
        slots: &[Slot],
        window: &WindowClose,
        shared: &Shared,
        stats: &mut WindowStats,
        out: &mut Computed,
    ) {
        let mut watch = Stopwatch::start();
        let closed = self.tags.closed;
        for (row, slot) in slots.iter().enumerate() {
            let user = users.get_mut(*slot);
            let codes = &self.tags.codes[row * closed..(row + 1) * closed];
            if *user.codes != *codes {
                count_flips(&user.codes, codes, shared.ruleset.plan.closed_tags(), stats);
                user.codes = codes.into();
            }
            let open = open::pack(&self.tags.open, row);
            if *user.open != *open {
                count_open_flips(&user.open, &open, shared.ruleset.plan.open_tags(), stats);
                user.open = open.into();
            }
            let due_day = self.due_days[row].min(self.tags.due_days[row]);
            let due_before_ms = user.due_ms;
            user.due_ms =
                (due_day != NEVER).then(|| shared.ruleset.catalog.zone.day_start_ms(due_day));
            if self.incomplete.contains(&u32::try_from(row).unwrap_or(u32::MAX)) {
                user.due_ms = Some(window.as_of_ms.saturating_add(RETRY_DIMENSIONS_MS));
            }
            user.as_of_ms = window.as_of_ms;
            // A due entry lives until its instant: one is enough for as long as it does not move.
            if let Some(due_ms) = user.due_ms.filter(|_| user.due_ms != due_before_ms) {
                out.1.entry(due_ms).or_default().push(user.uid.to_key());
            }
            write_profile(users, *slot, window, shared, out);
        }
        lap(&mut watch, &mut stats.stage_ns[3]);
    }
}

/// Appends the columns of all dimensions to the feature columns of a batch of users. `seen` gets
/// each dimension's index and what its lookup gave, before its columns are appended.
pub(crate) fn add_dimension_columns(
    ruleset: &Ruleset,
    dimensions: &Pinned,
    uids: &[&Uid],
    columns: &mut Vec<ArrayRef>,
    mut seen: impl FnMut(usize, &Enriched),
) {
    for (at, dimension) in ruleset.catalog.dimensions.iter().enumerate() {
        let numbers: Vec<u64>;
        let array: ArrayRef;
        let key = match dimension.key {
            DimensionKey::Uid => {
                if ruleset.catalog.uid == crate::catalog::model::UidType::U64 {
                    let number = |uid: &&Uid| if let Uid::U64(n) = uid { *n } else { 0 };
                    numbers = uids.iter().map(number).collect();
                    KeyColumn::Numbers(&numbers)
                } else {
                    let texts = uids.iter().map(|u| Some(u.to_string()));
                    array = Arc::new(texts.collect::<StringArray>());
                    KeyColumn::Array(&array)
                }
            }
            DimensionKey::Feature(feature) => KeyColumn::Array(&columns[feature]),
            DimensionKey::Column { dimension, column } => {
                KeyColumn::Array(&columns[ruleset.dimension_inputs[dimension] + column])
            }
        };
        match dimensions.enrich(at, key) {
            Ok(enriched) => {
                seen(at, &enriched);
                columns.extend(enriched.columns);
            }
            // Checked when the catalogue was compiled: a key column has the table's key type.
            Err(_) => columns.extend(dimension.columns.iter().map(|c| {
                arrow::array::new_null_array(&c.kind.data_type(&ruleset.catalog.zone), uids.len())
            })),
        }
    }
}

fn lap(watch: &mut Stopwatch, into: &mut u64) {
    let took: Duration = watch.lap();
    *into += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
}

fn count_flips(old: &[u8], new: &[u8], tags: &[usize], stats: &mut WindowStats) {
    for (at, tag) in tags.iter().enumerate() {
        let before = old.get(at).copied().unwrap_or(0);
        if before != new[at] {
            stats.tags[*tag].flips += 1;
            stats.tags_changed += 1;
        }
    }
}

fn count_open_flips(old: &[u8], new: &[u8], tags: &[usize], stats: &mut WindowStats) {
    let (old, new) = (open::unpack(old), open::unpack(new));
    for (at, tag) in tags.iter().enumerate() {
        if old.get(at).cloned().flatten() != new.get(at).cloned().flatten() {
            stats.tags[*tag].flips += 1;
            stats.tags_changed += 1;
        }
    }
}

fn write_profile(
    users: &mut UserTable,
    slot: Slot,
    window: &WindowClose,
    shared: &Shared,
    out: &mut Computed,
) {
    let key = users.key(slot);
    let user = users.get_mut(slot);
    user.version += 1;
    let head = Head {
        schema: shared.ruleset.schema_id,
        as_of_ms: window.as_of_ms,
        due_ms: user.due_ms,
        version: user.version,
        quarantined: user.quarantined,
    };
    let mut bytes = Vec::new();
    let texts = shared.texts.view();
    encode(head, &user.codes, &user.open, &user.state, &shared.ruleset.layout, &texts, &mut bytes);
    out.0.push((key, bytes.into()));
}
