//! A feed of documents: all there are, in the order of their keys, and then every change of them.
//!
//! What `GET /v1/changes` and the subscriptions of the WebSocket have in common. A feed keeps no queue, only a [`Place`]:
//! how far it has read the ring of changes, and, while it still walks the documents, the key it has reached. Of what
//! changes meanwhile it takes what it has passed, and leaves the rest to the walk. So each document comes in its state
//! of one moment and is then kept up to date; and however long the walk takes, the feed does not fall out of the ring.
//!
//! A reader that is slow finds several changes of a document at once, and gets its latest state. Only who falls behind
//! the ring starts over.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::{OnceCell, watch};

use super::{
    Problem,
    access::Reach,
    herald::{Ear, Herald, Watch},
    look::{Chunk, Content, Doc, Look, News},
    place::{Place, Walk},
};
use crate::{
    document::selector::Selector,
    node::{Node, Published},
};

/// Which documents a feed is about.
#[derive(Debug, Default)]
pub struct Scope {
    reach: Reach,
    filter: Option<Selector>,
    /// Tells scopes apart in cursors of feeds that still walk: the walk of one is no beginning of the walk of another.
    mark: u32,
}

impl Scope {
    /// The documents of a collection, or of all, that match a filter, if there is one.
    pub fn new(reach: Reach, filter: Option<&Value>) -> Result<Scope, Problem> {
        let text = serde_json::to_string(&(reach.only(), filter, reach.limits()));
        let text = text.expect("plain data is written to memory");
        let mark = u32::from_le_bytes(*blake3::hash(text.as_bytes()).as_bytes().first_chunk().expect("32 bytes"));
        let selector = filter.map(Selector::parse).transpose();
        let filter = selector.map_err(|error| Problem::bad("bad-filter", error.to_string()))?;
        Ok(Scope { reach, filter, mark })
    }

    fn matches(&self, content: Option<&Content>) -> bool {
        content.is_some_and(|content| self.filter.as_ref().is_none_or(|filter| filter.matches(content.value())))
    }

    /// What there is to tell about a document; nothing if it is out of reach, or was never in the filter.
    fn news(&self, doc: &Doc, from: &Place) -> Option<News> {
        if !self.reach.covers(&doc.collection) || doc.since(from.ring).is_empty() {
            return None;
        }
        if self.matches(doc.now.as_ref()) {
            return Some(News::Shown);
        }
        let torn = self.filter.is_some() && doc.since(from.ring).first().is_some_and(|(place, _)| *place < from.torn);
        let was = || doc.before(from.ring, from.known).any(|content| self.matches(content));
        (torn || was()).then_some(if doc.now.is_some() { News::Removed } else { News::Shown })
    }
}

/// What the readers at the end of the ring share: after a change, one of them looks, and all take what it found, each what
/// is behind its place. So a change is looked up and encoded once for each node, not once for each of its thousand
/// subscribers.
#[derive(Debug, Default)]
pub struct Tail(Mutex<Arc<Slot>>);

/// The place of one look.
#[derive(Debug, Default)]
pub struct Slot {
    start: u64,
    look: OnceCell<Look>,
}

impl Tail {
    /// The slot of a place, unless others are ahead of it.
    pub fn slot(&self, place: u64) -> Option<Arc<Slot>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.start < place && !slot.goes_beyond(place) {
            *slot = Arc::new(Slot { start: place, look: OnceCell::new() });
        }
        (slot.start <= place).then(|| Arc::clone(&slot))
    }
}

impl Slot {
    /// Whether what was found there has changes from a place on.
    fn goes_beyond(&self, place: u64) -> bool {
        matches!(self.look.get(), Some(Look::Found(chunk)) if chunk.behind > place)
    }

    /// What was found there; who asks first looks.
    pub async fn look(&self, node: &Node) -> Result<Look, Problem> {
        let place = Place::at(self.start);
        let look = self.look.get_or_try_init(|| look_alone(node, place, Reach::default())).await?;
        Ok(look.clone())
    }
}

/// A look that nobody shares.
pub async fn look_alone(node: &Node, place: Place, reach: Reach) -> Result<Look, Problem> {
    Ok(node.read(move |replica, _| Look::take(replica, &place, &reach)).await??)
}

/// A feed.
pub struct Feed {
    herald: Arc<Herald>,
    published: watch::Receiver<Published>,
    scope: Scope,
    place: Place,
    /// What its reader follows, where that waits for more.
    watch: Option<Watch>,
}

/// What a feed has next.
pub enum Step {
    /// Nothing until something changes.
    Idle,
    /// The place has fallen out of the ring.
    Gone,
    /// Some documents; maybe none that are in its scope.
    Part(Part),
}

/// Some documents.
pub struct Part {
    /// Those that changed.
    pub changes: Vec<Item>,
    /// Those that the walk came to, after the changes.
    pub walked: Vec<Item>,
    /// Whether there was a walk before this part.
    pub walking: bool,
}

/// A document of a part.
pub struct Item {
    doc: Arc<Doc>,
    news: News,
    /// The place behind it.
    pub place: Place,
}

impl Part {
    /// All its documents.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.changes.iter().chain(&self.walked)
    }
}

impl Item {
    /// Its JSON as a change.
    pub fn json(&self) -> &str {
        self.doc.json(self.news)
    }
}

impl Feed {
    /// A feed that begins with all documents.
    pub fn new(herald: &Arc<Herald>, scope: Scope) -> Feed {
        let (herald, published) = (Arc::clone(herald), herald.node().published());
        let mut feed = Feed { herald, published, scope, place: Place::at(0), watch: None };
        feed.restart();
        feed
    }

    /// The same, for a reader who is told of what may be in the feed, and reads as far as it was told.
    #[must_use]
    pub fn heralded(mut self, ear: &Ear) -> Feed {
        self.watch = Some(self.follow(ear));
        self
    }

    /// Has a reader woken by what may be in the feed.
    pub fn follow(&self, ear: &Ear) -> Watch {
        ear.follow(self.scope.reach.only())
    }

    /// Goes on where a cursor says; otherwise says that it cannot, since the cursor is of another node.
    pub fn resume(&mut self, cursor: &str) -> Result<bool, Problem> {
        let place = Place::parse(cursor, self.herald.node().run(), self.scope.mark)?;
        let found = place.is_some();
        self.place = place.unwrap_or_else(|| self.place.clone());
        Ok(found)
    }

    /// Begins with all documents again.
    pub fn restart(&mut self) {
        let ring = self.published.borrow().changes_end;
        let collection = self.scope.reach.only().unwrap_or_default().to_string();
        let walk = Some(Walk { scope: self.scope.mark, collection, id: None });
        self.place = Place { ring, known: ring, torn: 0, walk };
    }

    /// Goes back to a place in the part that it gave last.
    pub fn rewind(&mut self, place: Place) {
        self.place = place;
    }

    /// The cursor to go on where it is.
    pub fn cursor(&self) -> String {
        self.cursor_of(&self.place)
    }

    /// The cursor to go on at a place in the part that it gave last.
    pub fn cursor_of(&self, place: &Place) -> String {
        place.cursor(self.herald.node().run())
    }

    /// Whether it still walks over all documents.
    pub fn is_walking(&self) -> bool {
        self.place.walk.is_some()
    }

    /// Whether there is something that it has not looked at.
    pub fn has_more(&self) -> bool {
        let (ring, end) = (self.place.ring, self.published.borrow().changes_end);
        self.is_walking() || self.watch.as_ref().map_or(ring != end, |watch| watch.next(ring, end).1)
    }

    /// Takes a look, and goes on behind what it found.
    pub async fn next(&mut self) -> Result<Step, Problem> {
        if !self.is_walking()
            && let Some(watch) = &self.watch
        {
            // What it passes over here is nothing that it would tell.
            self.place.ring = watch.next(self.place.ring, self.published.borrow().changes_end).0;
            self.place.known = self.place.known.max(self.place.ring);
        }
        if !self.has_more() {
            return Ok(Step::Idle);
        }
        let Look::Found(chunk) = self.look().await? else { return Ok(Step::Gone) };
        let behind = Place { ring: chunk.behind, known: chunk.end, torn: self.place.torn, walk: chunk.walk.clone() };
        let before = std::mem::replace(&mut self.place, behind);
        Ok(Step::Part(self.part(&chunk, &before)))
    }

    async fn look(&self) -> Result<Look, Problem> {
        let end = self.published.borrow().changes_end;
        if self.place.ring > end {
            return Ok(Look::Gone);
        }
        let tail = self.watch.as_ref().map_or(self.herald.tail(), Watch::tail);
        if !self.is_walking()
            && let Some(slot) = tail.slot(self.place.ring)
        {
            match slot.look(self.herald.node()).await? {
                // The reader has looked for itself since, and knows later states of some documents.
                Look::Found(chunk) if chunk.end < self.place.known => {}
                look => return Ok(look),
            }
        }
        look_alone(self.herald.node(), self.place.clone(), self.scope.reach.clone()).await
    }

    /// The documents of a chunk that are in the scope. `before` is the place from which the look was taken.
    fn part(&self, chunk: &Chunk, before: &Place) -> Part {
        let torn = before.torn.max(chunk.behind);
        let at = |ring, walk| Place { ring, known: chunk.end, torn, walk };
        let change = |doc: &Arc<Doc>| {
            let news = self.scope.news(doc, before)?;
            let ring = doc.since(before.ring).last().map_or(chunk.behind, |(place, _)| place + 1);
            Some(Item { doc: Arc::clone(doc), news, place: at(ring, before.walk.clone()) })
        };
        let walked = |doc: &Arc<Doc>| {
            let walk =
                Walk { scope: self.scope.mark, collection: (&*doc.collection).into(), id: Some(doc.id.to_string()) };
            Item { doc: Arc::clone(doc), news: News::Shown, place: at(chunk.behind, Some(walk)) }
        };
        let matching = chunk.walked.iter().filter(|doc| self.scope.matches(doc.now.as_ref()));
        let mut part = Part {
            changes: chunk.changed.iter().filter_map(change).collect(),
            walked: matching.map(walked).collect(),
            walking: before.walk.is_some(),
        };
        // Behind the last there is nothing more in this part, so a cursor from there need not look at it again.
        if let Some(last) = part.walked.last_mut().or(part.changes.last_mut()) {
            last.place = self.place.clone();
        }
        part
    }
}
