//! What tags and features mean, as numbers that can be compared between catalogues.
//!
//! In: a checked catalogue. Out: for each feature, dimension column and tag a hash of what it
//! computes: compiled expressions in which every name is replaced by the meaning of what it names.
//! Invariant: no name, place, text or order of a definition counts; only the names of streams, of
//! their columns and of tables do, because stored rows are kept by them.

use std::collections::HashMap;

use datafusion_common::Column;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Expr;

use super::model::{Catalog, ColumnType, DimensionKey, Domain, Feature, Stream, TypedExpr};
use crate::user::layout::hash64;

/// The meanings of a catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meaning {
    /// By feature.
    pub features: Vec<u64>,
    /// By dimension and column.
    pub columns: Vec<Vec<u64>>,
    /// By tag: its value, and when it has one.
    pub tags: Vec<u64>,
    /// When an account is closed.
    pub closed: Option<u64>,
}

impl Meaning {
    /// Of a catalogue.
    pub fn of(catalog: &Catalog) -> Self {
        let mut meaning = Self::default();
        let mut streams: Vec<u64> = Vec::new();
        let rows: Vec<HashMap<&str, u64>> = catalog.streams.iter().map(row_names).collect();
        for (stream, names) in catalog.streams.iter().zip(&rows) {
            let column = |at: usize| names[stream.columns[at].name.as_str()];
            let filter = stream.filter.as_ref().map(|f| expression(f, names));
            let dedupe = stream.dedupe.as_ref().map(|d| (column(d.by), d.within_ms));
            let (uid, time) = (column(stream.uid), column(stream.time));
            let table = stream.changelog.as_ref().map(|c| {
                let key: Vec<u64> = c.primary_key.iter().map(|at| column(*at)).collect();
                let operation = c.operation.as_ref().map(|o| (column(o.column), &o.words));
                (key, c.version.map(column), operation, &c.before, c.rows_max)
            });
            streams.push(hash(&(&stream.name, uid, time, filter, dedupe, table)));
        }
        let mut names: HashMap<&str, u64> = HashMap::new();
        for feature in &catalog.features {
            let of_row = |e: Option<&TypedExpr>| e.map(|e| expression(e, &rows[feature.stream]));
            let row = (
                of_row(feature.aggregate.value()),
                of_row(feature.aggregate.weight()),
                of_row(feature.filter.as_ref()),
            );
            let means = hash(&(streams[feature.stream], row, aggregate(feature)));
            meaning.features.push(means);
            names.insert(&feature.name, means);
        }
        for dimension in &catalog.dimensions {
            let key = match dimension.key {
                DimensionKey::Uid => 0,
                DimensionKey::Feature(at) => meaning.features[at],
                DimensionKey::Column { dimension, column } => meaning.columns[dimension][column],
            };
            let mut columns = Vec::new();
            for column in &dimension.columns {
                let means =
                    hash(&(table_column(&dimension.table, &column.from, &column.kind), key));
                names.insert(&column.name, means);
                columns.push(means);
            }
            meaning.columns.push(columns);
        }
        meaning.tags = vec![0; catalog.tags.len()];
        for at in &catalog.tag_order {
            let tag = &catalog.tags[*at];
            let kind = match &tag.domain {
                Domain::Closed { bool, .. } => Some(*bool),
                Domain::Open(_) => None,
            };
            let zone = catalog.zone.name();
            let means = hash(&(expression(&tag.expr, &names), kind, tag.terms.valid, zone));
            names.insert(&tag.name, means);
            meaning.tags[*at] = means;
        }
        let zone = catalog.zone.name();
        meaning.closed = catalog.closed.as_ref().map(|e| hash(&(expression(e, &names), zone)));
        meaning
    }
}

/// A tag's own rule, what it reads taken by name.
pub fn rule(expr: &TypedExpr) -> u64 {
    hash(&(expr.expr.to_string(), &expr.data_type))
}

/// A column of a loaded table.
pub fn table_column(table: &str, from: &str, kind: &ColumnType) -> u64 {
    hash(&(table, from, kind))
}

/// The names of a stream's row expressions and what they mean.
fn row_names(stream: &Stream) -> HashMap<&str, u64> {
    let mut names = HashMap::new();
    for column in &stream.columns {
        names.insert(column.name.as_str(), hash(&(&column.name, &column.kind)));
    }
    for derived in &stream.derive {
        let means = expression(&derived.expr, &names);
        names.insert(&derived.name, means);
    }
    names
}

/// A compiled expression in which each name is replaced by what it means.
fn expression(expr: &TypedExpr, names: &HashMap<&str, u64>) -> u64 {
    let named = |e: Expr| {
        let means = match &e {
            Expr::Column(column) => names.get(column.name.as_str()),
            _ => None,
        };
        Ok(match means {
            Some(means) => {
                let column = Column::new_unqualified(format!("{means:016x}"));
                Transformed::yes(Expr::Column(column))
            }
            None => Transformed::no(e),
        })
    };
    let replaced = expr.expr.clone().transform_up(named).map(|t| t.data);
    // Replacing a name by another cannot fail; the text as written is then still a meaning.
    let text = replaced.map_or_else(|_| expr.sql.clone(), |e| e.to_string());
    hash(&(text, &expr.data_type))
}

/// What is computed of the rows, and over which time.
fn aggregate(feature: &Feature) -> impl std::fmt::Debug {
    let aggregate = &feature.aggregate;
    let limits = (aggregate.listed(), aggregate.values_max());
    (aggregate.name(), feature.span, limits, feature.data_type.clone())
}

/// Of the text that shows a value: stable as long as the value's types are.
fn hash(of: &impl std::fmt::Debug) -> u64 {
    hash64(format!("{of:?}").as_bytes())
}
