//! How a node leaves its pool for good, and how a directory whose node has left joins it again.
//!
//! A node retires once another member holds all that it has issued, what it had to issue again included: so nothing that it has
//! acknowledged goes with it, whoever hears of the retirement and whoever evicts it in the end. Its op names all that it held,
//! so who holds that op holds all of this.

use super::{LinkId, Member, Refused, Replica, Unfit};
use crate::{
    op::{Command, NodeId, Op, Stamp},
    plant::{Rule, left_out},
};

/// A stamp past all others.
const LAST: Stamp = Stamp { time: u64::MAX, origin: NodeId(uuid::Uuid::max()) };

/// What a node has that no other member is known to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unshared {
    /// How many ops it has issued that no other member has said it holds, about.
    pub own: u64,
    /// How many ops of ids that it had to give up it has yet to issue again.
    pub orphans: usize,
    /// The number of members that were this node itself, under ids that it gave up, and that it has yet to evict. No other node does.
    pub predecessors: usize,
    /// Whether no other member is linked to it, so that nobody would hear what it does.
    pub unheard: bool,
}

impl Unshared {
    /// Whether there is nothing of the kind.
    pub fn is_nothing(self) -> bool {
        self == Unshared::default()
    }
}

impl Replica {
    /// What would be lost if the node were gone for good now.
    pub fn unshared(&self) -> Unshared {
        let head = self.log.head(self.config.node).seq;
        let held = self.held_elsewhere().min(head);
        let member = |(peer, _): (NodeId, LinkId)| self.roster.knows(peer) && !self.roster.is_gone(peer);
        let unheard = !self.linked().any(member);
        let predecessors = if left_out(Rule::Predecessors) { 0 } else { self.predecessors_to_evict() };
        Unshared { own: head - held, orphans: self.orphans.len(), predecessors, unheard }
    }

    /// How many of this node's ops another member is known to hold. What is final all members hold.
    fn held_elsewhere(&self) -> u64 {
        let (node, log, frontier) = (self.config.node, &self.log, self.finality.frontier);
        let head = log.head(node).seq;
        let last = log.last_of(node).map_or(log.horizon(), Op::time);
        let tentative = log.before(LAST, Some(node)).take_while(|op| op.time() > frontier).count() as u64;
        let held = |(other, _): (&NodeId, &Member)| {
            let link = || self.linked_to(*other).and_then(|link| self.links.get(&link));
            if self.finality.is_complete(*other, last) { head } else { link().map_or(0, |link| link.held_of(node)) }
        };
        let others = self.roster.present().filter(|(other, _)| **other != node);
        others.map(held).max().unwrap_or(0).max(head - tentative)
    }

    /// Whether the node may retire, as things stand.
    pub(super) fn may_retire(&self) -> Result<(), Refused> {
        let unshared = self.unshared();
        let unfit = if self.roster.len() < 2 {
            Unfit::Last
        } else if !unshared.is_nothing() && !left_out(Rule::Shared) {
            Unfit::Unshared(unshared)
        } else if !self.leaves_heard_majority() && !left_out(Rule::RetireHeard) {
            Unfit::Needed
        } else {
            return Ok(());
        };
        Err(Refused::Membership(self.config.node, unfit))
    }

    /// True if the others that are heard are a majority without this node: so they can evict members that are silent, and complete
    /// evictions that are under way.
    fn leaves_heard_majority(&self) -> bool {
        let heard = |other: &NodeId| self.is_heard_just_now(*other);
        self.roster.are_majority_without(self.config.node, heard, self.reach())
    }

    /// Whether this node has retired, and is to stay what it is.
    pub(super) fn stays_retired(&self) -> bool {
        self.roster.is_retired(self.config.node) && !self.rejoins
    }

    /// Where members retired at the same time, nobody remains to take them in again. The one whose retirement is the last
    /// in the order goes on with what it holds, which is all that the others had when they left; they join it. Each of them
    /// knows of its own, so no two are the last in their own eyes.
    pub(super) fn go_on_as_last(&mut self) {
        let node = self.config.node;
        let nobody = self.roster.is_empty() && self.finality.assembly.pending.is_empty();
        if !self.rejoins || !nobody || self.roster.last_retired() != Some(node) || self.spoilt {
            return;
        }
        self.rejoins = false;
        self.counters.rejoined += 1;
        self.go_on_as_another();
        self.announce();
    }
}

impl super::Roster {
    /// The member whose retirement is the last in the order.
    fn last_retired(&self) -> Option<NodeId> {
        let retires = |op: &&Op| matches!(op.body().commands.first(), Some(Command::Retire));
        self.ops().rev().find(retires).map(Op::origin)
    }
}
