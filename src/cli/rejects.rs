//! `tagloom rejects`: rows that could not be used, and why.

use std::collections::{BTreeMap, VecDeque};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::redrive::{self, RedriveArgs};
use super::{Failure, Outcome, desk, open};
use crate::config::Config;
use crate::event::reject::Reject;
use crate::serve::local::Request;
use crate::store::Store;

/// Rejects read from the store at once.
const BATCH_ROWS: usize = 4_096;

/// Arguments of `tagloom rejects`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom rejects                            counts by stream and reason, and the last rows
  tagloom rejects --stream consume --reason type --limit 100
  tagloom rejects --json --limit 1000 | jq -r '.rejects[].row'
  tagloom rejects redrive --dry-run          what could be tried again")]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct RejectsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `tagloom rejects list`, which is also what `tagloom rejects` does.
#[derive(Debug, Args)]
struct ListArgs {
    /// Only rows that were meant for this stream
    #[arg(long)]
    stream: Option<String>,
    /// Only rows refused for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Show the last so many rows
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts by stream and reason, and the last rows
    List(ListArgs),
    /// Try rows again after a fix: each counts once, even if this is killed and run again
    Redrive(RedriveArgs),
}

/// Counts, and the last rows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rejects {
    /// Since the store was made, by stream and reason.
    counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Kept rows that were asked for.
    kept: u64,
    /// Rows that were dropped because more came after them.
    dropped: u64,
    /// The last of them, oldest first.
    rejects: VecDeque<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    sequence: u64,
    #[serde(flatten)]
    reject: Reject,
}

/// Runs the command.
pub(super) fn run(args: RejectsArgs, config: &Config, json: bool) -> Outcome {
    let list = match args.command {
        Some(Command::Redrive(args)) => return redrive::run(&args, config, json),
        Some(Command::List(list)) => list,
        None => args.list,
    };
    let ListArgs { stream, reason, limit } = list;
    let request = Request::Rejects { stream, reason, rows_max: limit };
    let rejects: Rejects = desk::request(config, request, &mut |_, _| {})?;
    show(&rejects, json)
}

/// Reads counts and rows from a store.
pub(super) fn collect(
    store: &dyn Store,
    stream: Option<&str>,
    reason: Option<&str>,
    rows_max: usize,
) -> Result<Rejects, Failure> {
    let totals = crate::engine::totals(store).map_err(open::store_failure)?;
    let wanted = |s: &str, r: &str| {
        stream.is_none_or(|stream| stream == s) && reason.is_none_or(|reason| reason == r)
    };
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (name, of_stream) in &totals.streams {
        for (why, rows) in of_stream.rejects.iter().filter(|(why, _)| wanted(name, why.name())) {
            counts.entry(name.clone()).or_default().insert(why.name().to_owned(), *rows);
        }
    }
    let dropped = store.stats().map_err(open::store_failure)?.rejects_dropped;
    let mut rejects = Rejects { counts, kept: 0, dropped, rejects: VecDeque::new() };
    let mut after = None;
    loop {
        let rows = store.scan_rejects(after, BATCH_ROWS).map_err(open::store_failure)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(*last);
        for (sequence, bytes) in rows {
            let reject: Reject = serde_json::from_slice(&bytes).map_err(|e| {
                Failure::Failed(format!("reject {sequence} is damaged ({e}); restore the store"))
            })?;
            if !wanted(&reject.stream, reject.reason.name()) {
                continue;
            }
            rejects.kept += 1;
            rejects.rejects.push_back(Kept { sequence, reject });
            if rejects.rejects.len() > rows_max {
                rejects.rejects.pop_front();
            }
        }
    }
    Ok(rejects)
}

/// Where a row stood, and why it was refused.
fn reason(reject: &Reject) -> String {
    let Reject { source, line, stream, detail, index, .. } = reject;
    let row = if *index == 0 { String::new() } else { format!(" row {index}") };
    format!("{source}:{line}{row}  {stream}  {}: {detail}", reject.reason.name())
}

impl Rejects {
    /// A line for each row.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        self.rejects.iter().map(|kept| reason(&kept.reject))
    }
}

/// A row on one line of a terminal: control characters do nothing there.
fn printable(row: &str) -> String {
    row.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(rejects: &Rejects, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_value(rejects).map_err(Failure::failed)?);
        return Ok(());
    }
    let mut table = super::table::new(["stream", "reason", "rows"]);
    for (stream, reasons) in &rejects.counts {
        for (reason, rows) in reasons {
            table.add_row([stream, reason, &rows.to_string()]);
        }
    }
    println!("{table}");
    for Kept { reject, .. } in &rejects.rejects {
        println!("\n{}", reason(reject));
        println!("  {}", printable(&reject.row));
        if reject.row_bytes > reject.row.len() as u64 {
            println!("  ... of {} bytes", reject.row_bytes);
        }
    }
    println!("\n{} of {} kept rows shown", rejects.rejects.len(), rejects.kept);
    if rejects.dropped > 0 {
        println!("{} older rows are no longer kept (rejects.kept_max)", rejects.dropped);
    }
    Ok(())
}
