//! Commands to all owners, as one owner carries them out.
//!
//! In: what stands in the store. Out: a job a command, behind what another catalogue made necessary.
//! Invariant: one command at a time, in the order of their numbers.

use std::sync::Arc;
use std::time::Duration;

use super::CheckpointActor;
use crate::clock::Stopwatch;
use crate::engine::EngineError;
use crate::engine::command::{CommandJob, Commands, OwnCommands};
use crate::engine::job::Job;

/// How often the store is asked for commands.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl CheckpointActor {
    /// Begins with the next command, if there is one.
    pub(super) fn follow_commands(&mut self) {
        if self.parts.partitions.is_none() || self.parts.jobs.iter().any(Job::is_command) {
            return;
        }
        if self.since_commands.as_ref().is_some_and(|since| since.elapsed() < LOOK_EVERY) {
            return;
        }
        self.since_commands = Some(Stopwatch::start());
        if let Err(error) = self.next_command() {
            self.parts.status.fail(error);
        }
    }

    fn next_command(&mut self) -> Result<(), EngineError> {
        let Some(partitions) = &self.parts.partitions else { return Ok(()) };
        let store = Arc::clone(&self.parts.store);
        let commands = Commands::of(store.as_ref())?;
        if commands.last() <= self.commands_done {
            return Ok(());
        }
        let own = OwnCommands::open(store.as_ref(), partitions)?;
        let Some(command) = commands.next(own.done(), crate::clock::wall_ms()) else {
            self.commands_done = commands.last();
            return Ok(());
        };
        let number = command.number;
        tracing::info!(command = number, "a command is carried out");
        let job = Job::Command(Box::new(CommandJob::new(command, own)));
        let jobs = &mut self.parts.jobs;
        // What waits for the sources' end would keep it from being done.
        let at = jobs.iter().take_while(|job| !job.waits_for_sources()).count();
        jobs.insert(at, job);
        Ok(())
    }
}
