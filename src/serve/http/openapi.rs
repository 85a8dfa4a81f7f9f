//! The description of the service, made from its code.
//!
//! In: what stands at the handlers. Out: OpenAPI 3.1. Invariant: a test holds its paths against the
//! routes.

use serde_json::{Value, json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{ops, tags, users};
use crate::catalog::model::UidType;
use crate::store::UID_BYTES_MAX;

/// Whole numbers of up to 19 digits, and those of 20 up to 18446744073709551615.
const U64_PATTERN: &str = "^([0-9]{1,19}|1[0-7][0-9]{18}|18[0-3][0-9]{17}|184[0-3][0-9]{16}\
                           |1844[0-5][0-9]{15}|18446[0-6][0-9]{14}|184467[0-3][0-9]{13}\
                           |1844674[0-3][0-9]{12}|184467440[0-6][0-9]{10}|1844674407[0-2][0-9]{9}\
                           |18446744073[0-6][0-9]{8}|1844674407370[0-8][0-9]{6}\
                           |18446744073709[0-4][0-9]{5}|184467440737095[0-4][0-9]{4}\
                           |18446744073709550[0-9]{3}|18446744073709551[0-5][0-9]{2}\
                           |1844674407370955160[0-9]|1844674407370955161[0-5])$";

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

/// The description of one service: what its uids are, and whether it asks for keys.
pub(super) fn document_of(uid: UidType, asks_for_keys: bool) -> String {
    let Ok(mut document) = serde_json::from_str::<Value>(&document()) else { return document() };
    let text = match uid {
        UidType::U64 => json!({"type": "string", "pattern": U64_PATTERN}),
        UidType::String => json!({"type": "string", "minLength": 1, "maxLength": UID_BYTES_MAX}),
    };
    let number = json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
    document["components"]["schemas"]["UidGiven"] = json!({"oneOf": [number, text]});
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let methods = paths.filter_map(|(_, methods)| methods.as_object_mut()).flatten();
    let parameters = methods.filter_map(|(_, m)| m.get_mut("parameters")?.as_array_mut());
    for parameter in parameters.flatten() {
        match parameter["name"].as_str() {
            Some("uid") => parameter["schema"] = text.clone(),
            Some("tags") => parameter["schema"] = json!({"type": "string", "minLength": 1}),
            _ => {}
        }
    }
    if !asks_for_keys && let Some(document) = document.as_object_mut() {
        document.remove("security");
    }
    document.to_string()
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
