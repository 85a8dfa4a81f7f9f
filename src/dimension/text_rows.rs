//! Rows of text, to be stored.
//!
//! In: cells, or a piece of text without quotes. Out: keys and encoded rows, and why some are none.
//! Invariant: no I/O; threads share one [`TextRows`].

use super::cell::parse;
use super::key::{KeyKind, key_of_cell};
use super::load::{EMPTY_KEY, Positions, Sink, bad_cell};
use super::row::{Coding, RowWriter};
use super::spec::TableSpec;
use crate::clock::Zone;
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
        // As the csv crate counts: empty lines belong to the row behind them.
        let mut row_line = 0;
        for line in text.split_terminator('\n') {
            parsed.lines += 1;
            if line.is_empty() {
                continue;
            }
            // Each cell's begin, and one behind the comma that the last one does not have. Cells are
            // short: a search for each comma costs more than looking at every byte.
            begins.clear();
            begins.push(0);
            let commas = line.bytes().enumerate().filter(|(_, byte)| *byte == b',');
            commas.for_each(|(at, _)| begins.push(at + 1));
            begins.push(line.len() + 1);
            let cell = |at: usize| line.get(begins[at]..begins[at + 1] - 1);
            match self.row(begins.len() - 1, cell, &mut writer) {
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

    /// One row of `len` cells; `text` gives one, or `None` when it is not UTF-8.
    pub(super) fn row<'t>(
        &self,
        len: usize,
        text: impl Fn(usize) -> Option<&'t str>,
        writer: &mut RowWriter,
    ) -> Result<DimRow, Bad<'_>> {
        if len != self.names.len() {
            let what = format!(
                "the row has {len} cells, the header {}; fix the row (is a quote missing?)",
                self.names.len()
            );
            return Err((None, what));
        }
        let not_utf8 = || "is not UTF-8; convert the file to UTF-8".to_owned();
        let key_name = Some(self.names[self.positions.key].as_str());
        let key_text = text(self.positions.key).ok_or_else(|| (key_name, not_utf8()))?;
        let key = parse(&self.spec.key, self.zone, key_text)
            .map_err(|what| (key_name, bad_cell(key_text, &what)))?;
        writer.begin(self.codings.len());
        let columns = self.positions.columns.iter().zip(&self.spec.columns).zip(&self.codings);
        for (column, ((at, (name, kind)), coding)) in columns.enumerate() {
            let text = text(*at).ok_or_else(|| (Some(name.as_str()), not_utf8()))?;
            match parse(kind, self.zone, text) {
                Ok(cell) => writer.put(column, *coding, &cell),
                Err(what) => return Err((Some(name.as_str()), bad_cell(text, &what))),
            }
        }
        let key = key_of_cell(self.kind, &key);
        let key = key.ok_or_else(|| (key_name, EMPTY_KEY.to_owned()))?;
        Ok((key, writer.row()))
    }
}
