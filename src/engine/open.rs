//! Opening the files that an engine reads, each where it was left.
//!
//! In: the files of a run, positions in the store. Out: sources with their decoders.
//! Invariant: nothing is read but what a format needs to be known.

use std::sync::Arc;

use super::EngineError;
use super::feed::decoders;
use super::options::Options;
use super::slices::Round;
use super::start::read_meta;
use crate::event::Decoder;
use crate::event::quarantine::Quarantine;
use crate::source::file::{FileSource, FileSpec, SourceError};
use crate::source::position::{Position, meta_key, source_name};
use crate::user::texts::Texts;

/// All sources, each with the decoders it has besides its own.
pub(super) fn open_sources(
    options: &Options,
    round: Option<&Round>,
    texts: &Arc<Texts>,
    quarantine: &Arc<Quarantine>,
) -> Result<Vec<(FileSource, Vec<Decoder>)>, EngineError> {
    let ruleset = &options.ruleset;
    let catalog = &ruleset.catalog;
    let (shards, limits) = (options.shards, round.map_or(options.read, |round| round.read));
    let specs = by_position(options, round)?;
    // What became active since the round began has not seen it, of no user.
    let of_round = round.map(|round| Arc::new(ruleset.layout.known_in(round.version)));
    let layout = of_round.as_ref().unwrap_or(&ruleset.layout);
    let decoders = decoders(specs.len());
    let open = |(spec, resume, borders)| {
        let mine = || Arc::clone(texts);
        let source = FileSource::open(spec, catalog, layout, mine(), shards, limits, resume)?;
        let source = source.with_quarantine(Arc::clone(quarantine));
        let source = source.with_offsets(!options.store.is_atomic()).with_borders(borders);
        let another = |_| source.recipe().decoder(catalog, layout);
        let others = (1..decoders).map(another).collect::<Result<_, SourceError>>()?;
        Ok((source, others))
    };
    specs.into_iter().map(open).collect()
}

/// A file, where it is gone on with, and where blocks of a round end that is not over.
type Resumed = (FileSpec, Option<Position>, Vec<u64>);

/// The files to read, each split by how far its streams are: a stream that was added to a file later
/// reads it from its start.
fn by_position(options: &Options, round: Option<&Round>) -> Result<Vec<Resumed>, EngineError> {
    let mut specs: Vec<Resumed> = Vec::new();
    for spec in &options.sources {
        let first = specs.len();
        for stream in &spec.streams {
            let name = source_name(&options.ruleset.catalog.streams[*stream].name, &spec.path);
            let position = read_meta(options.store.as_ref(), &meta_key(&name))?;
            let borders = round.map(|round| round.borders(&name)).unwrap_or_default();
            match specs[first..].iter_mut().find(|s| s.1 == position && s.2 == borders) {
                Some((same, ..)) => same.streams.push(*stream),
                None => {
                    let spec = FileSpec { streams: vec![*stream], ..spec.clone() };
                    specs.push((spec, position, borders));
                }
            }
        }
    }
    Ok(specs)
}
