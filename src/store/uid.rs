//! A user's key, as value and as the bytes a store sorts by.
//!
//! In: text or numbers. Out: [`Uid`] and [`UidKey`]. Invariant: keys sort as uids do, and no key is
//! empty.

use std::fmt;

use crate::catalog::model::UidType;

/// The longest string uid, in bytes of UTF-8.
pub const UID_BYTES_MAX: usize = 1024;

/// The user's key: one type per store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Uid {
    /// An unsigned 64-bit number.
    U64(u64),
    /// UTF-8 text, not empty.
    Str(Box<str>),
}

/// Text or bytes that are no uid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    /// The store's uids are numbers.
    #[error("`{0}` is no uid: this store's uids are whole numbers from 0 to {max}", max = u64::MAX)]
    NotANumber(String),
    /// The empty string is nobody.
    #[error("an empty uid names nobody")]
    Empty,
    /// A key beyond what stores accept.
    #[error("a uid of {bytes} bytes is too long: at most {UID_BYTES_MAX} bytes")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Stored bytes that are no key of this type.
    #[error("the stored key {0:02x?} is no uid of this store's type")]
    NotAKey(Vec<u8>),
}

impl Uid {
    /// Reads a uid as people write it.
    pub fn parse(kind: UidType, text: &str) -> Result<Self, UidError> {
        match kind {
            UidType::U64 => match text.parse() {
                Ok(number) => Ok(Self::U64(number)),
                Err(_) => Err(UidError::NotANumber(text.to_owned())),
            },
            UidType::String if text.is_empty() => Err(UidError::Empty),
            UidType::String if text.len() > UID_BYTES_MAX => {
                Err(UidError::TooLong { bytes: text.len() })
            }
            UidType::String => Ok(Self::Str(text.into())),
        }
    }

    /// The bytes stores sort by.
    pub fn to_key(&self) -> UidKey {
        match self {
            Self::U64(number) => UidKey::from_u64(*number),
            Self::Str(text) => UidKey(text.as_bytes().into()),
        }
    }

    /// Back from a store's key.
    pub fn from_key(kind: UidType, key: &UidKey) -> Result<Self, UidError> {
        let bad = || UidError::NotAKey(key.as_bytes().to_vec());
        match kind {
            UidType::U64 => key.as_u64().map(Self::U64).ok_or_else(bad),
            UidType::String => {
                let text = std::str::from_utf8(key.as_bytes()).map_err(|_| bad())?;
                Self::parse(kind, text)
            }
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U64(number) => number.fmt(f),
            Self::Str(text) => text.fmt(f),
        }
    }
}

/// A uid as the bytes a store sorts by: numbers as 8 bytes big-endian, strings as their UTF-8.
/// Numbers and short strings need no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UidKey(pub(super) ::fjall::Slice);

impl UidKey {
    /// The key of a numeric uid.
    pub fn from_u64(uid: u64) -> Self {
        Self(uid.to_be_bytes().into())
    }

    /// The key of bytes that were a key before, for example in a dimension's row. `None` when they
    /// are empty or too long to be one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= UID_BYTES_MAX).then(|| Self(bytes.into()))
    }

    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The numeric uid, when this is the key of one (or of a string of 8 bytes).
    pub fn as_u64(&self) -> Option<u64> {
        self.as_bytes().try_into().ok().map(u64::from_be_bytes)
    }
}

impl PartialOrd for UidKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UidKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        super::order(self.as_bytes(), other.as_bytes())
    }
}

impl std::borrow::Borrow<[u8]> for UidKey {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for UidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UidKey({:02x?})", self.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: UidType, text: &str, expect: Result<&[u8], UidError>) {
        let got = Uid::parse(kind, text);
        match (got, expect) {
            (Ok(uid), Ok(bytes)) => {
                let key = uid.to_key();
                assert_eq!(key.as_bytes(), bytes);
                assert_eq!(Uid::from_key(kind, &key), Ok(uid.clone()));
                assert_eq!(uid.to_string(), text);
            }
            (got, expect) => assert_eq!(got.err(), expect.err()),
        }
    }

    #[test]
    fn uids_become_keys_and_come_back() {
        check(UidType::U64, "0", Ok(&[0; 8]));
        check(UidType::U64, "258", Ok(&[0, 0, 0, 0, 0, 0, 1, 2]));
        check(UidType::U64, "18446744073709551615", Ok(&[0xff; 8]));
        check(UidType::String, "anna", Ok(b"anna"));
        check(UidType::String, "é", Ok("é".as_bytes()));
    }

    #[test]
    fn what_is_no_uid_says_why() {
        let number = |text: &str| Err(UidError::NotANumber(text.to_owned()));
        check(UidType::U64, "-1", number("-1"));
        check(UidType::U64, "", number(""));
        check(UidType::U64, "1.5", number("1.5"));
        check(UidType::String, "", Err(UidError::Empty));
        check(UidType::String, &"x".repeat(2000), Err(UidError::TooLong { bytes: 2000 }));
    }

    #[test]
    fn keys_sort_as_uids_do() {
        let mut numbers: Vec<Uid> = [300, 2, 255, u64::MAX, 256].map(Uid::U64).into();
        numbers.sort_by_key(Uid::to_key);
        assert_eq!(numbers, [2, 255, 256, 300, u64::MAX].map(Uid::U64));
    }
}
