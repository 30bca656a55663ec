//! One document: its text now, and the ops that made it so since the horizon.
//!
//! Ops up to the horizon are forgotten: what they made is the document's *base*, a text and nothing more. A document on which
//! no op has come since is its text, and the stamp of the op that wrote it.

use std::{collections::BTreeMap, ops::Range};

use smallvec::SmallVec;

use super::{
    Text,
    claim::{Claim, KEYS},
    prose::{Source, Updates, is_prose, updates_of},
    replay::{Pending, Replay, Start},
    workbench::{Reason, Workbench},
};
use crate::{
    op::{Body, Command, DocKey, NodeId, Op, Stamp},
    plant::{Rule, left_out},
};

/// A replay begins at most this many ops before the place it is needed for.
const CHECKPOINT_EVERY: usize = 16;

/// The ops that have no effect, and why.
pub(super) type Rejected = BTreeMap<Stamp, Reason>;

/// The units of the ops that cost much. Only an estimate where an op has come to lie elsewhere since.
pub(super) type Costly = BTreeMap<Stamp, usize>;

/// The stamp of no op.
pub(super) const NEVER: Stamp = Stamp { time: 0, origin: NodeId(uuid::Uuid::nil()) };

/// A document and the ops since the horizon that touch it (write it, or read it in a guard), in stamp order.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) text: Option<Text>,
    /// The last op up to the horizon that wrote it; the stamp of none if it is absent there.
    base_stamp: Stamp,
    pub(super) ops: SmallVec<[Op; 1]>,
    /// What most documents do not need.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// Ascending. The base is the first, after no op; if there is none the document is absent before its first op.
    checkpoints: Vec<Checkpoint>,
    /// How many of the ops read or write other documents as well and may fail: these carry a change on to those.
    linking: usize,
    /// The ops that only read the document, ascending. Remembered, since an op over a thousand documents is not to be
    /// decoded for each of them when someone asks which op wrote it.
    reading: Vec<Stamp>,
    /// What a text document is made of at the horizon.
    prose: Updates,
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

impl Default for Document {
    fn default() -> Document {
        Document { text: None, base_stamp: NEVER, ops: SmallVec::new(), more: None }
    }
}

impl Document {
    /// A document as ops that are forgotten have made it.
    pub(super) fn base(text: Text, stamp: Stamp, prose: Updates) -> Document {
        let more = is_prose(&text).then(|| Box::new(More { prose, ..More::default() }));
        Document { text: Some(text), base_stamp: stamp, more, ..Document::default() }
    }

    /// Whether an op links the document to others.
    pub(super) fn is_linked(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.linking > 0)
    }

    fn checkpoints(&self) -> &[Checkpoint] {
        self.more.as_ref().map_or(&[], |more| &more.checkpoints)
    }

    /// Puts `new` (in stamp order) to their places in the document `key`, and returns the first of these places.
    pub(super) fn insert(&mut self, key: &DocKey<'_>, new: &[Part<'_>]) -> usize {
        if self.ops.is_empty() && self.text.is_some() {
            let base = Checkpoint { after: 0, text: self.text.clone() };
            self.more.get_or_insert_default().checkpoints.push(base);
        }
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
            return self.claim_at(place, rejected);
        }
        let (start, text) = self.start_before(place);
        let mut bench = Workbench::new([(key.clone(), text)].into_iter());
        for op in self.ops[start..place].iter().filter(|op| !rejected.contains_key(&op.stamp())) {
            again(&mut bench, op);
        }
        bench.text(0)
    }

    /// The same, with the ops yet to be carried out.
    pub(super) fn replay_at(&self, key: &DocKey<'_>, place: usize, rejected: &Rejected) -> Replay {
        if place == self.ops.len() {
            return Replay::Done(self.text.clone());
        }
        if key.collection == KEYS {
            return Replay::Done(self.claim_at(place, rejected));
        }
        let (start, text) = self.start_before(place);
        self.replay_between(key, Start::Text(text), start..place, rejected)
    }

    /// The document at the end of a range of its ops, from what it is at the start.
    pub(super) fn replay_between(
        &self,
        key: &DocKey<'_>,
        start: Start,
        places: Range<usize>,
        rejected: &Rejected,
    ) -> Replay {
        let applied = self.ops[places].iter().filter(|op| !rejected.contains_key(&op.stamp()));
        let key = DocKey::new(key.collection.to_string(), key.id.to_string());
        Replay::of(Pending { key, start, ops: applied.cloned().collect() })
    }

    /// Where a replay up to its op at `place` begins, and what the document is there: at the nearest checkpoint, or at the
    /// nearest op that replaces it whole.
    fn start_before(&self, place: usize) -> (usize, Option<Text>) {
        let checkpoints = self.checkpoints();
        let at = checkpoints.partition_point(|checkpoint| checkpoint.after <= place);
        let (start, text) = match at.checked_sub(1).map(|at| &checkpoints[at]) {
            Some(checkpoint) => (checkpoint.after, checkpoint.text.clone()),
            None => (0, None),
        };
        (start..place).rev().find(|index| replaces(&self.ops[*index])).map_or((start, text), |index| (index, None))
    }

    /// The units that a replay up to its op at `place` costs, about.
    pub(super) fn replay_units(&self, place: usize, costly: &Costly) -> usize {
        if place == self.ops.len() || costly.is_empty() {
            return 0;
        }
        let ops = &self.ops[self.start_before(place).0..place];
        ops.iter().filter_map(|op| costly.get(&op.stamp())).sum()
    }

    /// The same for what is remembered of an idempotency key.
    fn claim_at(&self, place: usize, rejected: &Rejected) -> Option<Text> {
        let holder = |op: &&Op| !matches!(rejected.get(&op.stamp()), Some(Reason::Repeated(_)));
        let last = self.ops[..place].iter().rev().find(holder);
        let claim = last.map(|op| Claim::of(op, &op.body(), !rejected.contains_key(&op.stamp())).text());
        claim.or_else(|| self.base_text())
    }

    /// What it is at the horizon.
    fn base_text(&self) -> Option<Text> {
        if self.ops.is_empty() {
            return self.text.clone();
        }
        self.checkpoints().first().filter(|first| first.after == 0).and_then(|base| base.text.clone())
    }

    /// What it is at the horizon, the last op that wrote it there, and what it is made of if it is a text.
    pub(super) fn at_base(&self) -> Option<(Text, Stamp, Updates)> {
        self.base_text().map(|text| (text, self.base_stamp, self.base_prose().cloned().unwrap_or_default()))
    }

    /// The updates that it consists of at the horizon, if it is a text there.
    pub(super) fn base_prose(&self) -> Option<&Updates> {
        self.more.as_ref().map(|more| &more.prose)
    }

    /// The same, to be merged.
    pub(super) fn base_prose_mut(&mut self) -> Option<&mut Updates> {
        self.more.as_mut().map(|more| &mut more.prose)
    }

    /// What a text document is made of before its op at `place`; none where it is no text.
    pub(super) fn source_at(
        &self,
        key: &DocKey<'_>,
        place: usize,
        mark: Option<Text>,
        rejected: &Rejected,
    ) -> Option<Source> {
        let mark = mark.filter(is_prose)?;
        let applied = self.ops[..place].iter().filter(|op| !rejected.contains_key(&op.stamp()));
        // Behind the last op that put or deleted the document it began anew.
        let (mut anew, mut ops) = (false, Vec::new());
        for op in applied {
            let body = op.body();
            let writes = || body.commands.iter().filter(|command| command.doc() == Some(key));
            if writes().any(|command| !matches!(command, Command::Text(..))) {
                (anew, ops) = (true, Vec::new());
            }
            // An op that deletes a text and begins another has both.
            if writes().any(|command| matches!(command, Command::Text(..))) {
                ops.push(op.clone());
            }
        }
        let base = self.base_prose().filter(|_| !anew).cloned().unwrap_or_default();
        Some(Source { mark, base, ops })
    }

    /// How many of its ops have times up to this one.
    pub(super) fn place_of(&self, time: u64) -> usize {
        self.ops.partition_point(|op| op.time() <= time)
    }

    /// Forgets its first `count` ops, which have made `base` of it.
    pub(super) fn forget(&mut self, key: &DocKey<'_>, count: usize, base: Option<Text>, rejected: &Rejected) {
        let base = base.map(Text::into_own);
        let prose = self.forget_edits(key, count, base.as_ref(), rejected);
        self.base_stamp = self.stamp_at(count, rejected).filter(|_| base.is_some()).unwrap_or(NEVER);
        if count == self.ops.len() {
            (self.text, self.ops) = (base, SmallVec::new());
            self.more = (prose != Updates::default()).then(|| Box::new(More { prose, ..More::default() }));
            return;
        }
        if self.text == base {
            // One text for both, and none that keeps a forgotten op.
            self.text.clone_from(&base);
        }
        if let Some(more) = &mut self.more {
            more.forget(&self.ops[..count]);
        }
        self.ops.drain(..count);
        if base.is_some() {
            let more = self.more.get_or_insert_default();
            more.checkpoints.insert(0, Checkpoint { after: 0, text: base });
            more.prose = prose;
        }
    }

    /// What the document is made of once its first `count` ops are forgotten, if it is a text then.
    fn forget_edits(&mut self, key: &DocKey<'_>, count: usize, base: Option<&Text>, rejected: &Rejected) -> Updates {
        let mut prose = self.more.as_mut().map(|more| std::mem::take(&mut more.prose)).unwrap_or_default();
        if !base.is_some_and(is_prose) {
            return Updates::default();
        }
        for op in self.ops[..count].iter().filter(|op| !rejected.contains_key(&op.stamp())) {
            let replaces = |command: &Command<'_>| command.doc() == Some(key) && !matches!(command, Command::Text(..));
            if op.body().commands.iter().any(replaces) {
                prose = Updates::default();
            }
            if !left_out(Rule::EditKept) {
                updates_of(op, key).iter().for_each(|update| prose.push(update));
            }
        }
        prose
    }

    /// Whether nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        self.text.is_none() && self.ops.is_empty()
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
        let last = self.ops[..place].iter().rev().map(Op::stamp).find(wrote);
        last.or_else(|| Some(self.base_stamp).filter(|stamp| *stamp != NEVER))
    }
}

impl More {
    /// Notes an op that links the document `key` to others. Only such an op can read a document and not write it.
    fn link(&mut self, part: &Part<'_>, key: &DocKey<'_>) {
        self.linking += 1;
        // Nobody asks which op wrote a key's document.
        if part.last.is_none() && key.collection != KEYS {
            let stamp = part.op.stamp();
            let place = self.reading.partition_point(|other| *other < stamp);
            self.reading.insert(place, stamp);
        }
    }

    /// The first of the document's ops are forgotten.
    fn forget(&mut self, ops: &[Op]) {
        self.checkpoints.retain_mut(|checkpoint| {
            let kept = checkpoint.after > ops.len();
            checkpoint.after = checkpoint.after.saturating_sub(ops.len());
            kept
        });
        if self.linking > 0 {
            let linking = ops.iter().filter(|op| !op.is_unconditional() && links(&op.body())).count();
            self.linking = self.linking.saturating_sub(linking);
        }
        let last = ops.last().map(Op::stamp);
        self.reading.retain(|stamp| Some(*stamp) > last);
    }
}

/// Carries out an op that has effect at its place again.
pub(super) fn carry_out_again(bench: &mut Workbench<'_>, op: &Op) {
    bench.carry_out_again(op, &op.body());
}

/// Whether the op carries a change of one document on to another: it touches several and can fail.
pub(super) fn links(body: &Body<'_>) -> bool {
    !body.is_unconditional() && {
        let mut keys = touched(body);
        let first = keys.next();
        keys.any(|key| Some(key) != first)
    }
}

/// The documents that the op writes or reads; one may come twice.
pub(super) fn touched<'b>(body: &'b Body<'_>) -> impl Iterator<Item = DocKey<'b>> {
    let claim = body.key_text().map(|key| DocKey::new(KEYS, key));
    let read = body.guards.iter().map(|guard| borrowed(guard.doc()));
    claim.into_iter().chain(read).chain(body.commands.iter().filter_map(Command::doc).map(borrowed))
}

pub(super) fn borrowed<'b>(key: &'b DocKey<'_>) -> DocKey<'b> {
    DocKey::new(&*key.collection, &*key.id)
}

/// Whether an op of a document leaves the same text there whatever was before, and in every case. An unconditional op
/// reads nothing, so it is among the document's ops because it writes it.
pub(super) fn replaces(op: &Op) -> bool {
    op.is_unconditional()
}
