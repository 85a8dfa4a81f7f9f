//! The virtual actor (a struct in a shard's table) against a real actix actor per user: time a
//! message, and bytes a user.
//!
//! cargo bench --bench actor

#![expect(clippy::disallowed_methods, reason = "a bench: do_send is what is measured")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, Addr, Context, Handler, Message};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tagloom::event::block::uid_hash;
use tagloom::shard::users::UserTable;
use tagloom::store::Uid;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "counts what the system allocator is asked for, and passes it on")]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USERS: u64 = 50_000;

#[derive(Message)]
#[rtype(result = "()")]
struct Event(u64);

struct RealUser {
    events: u64,
}

impl Actor for RealUser {
    type Context = Context<Self>;
}

impl Handler<Event> for RealUser {
    type Result = ();

    fn handle(&mut self, event: Event, _: &mut Self::Context) {
        self.events += event.0;
    }
}

fn virtual_actor(c: &mut Criterion) {
    let before = LIVE.load(Ordering::Relaxed);
    let mut table = UserTable::new(0);
    for uid in 0..USERS {
        table.insert(uid_hash(uid), Uid::U64(uid));
    }
    let bytes = LIVE.load(Ordering::Relaxed) - before;
    eprintln!("virtual actor: {} bytes a user without events", bytes as u64 / USERS);
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(USERS));
    group.bench_function("virtual actor", |b| {
        b.iter(|| {
            for n in 0..USERS {
                let uid = n * 7919 % USERS;
                if let Some(slot) = table.find_number(uid_hash(uid), uid) {
                    table.get_mut(slot).version += black_box(1);
                }
            }
        });
    });
    group.finish();
}

fn real_actor(c: &mut Criterion) {
    let system = actix::System::new();
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(USERS));
    let before = LIVE.load(Ordering::Relaxed);
    let users: Vec<Addr<RealUser>> =
        system.block_on(async { (0..USERS).map(|_| RealUser { events: 0 }.start()).collect() });
    let bytes = LIVE.load(Ordering::Relaxed) - before;
    eprintln!("actix actor: {} bytes a user without state", bytes as u64 / USERS);
    group.bench_function("actix actor", |b| {
        b.iter(|| {
            system.block_on(async {
                for n in 0..USERS {
                    users[(n * 7919 % USERS) as usize].do_send(Event(black_box(1)));
                }
                // One round trip behind all messages of the last user: the others are done by then.
                users[0].send(Event(0)).await.ok();
            });
        });
    });
    group.finish();
}

criterion_group!(benches, virtual_actor, real_actor);
criterion_main!(benches);
