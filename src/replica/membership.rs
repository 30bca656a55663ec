//! What a node does about members that leave: whom it listens to, whom it links with, and when it must itself come back
//! as another.

use std::collections::{BTreeMap, BTreeSet};

use super::{LinkId, Replica, gossip::SILENCE_MS, rebirth::Loss};
use crate::{
    op::{Command, Eviction, Head, NodeId},
    plant::{Rule, left_out},
    wire::{Hello, Why},
};

/// How long a node waits in a dead end, the first time; each further time twice as long.
const DEAD_END_MS: u64 = 10_000;

/// That nobody remains in a node's eyes, while what would tell it otherwise rests on ops that it must not take.
#[derive(Debug, Default)]
pub(super) struct DeadEnd {
    since_ms: Option<u64>,
    /// How often it has left one.
    left: u32,
}

/// Since when this node has heard nothing of members, while it heard a majority.
#[derive(Debug, Default)]
pub(super) struct Signs {
    silent_since_ms: BTreeMap<NodeId, u64>,
    noted_ms: u64,
}

impl Signs {
    /// Notes at a beat who is silent. What a node that did not listen has not heard says nothing.
    fn note(&mut self, now_ms: u64, listens: bool, silent: &[NodeId]) {
        let stood_still = now_ms > self.noted_ms + SILENCE_MS;
        if !listens || stood_still {
            self.silent_since_ms.clear();
        }
        self.noted_ms = now_ms;
        self.silent_since_ms.retain(|node, _| silent.contains(node));
        for node in silent {
            self.silent_since_ms.entry(*node).or_insert(now_ms);
        }
    }

    /// Those who have been silent for so long.
    fn silent_for(&self, after_ms: u64) -> Vec<NodeId> {
        let long = |(_, since_ms): &(&NodeId, &u64)| self.noted_ms >= since_ms.saturating_add(after_ms);
        self.silent_since_ms.iter().filter(long).map(|(node, _)| *node).collect()
    }
}

impl Replica {
    /// Whether the ops of `origin` are not taken on this link: once a member is evicted, only what the remaining members
    /// hold of it counts, and a fence says how much that is.
    pub(super) fn is_closed_to(&self, link: LinkId, origin: NodeId) -> bool {
        // A newcomer begins with what its host holds, all of it and nothing else.
        let newcomer = !self.ready && self.log.head(self.config.node).seq == 0;
        if !self.roster.is_evicted(origin) || newcomer || left_out(Rule::FencedSource) {
            return false;
        }
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        // Not from one who has retired, either: what it passes on comes behind no fence of its own. A newcomer, which has no
        // frontier yet, cannot tell who is rooted.
        let remaining = &self.finality.assembly.remaining;
        // Nor can one in whose eyes nobody remains; but its answer, which all others wait for, says what it took.
        let cannot_tell = !self.ready || remaining.is_empty() && self.roster.owes_first_fence(self.config.node, origin);
        let rooted = |peer| cannot_tell || remaining.contains(&peer);
        // Nor from a newcomer that has not announced anything yet: it may have been given what it must not keep.
        let speaks = |peer| !self.ready || self.pulses.get(&peer).is_some_and(|(pulse, _)| pulse.count > (0, 0));
        let remains = |peer| self.roster.knows(peer) && !self.roster.is_gone(peer) && rooted(peer);
        !peer.is_some_and(|peer| remains(peer) && speaks(peer))
    }

    /// Whether a newcomer with these heads was given what an evicted member went on with when the others had cut it off. It
    /// cannot become a member with that, for all that members hold counts; it has to begin anew.
    pub(super) fn is_tainted(&mut self, link: LinkId, heads: &[(NodeId, Head)]) -> bool {
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        if !self.ready || peer.is_none_or(|peer| self.roster.knows(peer)) {
            return false;
        }
        let node = self.config.node;
        let past = |(origin, head): &&(NodeId, Head)| self.roster.is_past_fences(node, *origin, head.seq);
        let Some((origin, _)) = heads.iter().find(past) else { return false };
        let detail = format!("it holds what {origin} did when it was evicted already: it begins anew");
        self.refuse(link, Why::Evicted, detail);
        true
    }

    /// Why there is no link with this node any more, if the pool goes on without it.
    pub(super) fn goes_on_without(&self, node: NodeId) -> Option<(Why, String)> {
        let effective = self.roster.is_evicted(node) && !self.finality.assembly.pending.contains(&node);
        let detail = match () {
            () if self.roster.is_retired(node) => format!("{node} has retired: started with --join it joins again"),
            () if effective => {
                format!("{node} was evicted, and the pool goes on without it: it joins again as another")
            }
            () => return None,
        };
        // One who has left itself does not speak for the pool: nobody is to give up anything on its word.
        let why = if self.roster.is_retired(self.config.node) { Why::Busy } else { Why::Evicted };
        Some((why, detail))
    }

    /// Whether the word of this peer, that the pool goes on without this node, is to be believed: unless this side has
    /// evicted it in turn; then an operator says which side gives way, by telling it to join the other.
    pub(super) fn believes(&self, link: LinkId) -> bool {
        let told = self.is_told_to_join(link);
        let Some(link) = self.links.get(&link) else { return false };
        // Who has not said hello yet has a URL that a member has.
        let peer = link.peer.as_ref().map(|peer| peer.node).or_else(|| {
            let url = &link.dialled.as_ref()?.url;
            self.roster.present().find(|(_, member)| member.urls.contains(url)).map(|(node, _)| *node)
        });
        // An old copy of a disk may be from before it knew the peer.
        let says = link.peer.as_ref().is_some_and(|peer| peer.member && !self.roster.knows(peer.node));
        told || says || peer.is_some_and(|peer| self.roster.knows(peer) && !self.roster.is_gone(peer))
    }

    /// Whether an operator has told this node to join one whom it had evicted: of two sides that evict each other, it is
    /// then this one that comes back as another.
    pub(super) fn gives_way_to(&self, link: LinkId, hello: &Hello) -> bool {
        let same_pool = self.pool.is_some() && self.pool == hello.pool;
        self.is_told_to_join(link) && same_pool && hello.member && self.roster.is_evicted(hello.node)
    }

    /// A node that the others have cut off comes back as another, with what only it has; so does one that hangs on such a
    /// node.
    pub(super) fn leave_if_cast_out(&mut self) {
        let assembly = &self.finality.assembly;
        // Not without someone who has what it gives up.
        let others = self.linked().any(|(peer, _)| assembly.remaining.contains(&peer));
        if assembly.outcast && others && !self.stays_retired() {
            let why = format!("{} is no part of the pool any more, and comes back as another", self.config.node);
            self.be_reborn(why, Loss::CutOff);
        }
    }

    /// A newcomer that came behind the fences of one side while evictions crossed may lack ops that it can take from nobody, for
    /// it cannot tell who remains, and that those ops would tell. It begins anew, with all that one host holds.
    pub(super) fn leave_dead_end(&mut self) {
        let stuck = self.ready && self.finality.assembly.remaining.is_empty() && self.early.len() > 0;
        if !stuck || !self.linked().any(|(peer, _)| self.roster.knows(peer) && !self.roster.is_gone(peer)) {
            self.dead_end.since_ms = None;
            return;
        }
        let (now_ms, left) = (self.now.mono_ms, self.dead_end.left);
        let since_ms = *self.dead_end.since_ms.get_or_insert(now_ms);
        if now_ms >= since_ms + (DEAD_END_MS << left.min(16)) {
            self.dead_end = DeadEnd { since_ms: None, left: left + 1 };
            let why = format!("{} cannot tell who remains, and comes back as another", self.config.node);
            self.be_reborn(why, Loss::CutOff);
        }
    }

    /// Where a newcomer has come up in the place of a member that fell silent, that member will not come back: it is
    /// evicted, or it would hold back finality for ever. The newcomer sees to that, and who let it in.
    pub(super) fn replace_predecessors(&mut self) {
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        // Who has just come up has not had the time to hear of anyone.
        let silent_after_ms = self.silent_after_ms();
        let listened = now_ms >= *self.listens_since_ms.get_or_insert(now_ms) + silent_after_ms;
        // Where all others are this node itself, under ids that it had, there is nobody to hear of.
        let alone = self.roster.present().all(|(other, _)| *other == node || self.former.contains(other));
        if !self.ready || !listened && !alone {
            return;
        }
        let mine = |(other, member): &(&NodeId, &super::Member)| {
            !member.urls.is_empty() && (**other == node || member.is_sponsored_by(node))
        };
        let newer: Vec<(NodeId, super::Member)> =
            self.roster.present().filter(mine).map(|(node, member)| (*node, member.clone())).collect();
        let replaced: BTreeSet<NodeId> = newer
            .iter()
            .flat_map(|(newcomer, member)| {
                let before = move |(other, old): &(&NodeId, &super::Member)| {
                    *other != newcomer && **other != node && old.urls == member.urls && old.added < member.added
                };
                self.roster.present().filter(before).map(|(other, _)| *other)
            })
            .chain(self.never_came())
            .filter(|other| !self.is_heard(*other, now_ms))
            .collect();
        for node in replaced {
            self.issue_alone(Command::Evict(Eviction { node, force: true }));
        }
    }

    /// Evicts members that no remaining member has heard for as long as the operator has said. Signs of life spread through the pool,
    /// so what came here is what came to anyone whom this node hears. A majority must be heard: so of two sides of a
    /// cut pool one at most evicts the other. The others leave it to the smallest of those who are heard, for a while.
    pub(super) fn evict_absent(&mut self) {
        let Some(after_ms) = self.config.evict_after_ms else { return };
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        let others = || self.roster.present().map(|(other, _)| *other).filter(|other| *other != node);
        let heard: BTreeSet<NodeId> = others().filter(|other| self.is_heard(*other, now_ms)).collect();
        let sound = self.ready && !self.finality.assembly.outcast && self.finality.assembly.remaining.contains(&node);
        let speaks = |other: &NodeId| *other == node || heard.contains(other);
        // Who was cut off, or stood still, cannot tell who was silent meanwhile; nor can one who has just come up.
        let listens = sound && self.roster.are_majority(speaks, self.reach());
        let silent: Vec<NodeId> = others().filter(|other| !heard.contains(other)).collect();
        self.signs.note(now_ms, listens, &silent);
        if !listens {
            return;
        }
        let turn = heard.iter().filter(|other| **other < node).count() as u64;
        let after_ms = after_ms.saturating_add(turn * self.silent_after_ms());
        for node in self.signs.silent_for(after_ms) {
            self.issue_alone(Command::Evict(Eviction { node, force: false }));
        }
    }

    /// Members that have issued nothing and never will: this node was let in under such an id, and had given it up; or it has let
    /// one in, of which nothing was heard, and whose address another member has.
    fn never_came(&self) -> impl Iterator<Item = NodeId> {
        let (now_ms, silent_after_ms) = (self.now.mono_ms, self.silent_after_ms());
        let idle = self.roster.present().filter(|(other, _)| self.log.head(**other).seq == 0);
        let ghost = move |(other, member): &(&NodeId, &super::Member)| {
            let let_in_ms = self.let_in.get(*other).copied().unwrap_or(0);
            let expected = member.is_sponsored_by(self.config.node) && now_ms >= let_in_ms + silent_after_ms;
            let has_address = |(twin, it): (&NodeId, &super::Member)| {
                twin != *other && it.urls == member.urls && self.is_heard(*twin, now_ms)
            };
            self.former.contains(*other)
                || expected && !member.urls.is_empty() && self.roster.present().any(has_address)
        };
        let node = self.config.node;
        idle.filter(move |(other, _)| **other != node).filter(ghost).map(|(other, _)| *other)
    }

    /// Ends the links with those whom the pool goes on without.
    pub(super) fn part_from_evicted(&mut self) {
        let gone: Vec<(LinkId, (Why, String))> =
            self.linked().filter_map(|(node, link)| Some((link, self.goes_on_without(node)?))).collect();
        gone.into_iter().for_each(|(link, (why, detail))| self.refuse(link, why, detail));
    }

    /// Whether a member was heard of lately, by any way.
    pub(super) fn is_heard(&self, node: NodeId, mono_ms: u64) -> bool {
        let (pulse, heard_ms) = self.pulses.get(&node).copied().unwrap_or_default();
        let lately = pulse.count > (0, 0) && mono_ms.saturating_sub(heard_ms) < self.silent_after_ms();
        lately || self.linked_to(node).is_some()
    }

    /// How long nothing was heard of a member that counts as silent.
    fn silent_after_ms(&self) -> u64 {
        3 * self.pulse_every() + SILENCE_MS
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_a_node_has_not_heard_while_it_heard_no_majority_or_stood_still_says_nothing() {
        let silent = [NodeId(Uuid::from_u128(2))];
        let silent_at = |notes: &mut dyn Iterator<Item = (u64, bool)>| {
            let mut signs = Signs::default();
            notes.for_each(|(now_ms, listens)| signs.note(now_ms, listens, &silent));
            signs.silent_for(15_000)
        };
        let seconds = || (1..=20).map(|second| second * 1_000);
        assert_eq!(silent_at(&mut seconds().map(|now_ms| (now_ms, true))), silent);
        assert_eq!(silent_at(&mut seconds().map(|now_ms| (now_ms, now_ms != 10_000))), []);
        assert_eq!(
            silent_at(&mut seconds().filter(|now_ms| !(3_000..12_000).contains(now_ms)).map(|now_ms| (now_ms, true))),
            []
        );
    }
}
