//! Row expressions over a batch of source columns, as 64-bit words.
//!
//! In: columns of a batch. Out: for each row a word of the wanted kind, and whether it is valid.
//! An expression that reads one text column is computed once for each distinct text, not for each
//! row. Invariant: no I/O; a row that cannot be computed is NULL and counted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef,
    TimestampMillisecondType, UInt64Type,
};

use super::column::{Column, Dictionary, Values};
use crate::catalog::model::TypedExpr;
use crate::clock::Zone;
use crate::rule::safe::{NotExecutable, SafeExpr};
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
    ByCode { column: usize, expr: SafeExpr, schema: SchemaRef, known: Words, generation: u64 },
    /// A text column as it is: codes of the state's texts, or hashes, by code.
    TextByCode { column: usize, known: Vec<u64>, generation: u64 },
    /// Several columns.
    Rows { columns: Vec<usize>, expr: SafeExpr, schema: SchemaRef },
}

/// The name under which a stream's expressions know each source column, by position.
pub(super) type Names<'a> = &'a [(String, usize)];

impl RowExpr {
    /// `names`: the stream's column names and the source column behind each.
    pub(super) fn new(
        expr: &TypedExpr,
        kind: ValueKind,
        names: Names<'_>,
        columns: &[Column],
        zone: &Zone,
    ) -> Result<Self, NotExecutable> {
        let find = |name: &str| names.iter().find(|n| n.0 == name).map(|n| n.1);
        let is_text = |at: usize| matches!(columns[at].values, Values::Text(..));
        if let datafusion_expr::Expr::Column(column) = &expr.expr {
            if let Some(at) = find(&column.name) {
                let way = if is_text(at) {
                    Way::TextByCode { column: at, known: Vec::new(), generation: u64::MAX }
                } else {
                    Way::Column(at)
                };
                return Ok(Self { kind, way });
            }
        }
        let read: Vec<(String, usize)> =
            expr.columns.iter().filter_map(|c| find(c).map(|at| (c.clone(), at))).collect();
        let fields = read.iter().map(|(name, at)| {
            Field::new(name, columns[*at].kind.data_type(zone), true)
        });
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let safe = SafeExpr::new(expr, &schema)?;
        let way = match read.as_slice() {
            [(_, at)] if is_text(*at) => Way::ByCode {
                column: *at,
                expr: safe,
                schema,
                known: Words::default(),
                generation: u64::MAX,
            },
            _ => Way::Rows { columns: read.iter().map(|r| r.1).collect(), expr: safe, schema },
        };
        Ok(Self { kind, way })
    }

    /// Words for all rows of the batch in `columns`.
    pub(super) fn words(
        &mut self,
        columns: &[Column],
        rows: usize,
        zone: &Zone,
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
            Way::ByCode { column, expr, schema, known, generation } => {
                let Values::Text(codes, dictionary) = &columns[*column].values else { return };
                if *generation != dictionary.generation {
                    *known = Words::default();
                    *generation = dictionary.generation;
                }
                learn(expr, schema, dictionary, self.kind, texts, known);
                out.words.extend(codes.iter().map(|c| known.words[*c as usize]));
                out.valid.extend(codes.iter().map(|c| known.valid[*c as usize]));
            }
            Way::Rows { columns: read, expr, schema } => {
                let arrays = read.iter().map(|at| columns[*at].array(zone)).collect();
                let evaluated = evaluate(expr, schema, arrays, rows);
                out.failed += evaluated.1;
                array_words(&evaluated.0, self.kind, texts, out);
            }
        }
    }
}

fn evaluate(
    expr: &SafeExpr,
    schema: &SchemaRef,
    arrays: Vec<ArrayRef>,
    rows: usize,
) -> (ArrayRef, u64) {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    match RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options) {
        Ok(batch) => {
            let evaluated = expr.evaluate(&batch);
            (evaluated.array, evaluated.failed_rows)
        }
        // The schema was made from these columns; were it not, NULL is the honest answer.
        Err(_) => (arrow::array::new_null_array(&DataType::Boolean, rows), rows as u64),
    }
}

/// Computes the words of codes that are new since the last batch.
fn learn(
    expr: &SafeExpr,
    schema: &SchemaRef,
    dictionary: &Dictionary,
    kind: ValueKind,
    texts: &Texts,
    known: &mut Words,
) {
    let from = known.words.len();
    if from == dictionary.len() {
        return;
    }
    let new: StringArray = (from..dictionary.len()).map(|code| dictionary.text(code)).collect();
    let rows = new.len();
    let (array, failed) = evaluate(expr, schema, vec![Arc::new(new)], rows);
    known.failed += failed;
    array_words(&array, kind, texts, known);
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
