//! What every request passes: key, rate, time, and a count of what became of it.
//!
//! In: requests. Out: answers. Health, metrics and the description of the service need no key and are
//! not limited: whoever watches a process must reach it when it is overrun.
//! Invariant: an error that leaves here is a [`Problem`].

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use governor::clock::{Clock as _, DefaultClock};

use super::Service;
use super::problem::{Problem, Type};
use crate::clock::Stopwatch;
use crate::telemetry::facts::request_answered;

/// Paths that everybody may ask, at any rate.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/openapi.json"];

/// Passes a request on, or answers why not.
pub(super) async fn gate<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let watch = Stopwatch::start();
    let method = method_name(request.method());
    let route = request.match_pattern().unwrap_or_else(|| "none".to_owned());
    let answered = pass(request, next).await;
    let status = match &answered {
        Ok(response) => response.status().as_u16(),
        Err(error) => error.as_response_error().status_code().as_u16(),
    };
    let took = watch.elapsed();
    request_answered(method, &route, status, took);
    tracing::debug!(method, route, status, took_us = took.as_micros(), "request");
    answered
}

async fn pass<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let service = request.app_data::<web::Data<Service>>().cloned();
    let service = service.ok_or_else(|| Problem::new(Type::Internal, "the service has no data"))?;
    if !OPEN.contains(&request.path()) {
        if !service.keys.let_in(key(request.headers())) {
            return Err(no_key(request.headers()).into());
        }
        rate(&service)?;
    }
    let within = service.config.timeout();
    match tokio::time::timeout(within, next.call(request)).await {
        Ok(Ok(response)) => Ok(response.map_into_boxed_body()),
        Ok(Err(error)) => Err(as_problem(&error).into()),
        Err(_) => {
            let ms = service.config.timeout_ms;
            let detail = format!(
                "no answer within {ms} ms (serve.timeout_ms): the store is slow; /readyz says more"
            );
            Err(Problem::new(Type::Overloaded, detail).into())
        }
    }
}

/// The key a request brings.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))
}

fn no_key(headers: &HeaderMap) -> Problem {
    let what = if key(headers).is_some() { "this API key is not known" } else { "no API key" };
    let how = "send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`; whoever runs this \
               service has them (serve.api_keys_file)";
    Problem::new(Type::Unauthorized, format!("{what}: {how}"))
}

fn rate(service: &Service) -> Result<(), Problem> {
    let Some(rate) = &service.rate else { return Ok(()) };
    rate.check().map_err(|until| {
        let wait = until.wait_time_from(DefaultClock::default().now());
        let per_s = service.config.requests_per_s_max;
        let detail = format!(
            "more than {per_s} requests a second (serve.requests_per_s_max); ask for many users by \
             POST /v1/users:batchGet"
        );
        Problem::new(Type::RateLimited, detail).retry_after_s(wait.as_secs() + 1)
    })
}

/// An error of the framework, in our terms.
fn as_problem(error: &Error) -> Problem {
    let response = error.as_response_error();
    let status = response.status_code();
    let kind = match status.as_u16() {
        404 => Type::NotFound,
        405 => Type::MethodNotAllowed,
        413 => Type::TooLarge,
        415 => Type::UnsupportedMediaType,
        status if status < 500 => Type::BadRequest,
        _ => Type::Internal,
    };
    // Our own come here as they are.
    error.as_error::<Problem>().cloned().unwrap_or_else(|| Problem::new(kind, error))
}

/// Methods have few names, so that metrics have few series.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[track_caller]
    fn check(header: &'static str, value: &'static str, expect: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(header), HeaderValue::from_static(value));
        assert_eq!(key(&headers), expect.map(str::as_bytes));
    }

    #[test]
    fn keys_come_as_bearer_or_by_a_header_of_their_own() {
        check("authorization", "Bearer abc", Some("abc"));
        check("authorization", "bearer  abc ", Some("abc"));
        check("authorization", "Basic abc", None);
        check("authorization", "Bearer", None);
        check("x-api-key", "abc", Some("abc"));
        check("cookie", "abc", None);
    }
}
