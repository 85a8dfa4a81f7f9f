//! What outlives the process: profiles, due entries, rejects, dimension tables and small settings.
//!
//! In: packed profiles and small values from the writer and the commands. Out: the same bytes.
//! A store knows keys, order and atomicity; what the bytes mean is its callers' business.
//! Invariant: no clock; calls block, and nothing counts as written before it is durable.

mod argument;
mod cells;
mod dims;
mod due;
mod error;
pub mod fjall;
pub mod hbase;
mod identity;
pub mod intercepted;
pub mod memory;
pub mod metered;
mod ownership;
pub mod patient;
mod sorted;
mod uid;
pub mod varint;

#[cfg(test)]
mod tests;

pub use cells::{ProfileCells, TagShortId};
pub use dims::{
    ChangeKind, DimColumnMeta, DimMeta, DimRow, DimState, DimUpsert, EPOCHS_KEPT, Epoch,
    META_PREFIX_DIMS, Positions,
};
pub use due::{DueCursor, DuePack};
pub use error::{Fault, StoreError};
pub use identity::{ClockMode, FORMAT_VERSION, Identity};
pub use ownership::{FILES, Ownership, Term};
pub use sorted::SortedProfiles;
pub use uid::{UID_BYTES_MAX, Uid, UidError, UidKey};

/// Shorthand for what every call of a store gives back.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An immutable value as the store keeps it: cheap to clone, dereferences to its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(::fjall::Slice);

impl Bytes {
    /// A value of `len` bytes that `fill` writes in place: it gets zeros. One allocation and no
    /// copy, where `From<Vec<u8>>` costs two allocations and a copy; up to 20 bytes none.
    ///
    /// # Panics
    /// When `len` is 4 GiB or more.
    pub fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let slice = ::fjall::Slice::from_reader(&mut Fill(Some(fill)), len);
        Self(slice.expect("`Fill` reads without errors"))
    }
}

/// fjall fills a value of known length from a reader only.
struct Fill<F>(Option<F>);

impl<F: FnOnce(&mut [u8])> std::io::Read for Fill<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // fjall hands out memory as it was allocated.
        buffer.fill(0);
        if let Some(fill) = self.0.take() {
            fill(buffer);
        }
        Ok(buffer.len())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        order(self, other)
    }
}

impl std::borrow::Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// Everything one window writes. An atomic store applies all of it or nothing; another one in an
/// order that a replay mends, see [`Store::is_atomic`].
#[derive(Debug, Default, Clone)]
pub struct WindowWrite {
    /// Packed profiles; a later entry for the same key wins.
    pub profiles: Vec<(UidKey, Bytes)>,
    /// Tag cells: empty, or one entry for each of `profiles`. A store that does not want cells
    /// ([`Store::wants_cells`]) ignores them. One that does marks a row that was written without
    /// them as left out on purpose; the next write of that row must bring all of its cells, so the
    /// profile itself has to say that they are missing: by its schema.
    pub cells: Vec<ProfileCells>,
    /// Profiles to delete (erasure). Applied after `profiles`.
    pub removed: Vec<UidKey>,
    /// Users whose tags may change with time alone, by instant.
    pub due: Vec<DuePack>,
    /// Packs that were drained. Applied before `due`.
    pub due_done: Vec<DueCursor>,
    /// Small values, such as source positions. In a shared store they carry the writer's term: of
    /// two owners the later one's stays, whoever wrote last. So a key here belongs to a partition
    /// or to an owner; what belongs to the whole group is written by [`Store::put_meta`].
    pub meta: Vec<(String, Vec<u8>)>,
    /// Rejects to append; in an atomic store each gets the next sequence number.
    pub rejects: Vec<Vec<u8>>,
    /// Empty, or one for each of `rejects`: a number that the same row gets whenever it is refused
    /// again. A store that is not atomic keeps a reject under it instead of a sequence number, so
    /// that a replay adds nothing.
    pub reject_ids: Vec<u64>,
    /// Rejects to delete by sequence number (re-driven ones).
    pub rejects_done: Vec<u64>,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Bytes on disk, journal included. 0 for the memory store.
    pub disk_bytes: u64,
    /// Bytes of the journal. 0 for the memory store.
    pub journal_bytes: u64,
    /// Bytes of values in memory or in the block cache.
    pub cached_bytes: u64,
    /// Number of profiles, old versions of a row that are not yet compacted included.
    pub profiles_approximate: u64,
    /// Rejects kept.
    pub rejects: u64,
    /// Rejects that were dropped because more than the bound came after them.
    pub rejects_dropped: u64,
}

/// Where profiles live. Calls block; all methods may be called from several threads, but
/// [`Store::write_window`] and the writing `dim_*` calls of one table have one caller at a time.
pub trait Store: Send + Sync {
    /// The identity the store was written with.
    fn identity(&self) -> &Identity;

    /// Whether a window is applied whole or not at all. Then positions in the same window say what
    /// the profiles have seen. Where it is false, a window is written in this order: due entries,
    /// profiles (a user's state and tag cells in one mutation of its row), rejects, removal of
    /// drained due entries, small values. An error in between leaves what comes later unwritten,
    /// so profiles need a fence to tell what they have applied already.
    fn is_atomic(&self) -> bool {
        true
    }

    /// Whether everything in it is gone with the process. Then it makes no difference to a crash when
    /// something is written.
    fn is_volatile(&self) -> bool {
        false
    }

    /// Whether [`WindowWrite::cells`] are written.
    fn wants_cells(&self) -> bool {
        false
    }

    /// Whether tag cells that others may read are left out on purpose: those that are there get stale.
    fn leaves_out_cells(&self) -> bool {
        // A store of one process is read by nobody else.
        !self.is_atomic() && !self.wants_cells()
    }

    /// Whether the store would try a call now, without making one: an error says since when it
    /// cannot be reached and why.
    fn health(&self) -> Result<()> {
        Ok(())
    }

    /// Takes the next term: greater than all that anybody took from this store.
    fn take_term(&self) -> Result<Term>;

    /// From now on writes carry this term, and [`Store::due_until`] answers for these partitions. A
    /// store of one process has one owner and ignores it.
    fn own(&self, ownership: Ownership) -> Result<()>;

    /// Whether whoever works with this may write a user's profile, as it is stored. Of a shared store
    /// that is the owner of its partition.
    fn owns(&self, _user: &UidKey, _profile: &[u8]) -> bool {
        true
    }

    /// The same of a user whose events come in a partition; none: they all came from files.
    fn owns_user(&self, _user: &UidKey, _partition: Option<u32>) -> bool {
        true
    }

    /// In which partition the events of a user will come who had none but those of files, as far as
    /// that is known.
    fn home(&self, _user: &UidKey) -> Option<u32> {
        None
    }

    /// Reads many profiles. The answer has the order of `keys`; an unknown user is `None`.
    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>>;

    /// Writes one window (all of it or nothing, if [`Store::is_atomic`]), durable before this
    /// returns.
    fn write_window(&self, window: WindowWrite) -> Result<()>;

    /// Up to `rows_max` profiles, beginning behind `after`: each user once, whoever owns it, in the
    /// store's order. That is the order of uids if [`Store::scans_in_uid_order`].
    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>>;

    /// Whether there is any profile, whoever owns it.
    fn has_profiles(&self) -> Result<bool> {
        Ok(!self.scan_profiles(None, 1)?.is_empty())
    }

    /// Whether scans give users in the order of their uids.
    fn scans_in_uid_order(&self) -> bool {
        true
    }

    /// The keys that [`Store::scan_profiles`] would give.
    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        Ok(self.scan_profiles(after, rows_max)?.into_iter().map(|(key, _)| key).collect())
    }

    /// Up to `packs_max` due packs with an instant of at most `instant_ms`, ascending by cursor,
    /// beginning behind `after`. Entries may be stale: compare with the profile's due instant. A
    /// shared store gives those of the partitions that [`Store::own`] named.
    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>>;

    /// Reads one small value.
    fn meta(&self, key: &str) -> Result<Option<Bytes>>;

    /// Writes one small value, durable before this returns. The last write wins.
    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()>;

    /// Writes one small value in the place of another: `expected` has to be there, or, if it is none,
    /// nothing. False: something else is there, and stays. Of several processes that try at once one
    /// succeeds. Not for keys that windows write.
    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool>;

    /// All small values whose key begins with `prefix`, by key.
    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>>;

    /// Up to `rows_max` rejects with a sequence number greater than `after`, ascending: oldest first
    /// if [`Store::is_atomic`], else in the order of [`WindowWrite::reject_ids`].
    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>>;

    /// Begins a load of a dimension table: drops what an unfinished load left and gives the number
    /// of the new epoch, which was never used before.
    fn dim_begin(&self, table: &str) -> Result<Epoch>;

    /// Adds rows to an epoch that is being loaded. Of rows with the same key the last one stays,
    /// within a call and over calls.
    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()>;

    /// Adds keys that differ from the epoch before; see [`Store::dim_changes`].
    fn dim_put_changes(
        &self,
        table: &str,
        epoch: Epoch,
        keys: Vec<(Vec<u8>, ChangeKind)>,
    ) -> Result<()>;

    /// Makes a loaded epoch the current one and drops epochs older than [`EPOCHS_KEPT`].
    fn dim_commit(&self, table: &str, meta: DimMeta) -> Result<()>;

    /// Puts rows of a committed epoch, or takes them away, durable before this returns; of a key the
    /// last one stays. A store that processes share keeps of each key what has the greatest version,
    /// whoever writes it and when; versions are below 2^60. One of a single process keeps what comes
    /// last. May be called beside a load of the same table.
    fn dim_upsert(
        &self,
        table: &str,
        epoch: Epoch,
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()>;

    /// The committed epochs of a table, oldest first; the last is the current one.
    fn dim_epochs(&self, table: &str) -> Result<Vec<DimMeta>>;

    /// Names of all tables that have a committed epoch.
    fn dim_tables(&self) -> Result<Vec<String>>;

    /// Reads rows by key, in the order of `keys`.
    fn dim_get(&self, table: &str, epoch: Epoch, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>>;

    /// Up to `rows_max` rows by key, beginning behind `after`.
    fn dim_scan(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>>;

    /// Up to `rows_max` keys of rows that differ from the epoch before, by key, beginning behind
    /// `after`. Empty when [`DimMeta::all_changed`].
    fn dim_changes(
        &self,
        table: &str,
        epoch: Epoch,
        after: Option<&[u8]>,
        rows_max: usize,
    ) -> Result<Vec<(Bytes, ChangeKind)>>;

    /// Drops an epoch: an unfinished load that failed, or a committed one.
    fn dim_drop(&self, table: &str, epoch: Epoch) -> Result<()>;

    /// Writes all of the store, as it is at one instant, into a directory that is not there yet, while
    /// the store goes on.
    fn snapshot(
        &self,
        _dir: &std::path::Path,
        _progress: fjall::Progress<'_>,
    ) -> Result<fjall::Manifest> {
        Err(StoreError::NoSnapshots)
    }

    /// How full the store is.
    fn stats(&self) -> Result<StoreStats>;

    /// The current epoch of a table.
    fn dim_current(&self, table: &str) -> Result<Option<DimMeta>> {
        Ok(self.dim_epochs(table)?.pop())
    }
}

/// Order of keys: that of their bytes. Most keys are 8 bytes, which one comparison of numbers
/// settles.
fn order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    match (a.first_chunk(), b.first_chunk()) {
        (Some(front), Some(other)) if front != other => {
            u64::from_be_bytes(*front).cmp(&u64::from_be_bytes(*other))
        }
        _ => a.cmp(b),
    }
}

/// The range that begins behind `after`.
fn behind(after: Option<&[u8]>) -> (std::ops::Bound<&[u8]>, std::ops::Bound<&[u8]>) {
    use std::ops::Bound::{Excluded, Unbounded};
    (after.map_or(Unbounded, Excluded), Unbounded)
}
