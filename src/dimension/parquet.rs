//! Dimension tables as Parquet.
//!
//! In: a file. Out: its rows, to the [`Sink`]. Invariant: one batch at a time in memory; no value
//! is rounded or truncated on the way.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, TimeUnit, TimestampMillisecondType,
};
use arrow::error::ArrowError;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::cell::{Cell, float_bits, parse};
use super::load::{LoadError, Positions, Progress, Sink, bad_cell};
use super::spec::{TableSpec, type_name};
use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::clock::Zone;

const BATCH_ROWS: usize = 4096;

pub(super) fn read(
    path: &Path,
    spec: &TableSpec,
    zone: &Zone,
    sink: &mut Sink<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let format = |reason: String| LoadError::Format { path: path.to_owned(), reason };
    let unreadable = |e: String| format(format!("{e}; is it Parquet?"));
    let file = File::open(path).map_err(io)?;
    let bytes_total = file.metadata().map_err(io)?.len();
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(e.to_string()))?;
    let rows_total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let schema = builder.schema();
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let positions = sink.positions(&names)?;
    let wanted = positions.columns.iter().copied().chain([positions.key]);
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    let mut line = 1;
    for batch in reader.map_err(|e| unreadable(e.to_string()))? {
        let batch = batch.map_err(|e| unreadable(e.to_string()))?;
        line = rows(&batch, line, spec, zone, &positions, &names, sink, &format)?;
        let bytes = match rows_total {
            0 => bytes_total,
            total => {
                u64::try_from(u128::from(bytes_total) * u128::from(sink.rows()) / u128::from(total))
                    .unwrap_or(bytes_total)
            }
        };
        progress(Progress { bytes, bytes_total, rows: sink.rows() });
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one step of `read`, which owns all of this")]
fn rows(
    batch: &RecordBatch,
    first_line: u64,
    spec: &TableSpec,
    zone: &Zone,
    positions: &Positions,
    names: &[String],
    sink: &mut Sink<'_>,
    format: &dyn Fn(String) -> LoadError,
) -> Result<u64, LoadError> {
    let open = Opener { batch, names, zone, format };
    let key_name = &names[positions.key];
    let key = open.column(positions.key, &spec.key)?;
    let columns = positions.columns.iter().zip(&spec.columns);
    let columns: Vec<Reader<'_>> =
        columns.map(|(at, (_, kind))| open.column(*at, kind)).collect::<Result<_, _>>()?;
    let mut line = first_line;
    let mut cells = Vec::with_capacity(columns.len());
    for row in 0..batch.num_rows() {
        cells.clear();
        let mut wrong = None;
        for (reader, (name, _)) in columns.iter().zip(&spec.columns) {
            match reader.cell(row) {
                Ok(cell) => cells.push(cell),
                Err(why) => {
                    wrong = Some((name, why));
                    break;
                }
            }
        }
        match (key.cell(row), wrong) {
            (Err(why), _) => sink.reject(line, Some(key_name), why)?,
            (_, Some((name, why))) => sink.reject(line, Some(name), why)?,
            (Ok(key), None) => sink.row(line, key_name, &key, &cells)?,
        }
        line += 1;
    }
    Ok(line)
}

/// What it takes to open a batch's columns.
struct Opener<'a> {
    batch: &'a RecordBatch,
    names: &'a [String],
    zone: &'a Zone,
    format: &'a dyn Fn(String) -> LoadError,
}

impl<'a> Opener<'a> {
    fn column(&self, at: usize, kind: &'a ColumnType) -> Result<Reader<'a>, LoadError> {
        let name = &self.names[at];
        // The projection keeps the file's order, not ours.
        let array = self.batch.column_by_name(name);
        let array = array.ok_or_else(|| (self.format)(format!("no column `{name}`")))?;
        Reader::new(array, kind, self.zone)
            .map_err(|why| (self.format)(format!("column `{name}` {why}")))
    }
}

/// A column of a batch, brought to one of few shapes.
struct Reader<'a> {
    array: ArrayRef,
    shape: Shape,
    kind: &'a ColumnType,
    zone: &'a Zone,
}

enum Shape {
    /// Text, parsed like a CSV cell.
    Text,
    /// Whole numbers and decimals with this scale, as `Decimal128(38, scale)`.
    Exact(i8),
    Float,
    Bool,
    Day,
    /// Milliseconds since the epoch.
    Instant,
    /// Milliseconds of a local time.
    LocalTime,
}

impl<'a> Reader<'a> {
    fn new(array: &ArrayRef, kind: &'a ColumnType, zone: &'a Zone) -> Result<Self, String> {
        use ColumnType as To;
        use DataType as From;
        let from = array.data_type();
        let millis = |zone| DataType::Timestamp(TimeUnit::Millisecond, zone);
        let text = || (DataType::Utf8, Shape::Text);
        let (target, shape) = match (from, kind) {
            (From::Utf8 | From::LargeUtf8 | From::Utf8View, _) => text(),
            (From::Dictionary(_, value), _) if **value == From::Utf8 => text(),
            (From::Null, _) => text(),
            (_, To::U64 | To::Int | To::Decimal { .. } | To::Timestamp(_)) if from.is_integer() => {
                (DataType::Decimal128(38, 0), Shape::Exact(0))
            }
            (From::Decimal128(_, scale), To::Decimal { .. }) => {
                (DataType::Decimal128(38, *scale), Shape::Exact(*scale))
            }
            (_, To::Float) if from.is_numeric() => (DataType::Float64, Shape::Float),
            (From::Boolean, To::Bool) => (DataType::Boolean, Shape::Bool),
            (From::Date32, To::Date) => (DataType::Date32, Shape::Day),
            (From::Timestamp(_, Some(zone)), To::Timestamp(_)) => {
                (millis(Some(zone.clone())), Shape::Instant)
            }
            (From::Timestamp(_, None), To::Timestamp(_)) => (millis(None), Shape::LocalTime),
            _ => {
                let want = type_name(kind);
                return Err(format!(
                    "is {from} in the file, the catalogue says {want}; write it as {want} or as text"
                ));
            }
        };
        let array = cast(array, &target).map_err(|e: ArrowError| e.to_string())?;
        Ok(Self { array, shape, kind, zone })
    }

    fn cell(&self, row: usize) -> Result<Cell<'_>, String> {
        if self.array.is_null(row) {
            return Ok(Cell::Null);
        }
        let bits = match self.shape {
            Shape::Text => {
                let text = self.array.as_string::<i32>().value(row);
                return parse(self.kind, self.zone, text).map_err(|what| bad_cell(text, &what));
            }
            Shape::Exact(scale) => {
                let value = self.array.as_primitive::<Decimal128Type>().value(row);
                exact(value, scale, self.kind)
                    .ok_or_else(|| bad_cell(&shown(value, scale), &unfit(self.kind)))?
            }
            Shape::Float => {
                let value = self.array.as_primitive::<Float64Type>().value(row);
                if !value.is_finite() {
                    return Err(bad_cell(&value.to_string(), "is no finite number"));
                }
                float_bits(value)
            }
            Shape::Bool => i64::from(self.array.as_boolean().value(row)),
            Shape::Day => i64::from(self.array.as_primitive::<Date32Type>().value(row)),
            Shape::Instant => self.array.as_primitive::<TimestampMillisecondType>().value(row),
            Shape::LocalTime => {
                let local = self.array.as_primitive::<TimestampMillisecondType>().value(row);
                let beyond = || bad_cell(&local.to_string(), "lies beyond the years -9999 to 9999");
                let at = Timestamp::from_millisecond(local).map_err(|_| beyond())?;
                let at = TimeZone::UTC.to_datetime(at);
                let at = self.zone.tz().to_ambiguous_timestamp(at).compatible();
                at.map_err(|_| beyond())?.as_millisecond()
            }
        };
        Ok(Cell::Bits(bits))
    }
}

fn shown(value: i128, scale: i8) -> String {
    if scale == 0 { value.to_string() } else { format!("{value}e-{scale}") }
}

fn unfit(kind: &ColumnType) -> String {
    format!("does not fit {}", type_name(kind))
}

/// An exact number as 64 bits of the wanted type; `None`: it does not fit without rounding.
fn exact(value: i128, scale: i8, kind: &ColumnType) -> Option<i64> {
    match kind {
        ColumnType::U64 => u64::try_from(value).ok().map(u64::cast_signed),
        ColumnType::Int => i64::try_from(value).ok(),
        ColumnType::Decimal { precision, scale: to } => {
            let shift = i32::from(*to) - i32::from(scale);
            let factor = 10i128.checked_pow(shift.unsigned_abs())?;
            let mantissa = if shift >= 0 {
                value.checked_mul(factor)?
            } else if value % factor == 0 {
                value / factor
            } else {
                return None;
            };
            let bound = 10i128.checked_pow(u32::from(*precision))?;
            (mantissa.abs() < bound).then(|| i64::try_from(mantissa).ok()).flatten()
        }
        ColumnType::Timestamp(TimestampFormat::Seconds) => {
            i64::try_from(value.checked_mul(1000)?).ok()
        }
        ColumnType::Timestamp(TimestampFormat::Millis) => i64::try_from(value).ok(),
        ColumnType::Timestamp(TimestampFormat::Micros) => {
            i64::try_from(value.div_euclid(1000)).ok()
        }
        _ => None,
    }
}
