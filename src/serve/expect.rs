//! Do tags keep, over all users, what `expect` promises of them?
//!
//! In: a reader over a store, and which tags. Out: those that break their promise, with how many
//! users and examples. Invariant: reads only; examples and values kept of a tag are bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::{ReadError, Reader, UserRow};
use super::survey::{Survey, Surveyed};
use super::tally::Column;
use crate::catalog::select::Selection;
use crate::catalog::terms::Expect;

/// Users named for each thing that is wrong.
const EXAMPLES_MAX: usize = 5;

/// Values of one tag that are counted one by one.
const VALUES_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who was looked at.
    pub surveyed: Surveyed,
    /// The business timezone.
    pub timezone: String,
    /// Tags of which something is expected.
    pub tags: usize,
    /// Those that break it, in catalogue order.
    pub broken: Vec<Broken>,
}

/// A tag that breaks what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The tag.
    pub tag: String,
    /// Its index in the catalogue.
    pub at: usize,
    /// Values that are not accepted, most users first.
    pub outside: Vec<Users>,
    /// Users with further values that are not accepted.
    pub outside_more: u64,
    /// Users without a value, where they are too many.
    pub without: Option<Users>,
    /// The share of them that may be.
    pub null_share_max: Option<String>,
}

/// Some users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The value they have; none: no value.
    pub value: Option<String>,
    /// How many.
    pub users: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// A promise and what was seen so far.
struct Watch<'a> {
    at: usize,
    expect: &'a Expect,
    column: Column,
    without: Users,
    outside: BTreeMap<String, Users>,
    outside_more: u64,
}

/// Looks at the users of a survey. Of a tag outside of its validity nothing is expected.
pub fn check(
    reader: &Reader,
    survey: &Survey<'_>,
    selection: &Selection,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ReadError> {
    let catalog = &reader.ruleset.catalog;
    let mut watches: Vec<Watch<'_>> = Vec::new();
    for at in selection.tags() {
        let expect = &catalog.tags[at].terms.expect;
        let (Some(column), false) = (Column::of(at, &reader.ruleset), expect.is_empty()) else {
            continue;
        };
        let (without, outside) = (Users::default(), BTreeMap::new());
        watches.push(Watch { at, expect, column, without, outside, outside_more: 0 });
    }
    let surveyed = survey.run(&[reader], progress, |batches| {
        for user in &batches[0] {
            for watch in &mut watches {
                let column = watch.column;
                let see = |label: Option<&str>| watch.see(user, label);
                column.see(&reader.ruleset, &user.codes, &user.open, see);
            }
        }
    })?;
    let tags = watches.len();
    let found = watches.into_iter().map(|watch| watch.finish(&surveyed, reader));
    let timezone = catalog.zone.name().to_owned();
    Ok(Report { surveyed, timezone, tags, broken: found.flatten().collect() })
}

impl Watch<'_> {
    fn see(&mut self, user: &UserRow, value: Option<&str>) {
        let Some(value) = value else {
            self.without.add(user);
            return;
        };
        if self.expect.accepted.as_ref().is_none_or(|known| known.iter().any(|k| k == value)) {
            return;
        }
        if let Some(users) = self.outside.get_mut(value) {
            users.add(user);
        } else if self.outside.len() < VALUES_MAX {
            let mut users = Users { value: Some(value.to_owned()), ..Users::default() };
            users.add(user);
            self.outside.insert(value.to_owned(), users);
        } else {
            self.outside_more += 1;
        }
    }

    fn finish(self, surveyed: &Surveyed, reader: &Reader) -> Option<Broken> {
        let share = self.expect.null_share_max;
        let terms = &reader.ruleset.catalog.tags[self.at].terms;
        if !terms.valid.holds(surveyed.as_of_ms) {
            return None;
        }
        let too_many = share.is_some_and(|s| s.is_less_than(self.without.users, surveyed.users));
        let mut outside: Vec<Users> = self.outside.into_values().collect();
        outside.sort_by_key(|u| std::cmp::Reverse(u.users));
        if outside.is_empty() && !too_many {
            return None;
        }
        Some(Broken {
            tag: reader.ruleset.catalog.tags[self.at].name.clone(),
            at: self.at,
            outside,
            outside_more: self.outside_more,
            without: too_many.then_some(self.without),
            null_share_max: share.map(|s| s.to_string()),
        })
    }
}

impl Users {
    /// Counts one more.
    pub(super) fn add(&mut self, user: &UserRow) {
        self.users += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(user.uid.to_string());
        }
    }
}
