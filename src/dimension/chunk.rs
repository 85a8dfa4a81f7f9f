//! A text file in pieces of whole rows.
//!
//! In: bytes, decompressed. Out: pieces that end where a row ends. Invariant: a row, and the empty
//! lines before it, stay in one piece.

use std::io::{self, Read};

/// Bytes of a piece, about: some milliseconds of work for the thread that parses it. Few in tests,
/// which look at the ends of pieces.
const PIECE_BYTES: usize = if cfg!(test) { 40 } else { 2 << 20 };

/// Some whole rows.
pub(super) enum Piece {
    /// Rows are lines and cells are what stands between commas.
    Plain(String),
    /// There are quotes, other line ends or bytes that are no UTF-8: a line's end is perhaps not a
    /// row's, here and from here on.
    Other(Vec<u8>),
}

/// A file that is read piece by piece.
pub(super) struct Pieces<R> {
    input: R,
    rest: Vec<u8>,
    ended: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, rest: Vec::new(), ended: false }
    }

    /// The next piece; `None`: the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut piece = std::mem::take(&mut self.rest);
        loop {
            if !self.ended {
                piece.reserve(PIECE_BYTES);
                let read = self.input.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
                self.ended = read < PIECE_BYTES;
            }
            let end = if self.ended { Some(piece.len()) } else { row_end(&piece) };
            if let Some(end) = end {
                self.rest = piece.split_off(end);
                return Ok((!piece.is_empty()).then(|| classified(piece)));
            }
        }
    }

    /// Everything behind the pieces that were given.
    pub(super) fn into_rest(self) -> impl Read {
        io::Cursor::new(self.rest).chain(self.input)
    }
}

/// Behind the last line that is not empty and not the beginning of one.
fn row_end(piece: &[u8]) -> Option<usize> {
    let mut ends = memchr::memrchr_iter(b'\n', piece);
    ends.find(|end| *end > 0 && piece[end - 1] != b'\n').map(|end| end + 1)
}

fn classified(piece: Vec<u8>) -> Piece {
    if memchr::memchr2(b'"', b'\r', &piece).is_some() {
        return Piece::Other(piece);
    }
    match String::from_utf8(piece) {
        Ok(text) => Piece::Plain(text),
        Err(error) => Piece::Other(error.into_bytes()),
    }
}
