//! Stored rows in the present layout.
//!
//! In: the schema a record was written with. Out: for each stored stream, value, filter and partial
//! the present one of the same fingerprint. Invariant: what is new stays NULL or false; it has seen
//! no event before it was added.

use super::history::HistoryId;
use super::layout::{
    Filter, StateLayout, StreamLayout, ValueKind, flag_at, flag_set, row_stream, row_time, set_flag,
};
use super::schema::{Schema, StreamSchema, ValueSchema};
use super::snapshot::SnapshotError;
use crate::clock::Day;

/// A stored schema, resolved against the present layout.
#[derive(Debug)]
pub struct StoredLayout {
    pub(super) streams: Vec<StoredStream>,
    /// Whether rows can be used as they are.
    same: bool,
}

#[derive(Debug)]
pub(super) struct StoredStream {
    pub(super) width: usize,
    id_word: Option<usize>,
    /// Words of key and version of a table's row.
    changelog: Option<(usize, usize)>,
    /// The present stream of this name.
    pub(super) to: Option<usize>,
    /// (stored value, index of the present value).
    values: Vec<(ValueSchema, Option<usize>)>,
    /// What sets each present flag.
    filters: Vec<(FlagFrom, usize)>,
    /// Present partials of each stored one: itself, and those that were one with it until they got a
    /// history; of these only what is about this day or later is still theirs.
    pub(super) partials: Vec<Vec<(usize, Option<Day>)>>,
    same: bool,
}

/// What sets a present flag of a stored row.
#[derive(Debug, Clone, Copy)]
enum FlagFrom {
    /// A stored flag.
    Flag(usize),
    /// A stored flag (none: true), for events from an instant on: those before came from history.
    From(Option<usize>, i64),
}

/// Whose rows are brought to the present layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A profile's.
    Live,
    /// A history's, read before the cuts that it makes were known.
    History,
}

impl FlagFrom {
    fn find(filter: &Filter, stored: &StreamSchema, whose: Whose) -> Option<Self> {
        let flag = |print: u64| stored.filters.iter().find(|f| f.0 == print).map(|f| f.1);
        if let Some(flag) = flag(filter.fingerprint) {
            return Some(Self::Flag(flag));
        }
        let (cut, base) = filter.cut?;
        let base = match base {
            None => None,
            Some(print) => Some(flag(print)?),
        };
        Some(Self::From(base, if whose == Whose::Live { cut.from_ms } else { i64::MIN }))
    }

    fn is_set(self, row: &[u64]) -> bool {
        match self {
            Self::Flag(flag) => flag_set(row, flag),
            Self::From(flag, from_ms) => {
                row_time(row[0]) >= from_ms && flag.is_none_or(|flag| flag_set(row, flag))
            }
        }
    }
}

impl StoredLayout {
    /// The same for a record of a history, read before its partials had their cut.
    pub fn of_history(schema: &Schema, layout: &StateLayout) -> Self {
        Self::resolve(schema, layout, Whose::History)
    }

    /// Finds each stored value, filter and partial in the present layout by its fingerprint.
    pub fn new(schema: &Schema, layout: &StateLayout) -> Self {
        Self::resolve(schema, layout, Whose::Live)
    }

    fn resolve(schema: &Schema, layout: &StateLayout, whose: Whose) -> Self {
        let present = Schema::new(layout, Vec::new(), Vec::new(), Vec::new());
        let stream = |(index, s): (usize, &StreamSchema)| {
            // Rows of a table need the same key and version to be compared with later ones.
            let alike = |l: &StreamLayout| {
                l.changelog.as_ref().map(|c| c.fingerprint) == s.changelog.map(|c| c.fingerprint)
            };
            let to = layout.streams.iter().position(|l| l.name == s.name && alike(l));
            let now = to.map(|t| &layout.streams[t]);
            let values = s.values.iter().map(|v| {
                let at =
                    now.and_then(|n| n.values.iter().position(|x| x.fingerprint == v.fingerprint));
                (v.clone(), at)
            });
            let filters = now.map_or(&[][..], |n| &n.filters).iter();
            let filters = filters.filter_map(|f| Some((FlagFrom::find(f, s, whose)?, f.flag)));
            let partials = s.partials.iter().map(|print| {
                let all = now.map_or(&[][..], |n| &n.partials).iter().enumerate();
                let found = all.filter_map(|(at, partial)| {
                    if partial.fingerprint == *print {
                        return Some((at, None));
                    }
                    let (cut, _) = partial.cut.filter(|(_, base)| base == print)?;
                    // What is stored of it already is its own, beside a base that others still need.
                    let is_new = !s.partials.contains(&partial.fingerprint);
                    is_new.then(|| (at, (whose == Whose::Live).then_some(cut.from_day)))
                });
                found.collect()
            });
            let same = to == Some(index) && present.streams.get(index) == Some(s);
            StoredStream {
                width: s.width,
                id_word: s.id_word,
                changelog: s.changelog.map(|c| (c.key_word, c.version_word)),
                to,
                values: values.collect(),
                filters: filters.collect(),
                partials: partials.collect(),
                same,
            }
        };
        let streams: Vec<StoredStream> = schema.streams.iter().enumerate().map(stream).collect();
        let same = streams.iter().all(|s| s.same);
        Self { streams, same }
    }

    /// Ids of history, with the present index of their stream.
    pub(super) fn bring_ids(&self, ids: Vec<HistoryId>, layout: &StateLayout) -> Vec<HistoryId> {
        let present = |id: HistoryId| {
            let to = self.streams.get(usize::from(id.stream))?.to?;
            Some(HistoryId { stream: layout.streams[to].stream, ..id })
        };
        let mut ids: Vec<HistoryId> = ids.into_iter().filter_map(present).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether rows were written with the present layout.
    pub fn is_present(&self) -> bool {
        self.same
    }

    /// The stream of a row that begins with this word, when there are so many words.
    pub(super) fn stream_of(
        &self,
        first: u64,
        words: usize,
    ) -> Result<&StoredStream, SnapshotError> {
        let stream = self.streams.get(row_stream(first)).filter(|s| s.width <= words);
        stream.ok_or_else(|| SnapshotError::Damaged("row of an unknown stream".into()))
    }

    /// Rows of the present layout, where they stand: their texts get the codes that they have now.
    pub(super) fn bring_all(
        &self,
        mut rows: Vec<u64>,
        layout: &StateLayout,
        code: &impl Fn(u64) -> Result<u32, SnapshotError>,
    ) -> Result<Vec<u64>, SnapshotError> {
        let mut rest = rows.as_mut_slice();
        while let Some(first) = rest.first() {
            let from = self.stream_of(*first, rest.len())?;
            let (row, tail) = rest.split_at_mut(from.width);
            rest = tail;
            recode(row, &layout.streams[row_stream(row[0])], code)?;
        }
        Ok(rows)
    }
}

impl StoredStream {
    /// Appends the row in the present layout. Values and filters that are new to it stay NULL and
    /// false: they have seen no event before they were added.
    pub(super) fn bring(
        &self,
        row: &[u64],
        layout: &StateLayout,
        code: &impl Fn(u64) -> Result<u32, SnapshotError>,
        out: &mut Vec<u64>,
    ) -> Result<(), SnapshotError> {
        let Some(to) = self.to.map(|t| &layout.streams[t]) else { return Ok(()) };
        let start = out.len();
        if self.same {
            out.extend_from_slice(row);
            return recode(&mut out[start..], to, code);
        }
        out.resize(start + to.width, 0);
        let new = &mut out[start..];
        new[0] = (row[0] & !0xff) | u64::from(to.stream);
        new[1] = row[1] & 0xff_ffff;
        if let (Some(from), Some(into)) = (self.id_word, to.id_word) {
            new[into] = row[from];
        }
        if let (Some((key, version)), Some(into)) = (self.changelog, &to.changelog) {
            new[into.key_word] = row[key];
            new[into.version_word] = row[version];
        }
        for value in &to.values {
            set_flag(new, value.null_flag);
        }
        for (from, into) in &self.filters {
            if from.is_set(row) {
                set_flag(new, *into);
            }
        }
        for (from, into) in &self.values {
            let Some(value) = into.map(|i| &to.values[i]) else { continue };
            if flag_set(row, from.null_flag) {
                continue;
            }
            let half = from.kind.is_half();
            let mut word = row[from.word] >> if from.upper { 32 } else { 0 };
            if half {
                word &= 0xffff_ffff;
            }
            if from.kind == ValueKind::Text {
                word = u64::from(code(word)?);
            }
            set_value(new, value.word, value.upper, half, word);
            clear_flag(new, value.null_flag);
        }
        Ok(())
    }
}

/// Gives the texts of a row of the present layout the codes that they have now.
fn recode(
    row: &mut [u64],
    stream: &StreamLayout,
    code: &impl Fn(u64) -> Result<u32, SnapshotError>,
) -> Result<(), SnapshotError> {
    // Texts take half a word.
    for value in &stream.values[stream.first_half..] {
        if value.kind == ValueKind::Text && !flag_set(row, value.null_flag) {
            let shift = if value.upper { 32 } else { 0 };
            let now = code(row[value.word] >> shift & 0xffff_ffff)?;
            set_value(row, value.word, value.upper, true, now.into());
        }
    }
    Ok(())
}

pub(super) fn clear_flag(row: &mut [u64], flag: usize) {
    let (word, bit) = flag_at(flag);
    row[word] &= !(1 << bit);
}

fn set_value(row: &mut [u64], word: usize, upper: bool, half: bool, value: u64) {
    row[word] = match (half, upper) {
        (false, _) => value,
        (true, false) => (row[word] & !0xffff_ffff) | (value & 0xffff_ffff),
        (true, true) => (row[word] & 0xffff_ffff) | (value << 32),
    };
}
