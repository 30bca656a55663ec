//! Listings: `GET /v1/docs/{collection}` and `GET /v1/collections`.
//!
//! A listing walks the collection in chunks: the node's task only copies references out. Filters and sorts, which parse every
//! document, run on worker threads. There are no indexes, so a filter or a sort looks at every document; what is kept
//! meanwhile is a page at the most. The chunks are read one after the other, so a page is not one moment of the
//! collection: a document that changes meanwhile is shown as it was when its chunk was read.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use compact_str::CompactString;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Api, ConnectionMemory, Problem,
    access::{Pass, Reach},
    extract::CollectionPath,
    past::When,
    query::Query,
    rates::Caller,
    shape::DocBody,
    workers::TURN_BYTES,
};
use crate::document::{
    PastViews, View,
    json::{self, excerpt},
    selector::{Selector, Sort, SortKey},
};

/// Documents or collections looked at in one turn of the node's task: some hundred microseconds in which it does nothing else.
const CHUNK: usize = 1000;
/// Bytes of documents after which a page ends, though it has not reached its limit: a thousand documents of 1 MiB are
/// more than a client or this node wants at once.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of texts of the past that are worked out before they are filtered.
const PAST_BYTES: usize = 256 << 10;
/// Longest sort key that a cursor holds, in bytes: cursors travel in URLs.
const CURSOR_KEY_BYTES_MAX: usize = 4 << 10;

/// A page of documents.
#[derive(Serialize)]
pub struct Page {
    docs: Vec<DocBody>,
    next: Option<String>,
}

/// A page of collections.
#[derive(Serialize)]
pub struct Collections {
    collections: Vec<Collection>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Collection {
    name: String,
    docs: usize,
}

/// `GET /v1/collections`.
pub async fn collections(State(api): State<Api>, pass: Pass, uri: Uri) -> Result<Json<Collections>, Problem> {
    let mut query = Query::of(&uri, &["limit", "after"])?;
    let limit = query.limit()?;
    let reach = Reach::new(&pass, None)?;
    // After the collection without a name, which is none of the users', come all of theirs.
    let mut behind = query.take("after").map(|cursor| collection_of(&cursor)).transpose()?.unwrap_or_default();
    let mut collections = Vec::new();
    // One more than the page has room for says that there is another page.
    while collections.len() <= limit {
        let chunk = api.read(move |replica| {
            let counts = replica.state().collections_after(&behind).take(CHUNK);
            counts.map(|(name, docs)| (Arc::clone(name), docs)).collect::<Vec<_>>()
        });
        let counted = chunk.await?;
        let last = counted.last().map(|(name, _)| name.to_string());
        let kept = counted.into_iter().filter(|(name, docs)| *docs > 0 && reach.covers(name));
        collections.extend(kept.map(|(name, docs)| Collection { name: name.to_string(), docs }));
        match last {
            Some(last) => behind = last,
            None => break,
        }
    }
    let more = collections.len() > limit;
    collections.truncate(limit);
    let next = collections.last().filter(|_| more).map(|Collection { name, .. }| collections_cursor(name));
    Ok(Json(Collections { collections, next }))
}

/// The cursor of a page of collections that goes on after this one.
fn collections_cursor(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json!({ "of": "collections", "id": name }).to_string())
}

fn collection_of(cursor: &str) -> Result<String, Problem> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|cursor| json::parse(&cursor).ok());
    let name =
        decoded.filter(|cursor| cursor["of"] == "collections").and_then(|cursor| Some(cursor["id"].as_str()?.into()));
    let bad = "after is the \"next\" of a page of collections; leave it out to start";
    name.ok_or_else(|| Problem::bad("bad-cursor", bad))
}

/// `GET /v1/docs/{collection}`.
pub async fn docs(
    State(api): State<Api>,
    CollectionPath(collection): CollectionPath,
    (caller, memory): (Caller, ConnectionMemory),
    uri: Uri,
) -> Result<Json<Page>, Problem> {
    let mut held = memory.nothing();
    let wanted = Arc::new(Wanted::parse(collection, &uri)?);
    let mut page = Found::new(wanted.limit);
    // In the order of ids nothing before the cursor needs to be looked at.
    let mut behind = wanted.after.as_ref().filter(|_| wanted.sort.is_none()).map(|(_, id)| id.clone());
    let most = if wanted.reads_values() { CHUNK } else { CHUNK.min(wanted.limit + 1) };
    let when = wanted.when;
    loop {
        let (collection, after) = (wanted.collection.clone(), behind.take());
        let chunk = api.read(move |replica| {
            let (state, after) = (replica.state(), after.as_deref());
            let found: (PastViews, _) = match when.time(replica)? {
                None => {
                    let (views, rest) = state.scan(&collection, after, most);
                    (views.into_iter().collect(), rest)
                }
                Some(time) => state.scan_at(&collection, after, time, most),
            };
            Ok::<_, Problem>((found, replica.frontier()))
        });
        let ((found, rest), frontier) = chunk.await??;
        let found = api.workers.work_out(&caller, found, PAST_BYTES).await?;
        // What documents are now is shared; what they were is made for this listing.
        if when != When::Now {
            held.resize(page.bytes + found.replays.bytes())?;
        }
        let (views, rest) = found.up_to(rest);
        for portion in portions(views.map(|view| when.dated(view))) {
            for (place, view) in wanted.places(&api, &caller, portion).await? {
                page.offer(place, view, frontier);
            }
        }
        // In the order of ids the first document past the page is the end; in another order it may come last.
        if wanted.sort.is_none() && page.more {
            break;
        }
        behind = rest;
        if behind.is_none() {
            break;
        }
    }
    let next = if page.more { page.places.last_key_value().map(|(place, _)| wanted.cursor(place)) } else { None };
    let docs = page.places.values().map(|(view, frontier)| DocBody::new(view, *frontier, false)).collect();
    Ok(Json(Page { docs, next: next.transpose()? }))
}

/// The documents in portions that one turn of a worker bears.
fn portions(views: impl Iterator<Item = View>) -> Vec<Vec<View>> {
    let (mut portions, mut bytes) = (vec![Vec::new()], 0);
    for view in views {
        if bytes >= TURN_BYTES {
            portions.push(Vec::new());
            bytes = 0;
        }
        bytes += view.text.len();
        portions.last_mut().expect("there is one from the beginning").push(view);
    }
    portions
}

/// A document's place in a listing: by its sort key, if there is a sort, then by its id.
type Place = (Option<SortKey>, CompactString);

/// What a listing asks for.
struct Wanted {
    collection: String,
    when: When,
    filter: Option<Selector>,
    sort: Option<Sort>,
    limit: usize,
    after: Option<Place>,
    /// Tells this listing's cursors from those of others.
    fingerprint: String,
}

impl Wanted {
    fn parse(collection: String, uri: &Uri) -> Result<Wanted, Problem> {
        let mut query = Query::of(uri, &["filter", "sort", "limit", "after", "view", "at"])?;
        let when = When::of(&mut query)?;
        let limit = query.limit()?;
        let filter = query.take("filter").map(|text| json::parse(text.as_bytes())).transpose();
        let filter = filter.map_err(|error| Problem::bad("bad-filter", error.to_string()))?;
        let selector = filter.as_ref().map(Selector::parse).transpose();
        let selector = selector.map_err(|error| Problem::bad("bad-filter", error.to_string()))?;
        let sort_text = query.take("sort");
        let sort = sort_text.as_deref().map(Sort::parse).transpose();
        let sort = sort.map_err(|error| Problem::bad("bad-query", format!("sort: {error}")))?;
        // The final view moves on from page to page, as what is now does; another time is another listing.
        let listing = match when {
            When::Now => json!([collection, filter, sort_text]),
            When::Final => json!([collection, filter, sort_text, "final"]),
            When::At(time) => json!([collection, filter, sort_text, time]),
        };
        let listing = listing.to_string();
        let fingerprint = blake3::hash(listing.as_bytes()).to_hex()[..16].to_string();
        let mut wanted = Wanted { collection, when, filter: selector, sort, limit, after: None, fingerprint };
        if let Some(cursor) = query.take("after") {
            let bad = "after is the \"next\" of a page with the same collection, filter, sort, view and at; leave it out to start";
            wanted.after = Some(wanted.place_of(&cursor).ok_or_else(|| Problem::bad("bad-cursor", bad))?);
        }
        Ok(wanted)
    }

    fn reads_values(&self) -> bool {
        self.filter.is_some() || self.sort.is_some()
    }

    /// The documents that this page may show, with their places. They are parsed on a worker, if they must be.
    async fn places(
        self: &Arc<Self>,
        api: &Api,
        caller: &Caller,
        views: Vec<View>,
    ) -> Result<Vec<(Place, View)>, Problem> {
        let wanted = Arc::clone(self);
        let places = move || views.into_iter().filter_map(|view| Some((wanted.place(&view)?, view))).collect();
        if self.reads_values() { api.workers.run(caller, places).await } else { Ok(places()) }
    }

    /// The place of a document that this page may show.
    fn place(&self, view: &View) -> Option<Place> {
        let mut key = None;
        if self.reads_values() {
            // A document's text is canonical, so its numbers are normalised already.
            let value: Value = serde_json::from_str(view.text.json()).expect("documents are JSON");
            if self.filter.as_ref().is_some_and(|filter| !filter.matches(&value)) {
                return None;
            }
            key = self.sort.as_ref().map(|sort| sort.key(&view.id, &value));
        }
        let place = (key, view.id.clone());
        self.after.as_ref().is_none_or(|after| place > *after).then_some(place)
    }

    /// The cursor that goes on behind `place`. Opaque to clients; it names no node, so any of the pool takes it.
    fn cursor(&self, (key, id): &Place) -> Result<String, Problem> {
        let key = key.as_ref().map(SortKey::to_json);
        if key.as_ref().is_some_and(|key| json::size(key) > CURSOR_KEY_BYTES_MAX) {
            let detail = format!(
                "sort by a smaller field: that of document {:?} has more than {CURSOR_KEY_BYTES_MAX} bytes, so no \
                 cursor can say where the listing goes on",
                excerpt(id)
            );
            return Err(Problem::bad("bad-query", detail));
        }
        let cursor = json!({ "of": self.fingerprint, "id": id.as_str(), "key": key });
        Ok(BASE64_URL_SAFE_NO_PAD.encode(cursor.to_string()))
    }

    fn place_of(&self, cursor: &str) -> Option<Place> {
        let cursor = json::parse(&BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let key = match &cursor["key"] {
            Value::Null => None,
            key => Some(SortKey::from_json(key).ok()?),
        };
        let is_of_sort = match (&key, &self.sort) {
            (Some(key), Some(sort)) => SortKey::is_of(key, sort),
            (key, sort) => key.is_some() == sort.is_some(),
        };
        let of_this = cursor["of"] == *self.fingerprint && is_of_sort;
        of_this.then_some((key, CompactString::new(cursor["id"].as_str()?)))
    }
}

/// The page as far as it is found: of all documents offered, those at the first places.
struct Found {
    limit: usize,
    /// Each with the time up to which all was final when it was looked at.
    places: BTreeMap<Place, (View, u64)>,
    bytes: usize,
    /// Whether a document was offered that comes behind the page.
    more: bool,
    /// The first place known to be behind the page. What comes at or behind it is not kept, even if there is room again:
    /// a page must not have gaps, for the next one begins where it ends.
    end: Option<Place>,
}

impl Found {
    fn new(limit: usize) -> Found {
        Found { limit, places: BTreeMap::new(), bytes: 0, more: false, end: None }
    }

    fn offer(&mut self, place: Place, view: View, frontier: u64) {
        if self.end.as_ref().is_some_and(|end| place >= *end) {
            return;
        }
        self.bytes += view.text.len();
        self.places.insert(place, (view, frontier));
        while self.places.len() > self.limit || (self.bytes > PAGE_BYTES_MAX && self.places.len() > 1) {
            let Some((last, (view, _))) = self.places.pop_last() else { break };
            self.bytes -= view.text.len();
            self.more = true;
            self.end = Some(last);
        }
    }
}
