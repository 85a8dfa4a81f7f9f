//! Typing expressions against what they may read.
//!
//! In: SQL texts and the names in reach. Out: typed expressions of the types tagloom keeps.
//! Invariant: a name whose own definition is wrong gives no second error where it is used.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::datatypes::DataType;

use super::model::{Param, TypedExpr};
use super::place::{Diagnostic, Diagnostics, Place, Severity};
use super::sql_text::SqlText;
use crate::clock::Zone;
use crate::rule::sql::{self, Scope, ScopeKind};

/// What an expression may read.
#[derive(Debug, Default, Clone)]
pub(super) struct Reach {
    columns: Vec<(String, DataType)>,
    index: HashMap<String, usize>,
    broken: HashSet<String>,
    /// A file could not be read, so that an unknown name may well be in there.
    pub(super) incomplete: bool,
}

impl Reach {
    /// Adds a name of known type.
    pub(super) fn add(&mut self, name: &str, data_type: DataType) {
        self.broken.remove(name);
        self.index.insert(name.to_owned(), self.columns.len());
        self.columns.push((name.to_owned(), data_type));
    }

    /// Adds a name whose definition is wrong.
    pub(super) fn add_broken(&mut self, name: &str) {
        if !self.index.contains_key(name) {
            self.broken.insert(name.to_owned());
        }
    }

    /// The type of a name.
    pub(super) fn data_type(&self, name: &str) -> Option<&DataType> {
        self.index.get(name).and_then(|i| self.columns.get(*i)).map(|(_, t)| t)
    }

    /// Whether a name is defined, but wrongly.
    pub(super) fn is_wrong(&self, name: &str) -> bool {
        self.broken.contains(name)
    }

    /// Whether an unknown name may be left unsaid: its definition is wrong or could not be read.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name) || (self.incomplete && !self.knows(name))
    }

    fn knows(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Only what an expression reads where all of it is known (typing is then independent of the
    /// size of the catalogue); else everything, for suggestions. Names that are themselves wrong
    /// have the type of NULL, which goes with every other.
    fn narrowed(&self, names: &[(String, Place)]) -> Vec<(String, DataType)> {
        let wrong = names.iter().filter(|(n, _)| self.is_broken(n));
        let wrong = wrong.map(|(n, _)| (n.clone(), DataType::Null));
        if !names.iter().all(|(n, _)| self.knows(n) || self.is_broken(n)) {
            return self.columns.iter().cloned().chain(wrong).collect();
        }
        let mut read: Vec<usize> =
            names.iter().filter_map(|(n, _)| self.index.get(n).copied()).collect();
        read.sort_unstable();
        read.dedup();
        let known = read.iter().filter_map(|i| self.columns.get(*i).cloned());
        known.chain(wrong).collect()
    }
}

/// Types expressions of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typer<'a> {
    pub(super) params: &'a BTreeMap<String, Param>,
    pub(super) zone: &'a Zone,
    pub(super) kind: ScopeKind,
}

impl Typer<'_> {
    /// Types an expression. `None` without an error: it reads a name that is itself wrong.
    pub(super) fn any(
        &self,
        text: &SqlText,
        reach: &Reach,
        out: &mut Diagnostics,
    ) -> Option<TypedExpr> {
        let names = names(text, out)?;
        let wrong: Vec<Place> =
            names.iter().filter(|(name, _)| reach.is_broken(name)).map(|(_, p)| *p).collect();
        let columns = reach.narrowed(&names);
        let scope =
            Scope { columns: &columns, params: self.params, zone: self.zone, kind: self.kind };
        let mut found = Diagnostics::default();
        let typed = guarded(text, &scope, &mut found);
        // What is said of a part that reads a wrong name may come of that; the rest stands.
        let hangs_on_wrong =
            |d: &Diagnostic| wrong.iter().any(|p| d.place.start <= p.start && p.end <= d.place.end);
        found.items.retain(|d| !hangs_on_wrong(d));
        self.pass_on(found, out);
        let typed = typed.filter(|_| wrong.is_empty())?;
        if let DataType::Decimal128(p, scale @ ..0) = typed.data_type {
            let message = format!("a decimal({p},{scale}) is not kept");
            out.error(text.whole(), message, "give it 0 or more digits behind the point");
            return None;
        }
        Some(typed)
    }

    fn pass_on(&self, found: Diagnostics, out: &mut Diagnostics) {
        for mut item in found.items {
            let (what, which) = match self.kind {
                ScopeKind::Row => ("column", "row expressions read the stream's columns"),
                ScopeKind::Tag => ("feature", "tags read features, dimension columns and tags"),
            };
            if let Some(name) = item.message.strip_prefix("unknown name ") {
                item.message = format!("unknown {what} {name}");
                if item.remedy.is_empty() {
                    item.remedy = which.to_owned();
                }
            }
            forward(item, out);
        }
    }

    /// The type of an expression.
    pub(super) fn type_of(
        &self,
        text: &SqlText,
        reach: &Reach,
        out: &mut Diagnostics,
    ) -> Option<DataType> {
        match reach.data_type(text.sql().trim()) {
            Some(known) => Some(known.clone()),
            None => self.any(text, reach, out).map(|typed| typed.data_type),
        }
    }

    /// As [`Self::any`], for an expression that must be true or false.
    pub(super) fn condition(
        &self,
        text: &SqlText,
        what: &str,
        reach: &Reach,
        out: &mut Diagnostics,
    ) -> Option<TypedExpr> {
        let typed = self.any(text, reach, out)?;
        if typed.data_type == DataType::Boolean {
            return Some(typed);
        }
        let message = format!("{what} must be true or false, this is {}", words(&typed.data_type));
        out.error(text.whole(), message, "compare it with something, like `... > 0`");
        None
    }
}

/// DataFusion panics on some absurd inputs (a decimal of negative scale compared with a number, in
/// builds with overflow checks); an author's text must not end the process that checks it.
fn guarded(text: &SqlText, scope: &Scope<'_>, out: &mut Diagnostics) -> Option<TypedExpr> {
    let mut found = Diagnostics::default();
    // `found` is thrown away when the closure unwinds, so that nothing half done is seen.
    let compile = std::panic::AssertUnwindSafe(|| sql::compile(text, scope, &mut found));
    match std::panic::catch_unwind(compile) {
        Ok(typed) => {
            out.items.append(&mut found.items);
            typed
        }
        Err(_) => {
            let remedy = "write it more simply; numbers have at most 38 digits";
            out.error(text.whole(), "this expression cannot be planned", remedy);
            None
        }
    }
}

/// The names an expression reads, before it is typed; `None`, with the reasons, when it is not SQL.
pub(super) fn names(text: &SqlText, out: &mut Diagnostics) -> Option<Vec<(String, Place)>> {
    let mut found = Diagnostics::default();
    let names = sql::names(text, &mut found);
    found.items.into_iter().for_each(|item| forward(item, out));
    names
}

/// Adds what the SQL compiler said; nothing is said without a remedy.
fn forward(item: Diagnostic, out: &mut Diagnostics) {
    let remedy = if item.remedy.is_empty() {
        "`tagloom sql TAG` prints the whole expression; docs/catalogue.md shows what may stand here"
            .to_owned()
    } else {
        item.remedy
    };
    match item.severity {
        Severity::Error => out.error(item.place, item.message, remedy),
        Severity::Warning => out.warn(item.place, item.message, remedy),
    }
}

/// A type as people say it.
pub fn words(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "text".into(),
        T::Boolean => "true or false".into(),
        T::Date32 | T::Date64 => "a date".into(),
        T::Timestamp(..) => "a timestamp".into(),
        T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s) | T::Decimal256(p, s) => {
            format!("a decimal({p},{s})")
        }
        T::Float16 | T::Float32 | T::Float64 => "a float".into(),
        t if t.is_integer() => "a whole number".into(),
        T::List(_) => "a list".into(),
        T::Null => "NULL".into(),
        T::Interval(_) | T::Duration(_) => "a length of time".into(),
        other => format!("a value of type {other}"),
    }
}

/// Whether cuts can be laid over it.
pub(super) fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Float64 | DataType::Decimal128(..))
}
