//! How fast topics become profiles, beside the bare client of the same broker and gateway. Shown, not
//! asserted: `tests/live/run.sh rates --nocapture`. `LIVE_RATE_USERS` and `LIVE_RATE_EVENTS` set the size.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use tagloom::clock::Stopwatch;
use tagloom::store::hbase::HbaseStore;

use crate::hbase_rate::bare_rows_per_s;
use crate::rig::free_ports;
use crate::rig::hbase::Hbase;
use crate::rig::kafka::Kafka;
use crate::rig::portrait::{AS_OF_MS, Portrait};

const ROUNDS: usize = 3;
const CAUGHT_UP: Duration = Duration::from_secs(240);

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
    for round in 0..ROUNDS {
        let watch = Stopwatch::start();
        let records = kafka.drain(&portrait.topics());
        let bare_s = watch.elapsed().as_secs_f64();
        let group = format!("rate{round}");
        let mut settings = settings(&kafka, &group);
        settings.push("store.kind=memory".to_owned());
        let watch = Stopwatch::start();
        let process = portrait.start_with(
            "memory",
            &[
                "--as-of",
                &AS_OF_MS.to_string(),
                "--dims",
                "user_dim=data/user_dim.csv",
                "--dims",
                "city_dim=data/city_dim.csv",
            ],
            &settings,
        );
        kafka.wait_committed(&group, &portrait.topics(), CAUGHT_UP);
        let ours_s = watch.elapsed().as_secs_f64();
        let cpu_s = process.cpu_seconds();
        Portrait::stop(process);
        eprintln!(
            "{events} events, {records} records: bare consumer {bare_s:.2} s; all profiles in memory \
             {ours_s:.2} s, {cpu_s:.2} CPU s, start and tables included; {:.0} % of the bare rate",
            100.0 * bare_s / ours_s
        );
    }
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn rates_of_topics_into_hbase() {
    let (kafka, hbase) = (Kafka::start(), Hbase::start());
    let (portrait, events) = portrait("rows");
    portrait.send(&kafka, 8);
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
        ]);
        portrait.ok_with(&["store", "init"], &settings);
        portrait.load_dimensions(&settings);
        let watch = Stopwatch::start();
        let process =
            portrait.start_with("hbase", &["--as-of", &AS_OF_MS.to_string(), "--serve"], &settings);
        kafka.wait_committed(&prefix, &portrait.topics(), CAUGHT_UP);
        let took_s = watch.elapsed().as_secs_f64();
        let told = metrics(port);
        let rows = value(&told, "tagloom_store_rows_written_total");
        Portrait::stop(process);
        let store = HbaseStore::open_existing(&options).unwrap();
        let profiles = store.scan_checked(None, usize::MAX).unwrap();
        let users = profiles.len() as f64;
        let state: usize = profiles.iter().map(|row| row.profile.len()).sum();
        let cells: usize = profiles.iter().map(|row| row.cells.len()).sum();
        let cell_bytes: usize = profiles
            .iter()
            .flat_map(|row| row.cells.iter().map(|(id, cell)| (row.key.as_bytes().len(), id, cell)))
            // A KeyValue: 20 bytes of lengths, timestamp and type, then row, family, qualifier, value.
            .map(|(row, id, cell)| 20 + row + 1 + id.len() + cell.value.len())
            .sum();
        eprintln!(
            "tag cells {tag_cells}: {events} events to committed windows in {took_s:.1} s, {:.0} events/s, \
             {:.0} rows/s written; a user: {:.0} bytes of state, {:.0} cells of {:.0} bytes in all",
            f64::from(events) / took_s,
            rows / took_s,
            state as f64 / users,
            cells as f64 / users,
            cell_bytes as f64 / users,
        );
        let written = value(&told, "tagloom_profiles_written_total");
        let busy_s = value(&told, "tagloom_store_call_seconds_sum{call=\"write_window\"}");
        eprintln!(
            "  while writing {:.0} rows/s; the bare client with rows of {} bytes {:.0} rows/s",
            written / busy_s,
            600,
            bare_rows_per_s(&options, 0),
        );
    }
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn delays_at_a_steady_rate() {
    let (kafka, hbase) = (Kafka::start(), Hbase::start());
    let (portrait, _) = portrait("delay");
    let rate = size("LIVE_RATE_PER_S", 20_000);
    let seconds = size("LIVE_RATE_SECONDS", 20);
    portrait.topics().iter().for_each(|topic| kafka.create(topic, 8));
    for kind in ["fjall", "hbase"] {
        let [port] = free_ports();
        let mut settings = settings(&kafka, kind);
        settings.retain(|setting| !setting.starts_with("clock.mode"));
        let options = hbase.options("delay_");
        settings.extend([
            format!("store.kind={kind}"),
            format!("store.path={}", portrait.path("delay").display()),
            format!("store.hbase.gateways={}", options.gateways),
            "store.hbase.prefix=delay_".to_owned(),
            "window.close_ms=1000".to_owned(),
            "source.start=latest".to_owned(),
            format!("serve.listen=127.0.0.1:{port}"),
        ]);
        if kind == "hbase" {
            portrait.ok_with(&["store", "init"], &settings);
        }
        portrait.load_dimensions(&settings);
        let process = portrait.start_with("live", &["--serve"], &settings);
        std::thread::park_timeout(Duration::from_secs(8));
        let users = size("LIVE_RATE_USERS", 20_000).to_string();
        let (rate, events) = (rate.to_string(), (rate * seconds).to_string());
        let mut command = portrait
            .command(&["gen", "--rate", &rate, "--users", &users, "--events", &events], &[]);
        let mut generated = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(generated.stdout.take().unwrap()).lines().map(Result::unwrap);
        kafka.stream(&portrait.topic("consume"), lines);
        generated.wait().unwrap();
        std::thread::park_timeout(Duration::from_secs(5));
        let told = metrics(port);
        let quantile = |share| quantile(&told, "tagloom_event_to_stored_seconds", share);
        eprintln!(
            "{kind}: {rate} events/s for {seconds} s, windows of 1 s: event to stored p50 {:.2} s, p99 \
             {:.2} s; {:.0} profiles written",
            quantile(0.5),
            quantile(0.99),
            value(&told, "tagloom_profiles_written_total"),
        );
        Portrait::stop(process);
    }
}

/// What `/metrics` says.
fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A sample's value.
fn value(told: &str, name: &str) -> f64 {
    let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{told}")).trim().parse().unwrap()
}

/// The quantile of a histogram, linear within its bucket.
fn quantile(told: &str, name: &str, share: f64) -> f64 {
    let bucket = |line: &str| {
        let (border, count) =
            line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
        Some((border.parse::<f64>().ok()?, count.trim().parse::<f64>().unwrap()))
    };
    let buckets: Vec<(f64, f64)> = told.lines().filter_map(bucket).collect();
    let wanted = share * buckets.last().unwrap().1;
    let mut before = (0.0, 0.0);
    for at in buckets {
        if at.1 >= wanted {
            let within =
                if at.1 > before.1 { (wanted - before.1) / (at.1 - before.1) } else { 1.0 };
            return before.0 + within * (at.0 - before.0).min(60.0);
        }
        before = at;
    }
    before.0
}
