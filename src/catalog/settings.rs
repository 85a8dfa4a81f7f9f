//! `catalog.yaml`: what holds for the whole catalogue.
//!
//! In: its one document. Out: [`Settings`]; what is wrong is replaced by the default, so that the
//! rest of the catalogue can be checked. Invariant: no I/O.

use std::collections::BTreeMap;

use super::fields::{Fields, map_of, text_of};
use super::model::{Param, UidType};
use super::place::{Diagnostics, Place};
use super::scalar::{self, Fault};
use super::yaml::{Node, Text};
use crate::clock::Zone;

const DAY_MS: i64 = 86_400_000;
const EXACT_VALUES_DEFAULT: u32 = 16_384;
/// An estimate from fewer values says nothing.
const EXACT_VALUES_MIN: u32 = 8;
const EXACT_VALUES_MAX: u32 = 1_048_576;

/// The keys of `catalog.yaml`.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) uid: UidType,
    pub(super) zone: Zone,
    pub(super) allowed_lateness_ms: i64,
    pub(super) max_ahead_ms: i64,
    pub(super) exact_values_max: u32,
    pub(super) params: BTreeMap<String, Param>,
    /// The condition, not typed yet: it reads tags.
    pub(super) closed: Option<Text>,
}

impl Settings {
    /// What holds where nothing is said.
    pub(super) fn defaults() -> Self {
        Self {
            name: String::new(),
            uid: UidType::U64,
            zone: Zone::new("UTC").unwrap_or_else(|_| unreachable!("UTC is in every database")),
            allowed_lateness_ms: 7 * DAY_MS,
            max_ahead_ms: DAY_MS,
            exact_values_max: EXACT_VALUES_DEFAULT,
            params: BTreeMap::new(),
            closed: None,
        }
    }

    /// Reads the document.
    pub(super) fn read(node: &Node, out: &mut Diagnostics) -> Self {
        let mut settings = Self::defaults();
        let Some(mut fields) = Fields::open(node, "catalog.yaml", out) else { return settings };
        if let Some(name) = fields.need_text("name", out) {
            check(scalar::name(&name.text, "the catalogue"), name.place, out);
            settings.name = name.text.clone();
        }
        if let Some(uid) = fields.need_text("uid", out) {
            match uid.text.as_str() {
                "u64" => settings.uid = UidType::U64,
                "string" => settings.uid = UidType::String,
                other => out.error(
                    uid.place,
                    format!("`{other}` is not a type of uid"),
                    "write `u64` or `string`",
                ),
            }
        }
        if let Some(zone) = fields.need_text("timezone", out) {
            match Zone::new(&zone.text) {
                Ok(known) => settings.zone = known,
                Err(_) => out.error(
                    zone.place,
                    format!("unknown timezone `{}`", zone.text),
                    zone_remedy(&zone.text),
                ),
            }
        }
        if let Some(ms) = duration(&mut fields, "allowed_lateness", out) {
            settings.allowed_lateness_ms = ms;
        }
        if let Some(ms) = duration(&mut fields, "max_ahead", out) {
            settings.max_ahead_ms = ms;
        }
        if let Some(max) = fields.text("exact_values_max", out) {
            match max.text.parse::<u32>() {
                Ok(n) if (EXACT_VALUES_MIN..=EXACT_VALUES_MAX).contains(&n) => {
                    settings.exact_values_max = n
                }
                _ => out.error(
                    max.place,
                    format!("exact_values_max cannot be `{}`", max.text),
                    format!("write a whole number from {EXACT_VALUES_MIN} to {EXACT_VALUES_MAX}"),
                ),
            }
        }
        if let Some(node) = fields.take("params") {
            settings.params = params(node, out);
        }
        settings.closed = fields.text("closed", out).cloned();
        fields.finish(out);
        settings
    }
}

fn zone_remedy(name: &str) -> String {
    let zones: Vec<String> =
        jiff::tz::db().available().map(|zone| zone.as_str().to_owned()).collect();
    match super::fields::nearest(name, zones.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "use an IANA name like `Europe/London` or `UTC`".to_owned(),
    }
}

fn params(node: &Node, out: &mut Diagnostics) -> BTreeMap<String, Param> {
    let mut params = BTreeMap::new();
    for (name, value) in map_of(node, "params", out).unwrap_or(&[]) {
        check(scalar::name(&name.text, "a parameter"), name.place, out);
        if let Some(value) = text_of(value, &name.text, out) {
            params.insert(name.text.clone(), scalar::param(&value.text, value.plain));
        }
    }
    params
}

/// An optional duration.
pub(super) fn duration(
    fields: &mut Fields<'_>,
    key: &'static str,
    out: &mut Diagnostics,
) -> Option<i64> {
    let text = fields.text(key, out)?;
    check(scalar::duration_ms(&text.text), text.place, out)
}

/// The value, or its fault as an error at `place`.
pub(super) fn check<T>(result: Result<T, Fault>, place: Place, out: &mut Diagnostics) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(fault) => {
            out.error(place, fault.message, fault.remedy);
            None
        }
    }
}
