//! What a stream's row expressions read: its columns and derived columns, as Arrow arrays.
//!
//! In: columns of a batch. Out: one array for each name, made once a batch and only when asked for.
//! A derived column over one text column is computed once for each distinct text.
//! Invariant: no I/O.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Expr;

use super::column::{Column, Values};
use super::dictionary::Dictionary;
use crate::catalog::model::{Derived, Stream, TypedExpr};
use crate::clock::Zone;
use crate::rule::guard::guarded;
use crate::rule::safe::{NotExecutable, SafeExpr};

/// An expression with the schema it was planned for.
#[derive(Debug)]
pub(super) struct Planned {
    expr: SafeExpr,
    schema: SchemaRef,
}

impl Planned {
    /// Plans an expression over inputs with these names and types.
    pub(super) fn new(
        expr: &TypedExpr,
        reads: impl Iterator<Item = (String, DataType)>,
    ) -> Result<Self, NotExecutable> {
        let fields: Vec<Field> =
            reads.map(|(name, data_type)| Field::new(name, data_type, true)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        Ok(Self { expr: SafeExpr::new(expr, &schema)?, schema })
    }

    /// The values, and for how many rows there was none to compute.
    pub(super) fn evaluate(&self, arrays: Vec<ArrayRef>, rows: usize) -> (ArrayRef, u64) {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        match RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options) {
            Ok(batch) => {
                let evaluated = self.expr.evaluate(&batch);
                (evaluated.array, evaluated.failed_rows)
            }
            // The schema was made from these inputs; were it not, NULL is the honest answer.
            Err(_) => (arrow::array::new_null_array(&DataType::Boolean, rows), rows as u64),
        }
    }

    /// The values for the texts of codes `from..` of a dictionary.
    pub(super) fn of_texts(&self, dictionary: &Dictionary, from: usize) -> (ArrayRef, u64) {
        let texts: StringArray = (from..dictionary.len()).map(|c| dictionary.text(c)).collect();
        let rows = texts.len();
        self.evaluate(vec![Arc::new(texts)], rows)
    }
}

#[derive(Debug)]
enum Way {
    Column(usize),
    /// Over one text column: values by code.
    ByCode {
        column: usize,
        planned: Planned,
        known: Option<ArrayRef>,
        generation: u64,
    },
    /// Over several inputs.
    Rows {
        reads: Vec<usize>,
        planned: Planned,
    },
}

#[derive(Debug)]
struct Input {
    name: String,
    data_type: DataType,
    /// Source columns it depends on.
    roots: Vec<usize>,
    way: Way,
    /// This batch's values.
    array: Option<ArrayRef>,
}

/// All inputs of a stream.
#[derive(Debug)]
pub(super) struct Inputs {
    inputs: Vec<Input>,
    derived: Vec<Derived>,
    zone: Zone,
    /// Derived values that could not be computed.
    pub(super) failed: u64,
}

/// What an expression reads.
pub(super) enum Reads {
    /// One text column: the expression, with derived columns replaced, can be computed by code.
    OneText(usize, TypedExpr),
    /// These inputs.
    Inputs(Vec<usize>),
}

impl Inputs {
    /// `sources`: for each declared column its source column.
    pub(super) fn new(
        stream: &Stream,
        sources: &[usize],
        columns: &[Column],
        zone: &Zone,
    ) -> Result<Self, NotExecutable> {
        let mut inputs = Self {
            inputs: Vec::new(),
            derived: stream.derive.clone(),
            zone: zone.clone(),
            failed: 0,
        };
        for (column, source) in stream.columns.iter().zip(sources) {
            inputs.inputs.push(Input {
                name: column.name.clone(),
                data_type: column.kind.data_type(zone),
                roots: vec![*source],
                way: Way::Column(*source),
                array: None,
            });
        }
        for derived in &stream.derive {
            let roots = inputs.roots(&derived.expr);
            let way = match inputs.reads(&derived.expr, columns) {
                Reads::OneText(column, expr) => Way::ByCode {
                    column,
                    planned: inputs.plan_text(&expr)?,
                    known: None,
                    generation: u64::MAX,
                },
                Reads::Inputs(reads) => {
                    Way::Rows { planned: inputs.plan(&derived.expr, &reads)?, reads }
                }
            };
            let (name, data_type) = (derived.name.clone(), derived.expr.data_type.clone());
            inputs.inputs.push(Input { name, data_type, roots, way, array: None });
        }
        Ok(inputs)
    }

    /// The input with this name, and its source column if it is one.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        let found = self.inputs.iter().find(|i| i.name == name)?;
        match found.way {
            Way::Column(at) => Some(at),
            _ => None,
        }
    }

    fn roots(&self, expr: &TypedExpr) -> Vec<usize> {
        let read = self.inputs.iter().filter(|i| expr.columns.contains(&i.name));
        let mut roots: Vec<usize> = read.flat_map(|i| i.roots.iter().copied()).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// How an expression is best computed.
    pub(super) fn reads(&self, expr: &TypedExpr, columns: &[Column]) -> Reads {
        if let [root] = self.roots(expr)[..]
            && matches!(columns[root].values, Values::Text(..))
        {
            return Reads::OneText(root, inline(expr, &self.derived));
        }
        let read = |i: &usize| expr.columns.contains(&self.inputs[*i].name);
        Reads::Inputs((0..self.inputs.len()).filter(read).collect())
    }

    /// Plans an expression over inputs.
    pub(super) fn plan(&self, expr: &TypedExpr, reads: &[usize]) -> Result<Planned, NotExecutable> {
        let fields = reads.iter().map(|i| {
            let input = &self.inputs[*i];
            (input.name.clone(), input.data_type.clone())
        });
        Planned::new(expr, fields)
    }

    /// Plans an expression that reads one text column.
    pub(super) fn plan_text(&self, expr: &TypedExpr) -> Result<Planned, NotExecutable> {
        Planned::new(expr, expr.columns.iter().map(|name| (name.clone(), DataType::Utf8)))
    }

    /// Forgets the last batch.
    pub(super) fn clear(&mut self) {
        self.inputs.iter_mut().for_each(|i| i.array = None);
    }

    /// Arrays of these inputs for the batch in `columns`.
    pub(super) fn arrays(
        &mut self,
        reads: &[usize],
        columns: &[Column],
        rows: usize,
    ) -> Vec<ArrayRef> {
        reads.iter().map(|at| self.array(*at, columns, rows)).collect()
    }

    fn array(&mut self, at: usize, columns: &[Column], rows: usize) -> ArrayRef {
        if let Some(array) = &self.inputs[at].array {
            return Arc::clone(array);
        }
        let reads = match &self.inputs[at].way {
            Way::Rows { reads, .. } => reads.clone(),
            _ => Vec::new(),
        };
        let inputs = self.arrays(&reads, columns, rows);
        let (array, failed) = match &mut self.inputs[at].way {
            Way::Column(column) => (columns[*column].array(&self.zone), 0),
            Way::Rows { planned, .. } => planned.evaluate(inputs, rows),
            Way::ByCode { column, planned, known, generation } => {
                by_code(&columns[*column], planned, known, generation)
            }
        };
        self.failed += failed;
        self.inputs[at].array = Some(Arc::clone(&array));
        array
    }
}

fn by_code(
    column: &Column,
    planned: &Planned,
    known: &mut Option<ArrayRef>,
    generation: &mut u64,
) -> (ArrayRef, u64) {
    let null = |rows| (arrow::array::new_null_array(&DataType::Utf8, rows), 0);
    let Values::Text(codes, dictionary) = &column.values else { return null(column.len()) };
    if *generation != dictionary.generation {
        *known = None;
        *generation = dictionary.generation;
    }
    let from = known.as_ref().map_or(0, |k| k.len());
    let mut failed = 0;
    if from < dictionary.len() {
        let (new, wrong) = planned.of_texts(dictionary, from);
        failed = wrong;
        let joined = match known.as_ref() {
            None => Ok(new),
            Some(old) => arrow::compute::concat(&[old, &new]),
        };
        // Both parts are values of one expression: they have one type.
        *known = joined.ok();
    }
    let Some(values) = known else { return null(codes.len()) };
    let codes = UInt32Array::from(codes.clone());
    // Codes are indices of the dictionary, and `known` is as long as it.
    arrow::compute::take(values, &codes, None).map_or_else(|_| null(codes.len()), |a| (a, failed))
}

/// The expression with derived columns replaced by what they stand for: NULL where that cannot be
/// computed, like any column without a value.
fn inline(expr: &TypedExpr, derived: &[Derived]) -> TypedExpr {
    let mut inlined = expr.expr.clone();
    // A derived column reads only those before it: replacing from the last on reaches all.
    for d in derived.iter().rev() {
        let replaced = inlined.clone().transform_up(|e| match &e {
            Expr::Column(c) if c.name == d.name => {
                Ok(Transformed::yes(guarded(d.expr.expr.clone())))
            }
            _ => Ok(Transformed::no(e)),
        });
        if let Ok(done) = replaced {
            inlined = done.data;
        }
    }
    let mut columns: Vec<String> =
        inlined.column_refs().into_iter().map(|c| c.name.clone()).collect();
    columns.sort();
    columns.dedup();
    TypedExpr { expr: inlined, columns, ..expr.clone() }
}
