//! Stored tables that topics keep.
//!
//! In: what the store says of a table's epochs, and how far its topic is written into them. Out: the
//! table as windows see it from now on.
//! Invariant: an epoch takes the place of another one when it has what the topic said of that one, as
//! long as the store keeps both; a change is told when all who look a row up find it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::broadcast::TopicTable;
use super::super::changes::ChangeLog;
use super::super::follow::{Follower, Following};
use super::super::options::{Feeds, Lookups};
use super::super::table::{Layout, Preloaded, scan};
use super::{Dimensions, Inner, Loaded, Table};
use crate::store::{Bytes, DimMeta, Epoch, Positions, Result, Store};

/// Rows of a table that are looked up at once, because they changed.
const CHANGED_ROWS_MAX: usize = 8192;

/// A stored table's topic.
pub(in crate::dimension) struct Upserted {
    pub(in crate::dimension) topic: String,
    pub(in crate::dimension) feeds: Feeds,
    pub(in crate::dimension) log: Arc<ChangeLog>,
    /// Rows of a preloaded table, from which its columns are made.
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    epoch: Option<Epoch>,
    by_key: BTreeMap<Bytes, Bytes>,
}

impl Upserted {
    pub(super) fn new(topic: &str, lookups: &Lookups) -> Self {
        let log = Arc::new(ChangeLog::new(lookups.cache_bytes_max));
        Self { topic: topic.to_owned(), feeds: lookups.feeds.clone(), log, rows: Mutex::default() }
    }

    /// The table as windows see it that began behind these positions.
    pub(super) fn table(&self, at: Positions, table: &str) -> TopicTable {
        let log = Arc::clone(&self.log);
        TopicTable::new(at, table, move |before| log.changed_behind(before))
    }
}

impl Rows {
    /// Brings rows up to the store: those that changed, or all of them.
    fn follow(
        &mut self,
        store: &dyn Store,
        table: &str,
        epoch: Epoch,
        changed: Option<Vec<Bytes>>,
    ) -> Result<()> {
        let Some(changed) = changed.filter(|_| self.epoch == Some(epoch)) else {
            *self = Self::default();
            scan(store, table, epoch, |page| {
                self.by_key.extend(page);
                true
            })?;
            self.epoch = Some(epoch);
            return Ok(());
        };
        for keys in changed.chunks(CHANGED_ROWS_MAX) {
            let wanted: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
            for (key, row) in keys.iter().zip(store.dim_get(table, epoch, &wanted)?) {
                match row {
                    Some(row) => self.by_key.insert(key.clone(), row),
                    None => self.by_key.remove(key),
                };
            }
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn newer_upserted(
        &self,
        table: &Table,
        upserted: &Upserted,
        known: Option<&Loaded>,
        held: bool,
    ) -> Result<Option<Loaded>> {
        let mut epochs = self.store.dim_epochs(&table.spec.table)?;
        let Some(current) = epochs.pop() else { return Ok(None) };
        // First how far it is written, then the rows.
        let standing = upserted.log.standing();
        let is_ready = standing.epoch == Some(current.epoch) && standing.is_ready;
        let told = known.and_then(|known| known.at.clone());
        let at = if is_ready && !held { Some(standing.at) } else { told.clone() };
        if let Some(known) = known {
            let is_same = known.meta.epoch == current.epoch;
            let is_kept = epochs.iter().any(|meta| meta.epoch == known.meta.epoch);
            let waits = !is_same && is_kept && standing.epoch.is_some() && !is_ready;
            if is_same && at == told || waits {
                return Ok(None);
            }
        }
        let changed = match (&told, known) {
            (Some(told), Some(known)) if known.meta.epoch == current.epoch => {
                upserted.log.since(told)
            }
            _ => None,
        };
        self.take(table, upserted, current, at, changed).map(Some)
    }

    fn take(
        &self,
        table: &Table,
        upserted: &Upserted,
        meta: DimMeta,
        at: Option<Positions>,
        changed: Option<Vec<Bytes>>,
    ) -> Result<Loaded> {
        let layout = Layout::new(&table.spec, &meta, &self.zone);
        let preloaded = match table.preload {
            false => None,
            true => {
                let mut rows = upserted.rows.lock().unwrap_or_else(PoisonError::into_inner);
                let (store, name) = (self.store.as_ref(), &table.spec.table);
                rows.follow(store, name, meta.epoch, changed)?;
                let at_hand = rows.by_key.iter().map(|(key, row)| (&**key, &**row));
                Some(Preloaded::of(at_hand, &table.spec, table.kind, &meta, &layout)?)
            }
        };
        Ok(Loaded { meta, layout, preloaded, at })
    }
}

impl Dimensions {
    /// From now on topics are written into the stored tables that they keep. `known`: how far all users
    /// know a table's topic; without an entry: nobody knows.
    pub fn follow(&self, mut known: BTreeMap<String, Positions>) -> std::io::Result<()> {
        let mut followers = Vec::new();
        for table in &self.inner.tables {
            let Some(upserted) = table.upserted.as_ref().filter(|u| u.feeds.are_read()) else {
                continue;
            };
            followers.push(Follower::start(Following::new(
                Arc::clone(&self.inner.store),
                (table.spec.clone(), table.kind, self.inner.zone.clone()),
                Arc::clone(upserted),
                (Arc::clone(&table.cache), Arc::clone(&self.inner.upserts)),
                known.remove(&table.spec.table),
            ))?);
        }
        *self.followers.lock().unwrap_or_else(PoisonError::into_inner) = followers;
        Ok(())
    }

    /// Whether what topics say is in the tables that are current: what everybody knew already, or
    /// `whole`: all that there was. A topic that cannot be read keeps nobody waiting.
    pub fn are_followed(&self, whole: bool) -> bool {
        let upserted = self.inner.tables.iter().filter_map(|table| table.upserted.as_ref());
        upserted.filter(|u| u.feeds.are_read()).all(|upserted| {
            let standing = upserted.log.standing();
            let is_done = standing.is_ready && (standing.is_whole || !whole);
            is_done || standing.failure.is_some()
        })
    }

    /// Nothing is written into tables any more.
    pub fn stop_following(&self) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The epoch of a table that windows are pinned to from now on.
    pub fn epoch_of(&self, table: &str) -> Option<Epoch> {
        let at = self.inner.tables.iter().position(|t| t.spec.table == table)?;
        self.pin().state[at].epoch.as_ref().map(|loaded| loaded.meta.epoch)
    }
}
