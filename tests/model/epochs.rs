//! Tables that are loaded while a run goes on: which rows the store has, which the engine's windows
//! see, and which a user who was not computed since may still show.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use tagloom::engine::job::Job;

use crate::dimensions::Rows;
use crate::{Run, driven};

/// What is loaded, and what is seen of it.
#[derive(Default)]
pub struct Epochs {
    /// What the store has.
    loaded: Rows,
    /// Whether windows do not see a table's last load yet.
    unseen: Vec<bool>,
    /// What windows saw before, until all users of changed rows are computed again.
    pub earlier: Vec<Rows>,
    /// Compute users of changed rows.
    jobs: VecDeque<Job>,
}

impl Epochs {
    pub fn new(tables: usize) -> Self {
        Self { loaded: vec![None; tables], unseen: vec![false; tables], ..Self::default() }
    }
}

impl Run<'_> {
    /// Between two windows: a load, windows that see it, users that are computed again.
    pub fn tables_change(&mut self) {
        if self.spec.tables.is_empty() {
            return;
        }
        match self.random.below(6) {
            0 | 1 => self.load(),
            2 => self.follow(),
            3 => {
                self.follow();
                self.work(1);
            }
            4 => self.work(2),
            _ => {}
        }
    }

    /// Loads a table, as another command does: nobody notices yet.
    fn load(&mut self) {
        let table = self.random.below(self.spec.tables.len());
        // Two epochs are kept: the one that windows see must be one of them.
        if self.epochs.unseen[table] {
            self.follow();
        }
        let rows = self.random.rows(self.spec, table, &self.epochs.loaded, &self.sent);
        let csv = self.random.csv(self.spec, table, &rows);
        let store = self.store.as_ref().unwrap().as_ref();
        driven::tables::load_table(store, &self.ruleset, &format!("t{table}"), &csv);
        self.seen.add("tables loaded", 1);
        let before = self.epochs.loaded[table].as_ref();
        let key = |row: &crate::dimensions::Row| row.key.clone();
        let gone = before.into_iter().flatten().filter(|b| rows.iter().all(|r| key(r) != b.key));
        self.seen.add("  rows removed", gone.count());
        let mut changed = 0;
        for row in before.into_iter().flatten() {
            changed += usize::from(rows.iter().any(|r| r.key == row.key && r != row));
        }
        self.seen.add("  rows changed", changed);
        self.epochs.loaded[table] = Some(rows);
        self.epochs.unseen[table] = true;
    }

    /// Windows see what is loaded from now on.
    pub fn follow(&mut self) {
        // A few users a window, so that a job takes several.
        let users = self.random.pick(&[1, 2, 100]);
        let users = NonZeroU32::new(users).unwrap();
        let jobs = self.driver().engine.follow_epochs(users).unwrap();
        jobs.into_iter().rev().for_each(|job| self.epochs.jobs.push_front(job));
        self.switch();
    }

    /// A process has opened the store: it sees what is loaded, and its jobs begin anew.
    pub fn reopened(&mut self) {
        if !self.epochs.jobs.is_empty() {
            self.seen.add("jobs cut short by a restart", 1);
            self.epochs.jobs.clear();
        }
        self.follow();
    }

    fn switch(&mut self) {
        let switched = self.epochs.unseen.iter().filter(|unseen| **unseen).count();
        if switched > 0 {
            self.seen.add("epochs switched", switched);
            self.epochs.unseen.fill(false);
            let before =
                std::mem::replace(&mut self.model.rows_of_tables, self.epochs.loaded.clone());
            self.epochs.earlier.push(before);
        }
        if self.epochs.jobs.is_empty() {
            self.all_computed();
        }
    }

    /// Everybody shows what windows see now.
    pub fn all_computed(&mut self) {
        self.epochs.earlier.clear();
    }

    /// Some windows of the jobs.
    fn work(&mut self, windows_max: usize) {
        let store = self.store.clone().unwrap();
        for _ in 0..windows_max {
            let Some(job) = self.epochs.jobs.front_mut() else { return };
            let Some(chunk) = job.next(store.as_ref(), Some(self.as_of_ms), usize::MAX).unwrap()
            else {
                self.epochs.jobs.pop_front();
                if self.epochs.jobs.is_empty() {
                    self.all_computed();
                }
                continue;
            };
            self.seen.add("windows of users of changed rows", 1);
            self.seen.add("  users", chunk.users);
            self.close_for(chunk);
            self.compare(false);
        }
    }

    /// Everybody is computed with what is loaded.
    pub fn drain_tables(&mut self) {
        self.follow();
        while !self.epochs.jobs.is_empty() {
            self.work(1);
        }
    }
}
