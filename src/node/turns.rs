//! Turns of the clients at the node's task.
//!
//! All requests come to one task. Served in the order in which they come, one client with many costly requests would make all others
//! wait for all of these. So each client has a queue of its own, and the next to be served is the one that has had the least of the
//! task's time: start-time fair queueing (Goyal, Vin and Cheng 1996), with the time that a request took charged after it was served,
//! since nobody knows it before.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A request that takes longer is costly. It is served alone: what was done before it is answered first.
const COSTLY: Duration = Duration::from_millis(2);

/// Writes of one client that are in its queue, or on the way there.
const PLACES_EACH: usize = 256;
/// Clients of which nothing waits whose time is remembered.
const IDLE_MAX: usize = 4_096;

/// Whose turn it is: a client, or what else has its requests served in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(u64);

impl Client {
    /// Reads and commands, which are short, whoever sends them.
    pub const READS: Client = Client(0);

    /// The client that something names.
    pub fn of(name: &impl Hash) -> Client {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Client(hasher.finish().max(1))
    }
}

/// Places of writes in the queues, so many for each client. A client that wants more waits outside: the way in, which all share, stays
/// free.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<Client, Arc<Semaphore>>>);

impl Places {
    /// A place of a client, once there is one.
    pub(super) async fn take(&self, client: Client) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.of(client).acquire_owned().await.ok()
    }

    fn of(&self, client: Client) -> Arc<Semaphore> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() > IDLE_MAX {
            // Those that nobody has or waits for.
            places.retain(|_, places| Arc::strong_count(places) > 1);
        }
        Arc::clone(places.entry(client).or_insert_with(|| Arc::new(Semaphore::new(PLACES_EACH))))
    }
}

/// Requests that wait.
#[derive(Debug)]
pub(super) struct Turns<R> {
    queues: HashMap<Client, Queue<R>>,
    /// The clients whose requests wait, by their tags, and then as they came.
    order: BTreeMap<(u64, u64), Client>,
    /// The tag of the request that was served last: the virtual time.
    now: u64,
    arrivals: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Queue<R> {
    requests: VecDeque<R>,
    /// The virtual time at which the next request begins, in nanoseconds.
    tag: u64,
    /// True if the last request was costly.
    is_costly: bool,
}

impl<R> Default for Turns<R> {
    fn default() -> Turns<R> {
        Turns { queues: HashMap::new(), order: BTreeMap::new(), now: 0, arrivals: 0, waiting: 0 }
    }
}

impl<R> Turns<R> {
    /// The number of requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Adds a request behind the client's others.
    pub(super) fn push(&mut self, client: Client, request: R) {
        let now = self.now;
        let queue =
            self.queues.entry(client).or_insert(Queue { requests: VecDeque::new(), tag: now, is_costly: false });
        if queue.requests.is_empty() {
            // Time in which a client asked for nothing is not saved up.
            queue.tag = queue.tag.max(now);
            self.arrivals += 1;
            self.order.insert((queue.tag, self.arrivals), client);
        }
        queue.requests.push_back(request);
        self.waiting += 1;
    }

    /// True if the next request is likely to be costly.
    pub(super) fn is_next_costly(&self) -> bool {
        let next = self.order.first_key_value().and_then(|(_, client)| self.queues.get(client));
        next.is_some_and(|queue| queue.is_costly)
    }

    /// The next request, of the client that has had the least time.
    pub(super) fn pop(&mut self) -> Option<(Client, R)> {
        let ((tag, _), client) = self.order.pop_first()?;
        let request = self.queues.get_mut(&client)?.requests.pop_front()?;
        self.now = tag;
        self.waiting -= 1;
        Some((client, request))
    }

    /// Charges a client for the request that was served just now. Returns whether it was costly.
    pub(super) fn charge(&mut self, client: Client, spent: Duration) -> bool {
        let Some(queue) = self.queues.get_mut(&client) else { return false };
        queue.tag += u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX / 2).max(1);
        queue.is_costly = spent >= COSTLY;
        let is_costly = queue.is_costly;
        if !queue.requests.is_empty() {
            self.arrivals += 1;
            self.order.insert((queue.tag, self.arrivals), client);
        }
        if self.waiting == 0 || self.queues.len() > self.order.len() + IDLE_MAX {
            // Where nobody waits, what anyone has had does not matter any more.
            self.queues.retain(|_, queue| !queue.requests.is_empty());
        }
        is_costly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Serves what waits; a request says how many milliseconds it takes.
    fn served(turns: &mut Turns<u32>, ada: Client) -> Vec<(&'static str, u32)> {
        let mut served = Vec::new();
        while let Some((client, ms)) = turns.pop() {
            served.push((if client == ada { "ada" } else { "ben" }, ms));
            turns.charge(client, MS * ms);
        }
        served
    }

    #[test]
    fn a_client_with_many_costly_requests_leaves_the_others_their_turns() {
        let (ada, ben) = (Client::of(&"ada"), Client::of(&"ben"));
        let mut turns = Turns::default();
        (0..4).for_each(|_| turns.push(ada, 60));
        (0..3).for_each(|_| turns.push(ben, 1));
        let order = [("ada", 60), ("ben", 1), ("ben", 1), ("ben", 1), ("ada", 60), ("ada", 60), ("ada", 60)];
        assert_eq!(served(&mut turns, ada), order);
        assert_eq!((turns.len(), turns.queues.len(), turns.order.len()), (0, 0, 0), "nothing is left behind");
    }

    #[test]
    fn who_asked_for_nothing_has_saved_nothing_up() {
        let (ada, ben) = (Client::of(&"ada"), Client::of(&"ben"));
        let mut turns = Turns::default();
        (0..10).for_each(|_| turns.push(ada, 10));
        (0..5).for_each(|_| {
            let (client, _) = turns.pop().unwrap();
            turns.charge(client, 10 * MS);
        });
        // It comes late, and takes turns from now on.
        (0..4).for_each(|_| turns.push(ben, 10));
        let order: Vec<&str> = served(&mut turns, ada).into_iter().map(|(name, _)| name).take(6).collect();
        assert_eq!(order.iter().filter(|name| **name == "ben").count(), 3, "{order:?}");
    }

    #[tokio::test]
    async fn one_client_takes_its_places_and_leaves_the_way_in_free() {
        let (places, ada, ben) = (Places::default(), Client::of(&"ada"), Client::of(&"ben"));
        let mut taken = Vec::new();
        for _ in 0..PLACES_EACH {
            taken.push(places.take(ada).await);
        }
        assert!(places.of(ada).try_acquire_owned().is_err());
        drop(places.take(ben).await);
        taken.pop();
        drop(places.take(ada).await);
        // Clients who have gone are forgotten, and those who have places are not.
        for n in 0..2 * IDLE_MAX {
            drop(places.take(Client::of(&n)).await);
        }
        assert!(places.0.lock().unwrap().len() <= IDLE_MAX + 1);
        assert_eq!(places.of(ada).available_permits(), 1);
    }

    #[test]
    fn the_requests_of_one_client_keep_their_order() {
        let (ada, ben) = (Client::of(&"ada"), Client::of(&"ben"));
        let mut turns = Turns::default();
        for n in 0..20 {
            turns.push(if n % 3 == 0 { ben } else { ada }, n);
        }
        let served = served(&mut turns, ada);
        for name in ["ada", "ben"] {
            let own: Vec<u32> = served.iter().filter(|(of, _)| *of == name).map(|(_, n)| *n).collect();
            assert!(own.is_sorted(), "{own:?}");
        }
    }

    #[test]
    fn a_request_behind_a_costly_one_of_its_client_is_taken_for_costly() {
        let (ada, ben) = (Client::of(&"ada"), Client::of(&"ben"));
        let mut turns = Turns::default();
        (0..2).for_each(|_| turns.push(ada, 60));
        turns.push(ben, 1);
        assert!(!turns.is_next_costly());
        let (client, _) = turns.pop().unwrap();
        assert!(turns.charge(client, 60 * MS));
        assert!(!turns.is_next_costly(), "ben is next");
        let (client, _) = turns.pop().unwrap();
        assert!(!turns.charge(client, MS));
        assert!(turns.is_next_costly());
    }
}
