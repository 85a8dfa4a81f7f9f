//! Tag cells compared with the profiles they stand beside.
//!
//! In: profiles of an HBase store with their cells, and the present rules. Out: what is wrong with a
//! user's cells, and what they should be.
//! Invariant: reads only; what is compared is what was stored, not what would be computed now.

use std::collections::BTreeMap;

use crate::catalog::select::Selection;
use crate::engine::ruleset::Ruleset;
use crate::store::Store;
use crate::store::hbase::CheckedRow;
use crate::user::snapshot::decode_tags;
use crate::write::profile::{ProfileError, Schemas, labels};

/// A cell that says something else than the profile.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WrongCell {
    /// The tag's short id.
    pub id: String,
    /// The tag; none: no tag that is published has this id.
    pub tag: Option<String>,
    /// What the cell says; none: there is no value.
    pub cell: Option<String>,
    /// What the profile says.
    pub profile: Option<String>,
}

/// Compares cells by one catalogue.
pub struct CellCheck<'a> {
    store: &'a dyn Store,
    ruleset: &'a Ruleset,
    schemas: Schemas,
    /// Names of published tags by short id.
    published: BTreeMap<&'a str, &'a str>,
}

impl<'a> CellCheck<'a> {
    /// For a store and its rules.
    pub fn new(store: &'a dyn Store, ruleset: &'a Ruleset) -> Result<Self, String> {
        let catalog = &ruleset.catalog;
        let selection = Selection::all(catalog).published(catalog)?;
        let tags = selection.tags().map(|at| &catalog.tags[at]);
        let published = tags.map(|tag| (tag.id.as_str(), tag.name.as_str())).collect();
        Ok(Self { store, ruleset, schemas: Schemas::default(), published })
    }

    /// What is wrong with a user's cells. No cell and an empty one are the same: no value.
    pub fn wrong(&self, row: &CheckedRow) -> Result<Vec<WrongCell>, ProfileError> {
        let tags = decode_tags(&row.profile)?;
        let schema = self.schemas.get(tags.head.schema, self.ruleset, self.store)?;
        let (codes, open) = (schema.codes(&tags), schema.open_values(&tags));
        let stored = labels(&self.ruleset.catalog, self.ruleset, &codes, &open);
        let mut wrong = Vec::new();
        for (id, name) in &self.published {
            let cell = row.cells.get(*id).map(|cell| cell.value.as_slice()).unwrap_or_default();
            let profile = stored.get(*name);
            // A label may be the empty text: then it cannot be told from no value, and is none.
            if cell != profile.map_or(&b""[..], |label| label.as_bytes()) {
                wrong.push(WrongCell {
                    id: (*id).to_owned(),
                    tag: Some((*name).to_owned()),
                    cell: shown(cell),
                    profile: profile.cloned(),
                });
            }
        }
        for (id, cell) in &row.cells {
            if !self.published.contains_key(id.as_str()) && !cell.value.is_empty() {
                wrong.push(WrongCell {
                    id: id.clone(),
                    tag: None,
                    cell: shown(&cell.value),
                    profile: None,
                });
            }
        }
        Ok(wrong)
    }
}

fn shown(cell: &[u8]) -> Option<String> {
    (!cell.is_empty()).then(|| String::from_utf8_lossy(cell).into_owned())
}
