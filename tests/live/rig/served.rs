//! A process that answers over HTTP: what it says of itself.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::metrics::Metrics;
use super::process::{Process, READY_MAX};
use super::wait_until;
use crate::http;

pub use http::Response;

/// See the module.
pub struct Served {
    pub process: Process,
    at: SocketAddr,
}

/// What `/readyz` said: each condition with whether it holds, and its words.
#[derive(Debug)]
pub struct Readiness {
    pub ready: bool,
    pub conditions: BTreeMap<String, (bool, String)>,
}

impl Readiness {
    /// Words of a condition that does not hold.
    pub fn why_not(&self, condition: &str) -> Option<&str> {
        self.conditions.get(condition).filter(|(holds, _)| !holds).map(|(_, why)| why.as_str())
    }
}

impl Served {
    /// Waits until it answers.
    pub fn new(mut process: Process, port: u16) -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("the process listens", READY_MAX, || {
            process.must_run();
            TcpStream::connect(at).is_ok()
        });
        Self { process, at }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.at, path)
    }

    #[track_caller]
    pub fn readiness(&self) -> Readiness {
        let answer = self.get("/readyz");
        let body = answer.json();
        let ready = body["ready"].as_bool().unwrap();
        assert_eq!(answer.status, if ready { 200 } else { 503 }, "{answer:?}");
        let conditions = body["conditions"].as_array().unwrap().iter().map(|found| {
            let text = |name: &str| found[name].as_str().unwrap().to_owned();
            (text("name"), (found["ready"].as_bool().unwrap(), text("detail")))
        });
        Readiness { ready, conditions: conditions.collect() }
    }

    /// Sum of a metric's series whose labels contain this text; none: there is no such series.
    #[track_caller]
    pub fn metric_of(&self, name: &str, labels: &str) -> Option<f64> {
        Metrics::of(self.at.port()).sum(name, labels)
    }

    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "").unwrap_or(0.0)
    }

    /// Waits until it is ready. Meanwhile the process must not be restarted.
    #[track_caller]
    pub fn wait_ready(&self, at_most: Duration) {
        let mut last = None;
        let deadline = tagloom::clock::Deadline::after(at_most);
        while !last.insert(self.readiness()).ready {
            self.must_live();
            assert!(!deadline.is_over(), "not ready: {last:?}");
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Waits until a condition does not hold; what it says then.
    #[track_caller]
    pub fn wait_not_ready(&self, condition: &str, at_most: Duration) -> String {
        let deadline = tagloom::clock::Deadline::after(at_most);
        loop {
            let found = self.readiness();
            self.must_live();
            if let Some(why) = found.why_not(condition) {
                return why.to_owned();
            }
            assert!(!deadline.is_over(), "`{condition}` holds: {found:?}");
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    #[track_caller]
    fn must_live(&self) {
        let answer = self.get("/healthz");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
