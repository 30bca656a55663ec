//! Incarnations of a text: what tells the state of an editor that was away from a new edit.
//!
//! A text that is deleted and begun again under its id is another incarnation of it. Editors of Yjs send all that they hold when
//! they come back, and nothing in it says that it was deleted meanwhile. So each op that creates a text puts one struct more
//! into it, whose client names that op. It has no content, belongs to no type, and comes with the text into every editor that
//! was in step with it: with a state vector the editor says which incarnations it holds. Whether the creating op was here is told by the heads
//! of the log, which are never forgotten, so nothing has to be kept of a text that is gone.
//!
//! The struct is one that Yjs leaves of what was collected. Its client has 53 bits, the highest of them set, and its length is greater
//! than all that a real client ever wrote. Client and length name the document, the origin of the op and its seq. Two ops that create
//! one text have different clients, so that a text can hold both: one client can have only one length. What is copied from another
//! document names that, and says nothing of this one.

use super::{chunks::write, update::Clocks};
use crate::op::{Body, Command, DocKey, NodeId, Op, OpId, first_of};

/// The bits in a client: of the document, of the origin, and the lower ones of the seq.
const DOC_BITS: u32 = 16;
const ORIGIN_BITS: u32 = 18;
const LOW_BITS: u32 = 18;
/// The higher bits of the seq are in the length, below this one.
const HIGH_BITS: u32 = 29;
const CLIENT_MIN: u64 = 1 << (DOC_BITS + ORIGIN_BITS + LOW_BITS);
const CLIENT_MAX: u64 = 2 * CLIENT_MIN - 1;
const LENGTH_MIN: u64 = 1 << HIGH_BITS;
const LENGTH_MAX: u64 = 2 * LENGTH_MIN - 1;
const LOW: u64 = (1 << LOW_BITS) - 1;
/// The info byte of a struct of which only the length is left.
const COLLECTED: u8 = 0;

/// An incarnation of a text, named by the op that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    client: u64,
    length: u64,
}

impl Incarnation {
    /// The incarnation that an op begins of a document; none if it creates no text there. An op that was issued again begins the one
    /// of the op that was first.
    pub(super) fn begun(op: &Op, body: &Body<'_>, doc: &DocKey<'_>) -> Option<Incarnation> {
        let creates = |command: &Command<'_>| matches!(command, Command::Text(key, edit) if key == doc && edit.creates);
        let first = || body.key_text().and_then(first_of).map_or(op.id(), |(first, _)| first);
        body.commands.iter().any(creates).then(|| Incarnation::of(first(), doc))
    }

    /// The incarnation of a document that is named by an op.
    fn of(OpId { origin, seq }: OpId, doc: &DocKey<'_>) -> Incarnation {
        let client = CLIENT_MIN | short_doc(doc) << (ORIGIN_BITS + LOW_BITS) | short(origin) << LOW_BITS | seq & LOW;
        Incarnation { client, length: LENGTH_MIN | (seq >> LOW_BITS) & (LENGTH_MIN - 1) }
    }

    /// True if it is one of this document.
    pub fn is_of(self, doc: &DocKey<'_>) -> bool {
        (self.client ^ CLIENT_MIN) >> (ORIGIN_BITS + LOW_BITS) == short_doc(doc)
    }

    /// The incarnation that a client with this clock stands for; none if it is a real one.
    pub fn at(client: u64, clock: u64) -> Option<Incarnation> {
        let stands = (CLIENT_MIN..=CLIENT_MAX).contains(&client) && (LENGTH_MIN..=LENGTH_MAX).contains(&clock);
        stands.then_some(Incarnation { client, length: clock })
    }

    /// The incarnations that somebody holds.
    pub fn among(clocks: &Clocks) -> impl Iterator<Item = Incarnation> {
        clocks.iter().filter_map(|(client, clock)| Incarnation::at(*client, *clock))
    }

    /// True if it is in these clocks.
    pub fn is_in(self, clocks: &Clocks) -> bool {
        clocks.get(&self.client) == Some(&self.length)
    }

    /// True if the op that began it is among the ops of this origin up to this seq.
    pub fn is_within(self, origin: NodeId, seq: u64) -> bool {
        let begun = (self.length & (LENGTH_MIN - 1)) << LOW_BITS | self.client & LOW;
        (self.client >> LOW_BITS) & ((1 << ORIGIN_BITS) - 1) == short(origin) && begun <= seq
    }

    /// The update that brings it into a text.
    pub(super) fn update(self) -> Vec<u8> {
        let mut update = vec![1, 1];
        [self.client, 0, u64::from(COLLECTED), self.length, 0]
            .into_iter()
            .for_each(|number| write(&mut update, number));
        update
    }
}

fn short(origin: NodeId) -> u64 {
    (origin.0.as_u128() as u64) & ((1 << ORIGIN_BITS) - 1)
}

fn short_doc(doc: &DocKey<'_>) -> u64 {
    let hash = blake3::hash(format!("{}/{}", doc.collection, doc.id).as_bytes());
    u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::document::{prose::Prose, update::Shape};

    #[test]
    fn an_incarnation_is_found_in_what_an_editor_holds_and_names_its_op() {
        let (origin, doc) = (NodeId(Uuid::from_u128(0xfeed_beef)), DocKey::new("notes", "a"));
        for seq in [1, 7, (1 << 18) - 1, 1 << 18, (1 << 29) + 5, (1 << 47) - 1] {
            let incarnation = Incarnation::of(OpId { origin, seq }, &doc);
            assert!(incarnation.is_of(&doc) && !incarnation.is_of(&DocKey::new("notes", "b")));
            let mut prose = Prose::default();
            prose.take(&[incarnation.update()]).unwrap();
            // As an editor has it that was given all, and says by its state vector what it holds.
            let copy = Prose::of(std::iter::once(&*prose.encode(&[]).unwrap())).unwrap();
            assert_eq!(Incarnation::among(copy.clocks()).collect::<Vec<_>>(), [incarnation], "{seq}");
            assert!(incarnation.is_within(origin, seq) && !incarnation.is_within(origin, seq - 1), "{seq}");
            assert!(!incarnation.is_within(NodeId(Uuid::from_u128(0xfeed_beee)), seq), "{seq}");
            assert_eq!(copy.plain(), Ok(String::new()));
            let mut clocks = Clocks::new();
            Shape::of(&incarnation.update()).unwrap().add_to(&mut clocks);
            assert!(incarnation.is_in(&clocks));
        }
    }

    #[test]
    fn a_text_holds_each_of_the_incarnations_that_begin_it() {
        let (origin, doc) = (NodeId(Uuid::from_u128(7)), DocKey::new("notes", "a"));
        let both = [3, 4].map(|seq| Incarnation::of(OpId { origin, seq }, &doc));
        for order in [[0, 1], [1, 0]] {
            let mut prose = Prose::default();
            prose.take(&order.map(|at| both[at].update())).unwrap();
            assert!(both.iter().all(|one| prose.is_of(*one)));
        }
    }

    #[test]
    fn a_client_that_writes_is_no_incarnation() {
        for (client, clock) in [(1, 1), (u64::from(u32::MAX), 1 << 29), (CLIENT_MAX, 2 << 20), (CLIENT_MIN, 0)] {
            assert_eq!(Incarnation::at(client, clock), None, "{client} {clock}");
        }
    }
}
