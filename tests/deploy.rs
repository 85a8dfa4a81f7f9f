//! What stands in `deploy/` fits tagloom as it is: metrics, settings, the catalogue, files that are copied
//! or mounted; and each alert has its section in `docs/operations.md`.
#![expect(clippy::unwrap_used, reason = "a test stops where what it stands on does not hold")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;
use tagloom::engine::cases::CaseRunner;
use tagloom::telemetry::{Kind, Metric, names};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All files below a folder, by their path from the project's root.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn yaml(path: &str) -> Yaml<'static> {
    let text: &'static str = read(path).leak();
    let mut documents = Yaml::load_from_str(text).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn get<'a>(node: &'a Yaml<'static>, key: &str) -> &'a Yaml<'static> {
    node.as_mapping_get(key).unwrap_or_else(|| panic!("no {key} in {node:?}"))
}

fn text<'a>(node: &'a Yaml<'static>, key: &str) -> &'a str {
    get(node, key).as_str().unwrap_or_else(|| panic!("{key} is no text"))
}

fn alerts() -> Vec<Yaml<'static>> {
    let groups = yaml("deploy/prometheus/alerts.yaml");
    let groups = get(&groups, "groups").as_sequence().unwrap().clone();
    groups.iter().flat_map(|group| get(group, "rules").as_sequence().unwrap().clone()).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/dashboards/tagloom.json")).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// Each `tagloom_` word of a text, with what stands before and behind it.
fn words(text: &str) -> Vec<(&str, &str, &str)> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let found = text.match_indices("tagloom_").filter(|(at, _)| !text[..*at].ends_with(part));
    found
        .map(|(at, _)| {
            let end = text[at..].find(|c| !part(c)).map_or(text.len(), |len| at + len);
            (&text[..at], &text[at..end], &text[end..])
        })
        // `tagloom_` alone is the prefix of HBase's tables.
        .filter(|(_, word, _)| *word != "tagloom_")
        .collect()
}

/// The metric that a series is of.
fn metric(series: &str) -> Option<&'static Metric> {
    let named = |name: &str| names::ALL.iter().find(|metric| metric.name == name);
    named(series).or_else(|| {
        let parts = ["_bucket", "_sum", "_count"].iter();
        let mut of = parts.filter_map(|part| named(series.strip_suffix(part)?));
        of.find(|metric| metric.kind == Kind::Histogram)
    })
}

#[test]
fn every_metric_of_deploy_and_docs_is_one() {
    let mut paths = files("deploy");
    paths.extend(files("docs").into_iter().filter(|path| path.ends_with(".md")));
    paths.extend(["README.md".to_owned(), "CHANGELOG.md".to_owned()]);
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for path in &paths {
        for (_, word, _) in words(&read(path)) {
            match metric(word) {
                Some(metric) => _ = seen.insert(metric.name),
                None => wrong.push(format!("{path}: {word}")),
            }
        }
    }
    assert!(wrong.is_empty(), "not in src/telemetry/names.rs: {wrong:#?}");
    assert!(seen.len() > 40, "{seen:?}");
}

/// What is wrong with the series of an expression.
fn faults(expression: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (before, word, behind) in words(expression) {
        let Some(metric) = metric(word) else {
            faults.push(format!("{word}: no such metric"));
            continue;
        };
        let is_rate = before.ends_with("rate(") || before.ends_with("increase(");
        if is_rate != (metric.kind != Kind::Gauge) {
            faults.push(format!("{word}: counters need a rate, gauges have none"));
        }
        if (metric.kind == Kind::Histogram) != (word != metric.name) {
            faults.push(format!("{word}: of a histogram there are _bucket, _sum and _count"));
        }
        let Some((matchers, _)) = behind.strip_prefix('{').and_then(|m| m.split_once('}')) else {
            continue;
        };
        // No value in these files holds a comma.
        for matcher in matchers.split(',') {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            if !metric.labels.contains(&label) && label != "instance" {
                faults.push(format!("{word}: has no label {label}"));
            }
        }
    }
    faults
}

#[test]
fn expressions_ask_for_series_that_there_are() {
    assert_eq!(faults("rate(tagloom_windows_total{instance=\"a\"}[5m])"), Vec::<String>::new());
    for wrong in [
        "tagloom_windows_total",
        "rate(tagloom_dirty_users[5m])",
        "rate(tagloom_window_seconds[5m])",
        "tagloom_ready{reason=\"x\"}",
        "tagloom_windows",
    ] {
        assert_eq!(faults(wrong).len(), 1, "{wrong}");
    }
    let mut expressions: Vec<String> =
        alerts().iter().map(|alert| text(alert, "expr").to_owned()).collect();
    for panel in panels(&dashboard()) {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("$instance"), "{expression} shows every instance");
            expressions.push(expression.to_owned());
        }
    }
    let wrong: Vec<String> = expressions.iter().flat_map(|e| faults(e)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(expressions.len() > 50);
    // Each part of the process that can hold windows up is shown.
    let shown: BTreeSet<&str> = expressions
        .iter()
        .flat_map(|e| words(e))
        .filter_map(|(_, word, _)| metric(word).map(|metric| metric.name))
        .collect();
    for metric in names::ALL {
        let holds_up = ["tagloom_publish", "tagloom_kafka_", "tagloom_hbase_", "tagloom_window"];
        let unseen = holds_up.iter().any(|name| metric.name.starts_with(name))
            && !shown.contains(metric.name);
        assert!(!unseen, "{} is in no panel and no alert", metric.name);
    }
}

#[test]
fn each_alert_has_its_section_and_each_section_its_alert() {
    let guide = read("docs/operations.md");
    let (_, chapter) = guide.split_once("\n## Alerts\n").unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let mut sections: BTreeMap<&str, &str> =
        chapter.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    for alert in alerts() {
        let name = text(&alert, "alert");
        let section = sections.remove(name).unwrap_or_else(|| panic!("no section ### {name}"));
        for part in ["**It means**", "**Look**", "**Do**"] {
            assert!(section.contains(part), "{name} does not say {part}");
        }
        let annotations = get(&alert, "annotations");
        let anchor = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(text(annotations, "runbook"), anchor);
        assert!(!text(annotations, "summary").is_empty());
        let severity = text(get(&alert, "labels"), "severity");
        assert!(["page", "ticket", "info"].contains(&severity), "{name}: {severity}");
    }
    assert!(sections.is_empty(), "no such alerts: {:?}", sections.keys());
}

#[test]
fn all_yaml_and_json_can_be_read() {
    let mut read_files = 0;
    for path in files("deploy") {
        if path.ends_with(".json") {
            serde_json::from_str::<Value>(&read(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        } else if path.ends_with(".yaml") {
            Yaml::load_from_str(&read(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        } else {
            continue;
        }
        read_files += 1;
    }
    assert!(read_files >= 8, "{read_files}");
}

#[test]
fn panels_have_units_and_rows_and_do_not_overlap() {
    let dashboard = dashboard();
    let rows = dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] == "row");
    let rows: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    let expect =
        ["Overview", "Intake", "Windows", "Store", "Publishing", "Dimensions", "Memory", "HTTP"];
    assert_eq!(rows, expect);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        assert!(!unit.is_empty(), "{title} has no unit");
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
    }
}

#[test]
fn settings_are_known() {
    let none = BTreeMap::new;
    for path in ["deploy/tagloom.toml", "deploy/container.toml"] {
        let file = root().join(path);
        let config = tagloom::config::load(Some(&file), &[], none());
        let config = config.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(config.catalog.path, Path::new("/etc/tagloom/tags"), "{path}");
    }
    let unit = read("deploy/systemd/tagloom.service");
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let variables: BTreeMap<String, String> = variables
        .flat_map(str::split_whitespace)
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert!(variables.contains_key("TAGLOOM_KAFKA__SASL__PASSWORD"));
    // A folder without a settings file.
    let empty = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let config = tagloom::config::load(Some(empty.path()), &[], variables).unwrap();
    assert!(config.kafka.flat()["sasl.password"].starts_with("file:"));
}

#[test]
fn the_catalogue_compiles_with_its_lock_and_its_cases_hold() {
    let mut files: Vec<(String, String)> = support::yaml_files(&root().join("deploy/tags"));
    files.push(("ids.lock".to_owned(), read("deploy/tags/ids.lock")));
    let loaded = tagloom::catalog::load_from("deploy", files).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.lock_behind, Vec::<String>::new());
    assert!(!loaded.catalog.cases.is_empty());
    let mut runner = CaseRunner::new(&loaded.catalog).unwrap();
    for case in &loaded.catalog.cases {
        let report = runner.run(case).unwrap();
        assert!(report.holds(), "{report:#?}");
    }
    let topics = read("deploy/compose.yaml");
    assert!(
        topics.contains("--topic=purchases")
            && read("deploy/tags/streams/purchase.yaml").contains("{kafka: purchases,")
    );
}

#[test]
fn what_is_copied_or_mounted_is_there() {
    for dockerfile in ["deploy/Dockerfile", "deploy/hbase/Dockerfile"] {
        let ignored = read(&format!("{dockerfile}.dockerignore"));
        let let_in: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
        let mut copied = 0;
        for line in read(dockerfile).lines().filter_map(|line| line.strip_prefix("COPY ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.iter().any(|word| word.starts_with("--from=")) {
                continue;
            }
            let sources = words.iter().filter(|word| !word.starts_with("--"));
            let sources: Vec<&&str> = sources.collect();
            for source in &sources[..sources.len() - 1] {
                assert!(root().join(source).exists(), "{dockerfile}: no {source}");
                let is_in = let_in.iter().any(|path| Path::new(source).starts_with(path));
                assert!(is_in, "{dockerfile}.dockerignore keeps {source} out");
                copied += 1;
            }
        }
        assert!(copied > 1, "{dockerfile}");
    }
    let compose = yaml("deploy/compose.yaml");
    let services = get(&compose, "services").as_mapping().unwrap();
    let mut mounted = 0;
    for service in services.values() {
        let volumes = service.as_mapping_get("volumes").and_then(|v| v.as_sequence());
        for volume in volumes.into_iter().flatten().map(|volume| volume.as_str().unwrap()) {
            let (source, _) = volume.split_once(':').unwrap();
            let Some(path) = source.strip_prefix("./") else {
                let named = get(&compose, "volumes").as_mapping_get(source);
                assert!(named.is_some(), "{source} is no volume");
                continue;
            };
            let path: PathBuf = root().join("deploy").join(path);
            assert!(path.exists(), "{} is mounted and not there", path.display());
            mounted += 1;
        }
    }
    assert!(mounted >= 6, "{mounted}");
}
