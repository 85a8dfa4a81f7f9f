//! Memberships of one value in several lists, made one before DataFusion's simplifier sees them.
//!
//! In: a coerced expression. Out: one that means the same, in which no conjunction holds two
//! positive memberships of one operand and no disjunction two negative ones. DataFusion 55 merges
//! those itself, but takes `x IN (1, 2) AND x IN (3, 4)` for false where x is NULL: it is NULL then,
//! and a tag without value is not one that is false.
//! Invariant: no I/O; what is not such a membership stays as it is.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::expr::InList;
use datafusion_expr::{BinaryExpr, Expr, Operator, lit};

/// `operand` is (or, negated, is not) one of `items`.
#[derive(Clone)]
struct Member {
    operand: Expr,
    items: Vec<Expr>,
    negated: bool,
}

/// Merges memberships in all conjunctions and disjunctions.
pub(super) fn merge(expr: Expr) -> Result<Expr, DataFusionError> {
    Ok(expr.transform_up(|e| Ok(merge_node(e)))?.data)
}

fn merge_node(expr: Expr) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) = &expr else {
        return Transformed::no(expr);
    };
    let op = *op;
    let mut parts = Vec::new();
    flatten(&expr, op, &mut parts);
    let mut kept: Vec<Result<Member, Expr>> = Vec::new();
    let mut merged_any = false;
    for part in parts {
        let Some(new) = member(part) else {
            kept.push(Err(part.clone()));
            continue;
        };
        let partner = kept.iter_mut().find_map(|k| match k {
            Ok(have) if have.operand == new.operand && meets(have, &new, op) => Some(have),
            _ => None,
        });
        match partner {
            Some(have) => {
                merged_any = true;
                *have = meet(have, &new);
            }
            None => kept.push(Ok(new)),
        }
    }
    if !merged_any {
        return Transformed::no(expr);
    }
    let joined = kept.into_iter().map(|k| k.map_or_else(|other| other, expression));
    let joined =
        joined.reduce(|a, b| Expr::BinaryExpr(BinaryExpr::new(Box::new(a), op, Box::new(b))));
    joined.map_or(Transformed::no(expr), Transformed::yes)
}

fn flatten<'e>(expr: &'e Expr, op: Operator, parts: &mut Vec<&'e Expr>) {
    match expr {
        Expr::BinaryExpr(b) if b.op == op => {
            flatten(&b.left, op, parts);
            flatten(&b.right, op, parts);
        }
        other => parts.push(other),
    }
}

/// A membership in a list of literals without NULL; `x = 1 OR x = 2` is one too.
fn member(expr: &Expr) -> Option<Member> {
    let plain = |e: &Expr| matches!(e, Expr::Literal(v, _) if !v.is_null());
    match expr {
        Expr::InList(list) if list.list.iter().all(plain) => Some(Member {
            operand: list.expr.as_ref().clone(),
            items: list.list.clone(),
            negated: list.negated,
        }),
        Expr::Not(inner) => member(inner).map(|m| Member { negated: !m.negated, ..m }),
        Expr::BinaryExpr(b) if matches!(b.op, Operator::Eq | Operator::NotEq) => {
            let (operand, item) = match (b.left.as_ref(), b.right.as_ref()) {
                (operand @ Expr::Column(_), item) | (item, operand @ Expr::Column(_)) => {
                    (operand, item)
                }
                _ => return None,
            };
            plain(item).then(|| Member {
                operand: operand.clone(),
                items: vec![item.clone()],
                negated: b.op == Operator::NotEq,
            })
        }
        Expr::BinaryExpr(b) if matches!(b.op, Operator::Or | Operator::And) => {
            let (mut left, right) = (member(&b.left)?, member(&b.right)?);
            let union = left.operand == right.operand
                && left.negated == right.negated
                && left.negated == (b.op == Operator::And);
            left.items.extend(right.items);
            union.then_some(left)
        }
        _ => None,
    }
}

/// Whether two memberships have to be merged: the simplifier could find their lists disjoint.
fn meets(a: &Member, b: &Member, op: Operator) -> bool {
    if op == Operator::And { !a.negated || !b.negated } else { a.negated && b.negated }
}

/// Both, of a conjunction; either, of a disjunction of negated ones (their lists meet as well).
fn meet(a: &Member, b: &Member) -> Member {
    let (mut kept, other) = if a.negated && !b.negated { (b.clone(), a) } else { (a.clone(), b) };
    let without = other.negated && !kept.negated;
    kept.items.retain(|item| other.items.contains(item) != without);
    kept
}

/// A membership in nothing is false (not in nothing: true), but NULL for NULL.
fn expression(member: Member) -> Expr {
    let Member { operand, items: list, negated } = member;
    if list.is_empty() {
        let null = lit(ScalarValue::Boolean(None));
        return if negated { operand.is_not_null().or(null) } else { operand.is_null().and(null) };
    }
    Expr::InList(InList { expr: Box::new(operand), list, negated })
}
