//! `serve.*` and `log.*`: what a process answers over HTTP, and what it says of itself.
//!
//! In: settings. Out: the same, checked. Invariant: every queue, body and wait has a bound.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `serve.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Address and port; port 0: a free one.
    pub listen: String,
    /// File with one key a line; empty: no keys are asked for.
    pub api_keys_file: PathBuf,
    /// Whether others than this machine may ask without a key.
    pub allow_anonymous: bool,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Users of one batch.
    pub batch_users_max: usize,
    /// Milliseconds for an answer.
    pub timeout_ms: u64,
    /// Requests a second; 0: no limit.
    pub requests_per_s_max: u32,
    /// Connections at once.
    pub connections_max: usize,
    /// Threads that speak HTTP.
    pub workers: usize,
    /// Threads that read the store and evaluate.
    pub read_threads: usize,
    /// Requests that wait for such a thread.
    pub reads_waiting_max: usize,
    /// Milliseconds for requests under way when the process ends.
    pub shutdown_ms: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8321".to_owned(),
            api_keys_file: PathBuf::new(),
            allow_anonymous: false,
            body_bytes_max: 1 << 20,
            batch_users_max: 1_000,
            timeout_ms: 5_000,
            requests_per_s_max: 50_000,
            connections_max: 1_024,
            workers: 2,
            read_threads: 4,
            reads_waiting_max: 256,
            shutdown_ms: 5_000,
        }
    }
}

impl ServeConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("serve.body_bytes_max", self.body_bytes_max),
            ("serve.batch_users_max", self.batch_users_max),
            ("serve.connections_max", self.connections_max),
            ("serve.workers", self.workers),
            ("serve.read_threads", self.read_threads),
            ("serve.reads_waiting_max", self.reads_waiting_max),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError(format!("{key} = 0: expected at least 1")));
        }
        let times = [("timeout_ms", self.timeout_ms), ("shutdown_ms", self.shutdown_ms)];
        if let Some((key, ms)) = times.iter().find(|(_, ms)| !(1..=25_000).contains(ms)) {
            let message = format!("serve.{key} = {ms}: expected 1 to 25000 milliseconds");
            return Err(ConfigError(message));
        }
        self.address().map(|_| ())
    }

    /// Where to listen. Beyond this machine only with keys, or when told that none are wanted.
    pub fn address(&self) -> Result<SocketAddr, ConfigError> {
        let listen = &self.listen;
        let address: SocketAddr = listen.parse().map_err(|_| {
            let example = "127.0.0.1:8321, or 0.0.0.0:8321 for all interfaces";
            ConfigError(format!("serve.listen = {listen}: expected address:port, as in {example}"))
        })?;
        let is_local = match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        };
        if !is_local && self.api_keys_file.as_os_str().is_empty() && !self.allow_anonymous {
            return Err(ConfigError(format!(
                "serve.listen = {listen}: whoever reaches this address could read every user; set \
                 serve.api_keys_file, or serve.allow_anonymous = true where the network keeps \
                 others out"
            )));
        }
        Ok(address)
    }

    /// For an answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// `log.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least level that is logged, or levels by part.
    pub level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, level: "info".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listen: &str, keys: &str, anonymous: bool, error: Option<&str>) {
        let config = ServeConfig {
            listen: listen.to_owned(),
            api_keys_file: keys.into(),
            allow_anonymous: anonymous,
            ..ServeConfig::default()
        };
        let said = config.check().map_err(|e| e.to_string()).err().unwrap_or_default();
        assert_eq!(said.is_empty(), error.is_none(), "{said}");
        assert!(said.contains(error.unwrap_or_default()), "{said}");
    }

    #[test]
    fn other_machines_need_a_key_unless_told() {
        check("127.0.0.1:0", "", false, None);
        check("[::1]:8321", "", false, None);
        check("0.0.0.0:8321", "", false, Some("api_keys_file"));
        check("10.1.2.3:80", "keys", false, None);
        check("[::]:8321", "", true, None);
        check("localhost", "", false, Some("expected address:port"));
    }

    #[test]
    fn every_bound_is_one() {
        let config = ServeConfig { reads_waiting_max: 0, ..ServeConfig::default() };
        let error = config.check().expect_err("no bound").to_string();
        assert_eq!(error, "serve.reads_waiting_max = 0: expected at least 1");
        let config = ServeConfig { timeout_ms: 60_000, ..ServeConfig::default() };
        assert!(config.check().is_err());
    }
}
