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
    gossip::{HEADS_MAX, Place, TIME_LEAP_MAX},
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
            self.be_reborn(format!("the pool has gone on without {node}, which comes back as another"), Loss::Behind);
        }
    }

    /// Asks for a snapshot where one is needed, of one peer at a time.
    pub(super) fn fetch(&mut self) {
        let now_ms = self.now.mono_ms;
        let needs = self.pool.is_some() && (self.spoilt || self.doubtful || !self.ready && self.is_told_to_fetch());
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
                let far = time > self.clock.saturating_add(TIME_LEAP_MAX) || base.heads.len() > HEADS_MAX;
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
        if self.ready {
            self.finality.reach(base.time);
        } else {
            // What it knew before its documents had holes is told anew.
            (self.finality.frontier, self.finality.complete) = (base.time, base.time);
        }
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
        op::{Command, DocKey},
        replica::{Config, Draft, Event, Now, Receipt, Retention, Standing},
    };

    /// Nodes that hear each other on links which a test opens and closes, and keep what they were told to store.
    #[derive(Default)]
    pub(in crate::replica) struct Pool {
        pub(in crate::replica) nodes: Vec<Replica>,
        pub(in crate::replica) records: Vec<Vec<Record>>,
        /// Who is at the other end of each node's links.
        links: Vec<(usize, LinkId, usize)>,
        opened: u64,
        now: Now,
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
        pub(in crate::replica) fn now(&self) -> Now {
            self.now
        }

        pub(in crate::replica) fn add(&mut self, node: Replica) -> usize {
            self.nodes.push(node);
            self.records.push(Vec::new());
            self.nodes.len() - 1
        }

        pub(in crate::replica) fn link(&mut self, one: usize, other: usize) {
            self.opened += 1;
            let link = LinkId(self.opened);
            self.links.extend([(one, link, other), (other, link, one)]);
            self.give(one, Event::Opened(link, None));
            let dialled = self.nodes[one].config().urls.first().cloned();
            self.give(other, Event::Opened(link, dialled));
        }

        pub(in crate::replica) fn part(&mut self, one: usize, other: usize) {
            let ends = |end: &(usize, LinkId, usize)| (end.0, end.2) == (one, other) || (end.0, end.2) == (other, one);
            for (node, link, _) in self.links.extract_if(.., |end| ends(end)).collect::<Vec<_>>() {
                self.give(node, Event::Closed(link));
            }
        }

        /// Gives a node an event, and carries on what follows from it, everywhere.
        fn give(&mut self, node: usize, event: Event) -> Option<Receipt> {
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
            let text = format!("\"{}\"", "x".repeat(bytes));
            let commands = vec![Command::Put(DocKey::new("c", id.to_string()), text.into())];
            let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
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

    #[test]
    fn an_address_that_leads_back_to_the_node_itself_is_dialled_once() {
        let join = vec!["http://n1:1".to_string()];
        let mut node = Replica::new(Config { join, ..config(1, true) });
        let mut dials = 0;
        for beat in 0..100 {
            let now = Now { mono_ms: beat * 100, wall_ms: 0 };
            for effect in node.handle(now, Event::Tick) {
                let Effect::Dial(url) = effect else { continue };
                dials += 1;
                let [dialled, taken] = [LinkId(2 * dials), LinkId(2 * dials + 1)];
                let hello = node.handle(now, Event::Opened(dialled, Some(url)));
                node.handle(now, Event::Opened(taken, None));
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
    }
}
