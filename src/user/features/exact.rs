//! One user's features in arithmetic that is wide enough for anything.
//!
//! In: a state, the as-of day. Out: each feature's aggregate. Slow: for users whose numbers may not
//! fit 64 bits. Invariant: no clock, no I/O; equal to [`super::lanes`] wherever that can be used.

use crate::catalog::model::Span;
use crate::clock::Day;
use crate::user::layout::{StateLayout, StreamLayout, row_day, row_stream};
use crate::user::settled::{Cell, Settled};
use crate::user::state::UserState;
use crate::user::texts::TextsView;

/// By feature; `None`: no event.
pub(super) fn features(
    state: &UserState,
    layout: &StateLayout,
    as_of: Day,
    texts: &TextsView<'_>,
) -> Vec<Option<Cell>> {
    let mut out = vec![None; layout.features];
    for row in state.rows(layout) {
        let stream = &layout.streams[row_stream(row[0])];
        let age = i64::from(as_of) - i64::from(row_day(row[1]));
        for (at, partial) in stream.partials.iter().enumerate() {
            if let Some(cell) = Cell::of(row, stream, partial) {
                merge(&mut out, stream, at, Some(age), &cell, texts);
            }
        }
    }
    for tile in state.settled().map_or(&[][..], |s| &s.tiles) {
        let stream = &layout.streams[usize::from(tile.stream)];
        let age = (tile.day != Settled::LIFETIME).then(|| i64::from(as_of) - i64::from(tile.day));
        for (at, cell) in &tile.cells {
            merge(&mut out, stream, usize::from(*at), age, cell, texts);
        }
    }
    out
}

/// `age`: in days; `None` is older than every span.
fn merge(
    out: &mut [Option<Cell>],
    stream: &StreamLayout,
    partial: usize,
    age: Option<i64>,
    cell: &Cell,
    texts: &TextsView<'_>,
) {
    let partial = &stream.partials[partial];
    for (feature, span) in &partial.features {
        let inside = match (span, age) {
            (_, Some(age)) if age < 0 => false,
            (Span::Lifetime, _) => true,
            (Span::Days { days, offset }, Some(age)) => {
                (i64::from(*offset)..i64::from(offset + days)).contains(&age)
            }
            (Span::Days { .. }, None) => false,
        };
        if !inside {
            continue;
        }
        match &mut out[*feature] {
            Some(have) => have.merge(cell.clone(), partial, stream, texts),
            none => *none = Some(cell.clone()),
        }
    }
}
