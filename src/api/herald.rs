//! Who is woken by a change: the connections with a subscription that it may concern, and nobody else.
//!
//! A node with ten thousand clients has a change for a few of them most of the time. One task reads the changes first, once
//! for all (what it finds lies in the [`Tail`] for those who come after it), notes in which collections they were, and
//! rings for those who follow these. A feed that was not rung for lags behind the ring; it need not read what it has
//! missed, for the herald knows that none of that was in its collection.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    access::Reach,
    feed::{Tail, look_alone},
    look::{Chunk, Look},
    place::Place,
};
use crate::node::{Node, Stopped};

/// Parts of the ring that are kept in mind for a collection, of those in which it changed. A feed that is further behind reads
/// the ring from its place.
const PARTS_MAX: usize = 64;

/// The one who reads first.
pub struct Herald {
    node: Node,
    tail: Arc<Tail>,
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    /// Whether there is the task, and whether it has ended.
    runs: bool,
    ended: bool,
    /// The place up to which it has read.
    end: u64,
    /// The bells of all connections, and by what they follow.
    bells: BTreeMap<u64, Arc<Notify>>,
    everything: BTreeMap<u64, Arc<Notify>>,
    collections: HashMap<Box<str>, Topic>,
    ids: u64,
}

/// A collection that somebody follows.
struct Topic {
    /// From this place on it is known in which parts of the ring it changed: from where to where, rising.
    known_from: u64,
    parts: VecDeque<(u64, u64)>,
    bells: BTreeMap<u64, Arc<Notify>>,
}

impl Herald {
    /// Of a node. Nothing is read before somebody listens.
    pub fn new(node: &Node, tail: &Arc<Tail>) -> Arc<Herald> {
        Arc::new(Herald { node: node.clone(), tail: Arc::clone(tail), board: Mutex::default() })
    }

    /// What those share who read the ring at its end.
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    /// A connection that has no subscription yet.
    pub fn listen(self: &Arc<Herald>) -> Ear {
        let mut board = self.board();
        if !std::mem::replace(&mut board.runs, true) {
            board.end = self.node.published().borrow().changes_end;
            let herald = Arc::clone(self);
            tokio::spawn(async move {
                // It ends when the node has stopped.
                let _ = herald.run().await;
                let mut board = herald.board();
                board.ended = true;
                board.bells.values().for_each(|bell| bell.notify_one());
            });
        }
        let bell = Arc::new(Notify::new());
        let id = board.next_id();
        board.bells.insert(id, Arc::clone(&bell));
        Ear { herald: Arc::clone(self), id, bell }
    }

    async fn run(&self) -> Result<(), Stopped> {
        let mut published = self.node.published();
        loop {
            let end = self.board().end;
            let newest =
                published.wait_for(|published| published.changes_end > end).await.map_err(|_| Stopped)?.changes_end;
            if self.board().nobody_follows(newest) {
                continue;
            }
            let look = match self.tail.slot(end) {
                Some(slot) => slot.look(&self.node).await,
                // Others are ahead of it.
                None => look_alone(&self.node, Place::at(end), Reach::default()).await,
            };
            match look {
                Ok(Look::Found(chunk)) => self.board().note(end, &chunk),
                // The node has begun anew with other documents, or does not hold its data: feeds see for themselves.
                Ok(Look::Gone) | Err(_) => self.board().lose(newest),
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Skips what nobody asks for.
    fn nobody_follows(&mut self, newest: u64) -> bool {
        let nobody = self.everything.is_empty() && self.collections.is_empty();
        self.end = if nobody { newest } else { self.end };
        nobody
    }

    fn note(&mut self, start: u64, chunk: &Chunk) {
        self.end = chunk.behind;
        let changed: HashSet<&str> = chunk.changed.iter().map(|doc| &*doc.collection).collect();
        for collection in changed {
            let Some(topic) = self.collections.get_mut(collection) else { continue };
            if topic.parts.len() == PARTS_MAX
                && let Some((_, end)) = topic.parts.pop_front()
            {
                topic.known_from = end;
            }
            topic.parts.push_back((start, chunk.behind));
            topic.bells.values().for_each(|bell| bell.notify_one());
        }
        self.everything.values().for_each(|bell| bell.notify_one());
    }

    fn lose(&mut self, newest: u64) {
        self.end = newest;
        for topic in self.collections.values_mut() {
            topic.parts.clear();
            topic.known_from = newest;
        }
        self.bells.values().for_each(|bell| bell.notify_one());
    }
}

/// The place of one connection, until it is dropped.
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
        let (id, bell, end) = (board.next_id(), Arc::clone(&self.bell), board.end);
        match collection {
            None => drop(board.everything.insert(id, bell)),
            Some(name) => {
                let topic = || Topic { known_from: end, parts: VecDeque::new(), bells: BTreeMap::new() };
                board.collections.entry(name.into()).or_insert_with(topic).bells.insert(id, bell);
            }
        }
        drop(board);
        Watch { herald: Arc::clone(&self.herald), id, collection: collection.map(Into::into) }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.herald.board().bells.remove(&self.id);
    }
}

/// What one subscription follows, until it is dropped.
pub struct Watch {
    herald: Arc<Herald>,
    id: u64,
    collection: Option<Box<str>>,
}

impl Watch {
    /// Where a feed that has read the ring up to a place has to go on, and whether there may be something for it between
    /// there and the ring's end. What the herald has not read yet may be, so that a reader who is awake is as quick as he.
    pub fn next(&self, place: u64, ring_end: u64) -> (u64, bool) {
        let board = self.herald.board();
        let topic = self.collection.as_ref().and_then(|name| board.collections.get(name));
        match topic {
            Some(topic) if place >= topic.known_from => match topic.parts.iter().find(|(_, end)| *end > place) {
                Some((start, _)) => (place.max(*start), true),
                None => (place.max(board.end), place.max(board.end) < ring_end),
            },
            _ => (place, place != ring_end),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut board = self.herald.board();
        let Some(name) = &self.collection else {
            board.everything.remove(&self.id);
            return;
        };
        if let Some(topic) = board.collections.get_mut(name) {
            topic.bells.remove(&self.id);
            if topic.bells.is_empty() {
                board.collections.remove(name);
            }
        }
    }
}
