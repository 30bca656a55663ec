//! Two processes with one node id: a data directory was copied, and both copies run. One of them must come back as another,
//! and the other stays.
//!
//! The two find out when they meet. Where they cannot, a third node does that both link to: it hears the one, then the other,
//! and then the first again. Whoever was merely restarted is never heard again under an earlier number.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{LinkId, Replica, rebirth::Loss};
use crate::{
    document::check_urls,
    op::NodeId,
    plant::{Rule, left_out},
    wire::{Hello, Why},
};

/// Most processes of one node that are remembered.
const PROCESSES_MAX: usize = 4;
/// Bits of a process number that tell when the process began; the others are random.
const BEGAN_BITS: u32 = 28;
/// Starts of a node are at least so many times apart, as powers of two go; what is nearer counts as one start.
const APART_BITS: u32 = 8;

/// By node, the processes that it was heard as, the last one last.
pub(super) type Processes = BTreeMap<NodeId, Vec<u64>>;

/// The number of a process: of two that go on from one journal, that which began at a later time has the greater, so that it is
/// the one to give way. It does not tell the seed.
pub(super) fn process_number(seed: u64, run: u64) -> u64 {
    let began = (run >> APART_BITS).min((1 << BEGAN_BITS) - 1);
    let hash = blake3::derive_key("lamplight process number", &seed.to_le_bytes());
    let random = hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    began << (u64::BITS - BEGAN_BITS) | random >> BEGAN_BITS
}

impl Replica {
    /// Whether the peer is another process that runs under this node's id, in this node's pool.
    pub(super) fn is_copy(&self, hello: &Hello) -> bool {
        let apart = matches!((&self.pool, &hello.pool), (Some((ours, _)), Some((theirs, _))) if ours != theirs);
        hello.node == self.config.node && hello.process != self.process && !apart && !left_out(Rule::Copies)
    }

    /// This node meets another process of its id. The one that has issued more stays, and that which began first if both have
    /// issued as much. What is compared never shrinks, so the two never both give way; if one has just issued something, both
    /// may stay, and meet again.
    pub(super) fn meet_copy(&mut self, link: LinkId, hello: &Hello) {
        let (ours, theirs) = ((self.issued().0, Reverse(self.process)), (hello.issued.0, Reverse(hello.process)));
        let node = self.config.node;
        if ours > theirs || self.roster.is_retired(node) {
            // Who dialled has said hello.
            if self.links.get(&link).is_some_and(|link| link.dialled.is_none()) {
                self.say_hello(link);
            }
            return self.refuse(link, Why::SameId, format!("two processes run as {node}, and this one stays"));
        }
        // There it finds the pool again, also if it knew nobody else.
        if check_urls(&hello.urls).is_ok() {
            hello.urls.iter().for_each(|url| self.peers.hint(url));
        }
        // Up to where the later of the two began both have the same ops.
        self.resumed_at = self.resumed_at.max(hello.issued.1.min(self.issued().0));
        self.be_reborn(format!("two processes run as {node}: this one comes back as another"), Loss::Fork);
    }

    /// How many ops this node has issued under its id, and how many of them it came back with.
    pub(super) fn issued(&self) -> (u64, u64) {
        (self.log.head(self.config.node).seq, self.resumed_at)
    }

    /// Why there is no link with this process: another one of its id is there, and was so while this one was.
    pub(super) fn gives_way(&self, hello: &Hello) -> Option<String> {
        let seen = self.processes.get(&hello.node)?;
        let (last, before) = seen.split_last()?;
        let both = before.contains(&hello.process) && hello.process > *last;
        both.then(|| format!("two processes run as {}: this one comes back as another", hello.node))
    }

    /// The peer has said something behind its hello, so its process is there.
    pub(super) fn confirm_process(&mut self, link: LinkId) {
        let Some(found) = self.links.get_mut(&link).filter(|link| !link.confirmed) else { return };
        let Some(peer) = &found.peer else { return };
        found.confirmed = true;
        let (node, process) = (peer.node, peer.process);
        if !self.roster.knows(node) || left_out(Rule::Copies) {
            return;
        }
        let seen = self.processes.entry(node).or_default();
        seen.retain(|other| *other != process);
        seen.push(process);
        if seen.len() > PROCESSES_MAX {
            seen.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::replica::{
        Config, Recovery, Replica, Standing,
        transfer::tests::{Pool, config},
    };

    /// A node that goes on from what another has stored so far.
    fn copy_of(pool: &Pool, node: usize, seed: u64) -> Replica {
        let mut recovery = Recovery::new(Config { seed, join: Vec::new(), found: false, ..config(90, false) });
        pool.records[node].iter().cloned().for_each(|record| recovery.take(record));
        recovery.finish(None)
    }

    /// A lone node that has written, and two that go on from its journal.
    fn copies() -> (Pool, [usize; 2]) {
        let mut pool = Pool::default();
        let first = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        drop(pool.put(first, "x", 1));
        pool.pass(2_000);
        let both = [copy_of(&pool, first, 7), copy_of(&pool, first, 8)];
        pool.nodes.clear();
        pool.records.clear();
        let both = both.map(|node| pool.add(node));
        (pool, both)
    }

    #[test]
    fn of_two_copies_that_meet_one_comes_back_as_another_and_nothing_is_lost() {
        let (mut pool, [a, b]) = copies();
        pool.pass(200);
        assert_eq!(pool.nodes[a].node(), pool.nodes[b].node());
        drop(pool.put(a, "a", 1));
        drop(pool.put(b, "b", 1));
        (0..20).for_each(|_| {
            pool.link(a, b);
            pool.pass(1_000);
        });
        let nodes = [a, b].map(|node| &pool.nodes[node]);
        assert_ne!(nodes[0].node(), nodes[1].node());
        for node in nodes {
            let there = ["x", "a", "b"].map(|id| node.state().text("c", id).is_some());
            assert_eq!((there, node.standing(), node.roster().len()), ([true; 3], Standing::Member, 2));
        }
        assert_eq!(nodes.map(|node| node.counters().reborn).iter().sum::<u64>(), 1);
    }
}
