//! Commands: one file each.
//!
//! In: arguments. Out: text for people or JSON for scripts, and an exit code: 0 done, 1 failed,
//! 2 wrong input.

mod backfill;
mod catalog;
mod check;
mod config;
mod desk;
mod diff;
mod dims;
mod export;
mod generate;
mod get;
mod history;
mod lineage;
mod open;
mod outline;
mod owner;
mod progress;
mod publish;
mod redrive;
mod rejects;
mod relay;
mod run;
mod serve;
mod source;
mod sql;
mod store;
mod summary;
mod survey;
mod table;
mod terms;
mod test;
mod topics;
mod usage;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;

/// Keeps a profile of every user up to date within seconds.
#[derive(Debug, Parser)]
#[command(name = "tagloom", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What all commands take.
#[derive(Debug, Args)]
pub struct Common {
    /// Settings file [default: tagloom.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting, as in --set store.path=/var/lib/tagloom (may be repeated)
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The rule directory [default: catalog.path, which is `tags`]
    #[arg(long, global = true, value_name = "DIR")]
    catalog: Option<PathBuf>,
    /// Output for scripts instead of for people
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the rule directory
    Check(check::CheckArgs),
    /// Show the catalogues that a store has seen
    Catalog(catalog::CatalogArgs),
    /// Read sources, keep profiles up to date
    Run(run::RunArgs),
    /// Answer over HTTP from a store
    Serve(serve::ServeArgs),
    /// Recompute users with the present catalogue
    Backfill(backfill::BackfillArgs),
    /// Write all profiles to a Parquet or CSV file
    Export(export::ExportArgs),
    /// Load and list dimension tables
    Dims(dims::DimsArgs),
    /// Show one user's tags
    Get(get::GetArgs),
    /// Show why a user has a tag's value, and what would change it
    Why(why::WhyArgs),
    /// Show rows that could not be used
    Rejects(rejects::RejectsArgs),
    /// Write the workload's streams and tables, or one stream at a fixed rate
    Gen(generate::GenArgs),
    /// Run the cases of the rule directory
    Test(test::TestArgs),
    /// Show the SQL that a tag's rule stands for
    Sql(sql::SqlArgs),
    /// Compare two rule directories: which tags mean something else, and who would notice
    Diff(diff::DiffArgs),
    /// Show what a tag stands on, or what stands on a feature, dimension or stream
    Lineage(lineage::LineageArgs),
    /// Rewrite topics that are not keyed by uid into one that is
    Relay(relay::RelayArgs),
    /// Show how far sources were read, or forget it
    Source(source::SourceArgs),
    /// Make and check a store in HBase
    Store(store::StoreArgs),
    /// Show all settings and where they come from
    Config(config::ConfigArgs),
}

/// Why a command ended badly.
#[derive(Debug)]
pub enum Failure {
    /// What the user gave cannot be used: exit 2.
    Input(String),
    /// It did not work: exit 1.
    Failed(String),
}

impl Failure {
    /// A failure that the user's input caused.
    pub fn input(error: impl std::fmt::Display) -> Self {
        Self::Input(error.to_string())
    }

    /// A failure of the system or of tagloom.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Shorthand for what a command gives back.
pub type Outcome = Result<(), Failure>;

/// Puts `--set` of in front of the command before those behind it: of a global argument that stands in
/// both places clap keeps the latter only.
fn settings_in_front(arguments: &[String], set: &mut Vec<String>) {
    let mut front = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next().filter(|a| a.starts_with("--")) {
        match argument.split_once('=') {
            Some(("--set", setting)) => front.push(setting.to_owned()),
            Some(_) => {}
            None if argument == "--set" => front.extend(rest.next().cloned()),
            None if argument == "--json" => {}
            // The others that may stand here have a value.
            None => drop(rest.next()),
        }
    }
    if *set != front {
        set.splice(0..0, front);
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    let mut cli = Cli::parse();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    settings_in_front(&arguments, &mut cli.common.set);
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Input(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("tagloom: {message}");
            ExitCode::from(1)
        }
    }
}

/// `tagloom why ... | head` closes our output early: that is no failure. `println!` panics on it.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let closed =
            |m: &str| m.starts_with("failed printing to stdout") && m.contains("Broken pipe");
        if panic.payload_as_str().is_some_and(closed) {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

fn dispatch(cli: Cli) -> Outcome {
    let config = settings(&cli.common)?;
    crate::telemetry::logs::start(&config.log).map_err(Failure::input)?;
    let json = cli.common.json;
    match cli.command {
        Command::Check(args) => check::run(&args, &config, json),
        Command::Run(args) => run::run(args, &config, json),
        Command::Serve(serve::ServeArgs {}) => serve::run(&config),
        Command::Backfill(args) => backfill::run(&args, &config, json),
        Command::Export(args) => export::run(args, &config, json),
        Command::Dims(args) => dims::run(args, &config, json),
        Command::Get(args) => get::run(args, &config, json),
        Command::Why(args) => why::run(args, &config, json),
        Command::Rejects(args) => rejects::run(args, &config, json),
        Command::Gen(args) => generate::run(&args, json),
        Command::Test(args) => test::run(&args, &config, json),
        Command::Sql(args) => sql::run(&args, &config, json),
        Command::Diff(args) => diff::run(&args, &config, json),
        Command::Catalog(args) => catalog::run(args, &config, json),
        Command::Relay(args) => relay::run(&args, &config, json),
        Command::Source(args) => source::run(args, &config, json),
        Command::Store(args) => store::run(&args, &config, json),
        Command::Lineage(args) => lineage::run(&args, &config, json),
        Command::Config(config::ConfigArgs {}) => {
            let Common { config: file, set, catalog, .. } = &cli.common;
            config::run(&config, file.as_deref(), set, catalog.as_ref(), json)
        }
    }
}

fn environment() -> std::collections::BTreeMap<String, String> {
    std::env::vars().filter(|(key, _)| key.starts_with("TAGLOOM_")).collect()
}

fn settings(common: &Common) -> Result<Config, Failure> {
    let mut config = crate::config::load(common.config.as_deref(), &common.set, environment())
        .map_err(Failure::input)?;
    if let Some(path) = &common.catalog {
        config.catalog.path.clone_from(path);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expect: &[&str]) {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let program = std::iter::once("tagloom").chain(line.split(' '));
        let mut cli = Cli::try_parse_from(program).expect("a command line");
        settings_in_front(&arguments, &mut cli.common.set);
        assert_eq!(cli.common.set, expect);
    }

    #[test]
    fn settings_count_wherever_they_stand() {
        check("check --set a.b=1", &["a.b=1"]);
        check("--set a.b=1 check", &["a.b=1"]);
        check("--set a.b=1 --json --set=c.d=2 check --set a.b=3", &["a.b=1", "c.d=2", "a.b=3"]);
        check("--catalog tags --set a.b=1 check --set a.b=3", &["a.b=1", "a.b=3"]);
    }
}
