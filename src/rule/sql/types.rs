//! Second look at a syntax tree: do the kinds of value fit together?
//!
//! In: an AST whose names are all known. Out: diagnostics, at the smallest part that is wrong.
//! DataFusion would cast silently (text to number, number to bool); rules must say so with CAST.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr as Ast, FunctionArg, FunctionArgExpr, FunctionArguments,
    UnaryOperator, Value, visit_expressions,
};

use crate::catalog::place::{Diagnostics, Place};

use super::Compiler;
use super::parse::Source;

/// What can be compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    Time,
    List,
    Null,
    Other,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Boolean => Self::Bool,
            DataType::Null => Self::Null,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Self::Time,
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Self::List,
            t if t.is_numeric() => Self::Number,
            DataType::Dictionary(_, values) => Self::of(values),
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Bool => "a bool",
            Self::Time => "a date or time",
            Self::List => "a list",
            Self::Null => "NULL",
            Self::Other => "a value of another type",
        }
    }
}

/// Walks the tree once, planning the parts whose types matter.
pub(super) struct TypeCheck<'a, 'b> {
    pub(super) compiler: &'a Compiler<'b>,
    pub(super) source: &'a Source<'a>,
    pub(super) out: &'a mut Diagnostics,
    pub(super) good: bool,
}

impl TypeCheck<'_, '_> {
    /// False when an error was said.
    pub(super) fn check(mut self, ast: &Ast) -> bool {
        let flow: ControlFlow<()> = visit_expressions(ast, |e| {
            self.node(e);
            ControlFlow::Continue(())
        });
        self.good && flow.is_continue()
    }

    fn node(&mut self, ast: &Ast) {
        match ast {
            Ast::BinaryOp { left, op, right } => self.binary(left, op, right),
            Ast::IsDistinctFrom(left, right) | Ast::IsNotDistinctFrom(left, right) => {
                self.comparable(left, right);
            }
            Ast::UnaryOp { op: UnaryOperator::Not, expr } => self.boolean(expr, "NOT"),
            Ast::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => {
                self.numeric(expr, "-");
            }
            Ast::InList { expr, list, .. } => list.iter().for_each(|v| self.comparable(expr, v)),
            Ast::Between { expr, low, high, .. } => {
                self.comparable(expr, low);
                self.comparable(expr, high);
            }
            Ast::Like { expr, pattern, .. }
            | Ast::ILike { expr, pattern, .. }
            | Ast::SimilarTo { expr, pattern, .. } => {
                self.textual(expr);
                self.textual(pattern);
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref());
            }
            Ast::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                if let (
                    "coalesce" | "nvl" | "ifnull" | "nullif" | "greatest" | "least",
                    Some(args),
                ) = (name.as_str(), expressions(&function.args))
                {
                    self.alike(&args, &format!("{name} cannot mix"));
                }
            }
            _ => {}
        }
    }

    fn kind(&self, ast: &Ast) -> Option<Kind> {
        // Comparisons and connectives need no planning; this keeps long AND chains linear.
        match ast {
            Ast::Nested(inner) => return self.kind(inner),
            Ast::BinaryOp { op, .. } if comparison(op) || connective(op) => {
                return Some(Kind::Bool);
            }
            Ast::InList { .. }
            | Ast::Between { .. }
            | Ast::Like { .. }
            | Ast::ILike { .. }
            | Ast::IsNull(_)
            | Ast::IsNotNull(_)
            | Ast::IsDistinctFrom(..)
            | Ast::IsNotDistinctFrom(..)
            | Ast::UnaryOp { op: UnaryOperator::Not, .. } => return Some(Kind::Bool),
            Ast::Value(v) if matches!(v.value, Value::SingleQuotedString(_)) => {
                return Some(Kind::Text);
            }
            _ => {}
        }
        self.compiler.type_of(ast).map(|t| Kind::of(&t))
    }

    fn place(&self, ast: &Ast) -> Place {
        self.source.place_of(ast)
    }

    fn error(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.good = false;
        self.out.error(place, message, remedy);
    }

    fn binary(&mut self, left: &Ast, op: &BinaryOperator, right: &Ast) {
        if comparison(op) {
            self.comparable(left, right);
        } else if connective(op) {
            self.boolean(left, &op.to_string());
            self.boolean(right, &op.to_string());
        } else if arithmetic(op) {
            let sides = (self.kind(left), self.kind(right));
            if [sides.0, sides.1].contains(&Some(Kind::Time)) {
                return; // date + interval, and what DataFusion says about the rest
            }
            self.numeric(left, &op.to_string());
            self.numeric(right, &op.to_string());
            if *op == BinaryOperator::Divide {
                self.integer_division(left, right);
            }
        }
    }

    fn integer_division(&mut self, left: &Ast, right: &Ast) {
        let whole = |t: Option<DataType>| t.is_some_and(|t| t.is_integer());
        if whole(self.compiler.type_of(left)) && whole(self.compiler.type_of(right)) {
            let place = Place { end: self.place(right).end, ..self.place(left) };
            let (left, right) = (text(left), text(right));
            let remedy = format!("for a fraction: `CAST({left} AS double) / {right}`");
            self.out.warn(place, "`/` of whole numbers drops what is behind the point", remedy);
        }
    }

    fn comparable(&mut self, left: &Ast, right: &Ast) {
        let (Some(a), Some(b)) = (self.kind(left), self.kind(right)) else { return };
        let message = match (a, b) {
            (Kind::Text, Kind::Number) | (Kind::Number, Kind::Text) => "text against a number",
            (Kind::Bool, Kind::Number) | (Kind::Number, Kind::Bool) => "a bool against a number",
            (Kind::Bool, Kind::Text) | (Kind::Text, Kind::Bool) => "a bool against text",
            (Kind::Time, Kind::Number) | (Kind::Number, Kind::Time) => "a time against a number",
            (Kind::Time, Kind::Bool) | (Kind::Bool, Kind::Time) => "a time against a bool",
            (Kind::List, Kind::List | Kind::Null | Kind::Other) | (Kind::Null | Kind::Other, _) => {
                return;
            }
            (Kind::List, _) => "a list against one value",
            (_, Kind::List) => "one value against a list",
            _ => return,
        };
        let remedy = match (a, b) {
            (Kind::List, _) => in_list_remedy(left, right),
            (_, Kind::List) => in_list_remedy(right, left),
            (Kind::Text, Kind::Number) => cast_remedy(left, right),
            (Kind::Number, Kind::Text) => cast_remedy(right, left),
            (Kind::Bool, Kind::Number | Kind::Text) => {
                format!("`{}` is true or false: use it as it is, or with NOT", text(left))
            }
            (Kind::Number | Kind::Text, Kind::Bool) => {
                format!("`{}` is true or false: use it as it is, or with NOT", text(right))
            }
            (Kind::Time, Kind::Number) => format!("for an age in days: days_since({})", text(left)),
            (Kind::Number, Kind::Time) => {
                format!("for an age in days: days_since({})", text(right))
            }
            _ => String::new(),
        };
        let place = Place { end: self.place(right).end, ..self.place(left) };
        self.error(place, format!("{message} cannot be compared"), remedy);
    }

    fn numeric(&mut self, ast: &Ast, op: &str) {
        match self.kind(ast) {
            Some(Kind::Text) => {
                let remedy = format!("`CAST({} AS int)` or `AS decimal(18,2)`", text(ast));
                self.error(self.place(ast), format!("`{op}` needs numbers, this is text"), remedy);
            }
            Some(Kind::Bool) => {
                let remedy = format!("`CASE WHEN {} THEN 1 ELSE 0 END`", text(ast));
                self.error(
                    self.place(ast),
                    format!("`{op}` needs numbers, this is a bool"),
                    remedy,
                );
            }
            Some(Kind::List) => {
                let remedy = format!("`{0}[1]` is its first value", text(ast));
                let message = format!("`{op}` needs numbers, this is a list");
                self.error(self.place(ast), message, remedy);
            }
            _ => {}
        }
    }

    fn boolean(&mut self, ast: &Ast, of: &str) {
        if let Some(kind @ (Kind::Text | Kind::Number | Kind::Time | Kind::List)) = self.kind(ast) {
            let message = format!("{of} needs true or false, this is {}", kind.name());
            let remedy = match kind {
                Kind::Number => format!("`{} <> 0`?", text(ast)),
                Kind::List => format!("`array_has({}, ...)`?", text(ast)),
                _ => "compare it with something".to_owned(),
            };
            self.error(self.place(ast), message, remedy);
        }
    }

    fn textual(&mut self, ast: &Ast) {
        if let Some(kind @ (Kind::Number | Kind::Bool | Kind::Time | Kind::List)) = self.kind(ast) {
            let remedy = match kind {
                Kind::List => format!("`{}[1]` is its first value", text(ast)),
                _ => format!("`CAST({} AS string)`", text(ast)),
            };
            self.error(
                self.place(ast),
                format!("LIKE needs text, this is {}", kind.name()),
                remedy,
            );
        }
    }

    fn case(&mut self, operand: Option<&Ast>, whens: &[CaseWhen], otherwise: Option<&Ast>) {
        for when in whens {
            match operand {
                Some(operand) => self.comparable(operand, &when.condition),
                None => self.boolean(&when.condition, "WHEN"),
            }
        }
        let results: Vec<&Ast> = whens.iter().map(|w| &w.result).chain(otherwise).collect();
        self.alike(&results, "the branches of CASE cannot mix");
    }

    /// All of one kind, NULLs aside.
    fn alike(&mut self, parts: &[&Ast], what: &str) {
        let mut first: Option<Kind> = None;
        for part in parts {
            let Some(kind) = self.kind(part).filter(|k| *k != Kind::Null) else { continue };
            match first {
                None => first = Some(kind),
                Some(first) if first != kind => {
                    let remedy = match (first, kind) {
                        (Kind::Text, _) => format!("`CAST({} AS string)`", text(part)),
                        (Kind::Number, Kind::Text) => format!("`CAST({} AS int)`", text(part)),
                        _ => String::new(),
                    };
                    let message = format!("{what} {} and {}", first.name(), kind.name());
                    self.error(self.place(part), message, remedy);
                    return;
                }
                Some(_) => {}
            }
        }
    }
}

fn in_list_remedy(list: &Ast, value: &Ast) -> String {
    let (list, value) = (text(list), text(value));
    format!("`array_has({list}, {value})` for any of its values, `{list}[1]` for the first")
}

fn cast_remedy(wordy: &Ast, number: &Ast) -> String {
    let literal = matches!(wordy, Ast::Value(_));
    if literal {
        return format!("write the number without quotes, or `CAST({} AS string)`", text(number));
    }
    let decimal = matches!(number, Ast::Value(v) if v.to_string().contains('.'));
    format!("`CAST({} AS {})`", text(wordy), if decimal { "decimal(18,2)" } else { "int" })
}

fn text(ast: &Ast) -> String {
    let text = ast.to_string();
    if text.chars().count() > 40 { "...".to_owned() } else { text }
}

fn expressions(args: &FunctionArguments) -> Option<Vec<&Ast>> {
    let FunctionArguments::List(list) = args else { return None };
    let expr = |arg: &'_ FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
    list.args.iter().all(expr).then(|| {
        let expr = |arg| match arg {
            &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref e)) => Some(e),
            _ => None,
        };
        list.args.iter().filter_map(expr).collect()
    })
}

fn comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn connective(op: &BinaryOperator) -> bool {
    matches!(op, BinaryOperator::And | BinaryOperator::Or)
}

fn arithmetic(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo)
}
