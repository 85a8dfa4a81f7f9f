//! Whether the cluster can be reached.
//!
//! In: what librdkafka says of its connections, every few seconds; its errors; partitions that could not
//! be taken over. Out: what is wrong, in words, for readiness.
//! Invariant: no call to the cluster; a connection that is made anew between two looks is no trouble.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::statistics::Statistics;

use super::start::Starts;
use crate::clock::Stopwatch;

/// So many looks one after the other find nobody, until that is told: brokers are restarted, and
/// coordinators move.
const LOOKS_MIN: u32 = 2;

/// See the module.
#[derive(Default)]
pub(super) struct Reach(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when nobody answers, and how many looks have found that.
    away: Option<(Stopwatch, u32, &'static str)>,
    /// librdkafka's last words about a connection.
    words: Option<String>,
    /// Why partitions cannot be taken over yet.
    not_taken: Option<String>,
}

/// Who does not answer, if so.
fn missing(statistics: &Statistics, starts: Starts) -> Option<&'static str> {
    let is_up = |state: &str| matches!(state, "UP" | "UPDATE");
    if !statistics.brokers.values().any(|broker| is_up(&broker.state)) {
        return Some("no broker of Kafka");
    }
    let group = statistics.cgrp.as_ref().filter(|_| starts == Starts::Group)?;
    (group.state != "up").then_some("no coordinator of the group")
}

impl Reach {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what librdkafka says.
    pub(super) fn see(&self, statistics: &Statistics, starts: Starts) {
        let mut known = self.lock();
        known.away = missing(statistics, starts).map(|who| match known.away.take() {
            Some((since, looks, _)) => (since, looks.saturating_add(1), who),
            None => (Stopwatch::start(), 1, who),
        });
        if known.away.is_none() {
            // They were of another time.
            known.words = None;
        }
    }

    /// librdkafka has said something about a connection.
    pub(super) fn said(&self, words: &str) {
        self.lock().words = Some(words.to_owned());
    }

    /// Partitions could not be taken over; none: they were.
    pub(super) fn not_taken(&self, why: Option<String>) {
        self.lock().not_taken = why;
    }

    /// What is wrong, if something is.
    pub(super) fn trouble(&self) -> Option<String> {
        let known = self.lock();
        if let Some((since, looks, who)) = &known.away
            && *looks >= LOOKS_MIN
        {
            let seconds = since.elapsed().as_secs();
            let words = known.words.as_ref().map_or_else(String::new, |words| format!(": {words}"));
            return Some(format!(
                "{who} answers, for {seconds} s: nothing is read or committed{words}"
            ));
        }
        known.not_taken.as_ref().map(|why| format!("partitions cannot be taken over yet: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, ConsumerGroup};

    use super::*;

    fn said(broker: &str, group: &str) -> Statistics {
        let broker = Broker { state: broker.to_owned(), ..Broker::default() };
        let group = ConsumerGroup {
            state: group.to_owned(),
            stateage: 0,
            join_state: String::new(),
            rebalance_age: 0,
            rebalance_cnt: 0,
            rebalance_reason: String::new(),
            assignment_size: 0,
        };
        Statistics {
            brokers: [("b".to_owned(), broker)].into(),
            cgrp: Some(group),
            ..Statistics::default()
        }
    }

    #[test]
    fn who_does_not_answer_twice_is_away_until_it_does() {
        let reach = Reach::default();
        let see = |broker: &str, group: &str| {
            reach.see(&said(broker, group), Starts::Group);
            reach.trouble()
        };
        assert_eq!(see("UP", "up"), None);
        assert_eq!(see("TRY_CONNECT", "up"), None);
        reach.said("Connection refused");
        let trouble = see("DOWN", "wait-broker-transport").expect("the second look");
        assert!(trouble.starts_with("no broker of Kafka answers") && trouble.ends_with("refused"));
        let trouble = see("UP", "wait-coord").expect("the third");
        assert!(trouble.starts_with("no coordinator of the group answers"), "{trouble}");
        assert_eq!(see("UPDATE", "up"), None);
        assert_eq!(see("UP", "query-coord"), None);
        reach.see(&said("UP", "query-coord"), Starts::Store);
        assert_eq!(reach.trouble(), None, "it is in no group");
        reach.not_taken(Some("a term".to_owned()));
        assert!(reach.trouble().is_some_and(|trouble| trouble.ends_with("yet: a term")));
        reach.not_taken(None);
        assert_eq!(reach.trouble(), None);
    }
}
