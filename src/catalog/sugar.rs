//! `bands`, `ratio`, `recency` and `map`: sugar that becomes SQL.
//!
//! In: the value of the key. Out: the expressions it reads, and the SQL it stands for, in exactly
//! the shapes that the plan's kernels know again.
//! Invariant: what a shape means is said here and nowhere else; the SQL is all that goes on.

use arrow::datatypes::DataType;

use super::expression::{Reach, Typer, is_number, words};
use super::fields::{Fields, list_of, map_of, text_of};
use super::matrix::Binding;
use super::place::{Diagnostics, Place};
use super::scalar;
use super::sql_text::SqlText;
use super::yaml::{Node, Text};

/// A text from the file, matrix put in.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) place: Place,
}

/// What a tag's value is made of.
#[derive(Debug)]
pub(super) enum Body {
    /// `expr`
    Expr(SqlText),
    /// `bands`, and `recency` where `days` is true.
    Bands { of: SqlText, cuts: Cuts, missing: Option<Word>, days: bool },
    /// `ratio`
    Ratio { num: SqlText, den: SqlText, cuts: Cuts, default: Option<Word> },
    /// `map`
    Map { of: SqlText, to: Vec<(Word, Word)>, default: Option<Word> },
}

/// Cuts in increasing order, and one label more.
#[derive(Debug)]
pub(super) struct Cuts {
    cuts: Vec<Word>,
    labels: Vec<Word>,
}

/// The keys of a tag that say what its value is.
pub(super) const KEYS: [&str; 5] = ["expr", "bands", "ratio", "recency", "map"];

impl Body {
    /// Reads the value of one of [`KEYS`].
    pub(super) fn read(
        key: &'static str,
        node: &Node,
        binding: &Binding<'_>,
        out: &mut Diagnostics,
    ) -> Option<Self> {
        if key == "expr" {
            return text_of(node, key, out).map(|text| Self::Expr(binding.sql(text, out)));
        }
        let what = match key {
            "bands" => "`bands`",
            "ratio" => "`ratio`",
            "recency" => "`recency`",
            _ => "`map`",
        };
        let mut fields = Fields::open(node, what, out)?;
        let body = match key {
            "ratio" => {
                let num = fields.need_text("num", out).map(|t| binding.sql(t, out));
                let den = fields.need_text("den", out).map(|t| binding.sql(t, out));
                let cuts = Cuts::read(&mut fields, binding, out);
                let default = fields.text("default", out).map(|t| word(t, binding, out));
                num.zip(den).zip(cuts).map(|((num, den), cuts)| Self::Ratio {
                    num,
                    den,
                    cuts,
                    default,
                })
            }
            "map" => {
                let of = fields.need_text("of", out).map(|t| binding.sql(t, out));
                let to = fields.need("to", out).map(|node| pairs(node, binding, out));
                let default = fields.text("default", out).map(|t| word(t, binding, out));
                let to = to.filter(|to| !to.is_empty());
                of.zip(to).map(|(of, to)| Self::Map { of, to, default })
            }
            _ => {
                let of = fields.need_text("of", out).map(|t| binding.sql(t, out));
                let cuts = Cuts::read(&mut fields, binding, out);
                let missing = fields.text("missing", out).map(|t| word(t, binding, out));
                let days = key == "recency";
                of.zip(cuts).map(|(of, cuts)| Self::Bands { of, cuts, missing, days })
            }
        };
        fields.finish(out);
        body
    }

    /// The expressions it reads.
    pub(super) fn reads(&self) -> Vec<&SqlText> {
        match self {
            Self::Expr(sql) => vec![sql],
            Self::Bands { of, .. } | Self::Map { of, .. } => vec![of],
            Self::Ratio { num, den, .. } => vec![num, den],
        }
    }

    /// The SQL it stands for, after checking what the shape asks of its inputs. `None` without an
    /// error: an input is itself wrong.
    pub(super) fn sql(
        &self,
        whole: Place,
        typer: &Typer<'_>,
        reach: &Reach,
        out: &mut Diagnostics,
    ) -> Option<SqlText> {
        match self {
            Self::Expr(sql) => Some(sql.clone()),
            Self::Bands { of, cuts, missing, days } => {
                let data_type = typer.type_of(of, reach, out)?;
                let x = if *days {
                    instant(of, &data_type, whole, out)?
                } else {
                    number(of, &data_type, out)?
                };
                Some(cuts.bands(&x, missing.as_ref(), whole))
            }
            Self::Ratio { num, den, cuts, default } => {
                let (n, d) = (typer.type_of(num, reach, out), typer.type_of(den, reach, out));
                let (num, den) =
                    (n.and_then(|t| number(num, &t, out)), d.and_then(|t| number(den, &t, out)));
                Some(cuts.ratio(&num?, &den?, default.as_ref(), whole))
            }
            Self::Map { of, to, default } => {
                let data_type = typer.type_of(of, reach, out)?;
                map(of, &data_type, to, default.as_ref(), whole, out)
            }
        }
    }
}

impl Cuts {
    fn read(fields: &mut Fields<'_>, binding: &Binding<'_>, out: &mut Diagnostics) -> Option<Self> {
        let cuts =
            fields.need("cuts", out).map(|node| (words_of(node, "cuts", binding, out), node));
        let labels =
            fields.need("labels", out).map(|node| (words_of(node, "labels", binding, out), node));
        let ((cuts, cuts_node), (labels, labels_node)) = (cuts?, labels?);
        let before = out.items.len();
        if cuts.is_empty() {
            out.error(cuts_node.place, "no cuts", "give at least one, like `cuts: [10]`");
        }
        let mut last: Option<((i128, i8), &str)> = None;
        for cut in &cuts {
            let Some(value) = scalar::decimal(&cut.text) else {
                let message = format!("the cut `{}` is not a number", cut.text);
                out.error(cut.place, message, "write it out, like `1000` or `0.25`");
                continue;
            };
            if let Some((before, text)) = last
                && !scalar::decimal_less(before, value)
            {
                let message = format!("the cut {} does not come after {text}", cut.text);
                out.error(cut.place, message, "cuts must increase");
            }
            last = Some((value, &cut.text));
        }
        if !cuts.is_empty() && labels.len() != cuts.len() + 1 {
            out.error(
                labels_node.place,
                format!("{} cuts and {} labels", cuts.len(), labels.len()),
                format!("{} cuts make {} bands: give a label to each", cuts.len(), cuts.len() + 1),
            );
        }
        for (i, label) in labels.iter().enumerate() {
            if labels[..i].iter().any(|l| l.text == label.text) {
                let message = format!("the label `{}` is there twice", label.text);
                out.error(label.place, message, "give each band its own label");
            }
        }
        (out.items.len() == before).then_some(Self { cuts, labels })
    }

    fn bands(&self, x: &SqlText, missing: Option<&Word>, whole: Place) -> SqlText {
        let mut sql = Writer::new(whole);
        sql.word("CASE WHEN ").part(x).word(" IS NULL THEN ").label_or_null(missing);
        for (cut, label) in self.cuts.iter().zip(&self.labels) {
            sql.word(" WHEN ").part(x).word(" < ").number(cut).word(" THEN ").label(label);
        }
        self.last(sql)
    }

    fn ratio(&self, num: &SqlText, den: &SqlText, default: Option<&Word>, whole: Place) -> SqlText {
        let mut sql = Writer::new(whole);
        sql.word("CASE WHEN ").part(num).word(" IS NULL OR ").part(den).word(" IS NULL OR ");
        sql.part(den).word(" <= 0 THEN ").label_or_null(default);
        for (cut, label) in self.cuts.iter().zip(&self.labels) {
            sql.word(" WHEN ").part(num).word(" < ").number(cut);
            // Whole numbers multiply in 64 bits and could overflow; decimals do not.
            sql.word(if cut.text.contains('.') { " * " } else { ".0 * " }).part(den);
            sql.word(" THEN ").label(label);
        }
        self.last(sql)
    }

    fn last(&self, mut sql: Writer) -> SqlText {
        if let Some(label) = self.labels.last() {
            sql.word(" ELSE ").label(label);
        }
        sql.word(" END");
        sql.sql
    }
}

fn word(text: &Text, binding: &Binding<'_>, out: &mut Diagnostics) -> Word {
    Word { text: binding.string(text, out), place: text.place }
}

fn words_of(node: &Node, what: &str, binding: &Binding<'_>, out: &mut Diagnostics) -> Vec<Word> {
    let items = list_of(node, what, out).unwrap_or(&[]);
    items.iter().filter_map(|i| text_of(i, what, out).map(|t| word(t, binding, out))).collect()
}

fn pairs(node: &Node, binding: &Binding<'_>, out: &mut Diagnostics) -> Vec<(Word, Word)> {
    let entries = map_of(node, "to", out).unwrap_or(&[]);
    if entries.is_empty() {
        out.error(node.place, "a map to nothing", "write `to: {value: label}`");
    }
    let mut pairs = Vec::new();
    for (key, value) in entries {
        if let Some(label) = text_of(value, &key.text, out) {
            pairs.push((word(key, binding, out), word(label, binding, out)));
        }
    }
    pairs
}

fn number(of: &SqlText, data_type: &DataType, out: &mut Diagnostics) -> Option<SqlText> {
    if is_number(data_type) {
        return Some(operand(of));
    }
    let remedy = match data_type {
        DataType::Timestamp(..) => "use `recency` for how long ago something was".to_owned(),
        DataType::Utf8 => format!("use `map` for text, or CAST({} AS int)", of.sql()),
        DataType::List(_) => format!("`array_length({})` is how many it has", of.sql()),
        _ => "give a number".to_owned(),
    };
    out.error(of.whole(), format!("this must be a number, it is {}", words(data_type)), remedy);
    None
}

fn instant(
    of: &SqlText,
    data_type: &DataType,
    whole: Place,
    out: &mut Diagnostics,
) -> Option<SqlText> {
    if matches!(data_type, DataType::Timestamp(..)) {
        let mut sql = Writer::new(whole);
        sql.word("days_since(").part(of).word(")");
        return Some(sql.sql);
    }
    let remedy = match data_type {
        DataType::Date32 => format!("write CAST({} AS timestamp)", of.sql()),
        _ => "give a feature like last_time()".to_owned(),
    };
    let message = format!("recency needs a timestamp, this is {}", words(data_type));
    out.error(of.whole(), message, remedy);
    None
}

/// An expression as an operand: in parentheses unless it is a name.
fn operand(of: &SqlText) -> SqlText {
    if of.sql().trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return of.clone();
    }
    let mut sql = Writer::new(of.whole());
    sql.word("(").part(of).word(")");
    sql.sql
}

fn map(
    of: &SqlText,
    data_type: &DataType,
    to: &[(Word, Word)],
    default: Option<&Word>,
    whole: Place,
    out: &mut Diagnostics,
) -> Option<SqlText> {
    let before = out.items.len();
    let mut keys: Vec<(String, &Word)> = Vec::new();
    let mut groups: Vec<(&Word, Vec<usize>)> = Vec::new();
    for (key, label) in to {
        let Some(literal) = key_literal(key, data_type, of, out) else { continue };
        if keys.iter().any(|(l, _)| *l == literal) {
            let message = format!("the key `{}` is there twice", key.text);
            out.error(key.place, message, "keep one");
            continue;
        }
        match groups.iter_mut().find(|(l, _)| l.text == label.text) {
            Some((_, members)) => members.push(keys.len()),
            None => groups.push((label, vec![keys.len()])),
        }
        keys.push((literal, key));
    }
    if out.items.len() != before {
        return None;
    }
    let of = operand(of);
    let mut sql = Writer::new(whole);
    sql.word("CASE");
    for (label, members) in groups {
        sql.word(" WHEN ").part(&of).word(" IN (");
        for (i, member) in members.into_iter().enumerate() {
            let Some((literal, key)) = keys.get(member) else { continue };
            sql.word(if i == 0 { "" } else { ", " });
            sql.sql.push_for(literal, key.place);
        }
        sql.word(") THEN ").label(label);
    }
    if let Some(default) = default {
        sql.word(" ELSE ").label(default);
    }
    sql.word(" END");
    Some(sql.sql)
}

/// A map's key, read as the type of `of`, as an SQL literal.
fn key_literal(
    key: &Word,
    data_type: &DataType,
    of: &SqlText,
    out: &mut Diagnostics,
) -> Option<String> {
    let text = key.text.as_str();
    let literal = match data_type {
        DataType::Utf8 => Some(quoted(text)),
        DataType::UInt64 => text.parse::<u64>().ok().map(|n| n.to_string()),
        DataType::Boolean => ["true", "false"].contains(&text).then(|| text.to_owned()),
        DataType::Date32 => {
            text.parse::<jiff::civil::Date>().ok().map(|_| format!("DATE {}", quoted(text)))
        }
        DataType::Decimal128(..) => scalar::decimal(text).map(|_| text.to_owned()),
        t if t.is_integer() => text.parse::<i64>().ok().map(|n| n.to_string()),
        other => {
            let message = format!("a map cannot be of {}", words(other));
            let remedy = match other {
                DataType::List(_) => format!("use its first value, {}[1]", of.sql()),
                _ => "use `bands`, or CAST it to int or text".to_owned(),
            };
            out.error(of.whole(), message, remedy);
            return None;
        }
    };
    if literal.is_none() {
        let message = format!("the key `{text}` is not {}", words(data_type));
        out.error(key.place, message, format!("`{}` is {}", of.sql(), words(data_type)));
    }
    literal
}

/// An SQL string literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes the SQL of sugar, each part with its way back to the file.
struct Writer {
    sql: SqlText,
    whole: Place,
}

impl Writer {
    fn new(whole: Place) -> Self {
        Self { sql: SqlText::new(whole), whole }
    }

    fn word(&mut self, text: &str) -> &mut Self {
        self.sql.push_for(text, self.whole);
        self
    }

    fn part(&mut self, part: &SqlText) -> &mut Self {
        self.sql.append(part);
        self
    }

    fn number(&mut self, word: &Word) -> &mut Self {
        self.sql.push_for(&word.text, word.place);
        self
    }

    fn label(&mut self, word: &Word) -> &mut Self {
        self.sql.push_for(&quoted(&word.text), word.place);
        self
    }

    fn label_or_null(&mut self, word: Option<&Word>) -> &mut Self {
        match word {
            Some(word) => self.label(word),
            None => self.word("NULL"),
        }
    }
}
