//! Settings: `tagloom.toml` < environment (`TAGLOOM_STORE__PATH`) < `--set store.path=...`.
//!
//! In: a file, the environment, overrides. Out: one checked [`Config`].
//! Invariant: an unknown key is an error that suggests a known one.

mod memory;
mod publish;
mod relay;
mod serve;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::publish::{PublishConfig, PublishTopic};
pub use self::relay::RelayConfig;
pub use self::serve::{LogConfig, LogFormat, ServeConfig};
use crate::dimension::Lookups;
use crate::event::partitioner::Partitioner;
use crate::source::kafka::KafkaConfig;
use crate::store::ClockMode;
pub use store::{StoreConfig, StoreKind};

/// The settings file that is read when none is named and this one is there.
pub const FILE_DEFAULT: &str = "tagloom.toml";

/// All settings. Units stand last in the names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The rule directory.
    pub catalog: CatalogConfig,
    /// Where as-of comes from.
    pub clock: ClockConfig,
    /// When windows close.
    pub window: WindowConfig,
    /// Draining of due users.
    pub due: DueConfig,
    /// Memory of the whole process.
    pub memory: MemoryConfig,
    /// Memory of one user.
    pub user: UserConfig,
    /// Reading.
    pub source: SourceConfig,
    /// What librdkafka is told.
    pub kafka: KafkaConfig,
    /// Topics that are not keyed by uid.
    pub relay: RelayConfig,
    /// What is told to others.
    pub publish: PublishConfig,
    /// Dimension tables.
    pub dimensions: DimensionsConfig,
    /// Rows that could not be used.
    pub rejects: RejectsConfig,
    /// Where profiles are.
    pub store: StoreConfig,
    /// Threads.
    pub engine: EngineConfig,
    /// Answering over HTTP.
    pub serve: ServeConfig,
    /// Logging.
    pub log: LogConfig,
}

/// `catalog.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogConfig {
    /// The rule directory.
    pub path: PathBuf,
    /// Whether a run that goes on (`--stay`, standard input) takes changes of the rule directory
    /// over.
    pub watch: bool,
    /// How often it is looked at then.
    pub watch_ms: u64,
    /// How long a partial keeps folding that no feature needs any more.
    pub retire_after_days: u32,
    /// Users computed by the rules of another catalogue while sources are read, a second.
    pub recompute_users_per_s_max: std::num::NonZeroU32,
}

/// `clock.*`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// `wall` (the default for topics), `fixed` (with `--as-of`) or `event` (the default for files).
    pub mode: Option<ClockMode>,
}

impl ClockConfig {
    /// What is set, or what suits the sources.
    pub fn mode_for(&self, reads_topics: bool) -> ClockMode {
        let usual = if reads_topics { ClockMode::Wall } else { ClockMode::Event };
        self.mode.unwrap_or(usual)
    }
}

/// `window.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowConfig {
    /// Milliseconds from one window's close to the next, 100 to 60,000.
    pub close_ms: u64,
    /// Dirty users at which a window closes early.
    pub users_max: usize,
    /// Users computed at once.
    pub batch_users_max: usize,
}

/// `due.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DueConfig {
    /// Due users recomputed in one window.
    pub users_per_window_max: usize,
}

/// `memory.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Bytes of resident users; beyond it those that were not needed lately leave memory and come
    /// back from the store when they are. 0: a third of the memory this process may use.
    pub resident_bytes_max: u64,
    /// Bytes of events, beside the store, that wait for their users' turn when the users of files do
    /// not fit in memory. 0: none; users are read and written as events come, as they always are with
    /// topics, standard input, `--stay` or HBase.
    pub spill_bytes_max: u64,
}

/// `user.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Bytes of one user's events beyond which its oldest days lose their event ids.
    pub state_bytes_max: usize,
}

/// `source.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Bytes of JSON lines decoded at once.
    pub block_bytes: usize,
    /// CSV rows decoded at once.
    pub batch_rows_max: usize,
    /// Bytes of the longest line; a longer one is a reject.
    pub line_bytes_max: usize,
    /// Batches between sources and shards; sources wait beyond it.
    pub batches_under_way_max: usize,
    /// Where a partition of a topic begins of which nothing is remembered: `earliest`, `latest` or an
    /// instant.
    pub start: String,
    /// Records of a partition that may be read beyond its last commit.
    pub commit_ahead_rows_max: u64,
    /// Milliseconds that the last window may take before partitions are given up.
    pub flush_max_ms: u64,
    /// How producers choose a record's partition by the uid's text: `murmur2` (Java's clients), `crc32`
    /// (librdkafka's default) or `none` (in another way). Users who came from files belong to that one.
    pub partitioner: Partitioner,
}

/// `dimensions.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DimensionsConfig {
    /// Bytes of cached rows for each table.
    pub cache_bytes_max: u64,
    /// Rows that `direct` dimensions read a second, of all tables together.
    pub direct_rows_per_s_max: std::num::NonZeroU32,
    /// Bytes of a table that a topic keeps in memory (`broadcast`).
    pub broadcast_bytes_max: u64,
    /// Records of topics written into stored tables a second, of all tables together.
    pub upsert_rows_per_s_max: std::num::NonZeroU32,
    /// Users of changed rows computed again, a second.
    pub changed_users_per_s_max: std::num::NonZeroU32,
}

/// `rejects.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RejectsConfig {
    /// Rejects kept in the store; the oldest go first.
    pub kept_max: usize,
    /// Rejects kept in memory between two windows; sources wait beyond it.
    pub waiting_max: usize,
}

/// `engine.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct EngineConfig {
    /// Threads that host users; 0: one a core.
    pub shards: usize,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            path: "tags".into(),
            watch: true,
            watch_ms: 1_000,
            retire_after_days: 7,
            recompute_users_per_s_max: std::num::NonZeroU32::new(20_000)
                .unwrap_or(std::num::NonZeroU32::MIN),
        }
    }
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { close_ms: 10_000, users_max: 1_000_000, batch_users_max: 1_024 }
    }
}

impl Default for DueConfig {
    fn default() -> Self {
        Self { users_per_window_max: 100_000 }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { resident_bytes_max: 0, spill_bytes_max: 16 << 30 }
    }
}

impl Default for UserConfig {
    fn default() -> Self {
        Self { state_bytes_max: 1 << 20 }
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            block_bytes: 1 << 20,
            batch_rows_max: 8_192,
            line_bytes_max: 1 << 20,
            batches_under_way_max: 16,
            start: "earliest".to_owned(),
            commit_ahead_rows_max: 250_000,
            flush_max_ms: 20_000,
            partitioner: Partitioner::Murmur2,
        }
    }
}

impl Default for DimensionsConfig {
    fn default() -> Self {
        let lookups = Lookups::default();
        Self {
            cache_bytes_max: lookups.cache_bytes_max,
            direct_rows_per_s_max: lookups.direct_rows_per_s_max,
            upsert_rows_per_s_max: lookups.upsert_rows_per_s_max,
            broadcast_bytes_max: 256 << 20,
            changed_users_per_s_max: std::num::NonZeroU32::new(100_000)
                .unwrap_or(std::num::NonZeroU32::MIN),
        }
    }
}

impl Default for RejectsConfig {
    fn default() -> Self {
        Self { kept_max: 1_000_000, waiting_max: 200_000 }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

type Builder = config::ConfigBuilder<config::builder::DefaultState>;

fn readable(error: config::ConfigError) -> ConfigError {
    ConfigError(explain(&error.to_string()))
}

fn with_file(builder: Builder, file: Option<&Path>) -> Builder {
    let path = file.unwrap_or(Path::new(FILE_DEFAULT));
    let source = config::File::from(path).format(config::FileFormat::Toml);
    builder.add_source(source.required(file.is_some()))
}

fn with_environment(builder: Builder, environment: BTreeMap<String, String>) -> Builder {
    let environment = config::Environment::with_prefix("TAGLOOM")
        .prefix_separator("_")
        .separator("__")
        .try_parsing(true)
        .source(Some(environment.into_iter().filter(|(k, _)| k.contains("__")).collect()));
    builder.add_source(environment)
}

fn with_overrides(mut builder: Builder, overrides: &[String]) -> Result<Builder, ConfigError> {
    for pair in overrides {
        let Some((key, value)) = pair.split_once('=') else {
            let message =
                format!("--set {pair}: expected KEY=VALUE, as in --set window.close_ms=1000");
            return Err(ConfigError(message));
        };
        builder = builder.set_override(key.trim(), value.trim()).map_err(readable)?;
    }
    Ok(builder)
}

/// Reads all settings. `file`: an explicit one must exist, else `tagloom.toml` may be absent.
pub fn load(
    file: Option<&Path>,
    overrides: &[String],
    environment: BTreeMap<String, String>,
) -> Result<Config, ConfigError> {
    let builder = with_environment(with_file(Builder::default(), file), environment);
    let builder = with_overrides(builder, overrides)?;
    let config: Config =
        builder.build().and_then(config::Config::try_deserialize).map_err(readable)?;
    config.check()?;
    Ok(config)
}

/// Where a setting comes from; a later one wins over those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// The settings file.
    File,
    /// A `TAGLOOM_` variable.
    Environment,
    /// The command line.
    Override,
}

/// Where each setting that is not a default comes from, by key (`store.path`). Takes what [`load`]
/// takes.
pub fn origins(
    file: Option<&Path>,
    overrides: &[String],
    environment: BTreeMap<String, String>,
) -> Result<BTreeMap<String, Origin>, ConfigError> {
    let empty = Builder::default;
    let layers = [
        (Origin::File, with_file(empty(), file)),
        (Origin::Environment, with_environment(empty(), environment)),
        (Origin::Override, with_overrides(empty(), overrides)?),
    ];
    let mut origins = BTreeMap::new();
    for (origin, builder) in layers {
        let layer: serde_json::Value =
            builder.build().and_then(config::Config::try_deserialize).map_err(readable)?;
        origins.extend(flat(&layer).into_keys().map(|key| (key, origin)));
    }
    Ok(origins)
}

/// Nested settings by dotted key.
pub fn flat(value: &serde_json::Value) -> BTreeMap<String, serde_json::Value> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), value)];
    while let Some((key, value)) = waiting.pop() {
        match value {
            serde_json::Value::Object(entries) => {
                let dot = if key.is_empty() { "" } else { "." };
                waiting.extend(entries.iter().map(|(name, v)| (format!("{key}{dot}{name}"), v)));
            }
            other => {
                found.insert(key, other.clone());
            }
        }
    }
    found
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        if !(100..=60_000).contains(&self.window.close_ms) {
            return Err(ConfigError(format!(
                "window.close_ms = {}: expected 100 to 60000 milliseconds",
                self.window.close_ms
            )));
        }
        let positive = [
            ("window.users_max", self.window.users_max),
            ("window.batch_users_max", self.window.batch_users_max),
            ("due.users_per_window_max", self.due.users_per_window_max),
            ("source.block_bytes", self.source.block_bytes),
            ("source.batch_rows_max", self.source.batch_rows_max),
            ("source.line_bytes_max", self.source.line_bytes_max),
            ("source.batches_under_way_max", self.source.batches_under_way_max),
            ("rejects.waiting_max", self.rejects.waiting_max),
            ("user.state_bytes_max", self.user.state_bytes_max),
        ];
        if !(10..=3_600_000).contains(&self.catalog.watch_ms) {
            return Err(ConfigError(format!(
                "catalog.watch_ms = {}: expected 10 to 3600000 milliseconds",
                self.catalog.watch_ms
            )));
        }
        self.serve.check()?;
        self.relay.check()?;
        self.store.hbase.check().map_err(ConfigError)?;
        self.publish.check().map_err(ConfigError)?;
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(ConfigError(format!("{key} = 0: expected at least 1"))),
            None => Ok(()),
        }
    }

    /// Bytes of resident users: never 0.
    pub fn resident_bytes_max(&self) -> usize {
        let bytes = match self.memory.resident_bytes_max {
            0 => memory::available_bytes() / 3,
            bytes => bytes,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
    }

    /// Memory that this process may use.
    pub fn memory_available_bytes(&self) -> u64 {
        memory::available_bytes()
    }

    /// Threads that host users.
    pub fn shards(&self) -> usize {
        match self.engine.shards {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            shards => shards,
        }
    }
}

/// Adds "did you mean" to serde's message about an unknown key.
fn explain(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    if !message.contains("unknown field") {
        return message.to_owned();
    }
    let Some(unknown) = names.next() else { return message.to_owned() };
    if ["kerberos", "sasl", "keytab", "principal"].iter().any(|word| unknown.contains(word)) {
        return format!(
            "unknown field `{unknown}`: tagloom speaks to HBase's Thrift gateway without Kerberos or \
             SASL; put a gateway without them where only tagloom reaches it, or a proxy that logs in \
             for it"
        );
    }
    let near = names
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(overrides: &[&str], env: &[(&str, &str)]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(None, &overrides, env).map_err(|e| e.to_string())
    }

    #[test]
    fn overrides_win_over_the_environment() {
        let env = [("TAGLOOM_STORE__PATH", "/a"), ("TAGLOOM_WINDOW__CLOSE_MS", "500")];
        let config = check(&["store.path=/b"], &env).expect("both are known keys");
        assert_eq!(config.store.path, PathBuf::from("/b"));
        assert_eq!(config.window.close_ms, 500);
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        let error = check(&["window.close_msec=5"], &[]).expect_err("no such key");
        assert!(
            error.contains("close_msec") && error.contains("did you mean `close_ms`"),
            "{error}"
        );
        let error = check(&[], &[("TAGLOOM_STORE__PTH", "x")]).expect_err("no such key");
        assert!(error.contains("did you mean `path`"), "{error}");
    }

    #[test]
    fn kerberos_is_refused_in_clear_words() {
        for set in ["store.hbase.kerberos_principal=x", "store.hbase.security=kerberos"] {
            let error = check(&[set], &[]).expect_err("not supported");
            assert!(error.contains("without Kerberos or SASL"), "{error}");
        }
    }

    #[test]
    fn settings_of_hbase_are_checked() {
        let set = ["store.kind=hbase", "store.hbase.gateways=a:9090, b:9091"];
        let config = check(&set, &[]).expect("all is well");
        assert_eq!(config.store.kind, StoreKind::Hbase);
        assert_eq!(config.store.hbase.gateway_list(), ["a:9090", "b:9091"]);
        for (set, text) in [
            ("store.hbase.gateways=", "is empty"),
            ("store.hbase.gateways=host", "`host` is not host:port"),
            ("store.hbase.prefix=my tables", "expected up to 100 letters"),
            ("store.hbase.deadline_ms=0", "store.hbase.deadline_ms = 0: expected at least 1"),
            ("store.hbase.connections=1000", "at most 256"),
            ("store.hbase.gateway=a:1", "did you mean `gateways`"),
            ("relay.topics=a,b", "relay.topic, which they are rewritten into, is not set"),
        ] {
            let error = check(&[set], &[]).expect_err(set);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn origins_are_those_of_the_value_that_counts() {
        let env = [("TAGLOOM_STORE__PATH", "/a"), ("TAGLOOM_WINDOW__CLOSE_MS", "500")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        let found = origins(None, &["store.path=/b".to_owned()], env).expect("both are known keys");
        let expect = [("store.path", Origin::Override), ("window.close_ms", Origin::Environment)];
        let expect = expect.map(|(k, o)| (k.to_owned(), o)).into_iter().collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn limits_have_limits() {
        let error = check(&["window.close_ms=5"], &[]).expect_err("too short");
        assert!(error.contains("100 to 60000"), "{error}");
    }
}
