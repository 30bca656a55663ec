//! A simulated world: nodes, link ends and what is under way between them.
//!
//! It carries out effects as the shell does and checks every node after every step. Nothing here is left to chance:
//! what happens when is the [`super::Driver`]'s, or an event file's, to say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Violation,
    action::{Action, Birth, Showing, Wrong},
    decisions::{is_outside, let_in, unfit},
    ledger::{Ledger, Watch, is_stored},
    loss::Left,
    model::Model,
    rooms::Guests,
};
use crate::{
    document::{Reason, View, prose::Unbounded},
    op::{Command, DocKey, Eviction, KEY_SPAN, NodeId, Op, OpId, PublicKey, Stamp},
    plant,
    record::Record,
    replica::{
        Assembly, Config, Counters, Draft, Effect, Endpoint, Event, LinkId, LinkKeys, Member, Now, Outbox, Receipt,
        Recovery, Refused, Replica, Retention, Standing, TICK_MS,
    },
    snapshot::Part,
    version::Version,
    wire::{self, Message, Refusal, Why},
};

/// One pool of so many has a secret, and its nodes prove their keys.
const KEYED_ONE_OF: u64 = 4;

/// What comes over a link reaches a node two links away within this, whatever the faults, or one of the links is closed.
const HEARD_MS: u64 = 15_000;

/// A node that is up in a pool that is whole has evicted the members that it was within this.
const SUCCEEDS_MS: u64 = 20_000;

/// All there is.
#[derive(Debug)]
pub struct World {
    pub(super) nodes: Vec<Node>,
    ends: Vec<End>,
    dials: Vec<Dial>,
    pub(super) ledger: Ledger,
    /// Whether every step is checked; runs of hundreds of nodes are only checked at their end.
    checks: bool,
    /// Whether idempotency keys are remembered for as long as a run takes.
    remembers: bool,
    /// Whether the pool has a secret, so that nodes prove keys on their links; none until the first node starts.
    keyed: Option<bool>,
    trace: blake3::Hasher,
    now_ms: u64,
}

/// A running process, or what is left of it.
#[derive(Debug)]
pub struct Node {
    /// How it began.
    pub birth: Birth,
    /// Its part in the pool; none once it has crashed.
    pub replica: Option<Replica>,
    /// What it counted until it crashed.
    pub counted: Counters,
    /// Its disk.
    pub disk: Disk,
    outbox: Outbox<Effect>,
    start_ms: u64,
    /// The id whose key it proves on its links.
    goes_by: Option<NodeId>,
    /// What its clients show, and what one who follows all rooms has seen.
    pub(super) guests: Guests,
    watch: Watch,
    answer: Option<Result<Receipt, Refused>>,
    /// Ops whose receipts wait for the disk.
    acknowledges: Vec<Op>,
    pub(super) left: Option<Left>,
    /// The ids that it, and those before it in its data directory, had when it vanished.
    pub(super) had: BTreeSet<NodeId>,
    /// True once it was a member.
    was_member: bool,
    /// True once an operator has told it to join somebody.
    told: bool,
}

/// A journal on a disk that takes its time.
#[derive(Debug, Default)]
pub struct Disk {
    records: Vec<Record>,
    /// How many of them are stored.
    stored: usize,
    /// Whether it is busy storing more.
    busy: bool,
    /// Whether there is no room.
    pub full: bool,
    /// Whether it may hold less than its node has issued.
    lost: bool,
}

impl Disk {
    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// How many records it held when its node had become a member, and knew another: a copy from before that takes its node for
    /// the whole pool, and nobody can tell it otherwise before it hears of the others.
    pub fn joined(&self) -> usize {
        let own = self.records.iter().rev().find_map(|record| match record {
            Record::Identity(identity) => Some(identity.node),
            _ => None,
        });
        let added = |record: &Record| match record {
            Record::Op(op) => op.body().commands.iter().find_map(|command| match command {
                Command::Add(newcomer, _) => Some(newcomer.node),
                _ => None,
            }),
            _ => None,
        };
        // A snapshot in the journal holds such ops once more.
        let first =
            |oneself| self.records.iter().position(|it| added(it).is_some_and(|it| (Some(it) == own) == oneself));
        first(true).zip(first(false)).map_or(self.records.len(), |(own, other)| own.max(other) + 1)
    }

    /// How many records it held when its node had issued its last op.
    pub fn issued(&self) -> usize {
        let own = self.records.iter().rev().find_map(|record| match record {
            Record::Identity(identity) => Some(identity.node),
            _ => None,
        });
        let issued = |record: &Record| matches!(record, Record::Op(op) if Some(op.origin()) == own);
        self.records.iter().rposition(issued).map_or(0, |at| at + 1)
    }

    /// How many of its first records are needless, because a snapshot that is stored stands for them.
    pub fn needless(&self) -> usize {
        let is =
            |wanted: fn(&Part) -> bool| move |record: &Record| matches!(record, Record::Snapshot(part) if wanted(part));
        let stored = &self.records[..self.stored];
        let whole = stored.iter().rposition(is(|part| matches!(part, Part::Whole(_)))).unwrap_or(0);
        stored[..whole].iter().rposition(is(|part| matches!(part, Part::Base(_)))).unwrap_or(0)
    }

    /// How many records a crash may take back.
    pub fn unstored(&self) -> usize {
        self.records.len() - self.stored
    }
}

/// One side of a link. What it sends is numbered and lies here until it has arrived.
#[derive(Debug)]
pub struct End {
    /// Whose it is.
    pub node: usize,
    /// The other side.
    pub peer: usize,
    stage: Stage,
    /// The keys that its two sides have proved.
    keys: Option<LinkKeys>,
    /// Since when.
    since_ms: u64,
    out: BTreeMap<u64, Parcel>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The dialler does not know yet that it came through.
    Dialled,
    Open,
    /// Whatever comes is answered with a reset.
    Gone,
    /// Whatever comes vanishes.
    Silent,
}

#[derive(Clone, Debug)]
enum Parcel {
    Message(Message),
    Close,
}

#[derive(Debug)]
struct Dial {
    node: usize,
    endpoint: Endpoint,
    /// The dialler's end, once its target has accepted.
    end: Option<usize>,
}

/// What an action has set under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An end sent the message of this number.
    Sent {
        /// The sending end.
        end: usize,
        /// The number of the message there.
        number: u64,
        /// Whether its sender waits for [`Action::Flushed`].
        ops: bool,
        /// Whether it is the end of the link.
        close: bool,
    },
    /// An end sent the message of this number, which is about presence.
    Showed {
        /// The sending end.
        end: usize,
        /// The number of the message there.
        number: u64,
    },
    /// A node dialled.
    Dialled(usize),
    /// A node's disk has begun to store its journal as far as this place.
    Storing(usize, u64),
}

impl World {
    /// An empty world; with `checks` every step is checked.
    pub fn new(checks: bool) -> World {
        World {
            nodes: Vec::new(),
            ends: Vec::new(),
            dials: Vec::new(),
            ledger: Ledger::default(),
            checks,
            remembers: true,
            keyed: None,
            trace: blake3::Hasher::new(),
            now_ms: 0,
        }
    }

    /// Applies one action and returns what it has set under way, or what it has broken. An action on what is not
    /// there does nothing, so that lines of an event file can be taken out.
    pub fn apply(&mut self, at_ms: u64, action: &Action) -> Result<Vec<Outcome>, Violation> {
        self.now_ms = at_ms;
        self.note(at_ms, action);
        let mut outcomes = Vec::new();
        match action {
            Action::LeaveOut(rule) => plant::leave_out(*rule),
            Action::EarlyMax(most) => plant::squeeze_early(*most),
            Action::Squeeze(span, slice) => {
                self.remembers = *span == u64::MAX;
                plant::squeeze_span(*span);
                plant::squeeze_slice(*slice);
            }
            Action::SqueezeStep(most) => plant::squeeze_step(*most),
            Action::Start(birth) => self.start(birth.clone())?,
            Action::Crash(node, silent, kept) => self.crash(*node, *silent, *kept),
            Action::Stored(node, end) => self.stored(*node, *end as usize, &mut outcomes)?,
            Action::Full(node, full) => {
                self.nodes.get_mut(*node).into_iter().for_each(|node| node.disk.full = *full);
            }
            Action::Compact(node) => {
                self.step(*node, Event::Compact, &mut outcomes)?;
                self.go_on_compacting(*node, &mut outcomes)?;
            }
            Action::Tight(node, tight) => self.step(*node, Event::Tight(*tight), &mut outcomes)?,
            Action::Tick(node) => {
                self.step(*node, Event::Tick, &mut outcomes)?;
                self.merge_texts(*node, &mut outcomes)?;
            }
            Action::Submit(node, draft) => self.submit(*node, draft, &mut outcomes)?,
            Action::Cut(node, cut) => self.step(*node, Event::Cut(*cut), &mut outcomes)?,
            Action::Join(node, url) => {
                self.nodes.get_mut(*node).into_iter().for_each(|node| node.told = true);
                self.step(*node, Event::Join(url.clone()), &mut outcomes)?;
            }
            Action::Accept(dial) => self.accept(*dial, &mut outcomes)?,
            Action::Connected(dial) => self.connected(*dial, &mut outcomes)?,
            Action::DialFailed(dial) => self.dial_failed(*dial, &mut outcomes)?,
            Action::Resolved(dial, addresses) => self.resolved(*dial, addresses, &mut outcomes)?,
            Action::United => self.united()?,
            Action::Deliver(end, number) => {
                let parcel = self.ends.get_mut(*end).and_then(|end| end.out.remove(number));
                self.arrive(*end, parcel, &mut outcomes)?;
            }
            Action::Copy(end, number) => {
                let parcel = self.ends.get(*end).and_then(|end| end.out.get(number)).cloned();
                self.arrive(*end, parcel, &mut outcomes)?;
            }
            Action::Garble(end, number) => self.garble(*end, *number, &mut outcomes)?,
            Action::Lose(end, number) => {
                self.ends.get_mut(*end).and_then(|end| end.out.remove(number));
            }
            Action::Flushed(end) => self.at_end(*end, Event::Flushed, &mut outcomes)?,
            Action::Present(node, showing) => self.present(*node, showing, &mut outcomes)?,
            Action::Shown(end) => self.at_end(*end, Event::Shown, &mut outcomes)?,
            Action::Reset(end) => self.reset(*end, &mut outcomes)?,
            Action::Audit(node) => self.audit(*node)?,
            Action::Quiet => self.quiet()?,
            Action::Spread => self.all_hold_the_same_log("an op reaches everyone promptly")?,
        }
        Ok(outcomes)
    }

    /// The nodes, dead ones too, in the order of their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The link ends, gone ones too.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Who dialled, and where.
    pub fn dial(&self, dial: usize) -> (usize, &Endpoint) {
        (self.dials[dial].node, &self.dials[dial].endpoint)
    }

    /// A message that has not arrived yet, or may arrive again.
    pub fn message(&self, end: usize, number: u64) -> Option<&Message> {
        match self.ends.get(end)?.out.get(&number)? {
            Parcel::Message(message) => Some(message),
            Parcel::Close => None,
        }
    }

    /// Whether the two ends of a link are open.
    pub fn is_whole(&self, end: usize) -> bool {
        let open = |end: &End| end.stage == Stage::Open;
        self.ends.get(end).is_some_and(|this| open(this) && self.ends.get(this.peer).is_some_and(open))
    }

    /// Lets a client of a node show something of itself, if the node takes that.
    fn present(&mut self, index: usize, showing: &Showing, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(Node { replica: Some(replica), guests, start_ms, .. }) = self.nodes.get_mut(index) else {
            return Ok(());
        };
        // The first event of a node founds its pool and reserves times: that is not presence's to be.
        if self.now_ms < *start_ms + TICK_MS {
            return Ok(());
        }
        let Showing { room, client, state } = showing.clone();
        if replica.may_show(&room, &client, state.as_deref()).is_err() {
            return Ok(());
        }
        guests.set(showing);
        self.step(index, Event::Present { room, client, state }, outcomes)
    }

    /// The live node with this URL.
    pub fn at_url(&self, url: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.replica.is_some() && node.birth.url == url)
    }

    /// The live node at this place.
    pub fn at(&self, endpoint: &Endpoint) -> Option<usize> {
        endpoint.address.as_ref().map_or_else(|| self.at_url(&endpoint.url), |at| self.at_url(&format!("http://{at}")))
    }

    /// Puts a frame on its way that the node of this end did not send. Who is to receive it reads what its frame says.
    pub(super) fn forge(&mut self, end: usize, message: Message) -> Result<Vec<Outcome>, Violation> {
        let mut outcomes = Vec::new();
        // Not every message that can be put together is one: the receiver drops the frame, and the link.
        if wire::decode(&wire::encode(&message)).is_ok_and(|heard| heard == message) {
            send(&mut self.ends, &mut self.trace, end, message, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// Whose the other end of a link is.
    pub(super) fn peer_of(&self, end: usize) -> usize {
        self.ends[self.ends[end].peer].node
    }

    /// The time as a node has it.
    pub(super) fn now_of(&self, node: usize) -> Now {
        let mono_ms = self.now_ms - self.nodes[node].start_ms;
        Now { mono_ms, wall_ms: self.nodes[node].birth.wall_ms + mono_ms }
    }

    /// The open link ends of a node.
    pub fn open_ends(&self, node: usize) -> impl Iterator<Item = usize> {
        let open = move |(_, end): &(usize, &End)| end.node == node && end.stage == Stage::Open;
        self.ends.iter().enumerate().filter(open).map(|(number, _)| number)
    }

    /// The live nodes.
    pub fn live(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.replica.as_ref()?)))
    }

    /// Whether there is a pool, on some disk or in some node.
    pub fn has_pool(&self) -> bool {
        // A founder that crashed before its own `Add` was stored has founded nothing.
        let founded = |record: &Record| matches!(record, Record::Op(_) | Record::Snapshot(Part::Whole(_)));
        let recorded = |node: &Node| node.disk.records.iter().any(founded);
        self.nodes.iter().any(recorded)
    }

    /// Whether all that a node has issued is on the disks of all others.
    pub fn is_everywhere(&self, node: usize) -> bool {
        let Some(replica) = &self.nodes[node].replica else { return false };
        // Others may hold an op of the same id that it issued before it went back to an old copy. And of one that knows nobody else
        // yet nothing is promised.
        let disk = &self.nodes[node].disk;
        if self.ledger.is_old(replica.node()) || disk.joined() >= disk.len() {
            return false;
        }
        let own = OpId { origin: replica.node(), seq: replica.log().head(replica.node()).seq };
        let holds = |other: &Node| is_stored(own, &other.disk.records[..other.disk.stored]);
        self.live().all(|(other, _)| other == node || holds(&self.nodes[other]))
    }

    /// Whether all live nodes are members and hold the same log, and nothing waits.
    pub fn converged(&self) -> bool {
        let mut live = self.live().map(|(_, replica)| replica);
        let Some(first) = live.next() else { return true };
        let (digest, roster) = (first.log().digest(), first.roster());
        let settled = |replica: &Replica| {
            replica.standing() == Standing::Member && self.may_wait(replica) && !replica.has_orphans()
        };
        settled(first)
            && live.all(|other| settled(other) && other.log().digest() == digest && other.roster().agrees(roster))
    }

    /// Whether everything is final at every live node.
    pub fn is_final(&self) -> bool {
        self.live().all(|(_, replica)| is_all_final(replica))
    }

    /// Whether links lead from every live node to every other.
    pub fn is_connected(&self) -> bool {
        let Some((first, _)) = self.live().next() else { return true };
        let mut reached = BTreeSet::from([first]);
        let mut waiting = vec![first];
        while let Some(node) = waiting.pop() {
            let peers = self.open_ends(node).map(|end| &self.ends[self.ends[end].peer]);
            for peer in peers.filter(|peer| peer.stage == Stage::Open) {
                if reached.insert(peer.node) {
                    waiting.push(peer.node);
                }
            }
        }
        self.live().all(|(node, _)| reached.contains(&node))
    }

    /// Of the pool's ops, how many follow one of the same document that they had not seen.
    pub fn concurrent_pairs(&self) -> u64 {
        let ops = self.live().next().and_then(|(_, replica)| self.ledger.ops_of(replica));
        ops.map_or(0, |ops| self.ledger.concurrent_pairs(ops.into_iter()))
    }

    /// A hash over all that happened so far, what was sent and answered included.
    pub fn trace_hash(&self) -> String {
        self.trace.finalize().to_hex()[..32].to_string()
    }

    /// What a message is about, for the reader of an event file.
    pub fn describe(&self, action: &Action) -> String {
        let (Action::Deliver(end, number)
        | Action::Copy(end, number)
        | Action::Garble(end, number)
        | Action::Lose(end, number)) = action
        else {
            return String::new();
        };
        let Some(end) = self.ends.get(*end) else { return String::new() };
        let to = self.ends[end.peer].node;
        let what = match end.out.get(number) {
            None => "nothing".into(),
            Some(Parcel::Close) => "close".into(),
            Some(Parcel::Message(Message::Hello(hello))) => format!("hello, member {}", hello.member),
            Some(Parcel::Message(Message::Refusal(refusal))) => format!("refusal, {:?}", refusal.why),
            Some(Parcel::Message(Message::Heads(heads))) => format!("{} heads", heads.len()),
            Some(Parcel::Message(Message::Beat(beat))) => format!("beat at {}", beat.clock),
            Some(Parcel::Message(Message::Dropped(heads))) => format!("has forgotten ops of {} nodes", heads.len()),
            Some(Parcel::Message(Message::Fetch(begun))) => {
                format!("asks for a snapshot, begun {:?}", begun.as_ref().map(|begun| begun.time))
            }
            Some(Parcel::Message(Message::Snapshot(time, part))) => match part {
                Part::Base(_) => format!("snapshot of {time}"),
                Part::Documents(slice) => format!("{} documents of {time}", slice.documents.len()),
                Part::Whole(_) | Part::Again(_) => format!("end of the snapshot of {time}"),
            },
            Some(Parcel::Message(Message::Ask)) => "asks how far its ops are held".into(),
            Some(Parcel::Message(Message::Held(seq))) => format!("holds {seq}"),
            Some(Parcel::Message(Message::Promised(seq, clock))) => format!("has heard of {clock} behind {seq}"),
            Some(Parcel::Message(Message::Presence(presents))) => format!("{} clients in rooms", presents.len()),
            Some(Parcel::Message(Message::Attendance(known))) => format!("who is in rooms of {} nodes", known.len()),
            Some(Parcel::Message(Message::Dispute(dispute))) => {
                format!("disputes {}.{}: {:?}", dispute.origin, dispute.at, dispute.stand)
            }
            Some(Parcel::Message(Message::Addresses(all))) => format!("where {} members are", all.len()),
            Some(Parcel::Message(Message::Ops(ops, ..))) => {
                let first: Vec<String> = ops
                    .iter()
                    .filter(|op| op.body().commands.iter().any(Command::is_membership))
                    .chain(ops.iter().take(3))
                    .map(|op| self.op_name(op))
                    .collect();
                format!("{} ops: {}", ops.len(), first.join(" "))
            }
        };
        format!("  # {} to {to}: {what}", end.node)
    }

    fn op_name(&self, op: &Op) -> String {
        let name = |id: NodeId| {
            let node = self.nodes.iter().position(|node| NodeId(node.birth.id) == id);
            node.map_or("?".into(), |node| node.to_string())
        };
        let what = match op.body().commands.first() {
            Some(Command::Add(newcomer, frontier)) => format!(" adds {} final to {frontier}", name(newcomer.node)),
            Some(Command::Retire) => " retires".into(),
            Some(Command::Evict(eviction)) => format!(" evicts {}", name(eviction.node)),
            Some(Command::Fence(node, held)) => format!(" fences {} at {held}", name(*node)),
            Some(Command::Removed(node)) => format!(" has removed {}", name(*node)),
            Some(Command::Key(node, _)) => format!(" says the key of {}", name(*node)),
            _ => String::new(),
        };
        format!("{}.{} at {}{what}", name(op.origin()), op.id().seq, op.time())
    }

    fn note(&mut self, at_ms: u64, action: &Action) {
        self.trace.update(&at_ms.to_le_bytes());
        match action {
            Action::Deliver(end, number) => {
                self.trace.update(&(*end as u64).to_le_bytes()).update(&number.to_le_bytes());
            }
            Action::Tick(node) => drop(self.trace.update(&(*node as u64).to_le_bytes())),
            other => drop(self.trace.update(other.to_string().as_bytes())),
        }
    }

    fn start(&mut self, birth: Birth) -> Result<(), Violation> {
        self.keyed.get_or_insert(birth.seed.is_multiple_of(KEYED_ONE_OF));
        if birth.journal.is_none()
            && let Some(last) = self.nodes.iter().rposition(|node| node.birth.machine == birth.machine)
        {
            self.lose(last);
        }
        let mut recovery = Recovery::new(Config {
            node: NodeId(birth.id),
            name: format!("n{}", birth.machine),
            urls: vec![birth.url.clone()],
            join: birth.join.clone(),
            found: birth.found,
            found_with: birth.found_with,
            pool: birth.pool.clone(),
            seed: birth.seed,
            retention: Retention { ops: birth.retain, bytes: usize::MAX },
            evict_after_ms: birth.evict_after_ms,
            key_span: KEY_SPAN,
        });
        let mut journal =
            birth.journal.and_then(|node| Some(self.nodes.get(node)?.disk.records.clone())).unwrap_or_default();
        journal.drain(..birth.cut.min(journal.len()));
        // Every start is to give it a new id until one is stored, lest one be lost in another crash.
        let mut lost = birth.journal.is_some_and(|node| self.nodes[node].disk.lost);
        match birth.wrong {
            Wrong::Nothing => {}
            Wrong::Damaged(at) => {
                if at < journal.len() {
                    journal.remove(at);
                }
                lost = true;
            }
            Wrong::Old(len) => journal.truncate(len),
        }
        journal.iter().cloned().for_each(|record| recovery.take(record));
        if birth.cut > 0 && !recovery.is_whole() && !lost {
            let detail = format!("node {} comes back without its beginning", self.nodes.len());
            return Err(Violation { invariant: "a journal is cut only behind a whole snapshot", detail });
        }
        let replica = recovery.finish(lost.then_some(NodeId(birth.id)));
        let replica = replica.with_ids(birth.had.iter().copied(), Vec::new());
        let copied = self.live().any(|(_, other)| other.node() == replica.node());
        if copied {
            // One that is just being let in may not know yet what the copied node calls final.
            let settled = |(other, member): (&NodeId, &Member)| {
                *other != replica.node() && member.added.time <= replica.frontier()
            };
            self.ledger.copied(replica.node(), !replica.roster().present().any(settled));
        }
        let old = copied || matches!(birth.wrong, Wrong::Old(_));
        let watch = if self.checks { self.ledger.resume(&replica, old)? } else { Watch::default() };
        let stored = journal.len();
        self.nodes.push(Node {
            birth: Birth { id: replica.node().0, ..birth },
            replica: Some(replica),
            counted: Counters::default(),
            disk: Disk { records: journal, stored, busy: false, full: false, lost },
            outbox: Outbox::default(),
            start_ms: self.now_ms,
            goes_by: None,
            guests: Guests::default(),
            watch,
            answer: None,
            acknowledges: Vec::new(),
            left: None,
            had: BTreeSet::new(),
            was_member: false,
            told: false,
        });
        Ok(())
    }

    fn crash(&mut self, node: usize, silent: bool, kept: usize) {
        let Some(Node { birth, replica, counted, disk, outbox, left, had, .. }) = self.nodes.get_mut(node) else {
            return;
        };
        let durable = birth.durable;
        if let Some(replica) = replica.take() {
            *counted = replica.counters();
            *left = Some(Left {
                node: replica.node(),
                pool: replica.assembly().remaining.clone(),
                frontier: replica.frontier(),
            });
            had.extend(birth.had.iter().chain(replica.former()).copied().chain([replica.node()]));
            self.ledger.vanished(replica.node());
            disk.records.truncate(disk.stored + kept);
            *outbox = Outbox::default();
        }
        if !durable {
            self.lose(node);
        }
        let stage = if silent { Stage::Silent } else { Stage::Gone };
        self.ends.iter_mut().filter(|end| end.node == node).for_each(|end| end.stage = stage);
    }

    /// Gives a node one event and, as the shell does, the key of its id where that is new.
    pub(super) fn step(&mut self, index: usize, event: Event, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        self.follow_id(index, outcomes)?;
        self.take(index, event, outcomes)?;
        self.follow_id(index, outcomes)
    }

    /// Merges the updates of a text, as the task beside the node's does.
    fn merge_texts(&mut self, index: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let replica = self.nodes.get(index).and_then(|node| node.replica.as_ref());
        let Some((doc, updates)) = replica.and_then(|replica| replica.state().to_merge()) else { return Ok(()) };
        let merged = updates.merged(&mut Unbounded).ok();
        self.step(index, Event::Merged { doc, updates, merged }, outcomes)
    }

    fn follow_id(&mut self, index: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(Node { replica: Some(replica), goes_by, .. }) = self.nodes.get_mut(index) else { return Ok(()) };
        let id = replica.node();
        if self.keyed != Some(true) || goes_by.replace(id) == Some(id) {
            return Ok(());
        }
        self.take(index, Event::Key(key_of(id)), outcomes)
    }

    /// Gives a node one event, carries out the effects and checks what must hold.
    fn take(&mut self, index: usize, event: Event, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
        let Some(replica) = &mut node.replica else { return Ok(()) };
        // What a node cannot store it does not hear; the repair brings it again.
        if node.disk.full && matches!(event, Event::Heard(_, Message::Ops(..))) {
            return Ok(());
        }
        let mono_ms = self.now_ms - node.start_ms;
        let now = Now { mono_ms, wall_ms: node.birth.wall_ms + mono_ms };
        let evicts = matches!(event, Event::Tick);
        let issued = OpId { origin: replica.node(), seq: replica.log().head(replica.node()).seq };
        let outside = self.checks && is_outside(replica);
        let effects = replica.handle(now, event);
        node.was_member |= replica.roster().knows(replica.node());
        if outside {
            let_in(replica, issued)?;
        }
        let evicted = if evicts { evicted_since(replica, issued) } else { Vec::new() };
        if self.checks {
            self.ledger.check(&mut node.watch, replica)?;
            node.guests.follow(replica)?;
        }
        evicted.into_iter().try_for_each(|Eviction { node, force }| {
            if force { self.is_proved(index, node) } else { self.is_unheard(index, node) }
        })?;
        for effect in effects {
            let node = &mut self.nodes[index];
            match effect {
                Effect::Store(record) => node.disk.records.push(record),
                effect => {
                    if let Effect::Receipt(_, answer) = &effect {
                        node.answer = Some(answer.clone());
                        let op = answer.as_ref().ok().and_then(|it| node.replica.as_ref()?.log().get(it.op));
                        node.acknowledges.extend(op.cloned());
                    }
                    if effect.waits() {
                        node.outbox.push(node.disk.records.len() as u64, effect);
                    } else {
                        self.carry_out(index, effect, outcomes)?;
                    }
                }
            }
        }
        let Node { birth, disk, .. } = &mut self.nodes[index];
        if !birth.durable {
            disk.stored = disk.records.len();
        }
        self.release(index, outcomes)?;
        self.check_evictions(index)
    }

    fn check_evictions(&mut self, index: usize) -> Result<(), Violation> {
        match &self.nodes[index] {
            Node { disk, replica: Some(replica), .. } if self.checks => {
                self.ledger.check_evictions(replica, disk.unstored() == 0)
            }
            _ => Ok(()),
        }
    }

    /// A node has evicted another of itself: no member that it hears may hear that one.
    fn is_unheard(&self, by: usize, evicted: NodeId) -> Result<(), Violation> {
        let Some((other, replica)) = self.live().find(|(_, replica)| replica.node() == evicted) else { return Ok(()) };
        if replica.standing() != Standing::Member {
            return Ok(());
        }
        let old = |end: &End| end.stage == Stage::Open && self.now_ms >= end.since_ms + HEARD_MS;
        let hears = |one: usize, other: usize| {
            self.open_ends(one).any(|end| {
                let (near, far) = (&self.ends[end], &self.ends[self.ends[end].peer]);
                far.node == other && old(near) && old(far)
            })
        };
        let member = |(_, replica): &(usize, &Replica)| replica.standing() == Standing::Member;
        let heard = hears(by, other)
            || self.live().filter(member).any(|(between, _)| hears(by, between) && hears(between, other));
        if !heard {
            return Ok(());
        }
        let detail = format!("node {by} evicts node {other}, {evicted}");
        Err(Violation { invariant: "a member that is heard is evicted by an operator only", detail })
    }

    /// A node has evicted another of itself, by force: nobody runs under that id any more, and either the node knows that it had
    /// the id, or it has let in that one, and holds nothing of it.
    fn is_proved(&self, by: usize, evicted: NodeId) -> Result<(), Violation> {
        let Node { birth, replica: Some(replica), .. } = &self.nodes[by] else { return Ok(()) };
        let runs = self.live().any(|(_, other)| other.node() == evicted) && !self.ledger.is_copied(evicted);
        let knows = birth.had.contains(&evicted) || replica.former().contains(&evicted);
        let never_came = replica.log().head(evicted).seq == 0;
        if !self.checks || !runs && (knows || never_came) {
            return Ok(());
        }
        let detail = format!("node {by} evicts {evicted}: {}", if runs { "it is there" } else { "it never was that" });
        Err(Violation { invariant: "nobody is evicted by force without an operator or a proof", detail })
    }

    /// In a pool that was whole for long: whoever is up for a while, and knows that it was a member, has evicted that one.
    pub(super) fn successors_are_alone(&self) -> Result<(), Violation> {
        for (index, replica) in self.live().filter(|(_, replica)| replica.standing() == Standing::Member) {
            let Node { birth: Birth { had, .. }, start_ms, .. } = &self.nodes[index];
            if self.now_ms < start_ms + SUCCEEDS_MS {
                continue;
            }
            if let Some((before, _)) = replica.roster().present().find(|(member, _)| had.contains(member)) {
                let detail = format!("node {index} knows that it was {before}, which is a member still");
                return Err(Violation { invariant: "a newcomer replaces the member that it was", detail });
            }
        }
        Ok(())
    }

    /// A node has retired: somebody else has what it has acknowledged. Of machines that are down nothing can be told.
    fn has_shared(&self, index: usize) -> Result<(), Violation> {
        let Node { replica: Some(replica), disk, .. } = &self.nodes[index] else { return Ok(()) };
        let mut dead = self.nodes.iter().filter(|node| node.replica.is_none());
        let down = |node: &Node| !node.birth.durable || self.at_url(&node.birth.url).is_none();
        if !self.remembers || disk.lost || dead.any(down) {
            return Ok(());
        }
        let others: Vec<&Replica> = self.live().filter(|(other, _)| *other != index).map(|(_, other)| other).collect();
        self.ledger.acknowledged_is_elsewhere(replica, &others)
    }

    /// A disk has stored a journal as far as `end`: what waited for that goes out, and the disk goes on.
    fn stored(&mut self, index: usize, end: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.replica.is_some()) else { return Ok(()) };
        node.disk.stored = node.disk.stored.max(end.min(node.disk.records.len()));
        node.disk.busy = false;
        self.release(index, outcomes)?;
        self.go_on_compacting(index, outcomes)
    }

    /// The snapshot that a node is writing goes on when all before it is stored.
    fn go_on_compacting(&mut self, index: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let goes_on = |node: &Node| {
            let compacts = node.replica.as_ref().is_some_and(Replica::is_compacting);
            compacts && node.disk.unstored() == 0 && !node.disk.full
        };
        while self.nodes.get(index).is_some_and(goes_on) {
            self.step(index, Event::Stored, outcomes)?;
        }
        Ok(())
    }

    fn release(&mut self, index: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        while let Some(effect) = self.nodes[index].next_effect() {
            self.carry_out(index, effect, outcomes)?;
        }
        let Disk { records, stored, busy, .. } = &mut self.nodes[index].disk;
        if *stored < records.len() && !*busy {
            *busy = true;
            outcomes.push(Outcome::Storing(index, records.len() as u64));
        }
        Ok(())
    }

    fn carry_out(&mut self, index: usize, effect: Effect, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        if self.checks {
            let Node { disk, replica: Some(replica), .. } = &self.nodes[index] else { return Ok(()) };
            self.ledger.tells(replica.node(), &effect, &disk.records[..disk.stored])?;
        }
        if let Effect::Receipt(_, Ok(receipt)) = &effect {
            let acknowledged = self.nodes[index].acknowledges.extract_if(.., |op| op.id() == receipt.op);
            acknowledged.for_each(|op| self.ledger.acknowledged(op));
        }
        match effect {
            Effect::Store(_) => {}
            Effect::Send(_, Message::Refusal(Refusal { why: Why::OtherKey, detail, .. })) if self.checks => {
                return Err(Violation { invariant: "no honest node is refused for its key", detail });
            }
            Effect::Send(LinkId(end), message) => {
                send(&mut self.ends, &mut self.trace, end as usize, message, outcomes)?;
            }
            Effect::Close(LinkId(end)) => close(&mut self.ends, end as usize, outcomes),
            Effect::Dial(endpoint) => {
                outcomes.push(Outcome::Dialled(self.dials.len()));
                self.dials.push(Dial { node: index, endpoint, end: None });
            }
            Effect::Receipt(_, answer) => drop(self.trace.update(format!("{answer:?}").as_bytes())),
        }
        Ok(())
    }

    fn at_end(
        &mut self,
        end: usize,
        event: impl FnOnce(LinkId) -> Event,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Violation> {
        match self.ends.get(end) {
            Some(End { node, stage: Stage::Open, .. }) => self.step(*node, event(LinkId(end as u64)), outcomes),
            _ => Ok(()),
        }
    }

    /// Hands a client's draft to a node, and checks the answer.
    fn submit(&mut self, index: usize, draft: &Draft, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let log_len = |world: &World| Some(world.nodes.get(index)?.replica.as_ref()?.log().len());
        let Some(before) = log_len(self).filter(|_| !self.nodes[index].disk.full) else { return Ok(()) };
        self.nodes[index].answer = None;
        let node = &self.nodes[index];
        let mono_ms = self.now_ms - node.start_ms;
        let unfit = node.replica.as_ref().and_then(|replica| unfit(replica, draft, mono_ms, &self.ledger));
        self.step(index, Event::Submit(index as u64, draft.clone()), outcomes)?;
        let node = &mut self.nodes[index];
        let (Some(replica), Some(answer)) = (&node.replica, node.answer.take()) else {
            let detail = format!("node {index} gave none");
            return Err(Violation { invariant: "every draft is answered at once", detail });
        };
        answer_is_right(replica, || self.ledger.ops_of(replica), before, draft, &answer)?;
        if let Some(unfit) = unfit.filter(|_| self.checks && answer.is_ok()) {
            return Err(unfit);
        }
        let retired = answer.is_ok() && matches!(draft.commands[..], [Command::Retire]);
        if self.checks && retired { self.has_shared(index) } else { Ok(()) }
    }

    fn accept(&mut self, dial: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(found) = self.dials.get(dial) else { return Ok(()) };
        let Some(target) = self.at(&found.endpoint) else { return Ok(()) };
        let (near, far) = (self.ends.len(), self.ends.len() + 1);
        let since_ms = self.now_ms;
        let key = |node: usize| self.nodes[node].replica.as_ref().map(|replica| key_of(replica.node()));
        let keys = |own, peer| Some(LinkKeys { own: key(own)?, peer: key(peer)? }).filter(|_| self.keyed == Some(true));
        let end = |node, peer, stage, keys| End { node, peer, stage, keys, since_ms, out: BTreeMap::new(), next: 0 };
        let dialled = end(found.node, far, Stage::Dialled, keys(found.node, target));
        let keys = keys(target, found.node);
        if keys.is_none() && self.keyed == Some(true) {
            // Who dialled is gone, and proves nothing any more.
            return Ok(());
        }
        self.ends.push(dialled);
        self.ends.push(end(target, near, Stage::Open, keys));
        self.dials[dial].end = Some(near);
        self.at_end(far, |link| Event::Opened(link, None, keys), outcomes)
    }

    fn connected(&mut self, dial: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(Dial { node, endpoint, end: Some(end) }) = self.dials.get(dial) else { return Ok(()) };
        let (node, endpoint, end) = (*node, endpoint.clone(), *end);
        if self.nodes[node].replica.is_none() || self.ends[end].stage != Stage::Dialled {
            return Ok(());
        }
        (self.ends[end].stage, self.ends[end].since_ms) = (Stage::Open, self.now_ms);
        let keys = self.ends[end].keys;
        self.at_end(end, |link| Event::Opened(link, Some(endpoint), keys), outcomes)
    }

    fn dial_failed(&mut self, dial: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(Dial { node, endpoint, .. }) = self.dials.get(dial) else { return Ok(()) };
        self.step(*node, Event::DialFailed(endpoint.clone(), "no answer".into()), outcomes)
    }

    fn resolved(&mut self, dial: usize, addresses: &[String], outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(Dial { node, endpoint, .. }) = self.dials.get(dial) else { return Ok(()) };
        self.step(*node, Event::Resolved(endpoint.url.clone(), addresses.to_vec()), outcomes)
    }

    /// Nodes that founded pools because they could not find each other yet are one pool once they can, with all that was
    /// written meanwhile.
    fn united(&self) -> Result<(), Violation> {
        let invariant = "empty pools that name each other merge into one";
        let pools: BTreeSet<_> = self.live().map(|(_, replica)| replica.pool()).collect();
        let waiting = self.live().find(|(_, replica)| replica.standing() != Standing::Member);
        if pools.len() > 1 || waiting.is_some() {
            let views = self.live().map(|(node, replica)| view(node, replica)).collect::<String>();
            return Err(Violation { invariant, detail: format!("there are {} pools{views}", pools.len()) });
        }
        self.live().try_for_each(|(_, replica)| self.ledger.acknowledged_is_there(replica))
    }

    fn arrive(&mut self, end: usize, parcel: Option<Parcel>, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(parcel) = parcel else { return Ok(()) };
        let to = self.ends[end].peer;
        match (self.ends[to].stage, parcel) {
            (Stage::Open, Parcel::Message(message)) => {
                let before = self.member_on_its_own(to);
                self.at_end(to, |link| Event::Heard(link, message), outcomes)?;
                before.map_or(Ok(()), |before| self.keeps_id(end, before))
            }
            (Stage::Open, Parcel::Close) => self.reset(to, outcomes),
            // A process that is gone, or has closed, answers with a reset; so its peer need not wait for silence.
            (Stage::Gone, Parcel::Message(_)) => {
                close(&mut self.ends, to, outcomes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The id of the member at an end, if no operator has told it to join somebody.
    fn member_on_its_own(&self, end: usize) -> Option<NodeId> {
        let node = &self.nodes[self.ends[end].node];
        let replica = node.replica.as_ref().filter(|_| self.checks && !node.told)?;
        let decides = !replica.assembly().remaining.is_empty() && replica.standing() == Standing::Member;
        decides.then(|| replica.node())
    }

    /// A member has taken a message that was sent from this end: it gives up its id only if the sender has been a member.
    fn keeps_id(&self, from: usize, before: NodeId) -> Result<(), Violation> {
        let End { node: sender, peer, .. } = self.ends[from];
        let taker = self.nodes[self.ends[peer].node].replica.as_ref();
        let gave_up = taker.is_some_and(|replica| replica.node() != before && replica.counters().reborn > 0);
        if !gave_up || self.nodes[sender].was_member {
            return Ok(());
        }
        let detail = format!("{before} comes back as another on the word of node {sender}, which has yet to get in");
        Err(Violation { invariant: "a member gives up its id only on the word of a member", detail })
    }

    fn garble(&mut self, end: usize, number: u64, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let parcel = self.ends.get_mut(end).and_then(|end| end.out.remove(&number));
        let Some(Parcel::Message(message)) = parcel else { return self.arrive(end, parcel, outcomes) };
        let frame = wire::encode(&message);
        let Err(error) = wire::decode(&frame[..frame.len() - 1]) else {
            let detail = format!("{message:?} without its last byte");
            return Err(Violation { invariant: "a frame that is cut short is no message", detail });
        };
        self.at_end(self.ends[end].peer, |link| Event::Broken(link, error), outcomes)
    }

    fn reset(&mut self, end: usize, outcomes: &mut Vec<Outcome>) -> Result<(), Violation> {
        let Some(End { node, stage, .. }) = self.ends.get_mut(end) else { return Ok(()) };
        if *stage != Stage::Open {
            return Ok(());
        }
        *stage = Stage::Gone;
        let node = *node;
        self.step(node, Event::Closed(LinkId(end as u64)), outcomes)
    }

    fn audit(&self, node: usize) -> Result<(), Violation> {
        let Some(Node { replica: Some(replica), watch, .. }) = self.nodes.get(node) else { return Ok(()) };
        // Of a node that came back from an old copy of its disk not all ops are known; one whose documents have holes serves
        // nobody.
        if let Some(ops) = self.ledger.ops_of(replica).filter(|_| !replica.is_spoilt()) {
            Model::fold(ops.into_iter()).compare(replica)?;
        }
        if self.checks { watch.a_subscriber_ends_with_the_documents(replica) } else { Ok(()) }
    }

    /// What must hold once the network has been whole for long.
    fn quiet(&self) -> Result<(), Violation> {
        for (index, replica) in self.live() {
            if replica.standing() != Standing::Member || !self.may_wait(replica) {
                let detail = format!("node {index} is {:?}, and {} ops wait", replica.standing(), replica.early());
                return Err(Violation { invariant: "everyone becomes a member and nothing waits", detail });
            }
        }
        let mut ids = BTreeSet::new();
        if let Some((index, replica)) = self.live().find(|(_, replica)| !ids.insert(replica.node())) {
            let detail = format!("node {index} is {}, and so is another", replica.node());
            return Err(Violation { invariant: "of two processes with one id one comes back as another", detail });
        }
        self.all_hold_the_same_log("once quiet all hold the same log")?;
        if let Some((index, replica)) = self.live().find(|(_, replica)| !is_all_final(replica)) {
            let holdups = replica.held_back_by(replica.clock());
            let detail = format!("node {index} is final to {} of {}, {holdups:?}", replica.frontier(), replica.clock());
            return Err(Violation { invariant: "once quiet everything is final", detail });
        }
        self.rooms_agree()?;
        if self.checks {
            self.live().try_for_each(|(_, replica)| self.ledger.finals_stand(replica))?;
            // Of what a damaged disk has lost, and of keys that have ended, nothing can be told.
            let tells = |(node, _): &(usize, &Replica)| self.remembers && !self.nodes[*node].disk.lost;
            self.live().filter(tells).try_for_each(|(_, replica)| self.ledger.acknowledged_is_there(replica))?;
            self.live().filter(tells).try_for_each(|(_, replica)| self.ledger.carried_is_there(replica))?;
        }
        let mut live = self.live();
        let Some((first, model)) = live.next() else { return Ok(()) };
        live.try_for_each(|(other, replica)| same_states((first, model), (other, replica)))?;
        self.live().try_for_each(|(index, _)| self.audit(index))
    }

    /// Nothing waits for ever, but for ops of nodes that vanished together with what these ops rest on, or were cut off.
    fn may_wait(&self, replica: &Replica) -> bool {
        let left = replica.roster().len() < replica.roster().all().len();
        replica.early() == 0 || left || self.nodes.iter().any(|node| node.replica.is_none())
    }

    fn all_hold_the_same_log(&self, invariant: &'static str) -> Result<(), Violation> {
        let mut live = self.live();
        let Some((first, model)) = live.next() else { return Ok(()) };
        for (other, replica) in live {
            if replica.log().digest() != model.log().digest() || replica.pool() != model.pool() {
                let (ours, theirs) = (model.log().len(), replica.log().len());
                let views = self.live().map(|(node, replica)| view(node, replica)).collect::<String>();
                let detail = format!("node {first} holds {ours} ops, node {other} {theirs}, or others{views}");
                return Err(Violation { invariant, detail });
            }
        }
        Ok(())
    }
}

/// What a node makes of the pool.
fn view(node: usize, replica: &Replica) -> String {
    let Assembly { remaining, pending, outcast, .. } = replica.assembly();
    let short =
        |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.to_string()[..4].to_string()).collect::<Vec<_>>();
    let standing = if *outcast { "outcast".into() } else { format!("{:?}", replica.standing()) };
    let (id, remaining, pending) = (&replica.node().to_string()[..4], short(remaining), short(pending));
    format!(
        "; node {node} is {id}, {standing}, remaining {remaining:?}, pending {pending:?}, early {}",
        replica.early()
    )
}

impl Node {
    /// The places in its journal of its own ops since it knows another member. Alone it could call final, and forget, what the
    /// others have another history of.
    pub fn own_records(&self) -> Vec<usize> {
        let Some(replica) = &self.replica else { return Vec::new() };
        let own = |op: &Op| op.origin() == replica.node();
        let ops = self.disk.records.iter().enumerate();
        let ops = ops.filter_map(|(at, record)| if let Record::Op(op) = record { Some((at, op)) } else { None });
        let first = self.disk.joined();
        ops.filter(|(at, op)| *at >= first && own(op)).map(|(at, _)| at).collect()
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.outbox.next(self.disk.stored as u64)
    }
}

/// Whom a node has evicted behind this op, and how.
fn evicted_since(replica: &Replica, after: OpId) -> Vec<Eviction> {
    let evicted = |op: &Op| match op.body().commands.first() {
        Some(Command::Evict(eviction)) => Some(*eviction),
        _ => None,
    };
    replica.log().beyond(std::iter::once((after.origin, after.seq))).filter_map(evicted).collect()
}

fn is_all_final(replica: &Replica) -> bool {
    let last = replica.log().heads().filter_map(|(origin, _)| replica.log().last_of(origin)).map(Op::time).max();
    last.is_none_or(|last| last <= replica.frontier())
}

fn send(
    ends: &mut [End],
    trace: &mut blake3::Hasher,
    number: usize,
    message: Message,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Violation> {
    let Some(end) = ends.get_mut(number).filter(|end| end.stage == Stage::Open) else { return Ok(()) };
    let frame = wire::encode(&message);
    trace.update(&frame);
    let read = wire::decode(&frame);
    let Ok(heard) = read else {
        let detail = format!("{message:?} is refused: {read:?}");
        return Err(Violation { invariant: "a message survives its frame", detail });
    };
    if heard != message {
        return Err(Violation { invariant: "a message survives its frame", detail: format!("{message:?}") });
    }
    outcomes.push(match &heard {
        Message::Presence(_) | Message::Attendance(_) => Outcome::Showed { end: number, number: end.next },
        _ => Outcome::Sent { end: number, number: end.next, ops: heard.is_batch(), close: false },
    });
    end.out.insert(end.next, Parcel::Message(heard));
    end.next += 1;
    Ok(())
}

/// Ends a link from this side: the other learns of it behind all that was sent.
fn close(ends: &mut [End], number: usize, outcomes: &mut Vec<Outcome>) {
    let Some(end) = ends.get_mut(number) else { return };
    end.stage = Stage::Gone;
    outcomes.push(Outcome::Sent { end: number, number: end.next, ops: false, close: true });
    end.out.insert(end.next, Parcel::Close);
    end.next += 1;
}

/// Byte for byte the same documents, verdicts, members and counts.
fn same_states(ours: (usize, &Replica), theirs: (usize, &Replica)) -> Result<(), Violation> {
    let (left, right) = (ours.1.state(), theirs.1.state());
    let differs = |what: String| {
        let detail = format!("nodes {} and {} differ in {what}", ours.0, theirs.0);
        Err(Violation { invariant: "equal logs make equal states", detail })
    };
    let shown = |view: &View| (view.id.clone(), view.text.clone(), view.stamp);
    if !left.collections().eq(right.collections()) {
        return differs("their collections".into());
    }
    for (name, _) in left.collections() {
        let (left, right) = (left.scan(name, None, usize::MAX).0, right.scan(name, None, usize::MAX).0);
        if let Some((left, right)) = left.iter().zip(&right).find(|(left, right)| shown(left) != shown(right)) {
            return differs(format!("{left:?} and {right:?}"));
        }
    }
    let horizon = ours.1.horizon().max(theirs.1.horizon());
    let known = |(stamp, _): &(&Stamp, &Reason)| stamp.time > horizon;
    if !left.rejected().filter(known).eq(right.rejected().filter(known)) {
        return differs("the rejected ops".into());
    }
    if left.digest() != right.digest() {
        return differs("the digests of their documents".into());
    }
    if ours.1.roster().agrees(theirs.1.roster()) { Ok(()) } else { differs("the members".into()) }
}

/// The key of an id. The copies of a data directory have the same.
fn key_of(node: NodeId) -> PublicKey {
    PublicKey(*blake3::hash(node.0.as_bytes()).as_bytes())
}

/// A receipt says what was written, whatever has come after it; a refusal leaves nothing behind. `ops` are all that the node
/// holds or has forgotten, if they are known.
fn answer_is_right<'a>(
    replica: &Replica,
    ops: impl FnOnce() -> Option<Vec<&'a Op>>,
    before: usize,
    draft: &Draft,
    answer: &Result<Receipt, Refused>,
) -> Result<(), Violation> {
    // In the same step evictions may be answered, too.
    let own = replica.log().after(Stamp { time: 0, origin: replica.node() }, Some(replica.node()));
    let new: Vec<&Op> = own.collect();
    let new = new.iter().rev().take(replica.log().len() - before);
    let issued = new
        .filter(|op| !matches!(op.body().commands[..], [Command::Fence(..) | Command::Removed(_) | Command::Key(..)]))
        .count();
    let wrong = |detail: String| Err(Violation { invariant: "an answer says what was done", detail });
    let receipt = match answer {
        Err(_) if issued == 0 => return Ok(()),
        Err(refused) => return wrong(format!("{refused:?}, and yet {issued} ops were issued")),
        Ok(receipt) => receipt,
    };
    let Some(op) = replica.log().get(receipt.op) else {
        let forgotten = draft.key.is_some() && receipt.stamp.time <= replica.horizon() && issued == 0;
        return if forgotten { Ok(()) } else { wrong(format!("{} is not held", receipt.op)) };
    };
    let body = op.body();
    let carried =
        body.commands == draft.commands && body.guards == draft.guards && body.key_text() == draft.key.as_deref();
    if !carried || receipt.stamp != op.stamp() {
        return wrong(format!("{receipt:?} is not of {draft:?}"));
    }
    let repeated = issued == 0 && draft.key.is_some();
    let fresh = issued == 1 && op.origin() == replica.config().node && receipt.verdict == Ok(());
    // Where every member is evicted, force lets the node go on: the other ops are of its new id.
    let takes_over = matches!(draft.commands[..], [Command::Evict(Eviction { force: true, .. })])
        && op.origin() == replica.node()
        && replica.counters().took_over > 0;
    if !repeated && !fresh && !takes_over {
        return wrong(format!("{receipt:?} with {issued} ops issued"));
    }
    let model = if repeated {
        let Some(ops) = ops() else { return Ok(()) };
        Some(Model::fold(ops.into_iter().filter(|op| op.stamp() <= receipt.stamp)))
    } else {
        None
    };
    // Nothing has come after an op that was issued a moment ago.
    let now = |doc: &DocKey<'_>| replica.state().text(&doc.collection, &doc.id).map(|text| Version::of(text.as_str()));
    let stored = |doc: &DocKey<'_>| model.as_ref().map_or_else(|| now(doc), |model| model.version_of(doc));
    let mut documents = receipt.documents.clone();
    while !documents.replays.advance() {}
    match documents.versions().find(|(doc, version)| stored(doc) != *version) {
        Some((doc, version)) => wrong(format!("{doc:?} was not in version {version:?} after {}", receipt.op)),
        None => Ok(()),
    }
}
