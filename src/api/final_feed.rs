//! The final feed, `GET /v1/changes?view=final`: what the final ops did, one after the other, the same on every node.
//!
//! An entry for each document that a final op with effect wrote, in stamp order, as the document was after that op. Only
//! what is final is told, so nothing told is ever taken back, and an entry's bytes follow from the pool's history alone.
//! Without a cursor it begins at the horizon: where something is forgotten, with the documents as they were there.
//!
//! The node's task copies out which op wrote what. Workers carry the ops out again where they must; versions and JSON are made here.

use std::{collections::BTreeSet, convert::Infallible, fmt::Write as _, mem};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use compact_str::CompactString;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Api, Problem,
    access::Reach,
    changes::{ANSWER_BYTES, KEEP_ALIVE, RESYNC},
    check_ready,
    final_place::Place,
    look::next_collection,
    memory::Reservation,
    rates::Caller,
    shape,
    workers::Workers,
};
use crate::{
    document::{Past, Replays, State, Text, prose::is_prose},
    node::{Published, Stopped},
    op::{DocKey, Op, OpId, PoolId, Stamp},
    replica::{Refused, Replica},
    version::Version,
};

/// Most ops that one look goes through, and bytes of theirs; commands that it decodes, and ops that it copies: some hundreds of
/// microseconds of the node's task.
const LOOK_OPS: usize = 1_000;
const LOOK_OP_BYTES: usize = 1 << 20;
const LOOK_WORK: usize = 20_000;
/// Most documents that one look finds, and bytes of theirs after which it ends.
const LOOK_ENTRIES: usize = 500;
const LOOK_BYTES: usize = 256 << 10;

/// The next entries: a page, or, if there is none, what comes within some time.
pub async fn page(
    (mut feed, mut held): (FinalFeed, Reservation),
    limit: usize,
    wait: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + wait.unwrap_or_default();
    let mut found = collect(&mut feed, limit, &mut held).await?;
    while found.is_empty() && wait.is_some() {
        tokio::select! {
            changed = feed.changed() => changed?,
            () = sleep_until(deadline) => break,
            () = stop.cancelled() => break,
        }
        found = collect(&mut feed, limit, &mut held).await?;
    }
    let (next, more) = (feed.cursor(), feed.has_more());
    let body = format!(r#"{{"changes":[{}],"next":"{next}","more":{more}}}"#, found.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The next entries, as JSON: up to a number, up to the bound of an answer, or all there are. Where it ends follows from
/// the entries, not from how many looks it takes.
async fn collect(feed: &mut FinalFeed, limit: usize, held: &mut Reservation) -> Result<Vec<String>, Problem> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while feed.has_more() {
        for entry in feed.next().await? {
            let json = entry.json();
            bytes += json.len();
            taken.push(json);
            if taken.len() == limit || bytes >= ANSWER_BYTES {
                feed.rewind(entry.place);
                return Ok(taken);
            }
        }
        held.resize(bytes)?;
    }
    Ok(taken)
}

/// The feed as a stream of server-sent events that ends when the node stops.
pub fn events(feed: FinalFeed, stop: CancellationToken) -> Response {
    // The first bytes go out at once, so that the client knows that it is connected.
    let parts = stream::unfold((feed, stop, true), |(mut feed, stop, opening)| async move {
        let text = if opening { ":\n\n".into() } else { next_events(&mut feed, &stop).await? };
        Some((Ok::<_, Infallible>(Bytes::from(text)), (feed, stop, false)))
    });
    (shape::streaming("text/event-stream"), Body::from_stream(parts)).into_response()
}

/// What to send next; none at the end.
async fn next_events(feed: &mut FinalFeed, stop: &CancellationToken) -> Option<String> {
    while !stop.is_cancelled() {
        if !feed.has_more() {
            tokio::select! {
                changed = feed.changed() => changed.ok()?,
                // An id alone is no event, but the client resumes from it: past what did not concern it.
                () = sleep(KEEP_ALIVE) => return Some(format!("id: {}\n\n", feed.cursor())),
                () = stop.cancelled() => return None,
            }
        }
        let entries = match feed.next().await {
            Ok(entries) => entries,
            // The reader has fallen so far behind that something was forgotten that it was not told.
            Err(problem) if problem.status() == StatusCode::GONE => {
                feed.restart().await.ok()?;
                return Some(RESYNC.into());
            }
            // The node has stopped, or has given up its data for another pool's: the client's next try is told which.
            Err(_) => return None,
        };
        let mut text = String::new();
        for entry in entries {
            let (cursor, json) = (feed.cursor_of(&entry.place), entry.json());
            write!(text, "event: change\nid: {cursor}\ndata: {json}\n\n").expect("memory takes it");
        }
        if !text.is_empty() {
            return Some(text);
        }
    }
    None
}

/// An entry, and the place behind it.
pub struct Entry {
    what: What,
    collection: CompactString,
    id: CompactString,
    text: Option<Text>,
    /// The place behind it.
    pub place: Place,
}

enum What {
    /// As it was at a time, with the op that wrote it last, where that is known.
    Snapshot(u64, Option<Stamp>),
    Written(OpId, Stamp),
}

/// What a look found.
struct Found {
    /// Documents in the feed's collections, whose texts are to be worked out.
    entries: Vec<Entry>,
    replays: Replays,
    /// The place behind all that was looked at.
    place: Place,
    /// Whether there is more that is final.
    more: bool,
    /// Up to which time all was final.
    frontier: u64,
}

/// A reader of the final feed.
pub struct FinalFeed {
    api: Api,
    caller: Caller,
    published: watch::Receiver<Published>,
    pool: PoolId,
    reach: Reach,
    place: Place,
    /// Whether it begins here, without a cursor.
    fresh: bool,
    /// Whether something is final that it has not looked at, as far as it knows.
    more: bool,
    frontier: u64,
}

impl FinalFeed {
    /// A feed of the collections in reach, from a cursor or from the beginning of what is kept.
    pub async fn open(api: &Api, caller: Caller, reach: Reach, since: Option<&str>) -> Result<FinalFeed, Problem> {
        let look = |replica: &Replica| (replica.pool().map(|(pool, _)| *pool), replica.horizon());
        let (pool, horizon) = api.read(look).await?;
        let pool = pool.ok_or(Refused::NotReady)?;
        let published = api.node.published();
        let place = since.map(|since| Place::parse(since, pool)).transpose()?.unwrap_or(Place::first(horizon));
        let (api, fresh) = (api.clone(), since.is_none());
        Ok(FinalFeed { api, caller, published, pool, reach, place, fresh, more: true, frontier: 0 })
    }

    /// Begins afresh.
    pub async fn restart(&mut self) -> Result<(), Problem> {
        let horizon = self.api.node.read(|replica, _| replica.horizon()).await?;
        (self.place, self.fresh, self.more) = (Place::first(horizon), true, true);
        Ok(())
    }

    /// The cursor to go on where it is.
    pub fn cursor(&self) -> String {
        self.cursor_of(&self.place)
    }

    /// The cursor to go on behind an entry.
    pub fn cursor_of(&self, place: &Place) -> String {
        place.cursor(self.pool)
    }

    /// Whether something is final that it has not told.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Goes back to the place of an entry that it gave last.
    pub fn rewind(&mut self, place: Place) {
        self.more |= place != self.place;
        self.place = place;
    }

    /// Waits until more is final.
    pub async fn changed(&mut self) -> Result<(), Problem> {
        let frontier = self.frontier;
        self.published.wait_for(|published| published.frontier > frontier).await.map_err(|_| Stopped)?;
        self.more = true;
        Ok(())
    }

    /// Takes a look, and goes on behind what it found: entries, maybe none in its collection. Fails with 410 where the
    /// place is gone.
    pub async fn next(&mut self) -> Result<Vec<Entry>, Problem> {
        if let Place::Snapshot { time, .. } = self.place {
            // Its ops must stay until all of it is read, which may take longer than others let them.
            self.api.node.pin(time).await?;
        }
        let mut found = match self.look().await? {
            // The horizon has moved on since it was asked for.
            Err(problem) if self.fresh && problem.status() == StatusCode::GONE => {
                self.restart().await?;
                return Ok(Vec::new());
            }
            found => found?,
        };
        found.work_out(&self.api.workers, &self.caller).await?;
        (self.place, self.fresh, self.more, self.frontier) = (found.place, false, found.more, found.frontier);
        Ok(found.entries)
    }

    async fn look(&self) -> Result<Result<Found, Problem>, Problem> {
        let (place, reach, pool) = (self.place.clone(), self.reach.clone(), self.pool);
        let look = move |replica: &Replica| match replica.pool() {
            Some((now, _)) if *now == pool => take(replica, place, &reach),
            _ => Err(Problem::from(Stopped)),
        };
        Ok(self.api.look(move |replica, _| check_ready(replica.standing()).map(|()| look(replica))).await??)
    }
}

impl Found {
    /// Works the texts out, or those of the first entries; what lies behind these is looked at again.
    async fn work_out(&mut self, workers: &Workers, caller: &Caller) -> Result<(), Problem> {
        let replays = workers.replay(caller, mem::take(&mut self.replays), LOOK_BYTES).await?;
        let (mut bytes, mut fitting) = (0, 0);
        for text in replays.texts() {
            if bytes >= LOOK_BYTES {
                break;
            }
            bytes += text.map_or(0, Text::len);
            fitting += 1;
        }
        if fitting < self.entries.len() {
            self.entries.truncate(fitting);
            self.more = true;
            if let Some(last) = self.entries.last() {
                self.place = last.place.clone();
            }
        }
        for (entry, text) in self.entries.iter_mut().zip(replays.into_texts()) {
            entry.text = text;
        }
        // At the time of a snapshot some did not exist.
        self.entries.retain(|entry| entry.text.is_some() || matches!(entry.what, What::Written(..)));
        Ok(())
    }
}

/// Looks from a place on.
fn take(replica: &Replica, place: Place, reach: &Reach) -> Result<Found, Problem> {
    if place.is_gone(replica.horizon()) {
        return Err(Place::gone(replica.horizon()));
    }
    let frontier = replica.frontier();
    match place {
        Place::Snapshot { time, collection, id } => Ok(walk(replica, time, (collection, id), reach)),
        place => Ok(follow(replica, place, reach, frontier)),
    }
}

/// The next documents as they were at `time`, behind a key. A cursor may come from a reader who sees more: what is out of
/// reach there is passed over.
fn walk(replica: &Replica, time: u64, key: (String, Option<String>), reach: &Reach) -> Found {
    let (state, frontier) = (replica.state(), replica.frontier());
    let (mut collection, mut id) = key;
    let (mut entries, mut replays) = (Vec::new(), Replays::default());
    // The collection without a name, where a walk over all begins, is none of the users': a cursor that says an id in it is
    // not ours, and is before all documents too.
    let is_listed = reach.covers(&collection) && !collection.is_empty();
    if is_listed {
        let (views, last) = state.scan_at(&collection, id.as_deref(), time, LOOK_ENTRIES);
        let name = CompactString::new(&collection);
        entries.extend(views.heads().map(|(id, stamp)| Entry {
            what: What::Snapshot(time, stamp),
            place: Place::Snapshot { time, collection: collection.clone(), id: Some(id.to_string()) },
            collection: name.clone(),
            id: id.clone(),
            text: None,
        }));
        replays = views.replays;
        id = last.map(Into::into);
    }
    if id.is_none() || !is_listed {
        id = None;
        let Some(next) = next_collection(state, &collection, reach) else {
            let more = is_final_beyond(replica, time);
            return Found { entries, replays, place: Place::behind_time(time), more, frontier };
        };
        collection = next;
    }
    Found { entries, replays, place: Place::Snapshot { time, collection, id }, more: true, frontier }
}

fn is_final_beyond(replica: &Replica, time: u64) -> bool {
    let next = replica.log().after(Place::behind_time(time).behind(), None).next();
    next.is_some_and(|op| op.time() <= replica.frontier())
}

/// What the next final ops wrote.
fn follow(replica: &Replica, place: Place, reach: &Reach, frontier: u64) -> Found {
    let mut past = replica.state().past();
    let found = follow_with(&mut past, replica, place, reach, frontier);
    Found { replays: past.into_replays(), ..found }
}

fn follow_with<'r>(past: &mut Past<'r>, replica: &'r Replica, place: Place, reach: &Reach, frontier: u64) -> Found {
    let (state, mut decoded) = (replica.state(), 0);
    let behind = place.behind();
    let mut ops = replica.log().after(behind, None).take_while(|op| op.time() <= frontier).peekable();
    let told = |stamp: Stamp| {
        if let Place::Amid(amid, told) = place
            && amid == stamp
        {
            told as usize
        } else {
            0
        }
    };
    let mut found =
        Found { entries: Vec::new(), replays: Replays::default(), place: place.clone(), more: false, frontier };
    let (mut looked, mut bytes) = (0, 0);
    while let Some(op) = ops.next() {
        if looked == LOOK_OPS || bytes >= LOOK_OP_BYTES {
            found.more = true;
            return found;
        }
        looked += 1;
        bytes += op.bytes().len();
        // All ops of a time that is final are here: behind the last of them nothing of that time can come.
        let is_last = ops.peek().is_none_or(|next| next.time() > op.time());
        let behind = if is_last { Place::behind_time(op.time()) } else { Place::Behind(op.stamp()) };
        let docs = written(state, op);
        decoded += docs.len();
        for (index, doc) in docs.iter().enumerate().skip(told(op.stamp())) {
            if found.entries.len() == LOOK_ENTRIES || past.work() + decoded >= LOOK_WORK {
                found.more = true;
                return found;
            }
            let place =
                if index + 1 == docs.len() { behind.clone() } else { Place::Amid(op.stamp(), index as u32 + 1) };
            if reach.covers(&doc.collection) {
                past.read(doc, op.stamp());
                found.entries.push(entry(op, doc, place.clone()));
            }
            found.place = place;
        }
        found.place = behind;
    }
    found
}

/// The documents that an op wrote, in the order of their keys; none if it has no effect.
fn written<'s>(state: &State, op: &'s Op) -> Vec<DocKey<'s>> {
    if state.verdict(op.stamp()).is_err() {
        return Vec::new();
    }
    let body = op.body();
    let docs: BTreeSet<DocKey<'s>> = body.commands.iter().filter_map(|command| command.doc().cloned()).collect();
    docs.into_iter().collect()
}

fn entry(op: &Op, doc: &DocKey<'_>, place: Place) -> Entry {
    Entry {
        what: What::Written(op.id(), op.stamp()),
        collection: CompactString::new(&doc.collection),
        id: CompactString::new(&doc.id),
        text: None,
        place,
    }
}

/// An entry as it is told: nothing in it is of a node.
#[derive(Serialize)]
struct EntryBody<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stamp: Option<String>,
    collection: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    text: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

impl Entry {
    /// Its JSON.
    pub fn json(&self) -> String {
        let (time, op, stamp) = match self.what {
            What::Snapshot(time, stamp) => (Some(time), None, stamp),
            What::Written(op, stamp) => (None, Some(op), Some(stamp)),
        };
        let text = self.text.as_ref();
        let value = text.map(|text| serde_json::from_str(text.json()).expect("documents are JSON"));
        let body = EntryBody {
            snapshot: time.is_some(),
            time: time.map(|time| time.to_string()),
            op: op.map(|op| op.to_string()),
            stamp: stamp.map(|stamp| stamp.to_string()),
            collection: &self.collection,
            id: &self.id,
            version: text.map(|text| Version::of(text.as_str()).to_string()),
            value,
            text: text.is_some_and(is_prose),
            deleted: text.is_none(),
        };
        serde_json::to_string(&body).expect("plain data is written to memory")
    }
}
