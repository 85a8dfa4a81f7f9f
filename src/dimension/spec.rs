//! What a dimension table must hold, by all dimensions that share it.
//!
//! In: the catalogue. Out: the key's type, and the columns with their types. Invariant: dimensions
//! that share a table agree on its types.

use arrow::datatypes::DataType;

use super::key::KeyKind;
use crate::catalog::model::{
    Catalog, ColumnType, Dimension, DimensionKey, TimestampFormat, UidType,
};

/// A table as the catalogue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name.
    pub table: String,
    /// The type of its key.
    pub key: ColumnType,
    /// Names the key's column may have in a file, best first. Without any of them it is the first
    /// column.
    pub key_names: Vec<String>,
    /// Columns by name in the table.
    pub columns: Vec<(String, ColumnType)>,
}

/// Dimensions that cannot share a table, or a table nobody asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No dimension reads it.
    #[error("no dimension reads a table `{table}`{}", known_tables(known))]
    UnknownTable {
        /// The name asked for.
        table: String,
        /// The tables there are.
        known: Vec<String>,
    },
    /// Two dimensions look it up by different types.
    #[error(
        "table `{table}` is looked up by {first} in one dimension and by {second} in `{dimension}`; \
         load it under two table names, or look it up by one type"
    )]
    KeyTypes {
        /// The table.
        table: String,
        /// The dimension that disagrees.
        dimension: String,
        /// The type before.
        first: String,
        /// The type that disagrees.
        second: String,
    },
    /// Two dimensions read a column as different types.
    #[error(
        "column `{column}` of table `{table}` is {first} in one dimension and {second} in \
         `{dimension}`; give it one type"
    )]
    ColumnTypes {
        /// The table.
        table: String,
        /// The dimension that disagrees.
        dimension: String,
        /// The column.
        column: String,
        /// The type before.
        first: String,
        /// The type that disagrees.
        second: String,
    },
    /// Floats and lists are no keys.
    #[error(
        "dimension `{dimension}` is looked up by {kind}; keys are numbers without fraction \
             error, text, days or instants"
    )]
    KeyType {
        /// The dimension.
        dimension: String,
        /// The type.
        kind: String,
    },
}

fn known_tables(known: &[String]) -> String {
    if known.is_empty() {
        "; the catalogue has no dimensions".to_owned()
    } else {
        format!("; the catalogue's tables are {}", known.join(", "))
    }
}

impl TableSpec {
    /// What the catalogue's dimensions ask of a table.
    pub fn of(catalog: &Catalog, table: &str) -> Result<Self, SpecError> {
        let mut spec: Option<Self> = None;
        for dimension in catalog.dimensions.iter().filter(|d| d.table == table) {
            let (key, name) = key_of(catalog, dimension)?;
            let spec = match &mut spec {
                None => spec.insert(Self {
                    table: table.to_owned(),
                    key,
                    key_names: Vec::new(),
                    columns: Vec::new(),
                }),
                Some(spec) if KeyKind::of(&spec.key) == KeyKind::of(&key) => spec,
                Some(spec) => {
                    return Err(SpecError::KeyTypes {
                        table: table.to_owned(),
                        dimension: dimension.name.clone(),
                        first: type_name(&spec.key),
                        second: type_name(&key),
                    });
                }
            };
            spec.key_names.extend(name);
            spec.add_columns(dimension)?;
        }
        let Some(mut spec) = spec else {
            return Err(SpecError::UnknownTable {
                table: table.to_owned(),
                known: Self::tables(catalog),
            });
        };
        spec.key_names.push(table.to_owned());
        spec.key_names.push("key".to_owned());
        Ok(spec)
    }

    /// The names of all tables of a catalogue.
    pub fn tables(catalog: &Catalog) -> Vec<String> {
        let mut tables: Vec<String> = catalog.dimensions.iter().map(|d| d.table.clone()).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    fn add_columns(&mut self, dimension: &Dimension) -> Result<(), SpecError> {
        for column in &dimension.columns {
            match self.columns.iter().find(|(name, _)| *name == column.from) {
                None => self.columns.push((column.from.clone(), column.kind.clone())),
                Some((_, kind)) if type_name(kind) == type_name(&column.kind) => {}
                Some((_, kind)) => {
                    return Err(SpecError::ColumnTypes {
                        table: self.table.clone(),
                        dimension: dimension.name.clone(),
                        column: column.from.clone(),
                        first: type_name(kind),
                        second: type_name(&column.kind),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The type a dimension is looked up by, and names its column may have in a file.
fn key_of(
    catalog: &Catalog,
    dimension: &Dimension,
) -> Result<(ColumnType, Vec<String>), SpecError> {
    let unfit = |kind: String| SpecError::KeyType { dimension: dimension.name.clone(), kind };
    let (kind, names) = match dimension.key {
        DimensionKey::Uid => {
            let kind = match catalog.uid {
                UidType::U64 => ColumnType::U64,
                UidType::String => ColumnType::String,
            };
            let mut names = vec!["uid".to_owned()];
            for stream in &catalog.streams {
                let column = &stream.columns[stream.uid];
                names.extend([column.name.clone(), column.from.clone()]);
            }
            (kind, names)
        }
        DimensionKey::Feature(feature) => {
            let feature = &catalog.features[feature];
            let kind = column_type(&feature.data_type);
            (kind.ok_or_else(|| unfit(feature.data_type.to_string()))?, vec![feature.name.clone()])
        }
        DimensionKey::Column { dimension: holder, column } => {
            let holder = &catalog.dimensions[holder];
            let column = &holder.columns[column];
            // Where rows name other rows of their own table, that column is a value, not the key.
            let from = (holder.table != dimension.table).then(|| column.from.clone());
            (column.kind.clone(), from.into_iter().chain([column.name.clone()]).collect())
        }
    };
    match KeyKind::of(&kind) {
        Some(_) => Ok((kind, names)),
        None => Err(unfit(type_name(&kind))),
    }
}

/// The column type whose values have this Arrow type.
fn column_type(data_type: &DataType) -> Option<ColumnType> {
    Some(match data_type {
        DataType::UInt64 => ColumnType::U64,
        DataType::Int64 => ColumnType::Int,
        DataType::Float64 => ColumnType::Float,
        DataType::Decimal128(precision, scale) => {
            ColumnType::Decimal { precision: *precision, scale: *scale }
        }
        DataType::Utf8 => ColumnType::String,
        DataType::Boolean => ColumnType::Bool,
        DataType::Date32 => ColumnType::Date,
        DataType::Timestamp(..) => ColumnType::Timestamp(TimestampFormat::Iso),
        _ => return None,
    })
}

/// A type as the catalogue writes it, instants without how they are written.
pub(super) fn type_name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::U64 => "u64".to_owned(),
        ColumnType::Int => "int".to_owned(),
        ColumnType::Float => "float".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        ColumnType::String => "string".to_owned(),
        ColumnType::Bool => "bool".to_owned(),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Timestamp(_) => "timestamp".to_owned(),
    }
}
