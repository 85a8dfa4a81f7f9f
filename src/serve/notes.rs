//! What is not exact about a user's tags.
//!
//! In: a user as stored, its inputs as of an instant, which tags are asked for. Out: a sentence for
//! each input that is stale, missing, estimated or seen in part.
//! Invariant: nothing is said of what the tags that are asked for do not read.

use std::collections::BTreeSet;

use super::read::{Evaluation, Reader, StoredUser};
use crate::catalog::model::Aggregate;
use crate::catalog::select::Reach;
use crate::user::features::estimated;
use crate::user::sample::relative_error;
use crate::write::open::OpenValue;

impl Reader {
    /// Streams (by catalogue index) of which not all rows of a user are kept, and how many are.
    fn partly_streams<'a>(
        &'a self,
        user: &'a StoredUser,
    ) -> impl Iterator<Item = (usize, &'a str, usize)> {
        let streams = user.state.partly().map_or(&[][..], |partly| partly.streams());
        streams.iter().map(|(stream, _)| {
            let at = usize::from(*stream);
            let layout = &self.ruleset.layout.streams[at];
            (at, layout.name.as_str(), layout.changelog.as_ref().map_or(0, |c| c.rows_max))
        })
    }

    /// Names of the streams of which not all rows of a user are kept.
    pub(super) fn partly(&self, user: &StoredUser) -> Vec<String> {
        self.partly_streams(user).map(|(_, name, _)| name.to_owned()).collect()
    }

    /// What is stale, missing or not exact of what the tags that are asked for read. `asked`: none
    /// for all tags.
    pub(super) fn notes(
        &self,
        user: &StoredUser,
        evaluation: &Evaluation,
        asked: Option<&Reach>,
    ) -> Vec<String> {
        let reads = |of: fn(&Reach) -> &BTreeSet<usize>, at: usize| {
            asked.is_none_or(|reach| of(reach).contains(&at))
        };
        let catalog = &self.ruleset.catalog;
        let mut notes = Vec::new();
        for (at, lookup) in evaluation.lookups.iter().enumerate() {
            let (name, table) = (&catalog.dimensions[at].name, &catalog.dimensions[at].table);
            let why = lookup.failure.as_deref().unwrap_or("the store could not be read");
            if !reads(|r| &r.dimensions, at) {
                continue;
            } else if lookup.epoch.is_none() && !lookup.missing {
                notes.push(format!("dimension {name}: table `{table}` was never loaded: NULL"));
            } else if lookup.missing {
                notes.push(format!("dimension {name}: missing: {why}"));
            } else if lookup.stale {
                notes.push(format!("dimension {name}: stale: {why}"));
            }
        }
        for (tag, _) in evaluation.tags.failed.iter().filter(|(at, _)| reads(|r| &r.tags, *at)) {
            let name = &catalog.tags[*tag].name;
            notes.push(format!("{name}: cannot be computed for this user: no value"));
        }
        let partly = self.partly_streams(user).filter(|(at, ..)| reads(|r| &r.streams, *at));
        notes.extend(partly.map(|(_, name, rows_max)| {
            format!("stream {name}: partly: features see {rows_max} of more rows (rows_max)")
        }));
        let (layout, texts) = (&self.ruleset.layout, user.texts.view());
        for (feature, kept) in estimated(&user.state, layout, evaluation.as_of, &texts) {
            if reads(|r| &r.features, feature) {
                notes.push(self.estimate(feature, kept));
            }
        }
        let dedupes = |at: usize| catalog.streams[at].dedupe.is_some() && reads(|r| &r.streams, at);
        if let Some(day) = user.state.settled().and_then(|s| s.ids_forgotten_until)
            && (0..catalog.streams.len()).any(dedupes)
        {
            let until = OpenValue::Date(day).label();
            notes.push(format!(
                "repeats are recognised only behind {until}: older ids were dropped"
            ));
        }
        notes
    }

    /// How far a feature that saw more distinct values than are `kept` may be off.
    fn estimate(&self, feature: usize, kept: usize) -> String {
        let feature = &self.ruleset.catalog.features[feature];
        let name = &feature.name;
        match feature.aggregate {
            Aggregate::CountDistinct(..) => format!(
                "{name}: estimated: more than {kept} distinct values; relative standard error \
                 {:.1} %",
                100.0 * relative_error(kept)
            ),
            _ => format!(
                "{name}: estimated: more than {kept} distinct values, of which a sample of {kept} \
                 is ranked; a value outside of it may weigh more"
            ),
        }
    }
}
