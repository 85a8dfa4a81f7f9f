//! Rows of a group of users, stream by stream.
//!
//! In: rows, user after user. Out: the same side by side in one piece of memory, sorted by the
//! filters that are true for them, so that a step's loop runs over the rows of all users.
//! Invariant: rows of a user stand together, and users in the order of their lanes.

use crate::user::layout::flag_at;
use crate::user::program::StreamProgram;

/// A row that is not of a day to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Where it begins among the words.
    pub(super) at: u32,
    pub(super) bucket: u8,
    pub(super) lane: u8,
}

/// Rows of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamRows {
    pub(super) words: Vec<u64>,
    all: Vec<Row>,
    by_filter: Vec<Vec<Row>>,
}

impl StreamRows {
    pub(super) fn new(program: &StreamProgram) -> Self {
        let by_filter = vec![Vec::new(); program.filters];
        Self { words: Vec::new(), all: Vec::new(), by_filter }
    }

    /// Adds a row.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a group has some ten thousand words")]
    pub(super) fn add(&mut self, program: &StreamProgram, words: &[u64], bucket: u8, lane: u8) {
        let row = Row { at: self.words.len() as u32, bucket, lane };
        self.words.extend_from_slice(words);
        self.all.push(row);
        if program.filters == 0 {
            return;
        }
        let (first_word, first_bit) = flag_at(program.first_filter_flag);
        let last_word = flag_at(program.first_filter_flag + program.filters - 1).0;
        let mut flag = 0;
        for (word, bits) in words.iter().enumerate().take(last_word + 1).skip(first_word) {
            let skip = if word == first_word { first_bit } else { 0 };
            let mut bits = bits >> skip;
            while bits != 0 {
                // Behind the last filter's flag there are none.
                if let Some(rows) = self.by_filter.get_mut(flag + bits.trailing_zeros() as usize) {
                    rows.push(row);
                }
                bits &= bits - 1;
            }
            flag += (u64::BITS - skip) as usize;
        }
    }

    /// Rows for which a filter is true; all without one.
    pub(super) fn of(&self, filter: Option<usize>) -> &[Row] {
        filter.map_or(&self.all, |filter| &self.by_filter[filter])
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.all.clear();
        self.by_filter.iter_mut().for_each(Vec::clear);
    }
}
