//! Packs of users that are due at the same instant.
//!
//! In: the keys of users that one shard recomputed in one window and that share a due instant. Out:
//! one stored key and value for all of them. Invariant: a pack decodes to the set it was made of.

use super::{Result, StoreError, UidKey, varint};

/// Where a due pack stands in the due index: by instant, then window, then shard, then partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueCursor {
    /// When its users are due, epoch milliseconds.
    pub due_ms: i64,
    /// The window that wrote it. Owners of a shared store count from [`super::Term::first_window`].
    pub window: u64,
    /// The shard that wrote it.
    pub shard: u16,
    /// The source partition of its users; 0 where sources have none.
    pub partition: u32,
}

/// Users that are due at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePack {
    /// Its place in the due index.
    pub cursor: DueCursor,
    /// Its users. Order and repeats do not matter; a stored pack gives them sorted.
    pub keys: Vec<UidKey>,
}

const NUMBERS: u8 = 0;
const STRINGS: u8 = 1;

impl DueCursor {
    /// Bytes that sort as the cursor does. Partition 0 has none, as in stores from before there
    /// were partitions.
    pub(super) fn to_key(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(22);
        key.extend_from_slice(&sortable(self.due_ms));
        key.extend_from_slice(&self.window.to_be_bytes());
        key.extend_from_slice(&self.shard.to_be_bytes());
        if self.partition > 0 {
            key.extend_from_slice(&self.partition.to_be_bytes());
        }
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (due, rest) = key.split_first_chunk::<8>()?;
        let (window, rest) = rest.split_first_chunk::<8>()?;
        let (shard, partition) = rest.split_first_chunk::<2>()?;
        let partition = match partition {
            [] => 0,
            bytes => u32::from_be_bytes(bytes.try_into().ok()?),
        };
        Some(Self {
            due_ms: (u64::from_be_bytes(*due) ^ SIGN).cast_signed(),
            window: u64::from_be_bytes(*window),
            shard: u16::from_be_bytes(*shard),
            partition,
        })
    }
}

const SIGN: u64 = 1 << 63;

/// Bytes that sort as the instant does.
fn sortable(instant_ms: i64) -> [u8; 8] {
    (instant_ms.cast_unsigned() ^ SIGN).to_be_bytes()
}

/// The first key behind all packs due at `instant_ms`; `None` when nothing can be behind.
pub(super) fn end_of_instant(instant_ms: i64) -> Option<[u8; 8]> {
    instant_ms.checked_add(1).map(sortable)
}

impl DuePack {
    /// The stored value. Numbers: a zero byte, then differences as varints. Strings: a one byte,
    /// then for each the length shared with the one before, and the rest.
    pub(super) fn encode(&mut self) -> Vec<u8> {
        self.keys.sort_unstable();
        self.keys.dedup();
        let numbers: Option<Vec<u64>> = self.keys.iter().map(UidKey::as_u64).collect();
        let mut out = Vec::with_capacity(1 + 3 * self.keys.len());
        if let Some(numbers) = numbers {
            out.push(NUMBERS);
            let mut last = 0;
            for number in numbers {
                varint::put_u64(&mut out, number - last);
                last = number;
            }
            return out;
        }
        out.push(STRINGS);
        let mut last: &[u8] = &[];
        for key in &self.keys {
            let bytes = key.as_bytes();
            let shared = last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            varint::put_u64(&mut out, shared as u64);
            varint::put_bytes(&mut out, &bytes[shared..]);
            last = bytes;
        }
        out
    }

    /// Back from a stored key and value.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self> {
        let damaged = || StoreError::Corrupt {
            what: format!("the due entry {key:02x?}"),
            remedy: "run `tagloom backfill`, which writes the due index anew".to_owned(),
        };
        let cursor = DueCursor::from_key(key).ok_or_else(damaged)?;
        let keys = decode_keys(value).ok_or_else(damaged)?;
        Ok(Self { cursor, keys })
    }
}

fn decode_keys(value: &[u8]) -> Option<Vec<UidKey>> {
    let (&kind, mut rest) = value.split_first()?;
    let mut keys = Vec::new();
    match kind {
        NUMBERS => {
            let mut last = 0u64;
            while !rest.is_empty() {
                last = last.checked_add(varint::take_u64(&mut rest)?)?;
                keys.push(UidKey::from_u64(last));
            }
        }
        STRINGS => {
            let mut last = Vec::new();
            while !rest.is_empty() {
                let shared = usize::try_from(varint::take_u64(&mut rest)?).ok()?;
                if shared > last.len() {
                    return None;
                }
                last.truncate(shared);
                last.extend_from_slice(varint::take_bytes(&mut rest)?);
                keys.push(UidKey::from_bytes(&last)?);
            }
        }
        _ => return None,
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[&[u8]], bytes_max: usize) {
        let cursor = DueCursor { due_ms: -5, window: 7, shard: 3, partition: 9 };
        let keys: Vec<UidKey> = keys.iter().filter_map(|k| UidKey::from_bytes(k)).collect();
        let mut pack = DuePack { cursor, keys: keys.clone() };
        let value = pack.encode();
        assert!(value.len() <= bytes_max, "{} bytes", value.len());
        let mut sorted = keys;
        sorted.sort();
        sorted.dedup();
        let back = DuePack::decode(&cursor.to_key(), &value).expect("what was just encoded");
        assert_eq!(back, DuePack { cursor, keys: sorted });
    }

    #[test]
    fn packs_come_back_sorted_and_small() {
        check(&[], 1);
        check(&[&[0; 8], &[0xff; 8]], 12);
        let numbers: Vec<[u8; 8]> = (0..1000u64).rev().map(|n| (n * 90).to_be_bytes()).collect();
        check(&numbers.iter().map(<[u8; 8]>::as_slice).collect::<Vec<_>>(), 1001);
        check(&[b"anna", b"annabel", b"bo", b"anna"], 18);
        check(&[b"12345678", b"1"], 15);
    }

    #[test]
    fn cursors_sort_by_instant_first() {
        let at = |due_ms, window, shard, partition| DueCursor { due_ms, window, shard, partition };
        let ascending = [
            at(i64::MIN, 9, 9, 9),
            at(-1, 0, 0, 0),
            at(0, 1, 2, 0),
            at(0, 2, 0, 0),
            at(0, 2, 0, 1),
            at(0, 2, 0, 256),
            at(0, 2, 1, 0),
        ];
        assert!(ascending.is_sorted());
        assert!(ascending.map(DueCursor::to_key).is_sorted());
        assert_eq!(ascending.map(|c| DueCursor::from_key(&c.to_key())), ascending.map(Some));
    }

    #[test]
    fn damaged_packs_are_refused() {
        let key = DueCursor { due_ms: 0, window: 0, shard: 0, partition: 0 }.to_key();
        for value in [&[][..], &[9], &[0, 0x80], &[1, 5, 1, b'a'], &[1, 0, 9, b'a']] {
            assert!(DuePack::decode(&key, value).is_err(), "{value:?}");
        }
        assert!(DuePack::decode(&key[1..], &[0]).is_err());
    }
}
