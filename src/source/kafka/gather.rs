//! Records become blocks: of one partition each, their values as lines.
//!
//! In: records as librdkafka hands them out, partitions mixed. Out: blocks in a bounded queue. Those that
//! were relayed are lines apart within their block, by the topic they come from.
//! Invariant: records of a partition stay in order; the queue never holds more than it may.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::SourceId;
use crate::event::RecordPlace;
use crate::telemetry::facts::number;
use crate::telemetry::names;

/// Records of one partition, in offset order.
#[derive(Debug, Clone, Default)]
pub struct RecordBlock {
    /// The assignment it was read under.
    pub generation: u64,
    /// Index among the topics that are read.
    pub topic: usize,
    /// The partition.
    pub partition: u32,
    /// Both, as fences name them.
    pub source: SourceId,
    /// What was read.
    pub lines: RecordLines,
    /// What was relayed, by the topic it comes from.
    pub relayed: Vec<RecordLines>,
    /// Records without value: the end of a key in a compacted topic.
    pub tombstones: u64,
    /// The offset behind the last record.
    pub next: u64,
}

/// Values of records of one topic, each on a line of its own.
#[derive(Debug, Clone, Default)]
pub struct RecordLines {
    /// Index of the topic among those that are relayed.
    pub topic: usize,
    /// The lines.
    pub text: Vec<u8>,
    /// Where each stands.
    pub records: Vec<RecordPlace>,
}

impl RecordLines {
    /// Appends a value.
    pub fn push(&mut self, place: RecordPlace, value: &[u8]) {
        self.records.push(place);
        let start = self.text.len();
        self.text.extend_from_slice(value);
        if memchr::memchr(b'\n', value).is_some() {
            // Between the parts of a JSON text, where alone they may stand, both are blanks.
            let text = &mut self.text[start..];
            text.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
        self.text.push(b'\n');
    }
}

impl Default for SourceId {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

/// A record as far as it is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) place: RecordPlace,
    pub(super) value: Option<&'a [u8]>,
    /// Where it was relayed from: index of the topic.
    pub(super) relayed: Option<usize>,
}

impl RecordBlock {
    /// Appends a record.
    pub(super) fn push(&mut self, record: Record<'_>) {
        self.next = record.place.offset + 1;
        let Some(value) = record.value else {
            self.tombstones += 1;
            return;
        };
        let lines = match record.relayed {
            None => &mut self.lines,
            Some(topic) => match self.relayed.iter().position(|lines| lines.topic == topic) {
                Some(at) => &mut self.relayed[at],
                None => {
                    self.relayed.push(RecordLines { topic, ..RecordLines::default() });
                    let last = self.relayed.len() - 1;
                    &mut self.relayed[last]
                }
            },
        };
        lines.push(record.place, value);
    }

    fn all(&self) -> impl Iterator<Item = &RecordLines> {
        std::iter::once(&self.lines).chain(&self.relayed)
    }

    /// Records with a value.
    pub(super) fn rows(&self) -> usize {
        self.all().map(|lines| lines.records.len()).sum()
    }

    fn bytes(&self) -> usize {
        self.all().map(|lines| lines.text.len()).sum()
    }

    /// Whether nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        self.rows() == 0 && self.tombstones == 0
    }
}

/// How much stands in a block, and how many wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockLimits {
    pub(super) block_bytes: usize,
    pub(super) block_rows_max: usize,
}

/// The blocks that are being filled, one a partition.
#[derive(Debug)]
pub(super) struct Gather {
    limits: BlockLimits,
    /// By topic, then partition.
    open: Vec<Vec<RecordBlock>>,
    /// Those that hold anything.
    filled: Vec<(usize, u32)>,
}

impl Gather {
    /// Nothing is open. `topics`: the number of partitions of each, and their ids.
    pub(super) fn new(limits: BlockLimits, topics: &[super::TopicMeta]) -> Self {
        let block = |(topic, meta): (usize, &super::TopicMeta)| {
            (0..meta.partitions)
                .map(|partition| RecordBlock {
                    topic,
                    partition,
                    source: SourceId::new(&meta.id, partition),
                    ..RecordBlock::default()
                })
                .collect()
        };
        let open = topics.iter().enumerate().map(block).collect();
        Self { limits, open, filled: Vec::new() }
    }

    /// Adds a record; gives its block when that is full.
    pub(super) fn push(
        &mut self,
        topic: usize,
        partition: u32,
        record: Record<'_>,
        generation: u64,
    ) -> Option<RecordBlock> {
        let block = self.open.get_mut(topic)?.get_mut(usize::try_from(partition).ok()?)?;
        if block.is_empty() {
            block.generation = generation;
            self.filled.push((topic, partition));
        }
        block.push(record);
        let is_full =
            block.bytes() >= self.limits.block_bytes || block.rows() >= self.limits.block_rows_max;
        is_full.then(|| {
            self.filled.retain(|at| *at != (topic, partition));
            taken(block)
        })
    }

    /// Takes one of the blocks that hold anything.
    pub(super) fn take(&mut self) -> Option<RecordBlock> {
        let (topic, partition) = self.filled.pop()?;
        let block = self.open.get_mut(topic)?.get_mut(usize::try_from(partition).ok()?)?;
        Some(taken(block))
    }

    /// Forgets what was gathered.
    pub(super) fn clear(&mut self) {
        while self.take().is_some() {}
    }
}

/// A block with its place left empty.
fn taken(block: &mut RecordBlock) -> RecordBlock {
    let empty = RecordBlock {
        topic: block.topic,
        partition: block.partition,
        source: block.source,
        ..RecordBlock::default()
    };
    std::mem::replace(block, empty)
}

/// Blocks on their way to the decoders.
#[derive(Debug)]
pub(super) struct Queue {
    blocks: Mutex<VecDeque<RecordBlock>>,
    blocks_max: usize,
    moved: Condvar,
}

impl Queue {
    pub(super) fn new(blocks_max: usize) -> Self {
        let blocks = Mutex::new(VecDeque::with_capacity(blocks_max));
        Self { blocks, blocks_max: blocks_max.max(1), moved: Condvar::new() }
    }

    /// Appends a block; gives it back when there was no room for so long.
    pub(super) fn push(
        &self,
        block: Box<RecordBlock>,
        patience: Duration,
    ) -> Result<(), Box<RecordBlock>> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |blocks: &mut VecDeque<_>| blocks.len() >= self.blocks_max;
        let waited = self.moved.wait_timeout_while(blocks, patience, full);
        let mut blocks = waited.unwrap_or_else(PoisonError::into_inner).0;
        if blocks.len() >= self.blocks_max {
            return Err(block);
        }
        blocks.push_back(*block);
        names::KAFKA_QUEUE_BLOCKS.gauge(&[]).set(number(blocks.len() as u64));
        self.moved.notify_all();
        Ok(())
    }

    /// The next block of an assignment; waits at most so long. One of a later assignment is for those
    /// who come later.
    pub(super) fn pop(&self, generation: u64, patience: Duration) -> Option<RecordBlock> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.moved.wait_timeout_while(blocks, patience, |blocks| blocks.is_empty());
        let mut blocks = waited.unwrap_or_else(PoisonError::into_inner).0;
        if blocks.front().is_none_or(|block| block.generation > generation) {
            return None;
        }
        let block = blocks.pop_front().filter(|block| block.generation == generation);
        names::KAFKA_QUEUE_BLOCKS.gauge(&[]).set(number(blocks.len() as u64));
        self.moved.notify_all();
        block
    }

    /// Blocks that wait.
    pub(super) fn len(&self) -> usize {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn clear(&self) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.moved.notify_all();
    }
}

/// The blocks of one assignment, for those who decode them.
#[derive(Clone)]
pub struct RecordBlocks {
    pub(super) queue: std::sync::Arc<Queue>,
    pub(super) generation: u64,
}

impl RecordBlocks {
    /// The next block; waits at most so long.
    pub fn next(&self, patience: Duration) -> Option<RecordBlock> {
        self.queue.pop(self.generation, patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kafka::TopicMeta;

    fn record(offset: u64, value: Option<&str>) -> Record<'_> {
        let place = RecordPlace { offset, ..RecordPlace::default() };
        Record { place, value: value.map(str::as_bytes), relayed: None }
    }

    #[test]
    fn records_are_lines_of_their_partitions_block() {
        let limits = BlockLimits { block_bytes: 1 << 20, block_rows_max: 3 };
        let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 2 };
        let mut gather = Gather::new(limits, &[topic]);
        assert!(gather.push(0, 1, record(5, Some("{\n}")), 7).is_none());
        assert!(gather.push(0, 0, record(9, Some("{}")), 7).is_none());
        assert!(gather.push(0, 1, record(6, None), 7).is_none());
        assert!(gather.push(0, 1, record(8, Some("{}")), 7).is_none());
        let block = gather.push(0, 1, record(9, Some("{}")), 7).expect("it is full");
        assert_eq!(block.lines.text, b"{ }\n{}\n{}\n");
        assert_eq!((block.rows(), block.tombstones, block.next), (3, 1, 10));
        assert_eq!((block.generation, block.partition), (7, 1));
        assert_eq!(gather.take().map(|b| (b.partition, b.next)), Some((0, 10)));
        assert!(gather.take().is_none());
    }

    #[test]
    fn what_was_relayed_from_several_topics_is_one_block_with_lines_apart() {
        let limits = BlockLimits { block_bytes: 1 << 20, block_rows_max: 3 };
        let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 1 };
        let mut gather = Gather::new(limits, &[topic]);
        let of =
            |topic: usize, offset| Record { relayed: Some(topic), ..record(offset, Some("{}")) };
        assert!(gather.push(0, 0, of(1, 5), 7).is_none());
        assert!(gather.push(0, 0, of(0, 6), 7).is_none());
        let block = gather.push(0, 0, of(1, 9), 7).expect("it is full");
        let offsets = |lines: &RecordLines| lines.records.iter().map(|r| r.offset).collect();
        let found: Vec<(usize, Vec<u64>)> =
            block.relayed.iter().map(|lines| (lines.topic, offsets(lines))).collect();
        assert_eq!(found, [(1, vec![5, 9]), (0, vec![6])]);
        assert_eq!((block.lines.records.len(), block.next), (0, 10));
    }

    #[test]
    fn a_full_queue_gives_the_block_back() {
        let queue = Queue::new(1);
        assert!(queue.push(Box::default(), Duration::ZERO).is_ok());
        assert!(queue.push(Box::default(), Duration::ZERO).is_err());
        assert!(queue.pop(0, Duration::ZERO).is_some() && queue.pop(0, Duration::ZERO).is_none());
    }

    #[test]
    fn a_block_is_taken_by_those_only_whose_assignment_it_is_of() {
        let queue = Queue::new(3);
        for generation in [1, 2] {
            let block = Box::new(RecordBlock { generation, ..RecordBlock::default() });
            assert!(queue.push(block, Duration::ZERO).is_ok());
        }
        assert!(queue.pop(2, Duration::ZERO).is_none(), "what is left of one before goes");
        assert!(queue.pop(1, Duration::ZERO).is_none(), "who works under one before leaves it");
        assert!(queue.pop(2, Duration::ZERO).is_some());
    }
}
