//! A lineage as a picture: data flows from left to right.
//!
//! In: nodes, and from where to where data flows. Out: an SVG that needs no other file.

use std::fmt::Write as _;

use super::layers::{Rect, layers};

/// One box. The first is the one that was asked for.
pub(super) struct Node {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) detail: String,
}

/// Fill and line of each kind.
const COLOURS: [(&str, &str, &str); 4] = [
    ("stream", "#e8eef7", "#4a6fa5"),
    ("feature", "#e9f5ec", "#3c8a57"),
    ("dimension", "#f9f1e1", "#a8742a"),
    ("tag", "#f3eaf8", "#7d4a9e"),
];

/// Characters of a box's second line; the whole text shows when it is pointed at.
const DETAIL_CHARS_MAX: usize = 54;

/// Widths of a character of a name (monospaced) and of the second line, in pixels.
const NAME_CHAR: f64 = 7.3;
const DETAIL_CHAR: f64 = 5.6;

const BOX_HEIGHT: f64 = 40.0;
const PADDING: f64 = 10.0;
const MARGIN: f64 = 20.0;
const LEGEND_HEIGHT: f64 = 34.0;
const LEGEND_STEP: f64 = 96.0;

/// Draws it.
pub(super) fn draw(nodes: &[Node], flows: &[(usize, usize)]) -> String {
    let sizes: Vec<(f64, f64)> = nodes.iter().map(|n| (width(n), BOX_HEIGHT)).collect();
    let drawn = layers(&sizes, flows);
    let wide = drawn.width.max(LEGEND_STEP * 4.0) + 2.0 * MARGIN;
    let high = drawn.height + 2.0 * MARGIN + LEGEND_HEIGHT;
    let mut svg = String::new();
    // Writing to a String cannot fail.
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide:.0}\" height=\"{high:.0}\" \
         viewBox=\"0 0 {wide:.0} {high:.0}\" font-family=\"system-ui, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    )
    .ok();
    legend(&mut svg);
    let down = MARGIN + LEGEND_HEIGHT;
    writeln!(svg, "<g transform=\"translate({MARGIN} {down})\">").ok();
    for path in &drawn.paths {
        writeln!(svg, "<path d=\"{}\" fill=\"none\" stroke=\"#9aa3ad\"/>", curve(path)).ok();
    }
    for (nth, (node, rect)) in nodes.iter().zip(&drawn.boxes).enumerate() {
        write_box(&mut svg, node, rect, nth == 0);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let mut x = MARGIN;
    for (kind, fill, line) in COLOURS {
        let (y, text) = (MARGIN - 6.0, x + 18.0);
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{fill}\" \
             stroke=\"{line}\"/><text x=\"{text}\" y=\"{}\" font-size=\"11\">{kind}</text>",
            y + 10.0
        )
        .ok();
        x += LEGEND_STEP;
    }
}

fn write_box(svg: &mut String, node: &Node, rect: &Rect, asked: bool) {
    let known = COLOURS.iter().find(|(kind, ..)| *kind == node.kind);
    let (_, fill, line) = known.copied().unwrap_or(("", "#ffffff", "#000000"));
    let stroke = if asked { 2.5 } else { 1.0 };
    let Rect { x, y, width, height } = rect;
    let (left, first, second) = (x + PADDING, y + 17.0, y + 31.0);
    writeln!(
        svg,
        "<g><title>{kind} {name}: {all}</title>\
         <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"5\" \
         fill=\"{fill}\" stroke=\"{line}\" stroke-width=\"{stroke}\"/>\
         <text x=\"{left:.1}\" y=\"{first:.1}\" font-size=\"12\" font-weight=\"600\" \
         font-family=\"ui-monospace, monospace\">{name}</text>\
         <text x=\"{left:.1}\" y=\"{second:.1}\" font-size=\"10\" fill=\"#555555\">{detail}</text>\
         </g>",
        kind = node.kind,
        name = escaped(&node.name),
        all = escaped(&node.detail),
        detail = escaped(&cut(&node.detail)),
    )
    .ok();
}

fn width(node: &Node) -> f64 {
    let chars = |text: &str| u32::try_from(text.chars().count()).map_or(0.0, f64::from);
    let name = chars(&node.name) * NAME_CHAR;
    name.max(chars(&cut(&node.detail)) * DETAIL_CHAR) + 2.0 * PADDING
}

fn cut(text: &str) -> String {
    if text.chars().count() <= DETAIL_CHARS_MAX {
        return text.to_owned();
    }
    let kept: String = text.chars().take(DETAIL_CHARS_MAX - 1).collect();
    format!("{}…", kept.trim_end())
}

/// A line that leaves and reaches each point horizontally.
fn curve(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (nth, (x, y)) in points.iter().enumerate() {
        let Some((from_x, from_y)) = nth.checked_sub(1).map(|before| points[before]) else {
            write!(path, "M{x:.1} {y:.1}").ok();
            continue;
        };
        let middle = f64::midpoint(from_x, *x);
        write!(path, " C{middle:.1} {from_y:.1} {middle:.1} {y:.1} {x:.1} {y:.1}").ok();
    }
    path
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
