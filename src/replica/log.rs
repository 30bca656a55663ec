//! The log: every op held, and the heads that say how far.
//!
//! It is kept by origin, where seq finds an op at once and time rises with seq; stamp order is the merge of the
//! origins. So an op costs one pointer here, a late op moves nothing, and "what is beyond these heads" needs no index.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::OnceLock,
};

use crate::op::{Hash, Head, NodeId, Op, OpId, Stamp};

/// A hash is kept every so many seqs; those between are made again when two nodes compare.
const HASH_EVERY: u64 = 64;

/// All ops held.
#[derive(Debug, Default)]
pub struct Log {
    chains: BTreeMap<NodeId, Chain>,
    len: usize,
    /// Worked out when it is first asked for; every beat of every link asks.
    digest: OnceLock<Hash>,
}

/// The ops of one origin, from seq 1 without gaps.
#[derive(Debug, Default)]
struct Chain {
    ops: VecDeque<Op>,
    head: Head,
    /// The running hash at seqs 0, 64, 128 …
    hashes: Vec<Hash>,
}

impl Log {
    /// How many ops are held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
        *self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for (origin, head) in self.heads() {
                hasher.update(origin.0.as_bytes()).update(&head.seq.to_le_bytes()).update(&head.hash.0);
            }
            let mut digest = [0; 16];
            digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            Hash(digest)
        })
    }

    /// An op, if it is held.
    pub fn get(&self, id: OpId) -> Option<&Op> {
        let index = usize::try_from(id.seq.checked_sub(1)?).ok()?;
        self.chains.get(&id.origin)?.ops.get(index)
    }

    /// The last op of `origin`, if any is held.
    pub fn last_of(&self, origin: NodeId) -> Option<&Op> {
        self.chains.get(&origin)?.ops.back()
    }

    /// The running hash of `origin` at `seq`, if it is held as far as that.
    pub fn hash_at(&self, origin: NodeId, seq: u64) -> Option<Hash> {
        if seq == 0 {
            return Some(Hash::default());
        }
        let chain = self.chains.get(&origin)?;
        if seq == chain.head.seq {
            return Some(chain.head.hash);
        }
        let kept = seq / HASH_EVERY;
        let mut head = Head { seq: kept * HASH_EVERY, hash: *chain.hashes.get(kept as usize)? };
        while head.seq < seq {
            head = head.extended(chain.ops.get(head.seq as usize)?);
        }
        Some(head.hash)
    }

    /// Takes the next op of its origin, with the head after it.
    pub fn append(&mut self, op: Op, head: Head) {
        let chain = self.chains.entry(op.origin()).or_default();
        if chain.hashes.is_empty() {
            chain.hashes.push(Hash::default());
        }
        debug_assert_eq!(head, chain.head.extended(&op), "the caller extends the head that is here");
        chain.head = head;
        if chain.head.seq.is_multiple_of(HASH_EVERY) {
            chain.hashes.push(chain.head.hash);
        }
        chain.ops.push_back(op);
        self.len += 1;
        self.digest.take();
    }

    /// The ops beyond the seqs that `known` gives for `origins`, in stamp order.
    pub fn beyond(&self, origins: impl Iterator<Item = (NodeId, u64)>) -> impl Iterator<Item = &Op> {
        self.merged(origins.filter_map(|(origin, seq)| Some((origin, self.chains.get(&origin)?, seq as usize))))
    }

    /// All ops with a stamp past `after`, in stamp order; of one origin or of all.
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
