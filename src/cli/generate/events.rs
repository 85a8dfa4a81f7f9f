//! What happens: who registers, buys and cancels when, and when word of it arrives.
//!
//! In: a plan. Out: three lists of events, sorted by event time. Shares and shapes are those of
//! the workload that engines are compared by.

use super::Plan;
use super::draw::Draw;

pub(super) const DAY: i64 = 86_400_000;
pub(super) const HOUR: i64 = 3_600_000;
pub(super) const MINUTE: i64 = 60_000;
/// Asia/Shanghai has no daylight saving.
const OFFSET: i64 = 8 * HOUR;

pub(super) const CHANNELS: [&str; 4] = ["ios", "android", "web", "mini"];
pub(super) const GENDERS: [&str; 3] = ["f", "m", "u"];
pub(super) const PAYS: [&str; 4] = ["card", "wallet", "cash", "credit"];
pub(super) const REASONS: [&str; 4] = ["late", "quality", "mind", "fraud"];
pub(super) const CITIES: usize = 200;

const CANCELS: f64 = 0.12;
const NEVER_REGISTER: f64 = 0.02;
const REGISTER_AFTER: f64 = 0.10;
const REGISTER_AGAIN: f64 = 0.03;
const EARLY_CANCELS: f64 = 0.02;
const HOURS: [f64; 24] = [
    2., 1., 1., 1., 1., 2., 4., 6., 8., 9., 10., 11., 12., 11., 9., 9., 9., 10., 12., 14., 15.,
    14., 10., 5.,
];

/// The streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Register,
    Consume,
    Cancel,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Register, Self::Consume, Self::Cancel];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Consume => "consume",
            Self::Cancel => "cancel",
        }
    }
}

/// When something happened, when word of it arrived, and to whom (from 0).
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) ts: i64,
    pub(super) arrival: i64,
    pub(super) user: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Register {
    pub(super) at: Stamp,
    pub(super) channel: u8,
    pub(super) city: u8,
    pub(super) birth_year: u16,
    pub(super) gender: u8,
    /// 0: nobody.
    pub(super) invited_by: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Consume {
    pub(super) at: Stamp,
    pub(super) amount_cents: u32,
    pub(super) sku: u32,
    pub(super) category: u8,
    pub(super) pay: u8,
    pub(super) coupon: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Cancel {
    pub(super) at: Stamp,
    /// Number of the consume, from 1.
    pub(super) order: u32,
    pub(super) amount_cents: u32,
    pub(super) reason: u8,
}

/// Everything that happens.
#[derive(Debug, Default)]
pub(super) struct Workload {
    pub(super) registers: Vec<Register>,
    pub(super) consumes: Vec<Consume>,
    pub(super) cancels: Vec<Cancel>,
}

/// What a user is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    registered: i64,
    end: i64,
    registers: bool,
    again: bool,
    likes: [u8; 3],
    pay: u8,
}

/// All users, and how active each is as cumulated weights.
pub(super) struct People {
    pub(super) persons: Vec<Person>,
    pub(super) activity: Vec<f64>,
}

impl People {
    #[expect(clippy::cast_precision_loss, reason = "users are far below 2^52")]
    pub(super) fn new(plan: &Plan) -> Self {
        let mut draw = Draw::new(plan.seed, 1);
        let users = plan.users as usize;
        let start = plan.as_of_ms - i64::from(plan.days) * DAY;
        let length = (f64::from(plan.days) - 0.1) * DAY as f64;
        let mut person = |_| {
            let registered = start + draw.beta(1.8, length);
            let stays = draw.chance(0.55);
            let active = draw.share_of(plan.as_of_ms - registered, 1.0);
            let registers = !draw.chance(NEVER_REGISTER);
            Person {
                registered,
                end: if stays { plan.as_of_ms } else { registered + active },
                registers,
                again: registers && draw.chance(REGISTER_AGAIN),
                likes: [
                    small(draw.geometric(0.12).min(19)),
                    small(draw.below(20)),
                    small(draw.below(20)),
                ],
                pay: small(draw.choice(&[0.35, 0.4, 0.05, 0.2])),
            }
        };
        let persons = (0..users).map(&mut person).collect();
        let mut sum = 0.0;
        let weight = |rank: usize| (rank as f64 + 1.0 + users as f64 * 0.0002).powf(-0.85);
        let activity = draw.permutation(users).into_iter().map(|rank| {
            sum += weight(rank);
            sum
        });
        Self { activity: activity.collect(), persons }
    }

    /// What somebody buys at an instant.
    pub(super) fn buy(&self, draw: &mut Draw, user: usize, ts: i64, arrival: i64) -> Consume {
        let person = &self.persons[user];
        let liked = draw.chance(0.65);
        let category = if liked { person.likes[draw.below(3)] } else { small(draw.below(20)) };
        let sku = i64::from(category) * 2500 + draw.share_of(2500, 2.5) + 1;
        let mean = 8.2 + f64::from(category % 7) * 0.12;
        Consume {
            at: Stamp { ts, arrival, user: u32::try_from(user).unwrap_or(u32::MAX) },
            amount_cents: draw.log_normal(mean, 100.0, 5_000_000.0),
            sku: u32::try_from(sku).unwrap_or(1),
            category,
            pay: if draw.chance(0.75) { person.pay } else { small(draw.below(4)) },
            coupon: draw.chance(0.25),
        }
    }
}

/// When word of something arrives: mostly within seconds, 1 % days late, 5 % up to an hour.
pub(super) fn arrival(draw: &mut Draw, ts: i64) -> i64 {
    let kind = draw.unit();
    ts + if kind < 0.01 {
        draw.range(DAY + 1, 5 * DAY)
    } else if kind < 0.06 {
        draw.range(MINUTE, HOUR)
    } else {
        draw.exponential(2_000.0)
    }
}

/// What somebody says who registers.
pub(super) fn registration(draw: &mut Draw, at: Stamp, users: u32) -> Register {
    let birth_year = 2010 - draw.gamma4(5.0).clamp(0, 70);
    let invited = draw.chance(0.3);
    let by = draw.range(1, i64::from(users) + 1);
    Register {
        at,
        channel: small(draw.choice(&[0.35, 0.4, 0.1, 0.15])),
        city: u8::try_from(draw.share_of(200, 1.7)).unwrap_or(199).min(199),
        birth_year: u16::try_from(birth_year).unwrap_or(2000),
        gender: small(draw.choice(&[0.46, 0.44, 0.1])),
        invited_by: if invited { u32::try_from(by).unwrap_or(0) } else { 0 },
    }
}

/// A cancel of a consume with this number.
pub(super) fn cancellation(draw: &mut Draw, at: Stamp, order: u32, of: &Consume) -> Cancel {
    let part = draw.chance(0.2);
    let share = u64::try_from(draw.range(10, 100)).unwrap_or(100);
    let partly = u32::try_from(u64::from(of.amount_cents) * share / 100).unwrap_or(0).max(1);
    let amount_cents = if part { partly } else { of.amount_cents };
    let reason = small(draw.choice(&[0.3, 0.25, 0.42, 0.03]));
    Cancel { at, order, amount_cents, reason }
}

impl Workload {
    pub(super) fn new(plan: &Plan) -> Self {
        let people = People::new(plan);
        let registers =
            people.persons.iter().map(|p| usize::from(p.registers) + usize::from(p.again));
        let left = (plan.events as usize).saturating_sub(registers.sum());
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of fewer than 2^32 events"
        )]
        let consumes = ((left as f64 / (1.0 + CANCELS)) as usize).max(1);
        let cancels = left.saturating_sub(consumes).max(1);
        let mut workload =
            Self { consumes: consumes_of(&people, plan, consumes), ..Self::default() };
        workload.add_cancels(plan, cancels);
        workload.add_registers(&people, plan);
        workload
    }

    fn add_cancels(&mut self, plan: &Plan, count: usize) {
        let mut draw = Draw::new(plan.seed, 3);
        for of in draw.sample(self.consumes.len(), count) {
            let consume = &mut self.consumes[of];
            let room = (plan.as_of_ms - consume.at.ts).clamp(1, 7 * DAY);
            let ts = consume.at.ts + draw.share_of(room, 2.0);
            let mut arrives = arrival(&mut draw, ts);
            if draw.chance(EARLY_CANCELS) {
                let after = arrives + draw.range(1_000, 10 * MINUTE);
                consume.at.arrival = consume.at.arrival.max(after);
            } else {
                arrives = arrives.max(consume.at.arrival + 1_000);
            }
            let at = Stamp { ts, arrival: arrives, user: consume.at.user };
            let order = u32::try_from(of + 1).unwrap_or(u32::MAX);
            self.cancels.push(cancellation(&mut draw, at, order, consume));
        }
        self.cancels.sort_by_key(|c| c.at.ts);
    }

    fn add_registers(&mut self, people: &People, plan: &Plan) {
        let mut draw = Draw::new(plan.seed, 4);
        let mut first = vec![i64::MAX; people.persons.len()];
        for consume in &self.consumes {
            let first = &mut first[consume.at.user as usize];
            *first = (*first).min(consume.at.arrival);
        }
        for (user, person) in people.persons.iter().enumerate().filter(|(_, p)| p.registers) {
            let mut add = |draw: &mut Draw, ts, arrival| {
                let at = Stamp { ts, arrival, user: u32::try_from(user).unwrap_or(u32::MAX) };
                self.registers.push(registration(draw, at, plan.users));
            };
            let in_time = arrival(&mut draw, person.registered).min(first[user].saturating_sub(1));
            let after = first[user] < i64::MAX && draw.chance(REGISTER_AFTER);
            let late = first[user].saturating_add(draw.range(MINUTE, 3 * DAY));
            add(&mut draw, person.registered, if after { late } else { in_time });
            if person.again {
                let ts = person.registered + draw.share_of(plan.as_of_ms - person.registered, 1.0);
                let arrives = arrival(&mut draw, ts);
                add(&mut draw, ts, arrives);
            }
        }
        self.registers.sort_by_key(|r| r.at.ts);
    }
}

fn consumes_of(people: &People, plan: &Plan, count: usize) -> Vec<Consume> {
    let mut draw = Draw::new(plan.seed, 2);
    let mut consumes: Vec<Consume> = (0..count)
        .map(|_| {
            let user = draw.cumulated(&people.activity);
            let person = &people.persons[user];
            let raw = person.registered + draw.share_of(person.end - person.registered, 1.0);
            let day = (raw + OFFSET).div_euclid(DAY) * DAY - OFFSET;
            let ts = day + busy_hour(&mut draw) * HOUR + draw.range(0, HOUR);
            let ts = if ts > plan.as_of_ms || ts < person.registered { raw } else { ts };
            let arrives = arrival(&mut draw, ts);
            people.buy(&mut draw, user, ts, arrives)
        })
        .collect();
    consumes.sort_by_key(|c| c.at.ts);
    consumes
}

fn busy_hour(draw: &mut Draw) -> i64 {
    let all: f64 = HOURS.iter().sum();
    let mut left = draw.unit() * all;
    for (hour, weight) in (0..).zip(HOURS) {
        left -= weight;
        if left < 0.0 {
            return hour;
        }
    }
    23
}

/// An index of a short list.
fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(0)
}
