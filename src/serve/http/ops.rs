//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`: for whoever runs the service.
//!
//! In: looks at the engine beside the service, the store, the catalogue. Out: whether the process is
//! alive (a watchdog may restart it when not), whether it can do its work, and its numbers.
//! Invariant: `/healthz` asks nothing that may wait; `/readyz` says why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Service;
use super::problem::{Answered, Problem};
use crate::clock::Stopwatch;
use crate::engine::Observed;
use crate::engine::SourceProgress;
use crate::engine::status::Status;
use crate::serve::readers::Readers;
use crate::store::Store;
use crate::telemetry::facts::{engine_seen, number};
use crate::telemetry::names;
use crate::telemetry::ready::{Conditions, Finding, Look};
use crate::write::window::AS_OF_KEY;

/// An engine's thread that has not been seen for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// A checkpoint that has not looked around for so long waits for the store.
const STALLS_AFTER: Duration = Duration::from_secs(15);

/// The condition that the store answers.
const STORE: &str = "store";

/// How often the due backlog is counted at most.
const BACKLOG_EVERY: Duration = Duration::from_secs(10);

/// Due packs that are counted, and users.
const BACKLOG_PACKS_MAX: usize = 1_024;
const BACKLOG_USERS_MAX: usize = 1_000_000;

/// The state of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct HealthBody {
    /// `ok`, or what is wrong.
    pub(super) status: String,
}

/// Whether the process can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct ReadyBody {
    /// All conditions hold.
    pub(super) ready: bool,
    /// Each of them.
    pub(super) conditions: Vec<Finding>,
}

/// What is known of this process.
pub struct Health {
    conditions: Conditions,
    readers: Arc<Readers>,
    stopping: AtomicBool,
    /// None: there is none, or it has not started yet.
    engine: Mutex<Option<Seen>>,
    backlog: Mutex<Option<Stopwatch>>,
}

/// An engine as it was seen last.
struct Seen {
    status: Arc<Status>,
    sources: Vec<SourceProgress>,
    at: Stopwatch,
    looks: u64,
    looked: Stopwatch,
}

impl Health {
    pub(super) fn new(readers: Arc<Readers>, conditions: Conditions) -> Self {
        let store = Arc::clone(readers.store());
        conditions.register(STORE, move || match store.meta(AS_OF_KEY) {
            Ok(_) => Ok("answers".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        let mine = Arc::clone(&readers);
        conditions.register("catalogue", move || catalogue(&mine));
        let mine = Arc::clone(&readers);
        conditions.register("dimensions", move || dimensions(&mine));
        let (stopping, engine) = (AtomicBool::new(false), Mutex::new(None));
        Self { conditions, readers, stopping, engine, backlog: Mutex::new(None) }
    }

    /// An engine is about to be started beside the service.
    pub fn expect_engine(self: &Arc<Self>) {
        let mine = Arc::downgrade(self);
        self.conditions.register("engine", move || {
            mine.upgrade().map_or_else(|| Err("it is gone".to_owned()), |health| health.engine())
        });
    }

    /// The engine was seen: to be called several times a second, from its thread.
    pub fn see(&self, seen: &Observed<'_>) {
        let looks = seen.status.looks.load(Ordering::Relaxed);
        let mut engine = self.seen();
        match engine.as_mut().filter(|known| Arc::ptr_eq(&known.status, seen.status)) {
            Some(known) => {
                known.at = Stopwatch::start();
                if known.looks != looks {
                    known.looks = looks;
                    known.looked = Stopwatch::start();
                }
            }
            None => {
                *engine = Some(Seen {
                    status: Arc::clone(seen.status),
                    sources: seen.sources.to_vec(),
                    at: Stopwatch::start(),
                    looks,
                    looked: Stopwatch::start(),
                });
            }
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<Seen>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine does its work.
    fn engine(&self) -> Result<String, String> {
        let engine = self.seen();
        let Some(seen) = engine.as_ref() else { return Err("it is starting".to_owned()) };
        if seen.status.failed() {
            return Err("it has failed and is about to end: see the log".to_owned());
        }
        if seen.status.stopping() {
            return Err("it is stopping: what was read is being stored".to_owned());
        }
        if seen.status.preparing.load(Ordering::Acquire) {
            return Err("dimension tables are being loaded".to_owned());
        }
        if seen.looked.elapsed() > STALLS_AFTER {
            let seconds = seen.looked.elapsed().as_secs();
            return Err(format!("no window could be closed for {seconds} s: is the store slow?"));
        }
        let windows = seen.status.windows.load(Ordering::Relaxed);
        if seen.sources.is_empty() {
            // Topics have a condition of their own.
            return Ok(format!("runs: {windows} windows"));
        }
        let open = seen.status.sources_open.load(Ordering::Relaxed).min(seen.sources.len());
        Ok(format!("runs: {open} of {} files are read, {windows} windows", seen.sources.len()))
    }

    /// Why the process should be started again, if it should.
    fn hang(&self) -> Option<String> {
        let since = self.seen().as_ref()?.at.elapsed();
        (since > HANGS_AFTER).then(|| format!("the engine hangs for {} s", since.as_secs()))
    }

    /// Sets the metrics that are looked up rather than told, as far as this process knows them.
    fn look_at_engine(&self) {
        if let Some(seen) = self.seen().as_ref() {
            engine_seen(&seen.status);
            for source in &seen.sources {
                if let Some(total) = source.bytes_total {
                    let lag = total.saturating_sub(source.bytes_read.load(Ordering::Relaxed));
                    names::SOURCE_LAG_BYTES.gauge(&[&source.name]).set(number(lag));
                }
            }
        }
    }

    /// The same of those that the store knows.
    fn look_at_store(&self) {
        {
            let mut counted = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            if counted.as_ref().is_some_and(|since| since.elapsed() < BACKLOG_EVERY) {
                return;
            }
            *counted = Some(Stopwatch::start());
        }
        let store = self.readers.store().as_ref();
        if let Ok(stats) = store.stats() {
            names::STORE_DISK_BYTES.gauge(&[]).set(number(stats.disk_bytes));
            names::STORE_PROFILES.gauge(&[]).set(number(stats.profiles_approximate));
            names::STORE_REJECTS.gauge(&[]).set(number(stats.rejects));
        }
        let present = self.readers.reading().and_then(|reading| reading.reader.present_ms());
        if let Ok(now_ms) = present
            && let Ok((users, oldest_ms)) = due_backlog(store, now_ms)
        {
            names::DUE_BACKLOG_USERS.gauge(&[]).set(number(users as u64));
            let age_ms = oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
            let age = Duration::from_millis(age_ms.cast_unsigned());
            names::DUE_OLDEST_SECONDS.gauge(&[]).set(age.as_secs_f64());
        }
    }
}

/// Users whose due instant has passed, and the oldest of these instants.
fn due_backlog(store: &dyn Store, now_ms: i64) -> crate::store::Result<(usize, Option<i64>)> {
    let (mut users, mut oldest, mut after) = (0, None, None);
    loop {
        let packs = store.due_until(now_ms, after, BACKLOG_PACKS_MAX)?;
        oldest = oldest.or(packs.first().map(|pack| pack.cursor.due_ms));
        users += packs.iter().map(|pack| pack.keys.len()).sum::<usize>();
        after = packs.last().map(|pack| pack.cursor);
        if packs.len() < BACKLOG_PACKS_MAX || users >= BACKLOG_USERS_MAX {
            return Ok((users, oldest));
        }
    }
}

fn catalogue(readers: &Readers) -> Result<String, String> {
    if let Some(why) = readers.blocked() {
        return Err(why);
    }
    let version = readers.reading().map_err(|error| error.to_string())?.active.ruleset.version;
    Ok(match readers.trouble() {
        // What runs is sound: the files that are not taken over are their author's business.
        Some(why) => format!("version {version}; its directory holds another one: {why}"),
        None => format!("version {version}"),
    })
}

fn dimensions(readers: &Readers) -> Result<String, String> {
    let reading = readers.reading().map_err(|error| error.to_string())?;
    let (missing, failure) = reading.reader.dimension_troubles();
    if let Some(why) = failure {
        return Err(format!("dimension tables cannot be read: {why}"));
    }
    if !missing.is_empty() {
        let tables = missing.join(", ");
        return Err(format!(
            "never loaded, so their columns are NULL: {tables}; `tagloom dims load TABLE FILE`"
        ));
    }
    Ok("all tables are loaded".to_owned())
}

/// Whether the process is alive.
///
/// Not so when the engine's thread hangs: then the process should be started again.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", security(()),
    responses(
        (status = 200, description = "Alive", body = HealthBody),
        (status = 503, description = "To be started again", body = HealthBody),
    ),
)]
pub(super) async fn healthz(service: web::Data<Service>) -> HttpResponse {
    match service.health.hang() {
        None => HttpResponse::Ok().json(HealthBody { status: "ok".to_owned() }),
        Some(status) => HttpResponse::ServiceUnavailable().json(HealthBody { status }),
    }
}

/// Asks all conditions, on a thread that may wait. One that does not answer in time does not hold, and
/// those behind it are not asked. Fails when no thread is free.
async fn look(service: &Service) -> Result<Vec<Finding>, String> {
    let (health, look) = (Arc::clone(&service.health), Look::default());
    let asked = look.clone();
    let looking = service.pool.run(move || health.conditions.look_into(&asked));
    match tokio::time::timeout(service.config.timeout() / 2, looking).await {
        Ok(Err(problem)) => Err(problem.detail),
        Ok(Ok(())) => Ok(look.found()),
        Err(_) => {
            let found = look.end();
            if found.is_empty() { Err("all reading threads wait".to_owned()) } else { Ok(found) }
        }
    }
}

/// Whether the process can do its work, and why not.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    responses(
        (status = 200, description = "All conditions hold", body = ReadyBody),
        (status = 503, description = "Some do not: each says why", body = ReadyBody),
    ),
)]
pub(super) async fn readyz(service: web::Data<Service>) -> HttpResponse {
    let not = |name: &str, detail: String| Finding { name: name.to_owned(), ready: false, detail };
    let mut conditions = look(&service).await.unwrap_or_else(|why| vec![not("reads", why)]);
    if service.health.stopping.load(Ordering::Acquire) {
        conditions.push(not("service", "it is stopping".to_owned()));
    }
    let ready = conditions.iter().all(|found| found.ready);
    let body = ReadyBody { ready, conditions };
    if ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// The numbers of the process, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", security(()),
    responses(
        (status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain"),
        (status = 503, description = "Too busy", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn metrics(service: web::Data<Service>) -> Answered<HttpResponse> {
    let (waiting, waiting_max) = service.pool.fullness();
    names::READS_WAITING.gauge(&[]).set(number(waiting as u64));
    names::READS_WAITING_MAX.gauge(&[]).set(number(waiting_max as u64));
    service.health.look_at_engine();
    // Asking sets the gauge of readiness, also where nobody else asks.
    let found = look(&service).await.unwrap_or_default();
    // Numbers are wanted most when the store is slow or the queue is full: those at hand do.
    if found.iter().any(|found| found.name == STORE && found.ready) {
        let health = Arc::clone(&service.health);
        let look = service.pool.run(move || health.look_at_store());
        if let Err(error) = tokio::time::timeout(service.config.timeout() / 2, look).await {
            tracing::debug!(%error, "metrics without a look at the store");
        }
    }
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(service.exporter.render()))
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub(super) async fn openapi(service: web::Data<Service>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(service.openapi.clone())
}
