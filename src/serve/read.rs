//! One user's tags, right at the instant of the read.
//!
//! In: a uid and an instant. Out: every tag's value as of that instant, computed from the stored
//! state with the present rules and dimension rows, and what the store holds beside it.
//! Invariant: reads only; stored as-of never goes back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};

use super::answer::Settled;
use super::notes::{Seen, texts};
use crate::catalog::model::{Catalog, Strategy, Tag};
use crate::clock::{earlier, show_instant};
use crate::dimension::{Dimensions, Lookups, Now, SpecError};
use crate::engine::EngineError;
use crate::engine::ruleset::Ruleset;
use crate::engine::version::VersionError;
use crate::rule::closed::ClosedBatch;
use crate::rule::{AsOf, Plan, PlanError, TagBatch};
use crate::shard::compute::add_dimension_columns;
use crate::store::{Bytes, ClockMode, Epoch, Store, StoreError, Uid, UidError, UidKey};
use crate::user::features::{Due, FeatureBatch};
use crate::user::snapshot::{Head, decode_tags};
use crate::user::state::UserState;
use crate::user::texts::Texts;
use crate::write::open::OpenValue;
use crate::write::profile::{ProfileError, Schemas, label_of};
use crate::write::window::AS_OF_KEY;

/// Why a user could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The profile cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A dimension cannot be looked up.
    #[error(transparent)]
    Dimension(#[from] SpecError),
    /// A tag cannot be computed alone, though the catalogue as a whole can.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store's catalogue versions cannot be read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// How far the store's history is cannot be read.
    #[error(transparent)]
    History(#[from] Box<EngineError>),
    /// A stored key is no uid of this store's type.
    #[error(transparent)]
    Key(#[from] UidError),
    /// Nothing is known of this user.
    #[error(
        "the store has no user `{0}`: no event of this uid was accepted (see `tagloom rejects`)"
    )]
    UnknownUser(String),
    /// No tag of this name.
    #[error("the catalogue has no tag `{name}`{hint}")]
    UnknownTag {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`
        hint: String,
    },
    /// The store has no instant yet.
    #[error("the store holds no window yet: run `tagloom run` first, or give --as-of INSTANT")]
    Empty,
    /// As-of would go back.
    #[error(
        "as-of {asked} lies before {stored}, which this user was computed for; as-of never goes \
         back: ask for a later instant"
    )]
    AsOfBack {
        /// What was asked for.
        asked: String,
        /// What the profile has.
        stored: String,
    },
}

impl ReadError {
    /// Whether what was asked cannot be answered, whoever is asked.
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::UnknownUser(_) | Self::UnknownTag { .. } | Self::Empty | Self::AsOfBack { .. }
        )
    }
}

/// A user's tags as of an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTags {
    /// Whose.
    pub uid: String,
    /// The instant the values are true at, epoch ms.
    pub as_of_ms: i64,
    /// The business timezone.
    pub timezone: String,
    /// From when on a value may be another without an event, epoch ms.
    pub due_ms: Option<i64>,
    /// Writes of this profile so far.
    pub version: u64,
    /// The instant the stored profile was computed for, epoch ms.
    pub stored_as_of_ms: i64,
    /// Its due instant had passed: the values were computed for this read.
    pub was_due: bool,
    /// The user's state or a rule panics: the values are the stored ones.
    pub quarantined: bool,
    /// The account is closed: see `closed` in the catalogue.
    pub closed: bool,
    /// Tags whose stored value is another one.
    pub differs: Vec<String>,
    /// Streams with so many rows of this user that features see a part of them.
    pub partly: Vec<String>,
    /// What is stale, missing or estimated.
    pub notes: Vec<String>,
    /// All tags, in catalogue order.
    pub tags: Vec<TagValue>,
}

/// One tag of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagValue {
    /// The tag.
    pub name: String,
    /// Its value; none: it has none.
    pub value: Option<String>,
    /// What it belongs to.
    pub group: String,
    /// Who answers for it.
    pub owner: String,
}

/// A user's tags as the store codes them.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// Whose.
    pub uid: Uid,
    /// Codes of the closed tags, in the plan's order.
    pub codes: Box<[u8]>,
    /// Values of the open tags, in the plan's order.
    pub open: Vec<Option<OpenValue>>,
    /// The account is closed.
    pub closed: bool,
}

/// A user as stored, state included.
pub(super) struct StoredUser {
    pub(super) uid: Uid,
    pub(super) head: Head,
    /// By catalogue tag index.
    pub(super) values: Vec<Option<String>>,
    pub(super) state: UserState,
    pub(super) texts: Texts,
}

/// Many users' inputs as of an instant.
pub(super) struct Batch {
    /// As stored.
    pub(super) users: Vec<UserRow>,
    /// Indices of those who are not quarantined.
    pub(super) healthy: Vec<usize>,
    /// Columns with a row for each of these.
    pub(super) inputs: Vec<ArrayRef>,
}

/// A user's inputs and tags as of an instant.
pub(super) struct Evaluation {
    pub(super) as_of: AsOf,
    /// Columns of one row: features, then dimension columns.
    pub(super) inputs: Vec<ArrayRef>,
    pub(super) tags: TagBatch,
    /// The account is closed.
    pub(super) closed: bool,
    /// When a feature may change.
    pub(super) feature_due: Due,
    /// When anything may change without an event, epoch ms.
    pub(super) due_ms: Option<i64>,
    /// By dimension.
    pub(super) lookups: Vec<Lookup>,
}

/// What looking a user up in a dimension gave besides values.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookup {
    pub(super) epoch: Option<Epoch>,
    pub(super) stale: bool,
    pub(super) missing: bool,
    pub(super) absent: bool,
    pub(super) failure: Option<String>,
}

/// What is said of the values of a quarantined user.
pub(super) const QUARANTINED: &str = "quarantined: the values are the last ones that were stored";

/// Reads users.
pub struct Reader {
    pub(super) ruleset: Arc<Ruleset>,
    pub(super) store: Arc<dyn Store>,
    pub(super) dimensions: Dimensions,
    pub(super) schemas: Schemas,
    pub(super) now: Now,
    /// Whether stored values are those of the present rules and rows: see [`super::answer`].
    pub(super) settled: Settled,
}

/// How long a reader keeps a row of a stored table that a topic keeps.
const KEPT_BY_TOPIC_FOR_MS: u64 = 1_000;

impl Reader {
    /// A reader over a store. `now`: the machine's clock, or a virtual one.
    pub fn open(
        ruleset: Arc<Ruleset>,
        store: Arc<dyn Store>,
        now: Now,
        lookups: &Lookups,
    ) -> Result<Self, ReadError> {
        // A read wants one row of a table: nothing is worth preloading.
        let mut catalog: Catalog = (*ruleset.catalog).clone();
        for dimension in &mut catalog.dimensions {
            if dimension.strategy == Strategy::Preload {
                dimension.strategy = Strategy::Cached;
            }
            // Nobody tells a reader which rows a topic has changed.
            if dimension.topic.is_some() && dimension.strategy == Strategy::Cached {
                dimension.ttl_ms = dimension.ttl_ms.min(KEPT_BY_TOPIC_FOR_MS);
            }
        }
        let dimensions = Dimensions::open(&catalog, Arc::clone(&store), Arc::clone(&now), lookups)?;
        Ok(Self {
            ruleset,
            store,
            dimensions,
            schemas: Schemas::default(),
            now,
            settled: Settled::default(),
        })
    }

    /// The catalogue it reads by.
    pub fn ruleset(&self) -> &Arc<Ruleset> {
        &self.ruleset
    }

    /// All tags of a user. `as_of_ms`: none for now, or the store's last as-of where its clock is
    /// not the machine's.
    pub fn read(&self, uid: &Uid, as_of_ms: Option<i64>) -> Result<UserTags, ReadError> {
        let user = self.user(uid)?;
        let as_of_ms = self.instant(&user, as_of_ms)?;
        let evaluation = self.evaluate_safely(&user, as_of_ms);
        let catalog = &self.ruleset.catalog;
        let values = match &evaluation {
            Some(evaluation) => self.labels(&evaluation.tags, 0),
            None => user.values.clone(),
        };
        let differs = |at: &usize| values[*at] != user.values[*at];
        let names = |at: usize| catalog.tags[at].name.clone();
        let notes = match &evaluation {
            Some(evaluation) => texts(self.notes(Seen::of(&user, evaluation), None)),
            None => vec![QUARANTINED.to_owned()],
        };
        Ok(UserTags {
            uid: user.uid.to_string(),
            timezone: catalog.zone.name().to_owned(),
            as_of_ms: if evaluation.is_some() { as_of_ms } else { user.head.as_of_ms },
            due_ms: evaluation.as_ref().map_or(user.head.due_ms, |e| e.due_ms),
            version: user.head.version,
            stored_as_of_ms: user.head.as_of_ms,
            was_due: user.head.due_ms.is_some_and(|due| due <= as_of_ms),
            quarantined: evaluation.is_none(),
            closed: evaluation.as_ref().map_or(user.head.closed, |e| e.closed),
            differs: (0..values.len()).filter(differs).map(names).collect(),
            partly: self.partly(&user),
            notes,
            tags: catalog
                .tags
                .iter()
                .zip(values)
                .map(|(tag, value)| TagValue {
                    name: tag.name.clone(),
                    value,
                    group: tag.group.clone(),
                    owner: tag.owner.clone(),
                })
                .collect(),
        })
    }

    /// Many users as of an instant, in the order of `rows` (as the store scans them). A quarantined
    /// user has its stored values.
    pub fn read_rows(
        &self,
        rows: &[(UidKey, Bytes)],
        as_of_ms: i64,
    ) -> Result<Vec<UserRow>, ReadError> {
        let done = catch_unwind(AssertUnwindSafe(|| self.read_batch(rows, as_of_ms)));
        match (done, rows) {
            (Ok(done), _) => done,
            (Err(_), [row]) => Ok(vec![self.stored_row(row)?.0]),
            (Err(_), _) => {
                let (left, right) = rows.split_at(rows.len() / 2);
                let mut users = self.read_rows(left, as_of_ms)?;
                users.extend(self.read_rows(right, as_of_ms)?);
                Ok(users)
            }
        }
    }

    fn read_batch(
        &self,
        rows: &[(UidKey, Bytes)],
        as_of_ms: i64,
    ) -> Result<Vec<UserRow>, ReadError> {
        let Batch { mut users, healthy, inputs } = self.batch(rows, as_of_ms)?;
        let plan = &self.ruleset.plan;
        let as_of = self.as_of(as_of_ms);
        let batch = plan.evaluate(&inputs, healthy.len(), as_of);
        let closed = self.closed(&inputs, healthy.len(), as_of);
        for (row, at) in healthy.into_iter().enumerate() {
            users[at].closed = self.is_closed(&closed, row);
            users[at].codes = plan.packing().unpack(batch.codes_of(row));
            users[at].open = batch.open.iter().map(|array| OpenValue::at(array, row)).collect();
        }
        Ok(users)
    }

    pub(super) fn as_of(&self, ms: i64) -> AsOf {
        AsOf { ms, day: self.ruleset.catalog.zone.day_of(ms) }
    }

    /// Users as stored, and the input columns of those who are healthy.
    pub(super) fn batch(
        &self,
        rows: &[(UidKey, Bytes)],
        as_of_ms: i64,
    ) -> Result<Batch, ReadError> {
        let ruleset = &self.ruleset;
        let as_of = self.as_of(as_of_ms);
        let mut users = Vec::with_capacity(rows.len());
        let mut healthy = Vec::with_capacity(rows.len());
        let texts = Texts::default();
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        for (at, row) in rows.iter().enumerate() {
            let (user, head) = self.stored_row(row)?;
            not_back(as_of_ms, head.as_of_ms)?;
            users.push(user);
            if !head.quarantined {
                let tags = decode_tags(&row.1).map_err(ProfileError::from)?;
                let schema = self.schemas.get(head.schema, ruleset, self.store.as_ref())?;
                let state = tags.state(&schema.layout, &ruleset.layout, &texts);
                let state = state.map_err(ProfileError::from)?;
                features.push(&state, as_of, &texts.view());
                healthy.push(at);
            }
        }
        let mut inputs = features.take(&texts.view());
        let uids: Vec<&Uid> = healthy.iter().map(|at| &users[*at].uid).collect();
        let pinned = self.dimensions.pin();
        add_dimension_columns(ruleset, &pinned, &uids, &mut inputs, |_, _| {});
        Ok(Batch { users, healthy, inputs })
    }

    fn stored_row(&self, (key, bytes): &(UidKey, Bytes)) -> Result<(UserRow, Head), ReadError> {
        let tags = decode_tags(bytes).map_err(ProfileError::from)?;
        let schema = self.schemas.get(tags.head.schema, &self.ruleset, self.store.as_ref())?;
        let uid = Uid::from_key(self.ruleset.catalog.uid, key)?;
        let (codes, open) = (schema.codes(&tags), schema.open_values(&tags));
        Ok((UserRow { uid, codes, open, closed: tags.head.closed }, tags.head))
    }

    /// A user as stored.
    pub(super) fn user(&self, uid: &Uid) -> Result<StoredUser, ReadError> {
        let found = self.store.profiles(&[uid.to_key()])?.pop().flatten();
        let bytes = found.ok_or_else(|| ReadError::UnknownUser(uid.to_string()))?;
        let tags = decode_tags(&bytes).map_err(ProfileError::from)?;
        let schema = self.schemas.get(tags.head.schema, &self.ruleset, self.store.as_ref())?;
        let texts = Texts::default();
        let state = tags.state(&schema.layout, &self.ruleset.layout, &texts);
        let state = state.map_err(ProfileError::from)?;
        let mut values = vec![None; self.ruleset.catalog.tags.len()];
        for (tag, code) in self.ruleset.plan.closed_tags().iter().zip(&schema.codes(&tags)) {
            let label = label_of(&self.ruleset.catalog.tags[*tag].domain, *code);
            values[*tag] = label.map(str::to_owned);
        }
        for (tag, value) in self.ruleset.plan.open_tags().iter().zip(schema.open_values(&tags)) {
            values[*tag] = value.map(|v| v.label());
        }
        Ok(StoredUser { uid: uid.clone(), head: tags.head, values, state, texts })
    }

    /// The instant of a read.
    pub(super) fn instant(
        &self,
        user: &StoredUser,
        asked_ms: Option<i64>,
    ) -> Result<i64, ReadError> {
        let stored_ms = user.head.as_of_ms;
        match asked_ms {
            Some(asked) => not_back(asked, stored_ms).map(|()| asked),
            None => Ok(self.present_ms()?.max(stored_ms)),
        }
    }

    /// The instant of a read that names none: now, or the store's last as-of where its clock is not
    /// the machine's.
    pub fn present_ms(&self) -> Result<i64, ReadError> {
        let present = match self.store.identity().clock {
            ClockMode::Wall => Some((self.now)()),
            ClockMode::Fixed | ClockMode::Event => self.last_as_of_ms()?,
        };
        present.ok_or(ReadError::Empty)
    }

    fn last_as_of_ms(&self) -> Result<Option<i64>, ReadError> {
        let bytes = self.store.meta(AS_OF_KEY)?;
        // A damaged value is none: each profile knows its own instant.
        Ok(bytes.and_then(|b| serde_json::from_slice::<Option<i64>>(&b).ok()).flatten())
    }

    /// None: the user is quarantined, or is to be.
    pub(super) fn evaluate_safely(&self, user: &StoredUser, as_of_ms: i64) -> Option<Evaluation> {
        if user.head.quarantined {
            return None;
        }
        // A new epoch of a table is seen by the next read.
        self.dimensions.refresh();
        catch_unwind(AssertUnwindSafe(|| self.evaluate(user, as_of_ms))).ok()
    }

    /// Inputs and tags of a user as of an instant.
    pub(super) fn evaluate(&self, user: &StoredUser, as_of_ms: i64) -> Evaluation {
        let as_of = self.as_of(as_of_ms);
        let (inputs, feature_due, lookups) = self.inputs(user, as_of);
        let tags = self.ruleset.plan.evaluate(&inputs, 1, as_of);
        let closed = self.closed(&inputs, 1, as_of);
        let may_change = feature_due.min(first_due(closed.tags()));
        let due_ms = self.due_ms(&self.ruleset.plan, as_of, &tags, may_change);
        let closed = self.is_closed(&closed, 0);
        Evaluation { as_of, inputs, tags, closed, feature_due, due_ms, lookups }
    }

    /// Whose account is closed, and when time alone may change that; nothing where the catalogue does
    /// not say when an account is closed.
    pub(super) fn closed(&self, inputs: &[ArrayRef], rows: usize, as_of: AsOf) -> ClosedBatch {
        let mut batch = ClosedBatch::default();
        if let Some(rule) = &self.ruleset.closed {
            rule.evaluate(inputs, rows, as_of, &mut batch);
        }
        batch
    }

    pub(super) fn is_closed(&self, batch: &ClosedBatch, row: usize) -> bool {
        self.ruleset.closed.as_ref().is_some_and(|rule| rule.holds(batch, row))
    }

    /// A user's input columns at an instant, when a feature may change, and what the lookups gave.
    pub(super) fn inputs(
        &self,
        user: &StoredUser,
        as_of: AsOf,
    ) -> (Vec<ArrayRef>, Due, Vec<Lookup>) {
        let ruleset = &self.ruleset;
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        let texts = user.texts.view();
        let feature_due = features.push(&user.state, as_of, &texts);
        let mut inputs = features.take(&texts);
        let lookups = self.look_up(&[&user.uid], &mut inputs);
        (inputs, feature_due, lookups)
    }

    /// Appends the columns of all dimensions to users' features; gives what each lookup gave.
    pub(super) fn look_up(&self, uids: &[&Uid], inputs: &mut Vec<ArrayRef>) -> Vec<Lookup> {
        let pinned = self.dimensions.pin();
        let mut lookups = vec![Lookup::default(); self.ruleset.catalog.dimensions.len()];
        add_dimension_columns(&self.ruleset, &pinned, uids, inputs, |at, enriched| {
            lookups[at] = Lookup {
                epoch: pinned.epoch(at),
                stale: enriched.stale,
                missing: !enriched.missing.is_empty(),
                absent: enriched.absent_rows > 0,
                failure: enriched.failure.clone(),
            };
        });
        lookups
    }

    /// All tags of one row, by catalogue tag index.
    pub(super) fn labels(&self, batch: &TagBatch, row: usize) -> Vec<Option<String>> {
        labels_of(&self.ruleset.plan, &self.ruleset.catalog.tags, batch, row)
    }

    /// The instant at which a plan's tags (one row) or a feature may change without an event.
    pub(super) fn due_ms(
        &self,
        plan: &Plan,
        as_of: AsOf,
        tags: &TagBatch,
        feature_due: Due,
    ) -> Option<i64> {
        let due = first_due(tags).min(feature_due);
        let due_ms = due.at_ms(|day| self.ruleset.catalog.zone.day_start_ms(day));
        earlier(due_ms, plan.next_edge_ms(as_of.ms))
    }
}

/// When time alone may change a tag of the first row.
pub(super) fn first_due(tags: &TagBatch) -> Due {
    let day = tags.due_days.first().copied().unwrap_or(Due::NEVER.day);
    Due { day, hop: tags.due_hop }
}

/// All tags of one row of a plan's batch, in the order of `tags`.
pub(super) fn labels_of(
    plan: &Plan,
    tags: &[Tag],
    batch: &TagBatch,
    row: usize,
) -> Vec<Option<String>> {
    let mut values = vec![None; tags.len()];
    let codes = batch.codes_of(row);
    for (at, tag) in plan.closed_tags().iter().enumerate() {
        let code = plan.packing().get(codes, at);
        values[*tag] = label_of(&tags[*tag].domain, code).map(str::to_owned);
    }
    for (tag, array) in plan.open_tags().iter().zip(&batch.open) {
        values[*tag] = OpenValue::at(array, row).map(|v| v.label());
    }
    values
}

/// Stored as-of never goes back.
pub(super) fn not_back(asked_ms: i64, stored_ms: i64) -> Result<(), ReadError> {
    if asked_ms >= stored_ms {
        return Ok(());
    }
    Err(ReadError::AsOfBack { asked: show_instant(asked_ms), stored: show_instant(stored_ms) })
}
