//! One stream's view of a batch: which rows are its events, and the words each event keeps.
//!
//! In: source columns of a batch. Out: rows of the stream's layout, split by shard, and what was
//! wrong with the others. Invariant: no I/O, no clock; each row is an event, filtered out, or one
//! reject.

use std::ops::Range;

use datafusion_expr::Expr;

use super::block::{EventBlock, uid_hash};
use super::change::{Changes, Image, Table};
use super::column::{Column, Values};
use super::inputs::Inputs;
use super::reject::Reason;
use super::row_expr::RowExpr;
use super::{Batch, DecoderError, Images};
use crate::catalog::model::{self, Catalog, TypedExpr};
use crate::clock::DayTable;
use crate::user::changelog::write_tombstone;
use crate::user::layout::{StreamLayout, ValueKind, flag_at, hash64, pack_day, pack_time};
use crate::user::texts::Texts;

/// Rows that are put together before they are handed out: few enough for the nearest cache.
const STAGED_ROWS: usize = 256;

/// Milliseconds of the shortest time that may lie between two days of the same hour, on which only a
/// first look rests.
const DAY_MS: i64 = 23 * 3_600_000;

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
    /// Filters over one text column each, together by column and word of flags.
    text_filters: Vec<TextFilters>,
    /// The others, with word and bit of the flag.
    filters: Vec<(RowExpr, usize, u32)>,
    /// Which rows are events, as far as is known.
    wanted: Vec<bool>,
    staged: Vec<u64>,
    /// Rows are those of a table that changes.
    changes: Option<Changes>,
}

/// A row this stream refused: index in the batch, why, and the column or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) row: u32,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl StreamDecoder {
    /// `images`: for each declared column the index of its source column.
    pub(super) fn new(
        catalog: &Catalog,
        layout: &StreamLayout,
        images: &Images,
        columns: &[Column],
    ) -> Result<Self, DecoderError> {
        let stream = &catalog.streams[usize::from(layout.stream)];
        let (zone, source_columns) = (&catalog.zone, images.after.as_slice());
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
        let changes = stream.changelog.as_ref().map(|changelog| {
            let table = Table { catalog, stream, changelog, layout, columns };
            Changes::new(table, source_columns, &images.before, &inputs).map_err(failed)
        });
        let changes = changes.transpose()?;
        let required = stream
            .columns
            .iter()
            .zip(source_columns)
            .filter(|(c, _)| c.required)
            .map(|(c, at)| (*at, c.name.clone()));
        let required = required.collect();
        let filter = stream.filter.as_ref().map(|f| compile(f, ValueKind::Bool)).transpose()?;
        let values = layout.values.iter().map(|v| compile(&v.expr, v.kind));
        let values = values.collect::<Result<_, _>>()?;
        let mut text_filters: Vec<TextFilters> = Vec::new();
        let mut filters = Vec::new();
        for f in &layout.filters {
            let expr = compile(&f.expr, ValueKind::Bool)?;
            let (word, bit) = flag_at(f.flag);
            match expr.text_column() {
                Some(column) => TextFilters::add(&mut text_filters, expr, column, word, bit),
                None => filters.push((expr, word, bit)),
            }
        }
        Ok(Self {
            layout: layout.clone(),
            required,
            declared,
            inputs,
            filter,
            uid: source_columns[stream.uid],
            time: source_columns[stream.time],
            id,
            values,
            text_filters,
            filters,
            wanted: Vec::new(),
            staged: Vec::new(),
            changes,
        })
    }

    /// Decodes the batch into one block for all shards. `nth`: which of the source's streams it is.
    pub(super) fn decode(
        &mut self,
        batch: &Batch<'_>,
        nth: usize,
        texts: &Texts,
        days: &mut DayTable,
        refused: &mut Vec<Refused>,
    ) -> EventBlock {
        self.inputs.clear();
        self.wanted.clear();
        self.wanted.resize(batch.rows, true);
        let is_changelog = self.changes.is_some();
        let skipped = batch.envelopes.map(|e| e.leave_out(nth, is_changelog, &mut self.wanted));
        let mut failed = match &mut self.changes {
            Some(changes) => changes.read(batch, texts, &mut self.wanted, refused),
            None => 0,
        };
        self.drop_bad_cells(batch, refused);
        let (filtered, failed_filters) = self.apply_filter(batch, texts);
        let filtered = filtered + self.leave_out_later(batch);
        self.require(batch, refused);
        self.check_time(batch, refused);
        let late = self.check_arrival(batch, days, refused);
        // Of a record's copies one tells why it was refused.
        refused.retain(|refused| batch.places[refused.row as usize].tells());
        self.check_quarantine(batch, refused);
        failed += failed_filters + self.prepare(batch, texts);
        let moved = match &mut self.changes {
            Some(changes) => changes.settle(batch, &mut self.inputs, texts, &self.wanted),
            None => 0,
        };
        self.leave_to_others(batch);
        let events = self.wanted.iter().filter(|wanted| **wanted).count();
        let is_text = matches!(batch.columns[self.uid].values, Values::Plain(_));
        let (shards, with_offsets) = (batch.shards, batch.with_offsets);
        let mut block = EventBlock::new(&self.layout, shards, events, is_text, with_offsets);
        (block.filtered, block.failed, block.moved) = (filtered, failed, moved);
        block.skipped = skipped.unwrap_or_default();
        (block.late, block.greatest_arrival_ms) = late;
        let mut from = 0;
        while from < batch.rows {
            let rows = from..batch.rows.min(from + STAGED_ROWS);
            from = rows.end;
            self.stage(batch, rows.clone());
            self.hand_out(batch, rows, days, &mut block);
        }
        block.flush_days();
        self.hand_out_gone(batch, &mut block);
        block
    }

    fn drop_bad_cells(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        for (column, name) in &self.declared {
            for (row, reason) in &batch.columns[*column].errors {
                let why = batch.columns[*column].explain(*reason, name);
                refuse(&mut self.wanted, refused, *row as usize, *reason, &why);
            }
        }
    }

    /// Returns how many rows are filtered out, and for how many that could not be computed.
    fn apply_filter(&mut self, batch: &Batch<'_>, texts: &Texts) -> (u64, u64) {
        let Some(filter) = &mut self.filter else { return (0, 0) };
        let failed = filter.prepare(batch, &mut self.inputs, texts);
        let mut filtered = 0;
        let (rows, places) = (0..batch.rows, self.wanted.iter_mut().zip(batch.places));
        filter.view(batch.columns).each(rows, places, |(wanted, place), word, valid| {
            let keep = valid && word == 1;
            filtered += u64::from(*wanted && !keep && place.tells());
            *wanted &= keep;
        });
        if let Some(changes) = &mut self.changes {
            changes.apply_filter(filter.view(batch.columns));
        }
        (filtered, failed)
    }

    fn require(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        for (column, name) in &self.required {
            let valid = &batch.columns[*column].valid;
            if valid.is_all() {
                continue;
            }
            for row in (0..batch.rows).filter(|row| !valid.holds(*row)) {
                refuse(&mut self.wanted, refused, row, Reason::Missing, name);
            }
        }
        if let Values::Plain(uids) = &batch.columns[self.uid].values {
            for (row, uid) in uids.iter().enumerate() {
                if uid.is_empty() || uid.len() > crate::store::UID_BYTES_MAX {
                    let why = "uid is empty or too long";
                    refuse(&mut self.wanted, refused, row, Reason::Range, why);
                }
            }
        }
    }

    /// Returns how many rows are not part of the history that is being read.
    fn leave_out_later(&mut self, batch: &Batch<'_>) -> u64 {
        let Some(before_ms) = self.layout.before_ms else { return 0 };
        let Values::I64(times) = &batch.columns[self.time].values else { return 0 };
        let valid = &batch.columns[self.time].valid;
        let mut later = 0;
        for (row, time) in times.iter().enumerate() {
            if valid.holds(row)
                && *time >= before_ms
                && std::mem::replace(&mut self.wanted[row], false)
            {
                later += 1;
            }
        }
        later
    }

    fn check_time(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        let Some(latest_ms) = batch.latest_ms else { return };
        let Values::I64(times) = &batch.columns[self.time].values else { return };
        for (row, time) in times.iter().enumerate() {
            if *time > latest_ms {
                let why = "event time is beyond max_ahead";
                refuse(&mut self.wanted, refused, row, Reason::TooEarly, why);
            }
        }
    }

    /// Compares event times with arrival times, where rows have them. Returns how many events came
    /// later than the horizon and count all the same, and the greatest arrival time.
    fn check_arrival(
        &mut self,
        batch: &Batch<'_>,
        days: &mut DayTable,
        refused: &mut Vec<Refused>,
    ) -> (u64, i64) {
        let Values::I64(times) = &batch.columns[self.time].values else { return (0, i64::MIN) };
        if batch.places.first().is_none_or(|place| place.arrival_ms.is_none()) {
            // A file: its rows arrive when they are read.
            return (0, i64::MIN);
        }
        let (mut late, mut greatest_ms) = (0, i64::MIN);
        for (row, (time, place)) in times.iter().zip(batch.places).enumerate() {
            let Some(arrival_ms) = place.arrival_ms else { continue };
            greatest_ms = greatest_ms.max(arrival_ms);
            if *time > arrival_ms.saturating_add(batch.lateness.max_ahead_ms) {
                let why = "event time is beyond max_ahead";
                refuse(&mut self.wanted, refused, row, Reason::TooEarly, why);
            }
            // The day of an instant is looked up only where it may matter.
            if *time > arrival_ms.saturating_sub(DAY_MS * i64::from(batch.lateness.horizon_days)) {
                continue;
            }
            let oldest =
                days.day_of(arrival_ms).saturating_sub_unsigned(batch.lateness.horizon_days);
            if !self.wanted[row] || days.day_of(*time) >= oldest || self.changes.is_some() {
                continue;
            }
            if self.id.is_some() {
                let why = "it arrived later than the horizon, where repeats are not recognised";
                refuse(&mut self.wanted, refused, row, Reason::TooLate, why);
            } else {
                late += u64::from(place.tells());
            }
        }
        (late, greatest_ms)
    }

    fn check_quarantine(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        if batch.quarantine.is_empty() {
            return;
        }
        for row in 0..batch.rows {
            let hash = uid_hash_at(&batch.columns[self.uid], row);
            if hash.is_some_and(|hash| batch.quarantine.holds(hash)) && batch.is_for(self.uid, row)
            {
                let why = "the user's state or a rule panicked";
                refuse(&mut self.wanted, refused, row, Reason::Quarantined, why);
            }
        }
        if let Some(changes) = &mut self.changes {
            changes.check_quarantine(batch, refused);
        }
    }

    /// Leaves to other copies of a record what is for users who belong elsewhere.
    fn leave_to_others(&mut self, batch: &Batch<'_>) {
        if batch.here.is_none() {
            return;
        }
        for (row, wanted) in self.wanted.iter_mut().enumerate() {
            *wanted = *wanted && batch.is_for(self.uid, row);
        }
        if let Some(changes) = &mut self.changes {
            changes.leave_to_others(batch);
        }
    }

    /// Computes what the rows are made of. Returns for how many rows that could not be done.
    fn prepare(&mut self, batch: &Batch<'_>, texts: &Texts) -> u64 {
        let inputs = &mut self.inputs;
        let rows = self.id.iter_mut().chain(&mut self.values);
        let rows = rows.chain(self.filters.iter_mut().map(|(expr, ..)| expr));
        let mut failed: u64 = rows.map(|expr| expr.prepare(batch, inputs, texts)).sum();
        for filters in &mut self.text_filters {
            filters.prepare(batch, inputs, texts);
        }
        failed += std::mem::take(&mut inputs.failed);
        failed
    }

    /// Writes id, values and flags of some rows, one after the other.
    fn stage(&mut self, batch: &Batch<'_>, rows: Range<usize>) {
        let width = self.layout.width;
        self.staged.clear();
        self.staged.resize(rows.len() * width, 0);
        let staged = &mut self.staged;
        if let (Some(id), Some(at)) = (&self.id, self.layout.id_word) {
            let put = |row: &mut [u64], word, _| row[at] = word;
            id.view(batch.columns).each(rows.clone(), staged.chunks_exact_mut(width), put);
        }
        if let (Some(changes), Some(at)) = (&self.changes, &self.layout.changelog) {
            let changes = &changes.rows[rows.clone()];
            for (row, change) in staged.chunks_exact_mut(width).zip(changes) {
                row[at.key_word] = change.key(Image::After);
                row[at.version_word] = change.version;
            }
        }
        for (expr, value) in self.values.iter().zip(&self.layout.values) {
            let (null_word, null_bit) = flag_at(value.null_flag);
            let shift = if value.upper { 32 } else { 0 };
            let put = |row: &mut [u64], word: u64, valid: bool| {
                if valid {
                    row[value.word] |= word << shift;
                } else {
                    row[null_word] |= 1 << null_bit;
                }
            };
            expr.view(batch.columns).each(rows.clone(), staged.chunks_exact_mut(width), put);
        }
        for filters in &self.text_filters {
            let Values::Text(codes, _) = &batch.columns[filters.column].values else { continue };
            for (row, code) in staged.chunks_exact_mut(width).zip(&codes[rows.clone()]) {
                row[filters.word] |= filters.bits[*code as usize];
            }
        }
        for (expr, at, bit) in &self.filters {
            let put = |row: &mut [u64], word: u64, valid: bool| {
                row[*at] |= (u64::from(valid) & word) << bit;
            };
            expr.view(batch.columns).each(rows.clone(), staged.chunks_exact_mut(width), put);
        }
    }

    /// Gives the events among staged rows their time and day, and each to its shard.
    fn hand_out(
        &mut self,
        batch: &Batch<'_>,
        rows: Range<usize>,
        days: &mut DayTable,
        block: &mut EventBlock,
    ) {
        let Values::I64(times) = &batch.columns[self.time].values else { return };
        let staged = self.staged.chunks_exact_mut(self.layout.width);
        let stream = self.layout.stream;
        let wanted = &self.wanted;
        let events = rows.zip(staged).filter(|(at, _)| wanted[*at]).map(|(at, row)| {
            let time = times[at];
            let day = days.day_of(time);
            row[0] = pack_time(time, stream);
            row[1] |= pack_day(day);
            (at, time, day, &*row)
        });
        match &batch.columns[self.uid].values {
            Values::U64(uids) => {
                for (at, time, day, row) in events {
                    block.note(time, day);
                    block.push_number(uids[at], row, batch.places[at].read_at);
                }
            }
            Values::Plain(uids) => {
                for (at, time, day, row) in events {
                    block.note(time, day);
                    block.push_text(&uids[at], row, batch.places[at].read_at);
                }
            }
            _ => {}
        }
    }

    /// Tells users that rows have left them.
    fn hand_out_gone(&mut self, batch: &Batch<'_>, block: &mut EventBlock) {
        let Some(changes) = &self.changes else { return };
        self.staged.clear();
        self.staged.resize(self.layout.width, 0);
        for (row, change) in changes.rows.iter().enumerate() {
            let Some(image) = change.leaves else { continue };
            write_tombstone(&mut self.staged, &self.layout, change.key(image), change.version);
            block.gone += 1;
            let offset = batch.places[row].read_at;
            match &batch.columns[changes.uid(image)].values {
                Values::U64(uids) => block.put_number(uids[row], &self.staged, offset),
                Values::Plain(uids) => block.put_text(&uids[row], &self.staged, offset),
                _ => {}
            }
        }
    }
}

pub(super) fn refuse(
    wanted: &mut [bool],
    refused: &mut Vec<Refused>,
    row: usize,
    reason: Reason,
    detail: &str,
) {
    if std::mem::replace(&mut wanted[row], false) {
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        refused.push(Refused { row, reason, detail: detail.to_owned() });
    }
}

/// The hash of a row's uid, if the column holds uids.
pub(super) fn uid_hash_at(column: &Column, row: usize) -> Option<u64> {
    match &column.values {
        Values::U64(uids) => Some(uid_hash(uids[row])),
        Values::Plain(uids) => Some(hash64(uids[row].as_bytes())),
        _ => None,
    }
}

/// Filters over one text column whose flags stand in one word: all of them by one look at a row's
/// code.
#[derive(Debug)]
struct TextFilters {
    column: usize,
    word: usize,
    /// With the bit of each flag.
    filters: Vec<(RowExpr, u32)>,
    /// By code.
    bits: Vec<u64>,
    generation: u64,
}

impl TextFilters {
    fn add(all: &mut Vec<Self>, expr: RowExpr, column: usize, word: usize, bit: u32) {
        match all.iter_mut().find(|f| f.column == column && f.word == word) {
            Some(same) => same.filters.push((expr, bit)),
            None => {
                let (filters, bits) = (vec![(expr, bit)], Vec::new());
                all.push(Self { column, word, filters, bits, generation: u64::MAX });
            }
        }
    }

    fn prepare(&mut self, batch: &Batch<'_>, inputs: &mut Inputs, texts: &Texts) {
        let Values::Text(_, dictionary) = &batch.columns[self.column].values else { return };
        if self.generation != dictionary.generation {
            self.bits.clear();
            self.generation = dictionary.generation;
        }
        let from = self.bits.len();
        if from == dictionary.len() {
            return;
        }
        self.bits.resize(dictionary.len(), 0);
        for (expr, bit) in &mut self.filters {
            expr.prepare(batch, inputs, texts);
            let Some(known) = expr.known() else { continue };
            let words = known.words[from..].iter().zip(&known.valid[from..]);
            for (bits, (word, valid)) in self.bits[from..].iter_mut().zip(words) {
                *bits |= (u64::from(*valid) & word) << *bit;
            }
        }
    }
}

/// A column as an expression.
pub(super) fn column_expr(
    column: &model::Column,
    catalog: &Catalog,
    stream: &model::Stream,
) -> TypedExpr {
    TypedExpr {
        expr: Expr::Column(datafusion_common::Column::from_name(column.name.clone())),
        data_type: column.kind.data_type(&catalog.zone),
        columns: vec![column.name.clone()],
        sql: column.name.clone(),
        place: stream.place,
    }
}
