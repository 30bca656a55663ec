//! Many documents at once: `POST /v1/docs/{collection}` with `application/x-ndjson`, one op a line, streamed both ways.
//!
//! The answer is made when the client takes it: each time the connection has room for more of it, lines are read from
//! the request, handed to the node in their order, and answered in their order. So a client that does not read its
//! answers is not read from, and nothing grows. Lines are independent: a bad one has its problem and the others go on.

use std::collections::VecDeque;

use axum::{
    Error,
    body::{Body, BodyDataStream, Bytes},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bytes::{Buf, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, sleep_until},
};

use super::{
    Api, BODY_BYTES_MAX, ConnectionMemory, Problem, docs, error, extract,
    headers::IDEMPOTENCY_KEY,
    media::without_mark,
    memory::{FREE_BYTES, Reservation},
    rates::Caller,
    shape::{ReceiptBody, streaming},
    steps::Fields,
};
use crate::{
    document::{check_id, json},
    node::Stopped,
    op::{Command, DocKey},
    replica::{Draft, Receipt, Refused},
};

/// Lines handed to the node and not answered yet. Enough to keep its task busy while answers travel; at this many no
/// further line is taken until the first is answered.
const FLIGHTS_MAX: usize = 256;
/// Bytes of such lines, which bounds what one client can make this node hold.
const FLIGHT_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;
/// Bytes of answers sent as one piece.
const ANSWER_BYTES: usize = 16 << 10;
/// Levels of a line: those of a document, in the object that holds it.
const LEVELS_MAX: usize = json::DEPTH_MAX + 1;

/// Answers the lines of a body as they come.
pub fn load(
    api: Api,
    collection: String,
    (caller, memory): (Caller, &ConnectionMemory),
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if IDEMPOTENCY_KEY.is_in(headers) {
        let detail = "a bulk load takes no Idempotency-Key: give every line an \"id\", and it may be sent again";
        return Err(Problem::bad_header(detail));
    }
    let held = memory.nothing();
    let answers = Body::from_stream(answers(api, collection, (caller, held), body));
    Ok((streaming("application/x-ndjson"), answers).into_response())
}

/// The answer, in pieces. Nothing happens but when the next piece is asked for.
fn answers(
    api: Api,
    collection: String,
    (caller, held): (Caller, Reservation),
    body: Body,
) -> impl Stream<Item = Result<Bytes, Error>> {
    let load = Load {
        api,
        collection,
        body: body.into_data_stream(),
        lines: Lines::default(),
        flights: VecDeque::new(),
        flight_bytes: 0,
        ended: false,
        cut_off: false,
        caller,
        held,
        crowded: false,
        rests: None,
        due: None,
    };
    stream::unfold(load, |mut load| async move {
        let answers = load.answers().await?;
        Some((Ok(answers), load))
    })
}

/// A bulk load under way.
struct Load {
    api: Api,
    collection: String,
    body: BodyDataStream,
    lines: Lines,
    /// Lines not answered yet, in their order.
    flights: VecDeque<Flight>,
    flight_bytes: usize,
    /// No further line is taken.
    ended: bool,
    /// It ended before the body did.
    cut_off: bool,
    caller: Caller,
    /// The memory of the lines that are read and not answered.
    held: Reservation,
    /// Nothing more is read until a line is answered, because the share is used up.
    crowded: bool,
    /// Until when no line is taken, because lines came faster than the client may write. They are not refused: the client
    /// cannot send slower than it is read from.
    rests: Option<Instant>,
    /// Until when the next line must be here.
    due: Option<Instant>,
}

/// A line that waits for its answer.
struct Flight {
    line: u64,
    bytes: usize,
    answer: Pending,
}

enum Pending {
    Refused(Problem),
    Issued(oneshot::Receiver<Result<Receipt, Refused>>),
}

#[derive(Serialize)]
struct Answer {
    line: u64,
    receipt: ReceiptBody,
}

impl Load {
    /// The next piece of the answer; none at the end.
    async fn answers(&mut self) -> Option<Bytes> {
        let mut answers = Vec::new();
        loop {
            self.take_lines().await;
            while answers.len() < ANSWER_BYTES
                && let Some(flight) = self.flights.front_mut()
                && let Some(answer) = flight.answer.take().now_or_never()
            {
                self.answer(&mut answers, answer);
            }
            if !answers.is_empty() {
                return Some(answers.into());
            }
            if self.ended && self.flights.is_empty() {
                if self.cut_off {
                    extract::linger(&mut self.body).await;
                }
                return None;
            }
            let reads = !self.ended && self.has_room() && self.rests.is_none();
            let due = *self.due.get_or_insert_with(|| Instant::now() + self.api.limits.body_timeout);
            let rested = self.rests.unwrap_or(due);
            tokio::select! {
                biased;
                answer = first_answer(&mut self.flights), if !self.flights.is_empty() => self.answer(&mut answers, answer),
                piece = self.body.next(), if reads => self.on_piece(piece),
                () = sleep_until(rested), if self.rests.is_some() => (self.rests, self.due) = (None, None),
                () = sleep_until(due), if reads => self.cut_off(self.lines.number + 1, too_slow(self.api.limits.body_timeout)),
                () = self.api.stop.cancelled(), if !self.ended => self.cut_off(self.lines.number + 1, Stopped.into()),
            }
        }
    }

    fn has_room(&self) -> bool {
        self.flights.len() < FLIGHTS_MAX && self.flight_bytes < FLIGHT_BYTES_MAX && !self.crowded
    }

    /// Counts what is held. Where the share is used up and no line is under way whose answer would make room, the load ends.
    fn account(&mut self) {
        let bytes = self.lines.buffer.len() + self.flight_bytes;
        let bytes = if bytes > FREE_BYTES { bytes } else { 0 };
        let refused = self.held.resize(bytes).err();
        self.crowded = refused.is_some();
        if let Some(problem) = refused.filter(|_| self.flights.is_empty() && !self.ended) {
            self.cut_off(self.lines.number + 1, problem);
        }
    }

    /// Hands in the lines that are here whole, as far as there is room for them.
    async fn take_lines(&mut self) {
        while !self.ended && self.has_room() && self.rests.is_none() {
            let (number, line) = match self.lines.next() {
                Some(Ok(line)) => line,
                Some(Err(number)) => {
                    let detail = format!("a line has at most {BODY_BYTES_MAX} bytes: the load ends here");
                    return self.cut_off(number, Problem::too_large(detail));
                }
                None => {
                    self.ended = self.lines.last;
                    return;
                }
            };
            let (length, collection) = (line.len(), self.collection.clone());
            let drafted = self.api.workers.parse(&self.caller, line, move |line| draft(collection, line)).await;
            let answer = match drafted.and_then(|drafted| drafted) {
                Err(problem) => Pending::Refused(problem),
                Ok(draft) => match self.api.node.hand_in(self.caller.client(), draft).await {
                    Ok(answer) => Pending::Issued(answer),
                    Err(stopped) => Pending::Refused(stopped.into()),
                },
            };
            self.due = None;
            let wait = self.api.rates.charge(&self.caller);
            if !wait.is_zero() {
                self.rests = Some(Instant::now() + wait);
            }
            self.flight_bytes += length;
            self.flights.push_back(Flight { line: number, bytes: length, answer });
        }
    }

    /// Takes a piece of the request's body, or its end. Where a body breaks off, its last line is no line.
    fn on_piece(&mut self, piece: Option<Result<Bytes, Error>>) {
        match piece {
            Some(Ok(piece)) => {
                self.lines.buffer.extend_from_slice(&piece);
                self.account();
            }
            Some(Err(_)) => self.ended = true,
            None => self.lines.last = true,
        }
    }

    /// Takes no further line, and says why at the place of the next.
    fn cut_off(&mut self, line: u64, problem: Problem) {
        (self.ended, self.cut_off) = (true, true);
        self.flights.push_back(Flight { line, bytes: 0, answer: Pending::Refused(problem) });
    }

    /// Writes the answer of the first line in flight.
    fn answer(&mut self, answers: &mut Vec<u8>, answer: Result<Receipt, Problem>) {
        let Some(Flight { line, bytes, .. }) = self.flights.pop_front() else { return };
        self.flight_bytes -= bytes;
        self.account();
        let text = match answer {
            Ok(receipt) => serde_json::to_string(&Answer { line, receipt: ReceiptBody::from(&receipt) }),
            Err(problem) => Ok(error::line(line, &problem).to_string()),
        };
        answers.extend_from_slice(text.expect("answers have string keys only, so they serialise").as_bytes());
        answers.push(b'\n');
    }
}

/// What a line says.
fn draft(collection: String, line: &[u8]) -> Result<Draft, Problem> {
    let line = without_mark(line);
    let mut fields = Fields::open("a line", json::parse_within(line, LEVELS_MAX)?, &["id", "value"])?;
    let id = fields.optional_text("id")?.unwrap_or_else(|| docs::new_id(&collection, None));
    check_id(&id)?;
    let value = json::write(&fields.take("value")?)?;
    let doc = DocKey::new(collection, id);
    Ok(Draft { key: None, guards: Vec::new(), commands: vec![Command::Put(doc, value.into())], present: false })
}

async fn first_answer(flights: &mut VecDeque<Flight>) -> Result<Receipt, Problem> {
    match flights.front_mut() {
        Some(flight) => flight.answer.take().await,
        None => std::future::pending().await,
    }
}

fn too_slow(within: Duration) -> Problem {
    let seconds = within.as_secs_f64();
    Problem::too_slow(format!("no line came for {seconds} s: the load ends here. Go on with another"))
}

impl Pending {
    /// Waits for the answer. It may be given up and begun again until there is one.
    async fn take(&mut self) -> Result<Receipt, Problem> {
        match self {
            Pending::Refused(problem) => Err(problem.clone()),
            Pending::Issued(answer) => Ok(answer.await.map_err(|_| Stopped)??),
        }
    }
}

/// Cuts what comes into lines, and counts them.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of a line: a long line is not looked through again for each piece.
    searched: usize,
    /// The number of the last line taken, from 1.
    number: u64,
    /// No more will come: what is left is the last line.
    last: bool,
}

impl Lines {
    /// The next line that is here whole and not empty, with its number; or the number of one that is too long.
    fn next(&mut self) -> Option<Result<(u64, Bytes), u64>> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let length = end.map_or(self.buffer.len(), |end| self.searched + end);
            if length > BODY_BYTES_MAX {
                return Some(Err(self.number + 1));
            }
            if end.is_none() && (!self.last || self.buffer.is_empty()) {
                self.searched = length;
                return None;
            }
            let line = self.buffer.split_to(length).freeze();
            self.buffer.advance(usize::from(end.is_some()));
            self.searched = 0;
            self.number += 1;
            if !line.trim_ascii().is_empty() {
                return Some(Ok((self.number, line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        api::MemoryBudget,
        node::{Node, Tcp},
        op::NodeId,
        replica::Config,
    };

    fn lines(text: &str, last: bool) -> Vec<Result<(u64, String), u64>> {
        let mut lines = Lines { buffer: text.into(), last, ..Lines::default() };
        let text = |line: Bytes| String::from_utf8_lossy(&line).into_owned();
        std::iter::from_fn(|| Some(lines.next()?.map(|(number, line)| (number, text(line))))).collect()
    }

    #[test]
    fn lines_are_counted_and_empty_ones_skipped() {
        assert_eq!(lines("a\n\r\n\nb\r\nc", false), [Ok((1, "a".into())), Ok((4, "b\r".into()))]);
        assert_eq!(lines("a\n\nb", true), [Ok((1, "a".into())), Ok((3, "b".into()))]);
        assert_eq!(lines("a\n", true), [Ok((1, "a".into()))]);
        assert_eq!(lines("", true), []);
    }

    #[test]
    fn a_line_may_be_as_long_as_its_bound_and_no_longer() {
        let longest = "x".repeat(BODY_BYTES_MAX);
        assert_eq!(lines(&format!("a\n{longest}\n"), false), [Ok((1, "a".into())), Ok((2, longest.clone()))]);
        let mut longer = Lines { buffer: format!("{longest}x").as_str().into(), ..Lines::default() };
        assert_eq!(longer.next(), Some(Err(1)), "before its end has come");
        let mut ended = Lines { buffer: format!("\n{longest}x\n").as_str().into(), ..Lines::default() };
        assert_eq!(ended.next(), Some(Err(2)));
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answers_is_not_read_from() {
        let config = Config::founder(NodeId(uuid::Uuid::new_v4()), 7);
        let api = Api::new(Node::start(config, Tcp), tokio_util::sync::CancellationToken::new());
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let endless = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>("{\"value\":1}\n")
        });
        let held = ConnectionMemory::new(MemoryBudget::default(), Caller::Other).nothing();
        let mut answers = Box::pin(answers(api, "c".into(), (Caller::Other, held), Body::from_stream(endless)));
        assert_eq!(read.load(Ordering::Relaxed), 0);
        for taken in 1..=20 {
            answers.next().await.unwrap().unwrap();
            let bound = FLIGHTS_MAX + taken * ANSWER_BYTES / "{\"line\":1}\n".len();
            assert!(read.load(Ordering::Relaxed) <= bound, "{} lines", read.load(Ordering::Relaxed));
        }
    }

    #[tokio::test]
    async fn what_is_read_and_not_answered_counts_for_its_client() {
        let config = Config::founder(NodeId(uuid::Uuid::new_v4()), 7);
        let api = Api::new(Node::start(config, Tcp), tokio_util::sync::CancellationToken::new());
        let budget = MemoryBudget::new(1 << 30, 64 << 20);
        let begin = |line: Vec<u8>| {
            let held = ConnectionMemory::new(budget.clone(), Caller::Other).nothing();
            let body = stream::iter([Ok::<_, std::convert::Infallible>(line)]).chain(stream::pending());
            Box::pin(answers(api.clone(), "c".into(), (Caller::Other, held), Body::from_stream(body)))
        };
        let unfinished = || begin(vec![b'1'; 3 << 20]);
        let (mut held, mut said) = (Vec::new(), None);
        while said.is_none() {
            let mut load = unfinished();
            said = load.next().now_or_never().flatten();
            held.push(load);
        }
        let said = String::from_utf8(said.unwrap().unwrap().to_vec()).unwrap();
        assert!(said.contains("\"line\":1,") && said.contains("problem:overloaded"), "{said}");
        assert_eq!(held.len() - 1, (64 << 20) / (3 << 20), "64 MiB");
        let answered = begin(b"{\"value\":1}\n".to_vec()).next().await.unwrap().unwrap();
        assert!(answered.starts_with(b"{\"line\":1,\"receipt\""), "small lines cost nothing");
        held.clear();
        assert!(unfinished().next().now_or_never().is_none());
    }
}
