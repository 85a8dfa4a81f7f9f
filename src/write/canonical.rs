//! A store as text that is equal exactly when two stores are equal (SEMANTICS section 7).
//!
//! In: a store and the instant to read it at. Out: one sorted list of lines: for each user the
//! labels of all tags, the events, and the settled tiles, with texts written out. What may differ
//! between equal stores (fence, version, instants, order of rows, codes of texts, whether an old day
//! has rolled up yet) is not in it.
//! Invariant: writes nothing, reads no clock.

use std::sync::Arc;

use crate::engine::ruleset::Ruleset;
use crate::rule::AsOf;
use crate::store::{Store, Uid, UidKey};
use crate::user::changelog::is_tombstone;
use crate::user::layout::{
    StateLayout, StreamLayout, ValueKind, flag_set, low32, row_day, row_stream, row_time,
    value_word,
};
use crate::user::settled::{Cell, Period, text_code};
use crate::user::snapshot::decode_tags;
use crate::user::state::UserState;
use crate::user::texts::{Texts, TextsView};
use crate::write::profile::{ProfileError, Schemas, labels};

/// Profiles read at once.
const BATCH_USERS: usize = 4_096;

/// All profiles of a store as sorted lines, old days rolled up as of an instant.
///
/// Labels are those that were stored: drain due users up to `as_of_ms` first.
pub fn dump(
    store: &dyn Store,
    ruleset: &Ruleset,
    as_of_ms: i64,
) -> Result<Vec<String>, ProfileError> {
    let catalog = &ruleset.catalog;
    let layout = &ruleset.layout;
    let schemas = Schemas::default();
    let texts = Texts::default();
    let as_of = AsOf { ms: as_of_ms, day: catalog.zone.day_of(as_of_ms) };
    let mut lines = Vec::new();
    let mut after: Option<UidKey> = None;
    loop {
        let rows = store.scan_profiles(after.as_ref(), BATCH_USERS)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (key, bytes) in &rows {
            let tags = decode_tags(bytes)?;
            let schema = schemas.get(tags.head.schema, ruleset, store)?;
            let mut state = tags.state(&schema.layout, layout, &texts)?;
            let view = texts.view();
            state.roll_up(as_of, layout, &view);
            let uid = match Uid::from_key(catalog.uid, key) {
                Ok(uid) => uid.to_string(),
                // Not a key of this store's type: shown as it is, so that it makes a difference.
                Err(_) => format!("{:02x?}", key.as_bytes()),
            };
            let ill = if tags.head.quarantined { " quarantined" } else { "" };
            let closed = if tags.head.closed { " closed" } else { "" };
            lines.push(format!("{uid}{ill}{closed}"));
            let values = schema.open_values(&tags);
            let named = labels(catalog, ruleset, &schema.codes(&tags), &values);
            lines.extend(named.iter().map(|(tag, label)| format!("{uid} tag {tag} = {label:?}")));
            state_lines(&state, layout, &view, |line| lines.push(format!("{uid} {line}")));
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

fn state_lines(
    state: &UserState,
    layout: &Arc<StateLayout>,
    texts: &TextsView<'_>,
    mut each: impl FnMut(String),
) {
    for row in state.rows(layout) {
        each(row_line(row, &layout.streams[row_stream(row[0])], texts));
    }
    for (stream, key) in state.partly().map_or(&[][..], |partly| partly.streams()) {
        each(format!("{} without keys from {key:016x}", layout.streams[usize::from(*stream)].name));
    }
    let Some(settled) = state.settled() else { return };
    if let Some(day) = settled.ids_forgotten_until {
        each(format!("ids forgotten until {day}"));
    }
    for tile in &settled.tiles {
        let stream = &layout.streams[usize::from(tile.stream)];
        let period = match tile.period {
            Period::Lifetime => "lifetime".to_owned(),
            Period::Day(day) => day.to_string(),
            Period::Hop(day, hop) => format!("{day} hop {hop}"),
        };
        for (at, cell) in &tile.cells {
            let partial = &stream.partials[usize::from(*at)];
            let text = partial.value.is_some_and(|v| stream.values[v].kind == ValueKind::Text);
            let print = partial.fingerprint;
            let cell = cell_text(cell, text, texts);
            each(format!("tile {} {period} {print:016x} {cell}", stream.name));
        }
    }
}

fn row_line(row: &[u64], stream: &StreamLayout, texts: &TextsView<'_>) -> String {
    let mut line = String::new();
    if let Some(at) = &stream.changelog {
        line = format!("row {:016x} version {:x} ", row[at.key_word], row[at.version_word]);
        if is_tombstone(row) {
            return format!("{line}of {} is gone", stream.name);
        }
    }
    line += &format!("event {} {} day {}", stream.name, row_time(row[0]), row_day(row[1]));
    if let Some(id) = stream.id_word {
        line.push_str(&format!(" id {:016x}", row[id]));
    }
    for value in &stream.values {
        let word = value_word(row, value);
        line.push_str(&match (flag_set(row, value.null_flag), value.kind) {
            (true, _) => " -".to_owned(),
            (false, ValueKind::Text) => format!(" {:?}", texts.get(low32(word))),
            (false, _) => format!(" {word:x}"),
        });
    }
    line.push(' ');
    line.extend(stream.filters.iter().map(|f| if flag_set(row, f.flag) { '1' } else { '0' }));
    line
}

fn cell_text(cell: &Cell, text: bool, texts: &TextsView<'_>) -> String {
    let word = |word: u64| match text {
        true => texts.get(low32(word)).to_owned(),
        false => format!("{word:x}"),
    };
    match cell {
        Cell::Number(n) if text => format!("{} {:?}", n >> 64, texts.get(text_code(*n))),
        Cell::Number(n) => n.to_string(),
        Cell::Set(words) => {
            let mut values: Vec<String> = words.iter().map(|w| word(*w)).collect();
            values.sort_unstable();
            format!("{values:?}")
        }
        Cell::Tally(totals) => {
            let shown = |(w, weight): &(u64, i128)| format!("{} {weight}", word(*w));
            let mut values: Vec<String> = totals.iter().map(shown).collect();
            values.sort_unstable();
            format!("{values:?}")
        }
        Cell::Recent(values) => {
            let shown = |(time, w): &(i64, u64)| format!("{time} {}", word(*w));
            format!("{:?}", values.iter().map(shown).collect::<Vec<_>>())
        }
    }
}
