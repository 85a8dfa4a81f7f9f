//! Debezium's envelopes: <https://debezium.io/documentation/reference/stable/connectors/mysql.html>.
//!
//! In: a record's value, with its schema (`{"schema":..., "payload":...}`) or without. Out: its change.
//! Records of the same topics that are no changes (of the schema, of transactions, heartbeats,
//! messages) are counted.
//! Invariant: no I/O; no tree of values is built.

use super::members::{Members, plain};
use super::position::{Position, binlog_order};
use super::scales::Scales;
use super::{Broken, Change, Kind, Read, Reader};
use crate::clock::Zone;
use crate::event::column::Column;
use crate::event::reject::Reason;

/// Members of a record, by index; those that columns ask for follow.
pub(super) const MEMBERS: [&str; 8] =
    ["payload", "schema", "op", "before", "after", "source", "ddl", "status"];
const PAYLOAD: usize = 0;
const SCHEMA: usize = 1;
const OP: usize = 2;
const BEFORE: usize = 3;
const AFTER: usize = 4;
const SOURCE: usize = 5;
const DDL: usize = 6;
const STATUS: usize = 7;

/// Members of `source`: first those that say where in the log a change stands.
const PLACE: [&str; 7] = ["gtid", "file", "pos", "row", "lsn", "change_lsn", "event_serial_no"];
const TABLE: [&str; 3] = ["db", "schema", "table"];

/// What only these envelopes need.
#[derive(Debug)]
pub(super) struct Debezium {
    /// Of a record that stands in the payload of another.
    inner: Members,
    source: Members,
    scales: Scales,
}

impl Debezium {
    /// `names`: all members that are looked for.
    pub(super) fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let source = Members::new(PLACE.into_iter().chain(TABLE));
        Self { inner: Members::new(names), source, scales: Scales::default() }
    }
}

impl Reader {
    /// Reads a record.
    pub(super) fn read_debezium(
        &mut self,
        debezium: &mut Debezium,
        line: &str,
        columns: &mut [Column],
        zone: &Zone,
    ) -> Result<Read, Broken> {
        let Debezium { inner, source, scales } = debezium;
        self.members.read(line).map_err(Broken::malformed)?;
        let schema = self.members.get(line, SCHEMA);
        if self.members.get(line, OP).is_some() {
            scales.set(None, columns).map_err(Broken::malformed)?;
            return self.debezium_change(line, source, columns, zone);
        }
        let Some(payload) = self.members.get(line, PAYLOAD) else {
            // A tombstone has a payload of null.
            if schema.is_some() || line.contains("\"payload\"") {
                return Ok(self.skip(|skipped| &mut skipped.tombstones));
            }
            return self.no_change(line);
        };
        inner.read(payload).map_err(Broken::malformed)?;
        scales.set(schema, columns).map_err(Broken::malformed)?;
        std::mem::swap(inner, &mut self.members);
        let read = match self.members.get(payload, OP) {
            Some(_) => self.debezium_change(payload, source, columns, zone),
            None => self.no_change(payload),
        };
        std::mem::swap(inner, &mut self.members);
        read
    }

    fn debezium_change(
        &mut self,
        record: &str,
        source: &mut Members,
        columns: &mut [Column],
        zone: &Zone,
    ) -> Result<Read, Broken> {
        let op = plain(self.members.get(record, OP).unwrap_or_default());
        let kind = match &*op {
            "c" | "r" => Kind::Insert,
            "u" => Kind::Update,
            "d" => Kind::Delete,
            "t" => Kind::Truncate,
            "m" => return Ok(self.skip(|skipped| &mut skipped.marks)),
            other => {
                let why = format!("`op` is `{other}`, none of c, r, u, d, t, m");
                return Err(Broken::new(Reason::Operation, why));
            }
        };
        let (after, before) = (self.members.get(record, AFTER), self.members.get(record, BEFORE));
        self.position.forget();
        let mut table = [None; 3];
        let said = self.members.get(record, SOURCE);
        if let Some(said) = said.filter(|_| self.needs_source()) {
            source.read(said).map_err(Broken::malformed)?;
            table = std::array::from_fn(|at| source.get(said, PLACE.len() + at));
            if self.reads_position() {
                let row = (&*op == "r").then(|| after.unwrap_or_default());
                set_position(&mut self.position, &op, row, |at| source.get(said, at));
            }
        }
        let table = self.tables.find(table, columns);
        if !self.tables.get(table).is_read {
            return Ok(self.skip(|skipped| &mut skipped.other_tables));
        }
        let change = Change { kind, table, after, before, before_is_changes: false };
        self.put(&change, record, columns, zone)?;
        Ok(Read::Rows(1))
    }

    /// A record without operation.
    fn no_change(&mut self, record: &str) -> Result<Read, Broken> {
        if self.members.get(record, DDL).is_some() {
            return Ok(self.skip(|skipped| &mut skipped.ddl));
        }
        // Heartbeats hold their time alone.
        let is_mark =
            self.members.get(record, STATUS).is_some() || Members::holds_only(record, "ts_ms");
        if is_mark {
            return Ok(self.skip(|skipped| &mut skipped.marks));
        }
        let why = "no `op`: this is no Debezium envelope. Rows that were flattened \
                   (ExtractNewRecordState) are `format: json`";
        Err(Broken::new(Reason::Malformed, why.to_owned()))
    }
}

/// `snapshot`: the row, where it was read and not logged. `part`: members of `source` by index.
fn set_position<'s>(
    position: &mut Position,
    op: &str,
    snapshot: Option<&str>,
    part: impl Fn(usize) -> Option<&'s str>,
) {
    let number = |at: usize| part(at).and_then(|text| text.parse::<u64>().ok());
    let order = match (part(1), number(2)) {
        (Some(file), Some(place)) => binlog_order(&plain(file), place, number(3).unwrap_or(0)),
        _ => number(4),
    };
    match snapshot {
        // All rows of a snapshot have the place where it began.
        Some(row) => position.of_snapshot(row),
        None => {
            position.begin(op);
            let parts: [Option<&str>; PLACE.len()] = std::array::from_fn(part);
            position.add(&parts);
        }
    }
    position.order_by(order);
}
