//! Rows of a columnar file become events.
//!
//! In: Arrow batches with the types that a file declares. Out: source columns with the types that the
//! catalogue declares, by which rows are decoded as those of other formats are.
//! Invariant: no I/O; nothing is rounded or guessed: a value that does not fit refuses its row, and a
//! type that cannot be read refuses the file.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::column::{Column, timestamp_is_text};
use super::parse::{self, Cell};
use super::reject::{Reason, Shown, shown};
use super::{Decoded, Decoder, DecoderError, RowPlace, masked, similar};
use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::catalog::type_text;
use crate::clock::Zone;

const DAY_MS: i64 = 86_400_000;

/// How a file's values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// There are none.
    Nothing,
    /// UTF-8, parsed like a cell of a CSV.
    Text,
    /// Bytes that have to be UTF-8.
    Bytes,
    Whole,
    /// Decimals with this scale.
    Exact(i8),
    Float,
    Bool,
    Day,
    Instant(TimeUnit),
    /// Local time, as a calendar and a clock on a wall show it.
    Local(TimeUnit),
}

/// How values of a file's type become those of a column; none: they cannot.
fn way(from: &DataType, kind: &ColumnType) -> Option<Way> {
    use ColumnType as To;
    use DataType as From;
    Some(match (from, kind) {
        (From::Dictionary(_, value), _) => return way(value, kind),
        (From::Null, _) => Way::Nothing,
        (From::Utf8 | From::LargeUtf8 | From::Utf8View, _) => Way::Text,
        (From::Binary | From::LargeBinary | From::BinaryView, _) => Way::Bytes,
        (_, To::U64 | To::Int | To::Decimal { .. } | To::Float) if from.is_integer() => Way::Whole,
        (_, To::Timestamp(format)) if from.is_integer() && !timestamp_is_text(format) => Way::Whole,
        (
            From::Decimal32(_, scale) | From::Decimal64(_, scale) | From::Decimal128(_, scale),
            To::U64 | To::Int | To::Decimal { .. } | To::Float,
        ) => Way::Exact(*scale),
        (_, To::Float | To::Decimal { .. }) if from.is_floating() => Way::Float,
        (From::Boolean, To::Bool) => Way::Bool,
        (From::Date32 | From::Date64, To::Date | To::Timestamp(_)) => Way::Day,
        (From::Timestamp(unit, Some(_)), To::Timestamp(_)) => Way::Instant(*unit),
        (From::Timestamp(unit, None), To::Timestamp(_)) => Way::Local(*unit),
        _ => return None,
    })
}

/// What a catalogue would have to say of a file's type.
fn declared_as(from: &DataType) -> Option<String> {
    Some(match from {
        DataType::Dictionary(_, value) => return declared_as(value),
        DataType::UInt64 => "u64".to_owned(),
        _ if from.is_integer() => "int".to_owned(),
        _ if from.is_floating() => "float".to_owned(),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => {
            format!("decimal({p},{s})")
        }
        DataType::Boolean => "bool".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp(iso)".to_owned(),
        _ => return None,
    })
}

impl Decoder {
    /// Finds the columns among those of a file. A missing optional column reads as NULL.
    pub fn schema(&mut self, schema: &Schema, required: &[String]) -> Result<(), DecoderError> {
        self.envelopes = None;
        for column in &self.columns {
            let name = column.in_header();
            let Some(from) = type_of(column, schema) else {
                if column.member.is_some() || !required.contains(&column.from) {
                    continue;
                }
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return Err(DecoderError::NotInFile {
                    source_name: self.source.clone(),
                    column: name.into_owned(),
                    hint: similar(&column.from, names.iter().copied()),
                    columns: names.join(", "),
                });
            };
            if way(from, &column.kind).is_none() {
                let wanted = type_text(&column.kind);
                let declare = declared_as(from).map(|kind| format!(", or declare it as `{kind}`"));
                return Err(DecoderError::FileType {
                    source_name: self.source.clone(),
                    column: name.into_owned(),
                    is: from.to_string(),
                    remedy: format!(
                        "{wanted}: write it as {wanted}{}",
                        declare.unwrap_or_default()
                    ),
                });
            }
        }
        Ok(())
    }

    /// The names of the file's columns that are read, where it has them.
    pub fn roots(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let members = self.columns.iter().filter_map(|c| c.member.as_deref());
        self.columns.iter().map(Column::in_header).chain(members.map(Cow::from))
    }

    /// Decodes a batch of a file whose [`Decoder::schema`] was found. `first`: how many rows stand
    /// before it in the file.
    pub fn batch(&mut self, batch: &RecordBatch, first: u64, latest_ms: Option<i64>) -> Decoded {
        self.clear();
        let rows = batch.num_rows();
        for column in &mut self.columns {
            read(column, batch, &self.zone);
        }
        let places = (first..).zip(0..rows);
        let places = places.map(|(offset, at)| RowPlace::line(offset + 1, offset, at, at + 1));
        self.places.extend(places);
        let mut decoded = Decoded { rows: rows as u64, ..Decoded::default() };
        self.finish(latest_ms, &mut decoded, |place, masks| shown_row(batch, place.start, masks));
        decoded
    }
}

/// The type of a column in a file. Members stand in a column that is a struct, or, as in a CSV, in
/// columns like `before.name`.
fn type_of<'s>(column: &Column, schema: &'s Schema) -> Option<&'s DataType> {
    let find = |name: &str| schema.column_with_name(name).map(|(_, field)| field.data_type());
    if let Some(found) = find(&column.in_header()) {
        return Some(found);
    }
    match find(column.member.as_deref()?)? {
        DataType::Struct(fields) => fields.find(&column.from).map(|(_, field)| field.data_type()),
        _ => None,
    }
}

/// A column's values in a batch, and which of them are NULL.
fn values_of(column: &Column, batch: &RecordBatch) -> Option<(ArrayRef, Option<NullBuffer>)> {
    if let Some(array) = batch.column_by_name(&column.in_header()) {
        return Some((Arc::clone(array), array.logical_nulls()));
    }
    let whole: &StructArray = batch.column_by_name(column.member.as_deref()?)?.as_struct_opt()?;
    let array = whole.column_by_name(&column.from)?;
    let nulls = NullBuffer::union(whole.nulls(), array.logical_nulls().as_ref());
    Some((Arc::clone(array), nulls))
}

/// Fills a column with the values of a batch.
fn read(column: &mut Column, batch: &RecordBatch, zone: &Zone) {
    let rows = batch.num_rows();
    let Some((array, nulls)) = values_of(column, batch) else {
        return (0..rows).for_each(|_| column.push_absent());
    };
    let way = way(array.data_type(), &column.kind);
    let shaped = way.and_then(|way| Some((way, shaped(&array, way)?)));
    let Some((way, array)) = shaped else {
        // The file's schema was looked at before: it does not come to this.
        return (0..rows).for_each(|_| column.push_error(Reason::Type));
    };
    let mut put: Put<'_> = match way {
        Way::Nothing => Box::new(|column, _| column.push_null()),
        Way::Text => text(&array, zone),
        Way::Bytes => bytes(&array, zone),
        Way::Whole => whole(&array, zone),
        Way::Exact(scale) => exact(&array, scale, zone),
        Way::Float => float(&array, zone),
        Way::Bool => {
            let values = array.as_boolean();
            Box::new(|column, row| column.push(Cell::Bool(values.value(row)), zone))
        }
        Way::Day => day(&array, local_zone(&column.kind, zone)),
        Way::Instant(unit) if is_wall_clock(&column.kind) => instant(&array, unit, Some(zone)),
        Way::Instant(unit) => instant(&array, unit, None),
        Way::Local(unit) => instant(&array, unit, Some(local_zone(&column.kind, zone))),
    };
    for row in 0..rows {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            column.push_null();
        } else {
            put(column, row);
        }
    }
}

type Put<'a> = Box<dyn FnMut(&mut Column, usize) + 'a>;

/// Whether what looks like an instant is a local time in the catalogue's zone.
fn is_wall_clock(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::Timestamp(TimestampFormat::WallClock(_)))
}

/// The zone of what has none.
fn local_zone<'z>(kind: &ColumnType, zone: &'z Zone) -> &'z Zone {
    match kind {
        ColumnType::Timestamp(TimestampFormat::Utc(_)) => Zone::utc(),
        _ => zone,
    }
}

/// The array in one of few shapes; nothing is copied where it has it already.
fn shaped(array: &ArrayRef, way: Way) -> Option<ArrayRef> {
    let plain = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let shape = match way {
        Way::Nothing => return Some(Arc::clone(array)),
        Way::Text => DataType::Utf8View,
        Way::Bytes => DataType::BinaryView,
        Way::Whole if *plain == DataType::UInt64 => DataType::UInt64,
        Way::Whole => DataType::Int64,
        Way::Exact(_) if matches!(plain, DataType::Decimal128(..)) => plain.clone(),
        Way::Exact(scale) => DataType::Decimal128(38, scale),
        // Its shortest text is that of a number of half the digits.
        Way::Float if *plain == DataType::Float64 => DataType::Float64,
        Way::Float => DataType::Float32,
        Way::Bool => DataType::Boolean,
        Way::Day => DataType::Date32,
        Way::Instant(_) | Way::Local(_) => plain.clone(),
    };
    if *array.data_type() == shape {
        return Some(Arc::clone(array));
    }
    cast(array, &shape).ok()
}

/// Texts, read as a CSV's cells are: of other types than text an empty one is NULL.
fn text<'a>(array: &'a ArrayRef, zone: &'a Zone) -> Put<'a> {
    let values = array.as_string_view();
    Box::new(move |column, row| push_text(column, values.value(row), zone))
}

fn bytes<'a>(array: &'a ArrayRef, zone: &'a Zone) -> Put<'a> {
    let values = array.as_binary_view();
    Box::new(move |column, row| match std::str::from_utf8(values.value(row)) {
        Ok(text) => push_text(column, text, zone),
        Err(_) => column.push_error(Reason::Type),
    })
}

#[inline]
fn push_text(column: &mut Column, text: &str, zone: &Zone) {
    if text.is_empty() && column.kind != ColumnType::String {
        column.push_null();
    } else {
        column.push(Cell::Csv(text), zone);
    }
}

fn whole<'a>(array: &'a ArrayRef, zone: &'a Zone) -> Put<'a> {
    if let Some(values) = array.as_primitive_opt::<UInt64Type>() {
        return Box::new(move |column, row| {
            push_whole(column, i128::from(values.value(row)), zone);
        });
    }
    let values = array.as_primitive::<Int64Type>();
    Box::new(move |column, row| push_whole(column, i128::from(values.value(row)), zone))
}

#[inline]
fn push_whole(column: &mut Column, value: i128, zone: &Zone) {
    if let ColumnType::Decimal { precision, scale } = column.kind {
        return column.push_i64(mantissa(value, 0, precision, scale));
    }
    let cell = u64::try_from(value).map(Cell::Unsigned);
    let cell = cell.or_else(|_| i64::try_from(value).map(Cell::Signed));
    match cell {
        Ok(cell) => column.push(cell, zone),
        Err(_) => column.push_error(Reason::Range),
    }
}

/// Decimals. A float is the one nearest to their digits.
fn exact<'a>(array: &'a ArrayRef, from: i8, zone: &'a Zone) -> Put<'a> {
    let values = array.as_primitive::<Decimal128Type>();
    let mut text = String::new();
    Box::new(move |column, row| {
        let value = values.value(row);
        match column.kind {
            ColumnType::Decimal { precision, scale } => {
                column.push_i64(mantissa(value, from, precision, scale));
            }
            ColumnType::Float => {
                push_number(column, &mut text, format_args!("{value}e{}", -i32::from(from)), zone);
            }
            _ => match rescaled(value, from, 0) {
                Ok(value) => push_whole(column, value, zone),
                Err(reason) => column.push_error(reason),
            },
        }
    })
}

/// Appends a number as it would stand in a CSV or JSON.
fn push_number(column: &mut Column, text: &mut String, number: fmt::Arguments<'_>, zone: &Zone) {
    text.clear();
    match text.write_fmt(number) {
        Ok(()) => column.push(Cell::Number(text), zone),
        Err(_) => column.push_error(Reason::Type),
    }
}

/// A number at another scale. More decimals than that, zeros aside, are refused.
fn rescaled(mut value: i128, from: i8, to: i8) -> Result<i128, Reason> {
    let mut shift = i32::from(to) - i32::from(from);
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(Reason::Range)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(Reason::Scale);
        }
        value /= 10;
        shift += 1;
    }
    Ok(value)
}

fn mantissa(value: i128, from: i8, precision: u8, scale: i8) -> Result<i64, Reason> {
    let value = rescaled(value, from, scale)?;
    let fits = value.unsigned_abs() < 10u128.pow(u32::from(precision));
    i64::try_from(value).ok().filter(|_| fits).ok_or(Reason::Range)
}

/// A float for a decimal is what its shortest text says, as a CSV or JSON of it would.
fn float<'a>(array: &'a ArrayRef, zone: &'a Zone) -> Put<'a> {
    let mut text = String::new();
    if let Some(values) = array.as_primitive_opt::<Float64Type>() {
        return Box::new(move |column, row| {
            let value = values.value(row);
            match column.kind {
                ColumnType::Float => column.push(Cell::Float(value), zone),
                _ => push_number(column, &mut text, format_args!("{value}"), zone),
            }
        });
    }
    let values = array.as_primitive::<Float32Type>();
    Box::new(move |column, row| {
        let value = values.value(row);
        match column.kind {
            ColumnType::Float => column.push(Cell::Float(f64::from(value)), zone),
            _ => push_number(column, &mut text, format_args!("{value}"), zone),
        }
    })
}

/// Dates; for instants the local midnight at which they begin.
fn day<'a>(array: &'a ArrayRef, zone: &'a Zone) -> Put<'a> {
    let values = array.as_primitive::<Date32Type>();
    Box::new(move |column, row| {
        let day = values.value(row);
        let midnight_ms = i64::from(day) * DAY_MS;
        let read = match column.kind {
            ColumnType::Date => Timestamp::from_millisecond(midnight_ms).map(|_| i64::from(day)),
            _ => return column.push_i64(from_local(midnight_ms, zone)),
        };
        column.push_i64(read.map_err(|_| Reason::Range));
    })
}

/// Instants. `local`: the zone in which they are local times.
fn instant<'a>(array: &'a ArrayRef, unit: TimeUnit, local: Option<&'a Zone>) -> Put<'a> {
    let values = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    };
    let millis = move |value: i64| {
        let (value, format) = match unit {
            TimeUnit::Second => (value, TimestampFormat::Seconds),
            TimeUnit::Millisecond => (value, TimestampFormat::Millis),
            TimeUnit::Microsecond => (value, TimestampFormat::Micros),
            TimeUnit::Nanosecond => (value.div_euclid(1_000), TimestampFormat::Micros),
        };
        parse::instant_ms(value, &format)
    };
    Box::new(move |column, row| {
        let read = millis(values[row]);
        column.push_i64(match local {
            None => read,
            Some(zone) => read.and_then(|ms| from_local(ms, zone)),
        });
    })
}

/// The instant at which clocks on the wall show this, which is given as if they did in UTC.
fn from_local(local_ms: i64, zone: &Zone) -> Result<i64, Reason> {
    let local = Timestamp::from_millisecond(local_ms).map_err(|_| Reason::Range)?;
    parse::in_zone(TimeZone::UTC.to_datetime(local), zone)
}

/// A row as JSON, masked columns hidden.
fn shown_row(batch: &RecordBatch, row: usize, masks: &[String]) -> Shown {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let members = columns.map(|(field, array)| (field.name().clone(), shown_value(array, row)));
    let object = masked(members.collect(), masks);
    shown(Value::Object(object).to_string().as_bytes(), false)
}

fn shown_value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    if let Some(whole) = array.as_struct_opt() {
        let columns = whole.fields().iter().zip(whole.columns());
        return columns.map(|(f, array)| (f.name().clone(), shown_value(array, row))).collect();
    }
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(array, &options).map(|f| f.value(row).to_string());
    let text = text.unwrap_or_default();
    let is_plain = array.data_type().is_numeric() || *array.data_type() == DataType::Boolean;
    let plain = is_plain.then(|| serde_json::from_str(&text).ok()).flatten();
    plain.unwrap_or(Value::String(text))
}

#[cfg(test)]
#[path = "columnar/tests.rs"]
mod tests;
