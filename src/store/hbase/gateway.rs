//! What the store does with HBase, as a few calls over rows and cells.
//!
//! In: tables, rows, cells. Out: the same, or a [`StoreError`]. Writes are cut into batches by rows and
//! by bytes that are under way at once; a batch of which a row is refused for good is halved until
//! that row is known.
//! Invariant: what one call may hold in memory is bounded by the options.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use hbase_thrift::hbase::{
    BatchMutation, ColumnDescriptor, Mutation, TCell, THbaseSyncClient, TRowResult, TScan,
};

use super::failure::Failure;
use super::options::HbaseOptions;
use super::pace::Pace;
use super::pool::{Pending, Pool};
use super::transport::Client;
use crate::store::{Result, StoreError};
use crate::telemetry::names;

/// Rows that one call of a scan asks for, and rows of one scan: the next goes on behind them.
const SCAN_CALL_ROWS: usize = 1_000;
const SCAN_ROWS_MAX: usize = 8_000;

/// A value and its timestamp.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) value: Vec<u8>,
    pub(super) stamp: i64,
}

/// A row's cells by column (`family:qualifier`).
pub(super) type Cells = BTreeMap<Vec<u8>, TCell>;

/// Rows in the order of their keys.
pub(super) type Rows = Vec<(Vec<u8>, Cells)>;

/// Which rows of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    /// The first row.
    pub(super) start: Vec<u8>,
    /// The first row that is not in it; none: to the end.
    pub(super) stop: Option<Vec<u8>>,
    /// Families (`s`) or columns (`s:p`).
    pub(super) columns: Vec<Vec<u8>>,
    /// Values are left out.
    pub(super) keys_only: bool,
}

/// A row that HBase does not take, and why.
pub(super) type RefusedRow = (Vec<u8>, String);

/// See the module.
pub(super) struct Gateway {
    pub(super) options: HbaseOptions,
    pool: Pool,
    pace: Pace,
}

impl Gateway {
    pub(super) fn new(options: &HbaseOptions) -> Result<Self> {
        let pool = Pool::start(options).map_err(|e| StoreError::Unavailable {
            reason: format!("no threads for connections: {e}; lower store.hbase.connections"),
        })?;
        let pace = Pace::new(options.rows_per_s_max, options.bytes_per_s_max);
        Ok(Self { options: options.clone(), pool, pace })
    }

    /// Why calls are refused just now.
    pub(super) fn outage(&self) -> Option<String> {
        self.pool.outage()
    }

    pub(super) fn call<T: Send + 'static>(
        &self,
        call: &'static str,
        make: impl FnMut(&mut Client) -> thrift::Result<T> + Send + 'static,
    ) -> std::result::Result<T, Failure> {
        self.pool.submit(call, make)?.wait()
    }

    /// Calls whose failure has no other meaning than that it did not work.
    fn ask<T: Send + 'static>(
        &self,
        call: &'static str,
        make: impl FnMut(&mut Client) -> thrift::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(call, make).map_err(|failure| self.error(failure))
    }

    pub(super) fn error(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Connection(reason) | Failure::Server(reason) => {
                StoreError::Unavailable { reason: format!("HBase: {reason}") }
            }
            Failure::NoTable(reason) => StoreError::NoTable {
                reason,
                remedy: format!(
                    "run `tagloom store init` (store.hbase.prefix is `{}`)",
                    self.options.prefix
                ),
            },
            Failure::Exists => StoreError::Refused {
                what: "a table".to_owned(),
                reason: "it exists already".to_owned(),
                keys: Vec::new(),
            },
            Failure::Refused(reason) => {
                StoreError::Refused { what: "a call".to_owned(), reason, keys: Vec::new() }
            }
        }
    }

    /// Names of all tables.
    pub(super) fn tables(&self) -> Result<Vec<String>> {
        let names = self.ask("tables", |client| client.get_table_names())?;
        Ok(names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
    }

    /// The families of a table by name.
    pub(super) fn families(&self, table: &str) -> Result<BTreeMap<String, ColumnDescriptor>> {
        let name = table.as_bytes().to_vec();
        let found =
            self.ask("families", move |client| client.get_column_descriptors(name.clone()))?;
        let text = |name: Vec<u8>| String::from_utf8_lossy(&name).trim_end_matches(':').to_owned();
        Ok(found.into_iter().map(|(name, family)| (text(name), family)).collect())
    }

    /// Makes a table, or leaves it as it is.
    pub(super) fn create(&self, table: &str, families: Vec<ColumnDescriptor>) -> Result<()> {
        let name = table.as_bytes().to_vec();
        let made =
            self.call("create", move |client| client.create_table(name.clone(), families.clone()));
        match made {
            Ok(()) | Err(Failure::Exists) => Ok(()),
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// Adds to a counter; gives what it is then.
    pub(super) fn increment(&self, table: &str, row: &[u8], column: &str) -> Result<i64> {
        let (table, row) = (table.as_bytes().to_vec(), row.to_vec());
        let column = column.as_bytes().to_vec();
        self.ask("increment", move |client| {
            client.atomic_increment(table.clone(), row.clone(), column.clone(), 1)
        })
    }

    /// Writes a cell if `expected` is there, or, if that is none, nothing. False: something else is.
    pub(super) fn replace(
        &self,
        table: &str,
        row: &[u8],
        column: &str,
        expected: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<bool> {
        let (table, row) = (table.as_bytes().to_vec(), row.to_vec());
        let (column, expected) =
            (column.as_bytes().to_vec(), expected.unwrap_or_default().to_vec());
        let put = Mutation::new(false, column.clone(), value, true);
        self.ask("replace", move |client| {
            let (table, row, column) = (table.clone(), row.clone(), column.clone());
            let (expected, put) = (expected.clone(), put.clone());
            client.check_and_put(table, row, column, expected, put, BTreeMap::new())
        })
    }

    /// Reads one column of many rows, in their order.
    pub(super) fn get(
        &self,
        table: &str,
        rows: &[Vec<u8>],
        column: &str,
    ) -> Result<Vec<Option<Cell>>> {
        let mut waiting = VecDeque::new();
        let mut found: HashMap<Vec<u8>, Cell> = HashMap::with_capacity(rows.len());
        let mut take = |pending: Pending<Vec<TRowResult>>| -> Result<()> {
            for row in pending.wait().map_err(|failure| self.error(failure))? {
                let cells = row.columns.unwrap_or_default();
                let cell = cells.into_values().next().and_then(cell_of);
                if let (Some(key), Some(cell)) = (row.row, cell) {
                    found.insert(key, cell);
                }
            }
            Ok(())
        };
        for rows in rows.chunks(self.options.batch_rows_max) {
            let (table, rows) = (table.as_bytes().to_vec(), rows.to_vec());
            let columns = vec![column.as_bytes().to_vec()];
            let pending = self.pool.submit("get", move |client| {
                let (table, rows, columns) = (table.clone(), rows.clone(), columns.clone());
                client.get_rows_with_columns(table, rows, columns, BTreeMap::new())
            });
            waiting.push_back(pending.map_err(|failure| self.error(failure))?);
            if waiting.len() > self.under_way_max() {
                waiting.pop_front().map_or(Ok(()), &mut take)?;
            }
        }
        waiting.into_iter().try_for_each(take)?;
        Ok(rows.iter().map(|row| found.get(row).cloned()).collect())
    }

    /// Up to `rows_max` rows of a range.
    pub(super) fn scan(&self, table: &str, range: &Range, rows_max: usize) -> Result<Rows> {
        let mut rows = Rows::new();
        let mut start = range.start.clone();
        while rows.len() < rows_max {
            let wanted = (rows_max - rows.len()).min(SCAN_ROWS_MAX);
            let part = self.scan_part(table, &Range { start, ..range.clone() }, wanted)?;
            let ended = part.len() < wanted;
            rows.extend(part);
            match rows.last() {
                Some((last, _)) if !ended => start = super::keys::next(last),
                _ => break,
            }
        }
        Ok(rows)
    }

    /// The first rows of many ranges, at most `rows_max` of each.
    pub(super) fn scan_heads(
        &self,
        table: &str,
        ranges: &[Range],
        rows_max: usize,
    ) -> Result<Vec<Rows>> {
        let rows_max = rows_max.min(SCAN_ROWS_MAX);
        let mut heads = Vec::with_capacity(ranges.len());
        for ranges in ranges.chunks(self.under_way_max()) {
            let waiting: Vec<_> = ranges
                .iter()
                .map(|range| self.begin_scan(table, range, rows_max))
                .collect::<Result<_>>()?;
            for pending in waiting {
                heads.push(self.end_scan(pending)?);
            }
        }
        Ok(heads)
    }

    fn scan_part(&self, table: &str, range: &Range, rows_max: usize) -> Result<Rows> {
        self.end_scan(self.begin_scan(table, range, rows_max)?)
    }

    fn end_scan(&self, pending: Pending<Vec<TRowResult>>) -> Result<Rows> {
        let rows = pending.wait().map_err(|failure| self.error(failure))?;
        let row = |row: TRowResult| Some((row.row?, row.columns.unwrap_or_default()));
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// One scanner's life: it lives in one gateway, so all of it is one call on one connection.
    fn begin_scan(
        &self,
        table: &str,
        range: &Range,
        rows_max: usize,
    ) -> Result<Pending<Vec<TRowResult>>> {
        let table = table.as_bytes().to_vec();
        let at_once = i32::try_from(rows_max.min(SCAN_CALL_ROWS)).unwrap_or(i32::MAX);
        let filter = range.keys_only.then(|| b"KeyOnlyFilter()".to_vec());
        let scan = TScan::new(
            range.start.clone(),
            range.stop.clone(),
            None,
            range.columns.clone(),
            at_once,
            filter,
            None,
            None,
            None,
            None,
        );
        let pending = self.pool.submit("scan", move |client| {
            let scanner =
                client.scanner_open_with_scan(table.clone(), scan.clone(), BTreeMap::new())?;
            let mut rows = Vec::new();
            let read = loop {
                let wanted = (rows_max - rows.len()).min(SCAN_CALL_ROWS);
                let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
                match client.scanner_get_list(scanner, wanted) {
                    Ok(part) if part.is_empty() => break Ok(rows),
                    Ok(part) => rows.extend(part),
                    Err(error) => break Err(error),
                }
                if rows.len() >= rows_max {
                    break Ok(rows);
                }
            };
            // After an error of the transport there is nobody to tell; the gateway forgets scanners
            // that nobody asks.
            let closed = client.scanner_close(scanner);
            let rows = read?;
            closed.map(|()| rows)
        });
        pending.map_err(|failure| self.error(failure))
    }

    /// Batches under way at once.
    fn under_way_max(&self) -> usize {
        2 * self.options.connections
    }

    /// Writes rows in batches. `stamp`: the cells' timestamp; none: the server's clock. Gives the
    /// rows that HBase will never take; all others are written.
    pub(super) fn write(
        &self,
        table: &str,
        rows: impl Iterator<Item = BatchMutation>,
        stamp: Option<i64>,
    ) -> Result<Vec<RefusedRow>> {
        let mut writing = Writing { gateway: self, table, stamp, refused: Vec::new() };
        let mut waiting = VecDeque::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let more = bytes_of(&row);
            let full = batch.len() >= self.options.batch_rows_max
                || bytes + more > self.options.batch_bytes_max;
            if full && !batch.is_empty() {
                waiting.push_back(writing.send(std::mem::take(&mut batch), bytes)?);
                bytes = 0;
                if waiting.len() > self.under_way_max() {
                    waiting.pop_front().map_or(Ok(()), |sent| writing.settle(sent))?;
                }
            }
            bytes += more;
            batch.push(row);
        }
        if !batch.is_empty() {
            waiting.push_back(writing.send(batch, bytes)?);
        }
        waiting.into_iter().try_for_each(|sent| writing.settle(sent))?;
        Ok(writing.refused)
    }
}

struct Sent {
    rows: Arc<Vec<BatchMutation>>,
    pending: Pending<()>,
}

struct Writing<'a> {
    gateway: &'a Gateway,
    table: &'a str,
    stamp: Option<i64>,
    refused: Vec<RefusedRow>,
}

impl Writing<'_> {
    fn send(&self, rows: Vec<BatchMutation>, bytes: usize) -> Result<Sent> {
        self.gateway.pace.wait(rows.len(), bytes);
        names::STORE_ROWS_WRITTEN.counter(&[]).increment(rows.len() as u64);
        names::STORE_BYTES_WRITTEN.counter(&[]).increment(bytes as u64);
        let rows = Arc::new(rows);
        let (sent, table, stamp) = (Arc::clone(&rows), self.table.as_bytes().to_vec(), self.stamp);
        let pending = self.gateway.pool.submit("write", move |client| {
            let (table, rows) = (table.clone(), sent.as_ref().clone());
            match stamp {
                Some(stamp) => client.mutate_rows_ts(table, rows, stamp, BTreeMap::new()),
                None => client.mutate_rows(table, rows, BTreeMap::new()),
            }
        });
        let pending = pending.map_err(|failure| self.gateway.error(failure))?;
        Ok(Sent { rows, pending })
    }

    fn settle(&mut self, sent: Sent) -> Result<()> {
        let reason = match sent.pending.wait() {
            Ok(()) => return Ok(()),
            Err(Failure::Refused(reason)) => reason,
            Err(failure) => return Err(self.gateway.error(failure)),
        };
        // HBase says that a row is bad, not which.
        if let [row] = sent.rows.as_slice() {
            self.refused.push((row.row.clone().unwrap_or_default(), reason));
            return Ok(());
        }
        let (front, back) = sent.rows.split_at(sent.rows.len() / 2);
        for half in [front, back] {
            let bytes = half.iter().map(bytes_of).sum();
            let sent = self.send(half.to_vec(), bytes)?;
            self.settle(sent)?;
        }
        Ok(())
    }
}

fn cell_of(cell: TCell) -> Option<Cell> {
    Some(Cell { value: cell.value?, stamp: cell.timestamp.unwrap_or(0) })
}

/// About what a row takes on the wire.
fn bytes_of(row: &BatchMutation) -> usize {
    let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let cells = row.mutations.iter().flatten();
    len(&row.row) + cells.map(|m| 24 + len(&m.column) + len(&m.value)).sum::<usize>()
}

/// A row to write: cells to put.
pub(super) fn put(
    row: Vec<u8>,
    cells: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> BatchMutation {
    let put = |(column, value)| Mutation::new(false, column, value, true);
    BatchMutation::new(row, cells.into_iter().map(put).collect::<Vec<_>>())
}

/// A row to write: families or columns to delete.
pub(super) fn delete(row: Vec<u8>, columns: &[&str]) -> BatchMutation {
    let delete = |column: &&str| Mutation::new(true, column.as_bytes().to_vec(), None, true);
    BatchMutation::new(row, columns.iter().map(delete).collect::<Vec<_>>())
}
