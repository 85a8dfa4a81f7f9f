//! What a process says of itself at `/metrics`.

use std::net::SocketAddr;

use crate::http;

/// See the module.
pub struct Metrics(String);

impl Metrics {
    /// Asks a process.
    pub fn of(port: u16) -> Self {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        Self(http::get(at, "/metrics").body)
    }

    /// A sample's value, by its name with labels. None: it was never set.
    pub fn get(&self, name: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.trim().parse().unwrap())
    }

    /// The same of one that must be there.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("no {name} in\n{}", self.0))
    }

    /// The sum of the samples of a metric whose labels contain this text. None: there is no such sample.
    pub fn sum(&self, name: &str, labels: &str) -> Option<f64> {
        let value = |line: &str| {
            let (found, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let is_it = (found.is_empty() || found.starts_with('{')) && found.contains(labels);
            is_it.then(|| value.parse::<f64>().unwrap())
        };
        self.0.lines().filter_map(value).reduce(|a, b| a + b)
    }

    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bucket = |line: &str| {
            let (border, count) =
                line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
            Some((border.parse::<f64>().ok()?, count.trim().parse::<f64>().unwrap()))
        };
        self.0.lines().filter_map(bucket).collect()
    }

    /// The quantile of a histogram without labels, of what came since an earlier answer; linear within
    /// its bucket.
    pub fn quantile_since(&self, before: &Self, name: &str, share: f64) -> f64 {
        let (mut buckets, had) = (self.buckets(name), before.buckets(name));
        for (bucket, had) in buckets.iter_mut().zip(had) {
            bucket.1 -= had.1;
        }
        let wanted = share * buckets.last().unwrap().1;
        let mut below = (0.0, 0.0);
        for at in buckets {
            if at.1 >= wanted {
                let within =
                    if at.1 > below.1 { (wanted - below.1) / (at.1 - below.1) } else { 1.0 };
                return below.0 + within * (at.0 - below.0).min(60.0);
            }
            below = at;
        }
        below.0
    }
}
