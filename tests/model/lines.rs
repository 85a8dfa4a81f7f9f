//! Events as a source writes them.

use serde_json::{Map, Value, json};

use crate::meaning::{Change, Event};
use crate::spec::{RowExpr, Spec, Val, date_text};

fn uid(spec: &Spec, user: usize) -> Value {
    if spec.string_uid {
        json!(["anna", "b'o", "ü", "Ünder", "a"][user])
    } else {
        json!([7u64, 0, u64::MAX, 1 << 63, 12_345][user])
    }
}

pub fn uid_text(spec: &Spec, user: usize) -> String {
    match uid(spec, user) {
        Value::String(text) => text,
        number => number.to_string(),
    }
}

/// A uid as a table's key has it.
pub fn uid_value(spec: &Spec, user: usize) -> Val {
    match uid(spec, user) {
        Value::String(text) => Val::Str(text),
        number => Val::U64(number.as_u64().expect("a uid")),
    }
}

/// The columns of an event. `nulls`: each NULL is written; else some are left out.
fn columns(spec: &Spec, event: &Event, nulls: bool) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".into(), json!(format!("e{}", event.id)));
    row.insert("who".into(), uid(spec, event.user));
    row.insert("at".into(), json!(event.at_ms));
    for (cell, expr) in event.cells.iter().zip(RowExpr::ALL) {
        let value = match cell {
            // NULL is written, or left out.
            None if event.id.is_multiple_of(2) && !nulls => continue,
            None => Value::Null,
            Some(Val::Int(v)) => json!(v),
            Some(Val::U64(v)) => json!(v),
            // Replaced below: a JSON float would round.
            Some(Val::Dec(v)) => json!(format!("#{v}#")),
            Some(Val::Float(v)) => json!(v),
            Some(Val::Str(v)) => json!(v),
            Some(Val::Bool(v)) => json!(v),
            Some(Val::Date(v)) => json!(date_text(*v)),
            Some(Val::Time(v)) => json!(v),
            Some(Val::List(_)) => unreachable!("columns are no lists"),
        };
        row.insert(expr.sql().into(), value);
    }
    row
}

/// What a change says besides the row as it is. A deletion has the row as it was in `before`, or as
/// its own columns.
fn changed(spec: &Spec, event: &Event, change: &Change) -> Map<String, Value> {
    let mut row = columns(spec, event, true);
    let flat = change.version % 2 == 0;
    if change.op == 'd' && !flat {
        row = Map::from_iter([("before".into(), Value::Object(row))]);
    }
    if let Some(before) = &change.before {
        row.insert("before".into(), Value::Object(columns(spec, before, true)));
    } else if flat {
        row.insert("before".into(), Value::Null);
    }
    row.insert("op".into(), json!(change.op));
    row.insert("v".into(), json!(change.version));
    row
}

/// An event as a JSON line.
pub fn line(spec: &Spec, event: &Event) -> String {
    let mut row = match &event.change {
        Some(change) => changed(spec, event, change),
        None => columns(spec, event, false),
    };
    if event.broken {
        let wrongs = [("n", json!("5")), ("at", json!(null)), ("b", json!(1))];
        let (key, value) = &wrongs[event.id as usize % wrongs.len()];
        row.insert((*key).into(), value.clone());
    }
    let mut text = Value::Object(row).to_string();
    let before = event.change.as_ref().and_then(|change| change.before.as_deref());
    for cell in [Some(event), before].into_iter().flatten().map(|event| &event.cells[1]) {
        let Some(Val::Dec(v)) = cell else { continue };
        let sign = if *v < 0 { "-" } else { "" };
        let digits = format!("{sign}{}.{:02}", v.abs() / 100, v.abs() % 100);
        text = text.replace(&format!("\"#{v}#\""), &digits);
    }
    text + "\n"
}
