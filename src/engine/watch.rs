//! Watches where other catalogues for a running engine come from: its rule directory, and a store that
//! processes share, in which another process may have made one active.
//!
//! In: the directory and the store, looked at every second or two. Out: proposals for the engine; what is
//! wrong with the files is logged with its places and kept for whoever asks. Files are compared by
//! content, and are used when two looks in a row saw the same: an editor or a checkout writes them one
//! after the other. The store comes first: what is active there is followed before the directory is
//! looked at.
//! Invariant: a directory that cannot be used changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Clock;
use super::swap::{SwapError, Swaps};
use super::version::{Moment, VersionError, active_number};
use crate::catalog::{LoadError, load_from, read};
use crate::clock::Stopwatch;
use crate::dimension::Lookups;
use crate::store::Store;

/// What a watch works with.
pub struct Watched {
    /// The rule directory.
    pub dir: PathBuf,
    /// Whether its changes are taken over.
    pub watches_dir: bool,
    /// Whether other processes may make a catalogue active in the store.
    pub follows_store: bool,
    /// How often it is looked at.
    pub every: Duration,
    /// Where catalogues are proposed.
    pub swaps: Swaps,
    /// What knows the partials.
    pub store: Arc<dyn Store>,
    /// How rows of dimension tables are looked up.
    pub lookups: Lookups,
    /// How long retired partials keep folding.
    pub retire_after_ms: i64,
    /// Where as-of comes from.
    pub clock: Clock,
    /// The files of the catalogue that runs.
    pub running: Vec<(String, String)>,
}

/// How often the store is asked which catalogue is active.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// A watch, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to look.
    pub fn start(watched: Watched) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("catalogue watch".to_owned());
        let thread = thread.spawn(move || watched.run(&stopping))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in there has been printed; what runs goes on without a watch.
            drop(thread.join());
        }
    }
}

type Texts = Vec<(String, String)>;

/// What is known of the directory.
struct Directory {
    /// What was proposed last.
    done: Texts,
    /// What was there at the last look.
    seen: Option<Texts>,
}

impl Watched {
    fn run(mut self, stop: &AtomicBool) {
        let mut running = std::mem::take(&mut self.running);
        running.sort();
        let mut directory = Directory { done: running, seen: None };
        let mut since_store: Option<Stopwatch> = None;
        while !stop.load(Ordering::Acquire) {
            std::thread::park_timeout(self.every);
            if self.swaps.is_busy() {
                continue;
            }
            if self.swaps.take_late() {
                // What was proposed is compared with what has become active instead.
                (since_store, directory.done) = (None, Vec::new());
            }
            if self.follows_store
                && since_store.as_ref().is_none_or(|s| s.elapsed() >= FOLLOW_EVERY)
            {
                since_store = Some(Stopwatch::start());
                if self.follow() {
                    continue;
                }
            }
            if self.watches_dir {
                self.look_at(&mut directory);
            }
        }
    }

    fn look_at(&self, directory: &mut Directory) {
        let Directory { done, seen } = directory;
        let now = match read(&self.dir) {
            Ok(mut texts) => {
                texts.sort();
                texts
            }
            // Between two files of a checkout one may be gone.
            Err(error) if seen.is_some() => {
                *seen = None;
                tracing::debug!(%error, "the rule directory cannot be read");
                return;
            }
            Err(error) => return self.tell(&error),
        };
        if now != *done && seen.as_ref() == Some(&now) && self.propose(now.clone()) {
            (*done, *seen) = (now, None);
        } else {
            *seen = Some(now);
        }
    }

    /// Follows what another process has made active. True: something other is active than what runs.
    fn follow(&self) -> bool {
        let running = self.swaps.active().map_or(0, |active| active.ruleset.version);
        let number = match active_number(self.store.as_ref()) {
            Ok(number) if number > running => number,
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!(%error, "the store does not say which catalogue is active");
                return true;
            }
        };
        match self.swaps.follow(&self.store, &self.lookups) {
            Ok(_) => {}
            // It is asked again.
            Err(SwapError::Version(VersionError::Store(error))) => {
                tracing::warn!(number, %error, "the catalogue that has become active cannot be read yet");
            }
            Err(error) => self.block(number, &error),
        }
        true
    }

    fn block(&self, number: u32, error: &SwapError) {
        let cause = match error {
            SwapError::NeedsRestart { what } => format!("{what}; start this process again"),
            error => error.to_string(),
        };
        let why = format!(
            "catalogue version {number} is active in the store, and this process cannot follow, so it \
             reads and writes nothing: {cause}"
        );
        if self.swaps.blocked().as_ref() != Some(&why) {
            tracing::error!("{why}");
            self.swaps.note_blocked(Some(why));
        }
    }

    /// False: the store could not be read, so these files have to be proposed once more.
    fn propose(&self, texts: Texts) -> bool {
        let loaded = match load_from(&self.dir.to_string_lossy(), texts) {
            Ok(loaded) => loaded,
            Err(error @ (LoadError::Wrong { .. } | LoadError::Io { .. })) => {
                self.tell(&error);
                return true;
            }
        };
        let proposed = Moment::running(self.store.as_ref(), self.clock, self.retire_after_ms)
            .map_err(SwapError::from)
            .and_then(|moment| self.swaps.propose(&self.store, loaded, moment, &self.lookups));
        match proposed {
            Ok(true) => {}
            Ok(false) => self.swaps.note_trouble(None),
            Err(SwapError::Version(VersionError::Store(error))) => {
                tracing::warn!(%error, "the rule directory has changed, and the store cannot be read yet");
                return false;
            }
            Err(error) => self.tell(&error),
        }
        true
    }

    fn tell(&self, error: &dyn std::fmt::Display) {
        let why = error.to_string();
        if self.swaps.trouble().as_ref() != Some(&why) {
            tracing::error!("{}: the catalogue that runs stays\n{why}", self.dir.display());
            self.swaps.note_trouble(Some(why));
        }
    }
}
