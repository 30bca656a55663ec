//! What clients show of themselves in rooms: on this node, and on all others as far as it has heard.
//!
//! It is never logged, and it dies with its connection and its node. An entry is known by its room, its node and the name
//! that the node gives the client; only that node changes it, and counts up a version with each change. Whatever changes
//! gets the next *place*: readers and links keep one, and find what has changed since, each entry once in its latest state.
//! So nobody keeps a queue. What is gone stays as a *grave* for a while, lest a message that is late bring it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use super::link::LinkId;
use crate::{
    op::NodeId,
    wire::{Attendance, CLIENT_BYTES_MAX, Present, ROOM_BYTES_MAX, STATE_BYTES_MAX},
};

/// Most entries of one node, and most bytes of them. Its own clients are refused past that; of others no more is taken.
pub const PRESENT_OF_NODE_MAX: (usize, usize) = (16_384, 8 << 20);
/// Most bytes of all entries together: a bound on what the members of a large pool can make one of them keep.
pub const PRESENCE_BYTES_MAX: usize = 64 << 20;
/// Most graves; then the oldest go, and a late message might bring back who is long gone, until its node is heard again.
const GRAVES_MAX: usize = 32_768;
/// What an entry costs besides its texts, about.
const ENTRY_BYTES: usize = 200;
/// The version of what is gone because its node is: whatever that node says next is newer.
const VOID: (u64, u64) = (0, 0);

/// Why a client cannot show itself. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// The name of the room is empty or over [`ROOM_BYTES_MAX`].
    BadRoom,
    /// The name of the client is empty or over [`CLIENT_BYTES_MAX`].
    BadClient,
    /// The state is over [`STATE_BYTES_MAX`].
    TooLarge,
    /// The node has all the entries that it may have: [`PRESENT_OF_NODE_MAX`].
    Full,
}

/// A client in a room, as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The place of its last change.
    pub place: u64,
    /// The room.
    pub room: Arc<str>,
    /// The node that it is connected to.
    pub node: NodeId,
    /// Its name there.
    pub client: Arc<str>,
    /// What it shows; none if it is gone.
    pub state: Option<Arc<str>>,
}

/// What clients show of themselves.
#[derive(Debug, Default)]
pub struct Presence {
    entries: BTreeMap<Key, Entry>,
    /// The entries by their places.
    order: BTreeMap<u64, Key>,
    /// The places of those that are gone.
    graves: BTreeSet<u64>,
    owners: BTreeMap<NodeId, Owner>,
    bytes: usize,
    digest: u64,
    end: u64,
    /// Graves up to this place are cleared away: who has not read so far may miss that someone is gone.
    cleared: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    room: Arc<str>,
    node: NodeId,
    client: Arc<str>,
}

/// Where an entry came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// The link on which it came; none for this node's own.
    pub(super) link: Option<LinkId>,
    /// Whether that link leads to the node whose entry it is.
    pub(super) direct: bool,
}

#[derive(Debug)]
struct Entry {
    place: u64,
    version: (u64, u64),
    state: Option<Arc<str>>,
    way: Way,
    changed_ms: u64,
}

/// What is known of one node's entries.
#[derive(Debug, Default)]
struct Owner {
    known: Attendance,
    /// The same one and two beats ago.
    before: [Attendance; 2],
    entries: usize,
    bytes: usize,
    /// Whether some were not taken for want of room.
    full: bool,
}

/// What a link has been sent of presence.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Whether the peer has heard this node's hello. What goes out without waiting for the disk must not overtake that.
    pub(super) open: bool,
    /// Whether the last message is still on its way to the socket.
    pub(super) busy: bool,
    /// When the next may be sent.
    pub(super) next_ms: u64,
    /// Whether the peer's rooms were others at its last beat.
    pub(super) differed: bool,
    /// The place up to which it was sent what it does not have.
    place: u64,
    /// The place up to which it was sent that once before, if it is gone through again for what it lacks.
    again_to: u64,
    /// The nodes of which it lacks something.
    again: BTreeSet<NodeId>,
    /// The nodes whose entries have to be passed on to it, though every pair of nodes should be linked.
    relays: BTreeSet<NodeId>,
}

impl Presence {
    /// The place behind the newest change.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What has changed behind a place, in the order of the changes, each entry once; none if the reader has fallen behind:
    /// then it begins anew with [`Presence::all`].
    pub fn since(&self, place: u64) -> Option<impl Iterator<Item = Seen>> {
        let known = (self.cleared..=self.end).contains(&place);
        let behind = self.order.range((Bound::Excluded(place), Bound::Unbounded));
        known.then(|| behind.filter_map(|(_, key)| Some(seen(key, self.entries.get(key)?))))
    }

    /// All that is there, room by room.
    pub fn all(&self) -> impl Iterator<Item = Seen> {
        self.entries.iter().filter(|(_, entry)| entry.state.is_some()).map(|(key, entry)| seen(key, entry))
    }

    /// How many entries there are, and how many bytes they take.
    pub fn size(&self) -> (usize, usize) {
        (self.owners.values().map(|owner| owner.entries).sum(), self.bytes)
    }

    /// Who is in a room.
    pub fn room(&self, room: &str) -> impl Iterator<Item = Seen> {
        let room: Arc<str> = room.into();
        let first = Key { room: Arc::clone(&room), node: NodeId(uuid::Uuid::nil()), client: "".into() };
        let there = self.entries.range(first..).take_while(move |(key, _)| key.room == room);
        there.filter(|(_, entry)| entry.state.is_some()).map(|(key, entry)| seen(key, entry))
    }

    /// A sum over all that is there.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether a client of this `node` may show itself so.
    pub(super) fn admits(&self, node: NodeId, room: &str, client: &str, state: Option<&str>) -> Result<(), Unseen> {
        if !(1..=ROOM_BYTES_MAX).contains(&room.len()) {
            return Err(Unseen::BadRoom);
        }
        if !(1..=CLIENT_BYTES_MAX).contains(&client.len()) {
            return Err(Unseen::BadClient);
        }
        let Some(state) = state else { return Ok(()) };
        if state.len() > STATE_BYTES_MAX {
            return Err(Unseen::TooLarge);
        }
        let key = Key { room: room.into(), node, client: client.into() };
        if self.has_room(&key, state) { Ok(()) } else { Err(Unseen::Full) }
    }

    /// Sets an entry of this node itself, in this run of it.
    pub(super) fn set(&mut self, node: NodeId, run: u64, room: &str, client: &str, state: Option<&str>, now_ms: u64) {
        let key = Key { room: room.into(), node, client: client.into() };
        let shown = self.entries.get(&key).and_then(|entry| entry.state.as_deref());
        if shown == state {
            return;
        }
        self.put(key, self.next_version(node, run), state.map(Into::into), Way::default(), now_ms);
    }

    /// Takes what another node shows, if that is newer than what is known of it and there is room.
    pub(super) fn take(&mut self, present: &Present, way: Way, now_ms: u64) {
        let Present { node, room, client, version, state } = present;
        let key = Key { room: Arc::clone(room), node: *node, client: Arc::clone(client) };
        let owner = self.owners.entry(*node).or_default();
        let run = owner.known.version.0;
        if version.0 < run || self.entries.get(&key).is_some_and(|known| known.version >= *version) {
            return;
        }
        if state.as_ref().is_some_and(|state| !self.has_room(&key, state)) {
            self.owners.entry(*node).or_default().full = true;
            return;
        }
        if version.0 > run {
            self.end_runs(*node, version.0, now_ms);
        }
        self.put(key, *version, state.clone(), way, now_ms);
    }

    /// Goes on in another run with what this node's own clients show.
    pub(super) fn go_on(&mut self, node: NodeId, run: u64, now_ms: u64) {
        let own: Vec<Seen> = self.all().filter(|seen| seen.node == node).collect();
        for Seen { room, client, state, .. } in own {
            self.put(Key { room, node, client }, self.next_version(node, run), state, Way::default(), now_ms);
        }
    }

    /// Whether this is of a life of this node that it does not know: it is newer than all that it has said in this one.
    pub(super) fn is_unknown(&self, present: &Present) -> bool {
        self.owners.get(&present.node).is_none_or(|owner| owner.known.version < present.version)
    }

    /// Another node has heard something newer of a client of this node, in an earlier life of it: it is told what is.
    pub(super) fn refute(&mut self, present: &Present, run: u64, now_ms: u64) {
        let Present { node, room, client, version, state } = present;
        let key = Key { room: Arc::clone(room), node: *node, client: Arc::clone(client) };
        let known = self.entries.get(&key);
        let shown = known.and_then(|known| known.state.clone());
        let older = known.is_none_or(|known| known.version < *version);
        if older && (shown.is_some() || state.is_some()) {
            self.put(key, self.next_version(*node, run), shown, Way::default(), now_ms);
        }
    }

    /// Gives the clients of a node that goes on under another id to that.
    pub(super) fn rename(&mut self, from: NodeId, to: NodeId, run: u64, now_ms: u64) {
        let own: Vec<Seen> = self.all().filter(|seen| seen.node == from).collect();
        self.drop_node(from, now_ms);
        for Seen { room, client, state, .. } in own {
            self.set(to, run, &room, &client, state.as_deref(), now_ms);
        }
    }

    /// The nodes of which entries are known, each with its run.
    pub(super) fn owners(&self) -> Vec<(NodeId, u64)> {
        self.owners.iter().map(|(node, owner)| (*node, owner.known.version.0)).collect()
    }

    /// A node is gone, and its clients with it. Nothing that it says later is taken for old.
    pub(super) fn drop_node(&mut self, node: NodeId, now_ms: u64) {
        self.end_runs(node, u64::MAX, now_ms);
        self.owners.remove(&node);
    }

    /// A node has started anew: what it showed before is void.
    pub(super) fn end_runs(&mut self, node: NodeId, run: u64, now_ms: u64) {
        let mut ended = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(key, entry)| key.node == node && entry.version.0 < run) {
            if entry.state.is_some() {
                ended.push(key.clone());
            } else {
                entry.version = VOID;
            }
        }
        ended.into_iter().for_each(|key| self.put(key, VOID, None, Way::default(), now_ms));
        if let Some(owner) = self.owners.get_mut(&node) {
            owner.known.version = (run, 0);
        }
    }

    /// Clears away graves older than this.
    pub(super) fn clear(&mut self, now_ms: u64, keep_ms: u64) {
        while let Some(place) = self.graves.first().copied() {
            let Some(key) = self.order.get(&place) else { break };
            let old = self.entries.get(key).is_none_or(|entry| now_ms >= entry.changed_ms + keep_ms);
            if !old && self.graves.len() <= GRAVES_MAX {
                break;
            }
            self.graves.remove(&place);
            self.cleared = place;
            if let Some(key) = self.order.remove(&place) {
                self.entries.remove(&key);
            }
        }
    }

    /// A beat has passed: what was known then is what peers must have by now.
    pub(super) fn beat(&mut self) {
        let (entries_max, bytes_max) = PRESENT_OF_NODE_MAX;
        let spacious = self.bytes < PRESENCE_BYTES_MAX / 2;
        for owner in self.owners.values_mut() {
            owner.before = [owner.before[1], owner.known];
            owner.full &= !(spacious && owner.entries < entries_max / 2 && owner.bytes < bytes_max / 2);
        }
    }

    /// How far this node knows what the clients of each node show. Of one of whom it cannot take all it asks for nothing.
    pub(super) fn attendance(&self) -> Vec<(NodeId, Attendance)> {
        let known = |owner: &Owner| {
            let version = if owner.full { (u64::MAX, u64::MAX) } else { owner.known.version };
            Attendance { version, ..owner.known }
        };
        self.owners.iter().map(|(node, owner)| (*node, known(owner))).collect()
    }

    /// A peer has said how far it knows what clients show: it is to be sent again what it lacks of whom it has not kept up with.
    pub(super) fn compare(&self, shown: &mut Shown, theirs: &BTreeMap<NodeId, Attendance>) {
        let lacks = |(node, owner): &(&NodeId, &Owner)| {
            let theirs = theirs.get(node).copied().unwrap_or_default();
            let [earlier, last] = owner.before;
            let lost = theirs.version == owner.known.version && last == owner.known;
            theirs.digest != owner.known.digest && (theirs.version < earlier.version || lost)
        };
        let lacking: Vec<NodeId> = self.owners.iter().filter(lacks).map(|(node, _)| *node).collect();
        if !lacking.is_empty() {
            shown.again.extend(&lacking);
            shown.relays.extend(&lacking);
            shown.again_to = shown.again_to.max(shown.place);
            shown.place = 0;
        }
    }

    /// Whether the peer of a link may lack something.
    pub(super) fn has_news(&self, shown: &Shown) -> bool {
        shown.place < self.end
    }

    /// The next of what the peer of a link does not have, at most so many entries and bytes. With `mesh`, every pair of nodes is
    /// linked.
    pub(super) fn news(&self, link: LinkId, shown: &mut Shown, mesh: bool, most: (usize, usize)) -> Vec<Present> {
        let (mut news, mut bytes) = (Vec::new(), 0);
        let mut reached = self.end;
        for (place, key) in self.order.range((Bound::Excluded(shown.place), Bound::Unbounded)) {
            let Some(entry) = self.entries.get(key) else { continue };
            let goes = if *place <= shown.again_to {
                shown.again.contains(&key.node)
            } else {
                let heard = mesh && entry.way.direct && !shown.relays.contains(&key.node);
                entry.way.link != Some(link) && !heard
            };
            if !goes || entry.version == VOID {
                continue;
            }
            bytes += key.bytes() + entry.state.as_ref().map_or(0, |state| state.len());
            news.push(Present {
                node: key.node,
                room: Arc::clone(&key.room),
                client: Arc::clone(&key.client),
                version: entry.version,
                state: entry.state.clone(),
            });
            if news.len() == most.0 || bytes >= most.1 {
                reached = *place;
                break;
            }
        }
        shown.place = reached;
        if shown.place >= shown.again_to {
            shown.again.clear();
        }
        news
    }

    /// Whether an entry can have this state, with all the others there are.
    fn has_room(&self, key: &Key, state: &str) -> bool {
        let held = self.entries.get(key).and_then(|entry| Some(key.bytes() + entry.state.as_ref()?.len()));
        let bytes = key.bytes() + state.len();
        let (entries, of_node) = self.owners.get(&key.node).map_or((0, 0), |owner| (owner.entries, owner.bytes));
        let after = |all: usize| all.saturating_sub(held.unwrap_or(0)) + bytes;
        entries + usize::from(held.is_none()) <= PRESENT_OF_NODE_MAX.0
            && after(of_node) <= PRESENT_OF_NODE_MAX.1
            && after(self.bytes) <= PRESENCE_BYTES_MAX
    }

    fn next_version(&self, node: NodeId, run: u64) -> (u64, u64) {
        (run, self.owners.get(&node).map_or(0, |owner| owner.known.version.1) + 1)
    }

    /// Puts an entry in the place of what it was.
    fn put(&mut self, key: Key, version: (u64, u64), state: Option<Arc<str>>, way: Way, now_ms: u64) {
        self.end += 1;
        let (place, changed_ms) = (self.end, now_ms);
        let entry = Entry { place, version, state, way, changed_ms };
        let owner = self.owners.entry(key.node).or_default();
        owner.known.version = owner.known.version.max(version);
        if let Some(state) = &entry.state {
            let (sum, bytes) = (key.sum(version), key.bytes() + state.len());
            (owner.entries, owner.bytes, self.bytes) = (owner.entries + 1, owner.bytes + bytes, self.bytes + bytes);
            owner.known.digest = owner.known.digest.wrapping_add(sum);
            self.digest = self.digest.wrapping_add(sum);
        } else {
            self.graves.insert(place);
        }
        self.order.insert(place, key.clone());
        let bytes = key.bytes();
        let sum = |version| key.sum(version);
        let before = self
            .entries
            .get(&key)
            .map(|before| (before.place, before.version, before.state.as_ref().map(|state| state.len())));
        if let Some((place, version, state)) = before {
            self.order.remove(&place);
            self.graves.remove(&place);
            if let Some(len) = state {
                let (sum, bytes) = (sum(version), bytes + len);
                (owner.entries, owner.bytes, self.bytes) = (owner.entries - 1, owner.bytes - bytes, self.bytes - bytes);
                owner.known.digest = owner.known.digest.wrapping_sub(sum);
                self.digest = self.digest.wrapping_sub(sum);
            }
        }
        self.entries.insert(key, entry);
    }
}

impl Key {
    fn bytes(&self) -> usize {
        self.room.len() + self.client.len() + ENTRY_BYTES
    }

    /// What an entry adds to the sums. What it shows follows from its version.
    fn sum(&self, version: (u64, u64)) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.node.0.as_bytes()).update(&version.0.to_le_bytes()).update(&version.1.to_le_bytes());
        hasher
            .update(&(self.room.len() as u64).to_le_bytes())
            .update(self.room.as_bytes())
            .update(self.client.as_bytes());
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes"))
    }
}

fn seen(key: &Key, entry: &Entry) -> Seen {
    Seen {
        place: entry.place,
        room: Arc::clone(&key.room),
        node: key.node,
        client: Arc::clone(&key.client),
        state: entry.state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u128) -> NodeId {
        NodeId(uuid::Uuid::from_u128(number))
    }

    fn present(client: &str, version: (u64, u64), state: Option<&str>) -> Present {
        Present { node: node(2), room: "r".into(), client: client.into(), version, state: state.map(Into::into) }
    }

    fn take(presence: &mut Presence, present: &Present) {
        presence.take(present, Way { link: Some(LinkId(1)), direct: true }, 0);
    }

    /// Who is there, and what each shows.
    fn there(presence: &Presence) -> Vec<(String, String)> {
        let shown = |seen: Seen| Some((seen.client.to_string(), seen.state?.to_string()));
        presence.room("r").filter_map(shown).collect()
    }

    fn shows(presence: &Presence, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        assert_eq!(there(presence), expected);
    }

    /// The client, and what it shows, of each change behind a place.
    fn told(presence: &Presence, place: u64) -> Option<Vec<(String, Option<String>)>> {
        let told = |seen: Seen| (seen.client.to_string(), seen.state.map(|state| state.to_string()));
        presence.since(place).map(|seen| seen.map(told).collect())
    }

    #[test]
    fn the_newest_counts_whatever_comes_last() {
        let mut presence = Presence::default();
        take(&mut presence, &present("a", (0, 2), Some("two")));
        take(&mut presence, &present("a", (0, 1), Some("one")));
        take(&mut presence, &present("b", (0, 3), Some("three")));
        shows(&presence, &[("a", "two"), ("b", "three")]);
        assert_eq!(presence.end(), 2, "what is old is no change");
    }

    #[test]
    fn who_is_gone_is_not_brought_back_by_a_late_message() {
        let mut presence = Presence::default();
        take(&mut presence, &present("a", (0, 1), Some("here")));
        take(&mut presence, &present("a", (0, 2), None));
        take(&mut presence, &present("a", (0, 1), Some("here")));
        // Not even where the news that it is gone came first.
        take(&mut presence, &present("b", (0, 4), None));
        take(&mut presence, &present("b", (0, 3), Some("here")));
        shows(&presence, &[]);
        presence.clear(10_000, 10_001);
        take(&mut presence, &present("a", (0, 1), Some("here")));
        shows(&presence, &[]);
    }

    #[test]
    fn a_node_that_has_started_anew_has_the_clients_of_its_new_run_only() {
        let mut presence = Presence::default();
        take(&mut presence, &present("a", (5, 70), Some("old")));
        take(&mut presence, &present("b", (5, 71), Some("old")));
        take(&mut presence, &present("b", (9, 1), Some("new")));
        shows(&presence, &[("b", "new")]);
        take(&mut presence, &present("a", (5, 72), Some("older than the start")));
        shows(&presence, &[("b", "new")]);
    }

    #[test]
    fn a_node_that_was_given_up_comes_back_with_what_it_showed() {
        let mut presence = Presence::default();
        let (here, gone) = (present("a", (0, 1), Some("here")), present("b", (0, 2), None));
        [&here, &gone].into_iter().for_each(|present| take(&mut presence, present));
        presence.drop_node(node(2), 0);
        shows(&presence, &[]);
        assert_eq!((presence.digest(), presence.owners(), presence.bytes), (0, Vec::new(), 0));
        take(&mut presence, &here);
        shows(&presence, &[("a", "here")]);
    }

    #[test]
    fn a_reader_finds_each_client_once_in_its_latest_state_or_must_begin_anew() {
        let mut presence = Presence::default();
        for count in 1..=100 {
            presence.set(node(1), 0, "r", "a", Some(&count.to_string()), 0);
        }
        let place = presence.end();
        presence.set(node(1), 0, "r", "b", Some("b"), 0);
        assert_eq!(told(&presence, 0), Some(vec![("a".into(), Some("100".into())), ("b".into(), Some("b".into()))]));
        presence.set(node(1), 0, "r", "b", None, 0);
        presence.set(node(1), 0, "r", "never there", None, 0);
        assert_eq!(told(&presence, place), Some(vec![("b".into(), None)]));
        assert_eq!(told(&presence, presence.end() + 1), None, "a place of another node");
        presence.clear(1, 1);
        assert_eq!(told(&presence, place), None, "it may not know that b is gone");
        assert_eq!(told(&presence, presence.end()), Some(Vec::new()));
    }

    #[test]
    fn what_is_shown_again_is_no_change() {
        let mut presence = Presence::default();
        (0..2).for_each(|_| presence.set(node(1), 0, "r", "a", Some("same"), 0));
        assert_eq!(presence.end(), 1);
    }

    #[test]
    fn names_and_states_have_bounds() {
        let presence = Presence::default();
        let (room, client, state) =
            ("r".repeat(ROOM_BYTES_MAX), "c".repeat(CLIENT_BYTES_MAX), "s".repeat(STATE_BYTES_MAX));
        let check = |room: &str, client: &str, state: &str, expected| {
            assert_eq!(presence.admits(node(1), room, client, Some(state)), expected);
        };
        check(&room, &client, &state, Ok(()));
        check(&format!("{room}r"), &client, &state, Err(Unseen::BadRoom));
        check("", &client, &state, Err(Unseen::BadRoom));
        check(&room, &format!("{client}c"), &state, Err(Unseen::BadClient));
        check(&room, "", &state, Err(Unseen::BadClient));
        check(&room, &client, &format!("{state}s"), Err(Unseen::TooLarge));
    }

    #[test]
    fn a_node_has_so_many_clients_and_bytes_and_no_more() {
        let mut presence = Presence::default();
        let state = "s".repeat(STATE_BYTES_MAX);
        let fits = PRESENT_OF_NODE_MAX.1 / (STATE_BYTES_MAX + ENTRY_BYTES + "r".len() + 6);
        for number in 0..fits {
            presence.set(node(1), 0, "r", &format!("{number:06}"), Some(&state), 0);
        }
        let admits = |presence: &Presence, by, state: &str| presence.admits(node(by), "r", "more", Some(state));
        assert_eq!(admits(&presence, 1, &state), Err(Unseen::Full));
        assert_eq!(admits(&presence, 2, &state), Ok(()), "each node has its own");
        // Who is there already can show something else, and whoever leaves makes room.
        assert_eq!(presence.admits(node(1), "r", "000000", Some(&state)), Ok(()));
        presence.set(node(1), 0, "r", "000000", None, 0);
        assert_eq!(admits(&presence, 1, &state), Ok(()));

        let mut presence = Presence::default();
        for number in 0..PRESENT_OF_NODE_MAX.0 {
            take(&mut presence, &present(&number.to_string(), (0, 1 + number as u64), Some("")));
        }
        let before = presence.end();
        take(&mut presence, &present("more", (0, u64::MAX), Some("")));
        assert_eq!((presence.end(), presence.all().count()), (before, PRESENT_OF_NODE_MAX.0));
        let asked = presence.attendance();
        assert_eq!(asked[0].1.version, (u64::MAX, u64::MAX), "it asks for nothing that it cannot take");
    }

    #[test]
    fn all_nodes_together_have_so_many_bytes_and_graves_are_not_kept_without_bound() {
        let mut presence = Presence::default();
        let state = "s".repeat(STATE_BYTES_MAX);
        for number in 0..20_000 {
            let by = node(10 + number / 1_900);
            let present = Present { node: by, ..present(&number.to_string(), (0, 1), Some(&state)) };
            take(&mut presence, &present);
        }
        assert!((PRESENCE_BYTES_MAX - 8_192..=PRESENCE_BYTES_MAX).contains(&presence.bytes), "{}", presence.bytes);
        for number in 0..=2 * GRAVES_MAX as u64 {
            take(&mut presence, &present(&number.to_string(), (0, 1 + number), None));
        }
        presence.clear(0, 60_000);
        assert_eq!(presence.graves.len(), GRAVES_MAX);
    }

    #[test]
    fn a_client_of_this_node_that_others_only_believe_in_is_told_to_be_gone() {
        let mut presence = Presence::default();
        presence.set(node(2), 0, "r", "a", Some("here"), 0);
        let mut refuted = |client: &str| {
            let before = presence.end();
            presence.refute(&present(client, (0, 1), Some("here")), 0, 0);
            presence.end() > before
        };
        assert!(refuted("ghost"));
        assert!(!refuted("ghost"), "once is enough");
        assert!(!refuted("a"));
        shows(&presence, &[("a", "here")]);
    }
}
