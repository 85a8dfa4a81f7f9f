//! Writes what a topic says into the stored table that it keeps.
//!
//! In: records of all partitions, each in offset order. Out: rows of the table's current epoch, keys
//! that caches forget and that users are found by, and how far the topic is written.
//!
//! Every process of a group follows the topic. A row's version is the offset up to which its key was
//! looked at (and above it, as which of the topics of this name), so whoever writes what, and however
//! late, the row of the greatest offset stays; and a process knows of each row that it tells its users
//! about, that it is in the store. Another epoch of the table gets what the topic has said since its
//! load began.
//! Invariant: nothing is written once the [`Follower`] is gone; a position is stored behind its rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::broadcast::{RecordColumn, key_of, row};
use super::cached::CachedRows;
use super::changes::AGAIN;
use super::key::KeyKind;
use super::lookup::Upserted;
use super::row::{Coding, RowWriter};
use super::spec::{TableSpec, type_name};
use super::written::{Written, incarnation, make, making_key, said, version, written, written_key};
use crate::clock::{Stopwatch, Zone};
use crate::pace::Limit;
use crate::store::{Bytes, DimColumnMeta, DimMeta, Epoch, META_PREFIX_DIMS, Positions, Store};
use crate::telemetry::{facts, names};

/// Records read, and written, at once.
const BATCH_ROWS_MAX: usize = 2_000;

/// Bytes of their keys and values.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Bytes of a key that every store takes.
const KEY_BYTES_MAX: usize = 16 << 10;

/// Bytes of a row that every store takes.
const ROW_BYTES_MAX: usize = 8 << 20;

/// How often the store is asked which epoch is current.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often positions are stored.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked how much is left.
const LAG_EVERY: Duration = Duration::from_secs(5);

/// How long making a table without rows may take.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// After a failure, and while there is no table.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A record of a topic that keeps a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What the row is looked up by, as text.
    pub key: Vec<u8>,
    /// A JSON object with the row's columns by name; none: the row is gone.
    pub value: Option<Vec<u8>>,
}

/// Reads a topic. An error says why it cannot be read; whoever gets one opens another reader.
pub trait TopicReader: Send {
    /// The id that the cluster gave the topic.
    fn topic_id(&self) -> &str;

    /// Its number of partitions.
    fn partitions(&self) -> u32;

    /// From now on records come from these offsets on; of other partitions from the first.
    fn seek(&mut self, from: &Positions) -> Result<(), String>;

    /// The next records, each partition's in offset order: at most so many, and no more than one beyond
    /// so many bytes. None within some tenths of a second: an empty answer.
    fn read(&mut self, rows_max: usize, bytes_max: usize) -> Result<Vec<TopicRecord>, String>;

    /// How many records are left behind the last that were read.
    fn lag(&mut self) -> Result<u64, String>;
}

/// A thread that follows a topic, until this is dropped.
pub(super) struct Follower {
    stopped: Arc<Mutex<bool>>,
    thread: JoinHandle<()>,
}

impl Follower {
    pub(super) fn start(mut following: Following) -> std::io::Result<Self> {
        let stopped = Arc::clone(&following.stopped);
        let thread = std::thread::Builder::new().name("upserts".to_owned());
        let thread = thread.spawn(move || following.run())?;
        Ok(Self { stopped, thread })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // What is being written is waited for; the thread may still be waiting for the cluster.
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.thread.thread().unpark();
    }
}

/// See the module.
pub(super) struct Following {
    store: Arc<dyn Store>,
    spec: TableSpec,
    kind: KeyKind,
    zone: Zone,
    upserted: Arc<Upserted>,
    cache: Arc<CachedRows>,
    limit: Arc<Limit>,
    /// Writing happens while this is held, and not when it is true.
    stopped: Arc<Mutex<bool>>,
    /// How far all users know the topic.
    known: Option<Positions>,
    reading: Option<Reading>,
    target: Option<Target>,
    /// Records before these are written to the target.
    next: Positions,
    looked: Option<Stopwatch>,
    /// Since when it is looked for the table.
    no_table: Option<Stopwatch>,
    saved: Stopwatch,
    is_unsaved: bool,
    lag_seen: Stopwatch,
}

struct Reading {
    reader: Box<dyn TopicReader>,
    incarnation: u64,
}

/// What is written to.
struct Target {
    epoch: Epoch,
    /// Records before these are in it.
    base: Positions,
    /// It has all that was told when it has records before these.
    ready_at: Positions,
    is_ready: bool,
    columns: Vec<RecordColumn>,
    codings: Vec<Coding>,
}

impl Following {
    pub(super) fn new(
        store: Arc<dyn Store>,
        (spec, kind, zone): (TableSpec, KeyKind, Zone),
        upserted: Arc<Upserted>,
        (cache, limit): (Arc<CachedRows>, Arc<Limit>),
        known: Option<Positions>,
    ) -> Self {
        Self {
            store,
            spec,
            kind,
            zone,
            upserted,
            cache,
            limit,
            stopped: Arc::default(),
            known,
            reading: None,
            target: None,
            next: Positions::default(),
            looked: None,
            no_table: None,
            saved: Stopwatch::start(),
            is_unsaved: false,
            lag_seen: Stopwatch::start(),
        }
    }

    fn run(&mut self) {
        while !*self.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
            let done = self.step();
            let (table, topic) = (&self.spec.table, &self.upserted.topic);
            match done {
                Ok(true) => {
                    if self.upserted.log.note(None) {
                        tracing::info!(table, topic, "a table follows its topic");
                    }
                }
                Ok(false) => {
                    let why = "the table is being loaded for the first time".to_owned();
                    if self.upserted.log.note(Some(why)) {
                        tracing::info!(table, topic, "a table is followed when it is loaded");
                    }
                    std::thread::park_timeout(LOOK_EVERY);
                }
                Err(_) if *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) => return,
                Err(reason) => {
                    // What was read and not written is read again.
                    (self.reading, self.looked) = (None, None);
                    if self.upserted.log.note(Some(reason.clone())) {
                        tracing::warn!(table, topic, reason, "a table does not follow its topic");
                    }
                    std::thread::park_timeout(AGAIN_AFTER);
                }
            }
        }
    }

    /// Writes what has come. False: there is no table yet.
    fn step(&mut self) -> Result<bool, String> {
        if self.reading.is_none() {
            self.open()?;
        }
        if self.looked.as_ref().is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.look()?;
            self.looked = Some(Stopwatch::start());
        }
        let Some(reading) = self.reading.as_mut().filter(|_| self.target.is_some()) else {
            return Ok(false);
        };
        let mut records = reading.reader.read(BATCH_ROWS_MAX, BATCH_BYTES_MAX)?;
        let is_idle = records.is_empty();
        // Stable: each partition's stay in their order.
        records.sort_by_key(|record| record.partition);
        for records in records.chunk_by(|a, b| a.partition == b.partition) {
            self.write(records)?;
        }
        if self.is_unsaved && (is_idle || self.saved.elapsed() >= SAVE_EVERY) {
            self.save()?;
        }
        if is_idle || self.lag_seen.elapsed() >= LAG_EVERY {
            self.look_at_lag()?;
        }
        Ok(true)
    }

    /// Runs what writes, unless the end has come.
    fn guarded<T>(&self, write: impl FnOnce(&dyn Store) -> Result<T, String>) -> Result<T, String> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match *stopped {
            true => Err("stopped".to_owned()),
            false => write(self.store.as_ref()),
        }
    }

    fn open(&mut self) -> Result<(), String> {
        let mut reader = self.upserted.feeds.reader(&self.upserted.topic)?;
        let id = format!("{}/{}", reader.topic_id(), reader.partitions());
        let incarnation = self.guarded(|store| incarnation(store, &self.spec.table, &id))?;
        if self.next.topic_id == reader.topic_id() {
            reader.seek(&self.next)?;
        } else {
            // Another topic says nothing of what this one did.
            self.next =
                Positions { topic_id: reader.topic_id().to_owned(), ..Positions::default() };
            self.target = None;
        }
        self.reading = Some(Reading { reader, incarnation });
        Ok(())
    }

    /// Turns to another epoch, if there is one.
    fn look(&mut self) -> Result<(), String> {
        let table = self.spec.table.as_str();
        match self.store.dim_current(table).map_err(said)? {
            Some(current) if self.target.as_ref().is_some_and(|t| t.epoch == current.epoch) => {
                Ok(())
            }
            Some(current) => self.turn_to(current),
            None if self.make_if_nobody_loads()? => self.look(),
            None => Ok(()),
        }
    }

    /// Makes the table, unless it is being loaded: false. Who died while it made it leaves it to the
    /// others.
    fn make_if_nobody_loads(&mut self) -> Result<bool, String> {
        let (store, table) = (self.store.as_ref(), self.spec.table.as_str());
        let is_there = |key: String| store.meta(&key).map(|value| value.is_some()).map_err(said);
        let since = self.no_table.get_or_insert_with(Stopwatch::start);
        let is_begun = is_there(format!("{META_PREFIX_DIMS}{table}"))?;
        if is_begun && (since.elapsed() < MADE_WITHIN || !is_there(making_key(table))?) {
            return Ok(false);
        }
        self.guarded(|store| make(store, &self.spec, &self.upserted.topic))?;
        Ok(true)
    }

    fn turn_to(&mut self, current: DimMeta) -> Result<(), String> {
        let (table, key) = (&self.spec.table, type_name(&self.spec.key));
        if current.key != key {
            return Err(format!(
                "table `{table}` was loaded with keys of {}, the catalogue says {key}: load it again",
                current.key
            ));
        }
        let topic_id = &self.next.topic_id;
        let nothing = || Positions { topic_id: topic_id.clone(), ..Positions::default() };
        let written = written(self.store.as_ref(), table).map_err(said)?;
        let written = written.filter(|w| w.epoch == current.epoch).map(|w| w.at);
        let base = written.or(current.topic).filter(|at| at.topic_id == *topic_id);
        let base = base.unwrap_or_else(nothing);
        let log = &self.upserted.log;
        if self.target.is_none() {
            let known = self.known.take().filter(|at| at.topic_id == *topic_id);
            log.begin(known.unwrap_or_else(|| base.clone()));
        }
        // All that was told: an epoch before this one may not have come so far.
        let mut ready_at = log.standing().at;
        ready_at.next.remove(&AGAIN);
        self.next = ready_at.least(&base).unwrap_or_else(nothing);
        let is_ready = self.next.is_behind(&ready_at);
        let kind = |column: &DimColumnMeta| {
            let asked = self.spec.columns.iter().find(|(name, _)| *name == column.name);
            asked.map(|(_, kind)| kind.clone()).filter(|kind| type_name(kind) == column.kind)
        };
        let columns = current.columns.iter().map(|column| (column.name.clone(), kind(column)));
        let columns = columns.collect();
        let codings = current.columns.iter().map(|c| Coding::of_name(&c.kind)).collect();
        log.writes_to(current.epoch);
        let epoch = current.epoch;
        self.target = Some(Target { epoch, base, ready_at, is_ready: false, columns, codings });
        self.ready(is_ready);
        match &mut self.reading {
            Some(reading) => reading.reader.seek(&self.next),
            None => Ok(()),
        }
    }

    /// Writes records of one partition.
    fn write(&mut self, records: &[TopicRecord]) -> Result<(), String> {
        let (Some(target), Some(reading), [.., last]) = (&self.target, &self.reading, records)
        else {
            return Ok(());
        };
        self.limit.wait(records.len());
        let (partition, table) = (last.partition, &self.spec.table);
        let mut rows: BTreeMap<Bytes, (u64, Option<Bytes>)> = BTreeMap::new();
        let mut writer = RowWriter::default();
        for record in records {
            match self.row(target, record, &mut writer) {
                Ok((key, row)) => {
                    rows.insert(key, (record.offset, row));
                }
                Err(reason) => {
                    names::DIMENSION_REJECTED.counter(&[table]).increment(1);
                    let (topic, offset) = (&self.upserted.topic, record.offset);
                    let key = String::from_utf8_lossy(&record.key);
                    let what = "a row is left out: correct the record";
                    tracing::warn!(topic, partition, offset, %key, reason, "{what}");
                }
            }
        }
        let base = target.base.of(partition);
        let new = rows.iter().filter(|(_, (offset, _))| *offset >= base);
        let new: Vec<_> = new.map(|(key, (_, row))| (key.clone(), row.clone())).collect();
        let count = new.len() as u64;
        // Of every key, this is its row as of the last record.
        let version = version(reading.incarnation, last.offset);
        let epoch = target.epoch;
        if count > 0 {
            let write = |s: &dyn Store| s.dim_upsert(table, epoch, version, new).map_err(said);
            self.guarded(write)?;
            names::DIMENSION_UPSERTED.counter(&[table]).increment(count);
        }
        self.cache.forget(epoch, rows.keys().map(|key| &**key));
        let keys = rows.into_iter().map(|(key, (offset, _))| (key, offset));
        self.upserted.log.put(partition, last.offset + 1, keys);
        self.next.next.insert(partition, last.offset + 1);
        self.is_unsaved = true;
        let is_ready = self.next.is_behind(&target.ready_at);
        self.ready(is_ready);
        Ok(())
    }

    fn row(
        &self,
        target: &Target,
        record: &TopicRecord,
        writer: &mut RowWriter,
    ) -> Result<(Bytes, Option<Bytes>), String> {
        let key = key_of(&self.spec, self.kind, &self.zone, &record.key)?;
        let Target { columns, codings, .. } = target;
        let value = record.value.as_deref();
        let row =
            value.map(|value| row(columns, &self.zone, codings, value, writer)).transpose()?;
        // Else no store takes it, however often it is tried.
        let bytes = row.as_ref().map_or(0, |row| row.len());
        if key.len() > KEY_BYTES_MAX || bytes > ROW_BYTES_MAX {
            return Err(format!(
                "a key of {} bytes and a row of {bytes}: at most {KEY_BYTES_MAX} and {ROW_BYTES_MAX}",
                key.len()
            ));
        }
        Ok((key, row))
    }

    fn ready(&mut self, is_ready: bool) {
        if let Some(target) = self.target.as_mut().filter(|target| is_ready && !target.is_ready) {
            target.is_ready = true;
            self.upserted.log.is_ready();
        }
    }

    /// Stores how far the topic is written, unless another process has come further.
    fn save(&mut self) -> Result<(), String> {
        let Some(target) = &self.target else { return Ok(()) };
        let (table, epoch) = (&self.spec.table, target.epoch);
        let mut at = self.next.clone();
        for (partition, offset) in &target.base.next {
            let next = at.next.entry(*partition).or_default();
            *next = (*next).max(*offset);
        }
        self.guarded(|store| {
            let there = written(store, table).map_err(said)?;
            if there.is_some_and(|there| there.epoch == epoch && there.at.is_behind(&at)) {
                return Ok(());
            }
            let value = serde_json::to_vec(&Written { epoch, at }).map_err(|e| e.to_string())?;
            store.put_meta(&written_key(table), value).map_err(said)
        })?;
        (self.saved, self.is_unsaved) = (Stopwatch::start(), false);
        Ok(())
    }

    fn look_at_lag(&mut self) -> Result<(), String> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let lag = reading.reader.lag()?;
        self.lag_seen = Stopwatch::start();
        names::DIMENSION_TOPIC_LAG.gauge(&[&self.upserted.topic]).set(facts::number(lag));
        if lag == 0 {
            // What has left the log meanwhile is not waited for.
            self.ready(true);
            self.upserted.log.is_whole();
        }
        Ok(())
    }
}
