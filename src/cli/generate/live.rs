//! One stream at a fixed rate, happening now.

use std::io::{self, Write};
use std::time::Duration;

use super::Plan;
use super::draw::Draw;
use super::events::{DAY, Kind, People, Stamp, arrival, cancellation, registration};
use super::lines::{self, Damage};
use crate::cli::{Failure, Outcome};
use crate::clock::{Stopwatch, wall_ms};

/// Lines that may be sent again.
const REMEMBERED: usize = 4096;

/// How long lines gather before they are written.
const TICK: Duration = Duration::from_millis(10);

/// Writes until `events` are written, or the reader is gone.
pub(super) fn run(kind: Kind, rate: u32, users: u32, events: Option<u32>, seed: u64) -> Outcome {
    let mut stream = Stream::new(kind, users, seed);
    let mut out = io::stdout().lock();
    let watch = Stopwatch::start();
    let most = events.map_or(u64::MAX, u64::from);
    let (mut written, mut block) = (0u64, Vec::new());
    while written < most {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds times a rate, rounded down"
        )]
        let wanted = (watch.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        if wanted <= written {
            // Only time brings the next event.
            std::thread::park_timeout(TICK);
            continue;
        }
        block.clear();
        let now = wall_ms();
        let upto = wanted.min(most);
        (written..upto).for_each(|_| stream.add(&mut block, now));
        written = upto;
        match out.write_all(&block).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::Failed(format!("standard output: {error}"))),
            Ok(()) => {}
        }
    }
    Ok(())
}

struct Stream {
    kind: Kind,
    users: u32,
    people: People,
    draw: Draw,
    number: u64,
    /// The last sound lines.
    recent: Vec<Vec<u8>>,
}

impl Stream {
    fn new(kind: Kind, users: u32, seed: u64) -> Self {
        let now = wall_ms();
        let plan = Plan { users, events: 0, seed, days: 120, as_of_ms: now };
        Self {
            kind,
            users,
            people: People::new(&plan),
            draw: Draw::new(seed, 30),
            // Another run has other ids.
            number: u64::try_from(now).unwrap_or(0) * 1_000,
            recent: Vec::new(),
        }
    }

    /// Appends a line of something that happened just now, or earlier and is late.
    fn add(&mut self, block: &mut Vec<u8>, now: i64) {
        let draw = &mut self.draw;
        if !self.recent.is_empty() && draw.chance(0.01) {
            let at = draw.below(self.recent.len());
            block.extend_from_slice(&self.recent[at]);
            return;
        }
        self.number += 1;
        let late = arrival(draw, 0);
        let damage = Damage::draw(draw);
        let future =
            if damage == Damage::FarFuture { draw.range(5 * 365, 10 * 365) * DAY } else { 0 };
        let ts = now - late + future;
        let user = draw.cumulated(&self.people.activity);
        let at = Stamp { ts, arrival: now, user: u32::try_from(user).unwrap_or(0) };
        let mut line = Vec::with_capacity(192);
        match self.kind {
            Kind::Register => {
                let register = registration(draw, at, self.users);
                lines::register(&mut line, self.number, ts, &register, damage);
            }
            Kind::Consume => {
                let consume = self.people.buy(draw, user, ts, now);
                lines::consume(&mut line, self.number, ts, &consume, damage);
            }
            Kind::Cancel => {
                let consume = self.people.buy(draw, user, ts, now);
                let order = u32::try_from(self.number % 1_000_000_000).unwrap_or(0);
                let cancel = cancellation(draw, at, order, &consume);
                lines::cancel(&mut line, self.number, ts, &cancel, damage);
            }
        }
        lines::finish(&mut line, damage);
        block.extend_from_slice(&line);
        if damage == Damage::None {
            if self.recent.len() < REMEMBERED {
                self.recent.push(line);
            } else {
                let at = draw.below(REMEMBERED);
                self.recent[at] = line;
            }
        }
    }
}
