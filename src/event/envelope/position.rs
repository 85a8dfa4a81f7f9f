//! Where in the database's log a change stands.
//!
//! In: what an envelope says of it. Out: a text that is the same whenever the same change is sent
//! again and another for every other change; and a number that grows with the log.
//! Invariant: no I/O.

use std::fmt::Write as _;

use crate::catalog::model::ColumnType;
use crate::clock::Zone;
use crate::event::column::Column;
use crate::event::parse::Cell;
use crate::user::layout::hash64;

/// Bits of a place in a binary log file: its positions have 32 bits.
const PLACE_BITS: u32 = 32;
/// Bits of a row among those that one event of the log holds.
const ROW_BITS: u32 = 12;
/// Bits left for the number of the file.
const FILE_BITS: u32 = 64 - PLACE_BITS - ROW_BITS;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Empty: not known.
    text: String,
    order: Option<u64>,
}

impl Position {
    /// It is not known.
    pub(super) fn forget(&mut self) {
        self.text.clear();
        self.order = None;
    }

    /// Begins another one, with what tells changes of one place apart.
    pub(super) fn begin(&mut self, operation: &str) {
        self.text.clear();
        self.text.push_str(operation);
        self.order = None;
    }

    /// Adds parts, as JSON; without any of them the place is not known.
    pub(super) fn add(&mut self, parts: &[Option<&str>]) {
        if parts.iter().all(Option::is_none) {
            self.text.clear();
        }
        for part in parts.iter().flatten() {
            self.text.push(' ');
            self.text.push_str(&super::members::plain(part));
        }
    }

    /// A row that was read and not logged: what it says is all there is to know it by. It is older
    /// than all changes, unless its place is known.
    pub(super) fn of_snapshot(&mut self, row: &str) {
        self.text.clear();
        // Writing to a String never fails.
        let _infallible = write!(self.text, "read {:016x}", hash64(row.as_bytes()));
        self.order = Some(0);
    }

    /// Sets the order.
    pub(super) fn order_by(&mut self, order: Option<u64>) {
        self.order = order.or(self.order);
    }

    /// Appends it to a column.
    pub(super) fn push(&self, column: &mut Column, zone: &Zone) {
        let cell = match (&column.kind, self.order) {
            (ColumnType::U64, Some(order)) => Cell::Unsigned(order),
            (ColumnType::String, _) if !self.text.is_empty() => Cell::Csv(&self.text),
            _ => Cell::Null,
        };
        column.push(cell, zone);
    }
}

/// The order of places in MySQL's and MariaDB's binary logs, whose files are numbered
/// (`binlog.000042`). Rows of one event beyond the 4,095th are taken for the last.
pub(super) fn binlog_order(file: &str, place: u64, row: u64) -> Option<u64> {
    let file: u64 = file.rsplit_once('.')?.1.parse().ok()?;
    let fits = file >> FILE_BITS == 0 && place >> PLACE_BITS == 0;
    let row = row.min((1 << ROW_BITS) - 1);
    fits.then_some(file << (PLACE_BITS + ROW_BITS) | place << ROW_BITS | row)
}

#[cfg(test)]
mod tests {
    use super::binlog_order;

    #[test]
    fn places_in_the_binary_log_are_ordered() {
        let places = [
            ("binlog.000001", 2910, 0),
            ("binlog.000001", 3147, 0),
            ("binlog.000001", 3147, 1),
            ("binlog.000001", 3147, 9_000),
            ("binlog.000001", 3148, 0),
            ("binlog.000002", 4, 0),
            ("binlog.1000000", u64::from(u32::MAX), 0),
        ];
        let orders = places.map(|(file, place, row)| binlog_order(file, place, row).unwrap_or(0));
        assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
        assert_eq!(binlog_order("binlog", 4, 0), None);
        assert_eq!(binlog_order("binlog.000001", 1 << 32, 0), None);
        assert_eq!(binlog_order("binlog.1048576", 4, 0), None);
    }
}
