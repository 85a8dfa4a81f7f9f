//! A dimension table, or some of its rows, in memory.
//!
//! In: rows of one epoch. Out: columns gathered by row number. Invariant: row 0 is all NULL.

use std::sync::mpsc::sync_channel;

use arrow::array::ArrayRef;

use super::column::Column;
use super::index::{Index, IndexBuilder};
use super::key::{KeyColumn, KeyKind};
use super::packed::{Packed, PackedBuilder, RowNumbers};
use super::row::{self, Coding, Stored};
use super::spec::{TableSpec, type_name};
use crate::buffer_pool::BufferPool;
use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::interner::Interner;
use crate::store::{Bytes, DimMeta, Epoch, Result, Store, StoreError};

const PAGE_ROWS: usize = 8192;
const PAGES_WAITING_MAX: usize = 2;

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

/// Rows in memory.
#[derive(Debug)]
pub(super) struct Rows {
    columns: Vec<Column>,
    packed: Packed,
}

/// Rows that are being collected.
pub(super) struct RowsBuilder<'a> {
    layout: &'a Layout,
    packed: PackedBuilder,
    /// Of each asked column of text.
    texts: Vec<Option<Interner>>,
}

impl<'a> RowsBuilder<'a> {
    pub(super) fn new(layout: &'a Layout, rows_expected: usize) -> Self {
        let text = |kind: &ColumnType| (*kind == ColumnType::String).then(Interner::default);
        Self {
            layout,
            packed: PackedBuilder::new(layout.kinds.len(), rows_expected),
            texts: layout.kinds.iter().map(text).collect(),
        }
    }

    /// Adds a row and gives its number. `None`: damaged bytes. Columns the epoch lacks are NULL.
    pub(super) fn push(&mut self, stored: &[u8]) -> Option<u32> {
        let (layout, packed, texts) = (self.layout, &mut self.packed, &mut self.texts);
        row::decode(&layout.codings, stored, |at, cell| {
            match (layout.serves[at], cell) {
                (_, Stored::Null) => {}
                (Some(asked), Stored::Bits(bits)) => packed.put(asked, bits),
                (Some(asked), Stored::Text(text)) => {
                    // A text in a column of numbers cannot come out of the row codec.
                    let code = texts[asked].as_mut()?.code(text)?;
                    packed.put(asked, code.into());
                }
                (None, Stored::Bits(_)) => {}
                (None, Stored::Text(text)) => {
                    std::str::from_utf8(text).ok()?;
                }
            }
            Some(())
        })?;
        packed.end_row()
    }

    pub(super) fn finish(self) -> Rows {
        let layout = self.layout;
        let (packed, nulls) = self.packed.finish();
        let columns = layout.kinds.iter().zip(&self.texts).zip(nulls);
        let column = |((kind, texts), nulls): ((_, &Option<Interner>), _)| {
            Column::new(kind, &layout.zone, texts.as_ref(), nulls)
        };
        Rows { columns: columns.map(column).collect(), packed }
    }
}

impl Rows {
    /// Prepares to gather rows.
    pub(super) fn at(&self, rows: Vec<u32>) -> RowNumbers {
        self.packed.at(rows)
    }

    /// One asked column at these rows.
    pub(super) fn gather(&self, column: usize, at: &RowNumbers, pool: &mut BufferPool) -> ArrayRef {
        self.columns[column].gather(&self.packed, column, at, pool)
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
        let rows = &self.table.rows;
        let at = rows.at(self.table.index.rows(&key.keys(self.kind)?, key.len()));
        let pool = &mut BufferPool::default();
        Some((0..rows.columns.len()).map(|column| rows.gather(column, &at, pool)).collect())
    }
}

/// Keys and rows of an epoch.
type Page = Vec<(Bytes, Bytes)>;

/// Reads an epoch in key order until `each` wants no more.
pub(super) fn scan(
    store: &dyn Store,
    table: &str,
    epoch: Epoch,
    mut each: impl FnMut(Page) -> bool,
) -> Result<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.dim_scan(table, epoch, after.as_deref(), PAGE_ROWS)?;
        let last = page.len() < PAGE_ROWS;
        after = page.last().map(|(key, _)| key.clone());
        if !each(page) || last {
            return Ok(());
        }
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
        let rows_expected = usize::try_from(meta.rows).unwrap_or(0);
        let mut rows = RowsBuilder::new(layout, rows_expected);
        let mut index = IndexBuilder::new(kind);
        let mut whole = true;
        let mut add = |page: Page| {
            whole = page.iter().all(|(key, stored)| {
                rows.push(stored).and_then(|number| index.add(key, number)).is_some()
            });
            whole
        };
        let (table, epoch) = (spec.table.as_str(), meta.epoch);
        if meta.rows <= PAGE_ROWS as u64 {
            scan(store, table, epoch, add)?;
        } else {
            // Half of the time goes into the store's blocks, half into columns.
            let (pages, read) = sync_channel(PAGES_WAITING_MAX);
            std::thread::scope(|scope| {
                let scan =
                    scope.spawn(move || scan(store, table, epoch, |page| pages.send(page).is_ok()));
                read.into_iter().all(&mut add);
                scan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
        }
        if !whole {
            return Err(damaged(spec, meta));
        }
        let len = rows.packed.len() - 1;
        Ok(Self { rows: rows.finish(), index: index.finish(), len })
    }

    /// Of rows at hand, by key.
    pub(super) fn of<'a>(
        at_hand: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        spec: &TableSpec,
        kind: KeyKind,
        meta: &DimMeta,
        layout: &Layout,
    ) -> Result<Self> {
        let mut rows = RowsBuilder::new(layout, usize::try_from(meta.rows).unwrap_or(0));
        let mut index = IndexBuilder::new(kind);
        for (key, stored) in at_hand {
            let added = rows.push(stored).and_then(|number| index.add(key, number));
            added.ok_or_else(|| damaged(spec, meta))?;
        }
        let len = rows.packed.len() - 1;
        Ok(Self { rows: rows.finish(), index: index.finish(), len })
    }

    /// Bytes of the columns, about.
    pub(super) fn bytes(&self) -> usize {
        self.rows.packed.bytes() + self.rows.columns.iter().map(Column::bytes).sum::<usize>()
    }
}

fn damaged(spec: &TableSpec, meta: &DimMeta) -> StoreError {
    StoreError::Corrupt {
        what: format!("epoch {} of dimension table `{}`", meta.epoch, spec.table),
        remedy: "load it again with `tagloom dims load`".to_owned(),
    }
}
