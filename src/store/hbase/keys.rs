//! Row keys and names of tables.
//!
//! In: uids, due cursors, epochs, table names. Out: bytes as HBase sorts and shows them; and back.
//! Invariant: a key stands for one thing, and comes back as what it was made of.

use crate::catalog::model::UidType;
use crate::store::due::DueCursor;
use crate::store::{Epoch, UidKey};
use crate::user::layout::hash64;

/// A profile's row: a number's decimal digits from the last to the first, so that neighbours stand
/// apart and people can read it; a string behind two hex digits of its hash.
pub(super) fn profile_row(kind: UidType, key: &UidKey) -> Vec<u8> {
    match (kind, key.as_u64()) {
        (UidType::U64, Some(number)) => {
            let mut row = number.to_string().into_bytes();
            row.reverse();
            row
        }
        _ => {
            let hash = hash64(key.as_bytes()) & 0xff;
            let mut row = format!("{hash:02x}").into_bytes();
            row.extend_from_slice(key.as_bytes());
            row
        }
    }
}

/// Back from a row. `None`: no tagloom wrote it.
pub(super) fn uid_of(kind: UidType, row: &[u8]) -> Option<UidKey> {
    let key = match kind {
        UidType::U64 => {
            let digits: Vec<u8> = row.iter().rev().copied().collect();
            UidKey::from_u64(std::str::from_utf8(&digits).ok()?.parse().ok()?)
        }
        UidType::String => UidKey::from_bytes(row.get(2..)?)?,
    };
    (profile_row(kind, &key) == row).then_some(key)
}

/// A due pack's row: the partition, then its cursor, so that an owner's packs stand together.
pub(super) fn due_row(cursor: DueCursor) -> Vec<u8> {
    let mut row = cursor.partition.to_be_bytes().to_vec();
    row.extend_from_slice(&DueCursor { partition: 0, ..cursor }.to_key());
    row
}

/// The key that [`crate::store::DuePack`] decodes, from a row.
pub(super) fn due_key(row: &[u8]) -> Option<Vec<u8>> {
    let (partition, key) = row.split_first_chunk::<4>()?;
    let mut key = key.to_vec();
    if *partition != [0; 4] {
        key.extend_from_slice(partition);
    }
    Some(key)
}

/// What stands in a dimension table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DimPart {
    /// One row that says the epoch is there. Sorts first.
    Mark,
    /// Keys that differ from the epoch before.
    Change,
    /// The rows.
    Row,
}

/// The row of a key in an epoch.
pub(super) fn dim_row(epoch: Epoch, part: DimPart, key: &[u8]) -> Vec<u8> {
    let mut row = format!("{epoch:016x}").into_bytes();
    row.push(match part {
        DimPart::Mark => b'!',
        DimPart::Change => b'c',
        DimPart::Row => b'r',
    });
    row.extend_from_slice(key);
    row
}

/// The key of a row that [`dim_row`] made.
pub(super) fn dim_key(row: &[u8]) -> &[u8] {
    row.get(17..).unwrap_or(&[])
}

/// The least key that is greater than all that begin with `prefix`; `None`: there is none.
pub(super) fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

/// The least key behind `key`.
pub(super) fn next(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// A dimension table's name as HBase takes it: other characters than letters, digits and `_` become
/// `-` and two hex digits.
pub(super) fn dim_table(prefix: &str, table: &str) -> String {
    let mut name = format!("{prefix}dim_");
    for byte in table.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("-{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: UidType, key: &UidKey, row: &str) {
        assert_eq!(String::from_utf8_lossy(&profile_row(kind, key)), row);
        assert_eq!(uid_of(kind, row.as_bytes()).as_ref(), Some(key));
    }

    #[test]
    fn uids_become_rows_and_come_back() {
        let string = |text: &str| UidKey::from_bytes(text.as_bytes()).expect("not empty");
        check(UidType::U64, &UidKey::from_u64(0), "0");
        check(UidType::U64, &UidKey::from_u64(1200), "0021");
        check(UidType::U64, &UidKey::from_u64(u64::MAX), "51615590737044764481");
        let row = format!("{:02x}anna", hash64(b"anna") & 0xff);
        check(UidType::String, &string("anna"), &row);
        let row = format!("{:02x}12345678", hash64(b"12345678") & 0xff);
        check(UidType::String, &string("12345678"), &row);
    }

    #[test]
    fn rows_that_nobody_wrote_are_nobody() {
        for row in ["", "x1", "10", "00", "99999999999999999999999"] {
            let known = uid_of(UidType::U64, row.as_bytes());
            assert_eq!(known.is_some(), row == "10" && known == Some(UidKey::from_u64(1)), "{row}");
        }
        assert_eq!(uid_of(UidType::String, b"zzanna"), None);
        assert_eq!(uid_of(UidType::String, b"z"), None);
    }

    #[test]
    fn due_rows_stand_together_by_partition() {
        let at = |partition, due_ms, window| DueCursor { due_ms, window, shard: 1, partition };
        let ascending = [at(0, 5, 1), at(0, 7, 0), at(1, -3, 9), at(1, 2, 1), at(256, 0, 0)];
        assert!(ascending.map(due_row).is_sorted());
        let keys = ascending.map(|cursor| due_key(&due_row(cursor)));
        assert_eq!(keys, ascending.map(|cursor| Some(cursor.to_key())));
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begin_so() {
        assert_eq!(behind_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(behind_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(behind_prefix(&[0xff]), None);
        assert_eq!(behind_prefix(b""), None);
        assert_eq!(next(b"a"), b"a\0");
    }

    #[test]
    fn names_of_tables_are_what_hbase_takes() {
        assert_eq!(dim_table("t_", "city_2"), "t_dim_city_2");
        assert_eq!(dim_table("t_", "my city-x"), "t_dim_my-20city-2dx");
    }
}
