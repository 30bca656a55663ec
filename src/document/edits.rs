//! The last edits of text documents, in the order in which this node put them in, for those who keep a text worked out.
//!
//! As in the ring of changes each reader has a place of its own, and starts over once it has fallen behind. An entry is the
//! ops that have come to a text; none if something else became of it: it was replaced, deleted, or an op of it has lost its
//! effect. Then its readers look at the document again.

use std::{collections::VecDeque, sync::Arc};

use compact_str::CompactString;

use crate::op::Op;

/// Most entries, and most bytes of their ops; the oldest go first.
const EDITS_MAX: (usize, usize) = (1 << 14, 16 << 20);

/// Something became of a text document.
#[derive(Clone, Debug)]
pub struct Edited {
    /// Its collection.
    pub collection: Arc<str>,
    /// Its id.
    pub id: CompactString,
    /// The ops that came to it; empty if it must be looked at again.
    pub ops: Vec<Op>,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Edits {
    ring: VecDeque<Edited>,
    dropped: u64,
    bytes: usize,
}

impl Edits {
    /// The place behind the newest.
    pub fn end(&self) -> u64 {
        self.dropped + self.ring.len() as u64
    }

    /// Those from `place` on; none if it is not within the ring.
    pub fn since(&self, place: u64) -> Option<impl Iterator<Item = &Edited>> {
        let skip = usize::try_from(place.checked_sub(self.dropped)?).ok()?;
        (skip <= self.ring.len()).then(|| self.ring.range(skip..))
    }

    /// An empty ring that has none of the places of this one.
    pub(super) fn broken_off(&self) -> Edits {
        Edits { dropped: self.end() + 1, ..Edits::default() }
    }

    pub(super) fn push(&mut self, edited: Edited) {
        self.bytes += cost(&edited);
        self.ring.push_back(edited);
        while self.ring.len() > EDITS_MAX.0 || self.bytes > EDITS_MAX.1 {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.dropped += 1;
        }
    }
}

fn cost(edited: &Edited) -> usize {
    edited.id.len() + edited.ops.iter().map(|op| op.bytes().len()).sum::<usize>()
}
