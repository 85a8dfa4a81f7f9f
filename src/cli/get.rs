//! `tagloom get`: one user's tags.

use clap::Args;

use super::{Outcome, desk};
use crate::catalog::select::SELECT_HELP;
use crate::clock::{Zone, show_instant};
use crate::config::Config;
use crate::serve::local::Request;
use crate::serve::read::UserTags;

/// Arguments of `tagloom get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom get 17850
  tagloom get 17850 --as-of now --select group:value
  tagloom get 17850 --json | jq .tags

A store that was written with --as-of or from files alone is read as of its last instant, a live
one as of now. Beside a running `tagloom run` the answer comes from that process.")]
pub(super) struct GetArgs {
    /// The user
    uid: String,
    /// As of this instant: ISO 8601, epoch milliseconds, or `now`
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
    #[arg(long, value_name = "WHAT", help = SELECT_HELP)]
    select: Vec<String>,
    /// Also tags without a value
    #[arg(long)]
    all: bool,
    /// Also shadow tags
    #[arg(long)]
    shadow: bool,
}

/// Runs the command.
pub(super) fn run(args: GetArgs, config: &Config, json: bool) -> Outcome {
    let GetArgs { uid, as_of, select, all, shadow } = args;
    let request = Request::Get { uid, as_of, select, shadow };
    let user: UserTags = desk::request(config, request, &mut |_, _| {})?;
    show(&user, all, json);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn show(user: &UserTags, all: bool, json: bool) {
    if json {
        println!("{}", as_json(user));
        return;
    }
    let zone = Zone::new(&user.timezone).ok();
    let mut table = super::table::new(["tag", "value", "group"]);
    let mut without = 0;
    for tag in &user.tags {
        if tag.value.is_none() && !all {
            without += 1;
            continue;
        }
        let value = tag.value.as_deref().unwrap_or("");
        table.add_row([&tag.name, value, &tag.group]);
    }
    println!("{table}");
    println!("user {}, as of {}, version {}", user.uid, at(&zone, user.as_of_ms), user.version);
    if user.closed {
        println!("the account is closed");
    }
    match user.due_ms {
        Some(due) => println!("may change by time alone at {}", at(&zone, due)),
        None => println!("does not change by time alone"),
    }
    if without > 0 {
        println!("{without} tags have no value (--all shows them)");
    }
    if user.was_due {
        println!("computed for this read: the stored profile was due before this instant");
    } else if !user.differs.is_empty() {
        println!(
            "{} tags differ from the stored profile, because rules or dimension rows changed since \
             ({} ...)",
            user.differs.len(),
            user.differs[0]
        );
    }
    for note in &user.notes {
        println!("note: {note}");
    }
}

fn as_json(user: &UserTags) -> serde_json::Value {
    let tags: serde_json::Map<String, serde_json::Value> =
        user.tags.iter().map(|t| (t.name.clone(), t.value.clone().into())).collect();
    serde_json::json!({
        "uid": user.uid, "as_of_ms": user.as_of_ms, "due_ms": user.due_ms, "version": user.version,
        "stored_as_of_ms": user.stored_as_of_ms, "was_due": user.was_due,
        "quarantined": user.quarantined, "closed": user.closed, "differs": user.differs,
        "partly": user.partly, "notes": user.notes, "tags": tags,
    })
}

/// An instant as local time of the store, in UTC when this program does not know its zone.
fn at(zone: &Option<Zone>, instant_ms: i64) -> String {
    zone.as_ref().map_or_else(|| show_instant(instant_ms), |zone| zone.show(instant_ms))
}
