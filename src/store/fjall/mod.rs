//! The embedded store: one fjall database in `<path>/fjall`, opened by one process.
//!
//! In and out: as [`Store`] says. Profiles, due packs, rejects and small values are keyspaces of
//! one database, so that a window is one batch of one journal. Each epoch of a dimension table is
//! a keyspace of its own: written as sorted tables past the journal, dropped by removing its files.
//! Invariant: a batch is on disk (`SyncData`) before a write returns.

mod dims;
mod rejects;
mod snapshot;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{
    CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
};

use super::argument::{OWN_PREFIX, check_meta_key};
use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, FORMAT_VERSION,
    Identity, Ownership, Result, Store, StoreError, StoreStats, Term, UidKey, WindowWrite, behind,
    due,
};
use rejects::Rejects;
pub use snapshot::{Manifest, Progress, SnapshotFile};

const HEADER_KEY: &str = "\0header";
const TERM_KEY: &str = "\0term";

/// Bounds of an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FjallOptions {
    /// Bytes of blocks kept in memory for reading.
    pub cache_bytes: u64,
    /// Bytes of a memtable before it is written as a sorted table. Up to four wait while older
    /// ones are written.
    pub memtable_bytes: u64,
    /// Bytes of journals before the oldest data is forced into tables.
    pub journal_bytes_max: u64,
    /// Threads that write tables and merge them.
    pub worker_threads: usize,
    /// Rejects kept; older ones are dropped and counted.
    pub rejects_max: usize,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            // A window of 200,000 profiles of 800 B (173 MB) is not written a second time while the run
            // goes on. Measured with 256 MiB: 0.31 s of CPU, where 64 MiB take 0.56 s.
            memtable_bytes: 192 << 20,
            journal_bytes_max: 512 << 20,
            worker_threads: 2,
            rejects_max: 100_000,
        }
    }
}

/// See the module.
pub struct FjallStore {
    path: PathBuf,
    identity: Identity,
    db: Database,
    profile: Keyspace,
    due: Keyspace,
    meta: Keyspace,
    reject: Keyspace,
    rejects: Mutex<Rejects>,
    rejects_max: usize,
    last_term: Mutex<u64>,
    /// One snapshot at a time.
    snapshots: Mutex<()>,
    /// One at a time compares a small value and replaces it.
    replacing: Mutex<()>,
}

impl FjallStore {
    /// Opens the store at `path`, making it when there is none. A store that was written with
    /// another identity is an error that says what to do.
    pub fn open(path: &Path, identity: &Identity, options: &FjallOptions) -> Result<Self> {
        let data = path.join("fjall");
        if !data.try_exists().map_err(|e| StoreError::io(path, e))? {
            Self::make(path, &data, identity, options)?;
        }
        Self::open_data(path, &data, Some(identity), options)
    }

    /// Makes an empty store beside its place and moves it there whole: one of which half was made
    /// when the process was killed cannot be opened.
    fn make(path: &Path, data: &Path, identity: &Identity, options: &FjallOptions) -> Result<()> {
        let io = |e| StoreError::io(path, e);
        let making = path.join("fjall.new");
        if making.try_exists().map_err(io)? {
            std::fs::remove_dir_all(&making).map_err(io)?;
        }
        std::fs::create_dir_all(&making).map_err(io)?;
        drop(Self::open_data(path, &making, Some(identity), options)?);
        std::fs::rename(&making, data).map_err(io)?;
        let dir = std::fs::File::open(path).map_err(io)?;
        dir.sync_all().map_err(io)
    }

    /// Opens a store that must exist, with the identity it was written with.
    pub fn open_existing(path: &Path, options: &FjallOptions) -> Result<Self> {
        let data = path.join("fjall");
        match data.join("version").try_exists() {
            Ok(true) => Self::open_data(path, &data, None, options),
            Ok(false) => Err(StoreError::NotFound { path: path.to_owned() }),
            Err(e) => Err(StoreError::io(path, e)),
        }
    }

    fn open_data(
        path: &Path,
        data: &Path,
        given: Option<&Identity>,
        options: &FjallOptions,
    ) -> Result<Self> {
        let error = |e| store_error(path, e);
        let db = Database::builder(data)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max.max(64 << 20))
            .worker_threads(options.worker_threads.max(1))
            // Every write here says itself when it must be on disk.
            .manual_journal_persist(true)
            .open()
            .map_err(error)?;
        let meta = db.keyspace("meta", small_values).map_err(error)?;
        let header = meta.get(HEADER_KEY).map_err(error)?;
        let identity = match (header, given) {
            (Some(header), _) => Identity::from_header(path, &header)?,
            (None, Some(given)) => {
                let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&meta, HEADER_KEY, given.to_header());
                batch.commit().map_err(error)?;
                given.clone()
            }
            (None, None) => return Err(StoreError::NotFound { path: path.to_owned() }),
        };
        if let Some(given) = given {
            identity.check(path, given)?;
        }
        let rows = || profile_rows(options);
        let reject = db.keyspace("reject", small_values).map_err(error)?;
        let rejects = Rejects::recover(&meta, &reject).map_err(error)?;
        let last_term = stored_term(path, meta.get(TERM_KEY).map_err(error)?)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            profile: db.keyspace("profile", rows).map_err(error)?,
            due: db.keyspace("due", small_values).map_err(error)?,
            meta,
            reject,
            rejects: Mutex::new(rejects),
            rejects_max: options.rejects_max,
            last_term: Mutex::new(last_term),
            snapshots: Mutex::default(),
            replacing: Mutex::default(),
            db,
        })
    }

    /// Makes the store at `path`, where there is none, of a snapshot. `given`: what it is going to be
    /// opened with; a snapshot of another identity is refused.
    pub fn restore(
        path: &Path,
        from: &Path,
        given: Option<&Identity>,
        options: &FjallOptions,
        progress: Progress<'_>,
    ) -> Result<Manifest> {
        snapshot::restore(path, from, given, options, progress)
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, error: fjall::Error) -> StoreError {
        store_error(&self.path, error)
    }

    fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity)
            .durability(Some(PersistMode::SyncData))
    }

    /// Collects up to `rows_max` of what an iterator gives.
    fn collect<T>(
        &self,
        rows: impl Iterator<Item = Guard>,
        rows_max: usize,
        mut each: impl FnMut(fjall::Slice, fjall::Slice) -> Result<T>,
    ) -> Result<Vec<T>> {
        rows.take(rows_max)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(|e| self.error(e))?;
                each(key, value)
            })
            .collect()
    }
}

/// Profiles: rows of some hundred bytes, read by key, rewritten often.
fn profile_rows(options: &FjallOptions) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(options.memtable_bytes)
        .data_block_size_policy(BlockSizePolicy::all(8 << 10))
        .manual_journal_persist(true)
}

/// Everything of which there is little.
fn small_values() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(8 << 20)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .manual_journal_persist(true)
}

fn stored_term(path: &Path, value: Option<fjall::Slice>) -> Result<u64> {
    let Some(value) = value else { return Ok(0) };
    let number = value.as_ref().try_into().map(u64::from_be_bytes);
    number.map_err(|_| StoreError::Corrupt {
        what: format!("the counter of terms of the store {}", path.display()),
        remedy: "restore it from a snapshot".to_owned(),
    })
}

fn store_error(path: &Path, error: fjall::Error) -> StoreError {
    let corrupt = |what: String| StoreError::Corrupt {
        what: format!("the store {} ({what})", path.display()),
        remedy: "restore it from a snapshot, or set store.path to a new directory and run again \
                 over the sources"
            .to_owned(),
    };
    match error {
        fjall::Error::Locked => StoreError::Locked { path: path.to_owned() },
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            StoreError::io(path, source)
        }
        fjall::Error::Poisoned => StoreError::Stopped { path: path.to_owned() },
        fjall::Error::InvalidVersion(version) => StoreError::NewerFormat {
            path: path.to_owned(),
            stored: version.map_or("unknown".to_owned(), |v| format!("fjall {v}")),
            known: FORMAT_VERSION,
        },
        other => corrupt(other.to_string()),
    }
}

impl Store for FjallStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn take_term(&self) -> Result<Term> {
        let mut last = self.last_term.lock().unwrap_or_else(PoisonError::into_inner);
        let term = Term::new(*last + 1)?;
        let mut batch = self.batch(1);
        batch.insert(&self.meta, TERM_KEY, term.number().to_be_bytes());
        batch.commit().map_err(|e| self.error(e))?;
        *last = term.number();
        Ok(term)
    }

    fn own(&self, _: Ownership) -> Result<()> {
        Ok(())
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        keys.iter()
            .map(|key| match self.profile.get(key.as_bytes()) {
                Ok(value) => Ok(value.map(Bytes)),
                Err(error) => Err(self.error(error)),
            })
            .collect()
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        let WindowWrite {
            mut profiles, removed, due, due_done, meta, rejects, rejects_done, ..
        } = window;
        // Neighbours are inserted into the memtable where its nodes are in the CPU's caches. Stable:
        // the last one of a key wins.
        profiles.sort_by(|a, b| a.0.cmp(&b.0));
        let small = due.len() + due_done.len() + meta.len() + 2 * rejects.len() + 2;
        let mut batch = self.batch(profiles.len() + removed.len() + rejects_done.len() + small);
        // A batch is one sequence number: fjall keeps the last write of a key, as we promise.
        for (key, value) in profiles {
            batch.insert(&self.profile, key.0, value.0);
        }
        for key in removed {
            batch.remove(&self.profile, key.0);
        }
        for cursor in due_done {
            batch.remove(&self.due, cursor.to_key());
        }
        for mut pack in due {
            batch.insert(&self.due, pack.cursor.to_key(), pack.encode());
        }
        for (key, value) in meta {
            check_meta_key(&key)?;
            batch.insert(&self.meta, key.as_str(), value);
        }
        let mut state = self.rejects.lock().unwrap_or_else(PoisonError::into_inner);
        let after = state.plan(&mut batch, self, rejects, rejects_done)?;
        batch.commit().map_err(|e| self.error(e))?;
        *state = after;
        Ok(())
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        let rows = self.profile.range::<&[u8], _>(behind(after.map(UidKey::as_bytes)));
        self.collect(rows, rows_max, |key, value| Ok((UidKey(key), Bytes(value))))
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        let after = after.map(DueCursor::to_key);
        let end = due::end_of_instant(instant_ms);
        let from = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_slice()));
        let to = end.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_slice()));
        if after.as_ref().zip(end).is_some_and(|(after, end)| after.as_slice() >= end.as_slice()) {
            return Ok(Vec::new());
        }
        let packs = self.due.range::<&[u8], _>((from, to));
        self.collect(packs, packs_max, |key, value| DuePack::decode(&key, &value))
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        check_meta_key(key)?;
        Ok(self.meta.get(key).map_err(|e| self.error(e))?.map(Bytes))
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        check_meta_key(key)?;
        let mut batch = self.batch(1);
        batch.insert(&self.meta, key, value);
        batch.commit().map_err(|e| self.error(e))
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.meta(key)?.as_deref() != expected {
            return Ok(false);
        }
        self.put_meta(key, value).map(|()| true)
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let rows = self.collect(self.meta.prefix(prefix), usize::MAX, |key, value| {
            Ok((String::from_utf8_lossy(&key).into_owned(), Bytes(value)))
        })?;
        Ok(rows.into_iter().filter(|(key, _)| !key.starts_with(OWN_PREFIX)).collect())
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        rejects::scan(self, after, rows_max)
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        dims::begin(self, table)
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        dims::put(self, table, epoch, rows)
    }

    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()> {
        dims::put_changes(self, table, epoch, keys)
    }

    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()> {
        dims::commit(self, table, meta)
    }

    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        _version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        dims::upsert(self, table, epoch, rows)
    }

    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>> {
        Ok(dims::state(self, table)?.epochs)
    }

    fn dim_tables(&self) -> Result<Vec<String>> {
        super::dims::tables(self)
    }

    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        dims::get(self, table, epoch, keys)
    }

    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let rows = dims::rows(self, table, epoch)?;
        self.collect(rows.range::<&[u8], _>(behind(after)), rows_max, |key, row| {
            Ok((Bytes(key), Bytes(row)))
        })
    }

    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>> {
        dims::changes(self, table, epoch, after, rows_max)
    }

    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()> {
        dims::drop_epoch(self, table, epoch)
    }

    fn snapshot(&self, dir: &Path, progress: Progress<'_>) -> Result<Manifest> {
        let _one = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot::take(self, dir, progress)
    }

    fn stats(&self) -> Result<StoreStats> {
        let rejects = self.rejects.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(StoreStats {
            disk_bytes: self.db.disk_space().map_err(|e| self.error(e))?,
            journal_bytes: self.db.journal_disk_space().map_err(|e| self.error(e))?,
            cached_bytes: self.db.cache_size(),
            profiles_approximate: self.profile.approximate_len() as u64,
            rejects: rejects.kept(),
            rejects_dropped: rejects.dropped(),
        })
    }
}
