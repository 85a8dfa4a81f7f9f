//! The running engine: sources, shards, writer and checkpoint, wired as actors.
//!
//! In: a compiled catalogue, a store, sources. Out: profiles in the store, and what was done.
//! Invariant: decisions live in the structs that the actors wrap; this module only starts and stops
//! them.

mod assignments;
pub mod cases;
pub mod checkpoint;
pub mod command;
pub mod credits;
pub mod direct;
mod drive;
mod feed;
pub mod history;
pub mod home;
pub mod inputs;
pub mod intake;
pub mod job;
mod open;
mod options;
mod owned;
mod publish;
pub(crate) mod reload;
mod report;
pub mod route;
pub mod ruleset;
mod signals;
pub mod slices;
mod spill;
mod start;
pub mod status;
pub mod swap;
pub mod topics;
pub mod version;
pub mod watch;

pub use assignments::wait_for_store;
pub use options::{Errand, Options, Prepare, Reads};
#[cfg(test)]
pub(crate) use owned::OwnedStore;
pub use owned::totals;
pub use report::{Observed, Report, SourceProgress};
pub use signals::stop_signals;
pub use start::{run, stored_as_of};

use crate::dimension::SpecError;
use crate::source::file::SourceError;
use crate::source::kafka::KafkaError;
use crate::store::StoreError;
use crate::write::profile::ProfileError;
use crate::write::publish::PublishError;

/// Where as-of comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    Wall,
    /// This instant, epoch ms.
    Fixed(i64),
    /// The greatest accepted event time.
    Event,
}

/// Why an engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A profile cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A topic cannot be read.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A topic does not take what is published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A dimension cannot be looked up.
    #[error(transparent)]
    Dimension(#[from] SpecError),
    /// An actor's thread has died.
    #[error(
        "the {0} died of a panic (see the log above), and starting again from the store, where that can be done, did not help: please report it with the input that causes it"
    )]
    ActorGone(&'static str),
    /// As-of would go back.
    #[error(
        "as-of {wanted} lies before {stored}, which this store was computed for; as-of never goes back: use a later instant, or a new store.path"
    )]
    AsOfBack {
        /// What was asked for.
        wanted: String,
        /// What the store has.
        stored: String,
    },
    /// What the store knows of its catalogues cannot be read, or written.
    #[error(transparent)]
    Version(#[from] version::VersionError),
    /// The store did not take the last window in time.
    #[error(
        "the last window could not be stored within {seconds} s (see the log above); what was read \
         since is not lost: the next start reads it again"
    )]
    NotStored {
        /// How long it was tried.
        seconds: u64,
    },
    /// Kafka did not take the offsets of the last window in time.
    #[error(
        "the last window is stored, but its offsets could not be committed within {seconds} s, since \
         Kafka does not answer (see the log above); nothing is lost: the next start reads again what \
         they cover, and profiles know what they have counted"
    )]
    NotCommitted {
        /// How long it was tried.
        seconds: u64,
    },
    /// What had to be done before the first window failed; who asked for it knows why.
    #[error("what the engine needs could not be prepared")]
    NotPrepared,
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
    /// Events cannot wait on disk for their users' turn.
    #[error(
        "events of more users than fit in memory wait on disk, and {} cannot hold or give them: \
         {source}; make room there, or set memory.spill_bytes_max lower (0: never; slower)",
        dir.display()
    )]
    Spill {
        /// Where.
        dir: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A source is not what a round read before.
    #[error(
        "{name}: {have} bytes of text, but {read} were read before, for some users only: the run \
         was interrupted; put the file back as it was"
    )]
    RoundShorter {
        /// The source.
        name: String,
        /// How far it could be read.
        have: u64,
        /// How far it was read before.
        read: u64,
    },
    /// A round cannot go on without its sources.
    #[error(
        "the store's last run was interrupted when some users had their events of {0} and others had \
         not: run over these sources again, others may be read with them"
    )]
    RoundSources(String),
    /// A history is on its way into a store that processes share.
    #[error(
        "a history is merged into this store by `tagloom backfill --history`, which has all users to \
         itself: wait for its end; if it was interrupted, run the same command again where {} is, then \
         start this again",
        dir.display()
    )]
    HistoryPending {
        /// Where the history was folded.
        dir: std::path::PathBuf,
    },
    /// A small value of the store cannot be read.
    #[error("the store's `{key}` is damaged ({reason}); restore the store from a snapshot")]
    Meta {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}
