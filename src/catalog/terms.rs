//! The terms on which a tag is given out: `deprecated`, `valid_from`, `valid_until`, `shadow`,
//! `expect`.
//!
//! In: the keys of a tag's document. Out: [`Terms`], and what is wrong with them.
//! Invariant: no clock; whether a term holds is asked with an instant.

use arrow::datatypes::DataType;

use super::case_time;
use super::fields::{Fields, bool_of, list_of, nearest, text_of};
use super::matrix::Binding;
use super::model::Domain;
use super::place::{Diagnostics, Place};
use super::scalar;
use super::sugar::Word;
use super::yaml::{Node, Text};
use crate::clock::{Zone, days_from_civil};

/// On which terms a tag is given out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// It should not be used any more, and what should be instead (empty: not said).
    pub deprecated: Option<String>,
    /// When it has values.
    pub valid: Validity,
    /// It is computed and counted, but not published.
    pub shadow: bool,
    /// What must hold over all users of a store.
    pub expect: Expect,
}

/// From when and until when a tag has values: outside it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    /// The first instant, epoch ms; none: always.
    pub from_ms: Option<i64>,
    /// The first instant after it, epoch ms; none: for ever.
    pub until_ms: Option<i64>,
}

/// What must hold of a tag over all users of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expect {
    /// The only values that users may have, as labels; none: any.
    pub accepted: Option<Vec<String>>,
    /// The greatest share of users without a value.
    pub null_share_max: Option<Share>,
}

/// A share from 0 to 1, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    mantissa: u64,
    scale: u32,
}

impl Terms {
    /// What they say of the tag, a line each; what is expected of it is not among them.
    pub fn text(&self, zone: &Zone) -> Vec<String> {
        let mut lines = Vec::new();
        match self.deprecated.as_deref() {
            Some("") => lines.push("deprecated".to_owned()),
            Some(instead) => lines.push(format!("deprecated: {instead}")),
            None => {}
        }
        if let Some(from_ms) = self.valid.from_ms {
            lines.push(format!("has values from {} on", zone.show(from_ms)));
        }
        if let Some(until_ms) = self.valid.until_ms {
            lines.push(format!("has no value from {} on", zone.show(until_ms)));
        }
        if self.shadow {
            lines.push("shadow: computed and counted, not published".to_owned());
        }
        lines
    }
}

impl Validity {
    /// Whether the tag has values at an instant.
    pub fn holds(&self, as_of_ms: i64) -> bool {
        self.from_ms.is_none_or(|from| from <= as_of_ms)
            && self.until_ms.is_none_or(|until| as_of_ms < until)
    }

    /// Its borders.
    pub fn edges_ms(&self) -> impl Iterator<Item = i64> + use<> {
        [self.from_ms, self.until_ms].into_iter().flatten()
    }
}

impl Expect {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_none() && self.null_share_max.is_none()
    }
}

impl Share {
    /// Reads `0.2`: at most nine digits behind the point.
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, scale) = scalar::decimal(text)?;
        let scale = u32::try_from(scale).ok().filter(|s| *s <= 9)?;
        let mantissa = u64::try_from(mantissa).ok()?;
        (mantissa <= 10_u64.pow(scale)).then_some(Self { mantissa, scale })
    }

    /// Whether `part` of `all` is more than this share.
    pub fn is_less_than(&self, part: u64, all: u64) -> bool {
        u128::from(part) * 10_u128.pow(self.scale) > u128::from(self.mantissa) * u128::from(all)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.scale == 0 {
            return write!(f, "{}", self.mantissa);
        }
        let one = 10_u64.pow(self.scale);
        let digits = self.scale as usize;
        write!(f, "{}.{:0digits$}", self.mantissa / one, self.mantissa % one)
    }
}

/// The keys as written, matrix not put in.
pub(super) struct Written<'a> {
    deprecated: Option<&'a Text>,
    valid_from: Option<&'a Text>,
    valid_until: Option<&'a Text>,
    shadow: bool,
    accepted: Option<&'a [Node]>,
    null_share_max: Option<&'a Text>,
}

/// The terms of a tag whose values are not known yet.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) terms: Terms,
    /// `expect.accepted`, with places.
    accepted: Option<Vec<Word>>,
}

impl<'a> Written<'a> {
    /// Takes the keys.
    pub(super) fn take(fields: &mut Fields<'a>, out: &mut Diagnostics) -> Self {
        let deprecated = fields.text("deprecated", out);
        let (valid_from, valid_until) =
            (fields.text("valid_from", out), fields.text("valid_until", out));
        let shadow = fields.take("shadow").and_then(|n| bool_of(n, "shadow", out));
        let (mut accepted, mut null_share_max) = (None, None);
        if let Some(mut expect) =
            fields.take("expect").and_then(|n| Fields::open(n, "`expect` of a tag", out))
        {
            let values = expect.take("accepted");
            accepted = values.and_then(|n| list_of(n, "accepted", out));
            null_share_max = expect.text("null_share_max", out);
            let misspelt = expect.has_nearly(&["accepted", "null_share_max"]);
            if values.is_none() && null_share_max.is_none() && !misspelt {
                let remedy = "write `{accepted: [low, high], null_share_max: 0.2}`, or one of them";
                out.error(expect.place, "`expect` asks for nothing", remedy);
            }
            expect.finish(out);
        }
        Self {
            deprecated,
            valid_from,
            valid_until,
            shadow: shadow.unwrap_or(false),
            accepted,
            null_share_max,
        }
    }

    /// Puts the matrix in and reads the values.
    pub(super) fn read(&self, binding: &Binding<'_>, zone: &Zone, out: &mut Diagnostics) -> Draft {
        let deprecated = self.deprecated.and_then(|t| match binding.prose(t, out) {
            text if t.plain && text == "false" => None,
            text if t.plain && text == "true" => Some(String::new()),
            text => Some(text.trim().to_owned()),
        });
        let mut border = |text: Option<&Text>, last_day: bool| {
            text.and_then(|t| instant(&binding.string(t, out), t.place, last_day, zone, out))
        };
        let valid = Validity {
            from_ms: border(self.valid_from, false),
            until_ms: border(self.valid_until, true),
        };
        if let (Some(from), Some(until), Some(text)) =
            (valid.from_ms, valid.until_ms, self.valid_until)
            && from >= until
        {
            let message = "`valid_until` is not after `valid_from`";
            out.error(text.place, message, "the tag would never have a value: change one of them");
        }
        let null_share_max = self.null_share_max.and_then(|text| {
            let share = Share::parse(&binding.string(text, out));
            if share.is_none() {
                let message = format!("`{}` is no share of users", text.text);
                out.error(text.place, message, "write a number from 0 to 1, like `0.2`");
            }
            share
        });
        let accepted = self.accepted.map(|items| {
            let texts = items.iter().filter_map(|item| text_of(item, "accepted", out));
            let texts: Vec<&Text> = texts.collect();
            let word = |t: &Text| Word { text: binding.string(t, out), place: t.place };
            texts.into_iter().map(word).collect()
        });
        let expect = Expect { accepted: None, null_share_max };
        let terms = Terms { deprecated, valid, shadow: self.shadow, expect };
        Draft { terms, accepted }
    }
}

impl Draft {
    /// The terms, once it is known which values the tag can have.
    pub(super) fn settle(&self, domain: &Domain, out: &mut Diagnostics) -> Terms {
        let mut terms = self.terms.clone();
        let Some(accepted) = &self.accepted else { return terms };
        for (at, value) in accepted.iter().enumerate() {
            if accepted[..at].iter().any(|v| v.text == value.text) {
                out.error(value.place, format!("`{}` is there twice", value.text), "keep one");
            }
            match domain {
                Domain::Closed { labels, .. } if !labels.contains(&value.text) => {
                    let message = format!("the tag never has the value `{}`", value.text);
                    let remedy = match nearest(&value.text, labels.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "drop it; `tagloom sql TAG` shows which values there are".into(),
                    };
                    out.error(value.place, message, remedy);
                }
                Domain::Open(data_type) if !can_accept(data_type) => {
                    let kind = super::words(data_type);
                    let message = format!("the values of {kind} cannot be listed");
                    out.error(value.place, message, "`accepted` is for text and whole numbers");
                }
                _ => {}
            }
        }
        terms.expect.accepted = Some(accepted.iter().map(|v| v.text.clone()).collect());
        terms
    }
}

/// Whether a value of this type is always written the same way.
fn can_accept(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Int64 | DataType::UInt64 | DataType::Date32)
}

/// A border of validity: a day (its beginning, or, for the last day, its end), or an instant.
fn instant(
    text: &str,
    place: Place,
    last_day: bool,
    zone: &Zone,
    out: &mut Diagnostics,
) -> Option<i64> {
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && !text.contains([':', 'T'])
    {
        let day = days_from_civil(i32::from(date.year()), date.month(), date.day());
        return Some(zone.day_start_ms(if last_day { day + 1 } else { day }));
    }
    match case_time::absolute(text, zone) {
        Ok(at) => Some(at.timestamp().as_millisecond()),
        Err(_) => {
            let remedy = "write a day like `2026-03-01`, or an instant like `2026-03-01T12:00`";
            out.error(place, format!("`{text}` is neither a day nor an instant"), remedy);
            None
        }
    }
}

/// What is said of a tag that reads another one, given the terms of both.
pub(super) fn check_read(
    (reader, terms): (&str, &Draft),
    (read, of): (&str, &Draft),
    place: Place,
    out: &mut Diagnostics,
) {
    if of.terms.shadow && !terms.terms.shadow {
        let message = format!("`{reader}` reads `{read}`, which is a shadow tag");
        let remedy = format!("make `{reader}` a shadow tag too, or publish `{read}`");
        out.error(place, message, remedy);
    }
    if let Some(instead) = &of.terms.deprecated
        && terms.terms.deprecated.is_none()
    {
        let message = format!("`{reader}` reads `{read}`, which is deprecated");
        let remedy = if instead.is_empty() { "read something else" } else { instead };
        out.warn(place, message, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_compared_exactly() {
        let share = |text: &str| Share::parse(text);
        for (text, part, all, less) in [
            ("0.2", 1, 5, false),
            ("0.2", 2, 9, true),
            ("0", 0, 7, false),
            ("0", 1, u64::MAX, true),
            ("1", 7, 7, false),
            ("0.333333333", 1, 3, true),
            ("0.2", 0, 0, false),
        ] {
            let share = share(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(share.is_less_than(part, all), less, "{part} of {all} against {text}");
            assert_eq!(share.to_string(), text);
        }
        for wrong in ["1.1", "-0.1", "20%", "", "0.0123456789"] {
            assert_eq!(share(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_validity_begins_with_its_first_instant_and_ends_before_its_last() {
        let valid = Validity { from_ms: Some(10), until_ms: Some(20) };
        assert_eq!([9, 10, 19, 20].map(|ms| valid.holds(ms)), [false, true, true, false]);
        assert!(Validity::default().holds(i64::MIN) && Validity::default().holds(i64::MAX));
    }
}
