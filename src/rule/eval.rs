//! One batch of users through a plan.
//!
//! In: the plan's input columns and the instant the result is about. Out: codes per user, open
//! values, failures, and the day from which time alone may change something. Invariant: no clock;
//! the result depends on the arguments only, never on what the scratch has seen before.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, RecordBatch,
    RecordBatchOptions, StringArray, TimestampMillisecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::clock::Day;

use super::kernels::CHUNK_ROWS;
use super::kernels::coded::{Coded, Codes};
use super::kernels::lane::{Lane, fill_validity};
use super::kernels::mask::{self, Side};
use super::kernels::transpose::transpose;
use super::plan::leaf::{Cases, Cond, LaneSpec, Leaf, Source};
use super::plan::{Place, Plan, PlannedTag, Program, Stage};

/// Never: no day at which time alone changes anything.
pub const NEVER: Day = Day::MAX;

/// Whole numbers up to this are exact as floats.
const EXACT_MAX: u128 = 1 << 53;

/// The instant a result is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// Epoch milliseconds.
    pub ms: i64,
    /// Its local date.
    pub day: Day,
}

/// What a plan gives for a batch of users.
#[derive(Debug, Default, Clone)]
pub struct TagBatch {
    /// Users.
    pub rows: usize,
    /// Closed tags.
    pub closed: usize,
    /// `rows` runs of `closed` codes, in the order of [`Plan::closed_tags`]; 0 is "no value".
    pub codes: Vec<u8>,
    /// One array per open tag, in the order of [`Plan::open_tags`].
    pub open: Vec<ArrayRef>,
    /// Catalogue tag index and rows that could not be computed, where there were any.
    pub failed: Vec<(usize, u64)>,
    /// Per user the first day after the as-of day on which a tag may change by time alone.
    pub due_days: Vec<Day>,
}

/// What is reused from batch to batch. One per thread and plan.
#[derive(Debug, Default)]
pub struct Scratch {
    lanes: Vec<Lane>,
    valid: Vec<Vec<u8>>,
    coded: Vec<Coded>,
    /// Codes by tag: `closed` runs of `stride` bytes.
    by_tag: Vec<u8>,
    masks: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Plan {
    /// [`Self::evaluate_into`] with everything new.
    pub fn evaluate(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf) -> TagBatch {
        let mut out = TagBatch::default();
        self.evaluate_into(inputs, rows, as_of, &mut Scratch::default(), &mut out);
        out
    }

    /// Evaluates all tags of `rows` users. `inputs` are the columns of [`Plan::inputs`].
    pub fn evaluate_into(
        &self,
        inputs: &[ArrayRef],
        rows: usize,
        as_of: AsOf,
        scratch: &mut Scratch,
        out: &mut TagBatch,
    ) {
        debug_assert_eq!(inputs.len(), self.inputs.len());
        self.prepare(inputs, rows, as_of, scratch);
        out.rows = rows;
        out.closed = self.closed.len();
        out.failed.clear();
        out.open.clear();
        out.open.extend(self.open.iter().map(|t| new_null_array(&self.tags[*t].data_type, 0)));
        out.codes.resize(rows * self.closed.len(), 0);
        scratch.by_tag.resize(self.closed.len() * stride(rows), 0);
        let mut columns = Columns { plan: self, inputs, rows, as_of, cache: Vec::new() };
        let leaf_runs: Vec<bool> =
            self.leaves.iter().map(|l| self.leaf_is_exact(l, scratch)).collect();
        for (at, stage) in self.stages.iter().enumerate() {
            let (kernels, safe): (Vec<usize>, Vec<usize>) = stage
                .tags
                .iter()
                .partition(|t| self.runs_as_kernel(&self.tags[**t], &leaf_runs, scratch));
            for tag in safe {
                self.run_safe(tag, &mut columns, scratch, out);
            }
            let last = at + 1 == self.stages.len();
            self.run_kernels(stage, &kernels, &leaf_runs, rows, scratch, |from, chunk| {
                if last {
                    let closed = self.closed.len();
                    let to = &mut out.codes[chunk.start * closed..chunk.end * closed];
                    transpose(&from[chunk.start..], stride(rows), closed, chunk.len(), to);
                }
            });
        }
        self.due(rows, as_of, scratch, &mut out.due_days);
    }

    fn prepare(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf, scratch: &mut Scratch) {
        scratch.lanes.resize_with(self.lanes.len(), Lane::default);
        scratch.valid.resize_with(inputs.len(), Vec::new);
        scratch.coded.resize_with(inputs.len(), Coded::default);
        for (at, array) in inputs.iter().enumerate() {
            if self.validity[at] {
                // For a dictionary, a key may point to a NULL.
                let nulls = array.logical_nulls();
                fill_validity(nulls.as_ref(), rows, &mut scratch.valid[at]);
            }
            if !self.tables[at].is_empty() {
                scratch.coded[at].fill(array, &self.inputs[at].name, &self.tables[at]);
            }
        }
        for (lane, spec) in scratch.lanes.iter_mut().zip(&self.lanes) {
            lane.fill(&inputs[spec.input], spec.kind, spec.forms, (as_of.day, &self.days));
        }
    }

    fn leaf_is_exact(&self, leaf: &Leaf, scratch: &Scratch) -> bool {
        let lane = |lane: &usize| &scratch.lanes[*lane];
        match leaf {
            Leaf::Range { lane: x, .. } => lane(x).exact,
            Leaf::Plain { x, y, .. } => lane(x).exact && lane(y).exact,
            Leaf::Scaled { x, a, y, b, .. } => {
                let fits = |l: &Lane, by: u64| {
                    l.exact
                        && u128::from(l.abs_max) * u128::from(by) <= EXACT_MAX
                        && u128::from(by) <= EXACT_MAX
                };
                fits(lane(x), *a) && fits(lane(y), *b)
            }
            Leaf::Valid { .. } | Leaf::Table { .. } | Leaf::Tag { .. } => true,
        }
    }

    fn runs_as_kernel(&self, tag: &PlannedTag, leaf_runs: &[bool], scratch: &Scratch) -> bool {
        match &tag.program {
            None => false,
            Some(Program::Step { lane, .. }) => scratch.lanes[*lane].exact,
            Some(Program::Table { .. }) => true,
            Some(Program::Cases(_)) => tag.leaves.iter().all(|l| leaf_runs[*l]),
        }
    }

    fn run_safe(
        &self,
        tag: usize,
        columns: &mut Columns<'_>,
        scratch: &mut Scratch,
        out: &mut TagBatch,
    ) {
        let planned = &self.tags[tag];
        let options = RecordBatchOptions::new().with_row_count(Some(columns.rows));
        let arrays = planned.reads.iter().map(|r| columns.get(*r, scratch, &out.open)).collect();
        let batch = RecordBatch::try_new_with_options(planned.schema.clone(), arrays, &options);
        let (array, failed_rows) = match batch {
            Ok(batch) => {
                let evaluated = planned.safe.evaluate(&batch);
                (evaluated.array, evaluated.failed_rows)
            }
            // Inputs of other types than planned: nothing can be computed, and that shows.
            Err(_) => (new_null_array(&planned.data_type, columns.rows), columns.rows as u64),
        };
        if failed_rows > 0 {
            out.failed.push((tag, failed_rows));
        }
        match (planned.place, &planned.codes) {
            (Place::Closed(at), Some(codes)) => {
                let mut column = Vec::with_capacity(columns.rows);
                codes.put(&array, &mut column);
                let start = at * stride(columns.rows);
                scratch.by_tag[start..start + columns.rows].copy_from_slice(&column);
            }
            (Place::Open(at), _) => out.open[at] = array,
            (Place::Closed(_), None) => {}
        }
    }

    /// Runs a stage's kernels chunk by chunk; `done` sees the codes by tag after each chunk.
    fn run_kernels(
        &self,
        stage: &Stage,
        tags: &[usize],
        leaf_runs: &[bool],
        rows: usize,
        scratch: &mut Scratch,
        mut done: impl FnMut(&[u8], std::ops::Range<usize>),
    ) {
        let mut slots = vec![usize::MAX; self.leaves.len()];
        stage.leaves.iter().enumerate().for_each(|(slot, leaf)| slots[*leaf] = slot);
        scratch.masks.resize(stage.leaves.len() * CHUNK_ROWS, 0);
        for start in (0..rows).step_by(CHUNK_ROWS) {
            let chunk = start..rows.min(start + CHUNK_ROWS);
            let mut masks = std::mem::take(&mut scratch.masks);
            for (leaf, out) in stage.leaves.iter().zip(masks.chunks_exact_mut(CHUNK_ROWS)) {
                if leaf_runs[*leaf] {
                    let out = &mut out[..chunk.len()];
                    self.run_leaf(&self.leaves[*leaf], rows, &chunk, scratch, out);
                }
            }
            let mut by_tag = std::mem::take(&mut scratch.by_tag);
            let mut spare = std::mem::take(&mut scratch.spare);
            for tag in tags {
                let planned = &self.tags[*tag];
                let (Place::Closed(at), Some(program)) = (planned.place, &planned.program) else {
                    continue;
                };
                let start = at * stride(rows);
                let out = &mut by_tag[start + chunk.start..start + chunk.end];
                let masks = Masks { slots: &slots, masks: &masks };
                self.run_program(program, &chunk, scratch, &masks, &mut spare, out);
            }
            done(&by_tag, chunk);
            scratch.by_tag = by_tag;
            scratch.spare = spare;
            scratch.masks = masks;
        }
    }

    fn run_leaf(
        &self,
        leaf: &Leaf,
        rows: usize,
        chunk: &std::ops::Range<usize>,
        scratch: &Scratch,
        out: &mut [u8],
    ) {
        let valid = |lane: usize| &scratch.valid[self.lanes[lane].input][chunk.clone()];
        match leaf {
            Leaf::Range { lane: x, lo, hi, negated } => {
                let lane = &scratch.lanes[*x];
                if self.lanes[*x].forms.narrow {
                    let narrow = |bound: Option<i64>| bound.and_then(|b| i32::try_from(b).ok());
                    let bounds = (narrow(*lo), narrow(*hi));
                    mask::range(&lane.narrow[chunk.clone()], valid(*x), bounds, *negated, out);
                } else {
                    let values = &lane.wide[chunk.clone()];
                    mask::range(values, valid(*x), (*lo, *hi), *negated, out);
                }
            }
            Leaf::Valid { input, negated } => {
                out.copy_from_slice(&scratch.valid[*input][chunk.clone()]);
                if *negated {
                    mask::not(out);
                }
            }
            Leaf::Plain { x, op, y } => {
                let side = |lane: usize| Side {
                    values: &scratch.lanes[lane].wide[chunk.clone()],
                    valid: valid(lane),
                    factor: 1,
                };
                mask::compare(side(*x), *op, side(*y), out);
            }
            Leaf::Scaled { x, a, op, y, b } => {
                let side = |lane: usize, factor: u64| Side {
                    values: &scratch.lanes[lane].float[chunk.clone()],
                    valid: valid(lane),
                    factor: factor as f64,
                };
                mask::compare(side(*x, *a), *op, side(*y, *b), out);
            }
            Leaf::Table { input, table } => {
                let coded = &scratch.coded[*input];
                gather(&coded.tables[*table], &coded.rows[chunk.clone()], out);
            }
            Leaf::Tag { tag, codes } => {
                let Place::Closed(at) = self.tags[*tag].place else { return };
                let start = at * stride(rows);
                let codes_of = &scratch.by_tag[start + chunk.start..start + chunk.end];
                for (out, code) in out.iter_mut().zip(codes_of) {
                    *out = u8::from(codes[usize::from(code / 64)] >> (code % 64) & 1 == 1);
                }
            }
        }
    }

    fn run_program(
        &self,
        program: &Program,
        chunk: &std::ops::Range<usize>,
        scratch: &Scratch,
        masks: &Masks<'_>,
        spare: &mut Vec<Vec<u8>>,
        out: &mut [u8],
    ) {
        match program {
            Program::Step { lane: at, narrow, wide } => {
                let lane = &scratch.lanes[*at];
                let valid = &scratch.valid[self.lanes[*at].input][chunk.clone()];
                match narrow {
                    Some(step) => step.run(&lane.narrow[chunk.clone()], valid, out),
                    None => wide.run(&lane.wide[chunk.clone()], valid, out),
                }
            }
            Program::Table { input, table } => {
                let coded = &scratch.coded[*input];
                gather(&coded.tables[*table], &coded.rows[chunk.clone()], out);
            }
            Program::Cases(cases) => run_cases(cases, masks, spare, out),
        }
    }

    fn due(&self, rows: usize, as_of: AsOf, scratch: &Scratch, due: &mut Vec<Day>) {
        let first = if self.unbounded.is_empty() { NEVER } else { as_of.day.saturating_add(1) };
        due.clear();
        due.resize(rows, first);
        if !self.unbounded.is_empty() {
            return; // nothing is earlier than tomorrow
        }
        for (spec, lane) in self.lanes.iter().zip(&scratch.lanes) {
            if !spec.boundaries.is_empty() {
                due_of_ages(spec, lane, as_of.day, &scratch.valid[spec.input], due);
            }
        }
    }
}

/// An age grows by one a day: the next boundary above it says when it matters.
fn due_of_ages(spec: &LaneSpec, lane: &Lane, today: Day, valid: &[u8], due: &mut [Day]) {
    for (row, (due, valid)) in due.iter_mut().zip(valid).enumerate() {
        if *valid == 0 {
            continue;
        }
        let age = if spec.forms.narrow { i64::from(lane.narrow[row]) } else { lane.wide[row] };
        let next = spec.boundaries.partition_point(|b| *b <= age);
        if let Some(boundary) = spec.boundaries.get(next) {
            let day = i64::from(today) + (boundary - age);
            *due = (*due).min(Day::try_from(day).unwrap_or(NEVER));
        }
    }
}

/// Bytes from one tag's codes to the next's: an odd number of cache lines, so that the same rows of
/// many tags do not compete for the same few places in the cache.
fn stride(rows: usize) -> usize {
    (rows.div_ceil(64) | 1) * 64
}

fn gather(table: &[u8], ids: &[u32], out: &mut [u8]) {
    for (out, id) in out.iter_mut().zip(ids) {
        *out = table[*id as usize];
    }
}

/// The masks of a chunk, by leaf.
struct Masks<'a> {
    slots: &'a [usize],
    masks: &'a [u8],
}

impl Masks<'_> {
    fn of(&self, leaf: usize, rows: usize) -> &[u8] {
        let start = self.slots[leaf] * CHUNK_ROWS;
        &self.masks[start..start + rows]
    }
}

fn run_cases(cases: &Cases, masks: &Masks<'_>, spare: &mut Vec<Vec<u8>>, out: &mut [u8]) {
    let mut taken = spare.pop().unwrap_or_default();
    taken.resize(out.len(), 0);
    out.fill(cases.otherwise);
    // From the last to the first, so that the first that is true has the last word.
    for (cond, code) in cases.whens.iter().rev() {
        if let Cond::Leaf(leaf) = cond {
            mask::choose(masks.of(*leaf, out.len()), *code, out);
        } else {
            run_cond(cond, masks, spare, &mut taken);
            mask::choose(&taken, *code, out);
        }
    }
    spare.push(taken);
}

fn run_cond(cond: &Cond, masks: &Masks<'_>, spare: &mut Vec<Vec<u8>>, out: &mut [u8]) {
    match cond {
        Cond::Const(value) => out.fill(u8::from(*value)),
        Cond::Leaf(leaf) => out.copy_from_slice(masks.of(*leaf, out.len())),
        Cond::Not(inner) => {
            run_cond(inner, masks, spare, out);
            mask::not(out);
        }
        Cond::And(parts) => fold(parts, masks, spare, out, mask::and),
        Cond::Or(parts) => fold(parts, masks, spare, out, mask::or),
    }
}

fn fold(
    parts: &[Cond],
    masks: &Masks<'_>,
    spare: &mut Vec<Vec<u8>>,
    out: &mut [u8],
    join: fn(&mut [u8], &[u8]),
) {
    let mut other = spare.pop().unwrap_or_default();
    other.resize(out.len(), 0);
    for (at, part) in parts.iter().enumerate() {
        match part {
            _ if at == 0 => run_cond(part, masks, spare, out),
            Cond::Leaf(leaf) => join(out, masks.of(*leaf, out.len())),
            part => {
                run_cond(part, masks, spare, &mut other);
                join(out, &other);
            }
        }
    }
    spare.push(other);
}

/// Arrays as DataFusion wants them, made once per batch.
struct Columns<'a> {
    plan: &'a Plan,
    inputs: &'a [ArrayRef],
    rows: usize,
    as_of: AsOf,
    cache: Vec<(Source, ArrayRef)>,
}

impl Columns<'_> {
    fn get(&mut self, source: Source, scratch: &Scratch, open: &[ArrayRef]) -> ArrayRef {
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
fn plain(array: &ArrayRef) -> ArrayRef {
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

#[cfg(test)]
mod tests;
