//! Which partition a key belongs in.
//!
//! In: a record's key, a number of partitions. Out: what Kafka's own producer decides (murmur2), so that
//! a topic filled by `relay` and topics whose producers key by uid have a user in partitions of one
//! number; and what other producers decide, for topics that they fill.
//! Invariant: pure; never changes, since users are where it put them.

use serde::{Deserialize, Serialize};

use crate::store::Uid;

/// How producers choose the partition of a record whose key is the uid's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// As Java's clients do, and `tagloom relay`.
    #[default]
    Murmur2,
    /// As librdkafka's clients do if they are not told otherwise (`consistent`).
    Crc32,
    /// In another way, or by another key.
    None,
}

impl Partitioner {
    /// The partition of a user; none: it cannot be known.
    pub fn of(self, uid: &Uid, partitions: u32) -> Option<u32> {
        match (self, uid) {
            (Self::Murmur2, Uid::U64(uid)) => Some(partition_of_number(*uid, partitions)),
            (Self::Murmur2, Uid::Str(uid)) => Some(partition_of(uid.as_bytes(), partitions)),
            (Self::Crc32, uid) => {
                let mut crc = flate2::Crc::new();
                crc.update(uid.to_string().as_bytes());
                Some(crc.sum() % partitions.max(1))
            }
            (Self::None, _) => None,
        }
    }
}

impl std::fmt::Display for Partitioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Murmur2 => "murmur2",
            Self::Crc32 => "crc32",
            Self::None => "none",
        })
    }
}

/// The seed of Kafka's murmur2.
const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// The partition of a key, as `org.apache.kafka.clients.producer` gives it
/// (`Utils.toPositive(Utils.murmur2(key)) % partitions`). `partitions`: at least 1.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// The same for a numeric uid, whose key is its decimal digits.
pub fn partition_of_number(uid: u64, partitions: u32) -> u32 {
    let (mut digits, mut at, mut rest) = ([0_u8; 20], 20, uid);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            return partition_of(&digits[at..], partitions);
        }
    }
}

/// Austin Appleby's murmur2 as Kafka has it
/// (`clients/src/main/java/org/apache/kafka/common/utils/Utils.java`).
fn murmur2(key: &[u8]) -> u32 {
    // Kafka's arrays are no longer than an `int` can say.
    let mut h = SEED ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let bytes = rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        h = (h ^ bytes).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn it_is_the_hash_that_kafka_s_producers_use() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    /// CRC-32 of zlib, which librdkafka uses; `123456789` is its usual check (0xcbf43926).
    #[test]
    fn each_partitioner_knows_a_user_by_the_text_of_its_uid() {
        let (number, text) = (Uid::U64(123_456_789), Uid::Str("123456789".into()));
        for uid in [&number, &text] {
            assert_eq!(Partitioner::Crc32.of(uid, u32::MAX), Some(0xcbf4_3926));
            assert_eq!(Partitioner::Murmur2.of(uid, 12), Some(partition_of(b"123456789", 12)));
            assert_eq!(Partitioner::None.of(uid, 12), None);
        }
    }

    #[test]
    fn a_number_stands_where_its_digits_do() {
        for uid in [0, 7, 10, 17_850, u64::MAX] {
            let digits = uid.to_string();
            assert_eq!(partition_of_number(uid, 12), partition_of(digits.as_bytes(), 12), "{uid}");
        }
        let used: std::collections::BTreeSet<u32> =
            (0..1_000).map(|uid| partition_of_number(uid, 12)).collect();
        assert_eq!(used.len(), 12);
    }
}
