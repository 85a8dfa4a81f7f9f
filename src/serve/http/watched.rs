//! `/healthz`, `/readyz` and `/metrics` of a process that answers for no users.
//!
//! In: conditions; a word whether the process hangs. Out: the same answers that the query service gives at
//! these paths, without keys, since there is nothing else to ask.
//! Invariant: one worker, a few connections; nothing is read that is not in memory.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};

use super::ServeError;
use super::ops::{HealthBody, ReadyBody};
use crate::config::ServeConfig;
use crate::telemetry::Exporter;
use crate::telemetry::ready::Conditions;

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;

/// How often histograms are tidied.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Says why the process should be started again, if it should.
pub type Hangs = Arc<dyn Fn() -> Option<String> + Send + Sync>;

struct Shared {
    conditions: Conditions,
    hangs: Hangs,
    exporter: Exporter,
}

/// See the module. Answers until it is dropped.
pub struct Watched {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    /// Starts to answer at `serve.listen`. Metrics count from now on.
    pub fn start(
        config: &ServeConfig,
        conditions: Conditions,
        hangs: Hangs,
    ) -> Result<Self, ServeError> {
        let listen = |source| ServeError::Listen { listen: config.listen.clone(), source };
        let listener = TcpListener::bind(config.address()?).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = web::Data::new(Shared { conditions, hangs, exporter: Exporter::install() });
        let (told, handle) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            let ended: std::io::Result<()> = actix_web::rt::System::new().block_on(async {
                let (app, tidied) = (shared.clone(), shared.clone());
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(app.clone())
                        .route("/healthz", web::get().to(healthz))
                        .route("/readyz", web::get().to(readyz))
                        .route("/metrics", web::get().to(metrics))
                });
                let server = server.workers(1).max_connections(CONNECTIONS_MAX).disable_signals();
                let server = server.listen(listener)?.run();
                // The starter waits for it.
                drop(told.send(server.handle()));
                tokio::select! { ended = server => ended, () = tidy(tidied) => Ok(()) }
            });
            if let Err(error) = ended {
                tracing::error!(%error, "the HTTP service has ended");
            }
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(run);
        let thread = thread.map_err(ServeError::Thread)?;
        let handle = handle.recv().map_err(|_| {
            listen(std::io::Error::other("the HTTP service has ended: see the log"))
        })?;
        tracing::info!("serving /healthz, /readyz and /metrics at http://{address}");
        Ok(Self { address, handle, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Sent when it is made; there is nothing here to await it.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

async fn tidy(shared: web::Data<Shared>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    loop {
        ticks.tick().await;
        shared.exporter.upkeep();
    }
}

async fn healthz(shared: web::Data<Shared>) -> HttpResponse {
    match (shared.hangs)() {
        None => HttpResponse::Ok().json(HealthBody { status: "ok".to_owned() }),
        Some(status) => HttpResponse::ServiceUnavailable().json(HealthBody { status }),
    }
}

async fn readyz(shared: web::Data<Shared>) -> HttpResponse {
    let conditions = shared.conditions.look();
    let ready = conditions.iter().all(|found| found.ready);
    let body = ReadyBody { ready, conditions };
    if ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

async fn metrics(shared: web::Data<Shared>) -> HttpResponse {
    // Asking sets the gauge of readiness, also where nobody else asks.
    drop(shared.conditions.look());
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(shared.exporter.render())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn ask(at: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(at).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    #[test]
    fn it_says_whether_the_process_lives_and_works() {
        let config = ServeConfig { listen: "127.0.0.1:0".to_owned(), ..ServeConfig::default() };
        let [ready, hangs] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let conditions = Conditions::default();
        let of = Arc::clone(&ready);
        conditions.register("topics", move || {
            if of.load(Ordering::Relaxed) { Ok("2 partitions".into()) } else { Err("none".into()) }
        });
        let of = Arc::clone(&hangs);
        let hang = move || of.load(Ordering::Relaxed).then(|| "it hangs".to_owned());
        let watched = Watched::start(&config, conditions, Arc::new(hang)).expect("a free port");
        let check = |path: &str, status: &str, text: &str| {
            let answer = ask(watched.address(), path);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
            assert!(answer.contains(text), "{path}: {answer}");
        };
        check("/readyz", "503", "none");
        check("/healthz", "200", "ok");
        ready.store(true, Ordering::Relaxed);
        hangs.store(true, Ordering::Relaxed);
        check("/readyz", "200", "2 partitions");
        check("/healthz", "503", "it hangs");
        check("/metrics", "200", "tagloom_ready{condition=\"topics\"} 1");
        check("/v1/users/7", "404", "");
    }
}
