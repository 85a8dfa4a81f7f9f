//! `features/*.yaml`: named aggregates over spans.
//!
//! In: documents, the streams. Out: [`Feature`]s, matrix expanded, with typed values and filters.
//! Invariant: each name is claimed in the namespace shared by features, dimension columns and tags.

use super::aggregate::aggregate;
use super::build::Build;
use super::expression::Typer;
use super::fields::{Fields, suggest};
use super::matrix::{Binding, Matrix};
use super::model::{Feature, Span};
use super::place::{Diagnostics, Place};
use super::report::Origin;
use super::scalar;
use super::settings::check;
use super::stream::StreamScope;
use super::yaml::{Node, Text};
use crate::rule::sql::ScopeKind;

/// The keys of one document.
struct Written<'a> {
    name: Option<&'a Text>,
    doc: Option<&'a Text>,
    stream: Option<&'a Text>,
    value: Option<&'a Text>,
    filter: Option<&'a Text>,
    window: Option<&'a Text>,
    offset: Option<&'a Text>,
}

/// Reads one document and adds its features to `build`.
pub(super) fn read(node: &Node, build: &mut Build<'_>) {
    let item = build.next_item();
    let bare = Origin { item, expansion: None };
    let read = build.reports.on(&bare, |out| {
        let mut fields = Fields::open(node, "a feature", out)?;
        let written = Written {
            name: fields.need_text("feature", out),
            doc: fields.text("doc", out),
            stream: fields.need_text("stream", out),
            value: fields.need_text("value", out),
            filter: fields.text("where", out),
            window: fields.need_text("window", out),
            offset: fields.text("offset", out),
        };
        let matrix = Matrix::read(&mut fields, written.name, out);
        fields.finish(out);
        let bindings = matrix.bindings(out);
        Some((written, bindings, !matrix.is_empty()))
    });
    let Some((written, bindings, expanded)) = read else {
        build.reach.incomplete = true;
        return;
    };
    let Some(name) = written.name else {
        build.reach.incomplete = true;
        return;
    };
    for binding in bindings {
        let origin = Origin::of(item, expanded, &binding, name);
        expand(&written, name, &binding, &origin, build);
    }
}

fn expand(
    written: &Written<'_>,
    name: &Text,
    binding: &Binding<'_>,
    origin: &Origin,
    build: &mut Build<'_>,
) {
    let mut reports = std::mem::take(&mut build.reports);
    let (full, feature) = reports.on(origin, |out| {
        let (full, good) = build.claim_expanded(binding, name, "a feature", out);
        let feature = typed(written, &full, name.place, binding, build, out);
        (full, feature.filter(|_| good))
    });
    build.reports = reports;
    match feature {
        Some(feature) => {
            build.reach.add(&feature.name, feature.data_type.clone());
            build.features.push(feature);
        }
        None => build.reach.add_broken(&full),
    }
}

fn typed(
    written: &Written<'_>,
    name: &str,
    place: Place,
    binding: &Binding<'_>,
    build: &Build<'_>,
    out: &mut Diagnostics,
) -> Option<Feature> {
    let doc = written.doc.map_or(String::new(), |t| binding.prose(t, out));
    let span = written.window.and_then(|window| span(window, written.offset, binding, out));
    let stream = written.stream.and_then(|text| find_stream(text, binding, build, out));
    let value = written.value.map(|text| binding.sql(text, out));
    let filter = written.filter.map(|text| binding.sql(text, out));
    let stream = stream?;
    let settings = &build.settings;
    let typer = Typer { params: &settings.params, zone: &settings.zone, kind: ScopeKind::Row };
    let aggregate =
        value.and_then(|value| aggregate(&value, &typer, stream, settings.exact_values_max, out));
    let filtered = match &filter {
        Some(text) => typer.condition(text, "`where`", &stream.reach, out).map(Some),
        None => Some(None),
    };
    let aggregate = aggregate?;
    let data_type = aggregate.data_type(&settings.zone);
    Some(Feature {
        name: name.to_owned(),
        doc,
        stream: stream.index?,
        aggregate,
        filter: filtered?,
        span: span?,
        data_type,
        place,
    })
}

fn span(
    window: &Text,
    offset: Option<&Text>,
    binding: &Binding<'_>,
    out: &mut Diagnostics,
) -> Option<Span> {
    let span = check(scalar::span(&binding.string(window, out)), window.place, out);
    let Some(offset) = offset else { return span };
    let back = binding.string(offset, out);
    check(scalar::offset(span?, &back), offset.place, out)
}

fn find_stream<'b>(
    text: &Text,
    binding: &Binding<'_>,
    build: &'b Build<'_>,
    out: &mut Diagnostics,
) -> Option<&'b StreamScope> {
    let name = binding.string(text, out);
    let found = build.streams.iter().find(|s| s.name == name);
    if found.is_none() && !build.streams_incomplete {
        let names = build.streams.iter().map(|s| s.name.as_str());
        let remedy = suggest(&name, names, "streams");
        out.error(text.place, format!("unknown stream `{name}`"), remedy);
    }
    found
}
