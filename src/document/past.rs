//! Documents as they were: at a time, and after each of their ops.
//!
//! What lies before an op's place decides its verdict, so the ops up to a time keep theirs whatever comes behind, and a
//! document at a time is what those of them make that have effect. The past is known from the horizon on: of what was
//! forgotten, only its outcome is there.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use compact_str::CompactString;

use super::{State, Text, View, claim::KEYS, history::Document, prose::Source, workbench::Workbench};
use crate::op::{Body, DocKey, Op, Stamp};

/// From one place of a document to one that is no more than so many ops behind it, these ops are carried out; to others it
/// is found anew, from the nearest checkpoint.
const STRIDE: usize = 16;
/// A scan of the past ends early once it has made texts of so many bytes.
const SCAN_BYTES: usize = 256 << 10;

impl State {
    /// A document as the ops up to a time make it, if it exists there. `time` must not be before the horizon.
    pub fn get_at(&self, collection: &str, id: &str, time: u64) -> Option<View> {
        let (name, found) = self.collections.get_key_value(collection)?;
        let (id, document) = found.documents.get_key_value(id)?;
        self.view_at(name, id, document, time)
    }

    /// As [`State::scan`], of the documents as the ops up to a time make them. It may look at fewer than `most`: one that
    /// has changed since counts for the ops that must be carried out again.
    pub fn scan_at(
        &self,
        collection: &str,
        after: Option<&str>,
        time: u64,
        most: usize,
    ) -> (Vec<View>, Option<CompactString>) {
        let Some((name, found)) = self.collections.get_key_value(collection) else { return (Vec::new(), None) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut views, mut last, mut cost, mut bytes) = (Vec::new(), None, 0, 0);
        for (id, document) in found.documents.range::<str, _>((from, Bound::Unbounded)) {
            if cost >= most || bytes >= SCAN_BYTES {
                return (views, last);
            }
            let place = document.place_of(time);
            let is_now = place == document.ops.len();
            cost += if is_now { 1 } else { 1 + place.min(STRIDE) };
            if let Some(view) = self.view_at(name, id, document, time) {
                bytes += if is_now { 0 } else { view.text.len() };
                views.push(view);
            }
            last = Some(id.clone());
        }
        (views, None)
    }

    /// What a text document was made of at a time, which must not be before the horizon; none where it was no text.
    pub fn source_at(&self, collection: &str, id: &str, time: u64) -> Option<Source> {
        let document = self.document(collection, id)?;
        let key = DocKey::new(collection, id);
        let again = |bench: &mut Workbench<'_>, op: &Op| bench.carry_out_again(op, &op.body());
        let place = document.place_of(time);
        let mark = document.text_at(&key, place, &self.rejected, again);
        document.source_at(&key, place, mark, &self.rejected)
    }

    /// The ops that touch a document, in stamp order, as far as they are kept; none if it does not exist and no op that is
    /// kept knows it.
    pub fn ops_of(&self, collection: &str, id: &str) -> Option<&[Op]> {
        let document = self.document(collection, id).filter(|_| collection != KEYS)?;
        (document.text.is_some() || !document.ops.is_empty()).then_some(&document.ops)
    }

    /// Reads documents as they were after ops.
    pub fn past(&self) -> Past<'_> {
        Past { state: self, bodies: BTreeMap::new(), known: BTreeMap::new(), work: 0 }
    }

    fn view_at(&self, name: &Arc<str>, id: &CompactString, document: &Document, time: u64) -> Option<View> {
        let place = document.place_of(time);
        if place == document.ops.len() {
            return self.view(name, id, document);
        }
        let again = |bench: &mut Workbench<'_>, op: &Op| bench.carry_out_again(op, &op.body());
        let text = document.text_at(&DocKey::new(&**name, id.as_str()), place, &self.rejected, again)?;
        let (stamp, latest) =
            (document.stamp_at(place, &self.rejected), document.ops[..place].last().map_or(0, Op::time));
        Some(View { collection: Arc::clone(name), id: id.clone(), text, stamp, latest })
    }
}

/// Reads documents as they were after ops. To read a document from op to op, in their order, costs each op once.
#[derive(Debug)]
pub struct Past<'s> {
    state: &'s State,
    /// An op over many documents is decoded once, not for each of them.
    bodies: BTreeMap<Stamp, Body<'s>>,
    /// Where each document was read last, and what it was there.
    known: BTreeMap<DocKey<'s>, (usize, Option<Text>)>,
    work: usize,
}

impl<'s> Past<'s> {
    /// What a document is after all its ops up to `stamp`, which must be past the horizon; none if it is absent there.
    pub fn after(&mut self, doc: &DocKey<'s>, stamp: Stamp) -> Option<Text> {
        let document = self.state.document(&doc.collection, &doc.id)?;
        let place = document.ops.partition_point(|op| op.stamp() <= stamp);
        let Past { state, bodies, known, work } = self;
        let mut again = |bench: &mut Workbench<'_>, op: &'s Op| {
            let body = bodies.entry(op.stamp()).or_insert_with(|| op.body());
            *work += body.commands.len();
            bench.carry_out_again(op, body);
        };
        let text = match known.get(doc) {
            _ if place == document.ops.len() => document.text.clone(),
            Some((at, text)) if (*at..=*at + STRIDE).contains(&place) => {
                let mut bench = Workbench::new([(doc.clone(), text.clone())].into_iter());
                let applied = document.ops[*at..place].iter().filter(|op| !state.rejected.contains_key(&op.stamp()));
                applied.for_each(|op| again(&mut bench, op));
                bench.text(0)
            }
            _ => document.text_at(doc, place, &state.rejected, again),
        };
        known.insert(doc.clone(), (place, text.clone()));
        text
    }

    /// How many commands it has looked at to answer, for those who must not take long.
    pub fn work(&self) -> usize {
        self.work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Command, Guard, NodeId, OpId};
    use uuid::Uuid;

    fn random_op(rng: &mut fastrand::Rng, time: u64) -> Op {
        let id = OpId { origin: NodeId(Uuid::from_u128(rng.u128(1..4))), seq: time };
        let doc = |n: u8| DocKey::new("c", n.to_string());
        let (one, other) = (rng.u8(..3), rng.u8(..3));
        let value = format!("{{\"n\":{}}}", rng.u8(..4));
        let command = match rng.u8(..8) {
            0 => Command::Delete(doc(one)),
            1 | 2 => Command::Put(doc(one), value.into()),
            3 | 4 => Command::Merge(doc(one), value.into()),
            _ => Command::Patch(doc(one), r#"[{"by":1,"op":"increment","path":"/n"}]"#.into()),
        };
        let guards = if rng.bool() { vec![Guard::Exists(doc(other))] } else { vec![] };
        let commands =
            if rng.bool() { vec![command] } else { vec![command, Command::Put(doc(other), "{\"n\":9}".into())] };
        let body = Body { wall_ms: 0, seen: vec![], key: None, guards, commands };
        Op::encode(id, time, &body).unwrap()
    }

    fn texts(state: &State, time: Option<u64>) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (views, last) = match time {
                Some(time) => state.scan_at("c", after.as_deref(), time, 2),
                None => state.scan("c", after.as_deref(), 2),
            };
            found.extend(views.iter().map(|view| format!("{}={} {:?}", view.id, view.text.as_str(), view.stamp)));
            match last {
                Some(last) => after = Some(last),
                None => return found,
            }
        }
    }

    #[test]
    fn the_past_is_what_the_ops_up_to_there_made() {
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut ops: Vec<Op> = (1..=120).map(|time| random_op(&mut rng, time)).collect();
            let in_order = ops.clone();
            rng.shuffle(&mut ops);
            let mut state = State::default();
            ops.chunks(7).for_each(|batch| state.insert(batch));
            let (mut then, mut past) = (State::default(), state.past());
            let docs: Vec<DocKey<'_>> = (0..3).map(|n| DocKey::new("c", n.to_string())).collect();
            for op in &in_order {
                then.insert(std::slice::from_ref(op));
                assert_eq!(texts(&state, Some(op.time())), texts(&then, None), "seed {seed}, at {}", op.time());
                for doc in docs.iter().filter(|_| rng.bool()) {
                    let read = past.after(doc, op.stamp());
                    assert_eq!(read.as_ref(), then.text("c", &doc.id), "seed {seed}, {doc:?} after {}", op.stamp());
                    let alone = state.past().after(doc, op.stamp());
                    assert_eq!(read, alone, "seed {seed}, {doc:?} after {}", op.stamp());
                }
            }
        }
    }
}
