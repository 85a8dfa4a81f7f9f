//! Rows that could not be used.
//!
//! In: a row and what is wrong with it. Out: a record that says where it came from, why it was
//! refused, and its bytes (bounded; masked columns hidden).
//! Invariant: no I/O.

use serde::{Deserialize, Serialize};

use crate::user::layout::hash64;

/// Bytes of a row that a reject keeps.
pub const REJECT_BYTES_MAX: usize = 4096;

/// Bytes of a row that are published: less than a broker takes by default.
pub const WHOLE_BYTES_MAX: usize = 512 << 10;

/// Why a row was refused. The names are part of the contract: metrics and tools read them.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not one JSON object, or a CSV line with another number of cells than the header.
    #[default]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// When the record arrived, epoch ms; rows of files have no arrival time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_ms: Option<i64>,
    /// The row's bytes, up to [`WHOLE_BYTES_MAX`], where `row` has not all of them. They are published
    /// and not stored.
    #[serde(skip)]
    pub whole: Option<Box<[u8]>>,
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

    /// The topic and partition that the row was read from; none: it came from a file.
    pub fn topic(&self) -> Option<(&str, u32)> {
        self.arrived_ms?;
        let (topic, partition) = self.source.rsplit_once('/')?;
        Some((topic, partition.parse().ok()?))
    }

    /// The row's bytes, as many as are kept until the next window.
    pub fn bytes(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or(self.row.as_bytes())
    }

    /// How many rejects of usual size it takes the memory of.
    pub fn weight(&self) -> usize {
        1 + self.whole.as_ref().map_or(0, |whole| whole.len() / REJECT_BYTES_MAX)
    }
}

/// A row as a reject keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// As text, bounded.
    pub text: String,
    /// How long it is.
    pub bytes: u64,
    /// Its bytes, where the text has not all of them and nothing has to be hidden.
    pub whole: Option<Box<[u8]>>,
}

/// The row as a reject keeps it. `hide`: the stream masks a column, and the caller could not cut it
/// out of these bytes.
pub fn shown(row: &[u8], hide: bool) -> Shown {
    let bytes = row.len() as u64;
    if hide {
        let text = format!("<{bytes} bytes hidden: a masked column could not be cut out>");
        return Shown { text, bytes, whole: None };
    }
    let end = row.len().min(REJECT_BYTES_MAX);
    let text = String::from_utf8_lossy(&row[..end]);
    let is_all = end == row.len() && text.as_bytes() == row;
    let whole = (!is_all).then(|| row[..row.len().min(WHOLE_BYTES_MAX)].into());
    Shown { text: text.into_owned(), bytes, whole }
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
            ..Reject::default()
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

    #[test]
    fn a_row_that_is_no_short_text_keeps_its_bytes_until_it_is_published() {
        let check = |row: &[u8], hide: bool, expect: Option<usize>| {
            let shown = shown(row, hide);
            assert_eq!(shown.whole.as_ref().map(|whole| whole.len()), expect);
            assert_eq!(shown.bytes, row.len() as u64);
            let reject = Reject { row: shown.text, whole: shown.whole, ..Reject::default() };
            assert!(hide || row.starts_with(reject.bytes()));
            reject.weight()
        };
        assert_eq!(check(b"{\"a\":1}", false, None), 1);
        assert_eq!(check(b"\xff{", false, Some(2)), 1);
        assert_eq!(check(&[b'x'; 9_000], false, Some(9_000)), 3);
        assert_eq!(check(&[b'x'; 9_000], true, None), 1);
        assert_eq!(check(&vec![b'x'; 1 << 20], false, Some(WHOLE_BYTES_MAX)), 129);
    }
}
