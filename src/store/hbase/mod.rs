//! HBase through its Thrift gateway: a store that many processes share.
//!
//! In and out: as [`Store`] says. Tables `<prefix>profile` (families `s`: state, and `t`: a cell a
//! tag), `<prefix>due`, `<prefix>reject`, `<prefix>meta`, `<prefix>dim_<table>`; cells carry the
//! writer's term in their timestamp, so that what an old owner still sends loses.
//! Invariant: a row is written in one mutation; windows are not atomic, in the order that
//! [`Store::is_atomic`] names.

mod breaker;
mod dims;
mod failure;
mod gateway;
mod keys;
mod options;
mod pace;
mod pool;
mod schema;
mod stamp;
mod state;
mod transport;
mod verify;
mod window;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use super::argument::{OWN_PREFIX, check_meta_key};
use super::{
    Bytes, ChangeKind, DimMeta, DimRow, DimUpsert, DueCursor, DuePack, Epoch, Identity, Ownership,
    Result, Store, StoreError, StoreStats, Term, UidKey, WindowWrite, due,
};
use gateway::{Gateway, Range, put};
pub use options::HbaseOptions;
pub use schema::{TableReport, init, statements};
use stamp::Stamps;
use state::State;
pub use verify::{CheckedRow, TagCell};

const HEADER_ROW: &[u8] = b"\0header";
const TERM_ROW: &[u8] = b"\0term";
const META_CELL: &str = "m:v";
const TERM_CELL: &str = "m:n";
const DUE_CELL: &str = "d:v";
const REJECT_CELL: &str = "r:v";
const STATE_CELL: &str = "s:p";

/// See the module.
pub struct HbaseStore {
    gateway: Gateway,
    identity: Identity,
    tables: Tables,
    stamps: Stamps,
}

/// Names of tables.
#[derive(Debug, Clone)]
struct Tables {
    profile: String,
    due: String,
    reject: String,
    meta: String,
}

impl Tables {
    fn new(prefix: &str) -> Self {
        let name = |table: &str| format!("{prefix}{table}");
        Self {
            profile: name("profile"),
            due: name("due"),
            reject: name("reject"),
            meta: name("meta"),
        }
    }

    fn all(&self) -> [&str; 4] {
        [&self.profile, &self.due, &self.reject, &self.meta]
    }
}

/// How messages name a store.
fn place(options: &HbaseOptions) -> PathBuf {
    format!("{}* (HBase at {})", options.prefix, options.gateways).into()
}

impl HbaseStore {
    /// Opens the store whose tables `tagloom store init` made. The first opening records the
    /// identity; with another one it is an error that says what to do.
    pub fn open(options: &HbaseOptions, identity: &Identity) -> Result<Self> {
        let (gateway, tables) = Self::connect(options)?;
        gateway.replace(&tables.meta, HEADER_ROW, META_CELL, None, identity.to_header())?;
        Self::with_header(options, gateway, tables, Some(identity))
    }

    /// Opens a store that was opened before, with the identity it has.
    pub fn open_existing(options: &HbaseOptions) -> Result<Self> {
        let (gateway, tables) = Self::connect(options)?;
        Self::with_header(options, gateway, tables, None)
    }

    fn connect(options: &HbaseOptions) -> Result<(Gateway, Tables)> {
        let gateway = Gateway::new(options)?;
        let tables = Tables::new(&options.prefix);
        let there = gateway.tables()?;
        match tables.all().iter().find(|table| !there.iter().any(|name| name == *table)) {
            None => Ok((gateway, tables)),
            Some(table) => Err(StoreError::NoTable {
                reason: format!("HBase has no table `{table}`"),
                remedy: "run `tagloom store init`, or set store.hbase.prefix".to_owned(),
            }),
        }
    }

    fn with_header(
        options: &HbaseOptions,
        gateway: Gateway,
        tables: Tables,
        given: Option<&Identity>,
    ) -> Result<Self> {
        let path = place(options);
        let header = gateway.get(&tables.meta, &[HEADER_ROW.to_vec()], META_CELL)?;
        let Some(header) = header.into_iter().next().flatten() else {
            return Err(StoreError::NotFound { path });
        };
        let identity = Identity::from_header(&path, &header.value)?;
        if let Some(given) = given {
            identity.check(&path, given)?;
        }
        Ok(Self { gateway, identity, tables, stamps: Stamps::default() })
    }

    fn row(&self, key: &UidKey) -> Vec<u8> {
        keys::profile_row(self.identity.uid, key)
    }

    fn uid(&self, row: &[u8]) -> Result<UidKey> {
        keys::uid_of(self.identity.uid, row).ok_or_else(|| StoreError::Corrupt {
            what: format!(
                "the row `{}` of {} (no uid)",
                String::from_utf8_lossy(row),
                self.tables.profile
            ),
            remedy: "delete it in the HBase shell: tagloom did not write it".to_owned(),
        })
    }

    /// Profiles behind a user, with these columns.
    fn profiles_behind(&self, after: Option<&UidKey>, columns: &[&str], keys_only: bool) -> Range {
        let start = after.map(|key| keys::next(&self.row(key))).unwrap_or_default();
        let columns = columns.iter().map(|column| column.as_bytes().to_vec()).collect();
        Range { start, stop: None, columns, keys_only }
    }

    /// The timestamp of what is written now: this process's term, or one taken now.
    fn stamp(&self) -> Result<i64> {
        self.stamps.next(|| self.take_term())
    }

    /// Writes a small value so that it wins over what is there.
    fn put_small(&self, key: &str, value: Vec<u8>) -> Result<()> {
        let row = key.as_bytes().to_vec();
        let there = self.gateway.get(&self.tables.meta, std::slice::from_ref(&row), META_CELL)?;
        let there = there.into_iter().next().flatten().map_or(0, |cell| cell.stamp);
        let stamp = self.stamps.without_term().max(there + 1);
        let cell = (META_CELL.as_bytes().to_vec(), value);
        let rows = std::iter::once(put(row, [cell]));
        window::none_refused(
            "a small value",
            self.gateway.write(&self.tables.meta, rows, Some(stamp))?,
        )
    }
}

/// The value of a scanned row's only column.
fn only_value(cells: gateway::Cells) -> Vec<u8> {
    cells.into_values().next().and_then(|cell| cell.value).unwrap_or_default()
}

impl Store for HbaseStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_atomic(&self) -> bool {
        false
    }

    fn wants_cells(&self) -> bool {
        self.gateway.options.tag_cells
    }

    fn health(&self) -> Result<()> {
        match self.gateway.outage() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Unavailable { reason: format!("HBase: {reason}") }),
        }
    }

    fn take_term(&self) -> Result<Term> {
        let number = self.gateway.increment(&self.tables.meta, TERM_ROW, TERM_CELL)?;
        Term::new(number.unsigned_abs())
    }

    fn own(&self, ownership: Ownership) -> Result<()> {
        self.stamps.own(ownership);
        Ok(())
    }

    fn profiles(&self, keys: &[UidKey]) -> Result<Vec<Option<Bytes>>> {
        let rows: Vec<Vec<u8>> = keys.iter().map(|key| self.row(key)).collect();
        let cells = self.gateway.get(&self.tables.profile, &rows, STATE_CELL)?;
        let profile = |cell: gateway::Cell| Ok(State::decode(&cell.value)?.profile.into());
        cells.into_iter().map(|cell| cell.map(profile).transpose()).collect()
    }

    fn write_window(&self, window: WindowWrite) -> Result<()> {
        window::write(self, window)
    }

    fn scan_profiles(
        &self,
        after: Option<&UidKey>,
        rows_max: usize,
    ) -> Result<Vec<(UidKey, Bytes)>> {
        let range = self.profiles_behind(after, &[STATE_CELL], false);
        let rows = self.gateway.scan(&self.tables.profile, &range, rows_max)?;
        let profile = |cells| Ok(State::decode(&only_value(cells))?.profile.into());
        rows.into_iter().map(|(row, cells)| Ok((self.uid(&row)?, profile(cells)?))).collect()
    }

    fn scans_in_uid_order(&self) -> bool {
        false
    }

    fn scan_uids(&self, after: Option<&UidKey>, rows_max: usize) -> Result<Vec<UidKey>> {
        let range = self.profiles_behind(after, &[STATE_CELL], true);
        let rows = self.gateway.scan(&self.tables.profile, &range, rows_max)?;
        rows.into_iter().map(|(row, _)| self.uid(&row)).collect()
    }

    fn due_until(
        &self,
        instant_ms: i64,
        after: Option<DueCursor>,
        packs_max: usize,
    ) -> Result<Vec<DuePack>> {
        let end = due::end_of_instant(instant_ms);
        let range = |partition: u32| {
            let prefix = partition.to_be_bytes();
            let start = match after {
                None => prefix.to_vec(),
                Some(after) => {
                    let row = keys::due_row(DueCursor { partition, ..after });
                    if partition <= after.partition { keys::next(&row) } else { row }
                }
            };
            let stop = match end {
                Some(end) => Some([&prefix[..], &end].concat()),
                None => keys::behind_prefix(&prefix),
            };
            let columns = vec![DUE_CELL.as_bytes().to_vec()];
            Range { start, stop, columns, keys_only: false }
        };
        let ranges: Vec<Range> = self
            .stamps
            .partitions()
            .into_iter()
            .map(range)
            .filter(|r| r.stop.as_ref().is_none_or(|stop| r.start < *stop))
            .collect();
        let heads = self.gateway.scan_heads(&self.tables.due, &ranges, packs_max)?;
        let mut packs = Vec::new();
        for (row, cells) in heads.into_iter().flatten() {
            let key = keys::due_key(&row).unwrap_or_default();
            packs.push(DuePack::decode(&key, &only_value(cells))?);
        }
        packs.sort_by_key(|pack| pack.cursor);
        packs.truncate(packs_max);
        Ok(packs)
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>> {
        check_meta_key(key)?;
        let rows = [key.as_bytes().to_vec()];
        let cells = self.gateway.get(&self.tables.meta, &rows, META_CELL)?;
        Ok(cells.into_iter().next().flatten().map(|cell| cell.value.into()))
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<()> {
        check_meta_key(key)?;
        window::check_bytes("the small value", value.len())?;
        self.put_small(key, value)
    }

    fn replace_meta(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<bool> {
        check_meta_key(key)?;
        window::check_bytes("the small value", value.len())?;
        let (table, row) = (&self.tables.meta, key.as_bytes());
        if self.gateway.replace(table, row, META_CELL, expected, value.clone())? {
            return Ok(true);
        }
        // A call that was tried again may find what its first try wrote.
        Ok(self.meta(key)?.as_deref() == Some(value.as_slice()))
    }

    fn scan_meta(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let range = Range {
            start: prefix.as_bytes().to_vec(),
            stop: keys::behind_prefix(prefix.as_bytes()),
            columns: vec![META_CELL.as_bytes().to_vec()],
            keys_only: false,
        };
        let rows = self.gateway.scan(&self.tables.meta, &range, usize::MAX)?;
        let own = |key: &String| key.starts_with(OWN_PREFIX);
        let text = |row: Vec<u8>| String::from_utf8_lossy(&row).into_owned();
        let rows = rows.into_iter().map(|(row, cells)| (text(row), only_value(cells).into()));
        Ok(rows.filter(|(key, _)| !own(key)).collect())
    }

    fn scan_rejects(&self, after: Option<u64>, rows_max: usize) -> Result<Vec<(u64, Bytes)>> {
        let start = after.map(|id| keys::next(&window::reject_row(id))).unwrap_or_default();
        let columns = vec![REJECT_CELL.as_bytes().to_vec()];
        let range = Range { start, columns, ..Range::default() };
        let rows = self.gateway.scan(&self.tables.reject, &range, rows_max)?;
        rows.into_iter()
            .map(|(row, cells)| Ok((window::reject_id(&row)?, only_value(cells).into())))
            .collect()
    }

    fn dim_begin(&self, table: &str) -> Result<Epoch> {
        dims::begin(self, table)
    }

    fn dim_put(&self, table: &str, epoch: Epoch, rows: Vec<DimRow>) -> Result<()> {
        dims::put_rows(self, table, epoch, rows)
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
        version: u64,
        rows: Vec<DimUpsert>,
    ) -> Result<()> {
        dims::upsert(self, table, epoch, version, rows)
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
        dims::scan(self, table, epoch, after, rows_max)
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

    /// HBase's gateway does not tell sizes or counts: all are 0.
    fn stats(&self) -> Result<StoreStats> {
        Ok(StoreStats::default())
    }
}
