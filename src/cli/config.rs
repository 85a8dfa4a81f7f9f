//! `tagloom config`: the settings in effect, and where they come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Outcome};
use crate::config::{Config, FILE_DEFAULT, Origin, flat, origins};
use crate::source::kafka::is_secret;

/// Arguments of `tagloom config`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom config                                 all settings, as tagloom.toml has them
  tagloom config > tagloom.toml                  a file to begin with
  TAGLOOM_STORE__PATH=/data tagloom config       the environment wins over the file
  tagloom config --set window.close_ms=1000      and --set over both")]
pub(super) struct ConfigArgs {}

/// What each setting means.
const HELP: &[(&str, &str)] = &[
    ("catalog.path", "The rule directory"),
    (
        "catalog.watch",
        "Whether a run that goes on (--stay, standard input) takes over changes of the directory",
    ),
    ("catalog.watch_ms", "How often the directory is looked at then"),
    (
        "catalog.retire_after_days",
        "How long what no feature needs any more is kept, in case the feature comes back",
    ),
    (
        "catalog.recompute_users_per_s_max",
        "Users computed by the rules of another catalogue while sources are read, a second",
    ),
    (
        "clock.mode",
        "Where as-of comes from: wall (the default for topics), fixed (--as-of), event (the greatest \
         event time: the default for files)",
    ),
    ("window.close_ms", "Milliseconds from one window's close to the next, 100 to 60000"),
    ("window.users_max", "Dirty users at which a window closes early"),
    ("window.batch_users_max", "Users computed at once"),
    ("due.users_per_window_max", "Users due by time alone that are recomputed in one window"),
    (
        "memory.resident_bytes_max",
        "Bytes of users in memory, beyond which some leave; 0: a third of the memory there is (control group)",
    ),
    (
        "memory.spill_bytes_max",
        "Bytes of files' events beside the store that wait for their users' turn when users do not fit in memory; 0: none. Not with topics, standard input, --stay or HBase",
    ),
    (
        "user.state_bytes_max",
        "Bytes of one user's events beyond which its oldest days lose their event ids",
    ),
    ("source.block_bytes", "Bytes of JSON lines decoded at once"),
    ("source.batch_rows_max", "CSV rows decoded at once"),
    ("source.line_bytes_max", "Bytes of the longest line; a longer one is a reject"),
    ("source.batches_under_way_max", "Batches between sources and shards; sources wait beyond it"),
    (
        "source.start",
        "Where a topic begins of which nothing is remembered: earliest, latest or an instant",
    ),
    (
        "source.commit_ahead_rows_max",
        "Records of a partition that may be read beyond its last commit",
    ),
    (
        "source.flush_max_ms",
        "Milliseconds that the last window may take before partitions are given up",
    ),
    (
        "source.partitioner",
        "How producers choose a partition by the uid's text: murmur2 (Java), crc32 (librdkafka) or none",
    ),
    ("publish.changes.topic", "Topic to which changes of tags are published; empty: none"),
    ("publish.rejects.topic", "Topic to which rows that were refused are published; empty: none"),
    ("publish.queue_records_max", "Records on their way to each of them; windows wait beyond it"),
    ("publish.queue_kbytes_max", "Kilobytes on their way to each of them"),
    (
        "dimensions.changed_users_per_s_max",
        "Users of changed dimension rows computed again, a second",
    ),
    (
        "dimensions.cache_bytes_max",
        "Bytes of cached rows for each dimension table; of keys that its topic has changed as many",
    ),
    (
        "dimensions.direct_rows_per_s_max",
        "Rows that `direct` dimensions read a second, of all tables together",
    ),
    (
        "dimensions.broadcast_bytes_max",
        "Bytes of a dimension table that a topic keeps in memory (`broadcast`)",
    ),
    (
        "dimensions.upsert_rows_per_s_max",
        "Records of topics written into stored dimension tables a second, of all tables together",
    ),
    ("rejects.kept_max", "Rejects kept in the store; the oldest go first"),
    ("rejects.waiting_max", "Rejects kept in memory between two windows; sources wait beyond it"),
    (
        "store.kind",
        "fjall (embedded, durable), hbase (shared), memory (nothing outlives the process)",
    ),
    ("store.path", "Directory of the embedded store"),
    ("store.cache_bytes_max", "Bytes of the store's blocks kept in memory for reading"),
    (
        "store.hbase.gateways",
        "Thrift gateways as host:port, several with commas: Thrift 1, buffered, binary",
    ),
    ("store.hbase.prefix", "What the names of this store's HBase tables begin with"),
    ("store.hbase.security", "How the gateway is spoken to: only none; no Kerberos, no SASL"),
    ("store.hbase.tag_cells", "Whether changed tags are also written as cells, for other readers"),
    ("store.hbase.connections", "Connections to gateways, each with a thread of its own"),
    ("store.hbase.connect_timeout_ms", "Milliseconds to connect"),
    ("store.hbase.call_timeout_ms", "Milliseconds that one attempt waits for the gateway"),
    (
        "store.hbase.deadline_ms",
        "Milliseconds that a call is tried again; then the store counts as unavailable",
    ),
    ("store.hbase.batch_rows_max", "Rows in one call"),
    ("store.hbase.batch_bytes_max", "Bytes of keys and values in one call"),
    ("store.hbase.rows_per_s_max", "Rows written a second; 0: no limit"),
    ("store.hbase.bytes_per_s_max", "Bytes of keys and values written a second; 0: no limit"),
    ("store.hbase.queue_max", "Calls that wait for a connection; beyond it callers wait"),
    ("store.hbase.regions", "Regions of profiles that `tagloom store init --print` asks for"),
    ("store.hbase.rejects_kept_days", "Days that rejects are kept in HBase"),
    (
        "relay.topics",
        "Topics that are not keyed by uid, with commas: run reads relay.topic instead",
    ),
    ("relay.topic", "The topic that tagloom relay rewrites them into"),
    ("relay.group", "The group of tagloom relay; empty: kafka.group.id with -relay behind"),
    ("relay.id", "Name of this process of relay: its restart waits for nothing; empty: a new one"),
    ("relay.batch_rows_max", "Records in one transaction of relay"),
    ("relay.batch_bytes_max", "Bytes of their values"),
    ("relay.batch_ms", "Milliseconds that records are gathered for a transaction, 1 to 10000"),
    (
        "relay.transaction_timeout_ms",
        "Milliseconds after which a transaction ends of a process that is gone, 1000 to 900000",
    ),
    ("engine.shards", "Threads that host users; 0: one a core"),
    ("serve.listen", "Address and port of the HTTP service; port 0 takes a free one"),
    (
        "serve.api_keys_file",
        "File with one API key a line, read again when it changes; empty: none",
    ),
    (
        "serve.allow_anonymous",
        "Whether other machines may ask without a key, where serve.listen lets them in",
    ),
    ("serve.body_bytes_max", "Bytes of a request's body"),
    ("serve.batch_users_max", "Users of one POST /v1/users:batchGet"),
    ("serve.timeout_ms", "Milliseconds for an answer, 1 to 25000"),
    ("serve.requests_per_s_max", "Requests answered a second; 0: no limit"),
    ("serve.connections_max", "HTTP connections at once; more wait to be accepted"),
    ("serve.workers", "Threads that speak HTTP"),
    ("serve.read_threads", "Threads that read the store for HTTP requests and evaluate"),
    ("serve.reads_waiting_max", "HTTP requests that wait for such a thread; more get 503"),
    ("serve.shutdown_ms", "Milliseconds for requests under way when the process ends, 1 to 25000"),
    ("log.format", "pretty (for people) or json (one object a line)"),
    ("log.level", "error, warn, info, debug, trace, or by part: warn,tagloom::engine=debug"),
];

/// Runs the command. `file`, `overrides` and `catalog` are what the command line says.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(
    config: &Config,
    file: Option<&Path>,
    overrides: &[String],
    catalog: Option<&PathBuf>,
    json: bool,
) -> Outcome {
    let mut from = origins(file, overrides, super::environment()).map_err(Failure::input)?;
    if catalog.is_some() {
        from.insert("catalog.path".to_owned(), Origin::Override);
    }
    let settings = settings(config)?;
    let file = file.unwrap_or(Path::new(FILE_DEFAULT)).display().to_string();
    if json {
        let object: BTreeMap<&str, Value> = settings
            .iter()
            .map(|(key, value)| {
                let from = shown(origin(&from, key), &file, key);
                (key.as_str(), json!({"value": value, "from": from, "help": help(key)}))
            })
            .collect();
        println!("{}", json!(object));
        return Ok(());
    }
    println!("# default < {file} < environment (TAGLOOM_STORE__PATH) < --set store.path=...");
    let mut section = "";
    for (key, value) in &settings {
        let (of, name) = key.split_once('.').unwrap_or(("", key));
        if of != section {
            println!("\n[{of}]");
            section = of;
        }
        println!("# {}", help(key));
        let (mark, value) = match value {
            // TOML has no word for what is not set: the file stays one that can be read.
            Value::Null => ("# ", "not set".to_owned()),
            value => ("", value.to_string()),
        };
        let line = format!("{mark}{name} = {value}");
        println!("{line:<40} # {}", shown(origin(&from, key), &file, key));
    }
    Ok(())
}

/// All settings by key.
fn settings(config: &Config) -> Result<BTreeMap<String, Value>, Failure> {
    let mut settings = flat(&serde_json::to_value(config).map_err(Failure::failed)?);
    for (key, value) in &mut settings {
        let is_secret = key.strip_prefix("kafka.").is_some_and(is_secret);
        // Where a secret is kept is none.
        let is_kept =
            value.as_str().is_some_and(|v| v.starts_with("file:") || v.starts_with("env:"));
        if is_secret && !is_kept {
            *value = Value::String("(hidden)".to_owned());
        }
    }
    Ok(settings)
}

fn origin(from: &BTreeMap<String, Origin>, key: &str) -> Origin {
    from.get(key).copied().unwrap_or(Origin::Default)
}

fn shown(origin: Origin, file: &str, key: &str) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::File => file.to_owned(),
        Origin::Environment => {
            format!("TAGLOOM_{}", key.replace('.', "__").to_ascii_uppercase())
        }
        Origin::Override => "command line".to_owned(),
    }
}

fn help(key: &str) -> &'static str {
    if key.starts_with("kafka.") {
        return "For librdkafka, by its own name";
    }
    HELP.iter().find(|(known, _)| *known == key).map_or("", |(_, help)| help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_help_and_every_help_a_setting() {
        let settings = settings(&Config::default()).expect("plain settings are JSON");
        let without: Vec<_> = settings.keys().filter(|k| help(k).is_empty()).collect();
        assert!(without.is_empty(), "add to HELP: {without:?}");
        let gone: Vec<_> = HELP.iter().filter(|(k, _)| !settings.contains_key(*k)).collect();
        assert!(gone.is_empty(), "drop from HELP: {gone:?}");
    }

    #[test]
    fn what_is_shown_can_be_set() {
        let values = settings(&Config::default()).expect("plain settings are JSON");
        let overrides: Vec<String> = values
            .iter()
            // What nobody has set suits the sources.
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| format!("{k}={}", v.as_str().map_or(v.to_string(), str::to_owned)))
            .collect();
        let read = crate::config::load(None, &overrides, BTreeMap::new());
        assert_eq!(read.map_err(|e| e.to_string()), Ok(Config::default()));
    }
}
