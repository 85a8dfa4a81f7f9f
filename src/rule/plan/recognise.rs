//! From simplified SQL to conditions that have kernels.
//!
//! In: a DataFusion expression. Out: a [`Cond`] that is true exactly where the expression is, or
//! `None` when some part of it has no kernel (DataFusion then evaluates the whole tag).
//! Invariant: whatever is recognised here cannot fail for a row.

use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::expr::InList;
use datafusion_expr::{BinaryExpr, Case, Expr, Operator, lit};

use super::build::Builder;
use super::leaf::{Cases, Cond, Leaf, Source};
use crate::rule::kernels::coded::Codes;

/// Functions of text that give a value for every text.
const TOTAL: &[&str] = &[
    "upper",
    "lower",
    "btrim",
    "ltrim",
    "rtrim",
    "starts_with",
    "ends_with",
    "contains",
    "character_length",
    "octet_length",
    "strpos",
    "reverse",
    "replace",
    "concat",
    "nullif",
];

impl Builder<'_> {
    /// True where `expr` is true (`want`) or where it is false (`!want`).
    pub(super) fn truth(&mut self, expr: &Expr, want: bool) -> Option<Cond> {
        match expr {
            Expr::IsNull(e) | Expr::IsNotNull(e) => {
                let has_value = matches!(expr, Expr::IsNotNull(_)) == want;
                let input = match self.column(e) {
                    Some(Source::Input(input)) => Some(input),
                    // `days_since` has a value exactly where its instant has one.
                    _ => self.lane(e).map(|lane| self.lanes[lane].input),
                };
                if let Some(input) = input {
                    return Some(self.leaf(Leaf::Valid { input, negated: !has_value }));
                }
            }
            Expr::Literal(value, _) => match value {
                ScalarValue::Boolean(v) => return Some(Cond::Const(*v == Some(want))),
                v if v.is_null() => return Some(Cond::Const(false)),
                _ => return None,
            },
            _ => {}
        }
        if let Some(cond) = self.by_text(expr, want) {
            return Some(cond);
        }
        match expr {
            Expr::BinaryExpr(b) => self.binary(b, want),
            Expr::Not(e) => self.truth(e, !want),
            Expr::IsTrue(e) | Expr::IsNotTrue(e) => {
                let cond = self.truth(e, true)?;
                Some(if matches!(expr, Expr::IsTrue(_)) == want { cond } else { cond.not() })
            }
            Expr::IsFalse(e) | Expr::IsNotFalse(e) => {
                let cond = self.truth(e, false)?;
                Some(if matches!(expr, Expr::IsFalse(_)) == want { cond } else { cond.not() })
            }
            Expr::Between(b) => {
                let half = |op, to: &Expr| {
                    Expr::BinaryExpr(BinaryExpr::new(b.expr.clone(), op, Box::new(to.clone())))
                };
                let want = want != b.negated;
                let low = self.truth(&half(Operator::GtEq, &b.low), want)?;
                let high = self.truth(&half(Operator::LtEq, &b.high), want)?;
                let both = vec![low, high];
                Some(if want { Cond::and(both) } else { Cond::or(both) })
            }
            Expr::InList(list) => self.in_list(list, want),
            Expr::Column(_) => {
                let lane = self.lane(expr)?;
                let is = Some(i64::from(want));
                Some(self.leaf(Leaf::Range { lane, lo: is, hi: is, negated: false }))
            }
            Expr::Case(case) => self.choices(case, &mut |builder, then| builder.truth(then, want)),
            _ => None,
        }
    }

    /// A condition over one text column (or one tag) becomes a table over its texts (or codes).
    fn by_text(&mut self, expr: &Expr, want: bool) -> Option<Cond> {
        let source = self.only_text_source(expr)?;
        let codes = if want { Codes::Bool(0, 1) } else { Codes::Bool(1, 0) };
        match source {
            Source::Input(input) => {
                let table = self.table(input, expr, codes)?;
                Some(self.leaf(Leaf::Table { input, table }))
            }
            Source::Tag(tag) => {
                let by_code = self.table_of_tag(tag, expr, &codes)?;
                let mut set = [0_u64; 4];
                for (code, _) in by_code.iter().enumerate().filter(|(_, v)| **v == 1) {
                    set[code / 64] |= 1 << (code % 64);
                }
                Some(self.leaf(Leaf::Tag { tag, codes: set }))
            }
            Source::AsOf | Source::AsOfDate => None,
        }
    }

    /// The text input or closed tag that is all an expression reads, if the expression has a value
    /// for every text.
    pub(super) fn only_text_source(&self, expr: &Expr) -> Option<Source> {
        let columns = expr.column_refs();
        let mut columns = columns.into_iter();
        let (only, None) = (columns.next()?, columns.next()) else { return None };
        let source = self.source(&only.name).filter(|s| self.is_coded(*s))?;
        let mut total = true;
        // The visit itself cannot fail: its closure never returns an error.
        let visited = expr.apply(|e| {
            total &= match e {
                Expr::BinaryExpr(b) => {
                    let total =
                        matches!(b.op, Operator::And | Operator::Or | Operator::StringConcat);
                    total || b.op.negate().is_some()
                }
                Expr::Like(like) => matches!(*like.pattern, Expr::Literal(..)),
                Expr::ScalarFunction(f) => TOTAL.contains(&f.name()),
                Expr::Column(_) | Expr::Literal(..) | Expr::Not(_) | Expr::InList(_) => true,
                Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsNotTrue(_) => true,
                Expr::IsFalse(_) | Expr::IsNotFalse(_) | Expr::Between(_) | Expr::Case(_) => true,
                _ => false,
            };
            Ok(TreeNodeRecursion::Continue)
        });
        (visited.is_ok() && total).then_some(source)
    }

    fn binary(&mut self, b: &BinaryExpr, want: bool) -> Option<Cond> {
        let parts = |builder: &mut Self| {
            Some(vec![builder.truth(&b.left, want)?, builder.truth(&b.right, want)?])
        };
        match (b.op, want) {
            (Operator::And, true) | (Operator::Or, false) => Some(Cond::and(parts(self)?)),
            (Operator::And, false) | (Operator::Or, true) => Some(Cond::or(parts(self)?)),
            (Operator::IsDistinctFrom | Operator::IsNotDistinctFrom, _) => {
                let same = (b.op == Operator::IsNotDistinctFrom) == want;
                let cond = self.same(&b.left, &b.right).or_else(|| self.same(&b.right, &b.left))?;
                Some(if same { cond } else { cond.not() })
            }
            _ => self.comparison(&b.left, b.op, &b.right, want),
        }
    }

    /// `expr IS NOT DISTINCT FROM literal`; never NULL.
    fn same(&mut self, expr: &Expr, to: &Expr) -> Option<Cond> {
        let Expr::Literal(value, _) = to else { return None };
        match value {
            ScalarValue::Boolean(Some(want)) => self.truth(expr, *want),
            v if v.is_null() => self.truth(&expr.clone().is_null(), true),
            _ => self.comparison(expr, Operator::Eq, to, true),
        }
    }

    fn in_list(&mut self, list: &InList, want: bool) -> Option<Cond> {
        let is_in = want != list.negated;
        let equal: Option<Vec<Cond>> = list
            .list
            .iter()
            .map(|item| self.comparison(&list.expr, Operator::Eq, item, is_in))
            .collect();
        // A NULL in the list compares neither true nor false, which is what SQL says.
        Some(if is_in { Cond::or(equal?) } else { Cond::and(equal?) })
    }

    /// `left op right` is true (or, not wanted, false): both have values then.
    pub(super) fn comparison(
        &mut self,
        left: &Expr,
        op: Operator,
        right: &Expr,
        want: bool,
    ) -> Option<Cond> {
        let op = if want { op } else { op.negate()? };
        if let (Expr::Literal(a, _), Expr::Literal(b, _)) = (left, right) {
            if a.is_null() || b.is_null() {
                return Some(Cond::Const(false));
            }
            let both = BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone()));
            let value = crate::rule::safe::constant(&Expr::BinaryExpr(both)).ok()?;
            return Some(Cond::Const(value == ScalarValue::Boolean(Some(true))));
        }
        if let Expr::Case(case) = left {
            return self.choices(case, &mut |b, then| b.comparison(then, op, right, true));
        }
        if let Expr::Case(case) = right {
            return self.choices(case, &mut |b, then| b.comparison(left, op, then, true));
        }
        match (left, right) {
            (_, Expr::Literal(value, _)) => self.against_literal(left, op, value),
            (Expr::Literal(value, _), _) => self.against_literal(right, op.swap()?, value),
            _ => self.two_columns(left, op, right),
        }
    }

    /// True where the branch that CASE takes is true by `branch`.
    fn choices(
        &mut self,
        case: &Case,
        branch: &mut dyn FnMut(&mut Self, &Expr) -> Option<Cond>,
    ) -> Option<Cond> {
        let (mut any, mut none_before) = (Vec::new(), Vec::new());
        for (when, then) in &case.when_then_expr {
            let guard = self.guard(case, when)?;
            let value = branch(self, then)?;
            let mut parts = none_before.clone();
            parts.extend([guard.clone(), value]);
            any.push(Cond::and(parts));
            none_before.push(guard.not());
        }
        let null = lit(ScalarValue::Null);
        let otherwise = branch(self, case.else_expr.as_deref().unwrap_or(&null))?;
        none_before.push(otherwise);
        any.push(Cond::and(none_before));
        Some(Cond::or(any))
    }

    fn guard(&mut self, case: &Case, when: &Expr) -> Option<Cond> {
        match &case.expr {
            None => self.truth(when, true),
            Some(operand) => {
                let equal = BinaryExpr::new(operand.clone(), Operator::Eq, Box::new(when.clone()));
                self.truth(&Expr::BinaryExpr(equal), true)
            }
        }
    }

    /// A text-valued CASE over literals; `code_of` gives a label's code.
    pub(super) fn cases(&mut self, expr: &Expr, codes: &Codes) -> Option<Cases> {
        let mut whens = Vec::new();
        let otherwise = self.collect_cases(expr, codes, &Cond::Const(true), &mut whens)?;
        Some(Cases { whens, otherwise })
    }

    fn collect_cases(
        &mut self,
        expr: &Expr,
        codes: &Codes,
        under: &Cond,
        whens: &mut Vec<(Cond, u8)>,
    ) -> Option<u8> {
        match (expr, codes) {
            (Expr::Literal(value, _), _) if value.is_null() => Some(0),
            (Expr::Literal(value, _), Codes::Labels(labels)) => {
                labels.get(value.try_as_str().flatten()?).copied()
            }
            (Expr::Case(case), _) => {
                for (when, then) in &case.when_then_expr {
                    let guard = Cond::and(vec![under.clone(), self.guard(case, when)?]);
                    let code = self.collect_cases(then, codes, &guard, whens)?;
                    whens.push((guard, code));
                }
                match &case.else_expr {
                    Some(e) => self.collect_cases(e, codes, under, whens),
                    None => Some(0),
                }
            }
            (_, Codes::Bool(no, yes)) => {
                let is_true = self.truth(expr, true)?;
                let is_false = self.truth(expr, false)?;
                whens.push((Cond::and(vec![under.clone(), is_true]), *yes));
                whens.push((Cond::and(vec![under.clone(), is_false]), *no));
                Some(0)
            }
            _ => None,
        }
    }
}
