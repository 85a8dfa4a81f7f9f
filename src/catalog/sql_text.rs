//! SQL as the author wrote it, after matrix and parameter text was put in, with its way back to
//! the file.
//!
//! In: pieces of file text. Out: one SQL string and, for any range of it, the place in the file.
//! Invariant: no parsing.

use std::ops::Range;

use super::place::Place;

/// An SQL string and where its parts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText {
    sql: String,
    whole: Place,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    range: Range<usize>,
    place: Place,
    /// Byte for byte the file's text: a part of the piece is a part of the place.
    verbatim: bool,
}

impl SqlText {
    /// An empty text that stands at `whole`.
    pub fn new(whole: Place) -> Self {
        Self { sql: String::new(), whole, pieces: Vec::new() }
    }

    /// A text whose every part belongs to `whole` (sugar, folded or escaped YAML).
    pub fn opaque(sql: impl Into<String>, whole: Place) -> Self {
        Self { sql: sql.into(), whole, pieces: Vec::new() }
    }

    /// Appends text that stands byte for byte in the file from `place.start` on.
    pub fn push_verbatim(&mut self, text: &str, place: Place) {
        self.push(text, place, true);
    }

    /// Appends text that stands for the whole of `place` (a matrix value for its `{name}`).
    pub fn push_for(&mut self, text: &str, place: Place) {
        self.push(text, place, false);
    }

    fn push(&mut self, text: &str, place: Place, verbatim: bool) {
        let start = self.sql.len();
        self.sql.push_str(text);
        self.pieces.push(Piece { range: start..self.sql.len(), place, verbatim });
    }

    /// Appends another text with its places.
    pub fn append(&mut self, other: &Self) {
        let start = self.sql.len();
        if other.pieces.is_empty() {
            self.push(&other.sql, other.whole, false);
            return;
        }
        self.sql.push_str(&other.sql);
        self.pieces.extend(other.pieces.iter().map(|piece| Piece {
            range: start + piece.range.start..start + piece.range.end,
            ..piece.clone()
        }));
    }

    /// A part of the text that keeps its places.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut part = Self::new(self.place(range.clone()));
        part.sql.push_str(&self.sql[range.clone()]);
        for piece in &self.pieces {
            let start = piece.range.start.max(range.start);
            let end = piece.range.end.min(range.end);
            if start < end {
                let place = if piece.verbatim { self.place(start..end) } else { piece.place };
                let range = start - range.start..end - range.start;
                part.pieces.push(Piece { range, place, verbatim: piece.verbatim });
            }
        }
        part
    }

    /// The SQL.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Where all of it stands.
    pub fn whole(&self) -> Place {
        self.whole
    }

    /// Where a byte range of the SQL stands; the whole where that is not known.
    pub fn place(&self, range: Range<usize>) -> Place {
        let at = |offset: usize, end: bool| {
            self.pieces.iter().find_map(|p| {
                let inside = if end {
                    p.range.start < offset && offset <= p.range.end
                } else {
                    p.range.contains(&offset)
                };
                inside.then(|| {
                    let into = u32::try_from(offset - p.range.start).unwrap_or(0);
                    match (p.verbatim, end) {
                        (true, _) => p.place.start + into,
                        (false, false) => p.place.start,
                        (false, true) => p.place.end,
                    }
                })
            })
        };
        match (at(range.start, false), at(range.end, true)) {
            (Some(start), Some(end)) if start < end => Place { file: self.whole.file, start, end },
            _ => self.whole,
        }
    }
}
