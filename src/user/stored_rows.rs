//! Rows of a user as a profile has them: without the bytes that are zero in all of them.
//!
//! In: words of rows. Out: bytes, and the words back, stream by stream.
//!
//! For each stream that has rows: its index (1 byte), how many rows and how many words a row has
//! (varints), for each of these words one byte that says which of its 8 bytes are kept (the first one
//! in the upper four bits, counted from the lowest, and how many in the lower four), then the kept
//! bytes of each row, lowest first; at least one of the first word. Times, amounts and codes of texts are small numbers in large words: of the eight words of a
//! purchase 36 bytes are left.
//! Invariant: no clock, no I/O; within a stream rows keep their order.

use super::layout::{
    StateLayout, StreamLayout, ValueKind, flag_set, low32, row_stream, value_word,
};
use crate::store::varint;

const WORD: usize = size_of::<u64>();

/// Writes rows, reusing its memory.
#[derive(Debug, Default)]
pub(super) struct RowPacker {
    /// By stream where its rows begin.
    begins: Vec<Vec<usize>>,
    /// The rows of one stream, as they are written.
    words: Vec<u64>,
    /// For each word of a row the bits that are set in some row.
    any: Vec<u64>,
    kept: Vec<Kept>,
    out: Vec<u8>,
}

/// The bytes of a word that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    first: u8,
    len: u8,
}

impl Kept {
    /// All that are not zero in the words that were or-ed together.
    #[expect(clippy::cast_possible_truncation, reason = "there are 8 bytes")]
    fn of(any: u64) -> Self {
        let first = (any.trailing_zeros() / 8 % 8) as u8;
        let end = (WORD - any.leading_zeros() as usize / 8) as u8;
        Self { first, len: end.saturating_sub(first) }
    }

    fn to_byte(self) -> u8 {
        self.first << 4 | self.len
    }

    /// `None`: no byte that [`Self::to_byte`] gives.
    fn from_byte(byte: u8) -> Option<Self> {
        let (first, len) = (byte >> 4, byte & 0xf);
        (usize::from(first + len) <= WORD).then_some(Self { first, len })
    }

    fn shift(self) -> u32 {
        u32::from(self.first) * 8
    }

    fn mask(self) -> u64 {
        u64::MAX.checked_shr(64 - 8 * u32::from(self.len)).unwrap_or(0)
    }
}

impl RowPacker {
    /// The rows as bytes, valid until the next call. `text` gives a text's number in the profile for
    /// its code.
    pub(super) fn pack(
        &mut self,
        rows: &[u64],
        layout: &StateLayout,
        mut text: impl FnMut(u32) -> u32,
    ) -> &[u8] {
        self.begins.resize_with(layout.streams.len(), Vec::new);
        self.begins.iter_mut().for_each(Vec::clear);
        self.out.clear();
        let mut at = 0;
        while let Some(first) = rows.get(at) {
            let stream = row_stream(*first);
            self.begins[stream].push(at);
            at += layout.streams[stream].width;
        }
        for at in 0..layout.streams.len() {
            if !self.begins[at].is_empty() {
                self.take(rows, at, &layout.streams[at], &mut text);
                self.write(at, layout.streams[at].width);
            }
        }
        &self.out
    }

    /// Takes the rows of a stream, and finds out which of their bytes are needed.
    fn take(
        &mut self,
        rows: &[u64],
        index: usize,
        stream: &StreamLayout,
        text: &mut impl FnMut(u32) -> u32,
    ) {
        self.words.clear();
        self.any.clear();
        self.any.resize(stream.width, 0);
        // Rows take bytes, however little they say: their number can be checked.
        self.any[0] = 1 << 8;
        for begin in &self.begins[index] {
            let at = self.words.len();
            let row = &rows[*begin..begin + stream.width];
            self.words.extend_from_slice(row);
            let words = &mut self.words[at..];
            // The stream's index stands before all of them.
            words[0] &= !0xff;
            for value in &stream.values[stream.first_half..] {
                if value.kind == ValueKind::Text && !flag_set(row, value.null_flag) {
                    let number = u64::from(text(low32(value_word(row, value))));
                    let shift = if value.upper { 32 } else { 0 };
                    let others = !(u64::from(u32::MAX) << shift);
                    words[value.word] = words[value.word] & others | number << shift;
                }
            }
            self.any.iter_mut().zip(words).for_each(|(any, word)| *any |= *word);
        }
        self.kept.clear();
        self.kept.extend(self.any.iter().map(|any| Kept::of(*any)));
    }

    fn write(&mut self, index: usize, width: usize) {
        let (out, kept) = (&mut self.out, &self.kept);
        // A row itself has one byte for it.
        out.push(u8::try_from(index).unwrap_or(u8::MAX));
        varint::put_u64(out, (self.words.len() / width) as u64);
        varint::put_u64(out, width as u64);
        out.extend(kept.iter().map(|kept| kept.to_byte()));
        let row_bytes: usize = kept.iter().map(|kept| usize::from(kept.len)).sum();
        let (start, bytes) = (out.len(), self.words.len() / width * row_bytes);
        // Each word is written whole, and what is too much is written over by the next one.
        out.resize(start + bytes + WORD, 0);
        let mut at = start;
        for row in self.words.chunks_exact(width) {
            for (word, kept) in row.iter().zip(kept) {
                if let Some(place) = out.get_mut(at..at + WORD) {
                    place.copy_from_slice(&(word >> kept.shift()).to_le_bytes());
                }
                at += usize::from(kept.len);
            }
        }
        out.truncate(start + bytes);
    }
}

/// How many rows there are. `None`: damaged bytes.
pub(super) fn count(bytes: &[u8]) -> Option<usize> {
    let mut rows = 0usize;
    each_group(bytes, |group| rows += group.rows)?;
    Some(rows)
}

/// The words of all rows, with their stream's index again. `None`: damaged bytes.
pub(super) fn unpack(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut words = Vec::new();
    each_group(bytes, |group| {
        let mut at = 0;
        for _ in 0..group.rows {
            for (word, kept) in group.kept.iter().enumerate() {
                let value = word_at(group.bytes, at) & kept.mask();
                let stream = if word == 0 { u64::from(group.stream) } else { 0 };
                words.push(value << kept.shift() | stream);
                at += usize::from(kept.len);
            }
        }
    })?;
    Some(words)
}

/// Eight bytes from `at` on; those behind the end are 0.
#[inline]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk::<WORD>() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Rows of one stream.
struct Group<'a> {
    stream: u8,
    rows: usize,
    kept: &'a [Kept],
    bytes: &'a [u8],
}

fn each_group(mut bytes: &[u8], mut each: impl FnMut(&Group<'_>)) -> Option<()> {
    let mut kept = Vec::new();
    while let Some((stream, rest)) = bytes.split_first() {
        bytes = rest;
        let rows = usize::try_from(varint::take_u64(&mut bytes)?).ok()?;
        let width = usize::try_from(varint::take_u64(&mut bytes)?).ok()?;
        let (head, rest) = bytes.split_at_checked(width)?;
        kept.clear();
        for byte in head {
            kept.push(Kept::from_byte(*byte)?);
        }
        let row_bytes: usize = kept.iter().map(|kept| usize::from(kept.len)).sum();
        if row_bytes == 0 {
            return None;
        }
        let (rows_bytes, rest) = rest.split_at_checked(rows.checked_mul(row_bytes)?)?;
        each(&Group { stream: *stream, rows, kept: &kept, bytes: rows_bytes });
        bytes = rest;
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::layout::flag_at;
    use super::super::lineage::Lineage;
    use super::*;
    use crate::catalog::load_from;

    /// Two streams: one with texts in both halves of words, one without ids.
    pub(in super::super) fn layout() -> StateLayout {
        let stream = |name: &str, dedupe: &str| {
            format!(
                "stream: {name}\ndoc: Did.\nfrom: {{file: {name}.jsonl, format: json}}\n\
                 columns:\n  id: string\n  user: u64\n  at: timestamp(ms)\n  n: \"int?\"\n  \
                 s: \"string?\"\n  t: \"string?\"\n  u: \"string?\"\nuid: user\ntime: at\n{dedupe}mode: append\n"
            )
        };
        let features = ["buy", "see"].map(|name| {
            let of = |value: &str| {
                let id = value.replace(['(', ')'], "_");
                format!(
                    "feature: {name}_{id}\ndoc: F.\nstream: {name}\nvalue: {value}\nwindow: 7d\n"
                )
            };
            ["sum(n)", "last(s)", "last(t)", "mode(u)"].map(of).join("---\n")
        });
        let files = [
            ("catalog.yaml", "name: t\nuid: u64\ntimezone: UTC\nallowed_lateness: 5d\n".to_owned()),
            ("streams/buy.yaml", stream("buy", "dedupe: {by: id}\n")),
            ("streams/see.yaml", stream("see", "")),
            ("features/all.yaml", features.join("---\n")),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text)).to_vec();
        let catalog = load_from("t", files).unwrap_or_else(|e| panic!("{e}")).catalog;
        StateLayout::new(&catalog, &Lineage::default()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A row of random bits in random bytes; texts have codes below 4, and some are NULL.
    pub(in super::super) fn row(layout: &StateLayout, seed: &[u64]) -> Vec<u64> {
        let index = (seed[0] % 2) as usize;
        let stream = &layout.streams[index];
        let bits = |at: usize| seed[at % seed.len()].rotate_left(low32(at as u64));
        let mut row: Vec<u64> = (0..stream.width)
            .map(|word| bits(word) & u64::MAX.checked_shr(low32(bits(word + 1)) % 65).unwrap_or(0))
            .collect();
        row[0] = row[0] << 8 | index as u64;
        for value in stream.values.iter().filter(|value| value.kind == ValueKind::Text) {
            let shift = if value.upper { 32 } else { 0 };
            let (word, bit) = flag_at(value.null_flag);
            row[value.word] &= !(u64::from(u32::MAX) << shift);
            row[word] &= !(1 << bit);
            match bits(value.word + value.null_flag) % 5 {
                4 => row[word] |= 1 << bit,
                code => row[value.word] |= code << shift,
            }
        }
        row
    }

    proptest! {
        #[test]
        fn rows_come_back_stream_by_stream_and_damaged_ones_are_refused(
            seeds in proptest::collection::vec(proptest::collection::vec(any::<u64>(), 7), 0..40),
        ) {
            let layout = layout();
            let rows: Vec<Vec<u64>> = seeds.iter().map(|seed| row(&layout, seed)).collect();
            let mut packer = RowPacker::default();
            packer.pack(&[], &layout, |code| code);
            let bytes = packer.pack(&rows.concat(), &layout, |code| code + 1000).to_vec();
            let mut expect = Vec::new();
            for (index, stream) in layout.streams.iter().enumerate() {
                for row in rows.iter().filter(|row| row_stream(row[0]) == index) {
                    let mut row = row.clone();
                    for value in stream.values.iter().filter(|v| v.kind == ValueKind::Text) {
                        if !flag_set(&row, value.null_flag) {
                            row[value.word] += 1000 << if value.upper { 32 } else { 0 };
                        }
                    }
                    expect.extend(row);
                }
            }
            prop_assert_eq!(unpack(&bytes), Some(expect));
            prop_assert_eq!(count(&bytes), Some(rows.len()));
            for end in 1..bytes.len().min(20) {
                let cut = &bytes[..bytes.len() - end];
                prop_assert_ne!(count(cut), Some(rows.len()));
            }
        }
    }

    #[test]
    fn bytes_that_cannot_be_are_refused() {
        // A stream, rows, words, what is kept, and rows.
        assert_eq!(unpack(&[3, 2, 1, 0x12, 1, 2, 3, 4]), Some(vec![0x2_0103, 0x4_0303]));
        assert_eq!(unpack(&[]), Some(Vec::new()));
        for bad in [
            &[0, 1][..],
            &[0, 1, 1, 0x80],
            &[0, 1, 1, 0x09, 1],
            &[0, 1, 1, 0x62, 1],
            &[0, 1, 2, 0x01, 0x01, 1],
            &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 8, 1],
        ] {
            assert_eq!((unpack(bad), count(bad)), (None, None), "{bad:?}");
        }
    }
}
