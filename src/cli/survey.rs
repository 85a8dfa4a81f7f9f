//! Questions about all users of a store, asked with catalogues of the asker's own.
//!
//! In: a store and a [`SurveyRequest`]. Out: JSON, the same whether this process has the store open
//! or the one that was asked over the local socket.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Failure, desk, open};
use crate::catalog::select::Selection;
use crate::engine::version::for_reading;
use crate::serve::expect;
use crate::serve::local::SurveyRequest;
use crate::serve::read::Reader;
use crate::serve::survey::{Sample, Survey};
use crate::store::Store;

/// Answers one.
pub(super) fn answer(
    store: &Arc<dyn Store>,
    as_of: Option<&str>,
    request: &SurveyRequest,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    match request {
        SurveyRequest::Expect { catalog, select } => {
            let reader = reader(store, catalog)?;
            let of = &reader.ruleset().catalog;
            let selection = Selection::parse(select, of).map_err(Failure::input)?;
            let survey = survey(store, &reader, as_of, Sample::All)?;
            let report = expect::check(&reader, &survey, &selection, progress);
            desk::json(&report.map_err(desk::read_failure)?)
        }
    }
}

fn survey<'a>(
    store: &'a Arc<dyn Store>,
    reader: &Reader,
    as_of: Option<&str>,
    sample: Sample,
) -> Result<Survey<'a>, Failure> {
    let zone = &reader.ruleset().catalog.zone;
    let as_of_ms = as_of.map(|text| open::instant(text, zone)).transpose()?;
    Ok(Survey { store: store.as_ref(), sample, as_of_ms })
}

/// A reader by a catalogue that need not be the one the store was written with. Tags without an id
/// are as good as others here: nothing is written.
fn reader(store: &Arc<dyn Store>, dir: &Path) -> Result<Reader, Failure> {
    let loaded = open::catalog(dir)?;
    let catalog = &loaded.catalog;
    let identity = store.identity();
    if identity.uid != catalog.uid || identity.timezone != catalog.zone.name() {
        return Err(Failure::Input(format!(
            "{}: uid or timezone are not those of the store (days of {}): use the catalogue it was \
             written with, or a changed copy of it",
            dir.display(),
            identity.timezone
        )));
    }
    let ruleset = for_reading(store.as_ref(), loaded).map_err(open::version_failure)?;
    let ruleset = Arc::new(ruleset);
    let now: crate::dimension::Now = Arc::new(crate::clock::wall_ms);
    Reader::open(ruleset, Arc::clone(store), now).map_err(desk::read_failure)
}
