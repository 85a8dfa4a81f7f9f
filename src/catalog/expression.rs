//! Typing expressions against what they may read.
//!
//! In: SQL texts and the names in reach. Out: typed expressions of the types tagloom keeps.
//! Invariant: a name whose own definition is wrong gives no second error where it is used.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::datatypes::DataType;

use super::model::{Param, TypedExpr};
use super::place::{Diagnostics, Place};
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

    fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name) || (self.incomplete && !self.knows(name))
    }

    fn knows(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Only what an expression reads where all of it is known (typing is then independent of the
    /// size of the catalogue); else everything, for suggestions.
    fn narrowed(&self, names: &[(String, Place)]) -> Vec<(String, DataType)> {
        if !names.iter().all(|(n, _)| self.knows(n)) {
            return self.columns.clone();
        }
        let mut read: Vec<usize> =
            names.iter().filter_map(|(n, _)| self.index.get(n).copied()).collect();
        read.sort_unstable();
        read.dedup();
        read.iter().filter_map(|i| self.columns.get(*i).cloned()).collect()
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
        let names = sql::names(text, out)?;
        if names.iter().any(|(name, _)| reach.is_broken(name)) {
            return None;
        }
        let columns = reach.narrowed(&names);
        let scope =
            Scope { columns: &columns, params: self.params, zone: self.zone, kind: self.kind };
        sql::compile(text, &scope, out)
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

/// A type as people say it.
pub(super) fn words(data_type: &DataType) -> String {
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
        T::Null => "NULL".into(),
        T::Interval(_) | T::Duration(_) => "a length of time".into(),
        other => format!("a value of type {other}"),
    }
}

/// Whether cuts can be laid over it.
pub(super) fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Float64 | DataType::Decimal128(..))
}
