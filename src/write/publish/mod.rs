//! What tagloom tells others: a topic of changes, and a topic of rejects.
//!
//! In: profiles of a window that is stored, rejects of one that is about to be. Out: records, each
//! user's in the order of its versions, acknowledged by the topic before offsets are committed.
//!
//! | file | what |
//! |---|---|
//! | `outbox.rs` | what a profile says of its own changes |
//! | `pending.rs` | whose changes may not be published yet; sending them again after a crash |
//! | `record.rs` | changes and rejects as records |
//! | `windows.rs` | what is published of each window, in which order |
//! | `kafka.rs` | the topic |
//!
//! A window goes this way: its rejects are published; then the store gets the names of the users whose
//! tags it changes (with the profiles, or, where a window is not written as a whole, before them),
//! then the profiles, each with its changes; then the changes are published; then offsets are
//! committed. Wherever a process dies, what is left is read from the store by the next one and sent
//! again before it does anything else:
//!
//! | it died | then |
//! |---|---|
//! | before the profiles | nothing was told but rejects, which are refused again: they have one key |
//! | between profiles | those that are there are published; the others are made by the replay |
//! | before all was acknowledged | all of it is published again: same uid, same version, same content |
//!
//! Invariant: what is published stands in the store. A record of a uid and version never has two
//! contents.

pub mod kafka;
pub mod outbox;
pub mod pending;
pub mod record;
pub mod windows;

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::EngineError;
use crate::engine::ruleset::Ruleset;
use crate::store::{Store, Uid, UidKey};
use crate::user::snapshot::decode_tags;
use crate::write::profile::{ProfileError, Schemas};

pub use record::Record;

/// Says whether to go on waiting.
pub type GoesOn<'a> = &'a dyn Fn() -> bool;

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The topic does not take a record, and would not later.
    #[error(
        "topic `{topic}` does not take what is published ({reason}); nothing is lost: correct the \
         topic or its permissions, and the next start goes on with it"
    )]
    Refused {
        /// Where to.
        topic: String,
        /// The broker's words.
        reason: String,
    },
    /// Whoever waited for the topic stopped waiting.
    #[error(
        "topic `{topic}` did not acknowledge what was published in time; nothing is lost: the next \
         start publishes it again"
    )]
    NotAcknowledged {
        /// Where to.
        topic: String,
    },
}

/// A topic, as those who publish see it.
pub trait Sink: Send + Sync {
    /// Takes a record. Waits while there is no room for it, as long as `goes_on` holds.
    fn send(&self, record: Record, goes_on: GoesOn<'_>) -> Result<(), PublishError>;

    /// Waits until all that was sent is acknowledged, as long as `goes_on` holds.
    fn flush(&self, goes_on: GoesOn<'_>) -> Result<(), PublishError>;
}

/// Where to publish what; nothing by default.
#[derive(Clone, Default)]
pub struct Publish {
    /// Changes of tags.
    pub changes: Option<Arc<dyn Sink>>,
    /// Rows that were refused.
    pub rejects: Option<Arc<dyn Sink>>,
}

/// What reading changes from profiles needs.
pub struct Reader<'a> {
    /// Names tags and labels.
    pub ruleset: &'a Ruleset,
    /// How profiles are read.
    pub schemas: &'a Schemas,
    /// Where schemas are.
    pub store: &'a dyn Store,
}

impl Reader<'_> {
    /// Sends the changes that a window wrote into a profile. Returns how many.
    fn send(
        &self,
        window: u64,
        key: &UidKey,
        profile: &[u8],
        sink: &dyn Sink,
        goes_on: GoesOn<'_>,
    ) -> Result<u64, EngineError> {
        let tags = decode_tags(profile).map_err(ProfileError::from)?;
        let (_, outbox) = tags.applied().map_err(ProfileError::from)?;
        let outbox = outbox::Outbox::decode(outbox).map_err(ProfileError::from)?;
        let Some(outbox) = outbox.filter(|outbox| outbox.window == window) else {
            return Ok(0);
        };
        // A key that is no uid was written by nobody: the store's identity guards its type.
        let Ok(uid) = Uid::from_key(self.ruleset.catalog.uid, key) else { return Ok(0) };
        let schema = self.schemas.get(tags.head.schema, self.ruleset, self.store)?;
        let uid = uid.to_string();
        let changes = outbox::changes(&tags, outbox, &schema, self.ruleset);
        for change in &changes {
            sink.send(record::of_change(&uid, change), goes_on)?;
        }
        Ok(changes.len() as u64)
    }
}

/// Keeps what is published: for tests, and for looking at.
#[derive(Debug, Default)]
pub struct MemorySink(Mutex<Vec<Record>>);

impl MemorySink {
    /// Everything that was published so far.
    pub fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for MemorySink {
    fn send(&self, record: Record, _: GoesOn<'_>) -> Result<(), PublishError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        Ok(())
    }

    fn flush(&self, _: GoesOn<'_>) -> Result<(), PublishError> {
        Ok(())
    }
}
