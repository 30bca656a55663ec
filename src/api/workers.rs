//! Threads for reads that parse documents: listings with a filter or a sort, diffs, histories, texts as they were.
//!
//! Such a read costs some milliseconds for each megabyte. Few of them run at once, so that the node's task keeps a core. Clients
//! take turns: of a client that asks a hundred times, the last read waits for the other ninety-nine, and those of other clients
//! do not.

use std::{
    collections::VecDeque,
    mem,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
};

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{Problem, error::RETRY_AFTER, rates::Caller};
use crate::{
    document::{PastViews, Replays},
    node::Stopped,
};

/// Reads that wait for their turn, of all clients together and of one.
const WAITING_MAX: usize = 1_024;
const WAITING_EACH_MAX: usize = 128;
/// The longest input of a client that is parsed at once, in bytes: that takes some milliseconds, whatever it is.
const SHORT_BYTES: usize = 64 << 10;
/// Bytes of documents that one turn parses: some ten milliseconds. A read of more takes several turns.
pub const TURN_BYTES: usize = 1 << 20;

/// The threads, and who waits for them. A clone is the same.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    /// Threads on which nothing runs. While there is one, nobody waits.
    free: usize,
    waiting: usize,
    /// By client, the reads that wait. The client at the front is next; then it goes to the end.
    clients: VecDeque<(Caller, VecDeque<oneshot::Sender<Turn>>)>,
}

/// The rule for work that arrives where too much waits: refused, or not. A request has at most one piece of work that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Bounded,
    Unbounded,
}

/// The use of one thread; it passes to the next read when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Workers);

impl Default for Workers {
    /// One thread for each two cores, and at least one.
    fn default() -> Workers {
        Workers::new(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)))
    }
}

impl Workers {
    /// So many threads.
    pub(super) fn new(threads: usize) -> Workers {
        Workers(Arc::new(Mutex::new(Queue { free: threads, waiting: 0, clients: VecDeque::new() })))
    }

    /// Does what a client asks for on one of the threads, when it is this client's turn. If the client goes before, it is not done.
    /// Refused with 503 `overloaded` if too many reads wait.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_in(Line::Bounded, caller, work).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        line: Line,
        caller: &Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.turn(line, caller).await?;
        Ok(turn.run(work).await?.1)
    }

    /// The use of a thread, for what must first lock what it works on. Refused with 503 `overloaded` if too many reads wait.
    pub(super) async fn thread(&self, caller: &Caller) -> Result<Turn, Problem> {
        self.turn(Line::Bounded, caller).await
    }

    /// Reads what a client sent: at once if it is short, else when it is the client's turn.
    pub async fn parse<T: Send + 'static>(
        &self,
        caller: &Caller,
        sent: Bytes,
        read: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        if sent.len() <= SHORT_BYTES { Ok(read(&sent)) } else { self.run(caller, move || read(&sent)).await }
    }

    /// Works documents out as they were, until all are done or their texts have so many bytes. Small ones take no turn.
    pub async fn replay(&self, caller: &Caller, mut replays: Replays, bytes_max: usize) -> Result<Replays, Problem> {
        if replays.are_small() {
            replays.advance();
        }
        while !replays.are_done() && replays.bytes() < bytes_max {
            let turn = move || {
                replays.advance();
                replays
            };
            replays = self.run(caller, turn).await?;
        }
        Ok(replays)
    }

    /// The same for documents at a time.
    pub async fn work_out(
        &self,
        caller: &Caller,
        mut views: PastViews,
        bytes_max: usize,
    ) -> Result<PastViews, Problem> {
        views.replays = self.replay(caller, mem::take(&mut views.replays), bytes_max).await?;
        Ok(views)
    }

    /// Works all documents out, for the answer to a write that stands: it is given however many wait.
    pub async fn replay_all(&self, caller: &Caller, mut replays: Replays) -> Result<Replays, Problem> {
        if replays.are_small() {
            replays.advance();
        }
        while !replays.are_done() {
            let turn = move || {
                replays.advance();
                replays
            };
            replays = self.run_in(Line::Unbounded, caller, turn).await?;
        }
        Ok(replays)
    }

    async fn turn(&self, line: Line, caller: &Caller) -> Result<Turn, Problem> {
        let turn = {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                return Ok(Turn(self.clone()));
            }
            queue.enter(line, caller)?
        };
        Ok(turn.await.expect("a turn is passed on and never lost"))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn enter(&mut self, line: Line, caller: &Caller) -> Result<oneshot::Receiver<Turn>, Problem> {
        let at = self.clients.iter().position(|(client, _)| client == caller);
        let at = at.unwrap_or_else(|| {
            self.clients.push_back((caller.clone(), VecDeque::new()));
            self.clients.len() - 1
        });
        let (_, reads) = &mut self.clients[at];
        let before = reads.len();
        reads.retain(|read| !read.is_closed());
        self.waiting -= before - reads.len();
        if line == Line::Bounded && (reads.len() >= WAITING_EACH_MAX || self.waiting >= WAITING_MAX) {
            if reads.is_empty() {
                self.clients.remove(at);
            }
            return Err(overloaded());
        }
        let (read, turn) = oneshot::channel();
        reads.push_back(read);
        self.waiting += 1;
        Ok(turn)
    }

    /// The read whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some((client, mut reads)) = self.clients.pop_front() {
            let next = reads.pop_front();
            self.waiting -= usize::from(next.is_some());
            if !reads.is_empty() {
                self.clients.push_back((client, reads));
            }
            if let Some(next) = next.filter(|next| !next.is_closed()) {
                return Some(next);
            }
        }
        self.free += 1;
        None
    }
}

impl Turn {
    /// Does work on the thread. If the client goes before, it is done all the same, and the thread is free after it.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(Turn, T), Problem> {
        let done = spawn_blocking(move || {
            let value = work();
            (self, value)
        });
        done.await.map_err(|failed| match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends.
            Err(_) => Stopped.into(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.queue().next();
        if let Some(next) = next {
            // If its client has gone in this moment, the turn comes back, and is dropped again.
            drop(next.send(Turn(self.0.clone())));
        }
    }
}

fn overloaded() -> Problem {
    let detail = format!(
        "reads that parse documents (a filter, a sort, a diff, a history, a time past) and bodies over {SHORT_BYTES} bytes take \
         turns, and {WAITING_EACH_MAX} of this client wait already, or {WAITING_MAX} of all: wait for some answers, or ask \
         another node of the pool"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).with(RETRY_AFTER, 1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::api::access::Principal;

    fn client(name: &str) -> Caller {
        Caller::Token(Principal::named(name))
    }

    /// One thread on which a read of somebody runs until the returned end is dropped.
    async fn busy() -> (Workers, mpsc::Sender<()>) {
        let workers = Workers::new(1);
        let (end, ended) = mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let (running, turn) = (workers.clone(), client("somebody"));
        tokio::spawn(async move {
            let work = move || {
                began.send(()).expect("it is waited for");
                let _ = ended.recv();
            };
            running.run(&turn, work).await.expect("there is a thread");
        });
        begun.await.expect("it runs");
        (workers, end)
    }

    #[tokio::test]
    async fn clients_take_turns_however_much_one_of_them_asks_for() {
        let (workers, end) = busy().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut reads = Vec::new();
        for name in ["ada", "ada", "ada", "ben"] {
            let (workers, order) = (workers.clone(), Arc::clone(&order));
            reads.push(tokio::spawn(async move {
                workers.run(&client(name), move || order.lock().unwrap().push(name)).await.expect("there is room");
            }));
            tokio::task::yield_now().await;
        }
        drop(end);
        for read in reads {
            read.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["ada", "ben", "ada", "ada"]);
        let queue = workers.queue();
        assert_eq!((queue.free, queue.waiting, queue.clients.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_client_that_asks_for_too_much_is_refused_and_another_is_not() {
        let (workers, end) = busy().await;
        let ask = |name: &str| workers.queue().enter(Line::Bounded, &client(name));
        let waiting: Vec<_> = (0..WAITING_EACH_MAX).map(|_| ask("ada").expect("there is room")).collect();
        assert!(ask("ada").is_err());
        let other = ask("ben").expect("there is room for another");
        drop(workers.queue().enter(Line::Unbounded, &client("ada")).expect("an answer to a write is not refused"));
        // Whoever has gone takes no room, and no turn.
        drop(waiting);
        drop(ask("ada").expect("there is room again"));
        drop(end);
        drop(other.await.expect("it comes to its turn"));
        let queue = workers.queue();
        assert_eq!((queue.free, queue.waiting), (1, 0));
    }

    #[tokio::test]
    async fn what_is_long_is_read_on_a_thread_and_what_is_short_at_once() {
        let (workers, end) = busy().await;
        let length = |sent: &[u8]| sent.len();
        assert_eq!(workers.parse(&client("ada"), vec![0; SHORT_BYTES].into(), length).await.unwrap(), SHORT_BYTES);
        let reading = workers.clone();
        let long = vec![0; SHORT_BYTES + 1].into();
        let read = tokio::spawn(async move { reading.parse(&client("ada"), long, length).await.unwrap() });
        while workers.queue().waiting == 0 {
            tokio::task::yield_now().await;
        }
        drop(end);
        assert_eq!(read.await.unwrap(), SHORT_BYTES + 1);
    }

    #[tokio::test]
    async fn a_panic_of_a_read_ends_the_read_and_not_the_thread() {
        let workers = Workers::new(1);
        let failing = workers.clone();
        let read = tokio::spawn(async move { failing.run(&client("ada"), || panic!("on purpose")).await });
        assert!(read.await.unwrap_err().is_panic());
        assert_eq!(workers.run(&client("ada"), || 7).await.expect("there is a thread"), 7);
    }
}
