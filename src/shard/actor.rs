//! The shard as an actor: a thin shell around [`Shard`].
//!
//! In: rows, window closes, word that a window is stored. Out: computed windows to the writer.
//! Invariant: decides nothing; a failure stops the engine with its reason. While the shard is full
//! it keeps the credits of what it folds, so that sources wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, Context, Handler, Message, Recipient};

use super::fence::At;
use super::{Shard, ShardWindow, WindowClose};
use crate::engine::credits::Credit;
use crate::engine::ruleset::Ruleset;
use crate::engine::status::Status;
use crate::event::block::ShardRows;
use crate::write::profile::Schemas;

/// Events of one stream for this shard. The credit is given back when they are folded.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Rows {
    /// Stream index.
    pub stream: u8,
    /// The events.
    pub part: ShardRows,
    /// The partition of a topic that they were read from.
    pub at: Option<At>,
    /// Bounds what is under way.
    pub credit: Arc<Credit>,
}

/// Close a window.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Close(pub WindowClose);

/// The window that was closed last is stored.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WindowStored;

/// All profiles are to be in the store, as far as they were computed. Gives the bytes of those that
/// were packed for it.
#[derive(Message)]
#[rtype(result = "u64")]
pub struct PackEverybody;

/// Go on with another catalogue.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Swap {
    /// What is active from now on.
    pub ruleset: Arc<Ruleset>,
    /// Schemas of stored profiles, resolved against it.
    pub schemas: Arc<Schemas>,
}

/// A shard's part of a window.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Part(pub ShardWindow);

/// Hosts a shard on an Arbiter of its own.
pub struct ShardActor {
    shard: Shard,
    writer: Recipient<Part>,
    status: Arc<Status>,
    index: usize,
    mailbox_messages_max: usize,
    /// Credits kept back: of no more batches than may be under way.
    kept: Vec<Arc<Credit>>,
}

impl ShardActor {
    /// A shell around a shard.
    pub fn new(
        index: usize,
        shard: Shard,
        writer: Recipient<Part>,
        status: Arc<Status>,
        mailbox_messages_max: usize,
    ) -> Self {
        Self { shard, writer, status, index, mailbox_messages_max, kept: Vec::new() }
    }

    fn note(&mut self) {
        let status = &self.status.shards[self.index];
        status.dirty_users.store(self.shard.dirty_users(), Ordering::Relaxed);
        status.wants_window.store(self.shard.wants_window(), Ordering::Relaxed);
        status.has_passivated.store(self.shard.has_passivated(), Ordering::Relaxed);
        if !self.shard.is_full() {
            self.kept.clear();
        }
    }
}

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_messages_max);
    }
}

impl Handler<Rows> for ShardActor {
    type Result = ();

    fn handle(&mut self, rows: Rows, _: &mut Self::Context) {
        if let Err(error) = self.shard.fold(rows.stream, &rows.part, rows.at) {
            self.status.fail(error.into());
        }
        self.kept.push(rows.credit);
        self.note();
    }
}

impl Handler<Swap> for ShardActor {
    type Result = ();

    fn handle(&mut self, swap: Swap, _: &mut Self::Context) {
        let users = self.shard.swap(swap.ruleset, swap.schemas);
        // Millions of states take longer to be freed than a window may wait.
        let freeing = std::thread::Builder::new().name("freeing users".to_owned());
        if let Err(error) = freeing.spawn(move || drop(users)) {
            tracing::warn!(%error, "users of the old catalogue were freed by their shard");
        }
        self.note();
    }
}

impl Handler<Close> for ShardActor {
    type Result = ();

    fn handle(&mut self, close: Close, _: &mut Self::Context) {
        match self.shard.close(&close.0) {
            Ok(window) => {
                if self.writer.try_send(Part(window)).is_err() {
                    self.status.fail(crate::engine::EngineError::ActorGone("writer"));
                }
            }
            Err(error) => self.status.fail(error.into()),
        }
        self.note();
    }
}

impl Handler<WindowStored> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: WindowStored, _: &mut Self::Context) {
        if let Err(error) = self.shard.stored() {
            self.status.fail(error.into());
        }
        self.note();
    }
}

impl Handler<PackEverybody> for ShardActor {
    type Result = u64;

    fn handle(&mut self, _: PackEverybody, _: &mut Self::Context) -> u64 {
        self.shard.pack_everybody().unwrap_or_else(|error| {
            self.status.fail(error.into());
            0
        })
    }
}
