//! Text columns as small numbers that stay the same from batch to batch, so that what a rule says
//! about a text is computed once per text and not once per row.
//!
//! In: dictionary arrays. Out: an id per row (0 = NULL) and tables by id.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use hashbrown::HashMap;

use crate::rule::safe::SafeExpr;

/// Texts remembered per column; beyond it the column starts anew.
const TEXTS_MAX: usize = 1 << 16;

/// The texts a column has shown and the tables over them.
#[derive(Debug, Default)]
pub(in crate::rule) struct Coded {
    ids: HashMap<Box<str>, u32>,
    /// Id of each row of the batch.
    pub(in crate::rule) rows: Vec<u32>,
    of_key: Vec<u32>,
    /// The texts `of_key` is about: the same array comes again and again.
    seen: Option<ArrayRef>,
    /// Per table of the column, a byte per id.
    pub(in crate::rule) tables: Vec<Vec<u8>>,
}

/// What a table holds for a text: the code of an expression's value.
#[derive(Debug, Clone)]
pub(in crate::rule) struct Table {
    pub(in crate::rule) expr: SafeExpr,
    pub(in crate::rule) codes: Codes,
}

/// Values to bytes.
#[derive(Debug, Clone)]
pub(in crate::rule) enum Codes {
    /// The code of each label.
    Labels(Arc<HashMap<String, u8>>),
    /// `(false, true)`; NULL is 0.
    Bool(u8, u8),
}

impl Codes {
    /// One byte per value; 0 for NULL.
    pub(in crate::rule) fn put(&self, values: &ArrayRef, out: &mut Vec<u8>) {
        match self {
            Self::Labels(labels) => {
                let values = values.as_string::<i32>();
                // A closed tag gives no text but its labels; the catalogue has made sure.
                let code = |v: Option<&str>| v.and_then(|v| labels.get(v).copied()).unwrap_or(0);
                out.extend(values.iter().map(code));
            }
            Self::Bool(no, yes) => {
                let code = |v: Option<bool>| v.map_or(0, |v| if v { *yes } else { *no });
                out.extend(values.as_boolean().iter().map(code));
            }
        }
    }
}

impl Coded {
    /// Reads a batch of the column and brings the tables up to the texts it shows.
    pub(in crate::rule) fn fill(&mut self, array: &ArrayRef, name: &str, tables: &[Table]) {
        if self.ids.len() > TEXTS_MAX {
            self.ids.clear();
            self.tables.clear();
            self.seen = None;
        }
        let mut new: Vec<Option<String>> = Vec::new();
        if self.tables.len() != tables.len() {
            self.tables = vec![Vec::new(); tables.len()];
            self.ids.clear();
            self.seen = None;
            new.push(None);
        }
        let rows = array.as_dictionary::<Int32Type>();
        self.ids_of_keys(rows, &mut new);
        self.rows.clear();
        let keys = rows.keys();
        match keys.nulls().filter(|n| n.null_count() > 0) {
            // A key behind a NULL may be anything.
            Some(nulls) => self.rows.extend(keys.values().iter().zip(nulls).map(|(key, valid)| {
                if valid { usize::try_from(*key).map_or(0, |k| self.of_key[k]) } else { 0 }
            })),
            None => self.rows.extend(
                keys.values().iter().map(|k| usize::try_from(*k).map_or(0, |k| self.of_key[k])),
            ),
        }
        if !new.is_empty() {
            grow(&mut self.tables, &new, name, tables);
        }
    }

    fn ids_of_keys(&mut self, rows: &DictionaryArray<Int32Type>, new: &mut Vec<Option<String>>) {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, rows.values())) {
            return;
        }
        self.seen = Some(Arc::clone(rows.values()));
        self.of_key.clear();
        let texts = rows.values().as_string::<i32>();
        for text in texts {
            let id = match text {
                None => 0,
                Some(text) => match self.ids.get(text) {
                    Some(id) => *id,
                    None => {
                        let id = u32::try_from(self.ids.len() + 1).unwrap_or(0);
                        self.ids.insert(text.into(), id);
                        new.push(Some(text.to_owned()));
                        id
                    }
                },
            };
            self.of_key.push(id);
        }
    }
}

fn grow(grown: &mut [Vec<u8>], new: &[Option<String>], name: &str, tables: &[Table]) {
    let texts: StringArray = new.iter().map(Option::as_deref).collect();
    let schema = Schema::new(vec![Field::new(name, DataType::Utf8, true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(texts)])
        .expect("one column of the schema's type");
    for (table, grown) in tables.iter().zip(grown) {
        table.codes.put(&table.expr.evaluate(&batch).array, grown);
    }
}
