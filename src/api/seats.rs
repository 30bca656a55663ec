//! The rooms that one connection of the clients' WebSocket is in.
//!
//! Each has the id of the message that joined it, a seat, by which the others see the client, and a follower, by which it
//! sees them. When the connection ends, the seats are left. States are JSON here, and nowhere below.

use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    Problem,
    access::Pass,
    rates::Caller,
    rooms::{Follower, News, Peer, Rooms, Seat},
    steps::Fields,
};
use crate::{
    document::json,
    replica::{Refused, Unseen},
    wire::STATE_BYTES_MAX,
};

/// Longest name of a room, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// What the names of users' rooms begin with inside, so that nobody gets among those of another kind.
const KIND: &str = "room:";
/// A message that tells who is in a room ends when it passes this, and the others follow one by one: however many there are, no
/// frame is too long for the socket.
const ROOM_MESSAGE_BYTES: usize = 256 << 10;

/// The rooms of one connection.
pub struct Seats {
    rooms: Arc<Rooms>,
    caller: Caller,
    /// Most of them at once.
    max: usize,
    /// Rings when there are news in any of them.
    bell: Arc<Notify>,
    taken: Vec<Taken>,
    /// Whether it has rung since the last look.
    rang: bool,
}

struct Taken {
    id: String,
    name: String,
    seat: Seat,
    follower: Follower,
    /// Who was there when it was joined, still to be told.
    first: Option<Vec<Peer>>,
}

impl Seats {
    /// No seat yet, and at most so many.
    pub fn new(rooms: Arc<Rooms>, max: usize, caller: Caller) -> Seats {
        Seats { rooms, caller, max, bell: Arc::new(Notify::new()), taken: Vec::new(), rang: false }
    }

    /// Whether a room was joined with a message of this id.
    pub fn has(&self, id: &str) -> bool {
        self.taken.iter().any(|taken| taken.id == id)
    }

    /// Waits until there are news, which [`Seats::due`] gives then.
    pub async fn rung(&mut self) {
        self.bell.notified().await;
        self.rang = true;
    }

    /// Joins a room, or shows something else in one.
    pub async fn show(&mut self, id: &str, members: Map<String, Value>, pass: &Pass) -> Result<(), Problem> {
        let mut fields = Fields::open("presence", members.into(), &["room", "state"])?;
        let (name, state) = (fields.text("room")?, state(fields.take("state")?)?);
        if let Some(taken) = self.taken.iter_mut().find(|taken| taken.id == id) {
            if taken.name == name {
                return taken.seat.show(state).await?;
            }
            let detail = format!(
                "with this id you are in the room {:?}: unsubscribe it first, or choose another id for the room {:?}",
                taken.name,
                json::excerpt(&name)
            );
            return Err(Problem::bad("bad-request", detail));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let detail = format!("a room has a name of 1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(Problem::bad("bad-name", detail));
        }
        pass.check_room(&name)?;
        if self.taken.len() >= self.max {
            let detail = format!("a connection is in at most {} rooms: unsubscribe one", self.max);
            return Err(Problem::bad("bad-request", detail));
        }
        let room = format!("{KIND}{name}");
        // Not the name of an earlier seat in this room: that one may still be on its way out.
        let mut seat = self.rooms.seat(&room, &Uuid::new_v4().to_string(), &self.caller)?;
        seat.show(state).await??;
        let (first, follower) = self.rooms.follow(&room, &self.bell).await?;
        self.taken.push(Taken { id: id.to_string(), name, seat, follower, first: Some(first) });
        self.rang = true;
        Ok(())
    }

    /// Leaves a room; returns whether there is one with this id.
    pub fn leave(&mut self, id: &str) -> bool {
        let before = self.taken.len();
        self.taken.retain(|taken| taken.id != id);
        self.taken.len() < before
    }

    /// What there is to tell, as messages.
    pub fn due(&mut self) -> Vec<String> {
        if !std::mem::take(&mut self.rang) {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for taken in &mut self.taken {
            if let Some(first) = taken.first.take() {
                taken.tell_all(&first, &mut messages);
            }
            match taken.follower.take() {
                None => {}
                Some(News::Anew(peers)) => taken.tell_all(&peers, &mut messages),
                Some(News::Changed(peers)) => {
                    messages.extend(peers.iter().filter_map(members).map(|peer| taken.tell(&peer)));
                }
            }
        }
        messages
    }
}

impl Taken {
    /// Who is in the room: in one message as many as fit, then the others.
    fn tell_all(&self, peers: &[Peer], messages: &mut Vec<String>) {
        let (mut shown, mut bytes) = (Vec::new(), 0);
        let mut peers = peers.iter().filter_map(members);
        for peer in peers.by_ref() {
            bytes += peer.len();
            shown.push(format!("{{{peer}}}"));
            if bytes > ROOM_MESSAGE_BYTES {
                break;
            }
        }
        let (id, room, me) = (quoted(&self.id), quoted(&self.name), quoted(self.seat.client()));
        let shown = shown.join(",");
        messages.push(format!(r#"{{"type":"room","id":{id},"room":{room},"me":{me},"peers":[{shown}]}}"#));
        messages.extend(peers.map(|peer| self.tell(&peer)));
    }

    fn tell(&self, peer: &str) -> String {
        format!(r#"{{"type":"peer","id":{},{peer}}}"#, quoted(&self.id))
    }
}

/// What is told of a peer, as members of a JSON object; nothing where another node lets its clients show what is no JSON.
fn members(peer: &Peer) -> Option<String> {
    let Peer { node, client, state } = peer;
    let client = quoted(client);
    match state {
        None => Some(format!(r#""peer":{client},"node":"{node}","gone":true"#)),
        Some(state) => {
            serde_json::from_str::<IgnoredAny>(state).ok()?;
            Some(format!(r#""peer":{client},"node":"{node}","state":{state}"#))
        }
    }
}

/// The text of a state; none if the client is not to be seen.
fn state(value: Value) -> Result<Option<String>, Problem> {
    if value.is_null() {
        return Ok(None);
    }
    let text = json::write(&value)?;
    if text.len() > STATE_BYTES_MAX { Err(Refused::Unseen(Unseen::TooLarge).into()) } else { Ok(Some(text)) }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
