//! JSON lines into columns by serde_json: the definition of what is read and what is refused.
//!
//! In: one line. Out: one cell pushed to every column, or the reason why the line is broken (then
//! the columns are as before). Exactly one object, UTF-8, a number in quotes is text. Of a repeated
//! key the last counts.
//! Invariant: no I/O; nothing is built for keys nobody reads.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Key, Keys};
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::event::column::Column;
use crate::event::parse::Cell;

/// Reads one line. On error the columns keep the rows they had.
pub(in crate::event) fn read_line(
    line: &[u8],
    columns: &mut [Column],
    keys: &mut Keys,
    zone: &Zone,
) -> Result<(), String> {
    let rows = columns.first().map_or(0, Column::len);
    let mut json = serde_json::Deserializer::from_slice(line);
    let read = (&mut json).deserialize_map(RowVisitor { columns, keys, zone, rows });
    let read = read.and_then(|()| json.end());
    if let Err(error) = read {
        for column in columns.iter_mut() {
            column.truncate(rows);
        }
        return Err(error.to_string());
    }
    for column in columns.iter_mut() {
        if column.len() == rows {
            column.push_absent();
        }
    }
    Ok(())
}

struct RowVisitor<'a> {
    columns: &'a mut [Column],
    keys: &'a mut Keys,
    zone: &'a Zone,
    rows: usize,
}

impl<'de> Visitor<'de> for RowVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { columns, keys, zone, rows } = self;
        // Index into `next`: 0 is the start of the object, i + 1 follows key i.
        let mut after = 0;
        while let Some(key) = map.next_key_seed(KeySeed { keys, after })? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            after = key + 1;
            let Key { columns: targets, members, .. } = &mut keys.keys[key];
            if let Some(members) = members {
                let raw: &RawValue = map.next_value()?;
                read_raw(raw, targets, columns, (rows, zone)).map_err(serde::de::Error::custom)?;
                read_member(raw, members, columns, (rows, zone))
                    .map_err(serde::de::Error::custom)?;
            } else if targets.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else if let [one] = targets.as_slice() {
                let column = &mut columns[*one];
                column.truncate(rows);
                map.next_value_seed(CellSeed { column, zone })?;
            } else {
                let raw: &RawValue = map.next_value()?;
                read_raw(raw, targets, columns, (rows, zone)).map_err(serde::de::Error::custom)?;
            }
        }
        Ok(())
    }
}

/// Reads one value into several columns.
fn read_raw(
    raw: &RawValue,
    targets: &[usize],
    columns: &mut [Column],
    (rows, zone): (usize, &Zone),
) -> Result<(), serde_json::Error> {
    for target in targets {
        let column = &mut columns[*target];
        column.truncate(rows);
        let mut json = serde_json::Deserializer::from_str(raw.get());
        CellSeed { column, zone }.deserialize(&mut json)?;
    }
    Ok(())
}

/// Reads an object within the line's. Anything else is as if it were not there.
fn read_member(
    raw: &RawValue,
    keys: &mut Keys,
    columns: &mut [Column],
    (rows, zone): (usize, &Zone),
) -> Result<(), serde_json::Error> {
    let inside = keys.keys.iter().flat_map(|key| &key.columns);
    inside.for_each(|at| columns[*at].truncate(rows));
    if !raw.get().starts_with('{') {
        return Ok(());
    }
    read_object(raw.get(), keys, columns, (rows, zone))
}

/// Reads an object. What it does not mention gets no cell.
pub(in crate::event) fn read_object(
    object: &str,
    keys: &mut Keys,
    columns: &mut [Column],
    (rows, zone): (usize, &Zone),
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(object);
    (&mut json).deserialize_map(RowVisitor { columns, keys, zone, rows })
}

/// Gives the index of a key, `None` for one too many to remember.
pub(in crate::event) struct KeySeed<'a> {
    pub(in crate::event) keys: &'a mut Keys,
    /// Behind which key it stands: see [`Keys::follow`].
    pub(in crate::event) after: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.keys.follow(self.after, key))
    }
}

/// Pushes one value into a column. A value of the wrong type is a NULL with an error, so that the
/// rest of the line is still read.
struct CellSeed<'a> {
    column: &'a mut Column,
    zone: &'a Zone,
}

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.column.by_text {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
            push_by_text(raw, self.column, self.zone);
            return Ok(());
        }
        if matches!(self.column.kind, ColumnType::Decimal { .. }) {
            // A float would round: decimals are read from the digits as written.
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
            let cell = match raw.as_bytes().first() {
                Some(b'-' | b'0'..=b'9') => Cell::Number(raw),
                Some(b'n') => Cell::Null,
                Some(b'"') => Cell::Text(raw),
                _ => Cell::Nested,
            };
            self.column.push(cell, self.zone);
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

/// Pushes a value, given as JSON, by its text.
pub(in crate::event) fn push_by_text(raw: &str, column: &mut Column, zone: &Zone) {
    let cell = match raw.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(raw) {
            Ok(text) => return column.push_text(&text, zone),
            Err(_) => Cell::Nested,
        },
        Some(b'n') | None => Cell::Null,
        Some(b't' | b'f') if column.kind == ColumnType::Bool => Cell::Bool(raw == "true"),
        Some(b'{' | b'[') => Cell::Nested,
        Some(b'-' | b'0'..=b'9') if column.kind == ColumnType::Date => Cell::Number(raw),
        Some(_) => Cell::Csv(raw),
    };
    column.push(cell, zone);
}

impl CellSeed<'_> {
    fn push(self, cell: Cell<'_>) {
        self.column.push(cell, self.zone);
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.push(Cell::Bool(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(Cell::Unsigned(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(Cell::Signed(value));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.push(Cell::Float(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.push(Cell::Text(value));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.push(Cell::Null);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.push(Cell::Nested);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.push(Cell::Nested);
        Ok(())
    }
}
