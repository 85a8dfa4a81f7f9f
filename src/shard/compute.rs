//! Tags of many users: features, dimensions, rules.
//!
//! In: slots of users and a window. Out: through [`super::results`] packed profiles and due instants.
//! Invariant: a panic costs one user, not the window.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, StringArray};

use super::cells::Leftover;
use super::fence::Fenced;
use super::results::{Kept, Results};
use super::users::{Slot, UserTable};
use super::{Shared, WindowClose, WindowStats, hash_of};
use crate::buffer_pool::BufferPool;
use crate::catalog::model::DimensionKey;
use crate::clock::Stopwatch;
use crate::dimension::{Enriched, KeyColumn, Pinned};
use crate::engine::ruleset::Ruleset;
use crate::rule::closed::ClosedBatch;
use crate::rule::{AsOf, Scratch, TagBatch};
use crate::store::Uid;
use crate::user::features::{Due, FeatureBatch};

/// Users whose memory is asked for before the first of them is needed: as many reads as a core has
/// under way at once.
pub(super) const AHEAD_USERS: usize = 32;

/// What a window's computation works on.
pub(super) struct Work<'a> {
    pub(super) users: &'a mut UserTable,
    pub(super) fenced: &'a Fenced,
    pub(super) leftover: &'a mut Leftover,
    pub(super) window: &'a WindowClose,
    pub(super) shared: &'a Shared,
    pub(super) stats: &'a mut WindowStats,
    pub(super) results: Results,
    /// Processes share the store.
    pub(super) is_shared: bool,
    /// The store has cells for tags.
    pub(super) wants_cells: bool,
    /// How profiles are to be read that are written.
    pub(super) schema_id: u64,
}

/// What was computed for a batch of users.
#[derive(Default)]
pub(super) struct Computed {
    pub(super) tags: TagBatch,
    /// When a span alone changes a feature, by row.
    pub(super) due: Vec<Due>,
    /// Rows whose dimension values could not be read, or are the last ones that could, ascending: to
    /// be computed again soon.
    pub(super) incomplete: Vec<u32>,
    /// Where the catalogue says when an account is closed.
    pub(super) closed: ClosedBatch,
}

/// Computes users in batches, reusing its memory.
pub(super) struct Computer {
    features: FeatureBatch,
    scratch: Scratch,
    computed: Computed,
    kept: Kept,
    /// Memory of the columns of the batch before.
    pool: BufferPool,
    /// 1 for users that were never computed before.
    fresh: Vec<u8>,
    /// Tests make a user's computation panic.
    #[cfg(test)]
    pub(super) poison: Option<Uid>,
}

impl Computer {
    pub(super) fn new(shared: &Shared) -> Self {
        let ruleset = &shared.ruleset;
        Self {
            features: FeatureBatch::new(&ruleset.layout, &ruleset.feature_types),
            scratch: Scratch::default(),
            computed: Computed::default(),
            kept: Kept::new(ruleset),
            pool: BufferPool::default(),
            fresh: Vec::new(),
            #[cfg(test)]
            poison: None,
        }
    }

    pub(super) fn run(&mut self, work: &mut Work<'_>, slots: &[Slot]) {
        for batch in slots.chunks(work.shared.batch_users_max.max(1)) {
            self.batch(work, batch);
        }
    }

    /// One batch; on a panic its halves, down to the user who causes it.
    fn batch(&mut self, work: &mut Work<'_>, slots: &[Slot]) {
        if slots.iter().any(|s| work.users.get(*s).quarantined) {
            let (ill, healthy): (Vec<Slot>, Vec<Slot>) =
                slots.iter().partition(|s| work.users.get(**s).quarantined);
            work.write_unchanged(&ill, &mut self.kept);
            if !healthy.is_empty() {
                self.batch(work, &healthy);
            }
            return;
        }
        let computed = catch_unwind(AssertUnwindSafe(|| self.compute(work, slots)));
        if computed.is_ok() {
            work.store(slots, &self.computed, &mut self.kept);
            return;
        }
        *self = Self::fresh(self, work.shared);
        if let [slot] = *slots {
            work.stats.quarantined += 1;
            let user = work.users.get_mut(slot);
            user.quarantined = true;
            work.shared.quarantine.add(hash_of(&user.uid));
            work.write_unchanged(slots, &mut self.kept);
            return;
        }
        let (left, right) = slots.split_at(slots.len() / 2);
        self.batch(work, left);
        self.batch(work, right);
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

    fn compute(&mut self, work: &mut Work<'_>, slots: &[Slot]) {
        let mut watch = Stopwatch::start();
        let mut columns = self.feature_columns(work, slots);
        lap(&mut watch, &mut work.stats.stage_ns[0]);
        self.enrich(work, slots, &mut columns);
        lap(&mut watch, &mut work.stats.stage_ns[1]);
        let (window, plan) = (work.window, &work.shared.ruleset.plan);
        let as_of = AsOf { ms: window.as_of_ms, day: window.as_of_day };
        self.fresh.clear();
        self.fresh.extend(slots.iter().map(|s| u8::from(work.users.get(*s).version == 0)));
        let tags = &mut self.computed.tags;
        plan.evaluate_into(&columns, slots.len(), as_of, &self.fresh, &mut self.scratch, tags);
        if let Some(rule) = &work.shared.ruleset.closed {
            let closed = &mut self.computed.closed;
            rule.evaluate(&columns, slots.len(), as_of, closed);
            let closed = closed.tags();
            tags.due_hop = tags.due_hop.min(closed.due_hop);
            let days = tags.due_days.iter_mut().zip(&closed.due_days);
            days.for_each(|(due, closed)| *due = (*due).min(*closed));
        }
        self.pool.give_back(columns);
        for (tag, rows) in &tags.failed {
            work.stats.tags[*tag].failed += rows;
        }
        for (tag, present) in plan.closed_tags().iter().zip(&tags.present) {
            work.stats.tags[*tag].flips += present;
            work.stats.tags_changed += present;
        }
        lap(&mut watch, &mut work.stats.stage_ns[2]);
    }

    fn feature_columns(&mut self, work: &mut Work<'_>, slots: &[Slot]) -> Vec<ArrayRef> {
        let (window, shared) = (work.window, work.shared);
        let layout = &shared.ruleset.layout;
        let texts = shared.texts.view();
        let as_of = AsOf { ms: window.as_of_ms, day: window.as_of_day };
        let due = &mut self.computed.due;
        due.clear();
        for group in slots.chunks(AHEAD_USERS) {
            work.users.touch(group);
            for slot in group {
                let user = work.users.get_mut(*slot);
                #[cfg(test)]
                assert!(self.poison.as_ref() != Some(&user.uid), "poisoned by a test");
                if let Some(until) = window.roll_up {
                    user.unsaved |= user.state.roll_up(until, layout, &texts);
                }
                user.unsaved |= user.state.shrink(shared.state_bytes_max, as_of, layout, &texts);
                due.push(self.features.push(&user.state, as_of, &texts));
            }
        }
        work.stats.feature_overflows += std::mem::take(&mut self.features.overflows);
        self.features.take_with(&texts, &mut self.pool)
    }

    /// Appends the columns of all dimensions.
    fn enrich(&mut self, work: &mut Work<'_>, slots: &[Slot], columns: &mut Vec<ArrayRef>) {
        let uids: Vec<&Uid> = slots.iter().map(|s| &work.users.get(*s).uid).collect();
        let incomplete = &mut self.computed.incomplete;
        incomplete.clear();
        let (ruleset, dimensions) = (&work.shared.ruleset, &work.window.dimensions);
        let pool = &mut self.pool;
        add_dimension_columns_with(ruleset, dimensions, &uids, columns, pool, |_, enriched| {
            work.stats.dimension_missing += enriched.missing.len() as u64;
            incomplete.extend(enriched.missing.iter().chain(&enriched.stale_rows));
        });
        incomplete.sort_unstable();
    }
}

/// Appends the columns of all dimensions to the feature columns of a batch of users. `seen` gets
/// each dimension's index and what its lookup gave, before its columns are appended.
pub(crate) fn add_dimension_columns(
    ruleset: &Ruleset,
    dimensions: &Pinned,
    uids: &[&Uid],
    columns: &mut Vec<ArrayRef>,
    seen: impl FnMut(usize, &Enriched),
) {
    let pool = &mut BufferPool::default();
    add_dimension_columns_with(ruleset, dimensions, uids, columns, pool, seen);
}

/// The same, with memory for the columns.
fn add_dimension_columns_with(
    ruleset: &Ruleset,
    dimensions: &Pinned,
    uids: &[&Uid],
    columns: &mut Vec<ArrayRef>,
    pool: &mut BufferPool,
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
        match dimensions.enrich_with(at, key, pool) {
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

pub(super) fn lap(watch: &mut Stopwatch, into: &mut u64) {
    let took: Duration = watch.lap();
    *into += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
}
