//! SQL expressions of the catalogue: parse, check, type, simplify.
//!
//! In: [`SqlText`] and the names it may read. Out: a [`TypedExpr`] ready for the plan, or
//! diagnostics with the exact place and a remedy. The language is CATALOGUE.md's "Expressions".
//! Invariant: no I/O, no clock; the same text gives the same expression.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, lit};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{Expr as Ast, Spanned, visit_expressions};

use crate::catalog::model::{Param, TypedExpr, timestamp_type};
use crate::catalog::place::{Diagnostics, Place};
use crate::catalog::sql_text::SqlText;
use crate::clock::Zone;

use self::context::Context;
use self::names::Names;
use self::parse::Source;
use self::types::TypeCheck;
use super::days;

mod aggregate;
mod context;
mod membership;
mod names;
mod parse;
mod types;

pub use self::aggregate::{AggregateCall, aggregate_call};

/// The instant a result is about: a column of type `Timestamp(ms, zone)` in tag expressions.
pub const AS_OF: &str = "as_of";
/// The local date of [`AS_OF`]: a column of type `Date32` in tag expressions.
pub const AS_OF_DATE: &str = "as_of_date";

/// Where an expression stands, which decides what it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeKind {
    /// About one event of a stream: no `as_of`.
    Row,
    /// About a user: `as_of`, `as_of_date` and `days_since` are known.
    Tag,
}

/// The names an expression may read.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Name and type; strings as `Utf8`.
    pub columns: &'a [(String, DataType)],
    /// What `$name` stands for.
    pub params: &'a BTreeMap<String, Param>,
    /// The business timezone.
    pub zone: &'a Zone,
    /// Where the expression stands.
    pub kind: ScopeKind,
}

/// Compiles one expression: parsed, checked, coerced, simplified, and cast to one of the types the
/// engine keeps (`Boolean`, `Int64`, `UInt64`, `Float64`, `Decimal128`, `Utf8`, `Date32`,
/// `Timestamp(ms, zone)`). `None`: the reasons are in `out`.
pub fn compile(text: &SqlText, scope: &Scope<'_>, out: &mut Diagnostics) -> Option<TypedExpr> {
    let source = Source::new(text);
    let tokens = parse::tokens(&source, out)?;
    let (tokens, sql) = parse::put_params(tokens, scope.params, &source, out)?;
    let ast = parse::parse(tokens, &source, out)?;
    let context = Context::new(scope.zone, scope.kind == ScopeKind::Tag);
    let columns = scope.columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = Names { columns, kind: scope.kind, context: &context };
    if !names.check(&ast, &source, out) {
        return None;
    }
    let compiler = Compiler::new(&context, scope);
    let types = TypeCheck { compiler: &compiler, source: &source, out, good: true };
    if !types.check(&ast) {
        return None;
    }
    let expr = match compiler.plan(&ast).and_then(|e| compiler.finish(e)) {
        Ok(expr) => expr,
        Err(error) => {
            let (place, error) =
                compiler.smallest_failure(&ast, &source).unwrap_or((text.whole(), error));
            out.error(place, message_of(&error), "");
            return None;
        }
    };
    compiler.typed(expr, sql, text.whole(), out)
}

/// The identifiers an expression reads, in order, before anything is typed; without `as_of` and
/// `as_of_date`. `None`: it cannot be parsed, and `out` says why.
pub fn names(text: &SqlText, out: &mut Diagnostics) -> Option<Vec<(String, Place)>> {
    let source = Source::new(text);
    let ast = parse::parse(parse::tokens(&source, out)?, &source, out)?;
    let found = names::identifiers(&ast);
    let named = found.into_iter().filter(|i| i.value != AS_OF && i.value != AS_OF_DATE);
    Some(named.map(|i| (i.value.clone(), source.place_of_ident(&i))).collect())
}

/// All texts a string-valued expression can give, in order of appearance; `None` when it can give
/// others.
pub fn labels(expr: &TypedExpr) -> Option<Vec<String>> {
    let mut found = Vec::new();
    (expr.data_type == DataType::Utf8 && collect_labels(&expr.expr, &mut found)).then_some(found)
}

fn collect_labels(expr: &Expr, found: &mut Vec<String>) -> bool {
    match expr {
        Expr::Literal(value, _) if value.is_null() => true,
        Expr::Literal(value, _) => match value.try_as_str().flatten() {
            Some(label) => {
                if !found.iter().any(|l| l == label) {
                    found.push(label.to_owned());
                }
                true
            }
            None => false,
        },
        Expr::Alias(alias) => collect_labels(&alias.expr, found),
        Expr::Cast(Cast { expr, .. }) => collect_labels(expr, found),
        Expr::Case(case) => {
            case.when_then_expr.iter().all(|(_, then)| collect_labels(then, found))
                && case.else_expr.as_ref().is_none_or(|e| collect_labels(e, found))
        }
        Expr::ScalarFunction(f) if matches!(f.name(), "coalesce" | "nvl") => {
            f.args.iter().all(|a| collect_labels(a, found))
        }
        _ => false,
    }
}

/// The known name most like this one, if any is like it.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let scored = known.map(|k| (strsim::jaro_winkler(&lower, &k.to_lowercase()), k));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let near = strsim::damerau_levenshtein(&lower, &best.1.to_lowercase()) <= 2 + name.len() / 8;
    (best.0 > 0.9 || (near && best.0 > 0.75)).then_some(best.1)
}

/// DataFusion, set up for one scope.
struct Compiler<'a> {
    planner: SqlToRel<'a, Context>,
    schema: Arc<DFSchema>,
    simplifier: ExprSimplifier,
    timestamp: DataType,
}

impl<'a> Compiler<'a> {
    fn new(context: &'a Context, scope: &Scope<'_>) -> Self {
        let timestamp = timestamp_type(scope.zone);
        let mut fields: Vec<Field> =
            scope.columns.iter().map(|(n, t)| Field::new(n, t.clone(), true)).collect();
        if scope.kind == ScopeKind::Tag {
            let mut own = |name: &str, data_type: DataType| {
                if !fields.iter().any(|f| f.name() == name) {
                    fields.push(Field::new(name, data_type, true));
                }
            };
            own(AS_OF, timestamp.clone());
            own(AS_OF_DATE, DataType::Date32);
        }
        // Duplicate names are the caller's finding; here the first one counts.
        let mut seen = std::collections::HashSet::new();
        fields.retain(|f| seen.insert(f.name().clone()));
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap_or_else(|_| DFSchema::empty());
        let schema = Arc::new(schema);
        let options = ParserOptions::new()
            .with_parse_float_as_decimal(true)
            .with_enable_ident_normalization(false)
            .with_map_string_types_to_utf8view(false);
        let planner = SqlToRel::new_with_options(context, options);
        let config = Arc::new(datafusion_expr::planner::ContextProvider::options(context).clone());
        let info = SimplifyContext::builder()
            .with_schema(schema.clone())
            .with_config_options(config)
            .build();
        Self { planner, schema, simplifier: ExprSimplifier::new(info), timestamp }
    }

    /// Plans and coerces; not simplified.
    fn plan(&self, ast: &Ast) -> Result<Expr, DataFusionError> {
        let expr =
            self.planner.sql_to_expr(ast.clone(), &self.schema, &mut PlannerContext::new())?;
        let expr = expr.transform_up(|e| self.add_as_of(e))?.data;
        let expr = expr.transform_up(|e| self.approximate(e))?.data;
        let expr = self.simplifier.coerce(expr, &self.schema)?;
        Ok(expr.transform_up(|e| self.checked_negation(e))?.data)
    }

    /// `days_since(x)` becomes `days_since(x, as_of_date)` over `Timestamp(ms, zone)`.
    fn add_as_of(&self, expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        let Expr::ScalarFunction(ScalarFunction { func, mut args }) = expr else {
            return Ok(Transformed::no(expr));
        };
        if func.name() != days::NAME || args.len() != 1 {
            return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })));
        }
        let since = args[0].get_type(&self.schema)?;
        if since != self.timestamp && matches!(since, DataType::Timestamp(..) | DataType::Null) {
            args[0] = Expr::Cast(Cast::new(Box::new(args.remove(0)), self.timestamp.clone()));
        }
        args.truncate(1);
        if args.is_empty() {
            args.push(lit(ScalarValue::Null));
        }
        args.push(Expr::Column(Column::new_unqualified(AS_OF_DATE)));
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
    }

    /// A float beside a decimal makes both floats. DataFusion would cast the float to a decimal,
    /// which fails for NaN and for what is very large.
    fn approximate(&self, expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        let float = |e: &Expr| e.get_type(&self.schema).is_ok_and(|t| t == DataType::Float64);
        let to_float = |e: Box<Expr>| {
            let exact = e.get_type(&self.schema).is_ok_and(|t| t.is_decimal());
            if exact { Box::new(Expr::Cast(Cast::new(e, DataType::Float64))) } else { e }
        };
        Ok(match expr {
            Expr::BinaryExpr(b) if float(&b.left) || float(&b.right) => {
                let (left, right) = (to_float(b.left), to_float(b.right));
                Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, b.op, right)))
            }
            Expr::Between(mut b) if float(&b.expr) => {
                b.low = to_float(b.low);
                b.high = to_float(b.high);
                Transformed::yes(Expr::Between(b))
            }
            Expr::InList(mut i) if float(&i.expr) => {
                i.list = i.list.into_iter().map(|e| *to_float(Box::new(e))).collect();
                Transformed::yes(Expr::InList(i))
            }
            other => Transformed::no(other),
        })
    }

    /// Negation wraps at the least integer; `0 - x` is checked when it is evaluated.
    fn checked_negation(&self, expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        match expr {
            Expr::Negative(inner) if inner.get_type(&self.schema)? == DataType::Int64 => {
                let zero = Box::new(lit(0_i64));
                Ok(Transformed::yes(match *inner {
                    Expr::Literal(ScalarValue::Int64(Some(v)), _) if v != i64::MIN => lit(-v),
                    inner => {
                        Expr::BinaryExpr(BinaryExpr::new(zero, Operator::Minus, Box::new(inner)))
                    }
                }))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Simplifies, and casts to a type the engine keeps.
    fn finish(&self, expr: Expr) -> Result<Expr, DataFusionError> {
        self.check_constants(&expr)?;
        let from = expr.get_type(&self.schema)?;
        let to = self.kept_type(&from)?;
        let expr = if to == from { expr } else { Expr::Cast(Cast::new(Box::new(expr), to)) };
        let expr = expr.transform_up(|e| self.fold_cast(e))?.data;
        self.simplifier.simplify(membership::merge(expr)?)
    }

    /// A constant behind a cast is a literal.
    fn fold_cast(&self, expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        match &expr {
            Expr::Cast(cast) if matches!(*cast.expr, Expr::Literal(..)) => {
                Ok(Transformed::yes(self.simplifier.simplify(expr)?))
            }
            _ => Ok(Transformed::no(expr)),
        }
    }

    /// The simplifier would fold `9223372036854775807 + 1` by wrapping: refuse it instead.
    fn check_constants(&self, expr: &Expr) -> Result<(), DataFusionError> {
        expr.apply(|e| {
            let arithmetic = matches!(e, Expr::BinaryExpr(b) if matches!(b.op, Operator::Plus
                | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo));
            if !arithmetic || e.any_column_refs() {
                return Ok(TreeNodeRecursion::Continue);
            }
            super::safe::constant(e)?;
            Ok(TreeNodeRecursion::Jump)
        })?;
        Ok(())
    }

    fn kept_type(&self, from: &DataType) -> Result<DataType, DataFusionError> {
        let plan = |message: String| Err(DataFusionError::Plan(message));
        Ok(match from {
            DataType::Boolean
            | DataType::Int64
            | DataType::UInt64
            | DataType::Float64
            | DataType::Decimal128(..)
            | DataType::Utf8
            | DataType::Date32 => from.clone(),
            DataType::Int8 | DataType::Int16 | DataType::Int32 => DataType::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
            DataType::Float16 | DataType::Float32 => DataType::Float64,
            DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => DataType::Utf8,
            DataType::Date64 => DataType::Date32,
            DataType::Timestamp(TimeUnit::Millisecond, Some(_)) if *from == self.timestamp => {
                from.clone()
            }
            DataType::Timestamp(..) => self.timestamp.clone(),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                match item.data_type() {
                    DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                        return plan("a list of lists cannot be kept; flatten() it".to_owned());
                    }
                    item => DataType::new_list(self.kept_type(item)?, true),
                }
            }
            DataType::Null => return plan("this is always NULL".to_owned()),
            DataType::Decimal256(..) => {
                return plan("this decimal needs more than 38 digits; CAST its parts".to_owned());
            }
            other => return plan(format!("a value of type {other} cannot be kept; CAST it")),
        })
    }

    fn type_of(&self, ast: &Ast) -> Option<DataType> {
        self.plan(ast).ok()?.get_type(&self.schema).ok()
    }

    /// The shortest part that cannot be planned on its own, and why.
    fn smallest_failure(&self, ast: &Ast, source: &Source<'_>) -> Option<(Place, DataFusionError)> {
        let mut best: Option<(usize, Place, DataFusionError)> = None;
        let flow: ControlFlow<()> = visit_expressions(ast, |e| {
            let planned = self.plan(e).and_then(|p| {
                self.check_constants(&p)?;
                p.get_type(&self.schema)?;
                self.simplifier.simplify(p)
            });
            if let Err(error) = planned {
                let length = source.range(e.span()).map_or(usize::MAX, |r| r.len());
                if best.as_ref().is_none_or(|b| length <= b.0) {
                    best = Some((length, source.place_of(e), error));
                }
            }
            ControlFlow::Continue(())
        });
        debug_assert!(flow.is_continue());
        best.map(|(_, place, error)| (place, error))
    }

    fn typed(
        &self,
        expr: Expr,
        sql: String,
        place: Place,
        out: &mut Diagnostics,
    ) -> Option<TypedExpr> {
        let data_type = match expr.get_type(&self.schema) {
            Ok(data_type) => data_type,
            Err(error) => {
                out.error(place, message_of(&error), "");
                return None;
            }
        };
        let mut columns: Vec<String> = expr
            .column_refs()
            .into_iter()
            .map(|c| c.name.clone())
            .filter(|n| n != AS_OF && n != AS_OF_DATE)
            .collect();
        columns.sort_unstable();
        Some(TypedExpr { expr, data_type, columns, sql, place })
    }
}

/// The first line of DataFusion's message, without its prefix.
fn message_of(error: &DataFusionError) -> String {
    let message = error.find_root().message().into_owned();
    let line = message.lines().next().unwrap_or("").trim().trim_end_matches('.');
    let line = line.strip_prefix("Error during planning: ").unwrap_or(line);
    let mut chars = line.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
