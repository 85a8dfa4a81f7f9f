//! The row of a table as it was before a change.
//!
//! In: source columns that were read from the before-image. Out: whether it is there, what it lacks,
//! its key, and whether `where` was true for it.
//! Invariant: no I/O.

use super::Batch;
use super::change::{Change, Image, Key, Table};
use super::column::Values;
use super::inputs::Inputs;
use super::reject::Reason;
use super::row_expr::RowExpr;
use crate::catalog::model::{Stream, TypedExpr};
use crate::rule::safe::NotExecutable;
use crate::user::layout::{StreamLayout, ValueKind};
use crate::user::texts::Texts;

/// See the module.
#[derive(Debug)]
pub(super) struct Before {
    /// Its member's name.
    pub(super) name: String,
    pub(super) uid: usize,
    pub(super) version: Option<usize>,
    inputs: Inputs,
    filter: Option<RowExpr>,
    key: Key,
    /// What it must hold: source column and name. Those of uid and key come first.
    needed: Vec<(usize, String)>,
    keys: usize,
}

impl Before {
    /// `sources`: for each declared column its source column in the before-image.
    pub(super) fn new(
        table: Table<'_>,
        name: &str,
        sources: &[usize],
    ) -> Result<Self, NotExecutable> {
        let Table { catalog, stream, changelog, layout, columns } = table;
        let inputs = Inputs::new(stream, sources, columns, &catalog.zone)?;
        let filter = stream.filter.as_ref();
        let filter =
            filter.map(|f| RowExpr::new(f, ValueKind::Bool, &inputs, columns)).transpose()?;
        // What an envelope says of the change is no part of the row.
        let is_of_row = |at: &usize| columns[sources[*at]].member.is_some();
        let mut needed = vec![stream.uid];
        needed.extend(&changelog.primary_key);
        needed.retain(is_of_row);
        let keys = needed.len();
        needed.extend(read_columns(stream, layout).into_iter().filter(is_of_row));
        Ok(Self {
            name: name.to_owned(),
            uid: sources[stream.uid],
            version: changelog.version.map(|at| sources[at]),
            filter,
            key: Key::new(table, &inputs, Image::Before)?,
            inputs,
            needed: needed
                .iter()
                .map(|at| (sources[*at], stream.columns[*at].name.clone()))
                .collect(),
            keys,
        })
    }

    /// Whether anything of it is there.
    pub(super) fn is_there(&self, batch: &Batch<'_>, row: usize) -> bool {
        self.needed.iter().any(|(at, _)| batch.columns[*at].valid.holds(row))
    }

    /// For each row a column that its image does not mention.
    pub(super) fn lacking(&self, batch: &Batch<'_>) -> Vec<Option<&str>> {
        let mut lacking = vec![None; batch.rows];
        for (at, name) in self.needed.iter().rev() {
            for row in &batch.columns[*at].absent {
                lacking[*row as usize] = Some(name.as_str());
            }
        }
        lacking
    }

    /// A column that could not be read.
    pub(super) fn unread(&self, batch: &Batch<'_>, row: usize) -> Option<(Reason, String)> {
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        self.needed.iter().find_map(|(at, name)| {
            let column = &batch.columns[*at];
            let error = column.errors.binary_search_by_key(&row, |error| error.0).ok()?;
            let reason = column.errors[error].1;
            Some((reason, column.explain(reason, name)))
        })
    }

    /// What of uid and key has no value that could be one.
    pub(super) fn keyless(&self, batch: &Batch<'_>, row: usize) -> Option<&str> {
        let is_none = |at: usize| {
            let column = &batch.columns[at];
            let is_uid = |uid: &str| !uid.is_empty() && uid.len() <= crate::store::UID_BYTES_MAX;
            !column.valid.holds(row)
                || matches!(&column.values, Values::Plain(uids) if !is_uid(&uids[row]))
        };
        self.needed[..self.keys].iter().find(|(at, _)| is_none(*at)).map(|(_, name)| name.as_str())
    }

    /// A row for which `where` was not true before leaves nobody. Reads the keys of the others.
    /// Returns for how many rows it could not be computed.
    pub(super) fn apply_filter(
        &mut self,
        batch: &Batch<'_>,
        texts: &Texts,
        rows: &mut [Change],
    ) -> u64 {
        self.inputs.clear();
        let mut failed = 0;
        if let Some(filter) = &mut self.filter {
            failed = filter.prepare(batch, &mut self.inputs, texts);
            filter.view(batch.columns).each(
                0..batch.rows,
                rows.iter_mut(),
                |change, word, valid| {
                    if change.leaves == Some(Image::Before) && !(valid && word == 1) {
                        change.leaves = None;
                    }
                },
            );
        }
        self.key.read(batch, &mut self.inputs, texts, rows);
        failed + std::mem::take(&mut self.inputs.failed)
    }
}

/// The declared columns that are aggregated or filtered by, be it through derived ones.
fn read_columns(stream: &Stream, layout: &StreamLayout) -> Vec<usize> {
    let values = layout.values.iter().map(|v| &v.expr);
    let filters = layout.filters.iter().map(|f| &f.expr).chain(&stream.filter);
    let mut read: Vec<&TypedExpr> = values.chain(filters).collect();
    // A derived column reads only those above it.
    for derived in stream.derive.iter().rev() {
        if read.iter().any(|expr| expr.columns.contains(&derived.name)) {
            read.push(&derived.expr);
        }
    }
    let names = stream.columns.iter().enumerate();
    let is_read = |name: &String| read.iter().any(|expr| expr.columns.contains(name));
    names.filter(|(_, column)| is_read(&column.name)).map(|(at, _)| at).collect()
}
