//! The compiled catalogue: what every other part of tagloom reads.
//!
//! In: nothing (plain data, made by `catalog::load`). Out: streams, dimensions, features and tags
//! with resolved indices and typed expressions.
//! Invariant: no I/O, no clock; everything in here has been checked.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;

use super::place::Place;
use super::terms::Terms;
use crate::clock::Zone;

mod feature;

pub use self::feature::{Aggregate, Feature, Span};

/// How users are named. One type per store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UidType {
    /// An unsigned 64-bit number.
    U64,
    /// UTF-8 text.
    String,
}

/// A whole rule directory, checked.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The `name:` of `catalog.yaml`.
    pub name: String,
    /// The type of every stream's uid column.
    pub uid: UidType,
    /// The business timezone: where days begin.
    pub zone: Zone,
    /// How late an event may arrive and still be counted in its day, in milliseconds.
    pub allowed_lateness_ms: i64,
    /// How far beyond arrival an event time may lie, in milliseconds.
    pub max_ahead_ms: i64,
    /// Distinct values kept exactly for each feature.
    pub exact_values_max: u32,
    /// `$name` -> the literal it stands for.
    pub params: BTreeMap<String, Param>,
    /// In the order of their files.
    pub streams: Vec<Stream>,
    /// Sorted so that a dimension comes after the one that holds its key.
    pub dimensions: Vec<Dimension>,
    /// In catalogue order, matrix expanded.
    pub features: Vec<Feature>,
    /// In catalogue order, matrix expanded. This is the column order of an export.
    pub tags: Vec<Tag>,
    /// Tag indices such that a tag comes after the tags it reads.
    pub tag_order: Vec<usize>,
    /// The account of a user for whom this is true is closed. Reads what tags read, and tags.
    pub closed: Option<TypedExpr>,
    /// Cases of all tags, for `tagloom test`.
    pub cases: Vec<Case>,
    /// Tags that are gone, as `ids.lock` keeps them: name and id.
    pub removed: Vec<(String, String)>,
    /// Hash of everything that defines meaning; changes when any rule changes.
    pub fingerprint: u64,
}

impl Catalog {
    /// Its settings, without streams, features, dimensions, tags and cases.
    pub fn without_definitions(&self) -> Self {
        Self {
            name: self.name.clone(),
            zone: self.zone.clone(),
            params: self.params.clone(),
            streams: Vec::new(),
            dimensions: Vec::new(),
            features: Vec::new(),
            tags: Vec::new(),
            tag_order: Vec::new(),
            closed: None,
            cases: Vec::new(),
            removed: Vec::new(),
            fingerprint: 0,
            ..*self
        }
    }
}

/// A catalogue parameter, as the text in the file and the type it was read as.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// A whole number.
    Int(i64),
    /// An exact decimal: mantissa and scale.
    Decimal(i128, i8),
    /// Text.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
}

/// Where a stream's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// A file beside the catalogue (or given with `--source`).
    File {
        /// Path as written, relative to the catalogue's directory.
        path: String,
        /// How rows are written.
        format: Format,
    },
    /// A Kafka topic.
    Kafka {
        /// Topic name.
        topic: String,
        /// How records are written.
        format: Format,
    },
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line (or record).
    Json,
    /// RFC 4180 with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// One Debezium envelope a line (or record), with or without its schema.
    Debezium,
    /// One of Maxwell's JSON objects a line (or record).
    Maxwell,
    /// One of canal's flat messages a line (or record), of one row or several.
    Canal,
}

impl Format {
    /// Its word in a catalogue.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Debezium => "debezium",
            Self::Maxwell => "maxwell",
            Self::Canal => "canal",
        }
    }

    /// Whether records are envelopes around changes of a table's rows, which say themselves what
    /// happened and how the row was before.
    pub fn is_envelope(self) -> bool {
        matches!(self, Self::Debezium | Self::Maxwell | Self::Canal)
    }

    /// Of envelopes: the member that holds the row as it was.
    pub fn before(self) -> Option<&'static str> {
        match self {
            Self::Debezium => Some("before"),
            Self::Maxwell | Self::Canal => Some("old"),
            Self::Json | Self::Csv | Self::Parquet => None,
        }
    }
}

impl From {
    /// How rows are written.
    pub fn format(&self) -> Format {
        match self {
            Self::File { format, .. } | Self::Kafka { format, .. } => *format,
        }
    }
}

/// A source of events about users.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Unique among streams.
    pub name: String,
    /// For people.
    pub doc: String,
    /// Where rows come from.
    pub from: From,
    /// Of envelopes: the tables whose rows it reads, each `table` or `database.table`, `*` for any
    /// characters. None: of all.
    pub tables: Vec<String>,
    /// Source columns, in file order.
    pub columns: Vec<Column>,
    /// Row expressions, usable like columns; each may use those before it.
    pub derive: Vec<Derived>,
    /// Rows for which this is not true are not events (and no rejects). Evaluated before required
    /// columns are checked.
    pub filter: Option<TypedExpr>,
    /// Index into `columns`.
    pub uid: usize,
    /// Index into `columns`; its type is a timestamp.
    pub time: usize,
    /// How repeats are recognised, if at all.
    pub dedupe: Option<Dedupe>,
    /// `mode: changelog`: rows are changes of a table's rows. `None`: each row is an event.
    pub changelog: Option<Changelog>,
    /// The stream's name in its file.
    pub place: Place,
}

impl Stream {
    /// Name, type and nullability of everything a row expression may read: columns, then derived.
    pub fn row_fields(&self, zone: &Zone) -> Vec<(String, DataType)> {
        let columns = self.columns.iter().map(|c| (c.name.clone(), c.kind.data_type(zone)));
        let derived = self.derive.iter().map(|d| (d.name.clone(), d.expr.data_type.clone()));
        columns.chain(derived).collect()
    }
}

/// `dedupe:` of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// Index into `columns`.
    pub by: usize,
    /// How long an id is remembered; `None`: the horizon.
    pub within_ms: Option<i64>,
}

/// `mode: changelog` of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changelog {
    /// What tells the table's rows apart: indices into `columns`.
    pub primary_key: Vec<usize>,
    /// Of a row's versions the greatest counts. Index into `columns`; `None`: the place in the log.
    pub version: Option<usize>,
    /// What happened to the row. `None`: the envelope says it.
    pub operation: Option<OperationColumn>,
    /// The member of a JSON object that holds the row as it was before; in CSV its columns are named
    /// with this and a dot in front. `None`: a row never leaves its user.
    pub before: Option<String>,
    /// Rows kept for a user, those of deleted rows included.
    pub rows_max: u32,
}

impl Changelog {
    /// Whether nothing can be done with a change that lacks this column.
    pub fn needs(&self, column: usize) -> bool {
        self.primary_key.contains(&column)
            || self.version == Some(column)
            || self.operation.as_ref().is_some_and(|o| o.column == column)
    }
}

/// The column that says what happened to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationColumn {
    /// Index into `columns`; its type is a string.
    pub column: usize,
    /// Its values, and what they mean.
    pub words: Vec<(String, OperationKind)>,
}

/// What happened to a row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// It was added, or read in a snapshot.
    Insert,
    /// It was changed.
    Update,
    /// It is gone.
    Delete,
}

/// One source column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name in expressions.
    pub name: String,
    /// Its name in the source.
    pub from: String,
    /// Of envelopes: `from` is a member of the envelope, like `source.ts_ms`, and not a column of
    /// the row.
    pub envelope: bool,
    /// Its type.
    pub kind: ColumnType,
    /// False: may be missing or null (`?` behind the type).
    pub required: bool,
    /// Hidden in rejects, logs and `why`.
    pub mask: bool,
}

/// The types a source or dimension column may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// Unsigned 64-bit.
    U64,
    /// Signed 64-bit.
    Int,
    /// 64-bit floating point.
    Float,
    /// Exact, precision at most 18.
    Decimal {
        /// Digits in all, 1 to 18.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// UTF-8 text.
    String,
    /// `true` or `false`.
    Bool,
    /// A calendar day, `YYYY-MM-DD`.
    Date,
    /// An instant.
    Timestamp(TimestampFormat),
}

/// How an instant is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampFormat {
    /// Seconds since the epoch.
    Seconds,
    /// Milliseconds since the epoch.
    Millis,
    /// Microseconds since the epoch.
    Micros,
    /// ISO 8601; without offset it is local time in the catalogue's zone.
    Iso,
    /// strftime pattern; without offset it is local time in the catalogue's zone.
    Pattern(String),
    /// The same, where what has no offset is UTC.
    Utc(Box<TimestampFormat>),
    /// The same, where what looks like UTC is local time in the catalogue's zone: a `DATETIME`, which
    /// has no zone, as Debezium writes it.
    WallClock(Box<TimestampFormat>),
}

impl ColumnType {
    /// The Arrow type expressions see. Strings are plain `Utf8` to expressions, whatever the
    /// decoder keeps them in.
    pub fn data_type(&self, zone: &Zone) -> DataType {
        match self {
            Self::U64 => DataType::UInt64,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::String => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp(_) => timestamp_type(zone),
        }
    }
}

/// `Timestamp(ms, zone)`: the one type of instants in expressions.
pub fn timestamp_type(zone: &Zone) -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some(zone.name().into()))
}

/// An SQL expression after parsing, typing and simplifying.
#[derive(Debug, Clone)]
pub struct TypedExpr {
    /// Coerced and simplified; columns are unqualified and named as in the scope.
    pub expr: Expr,
    /// The type of its value.
    pub data_type: DataType,
    /// Names of the scope columns it reads, sorted, without `as_of` and `as_of_date`.
    pub columns: Vec<String>,
    /// The SQL it was made from, parameters and sugar expanded.
    pub sql: String,
    /// Where it stands.
    pub place: Place,
}

impl TypedExpr {
    /// True, whatever the row.
    pub fn always(place: Place) -> Self {
        let (expr, data_type) = (datafusion_expr::lit(true), DataType::Boolean);
        Self { expr, data_type, columns: Vec::new(), sql: "TRUE".to_owned(), place }
    }

    /// This, and at or after an instant by the column `time`.
    #[must_use]
    pub fn and_from(mut self, time: &str, from_ms: i64, zone: &Zone) -> Self {
        let instant = ScalarValue::TimestampMillisecond(Some(from_ms), Some(zone.name().into()));
        let column = Expr::Column(datafusion_common::Column::from_name(time));
        self.expr = self.expr.and(column.gt_eq(Expr::Literal(instant, None)));
        self.sql = format!("({}) AND {time} >= {from_ms}", self.sql);
        if !self.columns.iter().any(|c| c == time) {
            self.columns.push(time.to_owned());
            self.columns.sort_unstable();
        }
        self
    }
}

/// A named row expression of a stream.
#[derive(Debug, Clone)]
pub struct Derived {
    /// Unique among the stream's columns and derived columns.
    pub name: String,
    /// Its value.
    pub expr: TypedExpr,
}

/// What a dimension is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DimensionKey {
    /// The user's own key.
    Uid,
    /// Index into `Catalog::features`.
    Feature(usize),
    /// A column of an earlier dimension.
    Column {
        /// Index into `Catalog::dimensions`.
        dimension: usize,
        /// Index into its `columns`.
        column: usize,
    },
}

/// How rows reach the evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The whole table in memory.
    Preload,
    /// Rows looked up on demand and kept for `ttl_ms`.
    Cached,
    /// Rows looked up anew by every window, at a bounded rate.
    Direct,
    /// The whole table in memory, kept by a compacted topic.
    Broadcast,
}

impl Strategy {
    /// As the catalogue writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Preload => "preload",
            Self::Cached => "cached",
            Self::Direct => "direct",
            Self::Broadcast => "broadcast",
        }
    }
}

/// A table of attributes, looked up by `key`.
#[derive(Debug, Clone)]
pub struct Dimension {
    /// Unique among dimensions.
    pub name: String,
    /// For people.
    pub doc: String,
    /// The loaded table; several dimensions may share one.
    pub table: String,
    /// The file that `run` loads it from when that has changed, relative to the catalogue's
    /// directory. Without one the table is loaded by hand.
    pub file: Option<String>,
    /// `broadcast`: the compacted topic that keeps the table.
    pub topic: Option<String>,
    /// What it is looked up by.
    pub key: DimensionKey,
    /// Read as `<prefix><name>` in expressions.
    pub columns: Vec<DimensionColumn>,
    /// How rows reach the evaluation.
    pub strategy: Strategy,
    /// `cached`: how long a row is used before it is read again.
    pub ttl_ms: u64,
    /// How long beyond `ttl_ms` a row may serve when the store cannot be read.
    pub max_stale_ms: u64,
    /// Where its name stands.
    pub place: Place,
}

/// One column of a dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct DimensionColumn {
    /// Its name in expressions, prefix included.
    pub name: String,
    /// Its name in the table.
    pub from: String,
    /// Its type. Always nullable.
    pub kind: ColumnType,
}

/// A named, typed, documented expression over features, dimension columns and other tags.
#[derive(Debug, Clone)]
pub struct Tag {
    /// Unique among features, dimension columns and tags.
    pub name: String,
    /// For people.
    pub doc: String,
    /// Who answers for it.
    pub owner: String,
    /// What it belongs to.
    pub group: String,
    /// Free-form key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// Its value. Reads features, dimension columns and other tags by name.
    pub expr: TypedExpr,
    /// What its values are.
    pub domain: Domain,
    /// Short stable id from `ids.lock`, never reused. Empty when the lock has none yet.
    pub id: String,
    /// Names the tag had before.
    pub was: Vec<String>,
    /// The terms on which it is given out.
    pub terms: Terms,
    /// Where its name stands.
    pub place: Place,
}

/// What values a tag can have.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Known labels: `codes[i]` is the code of `labels[i]`, 1 to 254; 0 is "no value". `labels` is
    /// in the order of the lock, removed labels included. A bool tag has `false`, `true`.
    Closed {
        /// All labels, in lock order: `labels[i]` has code `i + 1`.
        labels: Vec<String>,
        /// True for a bool tag: labels are `false` (code 1) and `true` (code 2).
        bool: bool,
    },
    /// Any value of this type; the store keeps the value.
    Open(DataType),
}

/// Tag index -> expected label (`None`: no value).
pub type Expected = Vec<(usize, Option<String>)>;

/// One `cases:` entry of a tag.
#[derive(Debug, Clone)]
pub struct Case {
    /// Index of the tag under which it is written.
    pub tag: usize,
    /// The virtual clock, epoch milliseconds.
    pub as_of_ms: i64,
    /// Rows by stream index: column name -> text as JSON value; times already made absolute.
    pub given: Vec<(usize, serde_json::Map<String, serde_json::Value>)>,
    /// Dimension rows: table name -> rows (column -> value), where the case gives any.
    pub dimensions: BTreeMap<String, Vec<serde_json::Map<String, serde_json::Value>>>,
    /// Tag index -> expected label (`None`: no value).
    pub expect: Expected,
    /// Later checks: milliseconds after `as_of_ms` (whole days are calendar days already applied).
    pub after: Vec<(i64, Expected)>,
    /// Where it stands.
    pub place: Place,
}
