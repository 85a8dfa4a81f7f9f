//! `tagloom rejects redrive`: rows that were refused are tried again, after what was wrong is mended.
//!
//! In: rejects of the store. Out: their records at the ends of their topics, rows of files through an
//! engine (`files.rs`) of who owns everybody, and the rejects gone.
//! Invariant: a record is put back once, whenever the command is killed: its batch is named in the store
//! before, marked in the transaction that holds it, and its rejects are removed after.

mod files;

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use self::files::OfStreams;
use super::{Failure, Outcome, open, topics};
use crate::catalog::model::{Catalog, From};
use crate::config::Config;
use crate::event::reject::{Reason, Reject};
use crate::source::kafka::{RecordAt, Redriven, Redriver};
use crate::store::{Store, WindowWrite};

/// Key of the batch that is put back.
const BATCH_KEY: &str = "redrive";

/// Records of one transaction.
const BATCH_RECORDS: usize = 500;

/// Rejects read from the store at once.
const SCAN_ROWS: usize = 4_096;

/// Arguments of `tagloom rejects redrive`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom rejects redrive --dry-run                  what would be put back, and what not
  tagloom rejects redrive --reason type --stream consume
  tagloom rejects redrive                            everything")]
pub(super) struct RedriveArgs {
    /// Only rows that were meant for this stream
    #[arg(long)]
    stream: Option<String>,
    /// Only rows refused for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Put nothing back, say what would be
    #[arg(long)]
    dry_run: bool,
}

/// A batch that may have been put back.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Batch {
    number: u64,
    /// Which topic has its mark.
    topic: String,
    /// Its rejects in the store.
    rejects: Vec<u64>,
}

/// The rejects of one record.
#[derive(Debug, Default)]
struct Refused {
    ids: Vec<u64>,
    streams: Vec<String>,
    /// One of them was asked for.
    is_wanted: bool,
    is_too_early: bool,
    /// It is a record of several rows.
    has_rows: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// Records put back.
    records: u64,
    /// Rejects that are gone.
    rejects: u64,
    /// Rows of files that were read again.
    rows: u64,
    /// Of them: refused once more.
    refused_again: u64,
    /// Rejects of files that stay.
    of_files: u64,
    /// Of them: since processes run that own their users.
    owned: u64,
    /// Records of which something was counted already.
    counted: u64,
    /// Records that their topics have deleted, and of which the store has not all.
    deleted: u64,
}

/// Runs the command.
pub(super) fn run(args: &RedriveArgs, config: &Config, json: bool) -> Outcome {
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let shared = open::existing_store(config)?;
    let store = shared.as_ref();
    let mut done = Done::default();
    let (mut refused, rows) = refused(store, &loaded.catalog, args, &mut done)?;
    refused.retain(|at, refused| {
        let may = refused.is_wanted && is_whole(&loaded.catalog, at, refused);
        done.counted += u64::from(refused.is_wanted && !may);
        may
    });
    if args.dry_run {
        done.records = refused.len() as u64;
        done.rows = rows.values().map(|ids| ids.len() as u64).sum();
        done.rejects = done.rows + refused.values().map(|r| r.ids.len() as u64).sum::<u64>();
        return show(&done, args, json);
    }
    to_topics(store, &loaded.catalog, refused, config, &mut done)?;
    if !rows.is_empty() || files::is_pending(store)? {
        files::run(&shared, loaded, rows, config, &mut done)?;
    }
    show(&done, args, json)
}

/// Puts records back.
fn to_topics(
    store: &dyn Store,
    catalog: &Catalog,
    mut refused: BTreeMap<RecordAt, Refused>,
    config: &Config,
    done: &mut Done,
) -> Outcome {
    let pending = pending(store)?;
    if refused.is_empty() && pending.is_none() {
        return Ok(());
    }
    let mut known = Vec::new();
    for (topic, _) in topics::named(catalog) {
        known.extend(topics::known(store, &topic).map_err(Failure::failed)?);
    }
    let mut redriver = Redriver::open(&config.kafka, &known).map_err(topics::failure)?;
    if let Some(batch) = pending {
        finish(store, &redriver, batch, &mut refused, done)?;
    }
    let refused: Vec<(RecordAt, Refused)> = refused.into_iter().collect();
    for records in refused.chunks(BATCH_RECORDS) {
        put(store, &mut redriver, records, done)?;
    }
    Ok(())
}

/// The records of rejects, with all rejects that each has; and rejects of files, by stream.
fn refused(
    store: &dyn Store,
    catalog: &Catalog,
    args: &RedriveArgs,
    done: &mut Done,
) -> Result<(BTreeMap<RecordAt, Refused>, OfStreams), Failure> {
    let mut found: BTreeMap<RecordAt, Refused> = BTreeMap::new();
    let (mut rows_found, mut of_files) = (OfStreams::new(), 0);
    let mut after = None;
    loop {
        let rows = store.scan_rejects(after, SCAN_ROWS).map_err(open::store_failure)?;
        let Some((last, _)) = rows.last() else { return Ok((found, rows_found)) };
        after = Some(*last);
        for (id, bytes) in rows {
            let reject = decode(id, &bytes)?;
            let wanted = |filter: &Option<String>, name: &str| {
                filter.as_ref().is_none_or(|filter| filter == name)
            };
            let is_wanted =
                wanted(&args.stream, &reject.stream) && wanted(&args.reason, reject.reason.name());
            let Some((topic, partition)) = reject.topic() else {
                let may = of_files < files::ROWS_MAX;
                if is_wanted && may && files::is_whole(catalog, &reject) {
                    rows_found.entry(reject.stream).or_default().push(id);
                    of_files += 1;
                } else {
                    done.of_files += u64::from(is_wanted);
                }
                continue;
            };
            let at = RecordAt { topic: topic.to_owned(), partition, offset: reject.offset };
            let refused = found.entry(at).or_default();
            refused.ids.push(id);
            refused.is_wanted |= is_wanted;
            refused.is_too_early |= reject.reason == Reason::TooEarly;
            refused.has_rows |= reject.index > 0;
            refused.streams.push(reject.stream);
        }
    }
}

fn decode(id: u64, bytes: &[u8]) -> Result<Reject, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|e| Failure::Failed(format!("reject {id} is damaged ({e}); restore the store")))
}

/// Whether a record is read again when it is put back, and nothing of it counts twice then: each stream
/// that reads its topic has refused it, or recognises what it has seen.
fn is_whole(catalog: &Catalog, at: &RecordAt, refused: &Refused) -> bool {
    let readers = catalog.streams.iter().filter_map(|stream| match &stream.from {
        From::Kafka { topic, format } if *topic == at.topic => Some((stream, format)),
        _ => None,
    });
    let mut readers = readers.peekable();
    readers.peek().is_some()
        && readers.all(|(stream, format)| {
            let one_row = !refused.has_rows && !format.is_envelope();
            stream.dedupe.is_some()
                || stream.changelog.is_some()
                || (one_row && refused.streams.contains(&stream.name))
        })
}

fn pending(store: &dyn Store) -> Result<Option<Batch>, Failure> {
    let Some(bytes) = store.meta(BATCH_KEY).map_err(open::store_failure)? else { return Ok(None) };
    let batch: Batch = serde_json::from_slice(&bytes).map_err(|e| {
        Failure::Failed(format!("the store's `{BATCH_KEY}` is damaged ({e}); restore the store"))
    })?;
    Ok(Some(batch).filter(|batch| !batch.rejects.is_empty()))
}

/// A batch of a command that was killed: if its records are in their topics, its rejects go.
fn finish(
    store: &dyn Store,
    redriver: &Redriver,
    batch: Batch,
    refused: &mut BTreeMap<RecordAt, Refused>,
    done: &mut Done,
) -> Outcome {
    if !redriver.is_committed(&batch.topic, batch.number).map_err(topics::failure)? {
        // Nothing of it is there: its rejects are as all others.
        return Ok(());
    }
    let there = |ids: &[u64]| ids.iter().any(|id| batch.rejects.contains(id));
    refused.retain(|_, refused| !there(&refused.ids));
    done.rejects += batch.rejects.len() as u64;
    remove(store, batch)
}

/// Removes the rejects of a batch that is in its topics, then the batch.
fn remove(store: &dyn Store, batch: Batch) -> Outcome {
    let window = WindowWrite { rejects_done: batch.rejects, ..WindowWrite::default() };
    store.write_window(window).map_err(open::store_failure)?;
    let none = Batch { number: batch.number, ..Batch::default() };
    write(store, &none)
}

fn write(store: &dyn Store, batch: &Batch) -> Outcome {
    let bytes = serde_json::to_vec(batch).map_err(Failure::failed)?;
    store.put_meta(BATCH_KEY, bytes).map_err(open::store_failure)
}

fn put(
    store: &dyn Store,
    redriver: &mut Redriver,
    records: &[(RecordAt, Refused)],
    done: &mut Done,
) -> Outcome {
    let (mut batch, mut redriven) = (Batch::default(), Vec::new());
    for (at, refused) in records {
        let record = redriver.read(at).map_err(topics::failure)?;
        let value = if record.is_some() { Some(Vec::new()) } else { kept(store, refused)? };
        let Some(value) = value else {
            done.deleted += 1;
            continue;
        };
        let arrives_now = refused.is_too_early;
        redriven.push(Redriven { at: at.clone(), record, value, arrives_now });
        batch.rejects.extend(&refused.ids);
    }
    let Some(first) = redriven.first() else { return Ok(()) };
    batch.topic.clone_from(&first.at.topic);
    let bytes = store.meta(BATCH_KEY).map_err(open::store_failure)?;
    let last: Batch = bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    // The mark of another store of the same group is another number.
    batch.number = crate::clock::wall_ms().max(0).cast_unsigned().max(last.number + 1);
    write(store, &batch)?;
    redriver.put(&batch.topic, batch.number, &redriven).map_err(topics::failure)?;
    done.records += redriven.len() as u64;
    done.rejects += batch.rejects.len() as u64;
    remove(store, batch)
}

/// A row as the store has kept it, if that is all of it.
fn kept(store: &dyn Store, refused: &Refused) -> Result<Option<Vec<u8>>, Failure> {
    let Some(id) = refused.ids.first().filter(|_| !refused.has_rows) else { return Ok(None) };
    let rows = store.scan_rejects(id.checked_sub(1), 1).map_err(open::store_failure)?;
    let Some((_, bytes)) = rows.first().filter(|(found, _)| found == id) else { return Ok(None) };
    let reject = decode(*id, bytes)?;
    let is_all = reject.row.len() as u64 == reject.row_bytes && !reject.row.contains("***");
    Ok(is_all.then(|| reject.row.into_bytes()))
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(done: &Done, args: &RedriveArgs, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_value(done).map_err(Failure::failed)?);
        return Ok(());
    }
    let would = if args.dry_run { "would be put" } else { "put" };
    let Done { records, rejects, rows, refused_again, of_files, owned, counted, deleted } = done;
    println!("{records} records {would} back into their topics; {rejects} rejects");
    if *rows > 0 && args.dry_run {
        println!("{rows} rows of files would be read again");
    } else if *rows > 0 {
        println!("{rows} rows of files were read again, {refused_again} of them refused once more");
    }
    if *counted > 0 {
        println!(
            "{counted} records stay: other rows of them are counted, and would count twice (a stream \
             that reads their topic has no `dedupe:`)"
        );
    }
    if *deleted > 0 {
        println!(
            "{deleted} records stay: their topics have deleted them, and the store has a part only"
        );
    }
    if *owned > 0 {
        println!(
            "{owned} rejects of files stay: rows of files are read again by who has all users to itself; \
             run this when no process of the group runs"
        );
    }
    if of_files > owned {
        println!(
            "{} rejects of files stay: the store has not all of their rows as they were (long or masked \
             ones, CSV, Parquet, envelopes); put the mended rows into a file, and run over it",
            of_files - owned
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two streams read one topic, of which one dedupes.
    fn catalog(second: &str) -> Catalog {
        let stream = |name: &str, more: &str| {
            format!(
                "stream: {name}\ndoc: d\nfrom: {{kafka: t, format: json}}\ncolumns: {{u: u64, at: \
                 timestamp(ms), id: string}}\nuid: u\ntime: at\n{more}"
            )
        };
        let streams = format!("{}---\n{}", stream("a", ""), stream("b", second));
        let files = [
            ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\n".to_owned()),
            ("streams/all.yaml", streams),
            (
                "features/f.yaml",
                "feature: n\ndoc: d\nstream: a\nvalue: count()\nwindow: lifetime\n".to_owned(),
            ),
            ("rules/r.yaml", "tag: t\ndoc: d\nowner: o\ngroup: g\nexpr: n\n".to_owned()),
        ];
        let files = files.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
        let loaded = crate::catalog::load_from("test", files);
        loaded.unwrap_or_else(|e| panic!("{e:?}")).catalog
    }

    #[test]
    fn a_record_of_which_something_counts_already_is_not_put_back() {
        let at = |topic: &str| RecordAt { topic: topic.to_owned(), partition: 0, offset: 1 };
        let refused = |streams: &[&str], has_rows| Refused {
            streams: streams.iter().map(|s| (*s).to_owned()).collect(),
            has_rows,
            ..Refused::default()
        };
        let plain = catalog("");
        assert!(is_whole(&plain, &at("t"), &refused(&["a", "b"], false)));
        assert!(!is_whole(&plain, &at("t"), &refused(&["a"], false)), "b has counted it");
        assert!(!is_whole(&plain, &at("other"), &refused(&["a"], false)), "nobody reads it");
        assert!(!is_whole(&plain, &at("t"), &refused(&["a", "b"], true)), "other rows of it");
        let deduping = catalog("dedupe: {by: id}\n");
        assert!(is_whole(&deduping, &at("t"), &refused(&["a"], false)), "b knows what it has seen");
        assert!(!is_whole(&deduping, &at("t"), &refused(&["b"], false)));
    }
}
