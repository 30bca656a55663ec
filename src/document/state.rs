//! The state: the fold of all ops in stamp order, kept up to date as ops come in any order.
//!
//! [`State::insert`] puts a batch of ops to their places. A document that no op links to another is rolled back and
//! replayed alone. Where an op that can fail touches several documents, a change in one can turn its verdict and so
//! change the others: those are found first (the closure over such ops), and replayed together in stamp order. Nothing
//! else is touched, so the cost is bounded by the ops of the documents that can have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
    sync::Arc,
};

use compact_str::CompactString;

use super::{
    Change, Changes, Edited, Edits, Text,
    claim::{Claim, KEYS},
    history::{Costly, Document, Part, Rejected, borrowed, carry_out_again, links, replaces, touched},
    prose::{Source, is_grown, is_prose},
    workbench::{Reason, Workbench},
};
use crate::{
    op::{Body, Command, DocKey, Op, Stamp},
    plant::{Rule, left_out},
};

/// The documents, as all held ops make them.
#[derive(Debug, Default)]
pub struct State {
    pub(super) collections: BTreeMap<Arc<str>, Collection>,
    /// How many documents exist now.
    pub(super) count: usize,
    pub(super) rejected: Rejected,
    pub(super) costly: Costly,
    pub(super) changes: Changes,
    pub(super) edits: Edits,
    pub(super) digest: u64,
    work: Work,
    /// The idempotency key behind which it goes on looking for those that have ended.
    pub(super) swept: Option<CompactString>,
    /// The texts of which the updates at the horizon are to be merged: that takes long, so somebody else does it.
    pub(super) unmerged: BTreeSet<(Arc<str>, CompactString)>,
}

#[derive(Debug, Default)]
pub(super) struct Collection {
    /// In the order of their ids, which is the order of listings.
    pub(super) documents: BTreeMap<CompactString, Document>,
    /// How many of them exist now.
    pub(super) count: usize,
}

/// How much work the fold has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Documents that an op came late for.
    pub rolled_back: u64,
    /// Ops judged, first or again.
    pub judged: u64,
    /// Documents replayed only because a guarded op linked them to a changed one.
    pub dependent: u64,
    /// Verdicts that turned from rejected to applied on a replay.
    pub turned: u64,
}

/// A document as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its collection.
    pub collection: Arc<str>,
    /// Its id.
    pub id: CompactString,
    /// Its content.
    pub text: Text,
    /// The last op that wrote it.
    pub stamp: Option<Stamp>,
    /// The time of the last op that touches it: once that is final, so is the document.
    pub latest: u64,
}

/// An op's place and why it has no effect there, if it has none.
pub type Verdict = Result<(), Reason>;

/// One document's part of a batch: the ops, in stamp order.
type Group<'b> = (DocKey<'b>, Vec<Part<'b>>);

/// A document that ops came for, and that some op links to others.
struct Changed<'k> {
    key: DocKey<'k>,
    /// The first of the ops that came.
    from: Stamp,
    /// How many ops made its text, if those that came are all behind them.
    settled: Option<usize>,
}

/// What the documents of an op become by it, in the order of their keys.
#[derive(Debug)]
pub struct Prepared {
    texts: Vec<Option<Text>>,
    costly: Vec<(Stamp, usize)>,
}

impl State {
    /// Puts ops to their places in the order and brings every document they can reach up to date. `batch` must hold
    /// no op twice and none that is in the state; its order does not matter.
    pub fn insert(&mut self, batch: &[Op]) {
        let bodies: Vec<Body<'_>> = batch.iter().map(Op::body).collect();
        let mut linked = Vec::new();
        for (key, parts) in grouped(batch, &bodies) {
            let (collection, id) = (self.collection(&key.collection), CompactString::new(&key.id));
            let collection = self.collections.get_mut(&collection).expect("made above");
            let document = collection.documents.entry(id).or_default();
            let held = document.ops.len();
            let first = document.insert(&key, &parts);
            self.work.rolled_back += u64::from(first < held);
            if document.is_linked() {
                let settled = (first == held).then_some(held);
                linked.push(Changed { key, from: parts[0].op.stamp(), settled });
            } else {
                let before = document.text.clone();
                let costly = replay_alone(document, &key, first, &parts, &mut self.rejected, &mut self.work);
                self.costly.extend(costly);
                self.note(&key, before, &parts);
            }
        }
        if !linked.is_empty() {
            self.replay_linked(linked);
        }
    }

    /// Takes all documents away. Places in the changes go on rising, so that who follows them learns that
    /// he must start over.
    pub fn clear(&mut self) {
        *self = State { changes: self.changes.broken_off(), edits: self.edits.broken_off(), ..State::default() };
    }

    /// What the verdict of `op` would be if it were inserted now and its stamp were past all others.
    pub fn judge(&self, op: &Op) -> Verdict {
        self.prepare(op).map(drop)
    }

    /// The same, with what its documents would become: so the op is carried out once, not judged first and then replayed.
    pub fn prepare(&self, op: &Op) -> Result<Prepared, Reason> {
        let body = op.body();
        let keys: BTreeSet<DocKey<'_>> = touched(&body).collect();
        let count = keys.len();
        let mut bench = Workbench::new(keys.into_iter().map(|key| {
            let text = self.document(&key.collection, &key.id).and_then(|document| document.text.clone());
            (key, text)
        }));
        bench.judge(op, &body)?;
        let texts = (0..count).map(|at| bench.text(at)).collect();
        Ok(Prepared { texts, costly: bench.into_costly() })
    }

    /// Inserts an op that was prepared, if nothing was inserted since.
    pub fn insert_prepared(&mut self, op: &Op, prepared: Prepared) {
        let body = op.body();
        let (batch, bodies) = (std::slice::from_ref(op), std::slice::from_ref(&body));
        let groups = grouped(batch, bodies);
        let last = |key: &DocKey<'_>| self.document(&key.collection, &key.id).and_then(|document| document.ops.last());
        if groups.iter().any(|(key, _)| last(key).is_some_and(|last| last >= op)) {
            // It is late in one of them.
            return self.insert(batch);
        }
        self.work.judged += 1;
        self.costly.extend(prepared.costly);
        for ((key, parts), text) in groups.into_iter().zip(prepared.texts) {
            let (collection, id) = (self.collection(&key.collection), CompactString::new(&key.id));
            let collection = self.collections.get_mut(&collection).expect("made above");
            let document = collection.documents.entry(id).or_default();
            document.insert(&key, &parts);
            document.checkpoint(document.ops.len(), || text.clone());
            let before = mem::replace(&mut document.text, text);
            let new = if document.is_linked() { &[] } else { &parts[..] };
            self.note(&key, before, new);
        }
    }

    /// The verdict of an op that was inserted, as it stands.
    pub fn verdict(&self, stamp: Stamp) -> Verdict {
        self.rejected.get(&stamp).map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// What is remembered of an idempotency key.
    pub fn claim(&self, key: &str) -> Option<Claim> {
        self.document(KEYS, key)?.text.as_ref().map(Claim::read)
    }

    /// A document, if it exists.
    pub fn get(&self, collection: &str, id: &str) -> Option<View> {
        let (name, found) = self.collections.get_key_value(collection)?;
        let (id, document) = found.documents.get_key_value(id)?;
        self.view(name, id, document)
    }

    /// The text of a document, if it exists.
    pub fn text(&self, collection: &str, id: &str) -> Option<&Text> {
        self.document(collection, id)?.text.as_ref()
    }

    /// The last op that wrote a document, also one that deleted it.
    pub fn stamp(&self, collection: &str, id: &str) -> Option<Stamp> {
        self.document(collection, id)?.stamp(&self.rejected)
    }

    /// The time of the last op that touches a document, whether it exists or not; 0 if there is none.
    pub fn latest(&self, collection: &str, id: &str) -> u64 {
        self.document(collection, id).map_or(0, Document::latest)
    }

    /// The documents of a collection behind the id `after`, in the order of their ids; it looks at `most` at the
    /// most, existing or not, and returns with them the id to go on behind, if it did not come to the end.
    pub fn scan(&self, collection: &str, after: Option<&str>, most: usize) -> (Vec<View>, Option<CompactString>) {
        let Some((name, found)) = self.collections.get_key_value(collection) else { return (Vec::new(), None) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut views = Vec::new();
        for (seen, (id, document)) in found.documents.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if seen == most {
                return (views, last);
            }
            views.extend(self.view(name, id, document));
            last = Some(id.clone());
        }
        (views, None)
    }

    /// How many documents exist.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The collections that hold documents, with their counts, in the order of their names.
    pub fn collections(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.collections_after(KEYS).filter(|(_, count)| *count > 0)
    }

    /// The collections behind `name`, with their counts, also those whose documents are all gone. Behind the empty
    /// name are all of the users'.
    pub fn collections_after(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, usize)> {
        let behind = self.collections.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        behind.map(|(name, collection)| (name, collection.count))
    }

    /// The sum of a hash over each document, kept up with every change: nodes with the same log and another sum differ,
    /// by a fault of a program or a memory.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Spoils a document, as a bad memory would.
    #[cfg(any(test, feature = "sim"))]
    pub fn spoil(&mut self, collection: &str, id: &str) {
        let key = DocKey::new(collection, id);
        let before = self.document(collection, id).and_then(|document| document.text.clone());
        if let Some(document) = self.document_mut(&key) {
            document.text = Some(Text::own("\"spoilt\"".to_string()));
        }
        self.note(&key, before, &[]);
    }

    /// The last changes.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Memory is short, or no longer: the ring of changes keeps less, or as much as usual.
    pub fn tighten(&mut self, tight: bool) {
        self.changes.tighten(tight);
    }

    /// The last edits of text documents.
    pub fn edits(&self) -> &Edits {
        &self.edits
    }

    /// What a text document is made of; none if there is no such text.
    pub fn source(&self, collection: &str, id: &str) -> Option<Source> {
        let document = self.document(collection, id)?;
        let key = DocKey::new(collection, id);
        document.source_at(&key, document.ops.len(), document.text.clone(), &self.rejected)
    }

    /// How much work the fold has done.
    pub fn work(&self) -> Work {
        self.work
    }

    /// The ops without effect, with their reasons, in stamp order.
    pub fn rejected(&self) -> impl Iterator<Item = (&Stamp, &Reason)> {
        self.rejected.iter()
    }

    /// How many ops are without effect, of those that are kept.
    pub fn rejected_count(&self) -> usize {
        self.rejected.len()
    }

    pub(super) fn view(&self, collection: &Arc<str>, id: &CompactString, document: &Document) -> Option<View> {
        let text = document.text.clone()?;
        let (stamp, latest) = (document.stamp(&self.rejected), document.latest());
        Some(View { collection: Arc::clone(collection), id: id.clone(), text, stamp, latest })
    }

    pub(super) fn document(&self, collection: &str, id: &str) -> Option<&Document> {
        self.collections.get(collection)?.documents.get(id)
    }

    fn document_mut(&mut self, key: &DocKey<'_>) -> Option<&mut Document> {
        self.collections.get_mut(&*key.collection)?.documents.get_mut(&*key.id)
    }

    pub(super) fn collection(&mut self, name: &str) -> Arc<str> {
        if let Some((name, _)) = self.collections.get_key_value(name) {
            return Arc::clone(name);
        }
        let name: Arc<str> = name.into();
        self.collections.insert(Arc::clone(&name), Collection::default());
        name
    }

    /// Replays documents that ops link to others, and those others, in one pass in stamp order.
    fn replay_linked(&mut self, changed: Vec<Changed<'_>>) {
        let from = self.closure(&changed);
        let settled: BTreeMap<&DocKey<'_>, usize> =
            changed.iter().filter_map(|changed| Some((&changed.key, changed.settled?))).collect();
        let mut documents: Vec<(DocKey<'_>, usize, Document)> = Vec::with_capacity(from.len());
        for (key, stamp) in &from {
            let document = self.document_mut(key).map(mem::take);
            let mut document = document.expect("the closure holds documents that are there");
            let first = document.ops.partition_point(|op| op.stamp() < *stamp);
            document.cut_checkpoints(first);
            documents.push((key.clone(), first, document));
        }
        let mut schedule: Vec<Op> =
            documents.iter().flat_map(|(_, first, document)| document.ops[*first..].iter().cloned()).collect();
        schedule.sort();
        schedule.dedup();
        // An op over many of the documents is decoded once, not for each of them.
        let mut bodies: BTreeMap<Stamp, Body<'_>> = BTreeMap::new();
        let mut bench = Workbench::new(documents.iter().map(|(key, first, document)| {
            let is_text = settled.get(key) == Some(first);
            let again = |bench: &mut Workbench<'_>, op| {
                bench.carry_out_again(op, bodies.entry(Op::stamp(op)).or_insert_with(|| op.body()));
            };
            let before =
                if is_text { document.text.clone() } else { document.text_before(key, *first, &self.rejected, again) };
            (key.clone(), before)
        }))
        .starting(from.values().copied());
        for op in &schedule {
            let body = op.body();
            judge_anew(&mut bench, op, &body, &mut self.rejected, &mut self.work);
            for key in touched(&body) {
                let Some(at) = bench.find(&key) else { continue };
                let (_, next, document) = &mut documents[at];
                // Not where the op lies before the document's start, nor the second time that it names the document.
                if document.ops.get(*next) != Some(op) {
                    continue;
                }
                *next += 1;
                document.checkpoint(*next, || bench.text(at));
            }
        }
        for (at, (key, _, mut document)) in documents.into_iter().enumerate() {
            let before = mem::replace(&mut document.text, bench.text(at));
            *self.document_mut(&key).expect("taken from there above") = document;
            self.note(&key, before, &[]);
        }
        self.costly.extend(bench.into_costly());
    }

    /// The documents that a change of `changed` can reach, each with the stamp from which on it can.
    fn closure<'k>(&mut self, changed: &[Changed<'k>]) -> BTreeMap<DocKey<'k>, Stamp> {
        let given = changed.len();
        let mut waiting: Vec<(DocKey<'k>, Stamp)> =
            changed.iter().map(|changed| (changed.key.clone(), changed.from)).collect();
        let mut from: BTreeMap<DocKey<'k>, Stamp> = waiting.iter().cloned().collect();
        // An op that was looked at has reached all its documents: it is not decoded again for each of them.
        let mut spread = BTreeSet::new();
        while let Some((key, stamp)) = waiting.pop() {
            let Some(document) = self.document(&key.collection, &key.id).filter(|document| document.is_linked()) else {
                continue;
            };
            let first = document.ops.partition_point(|op| op.stamp() < stamp);
            for op in &document.ops[first..] {
                if op.is_unconditional() || !spread.insert(op.stamp()) {
                    continue;
                }
                let body = op.body();
                if !links(&body) || left_out(Rule::DependentRollback) {
                    continue;
                }
                for other in touched(&body) {
                    if from.get(&other).is_none_or(|reached| op.stamp() < *reached) {
                        let other = other.into_owned();
                        from.insert(other.clone(), op.stamp());
                        waiting.push((other, op.stamp()));
                    }
                }
            }
        }
        self.work.dependent += (from.len() - given) as u64;
        from
    }

    /// Notes what became of a document that was replayed; `new` are the ops that came, if they came to this one alone.
    fn note(&mut self, key: &DocKey<'_>, before: Option<Text>, new: &[Part<'_>]) {
        let Some((name, collection)) = self.collections.get_key_value(&*key.collection) else { return };
        let name = Arc::clone(name);
        let after = collection.documents.get(&*key.id).and_then(|document| document.text.as_ref());
        if after == before.as_ref() || &*name == KEYS {
            return;
        }
        let (was, is) = (usize::from(before.is_some()), usize::from(after.is_some()));
        let mark = |text: Option<&Text>| text.map_or(0, |text| mark(key, text));
        self.digest = self.digest.wrapping_add(mark(after)).wrapping_sub(mark(before.as_ref()));
        let edited = [before.as_ref(), after].into_iter().flatten().any(is_prose).then(|| {
            let ops: Vec<Op> = new.iter().map(|part| part.op.clone()).collect();
            let grown = after.is_some_and(|after| is_grown(before.as_ref(), after, &ops));
            if grown { ops } else { Vec::new() }
        });
        let collection = self.collections.get_mut(&name).expect("found above");
        collection.count = collection.count + is - was;
        self.count = self.count + is - was;
        if let Some(ops) = edited {
            self.edits.push(Edited { collection: Arc::clone(&name), id: CompactString::new(&key.id), ops });
        }
        self.changes.push(Change { collection: name, id: CompactString::new(&key.id), before });
    }
}

/// Replays one document, which no op links to another, from the place `first` on; `new` are the ops that came, in stamp
/// order.
fn replay_alone(
    document: &mut Document,
    key: &DocKey<'_>,
    first: usize,
    new: &[Part<'_>],
    rejected: &mut Rejected,
    work: &mut Work,
) -> Vec<(Stamp, usize)> {
    let appended = first + new.len() == document.ops.len();
    let before =
        if appended { document.text.clone() } else { document.text_before(key, first, rejected, carry_out_again) };
    let cut = document.cut_checkpoints(first);
    let mut bench = Workbench::new([(key.clone(), before)].into_iter());
    let last_new = new.last().map(|part| part.op.stamp());
    let mut parts = new.iter().peekable();
    let mut place = first;
    while let Some(op) = document.ops.get(place).cloned() {
        if last_new < Some(op.stamp()) {
            let replaced = replaces(&op);
            if replaced || Document::is_as_before(&cut, new.len(), place, || bench.text(0)) {
                // From here on the document is what it was before the new ops came; behind this op, if it is this op
                // that makes it so.
                document.restore_checkpoints(place + usize::from(replaced), cut, new.len());
                return bench.into_costly();
            }
        }
        match parts.next_if(|part| *part.op == op) {
            // Of an op that cannot fail only the last command on the document counts; the others may be a thousand.
            Some(Part { last: Some(last), .. }) if op.is_unconditional() => {
                work.judged += 1;
                bench.overwrite(&op, last);
            }
            Some(part) => judge_anew(&mut bench, &op, part.body, rejected, work),
            None => judge_anew(&mut bench, &op, &op.body(), rejected, work),
        }
        place += 1;
        document.checkpoint(place, || bench.text(0));
    }
    document.text = bench.text(0);
    bench.into_costly()
}

fn judge_anew(bench: &mut Workbench<'_>, op: &Op, body: &Body<'_>, rejected: &mut Rejected, work: &mut Work) {
    work.judged += 1;
    if body.is_unconditional() {
        bench.judge(op, body).expect("an op that reads nothing cannot fail");
        return;
    }
    if left_out(Rule::VerdictAnew) && rejected.contains_key(&op.stamp()) {
        return;
    }
    match bench.judge(op, body) {
        Ok(()) => work.turned += u64::from(rejected.remove(&op.stamp()).is_some()),
        Err(reason) => drop(rejected.insert(op.stamp(), reason)),
    }
}

/// The batch by document, the ops of each in stamp order.
fn grouped<'b>(batch: &'b [Op], bodies: &'b [Body<'b>]) -> Vec<Group<'b>> {
    let mut groups: BTreeMap<DocKey<'b>, Vec<Part<'b>>> = BTreeMap::new();
    for (op, body) in batch.iter().zip(bodies) {
        let links = links(body);
        let mut part = |key: DocKey<'b>, command: Option<&'b Command<'b>>| {
            let parts = groups.entry(key).or_default();
            match parts.last_mut() {
                Some(part) if part.op == op => part.last = command.or(part.last),
                _ => parts.push(Part { op, body, links, last: command }),
            }
        };
        body.key_text().into_iter().for_each(|key| part(DocKey::new(KEYS, key), None));
        body.guards.iter().for_each(|guard| part(borrowed(guard.doc()), None));
        let written = body.commands.iter().filter_map(|command| Some((command.doc()?, command)));
        written.for_each(|(doc, command)| part(borrowed(doc), Some(command)));
    }
    if !left_out(Rule::BatchSort) {
        groups.values_mut().for_each(|parts| parts.sort_by_key(|part| part.op));
    }
    groups.into_iter().collect()
}

/// A document's part of the digest. It finds faults, not forgers: a checksum is enough, spread over all bits so that the
/// sum of many tells them apart (the finalizer of `SplitMix64`, Steele et al. 2014).
pub(super) fn mark(key: &DocKey<'_>, text: &Text) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    for part in [&*key.collection, &*key.id, text.as_str()] {
        sum.update(part.as_bytes());
        // No part holds this byte, which is none of UTF-8.
        sum.update(&[0xff]);
    }
    let mut mark = u64::from(sum.finalize()) | (text.len() as u64) << 32;
    mark = (mark ^ (mark >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mark = (mark ^ (mark >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mark ^ (mark >> 31)
}
