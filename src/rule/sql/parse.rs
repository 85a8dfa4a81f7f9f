//! SQL text to syntax tree, with the way from any part of the tree back to the file.
//!
//! In: an [`SqlText`] and the catalogue's parameters. Out: an AST in which every `$param` has become
//! a literal, or a diagnostic at the place of the mistake. Invariant: no types, no names looked up.

use std::collections::BTreeMap;
use std::ops::Range;

use datafusion_sql::sqlparser::ast::{Expr as Ast, Ident, Spanned};
use datafusion_sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Word};

use crate::catalog::model::Param;
use crate::catalog::place::{Diagnostics, Place};
use crate::catalog::sql_text::SqlText;

use super::nearest;

/// Expressions nested deeper than this are refused (the planner recurses).
const DEPTH_MAX: usize = 60;

/// SQL text with the byte offset of each of its lines.
pub(super) struct Source<'a> {
    pub(super) text: &'a SqlText,
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a SqlText) -> Self {
        let newlines = text.sql().match_indices('\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(newlines).collect() }
    }

    fn offset(&self, at: Location) -> Option<usize> {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let start = *self.lines.get(line)?;
        let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
        let rest = &self.text.sql()[start..];
        Some(rest.char_indices().nth(column).map_or(self.text.sql().len(), |(i, _)| start + i))
    }

    /// Byte range of a span; `None` for the parser's empty spans.
    pub(super) fn range(&self, span: Span) -> Option<Range<usize>> {
        let (start, end) = (self.offset(span.start)?, self.offset(span.end)?);
        (start < end).then_some(start..end)
    }

    pub(super) fn place(&self, span: Span) -> Place {
        self.range(span).map_or(self.text.whole(), |r| self.text.place(r))
    }

    pub(super) fn place_of(&self, ast: &Ast) -> Place {
        self.place(ast.span())
    }

    pub(super) fn place_of_ident(&self, ident: &Ident) -> Place {
        self.place(ident.span)
    }
}

/// Splits into tokens; an unterminated string or comment becomes a diagnostic.
pub(super) fn tokens(source: &Source<'_>, out: &mut Diagnostics) -> Option<Vec<TokenWithSpan>> {
    let sql = source.text.sql();
    match Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() {
        Ok(tokens) => Some(tokens),
        Err(error) => {
            let start = source.offset(error.location).unwrap_or(0);
            // The tokenizer says where the text begins that never ends: underline all of it.
            let start = if error.message.contains("nterminated") && start == sql.len() {
                sql.rfind('\'').unwrap_or(0)
            } else {
                start
            };
            let place = source.text.place(start.min(sql.len().saturating_sub(1))..sql.len());
            let (message, remedy) = if error.message.to_lowercase().contains("string") {
                ("this text never ends", "close it with `'`; write a quote inside it as `''`")
            } else if error.message.contains("omment") {
                ("this comment never ends", "close it with `*/`")
            } else {
                out.error(place, lower_first(&error.message), "");
                return None;
            };
            out.error(place, message, remedy);
            None
        }
    }
}

/// Puts literals in the place of `$name` tokens. Gives the new SQL beside the tokens.
pub(super) fn put_params(
    tokens: Vec<TokenWithSpan>,
    params: &BTreeMap<String, Param>,
    source: &Source<'_>,
    out: &mut Diagnostics,
) -> Option<(Vec<TokenWithSpan>, String)> {
    let (mut put, mut sql, mut at, mut good) = (Vec::new(), String::new(), 0, true);
    for token in tokens {
        let Token::Placeholder(name) = &token.token else {
            put.push(token);
            continue;
        };
        let Some(param) = name.strip_prefix('$').and_then(|n| params.get(n)) else {
            let near = nearest(name.trim_start_matches('$'), params.keys().map(String::as_str));
            let remedy = match (near, params.is_empty()) {
                (Some(near), _) => format!("did you mean `${near}`?"),
                (None, true) => "`catalog.yaml` has no `params:`".to_owned(),
                (None, false) => "name it under `params:` in `catalog.yaml`".to_owned(),
            };
            out.error(source.place(token.span), format!("unknown parameter `{name}`"), remedy);
            good = false;
            continue;
        };
        if let Some(range) = source.range(token.span) {
            sql.push_str(&source.text.sql()[at..range.start]);
            sql.push_str(&literal_text(param));
            at = range.end;
        }
        put.extend(literal_tokens(param).map(|t| TokenWithSpan::new(t, token.span)));
    }
    sql.push_str(&source.text.sql()[at..]);
    good.then_some((put, sql))
}

fn literal_text(param: &Param) -> String {
    match param {
        Param::Int(v) if *v < 0 => format!("({v})"),
        Param::Int(v) => v.to_string(),
        Param::Decimal(mantissa, scale) => decimal_text(*mantissa, *scale),
        Param::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Param::Bool(v) => v.to_string(),
    }
}

fn decimal_text(mantissa: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    let digits = format!("{:0width$}", mantissa.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let number = if scale == 0 { format!("{whole}.0") } else { format!("{whole}.{part}") };
    if mantissa < 0 { format!("(-{number})") } else { number }
}

fn literal_tokens(param: &Param) -> impl Iterator<Item = Token> {
    let text = literal_text(param);
    let tokens = match param {
        Param::Text(text) => vec![Token::SingleQuotedString(text.clone())],
        Param::Bool(v) => {
            let keyword = if *v { Keyword::TRUE } else { Keyword::FALSE };
            vec![Token::Word(Word { value: text, quote_style: None, keyword })]
        }
        Param::Int(_) | Param::Decimal(..) => match text.strip_prefix("(-") {
            Some(number) => vec![
                Token::LParen,
                Token::Minus,
                Token::Number(number.trim_end_matches(')').to_owned(), false),
                Token::RParen,
            ],
            None => vec![Token::Number(text, false)],
        },
    };
    tokens.into_iter()
}

/// Plain SQL expressions. The words that begin a special form are reserved: else the parser, when
/// such a form is broken, takes the word for a column and complains about what stands behind it.
#[derive(Debug)]
struct Rules;

impl Dialect for Rules {
    fn is_identifier_start(&self, c: char) -> bool {
        GenericDialect {}.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        GenericDialect {}.is_identifier_part(c)
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    /// `a IS DISTINCT FROM b AND c` is `(a IS DISTINCT FROM b) AND c`; the parser itself would read
    /// `b AND c` as the right side.
    fn parse_infix(
        &self,
        parser: &mut Parser<'_>,
        left: &Ast,
        _: u8,
    ) -> Option<Result<Ast, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let form: fn(Box<Ast>, Box<Ast>) -> Ast = if parser.parse_keywords(&[IS, DISTINCT, FROM]) {
            Ast::IsDistinctFrom
        } else if parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]) {
            Ast::IsNotDistinctFrom
        } else {
            return None;
        };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| form(Box::new(left.clone()), Box::new(right))))
    }

    fn is_reserved_for_identifier(&self, word: Keyword) -> bool {
        use Keyword::{CASE, CAST, EXISTS, EXTRACT, INTERVAL, NOT, STRUCT, TRIM, TRY_CAST};
        matches!(word, CASE | CAST | EXISTS | EXTRACT | INTERVAL | NOT | STRUCT | TRIM | TRY_CAST)
    }
}

/// Parses tokens as one expression, and nothing behind it.
pub(super) fn parse(
    tokens: Vec<TokenWithSpan>,
    source: &Source<'_>,
    out: &mut Diagnostics,
) -> Option<Ast> {
    let sql = source.text.sql();
    if sql.trim().is_empty() {
        out.error(source.text.whole(), "there is no expression here", "");
        return None;
    }
    let spans: Vec<Span> = tokens.iter().map(|t| t.span).collect();
    let mut parser =
        Parser::new(&Rules).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let error = match parser.parse_expr() {
        Ok(ast) => {
            let next = parser.peek_token();
            if next.token == Token::EOF {
                return Some(ast);
            }
            let message = match &next.token {
                Token::Eq | Token::DoubleEq => "`=` cannot stand here".to_owned(),
                token => format!("`{token}` cannot stand here: the expression is already complete"),
            };
            out.error(source.place(next.span), message, "is an operator or a comma missing?");
            return None;
        }
        Err(error) => error,
    };
    let message = match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m,
        ParserError::RecursionLimitExceeded => {
            let remedy = "name its parts as tags of their own";
            out.error(source.text.whole(), "this expression is nested too deep", remedy);
            return None;
        }
    };
    let (message, at) = split_location(&message);
    let start = match at.and_then(|at| source.offset(at)) {
        None if message.ends_with("EOF") => Some(sql.len()),
        start => start,
    };
    let place = start.map_or(source.text.whole(), |start| {
        if start >= sql.len() {
            let end = sql.trim_end().len();
            let last = sql[..end].char_indices().next_back().map_or(0, |(i, _)| i);
            return source.text.place(last..end);
        }
        let token = spans.iter().filter_map(|s| source.range(*s)).find(|r| r.start == start);
        token.map_or(source.text.whole(), |range| source.text.place(range))
    });
    out.error(place, syntax_message(&message), "");
    None
}

/// `Expected: an expression, found: EOF` in our words.
fn syntax_message(message: &str) -> String {
    let Some((expected, found)) =
        message.strip_prefix("Expected: ").and_then(|m| m.split_once(", found: "))
    else {
        return lower_first(message);
    };
    match found.trim() {
        "EOF" => format!("the expression ends where {expected} is expected"),
        found => format!("expected {expected}, found `{found}`"),
    }
}

/// Takes ` at Line: 1, Column: 9` off a message.
fn split_location(message: &str) -> (String, Option<Location>) {
    let Some((before, at)) = message.rsplit_once(" at Line: ") else {
        return (message.to_owned(), None);
    };
    let location = at.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
    });
    (before.to_owned(), location)
}

fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}
