//! Watches the rule directory of a running engine.
//!
//! In: the directory, looked at every second. Out: proposals for the engine; what is wrong with the
//! files is logged with its places and kept for whoever asks. Files are compared by content, and are
//! used when two looks in a row saw the same: an editor or a checkout writes them one after the other.
//! Invariant: a directory that cannot be used changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Clock;
use super::swap::{SwapError, Swaps};
use super::version::Moment;
use crate::catalog::{LoadError, load_from, read};
use crate::dimension::Lookups;
use crate::store::Store;

/// What a watch works with.
pub struct Watched {
    /// The rule directory.
    pub dir: PathBuf,
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

impl Watched {
    fn run(mut self, stop: &AtomicBool) {
        let mut done = std::mem::take(&mut self.running);
        done.sort();
        let mut seen: Option<Texts> = None;
        while !stop.load(Ordering::Acquire) {
            std::thread::park_timeout(self.every);
            if self.swaps.is_busy() {
                continue;
            }
            let now = match read(&self.dir) {
                Ok(mut texts) => {
                    texts.sort();
                    texts
                }
                // Between two files of a checkout one may be gone.
                Err(error) if seen.is_some() => {
                    seen = None;
                    tracing::debug!(%error, "the rule directory cannot be read");
                    continue;
                }
                Err(error) => {
                    self.tell(&error);
                    continue;
                }
            };
            if now != done && seen.as_ref() == Some(&now) {
                self.propose(now.clone());
                done = now;
                seen = None;
            } else {
                seen = Some(now);
            }
        }
    }

    fn propose(&self, texts: Texts) {
        let loaded = match load_from(&self.dir.to_string_lossy(), texts) {
            Ok(loaded) => loaded,
            Err(error @ (LoadError::Wrong { .. } | LoadError::Io { .. })) => {
                return self.tell(&error);
            }
        };
        let proposed = Moment::running(self.store.as_ref(), self.clock, self.retire_after_ms)
            .map_err(SwapError::from)
            .and_then(|moment| self.swaps.propose(&self.store, loaded, moment, &self.lookups));
        match proposed {
            Ok(true) => {}
            Ok(false) => self.swaps.note_trouble(None),
            Err(error) => self.tell(&error),
        }
    }

    fn tell(&self, error: &dyn std::fmt::Display) {
        let why = error.to_string();
        if self.swaps.trouble().as_ref() != Some(&why) {
            tracing::error!("{}: the catalogue that runs stays\n{why}", self.dir.display());
            self.swaps.note_trouble(Some(why));
        }
    }
}
