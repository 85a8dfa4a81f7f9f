//! `ids.lock`: the short stable id of each tag and the append-only codes of its labels.
//!
//! In: the file's text, or a catalogue. Out: a [`Lock`], or the text.
//! Invariant: an id is never given twice, and a label never changes its code; what is removed stays
//! as a tombstone.
//!
//! One line a tag, sorted by name, so that version control merges it line by line:
//!
//! ```text
//! # Written by `tagloom check --write`. Keep it in version control; do not edit.
//! next 3
//! old_tag = 0 removed text low mid
//! spend_level_30d = 1 text low mid "very high"
//! win_back = 2 bool
//! ```
//!
//! After the name: the id (base 36), `removed` where the tag is gone, the kind, the labels in code
//! order (the first has code 1). A label of other characters than letters, digits, `_`, `.`, `+`
//! and `-` is a JSON string. `next` is the least number never given as an id.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow::datatypes::DataType;

use super::model::{Catalog, Domain, Tag};
use super::place::{Diagnostics, FileId, Place};
use super::scalar;
use super::tag::LABELS_MAX;

/// The name of the file in the catalogue's directory.
pub const LOCK_FILE: &str = "ids.lock";

const HEADER: &str =
    "# Written by `tagloom check --write`. Keep it in version control; do not edit.";

/// How a tag's values are stored: a change of kind needs a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// One code per label.
    Text,
    /// 1 is false, 2 is true.
    Bool,
    /// The value itself.
    Open,
}

impl LockKind {
    fn of(domain: &Domain) -> Self {
        match domain {
            Domain::Closed { bool: true, .. } => Self::Bool,
            Domain::Closed { bool: false, .. } => Self::Text,
            Domain::Open(_) => Self::Open,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Open => "open",
        }
    }
}

/// One tag's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockEntry {
    /// The tag's name.
    pub name: String,
    /// Base 36, never given to another tag.
    pub id: String,
    /// How values are stored.
    pub kind: LockKind,
    /// `labels[i]` has code `i + 1`. Only for [`LockKind::Text`].
    pub labels: Vec<String>,
    /// The tag is gone; its line stays so that nothing takes its id.
    pub removed: bool,
}

/// The ids of a catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    entries: Vec<LockEntry>,
    /// Least number never given as an id.
    next: u64,
}

impl Lock {
    /// Reads the file. Lines that are wrong are reported and left out.
    pub fn parse(file: FileId, text: &str, out: &mut Diagnostics) -> Self {
        let mut lock = Self::default();
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut ids: HashMap<String, usize> = HashMap::new();
        let mut conflicted = false;
        let mut next_line: Option<usize> = None;
        let mut at = 0;
        for (i, line) in text.split_inclusive('\n').enumerate() {
            let body = line.trim_end();
            let place = lock_place(file, at, body.len());
            at += line.len();
            if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|m| body.starts_with(m)) {
                if !conflicted {
                    let remedy = "keep the lines of both sides and the greater `next`, then run \
                                  `tagloom check --write`";
                    out.error(place, "a merge conflict in the lock", remedy);
                }
                conflicted = true;
                continue;
            }
            if body.is_empty() || body.starts_with('#') {
                continue;
            }
            if let Some(next) = body.strip_prefix("next ") {
                match (number_of(next.trim()), next_line) {
                    (Some(next), None) => lock.next = lock.next.max(next),
                    (Some(next), Some(_)) if conflicted => lock.next = lock.next.max(next),
                    (Some(_), Some(first)) => {
                        let remedy = format!("keep the greater of this and line {first}");
                        out.error(place, "`next` is there twice", remedy);
                    }
                    (None, _) => out.error(place, "`next` is not a number", "restore the file"),
                }
                next_line = Some(i + 1);
                continue;
            }
            let entry = match parse_line(body) {
                Ok(entry) => entry,
                Err(wrong) => {
                    let remedy = "restore it from version control: `name = id kind labels`";
                    out.error(place, wrong, remedy);
                    continue;
                }
            };
            if lock.check_unique(&entry, place, i + 1, (&mut names, &mut ids), conflicted, out) {
                lock.entries.push(entry);
            }
        }
        let used = lock.entries.iter().filter_map(|e| number_of(&e.id)).map(|n| n + 1).max();
        lock.next = lock.next.max(used.unwrap_or(0));
        lock
    }

    fn check_unique(
        &self,
        entry: &LockEntry,
        place: Place,
        line: usize,
        (names, ids): (&mut HashMap<String, usize>, &mut HashMap<String, usize>),
        conflicted: bool,
        out: &mut Diagnostics,
    ) -> bool {
        // Both sides of a conflict name the same tags: the conflict is said once.
        if let Some(first) = names.get(&entry.name)
            && !conflicted
            && !entry.removed
        {
            let message = format!("two ids for the tag `{}`", entry.name);
            let remedy = format!("keep the older, this or line {first}, and drop the other");
            out.error(place, message, remedy);
            return false;
        }
        if let Some(first) = ids.get(&entry.id)
            && !conflicted
        {
            let message = format!("the id `{}` is given twice", entry.id);
            let remedy =
                format!("drop the younger, this or line {first}, and run `tagloom check --write`");
            out.error(place, message, remedy);
            return false;
        }
        if !entry.removed {
            names.insert(entry.name.clone(), line);
        }
        ids.insert(entry.id.clone(), line);
        true
    }

    /// The lines, tombstones included.
    pub fn entries(&self) -> &[LockEntry] {
        &self.entries
    }

    /// Name and id of each tag that is gone.
    pub fn removed(&self) -> Vec<(String, String)> {
        let gone = self.entries.iter().filter(|entry| entry.removed);
        gone.map(|entry| (entry.name.clone(), entry.id.clone())).collect()
    }

    /// The line that holds for a tag: its own, else that of a name it had, else its tombstone.
    /// A line of another kind does not hold.
    pub fn entry(&self, name: &str, was: &[String], kind: LockKind) -> Option<&LockEntry> {
        self.position(name, was, kind).and_then(|at| self.entries.get(at))
    }

    fn position(&self, name: &str, was: &[String], kind: LockKind) -> Option<usize> {
        let find = |name: &str, removed: bool| {
            self.entries
                .iter()
                .position(|e| e.name == name && e.removed == removed && e.kind == kind)
        };
        find(name, false)
            .or_else(|| was.iter().find_map(|old| find(old, false)))
            .or_else(|| find(name, true))
            .or_else(|| was.iter().find_map(|old| find(old, true)))
    }

    /// Gives a tag its id, and its labels the order of the lock; labels the lock does not know
    /// come behind. Says in `behind` what `tagloom check --write` would add.
    pub(super) fn settle(&self, tag: &mut Tag, behind: &mut Vec<String>) {
        let kind = LockKind::of(&tag.domain);
        let Some(entry) = self.entry(&tag.name, &tag.was, kind) else {
            let other = self.entries.iter().find(|e| e.name == tag.name && !e.removed);
            behind.push(match other {
                Some(other) => format!(
                    "tag `{}` was {} and is {} now: it gets a new id",
                    tag.name,
                    other.kind.word(),
                    kind.word()
                ),
                None => format!("tag `{}` has no id", tag.name),
            });
            return;
        };
        tag.id.clone_from(&entry.id);
        if entry.name != tag.name {
            behind.push(format!("tag `{}` was `{}`", tag.name, entry.name));
        } else if entry.removed {
            behind.push(format!("tag `{}` is back", tag.name));
        }
        let Domain::Closed { labels, bool: false } = &mut tag.domain else { return };
        let new: Vec<String> =
            labels.iter().filter(|l| !entry.labels.contains(l)).cloned().collect();
        if entry.labels.len() + new.len() > LABELS_MAX {
            tag.id.clear();
            tag.domain = Domain::Open(DataType::Utf8);
            behind.push(format!(
                "tag `{}` had and has more than {LABELS_MAX} labels: it gets a new id",
                tag.name
            ));
            return;
        }
        for label in &new {
            behind.push(format!("label `{label}` of tag `{}` has no code", tag.name));
        }
        labels.clone_from(&entry.labels);
        labels.extend(new);
    }

    /// Says in `behind` which tags of the lock are gone.
    pub(super) fn gone(&self, tags: &[Tag], behind: &mut Vec<String>) {
        let held: Vec<&str> = tags.iter().map(|t| t.id.as_str()).collect();
        let gone = self.entries.iter().filter(|e| !e.removed && !held.contains(&e.id.as_str()));
        behind.extend(
            gone.filter(|e| !tags.iter().any(|t| t.name == e.name))
                .map(|e| format!("tag `{}` is gone", e.name)),
        );
    }

    /// The lock as `tagloom check --write` writes it: ids for new tags, codes for new labels behind
    /// the others, renames, and tombstones for tags that are gone.
    pub fn updated(&self, catalog: &Catalog) -> Self {
        let mut lock = self.clone();
        let mut live = vec![false; lock.entries.len()];
        let mut fresh = Vec::new();
        for tag in &catalog.tags {
            let kind = LockKind::of(&tag.domain);
            let labels = match &tag.domain {
                Domain::Closed { labels, bool: false } => labels.clone(),
                _ => Vec::new(),
            };
            match self.position(&tag.name, &tag.was, kind) {
                Some(at) if !live[at] => {
                    live[at] = true;
                    let entry = &mut lock.entries[at];
                    entry.name.clone_from(&tag.name);
                    entry.removed = false;
                    let new: Vec<String> =
                        labels.into_iter().filter(|l| !entry.labels.contains(l)).collect();
                    entry.labels.extend(new);
                }
                _ => fresh.push((tag.name.clone(), kind, labels)),
            }
        }
        for (entry, live) in lock.entries.iter_mut().zip(live) {
            entry.removed = !live;
        }
        for (name, kind, labels) in fresh {
            let id = base36(lock.next);
            lock.next += 1;
            lock.entries.push(LockEntry { name, id, kind, labels, removed: false });
        }
        lock
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut sorted: Vec<&LockEntry> = self.entries.iter().collect();
        sorted.sort_by(|a, b| {
            (&a.name, a.removed, a.id.len(), &a.id).cmp(&(&b.name, b.removed, b.id.len(), &b.id))
        });
        let mut text = format!("{HEADER}\nnext {}\n", base36(self.next));
        for entry in sorted {
            let removed = if entry.removed { "removed " } else { "" };
            // Writing to a String cannot fail.
            write!(text, "{} = {} {removed}{}", entry.name, entry.id, entry.kind.word()).ok();
            for label in &entry.labels {
                write!(text, " {}", label_text(label)).ok();
            }
            text.push('\n');
        }
        text
    }
}

fn lock_place(file: FileId, at: usize, len: usize) -> Place {
    let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { file, start: offset(at), end: offset(at + len) }
}

fn parse_line(line: &str) -> Result<LockEntry, String> {
    let (name, rest) = line.split_once(" = ").ok_or("this is not a line of the lock")?;
    scalar::name(name, "a tag").map_err(|f| f.message)?;
    let (id, rest) = rest.split_once(' ').ok_or("this line has no kind")?;
    if number_of(id).is_none_or(|n| base36(n) != id) {
        return Err(format!("`{id}` is not an id"));
    }
    let (removed, rest) = match rest.strip_prefix("removed ") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let kind = match word {
        "text" => LockKind::Text,
        "bool" => LockKind::Bool,
        "open" => LockKind::Open,
        _ => return Err(format!("`{word}` is not a kind: text, bool or open")),
    };
    let labels = parse_labels(rest)?;
    if kind != LockKind::Text && !labels.is_empty() {
        return Err(format!("a {word} tag has no labels here"));
    }
    Ok(LockEntry { name: name.to_owned(), id: id.to_owned(), kind, labels, removed })
}

fn parse_labels(mut rest: &str) -> Result<Vec<String>, String> {
    let mut labels: Vec<String> = Vec::new();
    while !rest.is_empty() {
        let label;
        if rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            label = match stream.next() {
                Some(Ok(label)) => label,
                _ => return Err("a label's quotes are not closed".to_owned()),
            };
            rest = &rest[stream.byte_offset()..];
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            label = rest[..end].to_owned();
            rest = &rest[end..];
            if !is_bare(&label) {
                return Err(format!("the label `{label}` needs quotes"));
            }
        }
        if labels.contains(&label) {
            return Err(format!("the label `{label}` is there twice"));
        }
        labels.push(label);
        rest = match rest.strip_prefix(' ') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err("labels must be apart by one space".to_owned()),
        };
    }
    Ok(labels)
}

fn is_bare(label: &str) -> bool {
    !label.is_empty()
        && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'))
}

fn label_text(label: &str) -> String {
    if is_bare(label) {
        label.to_owned()
    } else {
        serde_json::Value::String(label.to_owned()).to_string()
    }
}

fn number_of(id: &str) -> Option<u64> {
    let lower = id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    u64::from_str_radix(id, 36).ok().filter(|n| lower && *n < u64::MAX / 2)
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}
