//! `tagloom store snapshot` and `restore`: the embedded store in a directory, and back.
//!
//! In: a store, or a process that has it open; a directory. Out: what was written.

use std::path::Path;

use serde_json::json;

use crate::cli::{Outcome, desk, open, progress};
use crate::config::{Config, StoreKind};
use crate::serve::local::Request;
use crate::store::Identity;
use crate::store::fjall::{FjallStore, Manifest};

/// Takes a snapshot of the store, or asks the process for one that has it open.
pub(super) fn take(config: &Config, out: &Path, json: bool) -> Outcome {
    must_be_embedded(config)?;
    let dir = desk::absolute(out)?;
    let bar = progress::rows_bar("snapshot");
    let manifest: Manifest =
        desk::request(config, Request::Snapshot { dir }, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
    bar.finish_and_clear();
    show(
        &manifest,
        &format!("snapshot of {} in {}", config.store.path.display(), out.display()),
        json,
    );
    Ok(())
}

/// Makes a store of a snapshot.
pub(super) fn restore(config: &Config, from: &Path, json: bool) -> Outcome {
    must_be_embedded(config)?;
    let catalog = open::ready_catalog(&config.catalog.path)?.catalog;
    let manifest = Manifest::read(from).map_err(open::store_failure)?;
    // The mode of the clock is said by whoever runs it next.
    let given = Identity {
        uid: catalog.uid,
        timezone: catalog.zone.name().to_owned(),
        clock: manifest.identity.clock,
    };
    let bar = progress::rows_bar("restore");
    let path = &config.store.path;
    let options = open::fjall_options(config);
    let manifest = FjallStore::restore(path, from, Some(&given), &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let manifest = manifest.map_err(open::store_failure)?;
    show(&manifest, &format!("{} restored from {}", path.display(), from.display()), json);
    Ok(())
}

fn must_be_embedded(config: &Config) -> Outcome {
    match config.store.kind {
        StoreKind::Fjall => Ok(()),
        StoreKind::Memory => Err(open::no_store()),
        StoreKind::Hbase => Err(open::store_failure(crate::store::StoreError::NoSnapshots)),
    }
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(manifest: &Manifest, what: &str, json: bool) {
    let taken = crate::clock::show_instant(manifest.taken_ms);
    let (profiles, rows) = (manifest.profiles(), manifest.rows());
    if json {
        println!("{}", json!({"profiles": profiles, "rows": rows, "taken_ms": manifest.taken_ms}));
    } else {
        println!("{what}: {profiles} profiles, {rows} rows, as of {taken}");
    }
}
