//! One link as the replica sees it: what the peer is known to hold, and what it may be sent.
//!
//! A link keeps no queue. It keeps a seq an origin and reads the log; while a batch is on its way to the socket
//! nothing more is made for it, so a slow peer costs no memory and a fast one gets small batches at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{dump::Pieces, keys::LinkKeys, log::Log, peers::Endpoint, presence::Shown};
use crate::{
    op::{Hash, Head, NodeId, Op, OpId},
    wire::{BATCH_BYTES, Hello, Message, Pulse},
};

/// Names a link; the shell counts them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) opened_ms: u64,
    pub(super) heard_ms: u64,
    /// Where it was dialled, if this node dialled it.
    pub(super) dialled: Option<Endpoint>,
    /// The static keys that its two ends have proved; none in a pool without a secret.
    pub(super) keys: Option<LinkKeys>,
    /// What the peer said it is; none until then.
    pub(super) peer: Option<Hello>,
    /// Whether it has said anything else since.
    pub(super) confirmed: bool,
    /// The greatest seq an origin that the peer holds or was sent; none until it has said what it holds.
    sent: Option<BTreeMap<NodeId, u64>>,
    /// Origins of which the log holds more.
    behind: BTreeSet<NodeId>,
    /// Whether the last batch has left.
    pub(super) writable: bool,
    /// The counts of the pulses it was sent.
    pub(super) pulses: BTreeMap<NodeId, (u64, u64)>,
    /// The versions of members' addresses that it was sent.
    pub(super) addresses: BTreeMap<NodeId, (u64, u64)>,
    /// Whether there is an announcement that must not wait for the next beat.
    pub(super) hasty: bool,
    /// What the peer, a member, held when they met; kept while this node catches up, to tell how far it is.
    pub(super) catch_up: Option<Vec<(NodeId, u64)>>,
    /// How many of this node's own ops the peer has said that it holds.
    pub(super) holds_own: u64,
    /// What the peer held at the last beat at which its log was the same.
    shared: Vec<(NodeId, u64)>,
    /// This node's digest at the last beat that differed from the peer's.
    pub(super) differed: Option<Hash>,
    /// When this node told the peer that they hold two histories of a third node. Nothing else is exchanged from then on.
    pub(super) disputed_ms: Option<u64>,
    /// Since when the peer sends ops that lie before what is final here, and when it did so last.
    pub(super) past_ms: Option<(u64, u64)>,
    /// Since when the peer says that it has forgotten what this node lacks.
    pub(super) dropped_ms: Option<u64>,
    /// The snapshot that the peer is being sent.
    pub(super) transfer: Option<Pieces>,
    /// The digest of the peer's log, and of its documents, at its last beat.
    pub(super) said: Option<(Hash, u64)>,
    /// Somebody waits until the peer holds so many of this node's ops.
    pub(super) ask: Option<u64>,
    /// What the peer was sent of presence.
    pub(super) shown: Shown,
}

impl Link {
    pub(super) fn new(now_ms: u64, dialled: Option<Endpoint>, keys: Option<LinkKeys>) -> Link {
        Link {
            opened_ms: now_ms,
            heard_ms: now_ms,
            dialled,
            keys,
            peer: None,
            confirmed: false,
            sent: None,
            behind: BTreeSet::new(),
            writable: true,
            pulses: BTreeMap::new(),
            addresses: BTreeMap::new(),
            hasty: false,
            catch_up: None,
            holds_own: 0,
            shared: Vec::new(),
            differed: None,
            disputed_ms: None,
            past_ms: None,
            dropped_ms: None,
            transfer: None,
            said: None,
            ask: None,
            shown: Shown::default(),
        }
    }

    /// The peer said what it holds: whatever else it was sent is lost, and is sent again.
    pub(super) fn peer_holds(&mut self, heads: &[(NodeId, Head)], log: &Log) {
        let sent: BTreeMap<NodeId, u64> = heads.iter().map(|(origin, head)| (*origin, head.seq)).collect();
        let lacks =
            |(origin, head): (NodeId, Head)| (sent.get(&origin).copied().unwrap_or(0) < head.seq).then_some(origin);
        self.behind = log.heads().filter_map(lacks).collect();
        self.sent = Some(sent);
    }

    /// The peer lacks what is forgotten here: until it has taken a snapshot, nothing else helps it.
    pub(super) fn peer_needs_snapshot(&mut self) {
        self.sent = None;
        self.behind.clear();
    }

    /// Whether it is known what the peer holds.
    pub(super) fn is_served(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether the peer is to be asked now how many of this node's ops it holds: once it was sent what somebody waits for.
    pub(super) fn is_to_ask(&mut self, node: NodeId) -> bool {
        let sent = self.sent.as_ref().and_then(|sent| sent.get(&node)).copied().unwrap_or(0);
        self.ask.take_if(|seq| *seq <= sent).is_some()
    }

    /// The peer's digest is this node's: it holds the same, though its word about that may never have come.
    pub(super) fn peer_holds_the_same(&mut self, log: &Log) {
        self.shared = log.heads().map(|(origin, head)| (origin, head.seq)).collect();
        self.sent.get_or_insert_with(|| self.shared.iter().copied().collect());
    }

    /// Whether the peer has said, to this `node`, that it holds an op.
    pub(super) fn holds(&self, node: NodeId, op: OpId) -> bool {
        let shared = || self.shared.iter().any(|(origin, seq)| *origin == op.origin && *seq >= op.seq);
        op.origin == node && self.holds_own >= op.seq || shared()
    }

    /// How many ops of this `node` the peer has said that it holds.
    pub(super) fn held_of(&self, node: NodeId) -> u64 {
        let shared = self.shared.iter().find(|(origin, _)| *origin == node).map_or(0, |(_, seq)| *seq);
        self.holds_own.max(shared)
    }

    /// The peer sent `op`, so it holds it.
    pub(super) fn peer_sent(&mut self, op: &Op) {
        let Some(sent) = &mut self.sent else { return };
        let seq = sent.entry(op.origin()).or_default();
        *seq = op.id().seq.max(*seq);
    }

    /// `op` came into the log.
    pub(super) fn log_grew(&mut self, op: &Op) {
        let Some(sent) = &self.sent else { return };
        if sent.get(&op.origin()).is_none_or(|seq| *seq < op.id().seq) {
            self.behind.insert(op.origin());
        }
    }

    /// Whether this node has said hello on it: the dialler does at once, the other when it has heard one.
    pub(super) fn is_greeted(&self) -> bool {
        self.dialled.is_some() || self.peer.is_some()
    }

    /// Whether there is more to send, or the last batch is still on its way.
    pub(super) fn is_behind(&self) -> bool {
        !self.writable || !self.behind.is_empty() || self.transfer.is_some()
    }

    /// The pulses of these members that the peer was not sent yet; from now on it was.
    pub(super) fn news<'p>(&mut self, pulses: impl Iterator<Item = (&'p NodeId, &'p Pulse)>) -> Vec<(NodeId, Pulse)> {
        let new = |(node, pulse): (&NodeId, &Pulse)| {
            self.pulses.get(node).is_none_or(|sent| *sent < pulse.count).then_some((*node, *pulse))
        };
        let news: Vec<(NodeId, Pulse)> = pulses.filter_map(new).collect();
        self.pulses.extend(news.iter().map(|(node, pulse)| (*node, pulse.count)));
        news
    }

    /// The next batch of what the peer lacks, in stamp order, and the announcements that go with it, if it can be sent
    /// now.
    pub(super) fn next_batch<'p>(
        &mut self,
        log: &Log,
        pulses: impl Iterator<Item = (&'p NodeId, &'p Pulse)>,
    ) -> Option<Message> {
        if !self.writable || self.sent.is_none() || (self.behind.is_empty() && !self.hasty) {
            return None;
        }
        let news = if mem::take(&mut self.hasty) { self.news(pulses) } else { Vec::new() };
        let sent = self.sent.as_mut()?;
        let known = self.behind.iter().map(|origin| (*origin, sent.get(origin).copied().unwrap_or(0)));
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for op in log.beyond(known) {
            bytes += op.bytes().len();
            if bytes > BATCH_BYTES && !ops.is_empty() {
                break;
            }
            ops.push(op.clone());
        }
        let last: BTreeMap<NodeId, u64> = ops.iter().map(|op: &Op| (op.origin(), op.id().seq)).collect();
        sent.extend(&last);
        self.behind.retain(|origin| log.head(*origin).seq > sent.get(origin).copied().unwrap_or(0));
        if ops.is_empty() && news.is_empty() {
            return None;
        }
        self.writable = false;
        let head = |(origin, seq)| Some((origin, Head { seq, hash: log.hash_at(origin, seq)? }));
        let heads = last.into_iter().filter_map(head).collect();
        Some(Message::Ops(ops, heads, news))
    }
}
