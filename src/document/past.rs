//! Documents as they were: at a time, and after each of their ops.
//!
//! What lies before an op's place decides its verdict, so the ops up to a time keep theirs whatever comes behind, and a
//! document at a time is what those of them make that have effect. The past is known from the horizon on: of what was
//! forgotten, only its outcome is there.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use compact_str::CompactString;

use super::{
    State, Text, View,
    claim::KEYS,
    history::Document,
    prose::Source,
    replay::{Replay, Replays, Start},
};
use crate::op::{DocKey, Op, Stamp};

/// From one place of a document to one that is no more than so many ops behind it, these ops are carried out; to others it
/// is found anew, from the nearest checkpoint.
const STRIDE: usize = 16;

/// Documents at a time, with the ops that are yet to be carried out on them.
#[derive(Clone, Debug, Default)]
pub struct PastViews {
    heads: Vec<Head>,
    /// Their texts, to be worked out.
    pub replays: Replays,
}

/// A document at a time, but for its text.
#[derive(Clone, Debug)]
struct Head {
    collection: Arc<str>,
    id: CompactString,
    stamp: Option<Stamp>,
    latest: u64,
}

impl PastViews {
    /// The ids, each with the op that wrote the document last. Some may turn out not to exist at the time.
    pub fn heads(&self) -> impl Iterator<Item = (&CompactString, Option<Stamp>)> {
        self.heads.iter().map(|head| (&head.id, head.stamp))
    }

    /// The documents that exist, as far as their texts are worked out; with the id behind which the others come, which is `rest` where all
    /// are worked out.
    pub fn up_to(self, rest: Option<CompactString>) -> (impl Iterator<Item = View>, Option<CompactString>) {
        let done = self.replays.texts().count();
        let last = if done < self.heads.len() { done.checked_sub(1).map(|at| self.heads[at].id.clone()) } else { rest };
        (self.views(), last)
    }

    /// The documents that exist, as far as their texts are worked out.
    pub fn views(self) -> impl Iterator<Item = View> {
        self.heads.into_iter().zip(self.replays.into_texts()).filter_map(|(head, text)| {
            let Head { collection, id, stamp, latest } = head;
            Some(View { collection, id, text: text?, stamp, latest })
        })
    }
}

/// Documents of now.
impl FromIterator<View> for PastViews {
    fn from_iter<I: IntoIterator<Item = View>>(views: I) -> PastViews {
        let mut past = PastViews::default();
        for View { collection, id, text, stamp, latest } in views {
            past.heads.push(Head { collection, id, stamp, latest });
            past.replays.push(Replay::Done(Some(text)));
        }
        past
    }
}

impl State {
    /// A document as the ops up to a time make it, if some are known. `time` must not be before the horizon.
    pub fn get_at(&self, collection: &str, id: &str, time: u64) -> PastViews {
        let found = self.collections.get_key_value(collection);
        let found = found.and_then(|(name, found)| Some((name, found.documents.get_key_value(id)?)));
        let mut views = PastViews::default();
        if let Some((name, (id, document))) = found {
            self.view_at(&mut views, name, id, document, time);
        }
        views
    }

    /// As [`State::scan`], of the documents as the ops up to a time make them. It may look at fewer than `most`: one that
    /// has changed since counts for the ops that must be carried out again.
    pub fn scan_at(
        &self,
        collection: &str,
        after: Option<&str>,
        time: u64,
        most: usize,
    ) -> (PastViews, Option<CompactString>) {
        let mut views = PastViews::default();
        let Some((name, found)) = self.collections.get_key_value(collection) else { return (views, None) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, mut cost) = (None, 0);
        for (id, document) in found.documents.range::<str, _>((from, Bound::Unbounded)) {
            if cost >= most {
                return (views, last);
            }
            let place = document.place_of(time);
            cost += if place == document.ops.len() { 1 } else { 1 + place.min(STRIDE) };
            self.view_at(&mut views, name, id, document, time);
            last = Some(id.clone());
        }
        (views, None)
    }

    fn view_at(&self, views: &mut PastViews, name: &Arc<str>, id: &CompactString, document: &Document, time: u64) {
        let place = document.place_of(time);
        let replay = document.replay_at(&DocKey::new(&**name, id.as_str()), place, &self.rejected);
        if replay == Replay::Done(None) {
            return;
        }
        let stamp = document.stamp_at(place, &self.rejected);
        let latest = document.ops[..place].last().map_or(0, Op::time);
        views.heads.push(Head { collection: Arc::clone(name), id: id.clone(), stamp, latest });
        views.replays.push(replay);
    }

    /// What a text document was made of at a time, which must not be before the horizon, if `mark` is what it was there; none
    /// where it was no text.
    pub fn source_at(&self, collection: &str, id: &str, time: u64, mark: Text) -> Option<Source> {
        let document = self.document(collection, id)?;
        document.source_at(&DocKey::new(collection, id), document.place_of(time), Some(mark), &self.rejected)
    }

    /// The ops that touch a document, in stamp order, as far as they are kept; none if it does not exist and no op that is
    /// kept knows it.
    pub fn ops_of(&self, collection: &str, id: &str) -> Option<&[Op]> {
        let document = self.document(collection, id).filter(|_| collection != KEYS)?;
        (document.text.is_some() || !document.ops.is_empty()).then_some(&document.ops)
    }

    /// Reads documents as they were after ops.
    pub fn past(&self) -> Past<'_> {
        Past { state: self, known: BTreeMap::new(), replays: Replays::default(), work: 0 }
    }
}

/// Documents as they were after ops. To read a document from op to op, in their order, costs each op once.
#[derive(Debug)]
pub struct Past<'s> {
    state: &'s State,
    /// For each document that was read: its place in its ops then, and the place of its text in the list.
    known: BTreeMap<DocKey<'s>, (usize, usize)>,
    replays: Replays,
    work: usize,
}

impl<'s> Past<'s> {
    /// Adds what a document is after all its ops up to `stamp`, which must be past the horizon.
    pub fn read(&mut self, doc: &DocKey<'s>, stamp: Stamp) {
        let Some(document) = self.state.document(&doc.collection, &doc.id) else {
            self.replays.push(Replay::Done(None));
            return;
        };
        let place = document.ops.partition_point(|op| op.stamp() <= stamp);
        let rejected = &self.state.rejected;
        let replay = match self.known.get(doc) {
            Some((at, index)) if place < document.ops.len() && (*at..=*at + STRIDE).contains(&place) => {
                self.work += place - at;
                document.replay_between(doc, Start::Of(*index), *at..place, rejected)
            }
            _ => {
                self.work += place.min(STRIDE);
                document.replay_at(doc, place, rejected)
            }
        };
        let index = self.replays.push(replay);
        self.known.insert(doc.clone(), (place, index));
    }

    /// The approximate number of ops to carry out, for callers that must not take long.
    pub fn work(&self) -> usize {
        self.work
    }

    /// The documents that were read, in this order.
    pub fn into_replays(self) -> Replays {
        self.replays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Body, Command, Guard, NodeId, OpId};
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
                Some(time) => {
                    let (mut views, last) = state.scan_at("c", after.as_deref(), time, 2);
                    while !views.replays.advance() {}
                    (views.views().collect(), last)
                }
                None => state.scan("c", after.as_deref(), 2),
            };
            found.extend(views.iter().map(|view| format!("{}={} {:?}", view.id, view.text.as_str(), view.stamp)));
            match last {
                Some(last) => after = Some(last),
                None => return found,
            }
        }
    }

    fn worked_out(past: Past<'_>) -> Vec<Option<Text>> {
        let mut replays = past.into_replays();
        while !replays.advance() {}
        replays.into_texts().collect()
    }

    /// An op that costs more than half of a turn, and leaves next to nothing.
    fn costly_op(time: u64) -> Op {
        let id = OpId { origin: NodeId(Uuid::from_u128(1)), seq: time };
        let doc = || DocKey::new("c", "d");
        let array = format!("[{}0]", "0,".repeat(20_000));
        let shifts = vec![r#"{"op":"add","path":"/0","value":0},{"op":"remove","path":"/0"}"#; 30].join(",");
        let commands = vec![
            Command::Put(doc(), array.into()),
            Command::Patch(doc(), format!("[{shifts}]").into()),
            Command::Merge(doc(), format!(r#"{{"n":{time}}}"#).into()),
        ];
        Op::encode(id, time, &Body { wall_ms: 0, seen: vec![], key: None, guards: vec![], commands }).unwrap()
    }

    #[test]
    fn a_look_at_the_past_carries_nothing_out_and_a_turn_little() {
        let ops: Vec<Op> = (1..=20).map(costly_op).collect();
        let mut state = State::default();
        state.insert(&ops);
        let (doc, mut past) = (DocKey::new("c", "d"), state.past());
        ops.iter().for_each(|op| past.read(&doc, op.stamp()));
        let mut replays = past.into_replays();
        // What is now is known without work.
        assert_eq!(replays.texts().count(), 0, "nothing was carried out yet");
        let mut turns = 1;
        while !replays.advance() {
            assert!(replays.texts().count() <= 2 * turns, "one turn did too much");
            turns += 1;
        }
        let texts: Vec<_> = replays.into_texts().map(|text| text.unwrap().as_str().to_string()).collect();
        assert_eq!(texts, (1..=20).map(|n| format!(r#"{{"n":{n}}}"#)).collect::<Vec<_>>());
        // Neither does a snapshot look at more than some, nor is more than some forgotten at once.
        assert!(ops.iter().all(|op| state.forgetting_units(op) > 500_000));
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
            let (mut then, mut past, mut expected) = (State::default(), state.past(), Vec::new());
            let docs: Vec<DocKey<'_>> = (0..3).map(|n| DocKey::new("c", n.to_string())).collect();
            for op in &in_order {
                then.insert(std::slice::from_ref(op));
                assert_eq!(texts(&state, Some(op.time())), texts(&then, None), "seed {seed}, at {}", op.time());
                for doc in docs.iter().filter(|_| rng.bool()) {
                    let text = then.text("c", &doc.id).cloned();
                    let mut alone = state.past();
                    alone.read(doc, op.stamp());
                    assert_eq!(
                        worked_out(alone),
                        std::slice::from_ref(&text),
                        "seed {seed}, {doc:?} after {}",
                        op.stamp()
                    );
                    past.read(doc, op.stamp());
                    expected.push(text);
                }
            }
            assert_eq!(worked_out(past), expected, "seed {seed}");
        }
    }
}
