//! One stream's view of a batch: which rows are its events, and the words each event keeps.
//!
//! In: source columns of a batch. Out: rows of the stream's layout, split by shard, and what was
//! wrong with the others. Invariant: no I/O, no clock; each row is an event, filtered out, or one
//! reject.

use datafusion_expr::Expr;

use super::block::{EventBlock, Uids, uid_hash};
use super::column::{Column, Values};
use super::inputs::Inputs;
use super::reject::Reason;
use super::row_expr::{RowExpr, Words};
use super::{Batch, DecoderError};
use crate::catalog::model::{self, Catalog, TypedExpr};
use crate::clock::DayTable;
use crate::user::layout::{StreamLayout, ValueKind, flag_at, pack_day, pack_time};
use crate::user::texts::Texts;

/// Decodes one stream.
#[derive(Debug)]
pub(super) struct StreamDecoder {
    layout: StreamLayout,
    /// Source column and name of each required column.
    required: Vec<(usize, String)>,
    /// Source column and name of every column the stream declares.
    declared: Vec<(usize, String)>,
    inputs: Inputs,
    filter: Option<RowExpr>,
    uid: usize,
    time: usize,
    id: Option<RowExpr>,
    values: Vec<RowExpr>,
    filters: Vec<RowExpr>,
    scratch: Words,
    wanted: Vec<bool>,
    picked: Vec<u32>,
    shard_of: Vec<u32>,
}

/// A row this stream refused: index in the batch, why, and the column or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) row: u32,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl StreamDecoder {
    /// `source_columns`: for each declared column the index of its source column.
    pub(super) fn new(
        catalog: &Catalog,
        layout: &StreamLayout,
        source_columns: &[usize],
        columns: &[Column],
    ) -> Result<Self, DecoderError> {
        let stream = &catalog.streams[usize::from(layout.stream)];
        let zone = &catalog.zone;
        let declared: Vec<(usize, String)> = source_columns
            .iter()
            .zip(&stream.columns)
            .map(|(at, c)| (*at, c.name.clone()))
            .collect();
        let failed = |source| DecoderError::Expression { stream: stream.name.clone(), source };
        let inputs = Inputs::new(stream, source_columns, columns, zone).map_err(failed)?;
        let compile = |expr: &TypedExpr, kind: ValueKind| {
            RowExpr::new(expr, kind, &inputs, columns).map_err(failed)
        };
        let id = match &stream.dedupe {
            None => None,
            Some(dedupe) => {
                let column = &stream.columns[dedupe.by];
                Some(compile(&column_expr(column, catalog, stream), ValueKind::Hash)?)
            }
        };
        let required = stream
            .columns
            .iter()
            .zip(source_columns)
            .filter(|(c, _)| c.required)
            .map(|(c, at)| (*at, c.name.clone()));
        Ok(Self {
            required: required.collect(),
            declared,
            filter: stream.filter.as_ref().map(|f| compile(f, ValueKind::Bool)).transpose()?,
            uid: source_columns[stream.uid],
            time: source_columns[stream.time],
            id,
            values: layout
                .values
                .iter()
                .map(|v| compile(&v.expr, v.kind))
                .collect::<Result<_, _>>()?,
            filters: layout
                .filters
                .iter()
                .map(|f| compile(&f.expr, ValueKind::Bool))
                .collect::<Result<_, _>>()?,
            inputs,
            layout: layout.clone(),
            scratch: Words::default(),
            wanted: Vec::new(),
            picked: Vec::new(),
            shard_of: Vec::new(),
        })
    }

    /// Decodes the batch into one block for all shards.
    pub(super) fn decode(
        &mut self,
        batch: &Batch<'_>,
        texts: &Texts,
        days: &mut DayTable,
        refused: &mut Vec<Refused>,
    ) -> EventBlock {
        let mut block = EventBlock::new(&self.layout, batch.shards);
        self.inputs.clear();
        self.wanted.clear();
        self.wanted.resize(batch.rows, true);
        self.drop_bad_cells(batch, refused);
        self.apply_filter(batch, texts, &mut block);
        self.require(batch, refused);
        self.check_time(batch, refused);
        self.pick(batch, &mut block, refused);
        self.write_heads(batch, days, &mut block);
        self.write_words(batch, texts, &mut block);
        block
    }

    fn refuse(&mut self, refused: &mut Vec<Refused>, row: usize, reason: Reason, detail: &str) {
        if std::mem::replace(&mut self.wanted[row], false) {
            let row = u32::try_from(row).unwrap_or(u32::MAX);
            refused.push(Refused { row, reason, detail: detail.to_owned() });
        }
    }

    fn drop_bad_cells(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        for at in 0..self.declared.len() {
            let (column, name) = self.declared[at].clone();
            for (row, reason) in &batch.columns[column].errors {
                self.refuse(refused, *row as usize, *reason, &name);
            }
        }
    }

    fn apply_filter(&mut self, batch: &Batch<'_>, texts: &Texts, block: &mut EventBlock) {
        let Some(filter) = &mut self.filter else { return };
        let words = &mut self.scratch;
        filter.words(batch.columns, batch.rows, &mut self.inputs, texts, words);
        block.failed += std::mem::take(&mut words.failed);
        for (row, wanted) in self.wanted.iter_mut().enumerate() {
            let keep = words.valid[row] && words.words[row] == 1;
            block.filtered += u64::from(*wanted && !keep);
            *wanted &= keep;
        }
    }

    fn require(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        for at in 0..self.required.len() {
            let column = &batch.columns[self.required[at].0];
            if column.valid.iter().all(|v| *v) {
                continue;
            }
            let name = self.required[at].1.clone();
            for row in 0..batch.rows {
                if !column.valid[row] {
                    self.refuse(refused, row, Reason::Missing, &name);
                }
            }
        }
        if let Values::Plain(uids) = &batch.columns[self.uid].values {
            for (row, uid) in uids.iter().enumerate() {
                if uid.is_empty() || uid.len() > crate::store::UID_BYTES_MAX {
                    self.refuse(refused, row, Reason::Range, "uid is empty or too long");
                }
            }
        }
    }

    fn check_time(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        let Some(latest_ms) = batch.latest_ms else { return };
        let Values::I64(times) = &batch.columns[self.time].values else { return };
        for (row, time) in times.iter().enumerate() {
            if *time > latest_ms {
                self.refuse(refused, row, Reason::TooEarly, "event time is beyond max_ahead");
            }
        }
    }

    /// Sorts the events by shard, keeping their order.
    fn pick(&mut self, batch: &Batch<'_>, block: &mut EventBlock, refused: &mut Vec<Refused>) {
        self.picked.clear();
        self.shard_of.clear();
        let column = &batch.columns[self.uid];
        for row in 0..batch.rows {
            if !self.wanted[row] {
                continue;
            }
            let hash = match &column.values {
                Values::U64(v) => uid_hash(v[row]),
                Values::Plain(v) => crate::user::layout::hash64(v[row].as_bytes()),
                _ => 0,
            };
            if batch.quarantine.holds(hash) {
                self.refuse(
                    refused,
                    row,
                    Reason::Quarantined,
                    "the user's state or a rule panicked",
                );
                continue;
            }
            let shard = crate::event::block::shard_of(hash, batch.shards);
            let rows = &mut block.shards[shard];
            match (&mut rows.uids, &column.values) {
                (Uids::Numbers(to), Values::U64(v)) => to.push(v[row]),
                (Uids::Texts(to), Values::Plain(v)) => to.push(v[row].clone()),
                (uids @ Uids::Numbers(_), Values::Plain(v)) if uids.is_empty() => {
                    *uids = Uids::Texts(vec![v[row].clone()]);
                }
                _ => continue,
            }
            rows.hashes.push(hash);
            self.picked.push(u32::try_from(row).unwrap_or(u32::MAX));
            self.shard_of.push(u32::try_from(shard).unwrap_or(u32::MAX));
        }
        block.accepted = self.picked.len() as u64;
        for rows in &mut block.shards {
            rows.rows.resize(rows.hashes.len() * self.layout.width, 0);
        }
    }

    fn write_heads(&mut self, batch: &Batch<'_>, days: &mut DayTable, block: &mut EventBlock) {
        let Values::I64(times) = &batch.columns[self.time].values else { return };
        let width = self.layout.width;
        let mut at = vec![0; block.shards.len()];
        for (row, shard) in self.picked.iter().zip(&self.shard_of) {
            let time = times[*row as usize];
            let day = days.day_of(time);
            let shard = *shard as usize;
            let words = &mut block.shards[shard].rows[at[shard]..at[shard] + width];
            words[0] = pack_time(time, self.layout.stream);
            words[1] = pack_day(day);
            at[shard] += width;
            block.greatest_ms = block.greatest_ms.max(time);
            block.note_day(day);
        }
    }

    fn write_words(&mut self, batch: &Batch<'_>, texts: &Texts, block: &mut EventBlock) {
        let mut words = std::mem::take(&mut self.scratch);
        let inputs = &mut self.inputs;
        let mut run = |expr: &mut RowExpr, words: &mut Words| {
            expr.words(batch.columns, batch.rows, inputs, texts, words);
            std::mem::take(&mut words.failed)
        };
        if let (Some(id), Some(word)) = (&mut self.id, self.layout.id_word) {
            block.failed += run(id, &mut words);
            let put = |row: &mut [u64], value: u64, _| row[word] = value;
            scatter(&self.picked, &self.shard_of, self.layout.width, &words, block, put);
        }
        for (expr, value) in self.values.iter_mut().zip(&self.layout.values) {
            block.failed += run(expr, &mut words);
            let (null_word, null_bit) = flag_at(value.null_flag);
            let shift = if value.upper { 32 } else { 0 };
            let put = |row: &mut [u64], word: u64, valid: bool| {
                if valid {
                    row[value.word] |= word << shift;
                } else {
                    row[null_word] |= 1 << null_bit;
                }
            };
            scatter(&self.picked, &self.shard_of, self.layout.width, &words, block, put);
        }
        for (expr, filter) in self.filters.iter_mut().zip(&self.layout.filters) {
            block.failed += run(expr, &mut words);
            let (flag_word, flag_bit) = flag_at(filter.flag);
            let put = |row: &mut [u64], word: u64, valid: bool| {
                row[flag_word] |= (u64::from(valid) & word) << flag_bit;
            };
            scatter(&self.picked, &self.shard_of, self.layout.width, &words, block, put);
        }
        self.scratch = words;
        block.failed += std::mem::take(&mut self.inputs.failed);
    }
}

/// Writes one expression's words into the rows of all shards.
fn scatter(
    picked: &[u32],
    shard_of: &[u32],
    width: usize,
    words: &Words,
    block: &mut EventBlock,
    put: impl Fn(&mut [u64], u64, bool),
) {
    let mut at = vec![0; block.shards.len()];
    for (row, shard) in picked.iter().zip(shard_of) {
        let (row, shard) = (*row as usize, *shard as usize);
        let to = &mut block.shards[shard].rows[at[shard]..at[shard] + width];
        put(to, words.words[row], words.valid[row]);
        at[shard] += width;
    }
}

fn column_expr(column: &model::Column, catalog: &Catalog, stream: &model::Stream) -> TypedExpr {
    TypedExpr {
        expr: Expr::Column(datafusion_common::Column::from_name(column.name.clone())),
        data_type: column.kind.data_type(&catalog.zone),
        columns: vec![column.name.clone()],
        sql: column.name.clone(),
        place: stream.place,
    }
}
