//! Refused rows of files, tried again.
//!
//! In: rejects that came from JSON lines. Out: their rows through an engine, each for the stream that
//! refused it, and the rejects gone.
//! Invariant: a row counts once, whenever this is killed: the rows stand in a file beside the store whose
//! name is in the store before it is read, and the position in it is written with what it changed.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Done, decode};
use crate::catalog::Loaded;
use crate::catalog::model::{Catalog, Format};
use crate::cli::owner::Owner;
use crate::cli::{Failure, Outcome, desk, open, publish, run, topics};
use crate::config::Config;
use crate::engine::ruleset::Ruleset;
use crate::engine::{Clock, stored_as_of};
use crate::event::reject::Reject;
use crate::source::file::FileSpec;
use crate::source::kafka::members;
use crate::store::{ClockMode, Store, WindowWrite};

/// Key of the rows that are tried again.
const ROWS_KEY: &str = "redrive/rows";

/// Rejects of rows, by stream.
pub(super) type OfStreams = BTreeMap<String, Vec<u64>>;

/// Rows of one go.
pub(super) const ROWS_MAX: usize = 100_000;

/// Rows that are being tried again.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Rows {
    number: u64,
    rejects: OfStreams,
    /// Where their files stand, absolute: positions go by it. Empty: nothing was tried again yet.
    #[serde(default)]
    dir: PathBuf,
}

impl Rows {
    fn path(&self, stream: &str) -> PathBuf {
        self.dir.join(format!("{}-{stream}.jsonl", self.number))
    }

    /// Whatever is left of their files.
    fn remove_files(&self) -> Outcome {
        let Ok(files) = std::fs::read_dir(&self.dir) else { return Ok(()) };
        let of_these = format!("{}-", self.number);
        for path in files.flatten().map(|file| file.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&of_these) {
                std::fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }
}

/// Whether a row can be tried again: the store has all of it, as it was.
pub(super) fn is_whole(catalog: &Catalog, reject: &Reject) -> bool {
    let Some(stream) = catalog.streams.iter().find(|s| s.name == reject.stream) else {
        return false;
    };
    let is_line = matches!(stream.from.format(), Format::Json) && reject.line > 0;
    let masks = stream.columns.iter().any(|column| column.mask);
    is_line && !masks && reject.row.len() as u64 == reject.row_bytes
}

fn last(store: &dyn Store) -> Result<Rows, Failure> {
    let bytes = store.meta(ROWS_KEY).map_err(open::store_failure)?;
    Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default())
}

/// Whether a command was killed that tried rows again.
pub(super) fn is_pending(store: &dyn Store) -> Result<bool, Failure> {
    Ok(!last(store)?.rejects.is_empty())
}

/// Tries rows again, as the owner of everybody: first those of a command that was killed. While processes
/// of a group run that own users, the rows stay.
pub(super) fn run(
    store: &Arc<dyn Store>,
    loaded: Loaded,
    rejects: OfStreams,
    config: &Config,
    done: &mut Done,
) -> Outcome {
    let has_group = !store.is_atomic() && !topics::named(&loaded.catalog).is_empty();
    // One that was killed is a member for a while.
    if has_group && !is_pending(store.as_ref())? {
        let members = members(&config.kafka).map_err(topics::failure)?;
        if members > 0 {
            done.owned = rejects.values().map(|ids| ids.len() as u64).sum();
            done.of_files += done.owned;
            return Ok(());
        }
    }
    let owner = Owner::of(store, &loaded.catalog, config, "rejects redrive")?;
    let active = open::begin(store.as_ref(), loaded, config, clock(store.as_ref())?)?;
    Trial { owner, ruleset: active.ruleset, config }.run(rejects, done)
}

/// What trying again needs.
struct Trial<'a> {
    owner: Owner,
    ruleset: Arc<Ruleset>,
    config: &'a Config,
}

impl Trial<'_> {
    fn run(&self, rejects: OfStreams, done: &mut Done) -> Outcome {
        let store = self.owner.store();
        let last = last(store.as_ref())?;
        let number = last.number;
        let mut rejects = rejects;
        if !last.rejects.is_empty() {
            let under_way: HashSet<u64> = last.rejects.values().flatten().copied().collect();
            for ids in rejects.values_mut() {
                ids.retain(|id| !under_way.contains(id));
            }
            self.go(&last, done)?;
        }
        // A command may have been killed when all it had left to do was this.
        last.remove_files()?;
        rejects.retain(|_, ids| !ids.is_empty());
        if rejects.is_empty() {
            return Ok(());
        }
        let dir = desk::absolute(&self.config.store.path)?.join("redrive");
        let rows = Rows { number: number + 1, rejects, dir };
        write_files(store.as_ref(), &rows)?;
        let bytes = serde_json::to_vec(&rows).map_err(Failure::failed)?;
        store.put_meta(ROWS_KEY, bytes).map_err(open::store_failure)?;
        self.go(&rows, done)
    }

    /// Reads the files to their ends, then removes their rejects.
    fn go(&self, rows: &Rows, done: &mut Done) -> Outcome {
        let Self { owner, ruleset, config } = self;
        let store = owner.store();
        if !rows.rejects.keys().all(|stream| rows.path(stream).exists()) {
            // The command was killed on another machine. Its rejects are what its files were made of.
            write_files(store.as_ref(), rows)?;
        }
        let mut options = run::options(config, ruleset, Arc::clone(store), clock(store.as_ref())?);
        options.publish = publish::open(config)?;
        owner.lend(&mut options);
        for stream in rows.rejects.keys() {
            let at = ruleset.catalog.streams.iter().position(|s| s.name == *stream);
            let gone = || {
                Failure::Input(format!(
                    "rows of stream `{stream}` are being tried again, and the catalogue has it no \
                     more: run this with the catalogue that had it"
                ))
            };
            let at = at.ok_or_else(gone)?;
            let path = rows.path(stream);
            let name = path.display().to_string();
            options.sources.push(FileSpec { path, format: Format::Json, streams: vec![at], name });
        }
        let report = crate::engine::run(options, &mut |_| {}).map_err(run::engine_failure)?;
        if report.is_interrupted {
            return Err(Failure::Failed(
                "stopped before all rows were read again: run this again, it goes on".to_owned(),
            ));
        }
        let ids: Vec<u64> = rows.rejects.values().flatten().copied().collect();
        done.rows += ids.len() as u64;
        done.rejects += ids.len() as u64;
        done.refused_again += report.rejected_rows;
        let none = Rows { rejects: OfStreams::new(), dir: rows.dir.clone(), ..*rows };
        let bytes = serde_json::to_vec(&none).map_err(Failure::failed)?;
        let meta = vec![(ROWS_KEY.to_owned(), bytes)];
        let window = WindowWrite { rejects_done: ids, meta, ..WindowWrite::default() };
        store.write_window(window).map_err(open::store_failure)?;
        rows.remove_files()
    }
}

fn failed(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |e| Failure::Failed(format!("{}: {e}; make room or mend its permissions", path.display()))
}

fn write_files(store: &dyn Store, rows: &Rows) -> Outcome {
    std::fs::create_dir_all(&rows.dir).map_err(failed(&rows.dir))?;
    for (stream, ids) in &rows.rejects {
        let path = rows.path(stream);
        let mut text = Vec::new();
        for id in ids {
            let found = store.scan_rejects(id.checked_sub(1), 1).map_err(open::store_failure)?;
            let Some((_, bytes)) = found.first().filter(|(found, _)| found == id) else {
                // Another file than was read: positions in it would mean other rows.
                return Err(Failure::Failed(format!(
                    "reject {id} is not in the store any more, and {} is not here: go on where the \
                     command was killed, or put that file back",
                    path.display()
                )));
            };
            text.extend_from_slice(decode(*id, bytes)?.row.as_bytes());
            text.push(b'\n');
        }
        std::fs::write(&path, &text).map_err(failed(&path))?;
        let file = std::fs::File::open(&path).map_err(failed(&path))?;
        file.sync_all().map_err(failed(&path))?;
    }
    Ok(())
}

/// The clock by which a store is gone on with.
fn clock(store: &dyn Store) -> Result<Clock, Failure> {
    Ok(match store.identity().clock {
        ClockMode::Wall => Clock::Wall,
        ClockMode::Event => Clock::Event,
        ClockMode::Fixed => {
            let stored = stored_as_of(store).map_err(run::engine_failure)?;
            stored.map_or(Clock::Event, Clock::Fixed)
        }
    })
}
