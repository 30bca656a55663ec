//! Signs of life: beats on the links, members' pulses with what they announce, and what two nodes learn of each other by
//! comparing digests.

use super::{Effect, FULL_MESH_MAX, LinkId, Replica, gossip::HEADS_MAX};
use crate::{
    op::{Hash, NodeId, Op, Stamp},
    plant::{Rule, left_out},
    record::Record,
    wire::{Announcement, Beat, Message, Pulse, Why},
};

/// Between two beats on a link, in milliseconds.
pub const BEAT_MS: u64 = 1_000;
/// How long announcements are made at once for somebody who waits. What has not become final by then hangs on a member
/// that is away, and the beats will do.
const HASTE_MS: u64 = 2_000;

impl Replica {
    pub(super) fn on_beat(&mut self, link: LinkId, beat: &Beat) {
        if let Some(detail) = self.clock_objection(beat.clock) {
            return self.refuse(link, Why::Broken, detail);
        }
        self.hear_clock(beat.clock);
        self.on_pulses(link, &beat.pulses);
        let digest = self.log.digest();
        self.links.get_mut(&link).into_iter().for_each(|link| link.said = Some((beat.digest, beat.state)));
        if beat.digest == digest && beat.state != self.state.digest() {
            self.on_discrepancy(digest, beat.state);
        }
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        let is_member = |peer: NodeId| self.roster.knows(peer) && !self.roster.is_gone(peer);
        if beat.digest == digest && self.ready && !self.finality.assembly.outcast && peer.is_some_and(is_member) {
            self.finality.reach(beat.frontier.min(self.clock));
        }
        let Some(found) = self.links.get_mut(&link) else { return };
        let still = found.differed == Some(digest) || self.early.len() > 0;
        found.differed = (beat.digest != digest).then_some(digest);
        if beat.digest == digest {
            found.peer_holds_the_same(&self.log);
            self.confirm(link, self.log.head(self.config.node).seq);
        }
        if beat.digest != digest && still && !left_out(Rule::Repair) {
            // Nothing came for a whole beat, and yet the logs differ: something this node was sent is lost.
            self.counters.repairs += 1;
            self.say_heads(link);
        }
        self.compare_rooms(link, beat.presence);
    }

    /// Members announce how far they are; what is new is passed on, at once if somebody waits for it.
    pub(super) fn on_pulses(&mut self, link: LinkId, pulses: &[(NodeId, Pulse)]) {
        let from = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        for (node, pulse) in pulses.iter().take(HEADS_MAX) {
            let unknown = |(own, _): &(Pulse, u64)| own.count < pulse.count;
            if *node == self.config.node && self.pulses.get(node).is_none_or(unknown) {
                self.outlive(link, pulse.count.0);
            }
            let said = Announcement { wanted: pulse.said.wanted.min(self.clock), ..pulse.said };
            let far = said.clock.max(said.complete) > self.now.time_bound();
            if far || *node == self.config.node || !self.roster.knows(*node) {
                continue;
            }
            let (known, heard_ms) = self.pulses.entry(*node).or_default();
            if pulse.count > known.count {
                (*known, *heard_ms) = (*pulse, self.now.mono_ms);
                self.finality.hear(*node, said);
                self.hurry(said.wanted);
                self.hear_clock(said.clock);
                // Where every pair is linked, the others hear it from the member itself.
                let whole = self.roster.len() <= FULL_MESH_MAX && from == Some(*node);
                if self.is_hasty() && !whole {
                    self.links.iter_mut().filter(|(id, _)| **id != link).for_each(|(_, link)| link.hasty = true);
                }
            }
            if let Some(link) = self.links.get_mut(&link) {
                let sent = link.pulses.entry(*node).or_default();
                // One that speaks as an earlier run than was heard of it has not got what it was sent: that is sent again.
                *sent = if from == Some(*node) { pulse.count } else { pulse.count.max(*sent) };
            }
        }
    }

    /// Somebody waits until everything up to this time is final.
    pub(super) fn hurry(&mut self, time: u64) {
        if time > self.finality.wanted {
            self.finality.wanted = time;
            self.finality.hasty_until_ms = self.now.mono_ms + HASTE_MS;
        }
    }

    /// Whether somebody waits for something that is not final here, or may not be elsewhere because this node has not said
    /// yet that it is complete.
    pub(super) fn is_hasty(&self) -> bool {
        let settled = self.finality.frontier.min(self.finality.announced.complete);
        self.finality.wanted > settled && self.now.mono_ms < self.finality.hasty_until_ms
    }

    /// Announces how far this node is, if somebody waits for it; else that goes with the next beat.
    pub(super) fn announce_in_haste(&mut self) {
        let (said, last) = (self.announcement(), self.finality.announced);
        // An op of its own tells the others its time itself.
        let clock = self.log.last_of(self.config.node).map_or(0, Op::time).max(last.clock);
        let news = said.complete > last.complete || said.wanted > last.wanted || said.clock > clock;
        if self.ready && news && self.is_hasty() {
            self.speak();
            self.links.values_mut().for_each(|link| link.hasty = true);
        }
        if self.links.values().any(|link| link.hasty) {
            self.pump_all();
        }
    }

    /// Puts what this node can promise now into its pulse.
    fn speak(&mut self) {
        let holding = self.finality.holding(&self.log).unwrap_or_default();
        let said = Announcement { holding, ..self.announcement() };
        self.finality.announced = said;
        let (pulse, heard_ms) = self.pulses.entry(self.config.node).or_default();
        *pulse = Pulse { count: (self.run, pulse.count.1 + 1), said };
        *heard_ms = self.now.mono_ms;
    }

    /// Records how far everything is final, so that a node that was started again shows hardly less as final than before.
    pub(super) fn record_frontier(&mut self) {
        let frontier = self.finality.frontier;
        if frontier > self.finality.recorded {
            self.finality.recorded = frontier;
            self.effects.push(Effect::Store(Record::Frontier(frontier)));
        }
    }

    /// A peer with the same log has other documents. Whose are wrong the log tells, as far as it goes: they are folded anew
    /// from it, once for a log, and replaced if that makes others. If it does not, what was forgotten may be wrong; then this
    /// node is the one that must mend itself if two others agree against it, and it takes a snapshot from them.
    fn on_discrepancy(&mut self, log: Hash, theirs: u64) {
        let against = self.links.values().filter(|link| link.said == Some((log, theirs))).count();
        if self.refolded == Some(log) {
            self.doubtful |= against >= 2;
            return;
        }
        self.refolded = Some(log);
        self.counters.discrepancies += 1;
        let start = Stamp { time: 0, origin: self.config.node };
        let anew = self.state.refolded(self.log.after(start, None));
        if anew.digest() != self.state.digest() {
            self.counters.mended += 1;
            self.state = anew;
        }
    }

    /// Sends a beat on every link, with the signs of life that are new to the peer.
    pub(super) fn beat(&mut self) {
        let now_ms = self.now.mono_ms;
        if now_ms >= self.pulse_ms && self.ready {
            self.pulse_ms = now_ms + self.pulse_every();
            self.speak();
        }
        let (clock, digest, state) = (self.clock, self.log.digest(), self.state.digest());
        let (frontier, presence) = (self.finality.frontier, self.presence.digest());
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.peer.is_some()) {
            let pulses = link.news(self.pulses.iter().map(|(node, (pulse, _))| (node, pulse)));
            self.effects
                .push(Effect::Send(*id, Message::Beat(Beat { clock, digest, state, frontier, presence, pulses })));
        }
    }

    /// Between two pulses of a member: the larger the pool, the fewer, so that a link carries no more of them.
    pub(super) fn pulse_every(&self) -> u64 {
        BEAT_MS * (self.roster.len() as u64).div_ceil(16)
    }
}
