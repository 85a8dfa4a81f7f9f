//! Where rows stand: in a file, or in a partition of a topic.
//!
//! In: the places of blocks. Out: the places of rows. Invariant: plain data.

use super::column::{Column, Values};
use super::partitioner::{partition_of, partition_of_number};

/// Where a row of the batch stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPlace {
    pub(super) line: u64,
    pub(super) offset: u64,
    /// The offset in the partition that was read: another one than `offset` if it was relayed.
    pub(super) read_at: u64,
    /// The partition in which it was written; none: a file.
    pub(super) partition: Option<u32>,
    pub(super) whose: Whose,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Which row of the record, and of how many.
    pub(super) index: u32,
    pub(super) rows: u32,
    /// When it arrived, epoch ms; rows of files have no arrival time.
    pub(super) arrival_ms: Option<i64>,
}

impl RowPlace {
    /// A record of one row.
    pub(super) fn line(line: u64, offset: u64, start: usize, end: usize) -> Self {
        Self {
            line,
            offset,
            read_at: offset,
            partition: None,
            whose: Whose::Everybody,
            start,
            end,
            index: 0,
            rows: 1,
            arrival_ms: None,
        }
    }

    /// The source as rejects name it. `name`: of the file or topic.
    pub(super) fn source(&self, name: &str) -> String {
        match self.partition {
            Some(partition) => format!("{name}/{partition}"),
            None => name.to_owned(),
        }
    }

    /// Whether what is said of the record as a whole is said here.
    pub(super) fn tells(&self) -> bool {
        self.whose != Whose::Others
    }
}

/// Whose rows of a record count where it stands. `relay` writes a record that is about several users
/// into the partition of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Whose {
    /// All of them.
    #[default]
    Everybody,
    /// Only those of users whom the partitioner puts here. This copy is the one that tells what is said
    /// of the record as a whole: that it was read, filtered out, refused.
    First,
    /// Only those of users whom the partitioner puts here.
    Others,
}

/// A record of a topic, of which a block holds the value as one line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its offset in the partition that is read.
    pub offset: u64,
    /// Where it was written: partition and offset; other ones than it is read from if it was relayed.
    pub origin: (u32, u64),
    /// Whose rows count.
    pub whose: Whose,
    /// Its Kafka timestamp: when it arrived, epoch ms.
    pub arrival_ms: i64,
}

/// Where the lines of a block stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lines<'a> {
    /// In a file: the line and the byte offset of the block's first byte.
    File { line: u64, offset: u64 },
    /// Each is a record's value.
    Records(&'a [RecordPlace]),
}

/// A partition among those of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOf {
    /// Its number.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl PartitionOf {
    /// Whether the user of a row belongs here.
    pub(super) fn holds(self, uids: &Column, row: usize) -> bool {
        let partition = match &uids.values {
            Values::U64(uids) => partition_of_number(uids[row], self.of),
            Values::Plain(uids) => partition_of(uids[row].as_bytes(), self.of),
            _ => return true,
        };
        partition == self.number
    }
}

impl Lines<'_> {
    /// Whether each line is a record's value, the blank ones too.
    pub(super) fn are_records(&self) -> bool {
        matches!(self, Self::Records(_))
    }

    /// The place of a line: the number of those before it in the block, and its bytes there.
    #[inline]
    pub(super) fn place(&self, at: u64, start: usize, end: usize) -> RowPlace {
        match self {
            Self::File { line, offset } => {
                RowPlace::line(line + at, offset + start as u64, start, end)
            }
            Self::Records(records) => {
                let record = usize::try_from(at).ok().and_then(|at| records.get(at));
                let Some(record) = record else { return RowPlace::line(0, 0, start, end) };
                RowPlace {
                    read_at: record.offset,
                    partition: Some(record.origin.0),
                    whose: record.whose,
                    arrival_ms: Some(record.arrival_ms),
                    ..RowPlace::line(0, record.origin.1, start, end)
                }
            }
        }
    }
}
