//! Tag cells: what other readers of the store see of a user.
//!
//! In: a user's values as stored, and as computed; tags that had a cell and are not published any more.
//! Out: cells of the tags that changed, or of all; empty ones of those that are gone.
//! Invariant: pure; tags in the shadow have no cells.

use hashbrown::HashMap;

use super::users::Slot;
use crate::engine::ruleset::{PublishedTag, Ruleset, TagPlace};
use crate::store::{ProfileCells, TagShortId};
use crate::write::open::{OpenValue, unpack};
use crate::write::profile::label_of;

/// A user's values as packed.
#[derive(Debug, Default)]
pub(super) struct Values {
    codes: Vec<u8>,
    open: Vec<Option<OpenValue>>,
}

impl Values {
    pub(super) fn new(codes: &[u8], open: Option<&[u8]>) -> Self {
        Self { codes: codes.to_vec(), open: unpack(open.unwrap_or_default()) }
    }

    /// The same in the memory that is there.
    pub(super) fn remember(&mut self, codes: &[u8], open: Option<&[u8]>) {
        self.codes.clear();
        self.codes.extend_from_slice(codes);
        self.open = unpack(open.unwrap_or_default());
    }

    /// Packed codes of closed tags.
    pub(super) fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The value of an open tag.
    pub(super) fn open(&self, at: usize) -> Option<&OpenValue> {
        self.open.get(at).and_then(Option::as_ref)
    }

    /// The cells that turn these values into others. `all`: whoever wrote what is there, nothing of it
    /// is to stay.
    pub(super) fn cells(&self, now: &Self, all: bool, ruleset: &Ruleset) -> ProfileCells {
        let tags = ruleset.published.iter();
        let cell = |tag: &PublishedTag| -> Option<(TagShortId, Option<Box<str>>)> {
            let label = match tag.place {
                TagPlace::Closed(at) => {
                    let packing = ruleset.plan.packing();
                    let code = packing.get(&now.codes, at);
                    if !all && code == packing.get(&self.codes, at) {
                        return None;
                    }
                    label_of(&ruleset.catalog.tags[tag.tag].domain, code).map(Into::into)
                }
                TagPlace::Open(at) => {
                    let value = now.open(at);
                    if !all && value == self.open(at) {
                        return None;
                    }
                    value.map(|value| value.label().into())
                }
            };
            Some((tag.id.clone(), label))
        };
        let mut tags: Vec<_> = tags.filter_map(cell).collect();
        if all {
            // Whoever wrote by other rules may have given them a value.
            tags.extend(ruleset.unpublished.iter().map(|id| (TagShortId::clone(id), None)));
        }
        ProfileCells { all, tags }
    }
}

/// Cells that are to be emptied with the next write of their row: of tags that were removed, or went into
/// the shadow, since the user was stored.
#[derive(Debug, Default)]
pub(super) struct Leftover(HashMap<Slot, Vec<TagShortId>>);

impl Leftover {
    /// A user was loaded that has such cells.
    pub(super) fn admit(&mut self, slot: Slot, tags: Vec<TagShortId>) {
        if !tags.is_empty() {
            self.0.insert(slot, tags);
        }
    }

    /// A user has left.
    pub(super) fn forget(&mut self, slot: Slot) {
        if !self.0.is_empty() {
            self.0.remove(&slot);
        }
    }

    /// The empty cells of a user who is written now.
    pub(super) fn take(&mut self, slot: Slot) -> Vec<(TagShortId, Option<Box<str>>)> {
        let tags = if self.0.is_empty() { None } else { self.0.remove(&slot) };
        tags.into_iter().flatten().map(|id| (id, None)).collect()
    }
}
