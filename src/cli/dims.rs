//! `tagloom dims`: load and list dimension tables.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failure, Outcome, desk, open};
use crate::config::Config;
use crate::dimension::{LoadOptions, LoadReport, TableSpec, load};
use crate::engine::ruleset::Ruleset;
use crate::serve::local::Request;
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
    match args.command {
        DimsCommand::Load { table, path, key } => {
            let bar = super::progress::bytes_bar(&table);
            let request = Request::DimsLoad { table, path: desk::absolute(&path)?, key };
            let report = desk::request(config, request, &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            });
            bar.finish_and_clear();
            show(&report?, json);
            Ok(())
        }
        DimsCommand::List => {
            list(&desk::request(config, Request::DimsList, &mut |_, _| {})?, json);
            Ok(())
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
    let bar = super::progress::bytes_bar(table);
    let report = load_with(store, ruleset, table, path, key_column, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    for error in &report.errors {
        eprintln!("{error}");
    }
    Ok(report)
}

/// [`load_table`] that shows nothing: `progress` is told the bytes done, of how many.
pub(super) fn load_with(
    store: &dyn Store,
    ruleset: &Ruleset,
    table: &str,
    path: &Path,
    key_column: Option<String>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<LoadReport, Failure> {
    let spec = TableSpec::of(&ruleset.catalog, table).map_err(Failure::input)?;
    let options = LoadOptions { key_column, ..LoadOptions::default() };
    let mut progress = |p: crate::dimension::Progress| progress(p.bytes, p.bytes_total);
    let now = crate::clock::wall_ms();
    let zone = &ruleset.catalog.zone;
    let report = load(store, &spec, zone, path, &options, now, &mut progress);
    report.map_err(Failure::input)
}

/// What a load did, for whoever asked for it.
pub(super) fn report_json(report: &LoadReport) -> Value {
    let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "table": report.table, "epoch": report.epoch, "rows": report.rows,
        "rejected": report.rejected, "changed": report.changed, "removed": report.removed,
        "errors": errors,
    })
}

/// Loaded tables, one object an epoch.
pub(super) fn tables(store: &dyn Store) -> Result<Value, Failure> {
    let mut objects = Vec::new();
    for name in store.dim_tables().map_err(open::store_failure)? {
        for meta in store.dim_epochs(&name).map_err(open::store_failure)? {
            let loaded = crate::clock::show_instant(meta.loaded_at_ms);
            objects.push(serde_json::json!({
                "table": name, "epoch": meta.epoch, "rows": meta.rows, "loaded": loaded,
            }));
        }
    }
    Ok(Value::Array(objects))
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(report: &Value, json: bool) {
    for error in report["errors"].as_array().into_iter().flatten() {
        eprintln!("{}", error.as_str().unwrap_or_default());
    }
    if json {
        println!("{report}");
        return;
    }
    println!(
        "{}: epoch {}, {} rows, {} rejected, {} changed, {} removed",
        report["table"].as_str().unwrap_or_default(),
        report["epoch"],
        report["rows"],
        report["rejected"],
        report["changed"],
        report["removed"]
    );
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn list(tables: &Value, json: bool) {
    if json {
        println!("{tables}");
        return;
    }
    let mut table = super::table::new(["table", "epoch", "rows", "loaded"]);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for row in tables.as_array().into_iter().flatten() {
        table.add_row(["table", "epoch", "rows", "loaded"].map(|name| text(&row[name])));
    }
    println!("{table}");
}
