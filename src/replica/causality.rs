//! Which ops had seen which: exact causality, read from the log.
//!
//! An op names what its origin had come to hold of others since that origin's previous op. So what it had seen of another
//! origin is what the last op of its own origin says of that one, up to itself. Mentions lie behind the op that they
//! mention: to compare ops, only what is behind the first of them is read. So it is exact wherever the ops themselves
//! are kept, though the log before them is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::Log;
use crate::op::{NodeId, Op, OpId, Stamp};

/// What some ops had seen of each other's origins. It is read from the log in steps: until it [`is_known`], it does not
/// know all.
///
/// [`is_known`]: Causality::is_known
#[derive(Clone, Debug, Default)]
pub struct Causality {
    origins: BTreeSet<NodeId>,
    /// By an origin and one that it mentions: the seq of each op that does, and up to which seq; both rise.
    mentions: BTreeMap<(NodeId, NodeId), Vec<(u64, u64)>>,
    /// The origins whose ops are yet to be read, each with the stamp to go on behind.
    unread: Vec<(NodeId, Stamp)>,
    /// The stamp up to which they are.
    until: Option<Stamp>,
    looked: usize,
}

impl Causality {
    /// Among ops that are given in stamp order.
    pub fn among<'o>(mut ops: impl DoubleEndedIterator<Item = &'o Op> + Clone) -> Causality {
        let origins: BTreeSet<NodeId> = ops.clone().map(Op::origin).collect();
        let first = ops.next().map(Op::stamp);
        let until = ops.next_back().map(Op::stamp);
        // Ops of one origin are in the order of their seqs.
        let several = origins.len() > 1;
        let unread = origins.iter().filter(|_| several).filter_map(|origin| Some((*origin, first?))).collect();
        Causality { origins, unread, until, ..Causality::default() }
    }

    /// Reads on, at most so many ops.
    pub fn read(&mut self, log: &Log, most: usize) {
        let mut left = most;
        while left > 0
            && let Some((origin, behind)) = self.unread.pop()
        {
            let until = self.until.unwrap_or(behind);
            let mut ops = log.after(behind, Some(origin)).take_while(|op| op.stamp() <= until);
            let mut last = None;
            for op in ops.by_ref().take(left) {
                left -= 1;
                self.looked += 1;
                for (other, seq) in op.seen().into_iter().filter(|(other, _)| self.origins.contains(other)) {
                    self.mentions.entry((origin, other)).or_default().push((op.id().seq, seq));
                }
                last = Some(op.stamp());
            }
            if let Some(last) = last.filter(|_| left == 0) {
                self.unread.push((origin, last));
            }
        }
    }

    /// Whether all is read that tells.
    pub fn is_known(&self) -> bool {
        self.unread.is_empty()
    }

    /// How many ops it has read.
    pub fn looked(&self) -> usize {
        self.looked
    }

    /// Up to which seq an op had seen another origin. Less than the first of the ops compared is said as 0.
    pub fn seen(&self, op: OpId, of: NodeId) -> u64 {
        if op.origin == of {
            return op.seq - 1;
        }
        let Some(mentions) = self.mentions.get(&(op.origin, of)) else { return 0 };
        let behind = mentions.partition_point(|(seq, _)| *seq <= op.seq);
        behind.checked_sub(1).map_or(0, |last| mentions[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Body, Command, DocKey};
    use uuid::Uuid;

    /// Nodes that write and hear of each other at random, each with all that it holds of the others.
    fn history(rng: &mut fastrand::Rng, ops: usize) -> (Log, Vec<(Op, BTreeMap<NodeId, u64>)>) {
        let nodes: Vec<NodeId> = (1..5).map(|n| NodeId(Uuid::from_u128(n))).collect();
        let mut held: Vec<BTreeMap<NodeId, u64>> = vec![BTreeMap::new(); nodes.len()];
        let (mut named, mut clocks) = (held.clone(), vec![0; nodes.len()]);
        let (mut log, mut found) = (Log::default(), Vec::new());
        while found.len() < ops {
            let (at, other) = (rng.usize(..nodes.len()), rng.usize(..nodes.len()));
            if at != other && rng.u8(..3) == 0 {
                for (origin, seq) in held[other].clone().into_iter().filter(|(origin, _)| *origin != nodes[at]) {
                    let known = held[at].entry(origin).or_default();
                    *known = seq.max(*known);
                }
                clocks[at] = clocks[other].max(clocks[at]);
                continue;
            }
            clocks[at] += 1;
            let mut seen = held[at].clone();
            seen.remove(&nodes[at]);
            let news = seen.iter().filter(|(origin, seq)| named[at].get(origin) != Some(seq));
            let command = Command::Delete(DocKey::new("c", "x"));
            let body = Body {
                wall_ms: u64::MAX,
                seen: news.map(|(origin, seq)| (*origin, *seq)).collect(),
                key: None,
                guards: vec![],
                commands: vec![command],
            };
            let id = OpId { origin: nodes[at], seq: log.head(nodes[at]).seq + 1 };
            let op = Op::encode(id, clocks[at], &body).unwrap();
            assert_eq!(op.seen(), body.seen);
            log.append(op.clone(), log.head(nodes[at]).extended(&op));
            named[at].clone_from(&seen);
            held[at].insert(nodes[at], id.seq);
            seen.insert(nodes[at], id.seq - 1);
            found.push((op, seen));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        (log, found)
    }

    #[test]
    fn what_an_op_had_seen_is_exact_also_where_only_a_part_is_read() {
        for seed in 0..30 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (log, ops) = history(&mut rng, 150);
            let from = rng.usize(..100);
            let some = &ops[from..from + rng.usize(1..50)];
            let mut causality = Causality::among(some.iter().map(|(op, _)| op));
            let step = rng.usize(1..20);
            while !causality.is_known() {
                causality.read(&log, step);
            }
            for (op, seen) in some {
                for (other, _) in some.iter().filter(|(other, _)| other != op) {
                    let OpId { origin, seq } = other.id();
                    let had = seen.get(&origin).is_some_and(|seen| *seen >= seq);
                    assert_eq!(causality.seen(op.id(), origin) >= seq, had, "seed {seed}: {op:?} of {other:?}");
                }
            }
        }
    }
}
