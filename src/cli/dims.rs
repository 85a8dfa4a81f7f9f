//! `tagloom dims`: load and list dimension tables.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, Outcome, open};
use crate::config::Config;
use crate::dimension::{LoadOptions, LoadReport, TableSpec, load};
use crate::engine::ruleset::Ruleset;
use crate::store::Store;

/// Arguments of `tagloom dims`.
#[derive(Debug, Args)]
pub(super) struct DimsArgs {
    #[command(subcommand)]
    command: DimsCommand,
}

#[derive(Debug, Subcommand)]
enum DimsCommand {
    /// Load a CSV or Parquet file as the new epoch of a table
    #[command(after_help = "Example:\n  tagloom dims load country tags/data/country.csv")]
    Load {
        /// The table, as dimensions name it
        table: String,
        /// The file
        path: PathBuf,
        /// Its key column [default: the one named as the key, else `key`, else the first]
        #[arg(long, value_name = "COLUMN")]
        key: Option<String>,
    },
    /// List loaded tables
    List,
}

/// Runs the command.
pub(super) fn run(args: DimsArgs, config: &Config, json: bool) -> Outcome {
    let ruleset = open::ruleset(&config.catalog.path)?;
    match args.command {
        DimsCommand::Load { table, path, key } => {
            let store = open::store(config, &ruleset, config.clock.mode)?;
            let report = load_table(store.as_ref(), &ruleset, &table, &path, key)?;
            show(&report, json);
            Ok(())
        }
        DimsCommand::List => {
            let store = open::existing_store(config)?;
            list(store.as_ref(), json)
        }
    }
}

/// Loads one file as a new epoch of a table.
pub(super) fn load_table(
    store: &dyn Store,
    ruleset: &Ruleset,
    table: &str,
    path: &Path,
    key_column: Option<String>,
) -> Result<LoadReport, Failure> {
    let spec = TableSpec::of(&ruleset.catalog, table).map_err(Failure::input)?;
    let options = LoadOptions { key_column, ..LoadOptions::default() };
    let bar = super::progress::bytes_bar(table);
    let mut progress = |p: crate::dimension::Progress| {
        bar.set_length(p.bytes_total);
        bar.set_position(p.bytes);
    };
    let now = crate::clock::wall_ms();
    let zone = &ruleset.catalog.zone;
    let report = load(store, &spec, zone, path, &options, now, &mut progress);
    bar.finish_and_clear();
    let report = report.map_err(Failure::input)?;
    for error in &report.errors {
        eprintln!("{error}");
    }
    Ok(report)
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(report: &LoadReport, json: bool) {
    if json {
        let value = serde_json::json!({
            "table": report.table, "epoch": report.epoch, "rows": report.rows,
            "rejected": report.rejected, "changed": report.changed, "removed": report.removed,
        });
        println!("{value}");
        return;
    }
    println!(
        "{}: epoch {}, {} rows, {} rejected, {} changed, {} removed",
        report.table, report.epoch, report.rows, report.rejected, report.changed, report.removed
    );
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn list(store: &dyn Store, json: bool) -> Outcome {
    let mut table = super::table::new(["table", "epoch", "rows", "loaded"]);
    let mut objects = Vec::new();
    for name in store.dim_tables().map_err(open::store_failure)? {
        for meta in store.dim_epochs(&name).map_err(open::store_failure)? {
            let loaded = crate::clock::show_instant(meta.loaded_at_ms);
            objects.push(serde_json::json!({
                "table": name, "epoch": meta.epoch, "rows": meta.rows, "loaded": loaded,
            }));
            table.add_row([name.clone(), meta.epoch.to_string(), meta.rows.to_string(), loaded]);
        }
    }
    if json {
        println!("{}", serde_json::Value::Array(objects));
    } else {
        println!("{table}");
    }
    Ok(())
}
