//! What of a catalogue is given out, as JSON.
//!
//! In: a compiled catalogue; users' codes and values. Out: JSON, typed: `true`, `12.50`, `"high"`,
//! `[1,2]`, `null` for no value. Names and labels are written out once a catalogue, so that an answer
//! is mostly copying.
//! Invariant: a shadow tag is never in it.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::notes::Mark;
use crate::catalog::model::{Domain, Tag};
use crate::engine::ruleset::Ruleset;
use crate::rule::sql::nearest;

/// A user's tags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// Whose.
    pub uid: String,
    /// The instant the values are true at, epoch milliseconds.
    pub as_of_ms: i64,
    /// From when on a value may be another without an event, epoch milliseconds; null: never.
    pub due_ms: Option<i64>,
    /// The instant the stored profile was computed for, epoch milliseconds.
    pub stored_as_of_ms: i64,
    /// Writes of this profile so far.
    pub version: u64,
    /// The number of the catalogue whose rules these are.
    pub catalog_version: u32,
    /// The values were computed for this answer; false: they are as stored.
    pub evaluated: bool,
    /// In which ways something is not exact or not usual.
    pub marks: Vec<Mark>,
    /// The same in words.
    pub notes: Vec<String>,
    /// Values by tag: boolean, number, text, list; null: no value. Dates and instants are text.
    pub tags: BTreeMap<String, serde_json::Value>,
}

/// A tag of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagBody {
    /// Its name.
    pub name: String,
    /// What it means.
    pub doc: String,
    /// `bool`, `label`, or the type of its values: `int`, `decimal`, `float`, `string`, `date`,
    /// `timestamp`, `list`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The labels it may have, if they are known beforehand.
    pub labels: Option<Vec<String>>,
    /// Who answers for it.
    pub owner: String,
    /// What it belongs to.
    pub group: String,
    /// Names it had before.
    pub was: Vec<String>,
    /// It should not be used any more, and what should be instead; null: it may be.
    pub deprecated: Option<String>,
    /// The first instant at which it has values, epoch milliseconds; null: always.
    pub valid_from_ms: Option<i64>,
    /// The first instant at which it has none any more, epoch milliseconds; null: never.
    pub valid_until_ms: Option<i64>,
    /// Free-form pairs.
    pub meta: BTreeMap<String, String>,
}

/// Where a tag's value stands in an answer.
#[derive(Debug)]
enum Place {
    Closed { at: usize, labels: Vec<Box<str>> },
    Open(usize),
}

#[derive(Debug)]
struct Column {
    /// `"name":`
    key: Box<str>,
    place: Place,
}

/// What of a catalogue is given out.
#[derive(Debug)]
pub struct Published {
    version: u32,
    /// By catalogue tag index; none: a shadow tag.
    columns: Vec<Option<Column>>,
    /// Catalogue tag index by name.
    names: HashMap<Box<str>, usize>,
    /// All that are given out, in catalogue order.
    all: Vec<usize>,
    tags: Vec<TagBody>,
}

/// A tag that is not given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// No tag has this name.
    #[error("the catalogue has no tag `{name}`{hint}; GET /v1/tags lists all")]
    Unknown {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`
        hint: String,
    },
    /// It is a shadow tag.
    #[error("`{0}` is a shadow tag: it is computed and counted, but not published")]
    Shadow(String),
}

impl Published {
    /// Prepares a catalogue.
    pub fn new(ruleset: &Ruleset) -> Self {
        let catalog = &ruleset.catalog;
        let plan = &ruleset.plan;
        let mut columns: Vec<Option<Column>> = catalog.tags.iter().map(|_| None).collect();
        let published = |tag: usize| !catalog.tags[tag].terms.shadow;
        let key = |tag: usize| format!("{}:", json(&catalog.tags[tag].name)).into();
        for (at, tag) in plan.closed_tags().iter().copied().enumerate().filter(|t| published(t.1)) {
            let labels = labels(&catalog.tags[tag]);
            columns[tag] = Some(Column { key: key(tag), place: Place::Closed { at, labels } });
        }
        for (at, tag) in plan.open_tags().iter().copied().enumerate().filter(|t| published(t.1)) {
            columns[tag] = Some(Column { key: key(tag), place: Place::Open(at) });
        }
        let names = catalog.tags.iter().enumerate().map(|(at, t)| (t.name.as_str().into(), at));
        let all: Vec<usize> = (0..columns.len()).filter(|at| columns[*at].is_some()).collect();
        let tags = all.iter().map(|at| tag_body(&catalog.tags[*at])).collect();
        Self { version: ruleset.version, names: names.collect(), columns, all, tags }
    }

    /// All tags that are given out, in catalogue order.
    pub fn tags(&self) -> &[TagBody] {
        &self.tags
    }

    /// The number of the catalogue's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A tag's index in the catalogue.
    pub fn find(&self, name: &str) -> Result<usize, NotPublished> {
        match self.names.get(name) {
            Some(at) if self.columns[*at].is_some() => Ok(*at),
            Some(_) => Err(NotPublished::Shadow(name.to_owned())),
            None => {
                let known = self.tags.iter().map(|tag| tag.name.as_str());
                let hint = nearest(name, known).map(|n| format!("; did you mean `{n}`?"));
                let hint = hint.unwrap_or_default();
                Err(NotPublished::Unknown { name: name.to_owned(), hint })
            }
        }
    }

    /// Writes a user as [`UserBody`]. `asked`: tags by catalogue index; none: all.
    pub fn write(&self, answer: &Answer, asked: Option<&[usize]>, out: &mut Vec<u8>) {
        let uid = json(&answer.uid.to_string());
        let due = answer.due_ms.map_or_else(|| "null".to_owned(), |due| due.to_string());
        let marks = serde_json::to_string(&answer.marks()).unwrap_or_default();
        let notes: Vec<&str> = answer.notes.iter().map(|note| note.text.as_str()).collect();
        let notes = serde_json::to_string(&notes).unwrap_or_default();
        let head = format!(
            "{{\"uid\":{uid},\"as_of_ms\":{},\"due_ms\":{due},\"stored_as_of_ms\":{},\"version\":{},\
             \"catalog_version\":{},\"evaluated\":{},\"marks\":{marks},\"notes\":{notes},\"tags\":{{",
            answer.as_of_ms, answer.stored_as_of_ms, answer.version, self.version, answer.evaluated,
        );
        out.extend_from_slice(head.as_bytes());
        let before = out.len();
        for column in asked.unwrap_or(&self.all).iter().filter_map(|at| self.columns[*at].as_ref())
        {
            if out.len() > before {
                out.push(b',');
            }
            out.extend_from_slice(column.key.as_bytes());
            column.place.write(answer, out);
        }
        out.extend_from_slice(b"}}");
    }
}

impl Place {
    fn write(&self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Closed { at, labels } => {
                let code = answer.codes.get(*at).copied().unwrap_or(0);
                let label = usize::from(code).checked_sub(1).and_then(|at| labels.get(at));
                out.extend_from_slice(label.map_or("null", |label| label).as_bytes());
            }
            Self::Open(at) => match answer.open.get(*at).and_then(Option::as_ref) {
                Some(value) => out.extend_from_slice(value.json().as_bytes()),
                None => out.extend_from_slice(b"null"),
            },
        }
    }
}

/// Text as JSON.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A closed tag's labels as JSON values, by code minus one.
fn labels(tag: &Tag) -> Vec<Box<str>> {
    match &tag.domain {
        Domain::Closed { bool: true, labels } => {
            labels.iter().map(|label| label.as_str().into()).collect()
        }
        Domain::Closed { labels, .. } => labels.iter().map(|label| json(label).into()).collect(),
        Domain::Open(_) => Vec::new(),
    }
}

fn tag_body(tag: &Tag) -> TagBody {
    let (kind, labels) = match &tag.domain {
        Domain::Closed { bool: true, .. } => ("bool", None),
        Domain::Closed { labels, .. } => ("label", Some(labels.clone())),
        Domain::Open(data_type) => (type_name(data_type), None),
    };
    TagBody {
        name: tag.name.clone(),
        doc: tag.doc.clone(),
        kind: kind.to_owned(),
        labels,
        owner: tag.owner.clone(),
        group: tag.group.clone(),
        was: tag.was.clone(),
        deprecated: tag.terms.deprecated.clone(),
        valid_from_ms: tag.terms.valid.from_ms,
        valid_until_ms: tag.terms.valid.until_ms,
        meta: tag.meta.clone(),
    }
}

fn type_name(data_type: &arrow::datatypes::DataType) -> &'static str {
    use arrow::datatypes::DataType as D;
    match data_type {
        D::Boolean => "bool",
        D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => {
            "int"
        }
        D::Float32 | D::Float64 => "float",
        D::Decimal128(..) | D::Decimal256(..) => "decimal",
        D::Date32 | D::Date64 => "date",
        D::Timestamp(..) => "timestamp",
        D::List(_) | D::LargeList(_) => "list",
        _ => "string",
    }
}
