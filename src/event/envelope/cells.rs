//! Cells of changes: read by their text, decoded from bytes, copied from the row as it is.
//!
//! In: JSON values of an envelope. Out: cells of columns. Invariant: no I/O; what cannot be read is
//! NULL with a reason, never another value.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::clock::Zone;
use crate::event::column::{Column, Values};
use crate::event::parse::Cell;
use crate::event::reject::Reason;

/// What Debezium writes where the database did not log a value (PostgreSQL's large ones, which did
/// not change): <https://debezium.io/documentation/reference/stable/connectors/postgresql.html>,
/// `unavailable.value.placeholder`.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

impl Column {
    /// Appends a JSON string by its text.
    #[inline]
    pub(in crate::event) fn push_text(&mut self, text: &str, zone: &Zone) {
        if text.len() == UNAVAILABLE.len() && text == UNAVAILABLE {
            self.push_error(Reason::BeforeMissing);
        } else if let Some(scale) = self.bytes_scale {
            match decimal_text(text, scale) {
                Some(number) => self.push(Cell::Csv(&number), zone),
                None => self.push_error(Reason::Type),
            }
        } else if matches!(self.values, Values::Date(_)) {
            // Debezium's `isostring` writes days as if they were instants.
            self.push(Cell::Csv(text.strip_suffix('Z').unwrap_or(text)), zone);
        } else {
            self.push(Cell::Csv(text), zone);
        }
    }

    /// Appends the last cell of another column of the same type.
    pub(super) fn push_copy(&mut self, of: &Self) {
        let Some(row) = of.len().checked_sub(1) else { return };
        let error = of.errors.last().filter(|error| error.0 as usize == row);
        if let Some((_, reason)) = error {
            return self.push_error(*reason);
        }
        if !of.valid.holds(row) {
            return self.push_null();
        }
        match (&mut self.values, &of.values) {
            (Values::U64(to), Values::U64(from)) | (Values::Hash(to), Values::Hash(from)) => {
                to.push(from[row]);
            }
            (Values::I64(to), Values::I64(from)) => to.push(from[row]),
            (Values::F64(to), Values::F64(from)) => to.push(from[row]),
            (Values::Bool(to), Values::Bool(from)) => to.push(from[row]),
            (Values::Date(to), Values::Date(from)) => to.push(from[row]),
            (Values::Plain(to), Values::Plain(from)) => to.push(from[row].clone()),
            (Values::Text(to, dictionary), Values::Text(from, texts)) => {
                let text = texts.text(from[row] as usize).unwrap_or_default();
                to.push(dictionary.code(text.as_bytes()));
            }
            (Values::Unread, Values::Unread) => {}
            _ => return self.push_error(Reason::Type),
        }
        self.note_value();
    }
}

/// The digits of Kafka Connect's `Decimal`: base64 of the unscaled value, big-endian, two's complement
/// (<https://kafka.apache.org/40/javadoc/org/apache/kafka/connect/data/Decimal.html>).
fn decimal_text(text: &str, scale: u32) -> Option<String> {
    let bytes = STANDARD.decode(text).ok()?;
    let fill = if bytes.first()? & 0x80 == 0 { 0 } else { u8::MAX };
    let missing = 16usize.checked_sub(bytes.len())?;
    let mut wide = [fill; 16];
    wide[missing..].copy_from_slice(&bytes);
    let unscaled = i128::from_be_bytes(wide);
    let (sign, scale) = (if unscaled < 0 { "-" } else { "" }, usize::try_from(scale).ok()?);
    let digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale == 0 { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::decimal_text;

    #[test]
    fn decimals_as_bytes_keep_every_digit() {
        let check = |text: &str, scale: u32, expect: Option<&str>| {
            assert_eq!(decimal_text(text, scale).as_deref(), expect, "{text}");
        };
        // Those that Debezium wrote for 199.90, -5.00 and 12345678.90.
        check("ThY=", 2, Some("199.90"));
        check("/gw=", 2, Some("-5.00"));
        check("SZYC0g==", 2, Some("12345678.90"));
        check("AQ==", 2, Some("0.01"));
        check("AA==", 0, Some("0"));
        check("gAAAAAAAAAAAAAAAAAAAAA==", 0, Some("-170141183460469231731687303715884105728"));
        check("AIAAAAAAAAAAAAAAAAAAAAA=", 0, None);
        check("199.90", 2, None);
        check("", 2, None);
    }
}
