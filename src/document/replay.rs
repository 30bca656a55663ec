//! Documents as they were, copied out of a state and worked out elsewhere.
//!
//! To find a document at a place, the ops since the nearest checkpoint are carried out again. That can take tens of milliseconds for
//! each op, so it is not done on the node's task. The task copies the checkpoint and references to the ops; whoever asks carries them
//! out, a turn at a time.

use std::collections::BTreeMap;

use super::{Text, history::borrowed, workbench::Workbench};
use crate::op::{Body, DocKey, Op, Stamp};

/// Work of one turn: units that ops cost, bytes of ops that are decoded, bytes of texts that are made. Some ten milliseconds.
const TURN_UNITS: usize = 1 << 20;
/// Ops and documents of so many bytes are small.
const SMALL_BYTES: usize = 16 << 10;

/// Documents at places, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replays {
    list: Vec<Replay>,
    /// The number of documents at the front that are done.
    done: usize,
}

/// A document at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Done(Option<Text>),
    ToDo(Pending),
}

/// A document, and the ops that are yet to be carried out on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) key: DocKey<'static>,
    pub(super) start: Start,
    pub(super) ops: Vec<Op>,
}

/// The state of a document before the first of the ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Text(Option<Text>),
    /// The result of an earlier document of the list.
    Of(usize),
}

/// The result of one turn.
#[derive(Default)]
struct Turn {
    /// The texts of the next documents.
    made: Vec<Option<Text>>,
    /// For the document after these: the number of its ops that were carried out, and its text then.
    rest: Option<(usize, Option<Text>)>,
}

impl Replays {
    /// True if all documents are worked out.
    pub fn are_done(&self) -> bool {
        self.done == self.list.len()
    }

    /// Adds a document, and returns its place in the list.
    pub(super) fn push(&mut self, replay: Replay) -> usize {
        self.list.push(replay);
        self.skip_done();
        self.list.len() - 1
    }

    fn skip_done(&mut self) {
        while matches!(self.list.get(self.done), Some(Replay::Done(_))) {
            self.done += 1;
        }
    }

    /// Carries out ops, at least one if there is any, until they have cost [`TURN_UNITS`]. Returns whether all are done.
    pub fn advance(&mut self) -> bool {
        let Turn { made, rest } = self.turn();
        for text in made {
            self.list[self.done] = Replay::Done(text);
            self.done += 1;
        }
        if let (Some((carried, text)), Some(Replay::ToDo(pending))) = (rest, self.list.get_mut(self.done)) {
            pending.start = Start::Text(text);
            pending.ops.drain(..carried);
        }
        self.skip_done();
        self.are_done()
    }

    fn turn(&self) -> Turn {
        // An op over many documents is decoded once a turn, not for each of them.
        let (mut turn, mut units, mut bodies) = (Turn::default(), 0, BTreeMap::<Stamp, Body<'_>>::new());
        for replay in &self.list[self.done..] {
            let pending = match replay {
                Replay::Done(text) => {
                    turn.made.push(text.clone());
                    continue;
                }
                Replay::ToDo(pending) => pending,
            };
            let start = match &pending.start {
                Start::Text(text) => text.clone(),
                Start::Of(at) => self.text(*at, &turn),
            };
            let (mut bench, mut carried) = (Workbench::new([(borrowed(&pending.key), start)].into_iter()), 0);
            for op in &pending.ops {
                if units >= TURN_UNITS {
                    break;
                }
                let body = bodies.entry(op.stamp()).or_insert_with(|| {
                    units += op.bytes().len();
                    op.body()
                });
                units += bench.carry_out_again(op, body);
                carried += 1;
            }
            let text = bench.text(0);
            units += text.as_ref().map_or(0, Text::len);
            if carried < pending.ops.len() {
                turn.rest = Some((carried, text));
                break;
            }
            turn.made.push(text);
        }
        turn
    }

    fn text(&self, at: usize, turn: &Turn) -> Option<Text> {
        match &self.list[at] {
            Replay::Done(text) => text.clone(),
            Replay::ToDo(_) => turn.made[at - self.done].clone(),
        }
    }

    /// Bytes of the texts that are done.
    pub fn bytes(&self) -> usize {
        self.texts().flatten().map(Text::len).sum()
    }

    /// True if the work is so small that it needs no thread of its own.
    pub fn are_small(&self) -> bool {
        // Where a document starts with what another comes to, it may be as long as the longest.
        let longest = self.texts().flatten().map(Text::len).max().unwrap_or(0);
        let mut bytes = 0;
        let pending = self.list[self.done..].iter().filter_map(|replay| match replay {
            Replay::ToDo(pending) => Some(pending),
            Replay::Done(_) => None,
        });
        pending.into_iter().all(|pending| {
            let start = match &pending.start {
                Start::Text(text) => text.as_ref().map_or(0, Text::len),
                Start::Of(_) => longest,
            };
            bytes += pending.ops.iter().map(|op| start + op.bytes().len()).sum::<usize>();
            bytes <= SMALL_BYTES
        })
    }

    /// The texts of the documents, as far as they are worked out.
    pub fn texts(&self) -> impl Iterator<Item = Option<&Text>> {
        self.list.iter().map_while(|replay| match replay {
            Replay::Done(text) => Some(text.as_ref()),
            Replay::ToDo(_) => None,
        })
    }

    /// The same.
    pub fn into_texts(self) -> impl Iterator<Item = Option<Text>> {
        self.list.into_iter().map_while(|replay| match replay {
            Replay::Done(text) => Some(text),
            Replay::ToDo(_) => None,
        })
    }
}

impl Replay {
    pub(super) fn of(pending: Pending) -> Replay {
        match pending {
            Pending { start: Start::Text(text), ops, .. } if ops.is_empty() => Replay::Done(text),
            pending => Replay::ToDo(pending),
        }
    }
}
