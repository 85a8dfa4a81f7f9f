//! `tagloom relay`: topics that are not keyed by uid, rewritten into one that is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, Outcome, open, topics};
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::engine::ruleset::Ruleset;
use crate::relay::{RelayError, RelayOptions, Relayed};
use crate::serve::http::Watched;
use crate::telemetry::ready::Conditions;

/// Arguments of `tagloom relay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom relay --set relay.topics=shop.orders,shop.carts --set relay.topic=tagloom.relay
  tagloom relay --serve                     and curl http://127.0.0.1:8321/readyz
  tagloom relay --until-end                 what is there now, then end
  tagloom relay --set relay.id=a            a name that outlives the process: its restart waits for
                                            nothing
  tagloom source reset shop.orders          relay it again from its start

Several processes share the partitions of the topics. `tagloom run` with the same relay.* settings reads
relay.topic in the place of relay.topics. A stream's uid, columns and `where` say who gets a record: when
they change, restart relay before run. SIGTERM ends it after the transaction under way.")]
pub(super) struct RelayArgs {
    /// End when everything is relayed that was there at the start
    #[arg(long)]
    until_end: bool,
    /// Answer /healthz, /readyz and /metrics over HTTP meanwhile (serve.listen)
    #[arg(long)]
    serve: bool,
}

/// A loop that has not come round for so long hangs: taking partitions over may wait for transactions
/// that nobody ends, and for brokers.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// The process as it was seen last.
struct Seen {
    at: Stopwatch,
    done: Relayed,
}

/// Answers whoever watches the process.
fn watched(config: &Config, seen: &Arc<Mutex<Seen>>) -> Result<Watched, Failure> {
    let conditions = Conditions::default();
    let last = Arc::clone(seen);
    conditions.register("topics", move || {
        let seen = last.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.done.partitions {
            0 => Err("no partitions are assigned to this process".to_owned()),
            partitions => Ok(format!("{partitions} partitions, {} records behind", seen.done.lag)),
        }
    });
    let last = Arc::clone(seen);
    let hangs = move || {
        let since = last.lock().unwrap_or_else(PoisonError::into_inner).at.elapsed();
        (since > HANGS_AFTER).then(|| format!("relay hangs for {} s", since.as_secs()))
    };
    Watched::start(&config.serve, conditions, Arc::new(hangs)).map_err(super::serve::failure)
}

/// Runs the command.
pub(super) fn run(args: &RelayArgs, config: &Config, json: bool) -> Outcome {
    let watch = Stopwatch::start();
    let stop = crate::engine::stop_signals();
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let zone = loaded.catalog.zone.clone();
    let read = topics::read(&loaded.catalog, config)?;
    if read.relayed.is_empty() {
        let message = "nothing to relay: name the catalogue's topics that are not keyed by uid, and one \
                       to rewrite them into, for example --set relay.topics=shop.orders --set \
                       relay.topic=tagloom.relay";
        return Err(Failure::Input(message.to_owned()));
    }
    let start = topics::start(&config.source.start, &zone).map_err(|expected| {
        Failure::Input(format!("source.start = {}: expected {expected}", config.source.start))
    })?;
    let ruleset = Ruleset::new(loaded.catalog).map_err(Failure::input)?;
    let index = |name: &String| ruleset.catalog.streams.iter().position(|s| s.name == *name);
    let options = RelayOptions {
        kafka: config.kafka.clone(),
        relay: config.relay.clone(),
        catalog: ruleset.catalog.clone(),
        layout: ruleset.layout.clone(),
        topics: read
            .relayed
            .into_iter()
            .map(|(topic, streams)| (topic, streams.iter().filter_map(index).collect()))
            .collect(),
        beside: read.direct.into_iter().map(|(topic, _)| topic).collect(),
        start,
        until_end: args.until_end,
    };
    let seen = Arc::new(Mutex::new(Seen { at: Stopwatch::start(), done: Relayed::default() }));
    let http = args.serve.then(|| watched(config, &seen)).transpose()?;
    let bar = bar();
    let done = crate::relay::run(&options, &stop, &mut |done| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { at: Stopwatch::start(), done: done.clone() };
        show(&bar, done);
    });
    drop(http);
    bar.finish_and_clear();
    let done = done.map_err(failure)?;
    summary(&done, watch.elapsed().as_secs_f64(), json);
    Ok(())
}

/// Records with their rate. Hidden when standard error is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let style = "{prefix:>20} {human_pos} records {per_sec} {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix("relay");
    bar
}

fn show(bar: &ProgressBar, seen: &Relayed) {
    bar.set_position(seen.records);
    bar.set_message(format!("{} partitions, {} records behind", seen.partitions, seen.lag));
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn summary(done: &Relayed, seconds: f64, json: bool) {
    let Relayed { records, copies, left_out, transactions, aborted, .. } = done;
    if json {
        println!(
            "{}",
            serde_json::json!({
                "records": records, "copies": copies, "left_out": left_out,
                "transactions": transactions, "aborted": aborted, "seconds": seconds,
            })
        );
        return;
    }
    println!(
        "{records} records read, {copies} written, {left_out} left out (about no user); {transactions} \
         transactions, {aborted} done again; {seconds:.1} s"
    );
}

/// Its error with the right exit code.
fn failure(error: RelayError) -> Failure {
    if error.is_input() { Failure::input(error) } else { Failure::failed(error) }
}
