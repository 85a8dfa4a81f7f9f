//! The JSON Schema for editors accepts the catalogues that tagloom accepts, and refuses what an
//! editor should underline.
//!
//! The validator below knows the keywords that the schema uses and stops at any other, so that
//! nothing is accepted because it was not understood.
#![expect(clippy::unwrap_used, reason = "a broken file should stop the test")]

use std::path::Path;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

mod support;

/// YAML as an editor reads it: by the core schema, where `1` is a number and `true` a boolean.
fn as_json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(items) => items.iter().map(as_json).collect(),
        Yaml::Mapping(entries) => {
            let key = |yaml: &Yaml<'_>| match as_json(yaml) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(entries.iter().map(|(k, v)| (key(k), as_json(v))).collect())
        }
        other => panic!("{other:?} is not in a catalogue"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// All that `schema` finds wrong with a value.
fn wrong(root: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let valid = |schema: &Value| {
        let mut found = Vec::new();
        wrong(root, schema, value, at, &mut found);
        found.is_empty()
    };
    for (keyword, says) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "then" | "else" => {}
            "$ref" => {
                let pointer = says.as_str().unwrap().strip_prefix('#').unwrap();
                wrong(root, root.pointer(pointer).unwrap(), value, at, out);
            }
            "if" => {
                let branch = if valid(says) { "then" } else { "else" };
                wrong(root, &schema[branch], value, at, out);
            }
            "anyOf" if says.as_array().unwrap().iter().any(valid) => {}
            "anyOf" => out.push(format!("{at}: none of the alternatives")),
            "type" => {
                let is = |wanted: &Value| wanted == kind(value);
                let fits = says.as_array().map_or_else(|| is(says), |all| all.iter().any(is));
                if !fits {
                    out.push(format!("{at}: {} instead of {says}", kind(value)));
                }
            }
            "enum" if says.as_array().unwrap().contains(value) => {}
            "enum" => out.push(format!("{at}: {value} is not one of {says}")),
            "required" => {
                let has = |key: &Value| value.get(key.as_str().unwrap()).is_some();
                let lacks = says.as_array().unwrap().iter().filter(|key| !has(key));
                out.extend(lacks.map(|key| format!("{at}: lacks {key}")));
            }
            "items" => {
                for (nth, item) in value.as_array().into_iter().flatten().enumerate() {
                    wrong(root, says, item, &format!("{at}[{nth}]"), out);
                }
            }
            "properties" | "additionalProperties" => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    let at = format!("{at}.{key}");
                    let known = schema.get("properties").and_then(|p| p.get(key));
                    match (keyword.as_str(), known) {
                        ("properties", Some(schema)) => wrong(root, schema, item, &at, out),
                        ("additionalProperties", None) if *says == json!(false) => {
                            out.push(format!("{at}: unknown key"));
                        }
                        ("additionalProperties", None) => wrong(root, says, item, &at, out),
                        _ => {}
                    }
                }
            }
            other => panic!("the schema uses `{other}`, which this validator does not know"),
        }
    }
}

fn found(text: &str) -> Vec<String> {
    let schema = tagloom::catalog::schema();
    let mut out = Vec::new();
    for document in Yaml::load_from_str(text).unwrap() {
        wrong(&schema, &schema, &as_json(&document), "", &mut out);
    }
    out
}

#[test]
fn the_catalogues_of_this_repository_fit_the_schema() {
    let mut files = 0;
    for folder in ["tags", "benches/portrait/catalog", "tests/mistakes/base", "examples/debezium"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for (path, text) in support::yaml_files(&root) {
            assert_eq!(found(&text), [""; 0], "{folder}/{path}");
            files += 1;
        }
    }
    assert!(files > 30, "{files} files");
}

#[test]
fn what_an_editor_should_underline_is_refused() {
    let check = |text: &str, expected: &[&str]| assert_eq!(found(text), expected, "{text}");
    check("tag: a\nexpr: b\nownr: c\n", &[".ownr: unknown key"]);
    check("tag: a\nbands: {of: x, cuts: [1]}\n", &[".bands: lacks \"labels\""]);
    check("tag: a\nexpr: [b]\n", &[".expr: array instead of [\"string\",\"number\",\"boolean\"]"]);
    check("tag: a\nexpr: b\nshadow: perhaps\n", &[".shadow: string instead of \"boolean\""]);
    check("feature: a\nstream: s\nvalue: count()\n", &[": lacks \"window\""]);
    check(
        "dimension: a\nkey: b\ncolumns: {c: {typ: int}}\n",
        &[".columns.c: none of the alternatives"],
    );
    check(
        "name: a\nuid: i64\ntimezone: UTC\n",
        &[".uid: \"i64\" is not one of [\"u64\",\"string\"]"],
    );
    // Texts in the file that YAML reads as something else.
    check("tag: a\nmap: {of: x, to: {1: yes, 2.50: no}}\ncases: [{expect: {a: null}}]\n", &[]);
    check("tag: a\nexpr: b\n---\nname: shop\nuid: u64\ntimezone: UTC\nparams: {p: 0.10}\n", &[]);
}
