//! `tagloom check`: is the catalogue right, and what is in it?

use std::io::IsTerminal;

use clap::Args;

use super::{Failure, Outcome, open};
use crate::catalog::LOCK_FILE;
use crate::config::Config;

/// Arguments of `tagloom check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom check                     all errors with their places, else what is in the catalogue
  tagloom check --write             also give new tags and labels their ids in ids.lock")]
pub(super) struct CheckArgs {
    /// Update ids.lock (nothing else does)
    #[arg(long)]
    write: bool,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: &CheckArgs, config: &Config, json: bool) -> Outcome {
    let path = &config.catalog.path;
    let loaded = open::catalog(path)?;
    if !loaded.warnings.items.is_empty() {
        let color = std::io::stderr().is_terminal();
        eprintln!("{}", crate::catalog::render(&loaded.warnings, &loaded.files, color));
    }
    let catalog = &loaded.catalog;
    if args.write {
        let lock = path.join(LOCK_FILE);
        std::fs::write(&lock, loaded.lock.updated(catalog).to_text())
            .map_err(|e| Failure::Failed(format!("{}: {e}", lock.display())))?;
    } else if !loaded.lock_behind.is_empty() {
        let behind = loaded.lock_behind.join("\n  ");
        return Err(Failure::Input(format!(
            "ids.lock is behind the rules; run `tagloom check --write`:\n  {behind}"
        )));
    }
    if json {
        println!(
            "{}",
            serde_json::json!({
                "streams": catalog.streams.len(), "features": catalog.features.len(),
                "dimensions": catalog.dimensions.len(), "tags": catalog.tags.len(),
                "cases": catalog.cases.len(),
            })
        );
    } else {
        println!(
            "{} streams, {} features, {} dimensions, {} tags, {} cases",
            catalog.streams.len(),
            catalog.features.len(),
            catalog.dimensions.len(),
            catalog.tags.len(),
            catalog.cases.len()
        );
    }
    Ok(())
}
