//! What happened, as types: whoever knows a fact fills one in and tells it.
//!
//! In: facts. Out: metrics. Invariant: one fact a batch, window or request, never one an event; a
//! fact without a recorder does nothing but a few table lookups.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::names;
use crate::catalog::model::Catalog;
use crate::engine::status::Status;
use crate::event::Decoded;
use crate::event::reject::Reason;
use crate::shard::WindowStats;

/// A batch was decoded and is about to be routed.
#[derive(Debug)]
pub struct BatchReceived<'a> {
    /// Names the streams.
    pub catalog: &'a Catalog,
    /// The batch.
    pub decoded: &'a Decoded,
}

impl BatchReceived<'_> {
    /// Counts it.
    pub fn tell(&self) {
        let Decoded { rows, rejects, blocks, .. } = self.decoded;
        names::ROWS.counter(&[]).increment(*rows);
        for block in blocks {
            let Some(stream) = self.catalog.streams.get(usize::from(block.stream)) else {
                continue;
            };
            let stream = [stream.name.as_str()];
            names::EVENTS.counter(&stream).increment(block.accepted);
            names::FILTERED.counter(&stream).increment(block.filtered);
            names::ROW_FAILURES.counter(&stream).increment(block.failed);
        }
        let mut refused: BTreeMap<(&str, Reason), u64> = BTreeMap::new();
        for reject in rejects {
            *refused.entry((&reject.stream, reject.reason)).or_default() += 1;
        }
        for ((stream, reason), rows) in refused {
            names::REJECTS.counter(&[stream, reason.name()]).increment(rows);
        }
    }
}

/// How fresh some events of one batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// Time of the newest of them, epoch ms.
    pub event_ms: i64,
    /// When they were read, epoch ms.
    pub received_ms: i64,
    /// How many they are.
    pub events: u64,
}

/// A window was written.
#[derive(Debug)]
pub struct WindowWritten<'a> {
    /// What the shards did.
    pub stats: &'a WindowStats,
    /// Profiles written.
    pub profiles: u64,
    /// How long the store took.
    pub took: Duration,
    /// The batches it covers.
    pub fresh: &'a [Fresh],
    /// Now, epoch ms.
    pub now_ms: i64,
    /// Event times are comparable with the machine's clock.
    pub by_wall_clock: bool,
}

impl WindowWritten<'_> {
    /// Counts it.
    pub fn tell(&self) {
        let stats = self.stats;
        names::WINDOWS.counter(&[]).increment(1);
        names::PROFILES_WRITTEN.counter(&[]).increment(self.profiles);
        names::PROFILE_BYTES.counter(&[]).increment(stats.packed_bytes);
        names::TAGS_CHANGED.counter(&[]).increment(stats.tags_changed);
        names::REPEATS.counter(&[]).increment(stats.folded.repeats);
        names::CHANGED.counter(&[]).increment(stats.folded.changed);
        names::OLDER.counter(&[]).increment(stats.folded.older);
        names::LEFT_OUT.counter(&[]).increment(stats.folded.left_out);
        names::ACTIVATED.counter(&[]).increment(stats.activated_users);
        names::PASSIVATED.counter(&[]).increment(stats.passivated_users);
        names::QUARANTINED.counter(&[]).increment(stats.quarantined);
        names::DIMENSION_MISSING.counter(&[]).increment(stats.dimension_missing);
        names::RESIDENT_USERS.gauge(&[]).set(number(stats.resident_users));
        names::RESIDENT_BYTES.gauge(&[]).set(number(stats.resident_bytes));
        let causes = [
            ("events", stats.dirty_users),
            ("due", stats.due_users),
            ("job", stats.examined_users),
        ];
        for (cause, users) in causes {
            names::USERS_COMPUTED.counter(&[cause]).increment(users);
        }
        let stages = ["features", "dimensions", "tags", "packing"].into_iter().zip(stats.stage_ns);
        for (stage, ns) in stages {
            names::STAGE_SECONDS.histogram(&[stage]).record(Duration::from_nanos(ns));
        }
        names::STAGE_SECONDS.histogram(&["store"]).record(self.took);
        self.tell_delays();
    }

    fn tell_delays(&self) {
        let to_received = names::EVENT_TO_RECEIVED.histogram(&[]);
        let to_stored = names::EVENT_TO_STORED.histogram(&[]);
        let through = names::RECEIVED_TO_STORED.histogram(&[]);
        for fresh in self.fresh {
            let events = usize::try_from(fresh.events).unwrap_or(usize::MAX);
            through.record_many(seconds(self.now_ms - fresh.received_ms), events);
            if self.by_wall_clock {
                to_received.record_many(seconds(fresh.received_ms - fresh.event_ms), events);
                to_stored.record_many(seconds(self.now_ms - fresh.event_ms), events);
            }
        }
    }
}

/// A window is stored, and the checkpoint knows.
pub fn window_stored(since_close: Duration) {
    names::WINDOW_SECONDS.histogram(&[]).record(since_close);
}

/// Records of a window were acknowledged by a topic. `what`: `changes` or `rejects`.
pub fn published(what: &str, records: u64, took: Duration) {
    names::PUBLISHED.counter(&[what]).increment(records);
    names::PUBLISH_SECONDS.histogram(&[what]).record(took);
}

/// Looks at a running engine: what changes all the time is not told but looked up.
pub fn engine_seen(status: &Status) {
    let gauge = |metric: super::Metric, value: usize| metric.gauge(&[]).set(number(value as u64));
    let at = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    gauge(names::SOURCES_OPEN, at(&status.sources_open));
    gauge(names::DIRTY_USERS, status.dirty_users());
    gauge(names::REJECTS_WAITING, at(&status.rejects_waiting));
    if let Some(credits) = status.credits.get() {
        let (under_way, batches_max) = credits.fullness();
        gauge(names::BATCHES_UNDER_WAY, under_way);
        gauge(names::BATCHES_UNDER_WAY_MAX, batches_max);
    }
}

/// An HTTP request was answered. `route`: its pattern, never its path.
pub fn request_answered(method: &str, route: &str, status: u16, took: Duration) {
    names::HTTP_REQUESTS.counter(&[method, route, &status.to_string()]).increment(1);
    names::HTTP_SECONDS.histogram(&[method, route]).record(took);
}

/// A count as Prometheus keeps it: beyond 2^53 not every number has one.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// A clock that was set back makes no delay negative.
#[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 ms")]
fn seconds(ms: i64) -> f64 {
    ms.max(0) as f64 / 1000.0
}
