//! The description of the service, made from its code.
//!
//! In: what stands at the handlers. Out: OpenAPI 3.1. Invariant: a test holds its paths against the
//! routes.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{ops, tags, users};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "tagloom",
        description = "Tags of users, kept up to date within seconds. Errors are \
                       application/problem+json (RFC 9457).",
    ),
    paths(
        users::get_user,
        users::batch_get,
        users::why,
        tags::list,
        ops::healthz,
        ops::readyz,
        ops::metrics,
        ops::openapi,
    ),
    modifiers(&Keys),
    security(("bearer" = []), ("key" = [])),
)]
struct Document;

/// The two ways to send a key.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let key = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("key", SecurityScheme::ApiKey(key));
    }
}

/// The description as JSON.
pub fn document() -> String {
    Document::openapi().to_json().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn documented_paths_are_the_routed_ones() {
        let document: serde_json::Value =
            serde_json::from_str(&super::document()).expect("it is JSON");
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().expect("methods").keys();
                methods.map(move |method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let routed: BTreeSet<(String, String)> = super::super::routes()
            .iter()
            .map(|routed| (routed.path.to_owned(), routed.method.to_string()))
            .collect();
        assert_eq!(documented, routed);
        assert!(routed.len() >= 8);
    }
}
