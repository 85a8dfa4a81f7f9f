//! Dimension tables (SEMANTICS section 8, last point): which ones a generated catalogue has, what
//! rows are loaded, and what a user finds in them.

use std::fmt::Write as _;

use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::generate::Random;
use crate::lines::uid_value;
use crate::meaning::{At, Event, Model, compare};
use crate::spec::{Cut, Kind, Source, Spec, Val, date_text};

/// Kinds that a table can be looked up by.
const KEY_KINDS: [Kind; 5] = [Kind::Int, Kind::U64, Kind::Str, Kind::Bool, Kind::Date];

const COLUMN_KINDS: [Kind; 8] =
    [Kind::Str, Kind::Str, Kind::Int, Kind::U64, Kind::Bool, Kind::Dec, Kind::Date, Kind::Time];

/// A table that one or two dimensions look up.
#[derive(Debug, Clone)]
pub struct Table {
    pub key: Kind,
    pub columns: Vec<Kind>,
}

/// What a dimension is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Uid,
    Feature(usize),
    /// A dimension, and a column of it.
    Column(usize, usize),
}

#[derive(Debug, Clone)]
pub struct Dimension {
    pub table: usize,
    pub key: Key,
    /// Of the table.
    pub columns: Vec<usize>,
    pub strategy: &'static str,
    /// Its columns have another prefix than its name.
    pub prefix: bool,
}

/// A row as it was loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: Val,
    pub cells: Vec<Option<Val>>,
}

/// The rows of each table; `None`: it was never loaded.
pub type Rows = Vec<Option<Vec<Row>>>;

impl Dimension {
    /// A column's name for tags.
    pub fn column_name(&self, dimension: usize, column: usize) -> String {
        let prefix = if self.prefix { "other" } else { "d" };
        format!("{prefix}{dimension}_{}", in_table(self.table, self.columns[column]))
    }
}

impl Spec {
    /// The kind of a dimension's column.
    pub fn column_kind(&self, dimension: usize, column: usize) -> Kind {
        let dimension = &self.dimensions[dimension];
        self.tables[dimension.table].columns[dimension.columns[column]]
    }

    /// Whether a dimension is looked up by a feature of this group.
    pub fn is_key(&self, group: usize) -> bool {
        self.dimensions.iter().any(|d| match d.key {
            Key::Feature(f) => self.features[f].group == group,
            Key::Uid | Key::Column(..) => false,
        })
    }

    /// All columns of all dimensions.
    pub fn dimension_columns(&self) -> impl Iterator<Item = Source> {
        let dimensions = self.dimensions.iter().enumerate();
        dimensions.flat_map(|(at, dimension)| {
            (0..dimension.columns.len()).map(move |column| Source::Column(at, column))
        })
    }

    fn key_kind(&self, key: Key) -> Kind {
        match key {
            Key::Uid if self.string_uid => Kind::Str,
            Key::Uid => Kind::U64,
            Key::Feature(f) => self.features[f].kind,
            Key::Column(dimension, column) => self.column_kind(dimension, column),
        }
    }

    pub fn dimensions_yaml(&self) -> String {
        let mut yaml = String::new();
        for (at, dimension) in self.dimensions.iter().enumerate() {
            let key = match dimension.key {
                Key::Uid => "uid".to_owned(),
                Key::Feature(f) => self.feature_name(f),
                Key::Column(of, column) => self.dimensions[of].column_name(of, column),
            };
            let table = &self.tables[dimension.table];
            let column = |c: &usize| {
                format!("{}: \"{}\"", in_table(dimension.table, *c), type_text(table.columns[*c]))
            };
            let columns: Vec<String> = dimension.columns.iter().map(column).collect();
            write!(
                yaml,
                "---\ndimension: d{at}\ntable: t{}\nkey: {key}\ncolumns: {{{}}}\nstrategy: {}\n",
                dimension.table,
                columns.join(", "),
                dimension.strategy
            )
            .unwrap();
            if dimension.prefix {
                writeln!(yaml, "prefix: other{at}_").unwrap();
            }
        }
        yaml
    }
}

/// A column's name in its table. Two tables have none in common: a column that is named like the
/// other dimension's column that its table is looked up by would be taken for the key.
fn in_table(table: usize, column: usize) -> String {
    format!("x{table}{column}")
}

fn type_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Int => "int",
        Kind::U64 => "u64",
        Kind::Dec => "decimal(12,2)",
        Kind::Float => "float",
        Kind::Str => "string",
        Kind::Bool => "bool",
        Kind::Date => "date",
        Kind::Time => "timestamp(ms)",
        Kind::List => unreachable!("columns are no lists"),
    }
}

impl Random {
    /// About half the catalogues have dimensions: keyed by uid, by a feature, by another
    /// dimension's column, some of them over one table.
    pub fn dimensions(&mut self, spec: &mut Spec) {
        if self.one_in(2) {
            return;
        }
        for _ in 0..self.rng.random_range(1..=3) {
            let key = self.dimension_key(spec);
            let kind = spec.key_kind(key);
            let table = match spec.tables.iter().position(|table| table.key == kind) {
                Some(shared) if self.one_in(3) => shared,
                _ => {
                    let columns =
                        (0..self.rng.random_range(1..=4)).map(|_| self.pick(&COLUMN_KINDS));
                    let columns = columns.collect();
                    spec.tables.push(Table { key: kind, columns });
                    spec.tables.len() - 1
                }
            };
            let mut columns: Vec<usize> = (0..spec.tables[table].columns.len()).collect();
            self.shuffle(&mut columns);
            columns.truncate(self.rng.random_range(1..=4));
            let strategy = ["preload", "cached", "direct"][self.below(3)];
            let prefix = self.one_in(4);
            spec.dimensions.push(Dimension { table, key, columns, strategy, prefix });
        }
    }

    fn dimension_key(&mut self, spec: &Spec) -> Key {
        let column = |source| match source {
            Source::Column(dimension, column) => Some(Key::Column(dimension, column)),
            _ => None,
        };
        let mut keys: Vec<Key> = match self.one_in(2) {
            true => spec.dimension_columns().filter_map(column).collect(),
            false => (0..spec.features.len()).map(Key::Feature).collect(),
        };
        keys.retain(|key| KEY_KINDS.contains(&spec.key_kind(*key)));
        let other = keys.choose(&mut self.rng).copied();
        other.filter(|_| !self.one_in(3)).unwrap_or(Key::Uid)
    }

    /// What a table is loaded with next: rows of before, some of them changed, some gone, and new
    /// ones. Now and then the same again, or none.
    pub fn rows(&mut self, spec: &Spec, table: usize, before: &Rows, sent: &[Event]) -> Vec<Row> {
        let mut rows = before[table].clone().unwrap_or_default();
        match self.below(10) {
            0 => return rows,
            1 => return Vec::new(),
            _ => {}
        }
        rows.retain(|_| !self.one_in(5));
        let kinds = &spec.tables[table].columns;
        for row in &mut rows {
            let at = self.below(kinds.len());
            if self.one_in(3) {
                row.cells[at] = self.table_cell(kinds[at]);
            }
        }
        for _ in 0..self.rng.random_range(1..=6) {
            let key = self.table_key(spec, table, before, sent);
            if rows.iter().all(|row| row.key != key) {
                let cells = kinds.iter().map(|kind| self.table_cell(*kind)).collect();
                rows.push(Row { key, cells });
            }
        }
        self.shuffle(&mut rows);
        rows
    }

    /// A cell of a file: an empty one is NULL.
    fn table_cell(&mut self, kind: Kind) -> Option<Val> {
        self.cell(kind).filter(|value| *value != Val::Str(String::new()))
    }

    /// A key that somebody is likely to have.
    fn table_key(&mut self, spec: &Spec, table: usize, before: &Rows, sent: &[Event]) -> Val {
        let dimensions: Vec<&Dimension> =
            spec.dimensions.iter().filter(|d| d.table == table).collect();
        let looked_up_by = dimensions.choose(&mut self.rng).map_or(Key::Uid, |d| d.key);
        let kind = spec.tables[table].key;
        let seen: Vec<Val> = match looked_up_by {
            Key::Uid => return uid_value(spec, self.below(5)),
            Key::Column(dimension, column) => {
                let of = &spec.dimensions[dimension];
                let rows = before[of.table].iter().flatten();
                rows.filter_map(|row| row.cells[of.columns[column]].clone()).collect()
            }
            Key::Feature(_) => {
                let cells = sent.iter().flat_map(|event| &event.cells).flatten();
                cells.filter(|value| value.kind() == kind).cloned().collect()
            }
        };
        let key = match seen.choose(&mut self.rng) {
            Some(value) if self.one_in(2) => value.clone(),
            _ => self.value(kind),
        };
        // Empty text is nobody's key.
        if key == Val::Str(String::new()) { Val::Str("a".to_owned()) } else { key }
    }

    /// The rows as a file: columns in any order, rows that a later one replaces, rows that cannot
    /// be read.
    pub fn csv(&mut self, spec: &Spec, table: usize, rows: &[Row]) -> String {
        let kinds = &spec.tables[table].columns;
        let mut order: Vec<usize> = (0..=kinds.len()).collect();
        self.shuffle(&mut order);
        let names: Vec<String> = std::iter::once("key".to_owned())
            .chain((0..kinds.len()).map(|at| in_table(table, at)))
            .collect();
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut write = |record: &[String]| {
            writer.write_record(order.iter().map(|at| &record[*at])).unwrap();
        };
        write(&names);
        let record = |row: &Row| -> Vec<String> {
            let cells = row.cells.iter().map(|cell| cell.as_ref().map_or(String::new(), cell_text));
            std::iter::once(cell_text(&row.key)).chain(cells).collect()
        };
        for row in rows {
            let cells = kinds.iter().map(|kind| self.table_cell(*kind)).collect();
            if self.one_in(6) {
                write(&record(&Row { key: row.key.clone(), cells }));
            }
        }
        for row in rows {
            write(&record(row));
            if let Some(at) = kinds.iter().position(|kind| *kind != Kind::Str)
                && self.one_in(8)
            {
                let mut wrong = record(row);
                "?".clone_into(&mut wrong[at + 1]);
                write(&wrong);
            }
        }
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    }
}

impl Val {
    fn kind(&self) -> Kind {
        match self {
            Self::Int(_) => Kind::Int,
            Self::U64(_) => Kind::U64,
            Self::Dec(_) => Kind::Dec,
            Self::Float(_) => Kind::Float,
            Self::Str(_) => Kind::Str,
            Self::Bool(_) => Kind::Bool,
            Self::Date(_) => Kind::Date,
            Self::Time(_) => Kind::Time,
            Self::List(_) => Kind::List,
        }
    }
}

fn cell_text(value: &Val) -> String {
    match value {
        Val::Int(v) => v.to_string(),
        Val::U64(v) => v.to_string(),
        Val::Dec(v) => Cut(v * 10).text(),
        Val::Float(v) => v.to_string(),
        Val::Str(v) => v.clone(),
        Val::Bool(v) => v.to_string(),
        Val::Date(v) => date_text(*v),
        Val::Time(v) => v.to_string(),
        Val::List(_) => unreachable!("columns are no lists"),
    }
}

impl Model<'_> {
    /// What a user finds in a dimension's column.
    pub fn column(&self, user: usize, dimension: usize, column: usize, now: At) -> Option<Val> {
        let dimension = &self.spec.dimensions[dimension];
        let key = match dimension.key {
            Key::Uid => uid_value(self.spec, user),
            Key::Feature(f) => self.feature(user, self.spec.features[f], now)?,
            Key::Column(of, column) => self.column(user, of, column, now)?,
        };
        let rows = self.rows_of_tables[dimension.table].as_ref()?;
        let row = rows.iter().find(|row| compare(&row.key, &key).is_eq())?;
        match &row.cells[dimension.columns[column]] {
            // There is one zero.
            Some(Val::Float(v)) => Some(Val::Float(v + 0.0)),
            other => other.clone(),
        }
    }
}
