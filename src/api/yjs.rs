//! `GET /v1/yjs/{collection}/{id}`: the protocol of y-websocket, for any editor that speaks Yjs.
//!
//! Binary frames, one message each: `0 0 vector` (sync step 1: "what I lack"), `0 1 update` (step 2), `0 2 update`, `1 states`
//! (awareness), `3` (awareness asked for); y-protocols 1.0.7 writes them so. Each side asks the other on opening, so whatever
//! was typed while there was no connection comes in then, on any node. What an editor sends is an op before others see it.
//! A refusal closes with a code of 4400 to 4499, and is told before in the `auth` message of y-protocols. Some editors come back
//! all the same, so a connection that is refused again is kept open for a while without a word ([`Refusals`]).
//!
//! [`Refusals`]: super::refusals::Refusals

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::Uri,
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    stream::{FusedStream, FuturesOrdered},
};
use tokio::{
    sync::oneshot,
    time::{Instant, Interval, interval_at, sleep_until, timeout_at},
};

use super::{
    Api, ConnectionMemory, Problem,
    access::{Pass, Role, UNAUTHORIZED},
    awareness::{Awareness, Fault},
    extract::DocPath,
    live_text::{Answered, Refusal},
    memory::Reservation,
    query::Query,
    rates::Caller,
    rooms::Rooms,
    server::Hold,
    text_news::{News, NewsReader},
    texts::Opened,
    ws::{self, End, Outgoing},
};
use crate::{
    document::prose::{TEXT_BYTES_MAX, Unfit},
    node::Whence,
    op::DocKey,
    replica::{Receipt, Refused},
};

/// Longest message: an update that fills a text, and what goes with it.
const MESSAGE_BYTES_MAX: usize = TEXT_BYTES_MAX + (64 << 10);
/// So many messages, or bytes, that an editor has sent already become one op.
const GATHERED_MAX: (usize, usize) = (64, 256 << 10);
/// Ops of one connection that are under way at once; then it is not read until one is stored.
const UNDER_WAY_MAX: usize = 64;
/// Updates that came before what they build on; an editor sends that right after it was asked.
const EARLY_MAX: (usize, usize) = (1_024, TEXT_BYTES_MAX);
/// Most time that sending a refusal may take.
const TELL: Duration = Duration::from_secs(1);

/// Codes that say that it is of no use to come back: what HTTP says with 400, 403, 409, 410, 413 and 422.
const BAD: u16 = 4400;
const FORBIDDEN: u16 = 4403;
const NO_TEXT: u16 = 4409;
const GONE: u16 = 4410;
const TOO_LARGE: u16 = 4413;
const TOO_COSTLY: u16 = 4422;

const SYNC: u8 = 0;
const AWARENESS: u8 = 1;
const AUTH: u8 = 2;
const QUERY_AWARENESS: u8 = 3;
/// In an `auth` message: the permission is denied.
const DENIED: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;

/// `GET /v1/yjs/{collection}/{id}`.
pub async fn open(
    State(api): State<Api>,
    hold: Option<Extension<Hold>>,
    Extension(rooms): Extension<Arc<Rooms>>,
    doc: DocPath,
    pass: Pass,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    let upgrade = upgrade.map_err(|_| {
        let detail = "this is a WebSocket for Yjs editors: give y-websocket the address ws://…/v1/yjs and the room \
                      collection/id, or read the text with GET /v1/docs/{collection}/{id}";
        Problem::bad("bad-request", detail)
    })?;
    api.read(|_| ()).await?;
    Ok(ws::bounded(upgrade, hold.as_ref(), MESSAGE_BYTES_MAX).on_upgrade(move |socket| async move {
        let _one = api.meters.editors.enter();
        let whence = hold.as_ref().map(|Extension(hold)| hold.whence());
        let memory = ws::memory_of(&api, &pass, hold.as_ref());
        run(api, rooms, (pass, whence), (socket, memory), doc.key()).await;
        drop(hold);
    }))
}

async fn run(
    api: Api,
    rooms: Arc<Rooms>,
    (pass, whence): (Pass, Option<Whence>),
    (mut socket, memory): (WebSocket, ConnectionMemory),
    doc: DocKey<'static>,
) {
    let caller = Caller::of(&pass, whence);
    let (stop, texts) = (api.stop.clone(), Arc::clone(&api.texts));
    let opened = match api.texts.open(&doc, &caller).await {
        Ok(live) => Awareness::follow(&rooms, &doc, caller.clone())
            .await
            .map(|awareness| (live, awareness))
            .map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    let end = match opened {
        Ok((live, awareness)) => {
            let mut connection = Connection {
                news: live.follow(),
                live,
                awareness,
                pings: interval_at(Instant::now() + api.limits.ping_every, api.limits.ping_every),
                api,
                caller: caller.clone(),
                rests: None,
                reads_only: pass.check_role(Role::Write).is_err(),
                has_answered: false,
                pass,
                socket: &mut socket,
                outgoing: Outgoing::new(&memory),
                early: VecDeque::new(),
                early_bytes: 0,
                early_memory: memory.nothing(),
                under_way: FuturesOrdered::new(),
                heard: true,
            };
            connection.run().await
        }
        Err(problem) => problem.into(),
    };
    if let Some(hold) = texts.refusals().hold(&caller, &doc, end.0) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = say_nothing(&mut socket, &memory, &end, Instant::now() + hold) => {}
        }
    }
    ws::close(socket, end).await;
}

/// Tells an editor that it is refused, and keeps it waiting.
async fn say_nothing(socket: &mut WebSocket, memory: &ConnectionMemory, End(code, reason): &End, until: Instant) {
    if is_final(*code) {
        let denied = framed(&[AUTH, DENIED], format!("{code} {reason}").as_bytes());
        // It may be gone, or not take it in that time.
        let _ = timeout_at(until.max(Instant::now() + TELL), socket.send(Message::Binary(denied.into()))).await;
    }
    if socket.is_terminated() {
        // What it sent cannot be read any further.
        return sleep_until(until).await;
    }
    while let Ok(Some(Ok(_))) = timeout_at(until, socket.recv()).await {
        memory.message_came();
        memory.messages_done();
    }
}

/// True if a close code says that the same connection would be refused again.
pub(super) fn is_final(code: u16) -> bool {
    (BAD..BAD + 100).contains(&code)
}

struct Connection<'s> {
    api: Api,
    live: Opened,
    awareness: Awareness,
    news: NewsReader,
    pass: Pass,
    caller: Caller,
    /// Until when it is not read from, because it edits faster than it may: an editor cannot answer a refusal, and goes
    /// on by itself when it is heard again.
    rests: Option<Instant>,
    reads_only: bool,
    /// Whether one who only reads has said what it has.
    has_answered: bool,
    socket: &'s mut WebSocket,
    outgoing: Outgoing,
    /// Updates that came before what they build on.
    early: VecDeque<Arc<Vec<Vec<u8>>>>,
    early_bytes: usize,
    early_memory: Reservation,
    /// Receipts that are awaited, in the order of their ops.
    under_way: FuturesOrdered<Answered>,
    pings: Interval,
    /// Whether anything came since the last ping.
    heard: bool,
}

/// A message of an editor.
enum Said<'m> {
    Vector(&'m [u8]),
    Update(&'m [u8]),
    Awareness(&'m [u8]),
    AwarenessAsked,
    Nothing,
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        if let Err(end) = self.begin().await {
            return end;
        }
        loop {
            if let Err(end) = self.turn().await {
                return end;
            }
        }
    }

    /// Asks what the node lacks, and tells who is there.
    async fn begin(&mut self) -> Result<(), End> {
        let vector = self.live.vector().await?;
        self.send(framed(&[SYNC, STEP_1], &vector)).await?;
        self.tell_awareness().await?;
        ws::taken(&self.api, self.socket.flush()).await
    }

    async fn turn(&mut self) -> Result<(), End> {
        let rested = self.rests.unwrap_or_else(Instant::now);
        let reads = self.under_way.len() < UNDER_WAY_MAX && self.rests.is_none();
        tokio::select! {
            biased;
            () = self.api.stop.cancelled() => return Err(End::new(close_code::AWAY, "the node is stopping")),
            () = self.pass.lapsed() => return Err(ws::lapsed()),
            Some(receipt) = self.under_way.next() => Self::on_receipt(receipt)?,
            news = self.news.next() => self.on_news(news).await?,
            () = self.awareness.changed() => {
                if let Some(states) = self.awareness.news() {
                    self.send(framed(&[AWARENESS], &states)).await?;
                }
            }
            message = self.socket.recv(), if reads => self.on_messages(message).await?,
            () = sleep_until(rested), if self.rests.is_some() => self.rests = None,
            _ = self.pings.tick(), if reads => {
                if !std::mem::take(&mut self.heard) {
                    return Err(End::new(close_code::AWAY, "no answer to a ping"));
                }
                self.write(Message::Ping(Bytes::new())).await?;
            }
        }
        ws::taken(&self.api, self.socket.flush()).await
    }

    async fn on_messages(&mut self, first: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.gather(first).await?;
        self.outgoing.memory.messages_done();
        Ok(())
    }

    /// Takes a message and those that are there already: what was typed in a burst becomes one op.
    async fn gather(&mut self, first: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard = true;
        let (mut next, mut count, mut bytes, mut updates) = (Some(first), 0, 0, Vec::new());
        while let Some(message) = next.take() {
            let frame = match message {
                None => {
                    self.edit(updates).await?;
                    return Err(End::new(close_code::NORMAL, ""));
                }
                Some(Err(error)) => {
                    self.edit(updates).await?;
                    return Err(ws::end_of(error));
                }
                Some(Ok(Message::Binary(frame))) => {
                    self.outgoing.memory.message_came();
                    frame
                }
                Some(Ok(Message::Text(_))) => return Err(End::new(BAD, "messages of Yjs are binary frames")),
                Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                    self.outgoing.memory.control_frame(payload.len());
                    Bytes::new()
                }
                Some(Ok(Message::Close(_))) => Bytes::new(),
            };
            count += 1;
            bytes += frame.len();
            let Some(said) = read(&frame) else { return Err(End::new(BAD, "this is no message of y-websocket")) };
            match said {
                Said::Update(update) if self.reads_only => self.check_unchanged(update, frame[1] == STEP_2).await?,
                Said::Update(update) => updates.push(update.to_vec()),
                Said::Vector(vector) => {
                    self.edit(std::mem::take(&mut updates)).await?;
                    let lacks = self.live.encode(&self.caller, vector).await?;
                    self.send(framed(&[SYNC, STEP_2], &lacks)).await?;
                }
                Said::Awareness(states) => self.awareness.hear(states).await.map_err(End::of_fault)?,
                Said::AwarenessAsked => self.tell_awareness().await?,
                Said::Nothing => {}
            }
            if count < GATHERED_MAX.0 && bytes < GATHERED_MAX.1 {
                next = self.socket.recv().now_or_never();
            }
        }
        self.edit(updates).await
    }

    /// Refuses an edit of one who only reads. Asked on opening what it has, it answers with what it was given before; that
    /// is looked at once, for it takes some work.
    async fn check_unchanged(&mut self, update: &[u8], is_answer: bool) -> Result<(), End> {
        const NOTHING: [u8; 2] = [0, 0];
        let looks = is_answer && !std::mem::replace(&mut self.has_answered, true);
        let known = update == NOTHING || looks && self.live.holds(&self.caller, update).await?;
        if known { Ok(()) } else { Err(End::new(FORBIDDEN, "your token is for reading only: the edit was not taken")) }
    }

    /// Makes updates an op. One that came before what it builds on waits for that; it comes soon, or never.
    async fn edit(&mut self, updates: Vec<Vec<u8>>) -> Result<(), End> {
        if updates.is_empty() {
            return Ok(());
        }
        let wait = self.api.rates.charge(&self.caller);
        if !wait.is_zero() {
            self.rests = Some(Instant::now() + wait);
        }
        let updates = Arc::new(updates);
        match self.live.take(&self.caller, &updates).await {
            Ok(edition) => self.under_way.extend(edition),
            Err(Refusal::Unfit(Unfit::Early)) => {
                for update in updates.iter() {
                    let alone = Arc::new(vec![update.clone()]);
                    match self.live.take(&self.caller, &alone).await {
                        Ok(edition) => self.under_way.extend(edition),
                        Err(Refusal::Unfit(Unfit::Early)) => self.keep(alone)?,
                        Err(refusal) => return Err(refusal.into()),
                    }
                }
            }
            Err(refusal) => return Err(refusal.into()),
        }
        self.take_early().await
    }

    fn keep(&mut self, update: Arc<Vec<Vec<u8>>>) -> Result<(), End> {
        self.early_bytes += bytes_of(&update);
        self.early.push_back(update);
        if self.early.len() > EARLY_MAX.0 || self.early_bytes > EARLY_MAX.1 {
            return Err(End::new(
                BAD,
                "updates build on others that never came: connect anew, with all of the document",
            ));
        }
        self.count_early()
    }

    fn count_early(&mut self) -> Result<(), End> {
        self.early_memory.resize(self.early_bytes).map_err(|_| ws::overloaded())
    }

    async fn take_early(&mut self) -> Result<(), End> {
        let mut left = self.early.len();
        while left > 0 {
            let Some(update) = self.early.pop_front() else { break };
            left -= 1;
            match self.live.take(&self.caller, &update).await {
                Ok(edition) => {
                    self.early_bytes -= bytes_of(&update);
                    self.count_early()?;
                    self.under_way.extend(edition);
                    left = self.early.len();
                }
                Err(Refusal::Unfit(Unfit::Early)) => self.early.push_back(update),
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(())
    }

    fn on_receipt(receipt: Result<Result<Receipt, Refused>, oneshot::error::RecvError>) -> Result<(), End> {
        match receipt {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refused)) => Err(Problem::from(refused).into()),
            Err(_) => Err(End::new(close_code::AWAY, "the node has stopped")),
        }
    }

    async fn on_news(&mut self, news: News) -> Result<(), End> {
        match news {
            News::Update(update) => self.send(framed(&[SYNC, UPDATE], &update)).await,
            News::Gone => Err(End::new(GONE, "the text was deleted or replaced: reload it")),
            News::Whole => {
                let all = self.live.encode(&self.caller, &[]).await?;
                self.send(framed(&[SYNC, UPDATE], &all)).await
            }
        }
    }

    async fn tell_awareness(&mut self) -> Result<(), End> {
        match self.awareness.all() {
            Some(states) => self.send(framed(&[AWARENESS], &states)).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, frame: Vec<u8>) -> Result<(), End> {
        // What it was made from is held as long.
        self.outgoing.prepare(frame.len())?;
        self.write(Message::Binary(frame.into())).await?;
        self.outgoing.prepare(0)
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        self.outgoing.write(&message)?;
        ws::taken(&self.api, self.socket.feed(message)).await
    }
}

impl End {
    fn of_unfit(unfit: &Unfit) -> End {
        let code = match unfit {
            Unfit::TooLarge | Unfit::TooManyParts => TOO_LARGE,
            Unfit::Exhausted => TOO_COSTLY,
            Unfit::Stranger(_) => GONE,
            _ => BAD,
        };
        End::new(code, unfit.to_string())
    }
}

impl End {
    fn of_fault(fault: Fault) -> End {
        match fault {
            Fault::Malformed => End::new(BAD, "this is no message of awareness"),
            Fault::Stopped => End::new(close_code::AWAY, "the node has stopped"),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        match refusal {
            Refusal::Unfit(unfit) => End::of_unfit(&unfit),
            Refusal::Problem(problem) => problem.into(),
            Refusal::Changed(..) => End::new(GONE, "the text has changed"),
        }
    }
}

/// A problem that passes by itself lets the editor come back; others do not.
impl From<Problem> for End {
    fn from(problem: Problem) -> End {
        let code = match problem.status().as_u16() {
            401 => UNAUTHORIZED,
            403 => FORBIDDEN,
            409 if problem.is("not-a-text") => NO_TEXT,
            409 => GONE,
            413 => TOO_LARGE,
            422 => TOO_COSTLY,
            // It does not pass by itself, unlike other faults of a node.
            500 if problem.is("unreadable-text") => TOO_COSTLY,
            500.. => close_code::AGAIN,
            _ => BAD,
        };
        End::new(code, problem.detail().to_string())
    }
}

fn bytes_of(updates: &[Vec<u8>]) -> usize {
    updates.iter().map(Vec::len).sum()
}

/// Reads a frame; none if it is no message.
fn read(frame: &[u8]) -> Option<Said<'_>> {
    let Some((kind, rest)) = frame.split_first() else { return Some(Said::Nothing) };
    match *kind {
        SYNC => {
            let (step, rest) = rest.split_first()?;
            let (content, behind) = buffer(rest)?;
            match *step {
                _ if !behind.is_empty() => None,
                STEP_1 => Some(Said::Vector(content)),
                STEP_2 | UPDATE => Some(Said::Update(content)),
                _ => None,
            }
        }
        AWARENESS => buffer(rest).filter(|(_, behind)| behind.is_empty()).map(|(states, _)| Said::Awareness(states)),
        AUTH => Some(Said::Nothing),
        QUERY_AWARENESS => Some(Said::AwarenessAsked),
        _ => None,
    }
}

/// A length and so many bytes.
pub(super) fn buffer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// An unsigned LEB128 number of at most 53 bits.
pub(super) fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return (number < 1 << 53).then_some((number, &bytes[at + 1..]));
        }
    }
    None
}

pub(super) fn write_number(mut number: u64, frame: &mut Vec<u8>) {
    while number >= 0x80 {
        frame.push(number as u8 | 0x80);
        number >>= 7;
    }
    frame.push(number as u8);
}

fn framed(head: &[u8], content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(head.len() + 8 + content.len());
    frame.extend_from_slice(head);
    write_number(content.len() as u64, &mut frame);
    frame.extend_from_slice(content);
    frame
}
