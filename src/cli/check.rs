//! `tagloom check`: is the catalogue right, and what is in it?

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::outline::Outline;
use super::{Failure, Outcome, open};
use crate::catalog::LOCK_FILE;
use crate::catalog::select::{SELECT_HELP, Selection};
use crate::config::Config;

/// Arguments of `tagloom check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom check                     all errors with their places, else what is in the catalogue
  tagloom check --list              also every feature and tag
  tagloom check --select +win_back  a tag, and all that it depends on
  tagloom check --write             also give new tags and labels their ids in ids.lock
  tagloom check --schema tags.schema.json   a JSON Schema, by which editors complete and explain")]
pub(super) struct CheckArgs {
    /// Update ids.lock (nothing else does)
    #[arg(long)]
    write: bool,
    /// List every feature and tag
    #[arg(long)]
    list: bool,
    #[arg(long, value_name = "TERM", help = SELECT_HELP)]
    select: Vec<String>,
    /// Only write the JSON Schema of a catalogue's files, for editors; `-`: standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["write", "list", "select"])]
    schema: Option<PathBuf>,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: &CheckArgs, config: &Config, json: bool) -> Outcome {
    if let Some(path) = &args.schema {
        return write_schema(path);
    }
    let path = &config.catalog.path;
    let loaded = open::catalog(path)?;
    if !loaded.warnings.items.is_empty() {
        let color = std::io::stderr().is_terminal();
        eprintln!("{}", crate::catalog::render(&loaded.warnings, &loaded.files, color));
    }
    let selection = Selection::parse(&args.select, &loaded.catalog).map_err(Failure::input)?;
    if args.write {
        let lock = path.join(LOCK_FILE);
        std::fs::write(&lock, loaded.lock.updated(&loaded.catalog).to_text())
            .map_err(|e| Failure::Failed(format!("{}: {e}", lock.display())))?;
    }
    let outline = Outline::of(&loaded, &selection)?;
    if json {
        println!("{}", outline.json());
    } else {
        println!("{}", outline.text(args.list || !selection.is_everything()));
    }
    if !args.write && !loaded.lock_behind.is_empty() {
        let behind = loaded.lock_behind.join("\n  ");
        return Err(Failure::Input(format!(
            "ids.lock is behind the rules; run `tagloom check --write`:\n  {behind}"
        )));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn write_schema(path: &Path) -> Outcome {
    let text = format!("{:#}\n", crate::catalog::schema());
    if path.as_os_str() == "-" {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}
