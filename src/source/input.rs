//! A file (or standard input) as a stream of decompressed bytes.
//!
//! In: a path. Out: bytes from a given offset on, and how much of the file has been read (for the
//! progress bar). Compression is told by the first bytes, not by the name.
//! Invariant: no decoding.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::position::{HEAD_BYTES, Incarnation};

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file cannot be opened or read.
    #[error("{path}: {source}; check the path and that this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Not the file that was read before.
    #[error(
        "{path}: this is not the file that was read before (its first bytes changed); to read it \
         from its start use another file name, or a new store.path"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Damaged, or cut off.
    #[error("{path}: {reason}; the file is damaged or was cut: write it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Read as Parquet, and is none.
    #[error("{path}: {reason}; to be read as Parquet it has to be a whole Parquet file")]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Parquet that is compressed in an unknown way.
    #[error(
        "{path}: column `{column}` is compressed with {codec}, which cannot be read: write the file \
         with SNAPPY, ZSTD or without compression"
    )]
    ParquetCodec {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// How it is compressed.
        codec: String,
    },
    /// Another Parquet file than was read before.
    #[error(
        "{path}: this is not the file that was read before: a Parquet file that grows is written \
         anew. Put it back, or use another file name for new rows"
    )]
    ParquetChanged {
        /// The file.
        path: PathBuf,
    },
    /// Shorter than what was read before.
    #[error(
        "{path}: {have} bytes of text, but {read} were read before; the file was cut. Put it back, \
         or use another file name for new data"
    )]
    Shorter {
        /// The file.
        path: PathBuf,
        /// Its length now.
        have: u64,
        /// What was read.
        read: u64,
    },
}

/// An open source.
pub struct Input {
    /// Decompressed bytes.
    pub reader: Box<dyn Read + Send>,
    /// Which file it is.
    pub incarnation: Incarnation,
    /// Length of the file on disk; `None` for standard input.
    pub bytes_total: Option<u64>,
    /// Bytes of the file read so far.
    pub bytes_read: Arc<AtomicU64>,
}

/// Standard input as a path.
pub const STDIN: &str = "-";

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Opens a file, or standard input for `-`.
pub fn open(path: &Path) -> Result<Input, InputError> {
    let failed = |source| InputError::Read { path: path.to_owned(), source };
    let bytes_read = Arc::new(AtomicU64::new(0));
    if path == Path::new(STDIN) {
        let reader = Box::new(Stdin::Unseen(Arc::clone(&bytes_read)));
        let incarnation = Incarnation::of(&[]);
        return Ok(Input { reader, incarnation, bytes_total: None, bytes_read });
    }
    let mut file = File::open(path).map_err(failed)?;
    let bytes_total = Some(file.metadata().map_err(failed)?.len());
    let head = read_head(&mut file, HEAD_BYTES).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let counted = Counted { inner: Box::new(file), bytes: Arc::clone(&bytes_read) };
    let reader = decompressed(&head, counted).map_err(failed)?;
    Ok(Input { reader, incarnation: Incarnation::of(&head), bytes_total, bytes_read })
}

fn decompressed(head: &[u8], counted: Counted) -> io::Result<Box<dyn Read + Send>> {
    Ok(if head.starts_with(&GZIP) {
        let buffered = BufReader::with_capacity(1 << 18, counted);
        Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
    } else if head.starts_with(&ZSTD) {
        Box::new(zstd::Decoder::new(counted)?)
    } else {
        Box::new(counted)
    })
}

/// Standard input, of which nothing is read before it is wanted: its first row may be long in
/// coming, and the rest of the engine has work to do.
enum Stdin {
    /// Its compression is not known yet.
    Unseen(Arc<AtomicU64>),
    /// Being read.
    Open(Box<dyn Read + Send>),
}

impl Read for Stdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unseen(bytes) => {
                let mut stdin = io::stdin();
                let head = read_head(&mut stdin, 4)?;
                let inner = Box::new(io::Cursor::new(head.clone()).chain(stdin));
                let counted = Counted { inner, bytes: Arc::clone(bytes) };
                let mut reader = decompressed(&head, counted)?;
                let read = reader.read(buf);
                *self = Self::Open(reader);
                read
            }
            Self::Open(reader) => reader.read(buf),
        }
    }
}

impl Input {
    /// Checks that this is the file a position belongs to, and goes on behind it.
    pub fn resume(
        &mut self,
        path: &Path,
        at: &super::position::Position,
    ) -> Result<(), InputError> {
        let failed = |source| InputError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let head = read_head(&mut file, HEAD_BYTES).map_err(failed)?;
        if !at.incarnation.is_of(&head) {
            return Err(InputError::Changed { path: path.to_owned() });
        }
        let skipped = io::copy(&mut (&mut self.reader).take(at.offset), &mut io::sink());
        let have = skipped.map_err(failed)?;
        if have < at.offset {
            return Err(InputError::Shorter { path: path.to_owned(), have, read: at.offset });
        }
        Ok(())
    }
}

fn read_head(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(bytes);
    from.take(bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

struct Counted {
    inner: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
