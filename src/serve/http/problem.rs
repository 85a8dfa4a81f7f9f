//! Errors as RFC 9457 says: `application/problem+json`.
//!
//! In: what went wrong. Out: a status, a type that programs tell apart, and a detail that says what
//! to do. Invariant: every error that leaves the service is one of these, and none holds a secret.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::engine::version::VersionError;
use crate::serve::published::NotPublished;
use crate::serve::read::ReadError;
use crate::store::{Fault, StoreError, UidError};
use crate::write::profile::ProfileError;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Type {
    /// The request cannot be understood.
    BadRequest,
    /// A uid that can be nobody's.
    BadUid,
    /// A tag that is not given out.
    UnknownTag,
    /// An instant before the one a user was computed for.
    AsOfBack,
    /// A key is missing or wrong.
    Unauthorized,
    /// Nothing is known of this user.
    UnknownUser,
    /// There is nothing at this path.
    NotFound,
    /// There is something at this path, but not for this method.
    MethodNotAllowed,
    /// The body is larger than allowed.
    TooLarge,
    /// The body is not JSON by its content type.
    UnsupportedMediaType,
    /// Too many requests.
    RateLimited,
    /// Too many requests wait, or the answer took too long.
    Overloaded,
    /// The store cannot be read now.
    StoreUnavailable,
    /// A defect, or a damaged store.
    Internal,
}

/// An error as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `/problems/...`: what programs tell apart; `docs/operations.md` explains each.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "/problems/unknown-user")]
    pub kind: String,
    /// The same in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
    /// Seconds after which to try again.
    #[serde(skip)]
    pub retry_after_s: Option<u64>,
    /// Methods there are.
    #[serde(skip)]
    pub allow: Option<String>,
}

/// Shorthand for what handlers give back.
pub(super) type Answered<T> = Result<T, Problem>;

impl Type {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::BadUid,
        Self::UnknownTag,
        Self::AsOfBack,
        Self::Unauthorized,
        Self::UnknownUser,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::Overloaded,
        Self::StoreUnavailable,
        Self::Internal,
    ];

    /// Its status and title.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "The request cannot be understood"),
            Self::BadUid => (400, "Not a uid of this store"),
            Self::UnknownTag => (400, "No such tag"),
            Self::AsOfBack => (409, "The instant lies before the stored one"),
            Self::Unauthorized => (401, "An API key is needed"),
            Self::UnknownUser => (404, "No such user"),
            Self::NotFound => (404, "Nothing is here"),
            Self::MethodNotAllowed => (405, "Not by this method"),
            Self::TooLarge => (413, "The body is too large"),
            Self::UnsupportedMediaType => (415, "The body must be JSON"),
            Self::RateLimited => (429, "Too many requests"),
            Self::Overloaded => (503, "Too busy to answer"),
            Self::StoreUnavailable => (503, "The store cannot be read"),
            Self::Internal => (500, "A defect of the service"),
        }
    }

    /// As it stands in [`Problem::kind`].
    pub fn name(self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("/problems/{}", value.as_str().unwrap_or("internal"))
    }
}

impl Problem {
    /// A problem of a type.
    pub fn new(kind: Type, detail: impl std::fmt::Display) -> Self {
        let (status, title) = kind.status();
        Self {
            kind: kind.name(),
            title: title.to_owned(),
            status,
            detail: detail.to_string(),
            retry_after_s: (status == 503 || status == 429).then_some(1),
            allow: None,
        }
    }

    /// To be tried again after so many seconds.
    #[must_use]
    pub fn retry_after_s(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds.max(1)), ..self }
    }

    /// A path that has other methods.
    pub fn method(method: &str, path: &str, allow: String) -> Self {
        let detail = format!("{path} does not take {method}, but {allow}");
        Self { allow: Some(allow), ..Self::new(Type::MethodNotAllowed, detail) }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|a| HeaderValue::from_str(a).ok()) {
            response.insert_header((header::ALLOW, allow));
        }
        if self.status == 401 {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"tagloom\""));
        }
        response.body(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::UnknownUser(_) => Type::UnknownUser,
            ReadError::UnknownTag { .. } => Type::UnknownTag,
            ReadError::AsOfBack { .. } => Type::AsOfBack,
            ReadError::Empty => Type::StoreUnavailable,
            other => match store_error(other) {
                Some(store) if store.fault() == Fault::Outside => Type::StoreUnavailable,
                _ => Type::Internal,
            },
        };
        if kind == Type::Internal {
            tracing::error!(%error, "a read failed");
        }
        Self::new(kind, error)
    }
}

/// The failure of the store that made a read fail.
fn store_error(error: &ReadError) -> Option<&StoreError> {
    match error {
        ReadError::Store(store)
        | ReadError::Profile(ProfileError::Store(store))
        | ReadError::Version(VersionError::Store(store)) => Some(store),
        ReadError::History(error) => match error.as_ref() {
            EngineError::Store(store) | EngineError::Version(VersionError::Store(store)) => {
                Some(store)
            }
            _ => None,
        },
        _ => None,
    }
}

impl From<UidError> for Problem {
    fn from(error: UidError) -> Self {
        Self::new(Type::BadUid, error)
    }
}

impl From<NotPublished> for Problem {
    fn from(error: NotPublished) -> Self {
        Self::new(Type::UnknownTag, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_it_is_and_when_to_try_again() {
        let problem = Problem::new(Type::RateLimited, "more than 10 a second").retry_after_s(0);
        let response = problem.error_response();
        assert_eq!(response.status(), 429);
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(header("content-type"), Some("application/problem+json"));
        assert_eq!(header("retry-after"), Some("1"));
        let json = serde_json::to_value(&problem).expect("plain values");
        let expect = serde_json::json!({
            "type": "/problems/rate-limited", "title": "Too many requests", "status": 429,
            "detail": "more than 10 a second",
        });
        assert_eq!(json, expect);
    }
}
