//! `tagloom store`: makes the tables of a store in HBase, and checks its tag cells; snapshots of an
//! embedded store (`store/snapshot.rs`).

mod snapshot;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::{Failure, Outcome, open, progress};
use crate::config::{Config, StoreKind};
use crate::serve::cells::{CellCheck, Compared, WrongCell};
use crate::store::hbase::{CheckedRow, HbaseStore, TableReport, init, statements};
use crate::store::{Uid, UidKey};

/// Users read at once: a row has a cell for each tag.
const BATCH_USERS: usize = 500;

/// Users shown of those whose cells are wrong.
const SHOWN_MAX: usize = 20;

/// Arguments of `tagloom store`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom store init            make the HBase tables that are not there, look at those that are
  tagloom store init --print    statements for the HBase shell: profiles in many regions from the start
  tagloom store check           compare every tag cell with the profile beside it
  tagloom store check --repair  and write those anew that differ
  tagloom store snapshot --out /backup/2026-03-31   the embedded store as it is now, also beside a run
  tagloom store restore --from /backup/2026-03-31 --set store.path=/var/lib/tagloom")]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the HBase tables that are not there; say what to alter in those that are
    Init {
        /// Make nothing: print statements for the HBase shell, with regions split from the start
        #[arg(long)]
        print: bool,
    },
    /// Write all of the embedded store, as it is at one instant, into a directory; a run beside it goes on
    Snapshot {
        /// A directory that is not there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make the embedded store of a snapshot; sources go on where it was taken
    Restore {
        /// The snapshot
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
    },
    /// Compare the tag cells of all users with their profiles
    Check {
        /// Write cells anew that differ
        #[arg(long)]
        repair: bool,
    },
}

/// Runs the command.
pub(super) fn run(args: &StoreArgs, config: &Config, json: bool) -> Outcome {
    match &args.command {
        Command::Snapshot { out } => snapshot::take(config, out, json),
        Command::Restore { from } => snapshot::restore(config, from, json),
        Command::Init { .. } | Command::Check { .. } if config.store.kind != StoreKind::Hbase => {
            Err(Failure::Input(
                "`tagloom store init` and `check` are about HBase: set store.kind = hbase; the \
                 embedded store is made by the first `tagloom run` and has no tag cells"
                    .to_owned(),
            ))
        }
        Command::Init { print: true } => print_statements(config, json),
        Command::Init { print: false } => make(config, json),
        Command::Check { repair } => check(config, *repair, json),
    }
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn print_statements(config: &Config, json: bool) -> Outcome {
    let uid = open::catalog(&config.catalog.path)?.catalog.uid;
    let statements = statements(&config.store.hbase, uid);
    if json {
        println!("{}", json!({ "statements": statements }));
        return Ok(());
    }
    for statement in statements {
        println!("{statement}");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn make(config: &Config, json: bool) -> Outcome {
    let options = &config.store.hbase;
    let reports = init(options).map_err(open::store_failure)?;
    let wrong: usize = reports.iter().map(|report| report.wrong.len()).sum();
    if json {
        println!("{}", json!({ "tables": reports }));
    } else {
        for TableReport { table, made, wrong } in &reports {
            let state = if *made { "made" } else { "there" };
            println!("{table}: {state}{}", if wrong.is_empty() { "" } else { ", but" });
            for wrong in wrong {
                println!("  {wrong}");
            }
        }
        if reports.first().is_some_and(|profiles| profiles.made) && options.regions > 1 {
            println!(
                "\nThe gateway makes tables of one region. For {} from the start, drop the profile \
                 table while it is empty and give `tagloom store init --print` to the HBase shell.",
                options.regions
            );
        }
    }
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!(
            "{wrong} things are wrong with tables that are there: give the statements above to the \
             HBase shell"
        ))),
    }
}

/// What a check found.
#[derive(Debug, Default, Serialize)]
struct Found {
    users: u64,
    left_out: u64,
    /// Users with cells of tags that were removed, who are still to be computed by the active rules.
    outdated_users: u64,
    wrong_users: u64,
    wrong_cells: u64,
    unreadable: u64,
    repaired_users: u64,
    shown: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    uid: String,
    wrong: Vec<WrongCell>,
    /// Why the profile cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn check(config: &Config, repair: bool, json: bool) -> Outcome {
    let store = HbaseStore::open_existing(&config.store.hbase).map_err(open::store_failure)?;
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let next = open::version(&store, loaded, config, None)?;
    let cells = CellCheck::new(&store, &next.ruleset).map_err(Failure::Input)?;
    let bar = progress::users_bar("check", 0);
    let mut found = Found::default();
    let mut after: Option<UidKey> = None;
    loop {
        let rows = store.scan_checked(after.as_ref(), BATCH_USERS).map_err(open::store_failure)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.key.clone());
        for row in &rows {
            check_row(&store, &cells, row, repair, &mut found)?;
        }
        bar.set_length(found.users);
        bar.set_position(found.users);
    }
    bar.finish_and_clear();
    show(&found, repair, json)
}

fn check_row(
    store: &HbaseStore,
    cells: &CellCheck<'_>,
    row: &CheckedRow,
    repair: bool,
    found: &mut Found,
) -> Outcome {
    found.users += 1;
    if row.cells_left_out {
        found.left_out += 1;
        return Ok(());
    }
    let kind = crate::store::Store::identity(store).uid;
    let uid = Uid::from_key(kind, &row.key).map_or_else(|e| e.to_string(), |uid| uid.to_string());
    let wrong = match cells.compare(row) {
        Ok(Compared { wrong, outdated }) => {
            found.outdated_users += u64::from(outdated > 0);
            wrong
        }
        Err(error) => {
            found.unreadable += 1;
            let error = Some(error.to_string());
            found.show(Shown { uid, wrong: Vec::new(), error });
            return Ok(());
        }
    };
    if wrong.is_empty() {
        return Ok(());
    }
    found.wrong_users += 1;
    found.wrong_cells += wrong.len() as u64;
    if repair {
        let tags: Vec<(String, Option<String>)> =
            wrong.iter().map(|cell| (cell.id.clone(), cell.profile.clone())).collect();
        store.mend_cells(row, &tags).map_err(open::store_failure)?;
        found.repaired_users += 1;
    }
    found.show(Shown { uid, wrong, error: None });
    Ok(())
}

impl Found {
    fn show(&mut self, shown: Shown) {
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(shown);
        }
    }

    fn is_well(&self, repair: bool) -> bool {
        self.unreadable == 0 && (repair || self.wrong_users == 0)
    }
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(found: &Found, repair: bool, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_value(found).map_err(Failure::failed)?);
    } else {
        for Shown { uid, wrong, error } in &found.shown {
            if let Some(error) = error {
                println!("{uid}: {error}");
            }
            for WrongCell { id, tag, removed, cell, profile } in wrong {
                let tag = tag.as_deref().unwrap_or("no published tag");
                let tag = if *removed { format!("{tag}, removed") } else { tag.to_owned() };
                let text = |value: &Option<String>| match value {
                    Some(value) => format!("`{value}`"),
                    None => "no value".to_owned(),
                };
                println!("{uid}: t:{id} ({tag}): {}, not {}", text(cell), text(profile));
            }
        }
        let Found { users, left_out, wrong_users, wrong_cells, unreadable, .. } = found;
        println!(
            "{users} users: {wrong_users} with {wrong_cells} wrong cells{}, {left_out} written without \
             cells on purpose, {unreadable} unreadable",
            if repair { " (written anew)" } else { "" }
        );
    }
    if found.outdated_users > 0 && !json {
        println!(
            "{} users have cells of tags that are not published any more: they are emptied when these \
             users are computed by the active rules (`tagloom catalog` says whether all are)",
            found.outdated_users
        );
    }
    if found.is_well(repair) {
        return Ok(());
    }
    Err(Failure::Failed(if found.wrong_users > 0 && !repair {
        "tag cells differ from profiles: `tagloom store check --repair` writes them anew".to_owned()
    } else {
        "profiles that cannot be read: see above".to_owned()
    }))
}
