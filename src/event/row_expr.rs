//! Row expressions over a batch of source columns, as 64-bit words.
//!
//! In: columns of a batch. Out: for each row a word of the wanted kind, and whether it is valid.
//! An expression that reads one text column is computed once for each distinct text, not for each
//! row. Invariant: no I/O; a row that cannot be computed is NULL and counted.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMillisecondType,
    UInt64Type,
};

use super::column::{Column, Dictionary, Values};
use super::inputs::{Inputs, Planned, Reads};
use crate::catalog::model::TypedExpr;
use crate::rule::safe::NotExecutable;
use crate::user::layout::{ValueKind, hash64};
use crate::user::texts::Texts;

/// Words of one expression for the rows of a batch.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) words: Vec<u64>,
    pub(super) valid: Vec<bool>,
    /// Rows that could not be computed.
    pub(super) failed: u64,
}

/// An expression ready for batches of one source.
#[derive(Debug)]
pub(super) struct RowExpr {
    kind: ValueKind,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A column as it is.
    Column(usize),
    /// One text column: words by code.
    ByCode { column: usize, planned: Planned, known: Words, generation: u64 },
    /// A text column as it is: codes of the state's texts, or hashes, by code.
    TextByCode { column: usize, known: Vec<u64>, generation: u64 },
    /// Several inputs.
    Rows { reads: Vec<usize>, planned: Planned },
}

impl RowExpr {
    /// Plans an expression of the stream whose inputs these are.
    pub(super) fn new(
        expr: &TypedExpr,
        kind: ValueKind,
        inputs: &Inputs,
        columns: &[Column],
    ) -> Result<Self, NotExecutable> {
        if let datafusion_expr::Expr::Column(column) = &expr.expr
            && let Some(at) = inputs.column(&column.name)
        {
            let way = if matches!(columns[at].values, Values::Text(..)) {
                Way::TextByCode { column: at, known: Vec::new(), generation: u64::MAX }
            } else {
                Way::Column(at)
            };
            return Ok(Self { kind, way });
        }
        let way = match inputs.reads(expr, columns) {
            Reads::OneText(column, inlined) => Way::ByCode {
                column,
                planned: inputs.plan_text(&inlined)?,
                known: Words::default(),
                generation: u64::MAX,
            },
            Reads::Inputs(reads) => Way::Rows { planned: inputs.plan(expr, &reads)?, reads },
        };
        Ok(Self { kind, way })
    }

    /// Words for all rows of the batch in `columns`.
    pub(super) fn words(
        &mut self,
        columns: &[Column],
        rows: usize,
        inputs: &mut Inputs,
        texts: &Texts,
        out: &mut Words,
    ) {
        out.words.clear();
        out.valid.clear();
        match &mut self.way {
            Way::Column(at) => column_words(&columns[*at], out),
            Way::TextByCode { column, known, generation } => {
                let Values::Text(codes, dictionary) = &columns[*column].values else { return };
                if *generation != dictionary.generation {
                    known.clear();
                    *generation = dictionary.generation;
                }
                for code in known.len()..dictionary.len() {
                    let text = dictionary.text(code).unwrap_or("");
                    known.push(match self.kind {
                        ValueKind::Hash => hash64(text.as_bytes()),
                        _ if code == 0 => 0,
                        _ => u64::from(texts.intern(text)),
                    });
                }
                out.words.extend(codes.iter().map(|c| known[*c as usize]));
                out.valid.extend(codes.iter().map(|c| *c != 0));
            }
            Way::ByCode { column, planned, known, generation } => {
                let Values::Text(codes, dictionary) = &columns[*column].values else { return };
                if *generation != dictionary.generation {
                    *known = Words::default();
                    *generation = dictionary.generation;
                }
                learn(planned, dictionary, self.kind, texts, known);
                out.words.extend(codes.iter().map(|c| known.words[*c as usize]));
                out.valid.extend(codes.iter().map(|c| known.valid[*c as usize]));
            }
            Way::Rows { reads, planned } => {
                let arrays = inputs.arrays(reads, columns, rows);
                let (array, failed) = planned.evaluate(arrays, rows);
                out.failed += failed;
                array_words(&array, self.kind, texts, out);
            }
        }
    }
}

/// Computes the words of codes that are new since the last batch.
fn learn(
    planned: &Planned,
    dictionary: &Dictionary,
    kind: ValueKind,
    texts: &Texts,
    known: &mut Words,
) {
    let from = known.words.len();
    if from < dictionary.len() {
        let (array, failed) = planned.of_texts(dictionary, from);
        known.failed += failed;
        array_words(&array, kind, texts, known);
    }
}

/// Appends the words of a source column.
fn column_words(column: &Column, out: &mut Words) {
    out.valid.extend_from_slice(&column.valid);
    match &column.values {
        Values::U64(v) | Values::Hash(v) => out.words.extend_from_slice(v),
        Values::I64(v) => out.words.extend(v.iter().map(|x| x.cast_unsigned())),
        Values::F64(v) => out.words.extend(v.iter().map(|x| x.to_bits())),
        Values::Bool(v) => out.words.extend(v.iter().map(|x| u64::from(*x))),
        Values::Date(v) => out.words.extend(v.iter().map(|x| u64::from(x.cast_unsigned()))),
        Values::Plain(v) => out.words.extend(v.iter().map(|x| hash64(x.as_bytes()))),
        Values::Text(..) => {}
    }
}

/// Appends the words of an array; NULL rows get 0.
fn array_words(array: &ArrayRef, kind: ValueKind, texts: &Texts, out: &mut Words) {
    let rows = array.len();
    out.valid.extend((0..rows).map(|i| array.is_valid(i)));
    let words = &mut out.words;
    let known = match (kind, array.data_type()) {
        (_, DataType::Int64) => {
            let values = array.as_primitive::<Int64Type>().values();
            words.extend(values.iter().map(|v| v.cast_unsigned()));
            true
        }
        (_, DataType::UInt64) => {
            words.extend_from_slice(array.as_primitive::<UInt64Type>().values());
            true
        }
        (_, DataType::Float64) => {
            let values = array.as_primitive::<Float64Type>().values();
            words.extend(values.iter().map(|v| canonical_float(*v)));
            true
        }
        (_, DataType::Decimal128(..)) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            for (at, value) in values.iter().enumerate() {
                let fits = i64::try_from(*value);
                if fits.is_err() {
                    let row = out.valid.len() - rows + at;
                    out.failed += u64::from(out.valid[row]);
                    out.valid[row] = false;
                }
                words.push(fits.unwrap_or(0).cast_unsigned());
            }
            true
        }
        (_, DataType::Timestamp(..)) => {
            let values = array.as_primitive::<TimestampMillisecondType>().values();
            words.extend(values.iter().map(|v| v.cast_unsigned()));
            true
        }
        (_, DataType::Date32) => {
            let values = array.as_primitive::<Date32Type>().values();
            words.extend(values.iter().map(|v| u64::from(v.cast_unsigned())));
            true
        }
        (_, DataType::Boolean) => {
            let values = array.as_boolean();
            words.extend((0..rows).map(|i| u64::from(values.value(i))));
            true
        }
        (ValueKind::Hash, DataType::Utf8) => {
            let values = array.as_string::<i32>();
            words.extend((0..rows).map(|i| hash64(values.value(i).as_bytes())));
            true
        }
        (_, DataType::Utf8) => {
            let values = array.as_string::<i32>();
            words.extend(values.iter().map(|v| v.map_or(0, |t| u64::from(texts.intern(t)))));
            true
        }
        _ => false,
    };
    if !known {
        words.resize(words.len() + rows, 0);
        let from = out.valid.len() - rows;
        out.valid[from..].fill(false);
    }
}

fn canonical_float(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}
