//! Cases of a catalogue: events in, labels out, under a virtual clock.
//!
//! In: a checked catalogue and its cases. Out: for each case the checks that do not hold, with what
//! the rule read. A case runs as in real life: rows are decoded, folded, a window closes, and later
//! instants are reached by draining the due users, so that a wrong due index fails it too.
//! Invariant: no clock but the case's; each case has a store of its own, in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use super::EngineError;
use super::direct::Direct;
use super::inputs;
use super::job::Chunk;
use super::ruleset::{Ruleset, RulesetError};
use crate::catalog::model::{
    self, Case, Catalog, ColumnType, Domain, Format, Stream, TimestampFormat, UidType,
};
use crate::clock::Zone;
use crate::dimension::{Dimensions, LoadError, Lookups, SpecError, TableSpec, given};
use crate::event::parse::iso;
use crate::event::{Decoder, DecoderError};
use crate::rule::AsOf;
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity, Store, Uid, UidError};
use crate::user::snapshot::{SnapshotError, decode_tags};
use crate::user::state::UserState;
use crate::user::texts::Texts;
use crate::write::open::{OpenValue, decimal_text};
use crate::write::profile::{ProfileError, Schemas, label_of};

/// Rejects that one case may leave behind.
const REJECTS_MAX: usize = 10_000;

/// Runs cases, one after the other. Compiled once for all of them.
pub struct CaseRunner {
    ruleset: Arc<Ruleset>,
    texts: Arc<Texts>,
    schemas: Schemas,
    /// One for each stream.
    decoders: Vec<Decoder>,
}

/// What a case gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseReport {
    /// Checks made.
    pub checks: usize,
    /// Those that do not hold.
    pub wrong: Vec<Wrong>,
    /// Rows that are no events because their stream's `where` is not true for them.
    pub filtered_rows: u64,
    /// No row is an event: the user has no profile, and no tag has a value.
    pub no_profile: bool,
    /// Rows that could not be used, with the reason: the case cannot hold.
    pub rejected: Vec<String>,
}

impl CaseReport {
    /// Whether all of it holds.
    pub fn holds(&self) -> bool {
        self.wrong.is_empty() && self.rejected.is_empty()
    }
}

/// A check that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Catalogue index of the tag.
    pub tag: usize,
    /// The instant it is about, epoch milliseconds.
    pub as_of_ms: i64,
    /// How long after the case's `as_of` that is, in milliseconds.
    pub after_ms: i64,
    /// The label that should be (`None`: no value).
    pub expected: Option<String>,
    /// The label that is.
    pub got: Option<String>,
    /// What a recompute at that instant gives, where it is something else: then the rule is right
    /// and the engine missed the instant.
    pub recomputed: Option<Option<String>>,
    /// What the tag reads, and what the tags that it reads read.
    pub reads: Vec<Read>,
}

/// An input of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// A feature, dimension column or tag.
    pub name: String,
    /// Its value (`None`: NULL).
    pub value: Option<String>,
}

/// A case that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The catalogue cannot be compiled.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    /// A stream cannot be decoded.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A table asked for is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Dimension rows cannot be used.
    #[error(transparent)]
    Dimension(#[from] LoadError),
    /// The user's key is none.
    #[error(transparent)]
    Uid(#[from] UidError),
    /// A profile cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl std::convert::From<crate::store::StoreError> for CaseError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Engine(error.into())
    }
}

impl std::convert::From<SnapshotError> for CaseError {
    fn from(error: SnapshotError) -> Self {
        Self::Profile(error.into())
    }
}

/// One case under way.
struct Scene<'a> {
    runner: &'a CaseRunner,
    direct: Direct,
    store: Arc<MemoryStore>,
    dimensions: Dimensions,
    uid: Uid,
}

impl CaseRunner {
    /// Compiles a catalogue. Tags that have no id yet get one for the time being.
    pub fn new(catalog: &Catalog) -> Result<Self, CaseError> {
        let as_given = as_given(catalog);
        let ruleset = Arc::new(Ruleset::provisional(catalog.clone())?);
        let texts = Arc::new(Texts::default());
        let decoder = |at: usize| {
            let name = format!("case: {}", as_given.streams[at].name);
            Decoder::new(&as_given, &ruleset.layout, &[at], &name, Arc::clone(&texts), 1)
        };
        let decoders = (0..as_given.streams.len()).map(decoder).collect::<Result<_, _>>()?;
        Ok(Self { decoders, ruleset, texts, schemas: Schemas::default() })
    }

    /// The compiled catalogue.
    pub fn ruleset(&self) -> &Arc<Ruleset> {
        &self.ruleset
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Result<CaseReport, CaseError> {
        let mut report = CaseReport::default();
        let decoded: Vec<_> = (0..self.decoders.len()).map(|at| self.decode(at, case)).collect();
        let mut scene = self.scene(case)?;
        for (at, decoded) in decoded.into_iter().enumerate() {
            report.filtered_rows += decoded.blocks.iter().map(|b| b.filtered).sum::<u64>();
            let rejects = decoded.rejects.iter();
            report.rejected.extend(rejects.map(|r| {
                format!("row {} of `{}`: {}: {}", r.line, r.stream, r.reason.name(), r.detail)
            }));
            scene.direct.feed(&scene.runner.ruleset.catalog.streams[at].name, None, decoded)?;
        }
        scene.direct.close(case.as_of_ms, true)?;
        report.no_profile = scene.profile()?.is_none();
        scene.check(case.as_of_ms, 0, &case.expect, &mut report)?;
        for (after_ms, expect) in &case.after {
            let as_of_ms = case.as_of_ms.saturating_add(*after_ms);
            scene.wait_until(as_of_ms)?;
            scene.check(as_of_ms, *after_ms, expect, &mut report)?;
        }
        Ok(report)
    }

    fn decode(&mut self, at: usize, case: &Case) -> crate::event::Decoded {
        let stream = &self.ruleset.catalog.streams[at];
        let rows = case.given.iter().filter(|(of, _)| *of == at);
        let lines: String = rows.map(|(_, row)| line(stream, row)).collect();
        self.decoders[at].lines(lines.as_bytes(), 1, 0, None)
    }

    fn scene(&self, case: &Case) -> Result<Scene<'_>, CaseError> {
        let catalog = &self.ruleset.catalog;
        let identity = Identity {
            uid: catalog.uid,
            timezone: catalog.zone.name().to_owned(),
            clock: ClockMode::Fixed,
        };
        let store = Arc::new(MemoryStore::new(identity, REJECTS_MAX));
        for (table, rows) in &case.dimensions {
            let spec = TableSpec::of(catalog, table)?;
            given::put_rows(store.as_ref(), &spec, &catalog.zone, rows, case.as_of_ms)?;
        }
        let as_of_ms = case.as_of_ms;
        let now: crate::dimension::Now = Arc::new(move || as_of_ms);
        let shared: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        let (ruleset, texts) = (Arc::clone(&self.ruleset), Arc::clone(&self.texts));
        let direct = Direct::open_with(ruleset, Arc::clone(&shared), 1, Arc::clone(&now), texts)?;
        let dimensions =
            Dimensions::open(catalog, shared, now, &Lookups::default()).map_err(CaseError::Spec)?;
        Ok(Scene { runner: self, direct, store, dimensions, uid: uid_of(case, catalog)? })
    }
}

impl Scene<'_> {
    /// Moves the clock on. The day before gets a drain of its own: one jump would hide a due
    /// instant that is too late behind any earlier one.
    fn wait_until(&mut self, as_of_ms: i64) -> Result<(), CaseError> {
        let zone = &self.runner.ruleset.catalog.zone;
        self.direct.drain(zone.day_start_ms(zone.day_of(as_of_ms)).saturating_sub(1))?;
        self.direct.drain(as_of_ms)?;
        Ok(())
    }

    fn check(
        &mut self,
        as_of_ms: i64,
        after_ms: i64,
        expect: &[(usize, Option<String>)],
        report: &mut CaseReport,
    ) -> Result<(), CaseError> {
        report.checks += expect.len();
        let catalog = Arc::clone(&self.runner.ruleset.catalog);
        let labels = self.labels()?;
        let holds = |labels: &[Option<String>], tag: usize, expected: &Option<String>| {
            same(&catalog.tags[tag].domain, expected, &labels[tag], &catalog.zone)
        };
        let wrong: Vec<_> = expect.iter().filter(|(t, e)| !holds(&labels, *t, e)).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        // A profile is made by events only: whoever has none is not to get one by looking.
        let also = self.profile()?.map(|profile| (self.uid.to_key(), profile));
        let also = also.into_iter().collect();
        self.direct.close_for(as_of_ms, true, Chunk { also, ..Chunk::default() })?;
        let recomputed = self.labels()?;
        let inputs = self.inputs(as_of_ms)?;
        for (tag, expected) in wrong {
            let missed = recomputed[*tag] != labels[*tag];
            report.wrong.push(Wrong {
                tag: *tag,
                as_of_ms,
                after_ms,
                expected: expected.clone(),
                got: labels[*tag].clone(),
                recomputed: missed.then(|| recomputed[*tag].clone()),
                reads: self.reads(*tag, &inputs, &recomputed),
            });
        }
        Ok(())
    }

    /// The stored label of each tag, by catalogue index.
    fn labels(&self) -> Result<Vec<Option<String>>, CaseError> {
        let CaseRunner { ruleset, schemas, .. } = self.runner;
        let mut labels = vec![None; ruleset.catalog.tags.len()];
        let Some(bytes) = self.profile()? else { return Ok(labels) };
        let tags = decode_tags(&bytes)?;
        let schema = schemas.get(tags.head.schema, ruleset, self.store.as_ref())?;
        for (tag, code) in ruleset.plan.closed_tags().iter().zip(&schema.codes(&tags)) {
            labels[*tag] = label_of(&ruleset.catalog.tags[*tag].domain, *code).map(str::to_owned);
        }
        for (tag, value) in ruleset.plan.open_tags().iter().zip(schema.open_values(&tags)) {
            labels[*tag] = value.map(|v| shown(&v, &ruleset.catalog.zone));
        }
        Ok(labels)
    }

    fn profile(&self) -> Result<Option<crate::store::Bytes>, CaseError> {
        Ok(self.store.profiles(&[self.uid.to_key()])?.into_iter().next().flatten())
    }

    fn inputs(&self, as_of_ms: i64) -> Result<Vec<ArrayRef>, CaseError> {
        let CaseRunner { ruleset, schemas, texts, .. } = self.runner;
        let state = match self.profile()? {
            None => UserState::default(),
            Some(bytes) => {
                let tags = decode_tags(&bytes)?;
                let schema = schemas.get(tags.head.schema, ruleset, self.store.as_ref())?;
                tags.state(&schema.layout, &ruleset.layout, texts)?
            }
        };
        let as_of = AsOf { ms: as_of_ms, day: ruleset.catalog.zone.day_of(as_of_ms) };
        let pinned = self.dimensions.pin();
        Ok(inputs::of_user(ruleset, &pinned, &self.uid, &state, as_of, texts))
    }

    fn reads(&self, tag: usize, inputs: &[ArrayRef], labels: &[Option<String>]) -> Vec<Read> {
        let ruleset = &self.runner.ruleset;
        let (tags, fields) = (&ruleset.catalog.tags, ruleset.plan.inputs());
        let (mut seen, mut reads) = (BTreeSet::new(), Vec::new());
        let mut names: Vec<&String> = tags[tag].expr.columns.iter().rev().collect();
        while let Some(name) = names.pop() {
            if !seen.insert(name) {
                continue;
            }
            let value = if let Some(at) = fields.iter().position(|f| f.name == *name) {
                OpenValue::at(&inputs[at], 0).map(|v| shown(&v, &ruleset.catalog.zone))
            } else if let Some(at) = tags.iter().position(|t| t.name == *name) {
                names.extend(tags[at].expr.columns.iter().rev());
                labels[at].clone()
            } else {
                continue;
            };
            reads.push(Read { name: name.clone(), value });
        }
        reads
    }
}

/// The catalogue with streams as cases write their rows: columns under their own names, instants in
/// milliseconds, and any column but uid and time may be missing.
fn as_given(catalog: &Catalog) -> Catalog {
    let mut catalog = catalog.clone();
    for stream in &mut catalog.streams {
        if let Some(changelog) = &mut stream.changelog {
            // A case is about one user, whom no row leaves: it gives rows as they are.
            changelog.before = None;
        }
        stream.from = model::From::File { path: String::new(), format: Format::Json };
        for (at, column) in stream.columns.iter_mut().enumerate() {
            column.from = column.name.clone();
            column.envelope = false;
            let changelog = stream.changelog.as_ref();
            column.required =
                at == stream.uid || at == stream.time || changelog.is_some_and(|c| c.needs(at));
            if let ColumnType::Timestamp(format) = &mut column.kind {
                *format = TimestampFormat::Millis;
            }
        }
    }
    catalog
}

/// One row as a line of JSON: cases hold decimals as text, the decoder wants their digits.
fn line(stream: &Stream, row: &Map<String, Json>) -> String {
    let cells = row.iter().map(|(name, value)| {
        let column = stream.columns.iter().find(|c| c.name == *name);
        let decimal = column.is_some_and(|c| matches!(c.kind, ColumnType::Decimal { .. }));
        let value = match value {
            Json::String(digits) if decimal => number(digits),
            other => other.to_string(),
        };
        format!("{}:{value}", Json::from(name.as_str()))
    });
    format!("{{{}}}\n", cells.collect::<Vec<_>>().join(","))
}

/// Decimal digits as JSON has them: no zeros in front.
fn number(digits: &str) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let trimmed = digits.trim_start_matches('0');
    let zero = if trimmed.is_empty() || trimmed.starts_with('.') { "0" } else { "" };
    format!("{sign}{zero}{trimmed}")
}

/// The one user whom a case is about.
fn uid_of(case: &Case, catalog: &Catalog) -> Result<Uid, UidError> {
    let named = case.given.first().and_then(|(at, row)| {
        let stream = &catalog.streams[*at];
        row.get(&stream.columns[stream.uid].name)
    });
    match (named, catalog.uid) {
        (Some(Json::String(text)), kind) => Uid::parse(kind, text),
        (Some(number), kind) => Uid::parse(kind, &number.to_string()),
        (None, UidType::U64) => Ok(Uid::U64(1)),
        (None, UidType::String) => Ok(Uid::Str("user".into())),
    }
}

/// Whether a tag's label is the expected one; numbers and instants compare by value.
fn same(domain: &Domain, expected: &Option<String>, got: &Option<String>, zone: &Zone) -> bool {
    let (Some(expected), Some(got)) = (expected, got) else { return expected == got };
    if expected == got {
        return true;
    }
    let Domain::Open(data_type) = domain else { return false };
    if let DataType::List(item) = data_type {
        let of = Domain::Open(item.data_type().clone());
        let (Some(expected), Some(got)) = (items(expected), items(got)) else { return false };
        let same = |(a, b): (&Option<String>, &Option<String>)| same(&of, a, b, zone);
        return expected.len() == got.len() && expected.iter().zip(&got).all(same);
    }
    let plain = |text: &str| {
        let (text, sign) = text.strip_prefix('-').map_or((text, ""), |rest| (rest, "-"));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        format!("{}{whole}.{fraction}", if zero { "" } else { sign })
    };
    if data_type.is_temporal() {
        return iso(expected, zone).is_ok_and(|ms| iso(got, zone) == Ok(ms));
    }
    if data_type.is_floating() {
        let value = |text: &str| text.parse::<f64>().ok();
        return value(expected).is_some_and(|e| value(got) == Some(e));
    }
    data_type.is_numeric() && plain(expected) == plain(got)
}

/// The labels of a list's values.
fn items(list: &str) -> Option<Vec<Option<String>>> {
    let items: Vec<Box<RawValue>> = serde_json::from_str(list).ok()?;
    let label = |raw: &RawValue| match serde_json::from_str::<Option<String>>(raw.get()) {
        Ok(text) => text,
        // A number keeps all its digits.
        Err(_) => Some(raw.get().to_owned()),
    };
    Some(items.iter().map(|raw| label(raw)).collect())
}

/// A value as people read it: instants in the business timezone.
fn shown(value: &OpenValue, zone: &Zone) -> String {
    match value {
        OpenValue::Timestamp(ms) => local_time(*ms, zone),
        OpenValue::Decimal(mantissa, scale) => decimal_text(*mantissa, *scale),
        other => other.label(),
    }
}

/// An instant as local time of the business timezone, to the precision it has.
pub fn local_time(instant_ms: i64, zone: &Zone) -> String {
    match Timestamp::from_millisecond(instant_ms) {
        Ok(at) => at.to_zoned(zone.tz().clone()).datetime().to_string(),
        Err(_) => format!("{instant_ms} ms"),
    }
}
