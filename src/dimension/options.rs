//! How rows of tables are looked up: bounds, and topics that keep tables.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::feed::Feed;

/// Bounds of looking rows up, and where topics that keep tables are read.
#[derive(Debug, Clone)]
pub struct Lookups {
    /// `dimensions.cache_bytes_max`: bytes of rows kept for each table.
    pub cache_bytes_max: u64,
    /// `dimensions.direct_rows_per_s_max`: rows that `direct` dimensions read a second, of all
    /// tables together.
    pub direct_rows_per_s_max: NonZeroU32,
    /// Topics of `broadcast` dimensions.
    pub feeds: Feeds,
}

impl Default for Lookups {
    fn default() -> Self {
        let direct_rows_per_s_max = NonZeroU32::new(100_000).unwrap_or(NonZeroU32::MIN);
        Self { cache_bytes_max: 64 << 20, direct_rows_per_s_max, feeds: Feeds::default() }
    }
}

/// Reads topics that keep tables.
pub trait OpenFeed: Send + Sync {
    /// The table as a topic keeps it, read to the topic's end if that does not take too long. Asked
    /// for the same topic again, the same one. The error says why it cannot be read and what to do.
    fn open(&self, topic: &str) -> Result<Arc<Feed>, String>;
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
}

impl std::fmt::Debug for Feeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Feeds").field(&self.are_read()).finish()
    }
}
