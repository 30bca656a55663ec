//! How ops come and go: what the replica hears on its links, and how heads and ops are sent and taken.
//!
//! Push and repair are one: a link sends what its peer is not known to hold, in stamp order, whenever the socket takes
//! more (see `Link::next_batch`). A node that notices that it lacks something says again what it holds; whoever
//! hears that forgets what it thought it had sent. So a frame that is lost, and an op that was dropped for want of
//! room, is made good by the one who misses it.

use std::collections::{BTreeMap, VecDeque};

use super::{Effect, LinkId, Replica, link::Link, peers::Outcome, pulse::BEAT_MS, rebirth::Loss};
use crate::{
    op::{Head, NodeId, Op, OpId},
    plant::{Rule, left_out},
    record::Record,
    wire::{Hello, Message, Why},
};

/// A link on which nothing was heard for this long is closed: the peer hangs, or the network has swallowed it.
pub const SILENCE_MS: u64 = 5_000;
/// Most heads or pulses in one message; larger pools are not meant.
pub(super) const HEADS_MAX: usize = 100_000;

/// Where an op from outside belongs.
pub(super) enum Place {
    Next,
    Held,
    Waits(OpId),
    /// Its place is among what is final and forgotten: its origin goes on without this pool, or this one without it.
    Past,
    Wrong(&'static str),
}

impl Replica {
    pub(super) fn on_tick(&mut self) {
        let now_ms = self.now.mono_ms;
        self.settle();
        self.go_on_as_last();
        self.found_if_none();
        self.caught_up();
        self.leave_if_cast_out();
        if self.ready && !self.orphans.is_empty() {
            self.issue_orphans();
            self.pump_all();
        }
        self.choose_host();
        self.fetch();
        let silent: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| now_ms >= link.heard_ms + SILENCE_MS).map(|(id, _)| *id).collect();
        silent.into_iter().for_each(|link| self.drop_link(link, Outcome::Failed("it fell silent".into())));
        if now_ms >= self.beat_ms {
            self.beat_ms = now_ms + BEAT_MS;
            self.advance();
            self.ask_or_sponsor();
            self.note_silence();
            self.replace_predecessors();
            self.evict_absent();
            self.leave_dead_end();
            self.end_disputes();
            self.early.expire(self.now.mono_ms);
            self.part_from_evicted();
            self.part_from_other_keys();
            self.bind_own_key();
            if self.ready {
                self.peers.forget_useless(&self.roster, !self.links.is_empty());
            }
            self.part_from_absent();
            self.beat();
            self.announce_addresses();
            self.tell_addresses();
        }
        self.record_frontier();
        self.shed();
        self.dial();
    }

    pub(super) fn on_flushed(&mut self, link: LinkId) {
        if let Some(found) = self.links.get_mut(&link) {
            found.writable = true;
            self.pump(link);
        }
    }

    pub(super) fn on_heard(&mut self, link: LinkId, message: Message) {
        let Some(found) = self.links.get_mut(&link) else { return };
        // What waits for no disk does not show that its sender goes on.
        if !matches!(message, Message::Presence(_) | Message::Attendance(_)) {
            found.heard_ms = self.now.mono_ms;
        }
        let (introduced, disputed) = (found.peer.is_some(), found.disputed_ms.is_some());
        // Nothing but a hello is said to one whose hello has not come.
        found.shown.open |= introduced && !matches!(message, Message::Hello(_));
        if !matches!(message, Message::Hello(_) | Message::Refusal(_)) {
            self.confirm_process(link);
        }
        match message {
            Message::Hello(hello) => self.on_hello(link, hello),
            Message::Refusal(refusal) => self.on_refusal(link, &refusal),
            _ if !introduced => self.refuse(link, Why::Broken, "a frame before the hello".into()),
            // Between two nodes that both look for a pool there is nothing to say but hello.
            _ if self.pool.is_none() => {}
            Message::Dispute(dispute) => self.on_dispute(link, &dispute),
            _ if disputed => {}
            Message::Heads(heads) => self.on_heads(link, &heads),
            Message::Ops(ops, heads, pulses) => {
                self.on_ops(link, ops, &heads);
                self.on_pulses(link, &pulses);
            }
            Message::Beat(beat) => self.on_beat(link, &beat),
            Message::Dropped(heads) => self.on_dropped(link, &heads),
            Message::Fetch(begun) => self.on_fetch(link, begun),
            Message::Snapshot(time, part) => self.on_snapshot(link, time, part),
            Message::Ask => self.on_ask(link),
            Message::Held(seq) => self.on_held(link, seq),
            Message::Promised(seq, clock) => self.on_promised(link, seq, clock),
            Message::Presence(presents) => self.on_presence(link, &presents),
            Message::Attendance(known) => self.on_attendance(link, &known),
            Message::Addresses(all) => self.on_addresses(link, all),
        }
    }

    /// The peer says what it holds: a fork shows here, and what it lacks is sent from now on.
    fn on_heads(&mut self, link: LinkId, heads: &[(NodeId, Head)]) {
        if heads.len() > HEADS_MAX {
            return self.refuse(link, Why::Broken, "too many heads".into());
        }
        // The word of one who is no member does not make a node give itself up.
        if self.believes(link)
            && let Some(why) = self.doubt(heads)
        {
            return self.be_reborn(why, Loss::Fork);
        }
        if let Some((origin, head)) = heads.iter().find(|(origin, head)| self.is_other(*origin, *head)) {
            return self.dispute(link, (*origin, head.seq), false);
        }
        if self.is_tainted(link, heads) {
            return;
        }
        let own = heads.iter().find(|(origin, _)| *origin == self.config.node).map_or(0, |(_, head)| head.seq);
        if own <= self.log.head(self.config.node).seq {
            self.confirm(link, own);
        }
        if self.log.is_beyond(heads) {
            let dropped = Message::Dropped(self.log.starts());
            self.links.get_mut(&link).into_iter().for_each(Link::peer_needs_snapshot);
            return self.effects.push(Effect::Send(link, dropped));
        }
        let node = self.config.node;
        if let Some(found) = self.links.get_mut(&link) {
            found.peer_holds(heads, &self.log);
            found.holds_own = heads.iter().find(|(origin, _)| *origin == node).map_or(0, |(_, head)| head.seq);
            // Only members say what they hold to one who is none, whatever became of their word that they are.
            if !heads.is_empty() && !self.ready && found.catch_up.is_none() {
                found.catch_up = Some(heads.iter().map(|(origin, head)| (*origin, head.seq)).collect());
            }
        }
        self.choose_host();
        self.caught_up();
        self.ask_or_sponsor();
        self.pump(link);
    }

    /// Whether this head is of another history of its origin than the one that is held here.
    fn is_other(&self, origin: NodeId, head: Head) -> bool {
        self.log.hash_at(origin, head.seq).is_some_and(|hash| hash != head.hash)
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
                return self.dispute(link, (op.origin(), stated.seq), false);
            }
        }
        if !self.ready && !self.rejoins && self.host != Some(link) {
            return;
        }
        let mut fresh = Vec::with_capacity(ops.len());
        let mut coming: VecDeque<Op> = ops.into();
        self.counters.heard += coming.len() as u64;
        let (mut wrong, mut past) = (None, None);
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
                    self.early.keep(op, missing, self.now.mono_ms);
                }
                Place::Past => past = past.or(Some(op)),
                Place::Wrong(why) => wrong = Some(format!("op {}: {why}", op.id())),
            }
        }
        self.state.insert(&fresh);
        if let Some(detail) = wrong {
            self.refuse(link, Why::Broken, detail);
        } else if let Some(op) = past {
            self.on_past(link, &op);
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
        // Every member holds all that is final: what comes later at an earlier time is of one who has forgotten his promise.
        let is_final = self.ready && op.time() <= self.finality.frontier && !left_out(Rule::Promise);
        if op.time() <= self.log.horizon() || is_final {
            return Place::Past;
        }
        if op.time() > self.now.time_bound() {
            return Place::Wrong(
                "its time is ahead of the bound that the wall clock sets: compare the wall clocks of both machines",
            );
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
            self.clock = if left_out(Rule::ClockMax) { self.clock } else { self.clock.max(op.time()) };
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
        if op.time() <= self.finality.complete {
            self.finality.begin_anew();
        }
        self.finality.follow(op);
        for (id, link) in &mut self.links {
            if from == Some(*id) {
                link.peer_sent(op);
            } else if from.is_none() || !left_out(Rule::Forward) {
                link.log_grew(op);
            }
        }
    }

    /// Follows a time that a peer has sent, up to the bound.
    pub(super) fn hear_clock(&mut self, time: u64) {
        if time <= self.now.time_bound() && !left_out(Rule::ClockMax) {
            self.clock = self.clock.max(time);
        }
    }

    /// A node serves once it holds its own `Add`: what that op has seen, all that its sponsor held, came before it.
    pub(super) fn caught_up(&mut self) {
        let own = self.log.head(self.config.node).seq;
        let takes_back = self.takes_back && self.links.values().any(|link| link.holds_own > own);
        if self.ready || !self.is_member() || takes_back || self.spoilt || self.roster.is_retired(self.config.node) {
            return;
        }
        let node = self.config.node;
        let past = |(origin, head): &(NodeId, Head)| self.roster.began_past_fences(node, *origin, head.seq);
        let given = self.log.heads().find(past).map(|(origin, _)| origin).filter(|_| !self.takes_back);
        if let Some(origin) = given {
            let why = format!("it was given what {origin} did when it was evicted already: it begins anew");
            return self.be_reborn(why, Loss::CutOff);
        }
        (self.ready, self.provisional) = (true, false);
        (self.fetch, self.host) = (None, None);
        // It holds all that its sponsor did, so what was final there is so here.
        self.finality.reach(self.roster.joined_at(self.config.node));
        self.links.values_mut().for_each(|link| link.catch_up = None);
        // Where its peers are seen it could say of no member before.
        let greeted: Vec<Hello> = self.links.values().filter_map(|link| link.peer.clone()).collect();
        greeted.iter().for_each(|hello| self.see_address(hello));
        self.announce();
    }

    /// A node that is not ready takes all it lacks from one member, its host: of two sides of a pool that go on without each
    /// other it must not mix what they hold.
    pub(super) fn choose_host(&mut self) {
        let serves = |link: &Link| link.catch_up.is_some();
        if self.ready || self.host.and_then(|host| self.links.get(&host)).is_some_and(serves) {
            return;
        }
        let gone = |link: &Link| link.peer.as_ref().is_some_and(|peer| self.roster.is_gone(peer.node));
        let hosts = self.links.iter().filter(|(_, link)| serves(link));
        self.host = hosts.min_by_key(|(id, link)| (gone(link), **id)).map(|(id, _)| *id);
        if let Some(host) = self.host {
            self.say_heads(host);
        }
    }

    /// The promise that this node has heard of a peer: all its ops beyond a seq come after a time. That it was added is no word of
    /// its own: two copies of its sponsor may each have added it, and it knows of one.
    fn promise_of(&self, peer: NodeId) -> Option<(u64, u64)> {
        let (held, added) =
            (self.log.head(peer).seq, self.roster.all().get(&peer).map_or(0, |member| member.added.time));
        self.finality
            .heard_of(peer, held)
            .filter(|(seq, clock)| *seq > 0 || *clock > added || left_out(Rule::OwnPromise))
    }

    pub(super) fn say_heads(&mut self, link: LinkId) {
        // One that has retired tells others of that, who may be in the same position.
        if !self.ready && !self.rejoins && self.host != Some(link) {
            return;
        }
        let peer = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        if let Some((seq, clock)) = peer.and_then(|peer| self.promise_of(peer)) {
            self.effects.push(Effect::Send(link, Message::Promised(seq, clock)));
        }
        // What has holes is as good as nothing.
        let heads = if self.spoilt { Vec::new() } else { self.log.heads().collect() };
        self.effects.push(Effect::Send(link, Message::Heads(heads)));
    }

    /// Sends the peer the next of what it lacks, if the last has left.
    pub(super) fn pump(&mut self, link: LinkId) {
        self.next_piece(link);
        let Some(found) = self.links.get_mut(&link) else { return };
        let pulses = self.pulses.iter().map(|(node, (pulse, _))| (node, pulse));
        if let Some(batch) = found.next_batch(&self.log, pulses) {
            self.effects.push(Effect::Send(link, batch));
        }
        if found.is_to_ask(self.config.node) {
            self.effects.push(Effect::Send(link, Message::Ask));
        }
    }

    pub(super) fn pump_all(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.pump(link));
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        op::{Command, DocKey, Hash, Head, NodeId, OpError},
        replica::{Config, Draft, Effect, Event, LinkId, Now, Refused, Replica, Standing},
        wire::{Announcement, Beat, Hello, Message, Pulse, Refusal, Why},
    };

    fn founder() -> Replica {
        Replica::new(Config::founder(NodeId(uuid::Uuid::from_u128(1)), 1))
    }

    fn put(replica: &mut Replica, id: &'static str) {
        let commands = vec![Command::Put(DocKey::new("c", id), "1".into())];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        let effects = replica.handle(Now::default(), Event::Submit(0, draft));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Receipt(_, Ok(_)))));
    }

    /// A peer says hello and that it holds nothing, and is made a member.
    fn greet(replica: &mut Replica) -> LinkId {
        let link = LinkId(1);
        let hello = Hello::newcomer(NodeId(uuid::Uuid::from_u128(2)), "b", replica.pool().cloned());
        replica.handle(Now::default(), Event::Opened(link, None, None));
        replica.handle(Now::default(), Event::Heard(link, Message::Hello(hello)));
        replica.handle(Now::default(), Event::Heard(link, Message::Heads(Vec::new())));
        link
    }

    /// The peer says that it is a member now.
    fn gets_in(replica: &mut Replica, link: LinkId) {
        let newcomer = Hello::newcomer(NodeId(uuid::Uuid::from_u128(2)), "b", replica.pool().cloned());
        let hello = Hello { member: true, ..newcomer };
        replica.handle(Now::default(), Event::Heard(link, Message::Hello(hello)));
    }

    /// The peer says that it holds other ops of this node than the node does.
    fn tells_of_another_past(replica: &mut Replica, link: LinkId) {
        let other_past = (replica.node(), Head { seq: 1_000, hash: Hash::default() });
        replica.handle(Now::default(), Event::Heard(link, Message::Heads(vec![other_past])));
    }

    /// A peer with the same log says the sum over its documents.
    fn beat(replica: &mut Replica, state: u64) {
        let link = greet(replica);
        let beat =
            Beat { clock: 0, digest: replica.log().digest(), state, frontier: 0, presence: 0, pulses: Vec::new() };
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
        // It is made a member once it is known what it holds.
        replica.handle(Now::default(), Event::Heard(link, Message::Heads(Vec::new())));
        gets_in(&mut replica, link);
        tells_of_another_past(&mut replica, link);
        assert_ne!(replica.node(), before);
        for mono_ms in [1_000, 10_000, 60_000] {
            replica.handle(Now { mono_ms, wall_ms: 0 }, Event::Tick);
        }
        assert_eq!(replica.standing(), Standing::CatchingUp, "it would serve a pool without its data");
    }

    #[test]
    fn the_word_of_a_peer_that_has_not_got_in_yet_does_not_make_a_member_give_its_id_up() {
        let mut replica = founder();
        let (link, before) = (greet(&mut replica), replica.node());
        assert_eq!(replica.roster().len(), 2, "the peer has been let in, and does not know it");
        tells_of_another_past(&mut replica, link);
        replica.handle(Now::default(), Event::Heard(link, Message::Promised(0, 1_000)));
        assert_eq!((replica.node(), replica.standing()), (before, Standing::Member));
    }

    /// The promises that the node says it has heard of a peer.
    fn says_promises(replica: &mut Replica, link: LinkId) -> Vec<(u64, u64)> {
        replica.say_heads(link);
        let promise = |effect: Effect| match effect {
            Effect::Send(_, Message::Promised(seq, clock)) => Some((seq, clock)),
            _ => None,
        };
        std::mem::take(&mut replica.effects).into_iter().filter_map(promise).collect()
    }

    #[test]
    fn that_a_newcomer_was_added_is_no_promise_of_its_own() {
        let mut replica = founder();
        let link = greet(&mut replica);
        gets_in(&mut replica, link);
        assert_eq!((replica.roster().len(), says_promises(&mut replica, link)), (2, vec![]));
        let clock = replica.clock() + 10;
        let said = Announcement { clock, ..Announcement::default() };
        let pulses = vec![(NodeId(uuid::Uuid::from_u128(2)), Pulse { count: (1, 1), said })];
        let beat = Beat { clock, digest: Hash::default(), state: 0, frontier: 0, presence: 0, pulses };
        replica.handle(Now::default(), Event::Heard(link, Message::Beat(beat)));
        assert_eq!(says_promises(&mut replica, link), [(0, clock)]);
    }

    #[test]
    fn one_who_holds_nothing_yet_believes_anyone_that_its_id_is_evicted() {
        let mut replica = founder();
        let link = greet(&mut replica);
        let before = replica.node();
        gets_in(&mut replica, link);
        tells_of_another_past(&mut replica, link);
        let newcomer = replica.node();
        assert_ne!(newcomer, before);
        replica.handle(Now::default(), Event::Opened(LinkId(2), Some("http://x:1".into()), None));
        let refusal = Refusal { why: Why::Evicted, detail: String::new(), try_instead: Vec::new() };
        replica.handle(Now::default(), Event::Heard(LinkId(2), Message::Refusal(refusal)));
        assert_ne!(replica.node(), newcomer);
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
