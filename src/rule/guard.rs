//! A part of an expression that is NULL where it cannot be computed, whatever stands around it.
//!
//! In: an expression that has a name of its own (a derived column), put in where the name stands.
//! Out: the same, marked; and, planned, a node that evaluates it so that a failing row is NULL
//! there and the expression around it goes on with that NULL, as it would with a column's.
//! Invariant: no I/O; a guarded part costs nothing while no row fails.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Result, exec_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::safe::null_where_it_fails;

/// No name in a rule has a space.
const NAME: &str = "null where it fails";

static MARK: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Mark { signature }))
});

/// Marks an expression as one that is NULL where it cannot be computed.
pub fn guarded(expr: Expr) -> Expr {
    if matches!(expr, Expr::Column(_) | Expr::Literal(..)) {
        return expr;
    }
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&MARK), vec![expr]))
}

/// Stands around a guarded expression until it is planned.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [one] => Ok(one.clone()),
            _ => exec_err!("one expression is guarded at a time"),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(value) => Ok(value),
            None => exec_err!("nothing is guarded"),
        }
    }
}

/// Replaces a planned mark by its guard. `failed` counts rows that could not be computed.
pub(super) fn guard(
    expr: Arc<dyn PhysicalExpr>,
    failed: &Arc<AtomicU64>,
) -> Transformed<Arc<dyn PhysicalExpr>> {
    let marked = expr
        .downcast_ref::<ScalarFunctionExpr>()
        .filter(|f| f.name() == NAME)
        .and_then(|f| f.args().first().cloned());
    match marked {
        Some(inner) => Transformed::yes(Arc::new(Guard { inner, failed: Arc::clone(failed) })),
        None => Transformed::no(expr),
    }
}

/// Evaluates its inner expression; a row that fails is NULL.
#[derive(Debug, Clone)]
struct Guard {
    inner: Arc<dyn PhysicalExpr>,
    failed: Arc<AtomicU64>,
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Guard {}

impl Hash for Guard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Guard {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        let field = self.inner.return_field(schema)?;
        Ok(Arc::new(field.as_ref().clone().with_nullable(true)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if let Ok(value) = self.inner.evaluate(batch) {
            return Ok(value);
        }
        let data_type = self.inner.data_type(batch.schema_ref())?;
        let evaluated = null_where_it_fails(batch, &data_type, &|part| {
            self.inner.evaluate(part)?.into_array(part.num_rows())
        });
        self.failed.fetch_add(evaluated.failed_rows, Ordering::Relaxed);
        Ok(ColumnarValue::Array(evaluated.array))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(inner) => Ok(Arc::new(Self { inner, failed: Arc::clone(&self.failed) })),
            None => exec_err!("a guard has one child"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
