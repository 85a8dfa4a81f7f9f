//! A catalogue, compiled for the engine.
//!
//! In: a checked catalogue. Out: layout, plan, schema, and which input column is what.
//! Invariant: no I/O but for a schema that is saved when asked; one ruleset serves all shards.

use std::sync::Arc;

use arrow::datatypes::DataType;

use crate::catalog::model::{Catalog, ColumnType, Span};
use crate::rule::closed::ClosedRule;
use crate::rule::plan::code_bits;
use crate::rule::{InputField, Plan, PlanError};
use crate::store::{Store, StoreError, TagShortId};
use crate::user::layout::{LayoutError, StateLayout};
use crate::user::lineage::Lineage;
use crate::user::schema::Schema;
use crate::write::profile::schema_key;

/// Everything the engine needs to know of a catalogue.
#[derive(Debug)]
pub struct Ruleset {
    /// The catalogue itself.
    pub catalog: Arc<Catalog>,
    /// How states are kept.
    pub layout: Arc<StateLayout>,
    /// All tags as one plan over features, then dimension columns.
    pub plan: Plan,
    /// When an account is closed, where the catalogue says so.
    pub closed: Option<ClosedRule>,
    /// How profiles written with this ruleset are to be read.
    pub schema: Schema,
    /// Its id.
    pub schema_id: u64,
    /// The same where a store's tag cells are left out, and its id: see [`Ruleset::schema_in`].
    pub without_cells: (u64, Schema),
    /// Types of the feature columns.
    pub feature_types: Vec<DataType>,
    /// For each dimension the index of its first input column.
    pub dimension_inputs: Vec<usize>,
    /// The number of its version in the store; 0 without a store.
    pub version: u32,
    /// Tags that others may see, as cells of a store name them.
    pub published: Vec<PublishedTag>,
    /// Ids of tags that they may not, or not any more.
    pub unpublished: Vec<TagShortId>,
}

/// A tag that others may see.
#[derive(Debug, Clone)]
pub struct PublishedTag {
    /// Index among the catalogue's tags.
    pub tag: usize,
    /// Its id in `ids.lock`.
    pub id: TagShortId,
    /// Where its value stands.
    pub place: TagPlace,
}

/// Where a tag's value stands in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagPlace {
    /// Among the codes of closed tags.
    Closed(usize),
    /// Among the values of open tags.
    Open(usize),
}

/// A checked catalogue that still cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RulesetError {
    /// Its state cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its tags cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Tags without id.
    #[error("ids.lock is behind the rules ({0}); run `tagloom check --write` and commit ids.lock")]
    LockBehind(String),
}

impl Ruleset {
    /// Compiles a catalogue for reading only: tags that have no id yet get one for the time being.
    pub fn provisional(mut catalog: Catalog) -> Result<Self, RulesetError> {
        give_provisional_ids(&mut catalog);
        Self::new(catalog)
    }

    /// Compiles a catalogue for an empty store, or for none. Tags without an id in `ids.lock` are
    /// refused.
    pub fn new(catalog: Catalog) -> Result<Self, RulesetError> {
        Self::with(catalog, &Lineage::default())
    }

    /// Compiles a catalogue for a store that knows some of its partials.
    pub fn with(catalog: Catalog, lineage: &Lineage) -> Result<Self, RulesetError> {
        if let Some(tag) = catalog.tags.iter().find(|t| t.id.is_empty()) {
            return Err(RulesetError::LockBehind(format!("tag `{}` has no id", tag.name)));
        }
        let layout = Arc::new(StateLayout::new(&catalog, lineage)?);
        let coded = |data_type: &DataType| match data_type {
            DataType::Utf8 => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            other => other.clone(),
        };
        let mut inputs: Vec<InputField> = catalog
            .features
            .iter()
            .map(|f| InputField {
                name: f.name.clone(),
                data_type: coded(&f.data_type),
                rolling: matches!(f.span, Span::Rolling { .. }),
            })
            .collect();
        let feature_types = catalog.features.iter().map(|f| f.data_type.clone()).collect();
        let mut dimension_inputs = Vec::with_capacity(catalog.dimensions.len());
        for dimension in &catalog.dimensions {
            dimension_inputs.push(inputs.len());
            inputs.extend(dimension.columns.iter().map(|c| InputField {
                name: c.name.clone(),
                data_type: coded(&column_type(&c.kind, &catalog)),
                rolling: false,
            }));
        }
        let closed = ClosedRule::new(&catalog, &inputs)?;
        let plan = Plan::compile(&catalog, &inputs)?;
        let ids = |tags: &[usize]| tags.iter().map(|t| catalog.tags[*t].id.clone()).collect();
        let bits = catalog.tags.iter().filter_map(code_bits).collect();
        let shadow = catalog.tags.iter().filter(|t| t.terms.shadow).map(|t| t.id.clone());
        let schema = Schema::new(&layout, ids(plan.closed_tags()), bits, ids(plan.open_tags()))
            .with_hidden(shadow.collect());
        let all = schema.closed.iter().chain(&schema.open).cloned().collect();
        let without_cells = schema.clone().with_hidden(all);
        let published = published(&catalog, &plan);
        let removed = catalog.removed.iter().map(|(_, id)| id.as_str());
        let unpublished = removed.chain(schema.hidden.iter().map(String::as_str));
        Ok(Self {
            unpublished: unpublished.map(Into::into).collect(),
            published,
            schema_id: schema.id(),
            schema,
            without_cells: (without_cells.id(), without_cells),
            plan,
            closed,
            layout,
            feature_types,
            dimension_inputs,
            version: 0,
            catalog: Arc::new(catalog),
        })
    }

    /// The schema by which profiles of a store are written, and its id. Where tag cells are left out on
    /// purpose it says that nobody sees any tag, so that whoever writes cells again knows of each user
    /// that all of them are missing.
    pub fn schema_in(&self, store: &dyn Store) -> (u64, &Schema) {
        match (store.leaves_out_cells(), &self.without_cells) {
            (true, (id, schema)) => (*id, schema),
            (false, _) => (self.schema_id, &self.schema),
        }
    }

    /// Writes how profiles of a store are to be read that are written by these rules: before the first
    /// of them.
    pub fn save_schema(&self, store: &dyn Store) -> Result<(), StoreError> {
        let (id, schema) = self.schema_in(store);
        store.put_meta(&schema_key(id), serde_json::to_vec(schema).unwrap_or_default())
    }
}

/// All tags but those in the shadow.
fn published(catalog: &Catalog, plan: &Plan) -> Vec<PublishedTag> {
    let place = |places: &[usize], tag: usize| places.iter().position(|t| *t == tag);
    let tags = catalog.tags.iter().enumerate().filter(|(_, t)| !t.terms.shadow);
    let tag = |(tag, t): (usize, &crate::catalog::model::Tag)| {
        let closed = place(plan.closed_tags(), tag).map(TagPlace::Closed);
        let place = closed.or_else(|| place(plan.open_tags(), tag).map(TagPlace::Open))?;
        Some(PublishedTag { tag, id: t.id.as_str().into(), place })
    };
    tags.filter_map(tag).collect()
}

/// Ids for the time being, for tags that have none.
pub(super) fn give_provisional_ids(catalog: &mut Catalog) {
    for (at, tag) in catalog.tags.iter_mut().enumerate().filter(|(_, t)| t.id.is_empty()) {
        tag.id = format!("new {at}");
    }
}

fn column_type(kind: &ColumnType, catalog: &Catalog) -> DataType {
    kind.data_type(&catalog.zone)
}
