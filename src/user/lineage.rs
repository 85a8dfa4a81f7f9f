//! What each partial aggregates, and since when: what outlives a change of the catalogue.
//!
//! In: a stream and expressions over its rows. Out: their meaning as one number, the same as long as
//! they mean the same; and since which catalogue version a partial has seen events.
//!
//! A partial that is new in version n must not count events from before: not even where its value
//! and its filter are in the rows already, because another feature needed them. So rows get a flag
//! of its own for it, which decode sets from version n on; in rows from before it stays false.
//! Partials of an empty store have no such flag.
//! Invariant: no clock, no I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layout::hash64;
use crate::catalog::model::{Aggregate, Changelog, Span, Stream, TypedExpr};
use crate::clock::Day;

/// The first version: what it has, has seen everything.
pub const FIRST_VERSION: u32 = 1;

/// What a store knows of the partials it keeps.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// The catalogue version; partials that are not known have seen nothing before it.
    pub version: u32,
    /// By [`origin`].
    pub known: BTreeMap<u64, Known>,
    /// Features that are gone, whose partials keep folding for a while.
    pub retired: Vec<Retired>,
    /// Only events before this instant are folded: a history is being read.
    pub before_ms: Option<i64>,
    /// Tiles roll up no earlier than after so many days.
    pub horizon_days_min: u32,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            version: FIRST_VERSION,
            known: BTreeMap::new(),
            retired: Vec::new(),
            before_ms: None,
            horizon_days_min: 0,
        }
    }
}

/// What is known of a partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The version since which it has seen events.
    pub since: u32,
    /// Its value, a text that is only counted, is kept as a hash.
    pub hashed: bool,
    /// What came before has been folded in from history.
    #[serde(default)]
    pub cut: Option<Cut>,
}

/// Where history ends and live events begin, for partials that history was folded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// Numbers the job that did it; each has its own cut.
    pub job: u16,
    /// Events before this instant come from history: the first instant of a day, epoch ms.
    pub before_ms: i64,
    /// Live events from this instant on count: `before_ms`, but for streams that dedupe, whose late
    /// events count unless their id is known from history. The first instant of `from_day`.
    pub from_ms: i64,
    /// Its day.
    pub from_day: Day,
}

/// A feature that is gone.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Its stream's name.
    pub stream: String,
    /// What it aggregated.
    pub aggregate: Aggregate,
    /// Over which events.
    pub filter: Option<TypedExpr>,
    /// Over which days.
    pub span: Span,
}

impl Lineage {
    /// Since when a partial has seen events.
    pub fn since(&self, origin: u64) -> u32 {
        self.known.get(&origin).map_or(self.version, |known| known.since)
    }
}

/// What a feature aggregates, as one number. Features that differ in days only have the same;
/// those over everything have another one, because the days they look at are kept in another way.
pub fn origin(
    stream: &Stream,
    aggregate: &Aggregate,
    filter: Option<&TypedExpr>,
    span: Span,
) -> u64 {
    let value = aggregate.value().map(|v| meaning(stream, v)).unwrap_or_default();
    let filter = filter.map(|f| meaning(stream, f)).unwrap_or_default();
    let ever = span == Span::Lifetime;
    let mut text = format!("{}|{}|{value}|{filter}|{ever}", rows(stream), aggregate.name());
    let weight = aggregate.weight().map(|w| meaning(stream, w)).unwrap_or_default();
    let values_max = aggregate.values_max();
    if values_max.is_some() {
        text.push_str(&format!("|{weight}|{values_max:?}"));
    }
    if let Aggregate::Recent { n, .. } = aggregate {
        text.push_str(&format!("|{n}"));
    }
    hash64(text.as_bytes())
}

/// Which rows of a stream are events, and when and whose they are.
pub(super) fn rows(stream: &Stream) -> String {
    let filter = stream.filter.as_ref().map(|f| meaning(stream, f)).unwrap_or_default();
    let (uid, time) = (&stream.columns[stream.uid], &stream.columns[stream.time]);
    let table = stream.changelog.as_ref().map(|changelog| table(stream, changelog));
    let table = table.map(|table| format!("|{table}")).unwrap_or_default();
    let time = format!("{}:{:?}", time.name, time.kind);
    format!("{}|{filter}|{}:{:?}|{time}{table}", stream.name, uid.name, uid.kind)
}

/// What tells rows and versions of a table apart.
pub(super) fn table(stream: &Stream, changelog: &Changelog) -> String {
    let column = |at: &usize| (&stream.columns[*at].name, &stream.columns[*at].kind);
    let key: Vec<_> = changelog.primary_key.iter().map(column).collect();
    format!("{key:?}|{:?}", changelog.version.as_ref().map(column))
}

/// A row expression with everything it is made of: derived columns down to columns of the source.
/// From where in the source a column is read does not matter: a source may rename it.
pub(super) fn meaning(stream: &Stream, expr: &TypedExpr) -> String {
    let mut text = format!("{}:{}", expr.sql, expr.data_type);
    for name in &expr.columns {
        if let Some(column) = stream.columns.iter().find(|c| c.name == *name) {
            text.push_str(&format!(" {name}:{:?}", column.kind));
        } else if let Some(derived) = stream.derive.iter().find(|d| d.name == *name) {
            // A derived column reads only those before it, so this ends.
            text.push_str(&format!(" {name}=({})", meaning(stream, &derived.expr)));
        }
    }
    text
}
