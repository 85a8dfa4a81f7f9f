//! One chunk of rows through leaves and programs.
//!
//! In: lanes, validity and codes of the scratch. Out: masks by leaf, codes by tag.
//! Invariant: rows of other chunks are not touched.

use super::{Scratch, stride};
use crate::rule::kernels::mask::{self, Side};
use crate::rule::kernels::step;
use crate::rule::plan::leaf::{Cases, Cond, Leaf};
use crate::rule::plan::{Place, Plan, Program};

/// The masks of a chunk, by leaf.
pub(super) struct Masks<'a> {
    /// Where each leaf's mask stands among `masks`.
    pub(super) slots: &'a [usize],
    pub(super) masks: &'a [u8],
    pub(super) rows: usize,
}

impl Masks<'_> {
    fn of(&self, leaf: usize) -> &[u8] {
        let start = self.slots[leaf] * self.rows;
        &self.masks[start..start + self.rows]
    }
}

impl Plan {
    /// The mask of one leaf.
    pub(super) fn run_leaf(&self, leaf: &Leaf, scratch: &Scratch, out: &mut [u8]) {
        let valid = |lane: usize| &scratch.valid[self.lanes[lane].input];
        match leaf {
            Leaf::Range { lane: x, lo, hi, negated } => {
                let lane = &scratch.lanes[*x];
                if self.lanes[*x].forms.narrow {
                    let narrow = |bound: Option<i64>| bound.and_then(|b| i32::try_from(b).ok());
                    let bounds = (narrow(*lo), narrow(*hi));
                    mask::range_i32(&lane.narrow, valid(*x), bounds, *negated, out);
                } else {
                    mask::range_i64(&lane.wide, valid(*x), (*lo, *hi), *negated, out);
                }
            }
            Leaf::Valid { input, negated } => {
                out.copy_from_slice(&scratch.valid[*input]);
                if *negated {
                    mask::not(out);
                }
            }
            Leaf::Plain { x, op, y } => {
                let side = |lane: usize| Side {
                    values: &scratch.lanes[lane].wide,
                    valid: valid(lane),
                    factor: 1,
                };
                mask::compare_i64(side(*x), *op, side(*y), out);
            }
            Leaf::Scaled { x, a, op, y, b } => {
                let side = |lane: usize, factor: u64| Side {
                    values: &scratch.lanes[lane].float,
                    valid: valid(lane),
                    factor: factor as f64,
                };
                mask::compare_f64(side(*x, *a), *op, side(*y, *b), out);
            }
            Leaf::Table { input, table } => {
                let coded = &scratch.coded[*input];
                gather(&coded.tables[*table], &coded.rows, out);
            }
            Leaf::Tag { tag, codes } => {
                let Place::Closed(at) = self.tags[*tag].place else { return };
                let start = at * stride(out.len());
                let codes_of = &scratch.by_tag[start..start + out.len()];
                for (out, code) in out.iter_mut().zip(codes_of) {
                    *out = u8::from(codes[usize::from(code / 64)] >> (code % 64) & 1 == 1);
                }
            }
        }
    }

    /// The codes of one tag.
    pub(super) fn run_program(
        &self,
        program: &Program,
        scratch: &Scratch,
        masks: &Masks<'_>,
        spare: &mut Vec<Vec<u8>>,
        out: &mut [u8],
    ) {
        match program {
            Program::Step { lane: at, narrow, wide } => {
                let lane = &scratch.lanes[*at];
                let valid = &scratch.valid[self.lanes[*at].input];
                match narrow {
                    Some(step) => step::run_i32(step, &lane.narrow, valid, out),
                    None => step::run_i64(wide, &lane.wide, valid, out),
                }
            }
            Program::Table { input, table } => {
                let coded = &scratch.coded[*input];
                gather(&coded.tables[*table], &coded.rows, out);
            }
            Program::Cases(cases) => run_cases(cases, masks, spare, out),
        }
    }
}

fn gather(table: &[u8], ids: &[u32], out: &mut [u8]) {
    for (out, id) in out.iter_mut().zip(ids) {
        *out = table[*id as usize];
    }
}

fn run_cases(cases: &Cases, masks: &Masks<'_>, spare: &mut Vec<Vec<u8>>, out: &mut [u8]) {
    let mut taken = spare.pop().unwrap_or_default();
    taken.resize(out.len(), 0);
    out.fill(cases.otherwise);
    // From the last to the first, so that the first that is true has the last word.
    for (cond, code) in cases.whens.iter().rev() {
        if let Cond::Leaf(leaf) = cond {
            mask::choose(masks.of(*leaf), *code, out);
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
        Cond::Leaf(leaf) => out.copy_from_slice(masks.of(*leaf)),
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
            Cond::Leaf(leaf) => join(out, masks.of(*leaf)),
            part => {
                run_cond(part, masks, spare, &mut other);
                join(out, &other);
            }
        }
    }
    spare.push(other);
}
