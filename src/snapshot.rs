//! A snapshot: what the final ops up to a time come to, for one who is not given these ops any more.
//!
//! It is the same in a journal, which forgets the ops before it, on a link to a newcomer, and in a backup: a [`Base`], the
//! documents in the order of their keys, and a [`Whole`] that says that nothing is missing. The ops behind the base's time
//! come as ops. It rests on `op` alone; who makes snapshots and who takes them is `replica`'s to say.

use serde::{Deserialize, Serialize};

use crate::op::{Head, NodeId, Op, Stamp, TIME_MAX};

/// A sender of documents ends a part when it passes this, in bytes of their texts and names.
pub const PART_BYTES: usize = 256 << 10;

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The first.
    Base(Base),
    /// Some documents.
    Documents(Slice),
    /// The last.
    Whole(Whole),
    /// The base once more, behind the documents. Only in a journal, where one bad byte must not cost all of them.
    Again(Base),
}

/// What is known of the ops that a snapshot stands for, but for the documents that they made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// It stands for all ops of the pool up to this time; they are final.
    pub time: u64,
    /// How far the ops of each origin go there, in the order of the origins.
    pub heads: Vec<(NodeId, Head)>,
    /// Those of them that are about members, in stamp order: they are never forgotten.
    pub membership: Vec<Op>,
    /// About how many documents there will be, for those who watch the progress.
    pub documents: u64,
}

impl Base {
    /// Whether there can be such a pool: an origin's ops have times that rise, from 1 on, so it has no more of them than that.
    pub fn is_sound(&self) -> bool {
        let orderly = self.heads.is_sorted_by(|a, b| a.0 < b.0);
        self.time <= TIME_MAX && orderly && self.heads.iter().all(|(_, head)| head.seq <= self.time)
    }

    /// Whether it says the same of the ops; how many documents there will be is a guess.
    pub fn is_same(&self, other: &Base) -> bool {
        (self.time, &self.heads, &self.membership) == (other.time, &other.heads, &other.membership)
    }
}

/// The documents of a snapshot from one key to another, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The key behind which they come; none for the first.
    pub after: Option<Key>,
    /// The documents there are.
    pub documents: Vec<BaseDocument>,
    /// The key behind which the next slice goes on; none for the last.
    pub next: Option<Key>,
}

/// Collection and id of a document.
pub type Key = (String, String);

/// A document as the ops that a snapshot stands for have made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseDocument {
    /// Its collection; empty for what is remembered of an idempotency key.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// Its canonical text.
    pub text: String,
    /// The last op that wrote it.
    pub stamp: Stamp,
}

/// That a snapshot is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// How many documents it has.
    pub documents: u64,
    /// The digest over them, as `document::State` sums it up.
    pub digest: u64,
}
