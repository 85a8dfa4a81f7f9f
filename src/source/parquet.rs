//! A Parquet file as batches of rows.
//!
//! In: a path, the columns that are read. Out: Arrow batches of whole rows, from a given row on. Only
//! the columns that somebody reads leave the disk.
//! Invariant: a page and a dictionary a column, and one batch, in memory, however long the row groups
//! are; nothing is decoded here: what the values mean is the matter of [`crate::event`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Type as Physical};
use parquet::errors::ParquetError;

use super::file::ReadLimits;
use super::input::{InputError, STDIN};
use super::position::{Incarnation, Position};
use crate::user::layout::hash64;

/// With which a Parquet file begins and ends.
const MAGIC: [u8; 4] = *b"PAR1";

/// Length of the footer and magic, at the end of the file.
const TAIL_BYTES: u64 = 8;

/// Whether a file is Parquet, by its name or its first bytes.
pub fn is_parquet(path: &Path) -> bool {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
        return true;
    }
    if path == Path::new(STDIN) || !path.is_file() {
        return false;
    }
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == MAGIC
}

/// An open file. Whoever reads it says which columns are wanted; more may become so while it is
/// read.
pub struct ParquetFile {
    path: PathBuf,
    /// All that read it share one place in it.
    file: Mutex<File>,
    bytes: u64,
    incarnation: Incarnation,
    metadata: ArrowReaderMetadata,
    wanted: Mutex<Wanted>,
}

/// Which columns are read.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// Indices among the file's columns, ascending.
    roots: Vec<usize>,
    /// How often there came to be more.
    changes: u64,
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ParquetFile({})", self.path.display())
    }
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let not_parquet = |reason: &str| InputError::NotParquet {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        if path == Path::new(STDIN) {
            return Err(not_parquet("standard input ends before its footer can be read"));
        }
        let failed = |source| InputError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let footer = footer(&mut file, bytes).map_err(failed)?;
        let footer = footer.ok_or_else(|| not_parquet("it does not end as Parquet does"))?;
        let incarnation =
            Incarnation { head_bytes: footer.len() as u64, head_hash: hash64(&footer) };
        let read = |options| ArrowReaderMetadata::load(&file, options);
        let declared = read(ArrowReaderOptions::new());
        let metadata = declared.and_then(|declared| {
            let schema = as_read(&declared);
            let options = ArrowReaderOptions::new().with_schema(schema);
            ArrowReaderMetadata::try_new(Arc::clone(declared.metadata()), options)
        });
        let metadata = metadata.map_err(|e| not_parquet(&words(e)))?;
        let (path, file, wanted) = (path.to_owned(), Mutex::new(file), Mutex::default());
        Ok(Self { path, file, bytes, incarnation, metadata, wanted })
    }

    /// The types of its columns.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Length on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Where a start (again) goes on.
    pub fn start(&self, resume: Option<Position>) -> Result<Position, InputError> {
        let Some(at) = resume else {
            return Ok(Position { incarnation: self.incarnation, offset: 0, lines: 0 });
        };
        if at.incarnation != self.incarnation || at.offset > self.rows() {
            return Err(InputError::ParquetChanged { path: self.path.clone() });
        }
        Ok(at)
    }

    /// From now on these columns are read, too. Those that the file does not have are left out.
    pub fn want(&self, names: impl Iterator<Item = impl AsRef<str>>) -> Result<(), InputError> {
        let found = names.filter_map(|name| self.schema().index_of(name.as_ref()).ok());
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut roots: Vec<usize> = found.chain(wanted.roots.iter().copied()).collect();
        roots.sort_unstable();
        roots.dedup();
        if roots == wanted.roots {
            return Ok(());
        }
        self.check_compression(&roots)?;
        wanted.roots = roots;
        wanted.changes += 1;
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mask(&self, wanted: &Wanted) -> ProjectionMask {
        ProjectionMask::roots(self.metadata.parquet_schema(), wanted.roots.iter().copied())
    }

    fn check_compression(&self, roots: &[usize]) -> Result<(), InputError> {
        let schema = self.metadata.parquet_schema();
        for group in self.metadata.metadata().row_groups() {
            for (leaf, chunk) in group.columns().iter().enumerate() {
                let known = matches!(
                    chunk.compression(),
                    Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)
                );
                if !known && roots.contains(&schema.get_column_root_idx(leaf)) {
                    let codec = format!("{:?}", chunk.compression());
                    let codec = codec.split('(').next().unwrap_or_default().to_owned();
                    let (path, column) = (self.path.clone(), chunk.column_path().string());
                    return Err(InputError::ParquetCodec { path, column, codec });
                }
            }
        }
        Ok(())
    }

    /// Bytes that a row takes before it is compressed, of the columns that are read.
    fn row_bytes(&self, wanted: &Wanted) -> u64 {
        let schema = self.metadata.parquet_schema();
        let is_read = |leaf: usize| wanted.roots.contains(&schema.get_column_root_idx(leaf));
        let groups = self.metadata.metadata().row_groups().iter();
        let chunks = groups.flat_map(|group| group.columns().iter().enumerate());
        let read = chunks.filter(|(leaf, _)| is_read(*leaf));
        let bytes: u64 = read.map(|(_, c)| u64::try_from(c.uncompressed_size()).unwrap_or(0)).sum();
        bytes.div_ceil(self.rows().max(1))
    }

    /// Reads rows from `first` on, so many at once.
    fn reader(
        &self,
        wanted: &Wanted,
        first: u64,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        let groups = self.metadata.metadata().row_groups().iter();
        let mut skip = first;
        let mut from = 0;
        for rows in groups.map(|group| u64::try_from(group.num_rows()).unwrap_or(0)) {
            if skip < rows || rows == 0 && skip == 0 {
                break;
            }
            (skip, from) = (skip - rows, from + 1);
        }
        let groups = from..self.metadata.metadata().num_row_groups();
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        ParquetRecordBatchReaderBuilder::new_with_metadata(file.try_clone()?, self.metadata.clone())
            .with_row_groups(groups.collect())
            .with_offset(usize::try_from(skip).unwrap_or(usize::MAX))
            .with_projection(self.mask(wanted))
            .with_batch_size(batch_rows)
            .build()
    }

    /// The next batch of a reader of this file.
    fn next(
        &self,
        reader: &mut ParquetRecordBatchReader,
    ) -> Option<Result<RecordBatch, ArrowError>> {
        // Readers share one place in the file.
        let _turn = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        reader.next()
    }
}

/// Cuts a file into batches.
pub(super) struct Batches {
    file: Arc<ParquetFile>,
    reader: Option<ParquetRecordBatchReader>,
    wanted: Wanted,
    next_row: u64,
    limits: ReadLimits,
    bytes_read: Arc<AtomicU64>,
}

/// Rows of a file.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    file: Arc<ParquetFile>,
    /// How many stand before them.
    pub(super) first: u64,
    batch: RecordBatch,
    /// See [`Wanted`].
    changes: u64,
}

impl Batches {
    /// From a row on. `bytes_read` grows as if all rows took the same.
    pub(super) fn new(
        file: Arc<ParquetFile>,
        next_row: u64,
        limits: ReadLimits,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        let (reader, wanted) = (None, Wanted::default());
        Self { file, reader, wanted, next_row, limits, bytes_read }
    }

    /// The next rows; none at the end. `border`: they end before this row at the latest.
    pub(super) fn cut(&mut self, border: Option<u64>) -> io::Result<Option<Rows>> {
        let wanted = self.file.wanted();
        if self.reader.is_none() || wanted.changes != self.wanted.changes {
            let rows = self.limits.block_bytes as u64 / self.file.row_bytes(&wanted).max(1);
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            let rows = rows.clamp(1, self.limits.batch_rows_max.max(1));
            self.reader = Some(self.file.reader(&wanted, self.next_row, rows).map_err(io_error)?);
            self.wanted = wanted;
        }
        let next = self.reader.as_mut().and_then(|reader| self.file.next(reader));
        let Some(mut batch) = next.transpose().map_err(|e| io_error(e.into()))? else {
            return Ok(None);
        };
        let room = border.map_or(u64::MAX, |border| border.saturating_sub(self.next_row));
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if batch.num_rows() > room {
            batch = batch.slice(0, room);
            // What is behind the border is read again.
            self.reader = None;
        }
        let (file, changes) = (Arc::clone(&self.file), self.wanted.changes);
        let rows = Rows { file, first: self.next_row, batch, changes };
        self.next_row += rows.batch.num_rows() as u64;
        let done = u128::from(self.file.bytes) * u128::from(self.next_row);
        let done = u64::try_from(done / u128::from(self.file.rows().max(1))).unwrap_or(u64::MAX);
        self.bytes_read.store(done, Ordering::Relaxed);
        Ok(Some(rows))
    }

    /// How many rows have been read.
    pub(super) fn next_row(&self) -> u64 {
        self.next_row
    }
}

impl Rows {
    /// The columns that are wanted now: read again where more became so since these were read.
    pub(super) fn batch(&self) -> io::Result<RecordBatch> {
        let wanted = self.file.wanted();
        if wanted.changes == self.changes {
            return Ok(self.batch.clone());
        }
        let rows = self.batch.num_rows();
        let mut reader = self.file.reader(&wanted, self.first, rows).map_err(io_error)?;
        let batch = self.file.next(&mut reader).transpose().map_err(|e| io_error(e.into()))?;
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "rows that were read are gone");
        batch.filter(|batch| batch.num_rows() == rows).ok_or_else(ended)
    }
}

/// The footer of a file, by which it is known; none: it is no Parquet.
fn footer(file: &mut File, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut tail = [0; 8];
    let Some(tail_at) = bytes.checked_sub(TAIL_BYTES) else { return Ok(None) };
    file.seek(SeekFrom::Start(tail_at))?;
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_at(4);
    let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let Some(footer_at) = tail_at.checked_sub(length).filter(|_| magic == MAGIC) else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(footer_at))?;
    let mut footer = Vec::new();
    file.take(length).read_to_end(&mut footer)?;
    Ok(Some(footer))
}

/// The types in which columns are read: texts as views into the file's pages; instants of 96 bits,
/// which Spark and Impala wrote for years, as instants in UTC.
fn as_read(declared: &ArrowReaderMetadata) -> SchemaRef {
    let schema = declared.parquet_schema();
    let is_96 = |root: usize| {
        let leaves = (0..schema.num_columns()).filter(|l| schema.get_column_root_idx(*l) == root);
        leaves.into_iter().all(|leaf| schema.column(leaf).physical_type() == Physical::INT96)
    };
    let fields = declared.schema().fields().iter().enumerate().map(|(root, field)| {
        let kind = match field.data_type() {
            DataType::Timestamp(..) if is_96(root) => {
                DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
            }
            other => viewed(other),
        };
        Field::clone(field).with_data_type(kind)
    });
    let metadata = declared.schema().metadata().clone();
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata))
}

fn viewed(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        // The row as it was before a change.
        DataType::Struct(fields) => {
            let member = |f: &Arc<Field>| Field::clone(f).with_data_type(viewed(f.data_type()));
            DataType::Struct(fields.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

fn words(error: ParquetError) -> String {
    match error {
        ParquetError::General(words) | ParquetError::ArrowError(words) => words,
        other => other.to_string(),
    }
}

fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
        },
        other => io::Error::new(io::ErrorKind::InvalidData, words(other)),
    }
}
