//! How presence comes and goes: clients of this node show themselves, and what is new goes over the links.
//!
//! News go at once where a link is idle, else gathered, each client in its latest state. They are passed on once, but not
//! where every pair of nodes is linked. What is lost all the same, or lies behind a link that does not come about, shows in
//! the sums of the beats: then each side says how far it knows the clients of each node, and is sent what it lacks.

use std::collections::BTreeMap;

use super::{
    Effect, FULL_MESH_MAX, LinkId, Refused, Replica, Standing,
    gossip::{HEADS_MAX, SILENCE_MS, TIME_LEAP_MAX},
    presence::Way,
};
use crate::{
    op::NodeId,
    plant::{Rule, left_out},
    wire::{Attendance, Message, PRESENT_MAX, Present, Why},
};

/// Between two messages about presence on a link: a hand that moves is drawn twenty times a second.
const SHOW_EVERY_MS: u64 = 50;
/// A message about presence ends when it passes this, so that it holds up little else.
const SHOW_BYTES: usize = 64 << 10;
/// How long those who are gone are remembered, at least: far longer than a node is believed that nobody hears.
const GRAVE_MS: u64 = 30_000;

impl Replica {
    /// Whether a client of this node may show itself so. It may always leave.
    pub fn may_show(&self, room: &str, client: &str, state: Option<&str>) -> Result<(), Refused> {
        match self.standing() {
            _ if state.is_none() => {}
            Standing::Member => {}
            Standing::Retired => return Err(Refused::Retired),
            Standing::Joining | Standing::CatchingUp => return Err(Refused::NotReady),
        }
        self.presence.admits(self.config.node, room, client, state).map_err(Refused::Unseen)
    }

    pub(super) fn on_present(&mut self, room: &str, client: &str, state: Option<&str>) {
        if self.may_show(room, client, state).is_ok() {
            self.presence.set(self.config.node, self.run, room, client, state, self.now.mono_ms);
        }
    }

    /// Sends what is new on each link that takes it now.
    pub(super) fn show(&mut self) {
        let news = |link: &super::Link| self.presence.has_news(&link.shown);
        if !self.ready || !self.links.values().any(news) {
            return;
        }
        let (mesh, now_ms) = (self.roster.len() <= FULL_MESH_MAX, self.now.mono_ms);
        for (id, link) in &mut self.links {
            let member =
                link.peer.as_ref().is_some_and(|peer| self.roster.knows(peer.node) && !self.roster.is_gone(peer.node));
            let shown = &mut link.shown;
            if !member || !shown.open || shown.busy || now_ms < shown.next_ms || !self.presence.has_news(shown) {
                continue;
            }
            let presents = self.presence.news(*id, shown, mesh, (PRESENT_MAX, SHOW_BYTES));
            if !presents.is_empty() {
                (shown.busy, shown.next_ms) = (true, now_ms + SHOW_EVERY_MS);
                self.effects.push(Effect::Send(*id, Message::Presence(presents)));
            }
        }
    }

    pub(super) fn on_shown(&mut self, link: LinkId) {
        self.links.get_mut(&link).into_iter().for_each(|link| link.shown.busy = false);
    }

    pub(super) fn on_presence(&mut self, link: LinkId, presents: &[Present]) {
        let Some(peer) = self.member_at(link) else { return };
        let mut attends: BTreeMap<NodeId, bool> = BTreeMap::new();
        for present in presents {
            let node = present.node;
            if node == self.config.node {
                // Of its own clients a node knows best itself.
                self.outlive(link, present.version.0);
                self.presence.refute(present, self.run, self.now.mono_ms);
            } else if *attends.entry(node).or_insert_with(|| self.attends(node, present.version.0)) {
                let way = Way { link: Some(link), direct: peer == node };
                self.presence.take(present, way, self.now.mono_ms);
            }
        }
        self.clear_graves();
    }

    /// A member remembers a run of this node. If that is later than this one, the node has come back from an old copy of its disk:
    /// it goes on past it, or nothing that it says would count.
    pub(super) fn outlive(&mut self, link: LinkId, run: u64) {
        // Runs are named after clocks.
        let near = run <= self.clock.saturating_add(TIME_LEAP_MAX);
        if run > self.run && near && self.member_at(link).is_some() {
            self.run = run + 1;
            self.presence.go_on(self.config.node, self.run, self.now.mono_ms);
        }
    }

    /// A peer says how far it knows what clients show, since its rooms are not those of this node.
    pub(super) fn on_attendance(&mut self, link: LinkId, known: &[(NodeId, Attendance)]) {
        if known.len() > HEADS_MAX {
            return self.refuse(link, Why::Broken, "too many nodes with clients in rooms".into());
        }
        let known: BTreeMap<NodeId, Attendance> = known.iter().copied().collect();
        if let Some(link) = self.links.get_mut(&link) {
            self.presence.compare(&mut link.shown, &known);
        }
    }

    /// A peer has said the sum over its rooms. News may be under way; if the rooms differ beat by beat, it is asked why.
    pub(super) fn compare_rooms(&mut self, link: LinkId, theirs: u64) {
        let differs = theirs != self.presence.digest();
        let Some(found) = self.links.get_mut(&link) else { return };
        if std::mem::replace(&mut found.shown.differed, differs) && differs && self.ready && !left_out(Rule::Attendance)
        {
            self.effects.push(Effect::Send(link, Message::Attendance(self.presence.attendance())));
        }
    }

    /// The clients of nodes that are gone, or are not heard any more, are gone too.
    pub(super) fn part_from_absent(&mut self) {
        let (own, now_ms) = (self.config.node, self.now.mono_ms);
        for (node, run) in self.presence.owners().into_iter().filter(|_| !left_out(Rule::Absent)) {
            let stays = if node == own { !self.roster.is_retired(own) } else { self.attends(node, run) };
            if !stays {
                self.presence.drop_node(node, now_ms);
            }
        }
        self.clear_graves();
        self.presence.beat();
    }

    fn clear_graves(&mut self) {
        let patience_ms = 3 * self.pulse_every() + SILENCE_MS;
        self.presence.clear(self.now.mono_ms, GRAVE_MS + 2 * patience_ms);
    }

    /// Whether the clients of another node count, as they are in this run of it: it is a member that is heard, and has not
    /// started anew since.
    fn attends(&self, node: NodeId, run: u64) -> bool {
        let started_anew = self.pulses.get(&node).is_some_and(|(pulse, _)| pulse.count.0 > run);
        let member = self.roster.knows(node) && !self.roster.is_gone(node);
        member && !started_anew && self.is_heard(node, self.now.mono_ms)
    }

    /// The member that a link leads to.
    fn member_at(&self, link: LinkId) -> Option<NodeId> {
        let peer = self.links.get(&link)?.peer.as_ref()?.node;
        (self.roster.knows(peer) && !self.roster.is_gone(peer)).then_some(peer)
    }
}
