//! Gathers what all tags share while they are compiled one after the other.
//!
//! In: names and expressions. Out: lanes, leaves and tables without repeats.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::DFSchema;
use datafusion_expr::Expr;
use hashbrown::HashMap;

use super::leaf::{Cases, Cond, LaneSpec, Leaf, Source};
use super::{InputField, Program};
use crate::catalog::model::{Catalog, Domain, TypedExpr};
use crate::catalog::place::Place;
use crate::rule::kernels::coded::{Codes, Table};
use crate::rule::kernels::lane::{Forms, LaneKind};
use crate::rule::kernels::step::Step;
use crate::rule::safe::SafeExpr;

/// A step function with more steps than this stays a list of conditions.
const STEPS_MAX: usize = 4096;

pub(super) struct Builder<'a> {
    pub(super) names: HashMap<&'a str, Source>,
    inputs: &'a [InputField],
    catalog: &'a Catalog,
    schema: DFSchema,
    pub(super) lanes: Vec<LaneSpec>,
    pub(super) leaves: Vec<Leaf>,
    leaf_index: HashMap<Leaf, usize>,
    /// Per input.
    pub(super) tables: Vec<Vec<Table>>,
    table_index: HashMap<(usize, String), usize>,
}

/// Texts are dictionaries outside and plain strings inside of expressions.
pub(super) fn inner_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        catalog: &'a Catalog,
        inputs: &'a [InputField],
        names: HashMap<&'a str, Source>,
        schema: DFSchema,
    ) -> Self {
        Self {
            names,
            inputs,
            catalog,
            schema,
            lanes: Vec::new(),
            leaves: Vec::new(),
            leaf_index: HashMap::new(),
            tables: vec![Vec::new(); inputs.len()],
            table_index: HashMap::new(),
        }
    }

    pub(super) fn schema(&self) -> &DFSchema {
        &self.schema
    }

    pub(super) fn source(&self, name: &str) -> Option<Source> {
        self.names.get(name).copied()
    }

    pub(super) fn column(&self, expr: &Expr) -> Option<Source> {
        if let Expr::Column(column) = expr { self.source(&column.name) } else { None }
    }

    pub(super) fn input_type(&self, input: usize) -> &DataType {
        &self.inputs[input].data_type
    }

    /// Whether a source is a text column or a closed tag: few values, known by small numbers.
    pub(super) fn is_coded(&self, source: Source) -> bool {
        match source {
            Source::Input(input) => matches!(self.input_type(input), DataType::Dictionary(..)),
            Source::Tag(tag) => matches!(self.catalog.tags[tag].domain, Domain::Closed { .. }),
            Source::AsOf | Source::AsOfDate => false,
        }
    }

    pub(super) fn leaf(&mut self, leaf: Leaf) -> Cond {
        let next = self.leaves.len();
        let index = *self.leaf_index.entry(leaf.clone()).or_insert(next);
        if index == next {
            self.leaves.push(leaf);
        }
        Cond::Leaf(index)
    }

    pub(super) fn add_lane(&mut self, input: usize, kind: LaneKind) -> usize {
        let known = self.lanes.iter().position(|l| l.input == input && l.kind == kind);
        known.unwrap_or_else(|| {
            let forms = Forms::default();
            self.lanes.push(LaneSpec { input, kind, forms, boundaries: Vec::new() });
            self.lanes.len() - 1
        })
    }

    pub(super) fn lane_kind(&self, lane: usize) -> LaneKind {
        self.lanes[lane].kind
    }

    /// The table of `expr` over the texts of an input.
    pub(super) fn table(&mut self, input: usize, expr: &Expr, codes: Codes) -> Option<usize> {
        let key = (input, format!("{codes:?} {expr:?}"));
        if let Some(table) = self.table_index.get(&key) {
            return Some(*table);
        }
        let field = Field::new(&self.inputs[input].name, DataType::Utf8, true);
        let expr = self.over(expr, &field, &codes)?;
        self.tables[input].push(Table { expr, codes });
        let table = self.tables[input].len() - 1;
        self.table_index.insert(key, table);
        Some(table)
    }

    /// What `expr` gives for each code of a tag, 0 (no value) first.
    pub(super) fn table_of_tag(&self, tag: usize, expr: &Expr, codes: &Codes) -> Option<Vec<u8>> {
        let tag = &self.catalog.tags[tag];
        let Domain::Closed { labels, bool } = &tag.domain else { return None };
        let values: ArrayRef = if *bool {
            Arc::new(BooleanArray::from(vec![None, Some(false), Some(true)]))
        } else {
            let labels = labels.iter().map(|l| Some(l.as_str()));
            Arc::new(std::iter::once(None).chain(labels).collect::<StringArray>())
        };
        let field = Field::new(&tag.name, values.data_type().clone(), true);
        let safe = self.over(expr, &field, codes)?;
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values]).ok()?;
        let mut out = Vec::new();
        codes.put(&safe.evaluate(&batch).array, &mut out);
        Some(out)
    }

    fn over(&self, expr: &Expr, field: &Field, codes: &Codes) -> Option<SafeExpr> {
        let data_type = match codes {
            Codes::Labels(_) => DataType::Utf8,
            Codes::Bool(..) => DataType::Boolean,
        };
        let typed = TypedExpr {
            expr: expr.clone(),
            data_type,
            columns: vec![field.name().clone()],
            sql: expr.to_string(),
            place: Place::default(),
        };
        SafeExpr::new(&typed, &Arc::new(Schema::new(vec![field.clone()]))).ok()
    }

    /// The kernel of a closed tag, if it has one.
    pub(super) fn program(&mut self, expr: &Expr, codes: &Codes) -> Option<Program> {
        if let Some(Source::Input(input)) = self.only_text_source(expr) {
            let table = self.table(input, expr, codes.clone())?;
            return Some(Program::Table { input, table });
        }
        let cases = self.cases(expr, codes)?;
        Some(self.step(&cases).unwrap_or(Program::Cases(cases)))
    }

    /// Cases over one lane are a step function of it.
    fn step(&self, cases: &Cases) -> Option<Program> {
        let leaves = cases.leaves();
        let lane = leaves.iter().find_map(|l| match self.leaves[*l] {
            Leaf::Range { lane, .. } => Some(lane),
            _ => None,
        })?;
        let input = self.lanes[lane].input;
        let mut cuts = Vec::new();
        for leaf in leaves {
            match self.leaves[leaf] {
                Leaf::Range { lane: l, lo, hi, .. } if l == lane => cuts.extend(bounds(lo, hi)),
                Leaf::Valid { input: i, .. } if i == input => {}
                _ => return None,
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        if cuts.len() > STEPS_MAX {
            return None;
        }
        let at = |value: Option<i64>| {
            cases.decide(&|leaf| match self.leaves[leaf] {
                Leaf::Range { lo, hi, negated, .. } => value.is_some_and(|v| {
                    (lo.is_none_or(|lo| v >= lo) && hi.is_none_or(|hi| v <= hi)) != negated
                }),
                Leaf::Valid { negated, .. } => value.is_some() != negated,
                _ => false,
            })
        };
        let first = cuts.first().map_or(0, |c| c - 1);
        let values = std::iter::once(first).chain(cuts.iter().copied());
        let mut codes = vec![];
        let mut kept = vec![];
        for value in values {
            let code = at(Some(value));
            if codes.last() != Some(&code) {
                if !codes.is_empty() {
                    kept.push(value);
                }
                codes.push(code);
            }
        }
        Some(Program::Step {
            lane,
            narrow: None,
            wide: Step { cuts: kept, codes, null_code: at(None) },
        })
    }
}

/// Where `lo <= x <= hi` changes: the least x of each side.
pub(super) fn bounds(lo: Option<i64>, hi: Option<i64>) -> impl Iterator<Item = i64> {
    let empty = matches!((lo, hi), (Some(lo), Some(hi)) if lo > hi);
    let after = hi.and_then(|hi| hi.checked_add(1));
    [lo, after].into_iter().flatten().filter(move |_| !empty)
}
