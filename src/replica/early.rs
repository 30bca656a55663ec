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
/// An op that was heard waits for so long. What it misses may never come: its origin has given its id up.
const WAITS_MS: u64 = 60_000;
/// Between two looks for ops that have waited too long.
const LOOK_MS: u64 = 5_000;

/// The waiting ops, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: BTreeMap<OpId, Vec<Waiting>>,
    len: usize,
    bytes: usize,
    looked_ms: u64,
}

#[derive(Debug)]
struct Waiting {
    op: Op,
    /// When it was heard; none if it is from the node's own disk.
    heard_ms: Option<u64>,
}

impl Early {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keeps `op` until `missing` comes; drops it if there is no room or it waits already.
    pub(super) fn keep(&mut self, op: Op, missing: OpId, now_ms: u64) {
        if self.len < early_squeezed(EARLY_OPS_MAX) && self.bytes + op.bytes().len() <= EARLY_BYTES_MAX {
            self.add(Waiting { op, heard_ms: Some(now_ms) }, missing);
        }
    }

    /// The same without a bound: for what comes from the node's own disk, which nobody else may have.
    pub(super) fn keep_all(&mut self, op: Op, missing: OpId) {
        self.add(Waiting { op, heard_ms: None }, missing);
    }

    fn add(&mut self, new: Waiting, missing: OpId) {
        let waiting = self.waiting.entry(missing).or_default();
        if waiting.iter().all(|other| other.op.id() != new.op.id()) {
            self.len += 1;
            self.bytes += new.op.bytes().len();
            waiting.push(new);
        }
    }

    /// Drops what was heard and has waited too long. If it can still be placed, the repair by heads brings it again.
    pub(super) fn expire(&mut self, now_ms: u64) {
        if self.len == 0 || now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        self.take_if(|waiting| waiting.heard_ms.is_some_and(|heard_ms| now_ms >= heard_ms + WAITS_MS));
    }

    /// All that waits, in stamp order.
    pub(super) fn take_all(&mut self) -> Vec<Op> {
        let all = std::mem::take(self).waiting.into_values().flatten();
        let mut all: Vec<Op> = all.map(|waiting| waiting.op).collect();
        all.sort();
        all
    }

    /// What waits of these origins, in stamp order.
    pub(super) fn take_of(&mut self, origins: &[NodeId]) -> Vec<Op> {
        self.take_if(|waiting| origins.contains(&waiting.op.origin()))
    }

    /// Takes what is such, in stamp order.
    fn take_if(&mut self, is_such: impl Fn(&Waiting) -> bool) -> Vec<Op> {
        let mut taken: Vec<Op> = Vec::new();
        for waiting in self.waiting.values_mut() {
            taken.extend(waiting.extract_if(.., |waiting| is_such(waiting)).map(|waiting| waiting.op));
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
        let released: Vec<Op> = released.into_iter().map(|waiting| waiting.op).collect();
        self.len -= released.len();
        self.bytes -= released.iter().map(|op| op.bytes().len()).sum::<usize>();
        released
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::op::{Body, Command};

    #[test]
    fn what_was_heard_does_not_wait_for_ever_and_what_the_disk_held_does() {
        let id = |seq| OpId { origin: NodeId(Uuid::from_u128(1)), seq };
        let body =
            Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands: vec![Command::Retire] };
        let op = |seq| Op::encode(id(seq), seq, &body).expect("it is sound");
        let mut early = Early::default();
        early.keep(op(3), id(2), 1_000);
        early.keep(op(5), id(4), 50_000);
        early.keep_all(op(7), id(6));
        early.expire(1_000 + WAITS_MS - 1);
        assert_eq!(early.len(), 3);
        early.expire(1_000 + WAITS_MS + LOOK_MS);
        assert_eq!(early.take_all(), [op(5), op(7)]);
    }
}
