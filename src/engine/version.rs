//! Catalogue versions: what a store knows of the catalogues that were active in it.
//!
//! In: a store, and the catalogue that is to be active. Out: the ruleset, in which each partial knows
//! since which version it counts, and the record of the version, to be written before the first
//! event is folded under it.
//!
//! The store keeps for each version its number, its files, and for every partial the version since
//! which it has seen events; where sources stood at that moment is with that version. A partial that
//! no feature needs any more keeps folding for `catalog.retire_after_days`, so that a rule that comes
//! back within that time has lost nothing; then it goes.
//!
//! A version is active from the moment its record is written, under a number that nobody else has
//! taken: of processes that give out the next number at once, one does. The key of the active number
//! says where to begin to look.
//! Invariant: a version, once written, keeps its number, files and positions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Clock;
use super::history::Merge;
use super::job::from_the_start;
use super::owned::{group_mark, put_for_everybody};
use super::ruleset::{Ruleset, RulesetError, give_provisional_ids};
use super::slices::{ROUND_KEY, Round};
use crate::catalog::model::Catalog;
use crate::catalog::{Loaded, load_from};
use crate::source::position::{POSITION_PREFIX, Position};
use crate::store::{Store, StoreError};
use crate::user::layout::{StateLayout, ValueKind, hash64};
use crate::user::lineage::{Cut, FIRST_VERSION, Known, Lineage, Retired, origin};
use crate::write::window::AS_OF_KEY;

/// Key of the active version's number, or of one before it: a process may have ended in between.
const ACTIVE_KEY: &str = "catalog/active";

/// Keys of versions begin with this.
const VERSION_PREFIX: &str = "catalog/version/";

/// Key of the last version by whose rules everybody was computed.
pub const RECOMPUTED_KEY: &str = "catalog/recomputed";

fn version_key(number: u32) -> String {
    format!("{VERSION_PREFIX}{number:08}")
}

/// `content`: a hash of what stands there, since several processes may try to make this version; none
/// in stores of earlier times.
fn files_key(number: u32, content: Option<u64>) -> String {
    match content {
        Some(content) => format!("catalog/files/{number:08}-{content:016x}"),
        None => format!("catalog/files/{number:08}"),
    }
}

/// A catalogue that was, or is, active in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// 1 is the first.
    pub number: u32,
    /// The catalogue's name.
    pub name: String,
    /// Hash of everything that defines its meaning.
    pub fingerprint: u64,
    /// As-of when it became active; none where no event had been seen yet.
    pub made_ms: Option<i64>,
    /// How far each source had been read then.
    pub positions: BTreeMap<String, Position>,
    /// Number of features and tags.
    pub features: usize,
    /// Number of tags.
    pub tags: usize,
    /// What is kept in its time, by [`origin`].
    pub partials: BTreeMap<u64, PartialRecord>,
    /// The last history that was, or is to be, merged.
    #[serde(default)]
    pub history: Option<Merge>,
    /// Names the files; none in stores of earlier times.
    #[serde(default)]
    pub files: Option<u64>,
}

/// What a version knows of one partial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRecord {
    /// Since when it counts, and how it is kept.
    #[serde(flatten)]
    pub known: Known,
    /// As-of when the last feature that needed it went; none while one does. The inner value is
    /// none where no event had been seen.
    pub retired: Option<Option<i64>>,
    /// The last version that had a feature for it.
    pub last_in: u32,
    /// Its stream.
    pub stream: String,
    /// Names of the features that need it, or did.
    pub features: Vec<String>,
}

/// A catalogue that cannot become active.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It does not compile.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    /// The files of a version are no catalogue to this program.
    #[error(
        "catalogue version {number} of the store cannot be read; was it written by a newer tagloom?\n\
         {reason}"
    )]
    Unreadable {
        /// The version.
        number: u32,
        /// What is wrong, with places.
        reason: String,
    },
    /// A small value of the store cannot be read.
    #[error("the store's `{key}` is damaged ({reason}); restore the store from a snapshot")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// When a version is made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The as-of; none before the first event.
    pub as_of_ms: Option<i64>,
    /// How long retired partials keep folding.
    pub retire_after_ms: i64,
    /// Events are being folded: the store is not empty, even if no profile is in it yet.
    pub running: bool,
}

impl Moment {
    /// Now, in a running engine.
    pub fn running(
        store: &dyn Store,
        clock: Clock,
        retire_after_ms: i64,
    ) -> Result<Self, VersionError> {
        let now = match clock {
            Clock::Wall => Some(crate::clock::wall_ms()),
            Clock::Fixed(instant_ms) => Some(instant_ms),
            Clock::Event => None,
        };
        let stored: Option<Option<i64>> = read(store, AS_OF_KEY)?;
        Ok(Self { as_of_ms: now.max(stored.flatten()), retire_after_ms, running: true })
    }
}

/// A catalogue ready to be active.
#[derive(Debug)]
pub struct Next {
    /// Compiled, with what the store knows of its partials.
    pub ruleset: Ruleset,
    /// Its record.
    pub version: Version,
    /// Another catalogue was active, or none.
    pub is_new: bool,
    /// A history begins: what its partials count of live events changes for everybody, whether the
    /// history has them or not.
    pub begins_history: bool,
    /// The record is not as stored.
    changed: bool,
    texts: Vec<(String, String)>,
}

impl Next {
    /// Writes what has to be in the store before an event is folded: schema, files; then the record,
    /// which makes it active.
    pub fn save(&self, store: &dyn Store) -> Result<Saved, StoreError> {
        let number = self.version.number;
        self.save_schema(store)?;
        if self.begins_history {
            // Before the cut: without it, a recompute finds nothing to change.
            let (key, progress) = from_the_start(self.version.fingerprint);
            put_for_everybody(store, &key, &progress)?;
            let (key, number) = recomputed(0);
            put_for_everybody(store, &key, &number)?;
        }
        if self.is_new {
            let files = zstd::bulk::compress(&json(&self.texts), 0).unwrap_or_default();
            let content = hash64(&files);
            store.put_meta(&files_key(number, Some(content)), files)?;
            let version = Version { files: Some(content), ..self.version.clone() };
            if !store.replace_meta(&version_key(number), None, json(&version))? {
                return Ok(Saved::Taken);
            }
            store.put_meta(ACTIVE_KEY, json(&number))?;
            return Ok(Saved::Done);
        }
        if self.changed {
            store.put_meta(&version_key(number), json(&self.version))?;
        }
        Ok(Saved::Done)
    }

    /// Writes how profiles are to be read that are written by it.
    pub fn save_schema(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.ruleset.save_schema(store)
    }

    /// It becomes active now: sources have moved since it was compiled.
    pub fn becomes_active(
        &mut self,
        store: &dyn Store,
        as_of_ms: Option<i64>,
    ) -> Result<(), VersionError> {
        if self.is_new {
            self.version.positions = positions(store)?;
            self.version.made_ms = as_of_ms;
        }
        Ok(())
    }
}

/// What became of a version that was to be active.
#[must_use = "its number may have been taken"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is active.
    Done,
    /// Another process has given its number to another catalogue, or to the same: it has to be compiled
    /// anew for a store in which that one is active.
    Taken,
}

/// The active version.
pub fn active(store: &dyn Store) -> Result<Option<Version>, VersionError> {
    let number = read::<u32>(store, ACTIVE_KEY)?;
    let mut active = number.map(|number| version(store, number)).transpose()?.flatten();
    let mut number = number.unwrap_or(0);
    while let Some(next) = version(store, number + 1)? {
        (active, number) = (Some(next), number + 1);
    }
    Ok(active)
}

/// The number of the active version; 0: there is none.
pub fn active_number(store: &dyn Store) -> Result<u32, VersionError> {
    let mut number = read::<u32>(store, ACTIVE_KEY)?.unwrap_or(0);
    while store.meta(&version_key(number + 1))?.is_some() {
        number += 1;
    }
    Ok(number)
}

/// The number of the version by which a catalogue was replaced that had been active; none: it never
/// was, or it is.
pub fn replaced_by(store: &dyn Store, fingerprint: u64) -> Result<Option<u32>, VersionError> {
    let all = versions(store)?;
    let is_active = all.last().is_none_or(|last| last.fingerprint == fingerprint);
    let last = all.iter().rev().find(|v| v.fingerprint == fingerprint).filter(|_| !is_active);
    Ok(last.map(|version| version.number + 1))
}

/// The catalogue that is active in a store, from the files it keeps.
pub fn load_active(store: &dyn Store) -> Result<Option<Loaded>, VersionError> {
    let Some(version) = active(store)? else { return Ok(None) };
    let texts = files(store, version.number)?;
    load_from("", texts).map(Some).map_err(|error| VersionError::Unreadable {
        number: version.number,
        reason: error.to_string(),
    })
}

/// A version by number.
pub fn version(store: &dyn Store, number: u32) -> Result<Option<Version>, VersionError> {
    read(store, &version_key(number))
}

/// All versions, oldest first.
pub fn versions(store: &dyn Store) -> Result<Vec<Version>, VersionError> {
    let found = store.scan_meta(VERSION_PREFIX)?;
    found.into_iter().map(|(key, bytes)| parse(&key, &bytes)).collect()
}

/// The files of a version: path inside the catalogue's directory, and text.
pub fn files(store: &dyn Store, number: u32) -> Result<Vec<(String, String)>, VersionError> {
    let key = files_key(number, version(store, number)?.and_then(|version| version.files));
    let damaged = |reason: String| VersionError::Damaged { key: key.clone(), reason };
    let Some(bytes) = store.meta(&key)? else { return Err(damaged("it is not there".into())) };
    let text = zstd::stream::decode_all(&*bytes).map_err(|e| damaged(e.to_string()))?;
    parse(&key, &text)
}

/// Whether everybody was computed by the rules of the active version; of a store as an owner sees it,
/// all of its users.
pub fn is_recomputed(store: &dyn Store, number: u32) -> Result<bool, VersionError> {
    if read::<u32>(store, RECOMPUTED_KEY)? == Some(number) {
        return Ok(true);
    }
    let mark = group_mark(store, RECOMPUTED_KEY)?;
    Ok(mark.map(|bytes| parse::<u32>(RECOMPUTED_KEY, &bytes)).transpose()? == Some(number))
}

/// What marks that everybody was computed by the rules of a version.
pub fn recomputed(number: u32) -> (String, Vec<u8>) {
    (RECOMPUTED_KEY.to_owned(), json(&number))
}

/// Compiles a catalogue for a store: as the active version if it is that, else as the next one.
/// Writes nothing.
pub fn next(store: &dyn Store, loaded: Loaded, moment: Moment) -> Result<Next, VersionError> {
    next_with(store, loaded, moment, None)
}

/// The same for partials that are to get a history: where the cut of each lies.
pub fn next_with(
    store: &dyn Store,
    loaded: Loaded,
    moment: Moment,
    history: Option<(Merge, BTreeMap<u64, Cut>)>,
) -> Result<Next, VersionError> {
    let before = active(store)?;
    // A store that was given a history of nobody, or has not merged it yet, is not empty: its partials
    // know the cut.
    let has_history = before.as_ref().is_some_and(|b| b.history.is_some());
    let is_empty = !moment.running && !has_history && !store.has_profiles()?;
    let Loaded { catalog, texts, .. } = loaded;
    let is_new = before.as_ref().is_none_or(|b| b.fingerprint != catalog.fingerprint);
    let number = before.as_ref().map_or(0, |b| b.number) + u32::from(is_new);
    let mut records = match &before {
        Some(before) if !(is_empty && is_new) => present(before, &catalog, number, moment),
        _ => BTreeMap::new(),
    };
    let begins_history = history.is_some();
    let (merge, cuts) = history.unzip();
    for (origin, cut) in cuts.into_iter().flatten() {
        if let Some(record) = records.get_mut(&origin) {
            record.known.cut.get_or_insert(cut);
        }
    }
    let merge = merge.or_else(|| before.as_ref().and_then(|b| b.history.clone()));
    let (records, retired) = retired(store, records, &catalog)?;
    let lineage = Lineage {
        version: if is_empty || before.is_none() { FIRST_VERSION } else { number },
        known: records.iter().map(|(origin, record)| (*origin, record.known)).collect(),
        retired,
        ..Lineage::default()
    };
    let mut ruleset = Ruleset::with(catalog, &lineage)?;
    ruleset.version = number;
    let catalog = &ruleset.catalog;
    let partials = noted(&ruleset.layout, catalog, records, number);
    let version = match &before {
        Some(before) if !is_new => Version { partials, history: merge, ..before.clone() },
        _ => Version {
            number,
            name: catalog.name.clone(),
            fingerprint: catalog.fingerprint,
            made_ms: moment.as_of_ms,
            positions: positions(store)?,
            features: catalog.features.len(),
            tags: catalog.tags.len(),
            partials,
            history: merge,
            files: None,
        },
    };
    let changed = before.as_ref() != Some(&version);
    Ok(Next { version, is_new, begins_history, changed, texts, ruleset })
}

/// Compiles a catalogue for reading a store only: it need not be active, and tags that have no id
/// yet get one for the time being. `moment`: it is compiled as if it became active then.
pub fn for_reading(
    store: &dyn Store,
    mut loaded: Loaded,
    moment: Moment,
) -> Result<Ruleset, VersionError> {
    give_provisional_ids(&mut loaded.catalog);
    Ok(next(store, loaded, Moment { running: true, ..moment })?.ruleset)
}

/// The partials a version knows, those gone for too long left out: one that comes back then begins
/// anew, whether or not the store was opened while it was gone.
fn present(
    before: &Version,
    catalog: &Catalog,
    number: u32,
    moment: Moment,
) -> BTreeMap<u64, PartialRecord> {
    let live: BTreeSet<u64> = origins(catalog).map(|(origin, _)| origin).collect();
    let mut records = before.partials.clone();
    records.retain(|origin, record| {
        let is_live = live.contains(origin);
        if !is_live {
            record.retired.get_or_insert(moment.as_of_ms);
        }
        if let Some(since) = record.retired {
            let gone_ms = moment.as_of_ms.unwrap_or(0).saturating_sub(since.unwrap_or(0));
            if gone_ms >= moment.retire_after_ms {
                return false;
            }
        }
        if is_live {
            record.retired = None;
            record.last_in = number;
        }
        true
    });
    records
}

/// Of the records without a feature those that can keep folding, with the features they had. One
/// whose stream is gone or reads its rows in another way cannot.
fn retired(
    store: &dyn Store,
    mut records: BTreeMap<u64, PartialRecord>,
    catalog: &Catalog,
) -> Result<(BTreeMap<u64, PartialRecord>, Vec<Retired>), VersionError> {
    let numbers: BTreeSet<u32> =
        records.values().filter(|r| r.retired.is_some()).map(|r| r.last_in).collect();
    let mut retired = Vec::new();
    let mut found: BTreeSet<u64> = BTreeSet::new();
    for number in numbers {
        let old = match load_from("", files(store, number)?) {
            Ok(loaded) => loaded.catalog,
            Err(error) => {
                tracing::warn!(version = number, %error, "its retired partials are dropped");
                continue;
            }
        };
        for feature in &old.features {
            let name = &old.streams[feature.stream].name;
            let Some(stream) = catalog.streams.iter().find(|s| s.name == *name) else { continue };
            let origin = origin(stream, &feature.aggregate, feature.filter.as_ref(), feature.span);
            let is_wanted =
                |r: &PartialRecord| r.retired.is_some() && r.last_in == number && r.stream == *name;
            if records.get(&origin).is_some_and(is_wanted) {
                found.insert(origin);
                retired.push(Retired {
                    stream: name.clone(),
                    aggregate: feature.aggregate.clone(),
                    filter: feature.filter.clone(),
                    span: feature.span,
                });
            }
        }
    }
    records.retain(|origin, record| record.retired.is_none() || found.contains(origin));
    Ok((records, retired))
}

/// Each feature's origin, and its index.
pub(super) fn origins(catalog: &Catalog) -> impl Iterator<Item = (u64, usize)> + '_ {
    catalog.features.iter().enumerate().map(|(at, f)| {
        let stream = &catalog.streams[f.stream];
        (origin(stream, &f.aggregate, f.filter.as_ref(), f.span), at)
    })
}

/// What the version will say of the partials that are laid out.
fn noted(
    layout: &StateLayout,
    catalog: &Catalog,
    mut records: BTreeMap<u64, PartialRecord>,
    number: u32,
) -> BTreeMap<u64, PartialRecord> {
    for stream in &layout.streams {
        for partial in &stream.partials {
            let hashed = partial.value.is_some_and(|v| stream.values[v].kind == ValueKind::Hash);
            for origin in &partial.origins {
                let record = records.entry(*origin).or_insert_with(|| PartialRecord {
                    known: Known { since: partial.since, hashed, cut: None },
                    retired: None,
                    last_in: number,
                    stream: stream.name.clone(),
                    features: Vec::new(),
                });
                if record.retired.is_none() {
                    record.features.clear();
                }
            }
        }
    }
    for (origin, feature) in origins(catalog) {
        if let Some(record) = records.get_mut(&origin) {
            record.features.push(catalog.features[feature].name.clone());
        }
    }
    records
}

fn positions(store: &dyn Store) -> Result<BTreeMap<String, Position>, VersionError> {
    let found = store.scan_meta(POSITION_PREFIX)?;
    let position = |(key, bytes): (String, crate::store::Bytes)| {
        Ok((key[POSITION_PREFIX.len()..].to_owned(), parse(&key, &bytes)?))
    };
    let positions = found.into_iter().map(position);
    let mut all = positions.collect::<Result<BTreeMap<_, _>, VersionError>>()?;
    // A round that is not over was decoded up to its end, for those who were there when it began.
    let round: Option<Option<Round>> = read(store, ROUND_KEY)?;
    all.extend(round.flatten().into_iter().flat_map(|round| round.until));
    Ok(all)
}

fn read<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<T>, VersionError> {
    store.meta(key)?.map(|bytes| parse(key, &bytes)).transpose()
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, VersionError> {
    serde_json::from_slice(bytes)
        .map_err(|e| VersionError::Damaged { key: key.to_owned(), reason: e.to_string() })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with plain keys and plain values are JSON")
}
