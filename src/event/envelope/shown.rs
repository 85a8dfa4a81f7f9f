//! Records as rejects keep them.
//!
//! In: a record's bytes and the masked columns. Out: the record as text, masked values replaced; of a
//! record of many rows, the row alone.
//! Invariant: no I/O; what cannot be taken apart is hidden whole where anything is masked.

use serde_json::Value;

use crate::event::reject::{Shown, shown};

/// Members that repeat values of rows without the columns' names: statements and keys.
const REPEATS: [&str; 3] = ["query", "sql", "primary_key"];

/// Members that describe columns, and hold no values.
const DESCRIPTIONS: [&str; 4] = ["schema", "mysqlType", "sqlType", "tableChanges"];

/// Lists with one item a row.
const LISTS: [&str; 2] = ["data", "old"];

/// The record, as far as it is about the row `index` of `rows`.
pub(super) fn shown_record(
    record: &[u8],
    (index, rows): (usize, usize),
    masks: &[String],
) -> Shown {
    if masks.is_empty() && rows <= 1 {
        return shown(record, false);
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(record) else {
        return shown(record, !masks.is_empty());
    };
    if rows > 1 {
        for name in LISTS {
            let Some(list) = value.get_mut(name).and_then(Value::as_array_mut) else { continue };
            let row = (index < list.len()).then(|| list.swap_remove(index));
            list.clear();
            list.extend(row);
        }
    }
    if !masks.is_empty() {
        hide(&mut value, masks);
    }
    shown(value.to_string().as_bytes(), false)
}

fn hide(value: &mut Value, masks: &[String]) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let is_hidden = REPEATS.contains(&name.as_str()) || masks.contains(name);
                if is_hidden && !value.is_null() {
                    *value = "***".into();
                } else if !DESCRIPTIONS.contains(&name.as_str()) {
                    hide(value, masks);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, masks)),
        _ => {}
    }
}
