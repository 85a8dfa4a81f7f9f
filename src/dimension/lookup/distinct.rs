//! The keys of a batch, each once.
//!
//! In: a batch's keys. Out: distinct ones, and where each row has its own. Invariant: no I/O.

use hashbrown::HashMap;

use super::super::index::by_dictionary;
use super::super::key::{KeyKind, Keys, decimal_bytes, signed_bytes, unsigned_bytes};
use crate::store::Bytes;

/// The distinct keys of a batch, and for each row the place of its key: 0 for NULL, then from 1.
#[expect(clippy::cast_possible_truncation, reason = "a batch has some thousand rows")]
pub(super) fn distinct(keys: &Keys<'_>, kind: KeyKind, len: usize) -> (Vec<Bytes>, Vec<u32>) {
    let mut distinct: Vec<Bytes> = Vec::new();
    let mut add = |bytes: Bytes| {
        distinct.push(bytes);
        distinct.len() as u32
    };
    let places = match keys {
        Keys::Numbers(at) => {
            let mut known: HashMap<u64, u32> = HashMap::new();
            let bytes = |number: u64| match kind {
                KeyKind::Signed => signed_bytes(number.cast_signed()),
                _ => unsigned_bytes(number),
            };
            let place = |number| *known.entry(number).or_insert_with(|| add(bytes(number)));
            let mut place = place;
            (0..len).map(|row| at(row).map_or(0, &mut place)).collect()
        }
        Keys::Decimals(array) => {
            let mut known: HashMap<i128, u32> = HashMap::new();
            let mut place =
                |number| *known.entry(number).or_insert_with(|| add(decimal_bytes(number)));
            array.iter().map(|value| value.map_or(0, &mut place)).collect()
        }
        Keys::Texts(array) => {
            let mut known: HashMap<&str, u32> = HashMap::new();
            let mut place = |text| place_of_text(&mut known, text, &mut add);
            array.iter().map(|value| value.map_or(0, &mut place)).collect()
        }
        Keys::Dictionary(array, values) => {
            let mut known: HashMap<Box<str>, u32> = HashMap::new();
            by_dictionary(array, values, |text| match known.get(text) {
                Some(place) => *place,
                None if text.is_empty() => 0,
                None => *known.entry(text.into()).or_insert(add(text.as_bytes().into())),
            })
        }
    };
    (distinct, places)
}

/// Empty text is nobody's key: stores take no empty ones.
fn place_of_text<'a>(
    known: &mut HashMap<&'a str, u32>,
    text: &'a str,
    add: &mut impl FnMut(Bytes) -> u32,
) -> u32 {
    if text.is_empty() {
        return 0;
    }
    *known.entry(text).or_insert_with(|| add(text.as_bytes().into()))
}
