//! What a catalogue and its events mean: SEMANTICS sections 1 to 4, straight from the text. All
//! events are looked at again for every feature of every user.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use crate::dimensions::Rows;
use crate::spec::{
    Agg, Body, Cond, Cut, Feature, Group, Kind, Op, RowExpr, Source, Span, Spec, Test, Val,
    date_text,
};
use crate::told::Told;
use crate::versions::{Chosen, Known};

/// One row of a stream.
#[derive(Debug, Clone)]
pub struct Event {
    pub stream: usize,
    pub user: usize,
    pub id: u32,
    pub at_ms: i64,
    /// By the first eight of [`RowExpr::ALL`].
    pub cells: [Option<Val>; 8],
    /// Written so that it is a reject.
    pub broken: bool,
    /// Of a stream that is a table: what happened to the row whose key is `id`.
    pub change: Option<Change>,
    /// The day on which it was sent first.
    pub sent_day: i64,
}

/// A change of a table's row.
#[derive(Debug, Clone)]
pub struct Change {
    /// `c`, `u` or `d`; of a deletion the event is the row as it was.
    pub op: char,
    pub version: i64,
    /// Of an update.
    pub before: Option<Box<Event>>,
}

/// All events so far.
pub struct Model<'a> {
    pub spec: &'a Spec,
    zone: TimeZone,
    events: Vec<(Event, i64)>,
    /// Arrival of each of them, among all that came.
    arrived: Vec<usize>,
    arrivals: usize,
    pub known: Known,
    /// By number.
    pub histories: Vec<Told>,
    /// Rows of tables, and those that are gone, by stream, user and key.
    rows: BTreeMap<(usize, usize, u32), Row>,
    /// What users find in dimension tables.
    pub rows_of_tables: Rows,
}

/// The greatest version of a row that a user has seen.
struct Row {
    version: i64,
    arrived: usize,
    /// None: it is gone.
    live: Option<(Event, i64)>,
}

/// The calendar day of an instant, days since 1970-01-01.
pub fn day_of(at_ms: i64, zone: &TimeZone) -> i64 {
    let date = jiff::Timestamp::from_millisecond(at_ms).unwrap().to_zoned(zone.clone()).date();
    i64::from(date.since(jiff::civil::date(1970, 1, 1)).unwrap().get_days())
}

/// Greater, equal or less, of values of one kind, or of two kinds of exact numbers.
pub fn compare(a: &Val, b: &Val) -> Ordering {
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
        (Val::Date(a), Val::Date(b)) | (Val::Time(a), Val::Time(b)) => a.cmp(b),
        (Val::Float(a), Val::Float(b)) => a.total_cmp(b),
        _ => thousandths(a).cmp(&thousandths(b)),
    }
}

/// An instant and its day.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub ms: i64,
    pub day: i64,
}

/// The five minutes that an instant lies in.
fn hop(at_ms: i64) -> i64 {
    at_ms.div_euclid(5 * 60 * 1000)
}

fn thousandths(value: &Val) -> i128 {
    match value {
        Val::Int(v) => i128::from(*v) * 1000,
        Val::U64(v) => i128::from(*v) * 1000,
        Val::Dec(v) => v * 10,
        other => panic!("{other:?} is no exact number"),
    }
}

fn holds(op: Op, order: Ordering) -> bool {
    match op {
        Op::Eq => order.is_eq(),
        Op::Ne => order.is_ne(),
        Op::Lt => order.is_lt(),
        Op::Le => order.is_le(),
        Op::Gt => order.is_gt(),
        Op::Ge => order.is_ge(),
    }
}

/// SQL's three-valued logic: `None` is NULL.
fn decide<S: Copy>(cond: &Cond<S>, today: i64, value: &dyn Fn(S) -> Option<Val>) -> Option<bool> {
    match cond {
        Cond::Not(inner) => decide(inner, today, value).map(|b| !b),
        Cond::All(parts) => {
            let parts: Vec<_> = parts.iter().map(|p| decide(p, today, value)).collect();
            if parts.contains(&Some(false)) {
                Some(false)
            } else if parts.contains(&None) {
                None
            } else {
                Some(true)
            }
        }
        Cond::Any(parts) => {
            let parts: Vec<_> = parts.iter().map(|p| decide(p, today, value)).collect();
            if parts.contains(&Some(true)) {
                Some(true)
            } else if parts.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
        Cond::Is(on, test) => {
            let have = value(*on);
            match test {
                Test::IsNull => return Some(have.is_none()),
                Test::IsNotNull => return Some(have.is_some()),
                _ => {}
            }
            let have = have?;
            Some(match test {
                Test::Cmp(op, with) => holds(*op, compare(&have, with)),
                Test::Today(op) => holds(*op, compare(&have, &Val::Date(today))),
                Test::Between(a, b) => compare(&have, a).is_ge() && compare(&have, b).is_le(),
                Test::In(values) => values.iter().any(|v| compare(&have, v).is_eq()),
                Test::Holds => have == Val::Bool(true),
                Test::IsNull | Test::IsNotNull => unreachable!("answered above"),
            })
        }
    }
}

/// The value of a row expression.
fn row_value(event: &Event, expr: RowExpr) -> Option<Val> {
    match expr {
        RowExpr::Twice => match &event.cells[0] {
            Some(Val::Int(n)) => Some(Val::Int(n.checked_mul(2)?.checked_add(1)?)),
            _ => None,
        },
        RowExpr::Class => match &event.cells[2] {
            Some(Val::Str(s)) if s.starts_with('a') => Some(Val::Str("a-ish".into())),
            Some(Val::Str(s)) if s.as_str() >= "b" => Some(Val::Str("later".into())),
            _ => None,
        },
        column => {
            let at = RowExpr::ALL.iter().position(|e| *e == column).unwrap();
            match &event.cells[at] {
                // There is one zero.
                Some(Val::Float(v)) => Some(Val::Float(v + 0.0)),
                other => other.clone(),
            }
        }
    }
}

impl<'a> Model<'a> {
    pub fn new(spec: &'a Spec) -> Self {
        Self {
            spec,
            zone: TimeZone::get(spec.zone).unwrap(),
            events: Vec::new(),
            arrived: Vec::new(),
            arrivals: 0,
            known: Known::default(),
            histories: Vec::new(),
            rows: BTreeMap::new(),
            rows_of_tables: vec![None; spec.tables.len()],
        }
    }

    pub fn day_of(&self, at_ms: i64) -> i64 {
        day_of(at_ms, &self.zone)
    }

    /// One row arrives. Rejects, rows that `where` leaves out and second sights have no effect.
    pub fn arrive(&mut self, event: &Event, latest_ms: Option<i64>) {
        if let Some(change) = &event.change {
            self.change(event, change, latest_ms);
            return;
        }
        let stream = &self.spec.streams[event.stream];
        if !self.is_counted(event, latest_ms) {
            return;
        }
        let same = |(have, _): &(Event, i64)| {
            have.stream == event.stream && have.user == event.user && have.id == event.id
        };
        if stream.dedupe && self.events.iter().any(same) {
            return;
        }
        let day = self.day_of(event.at_ms);
        self.arrivals += 1;
        self.arrived.push(self.arrivals);
        self.events.push((event.clone(), day));
    }

    /// A process opens the store with these rules.
    pub fn open(&mut self, chosen: &Chosen, as_of_ms: i64) {
        self.known.open(self.spec, chosen, self.arrivals, as_of_ms);
    }

    /// Whether it is an event at all.
    pub fn is_counted(&self, event: &Event, latest_ms: Option<i64>) -> bool {
        self.is_usable(event, latest_ms) && self.is_wanted(event)
    }

    fn is_usable(&self, event: &Event, latest_ms: Option<i64>) -> bool {
        !event.broken && latest_ms.is_none_or(|latest| event.at_ms <= latest)
    }

    /// Whether the stream's `where` is true.
    fn is_wanted(&self, event: &Event) -> bool {
        let filter = self.spec.streams[event.stream].filter.as_ref();
        filter.is_none_or(|filter| decide(filter, 0, &|e| row_value(event, e)) == Some(true))
    }

    /// A change of a table's row: the row as it was leaves its user, the row as it is comes to its
    /// own.
    fn change(&mut self, event: &Event, change: &Change, latest_ms: Option<i64>) {
        let was = if change.op == 'd' { Some(event) } else { change.before.as_deref() };
        let is = (change.op != 'd').then_some(event);
        let is = is.filter(|event| self.is_counted(event, latest_ms));
        if let Some(gone) = was.filter(|event| self.is_wanted(event))
            && is.is_none_or(|is| is.user != gone.user)
        {
            self.put(gone, change.version, false);
        }
        if let Some(event) = is {
            self.put(event, change.version, true);
        }
    }

    /// The greatest version counts; of one version a deletion.
    fn put(&mut self, event: &Event, version: i64, live: bool) {
        let live = live.then(|| (event.clone(), self.day_of(event.at_ms)));
        let key = (event.stream, event.user, event.id);
        match self.rows.get(&key) {
            Some(have) if have.version > version => {}
            Some(have) if have.version == version && live.is_some() => {}
            _ => {
                self.arrivals += 1;
                self.rows.insert(key, Row { version, arrived: self.arrivals, live });
            }
        }
    }

    /// How many rows of a table a user ever had.
    pub fn rows_ever(&self, user: usize, stream: usize) -> usize {
        self.rows.keys().filter(|(of, whose, _)| *of == stream && *whose == user).count()
    }

    /// Users with an event, live or in a history, or with a row of a table that there is or was.
    pub fn users(&self) -> BTreeSet<usize> {
        let rows = self.rows.keys().map(|(_, user, _)| *user);
        let told = self.histories.iter().flat_map(Told::known_users);
        self.events.iter().map(|(e, _)| e.user).chain(rows).chain(told).collect()
    }

    /// A feature's value.
    pub fn feature(&self, user: usize, feature: Feature, now: At) -> Option<Val> {
        let group = &self.spec.groups[feature.group];
        let in_span = |at_ms: i64, day: i64| match feature.span {
            Span::Lifetime => day <= now.day,
            Span::Days(days) => {
                let last = now.day - i64::from(group.offset);
                last - i64::from(days) < day && day <= last
            }
            Span::Hops(hops) => {
                let last = hop(now.ms);
                last - i64::from(hops) < hop(at_ms) && hop(at_ms) <= last
            }
        };
        let key = self.spec.key(feature.group, feature.span);
        let since = self.known.since(&key);
        let told = self.known.history(&key).map(|number| &self.histories[number]);
        let dedupe = self.spec.streams[group.stream].dedupe;
        let rows = self.rows.values().filter(|row| row.arrived > since);
        let live = rows.filter_map(|row| row.live.as_ref());
        let counts = |at: &usize| {
            let admits = |told: &Told| told.admits(&self.events[*at], dedupe);
            self.arrived[*at] > since && told.is_none_or(admits)
        };
        let events = (0..self.events.len()).filter(counts).map(|at| &self.events[at]);
        let before = told.into_iter().flat_map(|told| told.of(user));
        let chosen = events.chain(live).chain(before).filter(|(e, day)| {
            e.user == user && e.stream == group.stream && in_span(e.at_ms, *day)
        });
        let chosen = chosen.map(|(e, _)| e).filter(|event| match &group.filter {
            None => true,
            Some(filter) => decide(filter, 0, &|e| row_value(event, e)) == Some(true),
        });
        let events: Vec<&Event> = chosen.collect();
        let times = events.iter().map(|e| e.at_ms);
        let Some(expr) = group.value else {
            return match group.agg {
                Agg::Count => Some(Val::Int(i64::try_from(events.len()).unwrap())),
                Agg::FirstTime => times.min().map(Val::Time),
                _ => times.max().map(Val::Time),
            };
        };
        let valued = events.iter().filter_map(|e| Some((e.at_ms, row_value(e, expr)?)));
        let mut values: Vec<(i64, Val)> = valued.collect();
        match group.agg {
            Agg::First | Agg::Last => {
                values.sort_by(|a, b| a.0.cmp(&b.0).then(compare(&a.1, &b.1)));
            }
            _ => values.sort_by(|a, b| compare(&a.1, &b.1)),
        }
        match group.agg {
            Agg::First | Agg::Min => values.first().map(|v| v.1.clone()),
            Agg::Last | Agg::Max => values.last().map(|v| v.1.clone()),
            Agg::Distinct => {
                values.dedup_by(|a, b| compare(&a.1, &b.1).is_eq());
                let values: Vec<&Val> = values.iter().map(|v| &v.1).collect();
                Some(Val::Int(self.number_of(&values)))
            }
            Agg::Mode => self.heaviest(&events, group).into_iter().next(),
            Agg::Top(k) => {
                let mut values = self.heaviest(&events, group);
                values.truncate(usize::from(k));
                (!values.is_empty()).then_some(Val::List(values))
            }
            Agg::Recent(n) => {
                values.sort_by(|a, b| b.0.cmp(&a.0).then(compare(&b.1, &a.1)));
                values.truncate(usize::from(n));
                let values: Vec<Val> = values.into_iter().map(|v| v.1).collect();
                (!values.is_empty()).then_some(Val::List(values))
            }
            _ => sum(values.iter().map(|v| &v.1), expr.kind()),
        }
    }

    /// Distinct values: counted up to a limit, then estimated from as many least hashes.
    fn number_of(&self, distinct: &[&Val]) -> i64 {
        let limit = self.spec.exact_values_max;
        if distinct.len() <= limit {
            return i64::try_from(distinct.len()).unwrap();
        }
        let mut hashes: Vec<u64> = distinct.iter().map(|v| hash(v)).collect();
        hashes.sort_unstable();
        // (k - 1) / u, where u is the k-th least hash as a share of all 2^64.
        let estimate = ((limit as u128 - 1) << 64) / (u128::from(hashes[limit - 1]) + 1);
        i64::try_from(estimate.max(limit as u128 + 1)).unwrap()
    }

    /// Values by falling weight, equal ones by rising value. Of too many, those of least hashes.
    fn heaviest(&self, events: &[&Event], group: &Group) -> Vec<Val> {
        let mut weighed: Vec<(Val, i128)> = Vec::new();
        for event in events {
            let Some(value) = row_value(event, group.value.unwrap()) else { continue };
            let weight = match group.by {
                None => 1,
                Some(by) => match row_value(event, by) {
                    None => continue,
                    Some(weight) => thousandths(&weight),
                },
            };
            match weighed.iter_mut().find(|have| compare(&have.0, &value).is_eq()) {
                Some(have) => have.1 += weight,
                None => weighed.push((value, weight)),
            }
        }
        weighed.sort_by_key(|(value, _)| hash(value));
        weighed.truncate(self.spec.exact_values_max);
        weighed.sort_by(|a, b| b.1.cmp(&a.1).then(compare(&a.0, &b.0)));
        weighed.into_iter().map(|w| w.0).collect()
    }

    fn source(&self, user: usize, source: Source, now: At) -> Option<Val> {
        match source {
            Source::Feature(f) => self.feature(user, self.spec.features[f], now),
            Source::Age(f) => {
                let value = self.feature(user, self.spec.features[f], now)?;
                Some(Val::Int(self.age(&value, now)))
            }
            Source::Length(f) => match self.feature(user, self.spec.features[f], now)? {
                Val::List(values) => Some(Val::U64(values.len() as u64)),
                other => panic!("{other:?} is no list"),
            },
            Source::Head(f) => match self.feature(user, self.spec.features[f], now)? {
                Val::List(values) => values.first().cloned(),
                other => panic!("{other:?} is no list"),
            },
            Source::Tag(t) => self.tag(user, t, now),
            Source::Column(dimension, column) => self.column(user, dimension, column, now),
        }
    }

    fn age(&self, value: &Val, now: At) -> i64 {
        let Val::Time(at_ms) = value else { panic!("{value:?} is no instant") };
        now.day - self.day_of(*at_ms)
    }

    /// A tag's value; `None`: it has none.
    pub fn tag(&self, user: usize, tag: usize, now: At) -> Option<Val> {
        let value = |source: Source| self.source(user, source, now);
        let (from, until) = self.spec.valid[tag];
        if from.is_some_and(|from| now.ms < from) || until.is_some_and(|until| now.ms >= until) {
            return None;
        }
        let label = |i: usize| Some(Val::Str(format!("l{i}")));
        let none = |yes: bool| yes.then(|| Val::Str("none".into()));
        match &self.spec.tags[tag].0 {
            Body::Bands { of, cuts, missing } => match value(*of) {
                None => none(*missing),
                Some(value) => label(cuts.iter().filter(|c| reaches(&value, **c)).count()),
            },
            Body::Recency { of, cuts, missing } => match value(*of) {
                None => none(*missing),
                Some(value) => {
                    let age = Val::Int(self.age(&value, now));
                    label(cuts.iter().filter(|c| reaches(&age, **c)).count())
                }
            },
            Body::Ratio { num, den, cuts, default } => match (value(*num), value(*den)) {
                (Some(num), Some(den)) if thousandths(&den) > 0 => {
                    let (num, den) = (thousandths(&num), thousandths(&den));
                    label(cuts.iter().filter(|c| num * 1000 >= c.0 * den).count())
                }
                _ => none(*default),
            },
            Body::Map { of, keys, default } => {
                let value = value(*of);
                let hit =
                    keys.iter().position(|k| value.as_ref().is_some_and(|v| compare(v, k).is_eq()));
                hit.map_or(none(*default), |i| Some(Val::Str(format!("m{}", i % 3))))
            }
            Body::Flag(cond) => decide(cond, now.day, &value).map(Val::Bool),
            Body::YesNo(cond) => {
                let yes = decide(cond, now.day, &value) == Some(true);
                Some(Val::Str(if yes { "y" } else { "n" }.into()))
            }
            Body::Plain(source) => value(*source),
        }
    }

    /// Whether the account is closed.
    pub fn is_closed(&self, user: usize, now: At) -> bool {
        let value = |source: Source| self.source(user, source, now);
        let closed = self.spec.closed.as_ref();
        closed.is_some_and(|cond| decide(cond, now.day, &value) == Some(true))
    }

    /// A tag's label as tagloom shows it.
    pub fn label(&self, user: usize, tag: usize, now: At) -> Option<String> {
        self.tag(user, tag, now).map(|value| label(&value))
    }
}

/// A value as tagloom shows it.
fn label(value: &Val) -> String {
    match value {
        Val::Int(v) => v.to_string(),
        Val::U64(v) => v.to_string(),
        Val::Dec(v) => {
            let sign = if *v < 0 { "-" } else { "" };
            format!("{sign}{}.{:02}", v.abs() / 100, v.abs() % 100)
        }
        Val::Float(v) => v.to_string(),
        Val::Str(v) => v.clone(),
        Val::Bool(v) => v.to_string(),
        Val::Date(v) => date_text(*v),
        Val::Time(v) => jiff::Timestamp::from_millisecond(*v).unwrap().to_string(),
        Val::List(values) => {
            let json = |value: &Val| match value {
                Val::Str(_) | Val::Date(_) | Val::Time(_) => {
                    serde_json::Value::String(label(value)).to_string()
                }
                other => label(other),
            };
            format!("[{}]", values.iter().map(json).collect::<Vec<_>>().join(","))
        }
    }
}

/// A value's hash with a fixed seed: XXH3 of a text, MurmurHash3's finaliser of 64 bits.
fn hash(value: &Val) -> u64 {
    let bits = match value {
        Val::Str(text) => return twox_hash::XxHash3_64::oneshot(text.as_bytes()),
        Val::Int(v) | Val::Time(v) => v.cast_unsigned(),
        Val::U64(v) => *v,
        Val::Dec(v) => i64::try_from(*v).unwrap().cast_unsigned(),
        Val::Float(v) => v.to_bits(),
        Val::Bool(v) => u64::from(*v),
        Val::Date(v) => u64::from(i32::try_from(*v).unwrap().cast_unsigned()),
        Val::List(_) => panic!("lists are not aggregated"),
    };
    let a = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let b = (a ^ a >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    b ^ b >> 33
}

/// Exact; a sum of whole numbers beyond 64 bits cannot be computed.
fn sum<'v>(values: impl Iterator<Item = &'v Val>, kind: Kind) -> Option<Val> {
    let total: i128 = values
        .map(|v| match v {
            Val::Int(v) => i128::from(*v),
            Val::U64(v) => i128::from(*v),
            Val::Dec(v) => *v,
            other => panic!("{other:?} cannot be summed"),
        })
        .sum();
    if kind == Kind::Dec {
        return Some(Val::Dec(total));
    }
    i64::try_from(total).ok().map(Val::Int)
}

fn reaches(value: &Val, cut: Cut) -> bool {
    match value {
        Val::Float(v) => *v >= cut.text().parse::<f64>().unwrap(),
        exact => thousandths(exact) >= cut.0,
    }
}
