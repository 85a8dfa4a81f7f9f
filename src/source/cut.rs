//! A source cut into blocks of whole rows.
//!
//! In: decompressed bytes, JSON lines or CSV, or a Parquet file. Out: blocks with the place of their first row and the
//! position behind their last. Whoever decodes a block needs nothing else, so several threads may.
//! Invariant: no decoding; a block's buffers are reused, not made anew.

use std::io::Read;

use super::file::ReadLimits;
use super::kafka::{RecordBlock, RecordBlocks, RecordLines, SourceId, TopicMeta, position_name};
use super::parquet::{self, Batches};
use super::position::{Incarnation, Position};
use crate::event::{PartitionOf, RecordPlace};

/// Bytes asked of a live source at once: what a pipe holds.
const LIVE_BYTES: usize = 1 << 16;

/// A CSV record with its line and byte offset.
pub(super) type Record = (csv::ByteRecord, u64, u64);

/// What a block holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Content {
    /// Whole lines.
    #[default]
    Lines,
    /// The head of a line that is too long, of which this many bytes were not kept.
    TooLong(u64),
    /// CSV records.
    Records,
    /// Rows of Parquet.
    Columns,
    /// The values of records of a topic, as lines.
    Messages,
}

/// Which partition of a topic a block was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Index among the topics that are read.
    pub topic: usize,
    /// The partition, among those of the topic.
    pub partition: PartitionOf,
    /// Both, as fences name them.
    pub source: SourceId,
    /// The name under which its position is kept.
    pub name: String,
}

/// Rows that are decoded together.
#[derive(Debug, Default)]
pub struct Block {
    buffer: Vec<u8>,
    bytes: usize,
    records: Vec<Record>,
    rows: usize,
    columns: Option<parquet::Rows>,
    pub(super) content: Content,
    /// Line and offset of its first byte.
    pub(super) first: (u64, u64),
    position: Option<Position>,
    messages: Vec<RecordPlace>,
    relayed: Vec<RecordLines>,
    origin: Option<Origin>,
}

impl Block {
    /// Where the lines stand, when they are records of a topic.
    pub(super) fn messages(&self) -> &[RecordPlace] {
        &self.messages
    }

    /// What `relay` wrote, by the topic it comes from.
    pub(super) fn relayed(&self) -> &[RecordLines] {
        &self.relayed
    }

    /// Where it was read, when that is a topic.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The text, when it is lines.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }

    /// The records, when it is CSV.
    pub(super) fn records(&self) -> &[Record] {
        &self.records[..self.rows]
    }

    /// The rows, when it is Parquet.
    pub(super) fn columns(&self) -> Option<&parquet::Rows> {
        self.columns.as_ref()
    }

    /// Takes the records of a partition over. Returns the position behind them.
    fn hold(&mut self, found: RecordBlock, topics: &[TopicMeta]) -> Position {
        let RecordBlock { topic, partition, source, lines, relayed, next, .. } = found;
        let RecordLines { text, records, .. } = lines;
        (self.bytes, self.buffer, self.messages) = (text.len(), text, records);
        self.relayed = relayed;
        self.content = Content::Messages;
        let TopicMeta { topic: name, id, partitions } = &topics[topic];
        let name = position_name(name, partition);
        let partition = PartitionOf { number: partition, of: *partitions };
        self.origin = Some(Origin { topic, partition, source, name });
        Position { incarnation: Incarnation::of(id.as_bytes()), offset: next, lines: 0 }
    }

    /// Where a restart goes on when this block and all before it are stored; `None` before it was
    /// cut.
    pub fn position(&self) -> Option<Position> {
        self.position
    }
}

enum Rows {
    Lines(Lines),
    Parquet(Batches),
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        /// Bytes and lines before the reader's start. The lines grow with each line break within a
        /// cell: the reader counts records.
        base: (u64, u64),
        rows_max: usize,
    },
    Kafka {
        blocks: RecordBlocks,
        topics: Vec<TopicMeta>,
        stopping: Box<dyn Fn() -> bool + Send>,
    },
}

/// How long to wait for a block before it is looked whether to stop.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Cuts a source into blocks, in order.
pub struct Cutter {
    rows: Rows,
    position: Position,
    /// Blocks end at these offsets, whatever else they are made of.
    borders: Vec<u64>,
}

impl Cutter {
    /// Of JSON lines. `live`: lines that are there do not wait for more.
    pub(super) fn lines(
        reader: Box<dyn Read + Send>,
        position: Position,
        limits: ReadLimits,
        live: bool,
    ) -> Self {
        let lines = Lines { reader, carry: Vec::new(), ended: false, limits, live };
        Self { rows: Rows::Lines(lines), position, borders: Vec::new() }
    }

    /// Of CSV. `base`: bytes and lines before the reader's start.
    pub(super) fn csv(
        reader: csv::Reader<Box<dyn Read + Send>>,
        position: Position,
        base: (u64, u64),
        limits: ReadLimits,
    ) -> Self {
        let (reader, rows_max) = (Box::new(reader), limits.batch_rows_max);
        Self { rows: Rows::Csv { reader, base, rows_max }, position, borders: Vec::new() }
    }

    /// Ends a block at each of these offsets: there one ended when it was read before.
    pub(super) fn cut_at(&mut self, offsets: Vec<u64>) {
        self.borders = offsets;
    }

    /// Of Parquet.
    pub(super) fn parquet(batches: Batches, position: Position) -> Self {
        Self { rows: Rows::Parquet(batches), position, borders: Vec::new() }
    }

    /// Of the blocks of an assignment, until `stopping`.
    pub fn kafka(
        blocks: RecordBlocks,
        topics: Vec<TopicMeta>,
        stopping: Box<dyn Fn() -> bool + Send>,
    ) -> Self {
        // Each block brings its own.
        let position = Position { incarnation: Incarnation::of(&[]), offset: 0, lines: 0 };
        Self { rows: Rows::Kafka { blocks, topics, stopping }, position, borders: Vec::new() }
    }

    /// Cuts the next block off; false at the end. Of a live source what is there is a block: its
    /// next line may be long in coming.
    pub fn cut(&mut self, block: &mut Block) -> std::io::Result<bool> {
        let position = &mut self.position;
        let ahead = self.borders.iter().copied().filter(|border| *border > position.offset);
        let border = ahead.min();
        block.first = (position.lines + 1, position.offset);
        match &mut self.rows {
            Rows::Lines(lines) => {
                let room = border.map(|border| border - position.offset);
                if !lines.cut(block, room)? {
                    return Ok(false);
                }
                let text = block.bytes();
                let (bytes, breaks) = match block.content {
                    Content::TooLong(skipped) => (text.len() as u64 + skipped, 1),
                    _ => (text.len() as u64, memchr::memchr_iter(b'\n', text).count() as u64),
                };
                position.offset += bytes;
                position.lines += breaks;
            }
            Rows::Parquet(batches) => {
                block.content = Content::Columns;
                block.columns = batches.cut(border)?;
                if block.columns.is_none() {
                    return Ok(false);
                }
                position.offset = batches.next_row();
                position.lines = position.offset;
            }
            Rows::Csv { reader, base, rows_max } => {
                if !cut_records(reader, base, *rows_max, border, block)? {
                    return Ok(false);
                }
                let end = reader.position();
                position.offset = base.0 + end.byte();
                position.lines = base.1 + end.line() - 1;
            }
            Rows::Kafka { blocks, topics, stopping } => {
                let found = loop {
                    if stopping() {
                        return Ok(false);
                    }
                    if let Some(found) = blocks.next(PATIENCE) {
                        break found;
                    }
                };
                *position = block.hold(found, topics);
            }
        }
        block.position = Some(*position);
        Ok(true)
    }
}

fn cut_records(
    reader: &mut csv::Reader<Box<dyn Read + Send>>,
    base: &mut (u64, u64),
    rows_max: usize,
    border: Option<u64>,
    block: &mut Block,
) -> std::io::Result<bool> {
    block.content = Content::Records;
    block.rows = 0;
    while block.rows < rows_max {
        if border.is_some_and(|border| base.0 + reader.position().byte() >= border) {
            break;
        }
        if block.records.len() == block.rows {
            block.records.push(Record::default());
        }
        let (record, line, offset) = &mut block.records[block.rows];
        let at = reader.position().clone();
        if !reader.read_byte_record(record)? {
            break;
        }
        if record.len() == 1 && record.get(0) == Some(b"\r") {
            continue;
        }
        let start = record.position().unwrap_or(&at);
        (*line, *offset) = (base.1 + start.line(), base.0 + start.byte());
        base.1 += memchr::memchr_iter(b'\n', record.as_slice()).count() as u64;
        block.rows += 1;
    }
    Ok(block.rows > 0)
}

struct Lines {
    reader: Box<dyn Read + Send>,
    /// What was read behind the last block.
    carry: Vec<u8>,
    ended: bool,
    limits: ReadLimits,
    live: bool,
}

impl Lines {
    /// Whole lines, about `block_bytes` of them; what is behind the last line break is carried over.
    /// `bytes_max`: not more, though that be in the middle of a line.
    fn cut(&mut self, block: &mut Block, bytes_max: Option<u64>) -> std::io::Result<bool> {
        block.content = Content::Lines;
        if self.ended {
            return Ok(false);
        }
        let wanted = self.limits.block_bytes.max(1);
        let wanted = if self.live { wanted.min(LIVE_BYTES) } else { wanted };
        let bytes_max = bytes_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let buffer = &mut block.buffer;
        let mut bytes = self.carry.len().min(bytes_max);
        // The buffer keeps its length, so that it is filled with zeros only once.
        buffer.resize(buffer.len().max(bytes + wanted), 0);
        buffer[..bytes].copy_from_slice(&self.carry[..bytes]);
        self.carry.drain(..bytes);
        loop {
            let wanted = wanted.min(bytes_max - bytes);
            if wanted == 0 {
                break;
            }
            buffer.resize(buffer.len().max(bytes + wanted), 0);
            let searched = bytes;
            let room = &mut buffer[bytes..bytes + wanted];
            let read = if self.live {
                read_some(&mut self.reader, room)?
            } else {
                read_full(&mut self.reader, room)?
            };
            bytes += read;
            if read == 0 {
                self.ended = true;
                break;
            }
            if let Some(last) = memchr::memrchr(b'\n', &buffer[searched..bytes]) {
                let end = searched + last + 1;
                self.carry.extend_from_slice(&buffer[end..bytes]);
                bytes = end;
                break;
            }
            if bytes > self.limits.line_bytes_max {
                block.content = Content::TooLong(self.skip_line(bytes_max - bytes)?);
                break;
            }
        }
        block.bytes = bytes;
        Ok(bytes > 0)
    }

    /// Reads to the end of a line that is not kept; what follows it is carried over.
    fn skip_line(&mut self, bytes_max: usize) -> std::io::Result<u64> {
        let (mut skipped, bytes_max) = (0, bytes_max as u64);
        let mut chunk = vec![0; 1 << 16];
        loop {
            let wanted = usize::try_from(bytes_max - skipped).unwrap_or(usize::MAX);
            let wanted = wanted.min(chunk.len());
            let read = self.reader.read(&mut chunk[..wanted])?;
            if read == 0 {
                self.ended = wanted > 0;
                return Ok(skipped);
            }
            if let Some(at) = memchr::memchr(b'\n', &chunk[..read]) {
                self.carry.extend_from_slice(&chunk[at + 1..read]);
                return Ok(skipped + at as u64 + 1);
            }
            skipped += read as u64;
        }
    }
}

fn read_some(reader: &mut (impl Read + ?Sized), into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match reader.read(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Reads until `into` is full or the source ends.
fn read_full(reader: &mut (impl Read + ?Sized), into: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match read_some(reader, &mut into[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
