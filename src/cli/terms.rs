//! The terms of tags, as `tagloom check` shows them.
//!
//! In: a catalogue and which of its tags. Out: lines for people, JSON for scripts.

use serde_json::{Value, json};

use crate::catalog::model::{Catalog, Tag};

/// Lines about the tags that have terms.
pub(super) fn lines(catalog: &Catalog, tags: impl Iterator<Item = usize>) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut expected, mut limited, mut shadow) = (0, Vec::new(), Vec::new());
    for tag in tags.map(|t| &catalog.tags[t]) {
        let terms = &tag.terms;
        match terms.deprecated.as_deref() {
            Some("") => lines.push(format!("deprecated: {}", tag.name)),
            Some(instead) => lines.push(format!("deprecated: {} ({instead})", tag.name)),
            None => {}
        }
        if terms.valid.edges_ms().next().is_some() {
            limited.push(tag.name.as_str());
        }
        if terms.shadow {
            shadow.push(tag.name.as_str());
        }
        expected += usize::from(!terms.expect.is_empty());
    }
    if !shadow.is_empty() {
        let names = shadow.join(", ");
        lines.push(format!("shadow, computed and counted but not published: {names}"));
    }
    if !limited.is_empty() {
        let names = limited.join(", ");
        lines.push(format!(
            "limited in time, every user is recomputed when one begins or ends: {names}"
        ));
    }
    if expected > 0 {
        lines.push(format!(
            "of {expected} tags something is expected over all users: `tagloom test --store`"
        ));
    }
    lines
}

/// The terms of a tag.
pub(super) fn json(tag: &Tag) -> Value {
    let terms = &tag.terms;
    json!({
        "deprecated": terms.deprecated,
        "valid_from_ms": terms.valid.from_ms,
        "valid_until_ms": terms.valid.until_ms,
        "shadow": terms.shadow,
        "expect": {
            "accepted": terms.expect.accepted,
            "null_share_max": terms.expect.null_share_max.map(|s| s.to_string()),
        },
        "meta": tag.meta,
    })
}
