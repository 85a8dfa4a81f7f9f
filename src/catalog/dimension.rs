//! `dimensions/*.yaml`: tables of attributes and what they are looked up by.
//!
//! In: documents, the features. Out: [`Dimension`]s, sorted so that each comes after the one that
//! holds its key. Invariant: all columns are in reach of tags, whatever else is wrong.

use arrow::datatypes::DataType;

use super::build::Build;
use super::expression::words;
use super::fields::{Fields, map_of, nearest, suggest, text_of};
use super::model::{Dimension, DimensionColumn, DimensionKey, Strategy, UidType};
use super::place::Diagnostics;
use super::report::Origin;
use super::scalar;
use super::settings::{check, duration};
use super::yaml::{Node, Text, Value};

const TTL_DEFAULT_MS: i64 = 3_600_000;
const MAX_STALE_DEFAULT_MS: i64 = 86_400_000;

/// A dimension whose key is not resolved yet.
pub(super) struct Draft<'a> {
    origin: Origin,
    key: Option<&'a Text>,
    dimension: Dimension,
}

/// Reads one document and claims its columns' names.
pub(super) fn read<'a>(node: &'a Node, build: &mut Build<'_>) -> Option<Draft<'a>> {
    let origin = Origin { item: build.next_item(), expansion: None };
    let mut reports = std::mem::take(&mut build.reports);
    let draft = reports.on(&origin, |out| read_fields(node, build, out));
    build.reports = reports;
    let Some((key, dimension)) = draft else {
        build.reach.incomplete = true;
        return None;
    };
    Some(Draft { origin, key, dimension })
}

fn read_fields<'a>(
    node: &'a Node,
    build: &mut Build<'_>,
    out: &mut Diagnostics,
) -> Option<(Option<&'a Text>, Dimension)> {
    let mut fields = Fields::open(node, "a dimension", out)?;
    fields.later(&[("sparse", "leave it out: a missing row is NULL")]);
    let name = fields.need_text("dimension", out);
    if let Some(name) = name {
        check(scalar::name(&name.text, "a dimension"), name.place, out);
    }
    let doc = fields.text("doc", out).map_or(String::new(), |t| t.text.clone());
    let table = fields.text("table", out);
    if let Some(table) = table {
        check(scalar::name(&table.text, "a table"), table.place, out);
    }
    let file = fields.text("file", out);
    let topic = fields.text("topic", out);
    let key = fields.need_text("key", out);
    let prefix = fields.text("prefix", out);
    let columns = fields.need("columns", out);
    let written = fields.text("strategy", out);
    let strategy = written.and_then(|t| strategy(t, out));
    let ttl = fields.text("ttl", out);
    let ttl_ms = ttl.and_then(|t| check(scalar::duration_ms(&t.text), t.place, out));
    if let (Some(ttl), Some(0)) = (ttl, ttl_ms) {
        let remedy = "write how long a row may be used, like `1h`, or use `strategy: direct`";
        out.error(ttl.place, "a ttl of nothing", remedy);
    }
    if written.is_none() || strategy.is_some() {
        fits(strategy, &Given { name, file, topic, ttl }, out);
    }
    let max_stale_ms = duration(&mut fields, "max_stale", out);
    fields.finish(out);
    let name = name?;
    let prefix = prefix.map_or(format!("{}_", name.text), |p| p.text.clone());
    let columns = columns.map(|node| read_columns(node, &prefix, build, out)).unwrap_or_default();
    let dimension = Dimension {
        name: name.text.clone(),
        doc,
        table: table.map_or(name.text.clone(), |t| t.text.clone()),
        file: file.map(|t| t.text.clone()),
        topic: topic.map(|t| t.text.clone()),
        key: DimensionKey::Uid,
        columns,
        strategy: strategy.unwrap_or(Strategy::Cached),
        ttl_ms: ttl_ms.unwrap_or(TTL_DEFAULT_MS).unsigned_abs(),
        max_stale_ms: max_stale_ms.unwrap_or(MAX_STALE_DEFAULT_MS).unsigned_abs(),
        place: name.place,
    };
    Some((key, dimension))
}

fn strategy(text: &Text, out: &mut Diagnostics) -> Option<Strategy> {
    let all = [Strategy::Preload, Strategy::Cached, Strategy::Direct, Strategy::Broadcast];
    let found = all.into_iter().find(|strategy| strategy.word() == text.text);
    if found.is_none() {
        let remedy = suggest(&text.text, all.map(Strategy::word), "strategies");
        out.error(text.place, format!("unknown strategy `{}`", text.text), remedy);
    }
    found
}

/// Keys that make sense with some strategies only.
struct Given<'a> {
    name: Option<&'a Text>,
    file: Option<&'a Text>,
    topic: Option<&'a Text>,
    ttl: Option<&'a Text>,
}

fn fits(strategy: Option<Strategy>, given: &Given<'_>, out: &mut Diagnostics) {
    let is_broadcast = strategy == Some(Strategy::Broadcast);
    match (given.topic, given.file) {
        (Some(topic), Some(_)) if is_broadcast => {
            let message = "a table that a topic keeps in memory is not loaded from a file";
            let remedy = "leave `file` or `topic` out, or use a strategy that stores the table";
            out.error(topic.place, message, remedy);
        }
        (None, _) if is_broadcast => {
            if let Some(name) = given.name {
                let message = "`strategy: broadcast` needs the topic that keeps the table";
                out.error(name.place, message, "add `topic: NAME`, or use `preload`");
            }
        }
        _ => {}
    }
    if let (Some(ttl), Some(strategy @ (Strategy::Direct | Strategy::Broadcast))) =
        (given.ttl, strategy)
    {
        let message = format!("`ttl` says nothing with `strategy: {}`", strategy.word());
        out.error(ttl.place, message, "leave it out, or use `strategy: cached`");
    }
}

fn read_columns(
    node: &Node,
    prefix: &str,
    build: &mut Build<'_>,
    out: &mut Diagnostics,
) -> Vec<DimensionColumn> {
    let mut columns = Vec::new();
    for (name, value) in map_of(node, "columns", out).unwrap_or(&[]) {
        let full = format!("{prefix}{}", name.text);
        let named = check(scalar::wide_name(&full, "a dimension column"), name.place, out);
        let claimed = build.claim(&full, "a dimension column", name.place, out);
        match read_column(name, value, &full, out) {
            Some(column) if named.is_some() && claimed => {
                build.reach.add(&full, column.kind.data_type(&build.settings.zone));
                columns.push(column);
            }
            _ => build.reach.add_broken(&full),
        }
    }
    columns
}

fn read_column(
    name: &Text,
    node: &Node,
    full: &str,
    out: &mut Diagnostics,
) -> Option<DimensionColumn> {
    let (kind, from) = match &node.value {
        Value::Map(_) => {
            let mut fields = Fields::open(node, "a dimension column", out)?;
            let kind = fields.need_text("type", out);
            let from = fields.text("from", out);
            fields.finish(out);
            (kind?, from)
        }
        _ => (text_of(node, &name.text, out)?, None),
    };
    // Every dimension column may be NULL, with or without `?`.
    let (kind, _) = check(scalar::column_type(&kind.text), kind.place, out)?;
    let from = from.map_or(name.text.clone(), |t| t.text.clone());
    Some(DimensionColumn { name: full.to_owned(), from, kind })
}

/// What a draft is looked up by.
enum Key {
    Uid,
    Feature(usize),
    /// Draft and column.
    Column(usize, usize),
}

/// Resolves keys and sorts the dimensions into `build`.
pub(super) fn resolve(drafts: Vec<Draft<'_>>, build: &mut Build<'_>) {
    let mut reports = std::mem::take(&mut build.reports);
    let mut keys = Vec::new();
    for (i, draft) in drafts.iter().enumerate() {
        let key = reports.on(&draft.origin, |out| {
            let name = &draft.dimension.name;
            if drafts[..i].iter().any(|d| d.dimension.name == *name) {
                let message = format!("two dimensions are named `{name}`");
                out.error(draft.dimension.place, message, "rename one");
            }
            draft.key.and_then(|text| find_key(text, &drafts, build, out))
        });
        keys.push(key);
    }
    let order = sort(&drafts, &keys, &mut reports);
    let mut position = vec![usize::MAX; drafts.len()];
    let mut drafts: Vec<Option<Draft<'_>>> = drafts.into_iter().map(Some).collect();
    for at in order {
        let (Some(key), Some(draft)) = (&keys[at], drafts[at].take()) else { continue };
        let mut dimension = draft.dimension;
        dimension.key = match *key {
            Key::Uid => DimensionKey::Uid,
            Key::Feature(feature) => DimensionKey::Feature(feature),
            Key::Column(of, column) => DimensionKey::Column { dimension: position[of], column },
        };
        if matches!(*key, Key::Column(of, _) if position[of] == usize::MAX) {
            continue;
        }
        if !build.dimensions.iter().any(|d| d.name == dimension.name) {
            reports.on(&draft.origin, |out| agree(&dimension, build, out));
        }
        position[at] = build.dimensions.len();
        build.dimensions.push(dimension);
    }
    build.reports = reports;
}

fn find_key(
    text: &Text,
    drafts: &[Draft<'_>],
    build: &Build<'_>,
    out: &mut Diagnostics,
) -> Option<Key> {
    let name = text.text.as_str();
    if name == "uid" {
        return Some(Key::Uid);
    }
    let column = drafts.iter().enumerate().find_map(|(d, draft)| {
        let at = draft.dimension.columns.iter().position(|c| c.name == name)?;
        Some(Key::Column(d, at))
    });
    let feature = build.features.iter().position(|f| f.name == name).map(Key::Feature);
    let found = column.or(feature);
    if found.is_none() {
        if build.reach.is_wrong(name) || build.reach.incomplete {
            return None;
        }
        let features = build.features.iter().map(|f| f.name.as_str());
        let columns =
            drafts.iter().flat_map(|d| d.dimension.columns.iter().map(|c| c.name.as_str()));
        let remedy = match nearest(name, features.chain(columns).chain(["uid"])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a key is `uid`, a feature or another dimension's column".to_owned(),
        };
        out.error(text.place, format!("unknown key `{name}`"), remedy);
        return None;
    }
    match build.reach.data_type(name) {
        Some(
            DataType::Int64
            | DataType::UInt64
            | DataType::Utf8
            | DataType::Boolean
            | DataType::Date32,
        ) => found,
        Some(other) => {
            let message = format!("a table cannot be looked up by {}", words(other));
            out.error(text.place, message, "use a whole number, text, bool or date");
            None
        }
        None => None,
    }
}

/// Indices of the drafts such that each comes after the one that holds its key.
fn sort(
    drafts: &[Draft<'_>],
    keys: &[Option<Key>],
    reports: &mut super::report::Reports,
) -> Vec<usize> {
    let parent = |at: usize| match keys[at] {
        Some(Key::Column(of, _)) => Some(of),
        _ => None,
    };
    let mut order = Vec::new();
    let mut told = vec![false; drafts.len()];
    for start in 0..drafts.len() {
        let mut chain = vec![start];
        while let Some(next) = chain.last().and_then(|at| parent(*at)) {
            if let Some(from) = chain.iter().position(|at| *at == next) {
                let cycle = &chain[from..];
                if !cycle.iter().any(|at| told[*at]) {
                    report_cycle(drafts, cycle, reports);
                }
                cycle.iter().for_each(|at| told[*at] = true);
                chain.clear();
                break;
            }
            chain.push(next);
        }
        for at in chain.into_iter().rev() {
            if !order.contains(&at) {
                order.push(at);
            }
        }
    }
    order
}

fn report_cycle(drafts: &[Draft<'_>], cycle: &[usize], reports: &mut super::report::Reports) {
    let name = |at: &usize| drafts[*at].dimension.name.as_str();
    let first = cycle.iter().copied().min().unwrap_or(0);
    let turn = cycle.iter().position(|at| *at == first).unwrap_or(0);
    let names: Vec<&str> = cycle[turn..].iter().chain(&cycle[..=turn]).map(name).collect();
    let draft = &drafts[first];
    let place = draft.key.map_or(draft.dimension.place, |k| k.place);
    reports.on(&draft.origin, |out| {
        let message = format!("dimensions look each other up in a circle: {}", names.join(" -> "));
        out.error(place, message, "let one of them be keyed by `uid` or a feature");
    });
}

/// Dimensions that share a table must read it alike.
fn agree(dimension: &Dimension, build: &Build<'_>, out: &mut Diagnostics) {
    for other in build.dimensions.iter().filter(|d| d.table == dimension.table) {
        for column in &dimension.columns {
            let differs =
                other.columns.iter().find(|c| c.from == column.from && c.kind != column.kind);
            if let Some(theirs) = differs {
                let message = format!(
                    "column `{}` of table `{}` is {} in dimension `{}` and {} here",
                    column.from,
                    dimension.table,
                    scalar::type_text(&theirs.kind),
                    other.name,
                    scalar::type_text(&column.kind)
                );
                out.error(dimension.place, message, "give it one type");
            }
        }
        if let (Some(mine), Some(theirs)) = (&dimension.file, &other.file)
            && mine != theirs
        {
            let message = format!(
                "table `{}` is loaded from `{theirs}` in dimension `{}` and from `{mine}` here",
                dimension.table, other.name
            );
            out.error(dimension.place, message, "a table has one file; say it once");
        }
        if mine_is_kept_otherwise(dimension, other) {
            let kept = |d: &Dimension| match (&d.topic, d.strategy) {
                (Some(topic), Strategy::Broadcast) => format!("kept in memory by topic `{topic}`"),
                (Some(topic), _) => format!("kept by topic `{topic}`"),
                (None, _) => "loaded".to_owned(),
            };
            let message = format!(
                "table `{}` is {} in dimension `{}` and {} here",
                dimension.table,
                kept(other),
                other.name,
                kept(dimension)
            );
            let remedy = "let both have the same `topic`, and `strategy: broadcast` both or neither, \
                          or give one another `table`";
            out.error(dimension.place, message, remedy);
        }
        let (mine, theirs) = (key_type(dimension, build), key_type(other, build));
        if mine != theirs {
            let message = format!(
                "table `{}` is looked up by {} in dimension `{}` and by {} here",
                dimension.table,
                words(&theirs),
                other.name,
                words(&mine)
            );
            out.error(dimension.place, message, "a table has keys of one type");
        }
    }
}

/// Whether the rows of one come from elsewhere than those of the other.
fn mine_is_kept_otherwise(dimension: &Dimension, other: &Dimension) -> bool {
    let is_broadcast = |d: &Dimension| d.strategy == Strategy::Broadcast;
    is_broadcast(dimension) != is_broadcast(other) || dimension.topic != other.topic
}

fn key_type(dimension: &Dimension, build: &Build<'_>) -> DataType {
    match dimension.key {
        DimensionKey::Uid => match build.settings.uid {
            UidType::U64 => DataType::UInt64,
            UidType::String => DataType::Utf8,
        },
        DimensionKey::Feature(at) => {
            build.features.get(at).map_or(DataType::Null, |f| f.data_type.clone())
        }
        DimensionKey::Column { dimension, column } => build
            .dimensions
            .get(dimension)
            .and_then(|d| d.columns.get(column))
            .map_or(DataType::Null, |c| c.kind.data_type(&build.settings.zone)),
    }
}
