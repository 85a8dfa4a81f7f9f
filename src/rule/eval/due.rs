//! When time alone may change a tag.
//!
//! In: lanes of ages and the ages at which something changes. Out: a day per row.

use crate::rule::kernels::wide::wide;

use super::{AsOf, NEVER};
use crate::clock::Day;
use crate::rule::plan::Plan;

/// Days until the next change, per row.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    wait_days: Vec<i32>,
}

impl Plan {
    /// Appends for each row the first day after the as-of day on which a tag may change.
    pub(super) fn due(
        &self,
        rows: usize,
        as_of: AsOf,
        scratch: &mut super::Scratch,
        due: &mut Vec<Day>,
    ) {
        if !self.unbounded.is_empty() {
            // Nothing is earlier than tomorrow.
            due.resize(due.len() + rows, as_of.day.saturating_add(1));
            return;
        }
        let wait = &mut scratch.due.wait_days;
        wait.clear();
        wait.resize(rows, i32::MAX);
        for (spec, lane) in self.lanes.iter().zip(&scratch.lanes) {
            let valid = &scratch.valid[spec.input];
            // A boundary beyond 32 bits lies outside of the calendar.
            for boundary in spec.boundaries.iter().filter_map(|b| i32::try_from(*b).ok()) {
                wait_for(&lane.narrow, valid, boundary, wait);
            }
        }
        due.extend(wait.iter().map(|days| match days {
            &i32::MAX => NEVER,
            days => as_of.day.saturating_add(*days),
        }));
    }
}

wide! {
    /// An age grows by one a day: the next boundary above it says when it matters.
    fn wait_for(ages: &[i32], valid: &[u8], boundary: i32, wait: &mut [i32]) {
        for ((wait, age), valid) in wait.iter_mut().zip(ages).zip(valid) {
            let next = (boundary > *age) & (*valid != 0);
            let days = if next { boundary.wrapping_sub(*age) } else { i32::MAX };
            // An age far below 0 wraps: that day is out of the calendar.
            *wait = (*wait).min(if days < 0 { i32::MAX } else { days });
        }
    }
}
