//! Which inputs would give a user another value of a tag.
//!
//! In: one user's input columns and a tag. Out: for each input the nearest values, up and down, that
//! give another value of the tag while everything else stays as it is. Found by evaluating the plan
//! with other values, so what is said here is what the engine does.
//! Invariant: pure; whatever is reported was evaluated. An interval so narrow that none of the
//! probed values hits it may be missed.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::Expr;

use super::{AsOf, InputField, Plan, PlanError};
use crate::catalog::model::{Catalog, Tag};
use crate::clock::Zone;

mod axis;

use axis::Axis;

/// Texts tried for a text input.
const TEXTS_MAX: usize = 64;

/// Points tried between two known ones in each round.
const SECTIONS: i128 = 16;

/// What an input would have to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Flip {
    /// Index into the plan's inputs.
    pub input: usize,
    /// The nearest greater value that gives another value of the tag.
    pub rise: Option<Crossing>,
    /// The nearest smaller one.
    pub fall: Option<Crossing>,
    /// What NULL gives, where it gives something else.
    pub null: Option<u8>,
    /// Values without order (or for an input that is NULL) that give something else, and what.
    pub others: Vec<(ScalarValue, u8)>,
}

/// Where a tag changes along an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// The first value that gives `code`.
    pub value: ScalarValue,
    /// The value before it, which changes nothing.
    pub last: ScalarValue,
    /// The tag's code there.
    pub code: u8,
}

/// One tag and those it reads, without all others.
#[derive(Debug)]
pub struct Focus {
    /// Over the inputs of the whole catalogue.
    pub plan: Plan,
    /// Those tags, in catalogue order.
    pub tags: Vec<Tag>,
    /// Index of the one into `tags`, and so into the plan's tags.
    pub tag: usize,
    zone: Zone,
}

impl Focus {
    /// Compiles one tag of a catalogue with those it reads.
    pub fn new(catalog: &Catalog, inputs: &[InputField], tag: usize) -> Result<Self, PlanError> {
        let wanted = closure(catalog, tag).1;
        let mut kept = wanted.clone();
        kept.sort_unstable();
        let place = |of: &usize| kept.iter().position(|t| t == of);
        let part = Catalog {
            tags: kept.iter().map(|t| catalog.tags[*t].clone()).collect(),
            tag_order: catalog.tag_order.iter().filter_map(place).collect(),
            ..catalog.without_definitions()
        };
        let plan = Plan::compile(&part, inputs)?;
        let tag = place(&tag).unwrap_or(0);
        Ok(Self { plan, tags: part.tags, tag, zone: part.zone })
    }
}

/// Tries other inputs on one user.
pub struct Prober<'a> {
    focus: &'a Focus,
    inputs: &'a [ArrayRef],
    as_of: AsOf,
    /// Among the closed tags.
    closed: usize,
    present: u8,
    literals: Vec<ScalarValue>,
}

impl<'a> Prober<'a> {
    /// `inputs`: one row. `None`: the tag's values are not labels, so every change of an input may
    /// change it.
    pub fn new(focus: &'a Focus, inputs: &'a [ArrayRef], as_of: AsOf) -> Option<Self> {
        let closed = focus.plan.closed_tags().iter().position(|t| *t == focus.tag)?;
        let mut literals = Vec::new();
        for tag in &focus.tags {
            collect_literals(&tag.expr.expr, &mut literals);
        }
        let batch = focus.plan.evaluate(inputs, 1, as_of);
        let present = focus.plan.packing().get(batch.codes_of(0), closed);
        Some(Self { focus, inputs, as_of, closed, present, literals })
    }

    /// The tag's present code.
    pub fn present(&self) -> u8 {
        self.present
    }

    /// The tag's codes when one input has other values.
    pub fn codes(&self, input: usize, values: &[ScalarValue]) -> Vec<u8> {
        let rows = values.len();
        if rows == 0 {
            return Vec::new();
        }
        let first = UInt32Array::from(vec![0; rows]);
        let column = |(at, array): (usize, &ArrayRef)| {
            if at == input
                && let Some(column) = column_of(values, array.data_type())
            {
                return column;
            }
            // Index 0 is the one row there is.
            take(array, &first, None).unwrap_or_else(|_| Arc::clone(array))
        };
        let columns: Vec<ArrayRef> = self.inputs.iter().enumerate().map(column).collect();
        let batch = self.focus.plan.evaluate(&columns, rows, self.as_of);
        let packing = self.focus.plan.packing();
        (0..rows).map(|row| packing.get(batch.codes_of(row), self.closed)).collect()
    }

    /// What one input would have to be. `lowest`: no value of this input is smaller (a count);
    /// `past`: an instant that cannot lie behind the as-of day.
    pub fn flip(&self, input: usize, lowest: Option<i64>, past: bool) -> Flip {
        let array = &self.inputs[input];
        let present = ScalarValue::try_from_array(array, 0).unwrap_or(ScalarValue::Null);
        let mut flip = Flip { input, rise: None, fall: None, null: None, others: Vec::new() };
        if !present.is_null() {
            let null =
                ScalarValue::try_from(&inner(array.data_type())).unwrap_or(ScalarValue::Null);
            let code = self.codes(input, &[null]);
            flip.null = code.first().copied().filter(|code| *code != self.present);
        }
        match Axis::new(inner(array.data_type()), &present, self.as_of, &self.focus.zone) {
            Some(axis) => {
                let (low, high) = axis.range(lowest, past);
                self.along(input, &axis, (low, high), &mut flip);
            }
            None => self.among(input, array.data_type(), &present, &mut flip),
        }
        flip
    }

    /// Texts and booleans: those that the rules name.
    fn among(&self, input: usize, data_type: &DataType, present: &ScalarValue, flip: &mut Flip) {
        let values: Vec<ScalarValue> = match inner(data_type) {
            DataType::Boolean => vec![true.into(), false.into()],
            DataType::Utf8 => {
                let texts = self.literals.iter().filter_map(|l| l.try_as_str().flatten());
                texts.take(TEXTS_MAX).map(ScalarValue::from).collect()
            }
            _ => return,
        };
        let is_present = |v: &ScalarValue| match (v.try_as_str(), present.try_as_str()) {
            (Some(a), Some(b)) => a == b,
            _ => v == present,
        };
        let values: Vec<ScalarValue> = values.into_iter().filter(|v| !is_present(v)).collect();
        let codes = self.codes(input, &values);
        let changed = values.into_iter().zip(codes).filter(|(_, code)| *code != self.present);
        flip.others = changed.collect();
    }

    /// Numbers, days and instants: the nearest changes in both directions.
    fn along(&self, input: usize, axis: &Axis, (low, high): (i128, i128), flip: &mut Flip) {
        let mut points = axis.points(&self.literals);
        points.extend([low, high]);
        points.retain(|p| (low..=high).contains(p));
        points.sort_unstable();
        points.dedup();
        let codes = self.codes_at(input, axis, &points);
        let Some(present) = axis.present else {
            let mut seen = vec![self.present];
            for (point, code) in points.iter().zip(codes) {
                if !seen.contains(&code) {
                    seen.push(code);
                    flip.others.push((axis.value(*point), code));
                }
            }
            return;
        };
        let above = points.partition_point(|p| *p <= present);
        let changed = |at: &usize| codes[*at] != self.present;
        if let Some(at) = (above..points.len()).find(changed) {
            let before = if at == above { present } else { points[at - 1] };
            flip.rise = Some(self.between(input, axis, before, points[at]));
        }
        let below = points.partition_point(|p| *p < present);
        if let Some(at) = (0..below).rev().find(changed) {
            let before = if at + 1 == below { present } else { points[at + 1] };
            flip.fall = Some(self.between(input, axis, before, points[at]));
        }
    }

    /// The first change between a value that changes nothing and one that does.
    fn between(&self, input: usize, axis: &Axis, mut same: i128, mut other: i128) -> Crossing {
        while (other - same).abs() > 1 {
            let step = ((other - same).abs() / SECTIONS).max(1) * (other - same).signum();
            let points: Vec<i128> = (1..SECTIONS)
                .map(|n| same + step * n)
                .filter(|p| (other - p).signum() == step.signum())
                .collect();
            let codes = self.codes_at(input, axis, &points);
            match codes.iter().position(|code| *code != self.present) {
                Some(at) => {
                    other = points[at];
                    same = if at == 0 { same } else { points[at - 1] };
                }
                None => same = points.last().copied().unwrap_or(same),
            }
        }
        let code = self.codes_at(input, axis, &[other]).first().copied().unwrap_or(0);
        Crossing { value: axis.value(other), last: axis.value(same), code }
    }

    fn codes_at(&self, input: usize, axis: &Axis, points: &[i128]) -> Vec<u8> {
        let values: Vec<ScalarValue> = points.iter().map(|p| axis.value(*p)).collect();
        self.codes(input, &values)
    }
}

/// The input columns that a tag depends on, through other tags too, and the tags on the way (the tag
/// itself first).
pub fn closure(catalog: &Catalog, tag: usize) -> (Vec<String>, Vec<usize>) {
    let (mut columns, mut tags) = (Vec::new(), vec![tag]);
    let mut at = 0;
    while at < tags.len() {
        for name in &catalog.tags[tags[at]].expr.columns {
            match catalog.tags.iter().position(|t| t.name == *name) {
                Some(other) if !tags.contains(&other) => tags.push(other),
                Some(_) => {}
                None if !columns.contains(name) => columns.push(name.clone()),
                None => {}
            }
        }
        at += 1;
    }
    (columns, tags)
}

fn collect_literals(expr: &Expr, out: &mut Vec<ScalarValue>) {
    let mut add = |value: &ScalarValue| {
        if !value.is_null() && !out.contains(value) {
            out.push(value.clone());
        }
    };
    // The visit itself cannot fail: its closure never returns an error.
    let visited = expr.apply(|e| {
        if let Expr::Literal(value, _) = e {
            add(value);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok());
}

fn inner(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

fn column_of(values: &[ScalarValue], data_type: &DataType) -> Option<ArrayRef> {
    let plain = ScalarValue::iter_to_array(values.iter().cloned()).ok()?;
    if plain.data_type() == data_type { Some(plain) } else { cast(&plain, data_type).ok() }
}

#[cfg(test)]
mod tests;
