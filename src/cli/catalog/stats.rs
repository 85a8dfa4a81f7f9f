//! `tagloom catalog stats`: what each tag costs, and how many users have which value.

use clap::{Args, ValueEnum};

use crate::catalog::select::SELECT_HELP;
use crate::cli::survey::{self, SampleArgs, whom};
use crate::cli::test::percent;
use crate::cli::{Outcome, desk, table};
use crate::clock::show_instant;
use crate::config::Config;
use crate::serve::local::SurveyRequest;
use crate::serve::stats::{Report, TagStats};

/// Values of a tag that are listed.
const VALUES_SHOWN: usize = 4;

/// Arguments of `tagloom catalog stats`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom catalog stats                          all tags over 10000 users
  tagloom catalog stats --sort time              the dearest first
  tagloom catalog stats --select group:value --sample all --json

Time is that of the tag's own rule, measured here and now over a batch of these users: compare
tags by it. A tag without kernel is computed by DataFusion. Shadow tags are marked with *.")]
pub(in crate::cli) struct StatsArgs {
    #[arg(long, value_name = "TERM", help = SELECT_HELP)]
    select: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Catalog)]
    sort: Sort,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    /// As in the catalogue
    Catalog,
    /// The most time
    Time,
    /// The most bytes
    Bytes,
    /// The most users without a value
    Missing,
}

/// Runs the command.
pub(super) fn run(args: StatsArgs, config: &Config, json: bool) -> Outcome {
    let what = SurveyRequest::Stats {
        catalog: desk::absolute(&config.catalog.path)?,
        sample: args.sample.users(),
        select: args.select,
    };
    let mut report: Report = survey::ask(config, "stats", args.sample.as_of, what)?;
    match args.sort {
        Sort::Catalog => {}
        Sort::Time => report.tags.sort_by(|a, b| b.ns_per_user.total_cmp(&a.ns_per_user)),
        Sort::Bytes => report.tags.sort_by(|a, b| b.bytes_per_user.total_cmp(&a.bytes_per_user)),
        Sort::Missing => report.tags.sort_by_key(|t| std::cmp::Reverse(t.users.without)),
    }
    survey::print(&report, text, json);
    Ok(())
}

fn text(report: &Report) -> String {
    let all = report.surveyed.users;
    let mut table =
        table::new(["tag", "ns a user", "kernel", "bytes", "values", "no value", "most users"]);
    for tag in &report.tags {
        let mark = if tag.shadow { " *" } else { "" };
        let further = if tag.users.more > 0 { "+" } else { "" };
        table.add_row([
            format!("{}{mark}", tag.tag),
            format!("{:.1}", tag.ns_per_user),
            if tag.kernel { "yes" } else { "no" }.to_owned(),
            format!("{:.2}", tag.bytes_per_user),
            format!("{}{further}", tag.users.values.len()),
            percent(tag.users.without, all),
            most(tag, all),
        ]);
    }
    let said = report.tags.iter().filter(|tag| !tag.terms.is_empty());
    let said: String = said.map(|tag| format!("\n{}: {}", tag.tag, tag.terms.join("; "))).collect();
    let sum = |of: fn(&TagStats) -> f64| report.tags.iter().map(of).sum::<f64>();
    format!(
        "{table}{said}\n{} tags over {}, as of {}: {:.0} ns and {:.2} bytes a user (times measured over \
         {} users)",
        report.tags.len(),
        whom(&report.surveyed),
        show_instant(report.surveyed.as_of_ms),
        sum(|t| t.ns_per_user),
        sum(|t| t.bytes_per_user),
        report.timed_users,
    )
}

/// The values that most users have.
fn most(tag: &TagStats, all: u64) -> String {
    let by_users = tag.users.by_users();
    let shown = by_users.iter().take(VALUES_SHOWN);
    let mut shown: Vec<String> =
        shown.map(|(value, users)| format!("{value} {}", percent(*users, all))).collect();
    if by_users.len() > VALUES_SHOWN || tag.users.more > 0 {
        shown.push("...".to_owned());
    }
    shown.join(", ")
}
