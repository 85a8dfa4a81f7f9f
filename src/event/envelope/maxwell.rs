//! Maxwell's records: <https://maxwells-daemon.io/dataformat/>.
//!
//! In: one JSON object: `data` is the row as it is (of a deletion: as it was), `old` its columns that
//! were other before. Out: its change; DDL and marks of bootstraps are counted.
//! Invariant: no I/O.

use super::members::plain;
use super::position::binlog_order;
use super::{Broken, Change, Kind, Read, Reader};
use crate::clock::Zone;
use crate::event::column::Column;
use crate::event::reject::Reason;

/// Members of a record, by index; those that columns ask for follow.
pub(super) const MEMBERS: [&str; 9] =
    ["database", "table", "type", "data", "old", "position", "xid", "xoffset", "commit"];
const DATABASE: usize = 0;
const TABLE: usize = 1;
const TYPE: usize = 2;
const DATA: usize = 3;
const OLD: usize = 4;
const POSITION: usize = 5;
const XID: usize = 6;
const XOFFSET: usize = 7;
const COMMIT: usize = 8;

impl Reader {
    /// Reads a record.
    pub(super) fn read_maxwell(
        &mut self,
        line: &str,
        columns: &mut [Column],
        zone: &Zone,
    ) -> Result<Read, Broken> {
        self.members.read(line).map_err(Broken::malformed)?;
        let Some(word) = self.members.get(line, TYPE) else {
            let why = "no `type`: this is no record of Maxwell".to_owned();
            return Err(Broken::new(Reason::Malformed, why));
        };
        let word = plain(word);
        let names = [self.members.get(line, DATABASE), None, self.members.get(line, TABLE)];
        let table = self.tables.find(names, columns);
        let kind = match &*word {
            "insert" | "bootstrap-insert" => Kind::Insert,
            "update" => Kind::Update,
            "delete" => Kind::Delete,
            "bootstrap-start" | "bootstrap-complete" | "heartbeat" => {
                return Ok(self.skip_of(table, |skipped| &mut skipped.marks));
            }
            ddl if ddl.starts_with("table-") || ddl.starts_with("database-") => {
                return Ok(self.skip_of(table, |skipped| &mut skipped.ddl));
            }
            other => {
                let why = format!("`type` is `{other}`, none of insert, update, delete");
                return Err(Broken { table: Some(table), ..Broken::new(Reason::Operation, why) });
            }
        };
        if !self.tables.get(table).is_read {
            return Ok(self.skip(|skipped| &mut skipped.other_tables));
        }
        let Some(data) = self.members.get(line, DATA) else {
            let why = "no `data`: the row is missing".to_owned();
            return Err(Broken { table: Some(table), ..Broken::new(Reason::Malformed, why) });
        };
        if self.reads_position() {
            self.set_maxwell_position(line, &word, data);
        }
        let old = self.members.get(line, OLD).filter(|_| kind == Kind::Update);
        let change =
            Change { kind, table, after: Some(data), before: old, before_is_changes: true };
        self.put(&change, line, columns, zone)?;
        Ok(Read::Rows(1))
    }

    fn set_maxwell_position(&mut self, line: &str, word: &str, data: &str) {
        let get = |name| self.members.get(line, name);
        let position = &mut self.position;
        let Some(place) = get(POSITION) else {
            // Rows of a bootstrap are read, not logged.
            return position.of_snapshot(data);
        };
        position.begin(word);
        position.add(&[Some(place), get(XID), get(XOFFSET), get(COMMIT)]);
        // The last row of a transaction has no offset.
        let row = get(XOFFSET).map_or(Some(u64::MAX), |text| text.parse().ok());
        let place = plain(place);
        let order = place
            .rsplit_once(':')
            .and_then(|(file, place)| binlog_order(file, place.parse().ok()?, row?));
        position.order_by(order);
    }
}
