//! One look at the replica for a feed: the next changes in the ring, and the next documents of a walk.
//!
//! The look runs in the node's own task, so it takes only copies of what is there, which are cheap; values are parsed and
//! JSON is made outside, once for all who share what was found.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
};

use compact_str::CompactString;
use serde::Serialize;
use serde_json::Value;

use super::{
    access::Reach,
    check_ready,
    place::{Place, Walk},
    shape::{self, DocBody},
};
use crate::{
    document::{Change, State, Text, View, json},
    op::Stamp,
    replica::{Refused, Replica},
};

/// Most changes and most documents that one look takes: some hundreds of microseconds of the node's task.
const LOOK_MAX: usize = 500;
/// A look ends early once the documents it found have this many bytes, so that what it leads to is soon written.
const LOOK_BYTES: usize = 256 << 10;

/// What is told of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is so now, or deleted.
    Shown,
    /// It is there, but no longer in the filter.
    Removed,
}

/// A document that was found, in a walk or among the changes.
#[derive(Debug)]
pub struct Doc {
    /// Its collection.
    pub collection: Arc<str>,
    /// Its id.
    pub id: CompactString,
    /// What it is now; nothing if it is deleted.
    pub now: Option<Content>,
    stamp: Option<Stamp>,
    /// The time of the last op that touches it, and up to which time all was final when it was found.
    latest: u64,
    frontier: u64,
    /// The changes that led here, each with its place in the ring and what the document was before it.
    before: Vec<(u64, Option<Content>)>,
    shown: OnceLock<String>,
    removed: OnceLock<String>,
}

/// A text, and its value once a filter has asked for it.
#[derive(Debug)]
pub struct Content {
    text: Text,
    value: OnceLock<Value>,
}

impl Content {
    fn new(text: Text) -> Content {
        Content { text, value: OnceLock::new() }
    }

    /// The value.
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| json::parse(self.text.json().as_bytes()).expect("documents are JSON"))
    }
}

/// A change that has no value, as it is told.
#[derive(Serialize)]
struct GoneBody<'a> {
    collection: &'a str,
    id: &'a str,
    stamp: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

impl Doc {
    fn walked(view: View, frontier: u64) -> Doc {
        let View { collection, id, text, stamp, latest } = view;
        let (now, before) = (Some(Content::new(text)), Vec::new());
        let (shown, removed) = (OnceLock::new(), OnceLock::new());
        Doc { collection, id, now, stamp, latest, frontier, before, shown, removed }
    }

    fn changed(replica: &Replica, change: &Change) -> Doc {
        let (state, frontier) = (replica.state(), replica.frontier());
        let (collection, id) = (&change.collection, &change.id);
        if let Some(view) = state.get(collection, id) {
            return Doc::walked(view, frontier);
        }
        Doc {
            collection: Arc::clone(collection),
            id: id.clone(),
            now: None,
            stamp: state.stamp(collection, id),
            latest: state.latest(collection, id),
            frontier,
            before: Vec::new(),
            shown: OnceLock::new(),
            removed: OnceLock::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.now.as_ref().map_or(0, |content| content.text.len())
    }

    /// The changes from a place in the ring on, each with its place and what the document was before it.
    pub fn since(&self, ring: u64) -> &[(u64, Option<Content>)] {
        &self.before[self.before.partition_point(|(place, _)| *place < ring)..]
    }

    /// The states in which a client can know the document who has read the ring up to a place and may have seen states up
    /// to the place `known`: that before the first change which it cannot have seen, and all before the others.
    pub fn before(&self, ring: u64, known: u64) -> impl Iterator<Item = Option<&Content>> {
        let changes = self.since(ring);
        let unseen = changes.partition_point(|(place, _)| *place < known);
        changes.iter().take(unseen + 1).map(|(_, content)| content.as_ref())
    }

    /// Its JSON as a change. It is made once, whoever asks for it.
    pub fn json(&self, news: News) -> &str {
        match news {
            News::Shown => self.shown.get_or_init(|| self.to_json(news)),
            News::Removed => self.removed.get_or_init(|| self.to_json(news)),
        }
    }

    fn to_json(&self, news: News) -> String {
        let written = match (&self.now, news) {
            (Some(content), News::Shown) => {
                let (collection, id) = (Arc::clone(&self.collection), self.id.clone());
                let (text, stamp, latest) = (content.text.clone(), self.stamp, self.latest);
                serde_json::to_string(&DocBody::new(&View { collection, id, text, stamp, latest }, self.frontier, true))
            }
            _ => serde_json::to_string(&GoneBody {
                collection: &self.collection,
                id: &self.id,
                stamp: self.stamp.map(|stamp| stamp.to_string()),
                status: shape::status(self.latest <= self.frontier),
                deleted: news == News::Shown,
                removed: news == News::Removed,
            }),
        };
        written.expect("plain data is written to memory")
    }
}

/// What one look at the replica found.
#[derive(Clone, Debug)]
pub enum Look {
    /// The ring no longer, or not yet, has the place.
    Gone,
    /// Some documents, or none.
    Found(Arc<Chunk>),
}

/// The documents that a look found.
#[derive(Debug)]
pub struct Chunk {
    /// The place behind the changes looked at.
    pub behind: u64,
    /// The end of the ring at that moment, of which all documents here are.
    pub end: u64,
    /// Those that changed, in the order of their last changes.
    pub changed: Vec<Arc<Doc>>,
    /// Those that the walk came to.
    pub walked: Vec<Arc<Doc>>,
    /// How far the walk is now.
    pub walk: Option<Walk>,
}

impl Look {
    /// Looks from a place on, at the collections in reach.
    pub fn take(replica: &Replica, place: &Place, reach: &Reach) -> Result<Look, Refused> {
        check_ready(replica.standing())?;
        let state = replica.state();
        let Some(ring) = state.changes().since(place.ring) else { return Ok(Look::Gone) };
        let (mut behind, end, mut bytes) = (place.ring, state.changes().end(), 0);
        let mut found: Vec<Doc> = Vec::new();
        let mut index: HashMap<(&str, &str), usize> = HashMap::new();
        for (at, change) in (place.ring..).zip(ring.take(LOOK_MAX)) {
            if reach.covers(&change.collection) && place.walk.as_ref().is_none_or(|walk| walk.has_passed(change)) {
                let doc = match index.entry((&*change.collection, &*change.id)) {
                    Entry::Vacant(_) if bytes >= LOOK_BYTES => break,
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        let doc = Doc::changed(replica, change);
                        bytes += doc.bytes();
                        found.push(doc);
                        *entry.insert(found.len() - 1)
                    }
                };
                found[doc].before.push((at, change.before.clone().map(Content::new)));
            }
            behind = at + 1;
        }
        // By their last change, so that behind each of them nothing is left that led to what it is.
        found.sort_by_key(|doc| doc.before.last().map(|(place, _)| *place));
        let (walked, walk) = match &place.walk {
            // What is walked now must be of the same moment as the changes, so these come first, to their end.
            Some(walk) if behind == end => walk_on(state, walk.clone(), reach),
            walk => (Vec::new(), walk.clone()),
        };
        let changed = found.into_iter().map(Arc::new).collect();
        let walked = walked.into_iter().map(|view| Arc::new(Doc::walked(view, replica.frontier()))).collect();
        Ok(Look::Found(Arc::new(Chunk { behind, end, changed, walked, walk })))
    }
}

/// The next documents of a walk, and how far it is then. Where it is, a client may have made up: what is out of reach is
/// passed over.
fn walk_on(state: &State, mut walk: Walk, reach: &Reach) -> (Vec<View>, Option<Walk>) {
    let (mut found, mut bytes, mut left) = (Vec::new(), 0, LOOK_MAX);
    loop {
        // The collection without a name, where a walk over all begins, is none of the users'.
        if reach.covers(&walk.collection) && !walk.collection.is_empty() {
            let (views, last) = state.scan(&walk.collection, walk.id.as_deref(), left);
            left = left.saturating_sub(views.len() + 1);
            for view in views {
                walk.id = Some(view.id.to_string());
                bytes += view.text.len();
                found.push(view);
                if bytes >= LOOK_BYTES {
                    return (found, Some(walk));
                }
            }
            if let Some(last) = last {
                walk.id = Some(last.into());
                return (found, Some(walk));
            }
        }
        match next_collection(state, &walk.collection, reach) {
            None => return (found, None),
            Some(next) => (walk.collection, walk.id) = (next, None),
        }
        if left == 0 {
            return (found, Some(walk));
        }
    }
}

/// The collection in reach behind another.
pub fn next_collection(state: &State, behind: &str, reach: &Reach) -> Option<String> {
    reach.next(behind, |behind| state.collections_after(behind).next().map(|(name, _)| name.to_string()))
}
