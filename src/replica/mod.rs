//! The replica: one node's part in the pool, as a pure state machine.
//!
//! It rests on `op`, `document` and `wire`, and holds no socket, file, clock, task or lock. [`Replica::handle`] takes
//! one event and the time, and returns effects; the shell and the simulator carry them out alike.

mod addresses;
mod causality;
mod copies;
mod dispute;
mod dump;
mod early;
mod finality;
mod gossip;
mod keys;
mod leaving;
mod link;
mod linking;
mod log;
mod membership;
mod outbox;
mod peers;
mod presence;
mod pulse;
mod rebirth;
mod recovery;
mod roster;
mod showing;
mod status;
mod transfer;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

pub use addresses::is_local;
pub use causality::Causality;
pub use dump::{Dump, DumpGone};
pub use early::{EARLY_BYTES_MAX, EARLY_OPS_MAX};
pub use finality::Holdup;
pub use keys::LinkKeys;
pub use leaving::Unshared;
pub use link::LinkId;
pub use log::Log;
pub use outbox::Outbox;
pub use peers::{ADDRESSES_MAX, DIALLED_MAX, Endpoint, FULL_MESH_MAX, LINKS_MAX};
pub use presence::{PRESENCE_BYTES_MAX, PRESENT_OF_NODE_MAX, Presence, Seen, Unseen};
pub use pulse::BEAT_MS;
pub use recovery::Recovery;
pub use roster::{Assembly, Member, Roster};
pub use status::{LinkState, MemberStatus};

use self::{early::Early, finality::Finality, link::Link, peers::Peers, rebirth::Orphan, transfer::Fetch};
use crate::{
    document::{Claim, Fault, Reason, Replays, State, Text, Verdict, check, cost, prose::Updates, request},
    op::{
        Body, Command, DRAFT_BYTES_MAX, DocKey, Eviction, Guard, Hash, IdempotencyKey, KEY_SPAN, Newcomer, NodeId, Op,
        OpError, OpId, PoolId, PublicKey, Stamp, TIME_MAX,
    },
    plant::{Rule, left_out, span_squeezed, step_squeezed},
    record::{Identity, Record},
    version::Version,
    wire::{Message, Pulse},
};

/// How often the shell sends [`Event::Tick`], in milliseconds.
pub const TICK_MS: u64 = 100;
/// How long a [`Event::Pin`] lasts, in milliseconds.
pub const PIN_MS: u64 = 10_000;
/// How many Lamport times a node reserves in its journal at once, beyond the one that it needs: none at its start, then the
/// first of these, and twice as many each time up to the second. So one that starts again and again uses up few, for
/// it comes back behind all that it has reserved, and a busy one seldom has to reserve more.
const CEILING_STEPS: (u64, u64) = (64, 4_096);
/// A node that founds its pool if it finds none looks for one this long.
pub const FOUND_AFTER_MS: u64 = 2_000;
/// Most ids, one after the other, under which an op is looked for that was issued again.
const RENAMES_MAX: usize = 8;

/// How a node begins. Each field is checked by whoever reads it from the outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id; never used before.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where others can dial it: `http://host:port`, none if they cannot.
    pub urls: Vec<String>,
    /// Where to look for a pool.
    pub join: Vec<String>,
    /// Whether to found a pool: at once if there is nowhere to look, else when none of the targets answers.
    pub found: bool,
    /// How many nodes must have greeted each other before one of them founds a pool, itself among them. 0 and 1 are the same.
    pub found_with: usize,
    /// The name of the pool to found, and the only one to join; any, if there is none.
    pub pool: Option<String>,
    /// Seed of the node's random choices: whom to dial, and how long to wait.
    pub seed: u64,
    /// How much of what is final stays in the log.
    pub retention: Retention,
    /// For how many milliseconds no remaining member has heard of a member that is then evicted, if that is wanted.
    pub evict_after_ms: Option<u64>,
    /// The span, in Lamport times, in which all nodes remember the idempotency keys of its clients; at most [`KEY_SPAN`].
    pub key_span: u64,
}

impl Config {
    /// A node that founds a pool, and that nobody can dial.
    pub fn founder(node: NodeId, seed: u64) -> Config {
        Config {
            node,
            name: "node".into(),
            urls: Vec::new(),
            join: Vec::new(),
            found: true,
            found_with: 1,
            pool: None,
            seed,
            retention: Retention::default(),
            evict_after_ms: None,
            key_span: KEY_SPAN,
        }
    }
}

/// How much of the log stays once it is final, for those who look back and those who have fallen behind: as many ops as both
/// bounds let stay. Ops that are not final always stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most final ops. From 0 on; each costs its length and some 60 bytes. Default: 100,000.
    pub ops: usize,
    /// Most bytes of them. Default: 64 MiB.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { ops: 100_000, bytes: 64 << 20 }
    }
}

/// The two clocks, read by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Milliseconds on a clock that never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970. It bounds the times that peers can send, and is information otherwise.
    pub wall_ms: u64,
}

/// Lamport times per millisecond: more than any pool issues, so a clock at the bound can still count every operation.
const TIMES_PER_MS: u64 = 1_024;
/// The start of the bound, 2020-01-01, in milliseconds since 1970.
const BOUND_START_MS: u64 = 1_577_836_800_000;
/// The earliest wall clock time that is believed, 2026-01-01: some machines start in 1970.
const WALL_MS_MIN: u64 = 1_767_225_600_000;

impl Now {
    /// The greatest Lamport time that is accepted from a peer now.
    ///
    /// The bound grows with the wall clock, by [`TIMES_PER_MS`] since 2020. Peers can drive a clock up to it and no further, so the
    /// times below [`TIME_MAX`] last for 279 years, whatever they send. No honest pool gets near it.
    pub fn time_bound(self) -> u64 {
        let since_ms = self.wall_ms.max(WALL_MS_MIN) - BOUND_START_MS;
        since_ms.saturating_mul(TIMES_PER_MS).min(TIME_MAX - 1)
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Idempotency key.
    pub key: Option<String>,
    /// Must hold for the op to be issued, and at its place ever after.
    pub guards: Vec<Guard<'static>>,
    /// What to do.
    pub commands: Vec<Command<'static>>,
    /// Whether the first command's document must exist now; unlike a guard this is not asked again at its place.
    pub present: bool,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time went by.
    Tick,
    /// A client asks for an op; answered by [`Effect::Receipt`] with the same ticket.
    Submit(u64, Draft),
    /// An operator names a place to join, or to link to.
    Join(String),
    /// An operator cuts the links, or joins them again.
    Cut(bool),
    /// Somebody waits until everything up to this time is final.
    Hurry(u64),
    /// A client of this node, which names it so, shows itself in a room, or shows something else; with no state it is gone.
    /// Whoever asks has asked [`Replica::may_show`] first: what may not be is passed over.
    Present {
        /// The room.
        room: String,
        /// The client; no other connection has this name.
        client: String,
        /// What it shows.
        state: Option<String>,
    },
    /// Somebody waits to hear which members hold this node's ops up to this seq.
    Ask(u64),
    /// The journal has grown long: a snapshot is to take the place of what is in it.
    Compact,
    /// All records are stored: a snapshot that is under way may go on.
    Stored,
    /// Somebody is taking a snapshot of this time: for another [`PIN_MS`], the log keeps what comes after it.
    Pin(u64),
    /// Memory is short, or no longer: while it is, nothing stays that is kept only for those who look back.
    Tight(bool),
    /// Somebody has merged updates of a text, as [`State::to_merge`] asks for, or could not.
    Merged {
        /// The text.
        doc: DocKey<'static>,
        /// The updates.
        updates: Updates,
        /// What they were merged to.
        merged: Option<Vec<u8>>,
    },
    /// The static key that this node proves on its links under its present id; where the pool has a secret, given at the start and
    /// right after each change of the id.
    Key(PublicKey),
    /// A link came about; with the place if this node dialled it, and with the static keys that its two ends have proved, if the pool
    /// has a secret.
    Opened(LinkId, Option<Endpoint>, Option<LinkKeys>),
    /// A dial came to nothing; the text says why.
    DialFailed(Endpoint, String),
    /// The URL of a dial holds a name, and these are its addresses: each is to be dialled.
    Resolved(String, Vec<String>),
    /// A message came in.
    Heard(LinkId, Message),
    /// A frame came in that is no message; the text says why.
    Broken(LinkId, crate::wire::WireError),
    /// The last batch of ops has gone out to the socket.
    Flushed(LinkId),
    /// The last message about presence has.
    Shown(LinkId),
    /// A link is gone.
    Closed(LinkId),
}

/// What is to be done, in this order. Nothing may leave the node before what stands before it here is stored: then a
/// crash takes nothing back that anyone was told (Nightingale et al. 2006, "Rethink the Sync", calls it output commit).
#[derive(Clone, Debug)]
pub enum Effect {
    /// Put a record behind the others of the journal. A node that keeps its data in memory only drops it.
    Store(Record),
    /// Send a message.
    Send(LinkId, Message),
    /// Close a link once what was sent has gone out. No [`Event::Closed`] is expected.
    Close(LinkId),
    /// Dial a place; answered by [`Event::Opened`] or [`Event::DialFailed`], or by [`Event::Resolved`] where its name is yet to be
    /// looked up.
    Dial(Endpoint),
    /// Answer a client.
    Receipt(u64, Result<Receipt, Refused>),
}

/// What a writer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The op.
    pub op: OpId,
    /// Its place.
    pub stamp: Stamp,
    /// Its verdict, as it stands.
    pub verdict: Verdict,
    /// The documents it writes. Empty if the verdict is a rejection, or if the op is forgotten.
    pub documents: Written,
    /// Whether the first of these documents came to be with this op.
    pub created: bool,
    /// Whether the verdict can no longer change.
    pub is_final: bool,
}

/// The status of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpStatus {
    /// The op, as it was issued last.
    pub op: OpId,
    /// Its place.
    pub stamp: Stamp,
    /// True if it has effect there.
    pub applied: bool,
    /// True if its verdict can no longer change.
    pub is_final: bool,
}

impl Receipt {
    /// The receipt of an op that is final and forgotten.
    pub fn of_forgotten(op: OpId, stamp: Stamp, applied: bool) -> Receipt {
        let why = || "it was rejected long ago; why is forgotten".to_string();
        let verdict = if applied { Ok(()) } else { Err(Reason::Command { index: 0, why: why() }) };
        Receipt { op, stamp, verdict, documents: Written::default(), created: false, is_final: true }
    }
}

/// The documents that an op writes, each as it is right after the op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    docs: Vec<DocKey<'static>>,
    /// Their texts, in this order. It is known at once for an op that was issued just now; else ops may have to be carried
    /// out again.
    pub replays: Replays,
}

impl Written {
    /// The documents with their versions, as far as they are worked out; no version if the op deletes one.
    pub fn versions(&self) -> impl Iterator<Item = (&DocKey<'static>, Option<Version>)> {
        let version = |text: Option<&Text>| text.map(|text| Version::of(text.as_str()));
        self.docs.iter().zip(self.replays.texts().map(version))
    }
}

/// Why an op was not issued. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The node has no pool yet, or does not hold its data yet.
    NotReady,
    /// The node has left its pool.
    Retired,
    /// The document does not exist, and the draft says it must.
    Absent,
    /// It would have no effect as things stand.
    Rejected(Reason),
    /// Its idempotency key belongs to another request.
    KeyReused(OpId),
    /// Its content cannot be carried out.
    Fault(Fault),
    /// Too long, or too many steps.
    Op(OpError),
    /// The disk has no room for it.
    DiskFull,
    /// The process takes as much memory as it may.
    MemoryFull,
    /// The member list cannot be changed like this.
    Membership(NodeId, Unfit),
    /// A client cannot show itself like this.
    Unseen(Unseen),
}

/// Why a change of the member list was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Nobody of this id ever was a member.
    Unknown,
    /// A node does not evict itself: it retires.
    Oneself,
    /// The member was heard of a moment ago.
    Alive,
    /// The members that would remain and are heard, with this node, are no majority.
    NoMajority,
    /// The last member does not leave: the pool would go with it.
    Last,
    /// Operations of the node that would retire are held by no other member yet.
    Unshared(Unshared),
    /// Without the node that would retire, the members that are heard are no majority, and could not evict those that are silent.
    Needed,
    /// Only nodes make members.
    NotForClients,
}

/// How far a node is in becoming a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It looks for a pool.
    Joining,
    /// It has a pool, but not yet all that its sponsor held.
    CatchingUp,
    /// It takes reads and writes.
    Member,
    /// It has left the pool.
    Retired,
}

/// How many things happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Ops that came in frames.
    pub heard: u64,
    /// Of these, how many were held already.
    pub duplicates: u64,
    /// Of these, how many had to wait for others.
    pub early: u64,
    /// Ops that were inserted before others.
    pub late: u64,
    /// Times that missing ops were asked for again.
    pub repairs: u64,
    /// Times that the node had to come back under a new id.
    pub reborn: u64,
    /// Times that it has joined again under a new id because it had retired.
    pub rejoined: u64,
    /// Times that it has gone on under a new id because every member was evicted.
    pub took_over: u64,
    /// Times that the node gave its empty pool up for another.
    pub merged: u64,
    /// Times that a peer with the same log had other documents.
    pub discrepancies: u64,
    /// Times that this node's documents were the wrong ones, and were folded anew.
    pub mended: u64,
    /// Times that it began with a snapshot of a peer.
    pub adopted: u64,
    /// Times that a peer has said how many of this node's ops it holds, because somebody waits for that.
    pub held: u64,
}

/// One node's part in the pool.
///
/// Input: [`Event`]s, one at a time, with the time. Output: [`Effect`]s, to be carried out in their order. An own op
/// is in the log, in the documents and in the journal before its receipt is given and before it is sent. Between two events the
/// replica is consistent and may be read through its accessors; nothing but [`Replica::handle`] changes it.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    pool: Option<(PoolId, String)>,
    clock: u64,
    /// No time past this one is issued or announced before a greater one is in the journal.
    ceiling: u64,
    /// How many times more than it needs it reserves next.
    step: u64,
    log: Log,
    state: State,
    roster: Roster,
    /// Whether the roster has changed since the last look at what it means.
    roster_moved: bool,
    finality: Finality,
    /// The first part of its pulses' counts.
    run: u64,
    /// The number of this process, as long as it lives, and those that others were heard as.
    process: u64,
    processes: copies::Processes,
    /// When it has let in whom.
    let_in: BTreeMap<NodeId, u64>,
    /// Where among the members that have moved it goes on repeating their addresses.
    repeated: usize,
    early: Early,
    /// Heads that grew since this node's last op: the `seen` of its next.
    unseen: BTreeMap<NodeId, u64>,
    /// The ops that no held op has seen: holding them is holding everything.
    tips: BTreeMap<NodeId, u64>,
    ready: bool,
    /// Whether it took its pool from a peer's hello, and has not got in yet.
    provisional: bool,
    /// Until when it counts as linked to a member of the pool for which it gave its own up.
    hosted_until_ms: u64,
    /// Whether ops of its own may come from peers: it came back from a journal that may be an old copy, and has issued
    /// nothing since.
    takes_back: bool,
    /// How many ops of its own it came back with: an old copy of its disk is the past of another as far as that.
    resumed_at: u64,
    /// The same as its journal has it, until a peer takes what came since for this node's history.
    unconfirmed: Option<u64>,
    /// The static key that it proves on its links under its present id.
    key: Option<PublicKey>,
    /// The ids that it had to give up, what it issued under them and has yet to issue again, and as what it has.
    former: BTreeSet<NodeId>,
    /// Ids that nobody runs under any more: this node has had them, or other nodes in its data directory before it.
    gave_up: BTreeSet<NodeId>,
    /// Ids that it takes first where it must come back as another: its data directory names them.
    spare: Vec<NodeId>,
    orphans: Vec<Orphan>,
    reissued: BTreeMap<OpId, OpId>,
    /// Whom it takes all it lacks from, until it is ready.
    host: Option<LinkId>,
    /// The snapshot that it is being sent, because it lacks what the others have forgotten.
    fetch: Option<Fetch>,
    /// Whether its documents have holes: a part of the snapshot in its journal was lost.
    spoilt: bool,
    /// Whether two others with the same log agree on other documents.
    doubtful: bool,
    /// The snapshot that it is writing to its journal, and the time of the last one.
    compacting: Option<Dump>,
    compacted: u64,
    /// Whether its journal was damaged, and is better written anew.
    rewrites: bool,
    /// Times of snapshots that somebody takes: since when, and until when, these hold the log.
    pins: BTreeMap<u64, (u64, u64)>,
    /// Whether memory is short.
    tight: bool,
    /// Where an operator wants this node to be.
    moving_to: Option<String>,
    dead_end: membership::DeadEnd,
    disputes: dispute::Disputes,
    /// Whether it has retired in an earlier run, and is to join its pool again as another.
    rejoins: bool,
    signs: membership::Signs,
    cut: bool,
    links: BTreeMap<LinkId, Link>,
    peers: Peers,
    pulses: BTreeMap<NodeId, (Pulse, u64)>,
    presence: Presence,
    /// The digest of the log from which the documents were last folded anew.
    refolded: Option<Hash>,
    started_ms: Option<u64>,
    /// Since when it has listened to the members under its present id.
    listens_since_ms: Option<u64>,
    beat_ms: u64,
    pulse_ms: u64,
    rng: fastrand::Rng,
    counters: Counters,
    now: Now,
    effects: Vec<Effect>,
}

impl Replica {
    /// A node with an empty log. It founds or looks for its pool at the first event.
    pub fn new(config: Config) -> Replica {
        let mut peers = Peers::default();
        config.join.iter().for_each(|url| peers.give(url));
        Replica {
            rng: fastrand::Rng::with_seed(config.seed),
            process: copies::process_number(config.seed, 0),
            processes: copies::Processes::new(),
            let_in: BTreeMap::new(),
            repeated: 0,
            config,
            pool: None,
            clock: 0,
            ceiling: 0,
            step: 0,
            log: Log::default(),
            state: State::default(),
            roster: Roster::default(),
            roster_moved: false,
            finality: Finality::default(),
            run: 0,
            early: Early::default(),
            unseen: BTreeMap::new(),
            tips: BTreeMap::new(),
            ready: false,
            provisional: false,
            hosted_until_ms: 0,
            takes_back: false,
            resumed_at: 0,
            unconfirmed: None,
            key: None,
            former: BTreeSet::new(),
            gave_up: BTreeSet::new(),
            spare: Vec::new(),
            orphans: Vec::new(),
            reissued: BTreeMap::new(),
            host: None,
            fetch: None,
            spoilt: false,
            doubtful: false,
            compacting: None,
            compacted: 0,
            rewrites: false,
            pins: BTreeMap::new(),
            tight: false,
            moving_to: None,
            dead_end: membership::DeadEnd::default(),
            disputes: dispute::Disputes::default(),
            rejoins: false,
            signs: membership::Signs::default(),
            cut: false,
            links: BTreeMap::new(),
            peers,
            pulses: BTreeMap::new(),
            presence: Presence::default(),
            refolded: None,
            started_ms: None,
            listens_since_ms: None,
            beat_ms: 0,
            pulse_ms: 0,
            counters: Counters::default(),
            now: Now::default(),
            effects: Vec::new(),
        }
    }

    /// With what its data directory says: under which ids nodes have run there, and which ids there are for this one should it
    /// need others.
    #[must_use]
    pub fn with_ids(mut self, had: impl IntoIterator<Item = NodeId>, spare: Vec<NodeId>) -> Replica {
        self.gave_up.extend(had);
        self.gave_up.remove(&self.config.node);
        self.spare = spare;
        self
    }

    /// Takes one event and returns what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        if self.started_ms.is_none() {
            self.started_ms = Some(now.mono_ms);
            if self.may_found() && self.config.join.is_empty() && self.found_waits().is_none() {
                self.found();
            }
        }
        // Before anything is issued: what is done in this step is there at its end.
        self.settle_portion();
        match event {
            Event::Tick => self.on_tick(),
            Event::Submit(ticket, draft) => self.on_submit(ticket, draft),
            Event::Join(url) => self.on_join(&url),
            Event::Cut(cut) => self.on_cut(cut),
            Event::Hurry(time) => self.hurry(time.min(self.clock)),
            Event::Present { room, client, state } => self.on_present(&room, &client, state.as_deref()),
            Event::Ask(seq) => self.ask(seq),
            Event::Compact => self.on_compact(),
            Event::Stored => self.go_on_compacting(),
            Event::Pin(time) => self.pin(time),
            Event::Tight(tight) => self.on_tight(tight),
            Event::Merged { doc, updates, merged } => self.state.merge(&doc, &updates, merged),
            Event::Key(key) => self.on_key(key),
            Event::Opened(link, dialled, keys) => self.on_opened(link, dialled, keys),
            Event::DialFailed(endpoint, why) => self.on_dial_failed(&endpoint, why),
            Event::Resolved(url, addresses) => self.on_resolved(&url, addresses),
            Event::Heard(link, message) => self.on_heard(link, message),
            Event::Broken(link, error) => self.on_broken(link, &error),
            Event::Flushed(link) => self.on_flushed(link),
            Event::Shown(link) => self.on_shown(link),
            Event::Closed(link) => self.on_closed(link),
        }
        // In a large pool that is some work: it waits for the next beat, unless somebody waits for it.
        if self.roster.len() <= FULL_MESH_MAX || self.roster_moved || self.is_hasty() {
            self.advance();
        }
        self.announce_in_haste();
        self.show();
        self.reserve();
        std::mem::take(&mut self.effects)
    }

    /// Reserves more times when those that are recorded are used up; before anything that was said in this step.
    fn reserve(&mut self) {
        if self.clock > self.ceiling {
            self.ceiling = self.clock + step_squeezed(self.step);
            self.step = (2 * self.step).clamp(CEILING_STEPS.0, CEILING_STEPS.1);
            if !left_out(Rule::Ceiling) {
                self.effects.insert(0, Effect::Store(Record::Ceiling(self.ceiling)));
            }
            // Said more than once, so that no single bad byte costs it.
            self.effects.extend(self.identity().map(Record::Identity).map(Effect::Store));
        }
    }

    fn identity(&self) -> Option<Identity> {
        let (pool, pool_name) = self.pool.clone()?;
        Some(Identity { node: self.config.node, pool, pool_name })
    }

    /// Goes on under another id, as a newcomer that holds all this node does.
    fn rename(&mut self, node: NodeId) {
        self.config.node = node;
        self.unseen = self.log.heads().map(|(origin, head)| (origin, head.seq)).collect();
        (self.ready, self.takes_back, self.listens_since_ms) = (false, false, None);
        self.unconfirmed = None;
        self.signs = membership::Signs::default();
        if let Some(pool) = self.pool.clone() {
            self.enter(pool);
        }
    }

    /// Gives up all that it holds. What is recorded so far is void.
    fn forget(&mut self) {
        self.log = Log::default();
        self.state.clear();
        (self.roster, self.roster_moved, self.finality) = (Roster::default(), true, Finality::default());
        self.early = Early::default();
        self.tips.clear();
        self.unseen.clear();
        (self.pool, self.ready, self.takes_back, self.provisional) = (None, false, false, false);
        self.unconfirmed = None;
        (self.listens_since_ms, self.rejoins) = (None, false);
        self.signs = membership::Signs::default();
        (self.fetch, self.compacting, self.compacted) = (None, None, 0);
        (self.spoilt, self.doubtful) = (false, false);
        self.pins.clear();
        self.effects.push(Effect::Store(Record::Forget));
    }

    fn enter(&mut self, pool: (PoolId, String)) {
        self.pool = Some(pool);
        self.effects.extend(self.identity().map(Record::Identity).map(Effect::Store));
    }

    /// Issues the op that a client asks for, or says why not.
    fn on_submit(&mut self, ticket: u64, draft: Draft) {
        let answer = self.submit(draft);
        self.effects.push(Effect::Receipt(ticket, answer));
        self.pump_all();
    }

    /// The answer to a draft that needs no operation: its key was used before, or its document must exist and does not.
    pub fn known_answer(&self, draft: &Draft) -> Option<Result<Receipt, Refused>> {
        let held = draft.key.as_ref().and_then(|key| self.state.claim(key));
        if let Some(claim) = held.filter(|claim| !claim.has_ended(self.clock + 1)) {
            let same = claim.request == request(&draft.guards, &draft.commands);
            return Some(if same { Ok(self.repeated(claim)) } else { Err(Refused::KeyReused(claim.op)) });
        }
        (draft.present && self.creates(draft)).then_some(Err(Refused::Absent))
    }

    /// True if the document of the first command does not exist.
    fn creates(&self, draft: &Draft) -> bool {
        let absent = |doc: &DocKey<'_>| self.state.get(&doc.collection, &doc.id).is_none();
        draft.commands.first().and_then(Command::doc).is_some_and(absent)
    }

    fn submit(&mut self, draft: Draft) -> Result<Receipt, Refused> {
        match self.standing() {
            Standing::Member => {}
            Standing::Retired => return Err(Refused::Retired),
            Standing::Joining | Standing::CatchingUp => return Err(Refused::NotReady),
        }
        draft.commands.iter().try_for_each(|command| self.admit(command))?;
        if let Some(answer) = self.known_answer(&draft) {
            return answer;
        }
        let created = self.creates(&draft);
        let Draft { key, guards, commands, .. } = draft;
        if let Some(Command::Evict(Eviction { node, force: true })) = commands.first() {
            self.take_over(*node);
        }
        let body = self.body(key, guards, commands);
        cost::of_texts(&body).map_err(|costly| Refused::Rejected(costly.into()))?;
        check(&body).map_err(Refused::Fault)?;
        let op = self.next_op(&body)?;
        if op.bytes().len() > DRAFT_BYTES_MAX {
            return Err(Refused::Op(OpError::TooLong));
        }
        if body.is_unconditional() {
            self.issue(&op);
        } else {
            let prepared = self.state.prepare(&op).map_err(Refused::Rejected)?;
            self.log_own(&op);
            self.state.insert_prepared(&op, prepared);
        }
        self.advance();
        let receipt = self.receipt(op.id()).expect("issued just now");
        Ok(Receipt { created, ..receipt })
    }

    /// Whether a client may ask for this change of the member list, as things stand.
    fn admit(&self, command: &Command<'_>) -> Result<(), Refused> {
        let (node, own) = match command {
            Command::Evict(eviction) => (eviction.node, self.config.node),
            Command::Retire => return self.may_retire(),
            Command::Add(newcomer, _) => return Err(Refused::Membership(newcomer.node, Unfit::NotForClients)),
            Command::Fence(node, _) | Command::Removed(node) | Command::Key(node, _) => {
                return Err(Refused::Membership(*node, Unfit::NotForClients));
            }
            Command::Put(..) | Command::Merge(..) | Command::Patch(..) | Command::Delete(_) | Command::Text(..) => {
                return Ok(());
            }
        };
        let forced = matches!(command, Command::Evict(eviction) if eviction.force);
        let unfit = if !self.roster.knows(node) {
            Unfit::Unknown
        } else if node == own {
            Unfit::Oneself
        } else if !forced && !self.roster.is_gone(node) && self.is_heard(node, self.now.mono_ms) {
            Unfit::Alive
        } else if !forced && !self.leaves_majority(node) {
            Unfit::NoMajority
        } else {
            return Ok(());
        };
        Err(Refused::Membership(node, unfit))
    }

    fn body<'a>(&self, key: Option<String>, guards: Vec<Guard<'a>>, commands: Vec<Command<'a>>) -> Body<'a> {
        let seen = if left_out(Rule::SeenRecorded) { BTreeMap::new() } else { self.unseen.clone() };
        let span = span_squeezed(self.config.key_span);
        let key = key.map(|text| IdempotencyKey { text: text.into(), span });
        Body { wall_ms: self.now.wall_ms, seen: seen.into_iter().collect(), key, guards, commands }
    }

    /// The next op of this node, which every op that it issues comes from: none follows the one by which it retired, for the
    /// others take none.
    fn next_op(&self, body: &Body<'_>) -> Result<Op, Refused> {
        let origin = self.config.node;
        if self.roster.is_retired(origin) && !left_out(Rule::LastWord) {
            return Err(Refused::Retired);
        }
        let id = OpId { origin, seq: self.log.head(origin).seq + 1 };
        Op::encode(id, self.clock + 1, body).map_err(Refused::Op)
    }

    /// Issues an op of one command about members.
    fn issue_alone(&mut self, command: Command<'static>) {
        let body = self.body(None, Vec::new(), vec![command]);
        if check(&body).is_ok()
            && let Ok(op) = self.next_op(&body)
        {
            self.issue(&op);
        }
    }

    /// Takes an own op into the log and the documents.
    fn issue(&mut self, op: &Op) {
        self.log_own(op);
        self.state.insert(std::slice::from_ref(op));
    }

    /// Takes an own op into the log.
    fn log_own(&mut self, op: &Op) {
        self.mark_resumption();
        self.takes_back = false;
        self.append(op, None, self.log.head(op.origin()).extended(op));
    }

    /// Whether it is to found a pool if there is none. Not with the ops of a pool whose name a damaged journal has lost:
    /// its other members are there, and take this node in when they dial it.
    fn may_found(&self) -> bool {
        self.pool.is_none() && self.config.found && self.roster.all().len() < 2
    }

    /// Founds the pool, with this node as its first member.
    fn found(&mut self) {
        let name = self.config.pool.clone().unwrap_or_else(|| "lamplight".into());
        let id = uuid::Builder::from_random_bytes(self.rng.u128(..).to_le_bytes()).into_uuid();
        self.enter((PoolId(id), name));
        self.add_oneself();
        self.announce();
    }

    fn add_oneself(&mut self) {
        let Config { node, name, urls, .. } = self.config.clone();
        self.add(Newcomer { node, name: name.into(), urls }, self.key);
        self.ready = true;
    }

    /// Makes a node a member; with the static key that it proves, if there is one.
    fn add(&mut self, newcomer: Newcomer<'_>, key: Option<PublicKey>) {
        let node = newcomer.node;
        self.let_in.insert(node, self.now.mono_ms);
        self.issue_alone(Command::Add(newcomer, self.finality.frontier).into_owned());
        key.into_iter().for_each(|key| self.issue_alone(Command::Key(node, key)));
    }

    fn is_member(&self) -> bool {
        self.roster.knows(self.config.node)
    }

    /// The receipt of an op as it stands, if the op is in the log; of one that was issued again, that of the later.
    pub fn receipt(&self, id: OpId) -> Option<Receipt> {
        match self.as_issued(id)? {
            Ok(id) => self.receipt_of(id),
            Err(claim) => Some(self.repeated(claim)),
        }
    }

    /// The status of an op, if it is in the log; of one that was issued again, the status of the later.
    pub fn status(&self, id: OpId) -> Option<OpStatus> {
        let (op, stamp, applied) = match self.as_issued(id)? {
            Ok(id) => {
                let stamp = self.log.get(id)?.stamp();
                (id, stamp, self.state.verdict(stamp).is_ok())
            }
            Err(claim) => (claim.op, claim.stamp(), claim.applied),
        };
        Some(OpStatus { op, stamp, applied, is_final: stamp.time <= self.finality.frontier })
    }

    /// The id under which an op was issued last, or what is remembered of its idempotency key: others who held it may have issued it
    /// again before.
    fn as_issued(&self, id: OpId) -> Option<Result<OpId, Claim>> {
        let Some(again) = self.reissued.get(&id) else { return Some(Ok(id)) };
        let key = self.log.get(*again)?.body().key;
        let claim = key.and_then(|key| self.state.claim(&key.text));
        Some(claim.map_or(Ok(*again), Err))
    }

    /// The receipt of the op that the pool holds under this id, as it stands. The pool's record of an idempotency key names
    /// such an op, also where this node issued another under the same id on an old copy of its disk.
    pub fn receipt_of(&self, id: OpId) -> Option<Receipt> {
        let op = self.log.get(id)?;
        let verdict = self.state.verdict(op.stamp());
        let documents = if verdict.is_ok() { self.written(op) } else { Written::default() };
        let is_final = op.time() <= self.finality.frontier;
        Some(Receipt { op: id, stamp: op.stamp(), verdict, documents, created: false, is_final })
    }

    /// The receipt of the first op with a key, for the same request. If the op is forgotten, so is which versions it wrote.
    fn repeated(&self, claim: Claim) -> Receipt {
        let again = self.reissued.get(&claim.op).filter(|_| left_out(Rule::PoolsReceipt));
        self.receipt_of(again.copied().unwrap_or(claim.op))
            .unwrap_or_else(|| Receipt::of_forgotten(claim.op, claim.stamp(), claim.applied))
    }

    fn written(&self, op: &Op) -> Written {
        let (body, mut met) = (op.body(), BTreeSet::new());
        let written = body.commands.iter().filter_map(Command::doc).filter(|doc| met.insert(*doc));
        let docs: Vec<DocKey<'static>> =
            written.map(|doc| DocKey::new(doc.collection.to_string(), doc.id.to_string())).collect();
        let mut past = self.state.past();
        docs.iter().for_each(|doc| past.read(doc, op.stamp()));
        let replays = past.into_replays();
        Written { docs, replays }
    }

    /// How this node was set up.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its id. It changes only where a node must come back as another.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// The pool and its name, once it has one.
    pub fn pool(&self) -> Option<&(PoolId, String)> {
        self.pool.as_ref()
    }

    /// Its Lamport clock.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Spoils a document, as a bad memory would.
    #[cfg(any(test, feature = "sim"))]
    pub fn spoil(&mut self, collection: &str, id: &str) {
        self.state.spoil(collection, id);
    }

    /// All ops it holds.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// All that its log says of members.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What clients show of themselves in rooms.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The documents.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The ops that no held op has seen: a node that holds these holds all that this one does.
    pub fn tips(&self) -> &BTreeMap<NodeId, u64> {
        &self.tips
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The ids that it had to give up, as far as it knows.
    pub fn former(&self) -> &BTreeSet<NodeId> {
        &self.former
    }

    /// Whether it has yet to issue again what it issued under an earlier id.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// How many ops wait for others.
    pub fn early(&self) -> usize {
        self.early.len()
    }

    /// The time up to which ops are forgotten: what they made is in the documents, but not how.
    pub fn horizon(&self) -> u64 {
        self.log.horizon()
    }

    /// Whether its documents have holes, which a snapshot from a peer is to fill. It serves nobody.
    pub fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// Whether a snapshot for the journal is under way: [`Event::Stored`] is waited for.
    pub fn is_compacting(&self) -> bool {
        self.compacting.is_some()
    }

    /// Whether an operator has cut its links.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// How far it is in becoming a member.
    pub fn standing(&self) -> Standing {
        match (self.ready, &self.pool) {
            // One that is to join again has yet to.
            _ if self.roster.is_retired(self.config.node) && !self.rejoins => Standing::Retired,
            (true, _) => Standing::Member,
            (false, Some(_)) => Standing::CatchingUp,
            (false, None) => Standing::Joining,
        }
    }

    /// Whether a peer is not known to hold all that this node does.
    pub fn is_behind(&self) -> bool {
        self.links.values().any(Link::is_behind)
    }

    /// Whether it holds everything up to these seqs, or has issued it again.
    pub fn holds(&self, seqs: &[(NodeId, u64)]) -> bool {
        let held = |origin, seq| self.log.head(origin).seq >= seq || self.holds_again(OpId { origin, seq });
        seqs.iter().all(|(origin, seq)| held(*origin, *seq))
    }

    /// The number of ops that are known to have been issued again under other ids.
    pub fn reissued(&self) -> usize {
        self.reissued.len()
    }

    /// Whether it holds, as it was issued again, all that came under an id up to an op: what came before that was issued again
    /// before. The new id may have been given up since, too.
    fn holds_again(&self, mut id: OpId) -> bool {
        for _ in 0..RENAMES_MAX {
            let later = OpId { origin: id.origin, seq: u64::MAX };
            let Some((_, again)) = self.reissued.range(id..=later).next() else { return false };
            if self.log.head(again.origin).seq >= again.seq {
                return true;
            }
            id = *again;
        }
        false
    }
}
