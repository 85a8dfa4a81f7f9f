//! `tagloom dims`: load and list dimension tables.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failure, Outcome, desk, open};
use crate::catalog::model::{Catalog, Strategy};
use crate::config::Config;
use crate::dimension::{LoadOptions, LoadReport, TableSpec, load};
use crate::engine::ruleset::Ruleset;
use crate::serve::local::Request;
use crate::store::Store;
use crate::user::layout::hash64;

/// Bytes of a file hashed at once.
const HASHED_BYTES: usize = 1 << 20;

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
    let mut dimensions = ruleset.catalog.dimensions.iter().filter(|d| d.table == table);
    let broadcast = dimensions.find(|d| d.strategy == Strategy::Broadcast);
    if let Some(topic) = broadcast.and_then(|d| d.topic.as_ref()) {
        return Err(Failure::Input(format!(
            "table `{table}` is kept by topic `{topic}`: write its rows there, or use another \
             strategy than `broadcast`"
        )));
    }
    let options = LoadOptions { key_column, ..LoadOptions::default() };
    let mut progress = |p: crate::dimension::Progress| progress(p.bytes, p.bytes_total);
    let now = crate::clock::wall_ms();
    let zone = &ruleset.catalog.zone;
    let report = load(store, &spec, zone, path, &options, now, &mut progress);
    report.map_err(Failure::input)
}

/// Key under which the store remembers which file a table was last loaded from by [`load_changed`].
fn file_key(table: &str) -> String {
    format!("dims/file/{table}")
}

/// Loads the tables whose dimensions name a `file` that has changed since the last run, or that
/// were never loaded. A table loaded by hand stays as it is until its file changes.
pub(super) fn load_changed(
    store: &dyn Store,
    ruleset: &Ruleset,
    dir: &Path,
    loaded_already: &[&str],
) -> Outcome {
    let mut seen: Vec<&str> = loaded_already.to_vec();
    for dimension in &ruleset.catalog.dimensions {
        let Some(file) = &dimension.file else { continue };
        let table = dimension.table.as_str();
        if seen.contains(&table) {
            continue;
        }
        seen.push(table);
        let path = dir.join(file);
        let now = content(&path, &ruleset.catalog, table).map_err(|e| {
            Failure::Input(format!(
                "{}: {e}; the dimension `{}` is loaded from it: put it there, or drop `file:`",
                path.display(),
                dimension.name
            ))
        })?;
        let key = file_key(table);
        let before = store.meta(&key).map_err(open::store_failure)?;
        let loaded = store.dim_current(table).map_err(open::store_failure)?.is_some();
        let by_hand = loaded && before.is_none();
        if loaded && before.is_some_and(|b| *b == *now) {
            continue;
        }
        if !by_hand {
            let report = load_table(store, ruleset, table, &path, None)?;
            eprintln!("{table}: {} rows loaded from {}", report.rows, path.display());
        }
        store.put_meta(&key, now).map_err(open::store_failure)?;
    }
    Ok(())
}

/// What a table's rows come from: the file's bytes, and which columns are read of it.
fn content(path: &Path, catalog: &Catalog, table: &str) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let (mut hashes, mut chunk) = (Vec::new(), vec![0; HASHED_BYTES]);
    loop {
        // Read whole chunks: where a read happens to end must not matter.
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        hashes.extend(hash64(&chunk[..filled]).to_le_bytes());
        if filled < chunk.len() {
            break;
        }
    }
    let columns = TableSpec::of(catalog, table).map(|s| (s.key, s.columns));
    hashes.extend(format!("{columns:?}").as_bytes());
    Ok(format!("{:016x}", hash64(&hashes)).into_bytes())
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
