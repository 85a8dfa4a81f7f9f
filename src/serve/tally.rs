//! How many users have which value of a tag.
//!
//! In: labels, one by one, or the profiles of a store. Out: [`Tally`].
//! Invariant: the number of values told apart is bounded; reads only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::{ReadError, UserRow};
use crate::engine::ruleset::Ruleset;
use crate::store::{Store, UidKey};
use crate::user::snapshot::decode_tags;
use crate::write::open::OpenValue;
use crate::write::profile::{ProfileError, Schemas, label_of};

/// Values of one tag that are told apart.
const VALUES_MAX: usize = 1_000;

/// Profiles read at once.
const BATCH_USERS: usize = 8_192;

/// How many users have which value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Users by value.
    pub values: BTreeMap<String, u64>,
    /// Users with values beyond those that are told apart.
    pub more: u64,
    /// Users without a value.
    pub without: u64,
}

impl Tally {
    /// Counts one user.
    pub fn add(&mut self, value: Option<&str>) {
        let Some(value) = value else {
            self.without += 1;
            return;
        };
        if let Some(users) = self.values.get_mut(value) {
            *users += 1;
        } else if self.values.len() < VALUES_MAX {
            self.values.insert(value.to_owned(), 1);
        } else {
            self.more += 1;
        }
    }

    /// Values, most users first.
    pub fn by_users(&self) -> Vec<(&str, u64)> {
        let mut values: Vec<(&str, u64)> =
            self.values.iter().map(|(value, users)| (value.as_str(), *users)).collect();
        values.sort_by_key(|(_, users)| std::cmp::Reverse(*users));
        values
    }
}

/// Where the values of one tag stand in a user's codes or open values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    tag: usize,
    /// Place among the closed or the open tags.
    place: Result<usize, usize>,
}

impl Column {
    /// Of a tag by its catalogue index.
    pub(super) fn of(tag: usize, ruleset: &Ruleset) -> Option<Self> {
        let plan = &ruleset.plan;
        let closed = plan.closed_tags().iter().position(|t| *t == tag).map(Ok);
        let place = closed.or(plan.open_tags().iter().position(|t| *t == tag).map(Err))?;
        Some(Self { tag, place })
    }

    /// A user's value, of a tag that stores its values.
    pub(super) fn open(self, user: &UserRow) -> Option<&OpenValue> {
        self.place.err().and_then(|at| user.open.get(at)).and_then(Option::as_ref)
    }

    /// Hands a user's label on.
    pub(super) fn see<T>(
        self,
        ruleset: &Ruleset,
        codes: &[u8],
        open: &[Option<OpenValue>],
        then: impl FnOnce(Option<&str>) -> T,
    ) -> T {
        match self.place {
            Ok(at) => {
                let code = codes.get(at).copied().unwrap_or(0);
                then(label_of(&ruleset.catalog.tags[self.tag].domain, code))
            }
            Err(at) => {
                let label = open.get(at).and_then(|v| v.as_ref().map(OpenValue::label));
                then(label.as_deref())
            }
        }
    }
}

/// The stored values of some tags over all profiles.
pub fn stored(
    store: &dyn Store,
    ruleset: &Ruleset,
    tags: &[usize],
) -> Result<Vec<Tally>, ReadError> {
    let columns: Vec<Column> = tags.iter().filter_map(|t| Column::of(*t, ruleset)).collect();
    let mut tallies = vec![Tally::default(); columns.len()];
    let schemas = Schemas::default();
    let mut after: Option<UidKey> = None;
    loop {
        let rows = store.scan_profiles(after.as_ref(), BATCH_USERS)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (_, bytes) in &rows {
            let tags = decode_tags(bytes).map_err(ProfileError::from)?;
            let schema = schemas.get(tags.head.schema, ruleset, store)?;
            let (codes, open) = (schema.codes(&tags), schema.open_values(&tags));
            for (column, tally) in columns.iter().zip(&mut tallies) {
                column.see(ruleset, &codes, &open, |label| tally.add(label));
            }
        }
    }
    Ok(tallies)
}
