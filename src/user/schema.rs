//! How codes and rows of a stored profile are to be read.
//!
//! In: a layout and the catalogue's tag ids. Out: a schema, which the store keeps under its id, and which
//! profiles name. Invariant: equal schemas have equal ids.

use serde::{Deserialize, Serialize};

use super::layout::{StateLayout, StreamLayout, Value, ValueKind, hash64};
use crate::rule::packed::CodeBits;

/// How rows and codes of a record are to be read: kept in the store under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Ids of the closed tags, in the order of codes.
    pub closed: Vec<String>,
    /// Bits of each closed tag's code: how [`PackedCodes`](crate::rule::packed::PackedCodes) packs.
    pub bits: Vec<CodeBits>,
    /// Ids of the open tags, in the order of open values.
    pub open: Vec<String>,
    /// How rows are laid out, by stream index.
    pub streams: Vec<StreamSchema>,
    /// Ids of tags among them that nobody sees: they have no cells in a store that others read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
}

/// A stream's part of a [`Schema`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSchema {
    /// The stream's name.
    pub name: String,
    /// Words a row takes.
    pub width: usize,
    /// The word with the event id.
    pub id_word: Option<usize>,
    /// How rows of a table that changes are told apart.
    pub changelog: Option<ChangelogSchema>,
    /// Values.
    pub values: Vec<ValueSchema>,
    /// (fingerprint, flag) of each filter.
    pub filters: Vec<(u64, usize)>,
    /// Fingerprint of each partial.
    pub partials: Vec<u64>,
}

/// How rows of a table that changes are told apart, as part of a [`StreamSchema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangelogSchema {
    /// The word with the hash of the key.
    pub key_word: usize,
    /// The word with the version.
    pub version_word: usize,
    /// Hash of what makes a key and a version.
    pub fingerprint: u64,
}

/// A value's part of a [`StreamSchema`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueSchema {
    /// Fingerprint of the expression.
    pub fingerprint: u64,
    /// How it is kept.
    pub kind: ValueKind,
    /// Its word.
    pub word: usize,
    /// Whether it is the upper half.
    pub upper: bool,
    /// Its NULL flag.
    pub null_flag: usize,
}

impl Schema {
    /// The schema that a layout and the catalogue's tag ids make.
    pub fn new(
        layout: &StateLayout,
        closed: Vec<String>,
        bits: Vec<CodeBits>,
        open: Vec<String>,
    ) -> Self {
        let value = |v: &Value| ValueSchema {
            fingerprint: v.fingerprint,
            kind: v.kind,
            word: v.word,
            upper: v.upper,
            null_flag: v.null_flag,
        };
        let stream = |s: &StreamLayout| StreamSchema {
            name: s.name.clone(),
            width: s.width,
            id_word: s.id_word,
            changelog: s.changelog.as_ref().map(|c| ChangelogSchema {
                key_word: c.key_word,
                version_word: c.version_word,
                fingerprint: c.fingerprint,
            }),
            values: s.values.iter().map(value).collect(),
            filters: s.filters.iter().map(|f| (f.fingerprint, f.flag)).collect(),
            partials: s.partials.iter().map(|p| p.fingerprint).collect(),
        };
        let streams = layout.streams.iter().map(stream).collect();
        Self { closed, bits, open, streams, hidden: Vec::new() }
    }

    /// Some of its tags nobody sees.
    #[must_use]
    pub fn with_hidden(self, hidden: Vec<String>) -> Self {
        Self { hidden, ..self }
    }

    /// Its id: a hash of its content.
    pub fn id(&self) -> u64 {
        hash64(&serde_json::to_vec(self).unwrap_or_default())
    }
}
