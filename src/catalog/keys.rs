//! The keys of the rule language: what may stand in each mapping, and what it means.
//!
//! In: nothing. Out: the JSON Schema by which editors complete, explain and check a catalogue.
//! Invariant: every key that a reader asks for is described here, and every key described is asked
//! for; builds with debug assertions stop where that does not hold.

use serde_json::{Map, Value, json};

/// One key of a mapping.
struct Key {
    name: &'static str,
    needed: bool,
    takes: Takes,
    doc: &'static str,
}

/// What stands behind a key.
enum Takes {
    /// A text, number or `true`: to tagloom they are the characters in the file.
    Text,
    /// The same, one of these.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A list of texts.
    List,
    /// One text or several.
    TextOrList,
    /// Names and texts.
    Texts,
    /// Names and lists of texts.
    Lists,
    /// A list of names and texts.
    ListOfTexts,
    /// Another mapping.
    One(&'static str),
    /// A list of them.
    Many(&'static str),
    /// Names, each with a type, or with such a mapping.
    Columns(&'static str),
    /// Names, each with a list of rows.
    Rows,
    /// Names and texts; null is no value.
    Values,
    /// Names, each with names and texts.
    ValuesAfter,
}

/// What may stand in one kind of mapping.
struct Mapping {
    /// As in messages: `a stream`.
    what: &'static str,
    doc: &'static str,
    keys: &'static [Key],
}

const fn needs(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, needed: true, takes, doc }
}

const fn may(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, needed: false, takes, doc }
}

const MATRIX: &str = "Names of variables and their values: one definition for each combination, \
     `{name}` is put in wherever it stands.";
const EXCLUDE: &str = "Combinations of the matrix that are left out.";
const DOC: &str = "What it is, for people.";
const CUTS: &str = "Increasing numbers: the label at the number of cuts that are less than or equal \
     to the value.";
const LABELS: &str = "One more than cuts.";

const BANDS: &[Key] = &[
    needs("of", Takes::Text, "SQL: the number, for `recency` the instant."),
    needs("cuts", Takes::List, CUTS),
    needs("labels", Takes::List, LABELS),
    may("missing", Takes::Text, "The label of NULL; without it there is no value."),
];

const MAPPINGS: &[Mapping] = &[
    Mapping {
        what: "catalog.yaml",
        doc: "What holds for the whole catalogue.",
        keys: &[
            needs("name", Takes::Text, "The catalogue's name."),
            needs("uid", Takes::Word(&["u64", "string"]), "The type of the users' keys."),
            needs("timezone", Takes::Text, "Where days begin: an IANA name, like Europe/London."),
            may("allowed_lateness", Takes::Text, "How late an event may come, like 7d."),
            may("max_ahead", Takes::Text, "How far in the future an event may lie, like 1d."),
            may("exact_values_max", Takes::Text, "Distinct values counted exactly, per feature."),
            may("params", Takes::Texts, "`$name` in any expression stands for its value."),
            may("closed", Takes::Text, "SQL: the account of a user for whom it is true is closed."),
        ],
    },
    Mapping {
        what: "a stream",
        doc: "Where events come from, and what they mean.",
        keys: &[
            needs("stream", Takes::Text, "Its name."),
            may("doc", Takes::Text, DOC),
            needs("from", Takes::One("`from`"), "The source of the rows."),
            needs(
                "columns",
                Takes::Columns("a column"),
                "Columns: `name: type`. `?` behind a \
                 type: may be missing or null.",
            ),
            may("derive", Takes::Texts, "SQL over the row, usable like columns."),
            may("where", Takes::Text, "SQL: rows for which it is not true are no events."),
            needs("uid", Takes::Text, "The column that names the user."),
            needs("time", Takes::Text, "The column with the event time."),
            may("dedupe", Takes::One("`dedupe`"), "How a second sight of an event is known."),
            may(
                "mode",
                Takes::Word(&["append", "changelog"]),
                "Rows are events, or changes of a table's rows.",
            ),
            may("primary_key", Takes::TextOrList, "Changelog: what tells the table's rows apart."),
            may(
                "version",
                Takes::Text,
                "Changelog: the column of which a row's greatest value counts; `log_position` is \
                 where Debezium or Maxwell found the change.",
            ),
            may("operation", Takes::One("`operation`"), "Changelog: what happened to the row."),
            may("before", Takes::Text, "Changelog: the member that holds the row as it was."),
            may("rows_max", Takes::Text, "Changelog: rows kept for a user."),
        ],
    },
    Mapping {
        what: "`from`",
        doc: "The source of a stream's rows.",
        keys: &[
            may(
                "file",
                Takes::Text,
                "A file, relative to the catalogue's folder; plain, .gz or \
                 .zst.",
            ),
            may("kafka", Takes::Text, "A Kafka topic."),
            may(
                "format",
                Takes::Word(&["csv", "json", "parquet", "debezium", "maxwell", "canal"]),
                "How rows are written.",
            ),
            may(
                "table",
                Takes::TextOrList,
                "Debezium, Maxwell and canal: whose rows are read, like shop.orders; `*` stands for \
                 any characters.",
            ),
        ],
    },
    Mapping {
        what: "a column",
        doc: "A column of a stream.",
        keys: &[
            needs(
                "type",
                Takes::Text,
                "u64, int, float, decimal(p,s), string, bool, date or \
                 timestamp(...); `?` behind it: may be missing or null.",
            ),
            may("from", Takes::Text, "Its name in the source, where that is another."),
            may(
                "envelope",
                Takes::Text,
                "Debezium, Maxwell and canal: what it is in the envelope, like source.ts_ms, where \
                 it is no column of the row.",
            ),
            may("mask", Takes::Bool, "Hide the value in rejects, logs and `why`."),
        ],
    },
    Mapping {
        what: "`dedupe`",
        doc: "How a second sight of an event is known.",
        keys: &[
            needs(
                "by",
                Takes::Text,
                "The column with the event's id; `log_position` is where Debezium or Maxwell found \
                 the change.",
            ),
            may("within", Takes::Text, "How long ids are remembered, like 7d."),
        ],
    },
    Mapping {
        what: "`operation`",
        doc: "What happened to a row of a table.",
        keys: &[
            needs("column", Takes::Text, "The column that says it."),
            may("insert", Takes::TextOrList, "Its words for a row that was added or read."),
            may("update", Takes::TextOrList, "Its words for a row that was changed."),
            may("delete", Takes::TextOrList, "Its words for a row that is gone."),
        ],
    },
    Mapping {
        what: "a feature",
        doc: "What is counted for each user.",
        keys: &[
            needs("feature", Takes::Text, "Its name."),
            may("doc", Takes::Text, DOC),
            needs("stream", Takes::Text, "The stream it looks at."),
            needs("value", Takes::Text, "An aggregate over columns, like sum(amount)."),
            may("where", Takes::Text, "SQL: only events for which it is true."),
            needs(
                "window",
                Takes::Text,
                "How far back: whole days like 30d, hours or minutes like 6h, or lifetime.",
            ),
            may("offset", Takes::Text, "Moves the window back by whole days, like 30d."),
            may("matrix", Takes::Lists, MATRIX),
            may("exclude", Takes::ListOfTexts, EXCLUDE),
        ],
    },
    Mapping {
        what: "a dimension",
        doc: "A table of attributes, looked up by a key.",
        keys: &[
            needs("dimension", Takes::Text, "Its name."),
            may("doc", Takes::Text, DOC),
            may("table", Takes::Text, "The loaded table, where it is called otherwise."),
            may("file", Takes::Text, "A CSV or Parquet file that `run` loads when it changed."),
            may(
                "topic",
                Takes::Text,
                "A topic that keeps the table, in the store or (broadcast) in memory.",
            ),
            needs("key", Takes::Text, "uid, a feature, or a column of another dimension."),
            may("prefix", Takes::Text, "Stands before the columns' names; without it NAME_."),
            needs("columns", Takes::Columns("a dimension column"), "Columns: `name: type`."),
            may(
                "strategy",
                Takes::Word(&["preload", "cached", "direct", "broadcast"]),
                "Hold the table in memory, look rows up and keep them for a while, look them up \
                 anew by every window, or hold in memory what a topic says.",
            ),
            may("ttl", Takes::Text, "How long a cached row is used, like 1h."),
            may("max_stale", Takes::Text, "How much longer when the table cannot be read."),
        ],
    },
    Mapping {
        what: "a dimension column",
        doc: "A column of a dimension.",
        keys: &[
            needs(
                "type",
                Takes::Text,
                "u64, int, float, decimal(p,s), string, bool, date or \
                 timestamp(...).",
            ),
            may("from", Takes::Text, "Its name in the table, where that is another."),
        ],
    },
    Mapping {
        what: "a tag",
        doc: "A rule: a value for each user.",
        keys: &[
            needs("tag", Takes::Text, "Its name."),
            may("doc", Takes::Text, DOC),
            may("owner", Takes::Text, "Who answers for it."),
            may("group", Takes::Text, "What it belongs to."),
            may("meta", Takes::Texts, "Whatever other tools want to know."),
            may("was", Takes::TextOrList, "What it was called before: it keeps its id."),
            may("expr", Takes::Text, "SQL over features, dimension columns, tags and params."),
            may("bands", Takes::One("`bands`"), "A label by the size of a number."),
            may("ratio", Takes::One("`ratio`"), "A label by the size of a fraction."),
            may("recency", Takes::One("`recency`"), "A label by how many days ago."),
            may("map", Takes::One("`map`"), "A label for each value."),
            may("labels", Takes::List, "All values, in the order of their codes."),
            may("cases", Takes::Many("a case"), "Examples that `tagloom test` runs."),
            may("deprecated", Takes::Text, "What to read instead, or true."),
            may("valid_from", Takes::Text, "The first day or instant with a value."),
            may(
                "valid_until",
                Takes::Text,
                "The last day with a value, or the first instant \
                 without one.",
            ),
            may("shadow", Takes::Bool, "Compute and count, but do not publish."),
            may(
                "expect",
                Takes::One("`expect` of a tag"),
                "What must hold over all users: \
                 `tagloom test --store`.",
            ),
            may("matrix", Takes::Lists, MATRIX),
            may("exclude", Takes::ListOfTexts, EXCLUDE),
        ],
    },
    Mapping { what: "`bands`", doc: "A label by the size of a number.", keys: BANDS },
    Mapping { what: "`recency`", doc: "Bands of the days since an instant.", keys: BANDS },
    Mapping {
        what: "`ratio`",
        doc: "Bands of num / den, exact.",
        keys: &[
            needs("num", Takes::Text, "SQL: the number above."),
            needs("den", Takes::Text, "SQL: the number below."),
            needs("cuts", Takes::List, CUTS),
            needs("labels", Takes::List, LABELS),
            may(
                "default",
                Takes::Text,
                "The label where num or den is NULL, or den is not \
                 above 0.",
            ),
        ],
    },
    Mapping {
        what: "`map`",
        doc: "A label for each value.",
        keys: &[
            needs("of", Takes::Text, "SQL: the value."),
            needs("to", Takes::Texts, "Values and their labels."),
            may("default", Takes::Text, "The label of all others, NULL included."),
        ],
    },
    Mapping {
        what: "`expect` of a tag",
        doc: "What must hold over all users of a store.",
        keys: &[
            may("accepted", Takes::List, "The only values."),
            may(
                "null_share_max",
                Takes::Text,
                "The greatest share of users without a value, \
                 0 to 1.",
            ),
        ],
    },
    Mapping {
        what: "a case",
        doc: "One user's events, and the tags they must give.",
        keys: &[
            may("doc", Takes::Text, DOC),
            may("as_of", Takes::Text, "The instant it is about; without it, noon of a fixed day."),
            may("given", Takes::Rows, "Rows by stream. Times like -20d are before `as_of`."),
            may("dimensions", Takes::Rows, "Rows by table, the key under `key`."),
            may("expect", Takes::Values, "Tags and their values; null: no value."),
            may("after", Takes::ValuesAfter, "The same, later, like 60d, without events."),
        ],
    },
];

/// Kinds of documents, and the key that tells them. A feature also has a `stream`, so it is asked
/// for before.
const DOCUMENTS: [(&str, &str); 4] = [
    ("tag", "a tag"),
    ("dimension", "a dimension"),
    ("feature", "a feature"),
    ("stream", "a stream"),
];

/// Stops when a reader asked for other keys than are described.
pub(super) fn agree(what: &str, asked: &[&'static str]) {
    let described = MAPPINGS.iter().find(|m| m.what == what).map_or(&[][..], |m| m.keys);
    for key in asked {
        let known = described.iter().any(|k| k.name == *key);
        assert!(known, "describe `{key}` of {what} in catalog/keys.rs");
    }
    for key in described {
        assert!(asked.contains(&key.name), "`{}` of {what} is not read", key.name);
    }
}

/// The JSON Schema (2020-12) of all files of a catalogue.
pub fn schema() -> Value {
    let mut defs = Map::new();
    for mapping in MAPPINGS {
        defs.insert(slug(mapping.what), mapping_schema(mapping));
    }
    let text = json!({"type": ["string", "number", "boolean"]});
    defs.insert("text".into(), text);
    let mut document = reference("catalog.yaml");
    for (key, what) in DOCUMENTS.iter().rev() {
        document = json!({
            "if": {"required": [key]},
            "then": reference(what),
            "else": document,
        });
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tagloom catalogue",
        "description": "A file of a rule directory: catalog.yaml, a stream, feature, dimension or tag.",
        "type": "object",
        "$defs": defs,
    });
    if let (Value::Object(schema), Value::Object(document)) = (&mut schema, document) {
        schema.extend(document);
    }
    schema
}

fn mapping_schema(mapping: &Mapping) -> Value {
    let properties: Map<String, Value> = mapping
        .keys
        .iter()
        .map(|key| {
            let mut takes = takes_schema(&key.takes);
            takes["description"] = key.doc.into();
            (key.name.to_owned(), takes)
        })
        .collect();
    let needed: Vec<&str> = mapping.keys.iter().filter(|k| k.needed).map(|k| k.name).collect();
    json!({
        "type": "object",
        "description": mapping.doc,
        "properties": properties,
        "required": needed,
        "additionalProperties": false,
    })
}

fn takes_schema(takes: &Takes) -> Value {
    let text = || json!({"$ref": "#/$defs/text"});
    let list = || json!({"type": "array", "items": text()});
    let map = |of: Value| json!({"type": "object", "additionalProperties": of});
    let value = || json!({"type": ["string", "number", "boolean", "null"]});
    // A tag's value may be a list.
    let expected = || json!({"anyOf": [value(), {"type": "array", "items": value()}]});
    match takes {
        Takes::Text => text(),
        Takes::Word(words) => json!({"enum": words}),
        Takes::Bool => json!({"type": "boolean"}),
        Takes::List => list(),
        Takes::TextOrList => json!({"anyOf": [text(), list()]}),
        Takes::Texts => map(text()),
        Takes::Lists => map(list()),
        Takes::ListOfTexts => json!({"type": "array", "items": map(text())}),
        Takes::One(what) => reference(what),
        Takes::Many(what) => json!({"type": "array", "items": reference(what)}),
        Takes::Columns(what) => map(json!({"anyOf": [text(), reference(what)]})),
        Takes::Rows => map(json!({"type": "array", "items": map(value())})),
        Takes::Values => map(expected()),
        Takes::ValuesAfter => map(map(expected())),
    }
}

fn reference(what: &str) -> Value {
    json!({"$ref": format!("#/$defs/{}", slug(what))})
}

/// `a stream` -> `stream`, `catalog.yaml` -> `catalog`.
fn slug(what: &str) -> String {
    let what = what.strip_prefix("a ").unwrap_or(what).trim_end_matches(".yaml");
    what.replace('`', "").replace(' ', "_")
}
