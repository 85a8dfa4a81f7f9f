//! Questions about all users of a store, asked with catalogues of the asker's own.
//!
//! In: a store and a [`SurveyRequest`]. Out: JSON, the same whether this process has the store open
//! or the one that was asked over the local socket.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, desk, open, progress};
use crate::catalog::select::Selection;
use crate::config::Config;
use crate::engine::version::for_reading;
use crate::serve::local::{Request, SurveyRequest};
use crate::serve::read::Reader;
use crate::serve::survey::{Sample, Survey, Surveyed};
use crate::serve::tally::Tally;
use crate::serve::{diff, expect, stats};
use crate::store::Store;

/// Users computed where nothing else is asked for.
const SAMPLE_USERS: u32 = 10_000;

/// Which users a command looks at.
#[derive(Debug, Clone, Args)]
pub(super) struct SampleArgs {
    /// How many users: a number (always the same ones), or `all` [default: 10000]
    #[arg(long, value_name = "N", value_parser = parse_sample)]
    pub(super) sample: Option<Sample>,
    /// As of this instant: ISO 8601, epoch milliseconds, or `now`
    #[arg(long, value_name = "INSTANT")]
    pub(super) as_of: Option<String>,
}

impl SampleArgs {
    /// The users meant.
    pub(super) fn users(&self) -> Sample {
        self.sample.unwrap_or(Sample::Users(SAMPLE_USERS))
    }
}

fn parse_sample(text: &str) -> Result<Sample, String> {
    match (text, text.parse::<u32>()) {
        ("all", _) => Ok(Sample::All),
        (_, Ok(users)) if users > 0 => Ok(Sample::Users(users)),
        _ => Err("write a number of users, or `all`".to_owned()),
    }
}

/// Asks, showing progress.
pub(super) fn ask<T: DeserializeOwned>(
    config: &Config,
    name: &str,
    as_of: Option<String>,
    what: SurveyRequest,
) -> Result<T, Failure> {
    let bar = progress::users_bar(name, 0);
    let report = desk::request(config, Request::Survey { as_of, what }, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    report
}

/// Prints a report for people or for scripts.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn print<T: Serialize>(report: &T, text: fn(&T) -> String, json: bool) {
    println!("{}", if json { serde_json::json!(report).to_string() } else { text(report) });
}

/// `4372 users`, or how many of how many.
pub(super) fn whom(surveyed: &Surveyed) -> String {
    let Surveyed { users, stored_users, .. } = surveyed;
    if users == stored_users {
        return format!("{users} users");
    }
    format!("{users} of {stored_users} users")
}

/// How many users have which value, at most so many values.
pub(super) fn values_text(users: &Tally, values_max: usize) -> String {
    let by_users = users.by_users();
    let shown = by_users.iter().take(values_max);
    let mut shown: Vec<String> = shown.map(|(value, users)| format!("{value} {users}")).collect();
    let more: u64 = by_users.iter().skip(values_max).map(|(_, users)| users).sum();
    if more + users.more > 0 {
        shown.push(format!("other values {}", more + users.more));
    }
    shown.push(format!("no value {}", users.without));
    shown.join(", ")
}

/// Answers one.
pub(super) fn answer(
    store: &Arc<dyn Store>,
    config: &Config,
    as_of: Option<&str>,
    request: &SurveyRequest,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    match request {
        SurveyRequest::Expect { catalog, select } => {
            let reader = reader(store, config, catalog)?;
            let of = &reader.ruleset().catalog;
            let selection = Selection::parse(select, of).map_err(Failure::input)?;
            let survey = survey(store, &reader, as_of, Sample::All)?;
            let report = expect::check(&reader, &survey, &selection, progress);
            desk::json(&report.map_err(desk::read_failure)?)
        }
        SurveyRequest::Diff { old, new, sample } => {
            let (old, new) = (reader(store, config, old)?, reader(store, config, new)?);
            let survey = survey(store, &new, as_of, *sample)?;
            let report = diff::of_users(&old, &new, &survey, progress);
            desk::json(&report.map_err(desk::read_failure)?)
        }
        SurveyRequest::Stats { catalog, select, sample } => {
            let reader = reader(store, config, catalog)?;
            let of = &reader.ruleset().catalog;
            let selection = Selection::parse(select, of).map_err(Failure::input)?;
            let survey = survey(store, &reader, as_of, *sample)?;
            let report = stats::collect(&reader, &survey, &selection, progress);
            desk::json(&report.map_err(desk::read_failure)?)
        }
    }
}

fn survey<'a>(
    store: &'a Arc<dyn Store>,
    reader: &Reader,
    as_of: Option<&str>,
    sample: Sample,
) -> Result<Survey<'a>, Failure> {
    let zone = &reader.ruleset().catalog.zone;
    let as_of_ms = as_of.map(|text| open::instant(text, zone)).transpose()?;
    Ok(Survey { store: store.as_ref(), sample, as_of_ms })
}

/// A reader by a catalogue that need not be the one the store was written with. Tags without an id
/// are as good as others here: nothing is written.
fn reader(store: &Arc<dyn Store>, config: &Config, dir: &Path) -> Result<Reader, Failure> {
    let loaded = open::catalog(dir)?;
    let catalog = &loaded.catalog;
    let identity = store.identity();
    if identity.uid != catalog.uid || identity.timezone != catalog.zone.name() {
        return Err(Failure::Input(format!(
            "{}: uid or timezone are not those of the store (days of {}): use the catalogue it was \
             written with, or a changed copy of it",
            dir.display(),
            identity.timezone
        )));
    }
    let moment = open::moment(store.as_ref(), config, None)?;
    let ruleset = for_reading(store.as_ref(), loaded, moment).map_err(open::version_failure)?;
    let ruleset = Arc::new(ruleset);
    let now: crate::dimension::Now = Arc::new(crate::clock::wall_ms);
    Reader::open(ruleset, Arc::clone(store), now, &open::lookups(config))
        .map_err(desk::read_failure)
}
