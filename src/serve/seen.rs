//! What of its stream a feature has seen.
//!
//! In: the catalogue version that is active in a store. Out: for features that have not seen every
//! event of the store, since which version they count, and up to which instant a history has what
//! came before.
//! Invariant: reads only.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::read::{ReadError, Reader};
use crate::engine::history::merging;
use crate::engine::version::{active, version};
use crate::user::lineage::{FIRST_VERSION, origin};

/// What a feature counts that has not seen every event, or has what came before from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Seen {
    /// The catalogue version since which it sees events; none: since the store has any.
    pub since_version: Option<u32>,
    /// As-of when that version became active, epoch ms; none: before the first event, or not yet.
    pub since_ms: Option<i64>,
    /// What happened before this instant is counted from a history, and what came live from it on,
    /// epoch ms.
    pub history_until_ms: Option<i64>,
    /// That history is being merged: users that it has not come to yet lack it.
    pub history_is_merging: bool,
}

impl Reader {
    /// Of these features (by catalogue index) those that have not seen everything.
    pub(super) fn seen(
        &self,
        features: &BTreeSet<usize>,
    ) -> Result<BTreeMap<usize, Seen>, ReadError> {
        let (store, catalog) = (self.store.as_ref(), &self.ruleset.catalog);
        // A store in which nobody keeps versions has seen everything.
        let Some(active) = active(store)? else { return Ok(BTreeMap::new()) };
        let merging = merging(store, &active).map_err(Box::new)?;
        let mut all = BTreeMap::new();
        for at in features {
            let feature = &catalog.features[*at];
            let stream = &catalog.streams[feature.stream];
            let (aggregate, filter) = (&feature.aggregate, feature.filter.as_ref());
            let origin = origin(stream, aggregate, filter, feature.span);
            let known = active.partials.get(&origin).map(|record| record.known);
            // One that the store does not know counts from the version on that will have it.
            let since = known.map_or(self.ruleset.version, |known| known.since);
            let cut = known.and_then(|known| known.cut);
            let since = Some(since).filter(|since| *since > FIRST_VERSION);
            if since.is_none() && cut.is_none() {
                continue;
            }
            let made = since.map(|since| version(store, since)).transpose()?.flatten();
            let seen = Seen {
                since_version: since,
                since_ms: made.and_then(|version| version.made_ms),
                history_until_ms: cut.map(|cut| cut.before_ms),
                history_is_merging: cut.is_some_and(|cut| merging == Some(cut.job)),
            };
            all.insert(*at, seen);
        }
        Ok(all)
    }
}
