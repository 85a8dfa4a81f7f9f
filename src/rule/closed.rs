//! Whether a user's account is closed: the `closed:` of a catalogue.
//!
//! In: the plan's input columns. Out: one answer a user, and from when time alone may change it. The
//! condition is a tag that nobody sees, planned with the tags it reads and no others.
//! Invariant: no clock; a condition that is not true, NULL included, leaves the account open.

use arrow::array::ArrayRef;

use super::why::Focus;
use super::{AsOf, InputField, PlanError, Scratch, TagBatch};
use crate::catalog::model::{Catalog, Domain, Tag, TypedExpr};
use crate::catalog::terms::Terms;

/// No tag has this name: names have no blanks.
const NAME: &str = "account closed";

/// Code of `true`: see [`Domain::Closed`].
const TRUE: u8 = 2;

/// The condition, compiled.
#[derive(Debug)]
pub struct ClosedRule {
    focus: Focus,
    /// Index among the focus's closed tags.
    place: usize,
}

/// What is reused from batch to batch.
#[derive(Debug, Default)]
pub struct ClosedBatch {
    tags: TagBatch,
    scratch: Scratch,
}

impl ClosedRule {
    /// Compiles the condition; none where the catalogue has none. `inputs`: those of its plan.
    pub fn new(catalog: &Catalog, inputs: &[InputField]) -> Result<Option<Self>, PlanError> {
        let Some(expr) = &catalog.closed else { return Ok(None) };
        let mut with = catalog.clone();
        with.tag_order.push(with.tags.len());
        with.tags.push(hidden(expr));
        let focus = Focus::new(&with, inputs, catalog.tags.len())?;
        let place = focus.plan.closed_tags().iter().position(|tag| *tag == focus.tag);
        Ok(place.map(|place| Self { focus, place }))
    }

    /// Decides it for `rows` users, whose inputs these are.
    pub fn evaluate(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf, batch: &mut ClosedBatch) {
        let ClosedBatch { tags, scratch } = batch;
        self.focus.plan.evaluate_into(inputs, rows, as_of, &[], scratch, tags);
    }

    /// Whether the account of a batch's row is closed.
    pub fn holds(&self, batch: &ClosedBatch, row: usize) -> bool {
        self.focus.plan.packing().get(batch.tags.codes_of(row), self.place) == TRUE
    }

    /// The condition as written.
    pub fn sql(&self) -> &str {
        &self.focus.tags[self.focus.tag].expr.sql
    }
}

impl ClosedBatch {
    /// The condition and what it reads, as tags: when time alone may change it is when they may.
    pub fn tags(&self) -> &TagBatch {
        &self.tags
    }
}

fn hidden(expr: &TypedExpr) -> Tag {
    Tag {
        name: NAME.to_owned(),
        doc: String::new(),
        owner: String::new(),
        group: String::new(),
        meta: std::collections::BTreeMap::new(),
        expr: expr.clone(),
        domain: Domain::Closed { labels: vec!["false".into(), "true".into()], bool: true },
        id: String::new(),
        was: Vec::new(),
        terms: Terms::default(),
        place: expr.place,
    }
}
