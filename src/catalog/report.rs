//! Errors of documents that stand for many: shown once, naming the expansions.
//!
//! In: diagnostics and which expansion they came from. Out: [`Diagnostics`] without repeats.
//! Invariant: nothing is dropped that differs in place or in kind.

use super::matrix::Binding;
use super::place::{Diagnostic, Diagnostics, Severity};
use super::yaml::Text;

/// Which document, and which expansion of it, something was found in.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// Number of the document within the catalogue.
    pub(super) item: usize,
    /// The expanded name; `None` where there is no matrix.
    pub(super) expansion: Option<String>,
}

impl Origin {
    /// One expansion of a document named by `name`.
    pub(super) fn of(item: usize, expanded: bool, binding: &Binding<'_>, name: &Text) -> Self {
        // What is wrong with the name is said when it is read.
        let mut wrong = Diagnostics::default();
        let full = binding.string(name, &mut wrong);
        Self { item, expansion: (expanded && !wrong.has_errors()).then_some(full) }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Reports {
    found: Vec<(Option<Origin>, Diagnostic)>,
}

impl Reports {
    /// Runs a check and keeps what it says of `origin`.
    pub(super) fn on<T>(
        &mut self,
        origin: &Origin,
        check: impl FnOnce(&mut Diagnostics) -> T,
    ) -> T {
        let mut out = Diagnostics::default();
        let value = check(&mut out);
        self.found.extend(out.items.into_iter().map(|d| (Some(origin.clone()), d)));
        value
    }

    /// Runs a check that belongs to no expansion.
    pub(super) fn plain<T>(&mut self, check: impl FnOnce(&mut Diagnostics) -> T) -> T {
        let mut out = Diagnostics::default();
        let value = check(&mut out);
        self.found.extend(out.items.into_iter().map(|d| (None, d)));
        value
    }

    /// Whether anything so far makes the catalogue unusable.
    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|(_, d)| d.severity == Severity::Error)
    }

    /// All that was found, the same mistake of several expansions put together.
    pub(super) fn finish(self) -> Diagnostics {
        let mut merged: Vec<(Option<Origin>, Diagnostic, Vec<String>)> = Vec::new();
        for (origin, diagnostic) in self.found {
            let kind = kind(&diagnostic.message);
            let same = merged.iter_mut().find(|(o, d, _)| {
                d.place == diagnostic.place
                    && d.severity == diagnostic.severity
                    && kind == self::kind(&d.message)
                    && o.as_ref().map(|o| o.item) == origin.as_ref().map(|o| o.item)
                    && (o.as_ref().is_some_and(|o| o.expansion.is_some()) || *d == diagnostic)
            });
            let expansion = origin.as_ref().and_then(|o| o.expansion.clone());
            match same {
                Some((_, _, names)) => {
                    names.extend(expansion.filter(|e| !names.contains(e)));
                }
                None => merged.push((origin, diagnostic, expansion.into_iter().collect())),
            }
        }
        let items = merged.into_iter().map(|(_, mut diagnostic, names)| {
            if !names.is_empty() {
                diagnostic.message = format!("{} (in {})", diagnostic.message, expansions(&names));
            }
            diagnostic
        });
        Diagnostics { items: items.collect() }
    }
}

/// A message without its quoted parts: what differs between expansions.
fn kind(message: &str) -> String {
    message.split('`').step_by(2).collect()
}

/// "a, b, c and 2 more"
fn expansions(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        [rest @ .., last] if names.len() <= 3 => format!("{} and {last}", rest.join(", ")),
        _ => format!("{} and {} more", names[..3].join(", "), names.len() - 3),
    }
}
