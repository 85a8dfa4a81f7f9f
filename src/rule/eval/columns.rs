//! Inputs and tags as arrays, for rules that DataFusion evaluates.
//!
//! In: a plan's inputs, codes by tag. Out: each array once a batch, and only when asked for.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, StringArray,
    TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::{AsOf, Scratch, stride};
use crate::rule::kernels::coded::Codes;
use crate::rule::plan::leaf::Source;
use crate::rule::plan::{Place, Plan};

/// Arrays as DataFusion wants them, made once per batch.
pub(super) struct Columns<'a> {
    pub(super) plan: &'a Plan,
    pub(super) inputs: &'a [ArrayRef],
    pub(super) rows: usize,
    pub(super) as_of: AsOf,
    pub(super) cache: Vec<(Source, ArrayRef)>,
}

impl Columns<'_> {
    pub(super) fn get(&mut self, source: Source, scratch: &Scratch, open: &[ArrayRef]) -> ArrayRef {
        if let Some((_, array)) = self.cache.iter().find(|(s, _)| *s == source) {
            return array.clone();
        }
        let array = match source {
            Source::Input(input) => plain(&self.inputs[input]),
            Source::Tag(tag) => self.of_tag(tag, scratch, open),
            Source::AsOf => Arc::new(
                TimestampMillisecondArray::from_value(self.as_of.ms, self.rows)
                    .with_data_type(self.plan.timestamp.clone()),
            ),
            Source::AsOfDate => Arc::new(Date32Array::from_value(self.as_of.day, self.rows)),
        };
        self.cache.push((source, array.clone()));
        array
    }

    fn of_tag(&self, tag: usize, scratch: &Scratch, open: &[ArrayRef]) -> ArrayRef {
        let planned = &self.plan.tags[tag];
        match planned.place {
            Place::Open(at) => open[at].clone(),
            Place::Closed(at) => {
                let start = at * stride(self.rows);
                let codes = &scratch.by_tag[start..start + self.rows];
                if let Some(Codes::Bool(no, _)) = planned.codes {
                    let value = |c: &u8| (*c != 0).then_some(*c != no);
                    return Arc::new(codes.iter().map(value).collect::<BooleanArray>());
                }
                let label = |code: &u8| {
                    usize::from(*code).checked_sub(1).map(|at| planned.labels[at].as_str())
                };
                Arc::new(codes.iter().map(label).collect::<StringArray>())
            }
        }
    }
}

/// Texts as plain strings, -0 as 0.
pub(super) fn plain(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        // A dictionary's own values always cast; were it not so, the batch fails and says so.
        DataType::Dictionary(_, values) => cast(array, values).unwrap_or_else(|_| array.clone()),
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            let zero = |v: &f64| *v == 0.0 && v.is_sign_negative();
            if !floats.values().iter().any(zero) {
                return array.clone();
            }
            let whole: Float64Array = floats.unary(|v| v + 0.0);
            Arc::new(whole)
        }
        _ => array.clone(),
    }
}
