//! An engine that tests drive step by step: lines in, labels out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagloom::catalog::load_from;
use tagloom::engine::direct::Direct;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::version::{Moment, next};
use tagloom::event::Decoder;
use tagloom::store::memory::MemoryStore;
use tagloom::store::{ClockMode, Identity, Store, Uid, UidKey};
use tagloom::user::snapshot::decode_tags;
use tagloom::write::profile::{Schemas, labels};

/// Loading of dimension tables.
pub mod tables;

/// Path inside a catalogue, and text.
pub type Files = Vec<(String, String)>;

/// Labels by tag, of one user.
pub type Labels = BTreeMap<String, String>;

/// Compiles a catalogue; ids are given as `check --write` gives them.
pub fn ruleset(mut files: Files) -> Arc<Ruleset> {
    let shown = |e| panic!("{e}");
    if !files.iter().any(|f| f.0 == "ids.lock") {
        let loaded = load_from("tags", files.clone()).unwrap_or_else(shown);
        files.push(("ids.lock".into(), loaded.lock.updated(&loaded.catalog).to_text()));
    }
    let loaded = load_from("tags", files).unwrap_or_else(shown);
    Arc::new(Ruleset::new(loaded.catalog).unwrap_or_else(|e| panic!("{e}")))
}

/// Files with the ids that `check --write` gives them; `lock`: those given before.
pub fn locked(mut files: Files, lock: Option<&str>) -> Files {
    files.extend(lock.map(|text| ("ids.lock".to_owned(), text.to_owned())));
    let loaded = load_from("tags", files.clone()).unwrap_or_else(|e| panic!("{e}"));
    files.retain(|f| f.0 != "ids.lock");
    files.push(("ids.lock".into(), loaded.lock.updated(&loaded.catalog).to_text()));
    files
}

/// Makes a catalogue the active one of a store, as a process does that opens it.
pub fn active(store: &dyn Store, files: Files, moment: Moment) -> Arc<Ruleset> {
    let loaded = load_from("tags", files).unwrap_or_else(|e| panic!("{e}"));
    let next = next(store, loaded, moment).unwrap();
    assert_eq!(next.save(store).unwrap(), tagloom::engine::version::Saved::Done);
    Arc::new(next.ruleset)
}

/// What a store of this catalogue is.
pub fn identity(ruleset: &Ruleset) -> Identity {
    Identity {
        uid: ruleset.catalog.uid,
        timezone: ruleset.catalog.zone.name().to_owned(),
        clock: ClockMode::Fixed,
    }
}

/// An empty store in memory.
pub fn memory(ruleset: &Ruleset) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(identity(ruleset), 1000))
}

/// An engine and one decoder a stream.
pub struct Driver {
    pub engine: Direct,
    decoders: Vec<Decoder>,
}

impl Driver {
    /// `resident_bytes_max`: what resident users may take.
    pub fn open(
        ruleset: &Arc<Ruleset>,
        store: &Arc<dyn Store>,
        shards: usize,
        resident_bytes_max: usize,
    ) -> Self {
        let (rules, at) = (Arc::clone(ruleset), Arc::clone(store));
        let engine = Direct::open(rules, at, shards, Arc::new(|| 0)).unwrap();
        let engine = engine.within(resident_bytes_max);
        let decoder = |stream: usize| {
            let name = ruleset.catalog.streams[stream].name.as_str();
            let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
            Decoder::new(catalog, layout, &[stream], name, engine.texts(), shards).unwrap()
        };
        let decoders = (0..ruleset.catalog.streams.len()).map(decoder).collect();
        Self { engine, decoders }
    }

    /// Feeds whole JSON lines of one stream. Returns how many rows were refused.
    pub fn feed(&mut self, stream: usize, lines: &str, latest_ms: Option<i64>) -> u64 {
        let decoded = self.decoders[stream].lines(lines.as_bytes(), 1, 0, latest_ms);
        let refused = decoded.rejected_rows;
        let name = self.engine.ruleset().catalog.streams[stream].name.clone();
        self.engine.feed(&name, None, decoded).unwrap();
        refused
    }
}

/// One stored user.
pub struct Stored {
    pub labels: Labels,
    pub due_ms: Option<i64>,
    pub closed: bool,
}

/// All stored users by uid.
pub fn stored(store: &dyn Store, ruleset: &Ruleset) -> BTreeMap<String, Stored> {
    let schemas = Schemas::default();
    let mut users = BTreeMap::new();
    for (key, bytes) in profiles(store) {
        let tags = decode_tags(&bytes).unwrap();
        let schema = schemas.get(tags.head.schema, ruleset, store).unwrap();
        let (codes, open) = (schema.codes(&tags), schema.open_values(&tags));
        let labels = labels(&ruleset.catalog, ruleset, &codes, &open);
        let uid = Uid::from_key(ruleset.catalog.uid, &key).unwrap().to_string();
        assert!(!tags.head.quarantined, "user {uid} is quarantined");
        users.insert(uid, Stored { labels, due_ms: tags.head.due_ms, closed: tags.head.closed });
    }
    users
}

/// All stored records.
pub fn profiles(store: &dyn Store) -> Vec<(UidKey, Vec<u8>)> {
    let rows = store.scan_profiles(None, usize::MAX).unwrap();
    rows.into_iter().map(|(key, bytes)| (key, bytes.to_vec())).collect()
}
