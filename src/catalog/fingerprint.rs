//! One number for what a catalogue means.
//!
//! In: a [`Catalog`]. Out: a hash that changes when any rule, type, span or label code changes, and
//! not when a comment, a doc or the order of keys does. Invariant: the same on every machine.

use std::fmt::Write as _;

use super::model::{Catalog, TypedExpr};

/// The hash. It is of a text so that its stability does not hang on a derived `Hash`.
pub(super) fn of(catalog: &Catalog) -> u64 {
    let mut text = String::new();
    let sql = |e: &TypedExpr| format!("{}:{}", e.sql, e.data_type);
    let filter = |e: &Option<TypedExpr>| e.as_ref().map(&sql).unwrap_or_default();
    // Writing to a String cannot fail.
    writeln!(
        text,
        "{:?} {} {} {} {}",
        catalog.uid,
        catalog.zone.name(),
        catalog.allowed_lateness_ms,
        catalog.max_ahead_ms,
        catalog.exact_values_max
    )
    .ok();
    writeln!(text, "closed {}", filter(&catalog.closed)).ok();
    for s in &catalog.streams {
        writeln!(text, "stream {} {:?} {:?} {} {}", s.name, s.columns, s.dedupe, s.uid, s.time)
            .ok();
        writeln!(text, "changelog {:?}", s.changelog).ok();
        for d in &s.derive {
            writeln!(text, "derive {} {}", d.name, sql(&d.expr)).ok();
        }
        writeln!(text, "where {}", filter(&s.filter)).ok();
    }
    for d in &catalog.dimensions {
        writeln!(text, "dimension {} {} {:?} {:?}", d.name, d.table, d.key, d.columns).ok();
    }
    for f in &catalog.features {
        let value = f.aggregate.value().map(&sql).unwrap_or_default();
        let (call, filter) = (f.aggregate.call(), filter(&f.filter));
        writeln!(text, "feature {} {} {call} {value} {filter} {:?}", f.name, f.stream, f.span).ok();
    }
    for t in &catalog.tags {
        writeln!(text, "tag {} {} {} {:?}", t.name, t.id, sql(&t.expr), t.domain).ok();
        writeln!(text, "{:?} {}", t.terms.valid, t.terms.shadow).ok();
    }
    twox_hash::XxHash3_64::oneshot(text.as_bytes())
}
