//! A table as a compacted topic keeps it: by key, the last record.
//!
//! In: records of all partitions, each partition in offset order. Out: what changed since a number
//! of changes, or since positions in the partitions.
//! Invariant: bounded in bytes; a key that was deleted is kept as deleted, so that whoever looks
//! later is told.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::store::Positions;

/// What is kept beside each key and value: map slot, numbers, allocations.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A record of the topic. An empty value deletes the row.
#[derive(Debug, Clone, Copy)]
pub struct FeedRecord<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What the row is looked up by, as text.
    pub key: &'a [u8],
    /// A JSON object with the row's columns by name; none: the row is gone.
    pub value: Option<&'a [u8]>,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    topic: String,
    bytes_max: u64,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rows: HashMap<Box<[u8]>, Kept>,
    /// Changes so far.
    number: u64,
    bytes: u64,
    at: Positions,
    is_complete: bool,
    failure: Option<String>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    partition: u32,
    offset: u64,
    value: Option<Box<[u8]>>,
}

/// Key and value.
type Row = (Box<[u8]>, Option<Box<[u8]>>);

/// What a feed knows beyond a number of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Changes so far.
    pub(super) number: u64,
    /// How far the topic was read.
    pub(super) at: Positions,
    /// Rows by key; none: gone.
    pub(super) rows: Vec<Row>,
}

impl Feed {
    /// Of a topic: at most so many bytes of keys and values are kept.
    pub fn new(topic: &str, bytes_max: u64) -> Self {
        let (state, moved) = (Mutex::default(), Condvar::new());
        Self { topic: topic.to_owned(), bytes_max, state, moved }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic is this one. What another one of the same name said is forgotten: its rows are gone.
    pub fn begin(&self, topic_id: &str) {
        let mut state = self.state();
        if state.at.topic_id == topic_id {
            return;
        }
        let State { rows, number, bytes, .. } = &mut *state;
        for kept in rows.values_mut() {
            let Some(gone) = kept.value.take() else { continue };
            *bytes -= gone.len() as u64;
            *number += 1;
            *kept = Kept { number: *number, partition: 0, offset: 0, value: None };
        }
        state.at = Positions { topic_id: topic_id.to_owned(), next: BTreeMap::new() };
        state.is_complete = false;
    }

    /// Takes a record. False: the table is larger than it may be, and from now on incomplete.
    pub fn put(&self, record: FeedRecord<'_>) -> bool {
        let FeedRecord { partition, offset, key, value } = record;
        let mut state = self.state();
        let State { rows, number, bytes, at, .. } = &mut *state;
        if at.next.get(&partition).is_some_and(|next| offset < *next) {
            // The topic is read from its beginning again: what is known is newer.
            return true;
        }
        *number += 1;
        let kept = Kept { number: *number, partition, offset, value: value.map(Into::into) };
        let size = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        let entry = (ENTRY_OVERHEAD_BYTES as u64) + size(value);
        match rows.insert(key.into(), kept) {
            Some(before) => {
                *bytes -= ENTRY_OVERHEAD_BYTES as u64 + size(before.value.as_deref());
                *bytes += entry;
            }
            None => *bytes += entry,
        }
        at.next.insert(partition, offset + 1);
        if *bytes > self.bytes_max {
            state.failure = Some(format!(
                "topic `{}` keeps more than {} bytes: raise dimensions.broadcast_bytes_max, or load \
                 the table with `tagloom dims load` and use `strategy: cached`",
                self.topic, self.bytes_max
            ));
            self.moved.notify_all();
            return false;
        }
        true
    }

    /// All partitions were read to their ends: the table is whole.
    pub fn completed(&self) {
        self.state().is_complete = true;
        self.moved.notify_all();
    }

    /// The topic can be read, or why it cannot.
    pub fn note(&self, failure: Option<String>) {
        self.state().failure = failure;
        self.moved.notify_all();
    }

    /// Waits until the table is whole, or cannot be read, or for so long.
    pub fn wait(&self, at_most: Duration) {
        let waiting = |state: &mut State| !state.is_complete && state.failure.is_none();
        drop(
            self.moved
                .wait_timeout_while(self.state(), at_most, waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Why the topic cannot be read.
    pub(super) fn failure(&self) -> Option<String> {
        let state = self.state();
        let reading = || format!("topic `{}` is not read to its end yet", self.topic);
        state.failure.clone().or_else(|| (!state.is_complete).then(reading))
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// What changed behind so many changes; `None`: nothing, or the table is not whole yet.
    pub(super) fn changes(&self, behind: Option<u64>) -> Option<Changes> {
        let state = self.state();
        if !state.is_complete || behind == Some(state.number) {
            return None;
        }
        let behind = behind.unwrap_or(0);
        let newer = state.rows.iter().filter(|(_, kept)| kept.number > behind);
        let rows = newer.map(|(key, kept)| (key.clone(), kept.value.clone())).collect();
        Some(Changes { number: state.number, at: state.at.clone(), rows })
    }

    /// Keys whose rows changed behind positions; `None`: these are of another topic of the same name.
    pub(super) fn changed_behind(&self, before: &Positions) -> Option<Vec<Box<[u8]>>> {
        let state = self.state();
        if !state.at.is_behind(before) {
            return None;
        }
        let next = |partition| before.next.get(&partition).copied().unwrap_or(0);
        let newer = state.rows.iter().filter(|(_, kept)| kept.offset >= next(kept.partition));
        Some(newer.map(|(key, _)| key.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(feed: &Feed, offset: u64, key: &str, value: Option<&str>) -> bool {
        let value = value.map(str::as_bytes);
        feed.put(FeedRecord { partition: 0, offset, key: key.as_bytes(), value })
    }

    fn keys(found: Option<Vec<Box<[u8]>>>) -> Option<Vec<String>> {
        let text = |key: Box<[u8]>| String::from_utf8(key.into()).unwrap();
        let mut keys: Vec<String> = found?.into_iter().map(text).collect();
        keys.sort_unstable();
        Some(keys)
    }

    #[test]
    fn a_key_has_its_last_record_and_whoever_looks_later_is_told_what_changed() {
        let feed = Feed::new("t", 10_000);
        feed.begin("one");
        put(&feed, 0, "a", Some("1"));
        put(&feed, 1, "b", Some("2"));
        assert!(feed.changes(None).is_none(), "it is not whole yet");
        assert!(feed.failure().unwrap().contains("not read to its end"));
        feed.completed();
        let first = feed.changes(None).unwrap();
        assert_eq!((first.number, first.rows.len(), feed.failure()), (2, 2, None));
        assert!(feed.changes(Some(2)).is_none());
        put(&feed, 2, "a", None);
        let next = feed.changes(Some(2)).unwrap();
        assert_eq!((next.rows.len(), &next.rows[0].1), (1, &None));
        assert_eq!(keys(feed.changed_behind(&first.at)), Some(vec!["a".to_owned()]));
        assert_eq!(feed.bytes(), 2 * ENTRY_OVERHEAD_BYTES as u64 + 3);
        // Read from its beginning once more, nothing goes back.
        put(&feed, 0, "a", Some("1"));
        assert!(feed.changes(Some(3)).is_none());
    }

    #[test]
    fn another_topic_of_the_same_name_is_another_table() {
        let feed = Feed::new("t", 10_000);
        feed.begin("one");
        put(&feed, 7, "a", Some("1"));
        feed.completed();
        let before = feed.changes(None).unwrap();
        feed.begin("two");
        put(&feed, 0, "b", Some("2"));
        feed.completed();
        let mut rows = feed.changes(Some(before.number)).unwrap().rows;
        rows.sort();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[0], (b"a"[..].into(), None));
        assert_eq!(feed.bytes(), 2 * ENTRY_OVERHEAD_BYTES as u64 + 3, "two keys and one value");
        assert_eq!(feed.changed_behind(&before.at), None);
    }

    #[test]
    fn a_table_beyond_its_bytes_says_what_to_do() {
        let feed = Feed::new("t", 250);
        assert!(put(&feed, 0, "a", Some("1")));
        assert!(put(&feed, 1, "a", Some("22")), "one row in the place of the other");
        assert!(put(&feed, 2, "b", Some("3")));
        assert!(!put(&feed, 3, "c", Some("4")));
        assert!(feed.failure().unwrap().contains("raise dimensions.broadcast_bytes_max"));
    }
}
