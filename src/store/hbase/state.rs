//! What stands in a profile's state cell.
//!
//! In: a packed profile, and whether its tag cells were written with it. Out: one byte, then the
//! profile; and back. Invariant: a mark costs no cell of its own, since HBase's cost is per cell.

use crate::store::{Result, StoreError};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State<'a> {
    /// Tag cells were left out on purpose: those that are there say nothing.
    pub(super) cells_left_out: bool,
    /// The packed profile.
    pub(super) profile: &'a [u8],
}

impl<'a> State<'a> {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.profile.len() + 1);
        value.push(u8::from(self.cells_left_out));
        value.extend_from_slice(self.profile);
        value
    }

    pub(super) fn decode(value: &'a [u8]) -> Result<Self> {
        match value.split_first() {
            Some((mark @ (0 | 1), profile)) => Ok(Self { cells_left_out: *mark == 1, profile }),
            _ => Err(StoreError::Corrupt {
                what: "the state cell of a profile".to_owned(),
                remedy:
                    "use the tagloom that wrote it, or delete the row in the HBase shell and run \
                         again over the sources"
                        .to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back() {
        for cells_left_out in [false, true] {
            for profile in [&b""[..], b"\x01x"] {
                let state = State { cells_left_out, profile };
                let value = state.encode();
                assert_eq!(State::decode(&value).ok(), Some(state));
            }
        }
        assert!(State::decode(b"").is_err() && State::decode(&[2, 1]).is_err());
    }
}
