//! `tagloom sql`: the SQL that a tag's rule stands for.

use clap::Args;
use serde_json::json;

use super::{Failure, Outcome, open};
use crate::catalog::model::{Catalog, Domain, Feature};
use crate::catalog::place::{Files, Place};
use crate::catalog::pretty::pretty;
use crate::catalog::select::{dimension_of, tag_of};
use crate::config::Config;

/// Arguments of `tagloom sql`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tagloom sql win_back        sugar, matrix and params put in; and what it reads")]
pub(super) struct SqlArgs {
    /// The tag
    tag: String,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: &SqlArgs, config: &Config, json: bool) -> Outcome {
    let loaded = open::catalog(&config.catalog.path)?;
    let (catalog, files) = (&loaded.catalog, &loaded.files);
    let tag = &catalog.tags[tag_of(&args.tag, catalog).map_err(Failure::Input)?];
    let sql = pretty(&tag.expr.sql);
    let reads: Vec<Input> = tag.expr.columns.iter().map(|c| input(c, catalog)).collect();
    if json {
        let reads: Vec<_> = reads
            .iter()
            .map(|r| json!({"name": r.name, "kind": r.kind, "is": r.what, "place": at(files, r.place)}))
            .collect();
        println!(
            "{}",
            json!({"tag": tag.name, "sql": sql, "type": values(&tag.domain),
                "place": at(files, tag.place), "reads": reads})
        );
        return Ok(());
    }
    println!("-- {}: {}", tag.name, tag.doc.trim().replace('\n', " "));
    println!("-- {}, {}", at(files, tag.place), values(&tag.domain));
    println!("{sql}");
    let width = reads.iter().map(|r| r.name.len()).max().unwrap_or(0);
    for (at_, read) in reads.iter().enumerate() {
        if at_ == 0 {
            println!();
        }
        let Input { name, kind, what, place } = read;
        println!("-- {name:<width$}  {kind}: {what}  ({})", at(files, *place));
    }
    Ok(())
}

/// Something a tag reads.
struct Input {
    name: String,
    kind: &'static str,
    what: String,
    place: Place,
}

fn input(name: &str, catalog: &Catalog) -> Input {
    let name = name.to_owned();
    if let Some(feature) = catalog.features.iter().find(|f| f.name == name) {
        let what = definition(feature, catalog);
        return Input { name, kind: "feature", what, place: feature.place };
    }
    if let Some(tag) = catalog.tags.iter().find(|t| t.name == name) {
        return Input { name, kind: "tag", what: values(&tag.domain), place: tag.place };
    }
    let dimension = dimension_of(&name, catalog).map(|d| &catalog.dimensions[d]);
    let what = dimension.map_or(String::new(), |d| format!("of table {}", d.table));
    Input { name, kind: "dimension", what, place: dimension.map_or(Place::default(), |d| d.place) }
}

/// A feature in one line, as its file says it.
pub(super) fn definition(feature: &Feature, catalog: &Catalog) -> String {
    let call = one_line(&feature.aggregate.call());
    let filter = feature.filter.as_ref().map(|f| format!(" where {}", one_line(&f.sql)));
    let span = feature.span;
    let stream = &catalog.streams[feature.stream].name;
    format!("{call} of {stream}{}, {span}", filter.unwrap_or_default())
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What values a tag has, in one line.
pub(super) fn values(domain: &Domain) -> String {
    match domain {
        Domain::Closed { bool: true, .. } => "true or false".to_owned(),
        Domain::Closed { labels, .. } => {
            let more = if labels.len() > 8 { ", ..." } else { "" };
            let first: Vec<&str> = labels.iter().take(8).map(String::as_str).collect();
            format!("{} labels: {}{more}", labels.len(), first.join(", "))
        }
        Domain::Open(data_type) => crate::catalog::words(data_type),
    }
}

/// `tags/rules/value.yaml:14`
pub(super) fn at(files: &Files, place: Place) -> String {
    let (line, _) = files.line_column(place.file, place.start);
    format!("{}:{line}", files.path(place.file))
}
