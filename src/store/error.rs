//! What can go wrong with a store, whose fault it is, and what to do about it.
//!
//! In: errors of a store's implementation. Out: [`StoreError`], whose text names the path and the
//! remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::UidKey;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for or given is wrong: exit code 2.
    User,
    /// Disk, network or another process: exit code 1.
    Outside,
    /// A bug or a damaged store: exit code 1.
    Us,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store {} is in use by another process; stop `tagloom run` there, or use a command \
         that talks to it (get, why)", path.display()
    )]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no store at {}; `tagloom run` makes one, or set store.path", path.display())]
    NotFound {
        /// Where it should be.
        path: PathBuf,
    },
    /// Written by a newer tagloom.
    #[error(
        "the store {} has format {stored}, this tagloom knows formats up to {known}; use the \
         tagloom that wrote it, or a newer one", path.display()
    )]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// Its format version.
        stored: String,
        /// The newest this program reads.
        known: u32,
    },
    /// It was written with other settings.
    #[error("the store {} was written with {what} `{stored}`, not `{given}`; {remedy}", path.display())]
    Mismatch {
        /// The store's directory.
        path: PathBuf,
        /// The setting.
        what: &'static str,
        /// Its value in the store.
        stored: String,
        /// Its value now.
        given: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The operating system refused.
    #[error("{}: {source}; {}", path.display(), io_remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A write failed before; nothing more is accepted, nothing half written counts.
    #[error(
        "the store {} stopped after a failed write (disk full or broken?); free the disk and \
         start again: what was acknowledged is safe", path.display()
    )]
    Stopped {
        /// The store's directory.
        path: PathBuf,
    },
    /// Bytes that no tagloom wrote.
    #[error("{what} is damaged; {remedy}")]
    Corrupt {
        /// What.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// It cannot be reached just now.
    #[error("the store cannot be reached: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// Something is there already that would be overwritten.
    #[error("{} is there already, and is not overwritten: name another place, or move it away", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Not a whole snapshot.
    #[error("{} cannot be restored from: {reason}", path.display())]
    NoSnapshot {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// This kind of store has none.
    #[error(
        "only the embedded store has snapshots of tagloom's own; HBase has `snapshot` in its shell, for \
         each of the tables with the prefix store.hbase.prefix"
    )]
    NoSnapshots,
    /// An epoch that was dropped meanwhile, or never was.
    #[error(
        "dimension table `{table}` has no epoch {epoch}; `tagloom dims list` shows what is there"
    )]
    NoEpoch {
        /// The table.
        table: String,
        /// The epoch asked for.
        epoch: u64,
    },
    /// A table that the store needs is not there.
    #[error("{reason}; {remedy}")]
    NoTable {
        /// Which, as the store says it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The store does not take it, now or later. What else was asked for with it is not written
    /// whole: leave these users out and ask again.
    #[error("the store refuses {what} for good: {reason}")]
    Refused {
        /// What.
        what: String,
        /// Why, as the store says it.
        reason: String,
        /// The users whose rows it is; empty: nobody's.
        keys: Vec<UidKey>,
    },
    /// A key or value beyond what the store accepts: this row is refused for good.
    #[error("{what} of {bytes} bytes is too large for the store: at most {bytes_max}")]
    TooLarge {
        /// What.
        what: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

impl StoreError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotFound { .. }
            | Self::NewerFormat { .. }
            | Self::Mismatch { .. }
            | Self::NoTable { .. }
            | Self::Exists { .. }
            | Self::NoSnapshot { .. }
            | Self::NoSnapshots
            | Self::Refused { .. }
            | Self::TooLarge { .. } => Fault::User,
            Self::Locked { .. }
            | Self::Io { .. }
            | Self::Stopped { .. }
            | Self::Unavailable { .. } => Fault::Outside,
            Self::Corrupt { .. } | Self::NoEpoch { .. } => Fault::Us,
        }
    }

    /// Whether the same call may succeed later without anybody changing the store's settings.
    pub fn retry(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Unavailable { .. } => true,
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            _ => false,
        }
    }

    /// An error of the operating system at `path`.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

fn io_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "give this user read and write permission there, or set store.path"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on that disk, then start again: nothing half written counts"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only: set store.path elsewhere",
        io::ErrorKind::NotADirectory => "a file is in the way: set store.path to a directory",
        io::ErrorKind::NotFound => "check the path",
        _ => "check the disk, then start again",
    }
}
