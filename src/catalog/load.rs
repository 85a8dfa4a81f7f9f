//! From a rule directory to a checked [`Catalog`].
//!
//! In: a directory, or its files. Out: [`Loaded`], or all errors over all files.
//! Invariant: reads files and nothing else; a catalogue with an error is never given out.

use std::path::{Path, PathBuf};

use super::build::Build;
use super::case;
use super::dimension;
use super::expression::Typer;
use super::feature;
use super::lock::{LOCK_FILE, Lock};
use super::model::{Catalog, Stream, Tag, TypedExpr};
use super::place::{Diagnostics, FileId, Files, Place};
use super::report::Origin;
use super::settings::Settings;
use super::stream;
use super::tag;
use super::yaml::{self, Node, Value};
use crate::rule::sql::ScopeKind;

/// A catalogue file larger than this is refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

const SETTINGS_FILE: &str = "catalog.yaml";
const FOLDERS: [&str; 4] = ["streams", "dimensions", "features", "rules"];

/// A catalogue that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Checked.
    pub catalog: Catalog,
    /// What places point into.
    pub files: Files,
    /// The files: path inside the directory, and text. [`load_from`] takes them.
    pub texts: Vec<(String, String)>,
    /// What is likely not what was meant.
    pub warnings: Diagnostics,
    /// `ids.lock` as it is.
    pub lock: Lock,
    /// What `tagloom check --write` would change in the lock, a line each. Labels without a code
    /// have provisional ones; tags without an id have `""`.
    pub lock_behind: Vec<String>,
}

/// Why there is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The author's: errors in the files (warnings are in there too).
    #[error("{}", super::render::render(diagnostics, files, false).trim_end())]
    Wrong {
        /// What places point into.
        files: Files,
        /// All errors and warnings.
        diagnostics: Diagnostics,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}; check that it exists and may be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Loads a rule directory.
pub fn load(dir: &Path) -> Result<Loaded, LoadError> {
    load_from(&dir.to_string_lossy(), read(dir)?)
}

/// The files of a rule directory: path inside it, and text.
pub fn read(dir: &Path) -> Result<Vec<(String, String)>, LoadError> {
    let mut found = Vec::new();
    for name in [SETTINGS_FILE, LOCK_FILE] {
        let path = dir.join(name);
        if path.exists() {
            found.push(path);
        }
    }
    read_dir(dir, |path, is_dir| {
        // Most likely a rule file in the wrong place: the loader says so.
        if !is_dir && is_yaml(path) && path.file_name().is_none_or(|n| n != SETTINGS_FILE) {
            found.push(path.to_owned());
        }
    })?;
    for folder in FOLDERS {
        let path = dir.join(folder);
        if path.is_dir() {
            collect(&path, &mut found)?;
        }
    }
    let mut files = Vec::new();
    for path in found {
        let fail = |source| LoadError::Io { path: path.clone(), source };
        let bytes = std::fs::metadata(&path).map_err(fail)?.len();
        if bytes > FILE_BYTES_MAX {
            let why = format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20);
            return Err(fail(std::io::Error::other(why)));
        }
        let text = std::fs::read_to_string(&path).map_err(fail)?;
        let inside = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        files.push((inside, text));
    }
    Ok(files)
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

fn read_dir(dir: &Path, mut each: impl FnMut(&Path, bool)) -> Result<(), LoadError> {
    let fail = |source| LoadError::Io { path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        each(&path, path.is_dir());
    }
    Ok(())
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let mut folders = Vec::new();
    read_dir(dir, |path, is_dir| {
        if is_dir {
            folders.push(path.to_owned());
        } else if is_yaml(path) {
            found.push(path.to_owned());
        }
    })?;
    folders.iter().try_for_each(|folder| collect(folder, found))
}

/// Loads a catalogue from its files: path inside the directory, and text. `dir` is how the
/// directory is called in messages.
pub fn load_from(dir: &str, texts: Vec<(String, String)>) -> Result<Loaded, LoadError> {
    let mut texts = texts;
    texts.sort();
    let prefix = match dir.trim_end_matches('/') {
        "" | "." => String::new(),
        dir => format!("{dir}/"),
    };
    let mut files = Files::default();
    let inside: Vec<(String, FileId)> = texts
        .iter()
        .map(|(path, text)| {
            let id = files.add(format!("{prefix}{path}"), text.as_str());
            (path.clone(), id)
        })
        .collect();
    let (catalog, diagnostics, lock, lock_behind) = compile(&prefix, &inside, &mut files);
    match catalog {
        Some(catalog) if !diagnostics.has_errors() => {
            Ok(Loaded { catalog, files, texts, warnings: diagnostics, lock, lock_behind })
        }
        _ => Err(LoadError::Wrong { files, diagnostics }),
    }
}

/// The documents of one folder.
#[derive(Default)]
struct Folder {
    documents: Vec<Node>,
    /// Some file could not be read to its end.
    incomplete: bool,
}

fn compile(
    prefix: &str,
    inside: &[(String, FileId)],
    files: &mut Files,
) -> (Option<Catalog>, Diagnostics, Lock, Vec<String>) {
    let mut out = Diagnostics::default();
    let settings = read_settings(prefix, inside, files, &mut out);
    let mut folders = FOLDERS.map(|name| read_folder(name, inside, files, &mut out));
    let lock = match inside.iter().find(|(path, _)| path == LOCK_FILE) {
        Some((_, id)) => Lock::parse(*id, files.text(*id), &mut out),
        None => Lock::default(),
    };
    for (path, id) in inside {
        let known = path == SETTINGS_FILE
            || path == LOCK_FILE
            || FOLDERS.iter().any(|f| path.starts_with(&format!("{f}/")));
        if !known {
            let remedy = format!("put it into one of {}", super::fields::listed(&FOLDERS));
            out.warn(Place { file: *id, start: 0, end: 0 }, "this file is not read", remedy);
        }
    }
    let mut build = Build::new(files, settings);
    build.reports.plain(|all| *all = out);
    let [streams, dimensions, features, rules] = &mut folders;
    build.streams_incomplete = streams.incomplete;
    build.reach.incomplete = dimensions.incomplete || features.incomplete || rules.incomplete;

    let streams = read_streams(&streams.documents, &mut build);
    features.documents.iter().for_each(|node| feature::read(node, &mut build));
    let drafts =
        dimensions.documents.iter().filter_map(|n| dimension::read(n, &mut build)).collect();
    dimension::resolve(drafts, &mut build);
    let mut drafts = Vec::new();
    rules.documents.iter().for_each(|node| tag::read(node, &mut build, &mut drafts));
    let (typed, order) = tag::type_all(&drafts, &mut build);
    let closed = closed(&mut build);
    let (tags, lock_behind) = put_together(&drafts, typed, &lock, &mut build);
    let all_typed = tags.len() == drafts.len();

    let Build { settings, features, dimensions, mut reports, .. } = build;
    let mut catalog = Catalog {
        name: settings.name,
        uid: settings.uid,
        zone: settings.zone,
        allowed_lateness_ms: settings.allowed_lateness_ms,
        max_ahead_ms: settings.max_ahead_ms,
        exact_values_max: settings.exact_values_max,
        params: settings.params,
        streams,
        dimensions,
        features,
        tags,
        tag_order: order,
        closed,
        cases: Vec::new(),
        removed: lock.removed(),
        fingerprint: 0,
    };
    // Cases speak of the catalogue by index, which only stands when all of it is right.
    if all_typed && !reports.has_errors() {
        catalog.cases = case::read_all(&drafts, &catalog, &mut reports);
    }
    catalog.fingerprint = super::fingerprint::of(&catalog);
    (all_typed.then_some(catalog), reports.finish(), lock, lock_behind)
}

/// The condition under which an account is closed. It reads tags: they are typed before it.
fn closed(build: &mut Build<'_>) -> Option<TypedExpr> {
    let text = build.settings.closed.clone()?;
    let Build { settings, reach, reports, .. } = build;
    let typer = Typer { params: &settings.params, zone: &settings.zone, kind: ScopeKind::Tag };
    reports.plain(|out| typer.condition(&text.sql(), "`closed`", reach, out))
}

fn read_settings(
    prefix: &str,
    inside: &[(String, FileId)],
    files: &mut Files,
    out: &mut Diagnostics,
) -> Settings {
    let Some((_, id)) = inside.iter().find(|(path, _)| path == SETTINGS_FILE) else {
        let file = files.add(format!("{prefix}{SETTINGS_FILE}"), "");
        let remedy = "write at least `name`, `uid` and `timezone` into it";
        out.error(Place { file, start: 0, end: 0 }, "there is no catalog.yaml", remedy);
        return Settings::defaults();
    };
    let documents = yaml::read(*id, files.text(*id), out);
    match documents.as_slice() {
        [] => {
            if !out.has_errors() {
                let remedy = "write at least `name`, `uid` and `timezone` into it";
                out.error(Place { file: *id, start: 0, end: 0 }, "this file is empty", remedy);
            }
            Settings::defaults()
        }
        [node, rest @ ..] => {
            if let Some(second) = rest.first() {
                out.error(second.place, "catalog.yaml has one document", "drop the `---`");
            }
            Settings::read(node, out)
        }
    }
}

fn read_folder(
    name: &str,
    inside: &[(String, FileId)],
    files: &Files,
    out: &mut Diagnostics,
) -> Folder {
    let mut folder = Folder::default();
    for (path, id) in inside {
        if !path.starts_with(&format!("{name}/")) {
            continue;
        }
        let mut wrong = Diagnostics::default();
        let documents = yaml::read(*id, files.text(*id), &mut wrong);
        if documents.is_empty() && !wrong.has_errors() {
            let place = Place { file: *id, start: 0, end: 0 };
            wrong.error(place, "this file is empty", "write a document into it, or delete it");
        }
        folder.incomplete |= wrong.has_errors();
        out.items.extend(wrong.items);
        for node in documents {
            match misplaced(name, &node) {
                Some((key, place, right)) => {
                    let message = format!("a {key} does not belong into {name}/");
                    out.error(place, message, format!("move it to {right}/"));
                    folder.incomplete = true;
                }
                None => folder.documents.push(node),
            }
        }
    }
    folder
}

/// What a document of another folder is, where it says so, and where it belongs.
fn misplaced(folder: &str, node: &Node) -> Option<(&'static str, Place, &'static str)> {
    let Value::Map(entries) = &node.value else { return None };
    let kinds = [
        ("stream", "streams"),
        ("dimension", "dimensions"),
        ("feature", "features"),
        ("tag", "rules"),
    ];
    // A feature also has a `stream:`; what a document is, its own folder's key says.
    let own = kinds.iter().find(|(_, home)| *home == folder)?;
    if entries.iter().any(|(key, _)| key.text == own.0) {
        return None;
    }
    let (key, _) = entries.first()?;
    let (kind, home) = kinds.iter().find(|(kind, _)| *kind == key.text)?;
    Some((kind, key.place, home))
}

fn read_streams(documents: &[Node], build: &mut Build<'_>) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for node in documents {
        let origin = Origin { item: build.next_item(), expansion: None };
        let settings = &build.settings;
        let known = &build.streams;
        let read = build.reports.on(&origin, |out| {
            let (scope, stream) = stream::read(node, settings, out);
            if let Some(scope) = &scope
                && known.iter().any(|s| s.name == scope.name)
            {
                out.error(
                    scope.place,
                    format!("two streams are named `{}`", scope.name),
                    "rename one",
                );
            }
            if let Some(stream) = &stream {
                stream::agree(stream, &streams, out);
            }
            (scope, stream)
        });
        let (Some(mut scope), stream) = read else {
            build.streams_incomplete = true;
            continue;
        };
        if let Some(stream) = stream {
            scope.index = Some(streams.len());
            streams.push(stream);
        }
        build.streams.push(scope);
    }
    streams
}

/// Tags with ids and label codes from the lock, and how far the lock is behind.
fn put_together(
    drafts: &[tag::Draft<'_>],
    typed: Vec<Option<tag::Typed>>,
    lock: &Lock,
    build: &mut Build<'_>,
) -> (Vec<Tag>, Vec<String>) {
    let mut behind = Vec::new();
    let mut tags = Vec::new();
    let names: std::collections::HashSet<&str> = drafts.iter().map(|d| d.name.as_str()).collect();
    let mut former: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    for (draft, typed) in drafts.iter().zip(typed) {
        build.reports.on(&draft.origin, |out| {
            for old in &draft.was {
                if names.contains(old.text.as_str()) {
                    let message = format!("`{}` is a tag of its own", old.text);
                    out.error(old.place, message, "`was` names what the tag was called before");
                } else if let Some(other) = former.insert(&old.text, &draft.name) {
                    let message =
                        format!("both `{other}` and `{}` were `{}`", draft.name, old.text);
                    out.error(old.place, message, "one tag takes over the id");
                }
            }
        });
        let Some(typed) = typed else { continue };
        let mut tag = Tag {
            name: draft.name.clone(),
            doc: draft.doc.clone(),
            owner: draft.owner.clone(),
            group: draft.group.clone(),
            meta: draft.meta.clone(),
            expr: typed.expr,
            domain: typed.domain,
            id: String::new(),
            was: draft.was.iter().map(|w| w.text.clone()).collect(),
            terms: typed.terms,
            place: draft.place,
        };
        lock.settle(&mut tag, &mut behind);
        tags.push(tag);
    }
    lock.gone(&tags, &mut behind);
    (tags, behind)
}
