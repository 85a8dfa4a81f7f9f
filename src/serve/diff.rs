//! Who would have other tags under other rules.
//!
//! In: a reader by the old catalogue and one by the new, over one store. Out: for each tag that
//! means something else how many users flip, from which value to which, with examples; for each new
//! tag how many users have which value; whose accounts would close or be open again; and what cannot
//! be computed, because the store does not hold what it looks at.
//! Invariant: no number is given for a tag whose inputs the store does not hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::expect::Users;
use super::read::{ReadError, Reader, UserRow};
use super::survey::{Survey, Surveyed};
use super::tally::{Column, Tally};
use crate::catalog::diff::{Change, changes, closed};
use crate::catalog::meaning::table_column;
use crate::catalog::model::{Catalog, Dimension, DimensionColumn, Span};
use crate::catalog::select::{Reach, reach, reach_of_closed};
use crate::engine::version::{Version, active};

/// Pairs of values of one tag that are told apart.
const PAIRS_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who was looked at; none: only the rules were compared.
    pub surveyed: Option<Surveyed>,
    /// The business timezone.
    pub timezone: String,
    /// The store is written with the old catalogue.
    pub old_is_active: bool,
    /// Tags of the old and of the new catalogue.
    pub tags: (usize, usize),
    /// Tags that differ, in the order of the new catalogue; those that are gone come last.
    pub changes: Vec<TagChange>,
    /// Accounts are closed on another condition.
    pub closed: Option<ClosedChange>,
}

/// Accounts are closed on another condition than before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedChange {
    /// The old condition; none: no account was closed.
    pub old: Option<String>,
    /// The new one; none: no account will be.
    pub new: Option<String>,
    /// The condition itself is another one.
    pub rule: bool,
    /// What it reads is another one.
    pub through: Vec<String>,
    /// Users whose account would close.
    pub close: Users,
    /// Users whose closed account would be open again.
    pub reopen: Users,
    /// Why there are no users to tell of.
    pub lacks: Vec<String>,
}

/// One tag that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChange {
    /// Its name in the old catalogue; none: it is new.
    pub old: Option<String>,
    /// Its name in the new catalogue; none: it is gone.
    pub new: Option<String>,
    /// It means something else.
    pub meaning: bool,
    /// Its own rule is another one.
    pub rule: bool,
    /// What it reads is another one.
    pub through: Vec<String>,
    /// What else is said of it now.
    pub terms: Vec<String>,
    /// A tag that is gone and meant the same.
    pub like: Option<String>,
    /// Users by value before and now, most users first; users whose value stays are not among them.
    pub flips: Vec<Flip>,
    /// Users who flip between further values.
    pub flips_more: u64,
    /// A new tag's values.
    pub values: Option<Tally>,
    /// Why there are no users to tell of.
    pub lacks: Vec<String>,
}

/// Users whose value is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// The value by the old rules; none: no value.
    pub from: Option<String>,
    /// Who has which value by the new ones.
    pub to: Users,
}

/// Compares the rules alone.
pub fn of_rules(old: &Catalog, new: &Catalog) -> Report {
    let found = changes(old, new);
    Report {
        surveyed: None,
        old_is_active: true,
        timezone: new.zone.name().to_owned(),
        tags: (old.tags.len(), new.tags.len()),
        changes: found.iter().map(|change| described(change, old, new)).collect(),
        closed: closed(old, new).map(|because| ClosedChange {
            old: old.closed.as_ref().map(|expr| expr.sql.clone()),
            new: new.closed.as_ref().map(|expr| expr.sql.clone()),
            rule: because.rule,
            through: because.through,
            ..ClosedChange::default()
        }),
    }
}

fn described(change: &Change, old: &Catalog, new: &Catalog) -> TagChange {
    let name = |catalog: &Catalog, at: usize| Some(catalog.tags[at].name.clone());
    match change {
        Change::Added { new: at, like } => TagChange {
            new: name(new, *at),
            like: like.and_then(|like| name(old, like)),
            ..TagChange::default()
        },
        Change::Removed { old: at } => TagChange { old: name(old, *at), ..TagChange::default() },
        Change::Kept { old: was, new: at, meaning, terms } => TagChange {
            old: name(old, *was),
            new: name(new, *at),
            meaning: meaning.is_some(),
            rule: meaning.as_ref().is_some_and(|m| m.rule),
            through: meaning.as_ref().map(|m| m.through.clone()).unwrap_or_default(),
            terms: terms.clone(),
            ..TagChange::default()
        },
    }
}

/// Compares the rules, and what they give for the users of a survey. `old` is the catalogue that the
/// store was written with.
pub fn of_users(
    old: &Reader,
    new: &Reader,
    survey: &Survey<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ReadError> {
    let catalogs = (&old.ruleset.catalog, &new.ruleset.catalog);
    let found = changes(catalogs.0, catalogs.1);
    let mut report = of_rules(catalogs.0, catalogs.1);
    let mut watches: Vec<Watch> = found.iter().map(|change| Watch::of(change, old, new)).collect();
    let surveyed = survey.rows(&[new], progress, |rows, as_of_ms| {
        let before = old.read_rows(rows, as_of_ms)?;
        let after = new.read_rows(rows, as_of_ms)?;
        for watch in &mut watches {
            for (before, after) in before.iter().zip(&after) {
                watch.see((old, before), (new, after));
            }
        }
        if let Some(closed) = &mut report.closed {
            before.iter().zip(&after).for_each(|(before, after)| closed.see(before, after));
        }
        Ok(())
    })?;
    let active = active(survey.store)?;
    let is_active = |v: &Version| v.fingerprint == catalogs.0.fingerprint;
    report.old_is_active = active.as_ref().is_none_or(is_active);
    let lacking = Lacking::new(old, new, active.map_or(0, |v| v.number));
    for ((change, watch), found) in report.changes.iter_mut().zip(watches).zip(&found) {
        if let Some(new) = found.in_new() {
            change.lacks = lacking.of_tag(new);
        }
        if change.lacks.is_empty() {
            watch.finish(change);
        }
    }
    if let Some(closed) = &mut report.closed {
        closed.finish(lacking.of_closed());
    }
    // What means the same and is kept under another name would begin anew, too.
    for (at, tag) in catalogs.1.tags.iter().enumerate() {
        let lacks = lacking.of_tag(at);
        if !lacks.is_empty() && found.iter().all(|change| change.in_new() != Some(at)) {
            let name = Some(tag.name.clone());
            let (old, new) = (name.clone(), name);
            report.changes.push(TagChange { old, new, lacks, ..TagChange::default() });
        }
    }
    report.surveyed = Some(surveyed);
    Ok(report)
}

impl ClosedChange {
    fn see(&mut self, before: &UserRow, after: &UserRow) {
        match (before.closed, after.closed) {
            (false, true) => self.close.add(after),
            (true, false) => self.reopen.add(after),
            _ => {}
        }
    }

    /// Nothing is told where the store does not hold what the new condition looks at.
    fn finish(&mut self, lacks: Vec<String>) {
        if !lacks.is_empty() {
            (self.close, self.reopen) = (Users::default(), Users::default());
        }
        self.lacks = lacks;
    }
}

/// What is seen of one tag that differs.
struct Watch {
    old: Option<Column>,
    new: Option<Column>,
    flips: BTreeMap<(Option<String>, Option<String>), Users>,
    flips_more: u64,
    values: Tally,
}

impl Watch {
    fn of(change: &Change, old: &Reader, new: &Reader) -> Self {
        let (before, after) = match change {
            Change::Added { new: at, .. } => (None, Column::of(*at, &new.ruleset)),
            Change::Kept { old: was, new: at, meaning: Some(_), .. } => {
                (Column::of(*was, &old.ruleset), Column::of(*at, &new.ruleset))
            }
            Change::Removed { .. } | Change::Kept { .. } => (None, None),
        };
        Self {
            old: before,
            new: after,
            flips: BTreeMap::new(),
            flips_more: 0,
            values: Tally::default(),
        }
    }

    fn see(&mut self, before: (&Reader, &UserRow), after: (&Reader, &UserRow)) {
        let Some(new) = self.new else { return };
        let user = after.1;
        new.see(&after.0.ruleset, &user.codes, &user.open, |is| {
            let Some(old) = self.old else {
                self.values.add(is);
                return;
            };
            old.see(&before.0.ruleset, &before.1.codes, &before.1.open, |was| {
                if was == is {
                    return;
                }
                let pair = (was.map(str::to_owned), is.map(str::to_owned));
                if self.flips.len() >= PAIRS_MAX && !self.flips.contains_key(&pair) {
                    self.flips_more += 1;
                    return;
                }
                self.flips.entry(pair).or_default().add(user);
            });
        });
    }

    fn finish(self, change: &mut TagChange) {
        if self.old.is_some() {
            change.flips_more = self.flips_more;
            let flip =
                |((from, to), users): (_, Users)| Flip { from, to: Users { value: to, ..users } };
            change.flips = self.flips.into_iter().map(flip).collect();
            change.flips.sort_by_key(|flip| std::cmp::Reverse(flip.to.users));
        } else if self.new.is_some() {
            change.values = Some(self.values);
        }
    }
}

/// What the store does not hold of what a catalogue's features and dimensions look at.
struct Lacking {
    catalog: Arc<Catalog>,
    /// By feature: why it cannot be computed.
    features: Vec<Option<String>>,
    /// By dimension: why its columns have no values.
    dimensions: Vec<Option<String>>,
}

impl Lacking {
    /// Of the new catalogue, over a store that is written with the old one. `active`: the number
    /// of the version it is written with.
    fn new(old: &Reader, new: &Reader, active: u32) -> Self {
        let catalog = &new.ruleset.catalog;
        let mut features: Vec<Option<String>> = vec![None; catalog.features.len()];
        let horizon_days = old.ruleset.layout.horizon_days;
        for partial in new.ruleset.layout.streams.iter().flat_map(|s| &s.partials) {
            for (at, span) in &partial.features {
                let days = match span {
                    Span::Days { days, offset } => days + offset,
                    Span::Rolling { .. } | Span::Lifetime => 0,
                };
                let name = &catalog.features[*at].name;
                // A version that is not active would make it count from then on.
                features[*at] = if partial.since > active {
                    Some(format!("`{name}` has no history: it would count from now on"))
                } else if days > horizon_days {
                    Some(format!("`{name}`: days are kept apart for {horizon_days} days only"))
                } else {
                    None
                };
            }
        }
        let columns = |catalog: &Catalog, at: usize| -> Vec<u64> {
            let dimension = &catalog.dimensions[at];
            let means = |c: &DimensionColumn| table_column(&dimension.table, &c.from, &c.kind);
            dimension.columns.iter().map(means).collect()
        };
        let before = &old.ruleset.catalog;
        let loaded: HashSet<u64> =
            (0..before.dimensions.len()).flat_map(|at| columns(before, at)).collect();
        let dimension = |(at, dimension): (usize, &Dimension)| {
            let has_all = columns(catalog, at).iter().all(|column| loaded.contains(column));
            let Dimension { name, table, .. } = dimension;
            (!has_all)
                .then(|| format!("`{name}`: table `{table}` was loaded without these columns"))
        };
        let dimensions = catalog.dimensions.iter().enumerate().map(dimension).collect();
        Self { catalog: Arc::clone(catalog), features, dimensions }
    }

    /// Why a tag of the new catalogue cannot be told in users.
    fn of_tag(&self, tag: usize) -> Vec<String> {
        self.of(&reach([tag], &self.catalog))
    }

    /// Why it cannot be told whose account is closed.
    fn of_closed(&self) -> Vec<String> {
        self.of(&reach_of_closed(&self.catalog))
    }

    fn of(&self, reach: &Reach) -> Vec<String> {
        let features = reach.features.iter().filter_map(|f| self.features[*f].clone());
        let dimensions = reach.dimensions.iter().filter_map(|d| self.dimensions[*d].clone());
        features.chain(dimensions).collect()
    }
}
