//! A feature's `value:`: one call of an aggregate over row expressions.
//!
//! In: `sum(amount)`. Out: its name and the texts of its arguments, each with its own places.
//! Invariant: the arguments are not parsed here but by [`super::compile`].

use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::catalog::place::{Diagnostics, Place};
use crate::catalog::sql_text::SqlText;

use super::parse::{self, Source};

const REMEDY: &str = "write one call, like `sum(amount)`, `count()` or `count(distinct sku)`";

/// One call of an aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateCall {
    /// Lower case; not yet known to be an aggregate.
    pub name: String,
    /// `count(distinct e)`.
    pub distinct: bool,
    /// Row expressions. `count(*)` has none.
    pub args: Vec<SqlText>,
    /// Arguments with a name, in the order they are written.
    pub named: Vec<NamedArgument>,
    /// Where the name stands.
    pub place: Place,
}

/// `by => amount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedArgument {
    /// Lower case.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// A row expression.
    pub value: SqlText,
}

/// Takes a call apart. `None`: it is not one call, and `out` says so.
pub fn aggregate_call(text: &SqlText, out: &mut Diagnostics) -> Option<AggregateCall> {
    let source = Source::new(text);
    let mut tokens = parse::tokens(&source, out)?;
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF));
    let (name, open) = match tokens.as_slice() {
        [name, open, ..] => (name, open),
        [..] => {
            out.error(text.whole(), "this is not a call of an aggregate", REMEDY);
            return None;
        }
    };
    let Token::Word(word) = &name.token else {
        out.error(source.place(name.span), "this is not a call of an aggregate", REMEDY);
        return None;
    };
    let place = source.place(name.span);
    if open.token != Token::LParen {
        out.error(place, "this is not a call of an aggregate", REMEDY);
        return None;
    }
    let body = &tokens[2..];
    let Some(close) = closing(body) else {
        out.error(source.place(open.span), "this `(` is never closed", REMEDY);
        return None;
    };
    if let Some(behind) = body.get(close + 1) {
        let message = "the value of a feature is one call and nothing behind it";
        let remedy = "make a feature of each call and put them together in a tag";
        out.error(source.place(behind.span), message, remedy);
        return None;
    }
    let mut inside = &body[..close];
    let distinct = matches!(inside.first(), Some(TokenWithSpan { token: Token::Word(w), .. })
        if w.keyword == Keyword::DISTINCT);
    if distinct {
        inside = &inside[1..];
    }
    let star = matches!(inside, [only] if only.token == Token::Mul);
    let (mut args, mut named) = (Vec::new(), Vec::new());
    let parts = (!inside.is_empty() && !star).then(|| split(inside));
    for part in parts.into_iter().flatten() {
        if let [TokenWithSpan { token: Token::Word(word), span }, arrow, value @ ..] = part
            && arrow.token == Token::RArrow
        {
            let value = argument(value, arrow, &source);
            let (name, place) = (word.value.to_lowercase(), source.place(*span));
            named.push(NamedArgument { name, place, value });
        } else {
            args.push(argument(part, open, &source));
        }
    }
    Some(AggregateCall { name: word.value.to_lowercase(), distinct, args, named, place })
}

/// The index of the `)` that closes a call.
fn closing(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return Some(at),
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    None
}

/// At the commas outside of all parentheses.
fn split(tokens: &[TokenWithSpan]) -> impl Iterator<Item = &[TokenWithSpan]> {
    let mut depth = 0_usize;
    tokens.split(move |t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && t.token == Token::Comma
    })
}

fn argument(part: &[TokenWithSpan], open: &TokenWithSpan, source: &Source<'_>) -> SqlText {
    let range = match (part.first(), part.last()) {
        (Some(first), Some(last)) => source
            .range(first.span)
            .zip(source.range(last.span))
            .map_or(0..source.text.sql().len(), |(a, b)| a.start..b.end),
        // `sum(a,)`: an empty text, whose error stands at the call.
        _ => return SqlText::new(source.place(open.span)),
    };
    source.text.slice(range)
}
