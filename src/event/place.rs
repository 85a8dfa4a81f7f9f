//! Where rows stand: in a file, or in a partition of a topic.
//!
//! In: the places of blocks. Out: the places of rows. Invariant: plain data.

/// Where a row of the batch stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPlace {
    pub(super) line: u64,
    pub(super) offset: u64,
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
        Self { line, offset, start, end, index: 0, rows: 1, arrival_ms: None }
    }
}

/// A record of a topic, of which a block holds the value as one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its offset in the partition.
    pub offset: u64,
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
                let place = RowPlace::line(0, record.map_or(0, |r| r.offset), start, end);
                RowPlace { arrival_ms: record.map(|r| r.arrival_ms), ..place }
            }
        }
    }
}
