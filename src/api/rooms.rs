//! The rooms of this node: who is there, kept beside the node for those of its clients who follow a room.
//!
//! One task follows what clients show of themselves, here and on other nodes, reads what is new once, and hands it to the
//! followers of its rooms. A follower keeps no queue: it keeps the latest of each peer that has changed, and once there are
//! too many of them it begins anew with all who are there. States are texts here; who makes them says what they mean.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use super::{
    Problem,
    rates::Caller,
    shares::{Beyond, Share, Shares},
};
use crate::{
    node::{Node, Stopped},
    op::NodeId,
    replica::{PRESENT_OF_NODE_MAX, Presence, Seen},
};

/// Places in rooms that one token or address takes of a node, and bytes that it shows there: a quarter of what the node has.
const PLACES_PER_CALLER_MAX: usize = PRESENT_OF_NODE_MAX.0 / 4;
const BYTES_PER_CALLER_MAX: usize = PRESENT_OF_NODE_MAX.1 / 4;

/// Changed peers that wait for one follower; past that it is told of the whole room instead.
const CHANGED_MAX: usize = 1_024;
/// Most changes that are read at once: the whole node waits meanwhile.
const READ_MAX: usize = 4_096;

/// Someone in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node that it is connected to.
    pub node: NodeId,
    /// Its name there, as [`Seat`] was given it.
    pub client: Arc<str>,
    /// What it shows; none if it is gone.
    pub state: Option<Arc<str>>,
}

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// These have come, show something else, or are gone.
    Changed(Vec<Peer>),
    /// These are there now, and nobody else: it has fallen behind.
    Anew(Vec<Peer>),
}

/// All rooms.
pub struct Rooms {
    node: Node,
    places: Arc<Shares>,
    bytes: Arc<Shares>,
    hall: Mutex<Hall>,
    /// How far the task has read, once it has begun.
    reached: watch::Sender<Option<u64>>,
}

#[derive(Default)]
struct Hall {
    /// Whether there is the task.
    followed: bool,
    rooms: BTreeMap<Arc<str>, Room>,
    followers: u64,
}

#[derive(Default)]
struct Room {
    peers: BTreeMap<(NodeId, Arc<str>), Arc<str>>,
    followers: BTreeMap<u64, Waiting>,
}

/// What waits for a follower.
struct Waiting {
    bell: Arc<Notify>,
    changed: BTreeMap<(NodeId, Arc<str>), Option<Arc<str>>>,
    /// Whether it must begin anew.
    behind: bool,
}

impl Rooms {
    /// The rooms of a node. Nothing is followed before somebody does.
    pub fn new(node: &Node) -> Arc<Rooms> {
        // The node bounds what all take together.
        let (places, bytes) =
            (Shares::new(usize::MAX, PLACES_PER_CALLER_MAX), Shares::new(usize::MAX, BYTES_PER_CALLER_MAX));
        Arc::new(Rooms { node: node.clone(), places, bytes, hall: Mutex::default(), reached: watch::Sender::new(None) })
    }

    /// Follows a room: who is there now, whatever was shown at this node before among it, and whoever changes from then on. The
    /// bell rings when there are news; several followers may share one.
    pub async fn follow(self: &Arc<Self>, room: &str, bell: &Arc<Notify>) -> Result<(Vec<Peer>, Follower), Stopped> {
        self.begin();
        let end = self.node.presence(Presence::end).await?;
        // The task ends with its node.
        let mut reached = self.reached.subscribe();
        tokio::select! {
            read = reached.wait_for(|reached| reached.is_some_and(|reached| reached >= end)) => drop(read.map_err(|_| Stopped)?),
            _ = self.node.stopped() => return Err(Stopped),
        }
        let mut hall = self.hall();
        hall.followers += 1;
        let (room, id): (Arc<str>, u64) = (room.into(), hall.followers);
        let found = hall.rooms.entry(Arc::clone(&room)).or_default();
        let waiting = Waiting { bell: Arc::clone(bell), changed: BTreeMap::new(), behind: false };
        found.followers.insert(id, waiting);
        Ok((found.all(), Follower { rooms: Arc::clone(self), room, id }))
    }

    /// A seat in a room for a client of this node, which is not seen yet. Nobody else has this name there.
    pub fn seat(&self, room: &str, client: &str, caller: &Caller) -> Result<Seat, Problem> {
        let place = self.places.take(caller.clone(), 1).map_err(|beyond| too_much(beyond, "places"))?;
        let bytes = self.bytes.take(caller.clone(), 0).map_err(|beyond| too_much(beyond, "bytes"))?;
        let (node, room, client) = (self.node.clone(), room.into(), client.into());
        Ok(Seat { node, room, client, shown: false, bytes, _place: place })
    }

    fn begin(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.hall().followed, true) {
            let rooms = Arc::clone(self);
            tokio::spawn(async move {
                // It ends when the node has stopped.
                let _ = rooms.run().await;
            });
        }
    }

    async fn run(&self) -> Result<(), Stopped> {
        let mut end = self.node.presence_end();
        let mut place = self.restart().await?;
        loop {
            self.reached.send_replace(Some(place));
            end.wait_for(|end| *end > place).await.map_err(|_| Stopped)?;
            let read = move |presence: &Presence| -> Option<(Vec<Seen>, u64)> {
                let seen: Vec<Seen> = presence.since(place)?.take(READ_MAX).collect();
                let reached = if seen.len() < READ_MAX { presence.end() } else { seen.last()?.place };
                Some((seen, reached))
            };
            match self.node.presence(read).await? {
                Some((seen, reached)) => {
                    let mut hall = self.hall();
                    seen.into_iter().for_each(|seen| hall.change(seen));
                    place = reached;
                }
                None => place = self.restart().await?,
            }
        }
    }

    /// Begins anew with all who are there.
    async fn restart(&self) -> Result<u64, Stopped> {
        let (all, end) = self.node.presence(|presence| (presence.all().collect::<Vec<_>>(), presence.end())).await?;
        let mut hall = self.hall();
        for room in hall.rooms.values_mut() {
            room.peers.clear();
            room.followers.values_mut().for_each(Waiting::fall_behind);
        }
        all.into_iter().for_each(|seen| hall.change(seen));
        hall.rooms.retain(|_, room| !room.is_deserted());
        Ok(end)
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hall {
    fn change(&mut self, seen: Seen) {
        let Seen { room, node, client, state, .. } = seen;
        let found = self.rooms.entry(Arc::clone(&room)).or_default();
        let peer = (node, client);
        let was_there = match &state {
            Some(state) => found.peers.insert(peer.clone(), Arc::clone(state)).is_some(),
            None => found.peers.remove(&peer).is_some(),
        };
        // Who came and went since the last look was never there.
        if state.is_some() || was_there {
            found.followers.values_mut().for_each(|waiting| waiting.change(peer.clone(), state.clone()));
        }
        if found.is_deserted() {
            self.rooms.remove(&room);
        }
    }
}

impl Room {
    fn all(&self) -> Vec<Peer> {
        let peer = |((node, client), state): (&(NodeId, Arc<str>), &Arc<str>)| Peer {
            node: *node,
            client: Arc::clone(client),
            state: Some(Arc::clone(state)),
        };
        self.peers.iter().map(peer).collect()
    }

    fn is_deserted(&self) -> bool {
        self.peers.is_empty() && self.followers.is_empty()
    }
}

impl Waiting {
    fn change(&mut self, peer: (NodeId, Arc<str>), state: Option<Arc<str>>) {
        if !self.behind {
            self.changed.insert(peer, state);
        }
        if self.changed.len() > CHANGED_MAX {
            self.fall_behind();
        }
        self.bell.notify_one();
    }

    fn fall_behind(&mut self) {
        self.changed.clear();
        self.behind = true;
        self.bell.notify_one();
    }
}

/// Someone who follows a room, until it is dropped.
pub struct Follower {
    rooms: Arc<Rooms>,
    room: Arc<str>,
    id: u64,
}

impl Follower {
    /// What is new since the last time; none if nothing is.
    pub fn take(&mut self) -> Option<News> {
        let mut hall = self.rooms.hall();
        let room = hall.rooms.get_mut(&self.room)?;
        let waiting = room.followers.get_mut(&self.id)?;
        let changed = std::mem::take(&mut waiting.changed);
        if std::mem::take(&mut waiting.behind) {
            return Some(News::Anew(room.all()));
        }
        let peer = |((node, client), state)| Peer { node, client, state };
        (!changed.is_empty()).then(|| News::Changed(changed.into_iter().map(peer).collect()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut hall = self.rooms.hall();
        let Some(room) = hall.rooms.get_mut(&self.room) else { return };
        room.followers.remove(&self.id);
        if room.is_deserted() {
            hall.rooms.remove(&self.room);
        }
    }
}

/// A client's place in a room. Once it is dropped the client is gone, however its connection has ended.
pub struct Seat {
    node: Node,
    room: String,
    client: String,
    shown: bool,
    /// What it takes of its caller's shares.
    bytes: Share,
    _place: Share,
}

impl Seat {
    /// Its client's name.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Shows the client, or something else of it; with no state nobody sees it.
    pub async fn show(&mut self, state: Option<String>) -> Result<Result<(), Problem>, Stopped> {
        if let Err(beyond) = self.bytes.resize(state.as_ref().map_or(0, String::len)) {
            return Ok(Err(too_much(beyond, "bytes")));
        }
        // Before the answer, for whoever asks may be gone by then.
        self.shown |= state.is_some();
        let shown = self.node.present(self.room.clone(), self.client.clone(), state).await?;
        Ok(shown.map_err(Problem::from))
    }
}

/// The answer to a client that takes more of rooms than its share.
fn too_much(_: Beyond, what: &str) -> Problem {
    let detail = format!(
        "clients with one token (or of one address, where no tokens are asked for) take at most {PLACES_PER_CALLER_MAX} places \
         and {BYTES_PER_CALLER_MAX} bytes in the rooms of a node, and your {what} are taken: leave some rooms, show less in \
         them, or ask another node of the pool"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Where nothing runs any more the node does not, either.
        let (true, Ok(runtime)) = (self.shown, Handle::try_current()) else { return };
        let (node, room, client) =
            (self.node.clone(), std::mem::take(&mut self.room), std::mem::take(&mut self.client));
        runtime.spawn(async move {
            // A node that has stopped takes its clients with it.
            let _ = node.present(room, client, None).await;
        });
    }
}
