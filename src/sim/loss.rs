//! What is lost with nodes that vanish and do not come back as they were.

use std::collections::BTreeSet;

use super::world::{Node, World};
use crate::op::NodeId;

/// What a node that has vanished knew.
#[derive(Debug)]
pub struct Left {
    /// Its id.
    pub node: NodeId,
    /// Those who remained.
    pub pool: BTreeSet<NodeId>,
    /// Up to where all was final.
    pub frontier: u64,
}

impl World {
    /// A node that has vanished will not come back with what it knew. Where a majority is gone so, only force goes on, which risks
    /// what nobody else knows to be final.
    pub(super) fn lose(&mut self, lost: usize) {
        let Some(Left { pool, .. }) = self.nodes[lost].left.take() else { return };
        let last = |index: usize, node: &Node| {
            !self.nodes[index + 1..].iter().any(|later| later.birth.machine == node.birth.machine)
        };
        let knows = |(index, node): (usize, &Node)| match (&node.replica, &node.left) {
            (Some(replica), _) => Some((replica.node(), replica.frontier())),
            (None, Some(left)) if node.birth.durable && last(index, node) => Some((left.node, left.frontier)),
            _ => None,
        };
        let known: Vec<(NodeId, u64)> = self.nodes.iter().enumerate().filter_map(knows).collect();
        let survivors = pool.iter().filter(|node| known.iter().any(|(other, _)| other == *node)).count();
        if 2 * survivors <= pool.len() {
            self.ledger.lost_beyond(known.iter().map(|(_, frontier)| *frontier).max().unwrap_or(0));
        }
    }
}
