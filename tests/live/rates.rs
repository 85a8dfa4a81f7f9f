//! How fast topics become profiles, beside the bare client of the same broker and gateway. Shown, not
//! asserted: `tests/live/run.sh rates --nocapture`. `LIVE_RATE_USERS` and `LIVE_RATE_EVENTS` set the size.
//! With `LIVE_RATE_FLINK`, the folder of a Flink job whose `run.sh` knows `kafka SERVERS PREFIX DATA`, that
//! runs over the same topics in turns.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tagloom::clock::Stopwatch;
use tagloom::store::hbase::{CheckedRow, HbaseOptions, HbaseStore, init};

use crate::hbase_rate::{Shape, bare_rows_per_s};
use crate::load::{ask, bare, connect, measure};
use crate::rig::hbase::Hbase;
use crate::rig::kafka::Kafka;
use crate::rig::metrics::Metrics;
use crate::rig::portrait::{AS_OF_MS, Portrait};
use crate::rig::process::Process;
use crate::rig::served::Served;
use crate::rig::{free_ports, wait_until};

const ROUNDS: usize = 3;
const CAUGHT_UP: Duration = Duration::from_secs(240);

/// How long clients ask over HTTP.
const ASKING: Duration = Duration::from_secs(5);

fn size(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn portrait(name: &str) -> (Portrait, u32) {
    let events = size("LIVE_RATE_EVENTS", 200_000);
    (Portrait::new(name, size("LIVE_RATE_USERS", 20_000), events), events)
}

/// Settings of the live tests, but with commits as rare as they are by default.
fn settings(kafka: &Kafka, group: &str) -> Vec<String> {
    let mut settings = Portrait::settings(kafka, group);
    settings.push("source.commit_ahead_rows_max=250000".to_owned());
    settings
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn rates_of_topics_into_memory() {
    let kafka = Kafka::start();
    let (portrait, events) = portrait("rate");
    portrait.send(&kafka, 8);
    let as_of = AS_OF_MS.to_string();
    let tables = ["--dims", "user_dim=data/user_dim.csv", "--dims", "city_dim=data/city_dim.csv"];
    let arguments: Vec<&str> = ["--as-of", &as_of, "--serve"].into_iter().chain(tables).collect();
    for round in 0..ROUNDS {
        // As it is by default, and with the setting that tagloom has.
        let mut records = 0;
        let [default_s, bare_s] = [1_000, 10].map(|backoff_ms| {
            let watch = Stopwatch::start();
            records = kafka.drain(&portrait.topics(), backoff_ms);
            watch.elapsed().as_secs_f64()
        });
        eprintln!(
            "{events} events, {records} records: bare consumer {default_s:.2} s, {bare_s:.2} s when it asks \
             for more after 10 ms"
        );
        for (name, close_ms) in [("windows of 0.5 s", 500), ("one window", 60_000)] {
            let group = format!("rate{round}-{close_ms}");
            let [port] = free_ports();
            let mut settings = settings(&kafka, &group);
            settings.extend([
                "store.kind=memory".to_owned(),
                format!("window.close_ms={close_ms}"),
                "source.commit_ahead_rows_max=1000000".to_owned(),
                format!("serve.listen=127.0.0.1:{port}"),
            ]);
            let watch = Stopwatch::start();
            let served = Served::new(portrait.start_with("memory", &arguments, &settings), port);
            wait_until("everything is read", CAUGHT_UP, || {
                served.metric("tagloom_source_rows_total") >= records as f64
            });
            let process = served.process;
            let (cpu_s, peak) = (process.cpu_seconds(), Process::peak_mb_of(process.pid()));
            // The last window is stored.
            Portrait::stop(process);
            let ours_s = watch.elapsed().as_secs_f64();
            eprintln!(
                "  {name}: all profiles in memory {ours_s:.2} s, {cpu_s:.2} CPU s and {peak:?} MB before \
                 the last window, start, tables and end included; {:.0} and {:.0} % of the bare rates",
                100.0 * default_s / ours_s,
                100.0 * bare_s / ours_s,
            );
        }
        if let Some(job) = std::env::var_os("LIVE_RATE_FLINK") {
            flink(Path::new(&job), &kafka, &portrait);
        }
    }
}

/// The Flink job over the same topics.
fn flink(job: &Path, kafka: &Kafka, portrait: &Portrait) {
    let (data, built) = (portrait.path("data"), portrait.path("flink"));
    let mut build = Command::new(job.join("run.sh"));
    if !built.exists() {
        assert!(build.arg("build").env("DIR", &built).status().unwrap().success());
    }
    let mut command = Command::new(job.join("run.sh"));
    command.args(["kafka", &kafka.servers(), &portrait.topic("")]).arg(data).env("DIR", &built);
    let watch = Stopwatch::start();
    let process = Process::start("flink-log", &portrait.path(""), &mut command);
    let (mut peak_mb, mut cpu_s) = (0, 0.0);
    let pid = process.pid();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || process.wait(CAUGHT_UP));
        while !waiting.is_finished() {
            peak_mb = Process::peak_mb_of(pid).unwrap_or(peak_mb);
            cpu_s = Process::cpu_seconds_of(pid).unwrap_or(cpu_s);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    let took_s = watch.elapsed().as_secs_f64();
    eprintln!("  Flink {took_s:.2} s, {cpu_s:.2} CPU s, {peak_mb} MB");
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn rates_of_topics_into_hbase() {
    let (kafka, hbase) = (Kafka::start(), Hbase::start());
    let (portrait, events) = portrait("rows");
    portrait.send(&kafka, 8);
    // With cells first: servers that have just started are slow for whoever comes first.
    for tag_cells in [true, false] {
        let prefix = format!("rows_{tag_cells}_");
        let options = hbase.options(&prefix);
        let [port] = free_ports();
        let mut settings = settings(&kafka, &prefix);
        settings.extend([
            "store.kind=hbase".to_owned(),
            format!("store.hbase.gateways={}", options.gateways),
            format!("store.hbase.prefix={prefix}"),
            format!("store.hbase.tag_cells={tag_cells}"),
            format!("serve.listen=127.0.0.1:{port}"),
            "serve.requests_per_s_max=0".to_owned(),
        ]);
        portrait.ok_with(&["store", "init"], &settings);
        portrait.load_dimensions(&settings);
        let watch = Stopwatch::start();
        let process =
            portrait.start_with("hbase", &["--as-of", &AS_OF_MS.to_string(), "--serve"], &settings);
        kafka.wait_committed(&prefix, &portrait.topics(), CAUGHT_UP);
        let took_s = watch.elapsed().as_secs_f64();
        let told = Metrics::of(port);
        Portrait::stop(process);
        let store = HbaseStore::open_existing(&options).unwrap();
        let profiles = store.scan_checked(None, usize::MAX).unwrap();
        let shape = shape(&profiles);
        let written = told.value("tagloom_profiles_written_total");
        let busy_s = told.value("tagloom_store_call_seconds_sum{call=\"write_window\"}");
        eprintln!(
            "tag cells {tag_cells}: {events} events to committed windows in {took_s:.1} s, {:.0} \
             events/s; {:.2} rows written for each of {written} profiles, while writing {:.0} profiles/s; \
             {shape:?}",
            f64::from(events) / took_s,
            told.value("tagloom_store_rows_written_total") / written,
            written / busy_s,
        );
        eprintln!(
            "  the bare client, rows of the same shape: {:.0} rows/s",
            ceiling(&options, shape)
        );
        if !tag_cells {
            reads(&portrait, &settings, port, &profiles);
        }
    }
}

/// What a user's row is on average.
fn shape(profiles: &[CheckedRow]) -> Shape {
    let users = profiles.len();
    let of_each = |sum: usize| (sum + users / 2) / users;
    let cells: usize = profiles.iter().map(|row| row.cells.len()).sum();
    let tag_bytes = profiles.iter().flat_map(|row| row.cells.values().map(|cell| cell.value.len()));
    Shape {
        rows: users as u64,
        times: if cells == 0 { 4 } else { 1 },
        state_bytes: of_each(profiles.iter().map(|row| row.profile.len()).sum()),
        tags: of_each(cells),
        tag_bytes: tag_bytes.sum::<usize>() / cells.max(1),
    }
}

/// Rows of one shape by the bare client, into tables of their own.
fn ceiling(options: &HbaseOptions, shape: Shape) -> f64 {
    let options = HbaseOptions { prefix: format!("bare_{}_", shape.tags), ..options.clone() };
    init(&options).unwrap();
    bare_rows_per_s(&options, shape)
}

/// Single reads over HTTP from HBase, beside a bare handler.
fn reads(portrait: &Portrait, settings: &[String], port: u16, profiles: &[CheckedRow]) {
    let arguments = ["--as-of", &AS_OF_MS.to_string(), "--serve"];
    let served = Served::new(portrait.start_with("serve", &arguments, settings), port);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let uids: Vec<u64> = profiles.iter().map(|row| row.key.as_u64().unwrap()).collect();
    let get = |number| {
        let uid = uids[usize::try_from(number).unwrap()];
        format!("GET /v1/users/{uid} HTTP/1.1\r\nHost: live\r\n\r\n")
    };
    let mut body = Vec::new();
    ask(&mut connect(at), &get(0), &mut body);
    let (users, bytes) = (profiles.len() as u64, body.len());
    let bare = measure(bare(String::from_utf8(body).unwrap()), users, ASKING, get);
    eprintln!(
        "  single reads of {bytes} bytes over HTTP, from HBase: {}",
        measure(at, users, ASKING, get)
    );
    eprintln!("  a bare handler:                                 {bare}");
    Portrait::stop(served.process);
}

/// A store that events flow into at a steady rate.
struct Kind {
    store: &'static str,
    tag_cells: bool,
    /// Everybody is in the store before it is measured.
    is_warm: bool,
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn delays_at_a_steady_rate() {
    let (kafka, hbase) = (Kafka::start(), Hbase::start());
    let (portrait, _) = portrait("delay");
    portrait.topics().iter().for_each(|topic| kafka.create(topic, 8));
    let kind = |store, tag_cells, is_warm| Kind { store, tag_cells, is_warm };
    let kinds = [
        kind("fjall", false, false),
        kind("hbase", false, false),
        kind("hbase", true, true),
        kind("hbase", true, false),
    ];
    for (at, kind) in kinds.into_iter().enumerate() {
        delay(&kafka, &hbase, &portrait, &kind, at);
    }
}

fn delay(kafka: &Kafka, hbase: &Hbase, portrait: &Portrait, kind: &Kind, at: usize) {
    let [port] = free_ports();
    let (rate, seconds) = (size("LIVE_RATE_PER_S", 20_000), size("LIVE_RATE_SECONDS", 20));
    let group = format!("delay{at}");
    let mut settings = settings(kafka, &group);
    settings.retain(|setting| !setting.starts_with("clock.mode"));
    let options = hbase.options(&format!("{group}_"));
    settings.extend([
        format!("store.kind={}", kind.store),
        format!("store.path={}", portrait.path(&group).display()),
        format!("store.hbase.gateways={}", options.gateways),
        format!("store.hbase.prefix={group}_"),
        format!("store.hbase.tag_cells={}", kind.tag_cells),
        "window.close_ms=1000".to_owned(),
        "source.start=latest".to_owned(),
        format!("serve.listen=127.0.0.1:{port}"),
    ]);
    if kind.store == "hbase" {
        portrait.ok_with(&["store", "init"], &settings);
    }
    portrait.load_dimensions(&settings);
    let process = portrait.start_with("live", &["--serve"], &settings);
    std::thread::park_timeout(Duration::from_secs(8));
    if kind.is_warm {
        flow(kafka, portrait, 2_000, size("LIVE_RATE_USERS", 20_000) * 3);
        kafka.wait_committed(&group, &[portrait.topic("consume")], CAUGHT_UP);
    }
    let before = Metrics::of(port);
    flow(kafka, portrait, rate, rate * seconds);
    std::thread::park_timeout(Duration::from_secs(5));
    let told = Metrics::of(port);
    let quantile = |share| told.quantile_since(&before, "tagloom_event_to_stored_seconds", share);
    let of = |name| told.get(name).unwrap_or_default() - before.get(name).unwrap_or_default();
    let written = of("tagloom_profiles_written_total");
    let of_each = |name| of(name) / written;
    let Kind { store, tag_cells, is_warm } = kind;
    eprintln!(
        "{store}, tag cells {tag_cells}, users known {is_warm}: {rate} events/s for {seconds} s, windows of \
         1 s: event to stored p50 {:.2} s, p99 {:.2} s; {written:.0} profiles written; for each {:.2} rows \
         read, {:.1} tags changed, {:.2} rows and {:.0} bytes sent to HBase",
        quantile(0.5),
        quantile(0.99),
        of_each("tagloom_users_activated_total"),
        of_each("tagloom_tags_changed_total"),
        of_each("tagloom_store_rows_written_total"),
        of_each("tagloom_store_bytes_written_total"),
    );
    Portrait::stop(process);
}

/// Lets events happen now.
fn flow(kafka: &Kafka, portrait: &Portrait, rate: u32, events: u32) {
    let users = size("LIVE_RATE_USERS", 20_000).to_string();
    let (rate, events) = (rate.to_string(), events.to_string());
    let mut command =
        portrait.command(&["gen", "--rate", &rate, "--users", &users, "--events", &events], &[]);
    let mut generated = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(generated.stdout.take().unwrap()).lines().map(Result::unwrap);
    kafka.stream(&portrait.topic("consume"), lines);
    generated.wait().unwrap();
}
