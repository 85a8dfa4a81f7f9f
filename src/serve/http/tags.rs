//! `/v1/tags`: what the catalogue gives out.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::Service;
use super::problem::{Answered, Problem};
use crate::serve::published::TagBody;

/// The catalogue's tags.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct TagsBody<'a> {
    /// The number of the catalogue's version.
    catalog_version: u32,
    /// In catalogue order; shadow tags are left out.
    tags: &'a [TagBody],
}

/// All tags of the catalogue.
#[utoipa::path(
    get, path = "/v1/tags", tag = "catalogue",
    responses(
        (status = 200, description = "The tags", body = TagsBody),
        (status = 401, description = "No key", body = Problem,
         content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = Problem,
         content_type = "application/problem+json"),
        (status = 503, description = "Too busy, or no store", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(service: web::Data<Service>) -> Answered<HttpResponse> {
    let shared = std::sync::Arc::clone(&service.readers);
    // A catalogue that has become active is compiled first.
    let reading = service.pool.run(move || shared.reading()).await??;
    let published = &reading.published;
    let body = TagsBody { catalog_version: published.version(), tags: published.tags() };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "private, no-cache")).json(body))
}
