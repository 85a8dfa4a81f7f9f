//! The examples of `docs/catalogue.md` compile, and its cases hold.
//!
//! What follows `yaml` at the start of an example says how it is used: `file=PATH` is (a part of)
//! a file of a catalogue, `add=PATH` goes on where that file ends, `value` is the value of a tag,
//! `settings` are keys of a `catalog.yaml`. An example without any of these is a mistake. What the
//! guide `docs/question-to-tag.md` adds to the example catalogue compiles, too.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use tagloom::catalog::load_from;
use tagloom::catalog::model::Catalog;
use tagloom::engine::cases::CaseRunner;

/// What the examples read and the page does not define.
const BASE: [(&str, &str); 3] = [
    (
        "streams/others.yaml",
        "
stream: register
from: {file: register.jsonl}
columns: {customer: u64, at: timestamp(ms), country: string, city: string}
uid: customer
time: at
---
stream: cancel
from: {file: cancel.jsonl}
columns: {customer: u64, at: timestamp(ms), invoice: string, amount: 'decimal(12,3)?'}
uid: customer
time: at
",
    ),
    (
        "features/others.yaml",
        "
feature: last_bought
stream: consume
value: last_time()
window: lifetime
---
feature: returned_90d
stream: cancel
value: sum(amount)
window: 90d
---
feature: country
stream: register
value: last(country)
window: lifetime
---
feature: home_city
stream: register
value: last(city)
window: lifetime
",
    ),
    (
        "rules/others.yaml",
        "tag: eu_customer\ndoc: Lives in the EU.\nowner: growth\ngroup: geography\nexpr: country_eu\n",
    ),
];

/// Info string behind `yaml`, and text, of each example.
fn examples(page: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(info) => {
                if let Some(rest) = info.strip_prefix("yaml") {
                    inside = true;
                    examples.push((rest.trim().to_owned(), String::new()));
                }
            }
            None if inside => {
                let text = &mut examples.last_mut().unwrap().1;
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    examples
}

fn load(files: BTreeMap<String, String>) -> tagloom::catalog::Loaded {
    load_from("docs", files.into_iter().collect()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_examples_of_the_reference_compile_and_their_cases_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/catalogue.md");
    let examples = examples(&std::fs::read_to_string(path).unwrap());
    let mut files: BTreeMap<String, String> =
        BASE.map(|(p, t)| (p.to_owned(), t.to_owned())).into_iter().collect();
    for (number, (info, text)) in examples.iter().enumerate() {
        let value = format!("tag: value_{number}\ndoc: d\nowner: docs\ngroup: docs\n{text}");
        let (path, text) = match info.split_once('=') {
            Some(("add", path)) => {
                let file =
                    files.get_mut(path).unwrap_or_else(|| panic!("add={path}: no such file"));
                file.push_str(text);
                continue;
            }
            Some(("file", path)) => (path, text),
            None if info == "value" => ("rules/values.yaml", &value),
            None if info == "settings" => {
                let base = "name: docs\nuid: u64\ntimezone: UTC\n";
                load(BTreeMap::from([("catalog.yaml".to_owned(), format!("{base}{text}"))]));
                continue;
            }
            _ => panic!("an example without use: ```yaml {info}\n{text}"),
        };
        let file = files.entry(path.to_owned()).or_default();
        if !file.is_empty() {
            file.push_str("---\n");
        }
        file.push_str(text);
    }
    assert!(examples.len() >= 13, "{} examples", examples.len());
    let loaded = load(files);
    let warnings = tagloom::catalog::render(&loaded.warnings, &loaded.files, false);
    assert_eq!(warnings, "", "an example should not be warned of");
    assert!(!loaded.catalog.cases.is_empty());
    cases_hold(&loaded.catalog, |_| true);
}

#[test]
fn the_metrics_of_the_operations_guide_are_those_there_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- metrics -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- /metrics -->").unwrap();
    let now = tagloom::telemetry::table();
    if std::env::var_os("TAGLOOM_WRITE_DOCS").is_some() {
        let page = format!("{before}<!-- metrics -->\n{now}<!-- /metrics -->{after}");
        std::fs::write(&path, page).unwrap();
    } else {
        assert_eq!(table, now, "TAGLOOM_WRITE_DOCS=1 cargo test --test docs writes it anew");
    }
}

#[test]
fn the_operations_guide_names_every_limit_and_problem() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(path).unwrap();
    let config = tagloom::config::ServeConfig::default();
    let settings = serde_json::to_value(config).unwrap();
    for setting in settings.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`serve.{setting}")), "serve.{setting} is not in the guide");
    }
    let document: serde_json::Value =
        serde_json::from_str(&tagloom::serve::http::document()).unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(path.as_str()), "{path} is not in the guide");
    }
    for kind in tagloom::serve::http::Type::ALL {
        let row = format!("| `{}` | {} |", kind.name(), kind.status().0);
        assert!(page.contains(&row), "{row} is not in the guide");
    }
}

fn cases_hold(catalog: &Catalog, of: impl Fn(&str) -> bool) {
    let mut runner = CaseRunner::new(catalog).unwrap();
    for case in catalog.cases.iter().filter(|c| of(&catalog.tags[c.tag].name)) {
        let report = runner.run(case).unwrap();
        assert!(report.holds(), "{report:#?}");
    }
}

#[test]
fn what_the_guide_adds_to_the_example_catalogue_compiles_and_its_cases_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: BTreeMap<String, String> =
        support::yaml_files(&root.join("tags")).into_iter().collect();
    let guide = std::fs::read_to_string(root.join("docs/question-to-tag.md")).unwrap();
    let blocks = examples(&guide);
    let mut add = |path: &str, block: &str| files.get_mut(path).unwrap().push_str(block);
    add("features/orders.yaml", &blocks[0].1);
    add("rules/winback.yaml", &blocks[1].1);
    cases_hold(&load(files.clone()).catalog, |tag| tag == "regular_slowing");
    // The second thoughts.
    let rules = files.get_mut("rules/winback.yaml").unwrap();
    let after = rules.lines().rfind(|line| line.trim_start().starts_with("after:")).unwrap();
    let changed = rules.replace(after, blocks[2].1.trim_end());
    *rules = changed.replace("orders_90d_until_45d_ago < 3", "orders_90d_until_45d_ago < 2");
    cases_hold(&load(files).catalog, |tag| tag == "regular_slowing");
}
