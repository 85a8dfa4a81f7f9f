//! `tagloom diff`: which tags mean something else, and who would notice.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::survey::{self, SampleArgs, values_text, whom};
use super::test::percent;
use super::{Outcome, desk, open};
use crate::clock::show_instant;
use crate::config::Config;
use crate::serve::diff::{ClosedChange, Report, TagChange, of_rules};
use crate::serve::local::SurveyRequest;

/// Pairs of values shown of a tag.
const FLIPS_SHOWN: usize = 8;

/// Arguments of `tagloom diff`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom diff tags ../changed/tags                  which tags mean something else, and why
  tagloom diff tags ../changed/tags --store          and who would flip, over 10000 users of the store
  tagloom diff tags ../changed/tags --store --sample all --json

A rule that is only written otherwise is no change. The store is store.path; OLD is the
catalogue it was written with. Beside a running `tagloom run` that process computes the answer.
What the stored state does not hold (a new aggregate lacks its history) is said, not guessed.")]
pub(super) struct DiffArgs {
    /// The rule directory as it is
    old: PathBuf,
    /// The rule directory as it is to be
    new: PathBuf,
    /// Also count who would flip, over users of the store
    #[arg(long)]
    store: bool,
    #[command(flatten)]
    sample: SampleArgs,
}

/// Runs the command.
pub(super) fn run(args: &DiffArgs, config: &Config, json: bool) -> Outcome {
    let report = if args.store || args.sample.sample.is_some() {
        let what = SurveyRequest::Diff {
            old: desk::absolute(&args.old)?,
            new: desk::absolute(&args.new)?,
            sample: args.sample.users(),
        };
        survey::ask(config, "diff", args.sample.as_of.clone(), what)?
    } else {
        let catalog = |dir: &Path| open::catalog(dir).map(|loaded| loaded.catalog);
        of_rules(&catalog(&args.old)?, &catalog(&args.new)?)
    };
    survey::print(&report, text, json);
    Ok(())
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for change in &report.changes {
        of_tag(change, report, &mut out);
    }
    if let Some(closed) = &report.closed {
        of_closed(closed, report, &mut out);
    }
    let is = |of: fn(&TagChange) -> bool| report.changes.iter().filter(|c| of(c)).count();
    let changed = is(|c| c.meaning);
    let (added, removed) = (is(|c| c.old.is_none()), is(|c| c.new.is_none()));
    let renamed = is(|c| c.old.is_some() && c.new.is_some() && c.old != c.new);
    let (before, after) = report.tags;
    // Writing to a String cannot fail.
    write!(
        out,
        "{before} tags before, {after} after: {changed} mean something else, {added} are new, \
         {removed} are gone, {renamed} are renamed"
    )
    .ok();
    if !report.old_is_active {
        out.push_str(
            "\nthe store is written with other rules than OLD: `tagloom catalog` shows which",
        );
    }
    match &report.surveyed {
        Some(surveyed) => {
            let as_of = show_instant(surveyed.as_of_ms);
            write!(out, "\ncomputed for {}, as of {as_of}", whom(surveyed)).ok();
        }
        None if changed + added > 0 || report.closed.is_some() => {
            out.push_str("\n--store counts who would notice");
        }
        None => {}
    }
    out
}

fn of_closed(change: &ClosedChange, report: &Report, out: &mut String) {
    let mut because = Vec::new();
    match (&change.old, &change.new) {
        (None, _) => because.push("no account was closed before".to_owned()),
        (_, None) => because.push("no account is closed any more".to_owned()),
        _ if change.rule => because.push("on another condition".to_owned()),
        _ => {}
    }
    if !change.through.is_empty() {
        because.push(by_what(&change.through));
    }
    writeln!(out, "~ closed accounts  {}", because.join("; ")).ok();
    let Some(surveyed) = &report.surveyed else { return };
    for lack in &change.lacks {
        writeln!(out, "    cannot be computed from the store: {lack}").ok();
    }
    if !change.lacks.is_empty() {
        return;
    }
    let all = surveyed.users;
    for (users, what) in [(&change.close, "close"), (&change.reopen, "reopen")] {
        let share = percent(users.users, all);
        write!(out, "    {} of {all} accounts would {what} ({share})", users.users).ok();
        if !users.examples.is_empty() {
            write!(out, "  such as {}", users.examples.join(", ")).ok();
        }
        out.push('\n');
    }
}

fn by_what(through: &[String]) -> String {
    format!("by what it reads: {}", through.join(", "))
}

fn of_tag(change: &TagChange, report: &Report, out: &mut String) {
    let (sign, name) = match (&change.old, &change.new) {
        (None, Some(new)) => ("+", new.clone()),
        (Some(old), None) => ("-", old.clone()),
        (Some(old), Some(new)) if old != new => ("~", format!("{old} -> {new}")),
        (_, new) => ("~", new.clone().unwrap_or_default()),
    };
    let mut because = Vec::new();
    if change.rule {
        because.push("its rule is another one".to_owned());
    }
    if !change.through.is_empty() {
        because.push(by_what(&change.through));
    }
    if let Some(like) = &change.like {
        because.push(format!("means what `{like}` meant: renamed? then add `was: {like}`"));
    }
    because.extend(change.terms.iter().cloned());
    let because =
        if because.is_empty() { String::new() } else { format!("  {}", because.join("; ")) };
    writeln!(out, "{sign} {name}{because}").ok();
    let Some(surveyed) = &report.surveyed else { return };
    let all = surveyed.users;
    for lack in &change.lacks {
        writeln!(out, "    cannot be computed from the store: {lack}").ok();
    }
    if let Some(values) = &change.values {
        writeln!(out, "    users: {}", values_text(values, FLIPS_SHOWN)).ok();
    } else if change.meaning && change.lacks.is_empty() {
        flips(change, all, out);
    }
}

fn flips(change: &TagChange, all: u64, out: &mut String) {
    let sum: u64 = change.flips.iter().map(|f| f.to.users).sum::<u64>() + change.flips_more;
    writeln!(out, "    {sum} of {all} users flip ({})", percent(sum, all)).ok();
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "no value".to_owned());
    let width = |of: &dyn Fn(&crate::serve::diff::Flip) -> String| {
        change.flips.iter().take(FLIPS_SHOWN).map(|f| of(f).chars().count()).max().unwrap_or(0)
    };
    let from_width = width(&|f| shown(&f.from));
    let to_width = width(&|f| shown(&f.to.value));
    for flip in change.flips.iter().take(FLIPS_SHOWN) {
        let (from, to) = (shown(&flip.from), shown(&flip.to.value));
        let examples = flip.to.examples.join(", ");
        let users = flip.to.users;
        writeln!(out, "    {from:>from_width$} -> {to:<to_width$} {users:>9}  such as {examples}")
            .ok();
    }
    let listed: u64 = change.flips.iter().take(FLIPS_SHOWN).map(|f| f.to.users).sum();
    if sum > listed {
        writeln!(out, "    and {} between other values", sum - listed).ok();
    }
}
