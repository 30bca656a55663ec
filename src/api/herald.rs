//! Who is woken by a change: the readers that it may concern, and nobody else.
//!
//! A node with ten thousand clients has a change for a few of them most of the time. The herald reads the changes first, once
//! for all (what it finds lies in a [`Tail`] for those who come after it), notes in which collections they were, and rings for
//! those who follow these. A feed that was not rung for lags behind the ring; it need not read what it has missed, for
//! the herald knows that none of that was in its collection.
//!
//! Few are rung for as soon as something changes. A crowd that follows the same is told in rounds, each of one look at the
//! ring that all of them share, and with a pause behind it as long as the round was: while changes come faster than they
//! can be told to everyone, half the time is left for other work, and the crowd gets the latest state of what changed
//! meanwhile. In a round they are rung for one by one, and whoever else has something to do goes first.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep},
};

use super::{
    access::Reach,
    feed::{Tail, look_alone},
    look::Look,
    place::Place,
};
use crate::node::{Node, Stopped};

/// Parts of the ring that are kept in mind for a collection, of those in which it changed. A feed that is further behind reads
/// the ring from its place.
const PARTS_MAX: usize = 64;
/// Followers of one thing who are no crowd yet.
const FEW: usize = 16;
/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    AtOnce,
    InRounds,
}

impl Pace {
    const ALL: [Pace; 2] = [Pace::AtOnce, Pace::InRounds];

    /// Of so many who follow the same.
    fn of(followers: usize) -> Pace {
        if followers <= FEW { Pace::AtOnce } else { Pace::InRounds }
    }
}

type Bells = BTreeMap<u64, Arc<Notify>>;

/// The one who reads first.
pub struct Herald {
    node: Node,
    /// What the readers share who are told at a pace.
    tails: [Tail; 2],
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    /// Whether there are the tasks, and whether they have ended.
    runs: bool,
    ended: bool,
    /// The places up to which the ring was read for each pace.
    ends: [u64; 2],
    /// The bells of all readers, and by what they follow.
    bells: Bells,
    everything: Bells,
    collections: HashMap<Box<str>, Topic>,
    ids: u64,
}

/// A collection that somebody follows.
struct Topic {
    /// From this place on it is known in which parts of the ring it changed: from where to where, rising.
    known_from: u64,
    parts: VecDeque<(u64, u64)>,
    bells: Bells,
}

impl Herald {
    /// Of a node. Nothing is read before somebody listens.
    pub fn new(node: &Node) -> Arc<Herald> {
        Arc::new(Herald { node: node.clone(), tails: Default::default(), board: Mutex::default() })
    }

    /// Whose changes these are.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What those share who read the ring without being told.
    pub fn tail(&self) -> &Tail {
        &self.tails[Pace::AtOnce as usize]
    }

    /// A reader that follows nothing yet.
    pub fn listen(self: &Arc<Herald>) -> Ear {
        let mut board = self.board();
        if !std::mem::replace(&mut board.runs, true) {
            board.ends = [self.node.published().borrow().changes_end; 2];
            for pace in Pace::ALL {
                let herald = Arc::clone(self);
                tokio::spawn(async move {
                    // It ends when the node has stopped.
                    let _ = herald.run(pace).await;
                    let mut board = herald.board();
                    board.ended = true;
                    ring(board.bells.values());
                });
            }
        }
        let bell = Arc::new(Notify::new());
        let id = board.next_id();
        board.bells.insert(id, Arc::clone(&bell));
        Ear { herald: Arc::clone(self), id, bell }
    }

    async fn run(&self, pace: Pace) -> Result<(), Stopped> {
        let (tail, mut published) = (&self.tails[pace as usize], self.node.published());
        loop {
            let end = self.board().end(pace);
            let newest =
                published.wait_for(|published| published.changes_end > end).await.map_err(|_| Stopped)?.changes_end;
            if self.board().nobody_follows(pace, newest) {
                continue;
            }
            let began = Instant::now();
            let look = match tail.slot(end) {
                Some(slot) => slot.look(&self.node).await,
                // Others are ahead of it.
                None => look_alone(&self.node, Place::at(end), Reach::default()).await,
            };
            let bells = match look {
                Ok(Look::Found(chunk)) => {
                    let changed = chunk.changed.iter().map(|doc| &*doc.collection).collect();
                    self.board().note(pace, end..chunk.behind, &changed)
                }
                // The node has begun anew with other documents, or does not hold its data: feeds see for themselves.
                Ok(Look::Gone) | Err(_) => self.board().lose(pace, newest),
            };
            match pace {
                Pace::AtOnce => ring(&bells),
                Pace::InRounds => {
                    for bell in bells {
                        bell.notify_one();
                        yield_now().await;
                    }
                    sleep(began.elapsed().min(PAUSE_MAX)).await;
                }
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring<'a>(bells: impl IntoIterator<Item = &'a Arc<Notify>>) {
    bells.into_iter().for_each(|bell| bell.notify_one());
}

impl Board {
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn end(&self, pace: Pace) -> u64 {
        self.ends[pace as usize]
    }

    /// Skips what nobody asks for.
    fn nobody_follows(&mut self, pace: Pace, newest: u64) -> bool {
        let is_of = |bells: &Bells| !bells.is_empty() && Pace::of(bells.len()) == pace;
        let nobody = !is_of(&self.everything) && !self.collections.values().any(|topic| is_of(&topic.bells));
        if nobody {
            self.ends[pace as usize] = newest;
        }
        nobody
    }

    /// Notes in which collections there were changes in a part of the ring; returns whom to tell.
    fn note(&mut self, pace: Pace, part: Range<u64>, changed: &HashSet<&str>) -> Vec<Arc<Notify>> {
        self.ends[pace as usize] = part.end;
        let is_told = |bells: &Bells| Pace::of(bells.len()) == pace;
        let mut told = Vec::new();
        for collection in changed {
            let Some(topic) = self.collections.get_mut(*collection).filter(|topic| is_told(&topic.bells)) else {
                continue;
            };
            if topic.parts.len() == PARTS_MAX
                && let Some((_, end)) = topic.parts.pop_front()
            {
                topic.known_from = end;
            }
            topic.parts.push_back((part.start, part.end));
            told.extend(topic.bells.values().cloned());
        }
        if is_told(&self.everything) {
            told.extend(self.everything.values().cloned());
        }
        told
    }

    fn lose(&mut self, pace: Pace, newest: u64) -> Vec<Arc<Notify>> {
        self.ends[pace as usize] = newest;
        for topic in self.collections.values_mut() {
            topic.forget(newest);
        }
        self.bells.values().cloned().collect()
    }

    /// How those are told who follow a collection, or all.
    fn pace(&self, collection: Option<&str>) -> (Pace, Option<&Topic>) {
        let topic = collection.and_then(|name| self.collections.get(name));
        (Pace::of(topic.map_or(&self.everything, |topic| &topic.bells).len()), topic)
    }

    /// See [`Watch::next`].
    fn next(&self, collection: Option<&str>, place: u64, ring_end: u64) -> (u64, bool) {
        let (pace, topic) = self.pace(collection);
        let told = self.end(pace);
        let to = if pace == Pace::AtOnce { ring_end } else { told.min(ring_end) };
        match topic {
            Some(topic) if place >= topic.known_from => match topic.parts.iter().find(|(_, end)| *end > place) {
                Some((start, _)) => (place.max(*start), true),
                None => (place.max(told), place.max(told) < to),
            },
            // A place that the ring has not reached is of another ring.
            _ => (place, place < to || place > ring_end),
        }
    }

    /// Adds one who follows a collection, or all.
    fn follow(&mut self, id: u64, collection: Option<&str>, bell: Arc<Notify>) {
        let [at_once, _] = self.ends;
        match collection {
            None => drop(self.everything.insert(id, bell)),
            Some(name) => {
                let topic = || Topic { known_from: at_once, parts: VecDeque::new(), bells: Bells::new() };
                self.collections.entry(name.into()).or_insert_with(topic).bells.insert(id, bell);
            }
        }
        self.turn(collection, FEW + 1);
    }

    fn leave(&mut self, id: u64, collection: Option<&str>) {
        let Some(name) = collection else {
            self.everything.remove(&id);
            return self.turn(None, FEW);
        };
        let Some(topic) = self.collections.get_mut(name) else { return };
        topic.bells.remove(&id);
        if topic.bells.is_empty() {
            self.collections.remove(name);
        }
        self.turn(collection, FEW);
    }

    /// With so many followers few have become a crowd, or a crowd few. What was noted at the one pace is not known at the
    /// other, and what the one herald would still have rung for, the other may have passed: all see for themselves.
    fn turn(&mut self, collection: Option<&str>, followers: usize) {
        let known_from = self.ends.into_iter().max().unwrap_or_default();
        match collection {
            None if self.everything.len() == followers => ring(self.everything.values()),
            None => {}
            Some(name) => {
                let Some(topic) = self.collections.get_mut(name) else { return };
                if topic.bells.len() == followers {
                    topic.forget(known_from);
                    ring(topic.bells.values());
                }
            }
        }
    }
}

impl Topic {
    fn forget(&mut self, known_from: u64) {
        self.parts.clear();
        self.known_from = known_from;
    }
}

/// The place of one reader, until it is dropped.
pub struct Ear {
    herald: Arc<Herald>,
    id: u64,
    bell: Arc<Notify>,
}

impl Ear {
    /// Waits until something that it follows has changed; an error once the node has stopped.
    pub async fn rung(&self) -> Result<(), Stopped> {
        self.bell.notified().await;
        if self.herald.board().ended { Err(Stopped) } else { Ok(()) }
    }

    /// Follows a collection, or all.
    pub fn follow(&self, collection: Option<&str>) -> Watch {
        let mut board = self.herald.board();
        let id = board.next_id();
        board.follow(id, collection, Arc::clone(&self.bell));
        drop(board);
        Watch { herald: Arc::clone(&self.herald), id, collection: collection.map(Into::into) }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.herald.board().bells.remove(&self.id);
    }
}

/// What one feed follows, until it is dropped.
pub struct Watch {
    herald: Arc<Herald>,
    id: u64,
    collection: Option<Box<str>>,
}

impl Watch {
    /// Where a feed that has read the ring up to a place has to go on, and whether there may be something for it between
    /// there and the ring's end. Of few, one who is awake is as quick as the herald; of a crowd, each reads as far as
    /// the last round did.
    pub fn next(&self, place: u64, ring_end: u64) -> (u64, bool) {
        self.herald.board().next(self.collection.as_deref(), place, ring_end)
    }

    /// What it shares with others.
    pub fn tail(&self) -> &Tail {
        let (pace, _) = self.herald.board().pace(self.collection.as_deref());
        &self.herald.tails[pace as usize]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.herald.board().leave(self.id, self.collection.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const COLLECTIONS: [&str; 2] = ["a", "b"];

    /// A reader of one collection, or of all.
    struct Reader {
        id: u64,
        bell: Arc<Notify>,
        collection: Option<&'static str>,
        place: u64,
    }

    /// A ring of changes, of which only the collection is known, and who reads it.
    #[derive(Default)]
    struct World {
        ring: Vec<&'static str>,
        board: Board,
        readers: Vec<Reader>,
    }

    impl World {
        fn end(&self) -> u64 {
            self.ring.len() as u64
        }

        fn come(&mut self, collection: Option<&'static str>, place: u64) {
            let (id, bell) = (self.board.next_id(), Arc::new(Notify::new()));
            self.board.follow(id, collection, Arc::clone(&bell));
            // Who comes looks before it waits.
            bell.notify_one();
            self.readers.push(Reader { id, bell, collection, place });
        }

        fn go(&mut self, index: usize) {
            let Reader { id, collection, .. } = self.readers.swap_remove(index);
            self.board.leave(id, collection);
        }

        /// The herald of a pace takes up to so many changes.
        fn herald(&mut self, pace: Pace, most: u64) {
            let (start, end) = (self.board.end(pace), self.end());
            if start == end || self.board.nobody_follows(pace, end) {
                return;
            }
            let part = start..end.min(start + most);
            let changed = self.ring[start as usize..part.end as usize].iter().copied().collect();
            ring(&self.board.note(pace, part, &changed));
        }

        /// A reader that was rung for reads until it has no more.
        fn read(&mut self, index: usize) {
            let (end, reader) = (self.end(), &mut self.readers[index]);
            if reader.bell.notified().now_or_never().is_none() {
                return;
            }
            loop {
                let (place, more) = self.board.next(reader.collection, reader.place, end);
                let passed = &self.ring[reader.place as usize..place as usize];
                assert!(
                    passed.iter().all(|changed| reader.collection.is_some_and(|name| name != *changed)),
                    "it is lost"
                );
                reader.place = place;
                if !more {
                    return;
                }
                let (pace, _) = self.board.pace(reader.collection);
                reader.place = if pace == Pace::AtOnce { end } else { self.board.end(pace).max(place + 1) };
            }
        }
    }

    #[test]
    fn however_many_come_and_go_each_reader_is_told_of_all_that_it_follows() {
        for seed in 0..2_000 {
            let (mut rng, mut world) = (fastrand::Rng::with_seed(seed), World::default());
            // About as many as are few, and as many as are a crowd.
            let (usual, most) = (rng.usize(1..3 * FEW), [Some("a"), None][rng.usize(..2)]);
            for _ in 0..400 {
                match rng.u32(0..10) {
                    0..3 => world.ring.push(COLLECTIONS[rng.usize(..2)]),
                    3 => world.herald(Pace::AtOnce, rng.u64(1..4)),
                    4 => world.herald(Pace::InRounds, rng.u64(1..8)),
                    5 if world.readers.len() < usual => {
                        let collection = if rng.u32(0..4) == 0 { Some("b") } else { most };
                        let place = rng.u64(world.end().saturating_sub(9)..=world.end());
                        world.come(collection, place);
                    }
                    6 if world.readers.len() > rng.usize(..usual) => world.go(rng.usize(..world.readers.len())),
                    _ if !world.readers.is_empty() => world.read(rng.usize(..world.readers.len())),
                    _ => {}
                }
            }
            while Pace::ALL.iter().any(|pace| world.board.end(*pace) < world.end()) {
                Pace::ALL.into_iter().for_each(|pace| world.herald(pace, 5));
            }
            (0..world.readers.len()).for_each(|index| world.read(index));
            for Reader { collection, place, .. } in &world.readers {
                let missed = &world.ring[*place as usize..];
                assert!(!missed.iter().any(|changed| collection.is_none_or(|name| name == *changed)), "seed {seed}");
            }
        }
    }
}
