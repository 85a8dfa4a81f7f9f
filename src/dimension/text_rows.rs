//! Rows of text, to be stored.
//!
//! In: cells, or a piece of text without quotes. Out: keys and encoded rows, and why some are none.
//! Invariant: no I/O; threads share one [`TextRows`].

use std::ops::Range;

use super::cell::{Cell, parse, whole};
use super::key::{KeyKind, key_of_cell};
use super::load::{EMPTY_KEY, Positions, Sink, bad_cell};
use super::row::{Coding, RowWriter};
use super::spec::TableSpec;
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::event::scan::each_place;
use crate::store::DimRow;

/// How a file's cells become rows of a table.
pub(super) struct TextRows<'a> {
    spec: &'a TableSpec,
    zone: &'a Zone,
    kind: KeyKind,
    codings: Vec<Coding>,
    positions: &'a Positions,
    names: &'a [String],
}

/// Rows of a piece.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) rows: Vec<DimRow>,
    pub(super) rejects: Vec<Reject>,
    /// Lines of the piece.
    pub(super) lines: u64,
}

/// A row that cannot be read.
pub(super) struct Reject {
    /// Rows of the piece that come before it.
    pub(super) rows_before: usize,
    /// Its line in the piece, from 0.
    pub(super) line: u64,
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// The column to blame, if one is, and what is wrong with it.
type Bad<'a> = (Option<&'a str>, String);

impl<'a> TextRows<'a> {
    pub(super) fn new(sink: &Sink<'a>, positions: &'a Positions, names: &'a [String]) -> Self {
        let (spec, zone, kind) = (sink.spec, sink.zone, sink.kind);
        Self { spec, zone, kind, codings: sink.codings.clone(), positions, names }
    }

    /// Reads a piece without quotes: rows are lines, cells are between commas.
    pub(super) fn parse(&self, text: &str) -> Parsed {
        let mut parsed = Parsed::default();
        let (mut begins, mut writer) = (Vec::new(), RowWriter::default());
        let cells = Cells { bytes: text.as_bytes(), text: Some(text) };
        // As the csv crate counts: empty lines belong to the row behind them.
        let (mut row_line, mut line_at) = (0, 0);
        for line in text.split_terminator('\n') {
            let at = line_at;
            line_at += line.len() + 1;
            parsed.lines += 1;
            if line.is_empty() {
                continue;
            }
            // Each cell's begin, and one behind the comma that the last one does not have.
            begins.clear();
            begins.push(at);
            each_place(cells.bytes, at..line_at - 1, b',', |comma| begins.push(comma + 1));
            begins.push(line_at);
            let range = |cell: usize| begins[cell]..begins[cell + 1] - 1;
            match self.row(&cells, begins.len() - 1, range, &mut writer) {
                Ok(row) => parsed.rows.push(row),
                Err((column, reason)) => parsed.rejects.push(Reject {
                    rows_before: parsed.rows.len(),
                    line: row_line,
                    column: column.map(str::to_owned),
                    reason,
                }),
            }
            row_line = parsed.lines;
        }
        parsed
    }

    /// One row of `len` cells; `range` says where each stands.
    pub(super) fn row(
        &self,
        cells: &Cells<'_>,
        len: usize,
        range: impl Fn(usize) -> Range<usize>,
        writer: &mut RowWriter,
    ) -> Result<DimRow, Bad<'_>> {
        if len != self.names.len() {
            let what = format!(
                "the row has {len} cells, the header {}; fix the row (is a quote missing?)",
                self.names.len()
            );
            return Err((None, what));
        }
        let key_name = Some(self.names[self.positions.key].as_str());
        let key = cells.get(&self.spec.key, self.zone, range(self.positions.key));
        let key = key.map_err(|what| (key_name, what))?;
        writer.begin(self.codings.len());
        let columns = self.positions.columns.iter().zip(&self.spec.columns).zip(&self.codings);
        for (column, ((at, (name, kind)), coding)) in columns.enumerate() {
            let range = range(*at);
            if let Some(bits) = cells.whole(kind, &range) {
                writer.put_bits(column, *coding, bits);
            } else if let Some(text) = cells.plain_text(kind, &range) {
                writer.put_text(column, text);
            } else {
                let cell = cells.get(kind, self.zone, range);
                let cell = cell.map_err(|what| (Some(name.as_str()), what))?;
                writer.put(column, *coding, &cell);
            }
        }
        let key = key_of_cell(self.kind, &key);
        let key = key.ok_or_else(|| (key_name, EMPTY_KEY.to_owned()))?;
        Ok((key, writer.row()))
    }
}

/// Where a row's cells stand: a piece, or the cells of a row without what was between them.
pub(super) struct Cells<'t> {
    pub(super) bytes: &'t [u8],
    /// The same, where all of it is known to be UTF-8.
    pub(super) text: Option<&'t str>,
}

impl<'t> Cells<'t> {
    /// A plain number, as most cells are: read where it stands, eight bytes at a time, for behind a cut
    /// cell there would be nothing.
    #[inline]
    fn whole(&self, kind: &ColumnType, range: &Range<usize>) -> Option<i64> {
        let (bits, end) = whole(kind, self.bytes, range.start)?;
        (end == range.end).then_some(bits)
    }

    /// Text that has to be looked at no more.
    #[inline]
    fn plain_text(&self, kind: &ColumnType, range: &Range<usize>) -> Option<&'t [u8]> {
        let is_plain = *kind == ColumnType::String && self.text.is_some() && !range.is_empty();
        is_plain.then(|| &self.bytes[range.clone()])
    }

    fn get(&self, kind: &ColumnType, zone: &Zone, range: Range<usize>) -> Result<Cell<'t>, String> {
        if let Some(bits) = self.whole(kind, &range) {
            return Ok(Cell::Bits(bits));
        }
        let text = match self.text {
            Some(text) => &text[range],
            None => std::str::from_utf8(&self.bytes[range])
                .map_err(|_| "is not UTF-8; convert the file to UTF-8".to_owned())?,
        };
        parse(kind, zone, text).map_err(|what| bad_cell(text, &what))
    }
}
