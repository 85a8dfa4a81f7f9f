//! Why a user has a tag's value.
//!
//! In: a uid, a tag, an instant. Out: the value, the rule and its place, every input with its value
//! and definition, what would change the value, and when time alone will.
//! Invariant: reads only; values of masked columns never leave this module.

use std::collections::BTreeMap;

use datafusion_common::ScalarValue;
use serde::{Deserialize, Serialize};

use super::notes;
use super::read::{Evaluation, ReadError, Reader, StoredUser, labels_of};
use super::seen::Seen;
use crate::catalog::model::{Aggregate, DimensionKey, Domain, Feature, Span, Stream, TypedExpr};
use crate::catalog::place::{Files, Place};
use crate::catalog::select::reach;
use crate::clock::hop_of;
use crate::rule::AsOf;
use crate::rule::sql::nearest;
use crate::rule::why::{Crossing, Focus, Prober};
use crate::store::Uid;
use crate::user::layout::{ValueKind, flag_set, low32, row_day, row_stream, row_time, value_word};
use crate::write::open::{OpenValue, decimal_text};
use crate::write::profile::label_of;

/// What stands for a masked value.
pub const MASKED: &str = "***";

/// Events shown for a feature.
const EVENTS_MAX: usize = 5;

/// Changes of anything that are looked at for the next change of one tag.
const STEPS_MAX: usize = 512;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Why {
    /// Whose.
    pub uid: String,
    /// The tag.
    pub tag: String,
    /// What it means.
    pub doc: String,
    /// Who answers for it.
    pub owner: String,
    /// What it belongs to.
    pub group: String,
    /// Its value; none: it has none.
    pub value: Option<String>,
    /// What the store holds.
    pub stored: Option<String>,
    /// The instant all this is true at, epoch ms.
    pub as_of_ms: i64,
    /// The business timezone.
    pub timezone: String,
    /// The rule.
    pub rule: Rule,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// When time alone changes it.
    pub next: Next,
    /// The condition under which the account is closed, where it holds.
    pub closed: Option<String>,
    /// What is stale, missing or estimated.
    pub notes: Vec<String>,
}

/// A rule as written and as computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rule {
    /// `tags/rules/value.yaml:14`.
    pub place: String,
    /// The YAML it is written in.
    pub source: String,
    /// The SQL it means.
    pub sql: String,
}

/// One thing that a rule reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// `feature`, `dimension column` or `tag`.
    pub kind: String,
    /// Its value; none: NULL. `***`: masked.
    pub value: Option<String>,
    /// What it is.
    pub definition: String,
    /// What of its stream a feature counts, where that is not everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// What would change the tag.
    pub flips: Vec<FlipText>,
    /// The last events that count, latest first.
    pub events: Vec<EventText>,
    /// What a tag reads itself.
    #[schema(no_recursion)]
    pub inputs: Vec<Input>,
}

/// What an input would have to be for the tag to have another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FlipText {
    /// How the value is to be read.
    pub when: When,
    /// The value.
    pub value: Option<String>,
    /// The value before it, which changes nothing.
    pub last: Option<String>,
    /// What the tag becomes; none: no value.
    pub becomes: Option<String>,
}

/// How a flip's value is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// This value or the next greater ones.
    From,
    /// This value or the next smaller ones.
    Down,
    /// Exactly this value (NULL: none).
    Is,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventText {
    /// Event time, epoch ms.
    pub time_ms: i64,
    /// The aggregated value.
    pub value: Option<String>,
}

/// When time alone changes a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// Not without an event.
    Never,
    /// Not before this instant, epoch ms: further was not looked.
    NotBefore(i64),
    /// At this instant, to this value.
    At {
        /// Epoch ms.
        at_ms: i64,
        /// The value; none: no value.
        becomes: Option<String>,
    },
}

impl Reader {
    /// Why a user has a tag's value. `files`: what the catalogue's places point into.
    pub fn why(
        &self,
        uid: &Uid,
        tag: &str,
        as_of_ms: Option<i64>,
        files: &Files,
    ) -> Result<Why, ReadError> {
        let catalog = &self.ruleset.catalog;
        let at = catalog.tags.iter().position(|t| t.name == tag).ok_or_else(|| {
            let near = nearest(tag, catalog.tags.iter().map(|t| t.name.as_str()));
            let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            ReadError::UnknownTag { name: tag.to_owned(), hint }
        })?;
        let user = self.user(uid)?;
        let as_of_ms = self.instant(&user, as_of_ms)?;
        let Some(evaluation) = self.evaluate_safely(&user, as_of_ms) else {
            return Ok(self.quarantined(&user, at, files));
        };
        let values = self.labels(&evaluation.tags, 0);
        let focus = Focus::new(catalog, self.ruleset.plan.inputs(), at)?;
        let reach = reach([at], catalog);
        let view = View {
            reader: self,
            user: &user,
            evaluation: &evaluation,
            values: &values,
            prober: Prober::new(&focus, &evaluation.inputs, evaluation.as_of),
            domain: &catalog.tags[at].domain,
            seen: self.seen(&reach.features)?,
        };
        let mut why = self.blank(&user, at, files);
        why.value.clone_from(&values[at]);
        why.as_of_ms = as_of_ms;
        why.closed = self.closed_because(evaluation.closed);
        why.inputs = view.inputs(at, 1);
        why.next = self.next_change(&user, &evaluation, &focus, values[at].as_deref());
        let noted = self.notes(notes::Seen::of(&user, &evaluation), Some(&reach));
        why.notes = notes::texts(noted);
        why.notes.splice(0..0, catalog.tags[at].terms.text(&catalog.zone));
        Ok(why)
    }

    fn blank(&self, user: &StoredUser, at: usize, files: &Files) -> Why {
        let tag = &self.ruleset.catalog.tags[at];
        Why {
            uid: user.uid.to_string(),
            tag: tag.name.clone(),
            doc: tag.doc.clone(),
            owner: tag.owner.clone(),
            group: tag.group.clone(),
            value: None,
            stored: user.values[at].clone(),
            as_of_ms: user.head.as_of_ms,
            timezone: self.ruleset.catalog.zone.name().to_owned(),
            rule: Rule {
                place: shown_place(files, tag.place),
                source: source_of(files, tag.place),
                sql: tag.expr.sql.clone(),
            },
            inputs: Vec::new(),
            next: Next::Never,
            closed: self.closed_because(user.head.closed),
            notes: Vec::new(),
        }
    }

    fn closed_because(&self, closed: bool) -> Option<String> {
        self.ruleset.closed.as_ref().filter(|_| closed).map(|rule| rule.sql().to_owned())
    }

    fn quarantined(&self, user: &StoredUser, at: usize, files: &Files) -> Why {
        let mut why = self.blank(user, at, files);
        why.value.clone_from(&why.stored);
        let note = "quarantined: its state or a rule panics; the value is the last one stored";
        why.notes.push(note.to_owned());
        why
    }

    /// The next instant at which one tag changes without an event: found by computing it at each
    /// instant at which it, or any feature, may change.
    fn next_change(
        &self,
        user: &StoredUser,
        now: &Evaluation,
        focus: &Focus,
        value: Option<&str>,
    ) -> Next {
        let zone = &self.ruleset.catalog.zone;
        let tags = focus.plan.evaluate(&now.inputs, 1, now.as_of);
        let mut due_ms = self.due_ms(&focus.plan, now.as_of, &tags, now.feature_due);
        for _ in 0..STEPS_MAX {
            let Some(at_ms) = due_ms else { return Next::Never };
            let as_of = AsOf { ms: at_ms, day: zone.day_of(at_ms) };
            let (inputs, feature_due, _) = self.inputs(user, as_of);
            let tags = focus.plan.evaluate(&inputs, 1, as_of);
            let becomes = labels_of(&focus.plan, &focus.tags, &tags, 0).swap_remove(focus.tag);
            if becomes.as_deref() != value {
                return Next::At { at_ms, becomes };
            }
            due_ms = self.due_ms(&focus.plan, as_of, &tags, feature_due);
        }
        due_ms.map_or(Next::Never, Next::NotBefore)
    }
}

struct View<'a> {
    reader: &'a Reader,
    user: &'a StoredUser,
    evaluation: &'a Evaluation,
    values: &'a [Option<String>],
    /// None: the tag's values are no labels.
    prober: Option<Prober<'a>>,
    domain: &'a Domain,
    /// By feature.
    seen: BTreeMap<usize, Seen>,
}

impl View<'_> {
    /// What a tag reads; tags among it with what they read, `levels` deep.
    fn inputs(&self, tag: usize, levels: usize) -> Vec<Input> {
        let catalog = &self.reader.ruleset.catalog;
        let names = &catalog.tags[tag].expr.columns;
        names.iter().filter_map(|name| self.input(name, levels)).collect()
    }

    fn input(&self, name: &str, levels: usize) -> Option<Input> {
        let ruleset = &self.reader.ruleset;
        let catalog = &ruleset.catalog;
        let of = |kind: &str, value, definition| Input {
            name: name.to_owned(),
            kind: kind.to_owned(),
            value,
            definition,
            seen: None,
            flips: Vec::new(),
            events: Vec::new(),
            inputs: Vec::new(),
        };
        if let Some(tag) = catalog.tags.iter().position(|t| t.name == name) {
            let mut input = of("tag", self.values[tag].clone(), catalog.tags[tag].expr.sql.clone());
            if levels > 0 {
                input.inputs = self.inputs(tag, levels - 1);
            }
            return Some(input);
        }
        let at = ruleset.plan.inputs().iter().position(|i| i.name == name)?;
        let value = OpenValue::at(&self.evaluation.inputs[at], 0).map(|v| self.shown(&v));
        if let Some(feature) = catalog.features.get(at) {
            let stream = &catalog.streams[feature.stream];
            let hidden = is_masked(stream, feature);
            let shown = if hidden { value.map(|_| MASKED.to_owned()) } else { value };
            let mut input = of("feature", shown, definition(stream, feature));
            input.seen = self.seen.get(&at).cloned();
            input.events = self.events(at, hidden);
            // A list has no neighbours to be searched.
            if !hidden && feature.aggregate.listed().is_none() {
                let counts =
                    matches!(feature.aggregate, Aggregate::Count | Aggregate::CountDistinct(..));
                let past = matches!(feature.aggregate, Aggregate::FirstTime | Aggregate::LastTime);
                input.flips = self.flips(at, counts.then_some(0), past);
                if counts || matches!(feature.aggregate, Aggregate::Sum(_)) {
                    // These always have a value.
                    input.flips.retain(|flip| flip.value.is_some());
                }
            }
            return Some(input);
        }
        let dimension = ruleset.dimension_inputs.iter().rposition(|first| *first <= at)?;
        let mut input = of("dimension column", value, self.lookup(dimension, at));
        input.flips = self.flips(at, None, false);
        Some(input)
    }

    /// A dimension column's origin: table, column, key, epoch.
    fn lookup(&self, at: usize, input: usize) -> String {
        let ruleset = &self.reader.ruleset;
        let catalog = &ruleset.catalog;
        let (dimension, lookup) = (&catalog.dimensions[at], &self.evaluation.lookups[at]);
        let column = &dimension.columns[input - ruleset.dimension_inputs[at]];
        let value = |at: usize| {
            let value = OpenValue::at(&self.evaluation.inputs[at], 0);
            value.map_or("NULL".to_owned(), |v| self.shown(&v))
        };
        let key = match dimension.key {
            DimensionKey::Uid => format!("uid {}", self.user.uid),
            DimensionKey::Feature(feature) => {
                let of = &catalog.features[feature];
                let hidden = is_masked(&catalog.streams[of.stream], of);
                let value = if hidden { MASKED.to_owned() } else { value(feature) };
                format!("{} {value}", of.name)
            }
            DimensionKey::Column { dimension, column } => {
                let of = &catalog.dimensions[dimension].columns[column];
                format!("{} {}", of.name, value(ruleset.dimension_inputs[dimension] + column))
            }
        };
        let mut text = format!("{}.{} of {key}", dimension.table, column.from);
        match lookup.epoch {
            Some(epoch) => text.push_str(&format!(", epoch {epoch}")),
            None => text.push_str(", never loaded"),
        }
        let marks = [
            (lookup.stale, ", stale"),
            (lookup.missing, ", missing: the store could not be read"),
            (lookup.absent && lookup.epoch.is_some(), ", no such row"),
        ];
        marks.iter().filter(|(holds, _)| *holds).for_each(|(_, mark)| text.push_str(mark));
        text
    }

    fn flips(&self, input: usize, lowest: Option<i64>, past: bool) -> Vec<FlipText> {
        let Some(prober) = &self.prober else { return Vec::new() };
        let flip = prober.flip(input, lowest, past);
        let label = |code: u8| label_of(self.domain, code).map(str::to_owned);
        let crossing = |when: When, c: &Crossing| FlipText {
            when,
            value: self.scalar(&c.value),
            last: self.scalar(&c.last),
            becomes: label(c.code),
        };
        let mut texts = Vec::new();
        texts.extend(flip.rise.iter().map(|c| crossing(When::From, c)));
        texts.extend(flip.fall.iter().map(|c| crossing(When::Down, c)));
        let is = |value: Option<String>, code: u8| FlipText {
            when: When::Is,
            value,
            last: None,
            becomes: label(code),
        };
        texts.extend(flip.others.iter().map(|(value, code)| is(self.scalar(value), *code)));
        texts.extend(flip.null.iter().map(|code| is(None, *code)));
        texts
    }

    fn scalar(&self, value: &ScalarValue) -> Option<String> {
        OpenValue::at(&value.to_array().ok()?, 0).map(|v| self.shown(&v))
    }

    fn shown(&self, value: &OpenValue) -> String {
        let zone = &self.reader.ruleset.catalog.zone;
        match value {
            OpenValue::Timestamp(ms) => zone.show(*ms),
            other => other.label(),
        }
    }

    /// The last events that a feature counts.
    fn events(&self, feature: usize, hidden: bool) -> Vec<EventText> {
        let ruleset = &self.reader.ruleset;
        let found = ruleset.layout.streams.iter().find_map(|stream| {
            let holds = |p: &&crate::user::layout::Partial| {
                p.features.iter().any(|(index, _)| *index == feature)
            };
            Some((stream, stream.partials.iter().find(holds)?))
        });
        let Some((stream, partial)) = found else { return Vec::new() };
        let as_of = self.evaluation.as_of;
        let span = ruleset.catalog.features[feature].span;
        let within = |row: &[u64]| {
            let age_hops = hop_of(as_of.ms) - hop_of(row_time(row[0]));
            span.contains(i64::from(as_of.day) - i64::from(row_day(row[1])), age_hops)
        };
        let value = partial.value.map(|v| &stream.values[v]);
        let weight = partial.weight.map(|w| &stream.values[w]);
        let counts = |row: &[u64]| {
            row_stream(row[0]) == usize::from(stream.stream)
                && within(row)
                && partial.filter.is_none_or(|f| flag_set(row, stream.filters[f].flag))
                && value.is_none_or(|v| !flag_set(row, v.null_flag))
                && weight.is_none_or(|w| !flag_set(row, w.null_flag))
        };
        let mut rows: Vec<&[u64]> =
            self.user.state.rows(&ruleset.layout).filter(|row| counts(row)).collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row_time(row[0])));
        let texts = self.user.texts.view();
        let text = |row: &[u64]| {
            let value = value?;
            let word = value_word(row, value);
            Some(match value.kind {
                _ if hidden => MASKED.to_owned(),
                ValueKind::Int => word.cast_signed().to_string(),
                ValueKind::U64 => word.to_string(),
                ValueKind::Float => f64::from_bits(word).to_string(),
                ValueKind::Decimal(_, scale) => decimal_text(i128::from(word.cast_signed()), scale),
                ValueKind::Timestamp => ruleset.catalog.zone.show(word.cast_signed()),
                // Only the hash of a text that is counted is kept.
                ValueKind::Hash => format!("#{word:016x}"),
                ValueKind::Text => texts.get(low32(word)).to_owned(),
                ValueKind::Date => OpenValue::Date(low32(word).cast_signed()).label(),
                ValueKind::Bool => (word != 0).to_string(),
            })
        };
        let event = |row: &&[u64]| EventText { time_ms: row_time(row[0]), value: text(row) };
        rows.iter().take(EVENTS_MAX).map(event).collect()
    }
}

/// `sum(amount) of consume where family = 'gift' in the last 30 days`.
fn definition(stream: &Stream, feature: &Feature) -> String {
    let call = feature.aggregate.call();
    let filter = feature.filter.as_ref().map(|f| format!(" where {}", f.sql)).unwrap_or_default();
    let span = match feature.span {
        Span::Lifetime => "ever".to_owned(),
        Span::Rolling { .. } => format!("in the last {}", feature.span),
        Span::Days { days: 1, offset: 0 } => "today".to_owned(),
        Span::Days { days, offset: 0 } => format!("in the last {days} days"),
        Span::Days { days, offset } => format!("in the {days} days that ended {offset} days ago"),
    };
    format!("{call} of {}{filter}, {span}", stream.name)
}

/// Whether a feature is made from a masked column, be it through derived ones.
fn is_masked(stream: &Stream, feature: &Feature) -> bool {
    let reads = |expr: &TypedExpr| expr.columns.iter().any(|c| is_masked_column(stream, c));
    let aggregate = &feature.aggregate;
    let parts = [aggregate.value(), aggregate.weight(), feature.filter.as_ref()];
    parts.into_iter().flatten().any(reads)
}

fn is_masked_column(stream: &Stream, name: &str) -> bool {
    if let Some(column) = stream.columns.iter().find(|c| c.name == name) {
        return column.mask;
    }
    let derived = stream.derive.iter().find(|d| d.name == name);
    // A derived column reads only those before it, so this ends.
    derived.is_some_and(|d| d.expr.columns.iter().any(|c| is_masked_column(stream, c)))
}

fn shown_place(files: &Files, place: Place) -> String {
    let (line, _) = files.line_column(place.file, place.start);
    format!("{}:{line}", files.path(place.file))
}

/// The YAML document that holds a place, without its cases.
fn source_of(files: &Files, place: Place) -> String {
    let text = files.text(place.file);
    let (line, _) = files.line_column(place.file, place.start);
    let lines: Vec<&str> = text.lines().collect();
    let is_border = |line: &&str| line.trim_end() == "---";
    let upto = line.min(lines.len());
    let start = lines[..upto].iter().rposition(is_border).map_or(0, |at| at + 1);
    let body = lines[start..].iter().take_while(|l| !is_border(l) && !l.starts_with("cases:"));
    let body: Vec<&str> = body.copied().filter(|l| !l.starts_with('#')).collect();
    body.join("\n").trim().to_owned()
}
