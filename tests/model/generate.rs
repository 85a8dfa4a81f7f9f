//! Random catalogues and random events for them.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::meaning::{Change, Event};
use crate::spec::{
    Agg, Body, Cond, Cut, Feature, Group, Kind, Op, RowExpr, Source, Span, Spec, Stream, Test, Val,
};

pub const DAY_MS: i64 = 86_400_000;

pub const HOUR_MS: i64 = 3_600_000;
pub const HOP_MS: i64 = 300_000;

/// 2025-01-10T00:00Z: clocks change in most zones within the next 300 days.
pub const EPOCH_MS: i64 = 1_736_467_200_000;

/// Clocks change at night, at midnight (Cairo, Beirut), or never; one is 45 minutes off.
const ZONES: [&str; 8] = [
    "Europe/London",
    "America/New_York",
    "Asia/Shanghai",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Asia/Beirut",
    "Pacific/Auckland",
    "UTC",
];

const TEXTS: [&str; 9] = ["a", "ab", "b", "B", "", "ä", "zz", "it's", "c \"q\" \\"];

const ANY_KIND: [Kind; 8] =
    [Kind::Int, Kind::U64, Kind::Dec, Kind::Float, Kind::Str, Kind::Bool, Kind::Date, Kind::Time];

pub struct Random {
    pub rng: StdRng,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    pub fn upto(&mut self, max: i64) -> i64 {
        self.rng.random_range(0..=max)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("pools are not empty")
    }

    /// A value that events and conditions are likely to share.
    pub fn value(&mut self, kind: Kind) -> Val {
        match kind {
            Kind::Int => Val::Int(self.upto(9) - 3),
            Kind::U64 => Val::U64(self.upto(5).unsigned_abs()),
            Kind::Dec => Val::Dec(i128::from(self.upto(25) - 5) * 25),
            Kind::Float => Val::Float(eighths(self.upto(24) - 8)),
            Kind::Str => Val::Str(self.pick(&TEXTS).to_owned()),
            Kind::Bool => Val::Bool(self.one_in(2)),
            Kind::Date => Val::Date(EPOCH_MS / DAY_MS + self.upto(200)),
            Kind::Time => Val::Time(EPOCH_MS + self.upto(200 * DAY_MS)),
            Kind::List => unreachable!("columns are no lists"),
        }
    }

    /// A value as events have it, now and then an extreme one.
    pub fn cell(&mut self, kind: Kind) -> Option<Val> {
        if self.one_in(5) {
            return None;
        }
        if self.one_in(40) {
            return Some(match kind {
                Kind::Int => Val::Int(self.pick(&[i64::MAX, i64::MIN, 1 << 53])),
                Kind::U64 => Val::U64(self.pick(&[u64::MAX, 1 << 63])),
                Kind::Dec => Val::Dec(self.pick(&[999_999_999_999, -999_999_999_999])),
                Kind::Float => Val::Float(self.pick(&[-0.0, 1e300, -1e300])),
                Kind::Date => Val::Date(self.pick(&[-400_000, 0, 60_000])),
                Kind::Time => Val::Time(self.pick(&[-1, 0, 4_000_000_000_000])),
                _ => self.value(kind),
            });
        }
        Some(self.value(kind))
    }

    pub fn cells(&mut self) -> [Option<Val>; 8] {
        std::array::from_fn(|at| self.cell(RowExpr::ALL[at].kind()))
    }

    fn leaf_test(&mut self, kind: Kind, of_tags: bool) -> Test {
        match self.below(8) {
            0 => Test::IsNull,
            1 => Test::IsNotNull,
            _ if kind == Kind::Time => Test::IsNotNull,
            _ if kind == Kind::Bool => Test::Holds,
            2 if kind != Kind::Float => {
                let mut values = vec![self.value(kind), self.value(kind), self.value(kind)];
                values.dedup();
                Test::In(values)
            }
            3 if kind != Kind::Str => Test::Between(self.value(kind), self.value(kind)),
            4 if kind == Kind::Date && of_tags => Test::Today(self.pick(&Op::ALL)),
            _ => Test::Cmp(self.pick(&Op::ALL), self.value(kind)),
        }
    }

    fn cond<S: Copy>(
        &mut self,
        depth: u32,
        of_tags: bool,
        operand: &mut dyn FnMut(&mut Self) -> (S, Kind),
    ) -> Cond<S> {
        match self.below(if depth == 0 { 1 } else { 5 }) {
            3 => Cond::Not(Box::new(self.cond(depth - 1, of_tags, operand))),
            1 | 2 => {
                let parts = (0..self.rng.random_range(2..=3))
                    .map(|_| self.cond(depth - 1, of_tags, operand))
                    .collect();
                if self.one_in(2) { Cond::All(parts) } else { Cond::Any(parts) }
            }
            _ => {
                let (on, kind) = operand(self);
                Cond::Is(on, self.leaf_test(kind, of_tags))
            }
        }
    }

    fn row_cond(&mut self, depth: u32) -> Cond<RowExpr> {
        self.cond(depth, false, &mut |r| {
            let expr = r.pick(&RowExpr::ALL);
            (expr, expr.kind())
        })
    }

    fn group(&mut self, streams: usize) -> Group {
        use Agg::{Count, Distinct, First, FirstTime, Last, LastTime, Max, Min, Mode, Sum};
        let k = self.pick(&[1, 2, 3, 5, 100]);
        let agg = self.pick(&[
            Count,
            Sum,
            Sum,
            Min,
            Max,
            First,
            Last,
            Distinct,
            FirstTime,
            LastTime,
            Mode,
            Agg::Top(k),
            Agg::Recent(k),
        ]);
        let weights = [RowExpr::N, RowExpr::M, RowExpr::U, RowExpr::Twice];
        let weighed = matches!(agg, Mode | Agg::Top(_)) && self.one_in(2);
        let by = weighed.then(|| self.pick(&weights));
        let value = match agg {
            Count | FirstTime | LastTime => None,
            Sum => Some(self.pick(&[RowExpr::N, RowExpr::M, RowExpr::U, RowExpr::Twice])),
            _ => Some(self.pick(&RowExpr::ALL)),
        };
        let filter = self.one_in(2).then(|| self.row_cond(2));
        let lifetime = self.one_in(3);
        let mut spans: Vec<Span> = (0..self.rng.random_range(0..=3))
            .map(|_| {
                let any = self.rng.random_range(1..=90);
                Span::Days(self.pick(&[1, 2, 7, 30, 90, any]))
            })
            .collect();
        if lifetime || spans.is_empty() {
            spans.push(Span::Lifetime);
        }
        if self.one_in(3) {
            let any = self.rng.random_range(1..=2016);
            spans.push(Span::Hops(self.pick(&[1, 6, 12, 72, 288, 2016, any])));
        }
        let mut seen = Vec::new();
        spans.retain(|s| {
            !seen.contains(s) && {
                seen.push(*s);
                true
            }
        });
        let days = spans.iter().all(|s| matches!(s, Span::Days(_)));
        let offset = if days && self.one_in(3) { self.rng.random_range(1..=60) } else { 0 };
        Group { stream: self.below(streams), agg, value, by, filter, spans, offset }
    }

    fn cuts(&mut self, kind: Kind) -> Vec<Cut> {
        let step = match kind {
            Kind::Float => 125,
            Kind::Dec => self.pick(&[10, 250, 5]),
            _ => self.pick(&[1000, 1000, 500]),
        };
        let mut cuts: Vec<Cut> = (0..self.rng.random_range(1..=5))
            .map(|_| Cut(i128::from(self.upto(30) - 6) * step))
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// Something tags can look at, of one of these kinds.
    fn source(&mut self, spec: &Spec, kinds: &[Kind]) -> Option<Source> {
        let features = (0..spec.features.len()).map(Source::Feature);
        let ages = (0..spec.features.len())
            .filter(|f| spec.features[*f].kind == Kind::Time)
            .map(Source::Age);
        let lists = (0..spec.features.len()).filter(|f| spec.features[*f].kind == Kind::List);
        let of_lists = lists.flat_map(|f| [Source::Length(f), Source::Head(f)]);
        let tags = (0..spec.tags.len()).map(Source::Tag);
        let mut all: Vec<Source> = spec.dimension_columns().collect();
        // There are few columns beside the features.
        if all.is_empty() || !self.one_in(3) {
            all.extend(features.chain(ages).chain(of_lists).chain(tags));
        }
        all.retain(|s| kinds.contains(&spec.kind_of(*s)));
        all.choose(&mut self.rng).copied()
    }

    /// A condition over features, their ages and tags.
    fn tag_cond(&mut self, spec: &Spec) -> Cond<Source> {
        self.cond(2, true, &mut |r| {
            let of = r.source(spec, &ANY_KIND).expect("there is a feature or a column");
            (of, spec.kind_of(of))
        })
    }

    /// When an account is closed: often a matter of time alone.
    fn closed(&mut self, spec: &Spec) -> Cond<Source> {
        let instants = (0..spec.features.len()).filter(|f| spec.features[*f].kind == Kind::Time);
        let instants: Vec<usize> = instants.collect();
        if instants.is_empty() || self.one_in(3) {
            return self.tag_cond(spec);
        }
        let days = Val::Int(self.upto(60));
        Cond::Is(Source::Age(self.pick(&instants)), Test::Cmp(Op::Ge, days))
    }

    fn tag(&mut self, spec: &Spec) -> Option<(Body, Kind)> {
        use Kind::{Bool, Date, Dec, Float, Int, List, Str, Time, U64};
        let yes = self.one_in(2);
        Some(match self.below(8) {
            0 | 1 => {
                let of = self.source(spec, &[Int, U64, Dec, Float])?;
                let cuts = self.cuts(spec.kind_of(of));
                (Body::Bands { of, cuts, missing: yes }, Str)
            }
            2 => {
                let of = self.source(spec, &[Time])?;
                let cuts = self.cuts(Int);
                (Body::Recency { of, cuts, missing: yes }, Str)
            }
            3 => {
                let num = self.source(spec, &[Int, Dec])?;
                let den = self.source(spec, &[Int, Dec])?;
                (Body::Ratio { num, den, cuts: self.cuts(Dec), default: yes }, Str)
            }
            4 => {
                let of = self.source(spec, &[Int, U64, Str, Bool, Date])?;
                let mut keys = Vec::new();
                for _ in 0..self.rng.random_range(1..=5) {
                    let labels = ["l0", "l1", "m0", "none", "y"];
                    let key = match spec.kind_of(of) {
                        Str if self.one_in(2) => Val::Str(self.pick(&labels).to_owned()),
                        kind => self.value(kind),
                    };
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                (Body::Map { of, keys, default: yes }, Str)
            }
            5 | 6 => {
                let cond = self.tag_cond(spec);
                if yes { (Body::Flag(cond), Bool) } else { (Body::YesNo(cond), Str) }
            }
            _ => {
                let of = self.source(spec, &[&ANY_KIND[..], &[List]].concat())?;
                (Body::Plain(of), spec.kind_of(of))
            }
        })
    }

    /// A catalogue.
    pub fn spec(&mut self) -> Spec {
        let streams = self.rng.random_range(1..=3);
        // Now and then so many filters that their flags need words of their own.
        let groups = if self.one_in(8) { 50 } else { self.rng.random_range(2..=10) };
        let stream = |r: &mut Self| Stream {
            dedupe: r.one_in(2),
            table: r.one_in(3),
            rows_max: r.one_in(4).then(|| r.rng.random_range(2..=8)),
            filter: r.one_in(3).then(|| r.row_cond(1)),
        };
        let mut spec = Spec {
            zone: self.pick(&ZONES),
            string_uid: self.one_in(3),
            lateness_days: self.rng.random_range(0..=10),
            exact_values_max: self.pick(&[8, 8, 9, 16_384]),
            streams: (0..streams).map(|_| stream(self)).collect(),
            groups: (0..groups).map(|_| self.group(streams)).collect(),
            features: Vec::new(),
            tables: Vec::new(),
            dimensions: Vec::new(),
            tags: Vec::new(),
            valid: Vec::new(),
            closed: None,
        };
        for (at, group) in spec.groups.iter().enumerate() {
            let kind = group.kind();
            spec.features.extend(group.spans.iter().map(|s| Feature { group: at, span: *s, kind }));
        }
        self.dimensions(&mut spec);
        for _ in 0..self.rng.random_range(5..=20) {
            if let Some(tag) = self.tag(&spec) {
                spec.tags.push(tag);
            }
        }
        spec.closed = self.one_in(3).then(|| self.closed(&spec));
        // What depends on all values is seen as it is.
        for (at, feature) in spec.features.iter().enumerate() {
            let agg = spec.groups[feature.group].agg;
            if matches!(agg, Agg::Mode | Agg::Top(_) | Agg::Distinct) && self.one_in(3) {
                spec.tags.push((Body::Plain(Source::Feature(at)), feature.kind));
            }
        }
        let feature = self.below(spec.features.len());
        spec.tags.push((Body::Plain(Source::Feature(feature)), spec.features[feature].kind));
        spec.valid = (0..spec.tags.len()).map(|_| self.validity(spec.zone)).collect();
        spec
    }

    /// Mostly always; else instants among those that a run passes, often borders of days.
    fn validity(&mut self, zone: &str) -> (Option<i64>, Option<i64>) {
        if !self.one_in(8) {
            return (None, None);
        }
        let border = |r: &mut Self| {
            let at_ms = EPOCH_MS + r.upto(400 * DAY_MS);
            if r.one_in(2) { day_start(at_ms, zone) } else { at_ms }
        };
        let (a, b) = (border(self), border(self));
        match self.below(3) {
            0 => (Some(a), None),
            1 => (None, Some(a)),
            _ => (Some(a.min(b)), Some(a.max(b) + 1)),
        }
    }

    /// An event time: often at the border of a day, or the same as another event's.
    pub fn time(&mut self, spec: &Spec, before: &[Event], around_ms: i64) -> i64 {
        if self.one_in(6)
            && let Some(event) = before.choose(&mut self.rng)
        {
            return event.at_ms;
        }
        let at_ms = match self.below(16) {
            10 => around_ms - self.upto(HOUR_MS),
            11 => around_ms - self.upto(30 * HOUR_MS),
            12..=15 => around_ms - self.upto(7 * DAY_MS),
            0 => around_ms + self.upto(40 * DAY_MS),
            1 => around_ms - self.upto(300 * DAY_MS),
            2..=5 => around_ms - self.upto(8 * DAY_MS),
            _ => around_ms - self.upto(100 * DAY_MS),
        };
        if self.one_in(3) {
            return day_start(at_ms, spec.zone) + self.pick(&[-1, 0, 0, 1]);
        }
        if self.one_in(6) {
            return at_ms / HOP_MS * HOP_MS - self.pick(&[0, 1]);
        }
        at_ms
    }

    /// The next change of a table: of one of its rows, or a new one. `rows`: as they are now.
    pub fn change(&mut self, rows: &mut Vec<Event>, mut new: Event, version: i64) -> Event {
        let op = if rows.is_empty() { 'c' } else { self.pick(&['c', 'u', 'u', 'd']) };
        let mut before = None;
        if op != 'c' {
            let old = rows.swap_remove(self.below(rows.len()));
            new.id = old.id;
            if op == 'd' || self.one_in(2) {
                new.user = old.user;
            }
            before = Some(old);
        }
        if op != 'd' {
            rows.push(Event { broken: false, ..new.clone() });
        } else if let Some(old) = before.take() {
            new = Event { sent_day: new.sent_day, ..old };
        }
        let before = before.map(Box::new);
        Event { change: Some(Change { op, version, before }), ..new }
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        items.shuffle(&mut self.rng);
    }
}

/// The first instant of an instant's day.
pub fn day_start(at_ms: i64, zone: &str) -> i64 {
    let zone = jiff::tz::TimeZone::get(zone).unwrap();
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap().to_zoned(zone);
    at.start_of_day().unwrap().timestamp().as_millisecond()
}

#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
fn eighths(n: i64) -> f64 {
    n as f64 / 8.0
}
