//! A node that finds that it is not the only one to have issued ops under its id: its disk was an old copy, or there are
//! two of it. It gives the id up, comes back as a newcomer with what the pool holds, and issues again what the pool lacks of what it had.

use std::collections::BTreeMap;

use super::{Effect, LinkId, Log, Replica};
use crate::{
    op::{AGAIN, Command, Head, NodeId, Op, OpId, Stamp, first_of},
    plant::{Rule, left_out},
    record::Record,
    wire::Why,
};

/// Why a node must come back as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Another history of its id is held by others.
    Fork,
    /// The others go on without it, with what they have of it.
    CutOff,
    /// The others have forgotten what it lacks.
    Behind,
}

/// An op that this node issued, or held, under an id that it had to give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orphan {
    pub(super) op: Op,
    /// Whether the pool has another op in its place for sure: where the one there is forgotten, nobody could tell.
    forked: bool,
}

impl Orphan {
    pub(super) fn of(op: Op) -> Orphan {
        Orphan { op, forked: false }
    }

    pub(super) fn forked(op: Op) -> Orphan {
        Orphan { op, forked: true }
    }

    pub(super) fn record(&self) -> Record {
        let op = self.op.clone();
        if self.forked { Record::Fork(op) } else { Record::Orphan(op) }
    }

    /// Whether the pool holds it.
    fn is_shared(&self, log: &Log) -> bool {
        let OpId { origin, seq } = self.op.id();
        log.get(self.op.id()) == Some(&self.op) || !self.forked && seq <= log.start(origin).seq
    }
}

impl Replica {
    /// Whether these heads say that there is another past of this node's id: more of its ops than it has, or others.
    pub(super) fn is_forked(&self, heads: &[(NodeId, Head)]) -> bool {
        let (node, own) = (self.config.node, self.log.head(self.config.node));
        let other = |head: &Head| self.log.hash_at(node, head.seq).is_some_and(|hash| hash != head.hash);
        heads.iter().any(|(origin, head)| *origin == node && (head.seq > own.seq || other(head)))
    }

    /// What a peer's word about this node's own ops says of its past; a text if it cannot go on as it is.
    pub(super) fn doubt(&mut self, heads: &[(NodeId, Head)]) -> Option<String> {
        let (node, own) = (self.config.node, self.log.head(self.config.node));
        let (_, head) = heads.iter().find(|(origin, _)| *origin == node)?;
        if head.seq > own.seq && self.takes_back {
            // Its disk was an old copy, and it has issued nothing since: it takes its own ops back before it does.
            self.ready = false;
            return None;
        }
        if !self.is_forked(heads) || left_out(Rule::Rebirth) {
            return None;
        }
        Some(format!(
            "two nodes have issued ops as {node}: this one had {} of them, and comes back as another",
            own.seq
        ))
    }

    /// A peer says what this node has promised, as far as it heard: that all its ops beyond `seq` come after `clock`. If that is
    /// not so, its disk was an old copy. What others know as final may rest on the promise, so the node comes back as another.
    pub(super) fn on_promised(&mut self, link: LinkId, seq: u64, clock: u64) {
        let node = self.config.node;
        if seq > self.log.head(node).seq && self.takes_back {
            self.ready = false;
        }
        let next = self.log.get(OpId { origin: node, seq: seq.saturating_add(1) });
        let broken = next.filter(|op| op.time() <= clock).map(Op::stamp);
        if let Some(stamp) = broken.filter(|_| self.believes(link) && !left_out(Rule::Promise)) {
            let why = format!(
                "its disk was an old copy: {node} had promised to issue nothing up to {clock}, and did at {}; it comes back as \
                 another",
                stamp.time
            );
            return self.be_reborn(why, Loss::Fork);
        }
        self.hear_clock(clock);
    }

    /// Before the first op that this node issues since it came back from its journal: the journal says where that is, so that
    /// another start before a peer is heard does not take what came since for the pool's.
    pub(super) fn mark_resumption(&mut self) {
        if self.takes_back && self.unconfirmed.is_none() && self.roster.len() > 1 {
            // What it took back is the pool's, too.
            self.resumed_at = self.log.head(self.config.node).seq;
            self.unconfirmed = Some(self.resumed_at);
            self.effects.push(Effect::Store(Record::Resumed(self.unconfirmed)));
        }
    }

    /// Up to where ops may be forgotten: what this node issued since its start it must be able to issue again, until a peer
    /// takes it for this node's history.
    pub(super) fn confirmed_to(&self) -> u64 {
        let Some(mark) = self.unconfirmed.filter(|_| self.roster.len() > 1) else { return u64::MAX };
        let first = self.log.get(OpId { origin: self.config.node, seq: mark + 1 });
        first.map_or(u64::MAX, |op| op.time() - 1)
    }

    /// A peer holds this node's ops up to this seq, and the same ones.
    pub(super) fn confirm(&mut self, link: LinkId, seq: u64) {
        let Some(mark) = self.unconfirmed.filter(|mark| *mark < seq) else { return };
        let first = OpId { origin: self.config.node, seq: mark + 1 };
        // One that joined since has it from this node alone.
        let before = self.log.get(first).map_or(u64::MAX, Op::time);
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        let member = peer.filter(|peer| !self.roster.is_gone(*peer)).and_then(|peer| self.roster.all().get(&peer));
        let node = self.config.node;
        let none = || !self.roster.present().any(|(other, member)| *other != node && member.added.time < before);
        if member.is_some_and(|member| member.added.time < before || none()) {
            self.unconfirmed = None;
            self.effects.push(Effect::Store(Record::Resumed(None)));
        }
    }

    /// Comes back under a new id.
    pub(super) fn be_reborn(&mut self, why: String, loss: Loss) {
        let rejoins = self.rejoins;
        let (node, Some(pool)) = (self.config.node, self.pool.clone()) else {
            let links: Vec<_> = self.links.keys().copied().collect();
            links.into_iter().for_each(|link| self.refuse(link, Why::SameId, why.clone()));
            self.config.node = self.new_id();
            return;
        };
        // What an old copy of a disk held the pool has, as far as that has ops of this id; what came since is its own.
        let parted = std::mem::take(&mut self.disputes).parted();
        let is_forked = |op: &Op| {
            let OpId { origin, seq } = op.id();
            loss == Loss::Fork && origin == node && seq > self.resumed_at
                || parted.get(&origin).is_some_and(|common| seq > *common)
        };
        let orphan = |op: &Op| Orphan { op: op.clone(), forked: is_forked(op) };
        let ids = || self.former.iter().copied().chain([node]);
        let mut held: Vec<Orphan> = self.log.beyond(ids().map(|id| (id, 0))).map(orphan).collect();
        if !left_out(Rule::ReissueHeld) {
            // Of what others have issued, all members hold what is final; the rest this node may be the only one to have.
            let final_to = Stamp { time: self.finality.frontier, origin: NodeId(uuid::Uuid::max()) };
            let others = self.log.after(final_to, None).filter(|op| !ids().any(|id| id == op.origin()));
            held.extend(others.map(orphan));
        }
        // Also those who come back as others where evictions have crossed.
        let pending = &self.finality.assembly.pending;
        let known =
            self.roster.all().iter().filter(|(other, _)| !self.roster.is_gone(**other) || pending.contains(other));
        let urls: Vec<String> = known.flat_map(|(_, member)| member.urls.clone()).collect();
        urls.iter().for_each(|url| self.peers.hint(url));
        let links: Vec<_> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.refuse(link, Why::Fork, why.clone()));
        // Before all else is void: a crash in between must not lose them.
        self.effects.extend(held.iter().map(|orphan| Effect::Store(orphan.record())));
        self.orphans.extend(held);
        self.forget();
        self.take_new_id();
        self.counters.reborn += 1;
        self.counters.rejoined += u64::from(rejoins);
        self.enter(pool);
    }

    /// Gives its id up, and goes by a new one.
    pub(super) fn take_new_id(&mut self) {
        let before = self.config.node;
        self.give_up(before);
        self.part_keyed();
        // If another process goes on under that id, its signs of life are not measured by this one's.
        self.pulses.remove(&before);
        self.config.node = self.new_id();
        self.presence.rename(before, self.config.node, self.run, self.now.mono_ms);
        (self.resumed_at, self.started_ms, self.moving_to) = (0, Some(self.now.mono_ms), None);
    }

    /// Goes on under a new id as a member that holds all it did; nobody else can let it in.
    pub(super) fn go_on_as_another(&mut self) {
        self.take_new_id();
        self.rename(self.config.node);
        self.add_oneself();
    }

    /// An id that no node has had.
    pub(super) fn new_id(&mut self) -> NodeId {
        if let Some(spare) = self.spare.pop() {
            return spare;
        }
        NodeId(uuid::Builder::from_random_bytes(self.rng.u128(..).to_le_bytes()).into_uuid())
    }

    /// Issues again what the pool does not hold of that which this node held under earlier ids: once it is sure that the first
    /// op will never come from elsewhere, and behind all that the op had seen. Others who held it may do the same; by its key
    /// it counts once.
    pub(super) fn issue_orphans(&mut self) {
        if self.roster.is_retired(self.config.node) {
            return;
        }
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.sort_by_key(|orphan| orphan.op.stamp());
        // By origin, the first op that has to wait.
        let mut waiting: BTreeMap<NodeId, u64> = BTreeMap::new();
        for orphan in orphans {
            let (op, body) = (&orphan.op, orphan.op.body());
            let left_out = left_out(Rule::Reissue);
            if left_out || orphan.is_shared(&self.log) || body.commands.iter().any(Command::is_membership) {
                continue;
            }
            let OpId { origin, seq } = op.id();
            // What it issued again under an id that it gave up since may be here as it was first.
            let first = body.key_text().and_then(first_of);
            if let Some((first, _)) = first.as_ref().filter(|(first, hash)| self.holds_as(*first, hash)) {
                self.reissued.insert(op.id(), *first);
                continue;
            }
            let rests_on = |(other, seen): &(NodeId, u64)| waiting.get(other).is_some_and(|first| first <= seen);
            let rests = rests_on(&(origin, seq)) || body.seen.iter().any(rests_on);
            let may_come = || first.as_ref().is_some_and(|(first, _)| !self.is_settled(*first, op.time()));
            if rests || !self.is_settled(op.id(), op.time()) || may_come() {
                waiting.entry(origin).or_insert(seq);
                self.orphans.push(orphan);
                continue;
            }
            let key = body.key_text().map_or_else(|| again_key(op), ToString::to_string);
            if let Some(claim) = self.state.claim(&key) {
                self.reissued.insert(op.id(), claim.op);
                continue;
            }
            if let Ok(again) = self.next_op(&self.body(Some(key), body.guards, body.commands)) {
                self.reissued.insert(op.id(), again.id());
                self.issue(&again);
            }
        }
    }

    /// Whether this node held an op under an earlier id, and has yet to find out whether it must issue it again.
    pub fn is_orphan(&self, id: OpId) -> bool {
        self.orphans.iter().any(|orphan| orphan.op.id() == id)
    }

    /// True if the log has this op, with these bytes.
    fn holds_as(&self, id: OpId, hash: &str) -> bool {
        self.log.get(id).is_some_and(|held| blake3::hash(held.bytes()).to_hex().as_str() == hash)
    }

    /// Whether an op of a time up to this one that is not held here will never be: another has its place, or its origin has left and
    /// all that anyone holds of it is here.
    fn is_settled(&self, id: OpId, time: u64) -> bool {
        let origin = id.origin;
        if self.log.head(origin).seq >= id.seq {
            return true;
        }
        let left = self.roster.is_gone(origin) || !self.roster.knows(origin);
        // Another process goes on under that id, and all its ops up to here are held.
        let passed = !left && self.ready && time <= self.finality.frontier;
        left && self.finality.assembly.pending.is_empty() || passed
    }
}

/// The key of an op that is issued again, which had none: whoever issues it again uses the same, so it counts once. It names the
/// op that was first, which may be held elsewhere.
fn again_key(first: &Op) -> String {
    format!("{AGAIN}{}:{}", first.id(), blake3::hash(first.bytes()).to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        op::{Body, DocKey, IdempotencyKey},
        replica::{
            Config, Replica, Retention,
            transfer::tests::{Pool, config},
        },
    };

    /// An op of an id that nobody has any more, by which `first` was issued again.
    fn again(first: &Op, time: u64) -> Orphan {
        let origin = NodeId(uuid::Uuid::from_u128(99));
        let commands = vec![Command::Put(DocKey::new("c", "x"), "2".into())];
        let body = Body {
            wall_ms: 0,
            seen: Vec::new(),
            key: Some(IdempotencyKey::new(again_key(first))),
            guards: Vec::new(),
            commands,
        };
        Orphan::of(Op::encode(OpId { origin, seq: 1 }, time, &body).expect("it is sound"))
    }

    #[test]
    fn what_was_issued_again_under_an_id_that_was_given_up_is_not_issued_where_the_first_is_held() {
        let mut pool = Pool::default();
        // It has to remember the op: of one that it has forgotten it knows no bytes.
        let a = pool.add(Replica::new(Config { retention: Retention::default(), ..config(1, true) }));
        pool.pass(100);
        let first = pool.put(a, "x", 1).op;
        let held = pool.nodes[a].log.get(first).expect("issued just now").clone();
        pool.nodes[a].orphans.push(again(&held, 50));
        pool.pass(1_000);
        let length = pool.nodes[a].log.len();
        assert_eq!((pool.nodes[a].orphans.len(), pool.nodes[a].log.head(pool.nodes[a].node()).seq), (0, first.seq));
        // Another op of the same id is not it.
        let other = Op::encode(first, held.time() + 1, &held.body()).expect("it is sound");
        pool.nodes[a].orphans.push(again(&other, 50));
        pool.pass(1_000);
        assert_eq!(pool.nodes[a].log.len(), length + 1);
    }
}
