//! How rows of tables are looked up: bounds, and topics that keep tables.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::feed::Feed;
use super::follow::TopicReader;

/// Bounds of looking rows up, and where topics that keep tables are read.
#[derive(Debug, Clone)]
pub struct Lookups {
    /// `dimensions.cache_bytes_max`: bytes of rows kept for each table.
    pub cache_bytes_max: u64,
    /// `dimensions.direct_rows_per_s_max`: rows that `direct` dimensions read a second, of all
    /// tables together.
    pub direct_rows_per_s_max: NonZeroU32,
    /// `dimensions.upsert_rows_per_s_max`: records of topics that are written into stored tables a
    /// second, of all tables together.
    pub upsert_rows_per_s_max: NonZeroU32,
    /// Topics that keep tables.
    pub feeds: Feeds,
}

impl Default for Lookups {
    fn default() -> Self {
        let direct_rows_per_s_max = NonZeroU32::new(100_000).unwrap_or(NonZeroU32::MIN);
        let upsert_rows_per_s_max = NonZeroU32::new(20_000).unwrap_or(NonZeroU32::MIN);
        let (cache_bytes_max, feeds) = (64 << 20, Feeds::default());
        Self { cache_bytes_max, direct_rows_per_s_max, upsert_rows_per_s_max, feeds }
    }
}

/// Reads topics that keep tables.
pub trait OpenFeed: Send + Sync {
    /// The table as a topic keeps it, read to the topic's end if that does not take too long. Asked
    /// for the same topic again, the same one. The error says why it cannot be read and what to do.
    fn open(&self, topic: &str) -> Result<Arc<Feed>, String>;

    /// A reader of a topic that keeps a stored table, of its own position.
    fn reader(&self, topic: &str) -> Result<Box<dyn TopicReader>, String>;
}

/// Where topics that keep tables are read; none: nobody reads topics here, and such a table is looked
/// for in the store, where cases put theirs.
#[derive(Clone, Default)]
pub struct Feeds(Option<Arc<dyn OpenFeed>>);

impl Feeds {
    /// Read by this.
    pub fn by(open: Arc<dyn OpenFeed>) -> Self {
        Self(Some(open))
    }

    /// Whether topics are read.
    pub fn are_read(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn open(&self, topic: &str) -> Option<Result<Arc<Feed>, String>> {
        self.0.as_ref().map(|open| open.open(topic))
    }

    pub(super) fn reader(&self, topic: &str) -> Result<Box<dyn TopicReader>, String> {
        match &self.0 {
            Some(open) => open.reader(topic),
            None => Err("nobody reads topics here".to_owned()),
        }
    }
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Feeds").field(&self.are_read()).finish()
    }
}
