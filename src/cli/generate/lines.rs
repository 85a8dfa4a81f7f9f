//! Streams as JSON lines, some of them damaged, some sent twice.
//!
//! In: events. Out: a file in order of arrival, and counts of what is in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::Plan;
use super::draw::Draw;
use super::events::{
    CHANNELS, Cancel, Consume, DAY, GENDERS, HOUR, Kind, MINUTE, PAYS, REASONS, Register, Stamp,
    Workload,
};

const DAMAGED: f64 = 0.001;
const SENT_AGAIN: f64 = 0.01;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Damage {
    None,
    /// Cut at this share of its length.
    Truncated(f64),
    MissingUid,
    StringNumber,
    FarFuture,
}

/// Counts of a stream.
#[derive(Debug, Default, Serialize)]
pub(super) struct Facts {
    pub(super) events: u64,
    pub(super) duplicates: u64,
    pub(super) lines: u64,
    pub(super) malformed: Malformed,
    pub(super) valid_unique: u64,
    pub(super) arrived_over_1d_late: u64,
    pub(super) arrived_1min_to_1h_late: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) valid_amount_cents: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Malformed {
    truncated: u64,
    missing_uid: u64,
    string_number: u64,
    far_future: u64,
}

impl Damage {
    pub(super) fn draw(draw: &mut Draw) -> Self {
        if !draw.chance(DAMAGED) {
            return Self::None;
        }
        match draw.below(4) {
            0 => Self::Truncated(draw.unit()),
            1 => Self::MissingUid,
            2 => Self::StringNumber,
            _ => Self::FarFuture,
        }
    }
}

impl Workload {
    fn stamps(&self, kind: Kind) -> Vec<Stamp> {
        match kind {
            Kind::Register => self.registers.iter().map(|r| r.at).collect(),
            Kind::Consume => self.consumes.iter().map(|c| c.at).collect(),
            Kind::Cancel => self.cancels.iter().map(|c| c.at).collect(),
        }
    }

    fn amount(&self, kind: Kind, at: usize) -> Option<u64> {
        match kind {
            Kind::Register => None,
            Kind::Consume => Some(self.consumes[at].amount_cents.into()),
            Kind::Cancel => Some(self.cancels[at].amount_cents.into()),
        }
    }
}

/// Writes one stream. `seen`: users with a sound event.
pub(super) fn write(
    workload: &Workload,
    kind: Kind,
    plan: &Plan,
    path: &Path,
    seen: &mut [bool],
) -> io::Result<Facts> {
    let mut draw = Draw::new(plan.seed, 10 + kind as u64);
    let stamps = workload.stamps(kind);
    let mut facts = Facts { events: stamps.len() as u64, ..Facts::default() };
    let mut rows: Vec<(i64, u32)> = Vec::with_capacity(stamps.len());
    let mut damages = Vec::with_capacity(stamps.len());
    let mut moved = Vec::with_capacity(stamps.len());
    for (at, stamp) in stamps.iter().enumerate() {
        let damage = Damage::draw(&mut draw);
        let row = u32::try_from(at).unwrap_or(u32::MAX);
        rows.push((stamp.arrival, row));
        let again = draw.chance(SENT_AGAIN);
        if damage == Damage::None {
            seen[stamp.user as usize] = true;
            facts.valid_unique += 1;
            if let Some(amount) = workload.amount(kind, at) {
                *facts.valid_amount_cents.get_or_insert(0) += amount;
            }
            if again {
                facts.duplicates += 1;
                rows.push((stamp.arrival + draw.range(1_000, 2 * DAY), row));
            }
        }
        let late = stamp.arrival - stamp.ts;
        facts.arrived_over_1d_late += u64::from(late > DAY);
        facts.arrived_1min_to_1h_late += u64::from((MINUTE..=HOUR).contains(&late));
        facts.count(damage);
        let years =
            if damage == Damage::FarFuture { draw.range(5 * 365, 10 * 365) * DAY } else { 0 };
        moved.push(stamp.ts + years);
        damages.push(damage);
    }
    facts.lines = rows.len() as u64;
    rows.sort_by_key(|row| row.0);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut line = Vec::new();
    for (_, row) in rows {
        let (at, number) = (row as usize, u64::from(row) + 1);
        let (ts, damage) = (moved[at], damages[at]);
        line.clear();
        match kind {
            Kind::Register => register(&mut line, number, ts, &workload.registers[at], damage),
            Kind::Consume => consume(&mut line, number, ts, &workload.consumes[at], damage),
            Kind::Cancel => cancel(&mut line, number, ts, &workload.cancels[at], damage),
        }
        finish(&mut line, damage);
        out.write_all(&line)?;
    }
    out.flush()?;
    Ok(facts)
}

impl Facts {
    fn count(&mut self, damage: Damage) {
        let kinds = &mut self.malformed;
        match damage {
            Damage::None => {}
            Damage::Truncated(_) => kinds.truncated += 1,
            Damage::MissingUid => kinds.missing_uid += 1,
            Damage::StringNumber => kinds.string_number += 1,
            Damage::FarFuture => kinds.far_future += 1,
        }
    }
}

/// Cuts a truncated line (never behind its closing brace) and ends it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a short line"
)]
pub(super) fn finish(line: &mut Vec<u8>, damage: Damage) {
    if let Damage::Truncated(share) = damage {
        line.truncate(1 + (share * line.len().saturating_sub(3) as f64) as usize);
    }
    line.push(b'\n');
}

fn head(line: &mut Vec<u8>, letter: &str, number: u64, at: (i64, u32), damage: Damage) {
    text(line, "{\"event_id\":\"");
    text(line, letter);
    int(line, number);
    text(line, "\"");
    if damage != Damage::MissingUid {
        text(line, ",\"uid\":");
        int(line, u64::from(at.1) + 1);
    }
    text(line, ",\"ts\":");
    int(line, u64::try_from(at.0).unwrap_or(0));
}

fn quotable(line: &mut Vec<u8>, key: &str, value: u64, damage: Damage) {
    let quote = if damage == Damage::StringNumber { "\"" } else { "" };
    text(line, key);
    text(line, quote);
    int(line, value);
    text(line, quote);
}

/// Appends a register's line without its end.
pub(super) fn register(line: &mut Vec<u8>, number: u64, ts: i64, r: &Register, damage: Damage) {
    head(line, "r", number, (ts, r.at.user), damage);
    text(line, ",\"channel\":\"");
    text(line, CHANNELS[usize::from(r.channel)]);
    text(line, "\",\"city\":\"c");
    digits(line, r.city.into(), 3);
    quotable(line, "\",\"birth_year\":", r.birth_year.into(), damage);
    text(line, ",\"gender\":\"");
    text(line, GENDERS[usize::from(r.gender)]);
    text(line, "\",\"invited_by\":");
    match r.invited_by {
        0 => text(line, "null"),
        by => int(line, by.into()),
    }
    text(line, "}");
}

/// Appends a consume's line without its end.
pub(super) fn consume(line: &mut Vec<u8>, number: u64, ts: i64, c: &Consume, damage: Damage) {
    head(line, "c", number, (ts, c.at.user), damage);
    text(line, ",\"order_id\":\"o");
    int(line, number);
    quotable(line, "\",\"amount_cents\":", c.amount_cents.into(), damage);
    text(line, ",\"category\":\"k");
    digits(line, c.category.into(), 2);
    text(line, "\",\"pay\":\"");
    text(line, PAYS[usize::from(c.pay)]);
    text(line, "\",\"coupon\":");
    text(line, if c.coupon { "true" } else { "false" });
    text(line, ",\"sku\":");
    int(line, c.sku.into());
    text(line, "}");
}

/// Appends a cancel's line without its end.
pub(super) fn cancel(line: &mut Vec<u8>, number: u64, ts: i64, c: &Cancel, damage: Damage) {
    head(line, "x", number, (ts, c.at.user), damage);
    text(line, ",\"order_id\":\"o");
    int(line, c.order.into());
    quotable(line, "\",\"amount_cents\":", c.amount_cents.into(), damage);
    text(line, ",\"reason\":\"");
    text(line, REASONS[usize::from(c.reason)]);
    text(line, "\"}");
}

pub(super) fn text(line: &mut Vec<u8>, text: &str) {
    line.extend_from_slice(text.as_bytes());
}

pub(super) fn int(line: &mut Vec<u8>, value: u64) {
    digits(line, value, 1);
}

/// Decimal digits, at least `width` of them.
pub(super) fn digits(line: &mut Vec<u8>, value: u64, width: usize) {
    let start = line.len();
    let mut rest = value;
    while rest > 0 || line.len() - start < width {
        line.push(b'0' + u8::try_from(rest % 10).unwrap_or(0));
        rest /= 10;
    }
    line[start..].reverse();
}
