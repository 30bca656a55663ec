//! What the replica says and hears on its links: hello, heads, ops, beats.
//!
//! Push and repair are one: a link sends what its peer is not known to hold, in stamp order, whenever the socket takes
//! more (see [`Link::next_batch`]). A node that notices that it lacks something says again what it holds; whoever
//! hears that forgets what it thought it had sent. So a frame that is lost, and an op that was dropped for want of
//! room, is made good by the one who misses it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{DIALLED_MAX, Effect, FOUND_AFTER_MS, FULL_MESH_MAX, LINKS_MAX, Link, LinkId, Replica, peers::Situation};
use crate::{
    document::check_newcomer,
    op::{Hash, Head, Newcomer, NodeId, Op, OpId, Stamp, TIME_MAX},
    plant::{Rule, left_out},
    record::Record,
    wire::{Announcement, Beat, Hello, Message, Pulse, Refusal, Why, WireError},
};

/// Between two beats on a link, in milliseconds.
pub const BEAT_MS: u64 = 1_000;
/// A link on which nothing was heard for this long is closed: the peer hangs, or the network has swallowed it.
pub const SILENCE_MS: u64 = 5_000;
/// A heard time this far past the clock is refused: one huge value would poison every clock of the pool.
pub const TIME_LEAP_MAX: u64 = 1 << 32;
/// Most links at once, identified or not, whatever the size of the pool.
pub const OPEN_MAX: usize = 64;
/// How long announcements are made at once for somebody who waits. What has not become final by then hangs on a member
/// that is away, and the beats will do.
const HASTE_MS: u64 = 2_000;
/// A link is kept at least this long, or two nodes could drop what the other has just opened, over and over.
const KEEP_MS: u64 = 2_000;
/// Most addresses of others that a refusal names.
const TRY_INSTEAD_MAX: usize = 8;
/// Most heads or pulses in one message; larger pools are not meant.
const HEADS_MAX: usize = 100_000;

/// Where an op from outside belongs.
pub(super) enum Place {
    Next,
    Held,
    Waits(OpId),
    Wrong(&'static str),
}

impl Replica {
    pub(super) fn on_tick(&mut self) {
        let now_ms = self.now.mono_ms;
        self.found_if_none();
        self.caught_up();
        self.leave_if_cast_out();
        if self.ready && !self.orphans.is_empty() {
            self.issue_orphans();
            self.pump_all();
        }
        let silent: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| now_ms >= link.heard_ms + SILENCE_MS).map(|(id, _)| *id).collect();
        silent.into_iter().for_each(|link| self.drop_link(link, Some("it fell silent".into())));
        if now_ms >= self.beat_ms {
            self.beat_ms = now_ms + BEAT_MS;
            self.advance();
            self.ask_or_sponsor();
            self.replace_predecessors();
            self.part_from_evicted();
            self.beat();
            self.record_frontier();
        }
        self.shed();
        self.dial();
    }

    pub(super) fn on_join(&mut self, url: &str) {
        self.peers.ask(url);
        self.moving_to = Some(url.to_string());
        let linked =
            self.links.values().filter_map(|link| link.peer.as_ref()).find(|peer| peer.urls.iter().any(|at| at == url));
        if linked.is_some_and(|peer| self.roster.is_evicted(peer.node)) {
            return self.be_reborn(format!("{} gives way to those whom it had evicted", self.config.node));
        }
        self.dial();
    }

    /// An empty pool of its own, which nobody else is in, is given up for the one that an operator names; not before
    /// that one answers, so a wrong URL costs nothing.
    fn give_up_pool_for(&mut self, link: LinkId, hello: &Hello) {
        let elsewhere = matches!((&self.pool, &hello.pool), (Some((ours, _)), Some((theirs, _))) if ours != theirs);
        if self.would_move(link) && elsewhere {
            self.forget();
            self.clock = 0;
            (self.config.found, self.config.pool, self.moving_to) = (false, None, None);
        }
    }

    fn would_move(&self, link: LinkId) -> bool {
        let dialled = self.links.get(&link).and_then(|link| link.dialled.as_ref());
        dialled.is_some() && dialled == self.moving_to.as_ref() && self.log.len() <= 1
    }

    pub(super) fn on_cut(&mut self, cut: bool) {
        self.cut = cut;
        if cut {
            let all: Vec<LinkId> = self.links.keys().copied().collect();
            all.into_iter().for_each(|link| self.refuse(link, Why::Cut, "its operator has cut its links".into()));
        } else {
            self.peers.wake();
            self.dial();
        }
    }

    pub(super) fn on_opened(&mut self, link: LinkId, dialled: Option<String>) {
        self.links.insert(link, Link::new(self.now.mono_ms, dialled.clone()));
        if self.cut {
            self.refuse(link, Why::Cut, "its operator has cut its links".into());
        } else if self.links.len() > OPEN_MAX {
            self.refuse(link, Why::Busy, "it has all the links it takes".into());
        } else if dialled.is_some() {
            self.say_hello(link);
        }
    }

    pub(super) fn on_closed(&mut self, link: LinkId) {
        self.forget_link(link, Some("the link broke".into()));
    }

    pub(super) fn on_flushed(&mut self, link: LinkId) {
        if let Some(found) = self.links.get_mut(&link) {
            found.writable = true;
            self.pump(link);
        }
    }

    pub(super) fn on_broken(&mut self, link: LinkId, error: &WireError) {
        let why = if matches!(error, WireError::Version(..)) { Why::OtherVersion } else { Why::Broken };
        self.refuse(link, why, error.to_string());
    }

    pub(super) fn on_heard(&mut self, link: LinkId, message: Message) {
        let Some(found) = self.links.get_mut(&link) else { return };
        found.heard_ms = self.now.mono_ms;
        let introduced = found.peer.is_some();
        match message {
            Message::Hello(hello) => self.on_hello(link, hello),
            Message::Refusal(refusal) => self.on_refusal(link, &refusal),
            _ if !introduced => self.refuse(link, Why::Broken, "a frame before the hello".into()),
            // Between two nodes that both look for a pool there is nothing to say but hello.
            _ if self.pool.is_none() => {}
            Message::Heads(heads) => self.on_heads(link, &heads),
            Message::Ops(ops, heads, pulses) => {
                self.on_ops(link, ops, &heads);
                self.on_pulses(link, &pulses);
            }
            Message::Beat(beat) => self.on_beat(link, &beat),
        }
    }

    /// The first word on a link, or news about the peer's pool.
    fn on_hello(&mut self, link: LinkId, hello: Hello) {
        self.give_up_pool_for(link, &hello);
        if self.gives_way_to(link, &hello) {
            return self.be_reborn(format!("{} gives way to those whom it had evicted", self.config.node));
        }
        if let Some((why, detail)) = self.objection(link, &hello) {
            self.refuse(link, why, detail);
            return;
        }
        let Some(found) = self.links.get_mut(&link) else { return };
        let first = found.peer.is_none();
        let asks = !first && hello.pool.is_none();
        let (dialled, peer_is_member, peer_pool) = (found.dialled.clone(), hello.member, hello.pool.clone());
        let sponsored = Newcomer { node: hello.node, name: hello.name.clone().into(), urls: hello.urls.clone() };
        let clock = hello.clock;
        self.peers.reached(&hello.urls);
        found.peer = Some(hello);
        if let Some(url) = &dialled {
            self.peers.dialled(url, self.now.mono_ms, None, &mut self.rng);
        }
        if first && dialled.is_none() {
            self.say_hello(link);
        }
        if self.pool.is_none()
            && let Some(pool) = peer_pool
        {
            self.enter(pool);
            self.clock = self.clock.max(clock.min(TIME_MAX - 1));
            self.announce();
        } else {
            self.hear_clock(clock);
        }
        if !peer_is_member && self.ready && !self.roster.knows(sponsored.node) {
            self.add(sponsored);
        }
        if self.pool.is_some() && (first || asks) {
            if asks {
                self.say_hello(link);
            }
            self.say_heads(link);
        }
        self.pump_all();
    }

    /// Why there is to be no link with the peer that says this hello.
    fn objection(&mut self, link: LinkId, hello: &Hello) -> Option<(Why, String)> {
        if hello.node == self.config.node {
            if let Some(url) = self.links.get(&link).and_then(|link| link.dialled.clone()) {
                self.peers.is_oneself(&url);
            }
            return Some((Why::Oneself, "it is this node itself".into()));
        }
        if let Some(detail) = self.goes_on_without(hello.node) {
            return Some((Why::Evicted, detail));
        }
        let name = |pool: &Option<(crate::op::PoolId, String)>| pool.as_ref().map(|(_, name)| name.clone());
        let wrong_name = |wanted: &Option<String>, offered: Option<String>| matches!((wanted, offered), (Some(wanted), Some(offered)) if *wanted != offered);
        let other = match (&self.pool, &hello.pool) {
            (Some((ours, _)), Some((theirs, _))) => ours != theirs,
            (None, theirs) => wrong_name(&self.config.pool, name(theirs)),
            (ours, None) => wrong_name(&hello.wants, name(ours)),
        };
        if other {
            let shown = |pool: &Option<(crate::op::PoolId, String)>| {
                pool.as_ref().map_or("none".into(), |(id, name)| format!("{name:?} ({id})"))
            };
            let (ours, theirs) = (shown(&self.pool), shown(&hello.pool));
            return Some((
                Why::OtherPool,
                format!("node {} belongs to pool {ours}, node {} to {theirs}", self.config.node, hello.node),
            ));
        }
        let newcomer = Newcomer { node: hello.node, name: (&*hello.name).into(), urls: hello.urls.clone() };
        if let Err(fault) = check_newcomer(&newcomer) {
            return Some((Why::Broken, fault.to_string()));
        }
        let far = hello.clock > self.clock.saturating_add(TIME_LEAP_MAX) && self.pool.is_some();
        if far || hello.clock > TIME_MAX {
            return Some((Why::Broken, format!("its clock {} is far ahead of {}", hello.clock, self.clock)));
        }
        self.double(link, hello.node).or_else(|| self.too_many(link))
    }

    /// Of two links between the same two nodes both sides keep the same one: that which the smaller id dialled, or, if
    /// one side dialled both, the newer, for the older is the one that broke.
    fn double(&mut self, link: LinkId, node: NodeId) -> Option<(Why, String)> {
        let other = self.linked_to(node).filter(|other| *other != link)?;
        let ours = |link: LinkId| self.links.get(&link).is_some_and(|link| link.dialled.is_some());
        let keep_new = ours(link) == ours(other) || ours(link) == (self.config.node < node);
        let detail = "there is another link between the two".to_string();
        if keep_new {
            self.refuse(other, Why::Double, detail);
            return None;
        }
        Some((Why::Double, detail))
    }

    /// A node that has all its links takes no more, once it has a pool: those who look for one together must all know
    /// each other, or two of them found one. Its own dials are the exception: they are few, and they are what
    /// joins the halves of a healed partition, so the oldest link makes room for them.
    fn too_many(&mut self, link: LinkId) -> Option<(Why, String)> {
        let found = self.links.get(&link)?;
        let (known, dialled) = (found.peer.is_some(), found.dialled.is_some());
        let others = self.links.iter().filter(|(id, other)| **id != link && other.peer.is_some());
        // Ids of links rise: the first is the oldest.
        let others: Vec<(LinkId, u64)> = others.map(|(id, other)| (*id, other.opened_ms)).collect();
        if known || others.len() < LINKS_MAX || self.pool.is_none() {
            return None;
        }
        if let [(oldest, opened_ms), ..] = others[..]
            && dialled
            && self.now.mono_ms >= opened_ms + KEEP_MS
        {
            self.drop_link(oldest, None);
            return None;
        }
        Some((Why::Busy, "it has all the links it takes".into()))
    }

    fn on_refusal(&mut self, link: LinkId, refusal: &Refusal) {
        let benign = matches!(refusal.why, Why::Double | Why::Oneself);
        if refusal.why == Why::Fork && self.takes_back && !self.ready && self.believes(link) {
            // It meant to take back what an old copy of its disk lacks, but has issued other ops in their place since.
            let node = self.config.node;
            return self.be_reborn(format!("two nodes have issued ops as {node}: it comes back as another"));
        }
        if refusal.why == Why::Evicted && self.ready && self.believes(link) {
            return self
                .be_reborn(format!("the pool goes on without {}, which comes back as another", self.config.node));
        }
        refusal.try_instead.iter().take(TRY_INSTEAD_MAX).for_each(|url| self.peers.give(url));
        self.drop_link(link, (!benign).then(|| format!("it refused: {}", refusal.detail)));
    }

    /// The peer says what it holds: a fork shows here, and what it lacks is sent from now on.
    fn on_heads(&mut self, link: LinkId, heads: &[(NodeId, Head)]) {
        if heads.len() > HEADS_MAX {
            return self.refuse(link, Why::Broken, "too many heads".into());
        }
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        // A stranger's word alone does not make a node give itself up.
        if peer.is_some_and(|peer| self.roster.knows(peer) && !self.roster.is_gone(peer))
            && let Some(why) = self.doubt(heads)
        {
            return self.be_reborn(why);
        }
        if let Some(detail) = heads.iter().find_map(|(origin, head)| self.fork(*origin, *head)) {
            return self.refuse(link, Why::Fork, detail);
        }
        let node = self.config.node;
        if let Some(found) = self.links.get_mut(&link) {
            let from_member = found.peer.as_ref().is_some_and(|peer| peer.member);
            found.peer_holds(heads, &self.log);
            found.holds_own = heads.iter().find(|(origin, _)| *origin == node).map_or(0, |(_, head)| head.seq);
            if from_member && !self.ready && found.catch_up.is_none() {
                found.catch_up = Some(heads.iter().map(|(origin, head)| (*origin, head.seq)).collect());
            }
        }
        self.caught_up();
        self.pump(link);
    }

    fn fork(&self, origin: NodeId, head: Head) -> Option<String> {
        let ours = self.log.hash_at(origin, head.seq)?;
        (ours != head.hash).then(|| format!("two histories of node {origin}: its op {} differs between us", head.seq))
    }

    /// Ops came in: those whose turn it is go to the log and the documents, as one batch.
    fn on_ops(&mut self, link: LinkId, ops: Vec<Op>, heads: &[(NodeId, Head)]) {
        let stated: BTreeMap<NodeId, Head> = heads.iter().copied().collect();
        let mut reached: BTreeMap<NodeId, Head> = BTreeMap::new();
        for op in &ops {
            let head = reached.entry(op.origin()).or_insert_with(|| self.log.head(op.origin()));
            if op.id().seq == head.seq + 1 {
                *head = head.extended(op);
            }
            if let Some(stated) =
                stated.get(&op.origin()).filter(|stated| stated.seq == head.seq && stated.hash != head.hash)
            {
                let detail = format!("two histories of node {}: its op {} differs between us", op.origin(), stated.seq);
                return self.refuse(link, Why::Fork, detail);
            }
        }
        let mut fresh = Vec::with_capacity(ops.len());
        let mut coming: VecDeque<Op> = ops.into();
        self.counters.heard += coming.len() as u64;
        let mut wrong = None;
        while let Some(op) = coming.pop_front() {
            if self.is_closed_to(link, op.origin()) {
                continue;
            }
            match self.place(&op) {
                Place::Next => {
                    self.append(&op, Some(link), self.log.head(op.origin()).extended(&op));
                    let released = self.early.released(op.id()).into_iter().rev();
                    // Of one that is evicted only what comes from those who remain is taken, and who knows where this came
                    // from. They send it again.
                    let open = released.filter(|early| !self.roster.is_evicted(early.origin()));
                    open.for_each(|early| coming.push_front(early));
                    fresh.push(op);
                }
                Place::Held => {
                    self.counters.duplicates += 1;
                    self.links.get_mut(&link).into_iter().for_each(|link| link.peer_sent(&op));
                    if left_out(Rule::DuplicateSuppression) {
                        fresh.push(op);
                    }
                }
                Place::Waits(missing) => {
                    self.counters.early += 1;
                    self.early.keep(op, missing);
                }
                Place::Wrong(why) => wrong = Some(format!("op {}: {why}", op.id())),
            }
        }
        self.state.insert(&fresh);
        if let Some(detail) = wrong {
            self.refuse(link, Why::Broken, detail);
        }
        self.caught_up();
        self.pump_all();
    }

    /// Whether it is the turn of an op from outside.
    pub(super) fn place(&self, op: &Op) -> Place {
        let OpId { origin, seq } = op.id();
        let held = self.log.head(origin).seq;
        if self.roster.is_retired(origin) && seq > held {
            return Place::Wrong("its origin has retired");
        }
        if seq <= held {
            return Place::Held;
        }
        if op.time() > self.clock.saturating_add(TIME_LEAP_MAX) {
            return Place::Wrong("its time is far ahead of the clock");
        }
        if origin == self.config.node && !self.takes_back {
            return Place::Wrong("it claims to be of this node, which never issued it");
        }
        if seq > held + 1 && !left_out(Rule::GapCheck) {
            return Place::Waits(OpId { origin, seq: seq - 1 });
        }
        let body = op.body();
        let missing = body.seen.iter().find(|(origin, seq)| self.log.head(*origin).seq < *seq);
        if let Some((origin, seq)) = missing
            && !left_out(Rule::CausalDelivery)
        {
            return Place::Waits(OpId { origin: *origin, seq: *seq });
        }
        let follows = |before: OpId| self.log.get(before).is_none_or(|before| before.time() < op.time());
        let in_order = follows(OpId { origin, seq: held })
            && body.seen.iter().all(|(origin, seq)| follows(OpId { origin: *origin, seq: *seq }));
        if in_order { Place::Next } else { Place::Wrong("its time is not past what it follows") }
    }

    /// Takes an op, own or heard, into the log, and lets the links know.
    pub(super) fn append(&mut self, op: &Op, from: Option<LinkId>, head: Head) {
        let OpId { origin, seq } = op.id();
        self.counters.late += u64::from(op.time() <= self.clock);
        if origin == self.config.node {
            // The next own op need not name what this one has. One that is taken back has not seen all that is held now.
            for (other, seq) in op.body().seen {
                if self.unseen.get(&other).is_some_and(|held| *held <= seq) {
                    self.unseen.remove(&other);
                }
            }
            self.clock = self.clock.max(op.time());
        } else {
            self.unseen.insert(origin, seq);
            self.hear_clock(op.time());
        }
        for (other, seen) in op.body().seen {
            if self.tips.get(&other).is_some_and(|tip| *tip <= seen) {
                self.tips.remove(&other);
            }
        }
        self.tips.insert(origin, seq);
        self.effects.push(Effect::Store(Record::Op(op.clone())));
        self.log.append(op.clone(), head);
        self.roster_moved |= self.roster.take(op);
        self.finality.follow(op);
        for (id, link) in &mut self.links {
            if from == Some(*id) {
                link.peer_sent(op);
            } else if from.is_none() || !left_out(Rule::Forward) {
                link.log_grew(op);
            }
        }
    }

    pub(super) fn hear_clock(&mut self, time: u64) {
        if time <= self.clock.saturating_add(TIME_LEAP_MAX) && !left_out(Rule::ClockMax) {
            self.clock = self.clock.max(time.min(TIME_MAX - 1));
        }
    }

    /// A node serves once it holds its own `Add`: what that op has seen, all that its sponsor held, came before it.
    fn caught_up(&mut self) {
        let own = self.log.head(self.config.node).seq;
        let takes_back = self.takes_back && self.links.values().any(|link| link.holds_own > own);
        if self.ready || !self.is_member() || takes_back {
            return;
        }
        self.ready = true;
        // It holds all that its sponsor did, so what was final there is so here.
        self.finality.reach(self.roster.joined_at(self.config.node));
        self.links.values_mut().for_each(|link| link.catch_up = None);
        self.announce();
    }

    fn on_beat(&mut self, link: LinkId, beat: &Beat) {
        if beat.clock > self.clock.saturating_add(TIME_LEAP_MAX) || beat.clock > TIME_MAX {
            let detail = format!("its clock {} is far ahead of {}", beat.clock, self.clock);
            return self.refuse(link, Why::Broken, detail);
        }
        self.hear_clock(beat.clock);
        self.on_pulses(link, &beat.pulses);
        let digest = self.log.digest();
        if beat.digest == digest && beat.state != self.state.digest() {
            self.on_discrepancy(digest);
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
        }
        if beat.digest != digest && still && !left_out(Rule::Repair) {
            // Nothing came for a whole beat, and yet the logs differ: something this node was sent is lost.
            self.counters.repairs += 1;
            self.say_heads(link);
        }
    }

    /// Members announce how far they are; what is new is passed on, at once if somebody waits for it.
    fn on_pulses(&mut self, link: LinkId, pulses: &[(NodeId, Pulse)]) {
        let from = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        for (node, pulse) in pulses.iter().take(HEADS_MAX) {
            let said = Announcement { wanted: pulse.said.wanted.min(self.clock), ..pulse.said };
            let far = said.clock.max(said.complete) > self.clock.saturating_add(TIME_LEAP_MAX);
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
                *sent = pulse.count.max(*sent);
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
        let said = self.announcement();
        self.finality.announced = said;
        let (pulse, heard_ms) = self.pulses.entry(self.config.node).or_default();
        *pulse = Pulse { count: (self.run, pulse.count.1 + 1), said };
        *heard_ms = self.now.mono_ms;
    }

    /// Notes now and then how far everything is final, so that a restart does not begin from nothing.
    fn record_frontier(&mut self) {
        let frontier = self.finality.frontier;
        if frontier > self.finality.recorded {
            self.finality.recorded = frontier;
            self.effects.push(Effect::Store(Record::Frontier(frontier)));
        }
    }

    /// A peer with the same log has other documents. Whose are wrong the log tells: they are folded anew from it, once for
    /// a log, and replaced if that makes others.
    fn on_discrepancy(&mut self, log: Hash) {
        if self.refolded == Some(log) {
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

    /// Whatever kept a linked node out of the pool so far: a hello that was lost, a sponsor that vanished, or that its
    /// peers were newcomers themselves when they met.
    fn ask_or_sponsor(&mut self) {
        if self.pool.is_none() {
            let greeted: Vec<LinkId> =
                self.links.iter().filter(|(_, link)| link.is_greeted()).map(|(id, _)| *id).collect();
            greeted.into_iter().for_each(|link| self.say_hello(link));
        }
        // One who says it is a member has an `Add`, which comes, or hangs on someone who was cut off.
        let outside = |peer: &&Hello| self.ready && !peer.member && !self.roster.knows(peer.node);
        let newcomers: Vec<Newcomer<'static>> = self
            .links
            .values()
            .filter_map(|link| link.peer.as_ref())
            .filter(outside)
            .map(|peer| Newcomer { node: peer.node, name: peer.name.clone().into(), urls: peer.urls.clone() })
            .collect();
        if !newcomers.is_empty() {
            newcomers.into_iter().for_each(|newcomer| self.add(newcomer));
            self.pump_all();
        }
    }

    /// Sends a beat on every link, with the signs of life that are new to the peer.
    fn beat(&mut self) {
        let now_ms = self.now.mono_ms;
        if now_ms >= self.pulse_ms && self.ready {
            self.pulse_ms = now_ms + self.pulse_every();
            self.speak();
        }
        let (clock, digest, state) = (self.clock, self.log.digest(), self.state.digest());
        let frontier = self.finality.frontier;
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.peer.is_some()) {
            let pulses = link.news(self.pulses.iter().map(|(node, (pulse, _))| (node, pulse)));
            self.effects.push(Effect::Send(*id, Message::Beat(Beat { clock, digest, state, frontier, pulses })));
        }
    }

    /// Between two pulses of a member: the larger the pool, the fewer, so that a link carries no more of them.
    pub(super) fn pulse_every(&self) -> u64 {
        BEAT_MS * (self.roster.len() as u64).div_ceil(16)
    }

    fn dial(&mut self) {
        if self.cut {
            return;
        }
        let node = self.config.node;
        let introduced = || self.links.values().filter_map(|link| link.peer.as_ref());
        let linked: BTreeSet<NodeId> = introduced().map(|peer| peer.node).collect();
        let linked_urls = introduced().flat_map(|peer| peer.urls.iter().map(String::as_str)).collect();
        let situation = Situation {
            now_ms: self.now.mono_ms,
            node,
            joining: !self.ready,
            roster: &self.roster,
            linked,
            linked_urls,
            dialled: self.links.values().filter(|link| link.dialled.is_some()).count(),
        };
        let wanted = self.peers.wanted(&situation, &mut self.rng);
        self.effects.extend(wanted.into_iter().map(Effect::Dial));
    }

    /// In a large pool every probe that leads to a link makes an older one needless. So the links change slowly, halves
    /// of a healed partition find each other however many links each node has, and no node fills up with links: there
    /// is always room for one that has none.
    fn shed(&mut self) {
        if self.roster.len() <= FULL_MESH_MAX {
            return;
        }
        let introduced = self.links.iter().filter(|(_, link)| link.peer.is_some());
        // Ids of links rise: the first is the oldest.
        let introduced: Vec<(LinkId, &Link)> = introduced.map(|(id, link)| (*id, link)).collect();
        let dialled = || introduced.iter().filter(|(_, link)| link.dialled.is_some());
        let oldest = if dialled().count() > DIALLED_MAX {
            dialled().next()
        } else {
            introduced.first().filter(|_| introduced.len() > LINKS_MAX)
        };
        let old = oldest.filter(|(_, link)| self.now.mono_ms >= link.opened_ms + KEEP_MS).map(|(id, _)| *id);
        old.into_iter().for_each(|id| self.drop_link(id, None));
    }

    /// Founds the pool if none of the join targets leads to one, and no other node that looks for one is to found it.
    fn found_if_none(&mut self) {
        let waited = self.now.mono_ms >= self.started_ms.unwrap_or(0) + FOUND_AFTER_MS;
        if self.ready || !self.config.found || !waited || !self.peers.all_given_tried() {
            return;
        }
        if self.pool.is_some() {
            // It came back under a new id, with the data, and nobody is there to sponsor it. Without the data, as one who
            // was reborn, it waits for those who have it.
            if self.links.is_empty() && !self.is_member() && !self.log.is_empty() {
                // Where all members were this node itself, nobody can send what its disk has lost: what rests on that is
                // issued again.
                if self.roster.all().values().all(|member| member.urls == self.config.urls) {
                    self.orphans.extend(self.early.take_all());
                }
                self.add_oneself();
            }
            return;
        }
        let node = self.config.node;
        let yields =
            self.links.values().filter_map(|link| link.peer.as_ref()).any(|peer| peer.founds && peer.node < node);
        if self.may_found() && !yields {
            self.found();
            let newcomers: Vec<Newcomer<'static>> = self
                .links
                .values()
                .filter_map(|link| link.peer.as_ref())
                .map(|peer| Newcomer { node: peer.node, name: peer.name.clone().into(), urls: peer.urls.clone() })
                .collect();
            newcomers.into_iter().for_each(|newcomer| self.add(newcomer));
        }
    }

    /// Says hello on every link: this node has found its pool, or its place in it.
    pub(super) fn announce(&mut self) {
        let greeted: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.is_greeted()).map(|(id, _)| *id).collect();
        for link in greeted {
            self.say_hello(link);
            self.say_heads(link);
        }
    }

    fn say_hello(&mut self, link: LinkId) {
        let hello = Hello {
            node: self.config.node,
            name: self.config.name.clone(),
            urls: self.config.urls.clone(),
            // Who would move to the peer's pool comes as one who has none.
            pool: self.pool.clone().filter(|_| !self.would_move(link)),
            wants: self.config.pool.clone().filter(|_| !self.would_move(link)),
            member: self.is_member() && !self.would_move(link),
            founds: self.config.found && self.pool.is_none(),
            clock: self.clock,
        };
        self.effects.push(Effect::Send(link, Message::Hello(hello)));
    }

    fn say_heads(&mut self, link: LinkId) {
        self.effects.push(Effect::Send(link, Message::Heads(self.log.heads().collect())));
    }

    fn pump(&mut self, link: LinkId) {
        let Some(found) = self.links.get_mut(&link) else { return };
        let pulses = self.pulses.iter().map(|(node, (pulse, _))| (node, pulse));
        if let Some(batch) = found.next_batch(&self.log, pulses) {
            self.effects.push(Effect::Send(link, batch));
        }
    }

    pub(super) fn pump_all(&mut self) {
        for (id, link) in &mut self.links {
            let pulses = self.pulses.iter().map(|(node, (pulse, _))| (node, pulse));
            if let Some(batch) = link.next_batch(&self.log, pulses) {
                self.effects.push(Effect::Send(*id, batch));
            }
        }
    }

    /// Tells the peer why, and closes.
    pub(super) fn refuse(&mut self, link: LinkId, why: Why, detail: String) {
        let try_instead = if why == Why::Busy { self.alternatives() } else { Vec::new() };
        let refusal = Refusal { why, detail: detail.clone(), try_instead };
        self.effects.push(Effect::Send(link, Message::Refusal(refusal)));
        let benign = matches!(why, Why::Double | Why::Oneself | Why::Cut);
        self.drop_link(link, (!benign).then(|| format!("refused: {detail}")));
    }

    fn alternatives(&mut self) -> Vec<String> {
        let node = self.config.node;
        let others = self.roster.present().filter(|(id, _)| **id != node);
        let mut urls: Vec<String> = others.filter_map(|(_, member)| member.urls.first().cloned()).collect();
        self.rng.shuffle(&mut urls);
        urls.truncate(TRY_INSTEAD_MAX);
        urls
    }

    fn drop_link(&mut self, link: LinkId, problem: Option<String>) {
        if self.links.contains_key(&link) {
            self.effects.push(Effect::Close(link));
            self.forget_link(link, problem);
        }
    }

    fn forget_link(&mut self, link: LinkId, problem: Option<String>) {
        let Some(Link { dialled: Some(url), .. }) = self.links.remove(&link) else { return };
        self.peers.dialled(&url, self.now.mono_ms, problem, &mut self.rng);
    }

    /// The introduced link to a node.
    pub(super) fn linked_to(&self, node: NodeId) -> Option<LinkId> {
        self.linked().find(|(other, _)| *other == node).map(|(_, link)| link)
    }

    /// The nodes it is linked to, each with the link.
    pub fn linked(&self) -> impl Iterator<Item = (NodeId, LinkId)> {
        self.links.iter().filter_map(|(id, link)| Some((link.peer.as_ref()?.node, *id)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        op::{Command, DocKey, Hash, Head, NodeId, OpError},
        replica::{Config, Draft, Effect, Event, LinkId, Now, Refused, Replica, Standing},
        wire::{Beat, Hello, Message},
    };

    fn founder() -> Replica {
        let node = NodeId(uuid::Uuid::from_u128(1));
        let config =
            Config { node, name: "a".into(), urls: Vec::new(), join: Vec::new(), found: true, pool: None, seed: 1 };
        Replica::new(config)
    }

    fn put(replica: &mut Replica, id: &'static str) {
        let commands = vec![Command::Put(DocKey::new("c", id), "1".into())];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        let effects = replica.handle(Now::default(), Event::Submit(0, draft));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Receipt(_, Ok(_)))));
    }

    /// A peer says hello, and is made a member.
    fn greet(replica: &mut Replica) -> LinkId {
        let link = LinkId(1);
        let hello = Hello {
            node: NodeId(uuid::Uuid::from_u128(2)),
            name: "b".into(),
            urls: Vec::new(),
            pool: replica.pool().cloned(),
            wants: None,
            member: false,
            founds: false,
            clock: 0,
        };
        replica.handle(Now::default(), Event::Opened(link, None));
        replica.handle(Now::default(), Event::Heard(link, Message::Hello(hello)));
        link
    }

    /// A peer with the same log says the sum over its documents.
    fn beat(replica: &mut Replica, state: u64) {
        let link = greet(replica);
        let beat = Beat { clock: 0, digest: replica.log().digest(), state, frontier: 0, pulses: Vec::new() };
        replica.handle(Now::default(), Event::Heard(link, Message::Beat(beat)));
    }

    #[test]
    fn documents_that_are_not_what_the_log_makes_of_them_are_folded_anew() {
        let mut replica = founder();
        ["x", "y", "x"].into_iter().for_each(|id| put(&mut replica, id));
        let right = replica.state().digest();
        replica.spoil("c", "x");
        assert_ne!(replica.state().digest(), right);
        beat(&mut replica, right);
        assert_eq!(replica.state().digest(), right);
        assert_eq!(replica.state().get("c", "x").map(|view| view.text.as_str().to_string()), Some("1".into()));
        assert_eq!((replica.counters().discrepancies, replica.counters().mended), (1, 1));
    }

    #[test]
    fn one_who_was_reborn_waits_for_the_data_even_if_it_may_found() {
        let mut replica = founder();
        put(&mut replica, "x");
        let (link, before) = (greet(&mut replica), replica.node());
        let other_past = (before, Head { seq: 1_000, hash: Hash::default() });
        replica.handle(Now::default(), Event::Heard(link, Message::Heads(vec![other_past])));
        assert_ne!(replica.node(), before);
        for mono_ms in [1_000, 10_000, 60_000] {
            replica.handle(Now { mono_ms, wall_ms: 0 }, Event::Tick);
        }
        assert_eq!(replica.standing(), Standing::CatchingUp, "it would serve a pool without its data");
    }

    #[test]
    fn an_op_that_could_not_be_issued_again_is_refused() {
        let mut replica = founder();
        replica.handle(Now::default(), Event::Tick);
        let text = format!("\"{}\"", "x".repeat((1 << 20) - 10_000));
        let put = |id: usize| Command::Put(DocKey::new("c", id.to_string()), text.clone().into());
        let mut submit = |puts: usize| {
            let commands = (0..puts).map(put).collect();
            let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
            replica.handle(Now::default(), Event::Submit(0, draft)).into_iter().find_map(|effect| match effect {
                Effect::Receipt(_, answer) => Some(answer.map(drop)),
                _ => None,
            })
        };
        assert_eq!(submit(4), Some(Err(Refused::Op(OpError::TooLong))));
        assert_eq!(submit(3), Some(Ok(())));
    }

    #[test]
    fn where_the_peer_is_wrong_nothing_changes() {
        let mut replica = founder();
        put(&mut replica, "x");
        let place = replica.state().changes().end();
        (0..3).for_each(|_| beat(&mut replica, 7));
        assert_eq!((replica.counters().discrepancies, replica.counters().mended), (1, 0));
        assert_eq!(replica.state().changes().end(), place, "no subscriber has to start over");
    }
}
