//! Comparisons of numbers: with constants (ranges) and with each other (ratios).
//!
//! In: the two sides of a comparison. Out: a leaf over lanes. Invariant: exact; where DataFusion
//! would round or fail, there is no leaf.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::{Cast, Expr, ExprSchemable, Operator};

use super::build::Builder;
use super::leaf::{Cond, Leaf, Source};
use crate::rule::days;
use crate::rule::kernels::lane::{LaneKind, float_key};
use crate::rule::kernels::mask::Compare;

/// Digits before the point of any number that is exact in a lane.
const LANE_DIGITS: i16 = 20;

/// Digits before the point of any product a ratio kernel computes.
const PRODUCT_DIGITS: i16 = 16;

/// A lane times a factor over a power of ten.
struct Scaled {
    lane: usize,
    factor: u64,
    scale: u32,
}

impl Builder<'_> {
    /// The lane of a column or of `days_since(column)`.
    pub(super) fn lane(&mut self, expr: &Expr) -> Option<usize> {
        let (input, kind) = match expr {
            Expr::Column(_) => match self.column(expr)? {
                Source::Input(input) => (input, LaneKind::of(self.input_type(input))?),
                _ => return None,
            },
            Expr::ScalarFunction(f) if f.name() == days::NAME => match f.args.as_slice() {
                [since, as_of] if self.column(as_of) == Some(Source::AsOfDate) => {
                    match self.column(since)? {
                        Source::Input(input) => (input, LaneKind::Age),
                        _ => return None,
                    }
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(self.add_lane(input, kind))
    }

    /// Takes off casts that change the type but no value of a lane.
    fn uncast<'e>(&self, mut expr: &'e Expr) -> &'e Expr {
        while let Expr::Cast(Cast { expr: inner, field }) = expr {
            let from = inner.get_type(self.schema());
            let scale = match from {
                Ok(DataType::Int64 | DataType::UInt64) => 0,
                Ok(DataType::Decimal128(_, scale)) => i16::from(scale),
                _ => return expr,
            };
            match field.data_type() {
                DataType::Decimal128(p, s)
                    if i16::from(*s) >= scale && i16::from(*p) - i16::from(*s) >= LANE_DIGITS =>
                {
                    expr = inner;
                }
                _ => return expr,
            }
        }
        expr
    }

    pub(super) fn against_literal(
        &mut self,
        expr: &Expr,
        op: Operator,
        value: &ScalarValue,
    ) -> Option<Cond> {
        if value.is_null() {
            return Some(Cond::Const(false));
        }
        let lane = self.lane(self.uncast(expr))?;
        let kind = self.lane_kind(lane);
        let range = match (kind, value) {
            (LaneKind::Float, ScalarValue::Float64(Some(v))) => {
                let key = i128::from(float_key(*v));
                Range::new(op, key, key, true)?
            }
            (LaneKind::Float, _) => return None,
            (LaneKind::Date, ScalarValue::Date32(Some(day))) => {
                let day = i128::from(*day);
                Range::new(op, day, day, true)?
            }
            (LaneKind::Instant, ScalarValue::TimestampMillisecond(Some(ms), _)) => {
                let ms = i128::from(*ms);
                Range::new(op, ms, ms, true)?
            }
            (LaneKind::Bool, ScalarValue::Boolean(Some(v))) => {
                let v = i128::from(*v);
                Range::new(op, v, v, true)?
            }
            (LaneKind::Date | LaneKind::Instant | LaneKind::Bool, _) => return None,
            (LaneKind::Int | LaneKind::UInt | LaneKind::Decimal(_) | LaneKind::Age, value) => {
                let (mantissa, scale) = exact(value)?;
                let (floor, whole) = at_scale(mantissa, scale, kind.scale())?;
                Range::new(op, floor, if whole { floor } else { floor + 1 }, whole)?
            }
        };
        let (lo, hi) = range.clamped(kind);
        Some(self.leaf(Leaf::Range { lane, lo, hi, negated: range.negated }))
    }

    pub(super) fn two_columns(&mut self, left: &Expr, op: Operator, right: &Expr) -> Option<Cond> {
        let (compare, swap) = match op {
            Operator::Lt => (Compare::Lt, false),
            Operator::LtEq => (Compare::LtEq, false),
            Operator::Gt => (Compare::Lt, true),
            Operator::GtEq => (Compare::LtEq, true),
            Operator::Eq => (Compare::Eq, false),
            Operator::NotEq => (Compare::NotEq, false),
            _ => return None,
        };
        let (left, right) = if swap { (right, left) } else { (left, right) };
        // How an age changes against another number is not known ahead: no due day.
        if let (Some(x), Some(y)) = (self.lane(left), self.lane(right)) {
            let (a, b) = (self.lane_kind(x), self.lane_kind(y));
            if a == b && a != LaneKind::Age {
                return Some(self.leaf(Leaf::Plain { x, op: compare, y }));
            }
        }
        let (x, y) = (self.scaled(left)?, self.scaled(right)?);
        let scale = x.scale.max(y.scale);
        let factor = |s: &Scaled| s.factor.checked_mul(10_u64.checked_pow(scale - s.scale)?);
        let (a, b) = (factor(&x)?, factor(&y)?);
        Some(self.leaf(Leaf::Scaled { x: x.lane, a, op: compare, y: y.lane, b }))
    }

    fn scaled(&mut self, expr: &Expr) -> Option<Scaled> {
        match expr {
            Expr::Cast(Cast { expr: inner, field }) => {
                let from = match inner.get_type(self.schema()).ok()? {
                    DataType::Int64 | DataType::UInt64 => 0,
                    DataType::Decimal128(_, s) => i16::from(s),
                    _ => return None,
                };
                let DataType::Decimal128(p, s) = field.data_type() else { return None };
                let of = self.scaled(inner)?;
                // A leaf runs only where its products stay below 2^53: 16 digits.
                let room = i16::from(*p) - i16::from(*s) >= PRODUCT_DIGITS;
                (i16::from(*s) >= from && room).then_some(of)
            }
            Expr::BinaryExpr(b) if b.op == Operator::Multiply => {
                let (value, other) = match (&*b.left, &*b.right) {
                    (Expr::Literal(v, _), other) | (other, Expr::Literal(v, _)) => (v, other),
                    _ => return None,
                };
                let (mantissa, scale) = exact(value)?;
                let of = self.scaled(other)?;
                let factor = of.factor.checked_mul(u64::try_from(mantissa).ok()?)?;
                let scaled = Scaled { lane: of.lane, factor, scale: of.scale + scale };
                // Were the scale capped by the type, DataFusion would round.
                let kept = match expr.get_type(self.schema()).ok()? {
                    DataType::Int64 | DataType::UInt64 => scaled.scale == 0,
                    DataType::Decimal128(_, s) => u32::try_from(s).is_ok_and(|s| s >= scaled.scale),
                    _ => false,
                };
                (kept && factor > 0).then_some(scaled)
            }
            _ => {
                let lane = self.lane(expr)?;
                let kind = self.lane_kind(lane);
                matches!(kind, LaneKind::Int | LaneKind::UInt | LaneKind::Decimal(_))
                    .then(|| Scaled { lane, factor: 1, scale: kind.scale() })
            }
        }
    }
}

/// Mantissa and scale of a whole number or decimal.
fn exact(value: &ScalarValue) -> Option<(i128, u32)> {
    Some(match value {
        ScalarValue::Int64(Some(v)) => (i128::from(*v), 0),
        ScalarValue::Int32(Some(v)) => (i128::from(*v), 0),
        ScalarValue::UInt64(Some(v)) => (i128::from(*v), 0),
        ScalarValue::Decimal128(Some(v), _, scale) => (*v, u32::try_from(*scale).ok()?),
        _ => return None,
    })
}

/// `mantissa / 10^from` as a whole number of `10^-to`: its floor, and whether that is all of it.
fn at_scale(mantissa: i128, from: u32, to: u32) -> Option<(i128, bool)> {
    if to >= from {
        return Some((mantissa.checked_mul(10_i128.checked_pow(to - from)?)?, true));
    }
    let by = 10_i128.checked_pow(from - to)?;
    Some((mantissa.div_euclid(by), mantissa.rem_euclid(by) == 0))
}

struct Range {
    lo: Option<i128>,
    hi: Option<i128>,
    negated: bool,
}

impl Range {
    /// `x op c` over whole numbers, where c lies between `floor` and `ceil`.
    fn new(op: Operator, floor: i128, ceil: i128, whole: bool) -> Option<Self> {
        let (lo, hi, negated) = match op {
            Operator::Lt => (None, Some(ceil - 1), false),
            Operator::LtEq => (None, Some(floor), false),
            Operator::Gt => (Some(floor + 1), None, false),
            Operator::GtEq => (Some(ceil), None, false),
            Operator::Eq | Operator::NotEq if whole => {
                (Some(floor), Some(floor), op == Operator::NotEq)
            }
            // No whole number is equal to a fraction.
            Operator::Eq => (Some(1), Some(0), false),
            Operator::NotEq => (Some(1), Some(0), true),
            _ => return None,
        };
        Some(Self { lo, hi, negated })
    }

    /// As lane numbers; a bound beyond the column's domain is none, or excludes everything.
    fn clamped(&self, kind: LaneKind) -> (Option<i64>, Option<i64>) {
        let (least, greatest) = kind.domain();
        let empty = self.lo.is_some_and(|lo| lo > greatest)
            || self.hi.is_some_and(|hi| hi < least)
            || matches!((self.lo, self.hi), (Some(lo), Some(hi)) if lo > hi);
        if empty {
            return (Some(1), Some(0));
        }
        let lo = self.lo.filter(|lo| *lo > least).map(|lo| kind.number(lo));
        let hi = self.hi.filter(|hi| *hi < greatest).map(|hi| kind.number(hi));
        (lo, hi)
    }
}
