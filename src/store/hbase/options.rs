//! `store.hbase.*`: where HBase is and how hard it may be asked.
//!
//! In: settings. Out: [`HbaseOptions`], checked. Invariant: every bound is at least 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sockets idle for so long are closed: the gateway does so after 60 s, and a call on a socket that it
/// is just closing fails.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(45);

/// Longest prefix of table names.
const PREFIX_BYTES_MAX: usize = 100;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HbaseOptions {
    /// Thrift gateways (Thrift 1, buffered, binary): `host:port`, several with commas. Each
    /// connection begins with another one and goes on to the next when one fails.
    pub gateways: String,
    /// What table names begin with: `<prefix>profile`, `<prefix>due`, `<prefix>reject`,
    /// `<prefix>meta`, `<prefix>dim_<table>`.
    pub prefix: String,
    /// How the gateway is spoken to: only `none`. Kerberos and SASL are refused.
    pub security: String,
    /// Whether changed tags are also written as cells of their own, for other readers of HBase.
    pub tag_cells: bool,
    /// Connections, each with a thread of its own.
    pub connections: usize,
    /// Milliseconds to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds that one attempt of a call may wait for the gateway. The gateway itself waits
    /// about 10 s for an HBase that is down.
    pub call_timeout_ms: u64,
    /// Milliseconds that a call is tried again and again; then the store counts as unavailable.
    pub deadline_ms: u64,
    /// Rows in one call.
    pub batch_rows_max: usize,
    /// Bytes of keys and values in one call. A framed gateway refuses calls of 2 MB.
    pub batch_bytes_max: usize,
    /// Rows written a second, over all connections; 0: no limit.
    pub rows_per_s_max: u32,
    /// Bytes of keys and values written a second; 0: no limit.
    pub bytes_per_s_max: u32,
    /// Calls that wait for a connection; beyond it callers wait.
    pub queue_max: usize,
    /// Regions of the profile table that `tagloom store init` asks for in its statement for the HBase
    /// shell.
    pub regions: u32,
    /// Days that rejects are kept (the family's time to live, set by `tagloom store init`).
    pub rejects_kept_days: u32,
}

impl Default for HbaseOptions {
    fn default() -> Self {
        Self {
            gateways: "127.0.0.1:9090".to_owned(),
            prefix: "tagloom_".to_owned(),
            security: "none".to_owned(),
            tag_cells: true,
            connections: 4,
            connect_timeout_ms: 2_000,
            call_timeout_ms: 15_000,
            deadline_ms: 30_000,
            batch_rows_max: 200,
            batch_bytes_max: 1 << 20,
            rows_per_s_max: 0,
            bytes_per_s_max: 0,
            queue_max: 16,
            regions: 10,
            rejects_kept_days: 30,
        }
    }
}

impl HbaseOptions {
    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let key = |name: &str| format!("store.hbase.{name}");
        if self.security != "none" {
            return Err(format!(
                "{} = {}: tagloom speaks to the Thrift gateway without Kerberos or SASL; put a gateway \
                 without them where only tagloom reaches it (hbase.thrift.security.qop unset), or a \
                 proxy that logs in for it, and set {} = none",
                key("security"),
                self.security,
                key("security"),
            ));
        }
        let gateways = self.gateway_list();
        if gateways.is_empty() {
            return Err(format!("{} is empty: expected host:port", key("gateways")));
        }
        for gateway in gateways {
            let port = gateway.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                let message = format!("{}: `{gateway}` is not host:port", key("gateways"));
                return Err(message);
            }
        }
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        if self.prefix.len() > PREFIX_BYTES_MAX
            || !self.prefix.chars().all(named)
            || self.prefix.starts_with(['-', '.'])
        {
            return Err(format!(
                "{} = {}: expected up to {PREFIX_BYTES_MAX} letters, digits, `_`, `-`, `.` (a \
                 namespace ends in `:`), the first no `-` or `.`",
                key("prefix"),
                self.prefix
            ));
        }
        let positive = [
            ("connections", self.connections as u64),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("call_timeout_ms", self.call_timeout_ms),
            ("deadline_ms", self.deadline_ms),
            ("batch_rows_max", self.batch_rows_max as u64),
            ("batch_bytes_max", self.batch_bytes_max as u64),
            ("queue_max", self.queue_max as u64),
            ("regions", self.regions.into()),
            ("rejects_kept_days", self.rejects_kept_days.into()),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("{} = 0: expected at least 1", key(name))),
            None if self.connections > 256 => {
                Err(format!("{} = {}: at most 256", key("connections"), self.connections))
            }
            None if self.batch_rows_max > 10_000 => {
                let rows = self.batch_rows_max;
                Err(format!("{} = {rows}: at most 10000", key("batch_rows_max")))
            }
            None => Ok(()),
        }
    }

    /// The gateways, one by one.
    pub fn gateway_list(&self) -> Vec<&str> {
        self.gateways.split(',').map(str::trim).filter(|gateway| !gateway.is_empty()).collect()
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}
