//! Who edits a text, and where: the awareness of Yjs, kept in a room of presence.
//!
//! An editor shows itself by `(client, clock, JSON)`; of two words about one client that with the greater clock counts, and
//! `null` says that it is gone (y-protocols 1.0.7, `awareness.js`). Editors also repeat what they heard of others, so a
//! connection takes a client for its own only with a word that is newer than what the room holds. A client can come by two
//! nodes for a moment, when it moves: then the room has it twice, and the newer counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    rates::Caller,
    rooms::{Follower, News, Peer, Rooms, Seat},
    yjs::{buffer, number, write_number},
};
use crate::{
    node::Stopped,
    op::{DocKey, NodeId},
};

/// Clients that one connection shows; an editor is one.
const CLIENTS_MAX: usize = 64;

/// The awareness of one connection.
pub struct Awareness {
    rooms: Arc<Rooms>,
    /// Whose places its clients take.
    caller: Caller,
    room: String,
    follower: Follower,
    bell: Arc<Notify>,
    /// What the room holds of each client, by the node that says it.
    known: BTreeMap<u64, BTreeMap<NodeId, Word>>,
    seats: BTreeMap<u64, Seat>,
}

/// What is said of a client: its clock, and a JSON text.
type Word = (u64, Arc<str>);

/// Why a message of awareness is not taken.
#[derive(Debug)]
pub enum Fault {
    /// It is no such message.
    Malformed,
    /// The node has stopped.
    Stopped,
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Fault {
        Fault::Stopped
    }
}

impl Awareness {
    /// Follows the awareness of a text.
    pub async fn follow(rooms: &Arc<Rooms>, doc: &DocKey<'_>, caller: Caller) -> Result<Awareness, Stopped> {
        let (room, bell) = (format!("yjs:{}/{}", doc.collection, doc.id), Arc::new(Notify::new()));
        let (peers, follower) = rooms.follow(&room, &bell).await?;
        let (rooms, known, seats) = (Arc::clone(rooms), BTreeMap::new(), BTreeMap::new());
        let mut awareness = Awareness { rooms, caller, room, follower, bell, known, seats };
        peers.into_iter().for_each(|peer| drop(awareness.learn(peer)));
        Ok(awareness)
    }

    /// Waits until there may be news.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// A message that tells of everyone; none if nobody is there.
    pub fn all(&self) -> Option<Vec<u8>> {
        let words = self.known.iter().filter_map(|(client, words)| Some((*client, newest(words)?.clone())));
        let words: Vec<(u64, Word)> = words.collect();
        (!words.is_empty()).then(|| message(&words))
    }

    /// A message that tells what is new; none if nothing is.
    pub fn news(&mut self) -> Option<Vec<u8>> {
        let changed: BTreeMap<u64, Word> = match self.follower.take()? {
            News::Changed(peers) => peers.into_iter().filter_map(|peer| self.learn(peer)).collect(),
            News::Anew(peers) => {
                let before = std::mem::take(&mut self.known);
                let there: BTreeMap<u64, Word> = peers.into_iter().filter_map(|peer| self.learn(peer)).collect();
                let gone = before.into_iter().filter(|(client, _)| !there.contains_key(client));
                let gone: Vec<(u64, Word)> =
                    gone.filter_map(|(client, words)| Some((client, gone_after(newest(&words)?)))).collect();
                there.into_iter().chain(gone).collect()
            }
        };
        let words: Vec<(u64, Word)> = changed.into_iter().collect();
        (!words.is_empty()).then(|| message(&words))
    }

    /// Takes what an editor says: of itself, and of others what it repeats. What the node does not take, as it is too large or
    /// too much, nobody sees; the editor goes on, and says it again in a while.
    pub async fn hear(&mut self, states: &[u8]) -> Result<(), Fault> {
        let said = read(states).ok_or(Fault::Malformed)?;
        for (client, clock, json) in said {
            let held = self.known.get(&client).and_then(newest);
            let is_own = self.seats.contains_key(&client);
            let news = held.is_none_or(|(held, _)| clock > *held) || is_own && json == "null";
            if !news {
                continue;
            }
            if json == "null" {
                // Its end is told by whoever has its seat.
                self.seats.remove(&client);
                continue;
            }
            if is_own || self.seats.len() < CLIENTS_MAX {
                self.show(client, format!("{clock} {json}")).await?;
            }
        }
        Ok(())
    }

    /// Shows a client of this connection; one that is refused is not seen.
    async fn show(&mut self, client: u64, state: String) -> Result<(), Stopped> {
        let seat = match self.seats.remove(&client) {
            Some(seat) => Ok(seat),
            None => self.rooms.seat(&self.room, &client.to_string(), &self.caller),
        };
        let Ok(mut seat) = seat else { return Ok(()) };
        if let Err(problem) = seat.show(Some(state)).await? {
            tracing::debug!(problem = %problem.to_json(), "an editor is not shown");
        }
        self.seats.insert(client, seat);
        Ok(())
    }

    /// Notes what the room says; returns what that means for the client it speaks of.
    fn learn(&mut self, Peer { node, client, state }: Peer) -> Option<(u64, Word)> {
        let client: u64 = client.parse().ok()?;
        let words = self.known.entry(client).or_default();
        let before = newest(words).cloned();
        match state.as_deref().and_then(parse) {
            Some(word) => drop(words.insert(node, word)),
            None => drop(words.remove(&node)),
        }
        let now = newest(words).cloned();
        if now.is_none() {
            self.known.remove(&client);
        }
        match now {
            Some(now) if Some(&now) == before.as_ref() => None,
            Some(now) => Some((client, now)),
            None => before.map(|before| (client, gone_after(&before))),
        }
    }
}

fn newest(words: &BTreeMap<NodeId, Word>) -> Option<&Word> {
    words.values().max_by_key(|(clock, _)| *clock)
}

/// With the same clock `null` counts, so that a client that is still there can say so.
fn gone_after((clock, _): &Word) -> Word {
    (*clock, "null".into())
}

fn parse(state: &str) -> Option<Word> {
    let (clock, json) = state.split_once(' ')?;
    Some((clock.parse().ok()?, json.into()))
}

fn message(words: &[(u64, Word)]) -> Vec<u8> {
    let mut states = Vec::new();
    write_number(words.len() as u64, &mut states);
    for (client, (clock, json)) in words {
        write_number(*client, &mut states);
        write_number(*clock, &mut states);
        write_number(json.len() as u64, &mut states);
        states.extend_from_slice(json.as_bytes());
    }
    states
}

/// `(client, clock, JSON)` of each client once; none if that is not what it is.
fn read(states: &[u8]) -> Option<Vec<(u64, u64, &str)>> {
    let (count, mut rest) = number(states)?;
    let (mut said, mut clients) = (Vec::new(), BTreeSet::new());
    for _ in 0..count {
        let (client, behind) = number(rest)?;
        let (clock, behind) = number(behind)?;
        let (json, behind) = buffer(behind)?;
        let json = str::from_utf8(json).ok()?;
        // Editors read it without a second thought.
        serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
        if clients.insert(client) {
            said.push((client, clock, json));
        }
        rest = behind;
    }
    rest.is_empty().then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let words = [(5, (1, "{}".into())), (1 << 40, (7, r#"{"user":{"name":"ä"}}"#.into()))];
        let states = message(&words);
        assert_eq!(read(&states), Some(vec![(5, 1, "{}"), (1 << 40, 7, r#"{"user":{"name":"ä"}}"#)]));
        for cut in 0..states.len() {
            assert_eq!(read(&states[..cut]), None, "the first {cut} bytes");
        }
        assert_eq!(read(&message(&[(5, (1, "{".into()))])), None, "no JSON");
        assert_eq!(read(&[0xff, 0xff, 0xff, 0x7f]), None);
        assert_eq!(read(&[0]), Some(vec![]));
    }
}
