//! Ops that came before what they rest on.
//!
//! Each waits for the first thing it misses: its origin's previous op, or one that it has seen. The buffer is bounded for
//! what is heard; what does not fit is dropped, and the repair by heads brings it again.

use std::collections::BTreeMap;

use crate::{
    op::{NodeId, Op, OpId},
    plant::early_squeezed,
};

/// Most ops that wait.
pub const EARLY_OPS_MAX: usize = 10_000;
/// Most bytes that wait.
pub const EARLY_BYTES_MAX: usize = 32 << 20;

/// The waiting ops, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: BTreeMap<OpId, Vec<Op>>,
    len: usize,
    bytes: usize,
}

impl Early {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keeps `op` until `missing` comes; drops it if there is no room or it waits already.
    pub(super) fn keep(&mut self, op: Op, missing: OpId) {
        if self.len < early_squeezed(EARLY_OPS_MAX) && self.bytes + op.bytes().len() <= EARLY_BYTES_MAX {
            self.keep_all(op, missing);
        }
    }

    /// The same without a bound: for what comes from the node's own disk, which nobody else may have.
    pub(super) fn keep_all(&mut self, op: Op, missing: OpId) {
        let waiting = self.waiting.entry(missing).or_default();
        if waiting.iter().all(|other| other.id() != op.id()) {
            self.len += 1;
            self.bytes += op.bytes().len();
            waiting.push(op);
        }
    }

    /// All that waits, in stamp order.
    pub(super) fn take_all(&mut self) -> Vec<Op> {
        let mut all: Vec<Op> = std::mem::take(self).waiting.into_values().flatten().collect();
        all.sort();
        all
    }

    /// What waits of these origins, in stamp order.
    pub(super) fn take_of(&mut self, origins: &[NodeId]) -> Vec<Op> {
        let mut taken: Vec<Op> = Vec::new();
        for waiting in self.waiting.values_mut() {
            taken.extend(waiting.extract_if(.., |op| origins.contains(&op.origin())));
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.len -= taken.len();
        self.bytes -= taken.iter().map(|op| op.bytes().len()).sum::<usize>();
        taken.sort();
        taken
    }

    /// What waited for `came`.
    pub(super) fn released(&mut self, came: OpId) -> Vec<Op> {
        if self.len == 0 {
            return Vec::new();
        }
        let released = self.waiting.remove(&came).unwrap_or_default();
        self.len -= released.len();
        self.bytes -= released.iter().map(|op| op.bytes().len()).sum::<usize>();
        released
    }
}
