//! Reading a YAML mapping key by key.
//!
//! In: a [`Node`]. Out: its values by key, and an error for each key nobody asked for, with the
//! key that was likely meant. Invariant: every key of the mapping is either asked for or reported.

use super::place::{Diagnostics, Place};
use super::yaml::{Node, Text, Value};

/// A mapping that is being decoded.
pub(super) struct Fields<'a> {
    entries: &'a [(Text, Node)],
    /// Where the mapping begins.
    pub(super) place: Place,
    /// What it is, for messages: "a stream".
    what: &'static str,
    asked: Vec<&'static str>,
    later: &'static [(&'static str, &'static str)],
}

impl<'a> Fields<'a> {
    /// Begins reading a mapping; anything else is an error.
    pub(super) fn open(node: &'a Node, what: &'static str, out: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => {
                Some(Self { entries, place: node.place, what, asked: Vec::new(), later: &[] })
            }
            _ => {
                out.error(
                    node.place,
                    format!("{what} must be a mapping"),
                    "write `key: value` lines, or `{key: value}`",
                );
                None
            }
        }
    }

    /// Keys that the rule language has and this version does not: key and what to do meanwhile.
    pub(super) fn later(&mut self, keys: &'static [(&'static str, &'static str)]) {
        self.later = keys;
    }

    /// The value of an optional key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node)
    }

    /// The value of a key that must be there.
    pub(super) fn need(&mut self, key: &'static str, out: &mut Diagnostics) -> Option<&'a Node> {
        let node = self.take(key);
        if node.is_none() {
            // A misspelt key is reported once, as the misspelt key.
            let misspelt = self.entries.iter().any(|(k, _)| nearest(&k.text, [key]).is_some());
            if !misspelt {
                let remedy = format!("add `{key}:`");
                out.error(self.place, format!("{} needs `{key}`", self.what), remedy);
            }
        }
        node
    }

    /// The text of an optional key.
    pub(super) fn text(&mut self, key: &'static str, out: &mut Diagnostics) -> Option<&'a Text> {
        self.take(key).and_then(|node| text_of(node, key, out))
    }

    /// The text of a key that must be there.
    pub(super) fn need_text(
        &mut self,
        key: &'static str,
        out: &mut Diagnostics,
    ) -> Option<&'a Text> {
        self.need(key, out).and_then(|node| text_of(node, key, out))
    }

    /// Whether an unknown key is likely one of these, misspelt.
    pub(super) fn has_nearly(&self, keys: &[&'static str]) -> bool {
        let unknown = self.entries.iter().filter(|(k, _)| !self.asked.contains(&k.text.as_str()));
        unknown.into_iter().any(|(k, _)| nearest(&k.text, keys.iter().copied()).is_some())
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, out: &mut Diagnostics) {
        if cfg!(debug_assertions) {
            super::keys::agree(self.what, &self.asked);
        }
        for (key, _) in self.entries {
            if self.asked.contains(&key.text.as_str()) {
                continue;
            }
            if let Some((name, remedy)) = self.later.iter().find(|(name, _)| *name == key.text) {
                out.error(key.place, format!("`{name}` is not yet supported"), *remedy);
                continue;
            }
            let remedy = match nearest(&key.text, self.asked.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("{} has {}", self.what, listed(&self.asked)),
            };
            out.error(key.place, format!("unknown key `{}` in {}", key.text, self.what), remedy);
        }
    }
}

/// A non-empty text; anything else is an error.
pub(super) fn text_of<'a>(node: &'a Node, what: &str, out: &mut Diagnostics) -> Option<&'a Text> {
    match &node.value {
        Value::Text(text) if text.text.is_empty() && text.plain => {
            out.error(
                node.place,
                format!("`{what}` has no value"),
                "write one, or leave the key out",
            );
            None
        }
        Value::Text(text) => Some(text),
        _ => {
            let remedy = "quote it if it holds `{`, `[` or `: `";
            out.error(node.place, format!("`{what}` must be a text"), remedy);
            None
        }
    }
}

/// The items of a list; anything else is an error.
pub(super) fn list_of<'a>(node: &'a Node, what: &str, out: &mut Diagnostics) -> Option<&'a [Node]> {
    match &node.value {
        Value::List(items) => Some(items),
        _ => {
            out.error(node.place, format!("`{what}` must be a list"), "write `[a, b]`");
            None
        }
    }
}

/// The entries of a mapping; anything else is an error.
pub(super) fn map_of<'a>(
    node: &'a Node,
    what: &str,
    out: &mut Diagnostics,
) -> Option<&'a [(Text, Node)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ => {
            let remedy = "write `key: value` lines, or `{key: value}`";
            out.error(node.place, format!("`{what}` must be a mapping"), remedy);
            None
        }
    }
}

/// The texts of a list of texts, or of one text.
pub(super) fn texts_of<'a>(node: &'a Node, what: &str, out: &mut Diagnostics) -> Vec<&'a Text> {
    match &node.value {
        Value::List(items) => items.iter().filter_map(|item| text_of(item, what, out)).collect(),
        _ => text_of(node, what, out).into_iter().collect(),
    }
}

/// `true` or `false`.
pub(super) fn bool_of(node: &Node, what: &str, out: &mut Diagnostics) -> Option<bool> {
    match text_of(node, what, out)?.text.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let message = format!("`{what}` must be true or false, not `{other}`");
            out.error(node.place, message, "write `true` or `false`");
            None
        }
    }
}

/// The candidate that was likely meant.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    crate::rule::sql::nearest(name, candidates.into_iter().filter(|c| *c != name))
}

/// "did you mean `x`?", or what there is.
pub(super) fn suggest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str> + Clone,
    what: &str,
) -> String {
    if let Some(near) = nearest(name, candidates.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<&str> = candidates.into_iter().collect();
    match all.len() {
        0 => format!("there are no {what} yet"),
        _ => format!("{what} are {}", listed(&all)),
    }
}

/// "`a`, `b` and `c`", at most eight of them.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().take(8).map(|n| format!("`{n}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) if names.len() <= 8 => format!("{} and {last}", rest.join(", ")),
        Some(_) => format!("{} and {} more", quoted.join(", "), names.len() - 8),
    }
}
