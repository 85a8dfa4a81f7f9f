//! `tagloom source`: how far sources were read, and forgetting it.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Outcome, open, topics};
use crate::config::Config;
use crate::source::kafka::{Reset, Start, TopicMeta, commit, look_up, position_name, topic_key};
use crate::source::position::{Incarnation, POSITION_PREFIX, Position, meta_key};
use crate::store::Store;

/// Arguments of `tagloom source`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom source                           how far each file and topic was read
  tagloom source reset shop.orders         the topic was made again: read it from its start
  tagloom source reset shop.orders --to 2026-03-31T00:00")]
pub(super) struct SourceArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How far each file and topic was read
    List,
    /// Forget how far a topic was read; what was counted stays counted
    Reset {
        /// The topic
        topic: String,
        /// Where to go on: earliest, latest or an instant
        #[arg(long, default_value = "earliest", value_name = "WHERE")]
        to: String,
    },
}

/// Runs the command.
pub(super) fn run(args: SourceArgs, config: &Config, json: bool) -> Outcome {
    match args.command {
        None | Some(Command::List) => list(config, json),
        Some(Command::Reset { topic, to }) => reset(config, &topic, &to, json),
    }
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn list(config: &Config, json: bool) -> Outcome {
    let store = open::existing_store(config)?;
    let mut found = Vec::new();
    for (key, value) in store.scan_meta(POSITION_PREFIX).map_err(open::store_failure)? {
        let position: Position = serde_json::from_slice(&value)
            .map_err(|e| Failure::Failed(format!("{key}: {e}; restore the store")))?;
        let name = key.strip_prefix(POSITION_PREFIX).unwrap_or(&key).to_owned();
        found.push((name, position.offset));
    }
    if json {
        let rows = found.iter().map(|(name, next)| json!({"source": name, "next": next}));
        println!("{}", json!(rows.collect::<Vec<_>>()));
        return Ok(());
    }
    for (name, next) in &found {
        println!("{next:>16}  {name}");
    }
    if found.is_empty() {
        println!(
            "nothing: files were not read, and topics are remembered by their group's offsets"
        );
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn reset(config: &Config, topic: &str, to: &str, json: bool) -> Outcome {
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let named = topics::named(&loaded.catalog);
    if !named.iter().any(|(name, _)| name == topic) {
        let known: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Failure::Input(format!(
            "the catalogue reads no topic `{topic}`; it reads {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    }
    let to = topics::start(to, &loaded.catalog.zone)
        .map_err(|expected| Failure::Input(format!("--to {to}: expected {expected}")))?;
    if config.relay.topic_list().iter().any(|relayed| relayed == topic) {
        return reset_relayed(config, topic, to, json);
    }
    let store = open::existing_store(config)?;
    let reset = look_up(&config.kafka, topic, to).map_err(topics::failure)?;
    let before = topics::known(store.as_ref(), topic).map_err(Failure::failed)?;
    if let Some(before) = before.as_ref().filter(|b| b.partitions != reset.meta.partitions) {
        return Err(Failure::Input(format!(
            "topic `{topic}` has {} partitions, and had {}: users would be in other partitions than \
             their profiles. Make a topic with the old number, or let `tagloom relay` fill one",
            reset.meta.partitions, before.partitions
        )));
    }
    if store.is_atomic() {
        forget(store.as_ref(), &reset, before.as_ref())?;
    } else {
        commit(&config.kafka, &reset).map_err(topics::failure)?;
    }
    let meta = serde_json::to_vec(&reset.meta).map_err(Failure::failed)?;
    store.put_meta(&topic_key(topic), meta).map_err(open::store_failure)?;
    if json {
        println!("{}", json!({"topic": topic, "next": reset.next}));
    } else {
        println!("{topic}: goes on with offsets {:?}, by partition", reset.next);
    }
    Ok(())
}

/// Of a topic that `tagloom relay` reads: how far it was relayed is what its group has committed.
#[expect(clippy::print_stdout, reason = "a command's output")]
fn reset_relayed(config: &Config, topic: &str, to: Start, json: bool) -> Outcome {
    let mut kafka = config.kafka.clone();
    let group = crate::relay::group_of(&config.relay, &config.kafka);
    kafka.set_group(group);
    let reset = look_up(&kafka, topic, to).map_err(topics::failure)?;
    commit(&kafka, &reset).map_err(topics::failure)?;
    if json {
        println!("{}", json!({"topic": topic, "next": reset.next}));
    } else {
        println!(
            "{topic}: is relayed from offsets {:?} on, by partition. What was relayed before stays in {}: \
             records relayed again count again where nothing tells them apart (dedupe, a version)",
            reset.next, config.relay.topic
        );
    }
    Ok(())
}

/// Of a store that remembers positions itself. Its profiles have no fences: what they have counted of
/// this topic must not be read again.
fn forget(store: &dyn Store, reset: &Reset, before: Option<&TopicMeta>) -> Outcome {
    let TopicMeta { topic, id, .. } = &reset.meta;
    let is_same = before.is_some_and(|b| b.id == *id);
    for (partition, next) in (0..).zip(&reset.next) {
        let name = position_name(topic, partition);
        let had = topics::position(store, &name).map_err(Failure::failed)?;
        if let Some(had) = had.filter(|had| is_same && had.offset > *next) {
            return Err(Failure::Input(format!(
                "{topic}/{partition}: records up to {} are counted already and would count twice from \
                 {next} on; give --to an instant behind them, or begin a new store.path",
                had.offset
            )));
        }
        let incarnation = Incarnation::of(id.as_bytes());
        let position = Position { incarnation, offset: *next, lines: 0 };
        let bytes = serde_json::to_vec(&position).map_err(Failure::failed)?;
        store.put_meta(&meta_key(&name), bytes).map_err(open::store_failure)?;
    }
    Ok(())
}
