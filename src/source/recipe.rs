//! How decoders of one source are made, whatever catalogue is active.
//!
//! In: the source's streams by name, its header or columns. Out: a decoder for each thread, and again for each
//! catalogue that becomes active while the source is read. Invariant: no I/O; of a Parquet file the
//! columns that a decoder needs are read from then on.

use std::sync::Arc;

use super::file::SourceError;
use super::parquet::ParquetFile;
use crate::catalog::model::Catalog;
use crate::event::Decoder;
use crate::event::quarantine::Quarantine;
use crate::user::layout::StateLayout;
use crate::user::texts::Texts;

/// Makes decoders.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The source's name in rejects.
    pub source: String,
    /// Names of the streams it feeds.
    pub streams: Vec<String>,
    /// The columns of a CSV header.
    pub header: Option<Vec<String>>,
    /// The file, where it is Parquet.
    pub parquet: Option<Arc<ParquetFile>>,
    /// Texts of all states.
    pub texts: Arc<Texts>,
    /// Blocks are split by so many shards.
    pub shards: usize,
    /// Users whose events are refused.
    pub quarantine: Arc<Quarantine>,
    /// Shards need to know at which offset each row stands.
    pub with_offsets: bool,
}

impl Recipe {
    /// A decoder for the streams of these names; those that the catalogue does not have are left
    /// out.
    pub fn decoder(&self, catalog: &Catalog, layout: &StateLayout) -> Result<Decoder, SourceError> {
        let find = |name: &String| catalog.streams.iter().position(|s| s.name == *name);
        let streams: Vec<usize> = self.streams.iter().filter_map(find).collect();
        let texts = Arc::clone(&self.texts);
        let mut decoder =
            Decoder::new(catalog, layout, &streams, &self.source, texts, self.shards)?
                .with_quarantine(Arc::clone(&self.quarantine))
                .with_offsets(self.with_offsets);
        let read = streams.iter().flat_map(|s| &catalog.streams[*s].columns);
        let required: Vec<String> = read.filter(|c| c.required).map(|c| c.from.clone()).collect();
        if let Some(header) = &self.header {
            decoder.header(header, &required)?;
        }
        if let Some(file) = &self.parquet {
            decoder.schema(file.schema(), &required)?;
            file.want(decoder.roots())?;
        }
        Ok(decoder)
    }
}
