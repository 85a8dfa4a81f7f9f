//! `tagloom why`: why a user has a tag's value.

use clap::Args;

use super::{Outcome, desk};
use crate::clock::{Zone, show_instant};
use crate::config::Config;
use crate::serve::local::Request;
use crate::serve::seen::Seen;
use crate::serve::why::{FlipText, Input, Next, When, Why};

/// Changes of one input that are shown to people.
const FLIPS_MAX: usize = 8;

/// Arguments of `tagloom why`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom why 17850 win_back
  tagloom why 17850 spend_level_30d --json

Shows the value, the rule and where it stands, every input with its value, what each input would
have to be for another value, and when time alone will change it. Masked columns show ***.")]
pub(super) struct WhyArgs {
    /// The user
    uid: String,
    /// The tag
    tag: String,
    /// As of this instant: ISO 8601, epoch milliseconds, or `now`
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: WhyArgs, config: &Config, json: bool) -> Outcome {
    let request = Request::Why { uid: args.uid, tag: args.tag, as_of: args.as_of };
    let why: Why = desk::request(config, request, &mut |_, _| {})?;
    if json {
        println!("{}", serde_json::to_value(&why).map_err(super::Failure::failed)?);
        return Ok(());
    }
    let zone = Zone::new(&why.timezone).ok();
    println!("{} of user {} is {}", why.tag, why.uid, shown(why.value.as_deref()));
    println!("as of {}", at(&zone, why.as_of_ms));
    if why.stored != why.value {
        println!("the stored profile still says {}", shown(why.stored.as_deref()));
    }
    if !why.doc.is_empty() {
        println!("{}", why.doc);
    }
    println!("\nrule  {}  (owner {}, group {})", why.rule.place, why.owner, why.group);
    for line in why.rule.source.lines() {
        println!("  | {line}");
    }
    println!("  = {}\n", why.rule.sql);
    show_inputs(&why.inputs, &zone, 0);
    match &why.next {
        Next::Never => println!("time alone does not change it"),
        Next::NotBefore(ms) => println!("time alone does not change it before {}", at(&zone, *ms)),
        Next::At { at_ms, becomes } => println!(
            "without events it becomes {} at {}",
            shown(becomes.as_deref()),
            at(&zone, *at_ms)
        ),
    }
    if let Some(condition) = &why.closed {
        println!("the account is closed: {condition}");
    }
    for note in &why.notes {
        println!("note: {note}");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show_inputs(inputs: &[Input], zone: &Option<Zone>, depth: usize) {
    let indent = "  ".repeat(depth);
    for input in inputs {
        let value = input.value.as_deref().unwrap_or("NULL");
        println!("{indent}{} = {value}", input.name);
        println!("{indent}    {}: {}", input.kind, input.definition);
        for line in input.seen.iter().flat_map(|seen| seen_text(seen, zone)) {
            println!("{indent}    {line}");
        }
        for flip in input.flips.iter().take(FLIPS_MAX) {
            println!("{indent}    {}", flip_text(flip));
        }
        if input.flips.len() > FLIPS_MAX {
            let more = input.flips.len() - FLIPS_MAX;
            println!("{indent}    ... and {more} other values (--json has them)");
        }
        for event in &input.events {
            let value = event.value.as_deref().unwrap_or("");
            println!("{indent}    event {}  {value}", at(zone, event.time_ms));
        }
        show_inputs(&input.inputs, zone, depth + 1);
    }
    if depth == 0 && !inputs.is_empty() {
        println!();
    }
}

/// What a feature counts, where that is not everything.
fn seen_text(seen: &Seen, zone: &Option<Zone>) -> Vec<String> {
    let since = seen.since_version.map(|version| {
        let made = seen.since_ms.map(|ms| format!(", {}", at(zone, ms))).unwrap_or_default();
        format!("counts events that came since version {version} of the catalogue{made}")
    });
    let history = seen.history_until_ms.map(|until_ms| {
        let merging = if seen.history_is_merging { ", which is still being merged" } else { "" };
        format!("what happened before {} is counted from a history{merging}", at(zone, until_ms))
    });
    since.into_iter().chain(history).collect()
}

fn flip_text(flip: &FlipText) -> String {
    let becomes = shown(flip.becomes.as_deref());
    let value = flip.value.as_deref();
    let last = flip.last.as_deref().unwrap_or("");
    match (flip.when, value) {
        (When::From, Some(value)) => format!("from {value} up it becomes {becomes}"),
        (When::Down, Some(value)) => {
            format!("below {last} it becomes {becomes} (at {value})")
        }
        (_, Some(value)) => format!("if it were {value}: {becomes}"),
        (_, None) => format!("without a value: {becomes}"),
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "without a value".to_owned(), |v| format!("`{v}`"))
}

/// An instant as local time of the store, in UTC when this program does not know its zone.
fn at(zone: &Option<Zone>, instant_ms: i64) -> String {
    zone.as_ref().map_or_else(|| show_instant(instant_ms), |zone| zone.show(instant_ms))
}
