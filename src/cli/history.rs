//! `tagloom backfill --history`: what came before, for features that have not seen it.
//!
//! In: files of history and a cut. Out: profiles in which features count what came before the cut
//! from history and the rest from live events. Files are folded into a store beside the live one
//! first; then whoever has the live store open merges it, user by user, between its other windows. Over a
//! store that processes share that is this command, when none of them runs: it joins the group, and
//! merges only while it owns all partitions, hence all users, those included whom no topic has named yet.
//! A process that starts meanwhile finds the history and ends, with word of what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::owner::{Owner, wait_for_nobody};
use super::{Failure, Outcome, desk, open, progress, rejects, run, topics};
use crate::catalog::model::{Catalog, Format};
use crate::clock::{Zone, show_instant};
use crate::config::{Config, StoreKind};
use crate::engine::history::{self, Merge, Progress};
use crate::engine::ruleset::Ruleset;
use crate::engine::version::{Saved, Version, active, is_recomputed, next_with};
use crate::engine::{Clock, EngineError, Report};
use crate::serve::local::{MergeRequest, Request};
use crate::source::file::FileSpec;
use crate::source::input::STDIN;
use crate::source::parquet::is_parquet;
use crate::store::fjall::FjallStore;
use crate::store::{ClockMode, Identity, Store};
use crate::user::layout::hash64;

/// How often somebody who waits for another process looks.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// How others name it.
const NAME: &str = "backfill --history";

/// Rejects that are listed.
const REJECTS_SHOWN: usize = 10;

/// What a history needs to know of the store it is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    version: Version,
    horizon_days: u32,
    /// A history that is not merged yet, or the last one.
    merge: Option<(Merge, Progress)>,
    /// Everybody has been computed since.
    is_computed: bool,
    /// As of when; none: the store has no users.
    as_of_ms: Option<i64>,
}

/// Runs the command. `given`: STREAM=FILE.
pub(super) fn run(
    given: &[String],
    cut: &str,
    users_per_s: Option<NonZeroU32>,
    config: &Config,
    json: bool,
) -> Outcome {
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let catalog = &loaded.catalog;
    let cut_ms = first_of_day(cut, &catalog.zone)?;
    let mut sources = run::sources(catalog, config, given)?;
    sources.iter_mut().for_each(|s| s.format = written_as(&s.path, s.format));
    if sources.iter().any(|s| s.path == Path::new(STDIN)) {
        let message = "--history: standard input cannot be read again after an interruption; \
                       give a file";
        return Err(Failure::Input(message.to_owned()));
    }
    let mut streams: Vec<usize> = sources.iter().flat_map(|s| s.streams.clone()).collect();
    streams.sort_unstable();
    streams.dedup();
    if let Some(table) =
        streams.iter().map(|s| &catalog.streams[*s]).find(|s| s.changelog.is_some())
    {
        let name = &table.name;
        return Err(Failure::Input(format!(
            "--history {name}: the history of a table (`mode: changelog`) is its rows: give them as \
             insertions to `tagloom run --source {name}=FILE`, as an ordinary source; for a feature \
             that is newer than rows which the store has, with a version above theirs"
        )));
    }
    if config.store.kind == StoreKind::Hbase && !topics::named(catalog).is_empty() {
        wait_for_nobody(config, NAME)?;
    }
    let plan: Plan = desk::request(config, Request::HistoryPlan, &mut |_, _| {})?;
    if plan.version.fingerprint != catalog.fingerprint {
        let message = format!(
            "the rules in {} are not those that are active in the store: let the running process \
             take them over, or name the directory of the active ones with --catalog",
            config.catalog.path.display()
        );
        return Err(Failure::Input(message));
    }
    if let Some((merge, _)) = plan.merge.as_ref().filter(|m| m.1.ended) {
        // One that was killed between its last window and its end.
        finish(config, &plan, merge)?;
    } else if let Some((merge, _)) = &plan.merge {
        if !merge.dir.exists() {
            fold_again(&plan, merge, catalog, (sources, &streams, cut_ms), config)?;
        }
        eprintln!("an interrupted history goes on where it was; run this again for another one");
        let users = merged(config, Request::HistoryResume)?;
        remove(&merge.dir)?;
        return show(users, None, json);
    }
    let lacking = history::lacking(catalog, &plan.version, &streams);
    if lacking.is_empty() {
        return show(0, None, json);
    }
    check_cut(catalog, &plan, &lacking, cut_ms)?;
    let origins: BTreeSet<u64> = lacking.keys().copied().collect();
    let paths: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
    let dir = side_dir(config, &format!("{cut_ms} {paths:?} {origins:?}"))?;
    let names: Vec<String> = streams.iter().map(|s| catalog.streams[*s].name.clone()).collect();
    let catalog = catalog.clone();
    let ruleset = history::ruleset(catalog, &plan.version, &origins, cut_ms, plan.horizon_days);
    let report = fold(ruleset.map_err(Failure::input)?, sources, &dir, config)?;
    let request = MergeRequest { dir: dir.clone(), cut_ms, streams: names, users_per_s };
    let users = merged(config, Request::HistoryMerge(request))?;
    remove(&dir)?;
    show(users, Some(&report), json)
}

/// Folds files into a store of their own, or goes on with that.
fn fold(
    ruleset: Ruleset,
    sources: Vec<FileSpec>,
    dir: &Path,
    config: &Config,
) -> Result<Report, Failure> {
    let (uid, timezone) = (ruleset.catalog.uid, ruleset.catalog.zone.name().to_owned());
    let ruleset = Arc::new(ruleset);
    let identity = Identity { uid, timezone, clock: ClockMode::Event };
    let store = FjallStore::open(dir, &identity, &open::fjall_options(config));
    let store: Arc<dyn Store> = Arc::new(store.map_err(open::store_failure)?);
    let mut options = run::options(config, &ruleset, Arc::clone(&store), Clock::Event);
    options.sources = sources;
    options.state_bytes_max = usize::MAX;
    let mut bars = run::Bars::default();
    let report = crate::engine::run(options, &mut |seen| bars.show(seen));
    bars.clear();
    let report = report.map_err(run::engine_failure)?;
    if report.is_interrupted {
        return Err(stopped());
    }
    tell_rejects(store.as_ref(), &report)?;
    Ok(report)
}

fn stopped() -> Failure {
    Failure::Failed(
        "stopped before everybody had the history: run this again, it goes on".to_owned(),
    )
}

/// Archives are often written in another way than live events: their names say so.
fn written_as(path: &Path, declared: Format) -> Format {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let has = |ending: &str| name.split('.').skip(1).any(|part| part == ending);
    match () {
        () if is_parquet(path) => Format::Parquet,
        () if has("csv") => Format::Csv,
        // Their envelopes are JSON, too.
        () if declared.is_envelope() => declared,
        () if has("json") || has("jsonl") || has("ndjson") => Format::Json,
        () => declared,
    }
}

/// Days are kept apart, instants of a day are not: a cut falls between two days.
fn first_of_day(text: &str, zone: &Zone) -> Result<i64, Failure> {
    let instant_ms = match text.len() {
        10 => open::instant(&format!("{text}T00:00"), zone),
        _ => open::instant(text, zone),
    }?;
    let first_ms = zone.day_start_ms(zone.day_of(instant_ms));
    if first_ms == instant_ms {
        return Ok(instant_ms);
    }
    Err(Failure::Input(format!(
        "--cut {text}: the cut has to be the first instant of a day in {}: write {} or that of \
         another day, and give history up to there",
        zone.name(),
        zone.show(first_ms)
    )))
}

/// Partials over everything have live events that are too old to be told apart.
fn check_cut(
    catalog: &Catalog,
    plan: &Plan,
    lacking: &BTreeMap<u64, usize>,
    cut_ms: i64,
) -> Outcome {
    let first_ms = history::first_cut_ms(catalog, lacking, plan.as_of_ms, plan.horizon_days);
    let Some(first_ms) = first_ms.filter(|first_ms| cut_ms < *first_ms) else { return Ok(()) };
    let zone = &catalog.zone;
    Err(Failure::Input(format!(
        "--cut {}: live events are kept by day for {} days only, so for features over `lifetime` \
         those from before and after this cut cannot be told apart; the first cut that can be is \
         {}: give history up to there",
        zone.show(cut_ms),
        plan.horizon_days,
        zone.show(first_ms)
    )))
}

/// Beside the live store: the same command finds it again.
fn side_dir(config: &Config, what: &str) -> Result<PathBuf, Failure> {
    let mut name = desk::absolute(&config.store.path)?.into_os_string();
    let hbase = &config.store.hbase;
    let what = match config.store.kind {
        StoreKind::Hbase => format!("{what} {} {}", hbase.prefix, hbase.gateways),
        _ => what.to_owned(),
    };
    name.push(format!("-history-{:016x}", hash64(what.as_bytes())));
    Ok(name.into())
}

fn remove(dir: &Path) -> Outcome {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::Failed(
            format!("{}: {error}; the history is merged: remove it by hand", dir.display()),
        )),
        _ => Ok(()),
    }
}

/// What was folded of a history that is not merged yet is gone, or on another machine: the same files give
/// the same again. Its place has all of it, or is not there.
fn fold_again(
    plan: &Plan,
    merge: &Merge,
    catalog: &Catalog,
    (sources, streams, cut_ms): (Vec<FileSpec>, &[usize], i64),
    config: &Config,
) -> Outcome {
    let (version, origins, cut) = history::before_merge(&plan.version, merge.job);
    let of = |origin: &u64| version.partials.get(origin).map(|record| record.stream.as_str());
    let wanted: BTreeSet<&str> = origins.iter().filter_map(of).collect();
    let given: BTreeSet<&str> = streams.iter().map(|s| catalog.streams[*s].name.as_str()).collect();
    if cut != Some(cut_ms) || wanted != given {
        let (wanted, dir) = (wanted.into_iter().collect::<Vec<_>>().join(", "), &merge.dir);
        return Err(Failure::Input(format!(
            "a history is not merged yet, and what was folded of it is not here: {} is no directory. Run \
             this where the interrupted one ran, or give the same files of {wanted} and --cut {} again",
            dir.display(),
            cut.map_or_else(|| "INSTANT".to_owned(), |cut| catalog.zone.show(cut)),
        )));
    }
    eprintln!("what was folded of the interrupted history is not here: its files are folded again");
    // Of other files it is another one.
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let mut name = merge.dir.clone().into_os_string();
    name.push(format!("-again-{:016x}", hash64(format!("{names:?}").as_bytes())));
    let dir = PathBuf::from(name);
    let failed = |e| Failure::Failed(format!("{}: {e}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let ruleset = history::ruleset(catalog.clone(), &version, &origins, cut_ms, plan.horizon_days);
    fold(ruleset.map_err(Failure::input)?, sources, &dir, config)?;
    std::fs::rename(&dir, &merge.dir).map_err(failed)
}

/// Of a history that is merged: computes who is not computed yet, and removes it.
fn finish(config: &Config, plan: &Plan, merge: &Merge) -> Outcome {
    if !plan.is_computed {
        merged(config, Request::HistoryResume)?;
    }
    remove(&merge.dir)
}

fn merged(config: &Config, request: Request) -> Result<u64, Failure> {
    let bar = progress::users_bar("merge", 0);
    let users = desk::request(config, request, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    users
}

fn tell_rejects(store: &dyn Store, report: &Report) -> Outcome {
    if report.rejected_rows == 0 {
        return Ok(());
    }
    eprintln!("{} rows of the history could not be used; the last of them:", report.rejected_rows);
    let rejects = rejects::collect(store, None, None, REJECTS_SHOWN)?;
    rejects.reasons().for_each(|reason| eprintln!("  {reason}"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(users: u64, report: Option<&Report>, json: bool) -> Outcome {
    let (rows, rejected) = report.map_or((0, 0), |r| (r.rows, r.rejected_rows));
    if json {
        println!("{}", json!({ "users": users, "rows": rows, "rejected_rows": rejected }));
    } else if users == 0 && report.is_none() {
        println!("no feature of these streams lacks history: nothing to do");
    } else {
        println!("{rows} rows of history read, {users} users have it now");
    }
    Ok(())
}

/// What whoever has the store open says of it.
pub(super) fn plan(store: &dyn Store, horizon_days: u32) -> Result<Plan, Failure> {
    let version = active(store).map_err(open::version_failure)?;
    let version = version.ok_or_else(|| Failure::failed("the store has no catalogue yet"))?;
    let merge = history::progress(store, &version).map_err(run::engine_failure)?;
    let is_computed = is_recomputed(store, version.number).map_err(open::version_failure)?;
    let as_of_ms = history::as_of_users(store).map_err(run::engine_failure)?;
    Ok(Plan { version, horizon_days, merge, is_computed, as_of_ms })
}

/// Begins to merge a history into a store that this process has open, beside its engine or by one
/// of its own, and waits for the end. Gives the number of users.
pub(super) fn merge(
    desk: &desk::Desk,
    request: Option<&MergeRequest>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, Failure> {
    let is_running = desk.swaps().active().is_some();
    // Of a store that processes share: before anything is written, everybody is owned.
    let owner = if is_running { None } else { Some(become_owner(desk)?) };
    if let Some(request) = request {
        begin(desk, request)?;
    }
    if let Some(owner) = owner {
        return alone(desk, &owner, progress);
    }
    let store = desk.store().as_ref();
    loop {
        let version = active(store).map_err(open::version_failure)?;
        let merge = version.map(|v| history::progress(store, &v)).transpose();
        let merge = merge.map_err(run::engine_failure)?.flatten();
        let is_wanted = |m: &Merge| request.is_none_or(|r| r.dir == m.dir);
        if let Some((_, so_far)) = merge.filter(|(m, _)| is_wanted(m)) {
            if so_far.ended {
                return Ok(so_far.users);
            }
            progress(so_far.users, 0);
        } else {
            progress(0, 0);
        }
        // The engine's thread has no way to tell this one.
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Gives the partials that lack history their cut, from which on live events count; the engine
/// merges what the history's store holds.
fn begin(desk: &desk::Desk, request: &MergeRequest) -> Outcome {
    let (store, config) = (desk.store(), desk.config());
    let plan = plan(store.as_ref(), desk.horizon_days()?)?;
    let Plan { version, horizon_days, .. } = &plan;
    if let Some((merge, _)) = plan.merge.as_ref().filter(|m| !m.1.ended) {
        return Err(Failure::Input(format!(
            "another history is being merged ({}): wait for its end",
            merge.dir.display()
        )));
    }
    let texts = crate::engine::version::files(store.as_ref(), version.number);
    let texts = texts.map_err(open::version_failure)?;
    let dir = config.catalog.path.to_string_lossy();
    let loaded = crate::catalog::load_from(&dir, texts).map_err(Failure::failed)?;
    let job = history::next_job(version);
    let as_of_ms = {
        let side = FjallStore::open_existing(&request.dir, &open::fjall_options(config));
        let side = side.map_err(open::store_failure)?;
        crate::engine::stored_as_of(&side).map_err(run::engine_failure)?
    };
    let stored = crate::engine::stored_as_of(store.as_ref()).map_err(run::engine_failure)?;
    let latest_ms = stored.max(as_of_ms).unwrap_or(request.cut_ms);
    let lacking = lacking(&loaded.catalog, version, &request.streams);
    check_cut(&loaded.catalog, &plan, &lacking, request.cut_ms)?;
    let cuts =
        history::cuts(&loaded.catalog, &lacking, job, request.cut_ms, latest_ms, *horizon_days);
    let users_per_s = request.users_per_s;
    let merge = Merge { job, dir: request.dir.clone(), users_per_s, as_of_ms };
    let mut moment = open::moment(store.as_ref(), config, None)?;
    moment.running = desk.swaps().active().is_some();
    let files = loaded.files.clone();
    let next = next_with(store.as_ref(), loaded, moment, Some((merge, cuts)));
    let next = next.map_err(open::version_failure)?;
    tracing::info!(job, cut = show_instant(request.cut_ms), "a history is merged");
    if moment.running {
        let lookups = open::lookups(config);
        desk.swaps().propose_next(store, next, files, &lookups).map_err(Failure::input)
    } else {
        match next.save(store.as_ref()).map_err(open::store_failure)? {
            Saved::Done => Ok(()),
            Saved::Taken => Err(Failure::Failed(
                "another process has made another catalogue active meanwhile: run this again"
                    .to_owned(),
            )),
        }
    }
}

fn lacking(catalog: &Catalog, version: &Version, streams: &[String]) -> BTreeMap<u64, usize> {
    let at = |name: &String| catalog.streams.iter().position(|s| s.name == *name);
    let streams: Vec<usize> = streams.iter().filter_map(at).collect();
    history::lacking(catalog, version, &streams)
}

fn become_owner(desk: &desk::Desk) -> Result<Owner, Failure> {
    let config = desk.config();
    let catalog = open::ready_catalog(&config.catalog.path)?.catalog;
    Owner::of(desk.store(), &catalog, config, NAME)
}

/// Merges with an engine of this command's own.
fn alone(
    desk: &desk::Desk,
    owner: &Owner,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, Failure> {
    let (store, config) = (Arc::clone(owner.store()), desk.config());
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let next = open::version(store.as_ref(), loaded, config, None)?;
    let clock = match store.identity().clock {
        ClockMode::Wall => Clock::Wall,
        ClockMode::Event | ClockMode::Fixed => Clock::Event,
    };
    let mut options = run::options(config, &Arc::new(next.ruleset), Arc::clone(&store), clock);
    options.publish = super::publish::open(config)?;
    owner.lend(&mut options);
    let report = crate::engine::run(options, &mut |seen| {
        progress(seen.status.examined_users.load(Ordering::Relaxed), 0);
    });
    report.map_err(|error| match error {
        EngineError::Store(error) => open::store_failure(error),
        other => run::engine_failure(other),
    })?;
    // Everybody has been computed after the merge: those who have the history are fewer.
    let Plan { merge, is_computed, .. } = plan(store.as_ref(), 0)?;
    // Into an empty store nobody has to be computed again.
    if !is_computed || merge.as_ref().is_some_and(|(_, progress)| !progress.ended) {
        return Err(stopped());
    }
    Ok(merge.map_or(0, |(_, progress)| progress.users))
}
