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
    /// The tag; none: no tag that is published has this id, and none that was removed.
    pub tag: Option<String>,
    /// It was removed.
    pub removed: bool,
    /// What the cell says; none: there is no value.
    pub cell: Option<String>,
    /// What the profile says.
    pub profile: Option<String>,
}

/// What was found of one user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Cells that say something else than the profile.
    pub wrong: Vec<WrongCell>,
    /// Cells of tags that were removed, or are not published any more, of a user who was stored before
    /// and is still to be computed by the present rules: they are emptied then.
    pub outdated: usize,
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

    /// Compares a user's cells. No cell and an empty one are the same: no value.
    pub fn compare(&self, row: &CheckedRow) -> Result<Compared, ProfileError> {
        let tags = decode_tags(&row.profile)?;
        let schema = self.schemas.get(tags.head.schema, self.ruleset, self.store)?;
        let (codes, open) = (schema.codes(&tags), schema.open_values(&tags));
        let stored = labels(&self.ruleset.catalog, self.ruleset, &codes, &open);
        let leftover = schema.leftover_cells(&tags);
        // Of one who has to be written anew not even what is published has to be there.
        let lacks = schema.lacks_cells();
        let mut found = Compared::default();
        for (id, name) in &self.published {
            let cell = row.cells.get(*id).map(|cell| cell.value.as_slice()).unwrap_or_default();
            let profile = stored.get(*name);
            // A label may be the empty text: then it cannot be told from no value, and is none.
            if cell == profile.map_or(&b""[..], |label| label.as_bytes()) {
                continue;
            }
            if lacks && cell.is_empty() {
                found.outdated += 1;
                continue;
            }
            found.wrong.push(WrongCell {
                id: (*id).to_owned(),
                tag: Some((*name).to_owned()),
                removed: false,
                cell: shown(cell),
                profile: profile.cloned(),
            });
        }
        for (id, cell) in &row.cells {
            if self.published.contains_key(id.as_str()) || cell.value.is_empty() {
                continue;
            }
            if leftover.iter().any(|left| **left == **id) {
                found.outdated += 1;
                continue;
            }
            let removed = self.ruleset.catalog.removed.iter().find(|(_, gone)| gone == id);
            found.wrong.push(WrongCell {
                id: id.clone(),
                tag: removed.map(|(name, _)| name.clone()),
                removed: removed.is_some(),
                cell: shown(&cell.value),
                profile: None,
            });
        }
        Ok(found)
    }
}

fn shown(cell: &[u8]) -> Option<String> {
    (!cell.is_empty()).then(|| String::from_utf8_lossy(cell).into_owned())
}
