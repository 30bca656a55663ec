//! What a node does about members that leave: whom it listens to, whom it links with, and when it must itself come back
//! as another.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assembly, Effect, LinkId, Replica, gossip::SILENCE_MS, pulse::BEAT_MS, rebirth::Loss};
use crate::{
    op::{Command, Eviction, Head, NodeId},
    plant::{Rule, left_out},
    record::Record,
    wire::{Hello, Why},
};

/// How long a node waits in a dead end, the first time; each further time twice as long.
const DEAD_END_MS: u64 = 10_000;

/// Most members that a problem names.
const NAMED_MAX: usize = 8;

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
    /// Whether a majority was heard when that was noted.
    listens: bool,
}

impl Signs {
    /// Notes at a beat who is silent. What a node that did not listen has not heard says nothing.
    fn note(&mut self, now_ms: u64, listens: bool, silent: &[NodeId]) {
        let stood_still = now_ms > self.noted_ms + SILENCE_MS;
        if !listens || stood_still {
            self.silent_since_ms.clear();
        }
        (self.noted_ms, self.listens) = (now_ms, listens);
        self.silent_since_ms.retain(|node, _| silent.contains(node));
        for node in silent {
            self.silent_since_ms.entry(*node).or_insert(now_ms);
        }
    }

    /// Those who have been silent for so long.
    fn silent_for(&self, after_ms: u64) -> Vec<NodeId> {
        let long = |(_, since_ms): &(&NodeId, &u64)| self.listens && self.noted_ms >= since_ms.saturating_add(after_ms);
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
    /// cannot become a member with that, for all that members hold counts; it has to begin anew. A node that is left behind judges
    /// nobody: the peer may be of the pool that goes on.
    pub(super) fn is_tainted(&mut self, link: LinkId, heads: &[(NodeId, Head)]) -> bool {
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        if !self.ready || peer.is_none_or(|peer| self.roster.knows(peer)) || self.is_left_behind() {
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
        // Who has left, or has yet to get in, does not speak for the pool: nobody is to give up anything on its word.
        let speaks = self.ready && !self.roster.is_retired(self.config.node);
        let why = if speaks { Why::Evicted } else { Why::Busy };
        Some((why, detail))
    }

    /// Whether the word of this peer, that the pool goes on without this node, is to be believed: unless this side has
    /// evicted it in turn; then an operator says which side gives way, by telling it to join the other.
    pub(super) fn believes(&self, link: LinkId) -> bool {
        if self.is_told_to_join(link) {
            return true;
        }
        let Some(link) = self.links.get(&link) else { return false };
        if let Some(peer) = &link.peer {
            // An old copy of a disk may be from before it knew the peer. Who is no member yet speaks for no pool: the one that let
            // it in may have given way itself, and then nobody would remain.
            return (peer.member || left_out(Rule::MembersWord)) && !self.roster.is_gone(peer.node);
        }
        // Who has not said hello yet has a URL that a member has.
        let has_url = |url: &String| self.roster.present().any(|(_, member)| member.urls.contains(url));
        link.dialled.as_ref().is_some_and(|endpoint| has_url(&endpoint.url))
    }

    /// Whether an operator has told this node to join one whom it had evicted: of two sides that evict each other, it is
    /// then this one that comes back as another.
    pub(super) fn gives_way_to(&self, link: LinkId, hello: &Hello) -> bool {
        let same_pool = self.pool.is_some() && self.pool == hello.pool;
        self.is_told_to_join(link) && same_pool && hello.member && self.gives_way_for(hello.node)
    }

    /// True if a member's word that the pool goes on without this node is enough for it to come back as another. If nobody remains in
    /// its own eyes, it believes any of them: those who say so have members who remain.
    pub(super) fn is_cast_out_by(&self, link: LinkId) -> bool {
        self.nobody_remains() || self.believes(link)
    }

    /// True if this node gives up its id when an operator tells it to join that member: it has evicted the member, or evictions
    /// have crossed and it does not know the member. If no member remains, there is no pool to join.
    pub(super) fn gives_way_for(&self, node: NodeId) -> bool {
        let strange = || !self.roster.knows(node) && self.crossed_evictions().is_some();
        !self.nobody_remains() && (self.roster.is_evicted(node) || strange())
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

    /// True if this node is not counted any more and nothing is heard of the members that are: nobody here can decide anything.
    pub fn is_left_behind(&self) -> bool {
        let (remaining, now_ms) = (&self.finality.assembly.remaining, self.now.mono_ms);
        let unheard = || remaining.iter().all(|member| !self.is_heard(*member, now_ms));
        self.ready && !remaining.contains(&self.config.node) && unheard()
    }

    /// True if this node is left behind, or is being evicted. A newcomer that begins with what it holds is refused by the others, and
    /// begins again for ever.
    pub(super) fn lets_nobody_in(&self) -> bool {
        (self.is_left_behind() || self.finality.assembly.pending.contains(&self.config.node))
            && !left_out(Rule::LetsNobodyIn)
    }

    /// Whether evictions have crossed so that every member is evicted, and nobody is left who could answer any of them.
    fn nobody_remains(&self) -> bool {
        self.ready && self.roster.is_empty() && self.finality.assembly.pending.contains(&self.config.node)
    }

    /// Where nobody remains, or nothing is heard of those who do, the node at which an operator evicts another by force is the one
    /// that goes on: under a new id, with all that it holds. It evicts the others, too, and they join it again.
    pub(super) fn take_over(&mut self, evicted: NodeId) {
        if !self.is_left_behind() || left_out(Rule::TakeOver) {
            return;
        }
        let Assembly { pending, remaining, .. } = &self.finality.assembly;
        let gone: BTreeSet<NodeId> = pending.union(remaining).copied().collect();
        let urls = self.roster.all().values().flat_map(|member| member.urls.clone());
        urls.for_each(|url| self.peers.hint(&url));
        self.go_on_as_another();
        self.counters.reborn += 1;
        self.counters.took_over += 1;
        for node in gone.into_iter().filter(|node| *node != evicted) {
            self.issue_alone(Command::Evict(Eviction { node, force: true }));
        }
        self.announce();
    }

    /// Why evictions that have crossed keep anything from becoming final, and what an operator can do; nothing where they do not.
    pub fn crossed_evictions(&self) -> Option<String> {
        let Assembly { remaining, pending, .. } = &self.finality.assembly;
        if self.is_left_behind() {
            let why = if remaining.is_empty() {
                format!("every member is evicted ({})", self.named(pending))
            } else {
                format!(
                    "this node is not counted any more, nothing is heard of those who are ({})",
                    self.named(remaining)
                )
            };
            return Some(format!(
                "evictions have crossed: {why}, nobody is left to decide, and nothing becomes final. If \
                 another node says which members remain, follow that. Else link all that can still run, and evict any other of \
                 them with force=true (lamplight evict ID --force) at this node, if it is the one that is to go on: it does so \
                 under a new id with all that it holds, and the others join it again, with what only they have. Do this at one \
                 node only"
            ));
        }
        let forced = pending.iter().all(|node| self.roster.is_forced(*node));
        let decided = forced || self.roster.are_majority(|node| remaining.contains(node), self.reach());
        if !self.ready || remaining.is_empty() || decided {
            return None;
        }
        Some(format!(
            "evictions have crossed: {} are evicted, those who remain ({}) are no majority, and nothing becomes final. If no \
             other part of the pool goes on by itself, evict each of the former again with force=true (lamplight evict ID \
             --force) at one of those who remain. Who was evicted joins again under a new id, with what only it has; tell it \
             to join one of those who remain, if it does not (POST /v1/pool/join)",
            self.named(pending),
            self.named(remaining)
        ))
    }

    /// The names and ids of some members, for people.
    fn named(&self, nodes: &BTreeSet<NodeId>) -> String {
        let name = |node: &NodeId| self.roster.all().get(node).map_or("", |member| &member.name);
        let shown = nodes.iter().take(NAMED_MAX).map(|node| format!("{:?} {node}", name(node)));
        let more = if nodes.len() > NAMED_MAX { ", …" } else { "" };
        shown.collect::<Vec<_>>().join(", ") + more
    }

    /// A node that is left behind, or came behind the fences of one side while evictions crossed, may lack ops that it can take from
    /// nobody, for it cannot tell who remains, and those ops would tell. It begins anew, with all that one host holds.
    pub(super) fn leave_dead_end(&mut self) {
        let stuck = self.is_left_behind() && self.early.len() > 0;
        let mut peers = self.links.values().filter_map(|link| link.peer.as_ref());
        if !stuck || !peers.any(|peer| peer.member && !self.roster.is_gone(peer.node)) {
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

    /// Evicts members in whose place this node, or one that it let in, has come. A URL is a hint, never an identity: by force go
    /// only members that this node was itself, as it or its data directory knows, and ids that nobody ever used. A silent member
    /// that a newcomer merely shares an address with goes if a majority hears nothing of it, as without a newcomer.
    pub(super) fn replace_predecessors(&mut self) {
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        self.listens_since_ms.get_or_insert(now_ms);
        // Where all others are this node itself, under ids that it had, there is nobody to hear of.
        let alone = self.roster.present().all(|(other, _)| *other == node || self.gave_up.contains(other));
        if !self.ready || !self.has_listened() && !alone {
            return;
        }
        let (superseded, twins) = (self.superseded(), self.idle_twins());
        let silent = |other: &NodeId| *other != node && !self.is_heard(*other, now_ms);
        let unproved = superseded.iter().copied().filter(|_| left_out(Rule::Proof));
        let other_gone = self.never_came().into_iter().chain(unproved).filter(silent);
        let gone: BTreeSet<NodeId> = self.predecessors().filter(silent).chain(other_gone).collect();
        for node in gone {
            self.issue_alone(Command::Evict(Eviction { node, force: true }));
        }
        // Long enough for a sign of life to come from whoever hears one.
        for node in self.signs.silent_for(3 * self.pulse_every()) {
            let unproved = superseded.contains(&node) || twins.contains(&node);
            if unproved && !self.roster.is_gone(node) {
                self.issue_alone(Command::Evict(Eviction { node, force: false }));
            }
        }
    }

    /// The members that were this node itself, as it knows.
    fn predecessors(&self) -> impl Iterator<Item = NodeId> {
        let present = self.roster.present().map(|(other, _)| *other);
        present.filter(|other| *other != self.config.node && self.gave_up.contains(other))
    }

    /// The predecessors that this node has yet to evict. One that is heard after a while is another process.
    pub(super) fn predecessors_to_evict(&self) -> usize {
        let other_process = |it: &NodeId| self.has_listened() && self.is_heard(*it, self.now.mono_ms);
        self.predecessors().filter(|it| !other_process(it)).count()
    }

    /// True once a member that is alive would have been heard. A node that has just come up has not had the time.
    fn has_listened(&self) -> bool {
        self.listens_since_ms.is_some_and(|since_ms| self.now.mono_ms >= since_ms + self.silent_after_ms())
    }

    /// The members that were there before this node, or one that it let in, and have the same address.
    fn superseded(&self) -> BTreeSet<NodeId> {
        let node = self.config.node;
        let mine = |(other, member): &(&NodeId, &super::Member)| {
            !member.urls.is_empty() && (**other == node || member.is_sponsored_by(node))
        };
        let before = |newcomer: &super::Member| {
            let added = newcomer.added;
            let older = move |(other, old): &(&NodeId, &super::Member)| **other != node && old.added < added;
            let urls = newcomer.urls.clone();
            self.roster.present().filter(older).filter(move |(_, old)| old.urls == urls).map(|(other, _)| *other)
        };
        self.roster.present().filter(mine).flat_map(|(_, newcomer)| before(newcomer)).collect()
    }

    /// This node has had an id, and does not run under it any more.
    pub(super) fn give_up(&mut self, id: NodeId) {
        self.former.insert(id);
        self.gave_up.insert(id);
    }

    /// Another process runs under an id that this node has had, so that is no proof that the member is gone. Its journal says so,
    /// too, if it is one of these ids.
    pub(super) fn cede(&mut self, id: NodeId) {
        if id != self.config.node && self.gave_up.remove(&id) {
            self.effects.push(Effect::Store(Record::Ceded(id)));
        }
    }

    /// Notes who is silent. Signs of life spread through the pool, so what came here is what came to anyone whom this node hears,
    /// if these are a majority. Who was cut off, or stood still, cannot tell who was silent meanwhile; nor can one who has just
    /// come up.
    pub(super) fn note_silence(&mut self) {
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        let others = self.roster.present().map(|(other, _)| *other).filter(|other| *other != node);
        let (heard, silent): (BTreeSet<NodeId>, Vec<NodeId>) = {
            let (heard, silent): (Vec<_>, Vec<_>) = others.partition(|other| self.is_heard(*other, now_ms));
            (heard.into_iter().collect(), silent)
        };
        let sound = self.ready && !self.finality.assembly.outcast && self.finality.assembly.remaining.contains(&node);
        let speaks = |other: &NodeId| *other == node || heard.contains(other);
        let listens = sound && !silent.is_empty() && self.roster.are_majority(speaks, self.reach());
        self.signs.note(now_ms, listens, &silent);
    }

    /// Evicts members that no remaining member has heard for as long as the operator has said. A majority must be heard: so of two
    /// sides of a cut pool one at most evicts the other. The others leave it to the smallest of those who are heard, for a while.
    pub(super) fn evict_absent(&mut self) {
        let Some(after_ms) = self.config.evict_after_ms else { return };
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        let smaller = self.roster.present().map(|(other, _)| *other).filter(|other| *other < node);
        let turn = smaller.filter(|other| self.is_heard(*other, now_ms)).count() as u64;
        let after_ms = after_ms.saturating_add(turn * self.silent_after_ms());
        for node in self.signs.silent_for(after_ms) {
            if !self.roster.is_gone(node) {
                self.issue_alone(Command::Evict(Eviction { node, force: false }));
            }
        }
    }

    /// Members that never were there: this node has let them in, and nothing was ever heard of them. Each has the address of
    /// another member who is heard.
    fn never_came(&self) -> BTreeSet<NodeId> {
        let (now_ms, silent_after_ms) = (self.now.mono_ms, self.silent_after_ms());
        let expected = |let_in_ms: &u64| now_ms >= let_in_ms + silent_after_ms;
        let unheard = |other: &NodeId| self.pulses.get(other).is_none_or(|(pulse, _)| pulse.count == (0, 0));
        let never = |other: &NodeId| self.let_in.get(other).is_some_and(expected) && unheard(other);
        // What is heard of an older member at that address may have been on its way when this one was let in.
        let succeeded = |other: &NodeId| {
            let Some(ghost) = self.roster.all().get(other) else { return false };
            let newer = |(twin, it): (&NodeId, &super::Member)| {
                it.urls == ghost.urls && it.added > ghost.added && self.is_heard(*twin, now_ms)
            };
            self.roster.present().any(newer)
        };
        self.idle_twins().into_iter().filter(never).filter(succeeded).collect()
    }

    /// Members that this node has let in, and that have issued nothing, with the address of another member who is heard.
    fn idle_twins(&self) -> BTreeSet<NodeId> {
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        let mine = |(other, member): &(&NodeId, &super::Member)| {
            **other != node && member.is_sponsored_by(node) && self.log.head(**other).seq == 0
        };
        let has_twin = |(other, member): &(&NodeId, &super::Member)| {
            let is_twin = |(twin, it): (&NodeId, &super::Member)| {
                twin != *other && it.urls == member.urls && self.is_heard(*twin, now_ms)
            };
            !member.urls.is_empty() && self.roster.present().any(is_twin)
        };
        self.roster.present().filter(mine).filter(has_twin).map(|(other, _)| *other).collect()
    }

    /// True if this node and the members that it hears are a majority without `node`. Else its eviction could not be completed, and
    /// the evicted node could not come back either.
    pub(super) fn leaves_majority(&self, node: NodeId) -> bool {
        let own = self.config.node;
        let heard = |other: &NodeId| self.is_heard_just_now(*other) || left_out(Rule::HeardMajority);
        let speaks = |other: &NodeId| *other != node && (*other == own || heard(other));
        self.roster.are_majority(speaks, self.reach())
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

    /// True if a member was heard of just now. A decision that needs it would be stuck if it had died within the time in which a member
    /// is not silent yet.
    pub(super) fn is_heard_just_now(&self, node: NodeId) -> bool {
        if left_out(Rule::HeardJustNow) {
            return self.is_heard(node, self.now.mono_ms);
        }
        let heard_ms = self.pulses.get(&node).filter(|(pulse, _)| pulse.count > (0, 0)).map(|(_, heard_ms)| *heard_ms);
        let lately = |heard_ms| self.now.mono_ms.saturating_sub(heard_ms) < 2 * self.pulse_every() + BEAT_MS;
        heard_ms.map_or_else(|| self.linked_to(node).is_some(), lately)
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
    use crate::{
        op::Op,
        record::Record,
        replica::{
            Config, Draft, Event, Recovery, Standing,
            transfer::tests::{Pool, config},
        },
    };

    const URL: &str = "http://c:1";

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    fn at_c(id: u128) -> Config {
        Config { urls: vec![URL.into()], ..config(id, false) }
    }

    /// So many members, and then one at an address that others will have.
    fn with_one_at_c(others: u128) -> (Pool, Vec<usize>, usize) {
        let mut pool = Pool::default();
        let nodes: Vec<usize> = (1..=others).map(|id| pool.add(Replica::new(config(id, id == 1)))).collect();
        let c = pool.add(Replica::new(at_c(10)));
        for (at, one) in nodes.iter().chain([&c]).enumerate() {
            pool.pass(100);
            nodes[..at.min(nodes.len())].iter().for_each(|other| pool.link(*other, *one));
            pool.pass(2_000);
        }
        (pool, nodes, c)
    }

    fn vanishes(pool: &mut Pool, nodes: &[usize], gone: usize) {
        nodes.iter().for_each(|other| pool.part(*other, gone));
    }

    fn present(pool: &Pool, at: usize) -> Vec<u128> {
        pool.nodes[at].roster().present().map(|(node, _)| node.0.as_u128()).collect()
    }

    /// The evictions that a node has issued, as it has stored them: whom, and whether by force.
    fn evictions(pool: &Pool, at: usize) -> Vec<(u128, bool)> {
        let own = |op: &&Op| op.origin() == pool.nodes[at].node();
        let ops =
            pool.records[at].iter().filter_map(|record| if let Record::Op(op) = record { Some(op) } else { None });
        let evicts = |op: &Op| match op.body().commands.first() {
            Some(Command::Evict(eviction)) => Some((eviction.node.0.as_u128(), eviction.force)),
            _ => None,
        };
        ops.filter(own).filter_map(evicts).collect()
    }

    fn is_final(pool: &mut Pool, at: usize) -> bool {
        let receipt = pool.put(at, "x", 1);
        pool.pass(3_000);
        pool.nodes[at].frontier() >= receipt.stamp.time
    }

    #[test]
    fn a_newcomer_that_knows_that_it_was_a_member_replaces_it_by_force_wherever_it_is() {
        let (mut pool, nodes, c) = with_one_at_c(1);
        vanishes(&mut pool, &nodes, c);
        // At another address, and one that ended before it had a word to say was there between.
        let again = pool.add(Replica::new(config(12, false)).with_ids([10, 11].map(node), vec![node(13)]));
        pool.link(nodes[0], again);
        pool.pass(14_000);
        assert_eq!((present(&pool, nodes[0]), evictions(&pool, again)), (vec![1, 12], vec![(10, true)]));
        assert!(evictions(&pool, nodes[0]).is_empty() && is_final(&mut pool, nodes[0]));
    }

    #[test]
    fn a_newcomer_that_knows_that_it_was_a_member_does_not_retire_before_it_has_replaced_it() {
        let (mut pool, nodes, c) = with_one_at_c(1);
        vanishes(&mut pool, &nodes, c);
        let again = pool.add(Replica::new(config(12, false)).with_ids([node(10)], Vec::new()));
        pool.link(nodes[0], again);
        pool.pass(2_000);
        let retires = |pool: &mut Pool| {
            let draft = Draft { key: None, guards: Vec::new(), commands: vec![Command::Retire], present: false };
            pool.give(again, Event::Submit(2, draft));
            pool.nodes[again].standing() == Standing::Retired
        };
        assert!(!retires(&mut pool) && pool.nodes[again].unshared().predecessors == 1);
        pool.pass(14_000);
        assert!(retires(&mut pool));
        pool.pass(3_000);
        assert_eq!(present(&pool, nodes[0]), [1]);
        assert!(is_final(&mut pool, nodes[0]), "nobody is left who holds it back");
    }

    #[test]
    fn without_that_knowledge_a_member_at_the_same_address_goes_only_if_a_majority_does_not_hear_it() {
        for others in [1, 2] {
            let (mut pool, nodes, c) = with_one_at_c(others);
            vanishes(&mut pool, &nodes, c);
            let again = pool.add(Replica::new(at_c(12)));
            nodes.iter().for_each(|other| pool.link(*other, again));
            pool.pass(40_000);
            let goes = others == 2;
            assert_eq!(present(&pool, nodes[0]).contains(&10), !goes, "{others} others");
            let forced = [nodes[0], again].iter().flat_map(|at| evictions(&pool, *at)).any(|(_, force)| force);
            assert!(!forced && is_final(&mut pool, nodes[0]) == goes, "{others} others");
            for at in [nodes[0], again] {
                let problems = pool.nodes[at].shared_address_problems();
                let (url, why) =
                    if goes { ("", String::new()) } else { (URL, format!("lamplight evict {} --force", node(10))) };
                assert!(problems.is_empty() == goes && problems.iter().all(|it| it.0 == url && it.1.ends_with(&why)));
            }
        }
    }

    #[test]
    fn an_eviction_that_those_who_are_heard_could_not_complete_is_refused() {
        let (mut pool, nodes, c) = with_one_at_c(4);
        let away: Vec<usize> = nodes[2..].iter().copied().chain([c]).collect();
        away.iter().for_each(|gone| nodes.iter().for_each(|other| pool.part(*other, *gone)));
        pool.part(nodes[2], c);
        pool.pass(40_000);
        let evict = |pool: &mut Pool| {
            let commands = vec![Command::Evict(Eviction { node: node(10), force: false })];
            let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
            let before = evictions(pool, nodes[0]).len();
            pool.give(nodes[0], Event::Submit(1, draft));
            evictions(pool, nodes[0]).len() > before
        };
        assert!(!evict(&mut pool), "two of five are heard");
        pool.link(nodes[0], nodes[2]);
        pool.pass(2_000);
        assert!(evict(&mut pool), "three of five are");
    }

    fn evict(pool: &mut Pool, at: usize, gone: u128) {
        let commands = vec![Command::Evict(Eviction { node: node(gone), force: false })];
        pool.give(at, Event::Submit(1, Draft { key: None, guards: Vec::new(), commands, present: false }));
    }

    /// Four members, of which one is silent and another died a moment ago.
    fn with_one_silent_and_one_that_has_just_died() -> (Pool, Vec<usize>, usize) {
        let (mut pool, nodes, c) = with_one_at_c(3);
        vanishes(&mut pool, &nodes, c);
        pool.pass(20_000);
        vanishes(&mut pool, &nodes[..2], nodes[2]);
        (pool, nodes, c)
    }

    #[test]
    fn a_member_that_has_died_a_moment_ago_does_not_count_for_an_eviction() {
        let (mut pool, nodes, _) = with_one_silent_and_one_that_has_just_died();
        pool.pass(4_000);
        evict(&mut pool, nodes[0], 10);
        assert!(evictions(&pool, nodes[0]).is_empty(), "two of four cannot complete it");
        nodes[..2].iter().for_each(|other| pool.link(*other, nodes[2]));
        pool.pass(2_000);
        evict(&mut pool, nodes[0], 10);
        assert_eq!(evictions(&pool, nodes[0]), [(10, false)]);
    }

    #[test]
    fn a_member_that_is_being_evicted_lets_nobody_in() {
        let (mut pool, nodes, c) = with_one_silent_and_one_that_has_just_died();
        evict(&mut pool, nodes[0], 10);
        assert_eq!(evictions(&pool, nodes[0]), [(10, false)]);
        pool.link(nodes[0], c);
        pool.pass(2_000);
        let newcomer = pool.add(Replica::new(config(50, false)));
        pool.link(c, newcomer);
        pool.pass(10_000);
        assert_eq!(present(&pool, c), [1, 2, 3], "who is being evicted counts no more");
        assert_eq!(pool.nodes[newcomer].standing(), Standing::Joining);
        pool.link(nodes[1], newcomer);
        pool.pass(5_000);
        assert_eq!(pool.nodes[newcomer].standing(), Standing::Member);
    }

    #[test]
    fn a_node_that_the_others_need_to_complete_an_eviction_does_not_retire_before_that_is_done() {
        let (mut pool, nodes, c) = with_one_at_c(4);
        let draft = |command| Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
        vanishes(&mut pool, &nodes, c);
        pool.pass(20_000);
        nodes[..3].iter().for_each(|other| pool.part(*other, nodes[3]));
        pool.give(nodes[0], Event::Submit(1, draft(Command::Evict(Eviction { node: node(10), force: false }))));
        assert_eq!(evictions(&pool, nodes[0]), [(10, false)]);
        pool.pass(20_000);
        let retires = |pool: &mut Pool| {
            pool.give(nodes[1], Event::Submit(2, draft(Command::Retire)));
            pool.nodes[nodes[1]].standing() == Standing::Retired
        };
        // Two of the four others are heard: of the others one is silent, and one is evicted without effect.
        assert!(!retires(&mut pool));
        pool.link(nodes[0], nodes[3]);
        pool.pass(5_000);
        assert!(retires(&mut pool));
        pool.pass(3_000);
        assert!(is_final(&mut pool, nodes[0]));
    }

    #[test]
    fn a_member_whose_id_another_node_claims_stays_while_it_is_heard_and_for_good_once_they_have_met() {
        let (mut pool, nodes, c) = with_one_at_c(2);
        let claims = pool.add(Replica::new(at_c(12)).with_ids([node(10)], Vec::new()));
        nodes.iter().for_each(|other| pool.link(*other, claims));
        pool.pass(40_000);
        assert_eq!(present(&pool, nodes[0]), [1, 2, 10, 12]);
        pool.link(c, claims);
        pool.pass(1_000);
        vanishes(&mut pool, &[nodes[0], nodes[1], claims], c);
        pool.pass(20_000);
        let evicted = [nodes[0], claims].map(|at| evictions(&pool, at)).concat();
        assert!(!evicted.is_empty() && evicted.iter().all(|it| *it == (10, false)), "{evicted:?}");
    }

    #[test]
    fn an_id_that_another_process_runs_under_is_no_proof_after_a_restart_either() {
        for (ceded, proved) in [(true, false), (false, true)] {
            let mut recovery = Recovery::new(config(90, false));
            let identity = |id| {
                let pool = (crate::op::PoolId(Uuid::from_u128(7)), "p".to_string());
                Record::Identity(crate::record::Identity { node: node(id), pool: pool.0, pool_name: pool.1 })
            };
            let ceded = ceded.then_some(Record::Ceded(node(10)));
            [identity(10), Record::Forget, identity(11)]
                .into_iter()
                .chain(ceded)
                .for_each(|record| recovery.take(record));
            let again = recovery.finish(None);
            assert_eq!((again.gave_up.contains(&node(10)), again.former.contains(&node(10))), (proved, true));
        }
    }

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
