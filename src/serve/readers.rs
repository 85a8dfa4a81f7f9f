//! Reading by the catalogue that is active now.
//!
//! In: a store, and where the active catalogue is found: with the engine of this process, or in the
//! store, where another process may put a newer one. Out: a reader that knows it.
//! Invariant: who holds a reading goes on with its catalogue; the next one asked for is the new one.

use std::sync::{Arc, Mutex, PoisonError};

use super::published::Published;
use super::read::{ReadError, Reader};
use crate::dimension::Lookups;
use crate::engine::swap::{Active, Swaps};
use crate::engine::version::{self, Moment};
use crate::store::Store;

/// Reads a store by the active catalogue.
pub struct Readers {
    store: Arc<dyn Store>,
    follows: Follows,
    lookups: Lookups,
    reading: Mutex<Arc<Reading>>,
}

/// Where the active catalogue is found.
enum Follows {
    Engine(Swaps),
    Store,
}

/// Reading by one catalogue.
pub struct Reading {
    /// The catalogue.
    pub active: Active,
    /// Reads by it.
    pub reader: Reader,
    /// What of it is given out, and how.
    pub published: Published,
}

impl Reading {
    fn new(
        active: Active,
        store: &Arc<dyn Store>,
        lookups: &Lookups,
    ) -> Result<Arc<Self>, ReadError> {
        let now: crate::dimension::Now = Arc::new(crate::clock::wall_ms);
        let reader = Reader::open(Arc::clone(&active.ruleset), Arc::clone(store), now, lookups)?;
        let published = Published::new(&active.ruleset);
        Ok(Arc::new(Self { active, reader, published }))
    }
}

impl Readers {
    /// Beside an engine, which says what is active; until it does, `active` is.
    pub fn beside(
        active: Active,
        swaps: Swaps,
        store: Arc<dyn Store>,
        lookups: Lookups,
    ) -> Result<Self, ReadError> {
        let reading = Mutex::new(Reading::new(active, &store, &lookups)?);
        Ok(Self { store, follows: Follows::Engine(swaps), lookups, reading })
    }

    /// Over a store that says itself what is active.
    pub fn over(store: Arc<dyn Store>, lookups: Lookups) -> Result<Self, ReadError> {
        let active = active_of(store.as_ref())?;
        let reading = Mutex::new(Reading::new(active, &store, &lookups)?);
        Ok(Self { store, follows: Follows::Store, lookups, reading })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What reads by the catalogue that is active now. May compile it.
    pub fn reading(&self) -> Result<Arc<Reading>, ReadError> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Follows::Engine(swaps) = &self.follows
            && let Some(active) = swaps.active()
            && !Arc::ptr_eq(&active.ruleset, &reading.active.ruleset)
        {
            *reading = Reading::new(active, &self.store, &self.lookups)?;
        }
        Ok(Arc::clone(&reading))
    }

    /// Asks the store whether another catalogue has become active: to be called now and then. With
    /// an engine in this process there is nothing to ask.
    pub fn follow(&self) -> Result<(), ReadError> {
        if matches!(self.follows, Follows::Engine(_)) {
            return Ok(());
        }
        let known = self.reading()?.active.ruleset.version;
        if version::active(self.store.as_ref())?.is_some_and(|v| v.number != known) {
            let next = Reading::new(active_of(self.store.as_ref())?, &self.store, &self.lookups)?;
            tracing::info!(version = next.active.ruleset.version, "another catalogue is active");
            *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        Ok(())
    }

    /// Why the engine beside it writes nothing, if another catalogue is active that it cannot follow.
    pub fn blocked(&self) -> Option<String> {
        match &self.follows {
            Follows::Engine(swaps) => swaps.blocked(),
            Follows::Store => None,
        }
    }

    /// Why the files in the catalogue's directory are not what runs, if they are not.
    pub fn trouble(&self) -> Option<String> {
        match &self.follows {
            Follows::Engine(swaps) => swaps.trouble(),
            Follows::Store => None,
        }
    }
}

/// The catalogue that is active in a store, compiled from the files it keeps.
fn active_of(store: &dyn Store) -> Result<Active, ReadError> {
    let Some(loaded) = version::load_active(store)? else { return Err(ReadError::Empty) };
    let files = Arc::new(loaded.files.clone());
    // It is active as it is: nothing that it knows is let go by reading.
    let moment = Moment { as_of_ms: None, retire_after_ms: i64::MAX, running: true };
    let ruleset = Arc::new(version::for_reading(store, loaded, moment)?);
    Ok(Active { ruleset, files })
}
