//! Waiting until a number of members hold an op: peers that were sent it are asked, and answer once it is stored there.

use super::{Effect, LinkId, Member, Replica};
use crate::{
    op::{NodeId, Op, OpId},
    wire::Message,
};

impl Replica {
    /// Asks the linked peers how many of this node's ops they hold, each as soon as it was sent as many as this.
    pub(super) fn ask(&mut self, seq: u64) {
        for link in self.links.values_mut().filter(|link| link.holds_own < seq) {
            link.ask = link.ask.max(Some(seq));
        }
        self.pump_all();
    }

    pub(super) fn on_ask(&mut self, link: LinkId) {
        if let Some(peer) = self.links.get(&link).and_then(|link| link.peer.as_ref()) {
            let held = self.log.head(peer.node).seq;
            self.effects.push(Effect::Send(link, Message::Held(held)));
        }
    }

    pub(super) fn on_held(&mut self, link: LinkId, seq: u64) {
        let own = self.log.head(self.config.node).seq;
        if let Some(link) = self.links.get_mut(&link) {
            link.holds_own = link.holds_own.max(seq.min(own));
            self.counters.held += 1;
        }
    }

    /// How many members are known to hold an op, this node among them. Of another node's op less is known than of its own,
    /// which peers can be asked about: that its origin holds it, and whoever had the same log at a beat.
    pub fn holders(&self, op: OpId) -> usize {
        let node = self.config.node;
        if self.log.head(op.origin).seq < op.seq {
            return 0;
        }
        // What is forgotten comes before the horizon.
        let time = self.log.get(op).map_or(self.log.horizon(), Op::time);
        let is_final = time <= self.finality.frontier;
        let linked = |other: NodeId| self.linked_to(other).and_then(|link| self.links.get(&link));
        let holds = |(other, member): &(&NodeId, &Member)| {
            [node, op.origin].contains(other)
                || linked(**other).is_some_and(|link| link.holds(node, op))
                || is_final && member.added.time <= time
                || self.finality.is_complete(**other, time)
        };
        self.roster.present().filter(holds).count()
    }
}
