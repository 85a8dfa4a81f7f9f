//! `tagloom gen`: the workload's streams and tables, deterministic by seed; or one stream, live.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, Outcome};
use crate::clock::Stopwatch;

mod draw;
mod events;
mod lines;
mod live;
mod tables;

/// 2026-03-31 20:00 in Asia/Shanghai.
const AS_OF_MS: i64 = 1_774_958_400_000;

/// Arguments of `tagloom gen`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom gen --out data                               20,000 users, 200,000 events
  tagloom gen --out big --users 200000 --events 2000000
  tagloom gen --rate 50000 --users 100000 | tagloom run --source consume=-

Events come late, twice and damaged, as in life; manifest.json counts it all. With --rate the
events happen now and are written to standard output, until --events or the reader's end.")]
pub(super) struct GenArgs {
    /// The directory to write
    #[arg(long, value_name = "DIR", required_unless_present = "rate")]
    out: Option<PathBuf>,
    /// Users
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Events of all streams, before any is sent twice [default: 200000; with --rate no end]
    #[arg(long)]
    events: Option<u32>,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days that the events lie in
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..3650))]
    days: u32,
    /// No sound event is later than this, epoch milliseconds
    #[arg(long, default_value_t = AS_OF_MS, value_name = "MS")]
    as_of_ms: i64,
    /// Write one stream to standard output, so many events a second
    #[arg(
        long,
        value_name = "EV_PER_S",
        conflicts_with = "out",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    rate: Option<u32>,
    /// With --rate: register, consume or cancel
    #[arg(long, default_value = "consume", requires = "rate")]
    stream: events::Kind,
}

/// What is to be generated.
#[derive(Debug, Clone, Copy)]
struct Plan {
    users: u32,
    events: u32,
    seed: u64,
    days: u32,
    as_of_ms: i64,
}

/// Runs the command.
pub(super) fn run(args: &GenArgs, json: bool) -> Outcome {
    if let Some(rate) = args.rate {
        return live::run(args.stream, rate, args.users, args.events, args.seed);
    }
    let Some(out) = &args.out else {
        return Err(Failure::Input("give --out DIR, or --rate EV_PER_S".to_owned()));
    };
    let plan = Plan {
        users: args.users,
        events: args.events.unwrap_or(200_000),
        seed: args.seed,
        days: args.days,
        as_of_ms: args.as_of_ms,
    };
    write_all(&plan, out, json).map_err(|e| {
        let path = e.1.display();
        Failure::Failed(format!("{path}: {}; is the disk full?", e.0))
    })
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn write_all(plan: &Plan, out: &Path, json: bool) -> Result<(), (std::io::Error, PathBuf)> {
    let watch = Stopwatch::start();
    std::fs::create_dir_all(out).map_err(|e| (e, out.to_owned()))?;
    let workload = events::Workload::new(plan);
    let mut streams = serde_json::Map::new();
    let mut seen = vec![false; plan.users as usize];
    let mut lines = 0;
    for kind in events::Kind::ALL {
        let path = out.join(format!("{}.jsonl", kind.name()));
        let facts = lines::write(&workload, kind, plan, &path, &mut seen);
        let facts = facts.map_err(|e| (e, path.clone()))?;
        lines += facts.lines;
        let facts = serde_json::to_value(facts).map_err(|e| (e.into(), path))?;
        streams.insert(kind.name().to_owned(), facts);
    }
    let path = out.join("user_dim.csv");
    let user_rows = tables::write_users(plan, &path).map_err(|e| (e, path))?;
    let path = out.join("city_dim.csv");
    let city_rows = tables::write_cities(plan, &path).map_err(|e| (e, path))?;
    let users_seen = seen.iter().filter(|s| **s).count();
    let manifest = serde_json::json!({
        "seed": plan.seed, "users": plan.users, "events": plan.events, "days": plan.days,
        "as_of_ms": plan.as_of_ms, "streams": streams, "users_seen": users_seen,
        "user_dim_rows": user_rows, "city_dim_rows": city_rows,
    });
    let path = out.join("manifest.json");
    let text = format!("{manifest:#}\n");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| (e, path))?;
    let seconds = watch.elapsed().as_secs_f64();
    if json {
        println!("{manifest}");
    } else {
        println!("{lines} lines, {users_seen} users seen, {seconds:.2} s: {}", out.display());
    }
    Ok(())
}
