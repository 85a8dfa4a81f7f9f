//! Whether this process can do its work, and why not.
//!
//! In: conditions, each from the part that knows it (store, engine, a source's group membership).
//! Out: all of them with their reasons. A part registers a closure and forgets about it.
//! Invariant: a condition says what is true now; it may ask the store, so it is never asked on a
//! thread that must not wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

type Check = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// The conditions of one process. Clones are the same.
#[derive(Clone, Default)]
pub struct Conditions(Arc<Mutex<Vec<(&'static str, Check)>>>);

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// Which condition.
    pub name: String,
    /// It holds.
    pub ready: bool,
    /// What was found; where it does not hold, why and what to do.
    pub detail: String,
}

impl Conditions {
    /// Adds a condition, or replaces the one of this name. `check`: what was found, or why the
    /// process is not ready.
    pub fn register(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) {
        let mut conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.retain(|(known, _)| *known != name);
        conditions.push((name, Arc::new(check)));
    }

    /// Takes a condition away.
    pub fn forget(&self, name: &str) {
        let mut conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.retain(|(known, _)| *known != name);
    }

    /// Asks all of them, in the order in which they came.
    pub fn look(&self) -> Vec<Finding> {
        let look = Look::default();
        self.look_into(&look);
        look.found()
    }

    /// The same for somebody who may not wait for the last of them: what is found is there at once.
    pub fn look_into(&self, look: &Look) {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, check) in conditions {
            look.lock().asked = Some(name);
            let found = catch_unwind(AssertUnwindSafe(|| check()));
            let found = found.unwrap_or_else(|_| Err("the check panicked: see the log".into()));
            look.lock().answered(name, found);
        }
    }
}

/// A look at all conditions, which may be under way. Clones are the same.
#[derive(Clone, Default)]
pub struct Look(Arc<Mutex<Looked>>);

#[derive(Default)]
struct Looked {
    found: Vec<Finding>,
    /// The condition that has not answered yet.
    asked: Option<&'static str>,
}

impl Looked {
    fn answered(&mut self, name: &'static str, found: Result<String, String>) {
        super::names::READY.gauge(&[name]).set(f64::from(u8::from(found.is_ok())));
        let ready = found.is_ok();
        let detail = found.unwrap_or_else(|why| why);
        self.found.push(Finding { name: name.to_owned(), ready, detail });
        self.asked = None;
    }
}

impl Look {
    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been found.
    pub fn found(&self) -> Vec<Finding> {
        self.lock().found.clone()
    }

    /// What has been found by now: a condition that has not answered does not hold.
    pub fn end(&self) -> Vec<Finding> {
        let mut looked = self.lock();
        if let Some(name) = looked.asked {
            looked.answered(name, Err("it does not answer in time".to_owned()));
        }
        looked.found.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_wait_is_told_what_was_found_and_who_has_not_answered() {
        let (go_on, waits) = std::sync::mpsc::sync_channel::<()>(1);
        let waits = Mutex::new(waits);
        let conditions = Conditions::default();
        conditions.register("kafka", || Ok("2 partitions".into()));
        conditions.register("store", move || {
            waits.lock().expect("nobody panics").recv().expect("the test goes on");
            Ok("answers".into())
        });
        let look = Look::default();
        let (asked, slow) = (conditions.clone(), look.clone());
        let thread = std::thread::spawn(move || asked.look_into(&slow));
        while look.lock().asked != Some("store") {
            std::thread::yield_now();
        }
        let found = look.end();
        let said: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.ready)).collect();
        assert_eq!(said, [("kafka", true), ("store", false)]);
        assert_eq!(found[1].detail, "it does not answer in time");
        go_on.send(()).expect("it waits");
        thread.join().expect("it ends");
        assert!(look.lock().asked.is_none());
    }

    #[test]
    fn conditions_are_asked_in_order_and_a_panic_is_a_reason() {
        let conditions = Conditions::default();
        conditions.register("store", || Ok("answers".into()));
        conditions.register("kafka", || Err("no partition is assigned".into()));
        conditions.register("odd", || panic!("odd"));
        let found = conditions.look();
        let said: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.ready)).collect();
        assert_eq!(said, [("store", true), ("kafka", false), ("odd", false)]);
        assert_eq!(found[1].detail, "no partition is assigned");
        conditions.register("kafka", || Ok("2 partitions".into()));
        conditions.forget("odd");
        assert!(conditions.look().iter().all(|f| f.ready));
    }
}
