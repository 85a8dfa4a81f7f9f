//! A file as a source of decoded batches.
//!
//! In: JSON lines or CSV, plain, gzip or zstd, or standard input; Parquet. Out: batches, each with the
//! position behind it; or a cutter of blocks and decoders for them, for several threads. A file that
//! feeds several streams is read once.
//! Invariant: a batch covers whole rows; its position is where a restart goes on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::cut::{Block, Content, Cutter};
use super::input::{Input, InputError, STDIN, open};
use super::parquet::{Batches, ParquetFile};
use super::position::{Position, source_name};
use super::recipe::Recipe;
use crate::catalog::model::{Catalog, Format, Stream};
use crate::event::quarantine::Quarantine;
use crate::event::{Decoded, Decoder, DecoderError};
use crate::user::layout::StateLayout;
use crate::user::texts::Texts;

/// Limits of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLimits {
    /// Bytes of text decoded at once.
    pub block_bytes: usize,
    /// Rows of CSV or Parquet decoded at once.
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
    /// A topic cannot be read.
    #[error("Kafka: {0}")]
    Topic(String),
    /// Changes of a table whose versions nothing tells.
    #[error(
        "stream `{0}` has no `version:`, and standard input has no places that outlive it: add \
         `version:` to the stream, or read a file"
    )]
    NoVersion(String),
}

/// A source being read.
pub struct FileSource {
    spec: FileSpec,
    cutter: Cutter,
    block: Block,
    decoder: Decoder,
    recipe: Recipe,
    names: Vec<String>,
    /// Length of the file on disk.
    pub bytes_total: Option<u64>,
    /// Bytes of the file read so far.
    pub bytes_read: Arc<AtomicU64>,
}

/// The parts of a source, for those who decode its blocks on several threads.
pub struct Parts {
    /// Cuts blocks off.
    pub cutter: Cutter,
    /// Decodes them.
    pub decoder: Decoder,
    /// Makes decoders for other catalogues.
    pub recipe: Recipe,
    /// What was read.
    pub spec: FileSpec,
    /// The names under which the position is kept, one a stream.
    pub names: Vec<String>,
    /// Whether a restart can go on where this stopped.
    pub is_replayable: bool,
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
        if spec.path == Path::new(STDIN) {
            let streams = spec.streams.iter().map(|at| &catalog.streams[*at]);
            let by_place = |s: &&Stream| s.changelog.as_ref().is_some_and(|c| c.version.is_none());
            if let Some(stream) = streams.into_iter().find(by_place) {
                return Err(SourceError::NoVersion(stream.name.clone()));
            }
        }
        let opened = match spec.format {
            Format::Parquet => Opened::parquet(&spec, limits, resume)?,
            _ => Opened::text(&spec, limits, resume)?,
        };
        let Opened { cutter, header, parquet, bytes_total, bytes_read } = opened;
        let recipe = Recipe {
            source: spec.name.clone(),
            streams: spec.streams.iter().map(|s| catalog.streams[*s].name.clone()).collect(),
            header,
            parquet,
            texts,
            shards,
            quarantine: Arc::default(),
            with_offsets: false,
        };
        let decoder = recipe.decoder(catalog, layout)?;
        let name = |s: &usize| source_name(&catalog.streams[*s].name, &spec.path);
        let names = spec.streams.iter().map(name).collect();
        let block = Block::default();
        Ok(Self { spec, cutter, block, decoder, recipe, names, bytes_total, bytes_read })
    }

    /// Makes more decoders of this source.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Ends a block at each of these offsets, as one ended when it was read before.
    #[must_use]
    pub fn with_borders(mut self, offsets: Vec<u64>) -> Self {
        self.cutter.cut_at(offsets);
        self
    }

    /// Refuses events of quarantined users.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Arc<Quarantine>) -> Self {
        self.recipe.quarantine = Arc::clone(&quarantine);
        self.decoder = self.decoder.with_quarantine(quarantine);
        self
    }

    /// Tells shards at which offset each row stands: for stores that do not write a window as a whole.
    #[must_use]
    pub fn with_offsets(mut self, with_offsets: bool) -> Self {
        self.recipe.with_offsets = with_offsets;
        self.decoder = self.decoder.with_offsets(with_offsets);
        self
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether a restart can go on where this stopped.
    pub fn is_replayable(&self) -> bool {
        self.spec.path != Path::new(STDIN)
    }

    /// Takes the source apart.
    pub fn into_parts(self) -> Parts {
        let is_replayable = self.is_replayable();
        let Self { spec, cutter, decoder, recipe, names, .. } = self;
        Parts { cutter, decoder, recipe, spec, names, is_replayable }
    }

    /// Reads and decodes the next batch; `None` at the end. Events later than `latest_ms` are
    /// rejects.
    pub fn next(
        &mut self,
        latest_ms: Option<i64>,
    ) -> Result<Option<(Decoded, Position)>, SourceError> {
        let more = self.cutter.cut(&mut self.block).map_err(|e| self.spec.failed(e))?;
        let Some(position) = self.block.position().filter(|_| more) else { return Ok(None) };
        let decoded = decode(&mut self.decoder, &self.block, latest_ms);
        Ok(Some((decoded.map_err(|e| self.spec.failed(e))?, position)))
    }
}

impl FileSpec {
    /// The error of reading this file.
    pub fn failed(&self, source: std::io::Error) -> InputError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                InputError::Damaged { path, reason: source.to_string() }
            }
            _ => InputError::Read { path, source },
        }
    }
}

/// Decodes a block. Events later than `latest_ms` are rejects. Only a Parquet file may have to be read
/// again for it.
pub fn decode(
    decoder: &mut Decoder,
    block: &Block,
    latest_ms: Option<i64>,
) -> std::io::Result<Decoded> {
    let (line, offset) = block.first;
    Ok(match block.content {
        Content::Lines => decoder.lines(block.bytes(), line, offset, latest_ms),
        Content::TooLong(skipped) => {
            let head = block.bytes();
            decoder.too_long(head, head.len() as u64 + skipped, line, offset)
        }
        Content::Records => decoder.records(block.records(), latest_ms),
        Content::Messages => decoder.messages(block.bytes(), block.messages(), None),
        Content::Columns => match block.columns() {
            Some(rows) => decoder.batch(&rows.batch()?, rows.first, latest_ms),
            None => Decoded::default(),
        },
    })
}

/// Adds to what a block gave what `relay` wrote into it. `decoders`: by the topic it comes from.
pub fn decode_relayed(decoders: &mut [Decoder], block: &Block, decoded: &mut Decoded) {
    let here = block.origin().map(|origin| origin.partition);
    for lines in block.relayed() {
        if let Some(decoder) = decoders.get_mut(lines.topic) {
            decoded.append(decoder.messages(&lines.text, &lines.records, here));
        }
    }
}

/// A file that can be cut into blocks.
struct Opened {
    cutter: Cutter,
    header: Option<Vec<String>>,
    parquet: Option<Arc<ParquetFile>>,
    bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

impl Opened {
    fn text(
        spec: &FileSpec,
        limits: ReadLimits,
        resume: Option<Position>,
    ) -> Result<Self, SourceError> {
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
        let (cutter, header) = match spec.format {
            Format::Json | Format::Debezium | Format::Maxwell | Format::Canal => {
                let live = bytes_total.is_none();
                (Cutter::lines(input.reader, position, limits, live), None)
            }
            Format::Csv | Format::Parquet => {
                let (cutter, columns) = open_csv(spec, input, position, limits, resume.is_some())?;
                (cutter, Some(columns))
            }
        };
        Ok(Self { cutter, header, parquet: None, bytes_total, bytes_read })
    }

    fn parquet(
        spec: &FileSpec,
        limits: ReadLimits,
        resume: Option<Position>,
    ) -> Result<Self, SourceError> {
        let file = Arc::new(ParquetFile::open(&spec.path)?);
        let position = file.start(resume)?;
        let bytes_read = Arc::new(AtomicU64::new(0));
        let bytes_total = Some(file.bytes());
        let batches =
            Batches::new(Arc::clone(&file), position.offset, limits, Arc::clone(&bytes_read));
        let cutter = Cutter::parquet(batches, position);
        Ok(Self { cutter, header: None, parquet: Some(file), bytes_total, bytes_read })
    }
}

fn open_csv(
    spec: &FileSpec,
    mut input: Input,
    position: Position,
    limits: ReadLimits,
    resumed: bool,
) -> Result<(Cutter, Vec<String>), SourceError> {
    let failed = |e: csv::Error| spec.failed(e.into());
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
    Ok((Cutter::csv(reader, position, base, limits), header))
}
