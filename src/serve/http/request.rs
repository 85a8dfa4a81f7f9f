//! What requests say, read strictly.
//!
//! In: paths, queries and bodies. Out: uids, tags, instants, or the problem.
//! Invariant: nothing is guessed: what is not understood is a 400 that says what would be.

use actix_web::HttpRequest;
use actix_web::error::{JsonPayloadError, QueryPayloadError};
use serde::Deserialize;

use super::problem::{Answered, Problem, Type};
use crate::catalog::model::{Catalog, UidType};
use crate::clock::Zone;
use crate::event::parse::iso;
use crate::serve::published::Published;
use crate::store::Uid;

/// Tags one may name in a request.
const TAGS_MAX: usize = 10_000;

/// The query of a user.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserQuery {
    pub(super) tags: Option<String>,
    pub(super) as_of: Option<String>,
}

/// The query of a reason.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyQuery {
    pub(super) as_of: Option<String>,
}

/// A segment of a request's path, by its place, percent-decoded. Slashes that belong to a uid are
/// written `%2F`.
pub(super) fn segment(request: &HttpRequest, at: usize) -> Answered<String> {
    // The router decodes as well, but replaces what is not UTF-8: that might be another user.
    let raw = request.uri().path().split('/').nth(at + 1).unwrap_or_default();
    decoded(raw).ok_or_else(|| {
        let detail = format!("`{raw}` is not percent-encoded UTF-8; write % as %25 and / as %2F");
        Problem::new(Type::BadRequest, detail)
    })
}

fn decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// A uid as it stands in a path.
pub(super) fn uid(kind: UidType, text: &str) -> Answered<Uid> {
    // `+7` is a number to a parser, but no uid that anybody wrote.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if kind == UidType::U64 && !is_number {
        return Err(crate::store::UidError::NotANumber(text.to_owned()).into());
    }
    Ok(Uid::parse(kind, text)?)
}

/// The tags of `a,b`, by catalogue index; none: all.
pub(super) fn tags(published: &Published, text: Option<&str>) -> Answered<Option<Vec<usize>>> {
    text.map(|text| named(published, text.split(',').map(str::trim))).transpose()
}

/// Tags by catalogue index, in the order in which they are named, each once.
pub(super) fn named<'a>(
    published: &Published,
    names: impl Iterator<Item = &'a str>,
) -> Answered<Vec<usize>> {
    let mut found = Vec::new();
    let mut seen = hashbrown::HashSet::new();
    for (count, name) in names.enumerate() {
        if count >= TAGS_MAX {
            let detail = format!("more than {TAGS_MAX} tags are named");
            return Err(Problem::new(Type::BadRequest, detail));
        }
        if name.is_empty() {
            let detail = "a tag's name is empty; write tags=a,b, or leave `tags` out for all tags";
            return Err(Problem::new(Type::BadRequest, detail));
        }
        let at = published.find(name)?;
        if seen.insert(at) {
            found.push(at);
        }
    }
    Ok(found)
}

/// An instant as ISO 8601 or epoch milliseconds, or `now`.
pub(super) fn instant(catalog: &Catalog, text: Option<&str>) -> Answered<Option<i64>> {
    text.map(|text| parse_instant(&catalog.zone, text)).transpose()
}

fn parse_instant(zone: &Zone, text: &str) -> Answered<i64> {
    if text == "now" {
        return Ok(crate::clock::wall_ms());
    }
    let is_number = text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
    let parsed = if is_number { text.parse().ok() } else { iso(text, zone).ok() };
    // What the calendar cannot show is a slip of the pen.
    let parsed = parsed.filter(|ms| jiff::Timestamp::from_millisecond(*ms).is_ok());
    parsed.ok_or_else(|| {
        let detail = format!(
            "as_of = `{text}` is no instant; write 2026-03-31T20:00 (local time of {}), \
             2026-03-31T12:00:00Z (write + as %2B), epoch milliseconds, or now",
            zone.name()
        );
        Problem::new(Type::BadRequest, detail)
    })
}

/// The framework's word on a body.
pub(super) fn json_problem(error: &JsonPayloadError, body_bytes_max: usize) -> Problem {
    match error {
        JsonPayloadError::OverflowKnownLength { .. } | JsonPayloadError::Overflow { .. } => {
            let detail = format!(
                "the body may have {body_bytes_max} bytes (serve.body_bytes_max): ask in smaller batches"
            );
            Problem::new(Type::TooLarge, detail)
        }
        JsonPayloadError::ContentType => Problem::new(
            Type::UnsupportedMediaType,
            "send the body as JSON, with `Content-Type: application/json`",
        ),
        error => {
            let example = r#"{"uids": ["17850"], "tags": ["win_back"]}"#;
            Problem::new(Type::BadRequest, format!("{error}; a body is like {example}"))
        }
    }
}

/// The framework's word on a query.
pub(super) fn query_problem(error: &QueryPayloadError) -> Problem {
    Problem::new(Type::BadRequest, format!("the query cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_strictly() {
        let check = |raw: &str, expect: Option<&str>| {
            assert_eq!(decoded(raw).as_deref(), expect, "{raw}");
        };
        check("a%2Fb%25", Some("a/b%"));
        check("z%C3%BCrich", Some("zürich"));
        check("a+b", Some("a+b"));
        check("%ff", None);
        check("%2", None);
        check("%zz", None);
    }

    #[test]
    fn uids_are_whole_numbers_where_they_are_numbers() {
        let max = u64::MAX.to_string();
        assert_eq!(uid(UidType::U64, &max), Ok(Uid::U64(u64::MAX)));
        for wrong in ["18446744073709551616", "+7", "-1", "1.0", "", "seven"] {
            let problem = uid(UidType::U64, wrong).expect_err(wrong);
            assert_eq!((problem.status, problem.kind.as_str()), (400, "/problems/bad-uid"));
        }
        assert_eq!(uid(UidType::String, "+7"), Ok(Uid::Str("+7".into())));
        assert!(uid(UidType::String, "").is_err());
    }

    #[test]
    fn instants_are_read_as_people_and_programs_write_them() {
        let zone = Zone::new("Europe/London").expect("a zone");
        let check = |text: &str, expect: Option<i64>| {
            assert_eq!(parse_instant(&zone, text).ok(), expect, "{text}");
        };
        check("2026-03-31T20:00", Some(1_774_983_600_000));
        check("2026-03-31T19:00:00Z", Some(1_774_983_600_000));
        check("1774983600000", Some(1_774_983_600_000));
        check("9223372036854775807", None);
        check("soon", None);
        check("", None);
    }
}
