//! Histories in generated runs: what came before a cut, for features that have not seen it; on an
//! empty store, after other rules, interrupted, and with live events beside it.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use rand::seq::IndexedRandom;
use tagloom::catalog::load_from;
use tagloom::engine::history::{
    Merge, as_of_users, cuts, first_cut_ms, lacking, next_job, resume, ruleset,
};
use tagloom::engine::job::{Chunk, Job};
use tagloom::engine::stored_as_of;
use tagloom::engine::version::{Moment, Version, active, is_recomputed, next_with};
use tagloom::store::fjall::{FjallOptions, FjallStore};
use tagloom::store::{ClockMode, Identity, Store, Uid};

use crate::Run;
use crate::driven::Driver;
use crate::generate::{DAY_MS, day_start};
use crate::lines::{line, uid_text};
use crate::meaning::{Event, day_of};
use crate::told::Given;
use crate::versions::RETIRE_AFTER_MS;

impl Run<'_> {
    fn version(&self) -> Version {
        active(self.store.as_ref().unwrap().as_ref()).unwrap().unwrap()
    }

    fn give(&mut self) -> Option<Given> {
        let tables: Vec<bool> = self.spec.streams.iter().map(|s| s.table).collect();
        let mut streams: Vec<usize> = (0..tables.len()).filter(|s| !tables[*s]).collect();
        if self.random.one_in(3) {
            streams.retain(|_| self.random.one_in(2));
        }
        let back_ms = match self.random.below(4) {
            0 => self.random.upto(3 * DAY_MS) - 3 * DAY_MS,
            1 => 0,
            2 => self.random.upto(5 * DAY_MS),
            _ => self.random.upto(200 * DAY_MS),
        };
        let cut_ms = day_start(self.as_of_ms - back_ms, self.spec.zone);
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..self.random.rng.random_range(0..=40) {
            let stream = *streams.choose(&mut self.random.rng)?;
            // Some were live already, some are there twice.
            let known = if self.random.one_in(2) { &self.sent } else { &events };
            let known: Vec<&Event> =
                known.iter().filter(|e| e.stream == stream && e.at_ms < cut_ms).collect();
            if self.random.one_in(3)
                && let Some(again) = known.choose(&mut self.random.rng)
            {
                events.push((*again).clone());
                continue;
            }
            self.next_id += 1;
            let around_ms = if self.random.one_in(2) { cut_ms } else { self.as_of_ms };
            events.push(Event {
                stream,
                user: self.random.below(5),
                id: self.next_id,
                at_ms: self.random.time(self.spec, &self.sent, around_ms).min(self.as_of_ms),
                cells: self.random.cells(),
                broken: self.random.one_in(30),
                change: None,
                sent_day: day_of(self.as_of_ms, self.ruleset.catalog.zone.tz()),
            });
        }
        (!streams.is_empty()).then_some(Given { streams, cut_ms, events })
    }

    /// History for the features that lack it; `first`: the store is empty.
    pub fn history(&mut self, first: bool) {
        if !first {
            self.close();
        }
        let Some(given) = self.give() else { return };
        let lacks = lacking(&self.ruleset.catalog, &self.version(), &given.streams);
        if lacks.is_empty() {
            assert_eq!(self.model.known.lacking(self.spec, &self.chosen, &given.streams).len(), 0);
            return;
        }
        let catalog = &self.ruleset.catalog;
        let as_of_ms = as_of_users(self.store.as_ref().unwrap().as_ref()).unwrap();
        let horizon_days = self.ruleset.layout.horizon_days;
        let first_ms = first_cut_ms(catalog, &lacks, as_of_ms, horizon_days);
        if first_ms.is_some_and(|first_ms| given.cut_ms < first_ms) {
            self.seen.add("  cuts refused", 1);
            return;
        }
        self.seen.add("histories", 1);
        self.seen.add("  of empty stores", usize::from(first));
        let side = tempfile::tempdir().unwrap();
        let history_ms = self.fold(side.path(), &given);
        if !first && self.random.one_in(2) {
            // Live goes on meanwhile.
            self.send_new();
            self.close();
        }
        self.begin(side.path(), &given, history_ms);
        self.merge();
        if self.random.one_in(2) {
            self.send_late(&given.events);
        }
        self.drain();
    }

    /// Folds a history beside the store. Returns its as-of.
    fn fold(&mut self, dir: &Path, given: &Given) -> Option<i64> {
        let catalog = self.ruleset.catalog.as_ref().clone();
        let version = self.version();
        let lacks = lacking(&catalog, &version, &given.streams).into_keys().collect();
        let horizon_days = self.ruleset.layout.horizon_days;
        let rules = ruleset(catalog, &version, &lacks, given.cut_ms, horizon_days).unwrap();
        let rules = Arc::new(rules);
        let catalog = &rules.catalog;
        let timezone = catalog.zone.name().to_owned();
        let identity = Identity { uid: catalog.uid, timezone, clock: ClockMode::Event };
        let store = FjallStore::open(dir, &identity, &FjallOptions::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let mut side = Driver::open(&rules, &store, 2, usize::MAX);
        for batch in given.events.chunks(self.random.rng.random_range(1..=40)) {
            for stream in 0..self.spec.streams.len() {
                let of_stream = batch.iter().filter(|e| e.stream == stream);
                let lines: String = of_stream.map(|e| line(self.spec, e)).collect();
                side.feed(stream, &lines, None);
            }
            if let Some(as_of_ms) = side.engine.greatest_ms()
                && self.random.one_in(3)
            {
                side.engine.close(as_of_ms, false).unwrap();
            }
        }
        if let Some(as_of_ms) = side.engine.greatest_ms() {
            side.engine.close(as_of_ms, true).unwrap();
            side.engine.drain(as_of_ms).unwrap();
        }
        stored_as_of(store.as_ref()).unwrap()
    }

    /// From now on what lacked history counts live events from the cut on only.
    fn begin(&mut self, side: &Path, given: &Given, history_ms: Option<i64>) {
        let store = Arc::clone(self.store.as_ref().unwrap());
        let version = self.version();
        let loaded = load_from("tags", self.files.clone()).unwrap();
        let job = next_job(&version);
        let last_ms = stored_as_of(store.as_ref()).unwrap();
        let lacks = lacking(&loaded.catalog, &version, &given.streams);
        let cuts = cuts(
            &loaded.catalog,
            &lacks,
            job,
            given.cut_ms,
            last_ms.max(history_ms).unwrap_or(given.cut_ms),
            self.ruleset.layout.horizon_days,
        );
        let few = NonZeroU32::new(self.random.rng.random_range(1..=3));
        let users_per_s = few.filter(|_| !self.random.one_in(3));
        let merge = Merge { job, dir: side.to_owned(), users_per_s, as_of_ms: history_ms };
        let moment = Moment {
            as_of_ms: Some(self.as_of_ms),
            retire_after_ms: RETIRE_AFTER_MS,
            running: false,
        };
        let next = next_with(store.as_ref(), loaded, moment, Some((merge, cuts))).unwrap();
        assert_eq!(next.save(store.as_ref()).unwrap(), tagloom::engine::version::Saved::Done);
        drop(store);
        let told = self.model.tell(&self.chosen, given, last_ms);
        assert_eq!(lacks.len(), told, "features that lack history");
        self.open();
    }

    fn to_merge(&self) -> Option<Job> {
        resume(self.store.as_ref().unwrap().as_ref(), &self.ruleset).unwrap()
    }

    /// Merges the history, with whatever may come between two of its windows.
    fn merge(&mut self) {
        let mut job = self.to_merge();
        while let Some(merging) = &mut job {
            let store = Arc::clone(self.store.as_ref().unwrap());
            let chunk = merging.next(store.as_ref(), Some(self.as_of_ms), usize::MAX).unwrap();
            drop(store);
            let Some(chunk) = chunk else { break };
            if self.random.one_in(8) {
                // It stops before the window is written.
                self.seen.add("  interruptions", 1);
                drop((job, chunk));
                self.restart();
                job = self.to_merge();
                continue;
            }
            self.merged(chunk);
            match self.random.below(6) {
                0 => {
                    drop(job);
                    self.restart();
                    job = self.to_merge();
                }
                1 => self.send_new(),
                2 => {
                    self.send_new();
                    self.close_for(Chunk::default());
                }
                3 => self.step(),
                _ => {}
            }
        }
        assert!(self.to_merge().is_none(), "it is merged once");
        let store = Arc::clone(self.store.as_ref().unwrap());
        if !is_recomputed(store.as_ref(), self.ruleset.version).unwrap() {
            let as_of_ms = self.as_of_ms;
            self.driver().engine.recompute(as_of_ms).unwrap();
            self.all_computed();
        }
    }

    fn merged(&mut self, chunk: Chunk) {
        let kind = self.ruleset.catalog.uid;
        let uids = chunk.history.iter().map(|(key, _)| Uid::from_key(kind, key).unwrap());
        let uids: Vec<String> = uids.map(|uid| uid.to_string()).collect();
        self.close_for(chunk);
        self.seen.add("  windows", 1);
        let all = (0..5).filter(|user| uids.contains(&uid_text(self.spec, *user)));
        self.model.histories.last_mut().unwrap().users.extend(all);
    }

    /// Events of a history come live as well.
    fn send_late(&mut self, history: &[Event]) {
        let may = |e: &&Event| !self.spec.streams[e.stream].dedupe || self.id_is_known(e);
        let late = history.iter().filter(may);
        let late: Vec<Event> = late.cloned().collect();
        self.send(&late);
        self.sent.extend(late);
    }
}
