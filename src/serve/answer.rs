//! Users for whoever asks from outside: as stored where that is right, computed where it is not.
//!
//! In: uids and an instant. Out: for each the tags as codes and values, the instant they are true at,
//! and what is not exact about them. One multi-get reads all users; those for whom the stored values
//! may be wrong are evaluated as one batch.
//!
//! Stored values are right until the due instant, if everybody was computed by the present rules and
//! rows, no dimension table is missing or unreadable, and the state holds nothing inexact (which only
//! evaluating can put into words).
//! Invariant: reads only; a new epoch or catalogue is noticed within `SETTLED_FOR`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::notes::{Mark, Note, Seen};
use super::read::{Lookup, QUARANTINED, ReadError, Reader, not_back};
use crate::clock::{Stopwatch, earlier};
use crate::rule::AsOf;
use crate::store::{Bytes, Uid, UidKey};
use crate::user::features::{Due, FeatureBatch};
use crate::user::snapshot::{Head, TagsOnly, decode_tags};
use crate::user::state::UserState;
use crate::user::texts::Texts;
use crate::write::open::OpenValue;
use crate::write::profile::{ProfileError, StoredSchema};

/// How long it is taken for granted that stored values are those of the present rules and rows.
const SETTLED_FOR: Duration = Duration::from_secs(1);

/// Whether stored values are those of the present rules and rows, and when that was looked up.
#[derive(Debug, Default)]
pub(super) struct Settled(Mutex<Option<(Stopwatch, bool)>>);

/// One user's tags.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whose.
    pub uid: Uid,
    /// The instant the values are true at, epoch ms.
    pub as_of_ms: i64,
    /// Until when they are, without an event, epoch ms.
    pub due_ms: Option<i64>,
    /// The instant the stored profile was computed for, epoch ms.
    pub stored_as_of_ms: i64,
    /// Writes of this profile so far.
    pub version: u64,
    /// The values were computed for this answer.
    pub evaluated: bool,
    /// Codes of the closed tags, in the plan's order.
    pub codes: Box<[u8]>,
    /// Values of the open tags, in the plan's order.
    pub open: Vec<Option<OpenValue>>,
    /// What is to be known of the values, by what they read: see [`Reader::answers`].
    pub notes: Vec<Note>,
}

/// A user as stored, state not decoded yet.
struct Held<'a> {
    uid: &'a Uid,
    tags: TagsOnly<'a>,
    schema: Arc<StoredSchema>,
}

impl Reader {
    /// Users' tags, in the order of `uids`. `as_of_ms`: none for the present. `asked`: the tags
    /// (by catalogue index) that notes are to be about; none: all. A user's own failure is in its
    /// place; one of the store fails all.
    pub fn answers(
        &self,
        uids: &[Uid],
        as_of_ms: Option<i64>,
        asked: Option<&[usize]>,
    ) -> Result<Vec<Result<Answer, ReadError>>, ReadError> {
        let keys: Vec<UidKey> = uids.iter().map(Uid::to_key).collect();
        let rows = self.store.profiles(&keys)?;
        let asked_ms = as_of_ms;
        let present_ms = match asked_ms {
            Some(asked) => asked,
            None => self.present_ms()?,
        };
        let is_settled = self.is_settled();
        let mut answers: Vec<Option<Result<Answer, ReadError>>> = Vec::with_capacity(uids.len());
        let mut to_do: Vec<(usize, Held<'_>)> = Vec::new();
        for (at, (uid, row)) in uids.iter().zip(&rows).enumerate() {
            let stored = self.stored(uid, row.as_ref(), present_ms, asked_ms, is_settled);
            answers.push(stored.map_or_else(
                |error| Some(Err(error)),
                |(held, answer)| {
                    if answer.is_none() {
                        to_do.push((at, held));
                    }
                    answer.map(Ok)
                },
            ));
        }
        // Of those whose stored instant lies ahead (a clock was set back) the instants are their own.
        to_do.sort_by_key(|(_, held)| held.tags.head.as_of_ms.max(present_ms));
        for group in to_do.chunk_by(|(_, a), (_, b)| {
            a.tags.head.as_of_ms.max(present_ms) == b.tags.head.as_of_ms.max(present_ms)
        }) {
            let as_of_ms = group[0].1.tags.head.as_of_ms.max(present_ms);
            let held: Vec<&Held<'_>> = group.iter().map(|(_, held)| held).collect();
            let done = self.evaluate_held(&held, as_of_ms, asked);
            for ((at, _), answer) in group.iter().zip(done) {
                answers[*at] = Some(answer);
            }
        }
        Ok(answers
            .into_iter()
            .zip(uids)
            .map(|(a, uid)| a.unwrap_or_else(|| unknown(uid)))
            .collect())
    }

    /// A user as stored, and the answer when that is all there is to know.
    fn stored<'a>(
        &self,
        uid: &'a Uid,
        row: Option<&'a Bytes>,
        present_ms: i64,
        asked_ms: Option<i64>,
        is_settled: bool,
    ) -> Result<(Held<'a>, Option<Answer>), ReadError> {
        let bytes = row.ok_or_else(|| ReadError::UnknownUser(uid.to_string()))?;
        let tags = decode_tags(bytes).map_err(ProfileError::from)?;
        let Head { as_of_ms, due_ms, quarantined, .. } = tags.head;
        if let Some(asked) = asked_ms {
            not_back(asked, as_of_ms)?;
        }
        let schema = self.schemas.get(tags.head.schema, &self.ruleset, self.store.as_ref())?;
        let held = Held { uid, tags, schema };
        let exact_max = usize::try_from(self.ruleset.catalog.exact_values_max).unwrap_or(0);
        let is_right = is_settled && due_ms.is_none_or(|due| due > present_ms);
        let is_enough =
            quarantined || is_right && tags.is_exact(exact_max).map_err(ProfileError::from)?;
        if !is_enough {
            return Ok((held, None));
        }
        let mut answer = held.as_stored();
        if let Some(asked) = asked_ms.filter(|_| !quarantined) {
            answer.as_of_ms = asked;
        }
        Ok((held, Some(answer)))
    }

    /// Whether stored values are those of the present rules and rows. A store that cannot say is
    /// no reason to fail: then users are evaluated.
    fn is_settled(&self) -> bool {
        let mut known = self.settled.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, is_settled)) = known.as_ref()
            && since.elapsed() < SETTLED_FOR
        {
            return *is_settled;
        }
        self.dimensions.refresh();
        let (store, ruleset) = (self.store.as_ref(), &self.ruleset);
        let is_settled = self.dimensions.failure().is_none()
            && self.dimensions.missing_tables().is_empty()
            && crate::engine::reload::is_applied(store, &ruleset.catalog).unwrap_or(false)
            && (ruleset.version == 0
                || crate::engine::version::is_recomputed(store, ruleset.version).unwrap_or(false));
        *known = Some((Stopwatch::start(), is_settled));
        is_settled
    }

    /// Dimension tables that were never loaded, and why the store could not say, as the last read
    /// saw it.
    pub fn dimension_troubles(&self) -> (Vec<String>, Option<String>) {
        // Looks anew where the last look is too old.
        self.is_settled();
        (self.dimensions.missing_tables(), self.dimensions.failure())
    }

    /// Evaluates users as one batch; where that shows something inexact, one by one, to say of whom.
    fn evaluate_held(
        &self,
        held: &[&Held<'_>],
        as_of_ms: i64,
        asked: Option<&[usize]>,
    ) -> Vec<Result<Answer, ReadError>> {
        let batch = catch_unwind(AssertUnwindSafe(|| self.evaluate_batch(held, as_of_ms, asked)));
        match (batch, held) {
            (Ok(Ok(Some(answers))), _) => answers.into_iter().map(Ok).collect(),
            (Ok(Err(error)), [_]) => vec![Err(error)],
            (Err(_), [one]) => vec![Ok(one.as_quarantined())],
            // Somebody's rules panic, or something is to be said of somebody: find out of whom.
            _ => {
                let (left, right) = held.split_at(held.len() / 2);
                let mut answers = self.evaluate_held(left, as_of_ms, asked);
                answers.extend(self.evaluate_held(right, as_of_ms, asked));
                answers
            }
        }
    }

    /// None: something is to be noted of one of several.
    fn evaluate_batch(
        &self,
        held: &[&Held<'_>],
        as_of_ms: i64,
        asked: Option<&[usize]>,
    ) -> Result<Option<Vec<Answer>>, ReadError> {
        let ruleset = &self.ruleset;
        let (plan, as_of) = (&ruleset.plan, self.as_of(as_of_ms));
        let texts = Texts::default();
        let state = |h: &&Held<'_>| h.tags.state(&h.schema.layout, &ruleset.layout, &texts);
        let states: Vec<UserState> =
            held.iter().map(state).collect::<Result<_, _>>().map_err(ProfileError::from)?;
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        let view = texts.view();
        let dues: Vec<Due> = states.iter().map(|s| features.push(s, as_of, &view)).collect();
        let mut inputs = features.take(&view);
        drop(view);
        let uids: Vec<&Uid> = held.iter().map(|h| h.uid).collect();
        let lookups = self.look_up(&uids, &mut inputs);
        let tags = plan.evaluate(&inputs, held.len(), as_of);
        let closed = self.closed(&inputs, held.len(), as_of);
        let is_one = held.len() == 1;
        let is_odd = |l: &Lookup| l.stale || l.missing;
        if !is_one && (!tags.failed.is_empty() || lookups.iter().any(is_odd)) {
            return Ok(None);
        }
        let reach =
            asked.map(|tags| crate::catalog::select::reach(tags.iter().copied(), &ruleset.catalog));
        let mut answers = Vec::with_capacity(held.len());
        for (row, (held, state)) in held.iter().zip(&states).enumerate() {
            let seen =
                Seen { state, texts: &texts, as_of, lookups: &lookups, failed: &tags.failed };
            let day = |days: &[i32]| days.get(row).copied().unwrap_or(Due::NEVER.day);
            let may_change = Due { day: day(&tags.due_days), hop: tags.due_hop };
            let closed_due = Due { day: day(&closed.tags().due_days), hop: closed.tags().due_hop };
            let due = may_change.min(closed_due).min(dues[row]);
            let mut answer = held.answer();
            answer.as_of_ms = as_of_ms;
            answer.due_ms = self.due_at(due, as_of);
            answer.evaluated = true;
            answer.codes = plan.packing().unpack(tags.codes_of(row));
            answer.open = tags.open.iter().map(|array| OpenValue::at(array, row)).collect();
            answer.notes = self.notes(seen, reach.as_ref());
            answer.note_closed(self.is_closed(&closed, row));
            answers.push(answer);
        }
        Ok(Some(answers))
    }

    fn due_at(&self, due: Due, as_of: AsOf) -> Option<i64> {
        let due_ms = due.at_ms(|day| self.ruleset.catalog.zone.day_start_ms(day));
        earlier(due_ms, self.ruleset.plan.next_edge_ms(as_of.ms))
    }
}

impl Held<'_> {
    /// Without values.
    fn answer(&self) -> Answer {
        let Head { as_of_ms, due_ms, version, .. } = self.tags.head;
        Answer {
            uid: self.uid.clone(),
            as_of_ms,
            due_ms,
            stored_as_of_ms: as_of_ms,
            version,
            evaluated: false,
            codes: Box::default(),
            open: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn as_stored(&self) -> Answer {
        let mut answer = self.answer();
        answer.codes = self.schema.codes(&self.tags);
        answer.open = self.schema.open_values(&self.tags);
        if self.tags.head.quarantined {
            let text = QUARANTINED.to_owned();
            answer.notes.push(Note { mark: Mark::Quarantined, text });
        }
        answer.note_closed(self.tags.head.closed);
        answer
    }

    /// What is there of a user whose state or rules panic.
    fn as_quarantined(&self) -> Answer {
        let mut answer = self.as_stored();
        if !self.tags.head.quarantined {
            let text = QUARANTINED.to_owned();
            answer.notes.insert(0, Note { mark: Mark::Quarantined, text });
        }
        answer
    }
}

impl Answer {
    fn note_closed(&mut self, is_closed: bool) {
        if is_closed {
            let text = "the account is closed".to_owned();
            self.notes.push(Note { mark: Mark::Closed, text });
        }
    }

    /// In which ways something is not exact, each once.
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = self.notes.iter().map(|note| note.mark).collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }
}

fn unknown(uid: &Uid) -> Result<Answer, ReadError> {
    Err(ReadError::UnknownUser(uid.to_string()))
}
