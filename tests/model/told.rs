//! Histories in the model (SEMANTICS section 8): each is kept as it was given. For a feature that has
//! one, what came before the cut is in there and nowhere else; a stream that dedupes also counts late
//! live events, unless their id is in there.

use std::collections::BTreeSet;

use crate::meaning::{Event, Model};
use crate::spec::{Span, Spec};
use crate::versions::Chosen;

/// A history as it was given.
#[derive(Debug)]
pub struct Told {
    /// Its events, with their days.
    events: Vec<(Event, i64)>,
    /// By stream: the first day of live events that count.
    from_day: Vec<i64>,
    /// Who has it by now.
    pub users: BTreeSet<usize>,
}

impl Told {
    /// What a user has of it.
    pub fn of(&self, user: usize) -> impl Iterator<Item = &(Event, i64)> {
        self.events.iter().filter(move |(e, _)| e.user == user && self.users.contains(&user))
    }

    /// Whether a live event counts beside it.
    pub fn admits(&self, (event, day): &(Event, i64), dedupe: bool) -> bool {
        let same = |known: &Event| known.stream == event.stream && known.id == event.id;
        let is_known = || dedupe && self.of(event.user).any(|(known, _)| same(known));
        *day >= self.from_day[event.stream] && !is_known()
    }

    /// Who is in it and has it.
    pub fn known_users(&self) -> impl Iterator<Item = usize> {
        self.events.iter().map(|(e, _)| e.user).filter(|user| self.users.contains(user))
    }
}

/// What is given to a store.
pub struct Given {
    pub streams: Vec<usize>,
    pub cut_ms: i64,
    pub events: Vec<Event>,
}

impl Spec {
    /// Days after which ids are not known any more, and days are not kept apart.
    pub fn horizon_days(&self) -> i64 {
        let days = self.features.iter().map(|f| match f.span {
            Span::Days(days) => i64::from(days + self.groups[f.group].offset),
            // It begins within a day.
            Span::Hops(hops) => i64::from(hops.div_ceil(288) + 1),
            Span::Lifetime => 0,
        });
        days.max().unwrap_or(0) + i64::from(self.lateness_days)
    }
}

impl Model<'_> {
    /// Features that lack history get this one. `last_ms`: as-of so far.
    pub fn tell(&mut self, chosen: &Chosen, given: &Given, last_ms: Option<i64>) -> usize {
        let mut events: Vec<(Event, i64)> = Vec::new();
        for event in &given.events {
            let same = |(e, _): &(Event, i64)| {
                e.stream == event.stream && e.user == event.user && e.id == event.id
            };
            let again = self.spec.streams[event.stream].dedupe && events.iter().any(same);
            if event.at_ms < given.cut_ms && self.is_counted(event, None) && !again {
                events.push((event.clone(), self.day_of(event.at_ms)));
            }
        }
        let latest_ms = events.iter().map(|(e, _)| e.at_ms).max().max(last_ms);
        let oldest = self.day_of(latest_ms.unwrap_or(given.cut_ms)) - self.spec.horizon_days();
        let cut = self.day_of(given.cut_ms);
        let from_day =
            self.spec.streams.iter().map(|s| if s.dedupe { cut.min(oldest) } else { cut });
        let from_day = from_day.collect();
        let number = self.histories.len();
        self.histories.push(Told { events, from_day, users: BTreeSet::new() });
        self.known.tell(self.spec, chosen, &given.streams, number)
    }
}
