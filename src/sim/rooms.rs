//! Presence in the simulator: clients who show themselves, how what they show travels, and what must hold of it.
//!
//! Its messages and choices have a chance of their own and count as no steps, so that a seed means for all else what it
//! would mean without them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Violation,
    action::{Action, Showing},
    driver::{Driver, Due},
    network::Parked,
    world::World,
};
use crate::{
    op::NodeId,
    replica::{Replica, Seen, Standing},
    wire::Message,
};

/// Rooms, and clients of one node.
const ROOMS: usize = 3;
const CLIENTS: usize = 4;

/// The clients of a node, and one who follows all rooms there.
#[derive(Debug, Default)]
pub struct Guests {
    /// What the node's own clients show, by room and client.
    shows: BTreeMap<(String, String), String>,
    /// How far the changes were followed, and who is there by these.
    place: u64,
    there: BTreeMap<(String, NodeId, String), String>,
}

impl Guests {
    /// A client shows something, or is gone.
    pub fn set(&mut self, Showing { room, client, state }: &Showing) {
        let key = (room.clone(), client.clone());
        match state {
            Some(state) => drop(self.shows.insert(key, state.clone())),
            None => drop(self.shows.remove(&key)),
        }
    }

    /// Follows the changes, as a reader does who keeps a place, and now and then all that is there.
    pub fn follow(&mut self, replica: &Replica) -> Result<(), Violation> {
        let presence = replica.presence();
        if presence.end() == self.place {
            return Ok(());
        }
        let Some(seen) = presence.since(self.place) else {
            (self.there, self.place) = (all(replica), presence.end());
            return Ok(());
        };
        for Seen { room, node, client, state, .. } in seen {
            let key = (room.to_string(), node, client.to_string());
            match state {
                Some(state) => drop(self.there.insert(key, state.to_string())),
                None => drop(self.there.remove(&key)),
            }
        }
        self.place = presence.end();
        if self.there == all(replica) {
            return Ok(());
        }
        let detail = format!("node {} has {:?}, its reader {:?}", replica.node(), all(replica), self.there);
        Err(Violation { invariant: "who follows a room sees who is in it", detail })
    }
}

fn all(replica: &Replica) -> BTreeMap<(String, NodeId, String), String> {
    let there = |seen: Seen| {
        let key = (seen.room.to_string(), seen.node, seen.client.to_string());
        Some((key, seen.state?.to_string()))
    };
    replica.presence().all().filter_map(there).collect()
}

impl World {
    /// Once quiet, every node knows what the clients of all nodes show that are there, and of nobody else.
    pub fn rooms_agree(&self) -> Result<(), Violation> {
        let mut shown = BTreeSet::new();
        for (index, replica) in self.live() {
            for ((room, client), state) in &self.nodes()[index].guests.shows {
                shown.insert((room.clone(), replica.node(), client.clone(), state.clone()));
            }
        }
        for (index, replica) in self.live().filter(|(_, replica)| replica.standing() == Standing::Member) {
            let there = all(replica).into_iter().map(|((room, node, client), state)| (room, node, client, state));
            let there: BTreeSet<_> = there.collect();
            if let Some(wrong) = there.symmetric_difference(&shown).next() {
                let what = if there.contains(wrong) { "sees one who is not there" } else { "does not see one" };
                let detail = format!("node {index} {what}: {wrong:?}");
                return Err(Violation { invariant: "once quiet all know who is in the rooms", detail });
            }
        }
        Ok(())
    }
}

impl Driver<'_> {
    /// Some client shows something else of itself.
    pub(super) fn present(&mut self) -> Result<(), Violation> {
        if !self.stormy {
            return Ok(());
        }
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        if let Some(node) = self.shows.choice(&live).copied() {
            self.tally.presents += 1;
            let state = (self.shows.u32(..3) > 0).then(|| format!("s{}", self.tally.presents));
            let room = format!("r{}", self.shows.usize(..ROOMS));
            let client = format!("c{}", self.shows.usize(..CLIENTS));
            self.apply(&Action::Present(node, Showing { room, client, state }))?;
        }
        let wait_ms = self.shows.u64(..=2 * self.plan.present_ms);
        self.after(wait_ms, Due::Present);
        Ok(())
    }

    /// A message about presence has left an end.
    pub(super) fn showed(&mut self, end: usize, number: u64) {
        if matches!(self.world.message(end, number), Some(Message::Presence(_))) {
            let wait_ms = self.shows.u64(0..3);
            self.after(wait_ms, Due::Aside(Action::Shown(end)));
        }
        for at_ms in self.network.presence_fate(self.now_ms, &mut self.shows) {
            // It may come again, so it stays where it is.
            self.at(at_ms, Due::Aside(Action::Copy(end, number)));
        }
    }

    /// Something about presence takes place, if the way is free: what the network holds up is lost, which is worse.
    pub(super) fn aside(&mut self, action: &Action) -> Result<(), Violation> {
        if let Action::Copy(end, _) = action {
            let way = Parked { end: *end, number: None, between: self.between(*end) };
            if self.network.stops(&way) || !self.world.is_whole(*end) {
                return Ok(());
            }
        }
        self.apply(action)
    }
}
