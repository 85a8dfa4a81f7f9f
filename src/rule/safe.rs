//! DataFusion's physical expressions, made so that a row cannot fail its batch.
//!
//! In: a [`TypedExpr`] and the schema of the batches it will see; then batches. Out: one value per
//! row; a row that cannot be computed (division by zero, cast, overflow) is NULL and counted.
//! Invariant: integers never wrap; the result has the batch's length and exactly the expression's
//! type.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr, Operator};
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::guard::guard;
use crate::catalog::model::TypedExpr;

/// An expression that DataFusion cannot execute over the given schema.
#[derive(Debug, thiserror::Error)]
#[error("`{sql}` cannot be executed: {reason}")]
pub struct NotExecutable {
    /// The expression.
    pub sql: String,
    /// DataFusion's words.
    pub reason: String,
}

/// One value per row, and for how many rows there was none to compute.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// As long as the batch, of exactly the expression's type.
    pub array: ArrayRef,
    /// Rows that could not be computed; NULL in `array`.
    pub failed_rows: u64,
}

/// An expression ready to run over batches of one schema.
#[derive(Debug, Clone)]
pub struct SafeExpr {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    /// Rows for which a guarded part could not be computed, since it was last asked.
    guarded: Arc<AtomicU64>,
}

impl SafeExpr {
    /// Plans `expr` over batches of `schema`, in which its columns are found by name.
    pub fn new(expr: &TypedExpr, schema: &SchemaRef) -> Result<Self, NotExecutable> {
        let failed = |e: DataFusionError| NotExecutable {
            sql: expr.sql.clone(),
            reason: e.strip_backtrace(),
        };
        let df_schema = DFSchema::try_from(schema.as_ref().clone()).map_err(failed)?;
        let guarded = Arc::default();
        let physical = physical(&expr.expr, &df_schema, &guarded).map_err(failed)?;
        Ok(Self { expr: physical, data_type: expr.data_type.clone(), guarded })
    }

    /// The values for a batch. Costs one evaluation when no row fails.
    pub fn evaluate(&self, batch: &RecordBatch) -> Evaluated {
        let attempt = |part: &RecordBatch| {
            let before = self.guarded.load(Ordering::Relaxed);
            let array = self.attempt(part);
            if array.is_err() {
                // What it counted is counted again when its halves are tried.
                self.guarded.store(before, Ordering::Relaxed);
            }
            array
        };
        let mut evaluated = null_where_it_fails(batch, &self.data_type, &attempt);
        evaluated.failed_rows += self.guarded.swap(0, Ordering::Relaxed);
        evaluated
    }

    fn attempt(&self, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        let value = self.expr.evaluate(batch)?;
        let array = value.into_array(batch.num_rows())?;
        if array.data_type() == &self.data_type {
            return Ok(array);
        }
        Ok(cast(&array, &self.data_type)?)
    }
}

/// Values of parts of a batch.
type Attempt<'a> = &'a dyn Fn(&RecordBatch) -> Result<ArrayRef, DataFusionError>;

/// The values `attempt` gives, NULL for the rows that alone make it fail.
pub(super) fn null_where_it_fails(
    batch: &RecordBatch,
    data_type: &DataType,
    attempt: Attempt<'_>,
) -> Evaluated {
    if let Ok(array) = attempt(batch) {
        return Evaluated { array, failed_rows: 0 };
    }
    let mut parts = Parts { done: Vec::new(), nulls: 0, data_type, failed: 0 };
    bisect(batch, attempt, &mut parts);
    parts.flush();
    let failed_rows = parts.failed;
    let arrays: Vec<&dyn Array> = parts.done.iter().map(AsRef::as_ref).collect();
    // Parts are of one type and together as long as the batch; were they not, NULL is still the
    // honest answer.
    match concat(&arrays) {
        Ok(array) if array.len() == batch.num_rows() => Evaluated { array, failed_rows },
        _ => Evaluated {
            array: new_null_array(data_type, batch.num_rows()),
            failed_rows: batch.num_rows() as u64,
        },
    }
}

/// `batch` is known to fail as a whole.
fn bisect(batch: &RecordBatch, attempt: Attempt<'_>, parts: &mut Parts<'_>) {
    let rows = batch.num_rows();
    if rows <= 1 {
        parts.push_failed(rows);
        return;
    }
    let half = rows / 2;
    for part in [batch.slice(0, half), batch.slice(half, rows - half)] {
        match attempt(&part) {
            Ok(array) => parts.push(array),
            Err(_) => bisect(&part, attempt, parts),
        }
    }
}

/// The values of consecutive parts of a batch.
struct Parts<'a> {
    done: Vec<ArrayRef>,
    /// NULLs not yet in `done`.
    nulls: usize,
    data_type: &'a DataType,
    failed: u64,
}

impl Parts<'_> {
    fn push(&mut self, array: ArrayRef) {
        self.flush();
        self.done.push(array);
    }

    fn push_failed(&mut self, rows: usize) {
        self.nulls += rows;
        self.failed += rows as u64;
    }

    fn flush(&mut self) {
        if self.nulls > 0 {
            self.done.push(new_null_array(self.data_type, self.nulls));
            self.nulls = 0;
        }
    }
}

fn physical(
    expr: &Expr,
    schema: &DFSchema,
    guarded: &Arc<AtomicU64>,
) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let props = ExecutionProps::new();
    let context = PhysicalPlanningContext::default();
    let expr = create_physical_expr(expr, schema, &props, &context)?;
    let expr = expr.transform_up(|e| Ok(checked(e)))?.data;
    Ok(expr.transform_up(|e| Ok(guard(e, guarded)))?.data)
}

/// DataFusion's arithmetic wraps unless told.
fn checked(expr: Arc<dyn PhysicalExpr>) -> Transformed<Arc<dyn PhysicalExpr>> {
    let checked = expr.downcast_ref::<BinaryExpr>().and_then(|binary| {
        matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply).then(|| {
            BinaryExpr::new(binary.left().clone(), *binary.op(), binary.right().clone())
                .with_fail_on_overflow(true)
        })
    });
    match checked {
        Some(checked) => Transformed::yes(Arc::new(checked)),
        None => Transformed::no(expr),
    }
}

/// The value of an expression without columns, with checked arithmetic.
pub(super) fn constant(expr: &Expr) -> Result<ScalarValue, DataFusionError> {
    let physical = physical(expr, &DFSchema::empty(), &Arc::default())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    match physical.evaluate(&batch)? {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0),
    }
}

#[cfg(test)]
mod tests;
