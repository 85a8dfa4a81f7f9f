//! What commands ask of a store, be it their own or that of a running process.
//!
//! In: a [`Request`]. Out: JSON, the same whoever answers. A store has one process that opens it:
//! when that is another one, it is asked over its local socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, catalog, dims, export, history, open, rejects, survey, topics};
use crate::catalog::Loaded;
use crate::catalog::select::Selection;
use crate::config::{Config, StoreKind};
use crate::engine::swap::{Active, Swaps};
use crate::serve::local::{AskError, Handler, Refusal, Request, Server, ask, socket_path};
use crate::serve::read::{ReadError, UserTags};
use crate::serve::readers::{Readers, Reading};
use crate::store::{Store, StoreError, Uid};

/// How often a store that another process has just opened or is about to close is tried again.
const TRIES: u32 = 40;

/// Between two tries.
const TRY_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// A store with its catalogue, ready to answer.
pub(super) struct Desk {
    readers: Arc<Readers>,
    config: Config,
    swaps: Swaps,
    /// One load at a time.
    loading: Mutex<()>,
}

impl Desk {
    /// `swaps`: where the active catalogue is found.
    pub(super) fn new(readers: Arc<Readers>, swaps: Swaps, config: Config) -> Self {
        Self { readers, config, swaps, loading: Mutex::new(()) }
    }

    /// The store.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        self.readers.store()
    }

    /// The settings of this process.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Where an engine beside this finds other catalogues; it has no active one where there is no
    /// engine.
    pub(super) fn swaps(&self) -> &Swaps {
        &self.swaps
    }

    /// Days after which tiles of this store roll up.
    pub(super) fn horizon_days(&self) -> Result<u32, Failure> {
        let reading = self.readers.reading().map_err(read_failure)?;
        Ok(reading.active.ruleset.layout.horizon_days)
    }

    /// Answers others on the store's socket, until the server is dropped. `None`: nothing outlives
    /// this process, or others open the store themselves, or the socket cannot be made (which is logged: the run itself goes on).
    pub(super) fn serve(self, config: &Config) -> Option<Server> {
        if config.store.kind != StoreKind::Fjall {
            return None;
        }
        let path = socket_path(&config.store.path);
        let handler: Arc<Handler> =
            Arc::new(move |request, progress| self.answer(request, progress).map_err(refusal));
        match Server::start(&path, handler) {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::warn!(
                    %error, path = %path.display(),
                    "no local socket: get, why, dims, rejects and export must wait for this run's \
                     end; is the path longer than 100 bytes?"
                );
                None
            }
        }
    }

    fn answer(
        &self,
        request: Request,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Value, Failure> {
        let reading = self.readers.reading().map_err(read_failure)?;
        let Reading { active: Active { ruleset, files }, reader, .. } = reading.as_ref();
        let catalog = &ruleset.catalog;
        let uid = |text: &str| Uid::parse(catalog.uid, text).map_err(Failure::input);
        let instant = |text: &Option<String>| {
            text.as_ref().map(|t| open::instant(t, &catalog.zone)).transpose()
        };
        match request {
            Request::Get { uid: text, as_of, select, shadow } => {
                let mut selection = Selection::parse(&select, catalog).map_err(Failure::input)?;
                if !shadow {
                    selection = selection.published(catalog).map_err(Failure::Input)?;
                }
                let user = reader.read(&uid(&text)?, instant(&as_of)?);
                let mut user = user.map_err(read_failure)?;
                let tags = std::mem::take(&mut user.tags).into_iter().enumerate();
                user.tags =
                    tags.filter(|(at, _)| selection.contains(*at)).map(|(_, t)| t).collect();
                let UserTags { tags, differs, .. } = &mut user;
                differs.retain(|name| tags.iter().any(|t| t.name == *name));
                json(&user)
            }
            Request::Why { uid: text, tag, as_of } => {
                let why = reader.why(&uid(&text)?, &tag, instant(&as_of)?, files);
                json(&why.map_err(read_failure)?)
            }
            Request::Rejects { stream, reason, rows_max } => {
                let store = self.store().as_ref();
                json(&rejects::collect(store, stream.as_deref(), reason.as_deref(), rows_max)?)
            }
            Request::Catalog { number } => {
                json(&catalog::collect(self.store().as_ref(), number, self.swaps.trouble())?)
            }
            Request::HistoryPlan => {
                json(&history::plan(self.store().as_ref(), ruleset.layout.horizon_days)?)
            }
            Request::HistoryMerge(what) => json(&history::merge(self, Some(&what), progress)?),
            Request::HistoryResume => json(&history::merge(self, None, progress)?),
            Request::DimsList => dims::tables(self.store().as_ref()),
            Request::DimsLoad { table, path, key } => {
                let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
                let store = self.store().as_ref();
                let report = dims::load_with(store, ruleset, &table, &path, key, progress)?;
                Ok(dims::report_json(&report))
            }
            Request::Survey { .. } | Request::Snapshot { .. } => {
                answer_over(self.store(), &self.config, request, progress)
            }
            Request::Export { path, as_of, select, closed } => {
                let selection = Selection::parse(&select, catalog).map_err(Failure::input)?;
                let what = export::What {
                    as_of: instant(&as_of)?.map(|at| (reader, at)),
                    selection: &selection.published(catalog).map_err(Failure::Input)?,
                    closed,
                };
                export::write_with(self.store().as_ref(), ruleset, &path, &what, progress)?;
                Ok(Value::Null)
            }
        }
    }
}

/// Asks the store of the configuration, or the process that has it open.
pub(super) fn request<T: DeserializeOwned>(
    config: &Config,
    request: Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<T, Failure> {
    let value = match opened(config, &request, progress)? {
        Access::Own(desk) => desk.answer(request, progress)?,
        Access::Store(store) => answer_over(&store, config, request, progress)?,
        Access::Other(answer) => answer,
    };
    serde_json::from_value(value)
        .map_err(|e| Failure::Failed(format!("the running process answered in other terms: {e}")))
}

/// Answers what needs nothing but the store.
fn answer_over(
    store: &Arc<dyn Store>,
    config: &Config,
    request: Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    match request {
        Request::Survey { as_of, what } => {
            survey::answer(store, config, as_of.as_deref(), &what, progress)
        }
        Request::Snapshot { dir } => {
            json(&store.snapshot(&dir, progress).map_err(open::store_failure)?)
        }
        other => Err(Failure::Failed(format!("{other:?} needs a catalogue"))),
    }
}

/// Who answered.
enum Access {
    Own(Box<Desk>),
    /// For questions that need no catalogue, or bring their own.
    Store(Arc<dyn Store>),
    Other(Value),
}

/// Opens the store, or asks the one who has it. Between two processes neither may succeed: the
/// socket comes after the store and goes before it.
fn opened(
    config: &Config,
    wanted: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Access, Failure> {
    let path = socket_path(&config.store.path);
    let mut tries = 0;
    loop {
        let locked = match open_for(config, wanted) {
            Ok(access) => return Ok(access),
            Err(OpenError::Locked(error)) => error,
            Err(OpenError::Other(failure)) => return Err(failure),
        };
        match ask(&path, wanted, progress) {
            Ok(value) => return Ok(Access::Other(value)),
            Err(AskError::Refused(refusal)) => return Err(failure(refusal)),
            Err(AskError::Unreachable { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(Failure::Failed(format!("{locked}\n{error}"))),
        }
        // Not a wait for an event: the other process has no way to tell us.
        std::thread::park_timeout(TRY_EVERY);
    }
}

enum OpenError {
    Locked(StoreError),
    Other(Failure),
}

fn open_for(config: &Config, wanted: &Request) -> Result<Access, OpenError> {
    if config.store.kind == StoreKind::Memory {
        return Err(OpenError::Other(open::no_store()));
    }
    // The store first: who holds it answers with the catalogue that it runs.
    let other = |failure| OpenError::Other(failure);
    let makes = matches!(wanted, Request::DimsLoad { .. } | Request::HistoryPlan);
    let own = |desk| Access::Own(Box::new(desk));
    match open::existing(config) {
        Ok(store) if matches!(wanted, Request::Survey { .. } | Request::Snapshot { .. }) => {
            Ok(Access::Store(store))
        }
        Ok(store) => {
            let loaded = open::ready_catalog(&config.catalog.path).map_err(other)?;
            desk_over(config, loaded, store, wanted).map(own).map_err(other)
        }
        Err(StoreError::NotFound { .. }) if makes => {
            let loaded = open::ready_catalog(&config.catalog.path).map_err(other)?;
            let reads_topics = !topics::named(&loaded.catalog).is_empty();
            let store = open::store(config, &loaded.catalog, config.clock.mode_for(reads_topics))
                .map_err(other)?;
            desk_over(config, loaded, store, wanted).map(own).map_err(other)
        }
        Err(error @ StoreError::Locked { .. }) => Err(OpenError::Locked(error)),
        Err(error) => Err(OpenError::Other(open::store_failure(error))),
    }
}

/// Reads a store that nobody runs: by the catalogue in the directory, be it active already or not.
fn desk_over(
    config: &Config,
    loaded: Loaded,
    store: Arc<dyn Store>,
    wanted: &Request,
) -> Result<Desk, Failure> {
    let active = if matches!(wanted, Request::HistoryPlan) {
        // Whoever has a history for these rules makes them the active ones.
        open::activate(store.as_ref(), loaded, config, None)?
    } else {
        let files = Arc::new(loaded.files.clone());
        let next = open::version(store.as_ref(), loaded, config, None)?;
        Active { ruleset: Arc::new(next.ruleset), files }
    };
    let readers = Readers::beside(active, Swaps::default(), store, open::lookups(config));
    let readers = readers.map_err(read_failure)?;
    Ok(Desk::new(Arc::new(readers), Swaps::default(), config.clone()))
}

/// A path as another process, which stands elsewhere, can open it.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}

/// An answer as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(Failure::failed)
}

pub(super) fn read_failure(error: ReadError) -> Failure {
    match error {
        ReadError::Store(error) => open::store_failure(error),
        error if error.is_input() => Failure::input(error),
        error => Failure::failed(error),
    }
}

fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Input(message) => Refusal { message, input: true },
        Failure::Failed(message) => Refusal { message, input: false },
    }
}

fn failure(refusal: Refusal) -> Failure {
    if refusal.input { Failure::Input(refusal.message) } else { Failure::Failed(refusal.message) }
}
