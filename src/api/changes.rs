//! `GET /v1/changes`: the feed of documents as JSON, as a long poll, and as server-sent events.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Api, ConnectionMemory, Problem,
    access::{Pass, Reach},
    feed::{Feed, Scope, Step},
    final_feed::{self, FinalFeed},
    headers::{ACCEPT, LAST_EVENT_ID},
    herald::{Ear, Herald},
    memory::Reservation,
    query::{self, Query},
    rates::Caller,
    server::Hold,
    shape,
};

/// An answer ends early once its documents have passed this.
pub(super) const ANSWER_BYTES: usize = 4 << 20;
/// How long a long poll waits when it is not told, and how long at the most.
pub(super) const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(120));
/// Between two signs of life in an event stream on which nothing happens; proxies close a silent one after a minute.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/changes`.
pub async fn show(
    State(api): State<Api>,
    Extension(herald): Extension<Arc<Herald>>,
    (pass, caller, memory): (Pass, Caller, ConnectionMemory),
    hold: Option<Extension<Hold>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accepts = ACCEPT.texts(&headers);
    let as_events = accepts.flat_map(|value| value.split(',')).any(|media| {
        media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
    });
    if let (true, Some(Extension(hold))) = (as_events, &hold) {
        hold.feeds();
    }
    let known = ["since", "collection", "view", "limit", "feed", "timeout"];
    let mut query = Query::of(&uri, if as_events { &known[..3] } else { &known })?;
    let reach = Reach::new(&pass, query.take("collection"))?;
    match query.take("view").as_deref() {
        None => {}
        Some("final") => return show_final((api, caller, memory), reach, query, &headers, as_events).await,
        Some(_) => return Err(Problem::bad("bad-query", "view is final, or left out")),
    }
    let mut feed = Feed::new(&herald, Scope::new(reach, None)?);
    // Asked first, for the head of an event stream says that it is well.
    api.read(|_| ()).await?;
    if as_events {
        let ear = herald.listen();
        return events(feed.heralded(&ear), ear, query.take("since"), &headers, api.stop);
    }
    let (limit, wait) = (query.limit()?, wait(&mut query)?);
    if let Some(since) = query.take("since")
        && !feed.resume(&since)?
    {
        return Err(gone());
    }
    page((feed, memory.nothing()), limit, wait.map(|wait| (wait, herald.listen())), &api.stop).await
}

/// The same of the final feed.
async fn show_final(
    (api, caller, memory): (Api, Caller, ConnectionMemory),
    reach: Reach,
    mut query: Query,
    headers: &HeaderMap,
    as_events: bool,
) -> Result<Response, Problem> {
    let since = query.take("since");
    if as_events {
        let since = last_event_id(headers)?.or(since);
        let feed = FinalFeed::open(&api, caller, reach, since.as_deref()).await?;
        return Ok(final_feed::events(feed, api.stop));
    }
    let (limit, wait) = (query.limit()?, wait(&mut query)?);
    let feed = FinalFeed::open(&api, caller, reach, since.as_deref()).await?;
    final_feed::page((feed, memory.nothing()), limit, wait, &api.stop).await
}

/// What an event stream goes on behind: a client that comes back repeats its first request, and adds what it saw last.
fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let last = LAST_EVENT_ID.first(headers).map(|value| value.to_str().map(str::to_string));
    let last = last.transpose().map_err(|_| Problem::bad("bad-cursor", "Last-Event-ID is no cursor"))?;
    Ok(last.filter(|id| !id.is_empty()))
}

/// How long to wait for a change; none if this is no long poll.
fn wait(query: &mut Query) -> Result<Option<Duration>, Problem> {
    let bad = |detail: String| Err(Problem::bad("bad-query", detail));
    let (usual, most) = WAIT;
    let timeout = query.take("timeout");
    match query.take("feed").as_deref() {
        Some("longpoll") => {}
        Some(_) => return bad("feed is longpoll, or left out".into()),
        None if timeout.is_some() => return bad("timeout is for feed=longpoll".into()),
        None => return Ok(None),
    }
    let Some(text) = timeout else { return Ok(Some(usual)) };
    Ok(Some(query::duration("timeout", &text, most)?))
}

async fn page(
    (mut feed, mut held): (Feed, Reservation),
    limit: usize,
    wait: Option<(Duration, Ear)>,
    stop: &CancellationToken,
) -> Result<Response, Problem> {
    // Before it looks, so that nothing is missed between the look and the wait.
    let watch = wait.as_ref().map(|(_, ear)| feed.follow(ear));
    let mut found = collect(&mut feed, limit, &mut held).await?;
    if let Some((wait, ear)) = wait {
        let deadline = Instant::now() + wait;
        while found.is_empty() {
            tokio::select! {
                rung = ear.rung() => rung?,
                () = sleep_until(deadline) => break,
                () = stop.cancelled() => break,
            }
            found = collect(&mut feed, limit, &mut held).await?;
        }
    }
    drop(watch);
    let (next, more) = (feed.cursor(), feed.has_more());
    let body = format!(r#"{{"changes":[{}],"next":"{next}","more":{more}}}"#, found.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The next documents, as JSON: up to a number, up to the bound of an answer, or all there are. They count while they are gathered.
async fn collect(feed: &mut Feed, limit: usize, held: &mut Reservation) -> Result<Vec<String>, Problem> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    loop {
        let part = match feed.next().await? {
            Step::Idle => return Ok(taken),
            Step::Gone => return Err(gone()),
            Step::Part(part) => part,
        };
        for item in part.items() {
            taken.push(item.json().to_string());
            bytes += item.json().len();
            if taken.len() == limit || bytes >= ANSWER_BYTES {
                feed.rewind(item.place.clone());
                return Ok(taken);
            }
        }
        held.resize(bytes)?;
    }
}

fn gone() -> Problem {
    let detail = "the cursor is of another node, or older than the changes that this node keeps: start again without \
                  since";
    Problem::new(StatusCode::GONE, "cursor-gone", detail)
}

/// The feed as a stream that ends when the node stops.
fn events(
    mut feed: Feed,
    ear: Ear,
    since: Option<String>,
    headers: &HeaderMap,
    stop: CancellationToken,
) -> Result<Response, Problem> {
    let resumed = match last_event_id(headers)?.or(since) {
        Some(cursor) => feed.resume(&cursor)?,
        None => true,
    };
    // The first bytes go out at once, so that the client knows that it is connected.
    let greeting = if resumed { ":\n\n" } else { RESYNC };
    let parts = stream::unfold((feed, ear, stop, Some(greeting)), |(mut feed, ear, stop, greeting)| async move {
        let text = match greeting {
            Some(greeting) => greeting.to_string(),
            None => next_events(&mut feed, &ear, &stop).await?,
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (feed, ear, stop, None)))
    });
    Ok((shape::streaming("text/event-stream"), Body::from_stream(parts)).into_response())
}

pub(super) const RESYNC: &str = "event: resync\ndata: {}\n\n";

/// What to send next; none at the end.
async fn next_events(feed: &mut Feed, ear: &Ear, stop: &CancellationToken) -> Option<String> {
    while !stop.is_cancelled() {
        match feed.next().await {
            Ok(Step::Part(part)) => {
                let mut text = String::new();
                for item in part.items() {
                    let (cursor, json) = (feed.cursor_of(&item.place), item.json());
                    write!(text, "event: change\nid: {cursor}\ndata: {json}\n\n").expect("memory takes it");
                }
                if !text.is_empty() {
                    return Some(text);
                }
            }
            Ok(Step::Gone) => {
                feed.restart();
                return Some(RESYNC.into());
            }
            Ok(Step::Idle) => tokio::select! {
                rung = ear.rung() => rung.ok()?,
                // An id alone is no event, but the client resumes from it: past what did not concern it.
                () = sleep(KEEP_ALIVE) => return Some(format!("id: {}\n\n", feed.cursor())),
                () = stop.cancelled() => return None,
            },
            // The node has stopped, or has given up its data for another pool's: the client's next try is told which.
            Err(_) => return None,
        }
    }
    None
}
