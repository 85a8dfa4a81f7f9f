//! Codes of closed tags in as few bits as their labels need.
//!
//! In: a code for each closed tag. Out: bytes, in which each code has 1, 2, 4 or 8 bits; and back.
//! Profiles hold hundreds of tags of a few labels each: packed they take a third of the memory, of
//! the disk and of the time to compare and to copy.
//! Invariant: equal codes give equal bytes, and the other way round.

use super::kernels::wide::wide;
use serde::{Deserialize, Serialize};

/// Below so many rows a loop is over before wider registers pay.
const FEW_ROWS: usize = 16;

/// Where one tag's code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    byte: usize,
    shift: u8,
    mask: u8,
}

/// How the codes of a list of closed tags are packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedCodes {
    /// By closed tag.
    places: Vec<Place>,
    /// The tags of each byte, lowest bits first.
    bytes: Vec<Vec<usize>>,
}

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub enum CodeBits {
    /// 0 or 1.
    One,
    /// Up to 3.
    Two,
    /// Up to 15.
    Four,
    /// Any.
    Eight,
}

impl CodeBits {
    /// What codes up to this one need.
    pub fn of_greatest(code: u8) -> Self {
        match code {
            0..=1 => Self::One,
            2..=3 => Self::Two,
            4..=15 => Self::Four,
            _ => Self::Eight,
        }
    }
}

impl From<CodeBits> for u8 {
    fn from(bits: CodeBits) -> Self {
        match bits {
            CodeBits::One => 1,
            CodeBits::Two => 2,
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }
}

impl From<u8> for CodeBits {
    fn from(bits: u8) -> Self {
        match bits {
            0..=1 => Self::One,
            2 => Self::Two,
            3..=4 => Self::Four,
            _ => Self::Eight,
        }
    }
}

impl PackedCodes {
    /// Tags of one width share bytes, in their order.
    pub fn new(bits: &[CodeBits]) -> Self {
        let mut packed = Self {
            places: vec![Place { byte: 0, shift: 0, mask: 0 }; bits.len()],
            bytes: Vec::new(),
        };
        for width in [CodeBits::Eight, CodeBits::Four, CodeBits::Two, CodeBits::One] {
            let tags: Vec<usize> = (0..bits.len()).filter(|t| bits[*t] == width).collect();
            let width = u8::from(width);
            for tags in tags.chunks(usize::from(8 / width)) {
                let mask = u8::MAX >> (8 - width);
                let mut shift = 0;
                for tag in tags {
                    self::place(&mut packed, *tag, shift, mask);
                    shift += width;
                }
                packed.bytes.push(tags.to_vec());
            }
        }
        packed
    }

    /// Closed tags.
    pub fn tags(&self) -> usize {
        self.places.len()
    }

    /// Bytes of one user's codes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The code of a tag; 0 (no value) where the bytes end before it.
    #[inline]
    pub fn get(&self, packed: &[u8], tag: usize) -> u8 {
        let place = self.places[tag];
        packed.get(place.byte).map_or(0, |byte| byte >> place.shift & place.mask)
    }

    /// All codes.
    pub fn unpack(&self, packed: &[u8]) -> Box<[u8]> {
        (0..self.places.len()).map(|tag| self.get(packed, tag)).collect()
    }

    /// Packs codes; what a code has beyond its bits is cut off.
    pub fn pack(&self, codes: &[u8]) -> Box<[u8]> {
        let mut out = vec![0; self.bytes.len()];
        for (place, code) in self.places.iter().zip(codes) {
            out[place.byte] |= (code & place.mask) << place.shift;
        }
        out.into()
    }

    /// Calls `changed` with each tag whose code differs.
    pub fn for_each_change(&self, old: &[u8], new: &[u8], mut changed: impl FnMut(usize)) {
        for (at, tags) in self.bytes.iter().enumerate() {
            let both = (old.get(at).copied().unwrap_or(0), new.get(at).copied().unwrap_or(0));
            if both.0 != both.1 {
                let differs = |t: &&usize| {
                    let place = self.places[**t];
                    (both.0 ^ both.1) >> place.shift & place.mask != 0
                };
                tags.iter().filter(differs).for_each(|t| changed(*t));
            }
        }
    }

    /// Packs codes by tag (`stride` bytes from one to the next) into bytes by tag, for `rows` rows.
    pub(super) fn pack_columns(&self, codes: &[u8], stride: usize, rows: usize, to: &mut Vec<u8>) {
        to.resize(self.bytes.len() * stride, 0);
        if rows < FEW_ROWS {
            to.fill(0);
            for (place, codes) in self.places.iter().zip(codes.chunks_exact(stride.max(1))) {
                let to = &mut to[place.byte * stride..place.byte * stride + rows];
                to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << place.shift);
            }
            return;
        }
        for (tags, to) in self.bytes.iter().zip(to.chunks_exact_mut(stride.max(1))) {
            let column = |tag: usize| &codes[tag * stride..tag * stride + rows];
            let to = &mut to[..rows];
            to.copy_from_slice(column(tags[0]));
            for tag in &tags[1..] {
                join(to, column(*tag), self.places[*tag].shift);
            }
        }
    }
}

fn place(packed: &mut PackedCodes, tag: usize, shift: u8, mask: u8) {
    packed.places[tag] = Place { byte: packed.bytes.len(), shift, mask };
}

wide! {
    fn join(to: &mut [u8], codes: &[u8], shift: u8) {
        // A shift known to the compiler is one instruction for many bytes.
        match shift {
            1 => to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << 1),
            2 => to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << 2),
            4 => to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << 4),
            6 => to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << 6),
            _ => to.iter_mut().zip(codes).for_each(|(to, code)| *to |= code << (shift & 7)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_tags() -> impl Strategy<Value = Vec<(CodeBits, u8)>> {
        let tag = (any::<u8>(), any::<u8>()).prop_map(|(greatest, code)| {
            let bits = CodeBits::of_greatest(greatest >> (greatest % 8));
            (bits, code & (u8::MAX >> (8 - u8::from(bits))))
        });
        proptest::collection::vec(tag, 0..80)
    }

    proptest! {
        #[test]
        fn codes_come_back_from_bytes(tags in some_tags(), others in some_tags()) {
            let (bits, codes): (Vec<CodeBits>, Vec<u8>) = tags.into_iter().unzip();
            let layout = PackedCodes::new(&bits);
            let packed = layout.pack(&codes);
            prop_assert_eq!(packed.len(), layout.bytes());
            prop_assert_eq!(&*layout.unpack(&packed), codes.as_slice());
            let other: Vec<u8> = codes
                .iter()
                .zip(&bits)
                .enumerate()
                .map(|(at, (code, bits))| {
                    let new = others.get(at).map_or(*code, |o| o.1);
                    new & (u8::MAX >> (8 - u8::from(*bits)))
                })
                .collect();
            let mut changed = Vec::new();
            layout.for_each_change(&packed, &layout.pack(&other), |tag| changed.push(tag));
            changed.sort_unstable();
            let expect: Vec<usize> = (0..codes.len()).filter(|t| codes[*t] != other[*t]).collect();
            prop_assert_eq!(changed, expect);
            // Few rows and many rows go different ways.
            for (rows, stride) in [(2, 8), (18, 24)] {
                let of_row = |row: usize| if row.is_multiple_of(2) { &codes } else { &other };
                let code = |tag: usize, row: usize| of_row(row)[tag];
                let by_tag: Vec<u8> = (0..codes.len())
                    .flat_map(|tag| (0..stride).map(move |row| (tag, row)))
                    .map(|(tag, row)| if row < rows { code(tag, row) } else { 0 })
                    .collect();
                let mut columns = Vec::new();
                layout.pack_columns(&by_tag, stride, rows, &mut columns);
                for row in 0..rows {
                    let got: Vec<u8> = columns.iter().copied().skip(row).step_by(stride).collect();
                    prop_assert_eq!(got, layout.pack(of_row(row)).to_vec());
                }
            }
        }
    }
}
