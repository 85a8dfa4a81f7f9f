//! A dimension table, or some of its rows, in memory.
//!
//! In: rows of one epoch. Out: columns gathered by row number. Invariant: row 0 is all NULL.

use arrow::array::ArrayRef;

use super::column::{Column, ColumnBuilder, RowNumbers};
use super::index::Index;
use super::key::{KeyColumn, KeyKind};
use super::row::{self, Coding};
use super::spec::{TableSpec, type_name};
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::store::{DimMeta, Result, Store, StoreError};

const PAGE_ROWS: usize = 8192;

/// How an epoch's stored columns serve the columns the catalogue asks for.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    codings: Vec<Coding>,
    /// For each stored column, the asked one it serves.
    serves: Vec<Option<usize>>,
    /// The asked columns.
    kinds: Vec<ColumnType>,
    zone: Zone,
    /// Asked columns that the epoch lacks or has as another type, with what to do.
    pub(super) missing: Vec<String>,
}

impl Layout {
    pub(super) fn new(spec: &TableSpec, meta: &DimMeta, zone: &Zone) -> Self {
        let mut serves = vec![None; meta.columns.len()];
        let mut missing = Vec::new();
        for (asked, (name, kind)) in spec.columns.iter().enumerate() {
            match meta.columns.iter().position(|stored| stored.name == *name) {
                Some(at) if meta.columns[at].kind == type_name(kind) => serves[at] = Some(asked),
                Some(at) => missing.push(format!(
                    "{}.{name} was loaded as {}, the catalogue says {}: load the table again",
                    spec.table,
                    meta.columns[at].kind,
                    type_name(kind)
                )),
                None => missing.push(format!(
                    "{}.{name} was not asked for when the table was loaded: load it again",
                    spec.table
                )),
            }
        }
        Self {
            codings: meta.columns.iter().map(|c| Coding::of_name(&c.kind)).collect(),
            serves,
            kinds: spec.columns.iter().map(|(_, kind)| kind.clone()).collect(),
            zone: zone.clone(),
            missing,
        }
    }
}

/// Rows in memory, column by column.
#[derive(Debug)]
pub(super) struct Rows {
    columns: Vec<Column>,
}

/// Rows that are being collected.
pub(super) struct RowsBuilder<'a> {
    layout: &'a Layout,
    columns: Vec<ColumnBuilder>,
    len: usize,
}

impl<'a> RowsBuilder<'a> {
    pub(super) fn new(layout: &'a Layout) -> Self {
        let columns = layout.kinds.iter().map(ColumnBuilder::new).collect();
        Self { layout, columns, len: 1 }
    }

    /// Adds a row and gives its number. `None`: damaged bytes.
    pub(super) fn push(&mut self, stored: &[u8]) -> Option<u32> {
        let (layout, columns) = (self.layout, &mut self.columns);
        let number = u32::try_from(self.len).ok()?;
        row::decode(&layout.codings, stored, |at, cell| {
            if let Some(asked) = layout.serves[at] {
                columns[asked].push(cell);
            }
        })?;
        self.len += 1;
        Some(number)
    }

    pub(super) fn finish(self) -> Rows {
        let layout = self.layout;
        let served = |asked: usize| layout.serves.contains(&Some(asked));
        let mut columns = self.columns;
        for (asked, column) in columns.iter_mut().enumerate() {
            // A column the epoch lacks is NULL in every row.
            for _ in 1..if served(asked) { 1 } else { self.len } {
                column.push(super::cell::Cell::Null);
            }
        }
        let columns = columns.into_iter().zip(&layout.kinds);
        Rows { columns: columns.map(|(c, kind)| c.finish(kind, &layout.zone)).collect() }
    }
}

impl Rows {
    /// One asked column at these rows.
    pub(super) fn gather(&self, column: usize, at: &RowNumbers) -> ArrayRef {
        self.columns[column].gather(at)
    }
}

/// The current epoch of a table in memory, without a catalogue around it.
#[derive(Debug)]
pub struct PreloadedTable {
    table: Preloaded,
    kind: KeyKind,
}

impl PreloadedTable {
    /// Reads the current epoch; `None`: the table was never loaded, or its key can be none.
    pub fn read(store: &dyn Store, spec: &TableSpec, zone: &Zone) -> Result<Option<Self>> {
        let (Some(meta), Some(kind)) = (store.dim_current(&spec.table)?, KeyKind::of(&spec.key))
        else {
            return Ok(None);
        };
        let layout = Layout::new(spec, &meta, zone);
        let table = Preloaded::read(store, spec, kind, &meta, &layout)?;
        Ok(Some(Self { table, kind }))
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.table.len
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.table.len == 0
    }

    /// All columns for a batch of keys; `None`: the key column's type cannot be looked up.
    pub fn columns(&self, key: KeyColumn<'_>) -> Option<Vec<ArrayRef>> {
        let at = RowNumbers::new(self.table.index.rows(&key.keys(self.kind)?, key.len()));
        let columns = self.table.rows.columns.iter();
        Some(columns.map(|column| column.gather(&at)).collect())
    }
}

/// A whole epoch in memory.
#[derive(Debug)]
pub(super) struct Preloaded {
    pub(super) rows: Rows,
    pub(super) index: Index,
    pub(super) len: usize,
}

impl Preloaded {
    /// Reads an epoch from the store.
    pub(super) fn read(
        store: &dyn Store,
        spec: &TableSpec,
        kind: KeyKind,
        meta: &DimMeta,
        layout: &Layout,
    ) -> Result<Self> {
        let damaged = || StoreError::Corrupt {
            what: format!("epoch {} of dimension table `{}`", meta.epoch, spec.table),
            remedy: "load it again with `tagloom dims load`".to_owned(),
        };
        let mut rows = RowsBuilder::new(layout);
        let mut index = Index::new(kind);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.dim_scan(&spec.table, meta.epoch, after.as_deref(), PAGE_ROWS)?;
            for (key, stored) in &page {
                let number = rows.push(stored).ok_or_else(damaged)?;
                index.add(key, number).ok_or_else(damaged)?;
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE_ROWS => after = Some(key.to_vec()),
                _ => break,
            }
        }
        let len = rows.len - 1;
        Ok(Self { rows: rows.finish(), index: index.finish(), len })
    }

    /// Bytes of the columns, about.
    pub(super) fn bytes(&self) -> usize {
        self.rows.columns.iter().map(Column::bytes).sum()
    }
}
