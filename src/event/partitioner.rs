//! Which partition a key belongs in.
//!
//! In: a record's key, a number of partitions. Out: what Kafka's own producer decides (murmur2), so that
//! a topic filled by `relay` and topics whose producers key by uid have a user in partitions of one
//! number.
//! Invariant: pure; never changes, since users are where it put them.

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
