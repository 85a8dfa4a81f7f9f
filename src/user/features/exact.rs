//! One user's features in arithmetic that is wide enough for anything.
//!
//! In: a state, the as-of instant. Out: each feature's aggregate. Slow: for users whose numbers may not
//! fit 64 bits. Invariant: no clock, no I/O; equal to [`super::lanes`] wherever that can be used.

use crate::catalog::model::Span;
use crate::clock::{Day, hop_of};
use crate::rule::AsOf;
use crate::user::layout::{
    Partial, PartialKind, StateLayout, StreamLayout, ValueKind, row_day, row_stream, row_time,
};
use crate::user::ranked::heaviest;
use crate::user::sample;
use crate::user::settled::{Cell, Period};
use crate::user::state::UserState;
use crate::user::texts::TextsView;

/// A feature's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exact {
    /// As [`Cell::Number`]; distinct values are counted.
    Number(i128),
    /// Ranked values, as rows hold them.
    Values(Vec<u64>),
}

/// By feature; `None`: no event.
pub(super) fn features(
    state: &UserState,
    layout: &StateLayout,
    as_of: AsOf,
    texts: &TextsView<'_>,
) -> Vec<Option<Exact>> {
    let mut cells = cells(state, layout, as_of, texts);
    let mut out: Vec<Option<Exact>> = vec![None; cells.len()];
    for stream in &layout.streams {
        for partial in &stream.partials {
            let kind = partial.value.map_or(ValueKind::Int, |v| stream.values[v].kind);
            for (feature, _) in &partial.features {
                let take = layout.listed[*feature].map_or(1, usize::from);
                out[*feature] = cells[*feature].take().map(|cell| match cell {
                    Cell::Number(n) => Exact::Number(n),
                    Cell::Set(words) => {
                        let hash = |word| sample::hash_of(kind, word, texts);
                        let count = sample::count(&words, partial.values_max, hash);
                        Exact::Number(i128::from(count))
                    }
                    Cell::Tally(mut totals) => {
                        let mut values = Vec::new();
                        let max = partial.values_max;
                        heaviest(&mut totals, take, max, kind, texts, &mut values);
                        Exact::Values(values)
                    }
                    Cell::Recent(values) => {
                        Exact::Values(values.into_iter().map(|(_, word)| word).collect())
                    }
                });
            }
        }
    }
    out
}

/// Features with more distinct values than are kept, each with how many are.
pub(super) fn estimated(
    state: &UserState,
    layout: &StateLayout,
    as_of: AsOf,
    texts: &TextsView<'_>,
) -> Vec<(usize, usize)> {
    let partials = || layout.streams.iter().flat_map(|s| &s.partials);
    let most = |cell: &Cell| match cell {
        Cell::Set(words) => words.len(),
        Cell::Tally(totals) => totals.len(),
        Cell::Number(_) | Cell::Recent(_) => 0,
    };
    let tiles = state.settled().map_or(&[][..], |s| &s.tiles);
    let settled: usize = tiles.iter().flat_map(|t| &t.cells).map(|(_, cell)| most(cell)).sum();
    let sampled = |p: &Partial| matches!(p.kind, PartialKind::CountDistinct | PartialKind::Tally);
    let Some(least) = partials().filter(|p| sampled(p)).map(|p| p.values_max).min() else {
        return Vec::new();
    };
    if state.rows(layout).count() + settled <= least {
        return Vec::new();
    }
    let cells = cells(state, layout, as_of, texts);
    let mut found = Vec::new();
    for partial in partials() {
        for (feature, _) in &partial.features {
            if cells[*feature].as_ref().is_some_and(|cell| most(cell) > partial.values_max) {
                found.push((*feature, partial.values_max));
            }
        }
    }
    found.sort_unstable();
    found
}

fn cells(
    state: &UserState,
    layout: &StateLayout,
    as_of: AsOf,
    texts: &TextsView<'_>,
) -> Vec<Option<Cell>> {
    let mut out = vec![None; layout.listed.len()];
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
