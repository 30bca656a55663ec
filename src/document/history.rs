//! One document: its text now, and the ops that may still be preceded by others.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{
    Text,
    workbench::{KEYS, Reason, Workbench},
};
use crate::{
    op::{Body, Command, DocKey, Op, Stamp},
    plant::{Rule, left_out},
};

/// A replay begins at most this many ops before the place it is needed for.
const CHECKPOINT_EVERY: usize = 16;

/// The ops that have no effect, and why.
pub(super) type Rejected = BTreeMap<Stamp, Reason>;

/// A document and the ops that touch it (write it, or read it in a guard), in stamp order.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) text: Option<Text>,
    pub(super) ops: SmallVec<[Op; 1]>,
    /// What most documents do not need.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// Ascending. Before the first op the document is absent.
    checkpoints: Vec<Checkpoint>,
    /// Whether one of the ops reads or writes other documents as well and may fail: it carries a change on to those.
    linked: bool,
    /// The ops that only read the document, ascending. Remembered, since an op over a thousand documents is not to be
    /// decoded for each of them when someone asks which op wrote it.
    reading: Vec<Stamp>,
}

/// What an op that comes is to one of its documents.
#[derive(Debug)]
pub(super) struct Part<'b> {
    pub(super) op: &'b Op,
    pub(super) body: &'b Body<'b>,
    /// Whether the op carries a change of one of its documents on to the others.
    pub(super) links: bool,
    /// The last of its commands that writes the document; none if it only reads it.
    pub(super) last: Option<&'b Command<'b>>,
}

/// What the document is after its first `after` ops.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    after: usize,
    text: Option<Text>,
}

impl Document {
    /// Whether an op links the document to others.
    pub(super) fn is_linked(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.linked)
    }

    fn checkpoints(&self) -> &[Checkpoint] {
        self.more.as_ref().map_or(&[], |more| &more.checkpoints)
    }

    /// Puts `new` (in stamp order) to their places in the document `key`, and returns the first of these places.
    pub(super) fn insert(&mut self, key: &DocKey<'_>, new: &[Part<'_>]) -> usize {
        let linking = new.iter().filter(|part| part.links);
        linking.for_each(|part| self.more.get_or_insert_default().link(part, key));
        let Some(least) = new.first().map(|part| part.op) else { return self.ops.len() };
        if self.ops.last().is_none_or(|last| last < least) || left_out(Rule::LateInsertion) {
            let first = self.ops.len();
            self.ops.extend(new.iter().map(|part| part.op.clone()));
            return first;
        }
        let first = self.ops.partition_point(|op| op < least);
        if let [only] = new {
            self.ops.insert(first, only.op.clone());
        } else {
            // Both runs are sorted, which the stable sort finds and merges in one pass.
            self.ops.extend(new.iter().map(|part| part.op.clone()));
            self.ops[first..].sort();
        }
        first
    }

    /// Takes the checkpoints behind the place `first` away: they are to be made anew.
    pub(super) fn cut_checkpoints(&mut self, first: usize) -> Vec<Checkpoint> {
        if left_out(Rule::CheckpointDrop) {
            return Vec::new();
        }
        let Some(more) = &mut self.more else { return Vec::new() };
        let kept = more.checkpoints.partition_point(|checkpoint| checkpoint.after <= first);
        more.checkpoints.split_off(kept)
    }

    /// Whether the document, `text` after its first `after` ops, is there what it was before `added` ops came: then it
    /// is so ever after.
    pub(super) fn is_as_before(
        cut: &[Checkpoint],
        added: usize,
        after: usize,
        text: impl FnOnce() -> Option<Text>,
    ) -> bool {
        let at = cut.binary_search_by_key(&after, |checkpoint| checkpoint.after + added);
        at.is_ok_and(|at| cut[at].text == text())
    }

    /// Gives checkpoints back whose text still holds, though `added` ops came before them.
    pub(super) fn restore_checkpoints(&mut self, from: usize, cut: Vec<Checkpoint>, added: usize) {
        let Some(more) = &mut self.more else { return };
        let made = more.checkpoints.last().map_or(0, |checkpoint| checkpoint.after);
        let moved = cut.into_iter().map(|Checkpoint { after, text }| Checkpoint { after: after + added, text });
        more.checkpoints.extend(moved.filter(|checkpoint| checkpoint.after >= from && checkpoint.after > made));
    }

    /// Keeps what the document is after `after` ops, where it is time to.
    pub(super) fn checkpoint(&mut self, after: usize, text: impl FnOnce() -> Option<Text>) {
        let last = self.checkpoints().last().map_or(0, |checkpoint| checkpoint.after);
        if after >= last + CHECKPOINT_EVERY {
            self.more.get_or_insert_default().checkpoints.push(Checkpoint { after, text: text() });
        }
    }

    /// What the document was before its op at `place`, where that can matter: found from the nearest checkpoint, or from
    /// the nearest op before that replaced it whole. Ops behind `place` decide nothing here; those before it keep their
    /// verdicts, and are carried out by `again`.
    pub(super) fn text_before<'d>(
        &'d self,
        key: &DocKey<'_>,
        place: usize,
        rejected: &Rejected,
        again: impl FnMut(&mut Workbench<'_>, &'d Op),
    ) -> Option<Text> {
        if left_out(Rule::Rollback) {
            return self.text.clone();
        }
        if self.ops.get(place).is_some_and(replaces) {
            return None;
        }
        self.text_at(key, place, rejected, again)
    }

    /// What the document was before its op at `place`. The ops before that keep their verdicts, and are carried out by
    /// `again`.
    pub(super) fn text_at<'d>(
        &'d self,
        key: &DocKey<'_>,
        place: usize,
        rejected: &Rejected,
        mut again: impl FnMut(&mut Workbench<'_>, &'d Op),
    ) -> Option<Text> {
        if key.collection == KEYS {
            return self.ops[..place].first().map(|first| Text::own(first.id().to_string()));
        }
        let checkpoints = self.checkpoints();
        let at = checkpoints.partition_point(|checkpoint| checkpoint.after <= place);
        let (mut start, text) = match at.checked_sub(1).map(|at| &checkpoints[at]) {
            Some(checkpoint) => (checkpoint.after, checkpoint.text.clone()),
            None => (0, None),
        };
        if let Some(overwrite) = (start..place).rev().find(|index| replaces(&self.ops[*index])) {
            start = overwrite;
        }
        let mut bench = Workbench::new([(key.clone(), text)].into_iter());
        for op in self.ops[start..place].iter().filter(|op| !rejected.contains_key(&op.stamp())) {
            again(&mut bench, op);
        }
        bench.text(0)
    }

    /// The time of the last of its ops.
    pub(super) fn latest(&self) -> u64 {
        self.ops.last().map_or(0, Op::time)
    }

    /// The stamp of the last op that wrote the document: each of its ops does, but for those that only read it.
    pub(super) fn stamp(&self, rejected: &Rejected) -> Option<Stamp> {
        self.stamp_at(self.ops.len(), rejected)
    }

    /// The stamp of the last op before that at `place` that wrote the document.
    pub(super) fn stamp_at(&self, place: usize, rejected: &Rejected) -> Option<Stamp> {
        let reading = self.more.as_ref().map_or(&[][..], |more| &more.reading);
        let wrote = |stamp: &Stamp| reading.binary_search(stamp).is_err() && !rejected.contains_key(stamp);
        self.ops[..place].iter().rev().map(Op::stamp).find(wrote)
    }
}

impl More {
    /// Notes an op that links the document `key` to others. Only such an op can read a document and not write it.
    fn link(&mut self, part: &Part<'_>, key: &DocKey<'_>) {
        self.linked = true;
        // Nobody asks which op wrote a key's document.
        if part.last.is_none() && key.collection != KEYS {
            let stamp = part.op.stamp();
            let place = self.reading.partition_point(|other| *other < stamp);
            self.reading.insert(place, stamp);
        }
    }
}

/// Whether an op of a document leaves the same text there whatever was before, and in every case. An unconditional op
/// reads nothing, so it is among the document's ops because it writes it.
pub(super) fn replaces(op: &Op) -> bool {
    op.is_unconditional()
}
