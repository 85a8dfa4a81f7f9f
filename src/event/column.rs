//! Source columns while a batch is being read: typed values, one vector a column.
//!
//! In: cells as JSON values or text. Out: values with validity, and what was wrong with which row.
//! Texts become codes of a dictionary that the decoder keeps from batch to batch.
//! Invariant: no I/O; a bad cell never panics and never stops the batch.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};

use super::dictionary::Dictionary;
use super::parse::{self, Cell};
use super::reject::Reason;
use crate::catalog::model::{ColumnType, TimestampFormat};
use crate::clock::Zone;
use crate::user::layout::hash64;

/// The values read so far.
#[derive(Debug)]
pub(super) enum Values {
    U64(Vec<u64>),
    /// Int, decimal mantissa, or epoch milliseconds.
    I64(Vec<i64>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Date(Vec<i32>),
    /// Codes of the dictionary.
    Text(Vec<u32>, Dictionary),
    /// 64-bit hashes of texts that are only compared.
    Hash(Vec<u64>),
    /// Texts of which most differ.
    Plain(Vec<Box<str>>),
    /// Texts that nobody reads: that they are texts is all that counts.
    Unread,
}

/// How texts of a column are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextUse {
    /// In expressions.
    Dictionary,
    /// Compared by hash only.
    Hash,
    /// As uid.
    Plain,
    /// Not at all.
    Unread,
}

/// Which rows have a value. Costs next to nothing while all have.
#[derive(Debug, Default)]
pub(super) struct Validity {
    /// Empty as long as there was no NULL, else one a row.
    rows: Vec<bool>,
}

impl Validity {
    /// Whether every row has a value.
    #[inline]
    pub(super) fn is_all(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether a row has a value.
    #[inline]
    pub(super) fn holds(&self, row: usize) -> bool {
        self.rows.get(row).is_none_or(|valid| *valid)
    }

    #[inline]
    fn push_valid(&mut self) {
        if !self.rows.is_empty() {
            self.rows.push(true);
        }
    }

    fn push_null(&mut self, rows_before: usize) {
        self.rows.resize(rows_before, true);
        self.rows.push(false);
    }
}

/// One source column.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name in the source.
    pub(super) from: String,
    pub(super) kind: ColumnType,
    pub(super) values: Values,
    pub(super) valid: Validity,
    rows: usize,
    /// Rows whose cell could not be read, ascending.
    pub(super) errors: Vec<(u32, Reason)>,
    /// The member of the source's object that it stands in: the row as it was before a change.
    pub(super) member: Option<String>,
    /// Rows that do not mention a column with a member, ascending.
    pub(super) absent: Vec<u32>,
    /// A member of the envelope, and not a column of the row.
    pub(super) envelope: bool,
    /// Values are read by their text, as in a CSV, whatever kind of JSON they are.
    pub(super) by_text: bool,
    /// Strings are base64 of a decimal's unscaled value, with so many digits behind the point.
    pub(super) bytes_scale: Option<u32>,
}

impl Column {
    pub(super) fn new(from: &str, kind: &ColumnType, text_use: TextUse) -> Self {
        let values = match (kind, text_use) {
            (ColumnType::U64, _) => Values::U64(Vec::new()),
            (ColumnType::Float, _) => Values::F64(Vec::new()),
            (ColumnType::Bool, _) => Values::Bool(Vec::new()),
            (ColumnType::Date, _) => Values::Date(Vec::new()),
            (ColumnType::String, TextUse::Dictionary) => {
                Values::Text(Vec::new(), Dictionary::default())
            }
            (ColumnType::String, TextUse::Hash) => Values::Hash(Vec::new()),
            (ColumnType::String, TextUse::Plain) => Values::Plain(Vec::new()),
            (ColumnType::String, TextUse::Unread) => Values::Unread,
            _ => Values::I64(Vec::new()),
        };
        let (from, kind) = (from.to_owned(), kind.clone());
        let (valid, errors, absent) = (Validity::default(), Vec::new(), Vec::new());
        let (envelope, by_text, bytes_scale) = (false, false, None);
        Self {
            from,
            kind,
            values,
            valid,
            rows: 0,
            errors,
            member: None,
            absent,
            envelope,
            by_text,
            bytes_scale,
        }
    }

    /// The same of a stream of envelopes: `envelope`, see the field.
    #[must_use]
    pub(super) fn of_changes(mut self, envelope: bool) -> Self {
        (self.envelope, self.by_text) = (envelope, true);
        self
    }

    /// The same in a member of the source's object.
    #[must_use]
    pub(super) fn within(mut self, member: Option<&str>) -> Self {
        self.member = member.map(str::to_owned);
        self
    }

    /// Its name in the header of a CSV.
    pub(super) fn in_header(&self) -> std::borrow::Cow<'_, str> {
        match &self.member {
            Some(member) => format!("{member}.{}", self.from).into(),
            None => self.from.as_str().into(),
        }
    }

    /// Forgets the rows.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.valid.rows.clear();
        self.errors.clear();
        self.absent.clear();
        match &mut self.values {
            Values::U64(v) | Values::Hash(v) => v.clear(),
            Values::I64(v) => v.clear(),
            Values::F64(v) => v.clear(),
            Values::Bool(v) => v.clear(),
            Values::Date(v) => v.clear(),
            Values::Text(v, dictionary) => {
                v.clear();
                dictionary.start_over_if_full();
            }
            Values::Plain(v) => v.clear(),
            Values::Unread => {}
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Counts a row whose value was appended to `values`.
    #[inline]
    pub(super) fn note_value(&mut self) {
        self.rows += 1;
        self.valid.push_valid();
    }

    /// Appends a cell.
    #[inline]
    pub(super) fn push(&mut self, cell: Cell<'_>, zone: &Zone) {
        let stored = match (&mut self.values, cell) {
            (_, Cell::Null) => Err(None),
            (Values::Text(v, dictionary), Cell::Text(t) | Cell::Csv(t)) => {
                v.push(dictionary.code(t.as_bytes()));
                Ok(())
            }
            (Values::Hash(v), Cell::Text(t) | Cell::Csv(t)) => {
                v.push(hash64(t.as_bytes()));
                Ok(())
            }
            (Values::Plain(v), Cell::Text(t) | Cell::Csv(t)) => {
                v.push(t.into());
                Ok(())
            }
            (Values::Unread, Cell::Text(_) | Cell::Csv(_)) => Ok(()),
            (Values::U64(v), cell) => parse::u64(cell).map(|x| v.push(x)).map_err(Some),
            (Values::F64(v), cell) => parse::f64(cell).map(|x| v.push(x)).map_err(Some),
            (Values::Bool(v), cell) => parse::bool(cell).map(|x| v.push(x)).map_err(Some),
            (Values::Date(v), cell) => parse::date(cell).map(|x| v.push(x)).map_err(Some),
            (Values::I64(v), cell) => {
                let parsed = match &self.kind {
                    ColumnType::Decimal { precision, scale } => {
                        parse::decimal(cell, *precision, *scale)
                    }
                    ColumnType::Timestamp(format) => parse::timestamp(cell, format, zone),
                    _ => parse::i64(cell),
                };
                parsed.map(|x| v.push(x)).map_err(Some)
            }
            (Values::Text(..) | Values::Hash(_) | Values::Plain(_) | Values::Unread, _) => {
                Err(Some(Reason::Type))
            }
        };
        match stored {
            Ok(()) => self.note_value(),
            Err(Some(reason)) => self.push_error(reason),
            Err(None) => self.push_null(),
        }
    }

    /// Appends what the source has in the column's own form: an int, a decimal's mantissa, epoch
    /// milliseconds or a day.
    #[inline]
    pub(super) fn push_i64(&mut self, read: Result<i64, Reason>) {
        let stored = read.and_then(|value| match &mut self.values {
            Values::I64(v) => {
                v.push(value);
                Ok(())
            }
            Values::Date(v) => {
                i32::try_from(value).map(|day| v.push(day)).map_err(|_| Reason::Range)
            }
            _ => Err(Reason::Type),
        });
        match stored {
            Ok(()) => self.note_value(),
            Err(reason) => self.push_error(reason),
        }
    }

    /// What to say of a cell that could not be read: the column, and what helps.
    pub(super) fn explain(&self, reason: Reason, name: &str) -> String {
        match reason {
            Reason::BeforeMissing => {
                format!("{name}: the database did not log this value: REPLICA IDENTITY FULL")
            }
            Reason::Type if self.by_text && matches!(self.kind, ColumnType::Decimal { .. }) => {
                format!(
                    "{name}: not a number; Debezium's decimals as bytes can be read only beside \
                     their schema: set decimal.handling.mode=string"
                )
            }
            _ => name.to_owned(),
        }
    }

    /// Appends NULL for a cell that cannot be used.
    pub(super) fn push_error(&mut self, reason: Reason) {
        let row = u32::try_from(self.rows).unwrap_or(u32::MAX);
        self.errors.push((row, reason));
        self.push_null();
    }

    /// Appends NULL.
    pub(super) fn push_null(&mut self) {
        self.valid.push_null(self.rows);
        self.rows += 1;
        match &mut self.values {
            Values::U64(v) | Values::Hash(v) => v.push(0),
            Values::I64(v) => v.push(0),
            Values::F64(v) => v.push(0.0),
            Values::Bool(v) => v.push(false),
            Values::Date(v) => v.push(0),
            Values::Text(v, _) => v.push(0),
            Values::Plain(v) => v.push("".into()),
            Values::Unread => {}
        }
    }

    /// Appends NULL for a row that does not mention the column.
    pub(super) fn push_absent(&mut self) {
        if self.member.is_some() {
            self.absent.push(u32::try_from(self.rows).unwrap_or(u32::MAX));
        }
        self.push_null();
    }

    /// Drops rows from `rows` on (a row that turned out to be broken).
    pub(super) fn truncate(&mut self, rows: usize) {
        if self.rows <= rows {
            return;
        }
        self.rows = rows;
        self.valid.rows.truncate(rows);
        while self.errors.last().is_some_and(|e| e.0 as usize >= rows) {
            self.errors.pop();
        }
        while self.absent.last().is_some_and(|row| *row as usize >= rows) {
            self.absent.pop();
        }
        match &mut self.values {
            Values::U64(v) | Values::Hash(v) => v.truncate(rows),
            Values::I64(v) => v.truncate(rows),
            Values::F64(v) => v.truncate(rows),
            Values::Bool(v) => v.truncate(rows),
            Values::Date(v) => v.truncate(rows),
            Values::Text(v, _) => v.truncate(rows),
            Values::Plain(v) => v.truncate(rows),
            Values::Unread => {}
        }
    }

    /// The rows as an Arrow array, texts as plain `Utf8`.
    pub(super) fn array(&self, zone: &Zone) -> ArrayRef {
        let nulls = (!self.valid.is_all()).then(|| {
            NullBuffer::new(BooleanBuffer::collect_bool(self.rows, |i| self.valid.holds(i)))
        });
        match &self.values {
            Values::U64(v) => Arc::new(UInt64Array::new(v.clone().into(), nulls)),
            Values::I64(v) => match &self.kind {
                ColumnType::Decimal { precision, scale } => {
                    let wide: Vec<i128> = v.iter().map(|x| i128::from(*x)).collect();
                    let array = Decimal128Array::new(wide.into(), nulls);
                    let data_type = arrow::datatypes::DataType::Decimal128(*precision, *scale);
                    Arc::new(array.with_data_type(data_type))
                }
                ColumnType::Timestamp(_) => {
                    let array = TimestampMillisecondArray::new(v.clone().into(), nulls);
                    Arc::new(array.with_timezone(zone.name()))
                }
                _ => Arc::new(Int64Array::new(v.clone().into(), nulls)),
            },
            Values::F64(v) => Arc::new(Float64Array::new(v.clone().into(), nulls)),
            Values::Bool(v) => {
                let bits = BooleanBuffer::collect_bool(v.len(), |i| v[i]);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Date(v) => Arc::new(Date32Array::new(v.clone().into(), nulls)),
            Values::Text(v, dictionary) => {
                let texts = v.iter().map(|c| dictionary.text(*c as usize));
                Arc::new(texts.collect::<StringArray>())
            }
            Values::Plain(v) => {
                let texts = v.iter().enumerate();
                let texts = texts.map(|(at, t)| self.valid.holds(at).then_some(&**t));
                Arc::new(texts.collect::<StringArray>())
            }
            // Only expressions ask for arrays, and a column that is at most hashed is in none.
            Values::Hash(_) | Values::Unread => {
                arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, self.rows)
            }
        }
    }
}

/// Whether instants of this format are text in JSON.
pub(super) fn timestamp_is_text(format: &TimestampFormat) -> bool {
    match format {
        TimestampFormat::Iso | TimestampFormat::Pattern(_) => true,
        TimestampFormat::Utc(format) | TimestampFormat::WallClock(format) => {
            timestamp_is_text(format)
        }
        TimestampFormat::Seconds | TimestampFormat::Millis | TimestampFormat::Micros => false,
    }
}
