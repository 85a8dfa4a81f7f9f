//! What is not exact about a user's tags.
//!
//! In: a user's state, what computing its tags has shown, which tags are asked for. Out: a sentence
//! for each input that is stale, missing, estimated or seen in part.
//! Invariant: nothing is said of what the tags that are asked for do not read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::read::{Evaluation, Lookup, Reader, StoredUser};
use crate::catalog::model::Aggregate;
use crate::catalog::select::Reach;
use crate::rule::AsOf;
use crate::user::features::estimated;
use crate::user::sample::relative_error;
use crate::user::state::UserState;
use crate::user::texts::Texts;
use crate::write::open::OpenValue;

/// In which way something is not exact.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// The user's state or a rule panics: the values are the last ones that were stored.
    Quarantined,
    /// The account is closed.
    Closed,
    /// Dimension rows are older than their `ttl`, because the store cannot be read.
    Stale,
    /// Dimension rows cannot be read, or their table was never loaded: NULL.
    Missing,
    /// A tag cannot be computed for this user: no value.
    Failed,
    /// Not all rows of a table that changes are kept, or repeats are recognised for a while only.
    Partial,
    /// A count or ranking rests on a sample.
    Estimated,
}

/// Something that is not exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// In which way.
    pub mark: Mark,
    /// What, and why.
    pub text: String,
}

/// What notes are made of.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) state: &'a UserState,
    pub(super) texts: &'a Texts,
    pub(super) as_of: AsOf,
    /// By dimension.
    pub(super) lookups: &'a [Lookup],
    /// Tags that could not be computed.
    pub(super) failed: &'a [(usize, u64)],
}

impl<'a> Seen<'a> {
    pub(super) fn of(user: &'a StoredUser, evaluation: &'a Evaluation) -> Self {
        Self {
            state: &user.state,
            texts: &user.texts,
            as_of: evaluation.as_of,
            lookups: &evaluation.lookups,
            failed: &evaluation.tags.failed,
        }
    }
}

/// What notes say.
pub(super) fn texts(notes: Vec<Note>) -> Vec<String> {
    notes.into_iter().map(|note| note.text).collect()
}

impl Reader {
    /// Streams (by catalogue index) of which not all rows of a user are kept, and how many are.
    fn partly_streams<'a>(
        &'a self,
        state: &'a UserState,
    ) -> impl Iterator<Item = (usize, &'a str, usize)> {
        let streams = state.partly().map_or(&[][..], |partly| partly.streams());
        streams.iter().map(|(stream, _)| {
            let at = usize::from(*stream);
            let layout = &self.ruleset.layout.streams[at];
            (at, layout.name.as_str(), layout.changelog.as_ref().map_or(0, |c| c.rows_max))
        })
    }

    /// Names of the streams of which not all rows of a user are kept.
    pub(super) fn partly(&self, user: &StoredUser) -> Vec<String> {
        self.partly_streams(&user.state).map(|(_, name, _)| name.to_owned()).collect()
    }

    /// What is stale, missing or not exact of what the tags that are asked for read. `asked`: none
    /// for all tags.
    pub(super) fn notes(&self, seen: Seen<'_>, asked: Option<&Reach>) -> Vec<Note> {
        let reads = |of: fn(&Reach) -> &BTreeSet<usize>, at: usize| {
            asked.is_none_or(|reach| of(reach).contains(&at))
        };
        let catalog = &self.ruleset.catalog;
        let mut notes = Vec::new();
        let mut note = |mark, text| notes.push(Note { mark, text });
        for (at, lookup) in seen.lookups.iter().enumerate() {
            let (name, table) = (&catalog.dimensions[at].name, &catalog.dimensions[at].table);
            let why = lookup.failure.as_deref().unwrap_or("the store could not be read");
            if !reads(|r| &r.dimensions, at) {
                continue;
            } else if lookup.epoch.is_none() && !lookup.missing {
                let text = format!("dimension {name}: table `{table}` was never loaded: NULL");
                note(Mark::Missing, text);
            } else if lookup.missing {
                note(Mark::Missing, format!("dimension {name}: missing: {why}"));
            } else if lookup.stale {
                note(Mark::Stale, format!("dimension {name}: stale: {why}"));
            }
        }
        for (tag, _) in seen.failed.iter().filter(|(at, _)| reads(|r| &r.tags, *at)) {
            let name = &catalog.tags[*tag].name;
            note(Mark::Failed, format!("{name}: cannot be computed for this user: no value"));
        }
        for (_, name, rows_max) in
            self.partly_streams(seen.state).filter(|(at, ..)| reads(|r| &r.streams, *at))
        {
            let text =
                format!("stream {name}: partly: features see {rows_max} of more rows (rows_max)");
            note(Mark::Partial, text);
        }
        let (layout, texts) = (&self.ruleset.layout, seen.texts.view());
        for (feature, kept) in estimated(seen.state, layout, seen.as_of, &texts) {
            if reads(|r| &r.features, feature) {
                note(Mark::Estimated, self.estimate(feature, kept));
            }
        }
        let dedupes = |at: usize| catalog.streams[at].dedupe.is_some() && reads(|r| &r.streams, at);
        if let Some(day) = seen.state.settled().and_then(|s| s.ids_forgotten_until)
            && (0..catalog.streams.len()).any(dedupes)
        {
            let until = OpenValue::Date(day).label();
            let text =
                format!("repeats are recognised only behind {until}: older ids were dropped");
            note(Mark::Partial, text);
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
