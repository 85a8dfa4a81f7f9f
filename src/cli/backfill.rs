//! `tagloom backfill`: recompute users with the present catalogue. Over a store that processes share it
//! is a command to their owners (`command.rs`).

mod command;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;

use super::{Failure, Outcome, open, progress, run, table};
use crate::config::{Config, StoreKind};
use crate::engine::job::{BACKFILL_KEY, Job, Limit, interrupted};
use crate::engine::ruleset::Ruleset;
use crate::engine::{Clock, Report};
use crate::store::{ClockMode, Store, Uid, UidKey};

/// Arguments of `tagloom backfill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom backfill --dry-run            how many users would each tag move?
  tagloom backfill                      recompute everyone; an interrupted one goes on
  tagloom backfill --uid 17850 --uid 13047
  tagloom backfill --uids users.txt --users-per-s 1000
  tagloom backfill --no-wait            over HBase: left for the processes that own the users
  tagloom backfill --history orders=2019-2025.jsonl.zst --cut 2026-01-01
                                        features count what came before from these files")]
pub(super) struct BackfillArgs {
    /// Compute and count, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Only this user (may be repeated)
    #[arg(long = "uid", value_name = "UID")]
    uid: Vec<String>,
    /// Only the users in this file, one a line
    #[arg(long, value_name = "FILE")]
    uids: Option<PathBuf>,
    /// At most this many users a second
    #[arg(long, value_name = "N")]
    users_per_s: Option<NonZeroU32>,
    /// Files of what came before: features that lack it get it (may be repeated)
    #[arg(long, value_name = "STREAM=FILE", requires = "cut")]
    history: Vec<String>,
    /// Where history ends and live events begin: the first instant of a day
    #[arg(long, value_name = "INSTANT", requires = "history")]
    cut: Option<String>,
    /// Over HBase: leave the command for the owners of the users, and do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Compute as of this instant instead of the store's last (stores in fixed mode)
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &BackfillArgs, config: &Config, json: bool) -> Outcome {
    let is_shared = config.store.kind == StoreKind::Hbase;
    if is_shared && !args.dry_run && args.cut.is_none() {
        return command::run(args, config, json);
    }
    if is_shared && args.no_wait {
        let why = if args.dry_run { "only looks" } else { "merges a history itself" };
        return Err(Failure::Input(format!(
            "--no-wait leaves a command for the owners of the users: this one {why}"
        )));
    }
    if args.no_wait {
        return Err(Failure::Input(
            "--no-wait is for a store that processes share (store.kind = hbase): here this command does \
             the work itself"
                .to_owned(),
        ));
    }
    if let Some(cut) = &args.cut {
        return super::history::run(&args.history, cut, args.users_per_s, config, json);
    }
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let store = open::existing_store(config)?;
    let clock = match &args.as_of {
        Some(text) => Clock::Fixed(open::instant(text, &loaded.catalog.zone)?),
        None => clock_of(store.as_ref()),
    };
    let ruleset = if args.dry_run {
        Arc::new(open::version(store.as_ref(), loaded, config, Some(clock))?.ruleset)
    } else {
        open::activate(store.as_ref(), loaded, config, Some(clock))?.ruleset
    };
    let handed_out = Arc::new(AtomicU64::new(0));
    let limit = args.users_per_s.map(Limit::new);
    let (job, users) = match users(args, &ruleset)? {
        Some(keys) => {
            let users = keys.len() as u64;
            (Job::Users { keys, done: Vec::new(), limit }, users)
        }
        None => {
            let name = ruleset.catalog.fingerprint;
            let after = if args.dry_run {
                None
            } else {
                interrupted(store.as_ref(), BACKFILL_KEY, name).map_err(run::engine_failure)?
            };
            if after.is_some() {
                eprintln!("an interrupted backfill of this catalogue goes on where it was");
            }
            let users = store.stats().map_err(open::store_failure)?.profiles_approximate;
            let progress = Arc::clone(&handed_out);
            let progress_key = Some(BACKFILL_KEY);
            let (ended, done) = (false, Vec::new());
            (
                Job::All { after, name, limit, ended, ahead: None, progress, progress_key, done },
                users,
            )
        }
    };
    let mut options = run::options(config, &ruleset, store, clock);
    options.publish = super::publish::open(config)?;
    options.jobs = VecDeque::from([job]);
    options.dry = args.dry_run;
    let bar = progress::users_bar("backfill", users);
    let report = crate::engine::run(options, &mut |seen| {
        bar.set_position(seen.status.examined_users.load(Ordering::Relaxed));
    });
    bar.finish_and_clear();
    show(&report.map_err(run::engine_failure)?, &ruleset, args.dry_run, json);
    Ok(())
}

/// The clock by which a store is gone on with; its last instant where it has no clock of its own.
fn clock_of(store: &dyn Store) -> Clock {
    match store.identity().clock {
        ClockMode::Wall => Clock::Wall,
        ClockMode::Event | ClockMode::Fixed => Clock::Event,
    }
}

/// The users that were named, if any were.
fn users(args: &BackfillArgs, ruleset: &Ruleset) -> Result<Option<VecDeque<UidKey>>, Failure> {
    let mut names = args.uid.clone();
    if let Some(path) = &args.uids {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
        names.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
    } else if names.is_empty() {
        return Ok(None);
    }
    let keys = names.iter().map(|name| {
        Uid::parse(ruleset.catalog.uid, name).map(|uid| uid.to_key()).map_err(Failure::input)
    });
    keys.collect::<Result<_, _>>().map(Some)
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(report: &Report, ruleset: &Ruleset, dry: bool, json: bool) {
    let mut moved: Vec<(&str, u64)> = ruleset
        .catalog
        .tags
        .iter()
        .zip(&report.stats.tags)
        .filter(|(_, stats)| stats.flips > 0)
        .map(|(tag, stats)| (tag.name.as_str(), stats.flips))
        .collect();
    moved.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    if json {
        let tags: serde_json::Map<String, serde_json::Value> =
            moved.iter().map(|(tag, users)| ((*tag).to_owned(), (*users).into())).collect();
        println!(
            "{}",
            serde_json::json!({ "users": report.stats.examined_users, "dry_run": dry, "moved": tags })
        );
        return;
    }
    let users = report.stats.examined_users;
    if moved.is_empty() {
        println!("{users} users examined, no tag moves");
        return;
    }
    let mut rows = table::new(["tag", "users moved"]);
    for (tag, users) in &moved {
        rows.add_row([(*tag).to_owned(), users.to_string()]);
    }
    println!("{rows}");
    let verb = if dry { "would move (nothing was written)" } else { "moved" };
    println!("{users} users examined, {} tags {verb}", moved.len());
    if dry && std::io::stdout().is_terminal() {
        println!("write it with `tagloom backfill`");
    }
}
