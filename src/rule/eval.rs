//! One batch of users through a plan.
//!
//! In: the plan's input columns and the instant the result is about. Out: codes per user, open
//! values, failures, and the day from which time alone may change something. Rows go through in
//! chunks whose columns, masks and codes stay in the second-level cache.
//! Invariant: no clock; the result depends on the arguments only, never on what the scratch has
//! seen before.

mod columns;
mod due;
mod programs;
#[cfg(test)]
mod tests;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};

use crate::clock::{Day, Hop, hop_of};

use self::columns::Columns;
use self::programs::Masks;
use super::kernels::CHUNK_ROWS;
use super::kernels::coded::Coded;
use super::kernels::lane::{Lane, fill_validity};
use super::kernels::mask::count_present;
use super::kernels::transpose::transpose;
use super::plan::leaf::Leaf;
use super::plan::{Place, Plan, PlannedTag, Program, Stage};

/// Never: no day at which time alone changes anything.
pub const NEVER: Day = Day::MAX;

/// Whole numbers up to this are exact as floats.
const EXACT_MAX: u64 = 1 << 53;

/// The instant a result is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// Epoch milliseconds.
    pub ms: i64,
    /// Its local date.
    pub day: Day,
}

/// What a plan gives for a batch of users.
#[derive(Debug, Clone)]
pub struct TagBatch {
    /// Users.
    pub rows: usize,
    /// Bytes of one user's codes.
    pub code_bytes: usize,
    /// One user's codes after the other's, packed as [`Plan::packing`] says.
    pub codes: Vec<u8>,
    /// One array per open tag, in the order of [`Plan::open_tags`].
    pub open: Vec<ArrayRef>,
    /// Catalogue tag index and rows that could not be computed, where there were any.
    pub failed: Vec<(usize, u64)>,
    /// Per user the first day after the as-of day on which a tag may change by time alone.
    pub due_days: Vec<Day>,
    /// The next hop, where a tag reads the instant itself and rolling features: it may change in any
    /// hop. Else one that never comes.
    pub due_hop: Hop,
    /// Per closed tag the marked rows that have a value: see [`Plan::evaluate_into`]. Empty when no
    /// row is marked.
    pub present: Vec<u64>,
}

impl Default for TagBatch {
    fn default() -> Self {
        Self {
            rows: 0,
            code_bytes: 0,
            codes: Vec::new(),
            open: Vec::new(),
            failed: Vec::new(),
            due_days: Vec::new(),
            due_hop: Hop::MAX,
            present: Vec::new(),
        }
    }
}

impl TagBatch {
    /// The packed codes of a row.
    pub fn codes_of(&self, row: usize) -> &[u8] {
        &self.codes[row * self.code_bytes..(row + 1) * self.code_bytes]
    }
}

/// What is reused from batch to batch. One per thread and plan.
#[derive(Debug, Default)]
pub struct Scratch {
    lanes: Vec<Lane>,
    valid: Vec<Vec<u8>>,
    coded: Vec<Coded>,
    /// Codes by tag, [`stride`] bytes from one to the next.
    by_tag: Vec<u8>,
    /// The same packed: by byte of a user's codes.
    by_byte: Vec<u8>,
    masks: Vec<u8>,
    spare: Vec<Vec<u8>>,
    /// By leaf: whether its lanes hold exact numbers in this chunk.
    leaf_runs: Vec<bool>,
    slots: Vec<usize>,
    kernels: Vec<usize>,
    /// Tags outside of their validity.
    absent: Vec<usize>,
    safe: Vec<usize>,
    due: due::Scratch,
}

impl Plan {
    /// [`Self::evaluate_into`] with everything new and no row marked.
    pub fn evaluate(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf) -> TagBatch {
        let mut out = TagBatch::default();
        self.evaluate_into(inputs, rows, as_of, &[], &mut Scratch::default(), &mut out);
        out
    }

    /// Evaluates all tags of `rows` users. `inputs` are the columns of [`Plan::inputs`]. `marks`: 1
    /// for rows whose values are to be counted in [`TagBatch::present`], else 0; may be empty.
    pub fn evaluate_into(
        &self,
        inputs: &[ArrayRef],
        rows: usize,
        as_of: AsOf,
        marks: &[u8],
        scratch: &mut Scratch,
        out: &mut TagBatch,
    ) {
        debug_assert_eq!(inputs.len(), self.inputs.len());
        out.rows = rows;
        out.code_bytes = self.packing.bytes();
        out.codes.clear();
        out.failed.clear();
        out.due_days.clear();
        out.present.clear();
        out.due_hop = if self.every_hop.is_empty() { Hop::MAX } else { hop_of(as_of.ms) + 1 };
        if !marks.is_empty() {
            out.present.resize(self.closed.len(), 0);
        }
        if rows <= CHUNK_ROWS {
            out.open = self.no_open();
            self.chunk(inputs, rows, as_of, marks, scratch, out);
            return;
        }
        let mut open: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.open.len()];
        for start in (0..rows).step_by(CHUNK_ROWS) {
            let count = CHUNK_ROWS.min(rows - start);
            let part: Vec<ArrayRef> = inputs.iter().map(|a| a.slice(start, count)).collect();
            let marks = marks.get(start..start + count).unwrap_or_default();
            out.open = self.no_open();
            self.chunk(&part, count, as_of, marks, scratch, out);
            open.iter_mut().zip(out.open.drain(..)).for_each(|(all, new)| all.push(new));
        }
        out.open = open.iter().map(|parts| joined(parts)).collect();
    }

    fn no_open(&self) -> Vec<ArrayRef> {
        self.open.iter().map(|t| new_null_array(&self.tags[*t].data_type, 0)).collect()
    }

    /// Evaluates one chunk and appends its codes.
    fn chunk(
        &self,
        inputs: &[ArrayRef],
        rows: usize,
        as_of: AsOf,
        marks: &[u8],
        scratch: &mut Scratch,
        out: &mut TagBatch,
    ) {
        self.prepare(inputs, rows, as_of, scratch);
        let mut columns = Columns { plan: self, inputs, rows, as_of, cache: Vec::new() };
        for stage in &self.stages {
            self.sort_by_way(stage, as_of, scratch);
            self.put_absent(rows, scratch, out);
            let safe = std::mem::take(&mut scratch.safe);
            for tag in &safe {
                self.run_safe(*tag, &mut columns, scratch, out);
            }
            scratch.safe = safe;
            self.run_kernels(stage, rows, scratch);
        }
        if !marks.is_empty() {
            let columns = scratch.by_tag.chunks_exact(stride(rows).max(1));
            for (present, codes) in out.present.iter_mut().zip(columns) {
                *present += count_present(&codes[..rows], marks);
            }
        }
        self.packing.pack_columns(&scratch.by_tag, stride(rows), rows, &mut scratch.by_byte);
        let (from, bytes) = (out.codes.len(), self.packing.bytes());
        out.codes.resize(from + rows * bytes, 0);
        transpose(&scratch.by_byte, stride(rows), bytes, rows, &mut out.codes[from..]);
        self.due(rows, as_of, scratch, &mut out.due_days);
    }

    fn prepare(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf, scratch: &mut Scratch) {
        scratch.lanes.resize_with(self.lanes.len(), Lane::default);
        scratch.valid.resize_with(inputs.len(), Vec::new);
        scratch.coded.resize_with(inputs.len(), Coded::default);
        scratch.by_tag.resize(self.closed.len() * stride(rows), 0);
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
        let mut leaf_runs = std::mem::take(&mut scratch.leaf_runs);
        leaf_runs.clear();
        if scratch.lanes.iter().all(|l| l.exact) {
            // Then only products may not be exact.
            leaf_runs.resize(self.leaves.len(), true);
            for leaf in &self.scaled {
                leaf_runs[*leaf] = self.leaf_is_exact(&self.leaves[*leaf], scratch);
            }
        } else {
            leaf_runs.extend(self.leaves.iter().map(|l| self.leaf_is_exact(l, scratch)));
        }
        scratch.leaf_runs = leaf_runs;
    }

    fn leaf_is_exact(&self, leaf: &Leaf, scratch: &Scratch) -> bool {
        let lane = |lane: &usize| &scratch.lanes[*lane];
        match leaf {
            Leaf::Range { lane: x, .. } => lane(x).exact,
            Leaf::Plain { x, y, .. } => lane(x).exact && lane(y).exact,
            Leaf::Scaled { x, a, y, b, .. } => {
                let fits = |l: &Lane, by: u64| {
                    let product = l.abs_max.checked_mul(by);
                    l.exact && by <= EXACT_MAX && product.is_some_and(|p| p <= EXACT_MAX)
                };
                fits(lane(x), *a) && fits(lane(y), *b)
            }
            Leaf::Valid { .. } | Leaf::Table { .. } | Leaf::Tag { .. } => true,
        }
    }

    /// Which tags of a stage run as kernels on this chunk, which DataFusion evaluates, and which
    /// have no value at this instant.
    fn sort_by_way(&self, stage: &Stage, as_of: AsOf, scratch: &mut Scratch) {
        let (mut kernels, mut safe) =
            (std::mem::take(&mut scratch.kernels), std::mem::take(&mut scratch.safe));
        let mut absent = std::mem::take(&mut scratch.absent);
        kernels.clear();
        safe.clear();
        absent.clear();
        for tag in &stage.tags {
            let way = if !self.tags[*tag].valid.holds(as_of.ms) {
                &mut absent
            } else if self.runs_as_kernel(&self.tags[*tag], scratch) {
                &mut kernels
            } else {
                &mut safe
            };
            way.push(*tag);
        }
        (scratch.kernels, scratch.safe, scratch.absent) = (kernels, safe, absent);
    }

    /// No value for tags outside of their validity.
    fn put_absent(&self, rows: usize, scratch: &mut Scratch, out: &mut TagBatch) {
        for tag in &scratch.absent {
            match self.tags[*tag].place {
                Place::Closed(at) => {
                    let start = at * stride(rows);
                    scratch.by_tag[start..start + rows].fill(0);
                }
                Place::Open(at) => {
                    out.open[at] = new_null_array(&self.tags[*tag].data_type, rows);
                }
            }
        }
    }

    fn runs_as_kernel(&self, tag: &PlannedTag, scratch: &Scratch) -> bool {
        match &tag.program {
            None => false,
            Some(Program::Step { lane, .. }) => scratch.lanes[*lane].exact,
            Some(Program::Table { .. }) => true,
            Some(Program::Cases(_)) => tag.leaves.iter().all(|l| scratch.leaf_runs[*l]),
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
            match out.failed.iter_mut().find(|f| f.0 == tag) {
                Some(failed) => failed.1 += failed_rows,
                None => out.failed.push((tag, failed_rows)),
            }
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

    /// Runs a stage's kernels.
    fn run_kernels(&self, stage: &Stage, rows: usize, scratch: &mut Scratch) {
        let mut slots = std::mem::take(&mut scratch.slots);
        slots.resize(self.leaves.len(), usize::MAX);
        let mut masks = std::mem::take(&mut scratch.masks);
        masks.resize(stage.leaves.len() * rows, 0);
        for (slot, leaf) in stage.leaves.iter().enumerate() {
            slots[*leaf] = slot;
            if scratch.leaf_runs[*leaf] {
                let out = &mut masks[slot * rows..(slot + 1) * rows];
                self.run_leaf(&self.leaves[*leaf], scratch, out);
            }
        }
        let mut by_tag = std::mem::take(&mut scratch.by_tag);
        let mut spare = std::mem::take(&mut scratch.spare);
        let of_leaf = Masks { slots: &slots, masks: &masks, rows };
        for tag in &scratch.kernels {
            let planned = &self.tags[*tag];
            let (Place::Closed(at), Some(program)) = (planned.place, &planned.program) else {
                continue;
            };
            let start = at * stride(rows);
            let out = &mut by_tag[start..start + rows];
            self.run_program(program, scratch, &of_leaf, &mut spare, out);
        }
        (scratch.by_tag, scratch.spare) = (by_tag, spare);
        (scratch.masks, scratch.slots) = (masks, slots);
    }
}

fn joined(parts: &[ArrayRef]) -> ArrayRef {
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    arrow::compute::concat(&parts).expect("parts of one tag have its type")
}

/// Bytes from one tag's codes to the next's: an odd number of cache lines, so that the same rows of
/// many tags do not compete for the same few places in the cache. Few rows stand close together.
fn stride(rows: usize) -> usize {
    if rows <= 32 { rows.next_multiple_of(8) } else { (rows.div_ceil(64) | 1) * 64 }
}
