//! How one event of a stream is kept in a user's state: a row of a few 64-bit words.
//!
//! In: a checked catalogue. Out: for each stream the filters, values and partials that its features
//! need, and where each stands in the row.
//!
//! A row is:
//!
//! | word | content |
//! |---|---|
//! | 0 | event time, epoch ms, in the upper 56 bits (signed); stream index in the lower 8 |
//! | 1 | day of the event in the lower 24 bits (signed); 40 bits of flags above |
//! | 2.. | further words of flags, 64 each, where 40 are not enough |
//! | then | the event id (64-bit hash), for streams that dedupe |
//! | then | the hash of the table's key, and the version, for streams of changes |
//! | then | values of 8 bytes |
//! | then | values of 4 bytes, two a word |
//!
//! Flags are: for each value "it is NULL", then for each filter "it is true".
//! Invariant: no clock, no I/O; the same catalogue gives the same layout.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use super::lineage::{Cut, Lineage, meaning, rows, table};
use super::wanted::{FilterPlan, Wanted, values, wanted};
use crate::catalog::model::{Aggregate, Catalog, Changelog, ColumnType, Span, Stream, TypedExpr};
use crate::clock::Day;

/// Different ages at which the spans of one stream begin or end.
const BORDERS_MAX: usize = 250;

/// Hops of most days.
const HOPS_PER_DAY: u32 = 288;

/// Bits of flags that fit beside the day.
const FLAGS_BESIDE_DAY: usize = 40;

/// How a value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueKind {
    /// Signed integer.
    Int,
    /// Unsigned integer.
    U64,
    /// Floating point, `-0` stored as `0`.
    Float,
    /// The mantissa of a decimal(precision, scale), precision at most 18.
    Decimal(u8, i8),
    /// Epoch milliseconds.
    Timestamp,
    /// 64-bit hash of a text that is only counted.
    Hash,
    /// Code of an interned text.
    Text,
    /// Days since 1970-01-01.
    Date,
    /// 0 or 1.
    Bool,
}

impl ValueKind {
    pub(super) fn of(data_type: &DataType, only_counted: bool) -> Option<Self> {
        Some(match data_type {
            DataType::Int64 => Self::Int,
            DataType::UInt64 => Self::U64,
            DataType::Float64 => Self::Float,
            DataType::Decimal128(p, s) if *p <= 18 => Self::Decimal(*p, *s),
            DataType::Timestamp(_, _) => Self::Timestamp,
            DataType::Utf8 if only_counted => Self::Hash,
            DataType::Utf8 => Self::Text,
            DataType::Date32 => Self::Date,
            DataType::Boolean => Self::Bool,
            _ => return None,
        })
    }

    /// Whether the value takes half a word.
    pub fn is_half(self) -> bool {
        matches!(self, Self::Text | Self::Date | Self::Bool)
    }

    /// Maps a stored word to one whose unsigned order is the value's order (not for `Text`).
    pub fn order_key(self, word: u64) -> u64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Self::Int | Self::Decimal(..) | Self::Timestamp => word ^ SIGN,
            Self::Float if word & SIGN != 0 => !word,
            Self::Float => word | SIGN,
            Self::Date => u64::from(low32(word) ^ (1 << 31)),
            Self::U64 | Self::Hash | Self::Text | Self::Bool => word,
        }
    }

    /// The inverse of [`ValueKind::order_key`].
    pub fn from_order_key(self, key: u64) -> u64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Self::Float if key & SIGN != 0 => key & !SIGN,
            Self::Float => !key,
            _ => self.order_key(key),
        }
    }
}

impl ValueKind {
    /// Maps a stored word to a signed number whose order is the value's order (not for `Text`,
    /// which stays its code). Whole numbers, decimals and instants are themselves.
    #[inline]
    pub fn signed_key(self, word: u64) -> i64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Self::Date => i64::from(low32(word).cast_signed()),
            Self::Text | Self::Bool => word.cast_signed(),
            _ => (self.order_key(word) ^ SIGN).cast_signed(),
        }
    }

    /// The inverse of [`ValueKind::signed_key`].
    #[expect(clippy::cast_possible_truncation, reason = "a date's key has 32 bits")]
    pub fn from_signed_key(self, key: i64) -> u64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Self::Date => u64::from((key as i32).cast_unsigned()),
            Self::Text | Self::Bool => key.cast_unsigned(),
            _ => self.from_order_key(key.cast_unsigned() ^ SIGN),
        }
    }
}

/// The lower half of a word.
pub fn low32(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// What an event contributes to, over one value and one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PartialKind {
    /// Number of events.
    Count,
    /// Exact sum.
    Sum,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Value with the least (event time, value).
    First,
    /// Value with the greatest (event time, value).
    Last,
    /// Number of distinct values.
    CountDistinct,
    /// Least event time.
    FirstTime,
    /// Greatest event time.
    LastTime,
    /// Each distinct value's weight.
    Tally,
    /// This many values with the greatest (event time, value).
    Recent(u8),
}

impl PartialKind {
    fn of(aggregate: &Aggregate) -> Self {
        match aggregate {
            Aggregate::Count => Self::Count,
            Aggregate::Sum(_) => Self::Sum,
            Aggregate::Min(_) => Self::Min,
            Aggregate::Max(_) => Self::Max,
            Aggregate::First(_) => Self::First,
            Aggregate::Last(_) => Self::Last,
            Aggregate::CountDistinct(..) => Self::CountDistinct,
            Aggregate::FirstTime => Self::FirstTime,
            Aggregate::LastTime => Self::LastTime,
            Aggregate::Mode { .. } | Aggregate::TopK { .. } => Self::Tally,
            Aggregate::Recent { n, .. } => Self::Recent(*n),
        }
    }
}

/// A mergeable aggregate of one value under one filter; features that differ only in span share it.
#[derive(Debug, Clone)]
pub struct Partial {
    /// What is aggregated.
    pub kind: PartialKind,
    /// Index into [`StreamLayout::values`].
    pub value: Option<usize>,
    /// Index into [`StreamLayout::values`] of what an event weighs.
    pub weight: Option<usize>,
    /// Index into [`StreamLayout::filters`].
    pub filter: Option<usize>,
    /// Distinct values that are kept; of more, a sample: see [`crate::user::sample`].
    pub values_max: usize,
    /// (feature index in the catalogue, its span).
    pub features: Vec<(usize, Span)>,
    /// Whether a feature over everything needs it.
    pub lifetime: bool,
    /// Hash of what it aggregates and since when; equal across catalogues that mean the same.
    pub fingerprint: u64,
    /// The catalogue version since which it has seen events.
    pub since: u32,
    /// [`origin`](super::lineage::origin) of what it serves: of days, of everything, or both.
    pub origins: Vec<u64>,
    /// Where its history ends, if it has one, and its fingerprint as if it had none.
    pub cut: Option<(Cut, u64)>,
}

/// A value that rows hold.
#[derive(Debug, Clone)]
pub struct Value {
    /// The row expression.
    pub expr: TypedExpr,
    /// How it is kept.
    pub kind: ValueKind,
    /// Index of the word that holds it.
    pub word: usize,
    /// For half words: whether it is the upper half.
    pub upper: bool,
    /// Flag bit that says it is NULL.
    pub null_flag: usize,
    /// Hash of the expression and kind.
    pub fingerprint: u64,
}

/// A filter whose truth rows hold.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The row expression, which is false for events that history brings.
    pub expr: TypedExpr,
    /// The SQL of the features' own filter.
    pub sql: String,
    /// The catalogue version since which it is looked at; in rows from before it is false.
    pub since: u32,
    /// Flag bit that says it is true.
    pub flag: usize,
    /// Hash of the expression, of `since` and of the cut.
    pub fingerprint: u64,
    /// Where history ends for those who look at it, and the fingerprint of the filter they would
    /// look at without one; none: they would look at none.
    pub cut: Option<(Cut, Option<u64>)>,
}

/// How events of one stream are kept.
#[derive(Debug, Clone)]
pub struct StreamLayout {
    /// Index into `Catalog::streams`.
    pub stream: u8,
    /// The stream's name.
    pub name: String,
    /// Words a row takes.
    pub width: usize,
    /// Index of the word with the event id.
    pub id_word: Option<usize>,
    /// Rows are those of a table that changes.
    pub changelog: Option<ChangelogLayout>,
    /// Values, 8-byte ones first.
    pub values: Vec<Value>,
    /// Index of the first value that takes half a word.
    pub first_half: usize,
    /// Distinct filters.
    pub filters: Vec<Filter>,
    /// Distinct partials.
    pub partials: Vec<Partial>,
    /// Hops that the longest rolling span takes; 0: there is none.
    pub rolling_hops: u32,
    /// Later events are not folded: a history is being read.
    pub before_ms: Option<i64>,
}

/// How rows of a table that changes are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangelogLayout {
    /// Index of the word with the hash of the key.
    pub key_word: usize,
    /// Index of the word with the version; greater is newer.
    pub version_word: usize,
    /// Rows kept for a user.
    pub rows_max: usize,
    /// Hash of what makes a key and a version: rows with another one cannot be compared.
    pub fingerprint: u64,
}

/// How the whole state is kept, and what the calendar means to it.
#[derive(Debug, Clone)]
pub struct StateLayout {
    /// One for each stream, by index.
    pub streams: Vec<StreamLayout>,
    /// Tiles older than this many days are rolled up.
    pub horizon_days: u32,
    /// By feature: how many values its list has at most; `None`: it is no list.
    pub listed: Vec<Option<u8>>,
    /// Whether a stream's rows are those of a table that changes.
    pub has_changelog: bool,
}

/// A catalogue whose state cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// More streams than a row can name.
    #[error("{0} streams; at most 255 are supported: split the catalogue")]
    Streams(usize),
    /// More span borders in one stream than buckets can be told apart.
    #[error(
        "stream `{stream}`: its features' spans begin and end at {borders} different ages; at most {BORDERS_MAX} are supported: use fewer different spans and offsets"
    )]
    Borders {
        /// The stream.
        stream: String,
        /// Different ages.
        borders: usize,
    },
    /// A value of a type that state cannot hold.
    #[error(
        "feature `{feature}`: values of type {data_type} cannot be kept; CAST it to int, decimal(18,s), float, string, date or timestamp"
    )]
    Type {
        /// Feature's name.
        feature: String,
        /// What its value is.
        data_type: DataType,
    },
}

/// Fixed-seed 64-bit hash (XXH3) of bytes: the same on every machine and in every run.
pub fn hash64(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

impl StateLayout {
    /// The same for rows from the time of a version: what is newer is not looked at in them.
    #[must_use]
    pub fn known_in(&self, version: u32) -> Self {
        let mut known = self.clone();
        for stream in &mut known.streams {
            stream.filters.retain(|filter| filter.since <= version);
        }
        known
    }

    /// Lays out the state that a catalogue's features need. `lineage`: since when.
    pub fn new(catalog: &Catalog, lineage: &Lineage) -> Result<Self, LayoutError> {
        if catalog.streams.len() > 255 {
            return Err(LayoutError::Streams(catalog.streams.len()));
        }
        let streams = (0..catalog.streams.len())
            .map(|at| StreamLayout::new(catalog, at, lineage))
            .collect::<Result<Vec<_>, _>>()?;
        let spans = catalog.features.iter().map(|f| f.span);
        let longest = spans.chain(lineage.retired.iter().map(|r| r.span)).filter_map(|s| match s {
            Span::Days { days, offset } => Some(days + offset),
            // It begins within a day, and a day may be short.
            Span::Rolling { hops } => Some(hops.div_ceil(HOPS_PER_DAY) + 1),
            Span::Lifetime => None,
        });
        let lateness_days = catalog.allowed_lateness_ms.div_euclid(86_400_000)
            + i64::from(catalog.allowed_lateness_ms % 86_400_000 != 0);
        let horizon_days =
            longest.max().unwrap_or(0) + u32::try_from(lateness_days).unwrap_or(u32::MAX / 2);
        let horizon_days = horizon_days.max(lineage.horizon_days_min);
        let has_changelog = catalog.streams.iter().any(|s| s.changelog.is_some());
        let listed = catalog.features.iter().map(|f| f.aggregate.listed()).collect();
        Ok(Self { streams, horizon_days, listed, has_changelog })
    }
}

impl ChangelogLayout {
    fn new(changelog: &Changelog, stream: &Stream, word: usize) -> Self {
        Self {
            key_word: word,
            version_word: word + 1,
            rows_max: usize::try_from(changelog.rows_max).unwrap_or(usize::MAX),
            fingerprint: hash64(table(stream, changelog).as_bytes()),
        }
    }
}

impl StreamLayout {
    /// The word by which a row is found again: that of the event id, or of the table's key.
    #[inline]
    pub fn found_by(&self) -> Option<usize> {
        self.id_word.or(self.changelog.as_ref().map(|c| c.key_word))
    }

    fn new(catalog: &Catalog, at: usize, lineage: &Lineage) -> Result<Self, LayoutError> {
        let stream = &catalog.streams[at];
        let wanted = wanted(catalog, at, lineage);
        let mut kinds: Vec<(TypedExpr, ValueKind)> =
            values(&wanted)?.into_values().map(|(expr, kind)| (expr.clone(), kind)).collect();
        kinds.sort_by_key(|(_, kind)| kind.is_half());
        let mut filters: BTreeMap<(&str, u32, Option<Cut>), FilterPlan> = BTreeMap::new();
        for want in &wanted {
            if let Some(flag) = want.flag() {
                filters.entry(flag).or_insert_with(|| FilterPlan::new(want, stream, &catalog.zone));
            }
        }
        let filters = filters.into_values().collect();
        let mut layout = Self {
            stream: u8::try_from(at).unwrap_or(u8::MAX),
            name: stream.name.clone(),
            width: 0,
            id_word: None,
            changelog: None,
            values: Vec::new(),
            first_half: kinds.iter().take_while(|(_, kind)| !kind.is_half()).count(),
            filters: Vec::new(),
            partials: Vec::new(),
            rolling_hops: 0,
            before_ms: lineage.before_ms,
        };
        layout.place(stream, kinds, filters);
        let (mut days, mut hops) = (BTreeSet::new(), BTreeSet::from([0]));
        for want in wanted.iter().filter(|w| w.feature.is_some()) {
            match want.span {
                Span::Days { days: long, offset } => days.extend([offset, offset + long]),
                Span::Rolling { hops: long } => hops.extend([long]),
                Span::Lifetime => {}
            }
        }
        let borders = days.len().max(hops.len());
        if borders > BORDERS_MAX {
            return Err(LayoutError::Borders { stream: stream.name.clone(), borders });
        }
        let rolling =
            wanted.iter().map(|w| if let Span::Rolling { hops } = w.span { hops } else { 0 });
        layout.rolling_hops = rolling.max().unwrap_or(0);
        let rows = rows(stream);
        for want in &wanted {
            layout.add(want, &rows);
        }
        Ok(layout)
    }

    fn place(
        &mut self,
        stream: &Stream,
        values: Vec<(TypedExpr, ValueKind)>,
        filters: Vec<FilterPlan>,
    ) {
        let flags = values.len() + filters.len();
        let mut word = 2 + flags.saturating_sub(FLAGS_BESIDE_DAY).div_ceil(64);
        if stream.dedupe.is_some() {
            self.id_word = Some(word);
            word += 1;
        }
        if let Some(changelog) = &stream.changelog {
            self.changelog = Some(ChangelogLayout::new(changelog, stream, word));
            word += 2;
        }
        let mut upper = false;
        for (null_flag, (expr, kind)) in values.into_iter().enumerate() {
            let fingerprint = hash64(format!("{}|{kind:?}", meaning(stream, &expr)).as_bytes());
            self.values.push(Value { expr, kind, word, upper, null_flag, fingerprint });
            if !kind.is_half() || upper {
                word += 1;
            }
            upper = kind.is_half() && !upper;
        }
        self.width = word + usize::from(upper);
        let first = self.values.len();
        let filter = |(at, plan): (usize, FilterPlan)| Filter {
            flag: first + at,
            fingerprint: plan.fingerprint,
            expr: plan.expr,
            since: plan.since,
            sql: plan.sql,
            cut: plan.cut,
        };
        self.filters = filters.into_iter().enumerate().map(filter).collect();
    }

    /// `rows`: which rows are events at all.
    fn add(&mut self, want: &Wanted<'_>, rows: &str) {
        let kind = PartialKind::of(want.aggregate);
        let value = want.aggregate.value().and_then(|v| {
            let all = || self.values.iter().enumerate().filter(|(_, x)| x.expr.sql == v.sql);
            let as_hash = |(_, x): &(usize, &Value)| x.kind == ValueKind::Hash;
            let hashed = want.hashed(all().all(|v| as_hash(&v)));
            all().find(|v| as_hash(v) == hashed).or_else(|| all().next()).map(|(at, _)| at)
        });
        let weight = want.aggregate.weight();
        let weight = weight.and_then(|w| self.values.iter().position(|v| v.expr.sql == w.sql));
        let values_max = want.aggregate.values_max();
        let filter = want.flag().and_then(|(sql, since, cut)| {
            let is = |f: &Filter| f.sql == sql && f.since == since && f.cut.map(|c| c.0) == cut;
            self.filters.iter().position(is)
        });
        let same = |p: &Partial| {
            p.kind == kind && p.value == value && p.weight == weight && p.filter == filter
        };
        let at = self.partials.iter().position(same).unwrap_or_else(|| {
            let print = |v: Option<usize>| v.map(|v| self.values[v].fingerprint);
            let (value_print, weight_print) = (print(value), print(weight));
            let filter_print = filter.map(|f| self.filters[f].fingerprint);
            let fingerprint = |filter: Option<u64>| {
                let mut what = format!("{rows}|{kind:?}|{value_print:?}|{filter:?}");
                if weight.is_some() || values_max.is_some() {
                    what.push_str(&format!("|{weight_print:?}|{values_max:?}"));
                }
                hash64(what.as_bytes())
            };
            let cut = filter.and_then(|f| self.filters[f].cut);
            let cut = cut.map(|(cut, base)| (cut, fingerprint(base)));
            self.partials.push(Partial {
                kind,
                value,
                weight,
                filter,
                values_max: values_max.map_or(0, |max| usize::try_from(max).unwrap_or(usize::MAX)),
                features: Vec::new(),
                lifetime: false,
                fingerprint: fingerprint(filter_print),
                since: want.since,
                origins: Vec::new(),
                cut,
            });
            self.partials.len() - 1
        });
        let partial = &mut self.partials[at];
        partial.features.extend(want.feature.map(|feature| (feature, want.span)));
        partial.lifetime |= want.span == Span::Lifetime;
        if !partial.origins.contains(&want.origin) {
            partial.origins.push(want.origin);
        }
    }

    /// Whether a text column is used only where its hash does (`count(distinct c)` or the event id).
    pub fn only_hashed(&self, catalog: &Catalog, column: &str) -> bool {
        let s = &catalog.streams[usize::from(self.stream)];
        let reads = |e: &TypedExpr| e.columns.iter().any(|c| c == column);
        let column_kind = s.columns.iter().find(|c| c.name == column).map(|c| &c.kind);
        if column_kind != Some(&ColumnType::String) || s.columns[s.uid].name == column {
            return false;
        }
        let hashed = |v: &Value| v.kind == ValueKind::Hash && v.expr.sql == column;
        let elsewhere = s.derive.iter().any(|d| reads(&d.expr))
            || s.filter.as_ref().is_some_and(reads)
            || self.values.iter().any(|v| reads(&v.expr) && !hashed(v))
            || self.filters.iter().any(|f| reads(&f.expr));
        !elsewhere
    }
}

/// Packs time and stream into word 0. Times beyond 55 bits (a million years) are cut off by decode.
pub fn pack_time(time_ms: i64, stream: u8) -> u64 {
    (time_ms.cast_unsigned() << 8) | u64::from(stream)
}

/// Event time of a row's word 0, epoch milliseconds.
pub fn row_time(word0: u64) -> i64 {
    word0.cast_signed() >> 8
}

/// Stream of a row's word 0.
pub fn row_stream(word0: u64) -> usize {
    (word0 & 0xff) as usize
}

/// Packs the day into word 1, all flags clear.
pub fn pack_day(day: Day) -> u64 {
    u64::from(day.cast_unsigned()) & 0xff_ffff
}

/// Day of a row's word 1.
pub fn row_day(word1: u64) -> Day {
    (low32(word1) << 8).cast_signed() >> 8
}

/// Word and bit of a flag.
pub fn flag_at(flag: usize) -> (usize, u32) {
    let bit = if flag < FLAGS_BESIDE_DAY { flag + 24 } else { (flag - FLAGS_BESIDE_DAY) % 64 };
    let word = if flag < FLAGS_BESIDE_DAY { 1 } else { 2 + (flag - FLAGS_BESIDE_DAY) / 64 };
    (word, u32::try_from(bit).unwrap_or(0))
}

/// Sets a row's flag.
pub(super) fn set_flag(row: &mut [u64], flag: usize) {
    let (word, bit) = flag_at(flag);
    row[word] |= 1 << bit;
}

/// Whether a row's flag is set.
pub fn flag_set(row: &[u64], flag: usize) -> bool {
    let (word, bit) = flag_at(flag);
    row[word] >> bit & 1 == 1
}

/// Reads a value's word (upper half shifted down).
pub fn value_word(row: &[u64], value: &Value) -> u64 {
    let word = row[value.word];
    match (value.kind.is_half(), value.upper) {
        (false, _) => word,
        (true, false) => word & 0xffff_ffff,
        (true, true) => word >> 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_give_back_what_was_packed() {
        for time in [0, -1, 1_774_958_400_000, -62_135_596_800_000] {
            assert_eq!(row_time(pack_time(time, 7)), time);
            assert_eq!(row_stream(pack_time(time, 7)), 7);
        }
        for day in [0, -1, 20_000, -719_162] {
            assert_eq!(row_day(pack_day(day) | 0xffff_ffff << 24), day);
        }
    }

    #[test]
    fn order_keys_sort_like_values() {
        let check = |kind: ValueKind, ascending: &[u64]| {
            let keys: Vec<u64> = ascending.iter().map(|w| kind.order_key(*w)).collect();
            assert!(keys.windows(2).all(|k| k[0] < k[1]), "{kind:?} {keys:?}");
            let back: Vec<u64> = keys.iter().map(|k| kind.from_order_key(*k)).collect();
            assert_eq!(back, ascending);
            let keys: Vec<i64> = ascending.iter().map(|w| kind.signed_key(*w)).collect();
            assert!(keys.windows(2).all(|k| k[0] < k[1]), "{kind:?} {keys:?}");
            let back: Vec<u64> = keys.iter().map(|k| kind.from_signed_key(*k)).collect();
            assert_eq!(back, ascending);
        };
        check(ValueKind::U64, &[0, 1, u64::MAX]);
        check(ValueKind::Int, &[i64::MIN, -1, 0, 1, i64::MAX].map(i64::cast_unsigned));
        check(
            ValueKind::Float,
            &[f64::NEG_INFINITY, -1.5, 0.0, 1e-300, f64::INFINITY, f64::NAN].map(f64::to_bits),
        );
        check(ValueKind::Date, &[-5i32, 0, 20_000].map(|d| u64::from(d.cast_unsigned())));
    }
}
