//! The clients' WebSocket, `GET /v1/ws`: subscriptions to documents, writes, and rooms.
//!
//! One task runs a connection. It writes to the socket, and looks at the ring of changes again when the socket has taken
//! what there was: so a slow client keeps nothing waiting but its own place in the ring, and gets the latest state of
//! what changed meanwhile. A message that is wrong in itself is answered by an error; the connection stays.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{StatusCode, Uri},
    response::Response,
};
use futures_util::{SinkExt, stream::FusedStream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, Interval, interval, interval_at, sleep, timeout},
};
use tokio_tungstenite::tungstenite;

use super::{
    Api, ConnectionMemory, Problem,
    access::{self, Pass, Reach, SUBPROTOCOL, UNAUTHORIZED},
    feed::{Feed, Item, Scope, Step},
    herald::{Ear, Herald},
    memory::Reservation,
    query::Query,
    rates::Caller,
    receipts::{self, Receipts},
    rooms::Rooms,
    seats::Seats,
    server::{HEAD_BYTES_MAX, Hold},
    shares::Share,
    steps::{self, Fields},
    wait::{self, ASK_EVERY},
};
use crate::{
    document::json::{self as strict, Size},
    meter::Head,
    node::{Published, Whence},
};

/// Longest message of a client: an op of the largest size.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Longest id of a message, in bytes: it is repeated in every answer.
const ID_BYTES_MAX: usize = 256;
/// Bytes that wait for the socket before it is asked to take them, and at the most: a part of a feed, which may hold one
/// document of the largest size, fits in.
const WRITE_BUFFER: (usize, usize) = (32 << 10, 8 << 20);
/// Bytes of documents in one message of a snapshot, unless one document has more.
const SNAPSHOT_BYTES: usize = 15 << 10;
/// How long telling the end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection stays that was cut off amid a message for the bytes that it sends.
const CLOSE_LINGER: Duration = Duration::from_millis(500);
/// After so much silence at most one who is in a room is pinged: others see it there until it is taken for gone.
const GUEST_PING_EVERY: Duration = Duration::from_secs(5);

/// `GET /v1/ws`.
pub async fn open(
    State(api): State<Api>,
    Extension(herald): Extension<Arc<Herald>>,
    Extension(rooms): Extension<Arc<Rooms>>,
    hold: Option<Extension<Hold>>,
    pass: Pass,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    let upgrade = upgrade.map_err(|_| {
        let detail = "this is a WebSocket: connect to it with the scheme ws, or use GET /v1/changes. A proxy in between must pass on the \
                      headers Upgrade and Connection, and speak HTTP/1.1";
        Problem::bad("bad-request", detail)
    })?;
    let whence = hold.as_ref().map(|Extension(hold)| hold.whence());
    let memory = memory_of(&api, &pass, hold.as_ref());
    // Who has shown no token yet is asked for it, if there is room to wait.
    let waits = if matches!(pass, Pass::Stranger) { Some(api.access.lobby().enter(whence)?) } else { None };
    Ok(bounded(upgrade, hold.as_ref(), MESSAGE_BYTES_MAX).on_upgrade(move |mut socket| async move {
        match admitted(&api, pass, &mut socket, &memory).await {
            Ok(pass) => {
                drop(waits);
                memory.belongs_to(Caller::of(&pass, whence));
                let _one = api.meters.clients.enter();
                let socket = (socket, Outgoing::new(&memory));
                Connection::new(api, herald, rooms, (pass, whence), socket).run().await;
            }
            Err(problem) => refuse(socket, &problem).await,
        }
        drop(hold);
    }))
}

/// A WebSocket of clients, with messages of so many bytes at the most; of its connection the system buffers little.
pub fn bounded(
    upgrade: WebSocketUpgrade,
    hold: Option<&Extension<Hold>>,
    message_bytes_max: usize,
) -> WebSocketUpgrade {
    if let Some(Extension(hold)) = hold {
        hold.feeds();
    }
    upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(4096)
        .write_buffer_size(WRITE_BUFFER.0)
        .max_write_buffer_size(WRITE_BUFFER.1)
        .max_message_size(message_bytes_max)
        .max_frame_size(message_bytes_max)
}

/// The memory that the connection of a WebSocket makes the node hold.
pub(super) fn memory_of(api: &Api, pass: &Pass, hold: Option<&Extension<Hold>>) -> ConnectionMemory {
    let alone = || ConnectionMemory::new(api.limits.memory.clone(), Caller::of(pass, None));
    hold.map_or_else(alone, |Extension(hold)| hold.memory())
}

/// What the client may do; who has shown no token yet must show it first, and is told that it was taken.
async fn admitted(api: &Api, pass: Pass, socket: &mut WebSocket, memory: &ConnectionMemory) -> Result<Pass, Problem> {
    if !matches!(pass, Pass::Stranger) {
        return Ok(pass);
    }
    // A token comes in a message no longer than the head of the request that it could have come in.
    memory.bound_incoming(HEAD_BYTES_MAX);
    let pass = tokio::select! {
        pass = access::greet(&api.access, socket, memory) => pass?,
        () = api.stop.cancelled() => return Err(Problem::from(crate::node::Stopped)),
    };
    memory.message_came();
    memory.messages_done();
    memory.bound_incoming(usize::MAX);
    let told = socket.send(Message::Text(authenticated(None).into()));
    // If that does not come about, nor does anything else.
    let _ = taken(api, told).await;
    Ok(pass)
}

/// Tells why, and closes.
async fn refuse(mut socket: WebSocket, problem: &Problem) {
    let code = if problem.status() == StatusCode::UNAUTHORIZED { UNAUTHORIZED } else { close_code::AWAY };
    let told = socket.send(Message::Text(error(None, problem).into()));
    if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, told).await {
        close(socket, End::new(code, "show a token first")).await;
    }
}

/// Says why, and waits for the client to have read it: what it still sends is read and dropped. To end with that unread would
/// reset the connection, and take the reason from the client (RFC 6455, section 7.1.1). One that has gone away, or does not
/// read, is not told.
pub(super) async fn close(mut socket: WebSocket, End(code, reason): End) {
    let close = Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from(shortened(&reason)) }));
    let told = async {
        let is_cut_off = socket.is_terminated() && matches!(code, close_code::AGAIN | UNAUTHORIZED);
        socket.send(close).await?;
        if is_cut_off {
            // It sends more than it may, of which nothing is read any more. It has a moment to read the reason before unread bytes
            // reset the connection.
            sleep(CLOSE_LINGER).await;
        }
        while socket.recv().await.transpose()?.is_some() {}
        Ok::<_, axum::Error>(())
    };
    let _ = timeout(CLOSE_TIMEOUT, told).await;
}

/// A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// How a connection ends whose token is void.
pub(super) fn lapsed() -> End {
    End::new(UNAUTHORIZED, "the token has expired, or was taken back: come again with another")
}

fn authenticated(id: Option<&str>) -> String {
    let mut answer = json!({ "type": "authenticated" });
    if let Some(id) = id {
        answer["id"] = id.into();
    }
    answer.to_string()
}

/// Bytes that the filters of subscriptions take, those of all clients and of one; and what a value in a filter counts beside
/// its text.
pub(super) const FILTERS_BYTES_MAX: usize = 64 << 20;
pub(super) const FILTERS_PER_CALLER_BYTES_MAX: usize = 8 << 20;
const FILTER_VALUE_BYTES: usize = 128;

struct Connection {
    api: Api,
    herald: Arc<Herald>,
    ear: Ear,
    pass: Pass,
    caller: Caller,
    socket: WebSocket,
    outgoing: Outgoing,
    published: watch::Receiver<Published>,
    subscriptions: Vec<Subscription>,
    receipts: Receipts,
    seats: Seats,
    /// When peers are asked again what they hold, for those who wait for that.
    asks: Interval,
    pings: Interval,
    /// Whether anything came since the last ping.
    heard: bool,
}

/// About what a filter takes of memory while it is subscribed to.
fn filter_bytes(filter: &Value) -> usize {
    let Size { bytes, values } = Size::of(filter);
    bytes + FILTER_VALUE_BYTES * values
}

fn too_many_filters() -> Problem {
    let detail = format!(
        "the filters of all subscriptions of one token (or of one address, where no tokens are asked for) take at most \
         {FILTERS_PER_CALLER_BYTES_MAX} bytes of a node, and those of all clients {FILTERS_BYTES_MAX}: unsubscribe some, use \
         smaller ones, or ask another node of the pool"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
}

struct Subscription {
    id: String,
    feed: Feed,
    /// A message to send before anything of the feed.
    first: Option<String>,
    _counted: Head,
    /// What its filter takes of its client's share.
    _filter: Option<Share>,
}

/// Why a connection ends: what its close frame says.
pub(super) struct End(pub(super) u16, pub(super) Cow<'static, str>);

const STOPPED: End = End(close_code::AWAY, Cow::Borrowed("the node has stopped"));

impl End {
    pub(super) fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> End {
        End(code, reason.into())
    }
}

impl Connection {
    fn new(
        api: Api,
        herald: Arc<Herald>,
        rooms: Arc<Rooms>,
        (pass, whence): (Pass, Option<Whence>),
        (socket, outgoing): (WebSocket, Outgoing),
    ) -> Connection {
        let published = api.node.published();
        let pings = interval_at(Instant::now() + api.limits.ping_every, api.limits.ping_every);
        let caller = Caller::of(&pass, whence);
        let seats = Seats::new(rooms, api.limits.rooms, caller.clone());
        Connection {
            api,
            ear: herald.listen(),
            herald,
            caller,
            pass,
            socket,
            outgoing,
            published,
            subscriptions: Vec::new(),
            receipts: Receipts::default(),
            seats,
            asks: interval(ASK_EVERY),
            pings,
            heard: true,
        }
    }

    async fn run(mut self) {
        let end = loop {
            if let Err(end) = self.turn().await {
                break end;
            }
        };
        close(self.socket, end).await;
    }

    /// Takes at most one message, and moves every subscription on by at most one part: neither starves the other.
    async fn turn(&mut self) -> Result<(), End> {
        let behind =
            self.receipts.is_due() || self.subscriptions.iter().any(|subscription| subscription.feed.has_more());
        tokio::select! {
            biased;
            () = self.api.stop.cancelled() => return Err(End::new(close_code::AWAY, "the node is stopping")),
            () = self.pass.lapsed() => return Err(lapsed()),
            message = self.socket.recv() => self.on_message(message).await?,
            _ = self.pings.tick() => self.ping().await?,
            _ = self.asks.tick(), if self.receipts.asks() => {
                self.receipts.ask(&self.api).await.map_err(|_| STOPPED)?;
            }
            () = std::future::ready(()), if behind => {}
            () = self.seats.rung() => {}
            rung = self.ear.rung() => rung.map_err(|_| STOPPED)?,
            // Of each turn of the node only those hear who wait for what no change tells of.
            changed = self.published.changed(), if self.receipts.waits() => changed.map_err(|_| STOPPED)?,
        }
        let mut index = 0;
        while index < self.subscriptions.len() {
            index += usize::from(self.advance(index).await?);
        }
        let receipts = self.receipts.due(&self.api, &self.caller).await.map_err(|_| STOPPED)?;
        self.write_all(receipts).await?;
        let news = self.seats.due();
        self.write_all(news).await?;
        self.flush().await
    }

    async fn on_message(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard = true;
        match message {
            None => Err(End::new(close_code::NORMAL, "")),
            Some(Err(error)) => Err(end_of(error)),
            Some(Ok(Message::Text(text))) => {
                self.outgoing.memory.message_came();
                let answer = self.answer(text).await;
                self.outgoing.memory.messages_done();
                match answer {
                    Some(answer) => self.write(Message::Text(answer.into())).await,
                    None => Ok(()),
                }
            }
            Some(Ok(Message::Binary(_))) => {
                self.outgoing.memory.message_came();
                self.outgoing.memory.messages_done();
                let problem = Problem::bad("bad-request", "messages are text frames, each one JSON object");
                self.write(Message::Text(error(None, &problem).into())).await
            }
            // Pings are answered by the library, and after a close it ends the stream.
            Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                self.outgoing.memory.control_frame(payload.len());
                Ok(())
            }
            Some(Ok(Message::Close(_))) => Ok(()),
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.heard) {
            return Err(End::new(close_code::AWAY, "no answer to a ping"));
        }
        self.write(Message::Ping(bytes::Bytes::new())).await
    }

    /// What a message is answered by at once; a subscription is answered by its feed.
    async fn answer(&mut self, text: Utf8Bytes) -> Option<String> {
        let read = |text: &[u8]| strict::parse_within(text, steps::LEVELS_MAX);
        let mut members = match self.api.workers.parse(&self.caller, text.clone().into(), read).await {
            Ok(Ok(Value::Object(members))) => members,
            Ok(Ok(_)) => return Some(error(None, &Problem::bad("bad-request", "a message is a JSON object"))),
            Ok(Err(fault)) => return Some(error(id_in(&text).as_deref(), &fault.into())),
            Err(problem) => return Some(error(id_in(&text).as_deref(), &problem)),
        };
        let id = match members.remove("id") {
            None => None,
            Some(Value::String(id)) if id.len() <= ID_BYTES_MAX => Some(id),
            Some(_) => {
                let detail = format!("\"id\" is a string of at most {ID_BYTES_MAX} bytes");
                return Some(error(None, &Problem::bad("bad-request", detail)));
            }
        };
        let kind = members.remove("type");
        let kind = kind.as_ref().and_then(Value::as_str);
        if let Some("subscribe" | "write" | "presence") = kind
            && let Err(problem) = self.api.rates.admit(&self.caller)
        {
            return Some(error(id.as_deref(), &problem));
        }
        let answered = match (kind, &id) {
            (Some("subscribe"), Some(id)) => self.subscribe(id, members).await.map(|()| None),
            (Some("write"), Some(id)) => self.submit(id, members).await.map(Some),
            (Some("presence"), Some(id)) => self.show(id, members).await.map(|()| None),
            (Some("unsubscribe"), Some(id)) => self.unsubscribe(id, members).map(Some),
            // A client may send it without knowing whether it is asked for.
            (Some("auth"), id) if matches!(self.pass, Pass::Open) => Ok(Some(authenticated(id.as_deref()))),
            (Some("auth"), _) => {
                Err(Problem::bad("bad-request", "this connection has a token: open another for another"))
            }
            (Some("ping"), id) => self.pong(id.as_deref(), members).map(Some),
            (Some("subscribe" | "write" | "presence" | "unsubscribe"), None) => {
                Err(Problem::bad("bad-request", "the message needs an \"id\", a string that its answers repeat"))
            }
            _ => {
                let detail = "\"type\" is one of subscribe, write, presence, unsubscribe, ping, auth";
                Err(Problem::bad("bad-request", detail))
            }
        };
        answered.unwrap_or_else(|problem| Some(error(id.as_deref(), &problem)))
    }

    async fn subscribe(&mut self, id: &str, members: Map<String, Value>) -> Result<(), Problem> {
        let mut fields = Fields::open("subscribe", members.into(), &["collection", "filter", "since"])?;
        let (collection, since) = (fields.optional_text("collection")?, fields.optional_text("since")?);
        let filter = fields.take("filter").ok();
        if self.subscriptions.iter().any(|other| other.id == id) || self.seats.has(id) {
            return Err(taken_id());
        }
        let max = self.api.limits.subscriptions;
        if self.subscriptions.len() >= max {
            let detail = format!("a connection has at most {max} subscriptions: unsubscribe one");
            return Err(Problem::bad("bad-request", detail));
        }
        let reach = Reach::new(&self.pass, collection)?;
        self.api.read(|_| ()).await?;
        let scope = Scope::new(reach, filter.as_ref())?;
        let share = filter.as_ref().map(|filter| self.api.filters.take(self.caller.clone(), filter_bytes(filter)));
        let share = share.transpose().map_err(|_| too_many_filters())?;
        let mut feed = Feed::new(&self.herald, scope).heralded(&self.ear);
        let first = match since {
            Some(cursor) if !feed.resume(&cursor)? => Some(resync(id)),
            _ => None,
        };
        self.subscriptions.push(Subscription {
            id: id.to_string(),
            feed,
            first,
            _counted: self.api.meters.subscriptions.enter(),
            _filter: share,
        });
        Ok(())
    }

    fn unsubscribe(&mut self, id: &str, members: Map<String, Value>) -> Result<String, Problem> {
        Fields::open("unsubscribe", members.into(), &[])?;
        let index = self.subscriptions.iter().position(|subscription| subscription.id == id);
        let subscription = index.map(|index| self.subscriptions.remove(index));
        if subscription.is_none() && !self.seats.leave(id) {
            let detail = "there is no subscription and no room with this id";
            return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail));
        }
        Ok(json!({ "type": "unsubscribed", "id": id }).to_string())
    }

    /// Joins a room, or shows something else there.
    async fn show(&mut self, id: &str, members: Map<String, Value>) -> Result<(), Problem> {
        if self.subscriptions.iter().any(|other| other.id == id) {
            return Err(taken_id());
        }
        self.api.read(|_| ()).await?;
        self.seats.show(id, members, &self.pass).await?;
        if self.pings.period() > GUEST_PING_EVERY {
            self.pings = interval_at(Instant::now() + GUEST_PING_EVERY, GUEST_PING_EVERY);
        }
        Ok(())
    }

    fn pong(&self, id: Option<&str>, members: Map<String, Value>) -> Result<String, Problem> {
        Fields::open("ping", members.into(), &[])?;
        let (clock, key_span) = {
            let published = self.published.borrow();
            (published.clock.to_string(), published.key_span.to_string())
        };
        let mut pong = json!({ "type": "pong", "clock": clock, "key_span": key_span });
        if let Some(id) = id {
            pong["id"] = id.into();
        }
        Ok(pong.to_string())
    }

    async fn submit(&mut self, id: &str, mut members: Map<String, Value>) -> Result<String, Problem> {
        let (mut hurries, mut number) = (false, None);
        match members.remove("wait") {
            None => {}
            Some(Value::String(wait)) if wait == "final" => hurries = true,
            Some(wait) => {
                let detail = "\"wait\" is \"final\", or a number of members, or left out: the final receipt comes in any \
                              case, with \"final\" sooner";
                let members = wait.as_u64().ok_or_else(|| Problem::bad("bad-request", detail))?;
                number = Some(usize::try_from(members).unwrap_or(usize::MAX));
            }
        }
        let mut draft = steps::parse(members)?;
        self.pass.check_write(&draft)?;
        draft.key = self.pass.own_key(draft.key)?;
        if let Some(number) = number {
            let checked = self.api.node.read(move |replica, _| wait::check_number(replica, number)).await?;
            checked.map_err(|detail| Problem::bad("bad-request", detail))?;
        }
        let receipt = self.api.node.submit(self.caller.client(), draft).await??;
        self.receipts.await_final(id, &receipt);
        if hurries && !receipt.is_final {
            self.api.node.hurry(receipt.stamp.time).await?;
        }
        if let Some(number) = number {
            self.receipts.await_held(id, &receipt, number);
            self.asks.reset_immediately();
        }
        Ok(receipts::message(id, &self.api.complete(&self.caller, receipt).await?, None))
    }

    /// Sends the next part of a subscription; returns whether there is still the subscription.
    async fn advance(&mut self, index: usize) -> Result<bool, End> {
        let subscription = &mut self.subscriptions[index];
        let id = Value::from(subscription.id.as_str()).to_string();
        let mut frames: Vec<String> = subscription.first.take().into_iter().collect();
        match subscription.feed.next().await {
            Ok(Step::Idle) => {}
            Ok(Step::Gone) => {
                subscription.feed.restart();
                frames.push(resync(&subscription.id));
            }
            Ok(Step::Part(part)) => {
                let feed = &subscription.feed;
                for item in &part.changes {
                    let (doc, cursor) = (item.json(), feed.cursor_of(&item.place));
                    frames.push(format!(r#"{{"type":"change","id":{id},"doc":{doc},"cursor":"{cursor}"}}"#));
                }
                let (cursor, more) = (feed.cursor(), feed.is_walking());
                // A part of the walk in which nothing matched is not told of, unless it was the last.
                if part.walking && !(more && part.walked.is_empty()) {
                    let groups = grouped(&part.walked);
                    let last = groups.len() - 1;
                    for (index, group) in groups.into_iter().enumerate() {
                        let (cursor, more) = match group.last() {
                            Some(item) if index < last => (feed.cursor_of(&item.place), true),
                            _ => (cursor.clone(), more),
                        };
                        let docs: Vec<&str> = group.iter().map(Item::json).collect();
                        let docs = docs.join(",");
                        frames.push(format!(
                            r#"{{"type":"snapshot","id":{id},"docs":[{docs}],"cursor":"{cursor}","more":{more}}}"#
                        ));
                    }
                }
            }
            Err(problem) => {
                let ended = self.subscriptions.remove(index);
                self.write(Message::Text(error(Some(&ended.id), &problem).into())).await?;
                return Ok(false);
            }
        }
        self.write_all(frames).await?;
        Ok(true)
    }

    /// Writes messages that are made already, and count until the last of them is written.
    async fn write_all(&mut self, messages: Vec<String>) -> Result<(), End> {
        self.outgoing.prepare(messages.iter().map(String::len).sum())?;
        for message in messages {
            self.write(Message::Text(message.into())).await?;
        }
        self.outgoing.prepare(0)
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        let Connection { api, socket, outgoing, .. } = self;
        outgoing.write(&message)?;
        taken(api, socket.feed(message)).await
    }

    async fn flush(&mut self) -> Result<(), End> {
        let Connection { api, socket, .. } = self;
        taken(api, socket.flush()).await
    }
}

/// What is on the way to the client of a WebSocket, as far as it counts.
pub(super) struct Outgoing {
    /// The memory of the connection.
    pub(super) memory: ConnectionMemory,
    /// The buffer that messages are written to: it stays as long as the longest of them.
    buffer: Reservation,
    /// Messages that are made and wait for the buffer.
    prepared: Reservation,
}

impl Outgoing {
    /// Nothing yet.
    pub(super) fn new(memory: &ConnectionMemory) -> Outgoing {
        Outgoing { memory: memory.clone(), buffer: memory.nothing(), prepared: memory.nothing() }
    }

    /// Counts messages that are made.
    pub(super) fn prepare(&mut self, bytes: usize) -> Result<(), End> {
        self.prepared.resize(bytes).map_err(|_| overloaded())
    }

    /// Counts a message that is to be written. A client that has no room for it is cut off, as it has not taken what came before.
    pub(super) fn write(&mut self, message: &Message) -> Result<(), End> {
        let bytes = match message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => 0,
        };
        self.buffer.grow(bytes).map_err(|_| overloaded())
    }
}

/// The end of a connection whose client has used up its share of memory. It may come back.
pub(super) fn overloaded() -> End {
    End::new(close_code::AGAIN, "overloaded: too much is unread, or here in part, on the connections of this client")
}

/// Waits until the socket has taken something, the client is too slow, or the node stops.
pub(super) async fn taken(api: &Api, taking: impl Future<Output = Result<(), axum::Error>>) -> Result<(), End> {
    tokio::select! {
        biased;
        taken = timeout(api.limits.write_timeout, taking) => match taken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(end_of(error)),
            Err(_) => Err(End::new(close_code::POLICY, "too slow")),
        },
        () = api.stop.cancelled() => Err(End::new(close_code::AWAY, "the node is stopping")),
    }
}

/// How a connection ends on which the library gave up.
pub(super) fn end_of(error: axum::Error) -> End {
    tracing::debug!(%error, "a client's WebSocket broke");
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => End::new(close_code::SIZE, "a message has at most 4 MiB"),
        Some(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::QuotaExceeded => overloaded(),
        Some(tungstenite::Error::Utf8(_)) => End::new(close_code::INVALID, "text is UTF-8"),
        _ => End::new(close_code::PROTOCOL, "not a WebSocket frame"),
    }
}

/// The documents of a snapshot, in groups of one message each; at least one group. The buffer for messages stays as long as the
/// longest of them, so a message is short unless a document is long.
fn grouped(mut items: &[Item]) -> Vec<&[Item]> {
    let mut groups = Vec::new();
    loop {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.json().len();
            bytes <= SNAPSHOT_BYTES
        };
        let count = items.iter().take_while(fits).count().max(1).min(items.len());
        let (group, rest) = items.split_at(count);
        groups.push(group);
        if rest.is_empty() {
            return groups;
        }
        items = rest;
    }
}

/// The id of a message that is JSON, but not such as is taken.
fn id_in(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        id: Option<String>,
    }
    serde_json::from_str(text).ok().and_then(|Message { id }| id.filter(|id| id.len() <= ID_BYTES_MAX))
}

fn taken_id() -> Problem {
    let detail = "there is a subscription or a room with this id: unsubscribe it first, or choose another id";
    Problem::bad("bad-request", detail)
}

fn error(id: Option<&str>, problem: &Problem) -> String {
    let mut answer = json!({ "type": "error", "problem": problem.to_json() });
    if let Some(id) = id {
        answer["id"] = id.into();
    }
    answer.to_string()
}

fn resync(id: &str) -> String {
    json!({ "type": "resync", "id": id }).to_string()
}
