//! Clients that ask a server one question after the other, and a bare actix-web handler to compare with.
//! For benches and measurements.

#![allow(unreachable_pub, reason = "a module of several programs, and nobody's interface")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use tagloom::clock::Stopwatch;

/// Connections that are asked at once.
pub const CLIENTS: usize = 8;

/// A handler that answers the same bytes without looking at anything.
pub fn bare(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let body = web::Bytes::from(body);
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                let body = body.clone();
                App::new().route(
                    "/v1/users/{uid}",
                    web::get().to(move || {
                        let body = body.clone();
                        async move { HttpResponse::Ok().content_type("application/json").body(body) }
                    }),
                )
            });
            server.workers(2).listen(listener).unwrap().run().await.unwrap();
        });
    });
    address
}

/// Asks one question and reads its answer; gives the answer's bytes.
pub fn ask(stream: &mut BufReader<TcpStream>, request: &str, body: &mut Vec<u8>) -> usize {
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    body.resize(length, 0);
    stream.read_exact(body).unwrap();
    length
}

/// A connection that is kept.
pub fn connect(at: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_nodelay(true).unwrap();
    BufReader::with_capacity(64 << 10, stream)
}

/// What clients saw.
pub struct Measured {
    /// Requests a second, of all clients together.
    pub per_s: f64,
    /// Latencies that half of the requests, and 99 of 100, do not exceed.
    pub p50: Duration,
    pub p99: Duration,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |took: Duration| took.as_secs_f64() * 1e6;
        let Self { per_s, p50, p99 } = self;
        write!(f, "{per_s:>9.0} requests/s   p50 {:>8.1} us   p99 {:>8.1} us", us(*p50), us(*p99))
    }
}

/// Asks questions that `request` makes from a number below `users`, for so long.
pub fn measure(
    at: SocketAddr,
    users: u64,
    lasts: Duration,
    request: impl Fn(u64) -> String + Sync,
) -> Measured {
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|client| {
                let request = &request;
                scope.spawn(move || {
                    let (mut stream, mut body) = (connect(at), Vec::new());
                    let (whole, mut seen) = (Stopwatch::start(), Vec::new());
                    let mut number = client * 7_919;
                    while whole.elapsed() < lasts {
                        number = (number + 4_001) % users;
                        let request = request(number);
                        let watch = Stopwatch::start();
                        ask(&mut stream, &request, &mut body);
                        seen.push(watch.elapsed());
                    }
                    seen
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    latencies.sort_unstable();
    let share = |share: usize| latencies[(latencies.len() * share / 1000).min(latencies.len() - 1)];
    let per_s = f64::from(u32::try_from(latencies.len()).unwrap()) / lasts.as_secs_f64();
    Measured { per_s, p50: share(500), p99: share(990) }
}
