//! Tag cells: what other readers of the store see of a user.
//!
//! In: a user's values as stored, and as computed. Out: cells of the tags that changed, or of all.
//! Invariant: pure; tags in the shadow have no cells.

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
        ProfileCells { all, tags: tags.filter_map(cell).collect() }
    }
}
