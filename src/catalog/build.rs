//! The catalogue while it is being put together.
//!
//! In: what the readers of the folders found. Out: names in reach, claimed names, reports.
//! Invariant: a name has one owner among features, dimension columns and tags.

use std::collections::HashMap;

use super::expression::Reach;
use super::matrix::Binding;
use super::model::{Dimension, Feature};
use super::place::{Diagnostics, Files, Place};
use super::report::Reports;
use super::scalar;
use super::settings::{Settings, check};
use super::stream::StreamScope;
use super::yaml::Text;

/// The catalogue so far.
#[derive(Debug)]
pub(super) struct Build<'a> {
    pub(super) files: &'a Files,
    pub(super) settings: Settings,
    pub(super) reports: Reports,
    /// What tag expressions may read.
    pub(super) reach: Reach,
    /// Right or wrong.
    pub(super) streams: Vec<StreamScope>,
    /// A stream file could not be read.
    pub(super) streams_incomplete: bool,
    /// Right ones only.
    pub(super) features: Vec<Feature>,
    /// Right ones only, sorted so that a dimension comes after the one that holds its key.
    pub(super) dimensions: Vec<Dimension>,
    names: HashMap<String, (&'static str, Place)>,
    items: usize,
}

impl<'a> Build<'a> {
    /// Nothing yet.
    pub(super) fn new(files: &'a Files, settings: Settings) -> Self {
        Self {
            files,
            settings,
            reports: Reports::default(),
            reach: Reach::default(),
            streams: Vec::new(),
            streams_incomplete: false,
            features: Vec::new(),
            dimensions: Vec::new(),
            names: HashMap::new(),
            items: 0,
        }
    }

    /// A number for the next document.
    pub(super) fn next_item(&mut self) -> usize {
        self.items += 1;
        self.items
    }

    /// Expands a name and takes it for `what`. Says whether it is in order and was free.
    pub(super) fn claim_expanded(
        &mut self,
        binding: &Binding<'_>,
        name: &Text,
        what: &'static str,
        out: &mut Diagnostics,
    ) -> (String, bool) {
        let before = out.items.len();
        let full = binding.string(name, out);
        // A name that lacks a variable is the same for all expansions; one message is enough.
        let good = out.items.len() == before
            && check(scalar::wide_name(&full, what), name.place, out).is_some()
            && self.claim(&full, what, name.place, out);
        (full, good)
    }

    /// Takes a name for `what`; false, with an error, when it is taken already.
    pub(super) fn claim(
        &mut self,
        name: &str,
        what: &'static str,
        place: Place,
        out: &mut Diagnostics,
    ) -> bool {
        if let Some((owner, first)) = self.names.get(name) {
            let (line, _) = self.files.line_column(first.file, first.start);
            let path = self.files.path(first.file);
            let remedy = format!("rename one; the other is at {path}:{line}");
            out.error(place, format!("`{name}` is already {owner}"), remedy);
            return false;
        }
        self.names.insert(name.to_owned(), (what, place));
        true
    }
}
