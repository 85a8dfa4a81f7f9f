//! SQL laid out for people: one WHEN a line, long conditions broken at AND and OR.
//!
//! In: one SQL expression. Out: the same tokens with other white space between them.
//! Invariant: nothing but white space and the form of comments changes.

use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

/// Lines longer than this are broken where they can be.
const WIDTH_MAX: usize = 96;
const INDENT: &str = "  ";

/// Lays an expression out. Text that is no SQL comes back as it is.
pub fn pretty(sql: &str) -> String {
    let Some(words) = words(sql) else { return sql.trim().to_owned() };
    let mut out = Layout::default();
    let mut at = 0;
    out.expression(&words, &mut at, 0);
    // An expression ends where its text does; what is left is no expression and stays as it is.
    while at < words.len() {
        out.push(&words[at]);
        at += 1;
    }
    out.text
}

/// A token that is no white space.
#[derive(Debug, Clone)]
struct Piece {
    text: String,
    keyword: Keyword,
    /// White space stood before it.
    spaced: bool,
    opens: bool,
    closes: bool,
}

fn words(sql: &str) -> Option<Vec<Piece>> {
    // Escapes in texts stay as they were written.
    let tokens = Tokenizer::new(&GenericDialect {}, sql).with_unescape(false).tokenize().ok()?;
    let mut pieces = Vec::new();
    let mut spaced = false;
    for token in tokens {
        let (text, keyword) = match &token {
            Token::Whitespace(Whitespace::SingleLineComment { comment, .. }) => {
                (format!("/* {} */", comment.trim()), Keyword::NoKeyword)
            }
            Token::Whitespace(Whitespace::MultiLineComment(_)) => {
                (token.to_string(), Keyword::NoKeyword)
            }
            Token::Whitespace(_) => {
                spaced = true;
                continue;
            }
            Token::Word(word) => (token.to_string(), word.keyword),
            _ => (token.to_string(), Keyword::NoKeyword),
        };
        let (opens, closes) = (token == Token::LParen, token == Token::RParen);
        pieces.push(Piece { text, keyword, spaced, opens, closes });
        spaced = false;
    }
    Some(pieces)
}

#[derive(Default)]
struct Layout {
    text: String,
}

impl Layout {
    fn push(&mut self, piece: &Piece) {
        let fresh = self.text.is_empty() || self.text.ends_with([' ', '\n']);
        if piece.spaced && !fresh {
            self.text.push(' ');
        }
        self.text.push_str(&piece.text);
    }

    fn line(&mut self, depth: usize) {
        self.text.truncate(self.text.trim_end().len());
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&INDENT.repeat(depth));
    }

    fn column(&self) -> usize {
        self.text.rsplit('\n').next().unwrap_or("").chars().count()
    }

    /// Writes pieces up to one that ends the expression: `WHEN`, `THEN`, `ELSE`, `END` of the CASE
    /// around it, or a closing parenthesis.
    fn expression(&mut self, words: &[Piece], at: &mut usize, depth: usize) {
        let broken = self.column() + width(words, *at) > WIDTH_MAX;
        let mut between = false;
        while let Some(piece) = words.get(*at) {
            match piece.keyword {
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE | Keyword::END => return,
                _ if piece.closes => return,
                Keyword::CASE => {
                    self.case(words, at, depth);
                    continue;
                }
                Keyword::BETWEEN => between = true,
                Keyword::AND if between => between = false,
                Keyword::AND | Keyword::OR if broken => self.line(depth + 1),
                _ => {}
            }
            self.push(piece);
            *at += 1;
            if piece.opens {
                self.expression(words, at, depth + 1);
                if let Some(close) = words.get(*at).filter(|p| p.closes) {
                    self.push(close);
                    *at += 1;
                }
            }
        }
    }

    fn case(&mut self, words: &[Piece], at: &mut usize, depth: usize) {
        self.push(&words[*at]);
        *at += 1;
        self.expression(words, at, depth);
        while let Some(piece) = words.get(*at) {
            match piece.keyword {
                Keyword::WHEN | Keyword::ELSE => self.line(depth + 1),
                Keyword::END => self.line(depth),
                Keyword::THEN => {}
                // A parenthesis that closes nothing: the text is no expression.
                _ => return,
            }
            self.push(piece);
            *at += 1;
            if piece.keyword == Keyword::END {
                return;
            }
            self.expression(words, at, depth + 1);
        }
    }
}

/// Characters of the expression that begins at `at`.
fn width(words: &[Piece], at: usize) -> usize {
    let (mut open, mut cases, mut width) = (0_usize, 0_usize, 0);
    for piece in &words[at..] {
        match piece.keyword {
            Keyword::CASE => cases += 1,
            Keyword::END if cases > 0 => cases -= 1,
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE | Keyword::END if cases == 0 => break,
            _ if piece.closes && open == 0 => break,
            _ => {}
        }
        open = open + usize::from(piece.opens) - usize::from(piece.closes);
        width += piece.text.chars().count() + usize::from(piece.spaced);
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expect: &str) {
        assert_eq!(pretty(sql), expect);
        let flat = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(flat(&pretty(&pretty(sql))), flat(expect));
    }

    #[test]
    fn each_when_has_its_line() {
        check(
            "CASE WHEN a IS NULL THEN 'it''s none' WHEN a < 5\n THEN 'low' ELSE 'high' END",
            "CASE\n  WHEN a IS NULL THEN 'it''s none'\n  WHEN a < 5 THEN 'low'\n  ELSE 'high'\nEND",
        );
        check("CASE a WHEN 1 THEN 'x' END", "CASE a\n  WHEN 1 THEN 'x'\nEND");
        check(
            "CASE WHEN a THEN CASE WHEN b THEN 1 END ELSE coalesce(c, 2) END + 1",
            "CASE\n  WHEN a THEN CASE\n    WHEN b THEN 1\n  END\n  ELSE coalesce(c, 2)\nEND + 1",
        );
    }

    #[test]
    fn only_long_conditions_are_broken_and_never_inside_between() {
        check("a > 1\n  AND b BETWEEN 2 AND 3", "a > 1 AND b BETWEEN 2 AND 3");
        check(
            "orders_lifetime > 0 AND (orders_lifetime >= 3 OR spend_lifetime >= 650) \
             AND days_since(last_bought) BETWEEN 61 AND 180",
            "orders_lifetime > 0\n  AND (orders_lifetime >= 3 OR spend_lifetime >= 650)\n  \
             AND days_since(last_bought) BETWEEN 61 AND 180",
        );
    }

    #[test]
    fn comments_and_what_is_no_sql_survive() {
        check("a -- why\n > 1", "a /* why */ > 1");
        check("a ) 'unended", "a ) 'unended");
    }
}
