//! A user's profile as bytes.
//!
//! In: codes, open values, state. Out: one packed record, and back.
//!
//! The record is postcard (<https://postcard.jamesmunns.com/wire-format>): a format byte, then head,
//! codes, open values and state. Codes are plain bytes, copied as they are; rows leave out bytes that
//! are zero in all of them (`stored_rows.rs`). Texts are written once for each profile, and rows
//! hold their index in that list, so a record does not depend on the process that wrote it. `schema`
//! names the [`Schema`](super::schema::Schema) by which codes and rows are to be read.
//! Invariant: no clock, no I/O.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::changelog::Partly;
use super::history::HistoryId;
use super::layout::{StateLayout, StreamLayout, ValueKind};
use super::settled::{Cell, Period, Settled, Tile, text_code};
use super::state::UserState;
use super::stored::StoredLayout;
use super::stored_rows::{self, RowPacker};
use super::texts::{Texts, TextsView};
use crate::clock::Day;
use crate::source::kafka::SourceId;

/// First byte of every record.
pub const FORMAT: u8 = 5;

/// The last one with rows as plain words.
const FORMAT_WORDS: u8 = 4;

/// The oldest format that is read: it knows no sources.
const FORMAT_OLDEST: u8 = 3;

/// What stands before a user's codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Names the [`Schema`](super::schema::Schema).
    pub schema: u64,
    /// The instant the codes are true at, epoch ms.
    pub as_of_ms: i64,
    /// The instant from which the codes may be wrong without an event, epoch ms.
    pub due_ms: Option<i64>,
    /// Grows with every write of this user.
    pub version: u64,
    /// The user's state or a rule panicked: events are rejects until a fix.
    pub quarantined: bool,
    /// The account is closed: audiences leave it out.
    pub closed: bool,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    head: Head,
    #[serde(serialize_with = "plain")]
    codes: &'a [u8],
    #[serde(serialize_with = "plain")]
    open: &'a [u8],
    /// An [`Applied`], then what the user's changes are numbered by; or nothing.
    #[serde(serialize_with = "plain")]
    applied: &'a [u8],
    state: StateRecord<'a>,
}

/// Where a user's events come from, and which of them its profile has applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The partition number of its events; none: they came from files.
    pub partition: Option<u32>,
    /// The next offset of each source that is not applied.
    pub fence: Vec<(SourceId, u64)>,
}

/// Bytes as bytes: a slice would be written element by element.
fn plain<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// The first fields of [`Record`].
#[derive(Debug, Deserialize)]
struct TagsRecord<'a> {
    head: Head,
    codes: &'a [u8],
    open: &'a [u8],
    applied: &'a [u8],
}

/// The same of the oldest format.
#[derive(Debug, Deserialize)]
struct OldestTagsRecord<'a> {
    head: Head,
    codes: &'a [u8],
    open: &'a [u8],
}

#[derive(Debug, Serialize, Deserialize)]
struct StateRecord<'a> {
    #[serde(borrow)]
    texts: Vec<&'a str>,
    /// See [`super::stored_rows`]; up to [`FORMAT_WORDS`] words, each as 8 bytes, lowest first.
    #[serde(serialize_with = "plain")]
    rows: &'a [u8],
    tiles: Vec<TileRecord>,
    ids_forgotten_until: Option<Day>,
    /// Streams of which not all rows are kept: see [`Partly`].
    partly: Vec<(u8, u64)>,
    history_ids: Vec<HistoryId>,
}

/// Stream, period, and each partial's cell.
type TileRecord = (u8, Period, Vec<(u16, CellRecord)>);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum CellRecord {
    Number(i128),
    Set(Vec<u64>),
    Tally(Vec<(u64, i128)>),
    Recent(Vec<(i64, u64)>),
}

/// A profile without its state: what readers of tags need.
#[derive(Debug, Clone, Copy)]
pub struct TagsOnly<'a> {
    /// Version, instants, schema.
    pub head: Head,
    /// Codes of the closed tags of the schema, packed.
    pub codes: &'a [u8],
    /// Values of the open tags, as [`crate::write::open`] packs them.
    pub open: &'a [u8],
    applied: &'a [u8],
    /// Everything after it.
    state: &'a [u8],
    format: u8,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a tagloom before the first release.
    #[error(
        "profile format {0} is older than this tagloom reads ({FORMAT_OLDEST}); set store.path to a new \
         directory and run again over the sources"
    )]
    Older(u8),
    /// Written by a newer tagloom.
    #[error("profile format {0} is newer than this tagloom reads ({FORMAT}); upgrade tagloom")]
    Newer(u8),
    /// Not what was written.
    #[error("profile is damaged ({0}); restore the store from a snapshot")]
    Damaged(String),
    /// The schema it names is not in the store.
    #[error("profile was written with schema {0:016x}, which this store does not hold")]
    UnknownSchema(u64),
}

impl From<postcard::Error> for SnapshotError {
    fn from(error: postcard::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Packs profiles, reusing its memory.
#[derive(Debug, Default)]
pub struct Packer {
    local: Local,
    rows: RowPacker,
    applied: Vec<u8>,
    out: Vec<u8>,
}

/// What is packed.
#[derive(Debug, Clone, Copy)]
pub struct Profile<'a> {
    /// Version, instants, schema.
    pub head: Head,
    /// Packed codes of the closed tags.
    pub codes: &'a [u8],
    /// Packed values of the open tags.
    pub open: &'a [u8],
    /// Events and settled tiles.
    pub state: &'a UserState,
    /// Where its events come from, and which of them are in `state`.
    pub applied: &'a Applied,
    /// What is published of its changes, as [`crate::write::publish::outbox`] writes it; or nothing.
    pub outbox: &'a [u8],
}

impl Packer {
    /// A profile's record; valid until the next call.
    pub fn pack(
        &mut self,
        profile: &Profile<'_>,
        layout: &StateLayout,
        texts: &TextsView<'_>,
    ) -> &[u8] {
        self.local.clear();
        self.pack_applied(profile.applied, profile.outbox);
        let rows = self.rows.pack(profile.state.words(), layout, |code| self.local.index(code));
        let settled = profile.state.settled();
        let tiles = settled.map_or(&[][..], |s| &s.tiles);
        let tiles = tiles.iter().map(|t| encode_tile(t, layout, &mut self.local)).collect();
        let record = Record {
            head: profile.head,
            codes: profile.codes,
            open: profile.open,
            applied: &self.applied,
            state: StateRecord {
                texts: self.local.codes.iter().map(|c| texts.get(*c)).collect(),
                rows,
                tiles,
                ids_forgotten_until: settled.and_then(|s| s.ids_forgotten_until),
                partly: profile.state.partly().map_or_else(Vec::new, |p| p.streams().to_vec()),
                history_ids: settled.map(|s| s.history_ids.clone()).unwrap_or_default(),
            },
        };
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        out.push(FORMAT);
        self.out = postcard::to_extend(&record, out)
            .expect("plain data into a growing buffer always fits");
        &self.out
    }

    /// Nothing for users whose events come from files into a store that writes windows as a whole, and
    /// of whom nothing is published.
    fn pack_applied(&mut self, applied: &Applied, outbox: &[u8]) {
        self.applied.clear();
        if applied.partition.is_some() || !applied.fence.is_empty() || !outbox.is_empty() {
            self.applied = postcard::to_extend(applied, std::mem::take(&mut self.applied))
                .expect("plain data into a growing buffer always fits");
            self.applied.extend_from_slice(outbox);
        }
    }
}

/// The texts of one record: a small number for each code.
#[derive(Debug, Default)]
struct Local {
    /// By code: the record in which it was seen last, and its index there.
    seen: Vec<(u32, u32)>,
    record: u32,
    codes: Vec<u32>,
}

impl Local {
    fn clear(&mut self) {
        self.codes.clear();
        if self.record == u32::MAX {
            self.seen.clear();
            self.record = 0;
        }
        self.record += 1;
    }

    fn index(&mut self, code: u32) -> u32 {
        let at = code as usize;
        if at >= self.seen.len() {
            self.seen.resize(at + 1, (0, 0));
        }
        if self.seen[at].0 != self.record {
            self.seen[at] = (self.record, u32::try_from(self.codes.len()).unwrap_or(u32::MAX));
            self.codes.push(code);
        }
        self.seen[at].1
    }
}

fn encode_tile(tile: &Tile, layout: &StateLayout, local: &mut Local) -> TileRecord {
    let stream = &layout.streams[usize::from(tile.stream)];
    let cells = tile.cells.iter().map(|(at, cell)| {
        let text = is_text(stream, usize::from(*at));
        let mut word = |w: u64| if text { remap(w, |c| local.index(c)) } else { w };
        let cell = match cell {
            Cell::Set(words) => CellRecord::Set(words.iter().map(|w| word(*w)).collect()),
            Cell::Tally(totals) => {
                CellRecord::Tally(totals.iter().map(|(w, weight)| (word(*w), *weight)).collect())
            }
            Cell::Recent(values) => {
                CellRecord::Recent(values.iter().map(|(time, w)| (*time, word(*w))).collect())
            }
            Cell::Number(n) if text => CellRecord::Number(retext(*n, |c| local.index(c))),
            Cell::Number(n) => CellRecord::Number(*n),
        };
        (*at, cell)
    });
    (tile.stream, tile.period, cells.collect())
}

/// A cell whose texts have codes of this process.
fn decode_cell(
    cell: CellRecord,
    text: bool,
    code: &impl Fn(u64) -> Result<u32, SnapshotError>,
) -> Result<Cell, SnapshotError> {
    let word = |w: u64| if text { code(w).map(u64::from) } else { Ok(w) };
    Ok(match cell {
        CellRecord::Number(n) if text => {
            let index = u64::from(text_code(n));
            Cell::Number((n >> 64 << 64) | i128::from(code(index)?))
        }
        CellRecord::Number(n) => Cell::Number(n),
        CellRecord::Set(words) => {
            let words = words.into_iter().map(word);
            let mut words = words.collect::<Result<Vec<_>, _>>()?;
            words.sort_unstable();
            Cell::Set(words)
        }
        CellRecord::Tally(totals) => {
            let totals = totals.into_iter().map(|(w, weight)| Ok((word(w)?, weight)));
            let mut totals = totals.collect::<Result<Vec<_>, SnapshotError>>()?;
            totals.sort_unstable_by_key(|(word, _)| *word);
            Cell::Tally(totals)
        }
        CellRecord::Recent(values) => {
            let values = values.into_iter().map(|(time, w)| Ok((time, word(w)?)));
            Cell::Recent(values.collect::<Result<Vec<_>, SnapshotError>>()?)
        }
    })
}

fn damaged_rows() -> SnapshotError {
    SnapshotError::Damaged("rows cannot be read".to_owned())
}

fn is_text(stream: &StreamLayout, partial: usize) -> bool {
    stream.partials[partial].value.is_some_and(|v| stream.values[v].kind == ValueKind::Text)
}

fn retext(number: i128, map: impl FnOnce(u32) -> u32) -> i128 {
    (number >> 64 << 64) | i128::from(map(text_code(number)))
}

fn remap(code: u64, map: impl FnOnce(u32) -> u32) -> u64 {
    u64::from(map(super::layout::low32(code)))
}

/// Reads everything but the state.
pub fn decode_tags(bytes: &[u8]) -> Result<TagsOnly<'_>, SnapshotError> {
    let (format, rest) =
        bytes.split_first().ok_or_else(|| SnapshotError::Damaged("empty record".into()))?;
    if *format > FORMAT {
        return Err(SnapshotError::Newer(*format));
    }
    if *format < FORMAT_OLDEST {
        return Err(SnapshotError::Older(*format));
    }
    if *format == FORMAT_OLDEST {
        let (OldestTagsRecord { head, codes, open }, state) = postcard::take_from_bytes(rest)?;
        return Ok(TagsOnly { head, codes, open, applied: &[], state, format: *format });
    }
    let (TagsRecord { head, codes, open, applied }, state) = postcard::take_from_bytes(rest)?;
    Ok(TagsOnly { head, codes, open, applied, state, format: *format })
}

impl<'a> TagsOnly<'a> {
    /// Whether nothing of the state may be inexact: all rows are kept, with their ids, and there
    /// are no more than `values_max` values to be counted apart. In doubt it says no.
    pub fn is_exact(&self, values_max: usize) -> Result<bool, SnapshotError> {
        let record: StateRecord<'_> = postcard::from_bytes(self.state)?;
        let most = |cell: &CellRecord| match cell {
            CellRecord::Set(words) => words.len(),
            CellRecord::Tally(totals) => totals.len(),
            CellRecord::Number(_) | CellRecord::Recent(_) => 0,
        };
        let settled: usize =
            record.tiles.iter().flat_map(|(_, _, cells)| cells).map(|(_, cell)| most(cell)).sum();
        let rows = match self.format {
            // A row has at least two words.
            ..=FORMAT_WORDS => record.rows.len() / 16,
            _ => stored_rows::count(record.rows).ok_or_else(damaged_rows)?,
        };
        let values = rows.saturating_add(settled);
        Ok(record.partly.is_empty() && record.ids_forgotten_until.is_none() && values <= values_max)
    }

    /// Reads where the user's events come from. Behind it: the bytes of what is published of the user's
    /// changes; none where nothing ever was.
    pub fn applied(&self) -> Result<(Applied, &'a [u8]), SnapshotError> {
        if self.applied.is_empty() {
            return Ok((Applied::default(), &[]));
        }
        Ok(postcard::take_from_bytes(self.applied)?)
    }

    /// The words of all rows.
    fn words(&self, rows: &[u8]) -> Result<Vec<u64>, SnapshotError> {
        if self.format > FORMAT_WORDS {
            return stored_rows::unpack(rows).ok_or_else(damaged_rows);
        }
        let (words, odd) = rows.as_chunks::<8>();
        if !odd.is_empty() {
            return Err(damaged_rows());
        }
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Reads the state: rows of the schema `stored`, brought to the present `layout`.
    pub fn state(
        &self,
        stored: &StoredLayout,
        layout: &Arc<StateLayout>,
        texts: &Texts,
    ) -> Result<UserState, SnapshotError> {
        let record: StateRecord<'_> = postcard::from_bytes(self.state)?;
        let codes = texts.intern_all(&record.texts);
        let code = |index: u64| {
            usize::try_from(index)
                .ok()
                .and_then(|i| codes.get(i))
                .copied()
                .ok_or_else(|| SnapshotError::Damaged("text index out of range".into()))
        };
        let words = self.words(record.rows)?;
        let rows = if stored.is_present() {
            stored.bring_all(words, layout, &code)?
        } else {
            let mut rows = Vec::with_capacity(words.len());
            let mut rest = words.as_slice();
            while let Some(first) = rest.first() {
                let from = stored.stream_of(*first, rest.len())?;
                let (row, tail) = rest.split_at(from.width);
                rest = tail;
                from.bring(row, layout, &code, &mut rows)?;
            }
            rows
        };
        let mut settled = self.settled(record.tiles, stored, layout, &code)?;
        settled.ids_forgotten_until = record.ids_forgotten_until;
        settled.history_ids = stored.bring_ids(record.history_ids, layout);
        let settled = (!settled.is_empty()).then_some(settled);
        let partly = record.partly.into_iter().filter_map(|(stream, key)| {
            let to = stored.streams.get(usize::from(stream))?.to?;
            Some((layout.streams[to].stream, key))
        });
        let partly = Partly::of(partly.collect());
        Ok(UserState::from_parts(rows, settled, layout).with_partly(partly))
    }

    fn settled(
        &self,
        tiles: Vec<TileRecord>,
        stored: &StoredLayout,
        layout: &StateLayout,
        code: &impl Fn(u64) -> Result<u32, SnapshotError>,
    ) -> Result<Settled, SnapshotError> {
        let mut settled = Settled::default();
        for (stream, period, cells) in tiles {
            let Some(from) = stored.streams.get(usize::from(stream)) else { continue };
            let Some(to) = from.to else { continue };
            let mut kept = Vec::new();
            for (at, cell) in cells {
                let is_kept = |(_, from_day): &&(usize, Option<Day>)| {
                    from_day.is_none_or(|from| period.day().is_some_and(|day| day >= from))
                };
                let found = from.partials.get(usize::from(at)).map_or(&[][..], Vec::as_slice);
                let mut bring = |partial: usize, cell| {
                    let text = is_text(&layout.streams[to], partial);
                    let cell = decode_cell(cell, text, code)?;
                    kept.push((u16::try_from(partial).unwrap_or(u16::MAX), cell));
                    Ok::<_, SnapshotError>(())
                };
                let mut found = found.iter().filter(is_kept);
                let Some((last, _)) = found.next_back() else { continue };
                for (partial, _) in found {
                    bring(*partial, cell.clone())?;
                }
                bring(*last, cell)?;
            }
            kept.sort_by_key(|c| c.0);
            settled.tiles.push(Tile { stream: layout.streams[to].stream, period, cells: kept });
        }
        settled.tiles.sort_by_key(|t| (t.stream, t.period));
        Ok(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::row_stream;
    use super::super::schema::Schema;
    use super::super::stored_rows::tests::{layout, row};
    use super::*;

    /// The same record as tagloom wrote it in an older format.
    fn older(record: &[u8], format: u8) -> Vec<u8> {
        let (tags, state): (TagsRecord<'_>, _) = postcard::take_from_bytes(&record[1..]).unwrap();
        let mut state: StateRecord<'_> = postcard::from_bytes(state).unwrap();
        let words = stored_rows::unpack(state.rows).unwrap();
        let rows: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        state.rows = &rows;
        let applied = if format == FORMAT_OLDEST { Vec::new() } else { bytes(tags.applied) };
        let parts = [
            postcard::to_stdvec(&tags.head).unwrap(),
            bytes(tags.codes),
            bytes(tags.open),
            applied,
            postcard::to_stdvec(&state).unwrap(),
        ];
        [&[format][..], &parts.concat()].concat()
    }

    fn bytes(bytes: &[u8]) -> Vec<u8> {
        postcard::to_stdvec(bytes).unwrap()
    }

    #[test]
    fn profiles_of_older_formats_are_read() {
        let layout = Arc::new(layout());
        let stored = StoredLayout::new(&Schema::new(&layout, vec![], vec![], vec![]), &layout);
        let texts = Texts::default();
        ["a", "bc", "", "d"].iter().for_each(|text| {
            texts.intern(text);
        });
        let mut state = UserState::default();
        for seed in 0..30_u64 {
            let row =
                row(&layout, &[seed, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), !seed, 3 * seed]);
            let stream = &layout.streams[row_stream(row[0])];
            state.fold(&row, stream, &layout);
        }
        let profile = Profile {
            head: Head { schema: 7, as_of_ms: 11, due_ms: Some(13), version: 2, ..Head::default() },
            codes: &[1, 2, 3],
            open: &[4],
            state: &state,
            applied: &Applied { partition: Some(5), fence: Vec::new() },
            outbox: &[],
        };
        let record = Packer::default().pack(&profile, &layout, &texts.view()).to_vec();
        let read = |record: &[u8]| {
            let tags = decode_tags(record).unwrap();
            let state = tags.state(&stored, &layout, &texts).unwrap();
            assert!(tags.is_exact(200).unwrap() && !tags.is_exact(29).unwrap());
            (tags.head, tags.codes.to_vec(), tags.applied().unwrap().0, state.words().to_vec())
        };
        let now = read(&record);
        assert_eq!(now.3.len(), state.words().len());
        assert_eq!(read(&older(&record, FORMAT_WORDS)), now);
        let (head, codes, applied, words) = read(&older(&record, FORMAT_OLDEST));
        assert_eq!((head, codes, words, applied), (now.0, now.1, now.3, Applied::default()));
        for end in 1..record.len() {
            let tags = decode_tags(&record[..end]);
            assert!(tags.and_then(|tags| tags.state(&stored, &layout, &texts)).is_err(), "{end}");
        }
        assert!(matches!(decode_tags(&[FORMAT + 1]), Err(SnapshotError::Newer(_))));
        assert!(matches!(decode_tags(&[FORMAT_OLDEST - 1]), Err(SnapshotError::Older(_))));
    }
}
