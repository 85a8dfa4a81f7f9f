//! Tags as cells of their own, for other readers of the store.
//!
//! In: a user's tags whose values changed. Out: what the store writes beside the packed profile.
//! Invariant: a value that went away is an empty cell, never a missing one.

use std::sync::Arc;

/// A tag's id of `ids.lock`: base 36, stable over renames, never given to another tag.
pub type TagShortId = Arc<str>;

/// The tag cells to write with a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileCells {
    /// These are all tags of the catalogue, not only changed ones: afterwards nothing is left of
    /// what anybody wrote before.
    pub all: bool,
    /// Tags and their values; `None`: the tag has no value (any more).
    pub tags: Vec<(TagShortId, Option<Box<str>>)>,
}
