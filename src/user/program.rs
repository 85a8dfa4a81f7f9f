//! Features compiled to steps over rows.
//!
//! In: a state layout and the catalogue's spans. Out: for each stream which partial each row moves,
//! in which bucket of ages, and from which buckets each feature is made.
//!
//! A bucket is a range of ages (days before the as-of day) between two neighbouring span borders of
//! the stream: a feature is the merge of neighbouring buckets, and an event moves one bucket only,
//! however many spans look at it. Invariant: no clock, no I/O.

use super::layout::{PartialKind, StateLayout, StreamLayout, Value, ValueKind};
use crate::catalog::model::Span;

/// What a row does to an accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Count,
    Sum {
        unsigned: bool,
    },
    Min(ValueKind),
    Max(ValueKind),
    First(ValueKind),
    Last(ValueKind),
    FirstTime,
    LastTime,
    /// Index of the set.
    Distinct(usize),
}

/// One partial's step for one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) op: Op,
    /// First accumulator of the partial; one a bucket.
    pub(super) at: usize,
    pub(super) value: Access,
}

/// Where a step's value stands in the row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Access {
    pub(super) word: usize,
    pub(super) shift: u32,
    pub(super) mask: u64,
    pub(super) null_word: usize,
    /// The flag's bit; 0 for steps without value.
    pub(super) null_bit: u64,
}

/// A feature as a merge of buckets `lo..hi` of a partial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) feature: usize,
    pub(super) lo: usize,
    pub(super) hi: usize,
}

/// A partial's steps and features.
#[derive(Debug, Clone)]
pub(super) struct PartialProgram {
    pub(super) step: Step,
    pub(super) kind: PartialKind,
    /// The kind of the value, where there is one.
    pub(super) value: Option<ValueKind>,
    /// Sorted by (lo, hi).
    pub(super) outputs: Vec<Output>,
}

/// Everything one stream's rows do.
#[derive(Debug, Clone)]
pub(super) struct StreamProgram {
    pub(super) width: usize,
    /// Bucket of each age up to the greatest border.
    pub(super) bucket_of_age: Vec<u8>,
    /// For each age up to the greatest border the next border; after it there is none.
    pub(super) next_border: Vec<u32>,
    pub(super) buckets: usize,
    /// Steps for every row.
    pub(super) plain: Vec<Step>,
    /// Steps by filter, and the flag bit of the first filter.
    pub(super) filtered: Vec<Vec<Step>>,
    pub(super) first_filter_flag: usize,
    pub(super) partials: Vec<PartialProgram>,
}

impl StreamProgram {
    /// Compiles one stream. `at` is the next free accumulator, `sets` the next free set.
    pub(super) fn new(layout: &StreamLayout, at: &mut usize, sets: &mut usize) -> Self {
        let mut borders = vec![0u32];
        for (_, span) in layout.partials.iter().flat_map(|p| &p.features) {
            if let Span::Days { days, offset } = span {
                borders.extend([*offset, offset + days]);
            }
        }
        borders.sort_unstable();
        borders.dedup();
        let greatest = borders.last().copied().unwrap_or(0);
        let bucket = |age: u32| borders.iter().take_while(|b| **b <= age).count() - 1;
        let mut program = Self {
            width: layout.width,
            bucket_of_age: (0..=greatest)
                .map(|a| u8::try_from(bucket(a)).unwrap_or(u8::MAX))
                .collect(),
            next_border: (0..greatest)
                .map(|a| borders.iter().copied().find(|b| *b > a).unwrap_or(greatest))
                .collect(),
            buckets: borders.len(),
            plain: Vec::new(),
            filtered: vec![Vec::new(); layout.filters.len()],
            first_filter_flag: layout.values.len(),
            partials: Vec::new(),
        };
        for partial in &layout.partials {
            let value = partial.value.map(|v| &layout.values[v]);
            let op = op_of(partial.kind, value, sets);
            let step = Step { op, at: *at, value: value.map(access_of).unwrap_or_default() };
            *at += program.buckets;
            match partial.filter {
                None => program.plain.push(step),
                Some(filter) => program.filtered[filter].push(step),
            }
            let mut outputs: Vec<Output> = partial
                .features
                .iter()
                .map(|(feature, span)| match span {
                    Span::Lifetime => Output { feature: *feature, lo: 0, hi: program.buckets },
                    Span::Days { days, offset } => {
                        Output { feature: *feature, lo: bucket(*offset), hi: bucket(offset + days) }
                    }
                })
                .collect();
            outputs.sort_by_key(|o| (o.lo, o.hi));
            let value = value.map(|v| v.kind);
            program.partials.push(PartialProgram { step, kind: partial.kind, value, outputs });
        }
        program
    }
}

fn op_of(kind: PartialKind, value: Option<&Value>, sets: &mut usize) -> Op {
    let value_kind = value.map_or(ValueKind::Int, |v| v.kind);
    match kind {
        PartialKind::Count => Op::Count,
        PartialKind::Sum => Op::Sum { unsigned: value_kind == ValueKind::U64 },
        PartialKind::Min => Op::Min(value_kind),
        PartialKind::Max => Op::Max(value_kind),
        PartialKind::First => Op::First(value_kind),
        PartialKind::Last => Op::Last(value_kind),
        PartialKind::FirstTime => Op::FirstTime,
        PartialKind::LastTime => Op::LastTime,
        PartialKind::CountDistinct => {
            *sets += 1;
            Op::Distinct(*sets - 1)
        }
    }
}

fn access_of(value: &Value) -> Access {
    let (null_word, bit) = super::layout::flag_at(value.null_flag);
    Access {
        word: value.word,
        shift: if value.upper { 32 } else { 0 },
        mask: if value.kind.is_half() { 0xffff_ffff } else { u64::MAX },
        null_word,
        null_bit: 1 << bit,
    }
}

/// All streams' programs; returns them with the number of accumulators and sets they need.
pub(super) fn compile(layout: &StateLayout) -> (Vec<StreamProgram>, usize, usize) {
    let (mut at, mut sets) = (0, 0);
    let programs =
        layout.streams.iter().map(|s| StreamProgram::new(s, &mut at, &mut sets)).collect();
    (programs, at, sets)
}
