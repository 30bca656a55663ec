//! The log: the ops that are held since the horizon, and the heads that say how far.
//!
//! Ops up to the horizon are forgotten; of each origin the head there stays, and its further ops follow that. The log is kept by origin, where seq finds an op at once and time rises with seq; stamp order is the merge of the
//! origins. So an op costs one pointer here, a late op moves nothing, and "what is beyond these heads" needs no index.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::OnceLock,
};

use crate::op::{Hash, Head, NodeId, Op, OpId, Stamp};

/// One hash over heads.
fn hash_of(heads: impl Iterator<Item = (NodeId, Head)>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (origin, head) in heads {
        hasher.update(origin.0.as_bytes()).update(&head.seq.to_le_bytes()).update(&head.hash.0);
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Hash(digest)
}

/// The ops of all origins.
#[derive(Debug, Default)]
pub struct Log {
    chains: BTreeMap<NodeId, Chain>,
    /// The time up to which ops are forgotten.
    horizon: u64,
    /// How many ops it has taken, those that are forgotten among them.
    len: usize,
    /// How many are there, and their bytes.
    kept: usize,
    kept_bytes: usize,
    /// Worked out when it is first asked for; every beat of every link asks.
    digest: OnceLock<Hash>,
}

/// The ops of one origin, without gaps.
#[derive(Debug, Default)]
struct Chain {
    /// The last op that is forgotten.
    start: Head,
    ops: VecDeque<Op>,
    head: Head,
    /// The running hash at each of them.
    hashes: VecDeque<Hash>,
}

impl Chain {
    /// The place of a seq among the ops.
    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.start.seq)?.checked_sub(1)?).ok()
    }

    fn hash_at(&self, seq: u64) -> Option<Hash> {
        if seq == self.start.seq { Some(self.start.hash) } else { self.hashes.get(self.index(seq)?).copied() }
    }

    /// Forgets the ops up to a time.
    fn forget(&mut self, horizon: u64) -> Vec<Op> {
        let count = self.ops.partition_point(|op| op.time() <= horizon);
        let seq = self.start.seq + count as u64;
        let hash = self.hash_at(seq).expect("it is held as far as that");
        self.hashes.drain(..count);
        self.start = Head { seq, hash };
        self.ops.drain(..count).collect()
    }
}

impl Log {
    /// A log in which the ops up to a time are forgotten, as far as these heads say.
    pub(super) fn behind(horizon: u64, heads: &[(NodeId, Head)]) -> Log {
        let chain =
            |(origin, head): &(NodeId, Head)| (*origin, Chain { start: *head, head: *head, ..Chain::default() });
        let len = heads.iter().fold(0_usize, |sum, (_, head)| sum.saturating_add(head.seq as usize));
        Log { chains: heads.iter().map(chain).collect(), horizon, len, ..Log::default() }
    }

    /// How many ops it has taken, those that are forgotten among them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has taken none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many ops are there, and how many bytes they have.
    pub fn kept(&self) -> (usize, usize) {
        (self.kept, self.kept_bytes)
    }

    /// The time up to which ops are forgotten.
    pub fn horizon(&self) -> u64 {
        self.horizon
    }

    /// The last op of `origin` that is forgotten.
    pub fn start(&self, origin: NodeId) -> Head {
        self.chains.get(&origin).map_or(Head::default(), |chain| chain.start)
    }

    /// Whether one who holds no more than these heads needs ops that are forgotten.
    pub(super) fn is_beyond(&self, heads: &[(NodeId, Head)]) -> bool {
        let held: BTreeMap<NodeId, u64> = heads.iter().map(|(origin, head)| (*origin, head.seq)).collect();
        self.chains.iter().any(|(origin, chain)| held.get(origin).copied().unwrap_or(0) < chain.start.seq)
    }

    /// The last op of each origin that is forgotten, where there is one.
    pub(super) fn starts(&self) -> Vec<(NodeId, Head)> {
        let starts = self.chains.iter().map(|(origin, chain)| (*origin, chain.start));
        starts.filter(|(_, start)| start.seq > 0).collect()
    }

    /// How far the ops of each origin go up to a time, which must not be before the horizon.
    pub(super) fn heads_at(&self, time: u64) -> Vec<(NodeId, Head)> {
        let head = |(origin, chain): (&NodeId, &Chain)| {
            let seq = chain.start.seq + chain.ops.partition_point(|op| op.time() <= time) as u64;
            let hash = chain.hash_at(seq)?;
            (seq > 0).then_some((*origin, Head { seq, hash }))
        };
        self.chains.iter().filter_map(head).collect()
    }

    /// One hash over all that is held up to a time; none where some of that is forgotten.
    pub(super) fn digest_at(&self, time: u64) -> Option<Hash> {
        (time >= self.horizon).then(|| hash_of(self.heads_at(time).into_iter()))
    }

    /// Forgets the ops up to a time, and returns them.
    pub(super) fn forget(&mut self, horizon: u64) -> Vec<Op> {
        let forgotten: Vec<Op> = self.chains.values_mut().flat_map(|chain| chain.forget(horizon)).collect();
        self.kept -= forgotten.len();
        self.kept_bytes -= forgotten.iter().map(|op| op.bytes().len()).sum::<usize>();
        self.horizon = horizon;
        forgotten
    }

    /// How far the ops of `origin` are held.
    pub fn head(&self, origin: NodeId) -> Head {
        self.chains.get(&origin).map_or(Head::default(), |chain| chain.head)
    }

    /// All heads, in the order of their origins.
    pub fn heads(&self) -> impl Iterator<Item = (NodeId, Head)> {
        self.chains.iter().map(|(origin, chain)| (*origin, chain.head))
    }

    /// One hash over all heads: equal digests, equal logs.
    pub fn digest(&self) -> Hash {
        *self.digest.get_or_init(|| hash_of(self.heads()))
    }

    /// An op, if it is there.
    pub fn get(&self, id: OpId) -> Option<&Op> {
        let chain = self.chains.get(&id.origin)?;
        chain.ops.get(chain.index(id.seq)?)
    }

    /// The last op of `origin`, if any is there.
    pub fn last_of(&self, origin: NodeId) -> Option<&Op> {
        self.chains.get(&origin)?.ops.back()
    }

    /// The running hash of `origin` at `seq`, if it is held as far as that and not forgotten.
    pub fn hash_at(&self, origin: NodeId, seq: u64) -> Option<Hash> {
        if seq == 0 {
            return Some(Hash::default());
        }
        let chain = self.chains.get(&origin)?;
        if seq == chain.head.seq { Some(chain.head.hash) } else { chain.hash_at(seq) }
    }

    /// Takes the next op of its origin, with the head after it.
    pub fn append(&mut self, op: Op, head: Head) {
        let chain = self.chains.entry(op.origin()).or_default();
        debug_assert_eq!(head, chain.head.extended(&op), "the caller extends the head that is here");
        chain.head = head;
        chain.hashes.push_back(chain.head.hash);
        self.len += 1;
        self.kept += 1;
        self.kept_bytes += op.bytes().len();
        chain.ops.push_back(op);
        self.digest.take();
    }

    /// The ops beyond these seqs of their origins, in stamp order; of what is forgotten, nothing.
    pub fn beyond(&self, origins: impl Iterator<Item = (NodeId, u64)>) -> impl Iterator<Item = &Op> {
        self.merged(origins.filter_map(|(origin, seq)| {
            let chain = self.chains.get(&origin)?;
            Some((origin, chain, seq.saturating_sub(chain.start.seq) as usize))
        }))
    }

    /// All ops there are with a stamp past `after`, in stamp order; of one origin or of all.
    pub fn after(&self, after: Stamp, origin: Option<NodeId>) -> impl Iterator<Item = &Op> {
        let wanted = self.chains.iter().filter(move |(id, _)| origin.is_none_or(|origin| origin == **id));
        self.merged(wanted.map(move |(id, chain)| (*id, chain, chain.ops.partition_point(|op| op.stamp() <= after))))
    }

    /// All ops with a stamp below `before`, newest first; of one origin or of all.
    pub fn before(&self, before: Stamp, origin: Option<NodeId>) -> impl Iterator<Item = &Op> {
        let wanted = self.chains.iter().filter(move |(id, _)| origin.is_none_or(|origin| origin == **id));
        let mut next: BinaryHeap<(&Op, usize, NodeId)> = wanted
            .filter_map(|(id, chain)| {
                let last = chain.ops.partition_point(|op| op.stamp() < before).checked_sub(1)?;
                Some((chain.ops.get(last)?, last, *id))
            })
            .collect();
        std::iter::from_fn(move || {
            let (op, index, id) = next.pop()?;
            if let Some(below) = index.checked_sub(1) {
                next.push((&self.chains[&id].ops[below], below, id));
            }
            Some(op)
        })
    }

    fn merged<'a>(&'a self, starts: impl Iterator<Item = (NodeId, &'a Chain, usize)>) -> impl Iterator<Item = &'a Op> {
        let mut next: BinaryHeap<Reverse<(&Op, usize, NodeId)>> =
            starts.filter_map(|(id, chain, index)| Some(Reverse((chain.ops.get(index)?, index, id)))).collect();
        std::iter::from_fn(move || {
            let Reverse((op, index, id)) = next.pop()?;
            if let Some(above) = self.chains[&id].ops.get(index + 1) {
                next.push(Reverse((above, index + 1, id)));
            }
            Some(op)
        })
    }
}
