//! Values of open-domain tags as bytes.
//!
//! In: one Arrow array an open tag. Out: for each user one packed list, equal exactly when the
//! values are equal; and back. The bytes are postcard over `Vec<Option<OpenValue>>`.
//! Invariant: no I/O.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type,
    TimestampMillisecondType, UInt64Type,
};
use datafusion_common::ScalarValue;
use serde::{Deserialize, Serialize};

/// The value of an open tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OpenValue {
    /// A whole number.
    Int(i64),
    /// An unsigned whole number.
    U64(u64),
    /// The bits of a float.
    Float(u64),
    /// Mantissa and scale.
    Decimal(i128, i8),
    /// Text.
    Text(String),
    /// Days since 1970-01-01.
    Date(i32),
    /// Epoch milliseconds.
    Timestamp(i64),
    /// A boolean.
    Bool(bool),
    /// A list; `None`: NULL.
    List(Vec<Option<OpenValue>>),
}

impl OpenValue {
    /// The value at a row; `None` for NULL or a type no tag has.
    pub fn at(array: &ArrayRef, row: usize) -> Option<Self> {
        if array.is_null(row) {
            return None;
        }
        Some(match array.data_type() {
            DataType::Int64 => Self::Int(array.as_primitive::<Int64Type>().value(row)),
            DataType::Int32 => Self::Int(array.as_primitive::<Int32Type>().value(row).into()),
            DataType::UInt64 => Self::U64(array.as_primitive::<UInt64Type>().value(row)),
            DataType::Float64 => {
                let value = array.as_primitive::<Float64Type>().value(row);
                Self::Float(if value == 0.0 { 0 } else { value.to_bits() })
            }
            DataType::Decimal128(_, scale) => {
                Self::Decimal(array.as_primitive::<Decimal128Type>().value(row), *scale)
            }
            DataType::Utf8 => Self::Text(array.as_string::<i32>().value(row).to_owned()),
            DataType::Dictionary(..) => {
                let dictionary = array.as_dictionary::<Int32Type>();
                let key = dictionary.key(row)?;
                Self::Text(dictionary.values().as_string::<i32>().value(key).to_owned())
            }
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>().value(row)),
            DataType::Timestamp(..) => {
                Self::Timestamp(array.as_primitive::<TimestampMillisecondType>().value(row))
            }
            DataType::Boolean => Self::Bool(array.as_boolean().value(row)),
            DataType::List(_) => {
                let items = array.as_list::<i32>().value(row);
                Self::List((0..items.len()).map(|at| Self::at(&items, at)).collect())
            }
            _ => return None,
        })
    }

    /// As people and other readers see it.
    pub fn label(&self) -> String {
        match self {
            Self::Int(v) => v.to_string(),
            Self::U64(v) => v.to_string(),
            Self::Float(bits) => f64::from_bits(*bits).to_string(),
            Self::Decimal(mantissa, scale) => decimal_text(*mantissa, *scale),
            Self::Text(v) => v.clone(),
            Self::Date(day) => jiff::civil::date(1970, 1, 1)
                .checked_add(jiff::Span::new().days(i64::from(*day)))
                .map_or_else(|_| day.to_string(), |d| d.to_string()),
            Self::Timestamp(ms) => jiff::Timestamp::from_millisecond(*ms)
                .map_or_else(|_| ms.to_string(), |t| t.to_string()),
            Self::Bool(v) => v.to_string(),
            Self::List(items) => {
                let json = |item: &Option<Self>| item.as_ref().map_or("null".into(), Self::json);
                format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(","))
            }
        }
    }

    /// As JSON: numbers keep all their digits.
    pub fn json(&self) -> String {
        let plain = match self {
            Self::Float(bits) => f64::from_bits(*bits).is_finite(),
            Self::Text(_) | Self::Date(_) | Self::Timestamp(_) => false,
            _ => true,
        };
        let label = self.label();
        if plain { label } else { serde_json::Value::String(label).to_string() }
    }

    /// As a value of a type; `None`: it is of another.
    fn scalar(&self, data_type: &DataType) -> Option<ScalarValue> {
        let scalar = match self {
            Self::Int(v) => ScalarValue::Int64(Some(*v)),
            Self::U64(v) => ScalarValue::UInt64(Some(*v)),
            Self::Float(bits) => ScalarValue::Float64(Some(f64::from_bits(*bits))),
            Self::Decimal(v, s) => ScalarValue::Decimal128(Some(*v), 38, *s),
            Self::Text(v) => ScalarValue::Utf8(Some(v.clone())),
            Self::Date(v) => ScalarValue::Date32(Some(*v)),
            Self::Timestamp(v) => ScalarValue::TimestampMillisecond(Some(*v), Some("UTC".into())),
            Self::Bool(v) => ScalarValue::Boolean(Some(*v)),
            Self::List(items) => {
                let DataType::List(item) = data_type else { return None };
                let array = array(item.data_type(), items);
                let offsets = OffsetBuffer::from_lengths([array.len()]);
                let list = ListArray::try_new(Arc::clone(item), offsets, array, None).ok()?;
                return Some(ScalarValue::List(Arc::new(list)));
            }
        };
        scalar.cast_to(data_type).ok()
    }
}

/// A decimal as digits with point.
pub fn decimal_text(mantissa: i128, scale: i8) -> String {
    let Ok(scale) = usize::try_from(scale) else { return format!("{mantissa}e{}", -scale) };
    if scale == 0 {
        return mantissa.to_string();
    }
    let digits = format!("{:0>width$}", mantissa.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if mantissa < 0 { "-" } else { "" };
    format!("{sign}{whole}.{fraction}")
}

/// Packs one user's open values into `out` (cleared first).
pub fn pack(arrays: &[ArrayRef], row: usize, out: &mut Vec<u8>) {
    out.clear();
    if !arrays.is_empty() {
        *out = postcard::to_extend(&Row { arrays, row }, std::mem::take(out))
            .expect("plain data into a growing buffer always fits");
    }
}

/// One user's open values, written like a `Vec<Option<OpenValue>>`.
struct Row<'a> {
    arrays: &'a [ArrayRef],
    row: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.arrays.iter().map(|a| OpenValue::at(a, self.row)))
    }
}

/// Reads packed values; a damaged record gives none.
pub fn unpack(bytes: &[u8]) -> Vec<Option<OpenValue>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// An array of a tag's values; a value of another type (the rule changed since) is NULL.
pub fn array(data_type: &DataType, values: &[Option<OpenValue>]) -> ArrayRef {
    let null = || ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null);
    let scalar = |value: &Option<OpenValue>| value.as_ref().and_then(|v| v.scalar(data_type));
    let scalars = values.iter().map(|v| scalar(v).unwrap_or_else(null));
    ScalarValue::iter_to_array(scalars)
        .unwrap_or_else(|_| arrow::array::new_null_array(data_type, values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_shown_as_json_and_comes_back_from_bytes() {
        let text = |t: &str| Some(OpenValue::Text(t.to_owned()));
        let lists = [
            (DataType::Utf8, vec![text("a, \"b\""), None], r#"["a, \"b\"",null]"#),
            (DataType::Int64, vec![Some(OpenValue::Int(-3))], "[-3]"),
            (DataType::Decimal128(18, 2), vec![Some(OpenValue::Decimal(150, 2))], "[1.50]"),
            (DataType::Date32, vec![Some(OpenValue::Date(0))], r#"["1970-01-01"]"#),
            (DataType::Boolean, vec![], "[]"),
        ];
        for (item, values, shown) in lists {
            let list = OpenValue::List(values);
            assert_eq!(list.label(), shown);
            let array = array(&DataType::new_list(item, true), &[Some(list.clone()), None]);
            let mut bytes = Vec::new();
            pack(std::slice::from_ref(&array), 0, &mut bytes);
            assert_eq!(unpack(&bytes), [Some(list)]);
            pack(&[array], 1, &mut bytes);
            assert_eq!(unpack(&bytes), [None]);
        }
    }
}
