//! What tagloom tells of itself: metrics, logs, and whether it is ready.
//!
//! In: facts ([`facts`]), one a batch, window or call, from where they are known; conditions
//! ([`ready`]) from the parts that have any. Out: Prometheus text, log lines, reasons.
//! Invariant: nothing here is called once an event or once a user, and no secret comes in here.

pub mod facts;
pub mod logs;
pub mod names;
pub mod ready;

use std::sync::OnceLock;

use metrics::{Label, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Borders of all histograms: seconds.
const BUCKETS_S: [f64; 21] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75,
    1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// What a metric's number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts seconds by size.
    Histogram,
}

/// One metric: see [`names`].
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus sees it.
    pub name: &'static str,
    /// What its number does.
    pub kind: Kind,
    /// Names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

impl Metric {
    fn labels(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(values.len(), self.labels.len(), "labels of {}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
    }

    /// The counter with these values of its labels.
    pub fn counter(&self, values: &[&str]) -> metrics::Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        metrics::counter!(self.name, self.labels(values))
    }

    /// The gauge with these values of its labels.
    pub fn gauge(&self, values: &[&str]) -> metrics::Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        metrics::gauge!(self.name, self.labels(values))
    }

    /// The histogram with these values of its labels.
    pub fn histogram(&self, values: &[&str]) -> metrics::Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        metrics::histogram!(self.name, self.labels(values))
    }

    fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram => {
                metrics::describe_histogram!(self.name, Unit::Seconds, self.help);
            }
        }
    }
}

/// Memory of this process, as Linux counts it.
pub fn process_bytes() -> Option<u64> {
    resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// All metrics of this process as Prometheus reads them.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Begins to count: before this, facts go nowhere. To be called before the parts that count are
    /// made, once or more often.
    pub fn install() -> Self {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = HANDLE.get_or_init(|| {
            let builder = PrometheusBuilder::new();
            let builder = builder.set_buckets(&BUCKETS_S).expect("there are some buckets");
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("something else counts metrics in this process: /metrics is empty");
            }
            names::ALL.iter().for_each(Metric::describe);
            names::BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
            handle
        });
        Self(handle.clone())
    }

    /// The text format, version 0.0.4.
    pub fn render(&self) -> String {
        if let Some(bytes) = process_bytes() {
            names::PROCESS_BYTES.gauge(&[]).set(facts::number(bytes));
        }
        self.0.render()
    }

    /// To be called every few seconds: what histograms have seen is kept apart until then.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// The table of all metrics, for the operations guide.
pub fn table() -> String {
    let mut text = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, help } in names::ALL {
        let kind = format!("{kind:?}").to_lowercase();
        let labels: Vec<String> = labels.iter().map(|l| format!("`{l}`")).collect();
        text += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in names::ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is there twice");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            // What every process has is named as everywhere.
            let own = name.starts_with("tagloom_") || name.starts_with("process_");
            assert!(own && name.chars().all(plain), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
        }
    }

    #[test]
    fn memory_is_read_as_linux_writes_it() {
        assert_eq!(
            resident("VmHWM:\t 9 kB\nVmRSS:\t  131072 kB\nRssAnon: 1 kB\n"),
            Some(128 << 20)
        );
        assert_eq!(resident("VmRSS: many"), None);
    }

    #[test]
    fn what_is_counted_is_rendered_with_its_help() {
        let exporter = Exporter::install();
        names::WINDOWS.counter(&[]).increment(3);
        names::HTTP_SECONDS.histogram(&["GET", "/test"]).record(0.002);
        let text = Exporter::install().render();
        assert!(text.contains("# HELP tagloom_windows_total "), "{text}");
        assert!(text.contains("# TYPE tagloom_windows_total counter"), "{text}");
        let bucket =
            "tagloom_http_request_seconds_bucket{method=\"GET\",route=\"/test\",le=\"0.0025\"} 1";
        assert!(text.contains(bucket), "{text}");
        exporter.upkeep();
        assert!(text.contains("tagloom_build_info{version="), "{text}");
    }
}
