//! Two histories of a third node: two members hold different ops in one place of a node that was an old copy of a disk, or one
//! of two copies. That node has come back as another by then, or is gone, and cannot settle it. So one of the two must give way.
//!
//! Each tells the other where the histories part, and how firmly it stays with its own ([`Stand`]). The one with less right comes
//! back as another, and issues again what only it had. A stand counts for [`STAYS_MS`]: a node whose word made another give way
//! does not give way itself before that one has had the time to join it. Stands are ordered, with the node id as the last word, so
//! the member with the greatest stand never gives way, and the pool is never left without a member.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{Effect, LinkId, Replica, gossip::SILENCE_MS, link::Link, rebirth::Loss};
use crate::{
    op::{Head, NodeId, Op, OpId},
    plant::{Rule, left_out},
    wire::{Dispute, Message, POINTS_MAX, Stand, Why},
};

/// A stand that a node has taken it keeps for so long.
const STAYS_MS: u64 = 30_000;
/// A dispute between two sides of which neither is a majority is settled by node ids after this.
const UNDECIDED_MS: u64 = 10_000;
/// A dispute that was not renewed for so long is over.
const OVER_MS: u64 = 30_000;
/// An op before what is final may come from one who is about to hear that it was evicted; after this it is a dispute.
const PAST_MS: u64 = 3_000;
/// So many points of a history are told one by one; those before them in steps that double.
const EACH: u64 = 256;

/// The disputes of a node, by peer, and the stand that it has taken.
#[derive(Debug, Default)]
pub(super) struct Disputes {
    with: BTreeMap<NodeId, With>,
    taken: Option<(Stand, u64)>,
}

/// A dispute with one peer.
#[derive(Debug)]
struct With {
    origin: NodeId,
    /// How many ops of the origin both hold, as far as is known.
    common: u64,
    /// Whether what the peer holds comes before what is final here.
    past: bool,
    since_ms: u64,
    renewed_ms: u64,
}

impl Disputes {
    /// How many ops of each disputed origin the pool has as this node does.
    pub(super) fn parted(&self) -> BTreeMap<NodeId, u64> {
        let mut parted = BTreeMap::new();
        for with in self.with.values() {
            let common: &mut u64 = parted.entry(with.origin).or_insert(with.common);
            *common = with.common.min(*common);
        }
        parted
    }

    /// Forgets disputes that were not renewed, and a stand that has ended.
    fn expire(&mut self, now_ms: u64) {
        self.with.retain(|_, with| now_ms < with.renewed_ms + OVER_MS);
        self.taken.take_if(|(_, until_ms)| *until_ms <= now_ms);
    }

    fn note(&mut self, peer: NodeId, (origin, common, past): (NodeId, u64, bool), now_ms: u64) {
        let new = With { origin, common, past, since_ms: now_ms, renewed_ms: now_ms };
        let with = self.with.entry(peer).or_insert(new);
        if with.origin != origin {
            (with.origin, with.common, with.past) = (origin, common, past);
        }
        (with.common, with.past, with.renewed_ms) = (with.common.min(common), with.past || past, now_ms);
    }
}

impl Replica {
    /// The peer holds another op of a third node in the place `at` than this node, or one there that this node does not take,
    /// because it comes before what is final.
    pub(super) fn dispute(&mut self, link: LinkId, (origin, at): (NodeId, u64), past: bool) {
        let detail = format!("two histories of node {origin}: its op {at} differs between us");
        let Some(peer) = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node) else {
            return;
        };
        // The origin itself settles it when it hears what this node holds.
        if origin == peer || origin == self.config.node || left_out(Rule::Dispute) {
            return self.refuse(link, Why::Fork, detail);
        }
        let common = at.saturating_sub(1).min(self.log.head(origin).seq);
        self.disputes.note(peer, (origin, common, past), self.now.mono_ms);
        let told = self.links.get(&link).is_some_and(|link| link.disputed_ms.is_some());
        self.tell_dispute(link, peer, at);
        if told {
            self.refuse(link, Why::Fork, detail);
        }
    }

    /// Tells the peer of the dispute. Nothing else is exchanged on the link any more.
    fn tell_dispute(&mut self, link: LinkId, peer: NodeId, at: u64) {
        let Some(origin) = self.disputes.with.get(&peer).map(|with| with.origin) else { return };
        let Some(found) = self.links.get_mut(&link).filter(|link| link.disputed_ms.is_none()) else { return };
        found.disputed_ms = Some(self.now.mono_ms);
        found.peer_needs_snapshot();
        found.catch_up = None;
        let stand = self.stand(peer);
        // A lesser one does not prolong what was taken before: who was a majority once would else stay with that for ever.
        if stand > Stand::Open && self.disputes.taken.is_none_or(|(before, _)| before <= stand) {
            self.disputes.taken = Some((stand, self.now.mono_ms + STAYS_MS));
        }
        let dispute = Dispute { origin, at, points: self.points(origin, at), stand };
        self.effects.push(Effect::Send(link, Message::Dispute(dispute)));
    }

    /// A peer has found that it holds another history of a third node.
    pub(super) fn on_dispute(&mut self, link: LinkId, dispute: &Dispute) {
        let Dispute { origin, at, .. } = *dispute;
        let Some(found) = self.links.get(&link) else { return };
        let Some(peer) = found.peer.as_ref().map(|peer| peer.node) else { return };
        let told = found.disputed_ms.is_some();
        let detail = format!("two histories of node {origin}: its op {at} differs between us");
        if origin == peer || origin == self.config.node || left_out(Rule::Dispute) {
            return self.refuse(link, Why::Fork, detail);
        }
        let same = |point: &&Head| self.log.hash_at(origin, point.seq) == Some(point.hash);
        let common = dispute.points.iter().filter(same).map(|point| point.seq).max();
        // What both have forgotten was final at both.
        let common = common.unwrap_or(self.log.start(origin).seq).min(at.saturating_sub(1));
        if common >= self.log.head(origin).seq && !self.disputes.with.contains_key(&peer) {
            // It has come back as another since, and holds nothing that is disputed.
            return self.refuse(link, Why::Fork, detail);
        }
        self.disputes.note(peer, (origin, common, false), self.now.mono_ms);
        if self.gives_way_in(peer, dispute.stand) && self.believes(link) {
            let node = self.config.node;
            let why = format!("{detail}; the pool goes on with the other, and {node} comes back as another");
            return self.be_reborn(why, Loss::Fork);
        }
        if !told {
            self.tell_dispute(link, peer, at);
        }
        self.refuse(link, Why::Fork, detail);
    }

    /// Ends the links on which a dispute was not answered.
    pub(super) fn end_disputes(&mut self) {
        let now_ms = self.now.mono_ms;
        self.disputes.expire(now_ms);
        let unanswered =
            |(_, link): &(&LinkId, &Link)| link.disputed_ms.is_some_and(|told_ms| now_ms >= told_ms + SILENCE_MS);
        let links: Vec<LinkId> = self.links.iter().filter(unanswered).map(|(id, _)| *id).collect();
        links.into_iter().for_each(|link| self.refuse(link, Why::Fork, "two histories of one node".into()));
    }

    /// An op came that lies before what is final here. Where its origin sends it, that one's disk is an old copy. Where another
    /// does, and that lasts, it holds another history.
    pub(super) fn on_past(&mut self, link: LinkId, op: &Op) {
        let (id, now_ms) = (op.id(), self.now.mono_ms);
        if self.linked_to(id.origin) == Some(link) {
            if op.time() > self.log.horizon() {
                let detail =
                    format!("its disk is an old copy: its op {id} of time {} comes before what is final", op.time());
                self.refuse(link, Why::OldCopy, detail);
            }
            return;
        }
        let Some(found) = self.links.get_mut(&link) else { return };
        let lasts = found.past_ms.filter(|(_, last_ms)| now_ms < last_ms + SILENCE_MS);
        let since_ms = lasts.map_or(now_ms, |(since_ms, _)| since_ms);
        found.past_ms = Some((since_ms, now_ms));
        if self.ready && now_ms >= since_ms + PAST_MS {
            self.dispute(link, (id.origin, id.seq), true);
        }
    }

    /// Whether this node gives way to a peer that takes this stand.
    fn gives_way_in(&self, peer: NodeId, theirs: Stand) -> bool {
        let taken = self.disputes.taken.map_or(Stand::Open, |(taken, _)| taken);
        let ours = self.stand(peer).max(taken);
        theirs > Stand::Open && (theirs, Reverse(peer)) > (ours, Reverse(self.config.node))
    }

    /// How firmly this node stays with what it holds, in the dispute with a peer.
    fn stand(&self, peer: NodeId) -> Stand {
        let Some(with) = self.disputes.with.get(&peer).filter(|_| self.ready) else { return Stand::Open };
        let next = OpId { origin: with.origin, seq: with.common + 1 };
        let forgotten = self.log.start(with.origin).seq > with.common;
        let is_final = |op: &Op| op.time() <= self.finality.frontier;
        if with.past || forgotten || self.log.get(next).is_some_and(is_final) {
            return if self.is_backed() { Stand::FinalMajority } else { Stand::Final };
        }
        if self.is_backed() {
            return Stand::Majority;
        }
        if self.now.mono_ms >= with.since_ms + UNDECIDED_MS { Stand::Waited } else { Stand::Open }
    }

    /// Whether those who hold what this node does are a majority, of all but the disputed nodes.
    fn is_backed(&self) -> bool {
        let disputed = |node: &NodeId| self.disputes.with.values().any(|with| with.origin == *node);
        let voters: Vec<NodeId> = self.roster.present().map(|(node, _)| *node).filter(|node| !disputed(node)).collect();
        let agrees = |node: &&NodeId| {
            let link = || self.linked_to(**node).and_then(|link| self.links.get(&link));
            let served = || link().is_some_and(|link| link.is_served() && link.disputed_ms.is_none());
            **node == self.config.node || !self.disputes.with.contains_key(node) && served()
        };
        2 * voters.iter().filter(agrees).count() > voters.len()
    }

    /// Hashes of the history of a node before a place, the last ones one by one.
    fn points(&self, origin: NodeId, before: u64) -> Vec<Head> {
        let (last, start) = (before.saturating_sub(1).min(self.log.head(origin).seq), self.log.start(origin).seq);
        let (mut points, mut back) = (Vec::new(), 0);
        while let Some(seq) = last.checked_sub(back).filter(|seq| *seq >= start && points.len() < POINTS_MAX) {
            points.extend(self.log.hash_at(origin, seq).map(|hash| Head { seq, hash }));
            back = if back < EACH { back + 1 } else { 2 * back };
        }
        points
    }
}
