//! History on its way into a store: what came before, for partials that have not seen it.
//!
//! In: a store beside the live one, into which an ordinary engine has folded history files up to a
//! cut, with the partials that lack history only. Out: its users, chunk by chunk, for the windows of
//! the live one: each user gets its history as tiles, is computed, and is written together with how
//! far the job is. So a crash leaves it at the end of some window, and a restart goes on. Where a window
//! is not written as a whole, a crash may leave some of its users with their history and others
//! without: the fence of a profile tells which (`At::history`), and those get it once.
//! Invariant: nothing is written into the history's store here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::EngineError;
use super::job::{Job, Limit};
use super::ruleset::{Ruleset, RulesetError};
use super::start::read_meta;
use super::version::{Version, origins};
use crate::catalog::model::{Catalog, Span};
use crate::shard::fence::At;
use crate::source::kafka::SourceId;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::{Store, UidKey};
use crate::user::layout::StateLayout;
use crate::user::lineage::{Cut, Lineage};
use crate::user::schema::Schema;
use crate::user::snapshot::{SnapshotError, decode_tags};
use crate::user::state::UserState;
use crate::user::stored::StoredLayout;
use crate::user::texts::Texts;
use crate::write::profile::{ProfileError, SCHEMA_PREFIX};

/// Key of how far a history has been merged.
const PROGRESS_KEY: &str = "job/history";

/// A history that is to be merged, or was: part of the version whose partials it fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// Numbers the histories of a store.
    pub job: u16,
    /// The store that holds it.
    pub dir: PathBuf,
    /// Users a second.
    pub users_per_s: Option<NonZeroU32>,
    /// Its greatest event time.
    pub as_of_ms: Option<i64>,
}

/// How far a history has been merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    job: u16,
    after: Option<Vec<u8>>,
    /// Users merged.
    pub users: u64,
    /// All of them.
    pub ended: bool,
}

impl Progress {
    fn entry(&self) -> (String, Vec<u8>) {
        let bytes = serde_json::to_vec(self).expect("numbers and bytes are JSON");
        (PROGRESS_KEY.to_owned(), bytes)
    }
}

/// How far a store's history has been merged; none: it has none to merge.
pub fn progress(
    store: &dyn Store,
    version: &Version,
) -> Result<Option<(Merge, Progress)>, EngineError> {
    let Some(merge) = version.history.clone() else { return Ok(None) };
    let found: Option<Progress> = read_meta(store, PROGRESS_KEY)?;
    let found = found.filter(|p| p.job == merge.job);
    let progress = found.unwrap_or(Progress { job: merge.job, ..Progress::default() });
    Ok(Some((merge, progress)))
}

/// The number of the history that is being merged.
pub fn merging(store: &dyn Store, version: &Version) -> Result<Option<u16>, EngineError> {
    let found = progress(store, version)?.filter(|(_, progress)| !progress.ended);
    Ok(found.map(|(merge, _)| merge.job))
}

/// The history that is being merged; none: there is none, or all users have it.
pub fn pending(store: &dyn Store) -> Result<Option<Merge>, EngineError> {
    let Some(version) = super::version::active(store)? else { return Ok(None) };
    let found = progress(store, &version)?.filter(|(_, progress)| !progress.ended);
    Ok(found.map(|(merge, _)| merge))
}

/// Fails while a history is being merged by whoever has all users to itself.
pub fn none_pending(store: &dyn Store) -> Result<(), EngineError> {
    match pending(store)? {
        Some(merge) => Err(EngineError::HistoryPending { dir: merge.dir }),
        None => Ok(()),
    }
}

/// How fences name the histories that all users have.
pub(super) fn merged_before(store: &dyn Store) -> Result<BTreeSet<SourceId>, EngineError> {
    let Some(version) = super::version::active(store)? else { return Ok(BTreeSet::new()) };
    let merging = merging(store, &version)?;
    let all = (1..next_job(&version)).filter(|job| Some(*job) != merging);
    Ok(all.map(|job| At::history(job).source).collect())
}

/// The job that goes on with a history that is not merged yet.
pub fn resume(store: &dyn Store, ruleset: &Ruleset) -> Result<Option<Job>, EngineError> {
    let Some(version) = super::version::active(store)? else { return Ok(None) };
    let Some((merge, progress)) = progress(store, &version)? else { return Ok(None) };
    if progress.ended {
        return Ok(None);
    }
    let side = Arc::new(Side::open(&merge, &ruleset.layout)?);
    let after = progress.after.as_deref().and_then(UidKey::from_bytes);
    let limit = merge.users_per_s.map(Limit::new);
    Ok(Some(Job::History { side, after, limit, progress }))
}

/// A history, resolved against the layout it is merged into.
pub struct Side {
    pub(super) store: Arc<dyn Store>,
    job: u16,
    layouts: HashMap<u64, StoredLayout>,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Side({})", self.job)
    }
}

impl Side {
    fn open(merge: &Merge, layout: &StateLayout) -> Result<Self, EngineError> {
        let store = FjallStore::open_existing(&merge.dir, &FjallOptions::default())?;
        let mut layouts = HashMap::new();
        for (key, bytes) in store.scan_meta(SCHEMA_PREFIX)? {
            let damaged = |reason: String| EngineError::Meta { key: key.clone(), reason };
            let id = u64::from_str_radix(&key[SCHEMA_PREFIX.len()..], 16);
            let id = id.map_err(|e| damaged(e.to_string()))?;
            let schema: Schema =
                serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            layouts.insert(id, StoredLayout::of_history(&schema, layout));
        }
        Ok(Self { store: Arc::new(store), job: merge.job, layouts })
    }

    /// Which history it is.
    pub fn job(&self) -> u16 {
        self.job
    }

    /// A user's history, in the layout it is merged into.
    pub fn state(
        &self,
        bytes: &[u8],
        layout: &Arc<StateLayout>,
        texts: &Texts,
    ) -> Result<UserState, ProfileError> {
        let tags = decode_tags(bytes)?;
        let id = tags.head.schema;
        let stored = self.layouts.get(&id).ok_or(SnapshotError::UnknownSchema(id))?;
        Ok(tags.state(stored, layout, texts)?)
    }
}

/// The next chunk of a merge: its users, and the progress to write with them.
pub(super) fn chunk(
    side: &Arc<Side>,
    after: &mut Option<UidKey>,
    progress: &mut Progress,
    take: usize,
) -> Result<Option<super::job::Chunk>, EngineError> {
    if progress.ended {
        return Ok(None);
    }
    let history = side.store.scan_profiles(after.as_ref(), take)?;
    if let Some((last, _)) = history.last() {
        *after = Some(last.clone());
        progress.after = Some(last.as_bytes().to_vec());
    }
    progress.users += history.len() as u64;
    progress.ended = history.len() < take;
    Ok(Some(super::job::Chunk {
        users: history.len(),
        history,
        side: Some(Arc::clone(side)),
        meta: vec![progress.entry()],
        ..super::job::Chunk::default()
    }))
}

/// Which partials of some streams lack history, by origin, and their streams' indices.
pub fn lacking(catalog: &Catalog, version: &Version, streams: &[usize]) -> BTreeMap<u64, usize> {
    let of = |(origin, feature): (u64, usize)| (origin, catalog.features[feature].stream);
    let all = origins(catalog).map(of).filter(|(_, stream)| streams.contains(stream));
    let lacks = |o: &u64| version.partials.get(o).is_none_or(|r| r.known.cut.is_none());
    all.filter(|(origin, _)| lacks(origin)).collect()
}

/// As-of of a store that has users.
pub fn as_of_users(store: &dyn Store) -> Result<Option<i64>, EngineError> {
    if !store.has_profiles()? {
        return Ok(None);
    }
    super::stored_as_of(store)
}

/// The first cut that partials which lack history can have. What is older than the horizon is not
/// kept by day: partials over everything cannot tell what came live before an earlier cut from what
/// came after it. None: any cut will do. `as_of_ms`: see [`as_of_users`].
pub fn first_cut_ms(
    catalog: &Catalog,
    lacking: &BTreeMap<u64, usize>,
    as_of_ms: Option<i64>,
    horizon_days: u32,
) -> Option<i64> {
    let mut wanted = origins(catalog).filter(|(origin, _)| lacking.contains_key(origin));
    if !wanted.any(|(_, feature)| catalog.features[feature].span == Span::Lifetime) {
        return None;
    }
    let oldest = catalog.zone.day_of(as_of_ms?).saturating_sub_unsigned(horizon_days);
    Some(catalog.zone.day_start_ms(oldest))
}

/// The ruleset by which a history is folded: only what lacks it, only what came before the cut, and
/// ids for as long as the live store needs them.
pub fn ruleset(
    mut catalog: Catalog,
    version: &Version,
    lacking: &BTreeSet<u64>,
    cut_ms: i64,
    horizon_days: u32,
) -> Result<Ruleset, RulesetError> {
    let wanted: BTreeSet<usize> =
        origins(&catalog).filter(|(o, _)| lacking.contains(o)).map(|(_, at)| at).collect();
    let features = std::mem::take(&mut catalog.features);
    let kept = features.into_iter().enumerate().filter(|(at, _)| wanted.contains(at));
    catalog.features = kept.map(|(_, feature)| feature).collect();
    (catalog.tags, catalog.tag_order) = (Vec::new(), Vec::new());
    (catalog.dimensions, catalog.cases, catalog.closed) = (Vec::new(), Vec::new(), None);
    let known = version.partials.iter().map(|(origin, record)| (*origin, record.known));
    let lineage = Lineage {
        version: version.number,
        known: known.collect(),
        retired: Vec::new(),
        before_ms: Some(cut_ms),
        horizon_days_min: horizon_days,
    };
    Ruleset::with(catalog, &lineage)
}

/// By what a history that is being merged was folded: its partials, as the version knew them before it
/// began, and its cut.
pub fn before_merge(version: &Version, job: u16) -> (Version, BTreeSet<u64>, Option<i64>) {
    let (mut version, mut origins, mut cut_ms) = (version.clone(), BTreeSet::new(), None);
    for (origin, record) in &mut version.partials {
        if let Some(cut) = record.known.cut.filter(|cut| cut.job == job) {
            (record.known.cut, cut_ms) = (None, Some(cut.before_ms));
            origins.insert(*origin);
        }
    }
    (version, origins, cut_ms)
}

/// Where the cut lies for each partial that gets a history. `as_of_ms`: the later one of the store's
/// and the history's.
pub fn cuts(
    catalog: &Catalog,
    lacking: &BTreeMap<u64, usize>,
    job: u16,
    before_ms: i64,
    as_of_ms: i64,
    horizon_days: u32,
) -> BTreeMap<u64, Cut> {
    let zone = &catalog.zone;
    // Before this day nobody knows ids any more: what comes so late has been counted by history.
    let oldest = zone.day_of(as_of_ms).saturating_sub_unsigned(horizon_days);
    let cut = |stream: usize| {
        let mut from_day = zone.day_of(before_ms);
        if catalog.streams[stream].dedupe.is_some() {
            from_day = from_day.min(oldest);
        }
        Cut { job, before_ms, from_ms: zone.day_start_ms(from_day), from_day }
    };
    lacking.iter().map(|(origin, stream)| (*origin, cut(*stream))).collect()
}

/// The number of the next history.
pub fn next_job(version: &Version) -> u16 {
    let used = version.partials.values().filter_map(|r| r.known.cut).map(|c| c.job);
    let last = version.history.as_ref().map(|h| h.job);
    used.chain(last).max().unwrap_or(0).saturating_add(1)
}
