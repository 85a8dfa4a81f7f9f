//! What tests of the whole engine share: a small catalogue, options, reading labels.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tagloom::catalog::model::{Format, UidType};
use tagloom::engine::checkpoint::WindowLimits;
use tagloom::engine::job::Job;
use tagloom::engine::ruleset::Ruleset;
use tagloom::engine::{Clock, Options};
use tagloom::source::file::{FileSpec, ReadLimits};
use tagloom::store::{ClockMode, Identity, Store, Uid};
use tagloom::user::snapshot::decode_tags;
use tagloom::write::profile::{Schemas, labels};

/// Compiles a catalogue given as files; its lock is made on the way.
pub fn ruleset(files: &[(&str, &str)]) -> Arc<Ruleset> {
    let mut files: Vec<(String, String)> =
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    let loaded = tagloom::catalog::load_from("test", files.clone()).unwrap();
    files.push(("ids.lock".into(), loaded.lock.updated(&loaded.catalog).to_text()));
    let loaded = tagloom::catalog::load_from("test", files).unwrap();
    Arc::new(Ruleset::new(loaded.catalog).unwrap())
}

/// The identity of a store for a ruleset.
pub fn identity(ruleset: &Ruleset, clock: ClockMode) -> Identity {
    let timezone = ruleset.catalog.zone.name().to_owned();
    Identity { uid: ruleset.catalog.uid, timezone, clock }
}

/// Options for files, small enough that a test sees several windows.
pub fn options(
    ruleset: &Arc<Ruleset>,
    store: &Arc<dyn Store>,
    clock: Clock,
    sources: Vec<FileSpec>,
) -> Options {
    Options {
        ruleset: Arc::clone(ruleset),
        store: Arc::clone(store),
        sources,
        topics: None,
        clock,
        limits: WindowLimits { close_ms: 100, users_max: 1_000, due_users_max: 1_000 },
        read: ReadLimits { block_bytes: 1 << 14, ..ReadLimits::default() },
        shards: 2,
        batches_under_way_max: 4,
        rejects_waiting_max: 10_000,
        state_bytes_max: 1 << 20,
        resident_bytes_max: usize::MAX,
        batch_users_max: 256,
        lookups: tagloom::dimension::Lookups::default(),
        changed_users_per_s_max: std::num::NonZeroU32::MAX,
        jobs: VecDeque::from([Job::Due]),
        then_as_of_ms: None,
        dry: false,
        stay: false,
        live: false,
        swaps: Default::default(),
        errand: None,
        recompute_users_per_s_max: None,
        prepare: Default::default(),
        patience: Default::default(),
        publish: Default::default(),
        reads: Default::default(),
        slices: None,
    }
}

/// A JSON lines file that feeds these streams.
pub fn json_file(path: &Path, streams: &[usize]) -> FileSpec {
    FileSpec {
        path: path.to_owned(),
        format: Format::Json,
        streams: streams.to_vec(),
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
    }
}

/// Labels of all users by uid.
pub fn all_labels(ruleset: &Ruleset, store: &dyn Store) -> BTreeMap<u64, BTreeMap<String, String>> {
    let schemas = Schemas::default();
    let rows = store.scan_profiles(None, usize::MAX).unwrap();
    let profile = |bytes: &[u8]| {
        let tags = decode_tags(bytes).unwrap();
        let schema = schemas.get(tags.head.schema, ruleset, store).unwrap();
        labels(&ruleset.catalog, ruleset, &schema.codes(&tags), &schema.open_values(&tags))
    };
    rows.iter()
        .map(|(key, bytes)| match Uid::from_key(UidType::U64, key).unwrap() {
            Uid::U64(uid) => (uid, profile(bytes)),
            Uid::Str(_) => panic!("uids are numbers"),
        })
        .collect()
}

/// The YAML files below a directory, with paths relative to it.
pub fn yaml_files(root: &Path) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                out.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    out
}
