//! `rules/*.yaml`: tags.
//!
//! In: documents, everything tags may read. Out: typed tags in catalogue order and an order in
//! which each comes after the tags it reads.
//! Invariant: sugar is SQL from here on; ids and label codes are given later, by the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::DataType;

use super::build::Build;
use super::expression::{self, Typer, words};
use super::fields::{Fields, list_of, listed, map_of, text_of, texts_of};
use super::matrix::{Binding, Matrix};
use super::model::{Domain, TypedExpr};
use super::place::{Diagnostics, Place};
use super::report::{Origin, Reports};
use super::sugar::{Body, KEYS, Word};
use super::terms::{self, Terms};
use super::yaml::{Node, Text};
use crate::rule::sql::{self, ScopeKind};

/// Codes of labels are one byte and 0 is "no value".
pub(super) const LABELS_MAX: usize = 254;

/// Threads that type tags side by side, at most.
const THREADS_MAX: usize = 8;

/// Tags for which another thread is worth its start.
const TAGS_A_THREAD_MIN: usize = 32;

/// Expressions nest: as much as the main thread has.
const STACK_BYTES: usize = 8 << 20;

/// A tag as written, matrix put in, not typed yet.
pub(super) struct Draft<'a> {
    pub(super) origin: Origin,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) doc: String,
    pub(super) owner: String,
    pub(super) group: String,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) was: Vec<Word>,
    pub(super) cases: &'a [Node],
    pub(super) binding: Binding<'a>,
    /// Where the body stands, and the body.
    body: Option<(Place, Body)>,
    labels: Option<Vec<Word>>,
    terms: terms::Draft,
    /// The name is in order and its own.
    good: bool,
}

/// A tag's value and what values there are.
pub(super) struct Typed {
    pub(super) expr: TypedExpr,
    /// Closed text domains have the labels of the rule, not yet in the order of the lock.
    pub(super) domain: Domain,
    pub(super) terms: Terms,
}

/// The keys of one document.
struct Written<'a> {
    name: &'a Text,
    doc: Option<&'a Text>,
    owner: Option<&'a Text>,
    group: Option<&'a Text>,
    meta: &'a [(Text, Node)],
    was: Vec<&'a Text>,
    cases: &'a [Node],
    body: Option<(&'static str, &'a Node)>,
    labels: Option<&'a Node>,
    terms: terms::Written<'a>,
}

/// Reads one document and claims its tags' names.
pub(super) fn read<'a>(node: &'a Node, build: &mut Build<'_>, drafts: &mut Vec<Draft<'a>>) {
    let item = build.next_item();
    let bare = Origin { item, expansion: None };
    let read = build.reports.on(&bare, |out| {
        let mut fields = Fields::open(node, "a tag", out)?;
        let name = fields.need_text("tag", out);
        let matrix = Matrix::read(&mut fields, name, out);
        let written = read_fields(fields, name, out);
        let bindings = matrix.bindings(out);
        Some((written?, bindings, !matrix.is_empty()))
    });
    let Some((written, bindings, expanded)) = read else {
        build.reach.incomplete = true;
        return;
    };
    for binding in bindings {
        let origin = Origin::of(item, expanded, &binding, written.name);
        let mut reports = std::mem::take(&mut build.reports);
        let draft =
            reports.on(&origin, |out| expand(&written, binding, origin.clone(), build, out));
        build.reports = reports;
        drafts.push(draft);
    }
}

fn read_fields<'a>(
    mut fields: Fields<'a>,
    name: Option<&'a Text>,
    out: &mut Diagnostics,
) -> Option<Written<'a>> {
    let mut bodies: Vec<(&'static str, &Node)> = Vec::new();
    for key in KEYS {
        bodies.extend(fields.take(key).map(|node| (key, node)));
    }
    let meta = fields.take("meta").and_then(|n| map_of(n, "meta", out)).unwrap_or(&[]);
    let cases = fields.take("cases").and_then(|n| list_of(n, "cases", out)).unwrap_or(&[]);
    let written = Written {
        doc: fields.text("doc", out),
        owner: fields.text("owner", out),
        group: fields.text("group", out),
        meta,
        was: fields.take("was").map(|n| texts_of(n, "was", out)).unwrap_or_default(),
        cases,
        body: bodies.first().copied(),
        labels: fields.take("labels"),
        terms: terms::Written::take(&mut fields, out),
        // Without a name the rest was still looked at, for its own mistakes.
        name: match name {
            Some(name) => name,
            None => {
                fields.finish(out);
                return None;
            }
        },
    };
    match bodies.as_slice() {
        [] => {
            let misspelt = fields.has_nearly(&KEYS);
            if !misspelt {
                let message = format!("the tag `{}` has no value", written.name.text);
                out.error(written.name.place, message, format!("give it one of {}", listed(&KEYS)));
            }
        }
        [(first, _), (second, node), ..] => {
            let message = format!("a tag has one value, this has `{first}` and `{second}`");
            out.error(node.place, message, "keep one");
        }
        [_] => {}
    }
    fields.finish(out);
    Some(written)
}

fn expand<'a>(
    written: &Written<'a>,
    binding: Binding<'a>,
    origin: Origin,
    build: &mut Build<'_>,
    out: &mut Diagnostics,
) -> Draft<'a> {
    let place = written.name.place;
    let (name, good) = build.claim_expanded(&binding, written.name, "a tag", out);
    let mut prose = |text: Option<&Text>| text.map_or(String::new(), |t| binding.prose(t, out));
    let (doc, owner, group) = (prose(written.doc), prose(written.owner), prose(written.group));
    let mut meta = BTreeMap::new();
    for (key, value) in written.meta {
        if let Some(value) = text_of(value, &key.text, out) {
            meta.insert(key.text.clone(), binding.prose(value, out));
        }
    }
    let word =
        |t: &Text, out: &mut Diagnostics| Word { text: binding.string(t, out), place: t.place };
    let was = written.was.iter().map(|t| word(t, out)).collect();
    let labels = written.labels.and_then(|node| list_of(node, "labels", out)).map(|items| {
        let texts: Vec<&Text> = items.iter().filter_map(|i| text_of(i, "labels", out)).collect();
        texts.into_iter().map(|t| word(t, out)).collect()
    });
    let terms = written.terms.read(&binding, &build.settings.zone, out);
    let body = written
        .body
        .and_then(|(key, node)| Some((node.place, Body::read(key, node, &binding, out)?)));
    Draft {
        origin,
        name,
        place,
        doc,
        owner,
        group,
        meta,
        was,
        cases: written.cases,
        binding,
        body,
        labels,
        terms,
        good,
    }
}

/// Types all tags. Gives what could be typed, by draft, and the order found.
pub(super) fn type_all(
    drafts: &[Draft<'_>],
    build: &mut Build<'_>,
) -> (Vec<Option<Typed>>, Vec<usize>) {
    let mut reports = std::mem::take(&mut build.reports);
    let reads = reads(drafts, &mut reports);
    let (order, cyclic) = sort(&reads);
    for cycle in &cyclic {
        report_cycle(drafts, cycle, &reads, &mut reports);
    }
    check_reads(drafts, &reads, &mut reports);
    let mut typed: Vec<Option<Typed>> = drafts.iter().map(|_| None).collect();
    let in_order: BTreeSet<usize> = order.iter().copied().collect();
    for (at, draft) in drafts.iter().enumerate() {
        if !in_order.contains(&at) {
            build.reach.add_broken(&draft.name);
        }
    }
    let mut ahead = typed_ahead(drafts, &reads, &order, build);
    for at in &order {
        let draft = &drafts[*at];
        let value = ahead[*at]
            .take()
            .or_else(|| reports.on(&draft.origin, |out| type_one(draft, build, out)));
        match &value {
            Some(value) if draft.good => {
                build.reach.add(&draft.name, value.expr.data_type.clone());
            }
            _ => build.reach.add_broken(&draft.name),
        }
        typed[*at] = value.filter(|_| draft.good);
    }
    build.reports = reports;
    (typed, order)
}

/// Tags that read no other, typed side by side: two thirds of a large catalogue's loading. Where there
/// is something to say they are left out, and typed in their turn.
fn typed_ahead(
    drafts: &[Draft<'_>],
    reads: &[Vec<(usize, Place)>],
    order: &[usize],
    build: &Build<'_>,
) -> Vec<Option<Typed>> {
    let alone: Vec<usize> = order.iter().copied().filter(|at| reads[*at].is_empty()).collect();
    let mut typed: Vec<Option<Typed>> = drafts.iter().map(|_| None).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(THREADS_MAX).min(alone.len() / TAGS_A_THREAD_MIN);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(at) = alone.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut said = Diagnostics::default();
            let value = type_one(&drafts[*at], build, &mut said);
            done.extend(value.filter(|_| said.items.is_empty()).map(|value| (*at, value)));
        }
        done
    };
    std::thread::scope(|scope| {
        // One that cannot be started leaves its tags to the others.
        let thread =
            || std::thread::Builder::new().name("typing".to_owned()).stack_size(STACK_BYTES);
        let others: Vec<_> =
            (1..threads).filter_map(|_| thread().spawn_scoped(scope, work).ok()).collect();
        let own = if threads > 1 { work() } else { Vec::new() };
        let others = others
            .into_iter()
            .flat_map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.chain(own).for_each(|(at, value)| typed[at] = Some(value));
    });
    typed
}

/// For each tag the tags it reads, and where.
fn reads(drafts: &[Draft<'_>], reports: &mut Reports) -> Vec<Vec<(usize, Place)>> {
    let by_name: HashMap<&str, usize> = drafts
        .iter()
        .enumerate()
        .filter(|(_, d)| d.good)
        .map(|(i, d)| (d.name.as_str(), i))
        .collect();
    drafts
        .iter()
        .map(|draft| {
            let Some((_, body)) = &draft.body else { return Vec::new() };
            let mut reads = Vec::new();
            for text in body.reads() {
                let names = reports.on(&draft.origin, |out| expression::names(text, out));
                reads.extend(
                    names
                        .into_iter()
                        .flatten()
                        .filter_map(|(name, place)| Some((*by_name.get(name.as_str())?, place))),
                );
            }
            reads
        })
        .collect()
}

/// What the terms of tags say about reading each other.
fn check_reads(drafts: &[Draft<'_>], reads: &[Vec<(usize, Place)>], reports: &mut Reports) {
    for (draft, reads) in drafts.iter().zip(reads) {
        reports.on(&draft.origin, |out| {
            for (of, place) in reads {
                let of = &drafts[*of];
                let reader = (draft.name.as_str(), &draft.terms);
                terms::check_read(reader, (&of.name, &of.terms), *place, out);
            }
        });
    }
}

/// The tags in an order such that each comes after those it reads, as near to catalogue order as
/// that allows; and the circles among the rest.
fn sort(reads: &[Vec<(usize, Place)>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut waiting: Vec<usize> = Vec::with_capacity(reads.len());
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); reads.len()];
    for (at, reads) in reads.iter().enumerate() {
        let distinct: BTreeSet<usize> = reads.iter().map(|(of, _)| *of).collect();
        waiting.push(distinct.len());
        distinct.into_iter().for_each(|of| readers[of].push(at));
    }
    let mut ready: BTreeSet<usize> = (0..reads.len()).filter(|at| waiting[*at] == 0).collect();
    let mut order = Vec::with_capacity(reads.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for reader in &readers[at] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.insert(*reader);
            }
        }
    }
    let mut cycles: Vec<Vec<usize>> = Vec::new();
    let mut seen = vec![false; reads.len()];
    for start in (0..reads.len()).filter(|at| waiting[*at] > 0) {
        let mut chain = vec![start];
        // Whatever still waits reads something that still waits, so that the walk ends in a circle.
        while let Some(&at) = chain.last() {
            let Some(&(next, _)) = reads[at].iter().find(|(of, _)| waiting[*of] > 0) else { break };
            if let Some(from) = chain.iter().position(|c| *c == next) {
                if !chain[from..].iter().any(|c| seen[*c]) {
                    cycles.push(chain[from..].to_vec());
                }
                break;
            }
            if seen[next] {
                break;
            }
            chain.push(next);
        }
        chain.into_iter().for_each(|c| seen[c] = true);
    }
    (order, cycles)
}

fn report_cycle(
    drafts: &[Draft<'_>],
    cycle: &[usize],
    reads: &[Vec<(usize, Place)>],
    reports: &mut Reports,
) {
    let (Some(first), Some(last)) = (cycle.first(), cycle.get(1).or(cycle.first())) else { return };
    let names: Vec<&str> =
        cycle.iter().chain(cycle.first()).map(|at| drafts[*at].name.as_str()).collect();
    let draft = &drafts[*first];
    let place = reads[*first].iter().find(|(of, _)| of == last).map_or(draft.place, |(_, p)| *p);
    reports.on(&draft.origin, |out| {
        let message = format!("`{}` reads itself: {}", draft.name, names.join(" -> "));
        out.error(place, message, "break the circle: let one of them read features instead");
    });
}

fn type_one(draft: &Draft<'_>, build: &Build<'_>, out: &mut Diagnostics) -> Option<Typed> {
    let (whole, body) = draft.body.as_ref()?;
    let settings = &build.settings;
    let typer = Typer { params: &settings.params, zone: &settings.zone, kind: ScopeKind::Tag };
    let sql = body.sql(*whole, &typer, &build.reach, out)?;
    let expr = typer.any(&sql, &build.reach, out)?;
    let domain = domain(draft, &expr, out)?;
    let terms = draft.terms.settle(&domain, out);
    Some(Typed { expr, domain, terms })
}

fn domain(draft: &Draft<'_>, expr: &TypedExpr, out: &mut Diagnostics) -> Option<Domain> {
    let found = sql::labels(expr);
    if let Some(declared) = &draft.labels {
        return declared_domain(declared, found, expr, out);
    }
    match (&expr.data_type, found) {
        (DataType::Boolean, _) => {
            Some(Domain::Closed { labels: vec!["false".into(), "true".into()], bool: true })
        }
        (DataType::Utf8, Some(labels)) if labels.len() <= LABELS_MAX => {
            Some(Domain::Closed { labels, bool: false })
        }
        (other, _) => Some(Domain::Open(other.clone())),
    }
}

fn declared_domain(
    declared: &[Word],
    found: Option<Vec<String>>,
    expr: &TypedExpr,
    out: &mut Diagnostics,
) -> Option<Domain> {
    let place = declared.first().map_or(expr.place, |w| w.place);
    let Some(found) = found else {
        let (message, remedy) = match &expr.data_type {
            DataType::Utf8 => (
                "`labels` of a tag that may have other values".to_owned(),
                "write the expression as CASE ... THEN 'label' ..., or drop `labels`",
            ),
            other => (format!("`labels` are for text, this is {}", words(other)), "drop `labels`"),
        };
        out.error(place, message, remedy);
        return None;
    };
    if let Some(missing) = found.iter().find(|l| !declared.iter().any(|d| d.text == **l)) {
        let message = format!("the expression gives `{missing}`, which is not in `labels`");
        out.error(place, message, format!("add `{missing}`"));
    }
    for (i, label) in declared.iter().enumerate() {
        if declared[..i].iter().any(|l| l.text == label.text) {
            out.error(
                label.place,
                format!("the label `{}` is there twice", label.text),
                "keep one",
            );
        }
    }
    if declared.len() > LABELS_MAX {
        out.error(place, format!("{} labels", declared.len()), format!("at most {LABELS_MAX}"));
    }
    let labels = declared.iter().map(|w| w.text.clone()).collect();
    Some(Domain::Closed { labels, bool: false })
}
