//! The members of a record's object, as they are written.
//!
//! In: one JSON object. Out: where the values of those members stand that somebody reads. The others
//! are passed over without building anything; where nobody has to look, nothing is read twice.
//! Invariant: no I/O; an object that is read at all is JSON as serde_json has it, so that what stands
//! at the given places is, too.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::json::{KeySeed, Keys};

/// Finds members by name.
#[derive(Debug)]
pub(super) struct Members {
    keys: Keys,
    wanted: usize,
    /// By index of the name; empty: it is not there, or null.
    found: Vec<Range<usize>>,
}

impl Members {
    /// These names; what they say is asked for by index.
    pub(super) fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let keys = Keys::of_names(names);
        let wanted = keys.len();
        Self { keys, wanted, found: Vec::new() }
    }

    /// Reads an object. Those of the last one are forgotten.
    pub(super) fn read(&mut self, object: &str) -> Result<(), serde_json::Error> {
        self.found.clear();
        self.found.resize(self.wanted, 0..0);
        let mut json = serde_json::Deserializer::from_str(object);
        (&mut json)
            .deserialize_map(ObjectVisitor { members: self, start: object.as_ptr().addr() })?;
        json.end()
    }

    /// Whether an object has this member and no other.
    pub(super) fn holds_only(object: &str, name: &str) -> bool {
        let mut only = Self::new([name].into_iter());
        let one = only.read(object).is_ok() && only.get(object, 0).is_some();
        one && only.keys.len() == 1
    }

    /// The value of a member of the object that was read last; `None`: null or not there.
    #[inline]
    pub(super) fn get<'o>(&self, object: &'o str, name: usize) -> Option<&'o str> {
        let found = self.found.get(name)?;
        object.get(found.clone()).filter(|value| !value.is_empty())
    }
}

struct ObjectVisitor<'m> {
    members: &'m mut Members,
    start: usize,
}

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Members { keys, wanted, found } = self.members;
        let mut after = 0;
        while let Some(key) = map.next_key_seed(KeySeed { keys, after })? {
            after = key.map_or(after, |key| key + 1);
            match key.filter(|key| *key < *wanted) {
                Some(key) => {
                    let value = map.next_value::<&RawValue>()?.get();
                    let start = value.as_ptr().addr() - self.start;
                    let there = value != "null";
                    found[key] = if there { start..start + value.len() } else { 0..0 };
                }
                None => map.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        Ok(())
    }
}

/// The text of a JSON string; of another value as it is written.
pub(super) fn plain(value: &str) -> std::borrow::Cow<'_, str> {
    let inside = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inside {
        Some(text) if !text.contains('\\') => text.into(),
        Some(_) => serde_json::from_str::<String>(value).unwrap_or_default().into(),
        None => value.into(),
    }
}
