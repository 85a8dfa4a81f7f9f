//! Threads that make calls: each owns one connection.
//!
//! ```text
//! callers ──queue (queue_max)──► connections × thread ──► gateway
//!    ▲                                 │ retries until the deadline
//!    └────────── one answer a call ────┘
//! ```
//!
//! In: calls on the generated client. Out: their answers, or why they were given up.
//! Invariant: nobody waits beyond a call's deadline by more than one attempt.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::breaker::{Breaker, Leave};
use super::failure::Failure;
use super::options::{HbaseOptions, IDLE_MAX};
use super::transport::{Client, Connection};
use crate::clock::{Deadline, Stopwatch};
use crate::telemetry::names;

/// Waits between attempts: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// One attempt of a call. True: it is done, its answer is sent.
type Attempt = Box<dyn FnMut(&mut Client) -> Result<(), Failure> + Send>;

struct Work {
    call: &'static str,
    deadline: Deadline,
    leave: Leave,
    attempt: Attempt,
    /// Told when the call is given up.
    failed: SyncSender<Failure>,
}

/// What all threads share.
struct Shared {
    options: HbaseOptions,
    gateways: Vec<String>,
    breaker: Breaker,
    queue: Mutex<Queue>,
    /// Work has come, or the pool is closing.
    pushed: Condvar,
    /// There is room in the queue.
    popped: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    closing: bool,
}

/// See the module.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// An answer that will come.
pub(super) struct Pending<T> {
    answer: Receiver<T>,
    failed: Receiver<Failure>,
    deadline: Deadline,
    grace: Duration,
}

impl<T> Pending<T> {
    /// Waits for it.
    pub(super) fn wait(self) -> Result<T, Failure> {
        // A thread that is gone answers by dropping both ends.
        match self.answer.recv_timeout(self.deadline.left() + self.grace) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => {
                Err(self.failed.try_recv().unwrap_or_else(|_| {
                    Failure::Connection("the thread that made the call is gone".to_owned())
                }))
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(Failure::Connection("no connection came free in time".to_owned()))
            }
        }
    }
}

impl Pool {
    /// Starts the threads; they connect when there is something to do.
    pub(super) fn start(options: &HbaseOptions) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            options: options.clone(),
            gateways: options.gateway_list().into_iter().map(str::to_owned).collect(),
            breaker: Breaker::default(),
            queue: Mutex::default(),
            pushed: Condvar::new(),
            popped: Condvar::new(),
        });
        names::STORE_AVAILABLE.gauge(&[]).set(1.0);
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..options.connections {
            let shared = Arc::clone(&pool.shared);
            let name = format!("hbase-{number}");
            let mut worker = Worker { shared, gateway: number, connection: None };
            let thread = std::thread::Builder::new().name(name).spawn(move || worker.run())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hands a call to the threads. It may be made several times until one attempt succeeds.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        call: &'static str,
        mut make: impl FnMut(&mut Client) -> thrift::Result<T> + Send + 'static,
    ) -> Result<Pending<T>, Failure> {
        let deadline = Deadline::after(self.shared.options.deadline());
        let leave = self.shared.breaker.admit(deadline).map_err(Failure::Connection)?;
        let (answered, answer) = sync_channel(1);
        let (failed, failure) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        let attempt: Attempt = Box::new(move |client| {
            let value = make(client).map_err(|error| Failure::of(&error))?;
            // Before the answer: whoever has it finds the circuit closed.
            shared.breaker.succeeded();
            // Nobody may be waiting any more.
            answered.try_send(value).ok();
            Ok(())
        });
        let work = Work { call, deadline, leave, attempt, failed };
        if let Err(failure) = self.shared.push(work) {
            self.shared.breaker.gave_up(leave, failure.reason());
            return Err(failure);
        }
        let grace = Duration::from_millis(self.shared.options.call_timeout_ms);
        Ok(Pending { answer, failed: failure, deadline, grace: grace + BACKOFF_MAX })
    }

    /// Why calls are refused just now; none: they are not.
    pub(super) fn outage(&self) -> Option<String> {
        self.shared.breaker.outage()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closing = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.pushed.notify_all();
        self.shared.popped.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has told whoever waited by dropping its answer.
            thread.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateways in turn; the options name at least one.
    fn gateway(&self, number: usize) -> &str {
        let at = number % self.gateways.len().max(1);
        self.gateways.get(at).map_or("", String::as_str)
    }

    fn push(&self, work: Work) -> Result<(), Failure> {
        let mut queue = self.lock();
        while queue.waiting.len() >= self.options.queue_max {
            let left = work.deadline.left();
            if left.is_zero() || queue.closing {
                return Err(Failure::Connection(
                    "all connections are busy (store.hbase.connections)".to_owned(),
                ));
            }
            queue = self.popped.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.push_back(work);
        names::STORE_QUEUE_CALLS.gauge(&[]).set(gauge(queue.waiting.len()));
        drop(queue);
        self.pushed.notify_one();
        Ok(())
    }

    /// The next call; none within `wait`, or the pool is closing.
    fn pop(&self, wait: Duration) -> Option<Work> {
        let until = Deadline::after(wait);
        let mut queue = self.lock();
        loop {
            if let Some(work) = queue.waiting.pop_front() {
                names::STORE_QUEUE_CALLS.gauge(&[]).set(gauge(queue.waiting.len()));
                self.popped.notify_one();
                return Some(work);
            }
            let left = until.left();
            if left.is_zero() || queue.closing {
                return None;
            }
            queue = self.pushed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// Waits, unless the pool closes.
    fn pause(&self, wait: Duration) {
        let until = Deadline::after(wait);
        let mut queue = self.lock();
        while !queue.closing && !until.is_over() {
            let left = until.left();
            queue = self.pushed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of queues are far below 2^52")]
fn gauge(len: usize) -> f64 {
    len as f64
}

struct Worker {
    shared: Arc<Shared>,
    /// Which of the gateways is asked; those before it failed.
    gateway: usize,
    connection: Option<Connection>,
}

impl Worker {
    fn run(&mut self) {
        while !self.shared.is_closing() {
            let left = self.connection.as_ref().map(|c| IDLE_MAX.saturating_sub(c.idle()));
            match self.shared.pop(left.unwrap_or(IDLE_MAX)) {
                Some(work) => self.serve(work),
                None => self.connection = None,
            }
        }
    }

    /// Tries until it is done, refused, or given up.
    fn serve(&mut self, mut work: Work) {
        let took = Stopwatch::start();
        let mut backoff = BACKOFF_MIN;
        let outcome = loop {
            let failure = match self.attempt(&mut work) {
                Ok(()) => break "ok",
                Err(failure) => failure,
            };
            count(work.call, failure.outcome());
            if matches!(failure, Failure::Refused(_) | Failure::NoTable(_) | Failure::Exists) {
                // HBase answered: whatever is wrong with the call, the store is there.
                self.shared.breaker.succeeded();
                work.failed.try_send(failure).ok();
                break "refused";
            }
            tracing::debug!(call = work.call, reason = failure.reason(), "trying again");
            // A probe has one attempt: others are waiting for it. And when somebody else has given
            // up, nobody goes on.
            let given_up = work.deadline.left() <= backoff
                || work.leave == Leave::Probe
                || self.shared.breaker.outage().is_some()
                || self.shared.is_closing();
            if given_up {
                self.shared.breaker.gave_up(work.leave, failure.reason());
                work.failed.try_send(failure).ok();
                break "given-up";
            }
            self.shared.pause(backoff.mul_f64(rand::random_range(0.5..1.0)));
            backoff = (backoff * 2).min(BACKOFF_MAX);
        };
        if outcome != "refused" {
            count(work.call, outcome);
        }
        names::HBASE_SECONDS.histogram(&[work.call, outcome]).record(took.elapsed());
    }

    fn attempt(&mut self, work: &mut Work) -> Result<(), Failure> {
        let options = &self.shared.options;
        let left = work.deadline.left();
        let mut connection = match self.connection.take().filter(|c| c.idle() < IDLE_MAX) {
            Some(connection) => connection,
            None => {
                let gateway = self.shared.gateway(self.gateway);
                let timeout = Duration::from_millis(options.connect_timeout_ms);
                let opened = Connection::open(gateway, timeout.min(left.max(BACKOFF_MIN)));
                opened.map_err(|error| {
                    self.gateway += 1;
                    Failure::Connection(format!("{gateway}: {error}"))
                })?
            }
        };
        let timeout = Duration::from_millis(options.call_timeout_ms).min(left);
        let ready = connection.set_timeout(timeout).map_err(|e| Failure::Connection(e.to_string()));
        // What is no Thrift at all may name lengths that no memory holds: the client panics.
        let made = ready.and_then(|()| {
            let made = std::panic::AssertUnwindSafe(|| (work.attempt)(&mut connection.client));
            std::panic::catch_unwind(made)
                .unwrap_or_else(|_| Err(Failure::Connection("the answer is no Thrift".to_owned())))
        });
        if let Err(Failure::Connection(reason)) = made {
            let gateway = self.shared.gateway(self.gateway);
            self.gateway += 1;
            return Err(Failure::Connection(format!("{gateway}: {reason}")));
        }
        self.connection = Some(connection);
        made
    }
}

/// Attempts and outcomes by call.
fn count(call: &'static str, outcome: &'static str) {
    names::HBASE_CALLS.counter(&[call, outcome]).increment(1);
}
