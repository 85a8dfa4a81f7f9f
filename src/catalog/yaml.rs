//! YAML as a tree with byte places.
//!
//! In: the text of one file. Out: its documents as [`Node`]s whose scalars keep the text of the
//! file (`0.10`, `no`, `01` and `y` stay as written), and syntax errors with places.
//! Invariant: knows nothing of catalogues.

use std::ops::Range;

use saphyr_parser::{Event, Input, Marker, Parser, ScalarStyle, ScanError, Span};

use super::place::{Diagnostics, FileId, Place};
use super::sql_text::SqlText;

/// Nesting beyond this is refused: no catalogue needs it, and the reader recurses.
const DEPTH_MAX: usize = 32;

/// One value of a document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Where it stands; of a block mapping or sequence only its beginning.
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Text, Node)>),
}

/// A scalar as written.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Place,
    /// Written without quotes and not as a block.
    pub(super) plain: bool,
    /// Parts of `text` that stand byte for byte in the file.
    runs: Vec<Run>,
}

/// `text[at..at + len]` stands at byte `source` of the file.
#[derive(Debug, Clone)]
struct Run {
    at: usize,
    len: usize,
    source: u32,
}

impl Text {
    /// Whether YAML reads it as null: an empty value, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null")
    }

    /// Appends a part of this text to an SQL text, with its way back to the file.
    pub(super) fn push_to(&self, range: Range<usize>, sql: &mut SqlText) {
        let mut at = range.start;
        for run in &self.runs {
            let (start, end) = (run.at.max(range.start), (run.at + run.len).min(range.end));
            if start >= end {
                continue;
            }
            if at < start {
                sql.push_for(&self.text[at..start], self.place);
            }
            let source = run.source + offset(start - run.at);
            let place = Place { start: source, end: source + offset(end - start), ..self.place };
            sql.push_verbatim(&self.text[start..end], place);
            at = end;
        }
        if at < range.end {
            sql.push_for(&self.text[at..range.end], self.place);
        }
    }

    /// Where a part of the text stands; the whole where that is not known.
    pub(super) fn part(&self, range: Range<usize>) -> Place {
        let first = self.runs.iter().find(|r| r.at <= range.start && range.start < r.at + r.len);
        let last = self.runs.iter().find(|r| r.at < range.end && range.end <= r.at + r.len);
        match (first, last) {
            (Some(a), Some(b)) => Place {
                start: a.source + offset(range.start - a.at),
                end: b.source + offset(range.end - b.at),
                ..self.place
            },
            _ => self.place,
        }
    }

    /// The whole as an SQL text.
    pub(super) fn sql(&self) -> SqlText {
        let mut sql = SqlText::new(self.place);
        self.push_to(0..self.text.len(), &mut sql);
        sql
    }
}

/// Catalogue files are far below 4 GiB (see `load`), so that offsets fit.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Reads all documents of a file. After a syntax error the documents before it are still given.
pub(super) fn read(file: FileId, text: &str, out: &mut Diagnostics) -> Vec<Node> {
    let skipped = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
    let lines = line_starts(text, skipped);
    let mut reader = Reader { file, text, lines, parser: Parser::new_from_str(&text[skipped..]) };
    let mut documents = Vec::new();
    loop {
        match reader.next() {
            Ok((Event::StreamEnd, _)) => break,
            Ok((Event::DocumentStart(_), _)) => match reader.next().and_then(|e| {
                let empty =
                    matches!(&e.0, Event::Scalar(t, ScalarStyle::Plain, _, _) if t.is_empty());
                Ok((reader.node(e, 0, out)?, empty))
            }) {
                Ok((_, true)) => {}
                Ok((node, false)) => documents.push(node),
                Err(wrong) => {
                    wrong.report(out);
                    break;
                }
            },
            Ok(_) => {}
            Err(wrong) => {
                wrong.report(out);
                break;
            }
        }
    }
    documents
}

/// A syntax error.
struct Wrong {
    place: Place,
    message: String,
    remedy: String,
}

impl Wrong {
    fn report(self, out: &mut Diagnostics) {
        out.error(self.place, self.message, self.remedy);
    }
}

struct Reader<'a, I: Input> {
    file: FileId,
    text: &'a str,
    /// Byte where each line starts.
    lines: Vec<usize>,
    parser: Parser<'a, I>,
}

impl<I: Input> Reader<'_, I> {
    fn next(&mut self) -> Result<(Event<'static>, Span), Wrong> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok((event, span))) => Ok((owned(event), span)),
            Some(Err(error)) => Err(self.syntax(&error)),
        }
    }

    fn node(
        &mut self,
        (event, span): (Event<'static>, Span),
        depth: usize,
        out: &mut Diagnostics,
    ) -> Result<Node, Wrong> {
        let (start, end) = (self.byte(&span.start), self.byte(&span.end));
        let fail = |message: &str, remedy: &str| {
            let place = self.place(start, end);
            Err(Wrong { place, message: message.into(), remedy: remedy.into() })
        };
        if depth > DEPTH_MAX {
            return fail("nested too deeply", "catalogue files need a few levels only");
        }
        match event {
            Event::Alias(_) => fail(
                "YAML aliases are not supported",
                "write the value out, or use `matrix` or `params`",
            ),
            Event::Scalar(_, _, _, Some(_)) => {
                fail("YAML type tags are not supported", "leave the `!...` out")
            }
            Event::Scalar(text, style, ..) => {
                let text = self.scalar(&text, style, start, end);
                Ok(Node { place: text.place, value: Value::Text(text) })
            }
            Event::SequenceStart(..) => self.list(start, depth, out),
            Event::MappingStart(..) => self.map(start, depth, out),
            _ => fail("not a value", "give a text, a list or a mapping"),
        }
    }

    fn list(&mut self, start: usize, depth: usize, out: &mut Diagnostics) -> Result<Node, Wrong> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd | Event::StreamEnd) {
                let end = self.byte(&span.end);
                return Ok(Node { place: self.extent(start, end), value: Value::List(items) });
            }
            items.push(self.node((event, span), depth + 1, out)?);
        }
    }

    fn map(&mut self, start: usize, depth: usize, out: &mut Diagnostics) -> Result<Node, Wrong> {
        let mut entries: Vec<(Text, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                let end = self.byte(&span.end);
                return Ok(Node { place: self.extent(start, end), value: Value::Map(entries) });
            }
            let key = self.node((event, span), depth + 1, out)?;
            let value = self.next()?;
            let mut value = self.node(value, depth + 1, out)?;
            let Value::Text(key) = key.value else {
                out.error(key.place, "a key must be a text", "write `key: value`");
                continue;
            };
            if let Value::Text(text) = &mut value.value
                && text.text.is_empty()
                && text.plain
            {
                // A missing value has no text to underline: its key has.
                text.place = key.place;
                value.place = key.place;
            }
            if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == key.text) {
                let line = self.text[..first.place.start as usize].matches('\n').count() + 1;
                out.error(
                    key.place,
                    format!("duplicate key `{}`", key.text),
                    format!("it is already on line {line}: keep one"),
                );
                continue;
            }
            entries.push((key, value));
        }
    }

    fn scalar(&self, value: &str, style: ScalarStyle, start: usize, end: usize) -> Text {
        let place = self.place(start, end);
        let source = &self.text[start..(place.end as usize).max(start)];
        let plain = style == ScalarStyle::Plain;
        Text { text: value.to_owned(), place, plain, runs: align(value, source, start) }
    }

    /// All of a flow value; of a block value only what is on its first line.
    fn extent(&self, start: usize, end: usize) -> Place {
        if self.text[start..].starts_with(['{', '[']) {
            return self.place(start, end);
        }
        let line = self.text[start..].find('\n').map_or(self.text.len(), |n| start + n);
        let line = self.text[start..line].find(':').map_or(line, |n| start + n);
        self.place(start, line.min(end.max(start)))
    }

    fn place(&self, start: usize, end: usize) -> Place {
        let end = start + self.text[start..end.max(start)].trim_end().len();
        Place { file: self.file, start: offset(start), end: offset(end) }
    }

    /// Byte of a marker. Its index counts characters, and only lines and columns are sure to be
    /// counted alike through all of the scanner, so that those are used.
    fn byte(&self, marker: &Marker) -> usize {
        let Some(&start) = self.lines.get(marker.line().saturating_sub(1)) else {
            return self.text.len();
        };
        self.text[start..]
            .char_indices()
            .nth(marker.col())
            .map_or(self.text.len(), |(into, _)| start + into)
    }

    fn syntax(&self, error: &ScanError) -> Wrong {
        let at = self.byte(error.marker());
        let line_start = self.text[..at].rfind('\n').map_or(0, |n| n + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let info = error.info();
        let indent_len = line.len() - line.trim_start().len();
        let (place, remedy) = if line[..indent_len].contains('\t') || info.contains("tab") {
            (
                self.place(line_start, line_start),
                "indent with spaces, YAML knows no tabs".to_owned(),
            )
        } else if info.contains("mapping values are not allowed") {
            (
                self.place(at, at),
                "put quotes around a value that holds `: `, and check the indentation".into(),
            )
        } else if info.contains("quoted scalar") || info.contains("unexpected end of stream") {
            (self.place(at, at), "a quote is opened and not closed".into())
        } else if info.contains("flow") || info.contains("',' or") {
            (
                self.place(at, at),
                "close the `[` or `{`; quote texts that hold `{`, `[` or `,`".into(),
            )
        } else {
            (self.place(at, at), "check the indentation and the quotes of this line".into())
        };
        Wrong { place, message: format!("this is not YAML: {info}"), remedy }
    }
}

fn owned(event: Event<'_>) -> Event<'static> {
    match event {
        Event::Scalar(text, style, anchor, tag) => Event::Scalar(
            text.into_owned().into(),
            style,
            anchor,
            tag.map(|t| std::borrow::Cow::Owned(t.into_owned())),
        ),
        Event::SequenceStart(anchor, _) => Event::SequenceStart(anchor, None),
        Event::MappingStart(anchor, _) => Event::MappingStart(anchor, None),
        Event::Alias(anchor) => Event::Alias(anchor),
        Event::DocumentStart(explicit) => Event::DocumentStart(explicit),
        Event::DocumentEnd => Event::DocumentEnd,
        Event::SequenceEnd => Event::SequenceEnd,
        Event::MappingEnd => Event::MappingEnd,
        Event::StreamStart => Event::StreamStart,
        Event::StreamEnd => Event::StreamEnd,
        Event::Nothing => Event::Nothing,
    }
}

/// Lines end at `\n`, `\r\n` or a lone `\r`, as YAML has it.
fn line_starts(text: &str, first: usize) -> Vec<usize> {
    let bytes = text.as_bytes();
    let mut starts = vec![first];
    for (i, b) in bytes.iter().enumerate() {
        if *b == b'\n' || (*b == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
            starts.push(i + 1);
        }
    }
    starts
}

/// Finds the parts of a scalar's value in its source text. Folding, indentation, quotes and
/// escapes leave gaps; a value that cannot be followed any further has no runs from there on.
fn align(value: &str, source: &str, source_start: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let bytes = source.as_bytes();
    let mut at = usize::from(source.starts_with(['\'', '"']));
    if source.starts_with(['|', '>']) {
        at = source.find('\n').map_or(source.len(), |n| n + 1);
    }
    for (i, c) in value.char_indices() {
        let len = c.len_utf8();
        if !source[at..].starts_with(c) {
            let folded = c == ' ' || c == '\n';
            if folded && bytes.get(at).is_none_or(u8::is_ascii_whitespace) {
                continue;
            }
            at += source[at..].len() - source[at..].trim_start().len();
            if matches!(bytes.get(at), Some(b'\'' | b'\\')) && !source[at..].starts_with(c) {
                at += 1;
            }
            if !source[at..].starts_with(c) {
                return runs;
            }
        }
        match runs.last_mut() {
            Some(run)
                if run.at + run.len == i && run.source as usize + run.len == source_start + at =>
            {
                run.len += len;
            }
            _ => runs.push(Run { at: i, len, source: offset(source_start + at) }),
        }
        at += len;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::place::Files;

    /// What of the source stands behind `part` of the only value of the only key.
    fn check(source: &str, part: &str, expected: &str) {
        let mut files = Files::default();
        let file = files.add("a.yaml", source);
        let mut out = Diagnostics::default();
        let documents = read(file, source, &mut out);
        assert!(!out.has_errors(), "{out:?}");
        let Value::Map(entries) = &documents[0].value else { panic!("a mapping") };
        let Value::Text(text) = &entries[0].1.value else { panic!("a text") };
        let at = text.text.find(part).expect("the part is in the value");
        let sql = text.sql();
        let place = sql.place(at..at + part.len());
        assert_eq!(&source[place.start as usize..place.end as usize], expected);
        assert_eq!(text.part(at..at + part.len()), place);
    }

    #[test]
    fn a_part_of_a_value_is_found_in_the_file() {
        check("k: a + bc\n", "bc", "bc");
        check("k: 'it''s bc'\n", "bc", "bc");
        check("k: \"\\\"é\\\" = bc\" # bc\n", "bc", "bc");
        check("# größe\nk: \"大 bc\"\n", "bc", "bc");
        check("k: |\n  a\n    bc\n", "bc", "bc");
        check("k: |2\n    a\n   bc\n", "bc", "bc");
        check("k: >-\n  a\n  bc\n", "bc", "bc");
        check("k: a\n  bc\n", "bc", "bc");
        check("k: a\n  bc\n", "a bc", "a\n  bc");
        check("\u{FEFF}k: a bc\n", "bc", "bc");
        check("k: |\r\n  a\r\n  bc\r\n", "bc", "bc");
    }

    #[test]
    fn scalars_keep_their_text() {
        let source = "k: [0.10, no, 01, y, ~, 1e3]\n";
        let mut out = Diagnostics::default();
        let documents = read(FileId(0), source, &mut out);
        let Value::Map(entries) = &documents[0].value else { panic!("a mapping") };
        let Value::List(items) = &entries[0].1.value else { panic!("a list") };
        let texts: Vec<&str> = items
            .iter()
            .filter_map(|i| match &i.value {
                Value::Text(t) => Some(t.text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(texts, ["0.10", "no", "01", "y", "~", "1e3"]);
    }
}
