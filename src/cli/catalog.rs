//! `tagloom catalog`: the catalogues that a store has seen, and what tags cost. A file a subcommand.

mod stats;
mod versions;

use clap::{Args, Subcommand};

use super::Outcome;
use crate::config::Config;

pub(super) use self::versions::collect;

/// Arguments of `tagloom catalog`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom catalog           the versions this store has seen, and whether the directory can be used
  tagloom catalog show      the active one: since when each feature counts
  tagloom catalog show 3    an older one
  tagloom catalog activate  the rules in the directory, for all processes of a group: to go back to older ones
  tagloom catalog stats     what each tag costs, and how many users have which value")]
pub(super) struct CatalogArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The versions this store has seen
    List,
    /// One version: since when each feature counts, and where sources stood when it became active
    Show {
        /// Its number [default: the active one's]
        number: Option<u32>,
    },
    /// Make the rules in the directory the active version, also when they were active before
    Activate,
    /// What each tag costs, and how many users have which value
    Stats(stats::StatsArgs),
}

/// Runs the command.
pub(super) fn run(args: CatalogArgs, config: &Config, json: bool) -> Outcome {
    match args.command {
        None | Some(Command::List) => versions::run(None, config, json),
        Some(Command::Show { number }) => versions::run(Some(number.unwrap_or(0)), config, json),
        Some(Command::Activate) => versions::activate(config, json),
        Some(Command::Stats(args)) => stats::run(args, config, json),
    }
}
