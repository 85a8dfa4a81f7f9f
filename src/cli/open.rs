//! Opening what commands work on: catalogue, store.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::catalog::model::Catalog;
use crate::catalog::{LoadError, Loaded};
use crate::clock::Zone;
use crate::config::{Config, StoreKind};
use crate::dimension::{Feeds, Lookups};
use crate::engine::Clock;
use crate::engine::swap::Active;
use crate::engine::version::{Moment, Next, Saved, VersionError, load_active, replaced_by};
use crate::event::parse::iso;
use crate::source::kafka::TopicTables;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::hbase::HbaseStore;
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Fault, Identity, Store, StoreError};

/// Loads a catalogue; all its errors are shown.
pub(super) fn catalog(path: &Path) -> Result<Loaded, Failure> {
    let color = std::io::stderr().is_terminal();
    match crate::catalog::load(path) {
        Ok(loaded) => Ok(loaded),
        Err(LoadError::Wrong { files, diagnostics }) => {
            let errors = diagnostics.items.len();
            let text = crate::catalog::render(&diagnostics, &files, color);
            Err(Failure::Input(format!("{text}\n{}: {errors} errors and warnings", path.display())))
        }
        Err(error @ LoadError::Io { .. }) => Err(Failure::input(error)),
    }
}

/// Loads a catalogue for the engine; `ids.lock` must be up to date.
pub(super) fn ready_catalog(path: &Path) -> Result<Loaded, Failure> {
    let loaded = catalog(path)?;
    if let Some(first) = loaded.lock_behind.first() {
        return Err(Failure::Input(format!(
            "{}: ids.lock is behind the rules ({first}); run `tagloom check --write` and commit it",
            path.display()
        )));
    }
    Ok(loaded)
}

/// How rows of dimension tables are looked up.
pub(super) fn lookups(config: &Config) -> Lookups {
    let dimensions = &config.dimensions;
    let tables = TopicTables::new(config.kafka.clone(), dimensions.broadcast_bytes_max);
    Lookups {
        cache_bytes_max: dimensions.cache_bytes_max,
        direct_rows_per_s_max: dimensions.direct_rows_per_s_max,
        upsert_rows_per_s_max: dimensions.upsert_rows_per_s_max,
        feeds: Feeds::by(Arc::new(tables)),
    }
}

/// Whether topics that keep dimension tables can be read by these settings.
pub(super) fn check_topic_tables(config: &Config, catalog: &Catalog) -> Result<(), Failure> {
    let Some(dimension) = catalog.dimensions.iter().find(|d| d.topic.is_some()) else {
        return Ok(());
    };
    let consumer = config.kafka.consumer();
    consumer.map(drop).map_err(|e| Failure::Input(format!("dimension `{}`: {e}", dimension.name)))
}

/// Compiles a catalogue for a store: as the active version, or as the next one, of which nothing is
/// written yet.
pub(super) fn version(
    store: &dyn Store,
    loaded: Loaded,
    config: &Config,
    clock: Option<Clock>,
) -> Result<Next, Failure> {
    let moment = moment(store, config, clock)?;
    crate::engine::version::next(store, loaded, moment).map_err(version_failure)
}

/// The catalogue to begin with: the one of the directory. It becomes the active version of the store, if
/// it is not; of a store that processes share the active version stays when the directory holds one
/// that was replaced: whoever starts with an old directory takes nothing back.
pub(super) fn begin(
    store: &dyn Store,
    loaded: Loaded,
    config: &Config,
    clock: Clock,
) -> Result<Active, Failure> {
    let fingerprint = loaded.catalog.fingerprint;
    let replaced = match store.is_atomic() {
        true => None,
        false => replaced_by(store, fingerprint).map_err(version_failure)?,
    };
    let Some(by) = replaced else { return activate(store, loaded, config, Some(clock)) };
    let dir = config.catalog.path.display();
    tracing::warn!(
        "the rules in {dir} were active before, and version {by} took their place: the active version \
         of the store is used. Bring {dir} up to date, or go back with `tagloom catalog activate`"
    );
    let active = load_active(store).map_err(version_failure)?;
    activate(store, active.unwrap_or(loaded), config, Some(clock))
}

/// Makes a catalogue the active version of a store, if it is not.
pub(super) fn activate(
    store: &dyn Store,
    loaded: Loaded,
    config: &Config,
    clock: Option<Clock>,
) -> Result<Active, Failure> {
    let files = Arc::new(loaded.files.clone());
    loop {
        let next = version(store, loaded.clone(), config, clock)?;
        // Another process may be giving out the same number just now: then this one is the next.
        if next.save(store).map_err(store_failure)? == Saved::Done {
            return Ok(Active { ruleset: Arc::new(next.ruleset), files });
        }
    }
}

/// When a version is made now. `clock`: where as-of comes from; none: as the store says.
pub(super) fn moment(
    store: &dyn Store,
    config: &Config,
    clock: Option<Clock>,
) -> Result<Moment, Failure> {
    let stored = crate::engine::stored_as_of(store).map_err(super::run::engine_failure)?;
    let now = match (clock, store.identity().clock) {
        (Some(Clock::Fixed(instant_ms)), _) => Some(instant_ms),
        (Some(Clock::Wall), _) | (None, ClockMode::Wall) => Some(crate::clock::wall_ms()),
        _ => None,
    };
    let retire_after_ms = i64::from(config.catalog.retire_after_days) * 86_400_000;
    Ok(Moment { as_of_ms: now.max(stored), retire_after_ms, running: false })
}

/// The error of a catalogue that cannot be active, with the right exit code.
pub(super) fn version_failure(error: VersionError) -> Failure {
    match error {
        VersionError::Store(error) => store_failure(error),
        VersionError::Ruleset(_) | VersionError::Unreadable { .. } => Failure::input(error),
        VersionError::Damaged { .. } => Failure::failed(error),
    }
}

/// Opens (or makes) the configured store for a catalogue.
pub(super) fn store(
    config: &Config,
    catalog: &Catalog,
    clock: ClockMode,
) -> Result<Arc<dyn Store>, Failure> {
    let identity = Identity { uid: catalog.uid, timezone: catalog.zone.name().to_owned(), clock };
    match config.store.kind {
        StoreKind::Memory => Ok(Arc::new(MemoryStore::new(identity, config.rejects.kept_max))),
        StoreKind::Fjall => {
            let store = FjallStore::open(&config.store.path, &identity, &fjall_options(config));
            Ok(Arc::new(store.map_err(store_failure)?))
        }
        StoreKind::Hbase => {
            let store = HbaseStore::open(&config.store.hbase, &identity);
            Ok(Arc::new(store.map_err(store_failure)?))
        }
    }
}

/// Opens the store that is there, as what it is.
pub(super) fn existing_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if config.store.kind == StoreKind::Memory {
        return Err(no_store());
    }
    existing(config).map_err(store_failure)
}

/// The same, with the store's own error. There is none in memory.
pub(super) fn existing(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match config.store.kind {
        StoreKind::Hbase => Arc::new(HbaseStore::open_existing(&config.store.hbase)?),
        StoreKind::Memory => return Err(StoreError::NotFound { path: "memory".into() }),
        StoreKind::Fjall => {
            Arc::new(FjallStore::open_existing(&config.store.path, &fjall_options(config))?)
        }
    })
}

/// There is nothing to open.
pub(super) fn no_store() -> Failure {
    Failure::Input(
        "store.kind = memory: nothing outlives the process; use `tagloom run --export FILE`"
            .to_owned(),
    )
}

pub(super) fn fjall_options(config: &Config) -> FjallOptions {
    FjallOptions {
        cache_bytes: config.store.cache_bytes_max,
        rejects_max: config.rejects.kept_max,
        ..FjallOptions::default()
    }
}

/// A store's error with the right exit code.
pub(super) fn store_failure(error: StoreError) -> Failure {
    match error.fault() {
        Fault::User => Failure::input(error),
        _ => Failure::failed(error),
    }
}

/// Reads an instant as people write it: ISO 8601 (local time of the catalogue's zone where it has no
/// offset), epoch milliseconds, or `now`.
pub(super) fn instant(text: &str, zone: &Zone) -> Result<i64, Failure> {
    if text == "now" {
        return Ok(crate::clock::wall_ms());
    }
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    iso(text, zone).map_err(|_| {
        Failure::Input(format!(
            "`{text}` is no instant; write 2026-03-31T20:00 (local time of {}), \
             2026-03-31T12:00:00Z, epoch milliseconds, or now",
            zone.name()
        ))
    })
}
