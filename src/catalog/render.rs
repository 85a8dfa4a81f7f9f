//! Diagnostics as people read them.
//!
//! In: [`Diagnostics`] and the files they point into. Out: text with the underlined source, sorted
//! by place. Invariant: no I/O.

use std::fmt::Write as _;

use super::place::{Diagnostic, Diagnostics, Files, Severity};

const RED: &str = "\x1b[31;1m";
const YELLOW: &str = "\x1b[33;1m";
const BLUE: &str = "\x1b[34m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// All diagnostics, sorted by place:
///
/// ```text
/// tags/rules/value.yaml:14:7: unknown feature `spend_30`
///    14 | expr: spend_30 > 200 AND cancels_30d > 0
///       |       ^^^^^^^^ did you mean `spend_30d`?
/// ```
pub fn render(diagnostics: &Diagnostics, files: &Files, color: bool) -> String {
    let mut sorted: Vec<&Diagnostic> = diagnostics.items.iter().collect();
    sorted
        .sort_by(|a, b| (a.place, a.severity, &a.message).cmp(&(b.place, b.severity, &b.message)));
    sorted.iter().map(|d| one(d, files, color)).collect()
}

fn one(diagnostic: &Diagnostic, files: &Files, color: bool) -> String {
    let style = |code: &'static str| if color { code } else { "" };
    let place = diagnostic.place;
    let (line, column) = files.line_column(place.file, place.start);
    let text = files.text(place.file);
    let source: String = text.lines().nth(line - 1).unwrap_or("").replace('\t', " ");
    let (last_line, last_column) = files.line_column(place.file, place.end);
    let end = if last_line == line { last_column } else { source.chars().count() + 1 };
    let width = end.saturating_sub(column).max(1);

    let (mark, word) = match diagnostic.severity {
        Severity::Error => (style(RED), ""),
        Severity::Warning => (style(YELLOW), "warning: "),
    };
    let (bold, blue, plain) = (style(BOLD), style(BLUE), style(PLAIN));
    let path = files.path(place.file);
    let mut out = String::new();
    // Writing to a String cannot fail.
    writeln!(out, "{bold}{path}:{line}:{column}:{plain} {mark}{word}{plain}{}", diagnostic.message)
        .ok();
    writeln!(out, "{blue}{line:>5} |{plain} {source}").ok();
    let caret = format!("{}{mark}{}", " ".repeat(column - 1), "^".repeat(width));
    let remedy = format!("{caret} {}{plain}", diagnostic.remedy);
    writeln!(out, "{blue}      |{plain} {}", remedy.trim_end()).ok();
    out
}
