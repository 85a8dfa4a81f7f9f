//! Feature values of users, as columns.
//!
//! In: states, the as-of day. Out: one column a feature, a row a user, and for each user the next
//! day on which a span alone changes a feature.
//! Invariant: no clock, no I/O; the result does not depend on the order of rows.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
    Int32Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::DataType;

use super::layout::{
    PartialKind, StateLayout, ValueKind, flag_at, low32, row_day, row_stream, row_time,
};
use super::program::{Op, PartialProgram, Step, StreamProgram, compile};
use super::settled::{Cell, Settled, Tile, merge_numbers, text_code};
use super::state::UserState;
use super::texts::TextsView;
use crate::clock::Day;

/// A day that never comes.
pub const NEVER: Day = Day::MAX;

/// One feature's values, as words of its kind.
#[derive(Debug, Clone)]
struct Column {
    data_type: DataType,
    words: Vec<u64>,
    wide: Vec<i128>,
    valid: Vec<bool>,
    any_null: bool,
}

/// Computes features of users, one after the other, into columns.
#[derive(Debug)]
pub struct FeatureBatch {
    programs: Vec<StreamProgram>,
    accumulators: Vec<i128>,
    initial: Vec<i128>,
    /// For each distinct partial (value, bucket) of the present user.
    sets: Vec<Vec<(u64, u8)>>,
    columns: Vec<Column>,
    rows: usize,
    /// Sums that do not fit their column's type: NULL, and counted here.
    pub overflows: u64,
}

impl FeatureBatch {
    /// `types`: the features' column types, by feature index.
    pub fn new(layout: &StateLayout, types: &[DataType]) -> Self {
        let (programs, accumulators, sets) = compile(layout);
        let mut initial = vec![0; accumulators];
        for program in &programs {
            for partial in &program.partials {
                let buckets = partial.step.at..partial.step.at + program.buckets;
                initial[buckets].fill(start_of(partial.kind));
            }
        }
        let column = |data_type: &DataType| Column {
            data_type: data_type.clone(),
            words: Vec::new(),
            wide: Vec::new(),
            valid: Vec::new(),
            any_null: false,
        };
        Self {
            accumulators: initial.clone(),
            initial,
            sets: vec![Vec::new(); sets],
            columns: types.iter().map(column).collect(),
            rows: 0,
            programs,
            overflows: 0,
        }
    }

    /// Adds a user's row. Returns the next day on which a feature may change with time alone
    /// ([`NEVER`] if none).
    pub fn push(&mut self, state: &UserState, as_of: Day, texts: &TextsView<'_>) -> Day {
        self.accumulators.copy_from_slice(&self.initial);
        self.sets.iter_mut().for_each(Vec::clear);
        let mut due = NEVER;
        let mut rest = state.words();
        while let Some(first) = rest.first() {
            let program = &self.programs[row_stream(*first)];
            let (row, tail) = rest.split_at(program.width);
            rest = tail;
            let day = row_day(row[1]);
            let Some(bucket) = bucket_of(program, day, as_of, &mut due) else { continue };
            run(program, row, bucket, &mut self.accumulators, &mut self.sets, texts);
        }
        if let Some(settled) = state.settled() {
            self.add_settled(settled, as_of, &mut due, texts);
        }
        for at in 0..self.programs.len() {
            self.finish(at, texts);
        }
        self.rows += 1;
        due
    }

    fn add_settled(&mut self, settled: &Settled, as_of: Day, due: &mut Day, texts: &TextsView<'_>) {
        for tile in &settled.tiles {
            let program = &self.programs[usize::from(tile.stream)];
            let bucket = if tile.day == Settled::LIFETIME {
                Some(program.buckets - 1)
            } else {
                bucket_of(program, tile.day, as_of, due)
            };
            if let Some(bucket) = bucket {
                add_tile(program, tile, bucket, &mut self.accumulators, &mut self.sets, texts);
            }
        }
    }

    fn finish(&mut self, stream: usize, texts: &TextsView<'_>) {
        let program = &self.programs[stream];
        for partial in &program.partials {
            if let Op::Distinct(set) = partial.step.op {
                finish_distinct(partial, &mut self.sets[set], &mut self.columns);
                continue;
            }
            let buckets = &self.accumulators[partial.step.at..partial.step.at + program.buckets];
            let start = start_of(partial.kind);
            let text = partial.value == Some(ValueKind::Text);
            // Outputs are sorted: those with the same start share one running merge.
            let (mut from, mut done, mut merged) = (0, 0, start);
            for output in &partial.outputs {
                if output.lo != from || done < output.lo {
                    (from, done, merged) = (output.lo, output.lo, start);
                }
                for bucket in &buckets[done..output.hi] {
                    merged = merge_present(partial.kind, text, start, merged, *bucket, texts);
                }
                done = done.max(output.hi);
                let column = &mut self.columns[output.feature];
                self.overflows += u64::from(!column.push(partial, merged, start));
            }
        }
    }

    /// Number of users added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the columns, in feature order, and starts anew. Texts become dictionaries of this batch.
    pub fn take(&mut self, texts: &TextsView<'_>) -> Vec<ArrayRef> {
        self.rows = 0;
        self.columns.iter_mut().map(|c| c.take(texts)).collect()
    }
}

/// The bucket of a day, noting when it will change; `None` while the day has not begun.
fn bucket_of(program: &StreamProgram, day: Day, as_of: Day, due: &mut Day) -> Option<usize> {
    let Ok(age) = usize::try_from(as_of.saturating_sub(day)) else {
        *due = (*due).min(day);
        return None;
    };
    if let Some(border) = program.next_border.get(age) {
        *due = (*due).min(day.saturating_add_unsigned(*border));
    }
    let age = age.min(program.bucket_of_age.len() - 1);
    Some(usize::from(program.bucket_of_age[age]))
}

fn run(
    program: &StreamProgram,
    row: &[u64],
    bucket: usize,
    accumulators: &mut [i128],
    sets: &mut [Vec<(u64, u8)>],
    texts: &TextsView<'_>,
) {
    for step in &program.plain {
        apply(step, row, bucket, accumulators, sets, texts);
    }
    let (first_word, first_bit) = flag_at(program.first_filter_flag);
    let last_word = flag_at(program.first_filter_flag + program.filtered.len()).0;
    let mut flag = 0;
    for word in first_word..=last_word {
        let skip = if word == first_word { first_bit } else { 0 };
        // A stream without filters ends where its flags begin: the word may be another's.
        let mut bits = row.get(word).copied().unwrap_or(0) >> skip;
        while bits != 0 && flag < program.filtered.len() {
            let at = flag + bits.trailing_zeros() as usize;
            let Some(steps) = program.filtered.get(at) else { break };
            for step in steps {
                apply(step, row, bucket, accumulators, sets, texts);
            }
            bits &= bits - 1;
        }
        flag += (64 - skip) as usize;
    }
}

#[inline]
fn apply(
    step: &Step,
    row: &[u64],
    bucket: usize,
    accumulators: &mut [i128],
    sets: &mut [Vec<(u64, u8)>],
    texts: &TextsView<'_>,
) {
    let access = &step.value;
    if row[access.null_word] & access.null_bit != 0 {
        return;
    }
    let have = &mut accumulators[step.at + bucket];
    let word = row[access.word] >> access.shift & access.mask;
    let time = || i128::from(row_time(row[0]));
    match step.op {
        Op::Count => *have += 1,
        Op::Sum { unsigned: false } => *have += i128::from(word.cast_signed()),
        Op::Sum { unsigned: true } => *have += i128::from(word),
        Op::FirstTime => *have = (*have).min(time()),
        Op::LastTime => *have = (*have).max(time()),
        Op::Min(ValueKind::Text) => merge_text(PartialKind::Min, have, i128::from(word), texts),
        Op::Max(ValueKind::Text) => merge_text(PartialKind::Max, have, i128::from(word), texts),
        Op::First(ValueKind::Text) => {
            merge_text(PartialKind::First, have, time() << 64 | i128::from(word), texts);
        }
        Op::Last(ValueKind::Text) => {
            merge_text(PartialKind::Last, have, time() << 64 | i128::from(word), texts);
        }
        Op::Min(kind) => *have = (*have).min(i128::from(kind.order_key(word))),
        Op::Max(kind) => *have = (*have).max(i128::from(kind.order_key(word))),
        Op::First(kind) => {
            *have = (*have).min(time() << 64 | i128::from(kind.order_key(word)));
        }
        Op::Last(kind) => *have = (*have).max(time() << 64 | i128::from(kind.order_key(word))),
        Op::Distinct(set) => sets[set].push((word, u8::try_from(bucket).unwrap_or(u8::MAX))),
    }
}

fn merge_text(kind: PartialKind, have: &mut i128, new: i128, texts: &TextsView<'_>) {
    *have = merge_present(kind, true, start_of(kind), *have, new, texts);
}

fn merge_present(
    kind: PartialKind,
    text: bool,
    start: i128,
    have: i128,
    new: i128,
    texts: &TextsView<'_>,
) -> i128 {
    if new == start && !matches!(kind, PartialKind::Count | PartialKind::Sum) {
        have
    } else if have == start {
        new
    } else {
        merge_numbers(kind, text, have, new, texts)
    }
}

/// An accumulator without events. No event gives these: times have 56 bits, keys 64.
fn start_of(kind: PartialKind) -> i128 {
    match kind {
        PartialKind::Count | PartialKind::Sum | PartialKind::CountDistinct => 0,
        PartialKind::Min | PartialKind::First | PartialKind::FirstTime => i128::MAX,
        PartialKind::Max | PartialKind::Last | PartialKind::LastTime => i128::MIN,
    }
}

fn add_tile(
    program: &StreamProgram,
    tile: &Tile,
    bucket: usize,
    accumulators: &mut [i128],
    sets: &mut [Vec<(u64, u8)>],
    texts: &TextsView<'_>,
) {
    for (at, cell) in &tile.cells {
        let partial = &program.partials[usize::from(*at)];
        match (cell, partial.step.op) {
            (Cell::Set(values), Op::Distinct(set)) => {
                let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
                sets[set].extend(values.iter().map(|v| (*v, bucket)));
            }
            (Cell::Number(number), _) => {
                let have = &mut accumulators[partial.step.at + bucket];
                let text = partial.value == Some(ValueKind::Text);
                let start = start_of(partial.kind);
                *have = merge_present(partial.kind, text, start, *have, *number, texts);
            }
            (Cell::Set(_), _) => {}
        }
    }
}

fn finish_distinct(partial: &PartialProgram, set: &mut Vec<(u64, u8)>, columns: &mut [Column]) {
    set.sort_unstable();
    set.dedup();
    for output in &partial.outputs {
        let range = output.lo..output.hi;
        let mut distinct = 0u64;
        let mut last = None;
        for (value, bucket) in set.iter() {
            if range.contains(&usize::from(*bucket)) && last != Some(*value) {
                distinct += 1;
                last = Some(*value);
            }
        }
        columns[output.feature].push_word(Some(distinct));
    }
}

impl Column {
    /// Appends a merged number. False: it does not fit the type (and is NULL).
    fn push(&mut self, partial: &PartialProgram, number: i128, start: i128) -> bool {
        match partial.kind {
            PartialKind::Count | PartialKind::Sum => {
                if matches!(self.data_type, DataType::Decimal128(..)) {
                    self.wide.push(number);
                    self.valid.push(true);
                    return true;
                }
                let word = i64::try_from(number).ok().map(i64::cast_unsigned);
                self.push_word(word);
                word.is_some()
            }
            PartialKind::FirstTime | PartialKind::LastTime => {
                let time = i64::try_from(number).ok().map(i64::cast_unsigned);
                self.push_word(if number == start { None } else { time });
                true
            }
            _ if number == start => {
                self.push_word(None);
                true
            }
            _ => {
                self.push_key(partial.value.unwrap_or(ValueKind::Int), number);
                true
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the mask before the cast keeps 64 bits")]
    fn push_key(&mut self, kind: ValueKind, number: i128) {
        let key = (number & i128::from(u64::MAX)) as u64;
        let word = if kind == ValueKind::Text {
            u64::from(text_code(number))
        } else {
            kind.from_order_key(key)
        };
        self.push_word(Some(word));
    }

    fn push_word(&mut self, word: Option<u64>) {
        if let DataType::Decimal128(..) = self.data_type {
            self.wide.push(word.map_or(0, |w| i128::from(w.cast_signed())));
        } else {
            self.words.push(word.unwrap_or(0));
        }
        self.valid.push(word.is_some());
        self.any_null |= word.is_none();
    }

    fn take(&mut self, texts: &TextsView<'_>) -> ArrayRef {
        let valid = std::mem::take(&mut self.valid);
        let nulls = self
            .any_null
            .then(|| NullBuffer::new(BooleanBuffer::collect_bool(valid.len(), |i| valid[i])));
        self.any_null = false;
        let words = std::mem::take(&mut self.words);
        let signed = || words.iter().map(|w| w.cast_signed()).collect::<Vec<_>>();
        match &self.data_type {
            DataType::Int64 => Arc::new(Int64Array::new(signed().into(), nulls)),
            DataType::UInt64 => Arc::new(UInt64Array::new(words.into(), nulls)),
            DataType::Float64 => {
                let floats: Vec<f64> = words.iter().map(|w| f64::from_bits(*w)).collect();
                Arc::new(Float64Array::new(floats.into(), nulls))
            }
            DataType::Decimal128(precision, scale) => {
                let wide = std::mem::take(&mut self.wide);
                let array = Decimal128Array::new(wide.into(), nulls);
                Arc::new(array.with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            DataType::Boolean => {
                let bits = BooleanBuffer::collect_bool(words.len(), |i| words[i] != 0);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            DataType::Date32 => {
                let days: Vec<i32> = words.iter().map(|w| low32(*w).cast_signed()).collect();
                Arc::new(Date32Array::new(days.into(), nulls))
            }
            DataType::Timestamp(_, zone) => {
                let array = TimestampMillisecondArray::new(signed().into(), nulls);
                Arc::new(array.with_timezone_opt(zone.clone()))
            }
            _ => dictionary(&words, nulls, texts),
        }
    }
}

/// Texts as a dictionary of just those that occur.
fn dictionary(words: &[u64], nulls: Option<NullBuffer>, texts: &TextsView<'_>) -> ArrayRef {
    let mut local = hashbrown::HashMap::<u32, i32>::new();
    let mut values: Vec<&str> = Vec::new();
    let mut keys = Vec::with_capacity(words.len());
    for (at, word) in words.iter().enumerate() {
        if nulls.as_ref().is_some_and(|n| n.is_null(at)) {
            keys.push(0);
            continue;
        }
        let code = low32(*word);
        keys.push(*local.entry(code).or_insert_with(|| {
            values.push(texts.get(code));
            i32::try_from(values.len() - 1).unwrap_or(i32::MAX)
        }));
    }
    let keys = Int32Array::new(keys.into(), nulls);
    Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(values))))
}
