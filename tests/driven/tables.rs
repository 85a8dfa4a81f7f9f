//! Dimension tables that tests load.

use tagloom::dimension::{LoadOptions, TableSpec, load};
use tagloom::engine::ruleset::Ruleset;
use tagloom::store::Store;

/// Loads a dimension table from text.
pub fn load_table(store: &dyn Store, ruleset: &Ruleset, table: &str, csv: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{table}.csv"));
    std::fs::write(&path, csv).unwrap();
    let spec = TableSpec::of(&ruleset.catalog, table).unwrap();
    let (zone, options) = (&ruleset.catalog.zone, LoadOptions::default());
    load(store, &spec, zone, &path, &options, 0, &mut |_| {}).unwrap();
}
