//! `tagloom catalog list` and `show`: the catalogues that a store has seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cli::{Failure, Outcome, desk, open, table};
use crate::clock::show_instant;
use crate::config::Config;
use crate::engine::history::progress;
use crate::engine::version::{
    Version, VersionError, active, active_number, is_recomputed, version, versions,
};
use crate::serve::local::Request;
use crate::store::Store;

/// What a store says of its catalogues.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli) struct Listed {
    active: Option<u32>,
    /// Everybody was computed by the active one's rules.
    recomputed: bool,
    /// Users that have the history which is being merged.
    merged_users: Option<u64>,
    /// Why the files in the directory are not what runs.
    trouble: Option<String>,
    versions: Vec<Shown>,
}

/// One version.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli) struct Shown {
    number: u32,
    name: String,
    fingerprint: String,
    made: Option<String>,
    features: usize,
    tags: usize,
    /// Where sources stood: bytes by source.
    positions: BTreeMap<String, u64>,
    partials: Vec<Since>,
}

/// Since when the features of one partial count.
#[derive(Debug, Serialize, Deserialize)]
struct Since {
    features: Vec<String>,
    stream: String,
    since: u32,
    /// When that version became active; none: they have seen everything.
    since_at: Option<String>,
    /// What happened before this instant is counted from a history.
    history_until: Option<String>,
    /// No feature needs it any more since.
    retired: Option<String>,
}

/// Runs `list` (no number) or `show` (0: the active one).
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(number: Option<u32>, config: &Config, json: bool) -> Outcome {
    let request = Request::Catalog { number };
    let listed: Listed = desk::request(config, request, &mut |_, _| {})?;
    if json {
        println!("{}", serde_json::to_value(&listed).map_err(Failure::failed)?);
    } else if number.is_some() {
        listed.versions.iter().for_each(|shown| println!("{}", shown.text()));
    } else {
        println!("{}", listed.text());
    }
    Ok(())
}

/// Runs `activate`.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn activate(config: &Config, json: bool) -> Outcome {
    let loaded = open::ready_catalog(&config.catalog.path)?;
    let store = open::existing_store(config)?;
    let before = active_number(store.as_ref()).map_err(open::version_failure)?;
    let active = open::activate(store.as_ref(), loaded, config, None)?;
    let (version, new) = (active.ruleset.version, active.ruleset.version != before);
    if json {
        println!("{}", serde_json::json!({ "active": version, "new": new }));
    } else if !new {
        println!("version {version} is active already");
    } else if store.is_atomic() {
        println!("version {version} is active: the next `tagloom run` computes everybody by it");
    } else {
        println!("version {version} is active: running processes take it over within seconds");
    }
    Ok(())
}

/// Reads what a store knows. `number`: everything of one version (0: the active one) instead of a
/// list.
pub(in crate::cli) fn collect(
    store: &dyn Store,
    number: Option<u32>,
    trouble: Option<String>,
) -> Result<Listed, Failure> {
    let failed = |error: VersionError| Failure::failed(error);
    let now = active(store).map_err(failed)?;
    let active = now.as_ref().map(|v| v.number);
    let all = versions(store).map_err(failed)?;
    let chosen = match number {
        None => all.iter().map(|v| Shown { partials: Vec::new(), ..Shown::of(v, &all) }).collect(),
        Some(0) => now.iter().map(|v| Shown::of(v, &all)).collect(),
        Some(number) => {
            let found = version(store, number).map_err(failed)?;
            let found = found.ok_or_else(|| {
                let last = active.unwrap_or(0);
                Failure::Input(format!("there is no version {number}; the last is {last}"))
            })?;
            vec![Shown::of(&found, &all)]
        }
    };
    let recomputed = match active {
        Some(number) => is_recomputed(store, number).map_err(failed)?,
        None => true,
    };
    let history = now.map(|version| progress(store, &version)).transpose();
    let history = history.map_err(Failure::failed)?.flatten();
    let merged_users = history.and_then(|(_, so_far)| (!so_far.ended).then_some(so_far.users));
    Ok(Listed { active, recomputed, merged_users, trouble, versions: chosen })
}

impl Shown {
    fn of(version: &Version, all: &[Version]) -> Self {
        let made = |number: u32| all.iter().find(|v| v.number == number)?.made_ms.map(show_instant);
        let mut partials: Vec<Since> = version
            .partials
            .values()
            .map(|record| Since {
                features: record.features.clone(),
                stream: record.stream.clone(),
                since: record.known.since,
                since_at: if record.known.since > 1 { made(record.known.since) } else { None },
                history_until: record.known.cut.map(|cut| show_instant(cut.before_ms)),
                retired: record.retired.map(|at| at.map_or("the start".to_owned(), show_instant)),
            })
            .collect();
        partials.sort_by(|a, b| (b.since, &a.features).cmp(&(a.since, &b.features)));
        Self {
            number: version.number,
            name: version.name.clone(),
            fingerprint: format!("{:016x}", version.fingerprint),
            made: version.made_ms.map(show_instant),
            features: version.features,
            tags: version.tags,
            positions: version.positions.iter().map(|(k, p)| (k.clone(), p.offset)).collect(),
            partials,
        }
    }

    fn text(&self) -> String {
        let made = self.made.as_deref().unwrap_or("before the first event");
        let mut text = format!("version {} of `{}`, active since {made}\n", self.number, self.name);
        let header = ["features", "stream", "count since", "before that, from history until"];
        let mut rows = table::new(header);
        let mut full = 0;
        for partial in &self.partials {
            let since = match (&partial.since_at, &partial.retired) {
                (_, Some(at)) => format!("version {}; retired at {at}", partial.since),
                (Some(at), None) => format!("version {}, {at}", partial.since),
                (None, None) if partial.since > 1 => format!("version {}", partial.since),
                (None, None) if partial.history_until.is_some() => "the start".to_owned(),
                (None, None) => {
                    full += partial.features.len();
                    continue;
                }
            };
            let history = partial.history_until.clone().unwrap_or_default();
            rows.add_row([partial.features.join(", "), partial.stream.clone(), since, history]);
        }
        if rows.row_count() > 0 {
            text.push_str(&format!("{rows}\n"));
        }
        text.push_str(&format!("{full} features have seen every event of this store"));
        for (source, offset) in &self.positions {
            text.push_str(&format!("\n{source} stood at {offset}"));
        }
        text
    }
}

impl Listed {
    fn text(&self) -> String {
        let mut rows = table::new(["version", "catalogue", "active since", "features", "tags"]);
        for shown in &self.versions {
            let mark = if Some(shown.number) == self.active { " (active)" } else { "" };
            rows.add_row([
                format!("{}{mark}", shown.number),
                format!("{} {}", shown.name, shown.fingerprint),
                shown.made.clone().unwrap_or_else(|| "the start".to_owned()),
                shown.features.to_string(),
                shown.tags.to_string(),
            ]);
        }
        let mut text = format!("{rows}");
        if !self.recomputed {
            text.push_str("\nusers are being computed by the active rules; not all are yet");
        }
        if let Some(users) = self.merged_users {
            text.push_str(&format!("\na history is being merged; {users} users have it"));
        }
        if let Some(trouble) = &self.trouble {
            text.push_str(&format!("\nthe rule directory cannot be used:\n{trouble}"));
        }
        text
    }
}
