//! Envelopes of change data capture into columns: Debezium, Maxwell, canal.
//!
//! In: records, one a line. Out: for each row of a table that a record is about the cells of the row
//! as it is and as it was, and what happened to it; records that are about no row of a stream are
//! counted. [`Rows`] says of each row of a batch what a stream is to make of it.
//!
//! A record's object is gone through once, by serde_json, which finds its members without building
//! anything; rows are then read into columns as JSON lines are, keys being expected in the order in
//! which the table wrote them last.
//! Invariant: no I/O, no clock; a record is used whole or not at all; nothing is read past unseen.

mod canal;
mod cells;
mod debezium;
mod decode;
mod maxwell;
mod members;
mod position;
mod scales;
mod shown;
mod tables;
#[cfg(test)]
mod tests;

use self::canal::Canal;
use self::debezium::Debezium;
use self::members::Members;
use self::position::Position;
use self::shown::shown_record;
pub(super) use self::tables::Reads;
use self::tables::Tables;
use super::block::Skipped;
use super::column::Column;
use super::json::{self, Keys};
use super::reject::Reason;
use crate::catalog::model::{Format, OperationKind};
use crate::clock::Zone;

/// The member that every envelope has whose log position is known: see [`position`].
pub(crate) const LOG_POSITION: &str = "log_position";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
    /// To all rows of the table at once; it has no cells.
    Truncate,
}

impl Kind {
    /// What it does to one row, if that can be said.
    pub(super) fn operation(self) -> Option<OperationKind> {
        match self {
            Self::Insert => Some(OperationKind::Insert),
            Self::Update => Some(OperationKind::Update),
            Self::Delete => Some(OperationKind::Delete),
            Self::Truncate => None,
        }
    }
}

/// One row of the batch.
#[derive(Debug, Clone, Copy)]
struct Row {
    kind: Kind,
    table: usize,
}

/// What a record gave.
enum Read {
    /// So many rows.
    Rows(u32),
    /// It is about no row; the streams that it concerns count it.
    Nothing,
}

/// A record that cannot be used.
#[derive(Debug)]
struct Broken {
    reason: Reason,
    why: String,
    /// Rows that it is about.
    rows: u32,
    /// The table, if it is known.
    table: Option<usize>,
}

impl Broken {
    fn new(reason: Reason, why: String) -> Self {
        Self { reason, why, rows: 1, table: None }
    }

    fn malformed(error: impl std::fmt::Display) -> Self {
        Self::new(Reason::Malformed, error.to_string())
    }
}

/// A row's change, as its record has it.
#[derive(Clone, Copy)]
struct Change<'a> {
    kind: Kind,
    table: usize,
    /// The row as it is.
    after: Option<&'a str>,
    /// The row as it was.
    before: Option<&'a str>,
    /// `before` holds only what was other than it is.
    before_is_changes: bool,
}

/// A column that stands in the envelope.
#[derive(Debug)]
struct Meta {
    /// Index of the record's member.
    member: usize,
    /// Keys of what stands in the member; `None`: the member itself is the value.
    inside: Option<Keys>,
    column: usize,
}

#[derive(Debug)]
enum Shape {
    Debezium(Box<Debezium>),
    Maxwell,
    Canal(Canal),
}

/// Reads the records of one source.
#[derive(Debug)]
pub(super) struct Reader {
    shape: Option<Shape>,
    members: Members,
    tables: Tables,
    meta: Vec<Meta>,
    /// Columns that hold the place in the log.
    positions: Vec<usize>,
    position: Position,
    /// Columns of the row as it was, each with that of the row as it is.
    pairs: Vec<(usize, usize)>,
    rows: Vec<Row>,
    /// By stream.
    skipped: Vec<Skipped>,
}

impl Reader {
    /// A reader of this format for streams that read these tables and columns.
    pub(super) fn new(format: Format, streams: Vec<Reads>, columns: &[Column]) -> Option<Self> {
        let fixed: &[&str] = match format {
            Format::Debezium => &debezium::MEMBERS,
            Format::Maxwell => &maxwell::MEMBERS,
            Format::Canal => &canal::MEMBERS,
            Format::Json | Format::Csv | Format::Parquet => return None,
        };
        let mut names: Vec<&str> = fixed.to_vec();
        let (mut meta, mut positions) = (Vec::new(), Vec::new());
        for (column, of) in columns.iter().enumerate().filter(|(_, column)| column.envelope) {
            if of.from == LOG_POSITION {
                positions.push(column);
                continue;
            }
            let (name, inside) = match of.from.split_once('.') {
                Some((name, inside)) => (name, Some(inside)),
                None => (of.from.as_str(), None),
            };
            let member = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            let inside = inside.map(|name| Keys::of_columns([(name, column)].into_iter()));
            meta.push(Meta { member, inside, column });
        }
        let shape = match format {
            Format::Debezium => Shape::Debezium(Box::new(Debezium::new(names.iter().copied()))),
            Format::Maxwell => Shape::Maxwell,
            _ => Shape::Canal(Canal::default()),
        };
        Some(Self {
            shape: Some(shape),
            members: Members::new(names.into_iter()),
            skipped: vec![Skipped::default(); streams.len()],
            tables: Tables::new(streams),
            meta,
            positions,
            position: Position::default(),
            pairs: pairs(columns),
            rows: Vec::new(),
        })
    }

    /// Begins a batch.
    fn start(&mut self) {
        self.rows.clear();
        self.tables.start();
        self.skipped.fill(Skipped::default());
    }

    /// Reads a record. On error the columns have the rows that they had.
    fn read(&mut self, record: &[u8], columns: &mut [Column], zone: &Zone) -> Result<Read, Broken> {
        let record = std::str::from_utf8(record)
            .map_err(|_| Broken::new(Reason::Malformed, "not UTF-8".to_owned()))?
            .trim();
        if record == "null" {
            return Ok(self.skip(|skipped| &mut skipped.tombstones));
        }
        // Put back at once: taken out only so that both can change.
        let Some(mut shape) = self.shape.take() else { return Ok(Read::Nothing) };
        let read = match &mut shape {
            Shape::Debezium(debezium) => self.read_debezium(debezium, record, columns, zone),
            Shape::Maxwell => self.read_maxwell(record, columns, zone),
            Shape::Canal(canal) => self.read_canal(canal, record, columns, zone),
        };
        self.shape = Some(shape);
        read
    }

    /// Counts a record that is about no row.
    fn skip(&mut self, count: fn(&mut Skipped) -> &mut u64) -> Read {
        self.skipped.iter_mut().for_each(|skipped| *count(skipped) += 1);
        Read::Nothing
    }

    /// The same, of a table: for other streams it is one of another table.
    fn skip_of(&mut self, table: usize, count: fn(&mut Skipped) -> &mut u64) -> Read {
        let reads = &self.tables.get(table).streams;
        for (skipped, reads) in self.skipped.iter_mut().zip(reads) {
            *if *reads { count(skipped) } else { &mut skipped.other_tables } += 1;
        }
        Read::Nothing
    }

    /// Whether anybody wants to know where changes stand in the log.
    fn reads_position(&self) -> bool {
        !self.positions.is_empty()
    }

    /// Whether it has to be known where changes come from.
    fn needs_source(&self) -> bool {
        self.reads_position() || self.tables.matter()
    }

    /// Appends one row. `record`: the object whose members were read.
    fn put(
        &mut self,
        change: &Change<'_>,
        record: &str,
        columns: &mut [Column],
        zone: &Zone,
    ) -> Result<(), Broken> {
        let row = self.rows.len();
        if let Err(why) = self.fill(change, record, columns, (row, zone)) {
            columns.iter_mut().for_each(|column| column.truncate(row));
            let broken = Broken::new(Reason::Malformed, why);
            return Err(Broken { table: Some(change.table), ..broken });
        }
        columns.iter_mut().filter(|c| c.len() == row).for_each(Column::push_absent);
        self.rows.push(Row { kind: change.kind, table: change.table });
        let reads = self.skipped.iter_mut().zip(&self.tables.get(change.table).streams);
        for (skipped, _) in reads.filter(|(_, reads)| !**reads) {
            skipped.other_tables += 1;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        change: &Change<'_>,
        record: &str,
        columns: &mut [Column],
        (row, zone): (usize, &Zone),
    ) -> Result<(), String> {
        let table = self.tables.get_mut(change.table);
        if let Some(after) = change.after {
            read_row(after, columns, &mut table.after, (row, zone))?;
        }
        if let Some(before) = change.before.filter(|_| !self.pairs.is_empty()) {
            read_row(before, columns, &mut table.before, (row, zone))?;
            if change.before_is_changes {
                complete(&self.pairs, columns, row);
            }
        }
        for Meta { member, inside, column } in &mut self.meta {
            let Some(value) = self.members.get(record, *member) else { continue };
            match inside {
                None => json::push_by_text(value, &mut columns[*column], zone),
                Some(keys) if value.starts_with('{') => {
                    json::read_object(value, columns, keys, (row, zone))?;
                }
                Some(_) => {}
            }
        }
        for column in &self.positions {
            self.position.push(&mut columns[*column], zone);
        }
        Ok(())
    }

    /// Takes rows back, from this one on.
    fn drop_rows(&mut self, first: usize, columns: &mut [Column]) {
        for row in self.rows.drain(first..) {
            let reads = self.skipped.iter_mut().zip(&self.tables.get(row.table).streams);
            for (skipped, _) in reads.filter(|(_, reads)| !**reads) {
                skipped.other_tables -= 1;
            }
        }
        columns.iter_mut().for_each(|column| column.truncate(first));
    }

    /// Whether a stream is concerned by a record that cannot be used.
    fn concerns(&self, broken: &Broken, stream: usize) -> bool {
        broken.table.is_none_or(|table| self.tables.get(table).streams[stream])
    }

    /// What a stream is to leave out of the batch: rows of other tables, and where its rows are
    /// events, whatever is no insertion. Returns what it counts.
    pub(super) fn leave_out(
        &self,
        stream: usize,
        is_changelog: bool,
        wanted: &mut [bool],
    ) -> Skipped {
        let mut skipped = self.skipped[stream];
        for (row, wanted) in self.rows.iter().zip(wanted) {
            if !self.tables.get(row.table).streams[stream] {
                *wanted = false;
                continue;
            }
            let count = match row.kind {
                _ if is_changelog => continue,
                Kind::Insert => continue,
                Kind::Update => &mut skipped.updates,
                Kind::Delete => &mut skipped.deletes,
                Kind::Truncate => &mut skipped.truncates,
            };
            *count += 1;
            *wanted = false;
        }
        skipped
    }

    /// What happened to each row of the batch.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.rows.iter().map(|row| row.kind)
    }

    /// Columns of rows that nobody reads and that were not told before, by stream.
    fn unread(&mut self) -> Vec<Vec<String>> {
        self.tables.unread()
    }
}

fn read_row(
    object: &str,
    columns: &mut [Column],
    keys: &mut Keys,
    at: (usize, &Zone),
) -> Result<(), String> {
    if !object.starts_with('{') {
        return Err("the row is no object".to_owned());
    }
    json::read_object(object, columns, keys, at)
}

/// What was not other before was as it is. What neither of both mentions is not known.
fn complete(pairs: &[(usize, usize)], columns: &mut [Column], row: usize) {
    for (before, after) in pairs {
        let Ok([before, after]) = columns.get_disjoint_mut([*before, *after]) else { continue };
        match (before.len() == row, after.len() == row) {
            (true, true) => before.push_absent(),
            (true, false) => before.push_copy(after),
            (false, _) => {}
        }
    }
}

/// Columns of the row as it was, each with the same one of the row as it is.
fn pairs(columns: &[Column]) -> Vec<(usize, usize)> {
    let same = |a: &Column, b: &Column| {
        let shape = |c: &Column| std::mem::discriminant(&c.values);
        a.from == b.from && a.kind == b.kind && shape(a) == shape(b) && !b.envelope
    };
    let before = columns.iter().enumerate().filter(|(_, column)| column.member.is_some());
    let pair = |(at, before): (usize, &Column)| {
        let is_same = |after: &Column| after.member.is_none() && same(before, after);
        Some((at, columns.iter().position(is_same)?))
    };
    before.filter_map(pair).collect()
}
