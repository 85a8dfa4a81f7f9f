//! What the runs went through, counted: a glance at the table at the end tells what they cover.

use std::collections::BTreeMap;
use std::fmt;

/// Everything that is counted, in the order in which it is shown.
const ALL: [&str; 32] = [
    "runs",
    "  on disk",
    "  with ids that are known again",
    "  with users who may keep little",
    "  with tables that change",
    "  with closed accounts",
    "  with dimensions",
    "    keyed by a feature",
    "    keyed by a column",
    "events",
    "windows",
    "drains",
    "restarts",
    "rules swapped",
    "histories",
    "  of empty stores",
    "  windows",
    "  interruptions",
    "  cuts refused",
    "tables loaded",
    "  rows changed",
    "  rows removed",
    "epochs switched",
    "windows of users of changed rows",
    "  users",
    "jobs cut short by a restart",
    "users with a part of their rows",
    "users compared",
    "  that still show an epoch of before",
    "labels compared",
    "  of tags that read a dimension",
    "    with a value",
];

/// How often each thing happened.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    pub fn add(&mut self, what: &'static str, times: usize) {
        assert!(ALL.contains(&what), "`{what}` would not be shown");
        *self.0.entry(what).or_default() += times;
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = |what: &&'static str| self.0.get(what).is_none_or(|times| *times == 0);
        ALL.into_iter().filter(never).collect()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in ALL {
            writeln!(f, "  {what:<38}{:>9}", self.0.get(what).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}
