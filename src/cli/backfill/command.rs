//! `tagloom backfill` over a store that processes share: a command to the owners of the users.
//!
//! In: arguments. Out: a command in the store, and how far its owners are with it. When the group has no
//! members this process becomes one, owns all partitions, does the work without reading topics, and
//! leaves.
//! Invariant: nobody is written who is not owned.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::json;

use super::super::{Failure, Outcome, open, progress, run, topics};
use super::{BackfillArgs, clock_of, users};
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::engine::Errand;
use crate::engine::command::{CommandError, Progress, Work, give};
use crate::engine::swap::{Active, Swaps};
use crate::source::kafka::members;
use crate::store::patient::{Patience, PatientStore};
use crate::store::{Store, UidKey};

/// How often the store is asked how far owners are.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the group is asked whether it has members.
const MEMBERS_EVERY: Duration = Duration::from_secs(5);

/// A command that was given.
struct Given<'a> {
    number: u64,
    store: Arc<dyn Store>,
    active: Active,
    config: &'a Config,
    bar: ProgressBar,
}

/// Runs the command.
pub(super) fn run(args: &BackfillArgs, config: &Config, json: bool) -> Outcome {
    refuse(args)?;
    let loaded = open::ready_catalog(&config.catalog.path)?;
    if topics::named(&loaded.catalog).is_empty() {
        return Err(Failure::Input(
            "this catalogue reads no topics, so nobody owns its users: run `tagloom run` over its \
             files again, which computes everybody by changed rules"
                .to_owned(),
        ));
    }
    let store = open::existing_store(config)?;
    let clock = clock_of(store.as_ref());
    let active = open::begin(store.as_ref(), loaded, config, clock)?;
    let keys = |keys: std::collections::VecDeque<UidKey>| {
        keys.iter().map(|key| key.as_bytes().to_vec()).collect()
    };
    let users = users(args, &active.ruleset)?.map(keys);
    let work = Work::Recompute { users, users_per_s: args.users_per_s };
    let number = give(store.as_ref(), work, crate::clock::wall_ms()).map_err(refused)?;
    let bar = progress::users_bar("backfill", 0);
    let given = Given { number, store, active, config, bar };
    if args.no_wait {
        return given.show(json, false);
    }
    given.wait()?;
    given.show(json, true)
}

/// What owners cannot be told to do.
fn refuse(args: &BackfillArgs) -> Outcome {
    if args.as_of.is_none() {
        return Ok(());
    }
    Err(Failure::Input(
        "--as-of: owners compute as of the instant that their group is at; it works with the embedded \
         store"
            .to_owned(),
    ))
}

fn refused(error: CommandError) -> Failure {
    match error {
        CommandError::Engine(error) => run::engine_failure(error),
        other => Failure::input(other),
    }
}

impl Given<'_> {
    /// Partitions that are done, of how many, and users computed.
    fn look(&self) -> Result<(usize, usize, u64), Failure> {
        let progress = Progress::of(self.store.as_ref()).map_err(run::engine_failure)?;
        Ok(progress.of_command(self.number))
    }

    /// Waits until all owners have done it; becomes one when there is none.
    fn wait(&self) -> Outcome {
        let mut since_members: Option<Stopwatch> = None;
        loop {
            let (done, partitions, users) = self.look()?;
            self.bar.set_length(users);
            self.bar.set_position(users);
            self.bar.set_message(format!("{done} of {partitions} partitions are done"));
            if done == partitions {
                self.bar.finish_and_clear();
                return Ok(());
            }
            if since_members.as_ref().is_none_or(|since| since.elapsed() >= MEMBERS_EVERY) {
                since_members = Some(Stopwatch::start());
                if members(&self.config.kafka).map_err(topics::failure)? == 0 {
                    self.carry_out(users)?;
                    if crate::engine::stop_signals().load(Ordering::Relaxed) {
                        return Err(Failure::Failed(format!(
                            "stopped; command {} stays and is gone on with by the next owner",
                            self.number
                        )));
                    }
                }
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Owns what the group gives to this process until the command is done for it.
    fn carry_out(&self, before: u64) -> Outcome {
        tracing::info!(
            command = self.number,
            "no process of the group runs: this one does the work"
        );
        let (config, ruleset) = (self.config, &self.active.ruleset);
        let patience = Patience::default();
        let patient = PatientStore::new(Arc::clone(&self.store), patience.clone());
        let store: Arc<dyn Store> = Arc::new(patient);
        let clock = clock_of(store.as_ref());
        let mut options = run::options(config, ruleset, Arc::clone(&store), clock);
        options.topics = topics::join(&ruleset.catalog, config, &store, false)?;
        options.errand = Some(Errand::Command(self.number));
        options.publish = super::super::publish::open(config)?;
        options.patience = patience;
        options.swaps = Swaps::default().beginning_with(self.active.clone());
        let report = crate::engine::run(options, &mut |seen| {
            let users = before + seen.status.examined_users.load(Ordering::Relaxed);
            self.bar.set_length(users);
            self.bar.set_position(users);
        });
        report.map(|_| ()).map_err(run::engine_failure)
    }

    #[expect(clippy::print_stdout, reason = "a command's output")]
    fn show(&self, json: bool, waited: bool) -> Outcome {
        let (done, partitions, users) = self.look()?;
        let number = self.number;
        if json {
            println!(
                "{}",
                json!({ "command": number, "partitions": partitions, "done": done, "users": users })
            );
        } else if waited {
            println!("command {number}: {users} users were computed, in {partitions} partitions");
        } else {
            println!(
                "command {number} waits for the owners of {partitions} partitions: they begin within \
                 seconds, or when they are started; `tagloom backfill` again shows how far they are"
            );
        }
        Ok(())
    }
}
