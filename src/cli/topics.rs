//! Joining the group that reads a catalogue's topics.
//!
//! In: a catalogue, settings, a store. Out: a member of the group, and which streams read what.

use std::sync::Arc;

use super::{Failure, Outcome, open};
use crate::catalog::model::{Catalog, From};
use crate::clock::Zone;
use crate::config::Config;
use crate::engine::home;
use crate::engine::topics::Topics;
use crate::source::kafka::{
    Group, GroupOptions, KafkaError, RelayedTopics, Start, Starts, TopicMeta, members, topic_key,
};
use crate::source::position::{Position, meta_key};
use crate::store::Store;

/// Topics with the streams that read them; empty where the catalogue reads files only.
pub(super) fn named(catalog: &Catalog) -> Vec<(String, Vec<String>)> {
    let mut topics: Vec<(String, Vec<String>)> = Vec::new();
    for stream in &catalog.streams {
        let From::Kafka { topic, .. } = &stream.from else { continue };
        match topics.iter_mut().find(|(known, _)| known == topic) {
            Some((_, streams)) => streams.push(stream.name.clone()),
            None => topics.push((topic.clone(), vec![stream.name.clone()])),
        }
    }
    topics
}

/// The same, by how they are read.
pub(super) struct ReadTopics {
    /// As they are.
    pub(super) direct: Vec<(String, Vec<String>)>,
    /// By way of `tagloom relay`.
    pub(super) relayed: Vec<(String, Vec<String>)>,
}

/// Splits a catalogue's topics by `relay.topics`.
pub(super) fn read(catalog: &Catalog, config: &Config) -> Result<ReadTopics, Failure> {
    let named = named(catalog);
    let listed = config.relay.topic_list();
    let is_read = |topic: &String| named.iter().any(|(name, _)| name == topic);
    if let Some(unknown) = listed.iter().find(|topic| !is_read(topic)) {
        let known: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::Input(format!(
            "relay.topics names `{unknown}`, which no stream reads; the catalogue reads {known}"
        )));
    }
    if is_read(&config.relay.topic) {
        return Err(Failure::Input(format!(
            "a stream reads `{}`, which is relay.topic: nobody but `tagloom relay` may write into that \
             one; name another topic",
            config.relay.topic
        )));
    }
    for (key, topic) in [
        ("publish.changes.topic", &config.publish.changes.topic),
        ("publish.rejects.topic", &config.publish.rejects.topic),
    ] {
        if !topic.is_empty() && (is_read(topic) || *topic == config.relay.topic) {
            return Err(Failure::Input(format!(
                "{key} is `{topic}`, which is read too: what is published there would come back without \
                 end; name another topic"
            )));
        }
    }
    let (relayed, direct) = named.into_iter().partition(|(topic, _)| listed.contains(topic));
    Ok(ReadTopics { direct, relayed })
}

/// Joins the group. `reads`: whether records are read.
pub(super) fn join(
    catalog: &Catalog,
    config: &Config,
    store: &Arc<dyn Store>,
    reads: bool,
) -> Result<Option<Topics>, Failure> {
    let ReadTopics { direct, relayed } = read(catalog, config)?;
    let (mut topics, mut streams): (Vec<String>, Vec<Vec<String>>) = direct.into_iter().unzip();
    let (origins, streams_of_origins): (Vec<String>, Vec<Vec<String>>) =
        relayed.into_iter().unzip();
    let relayed =
        (!origins.is_empty()).then(|| RelayedTopics { topic: config.relay.topic.clone(), origins });
    if relayed.is_some() {
        // Of itself no stream reads it.
        topics.push(config.relay.topic.clone());
        streams.push(Vec::new());
        streams.extend(streams_of_origins);
    }
    if topics.is_empty() {
        return Ok(None);
    }
    let start = start(&config.source.start, &catalog.zone).map_err(|expected| {
        Failure::Input(format!("source.start = {}: expected {expected}", config.source.start))
    })?;
    let starts = if store.is_atomic() { Starts::Store } else { Starts::Group };
    let (positions, terms) = (Arc::clone(store), Arc::clone(store));
    let options = GroupOptions {
        config: config.kafka.clone(),
        topics,
        relayed,
        start,
        starts,
        remembered: Box::new(move |name| position(positions.as_ref(), name)),
        take_term: Box::new(move || {
            terms.take_term().map(|term| term.number()).map_err(|e| e.to_string())
        }),
        block_bytes: config.source.block_bytes,
        block_rows_max: config.source.batch_rows_max,
        blocks_max: config.source.batches_under_way_max,
        commit_ahead_rows_max: config.source.commit_ahead_rows_max,
        reads,
        flush_max_ms: config.source.flush_max_ms,
    };
    if !store.is_atomic() {
        agree(config, store.as_ref())?;
    }
    let group = Group::join(options, &|topic| known(store.as_ref(), topic)).map_err(failure)?;
    for topic in group.topics() {
        let bytes = serde_json::to_vec(topic).map_err(Failure::failed)?;
        store.put_meta(&topic_key(&topic.topic), bytes).map_err(open::store_failure)?;
    }
    let commit_ahead_rows_max = config.source.commit_ahead_rows_max;
    Ok(Some(Topics { group: Arc::new(group), streams, commit_ahead_rows_max }))
}

/// All processes of a group have one partitioner: users who came from files belong by it.
fn agree(config: &Config, store: &dyn Store) -> Outcome {
    let wanted = config.source.partitioner;
    let agreed = home::agreed(store).map_err(open::store_failure)?;
    if agreed == Some(wanted) {
        return Ok(());
    }
    if let Some(agreed) = agreed
        && members(&config.kafka).map_err(failure)? > 0
    {
        return Err(Failure::Input(format!(
            "source.partitioner is {wanted} here, and {agreed} in the processes of group `{}` that run: \
             set the same in all of them; to change it, stop all and start them again",
            config.kafka.group()
        )));
    }
    home::agree(store, wanted).map_err(super::run::engine_failure)
}

/// Where to begin or go on, as people write it; else what is expected.
pub(super) fn start(text: &str, zone: &Zone) -> Result<Start, &'static str> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        instant => open::instant(instant, zone)
            .map(Start::At)
            .map_err(|_| "earliest, latest or an instant like 2026-03-31T20:00"),
    }
}

/// The position that a store remembers.
pub(super) fn position(store: &dyn Store, name: &str) -> Result<Option<Position>, String> {
    let Some(bytes) = store.meta(&meta_key(name)).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{name}: {e}"))
}

/// A topic as a store has read it.
pub(super) fn known(store: &dyn Store, topic: &str) -> Result<Option<TopicMeta>, String> {
    let Some(bytes) = store.meta(&topic_key(topic)).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{topic}: {e}"))
}

/// Its error with the right exit code.
pub(super) fn failure(error: KafkaError) -> Failure {
    if error.is_input() { Failure::input(error) } else { Failure::failed(error) }
}
