//! What is in a catalogue, and what it costs: the answer of `tagloom check`.
//!
//! In: a checked catalogue and which part of it is asked for. Out: text or JSON.
//! Invariant: nothing is written; figures are estimates by the layout, nobody's data is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::Failure;
use super::sql::{at, definition, values};
use crate::catalog::Loaded;
use crate::catalog::model::{Catalog, DimensionKey, Domain, From};
use crate::catalog::select::{Reach, Selection};
use crate::engine::cases::CaseRunner;
use crate::engine::ruleset::Ruleset;
use crate::shard::users::User;
use crate::user::layout::StreamLayout;

/// Bytes of the table that finds a user, each.
const TABLE_BYTES: usize = 8;

/// Bytes of one partial's aggregate in a tile.
const CELL_BYTES: usize = size_of::<(u16, crate::user::settled::Cell)>();

/// Events of the user whose memory is shown as an example.
const EXAMPLE_EVENTS: usize = 50;

/// Names listed in one line.
const NAMES_MAX: usize = 12;

/// A catalogue, outlined.
pub(super) struct Outline<'a> {
    loaded: &'a Loaded,
    selection: &'a Selection,
    reach: Reach,
    ruleset: std::sync::Arc<Ruleset>,
}

impl<'a> Outline<'a> {
    /// Compiles the whole catalogue, so that what cannot run is said here and not by `run`.
    pub(super) fn of(loaded: &'a Loaded, selection: &'a Selection) -> Result<Self, Failure> {
        let runner = CaseRunner::new(&loaded.catalog).map_err(Failure::input)?;
        let reach = selection.reach(&loaded.catalog);
        Ok(Self { loaded, selection, reach, ruleset: std::sync::Arc::clone(runner.ruleset()) })
    }

    fn catalog(&self) -> &Catalog {
        &self.loaded.catalog
    }

    fn streams(&self) -> impl Iterator<Item = &StreamLayout> {
        let layouts = self.ruleset.layout.streams.iter().enumerate();
        layouts.filter(|(at, _)| self.reach.streams.contains(at)).map(|(_, layout)| layout)
    }

    /// A stream's partials that what is asked for needs.
    fn partials<'s>(
        &'s self,
        stream: &'s StreamLayout,
    ) -> impl Iterator<Item = &'s crate::user::layout::Partial> {
        let needed = |p: &&crate::user::layout::Partial| {
            p.features.iter().any(|(f, _)| self.reach.features.contains(f))
        };
        stream.partials.iter().filter(needed)
    }

    fn features_of(&self, stream: &StreamLayout) -> usize {
        let features = self.reach.features.iter().map(|f| self.catalog().features[*f].stream);
        features.filter(|s| *s == usize::from(stream.stream)).count()
    }

    fn cases(&self) -> (usize, usize) {
        let cases = || self.catalog().cases.iter().filter(|c| self.selection.contains(c.tag));
        let checks = cases()
            .map(|c| c.expect.len() + c.after.iter().map(|(_, e)| e.len()).sum::<usize>())
            .sum();
        (cases().count(), checks)
    }

    /// Names of the selected among these tags.
    fn names(&self, tags: &[usize]) -> Vec<&str> {
        let selected = tags.iter().filter(|t| self.selection.contains(**t));
        selected.map(|t| self.catalog().tags[*t].name.as_str()).collect()
    }

    /// Bytes that a resident user takes without any event.
    fn user_bytes(&self) -> usize {
        let plan = &self.ruleset.plan;
        size_of::<User>() + TABLE_BYTES + plan.closed_tags().len() + 8 * plan.open_tags().len()
    }

    /// For people. `list`: every feature and tag too.
    pub(super) fn text(&self, list: bool) -> String {
        let mut out = String::new();
        let catalog = self.catalog();
        let uid = match catalog.uid {
            crate::catalog::model::UidType::U64 => "u64",
            crate::catalog::model::UidType::String => "string",
        };
        // Writing to a String cannot fail.
        writeln!(out, "{}: uid {uid}, days of {}\n", catalog.name, catalog.zone.name()).ok();
        self.stream_table(&mut out);
        self.dimension_table(&mut out);
        if list {
            self.lists(&mut out);
        } else {
            self.group_table(&mut out);
        }
        self.totals(&mut out);
        self.costs(&mut out, list);
        out.truncate(out.trim_end().len());
        out
    }

    fn stream_table(&self, out: &mut String) {
        let header =
            ["stream", "reads", "columns", "derived", "features", "partials", "bytes an event"];
        let mut table = super::table::new(header);
        for layout in self.streams() {
            let stream = &self.catalog().streams[usize::from(layout.stream)];
            let reads = match &stream.from {
                From::File { path, .. } => path.clone(),
                From::Kafka { topic, .. } => format!("kafka {topic}"),
            };
            table.add_row([
                stream.name.clone(),
                reads,
                stream.columns.len().to_string(),
                stream.derive.len().to_string(),
                self.features_of(layout).to_string(),
                self.partials(layout).count().to_string(),
                (8 * layout.width).to_string(),
            ]);
        }
        writeln!(out, "{table}\n").ok();
    }

    fn dimension_table(&self, out: &mut String) {
        if self.reach.dimensions.is_empty() {
            return;
        }
        let mut table = super::table::new(["dimension", "table", "key", "columns", "strategy"]);
        for at in &self.reach.dimensions {
            let dimension = &self.catalog().dimensions[*at];
            let strategy = dimension.strategy.word();
            let columns: Vec<&str> = dimension.columns.iter().map(|c| c.name.as_str()).collect();
            table.add_row([
                dimension.name.clone(),
                dimension.table.clone(),
                key_name(dimension.key, self.catalog()),
                columns.join(", "),
                strategy.to_owned(),
            ]);
        }
        writeln!(out, "{table}\n").ok();
    }

    fn group_table(&self, out: &mut String) {
        let mut groups: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
        for tag in self.selection.tags().map(|t| &self.catalog().tags[t]) {
            let counts = groups.entry(&tag.group).or_default();
            counts[0] += 1;
            counts[match &tag.domain {
                Domain::Closed { bool: true, .. } => 1,
                Domain::Closed { .. } => 2,
                Domain::Open(_) => 3,
            }] += 1;
        }
        let mut table = super::table::new(["group", "tags", "yes or no", "labels", "any value"]);
        for (group, counts) in groups {
            let [tags, bools, labels, open] = counts.map(|n| n.to_string());
            table.add_row([group.to_owned(), tags, bools, labels, open]);
        }
        writeln!(out, "{table}\n").ok();
    }

    fn lists(&self, out: &mut String) {
        let (catalog, files) = (self.catalog(), &self.loaded.files);
        let mut table = super::table::new(["feature", "what", "type", "where"]);
        for feature in self.reach.features.iter().map(|f| &catalog.features[*f]) {
            table.add_row([
                feature.name.clone(),
                definition(feature, catalog),
                crate::catalog::words(&feature.data_type),
                at(files, feature.place),
            ]);
        }
        writeln!(out, "{table}\n").ok();
        let mut table = super::table::new(["tag", "id", "group", "owner", "values", "where"]);
        for tag in self.reach.tags.iter().map(|t| &catalog.tags[*t]) {
            table.add_row([
                tag.name.clone(),
                tag.id.clone(),
                tag.group.clone(),
                tag.owner.clone(),
                values(&tag.domain),
                at(files, tag.place),
            ]);
        }
        writeln!(out, "{table}\n").ok();
    }

    fn totals(&self, out: &mut String) {
        let (cases, checks) = self.cases();
        let partials: usize = self.streams().map(|s| self.partials(s).count()).sum();
        writeln!(
            out,
            "{} tags over {} features ({partials} partials) of {} streams and {} dimensions; \
             {cases} cases with {checks} checks",
            self.selection.len(),
            self.reach.features.len(),
            self.reach.streams.len(),
            self.reach.dimensions.len(),
        )
        .ok();
        for line in super::terms::lines(self.catalog(), self.selection.tags()) {
            writeln!(out, "{line}").ok();
        }
    }

    /// What the state of a user takes.
    fn state(&self, out: &mut String) {
        let events = || self.streams().filter(|s| s.changelog.is_none());
        let widths = || events().map(|s| 8 * s.width);
        let (least, most) = (widths().min().unwrap_or(0), widths().max().unwrap_or(0));
        let lifetime = |s| self.partials(s).filter(|p| p.lifetime).count();
        let settled: usize = events().map(lifetime).sum();
        let user = self.user_bytes();
        write!(out, "state of a user: about {user} bytes").ok();
        if events().next().is_some() {
            write!(
                out,
                ", and {least} to {most} an event of the last {} days; with {EXAMPLE_EVENTS} \
                 events at most {}; older days become {settled} lifetime partials, up to {} bytes \
                 and the distinct values",
                self.ruleset.layout.horizon_days,
                user + EXAMPLE_EVENTS * most,
                settled * CELL_BYTES,
            )
            .ok();
        }
        writeln!(out).ok();
        for layout in self.streams() {
            let Some(changelog) = &layout.changelog else { continue };
            let (name, bytes) = (&layout.name, 8 * layout.width);
            let rows_max = changelog.rows_max;
            let text = "bytes each, while they are there; at most";
            writeln!(out, "rows of {name}: {bytes} {text} {rows_max} a user").ok();
        }
    }

    fn costs(&self, out: &mut String, list: bool) {
        self.state(out);
        let unbounded = self.names(self.ruleset.plan.unbounded_in_time());
        if unbounded.is_empty() {
            writeln!(out, "by time alone: each user is due on the day when a tag may change").ok();
        } else {
            writeln!(
                out,
                "by time alone: {} tags may change on any day, as far as can be seen: they make \
                 every user be recomputed and written at every local midnight, where `recency` and \
                 comparisons of days_since(...) with fixed cuts do not: {}",
                unbounded.len(),
                listed(&unbounded, list)
            )
            .ok();
        }
        let hourly = self.names(self.ruleset.plan.unbounded_in_hops());
        if !hourly.is_empty() {
            writeln!(
                out,
                "{} tags read `as_of` and features of minutes or hours: they make every user be \
                 recomputed and written every five minutes: {}",
                hourly.len(),
                listed(&hourly, list)
            )
            .ok();
        }
        let slow = self.names(&self.ruleset.plan.without_kernel());
        if !slow.is_empty() {
            writeln!(
                out,
                "without kernel: {} tags, evaluated by DataFusion (right, but slower): {}",
                slow.len(),
                listed(&slow, list)
            )
            .ok();
        }
    }

    /// For scripts: everything, listed.
    pub(super) fn json(&self) -> serde_json::Value {
        let (catalog, files) = (self.catalog(), &self.loaded.files);
        let streams = self.streams().map(|s| {
            json!({"name": s.name, "row_bytes": 8 * s.width, "partials": self.partials(s).count(),
                "filters": s.filters.len(), "values": s.values.len()})
        });
        let features = self.reach.features.iter().map(|f| &catalog.features[*f]).map(|f| {
            json!({"name": f.name, "doc": f.doc, "is": definition(f, catalog),
                "stream": catalog.streams[f.stream].name, "place": at(files, f.place)})
        });
        let dimensions = self.reach.dimensions.iter().map(|d| &catalog.dimensions[*d]).map(|d| {
            let columns: Vec<&str> = d.columns.iter().map(|c| c.name.as_str()).collect();
            json!({"name": d.name, "table": d.table, "key": key_name(d.key, catalog),
                "columns": columns})
        });
        let tags = self.reach.tags.iter().map(|t| &catalog.tags[*t]).map(|t| {
            json!({"name": t.name, "id": t.id, "doc": t.doc, "owner": t.owner, "group": t.group,
                "values": values(&t.domain), "reads": t.expr.columns, "place": at(files, t.place),
                "terms": super::terms::json(t)})
        });
        let (cases, checks) = self.cases();
        let warnings = self.loaded.warnings.items.iter().map(
            |w| json!({"place": at(files, w.place), "message": w.message, "remedy": w.remedy}),
        );
        json!({
            "name": catalog.name,
            "fingerprint": format!("{:016x}", catalog.fingerprint),
            "streams": streams.collect::<Vec<_>>(),
            "features": features.collect::<Vec<_>>(),
            "dimensions": dimensions.collect::<Vec<_>>(),
            "tags": tags.collect::<Vec<_>>(),
            "cases": cases,
            "checks": checks,
            "horizon_days": self.ruleset.layout.horizon_days,
            "user_bytes": self.user_bytes(),
            "unbounded_in_time": self.names(self.ruleset.plan.unbounded_in_time()),
            "unbounded_in_hops": self.names(self.ruleset.plan.unbounded_in_hops()),
            "without_kernel": self.names(&self.ruleset.plan.without_kernel()),
            "warnings": warnings.collect::<Vec<_>>(),
            "lock_behind": self.loaded.lock_behind,
        })
    }
}

/// What a dimension is looked up by.
pub(super) fn key_name(key: DimensionKey, catalog: &Catalog) -> String {
    match key {
        DimensionKey::Uid => "uid".to_owned(),
        DimensionKey::Feature(at) => catalog.features[at].name.clone(),
        DimensionKey::Column { dimension, column } => {
            catalog.dimensions[dimension].columns[column].name.clone()
        }
    }
}

fn listed(names: &[&str], all: bool) -> String {
    match names.len().checked_sub(NAMES_MAX) {
        Some(more) if more > 0 && !all => {
            format!("{} and {more} more (--list shows all)", names[..NAMES_MAX].join(", "))
        }
        _ => names.join(", "),
    }
}
