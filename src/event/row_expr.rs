//! Row expressions over a batch of source columns, as 64-bit words.
//!
//! In: columns of a batch. Out: for each row a word of the wanted kind, and whether it is valid.
//! An expression that reads one text column is computed once for each distinct text, not for each
//! row; a column as it is, is not copied.
//! Invariant: no I/O; a row that cannot be computed is NULL and counted.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMillisecondType,
    UInt64Type,
};

use super::Batch;
use super::column::{Column, Validity, Values};
use super::dictionary::Dictionary;
use super::inputs::{Inputs, Planned, Reads};
use super::parse::canonical;
use crate::catalog::model::TypedExpr;
use crate::rule::safe::NotExecutable;
use crate::user::layout::{ValueKind, hash64};
use crate::user::texts::Texts;

/// Words, and which of them are valid.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) words: Vec<u64>,
    pub(super) valid: Vec<bool>,
    /// Rows that could not be computed.
    failed: u64,
}

impl Words {
    fn clear(&mut self) {
        self.words.clear();
        self.valid.clear();
    }
}

/// The words of a dictionary's codes.
#[derive(Debug)]
pub(super) struct ByCode {
    /// The text column.
    pub(super) column: usize,
    known: Words,
    generation: u64,
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
    /// A text column as it is (codes of the state's texts, or hashes), or an expression over it.
    ByCode(ByCode, Option<Planned>),
    /// Several inputs.
    Rows { reads: Vec<usize>, planned: Planned, words: Words },
}

/// An expression's words for a batch.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    /// A column as it is.
    Column(&'a Column),
    /// Codes by row, words by code.
    ByCode(&'a [u32], &'a Words),
    /// Words by row.
    Rows(&'a Words),
}

impl RowExpr {
    /// Plans an expression of the stream whose inputs these are.
    pub(super) fn new(
        expr: &TypedExpr,
        kind: ValueKind,
        inputs: &Inputs,
        columns: &[Column],
    ) -> Result<Self, NotExecutable> {
        let by_code = |column| ByCode { column, known: Words::default(), generation: u64::MAX };
        if let datafusion_expr::Expr::Column(column) = &expr.expr
            && let Some(at) = inputs.column(&column.name)
        {
            let is_text = matches!(columns[at].values, Values::Text(..));
            let way = if is_text { Way::ByCode(by_code(at), None) } else { Way::Column(at) };
            return Ok(Self { kind, way });
        }
        let way = match inputs.reads(expr, columns) {
            Reads::OneText(column, inlined) => {
                Way::ByCode(by_code(column), Some(inputs.plan_text(&inlined)?))
            }
            Reads::Inputs(reads) => {
                Way::Rows { planned: inputs.plan(expr, &reads)?, reads, words: Words::default() }
            }
        };
        Ok(Self { kind, way })
    }

    /// The text column for each of whose codes there is one word.
    pub(super) fn text_column(&self) -> Option<usize> {
        match &self.way {
            Way::ByCode(by_code, _) => Some(by_code.column),
            _ => None,
        }
    }

    /// Computes what the batch in `columns` needs. Returns for how many rows it could not be done.
    pub(super) fn prepare(&mut self, batch: &Batch<'_>, inputs: &mut Inputs, texts: &Texts) -> u64 {
        match &mut self.way {
            Way::Column(_) => 0,
            Way::ByCode(by_code, planned) => {
                let Values::Text(_, dictionary) = &batch.columns[by_code.column].values else {
                    return 0;
                };
                by_code.learn(dictionary, planned.as_ref(), self.kind, texts);
                0
            }
            Way::Rows { reads, planned, words } => {
                words.clear();
                let arrays = inputs.arrays(reads, batch.columns, batch.rows);
                let (array, failed) = planned.evaluate(arrays, batch.rows);
                array_words(&array, self.kind, texts, words);
                failed + std::mem::take(&mut words.failed)
            }
        }
    }

    /// The words of the batch that was prepared.
    pub(super) fn view<'a>(&'a self, columns: &'a [Column]) -> View<'a> {
        match &self.way {
            Way::Column(at) => View::Column(&columns[*at]),
            Way::ByCode(by_code, _) => match &columns[by_code.column].values {
                Values::Text(codes, _) => View::ByCode(codes, &by_code.known),
                _ => View::ByCode(&[], &by_code.known),
            },
            Way::Rows { words, .. } => View::Rows(words),
        }
    }

    /// Words by code, of an expression over one text column.
    pub(super) fn known(&self) -> Option<&Words> {
        match &self.way {
            Way::ByCode(by_code, _) => Some(&by_code.known),
            _ => None,
        }
    }
}

impl ByCode {
    /// Computes the words of codes that are new since the last batch.
    fn learn(
        &mut self,
        dictionary: &Dictionary,
        planned: Option<&Planned>,
        kind: ValueKind,
        texts: &Texts,
    ) {
        if self.generation != dictionary.generation {
            self.known.clear();
            self.generation = dictionary.generation;
        }
        let from = self.known.words.len();
        if from == dictionary.len() {
            return;
        }
        if let Some(planned) = planned {
            let (array, _) = planned.of_texts(dictionary, from);
            array_words(&array, kind, texts, &mut self.known);
            return;
        }
        for code in from..dictionary.len() {
            let text = dictionary.text(code).unwrap_or("");
            self.known.valid.push(code != 0);
            self.known.words.push(match kind {
                ValueKind::Hash => hash64(text.as_bytes()),
                _ if code == 0 => 0,
                _ => u64::from(texts.intern(text)),
            });
        }
    }
}

impl View<'_> {
    /// Gives `put` the word of each of these rows, and whether it is valid, beside the next of `to`.
    #[inline]
    pub(super) fn each<T>(
        self,
        rows: Range<usize>,
        to: impl Iterator<Item = T>,
        put: impl FnMut(T, u64, bool),
    ) {
        match self {
            Self::Column(column) => each_of_column(column, rows, to, put),
            Self::ByCode(codes, known) => {
                let words = codes.get(rows).unwrap_or_default().iter().map(|code| {
                    let code = *code as usize;
                    (known.words[code], known.valid[code])
                });
                give(words, to, put);
            }
            Self::Rows(words) => {
                let valid = words.valid.get(rows.clone()).unwrap_or_default();
                let words = words.words.get(rows).unwrap_or_default();
                give(words.iter().copied().zip(valid.iter().copied()), to, put);
            }
        }
    }
}

#[inline]
fn give<T>(
    words: impl Iterator<Item = (u64, bool)>,
    to: impl Iterator<Item = T>,
    mut put: impl FnMut(T, u64, bool),
) {
    to.zip(words).for_each(|(to, (word, valid))| put(to, word, valid));
}

#[inline]
fn each_of_column<T>(
    column: &Column,
    rows: Range<usize>,
    to: impl Iterator<Item = T>,
    put: impl FnMut(T, u64, bool),
) {
    let valid = &column.valid;
    match &column.values {
        Values::U64(v) | Values::Hash(v) => each_of(v, |x| *x, valid, rows, to, put),
        Values::I64(v) => each_of(v, |x| x.cast_unsigned(), valid, rows, to, put),
        Values::F64(v) => each_of(v, |x| x.to_bits(), valid, rows, to, put),
        Values::Bool(v) => each_of(v, |x| u64::from(*x), valid, rows, to, put),
        Values::Date(v) => each_of(v, |x| u64::from(x.cast_unsigned()), valid, rows, to, put),
        Values::Plain(v) => each_of(v, |x| hash64(x.as_bytes()), valid, rows, to, put),
        // Texts are looked up by code, and nobody reads the unread.
        Values::Text(..) | Values::Unread => {}
    }
}

#[inline]
fn each_of<V, T>(
    values: &[V],
    word: impl Fn(&V) -> u64,
    valid: &Validity,
    rows: Range<usize>,
    to: impl Iterator<Item = T>,
    put: impl FnMut(T, u64, bool),
) {
    let words = values.get(rows.clone()).unwrap_or_default().iter().map(word);
    if valid.is_all() {
        give(words.map(|word| (word, true)), to, put);
    } else {
        give(words.zip(rows.map(|row| valid.holds(row))), to, put);
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
            words.extend(values.iter().map(|v| canonical(*v).to_bits()));
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
