//! The query service: users' tags over HTTP.
//!
//! In: requests on a TCP port. Out: JSON, problems (RFC 9457), metrics, an OpenAPI description. It
//! runs on a thread of its own, beside an engine or alone over a store, and answers for any user by
//! reading the store.
//!
//! ```text
//! connection ─► worker ─► gate ────────────► handler ─► pool ─► store, evaluation
//!               (serve.   (key, rate,                   (serve.reads_waiting_max,
//!                workers)  timeout, metrics)             serve.read_threads)
//! ```
//!
//! Invariant: reads only; a worker never waits for the store; every queue, body and wait is bounded.

mod gate;
mod keys;
mod openapi;
mod ops;
mod pool;
mod problem;
mod request;
mod routes;
mod tags;
mod users;
mod watched;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use self::keys::Keys;
use self::pool::Pool;
use super::readers::Readers;
use crate::config::{ConfigError, ServeConfig};
use crate::telemetry::Exporter;
use crate::telemetry::ready::Conditions;

pub use self::keys::KeysError;
pub use self::openapi::document;
pub use self::ops::Health;
pub use self::problem::{Problem, Type};
pub use self::routes::{Routed, routes};
pub use self::users::{BatchAnswer, BatchBody, BatchEntry};
pub use self::watched::{Hangs, Watched};

/// How often keys and the store's catalogue are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not one to listen at.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The port cannot be had.
    #[error(
        "cannot listen at serve.listen = {listen}: {source}; is another tagloom there? Set another \
         port, or 0 for a free one"
    )]
    Listen {
        /// The address.
        listen: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
}

impl ServeError {
    /// Whether the settings are wrong.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Keys(_))
    }
}

/// What all requests share.
pub(crate) struct Service {
    config: ServeConfig,
    readers: Arc<Readers>,
    keys: Arc<Keys>,
    pool: Pool,
    rate: Option<DefaultDirectRateLimiter>,
    health: Arc<Health>,
    exporter: Exporter,
    openapi: String,
}

/// A service that answers until it is dropped.
pub struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    health: Arc<Health>,
}

impl Server {
    /// Starts to answer. `conditions`: what has to hold for `/readyz`; the service adds its own.
    pub fn start(
        config: &ServeConfig,
        readers: Arc<Readers>,
        conditions: Conditions,
    ) -> Result<Self, ServeError> {
        let address = config.address()?;
        let listen = |source| ServeError::Listen { listen: config.listen.clone(), source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let health = Arc::new(Health::new(Arc::clone(&readers), conditions));
        let rate = std::num::NonZeroU32::new(config.requests_per_s_max);
        let uid = readers.store().identity().uid;
        let asks_for_keys = !config.api_keys_file.as_os_str().is_empty();
        let service = web::Data::new(Service {
            config: config.clone(),
            readers,
            keys: Arc::new(Keys::open(&config.api_keys_file)?),
            pool: Pool::start(config.read_threads, config.reads_waiting_max)
                .map_err(ServeError::Thread)?,
            rate: rate.map(|per_s| RateLimiter::direct(Quota::per_second(per_s))),
            health: Arc::clone(&health),
            exporter: Exporter::install(),
            openapi: openapi::document_of(uid, asks_for_keys),
        });
        let (told, handle) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("http".to_owned());
        let run = move || {
            let system = actix_web::rt::System::new();
            let ended: std::io::Result<()> = system.block_on(async {
                let server = server(&service, listener)?;
                // The starter waits for it.
                drop(told.send(server.handle()));
                let looking = look_around(service);
                tokio::pin!(looking);
                tokio::select! { ended = server => ended, () = &mut looking => Ok(()) }
            });
            if let Err(error) = ended {
                tracing::error!(%error, "the HTTP service has ended");
            }
        };
        let thread = thread.spawn(run).map_err(ServeError::Thread)?;
        let handle = handle.recv().map_err(|_| {
            listen(std::io::Error::other("the HTTP service has ended: see the log"))
        })?;
        tracing::info!("serving at http://{address}");
        Ok(Self { address, handle, thread: Some(thread), health })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For whoever drives an engine beside it: see [`Health::expect_engine`].
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

impl Drop for Server {
    /// Accepts nothing more, and waits for the requests under way, for `serve.shutdown_ms` at most.
    fn drop(&mut self) {
        self.health.stop();
        // Sent when it is made; there is nothing here to await it.
        drop(self.handle.stop(true));
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

fn server(
    service: &web::Data<Service>,
    listener: TcpListener,
) -> std::io::Result<actix_web::dev::Server> {
    let config = &service.config;
    let (workers, body_bytes_max) = (config.workers, config.body_bytes_max);
    let shutdown_s = config.shutdown_ms.div_ceil(1_000);
    let timeout = config.timeout();
    let shared = service.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .wrap(actix_web::middleware::from_fn(gate::gate))
            .configure(|config| routes::configure(config, body_bytes_max))
            .default_service(web::to(routes::nothing_here))
    });
    let server = server
        .workers(workers)
        .max_connections((config.connections_max / workers).max(1))
        .backlog(BACKLOG)
        .client_request_timeout(timeout)
        .client_disconnect_timeout(Duration::from_secs(1))
        .shutdown_timeout(shutdown_s)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

/// What has to be looked at now and then; for as long as the service runs.
async fn look_around(service: web::Data<Service>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        // Not the service itself: the pool must not be dropped by one of its own threads.
        let (exporter, keys) = (service.exporter.clone(), Arc::clone(&service.keys));
        let readers = Arc::clone(&service.readers);
        let looked = service.pool.run(move || {
            exporter.upkeep();
            match keys.reload() {
                Ok(true) => tracing::info!("API keys were read again"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the API keys known before stay in force"),
            }
            if let Err(error) = readers.follow() {
                tracing::warn!(%error, "cannot look for another catalogue");
            }
        });
        if let Err(problem) = looked.await {
            tracing::debug!(%problem, "the next look will do");
        }
    }
}
