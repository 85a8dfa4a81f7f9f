//! What each tag costs, and what it gives.
//!
//! In: a reader over a store, which tags, which users. Out: for each tag the time its own part of
//! the plan takes, its bytes in a profile, and how many users have which value.
//! Invariant: reads only. Times are measured: they say how tags compare on this machine, not more.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use super::read::{ReadError, Reader};
use super::survey::{Survey, Surveyed};
use super::tally::{Column, Tally};
use crate::catalog::model::{Catalog, Domain};
use crate::catalog::select::Selection;
use crate::clock::Stopwatch;
use crate::rule::plan::code_bits;
use crate::rule::{AsOf, InputField, Plan, PlanError, Scratch, TagBatch};
use crate::write::open::OpenValue;

/// Evaluations of which the fastest counts.
const REPEATS: usize = 7;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who was looked at.
    pub surveyed: Surveyed,
    /// The business timezone.
    pub timezone: String,
    /// Users over whom times were measured.
    pub timed_users: u64,
    /// In catalogue order.
    pub tags: Vec<TagStats>,
}

/// One tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagStats {
    /// Its name.
    pub tag: String,
    /// Its index in the catalogue.
    pub at: usize,
    /// Nanoseconds for one user, inputs and the tags it reads not counted.
    pub ns_per_user: f64,
    /// Whether a kernel computes it; else DataFusion does.
    pub kernel: bool,
    /// Bytes in a profile; the mean, for values that are stored as they are.
    pub bytes_per_user: f64,
    /// It is computed and not published.
    pub shadow: bool,
    /// What is said of it: deprecated, limited in time, shadow.
    pub terms: Vec<String>,
    /// How many users have which value.
    pub users: Tally,
}

/// Looks at the users of a survey.
pub fn collect(
    reader: &Reader,
    survey: &Survey<'_>,
    selection: &Selection,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ReadError> {
    let ruleset = &reader.ruleset;
    let catalog = &ruleset.catalog;
    let tags: Vec<usize> = selection.tags().collect();
    let columns: Vec<Option<Column>> = tags.iter().map(|t| Column::of(*t, ruleset)).collect();
    let mut users = vec![Tally::default(); tags.len()];
    let mut open_bytes = vec![0_u64; tags.len()];
    let mut times: Option<(u64, Vec<f64>)> = None;
    let surveyed = survey.rows(&[reader], progress, |rows, as_of_ms| {
        if times.is_none() {
            let sample = reader.batch(rows, as_of_ms)?;
            let rows = sample.healthy.len();
            times = Some((rows as u64, measure(reader, &tags, &sample.inputs, rows, as_of_ms)?));
        }
        for user in reader.read_rows(rows, as_of_ms)? {
            for (at, column) in columns.iter().enumerate() {
                let Some(column) = column else { continue };
                column.see(ruleset, &user.codes, &user.open, |label| users[at].add(label));
                open_bytes[at] += packed_bytes(column.open(&user));
            }
        }
        Ok(())
    })?;
    let (timed_users, times) = times.unwrap_or((0, vec![0.0; tags.len()]));
    let slow = ruleset.plan.without_kernel();
    let all = tags.iter().zip(users).zip(times).zip(open_bytes);
    let tags = all.map(|(((at, users), ns_per_user), bytes)| {
        let tag = &catalog.tags[*at];
        let bits = code_bits(tag).map(|bits| f64::from(u8::from(bits)) / 8.0);
        TagStats {
            tag: tag.name.clone(),
            at: *at,
            ns_per_user,
            kernel: !slow.contains(at),
            bytes_per_user: bits.unwrap_or_else(|| per(bytes, surveyed.users)),
            shadow: tag.terms.shadow,
            terms: tag.terms.text(&catalog.zone),
            users,
        }
    });
    let timezone = catalog.zone.name().to_owned();
    Ok(Report { surveyed, timezone, timed_users, tags: tags.collect() })
}

/// Bytes of an open value in a profile.
fn packed_bytes(value: Option<&OpenValue>) -> u64 {
    // A value that cannot be packed would not have been stored.
    value.map_or(0, |v| postcard::to_stdvec(v).map_or(0, |bytes| bytes.len() as u64))
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people to read")]
fn per(sum: u64, users: u64) -> f64 {
    sum as f64 / users.max(1) as f64
}

/// Nanoseconds a user of each tag, its inputs being there.
fn measure(
    reader: &Reader,
    tags: &[usize],
    inputs: &[ArrayRef],
    rows: usize,
    as_of_ms: i64,
) -> Result<Vec<f64>, ReadError> {
    let ruleset = &reader.ruleset;
    let catalog = &ruleset.catalog;
    let as_of = AsOf { ms: as_of_ms, day: catalog.zone.day_of(as_of_ms) };
    let batch = ruleset.plan.evaluate(inputs, rows, as_of);
    let mut scratch = Scratch::default();
    let mut out = TagBatch::default();
    let mut times = Vec::with_capacity(tags.len());
    for tag in tags {
        let (plan, columns) = alone(reader, *tag, inputs, &batch)?;
        let mut best_ns = u128::MAX;
        for _ in 0..REPEATS {
            let watch = Stopwatch::start();
            plan.evaluate_into(&columns, rows, as_of, &[], &mut scratch, &mut out);
            best_ns = best_ns.min(watch.elapsed().as_nanos());
        }
        times.push(per(u64::try_from(best_ns).unwrap_or(u64::MAX), rows as u64));
        scratch = Scratch::default();
    }
    Ok(times)
}

/// A plan of one tag alone, over what it reads: the tags among it are inputs like others.
fn alone(
    reader: &Reader,
    tag: usize,
    inputs: &[ArrayRef],
    batch: &TagBatch,
) -> Result<(Plan, Vec<ArrayRef>), PlanError> {
    let ruleset = &reader.ruleset;
    let catalog = &ruleset.catalog;
    let (mut fields, mut columns): (Vec<InputField>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for name in &catalog.tags[tag].expr.columns {
        let input = ruleset.plan.inputs().iter().position(|i| i.name == *name);
        if let Some(at) = input {
            fields.push(ruleset.plan.inputs()[at].clone());
            columns.push(Arc::clone(&inputs[at]));
        } else if let Some(read) = catalog.tags.iter().position(|t| t.name == *name) {
            let column = tag_column(reader, read, batch);
            let data_type = column.data_type().clone();
            fields.push(InputField { name: name.clone(), data_type, rolling: false });
            columns.push(column);
        }
    }
    let part = Catalog {
        tags: vec![catalog.tags[tag].clone()],
        tag_order: vec![0],
        ..catalog.without_definitions()
    };
    Ok((Plan::compile(&part, &fields)?, columns))
}

/// A tag's values as a plan's input.
fn tag_column(reader: &Reader, tag: usize, batch: &TagBatch) -> ArrayRef {
    let ruleset = &reader.ruleset;
    let plan = &ruleset.plan;
    if let Some(at) = plan.open_tags().iter().position(|t| *t == tag) {
        return Arc::clone(&batch.open[at]);
    }
    let closed = plan.closed_tags().iter().position(|t| *t == tag);
    let domain = &ruleset.catalog.tags[tag].domain;
    let label = |row: usize| {
        let code = plan.packing().get(batch.codes_of(row), closed?);
        crate::write::profile::label_of(domain, code)
    };
    let labels: ArrayRef = Arc::new((0..batch.rows).map(label).collect::<StringArray>());
    let wanted = match domain {
        Domain::Closed { bool: true, .. } => DataType::Boolean,
        _ => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    };
    // Labels of a bool tag are `false` and `true`: both casts are total.
    cast(&labels, &wanted).unwrap_or(labels)
}
