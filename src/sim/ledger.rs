//! What must hold after every step, as named functions, and the memory they need.
//!
//! The ledger follows the whole pool from outside: each op is entered when its origin issues it, with all that its
//! origin held then and the running hash, both worked out here anew. A watch follows one node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use compact_str::CompactString;

use super::Violation;
use crate::{
    document::{Text, Verdict},
    op::{Head, NodeId, Op, OpId, PoolId, Stamp},
    record::Record,
    replica::{Effect, Replica, Standing},
    snapshot::Part,
    wire::{Message, Pulse},
};

/// All ops ever issued, by origin, and what each node has told anyone of itself.
#[derive(Debug, Default)]
pub struct Ledger {
    chains: BTreeMap<NodeId, Vec<Issued>>,
    told: BTreeMap<NodeId, Told>,
    /// Ids under which a node came back from an old copy of its journal. It issues ops twice until it finds that out, so
    /// nothing is entered of it any more; that all agree in the end is checked all the same.
    old: BTreeSet<NodeId>,
    /// What was acknowledged under such an id since, and whether it was in the log of another node.
    doubtful: BTreeMap<OpId, Vec<(Op, bool)>>,
    /// Ids under which two nodes have run at once, and what each of these has acknowledged.
    copied: BTreeSet<NodeId>,
    /// Whether one of them was alone in its pool: then each copy is, and calls final what it writes.
    copied_alone: bool,
    acknowledged: Vec<Op>,
    /// By node, whose eviction was effective there when all that it had to store was stored.
    evicted: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// By the id under which a node came back: what it held before, by origin.
    carried: BTreeMap<NodeId, BTreeMap<NodeId, u64>>,
    /// What is final in each pool: before they meet there may be several.
    pools: BTreeMap<PoolId, Finals>,
}

#[derive(Debug, Default)]
struct Finals {
    /// The final ops of the pool, with their verdicts, as the node that first came so far has them; up to this time.
    ops: BTreeMap<Stamp, (OpId, Verdict)>,
    to: u64,
    /// Before this time they are not all there: nodes have vanished that alone knew some.
    from: u64,
}

/// What a crash must not take back.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The last own op that was sent or acknowledged, and the last that was acknowledged.
    seq: u64,
    acknowledged: u64,
    /// The greatest time that was announced or issued.
    clock: u64,
}

impl Told {
    fn promises(&mut self, by: NodeId, (node, pulse): &(NodeId, Pulse)) {
        if *node == by {
            (self.seq, self.clock) = (self.seq.max(pulse.said.seq), self.clock.max(pulse.said.clock));
        }
    }
}

#[derive(Debug)]
struct Issued {
    time: u64,
    head: Head,
    /// Everything that its origin held when it issued the op, and the op itself.
    holding: BTreeMap<NodeId, u64>,
    op: Op,
}

/// What is remembered of one node from one step to the next.
#[derive(Debug, Default)]
pub struct Watch {
    heads: BTreeMap<NodeId, u64>,
    clock: u64,
    ops: usize,
    /// How often the node has changed its id, and how often it has begun with a snapshot.
    reborn: u64,
    adopted: u64,
    /// Up to where all is final.
    frontier: u64,
    /// How far the changes were followed, and what a subscriber who follows them holds.
    place: u64,
    follower: BTreeMap<(Arc<str>, CompactString), Text>,
}

impl Ledger {
    /// Checks a node after a step, and enters what it issued.
    pub fn check(&mut self, watch: &mut Watch, replica: &Replica) -> Result<(), Violation> {
        if watch.reborn != ids_before(replica) {
            self.carried.insert(replica.node(), std::mem::take(&mut watch.heads));
            *watch = Watch { clock: watch.clock, ..Watch::default() }.anew(replica);
        }
        if watch.adopted != replica.counters().adopted {
            watch.follow(replica);
        }
        a_clock_never_goes_back(watch, replica)?;
        if replica.log().len() != watch.ops {
            self.check_log(watch, replica)?;
        }
        if replica.frontier() != watch.frontier && !self.copied_alone {
            self.check_finals(watch, replica)?;
        }
        a_subscriber_sees_every_change(watch, replica)
    }

    /// A node comes back from its journal: what it has told must still be so. What it has told nobody may be gone. Of an
    /// `old` copy neither holds; the others have the ops that are missing there.
    pub fn resume(&mut self, replica: &Replica, old: bool) -> Result<Watch, Violation> {
        let node = replica.node();
        let (told, seq) = (self.told.get(&node).copied().unwrap_or_default(), replica.log().head(node).seq);
        if old || self.old.contains(&node) {
            self.old.insert(node);
            return Ok(Watch::default().anew(replica));
        }
        if seq < told.seq {
            let detail = format!("{node} has told of its op {}, and comes back with {seq}", told.seq);
            return Err(Violation { invariant: "a node comes back with every op that it has told of", detail });
        }
        if replica.clock() < told.clock {
            let detail = format!("{node} has told of the time {}, and comes back at {}", told.clock, replica.clock());
            return Err(Violation { invariant: "a node never comes back below a time that it has told", detail });
        }
        self.chains.entry(node).or_default().truncate(seq as usize);
        Ok(Watch::default().anew(replica))
    }

    /// A second node runs under this id. What the first has acknowledged so far both hold.
    pub fn copied(&mut self, node: NodeId, alone: bool) {
        self.copied_alone |= alone;
        if !self.copied.insert(node) {
            return;
        }
        let told = self.told.get(&node).map_or(0, |told| told.acknowledged) as usize;
        let chain = self.chains.get(&node).map_or(&[][..], |chain| chain);
        self.acknowledged.extend(chain.iter().take(told).map(|issued| issued.op.clone()));
    }

    /// Whether two nodes have run at once under this id.
    pub fn is_copied(&self, node: NodeId) -> bool {
        self.copied.contains(&node)
    }

    /// A node has acknowledged an op.
    pub fn acknowledged(&mut self, op: Op) {
        if self.copied.contains(&op.origin()) {
            self.acknowledged.push(op);
        }
    }

    /// Whether a node came back from an old copy of its journal, and has not found that out.
    pub fn is_old(&self, node: NodeId) -> bool {
        self.old.contains(&node)
    }

    /// A node vanishes: what it has told nobody, not even that it is final, may vanish with it.
    pub fn vanished(&mut self, node: NodeId) {
        let told = self.told.get(&node).map_or(0, |told| told.seq);
        for finals in self.pools.values_mut() {
            let untold = |(_, (id, _)): &(&Stamp, &(OpId, Verdict))| id.origin == node && id.seq > told;
            if let Some(gone) = finals.ops.iter().find(untold).map(|(stamp, _)| *stamp) {
                finals.ops.split_off(&gone);
                finals.to = finals.ops.last_key_value().map_or(0, |(stamp, _)| stamp.time);
            }
        }
    }

    /// An eviction that was effective at a node stays effective there, or finality could end for good. `stored` says whether
    /// all that the node knows is on its disk.
    pub fn check_evictions(&mut self, replica: &Replica, stored: bool) -> Result<(), Violation> {
        let (node, pending) = (replica.node(), &replica.assembly().pending);
        if self.old.contains(&node) {
            return Ok(());
        }
        let effective = self.evicted.entry(node).or_default();
        if let Some(again) = effective.iter().find(|evicted| pending.contains(evicted)) {
            let detail = format!("that of {again} was effective at {node}, and waits again");
            return violated("an eviction that was effective stays so", detail);
        }
        // Who is no part of the pool in its own eyes declares nothing, and nothing rests on what it makes of it.
        let declares = replica.assembly().remaining.contains(&node) && !replica.assembly().outcast;
        if stored && declares && replica.standing() == Standing::Member {
            let gone = replica.roster().all().keys().filter(|node| replica.roster().is_evicted(**node));
            effective.extend(gone.filter(|gone| !pending.contains(gone)));
        }
        Ok(())
    }

    /// What was final past this time nobody knows any more.
    pub fn lost_beyond(&mut self, time: u64) {
        for finals in self.pools.values_mut() {
            finals.ops.retain(|stamp, _| stamp.time <= time);
            finals.to = finals.to.min(time);
        }
    }

    /// A node tells someone something, while its disk has stored these records.
    pub fn tells(&mut self, node: NodeId, effect: &Effect, stored: &[Record]) -> Result<(), Violation> {
        if let Effect::Receipt(_, Ok(receipt)) = effect
            && receipt.op.origin == node
            && self.old.contains(&node)
        {
            self.acknowledges(receipt.op, stored);
        }
        let told = self.told.entry(node).or_default();
        match effect {
            Effect::Receipt(_, Ok(receipt)) if receipt.op.origin == node => {
                told.seq = told.seq.max(receipt.op.seq);
                told.acknowledged = told.acknowledged.max(receipt.op.seq);
            }
            Effect::Send(_, Message::Hello(hello)) => told.clock = told.clock.max(hello.clock),
            Effect::Send(_, Message::Beat(beat)) => {
                told.clock = told.clock.max(beat.clock);
                beat.pulses.iter().for_each(|pulse| told.promises(node, pulse));
            }
            Effect::Send(_, Message::Ops(ops, _, pulses)) => {
                pulses.iter().for_each(|pulse| told.promises(node, pulse));
                for op in ops.iter().filter(|op| op.origin() == node) {
                    (told.seq, told.clock) = (told.seq.max(op.id().seq), told.clock.max(op.time()));
                }
            }
            Effect::Send(_, Message::Heads(heads)) => {
                for (origin, head) in heads.iter().filter(|(_, head)| head.seq > 0) {
                    if !is_stored(OpId { origin: *origin, seq: head.seq }, stored) {
                        let detail = format!("{node} says that it holds {origin}.{}, which is not stored", head.seq);
                        return violated("what a node says it holds is stored", detail);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A node that came back from an old copy acknowledges an op.
    fn acknowledges(&mut self, id: OpId, stored: &[Record]) {
        let op = stored.iter().rev().find_map(|record| match record {
            Record::Op(op) if op.id() == id => Some(op),
            _ => None,
        });
        let known = self.doubtful.entry(id).or_default();
        if let Some(op) = op.filter(|op| known.iter().all(|(known, _)| known != *op)) {
            known.push((op.clone(), false));
        }
    }

    /// An op has come into the log of another node than its origin.
    fn reaches(&mut self, op: &Op) {
        let known = self.doubtful.get_mut(&op.id()).into_iter().flatten();
        known.filter(|(known, _)| known == op).for_each(|(_, shared)| *shared = true);
    }

    /// What has become final is what became final elsewhere, in the same order and with the same verdicts.
    fn check_finals(&mut self, watch: &mut Watch, replica: &Replica) -> Result<(), Violation> {
        // What was final before this node began with a snapshot it cannot tell.
        let (from, to) = (watch.frontier.max(replica.horizon()), replica.frontier());
        let Some((pool, _)) = replica.pool() else { return Ok(()) };
        let finals = self.pools.entry(*pool).or_default();
        if from > finals.to {
            finals.from = from;
        }
        let from = from.max(finals.from);
        if to < watch.frontier {
            return violated("the frontier never goes back", format!("it went from {} to {to}", watch.frontier));
        }
        let behind = |time| Stamp { time, origin: NodeId(uuid::Uuid::max()) };
        let ops = replica.log().after(behind(from), None).take_while(|op| op.time() <= to);
        let new: BTreeMap<Stamp, (OpId, Verdict)> =
            ops.map(|op| (op.stamp(), (op.id(), replica.state().verdict(op.stamp())))).collect();
        let known = finals.ops.range(..=behind(to)).filter(|(stamp, _)| stamp.time > from);
        let here = new.range(..=behind(finals.to));
        if !known.clone().eq(here.clone()) {
            let known: Vec<_> = known.filter(|(stamp, known)| new.get(stamp) != Some(known)).take(3).collect();
            let here: Vec<_> = here.filter(|(stamp, here)| finals.ops.get(stamp) != Some(here)).take(3).collect();
            let detail = format!("from {from} to {to} another node has {known:?}, and {} has {here:?}", replica.node());
            return violated("final ops are the same everywhere", detail);
        }
        finals.ops.extend(new);
        finals.to = finals.ops.last_key_value().map_or(0, |(stamp, _)| stamp.time);
        watch.frontier = to;
        Ok(())
    }

    /// What was said to be final is so still.
    pub fn finals_stand(&self, replica: &Replica) -> Result<(), Violation> {
        let turned = |(stamp, (id, verdict)): &(&Stamp, &(OpId, Verdict))| {
            let stands = || replica.log().get(*id).is_some() && replica.state().verdict(**stamp) == *verdict;
            stamp.time > replica.horizon() && !stands()
        };
        let finals = replica.pool().and_then(|(pool, _)| self.pools.get(pool));
        match finals.and_then(|finals| finals.ops.iter().find(turned)) {
            Some(turned) if !self.copied_alone => {
                violated("a final verdict never turns", format!("{turned:?} is not so at {}", replica.node()))
            }
            _ => Ok(()),
        }
    }

    /// What a node has acknowledged, under whatever id, is in its log, or has come again under another id.
    pub fn acknowledged_is_there(&self, replica: &Replica) -> Result<(), Violation> {
        for op in &self.acknowledged {
            let OpId { origin, seq } = op.id();
            let forgotten = seq <= replica.log().start(origin).seq;
            if !forgotten && replica.log().get(op.id()) != Some(op) {
                is_not_gone(op, replica)?;
            }
        }
        let ids = replica.former().iter().copied().chain([replica.node()]);
        for id in ids.filter(|id| !self.old.contains(id)) {
            let acknowledged = self.told.get(&id).map_or(0, |told| told.acknowledged) as usize;
            let held = replica.log().head(id).seq as usize;
            let chain = self.chains.get(&id).map_or(&[][..], |chain| chain);
            let gone = chain.iter().take(acknowledged).skip(held).map(|issued| &issued.op);
            gone.into_iter().try_for_each(|op| is_not_gone(op, replica))?;
        }
        let alone = self.doubtful.values().flatten().filter(|(_, shared)| !shared).map(|(op, _)| op);
        let mut gone = alone.filter(|op| replica.log().get(op.id()) != Some(op));
        gone.try_for_each(|op| is_not_gone(op, replica))
    }

    /// What a node held when it came back as another is in its log, or has come again, behind what it rests on.
    pub fn carried_is_there(&self, replica: &Replica) -> Result<(), Violation> {
        let ids = replica.former().iter().copied().chain([replica.node()]);
        for (origin, seq) in ids.filter_map(|id| self.carried.get(&id)).flatten() {
            let held = replica.log().head(*origin).seq;
            for seq in held + 1..=*seq {
                let id = OpId { origin: *origin, seq };
                let Some(issued) = self.issued(id).filter(|_| !self.old.contains(origin)) else { continue };
                if issued.op.body().commands.iter().any(crate::op::Command::is_membership) {
                    continue;
                }
                if !has_come_again(replica, &issued.op) {
                    let detail = format!("{id} was held, and is gone at {}", replica.node());
                    return violated("what was held is there", detail);
                }
                let Some(place) = place_again(replica, &issued.op) else { continue };
                // Where a client has repeated its key elsewhere, the first of these counts.
                let own_key = |op: &Op| op.body().key.is_none();
                if !own_key(&issued.op) {
                    continue;
                }
                // Of an id that two processes ran under nothing tells which of the two ops it had seen.
                let before = issued
                    .holding
                    .iter()
                    .filter(|(other, _)| !self.old.contains(other) && !self.copied.contains(other));
                let before = before.filter(|(other, seq)| replica.log().head(**other).seq < **seq);
                let before = before.filter_map(|(origin, seq)| self.issued(OpId { origin: *origin, seq: *seq }));
                let places =
                    before.filter(|before| own_key(&before.op)).filter_map(|before| place_again(replica, &before.op));
                if let Some(later) = places.into_iter().find(|before| *before > place) {
                    let detail = format!("{id} came again at {place:?}, what it had seen at {later:?}");
                    return violated("what comes again keeps its order", detail);
                }
            }
        }
        Ok(())
    }

    /// What a node has acknowledged, under whatever id, some other node has, or has it again under another id.
    pub fn acknowledged_is_elsewhere(&self, replica: &Replica, others: &[&Replica]) -> Result<(), Violation> {
        let ids = replica.former().iter().copied().chain([replica.node()]);
        for id in ids.filter(|id| !self.old.contains(id)) {
            let acknowledged = self.told.get(&id).map_or(0, |told| told.acknowledged) as usize;
            let held = others.iter().map(|other| other.log().head(id).seq).max().unwrap_or(0) as usize;
            let chain = self.chains.get(&id).map_or(&[][..], |chain| chain);
            // The retirement itself is not.
            let beyond = chain
                .iter()
                .take(acknowledged)
                .skip(held)
                .filter(|issued| !issued.op.body().commands.iter().any(crate::op::Command::is_membership));
            for Issued { op, .. } in beyond {
                let key = key_again(op);
                if others.iter().all(|other| other.state().claim(&key).is_none()) {
                    let detail = format!("{} was acknowledged, and {} retires with it", op.id(), replica.node());
                    return violated("a node retires once others have what it has acknowledged", detail);
                }
            }
        }
        Ok(())
    }

    fn check_log(&mut self, watch: &mut Watch, replica: &Replica) -> Result<(), Violation> {
        let heads: Vec<(NodeId, Head)> = replica.log().heads().collect();
        heads_are_contiguous(watch, replica, &heads)?;
        let own = replica.config().node;
        let known = watch.heads.get(&own).copied().unwrap_or(0).max(replica.log().start(own).seq);
        for seq in known + 1..=replica.log().head(own).seq {
            let op = replica.log().get(OpId { origin: own, seq }).expect("the heads are contiguous");
            self.enter(watch, op, &heads)?;
        }
        for (origin, head) in &heads {
            self.hashes_agree(*origin, *head)?;
            let before = watch.heads.get(origin).copied().unwrap_or(0);
            for seq in before.max(replica.log().start(*origin).seq) + 1..=head.seq {
                let op = replica.log().get(OpId { origin: *origin, seq }).expect("the heads are contiguous");
                if op.time() <= watch.frontier && !self.copied_alone {
                    let detail = format!(
                        "{} at {} comes to {}, whose frontier was {}",
                        op.id(),
                        op.stamp(),
                        replica.node(),
                        watch.frontier
                    );
                    return violated("nothing comes before what is final", detail);
                }
                if *origin != own && !replica.former().contains(origin) {
                    self.reaches(op);
                }
                what_an_op_has_seen_is_held(replica, op)?;
                a_clock_is_past_what_is_held(replica, op)?;
            }
        }
        watch.heads = heads.iter().map(|(origin, head)| (*origin, head.seq)).collect();
        watch.ops = replica.log().len();
        self.tips_stand_for_everything(watch, replica)
    }

    /// Enters an op on the step in which its origin issues it.
    fn enter(&mut self, watch: &mut Watch, op: &Op, after: &[(NodeId, Head)]) -> Result<(), Violation> {
        let OpId { origin, seq } = op.id();
        if self.old.contains(&origin) {
            return Ok(());
        }
        let chain = self.chains.entry(origin).or_default();
        let last = chain.last();
        if last.is_some_and(|last| matches!(last.op.body().commands[..], [crate::op::Command::Retire])) {
            return violated("nothing follows a retirement", format!("{} does", op.id()));
        }
        let mut named = last.map(|last| last.holding.clone()).unwrap_or_default();
        named.insert(origin, seq);
        named.extend(op.body().seen);
        // In the step of an answer to an eviction others' ops may have come before it.
        let held = |node: &NodeId| watch.heads.get(node).copied().unwrap_or(0);
        let most = |node: NodeId| after.iter().find(|(other, _)| *other == node).map_or(0, |(_, head)| head.seq);
        let all =
            watch.heads.iter().all(|(node, seq)| *node == origin || named.get(node).is_some_and(|named| named >= seq));
        if !all || named.iter().any(|(node, seq)| *seq < held(node) || *seq > most(*node)) {
            let holding = &watch.heads;
            let detail = format!("{} at {} names {named:?}, but its origin holds {holding:?}", op.id(), op.stamp());
            return violated("an op's seen names all that its origin holds", detail);
        }
        watch.heads.insert(origin, seq);
        let head = last.map(|last| last.head).unwrap_or_default().extended(op);
        chain.push(Issued { time: op.time(), head, holding: named, op: op.clone() });
        let held = self.chains[&origin].last().map(|issued| &issued.holding).expect("entered just now");
        for (other, seq) in held.iter().filter(|(other, _)| **other != origin) {
            self.time_is_past(op, OpId { origin: *other, seq: *seq })?;
        }
        if seq > 1 { self.time_is_past(op, OpId { origin, seq: seq - 1 }) } else { Ok(()) }
    }

    fn time_is_past(&self, op: &Op, before: OpId) -> Result<(), Violation> {
        let earlier = self.issued(before).map_or(0, |issued| issued.time);
        if op.time() > earlier {
            return Ok(());
        }
        let detail = format!("{} has time {}, but follows {before} of time {earlier}", op.id(), op.time());
        violated("an op's time is past that of all its origin holds", detail)
    }

    fn hashes_agree(&self, origin: NodeId, head: Head) -> Result<(), Violation> {
        let issued = self.issued(OpId { origin, seq: head.seq }).map(|issued| issued.head);
        if issued == Some(head) || self.old.contains(&origin) {
            return Ok(());
        }
        violated(
            "running hashes agree",
            format!("the head of {origin} is {head:?} here, but its origin had {issued:?}"),
        )
    }

    /// A client that shows a node's tips to another node must see there all that the first one held.
    fn tips_stand_for_everything(&self, watch: &Watch, replica: &Replica) -> Result<(), Violation> {
        if !self.old.is_empty() {
            return Ok(());
        }
        let mut reached: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (origin, seq) in replica.tips() {
            let Some(issued) = self.issued(OpId { origin: *origin, seq: *seq }) else { continue };
            for (other, seq) in &issued.holding {
                let most = reached.entry(*other).or_default();
                *most = (*most).max(*seq);
            }
        }
        if reached == watch.heads {
            return Ok(());
        }
        let detail = format!("the tips {:?} stand for {reached:?}, not for {:?}", replica.tips(), watch.heads);
        violated("holding the tips is holding everything", detail)
    }

    /// Of ops that follow one another in the order of a document: how many follow one they did not see.
    pub fn concurrent_pairs<'a>(&self, ops: impl Iterator<Item = &'a Op>) -> u64 {
        let mut last: BTreeMap<(String, String), OpId> = BTreeMap::new();
        let mut pairs = 0;
        for op in ops {
            let Some(issued) = self.issued(op.id()) else { continue };
            for doc in op.body().commands.iter().filter_map(crate::op::Command::doc) {
                let before = last.insert((doc.collection.to_string(), doc.id.to_string()), op.id());
                let saw = |before: OpId| issued.holding.get(&before.origin).is_some_and(|seq| *seq >= before.seq);
                pairs += u64::from(before.is_some_and(|before| !saw(before)));
            }
        }
        pairs
    }

    /// All ops that a node holds or has forgotten; none where not all of them are known here.
    pub fn ops_of<'a>(&'a self, replica: &'a Replica) -> Option<Vec<&'a Op>> {
        if replica.horizon() == 0 {
            return Some(replica.log().after(Stamp { time: 0, origin: NodeId(uuid::Uuid::nil()) }, None).collect());
        }
        let mut ops = Vec::new();
        for (origin, head) in replica.log().heads() {
            let chain = self.chains.get(&origin).filter(|_| !self.old.contains(&origin))?;
            ops.extend(chain.get(..head.seq as usize)?.iter().map(|issued| &issued.op));
        }
        Some(ops)
    }

    fn issued(&self, id: OpId) -> Option<&Issued> {
        self.chains.get(&id.origin)?.get(usize::try_from(id.seq.checked_sub(1)?).ok()?)
    }
}

impl Watch {
    /// Begins with what a node holds now.
    fn anew(mut self, replica: &Replica) -> Watch {
        self.heads = replica.log().heads().map(|(origin, head)| (origin, head.seq)).collect();
        self.ops = replica.log().len();
        self.reborn = ids_before(replica);
        self.frontier = replica.horizon();
        self.follow(replica);
        self
    }

    /// A subscriber starts over with the documents that there are.
    fn follow(&mut self, replica: &Replica) {
        self.adopted = replica.counters().adopted;
        // What the snapshot has no place for is gone.
        self.heads.iter_mut().for_each(|(origin, seq)| *seq = replica.log().head(*origin).seq.min(*seq));
        self.frontier = self.frontier.min(replica.frontier());
        self.place = replica.state().changes().end();
        self.follower.clear();
        for (name, _) in replica.state().collections() {
            let (views, _) = replica.state().scan(name, None, usize::MAX);
            self.follower.extend(views.into_iter().map(|view| ((view.collection, view.id), view.text)));
        }
    }

    /// Compares what a subscriber has made of the changes with the documents.
    pub fn a_subscriber_ends_with_the_documents(&self, replica: &Replica) -> Result<(), Violation> {
        let mut documents = BTreeMap::new();
        for (name, _) in replica.state().collections() {
            let (views, _) = replica.state().scan(name, None, usize::MAX);
            documents.extend(views.into_iter().map(|view| ((view.collection, view.id), view.text)));
        }
        if documents == self.follower {
            return Ok(());
        }
        let differing = documents.iter().find(|(key, text)| self.follower.get(*key) != Some(*text));
        let left = self.follower.keys().find(|key| !documents.contains_key(*key));
        violated("a subscriber ends with the documents", format!("it lacks {differing:?} or still holds {left:?}"))
    }
}

/// The key under which an op is issued again.
fn key_again(op: &Op) -> String {
    let again = || format!("again:{}:{}", op.id(), blake3::hash(op.bytes()).to_hex());
    op.body().key_text().map_or_else(again, ToString::to_string)
}

/// The op that was first, of one whose key says that it was issued again.
fn first_of(key: &str) -> Option<OpId> {
    key.strip_prefix("again:")?.split_once(':')?.0.parse().ok()
}

/// The place of an op that was issued again, or of the op that it was first.
fn place_again(replica: &Replica, op: &Op) -> Option<Stamp> {
    let key = key_again(op);
    let first = || replica.log().get(first_of(&key)?).filter(|first| key_again(first) == key).map(Op::stamp);
    replica.state().claim(&key).map(|claim| claim.stamp()).or_else(first)
}

/// True if an op was issued again, or need not be, since the op that it was first is there. If that is forgotten, nothing
/// tells which op it was.
fn has_come_again(replica: &Replica, op: &Op) -> bool {
    let is_forgotten = |first: OpId| first.seq <= replica.log().start(first.origin).seq;
    place_again(replica, op).is_some() || op.body().key_text().and_then(first_of).is_some_and(is_forgotten)
}

/// An op that is not held was issued again under another id, or need not be.
fn is_not_gone(op: &Op, replica: &Replica) -> Result<(), Violation> {
    let membership = op.body().commands.iter().any(crate::op::Command::is_membership);
    if membership || has_come_again(replica, op) {
        return Ok(());
    }
    let detail = format!("{} was acknowledged, and is gone at {}", op.id(), replica.node());
    violated("what was acknowledged is there", detail)
}

/// How many ids a node has had before this one.
fn ids_before(replica: &Replica) -> u64 {
    // Who takes over goes on with all it holds.
    replica.counters().reborn - replica.counters().took_over + replica.counters().merged
}

fn a_clock_never_goes_back(watch: &mut Watch, replica: &Replica) -> Result<(), Violation> {
    if replica.clock() < watch.clock {
        let detail = format!("it went from {} to {}", watch.clock, replica.clock());
        return violated("a clock never goes back", detail);
    }
    watch.clock = replica.clock();
    Ok(())
}

fn a_clock_is_past_what_is_held(replica: &Replica, op: &Op) -> Result<(), Violation> {
    if replica.clock() >= op.time() {
        return Ok(());
    }
    let detail = format!("the clock is {}, but {} has time {}", replica.clock(), op.id(), op.time());
    violated("a clock is never behind a held op", detail)
}

fn heads_are_contiguous(watch: &Watch, replica: &Replica, heads: &[(NodeId, Head)]) -> Result<(), Violation> {
    let name = "heads are contiguous and never shrink";
    for (origin, seq) in &watch.heads {
        let now = replica.log().head(*origin).seq;
        if now < *seq {
            return violated(name, format!("{origin} went from {seq} to {now}"));
        }
    }
    for (origin, head) in heads {
        let known = watch.heads.get(origin).copied().unwrap_or(0).max(replica.log().start(*origin).seq);
        for seq in known + 1..=head.seq {
            let id = OpId { origin: *origin, seq };
            let found = replica.log().get(id).map(Op::id);
            if found != Some(id) {
                return violated(name, format!("in the place of {id} there is {found:?}"));
            }
        }
    }
    let held: u64 = heads.iter().map(|(_, head)| head.seq).sum();
    if held == replica.log().len() as u64 {
        return Ok(());
    }
    violated("no op is taken twice", format!("{} ops are held, but the heads add up to {held}", replica.log().len()))
}

fn what_an_op_has_seen_is_held(replica: &Replica, op: &Op) -> Result<(), Violation> {
    let missing = op.body().seen.into_iter().find(|(origin, seq)| replica.log().head(*origin).seq < *seq);
    let Some((origin, seq)) = missing else { return Ok(()) };
    violated("what an op has seen is held", format!("{} is held, but not {origin}.{seq}", op.id()))
}

fn a_subscriber_sees_every_change(watch: &mut Watch, replica: &Replica) -> Result<(), Violation> {
    let changes = replica.state().changes();
    if changes.end() == watch.place {
        return Ok(());
    }
    let Some(new) = changes.since(watch.place) else {
        return violated("a subscriber sees every change", "it fell behind though it read at every step".into());
    };
    let mut seen = BTreeMap::new();
    for change in new {
        let key = (Arc::clone(&change.collection), change.id.clone());
        // Of a document that changed twice in one step only the first change starts from what the subscriber holds.
        let first = seen.insert(key.clone(), ()).is_none();
        if first && change.before != watch.follower.get(&key).cloned() {
            let detail = format!("{key:?} was {:?} before, not {:?}", watch.follower.get(&key), change.before);
            return violated("a subscriber sees every change", detail);
        }
    }
    for (key, ()) in seen {
        match replica.state().get(&key.0, &key.1) {
            Some(view) => drop(watch.follower.insert(key, view.text)),
            None => drop(watch.follower.remove(&key)),
        }
    }
    watch.place = changes.end();
    Ok(())
}

/// Whether an op is among these records, or a snapshot that is whole there stands for it.
pub fn is_stored(id: OpId, records: &[Record]) -> bool {
    let mut snapshot = false;
    for record in records {
        match record {
            Record::Op(op) if op.id() == id => return true,
            Record::Snapshot(Part::Base(base) | Part::Again(base)) => {
                let has = |(origin, head): &(NodeId, Head)| *origin == id.origin && head.seq >= id.seq;
                snapshot = base.heads.iter().any(has);
            }
            Record::Snapshot(Part::Whole(_)) if snapshot => return true,
            _ => {}
        }
    }
    false
}

fn violated(invariant: &'static str, detail: String) -> Result<(), Violation> {
    Err(Violation { invariant, detail })
}
