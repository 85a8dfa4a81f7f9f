//! `tagloom lineage`: what a tag stands on, or what stands on a feature, stream or dimension.

mod layers;
mod svg;

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::outline::key_name;
use super::sql::{at, definition, values};
use super::{Failure, Outcome, open};
use crate::catalog::Loaded;
use crate::catalog::lineage::{Graph, Item, Lineage};
use crate::catalog::model::From;
use crate::catalog::place::Place;
use crate::config::Config;

/// Arguments of `tagloom lineage`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom lineage win_back                       its tags, features, dimensions and streams
  tagloom lineage win_back --svg win_back.svg    the same as a picture
  tagloom lineage --of spend_30d                 what would change with this feature
  tagloom lineage --of stream:consume --json     `stream:` tells it from a feature of this name")]
pub(super) struct LineageArgs {
    /// The tag (or a feature, dimension or stream)
    #[arg(required_unless_present = "of")]
    tag: Option<String>,
    /// The other way round: what stands on this feature, dimension, stream or tag
    #[arg(long, value_name = "NAME", conflicts_with = "tag")]
    of: Option<String>,
    /// Also write it as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "a command's output")]
pub(super) fn run(args: &LineageArgs, config: &Config, json: bool) -> Outcome {
    let loaded = open::catalog(&config.catalog.path)?;
    let lineage = Lineage::new(&loaded.catalog);
    let name = args.of.as_ref().or(args.tag.as_ref()).map_or("", String::as_str);
    let item = lineage.find(name).map_err(Failure::Input)?;
    let graph = if args.of.is_some() { lineage.downstream(item) } else { lineage.upstream(item) };
    let view = View { loaded: &loaded, lineage, graph, readers: args.of.is_some() };
    if let Some(path) = &args.svg {
        std::fs::write(path, view.svg())
            .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    }
    if json {
        println!("{}", view.json());
    } else {
        println!("{}", view.text());
        if let Some(path) = &args.svg {
            println!("\nwritten to {}", path.display());
        }
    }
    Ok(())
}

/// A graph about to be shown.
struct View<'a> {
    loaded: &'a Loaded,
    lineage: Lineage<'a>,
    graph: Graph,
    /// From what is read to its readers, instead of from a reader to what it reads.
    readers: bool,
}

impl View<'_> {
    /// What an item is, in one line.
    fn detail(&self, item: Item) -> String {
        let catalog = &self.loaded.catalog;
        match item {
            Item::Stream(at) => match &catalog.streams[at].from {
                From::File { path, .. } => path.clone(),
                From::Kafka { topic, .. } => format!("kafka {topic}"),
            },
            Item::Feature(at) => definition(&catalog.features[at], catalog),
            Item::Dimension(at) => {
                let dimension = &catalog.dimensions[at];
                format!("table {} by {}", dimension.table, key_name(dimension.key, catalog))
            }
            Item::Tag(at) => values(&catalog.tags[at].domain),
        }
    }

    fn place(&self, item: Item) -> Place {
        let catalog = &self.loaded.catalog;
        match item {
            Item::Stream(at) => catalog.streams[at].place,
            Item::Feature(at) => catalog.features[at].place,
            Item::Dimension(at) => catalog.dimensions[at].place,
            Item::Tag(at) => catalog.tags[at].place,
        }
    }

    /// A tree. What stands at several places is spelled out at the first.
    fn text(&self) -> String {
        let mut tree = Tree { view: self, shown: HashSet::new(), out: String::new() };
        tree.node(0, "", "");
        tree.out.truncate(tree.out.trim_end().len());
        tree.out
    }

    /// Indices of the graph's items one step away, in the direction of the view.
    fn children(&self, at: usize) -> Vec<usize> {
        let ends = |(reader, read): &(usize, usize)| {
            if self.readers { (*read, *reader) } else { (*reader, *read) }
        };
        self.graph
            .edges
            .iter()
            .map(ends)
            .filter(|(from, _)| *from == at)
            .map(|(_, to)| to)
            .collect()
    }

    fn json(&self) -> serde_json::Value {
        let id = |at: usize| {
            let item = self.graph.items[at];
            format!("{}:{}", item.kind(), self.lineage.name(item))
        };
        let items = self.graph.items.iter().enumerate().map(|(index, item)| {
            json!({"id": id(index), "kind": item.kind(), "name": self.lineage.name(*item),
                "is": self.detail(*item), "place": at(&self.loaded.files, self.place(*item))})
        });
        let edges = self.graph.edges.iter().map(|(reader, read)| {
            let found = self.lineage.reads(self.graph.items[*reader]);
            let columns = found.into_iter().find(|r| r.item == self.graph.items[*read]);
            json!({"reader": id(*reader), "reads": id(*read),
                "columns": columns.map(|r| r.columns).unwrap_or_default()})
        });
        json!({"of": id(0), "items": items.collect::<Vec<_>>(), "edges": edges.collect::<Vec<_>>()})
    }

    fn svg(&self) -> String {
        let nodes: Vec<svg::Node> = self
            .graph
            .items
            .iter()
            .map(|item| svg::Node {
                kind: item.kind(),
                name: self.lineage.name(*item).to_owned(),
                detail: self.detail(*item),
            })
            .collect();
        let flows: Vec<(usize, usize)> =
            self.graph.edges.iter().map(|(reader, read)| (*read, *reader)).collect();
        svg::draw(&nodes, &flows)
    }
}

struct Tree<'a> {
    view: &'a View<'a>,
    shown: HashSet<usize>,
    out: String,
}

impl Tree<'_> {
    /// A node's line, and those below it: `first` stands before the line, `rest` before the others.
    fn node(&mut self, index: usize, first: &str, rest: &str) {
        let view = self.view;
        let item = view.graph.items[index];
        let (name, detail) = (view.lineage.name(item), view.detail(item));
        let place = at(&view.loaded.files, view.place(item));
        self.out.push_str(&format!("{first}{name}  {}: {detail}", item.kind()));
        let children = view.children(index);
        if !self.shown.insert(index) && !children.is_empty() {
            self.out.push_str("  (see above)\n");
            return;
        }
        self.out.push_str(&format!("  ({place})\n"));
        for (nth, child) in children.iter().enumerate() {
            let last = nth + 1 == children.len();
            let (branch, trunk) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.node(*child, &format!("{rest}{branch}"), &format!("{rest}{trunk}"));
        }
    }
}
