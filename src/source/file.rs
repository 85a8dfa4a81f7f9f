//! A file as a source of decoded batches.
//!
//! In: JSON lines or CSV, plain, gzip or zstd, or standard input. Out: batches, each with the
//! position behind it. A file that feeds several streams is read once.
//! Invariant: a batch covers whole rows; its position is where a restart goes on.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::input::{Input, InputError, STDIN, open};
use super::position::{Position, source_name};
use crate::catalog::model::{Catalog, Format};
use crate::event::quarantine::Quarantine;
use crate::event::{Decoded, Decoder, DecoderError};
use crate::user::layout::StateLayout;
use crate::user::texts::Texts;

/// Limits of reading.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// Bytes of text decoded at once.
    pub block_bytes: usize,
    /// Rows of CSV decoded at once.
    pub batch_rows_max: usize,
    /// Longest line; a longer one is a reject.
    pub line_bytes_max: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { block_bytes: 1 << 20, batch_rows_max: 8192, line_bytes_max: 1 << 20 }
    }
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// The file, or `-`.
    pub path: PathBuf,
    /// How rows are written.
    pub format: Format,
    /// Indices of the streams it feeds.
    pub streams: Vec<usize>,
    /// Its name in positions and rejects: the path as given.
    pub name: String,
}

/// A file that cannot be used as a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// It cannot be decoded.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
}

enum Reader {
    Lines {
        reader: Box<dyn Read + Send>,
        carry: Vec<u8>,
        ended: bool,
    },
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        header: Vec<String>,
        /// Bytes and lines before the reader's start. The lines grow with each line break within a
        /// cell: the reader counts records.
        base: (u64, u64),
    },
}

/// A source being read.
pub struct FileSource {
    spec: FileSpec,
    decoder: Decoder,
    reader: Reader,
    position: Position,
    names: Vec<String>,
    limits: ReadLimits,
    /// Length of the file on disk.
    pub bytes_total: Option<u64>,
    /// Bytes of the file read so far.
    pub bytes_read: Arc<AtomicU64>,
}

impl FileSource {
    /// Opens a file, behind `resume` when it was read before.
    pub fn open(
        spec: FileSpec,
        catalog: &Catalog,
        layout: &StateLayout,
        texts: Arc<Texts>,
        shards: usize,
        limits: ReadLimits,
        resume: Option<Position>,
    ) -> Result<Self, SourceError> {
        let mut decoder = Decoder::new(catalog, layout, &spec.streams, &spec.name, texts, shards)?;
        let mut input = open(&spec.path)?;
        let start = Position { incarnation: input.incarnation, offset: 0, lines: 0 };
        let resume = resume.filter(|_| spec.path != Path::new(STDIN));
        let position = match resume {
            Some(at) => {
                input.resume(&spec.path, &at)?;
                // The file may have grown beyond the head that was hashed.
                Position { incarnation: input.incarnation, ..at }
            }
            None => start,
        };
        let (bytes_total, bytes_read) = (input.bytes_total, Arc::clone(&input.bytes_read));
        let reader = match spec.format {
            Format::Json => Reader::Lines { reader: input.reader, carry: Vec::new(), ended: false },
            Format::Csv => {
                open_csv(&spec, catalog, &mut decoder, input, &position, resume.is_some())?
            }
        };
        let name = |s: &usize| source_name(&catalog.streams[*s].name, &spec.path);
        let names = spec.streams.iter().map(name).collect();
        Ok(Self { spec, decoder, reader, position, names, limits, bytes_total, bytes_read })
    }

    /// Refuses events of quarantined users.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Arc<Quarantine>) -> Self {
        self.decoder = self.decoder.with_quarantine(quarantine);
        self
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The names under which its position is kept, one a stream.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a restart can go on where this stopped (standard input cannot).
    pub fn is_replayable(&self) -> bool {
        self.spec.path != Path::new(STDIN)
    }

    /// Reads and decodes the next batch; `None` at the end. Of standard input what is there is
    /// decoded at once: its next line may be long in coming. Events later than `latest_ms` are
    /// rejects.
    pub fn next(
        &mut self,
        latest_ms: Option<i64>,
    ) -> Result<Option<(Decoded, Position)>, SourceError> {
        let failed =
            |source: std::io::Error| InputError::Read { path: self.spec.path.clone(), source };
        let decoded = match &mut self.reader {
            Reader::Lines { reader, carry, ended } => {
                if *ended {
                    return Ok(None);
                }
                let live = self.bytes_total.is_none();
                let block = read_lines(reader, carry, ended, &self.limits, live).map_err(failed)?;
                if block.bytes.is_empty() {
                    return Ok(None);
                }
                let at = self.position;
                let decoded = if block.too_long {
                    let length = block.bytes.len() as u64 + block.skipped;
                    self.decoder.too_long(&block.bytes, length, at.lines + 1, at.offset)
                } else {
                    self.decoder.lines(&block.bytes, at.lines + 1, at.offset, latest_ms)
                };
                self.position.offset += block.bytes.len() as u64 + block.skipped;
                self.position.lines += if block.too_long {
                    1
                } else {
                    memchr::memchr_iter(b'\n', &block.bytes).count() as u64
                };
                decoded
            }
            Reader::Csv { reader, header, base } => {
                let mut records = Vec::with_capacity(self.limits.batch_rows_max);
                let mut record = csv::ByteRecord::new();
                while records.len() < self.limits.batch_rows_max {
                    let at = reader.position().clone();
                    let more =
                        reader.read_byte_record(&mut record).map_err(|e| failed(e.into()))?;
                    if !more {
                        break;
                    }
                    if record.len() == 1 && record.get(0) == Some(b"\r") {
                        continue;
                    }
                    let start = record.position().unwrap_or(&at);
                    records.push((record.clone(), base.1 + start.line(), base.0 + start.byte()));
                    base.1 += memchr::memchr_iter(b'\n', record.as_slice()).count() as u64;
                }
                if records.is_empty() {
                    return Ok(None);
                }
                let decoded = self.decoder.records(&records, header, latest_ms);
                let end = reader.position();
                self.position.offset = base.0 + end.byte();
                self.position.lines = base.1 + end.line() - 1;
                decoded
            }
        };
        Ok(Some((decoded, self.position)))
    }
}

fn open_csv(
    spec: &FileSpec,
    catalog: &Catalog,
    decoder: &mut Decoder,
    mut input: Input,
    position: &Position,
    resumed: bool,
) -> Result<Reader, SourceError> {
    let failed = |e: csv::Error| InputError::Read { path: spec.path.clone(), source: e.into() };
    let build =
        |reader| csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
    let mut first = csv::ByteRecord::new();
    let (reader, base) = if resumed {
        let mut header_reader = build(open(&spec.path)?.reader);
        header_reader.read_byte_record(&mut first).map_err(failed)?;
        (build(input.reader), (position.offset, position.lines))
    } else {
        let reader = std::mem::replace(&mut input.reader, Box::new(std::io::empty()));
        let mut reader = build(reader);
        reader.read_byte_record(&mut first).map_err(failed)?;
        (reader, (0, 0))
    };
    let mut header: Vec<String> =
        first.iter().map(|c| String::from_utf8_lossy(c).trim().to_owned()).collect();
    if let Some(name) = header.first_mut() {
        *name = name.trim_start_matches('\u{feff}').to_owned();
    }
    let columns = spec.streams.iter().flat_map(|s| &catalog.streams[*s].columns);
    let required: Vec<String> = columns.filter(|c| c.required).map(|c| c.from.clone()).collect();
    decoder.header(&header, &required)?;
    Ok(Reader::Csv { reader: Box::new(reader), header, base })
}

struct Block {
    bytes: Vec<u8>,
    /// Not lines but the head of one that is too long.
    too_long: bool,
    /// Bytes of it that were not kept.
    skipped: u64,
}

/// Bytes asked of a live source at once: what a pipe holds.
const LIVE_BYTES: usize = 1 << 16;

/// Whole lines, about `block_bytes` of them; what is behind the last line break is carried over.
/// `live`: lines that are there do not wait for more.
fn read_lines(
    reader: &mut (impl Read + ?Sized),
    carry: &mut Vec<u8>,
    ended: &mut bool,
    limits: &ReadLimits,
    live: bool,
) -> std::io::Result<Block> {
    let mut bytes = std::mem::take(carry);
    loop {
        let searched = bytes.len();
        let wanted = limits.block_bytes.max(1);
        let read = if live {
            bytes.resize(searched + wanted.min(LIVE_BYTES), 0);
            let read = read_some(reader, &mut bytes[searched..])?;
            bytes.truncate(searched + read);
            read
        } else {
            bytes.reserve(wanted);
            (&mut *reader).take(wanted as u64).read_to_end(&mut bytes)?
        };
        let last = memchr::memrchr(b'\n', &bytes[searched..]).map(|at| searched + at);
        if read == 0 {
            *ended = true;
            return Ok(Block { bytes, too_long: false, skipped: 0 });
        }
        if let Some(last) = last {
            carry.extend_from_slice(&bytes[last + 1..]);
            bytes.truncate(last + 1);
            return Ok(Block { bytes, too_long: false, skipped: 0 });
        }
        if bytes.len() > limits.line_bytes_max {
            let skipped = skip_line(reader, carry, ended)?;
            return Ok(Block { bytes, too_long: true, skipped });
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

/// Reads to the end of a line that is not kept; what follows it is carried over.
fn skip_line(
    reader: &mut (impl Read + ?Sized),
    carry: &mut Vec<u8>,
    ended: &mut bool,
) -> std::io::Result<u64> {
    let mut skipped = 0;
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = reader.read(&mut chunk)?;
        if read == 0 {
            *ended = true;
            return Ok(skipped);
        }
        if let Some(at) = memchr::memchr(b'\n', &chunk[..read]) {
            carry.extend_from_slice(&chunk[at + 1..read]);
            return Ok(skipped + at as u64 + 1);
        }
        skipped += read as u64;
    }
}
