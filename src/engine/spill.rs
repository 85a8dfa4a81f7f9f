//! Events that wait on disk for their users' turn, by slice of users.
//!
//! In: decoded batches, row by row to the slice of its user. Out: the same rows, one slice after the
//! other. The file has no name: it is gone with the process, however that ends.
//! Invariant: what one batch brought for a slice stands together; nothing in the file has to outlive
//! the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::event::block::{ShardRows, Uids, uid_hash};
use crate::user::layout::{StateLayout, hash64};

/// Bytes that wait in memory for each slice before they are written: between these.
const BUFFER_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// Of the memory of users: what all buffers together take.
const BUFFERS_SHARE: usize = 16;

/// The slice of a uid's hash. Not the upper bits, which pick the shard, nor the lower ones, which
/// find the user within it: users of one slice are spread over both.
#[inline]
pub(super) fn slice_of(hash: u64, slices: usize) -> usize {
    let [_, _, upper, lower, ..] = hash.to_be_bytes();
    usize::from(u16::from_be_bytes([upper, lower])) % slices.max(1)
}

/// What stands at a place of the file.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    at: u64,
    bytes: usize,
}

/// Rows of one stream and shard in a batch, grouped by slice.
#[derive(Debug, Default)]
struct Group {
    stream: u8,
    shard: usize,
    /// Where each slice begins in `order`, and where the last one ends.
    starts: Vec<u32>,
    order: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spill {
    file: File,
    dir: PathBuf,
    /// Words of a row, by stream.
    widths: Vec<usize>,
    shards: usize,
    is_text: bool,
    /// By slice: what is not written yet.
    buffers: Vec<Vec<u64>>,
    buffer_words: usize,
    /// By slice: what is.
    chunks: Vec<Vec<Chunk>>,
    written: u64,
    waiting_words: u64,
    groups: Vec<Group>,
    bytes: Vec<u8>,
}

/// How a spill is laid out.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub(super) slices: usize,
    pub(super) shards: usize,
    pub(super) is_text: bool,
    pub(super) layout: &'a StateLayout,
    /// `memory.resident_bytes_max`: buffers take a share of it.
    pub(super) resident_bytes_max: usize,
}

impl Spill {
    /// An empty one, in a directory that has room.
    pub(super) fn new(dir: &Path, shape: &Shape<'_>) -> io::Result<Self> {
        let slices = shape.slices.max(1);
        let buffer_bytes = shape.resident_bytes_max / BUFFERS_SHARE / slices;
        Ok(Self {
            file: tempfile::tempfile_in(dir)?,
            dir: dir.to_owned(),
            widths: shape.layout.streams.iter().map(|stream| stream.width).collect(),
            shards: shape.shards,
            is_text: shape.is_text,
            buffers: vec![Vec::new(); slices],
            buffer_words: buffer_bytes.clamp(BUFFER_BYTES.0, BUFFER_BYTES.1) / 8,
            chunks: vec![Vec::new(); slices],
            written: 0,
            waiting_words: 0,
            groups: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.written + self.waiting_words * 8
    }

    /// Sets a batch's rows aside, but for slices that do not want them. `source` and `offset`: what
    /// the batch is known by, within its slices.
    pub(super) fn add(
        &mut self,
        source: u16,
        offset: u64,
        parts: &[(u8, Vec<ShardRows>)],
        wanted: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let slices = self.buffers.len();
        let mut groups = std::mem::take(&mut self.groups);
        let mut used = 0;
        for (stream, shards) in parts {
            for (shard, part) in shards.iter().enumerate().filter(|(_, p)| !p.hashes.is_empty()) {
                if groups.len() == used {
                    groups.push(Group::default());
                }
                groups[used].fill(*stream, shard, &part.hashes, slices);
                used += 1;
            }
        }
        for slice in (0..slices).filter(|slice| wanted(*slice)) {
            let there = groups[..used].iter().filter(|g| !g.of(slice).is_empty());
            let segments = there.clone().count() as u64;
            if segments == 0 {
                continue;
            }
            let buffer = &mut self.buffers[slice];
            let before = buffer.len();
            buffer.extend([u64::from(source) | segments << 32, offset]);
            for group in there {
                let of_stream = parts.iter().find(|(stream, _)| *stream == group.stream);
                let Some(part) = of_stream.and_then(|(_, s)| s.get(group.shard)) else { continue };
                let width = self.widths[usize::from(group.stream)];
                group.write(slice, part, width, buffer);
            }
            self.waiting_words += (buffer.len() - before) as u64;
            if buffer.len() >= self.buffer_words {
                self.flush(slice)?;
            }
        }
        self.groups = groups;
        Ok(())
    }

    fn flush(&mut self, slice: usize) -> io::Result<()> {
        let words = &mut self.buffers[slice];
        if words.is_empty() {
            return Ok(());
        }
        self.bytes.resize(words.len() * 8, 0);
        for (to, word) in self.bytes.chunks_exact_mut(8).zip(words.iter()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.file.write_all_at(&self.bytes, self.written)?;
        self.chunks[slice].push(Chunk { at: self.written, bytes: self.bytes.len() });
        self.written += self.bytes.len() as u64;
        self.waiting_words -= words.len() as u64;
        words.clear();
        Ok(())
    }

    /// Nothing more will come: what is left in memory is written, and its room given back.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        (0..self.buffers.len()).try_for_each(|slice| self.flush(slice))?;
        self.buffers.iter_mut().for_each(|buffer| *buffer = Vec::new());
        self.groups = Vec::new();
        Ok(())
    }

    /// Reads a slice. `each` gets its batches one after the other, in pieces of about so many bytes;
    /// it says whether to go on.
    pub(super) fn read(
        &self,
        slice: usize,
        piece_bytes: usize,
        mut each: impl FnMut(Piece) -> bool,
    ) -> io::Result<bool> {
        let mut piece = self.piece();
        let (mut bytes, mut words) = (Vec::new(), Vec::new());
        for chunk in &self.chunks[slice] {
            bytes.resize(chunk.bytes, 0);
            self.file.read_exact_at(&mut bytes, chunk.at)?;
            words.clear();
            // The chunks are of 8 bytes.
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            words.extend(bytes.chunks_exact(8).map(word));
            let mut rest = Rest(&words);
            while !rest.0.is_empty() {
                piece.read(&mut rest, &self.widths, self.is_text).ok_or_else(damaged)?;
                if piece.bytes >= piece_bytes && !each(std::mem::replace(&mut piece, self.piece()))
                {
                    return Ok(false);
                }
            }
        }
        Ok(piece.bytes == 0 || each(piece))
    }

    fn piece(&self) -> Piece {
        let empty = || ShardRows {
            uids: if self.is_text { Uids::Texts(Vec::new()) } else { Uids::Numbers(Vec::new()) },
            hashes: Vec::new(),
            rows: Vec::new(),
            // Stores that take slices need none.
            offsets: Vec::new(),
        };
        let stream = |at| {
            let number = u8::try_from(at).unwrap_or(u8::MAX);
            (number, (0..self.shards).map(|_| empty()).collect())
        };
        let parts = (0..self.widths.len()).map(stream).collect();
        Piece { parts, ends: Vec::new(), bytes: 0 }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the file has changed since it was written")
}

impl Group {
    fn fill(&mut self, stream: u8, shard: usize, hashes: &[u64], slices: usize) {
        (self.stream, self.shard) = (stream, shard);
        self.starts.clear();
        self.starts.resize(slices + 1, 0);
        for hash in hashes {
            self.starts[slice_of(*hash, slices) + 1] += 1;
        }
        for slice in 0..slices {
            self.starts[slice + 1] += self.starts[slice];
        }
        self.order.resize(hashes.len(), 0);
        for (at, hash) in (0u32..).zip(hashes) {
            let next = &mut self.starts[slice_of(*hash, slices)];
            self.order[*next as usize] = at;
            *next += 1;
        }
        // Each start has moved to its slice's end, which is the next one's start.
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    fn of(&self, slice: usize) -> &[u32] {
        &self.order[self.starts[slice] as usize..self.starts[slice + 1] as usize]
    }

    fn write(&self, slice: usize, part: &ShardRows, width: usize, to: &mut Vec<u64>) {
        let rows = self.of(slice);
        let shard = self.shard as u64;
        to.push(u64::from(self.stream) | shard << 8 | (rows.len() as u64) << 32);
        match &part.uids {
            Uids::Numbers(uids) => to.extend(rows.iter().map(|at| uids[*at as usize])),
            Uids::Texts(uids) => {
                for uid in rows.iter().map(|at| uids[*at as usize].as_bytes()) {
                    to.push(uid.len() as u64);
                    to.extend(uid.chunks(8).map(|bytes| {
                        let mut word = [0; 8];
                        word[..bytes.len()].copy_from_slice(bytes);
                        u64::from_le_bytes(word)
                    }));
                }
            }
        }
        for at in rows.iter().map(|at| *at as usize) {
            to.extend_from_slice(&part.rows[at * width..(at + 1) * width]);
        }
    }
}

/// Rows of a slice, of whole batches.
#[derive(Debug)]
pub(super) struct Piece {
    /// By stream, one part a shard.
    pub(super) parts: Vec<(u8, Vec<ShardRows>)>,
    /// The batches in it: source and offset of each.
    pub(super) ends: Vec<(u16, u64)>,
    /// What they took.
    pub(super) bytes: usize,
}

impl Piece {
    /// Reads what one batch brought.
    fn read(&mut self, rest: &mut Rest<'_>, widths: &[usize], is_text: bool) -> Option<()> {
        let before = rest.0.len();
        let (head, offset) = (rest.word()?, rest.word()?);
        self.ends.push((u16::try_from(head & 0xffff_ffff).ok()?, offset));
        for _ in 0..head >> 32 {
            let head = rest.word()?;
            let stream = usize::try_from(head & 0xff).ok()?;
            let shard = usize::try_from(head >> 8 & 0xff_ffff).ok()?;
            let rows = usize::try_from(head >> 32).ok()?;
            let part = self.parts.get_mut(stream)?.1.get_mut(shard)?;
            match &mut part.uids {
                Uids::Numbers(uids) if !is_text => {
                    let numbers = rest.words(rows)?;
                    uids.extend_from_slice(numbers);
                    part.hashes.extend(numbers.iter().map(|uid| uid_hash(*uid)));
                }
                Uids::Texts(uids) => {
                    for _ in 0..rows {
                        let uid = rest.text()?;
                        part.hashes.push(hash64(uid.as_bytes()));
                        uids.push(uid);
                    }
                }
                Uids::Numbers(_) => return None,
            }
            let words = rows.checked_mul(*widths.get(stream)?)?;
            part.rows.extend_from_slice(rest.words(words)?);
        }
        self.bytes += (before - rest.0.len()) * 8;
        Some(())
    }
}

struct Rest<'a>(&'a [u64]);

impl<'a> Rest<'a> {
    fn words(&mut self, count: usize) -> Option<&'a [u64]> {
        let (words, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(words)
    }

    fn word(&mut self) -> Option<u64> {
        self.words(1).map(|words| words[0])
    }

    fn text(&mut self) -> Option<Box<str>> {
        let length = usize::try_from(self.word()?).ok()?;
        let words = self.words(length.div_ceil(8))?;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(length);
        String::from_utf8(bytes).ok().map(String::into_boxed_str)
    }
}
