//! A member that sends whatever its key lets it send: what each of the others keeps up all the same.
//!
//! Its machine runs an honest node, so its links come about and stay known. Between the frames of that node go others, which no
//! honest node sends: ops under ids of others, promises and clocks that are not so, disputes, snapshots, refusals. Nobody can tell
//! what such a member writes from what an honest one does, and it can evict anyone: that members agree, and that finality goes on, is
//! not asked for here. The invariants are of each honest node by itself:
//!
//! - Nothing panics.
//! - Its clock stays within the bound that its wall clock sets.
//! - It holds back no more ops than it may.
//! - Its own ops stay where they are, as long as it keeps its id.
//! - Its documents are what its log makes of them.
//! - What it has acknowledged it holds, or has yet to issue again, also some time after that member is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use fastrand::Rng;
use uuid::Uuid;

use super::{
    Violation,
    action::Action,
    driver::{Driver, Due},
    model::Model,
    scale,
};
use crate::{
    document::check,
    op::{
        Addresses, Body, Command, DocKey, Eviction, Hash, Head, IdempotencyKey, Newcomer, NodeId, Op, OpId, PoolId,
        PublicKey, Stamp, TIME_MAX,
    },
    replica::{Draft, EARLY_OPS_MAX, Replica},
    snapshot::{Base, BaseDocument, Part, Slice, Whole},
    wire::{Announcement, Attendance, Beat, Begun, Dispute, Hello, Message, Present, Pulse, Refusal, Stand, Why},
};

/// How long that member goes on.
const ATTACK_MS: u64 = 20_000;
/// Between two looks at the nodes, and two turns of that member.
const TURN_MS: u64 = 50;
/// How long the others go on after it is gone.
const AFTER_MS: u64 = 60_000;
/// A stamp before all others.
const FIRST: Stamp = Stamp { time: 0, origin: NodeId(Uuid::nil()) };

/// What a run has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Malice {
    /// Frames that were forged.
    pub forged: u64,
    /// Writes that honest nodes acknowledged.
    pub acknowledged: usize,
    /// Times that an honest node had to come back as another.
    pub reborn: u64,
}

impl Malice {
    /// Counts another run.
    pub fn add(&mut self, other: Malice) {
        self.forged += other.forged;
        self.acknowledged += other.acknowledged;
        self.reborn += other.reborn;
    }
}

/// Runs one seed.
pub fn malice(seed: u64) -> Result<Malice, Violation> {
    let mut rng = Rng::with_seed(seed ^ 0x6d61_6c69_6365);
    let nodes = rng.usize(3..=5);
    let mut driver = Driver::new(scale::plan(nodes, seed), false, None);
    for machine in 0..nodes {
        driver.at(100 * machine as u64, Due::Start(machine, false));
    }
    driver.until_converged(nodes)?;
    let mut run = Run {
        driver,
        rng,
        told: vec![BTreeSet::new(); nodes],
        heads: vec![None; nodes],
        peers: vec![(BTreeMap::new(), BTreeSet::new()); nodes],
        result: Malice::default(),
    };
    run.attack()?;
    run.outlive()?;
    Ok(run.result)
}

struct Run<'e> {
    driver: Driver<'e>,
    rng: Rng,
    /// By node, the documents whose writes it has acknowledged.
    told: Vec<BTreeSet<String>>,
    /// By node, its id and how many ops it had issued under it.
    heads: Vec<Option<(NodeId, u64)>>,
    /// By node, the keys of ids that it knew at the last look, and the peers that it then had with other keys than those.
    peers: Vec<(BTreeMap<NodeId, PublicKey>, BTreeSet<NodeId>)>,
    result: Malice,
}

/// The machine of that member.
const FORGER: usize = 0;

impl Run<'_> {
    fn attack(&mut self) -> Result<(), Violation> {
        let end_ms = self.driver.now_ms + ATTACK_MS;
        while self.driver.now_ms < end_ms {
            for end in self.driver.world.open_ends(FORGER).collect::<Vec<_>>() {
                if self.rng.bool() {
                    self.forge(end)?;
                }
            }
            self.write()?;
            self.driver.run_to(self.driver.now_ms + TURN_MS)?;
            self.look()?;
        }
        self.audit()
    }

    /// Sends a forged frame from this end of a link.
    fn forge(&mut self, end: usize) -> Result<(), Violation> {
        let peer = self.driver.world.peer_of(end);
        let nodes = self.driver.world.nodes();
        let (Some(own), Some(target)) = (&nodes[FORGER].replica, &nodes[peer].replica) else { return Ok(()) };
        let message = Forger { rng: &mut self.rng, own, target }.message();
        self.result.forged += 1;
        self.driver.send_forged(end, message)
    }

    /// A client writes a document of its own at some honest node.
    fn write(&mut self) -> Result<(), Violation> {
        let live: Vec<usize> = self.driver.world.live().map(|(node, _)| node).filter(|node| *node != FORGER).collect();
        let Some(node) = self.rng.choice(&live).copied().filter(|_| self.rng.u32(..4) == 0) else { return Ok(()) };
        let id = format!("w{}", self.result.acknowledged);
        let command = Command::Put(DocKey::new("kept", id.clone()), "1".into());
        let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
        self.driver.act(&Action::Submit(node, draft))?;
        let taken = |replica: &Replica| replica.state().text("kept", &id).is_some();
        if self.driver.world.nodes()[node].replica.as_ref().is_some_and(taken) {
            self.told[node].insert(id);
            self.result.acknowledged += 1;
        }
        Ok(())
    }

    /// What must hold after each turn.
    fn look(&mut self) -> Result<(), Violation> {
        for (node, replica) in self.driver.world.live().filter(|(node, _)| *node != FORGER) {
            let broken =
                |invariant, detail: String| Err(Violation { invariant, detail: format!("node {node}: {detail}") });
            if replica.clock() > self.driver.world.now_of(node).time_bound() {
                return broken(
                    "a clock stays within the bound of its wall clock",
                    format!("it is {}", replica.clock()),
                );
            }
            let keys = replica.roster().all().keys().filter_map(|id| Some((*id, replica.roster().key(*id)?))).collect();
            let strange: BTreeSet<NodeId> = replica.members_with_other_keys().collect();
            let (keys_before, strange_before) = mem::replace(&mut self.peers[node], (keys, strange.clone()));
            // One that was let in before its id had that key goes at the next beat.
            let is_let_in = |other: &&NodeId| {
                !strange_before.contains(*other) && keys_before.get(*other).copied() == replica.roster().key(**other)
            };
            if let Some(other) = strange.iter().find(is_let_in) {
                return broken("a peer speaks under the id of its key", format!("a peer speaks as {other}"));
            }
            if replica.early() > EARLY_OPS_MAX {
                return broken("a node holds back no more than it may", format!("{} ops wait", replica.early()));
            }
            let head = (replica.node(), replica.log().head(replica.node()).seq);
            match self.heads[node] {
                Some((id, seq)) if id == head.0 && seq > head.1 => {
                    return broken("own ops stay where they are", format!("{} of {seq} are left", head.1));
                }
                Some((id, _)) if id != head.0 => self.result.reborn += 1,
                _ => {}
            }
            self.heads[node] = Some(head);
        }
        Ok(())
    }

    /// The documents of each honest node are what its log makes of them.
    fn audit(&self) -> Result<(), Violation> {
        let honest = self.driver.world.live().filter(|(node, _)| *node != FORGER);
        // What came in a snapshot is in no log.
        honest
            .filter(|(_, replica)| replica.horizon() == 0)
            .try_for_each(|(_, replica)| Model::fold(replica.log().after(FIRST, None)).compare(replica))
    }

    /// That member is gone for good; what the others have acknowledged they still have.
    fn outlive(&mut self) -> Result<(), Violation> {
        self.driver.kill(FORGER)?;
        let end_ms = self.driver.now_ms + AFTER_MS;
        while self.driver.now_ms < end_ms {
            self.driver.run_to(self.driver.now_ms + 1_000)?;
            self.look()?;
        }
        self.audit()?;
        for (node, replica) in self.driver.world.live() {
            let lacks = |id: &&String| replica.state().text("kept", id).is_none() && !replica.has_orphans();
            if let Some(lost) = self.told[node].iter().find(lacks) {
                let detail = format!("node {node} ({:?}) lacks {lost}", replica.standing());
                return Err(Violation { invariant: "an honest node has what it has acknowledged", detail });
            }
        }
        Ok(())
    }
}

/// Makes frames that a member with the pool's secret can send to `target`.
struct Forger<'a> {
    rng: &'a mut Rng,
    own: &'a Replica,
    target: &'a Replica,
}

impl Forger<'_> {
    fn message(&mut self) -> Message {
        match self.rng.u32(..16) {
            0..5 => self.ops(),
            5 => Message::Heads(self.heads()),
            6 => self.beat(),
            7 => self.hello(),
            8 => Message::Promised(self.number(), self.time()),
            9 => self.small(),
            10 => Message::Dropped(self.heads()),
            11 => self.snapshot(),
            12 => self.dispute(),
            13 => self.refusal(),
            14 => self.rooms(),
            _ => self.addresses(),
        }
    }

    /// An id: of the receiver, of its members, of the sender, or of nobody.
    fn id(&mut self) -> NodeId {
        let known: Vec<NodeId> = self.target.roster().all().keys().copied().collect();
        match self.rng.u32(..4) {
            0 => self.target.node(),
            1 => self.own.node(),
            2 => NodeId(Uuid::from_u128(self.rng.u128(..))),
            _ => self.rng.choice(&known).copied().unwrap_or(self.target.node()),
        }
    }

    fn number(&mut self) -> u64 {
        match self.rng.u32(..4) {
            0 => 0,
            1 => u64::MAX,
            _ => self.rng.u64(..300),
        }
    }

    fn time(&mut self) -> u64 {
        match self.rng.u32(..8) {
            0 => u64::MAX,
            1 => TIME_MAX,
            2 => 1,
            3 => self.target.frontier(),
            _ => self.target.clock().saturating_add(self.rng.u64(..50)).saturating_sub(20).max(1),
        }
    }

    fn hash(&mut self) -> Hash {
        Hash(self.rng.u128(..).to_le_bytes())
    }

    fn heads(&mut self) -> Vec<(NodeId, Head)> {
        let mut heads: Vec<(NodeId, Head)> = self.target.log().heads().collect();
        for _ in 0..self.rng.usize(1..4) {
            let head = Head { seq: self.number(), hash: self.hash() };
            heads.push((self.id(), head));
        }
        heads
    }

    fn command(&mut self) -> Command<'static> {
        let doc = DocKey::new("forged", self.rng.u32(..4).to_string());
        match self.rng.u32(..12) {
            0 => Command::Delete(doc),
            1 => Command::Merge(doc, r#"{"a":1}"#.into()),
            2 => Command::Patch(doc, r#"[{"op":"add","path":"/b","value":[1]}]"#.into()),
            3 => {
                let newcomer = Newcomer { node: self.id(), name: "n".into(), urls: vec!["http://m9:1".into()] };
                Command::Add(newcomer, self.time())
            }
            4 => Command::Retire,
            5 => Command::Evict(Eviction { node: self.id(), force: self.rng.bool() }),
            6 => Command::Fence(self.id(), self.number()),
            7 => Command::Removed(self.id()),
            8 => Command::Key(self.id(), PublicKey([self.rng.u8(..4); 32])),
            _ => Command::Put(doc, self.rng.u32(..100).to_string().into()),
        }
    }

    fn op(&mut self) -> Option<Op> {
        let origin = self.id();
        let head = self.target.log().head(origin).seq;
        let seq = if self.rng.u32(..4) == 0 { self.number() } else { head + self.rng.u64(..3) };
        let mut seen = Vec::new();
        if self.rng.u32(..4) == 0 {
            seen.push((self.id(), self.number()));
        }
        let key = (self.rng.u32(..4) == 0).then(|| IdempotencyKey { text: "key".into(), span: self.number() });
        let body = Body { wall_ms: self.number(), seen, key, guards: Vec::new(), commands: vec![self.command()] };
        let time = self.time();
        check(&body).ok()?;
        Op::encode(OpId { origin, seq }, time, &body).ok()
    }

    fn ops(&mut self) -> Message {
        let mut ops: Vec<Op> = (0..self.rng.usize(1..4)).filter_map(|_| self.op()).collect();
        if self.rng.u32(..8) != 0 {
            ops.sort();
        }
        let head = |op: &Op| (op.origin(), self.target.log().head(op.origin()).extended(op));
        let heads = if self.rng.u32(..8) == 0 { self.heads() } else { ops.iter().map(head).collect() };
        let pulses = vec![self.pulse()];
        Message::Ops(ops, heads, pulses)
    }

    fn pulse(&mut self) -> (NodeId, Pulse) {
        let said = Announcement {
            seq: self.number(),
            clock: self.time(),
            complete: self.time(),
            holding: self.hash(),
            wanted: self.time(),
        };
        (self.id(), Pulse { count: (self.number(), self.number()), said })
    }

    fn beat(&mut self) -> Message {
        let digest = if self.rng.bool() { self.target.log().digest() } else { self.hash() };
        Message::Beat(Beat {
            clock: self.time(),
            digest,
            state: self.rng.u64(..),
            frontier: self.time(),
            presence: self.number(),
            pulses: (0..self.rng.usize(..4)).map(|_| self.pulse()).collect(),
        })
    }

    fn hello(&mut self) -> Message {
        let pool = match self.rng.u32(..4) {
            0 => None,
            1 => Some((PoolId(Uuid::from_u128(self.rng.u128(..))), "other".into())),
            _ => self.target.pool().cloned(),
        };
        Message::Hello(Hello {
            member: self.rng.bool(),
            clock: self.time(),
            process: self.rng.u64(..),
            empty: self.rng.bool(),
            issued: (self.number(), self.number()),
            ..Hello::newcomer(self.id(), "n", pool)
        })
    }

    fn small(&mut self) -> Message {
        match self.rng.u32(..3) {
            0 => Message::Ask,
            1 => Message::Held(self.number()),
            _ => {
                let begun =
                    Begun { time: self.time(), after: None, sum: Whole { documents: self.number(), digest: 0 } };
                Message::Fetch(self.rng.bool().then_some(begun))
            }
        }
    }

    fn snapshot(&mut self) -> Message {
        let base = |forger: &mut Self| Base {
            time: forger.time(),
            heads: forger.heads(),
            membership: (0..2).filter_map(|_| forger.op()).collect(),
            documents: forger.number(),
        };
        let part = match self.rng.u32(..4) {
            0 => Part::Base(base(self)),
            1 => Part::Again(base(self)),
            2 => Part::Whole(Whole { documents: self.number(), digest: self.rng.u64(..) }),
            _ => {
                let stamp = Stamp { time: self.time(), origin: self.id() };
                let document = BaseDocument { collection: "forged".into(), id: "1".into(), text: "1".into(), stamp };
                Part::Documents(Slice { after: None, documents: vec![document], next: None })
            }
        };
        Message::Snapshot(self.time(), part)
    }

    fn dispute(&mut self) -> Message {
        let stands = [Stand::Open, Stand::Waited, Stand::Majority, Stand::Final, Stand::FinalMajority];
        let stand = self.rng.choice(stands).unwrap_or(Stand::Open);
        let points = (0..self.rng.usize(..3)).map(|_| Head { seq: self.number(), hash: self.hash() }).collect();
        Message::Dispute(Dispute { origin: self.id(), at: self.number(), points, stand })
    }

    fn refusal(&mut self) -> Message {
        let own = [Why::Fork, Why::OldCopy, Why::Copy, Why::SameId, Why::Oneself, Why::OtherKey];
        let all = [&own[..], &[Why::OtherPool, Why::Busy, Why::Double, Why::Evicted]].concat();
        let why = self.rng.choice(all).unwrap_or(Why::Busy);
        Message::Refusal(Refusal {
            why,
            detail: "x".repeat(self.rng.usize(..40)),
            try_instead: vec!["http://m8:1".into()],
        })
    }

    fn rooms(&mut self) -> Message {
        let version = (self.number(), self.number());
        if self.rng.bool() {
            let attendance = Attendance { version, digest: self.rng.u64(..) };
            return Message::Attendance(vec![(self.id(), attendance)]);
        }
        let state = self.rng.bool().then(|| "1".into());
        Message::Presence(vec![Present { node: self.id(), room: "r".into(), client: "c".into(), version, state }])
    }

    fn addresses(&mut self) -> Message {
        let addresses = Addresses { version: (self.number(), self.number()), urls: vec!["http://m9:1".into()] };
        Message::Addresses(vec![(self.id(), addresses)])
    }
}
