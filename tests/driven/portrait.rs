//! The portrait workload's small golden: 400 users, made by the workload's `gen.py` with seed 7,
//! and what its `oracle.py` says of every user and tag, at as-of and 1, 30 and 100 days later.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use tagloom::engine::ruleset::Ruleset;
use tagloom::store::Store;

use crate::driven::tables::load_table;
use crate::driven::{Driver, Labels};

/// 2026-03-31T20:00 in Asia/Shanghai.
pub const AS_OF_MS: i64 = 1_774_958_400_000;

/// A file of the golden.
pub fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/portrait").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

/// The catalogue of the workload.
pub fn ruleset() -> Arc<Ruleset> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portrait/catalog");
    let loaded = tagloom::catalog::load(&dir).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(Ruleset::new(loaded.catalog).unwrap())
}

/// A store in memory with the workload's dimensions.
pub fn store(ruleset: &Ruleset) -> Arc<dyn Store> {
    let store = crate::driven::memory(ruleset);
    for table in ["user_dim", "city_dim"] {
        load_table(store.as_ref(), ruleset, table, &text(&format!("{table}.csv.gz")));
    }
    store
}

/// Reads all events and closes one window.
pub fn run(ruleset: &Arc<Ruleset>, store: &Arc<dyn Store>, as_of_ms: i64) -> Driver {
    let mut driver = Driver::open(ruleset, store, 2, usize::MAX);
    for (at, stream) in ruleset.catalog.streams.iter().enumerate() {
        let lines = text(&format!("{}.jsonl.gz", stream.name));
        driver.feed(at, &lines, Some(AS_OF_MS + ruleset.catalog.max_ahead_ms));
    }
    driver.engine.close(as_of_ms, true).unwrap();
    driver
}

/// The oracle's labels by uid, `days` after as-of. The file has one line a tag: its name, then a
/// label for each user in the order of the first line.
pub fn expected(days: u32) -> BTreeMap<String, Labels> {
    let text = text(&format!("expected_{days}d.csv.gz"));
    let mut lines = text.lines().map(|line| line.split(','));
    let uids: Vec<&str> = lines.next().unwrap().skip(1).collect();
    let mut users: BTreeMap<String, Labels> =
        uids.iter().map(|uid| ((*uid).to_owned(), Labels::new())).collect();
    for mut line in lines {
        let tag = line.next().unwrap();
        for (uid, label) in uids.iter().zip(line) {
            users.get_mut(*uid).unwrap().insert(tag.to_owned(), label.to_owned());
        }
    }
    users
}
