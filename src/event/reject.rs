//! Rows that could not be used.
//!
//! In: a row and what is wrong with it. Out: a record that says where it came from, why it was
//! refused, and its bytes (bounded; masked columns hidden).
//! Invariant: no I/O.

use serde::{Deserialize, Serialize};

use crate::user::layout::hash64;

/// Bytes of a row that a reject keeps.
pub const REJECT_BYTES_MAX: usize = 4096;

/// Why a row was refused. The names are part of the contract: metrics and tools read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not one JSON object, or a CSV line with another number of cells than the header.
    Malformed,
    /// A line longer than `source.line_bytes_max`.
    TooLong,
    /// A required column is missing, null or empty.
    Missing,
    /// A value has another type than declared.
    Type,
    /// A number, date or instant out of its type's range.
    Range,
    /// More decimals than the scale.
    Scale,
    /// The event time lies further ahead than `max_ahead`.
    TooEarly,
    /// The event arrived later than the horizon, and its stream dedupes.
    TooLate,
    /// The user is quarantined.
    Quarantined,
    /// A word that names no operation of the stream.
    Operation,
    /// The row as it was before an update or a deletion is not there, or lacks a column.
    BeforeMissing,
    /// A table was emptied, which does not say whose rows are gone.
    Truncated,
    /// A record's own description of its columns contradicts itself.
    Schema,
}

impl Reason {
    /// The name in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::Missing => "missing",
            Self::Type => "type",
            Self::Range => "range",
            Self::Scale => "scale",
            Self::TooEarly => "too-early",
            Self::TooLate => "too-late",
            Self::Quarantined => "quarantined",
            Self::Operation => "operation",
            Self::BeforeMissing => "before-missing",
            Self::Truncated => "truncated",
            Self::Schema => "schema",
        }
    }
}

/// A refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The stream it was meant for.
    pub stream: String,
    /// Why.
    pub reason: Reason,
    /// The column, or what exactly is wrong.
    pub detail: String,
    /// The source: a file's path, or a topic and partition.
    pub source: String,
    /// One-based line (CSV: of the record's start; decompressed text).
    pub line: u64,
    /// Byte offset of the row in the decompressed text.
    pub offset: u64,
    /// Which row of a record of several, from 0.
    #[serde(default)]
    pub index: u32,
    /// The row as text, bounded to [`REJECT_BYTES_MAX`], invalid UTF-8 replaced.
    pub row: String,
    /// Length of the whole row in bytes.
    pub row_bytes: u64,
}

impl Reject {
    /// A number that the same row gets whenever it is refused again: of its place, the stream and
    /// the reason, since a row is at most one reject for each of those.
    pub fn id(&self) -> u64 {
        let Self { stream, source, line, offset, index, .. } = self;
        let identity = (source, offset, line, index, stream, self.reason.name());
        let bytes = postcard::to_stdvec(&identity).expect("texts and numbers are always bytes");
        hash64(&bytes)
    }
}

/// The row as a reject keeps it. `hide`: the stream masks a column, and the caller could not cut it
/// out of these bytes.
pub fn shown(row: &[u8], hide: bool) -> String {
    if hide {
        return format!("<{} bytes hidden: a masked column could not be cut out>", row.len());
    }
    let end = row.len().min(REJECT_BYTES_MAX);
    String::from_utf8_lossy(&row[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_id_for_each_stream_and_reason() {
        let reject = Reject {
            stream: "consume".to_owned(),
            reason: Reason::Type,
            detail: "price: `x` is no number".to_owned(),
            source: "shop.consume/3".to_owned(),
            line: 0,
            offset: 17,
            index: 0,
            row: "{}".to_owned(),
            row_bytes: 2,
        };
        let same = Reject { detail: "said otherwise".to_owned(), ..reject.clone() };
        assert_eq!(same.id(), reject.id());
        let others = [
            Reject { stream: "cancel".to_owned(), ..reject.clone() },
            Reject { reason: Reason::Range, ..reject.clone() },
            Reject { source: "shop.consume/4".to_owned(), ..reject.clone() },
            Reject { offset: 18, ..reject.clone() },
            Reject { index: 1, ..reject.clone() },
        ];
        assert!(others.iter().all(|other| other.id() != reject.id()));
    }
}
