//! Work that needs no events: draining due users, recomputing all or some users.
//!
//! In: the store. Out: chunks of users, one a window.
//! Invariant: a chunk's progress is written with its window, so that a restart goes on behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::EngineError;
use super::command::CommandJob;
use super::history::{Progress, Side};
use super::ruleset::Ruleset;
use super::version::recomputed;
use crate::dimension::Dimensions;
pub use crate::pace::Limit;
use crate::store::{Bytes, DueCursor, Store, UidKey};
use crate::write::publish::outbox::Cause;

/// Due packs read at once.
const DUE_PACKS_MAX: usize = 256;

/// Users recomputed in one window.
const SCAN_USERS_MAX: usize = 16_384;

/// Key of a recompute's progress in the store.
pub const BACKFILL_KEY: &str = "job/backfill";

/// Key of the progress of computing everybody by the rules of another catalogue.
pub const RECOMPUTE_KEY: &str = "job/recompute";

/// One window's worth of a job.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Users that may be due.
    pub due: Vec<UidKey>,
    /// Users to recompute in any case, as they are stored.
    pub also: Vec<(UidKey, Bytes)>,
    /// Users that get a history, as it is stored.
    pub history: Vec<(UidKey, Bytes)>,
    /// The history they get.
    pub side: Option<Arc<Side>>,
    /// Users it hands out, for the rate limit.
    pub users: usize,
    /// Due packs this chunk drains.
    pub due_done: Vec<DueCursor>,
    /// Progress to write with the window.
    pub meta: Vec<(String, Vec<u8>)>,
    /// Why `also` has to be computed.
    pub cause: Cause,
}

impl Chunk {
    /// Takes the users out.
    pub fn take_users(&mut self) -> Users {
        let (due, also) = (std::mem::take(&mut self.due), std::mem::take(&mut self.also));
        Users { due, also, history: std::mem::take(&mut self.history) }
    }
}

/// The users of a chunk.
#[derive(Debug, Default)]
pub struct Users {
    /// Those that may be due.
    pub due: Vec<UidKey>,
    /// Those to recompute in any case, as they are stored.
    pub also: Vec<(UidKey, Bytes)>,
    /// Those that get a history, as it is stored.
    pub history: Vec<(UidKey, Bytes)>,
}

/// A job.
#[derive(Debug)]
pub enum Job {
    /// All users whose due instant has passed.
    Due,
    /// These users.
    Users {
        /// Those left.
        keys: VecDeque<UidKey>,
        /// Written with the last chunk.
        done: Vec<(String, Vec<u8>)>,
        /// Bounds the rate.
        limit: Option<Limit>,
    },
    /// Every user of a history gets it.
    History {
        /// The history.
        side: Arc<Side>,
        /// Goes on behind this one.
        after: Option<UidKey>,
        /// Bounds the rate.
        limit: Option<Limit>,
        /// How far it is.
        progress: Progress,
    },
    /// What a process wants that owns nobody.
    Command(Box<CommandJob>),
    /// Every user of the store.
    All {
        /// Goes on behind this one.
        after: Option<UidKey>,
        /// Names what is recomputed (the catalogue's fingerprint): progress of another one is void.
        name: u64,
        /// Bounds the rate.
        limit: Option<Limit>,
        /// Nothing is left.
        ended: bool,
        /// The next users, read while those before them are computed. What is resident goes before
        /// them: nobody is changed without being resident.
        ahead: Option<Vec<(UidKey, Bytes)>>,
        /// Told how many users were handed out.
        progress: std::sync::Arc<std::sync::atomic::AtomicU64>,
        /// Where progress is kept, for jobs that an interruption does not undo.
        progress_key: Option<&'static str>,
        /// Written with the last chunk.
        done: Vec<(String, Vec<u8>)>,
    },
}

/// Users one chunk may have: what may be spent at once.
fn chunk_users(limit: Option<&Limit>) -> usize {
    limit.map_or(SCAN_USERS_MAX, |limit| limit.at_once().min(SCAN_USERS_MAX))
}

impl Job {
    /// Everybody, by the rules of a catalogue that has become active; goes on where it was
    /// interrupted. `in_use`: the tables it is done with; none: those that are current.
    pub fn recompute(
        store: &dyn Store,
        ruleset: &Ruleset,
        limit: Option<Limit>,
        in_use: Option<&Dimensions>,
    ) -> Result<Self, EngineError> {
        let name = ruleset.catalog.fingerprint;
        let mut done = super::reload::all_applied(store, ruleset, in_use)?;
        done.push(recomputed(ruleset.version));
        Ok(Self::All {
            after: interrupted(store, RECOMPUTE_KEY, name)?,
            name,
            limit,
            ended: false,
            ahead: None,
            progress: std::sync::Arc::default(),
            progress_key: Some(RECOMPUTE_KEY),
            done,
        })
    }

    /// Whether it computes everybody because somebody asked for it, from the first user on.
    pub fn is_whole_backfill(&self) -> bool {
        matches!(self, Self::All { after: None, progress_key: Some(key), .. } if *key == BACKFILL_KEY)
    }

    /// When it is done, what another job of everybody would have done is done too.
    pub fn stands_for(&mut self, other: Self) {
        if let (Self::All { done, .. }, Self::All { done: of_other, .. }) = (self, other) {
            done.extend(of_other);
        }
    }

    /// Whether this is what [`Job::recompute`] gives.
    pub fn is_recompute(&self) -> bool {
        matches!(self, Self::All { progress_key: Some(key), .. } if *key == RECOMPUTE_KEY)
    }

    /// Whether another catalogue made it necessary.
    pub fn is_of_catalogue(&self) -> bool {
        self.is_recompute() || matches!(self, Self::History { .. })
    }

    /// Whether it is a command.
    pub fn is_command(&self) -> bool {
        matches!(self, Self::Command(_))
    }

    /// Whether it is done when sources have ended, and not while they are read.
    pub fn waits_for_sources(&self) -> bool {
        matches!(self, Self::Due)
    }

    /// Whether another start finds out by itself that it has to be done.
    pub fn is_found_again(&self) -> bool {
        matches!(self, Self::Due | Self::Command(_))
            || self.is_of_catalogue()
            || self.is_of_dimension(None)
    }

    /// Whether it brings new rows of a dimension table to its users; with a name: what a topic has said
    /// of that one.
    pub fn is_of_dimension(&self, table: Option<&str>) -> bool {
        self.marks().iter().any(|(key, _)| super::reload::is_mark(key, table))
    }

    /// Whether the store knows the same when both are done.
    pub fn ends_like(&self, other: &Self) -> bool {
        !other.marks().is_empty() && self.marks() == other.marks()
    }

    /// What is written with the last chunk of a job that an interruption undoes.
    fn marks(&self) -> &[(String, Vec<u8>)] {
        match self {
            Self::Users { done, .. } | Self::All { done, progress_key: None, .. } => done,
            _ => &[],
        }
    }

    /// The next chunk, `None` when the job is done.
    pub fn next(
        &mut self,
        store: &dyn Store,
        as_of_ms: Option<i64>,
        users_max: usize,
    ) -> Result<Option<Chunk>, EngineError> {
        match self {
            Self::Due => {
                let Some(as_of_ms) = as_of_ms else { return Ok(None) };
                let mut chunk = Chunk::default();
                for pack in store.due_until(as_of_ms, None, DUE_PACKS_MAX)? {
                    if !chunk.due.is_empty() && chunk.due.len() + pack.keys.len() > users_max {
                        break;
                    }
                    chunk.due_done.push(pack.cursor);
                    chunk.due.extend(pack.keys);
                }
                Ok((!chunk.due_done.is_empty()).then_some(chunk))
            }
            Self::Users { keys, done, limit } => {
                if keys.is_empty() && done.is_empty() {
                    return Ok(None);
                }
                // Who names users wants them by the rules; new rows of a table leave a mark.
                let cause = if done.is_empty() { Cause::Rule } else { Cause::Dimension };
                let take = chunk_users(limit.as_ref());
                let named: Vec<UidKey> = keys.drain(..keys.len().min(take)).collect();
                // Named by somebody, but perhaps nobody's: a profile is made by events only.
                let stored = store.profiles(&named)?;
                let known = named.into_iter().zip(stored);
                let known = known.filter_map(|(key, found)| Some((key, found?)));
                // Of a store that is shared others may have them: they do this, too.
                let also: Vec<_> =
                    known.filter(|(key, profile)| store.owns(key, profile)).collect();
                let meta = if keys.is_empty() { std::mem::take(done) } else { Vec::new() };
                Ok(Some(Chunk { users: also.len(), also, meta, cause, ..Chunk::default() }))
            }
            Self::History { side, after, limit, progress } => {
                let take = chunk_users(limit.as_ref());
                super::history::chunk(side, after, progress, take)
            }
            Self::Command(job) => {
                let take = chunk_users(job.limit.as_ref());
                job.next(store, take)
            }
            Self::All { after, name, limit, ended, ahead, progress, progress_key, done } => {
                // Of a store that is shared a scan gives this owner's users, who may be few.
                let is_atomic = store.is_atomic();
                if *ended {
                    return Ok(None);
                }
                let take = chunk_users(limit.as_ref());
                let also = match ahead.take() {
                    Some(ahead) => ahead,
                    None => store.scan_profiles(after.as_ref(), take)?,
                };
                progress.fetch_add(also.len() as u64, std::sync::atomic::Ordering::Relaxed);
                *ended = if is_atomic { also.len() < take } else { also.is_empty() };
                if let Some((last, _)) = also.last() {
                    *after = Some(last.clone());
                }
                let state =
                    if *ended { None } else { after.as_ref().map(|k| k.as_bytes().to_vec()) };
                let mut meta = if *ended { std::mem::take(done) } else { Vec::new() };
                if let Some(key) = progress_key {
                    meta.push(((*key).to_owned(), progress_bytes(*name, state)));
                }
                let is_rule = progress_key.is_some();
                let cause = if is_rule { Cause::Rule } else { Cause::Dimension };
                Ok(Some(Chunk { users: also.len(), also, meta, cause, ..Chunk::default() }))
            }
        }
    }

    /// Reads the next users, if this job goes through all of them.
    pub fn read_ahead(&mut self, store: &dyn Store) -> Result<(), EngineError> {
        if let Self::All { after, limit, ended: false, ahead: ahead @ None, .. } = self {
            let take = chunk_users(limit.as_ref());
            *ahead = Some(store.scan_profiles(after.as_ref(), take)?);
        }
        if let Self::Command(job) = self {
            let take = chunk_users(job.limit.as_ref());
            job.read_ahead(store, take)?;
        }
        Ok(())
    }

    /// Forgets what was read ahead: another job comes first and may write those users.
    pub fn forget_ahead(&mut self) {
        match self {
            Self::All { ahead, .. } => *ahead = None,
            Self::Command(job) => job.forget_ahead(),
            Self::Due | Self::Users { .. } | Self::History { .. } => {}
        }
    }

    /// How long to wait after a chunk.
    pub fn pause_after(&mut self, chunk: &Chunk) -> Duration {
        match self {
            Self::Due => Duration::ZERO,
            Self::Command(job) => {
                job.limit.as_ref().map_or(Duration::ZERO, |l| l.charge(chunk.users))
            }
            Self::Users { limit, .. } | Self::All { limit, .. } | Self::History { limit, .. } => {
                limit.as_ref().map_or(Duration::ZERO, |l| l.charge(chunk.users))
            }
        }
    }
}

fn progress_bytes(name: u64, after: Option<Vec<u8>>) -> Vec<u8> {
    serde_json::to_vec(&(name, after)).expect("numbers and bytes are JSON")
}

/// Progress by which a recompute of everybody begins with the first user.
pub(super) fn from_the_start(name: u64) -> (String, Vec<u8>) {
    (RECOMPUTE_KEY.to_owned(), progress_bytes(name, None))
}

/// Where an interrupted recompute of everyone goes on, whose progress has this key; `None` when
/// there is none of this name.
pub fn interrupted(store: &dyn Store, key: &str, name: u64) -> Result<Option<UidKey>, EngineError> {
    let Some(bytes) = store.meta(key)? else { return Ok(None) };
    let Ok((stored, Some(after))) = serde_json::from_slice::<(u64, Option<Vec<u8>>)>(&bytes) else {
        return Ok(None);
    };
    Ok(if stored == name { UidKey::from_bytes(&after) } else { None })
}
