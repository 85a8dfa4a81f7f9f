//! Which path leads where.
//!
//! In: nothing. Out: all routes, once: the service is built from them, and a test holds them against
//! the OpenAPI description. Invariant: a path without a route, or asked by another method, is a
//! problem that says so.

use std::collections::BTreeMap;

use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, Route, guard};

use super::problem::{Problem, Type};
use super::request::{json_problem, query_problem};
use super::{ops, tags, users};

/// One path and method.
pub struct Routed {
    /// The path, with its variables.
    pub path: &'static str,
    /// The method; GET answers HEAD too.
    pub method: Method,
    route: Route,
}

impl Routed {
    fn get(path: &'static str, route: impl FnOnce(Route) -> Route) -> Self {
        let either = guard::Any(guard::Get()).or(guard::Head());
        Self { path, method: Method::GET, route: route(web::route().guard(either)) }
    }

    fn post(path: &'static str, route: impl FnOnce(Route) -> Route) -> Self {
        Self { path, method: Method::POST, route: route(web::post()) }
    }
}

/// All routes.
pub fn routes() -> Vec<Routed> {
    vec![
        Routed::get("/v1/users/{uid}", |r| r.to(users::get_user)),
        Routed::post("/v1/users:batchGet", |r| r.to(users::batch_get)),
        Routed::get("/v1/users/{uid}/tags/{tag}/why", |r| r.to(users::why)),
        Routed::get("/v1/tags", |r| r.to(tags::list)),
        Routed::get("/healthz", |r| r.to(ops::healthz)),
        Routed::get("/readyz", |r| r.to(ops::readyz)),
        Routed::get("/metrics", |r| r.to(ops::metrics)),
        Routed::get("/openapi.json", |r| r.to(ops::openapi)),
    ]
}

pub(super) fn configure(config: &mut ServiceConfig, body_bytes_max: usize) {
    let json = web::JsonConfig::default().limit(body_bytes_max);
    let json = json.error_handler(move |error, _| json_problem(&error, body_bytes_max).into());
    let query = web::QueryConfig::default().error_handler(|error, _| query_problem(&error).into());
    config.app_data(json).app_data(query);
    let mut by_path: BTreeMap<&'static str, Vec<Routed>> = BTreeMap::new();
    for routed in routes() {
        by_path.entry(routed.path).or_default().push(routed);
    }
    for (path, routed) in by_path {
        let mut allow: Vec<&str> = routed.iter().map(|r| r.method.as_str()).collect();
        if allow.contains(&"GET") {
            allow.push("HEAD");
        }
        let allow = allow.join(", ");
        let mut resource = web::resource(path);
        for Routed { route, .. } in routed {
            resource = resource.route(route);
        }
        config.service(resource.default_service(web::to(move |request: HttpRequest| {
            let problem = Problem::method(request.method().as_str(), request.path(), allow.clone());
            std::future::ready(Err::<actix_web::HttpResponse, _>(problem))
        })));
    }
}

pub(super) async fn nothing_here(request: HttpRequest) -> Result<actix_web::HttpResponse, Problem> {
    let detail = format!(
        "there is nothing at {}; GET /openapi.json lists all paths; a / within a uid is written %2F",
        request.path()
    );
    Err(Problem::new(Type::NotFound, detail))
}
