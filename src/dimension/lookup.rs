//! Dimension columns for a batch of users.
//!
//! In: the catalogue's dimensions and a batch's keys. Out: one Arrow array a column. [`Dimensions`]
//! follows the store's epochs; [`Dimensions::pin`] holds one epoch a table for a whole window.
//! Invariant: a pinned window sees the same rows from its first batch to its last. Where a topic keeps a
//! table that is not held in memory, a row may change meanwhile: its users are computed once more.

mod distinct;
mod upserted;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::broadcast::{Broadcast, TopicTable};
use super::cached::{Ages, CachedRows, Found, From};
use super::follow::Follower;
use super::key::{KeyColumn, KeyKind, Keys};
use super::options::Lookups;
use super::spec::{SpecError, TableSpec};
use super::table::{Layout, Preloaded, RowsBuilder};
use crate::buffer_pool::BufferPool;
use crate::catalog::model::{Catalog, Strategy};
use crate::clock::Zone;
use crate::pace::Limit;
use crate::store::{DimMeta, Epoch, Positions, Result, Store};
use arrow::array::ArrayRef;

use distinct::distinct;
pub(super) use upserted::Upserted;

/// The clock that ages are measured by, epoch milliseconds.
pub type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A key column that cannot be one: a mistake of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dimension `{dimension}` cannot be looked up by a column of {found}")]
pub struct EnrichError {
    /// The dimension.
    pub dimension: String,
    /// The column's Arrow type.
    pub found: String,
}

/// A dimension's columns for a batch.
#[derive(Debug, Clone)]
pub struct Enriched {
    /// In the order of the dimension's columns, one value a row.
    pub columns: Vec<ArrayRef>,
    /// Some value is older than its `ttl`, because the store cannot be read.
    pub stale: bool,
    /// Rows whose values are NULL because the store cannot be read: to be computed again when it
    /// can.
    pub missing: Vec<u32>,
    /// Rows that were looked up in vain and have their last values: to be computed again, too.
    pub stale_rows: Vec<u32>,
    /// Rows whose key is NULL or in no row of the table.
    pub absent_rows: usize,
    /// Why the store could not be read.
    pub failure: Option<String>,
}

/// What a refresh found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// The table.
    pub table: String,
    /// Its current epoch.
    pub epoch: Epoch,
    /// The epoch is the one it was, and its topic has changed rows of it.
    pub is_same: bool,
    /// Rows and bytes held in memory, when it is preloaded.
    pub preloaded: Option<(usize, usize)>,
}

/// The catalogue's dimensions over a store.
pub struct Dimensions {
    inner: Arc<Inner>,
    state: RwLock<Arc<Vec<TableState>>>,
    followers: Mutex<Vec<Follower>>,
}

struct Inner {
    store: Arc<dyn Store>,
    now: Now,
    zone: Zone,
    plans: Vec<Plan>,
    tables: Vec<Table>,
    direct: Limit,
    upserts: Arc<Limit>,
    /// Windows so far.
    windows: AtomicU64,
}

/// One dimension.
struct Plan {
    name: String,
    table: usize,
    /// Positions in the table's columns.
    columns: Vec<usize>,
    strategy: Strategy,
    ttl_ms: u64,
    max_stale_ms: u64,
}

struct Table {
    spec: TableSpec,
    kind: KeyKind,
    preload: bool,
    cache: Arc<CachedRows>,
    /// A topic keeps it in memory, or why that cannot be read.
    topic: Option<std::result::Result<Broadcast, String>>,
    /// A topic keeps it in the store.
    upserted: Option<Arc<Upserted>>,
}

/// What is known of a table now.
#[derive(Clone, Default)]
struct TableState {
    epoch: Option<Arc<Loaded>>,
    /// When the store last said which epoch is current.
    checked_at_ms: i64,
    /// Why it could not say since.
    failure: Option<String>,
}

struct Loaded {
    meta: DimMeta,
    layout: Layout,
    preloaded: Option<Preloaded>,
    /// How far a topic was read that keeps the table.
    at: Option<Positions>,
}

/// One epoch of each table, for one window. Cheap to clone; shards share it.
#[derive(Clone)]
pub struct Pinned {
    inner: Arc<Inner>,
    state: Arc<Vec<TableState>>,
    window: u64,
}

impl Dimensions {
    /// Prepares the catalogue's dimensions and reads what is loaded. A store that cannot be read
    /// just now is no error: its tables are missing until [`Dimensions::refresh`] succeeds.
    pub fn open(
        catalog: &Catalog,
        store: Arc<dyn Store>,
        now: Now,
        lookups: &Lookups,
    ) -> std::result::Result<Self, SpecError> {
        let names = TableSpec::tables(catalog);
        let mut tables = Vec::with_capacity(names.len());
        for name in &names {
            let spec = TableSpec::of(catalog, name)?;
            let kind = KeyKind::of(&spec.key).ok_or_else(|| SpecError::KeyType {
                dimension: name.clone(),
                kind: super::spec::type_name(&spec.key),
            })?;
            let mut dimensions = catalog.dimensions.iter().filter(|d| d.table == *name);
            let kept = dimensions.clone().find_map(|d| Some((d.topic.as_deref()?, d.strategy)));
            let of_memory = kept.filter(|(_, strategy)| *strategy == Strategy::Broadcast);
            let topic = of_memory.and_then(|(topic, _)| lookups.feeds.open(topic));
            let topic = topic.map(|feed| feed.map(Broadcast::new));
            let of_store = kept.filter(|(_, strategy)| *strategy != Strategy::Broadcast);
            let upserted = of_store.map(|(topic, _)| Arc::new(Upserted::new(topic, lookups)));
            let whole = [Strategy::Preload, Strategy::Broadcast];
            let preload = dimensions.any(|d| whole.contains(&d.strategy));
            let cache = Arc::new(CachedRows::new(lookups.cache_bytes_max, name));
            tables.push(Table { spec, kind, preload, cache, topic, upserted });
        }
        let plans = catalog.dimensions.iter().map(|dimension| {
            let table = names.iter().position(|name| *name == dimension.table);
            let table = table.expect("`names` are the tables of all dimensions");
            let asked = &tables[table].spec.columns;
            let at = |name: &str| {
                let position = asked.iter().position(|(asked, _)| asked == name);
                position.expect("the spec has the columns of all its dimensions")
            };
            Plan {
                name: dimension.name.clone(),
                table,
                columns: dimension.columns.iter().map(|column| at(&column.from)).collect(),
                strategy: dimension.strategy,
                ttl_ms: dimension.ttl_ms,
                max_stale_ms: dimension.max_stale_ms,
            }
        });
        let plans = plans.collect();
        let state = vec![TableState::default(); tables.len()];
        let direct = Limit::new(lookups.direct_rows_per_s_max);
        let upserts = Arc::new(Limit::new(lookups.upsert_rows_per_s_max));
        let (zone, windows) = (catalog.zone.clone(), AtomicU64::new(0));
        let inner = Inner { store, now, zone, plans, tables, direct, upserts, windows };
        let (state, followers) = (RwLock::new(Arc::new(state)), Mutex::default());
        let dimensions = Self { inner: Arc::new(inner), state, followers };
        dimensions.refresh();
        Ok(dimensions)
    }

    /// Asks the store for new epochs and preloads them; slow when there are, so not for a shard's
    /// thread. Gives the tables whose epoch changed. Windows that are pinned do not notice.
    pub fn refresh(&self) -> Vec<Refreshed> {
        self.refresh_but(|_| false)
    }

    /// The same, but tables that topics keep stay as they are where `held` says so. Of stored ones that
    /// is how far their topic is told; another epoch is taken, when it has what the topic said.
    pub fn refresh_but(&self, held: impl Fn(&str) -> bool) -> Vec<Refreshed> {
        let mut state: Vec<TableState> = self.pin().state.as_ref().clone();
        let mut refreshed = Vec::new();
        for (table, state) in self.inner.tables.iter().zip(&mut state) {
            let held = state.epoch.is_some() && held(&table.spec.table);
            if table.topic.is_some() && held {
                continue;
            }
            match self.inner.newer(table, state, held) {
                Ok(newer) => {
                    state.checked_at_ms = (self.inner.now)();
                    state.failure = None;
                    if let Some(loaded) = newer {
                        let size = |p: &Preloaded| (p.len, p.bytes());
                        refreshed.push(Refreshed {
                            table: table.spec.table.clone(),
                            epoch: loaded.meta.epoch,
                            is_same: state.epoch.as_ref().is_some_and(|before| {
                                table.upserted.is_some() && before.meta.epoch == loaded.meta.epoch
                            }),
                            preloaded: loaded.preloaded.as_ref().map(size),
                        });
                        state.epoch = Some(Arc::new(loaded));
                    }
                }
                Err(reason) => state.failure = Some(reason),
            }
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        refreshed
    }

    /// Holds the present epochs for one window.
    pub fn pin(&self) -> Pinned {
        let state = Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner));
        let window = self.inner.windows.fetch_add(1, Ordering::Relaxed);
        Pinned { inner: Arc::clone(&self.inner), state, window }
    }

    /// Tables that topics keep, as windows see them that are pinned now.
    pub fn of_topics(&self) -> Vec<TopicTable> {
        let pinned = self.pin();
        let tables = self.inner.tables.iter().zip(pinned.state.iter());
        let of_topic = |(table, state): (&Table, &TableState)| {
            let at = state.epoch.as_ref()?.at.clone()?;
            if let Some(upserted) = &table.upserted {
                return Some(upserted.table(at, &table.spec.table));
            }
            let Some(Ok(topic)) = &table.topic else { return None };
            Some(topic.table(at, &table.spec, table.kind, &self.inner.zone))
        };
        tables.filter_map(of_topic).collect()
    }

    /// Tables of the catalogue that were never loaded: their columns are NULL.
    pub fn missing_tables(&self) -> Vec<String> {
        let pinned = self.pin();
        let tables = self.inner.tables.iter().zip(pinned.state.iter());
        let missing = tables.filter(|(_, state)| state.epoch.is_none());
        missing.map(|(table, _)| table.spec.table.clone()).collect()
    }

    /// Why the store could not say which epochs are current, when it was asked last.
    pub fn failure(&self) -> Option<String> {
        self.pin().state.iter().find_map(|state| state.failure.clone())
    }

    /// Columns that the loaded epochs lack, each with what to do: they are NULL.
    pub fn missing_columns(&self) -> Vec<String> {
        let pinned = self.pin();
        let loaded = pinned.state.iter().filter_map(|state| state.epoch.as_ref());
        loaded.flat_map(|loaded| loaded.layout.missing.clone()).collect()
    }
}

impl Inner {
    /// What is newer than the known epoch; the error says why nobody knows.
    fn newer(
        &self,
        table: &Table,
        state: &TableState,
        held: bool,
    ) -> std::result::Result<Option<Loaded>, String> {
        let known = state.epoch.as_ref().map(|loaded| loaded.meta.epoch);
        if let Some(upserted) = &table.upserted {
            let newer = self.newer_upserted(table, upserted, state.epoch.as_deref(), held);
            return newer.map_err(|e| e.to_string());
        }
        match &table.topic {
            None => self.newer_stored(table, known).map_err(|e| e.to_string()),
            Some(Ok(topic)) => self.newer_of_topic(table, topic, known),
            Some(Err(reason)) => Err(reason.clone()),
        }
    }

    fn newer_stored(&self, table: &Table, known: Option<Epoch>) -> Result<Option<Loaded>> {
        let Some(meta) = self.store.dim_current(&table.spec.table)? else { return Ok(None) };
        if known == Some(meta.epoch) {
            return Ok(None);
        }
        let layout = Layout::new(&table.spec, &meta, &self.zone);
        let preloaded = if table.preload {
            let store = self.store.as_ref();
            Some(Preloaded::read(store, &table.spec, table.kind, &meta, &layout)?)
        } else {
            None
        };
        Ok(Some(Loaded { meta, layout, preloaded, at: None }))
    }

    /// What is known of a topic serves, also while it cannot be read.
    fn newer_of_topic(
        &self,
        table: &Table,
        topic: &Broadcast,
        known: Option<Epoch>,
    ) -> std::result::Result<Option<Loaded>, String> {
        let Some(changes) = topic.feed.changes(known) else {
            return topic.feed.failure().map_or(Ok(None), Err);
        };
        let at = Some(changes.at.clone());
        topic.take(&table.spec, table.kind, &self.zone, changes, |meta, rows| {
            let layout = Layout::new(&table.spec, meta, &self.zone);
            let rows = rows.iter().map(|(key, row)| (&**key, &**row));
            let preloaded = Preloaded::of(rows, &table.spec, table.kind, meta, &layout);
            let preloaded = preloaded.map_err(|e| e.to_string())?;
            Ok(Some(Loaded { meta: meta.clone(), layout, preloaded: Some(preloaded), at }))
        })
    }
}

impl Pinned {
    /// The epoch that a dimension's values come from.
    pub fn epoch(&self, dimension: usize) -> Option<Epoch> {
        let table = self.inner.plans.get(dimension)?.table;
        self.state[table].epoch.as_ref().map(|loaded| loaded.meta.epoch)
    }

    /// Looks a batch up in a dimension of the catalogue. `key` has one key a row.
    pub fn enrich(
        &self,
        dimension: usize,
        key: KeyColumn<'_>,
    ) -> std::result::Result<Enriched, EnrichError> {
        self.enrich_with(dimension, key, &mut BufferPool::default())
    }

    /// The same, with memory for the columns.
    pub fn enrich_with(
        &self,
        dimension: usize,
        key: KeyColumn<'_>,
        pool: &mut BufferPool,
    ) -> std::result::Result<Enriched, EnrichError> {
        let plan = &self.inner.plans[dimension];
        let (table, state) = (&self.inner.tables[plan.table], &self.state[plan.table]);
        let len = key.len();
        let Some(keys) = key.keys(table.kind) else {
            let found = key.data_type().to_string();
            return Err(EnrichError { dimension: plan.name.clone(), found });
        };
        let Some(loaded) = &state.epoch else {
            // Never loaded is no failure; a store that never answered is one.
            let missing = if state.failure.is_some() { all_rows(len) } else { Vec::new() };
            return Ok(nothing(&table.spec, plan, &self.inner.zone, len, missing, state));
        };
        match (&loaded.preloaded, plan.strategy) {
            (Some(preloaded), Strategy::Preload | Strategy::Broadcast) => {
                let age_ms = (self.inner.now)().saturating_sub(state.checked_at_ms);
                let stale = state.failure.is_some();
                if stale && u64::try_from(age_ms).is_ok_and(|age| age > plan.max_stale_ms) {
                    let missing = all_rows(len);
                    return Ok(nothing(&table.spec, plan, &self.inner.zone, len, missing, state));
                }
                let at = preloaded.rows.at(preloaded.index.rows(&keys, len));
                let gather = |column: &usize| preloaded.rows.gather(*column, &at, pool);
                Ok(Enriched {
                    columns: plan.columns.iter().map(gather).collect(),
                    stale,
                    missing: Vec::new(),
                    stale_rows: Vec::new(),
                    absent_rows: at.zeros,
                    failure: state.failure.clone(),
                })
            }
            _ => Ok(self.cached(plan, loaded, &keys, len, pool)),
        }
    }

    fn cached(
        &self,
        plan: &Plan,
        loaded: &Loaded,
        keys: &Keys<'_>,
        len: usize,
        pool: &mut BufferPool,
    ) -> Enriched {
        let (table, state) = (&self.inner.tables[plan.table], &self.state[plan.table]);
        let (distinct, places) = distinct(keys, table.kind, len);
        let is_direct = plan.strategy == Strategy::Direct;
        let ages = Ages {
            now_ms: (self.inner.now)(),
            ttl_ms: (!is_direct).then_some(plan.ttl_ms),
            max_stale_ms: plan.max_stale_ms,
            window: self.window,
        };
        let (store, name) = (self.inner.store.as_ref(), &table.spec.table);
        let limit = is_direct.then_some(&self.inner.direct);
        let from = From { store, table: name, epoch: loaded.meta.epoch, ages, limit };
        let mut fetched = table.cache.fetch(&from, distinct);
        let mut rows = RowsBuilder::new(&loaded.layout, fetched.found.len());
        // Place 0 is the NULL key.
        let mut row_of_place = vec![0u32];
        let (mut unknown, mut stale) = (vec![false], vec![false]);
        for found in &fetched.found {
            let row = match found {
                Found::Row(stored) | Found::Stale(Some(stored)) => rows.push(stored),
                Found::Absent | Found::Unknown | Found::Stale(None) => Some(0),
            };
            let Some(row) = row else {
                let damaged = format!("dimension table `{name}` is damaged: load it again");
                let mut nothing =
                    nothing(&table.spec, plan, &self.inner.zone, len, all_rows(len), state);
                nothing.failure = Some(damaged);
                return nothing;
            };
            row_of_place.push(row);
            unknown.push(*found == Found::Unknown);
            stale.push(matches!(found, Found::Stale(_)));
        }
        let rows = rows.finish();
        let at = places.iter().map(|place| row_of_place[*place as usize]);
        let at = rows.at(at.collect());
        let rows_where = |of_place: &[bool]| -> Vec<u32> {
            let rows = (0u32..).zip(&places);
            rows.filter_map(|(row, place)| of_place[*place as usize].then_some(row)).collect()
        };
        let (missing, stale_rows) = (rows_where(&unknown), rows_where(&stale));
        Enriched {
            columns: plan.columns.iter().map(|c| rows.gather(*c, &at, pool)).collect(),
            stale: !stale_rows.is_empty(),
            absent_rows: at.zeros - missing.len(),
            missing,
            stale_rows,
            failure: fetched.failure.take(),
        }
    }
}

/// All columns NULL.
fn nothing(
    spec: &TableSpec,
    plan: &Plan,
    zone: &Zone,
    len: usize,
    missing: Vec<u32>,
    state: &TableState,
) -> Enriched {
    let null = |at: &usize| {
        arrow::array::new_null_array(&super::column::array_type(&spec.columns[*at].1, zone), len)
    };
    Enriched {
        columns: plan.columns.iter().map(null).collect(),
        stale: false,
        absent_rows: len - missing.len(),
        missing,
        stale_rows: Vec::new(),
        failure: state.failure.clone(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a batch has some thousand rows")]
fn all_rows(len: usize) -> Vec<u32> {
    (0..len as u32).collect()
}
