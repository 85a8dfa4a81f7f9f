//! One user's features in arithmetic that is wide enough for anything.
//!
//! In: a state, the as-of instant. Out: each feature's aggregate. Slow: for users whose numbers may not
//! fit 64 bits. Invariant: no clock, no I/O; equal to [`super::lanes`] wherever that can be used.

use crate::catalog::model::Span;
use crate::clock::{Day, hop_of};
use crate::rule::AsOf;
use crate::user::layout::{StateLayout, StreamLayout, row_day, row_stream, row_time};
use crate::user::settled::{Cell, Period};
use crate::user::state::UserState;
use crate::user::texts::TextsView;

/// By feature; `None`: no event.
pub(super) fn features(
    state: &UserState,
    layout: &StateLayout,
    as_of: AsOf,
    texts: &TextsView<'_>,
) -> Vec<Option<Cell>> {
    let mut out = vec![None; layout.features];
    let now = hop_of(as_of.ms);
    let day_age = |day: Day| i64::from(as_of.day) - i64::from(day);
    for row in state.rows(layout) {
        let stream = &layout.streams[row_stream(row[0])];
        let ages = (day_age(row_day(row[1])), now - hop_of(row_time(row[0])));
        for (at, partial) in stream.partials.iter().enumerate() {
            if let Some(cell) = Cell::of(row, stream, partial) {
                merge(&mut out, stream, at, ages, &cell, texts);
            }
        }
    }
    for tile in state.settled().map_or(&[][..], |s| &s.tiles) {
        let stream = &layout.streams[usize::from(tile.stream)];
        let ages = match tile.period {
            Period::Lifetime => (Span::PAST, Span::PAST),
            Period::Day(day) => (day_age(day), Span::PAST),
            Period::Hop(day, hop) => (day_age(day), now - hop),
        };
        for (at, cell) in &tile.cells {
            merge(&mut out, stream, usize::from(*at), ages, cell, texts);
        }
    }
    out
}

/// `ages`: in days and hops.
fn merge(
    out: &mut [Option<Cell>],
    stream: &StreamLayout,
    partial: usize,
    ages: (i64, i64),
    cell: &Cell,
    texts: &TextsView<'_>,
) {
    let partial = &stream.partials[partial];
    for (feature, span) in &partial.features {
        if !span.contains(ages.0, ages.1) {
            continue;
        }
        match &mut out[*feature] {
            Some(have) => have.merge(cell.clone(), partial, stream, texts),
            none => *none = Some(cell.clone()),
        }
    }
}
