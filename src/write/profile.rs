//! Profiles as readers see them: labels by tag.
//!
//! In: stored bytes and the schema they were written with. Out: codes and values in the order of
//! the present catalogue. Invariant: no clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::{HashMap, HashSet};

use super::open::{OpenValue, unpack};
use crate::catalog::model::{Catalog, Domain};
use crate::engine::ruleset::Ruleset;
use crate::rule::packed::PackedCodes;
use crate::store::{Store, StoreError, TagShortId};
use crate::user::schema::Schema;
use crate::user::snapshot::{SnapshotError, TagsOnly};
use crate::user::stored::StoredLayout;

/// Keys of schemas in the store begin with this.
pub const SCHEMA_PREFIX: &str = "schema/";

/// Key of a schema in the store.
pub fn schema_key(id: u64) -> String {
    format!("{SCHEMA_PREFIX}{id:016x}")
}

/// A stored schema, resolved against the present ruleset.
#[derive(Debug)]
pub struct StoredSchema {
    /// How rows are read.
    pub layout: StoredLayout,
    packing: PackedCodes,
    /// For each present closed tag its place among the stored codes.
    closed: Vec<Option<usize>>,
    /// For each present open tag its place among the stored values.
    open: Vec<Option<usize>>,
    same: bool,
    cells: CellsBefore,
}

/// How the tag cells that were written with a stored schema differ from those that are published now.
#[derive(Debug, Default)]
struct CellsBefore {
    /// Of tags that are not published any more: id, and place among the closed ones.
    closed: Vec<(TagShortId, usize)>,
    /// The same of open ones.
    open: Vec<(TagShortId, usize)>,
    /// Tags are published that were computed already, and had no cells.
    appears: bool,
}

impl CellsBefore {
    fn new(schema: &Schema, ruleset: &Ruleset) -> Self {
        if schema.closed == ruleset.schema.closed
            && schema.open == ruleset.schema.open
            && schema.hidden == ruleset.schema.hidden
        {
            return Self::default();
        }
        let published: HashSet<&str> = ruleset.published.iter().map(|t| t.id.as_ref()).collect();
        let hidden: HashSet<&str> = schema.hidden.iter().map(String::as_str).collect();
        let gone = |ids: &[String]| -> Vec<(TagShortId, usize)> {
            let had = ids.iter().enumerate().filter(|(_, id)| !hidden.contains(id.as_str()));
            let gone = had.filter(|(_, id)| !published.contains(id.as_str()));
            gone.map(|(at, id)| (id.as_str().into(), at)).collect()
        };
        Self {
            closed: gone(&schema.closed),
            open: gone(&schema.open),
            appears: hidden.iter().any(|id| published.contains(id)),
        }
    }
}

impl StoredSchema {
    /// Finds each present tag in a stored schema by its id.
    pub fn new(schema: &Schema, ruleset: &Ruleset) -> Self {
        let find = |have: &[String], want: &[String]| -> Vec<Option<usize>> {
            let places: HashMap<&str, usize> =
                have.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
            want.iter().map(|id| places.get(id.as_str()).copied()).collect()
        };
        Self {
            layout: StoredLayout::new(schema, &ruleset.layout),
            packing: PackedCodes::new(&schema.bits),
            closed: find(&schema.closed, &ruleset.schema.closed),
            open: find(&schema.open, &ruleset.schema.open),
            same: schema.closed == ruleset.schema.closed
                && schema.bits == ruleset.schema.bits
                && schema.open == ruleset.schema.open,
            cells: CellsBefore::new(schema, ruleset),
        }
    }

    /// Where a present closed tag's code stands among those stored.
    pub fn closed_place(&self, closed: usize) -> Option<usize> {
        self.closed.get(closed).copied().flatten()
    }

    /// Where a present open tag's value stands among those stored.
    pub fn open_place(&self, open: usize) -> Option<usize> {
        self.open.get(open).copied().flatten()
    }

    /// Whether tags that are published now were computed already and had no cells, because they were in
    /// the shadow or all cells were left out: a user's cells are all to be written then.
    pub fn lacks_cells(&self) -> bool {
        self.cells.appears
    }

    /// Tags that are not published any more, and have a value in this profile: their cells are to be
    /// emptied.
    pub fn leftover_cells(&self, tags: &TagsOnly<'_>) -> Vec<TagShortId> {
        let CellsBefore { closed, open, .. } = &self.cells;
        let closed = closed.iter().filter(|(_, at)| self.packing.get(tags.codes, *at) > 0);
        let mut left: Vec<TagShortId> = closed.map(|(id, _)| TagShortId::clone(id)).collect();
        if !open.is_empty() {
            let values = unpack(tags.open);
            let open = open.iter().filter(|(_, at)| values.get(*at).is_some_and(Option::is_some));
            left.extend(open.map(|(id, _)| TagShortId::clone(id)));
        }
        left
    }

    /// The codes in the order of the present closed tags; tags that are new have no value.
    pub fn codes(&self, tags: &TagsOnly<'_>) -> Box<[u8]> {
        if self.same {
            return self.packing.unpack(tags.codes);
        }
        let code = |at: &Option<usize>| at.map_or(0, |at| self.packing.get(tags.codes, at));
        self.closed.iter().map(code).collect()
    }

    /// The same, packed as the present ruleset does.
    pub fn packed_codes(&self, tags: &TagsOnly<'_>, present: &PackedCodes) -> Box<[u8]> {
        if self.same { tags.codes.into() } else { present.pack(&self.codes(tags)) }
    }

    /// The open values in the order of the present open tags.
    pub fn open_values(&self, tags: &TagsOnly<'_>) -> Vec<Option<OpenValue>> {
        let values = unpack(tags.open);
        if self.same {
            return values;
        }
        self.open.iter().map(|at| at.and_then(|at| values.get(at)).cloned().flatten()).collect()
    }

    /// The packed open values in the order of the present open tags.
    pub fn open_bytes(&self, tags: &TagsOnly<'_>) -> Box<[u8]> {
        if self.same {
            return tags.open.into();
        }
        let values = self.open_values(tags);
        if values.is_empty() {
            return Box::default();
        }
        postcard::to_stdvec(&values).expect("plain data into a growing buffer always fits").into()
    }
}

/// The schemas of a store, read once each.
#[derive(Debug, Default)]
pub struct Schemas {
    known: Mutex<HashMap<u64, Arc<StoredSchema>>>,
}

/// A profile whose schema cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A user's events stand in partitions of several numbers.
    #[error(
        "events of user `{uid}` came in partition {had}, and now in partition {now}: topics have to \
         be keyed by uid, by one partitioner, with one number of partitions. `tagloom relay` rewrites \
         topics that are not"
    )]
    OtherPartition {
        /// Whose.
        uid: String,
        /// Of the profile.
        had: u32,
        /// Of an event.
        now: u32,
    },
    /// Another process works for a user whose first record came here.
    #[error(
        "user `{uid}` came from files, and by source.partitioner its records come in partition {home}, \
         whose owner works for it; this one came in partition {now}: set source.partitioner to what the \
         producers of these topics use (murmur2: Java's clients, crc32: librdkafka's, none: another one) in \
         all processes, and start them again when none runs"
    )]
    OtherHome {
        /// Whose.
        uid: String,
        /// Where its records were expected.
        home: u32,
        /// Where one came.
        now: u32,
    },
}

impl Schemas {
    /// The schema with this id.
    pub fn get(
        &self,
        id: u64,
        ruleset: &Ruleset,
        store: &dyn Store,
    ) -> Result<Arc<StoredSchema>, ProfileError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known.get(&id) {
            return Ok(Arc::clone(schema));
        }
        let schema = if id == ruleset.schema_id {
            StoredSchema::new(&ruleset.schema, ruleset)
        } else {
            let bytes = store.meta(&schema_key(id))?.ok_or(SnapshotError::UnknownSchema(id))?;
            let schema: Schema = serde_json::from_slice(&bytes)
                .map_err(|e| SnapshotError::Damaged(format!("schema {id:016x}: {e}")))?;
            StoredSchema::new(&schema, ruleset)
        };
        let schema = Arc::new(schema);
        known.insert(id, Arc::clone(&schema));
        Ok(schema)
    }
}

/// Labels of all tags that have a value, by tag name.
pub fn labels(
    catalog: &Catalog,
    ruleset: &Ruleset,
    codes: &[u8],
    open: &[Option<OpenValue>],
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (tag, code) in ruleset.plan.closed_tags().iter().zip(codes) {
        if let Some(label) = label_of(&catalog.tags[*tag].domain, *code) {
            out.insert(catalog.tags[*tag].name.clone(), label.to_owned());
        }
    }
    for (tag, value) in ruleset.plan.open_tags().iter().zip(open) {
        if let Some(value) = value {
            out.insert(catalog.tags[*tag].name.clone(), value.label());
        }
    }
    out
}

/// The label of a closed tag's code; `None` for "no value".
pub fn label_of(domain: &Domain, code: u8) -> Option<&str> {
    match domain {
        Domain::Closed { labels, .. } => {
            usize::from(code).checked_sub(1).and_then(|at| labels.get(at)).map(String::as_str)
        }
        Domain::Open(_) => None,
    }
}
