//! Dimension tables as CSV with a header line, plain or compressed.
//!
//! In: a file. Out: its rows, to the [`Sink`]. Invariant: one row at a time in memory.

use std::cell::Cell as Counter;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};

use super::cell::{Cell, parse};
use super::load::{LoadError, Positions, Progress, Sink, bad_cell};
use super::spec::TableSpec;
use crate::clock::Zone;

const PROGRESS_ROWS: u64 = 4096;

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

pub(super) fn read(
    path: &Path,
    spec: &TableSpec,
    zone: &Zone,
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
    // Rows of another length are rejected one by one, not the whole file with them.
    let mut reader =
        ReaderBuilder::new().flexible(true).buffer_capacity(1 << 20).from_reader(input);
    let header = reader.byte_headers().map_err(|e| failed(path, e))?;
    let names: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let name = String::from_utf8_lossy(name);
            let name = if at == 0 { name.trim_start_matches('\u{feff}') } else { &name };
            name.trim().to_owned()
        })
        .collect();
    let positions = sink.positions(&names)?;
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|e| failed(path, e))? {
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() == names.len() {
            row(&record, line, spec, zone, &positions, &names, sink)?;
        } else {
            let what = format!(
                "the row has {} cells, the header {}; fix the row (is a quote missing?)",
                record.len(),
                names.len()
            );
            sink.reject(line, None, what)?;
        }
        if sink.rows().is_multiple_of(PROGRESS_ROWS) {
            progress(Progress { bytes: bytes.get(), bytes_total, rows: sink.rows() });
        }
    }
    progress(Progress { bytes: bytes_total, bytes_total, rows: sink.rows() });
    Ok(())
}

fn row(
    record: &ByteRecord,
    line: u64,
    spec: &TableSpec,
    zone: &Zone,
    positions: &Positions,
    names: &[String],
    sink: &mut Sink<'_>,
) -> Result<(), LoadError> {
    let text = |at: usize| std::str::from_utf8(&record[at]);
    let not_utf8 = || "is not UTF-8; convert the file to UTF-8".to_owned();
    let key_name = &names[positions.key];
    let Ok(key_text) = text(positions.key) else {
        return sink.reject(line, Some(key_name), not_utf8());
    };
    let key = match parse(&spec.key, zone, key_text) {
        Ok(key) => key,
        Err(what) => return sink.reject(line, Some(key_name), bad_cell(key_text, &what)),
    };
    let mut cells: Vec<Cell<'_>> = Vec::with_capacity(positions.columns.len());
    for (at, (name, kind)) in positions.columns.iter().zip(&spec.columns) {
        let Ok(text) = text(*at) else {
            return sink.reject(line, Some(name), not_utf8());
        };
        match parse(kind, zone, text) {
            Ok(cell) => cells.push(cell),
            Err(what) => return sink.reject(line, Some(name), bad_cell(text, &what)),
        }
    }
    sink.row(line, key_name, &key, &cells)
}

fn failed(path: &Path, error: csv::Error) -> LoadError {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => LoadError::Io { path: path.to_owned(), source },
        _ => LoadError::Format { path: path.to_owned(), reason: format!("{text}; is it CSV?") },
    }
}
