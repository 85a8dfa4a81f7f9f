//! `matrix` and `exclude`: one document that stands for many.
//!
//! In: the two keys of a document. Out: its bindings, and texts with `{variable}` put in.
//! Invariant: an expansion never looks at what a text means.

use super::fields::{Fields, list_of, map_of, nearest, suggest, text_of};
use super::place::Diagnostics;
use super::sql_text::SqlText;
use super::yaml::Text;

/// One document may stand for at most this many.
const EXPANSIONS_MAX: usize = 10_000;

/// The variables of a document and the combinations left out.
#[derive(Debug, Default)]
pub(super) struct Matrix<'a> {
    variables: Vec<(&'a Text, Vec<&'a Text>)>,
    exclude: Vec<Vec<(&'a str, &'a str)>>,
}

/// A value for each variable.
#[derive(Debug, Clone)]
pub(super) struct Binding<'a> {
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Matrix<'a> {
    /// Reads `matrix` and `exclude`. `name` is the text that must tell the expansions apart.
    pub(super) fn read(
        fields: &mut Fields<'a>,
        name: Option<&Text>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut matrix = Self::default();
        let node = fields.take("matrix");
        for (variable, values) in node.and_then(|n| map_of(n, "matrix", out)).unwrap_or(&[]) {
            let Some(values) = list_of(values, &variable.text, out) else { continue };
            let mut values: Vec<&Text> =
                values.iter().filter_map(|v| text_of(v, &variable.text, out)).collect();
            if values.is_empty() {
                let message = format!("matrix variable `{}` has no values", variable.text);
                out.error(variable.place, message, "give at least one");
            }
            for (i, value) in values.iter().enumerate() {
                if values[..i].iter().any(|v| v.text == value.text) {
                    let message = format!("`{}` is twice in the matrix", value.text);
                    out.error(value.place, message, "keep one");
                }
            }
            let mut seen: Vec<&str> = Vec::new();
            values.retain(|v| {
                let new = !seen.contains(&v.text.as_str());
                seen.push(&v.text);
                new
            });
            let marker = format!("{{{}}}", variable.text);
            if name.is_some_and(|n| !n.text.contains(&marker)) {
                out.error(
                    variable.place,
                    format!("matrix variable `{}` is not in the name", variable.text),
                    format!("put `{marker}` into the name, so that each expansion has its own"),
                );
                // So that the same name is not also reported as taken.
                values.truncate(1);
            }
            matrix.variables.push((variable, values));
        }
        if let Some(node) = fields.take("exclude") {
            for item in list_of(node, "exclude", out).unwrap_or(&[]) {
                matrix.read_exclude(item, out);
            }
        }
        matrix
    }

    fn read_exclude(&mut self, item: &'a super::yaml::Node, out: &mut Diagnostics) {
        let mut pairs = Vec::new();
        for (variable, value) in map_of(item, "exclude", out).unwrap_or(&[]) {
            let Some(value) = text_of(value, &variable.text, out) else { continue };
            let known = self.variables.iter().find(|(v, _)| v.text == variable.text);
            let Some((_, values)) = known else {
                let names = self.variables.iter().map(|(v, _)| v.text.as_str());
                let remedy = suggest(&variable.text, names, "matrix variables");
                let message = format!("exclude names an unknown variable `{}`", variable.text);
                out.error(variable.place, message, remedy);
                continue;
            };
            if !values.iter().any(|v| v.text == value.text) {
                let texts = values.iter().map(|v| v.text.as_str());
                let remedy = suggest(&value.text, texts, "its values");
                let message = format!("`{}` is no value of `{}`", value.text, variable.text);
                out.error(value.place, message, remedy);
                continue;
            }
            pairs.push((variable.text.as_str(), value.text.as_str()));
        }
        if !pairs.is_empty() {
            self.exclude.push(pairs);
        }
    }

    /// Whether the document is one of a kind.
    pub(super) fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// All combinations that are not excluded, the first variable changing slowest.
    pub(super) fn bindings(&self, out: &mut Diagnostics) -> Vec<Binding<'a>> {
        let count = self.variables.iter().try_fold(1_usize, |n, (_, v)| n.checked_mul(v.len()));
        if count.is_none_or(|n| n > EXPANSIONS_MAX) {
            if let Some((first, _)) = self.variables.first() {
                let message = format!("the matrix has more than {EXPANSIONS_MAX} combinations");
                out.error(first.place, message, "split it");
            }
            return Vec::new();
        }
        let mut all = vec![Binding { values: Vec::new() }];
        for (variable, values) in &self.variables {
            all = all
                .iter()
                .flat_map(|binding| values.iter().map(move |value| (binding, value)))
                .map(|(binding, value)| {
                    let mut binding = binding.clone();
                    binding.values.push((variable.text.as_str(), value.text.as_str()));
                    binding
                })
                .collect();
        }
        all.retain(|binding| {
            !self.exclude.iter().any(|pairs| pairs.iter().all(|p| binding.values.contains(p)))
        });
        if let (true, Some((first, _))) = (all.is_empty(), self.variables.first()) {
            out.error(first.place, "nothing is left of the matrix", "exclude less");
        }
        all
    }
}

impl Binding<'_> {
    /// A text with `{variable}` put in, with its way back to the file. `{{` and `}}` are braces.
    pub(super) fn sql(&self, text: &Text, out: &mut Diagnostics) -> SqlText {
        let mut sql = SqlText::new(text.place);
        let source = text.text.as_str();
        let mut at = 0;
        while let Some(next) = source[at..].find(['{', '}']).map(|n| at + n) {
            text.push_to(at..next, &mut sql);
            let rest = &source[next..];
            let variable = rest.strip_prefix('{').and_then(|r| r.split_once('}')).map(|(v, _)| v);
            if rest.starts_with("{{") || rest.starts_with("}}") {
                text.push_to(next..next + 1, &mut sql);
                at = next + 2;
            } else if let Some(variable) = variable.filter(|v| is_variable(v)) {
                at = next + variable.len() + 2;
                match self.values.iter().find(|(name, _)| *name == variable) {
                    Some((_, value)) => sql.push_for(value, text.part(next..at)),
                    None => self.unknown(variable, text, next..at, out),
                }
            } else {
                text.push_to(next..next + 1, &mut sql);
                at = next + 1;
            }
        }
        text.push_to(at..source.len(), &mut sql);
        sql
    }

    fn unknown(
        &self,
        variable: &str,
        text: &Text,
        range: std::ops::Range<usize>,
        out: &mut Diagnostics,
    ) {
        let names = self.values.iter().map(|(name, _)| *name);
        let remedy = match nearest(variable, names) {
            Some(name) => format!("did you mean `{{{name}}}`?"),
            None => format!("add `matrix: {{{variable}: [...]}}`; a brace itself is `{{{{`"),
        };
        out.error(text.part(range), format!("unknown matrix variable `{variable}`"), remedy);
    }

    /// As [`Self::sql`], without the way back.
    pub(super) fn string(&self, text: &Text, out: &mut Diagnostics) -> String {
        self.sql(text, out).sql().to_owned()
    }

    /// A text for people: where there is no matrix, braces are braces.
    pub(super) fn prose(&self, text: &Text, out: &mut Diagnostics) -> String {
        if self.values.is_empty() { text.text.clone() } else { self.string(text, out) }
    }
}

fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
