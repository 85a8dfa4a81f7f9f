//! Catalogues that change: which of a generated catalogue's features and tags are there, and since
//! when each counts (SEMANTICS section 8).

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use crate::driven::Files;
use crate::generate::{DAY_MS, Random};
use crate::spec::{Agg, Body, Cond, Feature, Source, Span, Spec};

/// How long what no feature needs any more is kept.
pub const RETIRE_AFTER_MS: i64 = 7 * DAY_MS;

/// What of a catalogue is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub groups: Vec<bool>,
    pub tags: Vec<bool>,
}

/// What a feature aggregates, days or everything.
type Key = String;

/// Since which event features count, by what they aggregate.
#[derive(Debug, Default)]
pub struct Known {
    since: BTreeMap<Key, usize>,
    /// As-of when the last feature went.
    gone_ms: BTreeMap<Key, i64>,
    /// The history that has what came before, by number.
    history: BTreeMap<Key, usize>,
}

fn sources<'c>(body: &'c Body, cond: &mut Vec<&'c Cond<Source>>) -> Vec<Source> {
    match body {
        Body::Bands { of, .. } | Body::Recency { of, .. } | Body::Map { of, .. } => vec![*of],
        Body::Ratio { num, den, .. } => vec![*num, *den],
        Body::Plain(of) => vec![*of],
        Body::Flag(c) | Body::YesNo(c) => {
            cond.push(c);
            Vec::new()
        }
    }
}

/// Everything a tag reads itself.
fn reads(body: &Body) -> Vec<Source> {
    let mut waiting = Vec::new();
    let found = sources(body, &mut waiting);
    reads_of(waiting, found)
}

fn reads_of(mut waiting: Vec<&Cond<Source>>, mut found: Vec<Source>) -> Vec<Source> {
    while let Some(cond) = waiting.pop() {
        match cond {
            Cond::Is(on, _) => found.push(*on),
            Cond::Not(inner) => waiting.push(inner),
            Cond::All(parts) | Cond::Any(parts) => waiting.extend(parts),
        }
    }
    found
}

impl Spec {
    /// Tags that read dimensions, themselves or through other tags.
    pub fn tags_of_dimensions(&self) -> Vec<bool> {
        let mut found: Vec<bool> = Vec::new();
        for (body, _) in &self.tags {
            let reads_one = |source: Source| match source {
                Source::Column(..) => true,
                Source::Tag(tag) => found[tag],
                _ => false,
            };
            found.push(reads(body).into_iter().any(reads_one));
        }
        found
    }

    /// Everything.
    pub fn all(&self) -> Chosen {
        Chosen { groups: vec![true; self.groups.len()], tags: vec![true; self.tags.len()] }
    }

    /// Some groups and the tags that can be computed from them. The group with the longest span is
    /// always there, so that a span never looks back farther than events were kept.
    pub fn some(&self, random: &mut Random) -> Chosen {
        let days = |at: usize| {
            let group = &self.groups[at];
            let spans = group.spans.iter().map(|span| match span {
                Span::Days(days) => days + group.offset,
                Span::Hops(hops) => hops.div_ceil(288) + 1,
                Span::Lifetime => 0,
            });
            spans.max().unwrap_or(0)
        };
        let longest = (0..self.groups.len()).max_by_key(|at| days(*at));
        let last = match self.tags.last() {
            Some((Body::Plain(Source::Feature(f)), _)) => Some(self.features[*f].group),
            other => panic!("{other:?} is not the feature that every catalogue ends with"),
        };
        // What says that an account is closed is always there, and all that it reads.
        let mut needed = reads_of(self.closed.iter().collect(), Vec::new());
        let mut at = 0;
        while let Some(source) = needed.get(at) {
            if let Source::Tag(tag) = *source {
                needed.extend(reads(&self.tags[tag].0));
            }
            at += 1;
        }
        let closes = |at: usize| {
            needed.iter().any(|s| match s {
                Source::Feature(f) | Source::Age(f) | Source::Length(f) | Source::Head(f) => {
                    self.features[*f].group == at
                }
                Source::Tag(_) | Source::Column(..) => false,
            })
        };
        let keep = |at| Some(at) == longest || Some(at) == last || closes(at) || self.is_key(at);
        let groups: Vec<bool> =
            (0..self.groups.len()).map(|at| keep(at) || !random.one_in(3)).collect();
        let mut tags: Vec<bool> = Vec::new();
        for (at, (body, _)) in self.tags.iter().enumerate() {
            let there = |source: Source| match source {
                Source::Feature(f) | Source::Age(f) | Source::Length(f) | Source::Head(f) => {
                    groups[self.features[f].group]
                }
                Source::Tag(t) => tags[t],
                Source::Column(..) => true,
            };
            let can = reads(body).into_iter().all(there);
            let stays = at + 1 == self.tags.len() || needed.contains(&Source::Tag(at));
            tags.push(can && (stays || !random.rng.random_ratio(1, 8)));
        }
        Chosen { groups, tags }
    }

    /// The catalogue's files with what is chosen.
    pub fn files_of(&self, chosen: &Chosen) -> Files {
        let mut files = self.files();
        for (path, text) in &mut files {
            let keep = match path.as_str() {
                "features/all.yaml" => &chosen.groups,
                "rules/all.yaml" => &chosen.tags,
                _ => continue,
            };
            let documents = text.split("---\n").skip(1).zip(keep);
            *text = documents.filter(|(_, k)| **k).map(|(d, _)| format!("---\n{d}")).collect();
        }
        files
    }

    /// What a feature aggregates: those that differ in days only are the same.
    pub fn key(&self, group: usize, span: Span) -> Key {
        let group = &self.groups[group];
        let ever = span == Span::Lifetime;
        // How many of the top are shown makes no difference to what is kept.
        let agg = if let Agg::Top(_) = group.agg { Agg::Top(1) } else { group.agg };
        let (value, by) = (group.value, group.by);
        format!("{} {agg:?} {value:?} {by:?} {:?} {ever}", group.stream, group.filter)
    }

    fn keys(&self, chosen: &Chosen) -> Vec<Key> {
        let there = self.features.iter().filter(|f| chosen.groups[f.group]);
        there.map(|f| self.key(f.group, f.span)).collect()
    }
}

impl Known {
    /// A process opens the store with these rules, of which some may be other ones than before.
    /// `events`: how many live ones have been counted so far.
    pub fn open(&mut self, spec: &Spec, chosen: &Chosen, events: usize, as_of_ms: i64) {
        let here = spec.keys(chosen);
        if events == 0 && self.history.is_empty() {
            *self = Self::default();
        }
        for key in self.since.keys().filter(|key| !here.contains(key)) {
            self.gone_ms.entry(key.clone()).or_insert(as_of_ms);
        }
        // What comes back later than this begins anew.
        let lost = |gone_ms: &i64| as_of_ms - gone_ms >= RETIRE_AFTER_MS;
        self.since.retain(|key, _| !self.gone_ms.get(key).is_some_and(lost));
        self.gone_ms.retain(|key, gone_ms| !lost(gone_ms) && !here.contains(key));
        self.history.retain(|key, _| self.since.contains_key(key));
        for key in here {
            self.since.entry(key).or_insert(events);
        }
    }

    /// The first event that counts.
    pub fn since(&self, key: &Key) -> usize {
        self.since.get(key).copied().unwrap_or(0)
    }

    /// The history that a feature has.
    pub fn history(&self, key: &Key) -> Option<usize> {
        self.history.get(key).copied()
    }

    /// What lacks history, of some streams.
    pub fn lacking(&self, spec: &Spec, chosen: &Chosen, streams: &[usize]) -> BTreeSet<Key> {
        let of_streams = |f: &&Feature| streams.contains(&spec.groups[f.group].stream);
        let there = spec.features.iter().filter(|f| chosen.groups[f.group]).filter(of_streams);
        let keys = there.map(|f| spec.key(f.group, f.span));
        keys.filter(|key| !self.history.contains_key(key)).collect()
    }

    /// What lacks history has this one from now on. Returns how many did.
    pub fn tell(
        &mut self,
        spec: &Spec,
        chosen: &Chosen,
        streams: &[usize],
        number: usize,
    ) -> usize {
        let lacking = self.lacking(spec, chosen, streams);
        let told = lacking.len();
        self.history.extend(lacking.into_iter().map(|key| (key, number)));
        told
    }
}
