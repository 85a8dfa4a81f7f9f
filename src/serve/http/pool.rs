//! Threads that may wait for the store, so that those that speak HTTP need not.
//!
//! In: work. Out: its result, to whoever awaits it. The queue is bounded: beyond it work is refused at
//! once. Invariant: work whose asker has gone is not begun; a panic costs one answer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::problem::{Problem, Type};

type Work = Box<dyn FnOnce() + Send>;

struct Queue {
    work: Mutex<(VecDeque<Work>, bool)>,
    came: Condvar,
    waiting_max: usize,
}

/// Threads with a bounded queue.
pub(super) struct Pool {
    queue: Arc<Queue>,
}

impl Pool {
    /// Starts threads.
    pub(super) fn start(threads: usize, waiting_max: usize) -> std::io::Result<Self> {
        let work = Mutex::new((VecDeque::new(), false));
        let queue = Arc::new(Queue { work, came: Condvar::new(), waiting_max });
        let pool = Self { queue: Arc::clone(&queue) };
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("http read".to_owned()).spawn(move || queue.run())?;
        }
        Ok(pool)
    }

    /// Does work on a thread of the pool.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, done) = oneshot::channel();
        self.queue.put(Box::new(move || {
            if reply.is_closed() {
                return;
            }
            // Who has left meanwhile needs no answer.
            drop(reply.send(work()));
        }))?;
        done.await.map_err(|_| {
            Problem::new(Type::Internal, "this read panicked: see the log; please report it")
        })
    }

    /// Work that waits, and its bound.
    pub(super) fn fullness(&self) -> (usize, usize) {
        let waiting = self.queue.work.lock().unwrap_or_else(PoisonError::into_inner).0.len();
        (waiting, self.queue.waiting_max)
    }
}

impl Queue {
    fn put(&self, work: Work) -> Result<(), Problem> {
        let mut queue = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.0.len() >= self.waiting_max {
            return Err(Problem::new(
                Type::Overloaded,
                format!(
                    "{} requests wait for the store (serve.reads_waiting_max); try again in a \
                     second, or ask for many users by POST /v1/users:batchGet",
                    self.waiting_max
                ),
            ));
        }
        queue.0.push_back(work);
        drop(queue);
        self.came.notify_one();
        Ok(())
    }

    fn run(&self) {
        loop {
            let queue = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.came.wait_while(queue, |(work, ended)| work.is_empty() && !*ended);
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(work) = queue.0.pop_front() else { return };
            drop(queue);
            // It has been printed; the asker's end of the reply tells it.
            drop(catch_unwind(AssertUnwindSafe(work)));
        }
    }
}

impl Drop for Pool {
    /// Its threads end when they have nothing to do. Nobody waits for them: one may wait for a store
    /// that does not answer.
    fn drop(&mut self) {
        self.queue.work.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.queue.came.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn work_beyond_the_bound_is_refused_and_a_panic_costs_one_answer() {
        let pool = Pool::start(1, 1).expect("one thread");
        assert_eq!(pool.run(|| 7).await, Ok(7));
        let panicked = pool
            .run(|| {
                if pool_is_odd() {
                    panic!("odd")
                }
            })
            .await;
        assert_eq!(panicked.expect_err("it panicked").status, 500);
        let (begun, has_begun) = oneshot::channel();
        let (go_on, goes_on) = std::sync::mpsc::sync_channel::<()>(1);
        let slow = pool.run(move || {
            begun.send(()).expect("the test waits");
            goes_on.recv().expect("the test goes on");
        });
        let second = async {
            has_begun.await.expect("it has begun");
            let (waits, refused) = futures(&pool).await;
            go_on.send(()).expect("it waits");
            assert_eq!(refused.expect_err("no room").status, 503);
            waits.await
        };
        let (slow, waiting) = tokio::join!(slow, second);
        assert_eq!(slow, Ok(()));
        assert_eq!(waiting, Ok(1), "not refused");
    }

    fn pool_is_odd() -> bool {
        std::hint::black_box(true)
    }

    /// One that waits, and one for which there is no room.
    async fn futures(pool: &Pool) -> (oneshot::Receiver<i32>, Result<i32, Problem>) {
        let (reply, waits) = oneshot::channel();
        let work = move || reply.send(1).expect("the test waits");
        pool.queue.put(Box::new(work)).expect("room for one");
        assert_eq!(pool.fullness(), (1, 1));
        (waits, pool.run(|| 2).await)
    }
}
