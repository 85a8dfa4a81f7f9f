//! Another catalogue for a running engine.
//!
//! In: a catalogue that was compiled beside the engine, from its directory or because another process
//! has made it active in a store that they share. Out: word that it is active, or why it cannot be. The
//! checkpoint takes a proposal at a window's boundary: sources are held, everything that was read is
//! stored, the version is written, shards and decoders get the new ruleset, sources go on.
//! Invariant: a proposal that cannot be used changes nothing. Under a catalogue that is active and
//! cannot be followed nothing is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ruleset::Ruleset;
use super::version::{Moment, Next, Saved, VersionError, active_number, load_active, next};
use crate::catalog::Loaded;
use crate::catalog::model::From;
use crate::catalog::place::Files;
use crate::dimension::{Dimensions, Lookups, SpecError};
use crate::source::file::SourceError;
use crate::source::recipe::Recipe;
use crate::store::Store;

/// A catalogue that is active, and what its places point into.
#[derive(Debug, Clone)]
pub struct Active {
    /// Compiled.
    pub ruleset: Arc<Ruleset>,
    /// Its files.
    pub files: Arc<Files>,
}

/// A catalogue that is ready to be active.
pub struct Proposal {
    pub(super) next: Next,
    pub(super) files: Files,
    pub(super) dimensions: Arc<Dimensions>,
    /// It is active in the store already: another process has written it.
    pub(super) follows: bool,
}

impl Proposal {
    /// Writes it, as far as nobody has. False: another process was first, with another one or the same.
    pub(super) fn save(
        &mut self,
        store: &dyn Store,
        as_of_ms: Option<i64>,
    ) -> Result<bool, VersionError> {
        if self.follows {
            self.next.save_schema(store)?;
            return Ok(true);
        }
        self.next.becomes_active(store, as_of_ms)?;
        Ok(self.next.save(store)? == Saved::Done)
    }
}

/// Why a catalogue cannot become active in a running engine.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// `ids.lock` is behind the rules.
    #[error("ids.lock is behind the rules ({0}); run `tagloom check --write`")]
    LockBehind(String),
    /// It does not compile, or the store cannot be read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A source cannot be decoded for it.
    #[error("{0}; the catalogue that runs stays")]
    Source(#[from] SourceError),
    /// Its dimension tables cannot be read.
    #[error(transparent)]
    Dimension(#[from] SpecError),
    /// It differs where a running engine cannot follow.
    #[error("{what}: stop this run and start it again; the catalogue that runs stays")]
    NeedsRestart {
        /// What differs.
        what: String,
    },
    /// A directory holds what was active in the store before.
    #[error(
        "these rules were active before, and version {by} took their place: nothing is taken back by \
         an old directory. Bring it up to date, or go back with `tagloom catalog activate`"
    )]
    Replaced {
        /// The version that did.
        by: u32,
    },
    /// Another catalogue than the one that was to be followed.
    #[error(
        "this tagloom reads version {number} of the store as another catalogue than the tagloom that \
         made it active; run the same version of tagloom in all processes"
    )]
    ReadOtherwise {
        /// The version.
        number: u32,
    },
}

/// Where the next catalogue is left for the engine, and where the active one is found.
#[derive(Clone, Default)]
pub struct Swaps(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_proposed: AtomicBool,
    /// From a proposal until it is active.
    is_busy: AtomicBool,
    proposed: Mutex<Option<Proposal>>,
    active: Mutex<Option<Active>>,
    recipes: Mutex<Vec<Recipe>>,
    trouble: Mutex<Option<String>>,
    blocked: Mutex<Option<String>>,
    /// A proposal came to nothing, for another process was first.
    was_late: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Swaps {
    /// The engine starts with this one.
    #[must_use]
    pub fn beginning_with(self, active: Active) -> Self {
        self.begin(active);
        self
    }

    /// This one is active from now on: for readers without an engine.
    pub fn begin(&self, active: Active) {
        *locked(&self.0.active) = Some(active);
    }

    /// The active catalogue, when somebody has told.
    pub fn active(&self) -> Option<Active> {
        locked(&self.0.active).clone()
    }

    /// Why the files in the catalogue's directory are not what runs, if they are not.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.0.trouble).clone()
    }

    /// Notes why the catalogue's directory cannot be used; `None`: it can.
    pub fn note_trouble(&self, why: Option<String>) {
        *locked(&self.0.trouble) = why;
    }

    /// Why nothing may be written at present, if so: another catalogue is active in the store, and this
    /// process cannot follow.
    pub fn blocked(&self) -> Option<String> {
        locked(&self.0.blocked).clone()
    }

    /// Notes why the catalogue that is active in the store cannot be followed; `None`: it can.
    pub fn note_blocked(&self, why: Option<String>) {
        *locked(&self.0.blocked) = why;
    }

    /// The sources that the engine reads.
    pub(super) fn set_recipes(&self, recipes: Vec<Recipe>) {
        *locked(&self.0.recipes) = recipes;
    }

    /// Compiles a catalogue beside the running one and leaves it for the engine, which takes it at
    /// the next boundary of windows. False: it means the same as the one that runs.
    pub fn propose(
        &self,
        store: &Arc<dyn Store>,
        loaded: Loaded,
        moment: Moment,
        lookups: &Lookups,
    ) -> Result<bool, SwapError> {
        if let Some(first) = loaded.lock_behind.first() {
            return Err(SwapError::LockBehind(first.clone()));
        }
        let files = loaded.files.clone();
        if let Some(active) = self.active() {
            check_restart(&active.ruleset, &loaded)?;
        }
        let shared = !store.is_atomic();
        if shared
            && let Some(by) =
                super::version::replaced_by(store.as_ref(), loaded.catalog.fingerprint)?
        {
            return Err(SwapError::Replaced { by });
        }
        let next = next(store.as_ref(), loaded, moment)?;
        if !next.is_new {
            // Docs and owners may be other ones: readers are to see them. What another process has made
            // active, and does not run here yet, is followed.
            self.replace_files(next.ruleset, files);
            return Ok(false);
        }
        self.propose_next(store, next, files, lookups)?;
        Ok(true)
    }

    /// Leaves the catalogue that another process has made active, as the store has it, for the engine.
    pub fn follow(&self, store: &Arc<dyn Store>, lookups: &Lookups) -> Result<bool, SwapError> {
        let number = active_number(store.as_ref())?;
        let Some(loaded) = load_active(store.as_ref())? else { return Ok(false) };
        if let Some(active) = self.active() {
            check_restart(&active.ruleset, &loaded)?;
        }
        let files = loaded.files.clone();
        // It is active as it is: nothing that it knows is let go by following.
        let moment = Moment { as_of_ms: None, retire_after_ms: i64::MAX, running: true };
        let next = next(store.as_ref(), loaded, moment)?;
        if next.is_new {
            return match active_number(store.as_ref())? {
                same if same == number => Err(SwapError::ReadOtherwise { number }),
                // Yet another one became active meanwhile.
                _ => Ok(false),
            };
        }
        self.leave(store, next, files, lookups, true)?;
        Ok(true)
    }

    /// Leaves what was compiled already: another catalogue, or the same one with what its partials
    /// have learned.
    pub fn propose_next(
        &self,
        store: &Arc<dyn Store>,
        next: Next,
        files: Files,
        lookups: &Lookups,
    ) -> Result<(), SwapError> {
        self.leave(store, next, files, lookups, false)
    }

    fn leave(
        &self,
        store: &Arc<dyn Store>,
        next: Next,
        files: Files,
        lookups: &Lookups,
        follows: bool,
    ) -> Result<(), SwapError> {
        let (catalog, layout) = (&next.ruleset.catalog, &next.ruleset.layout);
        for recipe in locked(&self.0.recipes).iter() {
            let gone =
                recipe.streams.iter().find(|n| !catalog.streams.iter().any(|s| s.name == **n));
            if let Some(stream) = gone {
                let what = format!("stream `{stream}` is gone, but `{}` feeds it", recipe.source);
                return Err(SwapError::NeedsRestart { what });
            }
            recipe.decoder(catalog, layout)?;
        }
        let now: crate::dimension::Now = Arc::new(crate::clock::wall_ms);
        let dimensions = Dimensions::open(catalog, Arc::clone(store), now, lookups)?;
        let dimensions = Arc::new(dimensions);
        *locked(&self.0.proposed) = Some(Proposal { next, files, dimensions, follows });
        self.0.is_busy.store(true, Ordering::Release);
        self.0.is_proposed.store(true, Ordering::Release);
        Ok(())
    }

    fn replace_files(&self, ruleset: Ruleset, files: Files) {
        let mut active = locked(&self.0.active);
        // The schema would not tell: other expressions of the same tags are read and stored alike.
        if active.as_ref().is_some_and(|a| a.ruleset.version == ruleset.version) {
            *active = Some(Active { ruleset: Arc::new(ruleset), files: Arc::new(files) });
        }
    }

    /// The catalogue that was left, if one was.
    pub(super) fn take(&self) -> Option<Proposal> {
        if !self.0.is_proposed.swap(false, Ordering::AcqRel) {
            return None;
        }
        locked(&self.0.proposed).take()
    }

    /// Notes that a proposal is active.
    pub(super) fn activated(&self, active: Active) {
        *locked(&self.0.active) = Some(active);
        self.note_trouble(None);
        self.note_blocked(None);
        self.0.is_busy.store(false, Ordering::Release);
    }

    /// Notes that a proposal came to nothing: another process made another one active, or the same.
    pub(super) fn was_late(&self) {
        self.0.was_late.store(true, Ordering::Release);
        self.0.is_busy.store(false, Ordering::Release);
    }

    /// Whether the last proposal came to nothing for another process was first; once.
    pub(super) fn take_late(&self) -> bool {
        self.0.was_late.swap(false, Ordering::AcqRel)
    }

    /// Whether a proposal is not active yet: until then there is no other one.
    pub fn is_busy(&self) -> bool {
        self.0.is_busy.load(Ordering::Acquire)
    }
}

/// What a running engine cannot change.
fn check_restart(running: &Ruleset, loaded: &Loaded) -> Result<(), SwapError> {
    let (now, new) = (&running.catalog, &loaded.catalog);
    let restart = |what: String| Err(SwapError::NeedsRestart { what });
    if now.uid != new.uid {
        return restart("`uid:` of catalog.yaml has changed, which needs a new store.path".into());
    }
    if now.zone.name() != new.zone.name() {
        return restart(
            "`timezone:` of catalog.yaml has changed, which needs a new store.path".into(),
        );
    }
    for stream in &new.streams {
        let Some(before) = now.streams.iter().find(|s| s.name == stream.name) else {
            return restart(format!("stream `{}` is new", stream.name));
        };
        let format = |from: &From| match from {
            From::File { format, .. } | From::Kafka { format, .. } => *format,
        };
        if format(&before.from) != format(&stream.from) {
            return restart(format!("stream `{}` is written in another format", stream.name));
        }
    }
    Ok(())
}
