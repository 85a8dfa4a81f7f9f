//! What history brought, beside what came live.
//!
//! In: a user's state as it was folded from history files, rows and tiles. Out: the same as tiles of
//! the live state, for the partials that have this history; and the ids of events that may come again
//! live. Where history has counted an event, a live one with its id does not count.
//! Invariant: no clock, no I/O; nothing depends on the order of events.

use serde::{Deserialize, Serialize};

use super::layout::{StateLayout, StreamLayout, row_day, row_stream, row_time};
use super::settled::{Cell, Period, Settled};
use super::stored::clear_flag;
use super::texts::TextsView;
use crate::clock::{Day, hop_of};

/// The id of an event that history brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HistoryId {
    /// Stream index.
    pub stream: u8,
    /// 64-bit hash of the id.
    pub id: u64,
    /// Which history.
    pub job: u16,
    /// The event's day: the id is forgotten beyond the horizon.
    pub day: Day,
}

/// Clears the flags of a live row for what history has counted it for.
pub(super) fn leave_to_history(ids: &[HistoryId], row: &mut [u64], stream: &StreamLayout) {
    let Some(id) = stream.id_word.map(|word| row[word]) else { return };
    let first = ids.partition_point(|known| (known.stream, known.id) < (stream.stream, id));
    let same = ids[first..].iter().take_while(|k| k.stream == stream.stream && k.id == id);
    for known in same {
        for filter in &stream.filters {
            if filter.cut.is_some_and(|(cut, _)| cut.job == known.job) {
                clear_flag(row, filter.flag);
            }
        }
    }
}

impl Settled {
    /// Adds rows and tiles of a history, for the partials that `job` gave one.
    pub(super) fn add_history<'r>(
        &mut self,
        rows: impl Iterator<Item = &'r [u64]>,
        tiles: Option<&Settled>,
        job: u16,
        layout: &StateLayout,
        texts: &TextsView<'_>,
    ) {
        let has = |stream: &StreamLayout, partial: usize| {
            stream.partials[partial].cut.is_some_and(|(cut, _)| cut.job == job)
        };
        for row in rows {
            let stream = &layout.streams[row_stream(row[0])];
            let day = row_day(row[1]);
            let period = match stream.rolling_hops {
                0 => Period::Day(day),
                _ => Period::Hop(day, hop_of(row_time(row[0]))),
            };
            for (at, partial) in stream.partials.iter().enumerate() {
                if has(stream, at)
                    && let Some(cell) = Cell::of(row, stream, partial)
                {
                    self.tile(stream.stream, period).add(at, cell, stream, texts);
                }
            }
            if let Some(word) = stream.id_word {
                self.history_ids.push(HistoryId { stream: stream.stream, id: row[word], job, day });
            }
        }
        for tile in tiles.map_or(&[][..], |t| &t.tiles) {
            let stream = &layout.streams[usize::from(tile.stream)];
            for (at, cell) in &tile.cells {
                let at = usize::from(*at);
                let kept = tile.period != Period::Lifetime || stream.partials[at].lifetime;
                if has(stream, at) && kept {
                    self.tile(tile.stream, tile.period).add(at, cell.clone(), stream, texts);
                }
            }
        }
        self.history_ids.sort_unstable();
        self.history_ids.dedup();
    }
}
