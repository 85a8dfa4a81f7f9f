//! Events as a source writes them.

use serde_json::{Map, Value, json};

use crate::meaning::Event;
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

/// An event as a JSON line.
pub fn line(spec: &Spec, event: &Event) -> String {
    let mut row = Map::new();
    row.insert("id".into(), json!(format!("e{}", event.id)));
    row.insert("who".into(), uid(spec, event.user));
    row.insert("at".into(), json!(event.at_ms));
    for (cell, expr) in event.cells.iter().zip(RowExpr::ALL) {
        let value = match cell {
            // NULL is written, or left out.
            None if event.id.is_multiple_of(2) => continue,
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
        };
        row.insert(expr.sql().into(), value);
    }
    if event.broken {
        let wrongs = [("n", json!("5")), ("at", json!(null)), ("b", json!(1))];
        let (key, value) = &wrongs[event.id as usize % wrongs.len()];
        row.insert((*key).into(), value.clone());
    }
    let mut text = Value::Object(row).to_string();
    if let Some(Val::Dec(v)) = event.cells[1] {
        let sign = if v < 0 { "-" } else { "" };
        let digits = format!("{sign}{}.{:02}", v.abs() / 100, v.abs() % 100);
        text = text.replace(&format!("\"#{v}#\""), &digits);
    }
    text + "\n"
}
