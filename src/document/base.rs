//! The state at the horizon: forgetting the ops up to it, and handing over what they made.
//!
//! Once ops are final and nobody asks for them any more, what they made of the documents is all that is left of them. A
//! state can begin with such documents, too, and goes on from there as if it had been given the ops.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use compact_str::CompactString;

use super::{
    State, Text,
    claim::{Claim, KEYS},
    history::{Document, carry_out_again, touched},
    prose::{Updates, mark_of},
    state::mark,
};
use crate::{
    op::{Body, DocKey, NodeId, Op, Stamp},
    plant::{Rule, left_out, slice_squeezed},
    snapshot::{BaseDocument, Key, PART_BYTES, Slice},
};

/// How many ops are folded at once when all are folded anew.
const REFOLD_BATCH: usize = 4_096;
/// Most documents that one look takes in, existing or not.
const LOOK_MAX: usize = 4_096;
/// Units that replays of documents cost after which one look ends: some ten milliseconds.
pub const REPLAY_UNITS: usize = 1 << 20;
/// Keys looked at for each op that is forgotten: more than one, so that those that have ended grow no faster than they go.
const SWEPT_PER_OP: usize = 2;

impl State {
    /// Forgets ops: all that it holds with times up to `horizon`. Each of them must be final.
    pub fn forget(&mut self, ops: &[Op], horizon: u64) {
        let bodies: Vec<Body<'_>> = ops.iter().map(Op::body).collect();
        let keys: BTreeSet<DocKey<'_>> = bodies.iter().flat_map(touched).collect();
        for key in keys {
            let Some(collection) = self.collections.get_mut(&*key.collection) else { continue };
            let Some(document) = collection.documents.get_mut(&*key.id) else { continue };
            let count = document.place_of(horizon);
            let base = if count == document.ops.len() {
                document.text.clone()
            } else {
                document.text_at(&key, count, &self.rejected, carry_out_again)
            };
            document.forget(&key, count, base, &self.rejected);
            if document.base_prose().is_some_and(Updates::want_merging) {
                self.unmerged.insert(((&*key.collection).into(), CompactString::new(&key.id)));
            }
            if document.is_gone() {
                collection.documents.remove(&*key.id);
            }
            if collection.documents.is_empty() {
                self.collections.remove(&*key.collection);
            }
        }
        let behind = Stamp { time: horizon + 1, origin: NodeId(uuid::Uuid::nil()) };
        self.rejected = self.rejected.split_off(&behind);
        self.costly = self.costly.split_off(&behind);
        self.sweep(SWEPT_PER_OP * ops.len(), horizon);
    }

    /// The units that it costs, about, to forget an op before those behind it in its documents.
    pub fn forgetting_units(&self, op: &Op) -> usize {
        self.costly.get(&op.stamp()).copied().unwrap_or_default()
    }

    /// Looks at so many idempotency keys, in turn, and forgets those that no further op is held against.
    fn sweep(&mut self, most: usize, horizon: u64) {
        let Some(keys) = self.collections.get_mut(KEYS) else { return };
        let from = self.swept.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let ended = |document: &Document| {
            document.ops.is_empty() && document.text.as_ref().is_some_and(|text| Claim::read(text).has_ended(horizon))
        };
        let behind = keys.documents.range::<CompactString, _>((from, Bound::Unbounded)).take(most);
        let looked: Vec<(CompactString, bool)> = behind.map(|(id, key)| (id.clone(), ended(key))).collect();
        let last = looked.last().filter(|_| looked.len() == most);
        self.swept = last.map(|(id, _)| id.clone());
        for (id, _) in looked.into_iter().filter(|(_, ended)| *ended) {
            keys.documents.remove(&id);
        }
    }

    /// Takes a document that ops which are not to be had have made. The state must hold no op of it.
    pub fn adopt(&mut self, document: BaseDocument) {
        let BaseDocument { collection, id, text, stamp } = document;
        let (text, prose) = Updates::read(&text).unwrap_or_else(|| (Text::own(text), Updates::default()));
        self.adopt_text(&collection, &id, (text, stamp, prose));
    }

    fn adopt_text(&mut self, collection: &str, id: &str, (text, stamp, prose): (Text, Stamp, Updates)) {
        let name = self.collection(collection);
        let collection = self.collections.get_mut(&name).expect("made above");
        if &*name != KEYS {
            collection.count += 1;
            self.count += 1;
            self.digest = self.digest.wrapping_add(mark(&DocKey::new(&*name, id), &text));
        }
        if prose.want_merging() {
            self.unmerged.insert((Arc::clone(&name), CompactString::new(id)));
        }
        collection.documents.insert(CompactString::new(id), Document::base(text, stamp, prose));
    }

    /// A text whose updates at the horizon are to be merged by [`Updates::merged`], and handed to [`State::merge`] then.
    pub fn to_merge(&self) -> Option<(DocKey<'static>, Updates)> {
        let (collection, id) = self.unmerged.first()?;
        let updates = self.document(collection, id).and_then(Document::base_prose).cloned();
        Some((DocKey::new(collection.to_string(), id.to_string()), updates.unwrap_or_default()))
    }

    /// Takes what updates of a text were merged to, or that they could not be. It is the same text.
    pub fn merge(&mut self, doc: &DocKey<'_>, updates: &Updates, merged: Option<Vec<u8>>) {
        let place = ((&*doc.collection).into(), CompactString::new(&doc.id));
        self.unmerged.remove(&place);
        let document = self.collections.get_mut(&*doc.collection).and_then(|found| found.documents.get_mut(&*doc.id));
        let Some(held) = document.and_then(Document::base_prose_mut) else { return };
        held.replace(updates, merged);
        if held.want_merging() {
            self.unmerged.insert(place);
        }
    }

    /// The same state, in the place of another: who follows the changes learns that he must start over.
    #[must_use]
    pub fn follow(mut self, before: &State) -> State {
        self.changes = before.changes.broken_off();
        self.edits = before.edits.broken_off();
        self
    }

    /// The documents behind a key as they are at a time, for a snapshot; not before the horizon.
    pub fn slice(&self, after: Option<Key>, time: u64) -> Slice {
        let (mut documents, mut bytes, mut looked, mut units) = (Vec::new(), 0, 0, 0);
        let first = after.as_ref().map_or("", |(collection, _)| collection);
        for (name, collection) in self.collections.range::<str, _>((Bound::Included(first), Bound::Unbounded)) {
            let from = after.as_ref().filter(|(collection, _)| **collection == **name);
            let from = from.map_or(Bound::Unbounded, |(_, id)| Bound::Excluded(&**id));
            for (id, document) in collection.documents.range::<str, _>((from, Bound::Unbounded)) {
                if let Some((text, stamp)) = self.document_at(name, id, document, time) {
                    bytes += name.len() + id.len() + text.len();
                    let (collection, id) = (name.to_string(), id.to_string());
                    documents.push(BaseDocument { collection, id, text, stamp });
                }
                looked += 1;
                units += document.replay_units(document.place_of(time), &self.costly);
                if bytes >= PART_BYTES || looked == slice_squeezed(LOOK_MAX) || units >= REPLAY_UNITS {
                    let next = Some((name.to_string(), id.to_string()));
                    return Slice { after, documents, next };
                }
            }
        }
        Slice { after, documents, next: None }
    }

    fn document_at(&self, name: &Arc<str>, id: &str, document: &Document, time: u64) -> Option<(String, Stamp)> {
        let place = if left_out(Rule::SnapshotAt) { document.ops.len() } else { document.place_of(time) };
        let text = if place == document.ops.len() {
            document.text.clone()
        } else {
            document.text_at(&DocKey::new(&**name, id), place, &self.rejected, carry_out_again)
        };
        let stamp = document.stamp_at(place, &self.rejected).unwrap_or(super::history::NEVER);
        let key = DocKey::new(&**name, id);
        let text = match document.source_at(&key, place, text.clone(), &self.rejected) {
            Some(source) => source.written(&key),
            None => text?.as_str().to_string(),
        };
        Some((text, stamp))
    }

    /// The same made anew, from what is at the horizon and these ops, all that it holds: what the documents should be.
    #[must_use]
    pub fn refolded<'a>(&self, ops: impl Iterator<Item = &'a Op>) -> State {
        let mut state = State::default().follow(self);
        for (name, collection) in &self.collections {
            for (id, document) in &collection.documents {
                if let Some(base) = document.at_base() {
                    state.adopt_text(name, id, base);
                }
            }
        }
        let mut batch: Vec<Op> = Vec::with_capacity(REFOLD_BATCH);
        for op in ops {
            batch.push(op.clone());
            if batch.len() == REFOLD_BATCH {
                state.insert(&batch);
                batch.clear();
            }
        }
        state.insert(&batch);
        state
    }

    /// The sum of a document of a snapshot, as it goes into the digest.
    pub fn mark_of(document: &BaseDocument) -> u64 {
        mark(&DocKey::new(&*document.collection, &*document.id), &Text::own(mark_of(&document.text)))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        document::{
            delta::Step,
            prose::{Prose, Unbounded},
        },
        op::{Command, Edit, OpId},
    };

    /// A text of so many edits, all of them forgotten, and what it reads. It has one update more, which tells its incarnation.
    fn forgotten(edits: u64) -> (State, String) {
        let (mut state, mut prose) = (State::default(), Prose::default());
        let origin = NodeId(Uuid::from_u128(1));
        for time in 1..=edits {
            let update = prose.edit(time as u32, &[Step::Insert("ab".into(), None)]).unwrap().unwrap();
            let commands =
                vec![Command::Text(DocKey::new("c", "x"), Edit { creates: time == 1, update: update.into() })];
            let body = Body { wall_ms: 0, seen: vec![], key: None, guards: vec![], commands };
            let op = Op::encode(OpId { origin, seq: time }, time, &body).unwrap();
            state.insert(std::slice::from_ref(&op));
            state.forget(&[op], time);
        }
        (state, prose.plain().unwrap())
    }

    fn read(state: &State) -> (usize, String) {
        let source = state.source("c", "x").unwrap();
        let prose = source.prose(&DocKey::new("c", "x")).unwrap();
        (source.base.iter().count(), prose.plain().unwrap())
    }

    #[test]
    fn updates_are_merged_by_somebody_else_and_stay_the_same_text() {
        let (mut state, text) = forgotten(70);
        assert_eq!(read(&state), (71, text.clone()), "nothing is merged where the state is kept");
        let (doc, updates) = state.to_merge().unwrap();
        let digest = state.digest();
        // Meanwhile the text was begun again: what was merged is not what is there.
        let mut other = forgotten(66).0;
        other.merge(&doc, &updates, updates.merged(&mut Unbounded).ok());
        assert_eq!(read(&other).0, 67);
        state.merge(&doc, &updates, updates.merged(&mut Unbounded).ok());
        assert_eq!((read(&state), state.digest()), ((1, text), digest));
        assert!(state.to_merge().is_none());
    }

    #[test]
    fn a_text_that_cannot_be_merged_stays_as_it_is_and_is_not_asked_for_again_at_once() {
        let (mut state, text) = forgotten(70);
        let (doc, updates) = state.to_merge().unwrap();
        state.merge(&doc, &updates, None);
        assert_eq!(read(&state), (71, text));
        assert!(state.to_merge().is_none());
        state.merge(&DocKey::new("gone", "x"), &updates, None);
    }
}
