//! `/v1/users`: one user's tags, many users' tags, and why one has a value.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Service;
use super::problem::{Answered, Problem, Type};
use super::request::{UserQuery, WhyQuery, instant, named, segment, tags, uid};
use crate::serve::answer::Answer;
use crate::serve::published::UserBody;
use crate::serve::read::ReadError;
use crate::serve::readers::Reading;
use crate::serve::why::Why;
use crate::store::Uid;
use crate::telemetry::names::USERS_READ;
use crate::user::layout::hash64;

/// A question about many users.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// Whose tags: texts, or whole numbers. At most `serve.batch_users_max` of them.
    #[schema(value_type = Vec<UidGiven>, max_items = 1000)]
    uids: Vec<UidGiven>,
    /// Which tags; without it: all.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// A uid as text or as a number.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
enum UidGiven {
    /// A whole number.
    Number(u64),
    /// Text.
    Text(String),
}

/// The answer about many users.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchAnswer {
    /// One for each uid that was asked for, in that order.
    pub users: Vec<BatchEntry>,
}

/// One user of many.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// Whose.
    pub uid: String,
    /// The store knows this user.
    pub found: bool,
    /// The tags; only where `found` and there is no `problem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserBody>,
    /// Why this user cannot be read, though the others can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// One user's tags.
///
/// As stored until the due instant (`due_ms`), computed for this answer afterwards. `ETag` and
/// `If-None-Match` save sending what is known.
#[utoipa::path(
    get, path = "/v1/users/{uid}", tag = "users",
    params(
        ("uid" = String, Path, description = "The user, percent-encoded: a / is %2F"),
        ("tags" = Option<String>, Query, description = "Only these tags, separated by commas"),
        ("as_of" = Option<String>, Query,
         description = "As of this instant: ISO 8601, epoch milliseconds, or now"),
        ("If-None-Match" = Option<String>, Header, description = "ETags that are known"),
    ),
    responses(
        (status = 200, description = "The tags", body = UserBody,
         headers(("ETag" = String, description = "Names this answer"))),
        (status = 304, description = "The answer is the known one"),
        (status = 400, description = "A uid, tag or instant that is none", body = Problem,
         content_type = "application/problem+json"),
        (status = 401, description = "No key", body = Problem,
         content_type = "application/problem+json"),
        (status = 404, description = "No such user", body = Problem,
         content_type = "application/problem+json"),
        (status = 409, description = "as_of lies before the stored instant", body = Problem,
         content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = Problem,
         content_type = "application/problem+json"),
        (status = 503, description = "Too busy, or no store", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get_user(
    service: web::Data<Service>,
    request: HttpRequest,
    query: web::Query<UserQuery>,
) -> Answered<HttpResponse> {
    let text = segment(&request, 2)?;
    let (shared, query) = (Arc::clone(&service.readers), query.into_inner());
    let body = service.pool.run(move || {
        let reading = shared.reading()?;
        let (catalog, published) = (&reading.active.ruleset.catalog, &reading.published);
        let uid = uid(catalog.uid, &text)?;
        let asked = tags(published, query.tags.as_deref())?;
        let as_of_ms = instant(catalog, query.as_of.as_deref())?;
        let mut answers =
            reading.reader.answers(std::slice::from_ref(&uid), as_of_ms, asked.as_deref())?;
        let answer = answers.pop().unwrap_or(Err(ReadError::UnknownUser(text)));
        count(&answer);
        let mut body = Vec::with_capacity(256);
        published.write(&answer?, asked.as_deref(), &mut body);
        Ok::<_, Problem>(body)
    });
    let body = body.await??;
    // The answer's own hash: another version, instant, catalogue or choice of tags is another answer.
    let etag = format!("\"{:016x}\"", hash64(&body));
    if is_known(&request, &etag) {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, etag)).finish());
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((ETAG, etag)).insert_header((CACHE_CONTROL, "private, no-cache"));
    Ok(response.content_type("application/json").body(body))
}

/// Whether the asker has this answer (RFC 9110, 13.1.2: weak comparison).
fn is_known(request: &HttpRequest, etag: &str) -> bool {
    let headers = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    headers
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

fn count(answer: &Result<Answer, ReadError>) {
    let how = match answer {
        Ok(answer) if answer.evaluated => "evaluated",
        Ok(_) => "stored",
        Err(ReadError::UnknownUser(_)) => "unknown",
        Err(_) => return,
    };
    USERS_READ.counter(&[how]).increment(1);
}

/// Many users' tags.
///
/// The order is kept; users whom the store does not know are marked. One read of the store, and one
/// evaluation of those who are due.
#[utoipa::path(
    post, path = "/v1/users:batchGet", tag = "users", request_body = BatchBody,
    responses(
        (status = 200, description = "An entry for each uid", body = BatchAnswer),
        (status = 400, description = "A body, uid or tag that is none, or too many users",
         body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key", body = Problem,
         content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem,
         content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem,
         content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = Problem,
         content_type = "application/problem+json"),
        (status = 503, description = "Too busy, or no store", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn batch_get(
    service: web::Data<Service>,
    body: web::Json<BatchBody>,
) -> Answered<HttpResponse> {
    let BatchBody { uids, tags } = body.into_inner();
    let users_max = service.config.batch_users_max;
    if uids.len() > users_max {
        let detail = format!(
            "{} uids are more than a batch may have: at most {users_max} (serve.batch_users_max)",
            uids.len()
        );
        return Err(Problem::new(Type::BadRequest, detail));
    }
    let shared = Arc::clone(&service.readers);
    let body = service.pool.run(move || {
        let reading = shared.reading()?;
        let kind = reading.active.ruleset.catalog.uid;
        let parse = |(at, given): (usize, &UidGiven)| {
            let parsed = match given {
                UidGiven::Number(number) => uid(kind, &number.to_string()),
                UidGiven::Text(text) => uid(kind, text),
            };
            parsed.map_err(|p| Problem { detail: format!("uids[{at}]: {}", p.detail), ..p })
        };
        let uids: Vec<Uid> = uids.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        let names = tags.as_ref().map(|names| names.iter().map(String::as_str));
        let asked = names.map(|names| named(&reading.published, names)).transpose()?;
        write_batch(&reading, &uids, asked.as_deref())
    });
    let body = body.await??;
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .content_type("application/json")
        .body(body))
}

fn write_batch(reading: &Reading, uids: &[Uid], asked: Option<&[usize]>) -> Answered<Vec<u8>> {
    let answers = reading.reader.answers(uids, None, asked)?;
    let mut out = Vec::with_capacity(256 * uids.len());
    out.extend_from_slice(b"{\"users\":[");
    for (at, (uid, answer)) in uids.iter().zip(answers).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        count(&answer);
        let uid = serde_json::Value::from(uid.to_string()).to_string();
        out.extend_from_slice(format!("{{\"uid\":{uid},\"found\":").as_bytes());
        match answer {
            Ok(answer) => {
                out.extend_from_slice(b"true,\"user\":");
                reading.published.write(&answer, asked, &mut out);
            }
            Err(ReadError::UnknownUser(_)) => out.extend_from_slice(b"false"),
            Err(error) => {
                out.extend_from_slice(b"true,\"problem\":");
                let problem = Problem::from(error);
                out.extend(serde_json::to_vec(&problem).unwrap_or_default());
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Why a user has a tag's value.
///
/// The rule and its place, every input with its value, what would change the tag, and when time
/// alone will.
#[utoipa::path(
    get, path = "/v1/users/{uid}/tags/{tag}/why", tag = "users",
    params(
        ("uid" = String, Path, description = "The user, percent-encoded: a / is %2F"),
        ("tag" = String, Path, description = "The tag's name"),
        ("as_of" = Option<String>, Query,
         description = "As of this instant: ISO 8601, epoch milliseconds, or now"),
    ),
    responses(
        (status = 200, description = "The reasons", body = Why),
        (status = 400, description = "A uid, tag or instant that is none", body = Problem,
         content_type = "application/problem+json"),
        (status = 401, description = "No key", body = Problem,
         content_type = "application/problem+json"),
        (status = 404, description = "No such user, or tag", body = Problem,
         content_type = "application/problem+json"),
        (status = 409, description = "as_of lies before the stored instant", body = Problem,
         content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = Problem,
         content_type = "application/problem+json"),
        (status = 503, description = "Too busy, or no store", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn why(
    service: web::Data<Service>,
    request: HttpRequest,
    query: web::Query<WhyQuery>,
) -> Answered<HttpResponse> {
    let (text, tag) = (segment(&request, 2)?, segment(&request, 4)?);
    let (shared, query) = (Arc::clone(&service.readers), query.into_inner());
    let why = service.pool.run(move || {
        let reading = shared.reading()?;
        let catalog = &reading.active.ruleset.catalog;
        let uid = uid(catalog.uid, &text)?;
        // It stands in the path: nothing is there.
        reading.published.find(&tag).map_err(|e| Problem { status: 404, ..e.into() })?;
        let as_of_ms = instant(catalog, query.as_of.as_deref())?;
        Ok::<_, Problem>(reading.reader.why(&uid, &tag, as_of_ms, &reading.active.files)?)
    });
    let why = why.await??;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(why))
}
