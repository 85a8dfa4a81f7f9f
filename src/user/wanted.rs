//! The features of a stream as its layout needs them: live ones, and those that are gone but keep
//! folding.
//!
//! In: a catalogue, and what a store knows of its partials. Out: for each feature since when it
//! counts, and how its value is kept. Invariant: no clock, no I/O.

use std::collections::BTreeMap;

use super::layout::{LayoutError, ValueKind};
use super::lineage::{FIRST_VERSION, Lineage, origin};
use crate::catalog::model::{Aggregate, Catalog, Span, TypedExpr};

/// A feature as its stream's layout sees it.
pub(super) struct Wanted<'a> {
    /// None: it is gone, and its partial keeps folding.
    pub(super) feature: Option<usize>,
    pub(super) name: &'a str,
    pub(super) aggregate: &'a Aggregate,
    pub(super) filter: Option<&'a TypedExpr>,
    pub(super) span: Span,
    pub(super) origin: u64,
    pub(super) since: u32,
    /// Its value is kept as a hash, if that is known.
    pub(super) hashed: Option<bool>,
}

impl Wanted<'_> {
    fn is_counted(&self) -> bool {
        matches!(self.aggregate, Aggregate::CountDistinct(..))
    }

    /// Whether its value, if it is a text, is kept as a hash. `only_counted`: nobody needs the text.
    pub(super) fn hashed(&self, only_counted: bool) -> bool {
        self.is_counted() && self.hashed.unwrap_or(only_counted)
    }

    /// SQL and since when of the filter whose flag says that a row counts; `None`: all rows do.
    pub(super) fn flag(&self) -> Option<(&str, u32)> {
        match self.filter {
            None if self.since == FIRST_VERSION => None,
            filter => Some((filter.map_or("TRUE", |f| f.sql.as_str()), self.since)),
        }
    }
}

/// By SQL, and whether it is kept as a hash.
pub(super) type Values<'a> = BTreeMap<(&'a str, bool), (&'a TypedExpr, ValueKind)>;

/// All features of a stream, and those that are gone but keep folding.
pub(super) fn wanted<'a>(catalog: &'a Catalog, at: usize, lineage: &'a Lineage) -> Vec<Wanted<'a>> {
    let stream = &catalog.streams[at];
    let want = |feature, name, aggregate, filter: Option<&'a TypedExpr>, span| {
        let origin = origin(stream, aggregate, filter, span);
        let hashed = lineage.known.get(&origin).map(|known| known.hashed);
        let since = lineage.since(origin);
        Wanted { feature, name, aggregate, filter, span, origin, since, hashed }
    };
    let live = catalog.features.iter().enumerate().filter(|(_, f)| f.stream == at);
    let gone = lineage.retired.iter().filter(|r| r.stream == stream.name);
    live.map(|(i, f)| want(Some(i), f.name.as_str(), &f.aggregate, f.filter.as_ref(), f.span))
        .chain(gone.map(|r| want(None, "", &r.aggregate, r.filter.as_ref(), r.span)))
        .collect()
}

/// SQL and kind of each value, the wide ones first. A text of which only distinct values are
/// counted is kept as a hash, unless it was kept as a text before: what is kept stays.
pub(super) fn values<'a>(wanted: &[Wanted<'a>]) -> Result<Values<'a>, LayoutError> {
    let mut only_counted: BTreeMap<&str, bool> = BTreeMap::new();
    for want in wanted {
        if let Some(weight) = want.aggregate.weight() {
            only_counted.insert(&weight.sql, false);
        }
        if let Some(value) = want.aggregate.value() {
            *only_counted.entry(&value.sql).or_insert(true) &=
                want.is_counted() && want.hashed != Some(false);
        }
    }
    let mut values = BTreeMap::new();
    for want in wanted {
        let value = want.aggregate.value().map(|v| (v, want.hashed(only_counted[v.sql.as_str()])));
        let weight = want.aggregate.weight().map(|w| (w, false));
        for (value, hashed) in value.into_iter().chain(weight) {
            let kind = ValueKind::of(&value.data_type, hashed).ok_or_else(|| {
                LayoutError::Type { feature: want.name.into(), data_type: value.data_type.clone() }
            })?;
            values.insert((value.sql.as_str(), kind == ValueKind::Hash), (value, kind));
        }
    }
    Ok(values)
}
