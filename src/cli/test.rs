//! `tagloom test`: do the catalogue's cases hold?

use std::fmt::Write as _;
use std::io::IsTerminal;

use clap::Args;
use serde_json::json;

use super::sql::at;
use super::{Failure, Outcome, desk, open, survey};
use crate::catalog::Loaded;
use crate::catalog::model::{Case, Catalog};
use crate::catalog::place::Files;
use crate::catalog::select::{SELECT_HELP, Selection};
use crate::config::Config;
use crate::engine::cases::{CaseReport, CaseRunner, Wrong, local_time};
use crate::serve::expect::{Report, Users};
use crate::serve::local::SurveyRequest;

/// Arguments of `tagloom test`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom test                            all cases of the catalogue
  tagloom test --select group:winback     those of one group
  tagloom test --select +win_back         those of a tag and of the tags it reads
  tagloom test --store                    also what `expect` says, over all users of the store

The store is store.path; beside a running `tagloom run` that process computes the answer, with
the rules of --catalog. Exit code 1: something does not hold.")]
pub(super) struct TestArgs {
    #[arg(long, value_name = "TERM", help = SELECT_HELP)]
    select: Vec<String>,
    /// Also check `expect` of the tags over all users of the store
    #[arg(long)]
    store: bool,
    /// With --store: as of this instant: ISO 8601, epoch milliseconds, or `now`
    #[arg(long, value_name = "INSTANT", requires = "store")]
    as_of: Option<String>,
}

/// Inputs shown for a check that does not hold.
const READS_MAX: usize = 16;

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: &TestArgs, config: &Config, json: bool) -> Outcome {
    let loaded = open::catalog(&config.catalog.path)?;
    let catalog = &loaded.catalog;
    let selection = Selection::parse(&args.select, catalog).map_err(Failure::input)?;
    let mut runner = CaseRunner::new(catalog).map_err(Failure::input)?;
    let (mut ran, mut checks, mut failing) = (0_usize, 0_usize, Vec::new());
    for case in catalog.cases.iter().filter(|c| selection.contains(c.tag)) {
        let report = runner
            .run(case)
            .map_err(|e| Failure::Failed(format!("{}: {e}", place(case, &loaded.files))))?;
        ran += 1;
        checks += report.checks;
        if !report.holds() {
            failing.push((case, report));
        }
    }
    let kept = args.store.then(|| promises(args, config)).transpose()?;
    if json {
        let failed: Vec<_> =
            failing.iter().map(|(c, r)| as_json(c, r, catalog, &loaded.files)).collect();
        let expect = kept.as_ref().map(|kept| json!(kept));
        println!("{}", json!({"cases": ran, "checks": checks, "failed": failed, "expect": expect}));
    } else {
        let color = std::io::stdout().is_terminal();
        for (case, report) in &failing {
            println!("{}", text(case, report, catalog, &loaded.files, color));
        }
        println!("{}", summary(ran, checks, &failing));
        if let Some(kept) = &kept {
            println!("{}", expect_text(kept, &loaded));
        }
    }
    let broken = kept.as_ref().map_or(0, |kept| kept.broken.len());
    match (failing.len(), broken) {
        (0, 0) => Ok(()),
        (0, broken) => Err(Failure::Failed(format!("{broken} tags are not as expected"))),
        (cases, 0) => Err(Failure::Failed(format!("{cases} of {ran} cases do not hold"))),
        (cases, broken) => Err(Failure::Failed(format!(
            "{cases} of {ran} cases do not hold, and {broken} tags are not as expected"
        ))),
    }
}

/// Whether tags keep what `expect` promises, over all users of the store.
fn promises(args: &TestArgs, config: &Config) -> Result<Report, Failure> {
    let what = SurveyRequest::Expect {
        catalog: desk::absolute(&config.catalog.path)?,
        select: args.select.clone(),
    };
    survey::ask(config, "expect", args.as_of.clone(), what)
}

fn expect_text(report: &Report, loaded: &Loaded) -> String {
    let mut out = String::new();
    let all = report.surveyed.users;
    for broken in &report.broken {
        let place = at(&loaded.files, loaded.catalog.tags[broken.at].place);
        // Writing to a String cannot fail.
        writeln!(out, "\n{place}: `{}` is not as expected", broken.tag).ok();
        if let (Some(without), Some(max)) = (&broken.without, &broken.null_share_max) {
            let some = some_of(without);
            let share = percent(without.users, all);
            writeln!(out, "  {share} of users have no value, at most {max} may: {some}").ok();
        }
        for users in broken.outside.iter().take(READS_MAX) {
            let value = users.value.as_deref().unwrap_or("");
            let some = some_of(users);
            writeln!(out, "  `{value}` is not accepted: {} users, {some}", users.users).ok();
        }
        let more: u64 = broken.outside.iter().skip(READS_MAX).map(|u| u.users).sum();
        if more + broken.outside_more > 0 {
            let more = more + broken.outside_more;
            writeln!(out, "  and {more} users with other values that are not accepted").ok();
        }
    }
    let as_of = local_time(report.surveyed.as_of_ms, &loaded.catalog.zone);
    let what = format!("expect: {} tags over {all} users, as of {as_of}", report.tags);
    match report.broken.len() {
        0 => write!(out, "{what}: all as expected").ok(),
        broken => write!(out, "\n{what}: {broken} are not as expected").ok(),
    };
    out
}

fn some_of(users: &Users) -> String {
    format!("such as {}", users.examples.join(", "))
}

/// A share for people, as `12.3 %`.
pub(super) fn percent(part: u64, all: u64) -> String {
    let thousandths = (u128::from(part) * 1000 + u128::from(all) / 2) / u128::from(all.max(1));
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

fn summary(ran: usize, checks: usize, failing: &[(&Case, CaseReport)]) -> String {
    if ran == 0 {
        return "no cases; write some under `cases:` of a tag".to_owned();
    }
    let what = format!("{ran} cases, {checks} checks");
    if failing.is_empty() {
        return format!("{what}: all pass");
    }
    let wrong: usize = failing.iter().map(|(_, r)| r.wrong.len()).sum();
    format!("{what}: {} cases fail, {wrong} checks do not hold", failing.len())
}

/// `tags/rules/winback.yaml:13`
fn place(case: &Case, files: &Files) -> String {
    let (line, _) = files.line_column(case.place.file, case.place.start);
    format!("{}:{line}", files.path(case.place.file))
}

fn value(label: Option<&str>) -> &str {
    label.unwrap_or("no value")
}

fn text(case: &Case, report: &CaseReport, catalog: &Catalog, files: &Files, color: bool) -> String {
    let (bold, red, plain) =
        if color { ("\x1b[1m", "\x1b[31;1m", "\x1b[0m") } else { ("", "", "") };
    let mut out = String::new();
    let as_of = local_time(case.as_of_ms, &catalog.zone);
    let name = &catalog.tags[case.tag].name;
    // Writing to a String cannot fail.
    writeln!(out, "{bold}{}:{plain} case of `{name}`, as of {as_of}", place(case, files)).ok();
    for rejected in &report.rejected {
        writeln!(out, "  {red}{rejected}{plain}").ok();
    }
    for wrong in &report.wrong {
        let (expected, got) = (value(wrong.expected.as_deref()), value(wrong.got.as_deref()));
        let when = when(wrong, catalog);
        let tag = &catalog.tags[wrong.tag].name;
        writeln!(out, "  {tag}: expected {expected}, {red}got {got}{plain}{when}").ok();
        if let Some(recomputed) = &wrong.recomputed {
            let label = value(recomputed.as_deref());
            writeln!(out, "    a recompute gives {label}: the engine missed the instant at which time alone changes this tag; please report it").ok();
        }
        let reads = wrong.reads.iter().take(READS_MAX);
        for read in reads {
            writeln!(out, "    {:<32} {}", read.name, read.value.as_deref().unwrap_or("NULL")).ok();
        }
        if wrong.reads.len() > READS_MAX {
            writeln!(out, "    and {} more", wrong.reads.len() - READS_MAX).ok();
        }
    }
    if report.no_profile {
        writeln!(out, "  no row is an event: the user has no profile, and no tag has a value").ok();
    }
    if report.filtered_rows > 0 {
        writeln!(
            out,
            "  {} of the rows, once a stream, are no events: the `where` of a stream left them out",
            report.filtered_rows
        )
        .ok();
    }
    out
}

fn when(wrong: &Wrong, catalog: &Catalog) -> String {
    if wrong.after_ms == 0 {
        return String::new();
    }
    format!(", at {}", local_time(wrong.as_of_ms, &catalog.zone))
}

fn as_json(
    case: &Case,
    report: &CaseReport,
    catalog: &Catalog,
    files: &Files,
) -> serde_json::Value {
    let wrong = report.wrong.iter().map(|w| {
        let reads: serde_json::Map<String, serde_json::Value> =
            w.reads.iter().map(|r| (r.name.clone(), json!(r.value))).collect();
        json!({
            "tag": catalog.tags[w.tag].name,
            "as_of_ms": w.as_of_ms,
            "after_ms": w.after_ms,
            "expected": w.expected,
            "got": w.got,
            "missed_by_time": w.recomputed.is_some(),
            "reads": reads,
        })
    });
    json!({
        "place": place(case, files),
        "tag": catalog.tags[case.tag].name,
        "as_of_ms": case.as_of_ms,
        "wrong": wrong.collect::<Vec<_>>(),
        "rejected": report.rejected,
        "filtered_rows": report.filtered_rows,
        "no_profile": report.no_profile,
    })
}
