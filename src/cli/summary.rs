//! What a run did, for people or as one line of JSON.

use std::collections::{BTreeMap, BTreeSet};

use super::survey::values_text;
use super::{Failure, desk};
use crate::clock::show_instant;
use crate::engine::Report;
use crate::engine::intake::StreamTotals;
use crate::engine::ruleset::Ruleset;
use crate::event::block::Skipped;
use crate::serve::tally::{self, Tally};
use crate::store::Store;

/// Values of a shadow tag that are listed.
const VALUES_SHOWN: usize = 8;

/// Prints the summary of a run.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn show(
    report: &Report,
    ruleset: &Ruleset,
    shadow: &[Shadow],
    seconds: f64,
    json: bool,
) {
    if json {
        let mut all = as_json(report, seconds);
        let tags = shadow.iter().map(|s| (s.tag.clone(), serde_json::json!(s)));
        all["shadow"] = tags.collect::<serde_json::Map<_, _>>().into();
        println!("{all}");
        return;
    }
    let rate = |n: u64| per_second(n, seconds);
    println!("rows read        {:>12}  ({} a second)", report.rows, rate(report.rows));
    println!("rows rejected    {:>12}", report.rejected_rows);
    for (stream, totals) in &report.totals.streams {
        let reasons: Vec<String> =
            totals.rejects.iter().map(|(r, n)| format!("{n} {}", r.name())).collect();
        let rejects = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
        println!("  {stream:<14} {:>12} events, rejects: {rejects}", totals.events);
        if totals.failed > 0 {
            println!("  {:<14} {:>12} expressions could not be computed (NULL)", "", totals.failed);
        }
        show_skipped(totals);
    }
    println!("repeats dropped  {:>12}", report.folds.counts.repeats + report.folds.counts.changed);
    if report.folds.counts.changed > 0 {
        println!(
            "  of them        {:>12} had other content under the same id",
            report.folds.counts.changed
        );
    }
    show_changes(report, ruleset);
    println!("profiles stored  {:>12}  ({} a second)", report.profiles, rate(report.profiles));
    println!("  by time alone  {:>12}", report.stats.due_users);
    println!(
        "users resident   {:>12}  of {}, {} MB (at most {} MB)",
        report.resident_users,
        report.folds.users,
        report.resident_bytes >> 20,
        report.resident_bytes_peak >> 20
    );
    if report.stats.passivated_users > 0 {
        println!(
            "  left memory    {:>12}  and {} were read from the store again",
            report.stats.passivated_users, report.stats.activated_users
        );
    }
    if report.rounds > 0 {
        println!("by slices        {:>12}  times: users did not fit in memory", report.rounds);
    }
    println!("tags changed     {:>12}", report.stats.tags_changed);
    if ruleset.closed.is_some() {
        println!("accounts closed  {:>12}", report.stats.closed_users);
        println!("  open again     {:>12}", report.stats.reopened_users);
    }
    let failed: u64 = report.stats.tags.iter().map(|t| t.failed).sum();
    if failed > 0 {
        println!("not computable   {failed:>12} (NULL for those users):");
        for (tag, stats) in ruleset.catalog.tags.iter().zip(&report.stats.tags) {
            if stats.failed > 0 {
                println!("  {:<40} {}", tag.name, stats.failed);
            }
        }
    }
    if report.stats.feature_overflows > 0 {
        println!("sums too large   {:>12} (NULL for those users)", report.stats.feature_overflows);
    }
    if let Some(as_of_ms) = report.as_of_ms {
        println!("as of            {}", show_instant(as_of_ms));
    }
    println!("took             {seconds:.2} s, {} windows", report.windows);
    show_shadow(shadow);
    warnings(report, ruleset);
}

/// Records of change data capture that are no rows of a stream.
#[expect(clippy::print_stdout, reason = "a command's output")]
fn show_skipped(totals: &StreamTotals) {
    for (name, count) in totals.skipped.counts().into_iter().filter(|(_, count)| *count > 0) {
        let what = match name {
            "updates" => "updates left out (events do not change: `mode: changelog` is for tables)",
            "deletes" => "deletions left out (events stay: `mode: changelog` is for tables)",
            "truncates" => "truncations left out (events stay)",
            "other_tables" => "records of other tables",
            "ddl" => "changes of tables' columns",
            "tombstones" => "records without value",
            _ => "heartbeats, borders and statements",
        };
        println!("  {:<14} {count:>12} {what}", "");
    }
    if !totals.unread_columns.is_empty() {
        let names: Vec<&str> = totals.unread_columns.iter().map(String::as_str).collect();
        println!("  {:<14} {:>12} columns are not read: {}", "", names.len(), names.join(", "));
    }
}

/// What a shadow tag would have published.
#[derive(Debug, serde::Serialize)]
pub(super) struct Shadow {
    /// The tag.
    pub(super) tag: String,
    /// How often it changed in this run.
    pub(super) changes: u64,
    /// Users by stored value.
    pub(super) users: Tally,
}

/// Counts the shadow tags of a store after a run.
pub(super) fn shadow(
    report: &Report,
    ruleset: &Ruleset,
    store: &dyn Store,
) -> Result<Vec<Shadow>, Failure> {
    let all = &ruleset.catalog.tags;
    let tags: Vec<usize> = (0..all.len()).filter(|t| all[*t].terms.shadow).collect();
    if tags.is_empty() {
        return Ok(Vec::new());
    }
    let tallies = tally::stored(store, ruleset, &tags).map_err(desk::read_failure)?;
    let shadow = |(tag, users): (usize, Tally)| Shadow {
        tag: all[tag].name.clone(),
        changes: report.stats.tags.get(tag).map_or(0, |stats| stats.flips),
        users,
    };
    Ok(tags.into_iter().zip(tallies).map(shadow).collect())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show_shadow(shadow: &[Shadow]) {
    if shadow.is_empty() {
        return;
    }
    println!("shadow tags, computed and counted but not published:");
    for Shadow { tag, changes, users } in shadow {
        println!("  {tag:<30} {changes} changes; users: {}", values_text(users, VALUES_SHOWN));
    }
}

/// What tables that change did.
#[expect(clippy::print_stdout, reason = "a command's output")]
fn show_changes(report: &Report, ruleset: &Ruleset) {
    if !ruleset.layout.has_changelog {
        return;
    }
    let counts = &report.folds.counts;
    println!("rows replaced    {:>12}", counts.replaced);
    println!("rows deleted     {:>12}", counts.deleted);
    println!("  by moving      {:>12}", moved(report));
    println!("older versions   {:>12}", counts.older);
    if counts.partly > 0 {
        println!("partly           {:>12} users have more rows than rows_max", counts.partly);
        println!("  left out       {:>12} rows", counts.left_out);
    }
}

/// Rows of tables that came from one user to another.
fn moved(report: &Report) -> u64 {
    report.totals.streams.values().map(|stream| stream.moved).sum()
}

fn warnings(report: &Report, ruleset: &Ruleset) {
    if report.rows == 0 && report.windows == 0 {
        eprintln!("nothing new: the sources were read to their end before");
    }
    for table in &report.missing_tables {
        eprintln!(
            "warning: dimension table `{table}` was never loaded: its columns are NULL; \
             `tagloom dims load {table} FILE`"
        );
    }
    if let Some((day, strays)) = report.stray_future {
        let at = show_instant(ruleset.catalog.zone.day_start_ms(day + 1) - 1);
        eprintln!(
            "warning: {strays} events lie more than 366 days beyond all others and moved the as-of; \
             they look like mistakes: run with --as-of {at} into a new store.path"
        );
    }
    if report.quarantined > 0 {
        eprintln!(
            "warning: {} users are quarantined; see the log for their panics",
            report.quarantined
        );
    }
}

fn per_second(count: u64, seconds: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people to read"
    )]
    let rate = (count as f64 / seconds.max(1e-3)) as u64;
    rate
}

fn as_json(report: &Report, seconds: f64) -> serde_json::Value {
    let rejects: BTreeMap<&str, BTreeMap<&str, u64>> = report
        .totals
        .streams
        .iter()
        .map(|(s, t)| (s.as_str(), t.rejects.iter().map(|(r, n)| (r.name(), *n)).collect()))
        .collect();
    let streams = report.totals.streams.iter();
    let captured = streams.clone().filter(|(_, t)| t.skipped != Skipped::default());
    let skipped: BTreeMap<&str, Skipped> = captured.map(|(s, t)| (s.as_str(), t.skipped)).collect();
    let unread: BTreeMap<&str, &BTreeSet<String>> = streams
        .filter(|(_, t)| !t.unread_columns.is_empty())
        .map(|(s, t)| (s.as_str(), &t.unread_columns))
        .collect();
    let (cpu_seconds, peak_rss_bytes) = super::usage::usage().unwrap_or_default();
    serde_json::json!({
        "rows": report.rows,
        "events": report.events,
        "rejected_rows": report.rejected_rows,
        "rejects": rejects,
        "skipped": skipped,
        "unread_columns": unread,
        "repeats": report.folds.counts.repeats,
        "changed_repeats": report.folds.counts.changed,
        "replaced": report.folds.counts.replaced,
        "deleted": report.folds.counts.deleted,
        "moved": moved(report),
        "older": report.folds.counts.older,
        "left_out": report.folds.counts.left_out,
        "partly_users": report.folds.counts.partly,
        "users": report.folds.users,
        "profiles": report.profiles,
        "due_users": report.stats.due_users,
        "dirty_users": report.stats.dirty_users,
        "tags_changed": report.stats.tags_changed,
        "closed_users": report.stats.closed_users,
        "reopened_users": report.stats.reopened_users,
        "windows": report.windows,
        "slice_rounds": report.rounds,
        "as_of_ms": report.as_of_ms,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "events_per_s": per_second(report.events, seconds),
        "users_per_s": per_second(report.profiles, seconds),
        "peak_rss_mb": peak_rss_bytes >> 20,
        "stage_ms": report.stats.stage_ns.map(|ns| ns / 1_000_000),
        "resident_users": report.resident_users,
        "resident_bytes": report.resident_bytes,
        "resident_bytes_peak": report.resident_bytes_peak,
        "activated_users": report.stats.activated_users,
        "passivated_users": report.stats.passivated_users,
        "resident_bytes_per_user":
            report.resident_bytes.checked_div(report.resident_users).unwrap_or(0),
        "stored_bytes_per_user": report.packed_bytes.checked_div(report.profiles).unwrap_or(0),
    })
}
