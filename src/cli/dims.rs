//! `tagloom dims`: load and list dimension tables.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, Outcome, open};
use crate::catalog::model::Catalog;
use crate::config::Config;
use crate::dimension::{LoadOptions, LoadReport, TableSpec, load};
use crate::engine::ruleset::Ruleset;
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
