//! Where a feed goes on, and the cursor that a client keeps of it.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Problem;
use crate::document::Change;

/// Longest cursor, in characters: the longest key, and some numbers.
const CURSOR_MAX: usize = 1 << 10;

/// Where a feed goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The next change in the ring.
    pub ring: u64,
    /// The client may know a document in a state later than `ring`, but of no later place than this.
    pub known: u64,
    /// The place is amidst a part that ended here: of a document that changed between the two, an earlier change may have
    /// been part of it too, so that it is not known whether the client has it.
    pub torn: u64,
    /// How far the walk over all documents is; none when it is over.
    pub walk: Option<Walk>,
}

/// A walk that has passed all documents up to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// The mark of the scope that it is of.
    pub scope: u32,
    /// The collection that it has reached; without a name before the first.
    pub collection: String,
    /// None before the collection's first document.
    pub id: Option<String>,
}

impl Walk {
    /// Whether the document that changed lies behind it.
    pub fn has_passed(&self, change: &Change) -> bool {
        let passed_id = || self.id.as_ref().is_some_and(|id| *change.id <= **id);
        *change.collection < *self.collection || (*change.collection == *self.collection && passed_id())
    }
}

impl Place {
    /// A place in the ring, of one who has all that was before.
    pub fn at(ring: u64) -> Place {
        Place { ring, known: ring, torn: 0, walk: None }
    }

    /// As opaque text, which names the run of the node: the ring is its own.
    pub fn cursor(&self, run: Uuid) -> String {
        let bytes = postcard::to_allocvec(&(run.as_u128(), self)).expect("plain data is written to memory");
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place that a cursor names; none if it is of another node, or of one that has started anew since.
    pub fn parse(cursor: &str, run: Uuid, scope: u32) -> Result<Option<Place>, Problem> {
        let bad = |detail: &str| Problem::bad("bad-cursor", detail);
        let bytes = (cursor.len() <= CURSOR_MAX).then(|| BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()).flatten();
        let parsed = bytes.as_deref().map(postcard::take_from_bytes::<(u128, Place)>);
        let Some(Ok(((of, place), []))) = parsed else {
            return Err(bad("not a cursor that a node gave: send back a \"next\", \"cursor\" or event id as it came"));
        };
        if place.walk.as_ref().is_some_and(|walk| walk.scope != scope) {
            return Err(bad(
                "the cursor is from amidst all documents of another collection or filter: start without it",
            ));
        }
        Ok((of == run.as_u128()).then_some(place))
    }
}
