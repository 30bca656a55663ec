//! The last changes of the documents, in the order in which this node made them.
//!
//! One ring serves every subscriber, long poll and event stream: each reads it from a place of its own, so a slow
//! reader costs no memory. An entry keeps what the document was *before*, so that a filter can tell a document that
//! left it from one that was never in it. Who falls behind the ring starts again from the documents themselves.

use std::{collections::VecDeque, sync::Arc};

use compact_str::CompactString;

use super::Text;

/// Most entries the ring keeps: about five seconds of changes at the highest rate that a node sustains.
pub const CHANGES_MAX: usize = 1 << 16;
/// Most bytes of the entries and of what they keep in memory, and as many while memory is short; the oldest entries go first.
const BYTES_MAX: [usize; 2] = [64 << 20, 4 << 20];

/// One document changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its collection.
    pub collection: Arc<str>,
    /// Its id.
    pub id: CompactString,
    /// Its content until then.
    pub before: Option<Text>,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Changes {
    ring: VecDeque<Change>,
    dropped: u64,
    bytes: usize,
    tight: bool,
}

impl Changes {
    /// The place behind the newest change.
    pub fn end(&self) -> u64 {
        self.dropped + self.ring.len() as u64
    }

    /// The place of the oldest change that is kept.
    pub fn start(&self) -> u64 {
        self.dropped
    }

    /// The changes from `place` on; none if `place` is not within the ring.
    pub fn since(&self, place: u64) -> Option<impl Iterator<Item = &Change>> {
        let skip = usize::try_from(place.checked_sub(self.dropped)?).ok()?;
        (skip <= self.ring.len()).then(|| self.ring.range(skip..))
    }

    /// An empty ring that has none of the places of this one.
    pub(super) fn broken_off(&self) -> Changes {
        Changes { dropped: self.end() + 1, tight: self.tight, ..Changes::default() }
    }

    /// Keeps less, or as much as usual again.
    pub(super) fn tighten(&mut self, tight: bool) {
        self.tight = tight;
        self.trim();
    }

    pub(super) fn push(&mut self, change: Change) {
        // A small document of a large transaction would keep all of that.
        let change = Change { before: change.before.map(Text::detached), ..change };
        self.bytes += cost(&change);
        self.ring.push_back(change);
        self.trim();
    }

    fn trim(&mut self) {
        while self.ring.len() > CHANGES_MAX || self.bytes > BYTES_MAX[usize::from(self.tight)] {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.dropped += 1;
        }
    }
}

fn cost(change: &Change) -> usize {
    size_of::<Change>() + change.id.len() + change.before.as_ref().map_or(0, Text::kept_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Body, Command, DocKey, NodeId, Op, OpId};

    fn put(value: &str, padding: usize) -> Text {
        let long = format!("\"{}\"", "x".repeat(padding));
        let commands = vec![
            Command::Put(DocKey::new("c", "a"), value.into()),
            Command::Put(DocKey::new("c", "b"), long.as_str().into()),
        ];
        let id = OpId { origin: NodeId(uuid::Uuid::from_u128(1)), seq: 1 };
        let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands };
        let op = Op::encode(id, 1, &body).unwrap();
        let body = op.body();
        let Some(Command::Put(_, text)) = body.commands.first() else { unreachable!("put above") };
        Text::in_op(&op, text)
    }

    fn change(before: Text) -> Change {
        Change { collection: "c".into(), id: "a".into(), before: Some(before) }
    }

    #[test]
    fn what_the_ring_keeps_in_memory_is_bounded_whatever_the_ops_are() {
        for (padding, value_bytes) in [(0, 10), (1_000_000, 10), (200_000, 100_000), (500, 10)] {
            let value = format!("\"{}\"", "v".repeat(value_bytes));
            let mut ring = Changes::default();
            let most = 2 * BYTES_MAX[0] / (value_bytes + padding).max(1_000);
            (0..most.min(2 * CHANGES_MAX)).for_each(|_| ring.push(change(put(&value, padding))));
            let kept: usize = ring.ring.iter().map(cost).sum();
            assert_eq!(ring.bytes, kept);
            assert!(kept <= BYTES_MAX[0] && ring.ring.len() <= CHANGES_MAX);
            let is_large = |change: &Change| cost(change) > 5 * value_bytes + 2_000;
            assert!(!ring.ring.iter().any(is_large), "{padding} {value_bytes}");
        }
    }
}
