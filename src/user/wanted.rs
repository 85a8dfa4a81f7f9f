//! The features of a stream as its layout needs them: live ones, and those that are gone but keep
//! folding.
//!
//! In: a catalogue, and what a store knows of its partials. Out: for each feature since when it
//! counts, and how its value is kept. Invariant: no clock, no I/O.

use std::collections::BTreeMap;

use super::layout::{LayoutError, ValueKind, hash64};
use super::lineage::{Cut, FIRST_VERSION, Lineage, meaning, origin};
use crate::catalog::model::{Aggregate, Catalog, Span, Stream, TypedExpr};
use crate::clock::Zone;

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
    /// Where its history ends, if it has one.
    pub(super) cut: Option<Cut>,
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

    /// SQL, since when and from which cut on: the filter whose flag says that a row counts.
    /// `None`: all rows do.
    pub(super) fn flag(&self) -> Option<(&str, u32, Option<Cut>)> {
        match self.filter {
            None if self.since == FIRST_VERSION && self.cut.is_none() => None,
            filter => Some((filter.map_or("TRUE", |f| f.sql.as_str()), self.since, self.cut)),
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
        let known = lineage.known.get(&origin);
        let (hashed, cut) = (known.map(|k| k.hashed), known.and_then(|k| k.cut));
        let since = lineage.since(origin);
        Wanted { feature, name, aggregate, filter, span, origin, since, cut, hashed }
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

/// A filter before it has its place in the row.
pub(super) struct FilterPlan {
    pub(super) expr: TypedExpr,
    pub(super) sql: String,
    pub(super) since: u32,
    pub(super) fingerprint: u64,
    pub(super) cut: Option<(Cut, Option<u64>)>,
}

impl FilterPlan {
    /// The filter of a feature that has one, or needs one to say since when it counts.
    pub(super) fn new(want: &Wanted<'_>, stream: &Stream, zone: &Zone) -> Self {
        let since = want.since;
        let own = want.filter.cloned().unwrap_or_else(|| TypedExpr::always(stream.place));
        let sql = own.sql.clone();
        let own_print = hash64(format!("{}|{since}", meaning(stream, &own)).as_bytes());
        let Some(cut) = want.cut else {
            return Self { expr: own, sql, since, fingerprint: own_print, cut: None };
        };
        let is_new = want.filter.is_none() && since == FIRST_VERSION;
        let expr = own.and_from(&stream.columns[stream.time].name, cut.from_ms, zone);
        let fingerprint = hash64(format!("{own_print}|{cut:?}").as_bytes());
        let base = (!is_new).then_some(own_print);
        Self { expr, sql, since, fingerprint, cut: Some((cut, base)) }
    }
}
