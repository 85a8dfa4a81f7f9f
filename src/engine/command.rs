//! Commands to all owners of a shared store: what a process that owns nobody wants done to users.
//!
//! In: a command, left in the store. Out: the job by which each owner carries it out for its partitions,
//! between its other windows; for each partition how far it is. Whoever takes a partition over goes on
//! there. Commands are carried out in the order of their numbers.
//!
//! All commands are one small value, which is replaced as a whole, so that numbers are given once and
//! the list has a bound. How far a partition is is another one, which only its owner writes.
//! Invariant: a command changes users at boundaries of windows, through their owner; done again it
//! changes nothing.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::EngineError;
use super::job::{Chunk, Limit};
use super::owned::partitions_of;
use crate::store::{Bytes, Store, UidKey};
use crate::write::publish::outbox::Cause;

/// Key of the commands.
const COMMANDS_KEY: &str = "command/all";

/// Keys of how far partitions are begin with this.
const AT_PREFIX: &str = "command/at/";

/// Commands that are kept, done ones included.
pub const KEPT_MAX: usize = 32;

/// Users that one command may name.
pub const USERS_MAX: usize = 10_000;

/// Bytes of all commands: what fits in a cell of HBase with room to spare.
const BYTES_MAX: usize = 4 << 20;

/// A command that nobody has carried out for so long is void.
pub const AGE_MAX_MS: i64 = 7 * 86_400_000;

/// A command to all owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// 1 is the first.
    pub number: u64,
    /// When it was given, by the clock of who gave it, epoch ms.
    pub made_ms: i64,
    /// What is to be done.
    pub work: Work,
    /// Tells it from another that was given at the same instant.
    mark: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Compute users by the rules that are active.
    Recompute {
        /// Those whose keys are these; none: everybody.
        users: Option<Vec<Vec<u8>>>,
        /// At most so many a second, in each process.
        users_per_s: Option<NonZeroU32>,
    },
}

impl Command {
    /// Whether it is too old to be carried out.
    pub fn is_void(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.made_ms) > AGE_MAX_MS
    }
}

/// All commands of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// The number of the last one.
    last: u64,
    /// Those that are kept, oldest first.
    kept: Vec<Command>,
}

impl Commands {
    /// Those of a store.
    pub fn of(store: &dyn Store) -> Result<Self, EngineError> {
        super::start::read_meta(store, COMMANDS_KEY)
    }

    /// The first that is not done yet by whoever has done all up to a number, and is not void.
    pub fn next(&self, done: u64, now_ms: i64) -> Option<&Command> {
        self.kept.iter().find(|c| c.number > done && !c.is_void(now_ms))
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A command by its number.
    pub fn get(&self, number: u64) -> Option<&Command> {
        self.kept.iter().find(|c| c.number == number)
    }
}

/// A command that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No topic was ever read into the store.
    #[error(
        "no process has read topics into this store yet: there is nobody whom a command could reach"
    )]
    NoPartitions,
    /// There are too many.
    #[error(
        "{KEPT_MAX} commands wait to be carried out: see that processes of the group run (`/readyz`), \
         or wait until these are a week old"
    )]
    TooMany,
    /// It names too many users.
    #[error(
        "{users} users are named, at most {USERS_MAX}: split the file, or compute everybody \
         (`tagloom backfill`)"
    )]
    TooManyUsers {
        /// How many.
        users: usize,
    },
    /// They would take too much room.
    #[error(
        "the users that waiting commands name take {bytes} bytes, at most {BYTES_MAX}: wait until \
         these commands are done, or name fewer"
    )]
    TooLarge {
        /// How much.
        bytes: usize,
    },
}

impl From<crate::store::StoreError> for CommandError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Engine(error.into())
    }
}

/// Leaves a command for all owners; gives its number. One that waits, or is under way, and says the same
/// is taken for it.
pub fn give(store: &dyn Store, work: Work, now_ms: i64) -> Result<u64, CommandError> {
    let Work::Recompute { users, .. } = &work;
    if let Some(users) = users.as_ref().map(Vec::len).filter(|users| *users > USERS_MAX) {
        return Err(CommandError::TooManyUsers { users });
    }
    loop {
        let before = store.meta(COMMANDS_KEY)?;
        let mut commands = Commands::of(store)?;
        let done = Progress::of(store)?.done();
        if partitions_of(store)? == 0 {
            return Err(CommandError::NoPartitions);
        }
        let waits = |c: &&Command| c.number > done && !c.is_void(now_ms);
        if let Some(same) = commands.kept.iter().filter(waits).find(|c| c.work == work) {
            return Ok(same.number);
        }
        if commands.kept.iter().filter(waits).count() >= KEPT_MAX {
            return Err(CommandError::TooMany);
        }
        for command in commands.kept.iter_mut().filter(|c| !waits(&&**c)) {
            // Their number says enough.
            let Work::Recompute { users, .. } = &mut command.work;
            *users = users.take().map(|_| Vec::new());
        }
        while commands.kept.len() >= KEPT_MAX {
            commands.kept.remove(0);
        }
        commands.last += 1;
        let number = commands.last;
        let mark = rand::random();
        commands.kept.push(Command { number, made_ms: now_ms, work: work.clone(), mark });
        let bytes = json(&commands);
        if bytes.len() > BYTES_MAX {
            return Err(CommandError::TooLarge { bytes: bytes.len() });
        }
        if store.replace_meta(COMMANDS_KEY, before.as_deref(), bytes)? {
            return Ok(number);
        }
    }
}

/// How far one partition is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// All up to this one are done.
    pub done: u64,
    /// The one that is under way; 0: none.
    #[serde(default)]
    pub number: u64,
    /// The last user who was handed out; none: nobody was.
    #[serde(default)]
    after: Option<Vec<u8>>,
    /// Users who were computed for it. The least partition of an owner says it for all of them.
    #[serde(default)]
    pub users: u64,
}

fn at_key(partition: u32) -> String {
    format!("{AT_PREFIX}{partition:05}")
}

/// How far all partitions are.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    partitions: Vec<At>,
}

impl Progress {
    /// Of a store.
    pub fn of(store: &dyn Store) -> Result<Self, EngineError> {
        let partitions = usize::try_from(partitions_of(store)?).unwrap_or(usize::MAX);
        let mut all = vec![At::default(); partitions];
        for (key, bytes) in store.scan_meta(AT_PREFIX)? {
            let at = key[AT_PREFIX.len()..].parse().ok().and_then(|p: usize| all.get_mut(p));
            if let Some(at) = at {
                *at = parse(&key, &bytes)?;
            }
        }
        Ok(Self { partitions: all })
    }

    /// The number up to which all partitions have done all.
    pub fn done(&self) -> u64 {
        self.partitions.iter().map(|at| at.done).min().unwrap_or(0)
    }

    /// Of a command: partitions that are done with it, of how many, and users who were computed for it.
    pub fn of_command(&self, number: u64) -> (usize, usize, u64) {
        let done = self.partitions.iter().filter(|at| at.done >= number).count();
        let users = self.partitions.iter().filter(|at| at.number == number).map(|at| at.users);
        (done, self.partitions.len(), users.sum())
    }
}

/// What the owner of some partitions has to know of commands.
#[derive(Debug, Clone)]
pub struct OwnCommands {
    partitions: Vec<u32>,
    at: Vec<At>,
}

impl OwnCommands {
    /// As the owners before have left it.
    pub fn open(store: &dyn Store, partitions: &[u32]) -> Result<Self, EngineError> {
        let mut partitions = partitions.to_vec();
        partitions.sort_unstable();
        let at = |partition: &u32| super::start::read_meta(store, &at_key(*partition));
        let at = partitions.iter().map(at).collect::<Result<_, _>>()?;
        Ok(Self { partitions, at })
    }

    /// Up to which number all of them have done all.
    pub fn done(&self) -> u64 {
        self.at.iter().map(|at| at.done).min().unwrap_or(0)
    }

    /// Where a command is gone on with: behind this user, after so many were computed. Partitions that
    /// are at different places begin anew.
    pub fn begin(&mut self, number: u64) -> (Option<UidKey>, u64) {
        let mut left = self.at.iter().filter(|at| at.done < number);
        let first = left.next().filter(|at| at.number == number).and_then(|at| at.after.clone());
        let is_same = left.all(|at| at.number == number && at.after == first);
        let after = first.filter(|_| is_same).as_deref().and_then(UidKey::from_bytes);
        let of_it = self.at.iter().filter(|at| at.number == number);
        let users = if after.is_some() { of_it.map(|at| at.users).sum() } else { 0 };
        (after, users)
    }

    /// What a window writes that has computed a command's users up to this one; none: up to the last.
    /// `users`: so many so far.
    pub fn note(
        &mut self,
        number: u64,
        after: Option<&UidKey>,
        users: u64,
    ) -> Vec<(String, Vec<u8>)> {
        let own = self.partitions.iter().zip(&mut self.at);
        let note = |(nth, (partition, at)): (usize, (&u32, &mut At))| {
            let done = if after.is_none() { at.done.max(number) } else { at.done };
            let users = if nth == 0 { users } else { 0 };
            *at = At { done, number, after: after.map(|key| key.as_bytes().to_vec()), users };
            (at_key(*partition), json(at))
        };
        own.enumerate().map(note).collect()
    }
}

/// A command as a job of one owner.
#[derive(Debug)]
pub struct CommandJob {
    number: u64,
    own: OwnCommands,
    /// Users who were named and are left; none: everybody.
    named: Option<VecDeque<UidKey>>,
    after: Option<UidKey>,
    users: u64,
    pub(super) limit: Option<Limit>,
    ended: bool,
    /// The next users, read while those before them are computed.
    ahead: Option<Vec<(UidKey, Bytes)>>,
}

impl CommandJob {
    /// Begins, or goes on where owners before have left it.
    pub fn new(command: &Command, mut own: OwnCommands) -> Self {
        let Work::Recompute { users, users_per_s } = &command.work;
        let (after, so_far) = own.begin(command.number);
        let keys = users.as_ref().map(|users| users.iter().filter_map(|u| UidKey::from_bytes(u)));
        Self {
            number: command.number,
            own,
            named: keys.map(Iterator::collect),
            after,
            users: so_far,
            limit: users_per_s.map(Limit::new),
            ended: false,
            ahead: None,
        }
    }

    /// Up to `take` users, and how far the job is with them; none: it is done.
    pub(super) fn next(
        &mut self,
        store: &dyn Store,
        take: usize,
    ) -> Result<Option<Chunk>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let also: Vec<(UidKey, Bytes)> = match &mut self.named {
            Some(named) => {
                let keys: Vec<UidKey> = named.drain(..named.len().min(take)).collect();
                self.ended = named.is_empty();
                let stored = store.profiles(&keys)?;
                let known = keys.into_iter().zip(stored);
                let known = known.filter_map(|(key, found)| Some((key, found?)));
                known.filter(|(key, profile)| store.owns(key, profile)).collect()
            }
            None => {
                let also = match self.ahead.take() {
                    Some(ahead) => ahead,
                    None => store.scan_profiles(self.after.as_ref(), take)?,
                };
                self.ended = also.is_empty();
                if let Some((last, _)) = also.last() {
                    self.after = Some(last.clone());
                }
                also
            }
        };
        self.users += also.len() as u64;
        let meta = match (&self.named, self.ended) {
            (_, true) => self.own.note(self.number, None, self.users),
            // Those who were named are few: an interrupted command begins with the first again.
            (Some(_), false) => Vec::new(),
            (None, false) => self.own.note(self.number, self.after.as_ref(), self.users),
        };
        if self.ended {
            tracing::info!(command = self.number, users = self.users, "a command was carried out");
        }
        let cause = Cause::Rule;
        Ok(Some(Chunk { users: also.len(), also, meta, cause, ..Chunk::default() }))
    }

    /// Reads the next users of everybody.
    pub(super) fn read_ahead(&mut self, store: &dyn Store, take: usize) -> Result<(), EngineError> {
        if self.named.is_none() && !self.ended && self.ahead.is_none() {
            self.ahead = Some(store.scan_profiles(self.after.as_ref(), take)?);
        }
        Ok(())
    }

    /// Forgets what was read ahead.
    pub(super) fn forget_ahead(&mut self) {
        self.ahead = None;
    }
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes)
        .map_err(|e| EngineError::Meta { key: key.to_owned(), reason: e.to_string() })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values are JSON")
}
