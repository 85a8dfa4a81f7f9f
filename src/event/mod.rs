//! Rows of a source become events.
//!
//! In: lines of JSON, records of CSV or batches of Parquet from one source, and the streams that read
//! it. Out: blocks of
//! event rows, split by shard, and rejects with reason, place and bytes.
//! Invariant: no I/O, no clock; a broken row never stops the rest, and every row is accounted for:
//! event, filtered out, or reject.

mod before;
pub mod block;
mod change;
mod column;
mod columnar;
mod dictionary;
mod envelope;
mod inputs;
mod json;
pub mod parse;
pub mod partitioner;
mod place;
pub mod quarantine;
pub mod reject;
mod row_expr;
pub(crate) mod scan;
mod stream;

use std::sync::Arc;

use self::block::EventBlock;
use self::column::{Column, TextUse};
pub(crate) use self::envelope::LOG_POSITION;
use self::envelope::Reads;
use self::json::Keys;
use self::parse::Cell;
use self::place::{Lines, RowPlace};
pub use self::place::{PartitionOf, RecordPlace, Whose};
use self::quarantine::Quarantine;
use self::reject::{Reason, Reject, Shown, shown};
use self::stream::{Refused, StreamDecoder};
use crate::catalog::model::{self, Catalog, ColumnType};
use crate::clock::{DayTable, Zone};
use crate::rule::safe::NotExecutable;
use crate::user::layout::StateLayout;
use crate::user::texts::Texts;

/// A source that cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// A row expression that passed `check` but cannot run.
    #[error("stream `{stream}`: {source}")]
    Expression {
        /// The stream.
        stream: String,
        /// Why.
        source: NotExecutable,
    },
    /// A CSV header without a column that a stream needs.
    #[error("{source_name}:1: no column `{column}`{hint}; the header has: {header}")]
    NoColumn {
        /// The file.
        source_name: String,
        /// The column.
        column: String,
        /// `; did you mean ...` or nothing.
        hint: String,
        /// The header's columns.
        header: String,
    },
    /// A columnar file without a column that a stream needs.
    #[error("{source_name}: no column `{column}`{hint}; the file has: {columns}")]
    NotInFile {
        /// The file.
        source_name: String,
        /// The column.
        column: String,
        /// `; did you mean ...` or nothing.
        hint: String,
        /// The file's columns.
        columns: String,
    },
    /// A columnar file with a column of a type that cannot become the declared one.
    #[error("{source_name}: column `{column}` is {is} in the file, the catalogue says {remedy}")]
    FileType {
        /// The file.
        source_name: String,
        /// The column.
        column: String,
        /// Its type in the file.
        is: String,
        /// Its declared type, and what to do.
        remedy: String,
    },
}

/// A batch being decoded, as its streams see it.
#[derive(Debug)]
struct Batch<'a> {
    columns: &'a [Column],
    rows: usize,
    shards: usize,
    /// Events later than this are too early.
    latest_ms: Option<i64>,
    /// For rows that have an arrival time.
    lateness: Lateness,
    /// Shards need to know at which offset each row stands.
    with_offsets: bool,
    quarantine: &'a Quarantine,
    /// Where each row stands in its source.
    places: &'a [RowPlace],
    /// The partition that is read, where some records are only for users who belong in it.
    here: Option<PartitionOf>,
    /// What happened to each row, where envelopes say it.
    envelopes: Option<&'a envelope::Reader>,
}

impl Batch<'_> {
    /// Whether the user of a row is one whom its record is for. `uids`: the column that says whose row
    /// it is.
    fn is_for(&self, uids: usize, row: usize) -> bool {
        let Some(here) = self.here else { return true };
        self.places[row].whose == Whose::Everybody || here.holds(&self.columns[uids], row)
    }
}

/// How late and how early an event may be, against when it arrived.
#[derive(Debug, Clone, Copy)]
struct Lateness {
    max_ahead_ms: i64,
    horizon_days: u32,
}

/// What a batch of source rows gave.
#[derive(Debug, Default)]
pub struct Decoded {
    /// One block a stream.
    pub blocks: Vec<EventBlock>,
    /// One reject for each row and stream that refused it.
    pub rejects: Vec<Reject>,
    /// Source rows read.
    pub rows: u64,
    /// Source rows that at least one stream refused.
    pub rejected_rows: u64,
}

impl Decoded {
    /// Adds what rows of another source gave, which other streams read.
    pub fn append(&mut self, mut other: Self) {
        self.blocks.append(&mut other.blocks);
        self.rejects.append(&mut other.rejects);
        self.rows += other.rows;
        self.rejected_rows += other.rejected_rows;
    }
}

/// Decodes one source for all streams that read it.
#[derive(Debug)]
pub struct Decoder {
    source: String,
    zone: Zone,
    texts: Arc<Texts>,
    columns: Vec<Column>,
    keys: Keys,
    /// Of change data capture: reads lines instead. An archive of such a stream may hold its rows
    /// without envelopes, in columns.
    envelopes: Option<envelope::Reader>,
    /// CSV: the header, and for each source column its index in it.
    header: Vec<String>,
    cells: Vec<Option<usize>>,
    streams: Vec<StreamDecoder>,
    names: Vec<String>,
    masks: Vec<Vec<String>>,
    days: DayTable,
    shards: usize,
    lateness: Lateness,
    with_offsets: bool,
    places: Vec<RowPlace>,
    here: Option<PartitionOf>,
    quarantine: Arc<Quarantine>,
}

impl Decoder {
    /// A decoder of one source for the streams with these indices.
    pub fn new(
        catalog: &Catalog,
        layout: &StateLayout,
        streams: &[usize],
        source: &str,
        texts: Arc<Texts>,
        shards: usize,
    ) -> Result<Self, DecoderError> {
        let mut read = SourceColumns::default();
        let mapping: Vec<Images> =
            streams.iter().map(|stream| read.add(catalog, layout, *stream)).collect();
        let columns = read.columns;
        let format = streams.first().map(|s| catalog.streams[*s].from.format());
        let reads = streams.iter().zip(&mapping).map(|(s, images)| Reads {
            tables: catalog.streams[*s].tables.clone(),
            columns: images.after.iter().chain(&images.before).copied().collect(),
        });
        let reads = reads.collect();
        let envelopes = format.and_then(|format| envelope::Reader::new(format, reads, &columns));
        let decoders = streams
            .iter()
            .zip(&mapping)
            .map(|(s, m)| StreamDecoder::new(catalog, &layout.streams[*s], m, &columns))
            .collect::<Result<_, _>>()?;
        let masks = streams.iter().map(|s| masks(&catalog.streams[*s]));
        Ok(Self {
            source: source.to_owned(),
            zone: catalog.zone.clone(),
            texts,
            keys: Keys::new(&columns),
            envelopes,
            header: Vec::new(),
            cells: vec![None; columns.len()],
            columns,
            streams: decoders,
            names: streams.iter().map(|s| catalog.streams[*s].name.clone()).collect(),
            masks: masks.collect(),
            days: DayTable::new(&catalog.zone),
            shards,
            lateness: Lateness {
                max_ahead_ms: catalog.max_ahead_ms,
                horizon_days: layout.horizon_days,
            },
            with_offsets: false,
            places: Vec::new(),
            here: None,
            quarantine: Arc::default(),
        })
    }

    /// Refuses events of the users that shards put into this quarantine.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Arc<Quarantine>) -> Self {
        self.quarantine = quarantine;
        self
    }

    /// Tells shards at which offset each row stands.
    #[must_use]
    pub fn with_offsets(mut self, with_offsets: bool) -> Self {
        self.with_offsets = with_offsets;
        self
    }

    /// CSV: finds the columns in the header. A missing optional column reads as NULL.
    pub fn header(&mut self, header: &[String], required: &[String]) -> Result<(), DecoderError> {
        self.envelopes = None;
        for (at, column) in self.columns.iter().enumerate() {
            let name = column.in_header();
            self.cells[at] = header.iter().position(|h| *h == name);
            let is_required = column.member.is_none() && required.contains(&column.from);
            if self.cells[at].is_none() && is_required {
                let hint = similar(&column.from, header.iter().map(String::as_str));
                return Err(DecoderError::NoColumn {
                    source_name: self.source.clone(),
                    column: column.from.clone(),
                    hint,
                    header: header.join(", "),
                });
            }
        }
        self.header = header.to_vec();
        Ok(())
    }

    /// Decodes a block of whole JSON lines. `line` and `offset` are those of its first byte.
    pub fn lines(
        &mut self,
        block: &[u8],
        line: u64,
        offset: u64,
        latest_ms: Option<i64>,
    ) -> Decoded {
        self.decode(block, Lines::File { line, offset }, latest_ms)
    }

    /// Decodes records of a topic. `block`: their values, each on a line of its own. Events are too early
    /// or too late by when they arrived. `here`: where they were read, if some of them are only for users
    /// who belong there.
    pub fn messages(
        &mut self,
        block: &[u8],
        records: &[RecordPlace],
        here: Option<PartitionOf>,
    ) -> Decoded {
        self.here = here;
        let decoded = self.decode(block, Lines::Records(records), None);
        self.here = None;
        decoded
    }

    fn decode(&mut self, block: &[u8], lines: Lines<'_>, latest_ms: Option<i64>) -> Decoded {
        if self.envelopes.is_some() {
            return self.records_of_changes(block, lines, latest_ms);
        }
        self.clear();
        let mut decoded = Decoded::default();
        let (mut at, mut start) = (0, 0);
        while start < block.len() {
            let (columns, keys) = (&mut self.columns, &mut self.keys);
            if let Some(end) = json::read_plain_line(block, start, columns, keys, &self.zone) {
                let place = lines.place(at, start, end);
                self.places.push(place);
                decoded.rows += u64::from(place.tells());
                at += 1;
                start = end + 1;
                continue;
            }
            let end = memchr(block, start);
            let text = block[start..end].strip_suffix(b"\r").unwrap_or(&block[start..end]);
            // A blank line of a file is nothing, a blank record is one that cannot be used.
            if lines.are_records() || !text.iter().all(u8::is_ascii_whitespace) {
                let place = lines.place(at, start, end);
                decoded.rows += u64::from(place.tells());
                match json::read_line(text, &mut self.columns, &mut self.keys, &self.zone) {
                    Ok(()) => self.places.push(place),
                    Err(why) => self.broken(place, text, Reason::Malformed, &why, &mut decoded),
                }
            }
            at += 1;
            start = end + 1;
        }
        self.finish(latest_ms, &mut decoded, |place, masks| {
            shown_json(&block[place.start..place.end], masks)
        });
        decoded
    }

    /// Decodes CSV records, each with its line and byte offset.
    pub fn records(
        &mut self,
        records: &[(csv::ByteRecord, u64, u64)],
        latest_ms: Option<i64>,
    ) -> Decoded {
        self.clear();
        let header = std::mem::take(&mut self.header);
        let mut decoded = Decoded { rows: records.len() as u64, ..Decoded::default() };
        for (at, (record, line, offset)) in records.iter().enumerate() {
            let place = RowPlace::line(*line, *offset, at, at + 1);
            if record.len() != header.len() {
                let why = format!("{} cells, the header has {}", record.len(), header.len());
                let row = joined(record, &header, &[]);
                self.broken(place, &row, Reason::Malformed, &why, &mut decoded);
                continue;
            }
            let is_bad = |cell: &[u8]| std::str::from_utf8(cell).is_err();
            // Cells are looked at one by one only where there is anything to see.
            if !record.as_slice().is_ascii()
                && let Some(cell) = record.iter().position(is_bad)
            {
                let why = format!("`{}` is not UTF-8", header[cell]);
                let row = joined(record, &header, &[]);
                self.broken(place, &row, Reason::Malformed, &why, &mut decoded);
                continue;
            }
            for (column, cell) in self.columns.iter_mut().zip(&self.cells) {
                let text = cell.and_then(|c| record.get(c)).unwrap_or_default();
                let last = cell.is_some_and(|c| c + 1 == record.len());
                let text = if last { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
                let text = std::str::from_utf8(text).unwrap_or_default();
                let cell = if text.is_empty() { Cell::Null } else { Cell::Csv(text) };
                column.push(cell, &self.zone);
            }
            self.places.push(place);
        }
        self.finish(latest_ms, &mut decoded, |place, masks| {
            shown(&joined(&records[place.start].0, &header, masks), false)
        });
        self.header = header;
        decoded
    }

    /// A line that was cut off because it is too long.
    pub fn too_long(&self, head: &[u8], bytes: u64, line: u64, offset: u64) -> Decoded {
        let mut decoded = Decoded { rows: 1, ..Decoded::default() };
        let place = RowPlace::line(line, offset, 0, head.len());
        self.broken(place, head, Reason::TooLong, &format!("{bytes} bytes"), &mut decoded);
        decoded
    }

    fn clear(&mut self) {
        self.columns.iter_mut().for_each(Column::clear);
        self.places.clear();
    }

    /// A row that no stream can read: a reject for each of them.
    fn broken(&self, place: RowPlace, row: &[u8], reason: Reason, why: &str, out: &mut Decoded) {
        if !place.tells() {
            return;
        }
        out.rejected_rows += 1;
        for (stream, masks) in self.names.iter().zip(&self.masks) {
            let Shown { text, bytes, whole } = shown(row, !masks.is_empty());
            out.rejects.push(Reject {
                stream: stream.clone(),
                reason,
                detail: why.to_owned(),
                source: place.source(&self.source),
                line: place.line,
                offset: place.offset,
                index: place.index,
                row: text,
                row_bytes: bytes,
                arrived_ms: place.arrival_ms,
                whole,
            });
        }
    }

    fn finish(
        &mut self,
        latest_ms: Option<i64>,
        decoded: &mut Decoded,
        show: impl Fn(RowPlace, &[String]) -> Shown,
    ) {
        let batch = Batch {
            columns: &self.columns,
            rows: self.places.len(),
            shards: self.shards,
            latest_ms,
            lateness: self.lateness,
            with_offsets: self.with_offsets,
            quarantine: &self.quarantine,
            places: &self.places,
            here: self.here,
            envelopes: self.envelopes.as_ref(),
        };
        // Rows that some stream refused.
        let mut rows_refused: Vec<u32> = Vec::new();
        for (at, stream) in self.streams.iter_mut().enumerate() {
            let mut refused: Vec<Refused> = Vec::new();
            let block = stream.decode(&batch, at, &self.texts, &mut self.days, &mut refused);
            decoded.blocks.push(block);
            for Refused { row, reason, detail } in refused {
                let place = self.places[row as usize];
                rows_refused.push(row);
                let Shown { text, bytes, whole } = show(place, &self.masks[at]);
                decoded.rejects.push(Reject {
                    stream: self.names[at].clone(),
                    reason,
                    detail,
                    source: place.source(&self.source),
                    line: place.line,
                    offset: place.offset,
                    index: place.index,
                    row: text,
                    row_bytes: bytes,
                    arrived_ms: place.arrival_ms,
                    whole,
                });
            }
        }
        rows_refused.sort_unstable();
        rows_refused.dedup();
        decoded.rejected_rows += rows_refused.len() as u64;
    }
}

/// The source columns of a stream's declared columns: of the row as it is, and, for tables that
/// change, of the row as it was (else empty).
#[derive(Debug)]
struct Images {
    after: Vec<usize>,
    before: Vec<usize>,
}

/// The columns of a source, each once.
#[derive(Debug, Default)]
struct SourceColumns {
    columns: Vec<Column>,
    uses: Vec<TextUse>,
}

impl SourceColumns {
    /// Adds what a stream reads.
    fn add(&mut self, catalog: &Catalog, layout: &StateLayout, stream: usize) -> Images {
        let s = &catalog.streams[stream];
        let mut image = |member: Option<&str>| {
            let columns = s.columns.iter().enumerate();
            columns
                .map(|(at, c)| {
                    // What is said of a change is said of both images.
                    let member = member.filter(|_| !c.envelope);
                    let by_text = s.from.format().is_envelope();
                    self.find_or_add(c, (member, by_text), text_use(catalog, layout, stream, at))
                })
                .collect()
        };
        let after = image(None);
        let before = s.changelog.as_ref().and_then(|changelog| changelog.before.as_deref());
        let before = before.map_or_else(Vec::new, |member| image(Some(member)));
        Images { after, before }
    }

    fn find_or_add(
        &mut self,
        column: &model::Column,
        (member, by_text): (Option<&str>, bool),
        text_use: TextUse,
    ) -> usize {
        let same = self.columns.iter().zip(&self.uses).position(|(have, have_use)| {
            have.from == column.from
                && have.kind == column.kind
                && have.member.as_deref() == member
                && have.envelope == column.envelope
                && *have_use == text_use
        });
        same.unwrap_or_else(|| {
            let new = Column::new(&column.from, &column.kind, text_use).within(member);
            let new = if by_text { new.of_changes(column.envelope) } else { new };
            self.columns.push(new);
            self.uses.push(text_use);
            self.columns.len() - 1
        })
    }
}

/// Names of masked columns in the source: in a CSV those of before-images have names of their own.
fn masks(stream: &model::Stream) -> Vec<String> {
    let before = stream.changelog.as_ref().and_then(|changelog| changelog.before.as_ref());
    let names = |c: &model::Column| {
        let within = before.map(|member| format!("{member}.{}", c.from));
        std::iter::once(c.from.clone()).chain(within)
    };
    stream.columns.iter().filter(|c| c.mask).flat_map(names).collect()
}

fn text_use(catalog: &Catalog, layout: &StateLayout, stream: usize, column: usize) -> TextUse {
    let s = &catalog.streams[stream];
    let operation = s.changelog.as_ref().and_then(|c| c.operation.as_ref());
    let is_operation = operation.is_some_and(|o| o.column == column);
    if s.columns[column].kind != ColumnType::String || is_operation {
        TextUse::Dictionary
    } else if column == s.uid {
        TextUse::Plain
    } else if layout.streams[stream].only_hashed(catalog, &s.columns[column].name) {
        let name = &s.columns[column].name;
        let is_key = s.changelog.as_ref().is_some_and(|c| c.primary_key.contains(&column));
        let is_id = is_key || s.dedupe.as_ref().is_some_and(|dedupe| dedupe.by == column);
        let values = &layout.streams[stream].values;
        let is_read = is_id || values.iter().any(|value| value.expr.columns.contains(name));
        if is_read { TextUse::Hash } else { TextUse::Unread }
    } else {
        TextUse::Dictionary
    }
}

fn memchr(block: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &block[start..]).map_or(block.len(), |at| start + at)
}

/// The row with the values of masked columns replaced; hidden whole where that cannot be done.
fn shown_json(row: &[u8], masks: &[String]) -> Shown {
    if masks.is_empty() {
        return shown(row, false);
    }
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(row) {
        Ok(object) => {
            let object = masked(object, masks);
            shown(serde_json::Value::Object(object).to_string().as_bytes(), false)
        }
        Err(_) => shown(row, true),
    }
}

/// The object with the values of masked columns replaced.
fn masked(
    mut object: serde_json::Map<String, serde_json::Value>,
    masks: &[String],
) -> serde_json::Map<String, serde_json::Value> {
    for mask in masks {
        if let Some(value) = object.get_mut(mask) {
            *value = "***".into();
        }
        // The row as it was before a change has the same columns.
        let inside = object.values_mut().filter_map(serde_json::Value::as_object_mut);
        for value in inside.filter_map(|object| object.get_mut(mask)) {
            *value = "***".into();
        }
    }
    object
}

/// `; did you mean ...`, where one of the names is much like the one that is missing.
fn similar<'n>(missing: &str, names: impl Iterator<Item = &'n str>) -> String {
    let near = names.map(|name| (strsim::jaro_winkler(name, missing), name));
    let near = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8);
    near.map(|(_, name)| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// A CSV record as text, masked columns hidden.
fn joined(record: &csv::ByteRecord, header: &[String], masks: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, cell) in record.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if header.get(at).is_some_and(|h| masks.contains(h)) {
            out.extend_from_slice(if cell.is_empty() { b"" } else { b"***" });
        } else {
            out.extend_from_slice(cell);
        }
    }
    out
}
