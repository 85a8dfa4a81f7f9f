//! What a generated catalogue is, and how it is written as YAML and SQL.

use std::fmt::Write as _;

use crate::dimensions::{Dimension, Table};
use crate::driven::Files;

/// A value of a column, a feature or a tag.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    Int(i64),
    U64(u64),
    /// Hundredths.
    Dec(i128),
    Float(f64),
    Str(String),
    Bool(bool),
    /// Days since 1970-01-01.
    Date(i64),
    /// Epoch milliseconds.
    Time(i64),
    List(Vec<Val>),
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    U64,
    Dec,
    Float,
    Str,
    Bool,
    Date,
    Time,
    List,
}

/// A row expression that features aggregate or filters look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowExpr {
    N,
    M,
    S,
    B,
    U,
    F,
    D,
    T,
    /// Derived: `n * 2 + 1`.
    Twice,
    /// Derived: a class of `s`.
    Class,
}

impl RowExpr {
    pub const ALL: [Self; 10] = [
        Self::N,
        Self::M,
        Self::S,
        Self::B,
        Self::U,
        Self::F,
        Self::D,
        Self::T,
        Self::Twice,
        Self::Class,
    ];

    pub fn sql(self) -> &'static str {
        match self {
            Self::N => "n",
            Self::M => "m",
            Self::S => "s",
            Self::B => "b",
            Self::U => "u",
            Self::F => "f",
            Self::D => "d",
            Self::T => "t",
            Self::Twice => "twice",
            Self::Class => "class",
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::N | Self::Twice => Kind::Int,
            Self::M => Kind::Dec,
            Self::S | Self::Class => Kind::Str,
            Self::B => Kind::Bool,
            Self::U => Kind::U64,
            Self::F => Kind::Float,
            Self::D => Kind::Date,
            Self::T => Kind::Time,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    pub const ALL: [Self; 6] = [Self::Eq, Self::Ne, Self::Lt, Self::Le, Self::Gt, Self::Ge];

    fn sql(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "<>",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

/// What is asked of one operand.
#[derive(Debug, Clone)]
pub enum Test {
    Cmp(Op, Val),
    /// Against the as-of day; the operand is a date.
    Today(Op),
    Between(Val, Val),
    In(Vec<Val>),
    IsNull,
    IsNotNull,
    /// A boolean by itself.
    Holds,
}

/// A condition over operands of a row or of tags.
#[derive(Debug, Clone)]
pub enum Cond<S> {
    Is(S, Test),
    Not(Box<Cond<S>>),
    All(Vec<Cond<S>>),
    Any(Vec<Cond<S>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agg {
    Count,
    Sum,
    Min,
    Max,
    First,
    Last,
    Distinct,
    FirstTime,
    LastTime,
    Mode,
    Top(u8),
    Recent(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Days(u32),
    /// Five minutes each.
    Hops(u32),
    Lifetime,
}

/// Features that differ only in span: one document with a matrix.
#[derive(Debug, Clone)]
pub struct Group {
    pub stream: usize,
    pub agg: Agg,
    pub value: Option<RowExpr>,
    /// What an event weighs.
    pub by: Option<RowExpr>,
    pub filter: Option<Cond<RowExpr>>,
    pub spans: Vec<Span>,
    /// Whole days back; 0 where a span is not of days.
    pub offset: u32,
}

/// What tags look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Feature(usize),
    /// `days_since` of a feature.
    Age(usize),
    /// How many values a list has.
    Length(usize),
    /// The first value of a list.
    Head(usize),
    Tag(usize),
    /// A dimension, and a column of it.
    Column(usize, usize),
}

/// A decimal number as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut(/** Thousandths. */ pub i128);

#[derive(Debug, Clone)]
pub enum Body {
    Bands {
        of: Source,
        cuts: Vec<Cut>,
        missing: bool,
    },
    Recency {
        of: Source,
        cuts: Vec<Cut>,
        missing: bool,
    },
    Ratio {
        num: Source,
        den: Source,
        cuts: Vec<Cut>,
        default: bool,
    },
    /// The label of key `i` is `m{i % 3}`.
    Map {
        of: Source,
        keys: Vec<Val>,
        default: bool,
    },
    Flag(Cond<Source>),
    YesNo(Cond<Source>),
    Plain(Source),
}

#[derive(Debug, Clone)]
pub struct Stream {
    pub dedupe: bool,
    /// Rows are changes of a table's rows.
    pub table: bool,
    /// Of a table: rows kept for a user.
    pub rows_max: Option<usize>,
    pub filter: Option<Cond<RowExpr>>,
}

/// One feature of a group.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    pub group: usize,
    pub span: Span,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub struct Spec {
    pub zone: &'static str,
    pub string_uid: bool,
    pub lateness_days: u32,
    pub exact_values_max: usize,
    pub streams: Vec<Stream>,
    pub groups: Vec<Group>,
    /// The groups' features.
    pub features: Vec<Feature>,
    pub tables: Vec<Table>,
    pub dimensions: Vec<Dimension>,
    pub tags: Vec<(Body, Kind)>,
    /// By tag: the first instant with a value, and the first without one again.
    pub valid: Vec<(Option<i64>, Option<i64>)>,
    /// When an account is closed.
    pub closed: Option<Cond<Source>>,
}

impl Group {
    pub fn kind(&self) -> Kind {
        match (self.agg, self.value) {
            (Agg::FirstTime | Agg::LastTime, _) => Kind::Time,
            (Agg::Top(_) | Agg::Recent(_), _) => Kind::List,
            (Agg::Sum, Some(value)) if value.kind() == Kind::Dec => Kind::Dec,
            (Agg::Count | Agg::Distinct | Agg::Sum, _) | (_, None) => Kind::Int,
            (_, Some(value)) => value.kind(),
        }
    }
}

impl Span {
    fn text(self) -> String {
        match self {
            Self::Days(days) => format!("{days}d"),
            Self::Hops(hops) if hops % 12 == 0 => format!("{}h", hops / 12),
            Self::Hops(hops) => format!("{}m", hops * 5),
            Self::Lifetime => "lifetime".to_owned(),
        }
    }
}

impl Cut {
    pub fn text(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.abs() / 1000, self.0.abs() % 1000);
        match rest {
            0 => format!("{sign}{whole}"),
            rest => format!("{sign}{whole}.{rest:03}"),
        }
    }
}

pub fn date_text(day: i64) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    (epoch + jiff::Span::new().days(day)).to_string()
}

/// A value as an SQL literal.
fn literal(value: &Val) -> String {
    match value {
        Val::Int(v) => v.to_string(),
        Val::U64(v) => v.to_string(),
        Val::Dec(v) => Cut(v * 10).text(),
        Val::Float(v) => v.to_string(),
        Val::Str(v) => format!("'{}'", v.replace('\'', "''")),
        Val::Bool(v) => v.to_string(),
        Val::Date(v) => format!("DATE '{}'", date_text(*v)),
        Val::Time(_) => unreachable!("instants are compared by their age"),
        Val::List(_) => unreachable!("lists are not compared"),
    }
}

impl<S: Copy> Cond<S> {
    pub fn sql(&self, name: &dyn Fn(S) -> String) -> String {
        let join = |parts: &[Self], word: &str| {
            let parts: Vec<String> = parts.iter().map(|p| p.sql(name)).collect();
            format!("({})", parts.join(word))
        };
        match self {
            Self::Not(inner) => format!("NOT {}", inner.sql(name)),
            Self::All(parts) => join(parts, " AND "),
            Self::Any(parts) => join(parts, " OR "),
            Self::Is(on, test) => {
                let on = name(*on);
                let tail = match test {
                    Test::Holds => return on,
                    Test::Cmp(op, value) => format!("{} {}", op.sql(), literal(value)),
                    Test::Today(op) => format!("{} as_of_date", op.sql()),
                    Test::Between(a, b) => format!("BETWEEN {} AND {}", literal(a), literal(b)),
                    Test::In(values) => {
                        let values: Vec<String> = values.iter().map(literal).collect();
                        format!("IN ({})", values.join(", "))
                    }
                    Test::IsNull => "IS NULL".to_owned(),
                    Test::IsNotNull => "IS NOT NULL".to_owned(),
                };
                format!("({on} {tail})")
            }
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Spec {
    pub fn feature_name(&self, feature: usize) -> String {
        let Feature { group, span, .. } = self.features[feature];
        format!("g{group}_{}", span.text())
    }

    pub fn source_name(&self, source: Source) -> String {
        match source {
            Source::Feature(f) => self.feature_name(f),
            Source::Age(f) => format!("days_since({})", self.feature_name(f)),
            Source::Length(f) => format!("array_length({})", self.feature_name(f)),
            Source::Head(f) => format!("{}[1]", self.feature_name(f)),
            Source::Tag(t) => format!("tag{t}"),
            Source::Column(dimension, column) => {
                self.dimensions[dimension].column_name(dimension, column)
            }
        }
    }

    pub fn kind_of(&self, source: Source) -> Kind {
        match source {
            Source::Feature(f) => self.features[f].kind,
            Source::Age(_) => Kind::Int,
            Source::Length(_) => Kind::U64,
            Source::Head(f) => self.item_kind(f),
            Source::Tag(t) => self.tags[t].1,
            Source::Column(dimension, column) => self.column_kind(dimension, column),
        }
    }

    /// The kind of a list's values.
    pub fn item_kind(&self, feature: usize) -> Kind {
        let group = &self.groups[self.features[feature].group];
        group.value.map_or(Kind::Int, RowExpr::kind)
    }

    /// The longest span of days, offset included.
    pub fn longest_days(&self) -> i64 {
        let days = self.features.iter().map(|f| match f.span {
            Span::Days(days) => i64::from(days + self.groups[f.group].offset),
            Span::Hops(hops) => i64::from(hops / 288),
            Span::Lifetime => 0,
        });
        days.max().unwrap_or(0)
    }

    /// The catalogue's files.
    pub fn files(&self) -> Files {
        let uid = if self.string_uid { "string" } else { "u64" };
        let closed = self.closed.as_ref().map_or(String::new(), |cond| {
            format!("closed: {}\n", quoted(&cond.sql(&|s| self.source_name(s))))
        });
        let mut files: Files = vec![
            (
                "catalog.yaml".into(),
                format!(
                    "name: generated\nuid: {uid}\ntimezone: {}\nallowed_lateness: {}d\n\
                     exact_values_max: {}\n{closed}",
                    self.zone, self.lateness_days, self.exact_values_max
                ),
            ),
            ("features/all.yaml".into(), self.groups_yaml()),
            ("rules/all.yaml".into(), self.tags_yaml()),
        ];
        if !self.dimensions.is_empty() {
            files.push(("dimensions/all.yaml".into(), self.dimensions_yaml()));
        }
        for (at, stream) in self.streams.iter().enumerate() {
            files.push((format!("streams/s{at}.yaml"), stream_yaml(at, stream, uid)));
        }
        files
    }

    fn groups_yaml(&self) -> String {
        let mut yaml = String::new();
        for (at, group) in self.groups.iter().enumerate() {
            let value = group.value.map_or("", RowExpr::sql);
            let by = group.by.map_or(String::new(), |w| format!(", by => {}", w.sql()));
            let call = match group.agg {
                Agg::Count => "count()".to_owned(),
                Agg::Sum => format!("sum({value})"),
                Agg::Min => format!("min({value})"),
                Agg::Max => format!("max({value})"),
                Agg::First => format!("first({value})"),
                Agg::Last => format!("last({value})"),
                Agg::Distinct => format!("count(distinct {value})"),
                Agg::FirstTime => "first_time()".to_owned(),
                Agg::LastTime => "last_time()".to_owned(),
                Agg::Mode => format!("mode({value}{by})"),
                Agg::Top(k) => format!("top_k({value}, {k}{by})"),
                Agg::Recent(n) => format!("recent({value}, {n})"),
            };
            let spans: Vec<String> = group.spans.iter().map(|s| s.text()).collect();
            write!(
                yaml,
                "---\nfeature: g{at}_{{span}}\nstream: s{}\nvalue: \"{call}\"\nwindow: '{{span}}'\n\
                 matrix: {{span: [{}]}}\n",
                group.stream,
                spans.join(", ")
            )
            .unwrap();
            if group.offset > 0 {
                writeln!(yaml, "offset: {}d", group.offset).unwrap();
            }
            if let Some(filter) = &group.filter {
                let sql = filter.sql(&|e: RowExpr| e.sql().to_owned());
                writeln!(yaml, "where: {}", quoted(&sql)).unwrap();
            }
        }
        yaml
    }

    fn tags_yaml(&self) -> String {
        let mut yaml = String::new();
        for (at, (body, _)) in self.tags.iter().enumerate() {
            writeln!(yaml, "---\ntag: tag{at}\n{}", self.body_yaml(body)).unwrap();
            // Tags that a test adds have no terms.
            let (from, until) = self.valid.get(at).copied().unwrap_or_default();
            for (key, ms) in [("valid_from", from), ("valid_until", until)] {
                if let Some(ms) = ms {
                    let at = jiff::Timestamp::from_millisecond(ms).unwrap();
                    writeln!(yaml, "{key}: {at}").unwrap();
                }
            }
        }
        yaml
    }

    fn body_yaml(&self, body: &Body) -> String {
        let name = |source: Source| self.source_name(source);
        let bands = |of: String, cuts: &[Cut], last: &str| {
            let labels: Vec<String> = (0..=cuts.len()).map(|i| format!("l{i}")).collect();
            let cuts: Vec<String> = cuts.iter().map(|c| c.text()).collect();
            format!("{{{of}, cuts: [{}], labels: [{}]{last}}}", cuts.join(", "), labels.join(", "))
        };
        let missing =
            |yes: bool, key: &str| if yes { format!(", {key}: none") } else { String::new() };
        match body {
            Body::Bands { of, cuts, missing: m } => {
                let of = format!("of: {}", quoted(&name(*of)));
                format!("bands: {}", bands(of, cuts, &missing(*m, "missing")))
            }
            Body::Recency { of, cuts, missing: m } => {
                let of = format!("of: {}", quoted(&name(*of)));
                format!("recency: {}", bands(of, cuts, &missing(*m, "missing")))
            }
            Body::Ratio { num, den, cuts, default } => {
                let of = format!("num: {}, den: {}", quoted(&name(*num)), quoted(&name(*den)));
                format!("ratio: {}", bands(of, cuts, &missing(*default, "default")))
            }
            Body::Map { of, keys, default } => {
                let key = |(i, key): (usize, &Val)| {
                    let text = match key {
                        Val::Str(text) => text.clone(),
                        Val::Date(day) => date_text(*day),
                        other => literal(other),
                    };
                    format!("{}: m{}", quoted(&text), i % 3)
                };
                let keys: Vec<String> = keys.iter().enumerate().map(key).collect();
                format!(
                    "map: {{of: {}, to: {{{}}}{}}}",
                    quoted(&name(*of)),
                    keys.join(", "),
                    missing(*default, "default")
                )
            }
            Body::Flag(cond) => format!("expr: {}", quoted(&cond.sql(&name))),
            Body::YesNo(cond) => {
                let sql = format!("CASE WHEN {} THEN 'y' ELSE 'n' END", cond.sql(&name));
                format!("expr: {}", quoted(&sql))
            }
            Body::Plain(source) => format!("expr: {}", quoted(&name(*source))),
        }
    }
}

fn stream_yaml(at: usize, stream: &Stream, uid: &str) -> String {
    let mut yaml = format!(
        "stream: s{at}\nfrom: {{file: s{at}.jsonl, format: json}}\ncolumns:\n  id: string\n  who: \
         {uid}\n  at: timestamp(ms)\n  n: 'int?'\n  m: 'decimal(12,2)?'\n  s: 'string?'\n  b: \
         'bool?'\n  u: 'u64?'\n  f: 'float?'\n  d: 'date?'\n  t: 'timestamp(ms)?'\nderive:\n  \
         twice: n * 2 + 1\n  class: \"CASE WHEN s LIKE 'a%' THEN 'a-ish' WHEN s >= 'b' THEN \
         'later' END\"\nuid: who\ntime: at\n"
    );
    if stream.table {
        yaml = yaml.replace("columns:\n", "columns:\n  op: string\n  v: int\n");
        yaml.push_str(
            "mode: changelog\nprimary_key: id\nversion: v\nbefore: before\noperation: {column: op, \
             insert: [c, r], update: u, delete: d}\n",
        );
        if let Some(rows_max) = stream.rows_max {
            writeln!(yaml, "rows_max: {rows_max}").unwrap();
        }
    } else if stream.dedupe {
        yaml.push_str("dedupe: {by: id}\n");
    }
    if let Some(filter) = &stream.filter {
        let sql = filter.sql(&|e: RowExpr| e.sql().to_owned());
        writeln!(yaml, "where: {}", quoted(&sql)).unwrap();
    }
    yaml
}
