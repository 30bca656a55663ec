//! Snapshots on links: sent to one who lacks ops that are forgotten here, and taken in by one who begins with nothing.
//!
//! The receiver asks, one peer at a time; what broke off it goes on with at any peer whose log reaches back to the time of
//! what it has. Each piece is recorded as it comes, so that a whole one needs no second writing, and one that is not
//! whole counts for nothing. The documents come into a state of their own, which takes the place of the node's when it is
//! whole: nobody reads half of it.

use std::collections::BTreeSet;

use super::{
    Effect, LinkId, Log, Replica,
    dump::{self, Pieces},
    gossip::{HEADS_MAX, Place},
    rebirth::{Loss, Orphan},
    roster::Roster,
};
use crate::{
    document::State,
    op::{Head, NodeId, Op},
    record::Record,
    snapshot::{Base, BaseDocument, Key, Part, Slice, Whole},
    wire::{Begun, Message, Why},
};

/// A peer that was asked for a snapshot and sends nothing of it for this long is not waited for.
const PATIENCE_MS: u64 = 10_000;

/// What a peer has forgotten may be on its way from another to one who has only just become a member; after this long it is
/// not.
const GONE_ON_MS: u64 = 3_000;

/// A snapshot that this node has asked for.
#[derive(Debug)]
pub(super) struct Fetch {
    /// Whom it has asked; none if that link is gone.
    link: Option<LinkId>,
    /// When something came last, or it was asked; none if it is to be asked again at once.
    heard_ms: Option<u64>,
    incoming: Option<Incoming>,
}

/// What came of it.
#[derive(Debug)]
struct Incoming {
    base: Base,
    state: State,
    sum: Whole,
    /// The key up to which all has come; none before the first slice.
    reached: Option<Key>,
    /// Whether the last slice has come.
    ended: bool,
}

impl Incoming {
    /// Takes a slice, if it is the next.
    fn take(&mut self, slice: Slice) {
        dump::add(&mut self.sum, &slice.documents);
        self.ended = slice.next.is_none();
        // Behind the last document too there is a key to go on from: the end of the snapshot may be lost.
        let last = || slice.documents.last().map(|document| (document.collection.clone(), document.id.clone()));
        self.reached = slice.next.clone().or_else(last).or(self.reached.take());
        slice.documents.into_iter().for_each(|document| self.state.adopt(document));
    }

    fn is_next(&self, time: u64, slice: &Slice) -> bool {
        self.base.time == time && !self.ended && self.reached == slice.after
    }

    /// Whether a slice says no more than that all documents are here: the end was lost, and comes again.
    fn is_end(&self, time: u64, slice: &Slice) -> bool {
        let empty = slice.documents.is_empty() && slice.next.is_none();
        self.base.time == time && self.ended && self.reached == slice.after && empty
    }

    fn begun(&self) -> Begun {
        Begun { time: self.base.time, after: self.reached.clone(), sum: self.sum }
    }
}

/// Whether the documents of a slice are in their order, and where it says they are.
fn is_orderly(slice: &Slice) -> bool {
    let key = |document: &BaseDocument| (document.collection.clone(), document.id.clone());
    let within = |document: &BaseDocument| {
        let key = Some(key(document));
        key > slice.after && (slice.next.is_none() || key <= slice.next)
    };
    slice.documents.iter().all(within) && slice.documents.is_sorted_by(|a, b| key(a) < key(b))
}

impl Replica {
    /// The peer has forgotten ops, and thinks that this node lacks some.
    pub(super) fn on_dropped(&mut self, link: LinkId, forgotten: &[(NodeId, Head)]) {
        let (node, now_ms) = (self.config.node, self.now.mono_ms);
        let lacks = self.spoilt || forgotten.iter().any(|(origin, head)| self.log.head(*origin).seq < head.seq);
        let Some(found) = self.links.get_mut(&link) else { return };
        if !lacks {
            // It answered an old word; the next beats bring a newer one.
            return found.dropped_ms = None;
        }
        let since_ms = *found.dropped_ms.get_or_insert(now_ms);
        if self.spoilt || self.log.head(node).seq == 0 && !self.ready {
            self.fetch();
        } else if now_ms >= since_ms + GONE_ON_MS && self.believes(link) {
            // Where it lacks ops of its own, its disk was an old copy; what it has issued since it was started from that the
            // pool never had.
            let loss = if self.is_forked(forgotten) { Loss::Fork } else { Loss::Behind };
            self.be_reborn(format!("the pool has gone on without {node}, which comes back as another"), loss);
        }
    }

    /// Asks for a snapshot where one is needed, of one peer at a time.
    pub(super) fn fetch(&mut self) {
        let now_ms = self.now.mono_ms;
        // One that has written on an old copy of its disk would lose that with it, for a snapshot stands for other ops of its id.
        let takes_all = !self.ready && self.unconfirmed.is_none() && self.is_told_to_fetch();
        let needs = self.pool.is_some() && (self.spoilt || self.doubtful || takes_all);
        if !needs {
            if self.ready {
                self.fetch = None;
            }
            return;
        }
        let waits = |fetch: &Fetch| {
            let linked = fetch.link.is_some_and(|link| self.links.contains_key(&link));
            linked && fetch.heard_ms.is_some_and(|heard_ms| now_ms < heard_ms + PATIENCE_MS)
        };
        if self.fetch.as_ref().is_some_and(waits) {
            return;
        }
        let last = self.fetch.as_ref().and_then(|fetch| fetch.link);
        let serves = |(_, link): &(&LinkId, &super::Link)| {
            let known = |peer: &crate::wire::Hello| peer.member || link.catch_up.is_some();
            let member = link.peer.as_ref().is_some_and(|peer| known(peer) && !self.roster.is_gone(peer.node));
            member && (link.dropped_ms.is_some() || self.spoilt || self.doubtful)
        };
        let mut others: Vec<LinkId> = self.links.iter().filter(serves).map(|(id, _)| *id).collect();
        // The one that fell silent is asked again last.
        others.sort_by_key(|link| Some(*link) == last);
        let Some(link) = others.first().copied() else { return };
        let incoming = self.fetch.take().and_then(|fetch| fetch.incoming);
        let begun = incoming.as_ref().map(Incoming::begun);
        self.fetch = Some(Fetch { link: Some(link), heard_ms: Some(now_ms), incoming });
        self.effects.push(Effect::Send(link, Message::Fetch(begun)));
    }

    /// Whether the one that this newcomer takes all from has forgotten some of it.
    fn is_told_to_fetch(&self) -> bool {
        self.host.and_then(|host| self.links.get(&host)).is_some_and(|host| host.dropped_ms.is_some())
    }

    /// A peer asks for a snapshot.
    pub(super) fn on_fetch(&mut self, link: LinkId, begun: Option<Begun>) {
        if !self.ready || self.spoilt {
            return;
        }
        let frontier = self.finality.frontier;
        let known = |begun: &Begun| (self.log.horizon()..=frontier).contains(&begun.time);
        let pieces = begun.filter(known).map_or_else(|| Pieces::new(frontier), Pieces::behind);
        if let Some(found) = self.links.get_mut(&link) {
            found.transfer = Some(pieces);
        }
        self.pump(link);
    }

    /// The next piece for a peer that has asked.
    pub(super) fn next_piece(&mut self, link: LinkId) {
        let Some(found) = self.links.get_mut(&link).filter(|link| link.writable) else { return };
        let Some(mut pieces) = found.transfer.take() else { return };
        if self.log.horizon() > pieces.time {
            return self.effects.push(Effect::Send(link, Message::Dropped(self.log.starts())));
        }
        let time = pieces.time;
        let Some(part) = pieces.next(&self.state, &self.log, &self.roster) else { return self.pin(time) };
        found.writable = false;
        found.transfer = Some(pieces);
        self.effects.push(Effect::Send(link, Message::Snapshot(time, part)));
    }

    /// A piece of a snapshot came.
    pub(super) fn on_snapshot(&mut self, link: LinkId, time: u64, part: Part) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.link == Some(link)) else { return };
        fetch.heard_ms = Some(self.now.mono_ms);
        let stored = Record::Snapshot(part.clone());
        match (part, &mut fetch.incoming) {
            (Part::Base(base), _) => {
                let far = time > self.now.time_bound() || base.heads.len() > HEADS_MAX;
                if base.time != time || far || !base.is_sound() {
                    return self.refuse(link, Why::Broken, "a snapshot that begins wrongly".into());
                }
                fetch.incoming = Some(Incoming {
                    base,
                    state: State::default(),
                    sum: Whole::default(),
                    reached: None,
                    ended: false,
                });
                // In a journal, the pieces of two snapshots cannot be told apart.
                self.compacting = None;
                self.effects.push(Effect::Store(stored));
                let own = self.own_records();
                self.effects.extend(own.into_iter().map(Effect::Store));
            }
            (Part::Documents(slice), Some(incoming)) if incoming.is_next(time, &slice) => {
                if !is_orderly(&slice) {
                    self.fetch = None;
                    return self.refuse(link, Why::Broken, "a snapshot whose documents are out of order".into());
                }
                incoming.take(slice);
                self.effects.push(Effect::Store(stored));
            }
            (Part::Documents(slice), Some(incoming)) if incoming.is_end(time, &slice) => {}
            (Part::Whole(whole), Some(incoming)) if incoming.base.time == time && incoming.ended => {
                let incoming = self.fetch.take().and_then(|fetch| fetch.incoming).expect("it is there");
                if incoming.sum != whole {
                    return self.refuse(link, Why::Broken, "a snapshot that does not add up".into());
                }
                // A member takes only what it held itself: else it could lose what it has told of.
                let (time, own) = (incoming.base.time, self.log.horizon()..=self.finality.complete);
                if !self.ready || own.contains(&time) && self.log.heads_at(time) == incoming.base.heads {
                    self.install(incoming, whole);
                }
            }
            // A piece was lost on the way: the next tick asks for what comes behind those that are here.
            _ => fetch.heard_ms = None,
        }
    }

    /// Begins with a snapshot; what this node holds beyond it stays.
    fn install(&mut self, Incoming { base, state, .. }: Incoming, whole: Whole) {
        let heads: std::collections::BTreeMap<NodeId, Head> = base.heads.iter().copied().collect();
        let forked =
            |origin: NodeId, head: Head| self.log.hash_at(origin, head.seq).is_some_and(|hash| hash != head.hash);
        let forked: BTreeSet<NodeId> =
            base.heads.iter().filter(|(origin, head)| forked(*origin, *head)).map(|(origin, _)| *origin).collect();
        let seqs = self.log.heads().map(|(origin, _)| (origin, heads.get(&origin).map_or(0, |head| head.seq)));
        let (kept, lost): (Vec<Op>, Vec<Op>) =
            self.log.beyond(seqs).cloned().partition(|op| op.time() > base.time && !forked.contains(&op.origin()));
        // What it issued under ids that it has given up, and nobody else has taken, it issues again.
        let former = lost.into_iter().filter(|op| self.former.contains(&op.origin()));
        let orphans: Vec<Orphan> = former.map(Orphan::of).collect();
        self.effects.extend(orphans.iter().map(|orphan| Effect::Store(orphan.record())));
        self.orphans.extend(orphans);
        self.state = state.follow(&self.state);
        self.rebase(&base);
        let mut batch = Vec::new();
        for op in kept {
            if matches!(self.place(&op), Place::Next) {
                self.append(&op, None, self.log.head(op.origin()).extended(&op));
                batch.push(op);
            }
        }
        self.state.insert(&batch);
        (self.spoilt, self.doubtful, self.compacting) = (false, false, None);
        self.compacted = base.time;
        let ending = self.ending(base, Part::Whole(whole));
        self.effects.extend(ending.into_iter().map(Effect::Store));
        self.counters.adopted += 1;
        self.links.values_mut().for_each(|link| link.dropped_ms = None);
        self.announce();
        self.caught_up();
    }

    /// Goes on from the ops that a base stands for, as if it held them.
    pub(super) fn rebase(&mut self, base: &Base) {
        let node = self.config.node;
        self.log = Log::behind(base.time, &base.heads);
        let moves: Vec<_> = self.roster.moves().collect();
        self.roster = Roster::default();
        base.membership.iter().for_each(|op| {
            self.roster.take(op);
        });
        // No op says so.
        moves.iter().for_each(|(node, to)| drop(self.roster.relocate(*node, to)));
        self.roster_moved = true;
        self.early = super::Early::default();
        self.tips = base.heads.iter().map(|(origin, head)| (*origin, head.seq)).collect();
        self.unseen = self.tips.clone();
        self.unseen.remove(&node);
        self.clock = self.clock.max(base.time);
        // What a node knew before its documents had holes is told anew.
        self.finality.rebase(base.time, self.ready);
    }

    /// How many documents of a snapshot that is coming in are here, and about how many these are.
    pub fn fetch_progress(&self) -> Option<(u64, u64)> {
        let incoming = self.fetch.as_ref()?.incoming.as_ref()?;
        Some((incoming.sum.documents, incoming.base.documents.max(incoming.sum.documents)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        op::{Command, DocKey, Eviction, PublicKey},
        replica::{Config, Draft, Endpoint, Event, LinkKeys, Now, Receipt, Recovery, Retention, Standing},
        version::Version,
    };

    /// Nodes that hear each other on links which a test opens and closes, and keep what they were told to store.
    #[derive(Default)]
    pub(in crate::replica) struct Pool {
        pub(in crate::replica) nodes: Vec<Replica>,
        pub(in crate::replica) records: Vec<Vec<Record>>,
        /// Who is at the other end of each node's links.
        links: Vec<(usize, LinkId, usize)>,
        opened: u64,
        pub(in crate::replica) now: Now,
        /// How many whole snapshots are lost on the way, from now on.
        lost: usize,
    }

    pub(in crate::replica) fn config(id: u128, found: bool) -> Config {
        Config {
            name: format!("n{id}"),
            join: if found { Vec::new() } else { vec!["http://elsewhere:1".into()] },
            urls: vec![format!("http://n{id}:1")],
            found,
            retention: Retention { ops: 0, bytes: 0 },
            ..Config::founder(NodeId(uuid::Uuid::from_u128(id)), id as u64)
        }
    }

    impl Pool {
        pub(in crate::replica) fn add(&mut self, node: Replica) -> usize {
            self.nodes.push(node);
            self.records.push(Vec::new());
            self.nodes.len() - 1
        }

        pub(in crate::replica) fn link(&mut self, one: usize, other: usize) {
            self.link_with(one, other, None);
        }

        /// Links two nodes that prove these static keys, in the order of the nodes.
        pub(in crate::replica) fn link_with(&mut self, one: usize, other: usize, keys: Option<(PublicKey, PublicKey)>) {
            self.opened += 1;
            let link = LinkId(self.opened);
            self.links.extend([(one, link, other), (other, link, one)]);
            let near = keys.map(|(own, peer)| LinkKeys { own, peer });
            let far = keys.map(|(peer, own)| LinkKeys { own, peer });
            self.give(one, Event::Opened(link, None, near));
            let dialled = self.nodes[one].config().urls.first().cloned().map(Endpoint::from);
            self.give(other, Event::Opened(link, dialled, far));
        }

        pub(in crate::replica) fn part(&mut self, one: usize, other: usize) {
            let ends = |end: &(usize, LinkId, usize)| (end.0, end.2) == (one, other) || (end.0, end.2) == (other, one);
            for (node, link, _) in self.links.extract_if(.., |end| ends(end)).collect::<Vec<_>>() {
                self.give(node, Event::Closed(link));
            }
        }

        /// Gives a node an event, and carries on what follows from it, everywhere.
        pub(in crate::replica) fn give(&mut self, node: usize, event: Event) -> Option<Receipt> {
            let (mut coming, mut receipt) = (std::collections::VecDeque::from([(node, event)]), None);
            while let Some((node, event)) = coming.pop_front() {
                for effect in self.nodes[node].handle(self.now, event) {
                    match effect {
                        Effect::Store(record) => self.records[node].push(record),
                        Effect::Receipt(_, answer) => receipt = answer.ok(),
                        Effect::Send(link, message) => {
                            let Some(end) = self.links.iter().find(|end| (end.0, end.1) == (node, link)) else {
                                continue;
                            };
                            if message.is_batch() {
                                coming.push_back((node, Event::Flushed(link)));
                            }
                            if self.lost > 0 && matches!(message, Message::Snapshot(_, Part::Whole(_))) {
                                self.lost -= 1;
                                continue;
                            }
                            coming.push_back((end.2, Event::Heard(link, message)));
                        }
                        Effect::Close(link) => self.links.retain(|end| end.1 != link),
                        Effect::Dial(_) => {}
                    }
                }
            }
            receipt
        }

        pub(in crate::replica) fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 100 {
                self.now.mono_ms += 100;
                (0..self.nodes.len()).for_each(|node| {
                    self.give(node, Event::Tick);
                });
            }
        }

        pub(in crate::replica) fn put(&mut self, node: usize, id: &str, bytes: usize) -> Receipt {
            self.submit(node, None, id, bytes)
        }

        fn put_once(&mut self, node: usize, key: &str, id: &str) -> Receipt {
            self.submit(node, Some(key.into()), id, 1)
        }

        fn submit(&mut self, node: usize, key: Option<String>, id: &str, bytes: usize) -> Receipt {
            let text = format!("\"{}\"", "x".repeat(bytes));
            let commands = vec![Command::Put(DocKey::new("c", id.to_string()), text.into())];
            let draft = Draft { key, guards: Vec::new(), commands, present: false };
            self.give(node, Event::Submit(0, draft)).expect("it is a member")
        }
    }

    #[test]
    fn a_snapshot_that_lacks_only_its_end_goes_on_there() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        (0..20).for_each(|n| drop(pool.put(a, &n.to_string(), 100_000)));
        pool.pass(2_000);
        assert!(pool.nodes[a].horizon() > 20, "all is forgotten");
        let b = pool.add(Replica::new(config(2, false)));
        pool.lost = 1;
        pool.link(a, b);
        pool.pass(200);
        pool.part(a, b);
        assert_eq!(pool.nodes[b].fetch_progress(), Some((20, 20)));
        pool.link(a, b);
        pool.pass(1_000);
        assert_eq!((pool.nodes[b].counters().adopted, pool.nodes[b].standing()), (1, Standing::Member));
        assert_eq!(pool.nodes[b].state().digest(), pool.nodes[a].state().digest());
        let bases = pool.records[b].iter().filter(|record| matches!(record, Record::Snapshot(Part::Base(_))));
        assert_eq!(bases.count(), 1, "it did not begin anew");
    }

    /// Three nodes, of which the last two have one address, as two laptops with the default one do: they hear each other through
    /// the first.
    fn with_one_address() -> (Pool, [usize; 3]) {
        let mut pool = Pool::default();
        let shared = |id| Config { urls: vec!["http://127.0.0.1:7171".into()], ..config(id, false) };
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let [b, c] = [2, 3].map(|id| {
            let node = pool.add(Replica::new(shared(id)));
            pool.link(a, node);
            pool.pass(2_000);
            node
        });
        (pool, [a, b, c])
    }

    #[test]
    fn a_member_that_is_heard_stays_whatever_address_another_has() {
        let (mut pool, nodes) = with_one_address();
        pool.pass(60_000);
        for node in nodes {
            let node = &pool.nodes[node];
            assert_eq!((node.roster().len(), node.counters().reborn, node.standing()), (3, 0, Standing::Member));
        }
    }

    #[test]
    fn a_silent_member_is_replaced_by_the_newer_one_at_its_address() {
        let (mut pool, [a, b, c]) = with_one_address();
        pool.pass(1_000);
        pool.part(a, b);
        pool.pass(20_000);
        let present: Vec<u128> = pool.nodes[a].roster().present().map(|(node, _)| node.0.as_u128()).collect();
        assert_eq!(present, [1, 3]);
        let receipt = pool.put(c, "x", 1);
        pool.pass(2_000);
        assert!(pool.nodes[a].frontier() >= receipt.stamp.time);
    }

    /// Members that are linked each with each, with what is changed in how they begin.
    fn with_members(count: u128, change: impl Fn(Config) -> Config) -> (Pool, Vec<usize>) {
        let mut pool = Pool::default();
        let retention = Retention::default();
        let config = |id| change(Config { retention, ..config(id, id == 1) });
        let nodes: Vec<usize> = (1..=count).map(|id| pool.add(Replica::new(config(id)))).collect();
        for (at, one) in nodes.iter().enumerate() {
            pool.pass(100);
            nodes[..at].iter().for_each(|other| pool.link(*other, *one));
            pool.pass(2_000);
        }
        assert!(nodes.iter().all(|node| pool.nodes[*node].standing() == Standing::Member));
        (pool, nodes)
    }

    fn with_three(change: impl Fn(Config) -> Config) -> (Pool, [usize; 3]) {
        let (pool, nodes) = with_members(3, change);
        (pool, [nodes[0], nodes[1], nodes[2]])
    }

    impl Pool {
        fn retire(&mut self, node: usize) -> bool {
            self.asks(node, Command::Retire)
        }

        /// Submits a command as a client does; true if the node takes it.
        fn asks(&mut self, node: usize, command: Command<'static>) -> bool {
            let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
            self.give(node, Event::Submit(0, draft)).is_some()
        }

        /// Ends a node and starts it again from what it has stored.
        fn restart(&mut self, node: usize, join: bool) {
            let ends: Vec<usize> = self.links.iter().filter(|end| end.0 == node).map(|end| end.2).collect();
            ends.into_iter().for_each(|other| self.part(node, other));
            let mut config = self.nodes[node].config().clone();
            config.join = if join { vec!["http://n1:1".into()] } else { Vec::new() };
            config.seed += 1_000;
            let mut recovery = Recovery::new(config);
            self.records[node].iter().cloned().for_each(|record| recovery.take(record));
            self.nodes[node] = recovery.finish(None);
        }

        fn has(&self, node: usize, id: &str) -> bool {
            self.nodes[node].state().text("c", id).is_some()
        }
    }

    #[test]
    fn a_node_that_the_others_need_to_evict_a_silent_member_does_not_retire_before_that_is_done() {
        let (mut pool, [a, b, c]) = with_three(|config| config);
        let gone = pool.nodes[c].node();
        [a, b].into_iter().for_each(|other| pool.part(other, c));
        pool.pass(20_000);
        assert!(!pool.retire(b), "{} alone could not evict {gone}", pool.nodes[a].node());
        assert!(pool.asks(a, Command::Evict(Eviction { node: gone, force: false })));
        pool.pass(3_000);
        assert!(pool.retire(b));
        pool.pass(3_000);
        let receipt = pool.put(a, "x", 1);
        assert!(pool.nodes[a].frontier() >= receipt.stamp.time, "the last member goes on");
    }

    #[test]
    fn a_node_retires_once_another_member_holds_what_it_has_written() {
        let (mut pool, [a, b, c]) = with_three(|config| config);
        pool.put(c, "shared", 1);
        pool.pass(3_000);
        pool.part(a, c);
        pool.part(b, c);
        pool.put(c, "alone", 1);
        assert!(!pool.retire(c), "nobody else has it");
        assert_eq!(pool.nodes[c].unshared().own, 1);
        pool.link(a, c);
        pool.pass(3_000);
        assert!(pool.retire(c) && pool.has(a, "alone"));
        let issued = pool.nodes[c].log().head(pool.nodes[c].node()).seq;
        // Newcomers are let in by others now, and nothing else is issued either.
        let d = pool.add(Replica::new(config(4, false)));
        pool.link(c, d);
        pool.pass(5_000);
        assert_eq!(pool.nodes[c].log().head(pool.nodes[c].node()).seq, issued);
        assert_eq!(pool.nodes[c].standing(), Standing::Retired);
        pool.restart(c, false);
        pool.link(a, c);
        pool.pass(5_000);
        assert_eq!(pool.nodes[c].standing(), Standing::Retired, "nobody told it to join");
    }

    #[test]
    fn one_who_comes_back_from_an_eviction_retires_once_its_writes_are_there_again() {
        let (mut pool, [a, b, c]) = with_three(|config| config);
        pool.part(a, c);
        pool.part(b, c);
        pool.put(c, "alone", 1);
        pool.pass(20_000);
        let node = pool.nodes[c].node();
        let commands = vec![Command::Evict(Eviction { node, force: false })];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        pool.give(a, Event::Submit(0, draft)).expect("it is silent");
        pool.pass(5_000);
        pool.link(a, c);
        let mut refused = 0;
        // Its old link is refused, and it comes back under another id.
        for _ in 0..100 {
            if pool.nodes[c].linked().next().is_none() {
                pool.link(a, c);
            }
            pool.pass(100);
            if pool.nodes[c].node() != node && pool.nodes[c].standing() == Standing::Member {
                if pool.retire(c) {
                    break;
                }
                refused += 1;
            }
        }
        assert!(refused > 0 && pool.nodes[c].standing() == Standing::Retired, "refused {refused} times");
        assert!(pool.has(a, "alone"));
    }

    #[test]
    fn a_retired_directory_joins_again_as_another_with_what_nobody_else_has() {
        let (mut pool, [a, b, c]) = with_three(|config| config);
        pool.pass(3_000);
        let old = pool.nodes[c].node();
        assert!(pool.retire(c));
        // What an older program issued while it was cut off is in its journal, behind a retirement that nobody heard.
        pool.part(a, c);
        pool.part(b, c);
        pool.restart(c, true);
        assert_eq!(pool.nodes[c].standing(), Standing::CatchingUp);
        for _ in 0..3 {
            pool.link(a, c);
            pool.pass(3_000);
        }
        let node = &pool.nodes[c];
        assert_eq!((node.standing(), node.counters().rejoined), (Standing::Member, 1));
        assert!(node.node() != old && !pool.nodes[a].roster().present().any(|(member, _)| *member == old));
        assert_eq!(pool.nodes[a].roster().len(), 3);
        let time = pool.put(c, "again", 1).stamp.time;
        pool.pass(3_000);
        assert!(pool.nodes[b].frontier() >= time);
    }

    #[test]
    fn a_retirement_that_nobody_heard_is_told_and_what_went_before_it_is_not_lost() {
        let (mut pool, [a, b, c]) = with_three(|config| config);
        pool.pass(3_000);
        pool.part(a, c);
        pool.part(b, c);
        pool.put(c, "alone", 1);
        // As an older program did: it retires though nobody else has its last write.
        pool.nodes[c].issue_alone(Command::Retire);
        pool.pass(100);
        pool.restart(c, true);
        for _ in 0..3 {
            pool.link(a, c);
            pool.pass(3_000);
        }
        assert_eq!((pool.nodes[c].standing(), pool.nodes[a].roster().len()), (Standing::Member, 3));
        assert!([a, b, c].into_iter().all(|node| pool.has(node, "alone")));
    }

    #[test]
    fn members_that_retire_at_the_same_time_come_back_with_all_that_they_had() {
        let (mut pool, nodes) = with_members(2, |config| config);
        let (a, b) = (nodes[0], nodes[1]);
        pool.put(a, "x", 1);
        pool.pass(3_000);
        // Neither has heard of the other's.
        [a, b].into_iter().for_each(|node| pool.nodes[node].issue_alone(Command::Retire));
        pool.part(a, b);
        let old = [a, b].map(|node| pool.nodes[node].node());
        [a, b].into_iter().for_each(|node| pool.restart(node, true));
        for _ in 0..4 {
            pool.link(a, b);
            pool.pass(3_000);
        }
        for (node, old) in [a, b].into_iter().zip(old) {
            assert!(pool.has(node, "x") && pool.nodes[node].node() != old);
            assert_eq!((pool.nodes[node].standing(), pool.nodes[node].roster().len()), (Standing::Member, 2));
        }
        let time = pool.put(a, "again", 1).stamp.time;
        pool.pass(3_000);
        assert!(pool.nodes[b].frontier() >= time);
    }

    /// After half a minute, that is.
    fn evicts(config: Config) -> Config {
        Config { evict_after_ms: Some(30_000), ..config }
    }

    #[test]
    fn who_is_heard_by_nobody_for_long_is_evicted_where_a_majority_is() {
        let (mut pool, [a, b, c]) = with_three(evicts);
        pool.part(a, c);
        pool.part(b, c);
        let kept = pool.put(c, "alone", 1);
        pool.pass(25_000);
        assert_eq!(pool.nodes[a].roster().len(), 3, "not that long yet");
        pool.pass(35_000);
        let evicted = |node: usize| pool.nodes[node].roster().is_evicted(kept.op.origin);
        assert!(evicted(a) && evicted(b));
        assert_eq!(pool.nodes[c].roster().len(), 3, "one alone evicts nobody");
        let time = pool.put(a, "x", 1).stamp.time;
        pool.pass(3_000);
        assert!(pool.nodes[a].frontier() >= time && pool.nodes[b].frontier() >= time);
        for _ in 0..3 {
            pool.link(a, c);
            pool.pass(3_000);
        }
        assert!(pool.nodes[c].standing() == Standing::Member && pool.has(a, "alone"));
    }

    #[test]
    fn who_is_heard_through_another_or_was_out_of_earshot_himself_stays() {
        let (mut pool, [a, b, c]) = with_three(evicts);
        pool.part(a, c);
        pool.pass(120_000);
        assert_eq!(pool.nodes[a].roster().len(), 3, "the second hears it");
        // The first is cut off for long, and hears the second again before it hears the third.
        pool.part(a, b);
        pool.pass(20_000);
        pool.link(a, b);
        pool.part(b, c);
        pool.pass(15_000);
        assert_eq!(pool.nodes[a].roster().len(), 3, "what it has not heard while it was cut off says nothing");
        pool.link(b, c);
        pool.pass(120_000);
        assert!([a, b, c].into_iter().all(|node| pool.nodes[node].roster().len() == 3));
        // A restart takes nobody's time away.
        pool.part(b, c);
        pool.pass(25_000);
        [a, b].into_iter().for_each(|node| pool.restart(node, true));
        pool.link(a, b);
        pool.pass(25_000);
        assert_eq!(pool.nodes[b].roster().len(), 3);
    }

    #[test]
    fn of_halves_neither_evicts_the_other() {
        for (count, between) in [(2, &[(0, 1)][..]), (4, &[(0, 2), (0, 3), (1, 2), (1, 3)])] {
            let (mut pool, nodes) = with_members(count, evicts);
            between.iter().for_each(|(one, other)| pool.part(nodes[*one], nodes[*other]));
            pool.pass(300_000);
            assert!(nodes.iter().all(|node| pool.nodes[*node].roster().len() == nodes.len()), "{count} members");
        }
    }

    #[test]
    fn what_an_evicted_node_held_comes_again_behind_what_it_had_seen() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let [m, n] = [2, 3].map(|id| {
            let node = pool.add(Replica::new(config(id, false)));
            pool.link(a, node);
            pool.pass(2_000);
            node
        });
        pool.link(m, n);
        pool.pass(2_000);
        pool.part(a, m);
        pool.part(a, n);
        pool.put(m, "first", 1);
        pool.put(n, "second", 1);
        // The one that wrote first is never heard again.
        pool.part(m, n);
        let evict = |pool: &mut Pool, node: usize| {
            let eviction = Eviction { node: pool.nodes[node].node(), force: true };
            let commands = vec![Command::Evict(eviction)];
            let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
            pool.give(a, Event::Submit(0, draft)).expect("it is a member");
        };
        evict(&mut pool, n);
        evict(&mut pool, m);
        pool.pass(1_000);
        pool.link(a, n);
        assert_eq!(pool.nodes[n].counters().reborn, 1);
        pool.link(a, n);
        pool.pass(5_000);
        assert_eq!(pool.nodes[n].standing(), Standing::Member);
        let [first, second] =
            ["first", "second"].map(|id| pool.nodes[a].state().stamp("c", id).expect("it came again"));
        assert!(first < second);
    }

    #[test]
    fn a_new_node_is_no_copy_of_anything() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let b = pool.add(Recovery::new(config(2, false)).finish(None));
        pool.link(a, b);
        pool.pass(2_000);
        pool.put(b, "x", 1);
        assert!(!pool.records[b].iter().any(|record| matches!(record, Record::Resumed(_))));
    }

    #[test]
    fn an_address_that_leads_back_to_the_node_itself_is_dialled_once_in_ten_minutes() {
        let join = vec!["http://n1:1".to_string()];
        let mut node = Replica::new(Config { join, ..config(1, true) });
        let mut dials = 0;
        for beat in 0..100 {
            let now = Now { mono_ms: beat * 100, wall_ms: 0 };
            for effect in node.handle(now, Event::Tick) {
                let Effect::Dial(url) = effect else { continue };
                dials += 1;
                let [dialled, taken] = [LinkId(2 * dials), LinkId(2 * dials + 1)];
                let hello = node.handle(now, Event::Opened(dialled, Some(url), None));
                node.handle(now, Event::Opened(taken, None, None));
                let Some(Effect::Send(_, hello)) = hello.into_iter().find(|it| matches!(it, Effect::Send(..))) else {
                    panic!("the dialler says hello");
                };
                let answer = node.handle(now, Event::Heard(taken, hello));
                let Some(Effect::Send(_, refusal)) = answer.into_iter().find(|it| matches!(it, Effect::Send(..)))
                else {
                    panic!("it refuses itself");
                };
                node.handle(now, Event::Heard(dialled, refusal));
            }
        }
        assert_eq!((dials, node.standing()), (1, Standing::Member));
        let later = node.handle(Now { mono_ms: 620_000, wall_ms: 0 }, Event::Tick);
        assert!(later.iter().any(|effect| matches!(effect, Effect::Dial(_))), "it may lead to another node by now");
    }

    /// The node of `records`, as far as these go, comes back in its place.
    fn come_back(pool: &mut Pool, node: usize, records: Vec<Record>) {
        let mut recovery = Recovery::new(pool.nodes[node].config().clone());
        records.iter().for_each(|record| recovery.take(record.clone()));
        pool.nodes[node] = recovery.finish(None);
        pool.records[node] = records;
        pool.give(node, Event::Tick);
    }

    /// Two nodes, and the second as it is when it came back from an old copy of its journal, hears nobody, and has written: of
    /// `missing` writes it had made since the copy, with a key each, its peer has all.
    fn with_an_old_copy(retention: Retention, missing: usize) -> (Pool, [usize; 2], Vec<Receipt>) {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(Config { retention, ..config(1, true) }));
        pool.pass(100);
        let b = pool.add(Replica::new(Config { retention, ..config(2, false) }));
        pool.link(a, b);
        pool.pass(2_000);
        pool.put(b, "before", 1);
        pool.pass(2_000);
        let copy = pool.records[b].clone();
        let receipts = (0..missing).map(|n| pool.put_once(b, &format!("key{n}"), &format!("lost{n}"))).collect();
        pool.pass(3_000);
        pool.part(a, b);
        come_back(&mut pool, b, copy);
        (pool, [a, b], receipts)
    }

    /// Lets them hear each other for half a minute, and dial again where a link breaks.
    fn reunite(pool: &mut Pool, one: usize, other: usize) {
        for _ in 0..30 {
            if pool.links.is_empty() {
                pool.link(one, other);
            }
            pool.pass(1_000);
        }
    }

    const ALL: Retention = Retention { ops: usize::MAX, bytes: usize::MAX };
    const NONE: Retention = Retention { ops: 0, bytes: 0 };

    fn versions(receipt: &Receipt) -> Vec<(DocKey<'static>, Option<Version>)> {
        let mut documents = receipt.documents.clone();
        while !documents.replays.advance() {}
        documents.versions().map(|(doc, version)| (doc.clone(), version)).collect()
    }

    #[test]
    fn after_an_old_copy_a_repeated_key_is_answered_with_what_the_pool_has() {
        for retention in [ALL, NONE] {
            let (mut pool, [a, b], receipts) = with_an_old_copy(retention, 3);
            let others: Vec<Receipt> = (0..3).map(|n| pool.put(b, &format!("own{n}"), 1)).collect();
            let ids = |receipts: &[Receipt]| receipts.iter().map(|receipt| receipt.op).collect::<Vec<_>>();
            assert_eq!(ids(&others), ids(&receipts), "one id for two ops");
            reunite(&mut pool, a, b);
            assert_eq!((pool.nodes[b].counters().reborn, pool.nodes[b].standing()), (1, Standing::Member));
            for (n, first) in receipts.iter().enumerate() {
                for node in [a, b] {
                    let again = pool.put_once(node, &format!("key{n}"), &format!("lost{n}"));
                    assert_eq!((again.op, again.stamp), (first.op, first.stamp), "{retention:?} at {node}");
                    let expected = if retention == ALL { versions(first) } else { Vec::new() };
                    assert_eq!(versions(&again), expected);
                }
                // The number that the client of the other op has leads to where that went.
                let moved = pool.nodes[b].receipt(first.op).map(|receipt| receipt.op.origin);
                assert!(retention == NONE || moved == Some(pool.nodes[b].node()));
                assert!(pool.nodes[a].state().get("c", &format!("own{n}")).is_some());
            }
        }
    }

    #[test]
    fn what_was_written_on_an_old_copy_is_there_after_another_start_though_its_peers_have_forgotten() {
        for (starts, missing) in [(1, 5), (2, 5), (3, 1), (2, 0)] {
            let (mut pool, [a, b], _) = with_an_old_copy(NONE, missing);
            for start in 0..starts {
                (0..2).for_each(|n| drop(pool.put(b, &format!("own{start}.{n}"), 1)));
                let records = pool.records[b].clone();
                come_back(&mut pool, b, records);
            }
            reunite(&mut pool, a, b);
            assert_eq!(pool.nodes[b].standing(), Standing::Member);
            assert_eq!(pool.nodes[b].counters().reborn, u64::from(missing > 0), "{starts} starts, {missing} missing");
            for node in [a, b] {
                let there = |id: String| pool.nodes[node].state().get("c", &id).is_some();
                for start in 0..starts {
                    assert!((0..2).all(|n| there(format!("own{start}.{n}"))), "{starts} starts, {missing} missing");
                }
                assert!((0..missing).all(|n| there(format!("lost{n}"))));
            }
        }
    }

    #[test]
    fn once_a_peer_has_it_what_a_node_wrote_since_its_start_is_the_pools() {
        let (mut pool, [a, b], _) = with_an_old_copy(NONE, 0);
        let marks = |pool: &Pool| {
            let mark = |record: &Record| if let Record::Resumed(seq) = record { Some(*seq) } else { None };
            pool.records[b].iter().filter_map(mark).collect::<Vec<_>>()
        };
        let seq = pool.nodes[b].log().head(pool.nodes[b].node()).seq;
        assert_eq!(marks(&pool), [], "it has written nothing since");
        (0..2).for_each(|n| drop(pool.put(b, &format!("own{n}"), 1)));
        assert_eq!(marks(&pool), [Some(seq)]);
        pool.link(a, b);
        pool.pass(5_000);
        assert_eq!(marks(&pool), [Some(seq), None]);
        // From a copy that is older than these, what its peer has forgotten is not issued again.
        let copy = pool.records[b].clone();
        pool.put(b, "own2", 1);
        pool.pass(3_000);
        pool.part(a, b);
        come_back(&mut pool, b, copy);
        let before = pool.nodes[a].log().len();
        pool.put(b, "own3", 1);
        reunite(&mut pool, a, b);
        assert_eq!((pool.nodes[b].counters().reborn, pool.nodes[b].standing()), (1, Standing::Member));
        let ops = pool.nodes[a].log().len() - before;
        // It is added, what it had been is evicted and fenced, and one op is issued again.
        assert!((4..=6).contains(&ops), "{ops} ops");
        assert!(pool.nodes[a].state().get("c", "own3").is_some());
    }
}
