//! Changes of tags that are published: numbered, and put into the profiles that make them.
//!
//! In: a user's values as stored and as computed, what is known to be published. Out: the outbox of its
//! profile. Invariant: pure; a user's changes are numbered without gaps, whether or not one is still to
//! be published.

use std::sync::Arc;

use super::Shard;
use super::cells::Values;
use super::compute::Work;
use super::results::Kept;
use super::users::Slot;
use crate::engine::ruleset::{Ruleset, TagPlace};
use crate::user::snapshot::TagsOnly;
use crate::write::profile::StoredSchema;
use crate::write::publish::outbox::{Before, Numbered, Outbox, changes};
use crate::write::publish::pending::Published;

/// Which closed and open tags others may see.
#[derive(Debug, Default)]
pub(super) struct Public {
    closed: Vec<bool>,
    open: Vec<bool>,
}

impl Public {
    pub(super) fn new(ruleset: &Ruleset) -> Self {
        let mut public = Self {
            closed: vec![false; ruleset.plan.closed_tags().len()],
            open: vec![false; ruleset.plan.open_tags().len()],
        };
        for tag in &ruleset.published {
            match tag.place {
                TagPlace::Closed(at) => public.closed[at] = true,
                TagPlace::Open(at) => public.open[at] = true,
            }
        }
        public
    }

    /// What stood where values are others now.
    fn before(&self, before: &Values, now: &Values, is_new: bool, ruleset: &Ruleset) -> Before {
        let packing = ruleset.plan.packing();
        let mut closed = Vec::new();
        packing.for_each_change(before.codes(), now.codes(), |at| {
            if self.closed[at] {
                closed.push((place(at), packing.get(before.codes(), at)));
            }
        });
        closed.sort_unstable();
        let mut open = Vec::new();
        for (at, _) in self.open.iter().enumerate().filter(|(_, public)| **public) {
            if before.open(at) != now.open(at) {
                open.push((place(at), before.open(at).cloned()));
            }
        }
        match closed.is_empty() && open.is_empty() {
            true => Before::Same,
            false if is_new => Before::Nothing,
            false => Before::Values { closed, open },
        }
    }
}

/// A catalogue has a few thousand tags.
fn place(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

impl Work<'_> {
    /// Numbers what changes of a user, and fills its outbox. `now`: its values as they are written.
    pub(super) fn fill_outbox(&mut self, slot: Slot, now: &Values, kept: &mut Kept) {
        kept.outbox.clear();
        let publishes = self.shared.publishing.is_some();
        let user = self.users.get_mut(slot);
        if !publishes && user.published.is_none() {
            return;
        }
        let is_new = user.version == 0;
        let before = if publishes {
            kept.public.before(&kept.before, now, is_new, &self.shared.ruleset)
        } else {
            Before::Same
        };
        if before.is_same() && user.published.is_none() {
            return;
        }
        let numbered = user.published.get_or_insert_default();
        numbered.version += u64::from(!before.is_same());
        let earlier = std::mem::take(&mut numbered.owed);
        let is_due = !before.is_same() || !earlier.is_empty();
        let outbox = Outbox {
            version: numbered.version,
            window: if is_due { self.window.window } else { 0 },
            cause: user.cause,
            before,
            earlier,
        };
        outbox.encode(&mut kept.outbox);
    }
}

impl Shard {
    /// What is published of a stored user. A change that is not known to be published is owed: its user
    /// is to be written again.
    pub(super) fn numbered(
        &self,
        slot: Slot,
        tags: &TagsOnly<'_>,
        outbox: Outbox,
        schema: &Arc<StoredSchema>,
        partition: Option<u32>,
    ) -> Box<Numbered> {
        let version = outbox.version;
        let key = self.users.key(slot);
        let partition = self.shared.partition_of(partition, &key);
        let owes = |p: &Published| p.owes(partition, &key, outbox.window);
        let owed = match self.shared.publishing.as_deref().is_some_and(owes) {
            true => changes(tags, outbox, schema, &self.shared.ruleset),
            false => Vec::new(),
        };
        Box::new(Numbered { version, owed })
    }

    /// Users that were read and owe something are written by the next window, whatever else happens.
    pub(super) fn pay(&mut self) {
        for slot in std::mem::take(&mut self.owing) {
            let user = self.users.get(slot);
            let owes = user.published.as_ref().is_some_and(|p| !p.owed.is_empty());
            if owes && !user.dirty {
                self.mark_dirty(slot);
            }
        }
    }
}
