//! `tagloom serve`: answer over HTTP from a store that another process keeps up to date, or nobody.

use std::sync::Arc;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, Outcome, desk, open};
use crate::config::Config;
use crate::serve::http::{ServeError, Server};
use crate::serve::readers::Readers;
use crate::store::Store;
use crate::store::metered::Metered;
use crate::telemetry::Exporter;
use crate::telemetry::ready::Conditions;

/// Arguments of `tagloom serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom serve                                         at 127.0.0.1:8321
  curl http://127.0.0.1:8321/v1/users/17850?tags=win_back
  tagloom serve --set serve.listen=0.0.0.0:8321 --set serve.api_keys_file=keys

The rules are those of the store's active catalogue. An embedded store has one process: beside a
`tagloom run` use `tagloom run --serve`. SIGTERM ends it when the requests under way are answered.")]
pub(super) struct ServeArgs {}

/// Runs the command.
pub(super) fn run(config: &Config) -> Outcome {
    Exporter::install();
    let store: Arc<dyn Store> = Arc::new(Metered::new(open::existing_store(config)?));
    let readers = Readers::over(store, open::lookups(config)).map_err(desk::read_failure)?;
    // Before the service answers: whoever ends it the moment it does is heard.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::failed)?;
    let conditions = Conditions::default();
    let server = Server::start(&config.serve, Arc::new(readers), conditions).map_err(failure)?;
    if signals.forever().next().is_some() {
        tracing::info!("stopping: requests under way are answered");
    }
    for signal in [SIGINT, SIGTERM] {
        // A second one ends the process at once.
        let now = Arc::new(std::sync::atomic::AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, 1, now)
            .map_err(Failure::failed)?;
    }
    drop(server);
    Ok(())
}

/// A service that cannot start, with the right exit code.
pub(super) fn failure(error: ServeError) -> Failure {
    if error.is_input() { Failure::input(error) } else { Failure::failed(error) }
}
