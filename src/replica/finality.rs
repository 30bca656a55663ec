//! Finality: how far the order can no longer change.
//!
//! Each member announces how many ops it has issued, that all its further ops come after a time, and up to which time it
//! holds every op of the pool. The least of the first kind of promise is what a node itself is complete up to; the least
//! of the second kind is the frontier: every member holds all up to there, and nothing can come before. It is Lamport's
//! stable prefix (1978), with membership in the same log. Nothing here waits for anyone: ops are taken all the while.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Effect, Replica,
    log::Log,
    roster::{Assembly, Reach, Roster},
};
use crate::{
    op::{Command, Hash, NodeId, Op, OpId},
    plant::{Rule, comparison_left_out, left_out},
    record::Record,
    wire::Announcement,
};

/// Announcements of one member that wait for its ops. The first is the next that can count; the last is the newest, and
/// replaced by a newer one: so that under a steady stream of ops one of them always comes to count.
const WAITING_MAX: usize = 2;

/// Digests that are kept, so that claims of many members for one time cost one digest over all origins.
const DIGESTS_MAX: usize = 64;

/// What this node knows of how far everyone is.
#[derive(Debug, Default)]
pub(super) struct Finality {
    words: BTreeMap<NodeId, Word>,
    /// Digests of the log at times up to `complete`, where nothing more is added as long as promises are kept.
    digests: BTreeMap<u64, Hash>,
    pub(super) complete: u64,
    pub(super) frontier: u64,
    /// The greatest time that was announced as what this node is complete up to when that came to be past one more `Add`. It is
    /// in the journal before it is announced.
    pub(super) promised: u64,
    /// The frontier in the journal.
    pub(super) recorded: u64,
    pub(super) assembly: Assembly,
    /// The frontier when that was worked out.
    assembled: u64,
    /// Up to which time somebody waits for finality, here or elsewhere.
    pub(super) wanted: u64,
    /// Until when announcements are made at once for them.
    pub(super) hasty_until_ms: u64,
    /// What this node announced last.
    pub(super) announced: Announcement,
}

/// What one member has promised.
#[derive(Debug, Default)]
struct Word {
    clock: u64,
    /// Up to this time it holds every op of the pool, and the same ones as this node.
    complete: u64,
    waiting: VecDeque<Announcement>,
    /// Up to where it has said that it holds every op, and what it holds there; until this node is as far.
    unchecked: VecDeque<(u64, Hash)>,
}

impl Word {
    /// Takes what the member says of how far it is complete. As with what waits, the first is the next to be checked.
    fn claim(&mut self, complete: u64, holding: Hash) {
        if complete <= self.complete {
            return;
        }
        if self.unchecked.len() == WAITING_MAX {
            self.unchecked.pop_back();
        }
        self.unchecked.push_back((complete, holding));
    }
}

/// The digest of the log at a time that this node is complete up to.
fn digest_at(time: u64, digests: &mut BTreeMap<u64, Hash>, log: &Log) -> Option<Hash> {
    if let Some(digest) = digests.get(&time) {
        return Some(*digest);
    }
    let digest = log.digest_at(time)?;
    if digests.len() == DIGESTS_MAX {
        digests.pop_first();
    }
    digests.insert(time, digest);
    Some(digest)
}

/// Who keeps the frontier from moving, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holdup {
    /// The member has not been heard of far enough.
    Silent(NodeId),
    /// The member's eviction is not effective yet.
    Eviction(NodeId),
}

impl Finality {
    /// Takes a member's announcement. It counts once the ops it speaks of are held.
    pub(super) fn hear(&mut self, node: NodeId, said: Announcement) {
        let waiting = &mut self.words.entry(node).or_default().waiting;
        // No process has issued less than before: another of the same id said what waits for more, and that may never come.
        waiting.retain(|before| before.seq <= said.seq || left_out(Rule::LaterProcess));
        if waiting.len() == WAITING_MAX {
            waiting.pop_back();
        }
        waiting.push_back(said);
    }

    /// An op came into the log: it says of its origin that its further ops come later.
    pub(super) fn follow(&mut self, op: &Op) {
        let clock = &mut self.words.entry(op.origin()).or_default().clock;
        *clock = op.time().max(*clock);
    }

    /// What is heard of a member: all its ops beyond a seq come after a time. `held` is how many of its ops are held.
    pub(super) fn heard_of(&self, node: NodeId, held: u64) -> Option<(u64, u64)> {
        let word = self.words.get(&node)?;
        // The newest of those that wait speaks of the latest time.
        Some(word.waiting.back().map_or((held, word.clock), |said| (said.seq.max(held), said.clock.max(word.clock))))
    }

    /// Whether a member has promised to hold every op up to this time.
    pub(super) fn is_complete(&self, node: NodeId, time: u64) -> bool {
        self.words.get(&node).is_some_and(|word| word.complete >= time)
    }

    /// Everything up to here is held, and final.
    pub(super) fn reach(&mut self, frontier: u64) {
        (self.frontier, self.complete) = (self.frontier.max(frontier), self.complete.max(frontier));
    }

    /// Takes over what the roster means now. Whoever joins issues its first op after the one that added it.
    fn assemble(&mut self, assembly: Assembly, roster: &Roster) {
        for node in &assembly.counted {
            let added = roster.all().get(node).map_or(0, |member| member.added.time);
            let clock = &mut self.words.entry(*node).or_default().clock;
            *clock = added.max(*clock);
        }
        self.assembly = assembly;
    }

    /// Counts what members have announced, as far as their ops are held.
    fn count(&mut self, log: &Log) {
        for (node, word) in self.words.iter_mut().filter(|(_, word)| !word.waiting.is_empty()) {
            let held = log.head(*node).seq;
            let counts = |said: &Announcement| said.seq <= held || left_out(Rule::HeldFirst);
            while let Some(said) = word.waiting.front().copied().filter(counts) {
                word.waiting.pop_front();
                let next = log.get(OpId { origin: *node, seq: said.seq + 1 });
                // It was said before an old copy of its disk came back, which issued what is held here.
                if next.is_some_and(|op| op.time() <= said.clock) && !left_out(Rule::Promise) {
                    continue;
                }
                // Each is true for ever, whichever came last.
                word.clock = word.clock.max(said.clock);
                word.claim(said.complete, said.holding);
            }
        }
    }

    /// Counts up to where members are complete, as far as this node is, where they hold the same as it does. Others have
    /// another history of some node, and nothing is final with them before one side has given way.
    fn compare(&mut self, log: &Log) {
        let Finality { words, digests, complete, .. } = self;
        for word in words.values_mut() {
            while let Some((time, holding)) = word.unchecked.front().copied().filter(|(time, _)| *time <= *complete) {
                word.unchecked.pop_front();
                if digest_at(time, digests, log) == Some(holding) || comparison_left_out() {
                    word.complete = word.complete.max(time);
                }
            }
        }
    }

    /// One hash over all that this node holds up to where it is complete; none where some of that is forgotten.
    pub(super) fn holding(&mut self, log: &Log) -> Option<Hash> {
        digest_at(self.complete, &mut self.digests, log)
    }

    /// An op came that is not behind what this node is complete up to: its origin has broken a promise, or is not counted. What
    /// others have said that they hold is compared anew.
    pub(super) fn begin_anew(&mut self) {
        self.digests.clear();
        for word in self.words.values_mut() {
            word.complete = word.complete.min(self.frontier);
        }
    }

    /// The log has been replaced by one that begins at `time`. Members are complete up to there at least where `sure`; else that is
    /// told anew.
    pub(super) fn rebase(&mut self, time: u64, sure: bool) {
        self.digests.clear();
        if sure {
            self.reach(time);
        } else {
            (self.frontier, self.complete) = (time, time);
        }
    }

    /// Goes as far as the counted members' words allow the node with this clock.
    fn settle(&mut self, node: NodeId, clock: u64, log: &Log) {
        if !self.assembly.counted.contains(&node) {
            return;
        }
        let words = |finality: &Finality, of: fn(&Word) -> u64| {
            let others = finality.assembly.counted.iter().filter(|other| **other != node);
            let words = others.filter_map(|other| finality.words.get(other));
            let unheard = |word: &&Word| word.complete > 0 || !left_out(Rule::NewcomerCounts);
            words.filter(unheard).map(of).min()
        };
        self.complete = words(self, |word| word.clock).map_or(clock, |least| least.min(clock)).max(self.complete);
        self.compare(log);
        let frontier = words(self, |word| word.complete).unwrap_or(u64::MAX);
        let frontier = if left_out(Rule::TwoRounds) { self.complete } else { frontier.min(self.complete) };
        let Assembly { remaining, pending, outcast, .. } = &self.assembly;
        if remaining.contains(&node) && !outcast && pending.is_empty() {
            self.frontier = frontier.max(self.frontier);
        }
    }
}

impl Replica {
    /// Goes as far as what is known allows, and answers evictions.
    pub(super) fn advance(&mut self) {
        let Finality { frontier, assembled, .. } = self.finality;
        // What is behind the frontier decides nothing any more, once that has been taken into account.
        if self.roster_moved || self.roster.is_moving(assembled, frontier) {
            self.roster_moved = false;
            self.finality.assembled = frontier;
            self.finality.assemble(self.roster.assembly(self.reach()), &self.roster);
            self.declare_removals();
            self.answer_evictions();
        }
        self.finality.count(&self.log);
        // Who takes back its own ops may lack some that the others have as final.
        if self.ready || left_out(Rule::Promise) {
            self.finality.settle(self.config.node, self.clock, &self.log);
        }
        self.record_promise();
    }

    /// An eviction that is effective here is declared so before anything rests on it. It must never be judged again, neither
    /// here after a restart nor by a newcomer: with others to reckon with it might not be effective.
    fn declare_removals(&mut self) {
        let Assembly { remaining, pending, .. } = &self.finality.assembly;
        if !self.ready || !remaining.contains(&self.config.node) || left_out(Rule::EvictedOnce) {
            return;
        }
        let effective: Vec<NodeId> = self.roster.undeclared().filter(|node| !pending.contains(node)).collect();
        effective.into_iter().for_each(|node| self.issue_alone(Command::Removed(node)));
    }

    /// Notes what is about to be announced as complete, where it is past one more `Add`: against those members too an eviction is
    /// reckoned from then on, also after a restart.
    fn record_promise(&mut self) {
        let Finality { complete, promised, .. } = self.finality;
        if self.ready && complete > promised && self.roster.adds_between(promised, complete) {
            self.finality.promised = complete;
            self.effects.push(Effect::Store(Record::Complete(complete)));
        }
    }

    /// Says for each member that others have evicted how much of it is held here; from then on its ops are taken from
    /// remaining members only.
    fn answer_evictions(&mut self) {
        let node = self.config.node;
        if !self.ready || !self.finality.assembly.remaining.contains(&node) {
            return;
        }
        for evicted in self.roster.leaving(self.finality.frontier) {
            let held = self.log.head(evicted).seq;
            if self.roster.owes_fence(node, evicted, held) {
                self.issue_alone(Command::Fence(evicted, held));
            }
        }
        if self.roster_moved {
            self.advance();
        }
    }

    pub(super) fn reach(&self) -> Reach<'_> {
        let Finality { frontier, complete, promised, .. } = self.finality;
        Reach { node: self.config.node, log: &self.log, frontier, promised: complete.max(promised) }
    }

    /// What this node can promise now; what it holds is left out.
    pub(super) fn announcement(&self) -> Announcement {
        Announcement {
            seq: self.log.head(self.config.node).seq,
            clock: self.clock,
            complete: self.finality.complete,
            holding: Hash::default(),
            wanted: self.finality.wanted,
        }
    }

    /// What the roster means for this node now.
    pub fn assembly(&self) -> &Assembly {
        &self.finality.assembly
    }

    /// The time up to which everything is final here.
    pub fn frontier(&self) -> u64 {
        self.finality.frontier
    }

    /// Who keeps the frontier from passing this time.
    pub fn held_back_by(&self, time: u64) -> Vec<Holdup> {
        let Finality { words, assembly, .. } = &self.finality;
        let behind = |promise: fn(&Word) -> u64| -> Vec<Holdup> {
            let others = assembly.counted.iter().filter(|node| **node != self.config.node);
            let late = others.filter(|node| words.get(node).map_or(0, promise) < time);
            late.map(|node| Holdup::Silent(*node)).collect()
        };
        // Nobody is complete while one member's clock is not heard of: only that one is to be named.
        let mut silent = behind(|word| word.clock);
        if silent.is_empty() {
            silent = behind(|word| word.complete);
        }
        assembly.pending.iter().map(|node| Holdup::Eviction(*node)).chain(silent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_of_fewer_ops_makes_void_what_another_process_of_the_id_said() {
        let (mut finality, node) = (Finality::default(), NodeId(uuid::Uuid::from_u128(1)));
        let said = |seq, clock| Announcement { seq, clock, ..Announcement::default() };
        finality.hear(node, said(2, 68));
        finality.count(&Log::default());
        assert_eq!(finality.heard_of(node, 0), Some((2, 68)), "its ops may still come");
        // The process that stays has issued none, and perhaps never will.
        finality.hear(node, said(0, 70));
        finality.count(&Log::default());
        assert_eq!(finality.heard_of(node, 0), Some((0, 70)));
    }
}
