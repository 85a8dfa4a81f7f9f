//! What a store was written with, and whether it fits what it is opened with.
//!
//! In: the stored header and the settings of this start. Out: agreement, or an error that says what
//! to do. Invariant: a store's identity never changes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Result, StoreError};
use crate::catalog::model::UidType;

/// The format this program writes. Raised whenever older programs could not read it.
pub const FORMAT_VERSION: u32 = 1;

/// Where `as_of` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockMode {
    /// The machine's clock.
    Wall,
    /// An instant given by the user.
    Fixed,
    /// The greatest accepted event time.
    Event,
}

/// What a store is for. Recorded at its first opening, compared at every later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The type of its keys.
    pub uid: UidType,
    /// The business timezone's IANA name.
    pub timezone: String,
    /// Where its `as_of` comes from.
    pub clock: ClockMode,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Identity {
    pub(super) fn to_header(&self) -> Vec<u8> {
        let header = Header { format: FORMAT_VERSION, identity: self.clone() };
        serde_json::to_vec(&header).expect("strings and numbers are always JSON")
    }

    pub(super) fn from_header(path: &Path, header: &[u8]) -> Result<Self> {
        let damaged = |_| StoreError::Corrupt {
            what: format!("the header of the store {}", path.display()),
            remedy: "restore it from a snapshot, or set store.path to a new directory and run \
                     again over the sources"
                .to_owned(),
        };
        let FormatOnly { format } = serde_json::from_slice(header).map_err(damaged)?;
        if format > FORMAT_VERSION {
            return Err(StoreError::NewerFormat {
                path: path.to_owned(),
                stored: format.to_string(),
                known: FORMAT_VERSION,
            });
        }
        let header: Header = serde_json::from_slice(header).map_err(damaged)?;
        Ok(header.identity)
    }

    /// Compares what is stored with what is given.
    pub(super) fn check(&self, path: &Path, given: &Self) -> Result<()> {
        let mismatch = |what, stored: String, given: String, remedy| {
            let path = path.to_owned();
            Err(StoreError::Mismatch { path, what, stored, given, remedy })
        };
        if self.uid != given.uid {
            return mismatch(
                "uid type",
                name(&self.uid),
                name(&given.uid),
                "set `uid:` of catalog.yaml back, or begin a new store (store.path, store.hbase.prefix)",
            );
        }
        if self.timezone != given.timezone {
            return mismatch(
                "timezone",
                self.timezone.clone(),
                given.timezone.clone(),
                "days would begin elsewhere: set `timezone:` of catalog.yaml back, or begin a new \
                 store (store.path, store.hbase.prefix)",
            );
        }
        if self.clock != given.clock {
            return mismatch(
                "clock.mode",
                name(&self.clock),
                name(&given.clock),
                "set clock.mode back, or begin a new store (store.path, store.hbase.prefix)",
            );
        }
        Ok(())
    }
}

/// An enum's name as config and header write it.
fn name<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
