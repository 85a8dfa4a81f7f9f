//! Records of one transaction, and where their copies go.
//!
//! In: records of all topics in the order in which they were read; decoders. Out: for each record the
//! partitions in which it has to stand, each with the key of one of the users there.
//! Invariant: pure; copies of one partition of origin keep its order; a record that is about no user and
//! that nobody refuses has no copy.

use std::collections::{BTreeMap, HashMap};

use super::ByPartition;
use crate::event::block::{Skipped, Uids};
use crate::event::partitioner::{partition_of, partition_of_number};
use crate::event::{Decoded, Decoder, RecordPlace};
use crate::source::kafka::RecordLines;
use crate::source::kafka::relayed::Origin;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    records: Vec<Read>,
    /// Values as they are.
    values: Vec<u8>,
    /// The same as lines for the decoders, by topic.
    lines: Vec<RecordLines>,
    /// The offset behind the last record of each partition.
    pub(super) next: ByPartition<u64>,
}

/// A record that was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) topic: usize,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) arrival_ms: i64,
    /// Where its value ends among the values.
    end: usize,
    has_value: bool,
}

/// The key of a copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Number(u64),
    Text(Box<str>),
    /// No user is known: the record is refused.
    Nobody,
}

/// A record, and one of the partitions in which it has to stand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copy {
    /// Index in the batch.
    pub(super) record: usize,
    pub(super) partition: u32,
    pub(super) key: Key,
}

/// What became of the records of one topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) records: u64,
    /// Of them: those that have a copy.
    pub(super) relayed: u64,
    pub(super) copies: u64,
    filtered: u64,
    skipped: Skipped,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// By record, then partition.
    pub(super) copies: Vec<Copy>,
    /// By topic.
    pub(super) counts: Vec<Counts>,
}

impl Counts {
    /// Rows that no user gets, by what they are.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.skipped.counts().into_iter().chain([("filtered", self.filtered)])
    }
}

impl Batch {
    pub(super) fn new(topics: usize) -> Self {
        let lines = (0..topics).map(|topic| RecordLines { topic, ..RecordLines::default() });
        Self { lines: lines.collect(), ..Self::default() }
    }

    /// Forgets everything, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.values.clear();
        self.next.clear();
        for lines in &mut self.lines {
            lines.text.clear();
            lines.records.clear();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn rows(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.len()
    }

    /// Appends a record.
    pub(super) fn push(
        &mut self,
        topic: usize,
        (partition, offset): (u32, u64),
        arrival_ms: i64,
        value: Option<&[u8]>,
    ) {
        let at = self.records.len() as u64;
        self.values.extend_from_slice(value.unwrap_or_default());
        let (end, has_value) = (self.values.len(), value.is_some());
        self.records.push(Read { topic, partition, offset, arrival_ms, end, has_value });
        self.next.insert((topic, partition), offset + 1);
        if let Some(value) = value {
            // Rows are found again by their record's number in the batch.
            let origin = (partition, offset);
            let place = RecordPlace { offset: at, origin, arrival_ms, ..RecordPlace::default() };
            self.lines[topic].push(place, value);
        }
    }

    pub(super) fn record(&self, at: usize) -> Read {
        self.records[at]
    }

    /// The value of a record.
    pub(super) fn value(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.records[before].end);
        &self.values[start..self.records[at].end]
    }

    /// Where a record was written first.
    pub(super) fn origin<'t>(&self, at: usize, topics: &'t [(String, Vec<usize>)]) -> Origin<'t> {
        let Read { topic, partition, offset, .. } = self.records[at];
        Origin { topic: &topics[topic].0, partition, offset }
    }

    /// Decodes all records, and says where they go. `decoders`: by topic, for one shard, with offsets.
    pub(super) fn copies(&self, decoders: &mut [Decoder], partitions: u32) -> Copies {
        let mut copies = Vec::with_capacity(self.records.len());
        let mut counts = vec![Counts::default(); decoders.len()];
        for record in &self.records {
            counts[record.topic].records += 1;
            counts[record.topic].skipped.tombstones += u64::from(!record.has_value);
        }
        for (topic, (lines, decoder)) in self.lines.iter().zip(decoders).enumerate() {
            let decoded = decoder.messages(&lines.text, &lines.records, None);
            for block in &decoded.blocks {
                counts[topic].filtered += block.filtered;
                counts[topic].skipped += block.skipped;
            }
            add_users(&decoded, partitions, &mut copies);
            self.add_refused(topic, &decoded, partitions, &mut copies);
        }
        // The least key of a partition's users stands for them; a user stands for nobody.
        copies.sort_unstable();
        copies.dedup_by(|later, first| {
            (later.record, later.partition) == (first.record, first.partition)
        });
        drop_needless(&mut copies);
        let mut before = None;
        for copy in &copies {
            let counts = &mut counts[self.records[copy.record].topic];
            counts.copies += 1;
            counts.relayed += u64::from(before.replace(copy.record) != Some(copy.record));
        }
        Copies { copies, counts }
    }

    /// Records that some stream refuses: a place by their origin, where no user has one.
    fn add_refused(
        &self,
        topic: usize,
        decoded: &Decoded,
        partitions: u32,
        copies: &mut Vec<Copy>,
    ) {
        if decoded.rejects.is_empty() {
            return;
        }
        let of_topic = self.records.iter().enumerate().filter(|(_, r)| r.topic == topic);
        let places: HashMap<(u32, u64), usize> =
            of_topic.map(|(at, r)| ((r.partition, r.offset), at)).collect();
        let mut by_source: BTreeMap<&str, u32> = BTreeMap::new();
        for reject in &decoded.rejects {
            let number = |source: &str| source.rsplit_once('/')?.1.parse().ok();
            let Some(partition) = number(&reject.source) else { continue };
            let Some(record) = places.get(&(partition, reject.offset)) else { continue };
            let to = by_source
                .entry(&reject.source)
                .or_insert_with(|| partition_of(reject.source.as_bytes(), partitions));
            copies.push(Copy { record: *record, partition: *to, key: Key::Nobody });
        }
    }
}

/// Whoever gets a row of a record.
fn add_users(decoded: &Decoded, partitions: u32, copies: &mut Vec<Copy>) {
    let mut add = |record: u64, partition, key| {
        // It is the number of a record in the batch.
        let record = usize::try_from(record).unwrap_or(usize::MAX);
        copies.push(Copy { record, partition, key });
    };
    for part in decoded.blocks.iter().flat_map(|block| &block.shards) {
        match &part.uids {
            Uids::Numbers(uids) => {
                for (uid, record) in uids.iter().zip(&part.offsets) {
                    add(*record, partition_of_number(*uid, partitions), Key::Number(*uid));
                }
            }
            Uids::Texts(uids) => {
                for (uid, record) in uids.iter().zip(&part.offsets) {
                    let partition = partition_of(uid.as_bytes(), partitions);
                    add(*record, partition, Key::Text(uid.clone()));
                }
            }
        }
    }
}

/// A record that somebody gets tells there why others of its rows were refused.
fn drop_needless(copies: &mut Vec<Copy>) {
    let mut kept = 0;
    let mut start = 0;
    while start < copies.len() {
        let record = copies[start].record;
        let end = start + copies[start..].iter().take_while(|c| c.record == record).count();
        let has_users = copies[start..end].iter().any(|copy| copy.key != Key::Nobody);
        for at in start..end {
            if !has_users || copies[at].key != Key::Nobody {
                copies.swap(kept, at);
                kept += 1;
            }
        }
        start = end;
    }
    copies.truncate(kept);
}

#[cfg(test)]
mod tests;
