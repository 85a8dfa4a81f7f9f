//! Limits on what is written a second.
//!
//! In: rows and bytes about to be sent. Out: a wait.

use std::num::NonZeroU32;

use crate::pace::Limit;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rows: Option<Limit>,
    bytes: Option<Limit>,
}

impl Pace {
    /// Limits a second; 0: none.
    pub(super) fn new(rows_per_s_max: u32, bytes_per_s_max: u32) -> Self {
        let limit = |per_s| NonZeroU32::new(per_s).map(Limit::new);
        Self { rows: limit(rows_per_s_max), bytes: limit(bytes_per_s_max) }
    }

    /// Waits until so much may be sent.
    pub(super) fn wait(&self, rows: usize, bytes: usize) {
        if let Some(limit) = &self.rows {
            limit.wait(rows);
        }
        if let Some(limit) = &self.bytes {
            limit.wait(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_limits_nothing_waits() {
        Pace::new(0, 0).wait(usize::MAX, usize::MAX);
    }
}
