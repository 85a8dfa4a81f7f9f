//! Dimension tables as CSV with a header line, plain or compressed.
//!
//! In: a file. Out: its rows, to the [`Sink`], in order. Text without quotes is cut into pieces that
//! several threads parse; from the first quote on the `csv` crate reads row by row.
//! Invariant: some pieces at a time in memory, and the same rows and lines either way.

use std::cell::Cell as Counter;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};

use super::chunk::{Piece, Pieces};
use super::load::{LoadError, Progress, Sink};
use super::row::RowWriter;
use super::text_rows::{Cells, Parsed, TextRows};

const PROGRESS_ROWS: u64 = 4096;
const THREADS_MAX: usize = 4;

/// Counts the bytes that were read of the file itself, before decompression.
struct Counted {
    file: File,
    bytes: Rc<Counter<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

/// Tells how far a load is, every [`PROGRESS_ROWS`] rows.
struct Meter<'a> {
    bytes: Rc<Counter<u64>>,
    bytes_total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Meter<'_> {
    fn row_done(&mut self, rows: u64) {
        if rows.is_multiple_of(PROGRESS_ROWS) {
            let (bytes, bytes_total) = (self.bytes.get(), self.bytes_total);
            (self.progress)(Progress { bytes, bytes_total, rows });
        }
    }
}

pub(super) fn read(
    path: &Path,
    sink: &mut Sink<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let bytes_total = file.metadata().map_err(io)?.len();
    let bytes = Rc::new(Counter::new(0));
    let counted = Counted { file, bytes: Rc::clone(&bytes) };
    let extension = path.extension().and_then(|e| e.to_str());
    let input: Box<dyn Read> = match extension {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(counted)),
        Some("zst" | "zstd") => Box::new(zstd::Decoder::new(counted).map_err(io)?),
        _ => Box::new(counted),
    };
    let mut meter = Meter { bytes, bytes_total, progress };
    let mut pieces = Pieces::new(input);
    match pieces.next().map_err(io)? {
        Some(Piece::Plain(text)) => plain(path, text, pieces, sink, &mut meter)?,
        Some(Piece::Other(first)) => {
            let reader = quoted(io::Cursor::new(first).chain(pieces.into_rest()), true);
            from_header(path, reader, sink, &mut meter)?;
        }
        None => {
            sink.positions(&[])?;
        }
    }
    (meter.progress)(Progress { bytes: bytes_total, bytes_total, rows: sink.rows() });
    Ok(())
}

/// Reads a file that begins with a header without quotes.
fn plain(
    path: &Path,
    first: String,
    mut pieces: Pieces<Box<dyn Read>>,
    sink: &mut Sink<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), LoadError> {
    let text = first.trim_start_matches('\u{feff}');
    let before = text.len() - text.trim_start_matches('\n').len();
    let (header, body) = text[before..].split_once('\n').unwrap_or((&text[before..], ""));
    // A file of empty lines has no header, and the sink says what it lacks.
    let names: Vec<String> = match header {
        "" => Vec::new(),
        header => header.split(',').enumerate().map(|(at, name)| header_name(at, name)).collect(),
    };
    let positions = sink.positions(&names)?;
    let rows = TextRows::new(sink, &positions, &names);
    let mut line = before as u64 + 2;
    let mut round = vec![Piece::Plain(body.to_owned())];
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    loop {
        let ended = loop {
            if round.len() == threads || matches!(round.last(), Some(Piece::Other(_))) {
                break false;
            }
            match pieces.next().map_err(|source| LoadError::Io { path: path.to_owned(), source })? {
                Some(piece) => round.push(piece),
                None => break true,
            }
        };
        let other = round.pop_if(|piece| matches!(piece, Piece::Other(_)));
        for parsed in parse_all(&rows, &round) {
            let lines = parsed.lines;
            take(parsed, line, sink, meter)?;
            line += lines;
        }
        round.clear();
        if let Some(Piece::Other(piece)) = other {
            let reader = quoted(io::Cursor::new(piece).chain(pieces.into_rest()), false);
            return rest(path, reader, line, &rows, sink, meter);
        }
        if ended {
            return Ok(());
        }
    }
}

/// Parses pieces side by side, one on this thread.
fn parse_all(rows: &TextRows<'_>, pieces: &[Piece]) -> Vec<Parsed> {
    let texts = pieces.iter().filter_map(|piece| match piece {
        Piece::Plain(text) => Some(text.as_str()),
        Piece::Other(_) => None,
    });
    let mut texts = texts.collect::<Vec<&str>>().into_iter();
    let Some(own) = texts.next() else { return Vec::new() };
    std::thread::scope(|scope| {
        let others: Vec<_> = texts.map(|text| scope.spawn(move || rows.parse(text))).collect();
        let mut parsed = vec![rows.parse(own)];
        for other in others {
            parsed.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        parsed
    })
}

/// Gives a piece's rows and rejects to the sink. `line` is the piece's first.
fn take(
    parsed: Parsed,
    line: u64,
    sink: &mut Sink<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), LoadError> {
    let mut rejects = parsed.rejects.into_iter().peekable();
    for (at, (key, row)) in parsed.rows.into_iter().enumerate() {
        while let Some(reject) = rejects.next_if(|reject| reject.rows_before == at) {
            sink.reject(line + reject.line, reject.column.as_deref(), reject.reason)?;
            meter.row_done(sink.rows());
        }
        sink.push(key, row)?;
        meter.row_done(sink.rows());
    }
    for reject in rejects {
        sink.reject(line + reject.line, reject.column.as_deref(), reject.reason)?;
        meter.row_done(sink.rows());
    }
    Ok(())
}

/// A reader for everything that CSV can be.
fn quoted<R: Read>(input: R, headers: bool) -> csv::Reader<R> {
    // Rows of another length are rejected one by one, not the whole file with them.
    let mut builder = ReaderBuilder::new();
    builder.has_headers(headers).flexible(true).buffer_capacity(1 << 20).from_reader(input)
}

fn header_name(at: usize, name: &str) -> String {
    let name = if at == 0 { name.trim_start_matches('\u{feff}') } else { name };
    name.trim().to_owned()
}

fn from_header<R: Read>(
    path: &Path,
    mut reader: csv::Reader<R>,
    sink: &mut Sink<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), LoadError> {
    let header = reader.byte_headers().map_err(|e| failed(path, e))?;
    let names: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(at, name)| header_name(at, &String::from_utf8_lossy(name)))
        .collect();
    let positions = sink.positions(&names)?;
    let rows = TextRows::new(sink, &positions, &names);
    rest(path, reader, 1, &rows, sink, meter)
}

/// Reads to the end row by row. `line` is the first line the reader sees.
fn rest<R: Read>(
    path: &Path,
    mut reader: csv::Reader<R>,
    line: u64,
    rows: &TextRows<'_>,
    sink: &mut Sink<'_>,
    meter: &mut Meter<'_>,
) -> Result<(), LoadError> {
    let (mut record, mut writer) = (ByteRecord::new(), RowWriter::default());
    while reader.read_byte_record(&mut record).map_err(|e| failed(path, e))? {
        let at = line + record.position().map_or(1, csv::Position::line) - 1;
        let cells = Cells { bytes: record.as_slice(), text: None };
        // The row is asked for the cells it has.
        let range = |cell: usize| record.range(cell).unwrap_or_default();
        match rows.row(&cells, record.len(), range, &mut writer) {
            Ok((key, row)) => sink.push(key, row)?,
            Err((column, reason)) => sink.reject(at, column, reason)?,
        }
        meter.row_done(sink.rows());
    }
    Ok(())
}

fn failed(path: &Path, error: csv::Error) -> LoadError {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => LoadError::Io { path: path.to_owned(), source },
        _ => LoadError::Format { path: path.to_owned(), reason: format!("{text}; is it CSV?") },
    }
}
