//! All profiles in the order of their uids, whatever the store's own order is.
//!
//! In: a store. Out: pages of profiles. A store whose scans are in that order is scanned. Of another
//! one all keys are read and sorted first (8 bytes a user for numbers, the text and 24 bytes for
//! strings), then profiles are read by key.
//! Invariant: profiles in memory are those of one page.

use super::{Bytes, Result, Store, UidKey};
use crate::catalog::model::UidType;

/// Keys read at once.
const KEYS_MAX: usize = 100_000;

/// See the module.
pub struct SortedProfiles<'a> {
    store: &'a dyn Store,
    page_users: usize,
    place: Place,
}

enum Place {
    /// Behind this user of the store's own order.
    Scan(Option<UidKey>),
    /// What is left, greatest first.
    Numbers(Vec<u64>),
    /// The same, of strings.
    Texts(Vec<UidKey>),
}

impl<'a> SortedProfiles<'a> {
    /// All profiles, so many at once.
    pub fn new(store: &'a dyn Store, page_users: usize) -> Result<Self> {
        let place = if store.scans_in_uid_order() { Place::Scan(None) } else { sorted(store)? };
        Ok(Self { store, page_users, place })
    }

    /// The next ones; empty at the end.
    pub fn next_page(&mut self) -> Result<Vec<(UidKey, Bytes)>> {
        loop {
            let keys: Vec<UidKey> = match &mut self.place {
                Place::Scan(after) => {
                    let rows = self.store.scan_profiles(after.as_ref(), self.page_users)?;
                    if let Some((last, _)) = rows.last() {
                        *after = Some(last.clone());
                    }
                    return Ok(rows);
                }
                Place::Numbers(left) => {
                    let at = left.len().saturating_sub(self.page_users);
                    left.drain(at..).rev().map(UidKey::from_u64).collect()
                }
                Place::Texts(left) => {
                    let at = left.len().saturating_sub(self.page_users);
                    left.drain(at..).rev().collect()
                }
            };
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let profiles = self.store.profiles(&keys)?;
            // Somebody may have been removed since keys were read.
            let rows = keys.into_iter().zip(profiles);
            let rows: Vec<_> = rows.filter_map(|(key, found)| Some((key, found?))).collect();
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }
}

fn sorted(store: &dyn Store) -> Result<Place> {
    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
    let mut after: Option<UidKey> = None;
    loop {
        let keys = store.scan_uids(after.as_ref(), KEYS_MAX)?;
        let Some(last) = keys.last() else { break };
        after = Some(last.clone());
        match store.identity().uid {
            UidType::U64 => numbers.extend(keys.iter().filter_map(UidKey::as_u64)),
            UidType::String => texts.extend(keys),
        }
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    texts.sort_unstable_by(|a, b| b.cmp(a));
    Ok(if texts.is_empty() { Place::Numbers(numbers) } else { Place::Texts(texts) })
}
