//! What a feature is: an aggregate of row expressions over a span.
//!
//! In: nothing (plain data). Out: types, and how the rule language writes them.
//! Invariant: no I/O, no clock.

use arrow::datatypes::DataType;

use super::{TypedExpr, timestamp_type};
use crate::catalog::place::Place;
use crate::clock::Zone;

/// The time a feature looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// This many calendar days, which end `offset` days before the as-of day.
    Days {
        /// At least 1.
        days: u32,
        /// Whole days back.
        offset: u32,
    },
    /// The as-of hop and those before it, this many in all.
    Rolling {
        /// At least 1.
        hops: u32,
    },
    /// Everything.
    Lifetime,
}

impl Span {
    /// An age that only a lifetime reaches.
    pub const PAST: i64 = i64::MAX;

    /// Whether an event counts that lies this many days and hops before the as-of instant. Below 0
    /// its day or hop has not begun.
    pub fn contains(self, age_days: i64, age_hops: i64) -> bool {
        match self {
            Self::Days { days, offset } => {
                (i64::from(offset)..i64::from(offset) + i64::from(days)).contains(&age_days)
            }
            Self::Rolling { hops } => (0..i64::from(hops)).contains(&age_hops),
            Self::Lifetime => age_days >= 0,
        }
    }
}

/// A span as the rule language writes it: `30d`, `6h`, `lifetime`.
impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Days { days, offset: 0 } => write!(f, "{days}d"),
            Self::Days { days, offset } => write!(f, "{days}d, {offset}d back"),
            Self::Rolling { hops } if hops % 12 == 0 => write!(f, "{}h", hops / 12),
            Self::Rolling { hops } => write!(f, "{}m", hops * 5),
            Self::Lifetime => f.write_str("lifetime"),
        }
    }
}

/// What is aggregated.
#[derive(Debug, Clone)]
pub enum Aggregate {
    /// `count()`
    Count,
    /// `sum(e)`: e is an integer or a decimal.
    Sum(TypedExpr),
    /// `min(e)`
    Min(TypedExpr),
    /// `max(e)`
    Max(TypedExpr),
    /// `first(e)`: the value with the least (event time, value).
    First(TypedExpr),
    /// `last(e)`: the value with the greatest (event time, value).
    Last(TypedExpr),
    /// `count(distinct e)`, and how many distinct values are kept.
    CountDistinct(TypedExpr, u32),
    /// `first_time()`
    FirstTime,
    /// `last_time()`
    LastTime,
    /// `mode(e)`, `mode(e, by => w)`: the value of the greatest weight.
    Mode {
        /// The value.
        of: TypedExpr,
        /// What an event weighs; each weighs 1 without.
        by: Option<TypedExpr>,
        /// How many distinct values are kept.
        values_max: u32,
    },
    /// `top_k(e, k)`, `top_k(e, k, by => w)`: the values of the greatest weights.
    TopK {
        /// The value.
        of: TypedExpr,
        /// What an event weighs; each weighs 1 without.
        by: Option<TypedExpr>,
        /// How many.
        k: u8,
        /// How many distinct values are kept.
        values_max: u32,
    },
    /// `recent(e, n)`: the last values by (event time, value), newest first.
    Recent {
        /// The value.
        of: TypedExpr,
        /// How many.
        n: u8,
    },
}

impl Aggregate {
    /// The value expression, for those that have one.
    pub fn value(&self) -> Option<&TypedExpr> {
        match self {
            Self::Count | Self::FirstTime | Self::LastTime => None,
            Self::Sum(e)
            | Self::Min(e)
            | Self::Max(e)
            | Self::First(e)
            | Self::Last(e)
            | Self::CountDistinct(e, _)
            | Self::Mode { of: e, .. }
            | Self::TopK { of: e, .. }
            | Self::Recent { of: e, .. } => Some(e),
        }
    }

    /// What events weigh, where that is said.
    pub fn weight(&self) -> Option<&TypedExpr> {
        match self {
            Self::Mode { by, .. } | Self::TopK { by, .. } => by.as_ref(),
            _ => None,
        }
    }

    /// How many distinct values are kept; of more, a sample. `None`: it needs none of them.
    pub fn values_max(&self) -> Option<u32> {
        match self {
            Self::CountDistinct(_, max)
            | Self::Mode { values_max: max, .. }
            | Self::TopK { values_max: max, .. } => Some(*max),
            _ => None,
        }
    }

    /// How many values its list has at most; `None`: it gives one value.
    pub fn listed(&self) -> Option<u8> {
        match self {
            Self::TopK { k, .. } => Some(*k),
            Self::Recent { n, .. } => Some(*n),
            _ => None,
        }
    }

    /// The call as it is written: `top_k(sku, 3, by => amount)`.
    pub fn call(&self) -> String {
        let value = self.value().map_or("", |v| v.sql.as_str());
        let listed = self.listed().map(|n| format!(", {n}")).unwrap_or_default();
        let by = self.weight().map(|w| format!(", by => {}", w.sql)).unwrap_or_default();
        match self {
            Self::CountDistinct(..) => format!("count(distinct {value})"),
            other => format!("{}({value}{listed}{by})", other.name()),
        }
    }

    /// The name used in the rule language.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum(_) => "sum",
            Self::Min(_) => "min",
            Self::Max(_) => "max",
            Self::First(_) => "first",
            Self::Last(_) => "last",
            Self::CountDistinct(..) => "count_distinct",
            Self::FirstTime => "first_time",
            Self::LastTime => "last_time",
            Self::Mode { .. } => "mode",
            Self::TopK { .. } => "top_k",
            Self::Recent { .. } => "recent",
        }
    }

    /// The Arrow type of the feature's column. `sum` of a decimal(p,s) is decimal(38,s).
    pub fn data_type(&self, zone: &Zone) -> DataType {
        match self {
            Self::Count | Self::CountDistinct(..) => DataType::Int64,
            Self::Sum(e) => match e.data_type {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, scale),
                _ => DataType::Int64,
            },
            Self::Min(e)
            | Self::Max(e)
            | Self::First(e)
            | Self::Last(e)
            | Self::Mode { of: e, .. } => e.data_type.clone(),
            Self::TopK { of: e, .. } | Self::Recent { of: e, .. } => {
                DataType::new_list(e.data_type.clone(), true)
            }
            Self::FirstTime | Self::LastTime => timestamp_type(zone),
        }
    }
}

/// A named aggregate over a span: one column of the wide state.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Unique among features, dimension columns and tags.
    pub name: String,
    /// For people.
    pub doc: String,
    /// Index into `Catalog::streams`.
    pub stream: usize,
    /// What is aggregated.
    pub aggregate: Aggregate,
    /// Only events for which this is true.
    pub filter: Option<TypedExpr>,
    /// The days looked at.
    pub span: Span,
    /// `aggregate.data_type(zone)`.
    pub data_type: DataType,
    /// Where its name stands.
    pub place: Place,
}
