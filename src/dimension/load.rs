//! Loading a dimension table from a file into a new epoch.
//!
//! In: CSV (plain, gzip, zstd) or Parquet. Out: a committed epoch, and what changed since the one
//! before. Rows with a cell that cannot be read are left out, counted and reported.
//! Invariant: memory is bounded by `chunk_bytes_max`; a load that fails leaves the current epoch.

use std::path::{Path, PathBuf};

use super::cell::Cell;
use super::key::{KeyKind, key_of_cell};
use super::row::{Coding, RowWriter, encode};
use super::spec::{TableSpec, type_name};
use super::written::applied_position;
use super::{csv, diff, parquet};
use crate::clock::Zone;
use crate::store::{self, Bytes, DimColumnMeta, DimMeta, DimRow, Epoch, Fault, Store, StoreError};

/// Bounds and choices of a load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The key's column in the file; without it, see [`TableSpec::key_names`].
    pub key_column: Option<String>,
    /// More rejected rows than this, and the load is given up.
    pub rejected_rows_max: u64,
    /// Rejected rows described in the report.
    pub errors_max: usize,
    /// Bytes of rows held in memory before they are written.
    pub chunk_bytes_max: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            key_column: None,
            rejected_rows_max: 1000,
            errors_max: 20,
            chunk_bytes_max: 64 << 20,
        }
    }
}

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that were read.
    pub bytes: u64,
    /// Bytes of the file.
    pub bytes_total: u64,
    /// Rows read.
    pub rows: u64,
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The file.
    pub path: PathBuf,
    /// Its line in a CSV file (the header is line 1), its row in a Parquet file (from 1).
    pub line: u64,
    /// The column, where one is to blame.
    pub column: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
}

impl std::fmt::Display for RowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.line)?;
        if let Some(column) = &self.column {
            write!(f, "column `{column}`: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The table.
    pub table: String,
    /// The new current epoch.
    pub epoch: Epoch,
    /// Rows it holds.
    pub rows: u64,
    /// Rows left out because a cell could not be read.
    pub rejected: u64,
    /// Rows of which a later row with the same key took the place.
    pub replaced: u64,
    /// Rows that are new or different.
    pub changed: u64,
    /// Rows that are gone.
    pub removed: u64,
    /// There was no epoch with these columns before: every row counts as changed.
    pub all_changed: bool,
    /// The first rejected rows.
    pub errors: Vec<RowError>,
}

/// Why a table was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file cannot be read.
    #[error("{}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The file lacks columns.
    #[error(
        "{}: no column {} in the file, which has {}; name it so, or set `from:` in the dimension",
        path.display(), quoted(missing), quoted(found)
    )]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// What is asked for.
        missing: Vec<String>,
        /// What there is.
        found: Vec<String>,
    },
    /// Too many rows cannot be read.
    #[error(
        "{rejected} rows could not be read, more than {rejected_max}: nothing was loaded; the first: {first}"
    )]
    TooManyRejected {
        /// How many so far.
        rejected: u64,
        /// The bound.
        rejected_max: u64,
        /// The first of them.
        first: RowError,
    },
    /// Its key can be none.
    #[error("table `{table}` is looked up by {kind}, which can be no key")]
    KeyType {
        /// The table.
        table: String,
        /// The type.
        kind: String,
    },
}

impl LoadError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Io { .. } => Fault::Outside,
            _ => Fault::User,
        }
    }
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// What readers give rows to.
pub(super) struct Sink<'a> {
    store: &'a dyn Store,
    pub(super) spec: &'a TableSpec,
    pub(super) zone: &'a Zone,
    pub(super) kind: KeyKind,
    pub(super) codings: Vec<Coding>,
    writer: RowWriter,
    epoch: Epoch,
    options: &'a LoadOptions,
    path: &'a Path,
    chunk: Vec<DimRow>,
    chunk_bytes: usize,
    written: u64,
    /// Every key so far was greater than the one before: no row was replaced.
    ascending: bool,
    last_key: Bytes,
    rejected: u64,
    errors: Vec<RowError>,
}

/// One open column of a reader.
pub(super) struct Positions {
    pub(super) key: usize,
    pub(super) columns: Vec<usize>,
}

impl Sink<'_> {
    /// Finds the key and the columns among a file's column names.
    pub(super) fn positions(&self, found: &[String]) -> Result<Positions, LoadError> {
        let at = |name: &String| found.iter().position(|f| f == name);
        let mut missing = Vec::new();
        let columns = self.spec.columns.iter().filter_map(|(name, _)| {
            let position = at(name);
            if position.is_none() {
                missing.push(name.clone());
            }
            position
        });
        let columns: Vec<usize> = columns.collect();
        let key = match &self.options.key_column {
            Some(name) => at(name).or_else(|| {
                missing.push(name.clone());
                None
            }),
            None => self.spec.key_names.iter().find_map(at).or(Some(0)),
        };
        match key {
            Some(key) if missing.is_empty() && !found.is_empty() => Ok(Positions { key, columns }),
            _ => Err(LoadError::MissingColumns {
                path: self.path.to_owned(),
                missing,
                found: found.to_vec(),
            }),
        }
    }

    /// Takes a row whose cells are in the order of the table's columns.
    pub(super) fn row(
        &mut self,
        line: u64,
        key_name: &str,
        key: &Cell<'_>,
        cells: &[Cell<'_>],
    ) -> Result<(), LoadError> {
        let Some(key) = key_of_cell(self.kind, key) else {
            return self.reject(line, Some(key_name), EMPTY_KEY.to_owned());
        };
        let row = encode(&self.codings, cells, &mut self.writer);
        self.push(key, row)
    }

    /// Takes a row that is ready to be stored.
    pub(super) fn push(&mut self, key: Bytes, row: Bytes) -> Result<(), LoadError> {
        self.ascending &= self.written == 0 || key > self.last_key;
        self.chunk_bytes += key.len() + row.len() + size_of::<DimRow>();
        self.last_key.clone_from(&key);
        self.chunk.push((key, row));
        self.written += 1;
        if self.chunk_bytes >= self.options.chunk_bytes_max {
            self.flush()?;
        }
        Ok(())
    }

    /// Leaves a row out.
    pub(super) fn reject(
        &mut self,
        line: u64,
        column: Option<&str>,
        reason: String,
    ) -> Result<(), LoadError> {
        self.rejected += 1;
        let path = self.path.to_owned();
        let error = RowError { path, line, column: column.map(str::to_owned), reason };
        if self.errors.len() < self.options.errors_max.max(1) {
            self.errors.push(error);
        }
        if self.rejected > self.options.rejected_rows_max {
            return Err(LoadError::TooManyRejected {
                rejected: self.rejected,
                rejected_max: self.options.rejected_rows_max,
                first: self.errors[0].clone(),
            });
        }
        Ok(())
    }

    /// The number of rows read so far.
    pub(super) fn rows(&self) -> u64 {
        self.written + self.rejected
    }

    fn flush(&mut self) -> Result<(), LoadError> {
        self.chunk_bytes = 0;
        let chunk = std::mem::take(&mut self.chunk);
        Ok(self.store.dim_put(&self.spec.table, self.epoch, chunk)?)
    }
}

/// What is wrong with a row whose key is NULL.
pub(super) const EMPTY_KEY: &str = "the key is empty; fill it in";

/// How a rejected cell is shown.
pub(super) fn bad_cell(text: &str, what: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("`{short}{more}` {what}; fix the cell or leave it empty")
}

/// Loads a file as the table's new epoch. `loaded_at_ms` is recorded with it.
pub fn load(
    store: &dyn Store,
    spec: &TableSpec,
    zone: &Zone,
    path: &Path,
    options: &LoadOptions,
    loaded_at_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<LoadReport, LoadError> {
    let Some(kind) = KeyKind::of(&spec.key) else {
        let kind = type_name(&spec.key);
        return Err(LoadError::KeyType { table: spec.table.clone(), kind });
    };
    // Whatever its topic says behind this belongs on top of what is loaded now.
    let topic = applied_position(store, &spec.table)?;
    let epoch = store.dim_begin(&spec.table)?;
    let sink = Sink {
        store,
        spec,
        zone,
        kind,
        writer: RowWriter::default(),
        codings: spec.columns.iter().map(|(_, kind)| Coding::of(kind)).collect(),
        epoch,
        options,
        path,
        chunk: Vec::new(),
        chunk_bytes: 0,
        written: 0,
        ascending: true,
        last_key: Bytes::from(&[][..]),
        rejected: 0,
        errors: Vec::new(),
    };
    let loaded = fill(sink, topic, loaded_at_ms, progress);
    if loaded.is_err() {
        // The load's own error says more than one of tidying up; what stays is dropped by the next.
        store.dim_drop(&spec.table, epoch).ok();
    }
    loaded
}

fn fill(
    mut sink: Sink<'_>,
    topic: Option<store::Positions>,
    loaded_at_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<LoadReport, LoadError> {
    let (store, spec, path, epoch) = (sink.store, sink.spec, sink.path, sink.epoch);
    if path.extension().is_some_and(|e| e == "parquet") {
        parquet::read(path, spec, sink.zone, &mut sink, progress)?;
    } else {
        csv::read(path, &mut sink, progress)?;
    }
    sink.flush()?;
    let columns: Vec<DimColumnMeta> = spec
        .columns
        .iter()
        .map(|(name, kind)| DimColumnMeta { name: name.clone(), kind: type_name(kind) })
        .collect();
    let key = type_name(&spec.key);
    let before = store.dim_current(&spec.table)?;
    let before = before.filter(|meta| meta.columns == columns && meta.key == key);
    let all_changed = before.is_none();
    let diff = match before {
        Some(before) => diff::compare(store, &spec.table, before.epoch, epoch)?,
        None => {
            let rows = match sink.ascending {
                true => sink.written,
                false => diff::count(store, &spec.table, epoch)?,
            };
            diff::Diff { rows, changed: rows, removed: 0 }
        }
    };
    let meta = DimMeta {
        epoch,
        loaded_at_ms,
        source: path.display().to_string(),
        key,
        columns,
        rows: diff.rows,
        rejected: sink.rejected,
        changed: diff.changed,
        removed: diff.removed,
        all_changed,
        topic,
    };
    store.dim_commit(&spec.table, meta)?;
    Ok(LoadReport {
        table: spec.table.clone(),
        epoch,
        rows: diff.rows,
        rejected: sink.rejected,
        replaced: sink.written - diff.rows,
        changed: diff.changed,
        removed: diff.removed,
        all_changed,
        errors: sink.errors,
    })
}
